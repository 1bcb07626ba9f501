"""EBS direct: the blocks of a snapshot, written and read by the caller.

The contract (EBS direct API reference): blocks of 524,288 bytes, a SHA-256 for each that is checked, writing
only while the snapshot is pending, a parent whose blocks are inherited, pages of 100 to 10,000 entries, and
block tokens that are good for one block of one snapshot. ListChangedBlocks compares snapshots of one lineage
only.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from drpilot.lab.cloud import Cloud, action, timer
from drpilot.lab.durations import duration
from drpilot.lab.identity import find_key
from drpilot.lab.refusal import Refusal
from drpilot.lab.snapshots import new_snapshot_row
from drpilot.lab.store import BLOCK_BYTES, GIB, MissingBlock
from drpilot.lab.table import Row
from drpilot.lab.tags import check_tags
from drpilot.lab.tokens import once

__all__: list[str] = []

_TOKEN_LIFE = timedelta(days=7)


def _invalid(message: str) -> Refusal:
    return Refusal("ValidationException", message)


def _snapshot(cloud: Cloud, snapshot_id: str) -> Row:
    row = cloud.table("snapshots").peek().get(snapshot_id)
    if row is None:
        raise Refusal("ResourceNotFoundException", f"The snapshot '{snapshot_id}' does not exist.", 404)
    return row


def _readable(cloud: Cloud, snapshot_id: str) -> Row:
    row = _snapshot(cloud, snapshot_id)
    if row["State"] != "completed":
        raise _invalid(f"The snapshot '{snapshot_id}' is not in the completed state")
    return row


# -- writing ----------------------------------------------------------------------------------------------


@action("ebs", "StartSnapshot")
def start_snapshot(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """A pending snapshot to write blocks to, on top of a parent's where one is named."""
    return once(
        cloud, "StartSnapshot", params, lambda: _start(cloud, params), again=lambda kept: _again(cloud, kept)
    )


def _again(cloud: Cloud, kept: dict[str, Any]) -> dict[str, Any]:
    if kept["SnapshotId"] not in cloud.table("snapshots"):
        raise Refusal("ResourceNotFoundException", "The snapshot of this client token was deleted.", 404)
    return {**kept, "Status": _snapshot(cloud, kept["SnapshotId"])["State"]}


