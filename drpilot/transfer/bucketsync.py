"""Bringing a bucket to the state of another one, as a person or a runbook asks for it: places by name, what is refused,
and what does not travel.

The record of what is equal lies in drpilot's folder, one file for each pair of places and both directions; the same
command goes on after kill -9 by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from drpilot.base.clock import Chance, Clock, rfc3339
from drpilot.base.errors import DrpilotError
from drpilot.domain.objects import ObjectPlane
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, Site
from drpilot.transfer.newbucket import bucket_stands, prepare
from drpilot.transfer.objectlisting import Place
from drpilot.transfer.pace import Counts, Pace
from drpilot.transfer.sync import SyncOrder, SyncTally, sync
from drpilot.transfer.syncrecord import SyncRecord

__all__ = ["WORKERS", "BucketDoors", "BucketSync", "Synced", "place_of", "sync_buckets"]

WORKERS = 32
FORM = "[s3://]BUCKET[/PREFIX]@SITE"
_PLACE = re.compile(r"(?:s3://)?([^/@\s]+)(?:/(.*))?@([A-Za-z0-9._-]+)", re.DOTALL)
_HINT = "drpilot bucket sync --help"


@dataclass(frozen=True, slots=True)
class BucketDoors:
    """What a sync reaches the world by: sites by name, their objects, where S3 answers, and the folder of records."""

    site: Callable[[str], Site]
    plane: Callable[[str], ObjectPlane]
    endpoint: Callable[[str], str]  # the URL of a site's S3
    folder: Path
    clock: Clock
    chance: Chance


@dataclass(frozen=True, slots=True)
class BucketSync:
    """What was asked for. `source` and `target` are written [s3://]BUCKET[/PREFIX]@SITE."""

    source: str
    target: str
    delete: bool = False
    dry_run: bool = False
    create: bool = False
    workers: int = WORKERS
    by: str = ""  # a run's step: kept in the receipt of a sync in which nothing failed


@dataclass(frozen=True, slots=True)
class Synced:
    """What was done, what happened at both sides, and what a person should know beside it."""

    tally: SyncTally
    source: str
    target: str
    source_counts: Counts
    target_counts: Counts
    notes: tuple[str, ...] = ()
    versioned: bool | None = None  # whether the source keeps older versions; None where it does not say
    by_cloud: bool = False
    created: bool = False
    would_create: bool = False  # a dry run found no bucket to write to, and that one may be made
    engines: tuple[str, str] = field(default=("fast", "fast"))


def place_of(text: str) -> tuple[str, str, str]:
    """Bucket, prefix (empty or with a slash at its end) and site; raises DrpilotError `usage`."""
    found = _PLACE.fullmatch(text)
    if found is None:
        raise DrpilotError("usage", what=f"{text!r} is not written as {FORM}", hint=_HINT)
    prefix = (found[2] or "").rstrip("/")
    return found[1], f"{prefix}/" if prefix else "", found[3]


def sync_buckets(
    doors: BucketDoors, wanted: BucketSync, told: Callable[[SyncTally], None] | None = None
) -> Synced:
    """Bring `wanted.target` to the state of `wanted.source`. Raises CloudError and DrpilotError where that can't be
    done at all; repeating the call then does only what is missing.
    """
    source, target = _place(doors, wanted.source, wanted), _place(doors, wanted.target, wanted)
    one_store = source.site.name == target.site.name or _same_cloud(doors, source, target)
    if one_store and source.bucket == target.bucket:
        _refuse_overlap(source, target)
    try:
        with ThreadPoolExecutor(
            2, "drpilot-buckets"
        ) as pool:  # who we are there is checked with the first call
            seen = pool.submit(_seen, source)
            making = pool.submit(_made, target, wanted, doors.clock)
            versioned, made = seen.result(), making.result()
        absent = made and wanted.dry_run
        with closing(SyncRecord(doors.folder, source.name, target.name)) as record:
            began = doors.clock.now()
            tally = sync(
                SyncOrder(
                    source,
                    target,
                    record,
                    workers=wanted.workers,
                    delete=wanted.delete,
                    dry_run=wanted.dry_run,
                    by_cloud=one_store,
                    no_target=absent,
                    told=told,
                )
            )
            if not wanted.dry_run and not tally.failed:
                record.sign(_receipt(wanted, tally, rfc3339(began)))
    finally:
        for place in (source, target):
            place.plane.close()
    return Synced(
        tally,
        source.name,
        target.name,
        source.pace.counts,
        target.pace.counts,
        _notes(tally, source, versioned=versioned),
        versioned,
        one_store,
        made and not absent,
        absent,
        (source.plane.engine, target.plane.engine),
    )


def _receipt(wanted: BucketSync, tally: SyncTally, began: str) -> Json:
    """What a whole sync did: all that was written to the source before it began (RFC 3339) is on the target."""
    counts = ("source_objects", "same", "copied", "copied_bytes", "deleted", "surplus", "changed", "tagged")
    return {"by": wanted.by, "synced_at": began, **{name: getattr(tally, name) for name in counts}}


def _place(doors: BucketDoors, text: str, wanted: BucketSync) -> Place:
    bucket, prefix, site = place_of(text)
    pace = Pace(doors.clock, doors.chance, most=wanted.workers)
    return Place(doors.site(site), doors.plane(site), bucket, prefix, pace)


def _same_cloud(doors: BucketDoors, source: Place, target: Place) -> bool:
    """Whether one store answers for both sites, so that a bucket's name means the same bucket to both: the same
    endpoint, or two regions of one partition of AWS, where names of buckets are one space.
    """
    ours, theirs = (urlsplit(doors.endpoint(place.site.name)) for place in (source, target))
    if ours.netloc == theirs.netloc:
        return True
    suffixes = [_partition(url.hostname or "", place) for url, place in ((ours, source), (theirs, target))]
    return suffixes[0] != "" and suffixes[0] == suffixes[1]


def _partition(host: str, place: Place) -> str:
    """The partition of an endpoint of AWS itself; empty for every other store."""
    if host.endswith(".amazonaws.com.cn"):
        return "aws-cn"
    if host.endswith(".amazonaws.com"):
        return "aws-us-gov" if place.site.region.startswith("us-gov-") else "aws"
    return ""


def _refuse_overlap(source: Place, target: Place) -> None:
    if source.prefix.startswith(target.prefix) or target.prefix.startswith(source.prefix):
        what = f"{source.name} and {target.name} lie in each other"
        raise DrpilotError("usage", what=what, hint=_HINT)


def _seen(place: Place) -> bool | None:
    """See that a bucket is there; whether it keeps versions, None where that can't be told. Raises `bucket-missing`."""
    prepare(place.site, place.bucket, create=False)
    return _versioned(place)


def _made(place: Place, wanted: BucketSync, clock: Clock) -> bool:
    """See that there is a bucket to write to; whether it was made now, or, in a dry run, would be. Raises
    `bucket-missing`.
    """
    if wanted.create and wanted.dry_run:
        return not bucket_stands(place.site, place.bucket)
    return prepare(place.site, place.bucket, create=wanted.create, clock=clock)


def _versioned(place: Place) -> bool | None:
    try:
        reply = place.site.call("s3", "GetBucketVersioning", {"Bucket": place.bucket})
    except CloudError:
        return None  # it does not know the question, or we may not ask; what is really wrong the listing says
    return str(reply.get("Status") or "") in ("Enabled", "Suspended")


def _notes(tally: SyncTally, source: Place, *, versioned: bool | None) -> tuple[str, ...]:
    notes = []
    if versioned:
        notes.append(
            f"{source.name} keeps versions: only the current one of each object travels, and its version id is noted"
        )
    if tally.tagged:
        notes.append(f"{tally.tagged} of the objects copied have tags, which do not travel")
    if tally.unnamed:
        notes.append(
            f"{tally.unnamed} object has no name on the other side: it is the marker of the folder itself"
        )
    if tally.copied - tally.by_cloud > 0:
        notes.append("ACLs and tags do not travel; an object copied gets the target bucket's defaults")
    return tuple(notes)
