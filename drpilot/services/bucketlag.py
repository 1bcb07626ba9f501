"""How far the buckets of a group are behind, by whoever synced them last: a run, as the journal has it, or a person, as
the receipt beside the sync's own record has it. Pure but for `kept_receipts`, which reads those files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from drpilot.base.clock import parse_time
from drpilot.base.units import format_duration
from drpilot.domain.group import Bucket
from drpilot.domain.plain import Json
from drpilot.domain.run import RunView
from drpilot.journal.views import GroupView
from drpilot.transfer.syncrecord import last_receipt

__all__ = ["RUNS", "BucketLine", "bucket_lines", "kept_receipts", "late_buckets"]

RUNS = 12  # newest ones looked at: drills and moves are among them
_KEPT_IN_STEP = ("protected", "degraded")


@dataclass(frozen=True, slots=True)
class BucketLine:
    """A bucket of the group: where it is on the active side and on the other, and since when that one is in step (None
    where nothing is known of a sync in this direction). `by` is the run's name, `run` for one that is not among the
    newest, `hand` for a person's `bucket sync`.
    """

    key: str
    active: str
    standby: str
    objects: int | None
    synced_at: datetime | None
    age_s: float | None
    by: str = ""


def kept_receipts(folder: Path, view: GroupView) -> dict[str, Json]:
    """By the key of a bucket, the receipt of its last whole sync from the active side to the other one."""
    found = {}
    for bucket in view.group.buckets:
        source, target = (
            f"s3://{view.group.bucket_on(bucket, site)}@{site}" for site in (view.active, view.standing)
        )
        receipt = last_receipt(folder, source, target)
        if receipt is not None:
            found[bucket.key] = receipt
    return found


def bucket_lines(
    view: GroupView, newest: Iterable[RunView], now: datetime, receipts: Mapping[str, Json] | None = None
) -> tuple[BucketLine, ...]:
    """A line for each bucket; `newest` are runs, the newest first, `receipts` those of `kept_receipts`."""
    runs = [run for run in newest if run.plan.source == view.active]
    kept = receipts or {}
    return tuple(
        _line(view, bucket, _last(bucket, runs, kept.get(bucket.key)), now) for bucket in view.group.buckets
    )


@dataclass(frozen=True, slots=True)
class _Sync:
    at: datetime
    objects: int
    by: str


def _line(view: GroupView, bucket: Bucket, last: _Sync | None, now: datetime) -> BucketLine:
    here, there = (view.group.bucket_on(bucket, site) for site in (view.active, view.standing))
    if last is None:
        return BucketLine(bucket.key, here, there, None, None, None)
    age_s = (now - last.at).total_seconds()
    return BucketLine(bucket.key, here, there, last.objects, last.at, age_s, last.by)


def _last(bucket: Bucket, runs: list[RunView], receipt: Json | None) -> _Sync | None:
    """The newer one of what the runs and what the receipt tell."""
    told = _told_by_runs(bucket, runs)
    if receipt is None:
        return told
    by = "run" if receipt.get("by") else "hand"
    kept = _Sync(parse_time(str(receipt["synced_at"])), int(receipt["source_objects"]), by)
    return kept if told is None or kept.at > told.at else told


def _told_by_runs(bucket: Bucket, runs: list[RunView]) -> _Sync | None:
    for run in runs:
        for step in run.steps.values():  # a step that failed has no output, and says nothing of what is there
            ours = step.planned.action == "bucket.sync" and step.planned.given.get("bucket") == bucket.key
            if ours and step.output and step.output.get("synced_at"):
                at = parse_time(str(step.output["synced_at"]))
                return _Sync(at, int(step.output["objects"]), run.name)
    return None


def late_buckets(
    view: GroupView, newest: Iterable[RunView], now: datetime, receipts: Mapping[str, Json] | None = None
) -> Iterator[tuple[str, datetime | None]]:
    """What is to be said of buckets that are further behind than the group's objective allows, and since when."""
    if view.state not in _KEPT_IN_STEP:
        return
    objective = view.group.objectives.rpo_s
    for line in bucket_lines(view, newest, now, receipts):
        place = f"bucket {line.key} ({line.standby} on {view.standing})"
        if line.age_s is None:
            yield f"{place} was brought over by none of the newest runs", None
        elif line.age_s > objective:
            behind, wanted = format_duration(round(line.age_s)), format_duration(objective)
            yield f"{place} is {behind} behind, objective {wanted}", line.synced_at
