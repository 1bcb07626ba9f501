"""One seed: a story, the weather it meets, and what must hold whatever happened."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from drpilot.base.clock import Chance
from drpilot.base.errors import DrpilotError
from drpilot.domain.run import RunView
from drpilot.journal.journal import Superseded
from drpilot.services.steer import Order, order
from tests.simulation import invariants
from tests.simulation.ground import GROUP, Ground, Life
from tests.simulation.stories import STORIES, Story, Will, begun, pursue, refused_for_good
from tests.simulation.storm import Killed, Log, Storm

__all__ = ["Played", "play"]

SITTINGS = 40  # of a goal, in the storm and after it: more means that it never comes to rest
LEASE_S = 16.0
COOLDOWN_S = 3700.0


@dataclass
class Played:
    """How a seed went."""

    seed: int
    story: str
    violations: list[str]
    digest: str
    met: Counter[tuple[str, str]]
    lines: list[str]
    ended: list[str]
    lives: int
    virtual_s: float


@dataclass
class _Stage:
    ground: Ground
    chance: Chance
    log: Log
    storm: Storm
    will: Will
    lives: list[Life] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def life(self, person: str) -> Life:
        """A fresh process."""
        found = self.ground.live(person, self.chance, self.storm)
        self.lives.append(found)
        return found

    def bury(self) -> None:
        """All processes are gone."""
        self.lives.clear()
        self.storm.alive = True

    def meddle(self, stalled: bool) -> None:
        """Another operator does something while a call of the first is on its way."""
        self.log.add("another operator")
        other = self.life("second")
        try:
            runs = other.journal.runs(GROUP, live=True)
            if stalled:
                self.ground.time.sleep(LEASE_S + self.chance.uniform(0, 60))
                for run in runs:
                    drive = other.house.driver().drive(run.id, other.house.holder)
                    self.log.add(f"the other drove {run.name}: {drive.taken} {drive.view.state}")
            elif runs and self.chance.bits(1):
                kind = ("pause", "pause", "resume", "rollback", "cancel", "retry")[self.chance.bits(8) % 6]
                self._order(other, runs[0], kind)
            else:
                run = begun(("failover", "replicate", "drill")[self.chance.bits(8) % 3], other)
                self.log.add(f"the other began {run.name}")
        except (DrpilotError, Superseded) as error:
            self.log.add(f"the other was refused: {error}")

    def _order(self, other: Life, run: RunView, kind: str) -> None:
        data = {"confirm": GROUP, "accepted_loss_s": 1e9} if kind == "rollback" else {}
        order(other.house, run.id, Order(kind, comment="the other operator", data=data))
        self.log.add(f"the other ordered {kind} of {run.name}")


def play(
    ground: Ground,
    seed: int,
    story: str | None = None,
    *,
    only: Sequence[str] | None = None,
    echo: Callable[[str], None] | None = None,
) -> Played:
    """Play one seed to its end. `only` limits the kinds of fault (none: whatever the seed draws)."""
    with ground.entered():
        return _played(ground, seed, story, only, echo)


def _played(
    ground: Ground,
    seed: int,
    story: str | None,
    only: Sequence[str] | None,
    echo: Callable[[str], None] | None,
) -> Played:
    ground.restore()
    chance = Chance(seed)
    names = list(STORIES)
    drawn = names[chance.bits(16) % len(names)]
    told = STORIES[story or drawn]
    log = Log(ground.time, echo=echo)
    storm = Storm(ground, Chance(seed + 1_000_003), log, only)
    stage = _Stage(ground, chance, log, storm, Will(lambda: chance.uniform(0, 1)))
    storm.meddle = stage.meddle
    log.add(f"seed {seed}: {told.name}; {', '.join(kind.name for kind in storm.kinds)}")
    try:
        _tell(stage, told)
    except Exception:  # noqa: BLE001 - a story that can't be told is a finding
        stage.troubles.append("the story broke: " + traceback.format_exc())
        storm.heal()
    stage.bury()
    life = ground.live("examiner", Chance(0))
    storm.look_at_witness()
    facts = invariants.Facts(ground, life.journal, storm)
    violations = [*stage.troubles, *storm.strayed, *invariants.broken(facts)]
    for text in violations:
        log.add(f"!! {text}")
    virtual_s = ground.time.elapsed_s - ground.elapsed_s
    return Played(
        seed,
        told.name,
        violations,
        log.digest,
        storm.met,
        log.lines,
        stage.ended,
        ground.lives,
        virtual_s,
    )


def _tell(stage: _Stage, story: Story) -> None:
    ground, storm, chance = stage.ground, stage.storm, stage.chance
    if story.dead:
        _lose_home(stage, story)
    elif chance.uniform(0, 1) < 0.2:
        for clock in ground.clocks.values():
            clock.skew_s = chance.uniform(-200, 200)
    for goal in story.goals:
        if story.dead and goal not in ("failover", "replicate"):
            with ground.clouds["home"].transaction():
                ground.clouds["home"].faults.heal()
        ended = _reach(stage, goal, 2 if story.late and goal == "replicate" else SITTINGS)
        stage.ended.append(f"{goal}: {ended}")
        stage.log.add(f"goal {goal}: {ended}")
    storm.heal()
    stage.will.settled = True
    _rest(stage)


def _lose_home(stage: _Stage, story: Story) -> None:
    """The primary is lost, now or while the first goal is on its way, and may come back in the middle."""
    time, chance, home = stage.ground.time, stage.chance, stage.ground.clouds["home"]
    fault = ("refuse", "hang", "refuse")[chance.bits(8) % 3]

    def lose() -> None:
        stage.log.add(f"home is lost: {fault}")
        with home.transaction():
            home.faults.set(fault)

    def back() -> None:
        stage.log.add("home is back")
        with home.transaction():
            home.faults.heal()

    after_s = chance.uniform(0, 8) if story.late else 0.0
    if story.late:
        time.after(after_s, lose)
    else:
        lose()
    if chance.uniform(0, 1) < 0.3:
        time.after(after_s + chance.uniform(0, 60), back)


def _reach(stage: _Stage, goal: str, sittings: int = SITTINGS) -> str:
    """One goal in the storm; how it ended, or why it was given up."""
    done: set[str] | None = None
    for sitting in range(sittings):
        try:
            mine, theirs = stage.life("oncall"), stage.life("second")
            if done is None:
                done = {run.id for run in mine.journal.runs(GROUP) if run.state == "finished"}
            view = pursue(goal, mine, theirs, stage.will, done)
            if view is not None:
                return f"{view.state} {view.result}"
        except Killed:
            stage.log.add("all processes are gone")
        except (DrpilotError, Superseded) as error:
            stage.log.add(f"refused: {error}")
            if isinstance(error, DrpilotError) and error.word == "cooldown":
                stage.ground.time.sleep(COOLDOWN_S)  # what the group's file asks for between two moves
                continue
            if isinstance(error, DrpilotError) and refused_for_good(error):
                return f"refused: {error.word}"
            if isinstance(error, DrpilotError) and error.word == "lane-busy":
                _make_way(stage)
        stage.bury()
        stage.ground.time.sleep(LEASE_S)
        if sitting == sittings // 2 and sittings == SITTINGS:
            stage.storm.heal()
            stage.will.settled = True
    return "never"


def _make_way(stage: _Stage) -> None:
    """Take on what somebody else began and what stands in the way now."""
    try:
        mine, theirs = stage.life("oncall"), stage.life("second")
        for run in mine.journal.runs(GROUP, live=True):
            pursue(run.mode, mine, theirs, stage.will, set())
    except Killed:
        stage.log.add("all processes are gone")
    except (DrpilotError, Superseded) as error:
        stage.log.add(f"refused: {error}")


def _rest(stage: _Stage) -> None:
    """Take every run that lives to its end, with nothing in the way."""
    for _ in range(SITTINGS):
        stage.bury()
        stage.ground.time.sleep(LEASE_S)
        mine, theirs = stage.life("oncall"), stage.life("second")
        runs = mine.journal.runs(GROUP, live=True)
        if not runs:
            return
        for run in runs:
            try:
                pursue(run.mode, mine, theirs, stage.will, set())
            except (DrpilotError, Superseded) as error:
                stage.log.add(f"at rest: {error}")
    left = [f"{run.name} {run.mode} is {run.state}" for run in runs]
    stage.troubles.append(f"never came to rest: {', '.join(left)}")
