"""The service on two clouds: it begins what is due once, drives what is left, fences what comes back, and drains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drpilot.base.clock import RealClock
from drpilot.domain.plan import Approval
from drpilot.journal.journal import Journal
from drpilot.services.attend import attend
from drpilot.services.begin import Asking, Typed, begin, consent, propose
from drpilot.services.steer import Order, order
from drpilot.wiring import open_house
from tests.crash.yard import Yard

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).resolve().parents[2]


def serve(yard: Yard) -> subprocess.Popen[bytes]:
    """One `drpilot serve` on the yard's journal."""
    environment = {**os.environ, "DRPILOT_LAB_HOME": str(yard.folder), "PYTHONPATH": str(ROOT)}
    with (yard.folder / "serve.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "drpilot", "serve", "--lab"],
            env=environment,
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )


def until(journal: Journal, done: Callable[[], bool], yard: Yard, seconds: float = 90) -> None:
    """Wait, at most so long; the service's log is shown when it never came."""
    clock = RealClock()
    end = clock.monotonic() + seconds
    while not done():
        assert clock.monotonic() < end, (yard.folder / "serve.log").read_text()[-3000:]
        clock.sleep(0.3)


@pytest.fixture
def stopped() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Services a test starts; each must end by itself on SIGTERM."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.row(77)
def test_two_services_begin_a_due_replication_once_and_drain(
    yard: Yard, stopped: list[subprocess.Popen[bytes]]
) -> None:
    """Due now, two services alive: one run, driven to its end; SIGTERM ends both in good order."""
    yard.restore("replicated")
    journal = yard.journal()
    before = len(journal.runs("shop"))
    journal.unschedule("shop")
    journal.plan_next("shop", "replicate", journal.clock.now())
    stopped += [serve(yard), serve(yard)]
    until(journal, lambda: len(journal.runs("shop")) > before, yard)
    until(journal, lambda: not journal.runs("shop", live=True), yard)
    runs = journal.runs("shop")
    assert len(runs) == before + 1
    assert (runs[0].mode, runs[0].result) == ("replicate", "succeeded")
    assert all(schedule.next_at > journal.clock.now() for schedule in journal.schedules())
    assert yard.end()["duplicates"] == []
    for process in stopped:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(timeout=40) for process in stopped] == [0, 0]
    assert journal.services() == ()
    journal.database.close()


@pytest.mark.row(68, 86)
def test_a_service_drives_a_failover_and_fences_home_when_it_wakes(
    yard: Yard, stopped: list[subprocess.Popen[bytes]]
) -> None:
    """Begun and left: the service drives it; the old side comes back writing, and is fenced without anybody asking."""
    yard.restore("dead")
    stopped.append(serve(yard))
    house = open_house(lab=True, person="oncall", home=yard.folder)
    until(house.journal, lambda: bool(house.journal.services()), yard)
    proposed = propose(house, "failover", "shop", Asking(reason="a test", break_glass="the test is alone"))
    approval = consent(house, proposed, Typed("shop", 3600))
    assert isinstance(approval, Approval)
    run = begin(house, proposed, approval)
    until(house.journal, lambda: house.journal.view(run.id).state == "awaiting_commit", yard)
    assert house.journal.view(run.id).holder is None or house.journal.view(run.id).holder != house.holder
    order(house, run.id, Order("commit", data={"confirm": "shop"}))
    assert attend(house, run.id, patient_s=30).state == "finished"
    assert house.journal.group("shop").fences["home"]["state"] == "unverified"
    yard.lab.control("home", "heal")
    until(house.journal, lambda: house.journal.group("shop").fences["home"]["state"] == "fenced", yard)
    instances = [row for row in yard.inventory() if (row["site"], row["kind"]) == ("home", "instance")]
    tiers = [row for row in instances if row["tags"].get("tier") in ("db", "app", "web")]
    assert [row["id"] for row in tiers if row["row"]["State"]["Name"] == "running"] == []
    stopped[0].send_signal(signal.SIGTERM)
    assert stopped[0].wait(timeout=40) == 0
    house.journal.database.close()
