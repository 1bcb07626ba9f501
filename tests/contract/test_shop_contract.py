"""What the tiers of a shop rely on: templates, groups, balancers, images, keys, walls, objects, machines at rest."""

from __future__ import annotations

from typing import Any

import pytest

from drpilot.domain.ports import CloudError, FailureClass
from tests.contract.grounds import Ground

F = FailureClass
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx8Ty9Dw0EcUjzCmBpg6i3p1mSS7RQ5o0VHOvo3bbbb contract"


# -- launch templates ------------------------------------------------------------------------------------


def _template(ground: Ground, **data: Any) -> str:
    """A fresh launch template for one small instance; gives its name."""
    name, words = ground.fresh("template"), ground.launch_words()
    given = {"ImageId": words["ImageId"], "InstanceType": "t3.micro", **data}
    tags = [{"ResourceType": "launch-template", "Tags": [{"Key": "drpilot:member", "Value": name}]}]
    made = {"LaunchTemplateName": name, "LaunchTemplateData": given, "TagSpecifications": tags}
    ground.call("CreateLaunchTemplate", token=ground.fresh("token"), **made)
    return name


def _latest(ground: Ground, name: str) -> dict[str, Any]:
    """The newest version of a template."""
    asked = {"LaunchTemplateName": name, "Versions": ["$Latest"]}
    return dict(ground.call("DescribeLaunchTemplateVersions", **asked)["LaunchTemplateVersions"][0])


def test_a_new_version_of_a_template_is_the_latest_and_not_the_default(ground: Ground) -> None:
    """Version 2 holds its own data alone, and is $Latest; the default stays version 1."""
    name = _template(ground, KeyName="ops")
    assert _latest(ground, name)["VersionNumber"] == 1
    data = {"ImageId": ground.image(), "InstanceType": "t3.small"}
    ground.call("CreateLaunchTemplateVersion", LaunchTemplateName=name, LaunchTemplateData=data)
    latest = _latest(ground, name)
    assert (latest["VersionNumber"], latest["DefaultVersion"]) == (2, False)
    assert latest["LaunchTemplateData"] == data
    filters = [{"Name": "tag:drpilot:member", "Values": [name]}]
    (found,) = ground.call("DescribeLaunchTemplates", Filters=filters)["LaunchTemplates"]
    assert (found["DefaultVersionNumber"], found["LatestVersionNumber"]) == (1, 2)


def test_a_template_name_is_there_once(ground: Ground) -> None:
    """A second template of the name is a conflict, and an unknown one is not found."""
    name = _template(ground)
    again = {"LaunchTemplateName": name, "LaunchTemplateData": {"InstanceType": "t3.micro"}}
    error = ground.refusal("CreateLaunchTemplate", **again)
    assert (error.code, error.kind, error.happened) == (
        "InvalidLaunchTemplateName.AlreadyExistsException",
        F.CONFLICT,
        "no",
    )
    asked = {"LaunchTemplateName": "nobody", "Versions": ["$Latest"]}
    assert ground.refusal("DescribeLaunchTemplateVersions", **asked).kind is F.NOT_FOUND


# -- scaling groups --------------------------------------------------------------------------------------


def _scaling(ground: Ground, **more: Any) -> str:
    """A fresh group at 0; gives its name."""
    name = ground.fresh("group")
    template = {"LaunchTemplateName": _template(ground), "Version": "$Latest"}
    sizes = {"MinSize": 0, "MaxSize": 2, "DesiredCapacity": 0}
    place = {"VPCZoneIdentifier": ground.network()["subnet"]}
    given = {"AutoScalingGroupName": name, "LaunchTemplate": template, **sizes, **place, **more}
    ground.call("CreateAutoScalingGroup", service="autoscaling", **given)
    return name


def _group(ground: Ground, name: str) -> dict[str, Any]:
    """A group as it is listed."""
    asked = {"AutoScalingGroupNames": [name]}
    pages = ground.site.pages("autoscaling", "DescribeAutoScalingGroups", asked)
    (found,) = (one for page in pages for one in page["AutoScalingGroups"])
    return dict(found)


