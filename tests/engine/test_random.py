"""Random plans, faults and deaths over the real journal: whatever happens, the end is the same and nothing is twice."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import wait
from pathlib import Path

import pytest

from drpilot.base.clock import Chance
from drpilot.domain.plan import Plan
from drpilot.domain.ports import FailureClass
from drpilot.domain.run import Change, Holder
from drpilot.journal import chain
from drpilot.journal.journal import NewRun
from tests.engine.world import Bench, plan, step

SEEDS = 40


class Killed(BaseException):
    """The process is gone."""


def random_plan(chance: Chance) -> Plan:
    """Up to eight puts, each waiting for some of the earlier ones."""
    names = [f"s{number}" for number in range(2 + chance.bits(3) % 7)]
    steps = []
    for index, name in enumerate(names):
        needs = tuple(other for other in names[:index] if chance.bits(2) == 0)
        steps.append(step(name, needs=needs))
    return plan(*steps, parallel=1 + chance.bits(2))


def unlucky(bench: Bench, chance: Chance) -> None:
    """Some replies lost, some calls throttled, some things slow to appear."""
    bench.shelf.lose_reply_of = {1 + chance.bits(4) for _ in range(chance.bits(2))}
    bench.shelf.fail_call = {1 + chance.bits(4): FailureClass.THROTTLED for _ in range(chance.bits(1))}
    bench.shelf.needs_looks = chance.bits(2)


def mortal(bench: Bench, chance: Chance) -> None:
    """Die at some commit, before or after it."""
    left = 1 + chance.bits(4)

    def hook(changes: Sequence[Change]) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    bench.journal.before_commit, bench.journal.after_commit = (hook, None) if chance.bits(1) else (None, hook)


@pytest.mark.row(53)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_any_schedule_ends_the_same(seed: int, tmp_path: Path) -> None:
    """Invariants 8, 12 and 15: one of everything, needs before dependents, a chain that replays to the rows."""
    chance = Chance(seed)
    bench = Bench(tmp_path)
    wanted = random_plan(chance)
    unlucky(bench, chance)
    run = bench.journal.create(NewRun(bench.journal.new_id(), wanted, "me"))
    for life in range(20):
        bench.journal.before_commit = bench.journal.after_commit = None
        if life < 4:
            mortal(bench, chance)
        try:
            view = (
                bench.driver()
                .drive(run.id, Holder(f"life {life}", "elsewhere", "boot", life, str(life)))
                .view
            )
        except Killed:
            wait(bench.journal.in_flight.pop(run.id, ()), timeout=30)  # a dead process has no calls under way
            bench.clock.sleep(60)
            continue
        assert view.state == "finished", (seed, view.state)
        break
    view = bench.journal.view(run.id)
    names = wanted_names(wanted)
    assert sorted(thing["name"] for thing in bench.shelf.things.values()) == names, seed
    order = [call.removeprefix("put ") for call in bench.shelf.calls]
    for planned in wanted.steps:
        for need in planned.needs:
            assert order.index(need) < order.index(planned.path), (seed, need, planned.path)
    events = bench.journal.events(run=run.id)
    chain.verify(run.id, events)
    states = chain.replay(events)
    assert all(states["step", f"shop/1:{path}"] == found.state for path, found in view.steps.items())
    tokens = {attempt.token for _, attempt in bench.journal.attempts(run.id)}
    assert {thing["token"] for thing in bench.shelf.things.values()} <= tokens


def wanted_names(wanted: Plan) -> list[str]:
    """The steps of a plan by name."""
    return sorted(planned.path for planned in wanted.steps)
