"""Orders of people, read by whoever drives.

Approve, decline, pause, resume, cancel, retry, skip, settle, commit, rollback: each is settled in the same commit as
what it causes; a refused one says why and changes nothing.
"""

from __future__ import annotations

from dataclasses import replace

from drpilot.domain.machine import permitted
from drpilot.domain.plan import Approval
from drpilot.domain.ports import Move
from drpilot.domain.run import MOVES, Request, Settled
from drpilot.domain.states import FAMILIES
from drpilot.engine import gates, undoing
from drpilot.engine.draft import Draft

__all__ = ["read"]


def read(draft: Draft) -> None:
    """Carry out each unread order, oldest first."""
    for request in draft.view.requests:
        if draft.over:
            draft.add(Settled(request.id, f"the run is finished ({draft.result})"))
            continue
        handler = _HANDLERS.get(request.kind)
        refused = handler(draft, request) if handler is not None else f"no order is called {request.kind!r}"
        if refused is not None:
            draft.add(Settled(request.id, refused))


def _open_gate(draft: Draft) -> str | None:
    for step in draft.in_order():
        if step.planned.gate not in (None, "commit") and step.state in ("waiting", "ready"):
            return step.path
    return None


def _consent(draft: Draft, request: Request, gate: str, *, declined: bool = False) -> Approval:
    proposal = draft.view.proposal
    return Approval(
        person=request.by,
        gate=gate,
        at=request.at,
        digest=proposal.digest if proposal is not None else "",
        accepted_loss_s=request.data.get("accepted_loss_s"),
        where=str(request.data.get("where", "")),
        comment=request.comment,
        declined=declined,
        break_glass=bool(request.data.get("break_glass")),
        data={"account": request.data["account"]} if request.data.get("account") else {},
    )


def _record(draft: Draft, request: Request, approval: Approval) -> None:
    draft.view = replace(draft.view, approvals=(*draft.view.approvals, approval))
    draft.add(Settled(request.id, approval=approval))


def _approve(draft: Draft, request: Request) -> str | None:
    path = _open_gate(draft)
    if path is None:
        return "no gate waits for a person"
    gate = draft.steps[path].planned.gate
    assert gate is not None
    proposal = draft.view.proposal
    if proposal is not None and request.data.get("digest") not in (None, proposal.digest):
        return "what was approved is not this proposal"
    if (request.data.get("account") or request.by) in gates.persons(draft.view.approvals, gate):
        return f"{request.by} already approved"
    _record(draft, request, _consent(draft, request, gate))
    return None


def _decline(draft: Draft, request: Request) -> str | None:
    path = _open_gate(draft)
    if path is None or draft.state != "waiting":
        return "no gate waits for a person"
    gate = draft.steps[path].planned.gate
    assert gate is not None
    _record(draft, request, _consent(draft, request, gate, declined=True))
    if undoing.has_effects(draft):
        undoing.begin(draft, f"{request.by} declined gate {path}", request.by)
        return None
    for step in draft.in_order():
        if step.state in ("pending", "ready", "waiting"):
            draft.step_move(step.path, "cancelled", reason=f"{request.by} declined", by=request.by)
    draft.run_move(
        "declined", reason=request.comment or f"declined at gate {path}", by=request.by, result="cancelled"
    )
    return None


def _pause(draft: Draft, request: Request) -> str | None:
    if draft.state == "paused":
        return "it is paused already"
    if draft.turned:
        return "a rollback is followed to its end"
    if not permitted("run", draft.state, "pause"):
        return f"a run that is {draft.state} can't be paused"
    draft.add(Settled(request.id))
    draft.run_move("pause", reason=request.comment or "paused by a person", by=request.by)
    return None


def _resume(draft: Draft, request: Request) -> str | None:
    if draft.state not in ("paused", "clean_failed"):
        draft.add(Settled(request.id))  # already so: driving it is all that was asked
        return None
    return _again(draft, request, None)


def _retry(draft: Draft, request: Request) -> str | None:
    if draft.state not in ("paused", "clean_failed", "running", "waiting", "cleaning"):
        return f"a run that is {draft.state} has nothing to retry"
    return _again(draft, request, request.step)


def _again(draft: Draft, request: Request, only: str | None) -> str | None:
    """Failed steps become ready in a new round; the run goes on where it stood."""
    if only is not None and only not in draft.steps:
        return f"there is no step {only!r}"
    chosen = [step for step in draft.in_order() if only in (None, step.path)]
    failed = [step.path for step in chosen if step.state == "failed"]
    stuck = [step.path for step in chosen if step.state == "undo_failed"]
    if only is not None and not failed and not stuck and draft.steps[only].state != "unknown":
        return f"step {only} is {draft.steps[only].state}, not failed"
    draft.add(Settled(request.id))
    for path in failed:
        draft.step_move(path, "retry", reason=request.comment, by=request.by, new_round=True)
    for path in stuck:
        draft.step_move(path, "undo", reason=request.comment, by=request.by, new_round=True)
    if draft.state == "paused":
        draft.run_move("resume undoing" if draft.turned else "resume", reason=request.comment, by=request.by)
    elif draft.state == "clean_failed":
        draft.run_move("resume", reason=request.comment, by=request.by)
    return None


