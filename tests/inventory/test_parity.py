"""The pure comparison of what a group needs with what its other site has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drpilot.domain.group import Group, Instance, Map, Objectives, ScalingGroup, StandbySize, Tier, Traffic
from drpilot.inventory.groupfile import MAP_KINDS
from drpilot.inventory.parity import KINDS, KeyPair, Network, Stock, asks, judge, zone_of

DATABASE = Instance("db", "i-1", "m5.large", "a1", "subnet-1", "ami-1", "running", security_groups=("db",))
APP = ScalingGroup("app", "ami-1", "t3.large", 1, 2, 1, subnets=("subnet-2",), security_groups=("app",))
GROUP = Group(
    "shop",
    "home",
    "away",
    Objectives(900, 1800),
    (Tier("db", standby=StandbySize(size="t3.small"), instances=(DATABASE,)), Tier("app", scaling_group=APP)),
    map=Map(
        zones={"a1": "b1", "a2": "b2"},
        subnets={"subnet-1": "subnet-8", "subnet-2": "subnet-9"},
        types={"m5.large": "m6.large", "t3.large": "t3.large"},
        keys={"ops": "ops-b"},
        security_groups={"db": "db-b", "app": "sg-9"},
        kms_keys={"alias/a": "alias/b"},
        profiles={"role": "role-b"},
    ),
)
STOCK = Stock(
    zones=frozenset({"b1", "b2"}),
    subnets={"subnet-8": Network("b1", "vpc-1"), "subnet-9": Network("b2", "vpc-2")},
    types={"m6.large": frozenset({"b1"}), "t3.large": frozenset({"b2"}), "t3.small": frozenset({"b1"})},
    keys={"ops-b": KeyPair("AAAA", "aa:bb")},
    groups={"vpc-1": frozenset({"db-b", "sg-8"}), "vpc-2": frozenset({"app", "sg-9"})},
    kms_keys={"alias/b": "Enabled"},
    profiles={"role-b": frozenset({"shop"})},
    twins={"ops": KeyPair("AAAA", "cc:dd:ee")},
    source_zones={"subnet-1": "a1", "subnet-2": "a2"},
)


def wrong(stock: Stock, group: Group = GROUP, active: str = "home") -> list[tuple[str, str]]:
    """Place and verdict of what is not ok."""
    judged = judge(group, active, stock)
    return [(".".join(map(str, one.ask.path)), one.verdict) for one in judged if one.verdict != "ok"]


def test_every_kind_of_the_map_is_judged() -> None:
    """A kind that is added to the map can't be forgotten here: each is asked for, and missing where nothing is."""
    assert set(MAP_KINDS) == set(Map.__slots__) == set(KINDS) - {"hosted_zone"}
    assert {ask.kind for ask in asks(GROUP, "home")} == set(MAP_KINDS)
    lacking = judge(GROUP, "home", Stock())
    assert {one.ask.kind for one in lacking if one.verdict == "bad"} == set(MAP_KINDS)
    assert wrong(STOCK) == []


def test_a_type_must_be_offered_where_its_members_go() -> None:
    """Each type in the zones of its own members' subnets only: in no other zone is it needed."""
    types = {**STOCK.types, "t3.large": frozenset({"b1"})}
    assert wrong(replace(STOCK, types=types)) == [("map.types.t3.large", "bad")]


def test_a_security_group_must_be_in_the_network_of_its_members() -> None:
    """A group of that name in another VPC is none; one may be named by its id."""
    groups = {"vpc-1": frozenset({"sg-9"}), "vpc-2": frozenset({"db-b", "sg-9"})}
    assert wrong(replace(STOCK, groups=groups)) == [("map.security_groups.db", "bad")]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            KeyPair("AAAA", "ff:ff"),
            [],
        ),  # the same key, imported here and made there: fingerprints of two forms
        (KeyPair("BBBB", "aa:bb"), [("map.keys.ops", "warning")]),
        (KeyPair("", "aa:bb"), []),
        (KeyPair("", "aa:bc"), [("map.keys.ops", "warning")]),
        (KeyPair("", "aa:bc:dd"), []),  # MD5 against SHA-1 says nothing
        (KeyPair(), []),
    ],
)
def test_key_pairs_differ_only_where_that_is_sure(other: KeyPair, said: list[tuple[str, str]]) -> None:
    """The public halves decide; fingerprints only where both are of one form."""
    stock = STOCK if other.public else replace(STOCK, keys={"ops-b": KeyPair("", "aa:bb")})
    assert wrong(replace(stock, twins={"ops": other})) == said


def test_what_was_not_told_is_judged_once_and_never_bad() -> None:
    """A refused list is unknown for its kind, and changes nothing for the others."""
    stock = replace(STOCK, types={}, untold={"types": "ec2:X: UnauthorizedOperation"})
    assert wrong(stock) == [("map.types.m5.large", "unknown")]
    for unable, severity in ((frozenset(), "warning"), (frozenset({"types"}), "info")):
        judged = judge(GROUP, "home", replace(stock, unable=unable))
        assert [one.finding.severity for one in judged if one.finding is not None] == [severity]


