"""Rolling a run back: each succeeded step's undo, one after the other, in the reverse order of the plan.

An undo is data (a call recorded when the step succeeded) and runs as an ordinary attempt. What was started is first
followed to its end; an unknown step is settled by looking before anything is undone.
"""

from __future__ import annotations

from datetime import timedelta

from drpilot.base.ids import token
from drpilot.domain.fence import Verdict
from drpilot.domain.ports import Move
from drpilot.domain.run import Failure, Intent, Outcome, StepView
from drpilot.engine.draft import Draft
from drpilot.engine.gates import fence_verdict

__all__ = ["TOUCHED", "advance", "begin", "has_effects", "past_no_return", "refusal"]

_BEFORE_MOVE = ("protected", "degraded", "seeding", "active_unprotected", "rolling_back", "reprotecting")
TOUCHED = frozenset({"running", "waiting", "unknown", "succeeded", "warned"})
_UNDONE_FROM = ("succeeded", "warned", "failed")


def has_effects(draft: Draft) -> bool:
    """Whether the run has begun to change anything."""
    return any(
        step.planned.action is not None and step.planned.effect != "none" and is_touched(step)
        for step in draft.in_order()
    )


def is_touched(step: StepView) -> bool:
    """Whether a step has, or may have, changed something: a failure counts unless its call certainly did not happen."""
    if step.state != "failed":
        return step.state in TOUCHED
    return step.attempt is not None and not (
        step.failure is not None and step.failure.data.get("happened") == "no"
    )


def past_no_return(draft: Draft) -> bool:
    """Whether the step marked `no_way_back` has been begun."""
    return any(step.planned.no_way_back and is_touched(step) for step in draft.in_order())


def refusal(draft: Draft, *, loss_typed: bool) -> str | None:
    """Why the run can't be rolled back now; None when it can."""
    if any(step.planned.gate == "commit" and step.state == "succeeded" for step in draft.in_order()):
        return "it is committed: reprotect the group, then fail back"
    if not past_no_return(draft):
        return None
    if fence_verdict(draft.view, draft.steps) is not Verdict.FENCED:
        return "the old side is not fenced for certain, so it can't be shown to be intact"
    return None if loss_typed else "writes since the promotion would be lost: type the loss you accept"


def begin(draft: Draft, reason: str, by: str, *, loss_typed: bool = False) -> None:
    """Turn the run round."""
    passed = past_no_return(draft)
    event = "roll back with loss" if passed else "roll back"
    fenced = fence_verdict(draft.view, draft.steps) is Verdict.FENCED
    facts = {"past_no_return": passed, "old_side_fenced": fenced, "loss_typed": loss_typed}
    draft.add(Move("group", draft.view.group, event, facts, unless=_BEFORE_MOVE))
    draft.turned = True
    draft.run_move("roll back", reason=reason, by=by, turned=True)


def advance(draft: Draft, busy: frozenset[str]) -> None:
    """The next step back, or the end of the way back."""
    steps = list(draft.in_order())
    for step in steps:
        if step.state in ("pending", "ready") or (step.state == "waiting" and _idle(step)):
            draft.step_move(step.path, "cancelled", reason="the run is rolled back")
    if busy or any(step.state in ("running", "waiting", "unknown") for step in draft.in_order()):
        return
    for step in reversed(steps):
        if step.state == "undoing":
            _follow(draft, step)
            return
        if step.state == "undo_failed":
            text = step.failure.message if step.failure else ""
            draft.run_move("pause", reason=f"step {step.path} could not be undone: {text}")
            return
        if step.state in _UNDONE_FROM and step.undo is not None and step.planned.undoes:
            _begin_undo(draft, step)
            return
    _finish(draft, steps)


def _idle(step: StepView) -> bool:
    """A waiting step that does nothing in the world: a gate, a look, or one between two tries."""
    between = step.attempt is not None and step.attempt.state == "failed"
    return step.planned.gate is not None or step.planned.effect == "none" or between


def _begin_undo(draft: Draft, step: StepView, *, again: bool = False) -> None:
    assert step.undo is not None
    number = (step.attempt.number if step.attempt else 0) + 1
    given = dict(step.undo.given)
    key = token(draft.view.id, step.path, step.round, "undo", given)
    draft.add(Intent(step.path, number, step.round, "undo", key, step.undo.action, given))
    tries = step.tries + 1 if again else 1
    draft.set(step.path, state="undoing", wake_at=None, tries=tries)
    draft.start.append(step.path)


def _follow(draft: Draft, step: StepView) -> None:
    attempt = step.attempt
    late = attempt is not None and draft.now >= attempt.intended_at + timedelta(
        seconds=step.planned.timeout_s
    )
    if attempt is not None and attempt.kind == "undo" and attempt.state in ("waiting", "unknown") and late:
        failure = Failure("timeout", "", f"its undo was not seen done within {step.planned.timeout_s:g} s")
        draft.add(Outcome(step.path, attempt.number, "undo failed", failure=failure))
        draft.set(step.path, state="undo_failed", failure=failure)
        draft.run_move("pause", reason=f"step {step.path} could not be undone: {failure.message}")
    elif step.wake_at is not None and step.wake_at > draft.now:
        draft.wake(step.wake_at)
    elif attempt is None or attempt.kind == "do" or attempt.state in ("failed", "cancelled"):
        _begin_undo(draft, step, again=True)
    elif attempt.state == "waiting":
        draft.poll.append(step.path)
    else:
        draft.look.append(step.path)


def _finish(draft: Draft, steps: list[StepView]) -> None:
    claimed = [
        step for step in steps if step.planned.action == "epoch.claim" and is_touched(draft.steps[step.path])
    ]
    seen = any(
        step.planned.action == "check.source" and step.output is not None and step.output.get("alive")
        for step in steps
    )
    event = "rolled back" if seen else "rolled back unseen"
    facts = {
        "old_side_active": seen,
        "nothing_promoted": not past_no_return(draft),
        "epoch_released": not claimed,
    }
    still = ("protected", "degraded", "seeding", "active_unprotected", "reprotecting")
    draft.add(Move("group", draft.view.group, event, facts, unless=still))
    draft.run_move("rolled back", result="rolled_back")
