"""A burst as one line: what of it runs where, for whom, and until when. From the journal alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from drpilot.base.units import format_duration
from drpilot.domain.burst import Burst

__all__ = ["BurstLine", "burst_line"]

_STATES = {
    "scaling_out": "its extra machines are being made, nobody is sent there yet",
    "serving": "{machines} {weight} % of the users",
    "draining": "it is drained and removed",
}
_CAUSES = {"hand": "by hand", "schedule": "by its schedule", "alarm": "by its alarm"}


@dataclass(frozen=True, slots=True)
class BurstLine:
    """A burst that runs; `weight_percent` is its share of the users, `left_s` the time until it is due to end."""

    state: str
    tier: str
    site: str
    point: str
    capacity: int
    weight_percent: int
    cause: str
    run: str
    since: datetime | None
    until: datetime | None
    left_s: float | None
    text: str


def burst_line(burst: Burst, now: datetime) -> BurstLine | None:
    """What is to be said of a burst; None where none runs. Pure."""
    if not burst.running:
        return None
    left_s = (burst.until - now).total_seconds() if burst.until is not None else None
    return BurstLine(
        state=burst.state,
        tier=burst.tier,
        site=burst.site,
        point=burst.point,
        capacity=burst.capacity,
        weight_percent=burst.weight,
        cause=burst.cause,
        run=burst.run,
        since=burst.since,
        until=burst.until,
        left_s=left_s,
        text=_text(burst, left_s),
    )


def _text(burst: Burst, left_s: float | None) -> str:
    one = burst.capacity == 1
    machines = "1 extra machine takes" if one else f"{burst.capacity} extra machines take"
    words = _STATES[burst.state].format(machines=machines, weight=burst.weight)
    ends = ""
    if left_s is not None and burst.state != "draining":
        ends = f", for {format_duration(round(left_s))} yet" if left_s >= 1 else ", its time is over"
    by = _CAUSES.get(burst.cause, f"by {burst.cause}")
    return f"burst of {burst.tier} on {burst.site}: {words}{ends} (begun {by}, {burst.run})"
