"""What a scaling group would launch, on clouds that have no launch templates and no subnets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drpilot.domain.group import Map, ScalingGroup, StandbySize, Tier
from drpilot.domain.ports import Move
from drpilot.services.standbys import look_at_standbys
from tests.services.world import GROUP, Tiny

MEMBER = ScalingGroup("shop-app", "ami-home", "m5.large", 1, 4, 2, subnets=("subnet-1",))


class OldCloud:
    """A site that answers as an older cloud does: a launch configuration, zones, and one image."""

    name = "away"
    region = "euca"
    account = "000123456789"
    capabilities = frozenset({"ec2"})

    def __init__(self, size: str, images: tuple[str, ...]) -> None:
        self.size, self.images = size, images

    def call(self, service: str, operation: str, params: Any, *, token: str | None = None) -> Any:
        assert (service, operation) == ("autoscaling", "DescribeLaunchConfigurations")
        assert params == {"LaunchConfigurationNames": ["shop-app-3"]}
        return {"LaunchConfigurations": [{"ImageId": "emi-2", "InstanceType": self.size}]}

    def pages(self, service: str, operation: str, params: Any) -> Iterator[Any]:
        if operation == "DescribeAutoScalingGroups":
            group = {
                "AutoScalingGroupName": "shop-app",
                "MinSize": 0,
                "MaxSize": 4,
                "DesiredCapacity": 0,
                "LaunchConfigurationName": "shop-app-3",
                "AvailabilityZones": ["one"],
            }
            yield {"AutoScalingGroups": [group]}
        else:
            assert operation == "DescribeImages"
            yield {"Images": [{"ImageId": one, "State": "available"} for one in self.images]}


@pytest.mark.parametrize(
    ("size", "images", "said"),
    [
        ("m1.large", ("emi-2",), ""),
        ("m1.small", ("emi-2",), "scaling group shop-app would launch a m1.small, not a m1.large"),
        ("m1.large", (), "scaling group shop-app would launch image emi-2, which is not there"),
    ],
)
def test_a_launch_configuration_is_looked_at_like_a_template(
    tmp_path: Path, size: str, images: tuple[str, ...], said: str
) -> None:
    """Its type and image count; subnets that the map gives no partner are none to miss."""
    tier = Tier("app", scaling_group_name="shop-app", scaling_group=MEMBER, standby=StandbySize())
    tiny = Tiny(tmp_path, group=replace(GROUP, tiers=(tier,), map=Map(types={"m5.large": "m1.large"})))
    tiny.replicate()
    assert tiny.journal.group("shop").state == "protected"
    cloud = OldCloud(size, images)
    tiny.house.world = replace(tiny.house.world, site=lambda name: cloud)
    (seen,) = look_at_standbys(tiny.house, tiny.journal.group("shop"))
    assert (seen.subject, seen.verdict) == ("app", "bad" if said else "ok")
    assert said in seen.observed
    split = Move("group", "shop", "split seen")
    tiny.journal.change("shop", [split], "tester")
    assert list(look_at_standbys(tiny.house, tiny.journal.group("shop"))) == []
