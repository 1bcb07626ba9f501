"""Deflate and inflate by the fastest library that is installed, and which one to take.

Every piece is deflated by itself and ends on a byte (`Z_SYNC_FLUSH`), so pieces made by several threads, even by
several libraries and levels, join into one gzip member (RFC 1951, RFC 1952). Its matches may reach back into the piece
before, as in any stream. One member only, because some readers stop at the end of the first.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from drpilot.base.clock import Clock

__all__ = [
    "GZIP_HEADER",
    "PIECE_BYTES",
    "PROFILES",
    "ZEROS",
    "Inflater",
    "NotGzip",
    "Profile",
    "Uplink",
    "checksum",
    "deflated",
    "fallback",
    "gzip_trailer",
    "window_of",
    "zeros",
]

PIECE_BYTES = 1 << 20
ZEROS = bytes(PIECE_BYTES)
GZIP_HEADER = (
    b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # no name, no time: equal images with equal keys give equal bundles
)
_LAST_BLOCK = b"\x03\0"


_WINDOW_BYTES = 1 << 15  # how far a match reaches back
_HEAD_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Profile:
    """How to compress: a library with zlib's interface, its level, and what people install to have it.

    `rest` gives the level for what follows a piece's head by how far the head shrank: (ratio up to which, level). All
    of this is measured on a file system of programs. A `memory` (zlib's memLevel) below the usual 8 makes blocks
    shorter, so that their codes fit better; isal's level 3 earns its time on what shrinks little, zlib-ng's 7 on what
    shrinks well.
    """

    name: str
    library: str
    level: int
    package: str = ""
    memory: int = 8
    rest: tuple[tuple[float, int], ...] = ()


PROFILES = {
    "fast": Profile("fast", "isal.isal_zlib", 2, "isal", 3, ((0.6, 2), (0.99, 3), (2.0, 1))),
    "small": Profile("small", "zlib_ng.zlib_ng", 6, "zlib-ng", 7, ((0.3, 7), (2.0, 6))),
    "plain": Profile("plain", "zlib", 6),
}


@cache
def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def fallback(names: tuple[str, ...]) -> tuple[str, ...]:
    """The packages that the profiles `names` would use and that are not installed."""
    missing = (PROFILES[name] for name in names if _library(PROFILES[name].library) is None)
    return tuple(profile.package for profile in missing)


def deflated(profile: Profile, piece: bytes, before: bytes = b"") -> bytes:
    """`piece` as raw deflate blocks that end on a byte; by zlib where the profile's library is missing.

    `before` are the bytes in front of it in the stream, as far as it may refer to them (32 KiB).
    """
    if len(piece) <= _HEAD_BYTES or not profile.rest:
        return _packed(profile, profile.level, piece, before)
    head, whole = _packed(profile, profile.level, piece[:_HEAD_BYTES], before), memoryview(piece)
    ratio = len(head) / _HEAD_BYTES
    level = next((level for most, level in profile.rest if ratio <= most), profile.level)
    return head + _packed(
        profile, level, whole[_HEAD_BYTES:], piece[_HEAD_BYTES - _WINDOW_BYTES : _HEAD_BYTES]
    )


def _packed(profile: Profile, level: int, data: bytes | memoryview, before: bytes) -> bytes:
    library = _library(profile.library)
    window: dict[str, Any] = {"zdict": before} if before else {}
    if library is None:
        packer = zlib.compressobj(profile.level, zlib.DEFLATED, -15, **window)
    else:
        packer = library.compressobj(
            level, zlib.DEFLATED, -15, profile.memory, zlib.Z_DEFAULT_STRATEGY, **window
        )
    return bytes(packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))


def window_of(piece: bytes) -> bytes:
    """The end of a piece, as the next one may refer to it."""
    return piece[-_WINDOW_BYTES:]


@cache
def zeros(profile: Profile) -> bytes:
    """A whole piece of zeros, deflated once."""
    return deflated(profile, ZEROS)


def checksum(piece: bytes, value: int = 0) -> int:
    """The CRC-32 of gzip, carried on."""
    for name in ("isal.isal_zlib", "zlib_ng.zlib_ng"):
        library = _library(name)
        if library is not None:
            return int(library.crc32(piece, value))
    return zlib.crc32(piece, value)


def gzip_trailer(crc: int, size_bytes: int) -> bytes:
    """What ends the member: an empty last block, the CRC-32 and the size modulo 2^32."""
    return _LAST_BLOCK + crc.to_bytes(4, "little") + (size_bytes & 0xFFFFFFFF).to_bytes(4, "little")


# -- inflate ------------------------------------------------------------------------------------------------------


class NotGzip(ValueError):
    """The bytes are no gzip stream, or a damaged one."""


class Inflater:
    """Inflates a gzip stream of any number of members, giving at most one piece of bytes at a time."""

    def __init__(self) -> None:
        self._igzip = _library("isal.igzip_lib")
        self._ng = _library("zlib_ng.zlib_ng")
        self._member: Any = None
        self._members = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What the next bytes of the stream inflate to; raises NotGzip."""
        while data:
            if self._member is None:
                if self._members and data.count(0) == len(data):
                    return  # padding behind the last member, as gzip itself allows
                self._member = self._opened()
            try:
                piece, data = self._some(data)
                while piece:
                    yield piece
                    piece, data = self._some(data)
            except (zlib.error, self._error, EOFError) as error:
                raise NotGzip(str(error)) from error
            if self._member.eof:
                data = self._member.unused_data
                self._member = None
                self._members += 1

    def finish(self) -> None:
        """Say that the stream is over; raises NotGzip where a member has not ended."""
        if self._member is not None or not self._members:
            raise NotGzip("it ends early")

    @property
    def _error(self) -> type[Exception]:
        if self._igzip is not None:
            kind: type[Exception] = self._igzip.error
            return kind
        return zlib.error if self._ng is None else self._ng.error

    def _opened(self) -> Any:
        if self._igzip is not None:
            return self._igzip.IgzipDecompressor(flag=self._igzip.DECOMP_GZIP)
        return (self._ng or zlib).decompressobj(31)

    def _some(self, data: bytes) -> tuple[bytes, bytes]:
        """One piece, and the input that was not taken yet."""
        if self._member.eof:
            return b"", b""
        if self._igzip is None:
            piece = self._member.decompress(data, PIECE_BYTES)
            return piece, self._member.unconsumed_tail
        # igzip keeps what it did not take; it is asked again with nothing until it wants more.
        if not data and self._member.needs_input:
            return b"", b""
        return self._member.decompress(data, PIECE_BYTES), b""


# -- which profile --------------------------------------------------------------------------------------------------


class Uplink:
    """Chooses between `fast` and `small` while a bundle is on its way: the smaller as soon as it keeps the uplink full.

    `measure` tries the smaller codec on real data, `sent` tells what a part took to upload. Until both are known it is
    `fast`, and it stays `fast` where nothing is uploaded: a disk takes more than any codec gives.
    """

    def __init__(self, clock: Clock, workers: int, bytes_per_s: float | None = None) -> None:
        self.clock = clock
        self._workers = workers
        self._uplink = bytes_per_s
        self._small_bytes_per_s: float | None = None

    def measure(self, piece: bytes) -> None:
        """Try the smaller codec once on real data, to know how many bytes a second it gives on this machine."""
        if self._small_bytes_per_s is None:
            began = self.clock.monotonic()
            packed = len(deflated(PROFILES["small"], piece))
            self.rate(packed, self.clock.monotonic() - began)

    def rate(self, packed_bytes: int, seconds: float) -> None:
        """One worker gave `packed_bytes` in `seconds` by the smaller codec."""
        self._small_bytes_per_s = packed_bytes * self._workers / max(seconds, 1e-6)

    def sent(self, size_bytes: int, seconds: float, lanes: int = 1) -> None:
        """A part of `size_bytes` took `seconds` while `lanes` parts were under way together."""
        now = size_bytes * lanes / max(seconds, 1e-6)
        self._uplink = now if self._uplink is None else 0.7 * self._uplink + 0.3 * now

    @property
    def choice(self) -> Profile:
        """The profile for the next piece."""
        if self._uplink is None or self._small_bytes_per_s is None or self._small_bytes_per_s < self._uplink:
            return PROFILES["fast"]
        return PROFILES["small"]
