"""When a burst may begin, what it pins, and when its end is due: by the journal and the clock, without a cloud."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from drpilot.base.clock import micros
from drpilot.base.errors import DrpilotError
from drpilot.domain.burst import Burst, BurstOffer
from drpilot.domain.group import BurstAlarm, BurstPolicy, BurstSchedule, Group
from drpilot.domain.ports import Move
from drpilot.domain.run import RunView
from drpilot.journal.views import GroupView
from drpilot.serve import Options, serve
from drpilot.services import watch
from drpilot.services.alarms import ALARM, FRESH, alarm_wants, asking_of, look_at_bursts
from drpilot.services.begin import Asking, propose
from drpilot.services.bursting import BurstAsking
from drpilot.services.burstline import burst_line
from drpilot.services.status import overview, read
from drpilot.services.watch import begin_due
from tests.services.world import GROUP, START, Tiny, replicate_plan

POLICY = BurstPolicy("web", 2, 4, 25, 7200.0, 600.0, BurstAlarm("shop-load", "home", 120, 300))


def view(group: Group, **more: Any) -> GroupView:
    """A group as the journal has it."""
    return GroupView("shop", more.pop("state", "protected"), "home", 1, group, **more)


def told(value: bool | None, since: datetime) -> dict[str, Any]:
    """The condition of an alarm that was looked at just now."""
    return {
        ALARM: {"value": value, "since": micros(since), "looked_at": micros(START), "reason": "shop-load"}
    }


@pytest.mark.parametrize(
    ("value", "held_s", "more", "wanted"),
    [
        (True, 119, {}, ""),
        (True, 120, {}, "burst"),
        (None, 9999, {}, ""),
        (False, 9999, {}, ""),
        (True, 999, {"burst": Burst("serving", cause="alarm")}, ""),
        (True, 999, {"burst": Burst(ended_at=START - timedelta(seconds=599))}, ""),
        (True, 999, {"burst": Burst(ended_at=START - timedelta(seconds=600))}, "burst"),
        (True, 999, {"state": "awaiting_commit"}, ""),
        (True, 999, {"locked_by": "lead"}, ""),
        (False, 299, {"burst": Burst("serving", cause="alarm")}, ""),
        (False, 300, {"burst": Burst("serving", cause="alarm")}, "unburst"),
        (False, 9999, {"burst": Burst("serving", cause="hand")}, ""),
        (False, 9999, {"burst": Burst("serving", cause="schedule")}, ""),
        (None, 9999, {"burst": Burst("serving", cause="alarm")}, ""),
    ],
)
def test_an_alarm_is_believed_once_it_has_held(
    value: bool | None, held_s: float, more: dict[str, Any], wanted: str
) -> None:
    """On for `after` begins, off for `clear` ends what the alarm began; untold does neither; a cool-down is kept."""
    conditions = told(value, START - timedelta(seconds=held_s))
    assert alarm_wants(view(replace(GROUP, burst=POLICY), conditions=conditions, **more), START) == wanted


@pytest.mark.parametrize(("value", "burst"), [(True, Burst()), (False, Burst("serving", cause="alarm"))])
def test_a_look_that_is_old_counts_as_no_look(value: bool, burst: Burst) -> None:
    """On or off for an hour, but nobody has looked for more than two minutes: nothing begins and nothing ends."""
    conditions = told(value, START - timedelta(hours=1))
    seen = view(replace(GROUP, burst=POLICY), conditions=conditions, burst=burst)
    assert alarm_wants(seen, START + FRESH) != ""
    assert alarm_wants(seen, START + FRESH + timedelta(microseconds=1)) == ""


def test_one_look_after_a_long_while_begins_nothing() -> None:
    """The alarm was on, nobody looked for an hour, and it is on: what it did meanwhile nobody knows."""
    one = {ALARM: {"value": True, "since": micros(START), "looked_at": micros(START), "reason": ""}}
    seen = view(replace(GROUP, burst=POLICY), conditions=one)
    assert alarm_wants(seen, START) == ""
    assert alarm_wants(seen, START + FRESH) == ""  # one look is not two, however long ago it was


def test_looks_with_a_gap_between_them_are_no_streak(tmp_path: Path) -> None:
    """What is kept of a look begins anew after a gap; within the bound it goes on, and another answer begins anew."""
    world = tiny(tmp_path)

    def look(value: bool, after_s: float) -> float:
        world.clock.advance(after_s)
        world.journal.set_condition("shop", ALARM, value, "", unbroken=FRESH)
        kept = world.journal.group("shop").conditions[ALARM]
        return float(kept["looked_at"] - kept["since"]) / 1e6

    held = [look(*one) for one in ((True, 0), (True, 30), (True, 120), (True, 121), (True, 30), (False, 30))]
    assert held == [0, 30, 150, 0, 30, 0]


def test_a_burst_whose_time_is_over_is_not_begun_late() -> None:
    """Without an alarm nothing would end it but its longest time: refused, and due the next day."""
    plan = BurstSchedule("0 8 * * *", "Europe/Rome", 3600)
    group = replace(GROUP, burst=replace(POLICY, schedule=plan, alarm=None))
    with pytest.raises(DrpilotError) as refused:
        asking_of(view(group), datetime(2026, 11, 24, 11, 0, tzinfo=UTC))
    assert refused.value.word == "burst-refused"


def test_a_scheduled_burst_lasts_to_the_end_of_its_time() -> None:
    """Begun late it lasts the rest; outside its time it is the alarm's."""
    plan = BurstSchedule("0 8 * * *", "Europe/Rome", 3600)
    group = replace(GROUP, burst=replace(POLICY, schedule=plan))
    morning = datetime(2026, 11, 24, 7, 20, tzinfo=UTC)
    assert asking_of(view(group), morning) == BurstAsking(cause="schedule", lasts_s=2400.0)
    assert asking_of(view(group), morning + timedelta(hours=1)) == BurstAsking(cause="alarm")


