"""The Eucalyptus dialects: what goes out to a strict cloud, what is refused before, what is not believed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import botocore.session
import pytest
from botocore.model import ServiceModel, StructureShape

from drpilot.clouds.dialects import DIALECTS
from drpilot.clouds.failures import NoEndpoint
from drpilot.clouds.session import Clients, CredentialsReference, SiteSettings
from drpilot.clouds.site import BotoSite
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, FailureClass
from drpilot.inventory.configuration import CLOUDS
from tests.clouds.strict import ACCOUNT, Strict, form, opened, strict
from tests.clouds.used import used
from tests.grounds import Heard, answering, response

LOADER = botocore.session.Session().get_component("data_loader")
EUCALYPTUS = [name for name in DIALECTS if name.startswith("eucalyptus")]
every_version = pytest.mark.parametrize("cloud", EUCALYPTUS)


# -- the tables ------------------------------------------------------------------------------------------


def _parameters(shape: StructureShape | None, seen: tuple[str, ...] = ()) -> set[str]:
    found: set[str] = set()
    for name, member in (shape.members if shape is not None else {}).items():
        inner = member
        while inner.type_name == "list":
            inner = inner.member
        found.add(name)
        if inner.type_name in ("structure", "map"):
            found.add(f"{name}.*")
        if isinstance(inner, StructureShape) and inner.name not in seen:
            found |= {f"{name}.{one}" for one in _parameters(inner, (*seen, inner.name))}
    return found


def _own_models(name: str) -> bool:
    return name.startswith("bootstrap:")


@every_version
def test_the_tables_name_what_exists(cloud: str) -> None:
    """Each operation and parameter of a table is one of botocore's, so that none is a dead letter."""
    grammar = DIALECTS[cloud].grammar
    assert grammar is not None
    models: dict[str, ServiceModel] = {}
    wrong = []
    for name, takes in sorted(grammar.known.items()):
        service, operation = name.split(":")
        if _own_models(name):
            continue
        model = models.setdefault(
            service, ServiceModel(LOADER.load_service_model(service, "service-2"), service)
        )
        if operation not in model.operation_names:
            wrong.append(name)
            continue
        known = _parameters(model.operation_model(operation).input_shape)
        wrong += [f"{name} {one}" for one in takes if one not in known]
    assert wrong == []


@every_version
def test_the_tables_agree_with_each_other(cloud: str) -> None:
    """Nothing is known and lacking at once; replies, marks, pages and probes are of known operations."""
    dialect = DIALECTS[cloud]
    assert dialect.grammar is not None
    known = dialect.grammar.known
    assert not set(known) & set(dialect.grammar.lacking)
    assert {name.split(":")[0] for name in known} == dialect.services
    assert {f"{probe.service}:{probe.operation}" for probe in dialect.probes} <= set(known)
    assert set(dialect.page_sizes) <= set(known)
    assert all(
        dialect.grammar.takes(name, "MaxResults") or "autoscaling" in name for name in dialect.page_sizes
    )
    assert (dialect.tokens or set()) <= set(known)
    for name in dialect.tokens or ():
        assert dialect.grammar.takes(name, "ClientToken"), name


@every_version
def test_what_makes_something_must_answer_with_its_id(cloud: str) -> None:
    """Every known operation that creates, registers, imports or runs has an id to wait for."""
    dialect = DIALECTS[cloud]
    assert dialect.grammar is not None
    silent = {
        "autoscaling:CreateAutoScalingGroup",  # known by its name
        "autoscaling:CreateLaunchConfiguration",
        "autoscaling:CreateOrUpdateTags",
        "ec2:CreateRoute",
        "ec2:CreateTags",
        "elb:CreateLoadBalancerListeners",
        "route53:CreateHostedZone",
        "s3:CreateBucket",
    }
    making = {
        name
        for name in dialect.grammar.known
        if re.match(r"(Create|Register|Import|Run|Allocate|Upload|Bundle)", name.split(":")[1])
        and not name.startswith("elb:RegisterInstances")
    }
    assert making - silent <= set(dialect.replies)


def test_the_configuration_knows_every_dialect() -> None:
    """`cloud` in drpilot.yaml and the dialects are one list."""
    assert set(CLOUDS) == set(DIALECTS)


@every_version
def test_no_operation_takes_a_dry_run(cloud: str) -> None:
    """A lenient site drops DryRun and carries the call out: no table knows it, and no call of ours asks."""
    dialect = DIALECTS[cloud]
    assert dialect.grammar is not None
    assert "dry-run" not in dialect.capabilities
    for name in dialect.grammar.known:
        service, operation = name.split(":")
        refused = dialect.refusal(service, operation, {"DryRun": True})
        assert refused is not None and refused[0] == "UnknownParameter", name


