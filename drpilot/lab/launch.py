"""RunInstances: from the parameters, the launch template and the image to running instances.

Everything is checked before anything is made. The client token's three errors are the real ones (EC2 API
reference, RunInstances): mismatch, terminated, and the same instances again.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from drpilot.lab.cloud import Cloud, action, timer
from drpilot.lab.durations import duration
from drpilot.lab.filters import field
from drpilot.lab.flavors import check_flavor, vcpus
from drpilot.lab.identity import quota
from drpilot.lab.images import merged_mappings
from drpilot.lab.interfaces import attach_interface, group_refs, new_interface
from drpilot.lab.keys import check_key_name
from drpilot.lab.lookup import find, zone_names
from drpilot.lab.network import free_addresses
from drpilot.lab.refusal import Refusal
from drpilot.lab.table import Row
from drpilot.lab.tags import check_tags, given_tags
from drpilot.lab.templates import template_data
from drpilot.lab.tokens import once
from drpilot.lab.volumes import VolumePlan, attach_row, make_volume, plan_volume

__all__ = ["METADATA_DEFAULTS", "STATES", "check_capacity", "set_state"]

STATES = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}
METADATA_DEFAULTS = {
    "State": "applied",
    "HttpTokens": "required",
    "HttpPutResponseHopLimit": 2,
    "HttpEndpoint": "enabled",
    "HttpProtocolIpv6": "disabled",
    "InstanceMetadataTags": "disabled",
}
_KINDS = ("instance", "volume", "network-interface", "spot-instances-request", "elastic-gpu")


def set_state(row: Row, name: str) -> None:
    """Move an instance to a state."""
    row["State"] = {"Code": STATES[name], "Name": name}


def check_capacity(cloud: Cloud, operation: str, instance_type: str, zone: str, count: int) -> None:
    """Refuse when the account's vCPUs do not suffice, or when the zone has no room: by the fault `capacity` or
    the tunable `capacity` {zone/type, type or *: count}.
    """
    rows = [
        row
        for row in cloud.table("instances").peek().values()
        if row["State"]["Name"] in ("pending", "running")
    ]
    used = sum(vcpus(row["InstanceType"]) for row in rows)
    limit = quota(cloud, "L-1216C47A")
    if used + count * vcpus(instance_type) > limit:
        raise Refusal(
            "VcpuLimitExceeded",
            f"You have requested more vCPU capacity than your current vCPU limit of {int(limit)} allows for "
            "the instance bucket that the specified instance type belongs to.",
        )
    short = cloud.faults.strikes("capacity", "ec2", operation)
    for pattern, room in cloud.setting("capacity", {}).items():
        place, _, name = pattern.rpartition("/")
        if name in ("*", instance_type) and place in ("", zone):
            taken = sum(
                name in ("*", row["InstanceType"]) and place in ("", row["Placement"]["AvailabilityZone"])
                for row in rows
            )
            short = short or taken + count > room
    if short:
        raise Refusal(
            "InsufficientInstanceCapacity",
            f"We currently do not have sufficient {instance_type} capacity in the Availability Zone you "
            f"requested ({zone}).",
            status=500,
        )


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that is needed to make the instances of one call."""

    asked: dict[str, Any]
    image: Row
    subnet: Row
    groups: list[Row]
    address: str | None
    interface: Row | None
    mappings: list[tuple[Row, VolumePlan]]
    tags: dict[str, list[dict[str, str]]]
    template: tuple[str, int] | None


