"""Values as JSON output carries them: times RFC 3339 in UTC, durations as numbers of seconds, absent as null."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from drpilot.base.clock import rfc3339

__all__ = ["as_json"]


def as_json(value: Any) -> Any:
    """`value` as plain JSON data; a dataclass becomes an object of its fields, in their order."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: as_json(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (frozenset, set)):
        return [as_json(item) for item in sorted(value)]
    if isinstance(value, (tuple, list)):
        return [as_json(item) for item in value]
    if isinstance(value, float):
        return round(value, 3)
    return value
