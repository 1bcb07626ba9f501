"""Past runs by mode: what predictions, the last drill and the freshness of a plan are read from.

A group replicates every few minutes and is drilled once a week, so the newest runs alone would never show a drill.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlmodel import col, select

from drpilot.base.clock import from_micros
from drpilot.domain.run import MOVES, RunView
from drpilot.journal import views
from drpilot.journal.journal import Journal
from drpilot.journal.tables import RunRow

__all__ = ["last_ended", "recoveries", "runs_of"]


def runs_of(journal: Journal, group: str, modes: Sequence[str], *, limit: int = 10) -> tuple[RunView, ...]:
    """The newest runs of a group in one of `modes`, live ones included, newest first."""
    query = (
        select(RunRow)
        .where(RunRow.group == group, col(RunRow.mode).in_(list(modes)))
        .order_by(col(RunRow.number).desc())
        .limit(limit)
    )
    return journal.database.read(
        lambda session: tuple(
            views.run_view(session, row, journal.skew(session)) for row in session.exec(query).all()
        )
    )


def recoveries(journal: Journal, group: str, *, limit: int = 12) -> tuple[RunView, ...]:
    """The newest runs that booted a point somewhere: drills, failovers, switchovers, migrations."""
    return runs_of(journal, group, ("drill", *MOVES), limit=limit)


def last_ended(journal: Journal, group: str) -> tuple[str, datetime] | None:
    """The run of a group that ended last, by name, and when; None where none has."""
    query = (
        select(RunRow.number, RunRow.ended_at)
        .where(RunRow.group == group, col(RunRow.ended_at).is_not(None))
        .order_by(col(RunRow.ended_at).desc())
        .limit(1)
    )
    row = journal.database.read(lambda session: session.exec(query).first())
    return None if row is None or row[1] is None else (f"{group}/{row[0]}", from_micros(row[1]))
