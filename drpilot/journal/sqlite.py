"""The journal in a file: WAL with synchronous=FULL (an intent must survive a power cut), BEGIN IMMEDIATE to write.

With a plain BEGIN, read-then-write transactions of several processes fail at once with "database is locked" whatever
the busy timeout says.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url

from drpilot.base.errors import DrpilotError

__all__ = ["connect", "connect_unchanging", "keep", "path_of", "refusal", "reserve", "settled"]

_BUSY_MS = 15_000


def path_of(url: str) -> Path | None:
    """The file that `url` names; None for a journal in memory."""
    database = make_url(url).database
    return Path(database).expanduser() if database and database != ":memory:" else None


def reserve(path: Path) -> None:
    """Make a new journal readable by its owner only: it holds what machines are launched with.

    A file that is there is never opened here: closing any descriptor of a database drops all POSIX locks this process
    holds on it, under the feet of its own connections (sqlite.org, "How To Corrupt An SQLite Database File", 2.2).
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        with suppress(FileExistsError):  # another process was first
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def settled(path: Path) -> bool:
    """Whether the file alone holds everything: no write-ahead log is left beside it."""
    log = path.with_name(path.name + "-wal")
    try:
        return path.stat().st_size > 0 and (not log.exists() or log.stat().st_size == 0)
    except OSError:
        return False


def connect(url: str) -> Engine:
    """An engine on the file, with its pragmas."""
    arguments = {"timeout": _BUSY_MS / 1000, "check_same_thread": False}
    engine = create_engine(url, connect_args=arguments)
    event.listen(engine, "connect", _pragmas)
    event.listen(engine, "begin", _begin)
    return engine


def connect_unchanging(path: Path) -> Engine:
    """An engine that reads the file and writes nothing at all, not even SQLite's own files."""
    return create_engine(f"sqlite:///file:{path}?immutable=1&uri=true")


def keep(engine: Engine, path: Path, shown: str) -> None:
    """A copy of the whole journal in `path`, written in one piece or not at all; raises `journal-unwritable`."""
    made = path.with_name(f"{path.name}.{os.getpid()}")
    connection = engine.raw_connection()
    try:
        os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        connection.cursor().execute("VACUUM INTO ?", (str(made),))
        os.replace(made, path)
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):
            made.unlink()
        raise DrpilotError("journal-unwritable", path=shown, what=f"{path.name}: {error}") from error
    finally:
        connection.close()


def refusal(shown: str, text: str) -> DrpilotError:
    """What SQLite said, in the catalogue's words."""
    lower = text.lower()
    if any(word in lower for word in ("full", "disk i/o", "readonly", "read-only")):
        return DrpilotError("journal-unwritable", path=shown, what=text)
    if "locked" in lower or "busy" in lower:
        return DrpilotError("journal-busy", path=shown, why=text)
    return DrpilotError("journal-unreadable", path=shown, what=text)


def _pragmas(connection: Any, _: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={_BUSY_MS}", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get("drpilot_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
