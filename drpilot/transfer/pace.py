"""How many requests may be under way at one endpoint, and what is tried again.

Concurrency grows by one for each success until the endpoint first throttles (as TCP's slow start), by one a round
trip afterwards, and is halved at most once a round trip when it throttles (additive increase, multiplicative
decrease). The request rate itself is bounded by the token bucket of the site's limits. EBS direct has two throttles:
ThrottlingException is the account's limit, RequestThrottledException the snapshot's; both, and every error above 500,
are tried again (EBS direct APIs reference, error codes).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from drpilot.base.clock import Chance, Clock
from drpilot.base.retry import Patience, retried
from drpilot.domain.ports import CloudError, FailureClass

__all__ = ["Counts", "Pace"]

T = TypeVar("T")

START, MOST = 16, 128
_AGAIN = frozenset({FailureClass.THROTTLED, FailureClass.TRANSIENT, FailureClass.TIMEOUT})
# Limits of one snapshot (EBS direct) or of one prefix of a bucket (S3); every other throttle is the account's.
_OF_ONE = frozenset({"RequestThrottledException", "SlowDown"})
_WAIT_S = 300.0  # for a place; the calls that hold places have timeouts of their own
_MISMATCHES = 3  # a block read wrong this often is wrong in the cloud
PATIENCE = Patience(attempts=9, first_s=0.2, max_s=8.0, budget_s=120.0)


@dataclass(slots=True)
class Counts:
    """What happened at one endpoint."""

    requests: int = 0
    throttled_account: int = 0
    throttled_snapshot: int = 0  # or bucket
    failed: int = 0  # other errors that were tried again
    mismatched: int = 0  # blocks that came with a wrong checksum
    most_at_once: int = 0


class Pace:
    """The pace at one endpoint, shared by all threads that use it. Every call given to `run` may be repeated."""

    def __init__(
        self,
        clock: Clock,
        chance: Chance,
        *,
        most: int = MOST,
        start: int = START,
        patience: Patience = PATIENCE,
    ) -> None:
        self.counts = Counts()
        self._clock = clock
        self._chance = chance
        self._patience = patience
        self._most = max(1, most)
        self._room = threading.Condition()
        self._limit = float(min(start, self._most))
        self._in_flight = 0
        self._round = 0  # rises with each decrease; a throttled call of an older round says nothing new
        self._stopped = False
        self._steady = False  # throttled once: from now on growth is additive

    @property
    def limit(self) -> int:
        """How many calls may be under way now."""
        return int(self._limit)

    def stop(self) -> None:
        """From now on nothing is tried again: whoever copies has given up."""
        self._stopped = True

    def run(self, call: Callable[[], T]) -> T:
        """Make a call that may be repeated, when there is room; raises its last CloudError when patience ends, and a
        block whose bytes do not fit their checksum after three tries.
        """
        mismatches = 0

        def worth(error: BaseException) -> bool:
            nonlocal mismatches
            if not isinstance(error, CloudError) or error.kind not in _AGAIN:
                return False
            mismatches += error.code == "ChecksumMismatch"
            return mismatches < _MISMATCHES and not self._stopped

        return retried(
            lambda: self._once(call),
            worth=worth,
            patience=self._patience,
            clock=self._clock,
            chance=self._chance,
        )

    def _once(self, call: Callable[[], T]) -> T:
        began = self._enter()
        try:
            answer = call()
        except BaseException as error:
            self._leave(began, error)
            raise
        self._leave(began, None)
        return answer

    def _enter(self) -> int:
        with self._room:
            if not self._room.wait_for(lambda: self._in_flight < int(self._limit), timeout=_WAIT_S):
                raise CloudError(
                    FailureClass.TIMEOUT, "Overloaded", f"no place within {_WAIT_S:.0f} s", happened="no"
                )
            self._in_flight += 1
            counts = self.counts
            counts.requests += 1
            counts.most_at_once = max(counts.most_at_once, self._in_flight)
            return self._round

    def _leave(self, began: int, error: BaseException | None) -> None:
        with self._room:
            if error is None:
                if self._in_flight * 2 >= int(self._limit):  # else it is not the limit that holds us back
                    self._limit += 1 / self._limit if self._steady else 1.0
                    self._limit = min(self._limit, float(self._most))
            elif isinstance(error, CloudError):
                self._count(error)
                if error.kind is FailureClass.THROTTLED and began == self._round:
                    self._limit = max(1.0, self._limit / 2)
                    self._round += 1
                    self._steady = True
            self._in_flight -= 1
            self._room.notify()

    def _count(self, error: CloudError) -> None:
        if error.code == "ChecksumMismatch":
            self.counts.mismatched += 1
        elif error.code in _OF_ONE:
            self.counts.throttled_snapshot += 1
        elif error.kind is FailureClass.THROTTLED:
            self.counts.throttled_account += 1
        elif error.kind in _AGAIN:
            self.counts.failed += 1
