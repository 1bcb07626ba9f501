"""The service: due runs once over several processes, take-over, draining, telling the service manager."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Self

import pytest
import structlog

from drpilot.base import log
from drpilot.base.clock import RealClock
from drpilot.base.retry import Patience
from drpilot.domain.run import RunView
from drpilot.serve import Options, Service, notify, serve
from drpilot.services.watch import Happening
from tests.postgres import Fresh
from tests.services.world import GROUP, Tiny, failover_plan, replicate_plan

ROOT = Path(__file__).resolve().parents[1]
CLOCK = RealClock()


def until(holds: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Wait until something holds; a test that waits in vain says for what."""
    end = CLOCK.monotonic() + timeout_s
    while not holds():
        assert CLOCK.monotonic() < end, f"never: {what}"
        CLOCK.sleep(0.05)


@pytest.fixture
def processes() -> Iterator[Callable[[Path, float], subprocess.Popen[str]]]:
    """Starts service processes; ends those it started."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path, seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.services.serving", str(folder), str(seconds)]
        with (folder / f"serve-{len(started)}.log").open("w") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(30)


def told(folder: Path) -> list[str]:
    """Every line every service process told."""
    return [line for log in sorted(folder.glob("serve-*.log")) for line in log.read_text().splitlines()]


def test_two_processes_begin_each_due_run_exactly_once(
    tmp_path: Path, processes: Callable[[Path, float], subprocess.Popen[str]]
) -> None:
    """Eight groups fall due at the same moment under two living services: eight runs, all driven to their end."""
    tiny = Tiny(tmp_path, RealClock())
    groups = [f"g{number}" for number in range(8)]
    soon = CLOCK.now().replace(microsecond=0) + timedelta(seconds=8)
    for name in groups:
        tiny.journal.protect(replace(GROUP, name=name), "", "tester")
        tiny.journal.plan_next(name, "replicate", soon)
    both = [processes(tmp_path, 0.02) for _ in range(2)]
    until(lambda: len(tiny.journal.services()) == 2, "two services alive")
    until(lambda: all(tiny.journal.runs(name) for name in groups), "every due run begun")
    until(lambda: not tiny.journal.runs(live=True), "every run driven to its end")
    for process in both:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(40) for process in both] == [0, 0]
    assert {name: len(tiny.journal.runs(name)) for name in groups} == dict.fromkeys(groups, 1)
    assert all(tiny.journal.runs(name)[0].result == "succeeded" for name in groups)
    assert len([line for line in told(tmp_path) if line.startswith("begun ")]) == 8
    assert tiny.journal.services() == ()


def test_the_run_of_a_killed_service_is_taken_over(
    tmp_path: Path, processes: Callable[[Path, float], subprocess.Popen[str]]
) -> None:
    """SIGKILL in the middle of a step: another service on this host goes on at once and ends the run."""
    tiny = Tiny(tmp_path, RealClock())
    run = tiny.begin(replicate_plan(tiny.journal.new_id()))
    first = processes(tmp_path, 600.0)
    until(lambda: tiny.journal.view(run.id).steps["capture"].state == "running", "the first step runs")
    assert tiny.journal.view(run.id).holder is not None
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    second = processes(tmp_path, 0.01)
    until(lambda: tiny.journal.view(run.id).result is not None, "the run ended")
    second.send_signal(signal.SIGTERM)
    assert second.wait(40) == 0
    view = tiny.journal.view(run.id)
    assert (view.result, view.term) == ("succeeded", 2)


def test_a_service_told_to_stop_ends_running_calls_and_hands_back(
    tmp_path: Path, processes: Callable[[Path, float], subprocess.Popen[str]]
) -> None:
    """SIGTERM while a call runs: its outcome is recorded, nothing new starts, the lease is free, exit 0."""
    tiny = Tiny(tmp_path, RealClock())
    run = tiny.begin(replicate_plan(tiny.journal.new_id()))
    process = processes(tmp_path, 2.0)
    until(lambda: tiny.journal.view(run.id).steps["capture"].state == "running", "the first step runs")
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == 0
    view = tiny.journal.view(run.id)
    assert {path: step.state for path, step in view.steps.items()} == {
        "capture": "succeeded",
        "standby": "pending",
    }
    assert (view.state, view.holder, view.lease_until) == ("running", None, None)
    assert tiny.journal.services() == ()
    assert any(re.match(r"drove shop/1 replicate: running, handed back", line) for line in told(tmp_path))
    assert tiny.drive(view).result == "succeeded"


class Running:
    """A service in a thread of this process."""

    def __init__(self, tiny: Tiny, **options: object) -> None:
        self.tiny = tiny
        self.happenings: list[Happening] = []
        chosen = Options(signals=False, tell=self.happenings.append, **options)  # type: ignore[arg-type]
        self.house = tiny.fresh(9)
        self.service = Service(self.house, chosen)
        self.code: int | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.code = self.service.run()

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.house.stop.set()
        self.thread.join(40)
        self.house.journal.database.close()

    def said(self, what: str) -> list[Happening]:
        """The happenings of one kind."""
        return [item for item in self.happenings if item.what == what]


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    """READY, STATUS and STOPPING arrive as datagrams at NOTIFY_SOCKET (sd_notify(3))."""
    tiny = Tiny(tmp_path, RealClock())
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(path)
        channel.settimeout(30)
        with Running(tiny, notify_socket=path) as running:
            first = channel.recv(4096).decode()
            second = channel.recv(4096).decode()
        rest = channel.recv(4096).decode()
        while "STOPPING" not in rest:
            rest = channel.recv(4096).decode()
    assert first.startswith("STATUS=driving 0 runs")
    assert second == "READY=1"
    assert rest.startswith("STOPPING=1")
    assert running.code == 0


def test_an_abstract_socket_is_told_and_a_missing_one_is_no_trouble(tmp_path: Path) -> None:
    """A name that begins with @ is abstract; nobody listening is not an error."""
    name = f"@drpilot-test-{os.getpid()}-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind("\0" + name[1:])
        channel.settimeout(10)
        assert notify(name, "READY=1") is True
        assert channel.recv(64) == b"READY=1"
    assert notify(name, "READY=1") is False
    assert notify(None, "READY=1") is False
    assert notify("", "READY=1") is False


def test_a_move_never_waits_for_room(tmp_path: Path) -> None:
    """One slot, taken by a copy that hangs: the failover beside it is driven all the same."""
    tiny = Tiny(tmp_path, RealClock())
    tiny.outside.usual_s = 0.01
    tiny.replicate()
    tiny.journal.protect(replace(GROUP, name="crm"), "", "tester")
    tiny.journal.protect(replace(GROUP, name="web"), "", "tester")
    tiny.outside.takes_s = {"capture": 600.0}
    tiny.outside.hold = threading.Event()
    begun = [tiny.begin(replicate_plan(tiny.journal.new_id(), name)) for name in ("crm", "web")]
    try:
        with Running(tiny, parallel=1) as running:
            until(lambda: any(tiny.journal.view(run.id).holder for run in begun), "a copy is driven")
            plan = failover_plan(tiny.newest())
            move = tiny.begin(plan, tiny.proposal(plan, approvers=2))
            until(lambda: tiny.journal.view(move.id).state != "created", "the move is driven")
            driven = [run for run in begun if tiny.journal.view(run.id).holder is not None]
            assert len(driven) == 1
            tiny.outside.takes_s = {}
            tiny.outside.hold.set()
            until(lambda: tiny.journal.view(move.id).state == "waiting", "the move reached its gate")
            until(
                lambda: not [run for run in tiny.journal.runs(live=True) if run.lane == "copy"],
                "the copies ended",
            )
        assert running.code == 0
    finally:
        tiny.outside.hold.set()


def test_trouble_of_one_chore_does_not_end_the_service(tmp_path: Path) -> None:
    """A bug while beginning is told; the service goes on driving."""
    tiny = Tiny(tmp_path, RealClock())
    tiny.outside.usual_s = 0.01

    def bug(mode: str, group: str) -> RunView:
        raise RuntimeError("a bug")

    tiny.journal.plan_next("shop", "replicate", CLOCK.now() - timedelta(seconds=1))
    with Running(tiny, begin=bug) as running:
        until(lambda: bool(running.said("error")), "the error was told")
        run = tiny.begin(replicate_plan(tiny.journal.new_id()))
        until(lambda: tiny.journal.view(run.id).result == "succeeded", "the run was driven")
    assert "a bug" in running.said("error")[0].text
    assert running.code == 0


def test_a_service_outlives_a_journal_that_does_not_answer(tmp_path: Path, own_server: Fresh) -> None:
    """Its server is gone for longer than anybody waits: that is told, the manager hears of life, and work goes on."""
    tiny = Tiny(tmp_path, RealClock(), url=own_server.journal())
    tiny.outside.usual_s = 0.01
    tiny.patience = Patience(attempts=20, first_s=0.05, max_s=0.1, budget_s=0.5)
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(path)
        channel.settimeout(30)
        with Running(tiny, notify_socket=path) as running:
            until(lambda: bool(tiny.journal.services()), "the service lives")
            own_server.stop()
            until(lambda: len(running.said("error")) > 2, "the error was told, more than once")
            while select.select([channel], [], [], 0)[0]:
                channel.recv(4096)
            assert channel.recv(4096) == b"WATCHDOG=1"
            own_server.start()
            run = tiny.begin(replicate_plan(tiny.journal.new_id()))
            until(lambda: tiny.journal.view(run.id).result == "succeeded", "the run was driven")
    assert "does not answer" in running.said("error")[0].text
    assert running.code == 0
    tiny.journal.database.close()


def test_the_service_looks_at_sites_and_repeats_a_fence(tmp_path: Path) -> None:
    """The first look comes at once: signs of life are written, an open fence of a site that answers is tried."""
    tiny = Tiny(tmp_path, RealClock())
    tiny.outside.usual_s = 0.01
    tiny.replicate()
    tiny.outside.verdict = "unverified"
    tiny.failover()
    tiny.journal.post(tiny.journal.view("shop").id, "approve", "second")
    tiny.drive(tiny.journal.view("shop"))
    asked: list[tuple[str, str]] = []

    def begin(mode: str, group: str) -> RunView:
        asked.append((mode, group))
        return tiny.journal.view(group)

    with Running(tiny, begin=begin) as running:
        until(lambda: bool(running.said("fencing")), "the fence was tried again")
    assert asked == [("fence", "shop")]
    seen = tiny.journal.site("home")
    assert seen is not None and seen.answers is True


def test_one_log_line_a_happening(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a `tell` of its own the service writes its log; starting and ending are in it."""
    log.configure(verbose=True, json_lines=True)
    try:
        tiny = Tiny(tmp_path, RealClock())
        tiny.house.stop.set()
        assert serve(tiny.house, Options(signals=False)) == 0
    finally:
        structlog.reset_defaults()  # what was configured writes to a stream that ends with this test
    lines = [json.loads(line) for line in capsys.readouterr().err.strip().splitlines()]
    assert [line["event"] for line in lines] == ["started", "ended"]
