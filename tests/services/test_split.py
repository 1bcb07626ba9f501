"""The look at both sides of a real group in the lab, and the survivor's run against clouds of this process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.domain.fence import Claim
from drpilot.domain.ports import Move
from drpilot.serve import scheduled
from drpilot.services import watch
from drpilot.services.begin import Asking, Typed, begin, consent, propose
from drpilot.services.hysteresis import split_apart
from drpilot.services.protect import protect
from drpilot.services.steer import Order, order
from tests.actions.world import World, opened
from tests.services.shop import CLOCK, Shop


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Path]]:
    """The shop, protected and replicated once; the clouds are kept as they then are, and so is the journal."""
    folder = tmp_path_factory.mktemp("split")
    with opened(folder) as world:
        made = Shop(world, folder)
        protect(made.house, world.text, "shop.yaml")
        assert made.run("replicate").startswith("succeeded")
        made.house.journal.database.close()
        world.save()
        yield world, folder


@pytest.fixture
def shop(first: tuple[World, Path], tmp_path: Path) -> Iterator[Shop]:
    """The shop as on its first day; reads of this lab never lag, so that two looks may follow quickly."""
    world, folder = first
    world.restore()
    for path in folder.glob("journal.db*"):
        shutil.copy2(path, tmp_path / path.name)
    made = Shop(world, tmp_path)
    made.house.world = replace(made.house.world, settle_s=0.01)
    yield made
    made.house.journal.database.close()


def sides(shop: Shop) -> dict[str, tuple[str, str]]:
    """What the look at both sides says: subject → verdict and what was observed."""
    return {
        item.subject: (item.verdict, item.observed) for item in shop.look().checks if item.name == "sides"
    }


def suspect(shop: Shop) -> None:
    """Somebody starts the standby by hand, and two looks see it."""
    shop.call("away", "StartInstances", InstanceIds=[shop.standby])
    shop.until("away", shop.standby, "running")
    shop.look()
    CLOCK.sleep(2 * split_apart(shop.house.world.settle_s).total_seconds())
    shop.look()
    assert shop.house.journal.group("shop").state == "split_suspected"


def name(shop: Shop, survivor: str, **asking: Any) -> Any:
    """Two persons name a survivor; how the run stands then."""
    house = shop.house
    offer = propose(house, "survivor", "shop", Asking(reason="a test", to=survivor, **asking))
    run = begin(house, offer, consent(house, offer, Typed("shop")))
    assert house.driver().drive(run.id, house.holder).view.state == "waiting"
    second = replace(house, person="second", account="second")
    order(second, run.id, Order("approve", data={"confirm": "shop"}))
    return house.driver().drive(run.id, house.holder).view


def test_one_side_writes(shop: Shop) -> None:
    """A protected group in peace: nothing runs on the other side, and the witness was never asked for a claim."""
    assert sides(shop) == {
        "witness": ("ok", "the witness holds no claim"),
        "writers": ("ok", "nothing of it runs on away"),
    }


def test_what_a_live_run_started_is_no_split(shop: Shop) -> None:
    """A standby that a replication launches runs for a moment, with the run's own tag on it."""
    run = begin(shop.house, propose(shop.house, "replicate", "shop", Asking(reason="a test")), None)
    shop.call("away", "CreateTags", Resources=[shop.standby], Tags=[{"Key": "drpilot:run", "Value": run.id}])
    shop.call("away", "StartInstances", InstanceIds=[shop.standby])
    shop.until("away", shop.standby, "running")
    assert sides(shop)["writers"] == ("ok", "nothing of it runs on away")
    shop.call(
        "away", "CreateTags", Resources=[shop.standby], Tags=[{"Key": "drpilot:run", "Value": "another"}]
    )
    assert sides(shop)["writers"][0] == "bad"


