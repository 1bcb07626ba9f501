"""Looking whether the other site has what the group file names: zones, subnets, types, keys, groups, the hosted zone.

A list that a site refuses (permission, no such service) is untold, which is neither there nor missing; a site that does
not answer raises CloudError. What was seen is judged by `parity.py`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from drpilot.domain.group import Group
from drpilot.domain.path import path_between
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, FailureClass, Site
from drpilot.inventory.grouprules import Words, rules_of, said
from drpilot.inventory.parity import Ask, KeyPair, Network, Parity, Stock, asks, judge
from drpilot.inventory.resources import FILTER_VALUES, chunks, lacking, refused

__all__ = ["key_state", "look", "partners"]

T = TypeVar("T")


def partners(
    group: Group, active: str, sites: Callable[[str], Site], *, alone: bool = False
) -> tuple[Parity, ...]:
    """Look at the other site and judge what the group needs of it. Reads only; raises CloudError.

    `group` carries its members; `sites` gives a site by name. With `alone` the active side is not asked, so that keys
    and zones of the two sides are not compared.
    """
    return judge(group, active, look(group, active, sites, alone=alone))


def look(group: Group, active: str, sites: Callable[[str], Site], *, alone: bool = False) -> Stock:
    """What the other site has of what is asked for."""
    wanted: dict[str, list[Ask]] = {}
    eye = _Eye(sites(group.other(active)))
    alike = path_between(sites(active).capabilities, eye.site.capabilities).kind == "copy"
    for ask in asks(group, active, alike=alike):
        wanted.setdefault(ask.kind, []).append(ask)
    networks = "vpc" in eye.site.capabilities
    subnets: Mapping[str, Network] = {}
    if networks:
        subnets = eye.told("subnets", lambda: _subnets(eye.site, _names(wanted.get("subnets"))), {})
    if networks and wanted.get("subnets") and not subnets and "subnets" not in eye.untold:
        networks = any(True for _ in _rows(eye.site, "DescribeSubnets", "Subnets"))  # its kind may have none
    vpcs = sorted({network.vpc for network in subnets.values() if network.vpc})
    zones = {one.subnet: one.zone for tier in group.tiers for one in tier.instances if one.subnet}
    zones |= {name: name for name in group.mapping(active).zones}  # where a zone stands for a subnet
    home = None if alone else _Eye(sites(active))
    seen: Mapping[str, Network] = {}
    if home is not None and wanted.get("subnets") and "vpc" in home.site.capabilities:
        ids = [ask.source for ask in wanted["subnets"]]
        seen = home.told("subnets", lambda: _subnets(home.site, ids), {})
        zones |= {key: network.zone for key, network in seen.items()}
    twins: Mapping[str, KeyPair] = {}
    if home is not None and wanted.get("keys"):
        twins = home.told("keys", lambda: _key_pairs(home.site), {})
    rules, source_rules = dict[str, frozenset[str]](), dict[str, frozenset[str]]()
    if home is not None and wanted.get("security_groups"):
        theirs = sorted({network.vpc for network in seen.values() if network.vpc})
        known = group.mapping(active).security_groups
        source_rules, rules = _rules(known, (home, theirs), (eye, vpcs))
    return Stock(
        zones=eye.told("zones", lambda: _zones(eye.site), frozenset())
        if wanted.get("zones") or not networks
        else frozenset(),
        networks=networks,
        alike=alike,
        rules=rules,
        source_rules=source_rules,
        subnets=subnets,
        types=eye.told("types", lambda: _types(eye.site, _names(wanted.get("types"))), {}),
        keys=eye.told("keys", lambda: _key_pairs(eye.site), {}) if wanted.get("keys") else {},
        groups=eye.told("security_groups", lambda: _groups(eye.site, vpcs), {})
        if wanted.get("security_groups")
        else {},
        kms_keys=eye.told("kms_keys", lambda: _kms_keys(eye.site, _names(wanted.get("kms_keys"))), {}),
        profiles=eye.told("profiles", lambda: _profiles(eye.site, _names(wanted.get("profiles"))), {}),
        source_profiles=home.told(
            "profiles",
            lambda: _profiles(home.site, sorted({ask.source for ask in wanted.get("profiles") or ()})),
            {},
        )
        if home is not None
        else {},
        hosted_zone=_hosted_zone(group, sites, eye.untold),
        names=group.traffic is None or "route53" in sites(group.traffic.site).capabilities,
        twins=twins,
        source_zones=zones,
        untold=eye.untold,
        unable=frozenset(eye.unable),
    )


@dataclass(frozen=True, slots=True)
class _Eye:
    """A site, and what it would not tell."""

    site: Site
    untold: dict[str, str] = field(default_factory=dict)
    unable: set[str] = field(default_factory=set)

    def told(self, kind: str, ask: Callable[[], T], nothing: T) -> T:
        """The answer, or `nothing` and a note where the site refuses the question."""
        try:
            return ask()
        except CloudError as error:
            if not refused(error):
                raise
            self.untold[kind] = f"{error.operation}: {error.code}"
            if lacking(error):
                self.unable.add(kind)
            return nothing


def _names(wanted: Sequence[Ask] | None) -> list[str]:
    return sorted({ask.name for ask in wanted or ()})


def _rows(site: Site, operation: str, member: str, params: Json | None = None) -> Iterator[dict[str, Any]]:
    for page in site.pages("ec2", operation, params or {}):
        yield from page.get(member) or ()


def _zones(site: Site) -> frozenset[str]:
    return frozenset(row["ZoneName"] for row in _rows(site, "DescribeAvailabilityZones", "AvailabilityZones"))


def _subnets(site: Site, ids: Sequence[str]) -> dict[str, Network]:
    """By filter: an id that is unknown is no error there (EC2 API reference, Filter)."""
    found = {}
    for chunk in chunks(ids, FILTER_VALUES):
        params: Json = {"Filters": [{"Name": "subnet-id", "Values": chunk}]}
        for row in _rows(site, "DescribeSubnets", "Subnets", params):
            found[row["SubnetId"]] = Network(row.get("AvailabilityZone", ""), row.get("VpcId", ""))
    return found


def _types(site: Site, names: Sequence[str]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for chunk in chunks(names, FILTER_VALUES):
        filters = [{"Name": "instance-type", "Values": chunk}]
        params: Json = {"LocationType": "availability-zone", "Filters": filters}
        for row in _rows(site, "DescribeInstanceTypeOfferings", "InstanceTypeOfferings", params):
            found.setdefault(row["InstanceType"], set()).add(row["Location"])
    return {name: frozenset(zones) for name, zones in found.items()}


def _key_pairs(site: Site) -> dict[str, KeyPair]:
    """All key pairs, with their public halves where the cloud gives those."""
    try:
        rows = list(_rows(site, "DescribeKeyPairs", "KeyPairs", {"IncludePublicKey": True}))
    except CloudError as error:
        if error.kind is not FailureClass.INVALID:
            raise
        rows = list(_rows(site, "DescribeKeyPairs", "KeyPairs"))
    found = {}
    for row in rows:
        if row.get("KeyName"):
            public = _public(row.get("PublicKey") or "")
            printed = str(row.get("KeyFingerprint") or "")
            found[row["KeyName"]] = KeyPair(public, printed, _fingerprints(public))
    return found


def _fingerprints(public: str) -> frozenset[str]:
    """The fingerprints that an imported RSA key may have: MD5 of the key as SSH writes it (RFC 4716, section 4), or of
    its DER form (EC2 user guide, "Verify the fingerprint of your key pair"). Empty for any other key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - heavy, and not always needed
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        PublicFormat,
        load_ssh_public_key,
    )

    try:
        blob = base64.b64decode(public, validate=True)
        if b"ssh-rsa" not in blob[:16]:
            return frozenset()
        key = load_ssh_public_key(f"ssh-rsa {public}".encode())
    except (binascii.Error, ValueError, UnsupportedAlgorithm):
        return frozenset()
    forms = (blob, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    digests = (hashlib.md5(form, usedforsecurity=False).hexdigest() for form in forms)
    return frozenset(":".join(text[at : at + 2] for at in range(0, 32, 2)) for text in digests)


def _public(text: str) -> str:
    """The key of an OpenSSH line, without its comment."""
    parts = text.split()
    return parts[1] if len(parts) > 1 else ""


def _groups(site: Site, vpcs: Sequence[str]) -> dict[str, frozenset[str]]:
    """VPC → names and ids of its security groups; of all where no network is known."""
    found: dict[str, set[str]] = {}
    params: Json = {"Filters": [{"Name": "vpc-id", "Values": list(vpcs)}]} if vpcs else {}
    for row in _rows(site, "DescribeSecurityGroups", "SecurityGroups", params):
        names = {str(row[key]) for key in ("GroupName", "GroupId") if row.get(key)}
        found.setdefault(row.get("VpcId") or "", set()).update(names)
    return {vpc: frozenset(names) for vpc, names in found.items()}


def _rules(
    partners: Mapping[str, str], here: tuple[_Eye, Sequence[str]], there: tuple[_Eye, Sequence[str]]
) -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]]]:
    """What the security groups of both sides let in, by name and by id, one text a rule, in words that mean the same on
    both; nothing where a side does not tell.
    """
    listed = [eye.told("rules", partial(_guarded, eye.site, vpcs), None) for eye, vpcs in (here, there)]
    mine, theirs = listed
    if mine is None or theirs is None:
        return {}, {}
    networked = "vpc" in there[0].site.capabilities
    called = {mine.names.get(key, key): theirs.names.get(name, name) for key, name in partners.items()}
    return mine.said(called, networked=networked), theirs.said({}, networked=networked)


