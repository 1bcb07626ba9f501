"""What the group file names, the other side has not, and drpilot can make there: key pairs whose public half is told,
and security groups with the rules of those they stand for. Everything else is a person's, and is said.

Networks, types, profiles and KMS keys are mapped, never made: what they are is decided over there. A rule is made only
where it means the same on the other side: a security group by its partner in the same network, a range as it is, the
whole of the source's network as the whole of the partner's. Looks only; the actions of `partnering.py` make.

Sources: Amazon EC2 API reference (ImportKeyPair, CreateSecurityGroup, AuthorizeSecurityGroupIngress, IpPermission).
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from drpilot.domain.group import Group
from drpilot.domain.plain import Json
from drpilot.domain.ports import Site
from drpilot.inventory.grouprules import OWN, Rule, Words, rules_of, said
from drpilot.inventory.parity import Ask, Parity, Stock, judge
from drpilot.inventory.partners import look

__all__ = [
    "Lack",
    "Making",
    "NewGroup",
    "NewKey",
    "Translated",
    "lacking",
    "making",
    "ours",
    "translated",
]


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
class Making:
    """What will be made, and in sentences what has to be made by a person: `refused` what is made elsewhere, `mapped`
    what never is. `unfinished` are groups that an earlier run made and that lack rules still.
    """

    keys: tuple[NewKey, ...] = ()
    groups: tuple[NewGroup, ...] = ()
    unfinished: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    mapped: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What will be made, in a person's words."""
        groups = dict.fromkeys(each.name for each in self.groups)
        return (
            *(f"key pair {each.name}" for each in self.keys),
            *(f"security group {name}" for name in groups),
            *(f"rules of security group {name}" for name in self.unfinished),
        )


def lacking(parities: Iterable[Parity]) -> tuple[Parity, ...]:
    """Those that stand in the way of a move: missing over there, or of no use."""
    return tuple(each for each in parities if each.verdict == "bad")


def making(group: Group, active: str, sites: Callable[[str], Site], stock: Stock | None = None) -> Making:
    """What the other side lacks, as what will be made and what can't be; `stock` is what was seen a moment ago, else it
    is looked at. Reads only; raises CloudError.
    """
    stock = look(group, active, sites) if stock is None else stock
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
    made = () if "security_groups" in stock.untold else ours(away, group.name)
    said = translated(group, active, (home, away), made, groups)
    unfinished = tuple(dict.fromkeys(each.name for each in said.lacks if each.rules))
    if keys or groups or unfinished:  # else no run will be begun that could stop at it
        refused += said.refused
    return Making(tuple(keys), tuple(groups), unfinished, tuple(dict.fromkeys(refused)), tuple(mapped))


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


def ours(site: Site, group: str) -> tuple[Json, ...]:
    """The security groups on a site that stand for those of the other side because we made them."""
    filters = [
        {"Name": "tag:drpilot:group", "Values": [group]},
        {"Name": "tag-key", "Values": ["drpilot:partner"]},
    ]
    return tuple(_described(site, "DescribeSecurityGroups", "SecurityGroups", filters))


@dataclass(frozen=True, slots=True)
class Lack:
    """A security group of ours over there: the rules it has not and must have, and its neighbours' ids by name."""

    id: str
    name: str
    rules: frozenset[Rule]
    ids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Translated:
    """What each group of ours over there lacks, and sentences about rules that have no meaning there."""

    lacks: tuple[Lack, ...] = ()
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Here:
    """A side with its security groups and networks; a network is None where it is not known."""

    site: Site
    rows: tuple[Json, ...]
    networks: Mapping[str, str]

    @classmethod
    def of(cls, site: Site) -> _Here:
        rows = tuple(_described(site, "DescribeSecurityGroups", "SecurityGroups", []))
        nets = _described(site, "DescribeVpcs", "Vpcs", []) if "vpc" in site.capabilities else []
        return cls(site, rows, {str(row["VpcId"]): str(row["CidrBlock"]) for row in nets})

    def names(self, vpc: str | None = None) -> dict[str, str]:
        """Ids → names of the groups in a network (empty where the cloud has none), or in all."""
        near = [row for row in self.rows if vpc in (None, str(row.get("VpcId") or ""))]
        return {str(row["GroupId"]): str(row["GroupName"]) for row in near}

    def words(self, vpc: str, near: Mapping[str, str], *, networked: bool) -> Words:
        """How the rules of a group in `vpc` are said; `near` are the names that its peers may have by their ids."""
        cidr = self.networks.get(vpc)
        return Words(near, network=ipaddress.ip_network(cidr) if cidr else None, networked=networked)


