"""Running the lifecycle tables with `transitions`: one template machine a family, a small holder an object.

A machine per object costs 290 us and 26 KiB; a template whose events are triggered on a holder costs 6 us and
nothing per object. `transitions` accepts a destination that does not exist and a trigger hidden by a method of the
model, so the tables are checked when they are built and no rich model is ever attached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

from transitions import EventData, Machine, MachineError

from drpilot.base.errors import DrpilotError, invariant
from drpilot.domain.states import FAMILIES, NEW, Family

__all__ = ["Holder", "allowed", "fire", "permitted"]

_UNBORN = "-"  # transitions needs a name for the state before the first


@dataclass(slots=True)
class Holder:
    """What `transitions` moves: a state and the facts its guards read."""

    state: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def _guard(needs: tuple[str, ...], forbids: tuple[str, ...]) -> Any:
    def holds(event: EventData) -> bool:
        holder = event.model
        assert isinstance(holder, Holder)  # only `fire` triggers these machines
        lacking = [need for need in needs if not holder.facts.get(need)]
        lacking += [f"not {fact}" for fact in forbids if holder.facts.get(fact)]
        if lacking:
            holder.missing = tuple(lacking)
        return not lacking

    return holds


@cache
def _template(name: str) -> Machine:
    family = FAMILIES[name]
    known = {*family.words, NEW}
    machine = Machine(
        model=None,
        states=[_UNBORN, *family.words],
        initial=None,
        auto_transitions=False,
        send_event=True,
        ignore_invalid_triggers=False,
    )
    for transition in family.transitions:
        invariant(transition.target in known and set(transition.sources) <= known, f"{name}: {transition}")
        machine.add_transition(
            transition.event,
            [source or _UNBORN for source in transition.sources],
            transition.target,
            conditions=[_guard(transition.needs, transition.forbids)],
        )
    return machine


def fire(family: str, key: str, state: str, event: str, facts: Mapping[str, Any] | None = None) -> str:
    """The state after `event`; `state` is the empty string for a thing that does not exist yet.

    Raises `transition-refused` (naming the facts that were missing) where the table has no such transition or its
    guard does not hold.
    """
    target, why = _fired(family, state, event, facts) if facts else _fired_bare(family, state, event)
    if target is None:
        raise DrpilotError(
            "transition-refused", family=family, key=key, event=event, state=state or "nothing", why=why
        )
    return target


def _fired(family: str, state: str, event: str, facts: Mapping[str, Any] | None) -> tuple[str | None, str]:
    """The state after `event`, or None and why there is none."""
    machine = _template(family)
    holder = Holder(state or _UNBORN, facts or {})
    if event in machine.events:
        try:
            if machine.events[event].trigger(holder):
                return holder.state, ""
        except MachineError:
            pass
        else:
            return None, "needed: " + ", ".join(holder.missing)
    return None, f"the table of {FAMILIES[family].title.lower()} has no event {event!r} here"


@lru_cache(maxsize=4096)
def _fired_bare(family: str, state: str, event: str) -> tuple[str | None, str]:
    """Without facts the table alone decides; there are a few hundred pairs, and a run asks for the same ones."""
    return _fired(family, state, event, None)


def allowed(family: Family, event: str) -> tuple[str, ...]:
    """The states from which `event` may lead on, guards aside: what a refusal names as the way forward."""
    return tuple(
        dict.fromkeys(s for t in family.transitions if t.event == event for s in t.sources if s != NEW)
    )


def permitted(family: str, state: str, event: str, facts: Mapping[str, Any] | None = None) -> bool:
    """Whether `fire` would succeed."""
    try:
        fire(family, "", state, event, facts)
    except DrpilotError:
        return False
    return True
