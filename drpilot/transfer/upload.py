"""A large object in parts: begun, continued after kill -9, and ended by one call that makes it an object.

The intent is in the record before the upload begins, its id right after; which parts are there is asked of the store.
So an upload is never lost: the next run of the same sync goes on with it while the source still has the same ETag,
and aborts it otherwise. Source: Amazon S3 user guide, "Uploading and copying objects using multipart upload" (10,000
parts, 5 MiB at least but for the last one); the ETag of the whole is the MD5 of the parts' MD5s.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from drpilot.domain.objects import Entry, Got, Part, Stored, is_md5, written
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError
from drpilot.transfer.absence import is_object_absent
from drpilot.transfer.objectcopy import (
    PART_BYTES,
    Changed,
    Copied,
    Courier,
    Hands,
    damaged,
    refused_as_damaged,
)
from drpilot.transfer.pairing import Known
from drpilot.transfer.syncrecord import SyncRecord, Underway

__all__ = ["Upload", "abort", "begin", "part_size"]

_MOST_PARTS = 10_000
_MIB = 1 << 20
_COMPOSITE = re.compile(r"[0-9a-f]{32}-\d+")


def part_size(size_bytes: int) -> int:
    """Bytes of a part: 16 MiB, more only where there would be more than 10,000 of them."""
    least = -(-size_bytes // _MOST_PARTS)
    return max(PART_BYTES, -(-least // _MIB) * _MIB)


@dataclass(slots=True)
class Upload:
    """An upload under way, shared by the threads that send its parts."""

    entry: Entry
    got: Got
    upload: str
    part_bytes: int
    tries: int = 0
    resumed: int = 0  # parts that an earlier run sent
    error: Exception | None = None
    etags: dict[int, Stored] = field(default_factory=dict)
    _waiting: Iterator[int] = field(default_factory=lambda: iter(()))
    _left: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        numbers = [number for number in range(1, self.parts + 1) if number not in self.etags]
        self._waiting, self._left = iter(numbers), len(numbers)

    @property
    def underway(self) -> Underway:
        """The upload as the record has it."""
        return Underway(self.entry.key, self.upload, self.entry.etag, self.entry.size_bytes, self.part_bytes)

    @property
    def parts(self) -> int:
        """How many parts the whole has."""
        return -(-self.entry.size_bytes // self.part_bytes)

    @property
    def complete(self) -> bool:
        """Whether every part is there."""
        return self._left == 0

    def take(self) -> int | None:
        """The next part nobody sends yet; None where there is none, or the upload failed."""
        with self._lock:
            return None if self.error is not None else next(self._waiting, None)

    def failed(self, error: Exception) -> bool:
        """Note an error; whether it is the first one."""
        with self._lock:
            first, self.error = self.error is None, self.error or error
            return first

    def span(self, number: int) -> tuple[int, int]:
        """First and last byte of a part."""
        start = (number - 1) * self.part_bytes
        return start, min(start + self.part_bytes, self.entry.size_bytes) - 1

    def send(self, courier: Courier, hands: Hands, number: int) -> bool:
        """Copy a part; whether it was the last one missing. Raises Changed, Vanished, CloudError."""
        first, last = span = self.span(number)
        name = courier.target.object(self.entry.key)
        with hands.buffer(last - first + 1) as view:
            _, md5 = courier.read(hands.source, self.entry, view, span)

            def once() -> Stored:
                with refused_as_damaged(courier.target):
                    stored = hands.target.put_part(name, Part(self.upload, number), view, md5)
                if not stored.encrypted and is_md5(stored.etag) and stored.etag != md5.hex():
                    raise damaged(
                        courier.target, "UploadPart", f"part {number} of {name.key} has another MD5"
                    )
                return stored

            stored = courier.target.pace.run(once)
        with self._lock:
            self.etags[number] = stored
            self._left -= 1
            return self._left == 0

    def finish(self, courier: Courier, record: SyncRecord) -> Copied:
        """Make the parts an object and prove it. Raises CloudError."""
        target = courier.target
        name = target.object(self.entry.key)
        parts = [
            {"PartNumber": number, "ETag": f'"{self.etags[number].etag}"'} for number in sorted(self.etags)
        ]
        given = {"Bucket": name.bucket, "Key": name.key, "UploadId": self.upload}
        wanted = self._composite()
        record.begun(replace(self.underway, wanted=wanted))

        def once() -> Stored:
            try:
                reply = target.site.call(
                    "s3", "CompleteMultipartUpload", {**given, "MultipartUpload": {"Parts": parts}}
                )
            except CloudError as error:
                if error.code != "NoSuchUpload" or not wanted:
                    raise
                return self._was_completed(courier, wanted, error)  # the reply to an earlier try was lost
            return Stored(str(reply["ETag"]).strip('"'), str(reply.get("VersionId") or ""))

        stored = target.pace.run(once)
        if wanted and _COMPOSITE.fullmatch(stored.etag) and stored.etag != wanted:
            raise damaged(target, "CompleteMultipartUpload", f"{name.key} was stored as {stored.etag}")
        record.ended(self.entry.key)
        return _whole(self.entry, self.got, stored)

    def _composite(self) -> str:
        """The ETag the whole must get; empty where the parts' ETags are no MD5s."""
        stored = [self.etags[number] for number in sorted(self.etags)]
        if any(one.encrypted or not is_md5(one.etag) for one in stored):
            return ""
        joined = b"".join(bytes.fromhex(one.etag) for one in stored)
        return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(stored)}"

    def _was_completed(self, courier: Courier, wanted: str, error: CloudError) -> Stored:
        channel = courier.target.plane.channel()
        try:
            there = channel.head(courier.target.object(self.entry.key))
        finally:
            channel.close()
        if there.etag != wanted or there.size_bytes != self.entry.size_bytes:
            raise error
        return Stored(there.etag, there.version)


