"""Proposing and beginning a run: one path for every mode, driven by the table of modes.

`propose` looks, chooses the point, compiles the plan and writes down all facts a person consents to; `consent` checks
the typed facts against them; `begin` writes the run. Driving it is another act (services/attend.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from drpilot.base.clock import rfc3339
from drpilot.base.errors import DrpilotError
from drpilot.base.units import ceiling_duration, format_duration
from drpilot.domain.burst import BurstOffer
from drpilot.domain.group import Group
from drpilot.domain.plain import to_plain
from drpilot.domain.plan import Approval, Plan, Proposal
from drpilot.domain.point import RecoveryPoint, choose, lag_s
from drpilot.domain.ports import CloudError
from drpilot.domain.run import PLANNED, RunView
from drpilot.inventory.discover import members
from drpilot.journal.journal import NewRun
from drpilot.journal.views import GroupView
from drpilot.runbook.compile import ActionFacts, CompileFacts, compile, shipped
from drpilot.services import bursting
from drpilot.services.guidance import survivor_command
from drpilot.services.house import House, Look
from drpilot.services.modes import MODES, Mode
from drpilot.services.proposal import Asking, Case, proposal_of
from drpilot.services.refusals import kept
from drpilot.services.right import require_right

__all__ = ["Asking", "Offer", "Typed", "action_facts", "begin", "consent", "propose"]

LOOK_S = 12.0  # one bounded look at every site before a move; a failover begins within 15 s whatever hangs


@dataclass(frozen=True, slots=True)
class Typed:
    """The facts a person typed back: the group's name, and the loss in seconds."""

    confirm: str | None = None
    accepted_loss_s: float | None = None
    where: str = ""


@dataclass(frozen=True, slots=True)
class Offer:
    """A plan ready to begin, with the proposal that says what it would do."""

    mode: Mode
    run: str
    plan: Plan
    proposal: Proposal
    looks: Mapping[str, Look] = field(default_factory=dict)


def action_facts(house: House) -> dict[str, ActionFacts]:
    """What the compiler needs to know of each action."""
    return {name: ActionFacts.of(action) for name, action in house.catalogue.items()}


def propose(house: House, mode_name: str, name: str, asking: Asking) -> Offer:
    """Everything a person needs to decide, looked up within seconds; nothing is written but what was seen."""
    mode = MODES[mode_name]
    view = house.journal.group(name)
    _possible(asking.since, None, house.clock.now())
    source, target = _direction(house, view, mode, asking)
    with kept(house, name, mode_name):
        _guard(house, view, mode, asking)
    looks = _looks(house, view, source, target) if mode.looks else {}
    _needed(mode, view, (source, target), looks)
    group = _members(house, view, mode, source)
    point = _point(house, view, mode, asking, target)
    _possible(asking.since, point, house.clock.now())
    run = house.journal.new_id()
    extra = None
    if mode.name in (bursting.BEGIN, bursting.END):
        extra = bursting.offer(house, view, asking.burst, point)
    way = _Way(source, target, point.id if point else house.journal.new_id(), extra)
    plan = _plan(house, mode, group, way)
    proposal = proposal_of(house, Case(mode, view, group, plan, point, asking, looks, extra))
    return Offer(mode, run, plan, proposal, looks)


def _possible(since: datetime | None, point: RecoveryPoint | None, now: datetime) -> None:
    """Refuse a last sign of life that can't have been: it would make the loss shown a lie."""
    hint = "the time the source was last seen alive, such as --since 2026-11-22T03:05:00Z"
    if since is not None and since > now:
        raise DrpilotError("usage", what=f"--since {rfc3339(since)} lies in the future", hint=hint)
    alive_at = point.captured_at if point is not None else None
    if since is not None and point is not None and alive_at is not None and since < alive_at:
        what = f"--since {rfc3339(since)}: the source was alive at {rfc3339(alive_at)}"
        raise DrpilotError("usage", what=what, why=f"point {point.id} was captured then", hint=hint)


def _refused(look: Look) -> DrpilotError:
    """The site may be well: our keys are not."""
    return DrpilotError("site-refuses", site=look.site, why=look.detail)


def _needed(mode: Mode, view: GroupView, route: tuple[str, str], looks: Mapping[str, Look]) -> None:
    """Refuse what can't be done while a site is silent, or refuses us."""
    needed = route[:1] if mode.name in PLANNED else route if mode.name == "survivor" else ()
    for look in (looks[name] for name in needed if not looks[name].answers):
        if look.refusal:
            raise _refused(look)
        word = "switchover-needs-both" if mode.name in PLANNED else "survivor-unseen"
        raise DrpilotError(word, site=look.site, group=view.name, why=look.detail)


