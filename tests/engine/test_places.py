"""Never more at once than a plan, a site and a cloud take, and no step starves: by simulation and by real threads."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from drpilot.base.clock import Chance
from drpilot.domain.machine import fire
from drpilot.domain.plan import Plan, Retry
from drpilot.domain.ports import Answer, Done, FailureClass
from drpilot.domain.run import (
    AttemptView,
    Decision,
    Failure,
    Intent,
    Outcome,
    RunMove,
    RunView,
    StepMove,
    StepView,
)
from drpilot.engine.decide import decide
from drpilot.engine.places import Room, queued
from tests.engine.test_drive import ME, begin
from tests.engine.world import Bench, LookAt, LookInput, LookOutput, plan, step

T0 = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
FULL = Failure("full", "ResourceLimitExceeded", "too many copies in progress")
COPY = "away copy-snapshot"


# -- by simulation: `decide` alone, with the rest of the engine in thirty lines -----------------------------------


@dataclass
class World:
    """Runs a plan by `decide` and plays the threads and a cloud whose long work takes its time."""

    view: RunView
    chance: Chance
    room: int  # copies the cloud has place for; fewer than the plan's where others copy, too
    last: str = ""  # a step that is due all the time, and ends only when nothing else is under way
    now: datetime = T0
    threads: dict[str, tuple[str, int]] = field(default_factory=dict)  # path: phase, ticks left
    work: dict[str, int] = field(default_factory=dict)  # path: ticks left of its long work
    refusals: int = 0

    def turn(self) -> bool:
        """Decide, apply, check; a tick passes when nothing was decided. Whether the run goes on."""
        decision = decide(self.view, self.now, Room(self.view.plan.parallel, frozenset(self.threads)))
        self.apply(decision)
        for phase in ("start", "poll", "look"):
            for path in getattr(decision, phase):
                self.threads[path] = (phase, 1 + self.chance.bits(1))
        self.check()
        if not decision.changes:
            self.tick()
        return self.view.state != "finished"

    def check(self) -> None:
        """The bounds, in the outside's own count."""
        wanted = self.view.plan
        assert len(self.threads) <= wanted.parallel
        at = Counter(site for path in self.threads for site in wanted.step(path).sites)
        assert all(count <= wanted.per_site for count in at.values()), at
        asking = {path for path, (phase, _) in self.threads.items() if phase == "start"}
        begun = Counter(wanted.step(path).slot for path in {*self.work, *asking})
        assert all(begun[slot] <= limit for slot, limit in wanted.slots.items()), begun

    def tick(self) -> None:
        """A second passes: work goes on, threads end."""
        self.now += timedelta(seconds=1)
        for path in self.work:
            self.work[path] = max(0, self.work[path] - 1)
        for path, (phase, left) in list(self.threads.items()):
            self.threads[path] = (phase, left - 1)
            if left <= 1:
                del self.threads[path]
                self.apply(Decision((self.outcome(path, phase),)))

    def outcome(self, path: str, phase: str) -> Outcome:
        """What an attempt's thread came to."""
        planned, number = self.view.plan.step(path), self.attempt(path).number
        others = sum(bool(self.view.plan.step(other).slot) for other in self.work)
        if phase == "start" and planned.slot and others >= self.room:
            self.refusals += 1
            later = self.now + timedelta(seconds=3 + self.chance.bits(2))
            return Outcome(path, number, "transient failure", failure=FULL, wake_at=later, counts=False)
        if phase == "start":
            self.work[path] = self.chance.bits(4)
        if path == self.last:
            done = all(
                one.state in ("succeeded", "pending") for key, one in self.view.steps.items() if key != path
            )
        else:
            done = self.work[path] == 0
        if done:
            del self.work[path]
            return Outcome(path, number, "as wanted", output={})
        due = self.now + timedelta(seconds=0 if path == self.last else self.chance.bits(2))
        return Outcome(path, number, "waits" if phase == "start" else "still waits", wake_at=due)

    def attempt(self, path: str) -> AttemptView:
        """The present attempt of a step."""
        found = self.view.steps[path].attempt
        assert found is not None
        return found

    def apply(self, decision: Decision) -> None:
        """Carry changes into the view as the journal would."""
        for change in decision.changes:
            if isinstance(change, RunMove):
                state = fire("run", "r", self.view.state, change.event)
                self.view = replace(self.view, state=state, result=change.result or self.view.result)
            elif isinstance(change, (Intent, Outcome, StepMove)):
                steps = {**self.view.steps, change.path: self.changed(self.view.steps[change.path], change)}
                self.view = replace(self.view, steps=steps)

    def changed(self, old: StepView, change: Intent | Outcome | StepMove) -> StepView:
        """A step after a change."""
        if isinstance(change, StepMove):
            return replace(old, state=fire("step", old.path, old.state, change.event), wake_at=change.wake_at)
        if isinstance(change, Intent):
            attempt = AttemptView(
                change.number, change.round, "do", change.token, "intent", 1, "a", {}, self.now
            )
            state = fire("step", old.path, old.state, "attempt started")
            return replace(
                old, state=state, attempt=attempt, wake_at=None, started_at=old.started_at or self.now
            )
        ended = {"as wanted": "ok", "transient failure": "failed"}.get(change.event, "waiting")
        state = fire("step", old.path, old.state, change.event)
        attempt = replace(self.attempt(old.path), state=ended)
        seen = self.now if ended == "waiting" else old.looked_at
        more = {"output": change.output, "failure": change.failure or old.failure, "looked_at": seen}
        return replace(old, state=state, attempt=attempt, wake_at=change.wake_at, **more)


