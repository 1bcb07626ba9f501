"""A changing call leaves only under a lease that surely holds: what that costs, and who stood still sends nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import event

from drpilot.base.clock import ManualClock
from drpilot.base.errors import DrpilotError
from drpilot.clouds.leaving import GuardedSite, ask
from drpilot.domain.ports import Answer, Context, Site
from drpilot.domain.run import Holder, RunView
from drpilot.engine.context import World
from drpilot.engine.drive import Driver
from drpilot.engine.tenure import FRESH_S, Tenure
from drpilot.journal.journal import NewRun, Superseded
from tests.engine.world import Bench, Put, PutInput, PutOutput, plan, step

pytestmark = pytest.mark.crash

ME = Holder("me", "elsewhere", "boot", 1, "1")
OTHER = Holder("other", "elsewhere", "boot", 2, "2")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A fresh journal and an empty shelf."""
    made = Bench(tmp_path)
    yield made
    made.journal.database.close()


def begin(bench: Bench) -> RunView:
    """A run of one put."""
    return bench.journal.create(NewRun(bench.journal.new_id(), plan(step("a")), "me"))


def tenure(bench: Bench, run: RunView, holder: Holder = ME) -> Tenure:
    """The lease on a run, from now."""
    since = Tenure.moment(bench.clock)
    lease = bench.journal.acquire(run.id, holder)
    assert lease is not None
    return Tenure(bench.journal, lease, bench.clock, since)


@contextmanager
def statements(bench: Bench) -> Iterator[list[str]]:
    """Every statement that reaches the journal meanwhile."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(bench.journal.database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(bench.journal.database.engine, "before_cursor_execute", note)


def test_a_driver_that_keeps_its_lease_asks_the_journal_nothing(bench: Bench) -> None:
    """A thousand changing calls, over an hour of renewals each five seconds: not one statement for any of them."""
    mine = tenure(bench, begin(bench))
    asked = 0
    for _ in range(720):
        with statements(bench) as seen:
            mine.permit()
            bench.clock.advance(5.0)
            mine.permit()
        asked += len(seen)
        mine.renew()
    assert asked == 0


def test_an_old_lease_is_renewed_once_and_then_counts_again(bench: Bench) -> None:
    """Stood still, and nobody took over: one renewal for sixteen threads, and the lease runs from there."""
    run = begin(bench)
    mine = tenure(bench, run)
    renewals: list[str] = []
    renew = bench.journal.renew

    def counted(lease: Any) -> None:
        renewals.append(lease.run)
        renew(lease)

    bench.journal.renew = counted  # type: ignore[method-assign]
    bench.clock.advance(FRESH_S + 1)
    threads = [threading.Thread(target=mine.permit) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert renewals == [run.id]
    bench.clock.advance(FRESH_S)
    mine.permit()
    assert renewals == [run.id]
    assert bench.journal.acquire(run.id, OTHER) is None


def test_the_time_counts_from_before_the_write_that_kept_the_lease(bench: Bench) -> None:
    """A renewal that was long on its way (a busy disk) has used up as much of the lease."""
    mine = tenure(bench, begin(bench))
    renewals: list[str] = []
    renew = bench.journal.renew

    def slow(lease: Any) -> None:
        renewals.append(lease.run)
        renew(lease)
        bench.clock.advance(FRESH_S + 1)

    bench.journal.renew = slow  # type: ignore[method-assign]
    mine.renew()
    mine.permit()
    assert len(renewals) == 2


@pytest.mark.parametrize("asleep", ["monotonic", "now"])
def test_a_machine_that_slept_is_noticed_by_either_clock(bench: Bench, asleep: str) -> None:
    """The monotonic clock of a machine that was put to sleep stood still; the other one may be set back."""
    run = begin(bench)
    mine = tenure(bench, run)

    class Odd(ManualClock):
        def monotonic(self) -> float:
            return bench.clock.monotonic() + (60.0 if asleep == "now" else 0.0)

        def now(self) -> Any:
            return bench.clock.now() + timedelta(seconds=60.0 if asleep == "monotonic" else 0.0)

    mine._clock = Odd()
    bench.clock.advance(60.0)
    assert bench.journal.acquire(run.id, OTHER) is not None
    bench.clock.advance(-60.0)
    with pytest.raises(Superseded):
        mine.permit()


def test_who_lost_the_run_once_asks_no_more(bench: Bench) -> None:
    """After a refused write no changing call leaves, however fresh the lease still looked."""
    run = begin(bench)
    mine = tenure(bench, run)
    bench.clock.advance(60.0)
    assert bench.journal.acquire(run.id, OTHER) is not None
    bench.clock.advance(-60.0)
    with pytest.raises(Superseded):
        mine.commit([])
    with statements(bench) as seen, pytest.raises(Superseded):
        mine.permit()
    assert seen == []


def test_a_journal_that_is_away_holds_changing_calls_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can say who drives: nothing leaves once the lease is old."""
    mine = tenure(bench, begin(bench))

    def away(*_: Any) -> None:
        raise DrpilotError("journal-unreachable", path="postgresql://h/d", what="gone")

    monkeypatch.setattr(bench.journal, "renew", away)
    mine.permit()
    bench.clock.advance(60.0)
    with pytest.raises(DrpilotError, match="journal"):
        mine.permit()


