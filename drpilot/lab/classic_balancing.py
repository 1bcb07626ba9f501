"""Classic load balancers (Elastic Load Balancing API 2012-06-01): one with listeners, instances and one check.

Health is seen by real requests and forwarding is real, as for the second generation (forwarding.py). An
instance is OutOfService until it has passed as many checks as the healthy threshold says. Listeners forward
HTTP, whatever of HTTP and TCP they are called. Without VPCs a balancer has zones in place of subnets and no
security groups.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from drpilot.base.clock import parse_time
from drpilot.lab import machines
from drpilot.lab.cloud import Cloud, Refusal, action, kind
from drpilot.lab.interfaces import group_refs, new_interface
from drpilot.lab.lookup import find, zone_names
from drpilot.lab.marker import page
from drpilot.lab.network import free_addresses
from drpilot.lab.records import LOAD_BALANCER_ZONE
from drpilot.lab.runtime import runtime

__all__ = ["BALANCERS", "active", "deregister", "has_failed", "health_key", "holds", "register"]

BALANCERS = "elb_balancers"
_PROVISIONING_S = 3.0
_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,32}(?<!-)")
_TARGET = re.compile(r"(?:(HTTP):(\d{1,5})(/[^\s]*)|(TCP):(\d{1,5}))")
_BOUNDS = {
    "Interval": (5, 300),
    "Timeout": (2, 60),
    "UnhealthyThreshold": (2, 10),
    "HealthyThreshold": (2, 10),
}
kind(BALANCERS, "classic-load-balancer")


def active(cloud: Cloud, row: Mapping[str, Any]) -> bool:
    """Whether the load balancer has been provisioned."""
    return cloud.now() >= float(row["active_at_s"])


def health_key(name: str, instance_id: str) -> tuple[str, str, int]:
    """Where the checks of an instance behind a balancer keep what they saw."""
    return (f"elb:{name}", instance_id, 0)


def _row(cloud: Cloud, name: str) -> dict[str, Any]:
    row = cloud.table(BALANCERS).get(name)
    if row is None:
        raise Refusal("LoadBalancerNotFound", f"There is no ACTIVE Load Balancer named '{name}'")
    return row


# -- what scaling groups need -----------------------------------------------------------------------------


def register(cloud: Cloud, name: str, instance_id: str) -> None:
    """Put an instance behind a balancer; again is nothing, and a balancer that is gone is passed over."""
    row = cloud.table(BALANCERS).peek().get(name)
    if row is not None and instance_id not in row["since_s"]:
        cloud.table(BALANCERS)[name]["since_s"][instance_id] = cloud.now()


def deregister(cloud: Cloud, name: str, instance_id: str) -> None:
    """Take an instance from behind a balancer."""
    row = cloud.table(BALANCERS).peek().get(name)
    if row is not None and instance_id in row["since_s"]:
        del cloud.table(BALANCERS)[name]["since_s"][instance_id]


def holds(cloud: Cloud, name: str, instance_id: str) -> bool:
    """Whether an instance is behind a balancer; also true where the balancer is gone."""
    row = cloud.table(BALANCERS).peek().get(name)
    return row is None or instance_id in row["since_s"]


def has_failed(cloud: Cloud, name: str, instance_id: str) -> bool:
    """Whether the balancer's checks have found an instance unhealthy, not only not yet healthy."""
    health = runtime(cloud).health.get(health_key(name, instance_id))
    row = cloud.table(BALANCERS).peek().get(name)
    if health is None or row is None:
        return False
    return health.state != "healthy" and health.failures >= row["HealthCheck"]["UnhealthyThreshold"]


# -- the calls --------------------------------------------------------------------------------------------


