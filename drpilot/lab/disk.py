"""What the sample software keeps on its disks: the mark on a root volume, the data set, the heartbeat.

A guest is what its disk says it is. The root volume begins with one line (`drpilot-guest role=db
volumes=3`). Each data volume begins with a block that lists every other block of its data set with its
SHA-256, so that a database can prove at start that all its bytes are there. One more block holds the
heartbeat: rows of 64 bytes in a ring, each with a counter and the UTC time of the write. The volumes of a
set are written in the order of their index, the first being the log: on volumes taken at one instant no
volume is ahead of the log.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "BLOCK_BYTES",
    "ROWS",
    "ROW_BYTES",
    "DataSet",
    "Heartbeat",
    "Software",
    "data_header",
    "heartbeat_row",
    "newest_heartbeat",
    "read_data_header",
    "read_root",
    "root_block",
    "sample_block",
]

BLOCK_BYTES = 524_288
"""Size of a snapshot block of EBS, so that one block of data is one block of a snapshot."""
ROW_BYTES = 64
ROWS = BLOCK_BYTES // ROW_BYTES
_ROOT = re.compile(rb"drpilot-guest role=(db|app|web|mover) volumes=(\d{1,2})\n")
_DATA_MARK = b"drpilot-data "
_ROW = re.compile(rb"beat (\d{12}) (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)")


@dataclass(frozen=True, slots=True)
class Software:
    """What a root volume carries: the role and how many data volumes it needs."""

    role: str
    volumes: int


@dataclass(frozen=True, slots=True)
class DataSet:
    """The header of one data volume. `blocks` gives the SHA-256 (hex) of each block of data by its index."""

    name: str
    index: int
    of: int
    heartbeat: int
    blocks: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One row: its number, rising by one, and the time of the write as RFC 3339 in UTC."""

    counter: int
    time: str


def root_block(role: str, volumes: int = 0) -> bytes:
    """The first block of a root volume."""
    return f"drpilot-guest role={role} volumes={volumes}\n".encode().ljust(BLOCK_BYTES, b"\0")


def read_root(data: bytes) -> Software | None:
    """What the first bytes of a root volume say; None when they carry no sample software."""
    match = _ROOT.match(data)
    return None if match is None else Software(match[1].decode(), int(match[2]))


def data_header(data_set: DataSet) -> bytes:
    """The first block of a data volume."""
    content = {
        "set": data_set.name,
        "index": data_set.index,
        "of": data_set.of,
        "heartbeat": data_set.heartbeat,
        "blocks": {str(place): digest for place, digest in sorted(data_set.blocks.items())},
    }
    text = _DATA_MARK + json.dumps(content, separators=(",", ":")).encode() + b"\n"
    if len(text) > BLOCK_BYTES:
        raise ValueError("the data set has too many blocks for its header")
    return text.ljust(BLOCK_BYTES, b"\0")


def read_data_header(data: bytes) -> DataSet | None:
    """What the first block of a data volume says; None when it is no such block."""
    line, found, _ = data.partition(b"\n")
    if not found or not line.startswith(_DATA_MARK):
        return None
    try:
        content = json.loads(line[len(_DATA_MARK) :])
        blocks = {int(place): str(digest) for place, digest in content["blocks"].items()}
        return DataSet(content["set"], content["index"], content["of"], content["heartbeat"], blocks)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def sample_block(seed: str, volume: int, place: int) -> bytes:
    """A block of pseudo-random bytes, the same for the same seed, volume and place; compression fails on it."""
    return hashlib.shake_256(f"{seed}/{volume}/{place}".encode()).digest(BLOCK_BYTES)


def heartbeat_row(beat: Heartbeat) -> tuple[int, bytes]:
    """A row's offset in the heartbeat block and its 64 bytes."""
    text = f"beat {beat.counter:012d} {beat.time}".encode()
    return beat.counter % ROWS * ROW_BYTES, text.ljust(ROW_BYTES - 1) + b"\n"


def newest_heartbeat(block: bytes) -> Heartbeat | None:
    """The row with the highest counter in a heartbeat block; None before the first."""
    rows = (_ROW.match(block, start) for start in range(0, len(block), ROW_BYTES))
    found = [Heartbeat(int(row[1]), row[2].decode()) for row in rows if row is not None]
    return max(found, key=lambda beat: beat.counter, default=None)
