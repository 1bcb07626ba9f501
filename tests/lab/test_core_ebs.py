"""EBS direct of the lab: writing and reading the blocks of snapshots."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from tests.lab.core_world import BLOCK, Pair, block_of, checksum, code_of, put


def _start(pair: Pair, **more: Any) -> str:
    return str(pair.client("ebs").start_snapshot(VolumeSize=1, **more)["SnapshotId"])


def _written(pair: Pair, blocks: dict[int, bytes], **more: Any) -> str:
    """A completed snapshot with these blocks."""
    snapshot = _start(pair, **more)
    for place, data in blocks.items():
        put(pair.client("ebs"), snapshot, place, data)
    pair.client("ebs").complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=len(blocks))
    pair.wait(2)
    return snapshot


def _listed(pair: Pair, snapshot: str) -> dict[int, str]:
    blocks = pair.client("ebs").list_snapshot_blocks(SnapshotId=snapshot)["Blocks"]
    return {block["BlockIndex"]: block["BlockToken"] for block in blocks}


def _read(pair: Pair, snapshot: str, place: int, token: str) -> bytes:
    reply = pair.client("ebs").get_snapshot_block(SnapshotId=snapshot, BlockIndex=place, BlockToken=token)
    data: bytes = reply["BlockData"].read()
    assert reply["DataLength"] == len(data) == BLOCK
    return data


def test_written_blocks_are_read_back(pair: Pair) -> None:
    """Blocks are listed in order with tokens and come back with their checksum; EC2 sees the snapshot too."""
    snapshot = _start(pair, Description="seeded", Tags=[{"Key": "a", "Value": "b"}])
    for place in (2047, 3, 0):
        put(pair.client("ebs"), snapshot, place, block_of(place))
    seen = pair.client().describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]
    assert (seen["State"], seen["VolumeSize"], seen["Tags"]) == ("pending", 1, [{"Key": "a", "Value": "b"}])
    done = pair.client("ebs").complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=3)
    assert done["Status"] == "pending"
    pair.wait(2)
    assert pair.client().describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"] == "completed"
    listed = _listed(pair, snapshot)
    assert list(listed) == [0, 3, 2047]
    for place, token in listed.items():
        assert _read(pair, snapshot, place, token) == block_of(place)


def _put_with(pair: Pair, snapshot: str, **change: Any) -> str:
    data = change.pop("data", block_of(1))
    request = {
        "SnapshotId": snapshot,
        "BlockIndex": 1,
        "BlockData": data,
        "DataLength": len(data),
        "Checksum": checksum(data),
        "ChecksumAlgorithm": "SHA256",
        **change,
    }
    return code_of(lambda: pair.client("ebs").put_snapshot_block(**request))


def test_a_wrong_block_is_refused(pair: Pair) -> None:
    """Length, checksum, algorithm and index are checked; nothing of it is kept."""
    snapshot = _start(pair)
    assert _put_with(pair, snapshot, data=b"short") == "ValidationException"
    assert _put_with(pair, snapshot, Checksum=checksum(b"other")) == "ValidationException"
    assert _put_with(pair, snapshot, BlockIndex=2048) == "ValidationException"
    assert _put_with(pair, "snap-0123456789abcdef0") == "ResourceNotFoundException"
    assert pair.home.store.block_map(snapshot) == {}


def test_a_sealed_snapshot_is_not_written(pair: Pair) -> None:
    """After completion no block is taken, and before it none is given."""
    snapshot = _start(pair)
    put(pair.client("ebs"), snapshot, 0, block_of(0))
    listing = {"SnapshotId": snapshot}
    assert code_of(lambda: pair.client("ebs").list_snapshot_blocks(**listing)) == "ValidationException"
    pair.client("ebs").complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=1)
    assert _put_with(pair, snapshot) == "ValidationException"
    pair.wait(2)
    assert _put_with(pair, snapshot) == "ValidationException"
    pair.client("ebs").complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=1)


def test_the_number_of_blocks_must_be_right(pair: Pair) -> None:
    """A block written twice counts once; a wrong count or whole checksum is refused."""
    snapshot, ebs = _start(pair), pair.client("ebs")
    for data in (block_of(1), block_of(2)):
        put(ebs, snapshot, 5, data)
    wrong = {"SnapshotId": snapshot, "ChangedBlocksCount": 2}
    assert code_of(lambda: ebs.complete_snapshot(**wrong)) == "ValidationException"
    whole = base64.b64encode(hashlib.sha256(hashlib.sha256(block_of(2)).digest()).digest()).decode()
    sealed = {"ChecksumAlgorithm": "SHA256", "ChecksumAggregationMethod": "LINEAR"}
    bad = {"SnapshotId": snapshot, "ChangedBlocksCount": 1, "Checksum": checksum(b""), **sealed}
    assert code_of(lambda: ebs.complete_snapshot(**bad)) == "ValidationException"
    ebs.complete_snapshot(**{**bad, "Checksum": whole})


def test_a_child_inherits_its_parent_s_blocks(pair: Pair) -> None:
    """A child holds the parent's blocks and its own; changes between them are exactly its own."""
    parent = _written(pair, {0: block_of(0), 1: block_of(1), 2: block_of(2)})
    child = _written(pair, {1: block_of(11), 9: block_of(9)}, ParentSnapshotId=parent)
    listed = _listed(pair, child)
    assert list(listed) == [0, 1, 2, 9]
    assert _read(pair, child, 0, listed[0]) == block_of(0)
    assert _read(pair, child, 1, listed[1]) == block_of(11)
    changed = pair.client("ebs").list_changed_blocks(FirstSnapshotId=parent, SecondSnapshotId=child)
    rows = {row["BlockIndex"]: row for row in changed["ChangedBlocks"]}
    assert list(rows) == [1, 9]
    assert "FirstBlockToken" in rows[1]
    assert "FirstBlockToken" not in rows[9]
    assert _read(pair, child, 9, rows[9]["SecondBlockToken"]) == block_of(9)
    assert _read(pair, parent, 1, rows[1]["FirstBlockToken"]) == block_of(1)


