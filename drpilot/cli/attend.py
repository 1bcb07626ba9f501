"""Being beside a run at a terminal: progress, waiting for a second person, signals, and the words at its end.

Beginning and driving are two acts (services/attend.py): when a service drives, the terminal only watches, and leaving
it changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from drpilot.base.errors import DrpilotError
from drpilot.base.units import format_duration
from drpilot.cli.documents import ENDED, run_document
from drpilot.cli.options import RunName
from drpilot.cli.progress import Progress
from drpilot.cli.render import Answer
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from drpilot.domain.run import RunView
    from drpilot.journal.views import GroupView
    from drpilot.services.house import House

__all__ = ["closing", "follow", "left", "run_watch"]

PATIENT_S = 1800.0  # as long as a consent is good for (services/begin.py)
_POLL_S = 0.5


def follow(session: Session, run: str, *, patient: bool = False) -> RunView:
    """Drive or watch `run` with live progress until it rests; `patient` stays while a gate waits for other people."""
    from drpilot.services.attend import attend

    house = session.house
    session.run = run
    session.beside = {}
    end = house.clock.monotonic() + PATIENT_S
    with session.stoppable(), Progress(session.terminal, house.clock) as progress:
        while True:
            view = attend(house, run, seen=progress.seen)
            session.beside = {"run": run_document(view)}
            if view.state != "waiting" or not (patient and session.terminal.asks):
                return view
            session.say("     waiting … (Ctrl-C leaves; the run waits)")
            if not _answered(session, view, end):
                return view


def _answered(session: Session, view: RunView, end: float) -> bool:
    """Wait until somebody answered the gate of `view`; False when `end` has come."""
    house = session.house
    while house.clock.monotonic() < end:
        if house.stop.is_set():
            raise DrpilotError("interrupted", run=view.name)
        if house.journal.unread(view.id) or house.journal.view(view.id).state != view.state:
            return True
        house.clock.sleep(_POLL_S)
    return False


def left(session: Session, view: RunView) -> Answer:
    """A run that was begun and left to whoever drives (`--detach`)."""
    driven = "serve drives it" if session.house.journal.services() else "nobody drives it yet"
    command = f"run watch {view.group}" if session.house.journal.services() else f"run resume {view.group}"
    return Answer(
        run_document(view), (f"{view.name} {view.mode} was begun; {driven}",), session.command(command)
    )


def closing(session: Session, view: RunView, *, wanted: tuple[str, ...] = ()) -> Answer:
    """The words at the end of an attended run; raises what `verdict` says unless its state or result is `wanted`."""
    from drpilot.services.attend import verdict

    session.beside = {"run": run_document(view)}
    error = verdict(view)
    if error is not None and view.state not in wanted and view.result not in wanted:
        raise error
    times = _measured(session, view)
    document = {**run_document(view), **{f"{name}_seconds": value for name, value in times.items()}}
    return Answer(document, tuple(_words(session, view, times)), _next(session, view))


def _measured(session: Session, view: RunView) -> dict[str, float | None]:
    """RTO and RPO as the report measures them; empty for runs that recover nothing."""
    from drpilot.report import build
    from drpilot.report.build import gather

    report = build(gather(session.house.journal, view.id), session.house.clock.now())
    return {
        item.name: round(item.achieved_s, 3) if item.achieved_s is not None else None
        for item in report.measured
    }


def _words(session: Session, view: RunView, times: dict[str, float | None]) -> list[str]:
    ended = sum(1 for step in view.steps.values() if step.state in ENDED)
    plural = "s" if len(view.steps) != 1 else ""
    count = f"   {ended} of {len(view.steps)} step{plural}" if view.result != "rolled_back" else ""
    lines = [f"{session.terminal.mark('ok')} {view.name} {view.mode} {view.result or view.state}{count}"]
    group = session.house.journal.group(view.group)
    measured = " · ".join(_time(name, value) for name, value in times.items() if value is not None)
    if view.state == "awaiting_commit":
        lines.append(
            f"{view.group} is ACTIVE ON {view.plan.target}, awaiting commit{f'   {measured}' if measured else ''}"
        )
        lines += _after_move(session, view)
    else:
        if measured:
            lines.append(measured)
        lines.append(f"{view.group} is {_stands(group)}, epoch {group.epoch}")
        if _migrated(view, group.state):
            old = view.plan.source
            lines.append(f"its home is there now; what stands on {old} is left as it is, stopped and marked")
            lines.append(f"to let {old} stand by again: {session.command(f'reprotect {view.group}')}")
    return lines


def _migrated(view: RunView, state: str) -> bool:
    return view.mode == "migrate" and state == "active_unprotected"


def _stands(group: GroupView) -> str:
    if group.state == "active_unprotected":
        return f"active on {group.active} and UNPROTECTED"
    return f"{group.state.replace('_', ' ')}, active on {group.active}"


def _time(name: str, seconds: float) -> str:
    label = {"rto": "RTO", "rto_from_event": "from the outage", "rpo": "RPO"}.get(name, name)
    return f"{label} {format_duration(seconds)}"


def _after_move(session: Session, view: RunView) -> list[str]:
    source = view.plan.source
    fenced = view.fences.get(source) == "fenced"
    lines = []
    if not fenced:
        lines.append(
            f"{source} is not fenced for certain. serve goes on trying; "
            f"by hand: {session.command(f'fence {view.group}')}"
        )
    back = session.command(f"rollback {view.group}")
    lines.append(f"to go back: {back}" + ("" if fenced else f"   (not now: {source} is not fenced)"))
    return lines


def _next(session: Session, view: RunView) -> str:
    group = view.group
    if view.state == "awaiting_commit":
        return session.command(f"commit {group}")
    state = session.house.journal.group(group).state
    if _migrated(view, state):
        return session.command(f"migrate {group} --finish")
    if state == "active_unprotected":
        return session.command(f"reprotect {group}")
    if view.state == "paused":
        return session.command(f"run resume {group}")
    if view.mode == "drill":
        return session.command(f"report show {view.name}")
    return session.command(f"status {group}")


def run_watch(
    session: Session,
    run: RunName,
    wait: Annotated[bool, typer.Option("--wait", help="stay while a gate waits for people")] = False,
) -> Answer:
    """Watch a run until it rests; never drives it."""
    house = session.house
    view = house.journal.view(run)
    with session.stoppable(), Progress(session.terminal, house.clock) as progress:
        view = _watched(session, view, progress, patient=wait)
    return closing(session, view)


def _watched(session: Session, view: RunView, progress: Progress, *, patient: bool) -> RunView:
    from drpilot.domain.states import FAMILIES
    from drpilot.services.attend import resting

    house = session.house
    while True:
        view = house.journal.view(view.id)
        session.run, session.beside = view.name, {"run": run_document(view)}
        progress.seen(view)
        over = view.state in FAMILIES["run"].final
        if over or (resting(view) and not view.requests and not (patient and view.state == "waiting")):
            return view
        if house.stop.is_set():
            raise DrpilotError("interrupted", run=view.name)
        if not _driven(house, view):
            raise DrpilotError("nobody-drives", run=view.name, group=view.group)
        house.clock.sleep(_POLL_S)


def _driven(house: House, view: RunView) -> bool:
    """Whether somebody drives the run: a lease that still holds, or a service that will take it."""
    if view.state == "waiting" or house.journal.services():
        return True
    until = view.lease_until
    return until is not None and until > house.clock.now()
