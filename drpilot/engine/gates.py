"""Gates: where persons come in. Which facts open a gate, as pure rules.

An approval covers the facts of the proposal: the fence verdict is foretold there, so gate `fence` asks a second
question only when the verdict is worse. Gate `traffic` is open by policy; gate `commit` ends the forward path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from drpilot.domain.fence import Verdict, worse
from drpilot.domain.plan import Approval, persons
from drpilot.domain.ports import Move
from drpilot.domain.run import RunView, StepView
from drpilot.engine.draft import Draft

__all__ = ["consider", "fence_accepted", "fence_verdict", "missing", "persons", "reach"]

_VERIFIED_FROM = ("awaiting_commit", "active_unprotected", "protected", "degraded")


def _broken_glass(approvals: Iterable[Approval], gate: str) -> bool:
    return any(approval.gate == gate and approval.break_glass for approval in approvals)


def fence_verdict(view: RunView, steps: Mapping[str, StepView]) -> Verdict | None:
    """The newest verdict of the run's fence steps; None where nothing was fenced.

    A fence that was unverified in the run and was verified since (`drpilot fence`, or the service) counts as fenced;
    one that was fenced and that a later look contradicted counts as what it is now.
    """
    found = [
        Verdict(step.output["verdict"])
        for step in steps.values()
        if step.planned.action == "fence.apply" and step.output is not None and step.state != "undone"
    ]
    present = view.fences.get(view.plan.source)
    if found and present in {verdict.value for verdict in Verdict}:
        return Verdict(present)
    return found[-1] if found else None


def fence_accepted(view: RunView, steps: Mapping[str, StepView]) -> bool:
    """Fenced for certain, or a second person took the uncertain fence upon themselves."""
    verdict = fence_verdict(view, steps)
    if verdict in (None, Verdict.FENCED):
        return True
    everyone = (
        persons(view.approvals, "go") | persons(view.approvals, "fence") | persons(view.approvals, "commit")
    )
    return len(everyone) >= 2 or any(approval.break_glass for approval in view.approvals)


def missing(view: RunView, steps: Mapping[str, StepView], gate: str) -> str:
    """What a gate still waits for; the empty string when it is open."""
    proposal = view.proposal
    match gate:
        case "go":
            if proposal is None or _broken_glass(view.approvals, "go"):
                return ""
            lacking = proposal.approvers - len(persons(view.approvals, "go"))
            return f"{lacking} more approval{'s' if lacking > 1 else ''}" if lacking > 0 else ""
        case "fence":
            verdict = fence_verdict(view, steps)
            foretold = (
                proposal.fence if proposal is not None and proposal.fence is not None else Verdict.FENCED
            )
            if verdict is None or not worse(verdict, foretold):
                return ""
            asked = persons(view.approvals, "fence")
            if _broken_glass(view.approvals, "fence") or (
                asked and len(asked | persons(view.approvals, "go")) >= 2
            ):
                return ""
            return f"a second person: the fence is {verdict.value}, {foretold.value} was foretold"
        case "traffic":
            return ""
        case _:
            return "commit or rollback"


def reach(draft: Draft, path: str) -> None:
    """A gate's needs are met: open it, then see whether it is open already."""
    draft.step_move(path, "gate opened")
    consider(draft, path)


def consider(draft: Draft, path: str) -> None:
    """Let a gate through when nothing is missing; else let the run wait for persons."""
    step = draft.steps[path]
    gate = step.planned.gate
    assert gate is not None
    if gate == "commit":
        if draft.state == "waiting":
            return
        if draft.state == "running":
            draft.add(
                Move("group", draft.view.group, "verified", {"checks_green": True}, unless=_VERIFIED_FROM)
            )
            draft.run_move("commit reached")
        return
    lacking = missing(draft.view, draft.steps, gate)
    if not lacking:
        draft.step_move(path, "as wanted", output={"persons": sorted(persons(draft.view.approvals, gate))})
        if draft.state == "waiting" and not _others_wait(draft, path):
            draft.run_move("approved")
    elif draft.state == "running":
        draft.run_move("gate reached", reason=f"gate {path}: {lacking}")


def _others_wait(draft: Draft, path: str) -> bool:
    return any(
        step.planned.gate is not None and step.state == "waiting" and step.path != path
        for step in draft.in_order()
    )