def _listener(given: Mapping[str, Any]) -> dict[str, Any]:
    protocol = str(given["Protocol"]).upper()
    if protocol not in ("HTTP", "TCP"):
        raise Refusal("InvalidConfigurationRequest", "The lab's load balancers listen with HTTP or TCP")
    for member in ("LoadBalancerPort", "InstancePort"):
        if not 1 <= int(given[member]) <= 65535:
            raise Refusal("ValidationError", f"{member} must be between 1 and 65535")
    inside = str(given.get("InstanceProtocol") or protocol).upper()
    return {
        "Protocol": protocol,
        "LoadBalancerPort": int(given["LoadBalancerPort"]),
        "InstanceProtocol": inside,
        "InstancePort": int(given["InstancePort"]),
    }


def _places(cloud: Cloud, params: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Subnets (of one VPC) and zones of a balancer."""
    wanted, zones = params.get("Subnets") or [], params.get("AvailabilityZones") or []
    if not wanted and zones:
        for zone in zones:
            if zone not in zone_names(cloud):
                raise Refusal("ValidationError", f"Invalid availability zone: {zone}")
        wanted = machines.default_subnets(cloud, zones)
    if not wanted:
        raise Refusal("ValidationError", "Either AvailabilityZones or SubnetIds must be specified")
    found = []
    for subnet_id in wanted:
        subnet = machines.subnet(cloud, subnet_id)
        if subnet is None:
            raise Refusal("SubnetNotFound", f"The subnet ID '{subnet_id}' does not exist")
        found.append(subnet)
    if len({subnet.vpc_id for subnet in found}) > 1:
        raise Refusal("InvalidConfigurationRequest", "All subnets must belong to the same VPC")
    return list(wanted), sorted({subnet.zone for subnet in found})


def _groups(cloud: Cloud, given: list[str] | None, vpc_id: str) -> list[str]:
    groups = given or [machines.default_group(cloud, vpc_id)]
    for group_id in groups:
        if machines.vpc_of_group(cloud, group_id) != vpc_id:
            raise Refusal(
                "InvalidSecurityGroup", f"The security group '{group_id}' does not exist in the VPC"
            )
    return groups


@action("elb", "CreateLoadBalancer")
def create_load_balancer(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """CreateLoadBalancer; DuplicateLoadBalancerName for a name in use."""
    name = params["LoadBalancerName"]
    if not _NAME.fullmatch(name):
        raise Refusal("ValidationError", f"The load balancer name '{name}' is not valid")
    if name in cloud.table(BALANCERS):
        raise Refusal(
            "DuplicateLoadBalancerName", f"The specified load balancer name '{name}' is already in use"
        )
    listeners = [_listener(one) for one in params["Listeners"]]
    if not listeners:
        raise Refusal("ValidationError", "At least one listener must be specified")
    subnets, zones = _places(cloud, params)
    vpc_id = machines.vpc_of_subnet(cloud, subnets[0])
    groups = [] if cloud.classic else _groups(cloud, params.get("SecurityGroups"), vpc_id)
    row: dict[str, Any] = {
        "LoadBalancerName": name,
        "Subnets": subnets,
        "AvailabilityZones": zones,
        "VPCId": vpc_id,
        "SecurityGroups": groups,
        "Scheme": params.get("Scheme") or "internet-facing",
        "CreatedTime": cloud.stamp(),
        "Tags": params.get("Tags") or [],
        "listeners": listeners,
        "HealthCheck": {
            "Target": f"TCP:{listeners[0]['InstancePort']}",
            "Interval": 30,
            "Timeout": 5,
            "UnhealthyThreshold": 2,
            "HealthyThreshold": 10,
        },
        "since_s": {},
        "attributes": {
            "CrossZoneLoadBalancing": {"Enabled": False},
            "ConnectionDraining": {"Enabled": False},
            "ConnectionSettings": {"IdleTimeout": 60},
        },
        "active_at_s": cloud.now()
        + cloud.setting("durations", {}).get("balancer.provision", _PROVISIONING_S),
    }
    row["address"] = _interface(cloud, row)
    row["DNSName"] = f"{name}-{row['address'].replace('.', '-')}.{cloud.name}.lab.internal".lower()
    cloud.table(BALANCERS)[name] = row
    return {"DNSName": row["DNSName"]}


def _interface(cloud: Cloud, row: dict[str, Any]) -> str:
    """The balancer's own network interface with the highest free address of its first subnet."""
    subnet = find(cloud, "subnets", row["Subnets"][0])
    free = free_addresses(cloud, subnet)
    if not free:
        raise Refusal("InvalidSubnet", f"Not enough IP space available in {row['Subnets'][0]}.")
    groups = group_refs(cloud, subnet, row["SecurityGroups"])
    made = new_interface(cloud, subnet, groups, free[-1], f"ELB {row['LoadBalancerName']}")
    made |= {"RequesterManaged": True, "Status": "in-use"}
    row["interface"] = made["NetworkInterfaceId"]
    return free[-1]


def _described(cloud: Cloud, row: Mapping[str, Any]) -> dict[str, Any]:
    shown = {member: value for member, value in row.items() if member[0].isupper() and member != "Tags"}
    source = row["SecurityGroups"][0] if row["SecurityGroups"] else ""
    named = cloud.table("groups").peek().get(source, {"GroupName": "default"})["GroupName"]
    if cloud.classic:
        shown |= {"Subnets": [], "VPCId": None}
    return {
        **shown,
        "CreatedTime": parse_time(row["CreatedTime"]),
        "CanonicalHostedZoneName": row["DNSName"],
        "CanonicalHostedZoneNameID": LOAD_BALANCER_ZONE,
        "ListenerDescriptions": [{"Listener": one, "PolicyNames": []} for one in row["listeners"]],
        "Instances": [{"InstanceId": instance_id} for instance_id in row["since_s"]],
        "SourceSecurityGroup": {"OwnerAlias": cloud.account, "GroupName": named},
        "BackendServerDescriptions": [],
        "Policies": {
            "AppCookieStickinessPolicies": [],
            "LBCookieStickinessPolicies": [],
            "OtherPolicies": [],
        },
    }


@action("elb", "DescribeLoadBalancers")
def describe_load_balancers(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeLoadBalancers by name; LoadBalancerNotFound for one named and not there."""
    rows = list(cloud.table(BALANCERS).peek().values())
    if params.get("LoadBalancerNames"):
        rows = [dict(_row(cloud, name)) for name in params["LoadBalancerNames"]]
    size = params.get("PageSize")
    shown, marker = page(rows, lambda row: str(row["LoadBalancerName"]), size, params.get("Marker"), most=400)
    result: dict[str, Any] = {"LoadBalancerDescriptions": [_described(cloud, row) for row in shown]}
    return {**result, "NextMarker": marker} if marker else result


@action("elb", "DeleteLoadBalancer")
def delete_load_balancer(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DeleteLoadBalancer; succeeds when it is not there."""
    row = cloud.table(BALANCERS).pop(params["LoadBalancerName"], None)
    if row is not None:
        cloud.table("interfaces").pop(row["interface"], None)
    return {}


@action("elb", "CreateLoadBalancerListeners")
def create_listeners(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """CreateLoadBalancerListeners: DuplicateListener for a taken port, unless it is the very same listener."""
    row = _row(cloud, params["LoadBalancerName"])
    for given in params["Listeners"]:
        made = _listener(given)
        taken = [one for one in row["listeners"] if one["LoadBalancerPort"] == made["LoadBalancerPort"]]
        if taken and taken[0] != made:
            raise Refusal(
                "DuplicateListener", f"A listener already exists on port {made['LoadBalancerPort']}"
            )
        if not taken:
            row["listeners"].append(made)
    return {}


@action("elb", "DeleteLoadBalancerListeners")
def delete_listeners(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DeleteLoadBalancerListeners by port."""
    row = _row(cloud, params["LoadBalancerName"])
    gone = set(params["LoadBalancerPorts"])
    row["listeners"] = [one for one in row["listeners"] if one["LoadBalancerPort"] not in gone]
    return {}


@action("elb", "ConfigureHealthCheck")
def configure_health_check(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """ConfigureHealthCheck: HTTP with a path, or TCP."""
    row, check = _row(cloud, params["LoadBalancerName"]), dict(params["HealthCheck"])
    if not _TARGET.fullmatch(check["Target"]):
        raise Refusal("ValidationError", f"HealthCheck Target '{check['Target']}' is not valid")
    for member, (low, high) in _BOUNDS.items():
        if not low <= check[member] <= high:
            raise Refusal("ValidationError", f"HealthCheck {member} must be between {low} and {high}")
    if check["Timeout"] >= check["Interval"]:
        raise Refusal("ValidationError", "HealthCheck timeout must be less than the interval")
    row["HealthCheck"] = check
    return {"HealthCheck": check}


def target_of(check: Mapping[str, Any]) -> tuple[int, str]:
    """Port and path of a health check; no path for TCP."""
    found = _TARGET.fullmatch(check["Target"])
    return (0, "") if found is None else (int(found[2] or found[5]), found[3] or "")


def _instances(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"Instances": [{"InstanceId": instance_id} for instance_id in row["since_s"]]}


@action("elb", "RegisterInstancesWithLoadBalancer")
def register_instances(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """RegisterInstancesWithLoadBalancer: all or none, InvalidInstance for a stranger."""
    row = _row(cloud, params["LoadBalancerName"])
    for item in params["Instances"]:
        machine = machines.machine(cloud, item["InstanceId"])
        if machine is None or machine.state == "terminated":
            raise Refusal("InvalidInstance", f"Could not find EC2 instance {item['InstanceId']}.")
        if machine.vpc_id != row["VPCId"]:
            raise Refusal("InvalidInstance", f"{item['InstanceId']} is not in the load balancer's VPC")
    for item in params["Instances"]:
        register(cloud, row["LoadBalancerName"], item["InstanceId"])
    return _instances(row)


@action("elb", "DeregisterInstancesFromLoadBalancer")
def deregister_instances(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DeregisterInstancesFromLoadBalancer; one that is not there is InvalidInstance."""
    row = _row(cloud, params["LoadBalancerName"])
    for item in params["Instances"]:
        if item["InstanceId"] not in row["since_s"]:
            raise Refusal("InvalidInstance", f"Could not find EC2 instance {item['InstanceId']}.")
        del row["since_s"][item["InstanceId"]]
    return _instances(row)


def _state(cloud: Cloud, row: Mapping[str, Any], instance_id: str) -> dict[str, str]:
    machine = machines.machine(cloud, instance_id)
    if machine is None or machine.state != "running":
        text = "Instance is in stopped state." if machine else "Instance is in terminated state."
        return {"State": "OutOfService", "ReasonCode": "Instance", "Description": text}
    if machine.zone not in row["AvailabilityZones"]:
        text = "Instance is not in an enabled Availability Zone."
        return {"State": "OutOfService", "ReasonCode": "ELB", "Description": text}
    health = runtime(cloud).health.get(health_key(row["LoadBalancerName"], instance_id))
    if health is not None and health.state == "healthy":
        return {"State": "InService", "ReasonCode": "N/A", "Description": "N/A"}
    limit = row["HealthCheck"]["UnhealthyThreshold"]
    if health is None or health.failures < limit:
        return {
            "State": "OutOfService",
            "ReasonCode": "ELB",
            "Description": "Instance registration is still in progress.",
        }
    text = "Instance has failed at least the UnhealthyThreshold number of health checks consecutively."
    return {"State": "OutOfService", "ReasonCode": "Instance", "Description": text}


@action("elb", "DescribeInstanceHealth")
def describe_instance_health(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeInstanceHealth of all instances, or of those named."""
    row = _row(cloud, params["LoadBalancerName"])
    wanted = [item["InstanceId"] for item in params.get("Instances") or []] or list(row["since_s"])
    for instance_id in wanted:
        if instance_id not in row["since_s"]:
            raise Refusal("InvalidInstance", f"Could not find EC2 instance {instance_id}.")
    return {"InstanceStates": [{"InstanceId": one, **_state(cloud, row, one)} for one in wanted]}
