"""Machine images: made from an instance, registered from snapshots, copied from another site.

An image's block-device mappings are true: they name real snapshots with the volumes' sizes and types.
"""

from __future__ import annotations

import re
from typing import Any

from drpilot.lab.cloud import Cloud, action, kind, path, timer
from drpilot.lab.copies import CopyOrder, ask, begin_copy, check_room, offer_snapshot, source_peer
from drpilot.lab.durations import duration
from drpilot.lab.filters import field, matching, paged
from drpilot.lab.lookup import find, read_all
from drpilot.lab.refusal import Refusal
from drpilot.lab.snapshots import delete_row, images_using, take
from drpilot.lab.table import Row
from drpilot.lab.tags import given_tags
from drpilot.lab.tokens import once
from drpilot.lab.volumes import plan_volume

__all__ = ["check_name_is_free", "create_image", "merged_mappings", "new_image", "register_image"]

kind("images", "image")

_NAME = re.compile(r"[A-Za-z0-9()\[\] ./\-'@_]{3,128}")
_ARCHITECTURES = ("i386", "x86_64", "arm64", "x86_64_mac", "arm64_mac")


def _check_name(cloud: Cloud, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Refusal(
            "InvalidAMIName.Malformed",
            "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, and "
            "()[] ./-'@_",
        )
    check_name_is_free(cloud, name)


def check_name_is_free(cloud: Cloud, name: str) -> None:
    """Refuse a name that another image has."""
    for row in cloud.table("images").peek().values():
        if row["Name"] == name and row["State"] != "failed":
            raise Refusal(
                "InvalidAMIName.Duplicate", f"AMI name {name} is already in use by AMI {row['ImageId']}"
            )


def merged_mappings(base: list[Row], given: list[Row] | None) -> list[Row]:
    """Block-device mappings with overrides: by device name, member by member; `NoDevice` takes one away
    (EC2 user guide, block device mappings).
    """
    merged = {item["DeviceName"]: {**item, "Ebs": dict(item.get("Ebs") or {})} for item in base}
    for item in given or []:
        device = item.get("DeviceName")
        if not device:
            raise Refusal("MissingParameter", "The request must contain the parameter DeviceName")
        if "NoDevice" in item:
            merged.pop(device, None)
        elif "VirtualName" in item:
            continue  # instance store: the lab's types have none
        elif device in merged:
            over, own = item.get("Ebs") or {}, merged[device]["Ebs"]
            if over.get("SnapshotId", own.get("SnapshotId")) != own.get("SnapshotId"):
                raise Refusal(
                    "InvalidBlockDeviceMapping", f"snapshotId can't be modified on the device {device}"
                )
            if "VolumeType" in over and over["VolumeType"] != own.get("VolumeType"):
                own = {key: value for key, value in own.items() if key not in ("Iops", "Throughput")}
            merged[device] = {"DeviceName": device, "Ebs": {**own, **over}}
        else:
            merged[device] = {
                "DeviceName": device,
                "Ebs": {"DeleteOnTermination": True, **(item.get("Ebs") or {})},
            }
    return list(merged.values())


def new_image(cloud: Cloud, name: str, base: dict[str, Any], *, prefix: str = "ami") -> Row:
    """A new image's row: `base` over what every image has."""
    image_id = cloud.new_id(prefix)
    row: Row = {
        "ImageId": image_id,
        "Name": name,
        "Description": "",
        "State": "pending",
        "OwnerId": cloud.owned(),
        "Public": False,
        "Architecture": "x86_64",
        "ImageType": "machine",
        "ImageLocation": f"{cloud.account}/{name}",
        "RootDeviceName": "/dev/xvda",
        "RootDeviceType": "ebs",
        "VirtualizationType": "hvm",
        "Hypervisor": "xen",
        "EnaSupport": True,
        "SriovNetSupport": "simple",
        "PlatformDetails": "Linux/UNIX",
        "UsageOperation": "RunInstances",
        "CreationDate": cloud.stamp(),
        "BlockDeviceMappings": [],
        "ProductCodes": [],
        "Tags": [],
        "_permissions": [],
        **base,
    }
    cloud.table("images")[image_id] = row
    return row


def _await_snapshots(cloud: Cloud, row: Row, name: str) -> None:
    cloud.later(duration(cloud, name), "image.ready", row["ImageId"])


@timer("image.ready")
def image_ready(cloud: Cloud, image_id: str, details: dict[str, Any]) -> None:
    """An image becomes available once all its snapshots are complete, and failed when one of them failed."""
    row = cloud.table("images").get(image_id)
    if row is None or row["State"] != "pending":
        return
    snapshots = cloud.table("snapshots").peek()
    states = {
        snapshots[item["Ebs"]["SnapshotId"]]["State"] if item["Ebs"]["SnapshotId"] in snapshots else "error"
        for item in row["BlockDeviceMappings"]
        if item["Ebs"].get("SnapshotId")
    }
    if "error" in states:
        row["State"] = "failed"
        row["StateReason"] = {
            "Code": "Client.InvalidSnapshot",
            "Message": "A snapshot of the image could not be completed",
        }
    elif states <= {"completed"}:
        row["State"] = "available"
    else:
        cloud.later(0.2, "image.ready", image_id)


@action("ec2", "CreateImage")
def create_image(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """An image of an instance: a snapshot of each of its volumes, all of one moment."""
    instance = find(cloud, "instances", params["InstanceId"])
    if instance["State"]["Name"] not in ("running", "stopped", "stopping"):
        raise Refusal(
            "IncorrectState",
            f"Instance is not in state 'running', 'stopped' or 'stopping': {instance['InstanceId']}",
        )
    _check_name(cloud, params["Name"])
    tags = given_tags(params, ("image", "snapshot"))
    base: list[Row] = []
    for item in instance["BlockDeviceMappings"]:
        volume = cloud.table("volumes").peek()[item["Ebs"]["VolumeId"]]
        ebs = {"VolumeSize": volume["Size"], "VolumeType": volume["VolumeType"]}
        ebs.update(DeleteOnTermination=item["Ebs"]["DeleteOnTermination"], Encrypted=volume["Encrypted"])
        ebs.update({key: volume[key] for key in ("Iops", "Throughput") if key in volume})
        if volume["VolumeType"] == "gp2":
            ebs.pop("Iops", None)
        base.append({"DeviceName": item["DeviceName"], "Ebs": ebs, "_volume": volume["VolumeId"]})
    sources = {item["DeviceName"]: item.pop("_volume") for item in base}
    mappings = merged_mappings(base, params.get("BlockDeviceMappings"))
    description = f"Created by CreateImage({instance['InstanceId']}) for "
    row = new_image(
        cloud,
        params["Name"],
        {
            "Description": params.get("Description", ""),
            "Architecture": instance["Architecture"],
            "RootDeviceName": instance["RootDeviceName"],
            "SourceInstanceId": instance["InstanceId"],
            "ProductCodes": instance.get("ProductCodes") or [],
            "Tags": tags.get("image", []),
        },
    )
    for item in mappings:
        if item["DeviceName"] in sources:
            volume = cloud.table("volumes")[sources[item["DeviceName"]]]
            snapshot = take(cloud, volume, description + row["ImageId"], tags.get("snapshot", []))
            item["Ebs"]["SnapshotId"] = snapshot["SnapshotId"]
    row["BlockDeviceMappings"] = mappings
    _await_snapshots(cloud, row, "image.create")
    return {"ImageId": row["ImageId"]}


@action("ec2", "RegisterImage")
def register_image(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """An image of snapshots that exist; the root device must be among the mappings."""
    name = params.get("Name")
    if not name:
        raise Refusal("MissingParameter", "The request must contain the parameter Name")
    _check_name(cloud, name)
    tags = given_tags(params, ("image", "snapshot"))
    architecture = params.get("Architecture", "i386")
    if architecture not in _ARCHITECTURES:
        raise Refusal(
            "InvalidParameterValue", f"Value ({architecture}) for parameter architecture is invalid."
        )
    mappings = merged_mappings([], params.get("BlockDeviceMappings"))
    root = params.get("RootDeviceName")
    if not mappings or not root:
        raise Refusal("InvalidBlockDeviceMapping", "An image needs a root device and its mapping")
    by_device = {item["DeviceName"]: item for item in mappings}
    if not (by_device.get(root) or {}).get("Ebs", {}).get("SnapshotId"):
        raise Refusal("InvalidBlockDeviceMapping", f"The root device '{root}' has no snapshot")
    for item in mappings:
        if "Encrypted" in item["Ebs"] and "SnapshotId" in item["Ebs"]:
            raise Refusal(
                "InvalidBlockDeviceMapping", "the encrypted flag cannot be specified with a snapshot"
            )
        item["Ebs"] = _registered(cloud, item["Ebs"])
    row = new_image(
        cloud,
        name,
        {
            "Description": params.get("Description", ""),
            "Architecture": architecture,
            "RootDeviceName": root,
            "BlockDeviceMappings": mappings,
            "EnaSupport": params.get("EnaSupport", False),
            "VirtualizationType": params.get("VirtualizationType", "paravirtual"),
            "BootMode": params.get("BootMode"),
            "ImdsSupport": params.get("ImdsSupport"),
            "Tags": tags.get("image", []),
            "State": "available",
        },
    )
    return {"ImageId": row["ImageId"]}


def _registered(cloud: Cloud, ebs: Row) -> Row:
    """A mapping as DescribeImages shows it: size and type always filled in."""
    plan = plan_volume(cloud, ebs)
    filled: Row = {
        **ebs,
        "VolumeSize": plan.size_gib,
        "VolumeType": plan.volume_type,
        "Encrypted": plan.encrypted,
    }
    return filled


# -- copying ----------------------------------------------------------------------------------------------


@path("image.offer")
def offer_image(cloud: Cloud, payload: dict[str, Any]) -> dict[str, Any]:
    """Describe an image and its snapshots for a site that wants to copy it."""
    row = find(cloud, "images", payload["ImageId"])
    allowed = payload["account"] == cloud.account or {"UserId": payload["account"]} in row["_permissions"]
    if cloud.setting("strict_sharing", False) and not allowed:
        raise Refusal("InvalidRequest", "You do not have permission to access the storage of this ami")
    if row["State"] != "available":
        raise Refusal("InvalidAMIID.Unavailable", f"The AMI ID '{row['ImageId']}' is {row['State']}")
    if row["ProductCodes"] and payload["account"] != cloud.account:
        raise Refusal(
            "InvalidRequest",
            "Images with EC2 BillingProduct codes cannot be copied to another AWS account",
        )
    offers = {
        item["Ebs"]["SnapshotId"]: offer_snapshot(
            cloud, {"SnapshotId": item["Ebs"]["SnapshotId"], "account": payload["account"]}
        )
        for item in row["BlockDeviceMappings"]
        if item["Ebs"].get("SnapshotId")
    }
    return {"image": row, "snapshots": offers}


@action("ec2", "CopyImage", locked=False)
def copy_image(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Copy an image of any region of the lab into this one, with copies of its snapshots."""
    for member in ("Name", "SourceImageId", "SourceRegion"):
        if not params.get(member):
            raise Refusal("MissingParameter", f"The request must contain the parameter {member}")
    if params.get("KmsKeyId") is not None and not params.get("Encrypted"):
        raise Refusal("InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted")
    tags = given_tags(params, ("image", "snapshot"))
    peer = source_peer(cloud, params["SourceRegion"])
    known = f"CopyImage:{params.get('ClientToken')}" in cloud.table("tokens").peek()
    payload = {"ImageId": params["SourceImageId"], "account": cloud.account}
    # A repeat is answered from here: the source may be gone by then.
    offer: dict[str, Any] = {} if known else ask(peer, "image.offer", payload)
    with cloud.transaction():
        return once(cloud, "CopyImage", params, lambda: _begin(cloud, params, peer.name, offer, tags))


def _begin(
    cloud: Cloud,
    params: dict[str, Any],
    peer: str,
    offer: dict[str, Any],
    tags: dict[str, list[dict[str, str]]],
) -> dict[str, Any]:
    if not offer:
        raise Refusal("Unavailable", "The service is unavailable. Please try again shortly.", 503)
    _check_name(cloud, params["Name"])
    check_room(cloud, len(offer["snapshots"]))
    source = offer["image"]
    kept = ("Architecture", "RootDeviceName", "EnaSupport", "VirtualizationType", "BootMode", "ImdsSupport")
    image_tags = list(tags.get("image", []))
    if params.get("CopyImageTags"):
        named = {tag["Key"] for tag in image_tags}
        image_tags += [tag for tag in source["Tags"] if tag["Key"] not in named]
    row = new_image(
        cloud,
        params["Name"],
        {
            "Description": params.get("Description", source["Description"]),
            "SourceImageId": source["ImageId"],
            "SourceImageRegion": params["SourceRegion"],
            "Tags": image_tags,
            **{key: source[key] for key in kept if source.get(key) is not None},
        },
    )
    mappings = []
    for item in source["BlockDeviceMappings"]:
        ebs = dict(item["Ebs"])
        if ebs.get("SnapshotId"):
            order = CopyOrder(
                peer,
                offer["snapshots"][ebs["SnapshotId"]],
                f"Copied for DestinationAmi {row['ImageId']} from SourceAmi {source['ImageId']} for "
                f"SourceSnapshot {ebs['SnapshotId']}.",
                tags.get("snapshot", []),
                bool(params.get("Encrypted")),
                params.get("KmsKeyId"),
                "CopyImage",
            )
            snapshot = begin_copy(cloud, order)
            ebs.update(SnapshotId=snapshot["SnapshotId"], Encrypted=snapshot["Encrypted"])
        mappings.append({"DeviceName": item["DeviceName"], "Ebs": ebs})
    row["BlockDeviceMappings"] = mappings
    _await_snapshots(cloud, row, "image.copy")
    return {"ImageId": row["ImageId"]}


# -- the rest ---------------------------------------------------------------------------------------------

_FILTERS = {
    "image-id": field("ImageId"),
    "name": field("Name"),
    "description": field("Description"),
    "state": field("State"),
    "owner-id": field("OwnerId"),
    "architecture": field("Architecture"),
    "is-public": field("Public"),
    "image-type": field("ImageType"),
    "root-device-name": field("RootDeviceName"),
    "root-device-type": field("RootDeviceType"),
    "virtualization-type": field("VirtualizationType"),
    "creation-date": field("CreationDate"),
    "product-code": field("ProductCodes", "ProductCodeId"),
    "source-instance-id": field("SourceInstanceId"),
    "block-device-mapping.snapshot-id": field("BlockDeviceMappings", "Ebs", "SnapshotId"),
    "block-device-mapping.device-name": field("BlockDeviceMappings", "DeviceName"),
    "block-device-mapping.volume-size": field("BlockDeviceMappings", "Ebs", "VolumeSize"),
    "block-device-mapping.volume-type": field("BlockDeviceMappings", "Ebs", "VolumeType"),
}


@action("ec2", "DescribeImages")
def describe_images(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Images by id, owner or filter."""
    rows = read_all(cloud, "images", params.get("ImageIds"))
    owners = set(params.get("Owners") or ())
    if owners and not owners & {"self", cloud.account}:
        rows = []
    page, token = paged(params, matching(rows, params.get("Filters"), _FILTERS), ids="ImageIds")
    return {"Images": page, "NextToken": token}


@action("ec2", "DeregisterImage")
def deregister_image(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Remove an image; its snapshots stay unless the call asks to delete them."""
    row = find(cloud, "images", params["ImageId"])
    del cloud.table("images")[row["ImageId"]]
    results = []
    if params.get("DeleteAssociatedSnapshots"):
        for item in row["BlockDeviceMappings"]:
            snapshot_id = item["Ebs"].get("SnapshotId")
            if snapshot_id not in cloud.table("snapshots"):
                continue
            used = bool(images_using(cloud, snapshot_id))
            if not used:
                delete_row(cloud, snapshot_id)
            results.append({"SnapshotId": snapshot_id, "ReturnCode": "in-use" if used else "success"})
    return {"Return": True, "DeleteSnapshotResults": results}


@action("ec2", "ModifyImageAttribute")
def modify_image_attribute(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Change an image's description, add product codes, or change who may launch it."""
    row = find(cloud, "images", params["ImageId"])
    for code in params.get("ProductCodes") or []:
        if all(have["ProductCodeId"] != code for have in row["ProductCodes"]):
            row["ProductCodes"].append({"ProductCodeId": code, "ProductCodeType": "marketplace"})
    if "Description" in params:
        row["Description"] = params["Description"].get("Value", "")
    change = params.get("LaunchPermission") or {}
    given = [{"UserId": account} for account in params.get("UserIds") or []]
    adding = params.get("OperationType", "add") == "add"
    add = [*(change.get("Add") or []), *(given if adding else [])]
    remove = [*(change.get("Remove") or []), *([] if adding else given)]
    row["_permissions"] = [
        item for item in [*row["_permissions"], *(new for new in add if new not in row["_permissions"])]
        if item not in remove
    ]  # fmt: skip
    row["Public"] = {"Group": "all"} in row["_permissions"]
    return {}


@action("ec2", "DescribeImageAttribute")
def describe_image_attribute(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """One attribute of an image."""
    row = find(cloud, "images", params["ImageId"])
    replies: dict[str, dict[str, Any]] = {
        "description": {"Description": {"Value": row["Description"]}},
        "launchPermission": {"LaunchPermissions": row["_permissions"]},
        "productCodes": {"ProductCodes": row["ProductCodes"]},
        "blockDeviceMapping": {"BlockDeviceMappings": row["BlockDeviceMappings"]},
        "bootMode": {"BootMode": {"Value": row.get("BootMode") or ""}},
        "sriovNetSupport": {"SriovNetSupport": {"Value": row["SriovNetSupport"]}},
    }
    if params["Attribute"] not in replies:
        raise Refusal(
            "InvalidParameterValue", f"Value ({params['Attribute']}) for parameter attribute is invalid."
        )
    return {"ImageId": row["ImageId"], **replies[params["Attribute"]]}


@action("ec2", "ResetImageAttribute")
def reset_image_attribute(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Take every launch permission away."""
    row = find(cloud, "images", params["ImageId"])
    row.update(_permissions=[], Public=False)
    return {}
