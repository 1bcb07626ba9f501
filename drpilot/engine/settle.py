"""Taking a run over: what the driver before may have left in the middle becomes `unknown`, and is then looked at."""

from __future__ import annotations

from drpilot.domain.run import Change, Outcome, RunView

__all__ = ["settle"]


def settle(view: RunView) -> tuple[Change, ...]:
    """The changes a new driver commits first. Pure.

    An attempt whose intent is durable and whose outcome is not may or may not have called: its step is unknown.
    Waiting steps need nothing: they hold no thread and are observed by tag or token.
    """
    changes: list[Change] = []
    for step in view.steps.values():
        if step.attempt is None or step.attempt.state != "intent":
            continue
        if step.state in ("running", "undoing"):
            changes.append(
                Outcome(step.path, step.attempt.number, "reply lost", note="the driver before was lost")
            )
    return tuple(changes)
