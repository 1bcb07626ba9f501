"""Copying blocks from any source to any sink, incrementally where there is a base, and going on after kill -9.

Worker threads take the next piece from one shared listing, read it, compare it with the base and write it, each with
one buffer; there is no queue to overflow. As many work as the paces of source and sink allow. About once a second the
sink makes durable what was written, and only then the ledger says that it is finished.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from drpilot.base.errors import DrpilotError, invariant
from drpilot.domain.ports import CloudError
from drpilot.formats.blockmap import BLOCK_BYTES, ZERO_SHA256, BlockMap
from drpilot.transfer.block import (
    ZEROS,
    BlockReader,
    BlockSink,
    BlockSource,
    BlockWriter,
    Gone,
    Listing,
    Piece,
    Result,
)
from drpilot.transfer.ledger import Head, Ledger, Record

__all__ = ["Copied", "Order", "Tally", "copy"]

FLUSH_S = 1.0
_JOIN_S = 150.0
_GAP_BLOCKS = 2048  # what nothing is known of is cleared in ranges of 1 GiB


@dataclass(slots=True)
class Tally:
    """Blocks of a copy, counted."""

    total: int | None = None
    seen: int = 0  # pieces dealt with, in this and in earlier tries
    resumed: int = 0  # finished by an earlier try
    unchanged: int = 0  # as the base has them
    zeros: int = 0
    written: int = 0
    written_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Order:
    """What to copy. `base` is the map of what the target holds already; `head` names the copy in the ledger."""

    source: BlockSource
    sink: BlockSink
    ledger: Ledger
    head: Head
    base: BlockMap | None = None
    told: Callable[[Tally], None] | None = None
    flush_s: float = FLUSH_S


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy that is complete: the map of the target now, what was done, and the sink's facts."""

    block_map: BlockMap
    tally: Tally
    facts: dict[str, str] = field(default_factory=dict)


def copy(order: Order) -> Copied:
    """Carry out an order, from the beginning or from where its ledger stands. Raises CloudError, DrpilotError; what was
    finished by then is in the ledger.
    """
    ledger, sink = order.ledger, order.sink
    if ledger.head is None or not ledger.head.same_copy(order.head):
        ledger.begin(order.head)
    elif ledger.state:
        try:
            sink.begin(order.source.size_bytes, ledger.head.token, ledger.state)
        except Gone:
            ledger.begin(order.head)
    if not ledger.state:
        head = ledger.head
        invariant(head is not None, "a ledger without a head was begun")
        assert head is not None
        ledger.keep(sink.begin(order.source.size_bytes, head.token, {}))
    run = _Run(order)
    run.carry_out()
    facts = sink.finish(run.result())
    run.block_map.facts.update({"source": order.source.name, **facts})
    return Copied(run.block_map, run.tally, facts)


