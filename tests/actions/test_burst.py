"""A burst on the lab: extra machines behind the same name by weighted DNS, and everything as it was afterwards."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drpilot.actions.burst_traffic import Forgotten, ForgottenInput
from drpilot.actions.catalogue import CATALOGUE
from drpilot.base.clock import ManualClock
from drpilot.domain.ports import Done, FailureClass, StepFailed, Waiting
from tests.actions.world import Failed, Run, World, opened

NAME = "drpilot-burst-shop-web"
CREATES = (
    "CreateLaunchTemplate",
    "CreateAutoScalingGroup",
    "UpdateAutoScalingGroup",
    "ChangeResourceRecordSets",
)
ENDS = (
    "ChangeResourceRecordSets",
    "SuspendProcesses",
    "DeregisterTargets",
    "UpdateAutoScalingGroup",
    "DeleteAutoScalingGroup",
    "DeleteLaunchTemplate",
)


def some(words: Sequence[str], quick: str = "") -> list[Any]:
    """At most one of several in every run of the tests, all of them in the slow ones."""
    return [word if word == quick else pytest.param(word, marks=pytest.mark.slow) for word in words]


def burst_section(user_data: Path, **more: str) -> str:
    """A burst of two machines for a quarter of the users, whose first boot is told where the application is."""
    keys = {"tier": "web", "max": "2", "weight": "25", "user_data": str(user_data), **more}
    return "burst: {" + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}\n"


def reach_home(world: World, folder: Path) -> Path:
    """Let the other side's machines reach the application at home, and write what tells them where it is."""
    home = world.sites["home"]
    groups = home.call("ec2", "DescribeSecurityGroups", {})["SecurityGroups"]
    app = next(item["GroupId"] for item in groups if item["GroupName"] == "shop-app")
    vpcs = world.sites["away"].call("ec2", "DescribeVpcs", {})["Vpcs"]
    block = next(
        item["CidrBlock"] for item in vpcs if any(t["Value"] == "shop" for t in item.get("Tags") or [])
    )
    rule: dict[str, Any] = {
        "IpProtocol": "tcp",
        "FromPort": 8080,
        "ToPort": 8080,
        "IpRanges": [{"CidrIp": block}],
    }
    home.call("ec2", "AuthorizeSecurityGroupIngress", {"GroupId": app, "IpPermissions": [rule]})
    filters = [
        {"Name": "tag:tier", "Values": ["app"]},
        {"Name": "instance-state-name", "Values": ["running"]},
    ]
    found = home.call("ec2", "DescribeInstances", {"Filters": filters})["Reservations"]
    address = found[0]["Instances"][0]["PrivateIpAddress"]
    path = folder / "first-boot.sh"
    path.write_text(f"#!/bin/sh\nupstream={address}\n")
    return path


@pytest.fixture(scope="module")
def opened_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("burst")
    with opened(folder, ttl_s=1) as world:
        world.text += burst_section(reach_home(world, folder))
        world.look("home")
        world.begin("replicate", "home", "away").all()
        world.save()
        yield world


@pytest.fixture
def world(opened_world: World) -> World:
    opened_world.restore()
    return opened_world


def records(world: World) -> list[tuple[str, int | None]]:
    """Identifier and weight of every record set at the shop's name."""
    zone = world.built["hosted_zone"]
    listed = world.sites["edge"].call("route53", "ListResourceRecordSets", {"HostedZoneId": zone})
    return [
        (str(item.get("SetIdentifier", "")), item.get("Weight"))
        for item in listed["ResourceRecordSets"]
        if item["Name"] == "shop.example.org."
    ]


def standing(world: World) -> dict[str, Any]:
    """What stands on all sites by kind and id, machines that came and went left out, and the name's records."""
    things = {
        site: {one for one in world.things(site) if one[0] not in ("instance", "volume", "network-interface")}
        for site in world.clouds
    }
    return {**things, "records": records(world), "rows": raw_records(world)}


def raw_records(world: World) -> Any:
    zone = world.built["hosted_zone"]
    return world.sites["edge"].call("route53", "ListResourceRecordSets", {"HostedZoneId": zone})[
        "ResourceRecordSets"
    ]


