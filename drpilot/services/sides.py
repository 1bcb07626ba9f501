"""The live look at both sides and the witness: does one side write, and the one that the journal says?

It changes nothing and judges by the pure rules of `domain/sides.py`. While a move lives, its own steps look and its own
end decides; only one that awaits its commit is looked at from here, because it may wait for days.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from drpilot.actions.sides import running
from drpilot.base.errors import DrpilotError, Finding
from drpilot.domain.ports import CloudError
from drpilot.domain.run import MOVES, RunView
from drpilot.domain.sides import Held, Told, quiet, witness_told, writers_told
from drpilot.journal.body import moment
from drpilot.journal.history import runs_of
from drpilot.journal.views import GroupView
from drpilot.services.checked import Checked, bad, ok, unknown
from drpilot.services.guidance import survivor_command
from drpilot.services.house import House

__all__ = ["WITNESS", "WRITERS", "Route", "defied_at", "look_at_sides", "route_of", "split_hint"]

WRITERS, WITNESS = "writers", "witness"
_JUDGED = frozenset(
    {
        "seeding",
        "protected",
        "degraded",
        "awaiting_commit",
        "active_unprotected",
        "reprotecting",
        "split_suspected",
    }
)


@dataclass(frozen=True, slots=True)
class Route:
    """Which side writes and which must not, while nothing else decides that."""

    active: str
    other: str


def route_of(view: GroupView, live: Sequence[RunView]) -> Route | None:
    """The sides to look at; None while a move decides who is active, or a fence run is closing the other side."""
    if view.state not in _JUDGED or any(run.mode == "fence" for run in live):
        return None
    move = next((run for run in live if run.lane == "move"), None)
    if move is None:
        return Route(view.active, view.standing) if view.state != "awaiting_commit" else None
    if view.state == move.state == "awaiting_commit":
        return Route(move.plan.target, move.plan.source)
    return None


def defied_at(view: GroupView, side: str) -> datetime | None:
    """When a fence run saw a side, applied the ladder and left writers there; None where none did."""
    fence = view.fences.get(side, {})
    if fence.get("state") != "partial" or not fence.get("seen") or not fence.get("writers_left"):
        return None
    return moment(fence.get("at"))


def look_at_sides(house: House, view: GroupView) -> Iterator[Checked]:
    """What runs on either side, and what the witness says; both against what the journal holds."""
    live = house.journal.runs(view.name, live=True)
    route = route_of(view, live)
    if route is None:
        return
    held = _held(house, view, route, live)
    yield from _checked(view, WITNESS, _witness(house, view, held))
    if held.quiet or held.defied:
        seen = [_running(house, view, site, live) for site in (route.active, route.other)]
        yield from _checked(view, WRITERS, writers_told(held, *seen))


def _held(house: House, view: GroupView, route: Route, live: Sequence[RunView]) -> Held:
    standbys = [one.state for one in house.journal.standbys(view.name) if one.site == route.other]
    fence = str(view.fences.get(route.other, {}).get("state", "none"))
    invalidated = bool(view.invalidated) and view.state in ("active_unprotected", "reprotecting")
    known = _known_epoch(view, runs_of(house.journal, view.name, (*MOVES, "survivor")))
    return Held(
        active=route.active,
        other=route.other,
        epoch=view.epoch,
        known=known,
        confirmed=view.epoch > 1,
        quiet=quiet(fence, standbys, invalidated=invalidated),
        defied=defied_at(view, route.other) is not None,
        runs=frozenset(run.id for run in live),
    )


def _known_epoch(view: GroupView, moves: Sequence[RunView]) -> int:
    """The highest epoch this journal accounts for: a move that was rolled back gave its claim back one above it."""
    claimed = [
        int((step.output or {}).get("epoch") or 0) + (run.result == "rolled_back")
        for run in moves
        for step in run.steps.values()
        if str(step.planned.action).startswith("epoch.")
    ]
    return max([view.epoch, *claimed])


def _witness(house: House, view: GroupView, held: Held) -> Told:
    """What the witness says; that it can't be read is a finding of the look at the witness itself."""
    try:
        claim, _ = house.world.witness().read(view.name)
    except (CloudError, DrpilotError) as error:
        return Told(None, f"the witness can't be read: {error}")
    return witness_told(held, claim)


def _running(house: House, view: GroupView, site: str, live: Sequence[RunView]) -> tuple[str, ...] | None:
    """What runs on a side, what a live run made itself left out; None where the side can't be seen."""
    known = house.journal.site(site)
    if known is not None and known.answers is False:
        return None
    fenced = view.fences.get(site, {}).get("state", "none") not in ("none", "released")
    standby = site == view.standing and not fenced
    try:
        return running(view, house.site(site), standby=standby, runs=[run.id for run in live])
    except (CloudError, DrpilotError):
        return None


def split_hint(view: GroupView) -> str:
    """What to do about a contradiction: look again, and once it is a suspected split, name a survivor."""
    if view.state == "split_suspected":
        return survivor_command(view.name, view.active, view.standing)
    if view.state == "awaiting_commit":
        return f"drpilot fence {view.name}"
    return f"drpilot check {view.name}"


def _checked(view: GroupView, subject: str, told: Told) -> Iterator[Checked]:
    expected = "one side writes, and it is the one that the journal and the witness say"
    if told.value is None:
        yield unknown("sides", view.name, expected, told.why, subject=subject)
    elif told.value:
        yield ok("sides", view.name, expected, told.why, subject=subject)
    else:
        finding = Finding("split-suspected", "error", told.why, view.name, split_hint(view))
        yield bad("sides", view.name, expected, told.why, finding, subject=subject)