class ShelfSite:
    """The shelf behind a door as the real one: `ask` stands right before the effect."""

    def __init__(self, bench: Bench, pause: Callable[[], None]) -> None:
        self.bench, self.pause = bench, pause

    def guarded(self, permit: Callable[[], None]) -> GuardedSite:
        return GuardedSite(cast("Site", self), permit)

    def call(
        self, service: str, operation: str, params: dict[str, Any], *, token: str | None = None
    ) -> dict[str, Any]:
        self.pause()
        ask()
        self.bench.shelf.put(params["name"], str(token))
        return {}


class PutByCall(Put):
    """Puts through a site's door, without a client token: the shelf would take the same thing twice."""

    def start(self, ctx: Context, given: PutInput) -> Answer[PutOutput]:
        if not self.shelf.find(ctx.token):
            ctx.site("target").call("shelf", "PutThing", {"name": given.name}, token=ctx.token)
        return self.observe(ctx, given)


def driver(bench: Bench, pause: Callable[[], None]) -> Driver:
    """A driver whose puts go through a door that pauses right before it sends."""
    site = cast("Site", ShelfSite(bench, pause))
    found = bench.driver()

    def nowhere() -> Any:
        raise AssertionError("no witness here")

    return replace(
        found,
        catalogue={**found.catalogue, "thing.put": PutByCall(bench.shelf)},
        world=World(lambda name: site, nowhere),
    )


def test_a_driver_that_stood_still_before_its_call_sends_nothing_after_a_take_over(bench: Bench) -> None:
    """It has looked and seen nothing, then stands still past its lease; another looks, calls and ends the run."""
    run = begin(bench)
    others: list[Any] = []

    def stand_still() -> None:
        if not others:
            others.append(None)
            bench.clock.advance(60.0)
            others.append(driver(bench, lambda: None).drive(run.id, OTHER).view)

    with pytest.raises(Superseded, match="nobody"):
        driver(bench, stand_still).drive(run.id, ME)
    assert others[1].result == "succeeded"
    assert [thing["name"] for thing in bench.shelf.things.values()] == ["a"]
    assert bench.shelf.calls == ["put a"]


def test_a_driver_that_stood_still_alone_goes_on(bench: Bench) -> None:
    """Nobody took over: it renews and sends its one call."""
    run = begin(bench)
    view = driver(bench, lambda: bench.clock.advance(60.0)).drive(run.id, ME).view
    assert (view.result, bench.shelf.calls) == ("succeeded", ["put a"])
