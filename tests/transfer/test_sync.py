"""Buckets brought into step over HTTP, between stores of unlike clouds: real bytes, counted calls, nothing lost."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.domain.objects import Entry, ObjectChannel, ObjectName, Page, Stored
from drpilot.domain.ports import CloudError, FailureClass
from drpilot.transfer.syncrecord import SyncRecord, last_receipt
from tests.grounds import Door, key_file, moto_server, patient
from tests.transfer.dock import MIB, ODD, Between, Dock, Docked, data_of, docked, running

BIG = data_of(1, 17 * MIB)
PAIRS = [
    ("aws", "aws2", "fast"),
    ("aws", "aws2", "sdk"),
    ("new", "aws", "fast"),
    ("aws", "new", "fast"),
    ("old", "new", "fast"),
    ("aws", "old", "fast"),
]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docked]:
    """Four stores as processes, for all tests here."""
    with running(tmp_path_factory.mktemp("docked")) as found:
        yield found


@pytest.fixture
def dock(sites: Docked, tmp_path: Path) -> Iterator[Dock]:
    """The stores, empty and without faults."""
    for world in {id(one[0]): one[0] for one in sites.values()}.values():
        world.reset()
    with docked(tmp_path, sites) as made:
        yield made


@pytest.mark.parametrize(("source", "target", "engine"), PAIRS)
def test_a_bucket_travels_whole_and_once(dock: Dock, source: str, target: str, engine: str) -> None:
    """Every key, byte and description arrives; the second sync reads two listings and nothing else."""
    objects = {key: key.encode() * 3 for key in ODD} | {"empty": b""}
    ours = dock.bucket(source)
    for key, data in objects.items():
        dock.put(ours, key, data, ContentType="text/odd", CacheControl="no-cache", Metadata={"mark": "m 1"})
    dock.put(ours, "big", BIG, ContentType="app/big", Metadata={"mark": "big"})
    theirs = dock.bucket(target)
    done = dock.sync(ours, theirs, engine)
    assert dock.contents(theirs) == {**objects, "big": BIG}
    assert (done.tally.copied, done.tally.failed) == (len(objects) + 1, 0)
    assert done.tally.copied_bytes == sum(map(len, objects.values())) + len(BIG)
    for key in ("a//b", "empty", "big"):
        here, there = dock.get(ours, key), dock.get(theirs, key)
        names = ("ContentType", "CacheControl", "Metadata")
        assert [here.get(name) for name in names] == [there.get(name) for name in names]
    reads = dock.control(source, "calls", operation="GetObject")["calls"]
    assert all(call["params"].get("IfMatch") for call in reads[: len(objects)])
    parts = dock.calls(target, "UploadPart")
    assert parts == (0 if target == "old" else 2)
    assert ("-" in dock.get(theirs, "big")["ETag"]) == (target != "old")
    dock.forget_calls()
    again = dock.sync(ours, theirs, engine)
    assert (again.tally.same, again.tally.copied) == (len(objects) + 1, 0)
    for site in (source, target):
        moved = [dock.calls(site, name) for name in ("GetObject", "HeadObject", "PutObject", "UploadPart")]
        assert moved == [0, 0, 0, 0]


def test_only_what_changed_is_copied_and_only_deleted_when_asked(dock: Dock) -> None:
    """A changed, a new and a removed object below a prefix; a dry run tells all of it and does none."""
    objects = {f"in/{number:03d}": data_of(number, 100) for number in range(40)}
    ours, theirs = dock.bucket("aws", {**objects, "other": b"not below"}), dock.bucket("new")
    bucket = ours.removeprefix("s3://").partition("@")[0]
    source = f"{bucket}/in@aws"  # the scheme may be left out
    target = theirs.replace("@", "/deep/er@")
    dock.sync(source, target)
    dock.put(ours, "in/007", b"changed")
    dock.put(ours, "in/new", b"new")
    dock.reach(ours)[1].call("s3", "DeleteObject", {"Bucket": bucket, "Key": "in/001"})
    dock.forget_calls()
    dry = dock.sync(source, target, delete=True, dry_run=True).tally
    assert (dry.copied, dry.surplus, dry.deleted, dry.planned) == (2, 1, 0, ["007", "new"])
    assert dock.calls("new", "PutObject") == 0
    kept = dock.sync(source, target).tally
    assert (kept.copied, kept.surplus, kept.deleted) == (2, 1, 0)
    assert "deep/er/001" in dock.contents(theirs)
    done = dock.sync(source, target, delete=True).tally
    assert (done.copied, done.deleted) == (0, 1)
    wanted = {key.removeprefix("in/"): data for key, data in dock.contents(ours).items() if key != "other"}
    assert dock.contents(theirs) == {f"deep/er/{key}": data for key, data in wanted.items()}


def test_the_way_back_knows_what_the_way_there_knew(dock: Dock) -> None:
    """An object sent in parts has another ETag there; the record spares copying it back, and a lost record does not."""
    ours, theirs = dock.bucket("aws", {"big": BIG, "small": b"s"}), dock.bucket("aws2")
    dock.sync(ours, theirs)
    assert dock.sync(theirs, ours).tally.same == 2
    (record,) = (dock.folder / "transfers").glob("*.db")
    record.unlink()
    again = dock.sync(ours, theirs).tally
    assert (again.same, again.copied) == (1, 1)  # MD5s prove the small one, nothing proves the big one


def test_one_object_that_fails_costs_the_others_nothing(dock: Dock) -> None:
    """What can't be written is named, all the rest arrives, and nothing is deleted."""
    ours = dock.bucket("aws", {f"{number:02d}": data_of(number, 50) for number in range(20)})
    theirs = dock.bucket("old", {"extra": b"only here"})
    dock.put(ours, "ü" * 300, b"600 bytes of key")
    target = theirs.replace("@", f"/{'p' * 600}@")
    dock.put(theirs, f"{'p' * 600}/surplus", b"")
    done = dock.sync(ours, target, delete=True).tally
    assert (done.copied, done.failed, done.surplus, done.deleted) == (20, 1, 1, 0)
    (failure,) = done.failures
    assert (failure.key, failure.code) == ("ü" * 300, "KeyTooLongError")


