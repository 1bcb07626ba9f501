"""Raw parts in a bucket: a store of blocks that any site with a bucket can hold, and its map.

    PREFIX/blocks/SHA256      one block, raw, 524,288 bytes; the name is its content
    PREFIX/blocks.map         the block map of the newest copy, written last

A block's name is its content, so a copy that stops half-way harms nothing: the map still names the blocks of the copy
before. Blocks that no map names any more are left; whoever owns the bucket may expire them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from drpilot.base.errors import DrpilotError
from drpilot.domain.ports import CloudError, FailureClass
from drpilot.formats.blockmap import (
    BLOCK_BYTES,
    BlockMap,
    MalformedMap,
    changed_blocks,
    decode_map,
    encode_map,
)
from drpilot.transfer.block import BlockReader, BlockWriter, Listing, Piece, Result
from drpilot.transfer.pace import Pace
from drpilot.transfer.shelf import BucketShelf

__all__ = ["PartsSink", "PartsSource"]

MAP_NAME = "blocks.map"


def _read_map(shelf: BucketShelf) -> BlockMap | None:
    """The map of the newest copy; None where there is none. Raises DrpilotError `block-map`, CloudError."""
    data = shelf.get(MAP_NAME)
    if data is None:
        return None
    try:
        return decode_map(data)
    except MalformedMap as error:
        raise DrpilotError("block-map", file=f"{shelf.name}/{MAP_NAME}", what=str(error)) from None


def _block(digest: bytes) -> str:
    return f"blocks/{digest.hex()}"


class PartsSource:
    """The newest copy at a place. Raises DrpilotError `no-parts` where there is none."""

    def __init__(self, shelf: BucketShelf) -> None:
        self.name = shelf.name
        self.pace: Pace | None = shelf.pace
        self._shelf = shelf
        found = _read_map(shelf)
        if found is None:
            raise DrpilotError("no-parts", place=shelf.name)
        self._map = found
        self.identity = f"{shelf.name}#{found.fingerprint()}"
        self.steady = True
        self.size_bytes = found.size_bytes

    def list(self, base: BlockMap | None) -> Listing:
        """The blocks that differ from the base: both maps are at hand."""
        before = base if base is not None else BlockMap(self.size_bytes)
        indices = [index for index in changed_blocks(before, self._map) if index < self._map.count]
        return Listing(
            (self._piece(index) for index in indices), partial=base is not None, total=len(indices)
        )

    def _piece(self, index: int) -> Piece:
        digest = self._map[index]
        return Piece(index, gone=True) if digest is None else Piece(index, digest.hex())

    def reader(self) -> BlockReader:
        """The site's door is shared by all threads."""
        return _PartsReader(self._shelf)

    def close(self) -> None:
        """Nothing is held."""


class _PartsReader:
    def __init__(self, shelf: BucketShelf) -> None:
        self._shelf = shelf

    def read(self, piece: Piece, into: bytearray) -> bytes:
        wanted = bytes.fromhex(piece.token)
        shelf = self._shelf
        given = {"Bucket": shelf.bucket, "Key": shelf.key(_block(wanted))}

        def once() -> None:
            data: bytes = shelf.site.call("s3", "GetObject", given)["Body"]
            if len(data) != BLOCK_BYTES or hashlib.sha256(data).digest() != wanted:
                message = f"block {piece.index}: the object is not what its name says"
                raise CloudError(
                    FailureClass.TRANSIENT,
                    "ChecksumMismatch",
                    message,
                    happened="no",
                    site=shelf.site.name,
                    operation="s3:GetObject",
                )
            into[:] = data

        shelf.pace.run(once)
        return wanted

    def close(self) -> None:
        """Nothing is held."""


class PartsSink:
    """A place in a bucket to copy to; the copy that is there is the base."""

    blank = True

    def __init__(self, shelf: BucketShelf) -> None:
        self.name = shelf.name
        self.pace: Pace | None = shelf.pace
        self._shelf = shelf
        self._held: BlockMap | None = None
        self._looked = False

    def held(self) -> BlockMap | None:
        """The map that lies there."""
        if not self._looked:
            self._held, self._looked = _read_map(self._shelf), True
        return self._held

    def check(self, base: BlockMap) -> None:
        """A base given by hand must be the copy that lies there."""
        held = self.held()
        if held is None or held != base:
            what = "another copy lies there" if held is not None else "no copy lies there"
            raise DrpilotError("base-mismatch", target=self.name, what=what)

    def begin(self, size_bytes: int, token: str, state: Mapping[str, str]) -> dict[str, str]:
        """Nothing needs to be made ready."""
        return {"place": self.name}

    def writer(self) -> BlockWriter:
        """The site's door is shared by all threads."""
        return _PartsWriter(self._shelf)

    def sync(self) -> None:
        """An object that was accepted is durable."""

    def finish(self, result: Result) -> dict[str, str]:
        """Write the map: from here on this copy is the newest."""
        facts = {"target": self.name}
        result.block_map.facts.update(facts)
        self._shelf.put(MAP_NAME, encode_map(result.block_map))
        return facts

    def close(self) -> None:
        """Nothing is held."""


class _PartsWriter:
    def __init__(self, shelf: BucketShelf) -> None:
        self._shelf = shelf

    def write(self, index: int, data: memoryview, sha256: bytes) -> None:
        self._shelf.put(_block(sha256), bytes(data))

    def clear(self, start: int, stop: int) -> int:
        return 0  # the map says it

    def close(self) -> None:
        """Nothing is held."""
