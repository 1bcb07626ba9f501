"""Steering a run that exists: answers of people and orders, posted to the journal and read by whoever drives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from drpilot.base.errors import DrpilotError
from drpilot.base.units import format_duration
from drpilot.domain.run import RunView
from drpilot.engine.gates import fence_accepted, missing, persons
from drpilot.services.house import House

__all__ = ["Order", "open_gate", "order"]

_RIGHTS = {"approve": "approve", "decline": "approve"}


@dataclass(frozen=True, slots=True)
class Order:
    """What a person tells a run. `data` holds typed facts: `confirm`, `accepted_loss_s`, `happened`, `output`."""

    kind: str
    step: str | None = None
    comment: str = ""
    data: dict[str, Any] = field(default_factory=dict)


def open_gate(view: RunView) -> tuple[str, str] | None:
    """The gate that waits and what it lacks; None where no gate waits."""
    for step in view.steps.values():
        if step.planned.gate not in (None, "commit") and step.state == "waiting":
            assert step.planned.gate is not None
            return step.path, missing(view, view.steps, step.planned.gate)
    return None


def order(house: House, run: str, what: Order) -> RunView:
    """Check an order as far as the journal tells, and post it; the driver has the last word."""
    view = house.journal.view(run)
    _right(house, what.kind)
    match what.kind:
        case "approve" | "decline":
            _check_answer(house, view, what)
        case "commit":
            _check_commit(house, view, what)
        case "rollback":
            _check_rollback(view, what)
        case "retry" | "skip" | "settle":
            _check_step(view, what)
    data = dict(what.data)
    data.pop("confirm", None)
    data["account"] = house.account
    if what.kind == "approve" and view.proposal is not None:
        data["digest"] = view.proposal.digest
        data["where"] = house.holder.text
    house.journal.post(view.id, what.kind, house.person, step=what.step, comment=what.comment, data=data)
    return house.journal.view(view.id)


def _right(house: House, kind: str) -> None:
    """Operators listed in drpilot.yaml have the rights it gives; with none listed everybody may do everything."""
    operators = house.configuration.operators
    right = _RIGHTS.get(kind, "operate")
    if not operators:
        return
    rights = operators.get(house.person)
    if rights is None or right not in rights.may:
        others = ", ".join(sorted(name for name, row in operators.items() if right in row.may))
        raise DrpilotError("not-allowed", person=house.person, what=right, others=others or "nobody")


def _check_answer(house: House, view: RunView, what: Order) -> None:
    gate = open_gate(view)
    if gate is None:
        raise DrpilotError("nothing-to-answer", run=view.name)
    if what.kind == "decline":
        return
    word = view.steps[gate[0]].planned.gate or ""
    if house.account in persons(view.approvals, word):
        may = [name for name, row in house.configuration.operators.items() if "approve" in row.may]
        others = ", ".join(sorted(set(may) - {house.person})) or "another person"
        raise DrpilotError("same-person", person=house.person, run=view.name, others=others)
    _confirmed(view, what, "approve")


def _confirmed(view: RunView, what: Order, verb: str) -> None:
    if what.data.get("confirm") != view.group:
        raise DrpilotError(
            "consent-missing",
            verb=verb,
            group=view.group,
            hint=f"--confirm {view.group}",
            data={"needs": {"confirm": view.group}},
        )


def _check_commit(house: House, view: RunView, what: Order) -> None:
    if view.state != "awaiting_commit":
        raise DrpilotError(
            "wrong-state",
            group=view.group,
            state=view.group_state,
            verb="commit",
            allowed="awaiting_commit",
            hint=f"drpilot status {view.group}",
        )
    people = persons(view.approvals, "go") | persons(view.approvals, "fence") | {house.account}
    if not fence_accepted(view, view.steps) and len(people) < 2:
        raise DrpilotError(
            "fence-open", site=view.plan.source, group=view.group, what="a second person must commit"
        )


def _check_rollback(view: RunView, what: Order) -> None:
    from drpilot.engine.draft import Draft  # noqa: PLC0415 - the same pure rule as the driver's, asked beforehand
    from drpilot.engine.undoing import refusal  # noqa: PLC0415

    _confirmed(view, what, "rollback")
    why = refusal(Draft(view, view.created_at), loss_typed=what.data.get("accepted_loss_s") is not None)
    if why is not None:
        hint = (
            f"drpilot fence {view.group}"
            if "fenced" in why
            else f"drpilot rollback {view.group} --confirm {view.group} --accept-data-loss {format_duration(3600)}"
        )
        raise DrpilotError("rollback-refused", group=view.group, what=why, hint=hint)


def _check_step(view: RunView, what: Order) -> None:
    if what.step is None:
        return
    step = view.steps.get(what.step)
    if step is None:
        raise DrpilotError("unknown-step", step=what.step, run=view.name)
    if what.kind == "skip" and step.planned.protects:
        raise DrpilotError("skip-refused", step=what.step, run=view.name)
