"""What tortures processes: a ledger of effects that no journal knows of, drivers to kill and stop, and the comparison.

Run as a program it is a process with everything imported that forks one controller a command. A controller drives one
run, whose steps write to the ledger over a socket. The ledger looks at once whether the intent of what it is asked to
write is durable, in the database and not in anybody's memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, cast

from sqlalchemy import text

from drpilot.base.clock import Chance, RealClock
from drpilot.domain.plan import Plan, PlannedStep, Retry
from drpilot.domain.ports import (
    Action,
    Answer,
    Context,
    Done,
    Effect,
    Idempotency,
    Model,
    Unseen,
)
from drpilot.domain.run import Change, Intent, RunView
from drpilot.domain.states import FAMILIES
from drpilot.engine import attempt, drive
from drpilot.engine.context import StepContext, World
from drpilot.engine.drive import Driver
from drpilot.journal import journal as writing
from drpilot.journal.database import Database
from drpilot.journal.holder import present_holder
from drpilot.journal.journal import Journal, NewRun, Superseded
from tests.engine.world import GROUP

ROOT = Path(__file__).resolve().parents[2]
LEASE_S = 1.0  # a fifteenth of the real one, renewed as often within it
PARALLEL = 8
KINDS = ("effect.rerun", "effect.token", "effect.observe")


# -- the ledger ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One effect: what was done, by which attempt, by whom, and whether its intent was durable by then."""

    path: str
    number: int
    token: str
    term: int
    who: str
    intended: bool


class Ledger:
    """The outside: an append-only list of effects behind a loopback socket, which outlives every driver."""

    def __init__(self, database: Database, run: str) -> None:
        self.entries: list[Entry] = []
        self._database, self._run = database, run
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(near,), daemon=True).start()

    def _answer(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError), near, near.makefile("rw") as lines:
            line = lines.readline()
            if line.endswith("\n"):  # else who asked was killed in the middle of a word
                asked = json.loads(line)
                said = self._find(asked["find"], asked["who"]) if "find" in asked else self._put(asked)
                lines.write(json.dumps(said) + "\n")

    def _find(self, token: str, who: str | None) -> int | None:
        with self._lock:
            for place, each in enumerate(self.entries):
                if each.token == token and who in (None, each.who):
                    return place
        return None

    def _put(self, asked: dict[str, Any]) -> int:
        query = text(
            "SELECT 1 FROM attempt"
            " WHERE run = :run AND path = :path AND number = :number AND token = :token AND term = :term"
        )
        key = {name: asked[name] for name in ("path", "number", "token", "term")} | {"run": self._run}
        found = self._database.read(lambda session: session.connection().execute(query, key).first())
        with self._lock:
            self.entries.append(Entry(**asked, intended=found is not None))
            return len(self.entries) - 1

    def close(self) -> None:
        """Take nothing more."""
        self._listener.close()


