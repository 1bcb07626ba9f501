"""Domain values as the documents of `--output json`: times in UTC, seconds as numbers, names spelled out."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from drpilot.cli.render import spelled

if TYPE_CHECKING:
    from drpilot.domain.plan import Proposal
    from drpilot.domain.point import RecoveryPoint
    from drpilot.domain.run import RunView, StepView
    from drpilot.journal.views import GroupView

__all__ = [
    "group_document",
    "point_document",
    "proposal_document",
    "run_document",
    "run_line",
    "seconds_between",
]


def seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    """Whole milliseconds between two moments as seconds; None where one is missing."""
    return round((end - start).total_seconds(), 3) if start is not None and end is not None else None


def proposal_document(proposal: Proposal) -> dict[str, Any]:
    """Every fact of the screen, with the digest an approval binds to."""
    from drpilot.domain.plain import to_plain

    body: dict[str, Any] = spelled(to_plain(proposal))
    return {**body, "digest": proposal.digest}


def run_line(view: RunView) -> dict[str, Any]:
    """A run in a list."""
    return {
        "run": view.name,
        "id": view.id,
        "group": view.group,
        "mode": view.mode,
        "lane": view.lane,
        "state": view.state,
        "result": view.result,
        "by": view.by,
        "reason": view.reason,
        "source": view.plan.source,
        "target": view.plan.target,
        "created_at": view.created_at,
        "started_at": view.started_at,
        "ended_at": view.ended_at,
        "seconds": seconds_between(view.started_at or view.created_at, view.ended_at),
        "steps_total": len(view.steps),
        "steps_ended": sum(1 for step in view.steps.values() if step.state in ENDED),
        "driver": view.holder.text if view.holder is not None else None,
        "group_state": view.group_state,
    }


ENDED = frozenset({"succeeded", "warned", "skipped", "ignored", "cancelled", "undone"})


def run_document(view: RunView) -> dict[str, Any]:
    """A run with its steps and what people said; a ready step that waits for a slot says so in its note."""
    from drpilot.engine.places import queued

    waiting, plan = queued(view), view.plan
    return {
        **run_line(view),
        "plan": view.plan.digest,
        "runbook": view.plan.runbook,
        "point": view.plan.point,
        "approvals": [
            {
                "person": one.person,
                "gate": one.gate,
                "at": one.at,
                "declined": one.declined,
                "accepted_loss_seconds": one.accepted_loss_s,
                "break_glass": one.break_glass,
                "comment": one.comment,
            }
            for one in view.approvals
        ],
        "fences": dict(view.fences),
        "proposal": proposal_document(view.proposal) if view.proposal is not None else None,
        "limits": {"parallel": plan.parallel, "per_site": plan.per_site, "at_once": dict(plan.slots)},
        "steps": [
            {**_step(number, step), "note": waiting.get(path, step.note)}
            for number, (path, step) in enumerate(view.steps.items(), start=1)
        ],
    }


def _step(number: int, step: StepView) -> dict[str, Any]:
    failure = step.failure
    return {
        "number": number,
        "path": step.path,
        "title": step.planned.title,
        "action": step.planned.action,
        "gate": step.planned.gate,
        "state": step.state,
        "started_at": step.started_at,
        "ended_at": step.ended_at,
        "seconds": seconds_between(step.started_at, step.ended_at),
        "attempts": step.attempt.number if step.attempt is not None else 0,
        "progress": step.progress,
        "note": step.note,
        "position": step.planned.position,
        "no_way_back": step.planned.no_way_back,
        "failure": {"kind": failure.kind, "code": failure.code, "message": failure.message}
        if failure
        else None,
    }


def point_document(point: RecoveryPoint, now: datetime) -> dict[str, Any]:
    """A recovery point with its replicas."""
    return {
        "id": point.id,
        "group": point.group,
        "source": point.source,
        "site": point.site,
        "state": point.state,
        "requested_at": point.requested_at,
        "captured_at": point.captured_at,
        "completed_at": point.completed_at,
        "proven_at": point.proven_at,
        "proven_by": point.proven_by,
        "age_seconds": seconds_between(point.captured_at, now),
        "size_gib": sum(replica.size_gib for replica in point.replicas),
        "consistency": point.consistency or None,
        "pinned_by": sorted(point.pins),
        "replicas": [
            {
                "member": one.member,
                "kind": one.kind,
                "site": one.site,
                "source_id": one.source_id,
                "id": one.id,
                "tier": one.tier,
                "size_gib": one.size_gib,
                "consistency": one.facts.get("consistency"),
            }
            for one in point.replicas
        ],
    }


def group_document(view: GroupView) -> dict[str, Any]:
    """A group as it stands, with the members last seen."""
    from drpilot.domain.plain import to_plain

    return {
        "name": view.name,
        "state": view.state,
        "active": view.active,
        "standing": view.standing,
        "primary": view.group.primary,
        "secondary": view.group.secondary,
        "epoch": view.epoch,
        "invalidated": list(view.invalidated),
        "fences": {site: entry.get("state") for site, entry in view.fences.items()},
        "locked_by": view.locked_by,
        "locked_reason": view.locked_reason,
        "locked_at": view.locked_at,
        "moved_at": view.moved_at,
        "acknowledged_at": view.acknowledged_at,
        "group": spelled(to_plain(view.group)),
    }
