"""The sample shop built on a Eucalyptus home by that cloud's own means, in virtual time."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from drpilot.actions.command import run_program, startable
from drpilot.base.clock import ManualClock
from drpilot.lab import disk, guest, names, shop
from drpilot.lab import freeze as freezing
from drpilot.lab.cloud import Cloud
from drpilot.lab.process import start_in_process
from drpilot.lab.wire import attach
from tests.lab.core_world import REAL
from tests.lab.delivery_world import block
from tests.lab.euca_world import euca_client


def _clients(cloud: Cloud) -> Callable[[str], Any]:
    key, secret = next(iter(cloud.keys.items()))
    made: dict[str, Any] = {}

    def client(service: str) -> Any:
        if service not in made:
            if cloud.dialect == "aws":
                session = boto3.Session(key, secret, region_name=cloud.region)
                made[service] = session.client(service, endpoint_url="http://127.0.0.1:9")
            else:
                made[service] = euca_client(
                    cloud.traits.version, service, "http://127.0.0.1:9", (key, secret)
                )
            attach(made[service], cloud)
        return made[service]

    return client


class _World:
    """The shop on a home of some version, the landing place on an AWS away, the name at the edge."""

    def __init__(self, directory: Path, version: str, number: int) -> None:
        self.directory, self.version = directory, version
        self.clock = ManualClock(REAL.now())
        dialects = {"home": f"eucalyptus-{version}", "away": "aws", "edge": "aws"}
        self.sites = start_in_process(directory, dialects, clock=self.clock)
        self.clients = {name: _clients(cloud) for name, cloud in self.sites.items()}
        store = self.sites["home"].store
        self.plan = shop.Plan(
            home_network=block(number),
            away_network=block(number + 1),
            blocks=4,
            clock=self.clock,
            home=dialects["home"],
            write=store.write_volume if version == "3.4" else None,
        )
        self.sites["home"].tune(classic_network=self.plan.home_network)
        self.shop = shop.build(self.clients["home"], self.clients["edge"], self.plan)
        self.landing = shop.prepare(self.clients["away"], self.plan)

    def close(self) -> None:
        errors = [cloud.errors for cloud in self.sites.values()]
        for cloud in self.sites.values():
            cloud.close()
        assert errors == [[], [], []]


@pytest.fixture(scope="module", params=("3.4", "4.4", "5"))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_World]:
    version = str(request.param)
    made = _World(tmp_path_factory.mktemp("lab"), version, 2 * ("3.4", "4.4", "5").index(version))
    yield made
    made.close()


def _get(address: str, path: str = "/healthz") -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, 8080, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_a_request_goes_through_all_three_tiers(world: _World) -> None:
    """The name leads to the classic balancer, which forwards to a web guest of the scaling group."""
    (address,) = names.resolve(world.sites["edge"], "shop.example.org")
    assert address == names.embedded_address(world.shop["dns"])
    assert _get(address) == (200, "ok")
    groups = world.clients["home"]("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    members = {group["AutoScalingGroupName"]: len(group["Instances"]) for group in groups}
    assert members == {"shop-app": 3, "shop-web": 2}
    health = world.clients["home"]("elb").describe_instance_health(LoadBalancerName="shop-lb")[
        "InstanceStates"
    ]
    assert [item["State"] for item in health] == ["InService", "InService"]
    assert _get(address, "/")[1].startswith("web i-")
    roles = sorted(one["role"] for one in guest.guests_of(world.sites["home"]))
    assert roles == ["app"] * 3 + ["db"] + ["web"] * 2


def test_the_database_has_its_bytes(world: _World) -> None:
    """An independent reader finds the seed's data set on the volumes, and the database writes heartbeats."""
    readings = shop.read_back(world.directory / "home", world.shop["database"]["volumes"])
    assert shop.verified(readings, world.shop["data"])
    assert [reading.blocks for reading in readings] == [4, 4, 4]
    assert all(reading.heartbeat is not None for reading in readings)
    shown = world.clients["home"]("ec2").describe_instances(InstanceIds=[world.shop["database"]["instance"]])
    instance = shown["Reservations"][0]["Instances"][0]
    assert instance["RootDeviceType"] == "ebs"
    assert len(instance["BlockDeviceMappings"]) == 4


def test_it_is_built_by_that_clouds_means(world: _World) -> None:
    """Launch configurations and tags there; VPCs where the version has them; nothing left of the imports."""
    home = world.clients["home"]
    found = home("autoscaling").describe_launch_configurations()["LaunchConfigurations"]
    assert sorted(one["LaunchConfigurationName"] for one in found) == ["shop-app", "shop-web"]
    assert bool(world.shop["vpc"]) == (world.version != "3.4")
    assert home("s3").list_buckets()["Buckets"] == []
    tagged = {tag["Value"] for tag in home("ec2").describe_tags()["Tags"] if tag["Key"] == "Name"}
    assert {"shop-db", "shop-db-data-2", "shop-db-root", "shop-web", "shop-batch"} <= tagged


def test_the_group_file_maps_one_cloud_to_the_other(world: _World) -> None:
    """Zones, machine types, subnets and groups of home stand beside those of away."""
    told = yaml.safe_load(shop.group_file(world.shop, world.landing, world.plan))
    assert told["map"]["zones"] == {"cluster01": "eu-west-1a", "cluster02": "eu-west-1b"}
    assert told["map"]["types"] == {"m1.large": "m5.large", "m1.medium": "t3.medium"}
    assert len(told["map"]["subnets"]) == 2
    assert ("cluster01" in told["map"]["subnets"]) == (world.version == "3.4")
    assert told["drill"].get("outbound") == ("open" if world.version == "3.4" else None)
    assert told["tiers"]["web"]["load_balancer"] == "shop-lb"
    assert told["tiers"]["db"]["standby"]["size"] == "t3.small"