def test_a_group_at_rest_has_no_instance_and_grows_when_told(ground: Ground) -> None:
    """0 means none; 1 makes one that is in service, tagged with the group's name; 0 again takes it away."""
    name = _scaling(ground)
    assert _group(ground, name)["Instances"] == []
    sizes = {"AutoScalingGroupName": name, "MinSize": 1, "MaxSize": 2, "DesiredCapacity": 1}
    ground.call("UpdateAutoScalingGroup", service="autoscaling", **sizes)
    ground.until(
        lambda: [one["LifecycleState"] for one in _group(ground, name)["Instances"]] == ["InService"]
    )
    filters = [{"Name": "tag:aws:autoscaling:groupName", "Values": [name]}]
    (found,) = ground.call("DescribeInstances", Filters=filters)["Reservations"]
    assert found["Instances"][0]["State"]["Name"] == "running"
    ground.call(
        "UpdateAutoScalingGroup", service="autoscaling", **{**sizes, "MinSize": 0, "DesiredCapacity": 0}
    )
    ground.until(lambda: _group(ground, name)["Instances"] == [])


def test_a_group_whose_processes_are_suspended_launches_nothing(ground: Ground) -> None:
    """The fence of a tier: what is suspended is listed, and a greater number changes nothing until it is resumed."""
    name = _scaling(ground)
    which = {"AutoScalingGroupName": name, "ScalingProcesses": ["Launch"]}
    ground.call("SuspendProcesses", service="autoscaling", **which)
    assert [one["ProcessName"] for one in _group(ground, name)["SuspendedProcesses"]] == ["Launch"]
    wanted = {"AutoScalingGroupName": name, "DesiredCapacity": 1}
    ground.call("UpdateAutoScalingGroup", service="autoscaling", **wanted)
    for _ in range(20):
        ground.let_pass(0.1)
    assert _group(ground, name)["Instances"] == []
    ground.call("ResumeProcesses", service="autoscaling", **which)
    ground.until(lambda: len(_group(ground, name)["Instances"]) == 1)


def test_a_group_name_is_there_once_and_its_tags_are_its_own(ground: Ground) -> None:
    """A second group of the name is a conflict; a tag put later is found at the group, as a mark of history is."""
    name = _scaling(ground)
    given = {"AutoScalingGroupName": name, "MinSize": 0, "MaxSize": 1}
    template = {"LaunchTemplateName": _template(ground), "Version": "$Latest"}
    place = {"VPCZoneIdentifier": ground.network()["subnet"], "LaunchTemplate": template}
    error = ground.refusal("CreateAutoScalingGroup", service="autoscaling", **given, **place)
    assert (error.code, error.kind, error.happened) == ("AlreadyExists", F.CONFLICT, "no")
    mark = {"Key": "drpilot:invalidated", "Value": "3", "PropagateAtLaunch": False}
    tag = {**mark, "ResourceId": name, "ResourceType": "auto-scaling-group"}
    ground.call("CreateOrUpdateTags", service="autoscaling", Tags=[tag])
    assert {one["Key"]: one["Value"] for one in _group(ground, name)["Tags"]} == {mark["Key"]: "3"}


# -- load balancers --------------------------------------------------------------------------------------


def _balancer(ground: Ground) -> tuple[str, str]:
    """A load balancer with a listener that forwards to a target group: the arn and name of the group."""
    network, name = ground.network(), ground.fresh("lb")
    if "other" not in ground.base:
        given = {"VpcId": network["vpc"], "CidrBlock": "10.9.2.0/24"}
        zone = f"{ground.site.region}b"
        ground.base["other"] = ground.call("CreateSubnet", AvailabilityZone=zone, **given)["Subnet"][
            "SubnetId"
        ]
    subnets = [network["subnet"], ground.base["other"]]
    words = {"Name": name, "Subnets": subnets, "SecurityGroups": [network["group"]], "Scheme": "internal"}
    made = ground.call("CreateLoadBalancer", service="elbv2", **words)["LoadBalancers"][0]
    group = {"Name": name, "Protocol": "HTTP", "Port": 80, "VpcId": network["vpc"], "TargetType": "instance"}
    target = ground.call("CreateTargetGroup", service="elbv2", **group)["TargetGroups"][0]["TargetGroupArn"]
    forward = [{"Type": "forward", "TargetGroupArn": target}]
    listener = {"LoadBalancerArn": made["LoadBalancerArn"], "Protocol": "HTTP", "Port": 80}
    ground.call("CreateListener", service="elbv2", DefaultActions=forward, **listener)
    return str(target), name


def _health(ground: Ground, group: str) -> list[tuple[str, str]]:
    """Each target with the word of its health."""
    found = ground.call("DescribeTargetHealth", service="elbv2", TargetGroupArn=group)
    return [(one["Target"]["Id"], one["TargetHealth"]["State"]) for one in found["TargetHealthDescriptions"]]


