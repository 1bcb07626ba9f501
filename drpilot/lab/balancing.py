"""Elastic Load Balancing (version 2): load balancers, listeners and their tags and attributes.

The balancer really listens on a loopback address out of its first subnet (forwarding.py), and its DNSName
carries that address, so that DNS of another process can answer with it. Source: Elastic Load Balancing API
reference 2015-12-01. The lab has HTTP application load balancers with forward actions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from drpilot.base.clock import parse_time
from drpilot.lab import machines
from drpilot.lab.cloud import Cloud, Refusal, action, kind
from drpilot.lab.interfaces import group_refs, new_interface
from drpilot.lab.lookup import find
from drpilot.lab.marker import page
from drpilot.lab.names import LOAD_BALANCER_ZONE
from drpilot.lab.network import free_addresses
from drpilot.lab.targets import BALANCERS, GROUPS, LISTENERS, group_row

__all__ = ["balancer_row"]

_PROVISIONING_S = 3.0
_ATTRIBUTES = {
    "access_logs.s3.enabled": "false",
    "deletion_protection.enabled": "false",
    "idle_timeout.timeout_seconds": "60",
    "routing.http2.enabled": "true",
}

kind(BALANCERS, "load-balancer")
kind(LISTENERS, "listener")


def balancer_row(cloud: Cloud, arn: str) -> dict[str, Any]:
    """The row of a load balancer, or LoadBalancerNotFound."""
    row = cloud.table(BALANCERS).get(arn)
    if row is None:
        raise Refusal("LoadBalancerNotFound", f"Load balancer '{arn}' not found")
    return row


def active(cloud: Cloud, row: Mapping[str, Any]) -> bool:
    """Whether the load balancer has been provisioned."""
    return cloud.now() >= float(row["active_at_s"])


def _described(cloud: Cloud, row: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in row.items() if name[0].isupper() and name != "Tags"}
    state = "active" if active(cloud, row) else "provisioning"
    return {**shown, "CreatedTime": parse_time(row["CreatedTime"]), "State": {"Code": state}}


def _zones(cloud: Cloud, subnet_ids: list[str]) -> tuple[str, list[dict[str, Any]]]:
    """The VPC of the subnets and their AvailabilityZones members, each checked."""
    found = []
    for subnet_id in subnet_ids:
        subnet = machines.subnet(cloud, subnet_id)
        if subnet is None:
            raise Refusal("SubnetNotFound", f"The subnet ID '{subnet_id}' does not exist")
        found.append(subnet)
    if len({subnet.vpc_id for subnet in found}) > 1:
        raise Refusal("InvalidConfigurationRequest", "All subnets must belong to the same VPC")
    zones = [subnet.zone for subnet in found]
    if len(set(zones)) != len(zones):
        message = "A load balancer cannot be attached to multiple subnets in the same Availability Zone"
        raise Refusal("InvalidConfigurationRequest", message)
    if len(zones) < 2:
        message = "At least two subnets in two different Availability Zones must be specified"
        raise Refusal("ValidationError", message)
    members = [{"ZoneName": subnet.zone, "SubnetId": subnet.subnet_id} for subnet in found]
    return found[0].vpc_id, [{**member, "LoadBalancerAddresses": []} for member in members]


def _interface(cloud: Cloud, row: dict[str, Any], subnet_id: str) -> str:
    """The balancer's own network interface, with the highest free address; gives the address.

    Instances get theirs from the bottom of a subnet, and a subnet with a balancer in it can't be deleted.
    """
    subnet = find(cloud, "subnets", subnet_id)
    free = free_addresses(cloud, subnet)
    if not free:
        raise Refusal("InvalidSubnet", f"Not enough IP space available in {subnet_id}.")
    text = f"ELB {row['LoadBalancerArn'].rsplit(':loadbalancer/', 1)[-1]}"
    made = new_interface(cloud, subnet, group_refs(cloud, subnet, row["SecurityGroups"]), free[-1], text)
    made |= {"RequesterManaged": True, "Status": "in-use"}
    row["interface"] = made["NetworkInterfaceId"]
    return free[-1]


def _check_groups(cloud: Cloud, group_ids: list[str], vpc_id: str) -> list[str]:
    for group_id in group_ids:
        if machines.vpc_of_group(cloud, group_id) != vpc_id:
            raise Refusal(
                "InvalidSecurityGroup", f"The security group '{group_id}' does not exist in the VPC"
            )
    return group_ids


@action("elbv2", "CreateLoadBalancer")
def create_load_balancer(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """CreateLoadBalancer: equal settings again give the same one, else DuplicateLoadBalancerName."""
    name = params["Name"]
    if not re.fullmatch(r"(?!-|internal-)[A-Za-z0-9-]{1,32}(?<!-)", name):
        raise Refusal("ValidationError", f"The load balancer name '{name}' is not valid")
    if params.get("Type") not in (None, "application"):
        raise Refusal("ValidationError", "The lab has load balancers of type application")
    subnet_ids = params.get("Subnets") or [item["SubnetId"] for item in params.get("SubnetMappings") or []]
    vpc_id, zones = _zones(cloud, subnet_ids)
    groups = params.get("SecurityGroups") or [machines.default_group(cloud, vpc_id)]
    settings = {
        "VpcId": vpc_id,
        "Scheme": params.get("Scheme") or "internet-facing",
        "Type": "application",
        "IpAddressType": params.get("IpAddressType") or "ipv4",
        "AvailabilityZones": zones,
        "SecurityGroups": _check_groups(cloud, groups, vpc_id),
    }
    for row in cloud.table(BALANCERS).peek().values():
        if row["LoadBalancerName"] == name:
            if any(row[key] != value for key, value in settings.items()):
                message = f"A load balancer with the same name '{name}' exists, but with different settings"
                raise Refusal("DuplicateLoadBalancerName", message)
            return {"LoadBalancers": [_described(cloud, row)]}
    prefix = f"arn:aws:elasticloadbalancing:{cloud.region}:{cloud.account}"
    arn = f"{prefix}:loadbalancer/app/{name}/{cloud.new_hex(16)}"
    row = {
        "LoadBalancerArn": arn,
        "LoadBalancerName": name,
        "CanonicalHostedZoneId": LOAD_BALANCER_ZONE,
        "CreatedTime": cloud.stamp(),
        **settings,
        "Tags": params.get("Tags") or [],
        "active_at_s": cloud.now()
        + cloud.setting("durations", {}).get("balancer.provision", _PROVISIONING_S),
        "attributes": dict(_ATTRIBUTES),
    }
    address = row["address"] = _interface(cloud, row, subnet_ids[0])
    row["DNSName"] = f"{name}-{address.replace('.', '-')}.{cloud.name}.lab.internal".lower()
    cloud.table(BALANCERS)[arn] = row
    return {"LoadBalancers": [_described(cloud, row)]}


@action("elbv2", "DescribeLoadBalancers")
def describe_load_balancers(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeLoadBalancers by ARN or name; LoadBalancerNotFound for what was named and is not there."""
    rows = list(cloud.table(BALANCERS).peek().values())
    for wanted, member in (("LoadBalancerArns", "LoadBalancerArn"), ("Names", "LoadBalancerName")):
        if params.get(wanted):
            rows = [row for row in rows if row[member] in params[wanted]]
            if len(rows) < len(set(params[wanted])):
                raise Refusal("LoadBalancerNotFound", "One or more load balancers not found")
    shown, marker = page(
        rows, lambda row: str(row["LoadBalancerArn"]), params.get("PageSize"), params.get("Marker")
    )
    result: dict[str, Any] = {"LoadBalancers": [_described(cloud, row) for row in shown]}
    return {**result, "NextMarker": marker} if marker else result


