"""What the foundation costs, measured beside something known: medians and ratios, for this machine and this moment.

Contenders take turns within one run, so that what else the machine does meets both; read the ratios, not the seconds.
"""

from __future__ import annotations

import os
import resource
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from drpilot.base.clock import Chance, RealClock
from drpilot.domain.run import Note
from drpilot.journal.database import Database
from drpilot.journal.journal import Journal, NewRun
from tests.contract.grounds import Ground, opened
from tests.crash.yard import Yard
from tests.engine.test_drive import ME
from tests.engine.world import GROUP, plan, step

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
CLOCK = RealClock()


def in_turns(rounds: int, contenders: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Wall seconds of each contender, one after the other in every round, in alternating order."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in sorted(contenders, reverse=number % 2 == 1):
            began = CLOCK.monotonic()
            contenders[name]()
            found[name].append(CLOCK.monotonic() - began)
    return found


def ratio(found: dict[str, list[float]], one: str, other: str) -> float:
    """The median of the ratios round by round."""
    return statistics.median(mine / theirs for mine, theirs in zip(found[one], found[other], strict=True))


def said(title: str, found: dict[str, list[float]], one: str, other: str) -> str:
    """One line: the medians in milliseconds with their spread, and the ratio."""
    parts = []
    for name in (one, other):
        times = sorted(1e3 * value for value in found[name])
        low, high = times[len(times) // 10], times[-1 - len(times) // 10]
        parts.append(f"{name} {statistics.median(times):.2f} ms ({low:.2f} to {high:.2f})")
    return f"{title}: {', '.join(parts)}; ratio {ratio(found, one, other):.2f}, {len(found[one])} rounds"


def test_describe_over_http_beside_moto(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """DescribeVolumes of fifty volumes, and of one of them by id: the lab's server and moto's, by the same client."""
    with ExitStack() as stack:
        calls: dict[str, Callable[[], object]] = {}
        ones: dict[str, Callable[[], object]] = {}
        for name in ("lab-http", "moto"):
            folder = tmp_path / name
            folder.mkdir()
            ground: Ground = stack.enter_context(opened(name, folder))
            client: Any = ground.site._clients.client("ec2")  # past the rates we keep for a real cloud
            made = [client.create_volume(AvailabilityZone=ground.zone, Size=1)["VolumeId"] for _ in range(50)]
            calls[name] = client.describe_volumes
            ones[name] = lambda client=client, known=made[25]: client.describe_volumes(VolumeIds=[known])
            assert len(client.describe_volumes()["Volumes"]) == 50
        for title, contenders in (("DescribeVolumes of 50", calls), ("DescribeVolumes of 1", ones)):
            in_turns(5, contenders)
            record_property("said", said(title, in_turns(60, contenders), "lab-http", "moto"))


def test_a_guarded_commit_beside_a_raw_insert(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The smallest commit of a run (guard, one event of the chain, fsync), and one row into SQLite set the same way."""
    journal = Journal(Database(f"sqlite:///{tmp_path}/journal.db"), CLOCK, Chance(1))
    journal.protect(GROUP, "", "bench")
    run = journal.create(NewRun(journal.new_id(), plan(step("a")), "bench"))
    lease = journal.acquire(run.id, ME)
    assert lease is not None
    raw = sqlite3.connect(tmp_path / "raw.db", isolation_level=None)
    raw.execute("PRAGMA journal_mode=WAL")
    raw.execute("PRAGMA synchronous=FULL")
    raw.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")

    def insert() -> None:
        raw.execute("BEGIN IMMEDIATE")
        raw.execute("INSERT INTO note (text) VALUES (?)", ("x" * 200,))
        raw.execute("COMMIT")

    contenders: dict[str, Callable[[], object]] = {
        "journal": lambda: journal.commit(lease, [Note("bench", "x" * 200)]),
        "sqlite3": insert,
    }
    in_turns(20, contenders)
    found = in_turns(300, contenders)
    record_property("said", said("a commit of one event", found, "journal", "sqlite3"))
    assert sum(event.kind == "note" for event in journal.events(run=run.id)) == 320
    raw.close()
    journal.database.close()


def children_s() -> float:
    """CPU seconds of all ended children so far: wall time of a start-up is mostly the neighbours'."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_help_beside_an_empty_python(record_property: Callable[[str, object], None]) -> None:
    """CPU of `drpilot --help` beside `python -c pass`, bytecode in place; the goal is ten times as much at most."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE", "PYTHON"))
    }
    commands = {
        "drpilot --help": [sys.executable, "-m", "drpilot", "--help"],
        "python -c pass": [sys.executable, "-c", "pass"],
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(16):
        for name, command in commands.items():
            before = children_s()
            ended = subprocess.run(command, check=True, capture_output=True, env=environment, cwd=ROOT)
            assert (b"failover" in ended.stdout) == (name == "drpilot --help")
            if number:
                found[name].append(children_s() - before)
    record_property("said", said("CPU of a start", found, "drpilot --help", "python -c pass"))


def test_a_failover_of_the_shop(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """The shop's failover on lab processes, home refusing: its steps, commits, changing calls, and journal seconds."""
    yard = Yard(tmp_path)
    try:
        yard.open()
        assert yard.run("replicate")["ended"] == "finished succeeded"
        yard.lab.control("home", "break", fault="refuse")
        yard.save("dead")
        tries, times = [], []
        for _ in range(5):
            yard.restore("dead")
            told = yard.run("failover")
            assert told["ended"] == "finished succeeded_with_warnings", told
            journal = yard.journal()
            run = journal.runs("shop")[0]
            journal.database.close()
            assert run.started_at is not None
            assert run.ended_at is not None
            times.append((run.ended_at - run.started_at).total_seconds())
            tries.append((len(run.steps), told["commits"], len(told["calls"])))
        spread = f"{min(times):.1f} to {max(times):.1f}"
        counts = ", ".join(
            f"{len(set(each))} value(s) {sorted(set(each))}" for each in zip(*tries, strict=True)
        )
        record_property(
            "said",
            f"failover: median {statistics.median(times):.1f} s ({spread}) of a lab at 60 times the pace; "
            f"steps, commits, changing calls of {len(times)} runs: {counts}",
        )
        assert len({calls for _, _, calls in tries}) == 1, "the same failover makes the same calls"
    finally:
        yard.close()
