"""Volumes taken one by one, on a cloud without CreateSnapshots: what a take that broke off leaves."""

from __future__ import annotations

from pathlib import Path

from drpilot.actions.catalogue import CATALOGUE
from drpilot.actions.points import CaptureInput
from drpilot.actions.views import made_here, snapshots, specification
from drpilot.base.clock import RealClock
from drpilot.domain.ports import Done, Waiting
from tests.actions.world import opened

CLOCK = RealClock()


def test_what_a_broken_take_left_is_gone_after_the_next(tmp_path: Path) -> None:
    """The driver died after the first volume: the next take is whole and of one moment, and nothing else stands."""
    capture = CATALOGUE["point.capture"]
    given = CaptureInput(tier="db", instance="shop-db")
    with opened(tmp_path, "eucalyptus-4.4", "aws", data_volumes=1) as world:
        run = world.begin("replicate", "home", "away")
        ctx = run.context("capture/db/machines/shop-db/snapshots", given.model_dump())
        home, volumes = world.sites["home"], world.group("home").tier("db").instances[0].volumes
        tags = ctx.tags(point=ctx.point_id, tier="db", member="shop-db", take="1")
        params = {"VolumeId": volumes[-1].id, "TagSpecifications": [specification("snapshot", tags)]}
        broken = home.call("ec2", "CreateSnapshot", params)["SnapshotId"]
        while snapshots(home, [{"Name": "snapshot-id", "Values": [broken]}])[0]["State"] != "completed":
            world.clouds["home"].advance(5.0)
        seen = capture.start(ctx, given)
        while isinstance(seen, Waiting):
            world.clouds["home"].advance(5.0)
            seen = capture.observe(ctx, given)
        assert isinstance(seen, Done)
        taken = set(seen.output.snapshots.values())
        assert len(taken) == len(volumes) == 2
        assert broken not in taken
        assert {item["SnapshotId"] for item in snapshots(home, made_here(ctx))} == taken
