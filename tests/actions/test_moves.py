"""There and back on two clouds of the lab: failover without the primary, reprotect, failback, roll back, drill."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from drpilot.domain.plan import PlannedStep
from drpilot.lab import shop
from tests.actions.world import BUCKET, Failed, StepContext, World


def database(world: World, site: str) -> dict[str, Any]:
    """The running or stopped database instance on a site."""
    filters = [{"Name": "tag:Name", "Values": ["shop-db"]}]
    pages = world.sites[site].pages("ec2", "DescribeInstances", {"Filters": filters})
    found = [item for page in pages for group in page["Reservations"] for item in group["Instances"]]
    live = [item for item in found if item["State"]["Name"] != "terminated"]
    assert len(live) == 1, "one database, however often it was asked for"
    return dict(live[0])


def data_on(world: World, site: str) -> list[shop.Reading]:
    """What the data volumes of the database on a site hold, read from the lab's own files."""
    mappings = database(world, site)["BlockDeviceMappings"]
    ids = [item["Ebs"]["VolumeId"] for item in mappings if item["DeviceName"] != "/dev/xvda"]
    return shop.read_back(world.clouds[site].store.directory, ids)


def _bound(world: World, site: str) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """The elastic addresses of a site: allocation, address, instance, and the keys of our tags."""
    listed = world.sites[site].call("ec2", "DescribeAddresses", {})["Addresses"]
    return [
        (
            item["AllocationId"],
            item["PublicIp"],
            item.get("InstanceId", ""),
            tuple(sorted(tag["Key"] for tag in item["Tags"] if tag["Key"].startswith("drpilot:"))),
        )
        for item in listed
    ]


def _name(world: World) -> str:
    """Where the shop's name points now."""
    zone = world.built["hosted_zone"]
    asked = {"HostedZoneId": zone, "RecordName": "shop.example.org", "RecordType": "CNAME"}
    return str(world.sites["edge"].call("route53", "TestDNSAnswer", asked)["RecordData"][0])


@pytest.mark.row(7, 8, 12, 13, 20)
def test_replication_leaves_a_complete_point_and_a_minimal_standby(world: World) -> None:
    """After one run the other site has every replica, one small stopped database and both groups at 0."""
    point = world.facts.recovery_point("point1")
    assert point.state == "available"
    assert {replica.kind for replica in point.replicas} == {"snapshot", "image"}
    assert all(replica.id for replica in point.replicas)
    standby = database(world, "away")
    assert standby["State"] == {"Code": 80, "Name": "stopped"}
    assert standby["InstanceType"] == "t3.small"
    reply = world.sites["away"].call("autoscaling", "DescribeAutoScalingGroups", {})
    assert {item["DesiredCapacity"] for item in reply["AutoScalingGroups"]} == {0}
    assert world.facts.group == "protected"
    assert {row["state"] for row in world.facts.standbys.values()} == {"ready"}


def test_replicating_again_makes_a_second_point_and_nothing_else(world: World) -> None:
    """A second run copies the data again, adopts images and standbys, and changes no machine."""
    before = world.inventory("away")
    world.begin("replicate", "home", "away").all()
    grown = world.inventory("away") - before
    assert grown == Counter({"snapshot": 3, "image": 1})
    assert world.mutations("away").count("RunInstances") == 0


@pytest.mark.row(28, 35, 36, 60, 83, 84, 85, 92)
def test_failover_goes_through_with_the_primary_dead(world: World) -> None:
    """Nothing of the dead site is needed: the data is back, users reach the other side, the fence says unverified."""
    world.fault("home", "refuse")
    run = world.begin("failover", "home", "away", "point1").all()
    assert run.results["fence"]["output"]["verdict"] == "unverified"
    assert run.results["source_seen"]["output"]["alive"] is False
    assert shop.verified(data_on(world, "away"), world.built["data"])
    assert ".away." in _name(world)
    assert (world.facts.group, world.facts.active, world.facts.epoch) == ("active_unprotected", "away", 2)
    assert {row["state"] for row in world.facts.standbys.values()} == {"active"}
    assert world.mutations("home") == []
    order = [path.split("/")[1] for path in run.results if path.startswith("tiers/")]
    assert list(dict.fromkeys(order)) == ["db", "app", "web"]


