"""Virtual time: it moves when somebody sleeps, and what is due happens on the way."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

__all__ = ["SiteClock", "VirtualClock"]

# In the past of any machine that runs this: the lab trusts a file's time stamp only if it is surely over.
START = datetime(2026, 1, 5, 2, 0, tzinfo=UTC)
ENDLESS_S = 14 * 86_400.0


class Endless(BaseException):
    """Virtual time ran out: something waits for ever."""


class VirtualClock:
    """A Clock that moves by as much as somebody sleeps. `at` has things happen meanwhile."""

    def __init__(self) -> None:
        self.start = START
        self.elapsed_s = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.elapsed_s)

    def monotonic(self) -> float:
        return self.elapsed_s

    def sleep(self, seconds: float) -> None:
        end_s = self.elapsed_s + max(0.0, seconds)
        while self._due and self._due[0][0] <= end_s:
            at_s, _, act = self._due.pop(0)
            self.elapsed_s = max(self.elapsed_s, at_s)
            act()
        self.elapsed_s = max(self.elapsed_s, end_s)
        if self.elapsed_s > ENDLESS_S:
            raise Endless

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Have `act` happen `seconds` from now."""
        self._count += 1
        self._due.append((self.elapsed_s + seconds, self._count, act))
        self._due.sort(key=lambda item: item[:2])

    def reset(self, elapsed_s: float) -> None:
        """A new story begins at this second; nothing is due."""
        self.elapsed_s, self._due, self._count = elapsed_s, [], 0


class SiteClock:
    """The clock of one cloud: the common time, off by `skew_s` seconds for people who read it."""

    def __init__(self, time: VirtualClock) -> None:
        self._time = time
        self.skew_s = 0.0

    def now(self) -> datetime:
        return self._time.now() + timedelta(seconds=self.skew_s)

    def monotonic(self) -> float:
        return self._time.monotonic()

    def sleep(self, seconds: float) -> None:
        self._time.sleep(seconds)
