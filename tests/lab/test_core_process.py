"""The lab as processes: unchanged boto3 over HTTP, crashes, outages and the path between sites."""

from __future__ import annotations

import json
import socket
import stat
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError, ReadTimeoutError

from drpilot.lab.process import LabError, World
from tests.lab.core_world import REAL, base_image, block_of, code_of, ground, http_client, put


def until(look: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    """What `look` gives once it is true; fails the test when it never is."""
    end = REAL.monotonic() + timeout_s
    while REAL.monotonic() < end:
        found = look()
        if found:
            return found
        REAL.sleep(0.02)
    pytest.fail(f"waited {timeout_s} s for {what}")


@pytest.fixture(scope="module")
def clients() -> dict[tuple[str, str], Any]:
    return {}


@pytest.fixture
def client(lab_world: World, clients: dict[tuple[str, str], Any]) -> Callable[..., Any]:
    """Clients of the running sites; made once, because ports stay."""

    def make(service: str = "ec2", site: str = "home") -> Any:
        if (service, site) not in clients:
            clients[service, site] = http_client(lab_world.sites()[site], service)
        return clients[service, site]

    return make


def test_every_family_answers_over_http(client: Callable[..., Any], lab_world: World) -> None:
    """Each protocol works through sockets: query, JSON, REST, with bytes both ways."""
    ec2, ebs = client(), client("ebs")
    assert client("sts").get_caller_identity()["Account"] == "111111111111"
    assert client("kms").describe_key(KeyId="alias/aws/ebs")["KeyMetadata"]["Enabled"] is True
    assert client("service-quotas").list_service_quotas(ServiceCode="ec2")["Quotas"]
    place = ground(ec2)

    def wait(seconds: float) -> None:
        snapshots = ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
        until(lambda: all(look(ec2, row["SnapshotId"]) == "completed" for row in snapshots), "snapshots")

    image = base_image(ec2, ebs, wait)
    one = ec2.run_instances(
        ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1, SubnetId=place["subnet"]
    )["Instances"][0]["InstanceId"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[one], WaiterConfig={"Delay": 1, "MaxAttempts": 20})
    kinds = {item["kind"] for item in lab_world.control("home", "inventory")["resources"]}
    assert {"instance", "volume", "image", "snapshot", "vpc", "subnet"} <= kinds


def look(ec2: Any, snapshot: str) -> str:
    return str(ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"])


def test_a_wrong_secret_is_refused_over_http(lab_world: World) -> None:
    """Signatures are verified on the wire too."""
    access = lab_world.sites()["home"]
    client = http_client(access, "sts", user_agent_extra="x")
    client._request_signer._credentials.secret_key = "wrong"
    assert code_of(client.get_caller_identity) == "SignatureDoesNotMatch"


def _seeded(client: Callable[..., Any], site: str = "home") -> str:
    """A completed snapshot with two blocks."""
    ebs, ec2 = client("ebs", site), client("ec2", site)
    snapshot = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    for place in (0, 5):
        put(ebs, snapshot, place, block_of(place))
    ebs.complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=2)
    until(lambda: look(ec2, snapshot) == "completed", "the snapshot")
    return str(snapshot)


def test_what_was_answered_survives_kill_9(client: Callable[..., Any], lab_world: World) -> None:
    """After SIGKILL and a new start every answered call is still true, bytes and pending work included."""
    ec2 = client()
    snapshot = _seeded(client)
    made = [
        ec2.create_volume(AvailabilityZone="eu-south-1a", SnapshotId=snapshot)["VolumeId"] for _ in range(5)
    ]
    before = lab_world.control("home", "blocks", volume=made[0])["digest"]
    lab_world.kill("home")
    with pytest.raises(EndpointConnectionError):
        ec2.describe_volumes()
    lab_world.up(("home",))
    rows = until(
        lambda: [
            row
            for row in [ec2.describe_volumes(VolumeIds=made)["Volumes"]]
            if all(volume["State"] == "available" for volume in row)
        ],
        "the volumes",
    )[0]
    assert [row["VolumeId"] for row in rows] == made
    assert lab_world.control("home", "blocks", volume=made[0])["digest"] == before
    assert lab_world.control("home", "blocks", snapshot=snapshot)["digest"] == before


def test_a_copy_survives_kill_9_of_its_target(client: Callable[..., Any], lab_world: World) -> None:
    """A copy that was under way goes on after the target's crash and ends with the source's bytes."""
    source = _seeded(client)
    lab_world.control("away", "speed", speed=1)
    copy = client("ec2", "away").copy_snapshot(SourceRegion="eu-south-1", SourceSnapshotId=source)
    lab_world.kill("away")
    lab_world.up(("away",), speed=50.0)
    lab_world.control("away", "speed", speed=50)
    until(lambda: look(client("ec2", "away"), copy["SnapshotId"]) == "completed", "the copy")
    there = lab_world.control("away", "blocks", snapshot=copy["SnapshotId"])
    assert there == lab_world.control("home", "blocks", snapshot=source)


def test_a_lost_reply_over_http_has_its_effect(client: Callable[..., Any], lab_world: World) -> None:
    """The connection closes without an answer, the volume exists, and the token finds it."""
    ec2 = client()
    lab_world.control("home", "break", fault="lost-reply:ec2.CreateVolume@1")
    request = {"AvailabilityZone": "eu-south-1a", "Size": 1, "ClientToken": "t"}
    with pytest.raises(ConnectionClosedError):
        ec2.create_volume(**request)
    found = ec2.describe_volumes()["Volumes"]
    assert [row["VolumeId"] for row in found] == [ec2.create_volume(**request)["VolumeId"]]
    journal = lab_world.control("home", "calls", operation="CreateVolume")["calls"]
    assert [call["outcome"] for call in journal] == ["lost-reply", "ok"]


def test_an_outage_really_closes_the_port(client: Callable[..., Any], lab_world: World) -> None:
    """Connections are refused, open ones die, the control plane answers; healing opens the same port."""
    ec2 = client()
    ec2.describe_vpcs()
    lab_world.control("home", "break")
    endpoint = urlsplit(lab_world.sites()["home"].endpoint)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((str(endpoint.hostname), int(endpoint.port or 0)), timeout=5)
    with pytest.raises(EndpointConnectionError):
        ec2.describe_vpcs()
    assert lab_world.control("home", "status")["outage"] == "refuse"
    source = {"SourceRegion": "eu-south-1", "SourceSnapshotId": "snap-0123456789abcdef0"}
    assert code_of(lambda: client("ec2", "away").copy_snapshot(**source)) == "Unavailable"
    lab_world.control("home", "heal")
    assert ec2.describe_vpcs()["Vpcs"] == []


def test_an_outage_survives_a_restart(client: Callable[..., Any], lab_world: World) -> None:
    """A broken site is still broken after its process was started again."""
    lab_world.control("home", "break", fault="refuse")
    lab_world.kill("home")
    lab_world.up(("home",))
    with pytest.raises(EndpointConnectionError):
        client().describe_vpcs()
    lab_world.control("home", "heal")
    client().describe_vpcs()


@pytest.mark.parametrize(("kind", "error"), [("reset", ConnectionClosedError), ("hang", ReadTimeoutError)])
def test_resets_and_hangs_have_no_effect(lab_world: World, kind: str, error: type[Exception]) -> None:
    """A reset connection and a call that is never answered leave nothing behind."""
    access = lab_world.sites()["home"]
    ec2 = http_client(access, "ec2", read_timeout=1)
    lab_world.control("home", "break", fault=f"{kind}:ec2.CreateVolume")
    with pytest.raises((error, ConnectionClosedError)):
        ec2.create_volume(AvailabilityZone="eu-south-1a", Size=1)
    lab_world.control("home", "heal")
    assert ec2.describe_volumes()["Volumes"] == []


def test_a_partition_leaves_both_apis_up(client: Callable[..., Any], lab_world: World) -> None:
    """Both sites answer, but a copy between them stands still until the path is whole again."""
    source = _seeded(client)
    lab_world.control("away", "speed", speed=5)
    away = client("ec2", "away")
    copy = away.copy_snapshot(SourceRegion="eu-south-1", SourceSnapshotId=source)["SnapshotId"]
    lab_world.control("home", "break", fault="partition=away")
    lab_world.control("away", "advance", seconds=60)
    REAL.sleep(0.5)
    assert look(away, copy) == "pending"
    assert look(client(), source) == "completed"
    lab_world.control("home", "heal")
    lab_world.control("away", "speed", speed=50)
    until(lambda: look(away, copy) == "completed", "the copy")


def test_a_saved_point_is_restored_over_and_over(client: Callable[..., Any], lab_world: World) -> None:
    """A restore brings rows, bytes and ids back, as often as one likes."""
    ec2 = client()
    volume = ec2.create_volume(AvailabilityZone="eu-south-1a", Size=1)["VolumeId"]
    lab_world.save("start")
    digest = lab_world.control("home", "blocks", volume=volume)["digest"]
    made = set()
    for _ in range(5):
        made.add(ec2.create_volume(AvailabilityZone="eu-south-1a", Size=2)["VolumeId"])
        lab_world.restore("start")
        assert [row["VolumeId"] for row in ec2.describe_volumes()["Volumes"]] == [volume]
        assert lab_world.control("home", "blocks", volume=volume)["digest"] == digest
    assert len(made) == 1
    with pytest.raises(LabError, match="never"):
        lab_world.control("home", "restore", label="never")


def test_stopping_and_starting_keeps_everything(tmp_path: Path) -> None:
    """Ports, keys and rows are kept over down and up; the credentials file is the owner's alone."""
    world = World(tmp_path)
    first = world.up(("home",), speed=50.0)["home"]
    mode = stat.S_IMODE(world.credentials.stat().st_mode)
    ec2 = http_client(first, "ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    assert world.down() == ["home"]
    assert world.status() == {"home": None}
    assert world.down() == []
    with pytest.raises(LabError, match="does not run"):
        world.control("home", "status")
    try:
        assert world.up(("home",))["home"] == first
        assert ec2.describe_vpcs()["Vpcs"][0]["VpcId"] == vpc
        assert mode == 0o600
        world.reset()
        assert ec2.describe_vpcs()["Vpcs"] == []
        ec2.create_vpc(CidrBlock="10.0.0.0/16")
        world.down()
        world.reset()
        world.up(("home",))
        assert ec2.describe_vpcs()["Vpcs"] == []
    finally:
        world.down()


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    """A site whose port somebody else has does not start, and the error says so."""
    world = World(tmp_path)
    world.create(("home",))
    port = urlsplit(world.sites()["home"].endpoint).port
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(port or 0)))
        other.listen()
        with pytest.raises(LabError, match=r"did not start.*in use"):
            world.up(("home",))


