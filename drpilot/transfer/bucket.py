"""Bundles in a bucket: parts go up as they close, the manifest last, with the ACL by which a cloud reads them.

No multipart upload and nothing newer than S3's first years, so that Eucalyptus 3.4 takes it; each object carries its
MD5, so that the other side refuses what was damaged on the way. There 3.4 finds a part only at the root of its bucket
(it compares the object's key with the file name), which is the dialect's to say.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from drpilot.base.errors import DrpilotError
from drpilot.domain.ports import CloudError, Site
from drpilot.formats.manifest import Manifest, read
from drpilot.transfer.absence import is_absent
from drpilot.transfer.codec import Uplink
from drpilot.transfer.places import PartSink, PartSource
from drpilot.transfer.retargeting import checked_part, copy_parts

__all__ = [
    "ACL",
    "Address",
    "BucketParts",
    "NewBucketBundle",
    "delete",
    "download",
    "read_manifest",
    "upload",
]

ACL = "aws-exec-read"
LANES = 3  # parts under way together: 30 MiB of memory
_RANGE_BYTES = 10_485_760
_MOST_MANIFEST_BYTES = 5 << 20
_TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")


@dataclass(frozen=True, slots=True)
class Address:
    """A place in a bucket: `key` is a prefix for a new bundle, the manifest's key for one that is there."""

    bucket: str
    key: str = ""

    @classmethod
    def of(cls, text: str) -> Address:
        """From `BUCKET[/KEY]`; raises `usage`."""
        bucket, _, key = text.removeprefix("s3://").strip("/").partition("/")
        if not bucket:
            raise DrpilotError("usage", what=f"{text!r} names no bucket", hint="BUCKET or BUCKET/PREFIX")
        return cls(bucket, key)

    def beside(self, name: str) -> str:
        """The key of `name` in the folder of this manifest."""
        folder, slash, _ = self.key.rpartition("/")
        return f"{folder}{slash}{name}"

    def below(self, name: str) -> str:
        """The key of `name` under this prefix."""
        return f"{self.key}/{name}" if self.key else name


# -- single objects -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _told(site: Site, bucket: str, key: str) -> Iterator[None]:
    """Within, an absent bucket or object is an error of its own; everything else stays a CloudError."""
    try:
        yield
    except CloudError as error:
        if error.code == "NoSuchBucket":
            raise DrpilotError("bucket-missing", site=site.name, bucket=bucket) from error
        if is_absent(error):
            raise DrpilotError("object-missing", site=site.name, bucket=bucket, key=key) from error
        if error.code == "AccessControlListNotSupported":
            raise DrpilotError("acl-refused", site=site.name, bucket=bucket, acl=ACL) from error
        raise


def _pieces(site: Site, bucket: str, key: str) -> Iterator[bytes]:
    """An object in ranges, so that its size never is the size of our memory."""
    place, total = 0, 1
    while place < total:
        span = f"bytes={place}-{place + _RANGE_BYTES - 1}"
        try:
            with _told(site, bucket, key):
                reply = site.call("s3", "GetObject", {"Bucket": bucket, "Key": key, "Range": span})
        except CloudError as error:
            if place == 0 and error.code in ("InvalidRange", "416"):
                return  # an object of no bytes has no range
            raise
        body = bytes(reply["Body"])
        match = _TOTAL.fullmatch(str(reply.get("ContentRange") or ""))
        total = int(match[1]) if match else len(body)  # no range in the answer: it is all of it
        place += len(body)
        yield body
        if not body:
            return


def _whole(site: Site, bucket: str, key: str, most_bytes: int) -> bytes:
    data = bytearray()
    for piece in _pieces(site, bucket, key):
        data += piece
        if len(data) > most_bytes:
            raise DrpilotError(
                "manifest-malformed", file=f"{bucket}/{key}", what=f"it is longer than {most_bytes} bytes"
            )
    return bytes(data)


def _put(site: Site, place: tuple[str, str], data: bytes | bytearray, acl: str) -> None:
    bucket, key = place
    md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    params = {"Bucket": bucket, "Key": key, "Body": data, "ACL": acl, "ContentMD5": md5}
    with _told(site, bucket, key):
        site.call("s3", "PutObject", params)


# -- a bundle in a bucket ---------------------------------------------------------------------------------------------


class BucketParts:
    """The parts of the bundle whose manifest is at `address`."""

    def __init__(self, site: Site, address: Address, bundle: str) -> None:
        self._site, self._address, self._bundle = site, address, bundle

    def part(self, name: str) -> Iterator[bytes]:
        """A part's object in pieces."""
        try:
            yield from _pieces(self._site, self._address.bucket, self._address.beside(name))
        except DrpilotError as error:
            if error.word != "object-missing":
                raise
            place = f"bucket {self._address.bucket} on {self._site.name}"
            raise DrpilotError("part-missing", part=name, name=self._bundle, place=place) from error


