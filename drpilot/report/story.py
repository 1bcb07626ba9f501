"""A story: several runs and phases on one page, as the demo ends with them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from drpilot.report.plain import as_json
from drpilot.report.value import Report, to_json

__all__ = ["Phase", "Story", "Totals", "story_json"]


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase: `result` is ok, failed or `-` for what was only done to the world; `run` names its run, if any."""

    number: int
    name: str
    result: str
    seconds: float
    text: str
    run: str | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """What the whole came to. Counts come from the clouds, times from the journal; None is not known."""

    rto_seconds: float | None
    rpo_seconds: float | None
    rto_objective_seconds: float | None
    rpo_objective_seconds: float | None
    data_verified: bool | None
    duplicates: int | None
    leftovers: int | None


@dataclass(frozen=True, slots=True)
class Story:
    """Phases in order, what they came to, and the reports of their runs."""

    title: str
    built_at: datetime
    phases: tuple[Phase, ...]
    totals: Totals
    reports: tuple[Report, ...] = ()

    @property
    def result(self) -> str:
        """`ok` only when every phase is and nothing measured contradicts it."""
        totals = self.totals
        clean = totals.data_verified is True and totals.duplicates == 0 and totals.leftovers == 0
        return "ok" if clean and all(phase.result in ("ok", "-") for phase in self.phases) else "failed"


def story_json(story: Story, *, report: str = "") -> dict[str, Any]:
    """The story as one JSON object: phases, totals beside them, the path of the HTML page as `report`."""
    return {
        "title": story.title,
        "result": story.result,
        "built_at": as_json(story.built_at),
        "phases": as_json(story.phases),
        **as_json(story.totals),
        "report": report,
        "runs": [to_json(item) for item in story.reports],
    }
