"""Bursts: extra capacity on the side that stands by, begun, ended, and shown before either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from drpilot.base.errors import DrpilotError
from drpilot.cli.act import ask_name, duration
from drpilot.cli.attend import closing, follow, left
from drpilot.cli.documents import proposal_document
from drpilot.cli.options import GroupName
from drpilot.cli.render import Answer
from drpilot.cli.screen import brief, screen
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from drpilot.domain.plan import Approval
    from drpilot.services.begin import Asking, Offer
    from drpilot.services.bursting import BurstAsking

__all__ = ["Extra", "burst"]


@dataclass(frozen=True, slots=True)
class Extra:
    """What a burst may be told; what is left out comes from the group file."""

    tier: Annotated[
        str | None, typer.Option("--tier", metavar="TIER", help="the tier; checked, never guessed")
    ] = None
    capacity: Annotated[
        int | None, typer.Option("--capacity", metavar="N", help="how many extra machines")
    ] = None
    weight: Annotated[
        int | None, typer.Option("--weight", metavar="PERCENT", help="the share of the users, 1 to 99")
    ] = None
    lasts: Annotated[
        str | None, typer.Option("--for", metavar="2h", help="ended after this time at the longest")
    ] = None
    end: Annotated[bool, typer.Option("--end", help="drain the extra machines and remove them")] = False
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="why; part of the evidence")] = ""
    confirm: Annotated[
        str | None, typer.Option("--confirm", metavar="NAME", help="the group's name, typed back")
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the proposal and stop")] = False
    detach: Annotated[bool, typer.Option("--detach", help="begin the run and leave it to whoever drives")] = (
        False
    )


def burst(session: Session, group: GroupName, extra: Extra) -> Answer:
    """Run extra machines of a tier on the other side for a share of the users; --end takes them away."""
    from drpilot.services.begin import Asking
    from drpilot.services.bursting import BEGIN, END

    house = session.house
    running = house.journal.group(group).burst
    if extra.end:
        if (extra.tier, extra.capacity, extra.weight, extra.lasts) != (None, None, None, None):
            what = "--end takes no --tier, --capacity, --weight or --for: a burst ends as a whole"
            raise DrpilotError("usage", what=what, hint=session.command(f"burst {group} --end"))
        if not running.running:
            text = f"{group} has no burst; nothing to end"
            return Answer({"result": "no_burst", "group": group}, (text,), session.command(f"status {group}"))
        return _carried(session, END, group, Asking(reason=extra.reason), extra)
    return _carried(session, BEGIN, group, Asking(reason=extra.reason, burst=_asked(extra)), extra)


def _asked(extra: Extra) -> BurstAsking:
    from drpilot.services.bursting import BurstAsking

    return BurstAsking(extra.tier, extra.capacity, extra.weight, duration("--for", extra.lasts))


def _carried(session: Session, mode: str, group: str, asking: Asking, extra: Extra) -> Answer:
    """Proposed, shown, consented to, begun and followed."""
    from drpilot.services.begin import begin, propose

    house = session.house
    offer = propose(house, mode, group, asking)
    lines = screen(offer.proposal, house.clock.now()) if offer.mode.asks_name else brief(offer.proposal)
    if extra.dry_run:
        document = {"proposal": proposal_document(offer.proposal), "dry_run": True}
        again = session.command(f"burst {group}" + (" --end" if extra.end else ""))
        return Answer(document, (*lines, "nothing was changed"), again)
    session.say(*session.terminal.prefixed(lines))
    view = begin(house, offer, _consented(session, offer, extra))
    session.run = view.name
    if extra.detach:
        return left(session, view)
    ended = follow(session, view.id)
    try:
        answer = closing(session, ended)
    except DrpilotError as error:
        if house.journal.group(group).burst.running:
            error.hint = session.command(f"burst {group} --end")
        raise
    return _told(session, group, answer)


def _consented(session: Session, offer: Offer, extra: Extra) -> Approval | None:
    from drpilot.services.begin import Typed, consent

    confirm = extra.confirm
    if offer.mode.asks_name and confirm is None:
        confirm = ask_name(session)
    return consent(session.house, offer, Typed(confirm))


def _told(session: Session, group: str, answer: Answer) -> Answer:
    """The end of a run with the burst as it stands now."""
    from drpilot.services.burstline import burst_line
    from drpilot.services.status import as_json

    house = session.house
    line = burst_line(house.journal.group(group).burst, house.clock.now())
    text = line.text if line is not None else "nothing of the burst is left"
    command = session.command(f"burst {group} --end" if line is not None else f"status {group}")
    data = {**answer.data, "burst": as_json(line) if line is not None else None}
    return Answer(data, (*answer.blocks, text), command)
