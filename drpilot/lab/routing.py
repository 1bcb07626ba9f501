"""Route tables and internet gateways of a VPC."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

from drpilot.lab.cloud import Cloud, action, kind
from drpilot.lab.filters import field, matching, paged
from drpilot.lab.lookup import find, read_all
from drpilot.lab.refusal import Refusal
from drpilot.lab.table import Row
from drpilot.lab.tags import tags_for

__all__ = ["is_main", "network_of", "new_route_table"]


def network_of(text: str, least: int, most: int, code: str) -> IPv4Network:
    """Read a CIDR block whose prefix has `least` to `most` bits."""
    try:
        found = IPv4Network(text)
    except ValueError:
        raise Refusal(
            "InvalidParameterValue", f"Value ({text}) for parameter cidrBlock is invalid."
        ) from None
    if not least <= found.prefixlen <= most:
        raise Refusal(code, f"The CIDR '{text}' is invalid.")
    return found


# -- route tables -----------------------------------------------------------------------------------------


def is_main(row: Row) -> bool:
    """Whether a route table is its VPC's main one."""
    return any(item["Main"] for item in row["Associations"])


kind("route_tables", "route-table", default=is_main)
kind("gateways", "internet-gateway")


def new_route_table(cloud: Cloud, vpc: Row, *, main: bool, tags: Any = ()) -> Row:
    """A route table with the local route."""
    table_id = cloud.new_id("rtb")
    row: Row = {
        "RouteTableId": table_id,
        "VpcId": vpc["VpcId"],
        "OwnerId": cloud.owned(),
        "PropagatingVgws": [],
        "Routes": [
            {
                "DestinationCidrBlock": vpc["CidrBlock"],
                "GatewayId": "local",
                "State": "active",
                "Origin": "CreateRouteTable",
            }
        ],
        "Associations": [],
        "Tags": list(tags),
    }
    if main:
        row["Associations"].append(_association(cloud, table_id, main=True))
    cloud.table("route_tables")[table_id] = row
    return row


def _association(cloud: Cloud, table_id: str, *, main: bool) -> Row:
    return {
        "Main": main,
        "RouteTableAssociationId": cloud.new_id("rtbassoc"),
        "RouteTableId": table_id,
        "AssociationState": {"State": "associated"},
    }


