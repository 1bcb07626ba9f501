"""The heart of the engine: what to do next, as a pure function of a run, the time and the room there is.

No clock, no chance, no cloud, no database: the same inputs give the same decision, so that schedules can be replayed
and every prefix of a run is a legal place to stop. The order of steps is the plan's alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from drpilot.base.errors import DrpilotError
from drpilot.base.ids import token
from drpilot.domain.ports import Move
from drpilot.domain.run import Decision, Failure, Intent, Outcome, RunView, StepView
from drpilot.domain.states import FAMILIES
from drpilot.engine import gates, orders, undoing
from drpilot.engine.agenda import OPEN, Agenda
from drpilot.engine.draft import NEED_FAILED, Draft
from drpilot.engine.places import Places, Room
from drpilot.runbook.expression import condition, resolve, scope_of

__all__ = ["Room", "decide", "results", "scope"]

_MOVING = ("switching_over", "failing_over", "rolling_back", "reprotecting")
NOT_MOVING = tuple(word for word in FAMILIES["group"].words if word not in _MOVING)


_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def decide(view: RunView, now: datetime, room: Room, agenda: Agenda | None = None) -> Decision:
    """The changes to commit now and the attempts to start, poll or look at; asked again after each outcome.

    `agenda` saves looking at every step; it changes what a decision costs, never what it is.

    Ready steps come first, because there are finitely many, in the order of the plan; then those that are due to be
    looked at, the longest due first. So none starves, however little room there is.
    """
    draft = Draft(view, now, agenda)
    if draft.over:
        return draft.decision()
    orders.read(draft)
    if draft.state == "created":
        draft.run_move("checks ok")
    _expire(draft)
    if draft.state == "cleaning":
        _let_go(draft, "the run was ended")
    if draft.state in ("running", "waiting", "cleaning"):
        _fail_late(draft, room)
        _advance(draft, room)
    elif draft.state in ("paused", "awaiting_commit", "cancelling"):
        _fail_late(draft, room)
        _watch(draft, room)
    if draft.state == "cancelling":
        _finish_cancel(draft, room)
    if draft.state == "rolling_back":
        _fail_late(draft, room)
        _watch(draft, room)
        undoing.advance(draft, room.busy)
    _crowd(draft, room)
    if draft.state in ("running", "cleaning"):
        _end(draft)
    return draft.decision()


def scope(steps: Mapping[str, StepView], view: RunView, step: StepView) -> dict[str, Any]:
    """What an expression of `step` sees: the plan's context, the frozen foreach variables, outputs so far."""
    return scope_of(view.plan, step.planned, results(steps))


def results(steps: Mapping[str, StepView]) -> Mapping[str, Mapping[str, Any]]:
    """What expressions may know of each step: its state, and its output where it has one."""
    return _Results(steps)


class _Results(Mapping[str, Mapping[str, Any]]):
    """Steps as expressions see them, made for those asked for: of a thousand steps an input names one or two."""

    def __init__(self, steps: Mapping[str, StepView]) -> None:
        self._steps = steps

    def __getitem__(self, path: str) -> Mapping[str, Any]:
        step = self._steps[path]
        return {"state": step.state, **({"output": dict(step.output)} if step.output is not None else {})}

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)


def _expire(draft: Draft) -> None:
    """The time of a drill, or of a proposal nobody answered, is over."""
    view = draft.view
    if view.expires_at is None or draft.now < view.expires_at:
        draft.wake(view.expires_at)
        return
    if draft.state == "waiting" and _asks_to_go(draft):
        draft.run_move("expired", reason="nobody answered in time", result="expired")
        _cancel_open(draft, "expired")
    elif draft.state in ("running", "paused") and view.lane == "practice":
        _abort(draft, "its time is over", result="expired")


def _asks_to_go(draft: Draft) -> bool:
    return any(step.planned.gate == "go" and step.state == "waiting" for step in draft.in_order())


def _crowd(draft: Draft, room: Room) -> None:
    """Of the steps due to be looked at, keep those that fit beside what is under way and what begins."""
    places = Places(draft.view.plan, draft.steps, room, draft.awake)
    for path in draft.start:
        places.take(draft.steps[path].planned)
    order = [*draft.poll, *draft.look]
    fitting = set()
    for path in sorted(order, key=lambda path: draft.steps[path].wake_at or _LONG_AGO):
        if places.fit(draft.steps[path].planned):
            places.take(draft.steps[path].planned)
            fitting.add(path)
    draft.poll = [path for path in draft.poll if path in fitting]
    draft.look = [path for path in draft.look if path in fitting]


