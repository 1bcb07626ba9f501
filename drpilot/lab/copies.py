"""Copying snapshots from another site, over the lab's path, with real bytes.

Called on the target (EC2 API reference, CopySnapshot). A copy proceeds in ten steps; each fetches its share
of the blocks that are not here yet. While the path is cut a copy stands still, and after the tunable
`copy_patience_s` (3,600 lab seconds) it fails. A key that can't be used lets the copy fail afterwards, with
the real cloud's message, not the call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drpilot.lab.cloud import Cloud, Peer, Unreachable, action, path, timer
from drpilot.lab.durations import duration, transfer_time
from drpilot.lab.identity import find_key, key_usable
from drpilot.lab.lookup import find
from drpilot.lab.path import LocalPeer
from drpilot.lab.refusal import Refusal
from drpilot.lab.snapshots import check_tags_of_copy, new_snapshot_row
from drpilot.lab.store import BLOCK_BYTES, MissingBlock
from drpilot.lab.table import Row

__all__ = ["CopyOrder", "begin_copy", "check_room", "source_peer"]

_AT_ONCE = 20
_STEPS = 10
_KEY_MESSAGE = "Given key ID is not accessible"


@dataclass(frozen=True, slots=True)
class CopyOrder:
    """What a copy shall be."""

    peer: str
    offer: dict[str, Any]
    description: str
    tags: list[dict[str, str]]
    encrypted: bool
    key: str | None
    operation: str = "CopySnapshot"


@path("snapshot.offer")
def offer_snapshot(cloud: Cloud, payload: dict[str, Any]) -> dict[str, Any]:
    """Describe a snapshot for a site that wants to copy it; refused as its owner's cloud would refuse."""
    row = find(cloud, "snapshots", payload["SnapshotId"])
    allowed = payload["account"] == cloud.account or payload["account"] in row["_shared"]
    if cloud.setting("strict_sharing", False) and not allowed:
        raise Refusal("InvalidSnapshot.NotFound", f"The snapshot '{row['SnapshotId']}' does not exist.")
    if row["State"] != "completed":
        raise Refusal("IncorrectState", f"The snapshot '{row['SnapshotId']}' is not in the completed state")
    if row["ProductCodes"] and payload["account"] != cloud.account:
        raise Refusal(
            "InvalidRequest", "Snapshots with product codes cannot be copied to another AWS account"
        )
    blocks = cloud.store.block_map(row["SnapshotId"])
    return {
        "snapshot": {key: value for key, value in row.items() if not key.startswith("_")},
        "lineage": row["_lineage"],
        "key_usable": not row["Encrypted"] or key_usable(cloud, row.get("KmsKeyId")),
        "blocks": {str(place): digest for place, digest in blocks.items()},
    }


def source_peer(cloud: Cloud, region: str) -> Peer:
    """The path to the site that is `region`, which may be this one."""
    if region == cloud.region:
        return LocalPeer(cloud, cloud)
    found = cloud.peer_of_region(region)
    if found is None:
        raise Refusal("InvalidParameterValue", f"Invalid source region: {region}")
    return found


