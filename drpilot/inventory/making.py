"""What the group file names, the other side has not, and drpilot can make there: key pairs whose public half is told,
and security groups with the rules of those they stand for. Everything else is a person's, and is said.

Networks, types, profiles and KMS keys are mapped, never made: what they are is decided over there. A rule is made only
where it means the same on the other side: a security group by its partner, a range as it is, the whole of the source's
network as the whole of the partner's. Looks only; the actions of `partnering.py` make.

Sources: Amazon EC2 API reference (ImportKeyPair, CreateSecurityGroup, AuthorizeSecurityGroupIngress, IpPermission).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from drpilot.domain.group import Group
from drpilot.domain.plain import Json
from drpilot.domain.ports import Site
from drpilot.inventory.parity import Ask, Parity, Stock, judge
from drpilot.inventory.partners import look

__all__ = [
    "Making",
    "NewGroup",
    "NewKey",
    "Rule",
    "Translated",
    "lacking",
    "making",
    "rules_of",
    "translated",
]

_CLASSIC = (("tcp", 0, 65535), ("udp", 0, 65535), ("icmp", -1, -1))


@dataclass(frozen=True, slots=True)
class NewKey:
    """A public key to import under `name`; `line` is its OpenSSH line."""

    name: str
    line: str


@dataclass(frozen=True, slots=True)
class NewGroup:
    """A security group to make as `name` in `vpc` (empty on a cloud without networks), like `source` over here."""

    name: str
    source: str
    vpc: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may come in by what: `peer` is a range, or the name of a security group where `group` is true. Ports are -1
    where the protocol has none.
    """

    protocol: str
    low: int
    high: int
    peer: str
    group: bool = False

    def permission(self, ids: Mapping[str, str]) -> Json:
        """As AuthorizeSecurityGroupIngress takes it; `ids` are those of the security groups by name."""
        ports: Json = {} if self.protocol == "-1" else {"FromPort": self.low, "ToPort": self.high}
        if self.group:
            who: Json = {"UserIdGroupPairs": [{"GroupId": ids[self.peer]}]}
        elif ":" in self.peer:
            who = {"Ipv6Ranges": [{"CidrIpv6": self.peer}]}
        else:
            who = {"IpRanges": [{"CidrIp": self.peer}]}
        return {"IpProtocol": self.protocol, **ports, **who}


@dataclass(frozen=True, slots=True)
class Making:
    """What will be made, and in sentences what has to be made by a person: `refused` what is made elsewhere, `mapped`
    what never is.
    """

    keys: tuple[NewKey, ...] = ()
    groups: tuple[NewGroup, ...] = ()
    refused: tuple[str, ...] = ()
    mapped: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What will be made, in a person's words."""
        groups = dict.fromkeys(each.name for each in self.groups)
        return (
            *(f"key pair {each.name}" for each in self.keys),
            *(f"security group {name}" for name in groups),
        )


def lacking(parities: Iterable[Parity]) -> tuple[Parity, ...]:
    """Those that stand in the way of a move: missing over there, or of no use."""
    return tuple(each for each in parities if each.verdict == "bad")


def making(group: Group, active: str, sites: Callable[[str], Site]) -> Making:
    """What the other side lacks, as what will be made and what can't be. Reads only; raises CloudError."""
    stock = look(group, active, sites)
    home, away = sites(active), sites(group.other(active))
    keys, groups, refused, mapped = list[NewKey](), list[NewGroup](), list[str](), list[str]()
    for each in lacking(judge(group, active, stock)):
        if each.ask.kind == "keys":
            new = _key(each.ask, stock, active)
            keys += [new] if isinstance(new, NewKey) else []
            refused += [new] if isinstance(new, str) else []
        elif each.ask.kind == "security_groups" and not each.ask.name.startswith("sg-"):
            groups += _groups(each.ask, group.mapping(active).subnets, stock)
        elif each.finding is not None:
            mapped.append(f"{each.finding.message}: {each.finding.hint}")
    if groups:
        refused += translated(group, active, (home, away), groups).refused
    return Making(tuple(keys), tuple(groups), tuple(dict.fromkeys(refused)), tuple(mapped))


# -- key pairs -------------------------------------------------------------------------------------------


def _key(ask: Ask, stock: Stock, active: str) -> NewKey | str:
    """The key pair to import, or why it can't be: another name may well mean another key."""
    there = stock.twins.get(ask.source)
    if ask.name != ask.source:
        why = f"has another name than {ask.source}, so which key it is only a person knows"
        return f"key pair {ask.name} is missing and {why}"
    kind = _kind(there.public) if there is not None else ""
    if there is None or not kind:
        return (
            f"key pair {ask.name} is missing, and {active} does not tell its public half: import it by hand"
        )
    return NewKey(ask.name, f"{kind} {there.public} {ask.name}")


def _kind(public: str) -> str:
    """The kind that a public key says it is of (RFC 4253, section 6.6); empty where it is no key."""
    try:
        blob = base64.b64decode(public, validate=True)
        return blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return ""


# -- security groups -------------------------------------------------------------------------------------


def _groups(ask: Ask, subnets: Mapping[str, str], stock: Stock) -> Iterator[NewGroup]:
    """One in each network that must have it; in the account where the cloud has none."""
    needed = ask.subnets or frozenset(subnets.values())
    vpcs = {stock.subnets[each].vpc for each in needed if each in stock.subnets} or {""}
    for vpc in sorted(vpc for vpc in vpcs if ask.name not in stock.groups.get(vpc, ())):
        yield NewGroup(ask.name, ask.source, vpc)