@every_version
def test_everything_an_action_calls_is_known_or_declared_missing(cloud: str) -> None:
    """No action meets an operation that nobody has thought about for this version."""
    grammar = DIALECTS[cloud].grammar
    assert grammar is not None
    called = used()
    assert {
        "ec2:CreateSnapshots",
        "ec2:RunInstances",
        "elbv2:CreateListener",
        "ec2:RevokeSecurityGroupEgress",
    } <= called
    assert sorted(name for name in called if name not in grammar.known and name not in grammar.lacking) == []


# -- what goes out ---------------------------------------------------------------------------------------


@every_version
def test_no_token_but_where_it_is_known(cloud: str, tmp_path: Path) -> None:
    """CreateVolume has none in any version, RunInstances has one in all: the strict cloud accepts both."""
    with strict(cloud, tmp_path) as (site, cloudside):
        given = {"AvailabilityZone": "eu-cluster-1a", "Size": 1, "SnapshotId": "snap-1A2B3C4D"}
        assert site.call("ec2", "CreateVolume", given, token="t-1")["VolumeId"] == "vol-5A6B7C8D"
        run = {"ImageId": "emi-15A1386E", "MinCount": 1, "MaxCount": 1}
        site.call("ec2", "RunInstances", run, token="t-2")
        (volume,), (machine,) = cloudside.asked("CreateVolume"), cloudside.asked("RunInstances")
    assert "ClientToken" not in volume
    assert machine["ClientToken"] == "t-2"


@every_version
def test_an_unknown_parameter_is_refused_before_it_is_sent(cloud: str, tmp_path: Path) -> None:
    """Never dropped, never sent: the caller learns which one, and nothing happened."""
    with strict(cloud, tmp_path) as (site, cloudside):
        with pytest.raises(CloudError) as caught:
            site.call(
                "ec2",
                "CreateVolume",
                {"AvailabilityZone": "a", "Size": 1, "Throughput": 125, "MultiAttachEnabled": True},
            )
        assert cloudside.calls == []
    error = caught.value
    assert (error.kind, error.code, error.happened) == (FailureClass.INVALID, "UnknownParameter", "no")
    assert "Throughput, MultiAttachEnabled of ec2:CreateVolume" in error.message


def test_a_parameter_deep_inside_is_refused_too(tmp_path: Path) -> None:
    """The throughput of a mapping is as unknown as that of a volume."""
    with strict("eucalyptus-4.4", tmp_path) as (site, cloudside):
        mapping = {"DeviceName": "/dev/sda", "Ebs": {"SnapshotId": "snap-1", "Throughput": 125}}
        with pytest.raises(CloudError) as caught:
            site.call("ec2", "RegisterImage", {"Name": "image", "BlockDeviceMappings": [mapping]})
        assert cloudside.calls == []
    assert "BlockDeviceMappings.Ebs.Throughput" in caught.value.message


@pytest.mark.parametrize("deep", [False, True])
def test_the_strict_cloud_would_refuse_it(tmp_path: Path, deep: bool) -> None:
    """What the door lets pass is what the cloud understands: the same call by a dialect without tables fails."""
    with strict("eucalyptus-4.4", tmp_path) as (site, _):
        blind = replace(site.dialect, grammar=None)
        lenient = BotoSite(Clients(site.settings, environment={}, dialect=blind))
        ebs = {"SnapshotId": "s", "Encrypted": True, "Throughput": 125}
        mapping = {"BlockDeviceMappings": [{"DeviceName": "/dev/sda", "Ebs": ebs}]}
        with pytest.raises(CloudError) as caught:
            lenient.call(
                "ec2", "RegisterImage", {"Name": "image", **(mapping if deep else {"EnaSupport": True})}
            )
    assert "Failed to bind the following fields" in caught.value.message
    assert (caught.value.code, caught.value.happened) == ("UnknownParameter", "no")


