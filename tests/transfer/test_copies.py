"""Copies between all kinds of sources and targets, against the lab's own account of what it holds."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.formats.blockmap import BLOCK_BYTES, BlockMap
from drpilot.services.blocks import map_of, read_map
from tests.transfer.world import (
    GIB,
    Yard,
    as_numbers,
    block_of,
    map_by_hand,
    overwrite,
    room_taken,
    write_image,
)

IMAGE = {0: 1, 1: 2, 5: 0, 700: 3, 1023: 1, 2046: 4, 2047: 5}
SHORT = {0: 1, 1: 2, 5: 0, 70: 3, 78: 4}
STORED = {index: number for index, number in IMAGE.items() if number}


def digests(blocks: dict[int, int], count: int = 2048) -> dict[int, str]:
    """The digests of an image's blocks by hand."""
    return {index: hashlib.sha256(block_of(number)).hexdigest() for index, number in blocks.items() if number}


def source_of(yard: Yard, kind: str, image: Path) -> str:
    """The image as a source of this kind."""
    if kind == "file":
        return str(image)
    if kind == "stream":
        yard.stdin = io.BytesIO(image.read_bytes())
        return "-"
    target = "snapshot@home" if kind == "snapshot" else f"s3://{yard.bucket()}/images/one@home"
    return yard.copy(image, target).target


def target_of(yard: Yard, kind: str) -> str:
    """A target of this kind; one that is there is full of something else."""
    if kind == "new file":
        return str(yard.path("new.img"))
    if kind == "old file":
        rubbish = dict.fromkeys((0, 2, 6, 7, 8, 1500, 2047), 99)
        return str(write_image(yard.path("old.img"), rubbish))
    return "snapshot@away" if kind == "snapshot" else f"s3://{yard.bucket('away')}/copies@away"


GROUNDS = ("http-fast", "http-sdk", "inprocess")
PAIRS = [
    ("http-fast", source, target)
    for source in ("file", "stream", "snapshot", "parts")
    for target in ("snapshot", "parts", "new file", "old file")
] + [
    (ground, source, target)
    for ground in ("http-sdk", "inprocess")
    for source, target in (
        ("file", "parts"),
        ("snapshot", "snapshot"),
        ("snapshot", "old file"),
        ("parts", "new file"),
    )
]


@pytest.mark.parametrize(("yard", "source", "target"), PAIRS, indirect=["yard"])
def test_any_source_goes_to_any_target(yard: Yard, source: str, target: str) -> None:
    """The target is the image, byte for byte, whatever it held before; only blocks with data are moved."""
    blocks, size_bytes = (SHORT, 79 * BLOCK_BYTES + 5) if source == "stream" else (IMAGE, GIB)
    image = write_image(yard.path("image"), blocks, size_bytes)
    name, into = source_of(yard, source, image), target_of(yard, target)
    made = yard.copy(name, into, size_bytes=size_bytes)
    stored = digests(blocks)
    assert made.copied.tally.written == len(stored)
    assert as_numbers(made.copied.block_map) == stored
    if target == "snapshot":
        assert yard.snapshot_blocks(made.target) == stored
    elif target == "parts":
        keys = [
            one["Key"]
            for page in yard.sites["away"].pages("s3", "ListObjectsV2", {"Bucket": f"bucket-{yard.made}"})
            for one in page["Contents"]
        ]
        names = {f"copies/blocks/{digest}" for digest in stored.values()}
        assert set(keys) == names | {"copies/blocks.map"}
        assert as_numbers(map_of(yard.doors, made.target)) == stored
    else:
        path = Path(made.target)
        assert map_by_hand(path) == map_by_hand(image)
        assert room_taken(path) <= (len(stored) + 1) * BLOCK_BYTES
    assert list(yard.path("transfers").iterdir()) == []


@pytest.mark.parametrize(
    "size_bytes", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 777]
)
def test_odd_sizes_keep_their_length(fast: Yard, size_bytes: int) -> None:
    """Files of any length go through a bucket, a file in place and back, to the byte."""
    image = fast.path("image")
    image.write_bytes(bytes(number % 251 + 1 for number in range(size_bytes)))
    place = f"s3://{fast.bucket()}@home"
    fast.copy(image, place)
    back = fast.path("back")
    back.write_bytes(b"x" * (5 * BLOCK_BYTES))
    fast.copy(place, back)
    fast.copy(image, fast.path("draft"))
    assert back.read_bytes() == fast.path("draft").read_bytes() == image.read_bytes()