def _skip(draft: Draft, request: Request) -> str | None:
    step = draft.steps.get(request.step or "")
    if step is None:
        return f"there is no step {request.step!r}"
    if step.planned.protects:
        return "fence, promotion and epoch steps are never skipped"
    if step.state not in ("failed", "undo_failed"):
        return f"step {step.path} is {step.state}, not failed"
    if not request.comment:
        return "a skip needs a comment"
    draft.add(Settled(request.id))
    draft.step_move(step.path, "skip", reason=f"skipped by {request.by}: {request.comment}", by=request.by)
    others = any(other.state in ("failed", "undo_failed") for other in draft.in_order())
    if draft.state == "paused" and not others:
        draft.run_move("resume undoing" if draft.turned else "resume", reason=request.comment, by=request.by)
    elif draft.state == "clean_failed" and not others:
        draft.run_move("resume", reason=request.comment, by=request.by)
    return None


def _settle(draft: Draft, request: Request) -> str | None:
    step = draft.steps.get(request.step or "")
    if step is None or step.state != "unknown":
        return f"step {request.step} is not unknown"
    happened = bool(request.data.get("happened"))
    draft.add(Settled(request.id))
    event = "settled: happened" if happened else "settled: did not happen"
    more = {"output": dict(request.data["output"])} if happened and request.data.get("output") else {}
    draft.step_move(step.path, event, reason=request.comment, by=request.by, **more)
    decided = tuple(word for word in FAMILIES["group"].words if word != "needs_decision")
    draft.add(Move("group", draft.view.group, "settle", {"named_person": True}, unless=decided))
    if draft.state == "paused" and not any(other.state == "failed" for other in draft.in_order()):
        draft.run_move("resume undoing" if draft.turned else "resume", reason=request.comment, by=request.by)
    return None


def _cancel(draft: Draft, request: Request) -> str | None:
    if not permitted("run", draft.state, "cancel"):
        return f"a run that is {draft.state} can't be cancelled"
    if draft.turned:
        return "a rollback is followed to its end"
    if draft.view.mode in MOVES and undoing.has_effects(draft):
        return "a move that has begun to change things is rolled back, not cancelled"
    draft.add(Settled(request.id))
    draft.run_move(
        "cancel", reason=request.comment or "cancelled by a person", by=request.by, result="cancelled"
    )
    return None


def _commit(draft: Draft, request: Request) -> str | None:
    if draft.state != "awaiting_commit":
        return f"the run is {draft.state}, not awaiting commit"
    approval = _consent(draft, request, "commit")
    trial = replace(draft.view, approvals=(*draft.view.approvals, approval))
    if not gates.fence_accepted(trial, draft.steps):
        return "the old side is not fenced for certain: a second person must commit"
    _record(draft, request, approval)
    if len(gates.persons(draft.view.approvals, "commit")) < _committers(draft):
        return None  # another person has to commit as well
    path = next(
        step.path for step in draft.in_order() if step.planned.gate == "commit" and step.state == "waiting"
    )
    draft.step_move(path, "as wanted", by=request.by, output={"persons": [request.by]})
    draft.run_move("commit", by=request.by, reason=request.comment)
    return None


def _committers(draft: Draft) -> int:
    """How many different persons the group asks to commit (`approvals.commit` of its file)."""
    group = draft.view.plan.context.get("group") or {}
    return int((group.get("approvals") or {}).get("commit", 1))


def _rollback(draft: Draft, request: Request) -> str | None:
    if not permitted("run", draft.state, "roll back"):
        return f"a run that is {draft.state} can't be rolled back"
    if draft.view.mode not in MOVES:
        return "only a failover, a switchover or a migration is rolled back; cancel this one"
    loss_typed = request.data.get("accepted_loss_s") is not None
    refused = undoing.refusal(draft, loss_typed=loss_typed)
    if refused is not None:
        return refused
    draft.add(Settled(request.id))
    undoing.begin(draft, request.comment or "rolled back by a person", request.by, loss_typed=loss_typed)
    return None


_HANDLERS = {
    "approve": _approve,
    "decline": _decline,
    "pause": _pause,
    "resume": _resume,
    "cancel": _cancel,
    "retry": _retry,
    "skip": _skip,
    "settle": _settle,
    "commit": _commit,
    "rollback": _rollback,
}
