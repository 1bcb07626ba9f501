"""Auto Scaling groups of the lab, through unchanged boto3: instances that really appear, are replaced and
go.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drpilot.lab import disk, shop
from drpilot.lab.cloud import Cloud
from tests.lab.delivery_world import block, clients, network, open_site, refused, until

GROUP = "shop-app"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    opened = open_site(tmp_path / "home", speed=60)
    yield opened
    opened.close()
    assert opened.errors == []


@pytest.fixture
def world(cloud: Cloud) -> dict[str, Any]:
    client = clients(cloud)
    made = network(client, block(0))
    image = shop.image(client, shop.Plan(), "shop-app", disk.root_block("app"))
    template = client("ec2").create_launch_template(
        LaunchTemplateName=GROUP,
        LaunchTemplateData={
            "ImageId": image,
            "InstanceType": "t3.small",
            "SecurityGroupIds": [made["group"]],
        },
    )
    return {
        **made,
        "client": client,
        "image": image,
        "template": template["LaunchTemplate"]["LaunchTemplateId"],
    }


def create(world: dict[str, Any], **more: Any) -> None:
    request = {
        "AutoScalingGroupName": GROUP,
        "LaunchTemplate": {"LaunchTemplateName": GROUP, "Version": "$Latest"},
        "MinSize": 0,
        "MaxSize": 4,
        "DesiredCapacity": 2,
        "VPCZoneIdentifier": ",".join(world["subnets"]),
        **more,
    }
    world["client"]("autoscaling").create_auto_scaling_group(**request)


def group(world: dict[str, Any]) -> dict[str, Any]:
    found = world["client"]("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[GROUP])
    return dict(found["AutoScalingGroups"][0])


def in_service(world: dict[str, Any], count: int) -> list[str]:
    def look() -> list[str] | None:
        instances = group(world)["Instances"]
        ids = [item["InstanceId"] for item in instances if item["LifecycleState"] == "InService"]
        return (ids or ["none"]) if len(ids) == len(instances) == count else None

    found = until(look, f"{count} instances in service")
    return [] if found == ["none"] else list(found)


def alive(world: dict[str, Any]) -> list[dict[str, Any]]:
    wanted = [
        {"Name": "tag:aws:autoscaling:groupName", "Values": [GROUP]},
        {"Name": "instance-state-name", "Values": ["pending", "running"]},
    ]
    pages = world["client"]("ec2").get_paginator("describe_instances").paginate(Filters=wanted)
    return [item for page in pages for entry in page["Reservations"] for item in entry["Instances"]]


def test_instances_appear_in_ec2_with_tags_over_both_subnets(world: dict[str, Any]) -> None:
    """A group of two launches one instance a subnet, with the group's tag and the propagated ones only."""
    tags = [
        {"Key": "tier", "Value": "app", "PropagateAtLaunch": True},
        {"Key": "own", "Value": "x", "PropagateAtLaunch": False},
    ]
    create(world, Tags=[{**tag, "ResourceId": GROUP, "ResourceType": "auto-scaling-group"} for tag in tags])
    ids = in_service(world, 2)
    found = alive(world)
    assert sorted(item["InstanceId"] for item in found) == sorted(ids)
    assert {item["SubnetId"] for item in found} == set(world["subnets"])
    for item in found:
        shown = {tag["Key"]: tag["Value"] for tag in item["Tags"]}
        assert shown.pop("aws:ec2launchtemplate:id") == world["template"]
        assert shown.pop("aws:ec2launchtemplate:version") == "1"
        assert shown == {"aws:autoscaling:groupName": GROUP, "tier": "app"}
    activities = world["client"]("autoscaling").describe_scaling_activities(AutoScalingGroupName=GROUP)
    assert {item["StatusCode"] for item in activities["Activities"]} == {"Successful"}
    assert len(activities["Activities"]) == 2


