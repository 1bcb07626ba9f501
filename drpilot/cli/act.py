"""Acting commands that begin a run: the moves with their one screen and typed facts, and the runs that ask nobody.

No rule lives here: `propose` finds the facts, `consent` judges what was typed, `begin` writes the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from drpilot.base.errors import DrpilotError
from drpilot.base.units import parse_duration
from drpilot.cli.attend import closing, follow, left
from drpilot.cli.documents import proposal_document
from drpilot.cli.options import Consent, Detach, GroupName, Move, Naming
from drpilot.cli.render import Answer
from drpilot.cli.screen import brief, screen
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from drpilot.domain.plan import Proposal
    from drpilot.services.begin import Offer, Typed

__all__ = [
    "ask_loss",
    "ask_name",
    "drill",
    "duration",
    "failback",
    "failover",
    "fence",
    "moved",
    "replicate",
    "reprotect",
    "switchover",
]

Point = Annotated[
    str | None, typer.Option("--point", metavar="ID", help="the recovery point: an id, newest, or proven")
]


# -- moves ----------------------------------------------------------------------------------------------------


def failover(session: Session, group: GroupName, move: Move, consent: Consent) -> Answer:
    """Make the other side active; the source is presumed lost."""
    return moved(session, "failover", group, move, consent)


def switchover(session: Session, group: GroupName, move: Move, consent: Consent) -> Answer:
    """Make the other side active without loss; both sides must answer."""
    return moved(session, "switchover", group, move, consent)


def failback(session: Session, group: GroupName, move: Move, consent: Consent) -> Answer:
    """Switch over towards home: the primary of the group file, or where a migration has brought the group."""
    from drpilot.services.migration import home_of

    view = session.house.journal.group(group)
    home = home_of(session.house, view)
    if move.to not in (None, home):
        raise DrpilotError(
            "usage",
            what=f"--to {move.to}: failback goes home, and home of {group} is {home}",
            hint=session.command(f"switchover {group}"),
        )
    if view.active == home:
        return Answer(
            {"result": "already_home", "group": group, "active": home},
            (f"{group} is active on {home}, its home, already",),
            session.command(f"status {group}"),
        )
    return moved(session, "switchover", group, move, consent)


def moved(session: Session, mode: str, group: str, move: Move, consent: Consent) -> Answer:
    """A move proposed, shown, consented to, begun and followed."""
    from drpilot.services.begin import Asking, begin, propose
    from drpilot.services.begin import consent as consented

    house = session.house
    since = _moment("--since", move.since)
    house.journal.group(group)  # who is not known is not looked for
    session.say("looking (15 s at most) …")
    offer = propose(
        house, mode, group, Asking(consent.reason, move.point, since, move.to, consent.break_glass)
    )
    lines = screen(offer.proposal, house.clock.now(), people=_others(session))
    if move.dry_run:
        verb = f"fence {group} --survivor {move.to}" if mode == "survivor" else f"{mode} {group}"
        again = session.command(f'{verb} --reason "…"')
        return Answer(
            {"proposal": proposal_document(offer.proposal), "dry_run": True},
            (*lines, "nothing was changed"),
            again,
        )
    session.say(*session.terminal.prefixed(lines))
    approval = consented(house, offer, _typed(session, offer, consent))
    view = begin(house, offer, approval)
    session.run = view.name
    if move.detach:
        return left(session, view)
    return closing(session, follow(session, view.id, patient=True))


def _typed(session: Session, offer: Offer, consent: Consent) -> Typed:
    """The facts typed as options, else at the terminal."""
    from drpilot.services.begin import Typed

    confirm, accepted = consent.confirm, duration("--accept-data-loss", consent.accept_data_loss)
    if offer.mode.asks_name and confirm is None:
        confirm = ask_name(session)
    if offer.mode.asks_loss and accepted is None and confirm == offer.proposal.group:
        accepted = ask_loss(session)
    return Typed(confirm, accepted)


def ask_name(session: Session) -> str | None:
    """The group's name, typed back by a person."""
    return session.terminal.ask("Type the group's name: ")


