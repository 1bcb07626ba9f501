"""The Eucalyptus dialects before the lab's strict twin, whose tables were read from the source by somebody else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("drpilot.lab.eucalyptus")

from botocore.model import ListShape, ServiceModel, Shape, StructureShape
from botocore.serialize import create_serializer

from drpilot.base.clock import Chance, ManualClock, RealClock
from drpilot.clouds.credentials import CredentialsReference
from drpilot.clouds.dialects import DIALECTS
from drpilot.clouds.loading import loader_for
from drpilot.clouds.marks import unpacked
from drpilot.clouds.session import Clients, SiteSettings
from drpilot.clouds.site import BotoSite, Ways
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError
from drpilot.lab.cloud import Cloud, Settings
from drpilot.lab.eucalyptus import services
from drpilot.lab.eucalyptus.door import answer
from drpilot.lab.eucalyptus.fields import Unbound, bind
from drpilot.lab.replies import Reply
from drpilot.lab.requests import Incoming
from drpilot.lab.wire import attach
from tests.clouds.test_marks import TAGS, _specified
from tests.grounds import key_file

VERSIONS = ("3.4", "4.4", "5")
ACCOUNT = "123456789012"
every_version = pytest.mark.parametrize("version", VERSIONS)

# The twin has a part of the operations; and one field of ModifyInstanceAttribute that the message classes of all three
# versions have (VmControl.groovy) is not in its table yet.
_TWIN_LACKS = "ec2:ModifyInstanceAttribute BlockDeviceMappings"


@contextmanager
def _twin(version: str, folder: Path, **more: Any) -> Iterator[tuple[BotoSite, Cloud]]:
    """A site of the lab in this process, behind our own door."""
    clock = ManualClock(RealClock().now())
    settings = Settings(
        name="milan", region="eucalyptus", account=ACCOUNT, dialect=f"eucalyptus-{version}",
        keys={"AKIAEXAMPLE": "example-secret"}, login=("acme", "ops", "open sesame"),
    )  # fmt: skip
    cloud = Cloud.open(folder / "cloud", settings, clock)
    (folder / "keys").mkdir()
    ours = SiteSettings(
        name="milan",
        cloud=f"eucalyptus-{version}",
        region="eucalyptus",
        account=ACCOUNT,
        endpoints={"default": "http://127.0.0.1:9"},
        credentials=CredentialsReference("file", str(key_file(folder / "keys"))),
        **more,
    )
    clients = Clients(ours, environment={}, prepare=lambda session: attach(session, cloud))
    site = BotoSite(clients, Ways(clock=clock, chance=Chance(1)))
    try:
        yield site, cloud
    finally:
        site.close()
        cloud.close()


# -- the two tables --------------------------------------------------------------------------------------


def _scalar(shape: Shape) -> Any:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    text = "x" * max(3, int(shape.metadata.get("min", 3)))
    number = {"integer": 1, "long": 1, "double": 1.0, "float": 1.0}
    return {"string": text, "boolean": True, "timestamp": moment, "blob": b"x", **number}[shape.type_name]


def _sample(shape: Shape, path: list[str], depth: int = 0) -> Any:
    """A value of the shape that holds the parameter at `path`; below `*` everything there is."""
    if isinstance(shape, ListShape):
        return [_sample(shape.member, path, depth)]
    if isinstance(shape, StructureShape) and depth < 5:
        every = not path or path[0] == "*"
        names = shape.members if every else [path[0]]
        return {name: _sample(shape.members[name], [] if every else path[1:], depth + 1) for name in names}
    return {} if isinstance(shape, StructureShape) else _scalar(shape)


@every_version
def test_what_the_door_lets_pass_the_twin_binds(version: str) -> None:
    """Every parameter of the whitelist, as it goes over the wire, is a field of the twin's operation."""
    grammar = DIALECTS[f"eucalyptus-{version}"].grammar
    assert grammar is not None
    loader = loader_for({"cloudwatch": "query"})
    compared, refused = 0, []
    for name, takes in sorted(grammar.known.items()):
        service, operation = name.split(":")
        if service in ("bootstrap", "route53", "s3"):  # not of the query kind, or under another name
            continue
        table = services.fields_of(version, service)
        if operation not in table:
            continue
        model = ServiceModel(loader.load_service_model(service, "service-2"), service)
        described = model.operation_model(operation)
        writer = create_serializer(model.metadata["protocol"], include_validation=False)
        for parameter in sorted(takes):
            given = _sample(described.input_shape, parameter.split("."))
            body = writer.serialize_to_request(given, described)["body"]
            pairs = [(key, str(value)) for key, value in body.items() if key not in ("Action", "Version")]
            try:
                bind(table, services.namespace_of(version, service), operation, pairs)
            except Unbound as error:
                refused.append(f"{name} {parameter}: {error}")
            compared += 1
    assert compared > 150
    assert [one for one in refused if not one.startswith(_TWIN_LACKS)] == []


