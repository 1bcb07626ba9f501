"""Dying at every commit over the real journal: the end is the same, and without intents it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import wait
from typing import Any

import pytest

from drpilot.domain.run import Change, Intent
from drpilot.journal import chain
from tests.engine.test_drive import ME, OTHER, begin, bench, chained
from tests.engine.world import Bench, plan, step

__all__ = ["bench"]


class Killed(BaseException):
    """The process is gone."""


def kill_at(bench: Bench, number: int, *, after: bool) -> None:
    """Die before or after commit `number`, as SIGKILL would."""
    count = 0

    def hook(changes: Sequence[Change]) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise Killed

    bench.journal.before_commit, bench.journal.after_commit = (None, hook) if after else (hook, None)


@pytest.mark.parametrize("after", [False, True])
def test_every_commit_is_a_legal_place_to_die(after: bool, new_journal: Callable[[], str]) -> None:
    """Kill at each commit in turn, resume: same end, one thing each, and the chain verifies."""
    number = 0
    while True:
        number += 1
        fresh = Bench(new_journal())
        run = begin(fresh, plan(step("a"), step("b"), step("c", needs=("a", "b"))))
        kill_at(fresh, number, after=after)
        try:
            fresh.driver().drive(run.id, ME)
            finished = True
        except Killed:
            finished = False
            wait(fresh.journal.in_flight.pop(run.id, ()), timeout=30)  # a dead process has no calls under way
        fresh.journal.before_commit = fresh.journal.after_commit = None
        fresh.clock.sleep(60)
        view = fresh.driver().drive(run.id, OTHER).view if not finished else fresh.journal.view(run.id)
        assert (view.state, view.result) == ("finished", "succeeded"), number
        assert sorted(thing["name"] for thing in fresh.shelf.things.values()) == ["a", "b", "c"], number
        events = fresh.journal.events(run=run.id)
        chain.verify(run.id, events)
        states = chain.replay(events)
        assert states[("run", "shop/1")] == "finished"
        assert all(states[("step", f"shop/1:{path}")] == found.state for path, found in view.steps.items())
        fresh.journal.database.close()
        if finished:
            break
    assert number > 4


def test_without_the_intent_commit_the_kill_is_noticed(bench: Bench) -> None:
    """The test of the test: an effect without a durable intent is repeated, and the count shows it."""
    run = begin(bench, chained("a"))
    driver = bench.driver()
    lease = bench.journal.acquire(run.id, ME)
    assert lease is not None
    kept: list[Change] = []
    original = bench.journal.commit

    def forgetful(held: Any, changes: Sequence[Change]) -> Any:
        if any(isinstance(change, Intent) for change in changes):
            kept.extend(changes)
            bench.shelf.put("a", "made before any intent")
            raise Killed
        return original(held, changes)

    bench.journal.commit = forgetful  # type: ignore[method-assign]
    with pytest.raises(Killed):
        driver.drive(run.id, ME)
    bench.journal.commit = original  # type: ignore[method-assign]
    bench.clock.sleep(60)
    bench.journal.in_flight.clear()
    bench.driver().drive(run.id, OTHER)
    assert kept
    assert len(bench.shelf.things) == 2


def test_a_look_that_was_cut_off_waits_on(bench: Bench) -> None:
    """A pure step whose driver died behind its intent looks again, and may find that it is not yet as wanted."""
    run = begin(bench, plan(step("w", "thing.wait", given={}, timeout_s=30.0)))
    kill_at(bench, 2, after=False)
    with pytest.raises(Killed):
        bench.driver().drive(run.id, ME)
    wait(bench.journal.in_flight.pop(run.id, ()), timeout=30)
    bench.journal.before_commit = None
    bench.clock.sleep(20)
    view = bench.driver().drive(run.id, OTHER).view
    found = view.steps["w"].failure
    assert found is not None
    assert (found.kind, found.code) == ("timeout", "DRP-5010"), found
