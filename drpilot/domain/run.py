"""A run as the engine sees it, and the changes it may write: values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from drpilot.domain.plan import Approval, Call, Plan, PlannedStep, Proposal
from drpilot.domain.ports import Move

__all__ = [
    "LANES",
    "MOVES",
    "PLANNED",
    "AttemptView",
    "Change",
    "Decision",
    "Failure",
    "Holder",
    "Intent",
    "Lease",
    "Note",
    "Outcome",
    "Request",
    "RunMove",
    "RunView",
    "Settled",
    "StepMove",
    "StepView",
]

LANES = ("move", "copy", "practice")
PLANNED = ("switchover", "migrate")
"""The modes that move the active side without loss; both sides must answer."""
MOVES = ("failover", *PLANNED)
"""The modes that move the active side, are committed, and are rolled back rather than cancelled."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who drives: a process on a host. `boot` and `started` tell a reused pid from the one that held the lease."""

    person: str
    host: str
    boot: str
    pid: int
    started: str
    kind: str = "cli"  # cli | serve

    @property
    def text(self) -> str:
        """One line for the journal: person@host:pid."""
        return f"{self.person}@{self.host}:{self.pid}"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write one run's state; `term` rises with each change of hands, a lower term can't write.

    `group` and `number` are the run's, so that a commit need not look them up; empty where they were not known.
    """

    run: str
    holder: Holder
    term: int
    group: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt did not end as wanted."""

    kind: str  # a FailureClass value
    code: str
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One try of a step. `kind` is `do` or `undo`; `state` intent, ok, failed, unknown, waiting, cancelled."""

    number: int
    round: int
    kind: str
    token: str
    state: str
    term: int
    action: str
    given: Mapping[str, Any]
    intended_at: datetime
    ended_at: datetime | None = None
    failure: Failure | None = None
    checkpoint: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class StepView:
    """A step's present state. `tries` counts attempts since a person last retried, `looks` unseen looks in a row."""

    planned: PlannedStep
    state: str = "pending"
    round: int = 0
    tries: int = 0
    polls: int = 0
    looks: int = 0
    wake_at: datetime | None = None
    looked_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    output: Mapping[str, Any] | None = None
    failure: Failure | None = None
    attempt: AttemptView | None = None
    progress: float | None = None
    note: str = ""
    undo: Call | None = None

    @property
    def path(self) -> str:
        """The step's path in the plan."""
        return self.planned.path


@dataclass(frozen=True, slots=True)
class Request:
    """An order of a person, posted beside the run and read by whoever drives."""

    id: str
    run: str
    kind: str  # approve decline pause resume cancel retry skip settle commit rollback
    by: str
    at: datetime
    step: str | None = None
    comment: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunView:
    """Everything `decide` may know about one run."""

    id: str
    name: str
    group: str
    mode: str
    lane: str
    state: str
    plan: Plan
    steps: Mapping[str, StepView]
    created_at: datetime
    by: str
    reason: str = ""
    result: str | None = None
    term: int = 0
    holder: Holder | None = None
    lease_until: datetime | None = None
    proposal: Proposal | None = None
    approvals: tuple[Approval, ...] = ()
    requests: tuple[Request, ...] = ()
    group_state: str = ""
    epoch: int = 1
    fences: Mapping[str, str] = field(default_factory=dict)
    started_at: datetime | None = None
    ended_at: datetime | None = None
    expires_at: datetime | None = None
    number: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Intent:
    """About to call: durable before the first byte leaves. Step `ready` → `running` (or `undoing` for kind undo)."""

    path: str
    number: int
    round: int
    kind: Literal["do", "undo"]
    token: str
    action: str
    given: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt came to, with the lifecycle facts that became true, in one commit.

    `event` is the step's event of lifecycle table `step`; `output` only with `as wanted…`; `wake_at` with the
    waiting ones.
    """

    path: str
    number: int
    event: str
    output: Mapping[str, Any] | None = None
    failure: Failure | None = None
    wake_at: datetime | None = None
    progress: float | None = None
    note: str = ""
    moves: tuple[Move, ...] = ()
    undo: Call | None = None
    looked: bool = False  # the answer came from a look that saw nothing
    counts: bool = True  # False: refused for want of a place, which uses up no try


@dataclass(frozen=True, slots=True)
class StepMove:
    """A step's change that no attempt caused: needs met, left out, cancelled, retried by a person."""

    path: str
    event: str
    reason: str = ""
    by: str = ""
    wake_at: datetime | None = None
    new_round: bool = False
    output: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RunMove:
    """The run's own change; `result` with the event that finishes it."""

    event: str
    reason: str = ""
    by: str = ""
    result: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settled:
    """A request was read; `refused` says why it had no effect."""

    request: str
    refused: str = ""
    approval: Approval | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth keeping that changes nothing: an event of the chain."""

    kind: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


Change = Intent | Outcome | StepMove | RunMove | Settled | Note | Move


@dataclass(frozen=True, slots=True)
class Decision:
    """What to write now, which attempts to start (or poll, or look at), and when to decide again at the latest."""

    changes: tuple[Change, ...] = ()
    start: tuple[str, ...] = ()
    poll: tuple[str, ...] = ()
    look: tuple[str, ...] = ()
    wake_at: datetime | None = None
