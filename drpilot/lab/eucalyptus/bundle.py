"""Reading image bundles as a cloud does: manifest, keys, signature, and the image's blocks out of the parts.

A second reader beside drpilot's own codec on purpose: it knows nothing of that one and is fed by the same
files. Format: manifest version 2007-10-10; image -> tar with one member -> gzip -> AES-128-CBC -> parts; the
key and IV, 32 hex digits each, encrypted with RSA PKCS #1 v1.5 for the cloud; SHA-1 digests of each part and of
the tar stream. Everything that does not fit raises BadBundle.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from drpilot.lab.store import BLOCK_BYTES

__all__ = ["BadBundle", "Manifest", "Part", "blocks_of", "is_signed_by", "read_manifest", "unwrap"]

_HEX_KEY = re.compile(rb"[0-9a-fA-F]{32}")
_MOST_BYTES = 30 * 1024**3
_CHUNK = 1 << 20
# As 3.x extracts what is signed: by expressions that do not cross a line.
_SIGNED = (
    re.compile(rb"<machine_configuration>.*</machine_configuration>"),
    re.compile(rb"<image>.*</image>"),
)


class BadBundle(Exception):
    """What is wrong with a bundle."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its file name and the SHA-1 of its bytes in hex."""

    filename: str
    sha1: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says. `size_bytes` is the image's, `digest` the SHA-1 of the tar stream in hex."""

    name: str
    user: str
    kind: str
    architecture: str
    kernel_id: str
    ramdisk_id: str
    size_bytes: int
    digest: str
    key: bytes
    iv: bytes
    parts: tuple[Part, ...]
    signed: bytes
    signature: bytes


def read_manifest(data: bytes) -> Manifest:
    """Read a manifest; raises BadBundle."""
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise BadBundle("a manifest has no document type")
    try:
        root = ET.fromstring(data)
        image = root.find("image")
        if root.tag != "manifest" or image is None:
            raise BadBundle("it is no bundle manifest")
        parts = tuple(
            Part(part.findtext("filename") or "", (part.findtext("digest") or "").lower())
            for part in sorted(image.findall("parts/part"), key=lambda part: int(part.get("index", "0")))
        )
        signature = (root.findtext("signature") or "").strip()
        return Manifest(
            name=image.findtext("name") or "",
            user=image.findtext("user") or "",
            kind=image.findtext("type") or "machine",
            architecture=root.findtext("machine_configuration/architecture") or "i386",
            kernel_id=root.findtext("machine_configuration/kernel_id") or "",
            ramdisk_id=root.findtext("machine_configuration/ramdisk_id") or "",
            size_bytes=int(image.findtext("size") or "-1"),
            digest=(image.findtext("digest") or "").lower(),
            key=bytes.fromhex(image.findtext("ec2_encrypted_key") or ""),
            iv=bytes.fromhex(image.findtext("ec2_encrypted_iv") or ""),
            parts=parts,
            signed=b"".join(found[0] for found in (one.search(data) for one in _SIGNED) if found),
            signature=b"" if signature in ("", "UNSIGNED") else bytes.fromhex(signature),
        )
    except (ET.ParseError, ValueError) as error:
        raise BadBundle(f"the manifest can't be read: {error}") from error


