"""Rows to values: what the engine, status and reports read. Nothing here writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, and_, bindparam
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, select

from drpilot.base.clock import from_micros
from drpilot.base.errors import DrpilotError
from drpilot.domain.burst import Burst, burst_of
from drpilot.domain.group import Group
from drpilot.domain.plain import from_plain
from drpilot.domain.plan import Approval, Call, Plan, Proposal
from drpilot.domain.point import RecoveryPoint, Replica
from drpilot.domain.ports import StandbyView
from drpilot.domain.run import AttemptView, Failure, Holder, Request, RunView, StepView
from drpilot.journal import ledger
from drpilot.journal.body import moment, unpack
from drpilot.journal.ledger import AttemptRecord, StepRecord
from drpilot.journal.prepared import Prepared
from drpilot.journal.tables import (
    ApprovalRow,
    AttemptRow,
    FindingRow,
    GroupRow,
    PointRow,
    ReplicaRow,
    RequestRow,
    RunRow,
    ScheduleRow,
    ServiceRow,
    SiteRow,
    StandbyRow,
    metadata,
)

__all__ = ["FindingView", "GroupView", "News", "ScheduleView", "ServiceView", "SiteView", "followed"]


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group with its state; `group` is the Group value with the members last seen."""

    name: str
    state: str
    active: str
    epoch: int
    group: Group
    document: str = ""
    fences: Mapping[str, Any] = field(default_factory=dict)
    invalidated: tuple[str, ...] = ()
    conditions: Mapping[str, Any] = field(default_factory=dict)
    locked_by: str | None = None
    locked_reason: str | None = None
    locked_at: datetime | None = None
    moved_at: datetime | None = None
    acknowledged_at: datetime | None = None
    created_at: datetime | None = None
    changed_at: datetime | None = None
    came_from: str = ""
    burst: Burst = field(default_factory=Burst)

    @property
    def standing(self) -> str:
        """The site that is not active: where a failover would go."""
        return self.group.other(self.active)


@dataclass(frozen=True, slots=True)
class SiteView:
    """What is known of a site, with ages."""

    name: str
    account: str
    region: str
    answers: bool | None
    detail: str
    last_seen_at: datetime | None
    last_looked_at: datetime | None
    silent_since: datetime | None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """When something is due."""

    group: str
    kind: str
    next_at: datetime
    last_at: datetime | None


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A `drpilot serve` and its last heartbeat."""

    id: str
    holder: Holder
    started_at: datetime
    heartbeat_at: datetime


@dataclass(frozen=True, slots=True)
class FindingView:
    """Something a check found."""

    group: str
    word: str
    subject: str
    severity: str
    message: str
    hint: str
    first_at: datetime
    last_at: datetime


@lru_cache(maxsize=256)
def _plan(body: str) -> Plan:
    return from_plain(Plan, unpack(body))


@lru_cache(maxsize=64)
def _group_body(body: str) -> Group:
    return from_plain(Group, unpack(body))


def group_view(row: GroupRow) -> GroupView:
    """A group row as a value."""
    return GroupView(
        row.name,
        row.state,
        row.active,
        row.epoch,
        _group_body(row.body),
        row.document,
        unpack(row.fences),
        tuple(unpack(row.invalidated)),
        unpack(row.conditions),
        row.locked_by,
        row.locked_reason,
        moment(row.locked_at),
        moment(row.moved_at),
        moment(row.acknowledged_at),
        from_micros(row.created_at),
        from_micros(row.changed_at),
        row.came_from,
        burst_of(unpack(row.burst)),
    )


def site_view(row: SiteRow) -> SiteView:
    """A site row as a value."""
    return SiteView(
        row.name,
        row.account,
        row.region,
        row.answers,
        row.detail,
        moment(row.last_seen_at),
        moment(row.last_looked_at),
        moment(row.silent_since),
        row.refusal,
    )


def point_view(row: PointRow, replicas: list[ReplicaRow], pins: frozenset[str]) -> RecoveryPoint:
    """A point with its replicas and who pins it."""
    kept = pins | ({row.pinned_by} if row.pinned_by else frozenset())
    return RecoveryPoint(
        id=row.id,
        group=row.group,
        source=row.source,
        site=row.site,
        state=row.state,
        requested_at=from_micros(row.requested_at),
        captured_at=moment(row.captured_at),
        completed_at=moment(row.completed_at),
        proven_at=moment(row.proven_at),
        proven_by=row.proven_by,
        replicas=tuple(
            Replica(
                r.member,
                r.kind,
                r.site,
                r.source_id,
                r.resource,
                r.tier,
                r.size_gib,
                {**unpack(r.facts), "state": r.state},
            )
            for r in replicas
        ),
        pins=frozenset(kept),
        facts=unpack(row.facts),
    )


def points_of(session: Session, group: str, *, deleted: bool = False) -> tuple[RecoveryPoint, ...]:
    """The group's points, newest first."""
    query = select(PointRow).where(PointRow.group == group)
    query = query.order_by(col(PointRow.requested_at).desc(), col(PointRow.id).desc())
    if not deleted:
        query = query.where(PointRow.state != "deleted")
    rows = session.exec(query).all()
    replicas: dict[str, list[ReplicaRow]] = {}
    for replica in session.exec(
        select(ReplicaRow)
        .where(col(ReplicaRow.point).in_([row.id for row in rows]))
        .order_by(col(ReplicaRow.kind), col(ReplicaRow.member))
    ):
        replicas.setdefault(replica.point, []).append(replica)
    pins: dict[str, set[str]] = {}
    for run in session.exec(select(RunRow).where(RunRow.group == group, RunRow.live == 1)):
        if run.point:
            pins.setdefault(run.point, set()).add(run.id)
    burst = burst_of(unpack(session.get_one(GroupRow, group).burst))
    if burst.running:
        pins.setdefault(burst.point, set()).add(f"burst {burst.run}")
    return tuple(point_view(row, replicas.get(row.id, []), frozenset(pins.get(row.id, ()))) for row in rows)