def test_a_balancer_is_found_by_name_and_leads_to_its_group(ground: Ground) -> None:
    """Name, DNS name and listener are as they were made, and a name nobody has is not found."""
    group, name = _balancer(ground)
    (found,) = ground.call("DescribeLoadBalancers", service="elbv2", Names=[name])["LoadBalancers"]
    assert found["DNSName"]
    arn = {"LoadBalancerArn": found["LoadBalancerArn"]}
    (listener,) = ground.call("DescribeListeners", service="elbv2", **arn)["Listeners"]
    assert listener["DefaultActions"][0]["TargetGroupArn"] == group
    error = ground.refusal("DescribeLoadBalancers", service="elbv2", Names=["nobody"])
    assert (error.code, error.kind) == ("LoadBalancerNotFound", F.NOT_FOUND)
    error = ground.refusal("DescribeTargetGroups", service="elbv2", Names=["nobody"])
    assert (error.code, error.kind) == ("TargetGroupNotFound", F.NOT_FOUND)


def test_a_target_is_not_healthy_before_it_answered(ground: Ground) -> None:
    """An instance that serves nothing is registered, but never healthy: drpilot must not send users there."""
    group, _ = _balancer(ground)
    instance = ground.instance()
    ground.call("RegisterTargets", service="elbv2", TargetGroupArn=group, Targets=[{"Id": instance}])
    ((target, state),) = _health(ground, group)
    assert (target, state in ("initial", "unhealthy")) == (instance, True)
    ground.until(lambda: _health(ground, group) == [(instance, "unhealthy")])
    ground.call("DeregisterTargets", service="elbv2", TargetGroupArn=group, Targets=[{"Id": instance}])
    ground.until(lambda: all(state == "draining" for _, state in _health(ground, group)))


# -- images and keys -------------------------------------------------------------------------------------


def _copied(ground: Ground, image: str, token: str) -> str:
    """Ask the other site for a copy of an image; the words are the same for the same token."""
    words = {"Name": f"copy-{token}", "SourceImageId": image, "SourceRegion": ground.site.region}
    return str(ground.other.call("ec2", "CopyImage", words, token=token)["ImageId"])


def _shared(ground: Ground, image: str) -> None:
    """Let the other account copy an image."""
    if ground.other.account != ground.site.account:
        grant = {"Add": [{"UserId": ground.other.account}]}
        ground.call("ModifyImageAttribute", ImageId=image, LaunchPermission=grant)
        (found,) = ground.call("DescribeImages", ImageIds=[image])["Images"]
        snapshot = found["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
        share = {"Attribute": "createVolumePermission", "OperationType": "add"}
        ground.call("ModifySnapshotAttribute", SnapshotId=snapshot, UserIds=[ground.other.account], **share)


def test_one_token_makes_one_copy_of_an_image(ground: Ground) -> None:
    """CopyImage with the same token gives the same image."""
    image, token = ground.image(), ground.fresh("token")
    _shared(ground, image)
    assert _copied(ground, image, token) == _copied(ground, image, token)


def test_a_copied_image_boots_from_a_snapshot_of_its_own(ground: Ground) -> None:
    """On the other site it is pending first, then available, over a snapshot that lies there."""
    image = ground.registered(ground.snapshot(ground.volume(2)))
    _shared(ground, image)
    copy = _copied(ground, image, ground.fresh("token"))

    def seen() -> dict[str, Any]:
        return dict(ground.other.call("ec2", "DescribeImages", {"ImageIds": [copy]})["Images"][0])

    ground.until(lambda: seen()["State"] == "available")
    (mapping,) = seen()["BlockDeviceMappings"]
    snapshot = {"SnapshotIds": [mapping["Ebs"]["SnapshotId"]]}
    (found,) = ground.other.call("ec2", "DescribeSnapshots", snapshot)["Snapshots"]
    assert (found["State"], found["VolumeSize"]) == ("completed", 2)
    assert seen()["RootDeviceName"] == "/dev/xvda"


def test_an_image_that_is_not_there_can_not_be_copied(ground: Ground) -> None:
    """Refused with a definite no, before anything was made."""
    with pytest.raises(CloudError) as caught:
        _copied(ground, "ami-0123456789abcdef0", ground.fresh("token"))
    assert (caught.value.kind, caught.value.happened) == (F.NOT_FOUND, "no")


def test_a_key_pair_is_imported_once_under_its_name(ground: Ground) -> None:
    """The same key lies on both sides under one name; a second import is a conflict, a deleted one is gone."""
    name = ground.fresh("key")
    given = {"KeyName": name, "PublicKeyMaterial": KEY.encode()}
    ground.call("ImportKeyPair", **given)
    error = ground.refusal("ImportKeyPair", **given)
    assert (error.code, error.kind, error.happened) == ("InvalidKeyPair.Duplicate", F.CONFLICT, "no")
    assert [one["KeyName"] for one in ground.call("DescribeKeyPairs", KeyNames=[name])["KeyPairs"]] == [name]
    ground.call("DeleteKeyPair", KeyName=name)
    assert ground.refusal("DescribeKeyPairs", KeyNames=[name]).code == "InvalidKeyPair.NotFound"
    words = {**ground.launch_words(), "KeyName": name}
    assert ground.refusal("RunInstances", **words).code == "InvalidKeyPair.NotFound"


# -- security groups -------------------------------------------------------------------------------------


def _rule(source: str) -> list[dict[str, Any]]:
    return [{"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": source}]}]


