"""What the sample shop shall be: its sizes, networks, machine types and rules, whatever the clouds are."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from drpilot.base.clock import Clock, RealClock
from drpilot.lab.dataset import Contents

__all__ = [
    "ANYWHERE",
    "DEVICES",
    "PORT",
    "Clients",
    "Plan",
    "Types",
    "public_key",
    "rules",
    "spec",
    "tags",
    "until",
]

Clients = Callable[[str], Any]
"""Gives a boto3 client by its service name."""

PORT = 8080
ANYWHERE = "0.0.0.0/0"
DEVICES = ("/dev/sdf", "/dev/sdg", "/dev/sdh", "/dev/sdi")
_CONTROL = "127.0.0.0/16"


@dataclass(frozen=True, slots=True)
class Types:
    """Machine types on one kind of cloud: of the database, of app and web, of what waits; and other database types."""

    database: str
    server: str
    small: str
    otherwise: tuple[str, ...]


_EUCALYPTUS = Types("m1.large", "m1.medium", "m1.small", ("m1.xlarge", "m2.xlarge"))


@dataclass(frozen=True, slots=True)
class Plan:
    """What to build. Networks are /16 blocks of 127.0.0.0/8, one a lab, since guests really listen there. `home`
    and `away` are dialects; `write` (volume, offset, bytes) is a person's hand where a cloud takes no images in.
    """

    seed: str = "shop"
    home_network: str = "127.16.0.0/16"
    away_network: str = "127.17.0.0/16"
    data_volumes: int = 3
    blocks: int = 40
    app_count: int = 3
    web_count: int = 2
    database_type: str = "m5.large"
    server_type: str = "t3.medium"
    small_type: str = "t3.small"
    zone_name: str = "example.org."
    record_name: str = "shop.example.org."
    ttl_s: int = 60
    timeout_s: float = 180.0
    clock: Clock = field(default_factory=RealClock)
    home: str = "aws"
    away: str = "aws"
    write: Callable[[str, int, bytes], None] | None = None

    @property
    def contents(self) -> Contents:
        """What the data volumes hold; close together where they come by an import, which moves zeros too."""
        return Contents(self.seed, self.data_volumes, self.blocks, dense=_is_eucalyptus(self.home))

    @property
    def unlike(self) -> bool:
        """Whether one of the sites is no AWS."""
        return _is_eucalyptus(self.home) or _is_eucalyptus(self.away)

    def types(self, dialect: str) -> Types:
        """The machine types on a site of this dialect."""
        if _is_eucalyptus(dialect):
            return _EUCALYPTUS
        return Types(self.database_type, self.server_type, self.small_type, ("m5.xlarge", "r5.large"))


def _is_eucalyptus(dialect: str) -> bool:
    return dialect.startswith("eucalyptus")


def tags(**given: str) -> list[dict[str, str]]:
    """Tags as the APIs take them."""
    return [{"Key": key, "Value": value} for key, value in given.items()]


def spec(kind: str, **given: str) -> dict[str, Any]:
    """One of TagSpecifications."""
    return {"ResourceType": kind, "Tags": tags(**given)}


def until(plan: Plan, what: str, done: Callable[[], bool]) -> None:
    """Wait until `done`, at most the plan's time; TimeoutError names what was waited for."""
    end_s = plan.clock.monotonic() + plan.timeout_s
    while not done():
        if plan.clock.monotonic() > end_s:
            raise TimeoutError(f"the sample shop waited {plan.timeout_s:g} s for {what}")
        plan.clock.sleep(0.1)


def _rule(port: int, *, cidr: str | None = None, group: str | None = None) -> dict[str, Any]:
    rule: dict[str, Any] = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port}
    if cidr:
        rule["IpRanges"] = [{"CidrIp": cidr}]
    if group:
        rule["UserIdGroupPairs"] = [{"GroupId": group}]
    return rule


def rules(groups: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """What each security group lets in, by its name; `groups` are ids by name."""
    return {
        "shop-web": [_rule(PORT, cidr=ANYWHERE)],
        "shop-app": [_rule(PORT, cidr=_CONTROL), _rule(PORT, group=groups["shop-web"])],
        "shop-db": [
            _rule(PORT, cidr=_CONTROL),
            _rule(5432, cidr=_CONTROL),
            _rule(5432, group=groups["shop-app"]),
        ],
    }


def public_key(plan: Plan) -> bytes:
    """The shop's OpenSSH public key, the same on both sites (RFC 8709 ssh-ed25519; beside a Eucalyptus cloud, of
    the age of RSA, RFC 4253 ssh-rsa). Nobody has the private half.
    """
    if plan.unlike:
        number = b"".join(hashlib.sha256(f"{plan.seed}/key/{part}".encode()).digest() for part in range(8))
        parts: tuple[bytes, ...] = (b"ssh-rsa", b"\x01\x00\x01", b"\0\x80" + number[2:-1] + b"\x01")
    else:
        parts = (b"ssh-ed25519", hashlib.sha256(f"{plan.seed}/key".encode()).digest())
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return parts[0] + b" " + base64.b64encode(blob) + b" shop-ops"