@dataclass(frozen=True, slots=True)
class Translated:
    """The rules that each group over there must have, by its name, and sentences about those that have no meaning."""

    rules: Mapping[str, frozenset[Rule]] = field(default_factory=dict)
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Words:
    """How a rule of the source is said on the target."""

    names: Mapping[str, str]  # of the source's security groups, by their ids
    partners: Mapping[str, str]
    networks: Mapping[str, str]  # the whole network of the source → that of the target
    networked: bool  # whether the target has networks


def translated(group: Group, active: str, sides: tuple[Site, Site], wanted: Iterable[NewGroup]) -> Translated:
    """The rules of the source's groups in the words of the other side. Reads only; raises CloudError."""
    home, away = sides
    wanted = tuple(wanted)
    listed = _described(home, "DescribeSecurityGroups", "SecurityGroups", [])
    targets = sorted({each.vpc for each in wanted if each.vpc})
    words = _Words(
        {str(row["GroupId"]): str(row["GroupName"]) for row in listed},
        group.mapping(active).security_groups,
        _networks(home, away, {str(row.get("VpcId") or "") for row in listed} - {""}, targets),
        "vpc" in away.capabilities,
    )
    rules, refused = dict[str, frozenset[Rule]](), list[str]()
    for each in wanted:
        rows = [row for row in listed if each.source in (row["GroupName"], row["GroupId"])]
        if not rows:
            refused.append(
                f"security group {each.source} is not on {active}: nobody knows the rules of {each.name}"
            )
            continue
        found, why = _said(rows[0], words)
        rules[each.name] = rules.get(each.name, frozenset()) | found
        refused += [f"security group {each.name}: {text}" for text in why]
    return Translated(rules, tuple(dict.fromkeys(refused)))


def _said(row: Mapping[str, Any], words: _Words) -> tuple[frozenset[Rule], list[str]]:
    found, why = set[Rule](), list[str]()
    for rule in rules_of(row, words.names):
        peer = words.partners.get(rule.peer) if rule.group else words.networks.get(rule.peer, rule.peer)
        if peer is None:
            why.append(f"lets in {rule.peer}, which has no partner under map.security_groups")
        elif peer == "":
            why.append(f"lets in its network {rule.peer}, and the other side's is not known")
        elif ":" in peer and not words.networked:
            why.append(f"lets in {peer}, which a cloud without networks knows nothing of")
        else:
            found |= {Rule(*what, peer, rule.group) for what in _protocols(rule, words)}
    why += [f"lets in prefix list {item['PrefixListId']}" for item in _prefixes(row)]
    if _closed(row):
        why.append("limits what goes out, which is not carried over")
    return frozenset(found), why


def _protocols(rule: Rule, words: _Words) -> tuple[tuple[str, int, int], ...]:
    """Without networks protocols are named one by one (EC2 API reference, AuthorizeSecurityGroupIngress)."""
    if rule.protocol == "-1" and not words.networked:
        return _CLASSIC
    return ((rule.protocol, rule.low, rule.high),)


def rules_of(row: Mapping[str, Any], names: Mapping[str, str]) -> frozenset[Rule]:
    """What a described security group lets in, prefix lists left out; its groups called as `names` calls their ids."""
    found = set[Rule]()
    for given in row.get("IpPermissions") or ():
        protocol = str(given.get("IpProtocol", "-1"))
        ports = (
            (-1, -1) if protocol == "-1" else (int(given.get("FromPort", -1)), int(given.get("ToPort", -1)))
        )
        for pair in given.get("UserIdGroupPairs") or ():
            id_ = str(pair.get("GroupId") or "")
            found.add(Rule(protocol, *ports, names.get(id_) or str(pair.get("GroupName") or id_), group=True))
        found |= {Rule(protocol, *ports, str(item["CidrIp"])) for item in given.get("IpRanges") or ()}
        found |= {Rule(protocol, *ports, str(item["CidrIpv6"])) for item in given.get("Ipv6Ranges") or ()}
    return frozenset(found)


def _prefixes(row: Mapping[str, Any]) -> list[Json]:
    return [item for given in row.get("IpPermissions") or () for item in given.get("PrefixListIds") or ()]


def _closed(row: Mapping[str, Any]) -> bool:
    """Whether something is kept from going out; a group of a cloud without networks has no such rules."""
    given = row.get("IpPermissionsEgress") or []
    everywhere = [rule for rule in given if str(rule.get("IpProtocol")) == "-1"]
    ranges = {item["CidrIp"] for rule in everywhere for item in rule.get("IpRanges") or ()}
    return bool(row.get("VpcId")) and "IpPermissionsEgress" in row and "0.0.0.0/0" not in ranges


def _networks(home: Site, away: Site, theirs: Iterable[str], ours: list[str]) -> dict[str, str]:
    """The whole of each of the source's networks → the whole of the target's; empty text where that is not one."""
    if "vpc" not in home.capabilities:
        return {}
    wanted = set(theirs)
    rows = [row for row in _described(home, "DescribeVpcs", "Vpcs", []) if row["VpcId"] in wanted]
    there = ""
    if len(ours) == 1:
        found = _described(away, "DescribeVpcs", "Vpcs", [{"Name": "vpc-id", "Values": ours}])
        there = str(found[0]["CidrBlock"]) if found else ""
    return {str(row["CidrBlock"]): there for row in rows}


def _described(site: Site, operation: str, member: str, filters: list[Json]) -> list[Json]:
    params: Json = {"Filters": filters} if filters else {}
    return [row for page in site.pages("ec2", operation, params) for row in page.get(member) or ()]
