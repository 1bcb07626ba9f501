"""Values to plain JSON and back: frozen dataclasses inside, mappings at rest."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import TypeAdapter

__all__ = ["Json", "from_plain", "to_plain"]

Json = dict[str, Any]
T = TypeVar("T")


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}  # building one costs a millisecond, there are a dozen


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def to_plain(value: Any) -> Any:
    """`value` (a dataclass, or a tuple of them) as JSON-able data; times as RFC 3339 text."""
    return _adapter(type(value)).dump_python(value, mode="json")


def from_plain(kind: type[T], data: Any) -> T:
    """The inverse of `to_plain`; raises pydantic's ValidationError on data of another shape."""
    value: T = _adapter(kind).validate_python(data)
    return value