def _start(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    size_gib, parent_id = params["VolumeSize"], params.get("ParentSnapshotId")
    if not 1 <= size_gib <= 65_536:
        raise _invalid("VolumeSize must be between 1 and 65536 GiB")
    if not 10 <= params.get("Timeout", 60) <= 4_320:
        raise _invalid("Timeout must be between 10 and 4320 minutes")
    if params.get("KmsKeyArn") and not params.get("Encrypted"):
        raise _invalid("If you specify KmsKeyArn, you must set Encrypted to true")
    parent: Row | None = None
    if parent_id is not None:
        parent = _readable(cloud, parent_id)
        if "Encrypted" in params:
            raise _invalid("If you specify ParentSnapshotId, omit Encrypted")
        if parent["VolumeSize"] > size_gib:
            raise _invalid("VolumeSize must be at least that of the parent snapshot")
    tags = [dict(tag) for tag in params.get("Tags") or []]
    try:
        check_tags(list(tags))
        row = new_snapshot_row(cloud, "vol-ffffffff", size_gib, params.get("Description", ""), tags)
    except Refusal as refusal:
        limit = refusal.code.endswith("LimitExceeded")
        code = "ServiceQuotaExceededException" if limit else "ValidationException"
        raise Refusal(code, refusal.message, 402 if limit else 400) from None
    snapshot_id = row["SnapshotId"]
    row["_lineage"] = snapshot_id
    row["_direct"] = {"parent": parent_id}
    if parent is not None:
        row["_lineage"] = parent["_lineage"]
        row["Encrypted"], key_arn = parent["Encrypted"], parent.get("KmsKeyId")
        cloud.store.set_blocks(snapshot_id, cloud.store.block_map(str(parent_id)))
    else:
        row["Encrypted"] = bool(params.get("Encrypted"))
        key_arn = _key_arn(cloud, params) if row["Encrypted"] else None
    if key_arn is not None:
        row["KmsKeyId"] = key_arn
    cloud.later(params.get("Timeout", 60) * 60, "direct.timeout", snapshot_id)
    return {
        "SnapshotId": snapshot_id,
        "OwnerId": cloud.owned(),
        "Status": "pending",
        "StartTime": row["StartTime"],
        "VolumeSize": size_gib,
        "BlockSize": BLOCK_BYTES,
        "Description": row["Description"],
        "Tags": row["Tags"],
        "ParentSnapshotId": parent_id,
        "KmsKeyArn": key_arn,
    }


def _key_arn(cloud: Cloud, params: dict[str, Any]) -> str:
    key = find_key(cloud, params.get("KmsKeyArn"))
    if key is None or key["KeyState"] != "Enabled":
        raise _invalid("Given key ID is not accessible")
    return str(key["Arn"])


@timer("direct.timeout")
def direct_timeout(cloud: Cloud, snapshot_id: str, details: dict[str, Any]) -> None:
    """A snapshot that nobody completed fails."""
    row = cloud.table("snapshots").get(snapshot_id)
    if row is not None and row["State"] == "pending" and "_direct" in row:
        row.update(State="error", StateMessage="The snapshot was not completed in time")


@action("ebs", "PutSnapshotBlock", locked=False)
def put_snapshot_block(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Write one block; writing the same block again replaces it."""
    data: bytes = params["BlockData"]
    if params["ChecksumAlgorithm"] != "SHA256":
        raise _invalid("ChecksumAlgorithm must be SHA256")
    if params["DataLength"] != BLOCK_BYTES or len(data) != BLOCK_BYTES:
        raise _invalid(f"DataLength must be {BLOCK_BYTES}, the length of the block data")
    digest = hashlib.sha256(data).digest()
    if params["Checksum"] != base64.b64encode(digest).decode():
        raise _invalid("The checksum does not match the block data")
    with cloud.lock:
        _check_writable(cloud, params["SnapshotId"], params["BlockIndex"])
    cloud.store.put_block(data, digest.hex())
    with cloud.transaction():
        _check_writable(cloud, params["SnapshotId"], params["BlockIndex"])
        cloud.store.set_blocks(params["SnapshotId"], {params["BlockIndex"]: digest.hex()}, own=True)
    return {"Checksum": params["Checksum"], "ChecksumAlgorithm": "SHA256"}


def _check_writable(cloud: Cloud, snapshot_id: str, place: int) -> None:
    row = _snapshot(cloud, snapshot_id)
    if row["State"] != "pending" or "_direct" not in row or row["_direct"].get("complete"):
        raise _invalid(f"The snapshot '{snapshot_id}' is not in the pending state")
    if not 0 <= place < row["VolumeSize"] * GIB // BLOCK_BYTES:
        raise _invalid(f"BlockIndex {place} lies beyond the volume size of {row['VolumeSize']} GiB")


@action("ebs", "CompleteSnapshot")
def complete_snapshot(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Seal a snapshot; the number of blocks written must be the one the caller counted."""
    snapshot_id = params["SnapshotId"]
    row = _snapshot(cloud, snapshot_id)
    if "_direct" not in row or row["State"] not in ("pending", "completed"):
        raise _invalid(f"The snapshot '{snapshot_id}' is not in the pending state")
    row = cloud.table("snapshots")[snapshot_id]
    if row["State"] == "completed" or row["_direct"].get("complete"):
        return {"Status": row["State"]}
    written = cloud.store.own_blocks(snapshot_id)
    if params["ChangedBlocksCount"] != len(written):
        raise _invalid(f"ChangedBlocksCount is {params['ChangedBlocksCount']}, written were {len(written)}")
    if params.get("Checksum") is not None:
        if params.get("ChecksumAggregationMethod") != "LINEAR" or params.get("ChecksumAlgorithm") != "SHA256":
            raise _invalid("A checksum needs ChecksumAlgorithm SHA256 and ChecksumAggregationMethod LINEAR")
        whole = hashlib.sha256(b"".join(bytes.fromhex(written[place]) for place in sorted(written))).digest()
        if params["Checksum"] != base64.b64encode(whole).decode():
            raise _invalid("The checksum does not match the blocks written")
    row["_direct"]["complete"] = True
    row["FullSnapshotSizeInBytes"] = len(cloud.store.block_map(snapshot_id)) * BLOCK_BYTES
    cloud.later(duration(cloud, "snapshot.complete"), "snapshot.created", snapshot_id)
    return {"Status": "pending"}


# -- reading ----------------------------------------------------------------------------------------------


def _block_token(cloud: Cloud, snapshot_id: str, place: int) -> str:
    """A token for one block, good for seven days of the machine's clock."""
    expires = int((cloud.timestamp() + _TOKEN_LIFE).timestamp())
    return f"{expires:x}.{_token_mark(cloud, snapshot_id, place, expires)}"


def _token_mark(cloud: Cloud, snapshot_id: str, place: int, expires: int) -> str:
    text = f"{cloud.settings.seed}/{cloud.account}/{snapshot_id}/{place}/{expires}"
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _check_token(cloud: Cloud, token: str, snapshot_id: str, place: int) -> None:
    head, _, mark = token.partition(".")
    try:
        expires = int(head, 16)
    except ValueError:
        expires = 0
    if mark != _token_mark(cloud, snapshot_id, place, expires):
        raise _invalid("The block token is not valid for this block")
    if expires < cloud.timestamp().timestamp():
        raise _invalid("The block token has expired")


def _page(params: dict[str, Any], places: Sequence[int]) -> tuple[list[int], str | None]:
    """The block indices of one page and the next page's token; indices ascend."""
    most = params.get("MaxResults", 10_000)
    if not 100 <= most <= 10_000:
        raise _invalid("MaxResults must be between 100 and 10000")
    start = params.get("StartingBlockIndex", 0)
    if params.get("NextToken") is not None:
        try:
            start = int(base64.urlsafe_b64decode(params["NextToken"]).decode())
        except ValueError:
            raise _invalid("The page token is not valid") from None
    rest = [place for place in places if place >= start]
    token = base64.urlsafe_b64encode(str(rest[most]).encode()).decode() if len(rest) > most else None
    return rest[:most], token


def _listing(cloud: Cloud, row: Row, token: str | None) -> dict[str, Any]:
    return {
        "ExpiryTime": cloud.timestamp() + _TOKEN_LIFE,
        "VolumeSize": row["VolumeSize"],
        "BlockSize": BLOCK_BYTES,
        "NextToken": token,
    }


@action("ebs", "ListSnapshotBlocks")
def list_snapshot_blocks(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """The blocks a snapshot holds, its parent's included."""
    snapshot_id = params["SnapshotId"]
    row = _readable(cloud, snapshot_id)
    places, token = _page(params, sorted(cloud.store.block_map(snapshot_id)))
    blocks = [
        {"BlockIndex": place, "BlockToken": _block_token(cloud, snapshot_id, place)} for place in places
    ]
    return {"Blocks": blocks, **_listing(cloud, row, token)}


@action("ebs", "ListChangedBlocks")
def list_changed_blocks(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """The blocks in which two snapshots of one lineage differ: changed, new or gone."""
    second_id, first_id = params["SecondSnapshotId"], params.get("FirstSnapshotId")
    row = _readable(cloud, second_id)
    second = cloud.store.block_map(second_id)
    first: dict[int, str] = {}
    if first_id is not None:
        if _readable(cloud, first_id)["_lineage"] != row["_lineage"]:
            raise _invalid("The snapshots are not of the same volume or snapshot lineage")
        first = cloud.store.block_map(first_id)
    changed = sorted(place for place in first.keys() | second.keys() if first.get(place) != second.get(place))
    places, token = _page(params, changed)
    blocks = []
    for place in places:
        entry: dict[str, Any] = {"BlockIndex": place}
        if place in first:
            entry["FirstBlockToken"] = _block_token(cloud, str(first_id), place)
        if place in second:
            entry["SecondBlockToken"] = _block_token(cloud, second_id, place)
        blocks.append(entry)
    return {"ChangedBlocks": blocks, **_listing(cloud, row, token)}


@action("ebs", "GetSnapshotBlock", locked=False)
def get_snapshot_block(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """The bytes of one block with their SHA-256."""
    snapshot_id, place = params["SnapshotId"], params["BlockIndex"]
    with cloud.transaction():
        _readable(cloud, snapshot_id)
        digest = cloud.store.block_map(snapshot_id).get(place)
        damaged = cloud.faults.strikes("corrupt-block", "ebs", "GetSnapshotBlock")
    if digest is None:
        raise Refusal("ResourceNotFoundException", f"The snapshot has no block {place}", 404)
    _check_token(cloud, params["BlockToken"], snapshot_id, place)
    try:
        data = cloud.store.get_block(digest)
    except MissingBlock:
        raise Refusal("InternalServerException", "The block can't be read", 500) from None
    if damaged:
        data = bytes([data[0] ^ 0xFF]) + data[1:]
    return {
        "DataLength": len(data),
        "BlockData": data,
        "Checksum": base64.b64encode(bytes.fromhex(digest)).decode(),
        "ChecksumAlgorithm": "SHA256",
    }