def test_backwards_the_left_side_is_asked_for_at_its_place() -> None:
    """Active on away, names and places are those of the left side."""
    back = {one.ask.path: one.ask for one in judge(GROUP, "away", STOCK)}
    assert back["map", "keys", "ops"].name == "ops"
    assert back["map", "keys", "ops"].source == "ops-b"


def test_a_name_lies_in_its_zone_or_not() -> None:
    """By whole labels, whatever the case and the last dot."""
    assert zone_of("Shop.Example.org", "example.org.")
    assert zone_of("example.org.", "example.org")
    assert not zone_of("badexample.org", "example.org.")


def test_a_security_group_is_compared_rule_by_rule() -> None:
    """What it lets in less, and what besides, in the words of the standing side; untold rules say nothing."""
    alike = {"db-b": frozenset({"tcp 5432 from app-b"}), "sg-9": frozenset[str]()}
    source = {"db": frozenset({"tcp 5432 from app-b"}), "app": frozenset({"tcp 80 from 0.0.0.0/0"})}
    stock = replace(STOCK, rules=alike, source_rules=source)
    assert wrong(stock) == [("map.security_groups.app", "warning")]
    (found,) = (one for one in judge(GROUP, "home", stock) if one.verdict == "warning")
    assert found.finding is not None
    assert found.finding.message == "security group sg-9 on away does not let in tcp 80 from 0.0.0.0/0"
    more = {**alike, "sg-9": frozenset({"tcp 80 from 0.0.0.0/0", "tcp 22 from 0.0.0.0/0"})}
    (found,) = (one for one in judge(GROUP, "home", replace(stock, rules=more)) if one.verdict == "warning")
    assert "lets in tcp 22 from 0.0.0.0/0 besides" in found.observed
    assert wrong(replace(stock, rules={})) == []


def test_an_instance_profile_without_a_role_is_a_gap() -> None:
    """Where the active side's has one; between two that have none nothing is amiss."""
    bare = replace(STOCK, profiles={"role-b": frozenset[str]()})
    assert wrong(bare) == []
    assert wrong(replace(bare, source_profiles={"role": frozenset({"shop"})})) == [
        ("map.profiles.role", "warning")
    ]


def test_on_the_way_home_a_standby_is_sized_in_homes_words() -> None:
    """A type of the other cloud is read backwards; one without a partner is asked for between clouds of a kind only."""
    waiting = StandbySize(size="m1.small", grow="m6.large", otherwise=("m9.huge",))
    group = replace(GROUP, tiers=(Tier("db", standby=waiting, instances=(DATABASE,)),))
    names = [one.name for one in asks(group, "away", alike=False) if one.path[:1] == ("tiers",)]
    assert names == ["m5.large"]
    names = [one.name for one in asks(group, "away") if one.path[:1] == ("tiers",)]
    assert names == ["m1.small", "m5.large", "m9.huge"]


def test_a_zone_stands_for_a_subnet_where_there_are_no_networks() -> None:
    """The map names a zone as the partner of a subnet: it must be one, and the one that map.zones says."""
    mapping = replace(GROUP.map, subnets={"subnet-1": "b1", "subnet-2": "b2"})
    group, stock = replace(GROUP, map=mapping), replace(STOCK, subnets={}, networks=False)
    assert wrong(stock, group) == []
    assert wrong(replace(stock, zones=frozenset({"b1"})), group)[-1] == ("map.subnets.subnet-2", "bad")
    crossed = replace(GROUP, map=replace(mapping, subnets={"subnet-1": "b2", "subnet-2": "b1"}))
    assert [place for place, _ in wrong(stock, crossed)] == ["map.subnets.subnet-1", "map.subnets.subnet-2"]
    assert ("map.subnets.subnet-1", "bad") in wrong(replace(stock, networks=True), group)


def test_a_key_pair_is_compared_by_the_fingerprint_of_its_public_half() -> None:
    """One side tells the public half, the other only the fingerprint that an imported key of it has."""
    told = KeyPair("AAAA", "xx", frozenset({"aa:aa", "bb:bb"}))
    for printed, said in (("bb:bb", []), ("cc:cc", [("map.keys.ops", "warning")]), ("of another form", [])):
        stock = replace(STOCK, keys={"ops-b": KeyPair("", printed)}, twins={"ops": told})
        assert wrong(stock) == said


def test_a_site_without_names_can_keep_no_zone() -> None:
    """The traffic's zone on a cloud that has no names service is an error that says so."""
    traffic = Traffic("shop.example.org", "Z1", "away")
    group = replace(GROUP, traffic=traffic)
    (found,) = (one for one in judge(group, "home", replace(STOCK, names=False)) if one.verdict == "bad")
    assert found.finding is not None
    assert "keeps no names" in found.finding.message