# -- calls -----------------------------------------------------------------------------------------------


@every_version
def test_the_site_is_known_and_probed(version: str, tmp_path: Path) -> None:
    """Identity by what the version has, capabilities by what only reads, no DryRun."""
    with _twin(version, tmp_path) as (site, _):
        assert site.connect().account == ACCOUNT
        found = site.probe()
    assert found.untold == {}
    assert found.missing == {"dry-run"}


@every_version
def test_a_volume_and_its_snapshot_are_made_tagged_and_found(version: str, tmp_path: Path) -> None:
    """With a token and tags given, as an action gives them, in every version; found again by tag."""
    with _twin(version, tmp_path) as (site, cloud):
        zone = site.call("ec2", "DescribeAvailabilityZones", {})["AvailabilityZones"][0]["ZoneName"]
        given: Json = {"AvailabilityZone": zone, "Size": 1, "TagSpecifications": [_specified("volume")]}
        volume = site.call("ec2", "CreateVolume", given, token="t" * 32)["VolumeId"]
        for _ in range(50):
            cloud.clock.sleep(1.0)
            cloud.tick()
        taken = {"VolumeId": volume, "TagSpecifications": [_specified("snapshot")]}
        snapshot = site.call("ec2", "CreateSnapshot", taken)["SnapshotId"]
        by_tag = [{"Name": "tag:drpilot:run", "Values": [TAGS["drpilot:run"]]}]
        volumes = [
            one
            for page in site.pages("ec2", "DescribeVolumes", {"Filters": by_tag})
            for one in page["Volumes"]
        ]
        pages = site.pages("ec2", "DescribeSnapshots", {"Filters": by_tag, "OwnerIds": ["self"]})
        snapshots = [one for page in pages for one in page["Snapshots"]]
    assert [one["VolumeId"] for one in volumes] == [volume]
    assert [one["SnapshotId"] for one in snapshots] == [snapshot]
    assert {tag["Key"]: tag["Value"] for tag in snapshots[0]["Tags"]} == TAGS


@pytest.mark.parametrize("version", ["3.4", "4.4"])
def test_a_death_before_the_tags_loses_nothing(version: str, tmp_path: Path) -> None:
    """CreateTags never went out: the snapshot is still found by run and step, by its description alone."""
    with _twin(version, tmp_path) as (site, cloud):
        zone = site.call("ec2", "DescribeAvailabilityZones", {})["AvailabilityZones"][0]["ZoneName"]
        volume = site.call("ec2", "CreateVolume", {"AvailabilityZone": zone, "Size": 1})["VolumeId"]
        for _ in range(50):
            cloud.clock.sleep(1.0)
            cloud.tick()

        def dies(name: str, service: str, operation: str, phase: str) -> None:
            if (operation, phase) == ("CreateTags", "before"):
                raise KeyboardInterrupt

        site._ways = Ways(clock=cloud.clock, chance=Chance(1), observer=dies)
        with pytest.raises(KeyboardInterrupt):
            site.call(
                "ec2", "CreateSnapshot", {"VolumeId": volume, "TagSpecifications": [_specified("snapshot")]}
            )
        filters = [{"Name": f"tag:{key}", "Values": [TAGS[key]]} for key in ("drpilot:run", "drpilot:step")]
        pages = site.pages("ec2", "DescribeSnapshots", {"Filters": filters, "OwnerIds": ["self"]})
        (found,) = [one for page in pages for one in page["Snapshots"]]
    assert unpacked(found["Description"]) == TAGS
    assert {tag["Key"]: tag["Value"] for tag in found["Tags"]} == TAGS


@pytest.mark.parametrize("version", ["4.4", "5"])
def test_the_cloud_s_stub_is_noticed_even_where_the_door_would_ask(version: str, tmp_path: Path) -> None:
    """With the refusal taken away a stub's 200 is still no success: it holds no id."""
    from dataclasses import replace

    from drpilot.clouds.grammar import Grammar

    with _twin(version, tmp_path) as (site, _):
        assert site.dialect.grammar is not None
        asked = Grammar.of("ec2", "CopySnapshot SourceRegion SourceSnapshotId Description")
        site.dialect = replace(
            site.dialect, grammar=site.dialect.grammar | asked, replies={"ec2:CopySnapshot": "SnapshotId"}
        )
        with pytest.raises(CloudError) as caught:
            site.call("ec2", "CopySnapshot", {"SourceRegion": "r", "SourceSnapshotId": "snap-1"})
    assert (caught.value.code, caught.value.happened) == ("EmptyReply", "no")


