"""The three clouds the contract is tried on: the lab over HTTP, the lab in this process, and moto's server."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drpilot.base.clock import Chance, ManualClock, RealClock
from drpilot.clouds.site import BotoSite, Ways
from drpilot.domain.ports import CloudError
from drpilot.lab.cloud import Cloud
from drpilot.lab.process import World, start_in_process
from drpilot.lab.wire import attach
from tests.grounds import Door, key_file, moto_server, patient

__all__ = ["BLOCK", "GAPS", "GROUNDS", "Ground", "block_of", "opened"]

GROUNDS = ("lab-http", "lab-inprocess", "moto")
BLOCK = 524_288

# What moto 5.2 gets wrong, test by test, and why it matters to us. Strict: when moto learns it, the test says so.
GAPS: dict[str, dict[str, str]] = {
    "moto": {
        "test_one_token_makes_one_instance": "ClientToken of RunInstances is ignored: two instances",
        "test_one_token_makes_one_volume": "ClientToken of CreateVolume is ignored: two volumes",
        "test_a_token_used_for_something_else_is_refused": "ClientToken is ignored",
        "test_a_wrong_secret_is_refused": "signatures are not checked unless IAM is switched on",
        "test_a_group_whose_processes_are_suspended_launches_nothing": "a suspended Launch launches",
        "test_a_group_name_is_there_once_and_its_tags_are_its_own": "a second group of the name is accepted",
        "test_a_target_is_not_healthy_before_it_answered": "every target is healthy",
        "test_one_token_makes_one_copy_of_an_image": "ClientToken of CopyImage is ignored: two images",
        "test_a_copied_image_boots_from_a_snapshot_of_its_own": "the copy's disk is one of moto's own, of 15 GiB",
        "test_a_key_pair_is_imported_once_under_its_name": "KeyName of RunInstances is not checked",
        "test_a_group_in_use_is_not_deleted": "deleted under the machine that has it",
        "test_a_type_is_changed_only_at_rest": "the type of a running instance is changed",
        "test_a_malformed_id_is_invalid_and_an_unknown_one_not_found": "a malformed id counts as not found",
        "test_an_action_nobody_knows_is_refused_and_did_not_happen": "an HTML page with status 500",
        "test_the_clouds_pages_are_as_small_as_asked_for": "MaxResults of DescribeVolumes is ignored",
        "test_a_snapshot_is_pending_before_it_is_completed": "snapshots are completed at once",
        "test_a_volume_is_not_smaller_than_its_snapshot": "any size is accepted",
        "test_a_volume_is_attached_only_in_its_zone": "zones are not compared",
        "test_an_image_keeps_its_block_devices": "RegisterImage forgets its block device mappings",
        "test_the_snapshot_of_an_image_can_not_be_deleted": "an image does not hold its snapshot",
        "test_an_unknown_image_can_not_be_launched": "ImageId is not checked",
        "test_a_block_with_a_wrong_checksum_is_refused": "checksums of blocks are not checked",
        "test_a_child_snapshot_has_the_blocks_of_its_parent": "ParentSnapshotId is ignored",
        "test_changed_blocks_are_those_that_differ": "ListChangedBlocks lists the wrong ones",
        "test_a_snapshot_of_a_volume_can_be_read_by_blocks": "EBS direct knows only what StartSnapshot made",
        "test_a_bound_address_is_not_released": "released although it is bound",
        "test_the_end_of_an_instance_lets_its_address_go": "an address stays bound to a terminated instance",
        "test_more_addresses_than_the_quota_are_refused": "no quotas of EC2, and as many addresses as asked for",
        "test_listed_blocks_come_in_order_and_in_pages": "blocks come as they were written, in one page",
    },
    "lab-http": {},
    "lab-inprocess": {
        "test_the_clocks_are_compared": "no HTTP server, so no Date",
    },
}


def block_of(number: int) -> bytes:
    """A block of bytes that no other number gives."""
    return (f"contract {number} ".encode() * BLOCK)[:BLOCK]


@dataclass
class Ground:
    """One cloud to try the contract on."""

    name: str
    door: Door
    site: BotoSite
    let_pass: Callable[[float], None]
    other: BotoSite  # another site that snapshots can be copied to
    cloud: Any = None  # the lab's own object, in-process only
    made: int = 0
    base: dict[str, str] = field(default_factory=dict)

    def call(self, operation: str, *, service: str = "ec2", token: str | None = None, **params: Any) -> Any:
        """One call through the site's door."""
        return self.site.call(service, operation, params, token=token)

    def refusal(
        self, operation: str, *, service: str = "ec2", token: str | None = None, **params: Any
    ) -> CloudError:
        """The error the call ends with."""
        try:
            self.site.call(service, operation, params, token=token)
        except CloudError as error:
            return error
        raise AssertionError(f"{service}:{operation} was accepted")

    def until(self, done: Callable[[], bool]) -> None:
        """Let time pass until `done`, at most for 600 looks."""
        for _ in range(600):
            if done():
                return
            self.let_pass(0.1)
        raise AssertionError("it never came true")

    def fresh(self, what: str = "contract") -> str:
        """A name nobody used yet on this ground."""
        self.made += 1
        return f"{what}-{self.made}"

    @property
    def zone(self) -> str:
        """The first zone."""
        return f"{self.site.region}a"

    def volume(self, size_gib: int = 1, **params: Any) -> str:
        """A volume that can be used."""
        made = self.call(
            "CreateVolume", AvailabilityZone=self.zone, Size=size_gib, VolumeType="gp3", **params
        )
        self.until(
            lambda: self.states("DescribeVolumes", "Volumes", VolumeIds=[made["VolumeId"]]) == ["available"]
        )
        return str(made["VolumeId"])

    def snapshot(self, volume: str, **params: Any) -> str:
        """A completed snapshot of a volume."""
        made = self.call("CreateSnapshot", VolumeId=volume, **params)["SnapshotId"]
        self.completed(made)
        return str(made)

    def completed(self, snapshot: str) -> None:
        """Wait for a snapshot."""
        self.until(
            lambda: self.states("DescribeSnapshots", "Snapshots", SnapshotIds=[snapshot]) == ["completed"]
        )

    def states(self, operation: str, member: str, **params: Any) -> list[str]:
        """The states of what a listing gives."""
        return [one["State"] for one in self.call(operation, **params).get(member, [])]

    def image(self) -> str:
        """An image that can be launched; made once."""
        if "image" not in self.base:
            self.base["image"] = self.registered(self.snapshot(self.volume()))
        return self.base["image"]

    def registered(self, snapshot: str) -> str:
        """An image over a snapshot."""
        mapping = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot, "VolumeType": "gp3"}}
        return str(
            self.call(
                "RegisterImage",
                Name=self.fresh("image"),
                Architecture="x86_64",
                RootDeviceName="/dev/xvda",
                VirtualizationType="hvm",
                BlockDeviceMappings=[mapping],
            )["ImageId"]
        )

    def network(self) -> dict[str, str]:
        """A VPC with a subnet and a security group called shop; made once."""
        if "vpc" not in self.base:
            vpc = self.call("CreateVpc", CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
            given = {"VpcId": vpc, "CidrBlock": "10.9.1.0/24", "AvailabilityZone": self.zone}
            subnet = self.call("CreateSubnet", **given)["Subnet"]["SubnetId"]
            group = self.call("CreateSecurityGroup", GroupName="shop", Description="shop", VpcId=vpc)[
                "GroupId"
            ]
            self.base |= {"vpc": vpc, "subnet": subnet, "group": group}
        return self.base

    def launch_words(self) -> dict[str, Any]:
        """The parameters of RunInstances for one small instance."""
        network = self.network()
        return {
            "ImageId": self.image(),
            "InstanceType": "t3.micro",
            "SubnetId": network["subnet"],
            "SecurityGroupIds": [network["group"]],
            "MinCount": 1,
            "MaxCount": 1,
        }

    def instance(self, **params: Any) -> str:
        """A running instance."""
        made = self.call("RunInstances", **{**self.launch_words(), **params})["Instances"][0]["InstanceId"]
        self.until(lambda: self.instances(made)[0]["State"]["Name"] == "running")
        return str(made)

    def instances(self, *ids: str) -> list[dict[str, Any]]:
        """Instances as DescribeInstances shows them."""
        pages = self.site.pages("ec2", "DescribeInstances", {"InstanceIds": list(ids)})
        return [one for page in pages for rows in page["Reservations"] for one in rows["Instances"]]

    def written(self, blocks: dict[int, bytes], **params: Any) -> str:
        """A completed snapshot written block by block."""
        made = self.call("StartSnapshot", service="ebs", VolumeSize=1, **params)["SnapshotId"]
        for index, data in blocks.items():
            self.put(made, index, data)
        self.call("CompleteSnapshot", service="ebs", SnapshotId=made, ChangedBlocksCount=len(blocks))
        self.completed(made)
        return str(made)

    def put(self, snapshot: str, index: int, data: bytes, checksum: str | None = None) -> None:
        """Write one block."""
        right = base64.b64encode(hashlib.sha256(data).digest()).decode()
        self.call(
            "PutSnapshotBlock",
            service="ebs",
            SnapshotId=snapshot,
            BlockIndex=index,
            BlockData=data,
            DataLength=len(data),
            Checksum=checksum or right,
            ChecksumAlgorithm="SHA256",
        )

    def blocks(self, snapshot: str, **params: Any) -> dict[int, bytes]:
        """All blocks of a snapshot, in the order they are listed."""
        found = {}
        given = {"SnapshotId": snapshot, **params}
        for page in self.site.pages("ebs", "ListSnapshotBlocks", given):
            for block in page["Blocks"]:
                token = {"BlockIndex": block["BlockIndex"], "BlockToken": block["BlockToken"]}
                reply = self.call("GetSnapshotBlock", service="ebs", SnapshotId=snapshot, **token)
                found[block["BlockIndex"]] = reply["BlockData"]
        return found


@contextmanager
def opened(name: str, folder: Path) -> Iterator[Ground]:
    """The ground called `name`, running."""
    maker = {"lab-http": _lab_http, "lab-inprocess": _lab_inprocess, "moto": _moto}[name]
    with maker(folder) as ground:
        yield ground


@contextmanager
def _moto(folder: Path) -> Iterator[Ground]:
    with moto_server(folder) as url:
        door = Door(url, key_file(folder), account="123456789012", ways=patient(), read_timeout_s=30.0)
        site, other = door.open(), replace(door, name="away", region="eu-north-1").open()
        yield Ground("moto", door, site, RealClock().sleep, other)
        site.close()
        other.close()


@contextmanager
def _lab_http(folder: Path) -> Iterator[Ground]:
    world = World(folder)
    access = world.up(("home", "away"), speed=20.0)
    try:
        doors = [
            Door(one.endpoint, world.credentials, name, one.region, one.account, ways=patient())
            for name, one in access.items()
        ]
        site, other = (door.open() for door in doors)
        yield Ground("lab-http", doors[0], site, RealClock().sleep, other)
        site.close()
        other.close()
    finally:
        world.down()


@contextmanager
def _lab_inprocess(folder: Path) -> Iterator[Ground]:
    clock = ManualClock(RealClock().now())
    clouds = start_in_process(folder, ("home", "away"), clock=clock)
    doors = [_door_in(folder, cloud, clock) for cloud in clouds.values()]

    def let_pass(seconds: float) -> None:
        clock.advance(seconds)
        for cloud in clouds.values():
            cloud.tick()

    yield Ground("lab-inprocess", doors[0], doors[0].open(), let_pass, doors[1].open(), clouds["home"])
    for cloud in clouds.values():
        assert cloud.errors == []
        cloud.close()


def _door_in(folder: Path, cloud: Cloud, clock: ManualClock) -> Door:
    ((key, secret),) = cloud.keys.items()
    own = folder / f"{cloud.name}-keys"
    own.mkdir()
    keys = key_file(own, f"aws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    door = Door("http://127.0.0.1:9", keys, cloud.name, cloud.region, cloud.account)
    door.ways = Ways(clock=clock, chance=Chance(3))
    door.prepare = lambda session: attach(session, cloud, read_timeout_s=5.0)
    return door
