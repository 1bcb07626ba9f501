"""Networking without VPCs: 3.4, and later versions in mode EDGE.

Instances still need addresses to listen on, so the cloud has one hidden network with a subnet a zone, made when
it is first needed; replies never show it (prune.py). Its block is the tunable `classic_network`. Groups and
addresses are called by name and by number here, where a VPC calls them by id.
"""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

from drpilot.lab import groups, interfaces, launch, network
from drpilot.lab.autoscaling import (
    create_auto_scaling_group,
    describe_auto_scaling_groups,
    update_auto_scaling_group,
)
from drpilot.lab.cloud import Cloud, Refusal, action
from drpilot.lab.registry import Handler, handler_of
from drpilot.lab.table import Row

__all__ = ["ground"]

_NETWORK = "127.90.0.0/16"


def ground(cloud: Cloud) -> Row:
    """The hidden network's row."""
    for row in cloud.table("vpcs").peek().values():
        if row["IsDefault"]:
            return row
    block = IPv4Network(cloud.setting("classic_network", _NETWORK))
    made = network.create_vpc(cloud, {"CidrBlock": str(block)})["Vpc"]
    cloud.table("vpcs")[made["VpcId"]]["IsDefault"] = True
    for zone, part in zip(cloud.traits.zones, list(block.subnets(new_prefix=24))[1:], strict=False):
        given = {"VpcId": made["VpcId"], "CidrBlock": str(part), "AvailabilityZone": zone}
        subnet = network.create_subnet(cloud, given)["Subnet"]
        cloud.table("subnets")[subnet["SubnetId"]]["DefaultForAz"] = True
    return cloud.table("vpcs").peek()[made["VpcId"]]


def _subnet(cloud: Cloud, zone: str) -> str:
    vpc_id = ground(cloud)["VpcId"]
    for key, row in cloud.table("subnets").peek().items():
        if row["VpcId"] == vpc_id and row["AvailabilityZone"] == zone:
            return key
    raise Refusal("InvalidParameterValue", f"Invalid availability zone: [{zone}]")


def _group_id(cloud: Cloud, name: str) -> str:
    vpc_id = ground(cloud)["VpcId"]
    for key, row in cloud.table("groups").peek().items():
        if row["VpcId"] == vpc_id and row["GroupName"] == name:
            return key
    raise Refusal("InvalidGroup.NotFound", f"The security group '{name}' does not exist")


@action("ec2", "RunInstances", family="eucalyptus")
def run_instances(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """RunInstances; without a VPC into the zone asked for, and with groups by name."""
    if cloud.classic and not params.get("SubnetId"):
        zone = (params.get("Placement") or {}).get("AvailabilityZone") or cloud.traits.zones[0]
        params = {**params, "SubnetId": _subnet(cloud, zone)}
    return launch.run_instances(cloud, params)


@action("ec2", "CreateSecurityGroup", family="eucalyptus")
def create_security_group(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """CreateSecurityGroup; without a VPC a group of the account."""
    if cloud.classic:
        params = {**params, "VpcId": ground(cloud)["VpcId"]}
    return groups.create_security_group(cloud, params)


def _with_group_id(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """The call with ids where it has names: of the group, and of groups in its rules."""
    if params.get("GroupName") and not params.get("GroupId"):
        params = {**params, "GroupId": _group_id(cloud, params["GroupName"])}
    permissions = []
    for item in params.get("IpPermissions") or []:
        pairs = [
            {**pair, "GroupId": pair.get("GroupId") or _group_id(cloud, pair["GroupName"])}
            if pair.get("GroupName")
            else pair
            for pair in item.get("UserIdGroupPairs") or []
        ]
        permissions.append({**item, "UserIdGroupPairs": pairs})
    return {**params, "IpPermissions": permissions} if permissions else params


def _by_group_name(operation: str) -> None:
    common = _common("ec2", operation)

    def call(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
        return common(cloud, _with_group_id(cloud, params) if cloud.classic else params)

    action("ec2", operation, family="eucalyptus")(call)


def _common(service: str, operation: str) -> Handler:
    found = handler_of("aws", service, operation)
    assert found is not None, operation
    return found.handler


@action("ec2", "DescribeSecurityGroups", family="eucalyptus")
def describe_security_groups(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeSecurityGroups; every account has `default`."""
    if cloud.classic:
        ground(cloud)
    return groups.describe_security_groups(cloud, params)


# -- addresses --------------------------------------------------------------------------------------------


def _with_allocation(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    address = params.get("PublicIp")
    if not address or params.get("AllocationId") or params.get("AssociationId"):
        return params
    for key, row in cloud.table("addresses").peek().items():
        if row["PublicIp"] == address:
            return {**params, "AllocationId": key, "AssociationId": row.get("AssociationId")}
    raise Refusal("InvalidAddress.NotFound", f"Address {address} not found.")


def _by_address(operation: str) -> None:
    common = _common("ec2", operation)

    def call(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
        return common(cloud, _with_allocation(cloud, params))

    action("ec2", operation, family="eucalyptus")(call)


@action("ec2", "AllocateAddress", family="eucalyptus")
def allocate_address(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """AllocateAddress: `standard` without a VPC."""
    row = interfaces.allocate_address(cloud, params)
    if cloud.classic:
        row["Domain"] = "standard"
    return row


# -- what is not there without VPCs -----------------------------------------------------------------------


def _only_in_vpcs(operation: str, member: str) -> None:
    common = _common("ec2", operation)

    def call(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
        return {member: []} if cloud.classic else common(cloud, params)

    action("ec2", operation, family="eucalyptus")(call)


def _never_without_vpcs(operation: str) -> None:
    common = _common("ec2", operation)

    def call(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
        if cloud.classic:
            raise Refusal("UnsupportedOperation", "The networking mode of this cloud has no VPCs")
        return common(cloud, params)

    action("ec2", operation, family="eucalyptus")(call)


def _scaling(operation: str, common: Handler) -> None:
    def call(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
        if cloud.classic:
            ground(cloud)
        return common(cloud, params)

    action("autoscaling", operation, family="eucalyptus")(call)


@action("autoscaling", "DescribeAutoScalingGroups", family="eucalyptus")
def describe_groups(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeAutoScalingGroups: without a VPC a group has zones, and no subnets to tell of."""
    answer = describe_auto_scaling_groups(cloud, params)
    if cloud.classic:
        answer["AutoScalingGroups"] = [
            {key: value for key, value in item.items() if key != "VPCZoneIdentifier"}
            for item in answer["AutoScalingGroups"]
        ]
    return answer


for _name in ("AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress", "DeleteSecurityGroup"):
    _by_group_name(_name)
for _name in ("AssociateAddress", "DisassociateAddress", "ReleaseAddress"):
    _by_address(_name)
for _name, _member in (
    ("DescribeVpcs", "Vpcs"),
    ("DescribeSubnets", "Subnets"),
    ("DescribeRouteTables", "RouteTables"),
    ("DescribeInternetGateways", "InternetGateways"),
    ("DescribeNetworkInterfaces", "NetworkInterfaces"),
):
    _only_in_vpcs(_name, _member)
for _name in (
    "CreateVpc",
    "CreateSubnet",
    "CreateRouteTable",
    "CreateInternetGateway",
    "CreateNetworkInterface",
):
    _never_without_vpcs(_name)
_scaling("CreateAutoScalingGroup", create_auto_scaling_group)
_scaling("UpdateAutoScalingGroup", update_auto_scaling_group)
