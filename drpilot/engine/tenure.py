"""How long ago a lease was surely kept, and whether a changing call may still leave under it.

The journal is fenced by the term in each write; the cloud can't be. So a call that changes something leaves only while
the lease was kept a moment ago. That costs nothing as long as a driver writes or renews as it should; one that stood
still renews first, and whose run was taken over meanwhile sends nothing more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from drpilot.base.clock import Clock
from drpilot.domain.run import Change, Lease
from drpilot.journal.journal import LEASE_S, Journal, Superseded
from drpilot.journal.views import News

__all__ = ["FRESH_S", "Tenure"]

T = TypeVar("T")

FRESH_S = LEASE_S / 2
"""A lease kept this many seconds ago needs no question: a living driver renews each 5 s, and as long again is left."""


class Tenure:
    """One driver's lease with the moment from which it counts. Safe to share between threads.

    `since` is read before the write that keeps the lease, so that the lease ends no earlier than is reckoned here. Two
    clocks are asked: the monotonic one of a machine that was put to sleep stands still, the other one is set right.
    """

    def __init__(self, journal: Journal, lease: Lease, clock: Clock, since: tuple[float, datetime]) -> None:
        self.lease = lease
        self._journal, self._clock, self._since = journal, clock, since
        self._lock = threading.Lock()
        self._lost: Superseded | None = None

    @staticmethod
    def moment(clock: Clock) -> tuple[float, datetime]:
        """Now, by both clocks."""
        return clock.monotonic(), clock.now()

    def commit(self, changes: Sequence[Change]) -> News:
        """Write changes of the run, and what a view of it then lacks; raises Superseded."""
        return self._keep(lambda: self._journal.commit(self.lease, changes))

    def renew(self) -> None:
        """Keep the lease; raises Superseded."""
        self._keep(lambda: self._journal.renew(self.lease))

    def checkpoint(self, path: str, number: int, state: dict[str, Any]) -> None:
        """Store an attempt's progress; raises Superseded."""
        self._keep(lambda: self._journal.checkpoint(self.lease, path, number, state))

    def permit(self) -> None:
        """Return if a changing call may leave now. Raises Superseded where another drives the run, DrpilotError where
        the journal can't be asked.
        """
        if self._lost is None and self._fresh():
            return
        with self._lock:  # of many threads that find the lease old, one renews it
            if self._lost is not None:
                raise self._lost
            if not self._fresh():
                self.renew()

    def _keep(self, write: Callable[[], T]) -> T:
        since = self.moment(self._clock)
        try:
            written = write()
        except Superseded as error:
            self._lost = error
            raise
        self._since = max(since, self._since)
        return written

    def _fresh(self) -> bool:
        monotonic, now = self.moment(self._clock)
        return (
            monotonic - self._since[0] <= FRESH_S and abs((now - self._since[1]).total_seconds()) <= FRESH_S
        )
