"""What Auto Scaling groups do by themselves: launch, register, watch, replace and remove instances.

Every tick looks at each group once and takes the steps that are due; each step is an activity, as the
service reports it. Source: Amazon EC2 Auto Scaling user guide (health checks, suspended processes, default
termination policy: the zone with most instances, then the oldest).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from drpilot.lab import classic_balancing, machines, targets
from drpilot.lab.cloud import Cloud, Refusal, resident
from drpilot.lab.launch_configurations import GROUPS, run_request
from drpilot.lab.machines import Machine

__all__ = [
    "ACTIVITIES",
    "GROUPS",
    "GROUP_TAG",
    "PROCESSES",
    "counted",
    "detach",
    "reconcile",
    "retire",
    "suspended",
]

ACTIVITIES = "autoscaling_activities"
GROUP_TAG = "aws:autoscaling:groupName"
PROCESSES = (
    "Launch",
    "Terminate",
    "AddToLoadBalancer",
    "AlarmNotification",
    "AZRebalance",
    "HealthCheck",
    "InstanceRefresh",
    "ReplaceUnhealthy",
    "ScheduledActions",
)
_RETRY_S = 15.0
_GONE = ("terminated", "shutting-down")

Group = dict[str, Any]
Member = dict[str, Any]


def suspended(group: Mapping[str, Any], process: str) -> bool:
    """Whether a process of the group is suspended."""
    return process in group["suspended"]


def counted(group: Mapping[str, Any]) -> list[str]:
    """Instances that count against the desired capacity."""
    return [
        key for key, member in group["instances"].items() if member["lifecycle"] in ("Pending", "InService")
    ]


def begin_activity(
    cloud: Cloud, group: Group, description: str, cause: str, details: Mapping[str, str]
) -> str:
    """Enter an activity of the group and give its id."""
    activity_id = cloud.new_hex(32)
    activity_id = "-".join(
        (activity_id[:8], activity_id[8:12], activity_id[12:16], activity_id[16:20], activity_id[20:])
    )
    cloud.table(ACTIVITIES)[activity_id] = {
        "ActivityId": activity_id,
        "AutoScalingGroupName": group["name"],
        "AutoScalingGroupARN": group["arn"],
        "Description": description,
        "Cause": cause,
        "StartTime": cloud.stamp(),
        "StatusCode": "InProgress",
        "Progress": 30,
        "Details": json.dumps(dict(details)),
        "number": len(cloud.table(ACTIVITIES)),
    }
    return activity_id


def end_activity(cloud: Cloud, activity_id: str | None, status: str, message: str | None = None) -> None:
    """Close an activity: Successful, Failed or Cancelled."""
    row = cloud.table(ACTIVITIES).get(activity_id or "")
    if row is not None:
        row |= {"StatusCode": status, "Progress": 100, "EndTime": cloud.stamp()}
        if message:
            row["StatusMessage"] = message


def _when(cloud: Cloud) -> str:
    return cloud.timestamp().strftime("%Y-%m-%dT%H:%M:%SZ")


def _details(machine: Machine | None) -> dict[str, str]:
    if machine is None:
        return {}
    return {"Subnet ID": machine.subnet_id, "Availability Zone": machine.zone}


def retire(cloud: Cloud, group: Group, instance_id: str, cause: str) -> str:
    """Take an instance out of service and terminate it; gives the activity's id."""
    member = group["instances"][instance_id]
    machine = machines.machine(cloud, instance_id)
    text = f"At {_when(cloud)} {cause}"
    activity = begin_activity(
        cloud, group, f"Terminating EC2 instance: {instance_id}", text, _details(machine)
    )
    _leave_balancers(cloud, group, instance_id)
    member |= {"lifecycle": "Terminating", "activity": activity}
    if machine is not None and machine.state not in _GONE:
        cloud.invoke("ec2", "TerminateInstances", {"InstanceIds": [instance_id]})
    return activity


def detach(cloud: Cloud, group: Group, instance_id: str) -> str:
    """Let an instance go without terminating it; gives the activity's id."""
    cause = f"At {_when(cloud)} instance {instance_id} was detached in response to a user request."
    details = _details(machines.machine(cloud, instance_id))
    activity = begin_activity(cloud, group, f"Detaching EC2 instance: {instance_id}", cause, details)
    _leave_balancers(cloud, group, instance_id)
    machines.untag(cloud, instance_id, GROUP_TAG)
    del group["instances"][instance_id]
    end_activity(cloud, activity, "Successful")
    return activity