@pytest.mark.parametrize(
    ("cloud", "operations"),
    [
        (
            "eucalyptus-3.4",
            "CopyImage CopySnapshot ImportVolume CreateVpc CreateSnapshots CreateLaunchTemplate",
        ),
        ("eucalyptus-4.4", "CopyImage CopySnapshot ImportSnapshot ImportImage ModifyVolume CreateFlowLogs"),
        ("eucalyptus-5", "CopyImage CopySnapshot ImportImage ModifyVolume CreateLaunchTemplateVersion"),
    ],
)
def test_stubs_and_strangers_are_refused_by_the_door(cloud: str, operations: str, tmp_path: Path) -> None:
    """A stub would answer 200 and do nothing: it is never asked, and the refusal says why."""
    with strict(cloud, tmp_path) as (site, cloudside):
        for operation in operations.split():
            with pytest.raises(CloudError) as caught:
                site.call("ec2", operation, {})
            error = caught.value
            assert (error.kind, error.code, error.happened) == (
                FailureClass.PRECONDITION,
                "Unsupported",
                "no",
            )
        with pytest.raises(CloudError, match="has no elbv2:CreateListener"):
            site.call("elbv2", "CreateListener", {})
        assert cloudside.calls == []


@pytest.mark.parametrize(
    ("operation", "given"),
    [
        ("CreateVolume", {"AvailabilityZone": "a", "Size": 1}),
        ("CreateSnapshot", {"VolumeId": "vol-1"}),
        ("RegisterImage", {"Name": "image"}),
        ("RunInstances", {"ImageId": "emi-1", "MinCount": 1, "MaxCount": 1}),
        (
            "ImportVolume",
            {
                "AvailabilityZone": "a",
                "Image": {"Format": "RAW", "Bytes": 1, "ImportManifestUrl": "u"},
                "Volume": {"Size": 1},
            },
        ),
    ],
)
def test_an_answer_without_the_id_is_no_success(operation: str, given: Json, tmp_path: Path) -> None:
    """200 and nothing in it: nothing happened, at once, in so many words."""
    with strict("eucalyptus-4.4", tmp_path, {operation: "<requestId>r</requestId>"}) as (site, cloudside):
        with pytest.raises(CloudError) as caught:
            site.call("ec2", operation, given)
        assert len(cloudside.calls) == 1
    error = caught.value
    assert (error.kind, error.code, error.happened) == (FailureClass.REJECTED, "EmptyReply", "no")


def test_3_4_pages_nothing(tmp_path: Path) -> None:
    """MaxResults came with 4.x; images are listed whole everywhere."""
    with strict("eucalyptus-3.4", tmp_path) as (site, cloudside):
        for operation in ("DescribeVolumes", "DescribeSnapshots", "DescribeInstances", "DescribeImages"):
            list(site.pages("ec2", operation, {}))
        assert all(given == {} for _, given in cloudside.calls)


@pytest.mark.parametrize("cloud", ["eucalyptus-4.4", "eucalyptus-5"])
def test_later_versions_page_what_they_can(cloud: str, tmp_path: Path) -> None:
    """Volumes, snapshots and instances by page; never images."""
    with strict(cloud, tmp_path) as (site, cloudside):
        for operation in ("DescribeVolumes", "DescribeSnapshots", "DescribeInstances", "DescribeImages"):
            list(site.pages("ec2", operation, {}))
        assert [given.get("MaxResults") for _, given in cloudside.calls] == ["500", "500", "500", None]


# -- who and what ----------------------------------------------------------------------------------------


@every_version
def test_the_account_is_known_in_every_version(cloud: str, tmp_path: Path) -> None:
    """STS tells it from 4.4 on; before, the owner of the group `default` does, in the same form."""
    with strict(cloud, tmp_path) as (site, cloudside):
        assert site.connect().account == ACCOUNT
        assert site.call("sts", "GetCallerIdentity", {})["Account"] == ACCOUNT
        actions = {action for action, _ in cloudside.calls}
    assert actions == ({"DescribeSecurityGroups"} if cloud == "eucalyptus-3.4" else {"GetCallerIdentity"})


@every_version
def test_another_account_is_refused(cloud: str, tmp_path: Path) -> None:
    """The pin holds where STS can't tell the account, too."""
    with answering(Strict(cloud)) as server:
        site = opened(cloud, server, tmp_path, account="999999999999")
        with pytest.raises(CloudError) as caught:
            site.call("ec2", "DescribeRegions", {})
    assert caught.value.code == "WrongAccount"


def test_owners_that_differ_tell_no_account(tmp_path: Path) -> None:
    """An administrator who sees everybody's groups is not guessed to be one of them."""
    two = "".join(f"<item><ownerId>{one}</ownerId></item>" for one in ("000000000001", "000000000002"))
    with (
        strict(
            "eucalyptus-3.4",
            tmp_path,
            {"DescribeSecurityGroups": f"<securityGroupInfo>{two}</securityGroupInfo>"},
        ) as (site, _),
        pytest.raises(CloudError) as caught,
    ):
        site.call("sts", "GetCallerIdentity", {})
    assert caught.value.code == "NoIdentity"


