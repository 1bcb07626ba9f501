"""The doors of a test to the clouds in this process: our own, and the unchanged clients that build the shop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drpilot.base.clock import Chance, RealClock
from drpilot.base.retry import Patience
from drpilot.clouds.session import Clients, CredentialsReference, SiteSettings
from drpilot.clouds.site import BotoSite, Ways
from drpilot.lab.cloud import Cloud
from drpilot.lab.wire import attach
from tests.lab.euca_world import euca_client

__all__ = ["Door", "door_to"]

CLOCK = RealClock()
_KEYS = "[{name}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"


def door_to(cloud: Cloud, folder: Path, calls: list[tuple[str, str, str]]) -> BotoSite:
    """Our own door to a cloud, in the dialect of its kind; each change that was answered is noted in `calls`."""
    settings = cloud.settings
    (key, secret), *_ = settings.keys.items()
    keys = folder / f"{settings.name}.keys"
    keys.write_text(_KEYS.format(name="default", key=key, secret=secret))
    keys.chmod(0o600)
    wanted = SiteSettings(
        name=settings.name,
        cloud=settings.dialect,
        region=settings.region,
        account=settings.account,
        endpoints={"default": "http://127.0.0.1:9"},
        credentials=CredentialsReference("file", str(keys)),
    )

    def prepare(session: Any) -> None:
        attach(session, cloud, read_timeout_s=2.0)

    clients = Clients(wanted, environment={}, prepare=prepare)

    def watch(site: str, service: str, operation: str, phase: str) -> None:
        if phase == "after" and clients.dialect.changes(service, operation):
            calls.append((site, service, operation))

    ways = Ways(
        clock=CLOCK, chance=Chance(7), patience=Patience(attempts=3, first_s=0.01, max_s=0.05), observer=watch
    )
    return BotoSite(clients, ways)


class Door:
    """A client factory for the shop's builder."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        import boto3
        from botocore.config import Config

        (key, secret), *_ = cloud.settings.keys.items()
        self._session: Any = boto3.Session(key, secret, region_name=cloud.region)
        self._config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
        self._cloud = cloud
        self._made: dict[str, Any] = {}

    def __call__(self, service: str) -> Any:
        if service not in self._made:
            if self._cloud.dialect == "aws":
                client = self._session.client(service, endpoint_url="http://127.0.0.1:9", config=self._config)
            else:
                key = next(iter(self._cloud.settings.keys.items()))
                client = euca_client(self._cloud.traits.version, service, "http://127.0.0.1:9", key)
            attach(client, self._cloud)
            self._made[service] = client
        return self._made[service]
