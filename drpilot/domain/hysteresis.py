"""Two looks before a state changes: one stale read never moves anything. Pure rules.

A look has three answers: as it should be, contrary, or can't tell. One that can't tell is not kept: it neither counts
nor lets an earlier look be forgotten. What is kept is a streak, the time over which looks have said the same thing;
it counts once its first and its newest look lie far enough apart. The journal keeps it among a group's conditions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from drpilot.base.clock import from_micros

__all__ = ["ONE_WRITER", "STEADY", "WITNESS_AGREES", "Streak", "standby_condition"]

ONE_WRITER = "OneSideWrites"
WITNESS_AGREES = "WitnessAgrees"
STEADY = frozenset({"degrade", "recover", "split seen"})
"""Group and standby events that leave the streaks as they are; any other one begins them anew."""


def standby_condition(tier: str, site: str) -> str:
    """The name under which looks at one standby are kept."""
    return f"Standby/{tier}@{site}"


@dataclass(frozen=True, slots=True)
class Streak:
    """What looks have said in a row: `value`, the first look that said so and the newest one."""

    value: bool
    since: datetime
    looked_at: datetime

    @classmethod
    def of(cls, condition: Mapping[str, Any] | None) -> Streak | None:
        """The streak in a condition as the journal keeps it (moments in microseconds); None where there is none."""
        if not condition or condition.get("value") is None:
            return None
        since, looked_at = condition.get("since"), condition.get("looked_at")
        if since is None or looked_at is None:
            return None
        return cls(bool(condition["value"]), from_micros(since), from_micros(looked_at))

    def settles(self, value: bool, apart: timedelta, *, earlier: datetime | None = None) -> bool:
        """Whether two looks at least `apart` agreed on `value`; `earlier` is a contrary look kept elsewhere."""
        first = self.since if earlier is None else min(self.since, earlier)
        return self.value is value and self.looked_at - first >= apart
