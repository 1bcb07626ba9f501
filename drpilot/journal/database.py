"""Opening the journal's database, bringing it up to date, and running transactions on it.

A file of SQLite or a PostgreSQL server, told apart by the URL; what each needs lies in `sqlite` and `postgres`. Every
way a disk or a server says no comes out as a row of the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import Session

from drpilot.base.clock import Chance, Clock, RealClock, micros
from drpilot.base.errors import DrpilotError
from drpilot.base.ids import new_id
from drpilot.base.log import logger
from drpilot.base.retry import Patience, retried
from drpilot.domain.plain import from_plain
from drpilot.domain.run import Holder
from drpilot.journal import chain, postgres, sqlite
from drpilot.journal.body import unpack
from drpilot.journal.holder import SERVICE_S, is_gone
from drpilot.journal.tables import SCHEMA

__all__ = ["Database", "migrations_folder"]

T = TypeVar("T")


def migrations_folder() -> Path:
    """Where alembic's scripts lie: inside the wheel, or at the top of the source tree."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_migrations", package.parent / "migrations"):
        if (folder / "env.py").exists():
            return folder
    raise DrpilotError("bug", what="the migrations are missing from this installation")


@dataclass(slots=True)
class _Batch:
    """One write over all its tries: its id, and what the last try would have returned."""

    id: str
    value: Any = None


class Database:
    """One journal database, checked and migrated on opening.

    `patience` is how long a transaction waits for a server that went away; opening one does not wait.
    """

    def __init__(self, url: str, patience: Patience = postgres.PATIENCE) -> None:
        self.url = url
        self.patience = patience
        self.sqlite = make_url(url).get_backend_name() == "sqlite"
        self.shown = (make_url(url).database or "") if self.sqlite else postgres.shown(url)
        self._clock, self._chance, self._writes = RealClock(), Chance(), count(1)
        path = sqlite.path_of(url) if self.sqlite else None
        try:
            if path is not None:
                sqlite.reserve(path)
        except OSError as error:
            raise DrpilotError("journal-unreadable", path=self.shown, what=str(error)) from error
        try:
            self._open(sqlite.connect(url) if self.sqlite else postgres.connect(url))
        except DrpilotError as error:
            if error.word != "journal-unwritable" or path is None or not sqlite.settled(path):
                raise
            # a full disk must not hide what is known: it can still be read
            self._open(sqlite.connect_unchanging(path))

    def _open(self, engine: Engine) -> None:
        self.engine = engine
        try:
            with self.refusals():
                self._upgrade()
        except BaseException:
            engine.dispose()
            raise

    @property
    def _reader(self) -> Engine:
        if self.sqlite:
            return self.engine.execution_options(drpilot_reads=True)
        return postgres.reader(self.engine)

    def _upgrade(self) -> None:
        with self._reader.connect() as connection:
            found = _revision(connection)
        if found == SCHEMA[-1]:
            return
        if found is not None and found not in SCHEMA:
            raise DrpilotError("journal-newer", path=self.shown, found=found, known=SCHEMA[-1])
        path = sqlite.path_of(self.url) if self.sqlite else None
        if found is not None and path is not None:
            sqlite.keep(self.engine, path.with_name(f"{path.name}.before-{SCHEMA[-1]}"), self.shown)
        from alembic import command  # noqa: PLC0415 - only a new or old journal pays for this import
        from alembic.config import Config  # noqa: PLC0415

        configuration = Config()
        configuration.set_main_option("script_location", str(migrations_folder()))
        configuration.attributes |= {"engine": self.engine, "guard": self._unused}
        command.upgrade(configuration, "head")

    def _unused(self, connection: Connection) -> None:
        """Refuse to change tables under a program that works with them; raises `journal-in-use`.

        Called inside the migration's own transaction, so nobody can begin in between.
        """
        if not self.sqlite:
            postgres.lock(connection)
        if not inspect(connection).has_table("run"):
            return
        now = micros(self._clock.now()) if self.sqlite else postgres.now(connection)
        query = text(
            "SELECT holder FROM run WHERE live = 1 AND lease_until > :now"
            " UNION SELECT holder FROM service WHERE heartbeat_at > :beat"
        )
        beat = now - round(SERVICE_S * 1_000_000)
        for (body,) in connection.execute(query, {"now": now, "beat": beat}):
            holder = from_plain(Holder, unpack(body)) if body else None
            if holder is not None and not is_gone(holder):
                raise DrpilotError("journal-in-use", path=self.shown, by=holder.text, to=SCHEMA[-1])

    # -- transactions ---------------------------------------------------------------------------------------

    def write(self, work: Callable[[Session], T]) -> T:
        """What `work` returns, run as one write transaction: committed as a whole or not at all, and once.

        On a server the transaction is repeated when the connection is lost, so `work` may run more than once. Where the
        connection is lost in the COMMIT itself, the batch's own row says what became of it.
        """
        if self.sqlite:
            with self.refusals(), Session(self.engine, expire_on_commit=False) as session:
                value = work(session)
                chain.write(session)
                session.commit()
                return value
        batch = _Batch(new_id(self._clock, self._chance))
        number = next(self._writes)

        def apply() -> T:
            with Session(self.engine, expire_on_commit=False) as session:
                if postgres.enter(session.connection(), batch.id, number):
                    batch.value = work(session)
                    chain.write(session)
                    session.commit()
                done: T = batch.value
                return done

        return self._patiently(apply)

    def read(self, work: Callable[[Session], T]) -> T:
        """What `work` returns from one consistent reading; takes no write lock."""

        def look() -> T:
            with Session(self._reader, expire_on_commit=False) as session:
                return work(session)

        if self.sqlite:
            with self.refusals():
                return look()
        return self._patiently(look)

    def now(self, session: Session, clock: Clock) -> int:
        """The time that leases are measured by, in microseconds: the server's where there is one, else `clock`'s."""
        return micros(clock.now()) if self.sqlite else postgres.now(session.connection())

    def _patiently(self, transaction: Callable[[], T]) -> T:
        """Repeat a transaction that broke off with its connection, until the server is back or patience ends."""
        told = False

        def worth(error: BaseException) -> bool:
            nonlocal told
            away = postgres.lost(error)
            if away and not told:
                told = True
                logger("journal").warning("journal_away", path=self.shown, waits_s=self.patience.budget_s)
            return away

        with self.refusals():
            return retried(
                transaction, worth=worth, patience=self.patience, clock=self._clock, chance=self._chance
            )

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Turn the database's own errors into the catalogue's."""
        try:
            yield
        except PoolTimeout as error:
            raise DrpilotError("journal-busy", path=self.shown, why="all connections are in use") from error
        except DBAPIError as error:
            refused = self._refusal(error)
            if refused is None:
                raise
            raise refused from error

    def _refusal(self, error: DBAPIError) -> DrpilotError | None:
        if not self.sqlite:
            return postgres.refusal(self.shown, error)
        said = str(error.orig)
        if isinstance(error, OperationalError) or "file is not a database" in said:
            return sqlite.refusal(self.shown, said)
        return None

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
    return None if row is None else str(row[0])
