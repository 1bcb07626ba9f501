"""Retrying one call within seconds, by tenacity on our own clock.

Minutes and hours belong to the journal (a new attempt with `wake_at`); this is for the throttle that passes
while a person breathes in. The bound is always written: attempts and seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from drpilot.base.clock import Chance, Clock

__all__ = ["Patience", "retried"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one call is worth repeating: at most `attempts` tries within `budget_s` seconds."""

    attempts: int = 5
    first_s: float = 0.2
    factor: float = 2.0
    max_s: float = 5.0
    budget_s: float = 20.0

    def wait_s(self, attempt: int, chance: Chance) -> float:
        """Seconds to wait after try number `attempt` (from 1): exponential, full jitter in the upper half."""
        ceiling = min(self.max_s, self.first_s * self.factor ** (attempt - 1))
        return chance.uniform(ceiling / 2, ceiling)


def retried(
    call: Callable[[], T],
    *,
    worth: Callable[[BaseException], bool],
    patience: Patience,
    clock: Clock,
    chance: Chance,
) -> T:
    """Run `call` until it returns, raises something not `worth` repeating, or patience ends; the last error is raised.

    tenacity's own stops read the process clock, so stop and wait are functions over ours.
    """
    started = clock.monotonic()

    def stop(state: tenacity.RetryCallState) -> bool:
        return state.attempt_number >= patience.attempts or clock.monotonic() - started >= patience.budget_s

    def wait(state: tenacity.RetryCallState) -> float:
        return patience.wait_s(state.attempt_number, chance)

    return tenacity.Retrying(
        stop=stop, wait=wait, sleep=clock.sleep, retry=tenacity.retry_if_exception(worth), reraise=True
    )(call)