@dataclass(frozen=True, slots=True)
class _Guarded:
    """The security groups of some networks of a side, and the ranges of those networks."""

    rows: list[dict[str, Any]]
    names: dict[str, str]
    networks: dict[str, ipaddress.IPv4Network | ipaddress.IPv6Network]

    def said(self, partners: Mapping[str, str], *, networked: bool) -> dict[str, frozenset[str]]:
        """Name and id → the texts of the rules."""
        found: dict[str, frozenset[str]] = {}
        for row in self.rows:
            words = Words(self.names, partners, self.networks.get(str(row.get("VpcId"))), networked)
            texts = frozenset(one.text for rule in rules_of(row, self.names) for one in said(rule, words))
            found[str(row["GroupName"])] = found[str(row["GroupId"])] = texts
        return found


def _guarded(site: Site, vpcs: Sequence[str]) -> _Guarded | None:
    params: Json = {"Filters": [{"Name": "vpc-id", "Values": list(vpcs)}]} if vpcs else {}
    rows = list(_rows(site, "DescribeSecurityGroups", "SecurityGroups", params))
    nets = _rows(site, "DescribeVpcs", "Vpcs", params) if vpcs else ()
    return _Guarded(
        rows,
        {str(row["GroupId"]): str(row["GroupName"]) for row in rows},
        {str(row["VpcId"]): ipaddress.ip_network(row["CidrBlock"]) for row in nets},
    )


