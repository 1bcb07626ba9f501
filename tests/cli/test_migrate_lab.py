"""A migration from a private cloud to AWS as people type it, on the lab's own processes and with a real mover."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drpilot.cli.app import app
from drpilot.demo import data_verified
from drpilot.practice import Lab as Grounds
from drpilot.wiring import open_house
from tests.cli.test_lab_story import Lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Path]]:
    """A lab with Eucalyptus at home whose AWS side has no security groups of the shop, and a bootstrap."""
    import os

    folder = tmp_path_factory.mktemp("migrate")
    environment = {
        **os.environ,
        "DRPILOT_LAB_HOME": str(folder / "lab"),
        "DRPILOT_HOME": str(folder / "home"),
    }
    up = ["lab", "up", "--pair", "euca-aws", "--speed", "240", "--output", "json"]
    ended = CliRunner().invoke(app, up, env=environment)
    assert ended.exit_code == 0, ended.stdout + ended.stderr
    made = Lab(environment, folder / "lab" / "shop.yaml")
    try:
        house = open_house(lab=True, person="somebody", home=folder / "lab")
        away = house.site("away")
        groups = {
            row["GroupName"]: row["GroupId"]
            for row in away.call("ec2", "DescribeSecurityGroups", {})["SecurityGroups"]
        }
        for name in ("shop-db", "shop-app", "shop-web"):
            away.call("ec2", "DeleteSecurityGroup", {"GroupId": groups[name]})
        house.journal.database.close()
        program = folder / "take-over"
        program.write_text(
            f'#!/bin/sh\necho "$DRPILOT_MEMBER $DRPILOT_ADDRESS" >>{folder}/told\n', encoding="utf-8"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        text = made.group_file.read_text(encoding="utf-8")
        made.group_file.write_text(
            text.replace("  db:\n", f"  db:\n    bootstrap: [{program}]\n", 1), encoding="utf-8"
        )
        yield made, folder
    finally:
        CliRunner().invoke(app, ["lab", "down"], env=environment)


def test_from_eucalyptus_to_aws_for_good(lab: tuple[Lab, Path]) -> None:
    """Taken in with what is missing made, moved, committed, its data read back block by block, and finished."""
    shop, folder = lab
    shop.told("protect", str(shop.group_file), code=6)
    taken = shop.told("protect", str(shop.group_file), "--make-missing")
    assert sorted(taken["made"]) == [f"security group shop-{name}" for name in ("app", "db", "web")]
    moved = shop.told(
        "migrate", "shop", "--reason", "out of the cellar", "--confirm", "shop", "--until", "1h"
    )
    assert (moved["state"], moved["mode"]) == ("awaiting_commit", "migrate")
    grounds = Grounds(folder / "lab")
    house = open_house(lab=True, person="somebody", home=folder / "lab")
    equal, blocks = data_verified(grounds, house)
    assert equal
    assert blocks > 0
    machines = [
        one["PrivateIpAddress"]
        for row in house.site("away").call("ec2", "DescribeInstances", {})["Reservations"]
        for one in row["Instances"]
        if one["State"]["Name"] == "running"
    ]
    (line,) = (folder / "told").read_text(encoding="utf-8").splitlines()
    member, _, address = line.partition(" ")
    assert (member, address in machines) == ("shop-db", True)
    assert shop.told("commit", "shop")["state"] == "finished"
    shown = shop.told("group", "show", "shop")
    assert (shown["state"], shown["active"], shown["home"]) == ("active_unprotected", "away", "away")
    ended = shop.told("migrate", "shop", "--finish", "--confirm", "shop")
    assert (ended["result"], ended["originals"]["site"]) == ("succeeded", "home")
    house.journal.database.close()