def tiny(tmp_path: Path, **policy: Any) -> Tiny:
    """The tiny world with a group that may burst, protected."""
    made = Tiny(tmp_path, group=replace(GROUP, burst=replace(POLICY, alarm=None, **policy)))
    made.replicate()
    return made


def set_out(world: Tiny, state: str = "serving", **more: Any) -> None:
    """A burst in the journal, as a run of it writes it down."""
    plan = replace(plan_of(world), mode="burst")
    run = world.begin(plan)
    lease = world.journal.acquire(run.id, world.house.holder)
    assert lease is not None
    data = {
        "tier": "web",
        "site": "away",
        "point": world.newest(),
        "capacity": 2,
        "weight": 25,
        "cause": "hand",
    }
    data |= {"run": run.name, "until": (world.clock.now() + timedelta(hours=2)).isoformat(), **more}
    moves = [Move("burst", "shop", "begin", {}, data)]
    moves += [Move("burst", "shop", "serve", {"healthy": True})] if state == "serving" else []
    world.journal.commit(lease, moves)
    world.journal.release(lease)
    world.journal.post(run.id, "cancel", "tester")
    world.drive(run)


def plan_of(world: Tiny) -> Any:
    """A plan that holds the lane of copies."""
    return replicate_plan(world.newest())


def test_a_burst_pins_its_point_and_its_end_is_due_from_the_beginning(tmp_path: Path) -> None:
    """Retention leaves the point alone while it runs; whoever dies, the end is in the schedule."""
    world = tiny(tmp_path)
    set_out(world, "scaling_out")
    found = world.journal.group("shop").burst
    assert (found.state, found.tier, found.site, found.capacity) == ("scaling_out", "web", "away", 2)
    (point,) = world.journal.points("shop")
    assert point.pins == {f"burst {found.run}"}
    with pytest.raises(DrpilotError) as refused:
        world.journal.change("shop", [Move("point", point.id, "expire")], "tester")
    assert "pinned" in refused.value.why
    (due,) = [one for one in world.journal.schedules() if one.kind == "unburst"]
    assert due.next_at == found.until


