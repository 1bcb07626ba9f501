"""Copying blocks as a person asks for it: names opened as sources and sinks, bases checked, ledgers and maps kept.

Everything a copy needs to go on after kill -9 lies in the ledger, which is found again by what is copied where: the
same command goes on by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from drpilot.base.clock import Chance, Clock
from drpilot.base.errors import DrpilotError
from drpilot.base.ids import digest, new_id
from drpilot.domain.ports import BlockPlane, Site
from drpilot.formats.blockmap import BlockMap, MalformedMap, decode_map, encode_map
from drpilot.transfer.block import BlockSink, BlockSource
from drpilot.transfer.copy import Copied, Order, Tally, copy
from drpilot.transfer.device import DeviceSink, DeviceSource
from drpilot.transfer.ledger import Head, Ledger
from drpilot.transfer.nowhere import Nowhere
from drpilot.transfer.pace import MOST, Counts, Pace
from drpilot.transfer.parts import PartsSink, PartsSource
from drpilot.transfer.reference import Reference, parse_reference
from drpilot.transfer.shelf import BucketShelf
from drpilot.transfer.snapshots import Ebs, NewSnapshot, SnapshotSink, SnapshotSource, snapshot_of
from drpilot.transfer.stream import StreamSource

__all__ = ["BlockCopy", "Done", "Doors", "copy_blocks", "map_of", "read_map", "write_map"]


@dataclass(frozen=True, slots=True)
class Doors:
    """What a copy reaches the world by: sites by name, the blocks of a site, the folder of ledgers, and what needs more
    than a name: standard input, and bundles, which need a key.
    """

    site: Callable[[str], Site]
    plane: Callable[[str], BlockPlane]
    folder: Path
    clock: Clock
    chance: Chance
    stdin: IO[bytes] | None = None
    bundle: Callable[[str], BlockSource] | None = None  # opens a bundle by its manifest's path


@dataclass(frozen=True, slots=True)
class BlockCopy:
    """What a person asked for. `base` is a file that says what the target holds; `keep_map` a file the target's map is
    written to. `most` bounds the requests under way at each endpoint.
    """

    source: str
    target: str
    base: Path | None = None
    keep_map: Path | None = None
    parent: str | None = None
    size_bytes: int | None = None
    restart: bool = False
    most: int = MOST


@dataclass(frozen=True, slots=True)
class Done:
    """A copy that is complete, and what happened at its endpoints."""

    copied: Copied
    source: str
    target: str
    base: bool
    source_counts: Counts | None
    target_counts: Counts | None


def read_map(path: Path) -> BlockMap:
    """A map from its file; raises DrpilotError `unknown-file`, `block-map`."""
    try:
        return decode_map(path.read_bytes())
    except FileNotFoundError:
        raise DrpilotError("unknown-file", file=str(path)) from None
    except OSError as error:
        raise DrpilotError("block-map", file=str(path), what=error.strerror or str(error)) from None
    except MalformedMap as error:
        raise DrpilotError("block-map", file=str(path), what=str(error)) from None


def write_map(path: Path, block_map: BlockMap) -> None:
    """Put a map into a file, whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        with draft.open("wb") as file:
            file.write(encode_map(block_map))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise DrpilotError("device-unusable", path=str(path), what=error.strerror or str(error)) from None


def copy_blocks(doors: Doors, wanted: BlockCopy, told: Callable[[Tally], None] | None = None) -> Done:
    """Copy from beginning to end, or go on with what was interrupted. Raises CloudError and DrpilotError; repeating the
    call then sends only what is missing.
    """
    source_name, target_name = parse_reference(wanted.source), parse_reference(wanted.target)
    base = read_map(wanted.base) if wanted.base is not None else None
    with ExitStack() as stack:
        source = stack.enter_context(closing(_source(doors, wanted, source_name)))
        sink = stack.enter_context(closing(_sink(doors, wanted, target_name, base)))
        ledger = Ledger(doors.folder / f"{_key(wanted, target_name, source, base)}.ledger")
        complete = False
        try:
            base = _agreed_base(source, sink, ledger, base)
            head = Head(
                source=source.identity,
                target=_identity(target_name),
                base=base.fingerprint() if base is not None else "",
                size_bytes=source.size_bytes,
                token=new_id(doors.clock, doors.chance),
            )
            _check_ledger(ledger, head, wanted)
            copied = copy(Order(source, sink, ledger, head, base, told))
            if wanted.keep_map is not None:
                write_map(wanted.keep_map, copied.block_map)
            complete = True
        finally:
            ledger.close(remove=complete)
        return Done(
            copied, source.name, sink.name, base is not None, _counts(source.pace), _counts(sink.pace)
        )


