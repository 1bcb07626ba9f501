"""A guest that is a mover: the real program reads its machine's volumes, and the machine goes when it has ended."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from drpilot.base.clock import Chance, RealClock
from drpilot.clouds.credentials import CredentialsReference
from drpilot.clouds.session import Clients, SiteSettings
from drpilot.clouds.site import BotoSite, Ways
from drpilot.formats.moverjob import read_status, write_job
from drpilot.lab import disk
from drpilot.lab.cloud import Cloud
from drpilot.lab.process import World, start_in_process
from drpilot.lab.store import GIB
from drpilot.lab.wire import attach
from drpilot.transfer.moverurls import Attached, MoverNames, signed_job, signed_url
from drpilot.transfer.pace import Pace
from drpilot.transfer.shelf import BucketShelf
from drpilot.transfer.stage import read_staged
from tests.grounds import key_file
from tests.lab.delivery_world import block, until

REAL = RealClock()
SCRIPT = "#!/bin/sh\n# see https://example.org/movers\ndrpilot mover - <<'END'\n{}\nEND\npoweroff\n"
MARKS = {0: b"first", 700: b"middle", 2047: b"last"}


@dataclass
class Yard:
    """A site, how its volumes are written to, and what it has of a volume or a snapshot."""

    site: BotoSite
    control: Callable[..., dict[str, Any]]
    write: Callable[[str, int, bytes], None]
    zone: str = "cluster01"
    place: dict[str, str] = field(default_factory=dict)  # where instances go, where that must be said

    def call(self, operation: str, **params: Any) -> dict[str, Any]:
        """One call of EC2."""
        return self.site.call("ec2", operation, params)

    def snapshot(self, blocks: dict[int, bytes], size: int = 1) -> str:
        """A completed snapshot of a volume with these blocks (filled up with zeros)."""
        volume = self.call("CreateVolume", AvailabilityZone=self.zone, Size=size)["VolumeId"]
        self.until_state("Volumes", "DescribeVolumes", {"VolumeIds": [volume]}, "available")
        for place, data in blocks.items():
            self.write(volume, place * disk.BLOCK_BYTES, data)
        made = str(self.call("CreateSnapshot", VolumeId=volume)["SnapshotId"])
        self.until_state("Snapshots", "DescribeSnapshots", {"SnapshotIds": [made]}, "completed")
        self.call("DeleteVolume", VolumeId=volume)
        return made

    def until_state(self, member: str, operation: str, params: dict[str, Any], wanted: str) -> None:
        """Wait for the state of the one thing shown."""
        until(lambda: self.call(operation, **params)[member][0]["State"] == wanted, f"{wanted}: {params}")

    def state(self, instance: str) -> str:
        """The state of an instance."""
        found = self.call("DescribeInstances", InstanceIds=[instance])["Reservations"][0]["Instances"][0]
        return str(found["State"]["Name"])

    def volumes(self) -> list[str]:
        """The volumes there are."""
        return [row["VolumeId"] for row in self.call("DescribeVolumes")["Volumes"]]


def _ready(yard: Yard) -> str:
    """A mover image; an empty stage."""
    root = yard.snapshot({0: disk.root_block("mover")})
    yard.site.call("s3", "CreateBucket", {"Bucket": "stage"})
    return str(
        yard.call(
            "RegisterImage", Name="drpilot-mover", Architecture="x86_64", VirtualizationType="hvm",
            RootDeviceName="/dev/sda", BlockDeviceMappings=[{"DeviceName": "/dev/sda", "Ebs": {"SnapshotId": root}}],
        )["ImageId"]
    )  # fmt: skip


def _launch(
    yard: Yard, image: str, url: str, disks: dict[str, tuple[str, int]], ending: str = "terminate"
) -> str:
    """A mover with snapshots as its disks, of these sizes in GiB."""
    mappings = [
        {
            "DeviceName": device,
            "Ebs": {"SnapshotId": snapshot, "VolumeSize": size, "DeleteOnTermination": True},
        }
        for device, (snapshot, size) in disks.items()
    ]
    launched = yard.call(
        "RunInstances", ImageId=image, MinCount=1, MaxCount=1, InstanceType="m1.small",
        UserData=base64.b64encode(SCRIPT.format(url).encode()).decode(), BlockDeviceMappings=mappings,
        InstanceInitiatedShutdownBehavior=ending, **yard.place,
    )  # fmt: skip
    return str(launched["Instances"][0]["InstanceId"])


def _shelf(yard: Yard) -> BucketShelf:
    return BucketShelf(yard.site, "stage", "shop", Pace(REAL, Chance(1)))


def _url(shelf: BucketShelf, *volumes: Attached) -> str:
    names = MoverNames("shop", "shop/7", "01J", "7.status")
    shelf.put("7.job", write_job(signed_job(shelf, names, volumes, (REAL.now(), 3600))))
    return signed_url(shelf, "GetObject", "7.job", 3600)


def _check(yard: Yard) -> None:
    """Two snapshots of one size as disks of different sizes: staged, shown on the console, and nothing left behind."""
    image, shelf = _ready(yard), _shelf(yard)
    one, two = yard.snapshot(MARKS), yard.snapshot({5: b"other"})
    url = _url(shelf, Attached("/dev/sdf", one, GIB, 2 * GIB), Attached("/dev/sdg", two, GIB, 3 * GIB))
    assert yard.volumes() == []
    mover = _launch(yard, image, url, {"/dev/sdf": (one, 2), "/dev/sdg": (two, 3)})
    assert len(yard.volumes()) == 3
    until(lambda: yard.state(mover) == "terminated", "the end of the mover", timeout_s=60)
    for snapshot in (one, two):
        found = read_staged(shelf, snapshot)
        assert found is not None
        shown = yard.control("blocks", snapshot=snapshot)["blocks"]
        stored = {str(index): (found.block_map[index] or b"").hex() for index in found.block_map.stored()}
        assert stored == shown
    status = shelf.get("7.status")
    assert status is not None
    assert read_status(status, "s").state == "done"
    console = str(yard.call("GetConsoleOutput", InstanceId=mover)["Output"])
    assert "shop/7: 2 volumes of shop" in console and "ended with 0" in console
    assert "Signature=" not in console
    until(lambda: yard.volumes() == [], "the end of its volumes")


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A modern and an old cloud as processes."""
    world = World(tmp_path_factory.mktemp("movers") / "world")
    world.create(("home", "away"), speed=50, dialects={"home": "eucalyptus-4.4", "away": "eucalyptus-3.4"})
    world.up(("home", "away"))
    for name in ("home", "away"):
        world.control(name, "tune", classic_network=block(0 if name == "home" else 1))
    yield world
    errors = [world.control(name, "errors")["errors"] for name in world.sites()]
    world.down()
    assert errors == [[], []]