def test_an_object_larger_than_one_put_is_named_and_the_others_go_on(dock: Dock) -> None:
    """3.4 takes 5 GiB at once and knows no parts: what is larger is an error of that object alone."""

    class Huge(Between):
        def page(self, channel: ObjectChannel, bucket: str, prefix: str, following: str) -> Page:
            found = channel.page(bucket, prefix, following)
            large = [replace(one, size_bytes=6 << 30) if one.key == "huge" else one for one in found.entries]
            return Page(tuple(large), found.following)

    dock.plane = lambda name, plane: Huge(plane) if name == "aws" else plane
    ours, theirs = dock.bucket("aws", {"a": b"1", "huge": b"2", "z": b"3"}), dock.bucket("old")
    done = dock.sync(ours, theirs).tally
    assert [(one.key, one.code) for one in done.failures] == [("huge", "EntityTooLarge")]
    assert set(dock.contents(theirs)) == {"a", "z"}


def test_an_empty_source_empties_nothing(dock: Dock) -> None:
    """A misspelt prefix looks like a bucket that was emptied: nothing is deleted."""
    ours, theirs = dock.bucket("aws", {"a": b"1"}), dock.bucket("aws2", {"a": b"1"})
    with pytest.raises(DrpilotError) as caught:
        dock.sync(ours.replace("@", "/misspelt@"), theirs, delete=True)
    assert caught.value.word == "source-empty"
    assert dock.contents(theirs) == {"a": b"1"}


@pytest.mark.parametrize(("size", "parts"), [(1000, 0), (17 * MIB, 2)])
def test_an_object_that_changes_while_it_is_read_arrives_as_one_state(
    dock: Dock, size: int, parts: int
) -> None:
    """Replaced between listing and reading, or between two parts: the new bytes arrive, never a mixture."""
    ours, theirs = dock.bucket("aws", {"it": data_of(3, size)}), dock.bucket("aws2")
    lock, reads = threading.Lock(), []

    class Changing(Between):
        def before_get(self, name: ObjectName) -> None:
            with lock:
                reads.append(name)
                if len(reads) == max(1, parts):  # the last part, when the others may be there already
                    dock.put(ours, "it", data_of(4, size))

    dock.plane = lambda name, plane: Changing(plane) if name == "aws" else plane
    done = dock.sync(ours, theirs, workers=2).tally
    assert (done.changed, done.copied, done.failed) == (1, 1, 0)
    assert dock.contents(theirs) == {"it": data_of(4, size)}
    assert dock.uploads(theirs) == []


