"""After the way back: the standby is whole, nothing is left over, and a step that failed needs no output for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from drpilot.actions.catalogue import CATALOGUE
from drpilot.domain.ports import FailureClass, StepFailed, Waiting
from tests.actions.world import World

KEPT_DATA = "drpilot:superseded"


def _states(world: World, site: str, name: str = "shop-db") -> list[str]:
    filters = [{"Name": "tag:Name", "Values": [name]}]
    pages = world.sites[site].pages("ec2", "DescribeInstances", {"Filters": filters})
    found = [item for page in pages for group in page["Reservations"] for item in group["Instances"]]
    return [item["State"]["Name"] for item in found if item["State"]["Name"] != "terminated"]


def _volumes(world: World, site: str) -> list[dict[str, Any]]:
    pages = world.sites[site].pages("ec2", "DescribeVolumes", {})
    return [item for page in pages for item in page["Volumes"]]


class _Hook:
    """A site or a witness with one method replaced: what the path between us and it does."""

    def __init__(self, inner: Any, **methods: Callable[..., Any]) -> None:
        self._inner = inner
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_after_a_way_back_the_standby_is_whole_and_nothing_is_left(world: World) -> None:
    """Failover, back before traffic, replicate: the same machines and volumes as before, the standby ready."""
    before = {item["VolumeId"] for item in _volumes(world, "away")}
    inventory = world.inventory("away")
    run = world.begin("failover", "home", "away", "point1").all(until="tiers/web/healthy")
    assert {item["VolumeId"] for item in _volumes(world, "away")} > before
    run.back()
    after = _volumes(world, "away")
    assert {item["VolumeId"] for item in after} == before
    assert {item["State"] for item in after} == {"in-use"}
    (place,) = after[0]["Attachments"]
    assert (place["Device"], place["DeleteOnTermination"]) == ("/dev/xvda", True)
    assert KEPT_DATA not in {tag["Key"] for tag in after[0]["Tags"]}
    world.begin("replicate", "home", "away").all()
    grown = world.inventory("away") - inventory
    assert grown == {"snapshot": 3, "image": 1}
    assert world.inventory("away")["volume"] == inventory["volume"]
    assert {row["state"] for row in world.facts.standbys.values()} == {"ready"}


@pytest.mark.parametrize("step", ["volumes", "detach", "attach", "grow"])
def test_a_promotion_that_failed_half_way_is_taken_back(world: World, step: str) -> None:
    """The step's last call was made and its end never seen: the way back needs no output of it."""
    inventory = world.inventory("away")
    steps = ["fence_ok", "volumes", "detach", "attach", "grow"]
    before = steps[steps.index(step) - 1]
    until = "fence" if before == "fence_ok" else f"tiers/db/{before}"
    run = world.begin("failover", "home", "away", "point1").all(until=until)
    planned = run.plan.step(f"tiers/db/{step}")
    given = run.given(planned)
    action = CATALOGUE[str(planned.action)]
    action.start(run.context(planned.path, given), action.Input.model_validate(given))
    run.remember(planned, given, None)
    run.back()
    assert world.inventory("away") == inventory
    assert {item["State"] for item in _volumes(world, "away")} == {"in-use"}
    assert {row["state"] for row in world.facts.standbys.values()} == {"ready"}
    assert _states(world, "away") == ["stopped"]


@pytest.mark.parametrize(
    ("name", "operation", "first", "then"),
    [
        ("standby.unload", "DetachVolume", "attaching", "attached"),
        ("standby.reload", "AttachVolume", "detaching", "detached"),
    ],
)
def test_a_volume_on_its_way_is_waited_for_and_then_moved(
    world: World, name: str, operation: str, first: str, then: str
) -> None:
    """Found half way, a volume is first let come to rest; then the way back acts, and does not wait for ever."""
    until = "attach" if name == "standby.unload" else "detach"
    run = world.begin("failover", "home", "away", "point1").all(until=f"tiers/db/{until}")
    ctx, action = run.context("x", {}), CATALOGUE[name]
    looks: list[str] = []
    given = action.Input(tier="db")
    away = ctx.site("away")

    def pages(service: str, asked: str, params: dict[str, Any]) -> Any:
        for page in away.pages(service, asked, params):
            if asked == "DescribeVolumes" and len(looks) < 3:
                looks.append(asked)
                for volume in page["Volumes"]:
                    places = volume.get("Attachments") or [{"InstanceId": "i-x", "Device": "x"}]
                    mine = any(tag["Key"] == "drpilot:run" for tag in volume.get("Tags") or [])
                    if mine or name == "standby.reload":
                        volume["State"] = "in-use"
                        volume["Attachments"] = [{**places[0], "State": first}]
            yield page

    hooked = _Hook(ctx, site=lambda role: _Hook(away, pages=pages))
    seen = len(world.mutations("away"))
    assert isinstance(action.start(hooked, given), Waiting)
    assert operation not in world.mutations("away")[seen:], "not while it is on its way"
    while isinstance(answer := _looked(action, hooked, given), Waiting):
        continue
    assert isinstance(answer, StepFailed), then
    assert answer.kind is FailureClass.TRANSIENT
    run.attempt(name, {"tier": "db"}, ctx)
    assert operation in world.mutations("away")[seen:]


def _looked(action: Any, ctx: Any, given: Any) -> Any:
    try:
        return action.observe(ctx, given)
    except StepFailed as error:
        return error


def test_a_second_failover_after_a_way_back_uses_the_standby(world: World) -> None:
    """What was taken back can be done again, to the end."""
    world.begin("failover", "home", "away", "point1").all(until="tiers/db/healthy").back()
    world.facts.group = "protected"
    world.begin("failover", "home", "away", "point1").all()
    assert _states(world, "away") == ["running"]
    assert world.facts.active == "away"


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("writers.stop", {"tier": "db"}),
        ("fence.apply", {"site": "source"}),
        ("traffic.switch", {}),
        ("standby.grow", {"tier": "db"}),
        ("standby.attach", {"tier": "db"}),
        ("standby.detach", {"tier": "db"}),
        ("point.restore", {"tier": "db", "point": "p"}),
        ("epoch.claim", {}),
    ],
)
def test_a_failed_step_can_be_undone_without_its_output(name: str, given: dict[str, Any]) -> None:
    """Its way back is a call whose input is complete without anything the step would have answered."""
    action = CATALOGUE[name]
    call = action.undo(action.Input(**given), None)
    assert call is not None
    CATALOGUE[call.action].Input.model_validate(dict(call.given))


@pytest.mark.parametrize("name", ["writers.stop", "fence.apply"])
def test_what_was_being_stopped_runs_again(world: World, name: str) -> None:
    """Asked to stop and not yet stopped: the way back waits for the stop, and starts it again, groups included."""
    run = world.begin("switchover", "home", "away")
    inputs = [{"site": "source"}] if name == "fence.apply" else [{"tier": "web"}, {"tier": "db"}]
    action = CATALOGUE[name]
    for given in inputs:
        parsed = action.Input(**given)
        action.start(run.context("stop", given), parsed)
        call = action.undo(parsed, None)
        assert call is not None
        run.undo.append(("stop", call))
    run.back()
    assert _states(world, "home") == ["running"]
    found = world.sites["home"].call("autoscaling", "DescribeAutoScalingGroups", {})["AutoScalingGroups"]
    wanted = {
        tier.scaling_group.key: tier.scaling_group.desired
        for tier in world.group("home").tiers
        if tier.scaling_group
    }
    assert {item["AutoScalingGroupName"]: item["DesiredCapacity"] for item in found} == wanted
    assert not [item for item in found if item["SuspendedProcesses"]]
