"""The kill switch: every driver is stopped where it is, nothing more of a run leaves, and nothing is lost by it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import wait

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.domain.run import RunView
from drpilot.journal import chain
from drpilot.journal.halting import CHAIN
from drpilot.journal.journal import NewRun, Superseded
from tests.engine.test_tenure import ME, OTHER, driver
from tests.engine.world import Bench, plan, step

pytestmark = pytest.mark.crash


@pytest.fixture
def bench(journal_url: str) -> Iterator[Bench]:
    """A fresh journal and an empty shelf."""
    made = Bench(journal_url)
    yield made
    made.journal.database.close()


def begin(bench: Bench, group_lane: str = "copy") -> RunView:
    """A run of two puts."""
    wanted = plan(step("a"), step("b", needs=("a",)), lane=group_lane)
    return bench.journal.create(NewRun(bench.journal.new_id(), wanted, "me"))


def test_a_call_that_is_about_to_leave_stays_when_everything_is_halted(bench: Bench) -> None:
    """Its lease is fresh and its driver alive: the driver notices at its next look, and the call is not sent."""
    run = begin(bench)
    entered, leave = threading.Event(), threading.Event()

    def pause() -> None:
        entered.set()
        leave.wait(timeout=60)

    def press() -> None:
        assert entered.wait(timeout=60)
        assert bench.journal.halt("oncall", "the wrong account") == (run.name,)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(Superseded, match="nobody"):
        driver(bench, pause).drive(run.id, ME)
    thread.join(timeout=60)
    leave.set()
    wait(bench.journal.in_flight[run.id], timeout=60)
    assert [type(one.exception()) for one in bench.journal.in_flight[run.id]] == [Superseded]
    assert bench.shelf.calls == []
    view = bench.journal.view(run.id)
    assert (view.state, view.steps["a"].state, view.holder) == ("running", "running", None)


def test_while_all_is_halted_no_run_begins_and_none_is_driven(bench: Bench) -> None:
    """Refused with 5, and told by whom, since when and why."""
    run = begin(bench)
    bench.journal.halt("oncall", "the wrong account")
    for refused in (lambda: begin(bench, "move"), lambda: bench.driver().drive(run.id, ME)):
        with pytest.raises(DrpilotError, match="halted by oncall") as caught:
            refused()
        assert (caught.value.word, caught.value.exit_code) == ("halted", 5)
        assert caught.value.data["reason"] == "the wrong account"
    assert bench.shelf.calls == []


def test_what_was_halted_goes_on_when_the_halt_is_lifted(bench: Bench) -> None:
    """Whatever was under way is looked at, and the run ends as it would have, with nothing twice."""
    run = begin(bench)
    halted: list[tuple[str, ...]] = []

    def press() -> None:
        if not halted:
            halted.append(bench.journal.halt("oncall", "wait"))

    with pytest.raises(Superseded):
        driver(bench, press).drive(run.id, ME)
    assert bench.journal.lift("second", "it was the right account after all")
    view = driver(bench, lambda: None).drive(run.id, OTHER).view
    assert (view.state, view.result) == ("finished", "succeeded")
    assert [thing["name"] for thing in bench.shelf.things.values()] == ["a", "b"]


def test_a_halt_is_evidence(bench: Bench) -> None:
    """Who, why and when stand in a chain of its own and in that of every run it stopped; twice is once."""
    run = begin(bench)
    assert bench.journal.halted() is None
    assert bench.journal.halt("oncall", "one") == (run.name,)
    assert bench.journal.halt("second", "two") == ()
    found = bench.journal.halted()
    assert found is not None
    assert (found.by, found.reason) == ("oncall", "one")
    assert bench.journal.lift("second", "three")
    assert not bench.journal.lift("second", "four")
    events = bench.journal.events(run=CHAIN)
    chain.verify(CHAIN, events)
    told = [(event.kind, event.actor, event.body["reason"]) for event in events]
    assert told == [("halted", "oncall", "one"), ("lifted", "second", "three")]
    own = [event for event in bench.journal.events(run=run.id) if event.kind == "halted"]
    assert [(event.actor, event.body) for event in own] == [("oncall", {"term": 1, "reason": "one"})]
