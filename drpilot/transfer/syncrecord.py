"""Our own record of two places that are kept in step: which objects were equal under which ETags, what is under way.

A SQLite file for each pair of places, whichever of them is the source now: after a failover the way back begins with
what the way there knew. It replaces a HEAD for each object, and is no truth of its own: lost, everything whose ETags
do not say that it is equal is copied once more. Rows of `upload` are written before an upload begins, so that one that
kill -9 left behind is found again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from drpilot.base.errors import DrpilotError
from drpilot.base.ids import digest
from drpilot.domain.objects import Entry
from drpilot.domain.plain import Json
from drpilot.transfer.pairing import Known

__all__ = ["SyncRecord", "Underway", "last_receipt", "record_path"]

_PAGE_ROWS = 2000
_TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS same (
  key TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, first_etag TEXT NOT NULL, second_etag TEXT NOT NULL,
  first_version TEXT NOT NULL, second_version TEXT NOT NULL, md5 BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS upload (
  target TEXT NOT NULL, key TEXT NOT NULL, upload TEXT NOT NULL, etag TEXT NOT NULL, size_bytes INTEGER NOT NULL,
  part_bytes INTEGER NOT NULL, wanted TEXT NOT NULL, PRIMARY KEY (target, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS receipt (body TEXT NOT NULL);
CREATE TEMP TABLE surplus (key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TEMP TABLE gone (key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TEMP TABLE spool (
  side TEXT NOT NULL, key TEXT NOT NULL, size_bytes INTEGER NOT NULL, etag TEXT NOT NULL, PRIMARY KEY (side, key)
) WITHOUT ROWID;
"""

_AS_IS = """
SELECT key, size_bytes, first_etag, second_etag, first_version, second_version, md5
FROM same WHERE key >= ? ORDER BY key LIMIT ?
"""
_SWAPPED = """
SELECT key, size_bytes, second_etag, first_etag, second_version, first_version, md5
FROM same WHERE key >= ? ORDER BY key LIMIT ?
"""
_SPOOL = "SELECT key, size_bytes, etag FROM spool WHERE side = ? AND key >= ? ORDER BY key LIMIT ?"


@dataclass(frozen=True, slots=True)
class Underway:
    """An upload that was begun, `upload` is empty where only the intent is known. `etag` is the source's; `wanted` is
    the ETag the whole gets, once all parts are there.
    """

    key: str
    upload: str
    etag: str
    size_bytes: int
    part_bytes: int
    wanted: str = ""


def record_path(folder: Path, source: str, target: str) -> Path:
    """Where the record of a pair lies, whichever of the two is the source."""
    return folder / f"bucket-{digest(sorted((source, target)))[:32]}.db"


def last_receipt(folder: Path, source: str, target: str) -> Json | None:
    """What `SyncRecord.sign` kept of the last whole sync from `source` to `target`, also while another one is at it;
    None where there is none, or none that can be read.
    """
    path = record_path(folder, source, target)
    if not path.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10.0)) as database:
            return next((one for one in _receipts(database) if one.get("target") == target), None)
    except sqlite3.Error:
        return None


def _receipts(database: sqlite3.Connection) -> list[Json]:
    """One for each direction that was synced."""
    return [dict(json.loads(body)) for (body,) in database.execute("SELECT body FROM receipt")]


