"""The kill switch on the command line: `halt` and `unhalt`, for the whole installation."""

from __future__ import annotations

from typing import Annotated

import typer

from drpilot.cli.render import Answer, moment
from drpilot.cli.session import Session

__all__ = ["halt", "unhalt"]

Because = Annotated[
    str, typer.Option("--reason", metavar="WHY", help="why; kept in the evidence", show_default=False)
]


def halt(session: Session, reason: Because) -> Answer:
    """Stop every run of every group at once: nothing more is changed in any cloud until `unhalt`."""
    from drpilot.services import halting

    house = session.house
    found, stopped = halting.halt(house, reason)
    mine = (found.by, found.reason) == (house.person, reason)
    result = "halted" if mine or stopped else "already_halted"
    data = {
        "result": result,
        "by": found.by,
        "reason": found.reason,
        "since": found.at,
        "stopped": list(stopped),
    }
    if result == "already_halted":
        since = moment(found.at, house.clock.now())
        lines: tuple[str, ...] = (
            f"everything is halted already, by {found.by} since {since}: {found.reason}",
        )
    else:
        names = ", ".join(stopped) or "none was alive"
        lines = (
            "HALTED: no run begins, none is driven, and no call of one that changes something leaves any more",
            f"runs stopped where they are: {names}",
            "what was on its way to a cloud may still arrive; the next driver looks for it",
        )
    return Answer(data, lines, session.command('unhalt --reason "…"'))


def unhalt(session: Session, reason: Because) -> Answer:
    """Let runs be driven again; each goes on where it stood, after a look at what was under way."""
    from drpilot.services import halting

    house = session.house
    if not halting.lift(house, reason):
        return Answer({"result": "already_lifted"}, ("nothing is halted",), session.command("status"))
    live = [run.name for run in house.journal.runs(live=True, limit=500)]
    going = "drpilot serve goes on with them" if house.journal.services() else "each goes on by: run resume"
    lines = ("runs may be driven again", *([f"alive: {', '.join(live)}; {going}"] if live else []))
    then = session.command(f"run resume {live[0]}") if live else session.command("status")
    return Answer({"result": "lifted", "reason": reason, "alive": live}, lines, then)
