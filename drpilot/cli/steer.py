"""Steering a run that exists: answers of people and orders. Who answers a gate or resumes becomes the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from drpilot.base.errors import DrpilotError
from drpilot.base.units import ceiling_duration, format_duration
from drpilot.cli.act import ask_loss, ask_name, duration, shown_again
from drpilot.cli.attend import closing, follow
from drpilot.cli.documents import run_document
from drpilot.cli.options import GroupName, RunName, reasoned
from drpilot.cli.render import Answer
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from drpilot.domain.run import RunView

__all__ = ["approve", "cancel", "commit", "decline", "pause", "resume", "retry", "rollback", "settle", "skip"]

Reason = Annotated[str, reasoned("why; kept with the order")]
Confirm = Annotated[
    str | None, typer.Option("--confirm", metavar="NAME", help="the group's name, typed back")
]
Step = Annotated[
    str | None,
    typer.Argument(
        metavar="STEP",
        help="a step's path, such as tiers/db/volumes; left out: every failed one",
        show_default=False,
    ),
]
StepPath = Annotated[
    str, typer.Option("--step", metavar="STEP", help="a step's path, such as tiers/db/volumes")
]


def _ordered(
    session: Session,
    view: RunView,
    kind: str,
    *,
    step: str | None = None,
    comment: str = "",
    data: dict[str, Any] | None = None,
) -> RunView:
    """Post an order, attend the run until it rests, and raise where the driver refused it."""
    from drpilot.services.steer import Order, order

    house = session.house
    session.run = view.name
    posted = order(house, view.id, Order(kind, step, comment, data or {}))
    mine = [request.id for request in posted.requests if request.kind == kind and request.by == house.person]
    view = follow(session, view.id)
    for request in mine:
        read, refused = house.journal.answered(request)
        if read and refused:
            raise _refused(view, kind, refused)
    return view


def _refused(view: RunView, kind: str, why: str) -> DrpilotError:
    if kind == "rollback":
        return DrpilotError(
            "rollback-refused", group=view.group, what=why, hint=f"drpilot run show {view.name}"
        )
    return DrpilotError(
        "transition-refused", family="run", key=view.name, event=kind, state=view.state, why=why
    )


def _already(session: Session, view: RunView, word: str, text: str) -> Answer:
    return Answer({**run_document(view), "result": word}, (text,), session.command(f"status {view.group}"))


# -- answers about a group ----------------------------------------------------------------------------------------


def commit(session: Session, group: GroupName, reason: Reason = "") -> Answer:
    """Keep the new side: confirm its epoch and invalidate the old side."""
    from drpilot.domain.run import MOVES

    view = session.house.journal.view(group)
    if (
        view.mode in MOVES
        and view.state == "finished"
        and view.result in ("succeeded", "succeeded_with_warnings")
    ):
        return _already(session, view, "already_committed", f"{view.name} is committed already")
    return closing(session, _ordered(session, view, "commit", comment=reason))


def rollback(
    session: Session,
    group: GroupName,
    confirm: Confirm = None,
    accept_data_loss: Annotated[
        str | None,
        typer.Option(
            "--accept-data-loss", metavar="10m", help="the loss of writes since the promotion, as a duration"
        ),
    ] = None,
    reason: Reason = "",
) -> Answer:
    """Go back to the old side; after the promotion only with the loss typed."""
    from drpilot.domain.run import MOVES
    from drpilot.services.steer import promoted_s, require_rollback

    house = session.house
    runs = house.journal.runs(group, limit=200)
    view = next((run for run in runs if run.mode in MOVES), house.journal.view(group))
    if view.state == "finished" and view.result == "rolled_back":
        return _already(session, view, "already_rolled_back", f"{view.name} is rolled back already")
    require_rollback(house, view)
    accepted, loss = duration("--accept-data-loss", accept_data_loss), promoted_s(view, house.clock.now())
    session.say(f"{view.name}: ROLL BACK  {view.plan.target} → {view.plan.source}")
    if loss is not None:
        session.say(
            f"YOU LOSE      {ceiling_duration(loss)}: everything written on {view.plan.target} since the promotion"
        )
    confirm = ask_name(session) if confirm is None else confirm
    if loss is not None and confirm == view.group:
        accepted = ask_loss(session) if accepted is None else accepted
    data = {"confirm": confirm, **({"accepted_loss_s": accepted} if accepted is not None else {})}
    return closing(
        session, _ordered(session, view, "rollback", comment=reason, data=data), wanted=("rolled_back",)
    )


# -- answers to a gate --------------------------------------------------------------------------------------------


def approve(session: Session, run: RunName, confirm: Confirm = None, reason: Reason = "") -> Answer:
    """Approve a waiting gate as another person; shows the same screen and asks for the name."""
    from drpilot.services.steer import open_gate

    view = session.house.journal.view(run)
    gate = open_gate(view)
    if gate is None:
        raise DrpilotError("nothing-to-answer", run=view.name)
    if view.proposal is not None:
        lines = shown_again(session, view.proposal)
        age = format_duration(
            max(0.0, round((session.house.clock.now() - view.proposal.created_at).total_seconds()))
        )
        lines.append(
            f"this screen is {age} old; {_looked_again(session, view)}; gate {gate[0]} waits for {gate[1]}"
        )
        session.say(*session.terminal.prefixed(lines))
    confirm = ask_name(session) if confirm is None else confirm
    return closing(session, _ordered(session, view, "approve", comment=reason, data={"confirm": confirm}))


def _looked_again(session: Session, view: RunView) -> str:
    """Whether both sites answer as they did when the screen was made; a look, bounded, that changes nothing."""
    from concurrent.futures import ThreadPoolExecutor

    from drpilot.services.begin import LOOK_S

    assert view.proposal is not None  # asked only where a screen was shown
    before = {sight.subject: sight.verdict == "ok" for sight in view.proposal.seen}
    names = [name for name in (view.plan.source, view.plan.target) if name in before]
    if not names:
        return "nothing to look at again"
    with ThreadPoolExecutor(max_workers=len(names)) as pool:
        looks = list(pool.map(lambda name: session.house.probe(name, timeout_s=LOOK_S), names))
    changed = [
        f"{look.site} {'answers' if look.answers else 'is silent'} now"
        for look in looks
        if look.answers != before[look.site]
    ]
    return "looked again: " + (", ".join(changed) if changed else "unchanged")


def decline(session: Session, run: RunName, reason: Reason = "") -> Answer:
    """Say no at a waiting gate; the run ends, and what it changed is undone."""
    view = session.house.journal.view(run)
    return closing(
        session, _ordered(session, view, "decline", comment=reason), wanted=("cancelled", "rolled_back")
    )


# -- orders -------------------------------------------------------------------------------------------------------


def resume(session: Session, run: RunName, reason: Reason = "") -> Answer:
    """Go on with a run that is paused or that nobody drives."""
    view = session.house.journal.view(run)
    if view.state == "finished":
        return _already(session, view, "already_finished", f"{view.name} is finished already: {view.result}")
    if view.state in ("paused", "clean_failed"):
        return closing(session, _ordered(session, view, "resume", comment=reason))
    return closing(session, follow(session, view.id, patient=True))


def pause(session: Session, run: RunName, reason: Reason = "") -> Answer:
    """Start nothing new; what is under way ends."""
    view = session.house.journal.view(run)
    if view.state == "paused":
        return _already(session, view, "already_paused", f"{view.name} is paused already")
    return closing(session, _ordered(session, view, "pause", comment=reason), wanted=("paused",))


def cancel(session: Session, run: RunName, reason: Reason = "") -> Answer:
    """End a run; a move that changed things is rolled back instead."""
    view = session.house.journal.view(run)
    if view.state == "finished":
        return _already(session, view, "already_finished", f"{view.name} is finished already: {view.result}")
    return closing(session, _ordered(session, view, "cancel", comment=reason), wanted=("cancelled",))


def retry(session: Session, run: RunName, step: Step = None, reason: Reason = "") -> Answer:
    """Try failed steps again, in a new round."""
    view = session.house.journal.view(run)
    return closing(session, _ordered(session, view, "retry", step=step, comment=reason))


def skip(session: Session, run: RunName, step: StepPath, reason: Reason) -> Answer:
    """Go on without a failed step; never a fence, promotion or epoch step."""
    view = session.house.journal.view(run)
    return closing(session, _ordered(session, view, "skip", step=step, comment=reason))


def settle(
    session: Session,
    run: RunName,
    step: StepPath,
    happened: Annotated[
        Literal["yes", "no"], typer.Option("--happened", help="whether the call took effect")
    ],
    reason: Annotated[str, reasoned("what you saw")],
) -> Answer:
    """Say what became of a step that looking could not settle."""
    view = session.house.journal.view(run)
    data = {"happened": happened == "yes"}
    return closing(session, _ordered(session, view, "settle", step=step, comment=reason, data=data))
