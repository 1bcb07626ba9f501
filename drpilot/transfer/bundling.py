"""From an image to a bundle: tar, gzip, AES-128-CBC, parts, in one pass and one process.

    reader: holes, SHA-1 of the tar stream, CRC → pool: deflate → writer: AES, parts with SHA-1 → sink

The reader's SHA-1 is the only work that can't be shared out, so it is the speed limit of any bundling. Pieces that are
all zero are deflated once. At most two pieces a worker are under way, so memory does not grow with the image.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from drpilot.__about__ import __version__
from drpilot.base.errors import DrpilotError
from drpilot.formats import seal, tarframe
from drpilot.formats.manifest import Machine, Manifest, Part, Sealed, check_name, write
from drpilot.transfer.codec import (
    GZIP_HEADER,
    PIECE_BYTES,
    PROFILES,
    ZEROS,
    Profile,
    Uplink,
    checksum,
    deflated,
    gzip_trailer,
    window_of,
    zeros,
)
from drpilot.transfer.line import Channel, Line
from drpilot.transfer.newfile import reading
from drpilot.transfer.places import PartSink

__all__ = ["PART_BYTES", "Order", "Progress", "Watch", "bundle", "manifest_name"]

PART_BYTES = 10_485_760
BUNDLER = ("drpilot", __version__, "0")
Progress = Callable[[int, int], None]
"""Told bytes of the image done, and its size."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to make of an image. `cloud` and `owner` are the keys that may open it, `signer` who vouches for it."""

    name: str
    user: str
    cloud: RSAPublicKey
    owner: RSAPublicKey | None = None
    signer: RSAPrivateKey | None = field(default=None, repr=False)
    machine: Machine = field(default_factory=Machine)
    kind: str = "machine"
    profile: str = "fast"
    part_bytes: int = PART_BYTES
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Watch:
    """Who looks on: `told` is told how far it is, `uplink` chooses the codec where the profile is `auto`."""

    told: Progress | None = None
    uplink: Uplink | None = None


def manifest_name(name: str) -> str:
    """The file name of the manifest of bundle `name`, as every tool has it."""
    return f"{name}.manifest.xml"


@dataclass(slots=True)
class _Tar:
    """What the reader found out about the tar stream it gave away."""

    sha1: str = ""
    crc: int = 0
    size_bytes: int = 0


def bundle(image: Path, order: Order, secrets: seal.Secrets, sink: PartSink, watch: Watch) -> Manifest:
    """Bundle the file or block device `image` into `sink`; gives the manifest as it was written.

    The sink is told to discard everything when anything fails. Raises `unknown-file`, `file-unreadable`, `unsafe-name`
    and whatever the sink raises.
    """
    check_name(order.name, "the order")
    with reading(image):
        fd = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = _size(fd, image)
        reader = _Reader(_Image(fd, image, size), order, watch)
        cutter = _Cutter(order, secrets, sink)
        _run(reader, cutter, order.workers)
        manifest = _manifest(order, secrets, size, reader.tar, cutter)
        sink.manifest(manifest_name(order.name), write(manifest, seal.signer(order.signer)))
        return manifest
    except BaseException:
        sink.discard()
        raise
    finally:
        os.close(fd)


def _size(fd: int, image: Path) -> int:
    with reading(image):
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            what = "neither a file nor a block device"
            raise DrpilotError("file-unreadable", path=str(image), what=what)
        return os.lseek(fd, 0, os.SEEK_END)


def _run(reader: _Reader, cutter: _Cutter, workers: int) -> None:
    with ThreadPoolExecutor(workers, "deflate") as pool, Line() as line:
        pieces: Channel[Future[bytes] | bytes] = line.channel(workers + 2)
        line.stage("read", lambda: reader.run(pool, pieces))
        cutter.take(GZIP_HEADER)
        for piece in pieces:
            cutter.take(piece if isinstance(piece, bytes) else piece.result())
        cutter.take(gzip_trailer(reader.tar.crc, reader.tar.size_bytes))
        cutter.close()


def _manifest(order: Order, secrets: seal.Secrets, size: int, tar: _Tar, cutter: _Cutter) -> Manifest:
    return Manifest(
        name=order.name,
        user=order.user,
        size_bytes=size,
        bundled_bytes=cutter.total_bytes,
        tar_sha1=tar.sha1,
        parts=tuple(cutter.parts),
        cloud=seal.sealed(secrets, order.cloud),
        owner=seal.sealed(secrets, order.owner) if order.owner is not None else Sealed(),
        machine=order.machine,
        kind=order.kind,
        bundler=BUNDLER,
    )


@dataclass(frozen=True, slots=True)
class _Image:
    """An open image."""

    fd: int
    path: Path
    size: int


