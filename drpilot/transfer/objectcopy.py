"""One object from one place to another: its bytes, what describes it, and the proof that both are the same.

An object is read on the condition that it still has the ETag it was listed with. Its bytes are hashed on their way:
compared with the source's ETag where that is an MD5, sent along so that the target refuses what was damaged, and
compared with what the target answers. Where both places are one cloud, the cloud itself copies.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from drpilot.domain.objects import Entry, Got, ObjectChannel, Stored, is_md5, written
from drpilot.domain.ports import CloudError, FailureClass
from drpilot.transfer.absence import is_object_absent
from drpilot.transfer.objectlisting import Place
from drpilot.transfer.pairing import Known

__all__ = [
    "PART_BYTES",
    "WHOLE_BYTES",
    "Changed",
    "Copied",
    "Courier",
    "Hands",
    "Room",
    "Vanished",
    "damaged",
]

PART_BYTES = 16 << 20
WHOLE_BYTES = 16 << 20  # up to here an object goes in one piece, and keeps its MD5 as its ETag
MOST_PUT_BYTES = 5 << 30  # of one PutObject or CopyObject (Amazon S3 user guide, "Uploading objects")
_SMALL_BYTES = 256 << 10
_ROOM_BYTES = 64 << 20
_STREAM_BYTES = 8 << 20
_NOT_AS_LISTED = ("PreconditionFailed", "412", "StrangeReply", "InvalidRange", "416")
_REFUSED_DIGESTS = ("BadDigest", "XAmzContentSHA256Mismatch")
_NOT_FOR_US = ("AccessDenied", "NoSuchBucket", "NotImplemented", "InvalidRequest", "403", "501")


class Changed(Exception):
    """The source's object is not any more what was listed; `entry` is what it is now."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.key)
        self.entry = entry


class Vanished(Exception):
    """The source's object is not there any more."""


@dataclass(frozen=True, slots=True)
class Copied:
    """An object that is on both sides now. `by_cloud`: it never came to this machine."""

    known: Known
    tags: int = 0
    by_cloud: bool = False


class Room:
    """Memory for bytes under way, shared by all threads: who wants more than is left waits."""

    def __init__(self, total_bytes: int = _ROOM_BYTES) -> None:
        self._total = self._left = total_bytes
        self._news = threading.Condition()

    @contextmanager
    def lent(self, size_bytes: int) -> Iterator[memoryview]:
        """A buffer of that size; one larger than all the room is lent alone."""
        taken = min(size_bytes, self._total)
        with self._news:
            self._news.wait_for(lambda: self._left >= taken)
            self._left -= taken
        try:
            # Pages of their own, given back when nobody holds them: what a thread frees to malloc stays in its arena.
            yield memoryview(mmap.mmap(-1, size_bytes))
        finally:
            with self._news:
                self._left += taken
                self._news.notify_all()


class Hands:
    """What one thread works with: a connection to each side and room for a small object."""

    def __init__(self, source: Place, target: Place, room: Room) -> None:
        self.source: ObjectChannel = source.plane.channel()
        self.target: ObjectChannel = target.plane.channel()
        self._room = room
        self._small = memoryview(bytearray(_SMALL_BYTES))

    @contextmanager
    def buffer(self, size_bytes: int) -> Iterator[memoryview]:
        """Room for `size_bytes`."""
        if size_bytes <= _SMALL_BYTES:
            yield self._small[:size_bytes]
        else:
            with self._room.lent(size_bytes) as view:
                yield view

    def close(self) -> None:
        """Close both connections."""
        self.source.close()
        self.target.close()


def damaged(place: Place, operation: str, message: str) -> CloudError:
    """What is not what its digest says; worth another try."""
    return CloudError(
        FailureClass.TRANSIENT,
        "ChecksumMismatch",
        message,
        happened="no",
        site=place.site.name,
        operation=f"s3:{operation}",
    )


@contextmanager
def refused_as_damaged(place: Place) -> Iterator[None]:
    """Within, what a store refuses because it is not what its digest says is worth another try: the bytes are right
    here, so it was on the way.
    """
    try:
        yield
    except CloudError as error:
        if error.code not in _REFUSED_DIGESTS:
            raise
        raise damaged(place, error.operation.removeprefix("s3:"), error.message) from error


