"""Finding what a create call without token, tags or description has made: CreateVolume on Eucalyptus 3.4 and 4.4.

Between that call and the CreateTags after it a process may die, and then nothing on the volume says whose it is. What
is known is what was asked for: a volume of this snapshot, of this size, in this zone, made since the intent was
written down, with no tag of ours and attached to nothing. The snapshot is a copy that drpilot made for one point, so
nobody else has a reason to make volumes of it.

One such volume is the one. None means that nothing happened, for certain only once the cloud's listings have settled.
Several can't be told apart: a person decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from drpilot.actions.views import moment, tags_of
from drpilot.domain.plain import Json

__all__ = ["SETTLE", "SKEW", "Trace", "Wanted", "trace"]

SETTLE = timedelta(seconds=10)
"""How long a volume may be missing from a listing after it was made."""
SKEW = timedelta(seconds=60)
"""How far the cloud's clock may be behind ours, beyond which the check of the site complains."""

_GONE = ("deleting", "deleted", "error", "failed")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The volume that was asked for; `since` is when the intent became durable."""

    snapshot: str
    size_gib: int
    zone: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Trace:
    """`made` with its one id, `absent` for certain, `unsettled` (look again), or `ambiguous` with all ids."""

    kind: Literal["made", "absent", "unsettled", "ambiguous"]
    ids: tuple[str, ...] = ()


def trace(volumes: Iterable[Json], wanted: Wanted, now: datetime) -> Trace:
    """What the listing of all volumes of the snapshot says of the call that asked for `wanted`. Pure."""
    ids = tuple(sorted(str(volume["VolumeId"]) for volume in volumes if _fits(volume, wanted)))
    if len(ids) == 1:
        return Trace("made", ids)
    if ids:
        return Trace("ambiguous", ids)
    return Trace("absent" if now - wanted.since >= SETTLE else "unsettled")


def _fits(volume: Json, wanted: Wanted) -> bool:
    return (
        # Ids of 3.x are upper-case hex in some answers and lower-case in others.
        str(volume.get("SnapshotId", "")).lower() == wanted.snapshot.lower()
        and int(volume.get("Size") or 0) == wanted.size_gib
        and volume.get("AvailabilityZone") == wanted.zone
        and volume.get("State") not in _GONE
        and not volume.get("Attachments")
        and not any(key.startswith("drpilot:") for key in tags_of(volume))
        and moment(volume["CreateTime"]) >= wanted.since - SKEW
    )