def _database(world: _World) -> dict[str, Any]:
    (found,) = [one for one in guest.guests_of(world.sites["home"]) if one["role"] == "db"]
    return found


def _pass(world: _World, seconds: int) -> None:
    """Let time pass, half a second at a time, as heartbeats need it."""
    for _ in range(2 * seconds):
        world.clock.advance(0.5)
        world.sites["home"].tick()


def _programs(world: _World) -> list[str]:
    """The freeze and thaw programs of the shop's group file."""
    told = yaml.safe_load(shop.group_file(world.shop, world.landing, world.plan))
    programs = told["tiers"]["db"]["freeze"]
    assert all(startable(program) for program in programs)
    return list(programs)


def test_snapshots_taken_one_after_the_other_are_of_one_instant_under_a_freeze(world: _World) -> None:
    """With time between them, the log and the data of snapshots differ; between the group file's two programs they have
    the same newest row, and afterwards the database writes on.
    """
    cloud, ec2, database = world.sites["home"], world.clients["home"]("ec2"), _database(world)

    def newest() -> list[int]:
        """The newest row in a snapshot of each volume, log first, three seconds between the snapshots."""
        found = []
        for volume in world.shop["database"]["volumes"]:
            snapshot = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
            _pass(world, 3)
            blocks = {
                place: cloud.store.get_block(digest)
                for place, digest in cloud.store.block_map(snapshot).items()
            }
            header = disk.read_data_header(blocks[0])
            assert header is not None
            beat = disk.newest_heartbeat(blocks[header.heartbeat])
            assert beat is not None
            found.append(beat.counter)
        return found

    one, two, three = newest()
    assert one < two < three
    freeze, thaw = _programs(world)
    facts = {"DRPILOT_ADDRESS": database["address"]}
    done = run_program(freeze, facts, timeout_s=60)
    assert done.code == 0, done.tail
    frozen = newest()
    assert len(set(frozen)) == 1
    assert frozen[0] == _database(world)["counter"]
    done = run_program(thaw, facts, timeout_s=60)
    assert done.code == 0, done.tail
    _pass(world, 2)
    assert _database(world)["counter"] > frozen[0]
    assert _database(world)["problem"] is None


def test_a_freeze_ends_by_itself_and_thaw_tells(world: _World) -> None:
    """Whoever froze it may be gone: after its seconds the database writes, and a late thaw says that it did not hold;
    other guests, other addresses and other words are no freeze.
    """
    address = _database(world)["address"]
    assert freezing.ask(address, "/freeze?seconds=5")[0]
    assert freezing.ask(address, "/freeze?seconds=9") == (
        True,
        f"frozen for 9 s after row {_database(world)['counter']}",
    )
    counter = _database(world)["counter"]
    _pass(world, 8)
    assert _database(world)["counter"] == counter
    _pass(world, 3)
    assert _database(world)["counter"] > counter
    assert freezing.ask(address, "/thaw") == (False, "it was not frozen any more")
    assert freezing.ask(address, "/freeze?seconds=9999")[1].startswith("frozen for 120 s")
    assert freezing.ask(address, "/thaw") == (True, "thawed")
    assert not freezing.ask(address, "/freeze?seconds=-1")[0]
    web = next(one["address"] for one in guest.guests_of(world.sites["home"]) if one["role"] == "web")
    assert freezing.ask(web, "/freeze") == (False, "nothing here")
    for other in ("192.0.2.1", "db.example.org", ""):
        assert not freezing.ask(other, "/freeze")[0]
    _, thaw = _programs(world)
    late = run_program(thaw, {"DRPILOT_ADDRESS": address}, timeout_s=60)
    assert late.code == 1
    assert "not frozen any more" in late.tail


def _mover_root(cloud: Cloud, client: Callable[[str], Any], image_id: str) -> bytes:
    """What the root of a mover's image begins with, after its name and its tag were looked at."""
    (image,) = client("ec2").describe_images(Filters=[{"Name": "tag:Name", "Values": ["drpilot-mover"]}])[
        "Images"
    ]
    assert (image["ImageId"], image["Name"]) == (image_id, "drpilot-mover")
    assert image["Tags"] == [{"Key": "Name", "Value": "drpilot-mover"}]
    snapshot = image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    return cloud.store.get_block(cloud.store.block_map(snapshot)[0])


def test_home_has_an_image_of_movers(world: _World) -> None:
    """Whichever side is Eucalyptus has the image; it is no part of the shop, so nothing protects it."""
    root = _mover_root(world.sites["home"], world.clients["home"], world.shop["mover_image"])
    assert root == disk.root_block("mover")
    assert "mover" not in world.shop["images"]
    assert "mover_image" not in world.landing


@pytest.mark.parametrize("version", ["3.4", "4.4"])
def test_a_landing_place_has_an_image_of_movers(version: str, tmp_path: Path) -> None:
    """An empty Eucalyptus away gets it too, by an import or, where there is none, by hand; nothing else is left."""
    clock = ManualClock(REAL.now())
    (cloud,) = start_in_process(tmp_path, {"away": f"eucalyptus-{version}"}, clock=clock).values()
    client, write = _clients(cloud), cloud.store.write_volume if version == "3.4" else None
    plan = shop.Plan(clock=clock, away=f"eucalyptus-{version}", write=write)
    landing = shop.prepare(client, plan)
    assert _mover_root(cloud, client, landing["mover_image"]) == disk.root_block("mover")
    clock.advance(60)
    assert client("ec2").describe_volumes()["Volumes"] == []
    assert client("s3").list_buckets()["Buckets"] == []
    assert cloud.errors == []
    cloud.close()
