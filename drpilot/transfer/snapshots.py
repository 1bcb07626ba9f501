"""Snapshots as sources and sinks of blocks, by EBS direct.

Control calls go through the site's door, blocks through its plane. Sources: EBS direct APIs reference and FAQ: a page
may be empty and still name a next one; page tokens live 60 minutes, block tokens 7 days; changed blocks can be listed
only within one lineage; a snapshot that is not completed within its timeout (at most 4,320 minutes) fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from drpilot.base.clock import Clock
from drpilot.base.errors import DrpilotError
from drpilot.domain.plain import Json
from drpilot.domain.ports import BlockChannel, BlockPlane, CloudError, FailureClass, Site
from drpilot.formats.blockmap import ZERO_SHA256, BlockMap
from drpilot.transfer.block import ZEROS, BlockReader, BlockWriter, Gone, Listing, Piece, Result
from drpilot.transfer.pace import Pace

__all__ = ["Ebs", "NewSnapshot", "SnapshotSink", "SnapshotSource", "snapshot_of"]

T = TypeVar("T")

GIB = 1 << 30
_TIMEOUT_MINUTES = 4_320
_COMPLETE_S = 3_600.0
_LOOK_S, _LOOK_MOST_S = 0.5, 15.0
_TAG_CHARACTERS = 256  # of a tag's value


@dataclass(frozen=True, slots=True)
class Ebs:
    """One site's EBS direct: its door, its blocks, and the pace at them."""

    site: Site
    plane: BlockPlane
    pace: Pace
    clock: Clock

    def described(self, snapshot: str) -> Json | None:
        """The snapshot as EC2 describes it; None where there is none."""
        try:
            found = self.site.call("ec2", "DescribeSnapshots", {"SnapshotIds": [snapshot]})["Snapshots"]
        except CloudError as error:
            if error.kind is FailureClass.NOT_FOUND:
                return None
            raise
        return dict(found[0]) if found else None


def snapshot_of(block_map: BlockMap, site: str) -> str | None:
    """The snapshot of `site` that holds what a map says: its target or its source; None where neither is one."""
    for fact in ("target", "source"):
        snapshot, at, where = block_map.facts.get(fact, "").rpartition("@")
        if at and where == site and snapshot.startswith("snap-"):
            return snapshot
    return None


