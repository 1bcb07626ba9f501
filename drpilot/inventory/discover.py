"""What a site has to offer and what runs there unprotected: the material of `group new`, `protect` and
`check`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from drpilot.base.errors import DrpilotError, Finding
from drpilot.domain.group import Group, Instance, LoadBalancer, Map, ScalingGroup, Selector, Tier
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, Site
from drpilot.inventory.resources import (
    DRILL_TAG,
    FILTER_VALUES,
    chunks,
    described,
    instances_where,
    listeners,
    load_balancer,
    scaling_group,
    tag_filter,
    tags_of,
)

__all__ = [
    "Subnet",
    "Survey",
    "Surveyed",
    "carried",
    "members",
    "partner",
    "survey",
    "uncarried",
    "unprotected",
]

_TIER_TAG = "tier"
_GUESSED_KEYS = ("app", "application", "service", "system", "project", "group", "stack")
_TAGS_A_CALL = 20  # Elastic Load Balancing API reference, DescribeTags.


def members(site: Site, group: Group) -> Group:
    """`group` with the members its tiers have on `site` now.

    Raises CloudError where the site fails and DrpilotError `no-members` for a tier whose selector or name
    finds nothing.
    """
    tiers = []
    for tier in group.tiers:
        found = replace(
            tier,
            instances=_selected(site, tier) if tier.selector is not None else (),
            scaling_group=scaling_group(site, tier.scaling_group_name) if tier.scaling_group_name else None,
            load_balancer=load_balancer(site, tier.load_balancer_name) if tier.load_balancer_name else None,
        )
        _complete(site, found)
        tiers.append(found)
    return replace(group, tiers=tuple(tiers))


def _complete(site: Site, tier: Tier) -> None:
    missing = []
    if tier.selector is not None:
        found = {instance.id for instance in tier.instances}
        if not found:
            missing.append(f"no instance with {_words(tier.selector)}")
        elif absent := [one for one in tier.selector.ids if one not in found]:
            missing.append(f"no instance {', '.join(absent)}")
    if tier.scaling_group_name and tier.scaling_group is None:
        missing.append(f"no scaling group {tier.scaling_group_name}")
    if tier.load_balancer_name and tier.load_balancer is None:
        missing.append(f"no load balancer {tier.load_balancer_name}")
    if missing:
        raise DrpilotError("no-members", tier=tier.name, site=site.name, why="; ".join(missing))


def _words(selector: Selector) -> str:
    return f"tag {selector.tag}" if selector.tag else f"id {', '.join(selector.ids)}"


def _selected(site: Site, tier: Tier) -> tuple[Instance, ...]:
    selector = tier.selector
    if selector is None:
        return ()
    found: dict[str, Json] = {}
    if selector.tag:
        found |= {one["InstanceId"]: one for one in instances_where(site, tag_filter(selector.tag))}
    for ids in chunks(selector.ids, FILTER_VALUES):
        wanted = {"Name": "instance-id", "Values": ids}
        found |= {one["InstanceId"]: one for one in instances_where(site, wanted)}
    return described(site, list(found.values()))


# -- survey ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subnet:
    """A subnet: its zone, its range and its Name tag."""

    id: str
    zone: str
    cidr: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What carries the tag in one value of the tag `tier`."""

    instances: tuple[Instance, ...] = ()
    scaling_groups: tuple[ScalingGroup, ...] = ()
    load_balancers: tuple[LoadBalancer, ...] = ()


