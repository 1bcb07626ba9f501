"""Snapshots of volumes: taken at once, completed a little later, kept until deleted.

The bytes of a snapshot are those of the moment of the call, as on the real cloud (EC2 API reference,
CreateSnapshot); CreateSnapshots takes all volumes of an instance at the same moment.
"""

from __future__ import annotations

from typing import Any

from drpilot.lab.cloud import Cloud, action, kind, timer
from drpilot.lab.durations import duration, transfer_time
from drpilot.lab.filters import field, matching, paged
from drpilot.lab.identity import quota
from drpilot.lab.lookup import find, read_all
from drpilot.lab.refusal import Refusal
from drpilot.lab.store import BLOCK_BYTES
from drpilot.lab.table import Row
from drpilot.lab.tags import given_tags, tags_for

__all__ = ["delete_row", "images_using", "new_snapshot_row", "take"]

kind("snapshots", "snapshot")

_PENDING_PER_VOLUME = 5


def new_snapshot_row(cloud: Cloud, volume_id: str, size_gib: int, description: str, tags: Any) -> Row:
    """A snapshot in state pending, without any block yet."""
    if len(cloud.table("snapshots")) >= quota(cloud, "L-309BACF6"):
        raise Refusal("SnapshotLimitExceeded", "The maximum number of snapshots has been reached.")
    snapshot_id = cloud.new_id("snap")
    row: Row = {
        "SnapshotId": snapshot_id,
        "VolumeId": volume_id,
        "VolumeSize": size_gib,
        "State": "pending",
        "Progress": "0%",
        "StartTime": cloud.stamp(),
        "Description": description,
        "OwnerId": cloud.owned(),
        "Encrypted": False,
        "StorageTier": "standard",
        "Tags": list(tags),
        "ProductCodes": [],
        "_shared": [],
        "_lineage": volume_id,
    }
    cloud.table("snapshots")[snapshot_id] = row
    return row


def take(cloud: Cloud, volume: Row, description: str, tags: list[dict[str, str]]) -> Row:
    """Take a snapshot of a volume as it is now."""
    volume_id = volume["VolumeId"]
    if volume["State"] not in ("available", "in-use"):
        raise Refusal("IncorrectState", f"Volume '{volume_id}' is in the '{volume['State']}' state.")
    rows = cloud.table("snapshots").peek().values()
    pending = sum(row["VolumeId"] == volume_id and row["State"] == "pending" for row in rows)
    if pending >= _PENDING_PER_VOLUME:
        raise Refusal(
            "ConcurrentSnapshotLimitExceeded",
            f"Maximum allowed in-progress snapshots for a single volume exceeded: {volume_id}",
        )
    row = new_snapshot_row(cloud, volume_id, volume["Size"], description, tags)
    row["_lineage"] = volume["_lineage"]
    row["Encrypted"] = volume["Encrypted"]
    if volume["Encrypted"]:
        row["KmsKeyId"] = volume.get("KmsKeyId")
    if volume.get("_product_codes"):
        row["ProductCodes"] = volume["_product_codes"]
    blocks = cloud.store.capture(volume_id)
    cloud.store.set_blocks(row["SnapshotId"], blocks)
    row["FullSnapshotSizeInBytes"] = len(blocks) * BLOCK_BYTES
    seconds = duration(cloud, "snapshot.create") + transfer_time(cloud, len(blocks) * BLOCK_BYTES)
    row["_from"], row["_until"] = cloud.now(), cloud.now() + seconds
    cloud.later(seconds, "snapshot.created", row["SnapshotId"])
    return row


@timer("snapshot.created")
def snapshot_created(cloud: Cloud, snapshot_id: str, details: dict[str, Any]) -> None:
    """A snapshot is complete."""
    row = cloud.table("snapshots").get(snapshot_id)
    if row is not None and row["State"] == "pending":
        row.update(State="completed", Progress="100%", CompletionTime=cloud.stamp())


def _shown(cloud: Cloud, row: Row) -> Row:
    """A row with its progress as of now."""
    if row["State"] == "pending" and "_until" in row:
        done = (cloud.now() - row["_from"]) / max(row["_until"] - row["_from"], 0.001)
        return {**row, "Progress": f"{min(99, max(0, int(done * 100)))}%"}
    return row


