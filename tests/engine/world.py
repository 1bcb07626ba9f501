"""A tiny but real world for engine tests: a shelf of things with tags, and actions that put things on it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from drpilot.base.clock import Chance, Clock, ManualClock
from drpilot.domain.group import Group, Objectives, Tier
from drpilot.domain.plan import Call, Plan, PlannedStep, Proposal
from drpilot.domain.ports import (
    Action,
    Answer,
    CloudError,
    Context,
    Done,
    Effect,
    FailureClass,
    Idempotency,
    Model,
    Move,
    StepFailed,
    Unseen,
    Waiting,
)
from drpilot.engine.context import World
from drpilot.engine.drive import Driver
from drpilot.journal.database import Database
from drpilot.journal.journal import Journal
from tests.postgres import TimePasses


@dataclass
class Shelf:
    """The outside: things by id, with the token they were made with; outlives every driver."""

    things: dict[str, dict[str, str]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    lose_reply_of: set[int] = field(default_factory=set)
    fail_call: dict[int, FailureClass] = field(default_factory=dict)
    blind: bool = False
    needs_looks: int = 0
    stuck_undo: bool = False
    dark: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, name: str, token: str) -> None:
        with self.lock:
            self.calls.append(f"put {name}")
            number = len(self.calls)
            kind = self.fail_call.get(number)
            if kind is not None:
                raise CloudError(kind, "Refused", "no", happened="no", site="shelf", operation="Put")
            self.things[f"thing-{len(self.things) + 1}"] = {"name": name, "token": token}
            if number in self.lose_reply_of:
                raise CloudError(
                    FailureClass.UNKNOWN, "ConnectionClosed", "cut off", happened="unknown", operation="Put"
                )

    def take(self, token: str) -> None:
        with self.lock:
            self.calls.append("take")
            if self.stuck_undo:
                return
            for key in [key for key, thing in self.things.items() if thing["token"] == token]:
                del self.things[key]

    def find(self, token: str) -> list[str]:
        with self.lock:
            if self.dark:
                raise CloudError(
                    FailureClass.TIMEOUT, "Timeout", "dark", happened="no", operation="ec2:DescribeThings"
                )
            return (
                [] if self.blind else [key for key, thing in self.things.items() if thing["token"] == token]
            )


class PutInput(Model):
    """What to put."""

    name: str
    after: Any = None


class PutOutput(Model):
    """What was put."""

    id: str
    token: str


class Put(Action[PutInput, PutOutput]):
    """Puts a thing on the shelf; found again by its token."""

    name = "thing.put"
    summary = "put a thing"
    idempotency = Idempotency.OBSERVE
    effect = Effect.CREATE
    Input, Output = PutInput, PutOutput

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    def start(self, ctx: Context, given: PutInput) -> Answer[PutOutput]:
        if not self.shelf.find(ctx.token):
            self.shelf.put(given.name, ctx.token)
        return self.observe(ctx, given) if self.shelf.find(ctx.token) else Waiting({})

    def observe(self, ctx: Context, given: PutInput) -> Answer[PutOutput]:
        found = self.shelf.find(ctx.token)
        if not found:
            return Unseen(certain=False, why="no such thing")
        if self.shelf.needs_looks > 0:
            self.shelf.needs_looks -= 1
            return Waiting({"id": found[0]}, after_s=1.0, progress=0.5)
        return Done(PutOutput(id=found[0], token=ctx.token))

    def undo(self, given: PutInput, output: PutOutput | None) -> Call | None:
        return Call("thing.take", {"token": output.token}) if output is not None else None


class TakeInput(Model):
    """Which thing to take away."""

    token: str


class Nothing(Model):
    """No output."""


class Take(Action[TakeInput, Nothing]):
    """Takes a thing away."""

    name = "thing.take"
    summary = "take a thing away"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    Input, Output = TakeInput, Nothing

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    def start(self, ctx: Context, given: TakeInput) -> Answer[Nothing]:
        self.shelf.take(given.token)
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: TakeInput) -> Answer[Nothing]:
        return Waiting({}, note="still there") if self.shelf.find(given.token) else Done(Nothing())


class LookInput(Model):
    """How many things there should be."""

    at_least: int = 0
    fails: bool = False


class LookOutput(Model):
    """How many there are."""

    count: int
    alive: bool = True


class LookAt(Action[LookInput, LookOutput]):
    """Counts the things; pure."""

    name = "check.source"
    summary = "count"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    Input, Output = LookInput, LookOutput

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    def start(self, ctx: Context, given: LookInput) -> Answer[LookOutput]:
        if given.fails:
            raise StepFailed(FailureClass.PRECONDITION, "it was told to fail")
        return Done(LookOutput(count=len(self.shelf.things)))

    observe = start


class FenceInput(Model):
    """Which verdict to hand back."""

    verdict: str = "fenced"


class FenceOutput(Model):
    """The verdict."""

    verdict: str


class Fence(Action[FenceInput, FenceOutput]):
    """Answers a verdict and records the fence."""

    name = "fence.apply"
    summary = "fence"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    protects = True
    Input, Output = FenceInput, FenceOutput

    def start(self, ctx: Context, given: FenceInput) -> Answer[FenceOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: FenceInput) -> Answer[FenceOutput]:
        event = {"fenced": "verified", "partial": "partly", "unverified": "unseen"}[given.verdict]
        facts = {"write_blocked_observed": given.verdict == "fenced"}
        moves = (
            Move("fence", ctx.source, "request"),
            Move("fence", ctx.source, "apply"),
            Move("fence", ctx.source, event, facts, {"verdict": given.verdict}),
        )
        return Done(FenceOutput(verdict=given.verdict), moves=moves)


class Once(Action[PutInput, PutOutput]):
    """Can't be told whether it happened."""

    name = "thing.once"
    summary = "put once"
    idempotency = Idempotency.ONCE
    effect = Effect.CREATE
    Input, Output = PutInput, PutOutput

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    def start(self, ctx: Context, given: PutInput) -> Answer[PutOutput]:
        self.shelf.put(given.name, ctx.token)
        return Done(PutOutput(id="-", token=ctx.token))

    def observe(self, ctx: Context, given: PutInput) -> Answer[PutOutput]:
        return Unseen(certain=False, why="nobody can tell")


