"""A run under way, as a line: which step of how many, and who drives it. From the journal alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from drpilot.base.units import format_duration
from drpilot.domain.run import Holder, RunView, StepView
from drpilot.domain.states import FAMILIES
from drpilot.journal.journal import LEASE_S
from drpilot.services.prediction import stuck

__all__ = ["RESTS", "LiveRun", "live_run", "standing_step"]

RESTS = frozenset({"waiting", "paused", "awaiting_commit", "clean_failed"})
"""States in which only a person can take a run further: nobody needs to drive it."""


@dataclass(frozen=True, slots=True)
class LiveRun:
    """A run under way: step `k` of `n`, and who drives it (`driven` is false when nobody does and somebody should).

    `text` is the whole as one line, `notes` say which steps take much longer than usual.
    """

    name: str
    mode: str
    lane: str
    state: str
    step: str
    k: int
    n: int
    started_at: datetime
    age_s: float
    driver: str
    driven: bool
    driver_seen_at: datetime | None
    driver_seen_age_s: float | None
    text: str
    notes: tuple[str, ...] = ()


def live_run(run: RunView, past: Sequence[RunView], now: datetime, *, gone: bool = False) -> LiveRun:
    """A live run: where it stands and who drives it; `gone` says that its driver's process no longer runs. Pure."""
    steps = list(run.steps.values())
    k = _position(steps)
    leased = not gone and run.holder is not None and run.lease_until is not None and run.lease_until > now
    # Each sign of life renews the lease, so the last one lies a lease's length before its end.
    seen_at = run.lease_until - timedelta(seconds=LEASE_S) if run.lease_until is not None else None
    seen_age = max(0.0, (now - seen_at).total_seconds()) if seen_at is not None else None
    driven = leased or (run.state in RESTS and not run.requests)
    if leased and run.holder is not None:
        who = f"driven by {_person(run.holder)}"
    elif driven:
        who = _resting(run)
    elif run.holder is not None and seen_at is not None and seen_age is not None:
        when = f"last seen {seen_at:%H:%M:%S} ({format_duration(seen_age)} ago)"
        who = f"nobody drives it: {_person(run.holder)}, {when}"
    else:
        who = "nobody drives it"
    return LiveRun(
        name=run.name,
        mode=run.mode,
        lane=run.lane,
        state=run.state,
        step=standing_step(run).path if steps else "",
        k=k,
        n=len(steps),
        started_at=run.created_at,
        age_s=(now - run.created_at).total_seconds(),
        driver=run.holder.text if run.holder is not None and leased else "",
        driven=driven,
        driver_seen_at=seen_at,
        driver_seen_age_s=seen_age,
        text=f"run {run.name} {run.mode}, step {k} of {len(steps)}, {who}",
        notes=tuple(item.text for item in stuck(run, past, now)),
    )


def standing_step(run: RunView) -> StepView:
    """The step a run stands at: the one that failed, else the first that is open, else the last."""
    steps = list(run.steps.values())
    failed = [step for step in steps if step.state in ("failed", "undo_failed")]
    return failed[0] if failed else steps[_position(steps) - 1]


def _position(steps: Sequence[StepView]) -> int:
    ended = FAMILIES["step"].final
    return next((index for index, step in enumerate(steps, 1) if step.state not in ended), max(1, len(steps)))


def _resting(run: RunView) -> str:
    words = {"waiting": "waits for a person", "awaiting_commit": "awaits its commit"}
    return words.get(run.state, run.state.replace("_", " "))


def _person(holder: Holder) -> str:
    return f"{'serve' if holder.kind == 'serve' else holder.person} on {holder.host}"