def test_a_new_group_lets_everything_out_and_nothing_in(ground: Ground) -> None:
    """What isolation must take away: the rule out that every new group has. Then nothing passes either way."""
    vpc = ground.network()["vpc"]
    made = ground.call("CreateSecurityGroup", GroupName=ground.fresh("walls"), Description="x", VpcId=vpc)[
        "GroupId"
    ]

    def found() -> dict[str, Any]:
        return dict(ground.call("DescribeSecurityGroups", GroupIds=[made])["SecurityGroups"][0])

    assert found().get("IpPermissions", []) == []
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    assert [rule["IpProtocol"] for rule in found()["IpPermissionsEgress"]] == ["-1"]
    ground.call("RevokeSecurityGroupEgress", GroupId=made, IpPermissions=everything)
    assert found().get("IpPermissionsEgress", []) == []
    ground.call("AuthorizeSecurityGroupIngress", GroupId=made, IpPermissions=_rule("10.0.0.0/8"))
    error = ground.refusal("AuthorizeSecurityGroupIngress", GroupId=made, IpPermissions=_rule("10.0.0.0/8"))
    assert (error.code, error.kind, error.happened) == ("InvalidPermission.Duplicate", F.CONFLICT, "no")
    ground.call("RevokeSecurityGroupIngress", GroupId=made, IpPermissions=_rule("10.0.0.0/8"))
    assert found().get("IpPermissions", []) == []


def test_a_group_name_is_there_once_in_its_network(ground: Ground) -> None:
    """CreateSecurityGroup takes no token: its name is what a repeat runs into."""
    given = {"GroupName": ground.fresh("walls"), "Description": "x", "VpcId": ground.network()["vpc"]}
    ground.call("CreateSecurityGroup", **given)
    error = ground.refusal("CreateSecurityGroup", **given)
    assert (error.code, error.kind, error.happened) == ("InvalidGroup.Duplicate", F.CONFLICT, "no")


def test_a_group_in_use_is_not_deleted(ground: Ground) -> None:
    """Clean-up must take the machine first: DependencyViolation is a conflict, and the group stays."""
    vpc = ground.network()["vpc"]
    made = ground.call("CreateSecurityGroup", GroupName=ground.fresh("walls"), Description="x", VpcId=vpc)[
        "GroupId"
    ]
    ground.instance(SecurityGroupIds=[made])
    error = ground.refusal("DeleteSecurityGroup", GroupId=made)
    assert (error.code, error.kind, error.happened) == ("DependencyViolation", F.CONFLICT, "no")
    assert len(ground.call("DescribeSecurityGroups", GroupIds=[made])["SecurityGroups"]) == 1


# -- objects ---------------------------------------------------------------------------------------------


def _bucket(ground: Ground) -> str:
    name = ground.fresh("objects")
    where = {"LocationConstraint": ground.site.region}
    ground.call("CreateBucket", service="s3", Bucket=name, CreateBucketConfiguration=where)
    return name