def _direction(house: House, view: GroupView, mode: Mode, asking: Asking) -> tuple[str, str]:
    """The roles of the two sites: what is left (source) and what is made active, protected or tried (target)."""
    source, target = view.active, view.standing
    if mode.name == "fence":
        live = [run for run in house.journal.runs(view.name, live=True) if run.lane == "move"]
        source = live[0].plan.source if live else view.standing
        target = view.group.other(source)
    if mode.name == bursting.END:
        return view.group.other(view.burst.site or target), view.burst.site or target
    if mode.name == "survivor":
        if asking.to in (view.group.primary, view.group.secondary):
            return view.group.other(asking.to), asking.to
        what = f"{view.name} has no side {asking.to!r}"
        raise DrpilotError("usage", what=what, hint=survivor_command(view.name, view.active, view.standing))
    if asking.to is not None and asking.to != target:
        why = f"{view.name} is active on {view.active}"
        raise DrpilotError(
            "usage",
            what=f"--to {asking.to} is not the other side of {view.name}",
            why=why,
            hint=f"--to {target}",
        )
    return source, target


def _guard(house: House, view: GroupView, mode: Mode, asking: Asking) -> None:
    if view.state not in mode.from_states:
        split = survivor_command(view.name, view.active, view.standing)
        raise DrpilotError(
            "wrong-state",
            group=view.name,
            state=view.state,
            verb=mode.name,
            allowed=", ".join(mode.from_states),
            hint=split if view.state == "split_suspected" else f"drpilot status {view.name}",
        )
    busy = [run for run in house.journal.runs(view.name, live=True) if run.lane == mode.lane]
    if busy:
        raise house.journal.busy(view.name, mode.lane)
    live = house.journal.runs(view.name, live=True)
    in_the_way = (
        live
        if mode.name == "retire"
        else [run for run in live if run.lane == "move" and not mode.beside_move]
    )
    if in_the_way:
        raise house.journal.busy(view.name, in_the_way[0].lane)
    bursting.guard(view, mode, asking.burst, house.clock.now())
    if mode.isolated:
        _fresh(house, view)
    if mode.lane != "move" or mode.name == "reprotect":
        return  # what only restores protection is never held up
    if view.locked_by is not None:
        raise DrpilotError("locked", group=view.name, by=view.locked_by, reason=view.locked_reason or "")
    if mode.asks_reason and not asking.reason.strip():
        raise DrpilotError("reason-missing", verb=mode.name, group=view.name)
    if mode.name in ("retire", "survivor"):
        return
    if view.moved_at is not None and view.acknowledged_at is None and asking.break_glass is None:
        age_s = (house.clock.now() - view.moved_at).total_seconds()
        left_s = view.group.cooldown_s - age_s
        if left_s > 0:
            raise DrpilotError(
                "cooldown", group=view.name, age=format_duration(age_s), left=format_duration(left_s)
            )


def _fresh(house: House, view: GroupView) -> None:
    """A drill of a point older than three intervals says nothing about tonight (RamenDR refuses it likewise)."""
    lag = lag_s(house.journal.points(view.name), view.standing, house.clock.now())
    limit_s = 3 * view.group.replicate_every_s
    if lag is not None and lag > limit_s:
        what = f"the newest point is {format_duration(lag)} old, {format_duration(limit_s)} are allowed"
        raise DrpilotError("drill-not-fresh", group=view.name, what=what)


def _looks(house: House, view: GroupView, source: str, target: str) -> dict[str, Look]:
    names = list(dict.fromkeys([source, target, *([view.group.traffic.site] if view.group.traffic else [])]))
    hands = house.hire(len(names), "drpilot-look")
    looking = [hands.submit(partial(house.probe, name, timeout_s=LOOK_S)) for name in names]
    hands.wait(looking, 2 * LOOK_S, all_of_them=True)
    hands.close()
    found = [look.result() for look in looking]
    for look in found:
        house.journal.saw(
            look.site, answers=look.answers, detail=look.detail, account=look.account, refusal=look.refusal
        )
    return {look.site: look for look in found}


