"""The burst of a group in its row: its state, its facts, the point it pins, and when it is due to end.

The end is due from the moment it begins: whoever dies on the way, a service ends it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from sqlmodel import Session, col, select

from drpilot.base.clock import micros, parse_time, rfc3339
from drpilot.base.errors import DrpilotError
from drpilot.domain.burst import IDLE, Burst, burst_of
from drpilot.domain.ports import Move
from drpilot.journal.body import pack, unpack
from drpilot.journal.tables import GroupRow, PointRow, RunRow, ScheduleRow

__all__ = ["END", "Firing", "apply", "guard", "pins"]

END = "unburst"
"""The kind of schedule, and the mode, that ends a burst."""


class Firing(Protocol):
    """What writes one transaction (journal/apply.py, Writer)."""

    session: Session
    now: datetime
    group: str

    @property
    def run(self) -> RunRow | None:
        """The run it writes for, if any."""

    def fire(
        self, family: str, key: str, state: str, event: str, facts: Mapping[str, Any], **more: Any
    ) -> str:
        """The new state by the lifecycle table, recorded."""


def apply(writer: Firing, move: Move) -> None:
    """Write a burst's event; `data` of `begin` has tier, site, point, capacity, weight, cause and until (RFC 3339)."""
    session = writer.session
    group = session.get_one(GroupRow, writer.group)
    body = unpack(group.burst)
    state = str(body.get("state", IDLE))
    if state in move.unless:
        return
    data = dict(move.data)
    known = {"lane_held": writer.run is not None and writer.run.live == 1}
    if move.event == "begin":
        point = session.get(PointRow, str(data.get("point", "")))
        known["point_usable"] = point is not None and point.state in ("available", "proven")
    to = writer.fire("burst", group.name, state, move.event, {**known, **move.facts}, data=data)
    if move.event == "begin":
        body = {**data, "since": micros(writer.now)}
        _due(session, group.name, micros(parse_time(str(data["until"]))))
    if move.event == "removed":
        body = {**body, "ended_at": micros(writer.now)}
        _due(session, group.name, None)
    group.burst = pack({**body, "state": to})
    session.add(group)
    session.flush()


def _due(session: Session, group: str, at: int | None) -> None:
    """Make the end due, or forget it."""
    row = session.get(ScheduleRow, (group, END))
    if at is None:
        if row is not None:
            session.delete(row)
        return
    session.add(row or ScheduleRow(group=group, kind=END, next_at=at))
    session.flush()


def pins(session: Session, point: PointRow) -> bool:
    """Whether a burst that may exist runs from this point."""
    bodies = session.exec(select(col(GroupRow.burst)).where(GroupRow.name == point.group)).all()
    return any(burst.running and burst.point == point.id for burst in map(burst_of, map(unpack, bodies)))


def guard(group: str, burst: Burst, verb: str, allowed: Sequence[str]) -> None:
    """Refuse a run that may not begin beside this burst, or not without one; `allowed` empty lets every state be."""
    if not allowed or burst.state in allowed:
        return
    if not burst.running:
        raise DrpilotError("burst-idle", group=group)
    since = rfc3339(burst.since) if burst.since is not None else "?"
    raise DrpilotError(
        "burst-running", group=group, site=burst.site, state=burst.state, since=since, verb=verb
    )
