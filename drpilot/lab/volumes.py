"""EBS volumes: created, attached, changed and deleted, each with the checks of the real cloud.

Sizes, IOPS and throughput: EBS user guide, "Amazon EBS volume types".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from drpilot.lab.cloud import Cloud, action, kind, timer
from drpilot.lab.durations import duration
from drpilot.lab.filters import field, matching, paged
from drpilot.lab.identity import find_key, key_usable
from drpilot.lab.lookup import find, read_all, zone_names
from drpilot.lab.refusal import Refusal
from drpilot.lab.store import GIB
from drpilot.lab.table import Row
from drpilot.lab.tags import tags_for
from drpilot.lab.tokens import once

__all__ = ["VolumePlan", "attach_row", "check_plan", "detach_row", "make_volume", "plan_volume"]

kind("volumes", "volume", live=lambda row: row["State"] != "deleting")


@dataclass(frozen=True, slots=True)
class _Type:
    size: tuple[int, int]
    iops: tuple[int, int] | None = None
    iops_per_gib: int = 0
    throughput: tuple[int, int] | None = None


_TYPES = {
    "gp2": _Type((1, 16_384)),
    "gp3": _Type((1, 65_536), (3_000, 80_000), 500, (125, 2_000)),
    "io1": _Type((4, 16_384), (100, 64_000), 50),
    "io2": _Type((4, 65_536), (100, 256_000), 1_000),
    "st1": _Type((125, 16_384)),
    "sc1": _Type((125, 16_384)),
    "standard": _Type((1, 1_024)),
}
_DEVICE = re.compile(r"/dev/(sd[a-z]([1-9]|1[0-5])?|xvd[a-z]{1,2}|nvme[0-9]+n1)|xvd[a-z]{1,2}|sd[a-z]")


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """What a volume shall be. `size_gib` in GiB, `throughput` in MiB/s."""

    size_gib: int
    volume_type: str
    iops: int | None
    throughput: int | None
    snapshot_id: str | None
    encrypted: bool
    key: str | None


def plan_volume(cloud: Cloud, asked: dict[str, Any], default_type: str = "gp2") -> VolumePlan:
    """Read the members that CreateVolume and an EbsBlockDevice share (Size or VolumeSize, SnapshotId,
    VolumeType, Iops, Throughput, Encrypted, KmsKeyId) and check them against the types' rules.
    """
    size = asked.get("Size", asked.get("VolumeSize"))
    snapshot_id = asked.get("SnapshotId")
    encrypted, key = bool(asked.get("Encrypted", False)), asked.get("KmsKeyId")
    if key is not None and not encrypted and snapshot_id is None:
        raise Refusal("InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted")
    if snapshot_id is not None:
        snapshot = find(cloud, "snapshots", snapshot_id)
        if snapshot["State"] != "completed":
            raise Refusal(
                "IncorrectState", f"Snapshot is in invalid state - {snapshot['State']}: {snapshot_id}"
            )
        least = snapshot["VolumeSize"]
        size = least if size is None else size
        if size < least:
            raise Refusal(
                "InvalidParameterValue",
                f"Volume of {size}GB is smaller than snapshot '{snapshot_id}', expect size >= {least}GB",
            )
        if snapshot["Encrypted"]:
            encrypted, key = True, key or snapshot.get("KmsKeyId")
    if size is None:
        raise Refusal("MissingParameter", "The request must contain the parameter size or snapshotId")
    only = cloud.traits.volume_type
    plan = VolumePlan(
        size,
        only or asked.get("VolumeType", default_type),
        None if only else asked.get("Iops"),
        None if only else asked.get("Throughput"),
        snapshot_id,
        encrypted,
        key,
    )
    check_plan(plan)
    return plan


def check_plan(plan: VolumePlan) -> None:
    """Refuse a size, IOPS or throughput that the type can't have."""
    rules = _TYPES.get(plan.volume_type)
    if rules is None:
        raise Refusal(
            "InvalidParameterValue", f"Value ({plan.volume_type}) for parameter volumeType is invalid."
        )
    least, most = rules.size
    if not least <= plan.size_gib <= most:
        raise Refusal(
            "InvalidParameterValue",
            f"Volume of {plan.size_gib}GiB is not between {least} and {most} GiB for {plan.volume_type}.",
        )
    if plan.iops is None:
        if plan.volume_type in ("io1", "io2"):
            raise Refusal("MissingParameter", f"The parameter iops must be specified for {plan.volume_type}.")
    elif rules.iops is None:
        raise Refusal(
            "InvalidParameterCombination",
            f"The parameter iops is not supported for {plan.volume_type} volumes.",
        )
    elif not rules.iops[0] <= plan.iops <= rules.iops[1]:
        raise Refusal("InvalidParameterValue", f"Volume iops of {plan.iops} is out of range {rules.iops}.")
    elif plan.iops > max(rules.iops[0], plan.size_gib * rules.iops_per_gib):
        raise Refusal(
            "InvalidParameterValue",
            f"Iops to volume size ratio of {plan.iops}/{plan.size_gib} is above {rules.iops_per_gib}.",
        )
    if plan.throughput is not None:
        if rules.throughput is None:
            raise Refusal(
                "InvalidParameterCombination",
                f"The parameter throughput is not supported for {plan.volume_type} volumes.",
            )
        if not rules.throughput[0] <= plan.throughput <= rules.throughput[1]:
            raise Refusal("InvalidParameterValue", f"Throughput {plan.throughput} is out of range.")
        if plan.throughput * 4 > (plan.iops or 3_000):
            raise Refusal(
                "InvalidParameterValue", "Throughput (MiBps) to iops ratio is too high; maximum is 0.25."
            )


