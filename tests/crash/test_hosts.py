"""Two controllers on two hosts share a journal on PostgreSQL: the driver of a failover is killed, or its server is."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text

from drpilot import census
from drpilot.base.clock import RealClock, micros
from drpilot.domain.plan import Approval
from drpilot.domain.run import RunView
from drpilot.journal import chain
from drpilot.journal.database import Database
from drpilot.journal.holder import LEASE_S
from drpilot.journal.journal import Journal
from drpilot.journal.tables import metadata
from drpilot.services.attend import attend
from drpilot.services.begin import Asking, Typed, begin, consent, propose
from drpilot.services.house import House
from drpilot.services.steer import Order, order
from drpilot.wiring import open_house
from tests.crash.yard import Yard
from tests.postgres import Fresh, Server

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
CONTROLLER = """
import socket, sys
name = sys.argv.pop(1)
socket.gethostname = lambda: name  # another host: nothing of it can be seen from here
from drpilot.cli.app import main
main()
"""


def carried(yard: Yard, url: str) -> None:
    """Copy the yard's journal, row by row, into a journal on a server."""
    file, there = Database(f"sqlite:///{yard.folder}/journal.db"), Database(url)
    with file.engine.connect() as source, there.engine.begin() as target:
        for table in metadata.sorted_tables:
            rows = [dict(row) for row in source.execute(select(table)).mappings()]
            if rows:
                target.execute(insert(table), rows)
        for name in ("event", "approval"):
            query = f"SELECT setval('{name}_id_seq', (SELECT coalesce(max(id), 0) + 1 FROM {name}), false)"
            target.execute(text(query))
    file.close()
    there.close()


@pytest.fixture
def controllers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Controllers that a test starts; what is left of them is ended."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def controller(yard: Yard, host: str, *command: str) -> subprocess.Popen[bytes]:
    """A drpilot on a host of that name, on the journal that the environment names."""
    environment = {**os.environ, "DRPILOT_LAB_HOME": str(yard.folder), "PYTHONPATH": str(ROOT)}
    with (yard.folder / f"{host}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", CONTROLLER, host, *command, "--lab"],
            env=environment,
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )


def until(done: Callable[[], bool], yard: Yard, seconds: float) -> None:
    """Wait, at most so long; the controllers' logs are shown when it never came."""
    clock = RealClock()
    end = clock.monotonic() + seconds
    while not done():
        logs = "\n".join(path.read_text()[-2000:] for path in yard.folder.glob("host-*.log"))
        assert clock.monotonic() < end, logs
        clock.sleep(0.05)


def begun(house: House) -> RunView:
    """A failover of the shop, consented to and driven by nobody yet."""
    proposed = propose(house, "failover", "shop", Asking(reason="a test", break_glass="the test is alone"))
    approval = consent(house, proposed, Typed("shop", 3600))
    assert isinstance(approval, Approval)
    return begin(house, proposed, approval)


def half_way(journal: Journal, run: str) -> bool:
    """Whether somebody drives it, some steps are done and one is under way."""
    view = journal.view(run)
    states = Counter(step.state for step in view.steps.values())
    return view.holder is not None and states["succeeded"] >= 6 and states["running"] + states["waiting"] > 0


