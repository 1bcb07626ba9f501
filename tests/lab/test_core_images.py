"""Images of the lab: made, registered, copied and deregistered."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.core_world import Pair, base_image, block_of, code_of, ground


class Machine:
    """A running instance with a data disk on home."""

    def __init__(self, pair: Pair) -> None:
        self.pair, self.ec2, self.away = pair, pair.client(), pair.client("ec2", "away")
        self.base = base_image(self.ec2, pair.client("ebs"), pair.wait)
        place = ground(self.ec2)
        disk = {
            "DeviceName": "/dev/sdf",
            "Ebs": {"VolumeSize": 8, "VolumeType": "gp3", "Iops": 3500, "DeleteOnTermination": False},
        }
        made = self.ec2.run_instances(
            ImageId=self.base,
            MinCount=1,
            MaxCount=1,
            InstanceType="t3.micro",
            SubnetId=place["subnet"],
            BlockDeviceMappings=[disk],
        )["Instances"][0]
        self.instance = made["InstanceId"]
        self.disks = {item["DeviceName"]: item["Ebs"]["VolumeId"] for item in made["BlockDeviceMappings"]}
        pair.wait(4)
        pair.home.store.write_volume(self.disks["/dev/sdf"], 0, block_of(42))

    def image(self, name: str = "web-1", **more: Any) -> str:
        return str(self.ec2.create_image(InstanceId=self.instance, Name=name, **more)["ImageId"])

    def look(self, image: str, site: str = "home") -> dict[str, Any]:
        row: dict[str, Any] = self.pair.client("ec2", site).describe_images(ImageIds=[image])["Images"][0]
        return row


@pytest.fixture
def machine(pair: Pair) -> Machine:
    return Machine(pair)


def test_an_image_maps_every_disk(machine: Machine) -> None:
    """Each disk has a real snapshot with the volume's size, type and rates; state and tags are as asked."""
    tags = [
        {"ResourceType": "image", "Tags": [{"Key": "i", "Value": "1"}]},
        {"ResourceType": "snapshot", "Tags": [{"Key": "s", "Value": "2"}]},
    ]
    image = machine.image(TagSpecifications=tags, NoReboot=True)
    assert machine.look(image)["State"] == "pending"
    machine.pair.wait(4)
    row = machine.look(image)
    assert (row["State"], row["Tags"]) == ("available", [{"Key": "i", "Value": "1"}])
    disks = {item["DeviceName"]: item["Ebs"] for item in row["BlockDeviceMappings"]}
    assert set(disks) == {"/dev/xvda", "/dev/sdf"}
    data = disks["/dev/sdf"]
    assert (data["VolumeSize"], data["VolumeType"], data["Iops"]) == (8, "gp3", 3500)
    assert data["DeleteOnTermination"] is False
    snapshot = machine.ec2.describe_snapshots(SnapshotIds=[data["SnapshotId"]])["Snapshots"][0]
    assert snapshot["Tags"] == [{"Key": "s", "Value": "2"}]
    assert image in snapshot["Description"]
    store = machine.pair.home.store
    assert store.get_block(store.block_map(data["SnapshotId"])[0]) == block_of(42)


def test_disks_can_be_left_out_of_an_image(machine: Machine) -> None:
    """NoDevice takes a disk away, an override changes its type."""
    image = machine.image(
        BlockDeviceMappings=[
            {"DeviceName": "/dev/sdf", "NoDevice": ""},
            {"DeviceName": "/dev/xvda", "Ebs": {"DeleteOnTermination": False, "VolumeType": "gp2"}},
        ]
    )
    mappings = machine.look(image)["BlockDeviceMappings"]
    assert [item["DeviceName"] for item in mappings] == ["/dev/xvda"]
    assert mappings[0]["Ebs"]["VolumeType"] == "gp2"
    assert "Iops" not in mappings[0]["Ebs"]


