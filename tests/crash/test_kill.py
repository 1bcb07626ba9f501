"""SIGKILL at every commit and behind every changing call, and every reply cut off in turn: always the same end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.crash.yard import Yard

pytestmark = [pytest.mark.crash, pytest.mark.timeout(1800), pytest.mark.xdist_group("yard")]

CASES = [("failover", "dead", "finished succeeded_with_warnings"), ("replicate", "protected", "finished succeeded")]


def clean(yard: Yard, mode: str, start: str, wanted: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run that nothing disturbs: how it ends, and the points it can be killed at."""
    yard.restore(start)
    said = yard.run(mode)
    assert said["ended"] == wanted, said
    end = yard.end()
    assert end["duplicates"] == []
    return said, end


@pytest.mark.row(53)
@pytest.mark.parametrize(("mode", "start", "wanted"), CASES)
def test_killed_at_every_commit_and_call(yard: Yard, mode: str, start: str, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed anywhere, resumed once: the end of an undisturbed run, one of everything, every effect intended."""
    said, expected = clean(yard, mode, start, wanted)
    points = [["commit", n] for n in range(1, said["commits"] + 1)]
    points += [["call", n] for n in range(1, len(said["calls"]) + 1)]
    died = 0
    for kill in points:
        yard.restore(start)
        first = yard.run(mode, kill=kill)
        assert not yard.unintended(), kill
        if first["killed"]:
            died += 1
            again = yard.run(mode)
            assert again["ended"] == wanted, (kill, again)
        assert yard.end() == expected, kill
    with capsys.disabled():
        print(f"\n{mode}: {len(points)} points ({said['commits']} commits, {len(said['calls'])} calls), {died} died")
    assert died >= 0.9 * len(points)


@pytest.mark.row(51)
@pytest.mark.parametrize(("mode", "start", "wanted"), CASES)
def test_every_lost_reply(yard: Yard, mode: str, start: str, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The effect happens, the answer is cut off: once for each changing call in turn."""
    said, expected = clean(yard, mode, start, wanted)
    counts: dict[str, int] = {}
    for call in said["calls"]:
        counts[call] = counts.get(call, 0) + 1
    tried = 0
    for call, count in counts.items():
        site, _, operation = call.partition(":")
        for number in range(1, count + 1):
            yard.restore(start)
            yard.lab.control(site, "break", fault=f"lost-reply:{operation}@{number}")
            again = yard.run(mode)
            yard.lab.control(site, "heal", fault=f"lost-reply:{operation}@{number}")
            assert again["ended"] == wanted, (call, number, again)
            assert yard.end() == expected, (call, number)
            tried += 1
    with capsys.disabled():
        print(f"\n{mode}: the reply of {tried} calls lost in turn")
    assert tried == len(said["calls"])


def test_blinded_the_lost_reply_shows(yard: Yard) -> None:
    """The test of the test: with `observe` blinded a lost reply of CopySnapshot makes a duplicate, and it is counted."""
    yard.restore("protected")
    yard.lab.control("away", "break", fault="lost-reply:ec2.CopySnapshot@1")
    yard.run("replicate", blind=True)
    yard.lab.control("away", "heal")
    assert yard.end()["duplicates"]


def test_without_intents_the_kill_shows(yard: Yard) -> None:
    """The test of the test: with the intent commit removed, effects without a durable intent are found."""
    yard.restore("protected")
    assert yard.run("replicate", forget_intents=True)["killed"]
    assert yard.unintended()
