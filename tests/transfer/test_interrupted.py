"""Copies that are killed: what the next try sends again, and what it must not believe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from drpilot.base.clock import RealClock
from drpilot.base.errors import DrpilotError
from drpilot.base.ids import digest
from drpilot.formats.blockmap import BLOCK_BYTES
from drpilot.lab.process import World
from drpilot.transfer.ledger import Head, Ledger, Record
from tests.transfer.world import GIB, Yard, as_numbers, map_by_hand, overwrite, write_image

REAL = RealClock()
BLOCKS = {index: index + 1 for index in range(0, 450, 3)}
WORKER = """
import sys
from pathlib import Path
from drpilot.lab.process import World
from tests.transfer.world import over_http
folder, clouds, source, target, base = sys.argv[1:]
with over_http(Path(folder), World(Path(clouds)), "fast") as yard:
    yard.copy(source, target, base=Path(base) if base else None, most=16)
"""


def ledger_of(yard: Yard) -> Path:
    """The ledger of the one copy that is under way."""
    (path,) = yard.path("transfers").glob("*.ledger")
    return path


def killed(yard: Yard, world: World, *given: str | Path, after: int, base: Path | None = None) -> int:
    """Run a copy in a process of its own and kill it once its ledger has `after` blocks; how many it had at the end."""
    command = [
        sys.executable,
        "-c",
        WORKER,
        str(yard.folder),
        str(world.directory),
        *map(str, given),
        str(base or ""),
    ]
    process = subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2])
    end = REAL.monotonic() + 60
    try:
        while finished_in(yard) < after:
            assert process.poll() is None, "the copy ended before it could be killed"
            assert REAL.monotonic() < end
            REAL.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait(30)
    return finished_in(yard)


def finished_in(yard: Yard) -> int:
    """The blocks a ledger says are finished, read from a copy so that nobody is disturbed."""
    found = list(yard.path("transfers").glob("*.ledger"))
    if not found:
        return 0
    copy = yard.path("peeked")
    copy.write_bytes(found[0].read_bytes())
    ledger = Ledger(copy)
    try:
        return len({record.index for record in ledger.records()})
    finally:
        ledger.close(remove=True)


def test_a_killed_push_goes_on_where_it_stopped(fast: Yard, pair: World) -> None:
    """After SIGKILL the same command sends exactly the blocks the ledger does not have, into the same snapshot."""
    image = write_image(fast.path("image"), BLOCKS)
    fast.control("home", "break", fault="latency=0.3:ebs.PutSnapshotBlock")
    finished = killed(fast, pair, image, "snapshot@home", after=20)
    assert 20 <= finished < len(BLOCKS)
    sent = fast.calls("home", "PutSnapshotBlock")
    fast.control("home", "heal")
    fast.forget_calls()
    done = fast.copy(image, "snapshot@home")
    again = fast.calls("home", "PutSnapshotBlock")
    assert (again, done.copied.tally.resumed) == (len(BLOCKS) - finished, finished)
    assert (
        sent + again <= len(BLOCKS) + 16 * 11 + 16
    )  # at most what a second, and one in flight for each connection, takes
    assert fast.calls("home", "StartSnapshot") == 0
    assert fast.snapshot_blocks(done.target) == as_numbers(map_by_hand(image))
    assert list(fast.path("transfers").iterdir()) == []


def test_a_killed_pull_goes_on_where_it_stopped(fast: Yard, pair: World) -> None:
    """A new file has no name until it is complete; after SIGKILL only what is missing is fetched."""
    image = write_image(fast.path("image"), BLOCKS)
    source = fast.copy(image, "snapshot@home").target
    fast.forget_calls()
    fast.control("home", "break", fault="latency=0.3:ebs.GetSnapshotBlock")
    finished = killed(fast, pair, source, fast.path("new"), after=20)
    assert not fast.path("new").exists()
    fast.control("home", "heal")
    fast.forget_calls()
    done = fast.copy(source, fast.path("new"))
    assert fast.calls("home", "GetSnapshotBlock") == len(BLOCKS) - finished
    assert done.copied.tally.resumed == finished
    assert map_by_hand(fast.path("new")) == map_by_hand(image)
    assert sorted(path.name for path in fast.folder.iterdir()) == ["image", "new", "transfers"]


def test_a_source_that_changed_meanwhile_is_sent_as_it_is_now(fast: Yard, pair: World) -> None:
    """Blocks of a device that an earlier try sent are compared again: no mixture of two states becomes a snapshot."""
    image = write_image(fast.path("image"), BLOCKS)
    fast.control("home", "break", fault="latency=0.3:ebs.PutSnapshotBlock")
    killed(fast, pair, image, "snapshot@home", after=20)
    fast.control("home", "heal")
    overwrite(image, {0: 5001, 3: 0, 4: 5002})
    with image.open("r+b") as file:  # holes where data was sent: everything from block 300 on
        file.truncate(300 * BLOCK_BYTES)
        file.truncate(GIB)
    done = fast.copy(image, "snapshot@home")
    assert done.copied.tally.resumed >= 10
    assert fast.snapshot_blocks(done.target) == as_numbers(map_by_hand(image))


def test_half_of_another_copy_is_no_base(fast: Yard, pair: World) -> None:
    """A device on which a copy was interrupted takes the same copy, or a full one by --restart, and no other."""
    image = write_image(fast.path("image"), BLOCKS)
    kept, standing = fast.path("kept.map"), fast.path("standing")
    first = fast.copy(image, "snapshot@home").target
    fast.copy(first, standing, keep_map=kept)
    overwrite(image, dict.fromkeys(BLOCKS, 7000))
    second = fast.copy(image, "snapshot@home").target
    fast.control("home", "break", fault="latency=0.3:ebs.GetSnapshotBlock")
    killed(fast, pair, second, standing, after=20, base=kept)
    fast.control("home", "heal")
    for given in ({"base": kept}, {}, {"base": kept, "restart": True}):
        with pytest.raises(DrpilotError) as caught:
            fast.copy(first, standing, **given)
        assert caught.value.word == "copy-unfinished"
    fast.copy(first, standing, restart=True)
    assert as_numbers(map_by_hand(standing)) == fast.snapshot_blocks(first)


def test_what_was_begun_and_is_gone_is_begun_anew(fast: Yard, pair: World) -> None:
    """A pending snapshot that somebody deleted is not written to: the copy starts another one."""
    image = write_image(fast.path("image"), BLOCKS)
    fast.control("home", "break", fault="latency=0.3:ebs.PutSnapshotBlock")
    killed(fast, pair, image, "snapshot@home", after=20)
    fast.control("home", "heal")
    ledger = Ledger(ledger_of(fast))
    started = ledger.state["snapshot"]
    ledger.close()
    fast.sites["home"].call("ec2", "DeleteSnapshot", {"SnapshotId": started})
    done = fast.copy(image, "snapshot@home")
    assert done.target != f"{started}@home"
    assert done.copied.tally.written == len(BLOCKS)
    assert fast.snapshot_blocks(done.target) == as_numbers(map_by_hand(image))


def test_one_process_at_a_copy(fast: Yard) -> None:
    """Whoever holds the ledger is the only one who copies there."""
    image = write_image(fast.path("image"), {1: 1})
    held = Ledger(
        fast.path("transfers") / f"{digest(['path', str(fast.path('standing').resolve())])[:32]}.ledger"
    )
    with pytest.raises(DrpilotError) as caught:
        fast.copy(image, fast.path("standing"))
    assert caught.value.word == "copy-busy"
    held.close()
    fast.copy(image, fast.path("standing"))


HEAD = Head("a", "b", "", 10, "t")


@pytest.mark.parametrize("cut", [1, 5, 20, 36, 37, 44])
def test_a_torn_end_of_a_ledger_is_cut_off(tmp_path: Path, cut: int) -> None:
    """Whatever is missing at the end, the whole frames before it are believed, and writing goes on behind them."""
    path = tmp_path / "one.ledger"
    ledger = Ledger(path)
    ledger.begin(HEAD)
    ledger.keep({"snapshot": "snap-1"})
    ledger.finished([Record(1, b"x" * 32, written=True)])
    whole = path.stat().st_size
    ledger.finished([Record(2, None, written=False)])
    ledger.close()
    os.truncate(path, path.stat().st_size - cut)
    again = Ledger(path)
    assert (again.head, again.state) == (HEAD, {"snapshot": "snap-1"})
    assert list(again.records()) == [Record(1, b"x" * 32, written=True)]
    assert path.stat().st_size == whole
    again.finished([Record(3, b"y" * 32, written=False)])
    again.close()
    last = Ledger(path)
    assert [record.index for record in last.records()] == [1, 3]
    last.close(remove=True)
    assert not path.exists()


@pytest.mark.parametrize(
    "text", [b"", b"rubbish", b"DRPLEDG\x01", b"DRPLEDG\x01\x03\x01\x00\x00\x00\x00\x00\x00\x00x"]
)
def test_a_file_that_is_no_ledger_is_an_empty_one(tmp_path: Path, text: bytes) -> None:
    """Rubbish names no copy, so there is none to go on with."""
    path = tmp_path / "one.ledger"
    path.write_bytes(text)
    ledger = Ledger(path)
    assert (ledger.head, ledger.state, list(ledger.records())) == (None, {}, [])
    ledger.begin(HEAD)
    ledger.close()
    again = Ledger(path)
    assert again.head == HEAD
    again.close()
