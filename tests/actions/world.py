"""Two clouds and the edge of the lab in this process, the sample shop on one of them, and a driver that carries a
compiled runbook out step by step: the engine's protocol without its journal. Moves go through the real lifecycle
tables, into dicts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from drpilot.actions.catalogue import CATALOGUE
from drpilot.base.clock import Chance, Clock, RealClock
from drpilot.base.ids import digest, token
from drpilot.clouds.blocks import SdkBlocks
from drpilot.clouds.objects import SdkObjects
from drpilot.clouds.site import BotoSite
from drpilot.clouds.witness import S3Witness
from drpilot.domain.group import Group
from drpilot.domain.path import path_between
from drpilot.domain.plan import Call, Plan, PlannedStep, Proposal
from drpilot.domain.point import RecoveryPoint
from drpilot.domain.ports import (
    Action,
    CloudError,
    Done,
    Idempotency,
    Site,
    StandbyView,
    StepFailed,
    Transfers,
    Waiting,
)
from drpilot.inventory.discover import members
from drpilot.inventory.groupfile import require_group
from drpilot.lab import shop
from drpilot.lab.cloud import Cloud
from drpilot.lab.process import start_in_process
from drpilot.runbook.compile import ActionFacts, CompileFacts, compile, shipped
from drpilot.runbook.expression import condition, resolve, scope_of
from tests.actions.doors import Door, door_to
from tests.actions.facts import Facts
from tests.networks import reserved

CLOCK = RealClock()
LANES = {
    "failover": "move",
    "switchover": "move",
    "migrate": "move",
    "reprotect": "move",
    "replicate": "copy",
}
BUCKET = "witness"


class Watched:
    """A site that tells of each call."""

    def __init__(self, site: BotoSite, told: Callable[[], None]) -> None:
        self._site, self._told = site, told

    def __getattr__(self, name: str) -> Any:
        return getattr(self._site, name)

    def call(self, *given: Any, **more: Any) -> Any:
        """One call, told of."""
        self._told()
        return self._site.call(*given, **more)

    def pages(self, *given: Any, **more: Any) -> Any:
        """A listing, told of."""
        self._told()
        return self._site.pages(*given, **more)


@dataclass
class StepContext:
    """The Context of one attempt."""

    world: World
    run: str
    path: str
    mode: str
    token: str
    group: Group
    source: str
    target: str
    point_id: str
    intended_at: datetime
    clock: Clock = CLOCK
    resume: dict[str, Any] | None = None
    proposal: Proposal | None = None
    action: str = ""
    settle_s: float = 0.0  # the lab lists at once
    sites: tuple[str, ...] | None = None  # those the plan says that the action calls; None: not known

    @property
    def name(self) -> str:
        return f"shop/{self.run}"

    @property
    def epoch(self) -> int:
        return self.world.facts.epoch

    def site(self, role: str) -> Site:
        name = {"source": self.source, "target": self.target}.get(role, role)
        found = self.world.sites[name]
        if self.sites is None or name in self.sites or name not in (self.source, self.target):
            return found
        return cast("Site", Watched(found, lambda: self.world.strayed.add((self.action, name))))

    def witness(self) -> S3Witness:
        return S3Witness(self.world.sites["edge"], BUCKET)

    @property
    def transfers(self) -> Transfers:
        return self.world.transfers

    def unwanted(self) -> bool:
        return False

    def sub(self, name: str) -> str:
        return digest([self.token, name])[:32]

    def tags(self, **extra: str) -> dict[str, str]:
        own = {"group": "shop", "run": self.run, "step": self.path, "attempt": self.token, **extra}
        return {f"drpilot:{key}": value for key, value in own.items()}

    def point(self, point_id: str) -> RecoveryPoint:
        return self.world.facts.recovery_point(point_id)

    def points(self) -> tuple[RecoveryPoint, ...]:
        known = self.world.facts.points
        return tuple(self.point(key) for key, row in known.items() if row["state"] != "deleted")

    def standby(self, tier: str, site: str) -> StandbyView:
        row = self.world.facts.standbys.get(f"{tier}@{site}", {"state": "absent", "facts": {}})
        return StandbyView(tier, site, row["state"], row["facts"])

    def fenced(self, site: str) -> str:
        return self.world.facts.fences.get(site, "none")

    def checkpoint(self, state: dict[str, Any]) -> None:
        self.resume = state


@dataclass
class Failed(Exception):
    """A step failed for certain."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


