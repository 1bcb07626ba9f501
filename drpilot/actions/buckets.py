"""Buckets that are members of a group: brought into step with each replication, and looked at when they are needed.

A bucket needs nothing in a failover: what was synced is there under its name. So there is nothing to restore, and a
step only says how old it is. The direction is the run's: after a reprotect the same bucket goes the other way, and
begins with the record that the way there left (transfer/syncrecord.py).
"""

from __future__ import annotations

from collections.abc import Callable

from drpilot.actions.staging import progress
from drpilot.actions.views import Seen, visible
from drpilot.base.clock import parse_time
from drpilot.base.units import format_duration
from drpilot.domain.group import Bucket
from drpilot.domain.plain import Json
from drpilot.domain.ports import (
    Action,
    Answer,
    Context,
    Done,
    Effect,
    FailureClass,
    Idempotency,
    Model,
    StepFailed,
    Unseen,
)
from drpilot.transfer.bucketsync import BucketDoors, BucketSync, Synced, sync_buckets
from drpilot.transfer.newbucket import prepare
from drpilot.transfer.sync import SyncTally
from drpilot.transfer.syncrecord import last_receipt

__all__ = ["Stand", "Sync"]


class BucketInput(Model):
    """A bucket of the group, by its key."""

    bucket: str


class SyncOutput(Model):
    """Where it is on both sides, since when it is in step, and what that took."""

    source: str
    target: str
    synced_at: str
    objects: int
    same: int
    copied: int
    copied_bytes: int
    deleted: int
    surplus: int


class StandOutput(Model):
    """Where it is on the target, and since when it is in step: empty where nothing is known of a sync. `seen` is the
    line in the report.
    """

    place: str
    synced_at: str
    seen: Seen


def bucket_of(ctx: Context, key: str) -> Bucket:
    """The bucket called `key`; StepFailed (not found) where the group has none."""
    try:
        return ctx.group.bucket(key)
    except KeyError:
        raise StepFailed(FailureClass.NOT_FOUND, f"group {ctx.group.name} has no bucket {key}") from None


def places_of(ctx: Context, bucket: Bucket) -> tuple[str, str]:
    """Source and target as people write them."""
    source, target = (f"s3://{ctx.group.bucket_on(bucket, site)}@{site}" for site in (ctx.source, ctx.target))
    return source, target


class Sync(Action[BucketInput, SyncOutput]):
    """Bring the target's bucket to the state of the source's.

    Interrupted it goes on: what is equal is found by listing, what is under way in parts by the record. What a whole
    sync did is kept in a receipt with the step's name, so that a lost answer is settled without doing it again; a
    bucket that is written to meanwhile is never found equal, so looking at the objects would tell nothing.
    """

    name = "bucket.sync"
    summary = "bring a bucket of the target into step with the source's, copying what is new or changed"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    permissions = (
        "s3:AbortMultipartUpload",
        "s3:CreateBucket",
        "s3:DeleteObject",
        "s3:GetBucketVersioning",
        "s3:GetObject",
        "s3:ListBucket",
        "s3:ListBucketMultipartUploads",
        "s3:ListMultipartUploadParts",
        "s3:PutObject",
    )
    at = ("source", "target")
    Input = BucketInput
    Output = SyncOutput

    def start(self, ctx: Context, given: BucketInput) -> Answer[SyncOutput]:
        bucket = bucket_of(ctx, given.bucket)
        source, target = places_of(ctx, bucket)
        carried = ctx.transfers
        doors = BucketDoors(
            ctx.site, carried.objects, carried.s3_url, carried.folder, ctx.clock, carried.chance
        )
        wanted = BucketSync(source, target, delete=bucket.delete, create=True, by=_signature(ctx))
        _all_arrived(sync_buckets(doors, wanted, _progress(ctx)))
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: BucketInput) -> Answer[SyncOutput]:
        source, target = places_of(ctx, bucket_of(ctx, given.bucket))
        receipt = last_receipt(ctx.transfers.folder, source, target)
        if receipt is None or receipt.get("by") != _signature(ctx):
            return Unseen(True, f"{source} was not brought over to its end by this step")
        _see(ctx, target)
        facts: Json = {"source": source, "target": target, "objects": receipt["source_objects"]}
        names = ("synced_at", "same", "copied", "copied_bytes", "deleted", "surplus")
        return Done(SyncOutput(**facts, **{name: receipt[name] for name in names}))


class Stand(Action[BucketInput, StandOutput]):
    """See that the bucket is there on the target, and say since when it is in step."""

    name = "bucket.stand"
    summary = "see that a bucket is there on the target, and how old what it holds is"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    permissions = ("s3:ListBucket",)
    Input = BucketInput
    Output = StandOutput

    def start(self, ctx: Context, given: BucketInput) -> Answer[StandOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: BucketInput) -> Answer[StandOutput]:
        source, target = places_of(ctx, bucket_of(ctx, given.bucket))
        _see(ctx, target)
        receipt = last_receipt(ctx.transfers.folder, source, target)
        at = str(receipt["synced_at"]) if receipt is not None else ""
        observed = "it is there, and nothing is known of a sync"
        if at:
            age_s = max(0.0, (ctx.clock.now() - parse_time(at)).total_seconds())
            observed = f"in step since {at}, {format_duration(round(age_s))} ago"
        expected = f"{target} in step with {source}"
        seen = Seen.of(ctx, given.bucket, bool(at), (expected, observed))
        return Done(StandOutput(place=target, synced_at=at, seen=seen))


def _signature(ctx: Context) -> str:
    """The step of this run: its attempts share it, so that a later one finds what an earlier one did."""
    return f"{ctx.run}/{ctx.path}"


def _see(ctx: Context, place: str) -> None:
    bucket = place.removeprefix("s3://").partition("@")[0].partition("/")[0]
    prepare(ctx.site("target"), bucket, create=False)


def _all_arrived(done: Synced) -> None:
    tally = done.tally
    if tally.failed:
        first = tally.failures[0]
        text = (
            f"{tally.failed} objects of {done.source} could not be brought over, {tally.copied} could;"
            f" {first.key!r}: {first.code}: {first.message}"
        )
        raise StepFailed(FailureClass.REJECTED, text[:2000])


def _progress(ctx: Context) -> Callable[[SyncTally], None]:
    told = progress(ctx)
    return lambda tally: told({"looked_at": tally.looked_at, "copied": tally.copied})
