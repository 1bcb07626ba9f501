"""How far buckets are behind, as the journal tells it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from drpilot.base.clock import rfc3339
from drpilot.domain.group import Bucket, Group, Objectives
from drpilot.domain.plain import Json
from drpilot.domain.plan import Plan, PlannedStep
from drpilot.domain.run import RunView, StepView
from drpilot.journal.views import GroupView
from drpilot.services.bucketlag import bucket_lines, late_buckets

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
GROUP = Group(
    "shop",
    "home",
    "away",
    Objectives(900.0, 1800.0),
    (),
    buckets=(Bucket("assets", "a", "a-dr"), Bucket("uploads", "u", "u-dr")),
)
VIEW = GroupView("shop", "protected", "home", 1, GROUP)


def run(minutes_ago: int, source: str = "home", **synced: bool) -> RunView:
    """A run that brought over buckets (True), or failed to (False), as many minutes ago."""
    at = NOW - timedelta(minutes=minutes_ago)
    target = "away" if source == "home" else "home"
    steps = tuple(
        PlannedStep(f"buckets/{key}/sync", "bucket.sync", None, {"bucket": key}, (), "x.yaml:1:1")
        for key in synced
    )
    output = {"synced_at": rfc3339(at), "objects": minutes_ago}
    plan = Plan("r", "d", "replicate", "shop", "replicate", "copy", source, target, "", steps)
    views = {
        step.path: StepView(step, output=output if synced[str(step.given["bucket"])] else None)
        for step in steps
    }
    return RunView("id", "shop/1", "shop", "replicate", "copy", "finished", plan, views, at, "me")


def test_the_newest_run_that_brought_it_over_counts() -> None:
    """A failed sync says nothing, and one of the other direction says nothing of this one."""
    runs = [
        run(1, source="away", assets=True, uploads=True),
        run(5, assets=True, uploads=False),
        run(20, uploads=True),
    ]
    assets, uploads = bucket_lines(VIEW, runs, NOW)
    assert (assets.age_s, assets.objects, assets.active, assets.standby) == (300.0, 5, "a", "a-dr")
    assert (uploads.age_s, uploads.synced_at) == (1200.0, NOW - timedelta(minutes=20))
    turned = bucket_lines(replace(VIEW, active="away"), runs, NOW)
    assert [(line.age_s, line.active, line.standby) for line in turned] == [
        (60.0, "a-dr", "a"),
        (60.0, "u-dr", "u"),
    ]


def receipt(minutes_ago: int, by: str = "") -> Json:
    """What a whole sync left beside its record; `by` is empty where a person did it."""
    return {
        "by": by,
        "synced_at": rfc3339(NOW - timedelta(minutes=minutes_ago)),
        "source_objects": 7,
    }


def test_the_last_sync_counts_whoever_did_it() -> None:
    """One by hand after the newest run is the age that is told, one before it is not; no run at all is needed."""
    runs = [run(20, assets=True)]
    by_hand = {"assets": receipt(3), "uploads": receipt(4)}
    assets, uploads = bucket_lines(VIEW, runs, NOW, by_hand)
    assert (assets.age_s, assets.objects, assets.by) == (180.0, 7, "hand")
    assert (uploads.age_s, uploads.objects, uploads.by) == (240.0, 7, "hand")
    assert list(late_buckets(VIEW, runs, NOW, by_hand)) == []
    assets, uploads = bucket_lines(VIEW, runs, NOW, {"assets": receipt(30), "uploads": receipt(2, "r9/x")})
    assert (assets.age_s, assets.objects, assets.by) == (1200.0, 20, "shop/1")
    assert (uploads.age_s, uploads.by) == (120.0, "run")


def test_only_what_is_later_than_the_objective_is_told() -> None:
    """Older than the RPO, or in none of the newest runs; a group that nothing protects has another problem."""
    assert list(late_buckets(VIEW, [run(5, assets=True, uploads=True)], NOW)) == []
    assert list(late_buckets(VIEW, [run(20, assets=True)], NOW)) == [
        ("bucket assets (a-dr on away) is 20m behind, objective 15m", NOW - timedelta(minutes=20)),
        ("bucket uploads (u-dr on away) was brought over by none of the newest runs", None),
    ]


@pytest.mark.parametrize("state", ["active_unprotected", "failing_over", "new"])
def test_a_group_that_is_not_replicated_has_no_late_buckets(state: str) -> None:
    """Nobody promised that they are in step."""
    assert list(late_buckets(replace(VIEW, state=state), [], NOW)) == []
