"""What is done without being asked: each due run exactly once, looks, open fences, runs nobody drives."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.domain.group import DrillPolicy
from drpilot.domain.ports import Move
from drpilot.domain.run import Holder, RunView
from drpilot.services import watch
from drpilot.services.house import House
from drpilot.services.watch import begin_due, due, look_at_sites, next_drill, next_replication, refresh
from tests.services.world import GROUP, START, Tiny, drill_plan, failover_plan, replicate_plan

ELSEWHERE = Holder("oncall", "lap-17", "boot-of-another-host", 4711, "1")


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """The tiny world with a protected group."""
    world = Tiny(tmp_path)
    world.replicate()
    return world


class Beginner:
    """A `begin` that writes the run to the journal and remembers that it did."""

    def __init__(self, tiny: Tiny, house: House | None = None) -> None:
        self.tiny = tiny
        self.house = house or tiny.house
        self.begun: list[str] = []
        self.asked = 0

    def __call__(self, mode: str, group: str) -> RunView:
        self.asked += 1
        run = self.tiny.begin(replicate_plan(self.house.journal.new_id()))
        self.begun.append(run.name)
        return run


# -- when -----------------------------------------------------------------------------------------------------


def test_a_replication_follows_its_cadence_and_missed_ones_are_one() -> None:
    """Whole intervals after the last; three missed ones give one next, in the future."""
    last = START
    assert next_replication(GROUP, START) == START + timedelta(seconds=600)
    assert next_replication(GROUP, START + timedelta(seconds=5), last) == START + timedelta(seconds=600)
    assert next_replication(GROUP, START + timedelta(seconds=1900), last) == START + timedelta(seconds=2400)
    odd = START + timedelta(microseconds=7)
    assert next_replication(GROUP, odd).microsecond == 0
    assert next_replication(GROUP, odd) > odd


def night(hour: int, minute: int, fold: int = 0) -> datetime:
    """A wall-clock time in Rome in the night the clocks go back, in UTC."""
    return datetime(2026, 10, 25, hour, minute, tzinfo=ZoneInfo("Europe/Rome"), fold=fold).astimezone(UTC)


@pytest.mark.parametrize("cron", ["30 2 * * *", "30 2 * * sun", "0 2 25 10 *"])
def test_a_drill_is_never_due_twice_when_the_clocks_go_back(cron: str) -> None:
    """02:30 comes twice on 25 October in Rome; walking through the night minute by minute it is due once."""
    group = replace(GROUP, drill=DrillPolicy(cron, "Europe/Rome"))
    now, fired = night(0, 0), []
    expected = next_drill(group, now)
    while now < night(6, 0):
        now += timedelta(minutes=1)
        if expected is not None and expected <= now:
            fired.append(expected)
            expected = next_drill(group, now)
            assert expected is not None and expected > now
    assert len(fired) == 1


def test_inside_the_repeated_hour_the_next_drill_lies_ahead() -> None:
    """Begun at the second 02:10, what CronSim gives first has passed already and is left out."""
    group = replace(GROUP, drill=DrillPolicy("30 2 * * *", "Europe/Rome"))
    now = night(2, 10, fold=1)
    found = next_drill(group, now)
    assert found == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_a_time_that_does_not_exist_is_due_once_in_spring() -> None:
    """02:30 on 29 March does not exist in Rome; the drill is due once that night."""
    group = replace(GROUP, drill=DrillPolicy("30 2 * * *", "Europe/Rome"))
    first = next_drill(group, datetime(2026, 3, 28, 20, 0, tzinfo=UTC))
    assert first == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    assert first is not None and next_drill(group, first) == datetime(2026, 3, 30, 0, 30, tzinfo=UTC)


def test_without_an_expression_no_drill_is_due() -> None:
    """A group may be drilled by hand only."""
    assert next_drill(replace(GROUP, drill=DrillPolicy()), START) is None


# -- exactly once -------------------------------------------------------------------------------------------


def test_what_is_due_is_begun_and_the_next_time_is_set(tiny: Tiny) -> None:
    """Due, begun, and due again one interval later."""
    begin = Beginner(tiny)
    tiny.journal.plan_next("shop", "replicate", START + timedelta(seconds=600))
    assert begin_due(tiny.house, begin) == ()
    tiny.clock.advance(650)
    happenings = begin_due(tiny.house, begin)
    assert [(h.what, h.run) for h in happenings] == [("begun", begin.begun[0])]
    assert begin_due(tiny.house, begin) == ()
    assert [s.next_at for s in tiny.journal.schedules()] == [START + timedelta(seconds=1200)]


def test_many_services_begin_one_occurrence_once(tiny: Tiny) -> None:
    """Eight services on one journal, all at once: one run."""
    tiny.journal.plan_next("shop", "replicate", tiny.clock.now())
    gate, begun, asked = threading.Barrier(8), [], []

    def service(seed: int) -> None:
        house = tiny.fresh(seed)
        begin = Beginner(tiny, house)
        gate.wait()
        begin_due(house, begin)
        begun.extend(begin.begun)
        asked.append(begin.asked)

    threads = [threading.Thread(target=service, args=(seed,)) for seed in range(10, 18)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(begun) == 1
    assert sum(asked) == 1  # not the busy lane refused the others: they never tried
    assert len([run for run in tiny.journal.runs("shop") if run.mode == "replicate"]) == 2


class Died(BaseException):
    """The service ended here."""


def test_a_service_that_dies_before_it_begins_loses_nothing(tiny: Tiny) -> None:
    """Held, not begun: another service begins the occurrence when the hold is over, not earlier."""

    def dies(mode: str, group: str) -> RunView:
        raise Died

    tiny.journal.plan_next("shop", "replicate", tiny.clock.now())
    with pytest.raises(Died):
        begin_due(tiny.house, dies)
    other = Beginner(tiny)
    assert begin_due(tiny.house, other) == ()
    tiny.clock.advance(watch.HOLD_S + 2)
    begin_due(tiny.house, other)
    assert len(other.begun) == 1
    assert tiny.journal.schedules()[0].next_at > tiny.clock.now()


def test_a_service_that_dies_after_it_began_does_not_make_it_twice(tiny: Tiny) -> None:
    """Held and begun, the schedule not moved on: the next service sees the run and leaves it at that."""

    def begins_and_dies(mode: str, group: str) -> RunView:
        tiny.begin(replicate_plan(tiny.journal.new_id()))
        raise Died

    tiny.journal.plan_next("shop", "replicate", tiny.clock.now())
    with pytest.raises(Died):
        begin_due(tiny.house, begins_and_dies)
    tiny.drive(tiny.journal.runs("shop", live=True)[0])  # it even finishes in between: the lane is free again
    tiny.clock.advance(watch.HOLD_S + 2)
    other = Beginner(tiny)
    happenings = begin_due(tiny.house, other)
    assert (other.begun, [h.what for h in happenings]) == ([], ["skipped"])
    tiny.clock.advance(600)
    begin_due(tiny.house, other)
    assert len(other.begun) == 1


def test_two_services_that_die_in_turn_make_no_second_run(tiny: Tiny) -> None:
    """One began the run and died, one took the occurrence over and died: the third sees the run all the same."""

    def begins_and_dies(mode: str, group: str) -> RunView:
        tiny.begin(replicate_plan(tiny.journal.new_id()))
        raise Died

    tiny.journal.plan_next("shop", "replicate", tiny.clock.now())
    with pytest.raises(Died):
        begin_due(tiny.house, begins_and_dies)
    tiny.clock.advance(watch.HOLD_S + 2)
    tiny.drive(tiny.journal.runs("shop", live=True)[0])
    (held,) = tiny.journal.schedules()
    assert tiny.journal.claim(
        held, held.next_at + timedelta(seconds=watch.HOLD_S), "a service that dies as well"
    )
    tiny.clock.advance(watch.HOLD_S + 2)
    other = Beginner(tiny)
    assert ([h.what for h in begin_due(tiny.house, other)], other.begun) == (["skipped"], [])


def test_a_refused_occurrence_is_told_and_left_out(tiny: Tiny) -> None:
    """The lane is busy: no queue of replications builds up."""
    tiny.begin(replicate_plan(tiny.journal.new_id()))
    tiny.journal.plan_next("shop", "replicate", tiny.clock.now())
    happenings = begin_due(tiny.house, Beginner(tiny))
    assert [h.what for h in happenings] == ["skipped"]
    assert "holds lane copy" in happenings[0].text
    assert due(tiny.journal, tiny.clock.now()) == ()


def test_a_group_whose_drill_was_taken_out_is_unscheduled(tmp_path: Path) -> None:
    """The file no longer has a cron expression: the last occurrence is the last."""
    world = Tiny(tmp_path, group=replace(GROUP, drill=DrillPolicy()))
    world.journal.plan_next("shop", "drill", world.clock.now())
    begin_due(world.house, Beginner(world))
    assert world.journal.schedules() == ()


# -- looking --------------------------------------------------------------------------------------------------


def test_looks_write_signs_of_life_and_tell_changes_only(tiny: Tiny) -> None:
    """A site that falls silent is told once, and again when it is back."""
    assert look_at_sites(tiny.house) == ()
    seen = tiny.journal.site("home")
    assert seen is not None and seen.answers is True
    tiny.outside.silent["home"] = "connection refused"
    tiny.clock.advance(30)
    assert [h.what for h in look_at_sites(tiny.house)] == ["silent"]
    assert look_at_sites(tiny.house) == ()
    silent = tiny.journal.site("home")
    assert silent is not None and silent.silent_since == START + timedelta(seconds=32)
    tiny.outside.silent.clear()
    assert [h.what for h in look_at_sites(tiny.house)] == ["back"]


def test_refreshing_degrades_after_one_interval_and_recovers(tiny: Tiny) -> None:
    """No point for too long: conditions at once, the state after an interval; a new point brings it back."""
    tiny.clock.advance(1000)
    assert refresh(tiny.house) == ()
    assert tiny.journal.group("shop").conditions["RpoMet"]["value"] is False
    tiny.clock.advance(600)
    assert [h.what for h in refresh(tiny.house)] == ["changed"]
    assert tiny.journal.group("shop").state == "degraded"
    for _ in range(3):
        tiny.replicate()
        refresh(tiny.house)
        tiny.clock.advance(300)
    assert tiny.journal.group("shop").state == "protected"


# -- fences ---------------------------------------------------------------------------------------------------


def test_an_open_fence_is_repeated_only_when_the_site_answers(tiny: Tiny) -> None:
    """After a failover with home dead: nothing to try while it is silent, one try when it is back."""
    tiny.outside.verdict = "unverified"
    tiny.failover(fence=None)
    tiny.journal.post(tiny.journal.view("shop").id, "approve", "second", data={})
    tiny.drive(tiny.journal.view("shop"))
    assert tiny.journal.group("shop").fences["home"]["state"] == "unverified"
    tiny.journal.saw("home", answers=False)
    tried: list[str] = []

    def refence(group: str) -> RunView:
        tried.append(group)
        proven = Move("fence", "home", "verified", {"write_blocked_observed": True})
        asked = [Move("fence", "home", "request"), Move("fence", "home", "apply"), proven]
        tiny.journal.change("shop", asked, "serve")
        return tiny.journal.view("shop")

    assert watch.repeat_fences(tiny.house, refence) == ()
    tiny.journal.saw("home", answers=True)
    assert [h.what for h in watch.repeat_fences(tiny.house, refence)] == ["fencing"]
    assert tried == ["shop"]
    assert watch.repeat_fences(tiny.house, refence) == ()


def test_a_refused_fence_is_told_and_tried_again(tiny: Tiny) -> None:
    """A guard's refusal ends nothing."""
    tiny.journal.change(
        "shop",
        [Move("group", "shop", "fail over", dict.fromkeys(("epoch_claimed", "lane_held"), True)),
         Move("fence", "away", "request"), Move("fence", "away", "apply"), Move("fence", "away", "unseen")],
        "tester",
    )  # fmt: skip
    tiny.journal.saw("away", answers=True)

    def refuses(group: str) -> RunView:
        raise DrpilotError("unreachable", site="away", endpoint="http://127.0.0.1:1")

    for _ in range(2):
        assert [h.what for h in watch.repeat_fences(tiny.house, refuses)] == ["skipped"]


