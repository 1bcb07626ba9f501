"""The only place that knows adapters and core together: from drpilot.yaml to a house at work."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import IO

from drpilot.actions.catalogue import CATALOGUE
from drpilot.base.clock import Chance, Clock, RealClock
from drpilot.base.errors import DrpilotError
from drpilot.base.log import Secret
from drpilot.clouds.blocks import block_plane
from drpilot.clouds.credentials import read_text
from drpilot.clouds.detection import detect
from drpilot.clouds.dialects import DIALECTS
from drpilot.clouds.failures import NoEndpoint, as_drpilot_error
from drpilot.clouds.login import log_in
from drpilot.clouds.objects import object_plane
from drpilot.clouds.session import Clients, profile_region
from drpilot.clouds.site import BotoSite, Ways
from drpilot.clouds.witness import S3Witness
from drpilot.clouds.witness_item import ItemWitness
from drpilot.clouds.witness_row import RowWitness
from drpilot.domain.ports import BlockPlane, CloudError, Site, Transfers, Witness
from drpilot.doors import cloud_settings, home_of, told
from drpilot.engine.context import World
from drpilot.inventory import configuration, euca2ools
from drpilot.inventory.configuration import Configuration, SiteSettings
from drpilot.journal.database import Database
from drpilot.journal.holder import present_holder
from drpilot.journal.journal import Journal
from drpilot.services.blocks import Doors
from drpilot.services.byhand import Stage
from drpilot.services.house import SPOKEN, House, Look

__all__ = [
    "Sites",
    "block_doors",
    "cloud_settings",
    "home_of",
    "image_stage",
    "kind_of",
    "login_by_password",
    "open_house",
    "region_of",
    "slots_of",
    "told",
]

_REFUSALS = (*SPOKEN, "no-credentials")


def region_of(name: str, profile: str) -> str:
    """The region that the profile of site `name` gives.

    DrpilotError `usage` where it gives none, `no-credentials` where there is no such profile.
    """
    region = profile_region(name, profile)
    if not region:
        what = f"profile {profile} names no region"
        raise DrpilotError("usage", what=what, hint="--region REGION, or `region` in the profile")
    return region


def login_by_password(site: SiteSettings, password: str | None) -> str:
    """Log in to a site and keep the temporary keys; gives when they end (RFC 3339).

    `password` is None where the site says by itself where it comes from. Raises DrpilotError (login-refused,
    password-expired, no-credentials, unreachable).
    """
    settings = cloud_settings(site)
    login = settings.login
    if login is None:
        what = f"site {site.name} has no login by password"
        raise DrpilotError("usage", what=what, hint=f"drpilot site check {site.name}")
    if password is None:
        if login.password is None:
            raise DrpilotError("login-ended", site=site.name, what="no password was given")
        password = read_text(site.name, login.password, os.environ).strip("\r\n")
    try:
        service = Clients(settings).token_service()
    except NoEndpoint as error:
        raise DrpilotError("wrong-value", what=str(error), hint="give endpoints: {sts: URL}") from None
    return str(log_in(site.name, login, Secret(password), service).expires)


def kind_of(site: SiteSettings) -> str:
    """The dialect a site speaks, asked of the site itself where its ini file does not lead to AWS.

    Raises DrpilotError: what stands in the way, or `usage` where the answers tell nothing.
    """
    if site.euca2ools is not None and euca2ools.resolve(site.euca2ools).is_aws:
        return "aws"

    def opened(kind: str) -> BotoSite:
        return BotoSite(Clients(cloud_settings(replace(site, cloud=kind, account=""))), Ways(reaching=1))

    return detect(opened)


def slots_of(site: SiteSettings | None) -> Mapping[str, int]:
    """How much long work of each kind a site does at once: its own word, else its kind of cloud's. Calls nothing.

    Nothing is known of a site that is not configured (any more): a failover must begin all the same.
    """
    if site is None:
        return {}
    return {str(kind): count for kind, count in {**DIALECTS[site.cloud].slots, **site.at_once}.items()}


class Sites:
    """The sites of one configuration, connected when first asked for and kept; remembers signs of life."""

    def __init__(
        self,
        settings: Configuration,
        clock: Clock,
        observer: Callable[[str, str, str, str], None] | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._observer = observer
        self._lock = threading.Lock()
        self._sites: dict[str, BotoSite] = {}
        self._alive: set[str] = set()

    def site(self, name: str) -> BotoSite:
        """The site called `name`; raises `unknown-site`."""
        with self._lock:
            if name not in self._sites:
                settings = cloud_settings(self._settings.site(name))
                self._sites[name] = BotoSite(Clients(settings), Ways(clock=self._clock, observer=self._saw))
            return self._sites[name]

    def _saw(self, site: str, service: str, operation: str, phase: str) -> None:
        if phase == "after":
            self._alive.add(site)
        if self._observer is not None:
            self._observer(site, service, operation, phase)

    def signs_of_life(self) -> set[str]:
        """The sites that answered since this was last asked."""
        alive, self._alive = self._alive, set()
        return alive

    def witness(self) -> Witness:
        """The witness; raises `witness-unreachable` where none is configured."""
        witness = self._settings.witness
        if witness is None:
            raise DrpilotError("witness-unreachable", why="drpilot.yaml names no witness")
        if witness.database:
            return RowWitness(witness.database)
        if witness.table:
            return ItemWitness(self.site(witness.site), witness.table)
        return S3Witness(self.site(witness.site), witness.bucket, witness.prefix)

    def probe(self, site: str, *, timeout_s: float) -> Look:
        """One bounded look with clients of its own: who answers, as whom, and how far off its clock is."""
        box: Queue[Look] = Queue()
        # A daemon: what hangs must not keep the process alive past the bound.
        Thread(target=lambda: box.put(self._look(site)), name=f"look-{site}", daemon=True).start()
        try:
            return box.get(timeout=timeout_s)
        except Empty:
            return Look(site, answers=False, detail=f"no answer within {timeout_s:g} s")

    def told(self, error: CloudError) -> DrpilotError:
        """A cloud's error as the catalogue has it, with what is configured for its site."""
        settings = self._settings.sites.get(error.site)
        if settings is None:
            return as_drpilot_error(error)
        service = error.operation.partition(":")[0] or "ec2"
        endpoint = self.site(error.site).endpoint(service)
        return as_drpilot_error(error, endpoint=endpoint, account=settings.account)

    def _look(self, site: str) -> Look:
        fresh = BotoSite(
            Clients(cloud_settings(self._settings.site(site))), Ways(clock=self._clock, reaching=1)
        )
        endpoint = fresh.endpoint("ec2")
        try:
            fresh.call("ec2", "DescribeRegions", {})
            identity = fresh.connect()
        except (CloudError, DrpilotError) as error:
            known = self.told(error) if isinstance(error, CloudError) else error
            refusal = known.word if known.word in _REFUSALS else ""
            return Look(site, answers=False, detail=_said(known, endpoint), refusal=refusal)
        except Exception as error:  # noqa: BLE001 - a look reports what it saw, whatever that was
            return Look(site, answers=False, detail=f"{endpoint}: {error}")
        finally:
            fresh.close()
        return Look(
            site,
            answers=True,
            detail=f"answers as {identity.arn}",
            account=identity.account,
            skew_s=identity.skew_s,
            endpoints={"ec2": endpoint},
        )


