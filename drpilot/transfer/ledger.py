"""The ledger of a copy under way: which blocks are finished, so that after kill -9 it goes on where it stopped.

An append-only file of frames, each with its own CRC-32, made durable about once a second and only after the target
has made durable the blocks it names. A torn end is cut off when the file is opened again. Frames, little-endian:

    kind 1 byte, length 4 bytes, CRC-32 4 bytes, payload
    kind 1   JSON: what is copied where
    kind 2   JSON: what the sink wants to know when it goes on
    kind 3   records of 37 bytes: index (4), flags (1: written, 2: zeros), SHA-256 (32)
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from drpilot.base.errors import DrpilotError

__all__ = ["Head", "Ledger", "Record"]

_FRAME = struct.Struct("<BII")
_RECORD = struct.Struct("<IB32s")
_HEAD, _STATE, _RECORDS = 1, 2, 3
_WRITTEN, _ZERO = 1, 2
_MAGIC = b"DRPLEDG\x01"
_MOST_PAYLOAD = 64 << 20


@dataclass(frozen=True, slots=True)
class Head:
    """What is copied where. `base` is the fingerprint of the base's map, or empty; `token` names this copy."""

    source: str
    target: str
    base: str
    size_bytes: int
    token: str

    def same_copy(self, other: Head) -> bool:
        """Whether both are the same copy, begun at different times."""
        return (self.source, self.target, self.base, self.size_bytes) == (
            other.source,
            other.target,
            other.base,
            other.size_bytes,
        )


@dataclass(frozen=True, slots=True)
class Record:
    """A finished block. `digest` is None for zeros; `written` says that it was sent, not found unchanged."""

    index: int
    digest: bytes | None
    written: bool


class Ledger:
    """One copy's ledger, held by one process: raises DrpilotError `copy-busy` where another holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.head: Head | None = None
        self.state: dict[str, str] = {}
        self._packed = bytearray()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise DrpilotError("copy-busy", what=str(path)) from None
        self._read()

    def begin(self, head: Head) -> None:
        """Forget whatever stood there and begin a new copy."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self.head, self.state, self._packed = head, {}, bytearray()
        os.write(self._descriptor, _MAGIC)
        self._append(_HEAD, json.dumps(asdict(head)).encode())
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def keep(self, state: dict[str, str]) -> None:
        """Make durable what the sink wants to know later."""
        self.state = dict(state)
        self._append(_STATE, json.dumps(state).encode())

    def finished(self, records: Iterable[Record]) -> None:
        """Make durable that these blocks are finished."""
        payload = b"".join(
            _RECORD.pack(
                one.index,
                (_WRITTEN if one.written else 0) | (_ZERO if one.digest is None else 0),
                one.digest or b"",
            )
            for one in records
        )
        if payload:
            self._append(_RECORDS, payload)

    def records(self) -> Iterator[Record]:
        """The blocks that earlier tries finished, as they stood when the ledger was opened; the last word counts."""
        for index, flags, digest in _RECORD.iter_unpack(self._packed):
            yield Record(index, None if flags & _ZERO else digest, bool(flags & _WRITTEN))

    def close(self, *, remove: bool = False) -> None:
        """Let go of it; `remove` when the copy is complete."""
        if self._descriptor >= 0:
            if remove:
                self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1

    def _append(self, kind: int, payload: bytes) -> None:
        frame = _FRAME.pack(kind, len(payload), zlib.crc32(payload)) + payload
        view = memoryview(frame)
        while view:
            view = view[os.write(self._descriptor, view) :]
        os.fdatasync(self._descriptor)

    # -- reading ----------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Take in every whole frame and cut off what follows the last one."""
        good = 0
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            if file.read(len(_MAGIC)) == _MAGIC:
                good = len(_MAGIC)
                while (frame := _next_frame(file.read)) is not None:
                    kind, payload = frame
                    self._take(kind, payload)
                    good += _FRAME.size + len(payload)
        if self.head is None:
            good = 0
        os.ftruncate(self._descriptor, good)
        os.lseek(self._descriptor, good, os.SEEK_SET)

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == _HEAD:
            self.head = Head(**json.loads(payload))
        elif kind == _STATE:
            self.state = json.loads(payload)
        elif kind == _RECORDS:
            self._packed += payload


def _next_frame(read: object) -> tuple[int, bytes] | None:
    assert callable(read)
    head = read(_FRAME.size)
    if len(head) < _FRAME.size:
        return None
    kind, length, crc = _FRAME.unpack(head)
    if length > _MOST_PAYLOAD:
        return None
    payload: bytes = read(length)
    if len(payload) < length or zlib.crc32(payload) != crc:
        return None
    return kind, payload