class Courier:
    """Copies objects between two places; shared by all threads, each with its own hands."""

    def __init__(self, source: Place, target: Place, *, by_cloud: bool) -> None:
        self.source, self.target = source, target
        self.by_cloud = by_cloud
        self._conditional = True  # the source understands If-Match

    # -- reading ------------------------------------------------------------------------------------------

    def read(
        self, channel: ObjectChannel, entry: Entry, into: memoryview, span: tuple[int, int] | None = None
    ) -> tuple[Got, bytes]:
        """The bytes of an object, or of `span`, with their MD5. Raises Changed, Vanished, CloudError."""
        name, place = self.source.object(entry.key), self.source

        def once() -> tuple[Got, bytes]:
            got = channel.get(name, into, etag=entry.etag if self._conditional else "", span=span)
            md5 = hashlib.md5(into, usedforsecurity=False).digest()
            if got.etag == entry.etag and got.size_bytes != entry.size_bytes:
                raise damaged(place, "GetObject", f"{name.key} has {got.size_bytes} bytes, and had more")
            proven = span is None and is_md5(got.etag) and not got.encrypted
            if proven and got.etag == entry.etag and md5.hex() != got.etag:
                raise damaged(place, "GetObject", f"the bytes of {name.key} are not what its ETag says")
            return got, md5

        for _ in range(2):
            try:
                got, md5 = place.pace.run(once)
            except CloudError as error:
                if is_object_absent(error):
                    raise Vanished(entry.key) from error
                if error.code not in _NOT_AS_LISTED:
                    raise
                self._looked_again(channel, entry, error)
            else:
                if got.etag != entry.etag:  # a store that passes over If-Match
                    raise Changed(self.now(channel, entry.key))
                return got, md5
        raise damaged(place, "GetObject", f"{name.key} can't be read as it was listed")

    def now(self, channel: ObjectChannel, key: str) -> Entry:
        """An object as it is now; raises Vanished."""
        got = self.described(channel, key)
        return Entry(key, got.size_bytes, got.etag)

    def described(self, channel: ObjectChannel, key: str) -> Got:
        """What describes an object of the source; raises Vanished."""
        try:
            return self.source.pace.run(lambda: channel.head(self.source.object(key)))
        except CloudError as error:
            if is_object_absent(error):
                raise Vanished(key) from error
            raise

    def _looked_again(self, channel: ObjectChannel, entry: Entry, error: CloudError) -> None:
        """Refused for its condition: either the object changed, or the store does not understand our condition."""
        now = self.now(channel, entry.key)
        if (now.etag, now.size_bytes) != (entry.etag, entry.size_bytes):
            raise Changed(now) from error
        if not self._conditional:
            raise error
        self._conditional = False

    # -- a whole object -----------------------------------------------------------------------------------

    def whole(self, hands: Hands, entry: Entry) -> Copied:
        """Copy an object in one piece. Raises Changed, Vanished, CloudError."""
        with hands.buffer(entry.size_bytes) as view:
            got, md5 = self.read(hands.source, entry, view)
            name = self.target.object(entry.key)

            def once() -> Stored:
                with refused_as_damaged(self.target):
                    stored = hands.target.put(name, view, md5, got.facts)
                self._proven(stored, md5, name.key)
                return stored

            stored = self.target.pace.run(once)
        return Copied(_equal(entry, got, stored, md5), got.tags)

    def _proven(self, stored: Stored, md5: bytes, key: str) -> None:
        if not stored.encrypted and is_md5(stored.etag) and stored.etag != md5.hex():
            raise damaged(self.target, "PutObject", f"{key} was stored with another MD5 than was sent")

    def within(self, hands: Hands, entry: Entry) -> Copied | None:
        """A copy by the cloud itself, up to 5 GiB; None where it can't, and where it may not nothing is asked of it any
        more. Raises Changed, Vanished, CloudError.
        """
        if not self.by_cloud or entry.size_bytes > MOST_PUT_BYTES:
            return None
        source, target = self.source.object(entry.key), self.target.object(entry.key)
        given = {
            "Bucket": target.bucket,
            "Key": target.key,
            "CopySource": {"Bucket": source.bucket, "Key": source.key},
            "CopySourceIfMatch": f'"{entry.etag}"',
        }
        call: Callable[[], Any] = lambda: self.target.site.call("s3", "CopyObject", given)  # noqa: E731 - one use
        try:
            reply = self.target.pace.run(call)
        except CloudError as error:
            if is_object_absent(error):
                raise Vanished(entry.key) from error
            if error.code in _NOT_FOR_US or error.code in _NOT_AS_LISTED:
                self.by_cloud = error.code in _NOT_AS_LISTED
                return None  # read it ourselves: that says what it is now
            raise
        etag = str(reply["CopyObjectResult"]["ETag"]).strip('"')
        if (
            etag != entry.etag
        ):  # no proof: a store may have passed over the condition and copied what is there now
            now = self.now(hands.source, entry.key)
            if (now.etag, now.size_bytes) != (entry.etag, entry.size_bytes):
                raise Changed(now)
        version, from_version = reply.get("VersionId") or "", reply.get("CopySourceVersionId") or ""
        known = Known(entry.key, entry.size_bytes, entry.etag, etag, str(from_version), str(version))
        return Copied(known, by_cloud=True)

    # -- a large object where there are no uploads in parts -----------------------------------------------

    def streamed(self, hands: Hands, entry: Entry) -> Copied:
        """Copy an object of any size in one PutObject, read in ranges meanwhile. Raises as `whole` does."""
        if entry.size_bytes > MOST_PUT_BYTES:
            what = f"{entry.size_bytes} bytes: it takes at most 5 GiB at once and knows no uploads in parts"
            raise CloudError(
                FailureClass.INVALID,
                "EntityTooLarge",
                f"{entry.key} has {what}",
                happened="no",
                site=self.target.site.name,
                operation="s3:PutObject",
            )
        got = self.described(hands.source, entry.key)
        if got.etag != entry.etag:
            raise Changed(Entry(entry.key, got.size_bytes, got.etag))
        name = self.target.object(entry.key)
        given = {"Bucket": name.bucket, "Key": name.key, "ContentLength": entry.size_bytes}
        given |= written(got.facts)

        def once() -> tuple[Stored, bytes]:
            body = _Ranges(self, hands.source, entry, room)
            try:
                with refused_as_damaged(self.target):
                    reply = self.target.site.call("s3", "PutObject", {**given, "Body": body})
            except CloudError:
                if body.error is not None:
                    raise body.error from None
                raise
            stored = Stored(str(reply["ETag"]).strip('"'), str(reply.get("VersionId") or ""))
            if is_md5(got.etag) and not got.encrypted and body.md5.hexdigest() != got.etag:
                raise damaged(self.source, "GetObject", f"the bytes of {name.key} are not what its ETag says")
            self._proven(stored, body.md5.digest(), name.key)
            return stored, body.md5.digest()

        with hands.buffer(min(entry.size_bytes, _STREAM_BYTES)) as room:
            stored, md5 = self.target.pace.run(once)
        return Copied(_equal(entry, got, stored, md5), got.tags)


