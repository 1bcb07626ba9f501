"""Two writable sides after a committed failover: suspected by two looks, held still, and ended by two persons."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drpilot.domain.fence import Claim
from drpilot.services.house import House
from drpilot.services.hysteresis import split_apart
from drpilot.wiring import open_house
from tests.crash.yard import Yard

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).resolve().parents[2]
SURVIVOR = 'drpilot fence shop --survivor away|home --reason "what you saw" --lab'
NAMING = ("fence", "shop", "--survivor", "away", "--reason", "INC-4711", "--confirm", "shop")


def cli(yard: Yard, person: str, *words: str) -> tuple[int, dict[str, Any]]:
    """One drpilot in a process of its own: its exit code and its one JSON document."""
    command = [sys.executable, "-m", "drpilot", *words, "--lab", "--as", person, "--output", "json"]
    environment = {**os.environ, "DRPILOT_LAB_HOME": str(yard.folder), "PYTHONPATH": str(ROOT)}
    said = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
    )
    assert said.stdout, said.stderr
    document: dict[str, Any] = json.loads(said.stdout)
    return said.returncode, document


@pytest.fixture
def house(yard: Yard) -> Iterator[House]:
    """The committed failover with its fence verified, seen from the controller."""
    yard.reach("committed")
    opened = open_house(lab=True, person="oncall", home=yard.folder)
    yield opened
    opened.journal.database.close()


def up(yard: Yard, site: str) -> list[str]:
    """The application's machines that run on a side, by a full inventory of the cloud."""
    rows = [row for row in yard.inventory() if (row["site"], row["kind"]) == (site, "instance")]
    mine = [row for row in rows if row["tags"].get("tier") in ("db", "app", "web")]
    return sorted(row["id"] for row in mine if row["row"]["State"]["Name"] == "running")


def test_a_split_is_suspected_by_two_looks_and_ended_by_two_persons(yard: Yard, house: House) -> None:
    """Home is started by hand behind a verified fence: each command, its exit code, and what it says is next."""
    journal = house.journal
    assert (journal.group("shop").state, up(yard, "home")) == ("active_unprotected", [])
    database = yard.wake("home", open_up=False)
    code, behind = cli(yard, "oncall", "check", "shop")
    assert "nothing of it runs on home" in {
        one["observed"] for one in behind["checks"]
    }  # the deny-all group holds it
    assert yard.wake("home") == database
    code, first = cli(yard, "oncall", "check", "shop")
    assert (code, first["moved"], journal.group("shop").state) == (3, [], "active_unprotected")
    assert first["next"] == "drpilot check shop --lab"
    house.clock.sleep(split_apart(house.world.settle_s).total_seconds())
    code, second = cli(yard, "oncall", "check", "shop")
    assert (code, journal.group("shop").state, second["next"]) == (3, "split_suspected", SURVIVOR)
    assert any(database in text for text in second["moved"])
    assert journal.group("shop").fences["home"]["state"] == "partial"

    code, status = cli(yard, "oncall", "status", "shop")
    assert (code, status["next"]) == (0, SURVIVOR)
    assert any(database in problem["text"] for problem in status["row"]["problems"])
    code, refused = cli(yard, "oncall", "replicate", "shop")
    assert (code, refused["error"]["word"], refused["error"]["hint"]) == (5, "wrong-state", SURVIVOR)
    assert journal.runs("shop", live=True) == ()
    assert up(yard, "home") == [database]  # nothing was stopped by itself

    code, waiting = cli(yard, "oncall", *NAMING)
    assert (code, waiting["error"]["word"]) == (4, "run-waiting")
    assert up(yard, "home") == [database]
    code, named = cli(yard, "second", "run", "approve", "shop", "--confirm", "shop")
    assert (code, named["result"]) == (0, "succeeded"), named
    assert named["next"] == "drpilot reprotect shop --lab"

    view = journal.group("shop")
    assert (view.state, view.active, view.epoch) == ("active_unprotected", "away", 2)
    assert database in view.invalidated
    assert house.world.witness().read("shop")[0] == Claim("shop", 2, "away")
    end = yard.end()
    assert (end["fences"]["home"], end["duplicates"], up(yard, "home")) == ("fenced", [], [])
    assert len(up(yard, "away")) > 1
    code, last = cli(yard, "oncall", "check", "shop")
    assert "split-suspected" not in {one["name"] for one in last["checks"] if one["verdict"] == "bad"}
    assert journal.group("shop").conditions["OneSideWrites"]["value"] is True


def test_the_old_side_named_as_survivor_takes_over(yard: Yard) -> None:
    """The people decide for home: away is stopped and seen, the epoch rises, home's own fence is lifted."""
    yard.reach("split")
    said = yard.run("survivor", to="home")
    assert said["ended"].startswith("finished succeeded"), said
    house = open_house(lab=True, person="oncall", home=yard.folder)
    view = house.journal.group("shop")
    assert (view.state, view.active, view.epoch) == ("active_unprotected", "home", 3)
    assert house.world.witness().read("shop")[0] == Claim("shop", 3, "home")
    house.journal.database.close()
    end = yard.end()
    assert (end["fences"], end["duplicates"]) == ({"away": "fenced", "home": "released"}, [])
    assert up(yard, "away") == []
    assert len(up(yard, "home")) > 1  # its scaling groups launch again


@pytest.mark.parametrize(
    "every", [pytest.param(False, id="middle"), pytest.param(True, id="everywhere", marks=pytest.mark.slow)]
)
def test_killed_while_a_survivor_is_named(
    yard: Yard, every: bool, record_property: Callable[[str, object], None]
) -> None:
    """SIGKILL at every commit and behind every changing call of the run: resumed, it ends as if undisturbed."""
    yard.reach("split")
    said = yard.run("survivor", to="away")
    assert said["ended"] == "finished succeeded", said
    expected = yard.end()
    points = [["commit", n] for n in range(1, said["commits"] + 1)]
    points += [["call", n] for n in range(1, len(said["calls"]) + 1)]
    if not every:
        stop = next(n for n, call in enumerate(said["calls"], 1) if call.endswith("StopInstances"))
        points = [["call", stop]]
    died = 0
    for kill in points:
        yard.restore("split")
        first = yard.run("survivor", to="away", kill=kill)
        if first["killed"]:
            died += 1
            again = yard.run("survivor", to="away")
            assert again["ended"] == "finished succeeded", (kill, again)
        assert yard.end() == expected, kill
    record_property("said", f"survivor: killed at {died} of {len(points)} points")
    assert died >= 0.9 * len(points)
