"""Keeping a bucket in step with another: both listings side by side, and as many copies at once as both sides bear.

Worker threads take the next thing to do from one shared stream: a part of a large object that is under way, else the
next name that differs. Nothing is queued, so memory does not grow with the buckets. About once a second the record
learns what is equal now. What the target alone has is deleted last, only where that was asked for, and only when
everything else went well: a listing that broke off must not look like a bucket that was emptied.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field

from drpilot.base.errors import DrpilotError
from drpilot.domain.objects import Entry
from drpilot.domain.ports import CloudError, FailureClass
from drpilot.transfer.objectcopy import WHOLE_BYTES, Changed, Copied, Courier, Hands, Room, Vanished
from drpilot.transfer.objectlisting import Place, listed
from drpilot.transfer.pairing import Disordered, Known, Pair, Verdict, judged, paired
from drpilot.transfer.syncrecord import SyncRecord
from drpilot.transfer.upload import Upload, abort, begin

__all__ = ["Failed", "SyncOrder", "SyncTally", "sync"]

FLUSH_S = 1.0
_JOIN_S = 150.0
_TRIES = 3  # for an object that changes while it is copied
_SHOWN = 100  # errors and names kept in memory; all are counted
_UNWELL = 20  # errors of the endpoint rather than of an object: from here on it is not worth going on
_ENDPOINT = frozenset({FailureClass.THROTTLED, FailureClass.TRANSIENT, FailureClass.TIMEOUT})
_FINAL = frozenset(
    {"NoSuchBucket", "EndpointConnectionError", "ConnectTimeoutError", "SSLError", "ProxyConnectionError"}
)
_CREDENTIALS = frozenset({"AccessDenied", "403"})  # these are said of an object; every other one of all


@dataclass(frozen=True, slots=True)
class Failed:
    """An object that could not be brought over."""

    key: str
    code: str
    message: str


@dataclass(slots=True)
class SyncTally:
    """What was found and done. Sizes in bytes."""

    looked_at: int = 0
    same: int = 0
    copied: int = 0
    copied_bytes: int = 0
    by_cloud: int = 0
    changed: int = 0  # times an object was another one when it was read
    vanished: int = 0
    surplus: int = 0
    deleted: int = 0
    source_objects: int = 0
    target_objects: int = 0
    tagged: int = 0  # objects copied whose tags stayed behind
    unnamed: int = 0  # an object that would have no name on the other side
    resumed_parts: int = 0
    aborted_uploads: int = 0
    failed: int = 0
    failures: list[Failed] = field(default_factory=list)
    planned: list[str] = field(default_factory=list)  # the first names a dry run would copy
    finished: bool = False


@dataclass(frozen=True, slots=True)
class SyncOrder:
    """What to bring from where to where. `workers` threads, each with a connection to both sides."""

    source: Place
    target: Place
    record: SyncRecord
    workers: int
    delete: bool = False
    dry_run: bool = False
    by_cloud: bool = False
    no_target: bool = False  # there is no bucket to write to yet: for a dry run
    told: Callable[[SyncTally], None] | None = None
    flush_s: float = FLUSH_S


def sync(order: SyncOrder) -> SyncTally:
    """Bring the target to the state of the source, and say what that took. Raises CloudError and DrpilotError where a
    side can't be worked with at all; what befell single objects is in the tally.
    """
    first = _Run(order, spooled=False)
    try:
        return first.carry_out()
    except Disordered:
        return _with_earlier(_Run(order, spooled=True).carry_out(), first.tally)


def _with_earlier(tally: SyncTally, earlier: SyncTally) -> SyncTally:
    """What both tries did: what the first one copied, the second one found to be the same."""
    if not earlier.planned:  # a dry run copied nothing
        tally.same -= earlier.copied
        for name in ("copied", "copied_bytes", "by_cloud", "tagged", "changed", "vanished", "resumed_parts"):
            setattr(tally, name, getattr(tally, name) + getattr(earlier, name))
    return tally


@dataclass(frozen=True, slots=True)
class _Copy:
    entry: Entry
    tries: int = 0


@dataclass(frozen=True, slots=True)
class _Send:
    upload: Upload
    number: int


_Task = _Copy | _Send | str  # a string: the name of what is to be deleted


class _Run:
    """One try of a sync."""

    def __init__(self, order: SyncOrder, *, spooled: bool) -> None:
        self._order = order
        self._spooled = spooled
        self._courier = Courier(order.source, order.target, by_cloud=order.by_cloud)
        self._in_parts = "s3:multipart" in order.target.site.capabilities
        self._room = Room()
        self.tally = SyncTally()
        self._tasks: Iterator[_Task] = iter(())
        self._again: deque[_Copy] = deque()
        self._uploads: deque[Upload] = deque()
        self._busy = 0  # workers that may still find more to do
        self._turn = threading.Condition()
        self._stopped = False
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._equal: list[Known] = []
        self._forgotten: list[str] = []
        self._gone: list[str] = []
        self._surplus: list[str] = []
        self._news = threading.Event()
        self._unwell = 0

    def carry_out(self) -> SyncTally:
        order, tally = self._order, self.tally
        order.record.begin()
        self._work_off(self._differences())
        if order.dry_run:
            return self._done()
        order.record.forget_gone()
        if not tally.failed:
            for left in order.record.left_underway():
                tally.aborted_uploads += abort(self._courier, order.record, left)
        if order.delete and tally.surplus and not tally.failed:
            if not tally.source_objects:
                raise DrpilotError("source-empty", source=order.source.name, target=order.target.name)
            self._work_off(order.record.surplus())
        return self._done()

    def _done(self) -> SyncTally:
        self.tally.finished = True
        if self._order.told is not None:
            self._order.told(self.tally)
        return self.tally

    # -- what there is to do ------------------------------------------------------------------------------

    def _listing(self, place: Place, side: str) -> Generator[Entry, None, None]:
        if place is self._order.target and self._order.no_target:
            return _nothing()
        rows = listed(place)
        return self._order.record.spooled(side, rows) if self._spooled else rows

    def _differences(self) -> Generator[_Task, None, None]:
        order, tally = self._order, self.tally
        source, target = self._listing(order.source, "source"), self._listing(order.target, "target")
        with closing(source), closing(target):
            for pair in paired(source, target, order.record.known()):
                tally.looked_at += 1
                tally.source_objects += pair.source is not None
                tally.target_objects += pair.target is not None
                verdict = judged(pair)
                if verdict is Verdict.SAME:
                    tally.same += 1
                elif verdict is Verdict.COPY:
                    yield from self._wanted(pair)
                else:
                    self._without_source(pair.key, there=verdict is Verdict.SURPLUS)

    def _without_source(self, key: str, *, there: bool) -> None:
        with self._lock:
            self.tally.surplus += there
            if there and self._order.delete:
                self._surplus.append(key)
            if not there:
                self._gone.append(key)

    def _wanted(self, pair: Pair) -> Iterator[_Task]:
        entry, tally = pair.source, self.tally
        if entry is None:
            return
        if not self._order.target.object(
            entry.key
        ).key:  # the folder's own marker, and the target has no folder
            tally.unnamed += 1
        elif self._order.dry_run:
            tally.copied += 1
            tally.copied_bytes += entry.size_bytes
            if len(tally.planned) < _SHOWN:
                tally.planned.append(entry.key)
        else:
            yield _Copy(entry)

    def _take(self) -> _Task | None:
        """The next thing to do; waits while somebody else may still find more; None at the end. Whoever takes
        something says `_gave` when it is done.
        """
        with self._turn:
            while not self._stopped:
                task = self._next()
                if task is not None:
                    self._busy += 1
                    return task
                if not self._busy:
                    break
                self._turn.wait(1.0)
            self._turn.notify_all()
            return None

    def _next(self) -> _Task | None:
        while self._uploads:
            upload = self._uploads[0]
            number = upload.take()
            if number is not None:
                return _Send(upload, number)
            self._uploads.popleft()
        if self._again:
            return self._again.popleft()
        return next(self._tasks, None)

    def _gave(self) -> None:
        with self._turn:
            self._busy -= 1
            if self._uploads or self._again or not self._busy:
                self._turn.notify_all()

    # -- the workers --------------------------------------------------------------------------------------

    def _work_off(self, tasks: Generator[_Task, None, None]) -> None:
        """Do all of `tasks`; raises the first error that is not one object's, after the record was written."""
        order = self._order
        self._tasks = tasks
        self._threads = []
        self._grow()
        try:
            while any(thread.is_alive() for thread in self._threads):
                self._news.wait(order.flush_s)
                self._news.clear()
                self._flush()
        finally:
            if any(thread.is_alive() for thread in self._threads):  # somebody interrupted us
                self._give_up(None)
            for thread in self._threads:
                thread.join(_JOIN_S)
            with suppress(ValueError):  # a thread that does not end is still in it
                tasks.close()
            self._flush()
        if self._error is not None:
            raise self._error

    def _grow(self) -> None:
        """One more worker, while there is more to do than there are: a sync that finds nothing needs one."""
        with self._lock:
            if len(self._threads) < self._order.workers and not self._stopped:
                name = f"drpilot-sync-{len(self._threads)}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _work(self) -> None:
        hands: Hands | None = None
        try:
            hands = Hands(self._order.source, self._order.target, self._room)
            while (task := self._take()) is not None:
                self._grow()
                try:
                    self._do(task, hands)
                finally:
                    self._gave()
        except BaseException as error:  # noqa: BLE001 - the thread's edge: the first error ends the sync and is raised there
            self._give_up(error)
        finally:
            if hands is not None:
                hands.close()
            self._news.set()

    def _give_up(self, error: BaseException | None) -> None:
        with self._turn:
            self._error = self._error or error
            self._stopped = True
            self._turn.notify_all()
        if not isinstance(error, Disordered):  # after that one all begins anew
            for place in (self._order.source, self._order.target):
                place.pace.stop()

    def _do(self, task: _Task, hands: Hands) -> None:
        key = task if isinstance(task, str) else _entry_of(task).key
        try:
            if isinstance(task, str):
                self._delete(task, hands)
            elif isinstance(task, _Send):
                self._send(task, hands)
            else:
                self._copy(task, hands)
        except Vanished:
            if isinstance(task, _Send) and not task.upload.failed(Vanished(key)):
                return
            with self._lock:
                self.tally.vanished += 1
        except CloudError as error:
            self._note(key, error)

    def _copy(self, task: _Copy, hands: Hands) -> None:
        entry = task.entry
        try:
            within = self._courier.within(hands, entry)
            if within is not None:
                self._copied(within)
            elif entry.size_bytes <= WHOLE_BYTES:
                self._copied(self._courier.whole(hands, entry))
            elif not self._in_parts:
                self._copied(self._courier.streamed(hands, entry))
            else:
                self._begun(begin(self._courier, hands, self._order.record, entry), task.tries)
        except Changed as changed:
            self._once_more(changed.entry, task.tries)

    def _begun(self, upload: Upload | Copied, tries: int) -> None:
        """An upload whose parts all threads may send from now on."""
        if isinstance(upload, Copied):
            self._copied(upload)
            return
        upload.tries = tries
        with self._turn:
            self.tally.resumed_parts += upload.resumed
            if not upload.complete:
                self._uploads.append(upload)
                self._turn.notify_all()
        if upload.complete:
            self._copied(upload.finish(self._courier, self._order.record))

    def _send(self, task: _Send, hands: Hands) -> None:
        upload = task.upload
        try:
            if upload.send(self._courier, hands, task.number):
                self._copied(upload.finish(self._courier, self._order.record))
        except Changed as changed:
            if upload.failed(changed):
                self._once_more(changed.entry, upload.tries)
        except CloudError as error:
            if upload.failed(error):
                raise

    def _once_more(self, entry: Entry, tries: int) -> None:
        """An object that is another one now: copy that, unless it goes on changing."""
        with self._lock:
            self.tally.changed += 1
        if tries + 1 >= _TRIES:
            message = f"it changed {_TRIES} times while it was copied"
            site, operation = self._order.source.site.name, "s3:GetObject"
            kind = FailureClass.CONFLICT
            raise CloudError(kind, "Changing", message, happened="no", site=site, operation=operation)
        with self._turn:
            self._again.append(_Copy(entry, tries + 1))
            self._turn.notify_all()

    def _delete(self, key: str, hands: Hands) -> None:
        target = self._order.target
        target.pace.run(lambda: hands.target.delete(target.object(key)))
        with self._lock:
            self.tally.deleted += 1
            self._forgotten.append(key)

    def _copied(self, copied: Copied) -> None:
        with self._lock:
            tally = self.tally
            tally.copied += 1
            tally.copied_bytes += copied.known.size_bytes
            tally.by_cloud += copied.by_cloud
            tally.tagged += copied.tags > 0
            self._equal.append(copied.known)

    def _note(self, key: str, error: CloudError) -> None:
        """An error of one object is counted, one of a whole side ends the sync."""
        final = error.kind is FailureClass.AUTH and error.code not in _CREDENTIALS
        with self._lock:
            self._unwell += error.kind in _ENDPOINT and error.code != "ChecksumMismatch"
            if final or error.code in _FINAL or self._unwell >= _UNWELL:
                raise error
            self.tally.failed += 1
            if len(self.tally.failures) < _SHOWN:
                self.tally.failures.append(Failed(key, error.code, error.message))

    def _flush(self) -> None:
        """Let the record know what is equal now."""
        with self._lock:
            equal, self._equal = self._equal, []
            forgotten, self._forgotten = self._forgotten, []
            gone, self._gone = self._gone, []
            surplus, self._surplus = self._surplus, []
        record = self._order.record
        if not self._order.dry_run:
            if equal:
                record.equal(equal)
            if forgotten:
                record.forget(forgotten)
            if gone:
                record.found_gone(gone)
            if surplus:
                record.found_surplus(surplus)
        if self._order.told is not None:
            self._order.told(self.tally)


def _nothing() -> Generator[Entry, None, None]:
    yield from ()


def _entry_of(task: _Copy | _Send) -> Entry:
    return task.entry if isinstance(task, _Copy) else task.upload.entry