def test_unknown_control_commands_are_refused(lab_world: World) -> None:
    """The control plane refuses what it doesn't know and faults it can't read."""
    with pytest.raises(LabError, match="explode"):
        lab_world.control("home", "explode")
    with pytest.raises(LabError, match="unknown fault kind"):
        lab_world.control("home", "break", fault="melt")
    with pytest.raises(LabError, match="no site 'moon'"):
        lab_world.control("moon", "status")


def test_an_unknown_operation_is_xml_over_http(lab_world: World) -> None:
    """Nothing is ever answered with an HTML page, not even a request that no client of ours would send."""
    request = urllib.request.Request(f"{lab_world.sites()['home'].endpoint}/nowhere", method="GET")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    assert caught.value.headers["Content-Type"].startswith("text/xml")
    assert b"<Code>MissingAuthenticationToken</Code>" in caught.value.read()
    caught.value.close()


def test_the_world_file_names_its_sites(lab_world: World) -> None:
    """Other tools find endpoints, accounts and pids in one file, and no secret."""
    text = (lab_world.directory / "world.json").read_text()
    sites = json.loads(text)["sites"]
    assert set(sites) == {"home", "away"}
    assert sites["home"]["endpoint"] == lab_world.sites()["home"].endpoint
    assert sites["home"]["pid"] == lab_world.control("home", "status")["pid"]
    assert all(access.secret_key not in text for access in lab_world.sites().values())
