"""What the modules of the lab add to a cloud: handlers, timers, paths, residents and kinds of resources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drpilot.lab.table import Row

if TYPE_CHECKING:
    from drpilot.lab.cloud import Cloud

__all__ = [
    "ACTIONS",
    "KINDS",
    "OWN_ACTIONS",
    "PATHS",
    "RESIDENTS",
    "TIMERS",
    "Handler",
    "Kind",
    "Timer",
    "action",
    "handler_of",
    "kind",
    "path",
    "resident",
    "timer",
]

Handler = Callable[["Cloud", dict[str, Any]], dict[str, Any]]
Timer = Callable[["Cloud", str, dict[str, Any]], None]
Resident = Callable[["Cloud"], None]


@dataclass(frozen=True, slots=True)
class Action:
    """A handler, and whether the cloud's lock is held while it runs."""

    handler: Handler
    locked: bool


@dataclass(frozen=True, slots=True)
class Kind:
    """How the inventory sees the rows of one table."""

    name: str
    live: Callable[[Row], bool]
    default: Callable[[Row], bool]


ACTIONS: dict[tuple[str, str], Action] = {}
OWN_ACTIONS: dict[tuple[str, str, str], Action] = {}
"""Operations that only one family of dialects has, or has otherwise: (family, service, operation)."""
PATHS: dict[str, Handler] = {}
KINDS: dict[str, Kind] = {}
TIMERS: dict[str, tuple[Timer, bool]] = {}
RESIDENTS: list[Resident] = []


def action(
    service: str, operation: str, *, locked: bool = True, family: str = ""
) -> Callable[[Handler], Handler]:
    """Register the handler of an operation; an unlocked one opens `cloud.transaction()` itself, because it
    talks to another site and must not hold its own lock meanwhile. With `family` it is for sites of that
    family of dialects alone, and goes before the common one.
    """

    def register(handler: Handler) -> Handler:
        made = Action(handler, locked)
        if family:
            OWN_ACTIONS[family, service, operation] = made
        else:
            ACTIONS[service, operation] = made
        return handler

    return register


def handler_of(family: str, service: str, operation: str) -> Action | None:
    """What answers an operation on a site of this family; None when nothing does."""
    return OWN_ACTIONS.get((family, service, operation)) or ACTIONS.get((service, operation))


def path(name: str) -> Callable[[Handler], Handler]:
    """Register what a site answers to another site of the lab."""

    def register(handler: Handler) -> Handler:
        PATHS[name] = handler
        return handler

    return register


def timer(name: str, *, locked: bool = True) -> Callable[[Timer], Timer]:
    """Register what happens when a timer set with `cloud.later(…, name, …)` is due."""

    def register(handler: Timer) -> Timer:
        TIMERS[name] = (handler, locked)
        return handler

    return register


def resident(install: Resident) -> Resident:
    """Register a function called with every cloud when it opens, e.g. to add `on_tick` hooks or defaults."""
    RESIDENTS.append(install)
    return install


def kind(
    table: str,
    name: str,
    live: Callable[[Row], bool] = lambda row: True,
    default: Callable[[Row], bool] = lambda row: False,
) -> None:
    """Show the rows of `table` in the inventory as `name`; `default` marks what the cloud itself made."""
    KINDS[table] = Kind(name, live, default)