def _members(house: House, view: GroupView, mode: Mode, source: str) -> Group:
    if not mode.needs_source:
        return view.group
    try:
        group = members(house.site(source), view.group)
    except CloudError as error:
        known = house.told(error)
        if known.word == "unreachable" and source == view.active:
            known.hint = f"{known.hint}; if {source} is lost: drpilot failover {view.name}"
        raise known from error
    house.journal.remember(group, source)
    return group


def _point(house: House, view: GroupView, mode: Mode, asking: Asking, target: str) -> RecoveryPoint | None:
    if mode.point != "chosen":
        return None
    if asking.point is not None and asking.point not in ("newest", "proven"):
        point = house.journal.point(view.name, asking.point)
        if not point.usable and asking.break_glass is None:
            raise DrpilotError("no-point", group=view.name, why=f"point {point.id} is {point.state}")
        return point
    found = choose(house.journal.points(view.name), target, policy=asking.point or "newest")
    if found is None:
        raise DrpilotError("no-point", group=view.name)
    return found


@dataclass(frozen=True, slots=True)
class _Way:
    source: str
    target: str
    point: str
    burst: BurstOffer | None = None


def _plan(house: House, mode: Mode, group: Group, way: _Way) -> Plan:
    text, file = shipped(mode.runbook)
    route = (way.source, way.target)
    facts = CompileFacts(
        group,
        mode.name,
        mode.lane,
        *route,
        way.point,
        drill=mode.isolated,
        burst=bursting.context(way.burst) if way.burst is not None else {},
        slots={site: house.slots(site) for site in route},
        data_path=house.path(*route),
    )
    return compile(text, file, facts, action_facts(house))


def consent(house: House, offer: Offer, typed: Typed) -> Approval | None:
    """The requester's approval from the typed facts; None where the mode asks nobody.

    Raises `consent-missing` with the proposal and what is needed, or `loss-not-accepted` with the number.
    """
    proposal, mode = offer.proposal, offer.mode
    if not mode.asks_name:
        return None
    needs: dict[str, Any] = {}
    if typed.confirm != proposal.group:
        needs["confirm"] = proposal.group
    if mode.asks_loss and typed.accepted_loss_s is None:
        needs["accept_data_loss_seconds"] = round(proposal.loss_s or 0.0, 1)
    if needs:
        options = f"--confirm {proposal.group}"
        if mode.asks_loss:
            options += f" --accept-data-loss {ceiling_duration(proposal.loss_s or 0.0)}"
        raise DrpilotError(
            "consent-missing",
            verb=mode.name,
            group=proposal.group,
            hint=options,
            data={"proposal": to_plain(proposal), "needs": {**needs, "approvers": proposal.approvers}},
        )
    if mode.asks_loss and (typed.accepted_loss_s or 0.0) < (proposal.loss_s or 0.0):
        raise DrpilotError(
            "loss-not-accepted",
            verb=mode.name,
            group=proposal.group,
            loss=ceiling_duration(proposal.loss_s or 0.0),
            accepted=format_duration(typed.accepted_loss_s or 0.0),
            data={"loss_seconds": proposal.loss_s, "accepted_seconds": typed.accepted_loss_s},
        )
    return Approval(
        person=house.person,
        gate="go",
        at=house.clock.now(),
        digest=proposal.digest,
        accepted_loss_s=typed.accepted_loss_s,
        where=typed.where or house.holder.text,
        comment=offer.proposal.reason,
        break_glass=proposal.break_glass is not None,
        data={"account": house.account},
    )


def begin(house: House, offer: Offer, approval: Approval | None) -> RunView:
    """Write the run. From here on it exists, whoever drives it."""
    with kept(house, offer.plan.group, offer.mode.name):
        return _begun(house, offer, approval)


def _begun(house: House, offer: Offer, approval: Approval | None) -> RunView:
    require_right(house, "operate")
    mode, now = offer.mode, house.clock.now()
    expires_at = offer.proposal.expires_at if mode.asks_name else None
    if mode.expires:
        view = house.journal.group(offer.plan.group)
        expires_at = now + timedelta(seconds=view.group.drill.expires_s)
    new = NewRun(
        id=offer.run,
        plan=offer.plan,
        by=house.person,
        reason=offer.proposal.reason,
        proposal=offer.proposal if mode.asks_name else None,
        approval=approval,
        expires_at=expires_at,
        from_states=mode.from_states,
        beside_move=mode.beside_move,
        burst=mode.burst,
        facts={"at_end": mode.at_end, "end_facts": {"name_typed": True}} if mode.at_end else {},
    )
    return house.journal.create(new)