def _settle_s(settings: Configuration) -> float:
    """How long a fresh thing may stay invisible on the slowest of the sites."""
    return max((DIALECTS[site.cloud].settle_s for site in settings.sites.values()), default=0.0)


def _transfers(sites: Sites, folder: Path, note: Callable[[str], None] | None = None) -> Transfers:
    """What carries bytes between the sites of an installation. `note` is told when another engine than our own has to
    carry a site's blocks.
    """

    def plane(name: str) -> BlockPlane:
        return _plane(sites.site(name), "fast", note)

    return Transfers(
        plane,
        folder / "transfers",
        Chance(),
        lambda name: object_plane(sites.site(name), "fast"),
        lambda name: sites.site(name).endpoint("s3"),
        lambda name: sites.site(name).authority(),
    )


def _plane(site: BotoSite, engine: str, note: Callable[[str], None] | None) -> BlockPlane:
    found = block_plane(site, engine)
    if found.note and note is not None:
        note(f"{site.name}: blocks go by {found.engine}: {found.note}")
    return found


def block_doors(
    *, lab: bool, engine: str, stdin: IO[bytes] | None = None, note: Callable[[str], None] | None = None
) -> Doors:
    """What copies of blocks reach the world by; drpilot.yaml is read when the first site is asked for. `note` is told
    when another engine than the one asked for has to serve a site.
    """
    clock, folder = RealClock(), home_of(lab=lab)
    sites: list[Sites] = []

    def site(name: str) -> BotoSite:
        if not sites:
            sites.append(Sites(configuration.read(folder, lab=lab), clock))
        return sites[0].site(name)

    def plane(name: str) -> BlockPlane:
        return _plane(site(name), engine, note)

    return Doors(site, plane, folder / "transfers", clock, Chance(), stdin)


