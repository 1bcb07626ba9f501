"""Where a member goes on the target: into a subnet, or into a zone where a cloud has no networks of one's own.

The map names the partner of a subnet under `map.subnets`. Where a site has no networks its zones stand for them, on
either side of that map; towards such a site the partner of the zone (`map.zones`) is enough. What the target's kind of
cloud has no parameter for is left out here by its capabilities, never by the refusal of a call; `inventory/losses.py`
says beforehand what that is.

Sources: Amazon EC2 API reference (RunInstances, Placement; DescribeSubnets).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from drpilot.actions.carry import metadata_options, profile, subnet, subnet_of, volume_settings
from drpilot.actions.views import describe, first
from drpilot.domain.plain import Json
from drpilot.domain.ports import Context, FailureClass, Site, StepFailed

__all__ = [
    "Guest",
    "Place",
    "Spread",
    "disk",
    "guest",
    "place",
    "regrouped",
    "role",
    "spread",
    "without_networks",
]


@dataclass(frozen=True, slots=True)
class Place:
    """One place on the target: a described subnet, or a zone alone."""

    zone: str
    subnet: Json | None = None

    @property
    def vpc(self) -> str:
        """The network it lies in; empty where there is none."""
        return str((self.subnet or {}).get("VpcId") or "")

    def launched(self, groups: list[str]) -> Json:
        """Place and security groups as RunInstances takes them."""
        if self.subnet is not None:
            return {"SubnetId": self.subnet["SubnetId"], "SecurityGroupIds": groups}
        return {"Placement": {"AvailabilityZone": self.zone}, "SecurityGroupIds": groups}


@dataclass(frozen=True, slots=True)
class Spread:
    """Several places: ids of subnets in one network, or zones alone."""

    zones: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    vpc: str = ""

    def scaled(self) -> Json:
        """The places of a scaling group, as its API takes them."""
        if self.subnets:
            return {"VPCZoneIdentifier": ",".join(self.subnets)}
        return {"AvailabilityZones": list(self.zones)}


def without_networks(site: Site) -> bool:
    """Whether the site has no networks of one's own: by its kind, or, where its kind may have them, by its answer that
    there is no subnet at all (Eucalyptus in its networking mode EDGE).
    """
    return "vpc" not in site.capabilities or not describe(site, "DescribeSubnets", "Subnets")


def _described(site: Site, partner: str | None) -> Json | None:
    """The subnet the map names, if the site has networks and this one."""
    if not partner or "vpc" not in site.capabilities:
        return None
    filters: list[Json] = [{"Name": "subnet-id", "Values": [partner]}]
    return first(describe(site, "DescribeSubnets", "Subnets", filters))


def place(ctx: Context, source_subnet: str, source_zone: str) -> Place:
    """The partner of a member's place; StepFailed (invalid, not found) where the map or the target has none."""
    site, known = ctx.site("target"), ctx.group.mapping(ctx.source)
    name = source_subnet or source_zone
    partner = known.subnets.get(name)
    found = _described(site, partner)
    if found is None and not without_networks(site):
        found = subnet_of(site, subnet(ctx, name))
    if found is not None:
        return Place(str(found["AvailabilityZone"]), found)
    zone = partner or known.zones.get(source_zone)
    if not zone:
        raise _lacking(ctx, source_zone)
    return Place(zone)


def spread(ctx: Context, subnets: tuple[str, ...], zones: tuple[str, ...]) -> Spread:
    """The partners of the places of a scaling group or a load balancer; StepFailed as `place`."""
    places = subnets or zones
    if not places:
        text = "a scaling group or load balancer without subnets can't be carried"
        raise StepFailed(FailureClass.INVALID, text)
    site, known = ctx.site("target"), ctx.group.mapping(ctx.source)
    found = _described(site, known.subnets.get(places[0]))
    if found is not None or not without_networks(site):
        ids = tuple(subnet(ctx, item) for item in places)
        return Spread(subnets=ids, vpc=str((found or subnet_of(site, ids[0]))["VpcId"]))
    chosen = {item: known.subnets.get(item) for item in places}
    if not all(chosen.values()):
        chosen = {item: known.zones.get(item) for item in zones}
    lacking = sorted(item for item, zone in chosen.items() if not zone)
    if lacking or not chosen:
        raise _lacking(ctx, ", ".join(lacking) or "of its scaling group")
    return Spread(zones=tuple(dict.fromkeys(str(zone) for zone in chosen.values())))


def _lacking(ctx: Context, zone: str) -> StepFailed:
    text = f"zone {zone} has no partner on {ctx.target}; add it under map.zones"
    return StepFailed(FailureClass.INVALID, text)


# -- what a machine is launched with ---------------------------------------------------------------------


class Guest(Protocol):
    """What an instance and a scaling group have in common."""

    @property
    def key_pair(self) -> str | None:
        """The name of the key pair."""

    @property
    def metadata_options(self) -> Mapping[str, Any]:
        """How the metadata service is asked."""


def guest(ctx: Context, like: Guest) -> Json:
    """Key pair and metadata options, as far as the target's kind of cloud has them."""
    site, given = ctx.site("target"), Json()
    if like.key_pair:
        given["KeyName"] = ctx.group.mapping(ctx.source).keys.get(like.key_pair, like.key_pair)
    options = metadata_options(like.metadata_options) if "metadata-options" in site.capabilities else {}
    return {**given, "MetadataOptions": options} if options else given


def role(ctx: Context, name: str | None) -> Json:
    """The instance profile, where the target has such things."""
    found = profile(ctx, name) if "iam" in ctx.site("target").capabilities else None
    return {"IamInstanceProfile": found} if found else {}


def disk(site: Site, facts: Mapping[str, Any]) -> Json:
    """Type, IOPS and throughput of a volume; nothing on a cloud with one kind of volume."""
    return volume_settings(site, facts)


def regrouped(found: Json, groups: Iterable[str]) -> bool:
    """Whether a stopped instance is not in these groups and can be put there: only in a network can it be (EC2 user
    guide, "Change the security groups for your instance").
    """
    wanted = set(groups)
    have = {item["GroupId"] for item in found.get("SecurityGroups") or []}
    return bool(found.get("VpcId")) and bool(wanted) and have != wanted
