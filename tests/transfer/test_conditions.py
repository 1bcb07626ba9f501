"""Objects replaced while a bucket is synced, at stores that know conditions and at stores that pass over them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from drpilot.domain.objects import ObjectChannel, ObjectName, Page
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