def _equal(entry: Entry, got: Got, stored: Stored, md5: bytes) -> Known:
    return Known(entry.key, entry.size_bytes, got.etag, stored.etag, got.version, stored.version, md5)


class _Ranges(io.RawIOBase):
    """An object of the source as a file that is read once, or, where its hash is wanted first, twice; a piece at a time
    through `room`.
    """

    def __init__(self, courier: Courier, channel: ObjectChannel, entry: Entry, room: memoryview) -> None:
        super().__init__()
        self._courier, self._channel, self._entry, self._room = courier, channel, entry, room
        self._place = 0
        self._piece = memoryview(b"")
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        """Only to the beginning, or to the end to ask how long it is."""
        if whence == io.SEEK_END and offset == 0:
            self._place = self._entry.size_bytes
        elif whence == io.SEEK_SET and offset == 0:
            self._place, self._piece = 0, memoryview(b"")
            self.md5 = hashlib.md5(usedforsecurity=False)
        else:
            raise io.UnsupportedOperation(f"seek({offset}, {whence})")
        return self._place

    def read(self, size: int = -1) -> bytes:
        if not self._piece:
            rest = self._entry.size_bytes - self._place
            if rest <= 0:
                return b""
            view = self._room[: min(rest, len(self._room))]  # all of the last piece was given
            span = (self._place, self._place + len(view) - 1)
            try:
                self._courier.read(self._channel, self._entry, view, span)
            except Exception as error:
                self.error = error
                raise OSError(str(error)) from error
            self.md5.update(view)
            self._piece = view
        taken = self._piece if size < 0 else self._piece[:size]
        self._piece = self._piece[len(taken) :]
        self._place += len(taken)
        return bytes(taken)
