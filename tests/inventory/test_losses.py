"""What is lost towards another kind of cloud: each property by the capability it needs, and nothing between equals."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from drpilot.clouds.dialects import DIALECTS
from drpilot.domain.group import (
    DrillPolicy,
    Group,
    Instance,
    LoadBalancer,
    Objectives,
    ScalingGroup,
    Tier,
    Volume,
)
from drpilot.inventory.losses import losses

AWS = DIALECTS["aws"].capabilities
E34, E44, E5 = (DIALECTS[f"eucalyptus-{version}"].capabilities for version in ("3.4", "4.4", "5"))
DATA = tuple(Volume(f"db/dev/sd{one}", f"vol-{one}", f"/dev/sd{one}", 8, "gp3", iops=3000) for one in "fg")
DATABASE = Instance(
    "db", "i-1", "m5.large", "a1", "subnet-1", "ami-1", "running", private_address="10.0.0.4", volumes=DATA
)
FRONT = LoadBalancer(
    "lb", "arn", "lb.example.org", "internet-facing", "application", ("subnet-1",), ("web",), 80, "HTTP", "tg",
    8080, "HTTP", "/healthz", {"HealthCheckProtocol": "HTTP", "Matcher": {"HttpCode": "200"}},
)  # fmt: skip
WEB = ScalingGroup("web", "ami-1", "t3.small", 1, 2, 1, subnets=("subnet-1",), target_groups=("tg",))


def group(*, database: Any = None, front: Any = None, web: Any = None) -> Group:
    """A group of two tiers, with parts exchanged."""
    instance = replace(DATABASE, **(database or {}))
    balancer = replace(FRONT, **(front or {}))
    tiers = (
        Tier("db", instances=(instance,)),
        Tier("web", scaling_group=replace(WEB, **(web or {})), load_balancer=balancer),
    )
    accepted = DrillPolicy(outbound_open=True)
    return Group(
        "shop", "home", "away", Objectives(900, 1800), tiers, fence=("scale", "stop"), drill=accepted
    )


def said(
    given: Group, here: Collection[str] = AWS, there: Collection[str] = AWS
) -> list[tuple[str, str, str]]:
    """Place, severity and the sentence of each loss."""
    return [(one.where, one.severity, one.message) for one in losses(given, here, there, "away")]


def test_nothing_is_lost_between_two_of_a_kind() -> None:
    """Neither between two AWS sites nor between two Eucalyptus sites, whatever the members have."""
    demanding = {
        "metadata_options": {"HttpTokens": "required"},
        "profile": "r",
        "elastic_address": "192.0.2.1",
    }
    assert said(group(database={**demanding, "termination_protection": True})) == []
    assert said(group(), E44, E44) == [
        ("tiers.db", "warning", "the volumes of db can't be captured at one instant where they are")
    ]


@pytest.mark.parametrize(
    ("database", "there", "words"),
    [
        ({"metadata_options": {"HttpTokens": "required"}}, E5, "metadata options of db"),
        ({"termination_protection": True}, E34, "termination protection of db"),
        ({"elastic_address": "192.0.2.1"}, E44, "no elastic address can be kept ahead"),
        ({"volumes": (replace(DATA[0], iops=9000),)}, E44, "up to 9000 IOPS"),
        ({"volumes": (replace(DATA[0], type="io2", iops=100),)}, E44, "volume types io2"),
        ({"volumes": (replace(DATA[0], encrypted=True),)}, E5, "volumes of db are encrypted"),
        ({}, E34, "the private address of db can't be kept"),
    ],
)
def test_each_property_by_the_capability_it_needs(
    database: dict[str, Any], there: Collection[str], words: str
) -> None:
    """What the other kind of cloud has no parameter for informs, at its tier, once."""
    found = [one for one in said(group(database=database), AWS, there) if words in one[2]]
    assert [(where, severity) for where, severity, _ in found] == [("tiers.db", "info")]


def test_what_a_cloud_without_them_says_anyway_is_no_loss() -> None:
    """Default metadata options, baseline volumes, and an instance profile where there is IAM."""
    plain = {"metadata_options": {"HttpTokens": "optional", "HttpEndpoint": "enabled"}, "profile": "role"}
    assert said(group(database=plain), AWS, E44) == []
    lost = said(group(database=plain), AWS, E44 - {"iam"})
    assert [text for _, _, text in lost] == [
        "the instance profile of db can't be carried to away: it has no IAM"
    ]


@pytest.mark.parametrize(
    ("front", "there", "severity", "words"),
    [
        ({"protocol": "UDP"}, E44, "error", "no such protocol"),
        ({"protocol": "HTTPS"}, E44, "warning", "needs a certificate"),
        ({"health": {"Matcher": {"HttpCode": "200-399"}}}, E44, "warning", "takes status 200-399"),
        ({"health": {"HealthyThresholdCount": 20}}, E44, "warning", "within the bounds"),
        ({"health": {"HealthCheckTimeoutSeconds": 120}}, E44, "warning", "within the bounds"),
        ({"scheme": "internal"}, E34, "info", "it is internal"),
        ({}, E44 - {"elb"}, "error", "it has none"),
    ],
)
def test_a_balancer_towards_a_classic_one(
    front: dict[str, Any], there: Collection[str], severity: str, words: str
) -> None:
    """What a classic balancer has no word for; what stops the standby from being built is an error."""
    found = [one for one in said(group(front=front), AWS, there) if one[0] == "tiers.web"]
    assert [one[1] for one in found] == [severity]
    assert words in found[0][2]


def test_a_classic_balancer_towards_the_second_generation() -> None:
    """A TCP check of a web service, and security groups that a cloud without networks never gave it."""
    classic = {"type": "classic", "target_group": "", "health": {"HealthCheckProtocol": "TCP"}}
    lost = said(group(front={**classic, "security_groups": ()}), E34, AWS)
    texts = [text for where, _, text in lost if where == "tiers.web"]
    assert [("security groups" in text, "TCP check" in text) for text in texts] == [
        (True, False),
        (False, True),
    ]


def test_a_cloud_without_networks_fences_and_drills_less() -> None:
    """The rung `deny` is none there; a drill that can't be closed is a warning until the group file accepts it."""
    given = replace(group(), fence=("stop", "deny"), drill=DrillPolicy())
    found = [
        (where, severity) for where, severity, _ in said(given, E34, E34) if not where.startswith("tiers")
    ]
    assert found == [("fence", "info"), ("drill", "warning")]


def test_a_finding_names_three_and_counts_the_rest() -> None:
    """Two hundred machines make one sentence."""
    many = tuple(replace(DATABASE, key=f"db-{number}", volumes=()) for number in range(200))
    given = replace(group(), tiers=(Tier("db", instances=many),))
    (found,) = said(given, AWS, E34)
    assert "db-0, db-1, db-2 and 197 more" in found[2]
