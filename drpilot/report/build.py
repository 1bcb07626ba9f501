"""Building a report from what the journal knows of a run. Pure, at any time: there is no report step to lose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from drpilot.base.errors import CATALOGUE
from drpilot.domain.point import RecoveryPoint
from drpilot.domain.run import AttemptView, RunView, StepView
from drpilot.journal.chain import Event
from drpilot.journal.journal import Journal
from drpilot.journal.views import FindingView, GroupView, SiteView
from drpilot.report.critical import critical_path, recovery_steps
from drpilot.report.evidence import evidence_of
from drpilot.report.happenings import deviations_of, participants_of, timeline_of
from drpilot.report.measure import Seen, criteria_of, measured_of
from drpilot.report.value import (
    Attempted,
    Environment,
    OpenFinding,
    PointUsed,
    Report,
    SiteUsed,
    StepLine,
    Sworn,
    Verified,
)

__all__ = ["Material", "build", "gather"]

_LEFT = ("left", "left_over", "leftovers", "remaining")


@dataclass(frozen=True, slots=True)
class Material:
    """What a report is made of: one run's view, its events and attempts, and what stands around it."""

    view: RunView
    events: Sequence[Event]
    attempts: Sequence[tuple[str, AttemptView]]
    group: GroupView
    points: Sequence[RecoveryPoint] = ()
    sites: Sequence[SiteView] = ()
    findings: Sequence[FindingView] = ()
    predicted: tuple[float | None, int] | None = None
    afterwards: Mapping[str, Any] = field(default_factory=dict)


def gather(journal: Journal, run: str) -> Material:
    """Read the material of one run (id, `GROUP/NUMBER` or a group's live, else latest run) from the journal."""
    view = journal.view(run)
    return Material(
        view=view,
        events=journal.events(run=view.id),
        attempts=journal.attempts(view.id),
        group=journal.group(view.group),
        points=journal.points(view.group, deleted=True),
        sites=journal.sites(),
        findings=journal.findings(view.group),
    )


def build(material: Material, now: datetime) -> Report:
    """The report of a run as of `now`. Pure: the same material and time give the same report."""
    view = material.view
    durations = {
        path: seconds for path, step in view.steps.items() if (seconds := _seconds(step)) is not None
    }
    critical_s, critical = critical_path(view.plan, durations, recovery_steps(view.plan))
    point = _point(material)
    verification = tuple(_verification(view))
    fence = _sworn(view, ("fence.", "epoch."))
    cleanup, left_over = _cleanup(view)
    isolated = _isolated(view)
    evidence = evidence_of(view.id, view.name, material.events)
    measured = measured_of(view, material.group, point)
    epochs = [int(s.facts["epoch"]) for s in fence if s.action.startswith("epoch.") and "epoch" in s.facts]
    predicted_s, samples = material.predicted or (None, 0)
    if view.proposal is not None:
        predicted_s, samples = view.proposal.rto_s, view.proposal.rto_samples
    return Report(
        name=view.name,
        id=view.id,
        kind=view.mode,
        group=view.group,
        scope=tuple(tier.name for tier in material.group.group.tiers),
        runbook=view.plan.runbook,
        runbook_digest=view.plan.runbook_digest,
        plan_digest=view.plan.digest,
        reason=view.reason,
        state=view.state,
        result=view.result,
        built_at=now,
        created_at=view.created_at,
        started_at=view.started_at,
        ended_at=view.ended_at,
        participants=participants_of(view, material.events),
        environment=Environment(_sites(material), isolated),
        point=point,
        measured=measured,
        predicted_rto_s=predicted_s,
        predicted_samples=samples,
        critical=critical,
        critical_s=critical_s,
        steps=_steps(material, frozenset(critical)),
        timeline=timeline_of(view, material.events),
        verification=verification,
        deviations=deviations_of(view, material.events),
        fence=fence,
        epoch_before=epochs[0] - 1
        if epochs
        else None,  # a claim raises the epoch by exactly one (domain/fence.py)
        epoch_after=epochs[-1] if epochs else None,
        cleanup=cleanup,
        left_over=left_over,
        findings=tuple(
            OpenFinding(CATALOGUE[item.word].code, item.severity, item.message, item.first_at)
            for item in material.findings
        ),
        criteria=criteria_of(view, Seen(measured, verification, isolated, left_over, evidence)),
        evidence=evidence,
        afterwards={
            "group_state": material.group.state,
            "active": material.group.active,
            "epoch": material.group.epoch,
        }
        | dict(material.afterwards),
    )


def _seconds(step: StepView) -> float | None:
    if step.started_at is None or step.ended_at is None:
        return None
    return (step.ended_at - step.started_at).total_seconds()