@pytest.mark.row(61, 65, 67, 68, 86)
def test_there_and_back_again(world: World) -> None:
    """Failover, home heals, reprotect, failback without loss, reprotect: home runs, away is the pilot light again."""
    pilot_light = world.inventory("away")
    bound = {site: _bound(world, site) for site in ("home", "away")}
    world.fault("home", "refuse")
    world.begin("failover", "home", "away", "point1").all()
    world.heal("home")
    world.look("away")
    world.begin("reprotect", "away", "home").all()
    assert (world.facts.group, world.facts.fences["home"]) == ("protected", "released")
    assert database(world, "home")["InstanceId"] == world.built["database"]["instance"], (
        "the original is adopted"
    )
    assert {site: _bound(world, site) for site in bound} == bound, "home's own address waits with it"
    run = world.begin("switchover", "away", "home").all()
    proof = run.results["captured"]["output"]["proof"]
    assert proof["writers_left"] == "0"
    assert proof["writers_stopped_at"] < proof["captured_at"]
    assert shop.verified(data_on(world, "home"), world.built["data"])
    assert ".home." in _name(world)
    assert (world.facts.active, world.facts.epoch) == ("home", 3)
    world.look("home")
    world.begin("reprotect", "home", "away").all()
    assert world.facts.group == "protected"
    after = world.inventory("away")
    assert after["volume"] == 1, "only the standby's root is left"
    assert {kind: after[kind] for kind in ("instance", "auto-scaling-group", "load-balancer")} == {
        kind: pilot_light[kind] for kind in ("instance", "auto-scaling-group", "load-balancer")
    }
    assert database(world, "away")["InstanceType"] == "t3.small"
    assert {site: _bound(world, site) for site in bound} == bound, "nothing was allocated, released or moved"


@pytest.mark.row(56, 63)
def test_rolling_back_before_traffic_leaves_home_as_it_was(world: World) -> None:
    """A failover with home alive fences it; undone in reverse, home serves again and away stands by again."""
    before = database(world, "home")
    run = world.begin("failover", "home", "away", "point1").all(until="tiers/web/healthy")
    assert run.results["fence"]["output"]["verdict"] == "fenced"
    assert world.facts.fences["home"] == "fenced"
    assert database(world, "home")["State"]["Name"] == "stopped"
    run.back()
    after = database(world, "home")
    for key in ("InstanceId", "InstanceType", "State", "SecurityGroups"):
        assert after[key] == before[key], key
    groups = world.sites["home"].call("autoscaling", "DescribeAutoScalingGroups", {})["AutoScalingGroups"]
    assert {
        (item["MinSize"], item["DesiredCapacity"], len(item["SuspendedProcesses"])) for item in groups
    } == {
        (item.minimum, item.desired, 0)
        for item in (tier.scaling_group for tier in world.group("home").tiers)
        if item is not None
    }
    assert {row["state"] for row in world.facts.standbys.values()} == {"ready"}
    assert database(world, "away")["InstanceType"] == "t3.small"
    claim, _ = run.context("x", {}).witness().read("shop")
    assert claim is not None
    assert (claim.active, claim.epoch, claim.run) == ("home", 3, None)


@pytest.mark.row(21, 70, 71, 72, 73, 75, 76, 80)
def test_a_drill_proves_the_point_and_leaves_nothing(world: World) -> None:
    """The point boots in a network without a way out, its checks pass, and the inventory is as before."""
    before = {name: world.things(name) for name in ("home", "away")}
    run = world.begin("drill", "home", "away", "point1").all()
    assert world.facts.recovery_point("point1").state == "proven"
    for step in ("isolated", "still_isolated"):
        asked = [
            item for item in run.results[step]["output"]["checks"] if "does not know" not in item["observed"]
        ]
        assert len(asked) >= 6
    assert world.things("away") == before["away"]
    assert world.things("home") == before["home"]
    assert world.mutations("home") == []
    assert world.mutations("edge") == []


def test_a_drill_that_goes_red_is_cleaned_up_and_proves_nothing(world: World) -> None:
    """The database ends in the middle of the drill: the app tier's check never passes, and nothing is left."""
    before = world.things("away")
    run = world.begin("drill", "home", "away", "point1")
    run.timeout_s = 3.5

    def lose(step: PlannedStep, ctx: StepContext) -> None:
        if step.path == "tiers/app/healthy":
            (database,) = run.results["tiers/db/launch"]["output"]["instances"].values()
            world.sites["away"].call("ec2", "TerminateInstances", {"InstanceIds": [database]})

    with pytest.raises(Failed, match=r"tiers/app/healthy.*503"):
        run.all(before=lose)
    assert world.facts.recovery_point("point1").state == "available"
    assert world.things("away") == before