def ask(port: int, **asked: Any) -> int | None:
    """One question to the ledger, and its answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as line, line.makefile("rw") as lines:
        lines.write(json.dumps(asked) + "\n")
        lines.flush()
        answer: int | None = json.loads(lines.readline())
        return answer


# -- actions ------------------------------------------------------------------------------------------------------


class EffectInput(Model):
    """Which effect."""

    name: str


class EffectOutput(Model):
    """Its place in the ledger."""

    place: int


class Write(Action[EffectInput, EffectOutput]):
    """Writes one entry. `observe` finds what anybody wrote under its token; `token` and `rerun` see only what their own
    process wrote, and write again after every change of drivers: the repeats that must be noticed.
    """

    summary = "write to the ledger"
    effect = Effect.CREATE
    Input, Output = EffectInput, EffectOutput

    def __init__(self, name: str, port: int, who: str) -> None:
        self.name, self.idempotency = name, Idempotency(name.partition(".")[2])
        self.port, self.who = port, who
        self.clock, self.chance = RealClock(), Chance()

    def _find(self, token: str) -> int | None:
        everybody = self.idempotency is Idempotency.OBSERVE
        return ask(self.port, find=token, who=None if everybody else self.who)

    def _linger(self) -> None:
        self.clock.sleep(self.chance.uniform(0.0, 0.02))

    def write(self, path: str, number: int, token: str, term: int) -> None:
        """The effect."""
        ask(self.port, path=path, number=number, token=token, term=term, who=self.who)

    def start(self, ctx: Context, given: EffectInput) -> Answer[EffectOutput]:
        mine = cast("StepContext", ctx).attempt
        if self.idempotency is not Idempotency.OBSERVE or self._find(ctx.token) is None:
            self._linger()
            self.write(given.name, mine.number, ctx.token, mine.term)
            self._linger()
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: EffectInput) -> Answer[EffectOutput]:
        place = self._find(ctx.token)
        return Unseen(False, "nothing is seen") if place is None else Done(EffectOutput(place=place))


# -- what is driven -----------------------------------------------------------------------------------------------


def tangle(count: int, chance: Random) -> Plan:
    """A plan of so many effects, each needing up to three of the twenty before it."""
    steps: list[PlannedStep] = []
    for number in range(count):
        before = [each.path for each in steps[-20:]]
        needs = tuple(sorted(chance.sample(before, min(len(before), chance.choice((0, 1, 1, 2, 3))))))
        kind = chance.choice(KINDS)
        path = f"s{number}"
        steps.append(
            PlannedStep(
                path,
                kind,
                None,
                {"name": path},
                needs,
                f"torture.yaml:{number + 1}:1",
                retry=Retry(attempts=100, first_s=0.01, max_s=0.05),
                idempotency=kind.partition(".")[2],
                effect="create",
            )
        )
    about = ("torture", "0", "replicate", "shop", "replicate", "copy", "home", "away", "")
    return Plan(*about, tuple(steps), {"run": {"drill": False}}, parallel=PARALLEL, per_site=PARALLEL)


def begun(url: str, plan: Plan) -> tuple[Journal, RunView]:
    """A journal with a run of `plan` that nobody drives."""
    journal = Journal(Database(url), RealClock(), Chance())
    journal.protect(GROUP, "", "tester")
    return journal, journal.create(NewRun(journal.new_id(), plan, "tester"))


# -- a controller -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Post:
    """Where a controller works: its journal, its run, the ledger, and what was taken out of the protocol."""

    url: str
    run: str
    port: int
    without: str = ""


def hurry() -> None:
    """Leases of a fifteenth of their length, and as much less patience between two looks."""
    writing._LEASE_US = round(LEASE_S * 1_000_000)
    drive.RENEW_S = LEASE_S / 3
    drive.TICK_S = 0.1
    attempt.POLL_FIRST_S = 0.02


def controller(post: Post, host: str) -> int:
    """Drive the run, whenever nobody else does, until it is finished; 0, or 3 where it came to rest before."""
    socket.gethostname = lambda: host  # on another host nothing can be seen of a process
    holder = present_holder("torture", "serve")
    journal = Journal(Database(post.url), RealClock(), Chance())
    actions = {name: Write(name, post.port, holder.text) for name in KINDS}
    maim(journal, actions, post.without)

    def nowhere(name: str = "") -> Any:
        raise AssertionError(f"there is no site {name}")

    driver = Driver(
        journal, cast("Any", actions), World(nowhere, nowhere, settle_s=0.1), RealClock(), parallel=PARALLEL
    )
    while True:
        try:
            done = driver.drive(post.run, holder)
        except Superseded:
            continue
        if done.view.state in FAMILIES["run"].final:
            return 0
        if done.taken:
            return 3
        RealClock().sleep(0.1)


def maim(journal: Journal, actions: dict[str, Write], without: str) -> None:
    """Take one thing out of the protocol: the tests of the test."""
    if without == "guard":
        journal._held = lambda session, lease: True  # type: ignore[method-assign]
    if without == "intent":
        commit = journal.commit

        def calls_first(lease: Any, changes: Sequence[Change]) -> None:
            for change in changes:
                if isinstance(change, Intent):
                    write = actions[change.action].write
                    write(change.path, change.number, change.token, lease.term)
            commit(lease, changes)

        journal.commit = calls_first  # type: ignore[method-assign]


class Controllers:
    """Controllers forked from a process with everything imported, so that a new one costs milliseconds."""

    def __init__(self, post: Post, folder: Path) -> None:
        self.ended: dict[int, int] = {}
        self.log = folder / "controllers.log"
        with self.log.open("wb") as log:
            self._mother = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.crash.torture",
                    post.url,
                    post.run,
                    str(post.port),
                    post.without,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
            )

    def _ask(self, word: str) -> dict[str, Any]:
        assert self._mother.stdin is not None
        assert self._mother.stdout is not None
        self._mother.stdin.write(word + "\n")
        self._mother.stdin.flush()
        said: dict[str, Any] = json.loads(self._mother.stdout.readline())
        return said

    def start(self, host: str) -> int:
        """A new controller on a host of that name; its pid."""
        return int(self._ask(f"start {host}")["pid"])

    def look(self) -> dict[int, int]:
        """Which controllers have ended, and how: exit codes, or minus the signal."""
        self.ended |= {int(pid): code for pid, code in self._ask("look")["ended"].items()}
        return self.ended

    def close(self) -> None:
        """End all of them, stopped or not."""
        self._mother.kill()
        for stream in (self._mother.stdin, self._mother.stdout):
            if stream is not None:
                stream.close()
        self._mother.wait(timeout=20)


def mother() -> None:
    """Fork a controller at each `start HOST`; tell at each `look` which have ended."""
    url, run, port, without = sys.argv[1:]
    post = Post(url, run, int(port), without)
    hurry()
    for line in sys.stdin:
        word, _, host = line.strip().partition(" ")
        if word == "start":
            pid = os.fork()
            if pid == 0:
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with its mother
                try:
                    code = controller(post, host)
                except BaseException:  # noqa: BLE001 - the process edge: told in the log, and by the exit code
                    traceback.print_exc()
                    code = 1
                sys.stderr.flush()
                os._exit(code)
            said: dict[str, Any] = {"pid": pid}
        else:
            said = {"ended": dict(reaped())}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


def reaped() -> list[tuple[int, int]]:
    """The children that have ended since this was last asked."""
    ended = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, os.waitstatus_to_exitcode(status)))


# -- the torture --------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What was done to the processes."""

    killed: int = 0
    stopped: int = 0
    wrong: list[str] = field(default_factory=list)


