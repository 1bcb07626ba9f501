"""Durations and sizes as people write them: `15m`, `1h30m`, `10m05s`, `20GiB`."""

from __future__ import annotations

import math
import re

__all__ = ["ceiling_duration", "format_duration", "format_size", "parse_duration", "parse_size"]

_SECONDS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[dhms])")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB)")
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def parse_duration(text: str) -> float:
    """Seconds in a text such as `15m`, `1h30m`, `90s`, `250ms`; ValueError says what was wanted."""
    position, total_s = 0, 0.0
    cleaned = text.strip().replace(" ", "")
    for match in _PART.finditer(cleaned):
        if match.start() != position:
            break
        total_s += float(match[1]) * _SECONDS[match[2]]
        position = match.end()
    if not cleaned or position != len(cleaned):
        raise ValueError(f"{text!r} is not a duration; write a number with a unit, such as 90s, 15m or 1h30m")
    return total_s


def format_duration(seconds: float) -> str:
    """The two largest units of a duration: `9m41s`, `1h34m`, `8.2s`; below a minute with one decimal."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 59.95:
        text = f"{seconds:.1f}".removesuffix(".0")
        return f"{text}s"
    whole = round(seconds)
    days, rest = divmod(whole, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, left = divmod(rest, 60)
    if days:
        return f"{days}d{hours}h" if hours else f"{days}d"
    if hours:
        return f"{hours}h{minutes:02d}m" if minutes else f"{hours}h"
    return f"{minutes}m{left:02d}s" if left else f"{minutes}m"


def ceiling_duration(seconds: float) -> str:
    """`seconds` as a person types it back: in the units `format_duration` shows, never rounded below the number."""
    unit_s = 1.0 if seconds < 3_600 else 60.0 if seconds < 86_400 else 3_600.0
    return format_duration(math.ceil(seconds / unit_s) * unit_s)


def parse_size(text: str) -> int:
    """Bytes in a text such as `20GiB`; ValueError says what was wanted."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{text!r} is not a size; write a number with B, KiB, MiB, GiB or TiB, such as 20GiB"
        )
    return int(float(match[1]) * _BYTES[match[2]])


def format_size(size_bytes: int) -> str:
    """The largest binary unit that keeps the number at least 1: `12 GiB`, `1.2 TiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes >= _BYTES[unit]:
            return f"{size_bytes / _BYTES[unit]:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size_bytes} B"
