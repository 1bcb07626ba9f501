"""The one screen that decides: the proposal as people see it before they type anything.

SEEN, YOU LOSE, STOPS, FENCE, STARTS, TIME, NO WAY BACK, NEEDS. Every fact comes from the one Proposal object that is
also approved, stored, printed as JSON and reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from drpilot.base.units import ceiling_duration, format_duration
from drpilot.cli.burstscreen import burst_facts
from drpilot.cli.render import moment

if TYPE_CHECKING:
    from drpilot.domain.plan import Proposal

__all__ = ["brief", "screen"]

_WIDTH = 14
_VERDICTS = {"ok": "", "warning": "! ", "bad": "✗ "}


def screen(proposal: Proposal, now: datetime, *, people: tuple[str, ...] = ()) -> list[str]:
    """The lines of the screen; `people` are those who may approve beside the one who asks."""
    lines = [_head(proposal)]
    if proposal.reason:
        lines.append(f"{'REASON':<{_WIDTH}}{proposal.reason}")
    for label, texts in _facts(proposal, now, people):
        for number, text in enumerate(texts):
            lines.append(f"{label if number == 0 else '':<{_WIDTH}}{text}".rstrip())
    return lines


def brief(proposal: Proposal) -> list[str]:
    """The lines for a run that asks nobody: one, and how bytes get across where that is not a matter of course."""
    return [_head(proposal), *([f"{'BYTES':<{_WIDTH}}{proposal.data_path}"] if proposal.data_path else [])]


def _head(proposal: Proposal) -> str:
    left = f"{proposal.group}: {proposal.mode.upper()}  {proposal.source} → {proposal.target}"
    steps = f"{proposal.steps} step{'s' if proposal.steps != 1 else ''}"
    return f"{left:<48} runbook {proposal.runbook}, {steps}, plan {proposal.plan[:6]}"


def _facts(proposal: Proposal, now: datetime, people: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    if proposal.burst is not None:
        yield from burst_facts(proposal, proposal.burst, now)
        yield "NEEDS", [_needs(proposal, people)]
        return
    if proposal.seen:
        yield "SEEN", list(_seen(proposal, now))
    survivor = proposal.mode == "survivor"
    yield ("GIVEN UP", [_given_up(proposal)]) if survivor else ("YOU LOSE", list(_loss(proposal, now)))
    yield "STOPS", [", ".join(proposal.stops) if proposal.stops else "nothing"]
    if proposal.fence is not None:
        yield "FENCE", [_fence(proposal)]
    if proposal.starts:
        yield "STARTS", [f"on {proposal.target}: {', then '.join(proposal.starts)}"]
    if proposal.data_path:
        yield "BYTES", [proposal.data_path]
    if not survivor:
        yield "TIME", [_time(proposal)]
    if proposal.no_way_back is not None:
        step = f'step {proposal.no_way_back_number} "{proposal.no_way_back}"'
        yield "NO WAY BACK", [f"without loss after {step}. Before it: drpilot rollback {proposal.group}"]
    yield "NEEDS", [_needs(proposal, people)]
    for label, texts in (("WARNING", proposal.warnings), ("BLOCKED", proposal.blockers)):
        if texts:
            yield label, list(texts)


def _seen(proposal: Proposal, now: datetime) -> Iterator[str]:
    width = max(len(sight.subject) for sight in proposal.seen)
    for sight in proposal.seen:
        age = format_duration(max(0.0, round((now - sight.seen_at).total_seconds())))
        text = f"{_VERDICTS.get(sight.verdict, '')}{sight.text}"
        yield f"{sight.subject:<{width}}  {text}{f'   {age} ago' if age != '0s' else ''}"


def _loss(proposal: Proposal, now: datetime) -> Iterator[str]:
    if proposal.loss_s is None:
        yield "nothing: a last copy is made after the writers have stopped"
        return
    most = "" if proposal.loss_exact else "at most "
    proven = f", {proposal.point_state}" if proposal.point_state else ""
    taken = moment(proposal.point_at, now)
    yield f"{most}{ceiling_duration(proposal.loss_s)} of writes: back to point {proposal.point} of {taken}{proven}"
    if proposal.since is not None:
        yield f"{proposal.source}'s last sign of life: {moment(proposal.since, now)}"
    else:
        yield f"{proposal.source} was never seen alive, so the whole age of the point counts"
    yield "another point: --point ID; another time of death: --since TIME"


def _given_up(proposal: Proposal) -> str:
    return (
        f"{proposal.source}: what was written there since the split stays on its stopped machines, and nothing of it "
        f"is taken over by {proposal.target}"
    )


def _fence(proposal: Proposal) -> str:
    word = proposal.fence.value if proposal.fence is not None else ""
    if proposal.mode == "survivor":
        return (
            f"{proposal.source} must be seen fenced before {proposal.target} is named, or the run stops there"
        )
    if word == "fenced":
        return f"{proposal.source} answers: it is expected to be fenced and verified before anything starts"
    return (
        f"will stay {word.upper()}: {proposal.source} can't be seen. If it wakes it may write until it is fenced; "
        "serve goes on trying"
    )


def _time(proposal: Proposal) -> str:
    objective = (
        f"objective {format_duration(proposal.rto_objective_s)}"
        if proposal.rto_objective_s
        else "no objective"
    )
    if proposal.rto_s is None:
        return f"unknown, nothing was measured yet ({objective})"
    return f"about {format_duration(proposal.rto_s)} (p75 of {proposal.rto_samples}; {objective})"


def _needs(proposal: Proposal, people: tuple[str, ...]) -> str:
    if proposal.break_glass is not None:
        return f"1 person, by --break-glass: {proposal.break_glass}"
    if proposal.approvers <= 1:
        return "1 person: you"
    others = (
        f" and {proposal.approvers - 1} of {', '.join(people)}"
        if people
        else f" and {proposal.approvers - 1} more"
    )
    return f'{proposal.approvers} people: you{others}     (alone: --break-glass "why")'
