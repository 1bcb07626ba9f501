"""What a site has to offer and what runs there: the material of `group new`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from drpilot.domain.group import Instance, LoadBalancer, ScalingGroup
from drpilot.domain.ports import CloudError, Site
from drpilot.inventory.balancing import balancing, load_balancer
from drpilot.inventory.resources import (
    DRILL_TAG,
    described,
    instances_where,
    refused,
    scaling_group,
    scaling_groups,
    scaling_groups_tagged,
    tag_filter,
    tags_of,
)

__all__ = ["Subnet", "Survey", "Surveyed", "load_balancers_with", "offer", "scaling_groups_with", "survey"]

_TIER_TAG = "tier"


@dataclass(frozen=True, slots=True)
class Subnet:
    """A subnet: its zone, its range and its Name tag."""

    id: str
    zone: str
    cidr: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What runs with one value of the tag `tier`."""

    instances: tuple[Instance, ...] = ()
    scaling_groups: tuple[ScalingGroup, ...] = ()
    load_balancers: tuple[LoadBalancer, ...] = ()


@dataclass(frozen=True, slots=True)
class Survey:
    """What a site has. `tiers` is keyed by the value of the tag `tier`, empty for what has none.

    `kms_keys` maps key ARNs to one alias or the empty string; `untold` names what the site would not list,
    and why; `able` are its capabilities.
    """

    site: str
    tiers: Mapping[str, Surveyed] = field(default_factory=dict)
    zones: tuple[str, ...] = ()
    subnets: tuple[Subnet, ...] = ()
    key_pairs: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    kms_keys: Mapping[str, str] = field(default_factory=dict)
    untold: Mapping[str, str] = field(default_factory=dict)
    able: frozenset[str] = frozenset({"ec2:DescribeInstanceTypeOfferings", "route53", "vpc"})


def survey(site: Site, tag: str | None = None) -> Survey:
    """Look at a site: what runs there (all of it, or what carries `tag`, `key=value`), and what machines can be built
    from. Reads only.

    A list the site refuses (permission, no such service) is left empty and named in `untold`; the machines
    themselves must be readable. Raises CloudError, also where the site does not answer.
    """
    look = _Look(site)
    return _offered(look, _tiers(look, tag))


def offer(site: Site) -> Survey:
    """What machines can be built from on a site; what runs there is left out."""
    return _offered(_Look(site), {})


def _offered(look: _Look, tiers: Mapping[str, Surveyed]) -> Survey:
    return Survey(
        site=look.site.name,
        tiers=tiers,
        zones=look.sorted("ec2", "DescribeAvailabilityZones", "AvailabilityZones", "ZoneName"),
        subnets=tuple(sorted(look.subnets(), key=lambda subnet: (subnet.zone, subnet.cidr)))
        if "vpc" in look.site.capabilities
        else (),
        key_pairs=look.sorted("ec2", "DescribeKeyPairs", "KeyPairs", "KeyName"),
        security_groups=look.sorted("ec2", "DescribeSecurityGroups", "SecurityGroups", "GroupName"),
        types=look.sorted("ec2", "DescribeInstanceTypeOfferings", "InstanceTypeOfferings", "InstanceType"),
        kms_keys=look.kms_keys() if "kms" in look.site.capabilities else {},
        untold=look.untold,
        able=look.site.capabilities,
    )


class _Look:
    """Lists of a site; what it refuses to list is noted instead of failing the whole survey."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.untold: dict[str, str] = {}

    def note(self, what: str, error: CloudError) -> None:
        """Note a refusal; any other error is raised again."""
        if not refused(error):
            raise error
        self.untold[what] = f"{error.code}: {error.message}"

    def rows(self, service: str, operation: str, member: str) -> Iterator[dict[str, Any]]:
        """The rows of a listing, over all pages."""
        try:
            for page in self.site.pages(service, operation, {}):
                yield from page.get(member) or ()
        except CloudError as error:
            self.note(f"{service}:{operation}", error)

    def sorted(self, service: str, operation: str, member: str, name: str) -> tuple[str, ...]:
        """The different values of one column, sorted."""
        return tuple(sorted({row[name] for row in self.rows(service, operation, member) if row.get(name)}))

    def subnets(self) -> list[Subnet]:
        """All subnets."""
        found = []
        for row in self.rows("ec2", "DescribeSubnets", "Subnets"):
            zone, name = row.get("AvailabilityZone", ""), tags_of(row).get("Name", "")
            found.append(Subnet(row["SubnetId"], zone, row.get("CidrBlock", ""), name))
        return found

    def kms_keys(self) -> dict[str, str]:
        """Key ARNs and an alias of each."""
        aliases = {
            row.get("TargetKeyId"): str(row["AliasName"])
            for row in self.rows("kms", "ListAliases", "Aliases")
        }
        keys = sorted(self.rows("kms", "ListKeys", "Keys"), key=lambda row: str(row["KeyArn"]))
        return {row["KeyArn"]: aliases.get(row["KeyId"], "") for row in keys}


# -- what runs -------------------------------------------------------------------------------------------


def _tiers(look: _Look, tag: str | None) -> dict[str, Surveyed]:
    """By the value of the tag `tier`; blank counts as none."""
    site = look.site
    instances: dict[str, list[dict[str, Any]]] = {}
    for one in instances_where(site, *([tag_filter(tag)] if tag else [])):
        instances.setdefault(_label(tags_of(one)), []).append(one)
    groups: dict[str, list[ScalingGroup]] = {}
    balancers: dict[str, list[LoadBalancer]] = {}
    try:
        for name, tags in scaling_groups_with(site, tag):
            found = scaling_group(site, name)
            if found is not None:
                groups.setdefault(_label(tags), []).append(found)
    except CloudError as error:
        look.note("autoscaling:DescribeAutoScalingGroups", error)
    try:
        for name, tags in load_balancers_with(site, tag):
            balancer = load_balancer(site, name)
            if balancer is not None:
                balancers.setdefault(_label(tags), []).append(balancer)
    except CloudError as error:
        look.note(error.operation or "elbv2:DescribeLoadBalancers", error)
    return {
        tier: Surveyed(
            described(site, instances.get(tier, [])),
            tuple(groups.get(tier, ())),
            tuple(balancers.get(tier, ())),
        )
        for tier in sorted({*instances, *groups, *balancers})
    }


def _label(tags: Mapping[str, str]) -> str:
    return tags.get(_TIER_TAG, "").strip()


def scaling_groups_with(site: Site, tag: str | None) -> list[tuple[str, dict[str, str]]]:
    """Name and tags of the scaling groups that carry `tag` (`key=value`), or of all; those of drills left out."""
    key, _, value = (tag or "").partition("=")
    listed = scaling_groups_tagged(site, key, value) if tag is not None else scaling_groups(site, {})
    found = []
    for group in listed:
        tags = tags_of(group)
        if not group.get("Status") and DRILL_TAG not in tags:
            found.append((str(group["AutoScalingGroupName"]), tags))
    return sorted(found, key=lambda item: item[0])


def load_balancers_with(site: Site, tag: str | None) -> list[tuple[str, dict[str, str]]]:
    """Name and tags of the load balancers that carry `tag`, or of all; those of drills left out."""
    kind = balancing(site)
    key, _, value = (tag or "").partition("=")
    found = [
        (one.name, dict(one.tags))
        for one in (kind.tagged() if kind is not None else ())
        if (tag is None or one.tags.get(key) == value) and DRILL_TAG not in one.tags
    ]
    return sorted(found, key=lambda item: item[0])
