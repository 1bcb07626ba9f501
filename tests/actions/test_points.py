"""Recovery points on the lab: retention, the consistency window, keys, and what is carried of each volume."""

from __future__ import annotations

from typing import Any

import pytest

from drpilot.actions.catalogue import CATALOGUE
from drpilot.actions.points import CaptureInput
from drpilot.actions.views import specification
from drpilot.base.clock import parse_time, rfc3339
from drpilot.domain.ports import Done, Waiting
from tests.actions.world import CLOCK, Failed, World


@pytest.mark.row(16, 23)
def test_retention_deletes_what_nothing_uses_and_keeps_the_shared_image(world: World) -> None:
    """With one point kept, each new one replaces the old: no snapshot or image is left behind on either side."""
    world.text = world.text.replace(
        "keep: {last: 6, hourly: 24, daily: 14}", "keep: {last: 1, hourly: 0, daily: 0}"
    )
    world.look("home")
    before = {site: world.inventory(site) for site in ("home", "away")}
    shared = world.facts.recovery_point("point1").replica("shop-app", "image").id
    world.begin("replicate", "home", "away").all()
    assert world.facts.points["point1"]["state"] == "deleted"
    assert world.facts.recovery_point("point2").replica("shop-app", "image").id == shared
    assert {site: world.inventory(site) for site in before} == before
    world.begin("replicate", "home", "away").all()
    assert {site: world.inventory(site) for site in before} == before
    listed = world.sites["away"].call("ec2", "DescribeImages", {"Owners": ["self"]})["Images"]
    assert shared in {image["ImageId"] for image in listed}


def test_what_does_not_carry_our_tag_is_never_deleted(world: World) -> None:
    """A snapshot whose tag of ours somebody took away stays, though its point expires."""
    world.text = world.text.replace(
        "keep: {last: 6, hourly: 24, daily: 14}", "keep: {last: 1, hourly: 0, daily: 0}"
    )
    world.look("home")
    kept = world.facts.recovery_point("point1").replica("shop-db/dev/sdf", "snapshot").id
    away = world.sites["away"]
    away.call("ec2", "DeleteTags", {"Resources": [kept], "Tags": [{"Key": "drpilot:group"}]})
    world.begin("replicate", "home", "away").all()
    assert world.facts.points["point1"]["state"] == "deleted"
    listed = away.call("ec2", "DescribeSnapshots", {"OwnerIds": ["self"]})["Snapshots"]
    assert kept in {snapshot["SnapshotId"] for snapshot in listed}


def test_a_deletion_that_was_cut_off_goes_on(world: World) -> None:
    """The decision to expire is durable: a later run deletes what an earlier one could not."""
    world.text = world.text.replace(
        "keep: {last: 6, hourly: 24, daily: 14}", "keep: {last: 1, hourly: 0, daily: 0}"
    )
    world.look("home")
    before = world.inventory("away")
    world.fault("away", "error-5xx:ec2.DeregisterImage")
    run = world.begin("replicate", "home", "away")
    run.timeout_s = 2.5
    with pytest.raises(Failed, match="delete"):
        run.all()
    assert world.facts.points["point1"]["state"] == "expiring"
    world.heal("away")
    world.begin("replicate", "home", "away").all()
    assert world.facts.points["point1"]["state"] == "deleted"
    assert world.inventory("away") == before


@pytest.mark.row(20)
def test_snapshots_too_far_apart_are_no_point(world: World) -> None:
    """A member captured an hour before the others ends the run; the point fails and is never chosen."""
    run = world.begin("replicate", "home", "away").all(until="capture/db/machines/shop-db/snapshots")
    row = world.facts.replicas["point2", "snapshot", "shop-db/dev/sdf"]
    late = parse_time(row["facts"]["started_at"]).replace(year=2020)
    row["facts"] = {**row["facts"], "started_at": rfc3339(late)}
    with pytest.raises(Failed, match="apart"):
        run.all()
    assert world.facts.recovery_point("point2").state == "failed"


def test_the_instant_of_a_point_is_its_earliest_snapshot(world: World) -> None:
    """Loss is counted from the earliest: captured_at is the minimum of all starts."""
    point = world.facts.recovery_point("point1")
    starts = [parse_time(item.facts["started_at"]) for item in point.replicas if item.kind == "snapshot"]
    assert point.captured_at == min(starts)