def test_an_object_is_written_only_over_what_was_read(ground: Ground) -> None:
    """If-None-Match makes it once, If-Match replaces only the known one; who loses changes nothing."""
    where = {"Bucket": _bucket(ground), "Key": "claims/shop"}
    first = ground.call("PutObject", service="s3", Body=b"one", IfNoneMatch="*", **where)["ETag"]
    error = ground.refusal("PutObject", service="s3", Body=b"two", IfNoneMatch="*", **where)
    assert (error.code, error.happened) == ("PreconditionFailed", "no")
    second = ground.call("PutObject", service="s3", Body=b"two", IfMatch=first, **where)["ETag"]
    error = ground.refusal("PutObject", service="s3", Body=b"three", IfMatch=first, **where)
    assert (error.code, error.kind, error.happened) == ("PreconditionFailed", F.PRECONDITION, "no")
    found = ground.call("GetObject", service="s3", **where)
    assert (bytes(found["Body"]), found["ETag"]) == (b"two", second)


def test_objects_are_listed_by_prefix_over_pages(ground: Ground) -> None:
    """Seven keys of one prefix in pages of three, in order, each once, and none of another prefix."""
    bucket = _bucket(ground)
    keys = [f"shop/{number}" for number in range(7)]
    for key in [*keys, "other/1"]:
        ground.call("PutObject", service="s3", Bucket=bucket, Key=key, Body=key.encode())
    asked = {"Bucket": bucket, "Prefix": "shop/", "MaxKeys": 3}
    pages = list(ground.site.pages("s3", "ListObjectsV2", asked))
    assert [one["Key"] for page in pages for one in page.get("Contents", [])] == keys
    assert len(pages) == 3


def test_a_deleted_object_is_gone_and_deleting_it_again_is_no_error(ground: Ground) -> None:
    """Deleting is a state to reach, not an act to count."""
    where = {"Bucket": _bucket(ground), "Key": "k"}
    ground.call("PutObject", service="s3", Body=b"x", **where)
    for _ in range(2):
        ground.call("DeleteObject", service="s3", **where)
    error = ground.refusal("GetObject", service="s3", **where)
    assert (error.code, error.kind) == ("NoSuchKey", F.NOT_FOUND)


# -- a machine at rest -----------------------------------------------------------------------------------


def _rested(ground: Ground, instance: str) -> None:
    ground.call("StopInstances", InstanceIds=[instance])
    ground.until(lambda: ground.instances(instance)[0]["State"]["Name"] == "stopped")


def test_a_stopped_machine_starts_again_as_itself(ground: Ground) -> None:
    """Stopped and started: the same id, disks and private address; stopping twice is no error."""
    instance = ground.instance()
    before = ground.instances(instance)[0]
    _rested(ground, instance)
    ground.call("StopInstances", InstanceIds=[instance])
    reply = ground.call("StartInstances", InstanceIds=[instance])
    assert reply["StartingInstances"][0]["CurrentState"]["Name"] == "pending"
    ground.until(lambda: ground.instances(instance)[0]["State"]["Name"] == "running")
    after = ground.instances(instance)[0]
    assert after["PrivateIpAddress"] == before["PrivateIpAddress"]
    assert [one["Ebs"]["VolumeId"] for one in after["BlockDeviceMappings"]] == [
        one["Ebs"]["VolumeId"] for one in before["BlockDeviceMappings"]
    ]


def test_a_type_is_changed_only_at_rest(ground: Ground) -> None:
    """A running machine keeps its size, with a definite no; at rest it takes the other one and starts with it."""
    instance, bigger = ground.instance(), {"InstanceType": {"Value": "t3.small"}}
    error = ground.refusal("ModifyInstanceAttribute", InstanceId=instance, **bigger)
    assert (error.code, error.happened) == ("IncorrectInstanceState", "no")
    assert ground.instances(instance)[0]["InstanceType"] == "t3.micro"
    _rested(ground, instance)
    ground.call("ModifyInstanceAttribute", InstanceId=instance, **bigger)
    ground.call("StartInstances", InstanceIds=[instance])
    ground.until(lambda: ground.instances(instance)[0]["State"]["Name"] == "running")
    assert ground.instances(instance)[0]["InstanceType"] == "t3.small"


def test_the_groups_of_a_machine_are_exchanged_while_it_runs(ground: Ground) -> None:
    """The deny-all fence: groups are replaced, not added, and it works on a machine nobody can stop."""
    instance, vpc = ground.instance(), ground.network()["vpc"]
    deny = ground.call("CreateSecurityGroup", GroupName=ground.fresh("walls"), Description="x", VpcId=vpc)[
        "GroupId"
    ]
    ground.call("ModifyInstanceAttribute", InstanceId=instance, Groups=[deny])
    assert [one["GroupId"] for one in ground.instances(instance)[0]["SecurityGroups"]] == [deny]
