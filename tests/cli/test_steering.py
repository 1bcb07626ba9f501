"""Steering at the terminal: answers, orders, refusals, and what is already so."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from drpilot.base.clock import rfc3339
from drpilot.cli import act, attend, look, protecting, steer
from drpilot.cli.options import Consent, Move, Naming
from drpilot.domain.fence import Verdict
from drpilot.domain.plan import Call
from drpilot.domain.ports import Move as Fact
from drpilot.domain.run import RunView
from tests.cli.desk import Desk
from tests.services.world import Input, Output, Step, Tiny, drill_plan


@pytest.fixture
def ready(tiny: Tiny) -> Tiny:
    """A protected group."""
    tiny.replicate()
    return tiny


def begun(ready: Tiny) -> RunView:
    """A drill whose driver went away after its first step."""
    run = ready.begin(drill_plan(ready.newest()))
    house = ready.fresh(7)

    def seen(view: RunView) -> None:
        if view.steps["isolated"].state == "succeeded":
            house.stop.set()

    house.driver(seen).drive(run.id, house.holder)
    return run


class Claim(Step):
    """A claim that can be given back."""

    def undo(self, given: Input, output: Output) -> Call:
        return Call("epoch.release", {})


def test_a_second_person_types_the_name(ready: Tiny) -> None:
    """Approval asks for the name on a terminal, refuses a wrong one, and never takes one person for two."""
    run = ready.failover(approvers=2, fence=Verdict.UNVERIFIED)
    first = Desk(replace(ready.fresh(5), person="oncall", account="oncall"))
    assert first(steer.approve, run="shop", confirm="shop").code == 5
    second = replace(ready.fresh(6), person="second", account="second")
    wrong = Desk(second, typed=["ship"])(steer.approve, run="shop")
    assert wrong.code == 5
    assert "error[DRP-4002]" in wrong.err
    unasked = Desk(second)(steer.approve, run="shop", output="json")
    assert (unasked.code, unasked.document["error"]["data"]["needs"]) == (5, {"confirm": "shop"})
    right = Desk(second, typed=["shop"])(steer.approve, run=run.name)
    assert right.code == 0
    assert "Type the group's name: " in right.err
    assert ready.journal.view(run.id).state == "awaiting_commit"
    assert Desk(second)(steer.approve, run="shop", confirm="shop").code == 5


def test_declining_ends_the_run(ready: Tiny) -> None:
    """A person who says no ends the run; that is what was asked for, so the exit code is 0."""
    ready.failover(approvers=2, fence=Verdict.UNVERIFIED)
    said = Desk(replace(ready.fresh(6), person="second", account="second"))(
        steer.decline, run="shop", reason="no"
    )
    assert said.code == 0
    assert ready.journal.view("shop/2").result == "cancelled"


def test_pausing_and_going_on(ready: Tiny, desk: Desk) -> None:
    """A run that nobody drives is paused, paused already, resumed to its end, and finished already."""
    run = begun(ready)
    assert desk(look.run_show, run="shop").out.count("nobody drives it") == 1
    paused = desk(steer.pause, run="shop", reason="wait")
    assert (paused.code, ready.journal.view(run.id).state) == (0, "paused")
    assert "next: drpilot run resume shop" in paused.out
    assert desk(steer.pause, run="shop", output="json").document["result"] == "already_paused"
    done = desk(steer.resume, run="shop", output="json")
    assert (done.code, done.document["state"], done.document["result"]) == (0, "finished", "succeeded")
    assert done.err == ""
    assert desk(steer.resume, run="shop/2", output="json").document["result"] == "already_finished"
    assert desk(steer.cancel, run="shop/2", output="json").document["result"] == "already_finished"


def test_cancelling_is_what_was_asked(ready: Tiny, desk: Desk) -> None:
    """A cancelled run is the success of `run cancel`, and the failure of whoever wanted the run."""
    begun(ready)
    assert desk(steer.cancel, run="shop").code == 0
    assert ready.journal.view("shop/2").result == "cancelled"
    watched = desk(attend.run_watch, run="shop/2")
    assert (watched.code, "DRP-5005" in watched.err) == (1, True)


def test_a_failed_step_is_retried_or_skipped(ready: Tiny, desk: Desk) -> None:
    """A failover stops at a failed step with 4 and the next command; retry goes on, and a fence is never skipped."""
    ready.outside.fails = {"tiers/web/launch"}
    assert ready.failover().state == "paused"
    stuck = desk(steer.resume, run="shop", output="json")
    assert stuck.code == 4
    assert stuck.document["error"]["word"] == "run-paused"
    assert stuck.document["error"]["where"]
    assert stuck.document["run"]["run"] == "shop/2"
    assert "next: drpilot run retry shop/2" in desk(look.run_show, run="shop").out
    assert desk(steer.skip, run="shop", step="fence", reason="hurry").code == 5
    assert desk(steer.skip, run="shop", step="nothing", reason="hurry").code == 9
    ready.outside.fails = set()
    went = desk(steer.retry, run="shop", step="tiers/web/launch")
    assert (went.code, ready.journal.view("shop/2").state) == (0, "awaiting_commit")
    assert "next: drpilot commit shop" in went.out


def test_rolling_back_asks_for_the_loss(ready: Tiny) -> None:
    """After the promotion a rollback needs the name and a loss that is enough; too little is refused."""
    claims = {
        "epoch.claim": Claim("epoch.claim", ready.outside),
        "epoch.release": Step("epoch.release", ready.outside),
    }
    ready.house.catalogue = {**ready.house.catalogue, **claims}
    ready.failover()
    ready.clock.advance(100)
    desk = Desk(ready.house)
    assert desk(steer.rollback, group="shop").code == 5
    little = desk(steer.rollback, group="shop", confirm="shop", accept_data_loss="10s", output="json")
    error = little.document["error"]
    assert (little.code, error["word"]) == (5, "loss-not-accepted")
    assert error["data"]["loss_seconds"] > 100
    assert desk(steer.rollback, group="shop", confirm="shop", accept_data_loss="much").code == 2
    typed = Desk(ready.house, typed=["shop", "soon", "10m"])(
        steer.rollback, group="shop", reason="it was fine"
    )
    assert typed.code == 0, typed.err
    assert "'soon' is not a duration" in typed.err
    assert ready.journal.view("shop/2").result == "rolled_back"
    again = desk(steer.rollback, group="shop", output="json")
    assert (again.code, again.document["result"]) == (0, "already_rolled_back")


def test_a_rollback_that_can_not_be_asks_nothing(ready: Tiny) -> None:
    """No move to roll back, or an old side that is not fenced: refused with 5 before any question, with the reason."""
    desk = Desk(ready.house, typed=["shop", "10m"])
    none = desk(steer.rollback, group="shop")
    assert (none.code, "is a replicate" in none.err, "Type the" in none.err) == (5, True, False)
    finished = desk(steer.retry, run="shop", output="json")
    assert (finished.code, finished.document["error"]["word"]) == (5, "transition-refused")


def test_a_rollback_names_all_it_needs_at_once(ready: Tiny) -> None:
    """Without a terminal one refusal says both typed facts, as options ready to copy."""
    claims = {"epoch.claim": Claim("epoch.claim", ready.outside)}
    ready.house.catalogue = {**ready.house.catalogue, **claims}
    ready.failover()
    ready.clock.advance(100)
    said = Desk(ready.house)(steer.rollback, group="shop", output="json")
    error = said.document["error"]
    assert (said.code, error["word"], set(error["data"]["needs"])) == (
        5,
        "consent-missing",
        {"confirm", "accept_data_loss_seconds"},
    )
    assert error["hint"].startswith("--confirm shop --accept-data-loss ")


@pytest.mark.parametrize("offset_s", [60, -86_400])
def test_a_sign_of_life_that_can_not_have_been_is_refused(ready: Tiny, desk: Desk, offset_s: int) -> None:
    """Not in the future, and not before the point was captured: the loss shown would be a lie."""
    since = rfc3339(ready.clock.now() + timedelta(seconds=offset_s))
    said = desk(
        act.failover, group="shop", move=Move(since=since), consent=Consent(reason="x"), output="json"
    )
    assert (said.code, said.document["error"]["word"]) == (2, "usage")
    assert ready.journal.runs("shop", live=True) == ()


def test_a_watched_run_that_nobody_drives(ready: Tiny, desk: Desk) -> None:
    """Watching never drives: without a driver it says so and names the command that does."""
    ready.begin(drill_plan(ready.newest()))
    said = desk(attend.run_watch, run="shop")
    assert said.code == 4
    assert "drpilot run resume shop" in said.err
    assert ready.outside.did == ["capture", "standby"]


def test_naming_a_survivor_takes_its_own_options(ready: Tiny, desk: Desk) -> None:
    """Consent without a survivor is a usage error; a survivor is named in a suspected split only."""
    alone = desk(act.fence, group="shop", naming=Naming(confirm="shop"), output="json")
    assert (alone.code, alone.document["error"]["word"]) == (2, "usage")
    early = desk(act.fence, group="shop", naming=Naming("away", "INC-1"), output="json")
    assert (early.code, early.document["error"]["word"]) == (5, "wrong-state")
    ready.journal.change("shop", [Fact("group", "shop", "split seen")], "tester")
    bare = desk(act.fence, group="shop", naming=Naming(), output="json")
    assert (bare.code, bare.document["error"]["hint"].partition(" --reason")[0]) == (
        5,
        "drpilot fence shop --survivor home|away",
    )


def test_locking_and_points(ready: Tiny, desk: Desk) -> None:
    """Locks, acknowledgements, pins and quarantines are done once and are already so the second time."""
    assert (
        desk(protecting.group_lock, group="shop", reason="freeze", output="json").document["result"]
        == "locked"
    )
    again = desk(protecting.group_lock, group="shop", reason="freeze", output="json")
    assert (again.code, again.document["result"]) == (0, "already_locked")
    assert desk(protecting.group_unlock, group="shop", output="json").document["result"] == "unlocked"
    assert desk(protecting.group_unlock, group="shop", output="json").document["result"] == "already_unlocked"
    assert desk(protecting.group_acknowledge, group="shop", reason="seen").code == 0
    newest = ready.newest()
    assert desk(protecting.point_pin, group="shop", point=newest[:18], output="json").document[
        "pinned_by"
    ] == ["tester"]
    assert desk(protecting.point_unpin, group="shop", point=newest, output="json").document["pinned_by"] == []
    aside = desk(protecting.point_quarantine, group="shop", point=newest, reason="bad data", output="json")
    assert aside.document["state"] == "quarantined"
    again = desk(protecting.point_quarantine, group="shop", point=newest, reason="bad data", output="json")
    assert again.document["result"] == "already_quarantined"
    assert desk(look.point_show, group="shop", point="zzz").code == 9


def test_already_home_and_already_protected(ready: Tiny, desk: Desk) -> None:
    """Failing back at home and protecting what is protected change nothing and succeed."""
    home = desk(act.failback, group="shop", move=Move(), consent=Consent(), output="json")
    assert (home.code, home.document["result"]) == (0, "already_home")
    assert desk(act.reprotect, group="shop", output="json").document["result"] == "already_protected"
    wrong = desk(act.failback, group="shop", move=Move(to="away"), consent=Consent())
    assert wrong.code == 2


def test_a_report_verifies_until_it_is_touched(ready: Tiny, desk: Desk, tmp_path: Path) -> None:
    """The document a report writes verifies alone; one changed word in it does not."""
    ready.drill()
    page, file = tmp_path / "r.html", tmp_path / "r.json"
    said = desk(look.report_show, run="shop", html=page, json=file)
    assert said.code == 0
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")
    fine = desk(look.report_verify, file=file, output="json")
    assert (fine.code, fine.document["result"], fine.document["run"]) == (0, "verified", "shop/2")
    document = json.loads(file.read_text())
    document["evidence"]["log"][3]["actor"] = "somebody else"
    file.write_text(json.dumps(document))
    broken = desk(look.report_verify, file=file)
    assert (broken.code, "DRP-6005" in broken.err) == (1, True)
    file.write_text('{"drpilot_report": 1}')
    assert desk(look.report_verify, file=file).code == 6
    file.write_text("[1")
    assert desk(look.report_verify, file=file).code == 6
    assert desk(look.report_show, run="shop", html=tmp_path / "no" / "x.html", json=None).code == 2