def make_volume(cloud: Cloud, plan: VolumePlan, zone: str, tags: list[dict[str, str]]) -> Row:
    """A new volume in state creating, with its bytes; it becomes available by itself."""
    volume_id = cloud.new_id("vol")
    row: Row = {
        "VolumeId": volume_id,
        "Size": plan.size_gib,
        "SnapshotId": plan.snapshot_id or "",
        "AvailabilityZone": zone,
        "State": "creating",
        "CreateTime": cloud.stamp(),
        "Attachments": [],
        "Encrypted": plan.encrypted,
        "VolumeType": plan.volume_type,
        "MultiAttachEnabled": False,
        "Tags": tags,
        "_lineage": volume_id,
    }
    if plan.volume_type == "gp3":
        row.update(Iops=plan.iops or 3_000, Throughput=plan.throughput or 125)
    elif plan.volume_type == "gp2":
        row["Iops"] = min(max(100, plan.size_gib * 3), 16_000)
    elif plan.iops is not None:
        row["Iops"] = plan.iops
    blocks: dict[int, str] = {}
    if plan.snapshot_id is not None:
        blocks = cloud.store.block_map(plan.snapshot_id)
        row["_lineage"] = cloud.table("snapshots").peek()[plan.snapshot_id]["_lineage"]
    if plan.encrypted:
        key = find_key(cloud, plan.key)
        row["KmsKeyId"] = key["Arn"] if key is not None else plan.key
    # EC2 takes such a request and lets the volume fail afterwards (EBS user guide, encryption prerequisites).
    row["_doomed"] = plan.encrypted and not key_usable(cloud, plan.key)
    cloud.store.create_volume(volume_id, plan.size_gib * GIB, blocks)
    cloud.table("volumes")[volume_id] = row
    cloud.later(duration(cloud, "volume.create"), "volume.created", volume_id)
    return row


@timer("volume.created")
def volume_created(cloud: Cloud, volume_id: str, details: dict[str, Any]) -> None:
    """A volume is ready, or failed because its key can't be used."""
    row = cloud.table("volumes").get(volume_id)
    if row is not None and row["State"] == "creating":
        row["State"] = "error" if row.pop("_doomed", False) else "available"


