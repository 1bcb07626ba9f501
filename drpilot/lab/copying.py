"""Copies of rows and parameters, so that what leaves the lock can't change any more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["copied", "shown", "texts"]


def copied(value: Any) -> Any:
    """A deep copy of what JSON can hold."""
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    if isinstance(value, list):
        return [copied(part) for part in value]
    return value


def shown(value: Any) -> Any:
    """Parameters as the list of calls keeps them: bytes only by their number."""
    if isinstance(value, Mapping):
        return {key: shown(part) for key, part in value.items()}
    if isinstance(value, list):
        return [shown(part) for part in value]
    if isinstance(value, bytes | bytearray):
        return {"bytes": len(value)}
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def texts(value: Any) -> Iterator[str]:
    """Every string in parameters, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part)