def test_scaling_out_and_in(world: dict[str, Any]) -> None:
    """The desired capacity is reached upwards and downwards, and the activities say so."""
    create(world, DesiredCapacity=0)
    scaling = world["client"]("autoscaling")
    assert in_service(world, 0) == []
    scaling.set_desired_capacity(AutoScalingGroupName=GROUP, DesiredCapacity=3)
    assert len(in_service(world, 3)) == 3
    scaling.set_desired_capacity(AutoScalingGroupName=GROUP, DesiredCapacity=1)
    kept = in_service(world, 1)
    assert until(lambda: [item["InstanceId"] for item in alive(world)] == kept, "two terminated")
    texts = [
        item["Description"].split(":")[0]
        for item in scaling.describe_scaling_activities(AutoScalingGroupName=GROUP)["Activities"]
    ]
    assert texts[:2] == ["Terminating EC2 instance"] * 2 and texts[2:] == ["Launching a new EC2 instance"] * 3


def test_a_terminated_instance_is_replaced(world: dict[str, Any]) -> None:
    """An instance that somebody terminates leaves the group and another takes its place."""
    create(world)
    first = in_service(world, 2)
    world["client"]("ec2").terminate_instances(InstanceIds=[first[0]])
    assert until(lambda: first[0] not in [item["InstanceId"] for item in group(world)["Instances"]])
    second = in_service(world, 2)
    assert first[1] in second and first[0] not in second


def test_an_unhealthy_instance_is_replaced_unless_suspended(world: dict[str, Any]) -> None:
    """SetInstanceHealth replaces an instance, but not while ReplaceUnhealthy is suspended."""
    create(world, DesiredCapacity=1)
    scaling = world["client"]("autoscaling")
    (first,) = in_service(world, 1)
    scaling.suspend_processes(AutoScalingGroupName=GROUP, ScalingProcesses=["ReplaceUnhealthy"])
    scaling.set_instance_health(InstanceId=first, HealthStatus="Unhealthy")
    world["client"]("ec2").describe_instances()
    assert [item["InstanceId"] for item in alive(world)] == [first]
    scaling.resume_processes(AutoScalingGroupName=GROUP, ScalingProcesses=["ReplaceUnhealthy"])
    until(lambda: [item["InstanceId"] for item in alive(world)] not in ([first], []), "replaced")
    assert in_service(world, 1) != [first]


def test_a_suspended_launch_launches_nothing(cloud: Cloud, world: dict[str, Any]) -> None:
    """With Launch suspended no instance comes, however long one waits; resumed, they come."""
    create(world, DesiredCapacity=0)
    scaling = world["client"]("autoscaling")
    scaling.suspend_processes(AutoScalingGroupName=GROUP, ScalingProcesses=["Launch"])
    scaling.set_desired_capacity(AutoScalingGroupName=GROUP, DesiredCapacity=2)
    cloud.advance(600)
    cloud.advance(600)
    assert alive(world) == []
    assert [item["ProcessName"] for item in group(world)["SuspendedProcesses"]] == ["Launch"]
    scaling.resume_processes(AutoScalingGroupName=GROUP)
    assert len(in_service(world, 2)) == 2


def test_bounds_are_checked(world: dict[str, Any]) -> None:
    """Capacities outside the bounds, doubled names and missing parts are refused with the service's codes."""
    scaling = world["client"]("autoscaling")
    assert refused(create, world, DesiredCapacity=5) == "ValidationError"
    assert refused(create, world, MinSize=3, MaxSize=2) == "ValidationError"
    missing = {"LaunchTemplateName": "nothing", "Version": "$Latest"}
    assert refused(create, world, LaunchTemplate=missing) == "ValidationError"
    assert refused(create, world, VPCZoneIdentifier="subnet-0000000000000000f") == "ValidationError"
    create(world, DesiredCapacity=0)
    assert refused(create, world) == "AlreadyExists"
    wanted = {"AutoScalingGroupName": GROUP, "DesiredCapacity": 9}
    assert refused(scaling.set_desired_capacity, **wanted) == "ValidationError"
    assert refused(scaling.delete_auto_scaling_group, AutoScalingGroupName="nothing") == "ValidationError"
    scaling.update_auto_scaling_group(AutoScalingGroupName=GROUP, MinSize=1, MaxSize=1)
    assert group(world)["DesiredCapacity"] == 1


def test_terminate_in_group_with_and_without_replacement(world: dict[str, Any]) -> None:
    """Decrementing lowers the desired capacity down to the minimum and not below."""
    create(world, MinSize=1)
    scaling = world["client"]("autoscaling")
    first, second = in_service(world, 2)
    scaling.terminate_instance_in_auto_scaling_group(InstanceId=first, ShouldDecrementDesiredCapacity=True)
    assert in_service(world, 1) == [second]
    wanted = {"InstanceId": second, "ShouldDecrementDesiredCapacity": True}
    assert refused(scaling.terminate_instance_in_auto_scaling_group, **wanted) == "ValidationError"


