"""The Eucalyptus twin refuses what such a cloud refuses, in its own words, and does nothing where it does nothing."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError

from drpilot.lab.eucalyptus import compute, door
from drpilot.lab.registry import handler_of
from drpilot.lab.requests import Incoming
from tests.lab.euca_world import ACCOUNT, KEY, SECRET, VERSIONS, Twin, euca_client, refused

_UNBOUND = "Failed to bind the following fields:\n"
_UNMAPPED = "Failed to find corresponding class mapping for element:"


@pytest.fixture(params=VERSIONS)
def twin(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Twin]:
    made = Twin(tmp_path, str(request.param))
    yield made
    made.close()


@pytest.fixture
def modern(tmp_path: Path) -> Iterator[Twin]:
    """A 4.4 with VPCs."""
    made = Twin(tmp_path)
    yield made
    made.close()


def _raw(twin: Twin, body: str, service: str = "ec2") -> door.Reply:
    """The answer to a form as it is, signed with version 4."""
    from botocore.auth import SigV4Auth
    from botocore.credentials import Credentials

    from drpilot.lab.eucalyptus.services import endpoints_of

    url = endpoints_of(twin.version, "http://127.0.0.1:9")[service]
    request = AWSRequest("POST", url, data=body, headers={"Host": "127.0.0.1:9"})
    SigV4Auth(Credentials(KEY, SECRET), service, "anywhere").add_auth(request)
    headers = {name.lower(): str(value) for name, value in request.headers.items()}
    return door.answer(twin.cloud, Incoming("POST", urlsplit(url).path, "", headers, body.encode()))


def test_the_token_that_boto3_fills_in_is_refused(twin: Twin) -> None:
    """CreateVolume with a ClientToken fails on every version and makes nothing; without it, it works."""
    body = "Action=CreateVolume&Version=2016-11-15&Size=1&AvailabilityZone=cluster01&ClientToken=t-1"
    reply = _raw(twin, body)
    assert (reply.status, reply.headers["Content-Type"]) == (400, "text/plain; charset=UTF-8")
    assert (
        b"<Code>400 Bad Request</Code><Message>Failed to bind the following fields:\nClientToken = t-1\n"
        in (reply.body)
    )
    ec2 = twin.client()
    assert ec2.describe_volumes()["Volumes"] == []
    made = ec2.create_volume(Size=1, AvailabilityZone="cluster01")
    assert [row["VolumeId"] for row in ec2.describe_volumes()["Volumes"]] == [made["VolumeId"]]
    assert made["VolumeType"] == "standard"


def test_dry_run_is_an_unknown_field(twin: Twin) -> None:
    """DryRun is refused with the real message: it neither tries nor executes anything."""
    ec2 = twin.client()
    volume = ec2.create_volume(Size=1, AvailabilityZone="cluster01")["VolumeId"]
    twin.wait(2)
    assert refused(ec2.delete_volume, VolumeId=volume, DryRun=True) == (
        400,
        "400 Bad Request",
        f"{_UNBOUND}DryRun = true\n",
    )
    assert ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["State"] == "available"


def test_every_unknown_field_is_named(modern: Twin) -> None:
    """All fields that can't be bound are in the message, those inside lists too."""
    where = modern.ground()
    _, _, message = refused(
        modern.client().run_instances,
        ImageId="emi-00000000",
        MinCount=1,
        MaxCount=1,
        SubnetId=where["subnet"],
        MetadataOptions={"HttpTokens": "required"},
        BlockDeviceMappings=[{"DeviceName": "/dev/sdb", "Ebs": {"VolumeSize": 1, "Throughput": 125}}],
    )
    assert set(message.removeprefix(_UNBOUND).splitlines()) == {
        "MetadataOptions.HttpTokens = required",
        "BlockDeviceMapping.1.Ebs.Throughput = 125",
    }