def test_a_side_that_cannot_be_seen_is_unknown(shop: Shop) -> None:
    """Home refuses while the standby runs: that home runs too is not known, so nothing is contradicted."""
    shop.call("away", "StartInstances", InstanceIds=[shop.standby])
    shop.until("away", shop.standby, "running")
    shop.world.fault("home", "refuse")
    verdict, observed = sides(shop)["writers"]
    assert (verdict, "home can't be seen" in observed) == ("unknown", True)
    assert "OneSideWrites" not in shop.house.journal.group("shop").conditions
    shop.world.heal("home")


def test_an_unverified_fence_is_an_open_fence(shop: Shop) -> None:
    """A side that merely was not seen is not judged at all, whatever runs there: the service closes its fence."""
    asked = [Move("fence", "away", event) for event in ("request", "apply", "unseen")]
    shop.house.journal.change("shop", asked, "tester")
    shop.call("away", "StartInstances", InstanceIds=[shop.standby])
    shop.until("away", shop.standby, "running")
    assert set(sides(shop)) == {"witness"}
    again = [Move("fence", "away", event) for event in ("request", "apply")]
    unseen = Move("fence", "away", "partly", {}, {"seen": False, "writers_left": None})
    shop.house.journal.change("shop", [*again, unseen], "tester")
    assert set(sides(shop)) == {"witness"}  # it went silent behind the rungs: still nobody saw it
    defied = Move("fence", "away", "partly", {}, {"seen": True, "writers_left": 1})
    shop.house.journal.change("shop", [*again, defied], "tester")
    assert sides(shop)["writers"][0] == "bad"


def test_a_witness_that_names_the_other_side_is_a_split(shop: Shop) -> None:
    """Another controller committed a move; the survivor is claimed above its epoch, and the other side is fenced."""
    witness = shop.house.world.witness()
    witness.write(Claim("shop", 7, "away"), replaces="")
    for _ in range(2):
        assert sides(shop)["witness"] == (
            "bad",
            "the witness says epoch 7, active away, the journal epoch 1, active home",
        )
        CLOCK.sleep(2 * split_apart(shop.house.world.settle_s).total_seconds())
    group = shop.house.journal.group("shop")
    assert (group.state, "split-suspected" in shop.found()) == ("split_suspected", True)
    with pytest.raises(DrpilotError) as refused:
        propose(shop.house, "replicate", "shop", Asking(reason="a test"))
    assert refused.value.exit_code == 5
    assert name(shop, "home").result == "succeeded"
    after = shop.house.journal.group("shop")
    assert (after.state, after.active, after.epoch) == ("active_unprotected", "home", 8)
    assert witness.read("shop")[0] == Claim("shop", 8, "home")


def test_the_service_looks_by_itself_and_begins_nothing_in_a_split(shop: Shop) -> None:
    """Two looks of the service suspect the split; a due replication is left out, with the reason told."""
    house = shop.house
    watch.look_at_sites(house)
    assert watch.look_at_groups(house) == ()
    first_look = house.journal.group("shop").conditions["OneSideWrites"]["looked_at"]
    assert watch.look_at_groups(house) == ()  # young enough: nothing is asked of a cloud
    assert house.journal.group("shop").conditions["OneSideWrites"]["looked_at"] == first_look
    shop.call("away", "StartInstances", InstanceIds=[shop.standby])
    shop.until("away", shop.standby, "running")
    shop.look()
    CLOCK.sleep(2 * split_apart(house.world.settle_s).total_seconds())
    (happening,) = watch.look_at_groups(house)  # a contrary look is followed by another at once
    assert (happening.what, "split_suspected" in happening.text) == ("changed", True)
    house.journal.unschedule("shop")
    house.journal.plan_next("shop", "replicate", house.clock.now())
    told = [each for each in watch.begin_due(house, scheduled(house)) if each.group == "shop"]
    assert {each.what for each in told} == {"skipped"}
    assert all("split_suspected" in each.text for each in told)
    assert watch.repeat_fences(house, lambda group: pytest.fail("a fence was begun by itself")) == ()


