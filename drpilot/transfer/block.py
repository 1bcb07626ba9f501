"""What a block copy is made of: sources that list and read blocks, sinks that write and clear them.

A source lists in ascending order what it has something to say about. A *whole* listing means that everything it does
not name is zeros; a *partial* one, that it is as in the base it was compared with. Each worker thread has a reader and
a writer of its own, so that neither needs a lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from drpilot.formats.blockmap import BLOCK_BYTES, BlockMap
from drpilot.transfer.pace import Pace

__all__ = [
    "BLOCK_BYTES",
    "ZEROS",
    "BlockReader",
    "BlockSink",
    "BlockSource",
    "BlockWriter",
    "Gone",
    "Listing",
    "Piece",
    "Result",
]

ZEROS = bytes(BLOCK_BYTES)


class Gone(Exception):
    """What an interrupted copy was writing to is no longer there; it has to begin anew."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A block named by a source. `token` is the source's own word for it; `gone` says that it is zeros, which needs no
    reading; `data` are its bytes where the source came by them while listing.
    """

    index: int
    token: str = ""
    gone: bool = False
    data: bytearray | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Listing:
    """The pieces of a source, ascending, each index once. `total` is how many there are, where that is known."""

    pieces: Iterator[Piece]
    partial: bool = False
    total: int | None = None


class BlockReader(Protocol):
    """One thread's way to read."""

    def read(self, piece: Piece, into: bytearray) -> bytes | None:
        """Fill `into` (one block; a short last block is filled up with zeros). The SHA-256 of all of it where the
        source has compared it, else None.
        """

    def close(self) -> None:
        """Let go what it holds."""


class BlockSource(Protocol):
    """Where blocks come from. `identity` is the name of what is read, one for one state of it where that is `steady`:
    what is not may have changed between two tries of a copy, so it is compared again.
    """

    name: str
    identity: str
    steady: bool
    size_bytes: int
    pace: Pace | None  # for a source behind a network; None for one that is as fast as it is

    def list(self, base: BlockMap | None) -> Listing:
        """What to read; with a base, possibly only what differs from it."""

    def reader(self) -> BlockReader:
        """A way for one thread."""

    def close(self) -> None:
        """Let go what it holds."""


class BlockWriter(Protocol):
    """One thread's way to write."""

    def write(self, index: int, data: memoryview, sha256: bytes) -> None:
        """Write one block; when it returns the block counts as written once `BlockSink.sync` has returned too."""

    def clear(self, start: int, stop: int) -> int:
        """Make the blocks from `start` up to `stop` read as zeros; how many blocks had to be written for it."""

    def close(self) -> None:
        """Let go what it holds."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a copy came to, as its sink seals it: the map of the target, and the blocks that were written."""

    block_map: BlockMap
    written: Iterator[int]
    written_count: int


class BlockSink(Protocol):
    """Where blocks go. `blank` says that what is not written reads as zeros (or, with a base, as the base has it)."""

    name: str
    blank: bool
    pace: Pace | None

    def held(self) -> BlockMap | None:
        """What the target is known to hold, where it knows that by itself."""

    def check(self, base: BlockMap) -> None:
        """Raise DrpilotError `base-mismatch` when the target visibly does not hold what `base` says."""

    def begin(self, size_bytes: int, token: str, state: Mapping[str, str]) -> dict[str, str]:
        """Make ready for a volume of `size_bytes`; the answer is kept and handed in as `state` when an interrupted copy
        goes on. `token` is the same for all tries. Raises Gone when what `state` names is no more.
        """

    def writer(self) -> BlockWriter:
        """A way for one thread."""

    def sync(self) -> None:
        """Make durable what has been written."""

    def finish(self, result: Result) -> dict[str, str]:
        """Seal the target; facts that say where it is. Doing it again is harmless."""

    def close(self) -> None:
        """Let go what it holds."""