def standbys_of(session: Session, group: str) -> tuple[StandbyView, ...]:
    """Every standby of the group on both sites."""
    query = select(StandbyRow).where(StandbyRow.group == group)
    rows = session.exec(query.order_by(col(StandbyRow.tier), col(StandbyRow.site)))
    return tuple(StandbyView(row.tier, row.site, row.state, unpack(row.facts)) for row in rows)


def schedule_view(row: ScheduleRow) -> ScheduleView:
    """A schedule row as a value."""
    return ScheduleView(row.group, row.kind, from_micros(row.next_at), moment(row.last_at))


def service_view(row: ServiceRow, skew_us: int = 0) -> ServiceView:
    """A service row as a value; `skew_us` as for a run."""
    return ServiceView(
        row.id,
        from_plain(Holder, unpack(row.holder)),
        from_micros(row.started_at + skew_us),
        from_micros(row.heartbeat_at + skew_us),
    )


def finding_view(row: FindingRow) -> FindingView:
    """A finding row as a value."""
    return FindingView(
        row.group,
        row.word,
        row.subject,
        row.severity,
        row.message,
        row.hint,
        from_micros(row.first_at),
        from_micros(row.last_at),
    )


def _failure(text: str | None) -> Failure | None:
    return from_plain(Failure, unpack(text)) if text else None


def attempt_view(row: AttemptRow | AttemptRecord) -> AttemptView:
    """An attempt row as a value."""
    return AttemptView(
        row.number,
        row.round,
        row.kind,
        row.token,
        row.state,
        row.term,
        row.action,
        unpack(row.given),
        from_micros(row.intended_at),
        moment(row.ended_at),
        _failure(row.failure),
        unpack(row.checkpoint) if row.checkpoint else None,
    )


def _step(plan: Plan, row: StepRecord, attempt: AttemptRecord | None) -> StepView:
    return StepView(
        planned=plan.steps[row.position],
        state=row.state,
        round=row.round,
        tries=row.tries,
        polls=row.polls,
        looks=row.looks,
        wake_at=moment(row.wake_at),
        looked_at=moment(row.looked_at),
        started_at=moment(row.started_at),
        ended_at=moment(row.ended_at),
        output=unpack(row.output) if row.output is not None else None,
        failure=_failure(row.failure),
        attempt=attempt_view(attempt) if attempt is not None else None,
        progress=row.progress,
        note=row.note,
        undo=from_plain(Call, unpack(row.undo)) if row.undo else None,
    )


