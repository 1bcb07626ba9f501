"""Regions, zones, VPCs and subnets.

There is no default VPC: every account starts empty. A VPC may lie in 127.0.0.0/8, because instances of the
lab really listen on their private addresses.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Network
from typing import Any

from drpilot.lab.cloud import Cloud, action, kind
from drpilot.lab.filters import field, matching, paged
from drpilot.lab.groups import make_default_group
from drpilot.lab.identity import quota
from drpilot.lab.lookup import find, read_all, zone_names
from drpilot.lab.refusal import Refusal
from drpilot.lab.routing import is_main, network_of, new_route_table
from drpilot.lab.table import Row
from drpilot.lab.tags import tags_for

__all__ = ["free_addresses"]

kind("vpcs", "vpc", default=lambda row: row["IsDefault"])
kind("subnets", "subnet", default=lambda row: row["DefaultForAz"])

_REGIONS = ("eu-south-1", "eu-west-1", "us-east-1", "eu-central-1", "us-west-2")


# -- regions and zones ------------------------------------------------------------------------------------


@action("ec2", "DescribeRegions")
def describe_regions(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """The regions an account may use."""
    names = dict.fromkeys((cloud.region, *_REGIONS))
    rows = [
        {"RegionName": name, "Endpoint": f"ec2.{name}.amazonaws.com", "OptInStatus": "opt-in-not-required"}
        for name in names
        if not params.get("RegionNames") or name in params["RegionNames"]
    ]
    unknown = set(params.get("RegionNames") or ()) - set(names)
    if unknown:
        raise Refusal("InvalidParameterValue", f"Invalid region provided: {min(unknown)}")
    known = {"region-name": field("RegionName"), "opt-in-status": field("OptInStatus")}
    return {"Regions": matching(rows, params.get("Filters"), known)}


@action("ec2", "DescribeAvailabilityZones")
def describe_availability_zones(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """The zones of this region."""
    area, side, number = [*cloud.region.split("-"), "", ""][:3]
    short = f"{area}{side[:1]}{number}"
    rows: list[Row] = [
        {
            "ZoneName": name,
            "ZoneId": f"{short}-az{place}",
            "RegionName": cloud.region,
            "State": "available",
            "OptInStatus": "opt-in-not-required",
            "ZoneType": "availability-zone",
            "GroupName": cloud.region,
            "NetworkBorderGroup": cloud.region,
            "Messages": [],
        }
        for place, name in enumerate(zone_names(cloud), 1)
    ]
    for name in params.get("ZoneNames") or []:
        if name not in zone_names(cloud):
            raise Refusal("InvalidParameterValue", f"Invalid availability zone: [{name}]")
    known = {"zone-name": field("ZoneName"), "zone-id": field("ZoneId"), "state": field("State")}
    known["region-name"] = field("RegionName")
    wanted = params.get("ZoneNames")
    chosen = [row for row in rows if not wanted or row["ZoneName"] in wanted]
    return {"AvailabilityZones": matching(chosen, params.get("Filters"), known)}


@action("ec2", "DescribeAccountAttributes")
def describe_account_attributes(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """What the account has by default."""
    values = {
        "supported-platforms": "VPC",
        "default-vpc": "none",
        "max-instances": str(int(quota(cloud, "L-1216C47A"))),
        "vpc-max-elastic-ips": str(int(quota(cloud, "L-0263D0A3"))),
        "max-elastic-ips": str(int(quota(cloud, "L-0263D0A3"))),
        "vpc-max-security-groups-per-interface": "5",
    }
    wanted = params.get("AttributeNames") or list(values)
    return {
        "AccountAttributes": [
            {"AttributeName": name, "AttributeValues": [{"AttributeValue": values[name]}]}
            for name in wanted
            if name in values
        ]
    }


# -- VPCs -------------------------------------------------------------------------------------------------


@action("ec2", "CreateVpc")
def create_vpc(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """A VPC with its main route table and default security group."""
    block = network_of(params.get("CidrBlock", ""), 16, 28, "InvalidVpc.Range")
    tags = tags_for(params, "vpc")
    vpcs = cloud.table("vpcs")
    if len(vpcs) >= quota(cloud, "L-F678F1CE"):
        raise Refusal("VpcLimitExceeded", "The maximum number of VPCs has been reached.")
    vpc_id = cloud.new_id("vpc")
    vpcs[vpc_id] = {
        "VpcId": vpc_id,
        "CidrBlock": str(block),
        "State": "available",
        "OwnerId": cloud.owned(),
        "InstanceTenancy": params.get("InstanceTenancy", "default"),
        "IsDefault": False,
        "DhcpOptionsId": "default",
        "CidrBlockAssociationSet": [
            {
                "AssociationId": cloud.new_id("vpc-cidr-assoc"),
                "CidrBlock": str(block),
                "CidrBlockState": {"State": "associated"},
            }
        ],
        "Tags": tags,
        "_dns": {"enableDnsSupport": True, "enableDnsHostnames": False},
    }
    new_route_table(cloud, vpcs[vpc_id], main=True)
    make_default_group(cloud, vpc_id)
    return {"Vpc": vpcs[vpc_id]}


@action("ec2", "ModifyVpcAttribute")
def modify_vpc_attribute(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DNS support and DNS names of a VPC."""
    row = find(cloud, "vpcs", params["VpcId"])
    for member in ("EnableDnsSupport", "EnableDnsHostnames"):
        if member in params:
            row["_dns"][member[0].lower() + member[1:]] = params[member].get("Value", False)
    return {}


