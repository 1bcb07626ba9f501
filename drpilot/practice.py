"""The lab as a person uses it: two clouds and an edge on this machine, the sample shop on one of them, and a home of
its own with drpilot.yaml and shop.yaml, so that `--lab` on any command means this little world and nothing else.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drpilot.base.errors import DrpilotError
from drpilot.base.ids import digest
from drpilot.clouds.credentials import CredentialsReference
from drpilot.clouds.session import Clients, SiteSettings
from drpilot.inventory import configuration
from drpilot.lab import shop
from drpilot.lab.access import site_clients
from drpilot.lab.faults import KINDS
from drpilot.lab.process import DEFAULT_SPEED, PAIRS, LabError, SiteAccess, World, pair_of

__all__ = ["DEFAULT_PAIR", "EUCALYPTUS", "Lab"]

BUCKET = "drpilot-witness"
DEFAULT_PAIR = "aws-aws"
EUCALYPTUS = "4.4"
_SHOP_PORT = 8080
SERVICES = (
    "ec2",
    "ebs",
    "sts",
    "autoscaling",
    "elbv2",
    "route53",
    "s3",
    "kms",
    "service-quotas",
    "cloudwatch",
)
_BESIDE_EUCALYPTUS = ("elb",)


@dataclass(frozen=True, slots=True)
class Started:
    """What `up` answers: the sites, and whether the shop was built just now."""

    sites: Mapping[str, SiteAccess]
    built: bool


class Lab:
    """One lab in one folder: `clouds/` with the simulated sites, drpilot.yaml, shop.yaml, journal.db."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = World(folder / "clouds")

    @property
    def shop_file(self) -> Path:
        """The group file of the sample shop."""
        return self.folder / "shop.yaml"

    @property
    def exists(self) -> bool:
        """Whether the lab was ever brought up completely."""
        return self.shop_file.exists() and self.world.exists

    @property
    def pair(self) -> str | None:
        """The kinds of cloud that home and away are; None before the lab was ever started."""
        sites = self.world.sites()
        if not {"home", "away"} <= sites.keys():
            return None
        kinds = tuple("aws" if sites[name].dialect == "aws" else "eucalyptus" for name in ("home", "away"))
        return next(name for name, pair in PAIRS.items() if pair == kinds)

    def up(
        self, *, speed: float | None = None, pair: str | None = None, euca_version: str = EUCALYPTUS
    ) -> Started:
        """Start the three processes; the first time also build the shop and write the files.

        A lab keeps the pair it was made with; asking for another one is DrpilotError `usage`.
        """
        dialects = self._dialects(pair, euca_version)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _named():
            sites = self.world.up(speed=speed if speed is not None else DEFAULT_SPEED, dialects=dialects)
        if self.shop_file.exists():
            return Started(sites, built=False)
        self._write_configuration(sites)
        built = self._build(sites)
        (self.folder / "built.json").write_text(json.dumps(built, indent=2, default=str))
        self.shop_file.write_text(built["group_file"])
        return Started(sites, built=True)

    def _dialects(self, pair: str | None, euca_version: str) -> dict[str, str]:
        try:
            wanted = pair_of(pair or self.pair or DEFAULT_PAIR, euca_version)
        except (KeyError, ValueError):
            what = f"--pair {pair} with Eucalyptus {euca_version} is not in the lab"
            hint = f"pairs: {', '.join(PAIRS)}; versions: 3.4, 4.4, 5"
            raise DrpilotError("usage", what=what, hint=hint) from None
        if self.pair is None:
            return wanted
        there = {name: site.dialect for name, site in self.world.sites().items() if name in wanted}
        if pair is not None and there != wanted:
            shown = " and ".join(there.values())
            what = f"this lab was made of {shown}, not of {' and '.join(wanted.values())}"
            raise DrpilotError("usage", what=what, hint="drpilot lab reset, then lab up with the other pair")
        return there

    def clients(self, site: SiteAccess) -> Callable[[str], Any]:
        """Unchanged botocore clients of a lab site, by service."""
        if site.dialect != "aws":
            return site_clients(site)
        endpoints = dict.fromkeys(SERVICES, site.endpoint)
        keys = CredentialsReference("file", str(self.folder / f"{site.name}.keys"))
        settings = SiteSettings(
            site.name, "aws", site.region, site.account, endpoints=endpoints, credentials=keys
        )
        return Clients(settings).client

    def _write_configuration(self, sites: Mapping[str, SiteAccess]) -> None:
        lines = ["drpilot: 1", f"witness: {{site: edge, bucket: {BUCKET}}}", "sites:"]
        for site in sites.values():
            keys = self.folder / f"{site.name}.keys"
            keys.write_text(
                f"[default]\naws_access_key_id = {site.access_key}\naws_secret_access_key = {site.secret_key}\n"
            )
            keys.chmod(0o600)
            services = SERVICES if self.pair == DEFAULT_PAIR else (*SERVICES, *_BESIDE_EUCALYPTUS)
            endpoints = ", ".join(f"{service}: {site.endpoint!r}" for service in services)
            if site.dialect != "aws":  # one front end; the paths of the services are the dialect's business
                endpoints = f"default: {site.endpoint!r}"
            lines.append(
                f'  {site.name}: {{cloud: {site.dialect}, region: {site.region}, account: "{site.account}",'
                f" endpoints: {{{endpoints}}}, credentials: {{file: {keys}}}}}"
            )
        (self.folder / configuration.FILE).write_text("\n".join(lines) + "\n")

    def _build(self, sites: Mapping[str, SiteAccess]) -> dict[str, Any]:
        clients = {name: self.clients(site) for name, site in sites.items()}
        clients["edge"]("s3").create_bucket(Bucket=BUCKET)
        plan = replace(_plan(self.folder), home=sites["home"].dialect, away=sites["away"].dialect)
        for name, block in (("home", plan.home_network), ("away", plan.away_network)):
            if sites[name].dialect != "aws":
                self.control(name, "tune", classic_network=block)
        here, there = (self._by_hand(plan, name) for name in ("home", "away"))
        built = shop.build(clients["home"], clients["edge"], here)
        prepared = shop.prepare(clients["away"], there)
        return {**built, "prepared": prepared, "group_file": shop.group_file(built, prepared, plan)}

    def _by_hand(self, plan: shop.Plan, site: str) -> shop.Plan:
        """The plan for a site that takes no images in: somebody writes onto its volumes, at a machine that has them."""
        if getattr(plan, site) != "eucalyptus-3.4":
            return plan

        def write(volume_id: str, offset: int, data: bytes) -> None:
            self.control(site, "write", volume=volume_id, offset=offset, data=base64.b64encode(data).decode())

        return replace(plan, write=write)

    def built(self) -> dict[str, Any]:
        """What the shop was built of: ids, and the digest of each data volume by its index."""
        found: dict[str, Any] = json.loads((self.folder / "built.json").read_text())
        found["data"] = {int(index): digest for index, digest in found["data"].items()}
        return found

    def control(self, site: str, command: str, **payload: Any) -> dict[str, Any]:
        """Ask a site's control plane; raises `lab-site`, `lab-fault` or `lab-down`."""
        if site not in self.world.sites():
            raise DrpilotError("lab-site", site=site) if self.world.exists else DrpilotError("lab-down")
        with _named():
            return self.world.control(site, command, **payload)

    def down(self) -> list[str]:
        """Stop the processes; the state stays."""
        return self.world.down()

    def reset(self) -> None:
        """Stop the processes and remove everything, the lab's journal included; `up` builds it anew."""
        self.down()
        shutil.rmtree(self.folder, ignore_errors=False)

    def read_back(self, site: str, volumes: list[str]) -> list[shop.Reading]:
        """Read data volumes straight from a simulated cloud's folder, by a reader of its own."""
        return shop.read_back(self.folder / "clouds" / "sites" / site, volumes)


def _plan(folder: Path) -> shop.Plan:
    """The shop in networks of its own: guests really listen there, so two labs must not share them."""
    first = int(digest(str(folder))[:6], 16) % 100
    for step in range(100):
        number = 16 + 2 * ((first + step) % 100)
        if not any(_listens(f"127.{each}.1.254") for each in (number, number + 1)):
            return shop.Plan(home_network=f"127.{number}.0.0/16", away_network=f"127.{number + 1}.0.0/16")
    raise DrpilotError("lab-failed", site="home", what="no free loopback network is left", log="-")


def _listens(address: str) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((address, _SHOP_PORT)) == 0


@contextmanager
def _named() -> Iterator[None]:
    """Turn the lab's own errors into the catalogue's."""
    try:
        yield
    except LabError as error:
        text = str(error)
        if "does not run" in text:
            raise DrpilotError("lab-down", why=text) from error
        if "fault" in text:
            raise DrpilotError("lab-fault", what=text, kinds=", ".join(KINDS)) from error
        raise DrpilotError("lab-failed", site="one site", what=text, log="clouds/sites/NAME/log") from error
