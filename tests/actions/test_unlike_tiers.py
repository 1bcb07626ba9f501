"""Tiers on another kind of cloud: built, drilled, moved and let go by that cloud's own means, in both directions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from drpilot.actions.balancers import enrolled
from drpilot.inventory.balancing import load_balancer
from drpilot.inventory.losses import losses
from drpilot.lab import disk
from tests.actions.unlike import POINT, UnlikeWorld, opened
from tests.actions.world import Failed, Run

_PAIRS = (
    ("aws-euca", "3.4"),
    ("euca-aws", "4.4"),
    pytest.param(("aws-euca", "4.4"), marks=pytest.mark.slow),
    pytest.param(("aws-euca", "5"), marks=pytest.mark.slow),
    pytest.param(("euca-aws", "3.4"), marks=pytest.mark.slow),
    pytest.param(("euca-aws", "5"), marks=pytest.mark.slow),
    pytest.param(("aws-euca", "4.4 EDGE"), marks=pytest.mark.slow),
    pytest.param(("euca-aws", "4.4 EDGE"), marks=pytest.mark.slow),
)
_classic = pytest.mark.parametrize("replicated", _PAIRS[:1], indirect=True, ids=" ".join)
"""For what only a cloud without networks, or without tags on balancers, can show."""
# What a failover does up to the answer of its users; the gates between are a person's.
_MOVE = ("target_ready", "source_seen", "claim", "fence", "tiers", "traffic", "answered")


def _carried_out(run: Run, *heads: str) -> Run:
    """Every step of a run below one of these."""
    for step in run.plan.steps:
        if step.action is not None and step.when != "false" and step.path.split("/")[0] in heads:
            run.step(step)
    return run


@pytest.fixture(scope="module", params=_PAIRS, ids=" ".join)
def replicated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[UnlikeWorld]:
    """A pair of clouds with a point and its standbys."""
    with opened(tmp_path_factory.mktemp("unlike"), *request.param) as unlike:
        unlike.empty = unlike.world.things("away")
        unlike.point()
        unlike.before = unlike.world.things("away")
        _carried_out(unlike.run(), "standbys")
        unlike.world.facts.group = "protected"
        unlike.world.save()
        yield unlike


@pytest.fixture
def unlike(replicated: UnlikeWorld) -> UnlikeWorld:
    """The same as on its first day."""
    replicated.world.restore()
    return replicated


def _kinds(things: set[tuple[str, str]]) -> Counter[str]:
    return Counter(kind for kind, _ in things)


def test_a_standby_is_built_by_that_clouds_means(unlike: UnlikeWorld) -> None:
    """One instance at rest, two groups at 0, one balancer; a second replication changes nothing on either side."""
    world = unlike.world
    made = _kinds(world.things("away") - unlike.before)
    private = unlike.plan.away != "aws"
    launched = "launch-configuration" if private else "launch-template"
    assert made.pop("instance") == 1
    assert made.pop("volume") >= 1
    assert made.pop(launched) == 2
    assert made.pop("auto-scaling-group") == 2
    assert made.pop("classic-load-balancer" if private else "load-balancer") == 1
    assert (made.pop("target-group", 0), made.pop("listener", 0)) == ((0, 0) if private else (1, 1))
    assert set(made) <= {"network-interface"}
    assert {row["state"] for row in world.facts.standbys.values()} == {"ready"}
    world.calls.clear()
    again = _carried_out(unlike.run(), "standbys")
    assert world.calls == []
    assert again.results["standbys/db/build"]["output"]["adopted"] == ["shop-db"]


def test_a_balancer_says_on_the_other_side_what_it_said(unlike: UnlikeWorld) -> None:
    """Port, protocol and check of the balancer come across unchanged, whatever it is called there."""
    front = load_balancer(unlike.world.sites["home"], "shop-lb")
    there = load_balancer(unlike.world.sites["away"], "shop-lb")
    assert front is not None
    assert there is not None
    assert (there.port, there.target_port, there.protocol.upper()) == (8080, 8080, "HTTP")
    words = ("HealthCheckIntervalSeconds", "HealthCheckTimeoutSeconds", "HealthyThresholdCount")
    assert [there.health[word] for word in words] == [front.health[word] for word in words]
    assert (there.health_path, front.health_path) == ("/healthz", "/healthz")
    kinds = {"aws": "application"}
    assert there.type == kinds.get(unlike.plan.away, "classic")
    assert front.type == kinds.get(unlike.plan.home, "classic")


def test_a_new_image_is_launched_and_what_launched_the_old_one_goes(unlike: UnlikeWorld) -> None:
    """A configuration can't be changed: another takes its place, and of ours one is left; a template gets a version."""
    world = unlike.world
    image = unlike.image("newer-app", disk.root_block("app", 0))
    world.facts.replicas[POINT, "image", "shop-app"]["id"] = image
    before = {one for one in world.things("away") if one[0] == "launch-configuration"}
    run = _carried_out(unlike.run(), "standbys")
    facts = run.results["standbys/app/build"]["output"]["facts"]
    after = {one for one in world.things("away") if one[0] == "launch-configuration"}
    shown = world.sites["away"].call("autoscaling", "DescribeAutoScalingGroups", {})["AutoScalingGroups"]
    group = next(one for one in shown if one["AutoScalingGroupName"] == "shop-app")
    assert facts["image"] == image
    if unlike.plan.away == "aws":
        assert facts["template"]["version"] == "2" == group["LaunchTemplate"]["Version"]
        return
    assert group["LaunchConfigurationName"] == facts["configuration"]
    assert len(after) == len(before) == 2
    assert len(after - before) == 1
    assert ("launch-configuration", facts["configuration"]) in after - before


