"""The yard where drpilot is killed: one lab whose state is put back before each try, and a zygote to fork from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter as Tally
from pathlib import Path
from typing import Any

from drpilot import census
from drpilot.base.clock import Chance, RealClock
from drpilot.clouds.marks import unpacked
from drpilot.journal import chain
from drpilot.journal.database import Database
from drpilot.journal.journal import Journal
from drpilot.practice import Lab
from drpilot.services.check import CheckReport, check
from drpilot.services.house import House
from drpilot.services.hysteresis import split_apart
from drpilot.services.protect import protect
from drpilot.wiring import open_house

SITES = ("home", "away", "edge")
SPEED = 60.0


class Yard:
    """A lab with the shop protected, saved states, and children to kill."""

    def __init__(self, folder: Path, pair: str = "aws-aws") -> None:
        self.folder = folder
        self.pair = pair
        self.zygote: subprocess.Popen[str] | None = None
        self.lab = Lab(folder)

    def open(self) -> None:
        """Start the lab and the zygote, and protect the shop."""
        self.lab.up(speed=SPEED, pair=self.pair)
        house = open_house(lab=True, person="oncall", home=self.folder)
        protect(house, self.lab.shop_file.read_text(), "shop.yaml")
        house.journal.database.close()
        self.zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )
        self.save("protected")

    def save(self, label: str) -> None:
        """Keep the three clouds and the journal under a name."""
        for site in SITES:
            self.lab.control(site, "snapshot", label=label)
        kept = self.folder / f"journal-{label}"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        for path in self.folder.glob("journal.db*"):
            shutil.copy2(path, kept / path.name)

    def restore(self, label: str) -> None:
        """Put the three clouds and the journal back."""
        for path in self.folder.glob("journal.db*"):
            path.unlink()
        for path in (self.folder / f"journal-{label}").iterdir():
            shutil.copy2(path, self.folder / path.name)
        for site in SITES:
            self.lab.control(site, "restore", label=label)
            self.lab.control(site, "calls", clear=True)

    def reach(self, label: str) -> None:
        """Put a state back; one that takes longer to reach is made when it is first asked for."""
        if label == "committed" and not (self.folder / "journal-committed").exists():
            self.restore("dead")
            assert self.run("failover")["ended"].startswith("finished succeeded")
            self.lab.control("home", "heal")
            assert self.run("fence")["ended"].startswith("finished succeeded")
            self.save("committed")
        if label == "split" and not (self.folder / "journal-split").exists():
            self.reach("committed")
            self.wake("home")
            house = open_house(lab=True, person="oncall", home=self.folder)
            self.suspect(house)
            house.journal.database.close()
            self.save("split")
        self.restore(label)

    def wake(self, site: str, *, open_up: bool = True) -> str:
        """Somebody starts the database of a side that was given up, by hand; its id.

        With `open_up` it gets back the security groups that the fence's last rung took away.
        """
        row = next(row for row in self.inventory() if self._database(row, site))
        database = row["id"]
        house = open_house(lab=True, person="somebody", home=self.folder)
        door = house.site(site)
        if open_up:
            groups = row["tags"]["drpilot:groups-before"].split(",")
            door.call("ec2", "ModifyInstanceAttribute", {"InstanceId": database, "Groups": groups})
        door.call("ec2", "StartInstances", {"InstanceIds": [database]})
        house.journal.database.close()
        for _ in range(200):
            row = next(row for row in self.inventory() if row["id"] == database)
            if row["row"]["State"]["Name"] == "running":
                return str(database)
            RealClock().sleep(0.05)
        raise AssertionError(f"{database} never ran")

    @staticmethod
    def _database(row: dict[str, Any], site: str) -> bool:
        return (row["site"], row["kind"], row["tags"].get("tier")) == (site, "instance", "db")

    def suspect(self, house: House) -> list[CheckReport]:
        """Two looks that lie far enough apart to count as two."""
        first = check(house, "shop")
        house.clock.sleep(split_apart(house.world.settle_s).total_seconds())
        return [first, check(house, "shop")]

    def run(self, mode: str, **command: Any) -> dict[str, Any]:
        """One drpilot, to its end or its death."""
        assert self.zygote is not None
        assert self.zygote.stdin is not None
        assert self.zygote.stdout is not None
        self.zygote.stdin.write(json.dumps({"folder": str(self.folder), "mode": mode, **command}) + "\n")
        self.zygote.stdin.flush()
        said: dict[str, Any] = json.loads(self.zygote.stdout.readline())
        assert "error" not in said, said["error"]
        return said

    def journal(self) -> Journal:
        """The journal as it now lies on disk."""
        return journal_in(self.folder)

    def inventory(self) -> list[dict[str, Any]]:
        """Everything that exists on all three sites."""
        return inventory(self.lab)

    def unintended(self) -> list[str]:
        """Effects in the clouds whose intent is not in the journal: there must never be one."""
        return unintended(self.folder, self.lab)

    def end(self) -> dict[str, Any]:
        """The end state: what exists on each site by kind, how things stand in the journal, and its soundness."""
        journal = self.journal()
        group = journal.group("shop")
        for run in journal.runs("shop"):
            events = journal.events(run=run.id)
            chain.verify(run.id, events, shown=run.name)
            states = chain.replay(events)
            assert states["run", run.name] == run.state
            assert all(
                states.get(("step", f"{run.name}:{path}"), "pending") == step.state
                for path, step in run.steps.items()
            )
        rows = self.inventory()
        kinds = Tally(
            f"{row['site']} {row['kind']} {shape(row)}" for row in rows if row["kind"] != "network-interface"
        )
        said = {
            "group": (group.state, group.active, group.epoch),
            "burst": (group.burst.state, group.burst.capacity),
            "fences": {site: fence["state"] for site, fence in group.fences.items()},
            "standbys": sorted((s.tier, s.site, s.state) for s in journal.standbys("shop")),
            "points": sorted(point.state for point in journal.points("shop")),
            "resources": dict(sorted(kinds.items())),
            "duplicates": census.duplicates(rows),
        }
        journal.database.close()
        return said

    def close(self) -> None:
        """End the zygote and the lab."""
        self.lab.down()
        if self.zygote is None:
            return
        for stream in (self.zygote.stdin, self.zygote.stdout):
            if stream is not None:
                stream.close()
        self.zygote.wait(timeout=20)


def journal_in(folder: Path) -> Journal:
    """The journal of a folder as it lies on disk."""
    return Journal(Database(f"sqlite:///{folder}/journal.db"), RealClock(), Chance())


def inventory(lab: Lab) -> list[dict[str, Any]]:
    """Everything that exists on all three sites.

    Killed between a create call that takes no tags and the CreateTags after it, drpilot knows a thing by the mark in
    its description from then on: as good as tags, so it counts as tags here.
    """
    rows = [{**row, "site": site} for site in SITES for row in lab.control(site, "inventory")["resources"]]
    for row in rows:
        if not any(key.startswith("drpilot:") for key in row["tags"]):
            row["tags"] |= unpacked(str(row["row"].get("Description") or "")) or {}
    return rows


def unintended(folder: Path, lab: Lab) -> list[str]:
    """Effects in the clouds, at this moment, without a durable intent."""
    journal = journal_in(folder)
    tokens = {attempt.token for run in journal.runs("shop") for _, attempt in journal.attempts(run.id)}
    journal.database.close()
    return [
        f"{row['kind']} {row['id']}"
        for row in inventory(lab)
        if row["tags"].get("drpilot:attempt") not in (None, *tokens)
    ]


def shape(row: dict[str, Any]) -> str:
    """What a resource is like, ids and times left out."""
    body = row["row"]
    state = body.get("State")
    word = state.get("Name") if isinstance(state, dict) else state
    tags = sorted(key for key in row["tags"] if key.startswith("drpilot:"))
    more = [body.get("InstanceType"), body.get("desired"), row["tags"].get("drpilot:member")]
    more += ["bound" if body.get("AssociationId") else "unbound"] if row["kind"] == "elastic-ip" else []
    return f"{word} {[each for each in more if each is not None]} {tags}"


def hang_a_copy(folder: Path) -> None:
    """Begin a replicate run whose source hangs, say `begun`, and drive it for ever."""
    from drpilot.services.attend import attend
    from drpilot.services.begin import (
        Asking,
        Offer,
        _plan,
        _Way,
        begin,
    )  # the source can't be looked at to propose a copy
    from drpilot.services.modes import MODES
    from drpilot.services.proposal import Case, proposal_of

    house = open_house(lab=True, person="oncall", home=folder)
    view, mode = house.journal.group("shop"), MODES["replicate"]
    plan = _plan(house, mode, view.group, _Way("home", "away", house.journal.new_id()))
    case = Case(mode, view, view.group, plan, None, Asking(), {})
    run = begin(house, Offer(mode, house.journal.new_id(), plan, proposal_of(house, case)), None)
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    attend(house, run.id)
