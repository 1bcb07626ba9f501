"""Eucalyptus sites of the lab for its tests: unchanged boto3 with the few settings such a cloud needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import boto3
import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from drpilot.base.clock import Clock, ManualClock
from drpilot.lab.access import QueryWatch, forget_token, recipe
from drpilot.lab.cloud import Cloud, Settings
from drpilot.lab.eucalyptus.services import endpoints_of
from drpilot.lab.wire import attach
from tests.lab.core_world import REAL

VERSIONS = ("3.4", "4.4", "5")
ACCOUNT = "123456789012"
KEY, SECRET = "AKIDEXAMPLE", "secret"


def euca_client(version: str, service: str, origin: str, keys: tuple[str, ...], **options: Any) -> Any:
    """A boto3 client after the recipe for such clouds. `keys` are id and secret, or those and a token."""
    core = botocore.session.get_session()
    core.register_component("data_loader", QueryWatch())
    session = boto3.Session(*keys, region_name="eucalyptus", botocore_session=core)
    url = endpoints_of(version, origin)[service]
    client = session.client(service, endpoint_url=url, config=Config(**(recipe(version, service) | options)))
    client.meta.events.register("before-call.ec2.CreateVolume", forget_token)
    return client


_CLIENTS: dict[tuple[str, str], Any] = {}


class Twin:
    """One Eucalyptus site in this process."""

    def __init__(
        self, directory: Path, version: str = "4.4", platform: str = "", clock: Clock | None = None
    ) -> None:
        self.version = version
        self.clock: Any = clock or ManualClock(REAL.now())
        settings = Settings(
            name="home",
            region="eucalyptus",
            account=ACCOUNT,
            dialect=f"eucalyptus-{version}",
            keys={KEY: SECRET},
            platform=platform,
            login=("shop", "admin", "open sesame"),
        )
        self.cloud = Cloud.open(directory, settings, self.clock)
        self._detach: list[Callable[[], None]] = []
        self._attached: set[str] = set()

    def client(self, service: str = "ec2", **options: Any) -> Any:
        """A client of the site; those without options are made once."""
        if options:
            keys = options.pop("keys", (KEY, SECRET))
            made = euca_client(self.version, service, "http://127.0.0.1:9", keys, **options)
            self._detach.append(attach(made, self.cloud))
            return made
        key = (self.version, service)
        if key not in _CLIENTS:
            _CLIENTS[key] = euca_client(self.version, service, "http://127.0.0.1:9", (KEY, SECRET))
        if service not in self._attached:
            self._attached.add(service)
            self._detach.append(attach(_CLIENTS[key], self.cloud))
        return _CLIENTS[key]

    def wait(self, seconds: float = 5.0) -> None:
        """Let lab time pass, a tenth of a second at a time."""
        for _ in range(int(seconds * 10)):
            self.clock.advance(0.1)
            self.cloud.tick()

    def ground(self) -> dict[str, str]:
        """A VPC with one subnet and one security group in the first cluster."""
        ec2 = self.client()
        vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.7.0.0/24", AvailabilityZone="cluster01")
        group = ec2.create_security_group(GroupName="shop", Description="shop", VpcId=vpc)["GroupId"]
        return {"vpc": vpc, "subnet": subnet["Subnet"]["SubnetId"], "group": group}

    def close(self) -> None:
        for detach in self._detach:
            detach()
        assert self.cloud.errors == []
        self.cloud.close()


def refused(call: Callable[..., Any], **params: Any) -> tuple[int, str, str]:
    """HTTP status, code and message a call is refused with."""
    with pytest.raises(ClientError) as caught:
        call(**params)
    reply = caught.value.response
    return (
        int(reply["ResponseMetadata"]["HTTPStatusCode"]),
        str(reply["Error"]["Code"]),
        str(reply["Error"]["Message"]),
    )


PART_BYTES = 10 * 1024 * 1024


def import_manifest(
    s3: Any, image: bytes, *, bucket: str = "import", part_bytes: int = PART_BYTES
) -> dict[str, str]:
    """Upload an image in parts with its import manifest, as a client of such a cloud does; gives the presigned
    URL of the manifest, its key, and its text.
    """
    parts = []
    for index, start in enumerate(range(0, len(image), part_bytes)):
        data, key = image[start : start + part_bytes], f"image.part.{index}"
        s3.put_object(Bucket=bucket, Key=key, Body=data)
        given = {"Bucket": bucket, "Key": key}
        urls = "".join(
            f"<{name}-url>{escape(s3.generate_presigned_url(call, Params=given))}</{name}-url>"
            for name, call in (("head", "head_object"), ("get", "get_object"), ("delete", "delete_object"))
        )
        span = f'<byte-range start="{start}" end="{start + len(data) - 1}"/>'
        parts.append(f'<part index="{index}">{span}<key>{key}</key>{urls}</part>')
    text = (
        "<?xml version='1.0' encoding='UTF-8'?><manifest><version>2010-11-15</version><file-format>RAW</file-format>"
        f"<import><size>{len(image)}</size><volume-size>1</volume-size>"
        f'<parts count="{len(parts)}">{"".join(parts)}</parts></import></manifest>'
    )
    s3.put_object(Bucket=bucket, Key="image.manifest.xml", Body=text.encode())
    given = {"Bucket": bucket, "Key": "image.manifest.xml"}
    return {"url": s3.generate_presigned_url("get_object", Params=given), "key": given["Key"], "text": text}


def import_request(url: str, size: int, volume_gib: int = 1) -> dict[str, Any]:
    """The parameters of ImportVolume."""
    return {
        "AvailabilityZone": "cluster01",
        "Image": {"Format": "RAW", "Bytes": size, "ImportManifestUrl": url},
        "Volume": {"Size": volume_gib},
    }
