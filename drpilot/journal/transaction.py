"""One method, one transaction: the method's body is what `Database.write` or `Database.read` runs, perhaps twice.

A body must therefore be safe to run again from the start: values in, values out, rows in between, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlmodel import Session

from drpilot.journal.database import Database

__all__ = ["reading", "written"]


class _Holds(Protocol):
    database: Database


H = TypeVar("H", bound=_Holds)
P = ParamSpec("P")
T = TypeVar("T")


def written(method: Callable[Concatenate[H, Session, P], T]) -> Callable[Concatenate[H, P], T]:
    """Callers leave the session out: the method runs as one write transaction of its own."""

    @wraps(method)
    def call(self: H, /, *given: P.args, **named: P.kwargs) -> T:
        return self.database.write(lambda session: method(self, session, *given, **named))

    return call


def reading(method: Callable[Concatenate[H, Session, P], T]) -> Callable[Concatenate[H, P], T]:
    """Callers leave the session out: the method reads one consistent state and writes nothing."""

    @wraps(method)
    def call(self: H, /, *given: P.args, **named: P.kwargs) -> T:
        return self.database.read(lambda session: method(self, session, *given, **named))

    return call
