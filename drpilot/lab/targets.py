"""Target groups of Elastic Load Balancing: what a load balancer may send to, and how healthy it is.

Health is seen by real HTTP requests (forwarding.py). Source: Elastic Load Balancing API reference
2015-12-01 (CreateTargetGroup, RegisterTargets, DescribeTargetHealth) and the user guide's page on target
health: a new target is healthy after one passed check.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from drpilot.lab import machines
from drpilot.lab.cloud import Cloud, Refusal, action, kind
from drpilot.lab.marker import page
from drpilot.lab.runtime import Health, runtime

__all__ = [
    "GROUPS",
    "LISTENERS",
    "MATCHER",
    "balancers_of",
    "deregister",
    "group_row",
    "health_of",
    "register",
    "target_key",
]

GROUPS = "elbv2_target_groups"
LISTENERS = "elbv2_listeners"
BALANCERS = "elbv2_balancers"
MATCHER = re.compile(r"\d{3}(-\d{3})?(,\d{3}(-\d{3})?)*")
_ATTRIBUTES = {
    "deregistration_delay.timeout_seconds": "300",
    "load_balancing.algorithm.type": "round_robin",
    "slow_start.duration_seconds": "0",
    "stickiness.enabled": "false",
}
_CHECK_DEFAULTS: dict[str, Any] = {
    "HealthCheckProtocol": "HTTP",
    "HealthCheckPort": "traffic-port",
    "HealthCheckEnabled": True,
    "HealthCheckPath": "/",
    "HealthCheckIntervalSeconds": 30,
    "HealthCheckTimeoutSeconds": 5,
    "HealthyThresholdCount": 5,
    "UnhealthyThresholdCount": 2,
    "Matcher": {"HttpCode": "200"},
}
_BOUNDS = {
    "HealthCheckIntervalSeconds": (5, 300),
    "HealthCheckTimeoutSeconds": (2, 120),
    "HealthyThresholdCount": (2, 10),
    "UnhealthyThresholdCount": (2, 10),
}

kind(GROUPS, "target-group")


def group_row(cloud: Cloud, arn: str) -> dict[str, Any]:
    """The row of a target group, or TargetGroupNotFound."""
    row = cloud.table(GROUPS).get(arn)
    if row is None:
        raise Refusal("TargetGroupNotFound", f"Target groups '{arn}' not found")
    return row


def forwarded(listener: Mapping[str, Any]) -> Iterable[str]:
    """ARNs of the target groups that a listener's default action forwards to."""
    for step in listener["DefaultActions"]:
        for group in step["ForwardConfig"]["TargetGroups"]:
            yield group["TargetGroupArn"]


def balancers_of(cloud: Cloud, arn: str) -> list[str]:
    """ARNs of the load balancers whose listeners forward to the target group, in order."""
    listeners = cloud.table(LISTENERS).peek().values()
    return sorted({row["LoadBalancerArn"] for row in listeners if arn in forwarded(row)})


def _described(cloud: Cloud, row: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in row.items() if name[0].isupper() and name != "Tags"}
    return {**shown, "LoadBalancerArns": balancers_of(cloud, row["TargetGroupArn"])}


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    for name, (low, high) in _BOUNDS.items():
        if not low <= settings[name] <= high:
            raise Refusal("ValidationError", f"{name} '{settings[name]}' must be between {low} and {high}")
    if settings["HealthCheckProtocol"] not in ("HTTP", "HTTPS"):
        raise Refusal("InvalidConfigurationRequest", "Health check protocol must be HTTP or HTTPS")
    if settings["HealthCheckProtocol"] == "HTTPS":
        raise Refusal("InvalidConfigurationRequest", "The lab's guests do not speak HTTPS")
    if settings["HealthCheckTimeoutSeconds"] >= settings["HealthCheckIntervalSeconds"]:
        message = "Health check timeout must be smaller than the interval"
        raise Refusal("ValidationError", message)
    if not MATCHER.fullmatch(settings["Matcher"].get("HttpCode") or ""):
        raise Refusal("ValidationError", "Health check matcher HTTP code is not valid")
    if not str(settings["HealthCheckPath"]).startswith("/"):
        raise Refusal("ValidationError", "Health check path must begin with a '/' character")
    return settings


