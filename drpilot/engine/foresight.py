"""What a run looks like with outcomes that are not written yet: so that they and what follows share one commit. Pure.

A commit waits for the disk, and that is most of what a small step costs. Only plain successes are foreseen: what else
an outcome may come to (a retry, a wait, a late one, facts about the group) is read back from the journal first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from drpilot.domain.machine import fire, permitted
from drpilot.domain.run import Outcome, RunView

__all__ = ["foresee", "is_foreseen"]

_PLAIN = frozenset({"as wanted", "as wanted, with a warning"})
_DECISIVE = frozenset({"group", "fence"})  # families whose states the next decision may depend on


def is_foreseen(view: RunView, outcome: Outcome) -> bool:
    """Whether what this outcome does to the run is known before it is written."""
    step = view.steps[outcome.path]
    return (
        view.state == "running"
        and outcome.event in _PLAIN
        and outcome.output is not None
        and step.attempt is not None
        and (step.attempt.number, step.attempt.kind) == (outcome.number, "do")
        and permitted("step", step.state, outcome.event)
        and not any(move.family in _DECISIVE for move in outcome.moves)
    )


def foresee(view: RunView, outcomes: Sequence[Outcome], now: datetime) -> RunView:
    """The view as the journal will show it once these are written."""
    if not outcomes:
        return view
    steps = dict(view.steps)
    for outcome in outcomes:
        step = steps[outcome.path]
        steps[outcome.path] = replace(
            step,
            state=fire("step", outcome.path, step.state, outcome.event),
            output=outcome.output,
            undo=outcome.undo if outcome.undo is not None else step.undo,
            failure=None,
            attempt=replace(step.attempt, state="ok", ended_at=now) if step.attempt is not None else None,
            ended_at=now,
            wake_at=None,
            note=outcome.note,
            progress=outcome.progress,
        )
    return replace(view, steps=steps)
