"""Instances of the lab: launch, client tokens, states, attributes and limits."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.lab.core_world import Pair, base_image, code_of, ground, put

TOKEN = "a" * 32


class Ground:
    """A site on which instances can be launched."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.ec2 = pair.client()
        self.place = ground(self.ec2)
        self.image = base_image(self.ec2, pair.client("ebs"), pair.wait)

    def request(self, **more: Any) -> dict[str, Any]:
        return {
            "ImageId": self.image,
            "InstanceType": "t3.micro",
            "MinCount": 1,
            "MaxCount": 1,
            "SubnetId": self.place["subnet"],
            "SecurityGroupIds": [self.place["group"]],
            **more,
        }

    def run(self, **more: Any) -> dict[str, Any]:
        reply: dict[str, Any] = self.ec2.run_instances(**self.request(**more))["Instances"][0]
        return reply

    def look(self, instance_id: str) -> dict[str, Any]:
        found = self.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
        row: dict[str, Any] = found[0]["Instances"][0]
        return row

    def state(self, instance_id: str) -> str:
        return str(self.look(instance_id)["State"]["Name"])


@pytest.fixture
def lab(pair: Pair) -> Ground:
    return Ground(pair)


def test_an_instance_has_what_was_asked_for(lab: Ground) -> None:
    """Type, address, key, profile, metadata, user data, tags and disks are those of the call."""
    lab.ec2.import_key_pair(
        KeyName="ops",
        PublicKeyMaterial=b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx8Ty9Dw0EcUjzCmBpg6i3p1mSS7RQ5o0VHOvo3bbbb x",
    )
    made = lab.run(
        KeyName="ops",
        PrivateIpAddress="10.7.0.77",
        IamInstanceProfile={"Name": "shop"},
        UserData="#!/bin/sh\necho shop",
        MetadataOptions={"HttpTokens": "optional", "HttpPutResponseHopLimit": 3},
        DisableApiTermination=True,
        InstanceInitiatedShutdownBehavior="terminate",
        BlockDeviceMappings=[
            {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8, "Iops": 4000, "DeleteOnTermination": False}},
            {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 2, "VolumeType": "gp3", "Throughput": 250}},
        ],
        TagSpecifications=[
            {"ResourceType": "instance", "Tags": [{"Key": "tier", "Value": "db"}]},
            {"ResourceType": "volume", "Tags": [{"Key": "disk", "Value": "of db"}]},
            {"ResourceType": "network-interface", "Tags": [{"Key": "card", "Value": "of db"}]},
        ],
    )
    assert made["State"]["Name"] == "pending"
    lab.pair.wait(4)
    row = lab.look(made["InstanceId"])
    assert row["State"]["Name"] == "running"
    assert (row["KeyName"], row["PrivateIpAddress"]) == ("ops", "10.7.0.77")
    assert row["IamInstanceProfile"]["Arn"] == "arn:aws:iam::111111111111:instance-profile/shop"
    assert (row["MetadataOptions"]["HttpTokens"], row["MetadataOptions"]["HttpPutResponseHopLimit"]) == (
        "optional",
        3,
    )
    assert row["Tags"] == [{"Key": "tier", "Value": "db"}]
    disks = {item["DeviceName"]: item["Ebs"]["VolumeId"] for item in row["BlockDeviceMappings"]}
    volumes = {v["VolumeId"]: v for v in lab.ec2.describe_volumes()["Volumes"]}
    root, data = volumes[disks["/dev/xvda"]], volumes[disks["/dev/sdf"]]
    assert (root["Size"], root["Iops"], root["Attachments"][0]["DeleteOnTermination"]) == (8, 4000, False)
    assert (data["Size"], data["Throughput"], data["State"]) == (2, 250, "in-use")
    assert data["Tags"] == [{"Key": "disk", "Value": "of db"}]
    card = lab.ec2.describe_network_interfaces()["NetworkInterfaces"][0]
    assert card["TagSet"] == [{"Key": "card", "Value": "of db"}]

    def attribute(name: str) -> Any:
        return lab.ec2.describe_instance_attribute(InstanceId=made["InstanceId"], Attribute=name)

    user_data = base64.b64decode(attribute("userData")["UserData"]["Value"])
    assert user_data == b"#!/bin/sh\necho shop"
    assert attribute("disableApiTermination")["DisableApiTermination"]["Value"] is True
    shutdown = attribute("instanceInitiatedShutdownBehavior")["InstanceInitiatedShutdownBehavior"]
    assert shutdown["Value"] == "terminate"


