"""A migration from AWS to a private cloud by the shipped runbook, bytes and all; the other way the lab's own processes
carry it, since a mover needs a cloud that listens (tests/cli/test_migrate_lab.py).
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.actions.test_unlike import contents, replicas
from tests.actions.world import Failed, World, opened

HELD = "tiers/db/bootstrap/shop-db/program"


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The shop on AWS, protected by Eucalyptus, with a bootstrap for its database that fails until it is allowed."""
    folder = tmp_path_factory.mktemp("shop")
    program = folder / "take-over"
    program.write_text(
        f'#!/bin/sh\ntest -e {folder}/allowed || exit 4\necho "$DRPILOT_MEMBER $DRPILOT_SITE" >>{folder}/told\n',
        encoding="utf-8",
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with opened(folder, "aws", "eucalyptus-4.4", data_volumes=1) as world:
        world.text = world.text.replace("  db:\n", f"  db:\n    bootstrap: [{program}]\n", 1)
        world.look("home")
        world.begin("replicate", "home", "away").all()
        world.save()
        yield world


@pytest.fixture
def world(carried: World) -> Iterator[World]:
    """The same, as after the first round."""
    carried.restore()
    for name in ("allowed", "told"):
        (carried.folder / name).unlink(missing_ok=True)
    yield carried
    assert carried.strayed == set()


def told(folder: Path) -> list[str]:
    """What the bootstrap wrote."""
    path = folder / "told"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def test_from_aws_to_eucalyptus_for_good(world: World) -> None:
    """The last copy is made after the writers stopped, its blocks arrive, the machine boots there and is told once."""
    (world.folder / "allowed").touch()
    run = world.begin("migrate", "home", "away").all()
    proof = run.results["captured"]["output"]["proof"]
    assert proof["writers_left"] == "0"
    assert proof["writers_stopped_at"] <= proof["captured_at"]
    for member, (source, copy) in replicas(world, run.plan.point).items():
        assert contents(world, "away", copy) == contents(world, "home", source), member
    assert told(world.folder) == ["shop-db away"]
    assert (world.facts.group, world.facts.active, world.facts.epoch) == ("active_unprotected", "away", 2)
    assert run.results["invalidate"]["output"]["pending"] is False
    assert world.facts.fences["home"] == "fenced"


def test_a_bootstrap_that_fails_stops_before_the_users_move(world: World) -> None:
    """Nothing but its failure is between the machine and its users: rolled back, home serves as it did."""
    run = world.begin("migrate", "home", "away")
    with pytest.raises(Failed, match="ended with 4"):
        run.all()
    assert HELD not in run.results
    assert "traffic" not in run.results
    run.back()
    assert world.facts.active == "home"
    assert {row["state"] for row in world.facts.standbys.values()} == {"ready"}