@pytest.mark.parametrize("other", ["a service", "a person who watches"])
def test_the_other_host_finishes_what_the_killed_one_drove(
    yard: Yard,
    server: Server,
    controllers: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
    other: str,
) -> None:
    """Killed half-way, taken over when its lease has run out: the same end, nothing twice, each repeat on record."""
    yard.restore("dead")
    monkeypatch.setenv("DRPILOT_LAB_DATABASE_URL", server.journal())
    carried(yard, os.environ["DRPILOT_LAB_DATABASE_URL"])
    house = open_house(lab=True, person="oncall", home=yard.folder)
    run, clock, journal = begun(house), RealClock(), house.journal
    if other == "a service":
        controllers += [controller(yard, "host-a", "serve"), controller(yard, "host-b", "serve")]
        waits = None
    else:
        controllers.append(controller(yard, "host-a", "run", "resume", "shop"))
        until(lambda: journal.view(run.id).holder is not None, yard, 60)
        waits = threading.Thread(target=lambda: attend(house, run.id))
        waits.start()
    until(lambda: half_way(journal, run.id), yard, 90)
    holder = journal.view(run.id).holder
    assert holder is not None
    driving = next(process for process in controllers if process.pid == holder.pid)
    driving.kill()
    killed_at = micros(clock.now())
    lost = journal.view(run.id)
    assert lost.state == "running", lost.state
    until(lambda: journal.view(run.id).term == 2, yard, LEASE_S + 5)
    until(lambda: journal.view(run.id).state == "awaiting_commit", yard, 120)
    ended_at = clock.now()
    if waits is not None:
        waits.join(timeout=60)
    in_air = {path for path, step in lost.steps.items() if step.state == "running"}
    taken = settled(yard, house, run.id, in_air)
    assert taken is not None
    assert taken.body["from"] == holder.text
    assert holder.text not in taken.body["holder"]
    took_s, ended_s = ((micros(at) - killed_at) / 1e6 for at in (taken.at, ended_at))
    record_property(
        "said",
        f"two hosts: {other} took over {took_s:.1f} s after kill -9 (lease {LEASE_S:.0f} s), and the failover was over "
        f"{ended_s - took_s:.1f} s later",
    )
    house.journal.database.close()


def settled(yard: Yard, house: House, run: str, in_air: set[str]) -> chain.Event | None:
    """The shop has moved, nothing is there twice, and each repeat is on record; the second acquisition, if any.

    `in_air` are the steps that were in the middle of an attempt when their driver was lost.
    """
    journal = house.journal
    order(house, run, Order("commit", data={"confirm": "shop"}))
    assert attend(house, run, patient_s=30).state == "finished"
    view, events = journal.view(run), journal.events(run=run)
    assert view.result in ("succeeded", "succeeded_with_warnings")
    chain.verify(run, events)
    taken = [event for event in events if event.kind == "acquired" and event.body["term"] == 2]
    unknown = {
        event.body["key"].partition(":")[2]
        for event in events
        if event.kind == "moved" and (event.body["family"], event.body["event"]) == ("step", "reply lost")
    }
    # Every attempt that was in the air is on record as unknown before anything was done about it.
    assert in_air <= unknown, (in_air, unknown)
    attempts = Counter(path for path, _ in journal.attempts(run))
    assert {path for path, count in attempts.items() if count > 1} <= unknown
    tokens = {attempt.token for each in journal.runs("shop") for _, attempt in journal.attempts(each.id)}
    rows = yard.inventory()
    assert [row["id"] for row in rows if row["tags"].get("drpilot:attempt") not in (None, *tokens)] == []
    assert census.duplicates(rows) == []
    group = journal.group("shop")
    assert (group.state, group.active) == ("active_unprotected", "away")
    return taken[0] if taken else None


def test_a_server_that_is_gone_for_ten_seconds_stops_no_failover(
    yard: Yard,
    own_server: Fresh,
    controllers: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """Two services; the journal's server is stopped at once in the middle of a failover, and is back 10 s later."""
    yard.restore("dead")
    monkeypatch.setenv("DRPILOT_LAB_DATABASE_URL", own_server.journal())
    carried(yard, os.environ["DRPILOT_LAB_DATABASE_URL"])
    house = open_house(lab=True, person="oncall", home=yard.folder)
    run, clock, journal = begun(house), RealClock(), house.journal
    controllers += [controller(yard, "host-a", "serve"), controller(yard, "host-b", "serve")]
    until(lambda: half_way(journal, run.id), yard, 90)
    assert journal.view(run.id).state == "running"
    own_server.stop()
    clock.sleep(10)
    own_server.start()
    until(lambda: journal.view(run.id).state == "awaiting_commit", yard, 120)
    assert [process.poll() for process in controllers] == [None, None]
    taken = settled(yard, house, run.id, set())
    attempts = Counter(path for path, _ in journal.attempts(run.id))
    assert taken is not None or set(attempts.values()) == {1}, attempts
    how = "the other went on" if taken is not None else "its driver went on"
    again = sum(count - 1 for count in attempts.values())
    record_property(
        "said", f"two hosts: server gone for 10 s in a failover: {how}, {again} steps tried again"
    )
    house.journal.database.close()
