"""A group moved for good: rounds of replication, the switch with a way back, the commit, and what is left to do."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.cli import act
from drpilot.cli.migrating import Migration, migrate
from drpilot.cli.options import Consent, Move
from drpilot.cli.steer import commit, rollback
from drpilot.domain.run import RunView
from drpilot.lab import shop as sample
from drpilot.services.migration import Rounds, finishing, home_of, originals, round_s
from drpilot.services.protect import protect
from tests.actions.test_moves import data_on
from tests.actions.world import World, opened
from tests.cli.desk import Desk, Said
from tests.services.shop import Shop

STEP = "tiers/db/bootstrap/shop-db/program"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Path]]:
    """The shop taken in with a bootstrap for its database; nothing was replicated yet."""
    folder = tmp_path_factory.mktemp("migrate")
    program = folder / "take-over"
    program.write_text(f'#!/bin/sh\necho "$1 $DRPILOT_INSTANCE" >>{folder}/told\n', encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with opened(folder) as world:
        world.text = world.text.replace("  db:\n", f"  db:\n    bootstrap: [{program}, first]\n", 1)
        shop = Shop(world, folder)
        protect(shop.house, world.text, "shop.yaml")
        shop.house.journal.database.close()
        world.save()
        yield world, folder


@pytest.fixture
def shop(kept: tuple[World, Path], tmp_path: Path) -> Iterator[Shop]:
    """The kept shop put back."""
    world, folder = kept
    world.restore()
    (folder / "told").unlink(missing_ok=True)
    for path in folder.glob("journal.db*"):
        shutil.copy2(path, tmp_path / path.name)
    made = Shop(world, tmp_path)
    yield made
    made.house.journal.database.close()


def told(shop: Shop, **more: Any) -> Said:
    """`drpilot migrate shop`, with its answer as JSON."""
    return Desk(shop.house)(migrate, output="json", group="shop", migration=Migration(**more))


def modes(shop: Shop) -> list[str]:
    """The runs of the group, oldest first."""
    return [run.mode for run in reversed(shop.house.journal.runs("shop"))]


@pytest.mark.row(61)
def test_a_group_moves_for_good(shop: Shop, kept: tuple[World, Path]) -> None:
    """A new group is copied, switched without loss, told to its configuration tool once, committed, and is home there;
    finished, the originals stand where they stood and nothing of drpilot is left beside them.
    """
    (database,) = shop.world.group("home").tier("db").instances
    before = {database.id, "shop-app", "shop-web", *(volume.id for volume in database.volumes)}
    said = told(shop, reason="we move out", confirm="shop")
    assert said.code == 0, said.err
    assert (said.document["state"], said.document["mode"]) == ("awaiting_commit", "migrate")
    assert modes(shop) == ["replicate", "migrate"]
    view = shop.house.journal.view("shop")
    assert view.steps["captured"].output["proof"]["writers_left"] == "0"
    machine = view.steps[STEP].output["machine"]
    assert (kept[1] / "told").read_text(encoding="utf-8") == f"first {machine}\n"
    group = shop.house.journal.group("shop")
    assert (group.state, home_of(shop.house, group)) == ("awaiting_commit", "home")
    assert told(shop, finish=True, confirm="shop").code == 5
    done = Desk(shop.house)(commit, output="json", group="shop")
    assert done.code == 0, done.err
    group = shop.house.journal.group("shop")
    assert (group.state, group.active, home_of(shop.house, group)) == ("active_unprotected", "away", "away")
    assert sample.verified(data_on(shop.world, "away"), shop.world.built["data"])
    at_home = Desk(shop.house)(
        act.failback, output="json", group="shop", move=Move(), consent=Consent("back")
    )
    assert at_home.document["result"] == "already_home"
    past = finishing(shop.house, group)
    assert shop.world.built["database"]["instance"] in originals(past)
    assert told(shop, finish=True).code == 5  # the name was not typed
    ended = told(shop, finish=True, confirm="shop")
    assert ended.code == 0, ended.err
    assert ended.document["originals"] == {"site": "home", "ids": list(originals(past))}
    assert shop.house.journal.group("shop").state == "retired"
    assert before <= {id_ for _, id_ in shop.world.things("home")}
    left = [row for row in shop.world.clouds["home"].inventory() if "drpilot:attempt" in str(row.get("tags"))]
    assert left == []


def test_the_way_back_before_the_commit(shop: Shop) -> None:
    """Rolled back with the loss typed: home runs as before and stays home; the next try copies and switches again."""
    assert told(shop, reason="we move out", confirm="shop").code == 0
    back = Desk(shop.house)(
        rollback, output="json", group="shop", confirm="shop", accept_data_loss="1h", reason="not yet"
    )
    assert back.code == 0, back.err
    group = shop.house.journal.group("shop")
    assert (group.state, group.active, home_of(shop.house, group)) == ("protected", "home", "home")
    with pytest.raises(DrpilotError) as refused:
        finishing(shop.house, group)
    assert refused.value.row.word == "not-migrated"
    assert sample.verified(data_on(shop.world, "home"), shop.world.built["data"])


def test_a_dry_run_shows_everything_and_changes_nothing(shop: Shop) -> None:
    """What is there, what would be made, what can't be; exit code 3 where a person has something to do first."""
    for name in ("shop-db", "shop-app"):
        listed = shop.call(
            "away", "DescribeSecurityGroups", Filters=[{"Name": "group-name", "Values": [name]}]
        )
        group = listed["SecurityGroups"][0]
        rules = [{key: value for key, value in rule.items() if value} for rule in group["IpPermissions"]]
        shop.call("away", "RevokeSecurityGroupIngress", GroupId=group["GroupId"], IpPermissions=rules)
        shop.call("away", "DeleteSecurityGroup", GroupId=group["GroupId"])
    calls = len(shop.world.calls)
    said = told(shop, dry_run=True)
    document = said.document
    assert said.code == 0
    assert document["made"] == ["security group shop-app", "security group shop-db"]
    states = {(row["kind"], row["name"]): row["is"] for row in document["partners"]}
    assert states["security group", "shop-db"] == "will be made"
    assert states["security group", "shop-web"] == states["key pair", "shop-ops"] == "there"
    assert len(shop.world.calls) == calls
    assert modes(shop) == []
    subnet = min(shop.house.journal.group("shop").group.map.subnets.values())
    shop.call("away", "DeleteSubnet", SubnetId=subnet)
    said = told(shop, dry_run=True)
    assert (said.code, any(subnet in text for text in said.document["refused"])) == (3, True)
    refused = told(shop, reason="we move out", confirm="shop")
    assert (refused.code, refused.document["error"]["code"]) == (5, "DRP-4047")
    assert modes(shop) == []