def test_a_root_disk_has_the_image_s_bytes(lab: Ground) -> None:
    """The volume of a launched instance holds the blocks of the image's snapshot."""
    made = lab.run()
    volume = made["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    assert sorted(lab.pair.home.store.capture(volume)) == [0, 7]


def test_a_token_launches_once(lab: Ground) -> None:
    """The same token and parameters give the same instance again, also when it runs by now."""
    first = lab.run(ClientToken=TOKEN)
    lab.pair.wait(4)
    again = lab.run(ClientToken=TOKEN)
    assert again["InstanceId"] == first["InstanceId"]
    assert again["State"]["Name"] == "running"
    assert lab.run(ClientToken="b" * 32)["InstanceId"] != first["InstanceId"]


def test_a_token_with_other_parameters_is_refused(lab: Ground) -> None:
    """A token belongs to its parameters."""
    lab.run(ClientToken=TOKEN)
    other = lab.request(ClientToken=TOKEN, InstanceType="t3.small")
    assert code_of(lambda: lab.ec2.run_instances(**other)) == "IdempotentParameterMismatch"


def test_a_token_of_a_terminated_instance_is_refused(lab: Ground) -> None:
    """A token never launches a second instance, even when the first is gone."""
    made = lab.run(ClientToken=TOKEN)["InstanceId"]
    lab.pair.wait(4)
    lab.ec2.terminate_instances(InstanceIds=[made])
    again = lab.request(ClientToken=TOKEN)
    assert code_of(lambda: lab.ec2.run_instances(**again)) == "IdempotentInstanceTerminated"
    lab.pair.home.advance(700)
    assert code_of(lambda: lab.ec2.run_instances(**again)) == "IdempotentInstanceTerminated"


def test_a_dry_run_makes_nothing(lab: Ground) -> None:
    """DryRun is answered as DryRunOperation and uses no token."""
    request = lab.request(ClientToken=TOKEN)
    assert code_of(lambda: lab.ec2.run_instances(**request, DryRun=True)) == "DryRunOperation"
    assert lab.ec2.describe_instances()["Reservations"] == []
    lab.run(ClientToken=TOKEN)


def test_states_follow_each_other(lab: Ground) -> None:
    """Start, stop and terminate pass through their pending states and refuse what a state forbids."""
    one = lab.run()["InstanceId"]
    assert code_of(lambda: lab.ec2.stop_instances(InstanceIds=[one])) == "IncorrectInstanceState"
    lab.pair.wait(4)
    change = lab.ec2.stop_instances(InstanceIds=[one])["StoppingInstances"][0]
    assert (change["PreviousState"]["Name"], change["CurrentState"]["Name"]) == ("running", "stopping")
    assert code_of(lambda: lab.ec2.start_instances(InstanceIds=[one])) == "IncorrectInstanceState"
    lab.pair.wait(3)
    assert lab.state(one) == "stopped"
    lab.ec2.start_instances(InstanceIds=[one])
    assert lab.state(one) == "pending"
    lab.pair.wait(4)
    assert lab.state(one) == "running"
    lab.ec2.terminate_instances(InstanceIds=[one])
    assert lab.state(one) == "shutting-down"
    lab.pair.wait(3)
    assert lab.state(one) == "terminated"
    assert code_of(lambda: lab.ec2.start_instances(InstanceIds=[one])) == "IncorrectInstanceState"
    lab.pair.home.advance(700)
    assert code_of(lambda: lab.look(one)) == "InvalidInstanceID.NotFound"


def test_termination_takes_along_what_it_should(lab: Ground) -> None:
    """Disks with DeleteOnTermination and the interface go; other disks stay, available."""
    data = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": False}}
    one = lab.run(BlockDeviceMappings=[data])
    lab.pair.wait(4)
    lab.ec2.terminate_instances(InstanceIds=[one["InstanceId"]])
    lab.pair.wait(4)
    volumes = lab.ec2.describe_volumes()["Volumes"]
    assert [(row["Size"], row["State"]) for row in volumes] == [(1, "available")]
    assert lab.ec2.describe_network_interfaces()["NetworkInterfaces"] == []
    kinds = [item["kind"] for item in lab.pair.home.inventory()]
    assert "instance" not in kinds


def test_protection_holds_until_it_is_lifted(lab: Ground) -> None:
    """A protected instance, and all others of the same call, survive TerminateInstances."""
    kept, other = lab.run(DisableApiTermination=True)["InstanceId"], lab.run()["InstanceId"]
    lab.pair.wait(4)
    ids = [other, kept]
    assert code_of(lambda: lab.ec2.terminate_instances(InstanceIds=ids)) == "OperationNotPermitted"
    assert (lab.state(kept), lab.state(other)) == ("running", "running")
    lab.ec2.modify_instance_attribute(InstanceId=kept, DisableApiTermination={"Value": False})
    lab.ec2.terminate_instances(InstanceIds=ids)
    assert lab.state(kept) == "shutting-down"


def test_the_type_changes_only_while_stopped(lab: Ground) -> None:
    """Type and user data need a stopped instance; a type that isn't there is refused."""
    one = lab.run()["InstanceId"]
    lab.pair.wait(4)

    def change(name: str) -> None:
        lab.ec2.modify_instance_attribute(InstanceId=one, InstanceType={"Value": name})

    assert code_of(lambda: change("m5.xlarge")) == "IncorrectInstanceState"
    lab.ec2.stop_instances(InstanceIds=[one])
    lab.pair.wait(3)
    assert code_of(lambda: change("q9.huge")) == "InvalidParameterValue"
    change("m5.xlarge")
    lab.ec2.modify_instance_attribute(InstanceId=one, UserData={"Value": b"new"})
    assert lab.look(one)["InstanceType"] == "m5.xlarge"


def test_status_checks_pass_after_a_while(lab: Ground) -> None:
    """A fresh instance is initializing, then ok; one that doesn't run is shown only when asked for."""
    one = lab.run()["InstanceId"]
    assert lab.ec2.describe_instance_status()["InstanceStatuses"] == []
    all_of_them = lab.ec2.describe_instance_status(IncludeAllInstances=True)["InstanceStatuses"]
    assert all_of_them[0]["InstanceStatus"]["Status"] == "not-applicable"
    lab.pair.wait(3.1)
    first = lab.ec2.describe_instance_status()["InstanceStatuses"][0]
    assert first["InstanceStatus"]["Status"] == "initializing"
    lab.pair.wait(2)
    later = lab.ec2.describe_instance_status()["InstanceStatuses"][0]
    assert (later["InstanceStatus"]["Status"], later["SystemStatus"]["Status"]) == ("ok", "ok")
    output = lab.ec2.get_console_output(InstanceId=one)["Output"]
    assert one in output


def test_a_refusal_by_a_fault_is_counted_though_the_call_is_undone(lab: Ground) -> None:
    """`capacity@2` hits the second launch alone, also after a restart: the count outlives the refused call."""
    with lab.pair.home.transaction():
        lab.pair.home.faults.set("capacity:ec2.RunInstances@2")
    first = lab.run()["InstanceId"]
    assert code_of(lab.run) == "InsufficientInstanceCapacity"
    assert lab.pair.home.faults.rules()[0] | {"id": ""} == {
        "id": "",
        "rule": "capacity:ec2.RunInstances@2",
        "seen": 2,
        "hit": 1,
    }
    assert lab.run()["InstanceId"] != first
    kept = lab.pair.home.store.rows()
    assert [json.loads(text)["seen"] for name, _, text in kept if name == "faults"] == [3]


def test_limits_of_capacity_and_quota_are_real(lab: Ground) -> None:
    """The zone's room, a capacity fault and the vCPU quota each refuse with their own code."""
    launch = lab.request()
    lab.pair.home.tune(capacity={"eu-south-1a/t3.micro": 1})
    lab.run()
    assert code_of(lambda: lab.ec2.run_instances(**launch)) == "InsufficientInstanceCapacity"
    lab.pair.home.tune(capacity=None, quotas={"L-1216C47A": 4})
    assert code_of(lambda: lab.ec2.run_instances(**{**launch, "MinCount": 2, "MaxCount": 2})) == (
        "VcpuLimitExceeded"
    )
    three = lab.ec2.run_instances(**{**launch, "MinCount": 1, "MaxCount": 3})["Instances"]
    assert len(three) == 1
    lab.pair.home.tune(quotas=None)
    with lab.pair.home.transaction():
        lab.pair.home.faults.set("capacity")
    assert code_of(lambda: lab.ec2.run_instances(**launch)) == "InsufficientInstanceCapacity"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ImageId": "ami-0123456789abcdef0"}, "InvalidAMIID.NotFound"),
        ({"ImageId": "ami-x"}, "InvalidAMIID.Malformed"),
        ({"InstanceType": "t9.micro"}, "InvalidParameterValue"),
        ({"InstanceType": "t4g.micro"}, "InvalidParameterValue"),
        ({"KeyName": "nobody"}, "InvalidKeyPair.NotFound"),
        ({"SubnetId": "subnet-0123456789abcdef0"}, "InvalidSubnetID.NotFound"),
        ({"SecurityGroupIds": ["sg-0123456789abcdef0"]}, "InvalidGroup.NotFound"),
        ({"PrivateIpAddress": "10.8.0.5"}, "InvalidParameterValue"),
        ({"MinCount": 2, "MaxCount": 1}, "InvalidParameterValue"),
        ({"Placement": {"AvailabilityZone": "eu-south-1b"}}, "InvalidParameterCombination"),
        ({"LaunchTemplate": {"LaunchTemplateName": "none"}}, "InvalidLaunchTemplateName.NotFoundException"),
        (
            {"TagSpecifications": [{"ResourceType": "image", "Tags": [{"Key": "a", "Value": "b"}]}]},
            "InvalidParameterValue",
        ),
        (
            {"BlockDeviceMappings": [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "Iops": 9}}]},
            "InvalidParameterCombination",
        ),
    ],
)
def test_an_impossible_launch_is_refused(lab: Ground, change: dict[str, Any], code: str) -> None:
    """Each wrong parameter has its code, and nothing is left behind."""
    before = lab.pair.home.inventory()
    assert code_of(lambda: lab.ec2.run_instances(**lab.request(**change))) == code
    assert lab.pair.home.inventory() == before


