"""The assembly line: order, bounds, and one failure that stops it all."""

from __future__ import annotations

import threading

import pytest

from drpilot.transfer.line import Channel, Line


def test_items_arrive_in_order_and_never_more_than_allowed() -> None:
    """A thousand items through two stages come in their order, with at most the depth waiting."""
    most, seen = 0, []
    with Line() as line:
        first: Channel[int] = line.channel(3)
        second: Channel[int] = line.channel(2)

        def give() -> None:
            for number in range(1000):
                first.put(number)
            first.close()

        def double() -> None:
            for number in first:
                second.put(2 * number)
            second.close()

        line.stage("give", give)
        line.stage("double", double)
        for number in second:
            most = max(most, len(first._items), len(second._items))
            seen.append(number)
    assert seen == [2 * number for number in range(1000)]
    assert most <= 3


def fifty_then_fail(where: str) -> None:
    """Three stages of which one fails at its fiftieth item."""

    def failing(stage: str, number: int) -> None:
        if stage == where and number == 50:
            raise ValueError(stage)

    with Line() as line:
        first: Channel[int] = line.channel(1)
        second: Channel[int] = line.channel(1)

        def give() -> None:
            for number in range(10_000):
                failing("giver", number)
                first.put(number)
            first.close()

        def middle() -> None:
            for number in first:
                failing("middle", number)
                second.put(number)
            second.close()

        line.stage("give", give)
        line.stage("middle", middle)
        for number in second:
            failing("taker", number)


@pytest.mark.parametrize("where", ["giver", "middle", "taker"])
def test_a_failure_stops_every_stage(where: str) -> None:
    """Whichever stage fails, its error is the one raised, and no thread is left waiting."""
    before = threading.active_count()
    with pytest.raises(ValueError, match=where):
        fifty_then_fail(where)
    assert threading.active_count() == before
