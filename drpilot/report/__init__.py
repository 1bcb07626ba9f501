"""Evidence: a report is a pure function of what the journal knows of a run, at any time, with no step of its own.

`build` makes the value, `to_json` and `to_html` write it, `verify` recomputes the event chain a written report
carries, `story` puts several runs on one page.
"""

from __future__ import annotations

from drpilot.report.build import Material, build, gather
from drpilot.report.critical import critical_path
from drpilot.report.evidence import Verification, verify
from drpilot.report.page import story_html, to_html
from drpilot.report.plain import as_json
from drpilot.report.story import Phase, Story, Totals, story_json
from drpilot.report.value import Report, to_json

__all__ = [
    "Material",
    "Phase",
    "Report",
    "Story",
    "Totals",
    "Verification",
    "as_json",
    "build",
    "critical_path",
    "gather",
    "story_html",
    "story_json",
    "to_html",
    "to_json",
    "verify",
]