def test_an_address_is_given_once(lab: Ground) -> None:
    """Two instances can't have the same private address."""
    lab.run(PrivateIpAddress="10.7.0.9")
    request = lab.request(PrivateIpAddress="10.7.0.9")
    assert code_of(lambda: lab.ec2.run_instances(**request)) == "InvalidIPAddress.InUse"


def test_no_default_vpc_means_no_launch_without_subnet(lab: Ground) -> None:
    """Without a subnet there is nowhere to launch."""
    request = {key: value for key, value in lab.request().items() if key != "SubnetId"}
    assert code_of(lambda: lab.ec2.run_instances(**request)) == "VPCIdNotSpecified"


def test_a_template_fills_in_and_the_call_wins(lab: Ground) -> None:
    """Members of the template are used unless the call has them; tags and disks are merged."""
    data = {
        "ImageId": lab.image,
        "InstanceType": "m5.large",
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 5},
        "SecurityGroupIds": [lab.place["group"]],
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 4}}],
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "from", "Value": "template"}]}],
    }
    template = lab.ec2.create_launch_template(LaunchTemplateName="web", LaunchTemplateData=data)
    name = template["LaunchTemplate"]["LaunchTemplateName"]
    lab.ec2.create_launch_template_version(
        LaunchTemplateName=name, SourceVersion="1", LaunchTemplateData={"InstanceType": "t3.small"}
    )

    def run(version: str) -> dict[str, Any]:
        reply: dict[str, Any] = lab.ec2.run_instances(
            MinCount=1,
            MaxCount=1,
            SubnetId=lab.place["subnet"],
            LaunchTemplate={"LaunchTemplateName": name, "Version": version},
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "by", "Value": "call"}]}],
        )["Instances"][0]
        return reply

    old, new = run("$Default"), run("$Latest")
    assert (old["InstanceType"], new["InstanceType"]) == ("m5.large", "t3.small")
    assert new["MetadataOptions"]["HttpPutResponseHopLimit"] == 5
    tags = {tag["Key"]: tag["Value"] for tag in new["Tags"]}
    assert (tags["from"], tags["by"]) == ("template", "call")
    assert tags["aws:ec2launchtemplate:version"] == "2"
    sizes = {row["Size"] for row in lab.ec2.describe_volumes()["Volumes"]}
    assert sizes == {4}
    bad = {"LaunchTemplateName": name, "Version": "9"}
    request = {"MinCount": 1, "MaxCount": 1, "SubnetId": lab.place["subnet"], "LaunchTemplate": bad}
    assert code_of(lambda: lab.ec2.run_instances(**request)) == "InvalidLaunchTemplateId.VersionNotFound"


