"""Syncs that are killed: the next one sends what is missing, goes on with uploads in parts, and leaves none behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drpilot.base.clock import RealClock
from drpilot.transfer.syncrecord import SyncRecord, Underway
from tests.transfer.dock import MIB, Dock, Docked, data_of, docked, running

REAL = RealClock()
BIG = data_of(7, 65 * MIB)  # five parts
WORKER = """
import sys
from pathlib import Path
from drpilot.lab.process import World
from tests.transfer.dock import docked
folder, clouds, source, target, workers = sys.argv[1:]
like = World(Path(clouds))
found = {"aws": (like, "home", "aws"), "aws2": (like, "away", "aws")}
with docked(Path(folder), found) as dock:
    dock.sync(source, target, workers=int(workers))
"""


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


def killed(dock: Dock, source: str, target: str, when: Callable[[], bool], workers: int = 2) -> None:
    """Run a sync in a process of its own and kill it as soon as `when` holds."""
    clouds = str(dock.docked["aws"][0].directory)
    command = [sys.executable, "-c", WORKER, str(dock.folder), clouds, source, target, str(workers)]
    process = subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2])
    end = REAL.monotonic() + 60
    try:
        while not when():
            assert process.poll() is None, "the sync ended before it could be killed"
            assert REAL.monotonic() < end
            REAL.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait(30)


def parts(dock: Dock, place: str) -> int:
    """The parts that are there of the one upload under way."""
    bucket, door = dock.reach(place)
    return sum(
        len(page.get("Parts") or [])
        for one in dock.uploads(place)
        for page in door.pages(
            "s3", "ListParts", {"Bucket": bucket, "Key": one["Key"], "UploadId": one["UploadId"]}
        )
    )


def test_a_killed_sync_sends_only_what_is_missing(dock: Dock) -> None:
    """After SIGKILL half-way through small objects the rest is copied, and nothing that is there already."""
    objects = {f"{number:03d}": data_of(number, 200) for number in range(120)}
    ours, theirs = dock.bucket("aws", objects), dock.bucket("aws2")
    dock.control("aws2", "break", fault="latency=0.05:s3.PutObject")
    killed(dock, ours, theirs, lambda: dock.calls("aws2", "PutObject") >= 30)
    dock.control("aws2", "heal")
    dock.forget_calls()
    done = dock.sync(ours, theirs).tally  # what was on its way at the kill may still have arrived
    assert (done.same + done.copied, done.failed) == (120, 0)
    assert 20 <= done.same < 120
    assert dock.calls("aws", "GetObject") == dock.calls("aws2", "PutObject") == done.copied
    assert dock.contents(theirs) == objects


def test_a_killed_upload_goes_on_with_its_parts(dock: Dock) -> None:
    """After SIGKILL between parts the same upload is completed: only the missing parts are read and sent."""
    ours, theirs = dock.bucket("aws", {"big": BIG}), dock.bucket("aws2")
    dock.control("aws2", "break", fault="latency=0.4:s3.UploadPart")
    killed(dock, ours, theirs, lambda: parts(dock, theirs) >= 2)
    dock.control("aws2", "heal")
    (upload,) = dock.uploads(theirs)
    there = parts(dock, theirs)
    dock.forget_calls()
    done = dock.sync(ours, theirs).tally
    assert (done.copied, done.resumed_parts) == (1, there)
    assert dock.calls("aws2", "UploadPart") == dock.calls("aws", "GetObject") == 5 - there
    assert (dock.calls("aws2", "CreateMultipartUpload"), dock.uploads(theirs)) == (0, [])
    assert upload["Key"] == "big"
    assert dock.contents(theirs) == {"big": BIG}


def test_an_upload_of_what_the_source_no_longer_has_is_aborted(dock: Dock) -> None:
    """The object changed, or went, since the kill: its parts are of no use, and none are left behind."""
    ours, theirs = dock.bucket("aws", {"big": BIG}), dock.bucket("aws2")
    for change in ("changed", "gone"):
        dock.control("aws2", "break", fault="latency=0.4:s3.UploadPart")
        killed(dock, ours, theirs, lambda: parts(dock, theirs) >= 1)
        dock.control("aws2", "heal")
        if change == "changed":
            dock.put(ours, "big", BIG[::-1])
            assert dock.sync(ours, theirs).tally.resumed_parts == 0
            assert dock.contents(theirs) == {"big": BIG[::-1]}
            dock.put(ours, "big", BIG)
        else:
            bucket, door = dock.reach(ours)
            door.call("s3", "DeleteObject", {"Bucket": bucket, "Key": "big"})
            assert dock.sync(ours, theirs).tally.aborted_uploads == 1
        assert dock.uploads(theirs) == []


def test_an_upload_whose_id_never_arrived_is_found_by_its_intent(dock: Dock) -> None:
    """Killed between the store's answer and the record: the upload without parts is aborted; somebody else's is not."""
    ours, theirs = dock.bucket("aws", {"big": BIG}), dock.bucket("aws2")
    bucket, door = dock.reach(theirs)
    record = SyncRecord(dock.folder / "transfers", ours, theirs)
    record.begun(Underway("big", "", "etag", len(BIG), 16 * MIB))
    record.close()
    for key in ("big", "big2"):
        door.call("s3", "CreateMultipartUpload", {"Bucket": bucket, "Key": key})
    foreign = door.call("s3", "CreateMultipartUpload", {"Bucket": bucket, "Key": "big"})["UploadId"]
    given = {"Bucket": bucket, "Key": "big", "UploadId": foreign, "PartNumber": 1, "Body": b"theirs"}
    door.call("s3", "UploadPart", given)
    assert dock.sync(ours, theirs).tally.copied == 1
    assert sorted(one["Key"] for one in dock.uploads(theirs)) == ["big", "big2"]
    assert foreign in {one["UploadId"] for one in dock.uploads(theirs)}


def test_a_completed_upload_we_never_heard_of_is_not_sent_again(dock: Dock) -> None:
    """Killed between the completion and the record: the object is recognised by the ETag it had to get."""
    ours, theirs = dock.bucket("aws", {"big": BIG}), dock.bucket("aws2")
    dock.control("aws2", "break", fault="latency=30:s3.CompleteMultipartUpload")
    bucket, door = dock.reach(theirs)
    dock.forget_calls()
    killed(dock, ours, theirs, lambda: dock.calls("aws2", "CompleteMultipartUpload") == 1)
    record = SyncRecord(dock.folder / "transfers", ours, theirs)
    (left,) = record.left_underway()
    record.close()
    assert left.wanted.endswith("-5")
    dock.control("aws2", "heal")
    sent = [
        {"PartNumber": one["PartNumber"], "ETag": one["ETag"]} for one in _parts_of(dock, theirs, left.upload)
    ]
    given = {"Bucket": bucket, "Key": "big", "UploadId": left.upload, "MultipartUpload": {"Parts": sent}}
    if dock.uploads(theirs):
        door.call("s3", "CompleteMultipartUpload", given)
    dock.forget_calls()
    assert dock.sync(ours, theirs).tally.copied == 1
    assert (dock.calls("aws2", "UploadPart"), dock.calls("aws", "GetObject")) == (0, 0)
    assert dock.sync(ours, theirs).tally.same == 1


def _parts_of(dock: Dock, place: str, upload: str) -> list[dict[str, object]]:
    bucket, door = dock.reach(place)
    given = {"Bucket": bucket, "Key": "big", "UploadId": upload}
    return [part for page in door.pages("s3", "ListParts", given) for part in page.get("Parts") or []]