class SyncRecord:
    """The record of one pair, held by one process: raises DrpilotError `copy-busy` where another holds it and
    `sync-record` where it can't be read. Safe to share between threads.
    """

    def __init__(self, folder: Path, source: str, target: str) -> None:
        self._swapped = source > target
        self._target = target
        self.path = record_path(folder, source, target)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._held = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._held)
            raise DrpilotError("copy-busy", what=f"{source} → {target}") from None
        self._lock = threading.RLock()
        try:
            self._database = sqlite3.connect(self.path, timeout=10.0, check_same_thread=False)
            with self._told():
                self._database.executescript(_TABLES)
        except BaseException:
            os.close(self._held)
            raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[sqlite3.Connection]:
        """The connection, one thread at a time; what it says is a person's error."""
        with self._lock:
            try:
                yield self._database
                self._database.commit()
            except sqlite3.Error as error:
                raise DrpilotError("sync-record", path=str(self.path), what=str(error)) from error

    # -- what is equal ------------------------------------------------------------------------------------

    def known(self) -> Iterator[Known]:
        """All that was equal, in the order of the keys, a page at a time: rows may be written meanwhile."""
        for row in self._paged(_SWAPPED if self._swapped else _AS_IS, ()):
            yield Known(*row)

    def _paged(self, query: str, given: tuple[str, ...]) -> Generator[Any, None, None]:
        """The rows of `query`, whose last two parameters are the least key and how many; the key comes first."""
        least, more = "", True
        while more:
            with self._told() as database:
                rows = database.execute(query, (*given, least, _PAGE_ROWS)).fetchall()
            yield from rows
            more = len(rows) == _PAGE_ROWS
            least = f"{rows[-1][0]}\0" if rows else ""  # the least key that is greater

    def equal(self, rows: Iterable[Known]) -> None:
        """Note that these are equal now."""
        columns = ["source_etag", "target_etag", "source_version", "target_version"]
        if self._swapped:
            columns = ["target_etag", "source_etag", "target_version", "source_version"]
        values = [
            (one.key, one.size_bytes, *(getattr(one, name) for name in columns), one.md5) for one in rows
        ]
        with self._told() as database:
            database.executemany("INSERT OR REPLACE INTO same VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def forget(self, keys: Iterable[str]) -> None:
        """These were deleted from the target."""
        with self._told() as database:
            database.executemany("DELETE FROM same WHERE key = ?", [(key,) for key in keys])

    def found_gone(self, keys: Iterable[str]) -> None:
        """Note names that neither listing has so far. They are forgotten by `forget_gone` only: in a listing that turns
        out not to be in order, a name that seems to be missing may still come.
        """
        with self._told() as database:
            database.executemany("INSERT OR IGNORE INTO gone VALUES (?)", [(key,) for key in keys])

    def forget_gone(self) -> None:
        """Both listings were read to their ends, in order: what was noted is on neither side any more."""
        with self._told() as database:
            database.execute("DELETE FROM same WHERE key IN (SELECT key FROM gone)")
            database.execute("DELETE FROM gone")

    # -- what the target alone has ------------------------------------------------------------------------

    def surplus(self) -> Generator[str, None, None]:
        """The names noted by `found_surplus`, in order."""
        for (key,) in self._paged("SELECT key FROM surplus WHERE key >= ? ORDER BY key LIMIT ?", ()):
            yield key

    def begin(self) -> None:
        """A run begins: nothing is surplus or gone yet."""
        with self._told() as database:
            database.execute("DELETE FROM surplus")
            database.execute("DELETE FROM gone")

    def found_surplus(self, keys: Iterable[str]) -> None:
        """Note names that the target alone has, for this run."""
        with self._told() as database:
            database.executemany("INSERT OR IGNORE INTO surplus VALUES (?)", [(key,) for key in keys])

    # -- listings that come out of order ------------------------------------------------------------------

    def spooled(self, side: str, entries: Iterable[Entry]) -> Generator[Entry, None, None]:
        """The whole of a listing in the order of its names, by way of a table on disk."""
        batch: list[tuple[str, str, int, str]] = []
        insert = "INSERT OR REPLACE INTO spool VALUES (?, ?, ?, ?)"
        with self._told() as database:
            database.execute("DELETE FROM spool WHERE side = ?", (side,))
            for entry in entries:
                batch.append((side, entry.key, entry.size_bytes, entry.etag))
                if len(batch) >= _PAGE_ROWS:
                    database.executemany(insert, batch)
                    batch.clear()
            database.executemany(insert, batch)
        for row in self._paged(_SPOOL, (side,)):
            yield Entry(*row)

    # -- uploads under way --------------------------------------------------------------------------------

    def underway(self, key: str) -> Underway | None:
        """The upload of `key` into this target that was begun and not ended."""
        with self._told() as database:
            row = database.execute(
                "SELECT key, upload, etag, size_bytes, part_bytes, wanted FROM upload WHERE target = ? AND key = ?",
                (self._target, key),
            ).fetchone()
        return Underway(*row) if row is not None else None

    def left_underway(self) -> list[Underway]:
        """All uploads into this target that were begun and not ended."""
        with self._told() as database:
            rows = database.execute(
                "SELECT key, upload, etag, size_bytes, part_bytes, wanted FROM upload WHERE target = ? ORDER BY key",
                (self._target,),
            ).fetchall()
        return [Underway(*row) for row in rows]

    def begun(self, upload: Underway) -> None:
        """Note an upload, or that it is about to begin."""
        with self._told() as database:
            row = (self._target, *astuple(upload))
            database.execute("INSERT OR REPLACE INTO upload VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def ended(self, key: str) -> None:
        """The upload of `key` is complete or aborted."""
        with self._told() as database:
            database.execute("DELETE FROM upload WHERE target = ? AND key = ?", (self._target, key))

    # -- what was done ------------------------------------------------------------------------------------

    def sign(self, receipt: Json) -> None:
        """Keep what the last whole sync into this target was, instead of the one before."""
        with self._told() as database:
            others = [one for one in _receipts(database) if one.get("target") not in (None, self._target)]
            database.execute("DELETE FROM receipt")
            kept = [*others, {**receipt, "target": self._target}]
            database.executemany("INSERT INTO receipt VALUES (?)", [(json.dumps(one),) for one in kept])

    def close(self) -> None:
        """Let go of it."""
        if self._held >= 0:
            self._database.close()
            os.close(self._held)
            self._held = -1
