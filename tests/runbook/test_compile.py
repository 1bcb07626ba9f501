"""Compiling runbooks into plans: a fixed graph of steps, the same for the same facts."""

# ruff: noqa: E501 - tables of texts and what is said of them: one a line

from __future__ import annotations

from dataclasses import replace
from typing import Any

from drpilot.domain.plain import from_plain, to_plain
from drpilot.domain.plan import Call, Plan, Retry
from drpilot.domain.ports import Action, Answer, Context, Done, Effect, Idempotency, Model
from drpilot.runbook.compile import ActionFacts, CompileFacts, compile
from drpilot.runbook.expression import condition, resolve, scope_of
from tests.runbook.books import CATALOGUE, EACH, FACTS, GROUP, HEAD, A, OfSite, OfTier, book, needs, planned

# -- plans ---------------------------------------------------------------------------------------------------------


def test_a_whole_failover() -> None:
    """A pilot-light failover becomes a chain with one branch per tier, in the order of the tiers."""
    text = book(
        "{id: ready, action: check.target}",
        "{id: seen, needs: [], action: check.target, on_failure: continue}",
        "{id: go, gate: go, needs: [ready, seen], message: 'to ${{ target }}'}",
        "{id: fence, action: fence.apply, with: {site: source}}",
        EACH.join(
            (
                "{",
                '}, steps: [{id: restore, action: point.restore, with: {tier: "${{ tier.name }}", point: "${{ run.point }}"}}, {id: grow, title: "grow ${{ tier.name }}", action: standby.grow, with: {tier: "${{ tier.name }}", volumes: "${{ steps.restore.output.volumes }}"}}]}',
            )
        ),
        "{id: traffic, action: traffic.switch, no_way_back: true, timeout: 3m}",
        "{id: commit, gate: commit}",
        head=HEAD.replace("drill", "failover"),
    )
    plan = compile(text, "t.yaml", FACTS, CATALOGUE)
    assert needs(plan) == {
        "ready": [],
        "seen": [],
        "go": ["ready", "seen"],
        "fence": ["go"],
        "each/db/restore": ["fence"],
        "each/db/grow": ["each/db/restore"],
        "each/app/restore": ["each/db/grow"],
        "each/app/grow": ["each/app/restore"],
        "each/web/restore": ["each/app/grow"],
        "each/web/grow": ["each/web/restore"],
        "traffic": ["each/web/grow"],
        "commit": ["traffic"],
    }
    grow = plan.step("each/app/grow")
    assert grow.given == {"tier": "app", "volumes": "${{ steps.restore.output.volumes }}"}
    assert grow.scope["steps"] == {"restore": "each/app/restore"}
    assert (grow.title, grow.position, grow.idempotency, grow.effect) == (
        "grow app",
        "t.yaml:9:212",
        "observe",
        "change",
    )
    results = {"each/app/restore": {"output": {"volumes": ["vol-9"]}, "state": "succeeded"}}
    assert resolve(grow.given, scope_of(plan, grow, results)) == {"tier": "app", "volumes": ["vol-9"]}
    assert plan.step("each/db/restore").given == {"tier": "db", "point": "p-1"}
    assert plan.step("go").message == "to away"
    assert plan.step("fence").protects
    assert plan.step("fence").given == {"site": "source"}
    traffic = plan.step("traffic")
    assert (traffic.no_way_back, traffic.timeout_s, traffic.position) == (True, 180.0, "t.yaml:10:5")
    assert plan.step("seen").on_failure == "continue"
    assert (plan.purpose, plan.mode, plan.lane, plan.source, plan.target) == (
        "failover",
        "failover",
        "move",
        "home",
        "away",
    )
    assert plan.context["run"] == {
        "name": "",
        "mode": "failover",
        "drill": False,
        "point": "p-1",
        "reason": "INC-1",
    }
    assert from_plain(Plan, to_plain(plan)).digest == plan.digest


def test_defaults_retry_and_limits() -> None:
    """A step's own rule stands over the runbook's defaults, those over the engine's."""
    head = (
        "drpilot: 1\nrunbook: test-book\npurpose: drill\nlimits: {parallel: 4, per_site: 2}\n"
        "defaults: {timeout: 1m, on_failure: abort, retry: {attempts: 7, errors: [capacity], backoff: {first: 3s, jitter: false}}}\n"
        "steps:\n"
    )
    plan = planned(
        A,
        "{id: b, action: check.target, retry: {attempts: 2, backoff: {factor: 1.5, max: 9s, jitter: true}}, on_failure: pause}",
        "{id: c, action: core.shell, with: {tier: x}, timeout: 90s}",
        "{id: d, gate: go}",
        head=head,
    )
    assert (plan.parallel, plan.per_site) == (4, 2)
    assert plan.step("a").retry == Retry(7, ("capacity",), 3.0, 2.0, 60.0, jitter=False)
    assert plan.step("b").retry == Retry(2, ("capacity",), 3.0, 1.5, 9.0, jitter=True)
    assert plan.step("c").retry.attempts == 1
    assert [step.timeout_s for step in plan.steps] == [60.0, 60.0, 90.0, 60.0]
    assert [step.on_failure for step in plan.steps] == ["abort", "pause", "abort", "pause"]