def ask_loss(session: Session) -> float | None:
    """The accepted loss in seconds, typed by a person; three tries to write a duration."""
    for _ in range(3):
        answer = session.terminal.ask("Type the data loss you accept: ")
        if not answer:
            return None
        try:
            return parse_duration(answer)
        except ValueError as error:
            session.say(str(error))
    return None


def duration(option: str, text: str | None) -> float | None:
    """Seconds of a duration given as an option; usage error where it is none."""
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise DrpilotError(
            "usage",
            what=f"{option}: {error}",
            hint=f"{option} 10m" if option.startswith("--") else "such as 10m",
        ) from None


def _moment(option: str, text: str | None) -> Any:
    from drpilot.base.clock import parse_time

    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError as error:
        raise DrpilotError(
            "usage", what=f"{option}: {error}", hint=f"{option} 2026-11-22T03:05:00Z"
        ) from None


def _others(session: Session) -> tuple[str, ...]:
    """Who may approve beside the one who asks."""
    operators = session.house.configuration.operators
    return tuple(
        name for name, one in operators.items() if "approve" in one.may and name != session.house.person
    )


# -- runs that ask nobody ---------------------------------------------------------------------------------------


def replicate(session: Session, group: GroupName, detach: Detach = False) -> Answer:
    """Make a new recovery point on the other side and refresh the standby."""
    return _begin(session, "replicate", group, detach=detach)


def drill(
    session: Session,
    group: GroupName,
    to: Annotated[
        str | None, typer.Option("--to", metavar="SITE", help="the site to try; checked, never guessed")
    ] = None,
    point: Point = None,
    detach: Detach = False,
) -> Answer:
    """Boot the group on the other side in isolation, check it, and remove it again."""
    return _begin(session, "drill", group, to=to, point=point, detach=detach)


def fence(session: Session, group: GroupName, naming: Naming, detach: Detach = False) -> Answer:
    """Fence the old side again; with --survivor, go on with one side of a suspected split."""
    if naming.survivor is not None:
        consent = Consent(naming.reason, naming.confirm, None, naming.break_glass)
        move = Move(to=naming.survivor, dry_run=naming.dry_run, detach=detach)
        return moved(session, "survivor", group, move, consent)
    if naming != Naming():
        what = "--reason, --confirm, --break-glass and --dry-run belong to --survivor SITE"
        raise DrpilotError("usage", what=what, hint=session.command(f"fence {group}"))
    journal = session.house.journal
    view = journal.group(group)
    moves = [run for run in journal.runs(group, live=True) if run.lane == "move"]
    source = moves[0].plan.source if moves else view.standing
    if view.fences.get(source, {}).get("state") == "fenced" and view.state != "split_suspected":
        return Answer(
            {"result": "already_fenced", "group": group, "site": source},
            (f"{source} was seen fenced already; whether it still is, a look tells",),
            session.command(f"check {group}"),
        )
    return _begin(session, "fence", group, detach=detach)


def reprotect(session: Session, group: GroupName, detach: Detach = False) -> Answer:
    """Protect the new active side by the old one; makes the first reverse point."""
    view = session.house.journal.group(group)
    if view.state == "protected":
        return Answer(
            {"result": "already_protected", "group": group, "active": view.active},
            (f"{group} is protected already, active on {view.active}",),
            session.command(f"status {group}"),
        )
    return _begin(session, "reprotect", group, detach=detach)


def _begin(
    session: Session, mode: str, group: str, *, to: str | None = None, point: str | None = None, detach: bool
) -> Answer:
    from drpilot.services.begin import Asking, Typed, begin, propose
    from drpilot.services.begin import consent as consented

    house = session.house
    offer = propose(house, mode, group, Asking(point=point, to=to))
    session.say(*session.terminal.prefixed(brief(offer.proposal)))
    view = begin(house, offer, consented(house, offer, Typed()))
    session.run = view.name
    return left(session, view) if detach else closing(session, follow(session, view.id))


def shown_again(session: Session, proposal: Proposal) -> list[str]:
    """The screen of a run that waits for a second person, as old as it is."""
    return screen(proposal, session.house.clock.now(), people=())
