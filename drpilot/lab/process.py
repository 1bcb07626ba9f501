"""Starting and stopping a lab: one process a site, or all sites as objects in this process.

A world lives in a directory: `world.json` (sites, ports, pids), `credentials` (an AWS credentials file with
one profile a site, mode 600) and one directory a site with its state. Ports are chosen once, when a world is
made, so that endpoints stay true over `down` and `up`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drpilot.base.clock import Chance, Clock, RealClock
from drpilot.lab.cloud import Cloud
from drpilot.lab.eucalyptus.services import endpoints_of
from drpilot.lab.remote import ControlError, ask_control
from drpilot.lab.server import settings_from
from drpilot.lab.traits import DIALECTS

__all__ = ["PAIRS", "SITES", "LabError", "SiteAccess", "World", "pair_of", "start_in_process"]

SITES: dict[str, dict[str, str]] = {
    "home": {"region": "eu-south-1", "account": "111111111111"},
    "away": {"region": "eu-west-1", "account": "222222222222"},
    "edge": {"region": "us-east-1", "account": "333333333333"},
}
"""The sites of a lab; `edge` serves the names and the witness."""
PAIRS: dict[str, tuple[str, str]] = {
    "aws-aws": ("aws", "aws"),
    "euca-aws": ("eucalyptus", "aws"),
    "aws-euca": ("aws", "eucalyptus"),
}
"""Kinds of cloud that home and away are, by the name of the pair; the edge is always aws."""
EUCALYPTUS_REGION = "eucalyptus"
DEFAULT_SPEED = 4.0
_START_S = 20.0
_STOP_S = 10.0
_CHILDREN: list[subprocess.Popen[bytes]] = []


class LabError(Exception):
    """A lab could not be started, stopped or asked; the message says what to do."""


@dataclass(frozen=True, slots=True)
class SiteAccess:
    """What a client needs to use one site. `endpoint` serves every service of an AWS dialect; `endpoints` has
    the URL of each service anywhere. `login` is (account, user, password) where a cloud has those.
    """

    name: str
    region: str
    account: str
    endpoint: str
    control: str
    access_key: str
    secret_key: str
    dialect: str = "aws"
    endpoints: Mapping[str, str] = field(default_factory=dict)
    login: tuple[str, ...] = ()

    def endpoint_of(self, service: str) -> str:
        """The URL of a service, by botocore's name; KeyError where the site has no such service."""
        return self.endpoints[service] if self.endpoints else self.endpoint


def pair_of(name: str, version: str = "4.4") -> dict[str, str]:
    """The dialects of home and away for a pair's name and a version of Eucalyptus; KeyError, ValueError."""
    dialects = dict(zip(("home", "away"), PAIRS[name], strict=True))
    named = {site: f"eucalyptus-{version}" if kind != "aws" else kind for site, kind in dialects.items()}
    for dialect in named.values():
        if dialect not in DIALECTS:
            raise ValueError(f"the lab has no dialect {dialect}; it has {', '.join(DIALECTS)}")
    return named


def _fresh_entry(
    name: str, speed: float, seed: str | None, chance: Chance, dialect: str = "aws"
) -> dict[str, Any]:
    """A new site with keys of its own; with a seed everything but the ports is the same every time."""
    own = seed if seed is not None else f"{chance.bits(128):032x}"
    mark = hashlib.sha256(f"{own}/{name}".encode()).hexdigest()
    return {
        "name": name,
        **SITES[name],
        **({} if dialect == "aws" else _eucalyptus_entry(name, mark)),
        "dialect": dialect,
        "speed": speed,
        "seed": own,
        "access_key": f"AKIALAB{mark[:13].upper()}",
        "secret_key": mark[13:53],
    }


def _eucalyptus_entry(name: str, mark: str) -> dict[str, Any]:
    """Region and login; both sites of a lab may be called eucalyptus, but only one is."""
    return {"region": EUCALYPTUS_REGION, "login": [f"{name}-shop", "admin", mark[53:64]]}


