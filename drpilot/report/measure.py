"""What a run achieved against its objectives, and the verdict on each criterion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from drpilot.base.units import format_duration
from drpilot.domain.fence import Verdict
from drpilot.domain.run import MOVES, RunView
from drpilot.engine.gates import fence_accepted, fence_verdict
from drpilot.journal.views import GroupView
from drpilot.report.critical import recovery_steps
from drpilot.report.value import Criterion, Evidence, Measured, PointUsed, Verified

__all__ = ["Seen", "criteria_of", "gone_at", "measured_of", "restored_at"]

_RECOVERS = (*MOVES, "drill")
_WELL = frozenset({"succeeded", "warned", "skipped", "ignored"})


def gone_at(view: RunView) -> datetime | None:
    """The go: when gate `go` opened; without such a gate the start of the run."""
    for step in view.steps.values():
        if step.planned.gate == "go":
            return step.ended_at
    return view.started_at or view.created_at


def restored_at(view: RunView) -> datetime | None:
    """When the service stood again: gate `commit` reached, else the end of the last recovery step if all ended well."""
    for step in view.steps.values():
        if step.planned.gate == "commit":
            return step.started_at
    steps = [view.steps[path] for path in recovery_steps(view.plan)]
    if not steps or any(step.state not in _WELL for step in steps):
        return None
    return max((step.ended_at for step in steps if step.ended_at is not None), default=None)


def measured_of(view: RunView, group: GroupView, point: PointUsed | None) -> tuple[Measured, ...]:
    """RTO from the go and from the event, and RPO, of a run that recovers; nothing for the others."""
    if view.mode not in _RECOVERS:
        return ()
    proposal, objectives = view.proposal, group.group.objectives
    rto_s = (proposal.rto_objective_s if proposal else None) or objectives.rto_s
    rpo_s = (proposal.rpo_objective_s if proposal else None) or objectives.rpo_s
    gone, restored = gone_at(view), restored_at(view)
    from_go = (restored - gone).total_seconds() if gone is not None and restored is not None else None
    method = (
        "from the go to the last check of the new side"
        if view.mode != "drill"
        else "from the start of the drill to its last check"
    )
    found = [Measured("rto", rto_s, from_go, method)]
    if proposal is not None and proposal.since is not None and view.mode == "failover":
        from_event = (restored - proposal.since).total_seconds() if restored is not None else None
        found.append(
            Measured("rto_from_event", rto_s, from_event, "from the last sign of life of the source")
        )
    found.append(_rpo(view, rpo_s, point))
    return tuple(found)


def _rpo(view: RunView, objective_s: float, point: PointUsed | None) -> Measured:
    proposal = view.proposal
    match view.mode:
        case "failover" if proposal is not None and proposal.loss_s is not None:
            method = "last sign of life of the source minus the point's instant"
            if not proposal.loss_exact:
                method = "at most: the point's age, the last sign of life is not known"
            return Measured("rpo", objective_s, proposal.loss_s, method, proposal.loss_exact)
        case "switchover" | "migrate":
            proof = next(
                (s.output["proof"] for s in view.steps.values() if s.output and s.output.get("proof")), None
            )
            if proof:
                return Measured(
                    "rpo", objective_s, 0.0, "proven: a last copy after every writer was seen stopped"
                )
            return Measured(
                "rpo", objective_s, None, "not proven yet: no last copy after the writers stopped"
            )
        case "drill" if point is not None:
            return Measured("rpo", objective_s, point.age_s, "age of the point when the drill began")
        case _:
            return Measured("rpo", objective_s, None, "no point was restored")


@dataclass(frozen=True, slots=True)
class Seen:
    """What the criteria are judged by."""

    measured: Sequence[Measured]
    verification: Sequence[Verified]
    isolated: bool | None
    left_over: tuple[str, ...] | None
    evidence: Evidence


def criteria_of(view: RunView, seen: Seen) -> tuple[Criterion, ...]:
    """Each success criterion with passed, failed or unknown; unknown is never taken for passed."""
    measured, verification, evidence = seen.measured, seen.verification, seen.evidence
    isolated, left_over = seen.isolated, seen.left_over
    found = [_result(view)]
    for item in measured:
        label = {"rto": "RTO", "rto_from_event": "RTO from the event", "rpo": "RPO"}[item.name]
        found.append(
            Criterion(f"{label} within its objective", _word(item.met, _over(view, item)), _against(item))
        )
    # That the source of a failover does not answer is what it is for: seen, recorded, no failed check.
    verification = [item for item in verification if view.plan.step(item.step).action != "check.source"]
    if verification:
        bad = [item for item in verification if not item.ok]
        text = f"{len(verification) - len(bad)} of {len(verification)} checks as expected"
        found.append(Criterion("every check as expected", "failed" if bad else "passed", text))
    if view.mode in MOVES:
        found.append(_old_side(view))
    if view.mode == "drill":
        shown = {True: "nothing reached production", False: "not proven", None: "no isolation step ended"}[
            isolated
        ]
        found.append(Criterion("isolated from production", _word(isolated, False), shown))
    if view.mode == "drill" or left_over is not None:
        text = (
            "nothing"
            if left_over == ()
            else f"{len(left_over)} things"
            if left_over
            else "not cleaned up yet"
        )
        found.append(
            Criterion("nothing left behind", _word(None if left_over is None else not left_over, False), text)
        )
    text = f"{evidence.events} events, head {evidence.head[:16]}" if evidence.verified else evidence.problem
    found.append(Criterion("the event chain verifies", "passed" if evidence.verified else "failed", text))
    return tuple(found)


def _old_side(view: RunView) -> Criterion:
    verdict = fence_verdict(view, view.steps)
    if verdict is None:
        return Criterion("the old side can't write", "unknown", "not fenced yet")
    if verdict is Verdict.FENCED:
        return Criterion("the old side can't write", "passed", "fenced, by observation")
    if fence_accepted(view, view.steps):
        return Criterion(
            "the old side can't write", "accepted", f"{verdict.value}, taken upon themselves by two persons"
        )
    return Criterion("the old side can't write", "failed", verdict.value)


def _result(view: RunView) -> Criterion:
    if view.state == "awaiting_commit":
        return Criterion("the run ended well", "unknown", "awaiting commit")
    if view.state != "finished":
        return Criterion("the run ended well", "unknown", view.state)
    good = view.result in ("succeeded", "succeeded_with_warnings")
    return Criterion("the run ended well", "passed" if good else "failed", str(view.result))


def _over(view: RunView, item: Measured) -> bool:
    """Whether an unreached time can no longer be reached: the run is over."""
    return view.state == "finished" and item.name.startswith("rto")


def _word(value: bool | None, failed_if_unknown: bool) -> str:
    if value is None:
        return "failed" if failed_if_unknown else "unknown"
    return "passed" if value else "failed"


def _against(item: Measured) -> str:
    achieved = "not reached" if item.achieved_s is None else format_duration(item.achieved_s)
    if item.achieved_s is not None and not item.exact:
        achieved = f"at most {achieved}"
    return f"{achieved} of {format_duration(item.objective_s)}" if item.objective_s is not None else achieved
