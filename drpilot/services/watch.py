"""What has to be done without being asked: due replications and drills, looks at sites, fences that are still open.

Each due run is begun exactly once over any number of services. A service first takes an occurrence by
compare-and-set and holds it for a while; only when the run is begun does the schedule move on. A service that dies
in between leaves a held occurrence, and whoever takes it next looks first whether its run was begun.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from drpilot.base.clock import micros
from drpilot.base.errors import DrpilotError
from drpilot.domain.group import Group
from drpilot.domain.hysteresis import ONE_WRITER, WITNESS_AGREES, Streak, standby_condition
from drpilot.domain.ports import CloudError
from drpilot.domain.run import RunView
from drpilot.engine.gates import missing
from drpilot.journal.bursts import END
from drpilot.journal.history import recoveries, runs_of
from drpilot.journal.holder import is_gone
from drpilot.journal.journal import Journal
from drpilot.journal.views import GroupView, ScheduleView
from drpilot.services.conditions import Facts, assess, health_moves
from drpilot.services.firing import next_fire, previous_fire
from drpilot.services.house import House, Look
from drpilot.services.hysteresis import remember
from drpilot.services.liverun import RESTS
from drpilot.services.looks import LOOKS
from drpilot.services.together import Task, together

__all__ = [
    "END_AGAIN",
    "Begin",
    "Happening",
    "Refence",
    "begin_due",
    "due",
    "look_at_groups",
    "look_at_sites",
    "next_burst",
    "next_drill",
    "next_replication",
    "open_fences",
    "refresh",
    "repeat_fences",
    "undriven",
]

Begin = Callable[[str, str], RunView]
"""Begins a run: mode and group in, the new run out; raises DrpilotError where a guard refuses."""
Refence = Callable[[str], RunView]
"""Begins another try at a group's fence."""

LOOK_S = 10.0  # how long one look at a site may take
GROUP_LOOK_S = 20.0  # and all looks at groups together
GROUPS = timedelta(seconds=120)  # how old a look at a group's sides and standbys may grow
BURST_AGAIN = timedelta(seconds=60)  # when a burst is tried again that a busy lane kept from beginning
END_AGAIN = timedelta(seconds=120)  # and when the end of one is, which must come
HOLD_S = 180.0  # how long an occurrence is held by who begins it, before another service may
_HELD_US = 1  # a held occurrence stands one microsecond after a whole second, a due one on the second
_FENCE_STATES = frozenset(
    {"failing_over", "awaiting_commit", "active_unprotected"}
)  # in a split a person decides
_OPEN_FENCE = frozenset({"unverified", "partial"})


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing the service did or saw: one log line."""

    at: datetime
    what: str  # begun, skipped, driving, drove, lost, silent, back, changed, fencing, error, started, ended
    text: str
    group: str = ""
    run: str = ""


# -- when something is due ------------------------------------------------------------------------------------


def next_replication(group: Group, now: datetime, last: datetime | None = None) -> datetime:
    """When to replicate next: whole intervals after `last` (missed ones are one), else one interval from now.

    A whole second, rounded up.
    """
    every = group.replicate_every_s
    if last is None or last > now:
        return _second(now + timedelta(seconds=every))
    missed = math.floor((now - last).total_seconds() / every)
    return _second(last + timedelta(seconds=every * (missed + 1)))


def next_drill(group: Group, now: datetime) -> datetime | None:
    """The first moment after `now` at which the group's cron expression is due, in UTC; None without one."""
    policy = group.drill
    return next_fire(policy.cron, policy.timezone, now) if policy.cron is not None else None


def next_burst(group: Group, now: datetime) -> datetime | None:
    """The first moment after `now` at which a burst is due by its schedule, in UTC; None without one."""
    plan = group.burst.schedule if group.burst is not None else None
    return next_fire(plan.cron, plan.timezone, now) if plan is not None else None


def _second(moment: datetime) -> datetime:
    whole = moment.replace(microsecond=0)
    return whole if whole == moment else whole + timedelta(seconds=1)


def due(journal: Journal, now: datetime) -> tuple[ScheduleView, ...]:
    """What is due and held by nobody, soonest first."""
    return tuple(schedule for schedule in journal.schedules() if schedule.next_at <= now)


def begin_due(house: House, begin: Begin) -> tuple[Happening, ...]:
    """Begin everything that is due and that no other service took. Never raises for one group's trouble."""
    found = []
    for schedule in due(house.journal, house.clock.now()):
        happening = _begin_one(house, begin, schedule)
        if happening is not None:
            found.append(happening)
    return tuple(found)