def ask(peer: Peer, what: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Ask the source; a source that can't be reached is the cloud's own failure."""
    try:
        return peer.call(what, payload)
    except Unreachable:
        raise Refusal("Unavailable", "The service is unavailable. Please try again shortly.", 503) from None


def check_room(cloud: Cloud, wanted: int = 1) -> None:
    """Refuse a copy above the limit of copies at once (tunable `concurrent_copies`, 20)."""
    rows = cloud.table("snapshots").peek().values()
    running = sum(row["State"] == "pending" and "_copy" in row for row in rows)
    limit = cloud.setting("concurrent_copies", _AT_ONCE)
    if running + wanted > limit:
        raise Refusal(
            "ResourceLimitExceeded",
            f"Too many snapshot copies in progress. The limit is {limit} for this destination region.",
        )


def begin_copy(cloud: Cloud, order: CopyOrder) -> Row:
    """Make the target snapshot and start the copy. Runs in a transaction."""
    source = order.offer["snapshot"]
    row = new_snapshot_row(cloud, "vol-ffffffff", source["VolumeSize"], order.description, order.tags)
    row["_lineage"] = order.offer["lineage"]
    row["FullSnapshotSizeInBytes"] = source.get("FullSnapshotSizeInBytes", 0)
    row["Encrypted"] = bool(source["Encrypted"] or order.encrypted)
    usable = order.offer["key_usable"]
    if row["Encrypted"]:
        key = find_key(cloud, order.key)
        row["KmsKeyId"] = key["Arn"] if key is not None else order.key
        usable = usable and key_usable(cloud, order.key)
    missing = {digest for digest in order.offer["blocks"].values() if not cloud.store.has_block(digest)}
    seconds = duration(cloud, "snapshot.copy") + transfer_time(cloud, len(missing) * BLOCK_BYTES)
    slow = cloud.faults.value("slow-copy", "ec2", order.operation)
    seconds *= float(slow) if slow else 1.0
    row["_copy"] = {
        "peer": order.peer,
        "source": source["SnapshotId"],
        "step_s": seconds / _STEPS,
        "stuck_since": None,
        "corrupt": cloud.faults.strikes("corrupt-block", "ec2", order.operation),
        "usable": usable,
    }
    cloud.store.set_blocks(
        row["SnapshotId"], {int(place): digest for place, digest in order.offer["blocks"].items()}
    )
    cloud.later(seconds / _STEPS, "copy.step", row["SnapshotId"], step=1)
    return row


@timer("copy.step", locked=False)
def copy_step(cloud: Cloud, snapshot_id: str, details: dict[str, Any]) -> None:
    """Fetch the next tenth of a copy."""
    step = int(details["step"])
    with cloud.transaction():
        row = cloud.table("snapshots").get(snapshot_id)
        if row is None or row["State"] != "pending":
            return
        order = dict(row["_copy"])
        if not order["usable"]:
            _fail(row, _KEY_MESSAGE)
            return
        places = sorted(cloud.store.block_map(snapshot_id).items())
    share = places[len(places) * (step - 1) // _STEPS : len(places) * step // _STEPS]
    try:
        peer = LocalPeer(cloud, cloud) if order["peer"] == cloud.name else cloud.peer(order["peer"])
        peer.call("site.alive", {})
        for _, digest in share:
            if not cloud.store.has_block(digest):
                _fetch(cloud, peer, digest)
    except Unreachable:
        _stand_still(cloud, snapshot_id, step)
        return
    with cloud.transaction():
        row = cloud.table("snapshots").get(snapshot_id)
        if row is None or row["State"] != "pending":
            return
        row["_copy"]["stuck_since"] = None
        row["Progress"] = f"{step * 100 // _STEPS}%" if step < _STEPS else "99%"
        if step < _STEPS:
            cloud.later(order["step_s"], "copy.step", snapshot_id, step=step + 1)
            return
        if order["corrupt"]:
            _damage(cloud, snapshot_id)
        row.update(State="completed", Progress="100%", CompletionTime=cloud.stamp())
        row.pop("_copy")


def _fetch(cloud: Cloud, peer: Peer, digest: str) -> None:
    try:
        cloud.store.put_block(peer.block(digest))
    except MissingBlock:
        # The source lost these bytes: the copy has a hole there, as the source's volumes have.
        return


@path("site.alive")
def site_alive(cloud: Cloud, payload: dict[str, Any]) -> dict[str, Any]:
    """Answer, if the path carries an answer."""
    return {"site": cloud.name}


def _fail(row: Row, message: str) -> None:
    row.update(State="error", StateMessage=message)
    row.pop("_copy", None)


def _stand_still(cloud: Cloud, snapshot_id: str, step: int) -> None:
    """Try the same step again a little later, but not for ever."""
    with cloud.transaction():
        row = cloud.table("snapshots").get(snapshot_id)
        if row is None or row["State"] != "pending":
            return
        since = row["_copy"]["stuck_since"]
        if since is None:
            since = row["_copy"]["stuck_since"] = cloud.now()
        if cloud.now() - since >= cloud.setting("copy_patience_s", 3_600):
            _fail(row, "The source region could not be reached")
            return
        cloud.later(0.5, "copy.step", snapshot_id, step=step)


def _damage(cloud: Cloud, snapshot_id: str) -> None:
    """The fault corrupt-block on a copy: one byte of its first block comes out wrong."""
    for place, digest in sorted(cloud.store.block_map(snapshot_id).items()):
        if cloud.store.has_block(digest):
            data = bytearray(cloud.store.get_block(digest))
            data[0] ^= 0xFF
            cloud.store.set_blocks(snapshot_id, {place: cloud.store.put_block(bytes(data))})
            return


@action("ec2", "CopySnapshot", locked=False)
def copy_snapshot(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Copy a snapshot of any region of the lab into this one."""
    if params.get("DestinationRegion") not in (None, cloud.region):
        raise Refusal("InvalidParameterValue", "The destination region must be the region of the endpoint")
    if params.get("KmsKeyId") is not None and params.get("Encrypted") is False:
        raise Refusal("InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted")
    tags = check_tags_of_copy(params)
    with cloud.transaction():
        check_room(cloud)
    peer = source_peer(cloud, params["SourceRegion"])
    offer = ask(peer, "snapshot.offer", {"SnapshotId": params["SourceSnapshotId"], "account": cloud.account})
    description = params.get("Description") or f"[Copied {params['SourceSnapshotId']} from {peer.region}]"
    order = CopyOrder(
        peer.name, offer, description, tags, bool(params.get("Encrypted")), params.get("KmsKeyId")
    )
    with cloud.transaction():
        check_room(cloud)
        row = begin_copy(cloud, order)
        return {"SnapshotId": row["SnapshotId"], "Tags": row["Tags"]}
