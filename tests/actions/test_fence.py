"""The fence on a live site of the lab: what it verifies, what it admits it can't see, and how it is taken away."""

from __future__ import annotations

import threading
from queue import Queue
from typing import Any

import pytest

from drpilot.actions.catalogue import CATALOGUE
from drpilot.actions.fence import DENY
from drpilot.actions.views import within
from drpilot.domain.ports import CloudError, Done, FailureClass, Site, Unseen
from tests.actions.world import Failed, StepContext, World


def _context(world: World, path: str = "fence") -> StepContext:
    return world.begin("failover", "home", "away", "point1").context(path, {"site": "source"})


def _look(ctx: StepContext) -> Any:
    action = CATALOGUE["fence.apply"]
    return action.observe(ctx, action.Input(site="source"))


def _apply(world: World) -> Any:
    run = world.begin("failover", "home", "away", "point1")
    return run.attempt("fence.apply", {"site": "source"}, run.context("fence", {"site": "source"}))


@pytest.mark.row(83)
def test_a_live_side_is_fenced_by_observation(world: World) -> None:
    """Groups at 0 and suspended, instances stopped: no writer is left, and the verdict is `fenced`."""
    output = _apply(world).output
    assert (output.verdict, output.writers_left) == ("fenced", 0)
    verified = {rung["name"] for rung in output.rungs if rung["verified"]}
    assert {"scale", "stop"} <= verified
    assert world.facts.fences["home"] == "fenced"


def test_a_look_without_a_fence_sees_writers(world: World) -> None:
    """Before anything is applied the look says for certain that it did not happen."""
    answer = _look(_context(world))
    assert isinstance(answer, Unseen)
    assert answer.certain


def test_an_instance_that_appears_later_is_a_writer(world: World) -> None:
    """A machine that somebody starts after the fence is noticed by its tag, though the plan never knew it."""
    _apply(world)
    ctx = _context(world)
    assert isinstance(_look(ctx), Done)
    tier = world.group("home").tier("db")
    like = tier.instances[0]
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "tier", "Value": "db"}]}]
    world.sites["home"].call(
        "ec2",
        "RunInstances",
        {
            "ImageId": like.image,
            "InstanceType": like.type,
            "MinCount": 1,
            "MaxCount": 1,
            "SubnetId": like.subnet,
            "TagSpecifications": tags,
        },
        token="somebody-else",
    )
    answer = _look(ctx)
    assert isinstance(answer, Unseen)  # the rungs of the fence before say nothing about it: apply them again
    assert "1 writers left" in answer.why


@pytest.mark.row(84, 92)
@pytest.mark.parametrize("fault", ["refuse", "hang"])
def test_a_site_that_does_not_answer_is_unverified_within_seconds(world: World, fault: str) -> None:
    """Refused or hanging: the verdict comes, says so, warns, and can be taken back without the site."""
    world.fault("home", fault)
    done = _apply(world)
    assert done.output.verdict == "unverified"
    assert "not fenced for certain" in done.warning
    assert world.facts.fences["home"] == "unverified"
    world.heal("home")
    assert _apply(world).output.verdict == "fenced", "repeated once the site answers"
    assert world.facts.fences["home"] == "fenced"


def test_a_call_that_never_returns_is_given_up(world: World) -> None:
    """Whoever must not wait for a site that never answers gets a timeout with an unknown outcome."""
    never, home = threading.Event(), world.sites["home"]
    with pytest.raises(CloudError) as caught:
        within(0.05, home, lambda site: never.wait())
    assert (caught.value.kind, caught.value.happened) == (FailureClass.TIMEOUT, "unknown")
    never.set()
    assert within(5.0, home, lambda site: 41 + 1) == 42


def test_what_was_given_up_changes_nothing_any_more(world: World) -> None:
    """An act that comes back to life after its bound is refused its next call, which never reaches the site."""
    (database,) = [item.id for item in world.group("home").tier("db").instances]
    late, refused = threading.Event(), Queue[CloudError]()

    def act(site: Site) -> None:
        late.wait(10.0)
        try:
            site.call("ec2", "StopInstances", {"InstanceIds": [database]})
        except CloudError as error:
            refused.put(error)

    with pytest.raises(CloudError):
        within(0.05, world.sites["home"], act)
    late.set()
    error = refused.get(timeout=10.0)
    assert (error.kind, error.happened) == (FailureClass.CANCELLED, "no")
    assert world.mutations("home") == []


def test_what_will_not_stop_is_cut_off(world: World) -> None:
    """An instance that can't be stopped is put into the deny-all group, and its own groups come back on release."""
    world.fault("home", "throttle:ec2.StopInstances")
    run = world.begin("failover", "home", "away", "point1")
    given = {"site": "source"}
    done = run.attempt("fence.apply", given, run.context("fence", given))
    assert done.output.verdict == "fenced"
    (database,) = [item.id for item in world.group("home").tier("db").instances]

    def groups() -> set[str]:
        filters = [{"Name": "instance-id", "Values": [database]}]
        reply = world.sites["home"].call("ec2", "DescribeInstances", {"Filters": filters})
        return {item["GroupName"] for item in reply["Reservations"][0]["Instances"][0]["SecurityGroups"]}

    assert groups() == {DENY}
    world.heal("home")
    undo = CATALOGUE["fence.apply"].undo(CATALOGUE["fence.apply"].Input(**given), done.output)
    assert undo is not None
    run.attempt(undo.action, undo.given, run.context("fence", undo.given, kind="undo"))
    assert groups() == {"shop-db"}
    assert world.facts.fences["home"] == "released"


def test_an_old_side_that_writes_is_not_reprotected(world: World) -> None:
    """Without a fence the reverse direction does not begin, and nothing on the old side is touched."""
    run = world.begin("reprotect", "home", "away")
    backwards = world.begin("reprotect", "home", "away").context("begin", {})
    ctx = StepContext(**{**vars(backwards), "source": "away", "target": "home"})
    world.last["away"] = world.group("home")
    with pytest.raises(Failed, match="may still write"):
        run.attempt("group.reprotect", {}, ctx)