def alive(world: World) -> int:
    """How many machines of the burst are not yet gone."""
    filters = [{"Name": "tag:aws:autoscaling:groupName", "Values": [NAME]}]
    found = world.sites["away"].call("ec2", "DescribeInstances", {"Filters": filters})["Reservations"]
    return sum(item["State"]["Name"] != "terminated" for group in found for item in group["Instances"])


def burst(world: World) -> Run:
    """The begin of a burst, not carried out yet."""
    return world.begin("burst", "home", "away", "point1")


def test_a_burst_comes_and_goes_and_leaves_nothing(world: World) -> None:
    """Two machines more, healthy before a quarter of the users is sent there; afterwards all is as it was."""
    before = standing(world)
    shared_at: list[int] = []

    def watch(step: Any, ctx: Any) -> None:
        if step.path == "share":
            shared_at.append(alive(world))
            assert records(world) == [("", None)]

    run = burst(world).all(before=watch)
    assert shared_at == [2]
    assert records(world) == [("drpilot-burst", 25), ("drpilot-home", 75)]
    assert world.facts.burst["state"] == "serving"
    assert run.results["healthy"]["output"]["passed"] == 4
    standby = world.sites["away"].call(
        "autoscaling", "DescribeAutoScalingGroups", {"AutoScalingGroupNames": ["shop-web"]}
    )["AutoScalingGroups"][0]
    assert (standby["DesiredCapacity"], standby["Instances"]) == (0, [])
    end = world.begin("unburst", "home", "away").all()
    drained = end.results["drain"]["output"]
    assert (drained["weights"], drained["ttl_s"]) == ({"drpilot-burst": 0, "drpilot-home": 75}, 1)
    assert world.facts.burst["state"] == "none"
    assert alive(world) == 0
    assert standing(world) == before
    assert world.strayed == set()


def test_it_waits_until_resolvers_have_forgotten() -> None:
    """No step behind it begins before the TTL has passed since the change was in sync."""
    clock = ManualClock(datetime(2026, 11, 24, 8, 0, tzinfo=UTC))
    ctx: Any = SimpleNamespace(intended_at=clock.now(), clock=clock)
    clock.advance(59.5)
    waiting = Forgotten().observe(ctx, ForgottenInput(ttl_s=60))
    assert isinstance(waiting, Waiting)
    assert waiting.after_s == 0.5
    clock.advance(0.5)
    assert isinstance(Forgotten().observe(ctx, ForgottenInput(ttl_s=60)), Done)