def test_filters_and_pages(lab: Ground) -> None:
    """Tags, wildcards, states and pages select instances; a page has at most MaxResults of them."""
    for number in range(7):
        tags = [{"Key": "name", "Value": f"web-{number}"}]
        lab.run(TagSpecifications=[{"ResourceType": "instance", "Tags": tags}])

    def names(*filters: tuple[str, str]) -> list[str]:
        asked = [{"Name": name, "Values": [value]} for name, value in filters]
        pages = lab.ec2.get_paginator("describe_instances").paginate(
            Filters=asked, PaginationConfig={"PageSize": 5}
        )
        found = [page["Reservations"] for page in pages]
        assert max(len(page) for page in found) <= 5
        return [row["Tags"][0]["Value"] for page in found for group in page for row in group["Instances"]]

    assert names(("tag:name", "web-*")) == [f"web-{number}" for number in range(7)]
    assert names(("tag:name", "web-?"), ("instance-state-name", "running")) == []
    assert names(("tag:name", "web-3")) == ["web-3"]
    assert names(("tag-key", "name"), ("vpc-id", lab.place["vpc"]))[0] == "web-0"
    unknown = [{"Name": "colour", "Values": ["red"]}]
    assert code_of(lambda: lab.ec2.describe_instances(Filters=unknown)) == "InvalidParameterValue"
    some = lab.ec2.describe_instances()["Reservations"][0]["Instances"][0]["InstanceId"]
    both = {"InstanceIds": [some], "MaxResults": 5}
    assert code_of(lambda: lab.ec2.describe_instances(**both)) == "InvalidParameterCombination"
    assert code_of(lambda: lab.ec2.describe_instances(NextToken="bogus")) == "InvalidNextToken"


