"""Migrations: what the other side has and lacks, rounds of replication until the last is short, and where home is.

A migration is a planned move for good. Its rounds are ordinary replications, its switch is the runbook `migrate`, what
the other side lacks is made by `configure`; nothing else is kept of it. So a migration that was left half-way goes on
wherever it stands, and where home is can be read from the runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drpilot.actions.command import startable
from drpilot.base.errors import DrpilotError
from drpilot.base.units import format_duration
from drpilot.domain.group import Group
from drpilot.domain.run import MOVES, RunView
from drpilot.inventory.discover import members
from drpilot.inventory.making import Making, making
from drpilot.inventory.parity import Parity, judge
from drpilot.inventory.partners import look
from drpilot.journal.history import runs_of
from drpilot.journal.views import GroupView
from drpilot.services.house import House
from drpilot.services.protect import Preview, previewed

__all__ = [
    "Rounds",
    "Surroundings",
    "finishing",
    "home_of",
    "originals",
    "require_surroundings",
    "round_s",
    "surroundings",
]

_WELL = ("succeeded", "succeeded_with_warnings")


@dataclass(frozen=True, slots=True)
class Rounds:
    """How many replications there are at most, and how long the last may take: about as long nobody can write later."""

    most: int = 5
    short_s: float = 600.0

    def over(self, took_s: Sequence[float]) -> bool:
        """Whether the switch may follow; raises `rounds-too-long` where the last allowed round was no short one."""
        if took_s and took_s[-1] <= self.short_s:
            return True
        if len(took_s) < self.most:
            return False
        raise DrpilotError(
            "rounds-too-long",
            rounds=len(took_s),
            took=format_duration(round(took_s[-1])) if took_s else "no time",
            limit=format_duration(self.short_s),
        )


def round_s(view: RunView) -> float:
    """How long a replication took, from its first step to its end, in seconds."""
    begun = view.started_at or view.created_at
    return max(0.0, ((view.ended_at or begun) - begun).total_seconds())


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the group needs of the other side beside its machines: each thing looked at, what will be made there, and
    the preview of the group's file with what is lost on the way. `programs` are bootstraps that can't be started here.
    """

    group: Group
    parities: tuple[Parity, ...]
    making: Making
    preview: Preview
    programs: tuple[str, ...]


def surroundings(house: House, view: GroupView) -> Surroundings:
    """Look at both sides, once; reads only. Raises DrpilotError and CloudError.

    The group is what `protect` took in: no file that it names is read again.
    """
    group = members(house.site(view.active), view.group)
    programs = {tier.bootstrap[0] for tier in group.tiers if tier.bootstrap}
    stock = look(group, view.active, house.site)
    judged = judge(group, view.active, stock)
    made = making(group, view.active, house.site, stock)
    return Surroundings(
        group,
        judged,
        made,
        previewed(house, group, view.active, (judged, made)),
        tuple(sorted(name for name in programs if not startable(name))),
    )


def require_surroundings(view: GroupView, found: Surroundings) -> None:
    """Raise `surroundings-lacking` with the whole list where a person has to make something first."""
    lacking = [*found.making.refused, *found.making.mapped]
    if lacking:
        raise DrpilotError(
            "surroundings-lacking",
            group=view.name,
            site=view.standing,
            count=len(lacking),
            why="; ".join(lacking),
            data={"lacking": lacking},
        )


def home_of(house: House, view: GroupView) -> str:
    """The side a group belongs on: its file's primary, until a migration was committed since it was taken in."""
    for run in runs_of(house.journal, view.name, ("migrate", "retire"), limit=200):
        if run.result in _WELL:
            return run.plan.target if run.mode == "migrate" else view.group.primary
    return view.group.primary


def finishing(house: House, view: GroupView) -> RunView:
    """The committed migration that brought the group to where it is, and that may be finished.

    Raises `not-migrated`.
    """
    moves = [run for run in runs_of(house.journal, view.name, MOVES, limit=200) if run.result in _WELL]
    if not moves or moves[0].mode != "migrate":
        what = "its last move was no migration" if moves else "it was never moved"
        raise DrpilotError("not-migrated", group=view.name, what=what)
    if view.state != "active_unprotected":
        what = f"it is {view.state}: {view.standing} stands by for {view.active} again"
        raise DrpilotError("not-migrated", group=view.name, what=what)
    return moves[0]


def originals(view: RunView) -> tuple[str, ...]:
    """What a migration left on the old side, stopped and marked: ids of instances, names of scaling groups."""
    step = view.steps.get("invalidate")
    return tuple((step.output or {}).get("invalidated") or ()) if step is not None else ()