def test_a_lost_reply_makes_nothing_twice(unlike: UnlikeWorld) -> None:
    """The group's standby is built again from nothing while the first answer of each create call is lost."""
    world = unlike.world
    _carried_out(unlike.run("retire"), "groups", "machines")
    creates = ("elb.CreateLoadBalancer", "autoscaling.CreateLaunchConfiguration")
    if unlike.plan.away == "aws":
        creates = ("elbv2.CreateLoadBalancer", "elbv2.CreateTargetGroup", "ec2.CreateLaunchTemplate")
    world.fault("away", *(f"lost-reply:{one}@1" for one in (*creates, "autoscaling.CreateAutoScalingGroup")))
    _carried_out(unlike.run(), "standbys")
    assert len(world.hits("away")) == len(creates) + 1
    world.heal("away")
    made = _kinds(world.things("away") - unlike.before)
    private = unlike.plan.away != "aws"
    assert made["auto-scaling-group"] == 2
    assert made["launch-configuration" if private else "launch-template"] == 2
    assert made["classic-load-balancer" if private else "load-balancer"] == 1
    assert made["target-group"] == (0 if private else 1)


def test_a_drill_is_isolated_and_leaves_nothing(unlike: UnlikeWorld) -> None:
    """Every machine answers in the drill's own network or group, and afterwards the site is as it was."""
    world = unlike.world
    stood = world.things("away")
    drill = unlike.run("drill")
    _carried_out(
        drill, "target_ready", "network", "subnet", "group", "rules", "isolated", "tiers", "still_isolated"
    )
    booted = _kinds(world.things("away") - stood)
    classic = not unlike.landing["subnets"]
    assert booted["instance"] == 3
    assert booted["security-group"] == (1 if classic else 2)  # a VPC is made with one of its own
    assert booted["vpc"] == (0 if classic else 1)
    assert ("speak to anybody" in drill.warnings.get("isolated", "")) == classic
    _carried_out(drill, "clean")
    assert world.things("away") == stood


@_classic
def test_a_drill_without_a_network_must_be_accepted(unlike: UnlikeWorld) -> None:
    """Where nothing keeps a machine from speaking out, a group file that does not accept it stops the drill."""
    world = unlike.world
    group = world.last["home"]
    world.last["home"] = replace(group, drill=replace(group.drill, outbound_open=False))
    drill = _carried_out(unlike.run("drill"), "network", "subnet", "group", "rules")
    with pytest.raises(Failed, match=r"traffic out: can't be closed without networks"):
        _carried_out(drill, "isolated")
    _carried_out(drill, "clean")


@_classic
def test_a_group_that_lets_the_drill_in_is_a_way_out(unlike: UnlikeWorld) -> None:
    """On a cloud without networks: another group that names the drill's lets its machines reach what it guards."""
    world = unlike.world
    drill = _carried_out(unlike.run("drill"), "network", "subnet", "group", "rules")
    ec2 = unlike.doors["away"]("ec2")
    group = drill.results["group"]["output"]["id"]
    rule = {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 9, "UserIdGroupPairs": [{"GroupId": group}]}
    ec2.authorize_security_group_ingress(GroupName="shop-db", IpPermissions=[rule])
    with pytest.raises(Failed, match=r"groups that let the drill in: shop-db"):
        _carried_out(drill, "isolated")
    ec2.revoke_security_group_ingress(GroupName="shop-db", IpPermissions=[rule])
    _carried_out(drill, "clean")
    assert world.facts.standbys["db@away"]["state"] == "ready"


