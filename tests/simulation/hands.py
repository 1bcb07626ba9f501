"""Hands without threads: what was begun is carried out when its owner waits, in an order drawn from the seed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any, TypeVar

from drpilot.base.clock import Chance, Clock

__all__ = ["Inline"]

T = TypeVar("T")


class Inline:
    """Hands of one thread. `watch` is told what is carried out, and says whether the process still lives.

    When they are closed some of what was begun and not waited for is carried out all the same, as threads would.
    """

    def __init__(self, clock: Clock, chance: Chance, watch: Any) -> None:
        self._clock, self._chance, self._watch = clock, chance, watch
        self._begun: dict[Future[Any], Callable[[], Any]] = {}

    def submit(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._begun[future] = work
        return future

    def wait(
        self, futures: Collection[Future[Any]], timeout_s: float, *, all_of_them: bool = False
    ) -> set[Future[Any]]:
        """One more is carried out (or all are); time moves as far as their calls take."""
        open_ = [future for future in futures if not future.done()]
        done = [future for future in futures if future.done()]
        while open_ and (all_of_them or not done):
            future = open_.pop(self._chance.bits(16) % len(open_))
            self._carry_out(future)
            done.append(future)
        if not done:
            self._clock.sleep(timeout_s)
        return set(done)

    def close(self) -> None:
        for future in list(self._begun):
            if self._watch.alive and self._chance.bits(1):
                self._carry_out(future)
            else:
                future.cancel()
        self._begun.clear()

    def _carry_out(self, future: Future[Any]) -> None:
        work = self._begun.pop(future)
        try:
            with self._watch.working(work):
                future.set_result(work())
        except Exception as error:  # noqa: BLE001 - as an executor does
            future.set_exception(error)
