"""What the journal keeps beside runs: groups, members, sites seen, schedules, services, findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import Session, col, delete, select

from drpilot.base.clock import Clock, micros
from drpilot.base.errors import DrpilotError, Finding
from drpilot.domain.group import Group
from drpilot.domain.plain import from_plain
from drpilot.domain.run import Holder
from drpilot.journal import views
from drpilot.journal.apply import Writer
from drpilot.journal.body import pack, pack_value, unpack
from drpilot.journal.database import Database
from drpilot.journal.holder import SERVICE_S, is_gone
from drpilot.journal.tables import (
    FindingRow,
    GroupRow,
    MemberRow,
    ScheduleRow,
    ServiceRow,
    SiteRow,
    StandbyRow,
)
from drpilot.journal.transaction import reading, written

__all__ = ["Registry"]

_MICROSECOND = timedelta(microseconds=1)


def _is_held(next_at: int) -> bool:
    """Whether an occurrence is held by who begins it: it stands a microsecond after a whole second
    (services/watch.py).
    """
    return next_at % 1_000_000 == 1


class Registry:
    """Groups and the world around them."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.clock = clock

    def skew(self, session: Session) -> int:
        """By how many microseconds this host's clock is ahead of the one that leases are measured by."""
        return (
            0 if self.database.sqlite else micros(self.clock.now()) - self.database.now(session, self.clock)
        )

    # -- groups ---------------------------------------------------------------------------------------------

    @written
    def protect(self, session: Session, group: Group, document: str, by: str) -> views.GroupView:
        """Take a group's file in: a new group starts seeding, a known one gets its new text and members."""
        now = self.clock.now()
        row = session.get(GroupRow, group.name)
        writer = Writer(session, now, by, group.name)
        if row is None or row.state == "retired":
            state = writer.fire("group", group.name, "", "protect", {"mapped": True})
            fresh = row or GroupRow(
                name=group.name,
                state=state,
                active=group.primary,
                created_at=micros(now),
                changed_at=micros(now),
            )
            fresh.state, fresh.active, row = state, group.primary, fresh
            self._afresh(session, fresh)
        else:
            writer.event("group file", {"before": row.document, "after": document})
        row.body, row.document = pack_value(group), document
        session.add(row)
        session.flush()
        return views.group_view(row)

    @staticmethod
    def _afresh(session: Session, row: GroupRow) -> None:
        """A group that was retired begins again with nothing of its former life but its events and its epoch."""
        session.exec(delete(StandbyRow).where(col(StandbyRow.group) == row.name))
        row.fences, row.conditions, row.invalidated, row.came_from = "{}", "{}", "[]", ""
        row.burst = "{}"
        row.locked_by = row.locked_reason = None
        row.locked_at = row.moved_at = row.acknowledged_at = None

    @written
    def remember(self, session: Session, group: Group, site: str) -> None:
        """Store the members last seen on the active side; a failover finds them here when the source is dead."""
        now = micros(self.clock.now())
        row = session.get_one(GroupRow, group.name)
        row.body = pack_value(group)
        session.add(row)
        session.exec(delete(MemberRow).where(col(MemberRow.group) == group.name))
        for tier in group.tiers:
            for kind, key, resource, value in _members(tier):
                session.add(
                    MemberRow(
                        group=group.name,
                        tier=tier.name,
                        kind=kind,
                        key=key,
                        site=site,
                        resource=resource,
                        body=pack_value(value),
                        seen_at=now,
                    )
                )

    @reading
    def group(self, session: Session, name: str) -> views.GroupView:
        """One group; raises `unknown-group`."""
        row = session.get(GroupRow, name)
        if row is None:
            raise DrpilotError("unknown-group", group=name)
        return views.group_view(row)

    @reading
    def groups(self, session: Session) -> tuple[views.GroupView, ...]:
        """All groups by name, retired ones left out."""
        rows = session.exec(select(GroupRow).where(GroupRow.state != "retired").order_by(GroupRow.name))
        return tuple(views.group_view(row) for row in rows)

    @written
    def lock(self, session: Session, group: str, by: str, reason: str | None) -> None:
        """Stop all moves of a group (`reason` given), or let them go on again (None)."""
        now = self.clock.now()
        row = session.get(GroupRow, group)
        if row is None:
            raise DrpilotError("unknown-group", group=group)
        row.locked_by = by if reason is not None else None
        row.locked_reason, row.locked_at = reason, micros(now) if reason is not None else None
        session.add(row)
        Writer(session, now, by, group).event(
            "locked" if reason is not None else "unlocked", {"reason": reason}
        )

    @written
    def acknowledge(self, session: Session, group: str, by: str, reason: str) -> None:
        """A person has seen the last move: the pause against flapping is over."""
        now = self.clock.now()
        row = session.get(GroupRow, group)
        if row is None:
            raise DrpilotError("unknown-group", group=group)
        row.acknowledged_at = micros(now)
        session.add(row)
        Writer(session, now, by, group).event("acknowledged", {"reason": reason})

    @written
    def refused(self, session: Session, group: str, by: str, told: Mapping[str, str]) -> None:
        """A person's wish that a rule refused, as an event of the group: why, and what they were told to do next."""
        if session.get(GroupRow, group) is not None:
            Writer(session, self.clock.now(), by, group).event("refused", told)

    @written
    def set_condition(  # noqa: PLR0913 - one condition
        self,
        session: Session,
        group: str,
        name: str,
        value: bool | None,
        reason: str,
        *,
        unbroken: timedelta | None = None,
    ) -> None:
        """A condition beside the state, with its reason and since when; unknown (None) is not false.

        With `unbroken` it is so since now where the look before this one lies further back: nobody knows what was
        between them.
        """
        now = micros(self.clock.now())
        row = session.get_one(GroupRow, group)
        conditions = unpack(row.conditions)
        before = conditions.get(name, {})
        since = before.get("since", now) if before.get("value") == value else now
        if unbroken is not None and now - before.get("looked_at", now) > unbroken // _MICROSECOND:
            since = now
        conditions[name] = {"value": value, "reason": reason, "since": since, "looked_at": now}
        row.conditions = pack(conditions)
        session.add(row)

    # -- sites ----------------------------------------------------------------------------------------------

    @written
    def saw(  # noqa: PLR0913 - the columns of one row
        self,
        session: Session,
        name: str,
        *,
        answers: bool,
        detail: str = "",
        account: str = "",
        region: str = "",
        refusal: str = "",
    ) -> None:
        """A look at a site: a sign of life, or silence with its reason.

        `refusal` is the catalogue's word where it answered but would not serve us, which is a sign of life too;
        `no-credentials` says that nobody asked.
        """
        now = micros(self.clock.now())
        row = session.get(SiteRow, name) or SiteRow(name=name)
        row.answers, row.detail, row.last_looked_at = answers, detail, now
        row.account, row.region = account or row.account, region or row.region
        row.refusal = refusal
        if answers or refusal not in ("", "no-credentials"):
            row.last_seen_at = now
        row.silent_since = None if answers else row.silent_since or now
        session.add(row)

    @reading
    def site(self, session: Session, name: str) -> views.SiteView | None:
        """What is known of a site, None where it was never looked at."""
        row = session.get(SiteRow, name)
        return views.site_view(row) if row is not None else None

    @reading
    def sites(self, session: Session) -> tuple[views.SiteView, ...]:
        """All sites ever looked at."""
        return tuple(views.site_view(row) for row in session.exec(select(SiteRow).order_by(SiteRow.name)))

    # -- schedules and services -----------------------------------------------------------------------------

    @written
    def plan_next(self, session: Session, group: str, kind: str, next_at: datetime) -> None:
        """Make something due at `next_at` unless it is scheduled already."""
        if session.get(ScheduleRow, (group, kind)) is None:
            session.add(ScheduleRow(group=group, kind=kind, next_at=micros(next_at)))

    @written
    def hasten(self, session: Session, group: str, kind: str, at: datetime) -> bool:
        """Make something due at `at`, or earlier than it was; False where it is due by then already.

        An occurrence that a service holds is left to who holds it.
        """
        row = session.get(ScheduleRow, (group, kind))
        if row is None:
            session.add(ScheduleRow(group=group, kind=kind, next_at=micros(at)))
            return True
        if row.next_at <= micros(at) or _is_held(row.next_at):
            return False
        row.next_at = micros(at)
        session.add(row)
        return True

    @written
    def claim(self, session: Session, due: views.ScheduleView, next_at: datetime, by: str) -> bool:
        """Take one due occurrence by compare-and-set; False when another service took it.

        `last_at` is the moment the occurrence was due at, also where it is taken from a service that held it:
        whether its run was begun is told by that.
        """
        row = session.get(ScheduleRow, (due.group, due.kind))
        if row is None or row.next_at != micros(due.next_at):
            return False
        held_on = _is_held(row.next_at) and _is_held(micros(next_at)) and row.last_at is not None
        row.last_at = row.last_at if held_on else row.next_at
        row.next_at, row.last_by = micros(next_at), by
        session.add(row)
        return True

    @written
    def unschedule(self, session: Session, group: str, kind: str | None = None) -> None:
        """Forget what is due for a group."""
        query = delete(ScheduleRow).where(col(ScheduleRow.group) == group)
        session.exec(query if kind is None else query.where(col(ScheduleRow.kind) == kind))

    @reading
    def schedules(self, session: Session) -> tuple[views.ScheduleView, ...]:
        """Everything scheduled, soonest first."""
        rows = session.exec(
            select(ScheduleRow).order_by(col(ScheduleRow.next_at), ScheduleRow.group, ScheduleRow.kind)
        )
        return tuple(views.schedule_view(row) for row in rows)

    @written
    def heartbeat(self, session: Session, service: str, holder: Holder) -> None:
        """A service says that it lives."""
        now = self.database.now(session, self.clock)
        row = session.get(ServiceRow, service) or ServiceRow(id=service, started_at=now, heartbeat_at=now)
        row.holder, row.heartbeat_at = pack_value(holder), now
        session.add(row)

    @written
    def sign_off(self, session: Session, service: str) -> None:
        """A service ends in good order."""
        session.exec(delete(ServiceRow).where(col(ServiceRow.id) == service))

    @reading
    def services(self, session: Session) -> tuple[views.ServiceView, ...]:
        """The services that live: a fresh heartbeat, and on this host a process that is there."""
        rows = session.exec(select(ServiceRow).order_by(col(ServiceRow.started_at), col(ServiceRow.id))).all()
        skew = self.skew(session) if rows else 0
        oldest = micros(self.clock.now()) - skew - round(SERVICE_S * 1_000_000)
        return tuple(
            views.service_view(row, skew)
            for row in rows
            if row.heartbeat_at >= oldest and not is_gone(from_plain(Holder, unpack(row.holder)))
        )

    # -- findings -------------------------------------------------------------------------------------------

    @written
    def found(self, session: Session, group: str, findings: Sequence[Finding]) -> None:
        """Replace what is open for a group: new findings open, vanished ones close."""
        now = micros(self.clock.now())
        rows = {
            (row.word, row.subject): row
            for row in session.exec(select(FindingRow).where(FindingRow.group == group))
        }
        seen = set()
        for finding in findings:
            key = (finding.word, finding.message)
            seen.add(key)
            row = rows.get(key) or FindingRow(
                group=group,
                word=finding.word,
                subject=finding.message,
                severity=finding.severity,
                message=finding.message,
                first_at=now,
                last_at=now,
            )
            row.severity, row.hint, row.last_at, row.closed_at = finding.severity, finding.hint, now, None
            session.add(row)
        for key, row in rows.items():
            if key not in seen and row.closed_at is None:
                row.closed_at = now
                session.add(row)

    @reading
    def findings(self, session: Session, group: str) -> tuple[views.FindingView, ...]:
        """What is open for a group."""
        rows = session.exec(
            select(FindingRow)
            .where(FindingRow.group == group, col(FindingRow.closed_at).is_(None))
            .order_by(FindingRow.word, FindingRow.subject)
        )
        return tuple(views.finding_view(row) for row in rows)


def _members(tier: Any) -> list[tuple[str, str, str, Any]]:
    found: list[tuple[str, str, str, Any]] = [
        ("instance", instance.key, instance.id, instance) for instance in tier.instances
    ]
    if tier.scaling_group is not None:
        found.append(("scaling_group", tier.scaling_group.key, tier.scaling_group.key, tier.scaling_group))
    if tier.load_balancer is not None:
        found.append(("load_balancer", tier.load_balancer.key, tier.load_balancer.arn, tier.load_balancer))
    return found