def random_plan(chance: Chance) -> Plan:
    """Up to 25 steps on two sites, some with long work, in a plan that is narrow in every way."""
    steps = []
    for index in range(2 + chance.bits(5) % 24):
        needs = tuple(f"s{other}" for other in range(1, index) if chance.bits(4) == 0)
        sites = (("away",), ("home",), ("home", "away"))[chance.bits(3) % 3]
        slot = COPY if index and chance.bits(1) else ""
        steps.append(
            step(f"s{index}", needs=needs, sites=("away",) if slot else sites, slot=slot, timeout_s=1e6)
        )
    wide = plan(*steps, parallel=1 + chance.bits(2))
    return replace(wide, per_site=1 + chance.bits(1), slots={COPY: 1 + chance.bits(2)})


def simulated(wanted: Plan, chance: Chance, room: int, last: str = "") -> World:
    """A run at its first day."""
    steps = {planned.path: StepView(planned) for planned in wanted.steps}
    view = RunView("r", "shop/1", "shop", "replicate", "copy", "created", wanted, steps, T0, "me")
    return World(view, chance, room, last)


@pytest.mark.row(59)
@pytest.mark.parametrize("seed", range(150))
def test_no_schedule_exceeds_a_bound_or_starves_a_step(seed: int) -> None:
    """Threads, threads on a site and copies under way stay within their bounds at every moment, and all ends well.

    One step is due again at once after each look, and ends only when no other is under way: were the steps due looked
    at in the order of the plan, a narrow run would look at it for ever.
    """
    chance = Chance(seed)
    wanted = random_plan(chance)
    copies = wanted.slots[COPY]
    room = max(1, copies - chance.bits(1))  # at times another run has one of the places
    world = simulated(wanted, chance, room, last="s0")
    turns = 0
    while world.turn():
        turns += 1
        assert turns < 20_000, {path: one.state for path, one in world.view.steps.items()}
    assert {one.state for one in world.view.steps.values()} == {"succeeded"}
    assert world.refusals == 0 or room < copies


def test_of_many_copies_only_those_refused_ask_again() -> None:
    """Twelve copies, eight places by the plan, one in truth: who comes after the first refusal waits behind it."""
    wanted = replace(plan(*(step(f"s{n}", sites=("away",), slot=COPY) for n in range(12))), per_site=16)
    world = simulated(replace(wanted, slots={COPY: 8}), Chance(3), room=1)
    reasons: set[str] = set()
    done = 0
    while done < 4:
        world.turn()
        reasons |= set(queued(world.view).values())
        done = sum(one.state == "succeeded" for one in world.view.steps.values())
        assert sum(one.attempt is not None for one in world.view.steps.values()) <= 8 + done
    assert reasons == {
        "waits for a place: away has 8 for copy-snapshot, all taken",
        "waits for a place: away refused one more copy-snapshot, others use them too",
    }
    assert world.refusals > 7