def test_an_unknown_operation_is_refused_as_that_cloud_does(twin: Twin) -> None:
    """No message class, no binding: the fault names the operation and the version's namespace."""
    year = {"3.4": "2013_08_15", "4.4": "2016_09_15", "5": "2016_11_15"}[twin.version]
    assert refused(twin.client().describe_transit_gateways) == (
        400,
        "400 Bad Request",
        f"{_UNMAPPED} DescribeTransitGateways in namespace: ec2_amazonaws_com_doc_{year}",
    )
    assert refused(twin.client("sts").assume_role, RoleArn="a" * 20, RoleSessionName="me")[0] == 400


def test_paging_only_where_the_version_has_it(twin: Twin) -> None:
    """3.4 pages no listing but the status of instances; 4.4 and 5 page volumes, and images nowhere."""
    ec2 = twin.client()
    for _ in range(6):
        ec2.create_volume(Size=1, AvailabilityZone="cluster01")
    if twin.version == "3.4":
        assert refused(ec2.describe_volumes, MaxResults=5)[2] == f"{_UNBOUND}MaxResults = 5\n"
    else:
        page = ec2.describe_volumes(MaxResults=5)
        rest = ec2.describe_volumes(NextToken=page["NextToken"])
        assert (len(page["Volumes"]), len(rest["Volumes"])) == (5, 1)
    assert refused(ec2.describe_images, MaxResults=5)[2] == f"{_UNBOUND}MaxResults = 5\n"
    assert ec2.describe_instance_status(MaxResults=5)["InstanceStatuses"] == []


def test_tags_in_a_creating_call_only_in_5_and_on_three_operations(twin: Twin) -> None:
    """TagSpecifications are bound by CreateVolume in 5, refused before it, and refused on CreateVpc everywhere."""
    ec2, tag = twin.client(), {"Key": "app", "Value": "shop"}
    given = {"Size": 1, "AvailabilityZone": "cluster01"}
    spec = [{"ResourceType": "volume", "Tags": [tag]}]
    if twin.version == "5":
        made = ec2.create_volume(**given, TagSpecifications=spec)["VolumeId"]
    else:
        assert (
            "TagSpecification.1.ResourceType = volume"
            in refused(ec2.create_volume, **given, TagSpecifications=spec)[2]
        )
        made = ec2.create_volume(**given)["VolumeId"]
        ec2.create_tags(Resources=[made], Tags=[tag])
    assert ec2.describe_volumes(VolumeIds=[made])["Volumes"][0]["Tags"] == [tag]
    assert ec2.describe_tags()["Tags"][0]["ResourceId"] == made
    if twin.version != "3.4":
        spec = [{"ResourceType": "vpc", "Tags": [tag]}]
        assert refused(ec2.create_vpc, CidrBlock="10.0.0.0/16", TagSpecifications=spec)[2].startswith(
            _UNBOUND
        )


def test_stubs_answer_and_do_nothing(twin: Twin) -> None:
    """CopySnapshot, CopyImage and, in 5, ModifyVolume answer 200 with nothing in it, and nothing is changed."""
    ec2 = twin.client()
    volume = ec2.create_volume(Size=1, AvailabilityZone="cluster01")["VolumeId"]
    twin.wait(2)
    snapshot = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    if twin.version == "3.4":
        assert refused(ec2.copy_snapshot, SourceRegion="r", SourceSnapshotId=snapshot)[0] == 400
        return
    before = twin.cloud.inventory()
    for reply in (
        ec2.copy_snapshot(SourceRegion="eucalyptus", SourceSnapshotId=snapshot),
        ec2.copy_image(SourceRegion="eucalyptus", SourceImageId="emi-12345678", Name="copy"),
        ec2.import_snapshot(),
    ):
        assert set(reply) == {"ResponseMetadata"}
        assert reply["ResponseMetadata"]["HTTPStatusCode"] == 200
    if twin.version == "5":
        assert set(ec2.modify_volume(VolumeId=volume, Size=9)) == {"ResponseMetadata"}
    else:
        assert refused(ec2.modify_volume, VolumeId=volume, Size=9)[0] == 400
    assert twin.cloud.inventory() == before
    assert ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["Size"] == 1