def test_only_what_changed_is_moved(yard: Yard) -> None:
    """A pushed volume, changed, is pushed on top of its first snapshot and pulled by its map: changed blocks only."""
    volume, pushed, pulled = yard.path("volume"), yard.path("pushed.map"), yard.path("pulled.map")
    write_image(volume, IMAGE)
    first = yard.copy(volume, "snapshot@home", keep_map=pushed)
    standing = write_image(yard.path("standing"), {3: 77})
    yard.copy(first.target, standing, keep_map=pulled)
    overwrite(volume, {1: 22, 3: 33, 700: 0, 2046: 44})
    changed = {**IMAGE, 1: 22, 3: 33, 700: 0, 2046: 44}

    yard.forget_calls()
    second = yard.copy(volume, "snapshot@home", base=pushed, keep_map=pushed)
    assert yard.calls("home", "PutSnapshotBlock") == 4  # three of data, and zeros where the parent has data
    assert (second.copied.tally.written, second.copied.tally.unchanged) == (4, 3)
    assert yard.snapshot_blocks(second.target) == digests(changed)
    assert second.target != first.target

    yard.forget_calls()
    third = yard.copy(second.target, standing, base=pulled, keep_map=pulled)
    assert yard.calls("home", "ListSnapshotBlocks") == 0
    assert yard.calls("home", "ListChangedBlocks") == 1
    assert yard.calls("home", "GetSnapshotBlock") == 4
    assert third.copied.tally.seen == 4
    assert map_by_hand(standing) == map_by_hand(volume)
    assert read_map(pulled) == read_map(pushed)

    yard.forget_calls()
    again = yard.copy(volume, "snapshot@home", base=pushed)
    assert (again.copied.tally.written, yard.calls("home", "PutSnapshotBlock")) == (0, 0)
    assert yard.snapshot_blocks(again.target) == digests(changed)


def test_a_place_in_a_bucket_is_its_own_base(yard: Yard) -> None:
    """The second copy to the same place uploads what is new, and what pulls from it by a map fetches as little."""
    volume, place = write_image(yard.path("volume"), IMAGE), f"s3://{yard.bucket()}/v@home"
    kept = yard.path("kept.map")
    yard.copy(volume, place)
    yard.copy(place, yard.path("standing"), keep_map=kept)
    overwrite(volume, {2: 66, 700: 0})
    yard.forget_calls()
    second = yard.copy(volume, place)
    assert (second.copied.tally.written, yard.calls("home", "PutObject")) == (1, 2)  # a block, and the map
    yard.forget_calls()
    third = yard.copy(place, yard.path("standing"), base=kept)
    assert (third.copied.tally.seen, yard.calls("home", "GetObject")) == (2, 2)  # the map, and a block
    assert map_by_hand(yard.path("standing")) == map_by_hand(volume)


def test_another_lineage_is_compared_block_by_block(fast: Yard) -> None:
    """Where the clouds can't list what changed, every block is read and only what differs is written."""
    kept = fast.path("kept.map")
    image = write_image(fast.path("image"), IMAGE)
    first = fast.copy(image, "snapshot@home", keep_map=kept)
    fast.copy(first.target, "snapshot@away", keep_map=kept)
    overwrite(image, {0: 11})
    stranger = fast.copy(image, "snapshot@home")
    fast.forget_calls()
    second = fast.copy(stranger.target, "snapshot@away", base=kept)
    assert fast.calls("home", "GetSnapshotBlock") == len(STORED)
    assert (second.copied.tally.written, fast.calls("away", "PutSnapshotBlock")) == (1, 1)
    assert fast.snapshot_blocks(second.target) == digests({**IMAGE, 0: 11})


def test_a_volume_may_grow(fast: Yard) -> None:
    """A base smaller than the source says nothing of the rest: it is cleared where something may be there."""
    small, kept = write_image(fast.path("small"), {1: 1}), fast.path("kept.map")
    standing = write_image(fast.path("standing"), {1: 1, 2050: 9, 4000: 9}, 2 * GIB)
    fast.copy(small, fast.path("other"), keep_map=kept)
    large = write_image(fast.path("large"), {1: 1, 4001: 2}, 2 * GIB)
    done = fast.copy(large, standing, base=kept)
    assert done.copied.tally.written == 1
    assert map_by_hand(standing) == map_by_hand(large)
    bigger = fast.path("bigger.map")
    fast.copy(large, fast.path("other"), keep_map=bigger)
    with pytest.raises(DrpilotError) as caught:
        fast.copy(small, fast.path("other"), base=bigger)
    assert (caught.value.word, "shrink" in caught.value.title) == ("base-mismatch", True)


# -- what is refused --------------------------------------------------------------------------------------


def refused(yard: Yard, *given: str | Path, **more: object) -> DrpilotError:
    """The error a copy ends with."""
    with pytest.raises(DrpilotError) as caught:
        yard.copy(*given, **more)
    return caught.value