# -- runs nobody drives ---------------------------------------------------------------------------------------


def names(tiny: Tiny) -> list[str]:
    """The runs that want a driver."""
    return [run.name for run in watch.undriven(tiny.journal, tiny.clock.now())]


def test_a_living_driver_is_left_alone_and_a_dead_one_replaced(tiny: Tiny) -> None:
    """Within the lease nobody else drives; after it, or when the process is gone, somebody should."""
    run = tiny.begin(replicate_plan(tiny.journal.new_id()))
    assert names(tiny) == [run.name]
    tiny.journal.acquire(run.id, ELSEWHERE)
    assert names(tiny) == []
    tiny.clock.advance(16)
    assert names(tiny) == [run.name]


def test_resting_runs_want_a_driver_only_for_an_order(tiny: Tiny) -> None:
    """A run at its gate rests; an answer wakes it."""
    plan = failover_plan(tiny.newest())
    run = tiny.drive(tiny.begin(plan, tiny.proposal(plan, approvers=2)))
    assert (run.state, names(tiny)) == ("waiting", [])
    tiny.journal.post(run.id, "approve", "oncall")
    assert names(tiny) == [run.name]


def test_a_cancelled_copy_nobody_drives_is_settled(tiny: Tiny) -> None:
    """A failover cancels the copy beside it; its driver died with home, so whoever watches ends it."""
    copy = tiny.begin(replicate_plan(tiny.journal.new_id()))
    lease = tiny.journal.acquire(copy.id, ELSEWHERE)
    assert lease is not None
    plan = failover_plan(tiny.newest())
    tiny.begin(plan, tiny.proposal(plan, approvers=2))
    tiny.clock.advance(20)
    wanting = watch.undriven(tiny.journal, tiny.clock.now())
    assert [run.lane for run in wanting] == ["move", "copy"]
    assert tiny.drive(wanting[1]).result == "cancelled"


def test_a_drill_whose_time_is_over_is_cleaned_up(tiny: Tiny) -> None:
    """Paused and forgotten: expired, cleaned, ended."""
    plan = drill_plan(tiny.newest())
    pausing = tuple(replace(step, on_failure="pause") for step in plan.steps)
    tiny.outside.fails.add("tiers/db/launch")
    run = tiny.begin(replace(plan, steps=pausing), expires_at=tiny.clock.now() + timedelta(seconds=100))
    tiny.drive(run)
    assert (tiny.journal.view(run.id).state, names(tiny)) == ("paused", [])
    tiny.clock.advance(101)
    assert names(tiny) == [run.name]
    ended = tiny.drive(run)
    assert ended.result == "expired"
    assert "clean/nothing_left" in tiny.outside.did
