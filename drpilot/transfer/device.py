"""Devices and files as sources and sinks of blocks.

A file that is not there yet is written as a draft beside its name and takes the name when it is complete. A file or
block device that is there is written in place, and what the source does not have is made zeros: holes are punched
where the file system or the device can, zeros written where not, so that nothing old shines through. Holes of the
source are skipped without reading them (lseek(2), SEEK_DATA; fallocate(2), FALLOC_FL_PUNCH_HOLE).
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from drpilot.base.clock import Chance
from drpilot.base.errors import DrpilotError
from drpilot.formats.blockmap import BLOCK_BYTES, ZERO_SHA256, BlockMap
from drpilot.transfer.block import ZEROS, BlockReader, BlockWriter, Gone, Listing, Piece, Result
from drpilot.transfer.pace import Pace

__all__ = ["DeviceSink", "DeviceSource"]

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_UNABLE = (errno.EOPNOTSUPP, errno.ENODEV, errno.ENOSYS, errno.EINVAL, errno.EPERM)
_CLEAR_BLOCKS = 2048  # a hole of 1 GiB at a time
_SAMPLES = 16


def _unusable(path: Path, error: OSError) -> NoReturn:
    raise DrpilotError("device-unusable", path=str(path), what=error.strerror or str(error)) from error


def _extents(descriptor: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """The blocks that may hold data, as ranges; all of them where holes can't be seen."""
    count, place = -(-size_bytes // BLOCK_BYTES), 0
    while place < size_bytes:
        try:
            start = os.lseek(descriptor, place, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            if error.errno not in _UNABLE:
                raise
            start, end = place, size_bytes
        first = max(start // BLOCK_BYTES, -(-place // BLOCK_BYTES))
        last = min(-(-end // BLOCK_BYTES), count)
        if last > first:
            yield first, last
        place = max(last * BLOCK_BYTES, end)


def _filled(descriptor: int, index: int, into: bytearray) -> int:
    """Read a block; what lies beyond the end is zeros. The number of bytes read."""
    view, place = memoryview(into), 0
    while place < BLOCK_BYTES:
        count = os.preadv(descriptor, [view[place:]], index * BLOCK_BYTES + place)
        if count == 0:
            break
        place += count
    if place < BLOCK_BYTES:
        view[place:] = ZEROS[place:]
    return place


class DeviceSource:
    """A device or a file; nobody may write to it meanwhile."""

    def __init__(self, path: Path) -> None:
        self.name = self.identity = str(path)
        self.steady = False
        self.pace: Pace | None = None
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise DrpilotError("unknown-file", file=str(path)) from None
        except OSError as error:
            _unusable(path, error)
        mode = os.fstat(self._descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            os.close(self._descriptor)
            raise DrpilotError("device-unusable", path=str(path), what="neither a file nor a block device")
        self.size_bytes = os.lseek(self._descriptor, 0, os.SEEK_END)

    def list(self, base: BlockMap | None) -> Listing:
        """Every block that is not a hole: only reading tells what changed."""
        ranges = list(_extents(self._descriptor, self.size_bytes))
        pieces = (Piece(index) for first, last in ranges for index in range(first, last))
        return Listing(pieces, total=sum(last - first for first, last in ranges))

    def reader(self) -> BlockReader:
        """Reads at offsets: one descriptor serves all threads."""
        return _DeviceReader(self._descriptor, self._path)

    def close(self) -> None:
        """Close it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _DeviceReader:
    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path

    def read(self, piece: Piece, into: bytearray) -> bytes | None:
        try:
            _filled(self._descriptor, piece.index, into)
        except OSError as error:
            _unusable(self._path, error)
        return None

    def close(self) -> None:
        """The source closes the descriptor."""


class DeviceSink:
    """A device or a file to be written."""

    def __init__(self, path: Path, chance: Chance) -> None:
        self.name = str(path)
        self.pace: Pace | None = None
        self.blank = not path.exists()
        self._path = path
        self._draft = path.with_name(f".{path.name}.drpilot-draft")
        self._chance = chance
        self._descriptor = -1
        self._size_bytes = 0
        if self.blank and not path.parent.is_dir():
            raise DrpilotError("unknown-file", file=str(path.parent))

    def held(self) -> BlockMap | None:
        """A device does not know; the base says it."""
        return None

    def check(self, base: BlockMap) -> None:
        """Some blocks of the base, chosen at random, must be on the device."""
        if self.blank:
            raise DrpilotError("base-mismatch", target=self.name, what="it is not there yet")
        stored, buffer = list(base.stored()), bytearray(BLOCK_BYTES)
        picked = {stored[self._chance.bits(40) % len(stored)] for _ in range(_SAMPLES)} if stored else set()
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            _unusable(self._path, error)
        try:
            for index in sorted(picked):
                _filled(descriptor, index, buffer)
                if hashlib.sha256(buffer).digest() != base[index]:
                    raise DrpilotError(
                        "base-mismatch",
                        target=self.name,
                        what=f"block {index} is another (of {len(picked)} looked at)",
                    )
        except OSError as error:
            _unusable(self._path, error)
        finally:
            os.close(descriptor)

    def begin(self, size_bytes: int, token: str, state: Mapping[str, str]) -> dict[str, str]:
        """Open it, exclusively where it is a block device: one that is mounted is refused."""
        self._size_bytes = size_bytes
        if state.get("draft"):
            self.blank = True
            if (
                self._path.exists() and not self._draft.exists()
            ):  # it had its name already when we were interrupted
                self._draft = self._path
            elif not self._draft.exists():
                raise Gone(f"{self._draft} is gone")
        target = self._draft if self.blank else self._path
        try:
            mode = target.stat().st_mode if target.exists() else stat.S_IFREG
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                raise DrpilotError(
                    "device-unusable", path=self.name, what="neither a file nor a block device"
                )
            flags = os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if stat.S_ISBLK(mode) else os.O_CREAT)
            fresh = os.O_TRUNC if self.blank and not state else 0
            self._descriptor = os.open(target, flags | fresh, 0o600)
            if stat.S_ISREG(mode):
                os.ftruncate(self._descriptor, size_bytes)
            room = os.lseek(self._descriptor, 0, os.SEEK_END)
        except OSError as error:
            _unusable(self._path, error)
        if room < size_bytes:
            raise DrpilotError("target-too-small", target=self.name, have_bytes=room, need_bytes=size_bytes)
        return {"draft": str(self._draft)} if self.blank else {"in_place": "yes"}

    def writer(self) -> BlockWriter:
        """Writes at offsets: one descriptor serves all threads."""
        return _DeviceWriter(self._descriptor, self._path, self._size_bytes)

    def sync(self) -> None:
        """What was written survives a power cut from here on."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            _unusable(self._path, error)

    def finish(self, result: Result) -> dict[str, str]:
        """Give a draft its name."""
        self.sync()
        if self.blank and self._draft != self._path:
            try:
                os.replace(self._draft, self._path)
                folder = os.open(self._path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
            except OSError as error:
                _unusable(self._path, error)
        return {"target": self.name}

    def close(self) -> None:
        """Close it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _DeviceWriter:
    def __init__(self, descriptor: int, path: Path, size_bytes: int) -> None:
        self._descriptor = descriptor
        self._path = path
        self._size_bytes = size_bytes

    def write(self, index: int, data: memoryview, sha256: bytes) -> None:
        start = index * BLOCK_BYTES
        rest = data[: max(0, self._size_bytes - start)]
        try:
            while rest:
                count = os.pwrite(self._descriptor, rest, start)
                rest, start = rest[count:], start + count
        except OSError as error:
            _unusable(self._path, error)

    def clear(self, start: int, stop: int) -> int:
        for first in range(start, stop, _CLEAR_BLOCKS):
            last = min(first + _CLEAR_BLOCKS, stop)
            end = min(last * BLOCK_BYTES, self._size_bytes)
            if not _punched(self._descriptor, first * BLOCK_BYTES, end - first * BLOCK_BYTES):
                for index in range(first, last):
                    self.write(index, memoryview(ZEROS), ZERO_SHA256)
        return 0

    def close(self) -> None:
        """The sink closes the descriptor."""


def _punched(descriptor: int, start: int, length: int) -> bool:
    """Whether a hole could be punched; the range then reads as zeros."""
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None, use_errno=True)
        punch = libc.fallocate64 if hasattr(libc, "fallocate64") else libc.fallocate
        punch.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        return bool(punch(descriptor, _PUNCH_HOLE | _KEEP_SIZE, start, length) == 0)
    return False
