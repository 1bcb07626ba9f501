"""One simulated cloud: its rows, its clock, its faults and the calls it answers.

Handlers are plain functions registered with `@action(service, operation)`; they get the cloud and the decoded
parameters and give the reply's members in the API's own words. A handler runs under the cloud's lock inside a
transaction: when it raises, everything it changed is undone; when it returns, everything is on disk before
the answer goes out, so that a killed lab process forgets nothing it has answered.

Times in replies are the machine's UTC, so that drpilot can compare them with its own clock; only the length
of pending states is counted in lab seconds (`now`), which `speed` and `advance` move.
"""

from __future__ import annotations

import hashlib
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drpilot.base.clock import Clock, RealClock
from drpilot.domain.operations import is_reading
from drpilot.lab.agenda import Agenda
from drpilot.lab.copying import copied, shown, texts
from drpilot.lab.faults import Cut, Faults, Meeting
from drpilot.lab.path import LocalPeer, Peer, Unreachable
from drpilot.lab.quota import Bucket, admit
from drpilot.lab.refusal import NOT_FOUND, Refusal, throttled
from drpilot.lab.registry import (
    ACTIONS,
    KINDS,
    PATHS,
    RESIDENTS,
    Handler,
    action,
    handler_of,
    kind,
    path,
    resident,
    timer,
)
from drpilot.lab.services import load
from drpilot.lab.store import Store
from drpilot.lab.table import Row, Table, Tables
from drpilot.lab.traits import DIALECTS

__all__ = [
    "ACTIONS",
    "KINDS",
    "PATHS",
    "Cloud",
    "Handler",
    "Peer",
    "Refusal",
    "Settings",
    "Unreachable",
    "action",
    "kind",
    "path",
    "resident",
    "timer",
]


_CALLS_KEPT = 50_000
# What was written is read at once (S3 user guide, "Amazon S3 data consistency model"): faults of late sight pass it by.
_STRONG = frozenset({"s3"})


@dataclass(frozen=True, slots=True)
class Settings:
    """What a site is from its creation. `keys` maps access key ids to secrets; `platform` is the networking mode
    (VPC or EC2) where the dialect leaves a choice; `login` is (account, user, password) where a cloud has those.
    """

    name: str = "home"
    region: str = "eu-south-1"
    account: str = "111111111111"
    dialect: str = "aws"
    seed: str = "lab"
    speed: float = 1.0
    keys: Mapping[str, str] = field(default_factory=dict)
    platform: str = ""
    login: Sequence[str] = ()


