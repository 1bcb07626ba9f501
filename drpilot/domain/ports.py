"""The few ports: a site, the witness, an action and what it may touch.

A port exists only where there are two implementations. Operations and parameters are EC2's own words: there are no
cloud-neutral resource classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from drpilot.base.clock import Chance, Clock
from drpilot.domain.fence import Claim
from drpilot.domain.group import Group
from drpilot.domain.objects import ObjectPlane
from drpilot.domain.plain import Json
from drpilot.domain.plan import Call, Proposal, Slot
from drpilot.domain.point import RecoveryPoint

__all__ = [
    "Action",
    "Answer",
    "BlockChannel",
    "BlockPlane",
    "CloudError",
    "Context",
    "Done",
    "Effect",
    "FailureClass",
    "Idempotency",
    "Model",
    "Move",
    "Site",
    "Stale",
    "StandbyView",
    "StepFailed",
    "Transfers",
    "Unseen",
    "Waiting",
    "Witness",
]


class FailureClass(Enum):
    """The closed list of ways a call fails; botocore's exceptions are mapped onto it in one place."""

    THROTTLED = "throttled"
    TRANSIENT = "transient"
    TIMEOUT = "timeout"
    FULL = "full"  # as much such work is under way as the cloud does at once; over when some of it ends
    CAPACITY = "capacity"
    AUTH = "auth"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    INVALID = "invalid"
    PRECONDITION = "precondition"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


Happened = Literal["yes", "no", "unknown"]


class CloudError(Exception):
    """A call that did not answer as wanted. `happened` says whether its effect took place."""

    def __init__(  # noqa: PLR0913 - an error carries what its reader needs, as keywords
        self,
        kind: FailureClass,
        code: str,
        message: str,
        *,
        happened: Happened,
        site: str = "",
        operation: str = "",
        request_id: str = "",
    ) -> None:
        self.kind = kind
        self.code = code
        self.message = message
        self.happened = happened
        self.site = site
        self.operation = operation
        self.request_id = request_id
        super().__init__(f"{site}: {operation}: {code}: {message}")


class StepFailed(Exception):
    """An action's own word that the step failed for certain, with what was expected and observed."""

    def __init__(self, kind: FailureClass, message: str, *, data: Json | None = None) -> None:
        self.kind = kind
        self.message = message
        self.data = data or {}
        super().__init__(message)


class Site(Protocol):
    """One EC2-compatible endpoint, region and account: the only door to a cloud.

    All three raise `CloudError`. Limits, tokens, error kinds, dry run and faults sit behind this door.
    """

    name: str
    region: str
    account: str

    @property
    def capabilities(self) -> frozenset[str]:
        """What the dialect can do, such as `ec2:CopySnapshot`, `ebs`, `dry-run`."""

    def call(self, service: str, operation: str, params: Json, *, token: str | None = None) -> Json:
        """One call in the cloud's own words; `token` becomes its ClientToken where the operation takes one."""

    def pages(self, service: str, operation: str, params: Json) -> Iterator[Json]:
        """Each page of a listing; never relies on the server's page size."""

    def guarded(self, permit: Callable[[], None]) -> Site:
        """The same site, whose changing requests leave only while `permit` returns; it is asked behind all waits, for
        each request, and what it raises comes out of the call.
        """

    def presigned(self, operation: str, params: Json, expires_s: int) -> str:
        """A URL with which anybody may make one call on one object for `expires_s` seconds: a secret, never shown.

        `operation` is `s3:GetObject`, `s3:PutObject`, `s3:HeadObject` or `s3:DeleteObject`.
        """


class BlockChannel(Protocol):
    """One thread's way to the blocks of snapshots, 524,288 bytes each. Raises `CloudError`; a block whose bytes are not
    what their checksum says has the code `ChecksumMismatch`.
    """

    def get(self, snapshot: str, index: int, token: str, into: memoryview) -> bytes:
        """Read a block into `into` (a whole block's room); its SHA-256 (32 bytes), compared with the bytes."""

    def put(self, snapshot: str, index: int, data: memoryview, sha256: bytes) -> None:
        """Write a block whose SHA-256 is known; writing it again replaces it."""

    def close(self) -> None:
        """Let the connection go."""


class BlockPlane(Protocol):
    """Blocks of snapshots on one site: `fast` by a data plane of our own, `sdk` by botocore."""

    engine: str
    note: str  # why it is not the engine that was asked for; empty when it is

    def channel(self) -> BlockChannel:
        """A way for one thread."""

    def close(self) -> None:
        """Close what the channels share."""


@dataclass(frozen=True, slots=True)
class Transfers:
    """What an action that carries bytes itself needs beside the sites: the blocks of a site by its name, the folder
    of what a transfer must remember to go on after it was killed, chance for its pauses, the objects of a site,
    the URL where its S3 answers, and in PEM who signs its certificates (empty: somebody everybody knows).
    """

    plane: Callable[[str], BlockPlane]
    folder: Path
    chance: Chance
    objects: Callable[[str], ObjectPlane]
    s3_url: Callable[[str], str]
    authority: Callable[[str], str] = lambda site: ""


class Stale(Exception):
    """A conditional write lost against another: the witness no longer is what was read."""


class Witness(Protocol):
    """The object in a third place that says which side is active."""

    def read(self, group: str) -> tuple[Claim | None, str]:
        """The claim and its etag; None and the empty string where none was written yet."""

    def write(self, claim: Claim, *, replaces: str) -> str:
        """Write if the object still has etag `replaces` (empty: does not exist); raises `Stale`."""


@dataclass(frozen=True, slots=True)
class Move:
    """A lifecycle fact an action hands back; the engine commits it with the outcome, through the state machines.

    `key` names the object (`shop` for the group, a point's id, `TIER@SITE` for a standby, a site for a fence).
    `facts` feed the guards, `data` is stored on the row. `unless` lists states in which it is already so.
    """

    family: str
    key: str
    event: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    unless: tuple[str, ...] = ()