class _Reader:
    """The first stage: the tar stream in pieces, handed to the pool in order."""

    def __init__(self, image: _Image, order: Order, watch: Watch) -> None:
        self.tar = _Tar()
        self._image, self._order, self._watch = image, order, watch
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._before = b""

    def run(self, pool: ThreadPoolExecutor, pieces: Channel[Future[bytes] | bytes]) -> None:
        header = tarframe.header(self._order.name, self._image.size)
        self._give(header, pool, pieces)
        done = 0
        for piece in self._image_pieces():
            self._give(piece, pool, pieces)
            done += len(piece)
            if self._watch.told is not None:
                self._watch.told(done, self._image.size)
        rest = tarframe.trailer_bytes(len(header), self._image.size)
        self._give(bytes(rest), pool, pieces)
        self.tar.sha1 = self._sha1.hexdigest()
        pieces.close()

    def _image_pieces(self) -> Iterator[bytes]:
        with reading(self._image.path):
            data_from, place = 0, 0  # no data before `data_from`
            while place < self._image.size:
                want = min(PIECE_BYTES, self._image.size - place)
                if data_from < place + want:
                    data_from = max(data_from, self._next_data(place))
                piece = ZEROS[:want] if data_from >= place + want else self._read(place, want)
                place += want
                yield piece

    def _next_data(self, place: int) -> int:
        """Where the next data begins at or behind `place`: the size of the image where none does."""
        try:
            return os.lseek(self._image.fd, place, os.SEEK_DATA)
        except OSError as error:
            # ENXIO: nothing but a hole to the end. Others: no holes known here, all is data.
            return self._image.size if error.errno == errno.ENXIO else place

    def _read(self, place: int, want: int) -> bytes:
        piece = os.pread(self._image.fd, want, place)
        while len(piece) < want:
            more = os.pread(self._image.fd, want - len(piece), place + len(piece))
            if not more:
                what = f"it became shorter than {self._image.size} bytes while it was read"
                raise DrpilotError("file-unreadable", path=str(self._image.path), what=what)
            piece += more
        return piece

    def _give(self, piece: bytes, pool: ThreadPoolExecutor, pieces: Channel[Future[bytes] | bytes]) -> None:
        self._sha1.update(piece)
        self.tar.crc = checksum(piece, self.tar.crc)
        self.tar.size_bytes += len(piece)
        if piece == ZEROS:
            pieces.put(zeros(self._profile))
        else:
            if self._watch.uplink is not None and len(piece) == PIECE_BYTES:
                self._watch.uplink.measure(piece)
            pieces.put(pool.submit(deflated, self._profile, piece, self._before))
        self._before = window_of(piece)

    @property
    def _profile(self) -> Profile:
        if self._order.profile == "auto":
            return self._watch.uplink.choice if self._watch.uplink is not None else PROFILES["fast"]
        return PROFILES[self._order.profile]


class _Cutter:
    """The last stage: AES-128-CBC with PKCS#7 padding, cut into parts. A part exists only if it holds a byte."""

    def __init__(self, order: Order, secrets: seal.Secrets, sink: PartSink) -> None:
        self.parts: list[Part] = []
        self.total_bytes = 0
        self._name, self._part_bytes, self._sink = order.name, order.part_bytes, sink
        self._cipher = Cipher(algorithms.AES(secrets.key), modes.CBC(secrets.iv)).encryptor()
        self._packed_bytes = 0
        self._part = bytearray(self._part_bytes)
        self._filled = 0

    def take(self, packed: bytes) -> None:
        self._packed_bytes += len(packed)
        self._append(packed)

    def close(self) -> None:
        padding = 16 - self._packed_bytes % 16
        self._append(bytes([padding]) * padding)
        self._cipher.finalize()
        if self._filled:
            self._cut()

    def _append(self, packed: bytes) -> None:
        """Encrypt into the open part where there is room, else by way of a piece that is cut."""
        if self._filled + len(packed) + 16 <= self._part_bytes:
            self._filled += self._cipher.update_into(packed, memoryview(self._part)[self._filled :])
            return
        data = memoryview(self._cipher.update(packed))
        while data:
            taken = min(self._part_bytes - self._filled, len(data))
            self._part[self._filled : self._filled + taken] = data[:taken]
            self._filled, data = self._filled + taken, data[taken:]
            if self._filled == self._part_bytes:
                self._cut()

    def _cut(self) -> None:
        data, self._part = self._part, bytearray()
        del data[self._filled :]
        name = f"{self._name}.part.{len(self.parts):02d}"
        self.parts.append(Part(name, hashlib.sha1(data, usedforsecurity=False).hexdigest()))
        self.total_bytes += len(data)
        self._sink.part(name, data)
        del data  # the sink's now; one that is done with it has freed it before the next is made
        self._part, self._filled = bytearray(self._part_bytes), 0