def state_of(journal: Journal, run: str) -> tuple[str, int]:
    """The state of the run, and the pid of who drives it (0: nobody)."""
    query = text("SELECT state, holder FROM run WHERE id = :run")
    row = journal.database.read(lambda session: session.connection().execute(query, {"run": run}).one())
    return row[0], json.loads(row[1])["pid"] if row[1] else 0


class Torture:
    """Kills and stops two controllers at random until their run is finished; mostly the one that drives.

    `gap` is how many effects come between two blows, on average, so that a slow machine gets as many as a fast one.
    A stop is shorter or longer than the lease.
    """

    def __init__(self, controllers: Controllers, ledger: Ledger, chance: Random, gap: int) -> None:
        self.controllers, self.ledger, self.chance, self.gap = controllers, ledger, chance, gap
        self.tally, self.clock = Tally(), RealClock()
        self.alive: list[int] = []
        self.asleep: dict[int, float] = {}

    def go(self, journal: Journal, run: str, limit_s: float) -> Tally:
        """Until the run is finished and every controller has ended by itself."""
        end = self.clock.monotonic() + limit_s
        blow_at = 0.0  # in effects
        self._start()
        self._start()
        while not self.tally.wrong:
            state, driving = state_of(journal, run)
            now = self.clock.monotonic()
            self._wake(now if state not in FAMILIES["run"].final else now + 3600)
            self._bury()
            if state in FAMILIES["run"].final and not self.alive:
                break
            if now > end:
                self.tally.wrong.append(f"after {limit_s:g} s the run is {state}, {len(self.alive)} drive on")
            elif len(self.ledger.entries) > blow_at and driving and state not in FAMILIES["run"].final:
                self._strike(driving, now)
                blow_at = len(self.ledger.entries) + self.chance.uniform(0.3, 1.7) * self.gap
            self.clock.sleep(0.02)
        return self.tally

    def _start(self) -> None:
        self.alive.append(self.controllers.start(self.chance.choice(("one", "two"))))

    def _wake(self, until: float) -> None:
        for pid in [pid for pid, at in self.asleep.items() if at <= until]:
            del self.asleep[pid]
            os.kill(pid, signal.SIGCONT)

    def _bury(self) -> None:
        ended = self.controllers.look()
        for pid in [pid for pid in self.alive if pid in ended]:
            self.alive.remove(pid)
            if ended[pid] != 0:
                self.tally.wrong.append(f"a controller ended with {ended[pid]}")

    def _strike(self, driving: int, now: float) -> None:
        victim = driving if driving in self.alive and self.chance.random() < 0.75 else None
        victim = victim or self.chance.choice(self.alive)
        if self.chance.random() < 0.6:
            os.kill(victim, signal.SIGKILL)
            self.alive.remove(victim)
            self.asleep.pop(victim, None)
            self.tally.killed += 1
            self._start()
        elif victim not in self.asleep:
            os.kill(victim, signal.SIGSTOP)
            self.asleep[victim] = now + self.chance.uniform(0.3, 2.0) * LEASE_S
            self.tally.stopped += 1


if __name__ == "__main__":
    mother()