@action("elbv2", "CreateTargetGroup")
def create_target_group(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """CreateTargetGroup: equal settings again give the same group, else DuplicateTargetGroupName."""
    name = params["Name"]
    if not re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,32}(?<!-)", name):
        raise Refusal("ValidationError", f"Target group name '{name}' is not valid")
    if params.get("Protocol") != "HTTP" or not 1 <= int(params.get("Port") or 0) <= 65535:
        raise Refusal("ValidationError", "A protocol (the lab has HTTP) and a port must be specified")
    if params.get("TargetType") not in (None, "instance", "ip"):
        raise Refusal("ValidationError", "The lab has the target types instance and ip")
    if not machines.has_vpc(cloud, params.get("VpcId") or ""):
        raise Refusal("ValidationError", f"The VPC ID '{params.get('VpcId')}' is not found")
    given = {key: params[key] for key in _CHECK_DEFAULTS if params.get(key) is not None}
    settings = {
        "TargetGroupName": name,
        "Protocol": "HTTP",
        "ProtocolVersion": params.get("ProtocolVersion") or "HTTP1",
        "Port": params["Port"],
        "VpcId": params["VpcId"],
        "TargetType": params.get("TargetType") or "instance",
        "IpAddressType": "ipv4",
        **_checked({**_CHECK_DEFAULTS, **given}),
    }
    for row in cloud.table(GROUPS).peek().values():
        if row["TargetGroupName"] == name:
            if any(row[key] != value for key, value in settings.items()):
                message = f"A target group with the same name '{name}' exists, but with different settings"
                raise Refusal("DuplicateTargetGroupName", message)
            return {"TargetGroups": [_described(cloud, row)]}
    arn = (
        f"arn:aws:elasticloadbalancing:{cloud.region}:{cloud.account}:targetgroup/{name}/{cloud.new_hex(16)}"
    )
    row = {
        "TargetGroupArn": arn,
        **settings,
        "Tags": params.get("Tags") or [],
        "attributes": dict(_ATTRIBUTES),
        "targets": {},
    }
    cloud.table(GROUPS)[arn] = row
    return {"TargetGroups": [_described(cloud, row)]}


