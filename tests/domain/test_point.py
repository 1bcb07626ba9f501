"""Choosing, keeping and losing recovery points: pure rules, tried over many histories."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drpilot.domain.group import Retention
from drpilot.domain.point import RecoveryPoint, Replica, choose, expired, lag_s, loss_s

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)


def point(
    name: str, age_s: float, state: str = "available", *, pins: frozenset[str] = frozenset()
) -> RecoveryPoint:
    """A point captured `age_s` seconds ago."""
    at = NOW - timedelta(seconds=age_s)
    return RecoveryPoint(name, "shop", "home", "away", state, at, captured_at=at, pins=pins)


STATES = st.sampled_from(["available", "proven", "failed", "quarantined", "copying", "requested"])
HISTORIES = st.lists(
    st.tuples(st.integers(0, 40 * 86_400), STATES, st.booleans()),
    max_size=40,
    unique_by=lambda entry: entry[0],
)


@pytest.mark.row(23)
@given(HISTORIES, st.integers(0, 6), st.integers(0, 24), st.integers(0, 14))
def test_retention_never_lets_go_of_the_last_the_proven_or_a_pinned_point(
    history: list[tuple[int, str, bool]], last: int, hourly: int, daily: int
) -> None:
    """Whatever the policy, the newest usable, the newest proven and each pinned point stay."""
    points = [
        point(f"p{age}", age, state, pins=frozenset({"run"} if pinned else ()))
        for age, state, pinned in history
    ]
    gone = {found.id for found in expired(points, Retention(last, hourly, daily), NOW)}
    usable = sorted((p for p in points if p.usable), key=lambda p: p.requested_at, reverse=True)
    proven = [p for p in usable if p.state == "proven"]
    assert not gone & {p.id for p in usable[:1]}
    assert not gone & {p.id for p in proven[:1]}
    assert not gone & {p.id for p in points if p.pins}
    assert not gone & {p.id for p in points if p.state in ("copying", "requested")}


@pytest.mark.row(16)
def test_retention_keeps_the_tiers() -> None:
    """The last n, one an hour, one a day; the rest goes, oldest first."""
    points = [point(f"m{minute}", minute * 60) for minute in range(0, 240, 10)]
    gone = expired(points, Retention(last=2, hourly=3, daily=0), NOW)
    kept = [p.id for p in points if p not in gone]
    assert kept == ["m0", "m10", "m60", "m120"]
    assert gone[0].id == "m230"


def test_failed_and_quarantined_points_go_after_a_day() -> None:
    """They are no protection, but a day of evidence."""
    points = [point("new", 60), point("bad", 2 * 86_400, "failed"), point("odd", 3600, "quarantined")]
    assert [p.id for p in expired(points, Retention(1, 0, 0), NOW)] == ["bad"]


@pytest.mark.row(17)
def test_choose_newest_or_newest_proven() -> None:
    """Low loss or low risk; never a failed or quarantined one, never one of another site."""
    points = [
        point("a", 600, "proven"),
        point("b", 60),
        point("c", 10, "quarantined"),
        point("d", 5, "failed"),
    ]
    assert choose(points, "away") == points[1]
    assert choose(points, "away", policy="proven") == points[0]
    assert choose(points, "home") is None


@pytest.mark.row(14)
def test_lag_is_the_age_of_the_newest_usable_point() -> None:
    """No point means no number, not zero."""
    assert lag_s([point("a", 600), point("b", 60)], "away", NOW) == 60
    assert lag_s([point("c", 5, "copying")], "away", NOW) is None


def test_loss_counts_from_the_last_sign_of_life() -> None:
    """Known last sign of life: exact; unknown: at most the point's age; never negative."""
    chosen = point("a", 900)
    assert loss_s(chosen, NOW - timedelta(seconds=300), NOW) == (600, True)
    assert loss_s(chosen, None, NOW) == (900, False)
    assert loss_s(chosen, NOW - timedelta(seconds=1000), NOW) == (0, True)


def test_replica_is_found_by_member_and_kind() -> None:
    """A missing replica is a KeyError that names it."""
    replica = Replica("shop-db/dev/sdf", "snapshot", "away", "snap-1", "snap-2")
    whole = RecoveryPoint("p", "shop", "home", "away", "available", NOW, replicas=(replica,))
    assert whole.replica("shop-db/dev/sdf", "snapshot") is replica
    with pytest.raises(KeyError, match="image of shop-db"):
        whole.replica("shop-db", "image")