def _begin_one(house: House, begin: Begin, schedule: ScheduleView) -> Happening | None:
    now = house.clock.now()
    held = ScheduleView(schedule.group, schedule.kind, _held(now), schedule.next_at)
    if not house.journal.claim(schedule, held.next_at, house.holder.text):
        return None
    before = _begun_before(house, schedule)
    happening = before or _begin(house, begin, schedule)
    view = house.journal.group(schedule.group)
    begun = before is not None or happening.what == "begun"
    following = _following(view, schedule, house.clock.now(), begun=begun)
    if following is None:
        house.journal.unschedule(schedule.group, schedule.kind)
    else:
        house.journal.claim(held, following, house.holder.text)
    return happening


def _held(now: datetime) -> datetime:
    return _second(now + timedelta(seconds=HOLD_S)).replace(microsecond=_HELD_US)


def _begun_before(house: House, schedule: ScheduleView) -> Happening | None:
    """Whether a service that died held this occurrence and had begun its run."""
    if micros(schedule.next_at) % 1_000_000 != _HELD_US or schedule.last_at is None:
        return None
    newest = runs_of(house.journal, schedule.group, (schedule.kind,), limit=1)
    if not newest or newest[0].created_at < schedule.last_at:
        return None
    text = f"{schedule.kind} was begun as {newest[0].name} by a service that ended"
    return Happening(house.clock.now(), "skipped", text, schedule.group, newest[0].name)


def _begin(house: House, begin: Begin, schedule: ScheduleView) -> Happening:
    try:
        run = begin(schedule.kind, schedule.group)
    except DrpilotError as error:
        text = f"{schedule.kind} was due and is left out: {error.title}"
        return Happening(house.clock.now(), "skipped", text, schedule.group)
    except CloudError as error:
        text = f"{schedule.kind} was due and is left out: {error}"
        return Happening(house.clock.now(), "skipped", text, schedule.group)
    return Happening(house.clock.now(), "begun", f"{schedule.kind} was due", schedule.group, run.name)


def _following(view: GroupView, schedule: ScheduleView, now: datetime, *, begun: bool) -> datetime | None:
    if schedule.kind == "drill":
        return next_drill(view.group, now)
    if schedule.kind == "burst":
        return _burst_again(view.group, now) if not begun else next_burst(view.group, now)
    if schedule.kind == END:  # until it is seen to be over, which forgets it
        return _second(now + END_AGAIN) if view.burst.running else None
    last = schedule.next_at
    if micros(last) % 1_000_000 == _HELD_US and schedule.last_at is not None:
        last = schedule.last_at
    return next_replication(view.group, now, last)


def _burst_again(group: Group, now: datetime) -> datetime | None:
    """A burst that could not begin is tried again as long as its scheduled time lasts; then at its next time."""
    plan = group.burst.schedule if group.burst is not None else None
    if plan is None:
        return None
    over = previous_fire(plan.cron, plan.timezone, now) + timedelta(seconds=plan.lasts_s)
    again = _second(now + BURST_AGAIN)
    return again if again < over else next_burst(group, now)


# -- looking ----------------------------------------------------------------------------------------------


def sites_of(groups: Iterable[GroupView]) -> tuple[str, ...]:
    """Every site a group stands on or is reached through."""
    names: dict[str, None] = {}
    for view in groups:
        traffic = [view.group.traffic.site] if view.group.traffic is not None else []
        names |= dict.fromkeys([view.active, view.standing, *traffic])
    return tuple(names)


def look_at_sites(house: House) -> tuple[Happening, ...]:
    """Look at every site at once, write down signs of life and silence, then refresh each group's conditions."""
    names = sites_of(house.journal.groups())
    if not names:
        return ()
    with ThreadPoolExecutor(max_workers=len(names), thread_name_prefix="drpilot-look") as pool:
        looks = list(pool.map(lambda name: house.probe(name, timeout_s=LOOK_S), names))
    found = []
    for look in looks:
        before = house.journal.site(look.site)
        house.journal.saw(
            look.site, answers=look.answers, detail=look.detail, account=look.account, refusal=look.refusal
        )
        changed = _changed(before.answers if before is not None else None, look, house.clock.now())
        found += [changed] if changed is not None else []
    return (*found, *refresh(house))


def _changed(before: bool | None, look: Look, now: datetime) -> Happening | None:
    if before is not False and not look.answers:
        what = "can't be used" if look.refusal else "does not answer"
        return Happening(now, "silent", f"{look.site} {what}: {look.detail}")
    if before is False and look.answers:
        return Happening(now, "back", f"{look.site} answers again")
    return None


