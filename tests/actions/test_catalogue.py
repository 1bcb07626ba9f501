"""The catalogue, the rules every action keeps, and the shipped runbooks compiled for a group by hand."""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from pathlib import Path

import pytest

from drpilot.actions.catalogue import CATALOGUE, entries, permissions
from drpilot.domain.group import (
    Group,
    Instance,
    LoadBalancer,
    Map,
    Objectives,
    ScalingGroup,
    StandbySize,
    Tier,
    Traffic,
    Volume,
)
from drpilot.domain.plan import Plan
from drpilot.domain.ports import Effect, Idempotency
from drpilot.runbook.compile import ActionFacts, CompileFacts, compile, shipped

KNOWN = {name: ActionFacts.of(action) for name, action in CATALOGUE.items()}
RUNBOOKS = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "runbooks").glob("*.yaml"))
# EC2 API model: these create and take no ClientToken.
TOKENLESS = (
    "point.capture",
    "point.copy",
    "image.register",
    "drill.network",
    "drill.subnet",
    "drill.group",
    "standby.address",
)


def _group() -> Group:
    volumes = tuple(
        Volume(f"shop-db/dev/{name}", f"vol-{name}", f"/dev/{name}", 1, "gp3", root=name == "xvda")
        for name in ("xvda", "sdf", "sdg")
    )
    database = Instance("shop-db", "i-1", "m5.large", "a", "subnet-1", "ami-1", "running", volumes=volumes)
    scaling = ScalingGroup("shop-web", "ami-2", "t3.medium", 1, 4, 2, subnets=("subnet-1",))
    balancer = LoadBalancer(
        "shop-lb",
        "arn:x",
        "shop-lb.example",
        "internal",
        "application",
        ("subnet-1",),
        (),
        80,
        "HTTP",
        "t",
        8080,
        "HTTP",
    )
    tiers = (
        Tier("db", instances=(database,), standby=StandbySize("t3.small", "m5.large")),
        Tier("web", scaling_group=scaling, scaling_group_name="shop-web", load_balancer=balancer),
    )
    traffic = Traffic("shop.example.org", "Z1", "edge")
    return Group(
        "shop",
        "home",
        "away",
        Objectives(900, 1800),
        tiers,
        Map(subnets={"subnet-1": "subnet-2"}),
        traffic=traffic,
    )


def _plan(name: str) -> Plan:
    text, file = shipped(name)
    mode = "cleanup" if name == "retire" else name
    facts = CompileFacts(
        _group(), mode, "move", "home", "away", point="p1", name="shop/1", drill=name == "drill"
    )
    return compile(text, file, facts, KNOWN)


@pytest.mark.row(41)
@pytest.mark.parametrize("name", RUNBOOKS)
def test_a_shipped_runbook_compiles(name: str) -> None:
    """Each shipped runbook makes a plan for a group with an instance tier and a scaling tier, without a warning."""
    from drpilot.runbook.compile import check

    text, file = shipped(name)
    mode = "cleanup" if name == "retire" else name
    checked = check(text, file, CompileFacts(_group(), mode, "move", "home", "away", point="p1"), KNOWN)
    assert checked.findings == ()
    assert checked.plan is not None
    assert checked.plan.steps


def test_every_mode_of_the_language_has_a_runbook() -> None:
    """replicate, failover, switchover, reprotect, drill, fence and cleanup are all shipped."""
    from drpilot.runbook.language import PURPOSES

    assert set(PURPOSES) <= set(RUNBOOKS)


@pytest.mark.parametrize("name", ["failover", "switchover", "migrate"])
def test_a_move_keeps_the_order_that_protects_the_data(name: str) -> None:
    """Epoch before fence, fence before promotion, checks before traffic, one point of no return, commit after it."""
    steps = _plan(name).steps
    place = {step.path: index for index, step in enumerate(steps)}
    promote = min(
        index for path, index in place.items() if path.endswith("/volumes") and path.startswith("tiers/")
    )
    checked = max(index for path, index in place.items() if path.endswith("/healthy"))
    assert place["go"] < place["claim"] < place["fence"] < place["fence_ok"] < promote
    assert (
        checked
        < place["traffic_ok"]
        < place["traffic"]
        < place["answered"]
        < place["commit"]
        < place["confirm"]
    )
    assert [step.path for step in steps if step.no_way_back] == ["traffic"]


def test_a_switchover_stops_from_last_to_first_and_copies_after_that() -> None:
    """Users first, data last; the last point is asked for when nobody writes any more."""
    paths = [step.path for step in _plan("switchover").steps]
    assert paths.index("stop/web/writers") < paths.index("stop/db/writers") < paths.index("quiet")
    assert paths.index("quiet") < paths.index("request") < paths.index("captured") < paths.index("fence")


def test_a_migration_is_a_switchover_with_a_bootstrap() -> None:
    """Step by step the same, waiting for the same: what is mended in one of the two is mended in the other."""
    texts = [shipped(name)[0].split("steps:", 1)[1].splitlines() for name in ("switchover", "migrate")]
    told = [line for line in difflib.ndiff(*texts) if line[0] in "-+"]
    assert [line[0] for line in told] == ["+"] * 5
    assert "- id: bootstrap" in told[0]


