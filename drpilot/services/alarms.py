"""What begins and ends a burst without being asked, beside the schedule: a CloudWatch alarm, and a burst that failed.

An alarm is believed once looks in a row have said the same for as long as the group file says, either way
(domain/hysteresis.py). A look that can't tell is not kept, and one that has grown old counts as none: nobody knows what
the alarm did meanwhile. Nothing is begun here: something is made due, and who begins what is due does so exactly once
(services/watch.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from drpilot.base.errors import DrpilotError
from drpilot.domain.group import BurstAlarm
from drpilot.domain.hysteresis import Streak
from drpilot.domain.ports import CloudError
from drpilot.journal.history import runs_of
from drpilot.journal.views import GroupView
from drpilot.services.bursting import BEGIN, END, BurstAsking, cooled_at
from drpilot.services.checked import Checked
from drpilot.services.firing import previous_fire
from drpilot.services.house import House
from drpilot.services.together import Task, together
from drpilot.services.watch import END_AGAIN, Happening

__all__ = ["ALARM", "FRESH", "alarm_wants", "asking_of", "look_at_bursts"]

ALARM = "BurstAlarm"
"""The condition that keeps since when the alarm has been as it is."""

FRESH = timedelta(seconds=120)
"""How old a look at the alarm may be and still count; a service looks each half minute."""

LOOK_S = 10.0
_BUSY = ("burst", "unburst")


def look_at_bursts(house: House) -> tuple[Happening, ...]:
    """Look at the alarm of every group that has one, and at bursts that stopped half-way; make due what follows."""
    views = [view for view in house.journal.groups() if view.group.burst is not None or view.burst.running]
    alarms = [(view, view.group.burst.alarm) for view in views if view.group.burst and view.group.burst.alarm]
    tasks = [Task(ALARM, view.name, partial(_look, house, view, alarm)) for view, alarm in alarms]
    if tasks:
        tuple(together(tasks, LOOK_S))
    return tuple(one for view in views for one in _follow(house, house.journal.group(view.name)))


def _look(house: House, view: GroupView, alarm: BurstAlarm) -> tuple[Checked, ...]:
    """Write down how the alarm is, on (true) or off (false), and why; one that can't be told is kept only where no look
    that counts would be forgotten.
    """
    try:
        asked = {"AlarmNames": [alarm.name]}
        pages = house.site(alarm.site).pages("cloudwatch", "DescribeAlarms", asked)
        found = [item for page in pages for item in page.get("MetricAlarms") or []]
    except CloudError as error:
        value, reason = None, f"{alarm.site} does not tell: {error.code}"
    else:
        word = str(found[0]["StateValue"]) if found else ""
        value = {"ALARM": True, "OK": False}.get(word)
        reason = f"{alarm.name} is {word}" if found else f"there is no alarm {alarm.name} on {alarm.site}"
    seen = house.journal.group(view.name).conditions.get(ALARM)
    if value is not None or _streak(seen, house.clock.now()) is None:
        house.journal.set_condition(view.name, ALARM, value, reason, unbroken=FRESH)
    return ()


def _streak(seen: Mapping[str, Any] | None, now: datetime) -> Streak | None:
    """What looks have said in a row, if the newest is fresh enough to count."""
    streak = Streak.of(seen)
    return streak if streak is not None and now - streak.looked_at <= FRESH else None


def alarm_wants(view: GroupView, now: datetime) -> str:
    """`burst` where the alarm has been on for long enough and nothing runs, `unburst` where it has been off for long
    enough and what runs was begun by it; else empty. Pure.
    """
    alarm = view.group.burst.alarm if view.group.burst is not None else None
    streak = _streak(view.conditions.get(ALARM), now)
    if alarm is None or streak is None:
        return ""
    if streak.settles(True, timedelta(seconds=alarm.after_s)):
        free_at = cooled_at(view)
        fit = view.state in ("protected", "degraded") and view.locked_by is None
        free = fit and (free_at is None or now >= free_at)
        return BEGIN if free and not view.burst.running else ""
    ended = streak.settles(False, timedelta(seconds=alarm.clear_s))
    return END if ended and view.burst.running and view.burst.cause == "alarm" else ""


def _follow(house: House, view: GroupView) -> list[Happening]:
    now = house.clock.now()
    live = [run for run in house.journal.runs(view.name, live=True) if run.mode in _BUSY]
    if live:
        return []
    wanted, why = alarm_wants(view, now), str(view.conditions.get(ALARM, {}).get("reason", ""))
    if view.burst.state in ("scaling_out", "draining") and _rested(house, view, now):
        wanted, why = END, f"the burst stopped at {view.burst.state.replace('_', ' ')}"
    if not wanted or not house.journal.hasten(view.name, wanted, now.replace(microsecond=0)):
        return []
    return [Happening(now, "changed", f"{wanted} is due: {why}", view.name)]


def _rested(house: House, view: GroupView, now: datetime) -> bool:
    """Whether the last try to end this burst, if there was one, lies far enough back for another."""
    last = runs_of(house.journal, view.name, (END,), limit=1)
    ended_at = last[0].ended_at if last else None
    return ended_at is None or now - ended_at >= END_AGAIN


def asking_of(view: GroupView, now: datetime) -> BurstAsking:
    """What a burst that begins by itself is: the rest of its scheduled time, else one that the alarm ends. Pure.

    Raises `burst-refused` where its time is over and no alarm would ever end it: a service was away meanwhile.
    """
    policy = view.group.burst
    plan = policy.schedule if policy is not None else None
    if policy is not None and plan is not None:
        over = previous_fire(plan.cron, plan.timezone, now) + timedelta(seconds=plan.lasts_s)
        left_s = (over - now).total_seconds()
        if left_s > 0:
            return BurstAsking(cause="schedule", lasts_s=min(left_s, policy.longest_s))
    if policy is None or policy.alarm is None:
        raise DrpilotError(
            "burst-refused",
            group=view.name,
            what="its scheduled time is over",
            hint=f"drpilot burst {view.name}",
        )
    return BurstAsking(cause="alarm")
