"""The journal on a PostgreSQL server, which several hosts share.

What BEGIN IMMEDIATE gives on SQLite holds here by one advisory lock that every writing transaction takes first. Writers
then follow one another, so each reads what the one before committed, and numbers handed out (an event's id, its place
in a chain, a run's number) are committed in their order: whoever reads "all events after 17" misses none. Row locks
would order the writers of one run only, and isolation level SERIALIZABLE would not order what is committed.

The level must be READ COMMITTED: its snapshot is taken by each statement, hence behind the lock. Under REPEATABLE READ
the statement that waits for the lock would fix a snapshot from before it. Readers take no lock and do use REPEATABLE
READ, read only: all statements of one reading see one state (PostgreSQL manual, "Transaction Isolation").
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Connection, Engine, create_engine, event, literal_column, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, OperationalError

from drpilot.base.errors import DrpilotError
from drpilot.base.retry import Patience

__all__ = ["NOW", "PATIENCE", "connect", "enter", "lock", "lost", "now", "reader", "refusal", "shown"]

PATIENCE = Patience(attempts=500, first_s=0.1, factor=2.0, max_s=2.0, budget_s=120.0)
"""How long a run under way waits for a server that is gone: a restart or a change of its leader, not a night."""

_LOCK = int.from_bytes(b"drpilot", "big")
_KEPT_US = 24 * 3600 * 1_000_000  # batches are looked up within PATIENCE; a day is plenty
_SWEEP = 500  # old batches are removed by every so many writes of a process
_ARGUMENTS = {
    "application_name": "drpilot",
    "connect_timeout": 5,
    # A host that vanished is noticed within about ten seconds, whether bytes are under way or not (tcp(7)).
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_SETTINGS = {
    "lock_timeout": "15s",  # as long as SQLite's busy timeout
    "statement_timeout": "30s",
    # A controller that lost its power in the middle of a transaction must not hold the lock until TCP gives up.
    "idle_in_transaction_session_timeout": "10s",
}
_AWAY = frozenset({"25P03", "57P01", "57P02", "57P03", "57P05", "53300", "40001", "40P01"})
_UNWRITABLE = frozenset({"25006", "53100", "58030"})
_BUSY = frozenset({"55P03", "57014"})
_NO_ANSWER = "08"


def _parsed(url: str) -> URL:
    return make_url(url).set(drivername="postgresql+psycopg")


def shown(url: str) -> str:
    """`url` as it may be printed: no password, and nothing of the query, which may hold another one."""
    bare = make_url(url)
    host = bare.host or str(bare.query.get("host", ""))
    return URL.create(
        "postgresql", bare.username, None, host or None, bare.port, bare.database
    ).render_as_string()


def connect(url: str) -> Engine:
    """An engine on the server; raises `journal-driver` where psycopg is not installed. Nothing is called yet."""
    parsed = _parsed(url)
    arguments = {name: value for name, value in _ARGUMENTS.items() if name not in parsed.query}
    try:
        engine = create_engine(parsed, connect_args=arguments, pool_size=5, max_overflow=15)
    except ImportError as error:
        raise DrpilotError("journal-driver", path=shown(url), why=str(error)) from error
    event.listen(engine, "connect", _set)
    event.listen(engine, "before_cursor_execute", _without_nul, retval=True)
    return engine


def reader(engine: Engine) -> Engine:
    """The same connections for readings: one state for all statements of a transaction."""
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def lock(connection: Connection) -> None:
    """Become the only writer until the transaction ends; waits at most `lock_timeout`."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def enter(connection: Connection, batch: str, number: int) -> bool:
    """Begin a writing transaction as batch `batch`; False where a batch of that id was committed before.

    The answer is final: a COMMIT whose reply was lost still holds the lock until it has ended one way or the other.
    `number` counts the writes of this process.
    """
    fresh = connection.exec_driver_sql(_ENTER, {"key": _LOCK, "id": batch}).first()
    if fresh is not None and number % _SWEEP == 0:
        connection.execute(text("DELETE FROM batch WHERE at < :old"), {"old": fresh[0] - _KEPT_US})
    return fresh is not None


_NOW = "(extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint"
NOW = literal_column(_NOW, BigInteger)
"""`now` as a term of a statement."""

# One statement, hence one way to the server: the lock is taken first, and whether the id is there is asked of the index
# behind it, which knows what was committed meanwhile (PostgreSQL manual, INSERT, "ON CONFLICT", READ COMMITTED).
_ENTER = (
    f"INSERT INTO batch (id, at) SELECT %(id)s, {_NOW} FROM (SELECT pg_advisory_xact_lock(%(key)s)) AS locked"  # noqa: S608 - no input
    " ON CONFLICT DO NOTHING RETURNING at"
)


def now(connection: Connection) -> int:
    """The server's clock in microseconds since 1970: the only clock of leases, whatever the hosts' clocks say."""
    return int(connection.execute(text(f"SELECT {_NOW}")).scalar_one())


def lost(error: BaseException) -> bool:
    """Whether the transaction broke off with the connection or the server, and is worth repeating as a whole."""
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return bool(state.startswith(_NO_ANSWER) or state in _AWAY)
    return error.connection_invalidated or isinstance(error, OperationalError)


def refusal(path: str, error: DBAPIError) -> DrpilotError | None:
    """What the server said, in the catalogue's words; None for what can only be a bug."""
    state = getattr(error.orig, "sqlstate", None) or ""
    what = " ".join(str(error.orig).split())
    if lost(error):
        return DrpilotError("journal-unreachable", path=path, what=what)
    if state in _UNWRITABLE:
        return DrpilotError("journal-unwritable", path=path, what=what)
    if state in _BUSY:
        return DrpilotError("journal-busy", path=path, why=what)
    if state.startswith(("42501", "22021", "28", "3D")):
        return DrpilotError("journal-unreadable", path=path, what=what)
    return None


def _set(connection: Any, _: Any) -> None:
    """The bounds of each session; an intent must survive a power cut, so a commit waits for the disk."""
    with connection.cursor() as cursor:
        for name, value in _SETTINGS.items():
            cursor.execute("SELECT set_config(%s, %s, false)", (name, value))
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )
    connection.commit()


def _without_nul(  # noqa: PLR0913, PLR0917 - the shape of SQLAlchemy's event
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> tuple[str, Any]:
    """PostgreSQL's text can't hold U+0000, which a program's output may: U+FFFD stands in for it."""
    if isinstance(parameters, list):
        return statement, [_clean(each) for each in parameters]
    return statement, _clean(parameters)


def _clean(parameters: Any) -> Any:
    if not isinstance(parameters, dict):
        return parameters
    return {
        key: value.replace("\0", "\ufffd") if isinstance(value, str) else value
        for key, value in parameters.items()
    }
