"""The ground that stories are told on: three clouds in memory, the sample shop protected, and a journal.

It is made once a process and put back before each seed, so that a seed costs only what happens in it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import botocore.auth

from drpilot.actions.catalogue import CATALOGUE
from drpilot.actions.views import Bounded, too_late
from drpilot.base.clock import Chance
from drpilot.base.errors import DrpilotError
from drpilot.base.retry import Patience
from drpilot.clouds.failures import as_drpilot_error
from drpilot.clouds.session import Clients, CredentialsReference, SiteSettings
from drpilot.clouds.site import BotoSite, Ways
from drpilot.clouds.witness import S3Witness
from drpilot.domain.ports import CloudError
from drpilot.domain.run import Holder
from drpilot.engine.context import World
from drpilot.inventory import configuration
from drpilot.journal.database import Database
from drpilot.journal.journal import Journal
from drpilot.lab import shop
from drpilot.lab.cloud import Cloud
from drpilot.lab.process import start_in_process
from drpilot.lab.refusal import Refusal
from drpilot.lab.runtime import runtime
from drpilot.lab.wire import attach
from drpilot.services.house import House, Look
from drpilot.services.protect import protect
from drpilot.wiring import slots_of
from tests.actions.doors import Door
from tests.simulation import straight
from tests.simulation.clock import SiteClock, VirtualClock
from tests.simulation.hands import Inline
from tests.simulation.network import Network
from tests.simulation.straight import Straight

__all__ = ["BUCKET", "GROUP", "SITES", "Ground", "Life", "Watch", "made"]

SITES = ("home", "away", "edge")
GROUP = "shop"
BUCKET = "witness"
SPEED = 10.0
READ_TIMEOUT_S = 10.0
SETTLE_S = 2.0  # the longest that anything may stay invisible; faults keep below it
_KEYS = "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n"
_FILE = """drpilot: 1
witness: {site: edge, bucket: witness}
sites:
"""
_SITE = (
    "  {name}: {{cloud: aws, region: {region}, account: '{account}', endpoints: {{default: 'http://127.0.0.1:9'}}, "
    "credentials: {{file: {keys}}}}}\n"
)


class Watch:
    """What is told of a life, and may end it or spoil it; this one does nothing."""

    alive = True

    def called(self, site: str, service: str, operation: str, phase: str) -> None:
        """A call of drpilot, before it is sent, after it was answered, or after it failed."""

    def writing(self) -> None:
        """A transaction of the journal begins."""

    def written(self) -> None:
        """It is durable."""

    def changed(self, changes: Sequence[Any]) -> None:
        """These changes of a run are durable, and nobody acted on them yet."""

    @contextmanager
    def working(self, work: Callable[[], Any]) -> Iterator[None]:
        """Hands carry out a piece of work."""
        yield


class WatchedDatabase(Database):
    """The journal's database; each transaction is told of.

    Lives share its engine, so that connections are opened and statements compiled once: neither is drpilot's memory.
    """

    watch: Watch
    writes: list[int]

    def of(self, watch: Watch) -> WatchedDatabase:
        """The same database as another life has it."""
        found = copy(self)
        found.watch = watch
        return found

    def write(self, work: Callable[[Any], Any]) -> Any:
        self.watch.writing()
        value = super().write(work)
        self.writes[0] += 1
        self.watch.written()
        return value


class Remembering(Journal):
    """The journal; the same is read again only after something was written, by whichever process."""

    database: WatchedDatabase
    read_at: int = -1
    known: dict[Any, Any]

    def _again(self, name: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if self.read_at != self.database.writes[0]:
            self.read_at, self.known = self.database.writes[0], {}
        key = (name, given, *named.items())
        if key not in self.known:
            self.known[key] = getattr(super(), name)(*given, **named)
        return self.known[key]


def _remembered(name: str) -> Any:
    def read(self: Remembering, /, *given: Any, **named: Any) -> Any:
        return self._again(name, given, named)

    return read


for _name in ("view", "news", "runs", "group", "groups", "points", "_exact", "standbys", "unread"):
    setattr(Remembering, _name, _remembered(_name))  # what they give depends on nothing but rows


class VirtualSite(BotoSite):
    """A site whose acts are bounded in virtual time. Threads and the machine's time have no place in a story: under
    load an act would be given up that is not given up when the seed is replayed.
    """

    def bound(self, seconds: float, site: Any, act: Callable[[Any], Any]) -> Any:
        """As `within` has it: what comes too late is dropped, and nothing more is asked."""
        end_s = self._ways.clock.monotonic() + seconds

        def over() -> bool:
            return self._ways.clock.monotonic() > end_s

        try:
            result = act(Bounded(site, over))
        except Exception:
            if over():
                raise too_late(seconds, site) from None
            raise
        if over():
            raise too_late(seconds, site)
        return result


@dataclass
class Life:
    """One process of drpilot: everything it keeps in memory."""

    number: int
    house: House
    database: WatchedDatabase

    @property
    def journal(self) -> Journal:
        return self.house.journal


@dataclass
class Ground:
    """The clouds and the journal of this process."""

    folder: Path
    time: VirtualClock
    clouds: dict[str, Cloud]
    clocks: dict[str, SiteClock]
    network: Network
    clients: dict[str, Clients] = field(default_factory=dict)
    settings: configuration.Configuration | None = None
    elapsed_s: float = 0.0
    before: set[tuple[str, str]] = field(default_factory=set)
    lives: int = 0
    writes: list[int] = field(default_factory=lambda: [0])  # transactions of the journal, counted
    database: WatchedDatabase | None = None
    straight: Straight = field(default_factory=Straight)

    @property
    def journal_file(self) -> Path:
        return self.folder / "journal.db"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """While this lasts, and no longer, this process signs by the ground's time and has the ground's network."""
        with self.network.sockets(), _dated(self.time):
            yield

    # -- lives --------------------------------------------------------------------------------------------

    def live(self, person: str, chance: Chance, watch: Watch | None = None) -> Life:
        """A fresh process of `person`, with nothing in memory but what it reads."""
        watch = watch or Watch()
        self.lives += 1
        if self.database is None:
            self.database = WatchedDatabase(f"sqlite:///{self.journal_file}")
            self.database.writes = self.writes
        database = self.database.of(watch)
        journal = Remembering(database, self.time, chance)
        journal.after_commit = watch.changed
        assert self.settings is not None
        holder = Holder(person, f"machine-{self.lives}", "boot", self.lives, str(self.lives))
        alive: set[str] = set()

        def saw(site: str, service: str, operation: str, phase: str) -> None:
            if phase == "after":
                alive.add(site)
            watch.called(site, service, operation, phase)

        sites = {name: self._site(name, chance, saw) for name in SITES}

        def pulse() -> None:
            for name in sorted(alive):
                journal.saw(name, answers=True, detail="answered a call")
            alive.clear()

        def hire(count: int, name: str) -> Inline:
            return Inline(self.time, chance, watch)

        return Life(
            self.lives,
            House(
                journal=journal,
                configuration=self.settings,
                world=World(sites.__getitem__, lambda: S3Witness(sites["edge"], BUCKET), settle_s=SETTLE_S),
                probe=lambda site, *, timeout_s: self._look(site, chance, watch),
                catalogue=CATALOGUE,
                clock=self.time,
                chance=chance,
                holder=holder,
                person=person,
                account=person,
                lab=True,
                told=as_drpilot_error,
                slots=lambda name: slots_of(self.settings.sites.get(name)) if self.settings else {},
                able=lambda name: sites[name].capabilities,
                pulse=pulse,
                hire=hire,
            ),
            database,
        )

    def _site(self, name: str, chance: Chance, saw: Callable[[str, str, str, str], None]) -> VirtualSite:
        patience = Patience(attempts=4, budget_s=12.0)
        return VirtualSite(
            self.clients[name], Ways(clock=self.time, chance=chance, patience=patience, observer=saw)
        )

    def _look(self, name: str, chance: Chance, watch: Watch) -> Look:
        """One look, as wiring has it, without its thread."""
        ways = Ways(clock=self.time, chance=chance, reaching=1, observer=watch.called)
        site = BotoSite(self.clients[name], ways)
        try:
            site.call("ec2", "DescribeRegions", {})
            identity = site.connect()
        except (CloudError, DrpilotError) as error:
            known = as_drpilot_error(error) if isinstance(error, CloudError) else error
            refusal = (
                known.word
                if known.word in ("credentials", "no-credentials", "wrong-account", "denied")
                else ""
            )
            return Look(name, answers=False, detail=known.why or known.title, refusal=refusal)
        arn = f"answers as {identity.arn}"
        return Look(name, answers=True, detail=arn, account=identity.account, skew_s=identity.skew_s)

    # -- the start state ----------------------------------------------------------------------------------

    def save(self) -> None:
        """Keep everything as it is now."""
        for cloud in self.clouds.values():
            cloud.save("start")
        self.elapsed_s = self.time.elapsed_s
        assert self.database is not None
        self.database.close()  # SQLite writes its log into the file
        shutil.copy2(self.journal_file, self.folder / "journal.start")
        self.before = {(row["site"], row["id"]) for row in self.inventory()}

    def restore(self) -> None:
        """Put everything back as it was kept."""
        self.time.reset(self.elapsed_s)
        self.lives = 0
        for name, cloud in self.clouds.items():
            self.clocks[name].skew_s = 0.0
            cloud.restore("start")
            cloud.calls.clear()
            cloud.calls_total, cloud.errors = 0, []
            cloud.buckets.clear()
            beside = runtime(cloud)
            beside.power_off()
            beside.turn, beside.last_tick = 0, (-1e9, -1e9)
        self.writes[0] += 1
        if self.database is not None:
            self.database.close()
        for path in self.folder.glob("journal.db*"):
            path.unlink()
        shutil.copy2(self.folder / "journal.start", self.journal_file)

    def inventory(self) -> list[dict[str, Any]]:
        """Everything that exists on all three sites."""
        return [{**row, "site": name} for name, cloud in self.clouds.items() for row in cloud.inventory()]

    def witness(self) -> dict[str, Any] | None:
        """What stands in the witness, read behind everybody's back; None before anything was written."""
        edge = self.clouds["edge"]
        try:
            reply = edge.invoke("s3", "GetObject", {"Bucket": BUCKET, "Key": f"{GROUP}.json"})
        except Refusal:
            return None
        body = reply["Body"]
        found: dict[str, Any] = json.loads(body if isinstance(body, (bytes, str)) else body.read())
        return found

    def close(self) -> None:
        """End the clouds."""
        for cloud in self.clouds.values():
            cloud.close()
        self.network.close()