def test_detached_instances_go_on_running(world: dict[str, Any]) -> None:
    """A detached instance leaves the group, loses its tag and keeps running."""
    create(world)
    first, second = in_service(world, 2)
    world["client"]("autoscaling").detach_instances(
        AutoScalingGroupName=GROUP, InstanceIds=[first], ShouldDecrementDesiredCapacity=True
    )
    assert in_service(world, 1) == [second]
    shown = world["client"]("ec2").describe_instances(InstanceIds=[first])["Reservations"][0]["Instances"][0]
    assert shown["State"]["Name"] == "running"
    assert "aws:autoscaling:groupName" not in {tag["Key"] for tag in shown.get("Tags", [])}


def test_delete_needs_force_while_instances_are_in_it(world: dict[str, Any]) -> None:
    """ResourceInUse without ForceDelete; with it the instances are terminated and then the group is gone."""
    create(world)
    scaling = world["client"]("autoscaling")
    in_service(world, 2)
    assert refused(scaling.delete_auto_scaling_group, AutoScalingGroupName=GROUP) == "ResourceInUse"
    scaling.delete_auto_scaling_group(AutoScalingGroupName=GROUP, ForceDelete=True)
    until(lambda: not scaling.describe_auto_scaling_groups()["AutoScalingGroups"], "the group is gone")
    assert alive(world) == []


def test_a_refused_launch_is_a_failed_activity_and_is_tried_again(
    cloud: Cloud, world: dict[str, Any]
) -> None:
    """Without capacity the launch fails with EC2's sentence; once there is capacity, the instance comes."""
    with cloud.transaction():
        cloud.faults.set("capacity")
    create(world, DesiredCapacity=1)
    scaling = world["client"]("autoscaling")

    def failed() -> list[Any]:
        shown = scaling.describe_scaling_activities(AutoScalingGroupName=GROUP)["Activities"]
        return [item for item in shown if item["StatusCode"] == "Failed"]

    assert "capacity" in until(failed, "a failed activity")[0]["StatusMessage"]
    with cloud.transaction():
        cloud.faults.heal()
    assert len(in_service(world, 1)) == 1


def test_groups_tags_and_activities_page(world: dict[str, Any]) -> None:
    """Pages of one give each group, tag and activity once."""
    scaling = world["client"]("autoscaling")
    for number in range(3):
        tag = {"ResourceId": f"g{number}", "ResourceType": "auto-scaling-group", "PropagateAtLaunch": True}
        create(
            world,
            AutoScalingGroupName=f"g{number}",
            DesiredCapacity=0,
            Tags=[{**tag, "Key": "app", "Value": f"v{number}"}],
        )
    pages = scaling.get_paginator("describe_auto_scaling_groups").paginate(PaginationConfig={"PageSize": 1})
    assert [g["AutoScalingGroupName"] for page in pages for g in page["AutoScalingGroups"]] == [
        "g0",
        "g1",
        "g2",
    ]
    pages = scaling.get_paginator("describe_tags").paginate(PaginationConfig={"PageSize": 1})
    assert [tag["Value"] for page in pages for tag in page["Tags"]] == ["v0", "v1", "v2"]
    found = scaling.describe_auto_scaling_groups(Filters=[{"Name": "tag:app", "Values": ["v1"]}])
    assert [g["AutoScalingGroupName"] for g in found["AutoScalingGroups"]] == ["g1"]


def test_groups_survive_a_restart_of_the_lab(tmp_path: Path, cloud: Cloud, world: dict[str, Any]) -> None:
    """After the lab was closed and opened again the group still looks after its instances."""
    create(world)
    first = in_service(world, 2)
    cloud.close()
    again = open_site(tmp_path / "home", speed=60)
    try:
        later = {**world, "client": clients(again)}
        assert sorted(in_service(later, 2)) == sorted(first)
        later["client"]("ec2").terminate_instances(InstanceIds=[first[0]])
        until(lambda: first[0] not in [item["InstanceId"] for item in group(later)["Instances"]])
        assert first[1] in in_service(later, 2)
        assert again.errors == []
    finally:
        again.close()
