"""When a cron expression fires: the next moment and the last one, once on the nights the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim

__all__ = ["next_fire", "previous_fire"]


def next_fire(cron: str, timezone: str, now: datetime) -> datetime:
    """The first moment after `now` at which `cron` is due (UTC).

    A fixed wall-clock time is due once on the night the clocks go back (02:30 comes twice, the first counts) and
    once when they go forward, as Debian's cron does; croniter fires it twice.
    """
    moments = CronSim(cron, now.astimezone(ZoneInfo(timezone)))
    # Begun inside the repeated hour, CronSim first gives the moment that has passed: only later ones count.
    return next(moment for moment in moments if moment.astimezone(UTC) > now).astimezone(UTC)


def previous_fire(cron: str, timezone: str, now: datetime) -> datetime:
    """The newest moment at or before `now` at which `cron` was due (UTC)."""
    zone = ZoneInfo(timezone)
    moments = CronSim(cron, (now + timedelta(seconds=1)).astimezone(zone), reverse=True)
    return next(moment for moment in moments if moment <= now).astimezone(now.tzinfo)