def test_the_end_is_begun_until_it_is_seen(tmp_path: Path) -> None:
    """An end that a busy lane refuses is due again soon; when nothing is left it is due no more."""
    world = tiny(tmp_path)
    set_out(world)
    asked: list[str] = []

    def refuses(mode: str, group: str) -> RunView:
        asked.append(mode)
        raise world.journal.busy(group, "copy")

    world.clock.advance(7201)
    for _ in range(3):
        begin_due(world.house, refuses)
        world.clock.advance(watch.END_AGAIN.total_seconds() + 1)
    assert asked == ["unburst"] * 3
    run = world.begin(plan_of(world))
    lease = world.journal.acquire(run.id, world.house.holder)
    assert lease is not None
    ends = [Move("burst", "shop", "drain"), Move("burst", "shop", "removed", {"unseen": True})]
    world.journal.commit(lease, ends)
    assert [one for one in world.journal.schedules() if one.kind == "unburst"] == []
    ended = world.journal.group("shop").burst
    assert (ended.state, ended.ended_at) == ("none", world.clock.now())


def test_an_end_that_failed_is_tried_again_after_a_while(tmp_path: Path) -> None:
    """Whoever began it: not at each look, but two minutes after the last try has ended."""
    world = tiny(tmp_path)
    set_out(world)
    plan = plan_of(world)
    run = world.begin(replace(plan, mode="unburst"))
    lease = world.journal.acquire(run.id, world.house.holder)
    assert lease is not None
    world.journal.commit(lease, [Move("burst", "shop", "drain")])
    world.journal.release(lease)
    assert look_at_bursts(world.house) == ()  # it is under way
    world.journal.post(run.id, "cancel", "tester")
    world.drive(run)
    assert look_at_bursts(world.house) == ()
    world.clock.advance(watch.END_AGAIN.total_seconds())
    assert [one.text for one in look_at_bursts(world.house)] == [
        "unburst is due: the burst stopped at draining"
    ]
    assert [one.kind for one in watch.due(world.journal, world.clock.now())] == ["unburst"]


def test_the_service_ends_a_burst_that_stopped_half_way(tmp_path: Path) -> None:
    """A service at work finds it by itself and begins its end, once."""
    world = tiny(tmp_path)
    set_out(world, "scaling_out")
    begun: list[str] = []

    def begin(mode: str, group: str) -> RunView:
        begun.append(mode)
        world.house.stop.set()
        return world.begin(replace(plan_of(world), mode=mode))

    assert serve(world.house, Options(begin=begin, signals=False)) == 0
    assert begun == ["unburst"]


def test_a_scheduled_burst_that_could_not_begin_is_tried_while_its_time_lasts(tmp_path: Path) -> None:
    """Refused at eight it is due again a minute later; when its hour is over, only the next day."""
    world = tiny(tmp_path, schedule=BurstSchedule("0 3 * * *", "UTC", 300))
    world.journal.plan_next("shop", "burst", world.clock.now().replace(microsecond=0))
    tried: list[datetime] = []

    def refuses(mode: str, group: str) -> RunView:
        tried.append(world.clock.now())
        raise world.journal.busy(group, "copy")

    for _ in range(12):
        begin_due(world.house, refuses)
        world.clock.advance(61)
    assert 3 <= len(tried) <= 5
    (due,) = [one for one in world.journal.schedules() if one.kind == "burst"]
    assert due.next_at == START + timedelta(days=1)


