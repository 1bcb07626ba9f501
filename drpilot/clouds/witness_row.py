"""The witness as a row of a PostgreSQL database, changed only where it still is what was read.

The table is made by a person, so that a wrong database is never taken for a witness that holds nothing:
`CREATE TABLE drpilot_witness (name text PRIMARY KEY, version text NOT NULL, claim text NOT NULL)`. One connection a
question, each bounded: a witness is asked a few times in a move, and must not hang one.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from drpilot.base.ids import digest
from drpilot.clouds.witness import Place, read_claim, settled, written
from drpilot.domain.fence import Claim
from drpilot.domain.ports import CloudError, FailureClass

__all__ = ["TABLE", "RowWitness"]

TABLE = "CREATE TABLE drpilot_witness (name text PRIMARY KEY, version text NOT NULL, claim text NOT NULL)"
_REFUSED = frozenset({"RowChanged"})
_READ = "SELECT claim, version FROM drpilot_witness WHERE name = %s"
_INSERT = "INSERT INTO drpilot_witness (name, version, claim) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
_UPDATE = "UPDATE drpilot_witness SET version = %s, claim = %s WHERE name = %s AND version = %s"
_CONNECTION = {
    "application_name": "drpilot",
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "options": "-c statement_timeout=5000 -c lock_timeout=5000 -c synchronous_commit=on",
}
_KINDS = {
    "28": FailureClass.AUTH,
    "42501": FailureClass.AUTH,
    "3D": FailureClass.INVALID,
    "42P01": FailureClass.INVALID,
    "57014": FailureClass.TIMEOUT,
    "55P03": FailureClass.TIMEOUT,
}


class RowWitness:
    """The witness as rows behind a URL of PostgreSQL. Raises CloudError where the server fails."""

    def __init__(self, url: str) -> None:
        self._url = url
        where = urlsplit(url)
        self._shown = f"{where.hostname or 'localhost'}{where.path}"

    def read(self, group: str) -> tuple[Claim | None, str]:
        """The claim and its version; (None, "") where none was written yet."""
        row, _ = self._run("Read", _READ, (group,))
        if row is None:
            return None, ""
        place = Place(f"row {group} of drpilot_witness in {self._shown}", "witness", "postgresql:Read")
        return read_claim(group, row[0], place), str(row[1])

    def write(self, claim: Claim, *, replaces: str) -> str:
        """Write `claim` if the row still has version `replaces` (empty: does not exist); gives the new version.

        Raises Stale when another claim is there.
        """
        return settled(self, claim, replaces, lambda: self._put(claim, replaces), _REFUSED)

    def _put(self, claim: Claim, replaces: str) -> str:
        text = written(claim)
        version = digest([replaces, text])[:32]  # of what it replaces too: an old version never comes back
        if replaces:
            _, count = self._run("Write", _UPDATE, (version, text, claim.group, replaces))
        else:
            _, count = self._run("Write", _INSERT, (claim.group, version, text))
        if count != 1:
            raise self._error(FailureClass.PRECONDITION, "RowChanged", "another version is there", "Write")
        return version

    def _run(self, name: str, statement: str, values: tuple[str, ...]) -> tuple[Any, int]:
        """The first row and how many were changed; a write is committed when this returns."""
        try:
            import psycopg  # noqa: PLC0415 - an extra: only who has such a witness needs it
        except ImportError as error:
            text = f"psycopg is missing ({error}); install drpilot[postgres]"
            raise self._error(FailureClass.INVALID, "NoDriver", text, name) from None
        try:
            connection = psycopg.connect(self._url, **_CONNECTION)  # type: ignore[arg-type]
        except psycopg.Error as error:
            raise self._refused(error, name, sent=False) from error
        try:
            with connection:
                cursor = connection.execute(statement, values)
                row = cursor.fetchone() if name == "Read" else None
                count = cursor.rowcount
        except psycopg.Error as error:
            raise self._refused(error, name, sent=name == "Write") from error
        return row, count

    def _refused(self, error: Any, name: str, *, sent: bool) -> CloudError:
        """What the server said. A statement it refused had no effect; a connection that broke says nothing."""
        state = str(getattr(error, "sqlstate", None) or "")
        text = " ".join(str(error).split())
        if state == "42P01":
            text = f"{text}; make it once: {TABLE}"
        kind = next((kind for start, kind in _KINDS.items() if state.startswith(start)), None)
        told = bool(state) and not state.startswith(("08", "57P"))
        if kind is None:
            kind = FailureClass.TRANSIENT if not told else FailureClass.REJECTED
        code = state or "ConnectionRefusedError"  # the word for what can't be reached
        return self._error(kind, code, text, name, unknown=sent and not told)

    def _error(
        self, kind: FailureClass, code: str, text: str, name: str, *, unknown: bool = False
    ) -> CloudError:
        happened = "unknown" if unknown else "no"
        return CloudError(
            kind,
            code,
            f"{self._shown}: {text}",
            happened=happened,  # type: ignore[arg-type]
            site="witness",
            operation=f"postgresql:{name}",
        )
