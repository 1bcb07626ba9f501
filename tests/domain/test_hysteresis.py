"""Two looks decide, never one: exhaustively over short histories of looks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest

from drpilot.base.clock import micros
from drpilot.domain.hysteresis import Streak

START = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
APART = timedelta(seconds=60)
LOOKS = (True, False, None)  # None: it can't tell
STEPS = (timedelta(seconds=20), timedelta(seconds=60))


def kept(looks: tuple[tuple[bool | None, datetime], ...]) -> dict[str, Any]:
    """The condition that the journal would hold after these looks (`Registry.set_condition`; unknown is not kept)."""
    condition: dict[str, Any] = {}
    for value, at in looks:
        if value is not None:
            same = condition.get("value") == value
            condition = {
                "value": value,
                "since": condition["since"] if same else micros(at),
                "looked_at": micros(at),
            }
    return condition


@pytest.mark.parametrize("length", range(1, 6))
def test_a_state_settles_only_when_two_looks_far_enough_apart_agree_in_a_row(length: int) -> None:
    """All histories: what settles is the newest told value, held by a run of looks that spans the distance."""
    for values, step in product(product(LOOKS, repeat=length), STEPS):
        looks = tuple((value, START + number * step) for number, value in enumerate(values))
        streak = Streak.of(kept(looks))
        told = [look for look in looks if look[0] is not None]
        if not told:
            assert streak is None
            continue
        newest = told[-1][0]
        row = [at for value, at in reversed(told)]
        for number, (value, _) in enumerate(reversed(told)):
            if value is not newest:
                row = row[:number]
                break
        assert streak is not None
        assert streak.settles(bool(newest), APART) is (row[0] - row[-1] >= APART)
        assert not streak.settles(not newest, APART)


def test_one_look_never_settles_and_an_earlier_one_kept_elsewhere_counts() -> None:
    """A single contrary look changes nothing; a fence run that saw the same thing before is the first of two."""
    streak = Streak.of(kept(((False, START),)))
    assert streak is not None
    assert not streak.settles(False, timedelta(microseconds=1))
    assert streak.settles(False, APART, earlier=START - APART)
    assert not streak.settles(False, APART, earlier=START - APART / 2)


@pytest.mark.parametrize(
    "condition",
    [None, {}, {"value": None, "since": 1, "looked_at": 1}, {"value": True}, {"value": False, "since": 1}],
)
def test_what_is_no_streak(condition: dict[str, Any] | None) -> None:
    """Nothing kept, nothing known, or half of it: no streak, so that nothing settles."""
    assert Streak.of(condition) is None