def _over_http(world: World, name: str, folder: Path) -> Yard:
    access = world.sites()[name]
    keys = key_file(
        folder, f"aws_access_key_id = {access.access_key}\naws_secret_access_key = {access.secret_key}\n"
    )
    settings = SiteSettings(
        name=name, cloud=access.dialect, region=access.region, endpoints={"default": access.endpoint},
        credentials=CredentialsReference("file", str(keys)),
    )  # fmt: skip
    site = BotoSite(Clients(settings, environment={}), Ways(clock=REAL, chance=Chance(5)))

    def write(volume: str, offset: int, data: bytes) -> None:
        world.control(name, "write", volume=volume, offset=offset, data=base64.b64encode(data).decode())

    return Yard(site, lambda command, **given: world.control(name, command, **given), write)


def test_an_old_cloud_runs_a_mover(clouds: World, tmp_path: Path) -> None:
    """3.4 as a process: objects signed with version 2, no VPC."""
    _check(_over_http(clouds, "away", tmp_path))


def _in_process(folder: Path) -> tuple[Yard, Cloud]:
    (cloud,) = start_in_process(folder / "clouds", {"home": "eucalyptus-3.4"}, speed=50).values()
    cloud.tune(classic_network=block(0))
    ((key, secret),) = cloud.keys.items()
    keys = key_file(folder, f"aws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    settings = SiteSettings(
        name="home", cloud=cloud.dialect, region=cloud.region, endpoints={"default": "http://127.0.0.1:9"},
        credentials=CredentialsReference("file", str(keys)),
    )  # fmt: skip
    clients = Clients(settings, environment={}, prepare=lambda session: attach(session, cloud))

    def control(command: str, snapshot: str) -> dict[str, Any]:
        assert command == "blocks"
        return {"blocks": {str(place): digest for place, digest in cloud.store.block_map(snapshot).items()}}

    return Yard(
        BotoSite(clients, Ways(clock=REAL, chance=Chance(5))), control, cloud.store.write_volume
    ), cloud


