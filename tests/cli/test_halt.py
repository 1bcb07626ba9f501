"""The kill switch at the terminal, and what the service and `status` say of it."""

from __future__ import annotations

from dataclasses import replace

from drpilot.cli import halting, look, steer
from drpilot.inventory.configuration import Operator
from drpilot.serve import Options, Service
from drpilot.services.watch import Happening
from tests.cli.desk import Desk
from tests.services.world import Tiny, drill_plan


def test_halt_and_unhalt_are_said_and_done_once(tiny: Tiny) -> None:
    """Both are already so the second time; a reason is asked for; status says it above all else."""
    tiny.replicate()
    run = tiny.begin(drill_plan(tiny.newest()))
    desk = Desk(tiny.fresh(5))
    assert desk(halting.halt, reason=" ").code == 5
    said = desk(halting.halt, reason="the wrong account", output="json").document
    assert (said["result"], said["stopped"], said["by"]) == ("halted", [run.name], "tester")
    other = Desk(replace(tiny.fresh(6), person="second"))
    assert other(halting.halt, reason="me too", output="json").document["result"] == "already_halted"
    assert "halted already, by tester" in other(halting.halt, reason="me too").out
    seen = desk(look.status)
    assert seen.out.startswith("EVERYTHING IS HALTED by tester")
    assert "drpilot unhalt --reason" in seen.out + seen.err
    assert desk(look.status, group="shop", output="json").document["halted"]["reason"] == "the wrong account"
    refused = desk(steer.resume, run=run.name)
    assert refused.code == 5
    assert "everything is halted by tester" in refused.err
    lifted = desk(halting.unhalt, reason="found it", output="json").document
    assert (lifted["result"], lifted["alive"]) == ("lifted", [run.name])
    assert desk(halting.unhalt, reason="found it", output="json").document["result"] == "already_lifted"
    assert desk(look.status, output="json").document["halted"] is None
    assert tiny.drive(run).result == "succeeded"


def test_every_operator_may_halt_and_only_who_operates_lifts(tiny: Tiny) -> None:
    """To stop is never the worse mistake."""
    house = tiny.fresh(5)
    operators = {
        "lead": Operator("lead", frozenset({"operate"})),
        "second": Operator("second", frozenset({"approve"})),
    }
    house = replace(house, configuration=replace(house.configuration, operators=operators), person="second")
    assert Desk(house)(halting.halt, reason="stop").code == 0
    refused = Desk(house)(halting.unhalt, reason="go")
    assert refused.code == 5
    assert "lead" in refused.err
    assert Desk(replace(house, person="lead"))(halting.unhalt, reason="go").code == 0


def test_a_service_rests_while_all_is_halted_and_says_so_once(tiny: Tiny) -> None:
    """It drives nothing and begins nothing, keeps its heartbeat, and goes on afterwards."""
    tiny.replicate()
    run = tiny.begin(drill_plan(tiny.newest()))
    said: list[Happening] = []
    service = Service(tiny.fresh(9), Options(signals=False, tell=said.append), id="service-1")
    tiny.journal.halt("oncall", "stop")
    for _ in range(3):
        service._tick()
    assert service._driving == {}
    assert [(one.what, one.text) for one in said if one.what == "halted"] == [("halted", "by oncall: stop")]
    assert not [one for one in said if one.what == "error"]
    assert tiny.journal.view(run.id).term == 1
    assert [one.id for one in tiny.journal.services()] == ["service-1"]
    tiny.journal.lift("oncall", "go")
    service._tick()
    assert set(service._driving) == {run.id}
    service._driving[run.id].join(timeout=60)
    assert tiny.journal.view(run.id).result == "succeeded"
    assert [one.what for one in said if one.what == "lifted"] == ["lifted"]