def _advance(draft: Draft, room: Room) -> None:
    places = Places(draft.view.plan, draft.steps, room, draft.awake)
    for step in draft.alive():
        if step.state == "ready" and step.wake_at is None and step.planned.gate is None and places.full:
            continue  # most of a wide plan, most of the time
        if draft.state == "cleaning" and not step.planned.always:
            if step.state == "unknown":
                _look(draft, step.path, room)
            continue
        if step.state == "pending":
            _wake_pending(draft, step)
        if draft.steps[step.path].state == "waiting":
            _wait(draft, step.path, room)
        elif draft.steps[step.path].state == "unknown":
            _look(draft, step.path, room)
        if draft.steps[step.path].state == "ready":
            _ready(draft, step.path, places)
        if draft.steps[step.path].state == "failed":
            _failed(draft, step.path)


def _ready(draft: Draft, path: str, places: Places) -> None:
    step = draft.steps[path]
    if step.wake_at is not None and step.wake_at > draft.now:
        draft.wake(step.wake_at)
    elif draft.state in ("running", "waiting", "cleaning"):
        if step.planned.gate is not None:
            gates.reach(draft, path)
        elif places.fit(step.planned) and not places.queue(step):
            _begin(draft, path, places)


def _watch(draft: Draft, room: Room) -> None:
    """Nothing new starts, but what was started is followed to its end."""
    for step in draft.in_states("waiting", "unknown"):
        if step.state == "waiting" and step.planned.gate is None:
            if step.attempt is not None and step.attempt.state == "failed":
                continue
            _wait(draft, step.path, room)
        elif step.state == "unknown":
            _look(draft, step.path, room)


def _wake_pending(draft: Draft, step: StepView) -> None:
    needs = step.planned.needs
    if not all(draft.is_ended(need) for need in needs):
        return
    bad = [need for need in needs if not draft.is_satisfied(need)]
    if bad and any(draft.steps[need].state == "failed" for need in bad) and not step.planned.always:
        return  # a person decides about the failed need first
    if bad and not step.planned.always:
        draft.step_move(step.path, "left out", reason=NEED_FAILED + ", ".join(bad))
        return
    if step.planned.when is not None:
        try:
            wanted = condition(step.planned.when, scope(draft.steps, draft.view, step))
        except DrpilotError as error:
            _refuse_input(draft, step.path, error)
            return
        if not wanted:
            draft.step_move(step.path, "left out", reason=f"when: {step.planned.when}")
            return
    draft.step_move(step.path, "needs met")


def _begin(draft: Draft, path: str, places: Places) -> None:
    """Decide the intent of the next attempt of a ready step."""
    step = draft.steps[path]
    planned = step.planned
    assert planned.action is not None  # gates never come here
    try:
        given = resolve(dict(planned.given), scope(draft.steps, draft.view, step))
    except DrpilotError as error:
        _refuse_input(draft, path, error)
        return
    number = (step.attempt.number if step.attempt else 0) + 1
    key = token(draft.view.id, path, step.round, "do", given)
    draft.add(Intent(path, number, step.round, "do", key, planned.action, given))
    draft.set(path, state="running", tries=step.tries + 1, wake_at=None)
    draft.start.append(path)
    places.take(planned)
    places.hold(planned)


def _refuse_input(draft: Draft, path: str, error: DrpilotError) -> None:
    """An expression that can't be evaluated fails the step; an intent keeps the attempt visible."""
    step = draft.steps[path]
    number = (step.attempt.number if step.attempt else 0) + 1
    if step.state == "pending":
        draft.step_move(path, "needs met")
    draft.add(Intent(path, number, step.round, "do", f"input-{number}", step.planned.action or "gate", {}))
    failure = Failure("invalid", error.row.code, error.title)
    draft.add(Outcome(path, number, "failed", failure=failure))
    draft.set(path, state="failed", failure=failure)


def _wait(draft: Draft, path: str, room: Room) -> None:
    step = draft.steps[path]
    if step.planned.gate is not None:
        gates.consider(draft, path)
        return
    if path in room.busy:
        return
    if step.wake_at is not None and step.wake_at > draft.now:
        draft.wake(step.wake_at)
        return
    if step.attempt is not None and step.attempt.state == "failed":
        draft.step_move(path, "attempt due")
    else:
        draft.poll.append(path)


def _look(draft: Draft, path: str, room: Room) -> None:
    step = draft.steps[path]
    if path in room.busy:
        return
    if step.note.startswith("person:"):
        if draft.state == "running":
            if draft.view.lane == "move":
                draft.add(Move("group", draft.view.group, "undecidable", unless=NOT_MOVING))
            draft.run_move("pause", reason=f"step {path}: looking can't tell what happened")
        return
    if step.wake_at is not None and step.wake_at > draft.now:
        draft.wake(step.wake_at)
    else:
        draft.look.append(path)


