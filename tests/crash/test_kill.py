"""SIGKILL at every commit and behind every changing call, and every reply cut off in turn: always the same end."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.crash.yard import Yard

pytestmark = [pytest.mark.crash, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Case:
    """A mode, the state of the world it starts from, and how it must end."""

    mode: str
    start: str
    wanted: str

    def __str__(self) -> str:
        return self.mode


FAILOVER = Case("failover", "dead", "finished succeeded_with_warnings")
REPLICATE = Case("replicate", "protected", "finished succeeded")
SLOW = [
    pytest.param(case, marks=pytest.mark.slow)
    for case in (
        Case("switchover", "replicated", "finished succeeded"),
        Case("drill", "replicated", "finished succeeded"),
        Case("reprotect", "committed", "finished succeeded"),
    )
]


def clean(yard: Yard, case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run that nothing disturbs: how it ends, and the points it can be killed at."""
    yard.reach(case.start)
    said = yard.run(case.mode)
    assert said["ended"] == case.wanted, said
    end = yard.end()
    assert end["duplicates"] == []
    return said, end


@pytest.mark.row(53)
@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("case", [FAILOVER, pytest.param(REPLICATE, marks=pytest.mark.slow), *SLOW], ids=str)
def test_killed_at_every_commit_and_call(
    yard: Yard, case: Case, half: int, record_property: Callable[[str, object], None]
) -> None:
    """Killed anywhere, resumed once: the end of an undisturbed run, one of everything, every effect intended."""
    said, expected = clean(yard, case)
    points = [["commit", n] for n in range(1, said["commits"] + 1)]
    points += [["call", n] for n in range(1, len(said["calls"]) + 1)]
    mine = points[half::2]
    died = 0
    for kill in mine:
        yard.restore(case.start)
        first = yard.run(case.mode, kill=kill)
        assert not yard.unintended(), kill
        if first["killed"]:
            died += 1
            again = yard.run(case.mode)
            assert again["ended"] == case.wanted, (kill, again)
        assert yard.end() == expected, kill
    counts = f"{said['commits']} commits and {len(said['calls'])} calls"
    record_property("said", f"{case.mode}: killed at {died} of {len(mine)} points, every second of {counts}")
    assert died >= 0.9 * len(mine)


@pytest.mark.row(51)
@pytest.mark.parametrize("case", [FAILOVER, REPLICATE, *SLOW], ids=str)
def test_every_lost_reply(yard: Yard, case: Case, record_property: Callable[[str, object], None]) -> None:
    """The effect happens, the answer is cut off: once for each changing call in turn."""
    said, expected = clean(yard, case)
    counts = Tally(said["calls"])
    for call, count in counts.items():
        site, _, operation = call.partition(":")
        for number in range(1, count + 1):
            yard.restore(case.start)
            fault = f"lost-reply:{operation}@{number}"
            yard.lab.control(site, "break", fault=fault)
            again = yard.run(case.mode)
            yard.lab.control(site, "heal", fault=fault)
            assert again["ended"] == case.wanted, (call, number, again)
            assert again["unintended"] == [], (call, number)
            assert yard.end() == expected, (call, number)
    record_property("said", f"{case.mode}: the replies of {len(said['calls'])} calls lost in turn")
    assert said["calls"]


# -- the test of the tests: without its eye, or without its intents, drpilot must fail both ----------------------------
#
# What makes twice is shown by replicate: every call of a failover that creates something takes a ClientToken, so that
# there the cloud itself would refuse the second one. What nobody intended is shown by the failover.


def test_blinded_the_kill_shows(yard: Yard) -> None:
    """Killed behind CopySnapshot and resumed with `observe` blinded: a duplicate, and it is counted."""
    yard.restore("protected")
    assert yard.run("replicate", kill=["operation", "CopySnapshot"])["killed"]
    yard.run("replicate", blind=True)
    assert any("snapshot" in found for found in yard.end()["duplicates"])


def test_blinded_the_lost_reply_shows(yard: Yard) -> None:
    """With `observe` blinded, a lost reply of CopySnapshot makes a duplicate, and it is counted."""
    yard.restore("protected")
    yard.lab.control("away", "break", fault="lost-reply:ec2.CopySnapshot@1")
    yard.run("replicate", blind=True)
    yard.lab.control("away", "heal")
    assert any("snapshot" in found for found in yard.end()["duplicates"])


def test_without_intents_the_kill_shows(yard: Yard) -> None:
    """With the intent commit removed, a failover killed behind its call leaves volumes that nobody intended."""
    yard.restore("dead")
    assert yard.run("failover", forget_intents=True, kill=["intent"])["killed"]
    assert any("volume" in found for found in yard.unintended())


def test_without_intents_the_lost_reply_shows(yard: Yard) -> None:
    """With the intent commit removed, nobody intended the volume whose reply is lost, at that moment."""
    yard.restore("dead")
    yard.lab.control("away", "break", fault="lost-reply:ec2.CreateVolume@1")
    said = yard.run("failover", forget_intents=True)
    yard.lab.control("away", "heal")
    assert any("volume" in found for found in said["unintended"])
