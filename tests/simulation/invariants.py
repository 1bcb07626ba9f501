"""What must hold after any story, a function each. Numbers are those of the lifecycles (docs/safety.md lists them).

Each gives what it found wrong, in words; nothing means that it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from drpilot import census
from drpilot.base.errors import DrpilotError
from drpilot.journal import chain
from drpilot.journal.journal import Journal
from drpilot.lab.guest import DATABASE_PORT, guests_of
from tests.simulation.ground import GROUP, Ground
from tests.simulation.storm import Storm

__all__ = ["INVARIANTS", "Facts", "broken"]

Found = Iterator[str]


@dataclass
class Facts:
    """Everything an invariant may look at: the clouds themselves, the journal as it lies on disk, what was called."""

    ground: Ground
    journal: Journal
    storm: Storm

    def __post_init__(self) -> None:
        for cloud in self.ground.clouds.values():
            cloud.tick()
        self.rows: list[dict[str, Any]] = self.ground.inventory()
        self.runs = self.journal.runs(GROUP)
        self.group = self.journal.group(GROUP)
        self.events = self.journal.events(group=GROUP)
        self.attempts = {run.id: self.journal.attempts(run.id) for run in self.runs}


def one_active_side(facts: Facts) -> Found:
    """1: at most one side is active, in the witness, in the journal, and by what really runs."""
    serving = sorted(
        name
        for name in ("home", "away")
        for guest in guests_of(facts.ground.clouds[name])
        if guest["role"] == "db" and DATABASE_PORT in guest["ports"]
    )
    fenced = {site for site, fence in facts.group.fences.items() if fence["state"] == "fenced"}
    if len(set(serving)) > 1 and fenced & set(serving):
        yield f"databases serve on {', '.join(serving)} though {', '.join(sorted(fenced))} is fenced"


def intent_before_effect(facts: Facts) -> Found:
    """Every thing in the clouds that carries an attempt's mark has that attempt in the journal."""
    known = {attempt.token for found in facts.attempts.values() for _, attempt in found}
    for row in facts.rows:
        if row["tags"].get("drpilot:attempt") not in (None, *known):
            yield f"{row['kind']} {row['id']} on {row['site']} has no intent"


def nothing_twice(facts: Facts) -> Found:
    """8: nothing exists twice."""
    yield from (f"twice: {text}" for text in census.duplicates(facts.rows))


def chains_verify(facts: Facts) -> Found:
    """12: the chain of every run verifies."""
    for name in [*(run.id for run in facts.runs), f"group:{GROUP}"]:
        try:
            chain.verify(name, facts.journal.events(run=name))
        except DrpilotError as error:
            yield f"chain of {name}: {error}"


def events_rebuild_states(facts: Facts) -> Found:
    """15: replaying the events gives the states of the rows."""
    for run in facts.runs:
        states = chain.replay(facts.journal.events(run=run.id))
        if states.get(("run", run.name)) != run.state:
            yield f"{run.name} is {run.state}, its events say {states.get(('run', run.name))}"
        for path, step in run.steps.items():
            said = states.get(("step", f"{run.name}:{path}"), "pending")
            quiet = {said, step.state} <= {
                "waiting",
                "unknown",
            }  # a look that changes nothing is not an event
            if said != step.state and not quiet:
                yield f"{run.name}:{path} is {step.state}, its events say {said}"
    states = chain.replay(facts.events)
    for point in facts.journal.points(GROUP, deleted=True):
        if states.get(("point", point.id)) != point.state:
            yield f"point {point.id} is {point.state}, its events say {states.get(('point', point.id))}"
    if states.get(("group", GROUP), facts.group.state) != facts.group.state:
        yield f"the group is {facts.group.state}, its events say {states.get(('group', GROUP))}"


INVARIANTS: tuple[Callable[[Facts], Found], ...] = (
    one_active_side,
    intent_before_effect,
    nothing_twice,
    chains_verify,
    events_rebuild_states,
)


def broken(facts: Facts) -> list[str]:
    """Every invariant that does not hold, and how."""
    return [f"{invariant.__name__}: {text}" for invariant in INVARIANTS for text in invariant(facts)]
