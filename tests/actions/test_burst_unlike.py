"""A burst onto another kind of cloud, in both directions: by configurations and classic balancers, or by AWS's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.actions.test_burst import NAME, burst_section, records
from tests.actions.test_unlike_tiers import _carried_out
from tests.actions.unlike import POINT, UnlikeWorld, opened

pytestmark = pytest.mark.slow
# Not 3.4: the machines of a lab cloud without networks reach no other cloud, so its web tier could not reach its data.
PAIRS = (("euca-aws", "4.4"), ("aws-euca", "4.4"), ("aws-euca", "5"))


def reach_home(unlike: UnlikeWorld, folder: Path) -> Path:
    """Let the other side's machines reach the application at home; what tells them where it is; a TTL of a second."""
    home, edge = unlike.world.sites["home"], unlike.world.sites["edge"]
    groups = home.call("ec2", "DescribeSecurityGroups", {})["SecurityGroups"]
    app = next(item["GroupId"] for item in groups if item["GroupName"] == "shop-app")
    block = {"CidrIp": unlike.plan.away_network}
    rule: dict[str, Any] = {"IpProtocol": "tcp", "FromPort": 8080, "ToPort": 8080, "IpRanges": [block]}
    home.call("ec2", "AuthorizeSecurityGroupIngress", {"GroupId": app, "IpPermissions": [rule]})
    machines = home.call("ec2", "DescribeInstances", {})["Reservations"]
    found = [item for each in machines for item in each["Instances"] if item["State"]["Name"] == "running"]
    address = next(
        item["PrivateIpAddress"] for item in found if {"Key": "tier", "Value": "app"} in item["Tags"]
    )
    zone = unlike.world.built["hosted_zone"]
    listed = edge.call("route53", "ListResourceRecordSets", {"HostedZoneId": zone})["ResourceRecordSets"]
    record = next(item for item in listed if item["Name"] == "shop.example.org.")
    change = {"Action": "UPSERT", "ResourceRecordSet": {**record, "TTL": 1}}
    edge.call(
        "route53", "ChangeResourceRecordSets", {"HostedZoneId": zone, "ChangeBatch": {"Changes": [change]}}
    )
    path = folder / "first-boot.sh"
    path.write_text(f"#!/bin/sh\nupstream={address}\n")
    return path


@pytest.fixture(scope="module", params=PAIRS, ids=" ".join)
def unlike(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnlikeWorld]:
    """A pair of clouds with a point and its standbys, and a group that may burst."""
    folder = tmp_path_factory.mktemp("burst")
    with opened(folder, *request.param) as made:
        made.point()
        made.world.text += burst_section(reach_home(made, folder), desired="1")
        made.world.look("home")
        _carried_out(made.run(), "standbys")
        made.world.facts.group = "protected"
        yield made


def standing(unlike: UnlikeWorld) -> dict[str, Any]:
    """What stands on every site by kind and id, machines that came and went left out."""
    passing = ("instance", "volume", "network-interface")
    world = unlike.world
    return {site: {one for one in world.things(site) if one[0] not in passing} for site in world.clouds}


def launched(unlike: UnlikeWorld) -> str:
    """The image that the extra group launches, by whatever the cloud has for it."""
    away = unlike.world.sites["away"]
    if unlike.plan.away == "aws":
        asked = {"LaunchTemplateName": NAME, "Versions": ["1"]}
        found = away.call("ec2", "DescribeLaunchTemplateVersions", asked)["LaunchTemplateVersions"]
        return str(found[0]["LaunchTemplateData"]["ImageId"])
    asked = {"LaunchConfigurationNames": [NAME]}
    return str(
        away.call("autoscaling", "DescribeLaunchConfigurations", asked)["LaunchConfigurations"][0]["ImageId"]
    )


def test_a_burst_onto_another_kind_of_cloud(unlike: UnlikeWorld) -> None:
    """One machine more, healthy before a quarter of the users is sent there; afterwards all is as it was."""
    world, before = unlike.world, standing(unlike)
    run = world.begin("burst", "home", "away", POINT).all()
    assert records(world) == [("drpilot-burst", 25), ("drpilot-home", 75)]
    assert run.results["healthy"]["output"]["passed"] == 3
    assert launched(unlike) == world.facts.recovery_point(POINT).replica("shop-web", "image").id
    world.begin("unburst", "home", "away").all()
    assert records(world) == [("", None)]
    assert standing(unlike) == before
    assert world.facts.burst["state"] == "none"
    assert world.strayed == set()