@dataclass(frozen=True, slots=True)
class Survey:
    """What a site has. `tiers` is keyed by the value of the tag `tier`, empty for what has none.

    `kms_keys` maps key ARNs to one alias or the empty string; `untold` names what the site would not list,
    and why.
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


def survey(site: Site, tag: str | None = None) -> Survey:
    """Look at a site: what carries `tag` (`key=value`), and what machines can be built from. Reads only.

    A list the site refuses (permission, no such service) is left empty and named in `untold`; the machines
    themselves must be readable, or CloudError is raised.
    """
    look = _Look(site)
    return Survey(
        site=site.name,
        tiers=_tiers(site, tag) if tag else {},
        zones=look.sorted("ec2", "DescribeAvailabilityZones", "AvailabilityZones", "ZoneName"),
        subnets=tuple(sorted(look.subnets(), key=lambda subnet: (subnet.zone, subnet.cidr))),
        key_pairs=look.sorted("ec2", "DescribeKeyPairs", "KeyPairs", "KeyName"),
        security_groups=look.sorted("ec2", "DescribeSecurityGroups", "SecurityGroups", "GroupName"),
        types=look.sorted("ec2", "DescribeInstanceTypeOfferings", "InstanceTypeOfferings", "InstanceType"),
        kms_keys=look.kms_keys() if "kms" in site.capabilities else {},
        untold=look.untold,
    )


class _Look:
    """Lists of a site; what can't be listed is noted instead of failing the whole survey."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.untold: dict[str, str] = {}

    def rows(self, service: str, operation: str, member: str) -> Iterator[dict[str, Any]]:
        """The rows of a listing, over all pages."""
        try:
            for page in self._site.pages(service, operation, {}):
                yield from page.get(member) or ()
        except CloudError as error:
            self.untold[f"{service}:{operation}"] = f"{error.code}: {error.message}"

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


# -- what carries a tag ----------------------------------------------------------------------------------


def _tiers(site: Site, tag: str) -> dict[str, Surveyed]:
    instances: dict[str, list[dict[str, Any]]] = {}
    for one in instances_where(site, tag_filter(tag)):
        instances.setdefault(tags_of(one).get(_TIER_TAG, ""), []).append(one)
    groups: dict[str, list[ScalingGroup]] = {}
    for name, tags in _scaling_groups_with(site, tag):
        found = scaling_group(site, name)
        if found is not None:
            groups.setdefault(tags.get(_TIER_TAG, ""), []).append(found)
    balancers: dict[str, list[LoadBalancer]] = {}
    for name, tags in _load_balancers_with(site, tag):
        balancer = load_balancer(site, name)
        if balancer is not None:
            balancers.setdefault(tags.get(_TIER_TAG, ""), []).append(balancer)
    return {
        tier: Surveyed(
            described(site, instances.get(tier, [])),
            tuple(groups.get(tier, ())),
            tuple(balancers.get(tier, ())),
        )
        for tier in sorted({*instances, *groups, *balancers})
    }


def _scaling_groups_with(site: Site, tag: str) -> list[tuple[str, dict[str, str]]]:
    key, _, value = tag.partition("=")
    found = []
    given = {"Filters": [{"Name": f"tag:{key}", "Values": [value]}]}
    for page in site.pages("autoscaling", "DescribeAutoScalingGroups", given):
        for group in page.get("AutoScalingGroups") or ():
            tags = tags_of(group)
            if not group.get("Status") and DRILL_TAG not in tags:
                found.append((str(group["AutoScalingGroupName"]), tags))
    return sorted(found)


def _load_balancers_with(site: Site, tag: str) -> list[tuple[str, dict[str, str]]]:
    """ELBv2 has no filter by tag: the tags are asked for afterwards, 20 at a time."""
    if "elbv2" not in site.capabilities:
        return []
    key, _, value = tag.partition("=")
    names: dict[str, str] = {}
    for page in site.pages("elbv2", "DescribeLoadBalancers", {}):
        names |= {one["LoadBalancerArn"]: one["LoadBalancerName"] for one in page.get("LoadBalancers") or ()}
    found, arns = [], sorted(names)
    for start in range(0, len(arns), _TAGS_A_CALL):
        reply = site.call("elbv2", "DescribeTags", {"ResourceArns": arns[start : start + _TAGS_A_CALL]})
        for row in reply.get("TagDescriptions") or ():
            tags = tags_of(row)
            if tags.get(key) == value and DRILL_TAG not in tags:
                found.append((names[row["ResourceArn"]], tags))
    return sorted(found)


def _group_tag(group: Group) -> str | None:
    """The group's tag, or a guess: a tag of an application's usual name that all discovered members share."""
    if group.tag:
        return group.tag
    tagged = [dict(one.tags) for tier in group.tiers for one in tier.instances]
    tagged += [dict(tier.scaling_group.tags) for tier in group.tiers if tier.scaling_group is not None]
    if not tagged:
        return None
    shared = set(tagged[0].items()).intersection(*(tags.items() for tags in tagged[1:]))
    for key in _GUESSED_KEYS:
        for name, value in sorted(shared):
            if name.lower() == key:
                return f"{name}={value}"
    return None


