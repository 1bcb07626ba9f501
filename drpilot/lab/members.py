"""The instances of Auto Scaling groups: showing, ending, detaching and protecting them, and the activities.

Source: Amazon EC2 Auto Scaling API reference 2011-01-01.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drpilot.base.clock import parse_time
from drpilot.lab import scaling
from drpilot.lab.cloud import Cloud, Refusal, action
from drpilot.lab.marker import page
from drpilot.lab.scaling import ACTIVITIES, GROUPS

__all__ = ["group_row", "refused", "shown_member"]


def refused(message: str) -> Refusal:
    """The ValidationError with which this service words most of its refusals."""
    return Refusal("ValidationError", message)


def group_row(cloud: Cloud, name: str) -> dict[str, Any]:
    """The row of a group, or ValidationError."""
    row = cloud.table(GROUPS).get(name)
    if row is None:
        raise refused(f"AutoScalingGroup name not found - AutoScalingGroup '{name}' not found")
    return row


def _group_of(cloud: Cloud, instance_id: str) -> dict[str, Any]:
    for name, row in cloud.table(GROUPS).peek().items():
        if instance_id in row["instances"]:
            return cloud.table(GROUPS)[name]
    raise refused(f"Instance Id not found - No managed instance found for instance ID: {instance_id}")


def shown_member(key: str, member: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """One instance as the service shows it."""
    template = row["template"]
    if template is None:
        launched: dict[str, Any] = {"LaunchConfigurationName": member.get("configuration")}
    else:
        launched = {
            "LaunchTemplate": {
                "LaunchTemplateId": template["id"],
                "LaunchTemplateName": template["name"],
                "Version": member["version"],
            }
        }
    return {
        "InstanceId": key,
        "InstanceType": member["type"],
        "AvailabilityZone": member["zone"],
        "LifecycleState": member["lifecycle"],
        "HealthStatus": member["health"],
        **launched,
        "ProtectedFromScaleIn": member["protected"],
    }


def _activity(row: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in row.items() if name != "number"}
    for name in ("StartTime", "EndTime"):
        if name in shown:
            shown[name] = parse_time(shown[name])
    return shown


@action("autoscaling", "TerminateInstanceInAutoScalingGroup")
def terminate_instance(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """TerminateInstanceInAutoScalingGroup: with a replacement, or with one less desired."""
    row = _group_of(cloud, params["InstanceId"])
    if row["instances"][params["InstanceId"]]["lifecycle"] == "Terminating":
        raise Refusal(
            "ScalingActivityInProgress", f"Instance {params['InstanceId']} is already being terminated"
        )
    if params["ShouldDecrementDesiredCapacity"]:
        if row["desired"] <= row["min"]:
            raise refused(
                f"Currently, desiredSize equals minSize ({row['min']}). Terminating instance without"
                " replacement will violate group's min size constraint. Either set"
                " shouldDecrementDesiredCapacity flag to false or lower group's min size."
            )
        row["desired"] -= 1
    cause = "instance was taken out of service in response to a user request."
    activity = scaling.retire(cloud, row, params["InstanceId"], cause)
    return {"Activity": _activity(cloud.table(ACTIVITIES)[activity])}


@action("autoscaling", "DetachInstances")
def detach_instances(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DetachInstances: they go on running outside the group."""
    row = group_row(cloud, params["AutoScalingGroupName"])
    wanted = params.get("InstanceIds") or []
    for key in wanted:
        if key not in row["instances"]:
            raise refused(f"The instance {key} is not part of Auto Scaling group {row['name']}.")
    if params["ShouldDecrementDesiredCapacity"]:
        if row["desired"] - len(wanted) < row["min"]:
            raise refused("Detaching the instances would take the group below its min size.")
        row["desired"] -= len(wanted)
    activities = [scaling.detach(cloud, row, key) for key in wanted]
    return {"Activities": [_activity(cloud.table(ACTIVITIES)[key]) for key in activities]}


@action("autoscaling", "SetInstanceHealth")
def set_instance_health(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """SetInstanceHealth: an unhealthy instance is replaced."""
    row = _group_of(cloud, params["InstanceId"])
    if params["HealthStatus"] not in ("Healthy", "Unhealthy"):
        raise refused("HealthStatus must be Healthy or Unhealthy")
    row["instances"][params["InstanceId"]]["health"] = params["HealthStatus"]
    return {}


@action("autoscaling", "SetInstanceProtection")
def set_instance_protection(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """SetInstanceProtection from scale-in."""
    row = group_row(cloud, params["AutoScalingGroupName"])
    for key in params["InstanceIds"]:
        if key not in row["instances"]:
            raise refused(f"The instance {key} is not part of Auto Scaling group {row['name']}.")
        row["instances"][key]["protected"] = bool(params["ProtectedFromScaleIn"])
    return {}


@action("autoscaling", "DescribeAutoScalingInstances")
def describe_auto_scaling_instances(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeAutoScalingInstances: of all groups, or the named ones."""
    found = [
        {**shown_member(key, member, row), "AutoScalingGroupName": row["name"]}
        for row in cloud.table(GROUPS).peek().values()
        for key, member in row["instances"].items()
        if not params.get("InstanceIds") or key in params["InstanceIds"]
    ]
    for item in found:
        item["HealthStatus"] = item["HealthStatus"].upper()
    size = params.get("MaxRecords") or 50
    shown, token = page(found, lambda item: str(item["InstanceId"]), size, params.get("NextToken"))
    return {"AutoScalingInstances": shown, **({"NextToken": token} if token else {})}


@action("autoscaling", "DescribeScalingActivities")
def describe_scaling_activities(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeScalingActivities: newest first; of deleted groups with IncludeDeletedGroups only."""
    rows = list(cloud.table(ACTIVITIES).peek().values())
    name, wanted = params.get("AutoScalingGroupName"), params.get("ActivityIds")
    if name and not params.get("IncludeDeletedGroups"):
        group_row(cloud, name)
    if not params.get("IncludeDeletedGroups"):
        alive = {row["arn"] for row in cloud.table(GROUPS).peek().values()}
        rows = [row for row in rows if row["AutoScalingGroupARN"] in alive]
    rows = [row for row in rows if not name or row["AutoScalingGroupName"] == name]
    rows = [row for row in rows if not wanted or row["ActivityId"] in wanted]
    size, last = params.get("MaxRecords") or 100, 10**9
    shown, token = page(rows, lambda row: f"{last - row['number']:010d}", size, params.get("NextToken"))
    return {"Activities": [_activity(row) for row in shown], **({"NextToken": token} if token else {})}
