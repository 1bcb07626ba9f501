"""A burst as a service begins, follows and ends it on the lab: beside replication, under an alarm, in a failover."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drpilot import census
from drpilot.base.clock import Chance, RealClock
from drpilot.base.errors import DrpilotError
from drpilot.domain.run import RunView
from drpilot.journal.database import Database
from drpilot.journal.journal import Journal
from drpilot.serve import scheduled
from drpilot.services.alarms import ALARM, look_at_bursts
from drpilot.services.begin import Asking, Typed, begin, consent, propose
from drpilot.services.house import House
from drpilot.services.protect import protect
from drpilot.services.steer import Order, order
from drpilot.services.watch import HOLD_S, begin_due
from tests.actions.test_burst import alive, burst_section, reach_home, records
from tests.actions.world import World, opened
from tests.services.shop import CLOCK, Shop

# The sample shop has a batch machine that no tier protects; `reach_home` gives one side a rule the other has not.
USUAL = {"never-drilled", "unprotected-resource", "partner-differs"}
ALARMED = "{name: shop-load, site: home, after: 1s, clear: 1s}"


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


class Hurried(RealClock):
    """A clock on which a hold is over between any two looks at it."""

    looked = 0

    def monotonic(self) -> float:
        """Later by a hold with each look."""
        self.looked += 1
        return self.looked * HOLD_S


def test_what_took_longer_to_look_at_than_it_is_held_is_not_begun(shop: Shop) -> None:
    """Another service may have begun it meanwhile: left out and said, with no run, and due again."""
    now = shop.house.clock.now().replace(microsecond=0)
    assert shop.house.journal.hasten("shop", "replicate", now)
    before = len(shop.house.journal.runs("shop"))
    slow = replace(shop.house, clock=Hurried())
    told_ = begin_due(slow, scheduled(slow))
    assert [(one.what, "is held for 180 s" in one.text) for one in told_] == [("skipped", True)]
    assert len(shop.house.journal.runs("shop")) == before
    assert [one.next_at > now for one in shop.house.journal.schedules() if one.kind == "replicate"] == [True]
