"""The service: drives what nobody drives, begins what is due, looks at sites, repeats open fences, and ends in order.

Any number of services may work on one journal: leases decide who drives a run, compare-and-set who begins what is
due. A service that is told to stop begins nothing more, lets running calls end, gives its leases back and signs off.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from drpilot.base.errors import DrpilotError
from drpilot.base.log import logger
from drpilot.domain.ports import CloudError, FailureClass
from drpilot.domain.run import RunView
from drpilot.journal.halting import Halt
from drpilot.journal.journal import Superseded
from drpilot.services import watch
from drpilot.services.alarms import asking_of, look_at_bursts
from drpilot.services.begin import Asking, begin, propose
from drpilot.services.bursting import BEGIN
from drpilot.services.house import House
from drpilot.services.watch import Begin, Happening, Refence

__all__ = ["Options", "Service", "notify", "scheduled", "serve"]

TICK_S = 0.5
HEARTBEAT_S = 5.0
LOOK_S = 30.0
QUIET_S = 1.0  # a run that was just driven as far as it goes is not taken up again at once
AGAIN_S = 10.0  # and one that could not be driven not for a while
DRAIN_S = 28.0  # systemd's and docker's patience is usually more; the engine's own drain is 20 s


def _log(happening: Happening) -> None:
    facts = {"group": happening.group, "run": happening.run}
    logger("serve").info(
        happening.what, text=happening.text, **{key: value for key, value in facts.items() if value}
    )


@dataclass(frozen=True, slots=True)
class Options:
    """How to serve. `parallel` bounds the runs driven at once; moves never wait for room.

    `notify_socket` is the value of NOTIFY_SOCKET (systemd.exec(5)); `begin` and `refence` default to the services'.
    """

    parallel: int = 8
    notify_socket: str | None = None
    tell: Callable[[Happening], None] = _log
    begin: Begin | None = None
    refence: Refence | None = None
    signals: bool = True


def scheduled(house: House) -> Begin:
    """Beginning a run as the service does: proposed for now, asked of nobody."""

    def begins(mode: str, group: str) -> RunView:
        extra = asking_of(house.journal.group(group), house.clock.now()) if mode == BEGIN else None
        reason = extra.cause if extra is not None else "scheduled"
        begun_s = house.clock.monotonic()
        offer = propose(house, mode, group, Asking(reason=reason, burst=extra))
        took_s = house.clock.monotonic() - begun_s
        if took_s >= watch.HOLD_S:  # by now another service may have begun it, and even ended it
            text = f"looking took {took_s:.0f} s, and an occurrence is held for {watch.HOLD_S:.0f} s"
            raise CloudError(FailureClass.TIMEOUT, "Bounded", text, happened="no")
        return begin(house, offer, None)

    return begins


def serve(house: House, options: Options | None = None) -> int:
    """Serve until `house.stop` is set or SIGTERM or SIGINT comes; 0 when everything was handed back in time."""
    service = Service(house, options or Options())
    if service.options.signals:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: house.stop.set())
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a service is not tied to a terminal
    return service.run()


def notify(address: str | None, state: str) -> bool:
    """Tell the service manager `state` by a datagram (sd_notify(3)); False where nobody listens."""
    if not address:
        return False
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect(target)
            channel.sendall(state.encode())
    except OSError as error:
        logger("serve").warning("notify_failed", why=str(error))
        return False
    return True


@dataclass(slots=True)
class Service:
    """One service at work. Every slow thing has a thread of its own, so that the heartbeat never waits."""

    house: House
    options: Options
    id: str = ""
    _driving: dict[str, threading.Thread] = field(default_factory=dict)
    _chores: dict[str, threading.Thread] = field(default_factory=dict)
    _again_at: dict[str, float] = field(default_factory=dict)
    _beaten_at: float = float("-inf")
    _looked_at: float = float("-inf")
    _status: str = ""
    _halt: Halt | None = None

    def run(self) -> int:
        """The loop."""
        house = self.house
        self.id = self.id or house.journal.new_id()
        self._beat()
        self._tell("started", f"serving as {house.holder.text}")
        notify(self.options.notify_socket, "READY=1")
        try:
            while not house.stop.is_set():
                self._tick()
                house.clock.sleep(TICK_S)
        finally:
            drained = self._drain()
        return 0 if drained else 1

    def _tick(self) -> None:
        """One round. Trouble with the journal is told and tried again: the service outlives a full disk."""
        clock = self.house.clock
        try:
            if clock.monotonic() - self._beaten_at >= HEARTBEAT_S:
                self._beat()
            halted = self._is_halted()
            if not halted:
                self._drive_the_undriven()
            if not halted and watch.due(self.house.journal, clock.now()):
                begins = self.options.begin or scheduled(self.house)
                self._chore("begin", lambda: watch.begin_due(self.house, begins))
            if clock.monotonic() - self._looked_at >= LOOK_S:
                self._looked_at = clock.monotonic()
                self._chore("look", self._look)
        except DrpilotError as error:
            self._tell("error", f"{error.title}. {error.hint}")
            notify(
                self.options.notify_socket, "WATCHDOG=1"
            )  # this process is well; to restart it would mend nothing

    def _is_halted(self) -> bool:
        """Whether a person stopped everything: then it looks on and says so, once."""
        halt = self.house.journal.halted()
        if halt != self._halt:
            self._halt = halt
            self._tell("halted" if halt else "lifted", f"by {halt.by}: {halt.reason}" if halt else "going on")
        return halt is not None

    def _beat(self) -> None:
        self.house.journal.heartbeat(self.id, self.house.holder)
        self._beaten_at = self.house.clock.monotonic()
        running = len(self._driving)
        status = f"driving {running} run{'' if running == 1 else 's'}"
        notify(
            self.options.notify_socket,
            "WATCHDOG=1" if status == self._status else f"STATUS={status}\nWATCHDOG=1",
        )
        self._status = status

    def _look(self) -> tuple[Happening, ...]:
        seen = (
            *watch.look_at_sites(self.house),
            *watch.look_at_groups(self.house),
            *look_at_bursts(self.house),
        )
        if self._halt is not None:
            return seen
        begins = self.options.begin or scheduled(self.house)
        refence = self.options.refence or (lambda group: begins("fence", group))
        return (*seen, *watch.repeat_fences(self.house, refence))

    # -- runs -----------------------------------------------------------------------------------------------

    def _drive_the_undriven(self) -> None:
        for run in [name for name, thread in self._driving.items() if not thread.is_alive()]:
            del self._driving[run]
        for view in watch.undriven(self.house.journal, self.house.clock.now()):
            full = len(self._driving) >= self.options.parallel
            if view.id in self._driving or (full and view.lane != "move"):
                continue
            if self.house.clock.monotonic() < self._again_at.get(view.id, 0.0):
                continue
            thread = threading.Thread(
                target=self._drive, args=(view,), name=f"drive-{view.name}", daemon=True
            )
            self._driving[view.id] = thread
            thread.start()

    def _drive(self, view: RunView) -> None:
        again_s = AGAIN_S
        try:
            drive = self.house.driver().drive(view.id, self.house.holder)
        except Superseded as error:
            self._tell("lost", f"taken over by {error.by}", view)
        except DrpilotError as error:
            self._tell("error", error.title, view)
        except Exception as error:  # noqa: BLE001 - one run's bug must not end the service that drives the others
            self._tell("error", f"internal error: {error!r}", view)
            logger("serve").exception("drive_failed", run=view.name)
        else:
            after = drive.view
            word = after.result or after.state
            again_s = QUIET_S
            if drive.taken:
                self._tell(
                    "drove", f"{after.mode}: {word}" + (", handed back" if drive.stopped else ""), after
                )
        finally:
            self._again_at[view.id] = self.house.clock.monotonic() + again_s

    # -- chores and the end ---------------------------------------------------------------------------------

    def _chore(self, name: str, work: Callable[[], tuple[Happening, ...]]) -> None:
        """Do `work` in a thread, unless the one before is still at it."""
        before = self._chores.get(name)
        if before is not None and before.is_alive():
            return

        def do() -> None:
            try:
                for happening in work():
                    self.options.tell(happening)
            except DrpilotError as error:
                self._tell("error", f"{name}: {error.title}")
            except Exception as error:  # noqa: BLE001 - the service goes on; the log keeps the trace
                self._tell("error", f"{name}: internal error: {error!r}")
                logger("serve").exception("chore_failed", chore=name)

        thread = threading.Thread(target=do, name=f"serve-{name}", daemon=True)
        self._chores[name] = thread
        thread.start()

    def _drain(self) -> bool:
        """Begin nothing more, wait for what runs (bounded), sign off. Whether all of it ended in time."""
        notify(self.options.notify_socket, "STOPPING=1\nSTATUS=draining")
        self.house.stop.set()
        clock = self.house.clock
        ends_at = clock.monotonic() + DRAIN_S
        threads = [*self._driving.values(), *self._chores.values()]
        for thread in threads:
            thread.join(max(0.05, ends_at - clock.monotonic()))
        left = [thread.name for thread in threads if thread.is_alive()]
        try:
            self.house.journal.sign_off(self.id)
        except DrpilotError as error:
            self._tell("error", error.title)
        self._tell("ended", f"left running: {', '.join(left)}" if left else "everything handed back")
        return not left

    def _tell(self, what: str, text: str, run: RunView | None = None) -> None:
        names: dict[str, Any] = {"group": run.group, "run": run.name} if run is not None else {}
        self.options.tell(Happening(self.house.clock.now(), what, text, **names))
