"""What must be seen on two clouds whose primary is dead: the fence, lost bytes, a hanging copy, the YAML's word."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.demo import data_verified
from drpilot.domain.fence import Verdict
from drpilot.runbook.compile import CompileFacts, compile, shipped
from drpilot.services.attend import attend
from drpilot.services.begin import Asking, Offer, Typed, action_facts, begin, consent, propose
from drpilot.services.house import House
from drpilot.services.sitecheck import inspect_site
from drpilot.services.steer import Order, order
from drpilot.wiring import open_house
from tests.crash.yard import Yard

pytestmark = [pytest.mark.timeout(600)]


@pytest.fixture
def people(yard: Yard) -> Iterator[dict[str, House]]:
    """Two persons at the dead primary."""
    yard.restore("dead")
    houses = {name: open_house(lab=True, person=name, home=yard.folder) for name in ("oncall", "second")}
    yield houses
    for house in houses.values():
        house.journal.database.close()


def offer(house: House, mode: str = "failover", **asking: Any) -> Offer:
    """A proposal with a reason."""
    return propose(house, mode, "shop", Asking(reason="a test", **asking))


@pytest.mark.row(60, 32, 64, 84)
def test_a_dead_primary_is_not_needed_and_one_second_approval_is_enough(people: dict[str, House]) -> None:
    """The fence stays unverified, as foretold; two persons once; nothing more is asked until the commit."""
    mine, theirs = people["oncall"], people["second"]
    proposed = offer(mine)
    assert (proposed.proposal.fence, proposed.proposal.approvers) == (Verdict.UNVERIFIED, 2)
    assert (proposed.proposal.loss_s or 0) > 0
    with pytest.raises(DrpilotError) as refused:
        consent(mine, proposed, Typed("shop", 0.0))
    assert (refused.value.word, refused.value.exit_code) == ("loss-not-accepted", 5)
    run = begin(mine, proposed, consent(mine, proposed, Typed("shop", (proposed.proposal.loss_s or 0) + 1)))
    assert attend(mine, run.id).state == "waiting"
    with pytest.raises(DrpilotError, match="already approved"):
        order(mine, run.id, Order("approve", data={"confirm": "shop"}))
    order(theirs, run.id, Order("approve", data={"confirm": "shop"}))
    view = attend(theirs, run.id)
    assert view.state == "awaiting_commit"
    assert view.steps["fence"].output is not None
    assert view.steps["fence"].output["verdict"] == "unverified"
    assert view.steps["fence_ok"].state == "succeeded"
    assert {approval.person for approval in view.approvals} == {"oncall", "second"}
    refused_order = pytest.raises(DrpilotError)
    with refused_order as back:
        order(mine, run.id, Order("rollback", data={"confirm": "shop", "accepted_loss_s": 60}))
    assert back.value.word == "rollback-refused"
    order(mine, run.id, Order("commit", data={"confirm": "shop"}))
    assert attend(mine, run.id).state == "finished"
    assert mine.journal.group("shop").active == "away"


@pytest.mark.row(40)
def test_looking_and_proposing_change_nothing(yard: Yard, people: dict[str, House]) -> None:
    """The screen of a failover, a drill and a replication is made without one changing call."""
    for site in ("home", "away", "edge"):
        yard.lab.control(site, "calls", clear=True)
    before = people["oncall"].journal.runs("shop")
    offer(people["oncall"])
    offer(people["oncall"], "drill")
    changing = [
        call["operation"]
        for site in ("away", "edge")
        for call in yard.lab.control(site, "calls", mutating=True)["calls"]
    ]
    assert changing == []
    assert people["oncall"].journal.runs("shop") == before


def test_a_site_is_inspected_and_a_missing_permission_is_a_finding(
    yard: Yard, people: dict[str, House]
) -> None:
    """Identity, clock, quota and what DryRun says; a denied call is named with what to allow."""
    seen = {each.name: each.verdict for each in inspect_site(people["oncall"], "away")}
    assert set(seen.values()) == {"ok"}
    assert {"reachable", "identity", "clock", "ec2:CreateVolume", "vCPU quota"} <= set(seen)
    yard.lab.control("away", "tune", denied=["ec2.CreateVolume"])
    try:
        found = [each for each in inspect_site(people["oncall"], "away") if each.verdict == "bad"]
    finally:
        yard.lab.control("away", "tune", denied=[])
    assert [each.name for each in found] == ["ec2:CreateVolume"]
    assert "allow ec2:CreateVolume" in found[0].hint


@pytest.mark.row(78)
def test_a_drill_of_a_stale_point_is_refused(people: dict[str, House]) -> None:
    """Older than three intervals: refused with what to do instead."""
    from dataclasses import replace

    mine = people["oncall"]
    group = mine.journal.group("shop").group
    mine.journal.remember(replace(group, replicate_every_s=0.1), "home")
    with pytest.raises(DrpilotError) as refused:
        offer(mine, "drill")
    assert (refused.value.word, refused.value.exit_code) == ("drill-not-fresh", 5)


@pytest.mark.row(52)
def test_a_second_failover_while_one_runs_is_refused_by_name(people: dict[str, House]) -> None:
    """Exit 5, naming the first; the first goes on untouched."""
    mine = people["oncall"]
    first = offer(mine)
    run = begin(mine, first, consent(mine, first, Typed("shop", 3600)))
    with pytest.raises(DrpilotError) as refused:
        offer(people["second"])
    assert (refused.value.word, refused.value.exit_code) == ("lane-busy", 5)
    assert run.name in refused.value.title


def test_without_its_bytes_the_data_is_not_verified(yard: Yard, people: dict[str, House]) -> None:
    """Delete the snapshots' bytes in the lab: the restored volumes are empty, and the reader of its own says so."""
    blocks = list((yard.folder / "clouds" / "sites" / "away").rglob("blocks/**/*"))
    removed = [path for path in blocks if path.is_file()]
    kept = {path: path.read_bytes() for path in removed}
    assert removed
    for path in removed:
        path.unlink()
    try:
        mine = people["oncall"]
        proposed = offer(mine, break_glass="the test is alone")
        run = begin(mine, proposed, consent(mine, proposed, Typed("shop", 3600)))
        stop = threading.Timer(25, mine.stop.set)
        stop.start()
        with contextlib.suppress(DrpilotError):  # stopped, or paused at the database that can't start
            attend(mine, run.id)
        stop.cancel()
        view = mine.journal.view(run.id)
        assert view.steps["tiers/db/attach"].state == "succeeded"
        assert not data_verified(yard.lab, mine)[0]
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


