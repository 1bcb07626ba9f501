"""Bytes between two unlike clouds, by the shipped runbook and the real clouds of the lab: what arrives, what a second
round moves, what a lost reply doubles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from drpilot.actions.importing import without_queries
from drpilot.formats.blockmap import BLOCK_BYTES
from drpilot.lab import disk
from tests.actions.world import Failed, World, opened

ZEROS = hashlib.sha256(bytes(BLOCK_BYTES)).hexdigest()


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The shop on AWS, one point carried to Eucalyptus."""
    with opened(tmp_path_factory.mktemp("shop"), "aws", "eucalyptus-4.4", data_volumes=1) as world:
        world.begin("replicate", "home", "away").all(until="complete")
        world.save()
        yield world


@pytest.fixture
def world(carried: World) -> Iterator[World]:
    """The same, as after the first round."""
    carried.restore()
    yield carried
    assert carried.strayed == set()


def contents(world: World, site: str, snapshot: str) -> dict[int, str]:
    """The digests of a snapshot's blocks that are not zeros, as the cloud itself has them."""
    found = world.clouds[site].store.block_map(snapshot)
    return {index: digest for index, digest in found.items() if digest != ZEROS}


def replicas(world: World, point: str) -> dict[str, tuple[str, str]]:
    """Source and copy of each snapshot of a point."""
    found = world.facts.recovery_point(point).replicas
    return {item.member: (item.source_id, item.id) for item in found if item.kind == "snapshot"}


def test_what_arrives_is_what_was_captured(world: World) -> None:
    """Every volume of the point, and the root of every image, has the source's blocks on the other cloud."""
    found = replicas(world, "point1")
    assert len(found) == 2
    for member, (source, copy) in found.items():
        assert contents(world, "away", copy) == contents(world, "home", source), member
        assert contents(world, "home", source), member
    point = world.facts.recovery_point("point1")
    images = [item for item in point.replicas if item.kind == "image"]
    assert {item.member for item in images} == {"shop-db", "shop-app", "shop-web"}
    home, away = world.clouds["home"].table("images"), world.clouds["away"].table("images")
    for item in (item for item in images if item.member != "shop-db"):
        source, copy = root(home[item.source_id]), root(away[item.id])
        assert contents(world, "away", copy) == contents(world, "home", source)


def root(image: Any) -> str:
    """The snapshot behind an image's root."""
    return str(image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"])


def test_nothing_but_the_replicas_and_the_stage_is_left(world: World) -> None:
    """The imported volumes are gone; each snapshot on the target belongs to a replica or an image."""
    left = world.inventory("away")
    assert left["volume"] == 0
    assert standing(world) == needed(world, "point1")


def standing(world: World) -> set[str]:
    """The snapshots and images that stand on the target, but the image of movers that was there before."""
    images = world.clouds["away"].table("images")
    mover = next(key for key, row in images.items() if row["Name"] == "drpilot-mover")
    found = {id_ for kind, id_ in world.things("away") if kind in ("snapshot", "image")}
    return found - {mover, root(images[mover])}


def needed(world: World, *points: str) -> set[str]:
    """What points have on the target, with the snapshots behind their images."""
    known = {item.id for name in points for item in world.facts.recovery_point(name).replicas}
    images = world.clouds["away"].table("images")
    return known | {root(images[item]) for item in known if item in images}


def parts(world: World) -> list[str]:
    """The part objects in the stage's bucket."""
    found = world.sites["away"].pages("s3", "ListObjects", {"Bucket": "drpilot-shop-staging"})
    keys = [item["Key"] for page in found for item in page.get("Contents") or []]
    return sorted(key for key in keys if key.rsplit("/", 1)[-1].isdigit())


def test_a_second_round_moves_only_what_changed(world: World) -> None:
    """One block written between two rounds: one part more lies on the stage, and the new copy has the new block."""
    before = parts(world)
    volume = next(
        volume
        for tier in world.group("home").tiers
        for item in tier.instances
        for volume in item.volumes
        if not volume.root
    )
    with world.clouds["home"].lock:
        world.clouds["home"].store.write_volume(volume.id, 100 * disk.BLOCK_BYTES, b"changed" * 1000)
    world.look("home")
    run = world.begin("replicate", "home", "away").all(until="complete")
    added = set(parts(world)) - set(before)
    changed = {
        path: result["output"]["changed"]
        for path, result in run.results.items()
        if path.endswith("/fill") and "machines" in path
    }
    assert sum(count > 0 for count in changed.values()) >= 1
    assert any(key.endswith(f"/{100 * disk.BLOCK_BYTES // (20 * BLOCK_BYTES):06d}") for key in added)
    assert len(added) <= sum(changed.values())
    for member, (source, copy) in replicas(world, "point2").items():
        assert contents(world, "away", copy) == contents(world, "home", source), member


LOST = ("ec2.ImportVolume", "ec2.CreateSnapshot", "ec2.CreateTags", "ec2.DeleteVolume", "s3.PutObject")


def test_lost_replies_of_the_target_double_nothing(world: World) -> None:
    """The reply of the first call of each changing kind is cut off after its effect: the same things stand in the
    end, and the bytes are right.
    """
    world.fault("away", *(f"lost-reply:{operation}@1" for operation in LOST))
    world.begin("replicate", "home", "away").all(until="complete")
    assert world.hits("away") == {operation.partition(".")[2] for operation in LOST}
    for member, (source, copy) in replicas(world, "point2").items():
        assert contents(world, "away", copy) == contents(world, "home", source), member
    assert world.inventory("away")["volume"] == 0
    assert standing(world) == needed(world, "point1", "point2")


def test_a_run_that_ends_during_an_import_leaves_no_volume(world: World) -> None:
    """The task of an import goes on without its run: what always runs stops it, or deletes what it made."""
    with world.clouds["away"].transaction():
        world.clouds["away"].tune(durations={"bytes_per_second": 50_000.0})
    run = world.begin("replicate", "home", "away")
    run.timeout_s = 3.0
    with pytest.raises(Failed, match="import"):
        run.all(until="complete")
    assert world.inventory("away")["volume"] == 0
    tasks = world.sites["away"].call("ec2", "DescribeConversionTasks", {})["ConversionTasks"]
    assert "active" not in {task["State"] for task in tasks}


def test_a_clouds_words_are_told_without_the_signed_part_of_urls() -> None:
    """What stands behind the question mark of a URL opens an object: it never gets into the journal."""
    text = "Failed to download http://127.0.0.1:8773/services/objectstorage/b/k?AWSAccessKeyId=A&Signature=S%3D: 403"
    told = without_queries(text)
    assert told == "Failed to download http://127.0.0.1:8773/services/objectstorage/b/k 403"