def _volume(world: World, site: str, filters: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = world.sites[site].call("ec2", "DescribeVolumes", {"Filters": filters})["Volumes"]
    return dict(found)


def test_a_volume_is_carried_whole_and_under_the_targets_key(world: World) -> None:
    """Type, IOPS, throughput, encryption under the mapped key and DeleteOnTermination arrive on the other side."""
    home, away = world.sites["home"], world.sites["away"]
    keys = [site.call("kms", "CreateKey", {})["KeyMetadata"]["Arn"] for site in (home, away)]
    database = world.built["database"]["instance"]
    zone = world.group("home").tier("db").instances[0].zone
    params = {
        "AvailabilityZone": zone,
        "Size": 8,
        "VolumeType": "gp3",
        "Iops": 3500,
        "Throughput": 200,
        "Encrypted": True,
        "KmsKeyId": keys[0],
    }
    made = home.call("ec2", "CreateVolume", params, token="carried")["VolumeId"]
    while _volume(world, "home", [{"Name": "volume-id", "Values": [made]}])["State"] != "available":
        world.clouds["home"].advance(5.0)
    home.call("ec2", "AttachVolume", {"VolumeId": made, "InstanceId": database, "Device": "/dev/sdm"})
    world.text = world.text.replace("  keys: ", f'  kms_keys: {{"{keys[0]}": "{keys[1]}"}}\n  keys: ')
    world.look("home")
    world.begin("replicate", "home", "away").all()
    world.fault("home", "refuse")
    world.begin("failover", "home", "away", "point2").all(until="tiers/db/attach")
    carried = _volume(world, "away", [{"Name": "tag:drpilot:member", "Values": ["shop-db/dev/sdm"]}])
    assert (carried["VolumeType"], carried["Size"], carried["Iops"], carried["Throughput"]) == (
        "gp3",
        8,
        3500,
        200,
    )
    assert (carried["Encrypted"], carried["KmsKeyId"]) == (True, keys[1])
    (place,) = carried["Attachments"]
    assert (place["Device"], place["State"], place["DeleteOnTermination"]) == ("/dev/sdm", "attached", False)


def test_a_disabled_key_stops_the_copy_with_the_clouds_own_word(world: World) -> None:
    """An encrypted volume without a usable key of the target never becomes part of a complete point."""
    home, away = world.sites["home"], world.sites["away"]
    keys = [site.call("kms", "CreateKey", {})["KeyMetadata"] for site in (home, away)]
    zone = world.group("home").tier("db").instances[0].zone
    params = {
        "AvailabilityZone": zone,
        "Size": 1,
        "VolumeType": "gp3",
        "Encrypted": True,
        "KmsKeyId": keys[0]["Arn"],
    }
    made = home.call("ec2", "CreateVolume", params, token="sealed")["VolumeId"]
    while _volume(world, "home", [{"Name": "volume-id", "Values": [made]}])["State"] != "available":
        world.clouds["home"].advance(5.0)
    database = world.built["database"]["instance"]
    home.call("ec2", "AttachVolume", {"VolumeId": made, "InstanceId": database, "Device": "/dev/sdm"})
    world.text = world.text.replace(
        "  keys: ", f'  kms_keys: {{"{keys[0]["Arn"]}": "{keys[1]["Arn"]}"}}\n  keys: '
    )
    world.look("home")
    away.call("kms", "DisableKey", {"KeyId": keys[1]["KeyId"]})
    run = world.begin("replicate", "home", "away")
    run.timeout_s = 10.0
    with pytest.raises(Failed, match=r"sdm/copy"):
        run.all()
    assert world.facts.recovery_point("point2").state == "failed"


def test_snapshots_of_two_takes_are_never_one_point(world: World) -> None:
    """A later take that lost a snapshot is not filled up from an earlier one: they are of two instants."""
    path = "capture/db/machines/shop-db/snapshots"
    run = world.begin("replicate", "home", "away")
    ctx = run.context(path, {"tier": "db", "instance": "shop-db"})
    instance = world.group("home").tier("db").instances[0]
    home, made = world.sites["home"], []
    for take in ("1", "2"):
        given = {
            "InstanceSpecification": {"InstanceId": instance.id, "ExcludeBootVolume": False},
            "TagSpecifications": [specification("snapshot", ctx.tags(take=take))],
        }
        made.append([item["SnapshotId"] for item in home.call("ec2", "CreateSnapshots", given)["Snapshots"]])
    home.call("ec2", "DeleteSnapshot", {"SnapshotId": made[1][0]})
    seen = CATALOGUE["point.capture"].observe(ctx, CaptureInput(tier="db", instance="shop-db"))
    while isinstance(seen, Waiting):
        CLOCK.sleep(0.1)
        seen = CATALOGUE["point.capture"].observe(ctx, CaptureInput(tier="db", instance="shop-db"))
    assert isinstance(seen, Done)
    assert sorted(seen.output.snapshots.values()) == sorted(made[0])