def test_needs_in_all_their_forms() -> None:
    """Absent means the step above, [] at once, a name its end, a group all its ends, a path one step of an item."""
    plan = planned(
        A,
        "{id: b, needs: [], action: check.target}",
        "{id: g, needs: [a], steps: [{id: x, action: check.target}, {id: y, needs: [], action: check.target}, {id: z, needs: [x, y], action: check.target}, {id: w, needs: [x], action: check.target}]}",
        "{id: c, needs: [g, b], action: check.target}",
        EACH.join(("{", ", parallel: 2}, needs: [], steps: [{id: p, action: check.target}, {id: q, needs: [b], action: check.target}]}")),
        "{id: d, action: check.target}",
        "{id: e, needs: [each/app/p, g/x], action: check.target}",
        "{id: none, foreach: {items: [], key: '${{ item }}', max_items: 3}, steps: [{id: n, action: check.target}]}",
        "{id: f, action: check.target}",
    )  # fmt: skip
    assert needs(plan) == {
        "a": [],
        "b": [],
        "g/x": ["a"],
        "g/y": ["a"],
        "g/z": ["g/x", "g/y"],
        "g/w": ["g/x"],
        "c": ["g/z", "g/w", "b"],
        "each/db/p": [],
        "each/db/q": ["b"],
        "each/app/p": [],
        "each/app/q": ["b"],
        "each/web/p": ["each/db/p", "each/db/q"],
        "each/web/q": ["b", "each/db/p", "each/db/q"],
        "d": ["each/app/p", "each/app/q", "each/web/p", "each/web/q"],
        "e": ["each/app/p", "g/x"],
        "f": ["e"],
    }


def test_steps_come_in_topological_order() -> None:
    """A step that needs a later one comes after it; where the order is free, the file's is kept."""
    plan = planned("{id: late, needs: [early], action: check.target}", "{id: free, needs: [], action: check.target}", "{id: early, needs: [], action: check.target}")  # fmt: skip
    assert [step.path for step in plan.steps] == ["free", "early", "late"]


def test_foreach_over_lists_of_any_kind() -> None:
    """Items may be texts, numbers or mappings; a slash in a key becomes a colon in the path."""
    plan = planned(
        '{id: v, foreach: {items: "${{ (group.tiers | first).instances[0].volumes }}", as: volume, key: "${{ volume.key }}", parallel: 8, max_items: 9}, steps: [{id: make, action: point.restore, with: {tier: "${{ volume.id }}"}}]}',
        "{id: t, needs: [], foreach: {items: [x, 2], key: '${{ item }}', max_items: 2}, steps: [{id: s, action: check.tier, with: {tier: 'n${{ item }}'}}]}",
        "{id: last, needs: [], foreach: {items: ['${{ source }}', '${{ target }}'], as: site, key: '${{ site }}', max_items: 2}, steps: [{id: s, action: fence.apply, with: {site: '${{ site }}'}}]}",
    )  # fmt: skip
    assert {step.path: dict(step.given) for step in plan.steps} == {
        "v/db-1:dev:sdf/make": {"tier": "vol-f"},
        "v/db-1:dev:sdg/make": {"tier": "vol-g"},
        "v/db-1:dev:sdh/make": {"tier": "vol-h"},
        "t/x/s": {"tier": "nx"},
        "t/2/s": {"tier": "n2"},
        "last/home/s": {"site": "home"},
        "last/away/s": {"site": "away"},
    }
    assert plan.step("v/db-1:dev:sdf/make").needs == plan.step("v/db-1:dev:sdh/make").needs == ()


def test_conditions() -> None:
    """A condition on known facts is decided now and stays visible, a whole list with a false one is
    not there; one on outputs waits; groups hand theirs down.
    """
    drill = CompileFacts(GROUP, "drill", "practice", "home", "away", drill=True)
    plan = planned(
        A,
        "{id: b, action: check.target, when: not run.drill}",
        "{id: c, action: check.target, when: run.drill}",
        "{id: d, action: check.target, when: '${{ steps.a.output.free > 2 }}'}",
        "{id: g, when: steps.a.output.free > 1, always: true, steps: [{id: x, action: check.target, when: steps.a.output.free < 9}, {id: y, action: check.target, when: not run.drill}]}",
        "{id: h, when: not run.drill, steps: [{id: z, action: check.tier, with: {tier: '${{ group.nothing }}', point: '${{ steps.b.output.free }}'}}]}",
        "{id: i, when: not run.drill, foreach: {items: '${{ group.nothing }}', key: x, max_items: 1}, steps: [{id: z, action: check.target}]}",
        facts=drill,
    )  # fmt: skip
    steps = {step.path: step for step in plan.steps}
    assert steps["b"].when == "false"
    assert steps["b"].message == "left out: `not run.drill` is false"
    assert condition(steps["b"].when or "", plan.context) is False
    assert steps["c"].when is None
    assert steps["d"].when == "steps.a.output.free > 2"
    assert steps["g/x"].when == "(steps.a.output.free > 1) and (steps.a.output.free < 9)"
    assert steps["g/y"].when == "false"
    assert steps["g/x"].always and not steps["d"].always
    assert "h/z" not in steps
    assert "i/x/z" not in steps
    scope = scope_of(plan, steps["g/x"], {"a": {"output": {"free": 5}, "state": "succeeded"}})
    assert condition(steps["g/x"].when or "", scope) is True


