"""Steps that end half way, and runs taken back from there: nothing is claimed, left over, let go or brought down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from drpilot.actions.catalogue import CATALOGUE
from drpilot.domain.fence import Claim
from drpilot.domain.ports import CloudError, Done, FailureClass, StepFailed, Waiting
from drpilot.runbook.compile import ActionFacts, CompileFacts, compile, shipped
from drpilot.runbook.expression import resolve, scope_of
from tests.actions.world import Failed, Run, StepContext, World


def _claim(world: World) -> Claim | None:
    found, _ = world.begin("failover", "home", "away", "point1").context("x", {}).witness().read("shop")
    return found


def _states(world: World, site: str, name: str = "shop-db") -> list[str]:
    filters = [{"Name": "tag:Name", "Values": [name]}]
    pages = world.sites[site].pages("ec2", "DescribeInstances", {"Filters": filters})
    found = [item for page in pages for group in page["Reservations"] for item in group["Instances"]]
    return [item["State"]["Name"] for item in found if item["State"]["Name"] != "terminated"]


def _broken_glass(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Run.context

    def broken(self: Run, *args: Any, **more: Any) -> StepContext:
        found = plain(self, *args, **more)
        found.proposal = SimpleNamespace(break_glass="the third place burns")  # type: ignore[assignment]
        return found

    monkeypatch.setattr(Run, "context", broken)


class _Hook:
    """A site or a witness with one method replaced: what the path between us and it does."""

    def __init__(self, inner: Any, **methods: Callable[..., Any]) -> None:
        self._inner = inner
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


# Nothing but a move is ever rolled back.


@pytest.mark.parametrize(
    "name", ["reprotect", "replicate", "drill", "fence", "cleanup", "retire", "burst", "unburst"]
)
def test_no_run_but_a_move_undoes_anything_on_a_side(world: World, name: str) -> None:
    """A cancelled reprotect must not let the old side go; only an open point may be closed."""
    text, file = shipped(name)
    facts = CompileFacts(
        world.group("home"),
        "cleanup" if name == "retire" else name,
        "move",
        "home",
        "away",
        "p",
        drill=name == "drill",
    )
    plan = compile(text, file, facts, {key: ActionFacts.of(value) for key, value in CATALOGUE.items()})
    for step in plan.steps:
        if step.action is None or not step.undoes:
            continue
        action = CATALOGUE[step.action]
        try:
            given = action.Input.model_validate(dict(resolve(dict(step.given), scope_of(plan, step, {}))))
        except Exception:  # noqa: BLE001 - given needs the output of a step; such an action has no undo here
            given = action.Input.model_construct()
        call = action.undo(given, None)
        assert step.undo is None, step.path
        assert call is None or call.action == "point.close", step.path


def test_a_reprotect_taken_back_keeps_the_old_side_fenced(world: World) -> None:
    """Reprotect fences the old side and fails; after the way back nothing runs there."""
    world.fault("home", "refuse")
    world.begin("failover", "home", "away", "point1").all()
    world.heal("home")
    world.look("away")
    run = world.begin("reprotect", "away", "home").all(until="request")
    assert world.facts.fences["home"] == "fenced"
    run.back()
    assert world.facts.fences["home"] == "fenced"
    assert _states(world, "home") == ["stopped"]


# Replication beside a failover.


@pytest.mark.parametrize("action", ["standby.build", "standby.rest", "standby.fit"])
def test_replication_leaves_a_promoted_database_alone(world: World, action: str) -> None:
    """A copy run that reaches its standby steps after a failover has promoted them is refused, and stops nothing."""
    world.fault("home", "refuse")
    world.begin("failover", "home", "away", "point1").all(until="tiers/db/healthy")
    assert world.facts.standbys["db@away"]["state"] == "active"
    copying = world.begin("replicate", "home", "away", "point1")
    seen = len(world.mutations("away"))
    with pytest.raises(Failed, match="a move has it"):
        copying.attempt(action, {"tier": "db"}, copying.context("standbys/db", {}))
    assert world.mutations("away")[seen:] == []
    assert _states(world, "away") == ["running"]


# A fence is only released by a look.


def test_a_fence_is_not_released_on_a_side_that_is_not_seen(world: World) -> None:
    """Fenced, then silent: the way back stops there for a person, and the journal still says `fenced`."""
    run = world.begin("failover", "home", "away", "point1").all(until="fence")
    assert world.facts.fences["home"] == "fenced"
    world.fault("home", "refuse")
    with pytest.raises(Failed, match="can only be released by a look"):
        run.back()
    assert world.facts.fences["home"] == "fenced"


def test_a_side_that_was_never_touched_is_given_back_without_a_look(world: World) -> None:
    """Unverified and still silent: there is nothing to give back, which is said, and nobody claims to have looked."""
    world.fault("home", "refuse")
    run = world.begin("failover", "home", "away", "point1").all(until="fence")
    path, call = run.undo[-1]
    done = run.attempt(call.action, call.given, run.context(path, call.given, kind="undo"))
    assert "nothing was applied" in done.warning
    assert done.moves == ()
    assert world.facts.fences["home"] == "unverified"


def test_a_side_that_goes_silent_in_the_middle_is_not_called_untouched(world: World) -> None:
    """The rungs were asked for, then nothing answers: the verdict is partial, so that release will want a look."""
    run = world.begin("failover", "home", "away", "point1")
    given = {"site": "source"}
    ctx = run.context("fence", given)
    action = CATALOGUE["fence.apply"]
    answer = action.start(ctx, action.Input(**given))
    assert isinstance(answer, Waiting)
    world.fault("home", "refuse")
    seen = action.observe(ctx, action.Input(**given))
    assert isinstance(seen, Done)
    assert seen.output.verdict == "partial"


# The epoch.


def test_a_claim_is_not_left_behind_by_a_look_that_fails(world: World) -> None:
    """A switchover whose source throttles the look at its identity fails before anything was claimed."""
    world.fault("home", "throttle:sts.GetCallerIdentity")
    run = world.begin("switchover", "home", "away")
    with pytest.raises(Failed):
        run.step(run.plan.step("claim"))
    assert _claim(world) is None


def test_after_the_claim_is_written_nothing_definite_fails(world: World) -> None:
    """The read that follows the write is denied: the outcome is unknown, and a look finds the claim."""
    run = world.begin("failover", "home", "away", "point1")
    ctx = run.context("claim", {})
    real, reads = ctx.witness(), []

    def read(group: str) -> Any:
        reads.append(group)
        if len(reads) == 2:
            raise CloudError(FailureClass.AUTH, "AccessDenied", "no", happened="no", operation="s3:GetObject")
        return real.read(group)

    hooked = _Hook(ctx, witness=lambda: _Hook(real, read=read))
    action = CATALOGUE["epoch.claim"]
    with pytest.raises(CloudError) as caught:
        action.start(hooked, action.Input())
    assert caught.value.happened == "unknown"
    answer = action.observe(hooked, action.Input())
    assert isinstance(answer, Done)
    assert answer.output.epoch == 2


def test_a_lost_write_whose_settling_look_fails_is_unknown(world: World) -> None:
    """The witness could not say whether the claim was written: that is no refusal."""
    ctx = world.begin("failover", "home", "away", "point1").context("claim", {})

    def write(claim: Claim, *, replaces: str) -> str:
        raise CloudError(FailureClass.AUTH, "AccessDenied", "no", happened="no", operation="s3:GetObject")

    real = ctx.witness()
    action = CATALOGUE["epoch.claim"]
    with pytest.raises(CloudError) as caught:
        action.start(_Hook(ctx, witness=lambda: _Hook(real, write=write)), action.Input())
    assert caught.value.happened == "unknown"


def test_an_overridden_claim_is_written_at_the_commit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The witness was away for the claim and is back for the commit: it learns who is active, and since when."""
    ctx = world.begin("failover", "home", "away", "point1").context("x", {})
    ctx.witness().write(Claim("shop", 1, "home"), replaces="")
    _broken_glass(monkeypatch)
    world.fault("edge", "refuse")
    run = world.begin("failover", "home", "away", "point1")
    run.step(run.plan.step("claim"))
    world.heal("edge")
    world.facts.group, world.facts.fences["home"] = "awaiting_commit", "unverified"
    run.step(run.plan.step("confirm"))
    claim = _claim(world)
    assert claim == Claim("shop", 2, "away")
    assert (world.facts.group, world.facts.epoch) == ("active_unprotected", 2)


