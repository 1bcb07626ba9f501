"""Commands that look: status, points, runs and reports from the journal, `check` at the live sites, `explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drpilot.cli.documents import ENDED, point_document, run_document, run_line, seconds_between
from drpilot.cli.options import GroupName, RunName
from drpilot.cli.render import Answer, Table, moment, spelled
from drpilot.cli.session import Session
from drpilot.cli.statuspage import overview_blocks, page_blocks, span

if TYPE_CHECKING:
    from datetime import datetime

    from drpilot.domain.plan import Plan
    from drpilot.domain.run import RunView, StepView

__all__ = [
    "check",
    "explain",
    "point_list",
    "point_show",
    "report_show",
    "report_verify",
    "run_list",
    "run_show",
    "status",
]

MaybeGroup = Annotated[
    str | None, typer.Argument(metavar="GROUP", help="a protection group; left out: all", show_default=False)
]
PointName = Annotated[
    str, typer.Argument(metavar="POINT", help="a point's id or a unique beginning of it", show_default=False)
]


# -- status: the journal only -----------------------------------------------------------------------------------


def status(session: Session, group: MaybeGroup = None) -> Answer:
    """How each group stands, from the journal alone; never calls a cloud."""
    from drpilot.services import status as told

    house = session.house
    now = house.clock.now()
    carried = house.world.transfers
    known = told.read(house.journal, group, carried.folder if carried is not None else None)
    if group is not None:
        from drpilot.services.grouppage import group_page

        page = group_page(known, now)
        return _standing(session, told.as_json(page), page_blocks(page, now), page.next)
    overview = told.overview(known, now)
    return _standing(session, told.as_json(overview), overview_blocks(overview, now), overview.next)


def _standing(session: Session, data: Any, blocks: list[Any], then: str) -> Answer:
    """A page of status; that everything is halted stands above all else."""
    house = session.house
    halt = house.journal.halted()
    spoken = spelled(data)
    if halt is None:
        return Answer({**spoken, "halted": None}, tuple(blocks), _next(session, then))
    since = moment(halt.at, house.clock.now())
    line = f"EVERYTHING IS HALTED by {halt.by} since {since}: {halt.reason}"
    halted = {"by": halt.by, "since": halt.at, "reason": halt.reason}
    return Answer({**spoken, "halted": halted}, (line, *blocks), session.command('unhalt --reason "…"'))


def _next(session: Session, text: str) -> str:
    return session.command(text.removeprefix("drpilot ")) if text else ""


# -- check: live, bounded ----------------------------------------------------------------------------------------


def check(session: Session, group: MaybeGroup = None) -> Answer:
    """Look live at every site and member, within 20 seconds; exit code 3 on findings."""
    from drpilot.cli.checking import answer_of

    return answer_of(session, group)


# -- points ------------------------------------------------------------------------------------------------------


def point_list(
    session: Session,
    group: GroupName,
    deleted: Annotated[bool, typer.Option("--deleted", help="also those whose replicas are gone")] = False,
) -> Answer:
    """Every recovery point of a group, newest first."""
    house = session.house
    house.journal.group(group)
    now = house.clock.now()
    points = house.journal.points(group, deleted=deleted)
    rows = tuple(
        (
            p.id,
            p.state,
            moment(p.captured_at, now) if p.captured_at else None,
            span(seconds_between(p.captured_at, now)),
            f"{p.source} → {p.site}",
            len(p.replicas),
            p.consistency or None,
            p.proven_by,
            ", ".join(sorted(p.pins)) or None,
        )
        for p in points
    )
    titles = (
        "POINT",
        "STATE",
        "TAKEN",
        "AGE",
        "DIRECTION",
        "REPLICAS",
        "CONSISTENT",
        "PROVEN BY",
        "PINNED BY",
    )
    table = Table(titles, rows)
    data = {"group": group, "points": [point_document(point, now) for point in points]}
    if not points:
        return Answer(data, (f"{group} has no recovery point yet",), session.command(f"replicate {group}"))
    return Answer(data, (table,), session.command(f"point show {group} {points[0].id}"))


def point_show(session: Session, group: GroupName, point: PointName) -> Answer:
    """One recovery point with its replicas."""
    house = session.house
    now = house.clock.now()
    found = house.journal.point(group, point)
    proven = (
        f"proven {moment(found.proven_at, now)} by {found.proven_by}"
        if found.proven_at
        else "not proven: no drill booted it"
    )
    lines = [
        f"point {found.id} of {group}: {found.state}, {found.source} → {found.site}",
        f"taken {moment(found.captured_at, now)}, complete {moment(found.completed_at, now)}, {proven}",
        f"pinned by {', '.join(sorted(found.pins))}" if found.pins else "not pinned",
        *([f"{found.consistency}-consistent"] if found.consistency else []),
    ]
    table = Table(
        ("TIER", "KIND", "MEMBER", "ON SOURCE", "REPLICA", "SIZE"),
        tuple(
            (r.tier, r.kind, r.member, r.source_id, r.id, f"{r.size_gib} GiB" if r.size_gib else None)
            for r in found.replicas
        ),
    )
    return Answer(point_document(found, now), (*lines, table), session.command(f"point list {group}"))


# -- runs ---------------------------------------------------------------------------------------------------------


def run_list(
    session: Session,
    group: MaybeGroup = None,
    live: Annotated[bool, typer.Option("--live", help="only those under way")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="how many, newest first")] = 20,
) -> Answer:
    """Runs, newest first."""
    house = session.house
    if group is not None:
        house.journal.group(group)
    now = house.clock.now()
    runs = house.journal.runs(group, live=live, limit=limit)
    rows = tuple(
        (
            r.name,
            r.mode,
            r.state,
            r.result,
            moment(r.created_at, now),
            span(seconds_between(r.started_at or r.created_at, r.ended_at)),
            r.by,
            r.reason or None,
        )
        for r in runs
    )
    table = Table(("RUN", "MODE", "STATE", "RESULT", "BEGUN", "TOOK", "BY", "REASON"), rows)
    data = {"runs": [run_line(view) for view in runs]}
    if not runs:
        return Answer(
            data, ("no run yet" if not live else "nothing is under way",), session.command("status")
        )
    return Answer(data, (table,), session.command(f"run show {runs[0].name}"))


def run_show(session: Session, run: RunName) -> Answer:
    """One run with every step, and who drives it; a ready step that waits for a place in its cloud says for which."""
    from dataclasses import replace

    from drpilot.engine.places import queued

    house = session.house
    now = house.clock.now()
    view = house.journal.view(run)
    state = ", ".join(filter(None, (view.state, view.result)))
    lines = [
        f"{view.name} {view.mode}  {view.plan.source} → {view.plan.target}   {state}",
        f"begun {moment(view.created_at, now)} by {view.by}{f': {view.reason}' if view.reason else ''}",
        _driver(session, view, now),
        _bounds(view.plan) if view.state != "finished" else "",
        *[
            f"{one.person} {'declined' if one.declined else 'approved'} gate {one.gate} at {moment(one.at, now)}"
            for one in view.approvals
        ],
        *[f"unread: {one.kind} by {one.by}" for one in view.requests],
    ]
    waiting = queued(view)
    rows = tuple(
        _step_cells(number, replace(step, note=waiting.get(path, step.note)))
        for number, (path, step) in enumerate(view.steps.items(), start=1)
    )
    table = Table(("", "STEP", "STATE", "TOOK", "NOTE"), rows)
    return Answer(run_document(view), (*[line for line in lines if line], table), _run_next(session, view))


def _step_cells(number: int, step: StepView) -> tuple[Any, ...]:
    failed = (
        step.failure.message
        if step.failure is not None and step.state in ("failed", "ignored", "undo_failed")
        else ""
    )
    share = f"{step.progress:.0%}" if step.progress is not None and step.state not in ENDED else ""
    gate = f"gate {step.planned.gate}" if step.planned.gate else ""
    note = "  ".join(part for part in (gate, share, failed or step.note) if part)
    return (
        number,
        step.path,
        step.state,
        span(seconds_between(step.started_at, step.ended_at)),
        note or None,
    )


def _bounds(plan: Plan) -> str:
    """How much of a run is under way at once, at most."""
    slots = [key.partition(" ") for key in plan.slots]
    work = "".join(f"; {site} {plan.slots[f'{site} {kind}']} {kind}" for site, _, kind in slots)
    return f"at most {plan.parallel} calls at once, {plan.per_site} a site{work}"


def _driver(session: Session, view: RunView, now: datetime) -> str:
    if view.state == "finished":
        return f"ended {moment(view.ended_at, now)}"
    if view.holder is not None and view.lease_until is not None and view.lease_until > now:
        return f"driven by {view.holder.text}, term {view.term}"
    if session.house.journal.services():
        return "serve drives it"
    return "nobody drives it"


def _run_next(session: Session, view: RunView) -> str:
    if view.state == "finished":
        return session.command(f"report show {view.name}")
    following = {
        "waiting": f"run approve {view.name}",
        "paused": f"run retry {view.name}"
        if any(s.state == "failed" for s in view.steps.values())
        else f"run resume {view.name}",
        "awaiting_commit": f"commit {view.group}",
        "clean_failed": f"run retry {view.name}",
    }
    live = view.lease_until is not None and view.lease_until > session.house.clock.now()
    return session.command(following.get(view.state, f"run {'watch' if live else 'resume'} {view.name}"))


# -- reports -------------------------------------------------------------------------------------------------------


def report_show(
    session: Session,
    run: RunName,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="write the page there")] = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="write the document there; it can be verified"),
    ] = None,
) -> Answer:
    """The evidence of a run: what was measured, checked, decided and left."""
    from drpilot.cli.evidence import answer_of

    return answer_of(session, run, html, json)


def report_verify(
    session: Session,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="a report's JSON document", show_default=False)
    ],
) -> Answer:
    """Recompute the event chain of a written report."""
    from drpilot.cli.evidence import verified

    return verified(session, file)


# -- explain -------------------------------------------------------------------------------------------------------


def explain(
    session: Session,
    word: Annotated[
        str | None,
        typer.Argument(
            metavar="CODE|WORD", help="an error code, a state, an exit code or a word", show_default=False
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--list", help="every word that can be explained")] = False,
) -> Answer:
    """What an error code, a state, an exit code or a word of drpilot means."""
    from drpilot.cli import terms

    if everything or word is None:
        rows = terms.listing()
        table = Table(
            ("WORD", "KIND", "MEANING"), tuple((row["word"], row["kind"], row["meaning"]) for row in rows)
        )
        return Answer({"words": rows}, (table,), session.command("explain WORD"))
    meanings = terms.explained(word)
    if not meanings:
        raise terms.unknown(word)
    lines = [
        line
        for number, meaning in enumerate(meanings)
        for line in ([""] if number else []) + terms.lines(meaning)
    ]
    return Answer({"word": word, "meanings": meanings}, tuple(lines), meanings[0].get("next", ""))
