"""One attempt: call the action, look at what became of it, and say so as an Outcome.

Three outcomes, not two. A success counts once `observe` has seen it; a lost reply is `unknown` and is settled by
looking; only a definite failure may be tried again with a fresh token.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from drpilot.base.errors import DrpilotError
from drpilot.base.log import logger
from drpilot.domain.operations import is_reading
from drpilot.domain.plain import Json
from drpilot.domain.plan import Call
from drpilot.domain.ports import (
    Action,
    Answer,
    CloudError,
    Done,
    FailureClass,
    Idempotency,
    StepFailed,
    Unseen,
    Waiting,
)
from drpilot.domain.run import Failure, Outcome, StepView
from drpilot.engine.context import StepContext
from drpilot.engine.decide import results
from drpilot.journal.journal import Superseded
from drpilot.runbook.expression import resolve, scope_of

__all__ = ["Phase", "execute"]

Phase = Literal["start", "poll", "look"]

LOOKS = 3  # consistent looks that saw nothing, before a thing counts as not there
POLL_FIRST_S = 0.25
POLL_FACTOR = 1.6
FULL_MAX_S = 60.0  # the longest pause of a step that waits for a place in the cloud
BACKOFF_GROWS = 100  # a factor of at most 10 then stays a number
POLL_GROWS = 20  # polls after which the pace stays as the action asks for: a copy is looked at for hours
UNDO_TRIES = 5
_JOURNAL = frozenset({"journal-unwritable", "journal-busy", "journal-unreadable", "journal-unreachable"})
_PASSING = frozenset(
    {
        FailureClass.THROTTLED,
        FailureClass.TRANSIENT,
        FailureClass.TIMEOUT,
        FailureClass.UNKNOWN,
        FailureClass.NOT_FOUND,
    }
)


@dataclass(frozen=True, slots=True)
class _Attempt:
    step: StepView
    number: int
    kind: str
    ctx: StepContext
    action: Action[Any, Any]
    now: datetime

    @property
    def undoing(self) -> bool:
        return self.kind == "undo"

    def outcome(self, event: str, **more: Any) -> Outcome:
        return Outcome(self.step.path, self.number, event, **more)

    def partial_undo(self) -> Call | None:
        """What would reverse an attempt that has not ended well: it may have done all, some or nothing."""
        planned = self.step.planned
        if self.undoing or not planned.undoes or planned.effect == "none" or planned.undo is not None:
            return None
        try:
            given = self.action.Input.model_validate(dict(self.ctx.attempt.given))
        except ValidationError:
            return None
        return self.action.undo(given, None)


def execute(action: Action[Any, Any], ctx: StepContext, phase: Phase) -> Outcome:
    """Carry out one phase of the step's present attempt. Never raises for what a cloud or an action may do; an error of
    the journal, or that the run is another's, ends the drive instead of the step.
    """
    attempt = _Attempt(ctx.step, ctx.attempt.number, ctx.attempt.kind, ctx, action, ctx.clock.now())
    outcome = _executed(attempt, phase)
    return outcome if outcome.output is not None else replace(outcome, undo=attempt.partial_undo())


def _executed(attempt: _Attempt, phase: Phase) -> Outcome:
    action, ctx = attempt.action, attempt.ctx
    try:
        given = action.Input.model_validate(dict(ctx.attempt.given))
    except ValidationError as error:
        text = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        return _failed(attempt, Failure("invalid", "DRP-2010", f"input of {action.name}: {text}"))
    try:
        if phase == "start" or (phase == "look" and action.idempotency is Idempotency.PURE):
            return _answered(attempt, given, _started(action, ctx, given), phase)
        answer = action.observe(ctx, given)
        return _looked(attempt, given, answer) if phase == "look" else _polled(attempt, given, answer)
    except StepFailed as error:
        return _failed(attempt, Failure(error.kind.value, "", error.message, error.data))
    except CloudError as error:
        return _cloud_error(attempt, error, phase)
    except Superseded:
        raise  # the run is another's: nothing that was learnt here may be written, and it is no bug
    except DrpilotError as error:
        if error.word in _JOURNAL:
            raise  # it says nothing about the world; whoever drives next finds the intent, and looks
        return _failed(attempt, Failure("precondition", error.row.code, error.title, {"hint": error.hint}))
    except Exception as error:  # noqa: BLE001 - the edge: a bug in an action must not take the driver down
        logger("engine").exception("action_raised", action=action.name, step=ctx.path)
        return _failed(
            attempt, Failure("rejected", "DRP-9001", f"internal error in {action.name}: {error!r}")
        )


def _started(action: Action[Any, Any], ctx: StepContext, given: BaseModel) -> Answer[Any]:
    answer = action.start(ctx, given)
    if isinstance(answer, Done) and action.idempotency is not Idempotency.PURE:
        seen = action.observe(ctx, given)
        if isinstance(seen, Unseen):
            return Waiting({}, after_s=2.0, note=f"answered success, not visible yet: {seen.why}")
        return seen
    return answer


def _done(attempt: _Attempt, given: BaseModel, done: Done[Any]) -> Outcome:
    output: Json = done.output.model_dump(mode="json")
    if attempt.undoing:
        return attempt.outcome("undone", moves=done.moves, note=done.warning)
    planned = attempt.step.planned
    undo = None
    if planned.undoes:
        undo = _own_undo(attempt, output) if planned.undo else attempt.action.undo(given, done.output)
    event = "as wanted, with a warning" if done.warning else "as wanted"
    note = done.warning or done.note
    return attempt.outcome(event, output=output, moves=done.moves, note=note, undo=undo, progress=1.0)


def _own_undo(attempt: _Attempt, output: Json) -> Call:
    """The undo a runbook gives itself, its expressions resolved now that the step's own output is known."""
    planned, steps = attempt.step.planned, attempt.ctx.view.steps
    assert planned.undo is not None
    known = ChainMap({attempt.step.path: {"state": "succeeded", "output": output}}, results(steps))  # type: ignore[arg-type]
    given = resolve(dict(planned.undo.given), scope_of(attempt.ctx.view.plan, planned, known))
    return Call(planned.undo.action, given)