def _write(path: Path, text: str, mode: int = 0o600) -> None:
    draft = path.with_name(f".{path.name}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(draft, path)


def _free_ports(count: int, chance: Chance) -> list[int]:
    """Different free ports below the range the system takes for outgoing connections: during an outage a site's
    port is closed for a while, and nobody else may get it meanwhile.
    """
    found: list[int] = []
    while len(found) < count:
        port = 18_000 + chance.bits(16) % 14_000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


class World:
    """The lab in one directory, each site a process of its own."""

    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        self.directory = directory
        self._clock: Clock = clock or RealClock()

    @property
    def exists(self) -> bool:
        """Whether the world was made."""
        return (self.directory / "world.json").exists()

    @property
    def credentials(self) -> Path:
        """The AWS credentials file with one profile a site."""
        return self.directory / "credentials"

    def create(
        self,
        sites: Sequence[str] = tuple(SITES),
        *,
        speed: float = DEFAULT_SPEED,
        seed: str | None = None,
        dialects: Mapping[str, str] | None = None,
    ) -> None:
        """Make the world: keys, ports and directories; nothing is started. Sites that are there stay. Those not
        in `dialects` are aws.
        """
        (self.directory / "sites").mkdir(parents=True, exist_ok=True)
        for name in sites:
            home = self.directory / "sites" / name
            if (home / "site.json").exists():
                continue
            entry = _fresh_entry(name, speed, seed, Chance(), (dialects or {}).get(name, "aws"))
            entry.update(zip(("api_port", "control_port"), _free_ports(2, Chance()), strict=True))
            home.mkdir(exist_ok=True)
            _write(home / "site.json", json.dumps(entry, indent=2))
        self._write_world({})

    def _entries(self) -> dict[str, dict[str, Any]]:
        """The sites, in the order of SITES."""
        found = {}
        for name in SITES:
            path = self.directory / "sites" / name / "site.json"
            if path.exists():
                found[name] = json.loads(path.read_text())
        return found

    def _write_world(self, pids: Mapping[str, int | None]) -> None:
        known = self._pids()
        sites, profiles = {}, []
        for name, entry in self._entries().items():
            access = self._access(entry)
            sites[name] = {
                "region": access.region,
                "account": access.account,
                "dialect": access.dialect,
                "endpoint": access.endpoint,
                "control": access.control,
                "pid": pids[name] if name in pids else known.get(name),
            }
            profiles.append(
                f"[{name}]\naws_access_key_id = {access.access_key}\n"
                f"aws_secret_access_key = {access.secret_key}\n"
            )
        _write(self.directory / "world.json", json.dumps({"sites": sites}, indent=2), 0o644)
        _write(self.credentials, "\n".join(profiles))

    def _pids(self) -> dict[str, int | None]:
        if not self.exists:
            return {}
        sites = json.loads((self.directory / "world.json").read_text())["sites"]
        return {name: entry["pid"] for name, entry in sites.items()}

    def _access(self, entry: dict[str, Any]) -> SiteAccess:
        origin, dialect = f"http://127.0.0.1:{entry['api_port']}", entry.get("dialect", "aws")
        version = DIALECTS[dialect].version
        return SiteAccess(
            entry["name"],
            entry["region"],
            entry["account"],
            origin,
            f"http://127.0.0.1:{entry['control_port']}",
            entry["access_key"],
            entry["secret_key"],
            dialect,
            endpoints_of(version, origin) if version else {},
            tuple(entry.get("login", ())),
        )

    def sites(self) -> dict[str, SiteAccess]:
        """How to reach each site, whether it runs or not."""
        return {name: self._access(entry) for name, entry in self._entries().items()}

    # -- processes --------------------------------------------------------------------------------------

    def up(
        self,
        sites: Sequence[str] = tuple(SITES),
        *,
        speed: float = DEFAULT_SPEED,
        dialects: Mapping[str, str] | None = None,
    ) -> dict[str, SiteAccess]:
        """Start the sites that don't run and wait until each answers; makes the world when there is none.

        Raises LabError when a site doesn't answer within 20 seconds.
        """
        if not self.exists or set(sites) - set(self._entries()):
            self.create(sites, speed=speed, dialects=dialects)
        started = {}
        for name in sites:
            if self.answers(name) is None:
                started[name] = self._spawn(name)
        self._write_world({name: process.pid for name, process in started.items()})
        for name, process in started.items():
            self._await(name, process)
        return self.sites()

    def _spawn(self, name: str) -> subprocess.Popen[bytes]:
        """Start a site's process, detached; it outlives this one."""
        home = self.directory / "sites" / name
        command = [
            sys.executable,
            "-m",
            "drpilot.lab.server",
            "--directory",
            str(self.directory),
            "--name",
            name,
        ]
        with open(home / "log", "ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        _CHILDREN.append(process)
        return process

    def _await(self, name: str, process: subprocess.Popen[bytes]) -> None:
        end = self._clock.monotonic() + _START_S
        while self._clock.monotonic() < end:
            if self.answers(name) is not None:
                return
            if process.poll() is not None:
                break
            self._clock.sleep(0.03)
        log = (self.directory / "sites" / name / "log").read_text(errors="replace").strip().splitlines()
        why = log[-1] if log else "it did not answer in time"
        with contextlib.suppress(OSError):
            process.kill()
        raise LabError(f"site {name} of the lab did not start: {why}")

    def answers(self, name: str) -> dict[str, Any] | None:
        """The site's status, or None when it does not run. Another lab on the same port is an error."""
        entry = self._entries().get(name)
        if entry is None:
            return None
        try:
            status = ask_control(f"http://127.0.0.1:{entry['control_port']}", "status", timeout_s=3.0)
        except (OSError, ValueError, ControlError):
            return None
        if (status.get("name"), status.get("api")) != (name, f"http://127.0.0.1:{entry['api_port']}"):
            raise LabError(
                f"port {entry['control_port']} of site {name} is used by another lab; reset this one"
            )
        return status

    def down(self, sites: Sequence[str] | None = None) -> list[str]:
        """Stop the sites' processes, first kindly, after 10 seconds for good; gives those that ran."""
        stopped = []
        for name in sites or list(self._entries()):
            status = self.answers(name)
            if status is None:
                continue
            self.control(name, "shutdown")
            self._await_end(int(status["pid"]))
            stopped.append(name)
        if self.exists:
            self._write_world(dict.fromkeys(stopped))
        return stopped

    def _await_end(self, pid: int) -> None:
        end = self._clock.monotonic() + _STOP_S
        while self._clock.monotonic() < end:
            if not _alive(pid):
                return
            self._clock.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def kill(self, name: str) -> None:
        """End a site's process with SIGKILL, as a crash would."""
        status = self.answers(name)
        if status is None:
            raise LabError(f"site {name} does not run")
        os.kill(int(status["pid"]), signal.SIGKILL)
        self._await_end(int(status["pid"]))

    def status(self) -> dict[str, dict[str, Any] | None]:
        """Each site's status; None for one that does not run."""
        return {name: self.answers(name) for name in self._entries()}

    def reset(self) -> None:
        """Make every site as on the first day, whether it runs or not; keys and ports stay."""
        for name in self._entries():
            if self.answers(name) is not None:
                self.control(name, "reset")
                continue
            home = self.directory / "sites" / name
            for part in ("blocks", "volumes", "labels"):
                shutil.rmtree(home / part, ignore_errors=True)
            for path in home.glob("rows.sqlite*"):
                path.unlink()

    def save(self, label: str) -> None:
        """Keep the state of all running sites under `label`."""
        for name in self._running():
            self.control(name, "snapshot", label=label)

    def restore(self, label: str) -> None:
        """Put the state of all running sites back to `label`, faults included."""
        for name in self._running():
            self.control(name, "restore", label=label)

    def _running(self) -> list[str]:
        return [name for name in self._entries() if self.answers(name) is not None]

    def control(self, name: str, command: str, **payload: Any) -> dict[str, Any]:
        """Ask a site's control plane, e.g. `control("home", "break", fault="lost-reply:ec2.RunInstances@1")`;
        raises LabError when the site does not run or says no.
        """
        entry = self._entries().get(name)
        if entry is None:
            raise LabError(f"the lab has no site {name!r}")
        try:
            return ask_control(f"http://127.0.0.1:{entry['control_port']}", command, payload, timeout_s=60.0)
        except ControlError as error:
            raise LabError(str(error)) from None
        except (OSError, ValueError) as error:
            raise LabError(f"site {name} of the lab does not run: {error}") from None


def _alive(pid: int) -> bool:
    """Whether the process runs; a child of ours that ended is collected on the way."""
    for child in _CHILDREN:
        if child.pid == pid:
            return child.poll() is None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def start_in_process(
    directory: Path,
    sites: Sequence[str] | Mapping[str, str] = tuple(SITES),
    *,
    clock: Clock | None = None,
    speed: float = 1.0,
    background: bool = False,
) -> dict[str, Cloud]:
    """The same clouds as objects, their paths laid directly; keys and ids are the same every time. `sites` are
    names, or names with dialects.

    Without `background` no thread runs: what is due happens with the next call, which makes tests with a
    manual clock deterministic.
    """
    clouds: dict[str, Cloud] = {}
    for name in sites:
        dialect = sites[name] if isinstance(sites, Mapping) else "aws"
        entry = _fresh_entry(name, speed, "lab", Chance(0), dialect)
        cloud = Cloud.open(directory / name, settings_from(entry), clock)
        for other in clouds.values():
            cloud.connect(other)
        clouds[name] = cloud
    if background:
        for cloud in clouds.values():
            cloud.start()
    return clouds
