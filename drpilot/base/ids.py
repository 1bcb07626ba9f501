"""Ids, digests and idempotency tokens.

`token` is pure: the same run, step, round, class and input always give the same token, so that a controller
that lost its memory can still find what an earlier one created.
"""

from __future__ import annotations

import hashlib
import json
from datetime import date, datetime
from enum import Enum
from typing import Any

from drpilot.base.clock import Chance, Clock, micros, rfc3339

__all__ = ["canonical", "chained", "digest", "new_id", "token"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32, lower case: no i, l, o, u


def new_id(clock: Clock, chance: Chance) -> str:
    """A 20-character id that sorts by creation time: 10 characters of milliseconds, 10 of chance."""
    value = (micros(clock.now()) // 1000) << 50 | chance.bits(50)
    characters = []
    for _ in range(20):
        characters.append(_ALPHABET[value & 31])
        value >>= 5
    return "".join(reversed(characters))


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} has no canonical form")


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: one text for one value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)


def digest(value: Any) -> str:
    """SHA-256 of the canonical form, 64 hex digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def chained(previous: str, value: Any) -> str:
    """The hash of an event: SHA-256 over the hash before it and its own canonical form (64 hex digits)."""
    return hashlib.sha256(f"{previous}\n{canonical(value)}".encode()).hexdigest()


def token(run: str, path: str, round_: int, attempt_class: str, given: Any) -> str:
    """The idempotency token of an attempt: 32 hex digits, which fits every ClientToken of EC2 (<= 64).

    `round_` rises only after a definite failure or a person's retry; `attempt_class` is `do` or `undo`.
    """
    return digest([run, path, round_, attempt_class, given])[:32]