def _waiting(attempt: _Attempt, answer: Waiting, event: str) -> Outcome:
    # The first looks come quickly, later ones at the pace the action asks for.
    delay_s = min(answer.after_s, POLL_FIRST_S * POLL_FACTOR ** min(attempt.step.polls, POLL_GROWS))
    return attempt.outcome(
        event,
        wake_at=attempt.now + timedelta(seconds=delay_s),
        progress=answer.progress,
        note=answer.note,
        moves=answer.moves,
    )


def _answered(attempt: _Attempt, given: BaseModel, answer: Answer[Any], phase: Phase) -> Outcome:
    if isinstance(answer, Done):
        return _done(attempt, given, answer)
    if isinstance(answer, Unseen):
        answer = Waiting({}, after_s=2.0, note=answer.why)
    event = "there, not yet" if phase == "look" else "waits"  # from unknown, or from running
    return _waiting(attempt, answer, "undo waits" if attempt.undoing else event)


def _polled(attempt: _Attempt, given: BaseModel, answer: Answer[Any]) -> Outcome:
    if isinstance(answer, Done):
        return _done(attempt, given, answer)
    if isinstance(answer, Unseen):
        answer = Waiting({}, after_s=5.0, note=answer.why)
    return _waiting(attempt, answer, "undo waits" if attempt.undoing else "still waits")


def _looked(attempt: _Attempt, given: BaseModel, answer: Answer[Any]) -> Outcome:
    if isinstance(answer, Done):
        return _done(attempt, given, answer)
    if isinstance(answer, Waiting):
        return _waiting(attempt, answer, "undo waits" if attempt.undoing else "there, not yet")
    if attempt.undoing:
        return attempt.outcome("transient failure", wake_at=attempt.now, note=answer.why)
    looks = attempt.step.looks + 1
    settled = looks >= LOOKS and attempt.now - attempt.ctx.intended_at >= timedelta(
        seconds=attempt.ctx.settle_s
    )
    kind = attempt.action.idempotency
    if (
        answer.certain
        or kind in (Idempotency.TOKEN, Idempotency.RERUN)
        or (settled and kind is Idempotency.OBSERVE)
    ):
        return _again(attempt, answer.why)
    if looks >= LOOKS and kind is Idempotency.ONCE:
        return attempt.outcome("can't tell", looked=True, note=f"person: {answer.why}")
    return attempt.outcome("can't tell", looked=True, wake_at=_later(attempt, looks), note=answer.why)


