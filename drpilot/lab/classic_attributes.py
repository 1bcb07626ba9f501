"""Classic load balancers: places, groups, attributes and tags; and how they check and forward.

Source: Elastic Load Balancing API reference 2012-06-01.
"""

from __future__ import annotations

from typing import Any

from drpilot.lab import machines
from drpilot.lab.classic_balancing import BALANCERS, active, health_key, target_of
from drpilot.lab.cloud import Cloud, Refusal, action
from drpilot.lab.forwarding import Check, Pool, balanced, examine
from drpilot.lab.interfaces import group_refs
from drpilot.lab.lookup import find
from drpilot.lab.loopback import Endpoint, Service
from drpilot.lab.runtime import Health, Runtime, contributor

__all__: list[str] = []


def _row(cloud: Cloud, name: str) -> dict[str, Any]:
    row = cloud.table(BALANCERS).get(name)
    if row is None:
        raise Refusal("LoadBalancerNotFound", f"There is no ACTIVE Load Balancer named '{name}'")
    return row


@action("elb", "AttachLoadBalancerToSubnets")
def attach_to_subnets(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """AttachLoadBalancerToSubnets of its own VPC."""
    row = _row(cloud, params["LoadBalancerName"])
    for subnet_id in params["Subnets"]:
        subnet = machines.subnet(cloud, subnet_id)
        if subnet is None or subnet.vpc_id != row["VPCId"]:
            raise Refusal("SubnetNotFound", f"The subnet ID '{subnet_id}' does not exist")
        row["Subnets"] = list(dict.fromkeys([*row["Subnets"], subnet_id]))
        row["AvailabilityZones"] = sorted({*row["AvailabilityZones"], subnet.zone})
    return {"Subnets": row["Subnets"]}


@action("elb", "DetachLoadBalancerFromSubnets")
def detach_from_subnets(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DetachLoadBalancerFromSubnets; one must stay."""
    row = _row(cloud, params["LoadBalancerName"])
    left = [one for one in row["Subnets"] if one not in params["Subnets"]]
    if not left:
        raise Refusal("InvalidConfigurationRequest", "A load balancer must have at least one subnet")
    row["Subnets"] = left
    row["AvailabilityZones"] = sorted({machines.zone_of_subnet(cloud, one) for one in left})
    return {"Subnets": left}


@action("elb", "EnableAvailabilityZonesForLoadBalancer")
def enable_zones(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """EnableAvailabilityZonesForLoadBalancer."""
    row = _row(cloud, params["LoadBalancerName"])
    row["AvailabilityZones"] = sorted({*row["AvailabilityZones"], *params["AvailabilityZones"]})
    return {"AvailabilityZones": row["AvailabilityZones"]}


@action("elb", "DisableAvailabilityZonesForLoadBalancer")
def disable_zones(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DisableAvailabilityZonesForLoadBalancer; one must stay."""
    row = _row(cloud, params["LoadBalancerName"])
    left = sorted({*row["AvailabilityZones"]} - {*params["AvailabilityZones"]})
    if not left:
        raise Refusal("InvalidConfigurationRequest", "A load balancer must have at least one zone")
    row["AvailabilityZones"] = left
    return {"AvailabilityZones": left}


@action("elb", "ApplySecurityGroupsToLoadBalancer")
def apply_security_groups(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """ApplySecurityGroupsToLoadBalancer: replaces the set."""
    row = _row(cloud, params["LoadBalancerName"])
    for group_id in params["SecurityGroups"]:
        if machines.vpc_of_group(cloud, group_id) != row["VPCId"]:
            raise Refusal(
                "InvalidSecurityGroup", f"The security group '{group_id}' does not exist in the VPC"
            )
    row["SecurityGroups"] = params["SecurityGroups"]
    own = cloud.table("interfaces")[row["interface"]]
    own["Groups"] = group_refs(cloud, find(cloud, "subnets", own["SubnetId"]), row["SecurityGroups"])
    return {"SecurityGroups": row["SecurityGroups"]}


@action("elb", "DescribeLoadBalancerAttributes")
def describe_attributes(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeLoadBalancerAttributes."""
    return {"LoadBalancerAttributes": _row(cloud, params["LoadBalancerName"])["attributes"]}


@action("elb", "ModifyLoadBalancerAttributes")
def modify_attributes(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """ModifyLoadBalancerAttributes: the named ones."""
    row = _row(cloud, params["LoadBalancerName"])
    for name, value in params["LoadBalancerAttributes"].items():
        if name in row["attributes"]:
            row["attributes"][name] = value
    return {"LoadBalancerName": row["LoadBalancerName"], "LoadBalancerAttributes": row["attributes"]}


@action("elb", "AddTags")
def add_tags(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """AddTags: a tag of the same key is replaced."""
    for name in params["LoadBalancerNames"]:
        row = _row(cloud, name)
        tags = {tag["Key"]: tag.get("Value") or "" for tag in [*row["Tags"], *params["Tags"]]}
        row["Tags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
    return {}


@action("elb", "RemoveTags")
def remove_tags(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """RemoveTags by key."""
    gone = {tag["Key"] for tag in params["Tags"]}
    for name in params["LoadBalancerNames"]:
        row = _row(cloud, name)
        row["Tags"] = [tag for tag in row["Tags"] if tag["Key"] not in gone]
    return {}


@action("elb", "DescribeTags")
def describe_tags(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeTags of up to 20 balancers."""
    names = params["LoadBalancerNames"]
    if len(names) > 20:
        raise Refusal("ValidationError", "At most 20 load balancers can be described at once")
    shown = [{"LoadBalancerName": name, "Tags": _row(cloud, name)["Tags"]} for name in names]
    return {"TagDescriptions": shown}


# -- at work ----------------------------------------------------------------------------------------------


def _addresses(cloud: Cloud, row: dict[str, Any]) -> dict[str, str]:
    """The address of each running instance behind a balancer, in one of its zones."""
    found = {}
    for instance_id in row["since_s"]:
        machine = machines.machine(cloud, instance_id)
        if machine is not None and machine.state == "running" and machine.zone in row["AvailabilityZones"]:
            found[instance_id] = machine.address
    return found


def _check(cloud: Cloud, beside: Runtime, row: dict[str, Any], addresses: dict[str, str]) -> None:
    """Begin the health checks of one balancer that are due."""
    settings = row["HealthCheck"]
    port, path = target_of(settings)
    for instance_id, address in addresses.items():
        key = health_key(row["LoadBalancerName"], instance_id)
        health = beside.health.get(key)
        if health is None or health.since_s != row["since_s"][instance_id]:
            # Not `initial`: a classic balancer wants the whole threshold before the first request.
            health = beside.health[key] = Health(since_s=row["since_s"][instance_id], state="unhealthy")
        if health.checking or cloud.now() < health.due_s:
            continue
        health.checking = True
        health.due_s = cloud.now() + settings["Interval"]
        beside.attend(
            examine(
                health,
                Check(
                    key=key,
                    source=row["address"],
                    target=(address, port),
                    path=path,
                    timeout_s=float(settings["Timeout"]),
                    codes="200",
                    healthy_after=settings["HealthyThreshold"],
                    unhealthy_after=settings["UnhealthyThreshold"],
                ),
            )
        )


@contributor
def classic_balancers(cloud: Cloud, beside: Runtime) -> dict[Endpoint, Service]:
    """The endpoints of all active classic load balancers; health checks that are due begin here."""
    found: dict[Endpoint, Service] = {}
    alive = set()
    for row in cloud.table(BALANCERS).peek().values():
        if not active(cloud, row):
            continue
        addresses = _addresses(cloud, row)
        alive |= {health_key(row["LoadBalancerName"], one) for one in addresses}
        _check(cloud, beside, row, addresses)
        for listener in row["listeners"]:
            port, inside = listener["LoadBalancerPort"], listener["InstancePort"]
            pool: Pool = tuple(
                (health_key(row["LoadBalancerName"], one), (address, inside))
                for one, address in addresses.items()
            )
            groups = row["SecurityGroups"]
            if not groups or beside.fresh_world().open_to_anyone(groups, port):
                found[row["address"], port] = balanced(beside, row, port, pool)
    for key in [key for key in beside.health if key[0].startswith("elb:") and key not in alive]:
        del beside.health[key]
    return found