@every_version
def test_objects_go_there_and_come_back(version: str, tmp_path: Path) -> None:
    """Path-style, the version's own signature, no checksum of today: a bucket, an object, a listing."""
    with _twin(version, tmp_path) as (site, _):
        site.call("s3", "CreateBucket", {"Bucket": "images"})
        site.call(
            "s3",
            "PutObject",
            {"Bucket": "images", "Key": "a b+c", "Body": b"x" * 1000, "ACL": "aws-exec-read"},
        )
        assert site.call("s3", "GetObject", {"Bucket": "images", "Key": "a b+c"})["Body"] == b"x" * 1000
        (listed,) = site.call("s3", "ListObjects", {"Bucket": "images"})["Contents"]
    assert (listed["Key"], listed["Size"]) == ("a b+c", 1000)


def _asked(cloud: Cloud, method: str, url: str, body: bytes = b"") -> Reply:
    parts = urlsplit(url)
    headers = {"host": parts.netloc, "content-length": str(len(body))}
    return answer(cloud, Incoming(method, parts.path, parts.query, headers, body))


@every_version
def test_a_url_opens_one_object_for_one_kind_of_call(version: str, tmp_path: Path) -> None:
    """PUT, HEAD, GET and DELETE by URL alone, signed as every version takes it; another verb, another key, another
    signature or a later hour is refused, and what was refused changed nothing.
    """
    with _twin(version, tmp_path) as (site, cloud):
        site.call("s3", "CreateBucket", {"Bucket": "stage"})
        names = ("PutObject", "HeadObject", "GetObject", "DeleteObject")
        given = {"Bucket": "stage", "Key": "a b+c/000001"}
        put, head, get, delete = (site.presigned(f"s3:{name}", given, 600) for name in names)
        assert "X-Amz-Signature=" not in put
        assert "/services/" in put
        assert _asked(cloud, "HEAD", head).status == 404
        written = _asked(cloud, "PUT", put, b"part")
        assert (written.status, written.headers["ETag"]) == (200, f'"{hashlib.md5(b"part").hexdigest()}"')
        assert _asked(cloud, "HEAD", head).headers["ETag"] == written.headers["ETag"]
        assert _asked(cloud, "GET", get).body == b"part"
        signature = re.search(r"Signature=([^&]+)", put)
        assert signature is not None
        wrong = [
            ("GET", put, b""),
            ("PUT", get, b"other"),
            ("DELETE", get, b""),
            ("PUT", put.replace("000001", "000002"), b"other"),
            ("PUT", put.replace(signature[1], signature[1][::-1]), b"other"),
        ]
        assert [_asked(cloud, *each).status for each in wrong] == [403] * len(wrong)
        assert site.call("s3", "GetObject", given)["Body"] == b"part"
        cloud.clock.advance(3600)
        late = [("PUT", put, b"other"), ("HEAD", head, b""), ("GET", get, b""), ("DELETE", delete, b"")]
        assert [_asked(cloud, *each).status for each in late] == [403] * len(late)
        cloud.clock.advance(-3600)
        assert _asked(cloud, "GET", get).body == b"part"
        assert _asked(cloud, "DELETE", delete).status == 204
        assert site.call("s3", "ListObjects", {"Bucket": "stage"}).get("Contents") is None


@pytest.mark.parametrize("version", ["4.4", "5"])
def test_the_bundling_certificate_is_read(version: str, tmp_path: Path) -> None:
    """DescribeServiceCertificates of the bootstrap service gives the cloud's certificate for bundles."""
    with _twin(version, tmp_path) as (site, _):
        asked = {"Format": "pem", "FingerprintDigest": "SHA-256"}
        given = site.call("bootstrap", "DescribeServiceCertificates", asked)["ServiceCertificates"]
    usable = [one for one in given if one["CertificateUsage"] == "image-bundling"]
    assert len(usable) == 1
    assert usable[0]["Certificate"].startswith("-----BEGIN CERTIFICATE")


@every_version
def test_alarms_and_balancers_answer(version: str, tmp_path: Path) -> None:
    """CloudWatch speaks Query there, balancing is classic."""
    with _twin(version, tmp_path) as (site, _):
        assert site.call("cloudwatch", "DescribeAlarms", {}).get("MetricAlarms") in ([], None)
        assert site.call("elb", "DescribeLoadBalancers", {})["LoadBalancerDescriptions"] == []
        assert site.call("autoscaling", "DescribeLaunchConfigurations", {})["LaunchConfigurations"] == []


@every_version
def test_a_signature_of_strange_characters_is_refused_and_breaks_nothing(
    version: str, tmp_path: Path
) -> None:
    """What can't be a signature, such as bytes that are no ASCII, is 403 like any other wrong one."""
    with _twin(version, tmp_path) as (site, cloud):
        site.call("s3", "CreateBucket", {"Bucket": "stage"})
        url = site.presigned("s3:PutObject", {"Bucket": "stage", "Key": "k"}, 600)
        strange = re.sub(r"Signature=[^&]+", "Signature=%C3%A4%FF%00", url)
        assert _asked(cloud, "PUT", strange, b"part").status == 403