def test_names_are_unique_and_well_formed(machine: Machine) -> None:
    """A name is used once in an account and region."""
    first = machine.image("web-1")
    assert code_of(lambda: machine.image("web-1")) == "InvalidAMIName.Duplicate"
    assert code_of(lambda: machine.image("web*")) == "InvalidAMIName.Malformed"
    machine.pair.wait(4)
    machine.ec2.deregister_image(ImageId=first)
    machine.image("web-1")


def _register(machine: Machine, **change: Any) -> Any:
    snapshot = machine.look(machine.base)["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    request = {
        "Name": "registered",
        "Architecture": "x86_64",
        "RootDeviceName": "/dev/sda1",
        "VirtualizationType": "hvm",
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snapshot}}],
        **change,
    }
    return machine.ec2.register_image(**request)


def test_a_registered_image_is_what_was_registered(machine: Machine) -> None:
    """Mappings, root, architecture and tags are kept; sizes are filled in from the snapshots."""
    tags = [{"ResourceType": "image", "Tags": [{"Key": "k", "Value": "v"}]}]
    image = _register(machine, TagSpecifications=tags, BootMode="uefi", EnaSupport=True)["ImageId"]
    row = machine.look(image)
    assert (row["State"], row["RootDeviceName"], row["BootMode"]) == ("available", "/dev/sda1", "uefi")
    assert row["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 1
    assert row["Tags"] == [{"Key": "k", "Value": "v"}]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"Name": "base"}, "InvalidAMIName.Duplicate"),
        ({"RootDeviceName": "/dev/sdz"}, "InvalidBlockDeviceMapping"),
        ({"BlockDeviceMappings": []}, "InvalidBlockDeviceMapping"),
        ({"Architecture": "vax"}, "InvalidParameterValue"),
        (
            {
                "BlockDeviceMappings": [
                    {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": "snap-0123456789abcdef0"}}
                ]
            },
            "InvalidSnapshot.NotFound",
        ),
    ],
)
def test_an_impossible_image_is_refused(machine: Machine, change: dict[str, Any], code: str) -> None:
    """Names, roots, architectures and snapshots are checked."""
    assert code_of(lambda: _register(machine, **change)) == code


def _copy(machine: Machine, image: str, **more: Any) -> str:
    request = {"Name": "web copy", "SourceImageId": image, "SourceRegion": "eu-south-1", **more}
    return str(machine.away.copy_image(**request)["ImageId"])


def test_a_copied_image_launches_on_the_other_site(machine: Machine) -> None:
    """The copy has its own snapshots with the same bytes; an instance of it has them on its disks."""
    image = machine.image()
    assert code_of(lambda: _copy(machine, image)) == "InvalidAMIID.Unavailable"
    machine.pair.wait(4)
    machine.ec2.create_tags(Resources=[image], Tags=[{"Key": "role", "Value": "web"}])
    copy = _copy(machine, image, ClientToken="t", CopyImageTags=True)
    assert _copy(machine, image, ClientToken="t", CopyImageTags=True) == copy
    other = {"ClientToken": "t", "Name": "else", "CopyImageTags": True}
    assert code_of(lambda: _copy(machine, image, **other)) == "IdempotentParameterMismatch"
    assert machine.look(copy, "away")["State"] == "pending"
    machine.pair.wait(6)
    row = machine.look(copy, "away")
    assert (row["State"], row["SourceImageId"], row["OwnerId"]) == ("available", image, "222222222222")
    assert row["Tags"] == [{"Key": "role", "Value": "web"}]
    place = ground(machine.away)
    one = machine.away.run_instances(
        ImageId=copy, MinCount=1, MaxCount=1, InstanceType="t3.micro", SubnetId=place["subnet"]
    )["Instances"][0]
    disks = {item["DeviceName"]: item["Ebs"]["VolumeId"] for item in one["BlockDeviceMappings"]}
    data = machine.pair.away.store.read_volume(disks["/dev/sdf"], 0, 524_288)
    assert data == block_of(42)


def test_a_repeated_copy_is_answered_without_the_source(machine: Machine) -> None:
    """The token's answer is known on the target, so a lost reply can be settled while the source is down."""
    copy = _copy(machine, machine.base, ClientToken="t")
    with machine.pair.home.transaction():
        machine.pair.home.faults.set("")
    assert _copy(machine, machine.base, ClientToken="t") == copy
    assert code_of(lambda: _copy(machine, machine.base, Name="another")) == "Unavailable"


