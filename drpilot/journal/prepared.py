"""Statements that are compiled once for each kind of database, for the few that every commit of a run makes.

SQLAlchemy's own cache saves compiling, yet finding a statement in it and binding its values costs several times what
SQLite needs to carry it out. Here the text and the order of the values are kept; errors, events and connections stay
SQLAlchemy's. Only for statements whose values are what the driver takes: text, whole numbers, floats, None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, CursorResult, Executable

__all__ = ["Prepared"]


class Prepared:
    """One statement; each of its values is a `bindparam` with a name."""

    def __init__(self, statement: Executable) -> None:
        self._statement: Any = statement
        self._texts: dict[str, tuple[str, Any]] = {}

    def run(self, connection: Connection, given: Mapping[str, Any]) -> CursorResult[Any]:
        """Carry it out with these values."""
        text, order = self._texts.get(connection.dialect.name) or self._compiled(connection)
        return connection.exec_driver_sql(text, order(given) if order else dict(given))

    def run_all(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Carry it out once a row, in their order; nothing for no row."""
        if len(rows) == 1:
            self.run(connection, rows[0])  # a server's driver makes more ways for a batch than for one
        elif rows:
            text, order = self._texts.get(connection.dialect.name) or self._compiled(connection)
            connection.exec_driver_sql(text, [order(row) for row in rows] if order else [*map(dict, rows)])

    def _compiled(self, connection: Connection) -> tuple[str, Any]:
        compiled = self._statement.compile(dialect=connection.dialect)
        fixed = {name: value for name, value in compiled.params.items() if value is not None}
        names = compiled.positiontup
        order = None
        if fixed or names is not None:
            order = _Order(names, fixed)
        self._texts[connection.dialect.name] = found = (str(compiled), order)
        return found


class _Order:
    """A mapping as the driver wants it: a tuple in the order of the statement's marks, or a mapping with all names."""

    def __init__(self, names: Sequence[str] | None, fixed: Mapping[str, Any]) -> None:
        self._fixed = dict(fixed)
        pick = itemgetter(*names) if names is not None else None
        self._pick = (lambda given: (pick(given),)) if pick is not None and len(names or ()) == 1 else pick

    def __call__(self, given: Mapping[str, Any]) -> Any:
        full = {**self._fixed, **given} if self._fixed else given
        return self._pick(full) if self._pick is not None else dict(full)