def test_a_drill_cleans_up_whatever_came_and_proves_only_at_the_end() -> None:
    """The clean-up is `always`, and the point is proven after the last check."""
    steps = _plan("drill").steps
    assert all(step.always for step in steps if step.path.startswith("clean/"))
    paths = [step.path for step in steps]
    assert paths.index("isolated") < paths.index("tiers/db/launch")
    assert paths.index("tiers/web/healthy") < paths.index("prove") < paths.index("clean/machines")


def test_a_create_call_without_a_token_is_found_by_its_tags() -> None:
    """Actions around calls that take no ClientToken declare `observe`: found before a repeat, after several looks."""
    for name in TOKENLESS:
        assert CATALOGUE[name].idempotency is Idempotency.OBSERVE, name
        assert CATALOGUE[name].effect is Effect.CREATE, name


def test_pure_actions_change_nothing_and_others_say_what_they_need() -> None:
    """An action that only looks has no effect; one with an effect names its permissions, in IAM's own form."""
    for action in CATALOGUE.values():
        assert (action.idempotency is Idempotency.PURE) == (action.effect is Effect.NONE), action.name
        assert action.permissions or action.effect is Effect.NONE, action.name
        for permission in action.permissions:
            assert re.fullmatch(r"[a-z0-9-]+:[A-Z][A-Za-z0-9]+", permission), permission


def test_undo_names_an_action_and_an_input_it_takes() -> None:
    """Every undo that an output gives is a call that the catalogue can carry out."""
    given = {
        "epoch.claim": ({}, {"epoch": 2, "active": "away"}),
        "fence.apply": ({"site": "source"}, {"site": "home", "verdict": "fenced", "rungs": []}),
        "mover.run": ({"tier": "db", "instance": "x"}, {"snapshots": {"x/dev/sdf": "snap-1"}}),
        "point.request": ({}, {"point": "p", "source": "home", "site": "away"}),
        "point.restore": ({"tier": "db", "point": "p"}, {"tier": "db"}),
        "standby.address": (
            {"tier": "db", "instance": "x"},
            {"tier": "db", "member": "x", "address": "127.200.0.1"},
        ),
        "standby.attach": ({"tier": "db"}, {"tier": "db"}),
        "standby.detach": ({"tier": "db"}, {"tier": "db"}),
        "standby.grow": ({"tier": "db"}, {"tier": "db"}),
        "traffic.switch": ({}, {"name": "shop.example.org", "to": "away"}),
        "volume.import": ({"tier": "db", "member": "x/dev/sdf"}, {"volume": "vol-1"}),
        "writers.stop": ({"tier": "db"}, {"tier": "db", "instances": ["i-1"]}),
    }
    for name, (inputs, output) in given.items():
        action = CATALOGUE[name]
        call = action.undo(action.Input.model_validate(inputs), action.Output.model_validate(output))
        assert call is not None, name
        CATALOGUE[call.action].Input.model_validate(dict(call.given))
    reversible = {name for name, action in CATALOGUE.items() if "undo" in vars(type(action))}
    assert reversible == set(given)


def test_steps_that_protect_the_data_say_so() -> None:
    """Fence, promotion and epoch steps are never skipped; looks at nothing but facts may be."""
    for name in (
        "epoch.claim",
        "epoch.confirm",
        "fence.apply",
        "point.restore",
        "standby.grow",
        "check.isolation",
    ):
        assert CATALOGUE[name].protects, name
    assert not CATALOGUE["check.source"].protects


def test_the_documentation_has_every_action_with_its_fields() -> None:
    """Name, summary, inputs with their defaults, outputs and permissions of all actions, sorted."""
    listed = entries()
    assert [entry.name for entry in listed] == sorted(CATALOGUE)
    by_name = {entry.name: entry for entry in listed}
    restore = by_name["point.restore"]
    assert [(field.name, field.required) for field in restore.inputs] == [("tier", True), ("point", True)]
    assert by_name["fence.apply"].inputs[0].default == "'source'"
    assert all(entry.summary and not entry.summary.endswith(".") for entry in listed)


def test_a_policy_is_the_union_of_what_the_steps_need() -> None:
    """A drill's policy holds what its steps call and no right to stop or promote anything."""
    used = {str(step.action) for step in _plan("drill").steps}
    rights = permissions(used)
    assert "ec2:CreateVpc" in rights
    assert "ec2:StopInstances" not in rights
    assert not [right for right in rights if right.startswith(("route53:Change", "s3:"))]


def test_a_map_without_a_partner_is_a_failure_that_names_the_key() -> None:
    """A subnet nobody mapped stops the step with a hint at the group file, before any call."""
    from drpilot.actions.carry import subnet
    from drpilot.domain.ports import StepFailed

    class Bare:
        """Only what the mapping needs."""

        group = replace(_group(), map=Map())
        source, target = "home", "away"

    with pytest.raises(StepFailed, match=r"map\.subnets"):
        subnet(Bare(), "subnet-1")  # type: ignore[arg-type]