def test_stubs_have_no_handler_behind_them(twin: Twin) -> None:
    """Every stub is an operation of its version, and everything else that is bound is answered by somebody."""
    version = twin.version
    assert compute.STUBS[version] <= compute.OPERATIONS[version].keys()
    bound = compute.OPERATIONS[version].keys() - compute.STUBS[version]
    assert [name for name in sorted(bound) if handler_of("eucalyptus", "ec2", name) is None] == []


def test_ids_are_of_the_version(twin: Twin) -> None:
    """8 upper-case digits in 3.4, which finds them in any case; 8 lower-case in 4.4, 17 in 5."""
    pattern = {"3.4": r"[0-9A-F]{8}", "4.4": r"[0-9a-f]{8}", "5": r"0[0-9a-f]{16}"}[twin.version]
    ec2 = twin.client()
    volume = ec2.create_volume(Size=1, AvailabilityZone="cluster02")["VolumeId"]
    assert re.fullmatch(f"vol-{pattern}", volume)
    twin.wait(2)
    snapshot = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    twin.wait(4)
    mapping = [{"DeviceName": "/dev/sda", "Ebs": {"SnapshotId": snapshot}}]
    image = ec2.register_image(
        Name="base", Architecture="x86_64", RootDeviceName="/dev/sda", BlockDeviceMappings=mapping
    )["ImageId"]
    assert re.fullmatch(f"emi-{pattern}", image)
    if twin.version == "3.4":
        assert ec2.describe_volumes(VolumeIds=[volume.lower()])["Volumes"][0]["VolumeId"] == volume
    assert refused(ec2.describe_images, ImageIds=["ami-12345678"])[1] == "InvalidAMIID.Malformed"


def test_zones_are_clusters_and_the_region_is_free(twin: Twin) -> None:
    """Zones are called as the clusters; a client may sign for any region."""
    assert [row["ZoneName"] for row in twin.client().describe_availability_zones()["AvailabilityZones"]] == [
        "cluster01",
        "cluster02",
    ]
    assert twin.client().describe_regions()["Regions"][0]["RegionName"] == "eucalyptus"
    assert _raw(twin, "Action=DescribeVolumes&Version=2016-11-15").status == 200


def test_replies_have_no_member_that_the_version_lacks(modern: Twin) -> None:
    """What EC2 added later is not in the replies."""
    ec2 = modern.client()
    modern.ground()
    group = ec2.describe_security_groups()["SecurityGroups"][0]
    assert "SecurityGroupArn" not in group
    assert "VpcId" in group
    assert "ZoneId" not in ec2.describe_availability_zones()["AvailabilityZones"][0]


# -- paths, signatures, who calls -------------------------------------------------------------------------


def test_services_live_at_paths(twin: Twin) -> None:
    """Old names everywhere, new ones from 4.x on; another path is 404, and so is Route 53 before 5."""
    known = {
        "/services/Eucalyptus": True,
        "/services/compute": twin.version != "3.4",
        "/services/objectstorage": twin.version != "3.4",
        "/services/Walrus": True,
        "/services/Route53": twin.version == "5",
        "/": False,
    }
    for path, there in known.items():
        reply = door.answer(twin.cloud, Incoming("GET", path, "Action=X", {"host": "h"}, b""))
        assert (reply.status != 404) is there, path


@pytest.mark.parametrize("signature", ["v2", "v4"])
def test_query_services_take_both_signatures(twin: Twin, signature: str) -> None:
    """EC2, IAM and STS are signed with version 2 or 4; a wrong secret is 403 with either."""
    for service, call in (("ec2", "describe_volumes"), ("iam", "get_user"), ("sts", "get_session_token")):
        client = twin.client(service, signature_version=signature)
        assert getattr(client, call)()["ResponseMetadata"]["HTTPStatusCode"] == 200
        wrong = twin.client(service, signature_version=signature, keys=(KEY, "wrong"))
        assert refused(getattr(wrong, call))[:2] == (403, "403 Forbidden")