def image_stage(*, lab: bool, source: str, target: str, note: Callable[[str], None] | None = None) -> Stage:
    """What one image is brought over by: both sites, and what carries bytes. Nothing is called yet. `note` is told when
    another engine than our own has to carry a site's blocks. Raises `unknown-site`, `no-configuration`, `lab-down`.
    """
    folder = home_of(lab=lab)
    if lab and not (folder / "drpilot.yaml").exists():
        raise DrpilotError("lab-down", why=f"no lab was ever started in {folder}")
    settings, clock = configuration.read(folder, lab=lab), RealClock()
    sites = Sites(settings, clock)

    carrying = _transfers(sites, folder, note)
    settle_s = 1.0 if lab else _settle_s(settings)
    return Stage(sites.site(source), sites.site(target), carrying, clock, settle_s)


def open_house(
    *,
    lab: bool,
    person: str | None = None,
    kind: str = "cli",
    home: Path | None = None,
    observer: Callable[[str, str, str, str], None] | None = None,
) -> House:
    """Open an installation: its configuration, journal and sites. Nothing is called yet."""
    folder = home or home_of(lab=lab)
    settings = configuration.read(folder, lab=lab)
    clock, chance = RealClock(), Chance()
    journal = Journal(Database(settings.journal), clock, chance)
    sites = Sites(settings, clock, observer)
    who = settings.who(person)

    def site(name: str) -> Site:
        return sites.site(name)

    def pulse() -> None:
        for name in sites.signs_of_life():
            journal.saw(name, answers=True, detail="answered a call")

    return House(
        journal=journal,
        configuration=settings,
        world=World(
            site,
            sites.witness,
            settle_s=1.0 if lab else _settle_s(settings),
            transfers=_transfers(sites, folder),
        ),
        probe=sites.probe,
        catalogue=CATALOGUE,
        clock=clock,
        chance=chance,
        holder=present_holder(who.name, kind),
        person=who.name,
        account=who.name if lab else who.account or who.name,
        lab=lab,
        told=sites.told,
        slots=lambda name: slots_of(settings.sites.get(name)),
        able=lambda name: site(name).capabilities if name in settings.sites else frozenset(),
        pulse=pulse,
    )


def _said(error: DrpilotError, endpoint: str) -> str:
    """What was seen of a site that can't be used, in one line."""
    if error.word in _REFUSALS:
        return error.title + (f": {error.why}" if error.why else "")
    return f"{endpoint}: {error.why or error.title}"
