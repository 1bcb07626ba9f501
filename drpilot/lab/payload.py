"""What an S3 upload carries on the wire: aws-chunked framing, checksums and Content-MD5.

Sources: "Signature Version 4: transferring payload in multiple chunks" and "Checking object integrity" of
the Amazon S3 user guide; the CRC polynomials are those of RFC 3720 (CRC-32C) and the NVM Express base
specification (CRC-64/NVME).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from drpilot.lab.cloud import Refusal

__all__ = ["ALGORITHMS", "Payload", "checksum", "read_payload", "requested_algorithms", "unframe"]

_FRAMED = re.compile(rb"[0-9a-fA-F]+(;[ -~]*)?\r\n")


@cache
def _table(polynomial: int) -> tuple[int, ...]:
    rows = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (polynomial if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


def _reflected_crc(polynomial: int, width_bytes: int) -> Callable[[bytes], bytes]:
    """A CRC whose bits are reflected and whose start and end are inverted, as both CRCs of S3 are."""

    def compute(data: bytes) -> bytes:
        table, mask = _table(polynomial), (1 << 8 * width_bytes) - 1
        value = mask
        for byte in data:
            value = table[(value ^ byte) & 255] ^ (value >> 8)
        return (value ^ mask).to_bytes(width_bytes, "big")

    return compute


ALGORITHMS: Mapping[str, Callable[[bytes], bytes]] = {
    "ChecksumCRC32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "ChecksumCRC32C": _reflected_crc(0x82F63B78, 4),
    "ChecksumCRC64NVME": _reflected_crc(0x9A6C9329AC4BC9B5, 8),
    "ChecksumSHA1": lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    "ChecksumSHA256": lambda data: hashlib.sha256(data).digest(),
    "ChecksumSHA512": lambda data: hashlib.sha512(data).digest(),
    "ChecksumMD5": lambda data: hashlib.md5(data, usedforsecurity=False).digest(),
}


def checksum(member: str, data: bytes) -> str:
    """The base64 checksum of `data` under the algorithm of the model's member name (`ChecksumCRC32` ...)."""
    return base64.b64encode(ALGORITHMS[member](data)).decode()


class Payload:
    """The bytes of one upload after its framing was taken off, and the checksums that were proven."""

    __slots__ = ("checksums", "content_encoding", "data")

    def __init__(self, data: bytes, content_encoding: str, checksums: dict[str, str]) -> None:
        self.data = data
        self.content_encoding = content_encoding
        self.checksums = checksums


def unframe(body: bytes) -> tuple[bytes, dict[str, str]]:
    """Take aws-chunked framing off: `HEX[;chunk-signature=...]CRLF data CRLF ... 0 CRLF trailers CRLF`.

    Gives the data and the trailers by lower-case name; IncompleteBody or InvalidChunkSizeError otherwise.
    """
    pieces, position = [], 0
    while True:
        end = body.find(b"\r\n", position)
        if end < 0:
            raise Refusal("IncompleteBody", "The request body terminated unexpectedly.")
        try:
            size_bytes = int(body[position:end].split(b";", 1)[0], 16)
        except ValueError:
            raise Refusal("InvalidChunkSizeError", "Chunk size is not a hexadecimal number.") from None
        position = end + 2
        if size_bytes == 0:
            break
        if body[position + size_bytes : position + size_bytes + 2] != b"\r\n":
            raise Refusal("IncompleteBody", "The request body terminated unexpectedly.")
        pieces.append(body[position : position + size_bytes])
        position += size_bytes + 2
    trailers = {}
    for line in body[position:].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            trailers[name.strip().decode("ascii", "replace").lower()] = value.strip().decode(
                "ascii", "replace"
            )
    return b"".join(pieces), trailers


def _as_bytes(body: Any) -> bytes:
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    if hasattr(body, "read"):
        body = body.read()
    return bytes(body)


def requested_algorithms(params: Mapping[str, Any]) -> list[str]:
    """The members of `params` that carry a checksum, refusing the algorithms this lab can't compute."""
    for name in params:
        if name.startswith("ChecksumXX"):
            raise Refusal("InvalidRequest", f"The lab does not compute {name}.", 501)
    return [name for name in ALGORITHMS if params.get(name)]


def read_payload(params: Mapping[str, Any]) -> Payload:
    """Take the framing off `params["Body"]` and prove Content-MD5 and every checksum sent, else BadDigest.

    A trailer beats a header of the same name. IncompleteBody, InvalidDigest and BadDigest are S3's codes.
    """
    data = _as_bytes(params.get("Body"))
    encodings = [part.strip() for part in str(params.get("ContentEncoding") or "").split(",") if part.strip()]
    trailers: dict[str, str] = {}
    if "aws-chunked" in encodings:
        encodings.remove("aws-chunked")
        # The wire may have taken the frames off already; what then looks like frames to the last byte is data
        # that nobody sends.
        if _FRAMED.match(data) and data.endswith(b"\r\n"):
            data, trailers = unframe(data)
    given = {name: str(params[name]) for name in requested_algorithms(params)}
    for name in ALGORITHMS:
        trailer = trailers.get("x-amz-checksum-" + name.removeprefix("Checksum").lower())
        if trailer:
            given[name] = trailer
    if params.get("ContentMD5"):
        try:
            wanted = base64.b64decode(str(params["ContentMD5"]), validate=True)
        except binascii.Error:
            wanted = b""
        if len(wanted) != 16:
            raise Refusal("InvalidDigest", "The Content-MD5 you specified was invalid.")
        if wanted != ALGORITHMS["ChecksumMD5"](data):
            raise Refusal("BadDigest", "The Content-MD5 you specified did not match what we received.")
    for name, value in given.items():
        if checksum(name, data) != value:
            kind = name.removeprefix("Checksum")
            raise Refusal("BadDigest", f"The {kind} you specified did not match the calculated checksum.")
    return Payload(data, ",".join(encodings), given)
