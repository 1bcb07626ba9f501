"""How long a failover would take, told from how long its steps took before. Pure.

The prediction is the critical path of the plan over the 75th percentile of each step's past durations, taken from
drills and moves that went well. A step is found again by its path, else by the longest common end of it
(`tiers/db/volumes`, then `db/volumes`, then `volumes`), so that a drill teaches something about a failover. Where
steps of the plan were never measured, the prediction is at least what whole recoveries took (p75).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from drpilot.base.units import format_duration
from drpilot.domain.plan import Plan
from drpilot.domain.run import MOVES, RunView, StepView
from drpilot.report.critical import critical_path, recovery_steps

__all__ = ["Forecast", "Stuck", "forecast", "p75", "predict", "stuck"]

_MODES = frozenset({"drill", *MOVES})
_WELL = frozenset({"succeeded", "succeeded_with_warnings"})
_MEASURED = frozenset({"succeeded", "warned"})
STUCK_FACTOR = 3.0
STUCK_FLOOR_S = 10.0  # below this nobody calls a step stuck, however quick it usually is


@dataclass(frozen=True, slots=True)
class Forecast:
    """A predicted recovery time. `rto_s` is None without any sample; `unmeasured` steps count as nothing in it."""

    rto_s: float | None
    samples: int
    critical: tuple[str, ...] = ()
    unmeasured: tuple[str, ...] = ()

    @property
    def standing(self) -> str:
        """`measured` when every step of the plan was, `partly measured`, or `unknown`."""
        if self.rto_s is None:
            return "unknown"
        return "partly measured" if self.unmeasured else "measured"


@dataclass(frozen=True, slots=True)
class Stuck:
    """A step that takes much longer than it usually does."""

    path: str
    running_s: float
    usual_s: float

    @property
    def text(self) -> str:
        """One line for who watches."""
        return (
            f"step {self.path} has been running for {format_duration(self.running_s)}, "
            f"usually {format_duration(self.usual_s)} (p75)"
        )


def p75(values: Sequence[float]) -> float:
    """The 75th percentile by nearest rank: a value that was really measured, never one in between."""
    ordered = sorted(values)
    return ordered[math.ceil(0.75 * len(ordered)) - 1]


def predict(plan: Plan, past_runs: Iterable[RunView]) -> tuple[float | None, int]:
    """Predicted recovery time of `plan` in seconds and how many past runs it rests on; (None, 0) without any."""
    found = forecast(plan, past_runs)
    return found.rto_s, found.samples


def forecast(plan: Plan, past_runs: Iterable[RunView]) -> Forecast:
    """The prediction with its critical path and the steps that were never measured."""
    good = [run for run in past_runs if _counts(run)]
    usual = _usual(good)
    steps = [path for path in recovery_steps(plan) if plan.step(path).gate is None]
    durations = {path: seconds for path in steps if (seconds := _find(usual, path)) is not None}
    if not good or not durations:
        return Forecast(None, 0, (), tuple(steps))
    total, critical = critical_path(plan, durations, steps)
    unmeasured = tuple(path for path in steps if path not in durations)
    if unmeasured:
        total = max(total, p75([_whole(run) for run in good]))
    return Forecast(total, len(good), critical, unmeasured)


def stuck(view: RunView, past_runs: Iterable[RunView], now: datetime) -> tuple[Stuck, ...]:
    """Steps under way for more than three times their usual (p75) duration; gates wait for people and never count."""
    usual = _usual(
        [run for run in past_runs if run.id != view.id and run.mode == view.mode and _ended_well(run)]
    )
    found = []
    for step in view.steps.values():
        if (
            step.planned.gate is not None
            or step.state not in ("running", "waiting", "unknown")
            or step.started_at is None
        ):
            continue
        expected = _find(usual, step.path)
        running = (now - step.started_at).total_seconds()
        if expected is not None and running > max(expected * STUCK_FACTOR, STUCK_FLOOR_S):
            found.append(Stuck(step.path, running, expected))
    return tuple(found)


def _counts(run: RunView) -> bool:
    """Whether a past run says how long recovery takes: it went well, or only the commit is missing."""
    return run.mode in _MODES and (_ended_well(run) or run.state == "awaiting_commit")


def _ended_well(run: RunView) -> bool:
    return run.result in _WELL


def _seconds(step: StepView) -> float | None:
    if (
        step.state not in _MEASURED
        or step.planned.gate is not None
        or step.started_at is None
        or step.ended_at is None
    ):
        return None
    return (step.ended_at - step.started_at).total_seconds()


def _whole(run: RunView) -> float:
    """What a past recovery took along its own critical path."""
    taken = {path: seconds for path, step in run.steps.items() if (seconds := _seconds(step)) is not None}
    return critical_path(run.plan, taken, recovery_steps(run.plan))[0]


def _usual(runs: Sequence[RunView]) -> Mapping[str, float]:
    """Every end of every step path → its p75 over all runs; clean-up teaches nothing about recovery."""
    samples: dict[str, list[float]] = {}
    for run in runs:
        for step in run.steps.values():
            seconds = _seconds(step)
            if seconds is not None and not step.planned.always:
                for ending in _endings(step.path):
                    samples.setdefault(ending, []).append(seconds)
    return {ending: p75(values) for ending, values in samples.items()}


def _endings(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _find(usual: Mapping[str, float], path: str) -> float | None:
    return next((usual[ending] for ending in _endings(path) if ending in usual), None)