def test_users_follow_a_failover_and_its_way_back(unlike: UnlikeWorld) -> None:
    """Three tiers grow, the balancer finds its machines healthy, the name leads there and answers; all is undone."""
    world = unlike.world
    stood = _kinds(world.things("away"))
    move = _carried_out(unlike.run("failover"), *_MOVE)
    assert move.results["fence"]["output"]["verdict"] == "fenced"
    assert {row["state"] for row in world.facts.standbys.values()} == {"active"}
    healthy = move.results["tiers/web/healthy"]["output"]["checks"][-1]
    assert (healthy["name"], healthy["ok"]) == ("targets of shop-lb", True)
    assert move.results["answered"]["output"]["passed"] == 4
    move.back()
    assert {row["state"] for row in world.facts.standbys.values()} == {"ready"}
    assert _kinds(world.things("away")) == stood


def test_plain_instances_stand_behind_a_balancer_while_they_run(unlike: UnlikeWorld) -> None:
    """A tier of instances with a balancer: registered once they run, taken off when the promotion is taken back."""
    world, group = unlike.world, unlike.world.last["home"]
    web = group.tier("web").load_balancer
    assert web is not None
    front = replace(web, key="shop-db-lb", target_group="" if web.type == "classic" else "shop-db")
    tiers = tuple(replace(one, load_balancer=front) if one.name == "db" else one for one in group.tiers)
    world.last["home"] = replace(group, tiers=tiers)
    site = world.sites["away"]
    built = _carried_out(unlike.run(), "standbys").results["standbys/db/build"]["output"]
    (instance,) = built["instances"].values()
    assert built["facts"]["load_balancer"]["dns"].startswith("shop-db-lb")
    assert enrolled(site, front) == set()
    move = unlike.run("failover")
    for name, given in (("standby.grow", {"tier": "db"}), ("standby.retreat", {"tier": "db"})):
        move.attempt(name, given, move.context(f"tiers/db/{name}", given))
        assert enrolled(site, front) == ({instance} if name == "standby.grow" else set())
    _carried_out(unlike.run("retire"), "groups", "machines", "volumes")
    assert world.things("away") == unlike.before


def test_letting_go_leaves_what_was_there_before(unlike: UnlikeWorld) -> None:
    """Everything that was made for the standbys is gone; what was made by hand beside it stays."""
    world = unlike.world
    _carried_out(unlike.run("retire"), "groups", "machines", "addresses", "volumes", "deny")
    assert world.things("away") == unlike.before


@_classic
def test_a_balancer_that_was_there_is_adopted_and_stays(unlike: UnlikeWorld) -> None:
    """A person's own balancer of that name gets what it lacks, and is not deleted when the group is let go."""
    world = unlike.world
    _carried_out(unlike.run("retire"), "groups", "machines")
    world.facts.standbys.clear()
    site, landing = world.sites["away"], unlike.landing
    place = {"Subnets": landing["subnets"]} if landing["subnets"] else {"AvailabilityZones": landing["zones"]}
    listener = {"Protocol": "TCP", "LoadBalancerPort": 9, "InstanceProtocol": "TCP", "InstancePort": 9}
    site.call("elb", "CreateLoadBalancer", {"LoadBalancerName": "shop-lb", "Listeners": [listener], **place})
    _carried_out(unlike.run(), "standbys")
    shown = site.call("elb", "DescribeLoadBalancers", {})["LoadBalancerDescriptions"]
    ports = [one["Listener"]["LoadBalancerPort"] for one in shown[0]["ListenerDescriptions"]]
    assert sorted(ports) == [9, 8080]
    _carried_out(unlike.run("retire"), "groups", "machines")
    assert _kinds(world.things("away") - unlike.before)["classic-load-balancer"] == 1


@_classic
def test_what_is_left_out_was_said_before(unlike: UnlikeWorld) -> None:
    """Each property that the other kind of cloud lacks is a finding, and none of them stops the standby."""
    world = unlike.world
    _carried_out(unlike.run("retire"), "groups", "machines")
    group = world.last["home"]
    demanding = {"metadata_options": {"HttpTokens": "required"}, "profile": "shop-role"}
    tiers = []
    for tier in group.tiers:
        instances = tuple(
            replace(
                one,
                **demanding,
                termination_protection=True,
                volumes=tuple(replace(v, iops=9000, throughput=500, encrypted=True) for v in one.volumes),
            )
            for one in tier.instances
        )
        tiers.append(replace(tier, instances=instances))
    world.last["home"] = group = replace(group, tiers=tuple(tiers))
    home, away = (world.sites[name].capabilities for name in ("home", "away"))
    told = [(one.where, one.message) for one in losses(group, home, away, "away")]
    wanted = (
        "metadata options",
        "termination protection",
        "IOPS",
        "encrypted",
        "private address",
        "elastic address",
    )
    for words in wanted:
        assert any(where == "tiers.db" and words in text for where, text in told), words
    assert [where for where, _ in told if where != "tiers.db"] == ["fence"]
    assert {one.severity for one in losses(group, home, away, "away")} == {"info"}
    _carried_out(unlike.run(), "standbys")
    assert world.facts.standbys["db@away"]["state"] == "ready"
