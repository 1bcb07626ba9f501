"""Instances after their launch: states, attributes, status and the end.

State rules: EC2 user guide, "Instance lifecycle". What a state forbids is refused as IncorrectInstanceState.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from drpilot.lab.cloud import Cloud, action, kind, timer
from drpilot.lab.durations import duration
from drpilot.lab.filters import field, matching, paged
from drpilot.lab.flavors import check_flavor
from drpilot.lab.identity import key_usable
from drpilot.lab.interfaces import drop_interface, group_refs
from drpilot.lab.launch import RESERVATION_FILTERS, STATES, check_capacity, profile_of, set_state
from drpilot.lab.lookup import find, find_all, read_all
from drpilot.lab.refusal import Refusal
from drpilot.lab.table import Row
from drpilot.lab.volumes import detach_row

__all__ = ["shut_down"]

kind("instances", "instance", live=lambda row: row["State"]["Name"] not in ("shutting-down", "terminated"))

_FILTERS = {
    **RESERVATION_FILTERS,
    "instance-id": field("InstanceId"),
    "instance-state-name": field("State", "Name"),
    "instance-state-code": field("State", "Code"),
    "instance-type": field("InstanceType"),
    "image-id": field("ImageId"),
    "vpc-id": field("VpcId"),
    "subnet-id": field("SubnetId"),
    "availability-zone": field("Placement", "AvailabilityZone"),
    "private-ip-address": field("PrivateIpAddress"),
    "private-dns-name": field("PrivateDnsName"),
    "ip-address": field("PublicIpAddress"),
    "key-name": field("KeyName"),
    "architecture": field("Architecture"),
    "root-device-name": field("RootDeviceName"),
    "root-device-type": field("RootDeviceType"),
    "virtualization-type": field("VirtualizationType"),
    "launch-time": field("LaunchTime"),
    "product-code": field("ProductCodes", "ProductCodeId"),
    "instance.group-id": field("SecurityGroups", "GroupId"),
    "instance.group-name": field("SecurityGroups", "GroupName"),
    "iam-instance-profile.arn": field("IamInstanceProfile", "Arn"),
    "block-device-mapping.device-name": field("BlockDeviceMappings", "DeviceName"),
    "block-device-mapping.volume-id": field("BlockDeviceMappings", "Ebs", "VolumeId"),
    "block-device-mapping.delete-on-termination": field("BlockDeviceMappings", "Ebs", "DeleteOnTermination"),
    "block-device-mapping.status": field("BlockDeviceMappings", "Ebs", "Status"),
    "network-interface.network-interface-id": field("NetworkInterfaces", "NetworkInterfaceId"),
    "network-interface.subnet-id": field("NetworkInterfaces", "SubnetId"),
    "metadata-options.http-tokens": field("MetadataOptions", "HttpTokens"),
    "tenancy": field("Placement", "Tenancy"),
}


@action("ec2", "DescribeInstances")
def describe_instances(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Instances by id or filter, in their reservations; a page counts instances."""
    rows = matching(read_all(cloud, "instances", params.get("InstanceIds")), params.get("Filters"), _FILTERS)
    page, token = paged(params, rows, ids="InstanceIds")
    reservations: dict[str, Row] = {}
    for row in page:
        entry = reservations.setdefault(
            row["_reservation"],
            {"ReservationId": row["_reservation"], "OwnerId": cloud.owned(), "Groups": [], "Instances": []},
        )
        entry["Instances"].append({**row, "NetworkInterfaces": _cards(cloud, row)})
    return {"Reservations": list(reservations.values()), "NextToken": token}


def _cards(cloud: Cloud, row: Row) -> list[Row]:
    """An instance's interfaces as they are now, with addresses bound meanwhile."""
    now = cloud.table("interfaces").peek()
    return [now.get(item["NetworkInterfaceId"], item) for item in row["NetworkInterfaces"]]


