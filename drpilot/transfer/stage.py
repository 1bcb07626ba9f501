"""The stage: a volume's bytes in a bucket between two unlike clouds, in parts that ImportVolume takes as they are.

    PREFIX/SNAPSHOT/000000      part 0: 10 MiB of the volume, raw; the last one may be shorter
    PREFIX/SNAPSHOT/blocks.map  the block map, written last: with it the snapshot is staged
    PREFIX/zeros                10 MiB of zeros, named by every part without data

A part that is as in an earlier snapshot stays where that one put it; the map says in whose folder each part lies. So a
second staging writes only the parts in which blocks changed, and who reads may fetch single blocks by range. It is
written either by whoever reads the snapshot's blocks through the cloud, or by a mover on a machine beside the volume.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from drpilot.base.errors import DrpilotError
from drpilot.domain.ports import CloudError, FailureClass
from drpilot.formats.blockmap import (
    BLOCK_BYTES,
    ZERO_SHA256,
    BlockMap,
    MalformedMap,
    changed_blocks,
    decode_map,
    encode_map,
)
from drpilot.transfer.block import ZEROS, BlockReader, BlockSource, Listing, Piece
from drpilot.transfer.pace import Pace

__all__ = [
    "MAP_NAME",
    "PART_BLOCKS",
    "PART_BYTES",
    "ZEROS_NAME",
    "Shelf",
    "Staged",
    "StagedSource",
    "Staging",
    "part_name",
    "read_staged",
    "stage",
]

PART_BLOCKS = 20
PART_BYTES = PART_BLOCKS * BLOCK_BYTES
MAP_NAME = "blocks.map"
ZEROS_NAME = "zeros"
_FOLDERS = "folders"
_LANES = 4  # parts under way together: 40 MiB of memory


def part_name(folder: str, index: int) -> str:
    """The name of a part below the prefix."""
    return f"{folder}/{index:06d}"


class Shelf(Protocol):
    """Objects below a prefix, by name. `get` and `put` raise CloudError; a second `put` replaces the first."""

    @property
    def name(self) -> str:
        """The place as people write it."""

    def get(self, name: str, span: tuple[int, int] | None = None) -> bytes | None:
        """An object's bytes, or those of `span` (first, last, both included); None where there is no such object."""

    def put(self, name: str, data: bytes | bytearray) -> None:
        """Write an object; it is whole or not there."""

    def names(self, folder: str) -> frozenset[str] | None:
        """The names that lie in a folder; None where they can't be listed."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A staged snapshot: its block map, and for each part the folder it lies in (empty: it is zeros)."""

    snapshot: str
    block_map: BlockMap
    folders: tuple[str, ...]

    @property
    def parts(self) -> int:
        """How many parts the volume has."""
        return len(self.folders)

    def span(self, index: int) -> tuple[int, int]:
        """First and last byte of a part in the volume, both included."""
        start = index * PART_BYTES
        return start, min(start + PART_BYTES, self.block_map.size_bytes) - 1

    def object_of(self, index: int) -> str:
        """The name of the object that holds a part."""
        folder = self.folders[index]
        return part_name(folder, index) if folder else ZEROS_NAME

    def encoded(self) -> bytes:
        """The map at rest, with the folders among its facts, run by run."""
        runs = [[folder, sum(1 for _ in run)] for folder, run in groupby(self.folders)]
        self.block_map.facts[_FOLDERS] = json.dumps(runs, separators=(",", ":"))
        return encode_map(self.block_map)


def read_staged(shelf: Shelf, snapshot: str) -> Staged | None:
    """What is staged of a snapshot; None where it is not, or not completely. Raises DrpilotError `block-map`."""
    data = shelf.get(f"{snapshot}/{MAP_NAME}")
    return None if data is None else decode_staged(data, snapshot, f"{shelf.name}/{snapshot}/{MAP_NAME}")