def test_a_base_that_lies_is_noticed(fast: Yard) -> None:
    """A device or a parent that does not hold the base is refused before anything is written."""
    image, kept = write_image(fast.path("image"), IMAGE), fast.path("kept.map")
    first = fast.copy(image, "snapshot@home", keep_map=kept)
    other = write_image(fast.path("other"), {0: 55})
    before = other.stat().st_mtime_ns
    assert refused(fast, first.target, other, base=kept).word == "base-mismatch"
    assert refused(fast, first.target, fast.path("nothing"), base=kept).word == "base-mismatch"
    assert other.stat().st_mtime_ns == before
    assert not fast.path("nothing").exists()
    empty = fast.copy(write_image(fast.path("empty"), {}), "snapshot@home").target.split("@")[0]
    assert refused(fast, image, "snapshot@home", base=kept, parent=empty).word == "base-mismatch"
    assert refused(fast, image, "snapshot@away", base=kept).word == "base-mismatch"
    assert refused(fast, image, f"s3://{fast.bucket()}@home", base=kept).word == "base-mismatch"
    assert fast.calls("home", "StartSnapshot") == 2


def test_a_damaged_block_is_never_written(yard: Yard) -> None:
    """A block whose bytes are not what their checksum says is read again, then refused: nothing of it is written."""
    source = yard.copy(write_image(yard.path("image"), {4: 4}), "snapshot@home").target
    yard.control("home", "break", fault="corrupt-block:ebs.GetSnapshotBlock@1-2")
    done = yard.copy(source, yard.path("good"))
    assert done.source_counts is not None
    assert done.source_counts.mismatched == 2
    assert map_by_hand(yard.path("good")) == map_by_hand(yard.path("image"))
    yard.control("home", "break", fault="corrupt-block:ebs.GetSnapshotBlock")
    error = refused(yard, source, yard.path("bad"))
    assert (error.word, error.facts["index"]) == ("block-corrupt", 4)
    assert not yard.path("bad").exists()


def test_a_damaged_object_is_never_written(fast: Yard) -> None:
    """A block in a bucket that is not what its name says is refused, and so is a damaged map."""
    bucket = fast.bucket()
    place = f"s3://{bucket}/p@home"
    fast.copy(write_image(fast.path("image"), {4: 4}), place)
    (digest,) = digests({4: 4}).values()
    given = {"Bucket": bucket, "Key": f"p/blocks/{digest}", "Body": block_of(5)}
    fast.sites["home"].call("s3", "PutObject", given)
    assert refused(fast, place, fast.path("bad")).word == "block-corrupt"
    fast.sites["home"].call("s3", "PutObject", {**given, "Key": "p/blocks.map", "Body": b"DRPMAP"})
    assert refused(fast, place, fast.path("bad")).word == "block-map"


def test_what_can_not_be_copied_is_said(fast: Yard) -> None:
    """Unknown things, wrong directions and sizes that do not fit are refused with their own words."""
    image = write_image(fast.path("image"), IMAGE)
    assert refused(fast, fast.path("none"), "snapshot@home").word == "unknown-file"
    assert refused(fast, "snap-0123456789abcdef0@home", fast.path("x")).word == "unknown-snapshot"
    assert refused(fast, f"s3://{fast.bucket()}/none@home", fast.path("x")).word == "no-parts"
    assert refused(fast, "snapshot@home", fast.path("x")).word == "usage"
    assert refused(fast, image, "snap-0123@home").word == "usage"
    assert refused(fast, image, "-").word == "usage"
    assert refused(fast, image, "snapshot").word == "usage"
    assert refused(fast, "-", fast.path("x")).word == "usage"
    assert refused(fast, image, fast.path("no/such/folder")).word == "unknown-file"
    assert refused(fast, fast.folder, fast.path("x")).word == "device-unusable"
    assert refused(fast, image, "snapshot@home", parent="snap-1").word == "usage"
    started = fast.sites["home"].call("ebs", "StartSnapshot", {"VolumeSize": 1})["SnapshotId"]
    assert refused(fast, f"{started}@home", fast.path("x")).word == "snapshot-not-ready"
    assert not fast.path("x").exists()


def test_a_stream_must_be_as_long_as_it_says(fast: Yard) -> None:
    """A stream that ends early or goes on is not the image, and no file of its name is left."""
    for data in (block_of(1) * 2, block_of(1) * 4):
        fast.stdin = io.BytesIO(data)
        assert refused(fast, "-", fast.path("x"), size_bytes=3 * BLOCK_BYTES).word == "stream-cut"
        assert not fast.path("x").exists()


def test_a_block_read_from_a_map_is_whole(fast: Yard) -> None:
    """The map of a source made by reading it is the one its copy keeps."""
    image, kept = write_image(fast.path("image"), IMAGE), fast.path("kept.map")
    done = fast.copy(image, "snapshot@home", keep_map=kept)
    found = map_of(fast.doors, done.target)
    assert isinstance(found, BlockMap)
    assert found == read_map(kept) == map_by_hand(image)
    assert read_map(kept).facts["target"] == done.target