# -- over the real journal, on real threads ----------------------------------------------------------------------


class Crowd(LookAt):
    """Two of these must be under way together before either ends; counts the most there ever were."""

    name = "check.source"

    def __init__(self, pairs: threading.Barrier) -> None:
        self.pairs, self.lock, self.now, self.most = pairs, threading.Lock(), 0, 0

    def start(self, ctx: Any, given: LookInput) -> Answer[LookOutput]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.pairs.wait(timeout=20)
        with self.lock:
            self.now -= 1
        return Done(LookOutput(count=0))

    observe = start


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A fresh journal and an empty shelf."""
    return Bench(tmp_path)


@pytest.mark.row(59)
def test_at_most_per_site_attempts_are_in_a_thread_at_once(bench: Bench) -> None:
    """Eight looks at one site, two at a time by `per_site`, though the run has sixteen threads."""
    crowd = Crowd(threading.Barrier(2))
    driver = bench.driver()
    driver.catalogue = {**driver.catalogue, crowd.name: crowd}
    looks = [step(f"look{number}", "check.source", sites=("home",)) for number in range(8)]
    view = driver.drive(begin(bench, replace(plan(*looks), per_site=2)).id, ME).view
    assert view.result == "succeeded"
    assert crowd.most == 2


def test_a_full_cloud_is_waited_for_without_using_up_a_try(bench: Bench) -> None:
    """Refused five times for want of a place, one try allowed: it gets in; others of its kind did not ask meanwhile."""
    bench.shelf.fail_call = dict.fromkeys(range(1, 6), FailureClass.FULL)
    retry = Retry(attempts=1, errors=())
    steps = [step(name, slot=COPY, sites=("away",), retry=retry) for name in ("a", "b", "c")]
    wanted = replace(plan(*steps, parallel=1), slots={COPY: 3})
    run = begin(bench, wanted)
    view = bench.driver().drive(run.id, ME).view
    assert view.result == "succeeded"
    assert bench.shelf.calls == ["put a"] * 6 + ["put b", "put c"]
    assert [one.tries for one in view.steps.values()] == [1, 1, 1]
    tokens = [attempt.token for path, attempt in bench.journal.attempts(run.id) if path == "a"]
    assert len(set(tokens)) == 6, "each refusal was definite, so each call had a token of its own"
    assert all(one.attempt is not None and one.attempt.state == "ok" for one in view.steps.values())


def test_a_cloud_that_stays_full_is_given_up_at_the_timeout(bench: Bench) -> None:
    """Waiting for a place is bounded by the step's own timeout, and the failure says what was lacking."""
    bench.shelf.fail_call = dict.fromkeys(range(1, 1000), FailureClass.FULL)
    before = bench.clock.now()
    run = begin(bench, replace(plan(step("a", slot=COPY, timeout_s=600)), slots={COPY: 1}))
    view = bench.driver().drive(run.id, ME).view
    failure = view.steps["a"].failure
    assert (view.state, view.steps["a"].state) == ("paused", "failed")
    assert failure is not None
    assert failure.kind == "full"
    assert timedelta(seconds=600) <= bench.clock.now() - before < timedelta(seconds=700)
    assert len(bench.shelf.calls) < 20


def test_an_unknown_copy_keeps_its_slot(bench: Bench) -> None:
    """A lost reply may have begun the work: nothing of its kind starts until it is known."""
    bench.shelf.lose_reply_of = {1}
    bench.shelf.dark = False
    wanted = replace(plan(step("a", slot=COPY), step("b", slot=COPY)), slots={COPY: 1})
    seen: list[dict[str, str]] = []
    driver = bench.driver()
    driver.seen = lambda view: seen.append({path: one.state for path, one in view.steps.items()})
    assert driver.drive(begin(bench, wanted).id, ME).view.result == "succeeded"
    assert {"a": "unknown", "b": "ready"} in seen
    assert all(
        states["b"] in ("pending", "ready") for states in seen if states["a"] in ("running", "unknown")
    )
