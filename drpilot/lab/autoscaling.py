"""The calls of Amazon EC2 Auto Scaling: groups, capacity, processes, tags, activities.

What the groups then do by themselves is in scaling.py. Source: Amazon EC2 Auto Scaling API reference
2011-01-01. Groups launch from launch templates or launch configurations; mixed instances policies are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from drpilot.base.clock import parse_time
from drpilot.lab import machines, scaling, targets
from drpilot.lab.classic_balancing import BALANCERS as CLASSIC_BALANCERS
from drpilot.lab.cloud import Cloud, Refusal, action, kind
from drpilot.lab.launch_configurations import has_configuration
from drpilot.lab.marker import page
from drpilot.lab.members import group_row, refused, shown_member
from drpilot.lab.scaling import GROUPS, PROCESSES

__all__ = ["create_auto_scaling_group", "describe_auto_scaling_groups"]

kind(GROUPS, "auto-scaling-group")


def _check_sizes(low: int, desired: int, high: int) -> None:
    if low < 0 or high < low:
        raise refused(f"Max bound, {high}, must be greater than or equal to min bound, {low}")
    if not low <= desired <= high:
        raise refused(
            f"Desired capacity:{desired} must be between the specified min size:{low} and max size:{high}"
        )


def _template(cloud: Cloud, given: Mapping[str, Any]) -> dict[str, str]:
    found = machines.template(cloud, given)
    if found is None:
        named = given.get("LaunchTemplateId") or given.get("LaunchTemplateName")
        raise refused(
            "You must use a valid fully-formed launch template. The specified launch template,"
            f" {named}, or its version {given.get('Version')!r}, does not exist."
        )
    return found


def _launched_from(cloud: Cloud, params: Mapping[str, Any]) -> dict[str, Any]:
    """The members `template` and `configuration` of a group, of which one is None."""
    configuration = params.get("LaunchConfigurationName")
    if bool(configuration) == bool(params.get("LaunchTemplate")):
        raise refused("Valid requests must contain either LaunchTemplate or LaunchConfigurationName")
    if not configuration:
        return {"template": _template(cloud, params["LaunchTemplate"]), "configuration": None}
    if not has_configuration(cloud, configuration):
        raise refused(f"Launch configuration name not found - Launch configuration {configuration} not found")
    return {"template": None, "configuration": configuration}


def _balancers(cloud: Cloud, names: Iterable[str]) -> list[str]:
    found = list(dict.fromkeys(names))
    for name in found:
        if name not in cloud.table(CLASSIC_BALANCERS):
            raise refused("Provided Load Balancers may not be valid. Please ensure they exist and try again.")
    return found


def _subnets(cloud: Cloud, params: Mapping[str, Any]) -> list[str]:
    wanted = [part.strip() for part in (params.get("VPCZoneIdentifier") or "").split(",") if part.strip()]
    if not wanted and params.get("AvailabilityZones"):
        wanted = machines.default_subnets(cloud, params["AvailabilityZones"])
    if not wanted:
        raise refused("At least one Availability Zone or VPC Subnet is required.")
    for subnet_id in wanted:
        if machines.subnet(cloud, subnet_id) is None:
            raise refused(f"The subnet ID '{subnet_id}' does not exist")
    if len({machines.vpc_of_subnet(cloud, subnet_id) for subnet_id in wanted}) > 1:
        raise refused("The subnets must all be in the same VPC")
    zones = {machines.zone_of_subnet(cloud, subnet_id) for subnet_id in wanted}
    if params.get("AvailabilityZones") and not set(params["AvailabilityZones"]) >= zones:
        raise refused(
            "The availability zones of the specified subnets and the Auto Scaling group do not match"
        )
    return wanted


def _target_groups(cloud: Cloud, arns: Iterable[str]) -> list[str]:
    found = list(dict.fromkeys(arns))
    for arn in found:
        if arn not in cloud.table(targets.GROUPS):
            raise refused("Provided Target Groups may not be valid. Please ensure they exist and try again.")
    return found


def _tag_list(given: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    tags = []
    for tag in given:
        if not tag.get("Key") or tag["Key"].lower().startswith("aws:"):
            raise refused("Tag keys must not be empty or begin with 'aws:'")
        propagate = bool(tag.get("PropagateAtLaunch"))
        tags.append({"Key": tag["Key"], "Value": tag.get("Value") or "", "PropagateAtLaunch": propagate})
    if len({tag["Key"] for tag in tags}) != len(tags):
        raise refused("A tag key is given twice")
    return tags


def _put_tags(row: dict[str, Any], tags: list[dict[str, Any]]) -> None:
    row["tags"] = tags
    row["Tags"] = [{"Key": tag["Key"], "Value": tag["Value"]} for tag in tags]


def _health_check(wanted: str) -> str:
    kinds = {part.strip() for part in wanted.split(",")}
    if not kinds <= {"EC2", "ELB"}:
        raise refused(f"Health check type {wanted} is not one of EC2 and ELB")
    return "ELB" if "ELB" in kinds else "EC2"


@action("autoscaling", "CreateAutoScalingGroup")
def create_auto_scaling_group(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """CreateAutoScalingGroup from a launch template; AlreadyExists for a name in use."""
    name = params["AutoScalingGroupName"]
    if name in cloud.table(GROUPS):
        message = (
            f"AutoScalingGroup by this name already exists - A group with the name {name} already exists"
        )
        raise Refusal("AlreadyExists", message)
    launched_from = _launched_from(cloud, params)
    low, high = int(params["MinSize"]), int(params["MaxSize"])
    given = params.get("DesiredCapacity")
    desired = low if given is None else int(given)
    _check_sizes(low, desired, high)
    subnets = _subnets(cloud, params)
    unique = cloud.new_hex(32)
    arn = (
        f"arn:aws:autoscaling:{cloud.region}:{cloud.account}:autoScalingGroup:"
        f"{unique[:8]}-{unique[8:12]}-{unique[12:16]}-{unique[16:20]}-{unique[20:]}:autoScalingGroupName/{name}"
    )
    row: dict[str, Any] = {
        "name": name,
        "arn": arn,
        **launched_from,
        "min": low,
        "max": high,
        "desired": desired,
        "cooldown_s": int(params.get("DefaultCooldown") or 300),
        "subnets": subnets,
        "target_groups": _target_groups(cloud, params.get("TargetGroupARNs") or []),
        "balancers": _balancers(cloud, params.get("LoadBalancerNames") or []),
        "health_check": _health_check(params.get("HealthCheckType") or "EC2"),
        "grace_s": int(params.get("HealthCheckGracePeriod") or 0),
        "policies": params.get("TerminationPolicies") or ["Default"],
        "protect_new": bool(params.get("NewInstancesProtectedFromScaleIn")),
        "suspended": [],
        "instances": {},
        "created": cloud.stamp(),
        "status": "",
        "retry_at_s": 0.0,
    }
    _put_tags(row, _tag_list(params.get("Tags") or []))
    cloud.table(GROUPS)[name] = row
    return {}


def _shown_tags(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    own = {"ResourceId": row["name"], "ResourceType": "auto-scaling-group"}
    return [{**own, **tag} for tag in sorted(row["tags"], key=lambda tag: str(tag["Key"]))]


def _described(cloud: Cloud, row: Mapping[str, Any]) -> dict[str, Any]:
    template = row["template"]
    shown = {
        "AutoScalingGroupName": row["name"],
        "AutoScalingGroupARN": row["arn"],
        "LaunchConfigurationName": row.get("configuration"),
        "LaunchTemplate": template
        and {
            "LaunchTemplateId": template["id"],
            "LaunchTemplateName": template["name"],
            "Version": template["version"],
        },
        "MinSize": row["min"],
        "MaxSize": row["max"],
        "DesiredCapacity": row["desired"],
        "DefaultCooldown": row["cooldown_s"],
        "AvailabilityZones": sorted({machines.zone_of_subnet(cloud, subnet) for subnet in row["subnets"]}),
        "LoadBalancerNames": row.get("balancers") or [],
        "TargetGroupARNs": row["target_groups"],
        "HealthCheckType": row["health_check"],
        "HealthCheckGracePeriod": row["grace_s"],
        "Instances": [shown_member(key, member, row) for key, member in row["instances"].items()],
        "CreatedTime": parse_time(row["created"]),
        "SuspendedProcesses": [
            {"ProcessName": name, "SuspensionReason": reason} for name, reason in _suspensions(row)
        ],
        "VPCZoneIdentifier": ",".join(row["subnets"]),
        "EnabledMetrics": [],
        "Tags": _shown_tags(row),
        "TerminationPolicies": row["policies"],
        "NewInstancesProtectedFromScaleIn": row["protect_new"],
        "TrafficSources": [{"Identifier": arn, "Type": "elbv2"} for arn in row["target_groups"]],
    }
    return {**shown, "Status": row["status"]} if row["status"] else shown


def _suspensions(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, "User suspended") for name in row["suspended"]]


def _filtered(rows: Iterable[dict[str, Any]], filters: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    kept = list(rows)
    for item in filters:
        name, values = item.get("Name") or "", item.get("Values") or []
        if name == "tag-key":
            kept = [row for row in kept if any(tag["Key"] in values for tag in row["tags"])]
        elif name == "tag-value":
            kept = [row for row in kept if any(tag["Value"] in values for tag in row["tags"])]
        elif name.startswith("tag:"):
            key = name.removeprefix("tag:")
            kept = [
                row
                for row in kept
                if any((t["Key"], t["Value"]) in {(key, v) for v in values} for t in row["tags"])
            ]
        else:
            raise refused(
                f"Filter type {name} is not correct. Allowed filter types are: tag-key tag-value tag:<key>"
            )
    return kept


@action("autoscaling", "DescribeAutoScalingGroups")
def describe_auto_scaling_groups(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeAutoScalingGroups: a name that is not there is simply missing from the answer."""
    rows = _filtered(cloud.table(GROUPS).peek().values(), params.get("Filters") or [])
    names = params.get("AutoScalingGroupNames")
    if names:
        rows = [row for row in rows if row["name"] in names]
    token = params.get("NextToken")
    shown, token = page(rows, lambda row: str(row["name"]), params.get("MaxRecords") or 50, token)
    result: dict[str, Any] = {"AutoScalingGroups": [_described(cloud, row) for row in shown]}
    return {**result, "NextToken": token} if token else result


