"""The sample shop on two real lab sites: guests that listen, a database on real bytes, fences and
isolation.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from drpilot.lab import dataset, disk, guest, names, shop
from drpilot.lab.store import BLOCK_BYTES
from tests.lab.delivery_world import CLOCK, block, clients, open_site, until

PLAN = shop.Plan(home_network=block(2), away_network=block(3), blocks=6, data_volumes=3)


class World:
    """Two sites and the edge, with the shop built on home."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = open_site(directory / "home")
        self.away = open_site(directory / "away", "away", "eu-west-1")
        self.edge = open_site(directory / "edge", "edge", "us-east-1")
        self.home.connect(self.away)
        self.clients: dict[str, Callable[[str], Any]] = {
            cloud.name: clients(cloud) for cloud in (self.home, self.away, self.edge)
        }
        self.shop = shop.build(self.clients["home"], self.clients["edge"], PLAN)
        self.landing = shop.prepare(self.clients["away"], PLAN)

    def close(self) -> list[str]:
        errors = []
        for cloud in (self.home, self.away, self.edge):
            cloud.close()
            errors += cloud.errors
        return errors

    def ec2(self, operation: str, **params: Any) -> Any:
        return getattr(self.clients["home"]("ec2"), operation)(**params)

    def instance(self, instance_id: str) -> dict[str, Any]:
        shown = self.ec2("describe_instances", InstanceIds=[instance_id])
        return dict(shown["Reservations"][0]["Instances"][0])

    @property
    def database(self) -> str:
        return str(self.shop["database"]["instance"])

    @property
    def database_address(self) -> str:
        return str(self.instance(self.database)["PrivateIpAddress"])

    def readings(self) -> list[dataset.Reading]:
        return dataset.read_back(self.directory / "home", self.shop["database"]["volumes"])

    def launch(self, role: str, network: dict[str, Any], group: str) -> str:
        """An instance of the shop's images in some network, running."""
        made = self.ec2(
            "run_instances",
            ImageId=self.shop["images"][role],
            InstanceType="t3.small",
            MinCount=1,
            MaxCount=1,
            SubnetId=network["subnets"][0],
            SecurityGroupIds=[network["security_groups"][group]],
        )
        instance_id = str(made["Instances"][0]["InstanceId"])
        until(lambda: self.instance(instance_id)["State"]["Name"] == "running")
        return instance_id

    def restore(self, snapshots: list[str]) -> str:
        """A second database instance on volumes of these snapshots; gives its address once HTTP answers."""
        instance_id = self.launch("db", self.shop, "shop-db")
        for snapshot_id, device in zip(snapshots, ("/dev/sdf", "/dev/sdg", "/dev/sdh"), strict=False):
            made = self.ec2("create_volume", SnapshotId=snapshot_id, AvailabilityZone=self.shop["zones"][0])
            volume_id = made["VolumeId"]
            until(lambda volume_id=volume_id: self.volume_state(volume_id) == "available")
            self.ec2("attach_volume", VolumeId=volume_id, InstanceId=instance_id, Device=device)
            until(lambda volume_id=volume_id: self.volume_state(volume_id) == "in-use")
        return instance_id

    def volume_state(self, volume_id: str) -> str:
        return str(self.ec2("describe_volumes", VolumeIds=[volume_id])["Volumes"][0]["State"])

    def problem(self, instance_id: str) -> str | None:
        """What a database guest says of itself once it has looked at its volumes; '' before."""
        for one in guest.guests_of(self.home):
            if one["instance"] == instance_id:
                return None if one["problem"] is None else str(one["problem"])
        return ""

    def terminate(self, *instance_ids: str) -> None:
        self.ec2("terminate_instances", InstanceIds=list(instance_ids))
        until(lambda: all(self.instance(one)["State"]["Name"] == "terminated" for one in instance_ids))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("lab"))
    yield made
    assert made.close() == []


def get(address: str, path: str = "/healthz", port: int = 8080) -> tuple[int, str]:
    """Status and text of one HTTP request from outside; (0, reason) when nothing answers."""
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError as error:
        return 0, str(error)
    finally:
        connection.close()