def test_changes_of_a_volume_are_listed(pair: Pair) -> None:
    """Between two snapshots of a volume: changed, new and zeroed blocks; strangers can't be compared."""
    ec2 = pair.client()
    volume = ec2.create_volume(AvailabilityZone="eu-south-1a", Size=1)["VolumeId"]
    pair.wait(2)
    store = pair.home.store
    for place in (0, 1, 2):
        store.write_volume(volume, place * BLOCK, block_of(place))
    first = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    pair.wait(3)
    store.write_volume(volume, 1 * BLOCK, block_of(11))
    store.write_volume(volume, 2 * BLOCK, bytes(BLOCK))
    store.write_volume(volume, 3 * BLOCK, block_of(3))
    second = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    pair.wait(3)
    ebs = pair.client("ebs")
    rows = ebs.list_changed_blocks(FirstSnapshotId=first, SecondSnapshotId=second)["ChangedBlocks"]
    assert [row["BlockIndex"] for row in rows] == [1, 2, 3]
    assert "SecondBlockToken" not in rows[1]
    alone = ebs.list_changed_blocks(SecondSnapshotId=second)["ChangedBlocks"]
    assert [row["BlockIndex"] for row in alone] == [0, 1, 3]
    stranger = {"FirstSnapshotId": _written(pair, {0: block_of(0)}), "SecondSnapshotId": second}
    assert code_of(lambda: ebs.list_changed_blocks(**stranger)) == "ValidationException"


def test_lineage_survives_a_copy(pair: Pair) -> None:
    """Copies of two snapshots of a volume can be compared on the other site."""
    ec2, away = pair.client(), pair.client("ec2", "away")
    volume = ec2.create_volume(AvailabilityZone="eu-south-1a", Size=1)["VolumeId"]
    pair.wait(2)
    copies = []
    for number in (1, 2):
        pair.home.store.write_volume(volume, number * BLOCK, block_of(number))
        made = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
        pair.wait(3)
        copies.append(away.copy_snapshot(SourceRegion="eu-south-1", SourceSnapshotId=made)["SnapshotId"])
    pair.wait(5)
    rows = pair.client("ebs", "away").list_changed_blocks(
        FirstSnapshotId=copies[0], SecondSnapshotId=copies[1]
    )["ChangedBlocks"]
    assert [row["BlockIndex"] for row in rows] == [2]


