"""A report as a value: the fields an auditor asks of a recovery test, as far as the journal knows them.

The list of fields follows DORA (Regulation (EU) 2022/2554, art. 11(6) and 12), RTS (EU) 2024/1774 art. 25-26,
SOC 2 A1.3, ISO 22301 clause 8.5 and NIST SP 800-34 section 3.5.1. Unknown is None, never a good result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from drpilot.report.plain import as_json

__all__ = [
    "Attempted",
    "Criterion",
    "Deviation",
    "Environment",
    "EventLine",
    "Evidence",
    "Measured",
    "OpenFinding",
    "Participant",
    "PointUsed",
    "Report",
    "SiteUsed",
    "StepLine",
    "Sworn",
    "Verified",
    "to_json",
]

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Participant:
    """A person or controller and what they did."""

    name: str
    part: str  # requested, approved, declined, steered, drove
    at: datetime
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SiteUsed:
    """A site in its role."""

    role: str
    name: str
    account: str = ""
    region: str = ""
    answers: bool | None = None
    last_seen_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Environment:
    """Where it happened; `isolated` is None for a run that is not meant to be."""

    sites: tuple[SiteUsed, ...]
    isolated: bool | None = None


@dataclass(frozen=True, slots=True)
class PointUsed:
    """The recovery point restored or made."""

    id: str
    state: str
    source: str
    site: str
    captured_at: datetime | None
    completed_at: datetime | None
    age_s: float | None
    size_gib: int
    replicas: int
    window_s: float | None = None
    proven_by: str | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """An objective against what was achieved. `achieved` is None while it can't be told."""

    name: str
    objective_s: float | None
    achieved_s: float | None
    method: str
    exact: bool = True

    @property
    def met(self) -> bool | None:
        """Whether the objective was met; None where either side is unknown."""
        if self.objective_s is None or self.achieved_s is None:
            return None
        return self.achieved_s <= self.objective_s


@dataclass(frozen=True, slots=True)
class Attempted:
    """One try of a step."""

    number: int
    kind: str
    state: str
    at: datetime
    ended_at: datetime | None
    token: str
    failure: str = ""


@dataclass(frozen=True, slots=True)
class StepLine:
    """One step of the run with its tries; `critical` if the achieved time hung on it."""

    number: int
    path: str
    title: str
    does: str  # an action's name, or `gate NAME`
    state: str
    started_at: datetime | None
    ended_at: datetime | None
    seconds: float | None
    note: str
    critical: bool
    no_way_back: bool
    attempts: tuple[Attempted, ...] = ()


@dataclass(frozen=True, slots=True)
class EventLine:
    """One line of the timeline."""

    at: datetime
    what: str
    actor: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verified:
    """One check: what was expected and what was observed."""

    step: str
    name: str
    ok: bool
    expected: str
    observed: str
    at: str = ""


@dataclass(frozen=True, slots=True)
class Deviation:
    """Something that went another way than the plan: skip, override, retry, warning, failure; with who and why."""

    at: datetime
    kind: str
    subject: str
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Sworn:
    """What a fence or epoch step, or a clean-up step, handed back as evidence."""

    step: str
    action: str
    state: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OpenFinding:
    """A finding open when the report was built."""

    code: str
    severity: str
    message: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Criterion:
    """One criterion fixed before the start, and how it ended: passed, accepted by people, failed or unknown."""

    name: str
    result: str
    detail: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """The run's event chain: its head and whether it follows from its beginning."""

    chain: str
    head: str
    events: int
    verified: bool
    problem: str = ""
    log: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about one run. Built at any time; `finished` says whether it can still change."""

    name: str
    id: str
    kind: str
    group: str
    scope: tuple[str, ...]
    runbook: str
    runbook_digest: str
    plan_digest: str
    reason: str
    state: str
    result: str | None
    built_at: datetime
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    participants: tuple[Participant, ...]
    environment: Environment
    point: PointUsed | None
    measured: tuple[Measured, ...]
    predicted_rto_s: float | None
    predicted_samples: int
    critical: tuple[str, ...]
    critical_s: float
    steps: tuple[StepLine, ...]
    timeline: tuple[EventLine, ...]
    verification: tuple[Verified, ...]
    deviations: tuple[Deviation, ...]
    fence: tuple[Sworn, ...]
    epoch_before: int | None
    epoch_after: int | None
    cleanup: tuple[Sworn, ...]
    left_over: tuple[str, ...] | None
    findings: tuple[OpenFinding, ...]
    criteria: tuple[Criterion, ...]
    evidence: Evidence
    afterwards: Mapping[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the run is over."""
        return self.state == "finished"

    @property
    def seconds(self) -> float | None:
        """From creation to the end; None while it lasts."""
        return (self.ended_at - self.created_at).total_seconds() if self.ended_at else None

    def measure(self, name: str) -> Measured | None:
        """The measured value called `name`."""
        return next((item for item in self.measured if item.name == name), None)


def to_json(report: Report) -> dict[str, Any]:
    """The report as one JSON object; `evidence.log` holds the whole event chain, so that it can be verified alone."""
    body: dict[str, Any] = as_json(report)
    for shown, item in zip(body["measured"], report.measured, strict=True):
        shown["met"] = item.met
    body["evidence"]["log"] = [dict(event) for event in report.evidence.log]  # as hashed: nothing rounded
    return {"drpilot_report": FORMAT, "finished": report.finished, "seconds": as_json(report.seconds), **body}
