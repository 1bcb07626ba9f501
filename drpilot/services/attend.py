"""Being beside a run: driving it when nobody else does, else watching it. A run is never tied to a terminal."""

from __future__ import annotations

from collections.abc import Callable

from drpilot.base.errors import DrpilotError
from drpilot.domain.run import RunView
from drpilot.domain.states import FAMILIES
from drpilot.journal.holder import is_gone
from drpilot.journal.journal import Superseded
from drpilot.services.house import House

__all__ = ["attend", "resting", "verdict"]

WATCH_S = 0.5
_RESTING = frozenset({"waiting", "paused", "awaiting_commit", "clean_failed", *FAMILIES["run"].final})


def resting(view: RunView) -> bool:
    """Whether only a person can take the run further, or it is over."""
    return view.state in _RESTING


def attend(
    house: House, run: str, *, seen: Callable[[RunView], None] | None = None, patient_s: float = 0.0
) -> RunView:
    """Drive `run` (or watch it, where a service or another process drives) until it rests.

    `patient_s` is how long to stay while a gate waits for persons; 0 returns at once.
    """
    report = seen or (lambda view: None)
    while True:
        view = _driven(house, run, report, patient_s)
        view = view if view is not None else _watch(house, run, report, patient_s)
        if view is not None:
            return view  # else whoever drove it is gone: drive it from here


def _driven(house: House, run: str, report: Callable[[RunView], None], patient_s: float) -> RunView | None:
    """Drive the run, unless a service lives or another process holds it (None)."""
    if not house.journal.services():
        try:
            drive = house.driver(report).drive(
                run, house.holder, patient=patient_s > 0, wait_s=patient_s or None
            )
        except Superseded as error:
            halt = house.journal.halted()
            if halt is not None:
                raise halt.refusal() from error
            raise DrpilotError("superseded", run=error.run, by=error.by) from error
        if drive.stopped:
            raise DrpilotError("interrupted", run=drive.view.name)
        if drive.taken:
            return drive.view
    return None


def _abandoned(house: House, view: RunView) -> bool:
    """Whether nobody drives: no service lives, and the lease is free, run out, or its process gone."""
    if house.journal.services():
        return False
    if view.holder is None or view.lease_until is None or is_gone(view.holder):
        return True
    return view.lease_until < house.clock.now()


def _watch(house: House, run: str, report: Callable[[RunView], None], patient_s: float) -> RunView | None:
    """Follow a run that another drives; None when that one is gone."""
    rested_at: float | None = None
    while True:
        view = house.journal.view(run)
        report(view)
        if view.state in FAMILIES["run"].final:
            return view
        if house.stop.is_set():
            raise DrpilotError("interrupted", run=view.name)
        if resting(view) and not view.requests:
            now = house.clock.monotonic()
            rested_at = now if rested_at is None else rested_at
            if now - rested_at >= patient_s:
                return view
        else:
            rested_at = None
            if _abandoned(house, view):
                return None
        house.clock.sleep(WATCH_S)


def verdict(view: RunView) -> DrpilotError | None:
    """How a rested run maps to the catalogue: None for done or awaiting commit (exit 0)."""
    if view.state == "awaiting_commit":
        return None
    if view.state == "finished":
        return _finished(view)
    if view.state == "waiting":
        return DrpilotError(
            "run-waiting", run=view.name, what="a person's approval", hint=f"drpilot run approve {view.group}"
        )
    if view.state == "clean_failed":
        return DrpilotError("clean-failed", run=view.name, count="some", group=view.group)
    failed = next((step for step in view.steps.values() if step.state in ("failed", "undo_failed")), None)
    unknown = next((step for step in view.steps.values() if step.state == "unknown"), None)
    if unknown is not None and failed is None:
        return DrpilotError(
            "run-unknown", run=view.name, step=unknown.path, group=view.group, why=unknown.note
        )
    if view.state == "paused":
        what = (
            failed.failure.message
            if failed is not None and failed.failure is not None
            else "paused by a person"
        )
        where = failed.planned.position if failed is not None else ""
        path = failed.path if failed is not None else "-"
        return DrpilotError("run-paused", run=view.name, step=path, group=view.group, what=what, where=where)
    return DrpilotError("nobody-drives", run=view.name, group=view.group)


def _finished(view: RunView) -> DrpilotError | None:
    if view.result in ("succeeded", "succeeded_with_warnings", "rolled_back"):
        return None
    if view.result in ("cancelled", "expired", "refused"):
        return DrpilotError("run-cancelled", run=view.name, why=view.result or "")
    failed = next(
        (
            step
            for step in view.steps.values()
            if step.failure is not None and step.state in ("failed", "ignored", "cancelled")
        ),
        None,
    )
    text = failed.failure.message if failed is not None and failed.failure is not None else view.result or ""
    word = "drill-failed" if view.mode == "drill" else "run-failed"
    return DrpilotError(
        word,
        run=view.name,
        step=failed.path if failed else "-",
        what=text,
        why=text if word == "run-failed" else "",
        where=failed.planned.position if failed else "",
    )
