"""Steering a run that exists: answers of people and orders, posted to the journal and read by whoever drives."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from drpilot.base.errors import DrpilotError
from drpilot.base.units import ceiling_duration, format_duration
from drpilot.domain.machine import permitted
from drpilot.domain.run import MOVES, RunView
from drpilot.engine.draft import Draft
from drpilot.engine.gates import fence_accepted, missing, persons
from drpilot.engine.undoing import TOUCHED, refusal
from drpilot.services.house import House
from drpilot.services.refusals import kept
from drpilot.services.right import require_right

__all__ = ["Order", "open_gate", "order", "promoted_s", "require_rollback"]

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
    with kept(house, view.group, what.kind):
        _check(house, view, what)
    data = dict(what.data)
    data.pop("confirm", None)
    data["account"] = house.account
    if what.kind == "approve" and view.proposal is not None:
        data["digest"] = view.proposal.digest
        data["where"] = house.holder.text
    house.journal.post(view.id, what.kind, house.person, step=what.step, comment=what.comment, data=data)
    return house.journal.view(view.id)


def _check(house: House, view: RunView, what: Order) -> None:
    """Raise where the person has no right to the order, or the journal tells already that it can't be followed."""
    require_right(house, _RIGHTS.get(what.kind, "operate"))
    match what.kind:
        case "approve" | "decline":
            _check_answer(house, view, what)
        case "commit":
            _check_commit(house, view, what)
        case "rollback":
            _check_rollback(house, view, what)
        case "pause" | "cancel":
            _check_possible(view, what.kind)
        case "retry" | "skip" | "settle":
            if view.state == "finished":
                raise DrpilotError(
                    "transition-refused", family="run", key=view.name, event=what.kind, state=view.state
                )
            _check_step(view, what)


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


def promoted_s(view: RunView, now: datetime) -> float | None:
    """Seconds of writes a rollback would lose: since the step without a way back began; None where it has not."""
    for step in view.steps.values():
        if step.planned.no_way_back and step.state in TOUCHED and step.started_at is not None:
            return max(0.0, (now - step.started_at).total_seconds())
    return None


def require_rollback(house: House, view: RunView) -> None:
    """Raise `rollback-refused` where no typed fact could make a rollback of this run possible."""
    why = None
    hint = f"drpilot run show {view.name}"
    if view.mode not in MOVES:
        why = f"{view.name} is a {view.mode}: only a failover, a switchover or a migration is rolled back"
    elif not permitted("run", view.state, "roll back"):
        why = f"{view.name} is {view.state}" + (f" ({view.result})" if view.result else "")
    else:
        why = refusal(Draft(view, house.clock.now()), loss_typed=True)
        hint = f"drpilot fence {view.group}" if why is not None and "fenced" in why else hint
    if why is not None:
        raise DrpilotError("rollback-refused", group=view.group, what=why, hint=hint)


def _check_rollback(house: House, view: RunView, what: Order) -> None:
    require_rollback(house, view)
    now = house.clock.now()
    accepted, lost = what.data.get("accepted_loss_s"), promoted_s(view, now)
    needs: dict[str, Any] = {} if what.data.get("confirm") == view.group else {"confirm": view.group}
    if lost is not None and accepted is None:
        needs["accept_data_loss_seconds"] = round(lost, 1)
    if needs:
        typed = f"--confirm {view.group}"
        typed += f" --accept-data-loss {ceiling_duration(lost)}" if lost is not None else ""
        raise DrpilotError(
            "consent-missing", verb="rollback", group=view.group, hint=typed, data={"needs": needs}
        )
    if lost is not None and float(accepted or 0.0) < lost:
        raise DrpilotError(
            "loss-not-accepted",
            verb="rollback",
            group=view.group,
            loss=ceiling_duration(lost),
            accepted=format_duration(float(accepted or 0.0)),
            data={"loss_seconds": lost, "accepted_seconds": accepted},
        )


def _check_possible(view: RunView, verb: str) -> None:
    """Refused here, an order never makes its sender the driver of a run that it wanted to stop."""
    if not permitted("run", view.state, verb):
        raise DrpilotError("transition-refused", family="run", key=view.name, event=verb, state=view.state)


def _check_step(view: RunView, what: Order) -> None:
    if what.step is None:
        return
    step = view.steps.get(what.step)
    if step is None:
        raise DrpilotError("unknown-step", step=what.step, run=view.name)
    if what.kind == "skip" and step.planned.protects:
        raise DrpilotError("skip-refused", step=what.step, run=view.name)