Hook = Callable[[PlannedStep, StepContext], None]


@dataclass
class Run:
    """A runbook being carried out."""

    world: World
    plan: Plan
    number: str
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)
    undo: list[tuple[str, Call]] = field(default_factory=list)
    timeout_s: float = 60.0

    def context(self, path: str, given: Mapping[str, Any], round_: int = 0, kind: str = "do") -> StepContext:
        """The context of an attempt; the same attempt gets the same token."""
        plan = self.plan
        return StepContext(
            world=self.world,
            run=self.number,
            path=path,
            mode=plan.mode,
            token=token(self.number, path, round_, kind, given),
            group=self.world.group(plan.source),
            source=plan.source,
            target=plan.target,
            point_id=plan.point,
            intended_at=CLOCK.now(),
        )

    def given(self, step: PlannedStep) -> dict[str, Any]:
        """A step's input with everything filled in."""
        return dict(resolve(dict(step.given), scope_of(self.plan, step, self.results)))

    def all(self, until: str | None = None, before: Hook | None = None) -> Run:
        """Carry out every step, to `until` if given; a failure still runs the steps that are `always`."""
        failed: Failed | None = None
        for step in self.plan.steps:
            if step.path in self.results or step.when == "false" or step.action is None:
                continue
            if failed is not None and not step.always:
                continue
            if step.when is not None and not condition(step.when, scope_of(self.plan, step, self.results)):
                continue
            try:
                self.step(step, before)
            except Failed as error:
                if step.on_failure != "continue":
                    failed = failed or error
            if step.path == until:
                break
        if failed is not None:
            raise failed
        return self

    def step(self, step: PlannedStep, before: Hook | None = None) -> Any:
        """One step to its end."""
        given = self.given(step)
        ctx = self.context(step.path, given)
        ctx.action, ctx.sites = str(step.action), step.sites
        if before is not None:
            before(step, ctx)
        try:
            done = self.attempt(str(step.action), given, ctx)
        except Failed:
            self.remember(step, given, None)  # it may have done all, some or nothing of its work
            raise
        self.results[step.path] = {"output": done.output.model_dump(mode="json"), "state": "succeeded"}
        if done.warning:
            self.warnings[step.path] = done.warning
        self.remember(step, given, done.output)
        return done.output

    def remember(self, step: PlannedStep, given: Mapping[str, Any], output: Any) -> None:
        """Note what takes a step back, if the runbook lets it be taken back."""
        action = CATALOGUE[str(step.action)]
        undo = action.undo(action.Input.model_validate(dict(given)), output) if step.undoes else None
        if undo is not None:
            self.undo.append((step.path, undo))

    def back(self) -> None:
        """Undo everything in the reverse order."""
        for path, call in reversed(self.undo):
            ctx = self.context(path, dict(call.given), kind="undo")
            self.attempt(call.action, dict(call.given), ctx)
        self.undo.clear()

    def attempt(self, name: str, given: Mapping[str, Any], ctx: StepContext) -> Done[Any]:
        """One attempt to its end; its moves are applied."""
        done = Attempt(CATALOGUE[name], dict(given), ctx, CLOCK.monotonic() + self.timeout_s).end()
        for move in done.moves:
            self.world.facts.apply(move)
        return done


