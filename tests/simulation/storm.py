"""The weather of a seed: which faults meet which calls and which writes of the journal. Kinds are rows of a table.

Each opportunity (a call is about to go out, was answered, a transaction begins, is durable) draws from the seed's
chance. Faults of a cloud are the lab's own, set for the one call; deaths are an exception that nothing in drpilot
catches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from drpilot.base.clock import Chance
from drpilot.base.errors import DrpilotError
from drpilot.base.ids import digest
from drpilot.clouds.dialects import DIALECTS
from drpilot.domain.run import Change, Intent, Outcome
from tests.simulation.clock import VirtualClock
from tests.simulation.ground import Ground, Watch

__all__ = ["KINDS", "Killed", "Kind", "Log", "Storm"]

CHANGES = DIALECTS["aws"].changes


class Killed(BaseException):
    """The process is gone between two instructions."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault: where it strikes, how often a seed has it, and how often per opportunity it then strikes.

    `rule` is the lab's fault; `lasts_s` the virtual seconds after which it is over by itself, at most; `spans` how many
    matching calls in a row it may hit (0: all of them).
    """

    name: str
    at: str
    share: float
    rate: float
    rule: str = ""
    lasts_s: float = 0.0
    spans: tuple[int, ...] = (1,)
    changing: bool | None = None


KINDS: tuple[Kind, ...] = (
    Kind("killed before a call", "before", 0.5, 0.01),
    Kind("killed after a call", "after", 0.6, 0.03, changing=True),
    Kind("killed before a write", "writing", 0.5, 0.01),
    Kind("killed after a write", "written", 0.6, 0.02),
    Kind("reply lost", "before", 0.6, 0.08, "lost-reply", 60, changing=True),
    Kind("connection reset", "before", 0.3, 0.03, "reset", 60, (1, 2, 5)),
    Kind("throttled", "before", 0.3, 0.03, "throttle", 60, (1, 3, 8)),
    Kind("error 5xx", "before", 0.3, 0.03, "error-5xx", 60, (1, 3, 8)),
    Kind("hang", "before", 0.25, 0.01, "hang", 60, (1, 2)),
    Kind("no capacity", "before", 0.2, 0.2, "capacity", 120, (0,), changing=True),
    Kind("seen late", "before", 0.3, 0.05, "not-found-yet=19", 90, (0,)),
    Kind("stale reads", "before", 0.3, 0.03, "stale-read=19", 60, (0,)),
    Kind("slow copy", "before", 0.2, 0.1, "slow-copy=30", 600, (0,)),
    Kind("partition", "before", 0.2, 0.01, "partition", 300, (0,)),
    Kind("site down", "before", 0.15, 0.004, "refuse", 200, (0,)),
    Kind("disk full", "writing", 0.25, 0.01, lasts_s=40),
    Kind("stalled past its lease", "before", 0.3, 0.01),
    Kind("another operator", "before", 0.4, 0.02),
)
"""Every fault that may strike. Clock skew, a dead primary and its return belong to the stories."""

_EVERYWHERE = frozenset(
    {"partition", "capacity", "not-found-yet=19", "stale-read=19", "slow-copy=30", "refuse"}
)


@dataclass
class Log:
    """What happened, in order, each line with the virtual second."""

    time: VirtualClock
    lines: list[str] = field(default_factory=list)
    echo: Callable[[str], None] | None = None

    def add(self, text: str) -> None:
        """One more thing happened."""
        line = f"{self.time.elapsed_s:10.2f} {text}"
        self.lines.append(line)
        if self.echo is not None:
            self.echo(line)

    @property
    def digest(self) -> str:
        return digest(self.lines)


@dataclass(slots=True)
class Work:
    """What a driver's hands carry out now."""

    run: str
    mode: str
    path: str
    number: int
    action: str
    phase: str
    kind: str
    token: str