def map_of(
    doors: Doors, name: str, told: Callable[[Tally], None] | None = None, most: int = MOST
) -> BlockMap:
    """The map of a source, by reading and hashing all of it; nothing is written."""
    wanted = BlockCopy(name, "", most=most)
    with closing(_source(doors, wanted, parse_reference(name))) as source:
        ledger = Ledger(doors.folder / f"map-{new_id(doors.clock, doors.chance)}.ledger")
        try:
            head = Head(source.identity, "map", "", source.size_bytes, "map")
            return copy(Order(source, Nowhere(), ledger, head, None, told)).block_map
        finally:
            ledger.close(remove=True)


def _counts(pace: Pace | None) -> Counts | None:
    return pace.counts if pace is not None else None


def _identity(target: Reference) -> str:
    """A target's name in the ledger: one for one place, however it was typed."""
    if target.kind == "path":
        return str(Path(target.name).resolve())
    return f"{target.kind}:{target.name}/{target.prefix}@{target.site}"


def _key(wanted: BlockCopy, target: Reference, source: BlockSource, base: BlockMap | None) -> str:
    """The ledger's name. A device has one ledger whatever is copied onto it; every other target is new each time."""
    if target.kind == "path":
        return digest(["path", _identity(target)])[:32]
    fingerprint = base.fingerprint() if base is not None else ""
    return digest([_identity(target), source.name, fingerprint, wanted.parent or ""])[:32]


def _check_ledger(ledger: Ledger, head: Head, wanted: BlockCopy) -> None:
    """Refuse to go on from the middle of another copy in place: it left a mixture that no base describes."""
    if ledger.head is None or (ledger.head.same_copy(head) and not wanted.restart):
        return
    in_place = "in_place" in ledger.state
    if in_place and (not wanted.restart or head.base):
        raise DrpilotError("copy-unfinished", target=wanted.target, source=ledger.head.source)
    ledger.begin(head)


def _agreed_base(
    source: BlockSource, sink: BlockSink, ledger: Ledger, base: BlockMap | None
) -> BlockMap | None:
    """The base both ends can work with: the one given, or what the target itself says it holds."""
    held = sink.held()
    if base is None:
        base = held
    elif not ledger.state:  # half-way through a copy the target is not as the base any more
        sink.check(base)
    if base is not None and base.size_bytes > source.size_bytes:
        raise DrpilotError(
            "base-mismatch",
            target=sink.name,
            what=f"the base is larger than {source.name}: volumes don't shrink",
        )
    return base


def _pace(doors: Doors, wanted: BlockCopy) -> Pace:
    return Pace(doors.clock, doors.chance, most=wanted.most)


def _ebs(doors: Doors, wanted: BlockCopy, site: str) -> Ebs:
    return Ebs(doors.site(site), doors.plane(site), _pace(doors, wanted), doors.clock)


def _parts(doors: Doors, wanted: BlockCopy, place: Reference) -> BucketShelf:
    return BucketShelf(
        doors.site(place.site), place.name, place.prefix, _pace(doors, wanted), needs_bucket=True
    )


def _source(doors: Doors, wanted: BlockCopy, name: Reference) -> BlockSource:
    if name.kind == "snapshot":
        return SnapshotSource(_ebs(doors, wanted, name.site), name.name)
    if name.kind == "parts":
        return PartsSource(_parts(doors, wanted, name))
    if name.kind == "path":
        return DeviceSource(Path(name.name))
    if name.kind == "bundle" and doors.bundle is not None:
        return doors.bundle(name.name)
    if name.kind == "stream" and wanted.size_bytes is not None and doors.stdin is not None:
        return StreamSource(doors.stdin, wanted.size_bytes, name.name)
    needs = {"new": "a new snapshot is a target", "bundle": "a bundle is opened by blocks copy alone"}
    what = needs.get(name.kind, "standard input needs --size")
    raise DrpilotError("usage", what=f"SRC {wanted.source!r}: {what}", hint="drpilot blocks copy --help")


def _sink(doors: Doors, wanted: BlockCopy, name: Reference, base: BlockMap | None) -> BlockSink:
    if wanted.parent is not None and (name.kind != "new" or base is None):
        what = "--parent is for a new snapshot on top of a base"
        raise DrpilotError(
            "usage", what=what, hint="drpilot blocks copy SRC snapshot@SITE --base MAP --parent snap-…"
        )
    if name.kind == "new":
        parent = wanted.parent or (snapshot_of(base, name.site) if base is not None else None)
        made = NewSnapshot(f"drpilot: {wanted.source}"[:255], parent, wanted.source)
        return SnapshotSink(_ebs(doors, wanted, name.site), made)
    if name.kind == "parts":
        return PartsSink(_parts(doors, wanted, name))
    if name.kind == "path":
        return DeviceSink(Path(name.name), doors.chance)
    what = "it is a source" if name.kind != "snapshot" else "a snapshot that is there can't be written to"
    raise DrpilotError("usage", what=f"DST {wanted.target!r}: {what}", hint="a new one: snapshot@SITE")
