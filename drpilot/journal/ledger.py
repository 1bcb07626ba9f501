"""The rows of a run's steps and attempts while one transaction changes them: read once and written once.

What a step costs is decided here. Only the steps that a transaction touches are read, all in one statement, and what
became of them is written in one statement a table, however many steps a commit carries. Rows are plain records, not
objects of the ORM: a run of a thousand steps writes some ten thousand of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

from sqlalchemy import Connection, Table, and_, bindparam, insert, select, update

from drpilot.base.errors import invariant
from drpilot.journal.prepared import Prepared
from drpilot.journal.tables import metadata

__all__ = ["AttemptRecord", "Ledger", "StepRecord"]


@dataclass(slots=True)
class StepRecord:
    """The columns of one row of `step`."""

    run: str
    path: str
    position: int
    state: str
    round: int
    tries: int
    polls: int
    looks: int
    attempt: int
    wake_at: int | None
    looked_at: int | None
    started_at: int | None
    ended_at: int | None
    output: str | None
    failure: str | None
    undo: str | None
    progress: float | None
    note: str


@dataclass(slots=True)
class AttemptRecord:
    """The columns of one row of `attempt`."""

    run: str
    path: str
    number: int
    round: int
    kind: str
    token: str
    action: str
    given: str
    state: str
    term: int
    intended_at: int
    ended_at: int | None = None
    failure: str | None = None
    checkpoint: str | None = None


_STEP, _ATTEMPT = metadata.tables["step"], metadata.tables["attempt"]
_STEP_NAMES = tuple(each.name for each in fields(StepRecord))
_ATTEMPT_NAMES = tuple(each.name for each in fields(AttemptRecord))
_WIDTH = len(_STEP_NAMES)
_AT_ONCE = 256  # paths in one statement: SQLite and PostgreSQL both bound the variables of one

# Steps with their newest attempts: what a step's next change depends on.
_READ = (
    select(*(_STEP.c[name] for name in _STEP_NAMES), *(_ATTEMPT.c[name] for name in _ATTEMPT_NAMES))
    .select_from(
        _STEP.outerjoin(
            _ATTEMPT,
            and_(
                _ATTEMPT.c.run == _STEP.c.run,
                _ATTEMPT.c.path == _STEP.c.path,
                _ATTEMPT.c.number == _STEP.c.attempt,
            ),
        )
    )
    .where(_STEP.c.run == bindparam("of_run"))
    .order_by(_STEP.c.position)
)
_READ_ALL = Prepared(_READ)


@cache
def _read_some(count: int) -> Prepared:
    return Prepared(_READ.where(_STEP.c.path.in_([bindparam(f"path_{number}") for number in range(count)])))


def _writes(table: Table, names: tuple[str, ...], keys: tuple[str, ...]) -> Prepared:
    same = [table.c[key] == bindparam(f"key_{key}") for key in keys]
    return Prepared(update(table).where(*same).values({name: bindparam(name) for name in names}))


_STEP_KEYS, _ATTEMPT_KEYS = ("run", "path"), ("run", "path", "number")
_CHANGING = tuple(name for name in _STEP_NAMES if name not in (*_STEP_KEYS, "position"))
_WRITE_STEPS = _writes(_STEP, _CHANGING, _STEP_KEYS)
_WRITE_ATTEMPTS = _writes(_ATTEMPT, ("state", "ended_at", "failure"), _ATTEMPT_KEYS)
_ADD_ATTEMPTS = Prepared(insert(_ATTEMPT).values({name: bindparam(name) for name in _ATTEMPT_NAMES}))


def _values(
    record: StepRecord | AttemptRecord, keys: tuple[str, ...], names: tuple[str, ...]
) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in names}
    return values | {f"key_{key}": getattr(record, key) for key in keys}


def read(connection: Connection, run: str) -> list[tuple[StepRecord, AttemptRecord | None]]:
    """Every step of a run with its newest attempt, in the order of the plan."""
    return [_pair(row) for row in _READ_ALL.run(connection, {"of_run": run})]


def _pair(row: Any) -> tuple[StepRecord, AttemptRecord | None]:
    step = StepRecord(*row[:_WIDTH])
    return step, AttemptRecord(*row[_WIDTH:]) if row[_WIDTH] is not None else None


@dataclass(slots=True)
class Ledger:
    """The steps of `run` that one transaction touches. `write` is the last thing it does with them."""

    connection: Connection
    run: str
    steps: dict[str, StepRecord] = field(default_factory=dict)
    attempts: dict[str, AttemptRecord] = field(default_factory=dict)  # the newest of each step
    _fresh: dict[tuple[str, int], AttemptRecord] = field(default_factory=dict)
    _known: dict[tuple[str, int], AttemptRecord] = field(default_factory=dict)

    def load(self, paths: Iterable[str]) -> None:
        """Read these steps, those that were read before aside."""
        wanted = [path for path in dict.fromkeys(paths) if path not in self.steps]
        for first in range(0, len(wanted), _AT_ONCE):
            some = wanted[first : first + _AT_ONCE]
            count = (
                1 << (len(some) - 1).bit_length()
            )  # few statements, each for many lengths: the last path fills up
            given = {f"path_{number}": some[min(number, len(some) - 1)] for number in range(count)}
            for row in _read_some(count).run(self.connection, {"of_run": self.run, **given}):
                step, attempt = _pair(row)
                self.steps[step.path] = step
                if attempt is not None:
                    self.attempts[step.path] = attempt

    def step(self, path: str) -> StepRecord:
        """The step at `path`, to be changed in place."""
        if path not in self.steps:
            self.load((path,))
        invariant(path in self.steps, f"run {self.run} has no step {path}")
        return self.steps[path]

    def begin(self, attempt: AttemptRecord) -> None:
        """A new attempt of a step."""
        self.attempts[attempt.path] = attempt
        self._fresh[attempt.path, attempt.number] = attempt

    def ended(self, attempt: AttemptRecord) -> None:
        """An attempt whose state was changed."""
        key = (attempt.path, attempt.number)
        if key not in self._fresh:
            self._known[key] = attempt

    def seen(self) -> tuple[tuple[StepRecord, AttemptRecord | None], ...]:
        """The steps as they now stand, with their newest attempts."""
        return tuple((step, self.attempts.get(path)) for path, step in self.steps.items())

    def write(self) -> None:
        """Write what was changed."""
        steps = [_values(step, _STEP_KEYS, _CHANGING) for step in self.steps.values()]
        _WRITE_STEPS.run_all(self.connection, steps)
        known = [
            _values(one, _ATTEMPT_KEYS, ("state", "ended_at", "failure")) for one in self._known.values()
        ]
        _WRITE_ATTEMPTS.run_all(self.connection, known)
        fresh = [_values(one, (), _ATTEMPT_NAMES) for one in self._fresh.values()]
        _ADD_ATTEMPTS.run_all(self.connection, fresh)
        self._fresh, self._known = {}, {}