def test_two_persons_end_a_split_and_the_group_is_protected_again(shop: Shop) -> None:
    """The running standby is stopped and seen; the way back to protection is the usual one."""
    suspect(shop)
    view = name(shop, "home")
    assert view.result == "succeeded", [(s.path, s.failure) for s in view.steps.values() if s.failure]
    group = shop.house.journal.group("shop")
    assert (group.state, group.active) == ("active_unprotected", "home")
    assert shop.standby in group.invalidated
    shop.until("away", shop.standby, "stopped")
    assert sides(shop)["writers"] == ("ok", "nothing of it runs on away")
    assert shop.run("reprotect").startswith("succeeded")
    assert shop.house.journal.group("shop").state == "protected"
    assert {one.state for one in shop.house.journal.standbys("shop") if one.site == "away"} == {"ready"}


def test_the_screen_says_what_is_given_up_and_what_was_seen(shop: Shop) -> None:
    """One object with the direction, both looks, the contradiction, the fence wanted, and two persons."""
    suspect(shop)
    proposal = propose(shop.house, "survivor", "shop", Asking(reason="a test", to="home")).proposal
    assert (proposal.source, proposal.target, proposal.approvers) == ("away", "home", 2)
    assert (proposal.starts, proposal.loss_s) == ((), None)
    seen = {sight.subject: sight for sight in proposal.seen}
    assert shop.standby in seen["split"].text
    assert {seen[name].verdict for name in ("home", "away")} == {"ok"}
    alone = propose(shop.house, "survivor", "shop", Asking(reason="a test", to="home", break_glass="alone"))
    assert alone.proposal.approvers == 1
    for wrong in ("edge", None):
        with pytest.raises(DrpilotError) as refused:
            propose(shop.house, "survivor", "shop", Asking(reason="a test", to=wrong))
        assert (refused.value.word, refused.value.exit_code) == ("usage", 2)


def test_a_side_that_does_not_answer_can_not_be_given_up(shop: Shop) -> None:
    """Without seeing its fence nobody is named: refused before it begins, and stopped in the middle."""
    suspect(shop)
    shop.world.fault("away", "refuse")
    with pytest.raises(DrpilotError) as refused:
        propose(shop.house, "survivor", "shop", Asking(reason="a test", to="home"))
    assert (refused.value.word, refused.value.exit_code) == ("survivor-unseen", 5)
    shop.world.heal("away")
    house = shop.house
    offer = propose(house, "survivor", "shop", Asking(reason="a test", to="home", break_glass="alone"))
    run = begin(house, offer, consent(house, offer, Typed("shop")))

    def silence(view: Any) -> None:
        if view.steps["claim"].state == "succeeded":
            shop.world.fault("away", "refuse")

    stopped = house.driver(silence).drive(run.id, house.holder).view
    assert (stopped.state, stopped.steps["fence"].state) == ("paused", "failed")
    assert house.journal.group("shop").state == "split_suspected"
    shop.world.heal("away")
    order(house, run.id, Order("retry"))
    assert house.driver().drive(run.id, house.holder).view.result == "succeeded"


def test_a_side_that_runs_nothing_is_no_survivor(shop: Shop) -> None:
    """The standby was stopped again before it was named: the run ends before it asks anybody."""
    suspect(shop)
    shop.call("away", "StopInstances", InstanceIds=[shop.standby])
    shop.until("away", shop.standby, "stopped")
    house = shop.house
    offer = propose(house, "survivor", "shop", Asking(reason="a test", to="away"))
    run = begin(house, offer, consent(house, offer, Typed("shop")))
    view = house.driver().drive(run.id, house.holder).view
    assert (view.state, view.result, view.steps["claim"].state) == ("finished", "failed", "cancelled")
    assert shop.house.journal.group("shop").state == "split_suspected"
    assert "no survivor is named" in shop.found()["split-suspected"][0]  # quiet now, and still not decided
