"""What a drill or a standby left behind: each kind is found where it lies, and forgotten when it is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drpilot.cli import look as looking
from drpilot.services.check import check
from drpilot.services.orphans import orphans
from drpilot.services.protect import protect
from tests.actions.world import opened
from tests.cli.desk import Desk
from tests.services.shop import Shop

LEFT = {"drpilot:group": "shop", "drpilot:run": "long-gone", "drpilot:drill": "shop/9"}
TAGS = [{"Key": key, "Value": value} for key, value in LEFT.items()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The shop at home; nothing of it is on the other side."""
    folder = tmp_path_factory.mktemp("orphans")
    with opened(folder) as world:
        world.save()
        yield Shop(world, folder)


@pytest.fixture
def shop(whole: Shop) -> Iterator[Shop]:
    """The same shop, put back as it was afterwards."""
    yield whole
    whole.world.restore()


def _marked(kind: str) -> dict[str, Any]:
    return {"TagSpecifications": [{"ResourceType": kind, "Tags": TAGS}]}


def _subnets(shop: Shop) -> list[Any]:
    found: list[Any] = shop.call("away", "DescribeSubnets")["Subnets"]
    return found


def _vpc(shop: Shop) -> str:
    return str(shop.call("away", "CreateVpc", CidrBlock="10.77.0.0/16", **_marked("vpc"))["Vpc"]["VpcId"])


def _subnet(shop: Shop) -> str:
    vpc = shop.call("away", "CreateVpc", CidrBlock="10.78.0.0/16")["Vpc"]["VpcId"]
    made = shop.call("away", "CreateSubnet", VpcId=vpc, CidrBlock="10.78.1.0/24", **_marked("subnet"))
    return str(made["Subnet"]["SubnetId"])


def _security_group(shop: Shop) -> str:
    given = {"GroupName": "drpilot-drill", "Description": "left", "VpcId": _subnets(shop)[0]["VpcId"]}
    return str(shop.call("away", "CreateSecurityGroup", **given, **_marked("security-group"))["GroupId"])


def _interface(shop: Shop) -> str:
    given = {"SubnetId": _subnets(shop)[0]["SubnetId"], **_marked("network-interface")}
    return str(shop.call("away", "CreateNetworkInterface", **given)["NetworkInterface"]["NetworkInterfaceId"])


def _scaling_group(shop: Shop) -> str:
    data = {"ImageId": "ami-00000000000000000", "InstanceType": "t3.small"}
    shop.call("away", "CreateLaunchTemplate", LaunchTemplateName="left", LaunchTemplateData=data)
    owner = {"ResourceId": "left", "ResourceType": "auto-scaling-group", "PropagateAtLaunch": False}
    shop.call(
        "away",
        "CreateAutoScalingGroup",
        "autoscaling",
        AutoScalingGroupName="left",
        LaunchTemplate={"LaunchTemplateName": "left"},
        MinSize=0,
        MaxSize=1,
        DesiredCapacity=0,
        VPCZoneIdentifier=_subnets(shop)[0]["SubnetId"],
        Tags=[{**owner, **tag} for tag in TAGS],
    )
    return "left"


def _load_balancer(shop: Shop) -> str:
    ids = [one["SubnetId"] for one in _subnets(shop)[:2]]
    shop.call("away", "CreateLoadBalancer", "elbv2", Name="left-lb", Subnets=ids, Tags=TAGS)
    return "left-lb"


def _target_group(shop: Shop) -> str:
    given = {"Name": "left-tg", "Protocol": "HTTP", "Port": 80, "VpcId": _subnets(shop)[0]["VpcId"]}
    shop.call("away", "CreateTargetGroup", "elbv2", **given, TargetType="instance", Tags=TAGS)
    return "left-tg"


@pytest.mark.parametrize(
    ("kind", "leave"),
    [
        ("VPC", _vpc),
        ("subnet", _subnet),
        ("security group", _security_group),
        ("network interface", _interface),
        ("scaling group", _scaling_group),
        ("load balancer", _load_balancer),
        ("target group", _target_group),
    ],
)
def test_what_was_left_behind_is_found(shop: Shop, kind: str, leave: Callable[[Shop], str]) -> None:
    """By the group's tag, whatever it is; what has no tag of ours, or another group's, is none of our business."""
    protect(shop.house, shop.world.text, "shop.yaml")
    view = shop.house.journal.group("shop")
    assert orphans(shop.house, view, "away") == (0, ())
    left = leave(shop)
    counted, found = orphans(shop.house, view, "away")
    assert (counted, [(one.kind, one.id) for one in found]) == (1, [(kind, left)])
    assert dict(found[0].tags).items() >= LEFT.items()
    report = check(shop.house, "shop")
    assert [one.finding.message for one in report.findings if one.finding and one.word == "orphan"] == [
        f"{kind} {left} on away carries our tags but nothing owns it"
    ]


def test_what_a_member_or_a_fence_has_is_no_orphan(shop: Shop) -> None:
    """A load balancer and a scaling group of the group's own, and the deny-all group that waits for the night."""
    protect(shop.house, shop.world.text, "shop.yaml")
    view = shop.house.journal.group("shop")
    tag = {"Key": "drpilot:group", "Value": "shop"}
    listed = shop.call("home", "DescribeLoadBalancers", "elbv2")["LoadBalancers"]
    targets = shop.call("home", "DescribeTargetGroups", "elbv2")["TargetGroups"]
    arns = [listed[0]["LoadBalancerArn"], targets[0]["TargetGroupArn"]]
    shop.call("home", "AddTags", "elbv2", ResourceArns=arns, Tags=[tag])
    owner = {"ResourceId": "shop-web", "ResourceType": "auto-scaling-group", "PropagateAtLaunch": False}
    shop.call("home", "CreateOrUpdateTags", "autoscaling", Tags=[{**owner, **tag}])
    given = {"GroupName": "drpilot-deny", "Description": "fence", "VpcId": shop.world.built["vpc"]}
    fence = [tag, {"Key": "drpilot:fence", "Value": "deny"}]
    tagged = [{"ResourceType": "security-group", "Tags": fence}]
    shop.call("home", "CreateSecurityGroup", **given, TagSpecifications=tagged)
    assert orphans(shop.house, view, "home") == (3, ())


def test_without_a_group_every_site_is_still_looked_at(shop: Shop, tmp_path: Path) -> None:
    """No group is left, or none was ever there: the configured sites are looked at, and a silent one is found."""
    alone = Shop(shop.world, tmp_path)
    report = check(alone.house)
    assert {one.scope for one in report.checks if one.name == "reachable"} == {"home", "away", "edge"}
    assert Desk(alone.house)(looking.check, group=None).code == 0
    shop.world.fault("away", "refuse")
    assert [(one.word, one.scope) for one in check(alone.house).findings] == [("site-silent", "away")]
    assert Desk(alone.house)(looking.check, group=None).code == 3
