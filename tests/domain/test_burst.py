"""The share of the users that a weight gives beside weights that are kept."""

from __future__ import annotations

from itertools import product

import pytest

from drpilot.domain.burst import MOST_OFF, MOST_WEIGHT, extra_weight, unreachable


@pytest.mark.parametrize(
    ("standing", "percent", "said"),
    [
        (60, 25, ""),
        (3, 25, ""),
        (None, 25, ""),
        (765, 50, "beside weights of 765 together the nearest is 255, which is 25 %"),
        (1, 25, "beside weights of 1 together the nearest is 1, which is 50 %"),
    ],
)
def test_a_share_is_reached_or_refused_with_its_numbers(
    standing: int | None, percent: int, said: str
) -> None:
    """A weight ends at 255 and begins at 1: another share than asked for is never given silently."""
    assert unreachable(standing, percent) == said


def test_no_share_is_off_by_more_than_is_said() -> None:
    """For every sum of weights and every share: within five points, or refused though no weight at all comes nearer."""
    for standing, percent in product((*range(1, 40), 100, 255, 256, 500, 1000), range(1, 100)):
        got = 100 * extra_weight(standing, percent) / (standing + extra_weight(standing, percent))
        assert (abs(got - percent) <= MOST_OFF) is (unreachable(standing, percent) == "")
        if unreachable(standing, percent):
            best = min(abs(100 * one / (standing + one) - percent) for one in range(1, MOST_WEIGHT + 1))
            assert best > MOST_OFF