@action("ec2", "CreateRouteTable")
def create_route_table(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """A table with the local route."""
    tags = tags_for(params, "route-table")
    return {"RouteTable": new_route_table(cloud, find(cloud, "vpcs", params["VpcId"]), main=False, tags=tags)}


@action("ec2", "CreateRoute")
def create_route(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """A route to an internet gateway, an instance or an interface."""
    row = find(cloud, "route_tables", params["RouteTableId"])
    destination = params.get("DestinationCidrBlock", "")
    network_of(destination, 0, 32, "InvalidParameterValue")
    if any(route["DestinationCidrBlock"] == destination for route in row["Routes"]):
        raise Refusal("RouteAlreadyExists", f"The route identified by {destination} already exists.")
    route = {"DestinationCidrBlock": destination, "State": "active", "Origin": "CreateRoute"}
    for member, table in (("GatewayId", "gateways"), ("NetworkInterfaceId", "interfaces")):
        if member in params:
            find(cloud, table, params[member])
            route[member] = params[member]
    if "InstanceId" in params:
        route["InstanceId"] = find(cloud, "instances", params["InstanceId"])["InstanceId"]
    if len(route) == 3:
        raise Refusal("MissingParameter", "The request must contain exactly one target of the route")
    row["Routes"].append(route)
    return {"Return": True}


@action("ec2", "DeleteRoute")
def delete_route(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Take a route out of a table."""
    row = find(cloud, "route_tables", params["RouteTableId"])
    left = [
        route
        for route in row["Routes"]
        if route["DestinationCidrBlock"] != params.get("DestinationCidrBlock")
        or route["GatewayId"] == "local"
    ]
    if len(left) == len(row["Routes"]):
        raise Refusal("InvalidRoute.NotFound", "There is no such route in the table")
    row["Routes"] = left
    return {}


@action("ec2", "AssociateRouteTable")
def associate_route_table(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Use a table for a subnet."""
    row = find(cloud, "route_tables", params["RouteTableId"])
    subnet = find(cloud, "subnets", params.get("SubnetId", ""))
    for other in cloud.table("route_tables").peek().values():
        if any(item.get("SubnetId") == subnet["SubnetId"] for item in other["Associations"]):
            raise Refusal("Resource.AlreadyAssociated", "The subnet already has a route table")
    entry = {**_association(cloud, row["RouteTableId"], main=False), "SubnetId": subnet["SubnetId"]}
    row["Associations"].append(entry)
    return {
        "AssociationId": entry["RouteTableAssociationId"],
        "AssociationState": entry["AssociationState"],
    }


@action("ec2", "DisassociateRouteTable")
def disassociate_route_table(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Stop using a table for a subnet."""
    wanted = params["AssociationId"]
    for key, row in list(cloud.table("route_tables").peek().items()):
        if any(item["RouteTableAssociationId"] == wanted for item in row["Associations"]):
            table = cloud.table("route_tables")[key]
            table["Associations"] = [
                item for item in table["Associations"] if item["RouteTableAssociationId"] != wanted
            ]
            return {}
    raise Refusal("InvalidAssociationID.NotFound", f"The association ID '{wanted}' does not exist")


_TABLE_FILTERS = {
    "route-table-id": field("RouteTableId"),
    "vpc-id": field("VpcId"),
    "association.subnet-id": field("Associations", "SubnetId"),
    "association.main": field("Associations", "Main"),
    "association.route-table-association-id": field("Associations", "RouteTableAssociationId"),
    "route.destination-cidr-block": field("Routes", "DestinationCidrBlock"),
    "route.gateway-id": field("Routes", "GatewayId"),
    "owner-id": field("OwnerId"),
}


@action("ec2", "DescribeRouteTables")
def describe_route_tables(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Route tables by id or filter."""
    rows = read_all(cloud, "route_tables", params.get("RouteTableIds"))
    rows = matching(rows, params.get("Filters"), _TABLE_FILTERS)
    page, token = paged(params, rows, ids="RouteTableIds", most=100)
    return {"RouteTables": page, "NextToken": token}


@action("ec2", "DeleteRouteTable")
def delete_route_table(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Remove a table that no subnet uses."""
    row = find(cloud, "route_tables", params["RouteTableId"])
    if row["Associations"]:
        raise Refusal("DependencyViolation", f"The routeTable '{row['RouteTableId']}' has dependencies.")
    del cloud.table("route_tables")[row["RouteTableId"]]
    return {}


# -- internet gateways ------------------------------------------------------------------------------------


@action("ec2", "CreateInternetGateway")
def create_internet_gateway(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """A gateway not yet attached."""
    tags = tags_for(params, "internet-gateway")
    gateway_id = cloud.new_id("igw")
    row = {"InternetGatewayId": gateway_id, "Attachments": [], "OwnerId": cloud.owned(), "Tags": tags}
    cloud.table("gateways")[gateway_id] = row
    return {"InternetGateway": row}


@action("ec2", "AttachInternetGateway")
def attach_internet_gateway(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Attach a gateway to a VPC that has none."""
    row = find(cloud, "gateways", params["InternetGatewayId"])
    vpc_id = find(cloud, "vpcs", params["VpcId"])["VpcId"]
    taken = any(
        item["VpcId"] == vpc_id
        for other in cloud.table("gateways").peek().values()
        for item in other["Attachments"]
    )
    if row["Attachments"] or taken:
        raise Refusal(
            "Resource.AlreadyAssociated", f"resource {row['InternetGatewayId']} is already attached"
        )
    row["Attachments"] = [{"VpcId": vpc_id, "State": "available"}]
    return {}


@action("ec2", "DetachInternetGateway")
def detach_internet_gateway(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Detach a gateway from its VPC."""
    row = find(cloud, "gateways", params["InternetGatewayId"])
    if not any(item["VpcId"] == params["VpcId"] for item in row["Attachments"]):
        raise Refusal("Gateway.NotAttached", f"resource {row['InternetGatewayId']} is not attached")
    faces = cloud.table("interfaces").peek().values()
    if any(face["VpcId"] == params["VpcId"] and face.get("Association") for face in faces):
        raise Refusal(
            "DependencyViolation",
            f"Network {params['VpcId']} has some mapped public address(es). Please unmap those public address(es) "
            "before detaching the gateway.",
        )
    row["Attachments"] = []
    return {}


@action("ec2", "DescribeInternetGateways")
def describe_internet_gateways(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Gateways by id or filter."""
    known = {
        "internet-gateway-id": field("InternetGatewayId"),
        "attachment.vpc-id": field("Attachments", "VpcId"),
        "attachment.state": field("Attachments", "State"),
        "owner-id": field("OwnerId"),
    }
    rows = read_all(cloud, "gateways", params.get("InternetGatewayIds"))
    page, token = paged(params, matching(rows, params.get("Filters"), known), ids="InternetGatewayIds")
    return {"InternetGateways": page, "NextToken": token}


@action("ec2", "DeleteInternetGateway")
def delete_internet_gateway(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Remove a detached gateway."""
    row = find(cloud, "gateways", params["InternetGatewayId"])
    if row["Attachments"]:
        raise Refusal("DependencyViolation", f"The internetGateway '{row['InternetGatewayId']}' is attached")
    del cloud.table("gateways")[row["InternetGatewayId"]]
    return {}