def test_undo() -> None:
    """An author's undo replaces the action's own and may look at the step's output; `false` says there is none."""
    plan = planned(
        "{id: a, action: point.restore, with: {tier: db}, undo: {action: check.tier, with: {tier: '${{ steps.a.output.size }}', point: '${{ point }}'}}}",
        "{id: b, action: point.expire, undo: false}",
        "{id: c, action: check.target}",
    )
    assert plan.step("a").undo == Call("check.tier", {"tier": "${{ steps.a.output.size }}", "point": "p-1"})
    assert plan.step("a").scope == {"steps": {"a": "a"}}
    assert [step.undoes for step in plan.steps] == [True, False, True]


def test_references_across_items_and_groups() -> None:
    """A reference may go into a group, into a named or computed item of a foreach, and to a state."""
    plan = planned(
        "{id: g, steps: [{id: x, action: check.target}]}",
        EACH.join(("{", "}, steps: [{id: p, action: point.restore, with: {tier: x}}]}")),
        "{id: b, action: check.tier, with: {tier: '${{ steps.g.x.output.free }}', point: '${{ steps.each.db.p.output.volumes[0] ~ steps.each[(group.tiers | last).name].p.state }}'}}",
        "{id: c, action: check.tier, with: {tier: '${{ steps.each.db.p.output }}', options: {a: ['${{ steps.b.state }}', 1]}}}",
    )
    step = plan.step("b")
    assert step.scope["steps"] == {"g": "g", "each": "each"}
    results: dict[str, Any] = {
        "g/x": {"output": {"free": "f"}},
        "each/db/p": {"output": {"volumes": ["v"]}},
        "each/web/p": {"state": "warned"},
    }
    assert resolve(step.given, scope_of(plan, step, results)) == {"tier": "f", "point": "vwarned"}


def test_data_is_never_taken_for_an_expression() -> None:
    """A `${{` that comes out of a member's data stays data when the engine resolves the input."""
    plan = planned(
        "{id: a, action: check.tier, with: {tier: '${{ (group.tiers | first).instances[0].key_pair }}'}}"
    )
    step = plan.steps[0]
    assert resolve(step.given, scope_of(plan, step, {})) == {"tier": "${{ evil }}"}


def test_action_facts_of_an_action() -> None:
    """The facts of an action are what it declares."""

    class Made(Model):
        id: str

    class Make(Action[OfTier, Made]):
        name = "thing.make"
        summary = "makes"
        idempotency = Idempotency.TOKEN
        effect = Effect.CREATE
        protects = True
        Input = OfTier
        Output = Made

        def start(self, ctx: Context, given: OfTier) -> Answer[Made]:
            return Done(Made(id=given.tier))

        def observe(self, ctx: Context, given: OfTier) -> Answer[Made]:
            return Done(Made(id=given.tier))

    assert ActionFacts.of(Make()) == ActionFacts("thing.make", "token", "create", True, OfTier, ("id",))


def test_a_step_knows_the_sites_it_calls_and_the_slot_it_holds() -> None:
    """Roles and inputs become names; what only the run will know counts at the target; limits are frozen in the plan."""
    catalogue = {
        "a.copy": ActionFacts("a.copy", "observe", "create", False, OfTier, (), slot="copy-snapshot"),
        "a.both": ActionFacts("a.both", "observe", "create", False, OfTier, (), ("source", "target")),
        "a.fit": ActionFacts("a.fit", "rerun", "change", False, OfSite, ("site",), ("site",)),
    }
    slots = {"away": {"copy-snapshot": 20}, "home": {"copy-snapshot": 5}}
    text = book(
        "{id: copy, action: a.copy, with: {tier: db}}",
        "{id: both, action: a.both, with: {tier: db}}",
        "{id: role, action: a.fit, with: {site: source}}",
        "{id: name, action: a.fit, with: {site: edge}}",
        "{id: late, action: a.fit, with: {site: '${{ steps.name.output.site }}'}}",
        head=HEAD.replace("steps:", "limits: {parallel: 9, per_site: 3}\nsteps:"),
    )
    plan = compile(text, "t.yaml", replace(FACTS, slots=slots), catalogue)
    assert {step.path: step.sites for step in plan.steps} == {
        "copy": ("away",),
        "both": ("home", "away"),
        "role": ("home",),
        "name": ("edge",),
        "late": ("away",),
    }
    assert [step.slot for step in plan.steps] == ["away copy-snapshot", "", "", "", ""]
    assert dict(plan.slots) == {"away copy-snapshot": 20, "home copy-snapshot": 5}
    assert (plan.parallel, plan.per_site) == (9, 3)
