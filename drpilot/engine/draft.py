"""A run under decision: the view with the changes already decided on top.

`decide` reads and writes here, so that one pass can take a step from pending to running; the changes it leaves are
what the journal commits. Every state change goes through the same lifecycle tables as in the journal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

from drpilot.domain.machine import fire
from drpilot.domain.run import Change, Decision, RunMove, RunView, StepMove, StepView
from drpilot.domain.states import FAMILIES
from drpilot.engine.agenda import OPEN, Agenda

__all__ = ["NEED_FAILED", "SATISFIED", "Draft"]

NEED_FAILED = "a need did not end well: "
SATISFIED = frozenset({"succeeded", "warned", "ignored"})


class Draft:
    """The mutable middle of a pure function."""

    def __init__(self, view: RunView, now: datetime, agenda: Agenda | None = None) -> None:
        self.view = view
        self.agenda = agenda if agenda is not None else Agenda.of(view)
        self.awake = set(self.agenda.awake)
        self.now = now
        self.state = view.state
        self.result = view.result
        self.steps: dict[str, StepView] = dict(view.steps)
        self.changes: list[Change] = []
        self.start: list[str] = []
        self.poll: list[str] = []
        self.look: list[str] = []
        self.turned = bool(view.facts.get("turned"))  # the run is on its way back
        self._wakes: list[datetime] = []

    def step_move(self, path: str, event: str, *, reason: str = "", by: str = "", **more: Any) -> None:
        """Decide a step's change."""
        step = self.steps[path]
        to = fire("step", path, step.state, event)
        new_round = bool(more.get("new_round"))
        self.steps[path] = replace(
            step,
            state=to,
            note=reason or step.note,
            wake_at=more.get("wake_at"),
            looked_at=step.looked_at,
            round=step.round + 1 if new_round else step.round,
            tries=0 if new_round else step.tries,
            output=more.get("output", step.output),
            looks=0,
        )
        self.changes.append(StepMove(path, event, reason, by, **more))

    def run_move(
        self, event: str, *, reason: str = "", by: str = "", result: str | None = None, **data: Any
    ) -> None:
        """Decide the run's own change."""
        self.state = fire("run", self.view.name, self.state, event)
        self.result = result or self.result
        self.changes.append(RunMove(event, reason, by, result, data))

    def add(self, change: Change) -> None:
        """Decide a change that needs no bookkeeping here."""
        self.changes.append(change)

    def set(self, path: str, **changes: Any) -> None:
        """Reflect an intent or an outcome on the draft."""
        self.steps[path] = replace(self.steps[path], **changes)

    def wake(self, at: datetime | None) -> None:
        """Decide again at `at` at the latest."""
        if at is not None:
            self._wakes.append(at)

    def is_satisfied(self, path: str) -> bool:
        """Whether a need ended so that its dependents may go on."""
        step = self.steps[path]
        return step.state in SATISFIED or (step.state == "skipped" and not step.note.startswith(NEED_FAILED))

    def is_ended(self, path: str) -> bool:
        """Whether nothing more happens to a step by itself."""
        return self.steps[path].state not in OPEN

    def in_order(self) -> Iterator[StepView]:
        """The steps as they now stand, in plan order."""
        for path in list(self.steps):
            yield self.steps[path]

    def alive(self) -> Iterator[StepView]:
        """The steps that may move, as they now stand, in plan order; what is decided meanwhile may wake more."""
        for path in self.agenda.visit(self.steps, self.awake):
            yield self.steps[path]

    def in_states(self, *states: str) -> list[StepView]:
        """Of the steps that may move those in some states, in plan order."""
        found = [path for path in self.awake if self.steps[path].state in states]
        return [self.steps[path] for path in sorted(found, key=self.agenda.position.__getitem__)]

    @property
    def over(self) -> bool:
        """Whether the run has finished."""
        return self.state in FAMILIES["run"].final

    def decision(self) -> Decision:
        """What the pass came to."""
        return Decision(
            tuple(self.changes),
            tuple(self.start),
            tuple(self.poll),
            tuple(self.look),
            min(self._wakes, default=None),
        )