def unprotected(site: Site, group: Group) -> tuple[Finding, ...]:
    """Findings `unprotected-resource`: what carries the group's tag on `site` and belongs to no tier.

    `group` carries its members (see `members`). Without `group.tag` the tag is guessed from what the members
    share; nothing is found when there is none.
    """
    tag = _group_tag(group)
    if tag is None:
        return ()
    ids = {one.id for tier in group.tiers for one in tier.instances}
    groups = {tier.scaling_group_name for tier in group.tiers if tier.scaling_group_name}
    balancers = {tier.load_balancer_name for tier in group.tiers if tier.load_balancer_name}
    findings = []
    for one in sorted(instances_where(site, tag_filter(tag)), key=lambda one: str(one["InstanceId"])):
        if one["InstanceId"] not in ids:
            name = tags_of(one).get("Name")
            what = f"instance {one['InstanceId']}" + (f" {name!r}" if name else "")
            findings.append(_unprotected(site, what))
    for name, _ in _scaling_groups_with(site, tag):
        if name not in groups:
            findings.append(_unprotected(site, f"scaling group {name}"))
    for name, _ in _load_balancers_with(site, tag):
        if name not in balancers:
            findings.append(_unprotected(site, f"load balancer {name}"))
    return tuple(findings)


def _unprotected(site: Site, what: str) -> Finding:
    message = f"{what} on {site.name} belongs to no tier"
    return Finding("unprotected-resource", "warning", message, hint="add a tier for it, or take the tag away")


# -- what can't be carried whole -------------------------------------------------------------------------


def partner(kms_keys: Mapping[str, str], key: str) -> str | None:
    """The mapped partner of a KMS key; the map may name it by ARN, by id or by alias as `key` does."""
    for name in (key, key.rsplit("/", 1)[-1]):
        if name in kms_keys:
            return kms_keys[name]
    return None


def carried(group: Group, mapping: Map, site: str) -> tuple[Finding, ...]:
    """What stands between the members of `group` and being built on `site`: `unmapped` (error) for each zone,
    subnet, type, key pair, security group, instance profile and KMS key without a partner, `carried-with-
    loss` for product codes, which forbid the copy of an image or snapshot (EC2 user guide, "Copy an AMI": AWS
    Marketplace).

    `mapping` is read from the members' side (`Group.mapping`). Pure.
    """
    findings: dict[tuple[str, str], Finding] = {}
    for tier in group.tiers:
        for kind, name in _needs(tier):
            table = getattr(mapping, kind)
            known = partner(table, name) is not None if kind == "kms_keys" else name in table
            if not known:
                what = f"{_LABELS[kind]} {name} (tier {tier.name})"
                findings.setdefault(
                    (kind, name),
                    Finding(
                        "unmapped",
                        "error",
                        f"{what} has no partner on {site}",
                        where=f"map.{kind}",
                        hint=f"add it under map.{kind} in the group file",
                    ),
                )
        for owner, code in _product_codes(tier):
            hint = "replace it by an image without product codes; its owner alone may copy it"
            message = f"{owner} has product code {code}: its image and snapshots can't be copied to {site}"
            where = f"tiers.{tier.name}"
            findings.setdefault((owner, code), Finding("carried-with-loss", "error", message, where, hint))
    return tuple(findings.values())


_LABELS = {
    "zones": "zone",
    "subnets": "subnet",
    "types": "instance type",
    "keys": "key pair",
    "security_groups": "security group",
    "profiles": "instance profile",
    "kms_keys": "KMS key",
}


