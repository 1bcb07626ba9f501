"""Applying one change of a run to the rows, inside the caller's guarded transaction.

Every state goes through `machine.fire`; every change is an event of the run's chain. Facts that only the journal
knows (is the point pinned, is it the last, is the lane held) are added here, so that no action can forget them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import Session, col, select

from drpilot.base.clock import from_micros, micros, parse_time
from drpilot.base.errors import invariant
from drpilot.domain.group import Group
from drpilot.domain.hysteresis import ONE_WRITER, STEADY, WITNESS_AGREES, standby_condition
from drpilot.domain.machine import fire
from drpilot.domain.plain import from_plain, to_plain
from drpilot.domain.plan import Approval, persons
from drpilot.domain.ports import Move
from drpilot.domain.run import Change, Intent, Note, Outcome, RunMove, Settled, StepMove
from drpilot.domain.states import FAMILIES
from drpilot.journal import bursts, chain
from drpilot.journal.body import pack, pack_value, stamp, unpack
from drpilot.journal.tables import (
    ApprovalRow,
    AttemptRow,
    GroupRow,
    PointRow,
    ReplicaRow,
    RequestRow,
    RunRow,
    StandbyRow,
    StepRow,
)

__all__ = ["Writer"]

_ENDED = frozenset(
    {"succeeded", "warned", "failed", "skipped", "ignored", "cancelled", "undone", "undo_failed"}
)
_OPEN = frozenset({"running", "waiting", "unknown", "undoing"})
_LOOKED = frozenset({"waits", "still waits", "there, not yet", "undo waits"})
_ATTEMPT_STATE = {
    "as wanted": "ok",
    "as wanted, with a warning": "ok",
    "undone": "ok",
    "waits": "waiting",
    "still waits": "waiting",
    "there, not yet": "waiting",
    "undo waits": "waiting",
    "transient failure": "failed",
    "failed": "failed",
    "undo failed": "failed",
    "reply lost": "unknown",
    "can't tell": "unknown",
    "not there": "cancelled",
}


@dataclass(slots=True)
class Writer:
    """Writes the changes of one transaction. `run` is None for changes outside any run."""

    session: Session
    now: datetime
    actor: str
    group: str
    run: RunRow | None = None

    @property
    def chain(self) -> str:
        """The event chain: the run's, or the group's own."""
        return self.run.id if self.run is not None else f"group:{self.group}"

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

    def apply(self, change: Change) -> None:
        """Write one change."""
        match change:
            case Intent():
                self._intent(change)
            case Outcome():
                self._outcome(change)
            case StepMove():
                self._step_move(change)
            case RunMove():
                self._run_move(change)
            case Settled():
                self._settled(change)
            case Note():
                self.event("note", {"note": change.kind, "text": change.text, "data": dict(change.data)})
            case Move():
                self.move(change)

    # -- the run's own rows ---------------------------------------------------------------------------------

    def _the_run(self) -> RunRow:
        invariant(self.run is not None, "a change of a run was written outside any run")
        assert self.run is not None
        return self.run

    def _step(self, path: str) -> StepRow:
        return self.session.get_one(StepRow, (self._the_run().id, path))

    def _key(self, path: str) -> str:
        run = self._the_run()
        return f"{run.group}/{run.number}:{path}"

    def _intent(self, intent: Intent) -> None:
        run, step = self._the_run(), self._step(intent.path)
        before = self.session.get(AttemptRow, (run.id, intent.path, step.attempt)) if step.attempt else None
        goes_on = before is not None and (before.round, before.kind) == (intent.round, intent.kind)
        event = "attempt started" if intent.kind == "do" else "undo"
        if not (intent.kind == "undo" and step.state == "undoing"):
            step.state = self.fire(
                "step", self._key(step.path), step.state, event, {}, number=intent.number, token=intent.token
            )
        step.attempt, step.round, step.wake_at, step.polls = intent.number, intent.round, None, 0
        step.tries += 1
        step.looks = 0
        step.started_at = step.started_at or micros(self.now)
        self.session.add(step)
        self.session.add(
            AttemptRow(
                run=run.id,
                path=intent.path,
                number=intent.number,
                round=intent.round,
                kind=intent.kind,
                token=intent.token,
                action=intent.action,
                given=pack(dict(intent.given)),
                state="intent",
                term=run.term,
                intended_at=micros(self.now),
                checkpoint=before.checkpoint if before is not None and goes_on else None,
            )
        )
        self.session.flush()

    def late(self, outcome: Outcome, *, term: int | None = None) -> None:
        """The attempt was given up meanwhile: what it came to is evidence, and is never applied.

        `term` is that of a writer who lost the run to another.
        """
        seen = {
            "step": outcome.path,
            "number": outcome.number,
            "event": outcome.event,
            "failure": to_plain(outcome.failure) if outcome.failure else None,
            "output": dict(outcome.output) if term is not None and outcome.output is not None else None,
            "term": term,
        }
        self.event("late outcome", seen)

    def _outcome(self, outcome: Outcome) -> None:
        step = self._step(outcome.path)
        failure = to_plain(outcome.failure) if outcome.failure else None
        if step.state not in _OPEN or step.attempt != outcome.number:
            self.late(outcome)
            return
        quiet = outcome.event in ("still waits", "can't tell") or (
            outcome.event == "undo waits" and step.polls > 0
        )
        stays = step.state == "undoing" and outcome.event in ("reply lost", "transient failure", "can't tell")
        if quiet and not stays:
            step.state = fire("step", step.path, step.state, outcome.event)
        elif not stays:
            step.state = self.fire(
                "step",
                self._key(step.path),
                step.state,
                outcome.event,
                {},
                failure=failure,
                note=outcome.note,
            )
        step.wake_at = stamp(outcome.wake_at)
        step.progress, step.note = outcome.progress, outcome.note
        if outcome.event in _LOOKED:
            step.looked_at = micros(self.now)
        step.polls += 1 if outcome.event in _LOOKED else 0
        step.looks = (
            step.looks + 1 if outcome.looked else (0 if outcome.event != "can't tell" else step.looks)
        )
        if outcome.event == "transient failure":
            step.round += 1
            step.tries -= 0 if outcome.counts else 1
        if outcome.failure is not None:
            step.failure = pack(failure)
        if outcome.output is not None and step.state != "undone":
            step.output = pack(dict(outcome.output))
            step.failure = None
        if outcome.undo is not None:
            step.undo = pack_value(outcome.undo)
        if step.state in _ENDED:
            step.ended_at, step.wake_at = micros(self.now), None
        self.session.add(step)
        attempt = self.session.get(AttemptRow, (self._the_run().id, outcome.path, outcome.number))
        if attempt is not None:
            attempt.state = _ATTEMPT_STATE.get(outcome.event, attempt.state)
            attempt.failure = pack(failure) if failure else attempt.failure
            attempt.ended_at = micros(self.now) if attempt.state not in ("waiting", "unknown") else None
            self.session.add(attempt)
        self.session.flush()
        for move in outcome.moves:
            self.move(move)

    def _step_move(self, move: StepMove) -> None:
        step = self._step(move.path)
        step.state = self.fire(
            "step", self._key(step.path), step.state, move.event, {}, reason=move.reason, by=move.by
        )
        step.wake_at = stamp(move.wake_at)
        if move.reason:
            step.note = move.reason
        if move.new_round:
            step.round += 1
            step.tries = 0
        if move.output is not None:
            step.output = pack(dict(move.output))
        step.looks = 0
        if step.state in _ENDED:
            step.ended_at = micros(self.now)
        elif step.state == "ready" and move.new_round:
            step.ended_at, step.started_at = None, None
        elif step.state == "waiting" and step.started_at is None:
            step.started_at = micros(self.now)
        self.session.add(step)
        self.session.flush()

    def _run_move(self, move: RunMove) -> None:
        run = self._the_run()
        name = f"{run.group}/{run.number}"
        run.state = self.fire(
            "run", name, run.state, move.event, {}, reason=move.reason, by=move.by, result=move.result
        )
        if move.data:
            run.facts = pack({**unpack(run.facts), **dict(move.data)})
        run.started_at = run.started_at or (micros(self.now) if run.state == "running" else None)
        if move.result is not None:
            run.result = move.result
        if run.state in FAMILIES["run"].final:
            run.ended_at, run.live, run.lease_until = micros(self.now), None, 0
            run.holder = None
            if run.lane == "move" and run.result in ("succeeded", "succeeded_with_warnings", "rolled_back"):
                group = self.session.get_one(GroupRow, run.group)
                group.moved_at, group.acknowledged_at = micros(self.now), None
                self.session.add(group)
        self.session.add(run)
        self.session.flush()

    def _settled(self, settled: Settled) -> None:
        request = self.session.get_one(RequestRow, settled.request)
        request.settled_at, request.refused = micros(self.now), settled.refused
        self.session.add(request)
        if settled.approval is not None:
            self.session.add(ApprovalRow(run=self._the_run().id, body=pack_value(settled.approval)))
        self.event(
            "request",
            {
                "request": request.kind,
                "by": request.by,
                "step": request.step,
                "comment": request.comment,
                "refused": settled.refused,
            },
        )

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
