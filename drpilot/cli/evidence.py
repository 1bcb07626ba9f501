"""`report show` and `report verify`: the evidence of a run on a screen, as a page, and as a document."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drpilot.base.errors import DrpilotError
from drpilot.base.units import format_duration
from drpilot.cli.render import Answer, Table, document, moment
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from datetime import datetime

    from drpilot.report import Report
    from drpilot.report.value import Measured

__all__ = ["answer_of", "verified"]

_LABELS = {"rto": "RTO", "rto_from_event": "RTO from the event", "rpo": "RPO"}


def answer_of(session: Session, run: str, html: Path | None, json: Path | None) -> Answer:
    """The report of `run`, written to the files asked for."""
    from drpilot.report import build, to_html, to_json
    from drpilot.report.build import gather

    house = session.house
    now = house.clock.now()
    report = build(gather(house.journal, run), now)
    data = to_json(report)
    blocks = _blocks(report, now)
    if html is not None:
        _write(html, to_html(report))
        blocks.append(f"HTML: {html.resolve()}")
    if json is not None:
        _write(json, document(data) + "\n")
        blocks.append(f"JSON: {json.resolve()}")
    following = (
        f"report verify {json}"
        if json is not None
        else f"report show {report.name} --html {report.name.replace('/', '-')}.html"
    )
    return Answer(data, tuple(blocks), session.command(following))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DrpilotError(
            "usage",
            what=f"{path} can't be written: {error.strerror}",
            hint="name a file in a folder that exists",
        ) from error


def _blocks(report: Report, now: datetime) -> list[Any]:
    state = report.result or report.state
    sites = {site.role: site.name for site in report.environment.sites}
    way = f"{sites.get('source', '?')} → {sites.get('target', '?')}"
    isolated = ", isolated" if report.environment.isolated else ""
    span = moment(report.started_at or report.created_at, now) + (
        f" - {moment(report.ended_at, now)}" if report.ended_at else " - now"
    )
    head = f"{report.kind.upper()} {report.name}  {span}  {way}{isolated}   RESULT: {state}"
    blocks: list[Any] = [head]
    if report.reason:
        blocks.append(f"  reason: {report.reason}")
    blocks += [f"  {_measure(item)}" for item in report.measured]
    if report.point is not None:
        blocks.append(
            f"  point {report.point.id} of {moment(report.point.captured_at, now)}, {report.point.state}"
        )
    blocks += [
        f"  {line.number:>3}  {line.path}   {line.state}   {line.note}".rstrip()
        for line in report.steps
        if line.state in ("failed", "ignored", "undo_failed", "unknown")
    ]
    blocks += [
        f"       {' '.join(filter(None, (one.step, one.name)))}: expected {one.expected}, observed {one.observed}"
        for one in report.verification
        if not one.ok
    ]
    blocks.append(
        Table(
            ("CRITERION", "RESULT", "DETAIL"),
            tuple((one.name, one.result, one.detail) for one in report.criteria),
        )
    )
    blocks += [
        f"  deviation: {one.kind} {one.subject} by {one.actor}: {one.reason}" for one in report.deviations
    ]
    if report.left_over is not None:
        blocks.append(f"  left over: {', '.join(report.left_over) if report.left_over else 'nothing'}")
    return blocks


def _measure(item: Measured) -> str:
    achieved = "not reached" if item.achieved_s is None else format_duration(item.achieved_s)
    most = "" if item.exact or item.achieved_s is None else "at most "
    objective = f" (objective {format_duration(item.objective_s)})" if item.objective_s is not None else ""
    return f"{_LABELS.get(item.name, item.name)}  {most}{achieved}{objective}   {item.method}"


def verified(session: Session, file: Path) -> Answer:
    """Recompute the chain of a written report; `chain-broken` where it was changed."""
    from drpilot.report import verify

    try:
        content = json_format.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DrpilotError("unknown-file", file=str(file), why=error.strerror or str(error)) from error
    except ValueError as error:
        raise DrpilotError(
            "wrong-value",
            what=f"{file} is no JSON document",
            why=str(error),
            hint="drpilot report show RUN --json FILE",
        ) from error
    if not isinstance(content, dict):
        raise DrpilotError(
            "wrong-value", what=f"{file} is no report of drpilot", hint="drpilot report show RUN --json FILE"
        )
    try:
        found = verify(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise DrpilotError(
            "wrong-value",
            what=f"{file} is no whole report of drpilot",
            why=f"{type(error).__name__}: {error}",
            hint="drpilot report show RUN --json FILE",
        ) from error
    data = {
        "result": "verified",
        "run": found.run,
        "head": found.head,
        "events": found.events,
        "finished": found.finished,
    }
    ended = "the run was over" if found.finished else "the run was still under way"
    return Answer(
        data,
        (f"{found.run}: {found.events} events verify, head {found.head[:16]}…; {ended}",),
        session.command(f"report show {found.run}"),
    )
