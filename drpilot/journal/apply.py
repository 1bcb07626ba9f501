"""Applying one change of a run to the rows, inside the caller's guarded transaction.

Every state goes through `machine.fire`; every change is an event of the run's chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from drpilot.base.clock import micros
from drpilot.base.errors import invariant
from drpilot.domain.machine import fire
from drpilot.domain.plain import to_plain
from drpilot.domain.ports import Move
from drpilot.domain.run import Change, Intent, Note, Outcome, RunMove, Settled, StepMove
from drpilot.domain.states import FAMILIES
from drpilot.journal.body import pack, pack_value, stamp, unpack
from drpilot.journal.ledger import AttemptRecord, Ledger
from drpilot.journal.moves import Book, RunKey
from drpilot.journal.tables import (
    ApprovalRow,
    GroupRow,
    RequestRow,
    RunRow,
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
class Writer(Book):
    """Writes the changes of a run in one transaction; `event` and `move` serve all others."""

    _ledger: Ledger | None = field(default=None, init=False)

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

    def apply_all(self, changes: Sequence[Change]) -> None:
        """Write the changes of one commit, in their order."""
        self.ledger.load(change.path for change in changes if isinstance(change, (Intent, Outcome, StepMove)))
        for change in changes:
            self.apply(change)
        self.ledger.write()

    # -- the run's own rows ---------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        """The steps this transaction touches."""
        if self._ledger is None:
            self._ledger = Ledger(self.session.connection(), self._its().id)
        return self._ledger

    def _its(self) -> RunKey | RunRow:
        invariant(self.whose is not None, "a change of a run was written outside any run")
        assert self.whose is not None
        return self.whose

    def _the_run(self) -> RunRow:
        run = self.run
        invariant(run is not None, "a change of a run was written outside any run")
        assert run is not None
        return run

    def _key(self, path: str) -> str:
        run = self._its()
        return f"{run.group}/{run.number}:{path}"

    def _intent(self, intent: Intent) -> None:
        run, step = self._its(), self.ledger.step(intent.path)
        before = self.ledger.attempts.get(intent.path)
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
        self.ledger.begin(
            AttemptRecord(
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
        step = self.ledger.step(outcome.path)
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
        attempt = self.ledger.attempts.get(outcome.path)
        if attempt is not None:
            attempt.state = _ATTEMPT_STATE.get(outcome.event, attempt.state)
            attempt.failure = pack(failure) if failure else attempt.failure
            attempt.ended_at = micros(self.now) if attempt.state not in ("waiting", "unknown") else None
            self.ledger.ended(attempt)
        for move in outcome.moves:
            self.move(move)

    def _step_move(self, move: StepMove) -> None:
        step = self.ledger.step(move.path)
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
