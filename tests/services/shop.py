"""The sample shop in the lab as a house over clouds in this process: its looks, its runs, and what others do to it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from drpilot.actions.catalogue import CATALOGUE
from drpilot.base.clock import Chance, RealClock
from drpilot.clouds.witness import S3Witness
from drpilot.domain.ports import CloudError
from drpilot.engine.context import World as Outside
from drpilot.inventory.configuration import Configuration, SiteSettings
from drpilot.journal.database import Database
from drpilot.journal.holder import present_holder
from drpilot.journal.journal import Journal
from drpilot.services.begin import Asking, begin, propose
from drpilot.services.check import CheckReport, check
from drpilot.services.house import House, Look
from tests.actions.world import BUCKET, World

CLOCK = RealClock()


class Shop:
    """A house over the lab, with its journal."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.hanging: set[str] = set()
        self.skew_s: dict[str, float] = {}
        self.release = threading.Event()
        journal = Journal(Database(f"sqlite:///{folder}/journal.db"), CLOCK, Chance(5))
        sites = {
            name: SiteSettings(name, "aws", site.region, cloud.settings.account)
            for (name, site), cloud in zip(world.sites.items(), world.clouds.values(), strict=True)
        }
        self.house = House(
            journal=journal,
            configuration=Configuration(folder, journal.database.url, None, sites, {}),
            world=Outside(lambda name: world.sites[name], lambda: S3Witness(world.sites["edge"], BUCKET)),
            probe=self.probe,
            catalogue=CATALOGUE,
            clock=CLOCK,
            chance=Chance(6),
            holder=present_holder("tester"),
            person="tester",
            account="tester",
            lab=True,
        )

    def probe(self, site: str, *, timeout_s: float) -> Look:
        """A bounded look, as wiring makes it, over the clouds in this process."""
        if site in self.hanging:
            self.release.wait(timeout_s)
            return Look(site, answers=False, detail=f"no answer within {timeout_s:g} s")
        try:
            account = self.world.sites[site].call("sts", "GetCallerIdentity", {})["Account"]
        except CloudError as error:
            return Look(site, answers=False, detail=error.code)
        return Look(site, answers=True, detail="answers", account=account, skew_s=self.skew_s.get(site, 0.2))

    def run(self, mode: str) -> str:
        """Begin a run as the service does and drive it to its end."""
        run = begin(self.house, propose(self.house, mode, "shop", Asking(reason="a test")), None)
        return str(self.house.driver().drive(run.id, self.house.holder).view.result)

    def look(self, **more: Any) -> CheckReport:
        """Check the group."""
        return check(self.house, "shop", **more)

    def found(self) -> dict[str, list[str]]:
        """Check → the words of what it found, each with its message."""
        result: dict[str, list[str]] = {}
        for item in self.look().findings:
            assert item.finding is not None
            assert item.hint
            result.setdefault(item.word, []).append(item.finding.message)
        return result

    def call(self, site: str, operation: str, service: str = "ec2", **params: Any) -> Any:
        """One call of somebody who is not drpilot."""
        return self.world.sites[site].call(service, operation, params)

    def until(self, site: str, instance: str, state: str) -> None:
        """Wait until a machine has come to a state."""
        for _ in range(600):
            found = self.call(site, "DescribeInstances", InstanceIds=[instance])["Reservations"][0]
            if found["Instances"][0]["State"]["Name"] == state:
                return
            CLOCK.sleep(0.05)
        raise AssertionError(f"{instance} never was {state}")

    @property
    def standby(self) -> str:
        """The database's standby instance."""
        facts = {item.tier: item.facts for item in self.house.journal.standbys("shop")}["db"]
        return str(next(iter(facts["instances"].values())))
