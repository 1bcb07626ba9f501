"""A burst from AWS onto Eucalyptus: a launch configuration and a classic load balancer instead of what AWS has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.actions.test_burst import NAME, burst_section, reach_home, records
from tests.actions.world import World, opened


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The shop on AWS, one point and the standbys on Eucalyptus."""
    folder = tmp_path_factory.mktemp("burst")
    with opened(folder, "aws", "eucalyptus-4.4", data_volumes=1, ttl_s=1) as made:
        made.text += burst_section(reach_home(made, folder), desired="1")
        made.look("home")
        made.begin("replicate", "home", "away").all()
        made.save()
        yield made


def behind(world: World) -> list[str]:
    """The machines behind the classic load balancer, as it sees them."""
    asked = {"LoadBalancerName": "shop-lb"}
    return [
        item["State"]
        for item in world.sites["away"].call("elb", "DescribeInstanceHealth", asked)["InstanceStates"]
    ]


def standing(world: World) -> dict[str, Any]:
    """What stands on Eucalyptus by kind and id, machines that came and went left out."""
    passing = ("instance", "volume", "network-interface")
    return {site: {one for one in world.things(site) if one[0] not in passing} for site in world.clouds}


@pytest.mark.slow
def test_a_burst_onto_another_kind_of_cloud(world: World) -> None:
    """One machine more behind the classic balancer, from a launch configuration of its own; then all is as it was."""
    before, away = standing(world), world.sites["away"]
    world.begin("burst", "home", "away", "point1").all()
    assert records(world) == [("drpilot-burst", 25), ("drpilot-home", 75)]
    assert behind(world) == ["InService"]
    pages = away.pages("autoscaling", "DescribeLaunchConfigurations", {"LaunchConfigurationNames": [NAME]})
    (made,) = [one for page in pages for one in page["LaunchConfigurations"]]
    assert made["ImageId"] == world.facts.recovery_point("point1").replica("shop-web", "image").id
    world.begin("unburst", "home", "away").all()
    assert (records(world), behind(world)) == ([("", None)], [])
    assert standing(world) == before
    assert world.facts.burst["state"] == "none"
    assert world.strayed == set()
