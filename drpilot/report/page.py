"""Reports and stories as self-contained HTML pages: one file, no network, no script, fit to print."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from drpilot.base.clock import rfc3339
from drpilot.base.units import format_duration, format_size
from drpilot.report.drawing import chart, gauges
from drpilot.report.plain import as_json
from drpilot.report.story import Story
from drpilot.report.value import Report

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["story_html", "to_html"]

_CONTROLS = (
    # What a reader looks for, and where this page answers it; the clauses are named in report/value.py.
    (
        "DORA art. 11(6), RTS 2024/1774 art. 26",
        "scenario, results and deficiencies documented",
        "criteria, deviations, findings",
    ),
    ("SOC 2 A1.3", "actual recovery time and data loss, integrity of data", "objectives, verification"),
    ("ISO 22301 8.5", "outcomes, participants, actions after the exercise", "participants, findings"),
    (
        "NIST SP 800-34 3.5.1",
        "recovery on an alternate platform, return to normal",
        "environment, afterwards",
    ),
)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - only who writes a page pays

    environment = Environment(
        loader=PackageLoader("drpilot", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "moment": _moment,
        "clock": _clock,
        "duration": _duration,
        "size": format_size,
        "facts": _facts,
    }
    return environment


def to_html(report: Report) -> str:
    """The report as one HTML page with an inline SVG timeline."""
    page = _environment().get_template("report.html.j2")
    return page.render(report=report, chart=chart(report), gauges=gauges(report.measured), controls=_CONTROLS)


def story_html(story: Story) -> str:
    """A story over several runs as one HTML page: the table of phases, then each run."""
    page = _environment().get_template("story.html.j2")
    runs = [(report, chart(report), gauges(report.measured)) for report in story.reports]
    return page.render(story=story, runs=runs)


def _moment(value: datetime | None) -> str:
    return value.strftime("%Y-%m-%d %H:%M:%S") + "Z" if value is not None else "-"


def _clock(value: datetime | None) -> str:
    return rfc3339(value)[11:23] if value is not None else "-"


def _duration(value: float | None) -> str:
    return format_duration(value) if value is not None else "-"


def _facts(value: Any) -> str:
    """Evidence as one readable line of JSON without braces around the whole."""
    text = json.dumps(as_json(value), ensure_ascii=False, sort_keys=True)
    return text[1:-1] if text.startswith("{") else text