def test_an_overridden_commit_gives_way_to_another_claim(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another run claimed meanwhile is never written over."""
    ctx = world.begin("failover", "home", "away", "point1").context("x", {})
    ctx.witness().write(Claim("shop", 2, "away", "another", "home"), replaces="")
    _broken_glass(monkeypatch)
    run = world.begin("failover", "home", "away", "point1")
    with pytest.raises(Failed, match="claimed by another"):
        run.step(run.plan.step("confirm"))
    assert _claim(world) == Claim("shop", 2, "away", "another", "home")


def test_release_as_the_last_look_reads_the_witness(world: World) -> None:
    """Done where nothing was claimed; not there while the run's claim stands; done once it was released."""
    run = world.begin("failover", "home", "away", "point1")
    ctx, action = run.context("last", {}), CATALOGUE["epoch.release"]
    assert isinstance(action.observe(ctx, action.Input()), Done)
    run.step(run.plan.step("claim"))
    assert not isinstance(action.observe(ctx, action.Input()), Done)
    run.attempt("epoch.release", {}, ctx)
    assert _claim(world) == Claim("shop", 3, "home")


# Traffic.


def _records(world: World) -> list[dict[str, Any]]:
    reply = world.sites["edge"].call(
        "route53", "ListResourceRecordSets", {"HostedZoneId": world.built["hosted_zone"]}
    )
    return [dict(item) for item in reply["ResourceRecordSets"] if item["Type"] in ("A", "CNAME")]


def _without_balancer(world: World) -> None:
    for site, group in list(world.last.items()):
        tiers = tuple(replace(tier, load_balancer=None) for tier in group.tiers if tier.instances)
        world.last[site] = replace(group, tiers=tiers)


def test_traffic_goes_back_to_addresses_nobody_can_look_up(world: World) -> None:
    """A group without a load balancer: the record comes back as it was, while its machine is stopped."""
    _without_balancer(world)
    before = _records(world)
    run = world.begin("failover", "home", "away", "point1").all(until="traffic")
    assert {item["Type"] for item in _records(world) if item["Name"].startswith("shop.")} == {"A"}
    assert _states(world, "home") == ["stopped"]
    assert run.results["traffic"]["output"]["previous"]
    path, call = run.undo[-1]
    run.attempt(call.action, call.given, run.context(path, call.given, kind="undo"))
    assert _records(world) == before


def test_traffic_that_failed_half_way_goes_back_by_the_frozen_group(world: World) -> None:
    """Without an output the name goes back to the source if it left it, and stays where it never did."""
    before = _records(world)
    run = world.begin("failover", "home", "away", "point1").all(until="tiers/web/healthy")
    action = CATALOGUE["traffic.switch"]
    call = action.undo(action.Input(), None)
    assert call is not None
    seen = len(world.mutations("edge"))
    run.attempt(call.action, call.given, run.context("traffic", call.given, kind="undo"))
    assert world.mutations("edge")[seen:] == []
    run.step(run.plan.step("traffic"))
    assert _records(world) != before
    run.attempt(call.action, call.given, run.context("traffic", call.given, kind="undo"))
    assert _records(world) == before


def test_a_look_that_fails_after_the_upsert_is_unknown(world: World) -> None:
    """The record was set; that the listing fails afterwards is no failure of the switch."""
    run = world.begin("failover", "home", "away", "point1").all(until="tiers/web/healthy")
    ctx, action = run.context("traffic", {}), CATALOGUE["traffic.switch"]
    assert isinstance(action.start(ctx, action.Input()), Waiting)
    world.fault("edge", "throttle:route53.ListResourceRecordSets")
    with pytest.raises(CloudError):
        action.observe(ctx, action.Input())
    world.heal("edge")
    seen = action.observe(ctx, action.Input())
    assert isinstance(seen, Done)
    assert seen.output.previous


# Looks after changes.


def test_a_conflict_seen_after_a_change_is_left_to_the_next_look(world: World) -> None:
    """What `start` sees after its calls is never a definite failure of them; a denied look is unknown."""
    action = CATALOGUE["standby.grow"]
    world.begin("failover", "home", "away", "point1").all(until="tiers/db/attach")
    ctx = world.begin("failover", "home", "away", "point1").context("tiers/db/grow", {})
    given = action.Input(tier="db")

    def look(error: Exception) -> Any:
        def raising(*_: Any) -> Any:
            raise error

        changed = type(action)()
        changed.observe = raising  # type: ignore[method-assign,assignment]
        return changed.start(ctx, given)

    assert isinstance(look(StepFailed(FailureClass.CONFLICT, "two of them")), Waiting)
    with pytest.raises(CloudError) as caught:
        look(CloudError(FailureClass.AUTH, "UnauthorizedOperation", "no", happened="no"))
    assert caught.value.happened == "unknown"


# An empty listing is no proof.


def _untagged(world: World) -> str:
    (database,) = [item.id for item in world.group("home").tier("db").instances]
    tags = [{"Key": "tier"}, {"Key": "Name"}, {"Key": "drpilot:tier"}, {"Key": "drpilot:group"}]
    world.sites["home"].call("ec2", "DeleteTags", {"Resources": [database], "Tags": tags})
    return database


def test_an_old_side_without_tags_is_not_fenced(world: World) -> None:
    """After a failover somebody took the tags off the old database, which runs: nothing seen is no proof."""
    world.fault("home", "refuse")
    world.begin("failover", "home", "away", "point1").all()
    world.heal("home")
    _untagged(world)
    world.look("away")
    run = world.begin("reprotect", "away", "home")
    done = run.attempt("fence.apply", {"site": "target"}, run.context("fence", {"site": "target"}))
    assert done.output.verdict != "fenced"
    assert "shop-db" in str(done.output.rungs)


def test_a_known_instance_without_tags_is_stopped_and_seen(world: World) -> None:
    """The journal's facts name the standby by id: it is found, stopped and counted without any tag."""
    world.fault("home", "refuse")
    world.begin("failover", "home", "away", "point1").all()
    world.heal("home")
    database = _untagged(world)
    world.facts.standbys["db@home"] = {"state": "absent", "facts": {"instances": {"shop-db": database}}}
    world.look("away")
    run = world.begin("reprotect", "away", "home")
    done = run.attempt("fence.apply", {"site": "target"}, run.context("fence", {"site": "target"}))
    assert done.output.verdict == "fenced"
    reply = world.sites["home"].call("ec2", "DescribeInstances", {"InstanceIds": [database]})
    assert reply["Reservations"][0]["Instances"][0]["State"]["Name"] == "stopped"


def test_an_instance_the_cloud_does_not_know_any_more_can_not_write(world: World) -> None:
    """Terminated and forgotten, by its own id: that member is accounted for."""
    (database,) = [item.id for item in world.group("home").tier("db").instances]
    world.sites["home"].call("ec2", "TerminateInstances", {"InstanceIds": [database]})
    run = world.begin("failover", "home", "away", "point1")
    done = run.attempt("fence.apply", {"site": "source"}, run.context("fence", {"site": "source"}))
    assert done.output.verdict == "fenced"


# The old side is marked as soon as it answers.


def test_the_fence_run_marks_the_old_side_once_the_move_is_committed(world: World) -> None:
    """Before the commit it marks nothing; after it every member of the old side carries the epoch."""
    world.fault("home", "refuse")
    run = world.begin("failover", "home", "away", "point1").all(until="answered")
    world.heal("home")
    facts = CompileFacts(world.group("home"), "fence", "practice", "home", "away", name="shop/8")
    early = world.carry("fence", facts).all()
    assert early.results["invalidate"]["output"]["invalidated"] == []
    assert "not committed" in early.warnings["invalidate"]
    world.fault("home", "refuse")
    run.all()
    assert run.results["invalidate"]["output"]["pending"] is True
    world.heal("home")
    late = world.carry("fence", facts).all()
    database = world.built["database"]["instance"]
    assert database in late.results["invalidate"]["output"]["invalidated"]
    reply = world.sites["home"].call("ec2", "DescribeInstances", {"InstanceIds": [database]})
    tags = {item["Key"]: item["Value"] for item in reply["Reservations"][0]["Instances"][0]["Tags"]}
    assert tags["drpilot:invalidated"] == "2"
