"""What a rule refuses a person is an event of the group: who, what, why, and what next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.inventory.configuration import Operator
from drpilot.journal import chain
from drpilot.services.begin import Asking, propose
from drpilot.services.house import House
from drpilot.services.steer import Order, order
from tests.services.world import Tiny, drill_plan


def refused(tiny: Tiny) -> list[tuple[str, str, str, str]]:
    """Every refusal in the group's chain, which still verifies."""
    events = tiny.journal.events(run="group:shop")
    chain.verify("group:shop", events)
    told = [event for event in events if event.kind == "refused"]
    assert all(event.body["what"] and event.body["next"] for event in told)
    return [(event.actor, event.body["verb"], event.body["word"], event.body["next"]) for event in told]


def asked(house: House, mode: str) -> str:
    """The word by which a wish is refused."""
    with pytest.raises(DrpilotError) as caught:
        propose(house, mode, "shop", Asking(reason="a test"))
    return caught.value.word


def test_refusals_of_persons_are_events_with_what_next(tmp_path: Path) -> None:
    """A lock, a busy lane, a missing right and a wrong moment; a question and a service's own wish are none."""
    tiny = Tiny(tmp_path)
    tiny.replicate()
    house = replace(tiny.fresh(5), person="oncall")
    tiny.journal.lock("shop", "lead", "not today")
    assert asked(house, "failover") == "locked"
    tiny.journal.lock("shop", "lead", None)
    run = tiny.begin(drill_plan(tiny.newest()))
    assert asked(house, "drill") == "lane-busy"
    assert asked(replace(house, holder=replace(house.holder, kind="serve")), "drill") == "lane-busy"
    listed = {"oncall": Operator("oncall", frozenset({"approve"}))}
    approver = replace(house, configuration=replace(house.configuration, operators=listed))
    for person, kind in ((approver, "pause"), (house, "commit")):
        with pytest.raises(DrpilotError):
            order(person, run.id, Order(kind))
    found = refused(tiny)
    assert [one[:3] for one in found] == [
        ("oncall", "failover", "locked"),
        ("oncall", "drill", "lane-busy"),
        ("oncall", "pause", "not-allowed"),
        ("oncall", "commit", "wrong-state"),
    ]
    assert found[0][3] == "drpilot group unlock shop"
