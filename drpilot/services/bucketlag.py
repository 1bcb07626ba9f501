"""How far the buckets of a group are behind: what the newest runs brought over, as the journal has it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from drpilot.base.clock import parse_time
from drpilot.base.units import format_duration
from drpilot.domain.group import Bucket
from drpilot.domain.run import RunView
from drpilot.journal.views import GroupView

__all__ = ["RUNS", "BucketLine", "bucket_lines", "late_buckets"]

RUNS = 12  # newest ones looked at: drills and moves are among them
_KEPT_IN_STEP = ("protected", "degraded")


@dataclass(frozen=True, slots=True)
class BucketLine:
    """A bucket of the group: where it is on the active side and on the other, and since when that one is in step (None
    where none of the newest runs brought it over in this direction).
    """

    key: str
    active: str
    standby: str
    objects: int | None
    synced_at: datetime | None
    age_s: float | None


def bucket_lines(view: GroupView, newest: Iterable[RunView], now: datetime) -> tuple[BucketLine, ...]:
    """A line for each bucket; `newest` are runs, the newest first."""
    runs = [run for run in newest if run.plan.source == view.active]
    return tuple(_line(view, bucket, runs, now) for bucket in view.group.buckets)


def _line(view: GroupView, bucket: Bucket, runs: list[RunView], now: datetime) -> BucketLine:
    here, there = (view.group.bucket_on(bucket, site) for site in (view.active, view.standing))
    for run in runs:
        for step in run.steps.values():  # a step that failed has no output, and says nothing of what is there
            ours = step.planned.action == "bucket.sync" and step.planned.given.get("bucket") == bucket.key
            if ours and step.output and step.output.get("synced_at"):
                at = parse_time(str(step.output["synced_at"]))
                age_s = (now - at).total_seconds()
                return BucketLine(bucket.key, here, there, int(step.output["objects"]), at, age_s)
    return BucketLine(bucket.key, here, there, None, None, None)


def late_buckets(
    view: GroupView, newest: Iterable[RunView], now: datetime
) -> Iterator[tuple[str, datetime | None]]:
    """What is to be said of buckets that are further behind than the group's objective allows, and since when."""
    if view.state not in _KEPT_IN_STEP:
        return
    objective = view.group.objectives.rpo_s
    for line in bucket_lines(view, newest, now):
        place = f"bucket {line.key} ({line.standby} on {view.standing})"
        if line.age_s is None:
            yield f"{place} was brought over by none of the newest runs", None
        elif line.age_s > objective:
            behind, wanted = format_duration(round(line.age_s)), format_duration(objective)
            yield f"{place} is {behind} behind, objective {wanted}", line.synced_at
