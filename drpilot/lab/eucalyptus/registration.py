"""RegisterImage on a Eucalyptus cloud: from a manifest in a bucket, or from a snapshot; and the first boot.

What each version checks when it registers (4.x: account, ACL, kernel; 3.4: signature) and what it leaves to the
boot: 4.x never looks at the signature, and no version at the parts. An instance of an image whose parts are
missing, damaged or for another cloud stays pending while the node fetches them and ends without having run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from drpilot.lab import images
from drpilot.lab.buckets import OBJECTS, object_key, read_object
from drpilot.lab.cloud import Cloud, Refusal, action, timer
from drpilot.lab.durations import duration, transfer_time
from drpilot.lab.eucalyptus import keyring
from drpilot.lab.eucalyptus.bundle import BadBundle, Manifest, blocks_of, is_signed_by, read_manifest, unwrap
from drpilot.lab.eucalyptus.euare import signing_certificates
from drpilot.lab.eucalyptus.objectstore import readable_by_the_cloud
from drpilot.lab.launch import set_state
from drpilot.lab.lookup import find
from drpilot.lab.store import BLOCK_BYTES
from drpilot.lab.table import Row

__all__ = ["root_of"]

_NAME = re.compile(r"[A-Za-z0-9()./_-]{3,128}")
_LOCATION = re.compile(r"/*([^/]{2,})/(.+)")
_MOST_MANIFEST_BYTES = 5 * 1024 * 1024
_DEFAULT_ROOT = "/dev/sda"


def failed(message: str) -> Refusal:
    """What the services throw without a code of its own is an internal error for the caller."""
    return Refusal("InternalError", message, 500)


def root_of(instance_id: str) -> str:
    """The name of the file that is an instance-store instance's root disk."""
    return f"{instance_id}-root"


