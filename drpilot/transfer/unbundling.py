"""From a bundle back to its image: every part checked, every announcement of the manifest held against what comes.

    parts: SHA-1, AES → inflate, bounded → SHA-1 of the tar stream, tar frame, sink

Nothing here trusts the manifest's numbers with memory or disk: pieces are bounded, the stream may be only a little
longer than the image announced, and zeros are never written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from drpilot.base.errors import DrpilotError
from drpilot.formats import seal
from drpilot.formats.manifest import Manifest, Part
from drpilot.formats.seal import Secrets
from drpilot.formats.tarframe import BadFrame, Unframer
from drpilot.transfer.bundling import Progress
from drpilot.transfer.codec import ZEROS, Inflater, NotGzip
from drpilot.transfer.line import Channel, Line
from drpilot.transfer.newfile import NewFile
from drpilot.transfer.places import PartSource

__all__ = ["ImageFile", "ImageSink", "Nowhere", "check_signature", "extract", "secrets_of", "unbundle"]

_DEPTH = 4  # pieces of at most 1 MiB between two stages
_SLACK_BYTES = 32 << 20  # headers, the map of a sparse image, padding


class ImageSink(Protocol):
    """Takes an image."""

    def write(self, offset: int, data: bytes) -> None:
        """Take data that is not all zero; what is never given is zero."""


class Nowhere:
    """Takes an image and forgets it."""

    def write(self, offset: int, data: bytes) -> None:
        """Forget."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image as a new, sparse file."""

    file: NewFile

    def write(self, offset: int, data: bytes) -> None:
        """Write at its place."""
        self.file.write(offset, data)


# -- keys -----------------------------------------------------------------------------------------------------------


def secrets_of(manifest: Manifest, key: RSAPrivateKey, key_name: str) -> tuple[Secrets, str]:
    """The bundle's AES key by the private key of its `owner` or its `cloud`, and which it was; raises `wrong-key`."""
    for who, box in (("owner", manifest.owner), ("cloud", manifest.cloud)):
        found = seal.opened(box, key) if box.key else None
        if found is not None:
            return found, who
    why = (
        ""
        if manifest.owner.key
        else "the bundle was made without its owner's certificate: only its cloud can open it"
    )
    raise DrpilotError("wrong-key", key=key_name, name=manifest.name, user=manifest.user, why=why)


def check_signature(manifest: Manifest, public: RSAPublicKey, file: str, key_name: str) -> None:
    """See that the holder of `public` signed the manifest as it stands; raises `signature-wrong`."""
    if not seal.signs(manifest.signature, manifest.signed, public):
        raise DrpilotError("signature-wrong", file=file, key=key_name)


# -- the pipeline ---------------------------------------------------------------------------------------------------


def extract(
    manifest: Manifest, secrets: Secrets, source: PartSource, path: Path, told: Progress | None = None
) -> None:
    """Write the image to the new file `path`, which appears only when all of it was checked.

    Raises what `unbundle` raises, `output-exists` and `file-unwritable`.
    """
    with NewFile(path) as file:
        file.resize(manifest.size_bytes)
        unbundle(manifest, secrets, source, ImageFile(file), told)
        file.publish()


def unbundle(
    manifest: Manifest, secrets: Secrets, source: PartSource, sink: ImageSink, told: Progress | None = None
) -> None:
    """Give the image to `sink`; only after the return is it known to be right.

    Raises `part-missing`, `part-damaged`, `image-damaged`, `image-overflow`.
    """
    parts = _Parts(manifest, secrets, source)
    tar = hashlib.sha1(usedforsecurity=False)
    frame = Unframer(manifest.size_bytes)
    fault: BadFrame | None = None
    with Line() as line:
        plain: Channel[bytes] = line.channel(_DEPTH)
        inflated: Channel[bytes] = line.channel(_DEPTH)
        line.stage("parts", lambda: parts.run(plain))
        line.stage("inflate", lambda: _inflate(manifest, plain, inflated))
        for piece in inflated:
            tar.update(piece)
            if fault is None:
                fault = _placed(frame, piece, sink, told, manifest.size_bytes)
        # Looked at last: when a part was damaged, its own error has stopped the line by now and says more.
        fault = fault or _unfinished(frame)
        if fault is not None:
            raise DrpilotError("image-damaged", name=manifest.name, what=str(fault)) from fault
    if tar.hexdigest() != manifest.tar_sha1:
        raise DrpilotError(
            "image-damaged",
            name=manifest.name,
            what=f"the SHA-1 of its tar stream is {tar.hexdigest()}, the manifest has {manifest.tar_sha1}",
        )


