"""A runbook compiled for one group (the plan), and what a person is shown and approves (the proposal)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from drpilot.base.ids import digest
from drpilot.domain.burst import BurstOffer
from drpilot.domain.fence import Verdict

__all__ = [
    "Approval",
    "Call",
    "Gate",
    "OnFailure",
    "Plan",
    "PlannedStep",
    "Proposal",
    "Retry",
    "Sight",
    "Slot",
    "persons",
]

Gate = Literal["go", "fence", "traffic", "commit"]
OnFailure = Literal["pause", "abort", "continue"]
Slot = Literal["copy-snapshot"]
"""Kinds of long work of which one cloud does so much at a time: copies of snapshots into it."""


@dataclass(frozen=True, slots=True)
class Call:
    """An action by name with its input: what `undo` answers."""

    action: str
    given: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Retry:
    """How a failed step is tried again over minutes; only the listed failure classes."""

    attempts: int = 5
    errors: tuple[str, ...] = ("throttled", "transient", "timeout")
    first_s: float = 2.0
    factor: float = 2.0
    max_s: float = 60.0
    jitter: bool = True


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step of a plan. `given` may hold `${{ }}` expressions over earlier outputs, resolved when its intent is made.

    `scope` holds the frozen `foreach` variables. `idempotency`, `effect` and `protects` are copied from the action,
    so that deciding needs no catalogue. `sites` are the names of the sites it calls; `slot` is the key in the plan's
    `slots` of the long work it starts, empty where it starts none; a key that is not there has no limit.
    """

    path: str
    action: str | None
    gate: Gate | None
    given: Mapping[str, Any]
    needs: tuple[str, ...]
    position: str
    title: str = ""
    retry: Retry = Retry()
    timeout_s: float = 600.0
    when: str | None = None
    always: bool = False
    on_failure: OnFailure = "pause"
    no_way_back: bool = False
    undo: Call | None = None
    undoes: bool = True
    scope: Mapping[str, Any] = field(default_factory=dict)
    idempotency: str = "pure"
    effect: str = "none"
    protects: bool = False
    message: str = ""
    sites: tuple[str, ...] = ()
    slot: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A fixed DAG in topological order, frozen into the run. `context` is what expressions see.

    At most `parallel` attempts are in a thread at once, at most `per_site` of those that call one site, and at most
    `slots[key]` steps have long work of one kind under way on one site (`away copy-snapshot`: 20).
    """

    runbook: str
    runbook_digest: str
    purpose: str
    group: str
    mode: str
    lane: str
    source: str
    target: str
    point: str
    steps: tuple[PlannedStep, ...]
    context: Mapping[str, Any] = field(default_factory=dict)
    parallel: int = 16
    per_site: int = 8
    slots: Mapping[str, int] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 over the steps and what they refer to; an approval binds to it."""
        from drpilot.domain.plain import to_plain  # noqa: PLC0415 - plain imports pydantic, which --help must not

        return digest(to_plain(self))

    def step(self, path: str) -> PlannedStep:
        """The step at `path`; KeyError where there is none."""
        for step in self.steps:
            if step.path == path:
                return step
        raise KeyError(path)


@dataclass(frozen=True, slots=True)
class Sight:
    """One line of what was seen before deciding: `subject`, a verdict of ok, warning or bad, a text, its age."""

    subject: str
    verdict: str
    text: str
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is shown, typed back, approved, printed in JSON and reported: one object.

    `loss_s` is None for a mode that loses nothing. `facts_digest` covers what a person consents to: point, loss,
    fence, plan, direction and number of approvers; times of looking are left out.
    """

    group: str
    mode: str
    source: str
    target: str
    runbook: str
    plan: str
    steps: int
    lane: str
    reason: str
    created_at: datetime
    expires_at: datetime
    approvers: int
    point: str | None = None
    point_at: datetime | None = None
    point_state: str | None = None
    since: datetime | None = None
    loss_s: float | None = None
    loss_exact: bool = True
    fence: Verdict | None = None
    rto_s: float | None = None
    rto_samples: int = 0
    rto_objective_s: float | None = None
    rpo_objective_s: float | None = None
    seen: tuple[Sight, ...] = ()
    stops: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    no_way_back: str | None = None
    no_way_back_number: int | None = None
    break_glass: str | None = None
    blockers: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    burst: BurstOffer | None = None
    data_path: str = ""  # how bytes get across, in words, where the clouds don't copy by themselves

    @property
    def digest(self) -> str:
        """SHA-256 over the facts consented to."""
        return digest(
            {
                "group": self.group,
                "mode": self.mode,
                "source": self.source,
                "target": self.target,
                "plan": self.plan,
                "point": self.point,
                "loss_s": self.loss_s,
                "fence": self.fence.value if self.fence else None,
                "approvers": self.approvers,
                "break_glass": self.break_glass,
            }
        )

    def renewed(self, **changes: Any) -> Proposal:
        """A copy with some facts looked at again."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Approval:
    """One person's consent to one gate of one run, bound to the proposal's digest."""

    person: str
    gate: str
    at: datetime
    digest: str
    accepted_loss_s: float | None = None
    where: str = ""
    comment: str = ""
    declined: bool = False
    break_glass: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)


def persons(approvals: Iterable[Approval], gate: str) -> set[str]:
    """The different persons who consented to a gate.

    A person is the account that was logged in, where that is known: one account under two names is one person.
    """
    return {
        str(approval.data.get("account") or approval.person)
        for approval in approvals
        if approval.gate == gate and not approval.declined
    }