def test_an_object_that_never_stops_changing_is_an_error(dock: Dock) -> None:
    """After three times it is named, and nothing of it is written."""
    ours, theirs = dock.bucket("aws", {"it": b"0", "other": b"1"}), dock.bucket("aws2")

    class Changing(Between):
        number = 0

        def before_get(self, name: ObjectName) -> None:
            if name.key == "it":
                Changing.number += 1
                dock.put(ours, "it", str(Changing.number).encode())

    dock.plane = lambda name, plane: Changing(plane) if name == "aws" else plane
    done = dock.sync(ours, theirs).tally
    assert [(one.key, one.code) for one in done.failures] == [("it", "Changing")]
    assert dock.contents(theirs) == {"other": b"1"}


def test_an_object_that_vanished_is_no_error(dock: Dock) -> None:
    """Deleted between listing and reading: counted, and not there."""
    ours, theirs = dock.bucket("aws", {"it": b"0", "other": b"1"}), dock.bucket("aws2")
    bucket, door = dock.reach(ours)

    class Vanishing(Between):
        def before_get(self, name: ObjectName) -> None:
            door.call("s3", "DeleteObject", {"Bucket": bucket, "Key": "it"})

    dock.plane = lambda name, plane: Vanishing(plane) if name == "aws" else plane
    done = dock.sync(ours, theirs, workers=1).tally
    assert (done.vanished, done.copied, done.failed) == (1, 1, 0)


@pytest.mark.parametrize("side", ["source", "target"])
def test_bytes_damaged_on_the_way_never_become_an_object(dock: Dock, side: str) -> None:
    """A flipped bit is tried again; one that is always flipped is an error, and no wrong byte is stored."""
    ours, theirs = dock.bucket("aws", {"good": b"good", "bad": b"0123456789"}), dock.bucket("aws2")
    flips = {"left": 1}

    class Flipping(Between):
        def got(self, into: memoryview) -> None:
            if len(into) == 10 and flips["left"]:
                flips["left"] -= 1
                into[3] ^= 1

        def put(self, channel: ObjectChannel, name: ObjectName, data: memoryview, *more: Any) -> Stored:
            if len(data) == 10 and flips["left"]:
                flips["left"] -= 1
                wrong = bytearray(data)
                wrong[3] ^= 1
                return channel.put(name, memoryview(wrong), *more)
            return channel.put(name, data, *more)

    at = {"source": "aws", "target": "aws2"}[side]
    dock.plane = lambda name, plane: Flipping(plane) if name == at else plane
    flips["left"] = 1000
    done = dock.sync(ours, theirs)
    counts = done.source_counts if side == "source" else done.target_counts
    assert [(one.key, one.code) for one in done.tally.failures] == [("bad", "ChecksumMismatch")]
    assert counts.mismatched == 3
    assert dock.contents(theirs) == {"good": b"good"}
    flips["left"] = 1
    assert dock.sync(ours, theirs).tally.failed == 0
    assert dock.contents(theirs) == {"good": b"good", "bad": b"0123456789"}


@pytest.mark.parametrize(
    ("sides", "order"),
    [
        (("aws", "aws2"), lambda rows: random.Random(2).shuffle(rows)),
        (("aws",), lambda rows: rows.insert(0, rows.pop())),
    ],
)
def test_a_store_that_lists_out_of_order_is_believed_in_the_end_only(
    dock: Dock, sides: tuple[str, ...], order: Callable[[list[Entry]], None]
) -> None:
    """Names in another order are sorted on disk first: nothing is deleted or copied for its place in a listing."""
    objects = {f"{number:03d}": data_of(number, 20) for number in range(60)}
    ours, theirs = dock.bucket("aws", objects), dock.bucket("aws2", {**objects, "extra": b"x"})

    class Disordered(Between):
        def page(self, channel: ObjectChannel, bucket: str, prefix: str, following: str) -> Page:
            rows = list(channel.page(bucket, prefix, "").entries)
            order(rows)
            start = int(following or 0)
            return Page(tuple(rows[start : start + 25]), str(start + 25) if start + 25 < len(rows) else "")

    dock.plane = lambda name, plane: Disordered(plane) if name in sides else plane
    done = dock.sync(ours, theirs, delete=True).tally
    assert (done.same, done.copied, done.deleted) == (60, 0, 1)
    assert dock.contents(theirs) == objects
    dock.put(ours, "059", b"changed")
    dock.control("aws2", "break", fault="throttle:s3.PutObject@1-3")
    done = dock.sync(ours, theirs).tally
    assert (done.same, done.copied, done.failed) == (59, 1, 0)  # what is throttled is still tried again


