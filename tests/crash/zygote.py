"""A process with everything imported, that forks one drpilot a command: as separate as any, without the start-up.

Reads one JSON object a line on standard input and answers one on standard output. A fork opens the lab's home, carries
out a script of verbs, and is killed by a real SIGKILL to itself at the chosen commit or call.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drpilot.actions.catalogue import CATALOGUE
from drpilot.base.log import configure
from drpilot.clouds.credentials import CredentialsReference
from drpilot.clouds.dialects import DIALECTS
from drpilot.clouds.session import Clients, SiteSettings
from drpilot.domain.ports import Action, BlockChannel, BlockPlane, CloudError, Context, Idempotency, Unseen
from drpilot.domain.run import Change, Intent
from drpilot.practice import SERVICES, Lab
from drpilot.services.attend import attend
from drpilot.services.begin import Asking, Typed, begin, consent, propose
from drpilot.services.house import House
from drpilot.services.steer import Order, order
from drpilot.wiring import open_house
from tests.crash.yard import unintended

GROUP = "shop"
CHANGES = DIALECTS["aws"].changes
"""What changes something on a cloud, by the names of its operations, which Eucalyptus shares."""


def die() -> None:
    """The process is gone between two instructions."""
    os.kill(os.getpid(), signal.SIGKILL)


class Counter:
    """Counts commits and changing calls of this process, and dies at the chosen one.

    Where a changing call fails (its reply is lost), it looks at once for effects without a durable intent.
    """

    def __init__(self, command: dict[str, Any]) -> None:
        self.folder = Path(command["folder"])
        self.kill = command.get("kill")
        self.commits = 0
        self.blocks = 0
        self.calls: list[str] = []
        self.unintended: list[str] = []
        self.lock = threading.Lock()

    def committed(self, changes: Sequence[Change]) -> None:
        self.commits += 1
        if self.kill == ["commit", self.commits]:
            die()

    def called(self, site: str, service: str, operation: str, phase: str) -> None:
        if not CHANGES(service, operation):
            return
        if phase == "failed":
            self.unintended += unintended(self.folder, Lab(self.folder))
        if phase == "after":
            with self.lock:  # threads that carry bytes call too
                self.calls.append(f"{site}:{service}.{operation}")
                if self.kill in (["call", len(self.calls)], ["operation", operation]):
                    die()

    def wrote(self) -> None:
        """A block is on its cloud; several threads write, and each may be the last."""
        with self.lock:
            self.blocks += 1
            if self.kill == ["block", self.blocks]:
                die()


class CountedChannel:
    """A channel whose written blocks are counted."""

    def __init__(self, channel: BlockChannel, counter: Counter) -> None:
        self._channel, self._counter = channel, counter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def put(self, snapshot: str, index: int, data: memoryview, sha256: bytes) -> None:
        self._channel.put(snapshot, index, data, sha256)
        self._counter.wrote()


class CountedPlane:
    """The blocks of a site, counted where they are written."""

    def __init__(self, plane: BlockPlane, counter: Counter) -> None:
        self._plane, self._counter = plane, counter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plane, name)

    def channel(self) -> CountedChannel:
        return CountedChannel(self._plane.channel(), self._counter)


class BlindSite:
    """A site that shows nothing by drpilot's own tags: an eye shut after a lost reply."""

    def __init__(self, site: Any, shut: Callable[[], bool]) -> None:
        self._site, self._shut = site, shut

    def __getattr__(self, name: str) -> Any:
        return getattr(self._site, name)

    def pages(self, service: str, operation: str, params: dict[str, Any]) -> Any:
        ours = any(str(each.get("Name", "")).startswith("tag:drpilot:") for each in params.get("Filters", []))
        return iter(()) if ours and self._shut() else self._site.pages(service, operation, params)


class BlindContext:
    """The context of a blinded action."""

    def __init__(self, ctx: Context, shut: Callable[[], bool]) -> None:
        self._ctx, self._shut = ctx, shut

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def site(self, role: str) -> Any:
        return BlindSite(self._ctx.site(role), self._shut)


def blinded(action: Action[Any, Any]) -> Action[Any, Any]:
    """The same action, blind after a lost reply or a lost driver until it has called again: the test of the test."""
    lost: set[str] = set()
    begun: set[str] = set()

    class Blind(type(action)):  # type: ignore[misc]
        def observe(self, ctx: Any, given: Any) -> Any:
            if ctx.path not in begun and ctx.step.state == "unknown":
                lost.add(ctx.path)
            if ctx.path in lost:
                return Unseen(certain=True, why="blinded")
            return super().observe(ctx, given)

        def start(self, ctx: Any, given: Any) -> Any:
            begun.add(ctx.path)
            try:
                return super().start(BlindContext(ctx, lambda: ctx.path in lost), given)
            except CloudError:
                lost.add(ctx.path)
                raise
            finally:
                if ctx.path in lost and sys.exc_info()[0] is None:
                    lost.discard(ctx.path)

    return Blind()


