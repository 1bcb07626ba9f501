"""Snapshots of the lab and their copies to another site."""

from __future__ import annotations

from typing import Any

import pytest

from drpilot.lab.store import BLOCK_BYTES
from tests.lab.core_world import Pair, base_image, block_of, code_of, ground

ZONE = "eu-south-1a"
SOURCE = "eu-south-1"


class Disk:
    """A volume with two written blocks on home."""

    def __init__(self, pair: Pair, **more: Any) -> None:
        self.pair, self.ec2, self.away = pair, pair.client(), pair.client("ec2", "away")
        self.volume = self.ec2.create_volume(AvailabilityZone=ZONE, Size=1, **more)["VolumeId"]
        pair.wait(2)
        pair.home.store.write_volume(self.volume, 0, block_of(1))
        pair.home.store.write_volume(self.volume, 9 * BLOCK_BYTES, block_of(2))

    def snapshot(self) -> str:
        made = self.ec2.create_snapshot(VolumeId=self.volume)["SnapshotId"]
        self.pair.wait(3)
        return str(made)

    def copy(self, snapshot: str, **more: Any) -> str:
        made = self.away.copy_snapshot(SourceRegion=SOURCE, SourceSnapshotId=snapshot, **more)
        return str(made["SnapshotId"])

    def look(self, snapshot: str) -> dict[str, Any]:
        row: dict[str, Any] = self.away.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]
        return row


@pytest.fixture
def disk(pair: Pair) -> Disk:
    return Disk(pair)


def test_a_snapshot_has_the_bytes_of_its_moment(disk: Disk) -> None:
    """What is written after the call is not in the snapshot; progress grows until it is complete."""
    made = disk.ec2.create_snapshot(VolumeId=disk.volume, Description="d")
    disk.pair.home.store.write_volume(disk.volume, 0, block_of(99))
    assert (made["State"], made["Progress"]) == ("pending", "0%")
    disk.pair.wait(1)
    middle = disk.ec2.describe_snapshots(SnapshotIds=[made["SnapshotId"]])["Snapshots"][0]
    assert middle["State"] == "pending"
    assert 0 < int(middle["Progress"].rstrip("%")) < 100
    disk.pair.wait(2)
    done = disk.ec2.describe_snapshots(SnapshotIds=[made["SnapshotId"]])["Snapshots"][0]
    assert (done["State"], done["Progress"]) == ("completed", "100%")
    assert done["FullSnapshotSizeInBytes"] == 2 * BLOCK_BYTES
    request = {"AvailabilityZone": ZONE, "SnapshotId": made["SnapshotId"]}
    copy = disk.ec2.create_volume(**request)["VolumeId"]
    assert disk.pair.home.store.read_volume(copy, 0, BLOCK_BYTES) == block_of(1)


def test_an_instance_s_volumes_are_taken_together(pair: Pair) -> None:
    """CreateSnapshots takes all volumes or those not excluded, with the volumes' tags where asked."""
    ec2 = pair.client()
    place, image = ground(ec2), base_image(ec2, pair.client("ebs"), pair.wait)
    disks = [{"DeviceName": f"/dev/sd{letter}", "Ebs": {"VolumeSize": 1}} for letter in "fg"]
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "role", "Value": "data"}]}]
    one = ec2.run_instances(
        ImageId=image,
        MinCount=1,
        MaxCount=1,
        InstanceType="t3.micro",
        SubnetId=place["subnet"],
        BlockDeviceMappings=disks,
        TagSpecifications=tags,
    )["Instances"][0]
    pair.wait(4)
    volumes = [item["Ebs"]["VolumeId"] for item in one["BlockDeviceMappings"]]
    spec = {"InstanceId": one["InstanceId"]}

    def take(**more: Any) -> list[Any]:
        taken: list[Any] = ec2.create_snapshots(InstanceSpecification={**spec, **more})["Snapshots"]
        return taken

    assert [row["VolumeId"] for row in take()] == volumes
    assert [row["VolumeId"] for row in take(ExcludeBootVolume=True)] == volumes[1:]
    assert [row["VolumeId"] for row in take(ExcludeDataVolumeIds=[volumes[1]])] == [volumes[0], volumes[2]]
    assert code_of(lambda: take(ExcludeDataVolumeIds=[volumes[0]])) == "InvalidParameterValue"
    tagged = ec2.create_snapshots(
        InstanceSpecification=spec,
        CopyTagsFromSource="volume",
        TagSpecifications=[{"ResourceType": "snapshot", "Tags": [{"Key": "point", "Value": "7"}]}],
    )["Snapshots"]
    assert {tag["Key"]: tag["Value"] for tag in tagged[1]["Tags"]} == {"point": "7", "role": "data"}


