"""What looks come to over time: standbys, groups and splits change after two that agree, and never after one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from drpilot.base.clock import micros
from drpilot.base.errors import DrpilotError, Finding
from drpilot.domain.hysteresis import ONE_WRITER, WITNESS_AGREES
from drpilot.domain.machine import fire
from drpilot.domain.plan import Approval, Plan
from drpilot.domain.ports import Answer, Context, Done, Move
from drpilot.domain.run import RunView
from drpilot.journal.views import GroupView
from drpilot.services.begin import Asking, propose
from drpilot.services.checked import Checked, bad, ok, unknown
from drpilot.services.conditions import health_moves
from drpilot.services.grouppage import group_page
from drpilot.services.hysteresis import remember, split_apart
from drpilot.services.sides import WITNESS, WRITERS
from drpilot.services.status import overview, read
from drpilot.services.steer import Order, order
from drpilot.services.watch import open_fences, refresh
from tests.services.world import GROUP, START, Input, Output, Step, Tiny, chained, replicate_plan, step

FIVE = timedelta(minutes=5)
SPLIT = split_apart(2.0)  # the tiny world's reads lag by two seconds


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """The tiny world with a protected group."""
    world = Tiny(tmp_path)
    world.replicate()
    return world


def look(tiny: Tiny, *checks: Checked) -> tuple[str, ...]:
    """One look at the group that came to `checks`."""
    return remember(tiny.house, tiny.journal.group("shop"), checks, "tester")


def standby(verdict: str, tier: str = "db") -> Checked:
    """A look at one standby."""
    finding = Finding("standby-missing", "error", "i-1 is running", "shop", "drpilot replicate shop")
    match verdict:
        case "ok":
            return ok("standby", "shop", "as recorded", "as recorded", subject=tier)
        case "bad":
            return bad("standby", "shop", "as recorded", "i-1 is running", finding, subject=tier)
        case _:
            return unknown("standby", "shop", "as recorded", "away does not answer", subject=tier)


def sides(
    value: bool | None, subject: str = WRITERS, why: str = "home was seen fenced, yet i-1 run there"
) -> Checked:
    """A look at both sides, or at the witness."""
    if value is None:
        return unknown("sides", "shop", "one side writes", "home can't be seen", subject=subject)
    if value:
        return ok("sides", "shop", "one side writes", "nothing of it runs on home", subject=subject)
    finding = Finding("split-suspected", "error", why, "shop", "drpilot check shop")
    return bad("sides", "shop", "one side writes", why, finding, subject=subject)


def state(tiny: Tiny, tier: str = "db") -> str:
    """The state of a standby."""
    return next(one.state for one in tiny.journal.standbys("shop") if one.tier == tier)


# -- standbys -------------------------------------------------------------------------------------------------


def test_a_standby_degrades_after_two_contrary_looks_and_recovers_after_two_good_ones(tiny: Tiny) -> None:
    """Five minutes apart each way; the reason is stored, shown, and goes with the recovery."""
    assert look(tiny, standby("bad")) == ()
    tiny.clock.advance(299)
    assert (look(tiny, standby("bad")), state(tiny)) == ((), "ready")
    tiny.clock.advance(1)
    assert look(tiny, standby("bad")) == ("shop: standby of db is unhealthy: i-1 is running",)
    assert (state(tiny), state(tiny, "web")) == ("unhealthy", "ready")
    page = group_page(read(tiny.journal, "shop"), tiny.clock.now())
    assert {one.facts.get("unhealthy") for one in page.standbys if one.tier == "db"} == {"i-1 is running"}
    refresh(tiny.house)
    ready = tiny.journal.group("shop").conditions["StandbyReady"]
    assert (ready["value"], "db is unhealthy: i-1 is running" in ready["reason"]) == (False, True)
    assert look(tiny, standby("ok")) == ()
    tiny.clock.advance(300)
    assert look(tiny, standby("ok")) == ("shop: standby of db is ready",)
    assert state(tiny) == "ready"
    facts = next(one.facts for one in tiny.journal.standbys("shop") if one.tier == "db")
    assert facts["unhealthy"] == ""


def test_looks_that_cannot_tell_neither_count_nor_forget(tiny: Tiny) -> None:
    """Unknown is not false: it settles nothing, and an earlier contrary look still is the first of two."""
    look(tiny, standby("bad"))
    for _ in range(5):
        tiny.clock.advance(100)
        assert look(tiny, standby("unknown")) == ()
    assert state(tiny) == "ready"
    look(tiny, standby("bad"))
    assert state(tiny) == "unhealthy"


def test_a_good_look_begins_the_count_anew(tiny: Tiny) -> None:
    """Bad, good, bad, bad: only the last two count, and they lie too close."""
    for verdict in ("bad", "ok", "bad", "bad"):
        tiny.clock.advance(200)
        look(tiny, standby(verdict))
    assert state(tiny) == "ready"
    tiny.clock.advance(100)
    look(tiny, standby("bad"))
    assert state(tiny) == "unhealthy"


def test_a_short_interval_is_waited_for_instead(tmp_path: Path) -> None:
    """A group that replicates each minute is told each minute."""
    world = Tiny(tmp_path, group=replace(GROUP, replicate_every_s=60))
    world.replicate()
    look(world, standby("bad"))
    world.clock.advance(60)
    look(world, standby("bad"))
    assert state(world) == "unhealthy"


def test_an_unhealthy_standby_is_promoted_all_the_same() -> None:
    """At night a standby that is not as it should be is better than none."""
    assert fire("standby", "db@away", "unhealthy", "promote", {"fence_recorded": True}) == "promoting"


def test_looks_made_before_a_standby_changed_say_nothing_about_it(tiny: Tiny) -> None:
    """A contrary look from before a promotion is not the first of two after the way back."""
    look(tiny, standby("bad"))
    there_and_back = [
        Move("standby", "db@away", "promote", {"fence_recorded": True}),
        Move("standby", "db@away", "roll back"),
    ]
    tiny.journal.change("shop", there_and_back, "tester")
    tiny.clock.advance(1000)
    look(tiny, standby("bad"))
    assert state(tiny) == "ready"


def test_one_contrary_look_counts_for_the_condition_at_once(tiny: Tiny) -> None:
    """The condition says what was seen; the service's refresh does not take it back, and the group degrades by it."""
    look(tiny, standby("bad"))
    for _ in range(2):
        refresh(tiny.house)
        condition = tiny.journal.group("shop").conditions["StandbyReady"]
        assert (condition["value"], condition["reason"]) == (False, "1 of 2 ready: i-1 is running")
        assert condition["since"] == micros(START + timedelta(seconds=2))
        tiny.clock.advance(300)
    refresh(tiny.house)
    assert tiny.journal.group("shop").state == "degraded"