def test_blocks_come_in_pages(pair: Pair) -> None:
    """Pages ascend without gap or repetition and start where asked."""
    snapshot, ebs = _start(pair), pair.client("ebs")
    with pair.home.transaction():
        digest = pair.home.store.put_block(block_of(0))
        pair.home.store.set_blocks(snapshot, dict.fromkeys(range(0, 500, 2), digest), own=True)
    ebs.complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=250)
    pair.wait(2)
    found: list[list[int]] = []
    token = None
    while True:
        asked: dict[str, Any] = {"NextToken": token} if token else {}
        page = ebs.list_snapshot_blocks(SnapshotId=snapshot, MaxResults=100, **asked)
        found.append([row["BlockIndex"] for row in page["Blocks"]])
        token = page.get("NextToken")
        if token is None:
            break
    assert [len(page) for page in found] == [100, 100, 50]
    assert [place for page in found for place in page] == list(range(0, 500, 2))
    later = ebs.list_snapshot_blocks(SnapshotId=snapshot, StartingBlockIndex=401)["Blocks"]
    assert later[0]["BlockIndex"] == 402
    assert page["BlockSize"] == BLOCK
    few = {"SnapshotId": snapshot, "MaxResults": 100, "NextToken": "??"}
    assert code_of(lambda: ebs.list_snapshot_blocks(**few)) == "ValidationException"


def test_a_token_opens_one_block_only(pair: Pair) -> None:
    """A token of another block, another snapshot or of nobody is refused; a missing block is not found."""
    one, two = _written(pair, {0: block_of(0), 1: block_of(1)}), _written(pair, {0: block_of(0)})
    tokens, ebs = _listed(pair, one), pair.client("ebs")

    def get(snapshot: str, place: int, token: str) -> str:
        request = {"SnapshotId": snapshot, "BlockIndex": place, "BlockToken": token}
        return code_of(lambda: ebs.get_snapshot_block(**request))

    assert get(one, 1, tokens[0]) == "ValidationException"
    assert get(two, 0, tokens[0]) == "ValidationException"
    assert get(one, 0, "bogus") == "ValidationException"
    assert get(one, 7, tokens[0]) == "ResourceNotFoundException"


def test_a_client_token_starts_one_snapshot(pair: Pair) -> None:
    """The same token gives the same snapshot, and refuses other parameters."""
    assert _start(pair, ClientToken="t") == _start(pair, ClientToken="t")
    other = {"VolumeSize": 2, "ClientToken": "t"}
    assert code_of(lambda: pair.client("ebs").start_snapshot(**other)) == "IdempotentParameterMismatch"


def test_a_snapshot_left_open_fails(pair: Pair) -> None:
    """What is not completed in its timeout ends in error."""
    snapshot = _start(pair, Timeout=10)
    pair.home.advance(601)
    assert pair.client().describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"] == "error"
    assert _put_with(pair, snapshot) == "ValidationException"


@pytest.mark.parametrize(
    "asked",
    [
        {"VolumeSize": 0},
        {"VolumeSize": 1, "Timeout": 5},
        {"VolumeSize": 1, "KmsKeyArn": "arn:aws:kms:eu-south-1:111111111111:key/none"},
        {"VolumeSize": 1, "Tags": [{"Key": "aws:x", "Value": ""}]},
    ],
)
def test_an_impossible_start_is_refused(pair: Pair, asked: dict[str, Any]) -> None:
    """Sizes, timeouts, keys and tags are checked."""
    client = pair.client("ebs")
    with pytest.raises(Exception, match=r"ValidationException|Parameter validation failed"):
        client.start_snapshot(**asked)


def test_a_damaged_block_shows_by_its_checksum(pair: Pair) -> None:
    """The fault corrupt-block hands out wrong bytes with the right checksum, once."""
    snapshot = _written(pair, {0: block_of(0)})
    token = _listed(pair, snapshot)[0]
    with pair.home.transaction():
        pair.home.faults.set("corrupt-block:ebs.GetSnapshotBlock@1")
    assert _read(pair, snapshot, 0, token) != block_of(0)
    assert _read(pair, snapshot, 0, token) == block_of(0)


def test_lost_bytes_are_an_error(pair: Pair) -> None:
    """When the block's file is gone the cloud can't answer."""
    snapshot = _written(pair, {0: block_of(0)})
    token = _listed(pair, snapshot)[0]
    pair.home.store.block_path(pair.home.store.block_map(snapshot)[0]).unlink()
    request = {"SnapshotId": snapshot, "BlockIndex": 0, "BlockToken": token}
    assert code_of(lambda: pair.client("ebs").get_snapshot_block(**request)) == "InternalServerException"
