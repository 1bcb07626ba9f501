"""A burst and its end under SIGKILL at every commit and call, and with every reply cut off: always the same end."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable
from pathlib import Path

import pytest

from drpilot.services.protect import protect
from drpilot.wiring import open_house
from tests.crash.test_kill import Case, clean
from tests.crash.yard import Yard

pytestmark = [pytest.mark.crash, pytest.mark.timeout(1800)]

BURST = Case("burst", "burstable", "finished succeeded")
END = Case("unburst", "bursting", "finished succeeded")
CASES = [pytest.param(case, marks=pytest.mark.slow) for case in (BURST, END)]


def allow(yard: Yard) -> Path:
    """Let the other side's machines reach the application at home; a name that resolvers forget within a second."""
    house = open_house(lab=True, person="somebody", home=yard.folder)
    home, away, edge = (house.site(name) for name in ("home", "away", "edge"))
    groups = home.call("ec2", "DescribeSecurityGroups", {})["SecurityGroups"]
    app = next(item["GroupId"] for item in groups if item["GroupName"] == "shop-app")
    blocks = [item["CidrBlock"] for item in away.call("ec2", "DescribeVpcs", {})["Vpcs"]]
    rule = {
        "IpProtocol": "tcp",
        "FromPort": 8080,
        "ToPort": 8080,
        "IpRanges": [{"CidrIp": one} for one in blocks],
    }
    home.call("ec2", "AuthorizeSecurityGroupIngress", {"GroupId": app, "IpPermissions": [rule]})
    filters = [
        {"Name": "tag:tier", "Values": ["app"]},
        {"Name": "instance-state-name", "Values": ["running"]},
    ]
    found = home.call("ec2", "DescribeInstances", {"Filters": filters})["Reservations"]
    zone = edge.call("route53", "ListHostedZones", {})["HostedZones"][0]["Id"]
    listed = edge.call("route53", "ListResourceRecordSets", {"HostedZoneId": zone})["ResourceRecordSets"]
    record = next(item for item in listed if item["Type"] == "CNAME")
    change = {"Action": "UPSERT", "ResourceRecordSet": {**record, "TTL": 1}}
    edge.call(
        "route53", "ChangeResourceRecordSets", {"HostedZoneId": zone, "ChangeBatch": {"Changes": [change]}}
    )
    path = yard.folder / "first-boot.sh"
    path.write_text(f"#!/bin/sh\nupstream={found[0]['Instances'][0]['PrivateIpAddress']}\n")
    house.journal.database.close()
    return path


@pytest.fixture
def burstable(yard: Yard) -> Yard:
    """The yard with a group that may burst (`burstable`), and with a burst that serves (`bursting`)."""
    if not (yard.folder / "journal-bursting").exists():
        yard.restore("replicated")
        path = allow(yard)
        house = open_house(lab=True, person="oncall", home=yard.folder)
        section = f"burst: {{tier: web, max: 2, desired: 1, weight: 25, user_data: {path}}}\n"
        protect(house, yard.lab.shop_file.read_text() + section, "shop.yaml")
        house.journal.database.close()
        yard.save("burstable")
        said = yard.run("burst")
        assert said["ended"] == "finished succeeded", said
        yard.save("bursting")
    return yard


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_killed_at_every_commit_and_call(
    burstable: Yard, case: Case, half: int, record_property: Callable[[str, object], None]
) -> None:
    """Killed anywhere, resumed once: the end of an undisturbed run, one of everything, every effect intended."""
    said, expected = clean(burstable, case)
    points = [["commit", n] for n in range(1, said["commits"] + 1)]
    points += [["call", n] for n in range(1, len(said["calls"]) + 1)]
    mine, died = points[half::2], 0
    for kill in mine:
        burstable.restore(case.start)
        first = burstable.run(case.mode, kill=kill)
        assert not burstable.unintended(), kill
        if first["killed"]:
            died += 1
            again = burstable.run(case.mode)
            assert again["ended"] == case.wanted, (kill, again)
        assert burstable.end() == expected, kill
    counts = f"{said['commits']} commits and {len(said['calls'])} calls"
    record_property("said", f"{case.mode}: killed at {died} of {len(mine)} points, every second of {counts}")
    assert died >= 0.8 * len(mine)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_lost_reply(
    burstable: Yard, case: Case, record_property: Callable[[str, object], None]
) -> None:
    """The effect happens, the answer is cut off: once for each changing call in turn."""
    said, expected = clean(burstable, case)
    for call, count in Tally(said["calls"]).items():
        site, _, operation = call.partition(":")
        for number in range(1, count + 1):
            burstable.restore(case.start)
            fault = f"lost-reply:{operation}@{number}"
            burstable.lab.control(site, "break", fault=fault)
            again = burstable.run(case.mode)
            burstable.lab.control(site, "heal", fault=fault)
            assert again["ended"] == case.wanted, (call, number, again)
            assert again["unintended"] == [], (call, number)
            assert burstable.end() == expected, (call, number)
    record_property("said", f"{case.mode}: the replies of {len(said['calls'])} calls lost in turn")
    assert said["calls"]


@pytest.mark.slow
def test_the_end_of_a_burst_leaves_what_was_there_before(burstable: Yard) -> None:
    """From before the burst to after its end: the same resources by kind and shape on every site."""
    burstable.restore("burstable")
    before = burstable.end()["resources"]
    burstable.restore("bursting")
    assert burstable.run("unburst")["ended"] == "finished succeeded"
    after = burstable.end()["resources"]
    gone = {key: count for key, count in after.items() if "terminated" not in key}
    assert gone == {key: count for key, count in before.items() if "terminated" not in key}
