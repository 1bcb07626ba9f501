"""The sample shop on site processes over HTTP: built, killed with SIGKILL, started again; and in virtual time."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from drpilot.base.clock import ManualClock, RealClock
from drpilot.lab import guest, names, shop
from drpilot.lab.cloud import Cloud
from drpilot.lab.process import World, start_in_process
from drpilot.lab.wire import attach
from tests.lab.delivery_world import block, until

PLAN = shop.Plan(home_network=block(5), away_network=block(6), blocks=4)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "world")
    world.up(speed=20)
    yield world
    errors = [world.control(name, "errors")["errors"] for name in world.sites()]
    world.down()
    assert errors == [[], [], []]


def clients(world: World, site: str) -> Callable[[str], Any]:
    access = world.sites()[site]
    session = boto3.Session(access.access_key, access.secret_key, region_name=access.region)
    options = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, read_timeout=20)
    made: dict[str, Any] = {}

    def client(service: str) -> Any:
        if service not in made:
            made[service] = session.client(service, endpoint_url=access.endpoint, config=options)
        return made[service]

    return client


def status(address: str) -> int:
    connection = http.client.HTTPConnection(address, 8080, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def test_a_killed_site_comes_back_with_its_shop(lab: World) -> None:
    """After SIGKILL the site's guests boot again, the balancer serves and the heartbeat goes on from its bytes."""
    built = shop.build(clients(lab, "home"), clients(lab, "edge"), PLAN)
    home = lab.directory / "sites" / "home"
    (address,) = lab.control("edge", "path/resolve", record="shop.example.org")["addresses"]
    assert address == names.embedded_address(built["dns"])
    assert status(address) == 200
    readings = shop.read_back(home, built["database"]["volumes"])
    assert shop.verified(readings, built["data"])
    assert readings[0].heartbeat is not None
    database = next(one for one in lab.control("home", "path/guests")["guests"] if one["role"] == "db")
    target = {"vpc": built["vpc"], "address": database["address"], "port": 5432}
    assert lab.control("home", "path/reach", **target)["reachable"]
    lab.kill("home")
    assert status(address) == 0
    lab.up()
    until(lambda: status(address) == 200, "the shop is back")
    later = until(lambda: shop.read_back(home, built["database"]["volumes"])[0].heartbeat, "a row")
    assert later.counter >= readings[0].heartbeat.counter


def test_in_virtual_time_every_effect_is_there_with_the_call(tmp_path: Path) -> None:
    """Without a thread and on a manual clock the shop is built and serves; time passes only as one sleeps."""
    clock = ManualClock(RealClock().now())
    sites = start_in_process(tmp_path, clock=clock)
    try:
        plan = shop.Plan(home_network=block(7), blocks=4, clock=clock)
        made = {name: _attached(cloud) for name, cloud in sites.items()}
        built = shop.build(made["home"], made["edge"], plan)
        before_s = clock.monotonic()
        shown = made["home"]("elbv2").describe_target_health(TargetGroupArn=built["target_group"])
        states = {item["TargetHealth"]["State"] for item in shown["TargetHealthDescriptions"]}
        assert states == {"healthy"}
        address = names.embedded_address(built["dns"])
        assert address is not None and status(address) == 200
        assert clock.monotonic() == before_s < 120
        label_counter = _counter(sites["home"])
        sites["home"].save("before")
        for _ in range(5):
            clock.advance(1)
            made["home"]("ec2").describe_instances()
        assert _counter(sites["home"]) == label_counter + 5
        sites["home"].restore("before")
        for _ in range(8):
            clock.advance(1)
            made["home"]("ec2").describe_instances()
        assert label_counter < _counter(sites["home"]) < label_counter + 8
        assert [cloud.errors for cloud in sites.values()] == [[], [], []]
    finally:
        for cloud in sites.values():
            cloud.close()


def _counter(cloud: Cloud) -> int:
    return next(int(one["counter"]) for one in guest.guests_of(cloud) if one["role"] == "db")


def _attached(cloud: Cloud) -> Callable[[str], Any]:
    key, secret = next(iter(cloud.keys.items()))
    session = boto3.Session(key, secret, region_name=cloud.region)

    def client(service: str) -> Any:
        made = session.client(service, endpoint_url="http://127.0.0.1:9")
        attach(made, cloud)
        return made

    return client
