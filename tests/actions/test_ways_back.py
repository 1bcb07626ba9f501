"""What is less usual: a planned move taken back, the glass broken, an alias as name, a drill that somebody left."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from drpilot.base.clock import rfc3339
from drpilot.runbook.compile import CompileFacts
from tests.actions.world import CLOCK, Failed, Run, StepContext, World


def _states(world: World, site: str) -> dict[str, str]:
    pages = world.sites[site].pages("ec2", "DescribeInstances", {})
    found = [item for page in pages for group in page["Reservations"] for item in group["Instances"]]
    return {
        item["InstanceId"]: item["State"]["Name"] for item in found if item["State"]["Name"] != "terminated"
    }


@pytest.mark.row(56)
def test_a_switchover_taken_back_starts_the_writers_again(world: World) -> None:
    """Stopped, copied, fenced, promoted, then undone: every machine of the source runs as before."""
    database = world.built["database"]["instance"]
    run = world.begin("switchover", "home", "away").all(until="tiers/db/healthy")
    assert _states(world, "home")[database] == "stopped"
    run.back()
    assert _states(world, "home")[database] == "running"
    groups = world.sites["home"].call("autoscaling", "DescribeAutoScalingGroups", {})["AutoScalingGroups"]
    wanted = {
        tier.scaling_group_name: tier.scaling_group
        for tier in world.group("home").tiers
        if tier.scaling_group
    }
    for group in groups:
        before = wanted[group["AutoScalingGroupName"]]
        assert before is not None
        assert (group["DesiredCapacity"], group["MinSize"]) == (before.desired, before.minimum)
        assert len(group["Instances"]) == before.desired
    assert {row["state"] for row in world.facts.standbys.values()} == {"ready"}


def test_a_switchover_taken_back_before_its_point_is_complete_leaves_no_open_point(world: World) -> None:
    """The last point was only asked for: it has failed, so that nobody ever waits for it."""
    run = world.begin("switchover", "home", "away").all(until="captured")
    run.back()
    assert world.facts.recovery_point(run.plan.point).state == "failed"


@pytest.mark.row(90)
def test_the_glass_can_be_broken_and_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a reason in the proposal a move goes on without the witness, with a warning that names it."""
    world.fault("edge", "refuse")
    plain = Run.context

    def broken(self: Run, *args: Any, **more: Any) -> StepContext:
        found = plain(self, *args, **more)
        found.proposal = SimpleNamespace(break_glass="the third place burns")  # type: ignore[assignment]
        return found

    monkeypatch.setattr(Run, "context", broken)
    run = world.begin("failover", "home", "away", "point1")
    run.step(run.plan.step("claim"))
    assert run.results["claim"]["output"] == {"epoch": 2, "active": "away", "overridden": True}
    assert "the third place burns" in run.warnings["claim"]
    assert world.facts.group == "failing_over"


@pytest.mark.row(36)
def test_a_name_that_is_an_alias_stays_one(world: World) -> None:
    """Where the record is an alias to a load balancer, it becomes an alias to the other one, and back."""
    edge, zone = world.sites["edge"], world.built["hosted_zone"]

    def record() -> dict[str, Any]:
        found = edge.call("route53", "ListResourceRecordSets", {"HostedZoneId": zone})["ResourceRecordSets"]
        (only,) = [
            item for item in found if item["Name"] == "shop.example.org." and item["Type"] in ("A", "CNAME")
        ]
        return dict(only)

    home = world.sites["home"].call("elbv2", "DescribeLoadBalancers", {"Names": ["shop-lb"]})[
        "LoadBalancers"
    ][0]
    target = {
        "DNSName": home["DNSName"],
        "HostedZoneId": home["CanonicalHostedZoneId"],
        "EvaluateTargetHealth": False,
    }
    alias = {"Name": "shop.example.org.", "Type": "A", "AliasTarget": target}
    changes = [
        {"Action": "DELETE", "ResourceRecordSet": record()},
        {"Action": "CREATE", "ResourceRecordSet": alias},
    ]
    edge.call(
        "route53", "ChangeResourceRecordSets", {"HostedZoneId": zone, "ChangeBatch": {"Changes": changes}}
    )
    run = world.begin("failover", "home", "away", "point1").all(until="answered")
    assert ".away." in record()["AliasTarget"]["DNSName"]
    path, call = run.undo[-1]
    assert (path, call.action) == ("traffic", "traffic.restore")
    assert call.given["record"]["AliasTarget"]["DNSName"].rstrip(".") == home["DNSName"]
    run.attempt(call.action, call.given, run.context(path, call.given, kind="undo"))
    assert record()["AliasTarget"]["DNSName"].rstrip(".") == home["DNSName"]


@pytest.mark.row(74)
def test_what_a_left_drill_made_goes_when_it_expires(world: World) -> None:
    """Nobody cleaned up: nothing goes before its time, everything does after it."""
    before = world.things("away")
    world.begin("drill", "home", "away", "point1").all(until="tiers/db/launch")
    left = world.things("away") - before
    assert {kind for kind, _ in left} >= {"instance", "vpc", "subnet", "security-group", "volume"}
    facts = CompileFacts(world.group("home"), "cleanup", "practice", "home", "away", name="shop/9")
    world.carry("cleanup", facts).all()
    assert world.things("away") - before == left, "two hours are not over"
    past = [{"Key": "drpilot:expires", "Value": rfc3339(CLOCK.now() - timedelta(seconds=1))}]
    kept = ("instance", "volume", "vpc", "subnet", "security-group")
    ids = [id_ for kind, id_ in left if kind in kept and not id_.startswith("rtb-")]
    tagged = world.sites["away"].call(
        "ec2", "DescribeTags", {"Filters": [{"Name": "key", "Values": ["drpilot:expires"]}]}
    )["Tags"]
    ids = [item["ResourceId"] for item in tagged if item["ResourceId"] in ids]
    world.sites["away"].call("ec2", "CreateTags", {"Resources": ids, "Tags": past})
    world.carry("cleanup", facts).all()
    assert world.things("away") == before


def test_an_inventory_that_is_not_empty_is_a_failure_with_a_list(world: World) -> None:
    """What the clean-up could not remove is named, for the person who gets the list."""
    run = world.begin("drill", "home", "away", "point1").all(until="subnet")
    made = run.results["subnet"]["output"]["id"]
    with pytest.raises(Failed, match=made):
        run.attempt("cleanup.verify", {}, run.context("clean/nothing_left", {}))