class NewBucketBundle:
    """A new bundle under a prefix; at most `LANES` parts are in memory beside the one being filled."""

    def __init__(self, site: Site, address: Address, acl: str = ACL, uplink: Uplink | None = None) -> None:
        self._site, self._address, self._acl, self._uplink = site, address, acl, uplink
        self._pool = ThreadPoolExecutor(LANES, "upload")
        self._room = threading.BoundedSemaphore(LANES)
        self._sent: list[tuple[str, Future[None]]] = []

    def part(self, name: str, data: bytearray | bytes) -> None:
        """Begin to upload a part; waits while all lanes are taken. Raises what an earlier upload raised."""
        self._room.acquire()
        self._raise_failures(wait=False)
        self._sent.append((name, self._pool.submit(self._upload, name, data)))

    def _upload(self, name: str, data: bytearray | bytes) -> None:
        try:
            began = self._uplink.clock.monotonic() if self._uplink else 0.0
            _put(self._site, (self._address.bucket, self._address.below(name)), data, self._acl)
            if self._uplink is not None:
                self._uplink.sent(len(data), self._uplink.clock.monotonic() - began, LANES)
        finally:
            self._room.release()

    def manifest(self, name: str, data: bytes) -> None:
        """Wait for all parts, then upload the manifest."""
        self.settle()
        _put(self._site, (self._address.bucket, self._address.below(name)), data, self._acl)

    def settle(self) -> None:
        """Wait for all parts, for a bundle whose manifest lies there already. Raises what an upload raised."""
        self._raise_failures(wait=True)
        self._pool.shutdown()

    def _raise_failures(self, *, wait: bool) -> None:
        for _, upload in self._sent:
            if wait or upload.done():
                upload.result()

    def discard(self) -> None:
        """Remove the parts that went up, as far as the cloud lets us: they belong to no bundle."""
        for _, upload in self._sent:
            upload.cancel()
        self._pool.shutdown()
        for name, upload in self._sent:
            if not upload.cancelled():
                with contextlib.suppress(CloudError):
                    key = self._address.below(name)
                    self._site.call("s3", "DeleteObject", {"Bucket": self._address.bucket, "Key": key})


def read_manifest(site: Site, address: Address) -> tuple[Manifest, bytes]:
    """The manifest at `address` and its bytes; raises `object-missing`, `bucket-missing`, `manifest-malformed`."""
    data = _whole(site, address.bucket, address.key, _MOST_MANIFEST_BYTES)
    return read(data, f"{address.bucket}/{address.key}"), data


def upload(manifest: Manifest, written: tuple[str, bytes], source: PartSource, sink: PartSink) -> None:
    """Give a finished bundle to `sink`: every part checked, then the manifest (its name and bytes) as it is."""
    try:
        copy_parts(manifest, source, sink)
        sink.manifest(*written)
    except BaseException:
        sink.discard()
        raise


def present(site: Site, address: Address, name: str) -> bytes | None:
    """The bytes of a manifest that is there under the prefix `address`, None where none is."""
    try:
        return _whole(site, address.bucket, address.below(name), _MOST_MANIFEST_BYTES)
    except DrpilotError as error:
        if error.word == "object-missing":
            return None
        raise


def download(
    site: Site, address: Address, sink: PartSink, told: Callable[[int, int], None] | None = None
) -> Manifest:
    """Fetch a bundle: parts on several connections, each checked by its SHA-1, the manifest last and as it is."""
    manifest, data = read_manifest(site, address)
    source = BucketParts(site, address, manifest.name)
    done = 0
    try:
        with ThreadPoolExecutor(LANES, "download") as pool:
            waiting: list[Future[bytearray]] = []
            fetch = iter(manifest.parts)

            def more() -> None:
                for part in fetch:
                    waiting.append(pool.submit(checked_part, manifest, part, source, manifest.bundled_bytes))
                    return

            for _ in range(LANES):
                more()
            for part in manifest.parts:
                found = waiting.pop(0).result()
                more()
                done += len(found)
                sink.part(part.name, found)
                if told is not None:
                    told(done, manifest.bundled_bytes)
        sink.manifest(address.key.rpartition("/")[2], data)
    except BaseException:
        sink.discard()
        raise
    return manifest


def delete(site: Site, address: Address) -> Manifest:
    """Delete the parts that the manifest at `address` names, then the manifest: broken off, it can be repeated."""
    manifest, _ = read_manifest(site, address)
    for name in (*(part.name for part in manifest.parts), address.key.rpartition("/")[2]):
        with _told(site, address.bucket, address.beside(name)):
            site.call("s3", "DeleteObject", {"Bucket": address.bucket, "Key": address.beside(name)})
    return manifest