def _ahead(rows: Iterator[T]) -> Iterator[T]:
    """`rows` with the next one fetched while the last is used: a listing's page costs a round trip."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="drpilot-listing") as pool:
        following = pool.submit(next, rows, None)
        while (row := following.result()) is not None:
            following = pool.submit(next, rows, None)
            yield row


class SnapshotSource:
    """A completed snapshot. Raises DrpilotError `unknown-snapshot` and `snapshot-not-ready` when it is made."""

    def __init__(self, ebs: Ebs, snapshot: str) -> None:
        self.name = self.identity = f"{snapshot}@{ebs.site.name}"
        self.steady = True
        self.pace: Pace | None = ebs.pace
        self._ebs = ebs
        self._snapshot = snapshot
        found = ebs.described(snapshot)
        if found is None:
            raise DrpilotError("unknown-snapshot", snapshot=snapshot, site=ebs.site.name)
        if found["State"] != "completed":
            raise DrpilotError(
                "snapshot-not-ready", snapshot=snapshot, site=ebs.site.name, state=found["State"]
            )
        self.size_bytes = int(found["VolumeSize"]) * GIB

    def list(self, base: BlockMap | None) -> Listing:
        """All its blocks, or, where the base was taken from an ancestor that is still there, the changed ones."""
        before = snapshot_of(base, self._ebs.site.name) if base is not None else None
        if before is not None:
            given = {"FirstSnapshotId": before, "SecondSnapshotId": self._snapshot}
            pages = _pages(self._ebs.site, "ListChangedBlocks", given, "ChangedBlocks")
            try:
                first = next(pages, [])
            except CloudError as error:  # of another lineage, or deleted: every block is compared instead
                if error.kind not in (FailureClass.INVALID, FailureClass.NOT_FOUND):
                    raise
            else:
                return Listing(_changed(_chained(first, _ahead(pages))), partial=True)
        pages = _pages(self._ebs.site, "ListSnapshotBlocks", {"SnapshotId": self._snapshot}, "Blocks")
        rows = (row for page in _ahead(pages) for row in page)
        return Listing(Piece(int(row["BlockIndex"]), str(row["BlockToken"])) for row in rows)

    def reader(self) -> BlockReader:
        """A connection of its own."""
        return _SnapshotReader(self._ebs.plane.channel(), self._snapshot, self._ebs.pace)

    def close(self) -> None:
        """Close what the readers share."""
        self._ebs.plane.close()


def _chained(first: list[Json], pages: Iterator[list[Json]]) -> Iterator[Json]:
    yield from first
    for page in pages:
        yield from page


def _changed(rows: Iterator[Json]) -> Iterator[Piece]:
    for row in rows:
        token = row.get("SecondBlockToken")
        yield Piece(int(row["BlockIndex"]), str(token or ""), gone=token is None)


def _pages(site: Site, operation: str, given: Json, member: str) -> Iterator[list[Json]]:
    """The rows of each page, in order. When a page token has expired the listing goes on behind the last block."""
    following = 0
    while True:
        begun = following
        try:
            for page in site.pages("ebs", operation, {**given, "StartingBlockIndex": begun}):
                rows = [dict(row) for row in page.get(member) or [] if row["BlockIndex"] >= following]
                if rows:
                    following = int(rows[-1]["BlockIndex"]) + 1
                yield rows
        except CloudError as error:
            if error.kind is not FailureClass.INVALID or following == begun:
                raise
        else:
            return


class _SnapshotReader:
    def __init__(self, channel: BlockChannel, snapshot: str, pace: Pace) -> None:
        self._channel = channel
        self._snapshot = snapshot
        self._pace = pace

    def read(self, piece: Piece, into: bytearray) -> bytes:
        view = memoryview(into)
        return self._pace.run(lambda: self._channel.get(self._snapshot, piece.index, piece.token, view))

    def close(self) -> None:
        self._channel.close()


@dataclass(frozen=True, slots=True)
class NewSnapshot:
    """The snapshot to be made. `parent` is the id of one on the same site whose blocks it begins with; `source` goes
    into its tags, beside `tags`.
    """

    description: str = ""
    parent: str | None = None
    source: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


class SnapshotSink:
    """A snapshot that is begun, written and completed; `name` says which once it was begun."""

    blank = True

    def __init__(self, ebs: Ebs, wanted: NewSnapshot) -> None:
        self.name = f"snapshot@{ebs.site.name}"
        self.pace: Pace | None = ebs.pace
        self._ebs = ebs
        self._wanted = wanted
        self._snapshot = ""

    def held(self) -> BlockMap | None:
        """A new snapshot holds nothing; with a parent, what the base says."""
        return None

    def check(self, base: BlockMap) -> None:
        """The parent must have exactly the blocks the base has, as far as its listing shows: each block of the base."""
        parent = self._wanted.parent
        if parent is None:
            raise DrpilotError(
                "base-mismatch",
                target=self.name,
                what="the base names no snapshot there, and no --parent was given",
            )
        present = bytearray(base.count + 1)
        for page in _pages(self._ebs.site, "ListSnapshotBlocks", {"SnapshotId": parent}, "Blocks"):
            for row in page:
                present[min(int(row["BlockIndex"]), base.count)] = 1
        missing = next((index for index in base.stored() if not present[index]), None)
        if missing is not None or present[base.count]:
            what = "it is larger" if missing is None else f"block {missing} is not in it"
            raise DrpilotError("base-mismatch", target=f"{parent}@{self._ebs.site.name}", what=what)

    def begin(self, size_bytes: int, token: str, state: Mapping[str, str]) -> dict[str, str]:
        """StartSnapshot with `token`, or the one that was started before."""
        known = state.get("snapshot")
        if known is not None:
            found = self._ebs.described(known)
            if found is None or found["State"] not in ("pending", "completed"):
                raise Gone(f"{known} is {found['State'] if found else 'gone'}")
            self._name(known)
            return dict(state)
        tags = {"drpilot:source": self._wanted.source[-_TAG_CHARACTERS:], **self._wanted.tags}
        given: Json = {
            "VolumeSize": -(-size_bytes // GIB),
            "Timeout": _TIMEOUT_MINUTES,
            "Description": self._wanted.description,
            "Tags": [{"Key": key, "Value": value} for key, value in sorted(tags.items())],
        }
        if self._wanted.parent is not None:
            given["ParentSnapshotId"] = self._wanted.parent
        started = self._ebs.site.call("ebs", "StartSnapshot", given, token=token)
        self._name(str(started["SnapshotId"]))
        return {"snapshot": self._snapshot}

    def _name(self, snapshot: str) -> None:
        self._snapshot = snapshot
        self.name = f"{snapshot}@{self._ebs.site.name}"

    def writer(self) -> BlockWriter:
        """A connection of its own."""
        return _SnapshotWriter(self._ebs.plane.channel(), self._snapshot, self._ebs.pace)

    def sync(self) -> None:
        """A block that was accepted is durable."""

    def finish(self, result: Result) -> dict[str, str]:
        """CompleteSnapshot with the count of blocks and their LINEAR checksum; waits until it is completed."""
        self._ebs.site.call(
            "ebs",
            "CompleteSnapshot",
            {
                "SnapshotId": self._snapshot,
                "ChangedBlocksCount": result.written_count,
                "Checksum": result.block_map.linear(result.written),
                "ChecksumAlgorithm": "SHA256",
                "ChecksumAggregationMethod": "LINEAR",
            },
        )
        self._await(lambda: self._state() == "completed")
        return {"target": self.name, "snapshot": self._snapshot}

    def _state(self) -> str:
        found = self._ebs.described(self._snapshot)
        state = str(found["State"]) if found is not None else "pending"  # it may stay invisible for a moment
        if state == "error":
            raise DrpilotError(
                "snapshot-not-ready", snapshot=self._snapshot, site=self._ebs.site.name, state=state
            )
        return state

    def _await(self, done: Callable[[], bool]) -> None:
        clock, pause_s = self._ebs.clock, _LOOK_S
        end = clock.monotonic() + _COMPLETE_S
        while not done():
            if clock.monotonic() > end:
                raise DrpilotError(
                    "snapshot-not-ready", snapshot=self._snapshot, site=self._ebs.site.name, state="pending"
                )
            clock.sleep(pause_s)
            pause_s = min(_LOOK_MOST_S, pause_s * 1.5)

    def close(self) -> None:
        """Close what the writers share."""
        self._ebs.plane.close()


class _SnapshotWriter:
    def __init__(self, channel: BlockChannel, snapshot: str, pace: Pace) -> None:
        self._channel = channel
        self._snapshot = snapshot
        self._pace = pace

    def write(self, index: int, data: memoryview, sha256: bytes) -> None:
        self._pace.run(lambda: self._channel.put(self._snapshot, index, data, sha256))

    def clear(self, start: int, stop: int) -> int:
        zeros = memoryview(ZEROS)
        for index in range(start, stop):
            self.write(index, zeros, ZERO_SHA256)
        return stop - start

    def close(self) -> None:
        self._channel.close()