def recorded(dock: Dock, source: str, target: str) -> set[str]:
    """The names that the record of a pair knows."""
    record = SyncRecord(dock.folder / "transfers", source, target)
    try:
        return {one.key for one in record.known()}
    finally:
        record.close()


def test_what_a_disordered_listing_seems_to_lack_stays_in_the_record(dock: Dock) -> None:
    """Out of order on both sides, and then broken off: no name that is still there is forgotten, and one that is on
    neither side is, once both listings were read to their ends.
    """
    objects = {f"{number:03d}": data_of(number, 20) for number in range(60)}
    ours, theirs = dock.bucket("aws", objects), dock.bucket("aws2")
    dock.sync(ours, theirs)
    for place in (ours, theirs):
        bucket, door = dock.reach(place)
        door.call("s3", "DeleteObject", {"Bucket": bucket, "Key": "030"})
    whole: list[bool] = []

    class Disordered(Between):
        def page(self, channel: ObjectChannel, bucket: str, prefix: str, following: str) -> Page:
            rows = channel.page(bucket, prefix, "").entries
            rows = (*rows[40:50], *rows[:40], *rows[50:])
            start = int(following or 0)
            if start == 50 and not whole:
                raise CloudError(FailureClass.AUTH, "ExpiredToken", "", happened="no", site="aws")
            return Page(tuple(rows[start : start + 25]), str(start + 25) if start + 25 < len(rows) else "")

    dock.plane = lambda _, plane: Disordered(plane)
    with pytest.raises(CloudError, match="ExpiredToken"):
        dock.sync(ours, theirs, delete=True)
    assert recorded(dock, ours, theirs) == set(objects)
    whole.append(True)
    done = dock.sync(ours, theirs, delete=True).tally
    assert (done.same, done.copied, done.deleted) == (59, 0, 0)
    assert recorded(dock, ours, theirs) == set(objects) - {"030"}


def test_buckets_longer_than_a_page(dock: Dock) -> None:
    """Version 1 on Eucalyptus and version 2 on AWS give 1,000 names at a time; all of them are merged."""
    objects = {f"{number:05d}": b"%d" % number for number in range(1050)}
    ours, theirs = dock.bucket("aws"), dock.bucket("new")
    channel = dock.doors().plane("aws").channel()
    name = ours.removeprefix("s3://").partition("@")[0]
    for key, data in objects.items():
        channel.put(ObjectName(name, key), memoryview(data), hashlib.md5(data).digest(), {})
    channel.close()
    assert dock.sync(ours, theirs).tally.copied == 1050
    dock.forget_calls()
    assert dock.sync(ours, theirs).tally.same == 1050
    assert (dock.calls("aws", "ListObjectsV2"), dock.calls("new", "ListObjects")) == (2, 2)


def test_within_one_store_the_store_itself_copies(dock: Dock) -> None:
    """Two buckets of one site: no object comes here; places that lie in each other are refused."""
    ours, theirs = dock.bucket("aws", {"a": b"1", "b/c+d": b"2", "big": BIG}), dock.bucket("aws")
    dock.forget_calls()
    done = dock.sync(ours, theirs)
    assert (done.tally.copied, done.tally.by_cloud, done.by_cloud) == (3, 3, True)
    assert dock.calls("aws", "GetObject") == 0
    assert dock.contents(theirs) == {"a": b"1", "b/c+d": b"2", "big": BIG}
    assert dock.sync(ours, theirs).tally.same == 3
    with pytest.raises(DrpilotError) as caught:
        dock.sync(ours, ours.replace("@", "/below@"))
    assert caught.value.word == "usage"


