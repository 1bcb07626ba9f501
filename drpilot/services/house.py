"""What every service is handed: the journal, the sites, the actions, the clock. Built by `drpilot.wiring` alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from drpilot.base.clock import Chance, Clock
from drpilot.base.errors import DrpilotError
from drpilot.domain.path import Path, path_between
from drpilot.domain.ports import Action, CloudError, Site
from drpilot.domain.run import Holder
from drpilot.engine.context import World
from drpilot.engine.drive import Driver
from drpilot.engine.hands import Hire, Threads
from drpilot.inventory.configuration import Configuration
from drpilot.journal.journal import Journal

__all__ = ["SPOKEN", "House", "Look", "Prober", "unlimited", "untold", "untried"]

SPOKEN = ("credentials", "wrong-account", "denied")
"""Refusals that a site itself has said: a sign of life."""


def untold(error: CloudError) -> DrpilotError:
    """A cloud's error as the catalogue has it, where nobody knows it better; wiring does."""
    why = error.message or error.code
    return DrpilotError("cloud-failure", site=error.site, operation=error.operation, code=error.code, why=why)


def unlimited(site: str) -> Mapping[str, int]:
    """How much long work of each kind a site does at once, where nobody knows; wiring does."""
    return {}


def untried(site: str) -> frozenset[str]:
    """What a site can do, where nobody knows: what two clouds that copy by themselves can; wiring knows better."""
    return frozenset({"ec2:CopySnapshot", "ec2:CopyImage", "ebs"})


@dataclass(frozen=True, slots=True)
class Look:
    """What one bounded look at a site saw.

    `answers`: it can be used. `refusal` is the catalogue's word where the trouble lies with our keys and not with the
    site: credentials, no-credentials, wrong-account, denied. Such a site may well be alive.
    """

    site: str
    answers: bool
    detail: str
    account: str = ""
    skew_s: float | None = None
    endpoints: Mapping[str, str] = field(default_factory=dict)
    refusal: str = ""

    @property
    def alive(self) -> bool:
        """Whether somebody answered at all."""
        return self.answers or self.refusal in SPOKEN


class Prober(Protocol):
    """How a service looks at a site without trusting it: bounded, never raises for what a cloud does."""

    def __call__(self, site: str, *, timeout_s: float) -> Look:
        """Look at `site` for at most `timeout_s` seconds."""


@dataclass(slots=True)
class House:
    """One installation at work. `person` is who asks, `account` what tells persons apart: the login (in the lab
    the person's name, so that one terminal can play two people). `lab` says that everything is simulated.
    """

    journal: Journal
    configuration: Configuration
    world: World
    probe: Prober
    catalogue: Mapping[str, Action[Any, Any]]
    clock: Clock
    chance: Chance
    holder: Holder
    person: str
    account: str
    lab: bool = False
    told: Callable[[CloudError], DrpilotError] = untold
    slots: Callable[[str], Mapping[str, int]] = unlimited
    able: Callable[[str], frozenset[str]] = untried
    pulse: Callable[[], None] = lambda: None
    stop: threading.Event = field(default_factory=threading.Event)
    parallel: int = 16
    hire: Hire = Threads

    def site(self, name: str) -> Site:
        """The site of that name, connected and with its account checked."""
        return self.world.site(name)

    def path(self, source: str, target: str) -> Path:
        """How bytes get from one site to another, by what both can do."""
        return path_between(self.able(source), self.able(target))

    def alike(self, source: str, target: str) -> bool:
        """Whether two sites are clouds of a kind, which copy by themselves and call things by the same names."""
        return self.path(source, target).kind == "copy"

    def driver(self, seen: Callable[[Any], None] | None = None) -> Driver:
        """A driver for this house's journal."""
        driver = Driver(
            self.journal,
            self.catalogue,
            self.world,
            self.clock,
            pulse=self.pulse,
            stop=self.stop,
            parallel=self.parallel,
            hire=self.hire,
        )
        if seen is not None:
            driver.seen = seen
        return driver