@pytest.mark.row(72)
def test_a_way_out_of_the_drill_stops_it(world: World) -> None:
    """An internet gateway, or a question that can't be answered, counts as a way out: nothing boots."""
    run = world.begin("drill", "home", "away", "point1").all(until="rules")
    away = world.sites["away"]
    isolated = run.plan.step("isolated")
    world.fault("away", "error-5xx:ec2.DescribeRouteTables")
    with pytest.raises(Failed, match="routes out: can't be told"):
        run.step(isolated)
    world.heal("away")
    gateway = away.call("ec2", "CreateInternetGateway", {})["InternetGateway"]["InternetGatewayId"]
    vpc = run.results["network"]["output"]["id"]
    away.call("ec2", "AttachInternetGateway", {"InternetGatewayId": gateway, "VpcId": vpc})
    with pytest.raises(Failed, match=f"internet gateways: {gateway}"):
        run.step(isolated)
    assert world.mutations("away").count("RunInstances") == 0


@pytest.mark.row(91)
def test_a_claim_of_another_run_stops_the_move_before_the_fence(world: World) -> None:
    """Two controllers: the second finds the first one's claim in the witness and touches nothing."""
    world.begin("failover", "home", "away", "point1").all(until="claim")
    world.calls.clear()
    second = world.begin("failover", "home", "away", "point1")
    with pytest.raises(Failed, match="claimed by"):
        second.all()
    assert world.mutations("home") == []
    assert world.mutations("away") == []


def test_without_the_witness_nobody_moves(world: World) -> None:
    """A witness that can't be reached refuses the claim; breaking the glass needs a reason in the proposal."""
    world.fault("edge", "refuse")
    run = world.begin("failover", "home", "away", "point1")
    run.results["target_ready"] = run.results["source_seen"] = {"output": {}, "state": "succeeded"}
    with pytest.raises(Failed, match="claim"):
        run.all()
    world.heal("edge")
    listed = world.sites["edge"].call("s3", "ListObjectsV2", {"Bucket": BUCKET})
    assert not listed.get("Contents"), "nothing was claimed"
    assert world.mutations("home") == []


@pytest.mark.row(44)
def test_another_type_is_taken_where_the_first_has_no_room(world: World) -> None:
    """Without capacity for m5.large the database starts as the next type of `otherwise`."""
    world.fault("home", "refuse")
    zone = database(world, "away")["Placement"]["AvailabilityZone"]
    world.clouds["away"].tune(capacity={f"{zone}/m5.large": 0})
    run = world.begin("failover", "home", "away", "point1").all(until="tiers/db/healthy")
    assert run.results["tiers/db/grow"]["output"]["types"] == {"shop-db": "m5.xlarge"}


def test_nothing_is_promoted_without_a_recorded_fence(world: World) -> None:
    """A runbook that leaves the fence out does not get past the first restore."""
    run = world.begin("failover", "home", "away", "point1")
    run.results["fence"] = {"output": {}, "state": "succeeded"}
    with pytest.raises(Failed, match="no recorded fence verdict"):
        run.all()
    assert world.mutations("away") == []


def test_retiring_removes_what_we_made_and_keeps_what_runs(world: World) -> None:
    """Standbys, points and tags go from both sides; the shop at home is untouched."""
    from drpilot.runbook.compile import CompileFacts

    running = world.sites["home"].call("ec2", "DescribeInstances", {})["Reservations"]
    facts = CompileFacts(world.group("home"), "cleanup", "practice", "home", "away", name="shop/9")
    world.carry("retire", facts).all()
    left = world.inventory("away")
    assert not {"instance", "volume", "snapshot", "image", "auto-scaling-group", "load-balancer"} & set(
        left
    ), left
    assert not {"launch-template", "target-group", "listener", "elastic-ip"} & set(left), left
    for site in ("home", "away"):
        filters = [{"Name": "key", "Values": ["drpilot:group"]}]
        tags = world.sites[site].call("ec2", "DescribeTags", {"Filters": filters})["Tags"]
        assert [item for item in tags if not item["ResourceId"].startswith("i-") or site == "home"] == []
    now = world.sites["home"].call("ec2", "DescribeInstances", {})["Reservations"]
    states = [
        sorted((i["InstanceId"], i["State"]["Name"]) for r in each for i in r["Instances"])
        for each in (running, now)
    ]
    assert states[0] == states[1]


def test_a_site_that_is_gone_in_replication_is_a_failure_not_a_half_point(world: World) -> None:
    """When the source dies in the middle of a copy the point fails and the one before it stays."""
    run = world.begin("replicate", "home", "away")

    def die(step: PlannedStep, ctx: StepContext) -> None:
        if step.path == "captured":
            world.fault("home", "refuse")

    with pytest.raises(Failed):
        run.all(before=die)
    world.heal("home")
    assert world.facts.recovery_point("point2").state == "failed"
    assert world.facts.recovery_point("point1").state == "available"
