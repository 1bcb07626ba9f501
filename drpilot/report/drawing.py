"""Drawings of a report as numbers: where each bar of the timeline and of the objectives lies. Inline SVG, no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from drpilot.base.units import format_duration
from drpilot.report.value import Measured, Report

__all__ = ["Bar", "Chart", "Gauge", "Mark", "chart", "gauges"]

WIDTH, LABEL, ROW, HEAD = 980.0, 250.0, 17.0, 26.0
_STEPS_S = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
_TONE = {
    "succeeded": "good",
    "undone": "undone",
    "warned": "warn",
    "ignored": "warn",
    "unknown": "warn",
    "failed": "bad",
    "undo_failed": "bad",
    "skipped": "none",
    "cancelled": "none",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One step: its row's y, and its bar from x, `width` wide (absent for a step that never began)."""

    label: str
    y: float
    x: float
    width: float
    tone: str
    text: str
    critical: bool
    hint: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line with a word: a tick of the time axis, or the go, or the end of recovery."""

    x: float
    text: str
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """The timeline of a run's steps (Gantt)."""

    width: float
    height: float
    label: float
    row: float
    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]
    begins: datetime


@dataclass(frozen=True, slots=True)
class Gauge:
    """An objective and what was achieved, as parts of the same scale (0 to 100)."""

    label: str
    achieved: str
    objective: str
    filled: float
    limit: float
    tone: str


def chart(report: Report) -> Chart | None:
    """The timeline of the steps that began; None where none did."""
    begun = [step for step in report.steps if step.started_at is not None]
    if not begun:
        return None
    starts = [step.started_at for step in begun if step.started_at is not None]
    ends = [step.ended_at or report.built_at for step in begun]
    first, last = min(starts), max([*ends, *starts])
    span_s = max(0.05, (last - first).total_seconds())

    def at(moment: datetime) -> float:
        return round(LABEL + (WIDTH - LABEL - 60) * (moment - first).total_seconds() / span_s, 2)

    bars = []
    for index, step in enumerate(begun):
        assert step.started_at is not None  # `begun` holds only those
        end = step.ended_at or report.built_at
        gate = step.does.startswith("gate ")
        tone = "gate" if gate else _TONE.get(step.state, "live")
        text = format_duration(step.seconds) if step.seconds is not None else step.state
        width = max(2.0, round(at(end) - at(step.started_at), 2))
        hint = f"{step.path}: {step.state}, {text}" + (f" - {step.note}" if step.note else "")
        bars.append(
            Bar(step.path, HEAD + index * ROW, at(step.started_at), width, tone, text, step.critical, hint)
        )
    marks = [
        Mark(at(first + timedelta(seconds=tick)), "+" + format_duration(tick)) for tick in _ticks(span_s)
    ]
    return Chart(WIDTH, HEAD + len(bars) * ROW + 8, LABEL, ROW, tuple(bars), tuple(marks), first)


def _ticks(span_s: float) -> Sequence[float]:
    step = next((size for size in _STEPS_S if span_s / size <= 8), _STEPS_S[-1] * 7)
    return [round(step * count, 3) for count in range(int(span_s / step) + 1)]


def gauges(measured: Sequence[Measured]) -> tuple[Gauge, ...]:
    """A bar for each measured value that has an objective."""
    names = {"rto": "RTO from the go", "rto_from_event": "RTO from the event", "rpo": "RPO"}
    found = []
    for item in measured:
        if item.objective_s is None:
            continue
        achieved = item.achieved_s
        scale = max(item.objective_s, achieved or 0.0, 0.001) * 1.1
        tone = "none" if item.met is None else "good" if item.met else "bad"
        text = (
            "not reached"
            if achieved is None
            else ("" if item.exact else "at most ") + format_duration(achieved)
        )
        filled = round(100 * (achieved or 0.0) / scale, 2)
        limit = round(100 * item.objective_s / scale, 2)
        found.append(Gauge(names[item.name], text, format_duration(item.objective_s), filled, limit, tone))
    return tuple(found)