@action("elbv2", "DescribeTargetGroups")
def describe_target_groups(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeTargetGroups by ARN, name or load balancer; TargetGroupNotFound for one named and not there."""
    rows = list(cloud.table(GROUPS).peek().values())
    for wanted, member in (("TargetGroupArns", "TargetGroupArn"), ("Names", "TargetGroupName")):
        if params.get(wanted):
            rows = [row for row in rows if row[member] in params[wanted]]
            if len(rows) < len(set(params[wanted])):
                raise Refusal("TargetGroupNotFound", "One or more target groups not found")
    if params.get("LoadBalancerArn"):
        if params["LoadBalancerArn"] not in cloud.table(BALANCERS):
            raise Refusal("LoadBalancerNotFound", f"Load balancer '{params['LoadBalancerArn']}' not found")
        wanted_arn = params["LoadBalancerArn"]
        rows = [row for row in rows if wanted_arn in balancers_of(cloud, row["TargetGroupArn"])]
    shown, marker = page(
        rows, lambda row: str(row["TargetGroupArn"]), params.get("PageSize"), params.get("Marker")
    )
    result: dict[str, Any] = {"TargetGroups": [_described(cloud, row) for row in shown]}
    return {**result, "NextMarker": marker} if marker else result


@action("elbv2", "ModifyTargetGroup")
def modify_target_group(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """ModifyTargetGroup: the health check's settings."""
    row = group_row(cloud, params["TargetGroupArn"])
    given = {key: params[key] for key in _CHECK_DEFAULTS if params.get(key) is not None}
    row |= _checked({**{key: row[key] for key in _CHECK_DEFAULTS}, **given})
    return {"TargetGroups": [_described(cloud, row)]}


@action("elbv2", "DeleteTargetGroup")
def delete_target_group(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DeleteTargetGroup: ResourceInUse while a listener forwards to it; succeeds when it is not there."""
    arn = params["TargetGroupArn"]
    if balancers_of(cloud, arn):
        message = f"Target group '{arn}' is currently in use by a listener or a rule"
        raise Refusal("ResourceInUse", message)
    cloud.table(GROUPS).pop(arn, None)
    return {}


def target_key(target_id: str, port: int) -> str:
    """The key of one registration: an id may be registered with several ports."""
    return f"{target_id}:{port}"


def _check_target(cloud: Cloud, row: Mapping[str, Any], target_id: str) -> None:
    if row["TargetType"] == "ip":
        if machines.vpc_of_address(cloud, target_id) != row["VpcId"]:
            raise Refusal("InvalidTarget", f"The IP address '{target_id}' is not within the VPC")
        return
    machine = machines.machine(cloud, target_id)
    if machine is None or machine.state == "terminated":
        raise Refusal("InvalidTarget", f"The following targets are not valid instance ids: '{target_id}'")
    if machine.vpc_id != row["VpcId"]:
        message = f"The following targets are not in the target group VPC '{row['VpcId']}': '{target_id}'"
        raise Refusal("InvalidTarget", message)
    if machine.state not in ("running", "pending"):
        message = f"The following targets are not in a running state and cannot be registered: '{target_id}'"
        raise Refusal("InvalidTarget", message)


def register(cloud: Cloud, arn: str, target_id: str, port: int | None = None) -> None:
    """Register a target, again or anew; InvalidTarget as the service says it."""
    row = group_row(cloud, arn)
    _check_target(cloud, row, target_id)
    number = int(port or row["Port"])
    present = row["targets"].get(target_key(target_id, number))
    if present is None or present["draining_until_s"] is not None:
        row["targets"][target_key(target_id, number)] = {
            "id": target_id,
            "port": number,
            "since_s": cloud.now(),
            "draining_until_s": None,
        }


def deregister(cloud: Cloud, arn: str, target_id: str, port: int | None = None) -> None:
    """Let a target drain for the group's deregistration delay; unknown targets are passed over."""
    row = group_row(cloud, arn)
    delay_s = float(row["attributes"]["deregistration_delay.timeout_seconds"])
    for key, target in list(row["targets"].items()):
        if (
            target["id"] == target_id
            and port in (None, target["port"])
            and target["draining_until_s"] is None
        ):
            machine = machines.machine(cloud, target_id)
            alive = machine is not None and machine.state == "running"
            if alive and balancers_of(cloud, arn) and delay_s > 0:
                target["draining_until_s"] = cloud.now() + delay_s
            else:
                del row["targets"][key]


@action("elbv2", "RegisterTargets")
def register_targets(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """RegisterTargets: all or none."""
    row = group_row(cloud, params["TargetGroupArn"])
    for target in params["Targets"]:
        _check_target(cloud, row, target["Id"])
    for target in params["Targets"]:
        register(cloud, params["TargetGroupArn"], target["Id"], target.get("Port"))
    return {}


@action("elbv2", "DeregisterTargets")
def deregister_targets(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DeregisterTargets: they drain first."""
    group_row(cloud, params["TargetGroupArn"])
    for target in params["Targets"]:
        deregister(cloud, params["TargetGroupArn"], target["Id"], target.get("Port"))
    return {}


def _unused(reason: str, description: str) -> dict[str, str]:
    return {"State": "unused", "Reason": f"Target.{reason}", "Description": description}


def health_of(cloud: Cloud, row: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, str]:
    """TargetHealth of one registration: State, and Reason and Description unless it is healthy."""
    if target["draining_until_s"] is not None:
        reason = "Target.DeregistrationInProgress"
        return {"State": "draining", "Reason": reason, "Description": "Target deregistration is in progress"}
    arns = balancers_of(cloud, row["TargetGroupArn"])
    if not arns:
        return _unused("NotInUse", "Target group is not configured to receive traffic from the load balancer")
    if row["TargetType"] == "instance":
        machine = machines.machine(cloud, target["id"])
        if machine is None or machine.state not in ("running", "pending"):
            state = "terminated" if machine is None else machine.state
            return _unused("InvalidState", f"Target is in the {state} state")
        zones = {
            zone["ZoneName"] for arn in arns for zone in cloud.table(BALANCERS)[arn]["AvailabilityZones"]
        }
        if machine.zone not in zones:
            return _unused(
                "NotInUse", "Target is in an Availability Zone that is not enabled for the load balancer"
            )
    seen = runtime(cloud).health.get((row["TargetGroupArn"], target["id"], target["port"]))
    if seen is None or seen.state == "initial":
        description = "Target registration is in progress"
        return {"State": "initial", "Reason": "Elb.RegistrationInProgress", "Description": description}
    if seen.state == "healthy":
        return {"State": "healthy"}
    return {"State": "unhealthy", "Reason": seen.reason, "Description": seen.description}


@action("elbv2", "DescribeTargetHealth")
def describe_target_health(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeTargetHealth: of all targets, or of the named ones (a stranger is `unused`)."""
    row = group_row(cloud, params["TargetGroupArn"])
    wanted = params.get("Targets")
    found: list[dict[str, Any]] = []
    for target in row["targets"].values():
        named = wanted is None or any(
            item["Id"] == target["id"] and item.get("Port") in (None, target["port"]) for item in wanted
        )
        if named:
            port = target["port"] if row["HealthCheckPort"] == "traffic-port" else row["HealthCheckPort"]
            description = {"Id": target["id"], "Port": target["port"]}
            shown = {"Target": description, "HealthCheckPort": str(port)}
            found.append({**shown, "TargetHealth": health_of(cloud, row, target)})
    for item in wanted or []:
        if not any(item["Id"] == shown["Target"]["Id"] for shown in found):
            stranger = _unused("NotRegistered", "Target is not registered to the target group")
            port = item.get("Port") or row["Port"]
            target = {"Id": item["Id"], "Port": port}
            found.append({"Target": target, "HealthCheckPort": str(port), "TargetHealth": stranger})
    return {"TargetHealthDescriptions": found}


@action("elbv2", "DescribeTargetGroupAttributes")
def describe_target_group_attributes(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeTargetGroupAttributes."""
    attributes = group_row(cloud, params["TargetGroupArn"])["attributes"]
    return {"Attributes": [{"Key": key, "Value": value} for key, value in sorted(attributes.items())]}


@action("elbv2", "ModifyTargetGroupAttributes")
def modify_target_group_attributes(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """ModifyTargetGroupAttributes: ValidationError for a key the lab does not know."""
    row = group_row(cloud, params["TargetGroupArn"])
    for item in params["Attributes"]:
        if item["Key"] not in _ATTRIBUTES:
            raise Refusal("ValidationError", f"Target group attribute key '{item['Key']}' is not recognized")
        row["attributes"][item["Key"]] = item["Value"]
    return describe_target_group_attributes(cloud, params)


def drop_drained(cloud: Cloud) -> None:
    """Forget targets whose draining is over, and registrations of instances that are gone."""
    for arn, row in cloud.table(GROUPS).peek().items():
        over = [
            key
            for key, target in row["targets"].items()
            if target["draining_until_s"] is not None and target["draining_until_s"] <= cloud.now()
        ]
        for key in over:
            del cloud.table(GROUPS)[arn]["targets"][key]


def live_health(cloud: Cloud) -> Mapping[tuple[str, str, int], Health]:
    """What the checks of this process have seen, by (target group, target, port)."""
    return runtime(cloud).health
