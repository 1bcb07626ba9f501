"""Opening the journal's database: pragmas, migrations, and every way a disk or a server says no.

SQLite runs in WAL with synchronous=FULL (an intent must survive a power cut) and BEGIN IMMEDIATE for each write:
with a plain BEGIN, read-then-write transactions of several processes fail at once with "database is locked"
whatever the busy timeout says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlmodel import Session

from drpilot.base.errors import DrpilotError
from drpilot.journal.tables import SCHEMA

__all__ = ["Database", "migrations_folder"]

_BUSY_MS = 15_000

T = TypeVar("T")


def migrations_folder() -> Path:
    """Where alembic's scripts lie: inside the wheel, or at the top of the source tree."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_migrations", package.parent / "migrations"):
        if (folder / "env.py").exists():
            return folder
    raise DrpilotError("bug", what="the migrations are missing from this installation")


class Database:
    """One journal database, checked and migrated on opening."""

    def __init__(self, url: str) -> None:
        self.url = url
        parsed = make_url(url)
        self.shown = (
            parsed.database
            if parsed.get_backend_name() == "sqlite"
            else parsed.render_as_string(hide_password=True)
        )
        self.sqlite = parsed.get_backend_name() == "sqlite"
        if self.sqlite and parsed.database and parsed.database != ":memory:":
            try:
                Path(parsed.database).expanduser().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                _reserve(Path(parsed.database).expanduser())
            except OSError as error:
                raise DrpilotError("journal-unreadable", path=self.shown, what=str(error)) from error
        try:
            with self.refusals():
                self.engine = self._connect()
                self._upgrade()
        except DrpilotError as error:
            if error.word != "journal-unwritable" or not self._settled():
                raise
            with self.refusals():  # a full disk must not hide what is known: it can still be read
                self.engine = create_engine(f"sqlite:///file:{parsed.database}?immutable=1&uri=true")
                self._upgrade()

    def _settled(self) -> bool:
        """Whether the file alone holds everything: no write-ahead log is left beside it."""
        path = Path(make_url(self.url).database or "")
        log = path.with_name(path.name + "-wal")
        try:
            return self.sqlite and path.stat().st_size > 0 and (not log.exists() or log.stat().st_size == 0)
        except OSError:
            return False

    def _connect(self) -> Engine:
        arguments: dict[str, Any] = (
            {"timeout": _BUSY_MS / 1000, "check_same_thread": False} if self.sqlite else {}
        )
        engine = create_engine(self.url, connect_args=arguments)
        if self.sqlite:
            event.listen(engine, "connect", _pragmas)
            event.listen(engine, "begin", _begin)
        return engine

    def _upgrade(self) -> None:
        with self.engine.execution_options(drpilot_reads=True).connect() as connection:
            found = _revision(connection)
        if found == SCHEMA[-1]:
            return
        if found is not None and found not in SCHEMA:
            raise DrpilotError("journal-newer", path=self.shown, found=found, known=SCHEMA[-1])
        from alembic import command  # noqa: PLC0415 - only a new or old journal pays for this import
        from alembic.config import Config  # noqa: PLC0415

        configuration = Config()
        configuration.set_main_option("script_location", str(migrations_folder()))
        configuration.attributes["engine"] = self.engine
        command.upgrade(configuration, "head")

    def write(self, work: Callable[[Session], T]) -> T:
        """What `work` returns, run as one write transaction: committed as a whole or not at all."""
        with self.refusals(), Session(self.engine, expire_on_commit=False) as session:
            value = work(session)
            session.commit()
            return value

    def read(self, work: Callable[[Session], T]) -> T:
        """What `work` returns from one consistent reading; takes no write lock."""
        reader = self.engine.execution_options(drpilot_reads=True)
        with self.refusals(), Session(reader, expire_on_commit=False) as session:
            return work(session)

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Turn the database's own errors into the catalogue's."""
        try:
            yield
        except OperationalError as error:
            raise self._refusal(str(error.orig)) from error
        except DBAPIError as error:
            if "file is not a database" in str(error.orig):
                raise DrpilotError("journal-unreadable", path=self.shown, what=str(error.orig)) from error
            raise
        except SQLAlchemyError:
            raise

    def _refusal(self, text: str) -> DrpilotError:
        lower = text.lower()
        if any(word in lower for word in ("full", "disk i/o", "readonly", "read-only")):
            return DrpilotError("journal-unwritable", path=self.shown, what=text)
        if "locked" in lower or "busy" in lower:
            return DrpilotError("journal-busy", path=self.shown, why=text)
        return DrpilotError("journal-unreadable", path=self.shown, what=text)

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


def _reserve(path: Path) -> None:
    """Make a new journal readable by its owner only: it holds what machines are launched with.

    A file that is there is never opened here: closing any descriptor of a database drops all POSIX locks this process
    holds on it, under the feet of its own connections (sqlite.org, "How To Corrupt An SQLite Database File", 2.2).
    """
    if not path.exists():
        with suppress(FileExistsError):  # another process was first
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _pragmas(connection: Any, _: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={_BUSY_MS}", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get("drpilot_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
    return None if row is None else str(row[0])
