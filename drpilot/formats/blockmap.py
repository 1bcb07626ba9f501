"""Block maps: the SHA-256 of each 512 KiB block of a volume, so that two states of it can be compared anywhere.

A map is what makes any pair of clouds incremental: the blocks to move are those in which the map of what the target
holds and the source differ. Blocks of zeros are not stored. In memory a map is one array of 32 bytes a block (64 MiB a
TiB, untouched pages cost nothing); at rest it is

    magic      8 bytes   "DRPMAP" 0x01 0x0a: the format and its version
    length     4 bytes   little-endian, of the head
    head       JSON      size_bytes, block_bytes, stored, facts
    present    1 bit a block, least significant first: is the block stored, that is not all zeros?
    digests    32 bytes for each stored block, in ascending order
    seal       32 bytes  SHA-256 of everything before it
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping

__all__ = [
    "BLOCK_BYTES",
    "ZERO_SHA256",
    "BlockMap",
    "MalformedMap",
    "changed_blocks",
    "decode_map",
    "encode_map",
]

BLOCK_BYTES = 524_288
DIGEST_BYTES = 32
ZERO_SHA256 = hashlib.sha256(bytes(BLOCK_BYTES)).digest()
_MAGIC = b"DRPMAP\x01\n"
_NONE = bytes(DIGEST_BYTES)
_STEP = 1024  # blocks compared at once
_MOST_BYTES = 64 << 40  # EC2's largest volume


class MalformedMap(ValueError):
    """The bytes are no block map, or not a whole one."""


class BlockMap:
    """The digests of a volume of `size_bytes`. `facts` say where the state can be found, such as
    `{"source": "snap-1@home"}`. Setting blocks from several threads is safe as long as each sets its own.
    """

    def __init__(self, size_bytes: int, facts: Mapping[str, str] | None = None) -> None:
        if not 0 <= size_bytes <= _MOST_BYTES:
            raise MalformedMap(f"a volume of {size_bytes} bytes")
        self.size_bytes = size_bytes
        self.facts = dict(facts or {})
        self.count = -(-size_bytes // BLOCK_BYTES)
        self.digests = bytearray(self.count * DIGEST_BYTES)

    def __getitem__(self, index: int) -> bytes | None:
        """The digest of a block; None for a block of zeros, and beyond the end."""
        found = bytes(self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES])
        return found if found not in (_NONE, b"") else None

    def __setitem__(self, index: int, digest: bytes | None) -> None:
        if not 0 <= index < self.count:
            raise IndexError(f"block {index} of a volume of {self.count} blocks")
        if digest == ZERO_SHA256 or digest is None:
            digest = _NONE
        if len(digest) != DIGEST_BYTES:
            raise ValueError(f"a digest of {len(digest)} bytes")
        self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] = digest

    def __eq__(self, other: object) -> bool:
        """The same bytes in a volume of the same size, wherever they lie."""
        return (
            isinstance(other, BlockMap)
            and self.size_bytes == other.size_bytes
            and self.digests == other.digests
        )

    __hash__ = None  # type: ignore[assignment]  # a map changes

    def stored(self) -> Iterator[int]:
        """The blocks that are not all zeros, ascending."""
        view = memoryview(self.digests)
        for start in range(0, self.count, _STEP):
            stop = min(start + _STEP, self.count)
            part = view[start * DIGEST_BYTES : stop * DIGEST_BYTES]
            if part == bytes(len(part)):
                continue
            for index in range(start, stop):
                if self[index] is not None:
                    yield index

    def fingerprint(self) -> str:
        """64 hex digits that name the volume's content: SHA-256 over its size and all digests."""
        whole = hashlib.sha256(f"{self.size_bytes}\n".encode())
        whole.update(self.digests)
        return whole.hexdigest()

    def linear(self, indices: Iterable[int]) -> str:
        """The LINEAR aggregate of some blocks, ascending: base64 of SHA-256 over their digests, as CompleteSnapshot
        of EBS direct takes it. A block of zeros counts with its own digest.
        """
        whole = hashlib.sha256()
        for index in indices:
            whole.update(self[index] or ZERO_SHA256)
        return base64.b64encode(whole.digest()).decode()


def changed_blocks(before: BlockMap, after: BlockMap) -> Iterator[int]:
    """The blocks in which two maps differ, ascending; a block that one of them does not reach counts as zeros."""
    first, second = memoryview(before.digests), memoryview(after.digests)
    for start in range(0, max(before.count, after.count), _STEP):
        place = slice(start * DIGEST_BYTES, (start + _STEP) * DIGEST_BYTES)
        if first[place] == second[place]:
            continue
        for index in range(start, min(start + _STEP, max(before.count, after.count))):
            if before[index] != after[index]:
                yield index


def encode_map(block_map: BlockMap) -> bytes:
    """The map at rest."""
    present = bytearray(-(-block_map.count // 8))
    digests = bytearray()
    view, stored = memoryview(block_map.digests), 0
    for index in block_map.stored():
        present[index >> 3] |= 1 << (index & 7)
        digests += view[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
        stored += 1
    head = json.dumps(
        {
            "size_bytes": block_map.size_bytes,
            "block_bytes": BLOCK_BYTES,
            "stored": stored,
            "facts": block_map.facts,
        },
        sort_keys=True,
    ).encode()
    body = b"".join((_MAGIC, struct.pack("<I", len(head)), head, present, digests))
    return body + hashlib.sha256(body).digest()


def decode_map(data: bytes) -> BlockMap:
    """The map that `encode_map` wrote; raises MalformedMap, which says what is wrong with the bytes."""
    if not data.startswith(_MAGIC[:6]):
        raise MalformedMap("it is no block map")
    if len(data) < len(_MAGIC) + 4 + DIGEST_BYTES:
        raise MalformedMap("it is cut off")
    if not data.startswith(_MAGIC):
        raise MalformedMap(f"it is a block map of version {data[6]}, this drpilot reads version {_MAGIC[6]}")
    body, seal = memoryview(data)[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != seal:
        raise MalformedMap("its seal does not fit: it was cut off or changed")
    (length,) = struct.unpack_from("<I", data, len(_MAGIC))
    start = len(_MAGIC) + 4
    try:
        head = json.loads(bytes(body[start : start + length]))
        if head["block_bytes"] != BLOCK_BYTES:
            raise MalformedMap(f"its blocks have {head['block_bytes']} bytes")
        facts = {str(name): str(value) for name, value in head["facts"].items()}
        size_bytes, stored = int(head["size_bytes"]), int(head["stored"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise MalformedMap(f"its head can't be read: {error}") from None
    place = start + length + -(-size_bytes // (8 * BLOCK_BYTES))  # the bits, a byte for eight blocks
    present, digests = body[start + length : place], body[place:]
    if not start + length <= place == len(body) - stored * DIGEST_BYTES:
        raise MalformedMap(f"a volume of {size_bytes} bytes with {stored} stored blocks takes another length")
    found = BlockMap(size_bytes, facts)
    _fill(found, present, digests)
    return found


def _fill(block_map: BlockMap, present: memoryview, digests: memoryview) -> None:
    place = 0
    for byte, mark in enumerate(present):
        for index in (byte * 8 + bit for bit in range(8) if mark >> bit & 1):
            if index >= block_map.count or place >= len(digests):
                raise MalformedMap("its list of stored blocks is longer than the volume")
            block_map[index] = bytes(digests[place : place + DIGEST_BYTES])
            place += DIGEST_BYTES
    if place != len(digests):
        raise MalformedMap("its list of stored blocks is shorter than its digests")
