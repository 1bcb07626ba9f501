"""The journal: create, acquire, commit, post. The only writer of a run's state.

Each durable write of a run is one guarded transaction (`commit`), so crash points can be counted. The guard compares
holder and term, not the clock: expiry alone fences nobody, a take-over does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import BigInteger, bindparam
from sqlalchemy import update as update_columns
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, case, col, func, or_, select

from drpilot.base.clock import Chance, Clock, from_micros, micros, rfc3339
from drpilot.base.errors import DrpilotError
from drpilot.base.ids import new_id
from drpilot.domain.burst import burst_of
from drpilot.domain.plain import from_plain
from drpilot.domain.plan import Approval, Plan, Proposal
from drpilot.domain.point import RecoveryPoint
from drpilot.domain.ports import Move, StandbyView
from drpilot.domain.run import Change, Holder, Lease, Outcome, RunView
from drpilot.journal import bursts, chain, halting, postgres, views
from drpilot.journal.apply import Writer
from drpilot.journal.body import pack, pack_value, stamp, unpack
from drpilot.journal.database import Database
from drpilot.journal.halting import Halting
from drpilot.journal.holder import LEASE_S, is_gone
from drpilot.journal.moves import RunKey
from drpilot.journal.prepared import Prepared
from drpilot.journal.tables import (
    ApprovalRow,
    AttemptRow,
    GroupRow,
    PointRow,
    RequestRow,
    RunRow,
    StepRow,
    metadata,
)
from drpilot.journal.transaction import reading, written
from drpilot.journal.views import News

__all__ = ["LEASE_S", "Journal", "NewRun", "Superseded"]


@dataclass(frozen=True, slots=True)
class NewRun:
    """What `create` writes. `id` is made beforehand, because tokens and the new point's id derive from it.

    `from_states` are the group states it may begin in (none: any); `beside_move` lets it begin while a move lives;
    `burst` are the states of the group's burst it may begin in (none: any).
    """

    id: str
    plan: Plan
    by: str
    reason: str = ""
    proposal: Proposal | None = None
    approval: Approval | None = None
    expires_at: datetime | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    from_states: tuple[str, ...] = ()
    beside_move: bool = False
    burst: tuple[str, ...] = ()


_LEASE_US = round(LEASE_S * 1_000_000)
_RUN = metadata.tables["run"]


def _renewal(at: Any) -> Any:
    """The statement that keeps a lease alive `at` a moment, if it is still held; one that ended keeps none."""
    mine = or_(_RUN.c.holder == bindparam("of_holder"), _RUN.c.live.is_(None))
    held = update_columns(_RUN).where(
        _RUN.c.id == bindparam("of_run"), _RUN.c.term == bindparam("of_term"), mine
    )
    return held.values(lease_until=case((_RUN.c.live == 1, at + _LEASE_US), else_=0))


_GUARD = Prepared(_renewal(bindparam("at", type_=BigInteger)))
_GUARD_ON_SERVER = Prepared(_renewal(postgres.NOW))
_packed = lru_cache(maxsize=64)(pack_value)


class Superseded(Exception):
    """Another controller took the run over: stop writing, stop starting."""

    def __init__(self, run: str, by: str) -> None:
        self.run = run
        self.by = by
        super().__init__(f"{run} is driven by {by}")


class Journal(Halting):
    """The one write door. Values go in and out; SQLModel stays inside."""

    def __init__(self, database: Database, clock: Clock, chance: Chance) -> None:
        super().__init__(database, clock)
        self.chance = chance
        self.before_commit: Callable[[Sequence[Change]], None] | None = None  # crash tests count commits here
        self.after_commit: Callable[[Sequence[Change]], None] | None = None
        self.in_flight: dict[str, list[Future[Any]]] = {}  # calls of this process that outlived their driver

    def new_id(self) -> str:
        """A fresh sortable id."""
        return new_id(self.clock, self.chance)

    # -- runs -----------------------------------------------------------------------------------------------

    def create(self, new: NewRun) -> RunView:
        """Write a run with its steps and take its lane, in one transaction; raises `lane-busy`.

        A run in lane `move` asks live copies and drills beside it to cancel; it never waits for them.
        """
        try:
            return self._create(new)
        except IntegrityError as error:
            raise self.busy(new.plan.group, new.plan.lane) from error

    @written
    def _create(self, session: Session, new: NewRun) -> RunView:
        plan = new.plan
        group = session.get(GroupRow, plan.group)
        if group is None:
            raise DrpilotError("unknown-group", group=plan.group)
        self._guard_create(session, group, new)
        row = self._insert(session, new)
        if plan.lane == "move":
            self._cancel_beside(session, row, new.by)
        return views.run_view(session, row, self.skew(session))

    def _guard_create(self, session: Session, group: GroupRow, new: NewRun) -> None:
        halting.refuse(session)
        held = session.exec(
            select(RunRow).where(RunRow.group == group.name, RunRow.lane == new.plan.lane, RunRow.live == 1)
        ).first()
        if held is not None:
            raise self._busy(held)
        move = session.exec(
            select(RunRow).where(RunRow.group == group.name, RunRow.lane == "move", RunRow.live == 1)
        ).first()
        if move is not None and not new.beside_move:
            raise self._busy(move)  # a copy that begins beside a move would put its standbys to rest again
        if new.from_states and group.state not in new.from_states:
            raise DrpilotError(
                "wrong-state",
                group=group.name,
                state=group.state,
                verb=new.plan.mode,
                allowed=", ".join(new.from_states),
                hint=f"drpilot status {group.name}",
            )
        bursts.guard(group.name, burst_of(unpack(group.burst)), new.plan.mode.removeprefix("un"), new.burst)
        if group.locked_by is not None and new.plan.lane == "move":
            raise DrpilotError("locked", group=group.name, by=group.locked_by, why=group.locked_reason or "")

    def _insert(self, session: Session, new: NewRun) -> RunRow:
        plan, now = new.plan, self.clock.now()
        last = session.exec(select(func.max(RunRow.number)).where(RunRow.group == plan.group)).one()
        row = RunRow(
            id=new.id,
            group=plan.group,
            number=(last or 0) + 1,
            mode=plan.mode,
            lane=plan.lane,
            state="created",
            live=1,
            point=plan.point,
            plan=pack_value(plan),
            plan_digest=plan.digest,
            proposal=pack_value(new.proposal) if new.proposal else None,
            by=new.by,
            reason=new.reason,
            facts=pack(dict(new.facts)),
            created_at=micros(now),
            expires_at=stamp(new.expires_at),
        )
        session.add(row)
        session.flush()
        for position, step in enumerate(plan.steps):
            session.add(StepRow(run=row.id, path=step.path, position=position, state="pending"))
        if new.approval is not None:
            session.add(ApprovalRow(run=row.id, body=pack_value(new.approval)))
        writer = Writer(session, now, new.by, plan.group, row)
        writer.fire(
            "run",
            f"{row.group}/{row.number}",
            "",
            "create",
            {"lane_held": True},
            mode=plan.mode,
            plan=row.plan_digest,
            point=plan.point,
            reason=new.reason,
            proposal=new.proposal.digest if new.proposal else None,
        )
        session.flush()
        return row

    def _cancel_beside(self, session: Session, row: RunRow, by: str) -> None:
        others = session.exec(
            select(RunRow).where(RunRow.group == row.group, RunRow.live == 1, col(RunRow.lane) != "move")
        ).all()
        for other in others:
            self._post(session, other.id, "cancel", by, comment=f"{row.group}/{row.number} {row.mode} began")

    @reading
    def busy(self, session: Session, group: str, lane: str) -> DrpilotError:
        """The refusal of a second run in a lane, naming the first."""
        row = session.exec(
            select(RunRow).where(RunRow.group == group, RunRow.lane == lane, RunRow.live == 1)
        ).first()
        if row is None:
            return DrpilotError("journal-busy", path=self.database.shown)
        return self._busy(row)

    @staticmethod
    def _busy(row: RunRow) -> DrpilotError:
        name = f"{row.group}/{row.number}"
        return DrpilotError(
            "lane-busy",
            run=name,
            lane=row.lane,
            group=row.group,
            since=rfc3339(from_micros(row.created_at)),
            by=row.by,
            data={"run": name, "lane": row.lane, "by": row.by},
        )

    @written
    def acquire(self, session: Session, run: str, holder: Holder) -> Lease | None:
        """The right to drive `run`, with a higher term; None while another living driver holds it. Raises `halted`.

        Take-over needs the lease to have run out, or, on the same host, the holder's process to be gone.
        """
        row = session.get(RunRow, run)
        if row is None or row.live != 1:
            return None
        halting.refuse(session)
        now = self.database.now(session, self.clock)
        before = from_plain(Holder, unpack(row.holder)) if row.holder else None
        held = before is not None and row.lease_until > now and not is_gone(before)
        if held and before != holder:
            return None
        row.term += 1
        row.holder = pack_value(holder)
        row.lease_until = now + _LEASE_US
        session.add(row)
        writer = Writer(session, self.clock.now(), holder.person, row.group, row)
        writer.event(
            "acquired", {"term": row.term, "holder": holder.text, "from": before.text if before else None}
        )
        return Lease(row.id, holder, row.term, row.group, row.number)

    def _held(self, session: Session, lease: Lease) -> bool:
        """The guard, first in each write of a run: keeps the lease alive, or finds it in other hands."""
        given = {"of_run": lease.run, "of_term": lease.term, "of_holder": _packed(lease.holder)}
        if self.database.sqlite:
            given["at"] = micros(self.clock.now())
        guard = _GUARD if self.database.sqlite else _GUARD_ON_SERVER
        return guard.run(session.connection(), given).rowcount == 1

    def _guarded(self, session: Session, lease: Lease) -> None:
        if not self._held(session, lease):
            raise self._superseded(session.get_one(RunRow, lease.run))

    @staticmethod
    def _superseded(row: RunRow) -> Superseded:
        by = from_plain(Holder, unpack(row.holder)).text if row.holder else "nobody"
        return Superseded(f"{row.group}/{row.number}", by)

    def commit(self, lease: Lease, changes: Sequence[Change]) -> News:
        """Write `changes` in one guarded transaction: one crash point. Gives what a view of the run then lacks, the
        steps that were changed among it. Raises `Superseded`.
        """
        if self.before_commit is not None:
            self.before_commit(changes)
        news = self._commit(lease, changes)
        if isinstance(news, Superseded):
            raise news
        if self.after_commit is not None:
            self.after_commit(changes)
        return news

    @written
    def _commit(self, session: Session, lease: Lease, changes: Sequence[Change]) -> Superseded | News:
        """What refused the writer, if anything did: then only what it saw is kept, and none of it applied."""
        held = self._held(session, lease)
        key = self._key(session, lease)
        writer = Writer(session, self.clock.now(), lease.holder.person, key.group, key)
        if not held:
            for change in changes:
                if isinstance(change, Outcome):
                    writer.late(change, term=lease.term)
            return self._superseded(session.get_one(RunRow, lease.run))
        writer.apply_all(changes)
        session.flush()
        return views.news(session.connection(), lease.run, writer.ledger.seen())

    @staticmethod
    def _key(session: Session, lease: Lease) -> RunKey:
        if not lease.group:
            row = session.get_one(RunRow, lease.run)
            return RunKey(row.id, row.group, row.number, lease.term)
        return RunKey(lease.run, lease.group, lease.number, lease.term)

    @written
    def renew(self, session: Session, lease: Lease) -> None:
        """Keep the lease alive; raises `Superseded`."""
        self._guarded(session, lease)

    @written
    def release(self, session: Session, lease: Lease) -> None:
        """Give the run to whoever comes next; silent when it was taken over already."""
        row = session.get_one(RunRow, lease.run)
        if row.term == lease.term:
            row.lease_until, row.holder = 0, None
            session.add(row)

    @written
    def checkpoint(
        self, session: Session, lease: Lease, path: str, number: int, state: dict[str, Any]
    ) -> None:
        """Store an attempt's progress; a later attempt of the step gets it back."""
        self._guarded(session, lease)
        row = session.get_one(AttemptRow, (lease.run, path, number))
        row.checkpoint = pack(state)
        session.add(row)

    # -- orders of people -----------------------------------------------------------------------------------

    @written
    def post(  # noqa: PLR0913 - the columns of one row
        self,
        session: Session,
        run: str,
        kind: str,
        by: str,
        *,
        step: str | None = None,
        comment: str = "",
        data: dict[str, Any] | None = None,
    ) -> str:
        """Insert an order (approve, decline, pause, resume, cancel, retry, skip, settle, commit, rollback)."""
        return self._post(session, run, kind, by, step=step, comment=comment, data=data)

    def _post(  # noqa: PLR0913 - the columns of one row
        self,
        session: Session,
        run: str,
        kind: str,
        by: str,
        *,
        step: str | None = None,
        comment: str = "",
        data: dict[str, Any] | None = None,
    ) -> str:
        request = self.new_id()
        session.add(
            RequestRow(
                id=request,
                run=run,
                kind=kind,
                by=by,
                at=micros(self.clock.now()),
                step=step,
                comment=comment,
                data=pack(data or {}),
            )
        )
        session.flush()
        return request

    @reading
    def answered(self, session: Session, request: str) -> tuple[bool, str]:
        """Whether an order was read, and why it had no effect (empty if it had)."""
        row = session.get_one(RequestRow, request)
        return row.settled_at is not None, row.refused

    @reading
    def unread(self, session: Session, run: str) -> bool:
        """Whether a person's order waits to be read: what an idle driver asks each half second."""
        query = select(RequestRow.id).where(RequestRow.run == run, col(RequestRow.settled_at).is_(None))
        return session.exec(query).first() is not None

    # -- reading --------------------------------------------------------------------------------------------

    @reading
    def view(self, session: Session, run: str) -> RunView:
        """One run by id, `GROUP/NUMBER` or group name (its live, else latest run)."""
        row = session.get(RunRow, run) or views.find_run(session, run)
        return views.run_view(session, row, self.skew(session))

    @reading
    def news(self, session: Session, run: str) -> News:
        """What others may have changed about a run while one driver held it: a view that lacks it is `followed` up."""
        return views.news(session.connection(), run)

    @reading
    def runs(
        self, session: Session, group: str | None = None, *, live: bool = False, limit: int = 50
    ) -> tuple[RunView, ...]:
        """Runs, newest first."""
        query = select(RunRow).order_by(col(RunRow.created_at).desc(), col(RunRow.number).desc()).limit(limit)
        if group is not None:
            query = query.where(RunRow.group == group)
        if live:
            query = query.where(RunRow.live == 1)
        skew = self.skew(session)
        return tuple(views.run_view(session, row, skew) for row in session.exec(query).all())

    @reading
    def attempts(self, session: Session, run: str) -> list[tuple[str, Any]]:
        """Every attempt of a run as (step path, AttemptView), in order."""
        rows = session.exec(
            select(AttemptRow)
            .where(AttemptRow.run == run)
            .order_by(col(AttemptRow.intended_at), AttemptRow.path, col(AttemptRow.number))
        )
        return [(row.path, views.attempt_view(row)) for row in rows]

    @reading
    def first_intent(self, session: Session, run: str, path: str, round_: int) -> Any:
        """When the first intent of a step's round became durable; now, where there is none."""
        query = select(func.min(AttemptRow.intended_at)).where(
            AttemptRow.run == run, AttemptRow.path == path, AttemptRow.round == round_
        )
        value: int | None = session.exec(query).one()
        return self.clock.now() if value is None else from_micros(value)

    @reading
    def points(self, session: Session, group: str, *, deleted: bool = False) -> tuple[RecoveryPoint, ...]:
        """The group's recovery points, newest first."""
        return views.points_of(session, group, deleted=deleted)

    def point(self, group: str, text: str) -> RecoveryPoint:
        """The point with id `text` or a unique beginning of it; raises `unknown-point`."""
        found = [point for point in self.points(group, deleted=True) if point.id.startswith(text)]
        exact = [point for point in found if point.id == text]
        if len(exact or found) != 1:
            raise DrpilotError(
                "unknown-point", point=text, group=group, why="" if not found else "several begin so"
            )
        return (exact or found)[0]

    @reading
    def standbys(self, session: Session, group: str) -> tuple[StandbyView, ...]:
        """Every standby of the group."""
        return views.standbys_of(session, group)

    @reading
    def events(
        self, session: Session, *, run: str | None = None, group: str | None = None, after: int = 0
    ) -> list[chain.Event]:
        """Events of a run's chain, or all of a group's, or all."""
        return chain.events(session, chain=run, group=group, after=after)

    def pin(self, group: str, point: str, by: str | None) -> None:
        """Keep a point from retention until unpinned (`by` None)."""
        self._pin(group, self.point(group, point).id, by)

    @written
    def _pin(self, session: Session, group: str, point: str, by: str | None) -> None:
        row = session.get_one(PointRow, point)
        row.pinned_by = by
        session.add(row)
        Writer(session, self.clock.now(), by or "", group).event("pinned", {"point": row.id, "by": by})

    @written
    def change(self, session: Session, group: str, moves: Sequence[Move], by: str, reason: str = "") -> None:
        """Lifecycle facts outside any run (protect, degrade, quarantine, retire), in one transaction."""
        writer = Writer(session, self.clock.now(), by, group)
        if reason:
            writer.event("note", {"note": "reason", "text": reason})
        for move in moves:
            writer.move(move)


def approvals_of(run: RunView, gate: str) -> tuple[Approval, ...]:
    """The approvals of one gate."""
    return tuple(approval for approval in run.approvals if approval.gate == gate)
