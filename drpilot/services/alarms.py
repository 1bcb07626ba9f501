"""What begins and ends a burst without being asked, beside the schedule: a CloudWatch alarm, and a burst that failed.

An alarm is believed once it has held for as long as the group file says, either way; what a site doesn't tell begins
and ends nothing. Nothing is begun here: something is made due, and who begins what is due does so exactly once
(services/watch.py).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial

from drpilot.base.clock import from_micros
from drpilot.domain.group import BurstAlarm
from drpilot.domain.ports import CloudError
from drpilot.journal.history import runs_of
from drpilot.journal.views import GroupView
from drpilot.services.bursting import BEGIN, END, BurstAsking, cooled_at
from drpilot.services.checked import Checked
from drpilot.services.firing import previous_fire
from drpilot.services.house import House
from drpilot.services.together import Task, together
from drpilot.services.watch import END_AGAIN, Happening

__all__ = ["ALARM", "alarm_wants", "asking_of", "look_at_bursts"]

ALARM = "BurstAlarm"
"""The condition that keeps since when the alarm has been as it is."""

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
    """Write down how the alarm is: on (true), off (false) or untold (None), and why."""
    try:
        asked = {"AlarmNames": [alarm.name]}
        pages = house.site(alarm.site).pages("cloudwatch", "DescribeAlarms", asked)
        found = [item for page in pages for item in page.get("MetricAlarms") or []]
    except CloudError as error:
        house.journal.set_condition(view.name, ALARM, None, f"{alarm.site} does not tell: {error.code}")
        return ()
    word = str(found[0]["StateValue"]) if found else ""
    reason = f"{alarm.name} is {word}" if found else f"there is no alarm {alarm.name} on {alarm.site}"
    house.journal.set_condition(view.name, ALARM, {"ALARM": True, "OK": False}.get(word), reason)
    return ()


def alarm_wants(view: GroupView, now: datetime) -> str:
    """`burst` where the alarm has been on for long enough and nothing runs, `unburst` where it has been off for long
    enough and what runs was begun by it; else empty. Pure.
    """
    alarm = view.group.burst.alarm if view.group.burst is not None else None
    seen = view.conditions.get(ALARM, {})
    if alarm is None or seen.get("value") is None or seen.get("since") is None:
        return ""
    held = now - from_micros(seen["since"])
    if seen["value"]:
        free_at = cooled_at(view)
        over = held >= timedelta(seconds=alarm.after_s) and (free_at is None or now >= free_at)
        fit = view.state in ("protected", "degraded") and view.locked_by is None
        return BEGIN if over and fit and not view.burst.running else ""
    ended = held >= timedelta(seconds=alarm.clear_s)
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
    """What a burst that begins by itself is: the rest of its scheduled time, else one that the alarm ends. Pure."""
    policy = view.group.burst
    plan = policy.schedule if policy is not None else None
    if policy is not None and plan is not None:
        over = previous_fire(plan.cron, plan.timezone, now) + timedelta(seconds=plan.lasts_s)
        left_s = (over - now).total_seconds()
        if left_s > 0:
            return BurstAsking(cause="schedule", lasts_s=min(left_s, policy.longest_s))
    return BurstAsking(cause="alarm")
