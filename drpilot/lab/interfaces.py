"""Network interfaces and elastic addresses."""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from drpilot.lab.cloud import Cloud, action, kind
from drpilot.lab.filters import field, matching, paged
from drpilot.lab.identity import quota
from drpilot.lab.lookup import find, find_all, read_all
from drpilot.lab.network import free_addresses
from drpilot.lab.refusal import Refusal
from drpilot.lab.table import Row
from drpilot.lab.tags import tags_for

__all__ = ["attach_interface", "drop_interface", "group_refs", "new_interface"]

kind("interfaces", "network-interface")
kind("addresses", "elastic-ip")


def group_refs(cloud: Cloud, subnet: Row, group_ids: list[str] | None) -> list[Row]:
    """The security groups of a new interface: those named, which must be of the subnet's VPC, or the VPC's
    default group.
    """
    if group_ids:
        rows = find_all(cloud, "groups", group_ids)
        for row in rows:
            if row["VpcId"] != subnet["VpcId"]:
                raise Refusal(
                    "InvalidParameter",
                    f"Security group {row['GroupId']} and subnet {subnet['SubnetId']} belong to different "
                    "networks.",
                )
    else:
        rows = [
            row
            for row in cloud.table("groups").peek().values()
            if row["VpcId"] == subnet["VpcId"] and row["GroupName"] == "default"
        ]
    return [{"GroupId": row["GroupId"], "GroupName": row["GroupName"]} for row in rows]


def _chosen_address(cloud: Cloud, subnet: Row, wanted: str | None) -> str:
    free = free_addresses(cloud, subnet)
    if wanted is None:
        if not free:
            raise Refusal(
                "InsufficientFreeAddressesInSubnet",
                f"The specified subnet {subnet['SubnetId']} does not have enough free addresses.",
            )
        return free[0]
    try:
        inside = IPv4Address(wanted) in IPv4Network(subnet["CidrBlock"])
    except ValueError:
        inside = False
    if not inside:
        raise Refusal(
            "InvalidParameterValue", f"Value ({wanted}) for parameter address is invalid: not in the subnet"
        )
    if wanted not in free:
        raise Refusal("InvalidIPAddress.InUse", f"Address {wanted} is in use.")
    return wanted


def new_interface(
    cloud: Cloud, subnet: Row, groups: list[Row], address: str | None = None, description: str = ""
) -> Row:
    """A new interface with one private address, not attached."""
    chosen = _chosen_address(cloud, subnet, address)
    interface_id, digits = cloud.new_id("eni"), cloud.new_hex(8)
    row: Row = {
        "NetworkInterfaceId": interface_id,
        "SubnetId": subnet["SubnetId"],
        "VpcId": subnet["VpcId"],
        "AvailabilityZone": subnet["AvailabilityZone"],
        "Description": description,
        "OwnerId": cloud.owned(),
        "RequesterManaged": False,
        "Status": "available",
        "MacAddress": "0a:58:" + ":".join(digits[place : place + 2] for place in (0, 2, 4, 6)),
        "PrivateIpAddress": chosen,
        "PrivateDnsName": f"ip-{chosen.replace('.', '-')}.{cloud.region}.compute.internal",
        "PrivateIpAddresses": [{"Primary": True, "PrivateIpAddress": chosen}],
        "SourceDestCheck": True,
        "InterfaceType": "interface",
        "Groups": groups,
        "Tags": [],
    }
    cloud.table("interfaces")[interface_id] = row
    return row


def attach_interface(cloud: Cloud, row: Row, instance_id: str, index: int, *, delete: bool) -> None:
    """Attach an interface to an instance; the instance's row is the caller's business."""
    row["Status"] = "in-use"
    row["Attachment"] = {
        "AttachmentId": cloud.new_id("eni-attach"),
        "AttachTime": cloud.stamp(),
        "DeleteOnTermination": delete,
        "DeviceIndex": index,
        "InstanceId": instance_id,
        "InstanceOwnerId": cloud.owned(),
        "Status": "attached",
    }


