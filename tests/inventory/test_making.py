"""Rules of security groups in the words of the other side: what has a meaning there, and what a group there lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from drpilot.domain.group import Group, Map
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, FailureClass
from drpilot.inventory.grouprules import OWN, Rule, Words, rules_of, said
from drpilot.inventory.making import Making, NewGroup, Translated, making, translated
from drpilot.inventory.parity import Stock
from tests.inventory.test_parity import GROUP

DB = Rule("tcp", 5432, 5432, "app", group=True)


@dataclass
class Listed:
    """A site that lists security groups and networks, and no more."""

    groups: list[Json]
    vpcs: dict[str, str] = field(default_factory=dict)
    capabilities: frozenset[str] = frozenset({"vpc"})

    def pages(self, service: str, operation: str, params: Json) -> Iterator[Json]:
        """One page."""
        assert (service, params) == ("ec2", {})
        if operation == "DescribeVpcs":
            yield {"Vpcs": [{"VpcId": key, "CidrBlock": cidr} for key, cidr in self.vpcs.items()]}
        else:
            yield {"SecurityGroups": self.groups}


def row(name: str, id_: str, vpc: str, *rules: Json, partner: str = "") -> Json:
    """A security group as it is described; `partner` is what ours stands for."""
    tags = {"Tags": [{"Key": "drpilot:partner", "Value": partner}]} if partner else {}
    where = {"VpcId": vpc} if vpc else {}
    return {"GroupName": name, "GroupId": id_, **where, "IpPermissions": list(rules), **tags}


def lets_in(port: int, **who: Any) -> Json:
    """A rule as it is described: `group` by its id, or `cidr`."""
    pairs = [{"GroupId": who["group"]}] if "group" in who else []
    ranges = [{"CidrIp": who["cidr"]}] if "cidr" in who else []
    return {
        "IpProtocol": "tcp",
        "FromPort": port,
        "ToPort": port,
        "UserIdGroupPairs": pairs,
        "IpRanges": ranges,
    }


HOME = Listed(
    [
        row("db", "sg-1", "vpc-a", lets_in(5432, group="sg-2"), lets_in(22, cidr="10.0.0.0/16")),
        row("app", "sg-2", "vpc-b"),
    ],
    {"vpc-a": "10.0.0.0/16", "vpc-b": "10.1.0.0/16"},
)


def asked(group: Group, away: Listed, *new: NewGroup, home: Listed = HOME) -> Translated:
    """The translation for the groups of `away` that are ours."""
    sides: Any = home, away
    made = [one for one in away.groups if one.get("Tags")]
    return translated(group, "home", sides, made, new)


def mapped(**names: str) -> Group:
    return replace(GROUP, map=Map(security_groups=names))


@pytest.mark.parametrize("app", ["app-x", "sg-8"])
def test_a_peer_is_named_by_name_or_by_id(app: str) -> None:
    """Either way the rule is asked for with the id of the group that stands in the same network, once."""
    ours = row("db-x", "sg-9", "vpc-x", partner="db")
    away = Listed(
        [ours, row("app-x", "sg-8", "vpc-x"), row("app-x", "sg-7", "vpc-y")], {"vpc-x": "10.7.0.0/16"}
    )
    found = asked(mapped(db="db-x", app=app), away)
    assert found.refused == ()
    (lack,) = found.lacks
    asked_for = sorted((rule.permission(lack.ids) for rule in lack.rules), key=lambda one: one["FromPort"])
    assert [one.get("UserIdGroupPairs") or one.get("IpRanges") for one in asked_for] == [
        [{"CidrIp": "10.7.0.0/16"}],
        [{"GroupId": "sg-8"}],
    ]
    ours["IpPermissions"] = [lets_in(5432, group="sg-8"), lets_in(22, cidr="10.7.0.0/16")]
    (lack,) = asked(mapped(db="db-x", app=app), away).lacks
    assert lack.rules == frozenset()


@pytest.mark.parametrize("app", ["app-x", "sg-8"])
@pytest.mark.parametrize("standing", [True, False])
def test_a_peer_in_another_network_is_refused_in_words(app: str, standing: bool) -> None:
    """A group that a rule can't name is said before anything is made, and is no traceback where something was."""
    others = [row("app-x", "sg-8", "vpc-y"), row("db-x", "sg-9", "vpc-x", partner="db")]
    away = Listed(others if standing else others[:1], {"vpc-x": "10.7.0.0/16", "vpc-y": "10.8.0.0/16"})
    new = () if standing else (NewGroup("db-x", "db", "vpc-x"),)
    found = asked(mapped(db="db-x", app=app), away, *new)
    assert found.refused == (f"security group db-x: lets in app, whose partner {app} is not in vpc-x",)


def test_a_group_of_the_map_called_by_its_id_on_the_source_is_the_same_group() -> None:
    """`sg-2: app-x` says of the peer what `app: app-x` says."""
    away = Listed([row("app-x", "sg-8", "vpc-x")], {"vpc-x": "10.7.0.0/16"})
    group = replace(GROUP, map=Map(security_groups={"sg-1": "db-x", "sg-2": "app-x"}))
    assert asked(group, away, NewGroup("db-x", "sg-1", "vpc-x")).refused == ()


def test_a_part_of_its_network_means_nothing_over_there() -> None:
    """The whole of it does; a subnet's range, carried over as it is, would let in strangers."""
    home = Listed([row("db", "sg-1", "vpc-a", lets_in(22, cidr="10.0.3.0/24"))], HOME.vpcs)
    away = Listed([], {"vpc-x": "10.7.0.0/16"})
    found = asked(mapped(db="db-x"), away, NewGroup("db-x", "db", "vpc-x"), home=home)
    (text,) = found.refused
    assert text.startswith("security group db-x: lets in 10.0.3.0/24, a part of its network, ")


def test_what_is_compared_is_what_is_made() -> None:
    """Without networks protocols are named one by one, on both ways of looking at a rule."""
    everything = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "192.0.2.0/24"}]}
    (rule,) = rules_of({"IpPermissions": [everything]}, {})
    assert rule.text == "everything from 192.0.2.0/24"
    assert said(rule, Words({})) == {rule}
    classic = said(rule, Words({}, networked=False))
    assert sorted(one.text for one in classic) == [
        "icmp from 192.0.2.0/24", "tcp from 192.0.2.0/24", "udp from 192.0.2.0/24",
    ]  # fmt: skip
    assert all(said(one, Words({}, networked=False)) == {one} for one in classic)
    home = Words({}, {"app": "app-x"})
    assert said(DB, home) == {replace(DB, peer="app-x")}
    assert OWN not in {one.peer for one in said(rule, home)}


class Shut(Listed):
    """A site that lets nobody see its security groups."""

    def pages(self, service: str, operation: str, params: Json) -> Iterator[Json]:
        """Refused."""
        raise CloudError(FailureClass.AUTH, "UnauthorizedOperation", "no", happened="no", site="away")


def test_a_side_that_does_not_tell_its_groups_is_not_asked_for_ours() -> None:
    """Untold is neither missing nor a failure: nothing is made, and nothing raised."""
    sites: Any = {"home": HOME, "away": Shut([])}
    stock = Stock(untold={"security_groups": "ec2:DescribeSecurityGroups: UnauthorizedOperation"})
    alone = replace(mapped(db="db-x"), tiers=())
    assert making(alone, "home", sites.__getitem__, stock) == Making()