@dataclass
class Attempt:
    """Start, look, settle what is unknown, wait, try again: the protocol of engine/attempt.py, in one loop."""

    action: Action[Any, Any]
    given: dict[str, Any]
    ctx: StepContext
    end_s: float
    phase: str = "start"
    looks: int = 0
    tries: int = 0

    def end(self) -> Done[Any]:
        """The Done of the step, or Failed."""
        parsed, answer = self.action.Input.model_validate(self.given), None
        while CLOCK.monotonic() < self.end_s:
            try:
                answer = self.once(parsed)
            except StepFailed as error:
                self.again(error)
            except CloudError as error:
                self.lost(error)
            else:
                if isinstance(answer, Done):
                    return answer
                self.settle(answer)
            CLOCK.sleep(0.05)
        raise Failed(self.ctx.path, f"timed out: {answer}")

    def once(self, parsed: Any) -> Any:
        """One call of the action."""
        if self.phase != "start":
            return self.action.observe(self.ctx, parsed)
        answer = self.action.start(self.ctx, parsed)
        if isinstance(answer, Done) and self.action.idempotency is not Idempotency.PURE:
            answer = self.action.observe(self.ctx, parsed)
        self.phase = "poll"
        return answer

    def again(self, error: StepFailed) -> None:
        """A definite failure: a passing one is tried again with a new token."""
        self.tries += 1
        if error.kind.value not in ("transient", "throttled", "timeout") or self.tries > 8:
            raise Failed(self.ctx.path, error.message) from error
        fresh = token(self.ctx.token, self.ctx.path, self.tries, "do", self.given)
        self.ctx, self.phase = replace(self.ctx, token=fresh), "start"

    def lost(self, error: CloudError) -> None:
        """An error of the cloud: an unknown outcome is looked at, a definite one ends the step."""
        if error.happened == "unknown":
            self.phase, self.looks = "look", 0
        elif self.phase == "start":
            raise Failed(self.ctx.path, str(error)) from error

    def settle(self, answer: Any) -> None:
        """What an answer that is no Done means for the next turn."""
        if isinstance(answer, Waiting):
            self.phase = "poll"
        elif self.phase == "look":
            self.looks += 1
            if answer.certain or self.looks >= 3:
                self.phase = "start"


