"""A burst: extra capacity of one tier on the side that stands by, under load, beside the active side and never in its
place. Values and pure rules; the states are a table of domain/states.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from drpilot.base.clock import from_micros, parse_time

__all__ = [
    "IDLE",
    "MOST_OFF",
    "MOST_WEIGHT",
    "Burst",
    "BurstOffer",
    "burst_of",
    "extra_weight",
    "resource_name",
    "shares",
    "unreachable",
]

IDLE = "none"
MOST_WEIGHT = 255  # Route 53 API reference, ResourceRecordSet, Weight
MOST_OFF = 5
"""How many percentage points the share that users get may lie beside the one that was asked for."""


@dataclass(frozen=True, slots=True)
class Burst:
    """The burst of a group as the journal has it: the present one, or (state `none`) what is left to know of the last.

    `weight` is the share of users in percent that it was begun with, `cause` is `hand`, `schedule` or `alarm`.
    """

    state: str = IDLE
    tier: str = ""
    site: str = ""
    point: str = ""
    capacity: int = 0
    weight: int = 0
    cause: str = ""
    run: str = ""
    since: datetime | None = None
    until: datetime | None = None
    ended_at: datetime | None = None

    @property
    def running(self) -> bool:
        """Whether anything of it may exist."""
        return self.state != IDLE


@dataclass(frozen=True, slots=True)
class BurstOffer:
    """What a burst would start and use: part of the proposal.

    `vcpus` are those of the extra machines; `vcpus_used` and `vcpus_limit` are the site's own now, and
    `vcpus_failover` is what a failover would need beside them; None where the site doesn't tell.
    """

    tier: str
    site: str
    capacity: int
    maximum: int
    weight: int
    lasts_s: float
    cause: str
    type: str = ""
    image: str = ""
    vcpus: int | None = None
    vcpus_used: int | None = None
    vcpus_limit: int | None = None
    vcpus_failover: int | None = None
    user_data: str = ""

    @property
    def machine_hours(self) -> float:
        """What is paid for at the longest: machines times hours."""
        return self.capacity * self.lasts_s / 3600

    @property
    def fits(self) -> bool:
        """Whether a failover would still have its room; true where nobody can tell."""
        known = (self.vcpus, self.vcpus_used, self.vcpus_limit, self.vcpus_failover)
        if any(one is None for one in known):
            return True
        vcpus, used, limit, failover = (one or 0 for one in known)
        return vcpus + used + failover <= limit


def burst_of(body: Mapping[str, Any]) -> Burst:
    """The value of what the journal keeps (domain/ports.py, Move `burst`)."""

    def at(name: str) -> datetime | None:
        value = body.get(name)
        return from_micros(value) if isinstance(value, int) else parse_time(str(value)) if value else None

    return Burst(
        state=str(body.get("state", IDLE)),
        tier=str(body.get("tier", "")),
        site=str(body.get("site", "")),
        point=str(body.get("point", "")),
        capacity=int(body.get("capacity", 0)),
        weight=int(body.get("weight", 0)),
        cause=str(body.get("cause", "")),
        run=str(body.get("run", "")),
        since=at("since"),
        until=at("until"),
        ended_at=at("ended_at"),
    )


def resource_name(group: str, tier: str) -> str:
    """What the extra scaling group and its launch template are called; unique on a site, so neither is made twice."""
    return f"drpilot-burst-{group}-{tier}"


def shares(percent: int) -> tuple[int, int]:
    """The weights of the home set and the extra one, where both are ours."""
    return 100 - percent, percent


def extra_weight(standing: int, percent: int) -> int:
    """The weight that gets about `percent` of the users beside sets whose weights are kept and sum to `standing`;
    how far off that is, `unreachable` says.
    """
    return max(1, min(MOST_WEIGHT, round(standing * percent / (100 - percent))))


def unreachable(standing: int | None, percent: int) -> str:
    """Why no weight of 1 to 255 beside weights that sum to `standing` gives about `percent` of the users; empty where
    one does, or where no weights have to be kept (None).
    """
    if standing is None:
        return ""
    weight = extra_weight(standing, percent)
    got = 100 * weight / (standing + weight)
    if abs(got - percent) <= MOST_OFF:
        return ""
    return f"beside weights of {standing} together the nearest is {weight}, which is {got:.0f} %"
