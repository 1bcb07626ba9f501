"""Who can reach whom inside a lab cloud: networks, routes and security groups at one moment.

A `World` is read from the EC2 rows and never changed. Rules of the Amazon VPC user guide: the most specific
route decides; without a subnet's own table the main one counts; security groups admit what any rule of any
group of the target admits; a network without a path out reaches its own addresses alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from drpilot.lab.cloud import Cloud
from drpilot.lab.machines import Machine

__all__ = ["CONTROL", "Vantage", "World", "look"]

CONTROL = IPv4Network("127.0.0.0/16")
"""Where people and tools outside the clouds come from: their path is not modelled, security groups are."""

_LOCAL, _INTERNET = "local", "internet"


@cache
def _network(text: str) -> IPv4Network:
    return IPv4Network(text)


@dataclass(frozen=True, slots=True)
class _Rule:
    protocol: str
    first: int
    last: int
    cidr: str | None
    group: str | None

    def covers(self, port: int) -> bool:
        return self.protocol == "-1" or (self.protocol == "tcp" and self.first <= port <= self.last)


@dataclass(frozen=True, slots=True)
class Vantage:
    """An address inside a network, from which a connection can be tried."""

    subnet_id: str
    address: str


@dataclass(frozen=True, slots=True)
class World:
    """Networks by VPC id, routes by subnet id, rules by group id, security groups by address."""

    networks: Mapping[str, str] = field(default_factory=dict)
    subnets: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    routes: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    ingress: Mapping[str, tuple[_Rule, ...]] = field(default_factory=dict)
    egress: Mapping[str, tuple[_Rule, ...]] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def vpc_of(self, address: str) -> str | None:
        """The VPC whose block holds an address."""
        wanted = IPv4Address(address)
        return next((vpc for vpc, block in self.networks.items() if wanted in _network(block)), None)

    def admits(self, groups: Iterable[str], peer: str, port: int) -> bool:
        """Whether the rules of these groups let a peer's connection to `port` in."""
        return self._allowed(self.ingress, groups, peer, port)

    def open_to_anyone(self, groups: Iterable[str], port: int) -> bool:
        """Whether any rule of these groups lets anybody connect to `port`."""
        return any(rule.covers(port) for group in groups for rule in self.ingress.get(group, ()))

    def _allowed(
        self, rules: Mapping[str, tuple[_Rule, ...]], groups: Iterable[str], other: str, port: int
    ) -> bool:
        address, member_of = IPv4Address(other), self.groups.get(other, ())
        for group in groups:
            for rule in rules.get(group, ()):
                if not rule.covers(port):
                    continue
                if rule.group in member_of or (rule.cidr and address in _network(rule.cidr)):
                    return True
        return False

    def path(self, vpc_id: str, subnet_id: str, address: str) -> str | None:
        """Why there is no path from a subnet to an address; None when there is one."""
        wanted, best = IPv4Address(address), None
        for cidr, target in self.routes.get(subnet_id, ()):
            block = _network(cidr)
            if wanted in block and (best is None or block.prefixlen > best[0]):
                best = (block.prefixlen, target)
        if best is None:
            return f"no route from {vpc_id} to {address}"
        if best[1] == _INTERNET and self.vpc_of(address) is not None:
            return f"no route from {vpc_id} to {address}: a private address of another network"
        return None

    def receives(self, machine: Machine, peer: str, port: int) -> bool:
        """Whether a connection of `peer` gets through to a machine's port."""
        if not self.admits(machine.groups, peer, port):
            return False
        if IPv4Address(peer) in CONTROL or self.vpc_of(peer) == machine.vpc_id:
            return True
        return self.path(machine.vpc_id, machine.subnet_id, peer) is None

    def leaves(self, machine: Machine, address: str, port: int) -> str | None:
        """Why a machine can't open a connection to an address; None when nothing here is in the way."""
        if not self._allowed(self.egress, machine.groups, address, port):
            return f"no security group of {machine.instance_id} lets it out to {address}:{port}"
        return self.path(machine.vpc_id, machine.subnet_id, address)

    def vantage(self, vpc_id: str) -> Vantage | None:
        """A place inside a network to try connections from: the third address of its first subnet, which
        nothing else ever gets (VPC user guide, subnet sizing).
        """
        for subnet_id, (owner, cidr) in self.subnets.items():
            if owner == vpc_id:
                return Vantage(subnet_id, str(_network(cidr)[3]))
        return None


def _rules(cloud: Cloud, *, egress: bool) -> dict[str, tuple[_Rule, ...]]:
    found: dict[str, list[_Rule]] = {}
    for row in cloud.table("rules").peek().values():
        if row["IsEgress"] == egress:
            group = (row.get("ReferencedGroupInfo") or {}).get("GroupId")
            rule = _Rule(row["IpProtocol"], row["FromPort"], row["ToPort"], row.get("CidrIpv4"), group)
            found.setdefault(row["GroupId"], []).append(rule)
    return {group: tuple(rules) for group, rules in found.items()}


def _routes(cloud: Cloud) -> dict[str, tuple[tuple[str, str], ...]]:
    """Destination and kind of target of every usable route, by subnet."""
    attached = {
        key: {item["VpcId"] for item in row["Attachments"]}
        for key, row in cloud.table("gateways").peek().items()
    }
    own: dict[str, str] = {}
    main: dict[str, str] = {}
    tables = cloud.table("route_tables").peek()
    for table_id, row in tables.items():
        for item in row["Associations"]:
            if item.get("SubnetId"):
                own[item["SubnetId"]] = table_id
            elif item["Main"]:
                main[row["VpcId"]] = table_id
    found = {}
    for subnet_id, subnet in cloud.table("subnets").peek().items():
        table = tables.get(own.get(subnet_id) or main.get(subnet["VpcId"], ""))
        usable = []
        for route in table["Routes"] if table is not None else []:
            gateway = route.get("GatewayId")
            if gateway == "local":
                usable.append((route["DestinationCidrBlock"], _LOCAL))
            elif gateway and subnet["VpcId"] in attached.get(gateway, ()):
                usable.append((route["DestinationCidrBlock"], _INTERNET))
        found[subnet_id] = tuple(usable)
    return found


def _groups(cloud: Cloud) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for row in cloud.table("interfaces").peek().values():
        ids = tuple(group["GroupId"] for group in row.get("Groups") or [])
        found.update({item["PrivateIpAddress"]: ids for item in row["PrivateIpAddresses"]})
    return found


def look(cloud: Cloud) -> World:
    """The world as the rows have it now."""
    subnets = cloud.table("subnets").peek().items()
    rows: Mapping[str, Any] = cloud.table("vpcs").peek()
    return World(
        networks={vpc_id: row["CidrBlock"] for vpc_id, row in rows.items()},
        subnets={key: (row["VpcId"], row["CidrBlock"]) for key, row in subnets},
        routes=_routes(cloud),
        ingress=_rules(cloud, egress=False),
        egress=_rules(cloud, egress=True),
        groups=_groups(cloud),
    )