class Slow(Action[PutInput, PutOutput]):
    """Puts a thing in three parts, each remembered; the reply of each but the last is lost."""

    name = "thing.slow"
    summary = "put in parts"
    idempotency = Idempotency.RERUN
    effect = Effect.CREATE
    Input, Output = PutInput, PutOutput

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    def start(self, ctx: Context, given: PutInput) -> Answer[PutOutput]:
        part = int((ctx.resume or {}).get("parts", 0)) + 1
        ctx.checkpoint({"parts": part})
        self.shelf.put(f"{given.name}{part}", ctx.token)
        if part < 3:
            raise CloudError(FailureClass.UNKNOWN, "Cut", "cut off", happened="unknown", operation="Put")
        return Waiting({}, after_s=0.0)

    def observe(self, ctx: Context, given: PutInput) -> Answer[PutOutput]:
        parts = int((ctx.resume or {}).get("parts", 0))
        return (
            Done(PutOutput(id=str(parts), token=ctx.token)) if parts == 3 else Unseen(True, "not all parts")
        )


class Wait(Action[LookInput, LookOutput]):
    """Looks and is never satisfied."""

    name = "thing.wait"
    summary = "wait"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    Input, Output = LookInput, LookOutput

    def start(self, ctx: Context, given: LookInput) -> Answer[LookOutput]:
        return Waiting({}, note="not green")

    observe = start