def test_the_object_store_of_3_4_takes_version_2_alone(twin: Twin) -> None:
    """Version 2 is good everywhere, version 4 from 4.x on."""
    old = twin.client("s3", signature_version="s3")
    old.create_bucket(Bucket="bundles")
    old.put_object(Bucket="bundles", Key="a b/c", Body=b"bytes")
    assert old.get_object(Bucket="bundles", Key="a b/c")["Body"].read() == b"bytes"
    new = twin.client("s3", signature_version="s3v4")
    if twin.version == "3.4":
        assert refused(new.list_objects, Bucket="bundles")[1] == "SignatureDoesNotMatch"
    else:
        assert new.list_objects(Bucket="bundles")["Contents"][0]["Key"] == "a b/c"
    wrong = twin.client("s3", signature_version="s3", keys=(KEY, "wrong"))
    assert refused(wrong.get_object, Bucket="bundles", Key="a b/c")[:2] == (403, "SignatureDoesNotMatch")


def _get(twin: Twin, url: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    reply = door.answer(twin.cloud, Incoming("GET", parts.path, parts.query, {"host": parts.netloc}, b""))
    return reply.status, reply.body


def test_presigned_urls_open_one_object_for_a_while(twin: Twin) -> None:
    """A presigned URL works without headers, for its own object alone, until it expires."""
    s3 = twin.client("s3")
    s3.create_bucket(Bucket="bundles")
    s3.put_object(Bucket="bundles", Key="part", Body=b"1234")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "bundles", "Key": "part"}, ExpiresIn=60)
    assert _get(twin, url) == (200, b"1234")
    assert _get(twin, url.replace("/part?", "/other?"))[0] == 403
    twin.clock.advance(3600)
    assert _get(twin, url)[0] == 403


def test_listing_version_2_gets_a_listing_of_version_1(twin: Twin) -> None:
    """`list-type=2` is not read: no token comes back, so a client that pages by it sees one page for ever."""
    s3 = twin.client("s3")
    s3.create_bucket(Bucket="many")
    for number in range(3):
        s3.put_object(Bucket="many", Key=f"k{number}", Body=b"")
    found = s3.list_objects_v2(Bucket="many", MaxKeys=2)
    assert found["IsTruncated"] is True
    assert "NextContinuationToken" not in found
    assert "KeyCount" not in found
    again = s3.list_objects_v2(Bucket="many", MaxKeys=2, ContinuationToken="k1")
    assert [row["Key"] for row in again["Contents"]] == ["k0", "k1"]
    rest = s3.list_objects(Bucket="many", Marker="k1")
    assert [row["Key"] for row in rest["Contents"]] == ["k2"]


def test_the_object_store_lacks_what_came_later(twin: Twin) -> None:
    """No multipart in 3.4; trailing checksums and conditional writes nowhere."""
    s3 = twin.client("s3")
    s3.create_bucket(Bucket="parts")
    if twin.version == "3.4":
        assert refused(s3.create_multipart_upload, Bucket="parts", Key="big")[:2] == (501, "NotImplemented")
        assert refused(s3.delete_objects, Bucket="parts", Delete={"Objects": [{"Key": "a"}]})[0] == 501
    else:
        upload = s3.create_multipart_upload(Bucket="parts", Key="big")["UploadId"]
        part = s3.upload_part(Bucket="parts", Key="big", UploadId=upload, PartNumber=1, Body=b"x")
        done = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        s3.complete_multipart_upload(Bucket="parts", Key="big", UploadId=upload, MultipartUpload=done)
        assert s3.get_object(Bucket="parts", Key="big")["Body"].read() == b"x"
    assert refused(s3.put_object, Bucket="parts", Key="w", Body=b"", IfNoneMatch="*")[0] == 501
    assert refused(s3.get_object, Bucket="parts", Key="w")[1] == "NoSuchKey"