def test_throttles_are_waited_out_and_told_apart(dock: Dock) -> None:
    """A store that asks to slow down gets less at once and everything in the end."""
    ours, theirs = dock.bucket("aws", {f"{n:02d}": data_of(n, 30) for n in range(40)}), dock.bucket("aws2")
    dock.control("aws2", "break", fault="throttle:s3.PutObject@1-6")
    done = dock.sync(ours, theirs)
    assert (done.tally.copied, done.tally.failed) == (40, 0)
    counts = done.target_counts
    assert counts.throttled_account + counts.throttled_snapshot == 6
    assert len(dock.contents(theirs)) == 40


def test_the_reply_to_the_completion_of_an_upload_may_be_lost(dock: Dock) -> None:
    """The object is there and is recognised by the ETag it had to get: nothing is sent twice."""
    ours, theirs = dock.bucket("aws", {"big": BIG}), dock.bucket("aws2")
    dock.control("aws2", "break", fault="lost-reply:s3.CompleteMultipartUpload@1")
    done = dock.sync(ours, theirs).tally
    assert (done.copied, done.failed) == (1, 0)
    assert (dock.calls("aws2", "UploadPart"), dock.uploads(theirs)) == (2, [])
    assert dock.contents(theirs) == {"big": BIG}


def test_two_syncs_of_one_pair_do_not_meet(dock: Dock) -> None:
    """Whoever comes second is told so, whatever the direction."""
    ours, theirs = dock.bucket("aws", {"a": b"1"}), dock.bucket("aws2")
    held = SyncRecord(dock.folder / "transfers", theirs, ours)
    with pytest.raises(DrpilotError) as caught:
        dock.sync(ours, theirs)
    assert caught.value.word == "copy-busy"
    held.close()
    assert dock.sync(ours, theirs).tally.copied == 1


def test_each_direction_has_its_own_receipt(dock: Dock) -> None:
    """What was brought back says nothing of how old the other side is, and does not wipe out what is known of it."""
    ours, theirs = dock.bucket("aws", {"a": b"1"}), dock.bucket("aws2")
    folder = dock.folder / "transfers"
    dock.sync(ours, theirs, by="run/step")
    assert last_receipt(folder, theirs, ours) is None
    there = last_receipt(folder, ours, theirs)
    assert there is not None
    assert (there["by"], there["copied"]) == ("run/step", 1)
    dock.sync(theirs, ours)
    back = last_receipt(folder, theirs, ours)
    assert back is not None
    assert (back["by"], back["same"]) == ("", 1)
    assert last_receipt(folder, ours, theirs) == there
    dock.sync(ours, theirs)
    again = last_receipt(folder, ours, theirs)
    assert again is not None
    assert (again["by"], again["same"]) == ("", 1)
    assert last_receipt(folder, theirs, ours) == back


def test_versions_are_noted_and_only_the_current_one_travels(dock: Dock, tmp_path: Path) -> None:
    """From a bucket that keeps versions (moto's server) the record has the version of what was copied."""
    keys = tmp_path / "moto"
    keys.mkdir()
    with moto_server(tmp_path) as url:
        door = Door(url, key_file(keys), "moto", "us-east-1", ways=patient())
        dock.sites["moto"] = door.open()
        call = dock.sites["moto"].call
        call("s3", "CreateBucket", {"Bucket": "kept"})
        given = {"Bucket": "kept", "VersioningConfiguration": {"Status": "Enabled"}}
        call("s3", "PutBucketVersioning", given)
        call("s3", "PutObject", {"Bucket": "kept", "Key": "it", "Body": b"old"})
        version = call("s3", "PutObject", {"Bucket": "kept", "Key": "it", "Body": b"new"})["VersionId"]
        tagged = {"Bucket": "kept", "Key": "tagged", "Body": b"t", "Tagging": "a=b"}
        call("s3", "PutObject", tagged)
        theirs = dock.bucket("aws")
        done = dock.sync("s3://kept@moto", theirs)
        assert (done.versioned, done.tally.copied, done.tally.tagged) == (True, 2, 1)
        assert any("keeps versions" in note for note in done.notes)
        assert any("1 of the objects copied have tags" in note for note in done.notes)
        assert dock.contents(theirs) == {"it": b"new", "tagged": b"t"}
        record = SyncRecord(dock.folder / "transfers", "s3://kept@moto", theirs)
        assert {one.key: one.source_version for one in record.known()}["it"] == version
        record.close()
        assert dock.sync("s3://kept@moto", theirs).tally.same == 2