@action("ec2", "DescribeInstanceStatus")
def describe_instance_status(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """The checks of running instances, or with IncludeAllInstances of all."""
    rows = []
    for row in read_all(cloud, "instances", params.get("InstanceIds")):
        state = row["State"]["Name"]
        if state != "running" and not params.get("IncludeAllInstances"):
            continue
        word = "not-applicable"
        if state == "running":
            passed = cloud.now() - row["_running_at"] >= duration(cloud, "instance.checks")
            word = "ok" if passed else "initializing"
        shown = {"ok": "passed", "initializing": "initializing"}.get(word)
        details = [{"Name": "reachability", "Status": shown}] if shown else []
        rows.append(
            {
                "InstanceId": row["InstanceId"],
                "AvailabilityZone": row["Placement"]["AvailabilityZone"],
                "InstanceState": row["State"],
                "InstanceStatus": {"Status": word, "Details": details},
                "SystemStatus": {"Status": word, "Details": details},
                "Events": [],
            }
        )
    known = {
        "availability-zone": field("AvailabilityZone"),
        "instance-state-name": field("InstanceState", "Name"),
        "instance-status.status": field("InstanceStatus", "Status"),
        "system-status.status": field("SystemStatus", "Status"),
    }
    page, token = paged(params, matching(rows, params.get("Filters"), known), ids="InstanceIds")
    return {"InstanceStatuses": page, "NextToken": token}


@action("ec2", "GetConsoleOutput")
def get_console_output(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """What the instance printed while it booted."""
    row = find(cloud, "instances", params["InstanceId"])
    text = base64.b64encode(row.get("_console", "").encode()).decode()
    return {"InstanceId": row["InstanceId"], "Output": text, "Timestamp": cloud.stamp()}


# -- states -----------------------------------------------------------------------------------------------


def _change(row: Row, before: str) -> Row:
    return {
        "InstanceId": row["InstanceId"],
        "PreviousState": {"Code": STATES[before], "Name": before},
        "CurrentState": dict(row["State"]),
    }


def _refuse_state(row: Row, verb: str) -> Refusal:
    return Refusal(
        "IncorrectInstanceState",
        f"The instance '{row['InstanceId']}' is not in a state from which it can be {verb}.",
    )


@action("ec2", "StartInstances")
def start_instances(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Start stopped instances; those that run or are about to are left alone."""
    rows, changes = find_all(cloud, "instances", params["InstanceIds"]), []
    for row in rows:
        if row["State"]["Name"] not in ("stopped", "pending", "running"):
            raise _refuse_state(row, "started")
    for row in rows:
        before = row["State"]["Name"]
        if before == "stopped":
            zone = row["Placement"]["AvailabilityZone"]
            check_flavor(cloud, row["InstanceType"], row["Architecture"], zone)
            check_capacity(cloud, "StartInstances", row["InstanceType"], zone, 1)
            if all(item["DeviceName"] != row["RootDeviceName"] for item in row["BlockDeviceMappings"]):
                raise Refusal(
                    "IncorrectInstanceState",
                    f"Instance {row['InstanceId']} does not have a volume attached at root "
                    f"({row['RootDeviceName']})",
                )
            volumes = cloud.table("volumes").peek()
            attached = [volumes[item["Ebs"]["VolumeId"]] for item in row["BlockDeviceMappings"]]
            if any(item["Encrypted"] and not key_usable(cloud, item.get("KmsKeyId")) for item in attached):
                row["_doomed"] = True
            row.pop("StateReason", None)
            row.update(StateTransitionReason="", LaunchTime=cloud.stamp())
            set_state(row, "pending")
            cloud.later(duration(cloud, "instance.boot"), "instance.running", row["InstanceId"])
        changes.append(_change(row, before))
    return {"StartingInstances": changes}


@action("ec2", "StopInstances")
def stop_instances(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Stop running instances; stopped ones are left alone."""
    rows, changes = find_all(cloud, "instances", params["InstanceIds"]), []
    for row in rows:
        if row["State"]["Name"] not in ("running", "stopping", "stopped"):
            raise _refuse_state(row, "stopped")
        if row["RootDeviceType"] != "ebs":
            raise Refusal(
                "UnsupportedOperation",
                f"The instance '{row['InstanceId']}' does not have an 'ebs' root device type and cannot be "
                "stopped.",
            )
        if row["_protect_stop"] and row["State"]["Name"] == "running":
            raise Refusal(
                "OperationNotPermitted",
                f"The instance '{row['InstanceId']}' may not be stopped. Modify its 'disableApiStop' "
                "instance attribute and try again.",
            )
    for row in rows:
        before = row["State"]["Name"]
        if before == "running":
            set_state(row, "stopping")
            row["StateTransitionReason"] = f"User initiated ({cloud.stamp()})"
            row["StateReason"] = {
                "Code": "Client.UserInitiatedShutdown",
                "Message": "Client.UserInitiatedShutdown: User initiated shutdown",
            }
            cloud.later(duration(cloud, "instance.stop"), "instance.stopped", row["InstanceId"])
        changes.append(_change(row, before))
    return {"StoppingInstances": changes}


def shut_down(cloud: Cloud, instance_id: str) -> None:
    """A machine that powered itself off: stopped or terminated, as its shutdown behaviour says (EC2 user guide,
    "Change the instance initiated shutdown behavior").
    """
    row = cloud.table("instances").get(instance_id)
    if row is None or row["State"]["Name"] != "running":
        return
    stops = row["_shutdown"] == "stop" and row["RootDeviceType"] == "ebs"
    code = "Client.InstanceInitiatedShutdown"
    row["StateReason"] = {"Code": code, "Message": f"{code}: Instance initiated shutdown"}
    set_state(row, "stopping" if stops else "shutting-down")
    took, ended = ("stop", "stopped") if stops else ("terminate", "terminated")
    cloud.later(duration(cloud, f"instance.{took}"), f"instance.{ended}", instance_id)


@timer("instance.stopped")
def instance_stopped(cloud: Cloud, instance_id: str, details: dict[str, Any]) -> None:
    """An instance has stopped."""
    row = cloud.table("instances").get(instance_id)
    if row is not None and row["State"]["Name"] == "stopping":
        set_state(row, "stopped")


@action("ec2", "RebootInstances")
def reboot_instances(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Boot again; the state stays running."""
    for row in find_all(cloud, "instances", params["InstanceIds"]):
        if row["State"]["Name"] not in ("running", "pending"):
            raise _refuse_state(row, "rebooted")
        row["_running_at"] = cloud.now()
    return {}


@action("ec2", "TerminateInstances")
def terminate_instances(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Terminate instances for good, all of the call or none."""
    rows, changes = find_all(cloud, "instances", params["InstanceIds"]), []
    for row in rows:
        if row["_protect"] and row["State"]["Name"] != "terminated":
            raise Refusal(
                "OperationNotPermitted",
                f"The instance '{row['InstanceId']}' may not be terminated. Modify its "
                "'disableApiTermination' instance attribute and try again.",
            )
    for row in rows:
        before = row["State"]["Name"]
        if before not in ("shutting-down", "terminated"):
            set_state(row, "shutting-down")
            row["StateTransitionReason"] = f"User initiated ({cloud.stamp()})"
            row["StateReason"] = {
                "Code": "Client.UserInitiatedShutdown",
                "Message": "Client.UserInitiatedShutdown: User initiated shutdown",
            }
            cloud.later(duration(cloud, "instance.terminate"), "instance.terminated", row["InstanceId"])
        changes.append(_change(row, before))
    return {"TerminatingInstances": changes}


@timer("instance.terminated")
def instance_terminated(cloud: Cloud, instance_id: str, details: dict[str, Any]) -> None:
    """An instance is gone: its volumes and interfaces go with it where they were attached so."""
    row = cloud.table("instances").get(instance_id)
    if row is None or row["State"]["Name"] != "shutting-down":
        return
    set_state(row, "terminated")
    disk = row.pop("_root", None)
    if disk is not None:
        cloud.after_commit(lambda: cloud.store.delete_volume(disk))
    for item in list(row["BlockDeviceMappings"]):
        volume_id = item["Ebs"]["VolumeId"]
        volume = cloud.table("volumes").get(volume_id)
        if volume is None:
            continue
        delete = volume["Attachments"][0]["DeleteOnTermination"]
        detach_row(cloud, volume)
        if delete:
            volume["State"] = "deleting"
            cloud.later(duration(cloud, "volume.delete"), "volume.deleted", volume_id)
    for key, interface in list(cloud.table("interfaces").peek().items()):
        if (interface.get("Attachment") or {}).get("InstanceId") == instance_id:
            drop_interface(cloud, key)
    row.update(BlockDeviceMappings=[], NetworkInterfaces=[], SecurityGroups=[], PrivateDnsName="")
    for member in ("PrivateIpAddress", "PublicIpAddress", "SubnetId", "VpcId"):
        row.pop(member, None)
    cloud.later(duration(cloud, "instance.forget"), "instance.forgotten", instance_id)


@timer("instance.forgotten")
def instance_forgotten(cloud: Cloud, instance_id: str, details: dict[str, Any]) -> None:
    """A terminated instance is no longer shown."""
    cloud.table("instances").pop(instance_id, None)


# -- attributes -------------------------------------------------------------------------------------------


def _set_type(cloud: Cloud, row: Row, value: str) -> None:
    check_flavor(cloud, value, row["Architecture"], row["Placement"]["AvailabilityZone"])
    row["InstanceType"] = value


def _set_shutdown(cloud: Cloud, row: Row, value: str) -> None:
    if value not in ("stop", "terminate"):
        raise Refusal(
            "InvalidParameterValue", f"Value ({value}) for instanceInitiatedShutdownBehavior is invalid."
        )
    row["_shutdown"] = value


def _set_user_data(cloud: Cloud, row: Row, value: bytes | str) -> None:
    row["_user_data"] = base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _flag(member: str) -> Callable[[Cloud, Row, Any], None]:
    def write(cloud: Cloud, row: Row, value: Any) -> None:
        row[member] = value if isinstance(value, bool) else str(value).lower() == "true"

    return write


_SETTERS: dict[str, tuple[str, bool, Callable[[Cloud, Row, Any], None]]] = {
    # member of the call: (name of the attribute, only while stopped, how to set it)
    "InstanceType": ("instanceType", True, _set_type),
    "UserData": ("userData", True, _set_user_data),
    "EbsOptimized": ("ebsOptimized", True, _flag("EbsOptimized")),
    "EnaSupport": ("enaSupport", True, _flag("EnaSupport")),
    "DisableApiTermination": ("disableApiTermination", False, _flag("_protect")),
    "DisableApiStop": ("disableApiStop", False, _flag("_protect_stop")),
    "SourceDestCheck": ("sourceDestCheck", False, _flag("SourceDestCheck")),
    "InstanceInitiatedShutdownBehavior": ("instanceInitiatedShutdownBehavior", False, _set_shutdown),
}


@action("ec2", "ModifyInstanceAttribute")
def modify_instance_attribute(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Change one attribute; type and user data only while the instance is stopped."""
    row = find(cloud, "instances", params["InstanceId"])
    state = row["State"]["Name"]
    if state in ("shutting-down", "terminated"):
        raise _refuse_state(row, "modified")
    for member, (name, stopped, write) in _SETTERS.items():
        given = params.get(member)
        value = given.get("Value") if isinstance(given, dict) else given
        if params.get("Attribute") == name:
            value = params.get("Value")
        if value is None:
            continue
        if stopped and state != "stopped":
            raise Refusal(
                "IncorrectInstanceState", f"The instance '{row['InstanceId']}' is not in the 'stopped' state."
            )
        write(cloud, row, value)
    if params.get("Groups"):
        _set_groups(cloud, row, params["Groups"])
    for item in params.get("BlockDeviceMappings") or []:
        _set_delete(cloud, row, item)
    return {}


def _set_groups(cloud: Cloud, row: Row, group_ids: list[str]) -> None:
    refs = group_refs(cloud, find(cloud, "subnets", row["SubnetId"]), group_ids)
    row["SecurityGroups"] = refs
    for item in row["NetworkInterfaces"]:
        item["Groups"] = refs
        cloud.table("interfaces")[item["NetworkInterfaceId"]]["Groups"] = refs


def _set_delete(cloud: Cloud, row: Row, given: Row) -> None:
    """DeleteOnTermination of one attached volume."""
    for item in row["BlockDeviceMappings"]:
        if item["DeviceName"] == given.get("DeviceName"):
            delete = bool((given.get("Ebs") or {}).get("DeleteOnTermination", False))
            item["Ebs"]["DeleteOnTermination"] = delete
            cloud.table("volumes")[item["Ebs"]["VolumeId"]]["Attachments"][0]["DeleteOnTermination"] = delete
            return
    raise Refusal(
        "InvalidInstanceAttributeValue", f"No device is currently mapped at {given.get('DeviceName')}"
    )


@action("ec2", "DescribeInstanceAttribute")
def describe_instance_attribute(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """One attribute of an instance."""
    row = find(cloud, "instances", params["InstanceId"])
    user_data = {"Value": row["_user_data"]} if row["_user_data"] else {}
    replies: dict[str, dict[str, Any]] = {
        "instanceType": {"InstanceType": {"Value": row["InstanceType"]}},
        "userData": {"UserData": user_data},
        "disableApiTermination": {"DisableApiTermination": {"Value": row["_protect"]}},
        "disableApiStop": {"DisableApiStop": {"Value": row["_protect_stop"]}},
        "instanceInitiatedShutdownBehavior": {
            "InstanceInitiatedShutdownBehavior": {"Value": row["_shutdown"]}
        },
        "rootDeviceName": {"RootDeviceName": {"Value": row["RootDeviceName"]}},
        "blockDeviceMapping": {"BlockDeviceMappings": row["BlockDeviceMappings"]},
        "productCodes": {"ProductCodes": row["ProductCodes"]},
        "sourceDestCheck": {"SourceDestCheck": {"Value": row["SourceDestCheck"]}},
        "groupSet": {"Groups": row["SecurityGroups"]},
        "ebsOptimized": {"EbsOptimized": {"Value": row["EbsOptimized"]}},
        "enaSupport": {"EnaSupport": {"Value": row["EnaSupport"]}},
    }
    if params["Attribute"] not in replies:
        raise Refusal(
            "InvalidParameterValue", f"Value ({params['Attribute']}) for parameter attribute is invalid."
        )
    return {"InstanceId": row["InstanceId"], **replies[params["Attribute"]]}


@action("ec2", "ModifyInstanceMetadataOptions")
def modify_instance_metadata_options(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Change how an instance's metadata may be read."""
    row = find(cloud, "instances", params["InstanceId"])
    for member in (
        "HttpTokens",
        "HttpPutResponseHopLimit",
        "HttpEndpoint",
        "HttpProtocolIpv6",
        "InstanceMetadataTags",
    ):
        if member in params:
            row["MetadataOptions"][member] = params[member]
    return {"InstanceId": row["InstanceId"], "InstanceMetadataOptions": row["MetadataOptions"]}


# -- instance profiles ------------------------------------------------------------------------------------


@action("ec2", "DescribeIamInstanceProfileAssociations")
def describe_profile_associations(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Which instance has which profile."""
    rows = [
        {
            "AssociationId": f"iip-assoc-{row['InstanceId'][2:]}",
            "InstanceId": row["InstanceId"],
            "IamInstanceProfile": row["IamInstanceProfile"],
            "State": "associated",
        }
        for row in cloud.table("instances").peek().values()
        if row.get("IamInstanceProfile") and row["State"]["Name"] != "terminated"
    ]
    if params.get("AssociationIds"):
        rows = [row for row in rows if row["AssociationId"] in params["AssociationIds"]]
    known = {"instance-id": field("InstanceId"), "state": field("State")}
    page, token = paged(params, matching(rows, params.get("Filters"), known))
    return {"IamInstanceProfileAssociations": page, "NextToken": token}


@action("ec2", "AssociateIamInstanceProfile")
def associate_profile(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Give an instance without profile one."""
    row = find(cloud, "instances", params["InstanceId"])
    if row.get("IamInstanceProfile"):
        raise Refusal("IncorrectState", f"There is an existing association for instance {row['InstanceId']}")
    row["IamInstanceProfile"] = profile_of(cloud, params["IamInstanceProfile"])
    return {
        "IamInstanceProfileAssociation": {
            "AssociationId": f"iip-assoc-{row['InstanceId'][2:]}",
            "InstanceId": row["InstanceId"],
            "IamInstanceProfile": row["IamInstanceProfile"],
            "State": "associated",
        }
    }