def _resize(row: dict[str, Any], params: Mapping[str, Any]) -> None:
    low = row["min"] if params.get("MinSize") is None else int(params["MinSize"])
    high = row["max"] if params.get("MaxSize") is None else int(params["MaxSize"])
    if params.get("DesiredCapacity") is not None:
        desired = int(params["DesiredCapacity"])
    else:
        desired = min(max(row["desired"], low), max(low, high))
    _check_sizes(low, desired, high)
    row |= {"min": low, "max": high, "desired": desired, "retry_at_s": 0.0}


@action("autoscaling", "UpdateAutoScalingGroup")
def update_auto_scaling_group(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """UpdateAutoScalingGroup: new bounds move the desired capacity with them unless it is given."""
    row = group_row(cloud, params["AutoScalingGroupName"])
    if row["status"]:
        raise Refusal("ScalingActivityInProgress", "The group is being deleted")
    _resize(row, params)
    if params.get("LaunchTemplate") or params.get("LaunchConfigurationName"):
        row |= _launched_from(cloud, params)
    if params.get("VPCZoneIdentifier") or (params.get("AvailabilityZones") and cloud.classic):
        row["subnets"] = _subnets(cloud, params)
    if params.get("HealthCheckType"):
        row["health_check"] = _health_check(params["HealthCheckType"])
    plain = {
        "DefaultCooldown": "cooldown_s",
        "HealthCheckGracePeriod": "grace_s",
        "TerminationPolicies": "policies",
        "NewInstancesProtectedFromScaleIn": "protect_new",
    }
    for given, kept in plain.items():
        if params.get(given) is not None:
            row[kept] = params[given]
    return {}


@action("autoscaling", "DeleteAutoScalingGroup")
def delete_auto_scaling_group(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DeleteAutoScalingGroup: ResourceInUse with instances in it, unless ForceDelete ends them first."""
    row = group_row(cloud, params["AutoScalingGroupName"])
    if not row["instances"]:
        del cloud.table(GROUPS)[row["name"]]
        return {}
    if not params.get("ForceDelete"):
        raise Refusal(
            "ResourceInUse",
            "You cannot delete an AutoScalingGroup while there are instances or pending Spot instance"
            " request(s) still in the group.",
        )
    row |= {"status": "Delete in progress", "min": 0, "max": 0, "desired": 0, "suspended": []}
    for key in scaling.counted(row):
        scaling.retire(cloud, row, key, "a user request force-deleted the group.")
    return {}


@action("autoscaling", "SetDesiredCapacity")
def set_desired_capacity(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """SetDesiredCapacity within the bounds; HonorCooldown is refused while the last launch is too young."""
    row = group_row(cloud, params["AutoScalingGroupName"])
    wanted = int(params["DesiredCapacity"])
    if wanted > row["max"]:
        message = (
            f"New SetDesiredCapacity value {wanted} is above max value {row['max']} for the AutoScalingGroup."
        )
        raise refused(message)
    if wanted < row["min"]:
        message = (
            f"New SetDesiredCapacity value {wanted} is below min value {row['min']} for the AutoScalingGroup."
        )
        raise refused(message)
    launches = [member["launched_s"] for member in row["instances"].values()]
    if params.get("HonorCooldown") and launches and cloud.now() < max(launches) + row["cooldown_s"]:
        raise Refusal(
            "ScalingActivityInProgress", "You cannot change the capacity while the group is cooling down"
        )
    row |= {"desired": wanted, "retry_at_s": 0.0}
    return {}


def _processes(params: Mapping[str, Any]) -> list[str]:
    wanted = params.get("ScalingProcesses") or list(PROCESSES)
    for name in wanted:
        if name not in PROCESSES:
            raise refused(f"{name} is not a valid process type")
    return list(wanted)


@action("autoscaling", "SuspendProcesses")
def suspend_processes(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """SuspendProcesses: the named ones, or all."""
    row = group_row(cloud, params["AutoScalingGroupName"])
    row["suspended"] = sorted({*row["suspended"], *_processes(params)})
    return {}


@action("autoscaling", "ResumeProcesses")
def resume_processes(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """ResumeProcesses: the named ones, or all."""
    row = group_row(cloud, params["AutoScalingGroupName"])
    row["suspended"] = sorted({*row["suspended"]} - {*_processes(params)})
    return {}


@action("autoscaling", "AttachLoadBalancerTargetGroups")
def attach_target_groups(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """AttachLoadBalancerTargetGroups: the instances are registered by the next tick."""
    row = group_row(cloud, params["AutoScalingGroupName"])
    row["target_groups"] = _target_groups(cloud, [*row["target_groups"], *params["TargetGroupARNs"]])
    return {}


@action("autoscaling", "DetachLoadBalancerTargetGroups")
def detach_target_groups(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DetachLoadBalancerTargetGroups: the instances are deregistered."""
    row = group_row(cloud, params["AutoScalingGroupName"])
    for arn in params["TargetGroupARNs"]:
        if arn not in row["target_groups"]:
            raise refused(f"Trying to remove Target Group(s) that are not part of the group: {arn}")
        row["target_groups"].remove(arn)
        for key in row["instances"]:
            if arn in cloud.table(targets.GROUPS):
                targets.deregister(cloud, arn, key)
    return {}


@action("autoscaling", "DescribeLoadBalancerTargetGroups")
def describe_target_groups(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeLoadBalancerTargetGroups: Added, or InService once a target is healthy."""
    found = []
    for arn in group_row(cloud, params["AutoScalingGroupName"])["target_groups"]:
        row = cloud.table(targets.GROUPS).get(arn)
        healthy = row is not None and any(
            targets.health_of(cloud, row, target)["State"] == "healthy" for target in row["targets"].values()
        )
        found.append({"LoadBalancerTargetGroupARN": arn, "State": "InService" if healthy else "Added"})
    return {"LoadBalancerTargetGroups": found}


@action("autoscaling", "CreateOrUpdateTags")
def create_or_update_tags(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """CreateOrUpdateTags on groups."""
    for tag in params["Tags"]:
        row = group_row(cloud, tag.get("ResourceId") or "")
        rest = [kept for kept in row["tags"] if kept["Key"] != tag["Key"]]
        _put_tags(row, [*rest, *_tag_list([tag])])
    return {}


@action("autoscaling", "DeleteTags")
def delete_tags(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DeleteTags: a tag that is not there is passed over."""
    for tag in params["Tags"]:
        row = group_row(cloud, tag.get("ResourceId") or "")
        _put_tags(row, [kept for kept in row["tags"] if kept["Key"] != tag["Key"]])
    return {}


@action("autoscaling", "DescribeTags")
def describe_tags(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeTags: filters auto-scaling-group, key, value and propagate-at-launch."""
    found = [tag for row in cloud.table(GROUPS).peek().values() for tag in _shown_tags(row)]
    members = {"auto-scaling-group": "ResourceId", "key": "Key", "value": "Value"}
    for item in params.get("Filters") or []:
        name, values = item.get("Name") or "", item.get("Values") or []
        if name == "propagate-at-launch":
            found = [tag for tag in found if str(tag["PropagateAtLaunch"]).lower() in values]
        elif name in members:
            found = [tag for tag in found if tag[members[name]] in values]
        else:
            raise refused(f"Filter type {name} is not correct")
    size = params.get("MaxRecords") or 50
    shown, token = page(found, lambda tag: f"{tag['ResourceId']}/{tag['Key']}", size, params.get("NextToken"))
    return {"Tags": shown, **({"NextToken": token} if token else {})}
