"""A tiny real world for services: actions that take time on the clock and hand back lifecycle facts, driven by the
real engine over a real journal.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drpilot.base.clock import Chance, Clock, ManualClock, rfc3339
from drpilot.domain.group import DrillPolicy, Group, Objectives, Tier
from drpilot.domain.plan import Approval, Plan, PlannedStep, Proposal
from drpilot.domain.ports import (
    Action,
    Answer,
    Context,
    Done,
    Effect,
    FailureClass,
    Idempotency,
    Model,
    Move,
    StepFailed,
)
from drpilot.domain.run import Holder, RunView, Settled
from drpilot.engine.context import World
from drpilot.inventory.configuration import Configuration, SiteSettings
from drpilot.journal.database import Database
from drpilot.journal.holder import present_holder
from drpilot.journal.journal import Journal, NewRun
from drpilot.journal.postgres import PATIENCE
from drpilot.services.house import House, Look

START = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
GROUP = Group(
    "shop",
    "home",
    "away",
    Objectives(rpo_s=900, rto_s=1800),
    (Tier("db"), Tier("web")),
    replicate_every_s=600,
    drill=DrillPolicy("0 3 * * sun", "Europe/Rome", 7200),
    cooldown_s=0,
)


@dataclass
class Outside:
    """What actions meet: how long things take, what fails, which sites answer; outlives every driver."""

    takes_s: dict[str, float] = field(default_factory=dict)
    usual_s: float = 1.0
    fails: set[str] = field(default_factory=set)
    unhealthy: set[str] = field(default_factory=set)
    verdict: str = "fenced"
    silent: dict[str, str] = field(default_factory=dict)
    did: list[str] = field(default_factory=list)
    hold: threading.Event | None = None  # a step waits here, to be caught in the middle


class Input(Model):
    """What a step is given."""

    tier: str = "db"
    left: tuple[str, ...] = ()


class Output(Model):
    """What a step hands back."""

    verdict: str | None = None
    epoch: int | None = None
    alive: bool = True
    checks: tuple[dict[str, Any], ...] = ()
    removed: tuple[str, ...] = ()


class Step(Action[Input, Output]):
    """Takes its time, then is done; what else it does depends on its name."""

    summary = "one step of the tiny world"
    Input, Output = Input, Output

    def __init__(self, name: str, outside: Outside) -> None:
        self.name = name
        self.outside = outside
        self.idempotency = Idempotency.PURE if name.startswith("check.") else Idempotency.RERUN
        self.effect = Effect.NONE if name.startswith("check.") else Effect.CHANGE
        self.protects = name.startswith(("fence.", "epoch."))

    def start(self, ctx: Context, given: Input) -> Answer[Output]:
        self.outside.did.append(ctx.path)
        if self.outside.hold is not None:
            self.outside.hold.wait(30)
        ctx.clock.sleep(self.outside.takes_s.get(ctx.path, self.outside.usual_s))
        if ctx.path in self.outside.fails:
            data = {"expected": "an answer", "observed": "503", "left": list(given.left)}
            raise StepFailed(FailureClass.PRECONDITION, f"{ctx.path} was told to fail", data=data)
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: Input) -> Answer[Output]:
        make = getattr(self, "_" + self.name.replace(".", "_"), None)
        return make(ctx, given) if make is not None else Done(Output())

    def _check_source(self, ctx: Context, given: Input) -> Answer[Output]:
        why = self.outside.silent.get(ctx.source)
        look = {"name": "source", "ok": why is None, "expected": "an answer", "observed": why or "answers"}
        return Done(Output(alive=why is None, checks=(look,)))

    def _check_tier(self, ctx: Context, given: Input) -> Answer[Output]:
        well = ctx.path not in self.outside.unhealthy
        look = {"name": given.tier, "ok": well, "expected": "200", "observed": "200" if well else "503"}
        return Done(Output(checks=({**look, "at": rfc3339(ctx.clock.now())},)))

    _check_isolation = _check_tier

    def _epoch_claim(self, ctx: Context, given: Input) -> Answer[Output]:
        move = Move("group", ctx.group.name, "fail over", {"epoch_claimed": True}, unless=("failing_over",))
        return Done(Output(epoch=ctx.epoch + 1), (move,))

    def _epoch_confirm(self, ctx: Context, given: Input) -> Answer[Output]:
        facts = {"fence_accepted": True, "epoch_confirmed": True}
        data = {"active": ctx.target, "epoch": ctx.epoch + 1}
        move = Move("group", ctx.group.name, "commit", facts, data, unless=("active_unprotected",))
        return Done(Output(epoch=ctx.epoch + 1), (move,))

    def _fence_apply(self, ctx: Context, given: Input) -> Answer[Output]:
        event = {"fenced": "verified", "partial": "partly", "unverified": "unseen"}[self.outside.verdict]
        facts = {"write_blocked_observed": self.outside.verdict == "fenced"}
        moves = (
            Move("fence", ctx.source, "request"),
            Move("fence", ctx.source, "apply"),
            Move("fence", ctx.source, event, facts),
        )
        return Done(Output(verdict=self.outside.verdict), moves)

    def _point_make(self, ctx: Context, given: Input) -> Answer[Output]:
        point, now = ctx.point_id, rfc3339(ctx.clock.now())
        moves = (
            Move("point", point, "request", {}, {"source": ctx.source, "site": ctx.target}),
            Move("point", point, "capture", {"source_readable": True}),
            Move("point", point, "captured", {"within_window": True}, {"captured_at": now, "window_s": 0.5}),
            Move(
                "replica",
                f"{point}|snapshot|db/dev/sdf",
                "captured",
                {},
                {"size_gib": 8, "id": "snap-1", "site": ctx.target},
            ),
            Move("point", point, "complete", {"replicas_checked": True}),
        )
        return Done(Output(), moves)

    def _standby_make(self, ctx: Context, given: Input) -> Answer[Output]:
        ready = ("ready",)
        moves = []
        for tier in ctx.group.tiers:
            key = f"{tier.name}@{ctx.target}"
            moves.append(Move("standby", key, "build", {"mapping_complete": True}, unless=ready))
            moves.append(Move("standby", key, "built", {"observed": True}, unless=ready))
        facts = {"point_complete": True, "standby_ready": True}
        moves.append(
            Move("group", ctx.group.name, "point available", facts, unless=("protected", "degraded"))
        )
        return Done(Output(), tuple(moves))

    def _point_prove(self, ctx: Context, given: Input) -> Answer[Output]:
        return Done(
            Output(), (Move("point", ctx.point_id, "prove", {"drill_passed": True}, unless=("proven",)),)
        )


ACTIONS = (
    "check.source",
    "check.tier",
    "check.isolation",
    "epoch.claim",
    "epoch.confirm",
    "fence.apply",
    "point.make",
    "point.prove",
    "standby.make",
    "tier.launch",
    "traffic.switch",
    "cleanup.verify",
)


def step(path: str, action: str = "", needs: tuple[str, ...] = (), **more: Any) -> PlannedStep:
    """A planned step; gates are written `gate="go"`."""
    pure = not action or action.startswith("check.")
    return PlannedStep(
        path,
        action or None,
        more.pop("gate", None),
        more.pop("given", {}),
        needs,
        f"tiny.yaml:{len(path)}:1",
        idempotency="pure" if pure else "rerun",
        effect="none" if pure else "change",
        protects=action.startswith(("fence.", "epoch.")),
        **more,
    )


def chained(*steps: PlannedStep) -> tuple[PlannedStep, ...]:
    """Each step needs the one above it."""
    return tuple(
        replace(one, needs=(steps[index - 1].path,) if index else ()) for index, one in enumerate(steps)
    )


def replicate_plan(point: str, group: str = "shop") -> Plan:
    """Make a point and the standbys."""
    steps = chained(step("capture", "point.make"), step("standby", "standby.make"))
    return Plan("tiny-replicate", "r1", "replicate", group, "replicate", "copy", "home", "away", point, steps)


def drill_plan(point: str) -> Plan:
    """Boot in isolation, check, prove, clean up."""
    steps = chained(
        step("isolated", "check.isolation", on_failure="abort"),
        step("tiers/db/launch", "tier.launch", on_failure="abort"),
        step("tiers/db/healthy", "check.tier", on_failure="abort"),
        step("tiers/web/launch", "tier.launch", on_failure="abort"),
        step("tiers/web/healthy", "check.tier", on_failure="abort", given={"tier": "web"}),
        step("prove", "point.prove", on_failure="abort"),
        step("clean/nothing_left", "cleanup.verify", always=True, given={"left": ["i-1", "vol-2"]}),
    )
    return Plan("tiny-drill", "d1", "drill", "shop", "drill", "practice", "home", "away", point, steps)


def failover_plan(point: str) -> Plan:
    """Look, ask, claim, fence, restore, check, switch, commit."""
    steps = chained(
        step("source_seen", "check.source"),
        step("go", gate="go"),
        step("claim", "epoch.claim"),
        step("fence", "fence.apply"),
        step("fence_ok", gate="fence"),
        step("tiers/db/launch", "tier.launch"),
        step("tiers/db/healthy", "check.tier"),
        step("tiers/web/launch", "tier.launch"),
        step("tiers/web/healthy", "check.tier", given={"tier": "web"}),
        step("traffic", "traffic.switch", no_way_back=True),
        step("commit", gate="commit"),
        step("confirm", "epoch.confirm"),
    )
    return Plan("tiny-failover", "f1", "failover", "shop", "failover", "move", "home", "away", point, steps)


class Tiny:
    """A house over the tiny world; `fresh()` gives another process's view of the same journal.

    The journal is a file in `folder`, or what `url` names.
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock | None = None,
        group: Group = GROUP,
        seed: int | None = 1,
        url: str = "",
    ) -> None:
        self.folder = folder
        self.url = url or f"sqlite:///{folder}/journal.db"
        self.patience = PATIENCE
        self.clock: Any = clock or ManualClock(START)
        self.outside = Outside()
        self.group = group
        self.house = self.fresh(seed)
        self.journal = self.house.journal
        if group.name not in {view.name for view in self.journal.groups()}:
            self.journal.protect(group, "", "tester")

    def fresh(self, seed: int | None = 2, holder: Holder | None = None) -> House:
        """Another house on the same journal."""
        url = self.url
        journal = Journal(Database(url, self.patience), self.clock, Chance(seed))

        def nowhere(name: str = "") -> Any:
            raise AssertionError(f"the tiny world has no site {name}")

        def probe(site: str, *, timeout_s: float) -> Look:
            why = self.outside.silent.get(site)
            return Look(site, why is None, why or "answers", account="111111111111", skew_s=0.1)

        sites = {name: SiteSettings(name, "aws", "eu-test-1", "111111111111") for name in ("home", "away")}
        return House(
            journal=journal,
            configuration=Configuration(self.folder, url, None, sites, {}),
            world=World(nowhere, nowhere),
            probe=probe,
            catalogue={name: Step(name, self.outside) for name in ACTIONS},
            clock=self.clock,
            chance=Chance(seed),
            holder=holder or present_holder("tester"),
            person="tester",
            account="tester",
        )

    def begin(self, plan: Plan, proposal: Proposal | None = None, **more: Any) -> RunView:
        """Write a run."""
        run = self.journal.new_id()
        approval = more.pop("approval", None)
        return self.journal.create(
            NewRun(run, plan, "oncall", more.pop("reason", "a test"), proposal, approval, **more)
        )

    def approve(self, run: RunView, approval: Approval) -> None:
        """One more consent on a run, as the driver would write it."""
        request = self.journal.post(run.id, "approve", approval.person)
        lease = self.journal.acquire(run.id, self.house.holder)
        assert lease is not None
        self.journal.commit(lease, [Settled(request, approval=approval)])
        self.journal.release(lease)

    def drive(self, run: RunView) -> RunView:
        """Drive a run until it rests."""
        return self.house.driver().drive(run.id, self.house.holder).view

    def replicate(self) -> RunView:
        """Make a point and standbys."""
        return self.drive(self.begin(replicate_plan(self.journal.new_id())))

    def newest(self) -> str:
        """The newest point's id."""
        return self.journal.points("shop")[0].id

    def drill(self) -> RunView:
        """Drill the newest point."""
        return self.drive(self.begin(drill_plan(self.newest())))

    def proposal(self, plan: Plan, **more: Any) -> Proposal:
        """What is shown before a failover."""
        now = self.clock.now()
        point = self.journal.point("shop", plan.point)
        facts: dict[str, Any] = {
            "group": "shop",
            "mode": plan.mode,
            "source": "home",
            "target": "away",
            "runbook": plan.runbook,
            "plan": plan.digest,
            "steps": len(plan.steps),
            "lane": plan.lane,
            "reason": "home lost power",
            "created_at": now,
            "expires_at": now,
            "approvers": 1,
            "point": point.id,
            "point_at": point.captured_at,
            "rto_objective_s": 1800.0,
            "rpo_objective_s": 900.0,
        }
        return Proposal(**{**facts, **more})

    def failover(self, **more: Any) -> RunView:
        """Fail over to the newest point; rests at its commit."""
        plan = failover_plan(self.newest())
        proposal = self.proposal(plan, **more)
        approval = Approval(
            "oncall", "go", self.clock.now(), proposal.digest, accepted_loss_s=proposal.loss_s
        )
        return self.drive(self.begin(plan, proposal, approval=approval, reason="home lost power"))
