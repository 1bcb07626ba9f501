"""What a member becomes on the other side: zone, subnet, type, key, groups, profile, address, volumes.

The group's `map` says what becomes what; what it does not name keeps its name. A machine is carried
whole: user data, metadata options, private address, volume type, IOPS and throughput,
DeleteOnTermination, termination protection (EC2 API reference, RunInstances and CreateVolume).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from drpilot.actions.views import describe, first
from drpilot.domain.group import Instance, Tier
from drpilot.domain.path import path_between
from drpilot.domain.plain import Json
from drpilot.domain.ports import Context, FailureClass, Site, StepFailed
from drpilot.domain.sizing import grown_types, waiting_type

__all__ = [
    "address_in",
    "app_tags",
    "group_ids",
    "grow_types",
    "kms_key",
    "metadata_options",
    "profile",
    "rest_type",
    "subnet",
    "subnet_of",
    "volume_settings",
]

_METADATA = (
    "HttpTokens",
    "HttpPutResponseHopLimit",
    "HttpEndpoint",
    "HttpProtocolIpv6",
    "InstanceMetadataTags",
)
_WITH_IOPS = ("io1", "io2", "gp3")


def app_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The application's own tags: what the cloud (`aws:`) or drpilot wrote is left behind."""
    return {key: value for key, value in tags.items() if not key.startswith(("aws:", "drpilot:"))}


def subnet(ctx: Context, source_subnet: str) -> str:
    """The id of the partner of a subnet on the target; StepFailed (invalid) where the map names none."""
    found = ctx.group.mapping(ctx.source).subnets.get(source_subnet)
    if not found:
        text = f"subnet {source_subnet} has no partner on {ctx.target}; add it under map.subnets"
        raise StepFailed(FailureClass.INVALID, text)
    return found


def subnet_of(site: Site, subnet_id: str) -> Json:
    """The described subnet; StepFailed (not found) where the map names one that is not there."""
    found = first(
        describe(site, "DescribeSubnets", "Subnets", [{"Name": "subnet-id", "Values": [subnet_id]}])
    )
    if found is None:
        raise StepFailed(FailureClass.NOT_FOUND, f"subnet {subnet_id} is not on {site.name}")
    return found


def address_in(address: str, network: Json) -> str | None:
    """`address` if it lies in the subnet, so that the standby keeps it; else None: the cloud chooses one."""
    if not address:
        return None
    return address if ip_address(address) in ip_network(network["CidrBlock"], strict=False) else None


def group_ids(ctx: Context, site: Site, names: Iterable[str], vpc: str) -> list[str]:
    """Ids of the partners of security groups (named or by id) in `vpc` on the target; of the whole account where it is
    empty, on a cloud without networks.
    """
    mapped = [ctx.group.mapping(ctx.source).security_groups.get(name, name) for name in names]
    if not mapped:
        return []
    filters: list[Json] = [{"Name": "vpc-id", "Values": [vpc]}] if vpc else []
    listed = describe(site, "DescribeSecurityGroups", "SecurityGroups", filters)
    known = {group["GroupName"]: group["GroupId"] for group in listed}
    known |= {group["GroupId"]: group["GroupId"] for group in listed}
    missing = [name for name in mapped if name not in known]
    if missing:
        where = f"in {vpc} on {site.name}" if vpc else f"on {site.name}"
        text = f"security group {', '.join(missing)} is not {where}; see map.security_groups"
        raise StepFailed(FailureClass.NOT_FOUND, text)
    return [known[name] for name in mapped]


def profile(ctx: Context, name: str | None) -> Json | None:
    """The instance profile on the target, as RunInstances wants it: by name, or by ARN if the map gives
    one.
    """
    if not name:
        return None
    known = ctx.group.mapping(ctx.source).profiles
    short = name.rsplit("/", 1)[-1]
    mapped = known.get(name) or known.get(short) or short
    return {"Arn": mapped} if mapped.startswith("arn:") else {"Name": mapped}


def metadata_options(options: Mapping[str, Any]) -> Json:
    """The settable part of described metadata options (`State` is the cloud's own word)."""
    return {key: options[key] for key in _METADATA if options.get(key) is not None}


def rest_type(ctx: Context, tier: Tier, instance: Instance) -> str:
    """The type of a standby while it waits: `standby.size`, else the partner of the member's type."""
    return waiting_type(ctx.group, tier, instance.type, ctx.source, alike=_alike(ctx))


def _alike(ctx: Context) -> bool:
    return path_between(ctx.site("source").capabilities, ctx.site("target").capabilities).kind == "copy"


def grow_types(ctx: Context, tier: Tier, instance: Instance) -> tuple[str, ...]:
    """The types of a promoted member, best first: `standby.grow`, else the partner of its type, then
    `otherwise`.
    """
    return grown_types(ctx.group, tier, instance.type, ctx.source, alike=_alike(ctx))


def kms_key(ctx: Context, key: str | None) -> str | None:
    """The target's partner of a KMS key; the map may name it by ARN or by id, or by alias as the source
    does.
    """
    known = ctx.group.mapping(ctx.source).kms_keys
    return known.get(key or "") or known.get((key or "").rsplit("/", 1)[-1])


def volume_settings(site: Site, facts: Mapping[str, Any]) -> Json:
    """Type, IOPS and throughput of a volume as CreateVolume and a block device mapping of `site` take them; nothing
    where it has one kind of volume.
    """
    if "volume-types" not in site.capabilities:
        return {}
    kind = facts.get("type") or "gp3"
    settings: Json = {"VolumeType": kind}
    if kind in _WITH_IOPS and facts.get("iops"):
        settings["Iops"] = int(facts["iops"])
    if kind == "gp3" and facts.get("throughput"):
        settings["Throughput"] = int(facts["throughput"])
    return settings