def test_an_unknown_streaming_form_is_refused(modern: Twin) -> None:
    """`STREAMING-UNSIGNED-PAYLOAD-TRAILER`, which boto3 sends over https by itself, is unknown there."""
    s3 = modern.client("s3")
    s3.create_bucket(Bucket="parts")
    from drpilot.lab.eucalyptus import objectstore
    from drpilot.lab.refusal import Refusal

    headers = {"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}
    with pytest.raises(Refusal) as caught:
        objectstore.admitted(modern.cloud, Incoming("PUT", "/parts/a", "", headers, b""))
    assert caught.value.code == "InvalidArgument"


def test_a_password_gives_temporary_keys(twin: Twin) -> None:
    """GetAccessToken with account, user and password gives keys that work with their token and expire."""
    names = ":".join(
        ("@".join(base64.b64encode(part).decode() for part in (b"admin", b"shop")), "open sesame")
    )
    headers = {"authorization": "Basic " + base64.b64encode(names.encode()).decode(), "host": "h"}
    query = "Action=GetAccessToken&DurationSeconds=3600&Version=2011-06-15"
    reply = door.answer(twin.cloud, Incoming("GET", "/services/Tokens", query, headers, b""))
    assert reply.status == 200
    found = dict(re.findall(rb"<(AccessKeyId|SecretAccessKey|SessionToken)>([^<]+)<", reply.body))
    keys = tuple(found[name].decode() for name in (b"AccessKeyId", b"SecretAccessKey", b"SessionToken"))
    for signature in ("v2", "v4"):
        assert twin.client("ec2", keys=keys, signature_version=signature).describe_volumes()["Volumes"] == []
    assert refused(twin.client("ec2", keys=keys[:2], user_agent_extra="x").describe_volumes)[0] == 403
    twin.clock.advance(3601)
    assert refused(twin.client("ec2", keys=keys, user_agent_extra="x").describe_volumes)[0] == 403
    wrong = {**headers, "authorization": "Basic " + base64.b64encode(names[:-1].encode()).decode()}
    assert door.answer(twin.cloud, Incoming("GET", "/services/Tokens", query, wrong, b"")).status == 401


def test_who_am_i_came_with_4_4(twin: Twin) -> None:
    """GetCallerIdentity from 4.4 on; before it there is no such operation."""
    if twin.version == "3.4":
        assert refused(twin.client("sts").get_caller_identity)[0] == 400
    else:
        assert twin.client("sts").get_caller_identity()["Account"] == ACCOUNT


def test_the_bootstrap_service_tells_services_and_certificates(twin: Twin) -> None:
    """DescribeServices lists endpoints by type; the bundling certificate is told from 4.x on."""
    reply = _raw(twin, "Action=DescribeServices&Version=eucalyptus", "empyrean")
    word = b"eucalyptus" if twin.version == "3.4" else b"compute"
    assert b"<type>" + word + b"</type>" in reply.body
    assert b"<partition>cluster01</partition>" in reply.body
    asked = "Action=DescribeServiceCertificates&Version=eucalyptus&Format=pem&FingerprintDigest=SHA-256"
    told = _raw(twin, asked, "empyrean")
    if twin.version == "3.4":
        assert told.status == 400
    else:
        assert b"<certificateUsage>image-bundling</certificateUsage>" in told.body
        assert b"BEGIN CERTIFICATE" in told.body


def test_run_instances_honours_its_token(modern: Twin) -> None:
    """The same token gives the same instance; with other parameters it is refused."""
    ec2, where = modern.client(), modern.ground()
    volume = ec2.create_volume(Size=1, AvailabilityZone="cluster01")["VolumeId"]
    modern.wait(2)
    snapshot = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    modern.wait(4)
    mapping = [{"DeviceName": "/dev/sda", "Ebs": {"SnapshotId": snapshot}}]
    image = ec2.register_image(Name="base", Architecture="x86_64", BlockDeviceMappings=mapping)["ImageId"]
    asked = {
        "ImageId": image,
        "MinCount": 1,
        "MaxCount": 1,
        "SubnetId": where["subnet"],
        "ClientToken": "once",
    }
    first = ec2.run_instances(**asked)["Instances"][0]
    assert ec2.run_instances(**asked)["Instances"][0]["InstanceId"] == first["InstanceId"]
    assert first["InstanceType"] == "m1.small"
    assert "MetadataOptions" not in first
    assert (
        refused(ec2.run_instances, **asked | {"InstanceType": "m1.large"})[1] == "IdempotentParameterMismatch"
    )


def test_json_has_no_pipeline(modern: Twin) -> None:
    """CloudWatch as today's boto3 speaks it (JSON) finds nobody; spoken as Query it is answered."""
    import boto3
    from botocore.config import Config

    from drpilot.lab.wire import attach

    client = boto3.Session(KEY, SECRET, region_name="r").client(
        "cloudwatch",
        endpoint_url="http://127.0.0.1:9/services/CloudWatch",
        config=Config(retries={"total_max_attempts": 1}),
    )
    attach(client, modern.cloud)
    with pytest.raises(ClientError) as caught:
        client.list_metrics()
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


# -- networking modes -------------------------------------------------------------------------------------


def _platforms(twin: Twin) -> list[str]:
    found = twin.client().describe_account_attributes(AttributeNames=["supported-platforms"])
    return [value["AttributeValue"] for row in found["AccountAttributes"] for value in row["AttributeValues"]]


def test_without_vpcs_groups_have_names(tmp_path: Path) -> None:
    """In mode EDGE an account has no VPCs: groups go by name, instances by zone, replies show no network."""
    twin = Twin(tmp_path, "4.4", "EC2")
    ec2: Any = twin.client()
    assert _platforms(twin) == ["EC2"]
    assert ec2.describe_vpcs()["Vpcs"] == []
    assert refused(ec2.create_vpc, CidrBlock="10.0.0.0/16")[1] == "UnsupportedOperation"
    made = ec2.create_security_group(GroupName="web", Description="web")["GroupId"]
    ec2.authorize_security_group_ingress(
        GroupName="web", IpProtocol="tcp", FromPort=80, ToPort=80, CidrIp="0.0.0.0/0"
    )
    shown = {row["GroupName"]: row for row in ec2.describe_security_groups()["SecurityGroups"]}
    assert set(shown) == {"default", "web"}
    assert shown["web"]["GroupId"] == made
    assert shown["web"]["IpPermissions"][0]["FromPort"] == 80
    assert "VpcId" not in shown["web"]
    address = ec2.allocate_address()
    assert "AllocationId" not in address
    ec2.release_address(PublicIp=address["PublicIp"])
    assert ec2.describe_addresses()["Addresses"] == []
    twin.close()


def test_vpcs_where_the_mode_has_them(modern: Twin, tmp_path: Path) -> None:
    """4.4 in mode VPCMIDO says VPC; 3.4 can't be asked, and knows no VPC operation."""
    assert _platforms(modern) == ["VPC"]
    old = Twin(tmp_path / "old", "3.4")
    assert refused(old.client().describe_account_attributes)[0] == 400
    assert refused(old.client().describe_vpcs)[0] == 400
    old.close()


def test_faults_strike_there_too(modern: Twin) -> None:
    """The lab's faults work on this dialect: an error before the effect, a lost reply after it."""
    from botocore.exceptions import ConnectionClosedError

    ec2 = modern.client()
    with modern.cloud.transaction():
        modern.cloud.faults.set("error-5xx:ec2.DescribeVolumes@1")
        modern.cloud.faults.set("lost-reply:ec2.CreateVolume@1")
    assert refused(ec2.describe_volumes)[0] == 500
    with pytest.raises(ConnectionClosedError):
        ec2.create_volume(Size=1, AvailabilityZone="cluster01")
    assert len(ec2.describe_volumes()["Volumes"]) == 1
    assert euca_client("5", "ec2", "http://127.0.0.1:9", (KEY, SECRET)).meta.endpoint_url.endswith("/compute")