@action("ec2", "RunInstances")
def run_instances(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Launch instances, or give those that this client token launched before."""
    reply = once(
        cloud,
        "RunInstances",
        params,
        lambda: _launch(cloud, params),
        again=lambda kept: _launched_before(cloud, kept),
    )
    instances = [cloud.table("instances").peek()[instance_id] for instance_id in reply["ids"]]
    return {
        "ReservationId": reply["reservation"],
        "OwnerId": cloud.owned(),
        "Groups": [],
        "Instances": instances,
    }


def _launched_before(cloud: Cloud, kept: dict[str, Any]) -> dict[str, Any]:
    for instance_id in kept["ids"]:
        row = cloud.table("instances").peek().get(instance_id)
        if row is None or row["State"]["Name"] in ("shutting-down", "terminated"):
            raise Refusal(
                "IdempotentInstanceTerminated",
                "The client token you have provided is associated with an instance that has been terminated.",
            )
    return kept


def _resolved(cloud: Cloud, params: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, int] | None]:
    """The parameters with what a launch template adds; the call's own always win."""
    if "LaunchTemplate" not in params:
        return dict(params), None
    row, number, data = template_data(cloud, params["LaunchTemplate"])
    asked = {**data, **params}
    for member in ("Placement", "MetadataOptions", "Monitoring"):
        if member in data and member in params:
            asked[member] = {**data[member], **params[member]}
    if "TagSpecifications" in data:
        merged: dict[str, dict[str, str]] = {}
        for spec in (*data["TagSpecifications"], *(params.get("TagSpecifications") or ())):
            kind = merged.setdefault(spec["ResourceType"], {})
            kind.update({tag["Key"]: tag.get("Value", "") for tag in spec.get("Tags") or []})
        asked["TagSpecifications"] = [
            {"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
            for kind, tags in merged.items()
        ]
    asked["BlockDeviceMappings"] = merged_mappings(
        data.get("BlockDeviceMappings") or [], params.get("BlockDeviceMappings")
    )
    return asked, (row["LaunchTemplateId"], number)


def _plan(cloud: Cloud, params: dict[str, Any]) -> _Plan:
    """Check a call and gather what it needs; makes nothing."""
    asked, template = _resolved(cloud, params)
    if not 1 <= params["MinCount"] <= params["MaxCount"]:
        raise Refusal("InvalidParameterValue", "MinCount must be at least 1 and not above MaxCount")
    if not asked.get("ImageId"):
        raise Refusal("MissingParameter", "The request must contain the parameter ImageId")
    image = find(cloud, "images", asked["ImageId"])
    if image["State"] != "available":
        raise Refusal("InvalidAMIID.Unavailable", f"The AMI ID '{image['ImageId']}' is {image['State']}")
    usual = cloud.traits.instance_type
    asked.setdefault("InstanceType", usual if image["Architecture"] != "arm64" else "m7g.medium")
    tags = given_tags(asked, _KINDS)
    for given in tags.values():
        check_tags(list(given))
    check_key_name(cloud, asked.get("KeyName"))
    _check_user_data(asked.get("UserData"))
    _check_profile(cloud, asked.get("IamInstanceProfile"))
    subnet, groups, address, interface = _plan_network(cloud, asked)
    zone = subnet["AvailabilityZone"]
    check_flavor(cloud, asked["InstanceType"], image["Architecture"], zone)
    wanted_zone = (asked.get("Placement") or {}).get("AvailabilityZone")
    if wanted_zone is not None and wanted_zone not in zone_names(cloud):
        raise Refusal("InvalidParameterValue", f"Invalid availability zone: [{wanted_zone}]")
    if wanted_zone not in (None, zone):
        raise Refusal("InvalidParameterCombination", "The subnet is not in the requested Availability Zone")
    mappings = [
        (item, plan_volume(cloud, item["Ebs"]))
        for item in merged_mappings(image["BlockDeviceMappings"], asked.get("BlockDeviceMappings"))
    ]
    check_capacity(cloud, "RunInstances", asked["InstanceType"], zone, params["MinCount"])
    return _Plan(asked, image, subnet, groups, address, interface, mappings, tags, template)


def _check_user_data(text: str | None) -> None:
    if text is None:
        return
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.") from None
    if len(data) > 16_384:
        raise Refusal("InvalidParameterValue", "User data is limited to 16384 bytes")


def _check_profile(cloud: Cloud, given: dict[str, str] | None) -> None:
    """Any profile is good unless the tunable `instance_profiles` lists those there are; see profiles.py."""
    known = cloud.setting("instance_profiles", None)
    if given is None or known is None:
        return
    name = given.get("Name") or given.get("Arn", "").rpartition("/")[2]
    if name not in known:
        raise Refusal(
            "InvalidParameterValue", f"Value ({name}) for parameter iamInstanceProfile.name is invalid."
        )


def _plan_network(cloud: Cloud, asked: dict[str, Any]) -> tuple[Row, list[Row], str | None, Row | None]:
    """Subnet, security groups, private address and, where it exists already, the first interface."""
    specs = asked.get("NetworkInterfaces") or []
    subnet_id, group_ids = asked.get("SubnetId"), list(asked.get("SecurityGroupIds") or [])
    address = asked.get("PrivateIpAddress")
    if len(specs) > 1:
        raise Refusal("Unsupported", "The lab launches instances with one network interface")
    if specs:
        if subnet_id or group_ids or address:
            raise Refusal(
                "InvalidParameterCombination",
                "Network interfaces and an instance-level subnet ID, security groups or private address may "
                "not be specified on the same request",
            )
        spec = specs[0]
        if spec.get("NetworkInterfaceId"):
            row = find(cloud, "interfaces", spec["NetworkInterfaceId"])
            if row["Status"] != "available":
                raise Refusal(
                    "InvalidNetworkInterface.InUse", f"Interface: [{row['NetworkInterfaceId']}] is in use."
                )
            return find(cloud, "subnets", row["SubnetId"]), row["Groups"], row["PrivateIpAddress"], row
        subnet_id, group_ids = spec.get("SubnetId"), list(spec.get("Groups") or [])
        address = spec.get("PrivateIpAddress")
    if not subnet_id:
        raise Refusal(
            "VPCIdNotSpecified", "No default VPC for this user. GroupName is only supported for it."
        )
    subnet = find(cloud, "subnets", subnet_id)
    for name in asked.get("SecurityGroups") or []:
        named = [
            key
            for key, row in cloud.table("groups").peek().items()
            if row["GroupName"] == name and row["VpcId"] == subnet["VpcId"]
        ]
        if not named:
            raise Refusal("InvalidGroup.NotFound", f"The security group '{name}' does not exist")
        group_ids += named
    if address is not None and asked["MaxCount"] > 1:
        raise Refusal(
            "InvalidParameterCombination", "One private address can't be given to several instances"
        )
    return subnet, group_refs(cloud, subnet, group_ids), address, None


def _launch(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    plan = _plan(cloud, params)
    room = len(free_addresses(cloud, plan.subnet)) if plan.interface is None else 1
    if room < params["MinCount"]:
        raise Refusal(
            "InsufficientFreeAddressesInSubnet",
            f"The specified subnet {plan.subnet['SubnetId']} does not have enough free addresses.",
        )
    count = params["MinCount"]
    for more in range(params["MaxCount"], params["MinCount"], -1):
        try:
            check_capacity(
                cloud, "RunInstances", plan.asked["InstanceType"], plan.subnet["AvailabilityZone"], more
            )
        except Refusal:
            continue
        count = min(more, room)
        break
    reservation = cloud.new_id("r")
    made = [_make_instance(cloud, plan, reservation, place)["InstanceId"] for place in range(count)]
    return {"reservation": reservation, "ids": made}


def _make_instance(cloud: Cloud, plan: _Plan, reservation: str, place: int) -> Row:
    asked, image = plan.asked, plan.image
    instance_id = cloud.new_id("i")
    spec = (asked.get("NetworkInterfaces") or [{}])[0]
    interface = plan.interface or new_interface(
        cloud, plan.subnet, plan.groups, plan.address, spec.get("Description", "")
    )
    if plan.interface is None:
        interface["Tags"] = list(plan.tags.get("network-interface", []))
    delete = bool(spec.get("DeleteOnTermination", plan.interface is None))
    attach_interface(cloud, interface, instance_id, 0, delete=delete)
    row = _instance_row(cloud, plan, instance_id, interface)
    row.update(AmiLaunchIndex=place, _reservation=reservation)
    cloud.table("instances")[instance_id] = row
    for item, volume_plan in plan.mappings:
        volume = make_volume(
            cloud, volume_plan, plan.subnet["AvailabilityZone"], list(plan.tags.get("volume", []))
        )
        if image["ProductCodes"]:
            volume["_product_codes"] = image["ProductCodes"]
        attach_row(
            cloud, volume, row, item["DeviceName"], delete=bool(item["Ebs"].get("DeleteOnTermination", True))
        )
        if volume.pop("_doomed", False):
            row["_doomed"] = True
    if image["RootDeviceType"] == "ebs":
        cloud.later(duration(cloud, "instance.boot"), "instance.running", instance_id)
    else:  # the node fetches the image first
        cloud.later(0.0, "instance.unbundle", instance_id)
    return row


def _instance_row(cloud: Cloud, plan: _Plan, instance_id: str, interface: Row) -> Row:
    asked, image, subnet = plan.asked, plan.image, plan.subnet
    placement = asked.get("Placement") or {}
    tags = list(plan.tags.get("instance", []))
    if plan.template is not None:
        tags += [
            {"Key": "aws:ec2launchtemplate:id", "Value": plan.template[0]},
            {"Key": "aws:ec2launchtemplate:version", "Value": str(plan.template[1])},
        ]
    row: Row = {
        "InstanceId": instance_id,
        "ImageId": image["ImageId"],
        "State": {"Code": 0, "Name": "pending"},
        "StateTransitionReason": "",
        "PrivateDnsName": interface["PrivateDnsName"],
        "PublicDnsName": "",
        "PrivateIpAddress": interface["PrivateIpAddress"],
        "KeyName": asked.get("KeyName"),
        "ProductCodes": image["ProductCodes"],
        "InstanceType": asked["InstanceType"],
        "LaunchTime": cloud.stamp(),
        "Placement": {
            "AvailabilityZone": subnet["AvailabilityZone"],
            "GroupName": placement.get("GroupName", ""),
            "Tenancy": placement.get("Tenancy", "default"),
        },
        "Monitoring": {"State": "enabled" if (asked.get("Monitoring") or {}).get("Enabled") else "disabled"},
        "SubnetId": subnet["SubnetId"],
        "VpcId": subnet["VpcId"],
        "Architecture": image["Architecture"],
        "RootDeviceType": image["RootDeviceType"],
        "RootDeviceName": image["RootDeviceName"],
        "BlockDeviceMappings": [],
        "VirtualizationType": image["VirtualizationType"],
        "Hypervisor": "xen",
        "ClientToken": asked.get("ClientToken", ""),
        "EbsOptimized": asked.get("EbsOptimized", False),
        "EnaSupport": image["EnaSupport"],
        "SourceDestCheck": True,
        "SecurityGroups": plan.groups,
        "NetworkInterfaces": [dict(interface)],
        "MetadataOptions": {**METADATA_DEFAULTS, **(asked.get("MetadataOptions") or {})},
        "CpuOptions": {"CoreCount": max(1, vcpus(asked["InstanceType"]) // 2), "ThreadsPerCore": 2},
        "BootMode": image.get("BootMode"),
        "Tags": tags,
        "_user_data": asked.get("UserData"),
        "_protect": bool(asked.get("DisableApiTermination", False)),
        "_protect_stop": bool(asked.get("DisableApiStop", False)),
        "_shutdown": asked.get("InstanceInitiatedShutdownBehavior", "stop"),
    }
    if asked.get("IamInstanceProfile"):
        row["IamInstanceProfile"] = profile_of(cloud, asked["IamInstanceProfile"])
    return row


def profile_of(cloud: Cloud, given: dict[str, str]) -> dict[str, str]:
    """An instance profile as DescribeInstances shows it, from its name or ARN."""
    arn = given.get("Arn") or f"arn:aws:iam::{cloud.account}:instance-profile/{given.get('Name', '')}"
    return {"Arn": arn, "Id": f"AIPA{sum(arn.encode()):012d}LAB"}


@timer("instance.running")
def instance_running(cloud: Cloud, instance_id: str, details: dict[str, Any]) -> None:
    """An instance has booted, or could not because of a key."""
    row = cloud.table("instances").get(instance_id)
    if row is None or row["State"]["Name"] != "pending":
        return
    if row.pop("_doomed", False):
        # EC2 user guide, "Instance terminates immediately": Client.InvalidKMSKey.InvalidState
        row["StateReason"] = {
            "Code": "Client.InvalidKMSKey.InvalidState",
            "Message": "Client.InvalidKMSKey.InvalidState: The KMS key provided is in an incorrect state",
        }
        started_before = bool(row.get("_booted"))
        set_state(row, "stopping" if started_before else "shutting-down")
        cloud.later(0.1, "instance.stopped" if started_before else "instance.terminated", instance_id)
        return
    set_state(row, "running")
    row["_booted"] = True
    row["_running_at"] = cloud.now()
    row["_console"] = (
        f"[    0.000000] Linux version 6.1 (lab)\n"
        f"[    1.000000] {instance_id}: root {row['RootDeviceName']}\n"
        f"{row['PrivateDnsName']} login: "
    )


RESERVATION_FILTERS = {"reservation-id": field("_reservation"), "client-token": field("ClientToken")}