O = TypeVar("O", bound=BaseModel)
I = TypeVar("I", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Done(Generic[O]):
    """As wanted, by observation. `warning` makes the step `warned`; `note` is worth a line where all is
    well.
    """

    output: O
    moves: tuple[Move, ...] = ()
    warning: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """There, not yet as wanted. No thread is held; `after_s` is the longest useful time to the next look."""

    handle: Mapping[str, Any]
    after_s: float = 15.0
    progress: float | None = None
    moves: tuple[Move, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Unseen:
    """Not there. `certain` means enough consistent looks: it did not happen, do it; else look again."""

    certain: bool
    why: str


Answer = Done[O] | Waiting | Unseen


class Idempotency(Enum):
    """What makes a second call harmless; decides what happens after a lost reply."""

    PURE = "pure"  # only looks
    TOKEN = "token"  # the cloud knows the token: same call, same token
    OBSERVE = "observe"  # no token exists: found by tag or name before a repeat
    RERUN = "rerun"  # sets a state; repeating sets it again
    ONCE = "once"  # can't be told; a person decides


class Effect(Enum):
    """What an action does to the world."""

    NONE = "none"
    CREATE = "create"
    CHANGE = "change"
    DESTROY = "destroy"


@dataclass(frozen=True, slots=True)
class StandbyView:
    """The standby of one tier on one site as the journal knows it; `facts` hold ids of what stands there."""

    tier: str
    site: str
    state: str
    facts: Mapping[str, Any] = field(default_factory=dict)


class Context(Protocol):
    """All that an action may touch."""

    @property
    def run(self) -> str:
        """The id of the run."""

    @property
    def name(self) -> str:
        """The run as people say it, `shop/232`."""

    @property
    def path(self) -> str:
        """The path of the step."""

    @property
    def mode(self) -> str:
        """The mode of the run."""

    @property
    def token(self) -> str:
        """The idempotency token of this attempt."""

    @property
    def epoch(self) -> int:
        """The epoch of the group when driving began."""

    @property
    def group(self) -> Group:
        """The group as frozen into the plan."""

    @property
    def source(self) -> str:
        """The name of the site in role source."""

    @property
    def target(self) -> str:
        """The name of the site in role target."""

    @property
    def point_id(self) -> str:
        """The point chosen for, or made by, this run; empty where there is none."""

    @property
    def clock(self) -> Clock:
        """The clock."""

    @property
    def intended_at(self) -> datetime:
        """When the first intent of this step's present round became durable."""

    @property
    def settle_s(self) -> float:
        """How long what was just made may stay unlisted, in seconds."""

    @property
    def resume(self) -> Json | None:
        """What an earlier attempt of this step stored by `checkpoint`."""

    @property
    def proposal(self) -> Proposal | None:
        """What was shown and approved; None for modes that ask nobody."""

    def site(self, role: str) -> Site:
        """The site in `role` (`source`, `target`) or of that name."""

    def witness(self) -> Witness:
        """The third place."""

    @property
    def transfers(self) -> Transfers:
        """What carries bytes through this process."""

    def unwanted(self) -> bool:
        """Whether nobody waits for this attempt any more: its run was cancelled or turned back, or its driver stops or
        was superseded. What runs for long asks every second or so, and leaves its outcome unknown.
        """

    def sub(self, name: str) -> str:
        """A token for one of several calls of this attempt, pure in token and name."""

    def tags(self, **extra: str) -> dict[str, str]:
        """The tags each created resource carries in its create call; keywords add `drpilot:NAME`."""

    def point(self, point_id: str) -> RecoveryPoint:
        """A recovery point of the group as the journal knows it now."""

    def points(self) -> tuple[RecoveryPoint, ...]:
        """All recovery points of the group that are not deleted."""

    def standby(self, tier: str, site: str) -> StandbyView:
        """The standby of `tier` on `site`; state `absent` where there is none."""

    def fenced(self, site: str) -> str:
        """The state word of the fence of `site`."""

    def checkpoint(self, state: Json) -> None:
        """Store progress on the attempt; the next attempt gets it as `resume`."""


class Model(BaseModel):
    """Base of action inputs and outputs: strict about unknown keys, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Action(ABC, Generic[I, O]):
    """What a runbook step can do: start, observe, undo.

    `start` issues the calls (with the token or the tags of `ctx`) and answers what it then sees. `observe` is the
    only eye: it verifies a success, settles the unknown and finds before a repeat. `undo` is pure data.

    `at` says which sites it calls, so that they are not called by too many at once: the roles `source` and `target`,
    or the name of an input that holds a role or a site's name. `slot` is the kind of long work it starts on the first
    of them, of which a cloud does so much at a time; a step holds its slot until the work is seen to have ended.
    """

    name: str
    summary: str
    idempotency: Idempotency
    effect: Effect
    permissions: tuple[str, ...] = ()
    protects: bool = False  # fence, promotion and epoch steps are never skipped
    at: tuple[str, ...] = ("target",)
    slot: Slot | None = None
    Input: type[I]
    Output: type[O]

    @abstractmethod
    def start(self, ctx: Context, given: I) -> Answer[O]:
        """Do it. A returned Done is verified by `observe` before it counts."""

    @abstractmethod
    def observe(self, ctx: Context, given: I) -> Answer[O]:
        """Look, never touch."""

    def undo(self, given: I, output: O | None) -> Call | None:
        """The call that reverses it; None where there is no way back or nothing to reverse. Pure.

        `output` is None for a step that failed or never answered: it may have done all, some or nothing of its work.
        """
        return None