@every_version
def test_probing_asks_only_what_reads(cloud: str, tmp_path: Path) -> None:
    """No stub, no DryRun, no change: a classic cloud shows itself as one, an unknown service as missing."""
    with strict(cloud, tmp_path) as (site, cloudside):
        found = site.probe()
        assert not any(site.dialect.changes("ec2", action) for action, _ in cloudside.calls if action)
        assert not any("DryRun" in given for _, given in cloudside.calls)
    assert {"vpc", "dry-run"} <= found.missing | ({"vpc"} if cloud == "eucalyptus-3.4" else set())
    assert "vpc" not in site.capabilities
    assert "dry-run" not in site.capabilities


# -- the client ------------------------------------------------------------------------------------------


def _paths(cloud: str, calls: list[tuple[str, str, Json]], tmp_path: Path, **more: object) -> list[Heard]:
    def script(heard: Heard, _: int) -> bytes:
        action = form(heard).get("Action", "")
        return response(f"<X><{action}Result/></X>" if action else "")

    with answering(script) as server:
        site = opened(cloud, server, tmp_path, **more)
        for service, operation, given in calls:
            site.call(service, operation, given)
        heard = list(server.heard)
        site.close()
    return heard


CALLS: list[tuple[str, str, Json]] = [
    ("ec2", "DescribeRegions", {}),
    ("iam", "GetUser", {}),
    ("elb", "DescribeLoadBalancers", {}),
    ("autoscaling", "DescribeAutoScalingGroups", {}),
    ("cloudwatch", "DescribeAlarms", {}),
    ("s3", "GetObject", {"Bucket": "images", "Key": "a/b.manifest.xml"}),
]


@pytest.mark.parametrize(
    ("cloud", "ec2", "s3"),
    [
        ("eucalyptus-3.4", "/services/Eucalyptus", "/services/Walrus"),
        ("eucalyptus-4.4", "/services/compute", "/services/objectstorage"),
        ("eucalyptus-5", "/services/compute", "/services/objectstorage"),
    ],
)
def test_each_service_has_its_path_below_the_one_front_end(
    cloud: str, ec2: str, s3: str, tmp_path: Path
) -> None:
    """`default: https://HOST:8773` is enough; buckets stand in the path; every call has a signature."""
    heard = _paths(cloud, CALLS, tmp_path)
    assert [one.path.split("?")[0].rstrip("/") for one in heard] == [
        ec2,
        "/services/Euare",
        "/services/LoadBalancing",
        "/services/AutoScaling",
        "/services/CloudWatch",
        f"{s3}/images/a/b.manifest.xml",
    ]
    assert all("authorization" in one.headers for one in heard)
    assert all(b"Action=" in one.body for one in heard[:5])  # Query, CloudWatch too: no JSON, no CBOR
    assert all("/eucalyptus/" in one.headers["authorization"] for one in heard[:5])


@pytest.mark.parametrize(
    ("cloud", "begins"), [("eucalyptus-3.4", "AWS AKIAEXAMPLE:"), ("eucalyptus-4.4", "AWS4-HMAC-SHA256")]
)
def test_objects_are_signed_as_the_version_reads_it(cloud: str, begins: str, tmp_path: Path) -> None:
    """Walrus 3.4 reads SigV2 alone; a body goes out plain, with no checksum it does not know."""
    given = {"Bucket": "images", "Key": "k", "Body": b"x" * 100, "ACL": "aws-exec-read"}
    with answering(
        lambda heard, number: response("", 200).replace(b"\r\n\r\n", b'\r\nETag: "e"\r\n\r\n', 1)
    ) as server:
        site = opened(cloud, server, tmp_path)
        site.call("s3", "PutObject", given)
        (heard,) = server.heard
    assert heard.headers["authorization"].startswith(begins)
    assert heard.body == b"x" * 100
    assert heard.headers["x-amz-acl"] == "aws-exec-read"
    assert not [name for name in heard.headers if "checksum" in name or name == "transfer-encoding"]
    assert "STREAMING" not in heard.headers.get("x-amz-content-sha256", "")


def test_a_signature_can_be_said_to_be_newer(tmp_path: Path) -> None:
    """`s3-force-sigv4` of an ini file goes before the version's own."""
    heard = _paths("eucalyptus-3.4", CALLS[-1:], tmp_path, signatures={"s3": "s3v4"})
    assert heard[0].headers["authorization"].startswith("AWS4-HMAC-SHA256")


