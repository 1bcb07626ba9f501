"""A long transfer ends when nobody waits for it any more, and only then: real threads, a real journal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from drpilot.domain.plan import Plan
from drpilot.domain.ports import (
    Action,
    Answer,
    CloudError,
    Context,
    Done,
    Effect,
    FailureClass,
    Idempotency,
    Unseen,
)
from drpilot.domain.run import RunView
from drpilot.engine.drive import Drive
from drpilot.journal.journal import Superseded
from tests.engine.test_drive import ME, OTHER, begin
from tests.engine.world import Bench, LookInput, Nothing, plan, step

ASKS_MOST = 500  # a transfer that nobody ends is over after these, 10 ms each
SLOW = "thing.long"


class Long(Action[LookInput, Nothing]):
    """A transfer: it asks every 10 ms whether anybody waits for it. What it says in `ended` is how each call ended."""

    name = SLOW
    summary = "carry bytes for long"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    Input, Output = LookInput, Nothing

    def __init__(self) -> None:
        self.began = threading.Event()
        self.over = threading.Event()
        self.quick = False
        self.ended: list[str] = []

    def start(self, ctx: Context, given: LookInput) -> Answer[Nothing]:
        self.began.set()
        pause = threading.Event()
        for _ in range(0 if self.quick else ASKS_MOST):
            if ctx.unwanted():
                self.ended.append("unwanted")
                self.over.set()
                raise CloudError(FailureClass.CANCELLED, "Unwanted", "", happened="unknown", operation="Put")
            pause.wait(0.01)
        self.ended.append("to its end")
        self.over.set()
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: LookInput) -> Answer[Nothing]:
        return Done(Nothing()) if "to its end" in self.ended else Unseen(True, "it did not come to its end")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A fresh journal and an empty shelf."""
    return Bench(tmp_path)


def driven(bench: Bench, run: RunView, long: Long, then: Callable[[], None]) -> Drive:
    """Drive a run; once its transfer is under way, `then` happens beside it."""
    driver = bench.driver()
    driver.catalogue = {**driver.catalogue, long.name: long}
    happened: list[bool] = []

    def seen(view: RunView) -> None:
        if long.began.is_set() and not happened:
            happened.append(True)
            then()

    driver.seen = seen
    return driver.drive(run.id, ME)


def carrying(*more: str) -> Plan:
    """One transfer; `more` are steps after it."""
    return plan(step("carry", SLOW), *(step(name, needs=("carry",)) for name in more))


def test_a_cancelled_run_ends_its_transfer(bench: Bench) -> None:
    """The transfer ends in its middle, what came after is never begun, and the run is cancelled."""
    long, run = Long(), begin(bench, carrying("after"))
    drive = driven(bench, run, long, lambda: bench.journal.post(run.id, "cancel", "me") and None)
    assert (drive.view.state, drive.view.result) == ("finished", "cancelled")
    assert long.ended == ["unwanted"]
    assert bench.shelf.calls == []
    assert [one.state for _, one in bench.journal.attempts(run.id)] == ["failed"]


def test_a_driver_that_stops_ends_its_transfer_and_the_next_one_goes_on(bench: Bench) -> None:
    """The stop leaves the step's outcome unknown and the run as it is; another driver looks, and begins it again."""
    long, run = Long(), begin(bench, carrying("after"))
    driver = bench.driver()
    driver.catalogue = {**driver.catalogue, long.name: long}
    driver.seen = lambda view: driver.stop.set() if long.began.is_set() else None
    drive = driver.drive(run.id, ME)
    assert drive.stopped
    assert long.ended == ["unwanted"]
    assert drive.view.state == "running"
    assert drive.view.steps["carry"].state == "unknown"
    long.quick = True
    again = driven(bench, run, long, lambda: None)
    assert again.view.result == "succeeded"
    assert long.ended == ["unwanted", "to its end"]
    assert bench.shelf.calls == ["put after"]


def test_a_transfer_that_was_given_up_for_another_steps_failure_ends(bench: Bench) -> None:
    """A step beside it fails and ends the run (`on_failure: abort`): the transfer ends, and what is `always` runs."""
    long = Long()
    bench.shelf.fail_call = {1: FailureClass.INVALID}
    wanted = plan(
        step("carry", SLOW),
        step("beside", on_failure="abort"),
        step("clean", needs=("carry",), always=True),
    )
    view = driven(bench, begin(bench, wanted), long, lambda: None).view
    assert (view.state, view.result) == ("finished", "failed")
    assert long.ended == ["unwanted"]
    assert bench.shelf.calls == ["put beside", "put clean"]


def test_a_transfer_that_cleans_up_is_wanted_to_its_end(bench: Bench) -> None:
    """Steps marked `always` are what a run that is ended still waits for: theirs are not given up with it."""
    long = Long()
    wanted = plan(step("first", "check.source"), step("clean", SLOW, needs=("first",), always=True))
    view = driven(bench, begin(bench, wanted), long, lambda: None).view
    assert (view.state, view.result) == ("finished", "succeeded")
    assert long.ended == ["to its end"]


def test_a_driver_that_was_overtaken_ends_its_transfer(bench: Bench) -> None:
    """Once another driver has the run, what the first one carries is nobody's: it ends without writing anything."""
    long, run = Long(), begin(bench, carrying())

    def overtake() -> None:
        bench.clock.sleep(60)
        assert bench.journal.acquire(run.id, OTHER) is not None

    with pytest.raises(Superseded):
        driven(bench, run, long, overtake)
    assert long.over.wait(20)
    assert long.ended == ["unwanted"]
    assert bench.journal.view(run.id).steps["carry"].state == "running"


def test_a_failover_beside_a_transfer_goes_on_and_the_transfer_ends(bench: Bench) -> None:
    """The failover runs to its end while the copy still carries bytes; the copy then ends, cancelled by it."""
    long, copy = Long(), begin(bench, carrying("after"))
    moved: list[tuple[str | None, list[str]]] = []

    def fail_over() -> None:
        run = begin(bench, plan(step("restore"), mode="failover", lane="move"))
        view = bench.driver().drive(run.id, OTHER).view
        moved.append((view.result, list(long.ended)))

    drive = driven(bench, copy, long, fail_over)
    assert moved == [("succeeded", [])]
    assert drive.view.result == "cancelled"
    assert long.ended == ["unwanted"]
    assert bench.shelf.calls == ["put restore"]
