"""Objects on their way: replaced meanwhile, at stores that know conditions and at stores that pass over them; and the
memory they take.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from drpilot.base.clock import Chance, RealClock
from drpilot.domain.objects import Entry, ObjectChannel, ObjectName, Page
from drpilot.transfer.objectcopy import Courier, Hands, Room
from drpilot.transfer.objectlisting import Place, listed
from drpilot.transfer.pace import Pace
from drpilot.transfer.syncrecord import SyncRecord
from tests.transfer.dock import MIB, Between, Dock, Docked, data_of, docked, running


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docked]:
    """The stores."""
    with running(tmp_path_factory.mktemp("docked")) as found:
        yield {name: found[name] for name in ("aws", "aws2")}


@pytest.fixture
def dock(sites: Docked, tmp_path: Path) -> Iterator[Dock]:
    """The stores, empty and without faults."""
    sites["aws"][0].reset()
    with docked(tmp_path, sites) as made:
        yield made


def test_an_object_that_changes_where_reads_know_no_conditions_is_noticed(dock: Dock) -> None:
    """A store that passes over If-Match, and an object replaced between the look and the read: its new state arrives,
    under its own ETag and digest.
    """
    ours, theirs = dock.bucket("aws", {"it": data_of(3, 1000)}), dock.bucket("aws2")
    reads: list[str] = []

    class Unasked(Between):
        def channel(self) -> ObjectChannel:
            inner = super().channel()

            class Plain:
                def __getattr__(self, name: str) -> Any:
                    return getattr(inner, name)

                def get(self, name: ObjectName, into: memoryview, **more: Any) -> Any:
                    return inner.get(name, into, **{**more, "etag": ""})

            return cast("ObjectChannel", Plain())

        def before_get(self, name: ObjectName) -> None:
            reads.append(name.key)
            if len(reads) == 1:
                dock.put(ours, "it", data_of(4, 1000))

    dock.plane = lambda name, plane: Unasked(plane) if name == "aws" else plane
    done = dock.sync(ours, theirs).tally
    assert (done.changed, done.copied, done.failed) == (1, 1, 0)
    assert dock.contents(theirs) == {"it": data_of(4, 1000)}
    record = SyncRecord(dock.folder / "transfers", ours, theirs)
    (known,) = record.known()
    record.close()
    assert known.source_etag == known.md5.hex() == hashlib.md5(data_of(4, 1000)).hexdigest()


def test_a_copy_by_the_store_is_of_what_was_listed(dock: Dock) -> None:
    """Replaced between the listing and the copy: found out by its ETag, read, and copied as it is now."""
    ours, theirs = dock.bucket("aws", {"a": b"1"}), dock.bucket("aws")

    class Late(Between):
        def page(self, channel: ObjectChannel, bucket: str, prefix: str, following: str) -> Page:
            found = channel.page(bucket, prefix, following)
            if found.entries:
                dock.put(ours, "a", b"22")
            return found

    dock.plane = lambda _, plane: Late(plane)
    done = dock.sync(ours, theirs).tally
    assert (done.changed, done.copied) == (1, 1)
    assert dock.contents(theirs) == {"a": b"22"}


class Counted(Room):
    """Counts the most that was lent at once."""

    def __init__(self, total_bytes: int) -> None:
        super().__init__(total_bytes)
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    @contextmanager
    def lent(self, size_bytes: int) -> Iterator[memoryview]:
        with super().lent(size_bytes) as view:
            with self.lock:
                self.now += size_bytes
                self.most = max(self.most, self.now)
            yield view
            with self.lock:
                self.now -= size_bytes


def test_streams_take_their_memory_from_the_common_room(dock: Dock) -> None:
    """Large objects in one piece, four threads, room for two: never more than that is lent, and all arrive."""
    objects = {str(number): data_of(number, 9 * MIB) for number in range(4)}
    ours, theirs = dock.bucket("aws", objects), dock.bucket("aws2")
    doors, room = dock.doors(), Counted(16 * MIB)
    places = [
        Place(
            dock.sites[site],
            doors.plane(site),
            place.removeprefix("s3://").partition("@")[0],
            "",
            Pace(RealClock(), Chance(1)),
        )
        for site, place in (("aws", ours), ("aws2", theirs))
    ]
    courier = Courier(places[0], places[1], by_cloud=False)
    entries = list(listed(places[0]))

    def carry(entry: Entry) -> None:
        hands = Hands(places[0], places[1], room)
        courier.streamed(hands, entry)
        hands.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(carry, entries))
    assert dock.contents(theirs) == objects
    assert room.most in (8 * MIB, 16 * MIB)


class Unconditional:
    """A site whose store passes over CopySourceIfMatch; `before_copy` happens before each copy."""

    def __init__(self, site: Any, before_copy: Callable[[str], None]) -> None:
        self._site, self._before_copy = site, before_copy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._site, name)

    def call(self, service: str, operation: str, params: dict[str, Any], **more: Any) -> dict[str, Any]:
        if operation == "CopyObject":
            self._before_copy(params["Key"])
            params = {name: value for name, value in params.items() if name != "CopySourceIfMatch"}
        return dict(self._site.call(service, operation, params, **more))


@pytest.mark.parametrize("size", [1000, 17 * MIB])
def test_a_copy_by_a_store_that_knows_no_conditions_is_looked_at_afterwards(dock: Dock, size: int) -> None:
    """Replaced between the listing and the copy, and nothing refused it: what arrived is recorded under the ETag it had
    when it was copied, so that an object that is put back as it was is copied again.
    """
    ours, theirs = dock.bucket("aws"), dock.bucket("aws")
    old, new = data_of(5, size), data_of(6, size)
    replaced: list[str] = []
    bucket, door = dock.reach(ours)
    channel = dock.doors().plane("aws").channel()

    def put(data: bytes) -> None:
        """In one piece, or in parts where the ETag is to be no MD5."""
        if size < MIB:
            channel.put(ObjectName(bucket, "it"), memoryview(data), hashlib.md5(data).digest(), {})
            return
        given = {"Bucket": bucket, "Key": "it"}
        given["UploadId"] = door.call("s3", "CreateMultipartUpload", given)["UploadId"]
        part = door.call("s3", "UploadPart", {**given, "PartNumber": 1, "Body": data})
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        door.call("s3", "CompleteMultipartUpload", {**given, "MultipartUpload": parts})

    def replace_once(key: str) -> None:
        if not replaced:
            replaced.append(key)
            put(new)

    put(old)
    dock.sites["aws"] = Unconditional(door, replace_once)  # type: ignore[assignment]  # a door all the same
    first = dock.sync(ours, theirs).tally
    assert (first.changed, first.copied, first.failed) == (1, 1, 0)
    put(old)
    assert dock.sync(ours, theirs).tally.copied == 1
    assert dock.contents(theirs) == {"it": old}
    channel.close()
