"""Who carries out what a driver begins: threads, or one after the other where time is simulated.

The driver hands work over, waits a bounded time for some of it to end, and leaves the rest under way. Nothing else of
the engine knows of threads, so that a whole run can be driven in one, in virtual time, and replayed from a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol, TypeVar

__all__ = ["Hands", "Hire", "Threads"]

T = TypeVar("T")


class Hands(Protocol):
    """Carries out work beside its owner."""

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Begin `work`, or let it wait until hands are free; gives the promise of its result."""

    def wait(
        self, futures: Collection[Future[Any]], timeout_s: float, *, all_of_them: bool = False
    ) -> set[Future[Any]]:
        """Those that are done once one of them is (or all of them are), after `timeout_s` seconds at the latest."""

    def close(self) -> None:
        """Begin nothing that has not begun yet; what is under way goes on and nobody waits for it."""


Hire = Callable[[int, str], Hands]
"""Gives that many hands, with a name for people who look at threads."""


class Threads:
    """Hands that are threads."""

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=count, thread_name_prefix=name)

    def submit(self, work: Callable[[], T]) -> Future[T]:
        return self._pool.submit(work)

    def wait(
        self, futures: Collection[Future[Any]], timeout_s: float, *, all_of_them: bool = False
    ) -> set[Future[Any]]:
        until = ALL_COMPLETED if all_of_them else FIRST_COMPLETED
        return wait(futures, timeout=timeout_s, return_when=until).done

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
