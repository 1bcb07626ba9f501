"""Rows in memory that know which of them may have changed.

Handlers change rows in place, however deep. A table remembers every row it handed out; at the end of a
transaction only those are compared with what the disk has. `peek` hands out rows without remembering them,
for reading loops over many.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from drpilot.lab.store import Store

__all__ = ["Row", "Table", "Tables"]

Row = dict[str, Any]


class Table(MutableMapping[str, Row]):
    """Rows by id, in the order of creation."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[str, Row] = {}
        self.touched: set[str] = set()

    def __getitem__(self, row_id: str) -> Row:
        row = self.rows[row_id]
        self.touched.add(row_id)
        return row

    def __setitem__(self, row_id: str, row: Row) -> None:
        self.rows[row_id] = row
        self.touched.add(row_id)

    def __delitem__(self, row_id: str) -> None:
        del self.rows[row_id]
        self.touched.add(row_id)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, row_id: object) -> bool:
        return row_id in self.rows

    def peek(self) -> Mapping[str, Row]:
        """The rows for reading only: a change made through this is lost."""
        return self.rows


class Tables:
    """All tables of one cloud, kept equal to the store's rows."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tables: dict[str, Table] = {}
        self._kept: dict[tuple[str, str], str] = {}
        self.load()

    def table(self, name: str) -> Table:
        """The table `name`, made empty at its first use; the object stays the same for ever."""
        found = self._tables.get(name)
        if found is None:
            found = self._tables[name] = Table(name)
        return found

    def load(self) -> None:
        """Read everything from the store again."""
        for table in self._tables.values():
            table.rows = {}
            table.touched.clear()
        self._kept.clear()
        for name, row_id, text in self._store.rows():
            self._kept[name, row_id] = text
            self.table(name).rows[row_id] = json.loads(text)

    def flush(self) -> list[tuple[str, str]]:
        """Write what changed, in one commit; gives the (table, id) of the rows that are new."""
        changes: list[tuple[str, str, str | None]] = []
        fresh = []
        for table in self._tables.values():
            if not table.touched:
                continue
            # In the order of the table, because the store keeps the order of insertion.
            touched = table.touched if len(table.touched) == 1 else _in_order(table)
            for row_id in touched:
                key = (table.name, row_id)
                row = table.rows.get(row_id)
                text = None if row is None else json.dumps(row, separators=(",", ":"))
                if text != self._kept.get(key):
                    changes.append((table.name, row_id, text))
                    if key not in self._kept:
                        fresh.append(key)
        if changes or self._store.changing:
            self._store.write(changes)
        for name, row_id, text in changes:
            if text is None:
                self._kept.pop((name, row_id), None)
            else:
                self._kept[name, row_id] = text
        for table in self._tables.values():
            table.touched.clear()
        return fresh

    def roll_back(self) -> None:
        """Put every row that was handed out back to what the store has."""
        for table in self._tables.values():
            for row_id in table.touched:
                text = self._kept.get((table.name, row_id))
                if text is None:
                    table.rows.pop(row_id, None)
                else:
                    table.rows[row_id] = json.loads(text)
            table.touched.clear()
        self._store.roll_back()

    def frozen(self, without: set[tuple[str, str]]) -> dict[str, Table]:
        """A copy of all rows as they were last kept, without some (table, id)."""
        view: dict[str, Table] = {}
        for name, row_id in list(self._kept):
            if (name, row_id) not in without:
                table = view.setdefault(name, Table(name))
                table.rows[row_id] = json.loads(self._kept[name, row_id])
        return view


def _in_order(table: Table) -> list[str]:
    gone = [row_id for row_id in table.touched if row_id not in table.rows]
    if len(table.touched) * 4 < len(table.rows):
        places = {row_id: place for place, row_id in enumerate(table.rows)}
        return gone + sorted(table.touched - set(gone), key=places.__getitem__)
    return gone + [row_id for row_id in table.rows if row_id in table.touched]