class _Run:
    """One try of a copy."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._count = -(-order.source.size_bytes // BLOCK_BYTES)
        self.block_map = BlockMap(order.source.size_bytes)
        self._done = bytearray(self._count)
        self._written = bytearray(self._count)
        self.tally = Tally()
        self._feed_lock = threading.Lock()
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._stopped = False
        self._resumed = False
        self._error: BaseException | None = None
        self._pending: list[Record] = []
        self._threads: list[threading.Thread] = []
        self._listing = Listing(iter(()))
        self._tasks: Iterator[Piece | range] = iter(())

    def result(self) -> Result:
        """What the sink seals."""
        written = (index for index in range(self._count) if self._written[index])
        return Result(self.block_map, written, sum(self._written))

    def carry_out(self) -> None:
        """Do all that is left; raises the first error, after what was finished is in the ledger."""
        order = self._order
        self._listing = order.source.list(order.base)
        if self._listing.partial and order.base is not None:
            self.block_map.digests[:] = order.base.digests.ljust(len(self.block_map.digests), b"\0")
        self.tally.total = self._listing.total
        for record in order.ledger.records():
            self._note(record)
            self._resumed = True
        self._tasks = self._all_tasks()
        try:
            self._grow()
            while any(thread.is_alive() for thread in self._threads):
                self._news.wait(order.flush_s)
                self._news.clear()
                self._flush()
        finally:
            self._stopped = True
            if any(thread.is_alive() for thread in self._threads):  # somebody interrupted us
                self._give_up()
            for thread in self._threads:
                thread.join(_JOIN_S)
            self._flush()
        if self._error is not None:
            raise self._error

    # -- what there is to do ------------------------------------------------------------------------------

    def _all_tasks(self) -> Iterator[Piece | range]:
        """The pieces, and between them the gaps that must read as zeros in the target."""
        following = 0
        for piece in self._listing.pieces:
            invariant(
                following <= piece.index < self._count, f"block {piece.index} out of order or beyond the end"
            )
            yield from self._gaps(following, piece.index)
            yield piece
            following = piece.index + 1
        yield from self._gaps(following, self._count)

    def _gaps(self, start: int, stop: int) -> Iterator[Piece | range]:
        """What must be made zeros between two pieces: what the target holds there, and what nothing is known of."""
        order, known = self._order, self._known()
        if not self._listing.partial:
            for index in range(start, min(stop, known) if not self._resumed else stop):
                if self._held(index) is not None:
                    yield Piece(index, gone=True)
        if not order.sink.blank:
            for first in range(max(start, known), stop, _GAP_BLOCKS):
                yield range(first, min(first + _GAP_BLOCKS, stop))

    def _known(self) -> int:
        """The blocks below this one are known by the base."""
        return self._order.base.count if self._order.base is not None else 0

    def _held(self, index: int) -> bytes | None:
        """The digest of what the target holds now; None for zeros or where it isn't known."""
        if self._done[index]:
            return self.block_map[index]
        return self._order.base[index] if self._order.base is not None else None

    def _take(self) -> Piece | range | None:
        with self._feed_lock:
            if self._stopped:
                return None
            return next(self._tasks, None)

    # -- the workers --------------------------------------------------------------------------------------

    def _wanted(self) -> int:
        """How many workers the paces allow; without a network, as many as there are processors."""
        paces = [pace for pace in (self._order.source.pace, self._order.sink.pace) if pace is not None]
        return max((pace.limit for pace in paces), default=os.cpu_count() or 1)

    def _grow(self) -> None:
        with self._lock:
            while len(self._threads) < self._wanted() and not self._stopped:
                name = f"drpilot-blocks-{len(self._threads)}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _work(self) -> None:
        order, buffer = self._order, bytearray(BLOCK_BYTES)
        reader: BlockReader | None = None
        writer: BlockWriter | None = None
        try:
            reader, writer = order.source.reader(), order.sink.writer()
            while (task := self._take()) is not None:
                if isinstance(task, range):
                    writer.clear(task.start, task.stop)
                else:
                    self._carry(task, reader, writer, buffer)
                if len(self._threads) < self._wanted():
                    self._grow()
        except BaseException as error:  # noqa: BLE001 - the thread's edge: the first error ends the copy and is raised there
            with self._lock:
                self._error = self._error or error
            self._give_up()
        finally:
            for each in (reader, writer):
                if each is not None:
                    each.close()
            self._news.set()

    def _give_up(self) -> None:
        self._stopped = True
        for pace in (self._order.source.pace, self._order.sink.pace):
            if pace is not None:
                pace.stop()

    def _carry(self, piece: Piece, reader: BlockReader, writer: BlockWriter, own: bytearray) -> None:
        """One block from the source to the target, where it is not there yet."""
        order, index, done = self._order, piece.index, bool(self._done[piece.index])
        if done and order.source.steady:
            with self._lock:
                self.tally.seen += 1
                self.tally.resumed += 1
            return
        buffer = own if piece.data is None else piece.data
        digest, held = self._digest(piece, reader, buffer), self._held(index)
        same = digest == held and (done or index < self._known() or order.sink.blank)
        written = False
        if same:
            pass
        elif digest is not None:
            writer.write(index, memoryview(buffer), digest)
            written = True
        else:
            written = writer.clear(index, index + 1) > 0
        record = Record(index, digest, written or bool(self._written[index]))
        with self._lock:
            self._note(record)
            self._pending.append(record)
            self.tally.seen += 1
            self.tally.resumed += done and same
            self.tally.unchanged += same and not done and held is not None
            self.tally.zeros += digest is None
            self.tally.written += written
            self.tally.written_bytes += BLOCK_BYTES if written else 0

    def _digest(self, piece: Piece, reader: BlockReader, buffer: bytearray) -> bytes | None:
        """The SHA-256 of a piece whose bytes are in `buffer` now; None for zeros."""
        if piece.gone:
            return None
        digest = None
        if piece.data is None:
            try:
                digest = reader.read(piece, buffer)
            except CloudError as error:
                if error.code == "ChecksumMismatch":
                    raise DrpilotError(
                        "block-corrupt", name=self._order.source.name, index=piece.index, why=error.message
                    ) from error
                raise
        if digest is None and buffer != ZEROS:
            digest = hashlib.sha256(buffer).digest()
        return None if digest == ZERO_SHA256 else digest

    def _note(self, record: Record) -> None:
        self.block_map[record.index] = record.digest
        self._done[record.index] = 1
        self._written[record.index] = record.written

    def _flush(self) -> None:
        """Make durable what was finished since the last time, the target's side first."""
        with self._lock:
            pending, self._pending = self._pending, []
        if pending:
            self._order.sink.sync()
            self._order.ledger.finished(pending)
        if self._order.told is not None:
            self._order.told(self.tally)
