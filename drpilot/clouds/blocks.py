"""GetSnapshotBlock and PutSnapshotBlock of EBS direct, by the data plane or by botocore.

Both check every block against its SHA-256, so that the digest handed out by `get` may be handed to `put` as it is: one
hash a block from the source's disk to the target's. Source: EBS direct APIs reference, GetSnapshotBlock,
PutSnapshotBlock.
"""

from __future__ import annotations

import base64
import hashlib
from typing import NoReturn
from urllib.parse import quote

from drpilot.clouds.dataplane import Ask, DataPlane
from drpilot.clouds.site import BotoSite
from drpilot.domain.ports import BlockChannel, BlockPlane, CloudError, FailureClass

__all__ = ["BLOCK_BYTES", "ENGINES", "FastBlocks", "SdkBlocks", "block_plane"]

BLOCK_BYTES = 524_288
ENGINES = ("fast", "sdk")
_GET, _PUT = "GetSnapshotBlock", "PutSnapshotBlock"


def block_plane(site: BotoSite, engine: str) -> BlockPlane:
    """The blocks of `site` by `engine`; where the fast one can't serve the endpoint, by botocore, with a note."""
    if engine == "sdk":
        return SdkBlocks(site)
    plane = site.plane("ebs")
    if plane.doorway.obstacle:
        return SdkBlocks(site, note=plane.doorway.obstacle)
    return FastBlocks(plane, site.name)


def _broken(site: str, operation: str, message: str) -> NoReturn:
    raise CloudError(
        FailureClass.TRANSIENT,
        "ChecksumMismatch",
        message,
        happened="no",
        site=site,
        operation=f"ebs:{operation}",
    )


def _checked(site: str, index: int, data: memoryview, stated: str, algorithm: str) -> bytes:
    """The SHA-256 of a block that was read, compared with what the cloud stated."""
    if algorithm != "SHA256" or len(data) != BLOCK_BYTES:
        _broken(
            site, _GET, f"block {index}: {len(data)} bytes under checksum algorithm {algorithm or 'none'}"
        )
    found = hashlib.sha256(data).digest()
    if base64.b64encode(found).decode() != stated:
        _broken(site, _GET, f"block {index}: the bytes do not have the SHA-256 the cloud states")
    return found


class FastBlocks:
    """By the data plane: one kept connection a channel."""

    engine = "fast"
    note = ""

    def __init__(self, plane: DataPlane, site: str) -> None:
        self._plane = plane
        self._site = site

    def channel(self) -> BlockChannel:
        """A connection of its own."""
        return _FastChannel(self._plane, self._site)

    def close(self) -> None:
        """Close what the channels share."""
        self._plane.close()


class _FastChannel:
    def __init__(self, plane: DataPlane, site: str) -> None:
        self._channel = plane.channel()
        self._site = site

    def get(self, snapshot: str, index: int, token: str, into: memoryview) -> bytes:
        ask = Ask(_GET, "GET", f"/snapshots/{quote(snapshot)}/blocks/{index}", {"blockToken": token})
        answer = self._channel.send(ask, into)
        headers = answer.headers
        stated, algorithm = headers.get("x-amz-checksum", ""), headers.get("x-amz-checksum-algorithm", "")
        return _checked(self._site, index, into[: answer.length], stated, algorithm)

    def put(self, snapshot: str, index: int, data: memoryview, sha256: bytes) -> None:
        checksum = base64.b64encode(sha256).decode()
        headers = {
            "content-type": "application/octet-stream",
            "x-amz-data-length": str(len(data)),
            "x-amz-checksum": checksum,
            "x-amz-checksum-algorithm": "SHA256",
        }
        path = f"/snapshots/{quote(snapshot)}/blocks/{index}"
        ask = Ask(_PUT, "PUT", path, {}, headers, data, sha256.hex(), changing=True)
        answer = self._channel.send(ask)
        if answer.headers.get("x-amz-checksum", checksum) != checksum:
            _broken(self._site, _PUT, f"block {index}: the cloud stored another checksum than was sent")

    def close(self) -> None:
        self._channel.close()


class SdkBlocks:
    """By botocore, through the site's door: slower, and the oracle for the fast one."""

    engine = "sdk"

    def __init__(self, site: BotoSite, note: str = "") -> None:
        self._site = site
        self.note = note

    def channel(self) -> BlockChannel:
        """The door is shared between threads."""
        return self

    def get(self, snapshot: str, index: int, token: str, into: memoryview) -> bytes:
        """One GetSnapshotBlock."""
        given = {"SnapshotId": snapshot, "BlockIndex": index, "BlockToken": token}
        reply = self._site.call("ebs", _GET, given)
        data: bytes = reply["BlockData"]
        if len(data) > len(into):
            _broken(self._site.name, _GET, f"block {index}: {len(data)} bytes")
        into[: len(data)] = data
        stated, algorithm = reply.get("Checksum", ""), reply.get("ChecksumAlgorithm", "")
        return _checked(self._site.name, index, into[: len(data)], stated, algorithm)

    def put(self, snapshot: str, index: int, data: memoryview, sha256: bytes) -> None:
        """One PutSnapshotBlock."""
        given = {
            "SnapshotId": snapshot,
            "BlockIndex": index,
            "BlockData": bytes(data),
            "DataLength": len(data),
            "Checksum": base64.b64encode(sha256).decode(),
            "ChecksumAlgorithm": "SHA256",
        }
        reply = self._site.call("ebs", _PUT, given)
        if reply.get("Checksum", given["Checksum"]) != given["Checksum"]:
            _broken(self._site.name, _PUT, f"block {index}: the cloud stored another checksum than was sent")

    def close(self) -> None:
        """Nothing is held."""
