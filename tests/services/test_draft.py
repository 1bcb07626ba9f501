"""`group new` in the lab: what it finds, what it says of what it did not see, and that its draft is a group at work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.cli import protecting
from drpilot.domain.ports import CloudError
from drpilot.inventory.groupfile import read
from drpilot.services.protect import draft, preview
from tests.actions.world import opened
from tests.cli.desk import Desk, Said
from tests.services.shop import Shop

MODES = ("replicate", "drill", "failover", "switchover", "reprotect")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The shop at home, protected by nobody."""
    folder = tmp_path_factory.mktemp("draft")
    with opened(folder) as world:
        world.save()
        yield Shop(world, folder)


@pytest.fixture
def shop(whole: Shop) -> Iterator[Shop]:
    """The same shop, put back as it was afterwards."""
    yield whole
    whole.world.restore()
    for cloud in whole.world.clouds.values():
        cloud.tune(denied=[])


def new(shop: Shop, **given: Any) -> Said:
    """`drpilot group new fresh --from home --to away`."""
    return Desk(shop.house)(
        protecting.group_new, **{"name": "fresh", "source": "home", "target": "away", **given}
    )


def at_work(shop: Shop, text: str) -> list[str]:
    """The names of the tiers of a draft that `protect` takes and every runbook compiles for."""
    plan = preview(shop.house, text, "fresh.yaml")
    assert plan.errors == ()
    shop.world.last = {"home": plan.group, "away": replace(plan.group)}
    for mode in MODES:
        assert shop.world.begin(mode, "home", "away").plan.steps
    return [tier.name for tier in plan.group.tiers]


@pytest.mark.parametrize("tag", ["app=shop", None])
def test_a_draft_is_a_group_at_work(shop: Shop, tag: str | None) -> None:
    """With a tag and without one everything that runs is found, counted, and drafted so that it compiles as it is."""
    said = new(shop, tag=tag)
    assert said.code == 0
    assert said.err.splitlines()[0] == (
        "found 2 instances, 4 volumes (4 GiB), 2 scaling groups (2 machines), 1 load balancer, "
        '3 security groups in 3 tiers (tag "tier")'
    )
    assert at_work(shop, said.out) == ["db", "app", "web"]
    assert "# in no tier, because they have no tag `tier`: shop-batch" in said.out
    document = new(shop, tag=tag, output="json").document
    assert document["group_file"] == said.out
    assert document["found"]["scaling_groups"] == 2
    assert document["untold"] == {}


@pytest.mark.parametrize("tag", ["app=shop", None])
def test_without_tiers_all_is_one(shop: Shop, tag: str | None) -> None:
    """Where nothing has a tag `tier` one tier holds the machines, by tag or by ids, marked as a guess."""
    machines = [shop.world.built["database"]["instance"], shop.world.built["batch"]]
    shop.call("home", "DeleteTags", Resources=machines, Tags=[{"Key": "tier"}])
    for name in ("shop-app", "shop-web"):
        one = {"ResourceId": name, "ResourceType": "auto-scaling-group", "Key": "tier"}
        shop.call("home", "DeleteTags", "autoscaling", Tags=[one])
    arn = shop.call("home", "DescribeLoadBalancers", "elbv2")["LoadBalancers"][0]["LoadBalancerArn"]
    shop.call("home", "RemoveTags", "elbv2", ResourceArns=[arn], TagKeys=["tier"])
    said = new(shop, tag=tag)
    assert 'with no tag "tier": one tier' in said.err
    names = at_work(shop, said.out)
    assert names == ["all", "all-1", "all-2"]
    (line,) = [line for line in said.out.splitlines() if line.strip().startswith("instances:")]
    assert "# ?" in line
    assert all(one in line for one in machines) if tag is None else "{tag: app=shop}" in line


@pytest.mark.parametrize(
    ("given", "code", "word", "said"),
    [
        ({"tag": "app=nobody"}, 6, "no-members", "no instance or scaling group with tag app=nobody"),
        ({"source": "away", "target": "home"}, 6, "no-members", "no instance or scaling group at all"),
        ({"tag": "bad"}, 2, "usage", "'bad' is no tag; write KEY=VALUE"),
        ({"tag": "drpilot:group=x"}, 2, "usage", "drpilot's own"),
        ({"target": "home"}, 2, "usage", "--from and --to are both home"),
        ({"name": "No Name"}, 2, "usage", "'No Name' is no name of a group"),
    ],
)
def test_nothing_is_drafted_from_nothing(
    shop: Shop, given: dict[str, str], code: int, word: str, said: str
) -> None:
    """Nothing found, or a question that can't be meant, is an error and no empty file."""
    told = new(shop, output="json", **given)
    error = told.document["error"]
    assert (told.code, error["word"]) == (code, word)
    assert said in error["message"] + error.get("why", "")
    assert error["hint"]
    assert new(shop, **given).out == ""


@pytest.mark.parametrize("site", ["home", "away"])
def test_a_silent_site_gives_no_draft(shop: Shop, site: str) -> None:
    """Neither side may be silent: what is not seen would look as if it were not there."""
    shop.world.fault(site, "refuse")
    with pytest.raises(CloudError):
        draft(shop.house, "fresh", "home", "away", None)


def test_a_denied_list_is_said_twice(shop: Shop) -> None:
    """On stderr and in the draft; the key pairs it would have guessed are left open, with their line."""
    shop.world.clouds["away"].tune(denied=["ec2.DescribeKeyPairs"])
    said = new(shop)
    assert said.code == 0
    assert "not listed: away ec2:DescribeKeyPairs (UnauthorizedOperation" in said.err
    assert "# ? away would not list ec2:DescribeKeyPairs" in said.out
    findings = read(said.out, "fresh.yaml", ("home", "away")).findings
    assert [one.message for one in findings] == [
        "map.keys.shop-ops: has no partner yet; name what it becomes on the other site"
    ]
    assert new(shop, output="json").document["untold"].keys() == {"away ec2:DescribeKeyPairs"}


def test_denied_machines_are_an_error(shop: Shop) -> None:
    """The machines themselves must be readable."""
    shop.world.clouds["home"].tune(denied=["ec2.DescribeInstances"])
    with pytest.raises((CloudError, DrpilotError), match="UnauthorizedOperation"):
        draft(shop.house, "fresh", "home", "away", None)
