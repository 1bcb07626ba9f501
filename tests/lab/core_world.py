"""Sites of the lab for the core tests: in this process with a manual clock, or as real processes over HTTP."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from drpilot.base.clock import ManualClock, RealClock
from drpilot.lab.cloud import Cloud
from drpilot.lab.process import SiteAccess, start_in_process
from drpilot.lab.wire import attach

REAL = RealClock()
BLOCK = 524_288
CONFIG = Config(
    retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, connect_timeout=5, read_timeout=20
)
Client = Callable[..., Any]


_LOADER = botocore.session.get_session().get_component("data_loader")


def session_for(region: str, key: str, secret: str) -> Any:
    """A session that shares the parsed service models with all others, which saves most of a client's cost."""
    core = botocore.session.get_session()
    core.register_component("data_loader", _LOADER)
    return boto3.Session(key, secret, region_name=region, botocore_session=core)


_CLIENTS: dict[tuple[str, str], Any] = {}


def new_client(cloud: Cloud, service: str, session: Any = None, secret: str | None = None) -> Any:
    """An unchanged boto3 client with a cloud's keys, not attached to anything."""
    (key, right), *_ = cloud.keys.items()
    session = session or session_for(cloud.region, key, secret or right)
    return session.client(service, endpoint_url="http://127.0.0.1:9", config=CONFIG)


def client_of(cloud: Cloud, service: str, session: Any = None, secret: str | None = None) -> Any:
    """An unchanged boto3 client that talks to a cloud in this process."""
    client = new_client(cloud, service, session, secret)
    attach(client, cloud)
    return client


def http_client(access: SiteAccess, service: str, **options: Any) -> Any:
    """An unchanged boto3 client that talks to a site's process."""
    session = session_for(access.region, access.access_key, access.secret_key)
    return session.client(service, endpoint_url=access.endpoint, config=CONFIG.merge(Config(**options)))


class Pair:
    """Home and away in this process on a manual clock, with cached clients."""

    def __init__(self, directory: Path, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock(REAL.now())
        self.clouds = start_in_process(directory, ("home", "away"), clock=self.clock)
        self.home, self.away = self.clouds["home"], self.clouds["away"]
        self._attached: dict[tuple[str, str], Callable[[], None]] = {}

    def client(self, service: str = "ec2", site: str = "home") -> Any:
        """A client of a site; the costly object is made once and attached to this pair's cloud."""
        key = (service, site)
        if key not in _CLIENTS:
            _CLIENTS[key] = new_client(self.clouds[site], service)
        if key not in self._attached:
            self._attached[key] = attach(_CLIENTS[key], self.clouds[site])
        return _CLIENTS[key]

    def wait(self, seconds: float = 5.0) -> None:
        """Let lab time pass, a tenth of a second at a time, as two ticking sites would."""
        for _ in range(int(seconds * 10)):
            self.clock.advance(0.1)
            for cloud in self.clouds.values():
                cloud.tick()

    def close(self) -> None:
        for detach in self._attached.values():
            detach()
        for cloud in self.clouds.values():
            assert cloud.errors == []
            cloud.close()


def ground(ec2: Any, zone: str | None = None, block: str = "10.7.0.0/16") -> dict[str, str]:
    """A VPC with one subnet and one security group."""
    vpc = ec2.create_vpc(CidrBlock=block)["Vpc"]["VpcId"]
    zone = zone or f"{ec2.meta.region_name}a"
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock=block.replace("/16", "/24"), AvailabilityZone=zone)
    group = ec2.create_security_group(GroupName="shop", Description="shop", VpcId=vpc)
    return {"vpc": vpc, "subnet": subnet["Subnet"]["SubnetId"], "group": group["GroupId"], "zone": zone}


def block_of(number: int) -> bytes:
    """A block of bytes that no other number gives."""
    return (f"block {number} ".encode() * (BLOCK // 8))[:BLOCK]


def checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def put(ebs: Any, snapshot_id: str, place: int, data: bytes) -> None:
    ebs.put_snapshot_block(
        SnapshotId=snapshot_id,
        BlockIndex=place,
        BlockData=data,
        DataLength=BLOCK,
        Checksum=checksum(data),
        ChecksumAlgorithm="SHA256",
    )


def base_image(
    ec2: Any,
    ebs: Any,
    wait: Callable[[float], None],
    name: str = "base",
    blocks: dict[int, bytes] | None = None,
) -> str:
    """An image whose root snapshot was written block by block through EBS direct."""
    blocks = blocks if blocks is not None else {0: block_of(0), 7: block_of(7)}
    started = ebs.start_snapshot(VolumeSize=1, Description=f"root of {name}")["SnapshotId"]
    for place, data in blocks.items():
        put(ebs, started, place, data)
    ebs.complete_snapshot(SnapshotId=started, ChangedBlocksCount=len(blocks))
    wait(2.0)
    return str(
        ec2.register_image(
            Name=name,
            Architecture="x86_64",
            RootDeviceName="/dev/xvda",
            VirtualizationType="hvm",
            BlockDeviceMappings=[
                {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": started, "VolumeType": "gp3"}},
            ],
        )["ImageId"]
    )


def code_of(call: Callable[[], Any]) -> str:
    """The error code a call is refused with."""
    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])