def drop_interface(cloud: Cloud, interface_id: str) -> None:
    """Detach an interface whose instance is gone; delete it where it was attached so."""
    row = cloud.table("interfaces").get(interface_id)
    if row is None:
        return
    attachment = row.pop("Attachment", None)
    row["Status"] = "available"
    for key, address in list(cloud.table("addresses").peek().items()):
        if address.get("NetworkInterfaceId") == interface_id:
            _loosen(cloud.table("addresses")[key])
            row.pop("Association", None)
    if attachment is not None and attachment["DeleteOnTermination"]:
        del cloud.table("interfaces")[interface_id]


@action("ec2", "CreateNetworkInterface")
def create_network_interface(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """An interface in a subnet, to be attached later."""
    subnet = find(cloud, "subnets", params["SubnetId"])
    tags = tags_for(params, "network-interface")
    groups = group_refs(cloud, subnet, params.get("Groups"))
    row = new_interface(cloud, subnet, groups, params.get("PrivateIpAddress"), params.get("Description", ""))
    row["Tags"] = tags
    return {"NetworkInterface": _shown(row), "ClientToken": params.get("ClientToken")}


def _shown(row: Row) -> Row:
    return {**row, "TagSet": row["Tags"]}


_FILTERS = {
    "network-interface-id": field("NetworkInterfaceId"),
    "subnet-id": field("SubnetId"),
    "vpc-id": field("VpcId"),
    "status": field("Status"),
    "private-ip-address": field("PrivateIpAddress"),
    "addresses.private-ip-address": field("PrivateIpAddresses", "PrivateIpAddress"),
    "attachment.instance-id": field("Attachment", "InstanceId"),
    "attachment.attachment-id": field("Attachment", "AttachmentId"),
    "attachment.device-index": field("Attachment", "DeviceIndex"),
    "attachment.status": field("Attachment", "Status"),
    "availability-zone": field("AvailabilityZone"),
    "description": field("Description"),
    "group-id": field("Groups", "GroupId"),
    "group-name": field("Groups", "GroupName"),
    "mac-address": field("MacAddress"),
    "owner-id": field("OwnerId"),
}


@action("ec2", "DescribeNetworkInterfaces")
def describe_network_interfaces(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Interfaces by id or filter."""
    rows = read_all(cloud, "interfaces", params.get("NetworkInterfaceIds"))
    rows = matching(rows, params.get("Filters"), _FILTERS)
    page, token = paged(params, rows, ids="NetworkInterfaceIds")
    return {"NetworkInterfaces": [_shown(row) for row in page], "NextToken": token}


@action("ec2", "AttachNetworkInterface")
def attach_network_interface(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Give an instance of the same zone one more interface."""
    row = find(cloud, "interfaces", params["NetworkInterfaceId"])
    instance = find(cloud, "instances", params["InstanceId"])
    if row["Status"] != "available":
        raise Refusal(
            "InvalidNetworkInterface.InUse", f"Interface: [{row['NetworkInterfaceId']}] is already in use."
        )
    if instance["State"]["Name"] not in ("running", "stopped"):
        raise Refusal("IncorrectState", f"Instance '{instance['InstanceId']}' is not running or stopped.")
    if instance["Placement"]["AvailabilityZone"] != row["AvailabilityZone"]:
        raise Refusal("InvalidParameterCombination", "The interface and the instance are in different zones")
    taken = {item["Attachment"]["DeviceIndex"] for item in instance["NetworkInterfaces"]}
    if params["DeviceIndex"] in taken:
        raise Refusal(
            "InvalidParameterValue",
            f"Instance '{instance['InstanceId']}' already has an interface attached at device index "
            f"'{params['DeviceIndex']}'.",
        )
    attach_interface(cloud, row, instance["InstanceId"], params["DeviceIndex"], delete=False)
    instance["NetworkInterfaces"].append(dict(row))
    return {"AttachmentId": row["Attachment"]["AttachmentId"], "NetworkCardIndex": 0}


@action("ec2", "DetachNetworkInterface")
def detach_network_interface(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Take an interface that is not the first from its instance."""
    wanted = params["AttachmentId"]
    for key, peeked in list(cloud.table("interfaces").peek().items()):
        if (peeked.get("Attachment") or {}).get("AttachmentId") != wanted:
            continue
        row = cloud.table("interfaces")[key]
        if row["Attachment"]["DeviceIndex"] == 0:
            raise Refusal(
                "OperationNotPermitted", "The network interface at device index 0 can't be detached"
            )
        instance = cloud.table("instances")[row["Attachment"]["InstanceId"]]
        instance["NetworkInterfaces"] = [
            item for item in instance["NetworkInterfaces"] if item["NetworkInterfaceId"] != key
        ]
        row.pop("Attachment")
        row["Status"] = "available"
        return {}
    raise Refusal("InvalidAttachmentID.NotFound", f"The attachment ID '{wanted}' does not exist")


@action("ec2", "DeleteNetworkInterface")
def delete_network_interface(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Remove an interface that is not attached."""
    row = find(cloud, "interfaces", params["NetworkInterfaceId"])
    if row["Status"] != "available":
        raise Refusal(
            "InvalidParameterValue",
            f"Network interface '{row['NetworkInterfaceId']}' is currently in use.",
        )
    drop_interface(cloud, row["NetworkInterfaceId"])
    cloud.table("interfaces").pop(row["NetworkInterfaceId"], None)
    return {}


# -- elastic addresses ------------------------------------------------------------------------------------


def _public_pool(cloud: Cloud) -> IPv4Network:
    """A part of 127.200.0.0 to 127.249.255.255 a site of a lab, since guests listen on their public address too; the
    tunable `public_pool` changes it.
    """
    seed = hashlib.sha256(f"{cloud.store.directory}/{cloud.name}".encode()).digest()
    return IPv4Network(cloud.setting("public_pool", f"127.{200 + seed[0] % 50}.{seed[1]}.0/24"))


@action("ec2", "AllocateAddress")
def allocate_address(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """A public address for the account."""
    addresses, tags = cloud.table("addresses"), tags_for(params, "elastic-ip")
    if len(addresses) >= quota(cloud, "L-0263D0A3"):
        raise Refusal("AddressLimitExceeded", "The maximum number of addresses has been reached.")
    taken = {row["PublicIp"] for row in addresses.peek().values()}
    free = next((str(one) for one in _public_pool(cloud).hosts() if str(one) not in taken), None)
    if free is None:
        raise Refusal(
            "InsufficientAddressCapacity",
            "Not enough available addresses to satisfy your request.",
            status=503,
        )
    allocation_id = cloud.new_id("eipalloc")
    row = {
        "AllocationId": allocation_id,
        "PublicIp": free,
        "Domain": "vpc",
        "PublicIpv4Pool": "amazon",
        "NetworkBorderGroup": cloud.region,
        "Tags": tags,
    }
    addresses[allocation_id] = row
    return row


@action("ec2", "AssociateAddress")
def associate_address(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Bind an address to an instance's first interface, or to an interface.

    An address that is bound already moves, unless AllowReassociation forbids it; what the interface had before
    stays the account's, unbound (EC2 API reference, AssociateAddress).
    """
    row = find(cloud, "addresses", params.get("AllocationId", ""))
    interface = _asked_interface(cloud, params)
    if not _has_gateway(cloud, interface["VpcId"]):
        raise Refusal(
            "Gateway.NotAttached", f"Network {interface['VpcId']} is not attached to any internet gateway"
        )
    if row.get("AssociationId") and params.get("AllowReassociation") is False:
        raise Refusal(
            "Resource.AlreadyAssociated",
            f"resource {row['AllocationId']} is already associated with associate-id {row['AssociationId']}",
        )
    before = (interface.get("Association") or {}).get("AllocationId", row["AllocationId"])
    for bound in {before, row["AllocationId"]}:
        _unbind(cloud, cloud.table("addresses")[bound])
    row["AssociationId"] = cloud.new_id("eipassoc")
    row["NetworkInterfaceId"] = interface["NetworkInterfaceId"]
    row["PrivateIpAddress"] = interface["PrivateIpAddress"]
    row["NetworkInterfaceOwnerId"] = cloud.owned()
    interface["Association"] = {
        "IpOwnerId": cloud.owned(),
        **{key: row[key] for key in ("PublicIp", "AllocationId", "AssociationId")},
    }
    attachment = interface.get("Attachment") or {}
    if attachment:
        row["InstanceId"] = attachment["InstanceId"]
        if attachment["DeviceIndex"] == 0:  # the address of a further interface is not the instance's
            cloud.table("instances")[row["InstanceId"]]["PublicIpAddress"] = row["PublicIp"]
    return {"AssociationId": row["AssociationId"]}


def _asked_interface(cloud: Cloud, params: dict[str, Any]) -> Row:
    """The interface that an address is to be bound to; an instance must run or be stopped."""
    if params.get("NetworkInterfaceId"):
        return find(cloud, "interfaces", params["NetworkInterfaceId"])
    instance = find(cloud, "instances", params.get("InstanceId", ""))
    state = instance["State"]["Name"]
    if state in ("pending", "shutting-down", "terminated"):
        raise Refusal(
            "InvalidInstanceID",
            f"The {state} instance '{instance['InstanceId']}' is not in a valid state for this operation.",
        )
    return cloud.table("interfaces")[instance["NetworkInterfaces"][0]["NetworkInterfaceId"]]


def _has_gateway(cloud: Cloud, vpc_id: str) -> bool:
    rows = cloud.table("gateways").peek().values()
    return any(item["VpcId"] == vpc_id for row in rows for item in row["Attachments"])


def _loosen(row: Row) -> None:
    for key in ("AssociationId", "NetworkInterfaceId", "InstanceId", "PrivateIpAddress"):
        row.pop(key, None)
    row.pop("NetworkInterfaceOwnerId", None)


def _unbind(cloud: Cloud, row: Row) -> None:
    interface = cloud.table("interfaces").get(row.get("NetworkInterfaceId", ""))
    if interface is not None:
        interface.pop("Association", None)
    instance = cloud.table("instances").get(row.get("InstanceId", ""))
    if instance is not None and instance.get("PublicIpAddress") == row["PublicIp"]:
        instance.pop("PublicIpAddress")
    _loosen(row)


@action("ec2", "DisassociateAddress")
def disassociate_address(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Unbind an address; it stays the account's."""
    wanted = params.get("AssociationId")
    for key, row in list(cloud.table("addresses").peek().items()):
        if wanted is not None and row.get("AssociationId") == wanted:
            _unbind(cloud, cloud.table("addresses")[key])
            return {}
    raise Refusal("InvalidAssociationID.NotFound", f"The association ID '{wanted}' does not exist")


@action("ec2", "ReleaseAddress")
def release_address(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Give an unbound address back."""
    row = find(cloud, "addresses", params.get("AllocationId", ""))
    if row.get("AssociationId"):
        raise Refusal("InvalidIPAddress.InUse", f"Address '{row['PublicIp']}' is in use.")
    del cloud.table("addresses")[row["AllocationId"]]
    return {}


@action("ec2", "DescribeAddresses")
def describe_addresses(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Addresses by allocation, address or filter."""
    rows = read_all(cloud, "addresses", params.get("AllocationIds"))
    if params.get("PublicIps"):
        rows = [row for row in rows if row["PublicIp"] in params["PublicIps"]]
        if len(rows) < len(params["PublicIps"]):
            raise Refusal("InvalidAddress.NotFound", "Address not found.")
    known = {
        "allocation-id": field("AllocationId"),
        "association-id": field("AssociationId"),
        "instance-id": field("InstanceId"),
        "network-interface-id": field("NetworkInterfaceId"),
        "private-ip-address": field("PrivateIpAddress"),
        "public-ip": field("PublicIp"),
        "domain": field("Domain"),
        "network-border-group": field("NetworkBorderGroup"),
        "network-interface-owner-id": field("NetworkInterfaceOwnerId"),
    }
    return {"Addresses": matching(rows, params.get("Filters"), known)}