def translated(
    group: Group, active: str, sides: tuple[Site, Site], made: Iterable[Json], more: Iterable[NewGroup] = ()
) -> Translated:
    """The source's rules in the words of the other side, against what the groups there that we `made` let in already;
    `more` are groups still to be made. Reads only; raises CloudError.
    """
    made, more = tuple(made), tuple(more)
    if not made and not more:
        return Translated()
    home, away = _Here.of(sides[0]), _Here.of(sides[1])
    known, networked = group.mapping(active).security_groups, "vpc" in sides[1].capabilities
    lacks, refused = list[Lack](), list[str]()
    standing = [NewGroup(str(row["GroupName"]), _partner(row), str(row.get("VpcId") or "")) for row in made]
    for at, each in enumerate((*standing, *more)):
        there = away.names(each.vpc)
        names = {*there.values(), *(one.name for one in more if one.vpc == each.vpc)}
        rows = [row for row in home.rows if each.source in (row["GroupName"], row["GroupId"])]
        if not rows:
            refused.append(
                f"security group {each.source} is not on {active}: nobody knows the rules of {each.name}"
            )
            continue
        words = home.words(str(rows[0].get("VpcId") or ""), home.names(), networked=networked)
        called = {words.names.get(key, key): there.get(name, name) for key, name in known.items()}
        words = replace(words, partners=called)
        wanted, why = _meant(rows[0], words, _Target(each, away.networks.get(each.vpc), frozenset(names)))
        refused += [f"security group {each.name}: {text}" for text in why]
        if at < len(made):
            lacks.append(_lack(made[at], wanted, away))
    return Translated(tuple(lacks), tuple(dict.fromkeys(refused)))


def _partner(row: Json) -> str:
    tags = {str(tag["Key"]): str(tag.get("Value", "")) for tag in row.get("Tags") or ()}
    return tags["drpilot:partner"]


def _lack(row: Json, wanted: frozenset[Rule], away: _Here) -> Lack:
    """What a group of ours lacks of what is wanted, as it can be asked for: its own network by its range."""
    vpc = str(row.get("VpcId") or "")
    near = away.names(vpc)
    words = away.words(vpc, near, networked="vpc" in away.site.capabilities)
    have = {one for rule in rules_of(row, words.names) for one in said(rule, words)}
    left = frozenset(
        replace(rule, peer=away.networks[vpc]) if rule.peer == OWN else rule for rule in wanted - have
    )
    ids = {name: id_ for id_, name in near.items()}
    return Lack(str(row["GroupId"]), str(row["GroupName"]), left, ids)


@dataclass(frozen=True, slots=True)
class _Target:
    """The group over there, the range of its network if it has one, and the groups its rules can name."""

    group: NewGroup
    network: str | None
    names: frozenset[str]


def _meant(row: Json, words: Words, target: _Target) -> tuple[frozenset[Rule], list[str]]:
    """The rules of a source's group that have a meaning over there, and why the others have none."""
    found, why = set[Rule](), list[str]()
    for rule in sorted(rules_of(row, words.names), key=lambda one: one.text):
        problem = _meaningless(rule, words, target)
        if problem:
            why.append(f"lets in {problem}")
        else:
            found |= said(rule, words)
    if _closed(row):
        why.append("limits what goes out, which is not carried over")
    return frozenset(found), why


def _meaningless(rule: Rule, words: Words, target: _Target) -> str:
    """Why a rule can't be made over there; empty where it can."""
    peer = rule.peer
    if rule.group:
        partner = words.partners.get(peer)
        if partner is None:
            return f"{peer}, which has no partner under map.security_groups"
        where = f"in {target.group.vpc}" if target.group.vpc else "there"
        return "" if partner in target.names else f"{peer}, whose partner {partner} is not {where}"
    if peer.startswith("pl-"):
        return f"prefix list {peer}"
    if words.within(peer) and not words.whole(peer):
        return f"{peer}, a part of its network, and which part that is over there only a person knows"
    if words.within(peer) and target.network is None:
        return f"its network {peer}, and the other side's is not known"
    unknown = ":" in peer and not words.networked
    return f"{peer}, which a cloud without networks knows nothing of" if unknown else ""


def _closed(row: Mapping[str, Any]) -> bool:
    """Whether something is kept from going out; a group of a cloud without networks has no such rules."""
    given = row.get("IpPermissionsEgress") or []
    everywhere = [rule for rule in given if str(rule.get("IpProtocol")) == "-1"]
    ranges = {item["CidrIp"] for rule in everywhere for item in rule.get("IpRanges") or ()}
    return bool(row.get("VpcId")) and "IpPermissionsEgress" in row and "0.0.0.0/0" not in ranges


def _described(site: Site, operation: str, member: str, filters: list[Json]) -> list[Json]:
    params: Json = {"Filters": filters} if filters else {}
    return [row for page in site.pages("ec2", operation, params) for row in page.get(member) or ()]