def test_a_scheduled_burst_begins_once_though_its_service_died(tmp_path: Path) -> None:
    """Begun, its service killed, ended by a person within its time: whoever takes over begins no second one."""
    world = tiny(tmp_path, schedule=BurstSchedule("0 3 * * *", "UTC", 3600))
    world.journal.plan_next("shop", "burst", world.clock.now().replace(microsecond=0))
    begun: list[RunView] = []

    class Died(BaseException):
        """The service ended here."""

    def begins(mode: str, group: str) -> RunView:
        begun.append(world.begin(replace(plan_of(world), mode=mode)))
        return begun[-1]

    def begins_and_dies(mode: str, group: str) -> RunView:
        begins(mode, group)
        raise Died

    with pytest.raises(Died):
        begin_due(world.house, begins_and_dies)
    world.journal.post(begun[0].id, "cancel", "tester")
    world.drive(begun[0])  # the lane is free again, and no burst runs
    for _ in range(6):
        world.clock.advance(watch.HOLD_S + 2)
        begin_due(world.house, begins)
    assert [run.mode for run in begun] == ["burst"]
    (due,) = [one for one in world.journal.schedules() if one.kind == "burst"]
    assert due.next_at == datetime(2026, 11, 23, 3, 0, tzinfo=UTC)


def test_protecting_again_keeps_the_end_due(tmp_path: Path) -> None:
    """A new file while a burst runs forgets neither its end nor that the burst is there."""
    from drpilot.services.protect import schedule

    world = tiny(tmp_path)
    set_out(world)
    schedule(world.house, replace(world.group, burst=None))
    kinds = {one.kind: one.next_at for one in world.journal.schedules()}
    assert kinds["unburst"] == world.journal.group("shop").burst.until


def test_status_says_what_runs_from_the_journal_alone(tmp_path: Path) -> None:
    """One line: tier, site, machines, share, how long yet and who began it."""
    world = tiny(tmp_path)
    set_out(world)
    row = overview(read(world.journal), world.clock.now()).rows[0]
    assert row.burst is not None
    assert row.burst.text.startswith("burst of web on away: 2 extra machines take 25 % of the users, for 2h")
    assert burst_line(Burst(), world.clock.now()) is None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (BurstAsking(tier="db"), "--tier db can't burst"),
        (BurstAsking(capacity=5), "--capacity 5"),
        (BurstAsking(capacity=0), "--capacity 0"),
        (BurstAsking(weight=100), "--weight 100"),
        (BurstAsking(lasts_s=7800), "--for 2h10m"),
    ],
)
def test_what_lies_outside_the_file_is_refused(tmp_path: Path, asked: BurstAsking, said: str) -> None:
    """The file's limits hold for everybody; a usage error says them."""
    world = tiny(tmp_path)
    with pytest.raises(DrpilotError) as refused:
        propose(world.house, "burst", "shop", Asking(burst=asked))
    assert (refused.value.word, refused.value.title.startswith(said)) == ("usage", True), refused.value.title


@pytest.mark.parametrize(
    ("mode", "word"),
    [("burst", "burst-running"), ("switchover", "burst-running"), ("retire", "burst-running")],
)
def test_what_may_not_begin_beside_a_burst(tmp_path: Path, mode: str, word: str) -> None:
    """A second burst, a planned move and a farewell: refused, with the command that ends the burst."""
    world = tiny(tmp_path)
    set_out(world)
    with pytest.raises(DrpilotError) as refused:
        propose(world.house, mode, "shop", Asking(reason="a test"))
    assert (refused.value.word, refused.value.hint) == (word, "drpilot burst shop --end")


def test_a_burst_needs_its_section_and_an_end_needs_a_burst(tmp_path: Path) -> None:
    """Without `burst:` in the file nobody can burst; what does not run can't be ended."""
    world = Tiny(tmp_path)
    world.replicate()
    for mode, word in (("burst", "no-burst"), ("unburst", "burst-idle")):
        with pytest.raises(DrpilotError) as refused:
            propose(world.house, mode, "shop", Asking())
        assert refused.value.word == word


def test_a_burst_never_takes_the_room_of_a_failover() -> None:
    """Used, wanted and needed by a failover together must stay within the quota; what nobody tells is not judged."""
    offer = BurstOffer("web", "away", 2, 4, 25, 3600, "hand", vcpus=4, vcpus_used=2, vcpus_limit=16)
    assert replace(offer, vcpus_failover=10).fits
    assert not replace(offer, vcpus_failover=11).fits
    assert offer.fits
    assert offer.machine_hours == 2.0