def test_too_many_at_once_of_one_volume(disk: Disk) -> None:
    """A sixth pending snapshot of a volume is refused."""
    for _ in range(5):
        disk.ec2.create_snapshot(VolumeId=disk.volume)
    code = code_of(lambda: disk.ec2.create_snapshot(VolumeId=disk.volume))
    assert code == "ConcurrentSnapshotLimitExceeded"


def test_a_copy_brings_the_bytes_with_progress(disk: Disk) -> None:
    """A copy is pending with growing percentages, then has the source's bytes, without its tags."""
    source = disk.snapshot()
    disk.ec2.create_tags(Resources=[source], Tags=[{"Key": "secret", "Value": "stays"}])
    own = [{"ResourceType": "snapshot", "Tags": [{"Key": "drpilot:run", "Value": "shop/1"}]}]
    copy = disk.copy(source, TagSpecifications=own, Description="for shop")
    seen = []
    for _ in range(6):
        row = disk.look(copy)
        seen.append(int(row["Progress"].rstrip("%")))
        disk.pair.wait(0.7)
    assert seen == sorted(seen)
    assert len(set(seen)) > 3
    row = disk.look(copy)
    assert (row["State"], row["OwnerId"], row["Description"]) == ("completed", "222222222222", "for shop")
    assert row["Tags"] == [{"Key": "drpilot:run", "Value": "shop/1"}]
    assert disk.pair.away.store.block_map(copy) == disk.pair.home.store.block_map(source)
    volume = disk.away.create_volume(AvailabilityZone="eu-west-1a", SnapshotId=copy)["VolumeId"]
    assert disk.pair.away.store.hash_volume(volume) == disk.pair.home.store.hash_volume(disk.volume)


def test_a_copy_within_the_region_works(disk: Disk) -> None:
    """Source and target may be the same site."""
    source = disk.snapshot()
    copy = disk.ec2.copy_snapshot(SourceRegion=SOURCE, SourceSnapshotId=source)["SnapshotId"]
    disk.pair.wait(4)
    row = disk.ec2.describe_snapshots(SnapshotIds=[copy])["Snapshots"][0]
    assert row["State"] == "completed"


def test_an_impossible_copy_is_refused(disk: Disk) -> None:
    """Unknown regions and snapshots, pending sources and wrong destinations are refused at once."""
    pending = disk.ec2.create_snapshot(VolumeId=disk.volume)["SnapshotId"]
    assert code_of(lambda: disk.copy(pending)) == "IncorrectState"
    assert code_of(lambda: disk.copy("snap-0123456789abcdef0")) == "InvalidSnapshot.NotFound"
    unknown = {"SourceRegion": "mars-1", "SourceSnapshotId": pending}
    assert code_of(lambda: disk.away.copy_snapshot(**unknown)) == "InvalidParameterValue"


def test_at_most_twenty_copies_at_once(disk: Disk) -> None:
    """The twenty-first copy waits for a place."""
    source = disk.snapshot()
    copies = [disk.copy(source) for _ in range(20)]
    assert code_of(lambda: disk.copy(source)) == "ResourceLimitExceeded"
    disk.pair.wait(5)
    assert {disk.look(copy)["State"] for copy in copies} == {"completed"}
    disk.copy(source)


def _fault(disk: Disk, site: str, text: str | None) -> None:
    cloud = disk.pair.clouds[site]
    with cloud.transaction():
        if text is None:
            cloud.faults.heal()
        else:
            cloud.faults.set(text)


@pytest.mark.parametrize(("site", "fault"), [("home", "partition"), ("away", "partition=home"), ("home", "")])
def test_a_cut_path_stops_a_copy_and_healing_lets_it_go_on(disk: Disk, site: str, fault: str) -> None:
    """A partition on either side or the source's outage holds a copy where it is; afterwards it completes."""
    source = disk.snapshot()
    copy = disk.copy(source)
    disk.pair.wait(1)
    _fault(disk, site, fault)
    disk.pair.wait(1)
    before = disk.look(copy)["Progress"]
    disk.pair.wait(5)
    assert (disk.look(copy)["State"], disk.look(copy)["Progress"]) == ("pending", before)
    assert code_of(lambda: disk.copy(source)) == "Unavailable"
    _fault(disk, site, None)
    disk.pair.wait(5)
    assert disk.look(copy)["State"] == "completed"


def test_a_copy_gives_up_after_its_patience(disk: Disk) -> None:
    """A copy that stands still too long fails."""
    copy = disk.copy(disk.snapshot())
    disk.pair.away.tune(copy_patience_s=10)
    _fault(disk, "home", "partition")
    disk.pair.wait(15)
    assert disk.look(copy)["State"] == "error"