def look_at_groups(house: House) -> tuple[Happening, ...]:
    """Look at the sides and standbys of every group whose newest such look has grown old; fire what has settled.

    One whose sides contradicted the journal is looked at again at once, since two looks decide.
    """
    now, looks = house.clock.now(), [look for look in LOOKS if look.name in ("sides", "standby")]
    sites = {site.name: site for site in house.journal.sites()}
    views = [view for view in house.journal.groups() if _old(view, now)]
    tasks = [
        Task(look.name, view.name, partial(look.work, house, view))
        for view in views
        for look in looks
        if not any(sites[name].answers is False for name in look.needs(view) if name in sites)
    ]
    checks = tuple(together(tasks, GROUP_LOOK_S)) if tasks else ()
    return tuple(
        Happening(house.clock.now(), "changed", text, view.name)
        for view in views
        for text in remember(house, view, checks, house.holder.text)
    )


def _old(view: GroupView, now: datetime) -> bool:
    sides = [ONE_WRITER, WITNESS_AGREES]
    standbys = [standby_condition(tier.name, view.standing) for tier in view.group.tiers]
    streaks = {
        name: streak
        for name in (*sides, *standbys)
        if (streak := Streak.of(view.conditions.get(name))) is not None
    }
    contrary = any(name in streaks and not streaks[name].value for name in sides)
    if contrary and view.state != "split_suspected":
        return True
    return all(now - streak.looked_at >= GROUPS for streak in streaks.values())


def refresh(house: House) -> tuple[Happening, ...]:
    """Refresh each group's conditions from the journal, and its health once they have held for an interval."""
    found = []
    sites = {site.name: site for site in house.journal.sites()}
    for view in house.journal.groups():
        drills = [run for run in recoveries(house.journal, view.name) if run.mode == "drill"]
        facts = Facts(
            view,
            house.journal.points(view.name),
            house.journal.standbys(view.name),
            sites,
            drills,
            house.journal.events(run=f"group:{view.name}"),
        )
        for item in assess(facts, house.clock.now()):
            house.journal.set_condition(view.name, item.name, item.value, item.reason)
        found += _health(house, view.name)
    return tuple(found)


def _health(house: House, name: str) -> list[Happening]:
    view, now = house.journal.group(name), house.clock.now()
    moves = health_moves(view, now)
    if not moves:
        return []
    reasons = "; ".join(str(c["reason"]) for c in view.conditions.values() if c.get("value") is False)
    house.journal.change(name, moves, house.holder.text, reasons)
    after = house.journal.group(name).state
    return [Happening(now, "changed", f"{view.state} → {after}" + (f": {reasons}" if reasons else ""), name)]


# -- fences and runs --------------------------------------------------------------------------------------


def open_fences(journal: Journal) -> tuple[tuple[str, str], ...]:
    """Groups and sites whose fence is still open although the site answers."""
    found = []
    for view in journal.groups():
        if view.state not in _FENCE_STATES:
            continue
        for name, entry in view.fences.items():
            site = journal.site(name)
            if entry.get("state") in _OPEN_FENCE and site is not None and site.answers:
                found.append((view.name, name))
    return tuple(found)


def repeat_fences(house: House, refence: Refence) -> tuple[Happening, ...]:
    """Try again to fence every old side that can be seen and is not fenced for certain."""
    found = []
    for group, site in open_fences(house.journal):
        if any(run.lane == "practice" for run in house.journal.runs(group, live=True)):
            continue
        try:
            run = refence(group)
        except (DrpilotError, CloudError) as error:
            text = error.title if isinstance(error, DrpilotError) else str(error)
            found.append(Happening(house.clock.now(), "skipped", f"fence of {site}: {text}", group))
        else:
            found.append(
                Happening(house.clock.now(), "fencing", f"{site} answers and is not fenced", group, run.name)
            )
    return tuple(found)


def undriven(journal: Journal, now: datetime) -> tuple[RunView, ...]:
    """Live runs that somebody should drive and nobody does; moves first, then practice, then copies.

    A run that rests (waits for a person, is paused, awaits its commit) needs a driver only when somebody gave it an
    order, when its gate has opened meanwhile, or when its time is over. A copy that a failover cancelled is among
    them, so that its lane becomes free although nobody drives it any more.
    """
    order = {"move": 0, "practice": 1, "copy": 2}
    live = [run for run in journal.runs(live=True, limit=500) if not _driven(run, now) and _wants(run, now)]
    return tuple(sorted(live, key=lambda run: (order[run.lane], run.created_at)))


def _driven(run: RunView, now: datetime) -> bool:
    return (
        run.holder is not None
        and run.lease_until is not None
        and run.lease_until > now
        and not is_gone(run.holder)
    )


def _wants(run: RunView, now: datetime) -> bool:
    if run.state not in RESTS or run.requests:
        return True
    if run.expires_at is not None and run.expires_at <= now and run.state in ("waiting", "paused"):
        return run.state == "waiting" or run.lane == "practice"
    gates = [
        str(step.planned.gate) for step in run.steps.values() if step.planned.gate and step.state == "waiting"
    ]
    return run.state == "waiting" and any(
        not missing(run, run.steps, gate) for gate in gates if gate != "commit"
    )
