"""Making what the other side lacks under SIGKILL at every commit and call, and with every reply cut off."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable

import pytest

from drpilot.wiring import open_house
from tests.crash.test_kill import Case, clean
from tests.crash.yard import Yard

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

NAMES = ("shop-db", "shop-app", "shop-web")
MAKES = Case("configure", "lacking", "finished succeeded")


@pytest.fixture
def lacking(yard: Yard) -> Yard:
    """The yard with an other side that has none of the shop's security groups, and not its key (`lacking`)."""
    if not (yard.folder / "journal-lacking").exists():
        yard.restore("protected")
        house = open_house(lab=True, person="somebody", home=yard.folder)
        away = house.site("away")
        listed = away.call("ec2", "DescribeSecurityGroups", {})["SecurityGroups"]
        ids = {row["GroupName"]: row["GroupId"] for row in listed}
        for name in NAMES:
            away.call("ec2", "DeleteSecurityGroup", {"GroupId": ids[name]})
        away.call("ec2", "DeleteKeyPair", {"KeyName": "shop-ops"})
        house.journal.database.close()
        yard.save("lacking")
    return yard


def rules(yard: Yard) -> dict[str, int]:
    """How many rules each of the shop's groups on away has."""
    house = open_house(lab=True, person="somebody", home=yard.folder)
    listed = house.site("away").call("ec2", "DescribeSecurityGroups", {})["SecurityGroups"]
    house.journal.database.close()
    return {
        row["GroupName"]: sum(
            len(rule.get("IpRanges") or []) + len(rule.get("UserIdGroupPairs") or [])
            for rule in row["IpPermissions"]
        )
        for row in listed
        if row["GroupName"] in NAMES
    }


@pytest.mark.slow
def test_killed_at_every_commit_and_call(
    lacking: Yard, record_property: Callable[[str, object], None]
) -> None:
    """Killed anywhere, resumed once: one of each group with all its rules and one key, every effect intended."""
    said, expected = clean(lacking, MAKES)
    wanted = rules(lacking)
    assert wanted == {"shop-db": 3, "shop-app": 2, "shop-web": 1}
    points = [["commit", n] for n in range(1, said["commits"] + 1)]
    points += [["call", n] for n in range(1, len(said["calls"]) + 1)]
    died = 0
    for kill in points:
        lacking.restore("lacking")
        first = lacking.run("configure", kill=kill)
        assert not lacking.unintended(), kill
        if first["killed"]:
            died += 1
            again = lacking.run("configure")
            assert again["ended"] == MAKES.wanted, (kill, again)
        assert lacking.end() == expected, kill
        assert rules(lacking) == wanted, kill
    record_property("said", f"configure: killed at {died} of {len(points)} points")
    assert died >= 0.8 * len(points)


def test_every_lost_reply(lacking: Yard, record_property: Callable[[str, object], None]) -> None:
    """The effect happens, the answer is cut off: once for each changing call in turn."""
    said, expected = clean(lacking, MAKES)
    wanted = rules(lacking)
    for call, count in Tally(said["calls"]).items():
        site, _, operation = call.partition(":")
        for number in range(1, count + 1):
            lacking.restore("lacking")
            fault = f"lost-reply:{operation}@{number}"
            lacking.lab.control(site, "break", fault=fault)
            again = lacking.run("configure")
            lacking.lab.control(site, "heal", fault=fault)
            assert again["ended"] == MAKES.wanted, (call, number, again)
            assert again["unintended"] == [], (call, number)
            assert lacking.end() == expected, (call, number)
            assert rules(lacking) == wanted, (call, number)
    record_property("said", f"configure: the replies of {len(said['calls'])} calls lost in turn")
    assert said["calls"]