def _whole(entry: Entry, got: Got, stored: Stored) -> Copied:
    known = Known(entry.key, entry.size_bytes, entry.etag, stored.etag, got.version, stored.version)
    return Copied(known, got.tags)


def begin(courier: Courier, hands: Hands, record: SyncRecord, entry: Entry) -> Upload | Copied:
    """Begin the upload of an object, or go on with the one that an earlier run began; Copied where that one had been
    completed, and only we did not learn of it. Raises Changed, Vanished, CloudError.
    """
    got = courier.described(hands.source, entry.key)
    if got.etag != entry.etag or got.size_bytes != entry.size_bytes:
        raise Changed(Entry(entry.key, got.size_bytes, got.etag))
    before, size = record.underway(entry.key), part_size(entry.size_bytes)
    if before is not None:
        same = (before.etag, before.size_bytes, before.part_bytes) == (entry.etag, entry.size_bytes, size)
        if same and before.upload:
            parts = _parts(courier, before)
            if parts is not None:
                return Upload(entry, got, before.upload, size, resumed=len(parts), etags=parts)
            there = _there(courier, hands, entry)
            if there is not None and there.etag == before.wanted and there.size_bytes == entry.size_bytes:
                record.ended(entry.key)
                return _whole(entry, got, Stored(there.etag, there.version))
        abort(courier, record, before)
    record.begun(Underway(entry.key, "", entry.etag, entry.size_bytes, size))
    name = courier.target.object(entry.key)
    given = {"Bucket": name.bucket, "Key": name.key, **written(got.facts)}
    reply = courier.target.pace.run(lambda: courier.target.site.call("s3", "CreateMultipartUpload", given))
    upload = str(reply["UploadId"])
    record.begun(Underway(entry.key, upload, entry.etag, entry.size_bytes, size))
    return Upload(entry, got, upload, size)


def _there(courier: Courier, hands: Hands, entry: Entry) -> Got | None:
    """What the target has now; None where it has nothing."""
    try:
        return courier.target.pace.run(lambda: hands.target.head(courier.target.object(entry.key)))
    except CloudError as error:
        if is_object_absent(error):
            return None
        raise


def _parts(courier: Courier, before: Underway) -> dict[int, Stored] | None:
    """The whole parts that the store has of an upload; None where it knows no such upload any more."""
    found: dict[int, Stored] = {}
    try:
        for part in _all_parts(courier, before.key, before.upload):
            number = int(part["PartNumber"])
            start = (number - 1) * before.part_bytes
            if int(part["Size"]) == min(before.part_bytes, before.size_bytes - start):
                found[number] = Stored(str(part["ETag"]).strip('"'))
    except CloudError as error:
        if error.code != "NoSuchUpload":
            raise
        return None
    return found


def _all_parts(courier: Courier, key: str, upload: str) -> Iterator[Json]:
    name = courier.target.object(key)
    given = {"Bucket": name.bucket, "Key": name.key, "UploadId": upload}
    for page in courier.target.site.pages("s3", "ListParts", given):
        yield from page.get("Parts") or []


def abort(courier: Courier, record: SyncRecord, before: Underway) -> int:
    """Abort what is left of an upload, also one whose id never reached the record; how many were aborted."""
    name = courier.target.object(before.key)
    uploads = [before.upload] if before.upload else _without_parts(courier, before)
    for upload in uploads:
        given = {"Bucket": name.bucket, "Key": name.key, "UploadId": upload}
        try:
            courier.target.site.call("s3", "AbortMultipartUpload", given)
        except CloudError as error:
            if error.code != "NoSuchUpload":
                raise
    record.ended(before.key)
    return len(uploads)


def _without_parts(courier: Courier, before: Underway) -> list[str]:
    """The uploads of exactly this key that have no parts: one of ours whose id was lost sent none, as its intent says,
    and an upload that somebody else is at has some.
    """
    name = courier.target.object(before.key)
    pages = courier.target.site.pages(
        "s3", "ListMultipartUploads", {"Bucket": name.bucket, "Prefix": name.key}
    )
    ids = [
        str(upload["UploadId"])
        for page in pages
        for upload in page.get("Uploads") or []
        if str(upload["Key"]) == name.key
    ]
    return [one for one in ids if next(_all_parts(courier, before.key, one), None) is None]