class Storm(Watch):
    """Watches a life, and strikes. One storm serves all lives of a seed, one after the other or within each other."""

    def __init__(self, ground: Ground, chance: Chance, log: Log, only: Sequence[str] | None = None) -> None:
        self.ground, self.chance, self.log = ground, chance, log
        self.alive = True
        self.calm = False
        self.inside = 0  # how deep another operator acts within a call of the first
        self.works: list[Work] = []
        self.met: Counter[tuple[str, str]] = Counter()
        self.intents: dict[tuple[str, str, int], str] = {}
        self.calls: list[tuple[Work | None, str, str, str]] = []
        self.strayed: list[str] = []
        self.claims: list[dict[str, Any]] = []  # what the witness has said, each change once
        self.meddle: Callable[[bool], None] = lambda stalled: None
        self.full_until_s = -1.0
        chosen = [kind for kind in KINDS if chance.uniform(0, 1) < kind.share]
        self.kinds = chosen if only is None else [kind for kind in KINDS if kind.name in only]
        self._temper = chance.uniform(0.3, 1.6) if only is None else 3.0

    # -- what is told -------------------------------------------------------------------------------------

    @property
    def work(self) -> Work | None:
        return self.works[-1] if self.works else None

    def called(self, site: str, service: str, operation: str, phase: str) -> None:
        changing = CHANGES(service, operation)
        if phase == "before" and changing:
            self._intended(site, service, operation)
        if phase == "after" and changing:
            self.calls.append((self.work, site, service, operation))
        if service == "s3" and operation == "PutObject":
            self.look_at_witness()
        self.log.add(f"{phase:6} {site} {service}.{operation}")
        for kind in self._striking(phase, changing):
            self._strike(kind, site, service, operation)

    def look_at_witness(self) -> None:
        """Note what stands in the witness, by the lab's own rows."""
        found = self.ground.witness()
        if found is not None and (not self.claims or self.claims[-1] != found):
            self.claims.append(found)

    def writing(self) -> None:
        if self.ground.time.elapsed_s < self.full_until_s:
            raise self._full()
        for kind in self._striking("writing", False):
            self._note(kind)
            if kind.name == "disk full":
                self.full_until_s = self.ground.time.elapsed_s + self.chance.uniform(1, kind.lasts_s)
                raise self._full()
            self.die()

    def written(self) -> None:
        for kind in self._striking("written", False):
            self._note(kind)
            self.die()

    def changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if isinstance(change, Intent):
                self.intents[change.token, change.path, change.number] = change.action
        self.log.add("commit " + " ".join(_words(change) for change in changes))

    @contextmanager
    def working(self, work: Callable[[], Any]) -> Iterator[None]:
        given = getattr(work, "args", ())
        if len(given) != 3:
            yield  # a look at a site, not an attempt
            return
        view, path, phase = given
        attempt = view.steps[path].attempt
        self.works.append(
            Work(view.id, view.mode, path, attempt.number, attempt.action, phase, attempt.kind, attempt.token)
        )
        self.log.add(f"{phase:6} {view.name} {path} {attempt.action} {attempt.number} {attempt.kind}")
        try:
            yield
        finally:
            self.works.pop()

    # -- what strikes -------------------------------------------------------------------------------------

    def die(self) -> None:
        """This process is gone."""
        self.alive = False
        raise Killed

    def heal(self) -> None:
        """Everything is well from now on."""
        self.calm = True
        self.full_until_s = -1.0
        for name, cloud in self.ground.clouds.items():
            self.ground.clocks[name].skew_s = 0.0
            with cloud.transaction():
                cloud.faults.heal()
        self.log.add("healed")

    def _striking(self, at: str, changing: bool) -> Iterator[Kind]:
        if self.calm:
            return
        for kind in self.kinds:
            fits = kind.at == at and kind.changing in (None, changing)
            if fits and self.chance.uniform(0, 1) < kind.rate * self._temper:
                yield kind

    def _note(self, kind: Kind) -> None:
        action = self.work.action if self.work is not None else "-"
        self.met[kind.name, action] += 1
        self.log.add(f"** {kind.name} in {action}")

    def _strike(self, kind: Kind, site: str, service: str, operation: str) -> None:
        if kind.name in ("stalled past its lease", "another operator"):
            if self.inside or self.work is None:
                return
            self._note(kind)
            self._meddle(stalled=kind.name == "stalled past its lease")
            return
        self._note(kind)
        if not kind.rule:
            self.die()
        self._set(kind, site, service, operation)

    def _set(self, kind: Kind, site: str, service: str, operation: str) -> None:
        """Put the lab's own fault in the way of this call."""
        span = kind.spans[self.chance.bits(8) % len(kind.spans)]
        rule = kind.rule if kind.rule in _EVERYWHERE else f"{kind.rule}:{service}.{operation}@1-{span}"
        cloud = self.ground.clouds[site]
        with cloud.transaction():
            number = cloud.faults.set(rule)

        def over() -> None:
            with cloud.transaction():
                cloud.faults.heal(number)

        self.ground.time.after(self.chance.uniform(0, kind.lasts_s), over)

    def _meddle(self, *, stalled: bool) -> None:
        """Somebody else acts while a call of ours is on its way."""
        works, self.works, alive = self.works, [], self.alive
        self.inside += 1
        try:
            self.meddle(stalled)
        except Killed:
            self.log.add("the other operator's process is gone")
        finally:
            self.inside -= 1
            self.works, self.alive = works, alive

    def _full(self) -> DrpilotError:
        return DrpilotError("journal-unwritable", path="journal.db", what="database or disk is full")

    def _intended(self, site: str, service: str, operation: str) -> None:
        """Invariant: a call that may change something belongs to an attempt whose intent is durable."""
        work = self.work
        if work is None or (work.token, work.path, work.number) not in self.intents:
            self.strayed.append(f"{site} {service}.{operation} without an intent ({work})")


def _words(change: Change) -> str:
    if isinstance(change, Intent):
        return f"intent({change.path} {change.number} {change.kind})"
    if isinstance(change, Outcome):
        return f"outcome({change.path} {change.number} {change.event})"
    text = getattr(change, "event", getattr(change, "request", ""))
    return f"{type(change).__name__.lower()}({getattr(change, 'path', '')} {text})"
