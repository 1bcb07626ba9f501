"""Bodies: values as canonical JSON text in a column, and back."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from drpilot.base.clock import from_micros, micros
from drpilot.base.ids import canonical
from drpilot.domain.plain import to_plain

__all__ = ["moment", "pack", "pack_value", "stamp", "unpack"]


def pack(value: Any) -> str:
    """Plain data as canonical JSON text."""
    return canonical(value)


def pack_value(value: Any) -> str:
    """A domain value as canonical JSON text."""
    return canonical(to_plain(value))


def unpack(text: str | None) -> Any:
    """The inverse of `pack`; an absent body is an empty mapping."""
    return json.loads(text) if text else {}


def moment(value: int | None) -> datetime | None:
    """Microseconds to a moment, None stays None."""
    return None if value is None else from_micros(value)


def stamp(value: datetime | None) -> int | None:
    """A moment to microseconds, None stays None."""
    return None if value is None else micros(value)
