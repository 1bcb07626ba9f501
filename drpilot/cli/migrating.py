"""Migrations: what the other side has and lacks, rounds of replication, the switch for good, and what is left to do.

No rule lives here: `services/migration.py` says what is short enough and what stands in the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drpilot.base.errors import DrpilotError
from drpilot.base.units import format_duration
from drpilot.cli.act import ask_name, duration, moved
from drpilot.cli.attend import closing, follow
from drpilot.cli.options import Consent, GroupName, Move
from drpilot.cli.protecting import preview_blocks, preview_document
from drpilot.cli.render import Answer, Table
from drpilot.cli.screen import screen
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from drpilot.domain.run import RunView
    from drpilot.inventory.parity import Parity
    from drpilot.services.migration import Rounds, Surroundings

__all__ = ["Migration", "migrate"]


@dataclass(frozen=True, slots=True)
class Migration:
    """What a migration may be told beside its consent."""

    to: Annotated[
        str | None, typer.Option("--to", metavar="SITE", help="the site to live on; checked, never guessed")
    ] = None
    until: Annotated[
        str | None,
        typer.Option(
            "--until", metavar="10m", help="replicate again until a round takes no longer than this"
        ),
    ] = None
    rounds: Annotated[
        int | None, typer.Option("--rounds", metavar="N", min=1, max=100, help="at most so many rounds")
    ] = None
    finish: Annotated[
        bool,
        typer.Option(
            "--finish", help="after the commit: let the group go, and what drpilot made on the old side"
        ),
    ] = False
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="why, with the ticket; part of the evidence")
    ] = ""
    confirm: Annotated[
        str | None, typer.Option("--confirm", metavar="NAME", help="the group's name, typed back")
    ] = None
    break_glass: Annotated[
        str | None,
        typer.Option("--break-glass", metavar="WHY", help="act alone where two people are asked for"),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show what is there, what is missing, what is lost, and stop")
    ] = False


def migrate(session: Session, group: GroupName, migration: Migration) -> Answer:
    """Move a group to the other site for good: replicate until little is left, then switch without loss."""
    from drpilot.services.migration import Rounds, require_surroundings, surroundings

    house = session.house
    view = house.journal.group(group)
    if migration.finish:
        return _finish(session, group, migration)
    live = [run for run in house.journal.runs(group, live=True) if run.mode == "migrate"]
    if live and not migration.dry_run:  # a switch that was left half-way is gone on with, as its consent says
        return closing(session, follow(session, live[0].id, patient=True))
    if migration.to not in (None, view.standing):
        what = f"--to {migration.to} is not the other side of {group}"
        raise DrpilotError(
            "usage", what=what, why=f"{group} is active on {view.active}", hint=f"--to {view.standing}"
        )
    usual = Rounds()
    limit_s = duration("--until", migration.until)
    rounds = Rounds(migration.rounds or usual.most, usual.short_s if limit_s is None else limit_s)
    session.say(f"looking at what {view.standing} has of what {group} needs …")
    found = surroundings(house, view)
    if migration.dry_run:
        return _shown(session, group, found, rounds)
    require_surroundings(view, found)
    _told_programs(session, found)
    _possible(session, group, migration)
    if found.making.names:
        session.say(f"to be made on {view.standing}: {', '.join(found.making.names)}")
        closing(session, _run(session, "configure", group, migration.reason))
    _replicated(session, group, migration.reason, rounds)
    return moved(session, "migrate", group, Move(), _consent(migration))


def _consent(migration: Migration) -> Consent:
    return Consent(migration.reason, migration.confirm, None, migration.break_glass)


def _possible(session: Session, group: str, migration: Migration) -> None:
    """Refuse now what would be refused after hours of copying; a group that seeds has its first round first."""
    from drpilot.services.begin import Asking, propose

    house = session.house
    if house.journal.group(group).state != "seeding":
        propose(house, "migrate", group, Asking(migration.reason, break_glass=migration.break_glass))
    elif not migration.reason.strip():
        raise DrpilotError("reason-missing", verb="migrate", group=group)


def _run(session: Session, mode: str, group: str, reason: str) -> RunView:
    """One run that asks nobody, to its end; a live one of the same kind is gone along with."""
    from drpilot.services.begin import Asking, begin, propose

    house = session.house
    live = [run for run in house.journal.runs(group, live=True) if run.mode == mode]
    run = live[0] if live else begin(house, propose(house, mode, group, Asking(reason=reason)), None)
    return follow(session, run.id)


def _replicated(session: Session, group: str, reason: str, rounds: Rounds) -> None:
    """Rounds of replication until the last was short."""
    from drpilot.services.migration import round_s

    took: list[float] = []
    while not rounds.over(took):
        session.say(f"round {len(took) + 1} of {rounds.most} at most")
        view = _run(session, "replicate", group, reason)
        closing(session, view)
        took.append(round_s(view))
        session.say(f"round {len(took)} took {format_duration(round(took[-1]))}")


def _told_programs(session: Session, found: Surroundings) -> None:
    for program in found.programs:
        session.say(
            f"! {program} can't be started on this host: the switch would stop at its bootstrap there"
        )


def _shown(session: Session, group: str, found: Surroundings, rounds: Rounds) -> Answer:
    """The dry run: every thing of the other side, what becomes of each member, what is lost, and the switch itself."""
    view = session.house.journal.group(group)
    rows = [_row(each, dict.fromkeys(found.making.names)) for each in found.parities]
    refused = [*found.making.refused, *found.making.mapped]
    until = format_duration(rounds.short_s)
    lines: list[Any] = [
        *preview_blocks(found.preview),
        Table(("KIND", f"ON {view.standing.upper()}", "STANDS FOR", "IS", "SEEN"), tuple(rows)),
        *(f"not made by drpilot: {text}" for text in refused),
        *(f"! {program} can't be started on this host" for program in found.programs),
        f"then at most {rounds.most} replications, until one takes {until} or less, and the switch:",
        *_switch(session, group),
        "nothing was changed",
    ]
    heads = ("kind", "name", "source", "is", "observed")
    data = {
        **preview_document(found.preview),
        "partners": [dict(zip(heads, row, strict=True)) for row in rows],
        "made": list(found.making.names),
        "refused": refused,
        "programs_missing": list(found.programs),
        "rounds": rounds.most,
        "until_seconds": rounds.short_s,
        "dry_run": True,
    }
    again = session.command(f'migrate {group} --reason "…"')
    return Answer(data, tuple(lines), again, 3 if refused else 0)


def _switch(session: Session, group: str) -> list[str]:
    """The screen of the switch as it would be now, or why it would be refused now."""
    from drpilot.services.begin import Asking, propose

    try:
        offer = propose(session.house, "migrate", group, Asking("a dry run"))
    except DrpilotError as error:
        return [f"not now: {error.title}" + (f" ({error.why})" if error.why else "")]
    return screen(offer.proposal, session.house.clock.now())


def _row(each: Parity, made: dict[str, None]) -> tuple[str, str, str, str, str]:
    """One thing of the other side: its kind, its name, what it stands for, what it is, and what was seen."""
    from drpilot.inventory.parity import KINDS

    kind = KINDS[each.ask.kind]
    words = {"ok": "there", "bad": "missing"}
    word = "will be made" if f"{kind} {each.ask.name}" in made else words.get(each.verdict, each.verdict)
    return kind, each.ask.name, each.ask.source, word, each.observed


def _finish(session: Session, group: str, migration: Migration) -> Answer:
    """The group is let go; its originals stay where they stand."""
    from drpilot.services import protect as service
    from drpilot.services.migration import finishing, originals

    house = session.house
    view = house.journal.group(group)
    past = finishing(house, view)
    session.say(
        f"{group}: FINISH  lets the group go: its {len(house.journal.points(group))} points, our standbys and tags; "
        f"what runs on {view.active} stays, and so do the originals on {view.standing}, stopped: "
        f"{', '.join(originals(past)) or 'none was seen'}",
    )
    if migration.dry_run:
        text = f"{past.name} would be finished; nothing was changed"
        return Answer(
            {"group": group, "dry_run": True}, (text,), session.command(f"migrate {group} --finish")
        )
    confirm = ask_name(session) if migration.confirm is None else migration.confirm
    begun = service.retire(house, group, confirm, migration.reason or f"{past.name} is finished")
    session.run = begun.name
    answer = closing(session, follow(session, begun.id))
    text = f"{group} lives on {view.active} and is {house.journal.group(group).state}: no longer protected by drpilot"
    kept = list(originals(past))
    data = {**answer.data, "migration": past.name, "originals": {"site": past.plan.source, "ids": kept}}
    return Answer(data, (text,), session.command("status"))
