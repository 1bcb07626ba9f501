"""What looks come to once two of them agree: a suspected split, a standby that is not as it should be, and back.

The looks themselves change nothing (services/looks.py, services/sides.py); `remember` keeps what they said as streaks
among the group's conditions and fires what `domain/hysteresis.py` lets settle. A look that can't tell is not kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from drpilot.domain.hysteresis import ONE_WRITER, WITNESS_AGREES, Streak, standby_condition
from drpilot.domain.ports import Move, StandbyView
from drpilot.domain.states import FAMILIES
from drpilot.journal.body import moment
from drpilot.journal.views import GroupView
from drpilot.services.checked import Checked
from drpilot.services.house import House
from drpilot.services.sides import WITNESS, WRITERS, Route, defied_at, route_of

__all__ = ["STANDBY_APART", "contradictions", "remember", "split_apart", "split_moves", "standby_moves"]

STANDBY_APART = timedelta(minutes=5)
_SETTLES = (
    5  # reads lag by at most `settle_s`; two looks this many times as far apart can't share a stale one
)
_NAMES = {WRITERS: ONE_WRITER, WITNESS: WITNESS_AGREES}


def split_apart(settle_s: float) -> timedelta:
    """How far apart two looks that suspect a split must lie."""
    return timedelta(seconds=_SETTLES * settle_s)


def remember(house: House, view: GroupView, checks: Sequence[Checked], by: str) -> tuple[str, ...]:
    """Keep what the looks at one group said and fire what has settled; what changed, in words.

    The group is read again, and nothing is fired where it has moved on since it was looked at.
    """
    journal, name = house.journal, view.name
    for item in checks:
        if item.scope != name or item.verdict == "unknown":
            continue
        if item.name == "sides":
            journal.set_condition(name, _NAMES[item.subject], item.verdict == "ok", item.observed)
        elif item.name == "standby":
            key = standby_condition(item.subject, view.standing)
            journal.set_condition(name, key, item.verdict == "ok", item.observed)
    present = journal.group(name)
    if (present.state, present.active) != (view.state, view.active):
        return ()
    return (*_split(house, present, by), *_standbys(house, present, by))


def _split(house: House, view: GroupView, by: str) -> Iterator[str]:
    live = house.journal.runs(view.name, live=True)
    route = route_of(view, live)
    if route is None:
        return
    moves = split_moves(view, route, split_apart(house.world.settle_s))
    if moves:
        reasons = "; ".join(why for why, _ in contradictions(view))
        house.journal.change(view.name, moves, by, reasons)
        after = house.journal.group(view.name)
        fence = f"{route.other}'s fence does not hold" if after.state == view.state else after.state
        yield f"{view.name}: {view.state} → {fence}: {reasons}"
    if house.journal.group(view.name).state != "split_suspected":
        return
    for run in live:
        told = run.state in ("cancelling", "cleaning") or any(one.kind == "cancel" for one in run.requests)
        if run.mode != "fence" and run.lane != "move" and not told:
            house.journal.post(run.id, "cancel", by, comment="a split is suspected")


def split_moves(view: GroupView, route: Route, apart: timedelta) -> tuple[Move, ...]:
    """The group's `split seen`, and its fence taken for what it is, once two looks agree. Pure.

    Before its commit a move is decided by commit or rollback, which both need the fence: there the fence alone is
    taken back, so that it is closed again.
    """
    writers = Streak.of(view.conditions.get(ONE_WRITER))
    witness = Streak.of(view.conditions.get(WITNESS_AGREES))
    both_write = writers is not None and writers.settles(False, apart, earlier=defied_at(view, route.other))
    elsewhere = witness is not None and witness.settles(False, apart)
    if view.state == "split_suspected" or not (both_write or elsewhere):
        return ()
    moves = []
    evidence = {"evidence": [why for why, _ in contradictions(view)]}
    if view.state != "awaiting_commit":
        others = _all_but("group", view.state)
        moves.append(Move("group", view.name, "split seen", {}, evidence, unless=others))
    if both_write:
        facts = {"writers_observed": True}
        others = _all_but("fence", "fenced")
        moves.append(
            Move("fence", route.other, "writers seen", facts, {**evidence, "seen": True}, unless=others)
        )
    return tuple(moves)


def _all_but(family: str, state: str) -> tuple[str, ...]:
    return tuple(word for word in FAMILIES[family].words if word != state)


def contradictions(view: GroupView) -> tuple[tuple[str, datetime], ...]:
    """What the newest looks saw against the journal: why, and when."""
    found = [(view.conditions.get(name, {}), name) for name in (ONE_WRITER, WITNESS_AGREES)]
    return tuple(
        (str(condition.get("reason", "")), looked_at)
        for condition, _ in found
        if condition.get("value") is False and (looked_at := moment(condition.get("looked_at"))) is not None
    )


def _standbys(house: House, view: GroupView, by: str) -> Iterator[str]:
    standing = [one for one in house.journal.standbys(view.name) if one.site == view.standing]
    for move in standby_moves(view, standing):
        reason = str(move.data["unhealthy"])
        house.journal.change(view.name, [move], by, reason)
        tier = move.key.partition("@")[0]
        after = "unhealthy" if move.event == "degrade" else "ready"
        yield f"{view.name}: standby of {tier} is {after}" + (f": {reason}" if reason else "")


def standby_moves(view: GroupView, standbys: Sequence[StandbyView]) -> tuple[Move, ...]:
    """Each standby's `degrade` or `recover`, once two looks agree. Pure.

    The looks lie an interval apart, or five minutes where the interval is longer.
    """
    apart = min(timedelta(seconds=view.group.replicate_every_s), STANDBY_APART)
    found = []
    for one in standbys:
        condition = view.conditions.get(standby_condition(one.tier, one.site), {})
        streak = Streak.of(condition)
        degrades = one.state == "ready" and streak is not None and streak.settles(False, apart)
        recovers = one.state == "unhealthy" and streak is not None and streak.settles(True, apart)
        if degrades or recovers:
            found.append(
                Move(
                    "standby",
                    f"{one.tier}@{one.site}",
                    "degrade" if degrades else "recover",
                    {"hysteresis_over": True},
                    {"unhealthy": str(condition["reason"]) if degrades else ""},
                    unless=_all_but("standby", one.state),
                )
            )
    return tuple(found)
