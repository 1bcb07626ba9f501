"""Volumes of the lab: types and sizes, attaching, changing and deleting."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.core_world import Pair, base_image, block_of, code_of, ground

ZONE = "eu-south-1a"


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({}, "MissingParameter"),
        ({"Size": 0}, "InvalidParameterValue"),
        ({"Size": 1, "VolumeType": "gp9"}, "InvalidParameterValue"),
        ({"Size": 1, "VolumeType": "gp2", "Iops": 3000}, "InvalidParameterCombination"),
        ({"Size": 10, "VolumeType": "gp3", "Iops": 6000}, "InvalidParameterValue"),
        ({"Size": 10, "VolumeType": "gp3", "Iops": 2000}, "InvalidParameterValue"),
        ({"Size": 10, "VolumeType": "gp3", "Throughput": 800}, "InvalidParameterValue"),
        ({"Size": 10, "VolumeType": "io1", "Iops": 600}, "InvalidParameterValue"),
        ({"Size": 10, "VolumeType": "io2"}, "MissingParameter"),
        ({"Size": 10, "VolumeType": "st1"}, "InvalidParameterValue"),
        ({"Size": 1, "AvailabilityZone": "eu-west-1a"}, "InvalidZone.NotFound"),
        ({"Size": 1, "SnapshotId": "snap-0123456789abcdef0"}, "InvalidSnapshot.NotFound"),
        ({"Size": 1, "KmsKeyId": "alias/aws/ebs"}, "InvalidParameterDependency"),
    ],
)
def test_an_impossible_volume_is_refused(pair: Pair, asked: dict[str, Any], code: str) -> None:
    """Each rule of the volume types has its code."""
    request = {"AvailabilityZone": ZONE, **asked}
    assert code_of(lambda: pair.client().create_volume(**request)) == code


def test_a_volume_is_created_then_available(pair: Pair) -> None:
    """gp3 gets its base rate, gp2 its rate by size; the state is pending for a while."""
    ec2 = pair.client()
    gp3 = ec2.create_volume(AvailabilityZone=ZONE, Size=10, VolumeType="gp3")
    gp2 = ec2.create_volume(AvailabilityZone=ZONE, Size=100)
    assert (gp3["State"], gp3["Iops"], gp3["Throughput"]) == ("creating", 3000, 125)
    assert (gp2["VolumeType"], gp2["Iops"]) == ("gp2", 300)
    pair.wait(1.5)
    assert {row["State"] for row in ec2.describe_volumes()["Volumes"]} == {"available"}


def test_a_token_makes_one_volume(pair: Pair) -> None:
    """The same token gives the same volume, and refuses other parameters."""
    ec2 = pair.client()
    request = {"AvailabilityZone": ZONE, "Size": 1, "ClientToken": "t"}
    assert ec2.create_volume(**request)["VolumeId"] == ec2.create_volume(**request)["VolumeId"]
    assert code_of(lambda: ec2.create_volume(**{**request, "Size": 2})) == "IdempotentParameterMismatch"


def test_a_volume_of_a_snapshot_is_at_least_as_large(pair: Pair) -> None:
    """Size is the snapshot's by default, may be more, never less; a pending snapshot is no source."""
    ec2 = pair.client()
    volume = ec2.create_volume(AvailabilityZone=ZONE, Size=3)["VolumeId"]
    pair.wait(2)
    pair.home.store.write_volume(volume, 0, block_of(4))
    snapshot = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    request = {"AvailabilityZone": ZONE, "SnapshotId": snapshot}
    assert code_of(lambda: ec2.create_volume(**request)) == "IncorrectState"
    pair.wait(3)
    assert code_of(lambda: ec2.create_volume(**request, Size=2)) == "InvalidParameterValue"
    assert ec2.create_volume(**request)["Size"] == 3
    larger = ec2.create_volume(**request, Size=5)["VolumeId"]
    assert pair.home.store.read_volume(larger, 0, 524_288) == block_of(4)


class Machine:
    """A running instance with a second one in another zone."""

    def __init__(self, pair: Pair) -> None:
        self.pair, self.ec2 = pair, pair.client()
        place = ground(self.ec2)
        image = base_image(self.ec2, pair.client("ebs"), pair.wait)
        subnet = self.ec2.create_subnet(
            VpcId=place["vpc"], CidrBlock="10.7.1.0/24", AvailabilityZone="eu-south-1b"
        )["Subnet"]["SubnetId"]
        launch = {"ImageId": image, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
        self.here, self.there = (
            self.ec2.run_instances(**launch, SubnetId=where)["Instances"][0]["InstanceId"]
            for where in (place["subnet"], subnet)
        )
        pair.wait(4)

    def volume(self) -> str:
        made = self.ec2.create_volume(AvailabilityZone=ZONE, Size=1)["VolumeId"]
        self.pair.wait(1.5)
        return str(made)

    def attach(self, volume: str, instance: str, device: str = "/dev/sdf") -> Any:
        return self.ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device=device)


@pytest.fixture
def machine(pair: Pair) -> Machine:
    return Machine(pair)