def _needs(tier: Tier) -> Iterator[tuple[str, str]]:
    for one in tier.instances:
        yield from _named(("zones", one.zone), ("subnets", one.subnet), ("keys", one.key_pair))
        # A tier that says what it grows to, and how small it waits, needs no partner for its type.
        if tier.standby.grow is None or tier.standby.size is None:
            yield from _named(("types", one.type))
        yield from _named(("profiles", one.profile))
        yield from _named(*(("security_groups", name) for name in one.security_groups))
        yield from _named(*(("kms_keys", volume.kms_key) for volume in one.volumes if volume.encrypted))
    scaling = tier.scaling_group
    if scaling is not None:
        yield from _named(("types", scaling.type), ("keys", scaling.key_pair), ("profiles", scaling.profile))
        yield from _named(("kms_keys", scaling.encrypted_key))
        yield from _named(*(("subnets", name) for name in scaling.subnets))
        yield from _named(*(("security_groups", name) for name in scaling.security_groups))
    balancer = tier.load_balancer
    if balancer is not None:
        yield from _named(*(("subnets", name) for name in balancer.subnets))
        yield from _named(*(("security_groups", name) for name in balancer.security_groups))


def _named(*needs: tuple[str, str | None]) -> Iterator[tuple[str, str]]:
    for kind, name in needs:
        if name:
            yield kind, name


def _product_codes(tier: Tier) -> Iterator[tuple[str, str]]:
    for one in tier.instances:
        for code in one.product_codes:
            yield f"instance {one.key}", code
    if tier.scaling_group is not None:
        for code in tier.scaling_group.product_codes:
            yield f"scaling group {tier.scaling_group.key}", code


def uncarried(site: Site, group: Group) -> tuple[Finding, ...]:
    """What members have on `site` that a standby won't: further listeners, certificates, further network
    interfaces and further elastic addresses; and an address that users may know, where no name leads them to the other
    side. Findings `carried-with-loss`, by a live look.
    """
    findings = []
    for tier in group.tiers:
        if tier.load_balancer is not None:
            findings += _balancer_losses(site, tier.load_balancer, tier.name)
        ids = [one.id for one in tier.instances]
        known = {one.id: one for one in tier.instances}
        for one in instances_where(site, {"Name": "instance-id", "Values": ids}) if ids else ():
            findings += _instance_losses(one, known[one["InstanceId"]], tier.name)
        findings += [
            _loss(
                f"instance {one.key}: elastic address {one.elastic_address} stays behind, the standby has another",
                tier.name,
                "let users reach it by a name (traffic)",
            )
            for one in tier.instances
            if one.elastic_address and group.traffic is None
        ]
    return tuple(findings)


def _loss(what: str, tier: str, hint: str) -> Finding:
    return Finding("carried-with-loss", "warning", what, f"tiers.{tier}", hint)


def _balancer_losses(site: Site, balancer: LoadBalancer, tier: str) -> list[Finding]:
    findings = []
    hint = "add it by hand on the other side, or split the load balancer"
    for one in listeners(site, balancer.arn):
        port = one.get("Port")
        if port != balancer.port:
            what = f"load balancer {balancer.key}: listener {port} is not carried"
            findings.append(_loss(what, tier, hint))
        elif one.get("Certificates"):
            what = f"load balancer {balancer.key}: the certificate of listener {port} is not carried"
            findings.append(_loss(what, tier, "import the certificate on the other side"))
    return findings


def _instance_losses(one: dict[str, Any], member: Instance, tier: str) -> list[Finding]:
    findings = []
    interfaces: Sequence[dict[str, Any]] = one.get("NetworkInterfaces") or ()
    if len(interfaces) > 1:
        what = f"instance {member.key}: {len(interfaces)} network interfaces, one is carried"
        findings.append(_loss(what, tier, "check that it works with one address"))
    further = sorted(_account_addresses(interfaces) - {member.elastic_address or ""})
    if further:
        what = (
            f"instance {member.key}: elastic address {', '.join(further)} is not carried: one an instance is"
        )
        findings.append(_loss(what, tier, "add it by hand on the other side"))
    return findings


def _account_addresses(interfaces: Sequence[dict[str, Any]]) -> set[str]:
    """Public addresses of interfaces that belong to an account; one that the cloud lends belongs to `amazon`."""
    bound = [
        place.get("Association") or {}
        for face in interfaces
        for place in (face, *(face.get("PrivateIpAddresses") or ()))
    ]
    return {str(one["PublicIp"]) for one in bound if one.get("IpOwnerId") not in (None, "", "amazon")}