def _again(attempt: _Attempt, why: str) -> Outcome:
    """It did not happen: once more with the same token, after a pause, as often as the step may be tried."""
    tries = attempt.step.tries
    if tries >= attempt.step.planned.retry.attempts:
        return attempt.outcome(
            "failed", failure=Failure("unknown", "", f"called {tries} times, never seen: {why}")
        )
    wake_at = _backoff(attempt, tries - 1) if tries > 1 else None
    return attempt.outcome("not there", note=why, wake_at=wake_at)


def _later(attempt: _Attempt, count: int) -> datetime:
    return attempt.now + timedelta(seconds=min(15.0, POLL_FIRST_S * 2 ** min(count, POLL_GROWS)))


def _cloud_error(attempt: _Attempt, error: CloudError, phase: Phase) -> Outcome:
    failure = Failure(
        error.kind.value, error.code, f"{error.site} {error.operation}: {error.message}", _facts(error)
    )
    if phase == "look":
        return attempt.outcome("can't tell", failure=failure, wake_at=_later(attempt, attempt.step.tries + 2))
    if phase == "poll":
        if error.kind in _PASSING:
            return _waiting(attempt, Waiting({}, after_s=10.0, note=failure.message), _still(attempt))
        return _failed(attempt, failure)
    # A look that failed behind a change says nothing about the change: look again before anything is repeated.
    behind = attempt.ctx.changed() and error.kind in _PASSING and _reads(error)
    if (error.happened == "unknown" or behind) and attempt.action.idempotency is not Idempotency.PURE:
        return attempt.outcome("reply lost", failure=failure, wake_at=attempt.now)
    return _failed(attempt, failure)


def _reads(error: CloudError) -> bool:
    return is_reading(error.operation.rpartition(":")[2])


def _still(attempt: _Attempt) -> str:
    return "undo waits" if attempt.undoing else "still waits"


def _facts(error: CloudError) -> Mapping[str, str]:
    facts = {"site": error.site, "operation": error.operation, "request_id": error.request_id}
    return facts | {"happened": error.happened}


def _failed(attempt: _Attempt, failure: Failure) -> Outcome:
    retry = attempt.step.planned.retry
    tries = attempt.step.tries
    if attempt.undoing:
        last = tries >= UNDO_TRIES
        wake_at = None if last else _backoff(attempt, tries)
        return attempt.outcome(
            "undo failed" if last else "transient failure", failure=failure, wake_at=wake_at
        )
    if failure.kind == FailureClass.FULL.value:
        return _full(attempt, failure)
    if failure.kind in retry.errors and tries < retry.attempts:
        return attempt.outcome("transient failure", failure=failure, wake_at=_backoff(attempt, tries))
    return attempt.outcome("failed", failure=failure)


def _full(attempt: _Attempt, failure: Failure) -> Outcome:
    """Others use the cloud's places too: ask again later, which uses up no try, but not for longer than the timeout."""
    since = attempt.step.started_at or attempt.now
    if attempt.now - since >= timedelta(seconds=attempt.step.planned.timeout_s):
        return attempt.outcome("failed", failure=failure)
    pause = min(_backoff(attempt, attempt.number), attempt.now + timedelta(seconds=FULL_MAX_S))
    note = f"waits for a place: {failure.message}"
    return attempt.outcome("transient failure", failure=failure, wake_at=pause, note=note, counts=False)


def _backoff(attempt: _Attempt, tries: int) -> datetime:
    """Exponential, with jitter drawn from the attempt's own token, so that a replay waits as long."""
    retry = attempt.step.planned.retry
    ceiling_s = min(retry.max_s, retry.first_s * retry.factor ** min(max(0, tries - 1), BACKOFF_GROWS))
    share = 0.5 + int(attempt.ctx.token[:4], 16) / 0x1FFFE if retry.jitter else 1.0
    return attempt.now + timedelta(seconds=ceiling_s * share)
