"""Buckets by hand: bringing one to the state of another, whatever clouds they are in."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drpilot.base.units import format_duration, format_size
from drpilot.cli.blocks import Engine
from drpilot.cli.render import Answer
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from drpilot.base.clock import Clock
    from drpilot.transfer.bucketsync import BucketSync, Synced
    from drpilot.transfer.pace import Counts
    from drpilot.transfer.sync import SyncTally

__all__ = ["bucket_sync"]

_TOLD_S = 5.0  # between two lines of progress where nothing can be redrawn
_WORKERS = 32
_SHOWN = 20  # names and errors shown to people; JSON has up to 100

Source = Annotated[
    str, typer.Argument(metavar="SRC", help="s3://BUCKET[/PREFIX]@SITE, to be read", show_default=False)
]
Target = Annotated[
    str, typer.Argument(metavar="DST", help="s3://BUCKET[/PREFIX]@SITE, to be written", show_default=False)
]


def bucket_sync(
    session: Session,
    source: Source,
    target: Target,
    delete: Annotated[
        bool, typer.Option("--delete", help="delete from DST what SRC does not have, when all else went well")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="compare, and say what would be done; nothing is changed")
    ] = False,
    create_bucket: Annotated[
        bool, typer.Option("--create-bucket", help="make the bucket of DST if there is none")
    ] = False,
    parallel: Annotated[
        int, typer.Option("--parallel", "-n", min=1, max=256, help="objects under way together, at most")
    ] = _WORKERS,
    engine: Annotated[
        Engine, typer.Option("--engine", help="who carries objects: our own data plane, or botocore")
    ] = Engine.FAST,
) -> Answer:
    """Bring DST to the state of SRC: what is new or changed is copied; repeated, only what is missing."""
    from drpilot import doors as installation
    from drpilot.domain.ports import CloudError
    from drpilot.transfer.bucketsync import BucketSync, sync_buckets

    session.quiet()
    doors = installation.bucket_doors(lab=session.common.lab, engine=engine.value, note=session.say)
    wanted = BucketSync(source, target, delete, dry_run, create_bucket, parallel)
    began = doors.clock.monotonic()
    try:
        done = sync_buckets(doors, wanted, _progress(session, doors.clock))
    except CloudError as error:
        refused = installation.told(error)
        refused.hint = "what was copied is kept; the same command goes on with it"
        raise refused from error
    return _answer(session, wanted, done, engine, doors.clock.monotonic() - began)


def _progress(session: Session, clock: Clock) -> Callable[[SyncTally], None]:
    """One line on stderr: redrawn on a terminal, else every few seconds."""
    terminal = session.terminal
    began = last = clock.monotonic()

    def told(tally: SyncTally) -> None:
        nonlocal last
        now = clock.monotonic()
        if terminal.json or (now - last < _TOLD_S and not terminal.live):
            return
        last = now
        rate = format_size(int(tally.copied_bytes / max(0.001, now - began)))
        text = f"{tally.looked_at} names looked at, {tally.copied} copied, {rate}/s"
        if terminal.live:
            terminal.stderr.write("\r\x1b[K" if tally.finished else f"\r\x1b[K{text}")
            terminal.stderr.flush()
        else:
            terminal.say(text)

    return told


def _counted(counts: Counts) -> dict[str, int]:
    return {
        "requests": counts.requests,
        "throttled_account": counts.throttled_account,
        "throttled_bucket": counts.throttled_snapshot,
        "tried_again": counts.failed,
        "mismatched": counts.mismatched,
        "connections": counts.most_at_once,
    }


def _answer(session: Session, wanted: BucketSync, done: Synced, engine: Engine, seconds: float) -> Answer:
    tally = done.tally
    data: dict[str, Any] = {
        "source": done.source,
        "target": done.target,
        "dry_run": wanted.dry_run,
        "source_objects": tally.source_objects,
        "target_objects": tally.target_objects,
        "same": tally.same,
        "copied": tally.copied,
        "copied_bytes": tally.copied_bytes,
        "copied_by_cloud": tally.by_cloud,
        "changed_meanwhile": tally.changed,
        "vanished_meanwhile": tally.vanished,
        "surplus": tally.surplus,
        "deleted": tally.deleted,
        "failed": tally.failed,
        "failures": [{"key": one.key, "code": one.code, "message": one.message} for one in tally.failures],
        "resumed_parts": tally.resumed_parts,
        "aborted_uploads": tally.aborted_uploads,
        "bucket_created": done.created,
        "source_versioned": done.versioned,
        "engines": list(done.engines),
        "notes": list(done.notes),
        "seconds": round(seconds, 3),
        "source_requests": _counted(done.source_counts),
        "target_requests": _counted(done.target_counts),
    }
    if wanted.dry_run:
        data["would_copy"] = list(tally.planned)
        data["would_create_bucket"] = done.would_create
    following = session.command(_after(wanted, done, engine))
    return Answer(data, tuple(_lines(wanted, done, seconds)), following, _code(tally))


def _code(tally: SyncTally) -> int:
    return 1 if tally.failed else 0


def _lines(wanted: BucketSync, done: Synced, seconds: float) -> list[str]:
    from drpilot.transfer.bucketsync import place_of

    tally = done.tally
    size = format_size(tally.copied_bytes)
    if wanted.dry_run:
        what = f"{tally.copied} objects to copy, {size}; nothing was changed"
    else:
        what = f"{tally.copied} objects copied, {size} in {format_duration(seconds)}"
    if tally.by_cloud:
        what += f"; {tally.by_cloud} of them by the cloud itself"
    surplus = f"{tally.deleted} deleted" if wanted.delete and not wanted.dry_run else "left as they are"
    if wanted.delete and wanted.dry_run:
        surplus = "to delete"
    lines = [
        f"{done.source} → {done.target}: {what}",
        f"{tally.same} are the same already; {tally.surplus} only on the target, {surplus}",
    ]
    if done.would_create:
        bucket, _, site = place_of(done.target)
        lines.append(f"would make bucket {bucket} on {site}")
    if tally.changed or tally.vanished:
        lines.append(
            f"while this went on {tally.changed} objects changed and {tally.vanished} vanished: sync again"
        )
    if tally.resumed_parts:
        lines.append(f"{tally.resumed_parts} parts of large objects had been sent earlier")
    for where, counts in (("source", done.source_counts), ("target", done.target_counts)):
        if counts.throttled_account or counts.throttled_snapshot or counts.failed:
            lines.append(
                f"{where}: throttled {counts.throttled_account} times for the account,"
                f" {counts.throttled_snapshot} for the bucket; tried again after {counts.failed} other errors"
            )
    lines += [f"would copy {key!r}" for key in tally.planned[:_SHOWN]]
    lines += [f"failed: {one.key!r}: {one.code}: {one.message}" for one in tally.failures[:_SHOWN]]
    if tally.failed > _SHOWN:
        lines.append(f"{tally.failed} failed in all")
    if tally.failed and wanted.delete:
        lines.append("nothing was deleted, because not everything could be copied")
    return lines + [f"note: {note}" for note in done.notes]


def _after(wanted: BucketSync, done: Synced, engine: Engine) -> str:
    """The next command: the sync itself, or the same once more, with what was asked for and as a shell takes it."""
    words = ["bucket", "sync", done.source, done.target]
    words += ["--delete"] if wanted.delete else []
    words += ["--create-bucket"] if done.would_create else []
    words += ["--parallel", str(wanted.workers)] if wanted.workers != _WORKERS else []
    words += ["--engine", engine.value] if engine is not Engine.FAST else []
    words += [] if done.tally.failed or wanted.dry_run else ["--dry-run"]
    return shlex.join(words)