# -- groups ---------------------------------------------------------------------------------------------------

VALUES = (True, False, None)


def conditions(
    now: datetime, rpo: tuple[bool | None, float], ready: tuple[bool | None, float]
) -> Mapping[str, Any]:
    """Two conditions, each with its value and for how many seconds it has been so."""
    return {
        name: {"value": value, "since": micros(now - timedelta(seconds=age)), "reason": ""}
        for name, (value, age) in (("RpoMet", rpo), ("StandbyReady", ready))
    }


def test_a_group_degrades_and_recovers_after_one_interval_exhaustively() -> None:
    """Every pair of conditions at, before and after the interval: one false degrades, both true recover."""
    ages = (0.0, 599.0, 600.0, 601.0)
    for now_state, rpo, ready in product(
        ("seeding", "protected", "degraded", "active_unprotected", "split_suspected"),
        product(VALUES, ages),
        product(VALUES, ages),
    ):
        view = GroupView("shop", now_state, "home", 1, GROUP, conditions=conditions(START, rpo, ready))
        events = [move.event for move in health_moves(view, START)]
        false_over = any(value is False and age >= 600 for value, age in (rpo, ready))
        true_over = all(value is True and age >= 600 for value, age in (rpo, ready))
        expected = {"protected": ["degrade"] * false_over, "degraded": ["recover"] * true_over}
        assert events == expected.get(now_state, []), (now_state, rpo, ready)


def test_a_condition_that_changes_begins_its_interval_anew(tiny: Tiny) -> None:
    """False for half an interval, true for a moment, false again: nothing has held for an interval."""
    journal = tiny.journal
    for value in (False, True, False):
        journal.set_condition("shop", "RpoMet", value, "told")
        tiny.clock.advance(400)
    assert health_moves(journal.group("shop"), tiny.clock.now()) == ()
    journal.set_condition("shop", "RpoMet", False, "told")
    tiny.clock.advance(200)
    assert [move.event for move in health_moves(journal.group("shop"), tiny.clock.now())] == ["degrade"]


# -- splits ---------------------------------------------------------------------------------------------------


def commit(tiny: Tiny) -> None:
    """A committed failover to away, home fenced."""
    tiny.failover()
    order(tiny.house, tiny.journal.view("shop").id, Order("commit"))
    tiny.drive(tiny.journal.view("shop"))
    assert tiny.journal.group("shop").state == "active_unprotected"


