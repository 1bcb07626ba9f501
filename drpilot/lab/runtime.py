"""What runs beside a cloud's rows: its loopback listeners, target health and guests, kept in memory only.

All of it can be built again from the rows, so a lab that was killed comes back by itself. Modules
contribute endpoints; one hook a tick asks them all and lets the listeners follow. A whole-site outage means
that the site's power is out: its guests and balancers stop listening too, and boot again when it is healed.
"""

from __future__ import annotations

import concurrent.futures
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from drpilot.base.clock import RealClock
from drpilot.lab.cloud import Cloud, resident
from drpilot.lab.loopback import Endpoint, Loopback, Service
from drpilot.lab.reachability import World, look

__all__ = ["Contributor", "Health", "Program", "Runtime", "contributor", "runtime"]

_LEAST_PAUSE_S = 0.05
_SYNCHRONOUS_S = 30.0

Contributor = Callable[[Cloud, "Runtime"], dict[Endpoint, Service]]
_CONTRIBUTORS: list[Contributor] = []


@dataclass(slots=True)
class Health:
    """What the checks have seen of one registered target."""

    since_s: float
    state: str = "initial"
    reason: str = ""
    description: str = ""
    passes: int = 0
    failures: int = 0
    due_s: float = 0.0
    checking: bool = False


class Program(Protocol):
    """A process that plays what runs on a guest."""

    def kill(self) -> None:
        """End it now, as a power cut does."""


class Runtime:
    """The part of a cloud that lives in memory. `world` is replaced, never changed."""

    def __init__(self, name: str, alive: Callable[[], bool]) -> None:
        self._name = name
        self._alive = alive
        self._loopback: Loopback | None = None
        self.health: dict[tuple[str, str, int], Health] = {}
        self.guests: dict[str, Any] = {}
        self.programs: dict[str, Program] = {}
        """Programs that guests run as processes, by instance id."""
        self.world = World()
        self._look: Callable[[], World] | None = None
        self.synchronous = False
        self.turn = 0
        self.last_tick = (-1e9, -1e9)

    def begin(self, look_now: Callable[[], World], *, synchronous: bool) -> None:
        """A tick begins: what was seen of the world is old. `synchronous` makes every effect of the tick
        complete before the tick ends, for clouds whose clock is not the machine's.
        """
        self._look = look_now
        self.synchronous = synchronous

    def fresh_world(self) -> World:
        """The world of this tick, read at its first use; to be asked for under the cloud's lock only."""
        if self._look is not None:
            self.world, self._look = self._look(), None
        return self.world

    def power_off(self) -> None:
        """Forget everything that runs; listeners close."""
        self.health.clear()
        self.guests.clear()
        for instance_id in list(self.programs):
            self.end_program(instance_id)
        if self._loopback is not None:
            self._loopback.want({})

    def end_program(self, instance_id: str) -> None:
        """Kill a guest's program; one that runs none is no error."""
        program = self.programs.pop(instance_id, None)
        if program is not None:
            program.kill()

    def want(self, services: dict[Endpoint, Service]) -> None:
        """Let exactly these endpoints listen; the thread starts with the first one."""
        if services or self._loopback is not None:
            self._thread().want(services, wait=self.synchronous)

    def submit(self, work: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Any]:
        """Run a coroutine beside the listeners."""
        return self._thread().submit(work)

    def attend(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine that a tick began; it is waited for where ticks are synchronous."""
        future = self.submit(work)
        if self.synchronous:
            future.result(timeout=_SYNCHRONOUS_S)

    def listening(self) -> list[Endpoint]:
        """Endpoints that really listen."""
        return [] if self._loopback is None else self._loopback.listening()

    def failures(self) -> dict[Endpoint, str]:
        """Endpoints that could not be had, and why."""
        return {} if self._loopback is None else dict(self._loopback.failures)

    def close(self) -> None:
        """End the thread and close every port; a later tick starts anew."""
        loopback, self._loopback = self._loopback, None
        if loopback is not None:
            loopback.close()

    def _thread(self) -> Loopback:
        if self._loopback is None or not self._loopback.running:
            self._loopback = Loopback(self._name, self._alive)
        return self._loopback


_RUNTIMES: weakref.WeakKeyDictionary[Cloud, Runtime] = weakref.WeakKeyDictionary()


def runtime(cloud: Cloud) -> Runtime:
    """The runtime of a cloud, made at its first use."""
    found = _RUNTIMES.get(cloud)
    if found is None:
        held = weakref.ref(cloud)

        def alive() -> bool:
            there = held()
            return there is not None and not there.closing.is_set()

        found = _RUNTIMES[cloud] = Runtime(cloud.name, alive)
    return found


def contributor(function: Contributor) -> Contributor:
    """Register what gives the endpoints that should listen; called in every tick, under the cloud's lock."""
    _CONTRIBUTORS.append(function)
    return function


def tick(cloud: Cloud) -> None:
    """Look at the rows once and let guests, balancers and listeners follow."""
    beside = runtime(cloud)
    wall_s, lab_s = cloud.clock.monotonic(), cloud.now()
    last_wall_s, last_lab_s = beside.last_tick
    if (
        0 <= wall_s - last_wall_s < _LEAST_PAUSE_S
        and 0 <= lab_s - last_lab_s < _LEAST_PAUSE_S * cloud.speed + 0.01
    ):
        return
    if lab_s < last_lab_s:
        beside.power_off()  # Lab time never runs back by itself: an older state was put back.
    beside.last_tick = (wall_s, lab_s)
    if cloud.faults.outage in ("refuse", "hang", "reset"):
        beside.power_off()
        return
    beside.begin(partial(look, cloud), synchronous=not isinstance(cloud.clock, RealClock))
    services: dict[Endpoint, Service] = {}
    for function in _CONTRIBUTORS:
        for endpoint, service in function(cloud, beside).items():
            services.setdefault(endpoint, service)
    beside.want(services)


@resident
def install(cloud: Cloud) -> None:
    """Begin with nothing running: also after a reset of the lab."""
    runtime(cloud).power_off()
    cloud.on_tick(lambda: tick(cloud))