def test_a_disabled_key_stops_an_instance_from_starting(lab: Ground) -> None:
    """With its key disabled an instance ends in stopped, or terminated at launch, with the real reason."""
    kms = lab.pair.client("kms")
    key = kms.create_key()["KeyMetadata"]["Arn"]
    disk = {"VolumeSize": 1, "Encrypted": True, "KmsKeyId": key}
    one = lab.run(BlockDeviceMappings=[{"DeviceName": "/dev/sdf", "Ebs": disk}])["InstanceId"]
    lab.pair.wait(4)
    lab.ec2.stop_instances(InstanceIds=[one])
    lab.pair.wait(3)
    kms.disable_key(KeyId=key)
    lab.ec2.start_instances(InstanceIds=[one])
    lab.pair.wait(5)
    assert lab.state(one) == "stopped"
    assert lab.look(one)["StateReason"]["Code"] == "Client.InvalidKMSKey.InvalidState"
    two = lab.run(BlockDeviceMappings=[{"DeviceName": "/dev/sdf", "Ebs": disk}])["InstanceId"]
    lab.pair.wait(5)
    assert lab.state(two) == "terminated"
    kms.enable_key(KeyId=key)
    lab.ec2.start_instances(InstanceIds=[one])
    lab.pair.wait(4)
    assert lab.state(one) == "running"


def test_types_and_where_they_are_offered(lab: Ground) -> None:
    """A type taken out of a zone is not offered there and can't be launched there."""
    lab.pair.home.tune(not_offered=["eu-south-1a/t3.micro"])
    offered = lab.ec2.describe_instance_type_offerings(
        LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": ["t3.micro"]}]
    )["InstanceTypeOfferings"]
    assert [row["Location"] for row in offered] == ["eu-south-1b", "eu-south-1c"]
    assert code_of(lambda: lab.ec2.run_instances(**lab.request())) == "Unsupported"
    found = lab.ec2.describe_instance_types(InstanceTypes=["m5.xlarge"])["InstanceTypes"][0]
    assert (found["VCpuInfo"]["DefaultVCpus"], found["MemoryInfo"]["SizeInMiB"]) == (4, 16384)
    assert (
        code_of(lambda: lab.ec2.describe_instance_types(InstanceTypes=["no.such"])) == "InvalidInstanceType"
    )


def test_a_prepared_interface_keeps_its_address(lab: Ground) -> None:
    """An instance launched onto an existing interface has its address and leaves it when terminated."""
    card = lab.ec2.create_network_interface(SubnetId=lab.place["subnet"], PrivateIpAddress="10.7.0.50")
    card_id = card["NetworkInterface"]["NetworkInterfaceId"]
    request = {
        key: value for key, value in lab.request().items() if key not in ("SubnetId", "SecurityGroupIds")
    }
    request["NetworkInterfaces"] = [{"DeviceIndex": 0, "NetworkInterfaceId": card_id}]
    one = lab.ec2.run_instances(**request)["Instances"][0]
    assert one["PrivateIpAddress"] == "10.7.0.50"
    assert code_of(lambda: lab.ec2.run_instances(**request)) == "InvalidNetworkInterface.InUse"
    lab.pair.wait(4)
    lab.ec2.terminate_instances(InstanceIds=[one["InstanceId"]])
    lab.pair.wait(4)
    left = lab.ec2.describe_network_interfaces()["NetworkInterfaces"]
    assert [(row["NetworkInterfaceId"], row["Status"]) for row in left] == [(card_id, "available")]


def test_put_is_used_by_the_ground(lab: Ground) -> None:
    """The image's snapshot can't be written to any more."""
    snapshot = lab.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"][0]["SnapshotId"]
    assert code_of(lambda: put(lab.pair.client("ebs"), snapshot, 1, bytes(524_288))) == "ValidationException"
