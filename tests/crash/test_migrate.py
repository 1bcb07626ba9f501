"""A migration with a bootstrap under SIGKILL at a tenth of its commits and calls: one end, one start of the program."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from drpilot.services.protect import protect
from drpilot.services.steer import Order, order
from drpilot.wiring import open_house
from tests.crash.test_kill import Case, clean
from tests.crash.yard import Yard

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(1800)]

MOVES = Case("migrate", "migratable", "finished succeeded")
EVERY = 10
STEP = "tiers/db/bootstrap/shop-db/program"


@pytest.fixture
def migratable(yard: Yard) -> Yard:
    """The yard with a group whose database has a bootstrap (`migratable`)."""
    if not (yard.folder / "journal-migratable").exists():
        yard.restore("replicated")
        program = yard.folder / "take-over"
        lines = (
            "#!/bin/sh",
            f'if [ -e {killer(yard)}-before ]; then rm {killer(yard)}-before; kill -9 "$PPID"; exit 1; fi',
            f'echo "$DRPILOT_TOKEN" >>{told(yard)}',
            f'if [ -e {killer(yard)}-after ]; then rm {killer(yard)}-after; kill -9 "$PPID"; fi',
        )
        program.write_text("\n".join(lines) + "\n", encoding="utf-8")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        house = open_house(lab=True, person="oncall", home=yard.folder)
        text = yard.lab.shop_file.read_text()
        protect(house, text.replace("  db:\n", f"  db:\n    bootstrap: [{program}]\n", 1), "shop.yaml")
        house.journal.database.close()
        yard.save("migratable")
    return yard


def told(yard: Yard) -> Path:
    """Where the program writes."""
    return yard.folder / "told"


def killer(yard: Yard) -> Path:
    """With `-before` or `-after`: the program kills who started it, once, before or after what it does."""
    return yard.folder / "kill"


def settled(yard: Yard) -> int:
    """A person says what became of the program, by what it wrote; how many steps that was."""
    house = open_house(lab=True, person="oncall", home=yard.folder)
    (run,) = [run for run in house.journal.runs("shop", live=True) if run.mode == "migrate"]
    (step,) = [path for path, step in run.steps.items() if step.state == "unknown"]
    assert step == STEP
    happened = told(yard).exists()
    order(house, run.id, Order("settle", step, "looked at the machine", {"happened": happened}))
    house.journal.database.close()
    return 1


def test_killed_at_a_tenth_of_its_points(
    migratable: Yard, record_property: Callable[[str, object], None]
) -> None:
    """Killed and resumed once: the end of an undisturbed migration, every effect intended, one line of the program."""
    said, expected = clean(migratable, MOVES)
    assert expected["group"] == ("active_unprotected", "away", 2)
    assert len(told(migratable).read_text().splitlines()) == 1
    points = [["commit", n] for n in range(1, said["commits"] + 1)]
    points += [["call", n] for n in range(1, len(said["calls"]) + 1)]
    mine, died, asked = points[::EVERY], 0, 0
    for kill in mine:
        migratable.restore("migratable")
        told(migratable).unlink(missing_ok=True)
        first = migratable.run("migrate", kill=kill)
        assert not migratable.unintended(), kill
        if first["killed"]:
            died += 1
            again = migratable.run("migrate")
            if (
                again["ended"] != MOVES.wanted
            ):  # killed while the program ran: looking can't tell, so a person is asked
                asked += settled(migratable)
                again = migratable.run("migrate")
            assert again["ended"] == MOVES.wanted, (kill, again)
        assert migratable.end() == expected, kill
        assert len(told(migratable).read_text().splitlines()) == 1, kill
    record_property(
        "said",
        f"migrate: killed at {died} of {len(mine)} points, every tenth; a person was asked {asked} times",
    )
    assert died >= 0.8 * len(mine)


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_the_program_runs(migratable: Yard, when: str) -> None:
    """Nobody can tell what became of it: a person is asked, says what the machine shows, and it has run once."""
    _, expected = clean(migratable, MOVES)
    migratable.restore("migratable")
    told(migratable).unlink()
    Path(f"{killer(migratable)}-{when}").touch()
    first = migratable.run("migrate")
    assert first["killed"]
    assert told(migratable).exists() is (when == "after")
    asked = migratable.run("migrate")["ended"]
    assert asked.startswith("paused"), asked
    assert settled(migratable) == 1
    again = migratable.run("migrate")
    assert (again["ended"], again["unintended"]) == (MOVES.wanted, [])
    assert migratable.end() == expected
    assert len(told(migratable).read_text().splitlines()) == 1