def test_an_image_copy_under_a_bad_key_fails(machine: Machine) -> None:
    """When a snapshot of the copy fails, so does the image."""
    copy = _copy(machine, machine.base, Encrypted=True, KmsKeyId="alias/none")
    machine.pair.wait(6)
    assert machine.look(copy, "away")["State"] == "failed"


def test_product_codes_forbid_a_copy_to_another_account(machine: Machine) -> None:
    """An image with product codes stays in its account; its instances carry the codes."""
    machine.ec2.modify_image_attribute(
        ImageId=machine.base, Attribute="productCodes", ProductCodes=["aw0evgkw8e5c1q413zgy5pjce"]
    )
    assert code_of(lambda: _copy(machine, machine.base)) == "InvalidRequest"
    subnet = machine.ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    one = machine.ec2.run_instances(
        ImageId=machine.base, MinCount=1, MaxCount=1, InstanceType="t3.micro", SubnetId=subnet
    )["Instances"][0]
    assert one["ProductCodes"][0]["ProductCodeId"] == "aw0evgkw8e5c1q413zgy5pjce"
    machine.pair.wait(4)
    root = one["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    snapshot = machine.ec2.create_snapshot(VolumeId=root)["SnapshotId"]
    machine.pair.wait(3)
    request = {"SourceRegion": "eu-south-1", "SourceSnapshotId": snapshot}
    assert code_of(lambda: machine.away.copy_snapshot(**request)) == "InvalidRequest"


def test_launch_permissions_are_kept(machine: Machine) -> None:
    """Accounts are added and removed; strict sharing needs one for a copy."""
    machine.pair.home.tune(strict_sharing=True)
    assert code_of(lambda: _copy(machine, machine.base)) == "InvalidRequest"
    account = {"UserId": "222222222222"}
    machine.ec2.modify_image_attribute(ImageId=machine.base, LaunchPermission={"Add": [account]})
    seen = machine.ec2.describe_image_attribute(ImageId=machine.base, Attribute="launchPermission")
    assert seen["LaunchPermissions"] == [account]
    snapshot = machine.look(machine.base)["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    machine.ec2.modify_snapshot_attribute(SnapshotId=snapshot, CreateVolumePermission={"Add": [account]})
    _copy(machine, machine.base)
    machine.ec2.modify_image_attribute(ImageId=machine.base, LaunchPermission={"Remove": [account]})
    seen = machine.ec2.describe_image_attribute(ImageId=machine.base, Attribute="launchPermission")
    assert seen["LaunchPermissions"] == []


def test_a_deregistered_image_is_unknown(machine: Machine) -> None:
    """Its snapshots stay unless the call deletes them."""
    one, two = machine.image("one"), machine.image("two")
    machine.pair.wait(4)
    before = len(machine.ec2.describe_snapshots()["Snapshots"])
    machine.ec2.deregister_image(ImageId=one)
    assert len(machine.ec2.describe_snapshots()["Snapshots"]) == before
    machine.ec2.deregister_image(ImageId=two, DeleteAssociatedSnapshots=True)
    assert len(machine.ec2.describe_snapshots()["Snapshots"]) == before - 2
    assert code_of(lambda: machine.look(one)) == "InvalidAMIID.NotFound"
    assert code_of(lambda: machine.ec2.deregister_image(ImageId=one)) == "InvalidAMIID.NotFound"


def test_a_running_instance_of_a_deregistered_image_lives_on(machine: Machine) -> None:
    """Deregistering takes nothing from instances, but no new one can be launched."""
    machine.ec2.deregister_image(ImageId=machine.base)
    subnet = machine.ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    request = {"ImageId": machine.base, "MinCount": 1, "MaxCount": 1, "SubnetId": subnet}
    assert code_of(lambda: machine.ec2.run_instances(**request)) == "InvalidAMIID.NotFound"
    machine.image("from the running one")