def test_the_extra_machines_run_the_image_of_the_point_and_the_user_data_of_the_file(world: World) -> None:
    """The template has the point's image and the file's text; nothing of the text is in the facts."""
    other = world.facts.recovery_point("point1").replica("shop-app", "image").id
    world.facts.replicas["point1", "image", "shop-web"]["id"] = (
        other  # not what the standby's own template says
    )
    run = burst(world).all(until="group")
    assert alive(world) == 0
    site = world.sites["away"]
    version = site.call(
        "ec2", "DescribeLaunchTemplateVersions", {"LaunchTemplateName": NAME, "Versions": ["1"]}
    )["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    assert version["ImageId"] == other
    assert "upstream=" in base64.b64decode(version["UserData"]).decode()
    assert "upstream=" not in repr((run.plan, run.results, world.facts.moved))


def test_user_data_that_changed_since_it_was_protected_is_not_used(world: World, tmp_path: Path) -> None:
    """Another text under the same name stops the burst before anything is made."""
    path = Path(str(world.group("home").burst.user_data_file))  # type: ignore[union-attr]
    kept = path.read_text()
    path.write_text(kept + "\n# changed\n")
    try:
        with pytest.raises(Failed, match="is not what was protected"):
            burst(world).all()
    finally:
        path.write_text(kept)
    assert "CreateLaunchTemplate" not in world.mutations("away")
    world.begin("unburst", "home", "away").all()
    assert world.facts.burst["state"] == "none"


@pytest.mark.crash
@pytest.mark.parametrize("operation", some(CREATES, "ChangeResourceRecordSets"))
def test_a_lost_reply_makes_nothing_twice(world: World, operation: str) -> None:
    """The effect happens, the answer is lost: the run ends as an undisturbed one, with one of everything."""
    site, service = {
        "ChangeResourceRecordSets": ("edge", "route53"),
        "CreateLaunchTemplate": ("away", "ec2"),
    }.get(operation, ("away", "autoscaling"))
    world.fault(site, f"lost-reply:{service}.{operation}@1")
    burst(world).all()
    assert operation in world.hits(site)
    world.heal(site)
    assert records(world) == [("drpilot-burst", 25), ("drpilot-home", 75)]
    assert (alive(world), world.facts.burst["state"]) == (2, "serving")


@pytest.mark.crash
@pytest.mark.parametrize("operation", some(ENDS))
def test_a_lost_reply_at_the_end_leaves_nothing_over(world: World, operation: str) -> None:
    """Whichever answer of the end is lost, the name is as before and nothing is left."""
    before = standing(world)
    burst(world).all()
    services = {
        "ChangeResourceRecordSets": "route53",
        "DeregisterTargets": "elbv2",
        "DeleteLaunchTemplate": "ec2",
    }
    site = "edge" if operation == "ChangeResourceRecordSets" else "away"
    world.fault(site, f"lost-reply:{services.get(operation, 'autoscaling')}.{operation}@1")
    world.begin("unburst", "home", "away").all()
    assert operation in world.hits(site)
    world.heal(site)
    assert standing(world) == before
    assert alive(world) == 0


@pytest.mark.parametrize("until", some(("begin", "template", "group", "grow")))
def test_a_burst_that_stopped_half_way_is_removed(world: World, until: str) -> None:
    """Whatever a burst had made when it stopped, its end takes up what it finds and leaves nothing."""
    before = standing(world)
    burst(world).all(until=until)
    world.begin("unburst", "home", "away").all()
    assert standing(world) == before
    assert (world.facts.burst["state"], alive(world)) == ("none", 0)


@pytest.mark.parametrize("judge", some(("balancer", "check"), "balancer"))
def test_nobody_is_sent_to_machines_that_are_not_healthy(world: World, judge: str) -> None:
    """A tier that can't reach what it needs never gets users: its balancer alone says so, or its check too."""
    path = Path(str(world.group("home").burst.user_data_file))  # type: ignore[union-attr]
    kept, text = path.read_text(), world.text
    path.write_text("#!/bin/sh\nupstream=127.0.0.9\n")
    if judge == "balancer":
        head, _, tail = text.rpartition("    check: ")
        world.text = head + tail.partition("\n")[2]
    world.look("home")
    assert (world.group("home").tier("web").check is None) == (judge == "balancer")
    try:
        run = burst(world)
        run.timeout_s = 6.0
        with pytest.raises(Failed, match="healthy: timed out"):
            run.all()
    finally:
        path.write_text(kept)
        world.text = text
        world.look("home")
    assert records(world) == [("", None)]
    assert "ChangeResourceRecordSets" not in world.mutations("edge")


@pytest.mark.slow
def test_weights_of_the_owner_are_kept(world: World) -> None:
    """A name that has a weight of its owner's keeps it: the extra set comes beside it and goes again."""
    zone = world.built["hosted_zone"]
    simple = next(item for item in raw_records(world) if item["Name"] == "shop.example.org.")
    own = {**simple, "SetIdentifier": "blue", "Weight": 60}
    batch = {
        "Changes": [
            {"Action": "DELETE", "ResourceRecordSet": simple},
            {"Action": "CREATE", "ResourceRecordSet": own},
        ]
    }
    world.sites["edge"].call(
        "route53", "ChangeResourceRecordSets", {"HostedZoneId": zone, "ChangeBatch": batch}
    )
    burst(world).all()
    assert records(world) == [("blue", 60), ("drpilot-burst", 20)]
    world.begin("unburst", "home", "away").all()
    assert records(world) == [("blue", 60)]


@pytest.mark.parametrize(
    ("policy", "said"),
    [({"Failover": "PRIMARY"}, "another routing policy"), ({"Weight": 0}, "all its weights are 0")],
)
def test_a_name_that_takes_no_weighted_set_is_refused_before_anything_is_made(
    world: World, policy: dict[str, Any], said: str
) -> None:
    """Failover records can't stand beside weighted ones, and beside weights of 0 one more would get all users."""
    zone = world.built["hosted_zone"]
    simple = next(item for item in raw_records(world) if item["Name"] == "shop.example.org.")
    own = {**simple, "SetIdentifier": "one", **policy}
    batch = {
        "Changes": [
            {"Action": "DELETE", "ResourceRecordSet": simple},
            {"Action": "CREATE", "ResourceRecordSet": own},
        ]
    }
    world.sites["edge"].call(
        "route53", "ChangeResourceRecordSets", {"HostedZoneId": zone, "ChangeBatch": batch}
    )
    with pytest.raises(Failed, match=said):
        burst(world).all()
    assert world.facts.burst["state"] == "none"
    assert world.mutations("away") == []


def own_weight(world: World, weight: int) -> None:
    """Give the name one record set with a weight of its owner's."""
    zone = world.built["hosted_zone"]
    simple = next(item for item in raw_records(world) if item["Name"] == "shop.example.org.")
    own = {**simple, "SetIdentifier": "blue", "Weight": weight}
    changes = [
        {"Action": "DELETE", "ResourceRecordSet": simple},
        {"Action": "CREATE", "ResourceRecordSet": own},
    ]
    params = {"HostedZoneId": zone, "ChangeBatch": {"Changes": changes}}
    world.sites["edge"].call("route53", "ChangeResourceRecordSets", params)


def test_a_share_that_no_weight_gives_is_refused_before_anything_is_made(world: World) -> None:
    """Beside a weight of 1 the least there is takes half of the users: said with its numbers, and by the share too."""
    own_weight(world, 1)
    with pytest.raises(
        Failed, match="expected 25 % of the users on away, observed beside weights of 1 together"
    ):
        burst(world).all()
    assert (world.facts.burst["state"], world.mutations("away")) == ("none", [])
    run = burst(world)
    given = {"tier": "web", "weight": 25}
    with pytest.raises(
        Failed, match=r"can't send 25 % of the users to away: .* the nearest is 1, which is 50 %"
    ):
        run.attempt("burst.share", given, run.context("share", given))
    assert records(world) == [("blue", 1)]


def somebodys_group(world: World) -> dict[str, Any]:
    """A scaling group that somebody made under the name of a burst's."""
    site = world.sites["away"]
    listed = site.call("autoscaling", "DescribeAutoScalingGroups", {"AutoScalingGroupNames": ["shop-web"]})
    standby = listed["AutoScalingGroups"][0]
    template = {key: standby["LaunchTemplate"][key] for key in ("LaunchTemplateId", "Version")}
    numbers = {"MinSize": 0, "MaxSize": 1, "VPCZoneIdentifier": standby["VPCZoneIdentifier"]}
    params = {"AutoScalingGroupName": NAME, "LaunchTemplate": template, **numbers}
    site.call("autoscaling", "CreateAutoScalingGroup", params)
    return params


def somebodys_template(world: World) -> None:
    """A launch template that somebody made under the name of a burst's."""
    data = {"InstanceType": "t3.micro"}
    world.sites["away"].call(
        "ec2", "CreateLaunchTemplate", {"LaunchTemplateName": NAME, "LaunchTemplateData": data}
    )


@pytest.mark.parametrize(
    ("make", "what", "step", "given"),
    [
        (somebodys_group, "scaling group", "burst.group", {"tier": "web", "maximum": 2}),
        (somebodys_group, "scaling group", "burst.grow", {"tier": "web", "maximum": 2, "capacity": 2}),
        (somebodys_template, "launch template", "burst.template", {"tier": "web"}),
    ],
)
def test_what_somebody_made_under_a_name_of_a_burst_is_never_taken_over(
    world: World, make: Any, what: str, step: str, given: dict[str, Any]
) -> None:
    """Said before the burst begins; each step that would use it refuses as well, and it stays as it was."""
    make(world)
    calls = world.mutations("away")
    run = burst(world)
    with pytest.raises(Failed, match=f"{what} {NAME} without our tag"):
        run.all()
    assert world.facts.burst["state"] == "none"
    with pytest.raises(StepFailed) as refused:
        CATALOGUE[step].start(run.context("x", given), CATALOGUE[step].Input.model_validate(given))
    assert (refused.value.kind, "does not carry our tag" in refused.value.message) == (
        FailureClass.CONFLICT,
        True,
    )
    assert world.mutations("away") == calls


def test_a_group_of_that_name_without_our_tag_is_left_alone(world: World) -> None:
    """Somebody's own scaling group that happens to be called so is never shrunk or deleted."""
    site = world.sites["away"]
    burst(world).all(until="template")
    raw = site.call("autoscaling", "DescribeAutoScalingGroups", {"AutoScalingGroupNames": ["shop-web"]})
    standby = raw["AutoScalingGroups"][0]
    params = {
        "AutoScalingGroupName": NAME,
        "LaunchTemplate": {key: standby["LaunchTemplate"][key] for key in ("LaunchTemplateId", "Version")},
        "MinSize": 0,
        "MaxSize": 1,
        "VPCZoneIdentifier": standby["VPCZoneIdentifier"],
    }
    site.call("autoscaling", "CreateAutoScalingGroup", params)
    run = world.begin("unburst", "home", "away")
    context = run.context("remove", {"tier": "web"})
    action = CATALOGUE["burst.remove"]
    with pytest.raises(StepFailed) as refused:
        action.start(context, action.Input.model_validate({"tier": "web"}))
    assert refused.value.kind is FailureClass.CONFLICT


@pytest.mark.slow
def test_a_failover_during_a_burst_takes_the_name_whole(world: World) -> None:
    """The switch replaces both weighted sets by one record; its undo puts home's own record back, without a weight."""
    before = raw_records(world)
    burst(world).all()
    run = world.begin("failover", "home", "away", "point1")
    given = {"to": "target"}
    run.attempt("traffic.switch", given, run.context("traffic", given))
    assert records(world) == [("", None)]
    switch = CATALOGUE["traffic.switch"]
    context = run.context("traffic", given)
    context.resume = None
    home = next(item for item in before if item["Name"] == "shop.example.org.")
    back = switch.undo(switch.Input(), switch.Output(name="shop.example.org", to="away", previous=home))
    assert back is not None
    run.attempt(back.action, dict(back.given), run.context("traffic", dict(back.given), kind="undo"))
    assert raw_records(world) == before
    world.begin("unburst", "home", "away").all()
    assert raw_records(world) == before
    assert (world.facts.burst["state"], alive(world)) == ("none", 0)


def test_all_weights_of_the_owner_come_back_after_a_switch(world: World) -> None:
    """Three record sets of the owner's become one by the switch and three again by its undo, however often."""
    zone = world.built["hosted_zone"]
    simple = next(item for item in raw_records(world) if item["Name"] == "shop.example.org.")
    value = simple["ResourceRecords"][0]["Value"]
    elsewhere = [{"Value": "green.example.net"}]
    owners = [
        {**simple, "SetIdentifier": "blue", "Weight": 60},
        {**simple, "SetIdentifier": "green", "Weight": 30, "ResourceRecords": elsewhere},
        {**simple, "SetIdentifier": "red", "Weight": 0},
    ]
    changes = [{"Action": "DELETE", "ResourceRecordSet": simple}]
    changes += [{"Action": "CREATE", "ResourceRecordSet": item} for item in owners]
    edge = world.sites["edge"]
    edge.call(
        "route53", "ChangeResourceRecordSets", {"HostedZoneId": zone, "ChangeBatch": {"Changes": changes}}
    )
    before = raw_records(world)
    assert value.startswith("shop-lb")
    run = world.begin("failover", "home", "away", "point1")
    given = {"to": "target"}
    output = run.attempt("traffic.switch", given, run.context("traffic", given)).output
    assert records(world) == [("", None)]
    assert (output.previous, list(output.beside)) == (owners[0], owners[1:])
    switch = CATALOGUE["traffic.switch"]
    back = switch.undo(switch.Input(), output)
    assert back is not None
    for _ in range(2):
        undone = run.context("traffic", dict(back.given), kind="undo")
        run.attempt(back.action, dict(back.given), undone)
        assert raw_records(world) == before
    assert world.mutations("edge").count("ChangeResourceRecordSets") == 3  # set up, switched, put back
