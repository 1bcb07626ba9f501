"""Replies that get lost, looks that lag: whatever the path does, the clouds end the same and nothing is made twice."""

from __future__ import annotations

from typing import Any

import pytest

from drpilot.actions.views import tags_of
from drpilot.lab import shop
from tests.actions.test_moves import data_on, database
from tests.actions.world import World

_MADE = (
    "CreateSnapshots",
    "CopySnapshot",
    "RegisterImage",
    "RunInstances",
    "CreateVolume",
    "AttachVolume",
    "DetachVolume",
    "StartInstances",
    "StopInstances",
    "ModifyInstanceAttribute",
    "CreateTags",
    "CreateVpc",
    "CreateSubnet",
    "CreateSecurityGroup",
    "AuthorizeSecurityGroupIngress",
    "AuthorizeSecurityGroupEgress",
    "RevokeSecurityGroupEgress",
    "TerminateInstances",
    "AllocateAddress",
    "AssociateAddress",
    "ReleaseAddress",
    "DeleteVolume",
    "DeleteSecurityGroup",
    "DeleteSubnet",
    "DeleteVpc",
    "UpdateAutoScalingGroup",
    "ResumeProcesses",
    "ChangeResourceRecordSets",
    "PutObject",
)
LOST = tuple(f"lost-reply:*.{operation}@1" for operation in _MADE)


@pytest.mark.row(53)
def test_the_first_reply_of_every_kind_is_lost_in_replication(world: World) -> None:
    """Each create call's effect happens and its answer is cut off: one of everything, and the point is complete."""
    before = {site: world.inventory(site) for site in ("home", "away")}
    for site in ("home", "away"):
        world.fault(site, *LOST)
    world.begin("replicate", "home", "away").all()
    assert world.hits("home") >= {"CreateSnapshots"}
    assert world.hits("away") >= {"CopySnapshot", "RegisterImage"}
    assert world.inventory("home") - before["home"] == {"snapshot": 3}
    assert world.inventory("away") - before["away"] == {"snapshot": 3, "image": 1}
    assert world.facts.recovery_point("point2").state == "available"


@pytest.mark.row(53)
def test_the_first_reply_of_every_kind_is_lost_in_a_failover(world: World) -> None:
    """The move ends as if nothing had happened: the same inventory as without a fault, the data read back."""
    world.fault("home", "refuse")
    world.begin("failover", "home", "away", "point1").all()
    wanted = world.inventory("away")
    world.restore()
    world.fault("home", "refuse")
    for site in ("away", "edge"):
        world.fault(site, *LOST)
    world.begin("failover", "home", "away", "point1").all()
    assert world.hits("away") >= {
        "CreateVolume",
        "DetachVolume",
        "AttachVolume",
        "StartInstances",
        "UpdateAutoScalingGroup",
    }
    assert world.hits("edge") == {"PutObject", "ChangeResourceRecordSets"}
    assert world.inventory("away") == wanted
    assert shop.verified(data_on(world, "away"), world.built["data"])
    assert world.facts.epoch == 2


@pytest.mark.row(53, 75)
def test_the_first_reply_of_every_kind_is_lost_in_a_drill(world: World) -> None:
    """Network objects have no token: they are found by their tags, and the clean-up leaves nothing."""
    before = world.things("away")
    world.fault("away", *LOST)
    world.begin("drill", "home", "away", "point1").all()
    assert world.hits("away") >= {
        "CreateVpc",
        "CreateSubnet",
        "CreateSecurityGroup",
        "RunInstances",
        "DeleteVpc",
    }
    assert world.things("away") == before


def test_looks_that_lag_make_nothing_twice(world: World) -> None:
    """With reads that see the past and fresh things that can't be found, a second point still has one of each."""
    before = world.inventory("away")
    for site in ("home", "away"):
        world.fault(site, "stale-read=2", "not-found-yet=2")
    world.begin("replicate", "home", "away").all()
    world.heal("away")
    assert world.inventory("away") - before == {"snapshot": 3, "image": 1}
    assert world.facts.recovery_point("point2").state == "available"


