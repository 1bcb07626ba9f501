"""A burst as a service begins, follows and ends it: proposed, refused, pinned, beside replication and a failover."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from drpilot import census
from drpilot.base.clock import Chance, micros
from drpilot.base.errors import DrpilotError
from drpilot.domain.burst import Burst, BurstOffer
from drpilot.domain.group import BurstAlarm, BurstPolicy, BurstSchedule, Group
from drpilot.domain.ports import Move
from drpilot.domain.run import RunView
from drpilot.journal.database import Database
from drpilot.journal.journal import Journal
from drpilot.journal.views import GroupView
from drpilot.serve import Options, scheduled, serve
from drpilot.services import watch
from drpilot.services.alarms import ALARM, alarm_wants, asking_of, look_at_bursts
from drpilot.services.begin import Asking, Typed, begin, consent, propose
from drpilot.services.bursting import BurstAsking
from drpilot.services.burstline import burst_line
from drpilot.services.house import House
from drpilot.services.protect import protect
from drpilot.services.status import overview, read
from drpilot.services.steer import Order, order
from drpilot.services.watch import begin_due
from tests.actions.test_burst import alive, burst_section, reach_home, records
from tests.actions.world import World, opened
from tests.services.shop import CLOCK, Shop
from tests.services.world import GROUP, START, Tiny, replicate_plan

# The sample shop has a batch machine that no tier protects; `reach_home` gives one side a rule the other has not.
USUAL = {"never-drilled", "unprotected-resource", "partner-differs"}
ALARMED = "{name: shop-load, site: home, after: 1s, clear: 1s}"
POLICY = BurstPolicy("web", 2, 4, 25, 7200.0, 600.0, BurstAlarm("shop-load", "home", 120, 300))


# -- rules, without a cloud -----------------------------------------------------------------------------------


def view(group: Group, **more: Any) -> GroupView:
    """A group as the journal has it."""
    return GroupView("shop", more.pop("state", "protected"), "home", 1, group, **more)


def told(value: bool | None, since: datetime) -> dict[str, Any]:
    """The condition of an alarm."""
    return {ALARM: {"value": value, "since": micros(since), "reason": "shop-load"}}


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


# -- on the lab -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Path]]:
    """The shop with a burst in its file, protected and replicated; its clouds and its journal are kept."""
    folder = tmp_path_factory.mktemp("burst")
    with opened(folder, ttl_s=1) as world:
        world.text += burst_section(reach_home(world, folder), alarm=ALARMED, cooldown="0s")
        shop = Shop(world, folder)
        protect(shop.house, world.text, "shop.yaml")
        assert shop.run("replicate") == "succeeded"
        shop.house.journal.database.close()
        world.save()
        yield world, folder


@pytest.fixture
def shop(kept: tuple[World, Path], tmp_path: Path) -> Shop:
    """The kept shop put back, with a journal of its own."""
    world, folder = kept
    world.restore()
    for path in folder.glob("journal.db*"):
        shutil.copy2(path, tmp_path / path.name)
    return Shop(world, tmp_path)


def carry(shop: Shop, mode: str, asking: Asking | None = None) -> RunView:
    """A run of a mode, consented to and driven to where it rests."""
    house = shop.house
    offer = propose(house, mode, "shop", asking or Asking(reason="a test"))
    typed = Typed("shop", (offer.proposal.loss_s or 0) + 60)
    run = begin(house, offer, consent(house, offer, typed))
    return house.driver().drive(run.id, house.holder).view


def rows(shop: Shop) -> list[dict[str, Any]]:
    """Everything that exists, as the census counts it."""
    return [{**row, "site": site} for site, cloud in shop.world.clouds.items() for row in cloud.inventory()]


def test_a_burst_beside_replication_and_a_check(shop: Shop) -> None:
    """Its run ends while it serves, so replication goes on beside it; nothing finds anything wrong; it ends clean."""
    before = rows(shop)
    assert set(shop.found()) <= USUAL
    stale = propose(shop.house, "burst", "shop", Asking())
    run = carry(shop, "burst")
    with pytest.raises(DrpilotError) as refused:  # a second operator who had looked before
        begin(shop.house, stale, None)
    assert refused.value.word == "burst-running"
    assert run.result == "succeeded", {p: s.failure for p, s in run.steps.items() if s.failure}
    assert run.proposal is not None and run.proposal.burst is not None
    assert (run.proposal.burst.capacity, run.proposal.burst.type) == (2, "t3.medium")
    first = run.plan.point
    assert shop.run("replicate") == "succeeded"
    assert alive(shop.world) == 2
    assert records(shop.world) == [("drpilot-burst", 25), ("drpilot-home", 75)]
    assert {p.id for p in shop.house.journal.points("shop") if p.pins} == {first}
    assert set(shop.found()) <= USUAL
    assert shop.house.journal.group("shop").epoch == 1
    assert set(shop.world.mutations("edge")) == {"ChangeResourceRecordSets"}  # the witness is never written
    assert [c.observed for c in shop.look().checks if c.name == "burst"] == ["2 healthy"]
    for text in (run.plan, shop.house.journal.events(run=run.id), shop.house.journal.group("shop")):
        assert "upstream=" not in repr(text)
    assert carry(shop, "unburst").result == "succeeded"
    assert shop.house.journal.group("shop").burst.state == "none"
    known = {(row["site"], row["id"]) for row in before}
    points = {r.id for p in shop.house.journal.points("shop") for r in p.replicas}
    points |= {r.source_id for p in shop.house.journal.points("shop") for r in p.replicas}
    over = [
        one
        for one in census.leftovers(rows(shop), known, points)
        if not one.startswith(("instance", "volume"))
    ]
    assert over == []
    assert alive(shop.world) == 0
    assert set(shop.found()) <= USUAL


def test_a_failover_during_a_burst_works_and_the_burst_ends_after_it(shop: Shop) -> None:
    """Home dies while it serves: the failover takes the whole name; the extra machines go later, one command."""
    assert carry(shop, "burst").result == "succeeded"
    shop.world.fault("home", "refuse")
    view = carry(shop, "failover")
    for person in ("second", "third"):
        if view.state == "waiting":
            other = replace(shop.house, person=person, account=person)
            order(other, view.id, Order("approve", data={"confirm": "shop"}))
            view = shop.house.driver().drive(view.id, shop.house.holder).view
    assert view.state == "awaiting_commit", {p: s.failure for p, s in view.steps.items() if s.failure}
    assert records(shop.world) == [("", None)]
    assert alive(shop.world) == 2
    with pytest.raises(DrpilotError) as refused:
        propose(shop.house, "unburst", "shop", Asking())
    assert refused.value.word in ("lane-busy", "wrong-state")
    other = replace(shop.house, person="second", account="second")
    order(other, view.id, Order("commit", comment="a test", data={"confirm": "shop"}))
    view = shop.house.driver().drive(view.id, shop.house.holder).view
    assert (view.state, shop.house.journal.group("shop").active) == ("finished", "away")
    assert carry(shop, "unburst").result == "succeeded"
    assert (alive(shop.world), records(shop.world)) == (0, [("", None)])
    assert shop.house.journal.group("shop").burst.state == "none"
    standing = shop.call(
        "away", "DescribeAutoScalingGroups", "autoscaling", AutoScalingGroupNames=["shop-web"]
    )
    assert standing["AutoScalingGroups"][0]["DesiredCapacity"] == 1


@pytest.mark.slow
def test_extra_machines_that_are_not_healthy_are_a_finding(shop: Shop) -> None:
    """Somebody shrinks the extra group: users are sent to nothing, which `check` says with the command that ends it."""
    assert carry(shop, "burst").result == "succeeded"
    params = {"AutoScalingGroupName": "drpilot-burst-shop-web", "MinSize": 0, "DesiredCapacity": 0}
    shop.call("away", "UpdateAutoScalingGroup", "autoscaling", **params)
    for _ in range(200):
        found = [item for item in shop.look().findings if item.word == "burst-unhealthy"]
        if found:
            break
        CLOCK.sleep(0.1)
    assert [(item.verdict, item.hint) for item in found] == [("bad", "drpilot burst shop --end")]
    assert carry(shop, "unburst").result == "succeeded"


def set_alarm(shop: Shop, state: str) -> None:
    """Put the alarm into a state, as CloudWatch would by its data points."""
    made = {
        "AlarmName": "shop-load",
        "MetricName": "RequestCount",
        "Namespace": "Shop",
        "Statistic": "Sum",
        "Period": 86_400,
        "EvaluationPeriods": 1,
        "Threshold": 100.0,
        "ComparisonOperator": "GreaterThanThreshold",
    }
    if not shop.call("home", "DescribeAlarms", "cloudwatch", AlarmNames=["shop-load"])["MetricAlarms"]:
        shop.call("home", "PutMetricAlarm", "cloudwatch", **made)
    shop.call(
        "home", "SetAlarmState", "cloudwatch", AlarmName="shop-load", StateValue=state, StateReason="a test"
    )


def another(shop: Shop, seed: int) -> House:
    """Another service on the same journal."""
    database = Database(shop.house.journal.database.url)
    return replace(shop.house, journal=Journal(database, CLOCK, Chance(seed)))


def tick(houses: list[House]) -> None:
    """One round of every service at once: look at alarms, begin what is due."""
    gate = threading.Barrier(len(houses))

    def service(house: House) -> None:
        gate.wait()
        look_at_bursts(house)
        begin_due(house, scheduled(house))

    threads = [threading.Thread(target=service, args=(house,)) for house in houses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def until_begun(shop: Shop, houses: list[House], mode: str) -> RunView:
    """Tick until a run of `mode` was begun; drive it to its end."""
    for _ in range(200):
        tick(houses)
        found = [run for run in shop.house.journal.runs("shop") if run.mode == mode]
        if found:
            return shop.house.driver().drive(found[0].id, shop.house.holder).view
        CLOCK.sleep(0.1)
    raise AssertionError(f"no {mode} was begun")


def test_an_alarm_begins_one_burst_over_many_services_and_ends_it(shop: Shop) -> None:
    """Three services look at once: one burst while the alarm is on, one end when it has been off for a while."""
    houses = [another(shop, seed) for seed in (11, 12, 13)]
    set_alarm(shop, "OK")
    tick(houses)
    assert shop.house.journal.group("shop").conditions[ALARM]["value"] is False
    set_alarm(shop, "ALARM")
    run = until_begun(shop, houses, "burst")
    assert (run.result, run.reason, run.by) == ("succeeded", "alarm", "tester")
    tick(houses)
    assert shop.house.journal.group("shop").burst.cause == "alarm"
    set_alarm(shop, "OK")
    ended = until_begun(shop, houses, "unburst")
    assert ended.result == "succeeded"
    tick(houses)
    modes = [run.mode for run in shop.house.journal.runs("shop")]
    assert (modes.count("burst"), modes.count("unburst")) == (1, 1)
    assert records(shop.world) == [("", None)]


def test_a_burst_that_failed_is_removed_by_the_service(shop: Shop) -> None:
    """Its first-boot file is gone: the run fails at once, its end is made due, and nothing is left."""
    path = Path(str(shop.house.journal.group("shop").group.burst.user_data_file))  # type: ignore[union-attr]
    text = path.read_text()
    path.unlink()
    run = carry(shop, "burst")
    path.write_text(text)
    assert run.result == "failed"
    assert shop.house.journal.group("shop").burst.state == "scaling_out"
    assert [one.text for one in look_at_bursts(shop.house)] == [
        "unburst is due: the burst stopped at scaling out"
    ]
    ended = until_begun(shop, [shop.house], "unburst")
    assert (ended.result, shop.house.journal.group("shop").burst.state) == ("succeeded", "none")
    assert set(shop.found()) <= USUAL


def test_an_alarm_that_is_not_there_is_untold(shop: Shop) -> None:
    """No such alarm, or a site that refuses: unknown with its reason, and nothing begins."""
    assert look_at_bursts(shop.house) == ()
    told_ = shop.house.journal.group("shop").conditions[ALARM]
    assert (told_["value"], told_["reason"]) == (None, "there is no alarm shop-load on home")