def test_a_slow_copy_is_slow(disk: Disk) -> None:
    """The fault slow-copy stretches a copy by its factor."""
    source = disk.snapshot()
    _fault(disk, "away", "slow-copy=10")
    copy = disk.copy(source)
    disk.pair.wait(6)
    assert disk.look(copy)["State"] == "pending"
    disk.pair.wait(30)
    assert disk.look(copy)["State"] == "completed"


def test_a_corrupted_copy_differs(disk: Disk) -> None:
    """The fault corrupt-block damages a copy silently."""
    source = disk.snapshot()
    _fault(disk, "away", "corrupt-block:ec2.CopySnapshot@1")
    bad, good = disk.copy(source), disk.copy(source)
    disk.pair.wait(5)
    home, away = disk.pair.home.store, disk.pair.away.store
    assert away.block_map(good) == home.block_map(source)
    assert away.block_map(bad) != home.block_map(source)
    assert disk.look(bad)["State"] == "completed"


def test_an_encrypted_copy_uses_the_target_s_key(pair: Pair) -> None:
    """A copy is under the named or default key of the target; an unusable key fails it with the real message."""
    key_there = pair.client("kms", "away").create_key()["KeyMetadata"]["Arn"]
    key_here = pair.client("kms").create_key()["KeyMetadata"]["Arn"]
    disk = Disk(pair, Encrypted=True, KmsKeyId=key_here)
    source = disk.snapshot()
    named, default = disk.copy(source, Encrypted=True, KmsKeyId=key_there), disk.copy(source)
    foreign = disk.copy(source, Encrypted=True, KmsKeyId=key_here)
    pair.wait(5)
    assert (disk.look(named)["State"], disk.look(named)["KmsKeyId"]) == ("completed", key_there)
    assert disk.look(default)["Encrypted"] is True
    assert disk.look(default)["KmsKeyId"] not in (key_here, key_there)
    assert disk.look(foreign)["State"] == "error"
    assert disk.look(foreign)["StateMessage"] == "Given key ID is not accessible"
    pair.client("kms", "away").disable_key(KeyId=key_there)
    disabled = disk.copy(source, Encrypted=True, KmsKeyId=key_there)
    pair.wait(5)
    assert disk.look(disabled)["State"] == "error"
    pair.client("kms").disable_key(KeyId=key_here)
    sourceless = disk.copy(source)
    pair.wait(5)
    assert disk.look(sourceless)["StateMessage"] == "Given key ID is not accessible"


def test_sharing_is_checked_where_the_lab_is_strict(disk: Disk) -> None:
    """With strict_sharing a snapshot must be shared with the target's account."""
    source = disk.snapshot()
    disk.pair.home.tune(strict_sharing=True)
    assert code_of(lambda: disk.copy(source)) == "InvalidSnapshot.NotFound"
    disk.ec2.modify_snapshot_attribute(
        SnapshotId=source, CreateVolumePermission={"Add": [{"UserId": "222222222222"}]}
    )
    shared = disk.ec2.describe_snapshot_attribute(SnapshotId=source, Attribute="createVolumePermission")
    assert shared["CreateVolumePermissions"] == [{"UserId": "222222222222"}]
    disk.copy(source)


def test_a_snapshot_of_an_image_is_kept(pair: Pair) -> None:
    """A snapshot that an image needs can't be deleted until the image is deregistered."""
    ec2 = pair.client()
    image = base_image(ec2, pair.client("ebs"), pair.wait)
    snapshot = ec2.describe_images(ImageIds=[image])["Images"][0]["BlockDeviceMappings"][0]["Ebs"][
        "SnapshotId"
    ]
    assert code_of(lambda: ec2.delete_snapshot(SnapshotId=snapshot)) == "InvalidSnapshot.InUse"
    ec2.deregister_image(ImageId=image)
    ec2.delete_snapshot(SnapshotId=snapshot)
    assert code_of(lambda: ec2.delete_snapshot(SnapshotId=snapshot)) == "InvalidSnapshot.NotFound"


def test_filters_and_owners(disk: Disk) -> None:
    """Snapshots are found by status, volume and tag; another owner has none here."""
    snapshot = disk.snapshot()
    disk.ec2.create_snapshot(VolumeId=disk.volume)

    def count(**more: Any) -> int:
        return len(disk.ec2.describe_snapshots(**more)["Snapshots"])

    assert count(Filters=[{"Name": "status", "Values": ["completed"]}]) == 1
    assert count(Filters=[{"Name": "volume-id", "Values": [disk.volume]}]) == 2
    assert count(OwnerIds=["self"]) == 2
    assert count(OwnerIds=["999999999999"]) == 0
    disk.ec2.create_tags(Resources=[snapshot], Tags=[{"Key": "drpilot:point", "Value": "41"}])
    assert count(Filters=[{"Name": "tag:drpilot:point", "Values": ["4*"]}]) == 1
    assert code_of(lambda: count(SnapshotIds=["snap-zz"])) == "InvalidSnapshotID.Malformed"
