"""Raw parts in a bucket: a store of blocks that any site with a bucket can hold, and its map.

    PREFIX/blocks/SHA256      one block, raw, 524,288 bytes; the name is its content
    PREFIX/blocks.map         the block map of the newest copy, written last

A block's name is its content, so a copy that stops half-way harms nothing: the map still names the blocks of the copy
before. Blocks that no map names any more are left; whoever owns the bucket may expire them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from drpilot.base.errors import DrpilotError
from drpilot.domain.ports import CloudError, FailureClass, Site
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

__all__ = ["Parts", "PartsSink", "PartsSource"]

MAP_NAME = "blocks.map"


@dataclass(frozen=True, slots=True)
class Parts:
    """A place in a bucket of a site."""

    site: Site
    bucket: str
    prefix: str
    pace: Pace

    @property
    def name(self) -> str:
        """The place as people write it."""
        return f"s3://{self.bucket}/{self.prefix}@{self.site.name}"

    def key(self, name: str) -> str:
        """The key of a name below the prefix."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def block_key(self, digest: bytes) -> str:
        """The key of a block."""
        return self.key(f"blocks/{digest.hex()}")

    def get(self, key: str) -> bytes:
        """An object's bytes."""
        reply = self.pace.run(lambda: self.site.call("s3", "GetObject", {"Bucket": self.bucket, "Key": key}))
        data: bytes = reply["Body"]
        return data

    def put(self, key: str, data: bytes) -> None:
        """Write an object."""
        given = {"Bucket": self.bucket, "Key": key, "Body": data}
        self.pace.run(lambda: self.site.call("s3", "PutObject", given))

    def read_map(self) -> BlockMap | None:
        """The map of the newest copy; None where there is none. Raises DrpilotError `block-map`."""
        try:
            data = self.get(self.key(MAP_NAME))
        except CloudError as error:
            if error.code in ("NoSuchKey", "404"):
                return None
            raise
        try:
            return decode_map(data)
        except MalformedMap as error:
            raise DrpilotError("block-map", file=f"{self.name}/{MAP_NAME}", what=str(error)) from None


class PartsSource:
    """The newest copy at a place. Raises DrpilotError `no-parts` where there is none."""

    def __init__(self, parts: Parts) -> None:
        self.name = parts.name
        self.pace: Pace | None = parts.pace
        self._parts = parts
        found = parts.read_map()
        if found is None:
            raise DrpilotError("no-parts", place=parts.name)
        self._map = found
        self.identity = f"{parts.name}#{found.fingerprint()}"
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
        return _PartsReader(self._parts)

    def close(self) -> None:
        """Nothing is held."""


class _PartsReader:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def read(self, piece: Piece, into: bytearray) -> bytes:
        wanted = bytes.fromhex(piece.token)
        parts = self._parts
        given = {"Bucket": parts.bucket, "Key": parts.block_key(wanted)}

        def once() -> None:
            data: bytes = parts.site.call("s3", "GetObject", given)["Body"]
            if len(data) != BLOCK_BYTES or hashlib.sha256(data).digest() != wanted:
                message = f"block {piece.index}: the object is not what its name says"
                raise CloudError(
                    FailureClass.TRANSIENT,
                    "ChecksumMismatch",
                    message,
                    happened="no",
                    site=parts.site.name,
                    operation="s3:GetObject",
                )
            into[:] = data

        parts.pace.run(once)
        return wanted

    def close(self) -> None:
        """Nothing is held."""


class PartsSink:
    """A place in a bucket to copy to; the copy that is there is the base."""

    blank = True

    def __init__(self, parts: Parts) -> None:
        self.name = parts.name
        self.pace: Pace | None = parts.pace
        self._parts = parts
        self._held: BlockMap | None = None
        self._looked = False

    def held(self) -> BlockMap | None:
        """The map that lies there."""
        if not self._looked:
            self._held, self._looked = self._parts.read_map(), True
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
        return _PartsWriter(self._parts)

    def sync(self) -> None:
        """An object that was accepted is durable."""

    def finish(self, result: Result) -> dict[str, str]:
        """Write the map: from here on this copy is the newest."""
        facts = {"target": self.name}
        result.block_map.facts.update(facts)
        self._parts.put(self._parts.key(MAP_NAME), encode_map(result.block_map))
        return facts

    def close(self) -> None:
        """Nothing is held."""


class _PartsWriter:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def write(self, index: int, data: memoryview, sha256: bytes) -> None:
        self._parts.put(self._parts.block_key(sha256), bytes(data))

    def clear(self, start: int, stop: int) -> int:
        return 0  # the map says it

    def close(self) -> None:
        """Nothing is held."""
