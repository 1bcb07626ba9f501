"""A group between two kinds of cloud, as a person takes it in and looks after it: draft, preview, check, orphans."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from drpilot.services.orphans import orphans
from drpilot.services.protect import draft, preview, protect
from tests.actions.unlike import UnlikeWorld, opened
from tests.services.shop import Shop

_PAIRS = (("aws-euca", "3.4"), ("euca-aws", "3.4"))
_SLOW = tuple(
    pytest.param((pair, version), marks=pytest.mark.slow)
    for pair in ("aws-euca", "euca-aws")
    for version in ("4.4", "5")
)


@pytest.fixture(scope="module", params=(*_PAIRS, *_SLOW), ids=" ".join)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A pair of clouds with the shop at home, and a house over it; nothing was replicated."""
    folder = tmp_path_factory.mktemp("unlike")
    with opened(folder, *request.param) as unlike:
        house = Shop(unlike.world, folder)
        unlike.world.save()
        yield unlike, house


@pytest.fixture
def shop(whole: tuple[UnlikeWorld, Shop]) -> Iterator[tuple[UnlikeWorld, Shop]]:
    """The same, put back as it was afterwards."""
    yield whole
    whole[0].world.restore()


def test_a_draft_finds_every_tier(shop: tuple[UnlikeWorld, Shop]) -> None:
    """Both scaling groups, the balancer of its tier and the database; places by zone where there are no subnets."""
    unlike, house = shop
    drafted = draft(house.house, "fresh", "home", "away", "app=shop")
    told = yaml.safe_load(drafted.text)
    assert sorted(told["tiers"]) == ["app", "db", "web"]
    assert told["tiers"]["web"]["load_balancer"] == "shop-lb"
    assert told["tiers"]["web"]["check"]["http"].endswith(":8080/healthz")
    places = told["map"].get("subnets", {})
    if unlike.plan.away == "eucalyptus-3.4":
        assert places == {}
        assert sorted(told["map"]["zones"].values()) == ["cluster01", "cluster02"]
    elif unlike.plan.home == "eucalyptus-3.4":
        assert sorted(places) == ["cluster01", "cluster02"]
    else:
        assert len(places) == 2
    if unlike.plan.away != "aws":  # its kind of cloud can't tell what it offers: a person has to
        assert told["tiers"]["db"]["standby"] == {"size": "m1.small", "grow": ""}
    kinds = (unlike.plan.home, unlike.plan.away)
    if "eucalyptus-5" not in kinds:  # of the private clouds it alone keeps names
        keeper = "home" if unlike.plan.home == "aws" else "away"
        assert f"SITE keeps the name: {keeper} does" in drafted.text


def test_nothing_stands_between_the_file_and_the_other_cloud(shop: tuple[UnlikeWorld, Shop]) -> None:
    """The lab's group file has no error, and what is lost is said at its tier."""
    unlike, house = shop
    plan = preview(house.house, unlike.world.text, "shop.yaml")
    assert plan.errors == ()
    told = [one.message for one in plan.findings]
    if unlike.plan.away != "aws":
        assert any("metadata options of shop-db can't be carried to away" in text for text in told)
        assert any("no elastic address can be kept ahead on away" in text for text in told)
        return
    lost = [one.message for one in plan.findings if one.word == "carried-with-loss"]
    bare = "load balancer shop-lb has no security groups; on away it gets those of its tier's machines"
    assert lost == ([bare] if unlike.plan.home == "eucalyptus-3.4" else [])


def test_check_has_no_finding_that_nobody_can_mend(shop: tuple[UnlikeWorld, Shop]) -> None:
    """Every look has an answer; what is lost for good was decided when the group was taken in."""
    unlike, house = shop
    protect(house.house, unlike.world.text, "shop.yaml")
    report = house.look()
    known = {check.name for check in report.checks if check.verdict == "ok"}
    assert {"partners", "traffic", "drift", "orphans", "witness"} <= known
    words = {check.word for check in report.findings}
    assert words <= {"unprotected-resource", "never-drilled"}
    compared = [check for check in report.checks if "security group" in check.expected]
    assert [(check.verdict, check.observed) for check in compared] == [("ok", "3 of 3")]


def test_a_rule_that_one_side_lacks_is_found(shop: tuple[UnlikeWorld, Shop]) -> None:
    """The web tier's group on the other cloud loses its rule: `check` says which, and where it is."""
    unlike, house = shop
    protect(house.house, unlike.world.text, "shop.yaml")
    ec2 = unlike.doors["away"]("ec2")
    groups = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["shop-web"]}])
    rule = {"IpProtocol": "tcp", "FromPort": 8080, "ToPort": 8080, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    ec2.revoke_security_group_ingress(GroupId=groups["SecurityGroups"][0]["GroupId"], IpPermissions=[rule])
    assert house.found()["partner-differs"] == [
        "security group shop-web on away does not let in tcp 8080 from 0.0.0.0/0"
    ]


def test_another_key_of_the_same_name_is_found(shop: tuple[UnlikeWorld, Shop]) -> None:
    """One side tells the public half, the other a fingerprint: that they are two keys is seen all the same."""
    unlike, house = shop
    protect(house.house, unlike.world.text, "shop.yaml")
    ec2 = unlike.doors["away"]("ec2")
    ec2.delete_key_pair(KeyName="shop-ops")
    ec2.import_key_pair(KeyName="shop-ops", PublicKeyMaterial=unlike.other_key())
    (text,) = house.found()["partner-differs"]
    assert text.startswith("key pair shop-ops on away ")


def test_what_was_left_behind_is_found_there(shop: tuple[UnlikeWorld, Shop]) -> None:
    """A launch configuration of ours that no standby accounts for is an orphan, by its name."""
    unlike, house = shop
    view, _ = protect(house.house, unlike.world.text, "shop.yaml")
    side = "away" if unlike.plan.away != "aws" else "home"
    assert orphans(house.house, view, side) == (0, ())
    image = unlike.doors[side]("ec2").describe_images(Owners=["self"])["Images"][0]["ImageId"]
    name = "drpilot.shop.shop-app.0123456789ab"
    unlike.doors[side]("autoscaling").create_launch_configuration(
        LaunchConfigurationName=name, ImageId=image, InstanceType="m1.small"
    )
    counted, left = orphans(house.house, view, side)
    assert counted == 1
    assert [(one.kind, one.id) for one in left] == [("launch configuration", name)]
