"""The members of a group, what of them can't be carried, and what runs beside them unprotected."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from drpilot.base.errors import DrpilotError, Finding
from drpilot.domain.group import Group, Instance, LoadBalancer, Map, Selector, Tier
from drpilot.domain.plain import Json
from drpilot.domain.ports import Site
from drpilot.inventory.balancing import balancing, load_balancer
from drpilot.inventory.resources import (
    FILTER_VALUES,
    chunks,
    described,
    instances_where,
    scaling_group,
    tag_filter,
    tags_of,
)
from drpilot.inventory.survey import load_balancers_with, scaling_groups_with

__all__ = [
    "carried",
    "members",
    "partner",
    "uncarried",
    "unprotected",
]

_EVERYTHING = frozenset({"iam", "kms", "vpc"})
_GUESSED_KEYS = ("app", "application", "service", "system", "project", "group", "stack")


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


# -- what no tier covers ---------------------------------------------------------------------------------


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
    for name, _ in scaling_groups_with(site, tag):
        if name not in groups:
            findings.append(_unprotected(site, f"scaling group {name}"))
    for name, _ in load_balancers_with(site, tag):
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


def carried(
    group: Group, mapping: Map, site: str, there: Collection[str] = _EVERYTHING
) -> tuple[Finding, ...]:
    """What stands between the members of `group` and being built on `site`: `unmapped` (error) for each zone,
    subnet, type, key pair, security group, instance profile and KMS key without a partner, `carried-with-
    loss` for product codes, which forbid the copy of an image or snapshot (EC2 user guide, "Copy an AMI": AWS
    Marketplace).

    `mapping` is read from the members' side (`Group.mapping`), `there` are the capabilities of `site`: what it has not
    needs no partner there (losses.py tells of it). A zone stands for a subnet where a side has none. Pure.
    """
    findings: dict[tuple[str, str], Finding] = {}
    for tier in group.tiers:
        for kind, name in (need for each in _needs(tier) for need in _needed(each, mapping, there)):
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


_OF_SERVICES = {"kms_keys": "kms", "profiles": "iam"}
_PLACE, _ZONED = "place", "zoned"


def _needed(need: tuple[str, str], mapping: Map, there: Collection[str]) -> Iterator[tuple[str, str]]:
    """What of a need has to be in the map. A place (`SUBNET/ZONE`) is a subnet towards networks, else a zone."""
    kind, name = need
    if kind == _ZONED:  # the zones of places that have subnets too
        if "vpc" not in there and name not in mapping.zones and not mapping.subnets:
            yield "zones", name
        return
    if kind != _PLACE:
        if kind not in _OF_SERVICES or _OF_SERVICES[kind] in there:
            yield need
        return
    subnet, _, zone = name.partition("/")
    if "vpc" in there:
        yield from _named(("subnets", subnet or zone))
    elif zone and (subnet or zone) not in mapping.subnets:
        yield "zones", zone


def _needs(tier: Tier) -> Iterator[tuple[str, str]]:
    for one in tier.instances:
        yield from _named(("zones", one.zone), ("keys", one.key_pair))
        yield _PLACE, f"{one.subnet}/{one.zone}"
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
        yield from _places(scaling.subnets, scaling.zones)
        yield from _named(*(("security_groups", name) for name in scaling.security_groups))
    balancer = tier.load_balancer
    if balancer is not None:
        yield from _places(balancer.subnets, balancer.zones)
        yield from _named(*(("security_groups", name) for name in balancer.security_groups))


def _places(subnets: Sequence[str], zones: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Places of which nobody tells which subnet is in which zone: the subnets, and the zones."""
    if subnets:
        yield from ((_PLACE, f"{name}/") for name in subnets)
    yield from ((_PLACE, f"/{name}") for name in zones if not subnets)
    yield from ((_ZONED, name) for name in zones if subnets)


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


def uncarried(
    site: Site, group: Group, there: Collection[str] = frozenset({"address-tags"})
) -> tuple[Finding, ...]:
    """What members have on `site` that a standby won't: further listeners, certificates, further network
    interfaces and further elastic addresses; and an address that users may know, where no name leads them to the other
    side. Findings `carried-with-loss`, by a live look. `there` are the other side's capabilities.
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
            if one.elastic_address and group.traffic is None and "address-tags" in there
        ]
    return tuple(findings)


def _loss(what: str, tier: str, hint: str) -> Finding:
    return Finding("carried-with-loss", "warning", what, f"tiers.{tier}", hint)


def _balancer_losses(site: Site, balancer: LoadBalancer, tier: str) -> list[Finding]:
    findings = []
    hint = "add it by hand on the other side, or split the load balancer"
    kind = balancing(site)
    for one in kind.listening(balancer) if kind is not None else ():
        if one.port != balancer.port:
            what = f"load balancer {balancer.key}: listener {one.port} is not carried"
            findings.append(_loss(what, tier, hint))
        elif one.certificate:
            what = f"load balancer {balancer.key}: the certificate of listener {one.port} is not carried"
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
