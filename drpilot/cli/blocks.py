"""Blocks by hand: copies between snapshots, devices, files and buckets, and their maps.

SRC and DST are written snap-…@SITE (a snapshot), snapshot@SITE (a new one), s3://BUCKET/PREFIX@SITE (raw parts in a
bucket), bundle:MANIFEST (the image of a bundle), - (standard input), or a path.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drpilot.base.units import format_duration, format_size
from drpilot.cli.bundleparts import PartsFolder, PrivateKey, Signer
from drpilot.cli.render import Answer
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from drpilot.services.blocks import BlockCopy, Done, Doors
    from drpilot.transfer.block import BlockSource
    from drpilot.transfer.copy import Tally
    from drpilot.transfer.pace import Counts

__all__ = ["blocks_copy", "blocks_diff", "blocks_map", "blocks_pull", "blocks_push"]

_TOLD_S = 5.0  # between two lines of progress where nothing can be redrawn


class Engine(StrEnum):
    """Who carries the blocks of snapshots."""

    FAST = "fast"
    SDK = "sdk"


Source = Annotated[
    str,
    typer.Argument(
        metavar="SRC",
        help="snap-…@SITE, s3://BUCKET/PREFIX@SITE, bundle:MANIFEST, - or a path",
        show_default=False,
    ),
]
Target = Annotated[
    str,
    typer.Argument(
        metavar="DST", help="snapshot@SITE (a new one), s3://BUCKET/PREFIX@SITE or a path", show_default=False
    ),
]
Device = Annotated[
    Path, typer.Option("--device", metavar="DEVICE", help="the volume as this machine sees it, or a file")
]
StandingMap = Annotated[
    Path | None,
    typer.Option(
        "--map",
        metavar="FILE",
        help="the map of the last time: only what differs is moved; then written anew",
    ),
]
Engines = Annotated[
    Engine, typer.Option("--engine", help="who carries blocks of snapshots: our own data plane, or botocore")
]
Connections = Annotated[
    int, typer.Option("--connections", min=1, max=128, help="requests under way at each endpoint, at most")
]
Restart = Annotated[bool, typer.Option("--restart", help="forget an interrupted copy and begin anew")]


def blocks_copy(
    session: Session,
    source: Source,
    target: Target,
    base: Annotated[
        Path | None,
        typer.Option("--base", metavar="MAP", help="the map of what DST holds: only what differs is moved"),
    ] = None,
    keep_map: Annotated[
        Path | None, typer.Option("--map", metavar="FILE", help="write the map of DST here")
    ] = None,
    parent: Annotated[
        str | None,
        typer.Option(
            "--parent", metavar="SNAPSHOT", help="the snapshot --base describes, if the map doesn't say"
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="8GiB", help="how long standard input is")
    ] = None,
    private_key: PrivateKey = None,
    parts: PartsFolder = None,
    signer: Signer = None,
    engine: Engines = Engine.FAST,
    connections: Connections = 128,
    restart: Restart = False,
) -> Answer:
    """Copy blocks from SRC to DST; interrupted, the same command goes on where it stopped."""
    from drpilot.services.blocks import BlockCopy

    wanted = BlockCopy(source, target, base, keep_map, parent, _size(size), restart, connections)
    key = _BundleKey(private_key, parts, signer)
    done, seconds = _carried(session, wanted, engine, key)
    return _answer(session, done, seconds, _after_copy(session, done, wanted))


def blocks_pull(
    session: Session,
    source: Source,
    device: Device,
    standing: StandingMap = None,
    engine: Engines = Engine.FAST,
    connections: Connections = 128,
    restart: Restart = False,
) -> Answer:
    """Bring a volume of this machine to the state of SRC; what SRC does not have is cleared."""
    from drpilot.services.blocks import BlockCopy

    base = standing if standing is not None and standing.exists() else None
    wanted = BlockCopy(source, _path(device), base, standing, restart=restart, most=connections)
    done, seconds = _carried(session, wanted, engine)
    return _answer(session, done, seconds, _again(session, "pull", done.source, device, standing))


def blocks_push(
    session: Session,
    target: Target,
    device: Device,
    standing: StandingMap = None,
    engine: Engines = Engine.FAST,
    connections: Connections = 128,
    restart: Restart = False,
) -> Answer:
    """Bring the state of a volume of this machine to DST; it must not be written to meanwhile."""
    from drpilot.services.blocks import BlockCopy

    base = standing if standing is not None and standing.exists() else None
    wanted = BlockCopy(_path(device), target, base, standing, restart=restart, most=connections)
    done, seconds = _carried(session, wanted, engine)
    return _answer(session, done, seconds, _again(session, "push", target, device, standing))


def blocks_map(
    session: Session,
    source: Source,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="where the map goes", show_default=False)],
    engine: Engines = Engine.FAST,
    connections: Connections = 128,
) -> Answer:
    """Read all of SRC and write its block map."""
    from drpilot.services.blocks import map_of, write_map

    with _meeting(session, engine) as (doors, told):
        found = map_of(doors, source, told, connections)
        write_map(file, found)
    stored = sum(1 for _ in found.stored())
    data = {
        "source": source,
        "map": str(file),
        "fingerprint": found.fingerprint(),
        "size_bytes": found.size_bytes,
        "blocks": found.count,
        "stored": stored,
    }
    lines = (
        f"{source}: {stored} of {found.count} blocks hold data, {format_size(found.size_bytes)} in all",
        f"fingerprint {found.fingerprint()}, written to {file}",
    )
    return Answer(data, lines, session.command(f"blocks diff {file} OTHER"))


def blocks_diff(
    session: Session,
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="a block map", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="another", show_default=False)],
) -> Answer:
    """Count the blocks in which two maps differ; exit code 3 when there are any."""
    from drpilot.formats.blockmap import BLOCK_BYTES, changed_blocks
    from drpilot.services.blocks import read_map

    first, second = read_map(before), read_map(after)
    changed = list(changed_blocks(first, second))
    same = not changed and first.size_bytes == second.size_bytes
    data = {
        "equal": same,
        "changed": len(changed),
        "changed_bytes": len(changed) * BLOCK_BYTES,
        "blocks": changed,
    }
    text = "equal" if same else f"{len(changed)} blocks differ, {format_size(len(changed) * BLOCK_BYTES)}"
    if not changed and not same:
        text = f"equal but for the size: {first.size_bytes} and {second.size_bytes} bytes"
    return Answer(
        data, (text,), session.command("blocks copy SRC DST --base " + str(before)), 0 if same else 3
    )


# -- bundles ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _BundleKey:
    """What opens a bundle, as files."""

    private: Path | None = None
    parts: Path | None = None
    signer: Path | None = None


def _bundle(session: Session, key: _BundleKey) -> Callable[[str], BlockSource]:
    """Opens a bundle by its manifest; its signature and every part are checked as `bundle extract` does."""

    def source(path: str) -> BlockSource:
        from drpilot.base.errors import DrpilotError
        from drpilot.cli.bundleparts import key_of, manifest_of
        from drpilot.cli.bundles import opened
        from drpilot.transfer.places import Folder
        from drpilot.transfer.stream import PushedSource
        from drpilot.transfer.unbundling import unbundle

        file = Path(path)
        read, _ = manifest_of(file)
        if key.private is None:
            raise DrpilotError("usage", what="only a private key opens a bundle", hint="--private-key FILE")
        secrets, _ = opened(session, (read, file), (key_of(key.private), key.private), key.signer)
        parts = Folder(key.parts or file.parent, read.name)
        name = f"bundle:{path}#{read.tar_sha1}"
        return PushedSource(read.size_bytes, name, lambda sink: unbundle(read, secrets, parts, sink))

    return source


# -- carrying out -------------------------------------------------------------------------------------------------


def _path(device: Path) -> str:
    """A path that is not taken for anything else."""
    return str(device) if device.is_absolute() else f"./{device}"


def _size(text: str | None) -> int | None:
    from drpilot.base.errors import DrpilotError
    from drpilot.base.units import parse_size

    if text is None:
        return None
    try:
        return parse_size(text)
    except ValueError as error:
        raise DrpilotError("usage", what=f"--size: {error}", hint="--size 8GiB") from None


@contextlib.contextmanager
def _meeting(
    session: Session, engine: Engine, key: _BundleKey | None = None
) -> Iterator[tuple[Doors, Callable[[Tally], None]]]:
    """The doors of a copy and where its progress is told; a cloud's error becomes a person's."""
    from drpilot import wiring
    from drpilot.domain.ports import CloudError

    session.quiet()
    doors = wiring.block_doors(
        lab=session.common.lab, engine=engine.value, stdin=sys.stdin.buffer, note=session.say
    )
    doors = replace(doors, bundle=_bundle(session, key) if key is not None else None)
    try:
        yield doors, _progress(session, doors)
    except CloudError as error:
        refused = wiring.told(error)
        refused.hint = "what was copied is kept; the same command goes on with it"
        raise refused from error


def _carried(
    session: Session, wanted: BlockCopy, engine: Engine, key: _BundleKey | None = None
) -> tuple[Done, float]:
    from drpilot.services.blocks import copy_blocks

    with _meeting(session, engine, key) as (doors, told):
        began = doors.clock.monotonic()
        done = copy_blocks(doors, wanted, told)
        return done, doors.clock.monotonic() - began


def _progress(session: Session, doors: Doors) -> Callable[[Tally], None]:
    """One line on stderr: redrawn on a terminal, else every few seconds."""
    terminal, clock = session.terminal, doors.clock
    began, last = clock.monotonic(), clock.monotonic()

    def told(tally: Tally) -> None:
        nonlocal last
        now = clock.monotonic()
        if terminal.json or not tally.seen or (now - last < _TOLD_S and not terminal.live):
            return
        last = now
        total = f" of {tally.total}" if tally.total is not None else ""
        rate = tally.written_bytes / max(0.001, now - began)
        text = f"{tally.seen}{total} blocks looked at, {tally.written} moved, {format_size(int(rate))}/s"
        if terminal.live:
            terminal.stderr.write(f"\r\x1b[K{text}")
            terminal.stderr.flush()
            if tally.seen == tally.total:
                terminal.stderr.write("\r\x1b[K")
        else:
            terminal.say(text)

    return told


# -- answers ------------------------------------------------------------------------------------------------------


def _counted(counts: Counts | None) -> dict[str, int] | None:
    if counts is None:
        return None
    return {
        "requests": counts.requests,
        "throttled_account": counts.throttled_account,
        "throttled_snapshot": counts.throttled_snapshot,
        "tried_again": counts.failed,
        "mismatched": counts.mismatched,
        "connections": counts.most_at_once,
    }


def _answer(session: Session, done: Done, seconds: float, following: str) -> Answer:
    tally, copied = done.copied.tally, done.copied
    data: dict[str, Any] = {
        "source": done.source,
        "target": done.target,
        "incremental": done.base,
        "size_bytes": copied.block_map.size_bytes,
        "fingerprint": copied.block_map.fingerprint(),
        "looked_at": tally.seen,
        "moved": tally.written,
        "moved_bytes": tally.written_bytes,
        "unchanged": tally.unchanged,
        "zeros": tally.zeros,
        "resumed": tally.resumed,
        "seconds": round(seconds, 3),
        "source_requests": _counted(done.source_counts),
        "target_requests": _counted(done.target_counts),
    }
    kind = "changed blocks" if done.base else "blocks"
    moved = f"{tally.written} {kind} moved, {format_size(tally.written_bytes)} in {format_duration(seconds)}"
    lines = [
        f"{done.source} → {done.target}: {moved}",
        f"looked at {tally.seen}, unchanged {tally.unchanged}, zeros {tally.zeros}, finished earlier {tally.resumed}",
    ]
    for where, counts in (("source", done.source_counts), ("target", done.target_counts)):
        if counts is not None and (counts.throttled_account or counts.throttled_snapshot or counts.failed):
            lines.append(
                f"{where}: throttled {counts.throttled_account} times for the account,"
                f" {counts.throttled_snapshot} for the snapshot; tried again after {counts.failed} other errors"
            )
    return Answer(data, tuple(lines), following)


def _after_copy(session: Session, done: Done, wanted: BlockCopy) -> str:
    if wanted.keep_map is not None:
        return session.command(
            f"blocks copy NEWER {wanted.target} --base {wanted.keep_map} --map {wanted.keep_map}"
        )
    return session.command(f"blocks map {done.target} FILE")


def _again(session: Session, verb: str, other: str, device: Path, standing: Path | None) -> str:
    kept = f" --map {standing}" if standing is not None else ""
    newer = "NEWER" if verb == "pull" else other
    return session.command(f"blocks {verb} {newer} --device {device}{kept}")