def _leave_balancers(cloud: Cloud, group: Group, instance_id: str) -> None:
    for arn in group["target_groups"]:
        if arn in cloud.table(targets.GROUPS):
            targets.deregister(cloud, arn, instance_id)
    for name in group.get("balancers") or []:
        classic_balancing.deregister(cloud, name, instance_id)


def _tags(group: Group) -> list[dict[str, str]]:
    own = [{"Key": tag["Key"], "Value": tag["Value"]} for tag in group["tags"] if tag["PropagateAtLaunch"]]
    return [{"Key": GROUP_TAG, "Value": group["name"]}, *own]


def _next_subnet(cloud: Cloud, group: Group) -> str:
    """The subnet with the fewest instances of the group, the first of equals."""
    load: dict[str, int] = dict.fromkeys(group["subnets"], 0)
    for instance_id in counted(group):
        machine = machines.machine(cloud, instance_id)
        if machine is not None and machine.subnet_id in load:
            load[machine.subnet_id] += 1
    return min(load, key=lambda subnet_id: load[subnet_id])


def _request(cloud: Cloud, group: Group) -> dict[str, Any]:
    """What RunInstances gets: the group's launch template, or what its launch configuration stands for."""
    template = group["template"]
    if template is not None:
        return {"LaunchTemplate": {"LaunchTemplateId": template["id"], "Version": template["version"]}}
    return run_request(cloud, group["configuration"])


def _launch(cloud: Cloud, group: Group, cause: str) -> bool:
    """Launch one instance; a refusal of EC2 becomes a failed activity and a pause."""
    subnet_id = _next_subnet(cloud, group)
    zone = machines.zone_of_subnet(cloud, subnet_id)
    details = {"Subnet ID": subnet_id, "Availability Zone": zone}
    text = f"At {_when(cloud)} {cause}"
    activity = begin_activity(cloud, group, "Launching a new EC2 instance", text, details)
    try:
        instance_id = machines.launch(cloud, _request(cloud, group), subnet_id, _tags(group))
    except Refusal as refusal:
        message = f"{refusal.message} Launching EC2 instance failed."
        end_activity(cloud, activity, "Failed", message)
        group["retry_at_s"] = cloud.now() + _RETRY_S
        return False
    machine = machines.machine(cloud, instance_id)
    cloud.table(ACTIVITIES)[activity]["Description"] = f"Launching a new EC2 instance: {instance_id}"
    group["instances"][instance_id] = {
        "zone": zone,
        "lifecycle": "Pending",
        "health": "Healthy",
        "type": machine.instance_type if machine else "",
        "version": "" if group["template"] is None else machines.template_version(cloud, group["template"]),
        "configuration": group.get("configuration"),
        "launched_s": cloud.now(),
        "in_service_s": None,
        "activity": activity,
        "protected": group["protect_new"],
    }
    return True


def _victim(cloud: Cloud, group: Group) -> str | None:
    """Whom scale-in takes: of the zone with most instances the oldest one that is not protected."""
    free = [key for key in counted(group) if not group["instances"][key]["protected"]]
    if not free:
        return None
    zones: dict[str, int] = {}
    for key in counted(group):
        zones[group["instances"][key]["zone"]] = zones.get(group["instances"][key]["zone"], 0) + 1
    fullest = max(zones[group["instances"][key]["zone"]] for key in free)
    free = [key for key in free if zones[group["instances"][key]["zone"]] == fullest]
    return min(free, key=lambda key: (group["instances"][key]["launched_s"], key))


def _unhealthy_reason(cloud: Cloud, group: Group, instance_id: str, machine: Machine | None) -> str | None:
    """Why an instance in service is to be replaced; None while it is well."""
    member = group["instances"][instance_id]
    if machine is None or machine.state in (*_GONE, "stopping", "stopped"):
        return "an EC2 health check indicating it has been terminated or stopped"
    if member["health"] == "Unhealthy":
        return "a user health-check"
    grace_over = cloud.now() >= (member["in_service_s"] or cloud.now()) + group["grace_s"]
    if group["health_check"] == "ELB" and grace_over and _failed_at_balancer(cloud, group, instance_id):
        return "an ELB system health check failure"
    return None


def _failed_at_balancer(cloud: Cloud, group: Group, instance_id: str) -> bool:
    rows = [cloud.table(targets.GROUPS).peek().get(arn) for arn in group["target_groups"]]
    return any(
        targets.health_of(cloud, row, target)["State"] == "unhealthy"
        for row in rows
        if row is not None
        for target in row["targets"].values()
        if target["id"] == instance_id
    ) or any(classic_balancing.has_failed(cloud, name, instance_id) for name in group.get("balancers") or [])


