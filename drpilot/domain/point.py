"""Recovery points: choosing, expiring, lag and loss. Values and pure rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from drpilot.domain.group import Retention

__all__ = ["RecoveryPoint", "Replica", "choose", "expired", "lag_s", "loss_s"]

USABLE = frozenset({"available", "proven"})


@dataclass(frozen=True, slots=True)
class Replica:
    """One image or snapshot of a member: `source_id` where it was captured, `id` its copy on `site`.

    `member` is the key of the volume (`shop-db/dev/sdf`), or of the instance or scaling group for an image.
    """

    member: str
    kind: str  # "snapshot" | "image"
    site: str
    source_id: str
    id: str = ""
    tier: str = ""
    size_gib: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RecoveryPoint:
    """A consistent, restorable set of replicas at one instant. `site` is where it can be restored."""

    id: str
    group: str
    source: str
    site: str
    state: str
    requested_at: datetime
    captured_at: datetime | None = None
    completed_at: datetime | None = None
    proven_at: datetime | None = None
    proven_by: str | None = None
    replicas: tuple[Replica, ...] = ()
    pins: frozenset[str] = frozenset()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Complete and not set aside."""
        return self.state in USABLE and self.captured_at is not None

    @property
    def consistency(self) -> str:
        """`application` if every volume's application was frozen for its snapshot, else `crash`: as after a power cut;
        `volume` if that is true only of each volume by itself, not of all volumes of a machine at one moment.

        Empty for a point without volumes.
        """
        found = {item.facts.get("consistency", "crash") for item in self.replicas if item.kind == "snapshot"}
        if "volume" in found:
            return "volume"
        return "" if not found else "application" if found == {"application"} else "crash"

    def replica(self, member: str, kind: str) -> Replica:
        """The replica of `member`; KeyError where the point has none."""
        for replica in self.replicas:
            if replica.member == member and replica.kind == kind:
                return replica
        raise KeyError(f"{kind} of {member}")


def _captured(point: RecoveryPoint) -> datetime:
    assert point.captured_at is not None  # `usable` is asked first
    return point.captured_at


def choose(points: Iterable[RecoveryPoint], site: str, *, policy: str = "newest") -> RecoveryPoint | None:
    """The point to restore on `site`: `newest` (low loss) or `proven` (the newest that a drill has booted)."""
    usable = [point for point in points if point.site == site and point.usable]
    if policy == "proven":
        usable = [point for point in usable if point.state == "proven"]
    return max(usable, key=_captured, default=None)


def lag_s(points: Iterable[RecoveryPoint], site: str, now: datetime) -> float | None:
    """Seconds since the newest usable point on `site` was captured; None without one."""
    newest = choose(points, site)
    return None if newest is None else max(0.0, (now - _captured(newest)).total_seconds())


def loss_s(point: RecoveryPoint, since: datetime | None, now: datetime) -> tuple[float, bool]:
    """Seconds of writes lost by going back to `point`, and whether that is exact.

    The last sign of life of the source (`since`) minus the point's instant; without one the age of the point is an
    upper bound ("at most").
    """
    last = since if since is not None else now
    return max(0.0, (last - _captured(point)).total_seconds()), since is not None


def expired(points: Sequence[RecoveryPoint], keep: Retention, now: datetime) -> tuple[RecoveryPoint, ...]:
    """The points that retention no longer keeps, oldest first.

    Kept are the `last` newest, the newest of each of the last `hourly` hours and `daily` days, each point that is
    pinned, and always the last available and the last proven one. Failed and quarantined points go after a day.
    """
    usable = sorted((point for point in points if point.usable), key=_captured, reverse=True)
    kept = {point.id for point in usable[: max(1, keep.last)]}
    kept |= {point.id for point in usable if point.pins}
    kept |= {point.id for point in usable[:1]}
    kept |= {point.id for point in [p for p in usable if p.state == "proven"][:1]}
    for count, step in ((keep.hourly, timedelta(hours=1)), (keep.daily, timedelta(days=1))):
        for slot in range(count):
            newest_of_slot = [p for p in usable if slot * step <= now - _captured(p) < (slot + 1) * step][:1]
            kept |= {point.id for point in newest_of_slot}
    stale = [point for point in usable if point.id not in kept]
    stale += [
        point
        for point in points
        if point.state in {"failed", "quarantined"}
        and not point.pins
        and now - point.requested_at > timedelta(days=1)
    ]
    return tuple(sorted(stale, key=lambda point: point.requested_at))