def _point(material: Material) -> PointUsed | None:
    view = material.view
    point = next((item for item in material.points if item.id == view.plan.point), None)
    if point is None:
        return None
    age = (view.created_at - point.captured_at).total_seconds() if point.captured_at else None
    return PointUsed(
        id=point.id,
        state=point.state,
        source=point.source,
        site=point.site,
        captured_at=point.captured_at,
        completed_at=point.completed_at,
        age_s=age
        if age is not None and age >= 0
        else None,  # a point this run made itself has no age at its start
        size_gib=sum(replica.size_gib for replica in point.replicas if replica.kind == "snapshot"),
        replicas=len(point.replicas),
        window_s=point.facts.get("window_s"),
        proven_by=point.proven_by,
    )


def _sites(material: Material) -> tuple[SiteUsed, ...]:
    plan, known = material.view.plan, {site.name: site for site in material.sites}
    found = []
    for role, name in (("source", plan.source), ("target", plan.target)):
        site = known.get(name)
        if site is None:
            found.append(SiteUsed(role, name))
        else:
            found.append(SiteUsed(role, name, site.account, site.region, site.answers, site.last_seen_at))
    return tuple(found)


def _steps(material: Material, critical: frozenset[str]) -> tuple[StepLine, ...]:
    tries: dict[str, list[Attempted]] = {}
    for path, attempt in material.attempts:
        tries.setdefault(path, []).append(
            Attempted(
                attempt.number,
                attempt.kind,
                attempt.state,
                attempt.intended_at,
                attempt.ended_at,
                attempt.token,
                attempt.failure.message if attempt.failure else "",
            )
        )
    lines = []
    for number, step in enumerate(material.view.steps.values(), 1):
        planned = step.planned
        ended_badly = step.failure if step.state in ("failed", "ignored", "undo_failed") else None
        note = ended_badly.message if ended_badly is not None else step.note
        lines.append(
            StepLine(
                number=number,
                path=step.path,
                title=planned.title,
                does=planned.action or f"gate {planned.gate}",
                state=step.state,
                started_at=step.started_at,
                ended_at=step.ended_at,
                seconds=_seconds(step),
                note=note.removeprefix("person: "),
                critical=step.path in critical,
                no_way_back=planned.no_way_back,
                attempts=tuple(tries.get(step.path, ())),
            )
        )
    return tuple(lines)


def _looks(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every look in an output: a mapping with what was expected, what was observed, and whether it was so."""
    if isinstance(value, Mapping):
        if {"ok", "expected", "observed"} <= set(value):
            yield value
            return
        for item in value.values():
            yield from _looks(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _looks(item)


def _verification(view: RunView) -> Iterator[Verified]:
    for step in view.steps.values():
        found = list(_looks(step.output)) + (list(_looks(step.failure.data)) if step.failure else [])
        for look in found:
            yield Verified(
                step.path,
                str(look.get("name", "")),
                bool(look["ok"]),
                str(look["expected"]),
                str(look["observed"]),
                str(look.get("at", "")),
            )
        data = step.failure.data if step.failure else {}
        if not found and {"expected", "observed"} <= set(data):
            yield Verified(step.path, step.planned.title, False, str(data["expected"]), str(data["observed"]))


def _sworn(view: RunView, actions: tuple[str, ...]) -> tuple[Sworn, ...]:
    return tuple(
        Sworn(step.path, step.planned.action or "", step.state, dict(step.output or {}))
        for step in view.steps.values()
        if (step.planned.action or "").startswith(actions)
        and step.state not in ("pending", "skipped", "cancelled")
    )


def _cleanup(view: RunView) -> tuple[tuple[Sworn, ...], tuple[str, ...] | None]:
    """What the clean-up steps handed back, and what they left; None where none has ended."""
    steps = [step for step in view.steps.values() if (step.planned.action or "").startswith("cleanup.")]
    sworn = _sworn(view, ("cleanup.",))
    if not steps or any(
        step.state in ("pending", "ready", "running", "waiting", "unknown") for step in steps
    ):
        return sworn, None
    left: list[str] = []
    for step in steps:
        for source in (step.output or {}, step.failure.data if step.failure else {}):
            for key in _LEFT:
                found = source.get(key)
                left += [str(item) for item in found] if isinstance(found, (list, tuple)) else []
    failed = [step.path for step in steps if step.state not in ("succeeded", "warned", "skipped", "undone")]
    return sworn, tuple(dict.fromkeys(left or [f"step {path} did not end well" for path in failed]))


def _isolated(view: RunView) -> bool | None:
    """Whether a drill proved its isolation before it booted anything; None for what is not meant to be isolated."""
    steps = [step for step in view.steps.values() if "isolat" in (step.planned.action or "")]
    if not steps:
        return None
    return all(
        step.state in ("succeeded", "undone") and all(look["ok"] for look in _looks(step.output))
        for step in steps
    )