def test_attaching_checks_zone_device_and_use(machine: Machine) -> None:
    """A volume goes to one instance of its zone, under a free and possible name."""
    one, two = machine.volume(), machine.volume()
    assert code_of(lambda: machine.attach(one, machine.there)) == "InvalidVolume.ZoneMismatch"
    assert code_of(lambda: machine.attach(one, machine.here, "/dev/xvda")) == "InvalidParameterValue"
    assert code_of(lambda: machine.attach(one, machine.here, "sdf/..")) == "InvalidParameterValue"
    assert machine.attach(one, machine.here)["State"] == "attaching"
    assert code_of(lambda: machine.attach(one, machine.here, "/dev/sdg")) == "VolumeInUse"
    assert code_of(lambda: machine.attach(two, machine.here)) == "InvalidParameterValue"
    machine.pair.wait(1)
    row = machine.ec2.describe_volumes(VolumeIds=[one])["Volumes"][0]
    assert (row["State"], row["Attachments"][0]["State"]) == ("in-use", "attached")
    assert code_of(lambda: machine.ec2.delete_volume(VolumeId=one)) == "VolumeInUse"


def test_detaching_frees_a_volume(machine: Machine) -> None:
    """A data volume is detached while the instance runs, a root volume only while it is stopped."""
    one = machine.volume()
    machine.attach(one, machine.here)
    machine.pair.wait(1)
    wrong = {"VolumeId": one, "InstanceId": machine.there}
    assert code_of(lambda: machine.ec2.detach_volume(**wrong)) == "InvalidAttachment.NotFound"
    machine.ec2.detach_volume(VolumeId=one)
    machine.pair.wait(1)
    assert machine.ec2.describe_volumes(VolumeIds=[one])["Volumes"][0]["State"] == "available"
    assert code_of(lambda: machine.ec2.detach_volume(VolumeId=one)) == "IncorrectState"
    root = machine.ec2.describe_volumes(
        Filters=[{"Name": "attachment.instance-id", "Values": [machine.here]}]
    )["Volumes"][0]["VolumeId"]
    assert code_of(lambda: machine.ec2.detach_volume(VolumeId=root)) == "OperationNotPermitted"
    machine.ec2.stop_instances(InstanceIds=[machine.here])
    machine.pair.wait(3)
    machine.ec2.detach_volume(VolumeId=root)
    machine.pair.wait(1)
    ids = [machine.here]
    assert code_of(lambda: machine.ec2.start_instances(InstanceIds=ids)) == "IncorrectInstanceState"


def test_a_deleted_volume_is_gone_with_its_bytes(pair: Pair) -> None:
    """Deleting takes a moment; then id and file are unknown."""
    ec2 = pair.client()
    one = ec2.create_volume(AvailabilityZone=ZONE, Size=1)["VolumeId"]
    assert code_of(lambda: ec2.delete_volume(VolumeId=one)) == "IncorrectState"
    pair.wait(2)
    ec2.delete_volume(VolumeId=one)
    pair.wait(1)
    assert code_of(lambda: ec2.describe_volumes(VolumeIds=[one])) == "InvalidVolume.NotFound"
    assert not pair.home.store.volume_path(one).exists()


def test_a_volume_grows_while_it_is_used(pair: Pair) -> None:
    """Size and rates change after a while, never downwards, one change at a time."""
    ec2 = pair.client()
    one = ec2.create_volume(AvailabilityZone=ZONE, Size=2, VolumeType="gp3")["VolumeId"]
    pair.wait(2)
    assert code_of(lambda: ec2.modify_volume(VolumeId=one, Size=1)) == "InvalidParameterValue"
    ec2.modify_volume(VolumeId=one, Size=20, Iops=5000, Throughput=500)
    assert code_of(lambda: ec2.modify_volume(VolumeId=one, Size=30)) == "IncorrectModificationState"
    pair.wait(3)
    row = ec2.describe_volumes(VolumeIds=[one])["Volumes"][0]
    assert (row["Size"], row["Iops"], row["Throughput"]) == (20, 5000, 500)
    assert pair.home.store.volume_path(one).stat().st_size == 20 << 30
    change = ec2.describe_volumes_modifications(VolumeIds=[one])["VolumesModifications"][0]
    assert (change["ModificationState"], change["OriginalSize"]) == ("completed", 2)


def test_an_encrypted_volume_needs_a_usable_key(pair: Pair) -> None:
    """The key's ARN is shown; a volume under a disabled key ends in error."""
    ec2, kms = pair.client(), pair.client("kms")
    key = kms.create_key()["KeyMetadata"]["Arn"]
    good = ec2.create_volume(AvailabilityZone=ZONE, Size=1, Encrypted=True, KmsKeyId=key)
    default = ec2.create_volume(AvailabilityZone=ZONE, Size=1, Encrypted=True)
    assert good["KmsKeyId"] == key
    assert default["KmsKeyId"] != key
    kms.disable_key(KeyId=key)
    bad = ec2.create_volume(AvailabilityZone=ZONE, Size=1, Encrypted=True, KmsKeyId=key)["VolumeId"]
    pair.wait(2)
    assert ec2.describe_volumes(VolumeIds=[bad])["Volumes"][0]["State"] == "error"
    assert ec2.describe_volumes(VolumeIds=[good["VolumeId"]])["Volumes"][0]["State"] == "available"


def test_volumes_come_in_pages(pair: Pair) -> None:
    """MaxResults is honoured, and all pages together have each volume once."""
    ec2 = pair.client()
    made = {ec2.create_volume(AvailabilityZone=ZONE, Size=1)["VolumeId"] for _ in range(12)}
    pages = list(ec2.get_paginator("describe_volumes").paginate(PaginationConfig={"PageSize": 5}))
    assert [len(page["Volumes"]) for page in pages] == [5, 5, 2]
    assert {row["VolumeId"] for page in pages for row in page["Volumes"]} == made
    assert code_of(lambda: ec2.describe_volumes(MaxResults=2)) == "InvalidParameterValue"