def _join_balancers(cloud: Cloud, group: Group, instance_id: str, machine: Machine) -> None:
    if machine.state != "running":
        return
    for arn in group["target_groups"]:
        row = cloud.table(targets.GROUPS).get(arn)
        known = row is not None and any(item["id"] == instance_id for item in row["targets"].values())
        if row is not None and not known:
            targets.register(cloud, arn, instance_id)
    for name in group.get("balancers") or []:
        classic_balancing.register(cloud, name, instance_id)


def _look_after(cloud: Cloud, group: Group, instance_id: str) -> None:
    """Move one instance on: into service, out of it, or out of the group."""
    member = group["instances"][instance_id]
    machine = machines.machine(cloud, instance_id)
    if member["lifecycle"] == "Terminating":
        if machine is None or machine.state == "terminated":
            end_activity(cloud, member["activity"], "Successful")
            del group["instances"][instance_id]
        return
    if member["lifecycle"] == "Pending" and machine is not None and machine.state == "running":
        member |= {"lifecycle": "InService", "in_service_s": cloud.now()}
        end_activity(cloud, member["activity"], "Successful")
    if (
        member["lifecycle"] == "InService"
        and machine is not None
        and not suspended(group, "AddToLoadBalancer")
    ):
        _join_balancers(cloud, group, instance_id, machine)
    if suspended(group, "HealthCheck") and machine is not None and machine.state != "terminated":
        return
    reason = _unhealthy_reason(cloud, group, instance_id, machine)
    if reason is None:
        return
    member["health"] = "Unhealthy"
    gone = machine is None or machine.state in _GONE
    if gone or not (suspended(group, "ReplaceUnhealthy") or suspended(group, "Terminate")):
        if member["lifecycle"] == "Pending":
            end_activity(
                cloud, member["activity"], "Failed", f"Instance failed before it was in service: {reason}"
            )
        retire(cloud, group, instance_id, f"an instance was taken out of service in response to {reason}.")


def _match_capacity(cloud: Cloud, group: Group) -> None:
    """Launch what is missing, retire what is too many."""
    missing = group["desired"] - len(counted(group))
    if missing > 0 and not suspended(group, "Launch") and cloud.now() >= group["retry_at_s"]:
        have, wanted = len(counted(group)), group["desired"]
        cause = (
            "an instance was started in response to a difference between desired and actual capacity,"
            f" increasing the capacity from {have} to {wanted}."
        )
        for _ in range(missing):
            if not _launch(cloud, group, cause):
                break
    surplus = -missing
    if surplus > 0 and not suspended(group, "Terminate"):
        have, wanted = len(counted(group)), group["desired"]
        cause = (
            "an instance was taken out of service in response to a difference between desired and actual"
            f" capacity, shrinking the capacity from {have} to {wanted}."
        )
        for _ in range(surplus):
            chosen = _victim(cloud, group)
            if chosen is None:
                break
            retire(cloud, group, chosen, cause)


def _at_rest(cloud: Cloud, group: Mapping[str, Any]) -> bool:
    """Whether a group has nothing to do, seen without touching its row."""
    if group["status"] or len(group["instances"]) != group["desired"]:
        return False
    if group["health_check"] == "ELB":
        return False
    for instance_id, member in group["instances"].items():
        machine = machines.machine(cloud, instance_id)
        if member["lifecycle"] != "InService" or member["health"] != "Healthy":
            return False
        if machine is None or machine.state != "running":
            return False
        for arn in group["target_groups"]:
            row = cloud.table(targets.GROUPS).peek().get(arn)
            if row is not None and not any(item["id"] == instance_id for item in row["targets"].values()):
                return False
        if not all(
            classic_balancing.holds(cloud, name, instance_id) for name in group.get("balancers") or []
        ):
            return False
    return True


def reconcile(cloud: Cloud) -> None:
    """One look at every group."""
    for name, seen in list(cloud.table(GROUPS).peek().items()):
        if _at_rest(cloud, seen):
            continue
        group = cloud.table(GROUPS)[name]
        for instance_id in list(group["instances"]):
            _look_after(cloud, group, instance_id)
        if group["status"] and not group["instances"]:
            del cloud.table(GROUPS)[name]
            continue
        _match_capacity(cloud, group)


@resident
def install(cloud: Cloud) -> None:
    """Let the groups of a cloud work."""
    cloud.on_tick(lambda: reconcile(cloud))