def twice(tiny: Tiny, check: Checked, apart: timedelta = SPLIT) -> tuple[str, ...]:
    """The same look twice."""
    assert look(tiny, check) == ()
    tiny.clock.advance(apart.total_seconds())
    return look(tiny, check)


def test_two_looks_that_contradict_a_verified_fence_suspect_a_split(tiny: Tiny) -> None:
    """State, reason, evidence and event; the fence is taken for what it is, and the next command is the way out."""
    commit(tiny)
    (said,) = twice(tiny, sides(False))
    assert said.startswith("shop: active_unprotected → split_suspected: home was seen fenced")
    view = tiny.journal.group("shop")
    assert (view.state, view.fences["home"]["state"]) == ("split_suspected", "partial")
    moved = [event.body for event in tiny.journal.events(run="group:shop") if event.kind == "moved"]
    seen = next(body for body in moved if body["event"] == "split seen")
    assert seen["data"]["evidence"] == ["home was seen fenced, yet i-1 run there"]
    row = overview(read(tiny.journal), tiny.clock.now()).rows[0]
    assert row.next == 'drpilot fence shop --survivor away|home --reason "what you saw"'
    assert any("yet i-1 run there" in problem.text for problem in row.problems)
    tiny.journal.saw("home", answers=True)
    assert open_fences(tiny.journal) == ()  # a person decides; the service closes nothing here
    assert look(tiny, sides(False)) == ()


@pytest.mark.parametrize("apart", [timedelta(0), SPLIT - timedelta(microseconds=1)])
def test_looks_that_lie_too_close_change_nothing(tiny: Tiny, apart: timedelta) -> None:
    """Both could be one stale read."""
    commit(tiny)
    twice(tiny, sides(False), apart)
    assert tiny.journal.group("shop").state == "active_unprotected"


def test_a_good_look_between_two_contrary_ones_forgets_and_an_unknown_one_does_not(tiny: Tiny) -> None:
    """Consecutive looks count; one that could see nothing is none."""
    commit(tiny)
    for value, suspected in ((False, False), (True, False), (False, False), (None, False), (False, True)):
        tiny.clock.advance(SPLIT.total_seconds())
        look(tiny, sides(value))
        assert (tiny.journal.group("shop").state == "split_suspected") is suspected


def test_a_witness_that_names_another_side_twice_suspects_a_split_too(tiny: Tiny) -> None:
    """No machine need be seen: somebody else moved the group."""
    twice(tiny, sides(False, WITNESS, "the witness says epoch 7, active away"))
    assert tiny.journal.group("shop").state == "split_suspected"
    assert tiny.journal.group("shop").fences == {}


def test_a_fence_run_that_left_writers_is_the_first_of_two_looks(tiny: Tiny) -> None:
    """The ladder was applied to a side that could be seen, and it runs on: one look more settles it."""
    commit(tiny)
    moves = [Move("fence", "home", "request"), Move("fence", "home", "apply")]
    partly = Move("fence", "home", "partly", {}, {"seen": True, "writers_left": 2})
    tiny.journal.change("shop", [*moves, partly], "serve")
    tiny.clock.advance(SPLIT.total_seconds())
    (said,) = look(tiny, sides(False, why="the fence of home was applied, yet i-1 run there"))
    assert "split_suspected" in said


def test_what_runs_beside_a_split_is_cancelled_and_nothing_begins(tiny: Tiny) -> None:
    """A copy under way would expire points of a group nobody can trust; new ones are refused with the way out."""
    copy = tiny.begin(replicate_plan(tiny.journal.new_id()))
    twice(tiny, sides(False, why="away is a standby at rest, yet i-2 run there"))
    assert [request.kind for request in tiny.journal.view(copy.id).requests] == ["cancel"]
    look(tiny, sides(False))
    assert len(tiny.journal.view(copy.id).requests) == 1
    assert tiny.drive(copy).result == "cancelled"
    for mode in ("replicate", "drill", "failover", "switchover", "reprotect", "fence", "cleanup", "retire"):
        with pytest.raises(DrpilotError) as refused:
            propose(tiny.house, mode, "shop", Asking(reason="a test"))
        assert (refused.value.word, refused.value.exit_code) == ("wrong-state", 5)
        assert refused.value.hint == 'drpilot fence shop --survivor home|away --reason "what you saw"'


def test_a_group_that_moved_on_since_it_was_looked_at_is_left_alone(tiny: Tiny) -> None:
    """A look takes seconds; what it says about the state before is not fired on the state after."""
    before = tiny.journal.group("shop")
    look(tiny, sides(False))
    tiny.journal.change("shop", [Move("group", "shop", "degrade", {"hysteresis_over": True})], "tester")
    tiny.clock.advance(SPLIT.total_seconds())
    assert remember(tiny.house, before, [sides(False)], "tester") == ()
    assert tiny.journal.group("shop").state == "degraded"
    look(tiny, sides(False))
    assert tiny.journal.group("shop").state == "split_suspected"


