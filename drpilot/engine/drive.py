"""Driving a run: hold the lease, decide, commit, act, record; until nothing is left to do or a person is needed.

Attempts run on threads, each bounded by the timeouts of its calls; waits hold no thread. Whoever holds the lease
drives; losing it stops all writing at once. A signal rolls nothing back: the run stays as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

from drpilot.base.clock import Clock
from drpilot.base.errors import DrpilotError, invariant
from drpilot.domain.group import Group
from drpilot.domain.machine import permitted
from drpilot.domain.plain import from_plain
from drpilot.domain.ports import Action
from drpilot.domain.run import (
    AttemptView,
    Change,
    Decision,
    Failure,
    Holder,
    Outcome,
    RunMove,
    RunView,
    Settled,
)
from drpilot.domain.states import FAMILIES
from drpilot.engine.agenda import Agenda
from drpilot.engine.attempt import Phase, execute
from drpilot.engine.context import StepContext, World
from drpilot.engine.decide import decide
from drpilot.engine.foresight import foresee, is_foreseen
from drpilot.engine.hands import Hands, Hire, Threads
from drpilot.engine.places import Room
from drpilot.engine.settle import settle
from drpilot.engine.tenure import Tenure
from drpilot.journal.journal import Journal, Superseded
from drpilot.journal.views import followed

__all__ = ["Drive", "Driver"]

TICK_S = 0.5  # how often an idle driver looks for orders of people
RENEW_S = 5.0
PULSE_S = 2.0  # signs of life of the sites are written at most this often
# States in which what was begun before is no longer wanted.
_TURNED = frozenset({"cancelling", "rolling_back", "cleaning", *FAMILIES["run"].final})
_IDLE = frozenset({"waiting", "paused", "awaiting_commit", "clean_failed"})


@dataclass(frozen=True, slots=True)
class Drive:
    """How one drive ended: the run as it then was; `taken` is False where another living driver holds it."""

    view: RunView
    taken: bool = True
    stopped: bool = False


@dataclass(slots=True)
class Driver:
    """Drives runs of one journal. `seen` is told each new view (progress), `pulse` is called every few seconds."""

    journal: Journal
    catalogue: Mapping[str, Action[Any, Any]]
    world: World
    clock: Clock
    seen: Callable[[RunView], None] = lambda view: None
    pulse: Callable[[], None] = lambda: None
    stop: threading.Event = field(default_factory=threading.Event)
    parallel: int = 16
    hire: Hire = Threads

    def drive(self, run: str, holder: Holder, *, patient: bool = False, wait_s: float | None = None) -> Drive:
        """Drive `run` until it finishes, needs a person, or `stop` is set.

        `patient` keeps waiting for persons (bounded by `wait_s`); else the call returns when only a person can go on.
        Raises `Superseded` when another controller took the run over.
        """
        view = self.journal.view(run)
        if any(not future.done() for future in self.journal.in_flight.get(view.id, ())):
            return Drive(view, taken=False)  # calls of a former drive in this process are still under way
        since = Tenure.moment(self.clock)
        lease = self.journal.acquire(view.id, holder)
        if lease is None:
            return Drive(self.journal.view(view.id), taken=False)
        hands = self.hire(self.parallel, f"drpilot-{view.name}")
        loop = _Loop(self, Tenure(self.journal, lease, self.clock, since), hands, patient, wait_s)
        try:
            drive = loop.run()
            self.pulse()
            if not loop.futures:
                self.journal.release(lease)  # else it runs out, when no call of ours can land any more
            return drive
        except Superseded:
            loop.leave()
            raise
        finally:
            loop.over = True
            hands.close()
            self.journal.in_flight[view.id] = list(loop.futures.values())


class _Loop:
    def __init__(
        self, driver: Driver, tenure: Tenure, hands: Hands, patient: bool, wait_s: float | None
    ) -> None:
        self.driver = driver
        self.journal = driver.journal
        self.clock = driver.clock
        self.tenure, self.lease = tenure, tenure.lease
        self.hands = hands
        self.patient = patient
        self.wait_s = wait_s
        self.futures: dict[str, Future[Outcome]] = {}
        self.renewed_at = self.pulsed_at = self.clock.monotonic()
        self.idle_since: float | None = None
        self.over = False
        self.state = ""  # of the run, when it was last looked at
        self.view = self.journal.view(self.lease.run)
        self.is_fresh = True  # whether nothing was waited for since the view was made
        self.agenda = Agenda.of(self.view)
        self.landed: tuple[Outcome, ...] = ()  # outcomes to be committed with what is decided next
        self.group = view_group(self.view, self.journal.group(self.view.group).group)

    def run(self) -> Drive:
        lost = settle(self.view)
        if lost:
            self._commit(lost)
        while True:
            view = self._look()
            self.state = view.state
            self.driver.seen(view)
            if view.state in FAMILIES["run"].final:
                return Drive(view)
            if view.term != self.lease.term:
                self.tenure.renew()  # another drives, or all is halted: refused, and no call of ours leaves any more
            if self.driver.stop.is_set():
                return self._drain()
            now = self.clock.now()
            view = foresee(view, self.landed, now)
            room = Room(self._parallel(view), frozenset(self.futures))
            decision = decide(view, now, room, self.agenda)
            written = replace(decision, changes=(*self.landed, *decision.changes))
            if written.changes and not self._write(view, written):
                continue
            self.landed = ()
            self._submit(decision)
            if written.changes:
                continue
            if self._is_idle(view, decision) and not self._keeps_waiting():
                return Drive(view)
            self._collect(decision)

    def _look(self) -> RunView:
        """The run as it now is. Only its driver writes its steps, so they are read as a whole once; after that a commit
        tells what it changed, and a small reading what others did.
        """
        if not self.is_fresh:
            news = self.journal.news(self.lease.run)
            if (news.term, news.state) == (self.lease.term, self.view.state):
                self.view = followed(self.view, news)
            else:
                self._read_again()
            self.is_fresh = True
        return self.view

    def _read_again(self) -> None:
        self.view = self.journal.view(self.lease.run)
        self.agenda.renew(self.view)

    def _commit(self, changes: Sequence[Change]) -> None:
        news = self.tenure.commit(changes)
        if any(isinstance(change, (RunMove, Settled)) for change in changes):
            self._read_again()  # the run itself may be changed: seldom
        else:
            self.view = followed(self.view, news)
            self.agenda.follow(self.view, (step.path for step, _ in news.steps))
        self.is_fresh = True

    def _write(self, view: RunView, decision: Decision) -> bool:
        """Commit what was decided; when the lifecycle tables refuse it, the run pauses and says why."""
        try:
            self._commit(decision.changes)
        except DrpilotError as error:
            if error.word == "transition-refused" and self.landed:
                outcomes, self.landed = self.landed, ()
                self._record(outcomes)  # alone first: what is refused may have been decided behind them
                return False
            pausable = permitted("run", view.state, "pause")
            if error.word != "transition-refused" or not (pausable or view.requests):
                raise
            # An order that asked for it is answered, else every later driver would read it again and stop here.
            text = f"{error.title}: {error.why}"
            answers: list[Change] = [Settled(request.id, text) for request in view.requests]
            self._commit([*answers, *([RunMove("pause", text)] if pausable else [])])
            return False
        return True

    def leave(self) -> None:
        """Another drives now: what calls of ours still come to is evidence, and is kept when they end."""
        for future in self.futures.values():
            future.add_done_callback(self._late)

    def _late(self, future: Future[Outcome]) -> None:
        if not future.cancelled() and future.exception() is None:
            with suppress(Superseded, DrpilotError):  # refused as expected, or the journal is away for good
                self.tenure.commit([future.result()])

    def given_up(self, *, forward: bool) -> bool:
        """Whether nobody waits for what runs in a thread; asked by the threads. A run that was turned still waits for
        what it does from then on: undoing, and the steps marked `always` (not `forward`).
        """
        return self.over or self.driver.stop.is_set() or (forward and self.state in _TURNED)

    def _parallel(self, view: RunView) -> int:
        return max(1, min(view.plan.parallel, self.driver.parallel))

    def _submit(self, decision: Decision) -> None:
        phases: tuple[tuple[Phase, tuple[str, ...]], ...] = (
            ("start", decision.start),
            ("poll", decision.poll),
            ("look", decision.look),
        )
        paths = [path for _, group in phases for path in group]
        if not paths:
            return
        view = self.view
        for phase, chosen in phases:
            for path in chosen:
                self.futures[path] = self.hands.submit(partial(self._attempt, view, path, phase))

    def _attempt(self, view: RunView, path: str, phase: Phase) -> Outcome:
        step = view.steps[path]
        attempt = step.attempt
        invariant(attempt is not None, f"{path} was begun without an intent")
        assert attempt is not None
        action = self.driver.catalogue.get(attempt.action)
        if action is None:
            failure = Failure("invalid", "DRP-2010", f"this drpilot has no action {attempt.action!r}")
            return Outcome(
                path, attempt.number, "failed" if attempt.kind == "do" else "undo failed", failure=failure
            )
        forward = attempt.kind == "do" and not step.planned.always
        context = StepContext(
            view=view,
            step=step,
            attempt=attempt,
            group=self.group,
            journal=self.journal,
            world=self.driver.world,
            clock=self.clock,
            save=lambda state: self.tenure.checkpoint(path, attempt.number, state),
            intended_at=self._intended_at(attempt, path),
            epoch=view.epoch,
            given_up=lambda: self.given_up(forward=forward),
            permit=self.tenure.permit,
        )
        return execute(action, context, phase)

    def _intended_at(self, attempt: AttemptView, path: str) -> datetime:
        """When the first intent of the attempt's round became durable."""
        if attempt.number == 1:
            return attempt.intended_at
        first: datetime = self.journal.first_intent(self.lease.run, path, attempt.round)
        return first

    def _is_idle(self, view: RunView, decision: Decision) -> bool:
        moving = self.futures or decision.poll or decision.look or decision.start
        busy_waits = (
            view.state == "waiting"
            and decision.wake_at is not None
            and any(step.state == "waiting" and step.planned.gate is None for step in view.steps.values())
        )
        return view.state in _IDLE and not moving and not busy_waits

    def _keeps_waiting(self) -> bool:
        if not self.patient:
            return self.journal.unread(self.lease.run)
        if self.idle_since is None:
            self.idle_since = self.clock.monotonic()
        return self.wait_s is None or self.clock.monotonic() - self.idle_since < self.wait_s

    def _collect(self, decision: Decision) -> None:
        """Wait for an outcome, an order, a timer or the lease's renewal, whichever comes first; commit outcomes."""
        timeout_s = TICK_S
        if decision.wake_at is not None:
            timeout_s = min(timeout_s, max(0.01, (decision.wake_at - self.clock.now()).total_seconds()))
        if self.futures:
            done = self.hands.wait(self.futures.values(), timeout_s)
        else:
            done = set()
            self.clock.sleep(timeout_s)
        self.is_fresh = False
        outcomes = [(path, future) for path, future in self.futures.items() if future in done]
        for path, _ in outcomes:
            del self.futures[path]
        if outcomes:
            self.idle_since = None
            self._land([future.result() for _, future in outcomes])
            self.renewed_at = self.clock.monotonic()
            if self.renewed_at - self.pulsed_at >= PULSE_S:
                self.driver.pulse()
                self.pulsed_at = self.renewed_at
        elif self.clock.monotonic() - self.renewed_at >= RENEW_S:
            self.tenure.renew()
            self.renewed_at = self.clock.monotonic()
            self.driver.pulse()

    def _land(self, outcomes: list[Outcome]) -> None:
        """Record outcomes: with what is decided next where that can be foreseen, else at once."""
        if all(is_foreseen(self.view, outcome) for outcome in outcomes):
            self.landed = tuple(outcomes)
            self.is_fresh = True  # the commit that is due now brings what others did meanwhile
        else:
            self._record(outcomes)

    def _drain(self) -> Drive:
        """Let what is in a thread end (its calls are bounded) and record it; start nothing."""
        done = self.hands.wait(self.futures.values(), 20.0, all_of_them=True)
        ended = [path for path, future in self.futures.items() if future in done]
        outcomes = [self.futures.pop(path).result() for path in ended]
        outcomes = [*self.landed, *outcomes]
        if outcomes:
            self._record(outcomes)
        return Drive(self.journal.view(self.lease.run), stopped=True)

    def _record(self, outcomes: Sequence[Outcome]) -> None:
        """Commit outcomes with their lifecycle facts; one whose facts the tables refuse fails its step, visibly."""
        try:
            self._commit(outcomes)
        except DrpilotError as error:
            if error.word != "transition-refused":
                raise
            if len(outcomes) > 1:
                for outcome in outcomes:
                    self._record([outcome])
                return
            failure = Failure("conflict", error.row.code, f"{error.title}: {error.why}")
            event = "undo failed" if outcomes[0].event.startswith("und") else "failed"
            self._commit([Outcome(outcomes[0].path, outcomes[0].number, event, failure=failure)])


def view_group(view: RunView, present: Group) -> Group:
    """The group as frozen into the plan, so that an edited file never changes a live run."""
    frozen = view.plan.context.get("group")
    return from_plain(Group, frozen) if frozen else present
