"""What a security group lets in, said so that it means the same on both sides: the one translation of its rules.

A group is called by its partner, a range as it is, a range within the side's own network that: each side has another.
Both the comparison (`parity.py`) and what is made (`making.py`) read rules by this.

Source: Amazon EC2 API reference, IpPermission, AuthorizeSecurityGroupIngress.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from drpilot.domain.plain import Json

__all__ = ["OWN", "Rule", "Words", "rules_of", "said"]

OWN = "its own network"
"""The peer of a rule that lets in a side's own network, or a part of it."""

_CLASSIC = (("tcp", 0, 65535), ("udp", 0, 65535), ("icmp", -1, -1))
_WHOLE = ((0, 65535), (-1, -1))

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may come in by what: `peer` is a range, a prefix list, or the name of a security group where `group` is true.
    Ports are -1 where the protocol has none.
    """

    protocol: str
    low: int
    high: int
    peer: str
    group: bool = False

    @property
    def text(self) -> str:
        """For people: `tcp 8080 from 0.0.0.0/0`, `everything from shop-app`."""
        ports = str(self.low) if self.low == self.high else f"{self.low}-{self.high}"
        if self.protocol == "-1":
            what = "everything"
        else:
            what = self.protocol if (self.low, self.high) in _WHOLE else f"{self.protocol} {ports}"
        return f"{what} from {self.peer}"

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
class Words:
    """How a side's rules are said: `names` of its security groups by their ids, their `partners` on the other side by
    name (none for the side that is translated to), its own `network` where it has one, and whether the side that is
    translated to has networks.
    """

    names: Mapping[str, str]
    partners: Mapping[str, str] = field(default_factory=dict)
    network: Network | None = None
    networked: bool = True

    def within(self, peer: str) -> bool:
        """Whether a range lies in the side's own network."""
        if self.network is None or "/" not in peer:
            return False
        cidr = ipaddress.ip_network(peer, strict=False)
        return cidr.version == self.network.version and cidr.subnet_of(self.network)  # type: ignore[arg-type]

    def whole(self, peer: str) -> bool:
        """Whether a range is the side's own network, all of it."""
        return self.within(peer) and ipaddress.ip_network(peer, strict=False) == self.network


def rules_of(row: Mapping[str, Any], names: Mapping[str, str]) -> frozenset[Rule]:
    """What a described security group lets in, as it stands; its groups called as `names` calls their ids."""
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
        found |= {
            Rule(protocol, *ports, str(item["PrefixListId"])) for item in given.get("PrefixListIds") or ()
        }
    return frozenset(found)


def said(rule: Rule, words: Words) -> frozenset[Rule]:
    """A rule of one side in words of both; several where the other side names protocols one by one (EC2 API reference,
    AuthorizeSecurityGroupIngress, on a cloud without networks). What has no word over there is called as it is here.
    """
    if rule.group:
        peer = words.partners.get(rule.peer, rule.peer)
    else:
        peer = OWN if words.within(rule.peer) else _plain(rule.peer)
    if rule.protocol == "-1" and not words.networked:
        return frozenset(Rule(*what, peer, rule.group) for what in _CLASSIC)
    return frozenset({replace(rule, peer=peer)})


def _plain(peer: str) -> str:
    """A range as the API keeps it: the bits behind its prefix are none of it."""
    return str(ipaddress.ip_network(peer, strict=False)) if "/" in peer else peer