def _placed(
    frame: Unframer, piece: bytes, sink: ImageSink, told: Progress | None, size: int
) -> BadFrame | None:
    try:
        for offset, data in frame.feed(piece):
            if not ZEROS.startswith(data):
                sink.write(offset, data)
            if told is not None:
                told(offset + len(data), size)
    except BadFrame as error:
        return error
    return None


def _unfinished(frame: Unframer) -> BadFrame | None:
    try:
        frame.finish()
    except BadFrame as error:
        return error
    return None


def _inflate(manifest: Manifest, plain: Channel[bytes], inflated: Channel[bytes]) -> None:
    inflater, total = Inflater(), 0
    most = manifest.size_bytes + _SLACK_BYTES + manifest.size_bytes // 16
    try:
        for data in plain:
            for piece in inflater.feed(data):
                total += len(piece)
                if total > most:
                    raise DrpilotError("image-overflow", name=manifest.name, size_bytes=manifest.size_bytes)
                inflated.put(piece)
        inflater.finish()
    except NotGzip as error:
        for _ in plain:
            continue  # to the end, so that a damaged part is found and named instead
        raise DrpilotError(
            "image-damaged", name=manifest.name, what=f"what its parts hold is not gzip: {error}"
        ) from error
    inflated.close()


class _Parts:
    """The first stage: parts in their order, checked and decrypted."""

    def __init__(self, manifest: Manifest, secrets: Secrets, source: PartSource) -> None:
        self._manifest, self._source = manifest, source
        self._cipher = Cipher(algorithms.AES(secrets.key), modes.CBC(secrets.iv)).decryptor()
        self._total = 0

    def run(self, plain: Channel[bytes]) -> None:
        held = b""  # the last block carries the padding, and only the end tells which is the last
        for part in self._manifest.parts:
            for piece in self._checked(part):
                data = held + self._cipher.update(piece)
                held = data[-16:]
                if len(data) > 16:
                    plain.put(data[:-16])
        if self._total == 0 or self._total % 16:
            raise self._damaged(f"its {self._total} bytes are no AES-CBC ciphertext")
        padding = held[-1]
        if not 1 <= padding <= 16 or held[-padding:] != bytes([padding]) * padding:
            raise self._damaged("the padding at its end is wrong")
        if padding < 16:
            plain.put(held[:-padding])
        plain.close()

    def _checked(self, part: Part) -> Iterator[bytes]:
        sha1 = hashlib.sha1(usedforsecurity=False)
        for piece in self._source.part(part.name):
            sha1.update(piece)
            self._total += len(piece)
            if self._total > self._manifest.bundled_bytes:
                raise self._bad(
                    part, f"the parts together are longer than {self._manifest.bundled_bytes} bytes"
                )
            yield piece
        if sha1.hexdigest() != part.sha1:
            raise self._bad(part, f"its SHA-1 is {sha1.hexdigest()}, the manifest has {part.sha1}")

    def _bad(self, part: Part, what: str) -> DrpilotError:
        return DrpilotError("part-damaged", part=part.name, name=self._manifest.name, what=what)

    def _damaged(self, what: str) -> DrpilotError:
        return DrpilotError("image-damaged", name=self._manifest.name, what=what)