def key_state(site: Site, key: str) -> str:
    """The key's state in KMS's own word; `missing` where KMS does not know it (KMS API reference, DescribeKey)."""
    try:
        return str(site.call("kms", "DescribeKey", {"KeyId": key})["KeyMetadata"]["KeyState"])
    except CloudError as error:
        if error.kind is FailureClass.NOT_FOUND or error.code == "NotFoundException":
            return "missing"
        raise


def _kms_keys(site: Site, names: Sequence[str]) -> dict[str, str]:
    return {name: key_state(site, name) for name in names}


def _profiles(site: Site, names: Sequence[str]) -> dict[str, frozenset[str]]:
    """The instance profiles that are there, each with the names of its roles."""
    found = {}
    for name in names:
        params: Json = {"InstanceProfileName": name.rsplit("/", 1)[-1]}
        try:
            seen = site.call("iam", "GetInstanceProfile", params)["InstanceProfile"]
        except CloudError as error:
            if error.kind is not FailureClass.NOT_FOUND:
                raise
        else:
            found[name] = frozenset(str(role["RoleName"]) for role in seen.get("Roles") or ())
    return found


def _hosted_zone(group: Group, sites: Callable[[str], Site], untold: dict[str, str]) -> str:
    """The name of the traffic's hosted zone; empty where there is none, or none is needed.

    It lies on a third site, whose silence must not hide what the other side has: it is untold.
    """
    if group.traffic is None or "route53" not in sites(group.traffic.site).capabilities:
        return ""
    params: Json = {"Id": group.traffic.zone}
    try:
        return str(sites(group.traffic.site).call("route53", "GetHostedZone", params)["HostedZone"]["Name"])
    except CloudError as error:
        if error.kind is not FailureClass.NOT_FOUND and error.code != "InvalidInput":
            untold["hosted_zone"] = f"{error.operation}: {error.code}"
        return ""