@action("ec2", "DescribeVpcAttribute")
def describe_vpc_attribute(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """One attribute of a VPC."""
    row = find(cloud, "vpcs", params["VpcId"])
    name = params.get("Attribute", "")
    if name not in row["_dns"]:
        raise Refusal("InvalidParameterValue", f"Value ({name}) for parameter attribute is invalid.")
    return {"VpcId": row["VpcId"], name[0].upper() + name[1:]: {"Value": row["_dns"][name]}}


_VPC_FILTERS = {
    "vpc-id": field("VpcId"),
    "cidr": field("CidrBlock"),
    "cidr-block-association.cidr-block": field("CidrBlockAssociationSet", "CidrBlock"),
    "state": field("State"),
    "is-default": field("IsDefault"),
    "isDefault": field("IsDefault"),
    "owner-id": field("OwnerId"),
}


@action("ec2", "DescribeVpcs")
def describe_vpcs(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """VPCs by id or filter."""
    rows = matching(read_all(cloud, "vpcs", params.get("VpcIds")), params.get("Filters"), _VPC_FILTERS)
    page, token = paged(params, rows, ids="VpcIds")
    return {"Vpcs": page, "NextToken": token}


@action("ec2", "DeleteVpc")
def delete_vpc(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Remove an empty VPC with what it was made with."""
    vpc_id = find(cloud, "vpcs", params["VpcId"])["VpcId"]
    own = {
        "subnets": [],
        "gateways": [],
        "groups": [key for key, row in _of_vpc(cloud, "groups", vpc_id) if row["GroupName"] == "default"],
        "route_tables": [key for key, row in _of_vpc(cloud, "route_tables", vpc_id) if is_main(row)],
    }
    attached = [
        key
        for key, row in cloud.table("gateways").peek().items()
        if any(item["VpcId"] == vpc_id for item in row["Attachments"])
    ]
    left = [key for table in own for key, _ in _of_vpc(cloud, table, vpc_id) if key not in own[table]]
    if left or attached:
        raise Refusal("DependencyViolation", f"The vpc '{vpc_id}' has dependencies and cannot be deleted.")
    for table, keys in own.items():
        for key in keys:
            del cloud.table(table)[key]
    for key, row in list(cloud.table("rules").peek().items()):
        if row["GroupId"] in own["groups"]:
            del cloud.table("rules")[key]
    del cloud.table("vpcs")[vpc_id]
    return {}


def _of_vpc(cloud: Cloud, table: str, vpc_id: str) -> list[tuple[str, Row]]:
    return [(key, row) for key, row in cloud.table(table).peek().items() if row.get("VpcId") == vpc_id]


# -- subnets ----------------------------------------------------------------------------------------------


@action("ec2", "CreateSubnet")
def create_subnet(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """A part of a VPC in one zone."""
    vpc = find(cloud, "vpcs", params["VpcId"])
    block = network_of(params.get("CidrBlock", ""), 16, 28, "InvalidSubnet.Range")
    tags = tags_for(params, "subnet")
    if not block.subnet_of(IPv4Network(vpc["CidrBlock"])):
        raise Refusal("InvalidSubnet.Range", f"The CIDR '{block}' is invalid.")
    for _, row in _of_vpc(cloud, "subnets", vpc["VpcId"]):
        if IPv4Network(row["CidrBlock"]).overlaps(block):
            raise Refusal("InvalidSubnet.Conflict", f"The CIDR '{block}' conflicts with another subnet")
    zone = params.get("AvailabilityZone") or zone_names(cloud)[0]
    if zone not in zone_names(cloud):
        raise Refusal("InvalidParameterValue", f"Value ({zone}) for parameter availabilityZone is invalid.")
    subnet_id = cloud.new_id("subnet")
    row = {
        "SubnetId": subnet_id,
        "SubnetArn": f"arn:aws:ec2:{cloud.region}:{cloud.account}:subnet/{subnet_id}",
        "VpcId": vpc["VpcId"],
        "CidrBlock": str(block),
        "AvailabilityZone": zone,
        "State": "available",
        "OwnerId": cloud.owned(),
        "DefaultForAz": False,
        "MapPublicIpOnLaunch": False,
        "Tags": tags,
    }
    cloud.table("subnets")[subnet_id] = row
    return {"Subnet": _shown_subnet(cloud, row)}


def free_addresses(cloud: Cloud, subnet: Row) -> list[str]:
    """Addresses of a subnet that nothing has; the first four and the last are reserved (VPC user guide)."""
    taken = {
        item["PrivateIpAddress"]
        for row in cloud.table("interfaces").peek().values()
        if row["SubnetId"] == subnet["SubnetId"]
        for item in row["PrivateIpAddresses"]
    }
    return [address for address in _addresses(subnet["CidrBlock"]) if address not in taken]


@lru_cache(maxsize=64)
def _addresses(block: str) -> tuple[str, ...]:
    """What a subnet may give away, in order; thousands, so they are written down once."""
    return tuple(str(address) for address in IPv4Network(block))[4:-1]


def _shown_subnet(cloud: Cloud, row: Row) -> Row:
    block = IPv4Network(row["CidrBlock"])
    used = sum(
        len(item["PrivateIpAddresses"])
        for item in cloud.table("interfaces").peek().values()
        if item["SubnetId"] == row["SubnetId"]
    )
    return {**row, "AvailableIpAddressCount": block.num_addresses - 5 - used}


_SUBNET_FILTERS = {
    "subnet-id": field("SubnetId"),
    "vpc-id": field("VpcId"),
    "cidr-block": field("CidrBlock"),
    "cidr": field("CidrBlock"),
    "cidrBlock": field("CidrBlock"),
    "availability-zone": field("AvailabilityZone"),
    "availabilityZone": field("AvailabilityZone"),
    "state": field("State"),
    "default-for-az": field("DefaultForAz"),
    "owner-id": field("OwnerId"),
}


@action("ec2", "DescribeSubnets")
def describe_subnets(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Subnets by id or filter."""
    rows = read_all(cloud, "subnets", params.get("SubnetIds"))
    rows = matching(rows, params.get("Filters"), _SUBNET_FILTERS)
    page, token = paged(params, rows, ids="SubnetIds")
    return {"Subnets": [_shown_subnet(cloud, row) for row in page], "NextToken": token}


@action("ec2", "ModifySubnetAttribute")
def modify_subnet_attribute(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Whether instances in the subnet get a public address."""
    row = find(cloud, "subnets", params["SubnetId"])
    if "MapPublicIpOnLaunch" in params:
        row["MapPublicIpOnLaunch"] = params["MapPublicIpOnLaunch"].get("Value", False)
    return {}


@action("ec2", "DeleteSubnet")
def delete_subnet(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Remove a subnet nothing is in."""
    subnet_id = find(cloud, "subnets", params["SubnetId"])["SubnetId"]
    if any(row["SubnetId"] == subnet_id for row in cloud.table("interfaces").peek().values()):
        raise Refusal("DependencyViolation", f"The subnet '{subnet_id}' has dependencies.")
    for key, row in list(cloud.table("route_tables").peek().items()):
        if any(item.get("SubnetId") == subnet_id for item in row["Associations"]):
            table = cloud.table("route_tables")[key]
            table["Associations"] = [
                item for item in table["Associations"] if item.get("SubnetId") != subnet_id
            ]
    del cloud.table("subnets")[subnet_id]
    return {}