def run_view(session: Session, row: RunRow, skew_us: int = 0) -> RunView:
    """A run with all its steps, approvals and unread requests.

    `skew_us` is by how much the reader's clock is ahead of the one that leases are measured by.
    """
    plan = _plan(row.plan)
    steps = {
        step.path: _step(plan, step, attempt) for step, attempt in ledger.read(session.connection(), row.id)
    }
    approvals = session.exec(
        select(ApprovalRow).where(ApprovalRow.run == row.id).order_by(col(ApprovalRow.id))
    )
    requests = session.exec(
        select(RequestRow)
        .where(RequestRow.run == row.id, col(RequestRow.settled_at).is_(None))
        .order_by(col(RequestRow.at), col(RequestRow.id))
    )
    group = session.get_one(GroupRow, row.group)
    return RunView(
        id=row.id,
        name=f"{row.group}/{row.number}",
        number=row.number,
        group=row.group,
        mode=row.mode,
        lane=row.lane,
        state=row.state,
        plan=plan,
        steps=steps,
        created_at=from_micros(row.created_at),
        by=row.by,
        reason=row.reason,
        result=row.result,
        term=row.term,
        holder=from_plain(Holder, unpack(row.holder)) if row.holder else None,
        lease_until=moment(row.lease_until + skew_us) if row.lease_until else None,
        proposal=from_plain(Proposal, unpack(row.proposal)) if row.proposal else None,
        approvals=tuple(from_plain(Approval, unpack(approval.body)) for approval in approvals),
        requests=tuple(
            Request(r.id, r.run, r.kind, r.by, from_micros(r.at), r.step, r.comment, unpack(r.data))
            for r in requests
        ),
        group_state=group.state,
        epoch=group.epoch,
        fences=_fences(group.fences),
        started_at=moment(row.started_at),
        ended_at=moment(row.ended_at),
        expires_at=moment(row.expires_at),
        facts=unpack(row.facts),
    )


@dataclass(frozen=True, slots=True)
class News:
    """What a view of a run may lack: what people and other runs wrote beside its driver, and the steps of a commit."""

    state: str
    term: int
    group_state: str
    epoch: int
    fences: Mapping[str, str]
    requests: tuple[Request, ...] = ()
    steps: tuple[tuple[StepRecord, AttemptRecord | None], ...] = ()


_RUN, _GROUP, _REQUEST = metadata.tables["run"], metadata.tables["group"], metadata.tables["request"]
_UNREAD = _RUN.outerjoin(_REQUEST, and_(_REQUEST.c.run == _RUN.c.id, _REQUEST.c.settled_at.is_(None))).join(
    _GROUP, _GROUP.c.name == _RUN.c.group
)
_NEWS = Prepared(
    select_columns(_RUN.c.state, _RUN.c.term, _GROUP.c.state, _GROUP.c.epoch, _GROUP.c.fences)
    .add_columns(*(_REQUEST.c[name] for name in ("id", "run", "kind", "by", "at", "step", "comment", "data")))
    .select_from(_UNREAD)
    .where(_RUN.c.id == bindparam("of_run"))
    .order_by(_REQUEST.c.at, _REQUEST.c.id)
)


def news(
    connection: Connection, run: str, steps: tuple[tuple[StepRecord, AttemptRecord | None], ...] = ()
) -> News:
    """One small statement, whatever the run's length; `steps` are what the caller's own transaction wrote."""
    rows: Sequence[Any] = _NEWS.run(connection, {"of_run": run}).all()
    state, term, group_state, epoch, fences = rows[0][:5]
    requests = tuple(
        Request(r[5], r[6], r[7], r[8], from_micros(r[9]), r[10], r[11], unpack(r[12]))
        for r in rows
        if r[5] is not None
    )
    return News(state, term, group_state, epoch, _fences(fences), requests, steps)


def followed(view: RunView, news: News) -> RunView:
    """The view with the news in it. What the run itself is (state, result, times, approvals) stays as it was read."""
    steps = view.steps
    if news.steps:
        changed = {step.path: _step(view.plan, step, attempt) for step, attempt in news.steps}
        steps = {**steps, **changed}
    return replace(
        view,
        steps=steps,
        group_state=news.group_state,
        epoch=news.epoch,
        fences=news.fences,
        requests=news.requests,
    )


def _fences(text: str) -> dict[str, str]:
    return {site: entry["state"] for site, entry in unpack(text).items()}


def find_run(session: Session, text: str) -> RunRow:
    """The run called `GROUP/NUMBER`, or the live (else latest) run of a group; a move before copies and drills."""
    name, _, number = text.partition("/")
    if number:
        row = (
            session.exec(select(RunRow).where(RunRow.group == name, RunRow.number == int(number))).first()
            if re.fullmatch(r"[0-9]{1,9}", number)
            else None
        )
        if row is None:
            raise DrpilotError("unknown-run", run=text)
        return row
    if session.get(GroupRow, name) is None:
        by_id = session.get(RunRow, name)
        if by_id is not None:
            return by_id
        raise DrpilotError("unknown-group", group=name)
    rows = session.exec(select(RunRow).where(RunRow.group == name).order_by(col(RunRow.number).desc())).all()
    if not rows:
        raise DrpilotError("unknown-run", run=text, why=f"{name} has no run yet")
    order = {"move": 0, "practice": 1, "copy": 2}
    live = sorted((row for row in rows if row.live), key=lambda row: (order[row.lane], -row.number))
    return live[0] if live else rows[0]