def test_a_standby_built_anew_with_lost_replies_is_one_standby(world: World) -> None:
    """Everything of the standby is removed first; built again over lost replies, each thing stands once."""
    wanted = world.inventory("away")
    from drpilot.runbook.compile import CompileFacts

    facts = CompileFacts(world.group("home"), "cleanup", "practice", "home", "away", name="shop/9")
    world.carry("retire", facts).all()
    world.facts.points.clear()
    world.facts.replicas.clear()
    world.facts.standbys.clear()
    rules = ("CopyImage", "CreateLaunchTemplate", "CreateLoadBalancer", "CreateTargetGroup", "CreateListener")
    more = ("CreateAutoScalingGroup", "ModifyImageAttribute", "ModifySnapshotAttribute")
    for site in ("home", "away"):
        world.fault(site, *LOST, *(f"lost-reply:*.{operation}@1" for operation in (*rules, *more)))
    world.fault("away", "not-found-yet=60:ec2.DescribeInstances")  # one token is what keeps it one machine
    world.begin("replicate", "home", "away").all()
    made = {"RunInstances", "StopInstances", "CreateAutoScalingGroup", "AllocateAddress", "AssociateAddress"}
    assert world.hits("away") >= {*rules, *made}
    assert world.inventory("away") == wanted


def _spoiled(world: World) -> dict[str, Any]:
    """The standby database with another size, another group and other tags than `standby.fit` gives it."""
    site = world.sites["away"]
    found = database(world, "away")
    network = {"GroupName": f"other-{len(world.calls)}", "Description": "other", "VpcId": found["VpcId"]}
    other = site.call("ec2", "CreateSecurityGroup", network)["GroupId"]
    key = {"InstanceId": found["InstanceId"]}
    site.call("ec2", "ModifyInstanceAttribute", {**key, "InstanceType": {"Value": "m5.large"}})
    site.call("ec2", "ModifyInstanceAttribute", {**key, "Groups": [other]})
    tags = {"drpilot:invalidated": "1", "drpilot:tier": "none"}
    given = [{"Key": name, "Value": value} for name, value in tags.items()]
    site.call("ec2", "CreateTags", {"Resources": [found["InstanceId"]], "Tags": given})
    return found


@pytest.mark.row(53)
@pytest.mark.parametrize(
    "lost", ["ModifyInstanceAttribute@1", "ModifyInstanceAttribute@2", "CreateTags@1", "DeleteTags@1"]
)
def test_a_standby_is_made_fit_whichever_reply_is_lost(world: World, lost: str) -> None:
    """Four calls; what the lost one and those after it do is done: size, groups, our tags, and no mark of history."""
    before = _spoiled(world)
    world.fault("away", f"lost-reply:ec2.{lost}")
    run = world.begin("reprotect", "home", "away")
    run.step(run.plan.step("standbys/db/fit"))
    after = database(world, "away")
    assert world.hits("away") == {lost.partition("@")[0]}
    for kept in ("InstanceId", "InstanceType", "SecurityGroups"):
        assert after[kept] == before[kept]
    assert tags_of(after) == tags_of(before)


@pytest.mark.row(53)
def test_every_member_is_marked_as_history_though_a_reply_is_lost(world: World) -> None:
    """The instance's mark loses its reply: the groups behind it are marked all the same, without a warning."""
    world.fault("home", "lost-reply:ec2.CreateTags@1")
    run = world.begin("failover", "home", "away", "point1")
    run.results["confirm"] = {"output": {"epoch": 7}, "state": "succeeded"}
    done = run.step(run.plan.step("invalidate"))
    assert world.hits("home") == {"CreateTags"}
    assert (run.warnings, done.pending, len(done.invalidated)) == ({}, False, 3)
    groups = world.sites["home"].call("autoscaling", "DescribeAutoScalingGroups", {})["AutoScalingGroups"]
    assert {tags_of(found)["drpilot:invalidated"] for found in [*groups, database(world, "home")]} == {"7"}
