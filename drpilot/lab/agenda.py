"""What happens in a cloud by itself: timers that are due, hooks that look regularly, copies that travel.

Timers are rows, so they outlive the process. One that talks to another site (a courier) runs without the
cloud's lock and is taken off the list only afterwards: a lab killed meanwhile runs it again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from drpilot.lab.registry import TIMERS
from drpilot.lab.table import Row

if TYPE_CHECKING:
    from drpilot.lab.cloud import Cloud

__all__ = ["Agenda"]


class Agenda:
    """The timers and hooks of one cloud."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.hooks: list[Callable[[], None]] = []
        self.couriers = threading.Lock()
        """Held while couriers run; whoever replaces the whole state takes it first."""
        self._settling = False
        self.closing = threading.Event()
        """Set once the cloud closes, for threads of guests to end."""
        self._ticker: threading.Thread | None = None

    def tick(self) -> None:
        """Run what is due, then the hooks; couriers too where no thread does it."""
        with self._cloud.lock:
            if self._settling or self._cloud.changing:
                return
            self._settling = True
            try:
                self._run_timers()
                for hook in list(self.hooks):
                    self._guard(hook)
                waiting = bool(self._due(locked=False))
            finally:
                self._settling = False
        if waiting and self._ticker is None:
            self._run_couriers()

    def _guard(self, act: Callable[[], None]) -> bool:
        """Run something that nobody called: an error in it must not fail an unrelated call."""
        try:
            with self._cloud.transaction():
                act()
        except Exception:  # noqa: BLE001  nobody else could take it; the control plane shows it
            self._cloud.note_error()
            return False
        return True

    def _due(self, *, locked: bool) -> list[tuple[str, Row]]:
        now = self._cloud.now()
        due = [
            (key, row)
            for key, row in self._cloud.timers().items()
            if row["at"] <= now and TIMERS[row["do"]][1] == locked
        ]
        return sorted(due, key=lambda item: item[1]["at"])

    def _run_timers(self) -> None:
        """Run due timers until none is left: one may set the next."""
        while due := self._due(locked=True):
            for key, row in due:

                def fire(key: str = key, row: Row = row) -> None:
                    self._cloud.table("timers").pop(key)
                    TIMERS[row["do"]][0](self._cloud, row["on"], row["details"])

                if not self._guard(fire):
                    self._strike(key)

    def _strike(self, key: str) -> None:
        with self._cloud.transaction():
            self._cloud.table("timers").pop(key, None)

    def _run_couriers(self) -> None:
        if not self.couriers.acquire(blocking=False):
            return
        try:
            while True:
                with self._cloud.lock:
                    due = self._due(locked=False)
                if not due:
                    return
                for key, row in due:
                    try:
                        TIMERS[row["do"]][0](self._cloud, row["on"], row["details"])
                    except Exception:  # noqa: BLE001  as above
                        self._cloud.note_error()
                    self._strike(key)
        finally:
            self.couriers.release()

    def start(self, interval_s: float) -> None:
        """Start the thread that ticks and carries."""
        if self._ticker is None:
            self.closing.clear()
            self._ticker = threading.Thread(target=self._run, args=(interval_s,), daemon=True)
            self._ticker.start()

    def _run(self, interval_s: float) -> None:
        while not self.closing.wait(interval_s):
            self.tick()
            self._run_couriers()

    def stop(self) -> None:
        """End the thread; a courier on its way gets ten seconds."""
        self.closing.set()
        if self._ticker is not None:
            self._ticker.join(timeout=10)
            self._ticker = None