@action("ec2", "CreateSnapshot")
def create_snapshot(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """A snapshot of one volume."""
    volume = find(cloud, "volumes", params["VolumeId"])
    return _shown(cloud, take(cloud, volume, params.get("Description", ""), tags_for(params, "snapshot")))


@action("ec2", "CreateSnapshots")
def create_snapshots(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Snapshots of an instance's volumes, all of one moment."""
    spec = params["InstanceSpecification"]
    instance = find(cloud, "instances", spec["InstanceId"])
    tags = tags_for(params, "snapshot")
    if params.get("CopyTagsFromSource") not in (None, "volume"):
        raise Refusal("InvalidParameterValue", "CopyTagsFromSource takes the value 'volume'")
    excluded = set(spec.get("ExcludeDataVolumeIds") or ())
    root = instance["RootDeviceName"]
    attached = {item["Ebs"]["VolumeId"]: item["DeviceName"] for item in instance["BlockDeviceMappings"]}
    for volume_id in excluded:
        if attached.get(volume_id) in (None, root):
            raise Refusal("InvalidParameterValue", f"'{volume_id}' is not a data volume of the instance")
    chosen = [
        volume_id
        for volume_id, device in attached.items()
        if volume_id not in excluded and not (device == root and spec.get("ExcludeBootVolume"))
    ]
    if not chosen:
        raise Refusal("InvalidParameterValue", "The instance has no volumes to take snapshots of")
    taken = []
    for volume_id in chosen:
        volume = cloud.table("volumes")[volume_id]
        merged = list(tags)
        if params.get("CopyTagsFromSource"):
            named = {tag["Key"] for tag in tags}
            merged += [tag for tag in volume["Tags"] if tag["Key"] not in named]
        taken.append(_shown(cloud, take(cloud, volume, params.get("Description", ""), merged)))
    return {"Snapshots": taken}


_FILTERS = {
    "snapshot-id": field("SnapshotId"),
    "volume-id": field("VolumeId"),
    "volume-size": field("VolumeSize"),
    "status": field("State"),
    "progress": field("Progress"),
    "description": field("Description"),
    "encrypted": field("Encrypted"),
    "owner-id": field("OwnerId"),
    "start-time": field("StartTime"),
    "storage-tier": field("StorageTier"),
}


@action("ec2", "DescribeSnapshots")
def describe_snapshots(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Snapshots by id, owner or filter."""
    rows = read_all(cloud, "snapshots", params.get("SnapshotIds"))
    owners = set(params.get("OwnerIds") or ())
    if owners and not owners & {"self", cloud.account}:
        rows = []
    shown = [_shown(cloud, row) for row in rows]
    page, token = paged(params, matching(shown, params.get("Filters"), _FILTERS), ids="SnapshotIds")
    return {"Snapshots": page, "NextToken": token}


def images_using(cloud: Cloud, snapshot_id: str) -> list[str]:
    """The images that need a snapshot."""
    return [
        row["ImageId"]
        for row in cloud.table("images").peek().values()
        if any(
            (item.get("Ebs") or {}).get("SnapshotId") == snapshot_id for item in row["BlockDeviceMappings"]
        )
    ]


def delete_row(cloud: Cloud, snapshot_id: str) -> None:
    """Remove a snapshot and its block map."""
    cloud.store.drop_map(snapshot_id)
    del cloud.table("snapshots")[snapshot_id]


@action("ec2", "DeleteSnapshot")
def delete_snapshot(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Delete a snapshot that no image needs."""
    row = find(cloud, "snapshots", params["SnapshotId"])
    users = images_using(cloud, row["SnapshotId"])
    if users:
        raise Refusal(
            "InvalidSnapshot.InUse",
            f"The snapshot {row['SnapshotId']} is currently in use by {', '.join(users)}",
        )
    delete_row(cloud, row["SnapshotId"])
    return {}


@action("ec2", "ModifySnapshotAttribute")
def modify_snapshot_attribute(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Share a snapshot with other accounts, or no longer."""
    row = find(cloud, "snapshots", params["SnapshotId"])
    change = params.get("CreateVolumePermission") or {}
    add = [item.get("UserId") for item in change.get("Add") or []]
    remove = [item.get("UserId") for item in change.get("Remove") or []]
    if params.get("OperationType") == "add":
        add += params.get("UserIds") or []
    elif params.get("OperationType") == "remove":
        remove += params.get("UserIds") or []
    row["_shared"] = [account for account in dict.fromkeys([*row["_shared"], *add]) if account not in remove]
    return {}


@action("ec2", "DescribeSnapshotAttribute")
def describe_snapshot_attribute(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """With whom a snapshot is shared, or its product codes."""
    row = find(cloud, "snapshots", params["SnapshotId"])
    if params["Attribute"] == "productCodes":
        return {"SnapshotId": row["SnapshotId"], "ProductCodes": row["ProductCodes"]}
    return {
        "SnapshotId": row["SnapshotId"],
        "CreateVolumePermissions": [{"UserId": account} for account in row["_shared"]],
    }


def check_tags_of_copy(params: dict[str, Any]) -> list[dict[str, str]]:
    """The tags a copy gets: only those of the call."""
    return given_tags(params, ("snapshot",)).get("snapshot", [])