def test_what_would_be_refused_at_the_switch_is_refused_before_the_copies(shop: Shop) -> None:
    """No reason, the wrong site, a lock: said at once, and nothing was begun."""
    assert told(shop, confirm="shop").document["error"]["code"] == "DRP-4021"
    assert told(shop, reason="x", confirm="shop", to="home").code == 2
    assert modes(shop) == []


# -- rules, without a cloud ---------------------------------------------------------------------------------------


def test_rounds_end_with_a_short_one_or_are_refused() -> None:
    """At least one; as many as are allowed; a last one that was not short is no reason to stop the writers."""
    rounds = Rounds(most=3, short_s=60)
    assert [rounds.over(took) for took in ([], [600], [600, 61], [60], [600, 100, 60])] == [
        False, False, False, True, True,
    ]  # fmt: skip
    with pytest.raises(DrpilotError) as refused:
        rounds.over([600, 300, 61])
    assert (refused.value.row.word, refused.value.row.exit_code) == ("rounds-too-long", 5)


def test_a_round_is_measured_from_its_first_step(shop: Shop) -> None:
    """The time between its first step and its end, in seconds; a run that has not ended took none."""
    assert shop.run("replicate") == "succeeded"
    view: RunView = shop.house.journal.view("shop")
    assert view.started_at is not None
    assert view.ended_at is not None
    assert round_s(view) == (view.ended_at - view.started_at).total_seconds() > 0