def test_a_cloud_of_this_process_runs_a_mover(tmp_path: Path) -> None:
    """Such a cloud has no port: the program reaches it all the same, and calls alone let time pass."""
    yard, cloud = _in_process(tmp_path)
    try:
        _check(yard)
        assert cloud.errors == []
    finally:
        cloud.close()


def _mover_pids(world: World, name: str) -> list[int]:
    """Processes whose folder is one of the site's movers."""
    home = str(world.directory / "sites" / name / "movers")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str((entry / "cwd").readlink()).startswith(home):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def _in_a_vpc(clouds: World, folder: Path) -> Yard:
    """The modern cloud as on the first day, with a network to launch into."""
    clouds.control("home", "reset")
    yard = _over_http(clouds, "home", folder)
    vpc = yard.call("CreateVpc", CidrBlock="127.77.0.0/16")["Vpc"]["VpcId"]
    subnet = yard.call("CreateSubnet", VpcId=vpc, CidrBlock="127.77.1.0/24", AvailabilityZone=yard.zone)
    yard.place = {"SubnetId": subnet["Subnet"]["SubnetId"]}
    return yard


def test_a_mover_ends_with_its_machine_and_goes_on_after_an_outage(clouds: World, tmp_path: Path) -> None:
    """A modern cloud: a terminated machine has no process; a power cut kills the mover, and when the power is back it
    begins again and stages all; one that stops instead of terminating keeps its volumes.
    """
    yard = _in_a_vpc(clouds, tmp_path)
    image, shelf = _ready(yard), _shelf(yard)
    one = yard.snapshot(MARKS)
    url = _url(shelf, Attached("/dev/sdf", one, GIB))
    clouds.control("home", "break", fault="latency=1:s3.PutObject")
    first = _launch(yard, image, url, {"/dev/sdf": (one, 1)})
    until(lambda: _mover_pids(clouds, "home"), "the mover")
    yard.call("TerminateInstances", InstanceIds=[first])
    until(lambda: not _mover_pids(clouds, "home"), "the end of the process")
    second = _launch(yard, image, url, {"/dev/sdf": (one, 1)}, "stop")
    until(lambda: shelf.names(one), "a first part")
    (before,) = _mover_pids(clouds, "home")
    clouds.control("home", "break", fault="refuse")
    until(lambda: not _mover_pids(clouds, "home"), "the end of the power")
    clouds.control("home", "heal")
    until(lambda: yard.state(second) == "stopped", "the end of the mover", timeout_s=60)
    assert not Path(f"/proc/{before}").exists()
    assert read_staged(shelf, one) is not None
    assert len(yard.volumes()) == 2
    yard.call("TerminateInstances", InstanceIds=[second])
    until(lambda: yard.volumes() == [], "the end of its volumes")


def test_a_mover_ends_with_the_lab_and_goes_on_with_it(clouds: World, tmp_path: Path) -> None:
    """A lab that is stopped leaves no process behind; started again, its mover begins again and stages all."""
    yard = _in_a_vpc(clouds, tmp_path)
    image, shelf = _ready(yard), _shelf(yard)
    one = yard.snapshot(MARKS)
    clouds.control("home", "break", fault="latency=1:s3.PutObject")
    mover = _launch(yard, image, _url(shelf, Attached("/dev/sdf", one, GIB)), {"/dev/sdf": (one, 1)})
    until(lambda: _mover_pids(clouds, "home"), "the mover")
    clouds.down(("home",))
    assert _mover_pids(clouds, "home") == []
    clouds.up(("home",))
    clouds.control("home", "heal")
    until(lambda: yard.state(mover) == "terminated", "the end of the mover", timeout_s=60)
    assert read_staged(shelf, one) is not None
