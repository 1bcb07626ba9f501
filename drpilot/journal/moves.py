"""Events and lifecycle facts, written inside the caller's transaction: of points, replicas, standbys, fences, groups.

Every state goes through `machine.fire`; every change is an event of a chain. Facts that only the journal knows (is the
point pinned, is it the last, is the lane held) are added here, so that no action can forget them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import defer
from sqlmodel import Session, col, select

from drpilot.base.clock import from_micros, micros, parse_time
from drpilot.base.errors import invariant
from drpilot.domain.group import Group
from drpilot.domain.hysteresis import ONE_WRITER, STEADY, WITNESS_AGREES, standby_condition
from drpilot.domain.machine import fire
from drpilot.domain.plain import from_plain, to_plain
from drpilot.domain.plan import Approval, persons
from drpilot.domain.ports import Move
from drpilot.journal import bursts, chain
from drpilot.journal.body import pack, unpack
from drpilot.journal.tables import ApprovalRow, GroupRow, PointRow, ReplicaRow, RunRow, StandbyRow

__all__ = ["Book", "RunKey"]

_LEAN = [defer(getattr(RunRow, name)) for name in ("plan", "proposal")]


@dataclass(frozen=True, slots=True)
class RunKey:
    """What never changes of a run, and the term it is driven under: all that most changes of its steps need."""

    id: str
    group: str
    number: int
    term: int


@dataclass(slots=True)
class Book:
    """Writes events and lifecycle facts in one transaction. `whose` is None for changes outside any run."""

    session: Session
    now: datetime
    actor: str
    group: str
    whose: RunKey | RunRow | None = None
    _row: RunRow | None = field(default=None, init=False)

    @property
    def chain(self) -> str:
        """The event chain: the run's, or the group's own."""
        return self.whose.id if self.whose is not None else f"group:{self.group}"

    @property
    def run(self) -> RunRow | None:
        """The run's row, read when it is asked for; its plan, as long as the run has steps, comes later."""
        if self._row is None and isinstance(self.whose, RunRow):
            self._row = self.whose
        elif self._row is None and self.whose is not None:
            self._row = self.session.get_one(RunRow, self.whose.id, options=_LEAN)
        return self._row

    def event(self, kind: str, body: Mapping[str, Any]) -> None:
        """Append to the chain."""
        chain.append(
            self.session,
            chain=self.chain,
            group=self.group,
            kind=kind,
            at=self.now,
            actor=self.actor,
            body={key: value for key, value in body.items() if value not in (None, "", {}, ())},
        )

    def fire(
        self, family: str, key: str, state: str, event: str, facts: Mapping[str, Any], **more: Any
    ) -> str:
        """The new state by the lifecycle table, recorded."""
        to = fire(family, key, state, event, facts)
        self.event("moved", {"family": family, "key": key, "event": event, "from": state, "to": to, **more})
        return to

    # -- lifecycles of what the run works on ----------------------------------------------------------------

    def move(self, move: Move) -> None:
        """Apply a lifecycle fact handed back by an action."""
        match move.family:
            case "point":
                self._point(move)
            case "replica":
                self._replica(move)
            case "standby":
                self._standby(move)
            case "fence":
                self._fence(move)
            case "group":
                self._group(move)
            case "burst":
                bursts.apply(self, move)
            case _:
                invariant(False, f"no lifecycle family {move.family!r}")

    def _point(self, move: Move) -> None:
        row = self.session.get(PointRow, move.key)
        state = row.state if row is not None else ""
        if state and state in move.unless:
            return
        facts = {**self._point_facts(row), **move.facts}
        to = self.fire("point", move.key, state, move.event, facts, data=_plain(move.data))
        if row is None:
            row = PointRow(
                id=move.key,
                group=self.group,
                source=str(move.data["source"]),
                site=str(move.data["site"]),
                state=to,
                requested_at=micros(self.now),
            )
        row.state = to
        data = {key: value for key, value in move.data.items() if key not in ("source", "site")}
        for name in ("captured_at", "completed_at", "proven_at"):
            value = data.pop(name, None)
            if value is not None:
                setattr(row, name, micros(value if isinstance(value, datetime) else parse_time(str(value))))
        if to == "available" and row.completed_at is None:
            row.completed_at = micros(self.now)
        if to == "proven":
            row.proven_at = row.proven_at or micros(self.now)
            row.proven_by = f"{self.run.group}/{self.run.number}" if self.run else self.actor
        row.facts = pack({**unpack(row.facts), **_plain(data)})
        self.session.add(row)
        self.session.flush()

    def _point_facts(self, row: PointRow | None) -> dict[str, bool]:
        if row is None:
            return {}
        usable = self.session.exec(
            select(PointRow)
            .where(
                PointRow.group == row.group,
                PointRow.site == row.site,
                col(PointRow.state).in_(["available", "proven"]),
            )
            .order_by(col(PointRow.captured_at).desc().nulls_last())
        ).all()
        proven = [point.id for point in usable if point.state == "proven"]
        pins = self.session.exec(
            select(RunRow).where(RunRow.point == row.id, RunRow.live == 1, RunRow.lane != "copy")
        ).first()
        return {
            "pinned": pins is not None or row.pinned_by is not None or bursts.pins(self.session, row),
            "last_available": bool(usable) and usable[0].id == row.id,
            "last_proven": bool(proven) and proven[0] == row.id,
        }

    def _replica(self, move: Move) -> None:
        point, kind, member = move.key.split("|", 2)
        row = self.session.get(ReplicaRow, (point, kind, member))
        if row is None:
            row = ReplicaRow(point=point, kind=kind, member=member, state="capturing")
        if row.state in move.unless:
            return
        facts = {"within_window": True, "replicas_checked": True, "unseen": True, **move.facts}
        row.state = self.fire("point", move.key, row.state, move.event, facts, data=_plain(move.data))
        data = dict(move.data)
        row.tier = str(data.pop("tier", row.tier))
        row.site = str(data.pop("site", row.site))
        row.source_id = str(data.pop("source_id", row.source_id))
        row.resource = str(data.pop("id", row.resource))
        row.size_gib = int(data.pop("size_gib", row.size_gib))
        row.facts = pack({**unpack(row.facts), **_plain(data.pop("facts", {})), **_plain(data)})
        self.session.add(row)
        self.session.flush()

    def _standby(self, move: Move) -> None:
        tier, _, site = move.key.partition("@")
        row = self.session.get(StandbyRow, (self.group, tier, site))
        if row is None:
            row = StandbyRow(
                group=self.group, tier=tier, site=site, state="absent", changed_at=micros(self.now)
            )
        if row.state not in move.unless:
            key = f"{self.group}/{move.key}"
            row.state = self.fire("standby", key, row.state, move.event, move.facts, data=_plain(move.data))
            row.changed_at = micros(self.now)
            if move.event not in STEADY:
                self._forget(self.session.get_one(GroupRow, self.group), standby_condition(tier, site))
        row.facts = pack({**unpack(row.facts), **_plain(move.data)})
        self.session.add(row)
        self.session.flush()

    def _forget(self, group: GroupRow, *names: str) -> None:
        """Looks made in another state say nothing about this one: their streaks begin anew."""
        conditions = unpack(group.conditions)
        if any(name in conditions for name in names):
            group.conditions = pack({key: one for key, one in conditions.items() if key not in names})
            self.session.add(group)

    def _fence(self, move: Move) -> None:
        group = self.session.get_one(GroupRow, self.group)
        fences = unpack(group.fences)
        entry = fences.get(move.key, {"state": "none"})
        if entry["state"] in move.unless:
            return
        to = self.fire(
            "fence",
            f"{self.group}@{move.key}",
            entry["state"],
            move.event,
            move.facts,
            data=_plain(move.data),
        )
        fences[move.key] = {**entry, **_plain(move.data), "state": to, "at": micros(self.now)}
        group.fences = pack(fences)
        if move.event == "verified":
            self._forget(group, ONE_WRITER)
        self.session.add(group)
        self.session.flush()

    def _group(self, move: Move) -> None:
        group = self.session.get_one(GroupRow, self.group)
        if group.state in move.unless:
            return
        facts = {**self._group_facts(group), **move.facts}
        before = group.state
        group.state = self.fire("group", group.name, before, move.event, facts, data=_plain(move.data))
        if move.event == "undecidable":
            group.came_from = before
        group.active = str(move.data.get("active", group.active))
        group.epoch = int(move.data.get("epoch", group.epoch))
        if "invalidated" in move.data:
            group.invalidated = pack(list(move.data["invalidated"]))
        group.changed_at = micros(self.now)
        if move.event not in STEADY:
            self._forget(group, ONE_WRITER, WITNESS_AGREES)
        self.session.add(group)
        self.session.flush()
        if move.event == "retire":
            self._let_go()

    def _let_go(self) -> None:
        """With the group go its points and standbys: the run before saw that nothing of them is left."""
        points = self.session.exec(
            select(PointRow).where(PointRow.group == self.group, PointRow.state != "deleted")
        )
        for point in points.all():
            self.move(Move("point", point.id, "group retired", {"unseen": True}))
        standbys = self.session.exec(select(StandbyRow).where(StandbyRow.group == self.group))
        for standby in standbys.all():
            self.move(
                Move("standby", f"{standby.tier}@{standby.site}", "retire", unless=("retired", "active"))
            )

    def _group_facts(self, group: GroupRow) -> dict[str, bool]:
        cooldown = timedelta(seconds=from_plain(Group, unpack(group.body)).cooldown_s)
        cooled = (
            group.moved_at is None
            or group.acknowledged_at is not None
            or self.now >= from_micros(group.moved_at) + cooldown
        )
        glass = bool(unpack(self.run.proposal).get("break_glass")) if self.run is not None else False
        source = unpack(self.run.plan)["source"] if self.run is not None else ""
        live = self.session.exec(select(RunRow).where(RunRow.group == group.name, RunRow.live == 1)).first()
        return {
            "lane_held": self.run is not None and self.run.live == 1,
            "unlocked": group.locked_by is None,
            "cooled": cooled or glass,
            "live_run": live is not None,
            "two_persons": glass or len(self._persons("go")) >= 2,
            "fence_evidence": unpack(group.fences).get(source, {}).get("state") == "fenced",
            f"from_{group.came_from}": bool(group.came_from),
        }

    def _persons(self, gate: str) -> set[str]:
        """Who consented to a gate of this run."""
        if self.run is None:
            return set()
        rows = self.session.exec(select(ApprovalRow).where(ApprovalRow.run == self.run.id))
        return persons((from_plain(Approval, unpack(row.body)) for row in rows), gate)


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: to_plain(value) if isinstance(value, datetime) else value for key, value in dict(data).items()
    }
