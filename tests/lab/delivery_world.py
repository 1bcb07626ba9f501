"""A site of the lab for the delivery tests: opened in this process, ticking, with boto3 clients attached to
it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from drpilot.base.clock import RealClock
from drpilot.lab.cloud import Cloud, Settings
from drpilot.lab.wire import attach
from tests.networks import reserved

CLOCK = RealClock()
_HELD = ExitStack()  # until the process ends


@cache
def _pair(number: int) -> int:
    return _HELD.enter_context(reserved())


def block(number: int) -> str:
    """A /16 of the loopback network for this test process alone, the same for a number each time."""
    return f"127.{_pair(number // 2) + number % 2}.0.0/16"


def open_site(directory: Path, name: str = "home", region: str = "eu-south-1", speed: float = 20.0) -> Cloud:
    """A ticking cloud whose time runs `speed` times as fast."""
    accounts = {"home": "111111111111", "away": "222222222222", "edge": "333333333333"}
    settings = Settings(name, region, accounts[name], speed=speed, keys={"AKIDLABTEST": "secret"})
    opened = Cloud.open(directory, settings)
    opened.start(0.05)
    return opened


def clients(cloud: Cloud) -> Callable[[str], Any]:
    """A factory of unchanged boto3 clients that talk to the cloud in this process; each service once."""
    session = boto3.Session("AKIDLABTEST", "secret", region_name=cloud.region)
    made: dict[str, Any] = {}
    lock = threading.Lock()

    def client(service: str) -> Any:
        with lock:
            if service not in made:
                options = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
                made[service] = session.client(service, endpoint_url="http://127.0.0.1:9", config=options)
                attach(made[service], cloud)
            return made[service]

    return client


def until(look: Callable[[], Any], what: str = "", timeout_s: float = 30.0) -> Any:
    """What `look` gives once it is true; fails the test after `timeout_s`."""
    end_s = CLOCK.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        if CLOCK.monotonic() > end_s:
            pytest.fail(f"never came: {what or look.__name__} (last: {found!r})")
        CLOCK.sleep(0.05)


def refused(call: Any, *args: Any, **kwargs: Any) -> str:
    """The error code that a call is refused with."""
    with pytest.raises(ClientError) as caught:
        call(*args, **kwargs)
    return str(caught.value.response["Error"]["Code"])


def network(client: Callable[[str], Any], cidr: str) -> dict[str, Any]:
    """A VPC with two subnets in two zones and one open security group."""
    ec2 = client("ec2")
    first = cidr.rsplit(".", 2)[0]
    vpc_id = ec2.create_vpc(CidrBlock=cidr)["Vpc"]["VpcId"]
    zones = [zone["ZoneName"] for zone in ec2.describe_availability_zones()["AvailabilityZones"]][:2]
    subnets = [
        ec2.create_subnet(VpcId=vpc_id, CidrBlock=f"{first}.{place}.0/24", AvailabilityZone=zone)["Subnet"][
            "SubnetId"
        ]
        for place, zone in enumerate(zones, 1)
    ]
    group = ec2.create_security_group(GroupName="open", Description="open", VpcId=vpc_id)["GroupId"]
    rule = {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 65535, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    return {"vpc": vpc_id, "zones": zones, "subnets": subnets, "group": group}
