"""The lab as a person uses it: two clouds and an edge on this machine, the sample shop on one of them, and a home of
its own with drpilot.yaml and shop.yaml, so that `--lab` on any command means this little world and nothing else.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drpilot.base.errors import DrpilotError
from drpilot.base.ids import digest
from drpilot.clouds.credentials import CredentialsReference
from drpilot.clouds.session import Clients, SiteSettings
from drpilot.inventory import configuration
from drpilot.lab import shop
from drpilot.lab.faults import KINDS
from drpilot.lab.process import DEFAULT_SPEED, LabError, SiteAccess, World

__all__ = ["Lab"]

BUCKET = "drpilot-witness"
_SHOP_PORT = 8080
SERVICES = ("ec2", "ebs", "sts", "autoscaling", "elbv2", "route53", "s3", "kms", "service-quotas")


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

    def up(self, *, speed: float | None = None) -> Started:
        """Start the three processes; the first time also build the shop and write the files."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _named():
            sites = self.world.up(speed=speed if speed is not None else DEFAULT_SPEED)
        if self.shop_file.exists():
            return Started(sites, built=False)
        self._write_configuration(sites)
        built = self._build(sites)
        (self.folder / "built.json").write_text(json.dumps(built, indent=2, default=str))
        self.shop_file.write_text(built["group_file"])
        return Started(sites, built=True)

    def clients(self, site: SiteAccess) -> Clients:
        """Unchanged botocore clients of a lab site."""
        endpoints = dict.fromkeys(SERVICES, site.endpoint)
        keys = CredentialsReference("file", str(self.folder / f"{site.name}.keys"))
        settings = SiteSettings(
            site.name, "aws", site.region, site.account, endpoints=endpoints, credentials=keys
        )
        return Clients(settings)

    def _write_configuration(self, sites: Mapping[str, SiteAccess]) -> None:
        lines = ["drpilot: 1", f"witness: {{site: edge, bucket: {BUCKET}}}", "sites:"]
        for site in sites.values():
            keys = self.folder / f"{site.name}.keys"
            keys.write_text(
                f"[default]\naws_access_key_id = {site.access_key}\naws_secret_access_key = {site.secret_key}\n"
            )
            keys.chmod(0o600)
            endpoints = ", ".join(f"{service}: {site.endpoint!r}" for service in SERVICES)
            lines.append(
                f'  {site.name}: {{cloud: aws, region: {site.region}, account: "{site.account}",'
                f" endpoints: {{{endpoints}}}, credentials: {{file: {keys}}}}}"
            )
        (self.folder / configuration.FILE).write_text("\n".join(lines) + "\n")

    def _build(self, sites: Mapping[str, SiteAccess]) -> dict[str, Any]:
        clients = {name: self.clients(site) for name, site in sites.items()}
        clients["edge"].client("s3").create_bucket(Bucket=BUCKET)
        plan = _plan(self.folder)
        built = shop.build(clients["home"].client, clients["edge"].client, plan)
        prepared = shop.prepare(clients["away"].client, plan)
        return {**built, "prepared": prepared, "group_file": shop.group_file(built, prepared, plan)}

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