@pytest.mark.row(92)
def test_a_failover_begins_beside_a_copy_that_hangs(yard: Yard) -> None:
    """The primary hangs with a replicate run on it: the failover begins within 15 seconds and cancels the copy."""
    yard.restore("replicated")
    yard.lab.control("home", "break", fault="hang")
    root = Path(__file__).resolve().parents[2]
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.crash.yard import hang_a_copy\n"
        f"hang_a_copy(Path({str(yard.folder)!r}))\n"
    )
    copy = subprocess.Popen([sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        assert copy.stdout is not None
        assert copy.stdout.readline().strip() == "begun"
        house = open_house(lab=True, person="oncall", home=yard.folder)
        asked_at = house.clock.now()
        proposed = offer(house, break_glass="the test is alone")
        run = begin(house, proposed, consent(house, proposed, Typed("shop", 3600)))
        assert (run.created_at - asked_at).total_seconds() < 15
        assert any("replicate" in line for line in proposed.proposal.stops)
        live = [other for other in house.journal.runs("shop", live=True) if other.lane == "copy"]
        assert [request.kind for other in live for request in other.requests] in (["cancel"], [])
        assert attend(house, run.id).state == "awaiting_commit"
        house.journal.database.close()
    finally:
        copy.kill()
        copy.wait()
        assert copy.stdout is not None
        copy.stdout.close()


@pytest.mark.row(25)
def test_the_order_of_a_run_is_the_runbooks_alone(people: dict[str, House]) -> None:
    """Take the fence out of the YAML and the run has none; turn two steps round and the plan follows."""
    mine = people["oncall"]
    text, file = shipped("failover")
    group = mine.journal.group("shop")
    facts = CompileFacts(group.group, "failover", "move", "home", "away", mine.journal.points("shop")[0].id)
    whole = compile(text, file, facts, action_facts(mine))
    lines = [line for line in text.splitlines() if "id: fence" not in line]
    without = compile("\n".join(lines), file, facts, action_facts(mine))
    assert {step.path for step in whole.steps} - {step.path for step in without.steps} == {
        "fence",
        "fence_ok",
    }
    assert not [step for step in without.steps if step.action == "fence.apply"]
    assert whole.digest != without.digest
    moved = "\n".join(line for line in lines if "id: target_ready" not in line)
    turned = compile(
        moved.replace("[target_ready, source_seen]", "[source_seen]"), file, facts, action_facts(mine)
    )
    assert turned.steps[0].path == "source_seen"