class Cloud:
    """One simulated cloud. Open it with `Cloud.open`."""

    def __init__(self, directory: Path, settings: Settings, clock: Clock | None = None) -> None:
        self.settings = settings
        self.name, self.region, self.account = settings.name, settings.region, settings.account
        self.dialect, self.speed = settings.dialect, settings.speed
        self.traits = DIALECTS[settings.dialect]
        self.stubs: frozenset[tuple[str, str]] = frozenset()
        """Operations that answer 200 and do nothing, as some clouds have them."""
        self.classic = (settings.platform or self.traits.platforms[0]) == "EC2"
        self.keys = dict(settings.keys)
        self.clock: Clock = clock or RealClock()
        self.lock = threading.RLock()
        self.store = Store(directory, lambda: self.clock.now().timestamp())
        self._tables = Tables(self.store)
        self.faults = Faults(self._tables.table("faults"))
        self.buckets: dict[str, Bucket] = {}
        self.calls: deque[dict[str, Any]] = deque(maxlen=_CALLS_KEPT)
        self.calls_total = 0
        self.errors: list[str] = []
        self.hosts: frozenset[str] = frozenset()
        """host:port of this site's own listener; empty in-process."""
        self.peers: dict[str, Peer] = {}
        self.find_peer: Callable[[str], Peer | None] = lambda name: None
        self._view: dict[str, Table] | None = None
        self._depth = 0
        self._after: list[Callable[[], None]] = []
        self._agenda = Agenda(self)
        self.closing = self._agenda.closing
        self._born: dict[tuple[str, str], float] = {}
        self._frozen: tuple[float, dict[str, Table]] | None = None
        self._last_now = 0.0

    @classmethod
    def open(cls, directory: Path, settings: Settings, clock: Clock | None = None) -> Cloud:
        """Open the cloud kept in `directory`, or found a new one there."""
        load()
        directory.mkdir(parents=True, exist_ok=True)
        cloud = cls(directory, settings, clock)
        cloud._found()
        return cloud

    def _found(self) -> None:
        with self.transaction():
            meta = self.table("meta")
            if "clock" not in meta:
                meta["clock"] = {"origin": self._wall(), "base": self._wall(), "speed": self.speed}
                meta["ids"] = {"next": 0}
            elif meta["clock"]["speed"] != self.speed:
                self.set_speed(self.speed)
            self._last_now = 0.0
            for install in RESIDENTS:
                install(self)

    # -- rows -----------------------------------------------------------------------------------------

    def table(self, name: str) -> Table:
        """Rows by id; changes made in a transaction are kept, also those deep inside a row."""
        if self._view is not None:
            return self._view.setdefault(name, Table(name))
        return self._tables.table(name)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the lock; on the way out keep every change, or undo all of them after an exception."""
        with self.lock:
            self._depth += 1
            outermost = self._depth == 1 and self._view is None
            try:
                yield
                if outermost:
                    for key in self._tables.flush():
                        self._born[key] = self.clock.monotonic()
                    self.faults.settle()
            except BaseException:
                if outermost:
                    self._after.clear()
                    self._tables.roll_back()
                    if self.faults.recount():
                        self._tables.flush()
                raise
            finally:
                self._depth -= 1
            if outermost:
                after, self._after = self._after, []
                for act in after:
                    act()

    @property
    def changing(self) -> bool:
        """Whether a transaction is open; only meaningful for who holds the lock."""
        return self._depth > 0

    def after_commit(self, act: Callable[[], None]) -> None:
        """Do `act` once the running transaction is on disk; dropped when it is undone."""
        self._after.append(act)

    def new_id(self, prefix: str) -> str:
        """A fresh id in the dialect's form, `i-0` and 16 hex digits say, the same run to run for one seed."""
        return self.traits.new_id(prefix, self.new_hex())

    def new_hex(self, digits: int = 16) -> str:
        """Fresh hex digits (at most 64) from the persisted seeded generator."""
        ids = self.table("meta")["ids"]
        ids["next"] += 1
        text = f"{self.settings.seed}/{self.name}/{ids['next']}"
        return hashlib.sha256(text.encode()).hexdigest()[:digits]

    def owned(self) -> str:
        """The account that owns what is created here."""
        return self.account

    # -- time -----------------------------------------------------------------------------------------

    def _wall(self) -> float:
        return self.clock.now().timestamp()

    def now(self) -> float:
        """Lab seconds since 1970: they run `speed` times as fast as the wall clock, and never back."""
        clock = self._tables.table("meta").peek()["clock"]
        value = float(clock["base"] + (self._wall() - clock["origin"]) * clock["speed"])
        self._last_now = max(self._last_now, value)
        return self._last_now

    def timestamp(self) -> datetime:
        """The wall clock, aware, in UTC."""
        return self.clock.now().astimezone(UTC)

    def stamp(self) -> str:
        """`timestamp` as rows keep it: ISO 8601 in UTC with milliseconds."""
        return self.timestamp().isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def advance(self, seconds: float) -> None:
        """Let lab time jump; what became due happens at once."""
        with self.transaction():
            self.table("meta")["clock"]["base"] += seconds
        self.tick()

    def set_speed(self, speed: float) -> None:
        """Change the speed of lab time from now on."""
        with self.transaction():
            base = self.now()
            self.table("meta")["clock"] = {"origin": self._wall(), "base": base, "speed": speed}
            self.speed = speed

    def setting(self, name: str, default: Any) -> Any:
        """A tunable of this site (table `settings`), set with `tune`."""
        row = self._tables.table("settings").peek().get(name)
        return default if row is None else row["value"]

    def tune(self, **values: Any) -> None:
        """Change tunables; None puts the default back."""
        with self.transaction():
            for name, value in values.items():
                self.table("settings").pop(name, None)
                if value is not None:
                    self.table("settings")[name] = {"value": value}

    # -- what happens by itself -----------------------------------------------------------------------

    def later(self, seconds: float, do: str, on: str, **details: Any) -> None:
        """Set a timer: after `seconds` of lab time the function registered as `do` runs with `on`."""
        row = {"at": self.now() + seconds, "do": do, "on": on, "details": details}
        self.table("timers")[self.new_hex(12)] = row

    def timers(self) -> Mapping[str, Row]:
        """The timers set, for reading."""
        return self._tables.table("timers").peek()

    def on_tick(self, hook: Callable[[], None]) -> None:
        """Call `hook` about every 100 ms and before each call; it runs in a transaction of its own."""
        self._agenda.hooks.append(hook)

    def tick(self) -> None:
        """Let everything happen that is due, then call the hooks."""
        self._agenda.tick()

    def start(self, interval_s: float = 0.1) -> None:
        """Start the thread that ticks and carries copies; without it ticks come only with calls."""
        self._agenda.start(interval_s)

    def close(self) -> None:
        """Stop the thread and close the files."""
        self._agenda.stop()
        with self.lock:
            self.store.close()

    def note_error(self) -> None:
        """Keep the running exception's traceback; the last hundred are shown by the control plane."""
        self.errors = [*self.errors[-99:], traceback.format_exc()]

    # -- calls ----------------------------------------------------------------------------------------

    def dispatch(self, service: str, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Answer one call: what happens by itself first, then faults, limits and the handler.

        Raises Refusal for an error reply and Cut when no answer may reach the caller.
        """
        self.tick()
        entry = self._note(service, operation, params)
        try:
            meeting = self._meet(service, operation)
            try:
                result = self._answer(service, operation, params, meeting)
            finally:
                if meeting.lost_reply:
                    raise Cut("lost-reply")
        except Refusal as refusal:
            entry["outcome"] = refusal.code
            raise
        except Cut as cut:
            entry["outcome"] = cut.kind
            raise
        except Exception:
            entry["outcome"] = "InternalError"
            self.note_error()
            raise
        entry["outcome"] = "ok"
        return result

    def _answer(
        self, service: str, operation: str, params: dict[str, Any], meeting: Meeting
    ) -> dict[str, Any]:
        admit(self, service, operation)
        if params.get("DryRun"):
            raise Refusal(
                "DryRunOperation", "Request would have succeeded, but DryRun flag is set.", status=412
            )
        if service in _STRONG:
            return self.invoke(service, operation, params)
        if meeting.unseen_s is not None:
            self._refuse_unseen(params, meeting.unseen_s)
        if is_reading(operation) and (meeting.stale_s is not None or meeting.unseen_s is not None):
            return self._read_past(service, operation, params, meeting)
        return self.invoke(service, operation, params)

    def invoke(self, service: str, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Run a handler for the cloud itself: no faults, no rate limit, no entry in the list of calls."""
        if (service, operation) in self.stubs:
            return {}
        found = handler_of(self.traits.family, service, operation)
        if found is None:
            raise Refusal("InvalidAction", f"The action {operation} is not valid for this web service.")
        if not found.locked:
            return found.handler(self, params)
        with self.transaction():
            # A copy, because the answer is written out after the lock is given back.
            reply: dict[str, Any] = copied(found.handler(self, params))
            return reply

    @property
    def request_id(self) -> str:
        """The id that the answer to the next call carries."""
        return f"{self.name[:8].encode().hex():0<8}-0000-4000-8000-{self.calls_total + 1:012x}"

    def _note(self, service: str, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        entry = {
            "service": service,
            "operation": operation,
            "params": shown(params),
            "time": self.stamp(),
            "outcome": "running",
        }
        with self.lock:
            self.calls_total += 1
            entry["number"] = self.calls_total
            self.calls.append(entry)
        return entry

    def _meet(self, service: str, operation: str) -> Meeting:
        if not self.faults.any:
            return Meeting()
        with self.transaction():
            meeting = self.faults.meet(service, operation)
        if meeting.delay_s:
            self.clock.sleep(meeting.delay_s)
        if meeting.refusal == "error-5xx":
            raise Refusal("InternalError", "An internal error has occurred", status=500)
        if meeting.refusal == "throttle":
            raise throttled(service)
        if meeting.refusal is not None:
            raise Cut(meeting.refusal)
        return meeting

    def _refuse_unseen(self, params: dict[str, Any], age_s: float) -> None:
        named = set(texts(params))
        for table, row_id in self._young(age_s):
            if row_id in named and table in NOT_FOUND:
                raise Refusal(NOT_FOUND[table], f"The ID '{row_id}' does not exist")

    def _young(self, age_s: float) -> set[tuple[str, str]]:
        edge = self.clock.monotonic() - age_s / self.speed
        with self.lock:
            return {key for key, born in self._born.items() if born > edge}

    def _read_past(
        self, service: str, operation: str, params: dict[str, Any], meeting: Meeting
    ) -> dict[str, Any]:
        """Answer a reading call from an older state, or from one without the youngest rows."""
        with self.lock:
            if meeting.unseen_s is not None:
                view = self._tables.frozen(self._young(meeting.unseen_s))
            else:
                view = self._stale_view(meeting.stale_s or 0.0)
            self._view = view
            try:
                return self.invoke(service, operation, params)
            finally:
                self._view = None

    def _stale_view(self, lag_s: float) -> dict[str, Table]:
        moment = self.clock.monotonic()
        if self._frozen is None or moment - self._frozen[0] > lag_s / self.speed:
            self._frozen = (moment, self._tables.frozen(set()))
        return self._frozen[1]

    # -- other sites ----------------------------------------------------------------------------------

    def connect(self, other: Cloud) -> None:
        """Lay the path to another cloud in the same process, both ways."""
        self.peers[other.name] = LocalPeer(self, other)
        other.peers[self.name] = LocalPeer(other, self)

    def peer(self, name: str) -> Peer:
        """The path to another site; raises Unreachable where there is none or it is cut from here."""
        found = self.peers.get(name) or self.find_peer(name)
        if found is None:
            raise Unreachable(f"{self.name} has no path to {name}")
        with self.lock:
            if self.faults.parts(name):
                raise Unreachable(f"the path from {self.name} to {name} is cut")
        return found

    def peer_of_region(self, region: str) -> Peer | None:
        """The path to the site that is `region`, cut or not; None when no site of the lab is."""
        self.find_peer("")
        return next((found for found in self.peers.values() if found.region == region), None)

    def serve_path(self, name: str, caller: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Answer another site's `Peer.call`; raises Unreachable while the path is cut from here."""
        self.tick()
        with self.transaction():
            if self.faults.parts(caller):
                raise Unreachable(f"the path from {self.name} to {caller} is cut")
            reply: dict[str, Any] = copied(PATHS[name](self, payload))
            return reply

    # -- the whole state ------------------------------------------------------------------------------

    def inventory(self) -> list[dict[str, Any]]:
        """Every live resource: kind, id, tags, `default` where the cloud itself made it, and its row."""
        self.tick()
        with self.lock:
            found = []
            for table, what in KINDS.items():
                for row_id, row in self._tables.table(table).peek().items():
                    if what.live(row):
                        tags = {tag["Key"]: tag.get("Value", "") for tag in row.get("Tags") or []}
                        found.append(
                            {
                                "kind": what.name,
                                "id": row_id,
                                "tags": tags,
                                "default": what.default(row),
                                "row": copied(row),
                            }
                        )
            return found

    def save(self, label: str) -> None:
        """Keep the whole state (rows, volumes, faults, lab time) under `label`."""
        with self.transaction():
            self.table("meta")["saved"] = {"now": self.now()}
        with self.lock:
            self.store.save(label)

    def restore(self, label: str) -> None:
        """Put the state of `label` back, lab time included; raises KeyError when there is none."""
        with self._agenda.couriers, self.lock:
            self.store.restore(label)
            self._reload()
            with self.transaction():
                meta = self.table("meta")
                base = meta["saved"]["now"]
                meta["clock"] = {"origin": self._wall(), "base": base, "speed": self.speed}

    def reset(self) -> None:
        """Make everything as on the first day; the access keys stay."""
        with self._agenda.couriers, self.lock:
            self.store.wipe()
            self._reload()
            self.calls.clear()
            self.calls_total = 0
            self._agenda.hooks.clear()
            self._found()

    def _reload(self) -> None:
        self._tables.load()
        self._born.clear()
        self._frozen = None
        self._last_now = 0.0