@dataclass
class World:
    """The clouds, the doors to them, and what is known."""

    clouds: dict[str, Cloud]
    sites: dict[str, BotoSite]
    text: str
    built: dict[str, Any]
    facts: Facts = field(default_factory=Facts)
    last: dict[str, Group] = field(default_factory=dict)
    runs: int = 0
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    kept: Any = None
    folder: Path = Path("/nonexistent")
    strayed: set[tuple[str, str]] = field(
        default_factory=set
    )  # actions that called a site they don't name in `at`

    @property
    def transfers(self) -> Transfers:
        """What carries bytes: botocore, since nothing listens in this process."""
        blocks, objects = (lambda name, sdk=sdk: sdk(self.sites[name]) for sdk in (SdkBlocks, SdkObjects))
        url = lambda name: self.sites[name].endpoint("s3")  # noqa: E731 - one use
        return Transfers(blocks, self.folder / "transfers", Chance(5), objects, url)

    def group(self, source: str) -> Group:
        """The group with the members last seen on `source`."""
        return self.last[source]

    def look(self, source: str) -> Group:
        """Look for the members on `source`, as `protect` and each new run do."""
        self.last[source] = members(self.sites[source], require_group(self.text, "shop.yaml", self.sites))
        return self.last[source]

    def begin(self, mode: str, source: str, target: str, point: str | None = None) -> Run:
        """A new run of the shipped runbook of a mode."""
        facts = CompileFacts(
            group=self.group(source),
            mode=mode,
            lane=LANES.get(mode, "practice"),
            source=source,
            target=target,
            point=point or f"point{self.runs + 1}",
            name=f"shop/{self.runs + 1}",
            drill=mode == "drill",
            data_path=path_between(self.sites[source].capabilities, self.sites[target].capabilities),
        )
        return self.carry(mode, facts)

    def carry(self, name: str, facts: CompileFacts) -> Run:
        """A new run of a shipped runbook."""
        self.runs += 1
        text, file = shipped(name)
        known = {name: ActionFacts.of(action) for name, action in CATALOGUE.items()}
        return Run(self, compile(text, file, facts, known), str(self.runs))

    def save(self) -> None:
        """Keep the clouds and the facts as they are now."""
        for cloud in self.clouds.values():
            cloud.save("here")
        self.kept = deepcopy((self.facts, self.last, self.runs, self.text))

    def restore(self) -> None:
        """Put back what was kept; all faults are healed."""
        for cloud in self.clouds.values():
            cloud.restore("here")
            with cloud.transaction():
                cloud.faults.heal()
        self.facts, self.last, self.runs, self.text = deepcopy(self.kept)
        self.calls.clear()

    def fault(self, site: str, *rules: str) -> None:
        """Put rules in force on a site."""
        cloud = self.clouds[site]
        with cloud.transaction():
            for rule in rules:
                cloud.faults.set(rule)

    def heal(self, site: str) -> None:
        """Lift every rule of a site."""
        with self.clouds[site].transaction():
            self.clouds[site].faults.heal()

    def hits(self, site: str) -> set[str]:
        """The operations that a rule in force on a site has hit."""
        rules = self.clouds[site].faults.rules()
        return {rule["rule"].rpartition(".")[2].partition("@")[0] for rule in rules if rule["hit"]}

    def inventory(self, site: str) -> Counter[str]:
        """How many of which kind stand on a site, by a full inventory of the cloud itself."""
        return Counter(item["kind"] for item in self.clouds[site].inventory())

    def things(self, site: str) -> set[tuple[str, str]]:
        """Kind and id of everything that stands on a site."""
        return {(item["kind"], item["id"]) for item in self.clouds[site].inventory()}

    def mutations(self, site: str) -> list[str]:
        """The changing calls that reached a site, in order."""
        return [operation for name, service, operation in self.calls if name == site]


def plan(first: int, **changes: Any) -> shop.Plan:
    """A small shop on two loopback networks, 127.FIRST and the one after it."""
    small = {"data_volumes": 2, "blocks": 4, "app_count": 1, "web_count": 1}
    return shop.Plan(
        home_network=f"127.{first}.0.0/16", away_network=f"127.{first + 1}.0.0/16", **{**small, **changes}
    )


@contextmanager
def opened(folder: Path, home: str = "aws", away: str = "aws", **changes: Any) -> Iterator[World]:
    """The clouds, of these dialects, ticking 60 times as fast, with the shop at home; closed and off at the end."""
    with reserved() as first:
        yield from _opened(folder, {"home": home, "away": away, "edge": "aws"}, first, changes)


def _opened(folder: Path, dialects: dict[str, str], first: int, changes: dict[str, Any]) -> Iterator[World]:
    home, away = dialects["home"], dialects["away"]
    clouds = start_in_process(folder / "lab", dialects, speed=60.0, background=True)
    try:
        doors = {name: Door(cloud, folder) for name, cloud in clouds.items()}
        size = plan(first, home=home, away=away, **changes)
        if home == "eucalyptus-3.4":
            size = replace(size, write=clouds["home"].store.write_volume)
            clouds["home"].tune(classic_network=size.home_network)
        built = shop.build(doors["home"], doors["edge"], size)
        prepared = shop.prepare(doors["away"], size)
        doors["edge"]("s3").create_bucket(Bucket=BUCKET)
        calls: list[tuple[str, str, str]] = []
        sites = {name: door_to(cloud, folder, calls) for name, cloud in clouds.items()}
        world = World(
            clouds, sites, shop.group_file(built, prepared, size), built, calls=calls, folder=folder
        )
        world.look("home")
        yield world
    finally:
        for cloud in clouds.values():
            cloud.close()