def is_signed_by(manifest: Manifest, certificates: Iterable[bytes]) -> bool:
    """Whether the key of one of the certificates (PEM) signed the manifest's raw bytes (RSA, SHA-1)."""
    for pem in certificates:
        public = x509.load_pem_x509_certificate(pem).public_key()
        if not isinstance(public, rsa.RSAPublicKey):
            continue
        try:
            public.verify(manifest.signature, manifest.signed, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303  the format's
        except InvalidSignature:
            continue
        return True
    return False


def unwrap(manifest: Manifest, key: rsa.RSAPrivateKey) -> tuple[bytes, bytes]:
    """AES key and IV. Decrypting with a wrong key gives random bytes and no error, hence the check."""
    found = []
    for wrapped in (manifest.key, manifest.iv):
        try:
            text = key.decrypt(wrapped, padding.PKCS1v15())
        except ValueError:
            text = b""
        if not _HEX_KEY.fullmatch(text):
            raise BadBundle("the image's key was not encrypted for this cloud")
        found.append(bytes.fromhex(text.decode()))
    return found[0], found[1]


class _Pipe(io.RawIOBase):
    """The tar stream of a bundle as a file to be read once, with its SHA-1."""

    def __init__(self, parts: Iterable[bytes], key: bytes, iv: bytes) -> None:
        self._chunks = self._decoded(parts, key, iv)
        self._left = b""
        self.sha1 = hashlib.sha1()
        self._count = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, fewer only at the end."""
        while size < 0 or len(self._left) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self.sha1.update(chunk)
            self._count += len(chunk)
            if self._count > _MOST_BYTES + _CHUNK:
                raise BadBundle("the image is larger than any image may be")
            self._left += chunk
        if size < 0:
            size = len(self._left)
        data, self._left = self._left[:size], self._left[size:]
        return data

    @staticmethod
    def _decoded(parts: Iterable[bytes], key: bytes, iv: bytes) -> Iterator[bytes]:
        cipher = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
        inflate = zlib.decompressobj(wbits=31)
        held = b""
        for part in parts:
            plain = held + cipher.update(part)
            plain, held = plain[:-16], plain[-16:]
            for chunk in _inflated(inflate, plain):
                inflate = chunk[0]
                yield chunk[1]
        held += cipher.finalize()
        fill = held[-1] if held else 0
        if not 1 <= fill <= 16 or held[-fill:] != bytes([fill]) * fill:
            raise BadBundle("the last block has no padding: a part is missing or the key is wrong")
        for chunk in _inflated(inflate, held[:-fill]):
            inflate = chunk[0]
            yield chunk[1]
        if not inflate.eof:
            raise BadBundle("the compressed stream is cut short")


def _inflated(inflate: zlib._Decompress, data: bytes) -> Iterator[tuple[zlib._Decompress, bytes]]:
    """Plain chunks; several gzip members in a row are one stream."""
    while data:
        if inflate.eof:
            inflate = zlib.decompressobj(wbits=31)
        yield inflate, inflate.decompress(data, _CHUNK)
        data = inflate.unconsumed_tail or inflate.unused_data
        if inflate.eof and not data.strip(b"\0"):
            return
    while rest := inflate.decompress(b"", _CHUNK):
        yield inflate, rest


def blocks_of(
    manifest: Manifest, parts: Iterable[bytes], keys: Sequence[bytes]
) -> Iterator[tuple[int, bytes]]:
    """The image's non-zero blocks by index, each 524,288 bytes. Digest and size are proven at the end:
    whoever takes blocks must take all, or none when BadBundle comes.
    """
    pipe = _Pipe(parts, keys[0], keys[1])
    count = 0
    try:
        with tarfile.open(fileobj=pipe, mode="r|", bufsize=_CHUNK) as archive:
            member = archive.next()
            opened = None if member is None else archive.extractfile(member)
            if member is None or opened is None or member.size != manifest.size_bytes:
                raise BadBundle(f"the bundle does not hold one image of {manifest.size_bytes} bytes")
            for place in range(-(-member.size // BLOCK_BYTES)):
                data = opened.read(BLOCK_BYTES)
                count += len(data)
                if data.strip(b"\0"):
                    yield place, data.ljust(BLOCK_BYTES, b"\0")
            if archive.next() is not None:
                raise BadBundle("the bundle holds more than one file")
        while pipe.read(_CHUNK):
            pass
    except (tarfile.TarError, zlib.error, ValueError, EOFError) as error:
        raise BadBundle(f"the image can't be unbundled: {error}") from error
    if count != manifest.size_bytes:
        raise BadBundle(f"the image has {count} bytes, not {manifest.size_bytes}")
    if manifest.digest and pipe.sha1.hexdigest() != manifest.digest:
        raise BadBundle("the image's digest is not the manifest's")