@action("ec2", "CreateVolume")
def create_volume(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """A volume, empty or with a snapshot's bytes, in one zone."""
    zone = params.get("AvailabilityZone")
    if zone is None:
        raise Refusal("MissingParameter", "The request must contain the parameter AvailabilityZone")
    if zone not in zone_names(cloud):
        raise Refusal("InvalidZone.NotFound", f"The zone '{zone}' does not exist.")
    tags = tags_for(params, "volume")

    def make() -> dict[str, Any]:
        row = make_volume(cloud, plan_volume(cloud, params), zone, tags)
        return {key: value for key, value in row.items() if key != "Attachments"}

    return once(cloud, "CreateVolume", params, make)


_FILTERS = {
    "volume-id": field("VolumeId"),
    "size": field("Size"),
    "snapshot-id": field("SnapshotId"),
    "status": field("State"),
    "volume-type": field("VolumeType"),
    "availability-zone": field("AvailabilityZone"),
    "create-time": field("CreateTime"),
    "encrypted": field("Encrypted"),
    "attachment.instance-id": field("Attachments", "InstanceId"),
    "attachment.device": field("Attachments", "Device"),
    "attachment.status": field("Attachments", "State"),
    "attachment.delete-on-termination": field("Attachments", "DeleteOnTermination"),
    "attachment.attach-time": field("Attachments", "AttachTime"),
    "multi-attach-enabled": field("MultiAttachEnabled"),
}


@action("ec2", "DescribeVolumes")
def describe_volumes(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Volumes by id or filter."""
    rows = matching(read_all(cloud, "volumes", params.get("VolumeIds")), params.get("Filters"), _FILTERS)
    page, token = paged(params, rows, ids="VolumeIds")
    return {"Volumes": page, "NextToken": token}


@action("ec2", "DescribeVolumeStatus")
def describe_volume_status(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Whether volumes' bytes can be reached."""
    rows = [
        {
            "VolumeId": row["VolumeId"],
            "AvailabilityZone": row["AvailabilityZone"],
            "VolumeStatus": {
                "Status": "insufficient-data" if row["State"] in ("creating", "error") else "ok",
                "Details": [],
            },
            "Actions": [],
            "Events": [],
        }
        for row in read_all(cloud, "volumes", params.get("VolumeIds"))
    ]
    known = {"availability-zone": field("AvailabilityZone")}
    known["volume-status.status"] = field("VolumeStatus", "Status")
    page, token = paged(params, matching(rows, params.get("Filters"), known), ids="VolumeIds")
    return {"VolumeStatuses": page, "NextToken": token}


# -- attaching --------------------------------------------------------------------------------------------


def attach_row(cloud: Cloud, row: Row, instance: Row, device: str, *, delete: bool) -> Row:
    """Make a volume an instance's device; gives the attachment."""
    entry: Row = {
        "VolumeId": row["VolumeId"],
        "InstanceId": instance["InstanceId"],
        "Device": device,
        "State": "attached",
        "AttachTime": cloud.stamp(),
        "DeleteOnTermination": delete,
    }
    row["Attachments"] = [entry]
    row["State"] = "in-use"
    instance["BlockDeviceMappings"].append(
        {
            "DeviceName": device,
            "Ebs": {
                "VolumeId": row["VolumeId"],
                "Status": "attached",
                "AttachTime": entry["AttachTime"],
                "DeleteOnTermination": delete,
            },
        }
    )
    return entry


def detach_row(cloud: Cloud, row: Row) -> None:
    """Take a volume from its instance at once."""
    for entry in row["Attachments"]:
        instance = cloud.table("instances").get(entry["InstanceId"])
        if instance is not None:
            instance["BlockDeviceMappings"] = [
                item for item in instance["BlockDeviceMappings"] if item["Ebs"]["VolumeId"] != row["VolumeId"]
            ]
    row["Attachments"] = []
    row["State"] = "available"


@action("ec2", "AttachVolume")
def attach_volume(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Attach an available volume to an instance of its zone under a free device name."""
    row = find(cloud, "volumes", params["VolumeId"])
    instance = find(cloud, "instances", params["InstanceId"])
    device, volume_id = params["Device"], row["VolumeId"]
    if not _DEVICE.fullmatch(device):
        raise Refusal(
            "InvalidParameterValue",
            f"Value ({device}) for parameter device is invalid. It is not a device name.",
        )
    if row["State"] == "in-use":
        raise Refusal("VolumeInUse", f"{volume_id} is already attached to an instance")
    if row["State"] != "available":
        raise Refusal("IncorrectState", f"{volume_id} is not 'available'.")
    if instance["State"]["Name"] not in ("running", "stopped"):
        raise Refusal("IncorrectState", f"Instance '{instance['InstanceId']}' is not 'running'.")
    if instance["Placement"]["AvailabilityZone"] != row["AvailabilityZone"]:
        raise Refusal(
            "InvalidVolume.ZoneMismatch",
            f"The volume '{volume_id}' is not in the same availability zone as instance "
            f"'{instance['InstanceId']}'",
        )
    if any(item["DeviceName"] == device for item in instance["BlockDeviceMappings"]):
        raise Refusal(
            "InvalidParameterValue",
            f"Invalid value '{device}' for unixDevice. Attachment point {device} is already in use",
        )
    if row["Encrypted"] and not key_usable(cloud, row.get("KmsKeyId")):
        raise Refusal("InvalidKMSKey.InvalidState", "The KMS key provided is in an incorrect state")
    entry = attach_row(cloud, row, instance, device, delete=False)
    entry["State"] = "attaching"
    instance["BlockDeviceMappings"][-1]["Ebs"]["Status"] = "attaching"
    cloud.later(duration(cloud, "volume.attach"), "volume.attached", volume_id)
    return entry


@timer("volume.attached")
def volume_attached(cloud: Cloud, volume_id: str, details: dict[str, Any]) -> None:
    """An attachment is done."""
    row = cloud.table("volumes").get(volume_id)
    for entry in row["Attachments"] if row is not None else ():
        if entry["State"] == "attaching":
            entry["State"] = "attached"
            for item in cloud.table("instances")[entry["InstanceId"]]["BlockDeviceMappings"]:
                if item["Ebs"]["VolumeId"] == volume_id:
                    item["Ebs"]["Status"] = "attached"


@action("ec2", "DetachVolume")
def detach_volume(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Detach a volume; a root volume only from a stopped instance."""
    row = find(cloud, "volumes", params["VolumeId"])
    if row["State"] != "in-use" or not row["Attachments"]:
        raise Refusal("IncorrectState", f"Volume '{row['VolumeId']}' is in the 'available' state.")
    entry: Row = row["Attachments"][0]
    if params.get("InstanceId") not in (None, entry["InstanceId"]):
        find(cloud, "instances", params["InstanceId"])
        raise Refusal(
            "InvalidAttachment.NotFound",
            f"The volume '{row['VolumeId']}' is not attached to instance '{params['InstanceId']}'",
        )
    if params.get("Device") not in (None, entry["Device"]):
        raise Refusal("InvalidAttachment.NotFound", f"The volume is not attached as '{params['Device']}'")
    instance = cloud.table("instances")[entry["InstanceId"]]
    running = instance["State"]["Name"] not in ("stopped", "terminated")
    if running and entry["Device"] == instance["RootDeviceName"]:
        raise Refusal(
            "OperationNotPermitted",
            f"Unable to detach root volume '{row['VolumeId']}' from a running instance",
        )
    if entry["State"] == "detaching":
        raise Refusal("IncorrectState", f"Volume '{row['VolumeId']}' is already being detached.")
    entry["State"] = "detaching"
    cloud.later(duration(cloud, "volume.detach"), "volume.detached", row["VolumeId"])
    return entry


@timer("volume.detached")
def volume_detached(cloud: Cloud, volume_id: str, details: dict[str, Any]) -> None:
    """A detachment is done."""
    row = cloud.table("volumes").get(volume_id)
    if row is not None and any(entry["State"] == "detaching" for entry in row["Attachments"]):
        detach_row(cloud, row)


@action("ec2", "DeleteVolume")
def delete_volume(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Delete a volume that is not attached."""
    row = find(cloud, "volumes", params["VolumeId"])
    if row["State"] == "in-use":
        holder = row["Attachments"][0]["InstanceId"] if row["Attachments"] else ""
        raise Refusal("VolumeInUse", f"Volume {row['VolumeId']} is currently attached to {holder}")
    if row["State"] not in ("available", "error", "deleting"):
        raise Refusal("IncorrectState", f"The volume '{row['VolumeId']}' is '{row['State']}'.")
    if row["State"] != "deleting":
        row["State"] = "deleting"
        cloud.later(duration(cloud, "volume.delete"), "volume.deleted", row["VolumeId"])
    return {}


@timer("volume.deleted")
def volume_deleted(cloud: Cloud, volume_id: str, details: dict[str, Any]) -> None:
    """A volume and its bytes are gone."""
    if cloud.table("volumes").pop(volume_id, None) is not None:
        cloud.after_commit(lambda: cloud.store.delete_volume(volume_id))


# -- changing ---------------------------------------------------------------------------------------------


@action("ec2", "ModifyVolume")
def modify_volume(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Grow a volume or change its type, IOPS or throughput while it is used."""
    row = find(cloud, "volumes", params["VolumeId"])
    volume_id = row["VolumeId"]
    if row["State"] not in ("available", "in-use"):
        raise Refusal("IncorrectState", f"The volume '{volume_id}' is '{row['State']}'.")
    running = cloud.table("modifications").get(volume_id)
    if running is not None and running["ModificationState"] != "completed":
        raise Refusal("IncorrectModificationState", f"Volume {volume_id} is being modified.")
    size = int(params["Size"] if "Size" in params else row["Size"])
    volume_type = str(params.get("VolumeType", row["VolumeType"]))
    if size < row["Size"]:
        raise Refusal("InvalidParameterValue", "New size cannot be smaller than existing size")
    iops = params.get("Iops")
    if iops is None and volume_type == row["VolumeType"] and volume_type != "gp2":
        iops = row.get("Iops")
    throughput = params.get("Throughput")
    if throughput is None and volume_type == row["VolumeType"] == "gp3":
        throughput = row.get("Throughput")
    check_plan(VolumePlan(size, volume_type, iops, throughput, None, row["Encrypted"], None))
    change: Row = {
        "VolumeId": volume_id,
        "ModificationState": "modifying",
        "Progress": 0,
        "StartTime": cloud.stamp(),
        "OriginalSize": row["Size"],
        "OriginalVolumeType": row["VolumeType"],
        "OriginalIops": row.get("Iops"),
        "OriginalThroughput": row.get("Throughput"),
        "TargetSize": size,
        "TargetVolumeType": volume_type,
        "TargetIops": iops or (3_000 if volume_type == "gp3" else None),
        "TargetThroughput": throughput or (125 if volume_type == "gp3" else None),
    }
    cloud.table("modifications")[volume_id] = change
    cloud.later(duration(cloud, "volume.modify"), "volume.modified", volume_id)
    return {"VolumeModification": change}


@timer("volume.modified")
def volume_modified(cloud: Cloud, volume_id: str, details: dict[str, Any]) -> None:
    """A change of a volume is done."""
    row, change = cloud.table("volumes").get(volume_id), cloud.table("modifications").get(volume_id)
    if row is None or change is None:
        return
    change.update(ModificationState="completed", Progress=100, EndTime=cloud.stamp())
    row.update(Size=change["TargetSize"], VolumeType=change["TargetVolumeType"])
    for member in ("Iops", "Throughput"):
        row.pop(member, None)
        if change[f"Target{member}"] is not None:
            row[member] = change[f"Target{member}"]
    if row["VolumeType"] == "gp2":
        row["Iops"] = min(max(100, row["Size"] * 3), 16_000)
    cloud.store.resize_volume(volume_id, row["Size"] * GIB)


@action("ec2", "DescribeVolumesModifications")
def describe_volumes_modifications(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """The latest change of each volume that had one."""
    rows = list(cloud.table("modifications").peek().values())
    if params.get("VolumeIds"):
        rows = [row for row in rows if row["VolumeId"] in params["VolumeIds"]]
        missing = set(params["VolumeIds"]) - {row["VolumeId"] for row in rows}
        if missing:
            raise Refusal(
                "InvalidVolumeModification.NotFound",
                f"Modification for volume '{min(missing)}' does not exist.",
            )
    known = {"volume-id": field("VolumeId"), "modification-state": field("ModificationState")}
    page, token = paged(params, matching(rows, params.get("Filters"), known))
    return {"VolumesModifications": page, "NextToken": token}
