"""The conditions beside a group's state, told from the journal alone: pure functions of what is known and the time.

A condition has a value and a reason; None means that nobody knows, which is not false. `assess` is what the service
refreshes while it looks at sites; a live check then says more (services/check.py). A condition that has been false
for one replication interval degrades its group, one that has been true for as long lets it recover.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from drpilot.base.clock import from_micros
from drpilot.base.units import format_duration
from drpilot.domain.hysteresis import standby_condition
from drpilot.domain.point import RecoveryPoint, lag_s
from drpilot.domain.ports import Move, StandbyView
from drpilot.domain.run import RunView
from drpilot.journal.chain import Event
from drpilot.journal.views import GroupView, SiteView
from drpilot.services.firing import previous_fire

__all__ = ["NAMES", "Facts", "Judged", "assess", "health_moves", "last_drill"]

NAMES = ("RpoMet", "StandbyReady", "DrillFresh", "PeerReachable", "Fenced", "PlanVerified")
UNDRILLED = timedelta(days=30)  # without a cron expression a drill is fresh this long
_DEGRADES = ("RpoMet", "StandbyReady")
_WELL = frozenset({"succeeded", "succeeded_with_warnings"})


@dataclass(frozen=True, slots=True)
class Judged:
    """One condition: true, false or unknown (None), and why."""

    name: str
    value: bool | None
    reason: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What the conditions of one group are told from. `drills` are newest first."""

    group: GroupView
    points: Sequence[RecoveryPoint] = ()
    standbys: Sequence[StandbyView] = ()
    sites: Mapping[str, SiteView] | None = None
    drills: Sequence[RunView] = ()
    events: Sequence[Event] = ()  # of the group's own chain


def assess(facts: Facts, now: datetime) -> tuple[Judged, ...]:
    """Every condition as the journal knows it. Pure."""
    return (
        _rpo(facts, now),
        _standby(facts),
        _drill(facts, now),
        _peer(facts),
        _fenced(facts),
        _plan(facts),
    )


def last_drill(drills: Sequence[RunView]) -> RunView | None:
    """The newest drill that ended by itself: a cancelled one says nothing."""
    return next((run for run in drills if run.state == "finished" and run.result != "cancelled"), None)


def _rpo(facts: Facts, now: datetime) -> Judged:
    view = facts.group
    lag = lag_s(facts.points, view.standing, now)
    objective = view.group.objectives.rpo_s
    if lag is None:
        reason = f"no complete point on {view.standing}"
        return Judged("RpoMet", None if view.state == "seeding" else False, reason)
    text = f"the newest point is {format_duration(lag)} old, the objective is {format_duration(objective)}"
    return Judged("RpoMet", lag <= objective, text)


def _standby(facts: Facts) -> Judged:
    view = facts.group
    standing = {standby.tier: standby for standby in facts.standbys if standby.site == view.standing}
    states = {name: standby.state for name, standby in standing.items()}
    tiers = [tier.name for tier in view.group.tiers]
    wrong = []
    for name in tiers:
        condition = view.conditions.get(standby_condition(name, view.standing), {})
        if states.get(name) != "ready":
            why = standing[name].facts.get("unhealthy") if name in standing else ""
            wrong.append(f"{name} is {states.get(name, 'absent')}" + (f": {why}" if why else ""))
        elif condition.get("value") is False:  # one contrary look: the state waits for a second one
            wrong.append(str(condition["reason"]))
    if not wrong:
        return Judged("StandbyReady", True, f"{len(tiers)} of {len(tiers)} ready on {view.standing}")
    moving = any(states.get(name) in ("promoting", "demoting", "building") for name in tiers)
    value = None if moving or view.state == "seeding" else False
    return Judged(
        "StandbyReady", value, f"{len(tiers) - len(wrong)} of {len(tiers)} ready: {', '.join(wrong)}"
    )


def _drill(facts: Facts, now: datetime) -> Judged:
    policy = facts.group.group.drill
    good = next((run for run in facts.drills if run.result in _WELL), None)
    if good is None:
        return Judged("DrillFresh", False, "never drilled: RTO unknown")
    at = good.ended_at or good.created_at
    if policy.cron is None:
        oldest = now - UNDRILLED
    else:
        # One that was due a moment ago may still be running: it is missed only when its time is over.
        due = previous_fire(policy.cron, policy.timezone, now)
        oldest = due if now - due > timedelta(seconds=policy.expires_s) else previous_fire(
            policy.cron, policy.timezone, due - timedelta(seconds=1)
        )  # fmt: skip
    text = f"{good.name} passed {format_duration((now - at).total_seconds())} ago"
    return Judged("DrillFresh", at >= oldest, text)


def _peer(facts: Facts) -> Judged:
    view = facts.group
    known = facts.sites or {}
    sites = {name: known.get(name) for name in (view.active, view.standing)}
    silent = [
        f"{name} {'refuses us' if site.refusal else 'has not answered'} since"
        f" {site.silent_since:%Y-%m-%d %H:%M:%S}Z: {site.detail}"
        for name, site in sites.items()
        if site is not None and site.answers is False and site.silent_since is not None
    ]
    if silent:
        return Judged("PeerReachable", False, "; ".join(silent))
    unseen = [name for name, site in sites.items() if site is None or site.answers is None]
    if unseen:
        return Judged("PeerReachable", None, f"never looked at {', '.join(unseen)}")
    return Judged("PeerReachable", True, "both sites answer")


def _fenced(facts: Facts) -> Judged:
    view = facts.group
    fence = view.fences.get(view.standing, {})
    state = str(fence.get("state", "none"))
    match state:
        case "none" | "released":
            return Judged("Fenced", None, f"nothing to fence: {view.standing} is a standby")
        case "fenced":
            return Judged("Fenced", True, f"{view.standing} can't write, seen")
        case _:
            return Judged("Fenced", False, f"{view.standing} is {state}: it may still write")


def _plan(facts: Facts) -> Judged:
    drill = last_drill(facts.drills)
    if drill is None:
        return Judged("PlanVerified", None, "never drilled")
    if drill.result not in _WELL:
        return Judged("PlanVerified", False, f"{drill.name} ended {drill.result}")
    changed = [
        event.at for event in facts.events if event.kind == "group file" and event.at > drill.created_at
    ]
    if changed:
        return Judged("PlanVerified", None, f"the group file changed after {drill.name}")
    return Judged("PlanVerified", True, f"{drill.name} ran it to the end")


def health_moves(view: GroupView, now: datetime) -> tuple[Move, ...]:
    """The group's degrade or recover, once its conditions have held for one replication interval. Pure."""
    interval = timedelta(seconds=view.group.replicate_every_s)
    found = {name: view.conditions.get(name, {}) for name in _DEGRADES}
    over = {
        name
        for name, c in found.items()
        if c.get("since") is not None and now - from_micros(c["since"]) >= interval
    }
    if view.state == "protected" and any(found[name].get("value") is False for name in over):
        return (Move("group", view.name, "degrade", {"hysteresis_over": True}, unless=("degraded",)),)
    if view.state == "degraded" and all(
        found[name].get("value") is True and name in over for name in _DEGRADES
    ):
        return (Move("group", view.name, "recover", {"hysteresis_over": True}, unless=("protected",)),)
    return ()