@contextmanager
def made(folder: Path) -> Iterator[Ground]:
    """The ground with the shop protected and replicated once, kept as the start of every story."""
    time = VirtualClock()
    clouds = start_in_process(folder / "lab", dict.fromkeys(SITES, "aws"), clock=time, speed=SPEED)
    clocks = {name: SiteClock(time) for name in SITES}
    network = Network()
    for name, cloud in clouds.items():
        cloud.clock = clocks[name]
        network.attach(cloud)
    ground = Ground(folder, time, clouds, clocks, network)
    with ExitStack() as stack:
        stack.callback(ground.close)
        with ground.entered():
            text = _build(ground)
            _protect(ground, text)
            ground.save()
        yield ground


@contextmanager
def _dated(time: VirtualClock) -> Iterator[None]:
    """Botocore signs with the virtual time."""
    real = botocore.auth.get_current_datetime
    botocore.auth.get_current_datetime = lambda remove_tzinfo=True: time.now().replace(tzinfo=None)
    try:
        yield
    finally:
        botocore.auth.get_current_datetime = real


def _build(ground: Ground) -> str:
    """The shop at home and what it needs on the other side; gives the group file."""
    time, clouds = ground.time, ground.clouds
    doors = {name: Door(cloud, ground.folder) for name, cloud in clouds.items()}
    size = shop.Plan(
        home_network="127.16.0.0/16",
        away_network="127.17.0.0/16",
        data_volumes=2,
        blocks=2,
        app_count=1,
        web_count=1,
        clock=time,
    )
    built = shop.build(doors["home"], doors["edge"], size)
    prepared = shop.prepare(doors["away"], size)
    doors["edge"]("s3").create_bucket(Bucket=BUCKET)
    text = _FILE
    for name, cloud in clouds.items():
        keys = ground.folder / f"{name}.keys"
        keys.write_text(_KEYS.format(*next(iter(cloud.settings.keys.items()))))
        keys.chmod(0o600)
        text += _SITE.format(name=name, region=cloud.region, account=cloud.account, keys=keys)
        settings = SiteSettings(
            name=name,
            cloud="aws",
            region=cloud.region,
            account=cloud.account,
            endpoints={"default": "http://127.0.0.1:9"},
            credentials=CredentialsReference("file", str(keys)),
        )

        def prepare(session: Any, cloud: Cloud = cloud) -> None:
            attach(session, cloud, read_timeout_s=READ_TIMEOUT_S)
            straight.attach(session, cloud, ground.straight, read_timeout_s=READ_TIMEOUT_S)

        ground.clients[name] = Clients(settings, environment={}, prepare=prepare)
    ground.settings = configuration.parse(text, ground.folder)
    return shop.group_file(built, prepared, size)


def _protect(ground: Ground, text: str) -> None:
    """Protect the shop and replicate it until it is."""
    from drpilot.services.attend import attend
    from drpilot.services.begin import Asking, begin, propose

    life = ground.live("oncall", Chance(0))
    protect(life.house, text, "shop.yaml")
    run = begin(life.house, propose(life.house, "replicate", GROUP, Asking()), None)
    ended = attend(life.house, run.id)
    assert (ended.state, ended.result) == ("finished", "succeeded"), ended.result
    assert life.journal.group(GROUP).state == "protected"