def decode_staged(data: bytes, snapshot: str, file: str) -> Staged:
    """A staged snapshot's map from its bytes; raises DrpilotError `block-map`."""
    try:
        block_map = decode_map(data)
        runs = json.loads(block_map.facts.pop(_FOLDERS))
        folders = tuple(str(folder) for folder, count in runs for _ in range(int(count)))
        if len(folders) != -(-block_map.size_bytes // PART_BYTES):
            raise MalformedMap(f"it names {len(folders)} parts")
    except (MalformedMap, KeyError, ValueError, TypeError) as error:
        raise DrpilotError("block-map", file=file, what=str(error)) from None
    return Staged(snapshot, block_map, folders)


@dataclass(slots=True)
class Staging:
    """Progress of a staging: parts done of all, blocks read and found changed, parts written and their bytes."""

    parts: int
    done: int = 0
    blocks_read: int = 0
    blocks_changed: int = 0
    parts_written: int = 0
    bytes_written: int = 0


def stage(
    source: BlockSource,
    shelf: Shelf,
    snapshot: str,
    base: Staged | None = None,
    told: Callable[[Staging], None] = lambda _: None,
) -> tuple[Staged, Staging]:
    """Put all of `source` onto the shelf as `snapshot`, writing only what is not there by `base` or an earlier try.

    Repeating it after an interruption goes on: parts of this snapshot that lie there are read back instead of the
    source. Raises CloudError and DrpilotError.
    """
    work = _Work(source, shelf, snapshot, base)
    groups = _grouped(work.listing.pieces, work.tally.parts)
    with ThreadPoolExecutor(max_workers=_LANES, thread_name_prefix="drpilot-stage") as pool:
        for window in _windows(groups):
            for part in pool.map(work.carry, window):
                work.note(part)
                told(work.tally)
    staged = Staged(snapshot, work.block_map, tuple(work.folders))
    if "" in staged.folders:
        _put_zeros(shelf)
    shelf.put(f"{snapshot}/{MAP_NAME}", staged.encoded())
    return staged, work.tally


def _put_zeros(shelf: Shelf) -> None:
    if shelf.get(ZEROS_NAME, (0, 0)) is None:
        shelf.put(ZEROS_NAME, bytes(PART_BYTES))


def _windows(groups: Iterator[_Group], size: int = 2 * _LANES) -> Iterator[list[_Group]]:
    """The groups a few at a time, so that a listing is never held whole."""
    window: list[_Group] = []
    for group in groups:
        window.append(group)
        if len(window) == size:
            yield window
            window = []
    yield window


@dataclass(frozen=True, slots=True)
class _Group:
    """What the source has to say about one part."""

    index: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """A part that is done: its folder, the digests of its blocks, and what it took."""

    index: int
    folder: str
    digests: tuple[bytes | None, ...]
    blocks_read: int = 0
    written: int = 0


def _grouped(pieces: Iterator[Piece], parts: int) -> Iterator[_Group]:
    """Every part once, ascending, with its pieces."""
    following = 0
    for index, group in groupby(pieces, lambda piece: piece.index // PART_BLOCKS):
        for empty in range(following, index):
            yield _Group(empty, ())
        yield _Group(index, tuple(group))
        following = index + 1
    for empty in range(following, parts):
        yield _Group(empty, ())


def _kept(shelf: Shelf, base: Staged | None) -> frozenset[str] | None:
    """The parts of the base that are there; None where that can't be told, or there is no base."""
    if base is None:
        return None
    listed = [shelf.names(folder) for folder in dict.fromkeys(base.folders) if folder]
    return (
        None if None in listed else frozenset[str]().union(*(names for names in listed if names is not None))
    )


class _Work:
    """One try of a staging."""

    def __init__(self, source: BlockSource, shelf: Shelf, snapshot: str, base: Staged | None) -> None:
        if base is not None and base.block_map.size_bytes > source.size_bytes:
            base = None  # volumes don't shrink; whatever this is, it is no earlier state
        self._source, self._shelf, self._snapshot, self._base = source, shelf, snapshot, base
        facts = {"source": source.name, **({"base": base.snapshot} if base is not None else {})}
        self.block_map = BlockMap(source.size_bytes, facts)
        self.tally = Staging(-(-source.size_bytes // PART_BYTES))
        self.folders = [""] * self.tally.parts
        self._there = shelf.names(snapshot) or frozenset[str]()
        self._kept = _kept(shelf, base)
        # Only what changed is listed where all the rest can be taken from the base.
        whole = base is not None and all(self._lies(base, index) for index in range(base.parts))
        self.listing: Listing = source.list(base.block_map if base is not None and whole else None)

    def carry(self, group: _Group) -> _Part:
        """One part, in a thread of its own."""
        index, count = group.index, self._blocks(group.index)
        held = self._held(index, count)
        if self.listing.partial and not group.pieces and held is not None and self._same_length(index):
            return _Part(index, held[0], held[1])
        if part_name(self._snapshot, index) in self._there:
            found = self._read_back(index)
            if found is not None:
                return _Part(index, self._snapshot, _digests(found))
        buffer, read = self._buffer(group, held)
        digests = _digests(buffer)
        last_short = len(buffer) < PART_BYTES
        if held is not None and held[1] == digests and self._same_length(index):
            return _Part(index, held[0], digests, read)
        if not any(digests) and not last_short:
            return _Part(index, "", digests, read)
        self._shelf.put(part_name(self._snapshot, index), buffer)
        return _Part(index, self._snapshot, digests, read, len(buffer))

    def note(self, part: _Part) -> None:
        """Enter a finished part."""
        tally = self.tally
        self.folders[part.index] = part.folder
        for place, digest in enumerate(part.digests, part.index * PART_BLOCKS):
            self.block_map[place] = digest
            before = self._base.block_map[place] if self._base is not None else None
            tally.blocks_changed += digest != before
        tally.done += 1
        tally.blocks_read += part.blocks_read
        tally.parts_written += part.written > 0
        tally.bytes_written += part.written

    def _blocks(self, index: int) -> int:
        return min(PART_BLOCKS, self.block_map.count - index * PART_BLOCKS)

    def _length(self, index: int) -> int:
        return min(PART_BYTES, self._source.size_bytes - index * PART_BYTES)

    def _same_length(self, index: int) -> bool:
        """Whether the base's part is as long as ours: the last one of a volume that grew is not."""
        base = self._base
        if base is None or index >= base.parts:
            return False
        first, last = base.span(index)
        return last - first + 1 == self._length(index)

    def _lies(self, base: Staged, index: int) -> bool:
        """Whether a part of the base is there, as far as that can be told."""
        folder = base.folders[index]
        return not folder or self._kept is None or part_name(folder, index) in self._kept

    def _held(self, index: int, count: int) -> tuple[str, tuple[bytes | None, ...]] | None:
        """Folder and digests of a part as the base has it."""
        if self._base is None or index >= self._base.parts:
            return None
        if not self._lies(self._base, index):
            return None
        first = index * PART_BLOCKS
        return self._base.folders[index], tuple(self._base.block_map[first + place] for place in range(count))

    def _read_back(self, index: int) -> bytes | None:
        data = self._shelf.get(part_name(self._snapshot, index))
        return data if data is not None and len(data) == self._length(index) else None

    def _buffer(
        self, group: _Group, held: tuple[str, tuple[bytes | None, ...]] | None
    ) -> tuple[bytearray, int]:
        """The bytes of a part: what the base has, where only changes are listed, with the source's blocks put in."""
        length = self._length(group.index)
        buffer = bytearray(length)
        if self.listing.partial and held is not None and any(held[1]):
            assert self._base is not None
            before = self._shelf.get(self._base.object_of(group.index))
            found = () if before is None else _digests(before)
            if before is None or found + (None,) * (len(held[1]) - len(found)) != held[1]:
                name = f"{self._shelf.name}/{self._base.object_of(group.index)}"
                raise DrpilotError(
                    "block-corrupt", name=name, index=group.index, why="it is not what its map says"
                )
            buffer[: len(before)] = before[:length]
        reader: BlockReader | None = None
        read, block = 0, bytearray(BLOCK_BYTES)
        try:
            for piece in group.pieces:
                data: bytes | bytearray = ZEROS
                if not piece.gone and piece.data is None:
                    reader = reader or self._source.reader()
                    reader.read(piece, block)
                    data, read = block, read + 1
                elif piece.data is not None:
                    data, read = piece.data, read + 1
                start = (piece.index - group.index * PART_BLOCKS) * BLOCK_BYTES
                buffer[start : start + BLOCK_BYTES] = data[: length - start]
        finally:
            if reader is not None:
                reader.close()
        return buffer, read


def _digests(part: bytes | bytearray) -> tuple[bytes | None, ...]:
    """The SHA-256 of each block of a part, a short last one filled up with zeros; None for zeros."""
    found: list[bytes | None] = []
    for start in range(0, len(part), BLOCK_BYTES):
        # A copy is cheap; comparing a memoryview goes item by item.
        whole = bytes(part[start : start + BLOCK_BYTES]).ljust(BLOCK_BYTES, b"\0")
        found.append(None if whole == ZEROS else hashlib.sha256(whole).digest())
    return tuple(found)


class StagedSource:
    """A staged snapshot as a source of blocks: with a base, the blocks in which the two maps differ."""

    def __init__(self, shelf: Shelf, staged: Staged, pace: Pace) -> None:
        self.name = f"{staged.snapshot} staged at {shelf.name}"
        self.identity = f"{shelf.name}/{staged.snapshot}#{staged.block_map.fingerprint()}"
        self.steady = True
        self.pace: Pace | None = pace
        self.size_bytes = staged.block_map.size_bytes
        self._shelf, self._staged = shelf, staged

    def list(self, base: BlockMap | None) -> Listing:
        """What differs from the base: both maps are at hand."""
        after = self._staged.block_map
        before = base if base is not None else BlockMap(self.size_bytes)
        indices = [index for index in changed_blocks(before, after) if index < after.count]
        pieces = (Piece(index, gone=after[index] is None) for index in indices)
        return Listing(pieces, partial=base is not None, total=len(indices))

    def reader(self) -> BlockReader:
        """The shelf is shared by all threads."""
        return _StagedReader(self._shelf, self._staged, self.pace)

    def close(self) -> None:
        """Nothing is held."""


class _StagedReader:
    def __init__(self, shelf: Shelf, staged: Staged, pace: Pace | None) -> None:
        self._shelf, self._staged, self._pace = shelf, staged, pace

    def read(self, piece: Piece, into: bytearray) -> bytes:
        staged = self._staged
        index, wanted = piece.index // PART_BLOCKS, staged.block_map[piece.index] or ZERO_SHA256
        start = piece.index % PART_BLOCKS * BLOCK_BYTES
        first, last = staged.span(index)
        span = (start, min(start + BLOCK_BYTES - 1, last - first))

        def once() -> None:
            data = self._shelf.get(staged.object_of(index), span) or b""
            into[:] = data.ljust(BLOCK_BYTES, b"\0")
            if len(into) != BLOCK_BYTES or hashlib.sha256(into).digest() != wanted:
                message = f"block {piece.index} of {staged.snapshot}: the part is not what its map says"
                raise CloudError(
                    FailureClass.TRANSIENT,
                    "ChecksumMismatch",
                    message,
                    happened="no",
                    site=self._shelf.name,
                    operation="s3:GetObject",
                )

        if self._pace is None:
            once()
        else:
            self._pace.run(once)
        return wanted

    def close(self) -> None:
        """Nothing is held."""