def _fail_late(draft: Draft, room: Room) -> None:
    """A step that waits longer than its timeout fails; one still in a thread is bounded by its calls' timeouts."""
    for step in draft.in_states("waiting", "unknown"):
        if step.planned.gate or step.path in room.busy:
            continue
        if step.started_at is None or step.attempt is None or step.attempt.state == "failed":
            continue
        deadline = step.attempt.intended_at + timedelta(seconds=step.planned.timeout_s)
        if draft.now < deadline:
            draft.wake(deadline)
            continue
        if step.state == "waiting" and (step.looked_at is None or step.looked_at < deadline):
            continue  # it may have become as wanted while nobody looked: look once more first
        if step.state == "unknown" and draft.view.lane == "move":
            if draft.state == "running":
                draft.run_move("pause", reason=f"step {step.path}: its outcome is still unknown")
            continue
        detail = f"; last seen: {step.note}" if step.note else ""
        failure = Failure("timeout", "DRP-5010", f"not as wanted within {step.planned.timeout_s:g} s{detail}")
        draft.add(Outcome(step.path, step.attempt.number, "failed", failure=failure))
        draft.set(step.path, state="failed", failure=failure)


def _failed(draft: Draft, path: str) -> None:
    step = draft.steps[path]
    if step.planned.on_failure == "continue":
        draft.step_move(path, "ignore", by="policy", reason="on_failure: continue")
    elif step.planned.on_failure == "abort":
        _abort(draft, f"step {path} failed", result="failed")
    elif step.planned.always:
        return
    elif draft.state in ("running", "waiting"):
        text = step.failure.message if step.failure else ""
        draft.run_move("pause", reason=f"step {path} failed: {text}")


def _abort(draft: Draft, reason: str, *, result: str) -> None:
    """Stop the forward path; steps marked `always` still run."""
    if draft.result is None and draft.state in ("running", "paused") and _has_open_always(draft):
        draft.run_move("clean", reason=reason, result=result)
        _let_go(draft, reason)
    elif draft.state in ("running", "waiting", "paused"):
        draft.run_move("cancel", reason=reason, result=result)


def _has_open_always(draft: Draft) -> bool:
    return any(step.planned.always and step.state in OPEN for step in draft.in_order())


def _cancel_open(draft: Draft, reason: str, *, keep_always: bool = False) -> None:
    for step in draft.in_order():
        if keep_always and step.planned.always:
            continue
        if step.state in ("pending", "ready", "waiting"):
            draft.step_move(step.path, "cancelled", reason=reason)


def _let_go(draft: Draft, reason: str) -> None:
    """Of the forward path of a run that was ended nothing is begun any more. Asked again with each decision: an attempt
    that was in a thread then may end later, unknown or as if it had never been, and what is `always` may wait for it.
    """
    if draft.view.lane != "move":
        _give_up_unknown(draft)
    _cancel_open(draft, reason, keep_always=True)


def _give_up_unknown(draft: Draft) -> None:
    """What a copy or a drill left unknown when it was ended is found by its tags later; it must not hold the lane."""
    for step in draft.in_order():
        if step.state == "unknown" and not step.planned.always and step.attempt is not None:
            failure = Failure("unknown", "", "its outcome was still unknown when the run was ended")
            draft.add(Outcome(step.path, step.attempt.number, "failed", failure=failure))
            draft.set(step.path, state="failed", failure=failure)


def _finish_cancel(draft: Draft, room: Room) -> None:
    _let_go(draft, "the run was cancelled")
    keep = _has_open_always(draft)
    if any(step.state in ("running", "unknown") or step.path in room.busy for step in draft.in_order()):
        return
    if keep:
        draft.run_move("clean", result=draft.result or "cancelled")
        _advance(draft, room)
        return
    _cancel_open(draft, "the run was cancelled")
    draft.run_move("cancelled", result=draft.result or "cancelled")


def _end(draft: Draft) -> None:
    if draft.state == "running" and any(
        (step.state in OPEN or step.state == "failed") and not step.planned.always
        for step in map(draft.steps.__getitem__, draft.awake)
    ):
        return
    steps = list(draft.in_order())
    forward = [step for step in steps if not step.planned.always]
    always = [step for step in steps if step.planned.always]
    if draft.state == "running":
        if any(step.state in OPEN or step.state == "failed" for step in forward):
            return
        if any(step.state in OPEN for step in always):
            if not any(step.state in ("pending", "ready") for step in forward):
                draft.run_move("clean")
            return
        if not always:
            draft.run_move("finish", result=_result(draft))
            _close_group(draft)
            return
        draft.run_move("clean")
    if any(step.state in OPEN for step in always):
        return
    if any(step.state in ("running", "unknown") for step in forward):
        return
    if any(step.state == "failed" for step in always):
        draft.run_move("not empty", reason="something the run made could not be removed")
        return
    draft.run_move("cleaned", result=_result(draft))


def _close_group(draft: Draft) -> None:
    """The lifecycle event a mode ends its group with, as its row says (`retire`)."""
    event = draft.view.facts.get("at_end")
    if event and draft.result in ("succeeded", "succeeded_with_warnings"):
        draft.add(Move("group", draft.view.group, str(event), dict(draft.view.facts.get("end_facts", {}))))


def _result(draft: Draft) -> str:
    if draft.result is not None:
        return draft.result
    states = {step.state for step in draft.in_order()}
    return "succeeded_with_warnings" if states & {"warned", "ignored"} else "succeeded"