def house_for(folder: Path, person: str, counter: Counter, command: dict[str, Any]) -> House:
    """A house with the counter in every door."""
    house = open_house(lab=True, person=person, home=folder, observer=counter.called)
    house.journal.after_commit = counter.committed
    carried = house.world.transfers
    assert carried is not None
    counted = replace(carried, plane=lambda name: CountedPlane(carried.plane(name), counter))
    house.world = replace(house.world, transfers=counted)
    if command.get("blind"):
        house.catalogue = {
            name: blinded(action) if action.idempotency is Idempotency.OBSERVE else action
            for name, action in CATALOGUE.items()
        }
    if command.get("forget_intents"):
        forget_intents(house, counter.kill)
    return house


def forget_intents(house: House, kill: list[Any] | None) -> None:
    """Act first, then commit the intent, unless gone by then (`kill: intent`): the test of the test."""
    commit = house.journal.commit

    def late(lease: Any, changes: Sequence[Change]) -> Any:
        creating = [
            change
            for change in changes
            if isinstance(change, Intent) and house.catalogue[change.action].effect.value == "create"
        ]
        if not creating:
            return commit(lease, changes)
        for change in creating:
            with contextlib.suppress(CloudError):  # a lost reply, and nobody knows what it was the reply to
                call_now(house, lease, change)
        if kill == ["intent"]:
            die()
        return commit(lease, changes)

    house.journal.commit = late  # type: ignore[method-assign]


def call_now(house: House, lease: Any, intent: Intent) -> None:
    """Act before the intent is durable, as a program without intents would."""
    from datetime import UTC, datetime

    from drpilot.domain.run import AttemptView
    from drpilot.engine.context import StepContext

    view = house.journal.view(lease.run)
    attempt = AttemptView(
        intent.number,
        intent.round,
        intent.kind,
        intent.token,
        "intent",
        view.term,
        intent.action,
        intent.given,
        datetime.now(UTC),
    )
    action = house.catalogue[intent.action]
    group = house.journal.group(GROUP)
    ctx = StepContext(
        view,
        view.steps[intent.path],
        attempt,
        group.group,
        house.journal,
        house.world,
        house.clock,
        print,
        house.clock.now(),
        group.epoch,
    )
    action.start(ctx, action.Input.model_validate(dict(intent.given)))


def to_the_end(mode: str, mine: House, theirs: House, to: str | None = None) -> str:
    """Whatever was begun is taken on, until nothing is left: what a person types after a crash."""
    live = [run for run in mine.journal.runs(GROUP, live=True) if run.mode == mode]
    done = [run for run in mine.journal.runs(GROUP) if run.mode == mode and run.state == "finished"]
    if done:
        return f"{done[0].state} {done[0].result}"
    if live:
        run = live[0]
    else:
        offer = propose(mine, mode, GROUP, Asking(reason="a test", to=to))
        run = begin(mine, offer, consent(mine, offer, Typed(GROUP, (offer.proposal.loss_s or 0) + 60)))
    for _ in range(6):
        view = attend(mine, run.id)
        if view.state == "waiting":
            order(theirs, run.id, Order("approve", data={"confirm": GROUP}))
        elif view.state == "awaiting_commit":
            order(mine, run.id, Order("commit", comment="a test", data={"confirm": GROUP}))
        else:
            break
    failed = [
        f"{s.path}: {s.failure.message}" for s in view.steps.values() if s.failure and s.state == "failed"
    ]
    return f"{view.state} {view.result} {failed}".removesuffix(" []")


def child(command: dict[str, Any]) -> dict[str, Any]:
    """One drpilot."""
    folder = Path(command["folder"])
    counter = Counter(command)
    houses = [house_for(folder, name, counter, command) for name in ("oncall", "second")]
    ended = to_the_end(command["mode"], houses[0], houses[1], command.get("to"))
    counted = {"commits": counter.commits, "calls": counter.calls, "blocks": counter.blocks}
    return {"ended": ended, **counted, "unintended": counter.unintended}


def warm() -> None:
    """Load the service models once: half of a new client's cost, and every fork inherits them."""
    endpoints = dict.fromkeys(SERVICES, "http://127.0.0.1:9")
    keys = CredentialsReference("env", "DRPILOT_TEST_KEYS")
    clients = Clients(
        SiteSettings("warm", "aws", "eu-south-1", endpoints=endpoints, credentials=keys),
        environment={"DRPILOT_TEST_KEYS": "AKIALABWARMWARMWARM:secret"},
    )
    for service in SERVICES:
        clients.client(service)
    clients.close()


def main() -> None:
    """Fork a child for each line; answer with how it ended."""
    configure()
    warm()
    for line in sys.stdin:
        command = json.loads(line)
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read_end)
            try:
                os.write(write_end, json.dumps(child(command)).encode())
            except BaseException:  # noqa: BLE001 - whatever ended the child is told to the test
                os.write(write_end, json.dumps({"error": traceback.format_exc()}).encode())
            os._exit(0)
        os.close(write_end)
        said = b""
        while chunk := os.read(read_end, 65536):
            said += chunk
        os.close(read_end)
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        sys.stdout.write(json.dumps({"killed": killed, **(json.loads(said) if said else {})}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