def test_the_conditional_write_of_a_witness_is_refused(tmp_path: Path) -> None:
    """A store that ignores If-Match would let two controllers win: the parameter is not sent at all."""
    with strict("eucalyptus-5", tmp_path) as (site, cloudside):
        with pytest.raises(CloudError) as caught:
            site.call("s3", "PutObject", {"Bucket": "w", "Key": "k", "Body": b"x", "IfMatch": '"e"'})
        assert cloudside.calls == []
    assert "IfMatch" in caught.value.message


@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "ListObjectsV2", "DeleteObjects"])
def test_3_4_has_no_multipart_and_no_second_listing(operation: str, tmp_path: Path) -> None:
    """Objects are put whole and listed by V1."""
    with strict("eucalyptus-3.4", tmp_path) as (site, _), pytest.raises(CloudError) as caught:
        site.call("s3", operation, {"Bucket": "b", "Key": "k"})
    assert caught.value.code == "Unsupported"


@pytest.mark.parametrize(
    ("cloud", "default", "service", "url"),
    [
        ("eucalyptus-4.4", "https://{service}.c.example.org:8773", "ec2", "https://ec2.c.example.org:8773"),
        (
            "eucalyptus-4.4",
            "https://{service}.c.example.org:8773",
            "elb",
            "https://elasticloadbalancing.c.example.org:8773",
        ),
        ("eucalyptus-5", "https://{service}.c.example.org", "cloudwatch", "https://monitoring.c.example.org"),
        ("eucalyptus-4.4", "https://clc:8773/", "s3", "https://clc:8773/services/objectstorage"),
        ("eucalyptus-4.4", "https://clc:8773/proxy", "s3", "https://clc:8773/proxy"),
        ("eucalyptus-5", "https://clc:8773", "route53", "https://clc:8773/services/Route53"),
    ],
)
def test_endpoints_by_path_and_by_name(
    cloud: str, default: str, service: str, url: str, tmp_path: Path
) -> None:
    """One line of configuration gives the endpoint of every service in both forms."""
    keys = CredentialsReference("env", "NONE")
    settings = SiteSettings("m", cloud, "eucalyptus", endpoints={"default": default}, credentials=keys)
    assert Clients(settings, environment={}).url(service) == url


def test_3_4_has_no_names_in_dns(tmp_path: Path) -> None:
    """The DNS form came with 4.x; the error says so."""
    keys = CredentialsReference("file", "none")
    settings = SiteSettings(
        "m", "eucalyptus-3.4", "e", endpoints={"default": "https://{service}.c"}, credentials=keys
    )
    with pytest.raises(NoEndpoint, match="DNS name"):
        Clients(settings, environment={}).url("ec2")


def test_the_cloud_tells_its_services_and_its_certificate(tmp_path: Path) -> None:
    """The bootstrap service is Eucalyptus's own: the same door, signature and error kinds as every other."""
    services = (
        "<serviceStatuses><item><serviceId><type>compute</type><name>API_10.1.1.1</name>"
        "<uri>https://clc:8773/services/compute</uri></serviceId><localState>ENABLED</localState></item></serviceStatuses>"
    )
    certificates = (
        "<serviceCertificates><item><serviceType>compute</serviceType><certificateUsage>image-bundling"
        "</certificateUsage><certificate>-----BEGIN</certificate></item></serviceCertificates>"
    )

    def script(heard: Heard, _: int) -> bytes:
        return response(f"<X>{certificates if b'Certificates' in heard.body else services}</X>")

    with answering(script) as server:
        site = opened("eucalyptus-4.4", server, tmp_path)
        (found,) = site.call("bootstrap", "DescribeServices", {"ListAll": True})["ServiceStatuses"]
        asked = {"Format": "pem", "FingerprintDigest": "SHA-256"}
        (given,) = site.call("bootstrap", "DescribeServiceCertificates", asked)["ServiceCertificates"]
        first = server.heard[0]
    assert (found["ServiceId"]["Uri"], found["LocalState"]) == (
        "https://clc:8773/services/compute",
        "ENABLED",
    )
    assert (given["CertificateUsage"], given["Certificate"]) == ("image-bundling", "-----BEGIN")
    assert first.path.startswith("/services/Empyrean")
    assert b"Version=eucalyptus" in first.body
    assert first.headers["authorization"].startswith("AWS4-HMAC-SHA256")
