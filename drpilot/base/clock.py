"""The only source of time, sleeping and randomness.

Everything above takes a `Clock` (and, where chance is needed, a `Chance`) as a value, so that a run can be
simulated in virtual time and replayed from a seed. ruff's banned-api rule keeps `time` and `random` out of
every other module.
"""

from __future__ import annotations

import random
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

__all__ = ["Chance", "Clock", "ManualClock", "RealClock", "from_micros", "micros", "parse_time", "rfc3339"]


class Clock(Protocol):
    """Time as drpilot sees it."""

    def now(self) -> datetime:
        """The present moment, aware, in UTC."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary origin that never run backwards."""

    def sleep(self, seconds: float) -> None:
        """Let `seconds` (>= 0) pass."""


class RealClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds))


class ManualClock:
    """A clock that moves only when told, or by as much as somebody sleeps; safe to share between threads."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed_s = 0.0
        self._lock = threading.Lock()

    def now(self) -> datetime:
        with self._lock:
            return self._start + timedelta(seconds=self._elapsed_s)

    def monotonic(self) -> float:
        with self._lock:
            return self._elapsed_s

    def sleep(self, seconds: float) -> None:
        self.advance(max(0.0, seconds))

    def advance(self, seconds: float) -> None:
        """Move time forward by `seconds`."""
        with self._lock:
            self._elapsed_s += seconds


class Chance:
    """Randomness from a seed, or from the system where no seed is given; used for jitter and fresh ids."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed) if seed is not None else random.SystemRandom()

    def uniform(self, low: float, high: float) -> float:
        """A number between `low` and `high`."""
        return self._random.uniform(low, high)

    def bits(self, count: int) -> int:
        """A whole number of `count` random bits."""
        return self._random.getrandbits(count)


def micros(moment: datetime) -> int:
    """`moment` (aware) as whole microseconds since 1970 in UTC: the journal's form of time."""
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def from_micros(value: int) -> datetime:
    """The inverse of `micros`."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value)


def rfc3339(moment: datetime) -> str:
    """`moment` as RFC 3339 in UTC with `Z` and milliseconds, as JSON output and tags carry it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    """Read RFC 3339; a time without an offset is refused with ValueError because it could mean two moments."""
    moment = datetime.fromisoformat(text.strip())
    if moment.tzinfo is None:
        raise ValueError(f"time {text!r} has no offset: write 2026-11-22T03:05:00Z or +01:00")
    return moment.astimezone(UTC)
