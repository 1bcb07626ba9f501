"""The kill switch: while a halt stands nobody drives a run, and nothing of a run that changes a cloud leaves.

Whether one stands is told by the last event of a chain of its own: what stops everything is evidence by itself. To halt
is to take every live run over for nobody: the term rises, so whoever drives is refused at the next write, notices at
the next look (each half second) and sends nothing more; and nobody can acquire a run until the halt is lifted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session, col, select

from drpilot.base.clock import from_micros, rfc3339
from drpilot.base.errors import DrpilotError
from drpilot.journal import chain
from drpilot.journal.apply import Writer
from drpilot.journal.body import unpack
from drpilot.journal.registry import Registry
from drpilot.journal.tables import EventRow, RunRow
from drpilot.journal.transaction import reading, written

__all__ = ["CHAIN", "Halt", "Halting", "refuse"]

CHAIN = "halt"


@dataclass(frozen=True, slots=True)
class Halt:
    """Who stopped everything, why and when."""

    by: str
    reason: str
    at: datetime

    def refusal(self) -> DrpilotError:
        """What everybody is told who would begin or drive a run."""
        facts = {"by": self.by, "reason": self.reason, "since": rfc3339(self.at)}
        return DrpilotError("halted", **facts, data=facts)


def standing(session: Session) -> Halt | None:
    """The halt that stands; None where nothing is halted."""
    query = select(EventRow).where(EventRow.chain == CHAIN).order_by(col(EventRow.sequence).desc()).limit(1)
    last = session.exec(query).first()
    if last is None or last.kind != "halted":
        return None
    return Halt(last.actor, str(unpack(last.body).get("reason", "")), from_micros(last.at))


def refuse(session: Session) -> None:
    """Raise `halted` while a halt stands."""
    halt = standing(session)
    if halt is not None:
        raise halt.refusal()


class Halting(Registry):
    """Stopping everything, and letting it go on."""

    @reading
    def halted(self, session: Session) -> Halt | None:
        """The halt that stands."""
        return standing(session)

    @written
    def halt(self, session: Session, by: str, reason: str) -> tuple[str, ...]:
        """Stop every run that lives, by name; none of them changes its state, and none is driven until `lift`.

        A halt that stands is left as it is, with nothing stopped.
        """
        if standing(session) is not None:
            return ()
        now, names = self.clock.now(), []
        chain.append(session, chain=CHAIN, group="", kind="halted", at=now, actor=by, body={"reason": reason})
        for row in session.exec(select(RunRow).where(RunRow.live == 1).order_by(col(RunRow.created_at))):
            row.term += 1
            row.holder, row.lease_until = None, 0
            session.add(row)
            session.flush()
            Writer(session, now, by, row.group, row).event("halted", {"term": row.term, "reason": reason})
            names.append(f"{row.group}/{row.number}")
        return tuple(names)

    @written
    def lift(self, session: Session, by: str, reason: str) -> bool:
        """Let runs be driven again; False where nothing was halted."""
        if standing(session) is None:
            return False
        now = self.clock.now()
        chain.append(session, chain=CHAIN, group="", kind="lifted", at=now, actor=by, body={"reason": reason})
        return True
