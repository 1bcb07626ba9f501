"""A Eucalyptus site as a process: unchanged botocore over HTTP, imports and boots by real requests, faults."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError
from cryptography.hazmat.primitives import serialization

from drpilot.base.errors import DrpilotError
from drpilot.lab import shop
from drpilot.lab.access import site_clients
from drpilot.lab.process import World, pair_of
from drpilot.lab.store import BLOCK_BYTES
from drpilot.practice import Lab
from tests.lab.delivery_world import until
from tests.lab.euca_world import import_manifest, import_request, refused

_BUNDLE = Path(__file__).parents[1] / "data" / "reference-bundle"
_IMAGE = hashlib.shake_256(b"first").digest(BLOCK_BYTES + 7) + bytes(3 * BLOCK_BYTES) + b"the end"


def _blocks(data: bytes) -> dict[str, str]:
    """Digest of each block of a volume that begins with this data; blocks of zeros are none."""
    padded = data.ljust(-(-len(data) // BLOCK_BYTES) * BLOCK_BYTES, b"\0")
    found = {}
    for place in range(len(padded) // BLOCK_BYTES):
        block = padded[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES]
        if block.strip(b"\0"):
            found[str(place)] = hashlib.sha256(block).hexdigest()
    return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two Eucalyptus sites of different versions; home has the key pair that the reference bundle was made for."""
    world = World(tmp_path_factory.mktemp("lab") / "world")
    dialects = {"home": "eucalyptus-4.4", "away": "eucalyptus-3.4"}
    world.create(("home", "away"), speed=50, dialects=dialects)
    keys = world.directory / "sites" / "home" / "keys"
    keys.mkdir(parents=True)
    private = serialization.load_der_private_key((_BUNDLE / "keys" / "cloud-pk.der").read_bytes(), None)
    form = serialization.PrivateFormat.PKCS8
    text = private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (keys / "cloud-pk.pem").write_bytes(text)
    (keys / "cloud-cert.pem").write_bytes((_BUNDLE / "keys" / "cloud-cert.pem").read_bytes())
    world.up(("home", "away"))
    yield world
    errors = [world.control(name, "errors")["errors"] for name in world.sites()]
    world.down()
    assert errors == [[], []]


@pytest.fixture(scope="module")
def home(lab: World) -> Callable[[str], Any]:
    return site_clients(lab.sites()["home"])


@pytest.fixture(scope="module")
def away(lab: World) -> Callable[[str], Any]:
    return site_clients(lab.sites()["away"])


