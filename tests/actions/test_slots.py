"""More volumes than a cloud copies at once: the engine's slots against the lab's own limit, with its journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from drpilot.actions.catalogue import CATALOGUE
from drpilot.base.clock import Chance
from drpilot.domain.plan import Plan
from drpilot.domain.run import Holder, RunView
from drpilot.engine.context import World as Outside
from drpilot.engine.drive import Driver
from drpilot.engine.places import queued
from drpilot.journal.database import Database
from drpilot.journal.journal import Journal, NewRun
from drpilot.runbook.compile import ActionFacts, CompileFacts, compile, shipped
from tests.actions.world import CLOCK, World

ME = Holder("tester", "here", "boot", 1, "0")


def replicate(world: World, slots: Mapping[str, int]) -> Plan:
    """The shipped runbook up to the complete point: three snapshots and two images, so many copies at once."""
    text, file = shipped("replicate")
    known = {name: ActionFacts.of(action) for name, action in CATALOGUE.items()}
    facts = CompileFacts(
        world.group("home"), "replicate", "copy", "home", "away", "p1", slots={"away": slots}
    )
    whole = compile(text, file, facts, known)
    wanted = whole.steps[: 1 + [step.path for step in whole.steps].index("complete")]
    quick = tuple(replace(step, retry=replace(step.retry, first_s=0.2, max_s=0.5)) for step in wanted)
    return replace(whole, steps=quick)


def driven(world: World, plan: Plan, folder: Path) -> tuple[RunView, list[dict[str, str]]]:
    """The run at its end, and what stood in its queue on the way."""
    journal = Journal(Database(f"sqlite:///{folder}/journal.db"), CLOCK, Chance(5))
    journal.protect(world.group("home"), "", "tester")
    run = journal.create(NewRun(journal.new_id(), plan, "tester"))
    seen: list[dict[str, str]] = []

    def note(view: RunView) -> None:
        if queued(view):
            seen.append(queued(view))

    outside = Outside(
        world.sites.__getitem__, lambda: pytest.fail("nobody asked for the witness"), settle_s=0.2
    )
    try:
        return Driver(journal, CATALOGUE, outside, CLOCK, seen=note).drive(run.id, ME).view, seen
    finally:
        journal.database.close()


def crowded(world: World) -> None:
    """Copies take a second each, and away works on two at once."""
    world.clouds["away"].tune(concurrent_copies=2, durations={"snapshot.copy": 60.0})


def refusals(world: World) -> int:
    """How many copies the cloud refused."""
    return sum(call["outcome"] == "ResourceLimitExceeded" for call in world.clouds["away"].calls)


def copies(world: World) -> int:
    """Snapshots of this point on the other side."""
    filters = [{"Name": "tag:drpilot:point", "Values": ["p1"]}]
    found = world.sites["away"].call("ec2", "DescribeSnapshots", {"Filters": filters})["Snapshots"]
    assert {item["State"] for item in found} == {"completed"}
    return len(found)


@pytest.mark.row(59)
def test_no_copy_is_refused_when_the_plan_knows_the_limit(world: World, tmp_path: Path) -> None:
    """Three volumes, two copies at once: the third waits its turn in drpilot, with a reason a person can read."""
    world.clouds["away"].calls.clear()
    crowded(world)
    view, seen = driven(world, replicate(world, {"copy-snapshot": 2}), tmp_path)
    assert view.result == "succeeded"
    assert refusals(world) == 0
    assert copies(world) == 3
    reasons = {why for each in seen for why in each.values()}
    assert reasons == {"waits for a place: away has 2 for copy-snapshot, all taken"}
    assert {one.tries for path, one in view.steps.items() if path.endswith("/copy")} == {1}


@pytest.mark.row(59)
def test_a_limit_used_up_by_others_costs_no_try(world: World, tmp_path: Path) -> None:
    """The plan believes in twenty places, the cloud has two: refused, waited for, and each copy was tried once."""
    world.clouds["away"].calls.clear()
    crowded(world)
    view, _ = driven(world, replicate(world, {"copy-snapshot": 20}), tmp_path)
    assert view.result == "succeeded"
    assert refusals(world) > 0
    assert copies(world) == 3
    assert {one.tries for path, one in view.steps.items() if path.endswith("/copy")} == {1}