class Overreach(Action[LookInput, LookOutput]):
    """Hands back a lifecycle fact that the tables refuse."""

    name = "thing.overreach"
    summary = "overreach"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    Input, Output = LookInput, LookOutput

    def start(self, ctx: Context, given: LookInput) -> Answer[LookOutput]:
        return Done(LookOutput(count=0), moves=(Move("group", "shop", "commit"),))

    observe = start


class Raise(Action[LookInput, LookOutput]):
    """Has a bug."""

    name = "thing.raise"
    summary = "raise"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    Input, Output = LookInput, LookOutput

    def start(self, ctx: Context, given: LookInput) -> Answer[LookOutput]:
        raise RuntimeError("a bug")

    observe = start


def catalogue(shelf: Shelf) -> dict[str, Action[Any, Any]]:
    """The actions of the tiny world."""
    actions: list[Action[Any, Any]] = [
        Put(shelf),
        Take(shelf),
        LookAt(shelf),
        Fence(),
        Once(shelf),
        Slow(shelf),
        Raise(),
        Overreach(),
        Wait(),
    ]
    return {action.name: action for action in actions}


GROUP = Group("shop", "home", "away", Objectives(900, 1800), (Tier("db"),), cooldown_s=0)


def step(
    path: str, action: str | None = "thing.put", needs: tuple[str, ...] = (), **more: Any
) -> PlannedStep:
    """A planned step with the facts of its action copied, as the compiler does."""
    facts: Mapping[str, tuple[str, str, bool]] = {
        "thing.put": ("observe", "create", False),
        "thing.take": ("rerun", "destroy", False),
        "check.source": ("pure", "none", False),
        "fence.apply": ("rerun", "change", True),
        "thing.once": ("once", "create", False),
        "thing.slow": ("rerun", "create", False),
        "thing.raise": ("pure", "none", False),
        "thing.wait": ("pure", "none", False),
        "thing.overreach": ("rerun", "change", False),
    }
    idempotency, effect, protects = facts.get(action or "", ("pure", "none", False))
    more.setdefault("scope", {"steps": {need: need for need in needs}})
    given = more.pop("given", {"name": path} if action in ("thing.put", "thing.once", "thing.slow") else {})
    return PlannedStep(
        path,
        action,
        more.pop("gate", None),
        given,
        needs,
        f"test.yaml:{len(path)}:1",
        idempotency=idempotency,
        effect=effect,
        protects=protects,
        **more,
    )


def plan(*steps: PlannedStep, mode: str = "replicate", lane: str = "copy", parallel: int = 16) -> Plan:
    """A plan for the tiny world; each step follows the one above unless it has needs of its own."""
    return Plan(
        "test", "0", mode, "shop", mode, lane, "home", "away", "", steps, {"run": {"drill": False}}, parallel
    )


class Bench:
    """A journal, a shelf and drivers over them. `where` is a folder for a file, or a database's URL."""

    def __init__(self, where: Any, clock: Clock | None = None) -> None:
        self.url = str(where) if "://" in str(where) else f"sqlite:///{where}/journal.db"
        self.clock: Any = clock or (ManualClock() if self.url.startswith("sqlite") else TimePasses(self.url))
        self.shelf = Shelf()
        self.journal = Journal(Database(self.url), self.clock, Chance(1))
        self.journal.protect(GROUP, "", "tester")

    def driver(self) -> Driver:
        """A fresh driver, as a new process would have."""

        def nowhere(name: str = "") -> Any:
            raise AssertionError(f"the tiny world has no site {name}")

        return Driver(self.journal, catalogue(self.shelf), World(nowhere, nowhere), self.clock)

    def proposal(self, plan: Plan, **more: Any) -> Proposal:
        """A proposal over a plan."""
        now = self.clock.now()
        facts = {"group": "shop", "mode": plan.mode, "source": "home", "target": "away", "runbook": "test"}
        rest = {"plan": plan.digest, "steps": len(plan.steps), "lane": plan.lane, "reason": "a test"}
        return Proposal(**{**facts, **rest, "created_at": now, "expires_at": now, "approvers": 1, **more})