@action("elbv2", "DeleteLoadBalancer")
def delete_load_balancer(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DeleteLoadBalancer with its listeners; succeeds when it is not there."""
    row = cloud.table(BALANCERS).get(params["LoadBalancerArn"])
    if row is None:
        return {}
    if row["attributes"]["deletion_protection.enabled"] == "true":
        arn = params["LoadBalancerArn"]
        message = f"Load balancer '{arn}' cannot be deleted because deletion protection is enabled"
        raise Refusal("OperationNotPermitted", message)
    for arn, listener in list(cloud.table(LISTENERS).peek().items()):
        if listener["LoadBalancerArn"] == params["LoadBalancerArn"]:
            del cloud.table(LISTENERS)[arn]
    cloud.table("interfaces").pop(row["interface"], None)
    del cloud.table(BALANCERS)[params["LoadBalancerArn"]]
    return {}


@action("elbv2", "SetSecurityGroups")
def set_security_groups(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """SetSecurityGroups: replaces the set."""
    row = balancer_row(cloud, params["LoadBalancerArn"])
    row["SecurityGroups"] = _check_groups(cloud, params["SecurityGroups"], row["VpcId"])
    own = cloud.table("interfaces")[row["interface"]]
    own["Groups"] = group_refs(cloud, find(cloud, "subnets", own["SubnetId"]), row["SecurityGroups"])
    return {"SecurityGroupIds": row["SecurityGroups"]}


@action("elbv2", "SetSubnets")
def set_subnets(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """SetSubnets: replaces the set; the address of the balancer stays."""
    row = balancer_row(cloud, params["LoadBalancerArn"])
    ids = params.get("Subnets") or [item["SubnetId"] for item in params.get("SubnetMappings") or []]
    vpc_id, zones = _zones(cloud, ids)
    if vpc_id != row["VpcId"]:
        raise Refusal("InvalidSubnet", "The subnets belong to another VPC")
    row["AvailabilityZones"] = zones
    return {"AvailabilityZones": zones}


def _weight(group: Mapping[str, Any]) -> int:
    return 1 if group.get("Weight") is None else int(group["Weight"])


def _actions(cloud: Cloud, given: list[dict[str, Any]], vpc_id: str) -> list[dict[str, Any]]:
    if len(given) != 1:
        raise Refusal("ValidationError", "Exactly one default action must be specified")
    step = given[0]
    if step.get("Type") != "forward":
        raise Refusal("InvalidLoadBalancerAction", "The lab's listeners forward")
    groups = (step.get("ForwardConfig") or {}).get("TargetGroups") or []
    if not groups and step.get("TargetGroupArn"):
        groups = [{"TargetGroupArn": step["TargetGroupArn"]}]
    if not groups:
        raise Refusal("ValidationError", "A target group ARN must be specified")
    for group in groups:
        if group_row(cloud, group["TargetGroupArn"])["VpcId"] != vpc_id:
            raise Refusal(
                "InvalidConfigurationRequest", "The target group and the load balancer are in different VPCs"
            )
    weighted = [{"TargetGroupArn": group["TargetGroupArn"], "Weight": _weight(group)} for group in groups]
    shown: dict[str, Any] = {"Type": "forward"}
    if len(groups) == 1:
        shown["TargetGroupArn"] = groups[0]["TargetGroupArn"]
    stickiness = {"Enabled": False}
    return [{**shown, "ForwardConfig": {"TargetGroups": weighted, "TargetGroupStickinessConfig": stickiness}}]


def _listener(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "Tags"}


@action("elbv2", "CreateListener")
def create_listener(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """CreateListener: DuplicateListener for a taken port, unless it is the very same listener."""
    balancer = balancer_row(cloud, params["LoadBalancerArn"])
    if params.get("Protocol") != "HTTP":
        raise Refusal("UnsupportedProtocol", "The lab's load balancers listen with HTTP")
    port = int(params.get("Port") or 0)
    if not 1 <= port <= 65535:
        raise Refusal("ValidationError", "A listener port must be specified")
    steps = _actions(cloud, params["DefaultActions"], balancer["VpcId"])
    for row in cloud.table(LISTENERS).peek().values():
        if (row["LoadBalancerArn"], row["Port"]) == (params["LoadBalancerArn"], port):
            if row["DefaultActions"] != steps:
                raise Refusal(
                    "DuplicateListener", "A listener already exists on this port for this load balancer"
                )
            return {"Listeners": [_listener(row)]}
    arn = f"{params['LoadBalancerArn'].replace(':loadbalancer/', ':listener/')}/{cloud.new_hex(16)}"
    row = {
        "ListenerArn": arn,
        "LoadBalancerArn": params["LoadBalancerArn"],
        "Port": port,
        "Protocol": "HTTP",
        "DefaultActions": steps,
        "Tags": params.get("Tags") or [],
    }
    cloud.table(LISTENERS)[arn] = row
    return {"Listeners": [_listener(row)]}


def _listener_row(cloud: Cloud, arn: str) -> dict[str, Any]:
    row = cloud.table(LISTENERS).get(arn)
    if row is None:
        raise Refusal("ListenerNotFound", "One or more listeners not found")
    return row


@action("elbv2", "ModifyListener")
def modify_listener(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """ModifyListener: its port and its default action."""
    row = _listener_row(cloud, params["ListenerArn"])
    if params.get("DefaultActions"):
        vpc_id = balancer_row(cloud, row["LoadBalancerArn"])["VpcId"]
        row["DefaultActions"] = _actions(cloud, params["DefaultActions"], vpc_id)
    if params.get("Port"):
        taken = [
            other
            for other in cloud.table(LISTENERS).peek().values()
            if (other["LoadBalancerArn"], other["Port"]) == (row["LoadBalancerArn"], params["Port"])
        ]
        if any(other["ListenerArn"] != row["ListenerArn"] for other in taken):
            raise Refusal(
                "DuplicateListener", "A listener already exists on this port for this load balancer"
            )
        row["Port"] = params["Port"]
    return {"Listeners": [_listener(row)]}


@action("elbv2", "DescribeListeners")
def describe_listeners(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeListeners of a load balancer, or by ARN."""
    rows = list(cloud.table(LISTENERS).peek().values())
    if params.get("ListenerArns"):
        rows = [row for row in rows if row["ListenerArn"] in params["ListenerArns"]]
        if len(rows) < len(set(params["ListenerArns"])):
            raise Refusal("ListenerNotFound", "One or more listeners not found")
    elif params.get("LoadBalancerArn"):
        balancer_row(cloud, params["LoadBalancerArn"])
        rows = [row for row in rows if row["LoadBalancerArn"] == params["LoadBalancerArn"]]
    else:
        raise Refusal("ValidationError", "Either listener ARNs or a load balancer ARN must be specified")
    shown, marker = page(
        rows, lambda row: str(row["ListenerArn"]), params.get("PageSize"), params.get("Marker")
    )
    result: dict[str, Any] = {"Listeners": [_listener(row) for row in shown]}
    return {**result, "NextMarker": marker} if marker else result


@action("elbv2", "DeleteListener")
def delete_listener(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DeleteListener."""
    _listener_row(cloud, params["ListenerArn"])
    del cloud.table(LISTENERS)[params["ListenerArn"]]
    return {}


@action("elbv2", "DescribeLoadBalancerAttributes")
def describe_load_balancer_attributes(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeLoadBalancerAttributes."""
    attributes = balancer_row(cloud, params["LoadBalancerArn"])["attributes"]
    return {"Attributes": [{"Key": key, "Value": value} for key, value in sorted(attributes.items())]}


@action("elbv2", "ModifyLoadBalancerAttributes")
def modify_load_balancer_attributes(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """ModifyLoadBalancerAttributes: ValidationError for a key the lab does not know."""
    row = balancer_row(cloud, params["LoadBalancerArn"])
    for item in params["Attributes"]:
        if item["Key"] not in _ATTRIBUTES:
            raise Refusal("ValidationError", f"Load balancer attribute key '{item['Key']}' is not recognized")
        row["attributes"][item["Key"]] = item["Value"]
    return describe_load_balancer_attributes(cloud, params)


def _tagged(cloud: Cloud, arn: str) -> dict[str, Any]:
    for table, code in (
        (BALANCERS, "LoadBalancerNotFound"),
        (GROUPS, "TargetGroupNotFound"),
        (LISTENERS, "ListenerNotFound"),
    ):
        part = {BALANCERS: ":loadbalancer/", GROUPS: ":targetgroup/", LISTENERS: ":listener/"}[table]
        if part in arn:
            row = cloud.table(table).get(arn)
            if row is None:
                raise Refusal(code, f"'{arn}' not found")
            return row
    raise Refusal("ValidationError", f"'{arn}' is not a valid resource ARN")


@action("elbv2", "AddTags")
def add_tags(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """AddTags: a tag of the same key is replaced."""
    for arn in params["ResourceArns"]:
        row = _tagged(cloud, arn)
        tags = {tag["Key"]: tag.get("Value") or "" for tag in [*row["Tags"], *params["Tags"]]}
        if len(tags) > 50:
            raise Refusal("TooManyTags", "You can't have more than 50 tags")
        row["Tags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
    return {}


@action("elbv2", "RemoveTags")
def remove_tags(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """RemoveTags by key."""
    for arn in params["ResourceArns"]:
        row = _tagged(cloud, arn)
        row["Tags"] = [tag for tag in row["Tags"] if tag["Key"] not in params["TagKeys"]]
    return {}


@action("elbv2", "DescribeTags")
def describe_tags(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeTags of up to 20 resources."""
    if len(params["ResourceArns"]) > 20:
        raise Refusal("ValidationError", "At most 20 resources can be described at once")
    shown = [{"ResourceArn": arn, "Tags": _tagged(cloud, arn)["Tags"]} for arn in params["ResourceArns"]]
    return {"TagDescriptions": shown}