def connects(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


def balancer_address(world: World) -> str:
    found = names.embedded_address(world.shop["dns"])
    assert found is not None
    return found


def test_a_request_goes_through_all_three_tiers(world: World) -> None:
    """The name answers with the balancer's address, and the balancer forwards to a healthy web guest."""
    assert names.resolve(world.edge, "shop.example.org") == [balancer_address(world)]
    until(lambda: get(balancer_address(world)) == (200, "ok"), "healthy")
    assert get(balancer_address(world), "/")[1].startswith("web i-")
    members = {
        f"web {item['InstanceId']} on home\n"
        for group in world.clients["home"]("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        if group["AutoScalingGroupName"] == "shop-web"
        for item in group["Instances"]
    }
    until(lambda: {get(balancer_address(world), "/")[1] for _ in range(8)} == members, "both web guests")


def test_guests_listen_where_ec2_says_they_are(world: World) -> None:
    """Six guests of three roles listen on their private addresses; the batch machine has no software."""
    roles = ["app"] * 3 + ["db"] + ["web"] * 2
    until(lambda: sorted(one["role"] for one in guest.guests_of(world.home)) == roles, "six guests")
    until(lambda: connects(world.database_address, 5432), "the database is open")
    assert all(one["not_bound"] == [] for one in guest.guests_of(world.home))
    assert not connects(world.instance(world.shop["batch"])["PrivateIpAddress"], 8080)


def test_the_database_answers_on_its_elastic_address(world: World) -> None:
    """The address that the shop was given is the instance's public one, and the guest listens there as well."""
    shown = world.instance(world.shop["database"]["instance"])
    assert shown["PublicIpAddress"] == world.shop["database"]["address"]
    until(lambda: get(shown["PublicIpAddress"]) == (200, "ok"), "the database on its public address")


def test_the_data_is_what_the_seed_says(world: World) -> None:
    """Reading the volume files without the cloud gives the digests of the seed; one changed byte is seen."""
    assert dataset.verified(world.readings(), world.shop["data"])
    assert world.shop["data"] == dataset.expected(PLAN.contents)
    assert not dataset.verified(world.readings()[:-1], world.shop["data"])
    volume_id = world.shop["database"]["volumes"][1]
    header = disk.read_data_header(world.home.store.read_volume(volume_id, 0, BLOCK_BYTES))
    assert header is not None
    place = max(header.blocks) * BLOCK_BYTES
    old = world.home.store.read_volume(volume_id, place, 1)
    world.home.store.write_volume(volume_id, place, bytes([old[0] ^ 1]))
    try:
        assert not dataset.verified(world.readings(), world.shop["data"])
    finally:
        world.home.store.write_volume(volume_id, place, old)


def test_the_database_writes_a_heartbeat(world: World) -> None:
    """The newest row rises while the database runs, in every volume, the log never behind."""
    before = world.readings()[0].heartbeat

    def later() -> Any:
        with world.home.lock:  # all volumes at one instant
            beats = [reading.heartbeat for reading in world.readings()]
        counters = [beat.counter if beat else 0 for beat in beats]
        assert counters[0] >= counters[1] >= counters[2] >= counters[0] - 1
        return before is None or counters[0] > before.counter + 1

    until(later, "two more rows")


def test_tiers_answer_503_while_the_database_is_down(world: World) -> None:
    """Stopping the database makes app and web unhealthy and the balancer answer 503; it comes back."""
    app = next(one["address"] for one in guest.guests_of(world.home) if one["role"] == "app")
    address = world.database_address
    world.ec2("stop_instances", InstanceIds=[world.database])
    until(lambda: not connects(address, 5432), "the port closes")
    until(lambda: get(app)[0] == 503, "app says 503")
    assert "no db answers" in get(app)[1]

    def states() -> set[str]:
        group = world.shop["target_group"]
        shown = world.clients["home"]("elbv2").describe_target_health(TargetGroupArn=group)
        return {item["TargetHealth"]["State"] for item in shown["TargetHealthDescriptions"]}

    until(lambda: states() == {"unhealthy"}, "the balancer sees it")
    assert get(balancer_address(world)) == (503, "503 no healthy target\n")
    until(lambda: world.instance(world.database)["State"]["Name"] == "stopped")
    world.ec2("start_instances", InstanceIds=[world.database])
    until(lambda: get(balancer_address(world)) == (200, "ok"), "healthy again")


def test_snapshots_of_one_instant_make_a_database(world: World) -> None:
    """Volumes of one CreateSnapshots call start a second database with the same data."""
    made = world.ec2(
        "create_snapshots", InstanceSpecification={"InstanceId": world.database, "ExcludeBootVolume": True}
    )
    snapshots = [item["SnapshotId"] for item in made["Snapshots"]]
    until(
        lambda: all(
            item["State"] == "completed"
            for item in world.ec2("describe_snapshots", SnapshotIds=snapshots)["Snapshots"]
        )
    )
    instance_id = world.restore(snapshots)
    address = world.instance(instance_id)["PrivateIpAddress"]
    until(lambda: get(address) == (200, "ok"), "the copy is healthy")
    assert connects(address, 5432)
    world.terminate(instance_id)


def test_snapshots_of_different_instants_are_refused_by_the_database(world: World) -> None:
    """A log taken before its data is seen: the database answers 503 and does not open its port."""
    snapshots = []
    for volume_id in world.shop["database"]["volumes"]:
        counter = next(
            one["counter"] for one in guest.guests_of(world.home) if one["instance"] == world.database
        )
        snapshots.append(world.ec2("create_snapshot", VolumeId=volume_id)["SnapshotId"])
        until(
            lambda counter=counter: next(
                one["counter"] > counter + 2
                for one in guest.guests_of(world.home)
                if one["instance"] == world.database
            ),
            "rows written between two snapshots",
        )
    until(
        lambda: all(
            item["State"] == "completed"
            for item in world.ec2("describe_snapshots", SnapshotIds=snapshots)["Snapshots"]
        )
    )
    instance_id = world.restore(snapshots)
    until(lambda: "ahead of the log" in (world.problem(instance_id) or ""), "the refusal")
    address = world.instance(instance_id)["PrivateIpAddress"]
    until(lambda: get(address)[0] == 503, "it says 503")
    assert not connects(address, 5432)
    world.terminate(instance_id)


def test_a_database_without_its_volumes_or_on_damaged_ones_answers_503(world: World) -> None:
    """Blank volumes carry no data set; a database without data never opens 5432."""
    instance_id = world.launch("db", world.shop, "shop-db")
    address = world.instance(instance_id)["PrivateIpAddress"]
    until(lambda: "missing" in (world.problem(instance_id) or ""), "no volumes")
    until(lambda: get(address)[0] == 503, "it says 503")
    assert not connects(address, 5432)
    blank = world.ec2("create_volume", Size=1, AvailabilityZone=world.shop["zones"][0])["VolumeId"]
    until(lambda: world.volume_state(blank) == "available")
    world.ec2("attach_volume", VolumeId=blank, InstanceId=instance_id, Device="/dev/sdf")
    until(lambda: world.volume_state(blank) == "in-use")
    until(lambda: "[0, 1, 2]" in (world.problem(instance_id) or ""), "a blank volume")
    assert not connects(address, 5432)
    world.terminate(instance_id)


def test_an_image_whose_bytes_are_gone_starts_no_software(world: World) -> None:
    """An instance from an image whose snapshot bytes were lost runs, but nothing listens on it."""
    image = world.ec2("describe_images", ImageIds=[world.shop["images"]["app"]])["Images"][0]
    snapshot_id = image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    digest = world.home.store.block_map(snapshot_id)[0]
    path = world.home.store.block_path(digest)
    kept = path.read_bytes()
    path.unlink()
    try:
        instance_id = world.launch("app", world.shop, "shop-app")
        world.home.advance(30)
        assert world.problem(instance_id) == ""
        assert not connects(world.instance(instance_id)["PrivateIpAddress"], 8080)
        world.terminate(instance_id)
    finally:
        path.write_bytes(kept)


def test_a_deny_all_security_group_fences_the_database(world: World) -> None:
    """Without any ingress rule the port refuses and no row is written; with its group back they are."""
    closed = world.ec2(
        "create_security_group", GroupName="fence", Description="deny", VpcId=world.shop["vpc"]
    )
    world.ec2("modify_instance_attribute", InstanceId=world.database, Groups=[closed["GroupId"]])
    address = world.database_address
    until(lambda: not connects(address, 5432) and not connects(address, 8080), "nothing listens")
    first = world.readings()[0].heartbeat
    CLOCK.sleep(1.5)
    assert world.readings()[0].heartbeat == first
    own = world.shop["security_groups"]["shop-db"]
    world.ec2("modify_instance_attribute", InstanceId=world.database, Groups=[own])
    until(lambda: connects(address, 5432), "it listens again")
    until(lambda: world.readings()[0].heartbeat != first, "it writes again")
    world.ec2("delete_security_group", GroupId=closed["GroupId"])
    until(lambda: get(balancer_address(world)) == (200, "ok"), "healthy again")


def test_security_group_rules_decide_who_gets_in(world: World) -> None:
    """A web guest can't open the database's port: shop-db admits shop-app and the control path alone."""
    admits = guest.runtime(world.home).world.admits
    by_role = {one["role"]: one["address"] for one in guest.guests_of(world.home)}
    group = [world.shop["security_groups"]["shop-db"]]
    assert admits(group, by_role["app"], 5432)
    assert not admits(group, by_role["web"], 5432)
    assert admits(group, "127.0.0.1", 5432)


def test_an_isolated_network_reaches_nobody(world: World) -> None:
    """A drill network without a way out reaches neither the database nor the world, nor do its guests."""
    isolated = shop._network(world.clients["home"], block(4))
    gateway = isolated["gateway"]
    world.ec2("detach_internet_gateway", InternetGatewayId=gateway, VpcId=isolated["vpc"])
    address = world.database_address
    until(
        lambda: (
            not guest.reach(world.home, isolated["vpc"], "127.0.0.1", 9)["reason"].startswith("no network")
        )
    )
    lost = guest.reach(world.home, isolated["vpc"], address, 5432)
    assert not lost["reachable"] and "no route" in lost["reason"]
    assert "no route" in guest.reach(world.home, isolated["vpc"], "127.0.0.1", 80)["reason"]
    assert guest.reach(world.home, world.shop["vpc"], balancer_address(world), 8080)["reachable"]
    app = world.launch("app", isolated, "shop-app")
    inside = world.instance(app)["PrivateIpAddress"]
    until(lambda: get(inside)[0] == 503, "the app in the drill network")
    assert "no db answers" in get(inside)[1]
    world.terminate(app)


def test_an_outage_takes_the_guests_down_and_they_come_back(world: World) -> None:
    """While the whole site is dead nothing listens and no row is written; healed, the shop serves again."""
    with world.home.transaction():
        world.home.faults.set("refuse")
    address = balancer_address(world)
    until(lambda: not connects(address, 8080), "the balancer is dead")
    until(lambda: guest.guests_of(world.home) == [], "the guests are dead")
    first = world.readings()[0].heartbeat
    CLOCK.sleep(1.2)
    assert world.readings()[0].heartbeat == first
    with world.home.transaction():
        world.home.faults.heal()
    until(lambda: get(address) == (200, "ok"), "healthy again")


def test_the_group_file_names_what_was_built(world: World) -> None:
    """The text is YAML with the tiers in order, a one-to-one map and the ids of both sites."""
    read = yaml.safe_load(shop.group_file(world.shop, world.landing, PLAN))
    assert list(read["tiers"]) == ["db", "app", "web"]
    assert read["map"]["subnets"] == dict(zip(world.shop["subnets"], world.landing["subnets"], strict=True))
    assert all(len(set(pairs.values())) == len(pairs) for pairs in read["map"].values())
    assert read["traffic"]["zone"] == world.shop["hosted_zone"]
    assert read["approvals"] == {"failover": 2, "switchover": 1, "commit": 1}


def test_the_landing_place_is_empty_but_for_its_network(world: World) -> None:
    """Away has network, security groups and key pair of equal names, and not one machine."""
    ec2 = world.clients["away"]("ec2")
    assert ec2.describe_instances()["Reservations"] == []
    assert ec2.describe_key_pairs()["KeyPairs"][0]["KeyName"] == "shop-ops"
    assert set(world.landing["security_groups"]) == set(world.shop["security_groups"])


def test_the_shop_survives_a_restart_of_its_site(world: World) -> None:
    """Closed and opened again from its directory, the site's guests and balancer serve as before."""
    counter = world.readings()[0].heartbeat
    world.home.close()
    address = balancer_address(world)
    until(lambda: not connects(address, 8080), "the ports are free")
    world.home = open_site(world.directory / "home")
    world.clients["home"] = clients(world.home)
    until(lambda: get(address) == (200, "ok"), "healthy again")
    later = until(lambda: world.readings()[0].heartbeat, "a row")
    assert counter is not None and later.counter >= counter.counter