@action("ec2", "RegisterImage", family="eucalyptus")
def register_image(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """An image of a bundle, or of a snapshot; only letters, digits and ()./_- in its name."""
    name = params.get("Name")
    if name is not None and not _NAME.fullmatch(name):
        raise Refusal(
            "InvalidAMIName.Malformed",
            "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, '(', ')',"
            " '.', '-', '/' and '_'",
        )
    virtualization = params.get("VirtualizationType", "paravirtual")
    if virtualization not in ("paravirtual", "hvm"):
        raise failed("Unknown virtualization-type")
    if params.get("ImageLocation"):
        return _from_manifest(cloud, params, virtualization)
    root = params.get("RootDeviceName", _DEFAULT_ROOT)
    mapped = [item for item in params.get("BlockDeviceMappings") or [] if item.get("DeviceName") == root]
    if not mapped or not (mapped[0].get("Ebs") or {}).get("SnapshotId"):
        raise failed(
            "Invalid request:  the request must specify either ImageLocation for an instance-store image or a"
            " snapshot for the root device for an EBS image.  Provided values were: ImageLocation=null"
            f" BlockDeviceMappings={params.get('BlockDeviceMappings') or []}"
        )
    # Block storage images are whole disks, whatever the call says.
    given = {**params, "RootDeviceName": root, "VirtualizationType": "hvm", "Name": name or cloud.new_hex(12)}
    return images.register_image(cloud, given)


# -- from a manifest --------------------------------------------------------------------------------------


def _read(cloud: Cloud, bucket: str, key: str, *, as_cloud: bool) -> bytes | None:
    """An object's bytes; None when it is not there or, read `as_cloud`, may not be read by aws-exec-read."""
    row = cloud.table(OBJECTS).peek().get(object_key(bucket, key))
    if row is None or (as_cloud and not readable_by_the_cloud(row)):
        return None
    return read_object(cloud, row)


def _from_manifest(cloud: Cloud, params: dict[str, Any], virtualization: str) -> dict[str, Any]:
    old = cloud.traits.version == "3.4"
    found = _LOCATION.fullmatch(params["ImageLocation"])
    if found is None:
        raise failed(f"Invalid image location: {params['ImageLocation']}")
    bucket, key = found[1], found[2]
    data = _read(cloud, bucket, key, as_cloud=not old)
    if data is None or len(data) > _MOST_MANIFEST_BYTES:
        raise failed(f"Failed to read manifest file: {bucket}/{key}")
    try:
        manifest = read_manifest(data)
    except BadBundle as problem:
        raise failed(f"Failed to read manifest file: {bucket}/{key}: {problem}") from None
    if old:
        certificates = [*signing_certificates(cloud), keyring.certificate(cloud)]
        if not is_signed_by(manifest, certificates):
            raise failed("Failed to verify signature of the manifest")
    elif manifest.user != cloud.account:
        raise Refusal("AuthFailure", "Manifest is not accessible")
    kind = _kind(manifest, key)
    kernel = params.get("KernelId") or manifest.kernel_id
    ramdisk = params.get("RamdiskId") or manifest.ramdisk_id
    if kind == "machine" and virtualization == "paravirtual":
        if not kernel:
            raise Refusal("MissingParameter", "Kernel ID must be specified")
        if not ramdisk:
            raise Refusal("MissingParameter", "Ramdisk ID must be specified")
    for given, prefix in ((kernel, "eki"), (ramdisk, "eri")):
        if kind == "machine" and given and given.lower().startswith(prefix):
            find(cloud, "images", given)
    row = _new_row(cloud, params, manifest, kind)
    row["VirtualizationType"] = virtualization
    row.update({name: value for name, value in (("KernelId", kernel), ("RamdiskId", ramdisk)) if value})
    row["_bundle"] = {"bucket": bucket, "key": key, "at_root": old}
    return {"ImageId": row["ImageId"]}


def _kind(manifest: Manifest, key: str) -> str:
    name = key.rpartition("/")[2]
    if manifest.kind == "kernel" or manifest.kernel_id in ("true", "yes") or name.startswith("vmlinuz"):
        return "kernel"
    if manifest.kind == "ramdisk" or manifest.ramdisk_id in ("true", "yes") or name.startswith("initrd"):
        return "ramdisk"
    return "machine"


def _new_row(cloud: Cloud, params: dict[str, Any], manifest: Manifest, kind: str) -> Row:
    name = params.get("Name") or f"{manifest.name}-{cloud.new_hex(8)}"
    images.check_name_is_free(cloud, name)
    base = {
        "Description": params.get("Description", ""),
        "Architecture": params.get("Architecture") or manifest.architecture,
        "ImageType": kind,
        "ImageLocation": params["ImageLocation"].lstrip("/"),
        "RootDeviceName": params.get("RootDeviceName", _DEFAULT_ROOT),
        "RootDeviceType": "instance-store",
        "State": "available",
    }
    prefix = {"kernel": "eki", "ramdisk": "eri"}.get(kind, "ami")
    return images.new_image(cloud, name, base, prefix=prefix)


# -- the first boot ---------------------------------------------------------------------------------------


@timer("instance.unbundle", locked=False)
def unbundle(cloud: Cloud, instance_id: str, details: dict[str, Any]) -> None:
    """Fetch, decrypt and unpack an image for an instance of it; later instances find the blocks here."""
    with cloud.lock:
        row = cloud.table("instances").peek().get(instance_id)
        image = None if row is None else cloud.table("images").peek().get(row["ImageId"])
        if row is None or row["State"]["Name"] != "pending":
            return
        known = dict(cloud.store.block_map(_map_name(row["ImageId"])))
    try:
        if image is None:
            raise BadBundle(f"the image {row['ImageId']} is gone")
        size, blocks = (image["_size"], known) if known else _unpacked(cloud, image)
    except BadBundle as problem:
        with cloud.transaction():
            _give_up(cloud, instance_id, str(problem))
        return
    with cloud.transaction():
        row = cloud.table("instances").get(instance_id)
        if row is None or row["State"]["Name"] != "pending":
            return
        kept = cloud.table("images").get(row["ImageId"])
        if not known and kept is not None:
            cloud.store.set_blocks(_map_name(row["ImageId"]), blocks)
            kept["_size"] = size
        row["_root"] = root_of(instance_id)
        cloud.store.create_volume(row["_root"], -(-size // BLOCK_BYTES) * BLOCK_BYTES, blocks)
        seconds = duration(cloud, "instance.boot") + (0 if known else transfer_time(cloud, size))
        cloud.later(seconds, "instance.running", instance_id)


def _map_name(image_id: str) -> str:
    return f"bundle-{image_id}"


def _unpacked(cloud: Cloud, image: Row) -> tuple[int, dict[int, str]]:
    """The image's size and its blocks, all of them in the store."""
    place = image["_bundle"]
    data = _read(cloud, place["bucket"], place["key"], as_cloud=not place["at_root"])
    if data is None:
        raise BadBundle(f"the manifest {place['bucket']}/{place['key']} can't be read")
    manifest = read_manifest(data)
    keys = unwrap(manifest, keyring.private_key(cloud))
    blocks = {
        index: cloud.store.put_block(block)
        for index, block in blocks_of(manifest, _parts(cloud, place, manifest), keys)
    }
    return manifest.size_bytes, blocks


def _parts(cloud: Cloud, place: Row, manifest: Manifest) -> Iterator[bytes]:
    """The parts in order. 3.4 looks for them at the bucket's root and passes over what is not there; later
    versions look beside the manifest, as aws-exec-read, and compare the digests.
    """
    folder = "" if place["at_root"] or "/" not in place["key"] else place["key"].rpartition("/")[0] + "/"
    for part in manifest.parts:
        data = _read(cloud, place["bucket"], folder + part.filename, as_cloud=not place["at_root"])
        if data is None and not place["at_root"]:
            raise BadBundle(f"the part {part.filename} can't be read")
        if data is not None and not place["at_root"] and hashlib.sha1(data).hexdigest() != part.sha1:
            raise BadBundle(f"the digest of the part {part.filename} is not the manifest's")
        if data is not None:
            yield data


def _give_up(cloud: Cloud, instance_id: str, message: str) -> None:
    row = cloud.table("instances").get(instance_id)
    if row is None or row["State"]["Name"] != "pending":
        return
    row["StateReason"] = {"Code": "Server.InternalError", "Message": f"Server.InternalError: {message}"}
    row["StateTransitionReason"] = message
    set_state(row, "shutting-down")
    cloud.later(0.1, "instance.terminated", instance_id)


@action("ec2", "CreateImage", family="eucalyptus")
def create_image(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """An image of an instance whose root is a volume."""
    row = find(cloud, "instances", params["InstanceId"])
    if row["RootDeviceType"] != "ebs":
        raise failed("Cannot create an image from an instance which is not booted from an EBS volume")
    return images.create_image(cloud, params)
