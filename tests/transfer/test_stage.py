"""Staging a volume between two clouds: parts, maps, what a second staging moves, and going on after an interruption."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drpilot.base.clock import Chance, ManualClock
from drpilot.base.errors import DrpilotError
from drpilot.domain.ports import CloudError
from drpilot.formats.blockmap import BLOCK_BYTES, BlockMap
from drpilot.transfer.block import Listing, Piece
from drpilot.transfer.copy import Order, copy
from drpilot.transfer.device import DeviceSource
from drpilot.transfer.ledger import Head, Ledger
from drpilot.transfer.pace import Pace
from drpilot.transfer.shelf import BucketShelf
from drpilot.transfer.snapshots import Ebs, NewSnapshot, SnapshotSink, SnapshotSource
from drpilot.transfer.stage import (
    PART_BLOCKS,
    PART_BYTES,
    StagedSource,
    decode_staged,
    part_name,
    read_staged,
    stage,
)
from tests.transfer.world import GIB, Yard, block_of, overwrite, write_image


class MemoryShelf:
    """Objects in memory; `puts` are the names written, in order, and `room` how many more it takes."""

    name = "memory"

    def __init__(self, room: int = 10**9) -> None:
        self.objects: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.room = room

    def get(self, name: str, span: tuple[int, int] | None = None) -> bytes | None:
        data = self.objects.get(name)
        return data if data is None or span is None else data[span[0] : span[1] + 1]

    def put(self, name: str, data: bytes | bytearray) -> None:
        if self.room <= 0:
            raise OSError("no room")
        self.room -= 1
        self.objects[name] = bytes(data)
        self.puts.append(name)

    def names(self, folder: str) -> frozenset[str]:
        return frozenset(name for name in self.objects if name.startswith(f"{folder}/"))


class MemorySource:
    """Blocks by number; with a base it lists only what differs, as changed-block tracking does."""

    def __init__(self, blocks: dict[int, int], size_bytes: int, *, tracks: bool = True) -> None:
        self.name = self.identity = "memory"
        self.steady, self.pace = True, None
        self.blocks, self.size_bytes, self.tracks = blocks, size_bytes, tracks
        self.reads: list[int] = []

    def list(self, base: BlockMap | None) -> Listing:
        if base is None or not self.tracks:
            return Listing(Piece(index) for index in sorted(self.blocks))
        count = -(-self.size_bytes // BLOCK_BYTES)
        wanted = {index: digest_of(self.blocks.get(index, 0)) for index in range(count)}
        changed = [index for index in range(count) if wanted[index] != base[index]]
        return Listing((Piece(index, gone=index not in self.blocks) for index in changed), partial=True)

    def reader(self) -> MemorySource:
        return self

    def read(self, piece: Piece, into: bytearray) -> None:
        self.reads.append(piece.index)
        into[:] = block_of(self.blocks[piece.index])

    def close(self) -> None:
        """Nothing is held."""


def digest_of(number: int) -> bytes | None:
    """The digest of a block by its number."""
    return hashlib.sha256(block_of(number)).digest() if number else None


def whole(shelf: MemoryShelf, snapshot: str) -> bytes:
    """The volume as whoever imports it reads it: its parts one after the other."""
    staged = read_staged(shelf, snapshot)
    assert staged is not None
    parts = [shelf.objects[staged.object_of(index)] for index in range(staged.parts)]
    spans = [staged.span(index) for index in range(staged.parts)]
    assert [len(part) for part in parts] == [last - first + 1 for first, last in spans]
    return b"".join(parts)


def image(blocks: dict[int, int], size_bytes: int) -> bytes:
    """The bytes of a volume by hand."""
    data = bytearray(size_bytes)
    for index, number in blocks.items():
        start = index * BLOCK_BYTES
        data[start : start + BLOCK_BYTES] = block_of(number)[: size_bytes - start]
    return bytes(data)


SIZES = st.sampled_from(
    [BLOCK_BYTES, PART_BYTES, PART_BYTES + BLOCK_BYTES, 2 * PART_BYTES, 2 * PART_BYTES - 5 * BLOCK_BYTES]
)


@settings(max_examples=15, deadline=None)
@given(st.data(), SIZES, SIZES, st.booleans())
def test_a_staged_volume_is_the_volume_and_so_is_the_next_state(
    data: st.DataObject, first_bytes: int, more_bytes: int, tracks: bool
) -> None:
    """The parts of each of two states joined are that state, with and without tracking of changes; unchanged parts lie
    where the first state put them.
    """

    def some(size_bytes: int) -> dict[int, int]:
        index = st.integers(0, size_bytes // BLOCK_BYTES - 1)
        return data.draw(st.dictionaries(index, st.integers(1, 4), max_size=6))

    shelf = MemoryShelf()
    before = some(first_bytes)
    base, _ = stage(MemorySource(before, first_bytes), shelf, "one")
    assert whole(shelf, "one") == image(before, first_bytes)
    size_bytes = max(first_bytes, more_bytes)
    after = {index: number for index, number in (before | some(size_bytes)).items() if number != 4}
    staged, tally = stage(MemorySource(after, size_bytes, tracks=tracks), shelf, "two", base)
    assert whole(shelf, "two") == image(after, size_bytes)
    assert whole(shelf, "one") == image(before, first_bytes)
    count = -(-size_bytes // BLOCK_BYTES)
    differ = sum(digest_of(before.get(index, 0)) != digest_of(after.get(index, 0)) for index in range(count))
    assert tally.blocks_changed == differ
    assert read_staged(shelf, "two") == staged


def test_only_parts_with_changed_blocks_are_written_again() -> None:
    """One changed block in a volume of ten parts: one block is read and one part written."""
    blocks = {index: 1 + index % 3 for index in range(10 * PART_BLOCKS)}
    shelf, size_bytes = MemoryShelf(), 10 * PART_BYTES
    base, first = stage(MemorySource(blocks, size_bytes), shelf, "one")
    assert (first.parts_written, first.blocks_read) == (10, 10 * PART_BLOCKS)
    shelf.puts.clear()
    source = MemorySource(blocks | {45: 9}, size_bytes)
    staged, second = stage(source, shelf, "two", base)
    assert source.reads == [45]
    assert shelf.puts == [part_name("two", 2), "two/blocks.map"]
    assert (second.parts_written, second.blocks_changed, second.bytes_written) == (1, 1, PART_BYTES)
    assert staged.folders == ("one", "one", "two", *["one"] * 7)


def test_an_interrupted_staging_goes_on_without_reading_the_source_again() -> None:
    """A shelf that fails after 5 parts: no map is there, and the next try reads and writes only what is missing."""
    blocks, size_bytes = dict.fromkeys(range(8 * PART_BLOCKS), 7), 8 * PART_BYTES
    shelf = MemoryShelf(room=5)
    with pytest.raises(OSError, match="no room"):
        stage(MemorySource(blocks, size_bytes), shelf, "one")
    assert read_staged(shelf, "one") is None
    shelf.room, shelf.puts = 100, []
    source = MemorySource(blocks, size_bytes)
    _, tally = stage(source, shelf, "one")
    assert whole(shelf, "one") == image(blocks, size_bytes)
    assert tally.parts_written == 3
    assert len(source.reads) == 3 * PART_BLOCKS


def test_a_base_whose_part_is_gone_is_read_again() -> None:
    """A part of the base that was deleted is written anew from the source, and nothing of the volume is lost."""
    blocks = {index: 1 + index % 3 for index in range(3 * PART_BLOCKS)}
    shelf, size_bytes = MemoryShelf(), 3 * PART_BYTES
    base, _ = stage(MemorySource(blocks, size_bytes), shelf, "one")
    del shelf.objects[part_name("one", 1)]
    staged, tally = stage(MemorySource(blocks | {45: 9}, size_bytes), shelf, "two", base)
    assert whole(shelf, "two") == image(blocks | {45: 9}, size_bytes)
    assert (tally.parts_written, staged.folders) == (2, ("one", "two", "two"))


def test_a_volume_that_grew_keeps_what_it_had() -> None:
    """The short last part of the base is carried on into a longer one."""
    blocks = {index: 1 + index % 3 for index in range(PART_BLOCKS + 5)}
    shelf = MemoryShelf()
    base, _ = stage(MemorySource(blocks, PART_BYTES + 5 * BLOCK_BYTES), shelf, "one")
    stage(MemorySource(blocks | {30: 9}, 2 * PART_BYTES), shelf, "two", base)
    assert whole(shelf, "two") == image(blocks | {30: 9}, 2 * PART_BYTES)


def test_a_damaged_base_is_not_built_upon() -> None:
    """A part of the base that is not what its map says ends the staging, before a map is written."""
    blocks, size_bytes = dict.fromkeys(range(PART_BLOCKS), 1), PART_BYTES
    shelf = MemoryShelf()
    base, _ = stage(MemorySource(blocks, size_bytes), shelf, "one")
    shelf.objects[part_name("one", 0)] = bytes(PART_BYTES)
    with pytest.raises(DrpilotError) as caught:
        stage(MemorySource(blocks | {3: 2}, size_bytes), shelf, "two", base)
    assert caught.value.word == "block-corrupt"
    assert read_staged(shelf, "two") is None


def test_a_part_that_is_not_what_its_map_says_is_not_carried_on() -> None:
    """A flipped byte in a part is found by whoever reads the block."""
    shelf = MemoryShelf()
    staged, _ = stage(MemorySource({0: 1, 5: 2}, PART_BYTES), shelf, "one")
    name = part_name("one", 0)
    shelf.objects[name] = b"\1" + shelf.objects[name][1:]
    pace = Pace(clock_of(), Chance(1))
    source = StagedSource(shelf, staged, pace)
    good, bad = bytearray(BLOCK_BYTES), bytearray(BLOCK_BYTES)
    reader = source.reader()
    assert reader.read(Piece(5), good) == digest_of(2)
    with pytest.raises(CloudError) as caught:
        reader.read(Piece(0), bad)
    assert caught.value.code == "ChecksumMismatch"


@pytest.mark.parametrize("cut", [0, 5, 100, -1], ids=["empty", "magic", "middle", "last"])
def test_a_map_that_is_cut_off_is_said_to_be(cut: int) -> None:
    """A map without its end, or without its folders, is an error that names it."""
    shelf = MemoryShelf()
    stage(MemorySource({0: 1}, PART_BYTES), shelf, "one")
    data = shelf.objects["one/blocks.map"]
    with pytest.raises(DrpilotError) as caught:
        decode_staged(data[:cut], "one", "the map")
    assert caught.value.word == "block-map"


def clock_of() -> ManualClock:
    """A clock that waits for nothing."""
    return ManualClock()


def test_from_a_snapshot_through_a_bucket_to_a_snapshot(fast: Yard) -> None:
    """Two states of a volume carried by EBS direct, a bucket and EBS direct again: the same blocks, and the second time
    only the changed ones.
    """
    first = fast.copy(write_image(fast.path("one.img"), {0: 1, 45: 2, 2047: 3}), "snapshot@home")
    shelf = BucketShelf(fast.sites["away"], fast.bucket("away"), "shop", Pace(fast.clock, Chance(3)))
    one, tally = stage(SnapshotSource(ebs(fast, "home"), first.target.split("@")[0]), shelf, "one")
    assert (tally.parts, tally.parts_written) == (-(-GIB // PART_BYTES), 3)
    assert fast.snapshot_blocks(carried(fast, shelf, "one", None)) == fast.snapshot_blocks(first.target)
    overwrite(fast.path("one.img"), {45: 8, 46: 9})
    second = fast.copy(fast.path("one.img"), "snapshot@home", base=None)
    source = DeviceSource(fast.path("one.img"))
    _, again = stage(source, shelf, "two", one)
    assert (again.parts_written, again.blocks_changed) == (1, 2)
    before = fast.calls("away", "PutSnapshotBlock")
    assert fast.snapshot_blocks(carried(fast, shelf, "two", "one")) == fast.snapshot_blocks(second.target)
    assert fast.calls("away", "PutSnapshotBlock") == before + 2


CARRIED: dict[str, str] = {}


def ebs(yard: Yard, site: str) -> Ebs:
    """EBS direct of a site at a pace of its own."""
    doors = yard.doors
    return Ebs(yard.sites[site], doors.plane(site), Pace(yard.clock, Chance(5)), yard.clock)


def carried(yard: Yard, shelf: BucketShelf, name: str, base: str | None) -> str:
    """A snapshot made on the other side of what is staged, on top of the one that was made of `base`."""
    staged = read_staged(shelf, name)
    assert staged is not None
    before = read_staged(shelf, base) if base is not None else None
    parent = CARRIED[base] if base is not None else None
    sink = SnapshotSink(ebs(yard, "away"), NewSnapshot("carried", parent, name))
    source = StagedSource(shelf, staged, Pace(yard.clock, Chance(7)))
    ledger = Ledger(yard.folder / "transfers" / f"{name}.ledger")
    block_map = before.block_map if before is not None else None
    head = Head(
        source.identity, "away", block_map.fingerprint() if block_map else "", source.size_bytes, name * 8
    )
    done = copy(Order(source, sink, ledger, head, block_map))
    ledger.close(remove=True)
    CARRIED[name] = done.facts["snapshot"]
    return done.facts["target"]


def test_a_file_that_is_no_volume_of_whole_parts(tmp_path: Path) -> None:
    """A device whose size is no multiple of a block: the last part is as short as the device ends."""
    size_bytes = PART_BYTES + 1000
    shelf = MemoryShelf()
    source = DeviceSource(write_image(tmp_path / "odd.img", {0: 1, 20: 2}, size_bytes))
    stage(source, shelf, "one")
    assert whole(shelf, "one") == (tmp_path / "odd.img").read_bytes()