@pytest.mark.parametrize("subject", [WRITERS, WITNESS])
def test_looks_made_before_a_move_say_nothing_after_it(tiny: Tiny, subject: str) -> None:
    """What contradicted the old side may be what the move was made for: the count begins anew."""
    commit(tiny)
    look(tiny, sides(False, subject))
    facts = {"old_side_fenced": True, "old_side_invalidated": True}
    tiny.journal.change("shop", [Move("group", "shop", "reprotect", facts)], "tester")
    tiny.clock.advance(1000)
    assert look(tiny, sides(False, subject)) == ()
    assert tiny.journal.group("shop").state == "reprotecting"


def test_before_the_commit_only_the_fence_is_taken_back(tiny: Tiny) -> None:
    """Commit and rollback decide there; both need the fence, so it is open again and the service closes it."""
    tiny.failover()
    (said,) = twice(tiny, sides(False))
    assert "home's fence does not hold" in said
    view = tiny.journal.group("shop")
    assert (view.state, view.fences["home"]["state"]) == ("awaiting_commit", "partial")
    tiny.journal.saw("home", answers=True)
    assert open_fences(tiny.journal) == (("shop", "home"),)
    with pytest.raises(DrpilotError) as refused:
        order(tiny.house, tiny.journal.view("shop").id, Order("rollback", data={"confirm": "shop"}))
    assert refused.value.word == "rollback-refused"
    again = [Move("fence", "home", "request"), Move("fence", "home", "apply")]
    held = Move("fence", "home", "verified", {"write_blocked_observed": True})
    tiny.journal.change("shop", [*again, held], "serve")
    assert (
        ONE_WRITER not in tiny.journal.group("shop").conditions
    )  # looks from before say nothing about this fence


# -- the way out ----------------------------------------------------------------------------------------------


class Naming(Step):
    """Names the survivor, as the action of that name would; the journal's guard has the last word."""

    def observe(self, ctx: Context, given: Input) -> Answer[Output]:
        data = {"active": ctx.target, "epoch": ctx.epoch, "invalidated": ["i-1"]}
        return Done(Output(), (Move("group", ctx.group.name, "survivor named", {}, data),))


def name_survivor(
    tiny: Tiny, accounts: list[str], *, verdict: str = "fenced", glass: str | None = None
) -> RunView:
    """A run that fences home and names away, consented to by these accounts."""
    tiny.house.catalogue = {**tiny.house.catalogue, "group.survivor": Naming("group.survivor", tiny.outside)}
    tiny.outside.verdict = verdict
    steps = chained(step("fence", "fence.apply"), step("named", "group.survivor"))
    plan = Plan("tiny-survivor", "s1", "survivor", "shop", "survivor", "move", "home", "away", "", steps)
    proposal = replace(tiny.proposal(replace(plan, point=tiny.newest())), break_glass=glass)
    run = tiny.begin(plan, proposal)
    for account in accounts:
        approval = Approval("one", "go", tiny.clock.now(), proposal.digest, data={"account": account})
        tiny.approve(run, approval)
    return tiny.drive(run)


@pytest.mark.parametrize(
    ("accounts", "verdict", "glass", "named"),
    [
        (["oncall", "second"], "fenced", None, True),
        (["oncall"], "fenced", None, False),
        (["oncall", "oncall"], "fenced", None, False),
        (["oncall", "second"], "partial", None, False),
        (["oncall", "second"], "unverified", None, False),
        (["oncall"], "fenced", "nobody else is awake", True),
        (["oncall"], "unverified", "nobody else is awake", False),
    ],
)
def test_a_survivor_needs_two_persons_and_a_verified_fence(
    tiny: Tiny, accounts: list[str], verdict: str, glass: str | None, named: bool
) -> None:
    """The journal's own facts guard the table, whatever an action says; the glass stands for a person, not a fence."""
    commit(tiny)
    twice(tiny, sides(False))
    view = name_survivor(tiny, accounts, verdict=verdict, glass=glass)
    group = tiny.journal.group("shop")
    if named:
        assert (view.result, group.state, group.invalidated) == ("succeeded", "active_unprotected", ("i-1",))
        assert not {ONE_WRITER, WITNESS_AGREES} & set(group.conditions)
        return
    assert (view.state, group.state) == ("paused", "split_suspected")
    failure = view.steps["named"].failure
    assert failure is not None
    assert "survivor named is not allowed from split_suspected" in failure.message