def _ended(ec2: Any, task_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        shown = ec2.describe_conversion_tasks(ConversionTaskIds=[task_id])["ConversionTasks"][0]
        return dict(shown) if shown["State"] in ("completed", "cancelled") else None

    return dict(until(look, "the end of an import"))


def test_a_pair_names_the_dialects() -> None:
    """A pair and a version give the dialects of home and away; others are errors."""
    assert pair_of("euca-aws") == {"home": "eucalyptus-4.4", "away": "aws"}
    assert pair_of("aws-euca", "3.4") == {"home": "aws", "away": "eucalyptus-3.4"}
    assert pair_of("aws-aws", "5") == {"home": "aws", "away": "aws"}
    with pytest.raises(KeyError):
        pair_of("euca-euca")
    with pytest.raises(ValueError, match=r"eucalyptus-4\.0"):
        pair_of("euca-aws", "4.0")


def test_the_practice_lab_keeps_its_pair(tmp_path: Path) -> None:
    """`lab up` with a pair writes what drpilot needs to use both clouds; without it the pair stays, another is
    refused, and a version that doesn't exist too.
    """
    lab = Lab(tmp_path / "lab")
    with pytest.raises(DrpilotError) as caught:
        lab.up(pair="euca-aws", euca_version="4.1")
    assert caught.value.row.word == "usage"
    assert lab.pair is None
    try:
        started = lab.up(speed=50, pair="euca-aws")
        assert started.built
        sites = yaml.safe_load((lab.folder / "drpilot.yaml").read_text())["sites"]
        assert {name: site["cloud"] for name, site in sites.items()} == {
            "home": "eucalyptus-4.4",
            "away": "aws",
            "edge": "aws",
        }
        assert sites["home"]["endpoints"] == {"default": started.sites["home"].endpoint}
        assert sites["away"]["endpoints"]["elb"] == started.sites["away"].endpoint
        built = lab.built()
        readings = lab.read_back("home", built["database"]["volumes"])
        assert shop.verified(readings, {int(index): digest for index, digest in built["data"].items()})
        assert not lab.up().built
        for pair, version in (("aws-aws", "4.4"), ("aws-euca", "4.4"), ("euca-aws", "5")):
            with pytest.raises(DrpilotError) as caught:
                lab.up(pair=pair, euca_version=version)
            assert caught.value.row.word == "usage"
        assert lab.pair == "euca-aws"
    finally:
        lab.reset()


def test_every_service_answers_at_its_path(lab: World, home: Callable[[str], Any]) -> None:
    """One port, a path a service; each speaks to an unchanged client; another path is nobody's."""
    site = lab.sites()["home"]
    assert site.endpoint_of("ec2") == f"{site.endpoint}/services/compute"
    assert home("sts").get_caller_identity()["Account"] == "111111111111"
    assert home("ec2").describe_regions()["Regions"][0]["RegionName"] == "eucalyptus"
    assert home("elb").describe_load_balancers()["LoadBalancerDescriptions"] == []
    assert home("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"] == []
    assert home("cloudwatch").describe_alarms()["MetricAlarms"] == []
    assert home("iam").get_user()["User"]["UserName"] == "admin"
    assert (
        home("s3").list_buckets()["ResponseMetadata"]["HTTPStatusCode"] == 200
    )  # other tests have buckets here
    with pytest.raises(KeyError):
        site.endpoint_of("elbv2")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{site.endpoint}/elsewhere", timeout=10)
    assert caught.value.code in (403, 404)
    caught.value.close()


def test_strictness_reaches_the_client(home: Callable[[str], Any], away: Callable[[str], Any]) -> None:
    """The refusals of 4.4 and 3.4 as botocore reads them from the wire."""
    status, code, message = refused(home("ec2").describe_volumes, DryRun=True)
    assert (status, code) == (400, "400 Bad Request")
    assert message.startswith("Failed to bind the following fields:\nDryRun")
    tagged = {"ResourceType": "volume", "Tags": [{"Key": "a", "Value": "b"}]}
    given = {"AvailabilityZone": "cluster01", "Size": 1, "TagSpecifications": [tagged]}
    assert "TagSpecification" in refused(home("ec2").create_volume, **given)[2]
    status, code, message = refused(away("ec2").create_vpc, CidrBlock="10.0.0.0/16")
    assert (status, code) == (400, "400 Bad Request")
    assert message.startswith("Failed to find corresponding class mapping for element: CreateVpc")
    asked = import_request("http://127.0.0.1:1/x", 1)
    assert refused(away("ec2").import_volume, **asked) == (500, "InternalError", "Service not available")


def test_an_import_fetches_over_http(lab: World, home: Callable[[str], Any]) -> None:
    """The worker gets manifest and parts by presigned URL from the object store; the volume has those bytes."""
    s3, ec2 = home("s3"), home("ec2")
    s3.create_bucket(Bucket="import")
    told = import_manifest(s3, _IMAGE, part_bytes=BLOCK_BYTES + 1)
    assert told["url"].startswith(f"{lab.sites()['home'].endpoint}/services/objectstorage/import/")
    lab.control("home", "calls", clear=True)
    task_id = ec2.import_volume(**import_request(told["url"], len(_IMAGE)))["ConversionTask"][
        "ConversionTaskId"
    ]
    ended = _ended(ec2, task_id)
    assert ended["State"] == "completed", ended
    volume_id = ended["ImportVolume"]["Volume"]["Id"]
    assert lab.control("home", "blocks", volume=volume_id)["blocks"] == _blocks(_IMAGE)
    fetched = [one for one in lab.control("home", "calls")["calls"] if one.get("operation") == "GetObject"]
    parts = -(-len(_IMAGE) // (BLOCK_BYTES + 1))
    assert len(fetched) == 1 + parts


def test_an_import_outlives_the_process(lab: World, home: Callable[[str], Any]) -> None:
    """SIGKILL in the middle of an import: the site comes up and the task ends with the bytes."""
    s3, ec2 = home("s3"), home("ec2")
    if "import-2" not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(Bucket="import-2")
    told = import_manifest(s3, _IMAGE, bucket="import-2", part_bytes=BLOCK_BYTES)
    lab.control("home", "tune", durations={"bytes_per_second": 20_000.0})
    task_id = ec2.import_volume(**import_request(told["url"], len(_IMAGE)))["ConversionTask"][
        "ConversionTaskId"
    ]
    lab.kill("home")
    with pytest.raises((EndpointConnectionError, ConnectionClosedError)):
        ec2.describe_conversion_tasks()
    lab.up(("home", "away"))
    lab.control("home", "tune", durations={"bytes_per_second": 64.0 * 1024 * 1024})
    ended = _ended(ec2, task_id)
    assert ended["State"] == "completed", ended
    volume_id = ended["ImportVolume"]["Volume"]["Id"]
    assert lab.control("home", "blocks", volume=volume_id)["blocks"] == _blocks(_IMAGE)


def test_a_bundle_boots_over_http(lab: World, home: Callable[[str], Any]) -> None:
    """A bundle of the real tools, put and registered by botocore: the booted disk is the image of image.sha256."""
    s3, ec2 = home("s3"), home("ec2")
    s3.create_bucket(Bucket="images")
    for name in ("compress25.img.part.00", "compress25.img.manifest.xml"):
        # The bundle is another account's; 4.4 compares the name and doesn't verify the signature over it.
        data = (_BUNDLE / name).read_bytes().replace(b"<user>123456789012<", b"<user>111111111111<")
        s3.put_object(Bucket="images", Key=name, Body=data, ACL="aws-exec-read")
    given = {"Name": "bundled", "Architecture": "x86_64", "VirtualizationType": "hvm"}
    image = ec2.register_image(ImageLocation="images/compress25.img.manifest.xml", **given)["ImageId"]
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24", AvailabilityZone="cluster01")["Subnet"]
    made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, SubnetId=subnet["SubnetId"])
    instance_id = made["Instances"][0]["InstanceId"]

    def running() -> bool:
        shown = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
        return bool(shown["State"]["Name"] == "running")

    until(running, "the instance")
    disk = lab.directory / "sites" / "home" / "volumes" / f"{instance_id}-root.img"
    whole = hashlib.sha256()
    with disk.open("rb") as file:
        left = 26_214_400
        while left:
            data = file.read(min(left, 1 << 20))
            whole.update(data)
            left -= len(data)
    assert whole.hexdigest() == (_BUNDLE / "image.sha256").read_text().split()[0]
    booted = lab.control("home", "blocks", instance=instance_id)["blocks"]
    assert len(booted) > 0


def test_faults_work_there_too(lab: World, home: Callable[[str], Any]) -> None:
    """A lost reply leaves its effect, a throttle says so once, an outage refuses every connection."""
    ec2 = home("ec2")
    before = len(ec2.describe_volumes()["Volumes"])
    lab.control("home", "break", fault="lost-reply:ec2.CreateVolume@1")
    with pytest.raises(ConnectionClosedError):
        ec2.create_volume(AvailabilityZone="cluster01", Size=1)
    assert len(ec2.describe_volumes()["Volumes"]) == before + 1
    lab.control("home", "break", fault="throttle:ec2.DescribeImages@1")
    assert refused(ec2.describe_images)[0] == 503
    ec2.describe_images()
    lab.control("home", "break", fault="refuse")
    until(lambda: lab.control("home", "status")["outage"], "the outage")
    with pytest.raises(EndpointConnectionError):
        ec2.describe_images()
    lab.control("home", "heal")

    def answers() -> bool:
        try:
            ec2.describe_images()
        except EndpointConnectionError:
            return False
        return True

    until(answers, "an answer again")
