"""Retrying one call within seconds, by tenacity on our own clock.

Minutes and hours belong to the journal (a new attempt with `wake_at`); this is for the throttle that passes
while a person breathes in. The bound is always written: attempts and seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

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

    A call that is answered at once, nearly every one, does not even load tenacity, whose stops would read the process
    clock: stop and wait are functions over ours.
    """
    started = clock.monotonic()

    def over(tries: int) -> bool:
        return tries >= patience.attempts or clock.monotonic() - started >= patience.budget_s

    try:
        return call()
    except BaseException as error:
        if not worth(error) or over(1):
            raise
    clock.sleep(patience.wait_s(1, chance))

    import tenacity  # noqa: PLC0415 - it costs a tenth of a second, and is needed when something went wrong

    return tenacity.Retrying(
        stop=lambda state: over(state.attempt_number + 1),
        wait=lambda state: patience.wait_s(state.attempt_number + 1, chance),
        sleep=clock.sleep,
        retry=tenacity.retry_if_exception(worth),
        reraise=True,
    )(call)
