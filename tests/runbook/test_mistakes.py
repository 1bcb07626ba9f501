"""What is wrong with a runbook is found before it runs, each mistake with its place."""

# ruff: noqa: E501 - tables of texts and what is said of them: one a line

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drpilot.base.errors import DrpilotError
from drpilot.domain.plain import from_plain, to_plain
from drpilot.domain.plan import Plan, PlannedStep
from drpilot.runbook.compile import check, compile, shipped
from tests.runbook.books import CATALOGUE, EACH, FACTS, HEAD, A, book, found, planned

# -- mistakes ------------------------------------------------------------------------------------------------------

WITH = "{id: b, action: check.tier, with: {tier: db, "

MISTAKES: list[tuple[list[str], list[str]]] = [
    (["{id: a, acton: check.target}"], ["5:13: unknown key 'acton' (did you mean 'action'?)"]),
    (["{id: A, action: check.target}"], ["5:10: steps.id: 'A' does not have the form ^[a-z][a-z0-9_]*$"]),
    (["{action: check.target}"], ["5:5: key 'id' is missing under 'steps'"]),
    (["{id: a}"], ["5:5: step 'a' needs exactly one of action, gate and steps"]),
    (["{id: a, action: check.target, gate: go}"], ["5:5: step 'a' needs exactly one of action, gate and steps, it has action and gate"]),
    (["{id: a, steps: []}"], ["5:5: step 'a' is a group with no steps"]),
    (["{id: a, gate: stop}"], ["5:19: steps.gate: must be 'go', 'fence', 'traffic' or 'commit', not 'stop'"]),
    (["{id: a, gate: go, timeout: 5m}"], ["5:5: step 'a' is a gate, which takes no timeout; a gate only asks a person"]),
    (["{id: a, gate: go, with: {}, always: true}"], ["5:5: step 'a' is a gate, which takes no with and no always; a gate only asks a person"]),
    (["{id: a, retry: {attempts: 2}, steps: [{id: x, action: check.target}]}"], ["5:5: step 'a' is a group of steps, which takes no retry; write it on the steps inside, or under defaults"]),
    (["{id: a, action: check.target, foreach: {items: [], key: x, max_items: 1}}"], ["5:5: step 'a' is an action, which takes no foreach; foreach stands around nested `steps`, a message on a gate"]),
    (["{id: a, action: check.target, catch: []}"], ["5:35: key 'catch': is not part of this version of the runbook language"]),
    (["{id: a, action: check.target, pool: x}"], ["5:35: key 'pool': is not part of this version of the runbook language"]),
    (["{id: a, action: check.target, timeout: 0s}"], ["5:44: steps.timeout: must be longer than nothing"]),
    (["{id: a, action: check.target, timeout: 10}"], ["5:44: steps.timeout: '10' is not a duration; write a number with a unit, such as 90s, 15m or 1h30m"]),
    (["{id: a, action: check.target, on_failure: stop}"], ["5:47: steps.on_failure: must be 'pause', 'abort' or 'continue', not 'stop'"]),
    (["{id: a, action: check.target, retry: {errors: [thottled]}}"], ["5:52: steps.retry.errors: 'thottled' is no failure class that can be tried again; known: throttled, transient, timeout, capacity, auth, not_found, conflict, invalid, precondition, rejected"]),
    (["{id: a, action: check.target, retry: {errors: [unknown]}}"], ["5:52: steps.retry.errors: 'unknown' is no failure class that can be tried again; known: throttled, transient, timeout, capacity, auth, not_found, conflict, invalid, precondition, rejected"]),
    (["{id: a, action: check.target, undo: true}"], ["5:41: steps.undo: 'true' is neither false nor an action with its input"]),
    (["{id: a, action: check.target, undo: {actoin: check.target}}"], ["5:41: key 'action' is missing under 'steps.undo'", "5:42: unknown key 'actoin' (did you mean 'action'?)"]),
    (["{id: a, action: check.targett}"], ["5:13: unknown action 'check.targett' (did you mean 'check.target'?)"]),
    (["{id: a, action: check}"], ["5:21: steps.action: 'check' does not have the form ^[a-z][a-z0-9_]*\\.[a-z][a-z0-9_]*$"]),
    (["{id: a, action: check.target, undo: {action: no.such}}"], ["5:42: unknown action 'no.such'"]),
    ([A, "{id: a, action: check.target}"], ["6:6: step id 'a' stands twice, first in line 5"]),
    (["{id: a, steps: [{id: a, action: check.target}]}"], ["5:22: step id 'a' is also the id of the step around it, in line 5"]),
    (["{id: a, action: check.tier}"], ["5:5: action check.tier needs parameter 'tier'"]),
    (["{id: a, action: check.tier, with: {teir: db}}"], ["5:33: action check.tier needs parameter 'tier'", "5:40: action check.tier has no parameter 'teir' (did you mean 'tier'?); known: tier, point, volumes, count, options"]),
    (["{id: a, action: check.target, with: {x: 1}}"], ["5:42: action check.target has no parameter 'x'; it takes none"]),
    ([WITH + "count: many}}"], ["5:50: action check.tier: count: input should be a valid integer, unable to parse string as an integer"]),
    ([WITH + "count: 10}}"], ["5:50: action check.tier: count: input should be less than or equal to 9"]),
    ([WITH + "volumes: [a, {}]}}"], ["5:63: action check.tier: volumes.1: input should be a valid string"]),
    ([WITH + "count: '${{ group.name }}'}}"], ["5:50: action check.tier: count: input should be a valid integer, unable to parse string as an integer"]),
    ([WITH + "point: '${{ run.pont }}'}}"], ["5:50: expression '${{ run.pont }}': run has no 'pont' (did you mean 'point'?); it has: name, mode, drill, point, reason"]),
    ([WITH + "point: '${{ tear }}'}}"], ["5:50: unknown name 'tear' in an expression (did you mean 'target'?); known: group, source, target, point, path, run, steps"]),
    ([WITH + "point: '${{ run.point'}}"], ["5:50: expression '${{ run.point': has no closing }}"]),
    ([WITH + "point: '${{ steps.c.output.free }}'}}", "{id: c, action: check.target}"], ["5:50: steps.c.output.free: step c may not have run: it is not among what b needs"]),
    ([WITH + "point: '${{ steps.b.output.address }}'}}"], ["5:50: steps.b.output.address: a step can't look at its own output"]),
    ([A, WITH + "point: '${{ steps.aa.output.free }}'}}"], ["6:50: steps.aa.output.free: unknown step 'aa' (did you mean 'a'?)"]),
    ([A, WITH + "point: '${{ steps.a.output.fre }}'}}"], ["6:50: steps.a.output.fre: action check.target has no output 'fre' (did you mean 'free'?); it has: free"]),
    ([A, WITH + "point: '${{ steps.a.outputs.free }}'}}"], ["6:50: steps.a.outputs.free: step a has no 'outputs.free'; it has: output, state"]),
    ([A, WITH + "point: '${{ steps.a }}'}}"], ["6:50: steps.a: step a has no 'value'; it has: output, state"]),
    (["{id: a, gate: go}", WITH + "point: '${{ steps.a.output.x }}'}}"], ["6:50: steps.a.output.x: step a has no 'output.x'; it has: state"]),
    ([A, WITH + "point: '${{ steps }}'}}"], ["6:50: an expression names the step it looks at: steps.ID.output.FIELD"]),
    ([A, WITH + "point: '${{ steps[steps.a.state].output }}'}}"], ["6:50: an expression names the step it looks at: steps.ID.output.FIELD"]),
    ([A, WITH + "point: '${{ steps.a.output.free ~ group.nmae ~ group.tiers[7].name }}'}}"], ["6:50: group has no 'nmae' (did you mean 'name'?)", "6:50: group.tiers has no '7'"]),
    (["{id: g, steps: [{id: x, action: check.target}]}", WITH + "point: '${{ steps.g.output.free }}', options: {o: '${{ steps.g.y.output.z }}'}}}"], ["6:50: steps.g.output.free: no step 'output' in g; it has: x", "6:97: steps.g.y.output.z: no step 'y' in g; it has: x"]),
    ([EACH.join(("{", "}, steps: [{id: x, action: check.target}]}")), WITH + "point: '${{ steps.each.dbb.x.output.free }}'}}"], ["6:50: steps.each.dbb.x.output.free: each has no item 'dbb' (did you mean 'db'?); it has: db, app, web"]),
    ([EACH.join(("{", "}, steps: [{id: x, action: check.target}]}")), WITH + "point: '${{ steps.each }}'}}"], ["6:50: steps.each: each is a group of steps; name one of its steps"]),
    ([EACH.join(("{", "}, steps: [{id: x, action: check.target}]}")), "{id: b, action: check.tier, with: {tier: '${{ steps.each[steps.each.db.x.output.free].x.output.free }}'}}"], ["6:40: steps.each.*.x.output.free: which item is meant is known only in the run"]),
    ([A, "{id: b, needs: [c], action: check.target}"], ["6:21: unknown step 'c' in needs; known here: a"]),
    ([A, "{id: b, needs: [aa], action: check.target}"], ["6:21: unknown step 'aa' in needs (did you mean 'a'?); known here: a"]),
    ([A, "{id: b, needs: [b], action: check.target}"], ["6:21: step 'b' can't wait for itself"]),
    (["{id: g, steps: [{id: x, needs: [g], action: check.target}]}"], ["5:37: step 'x' can't wait for the group 'g' it is in"]),
    (["{id: b, needs: [g/x/y], action: check.target}", "{id: g, steps: [{id: x, action: check.target}]}"], ["5:21: unknown step 'g/x/y' in needs; known here: g"]),
    (["{id: a, needs: [c], action: check.target}", "{id: b, action: check.target}", "{id: c, action: check.target}"], ["5:13: steps wait for each other: a needs c needs b needs a"]),
    (["{id: g, needs: [h], steps: [{id: x, action: check.target}]}", "{id: h, steps: [{id: y, action: check.target}]}"], ["5:33: steps wait for each other: g/x needs h/y needs g/x"]),
    (["{id: a, action: check.target, when: run.dril}"], ["5:35: expression 'run.dril': run has no 'dril' (did you mean 'drill'?); it has: name, mode, drill, point, reason"]),
    (["{id: a, action: check.target, when: run.mode}"], ["5:35: expression 'run.mode': gives 'failover', which is neither true nor false; compare it with something"]),
    (["{id: a, action: check.target, when: range(3)}"], ["5:35: expression 'range(3)': calls are not part of expressions; use a filter"]),
    (["{id: a, action: check.target, title: 'x ${{ steps.b.state }}'}"], ["5:35: a title must be known before the run: steps.b.state is not"]),
    (["{id: a, gate: go, message: '${{ run.x }}'}"], ["5:23: expression '${{ run.x }}': run has no 'x'; it has: name, mode, drill, point, reason"]),
    (["{id: f, foreach: {items: '${{ group.tiers }}', key: '${{ item.name }}'}, steps: [{id: x, action: check.target}]}"], ["5:22: key 'max_items' is missing under 'steps.foreach'"]),
    (["{id: f, foreach: {items: '${{ group.tiers }}', key: '${{ item.name }}', max_items: 2}, steps: [{id: x, action: check.target}]}"], ["5:77: there are 3 items, max_items allows 2"]),
    (["{id: f, foreach: {items: '${{ group.tiers }}', key: same, max_items: 9}, steps: [{id: x, action: check.target}]}"], ["5:52: key 'same' comes from two items; each needs its own"]),
    (["{id: f, foreach: {items: [a b], key: '${{ item }}', max_items: 9}, steps: [{id: x, action: check.target}]}"], ["5:37: key 'a b' can't stand in a step's path: letters, digits and ._:@+=- can"]),
    (["{id: f, foreach: {items: [[]], key: '${{ item }}', max_items: 9}, steps: [{id: x, action: check.target}]}"], ["5:36: a key must be a text or a number: a list has no place inside a text"]),
    (["{id: f, foreach: {items: [a], key: '${{ item.x }}', max_items: 9}, steps: [{id: x, action: check.target}]}"], ["5:35: expression '${{ item.x }}': item is 'a', it has no 'x'"]),
    (["{id: f, foreach: {items: '${{ group }}', key: x, max_items: 9}, steps: [{id: x, action: check.target}]}"], ["5:23: the items of a foreach must be a list (a mapping has `| values`)"]),
    (["{id: f, foreach: {items: '${{ group.teirs }}', key: x, max_items: 9}, steps: [{id: x, action: check.targte}]}"], ["5:23: expression '${{ group.teirs }}': group has no 'teirs' (did you mean 'tiers'?); it has: name, primary, secondary, objectives, tiers, map, replicate_every_s, retention, drill, approvals, traffic, fence", "5:91: unknown action 'check.targte' (did you mean 'check.target'?)"]),
    ([A, "{id: f, foreach: {items: '${{ steps.a.output.free }}', key: x, max_items: 9}, steps: [{id: x, action: check.target}]}"], ["6:23: the items of a foreach must be known before the run: steps.a.output.free is not"]),
    (["{id: f, foreach: {items: [a], as: group, key: x, max_items: 9}, steps: [{id: x, action: check.target}]}"], ["5:35: the name 'group' is taken"]),
    (["{id: f, foreach: {items: [a, b], key: '${{ item }}', max_items: 9}, steps: [{id: x, gate: go}]}"], ["5:89: a gate inside a foreach would ask the same thing many times"]),
    (["{id: a, gate: go}", "{id: b, gate: go}"], ["6:13: gate 'go' stands twice, first in line 5"]),
    (["{id: a, gate: commit}"], ["5:13: gate 'commit' belongs to a failover, a switchover or a migration, not to a drill"]),
    (["{id: a, action: core.shell, with: {tier: x}, retry: {attempts: 3}}"], ["5:50: action core.shell can't be repeated safely, so it takes no retry"]),
    (["{id: a, action: check.target, no_way_back: true}", "{id: b, action: check.target, no_way_back: true}"], ["6:35: there is one point of no way back, and line 5 is it"]),
    (["{id: f, foreach: {items: [a], key: x, max_items: 9}, steps: [{id: x, action: check.target, no_way_back: true}]}"], ["5:96: inside a foreach there would be many points of no way back"]),
    (["{id: a, action: point.expire}"], ["!5:13: action point.expire destroys and says nothing about undoing it"]),
    (["{id: a, action: check.target, on_failure: continue}", WITH + "point: '${{ steps.a.output.free }}'}}"], ["!6:50: steps.a.output.free: step a may be left out or fail and then has no output"]),
    (["{id: a, action: check.target, when: run.drill}", WITH + "point: '${{ steps.a.output.free }}'}}"], ["!6:50: steps.a.output.free: step a may be left out or fail and then has no output"]),
]  # fmt: skip


@pytest.mark.row(39)
@pytest.mark.parametrize(("steps", "wanted"), MISTAKES, ids=[str(number) for number in range(len(MISTAKES))])
def test_mistakes_have_their_place(steps: list[str], wanted: list[str]) -> None:
    """Each seeded mistake is found once, at its line and column, with nothing beside it."""
    assert sorted(found(*steps)) == sorted(wanted)


def test_guarded_references_give_no_warning() -> None:
    """A default or a test of state makes it right to look at a step that may have no output."""
    skipped = "{id: a, action: check.target, on_failure: continue}"
    assert found(skipped, WITH + "point: '${{ steps.a.output.free | default(1) }}'}}") == []
    assert found(skipped, WITH + "point: '${{ steps.a.state }}'}}") == []


@pytest.mark.parametrize(
    ("head", "wanted"),
    [
        ("drpilot: 1\nrunbook: x\npurpose: fail\nsteps:\n", "3:10: purpose: must be 'failover', 'switchover', 'migrate', 'reprotect', 'drill', 'replicate', 'burst', 'unburst', 'fence', 'survivor', 'cleanup', 'retire' or 'configure', not 'fail'"),
        ("drpilot: 1\nrunbook: X\npurpose: drill\nsteps:\n", "2:10: runbook: 'X' does not have the form ^[a-z][a-z0-9_-]*$"),
        ("drpilot: 1\nrunbook: x\npurpose: drill\nvars: {a: 1}\nsteps:\n", "4:1: key 'vars': is not part of this version of the runbook language"),
        ("drpilot: 1\nrunbook: x\npurpose: drill\ninputs: {a: 1}\nsteps:\n", "4:1: key 'inputs': is not part of this version of the runbook language"),
        ("drpilot: 1\nrunbook: x\npurpose: drill\nlimits: {paralel: 1}\nsteps:\n", "4:10: unknown key 'paralel' (did you mean 'parallel'?)"),
        ("drpilot: 1\nrunbook: x\npurpose: drill\nlimits: {parallel: 0}\nsteps:\n", "4:20: limits.parallel: must be at least 1, not '0'"),
        ("drpilot: 1\nrunbook: x\npurpose: failover\nsteps:\n", "3:1: a failover marks exactly one step with no_way_back: true"),
    ],
)  # fmt: skip
def test_mistakes_of_the_top(head: str, wanted: str) -> None:
    """The keys at the top are as strict."""
    assert found(A, head=head) == [wanted]


def test_unattended_purposes_have_no_gates() -> None:
    """Nobody is there to answer a gate of a replicate run."""
    assert found("{id: a, gate: go}", head=HEAD.replace("drill", "replicate")) == [
        "5:13: purpose replicate runs unattended; a gate would stop it until somebody looks"
    ]


def test_too_many_steps_and_groups() -> None:
    """A plan has a bound, and a chain of empty groups deeper than Python's stack is a finding."""
    inner = "{id: x, foreach: {items: [" + ",".join(map(str, range(90))) + "], key: '${{ item }}', max_items: 99, as: j}, steps: [{id: y, action: check.target}]}"  # fmt: skip
    outer = "{id: o, foreach: {items: [" + ",".join(map(str, range(90))) + "], key: '${{ item }}', max_items: 99}, steps: [" + inner.replace("item }", "j }") + "]}"  # fmt: skip
    assert "more than 5000 steps" in found(outer)[0]
    chain = [
        f"{{id: g{number}, needs: [g{number + 1}], foreach: {{items: [], key: x, max_items: 1}}, steps: [{{id: x, action: check.target}}]}}"
        for number in range(600)
    ]
    assert found(
        "{id: start, needs: [g0], action: check.target}",
        *chain,
        "{id: g600, needs: [], action: check.target}",
    ) == ["4:1: the steps wait for each other over too many groups"]


def test_compile_raises_with_all_findings() -> None:
    """`compile` gives one error whose data holds every finding, warnings included."""
    text = book("{id: a, action: point.expire}", "{id: b, action: no.such}", "{id: b, action: no.such}")
    with pytest.raises(DrpilotError) as caught:
        compile(text, "t.yaml", FACTS, CATALOGUE)
    assert caught.value.word == "document"
    assert [row["severity"] for row in caught.value.data["findings"]] == [
        "warning",
        "error",
        "error",
        "error",
    ]
    assert caught.value.where == "t.yaml:6:13"


def test_shipped_refuses_names_that_are_no_runbook() -> None:
    """Only names of the library are read, never a path."""
    for name in ("../pyproject", "no-such-runbook", "", "a/b"):
        with pytest.raises(DrpilotError) as caught:
            shipped(name)
        assert caught.value.word == "unknown-file"


def test_shipped_reads_the_library(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is the package's `_runbooks`, else `runbooks` beside the package."""
    from drpilot.runbook import compile as module

    package = tmp_path / "drpilot"
    (tmp_path / "runbooks").mkdir(parents=True)
    package.mkdir()
    (tmp_path / "runbooks" / "drill.yaml").write_text("outer", encoding="utf-8")
    monkeypatch.setattr(module.resources, "files", lambda name: package)
    assert shipped("drill") == ("outer", "drill.yaml")
    with pytest.raises(DrpilotError) as caught:
        shipped("other")
    assert caught.value.why == "shipped are: drill"
    (package / "_runbooks").mkdir()
    (package / "_runbooks" / "drill.yaml").write_text("inner", encoding="utf-8")
    assert shipped("drill") == ("inner", "drill.yaml")


# -- properties ----------------------------------------------------------------------------------------------------

words = st.sampled_from(
    ["id: a", "id: b", "action: check.target", "action: check.tier", "gate: go", "with: {tier: x}", "with: {tier: '${{ group.name }}'}", "with: {tier: '${{ steps.a.output.free }}'}", "needs: []", "needs: [a]", "needs: [b]", "needs: [g/a]", "when: run.drill", "when: steps.a.state == 'x'", "always: true", "timeout: 1m", "undo: false", "steps: [{id: a, action: check.target}]", "foreach: {items: '${{ group.tiers }}', as: t, key: '${{ t.name }}', max_items: 5}", "foreach: {items: [], key: x, max_items: 1}", "title: x", "on_failure: continue", "no_way_back: true", "id: g"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(words, min_size=1, max_size=6), min_size=1, max_size=5))
def test_every_runbook_gives_a_plan_or_findings(steps: list[list[str]]) -> None:
    """Whatever is put together, the answer is a plan in topological order or errors with positions in the file."""
    text = book(*("{" + ", ".join({key.split(":")[0]: key for key in step}.values()) + "}" for step in steps))
    checked = check(text, "t.yaml", FACTS, CATALOGUE)
    for finding in checked.findings:
        assert 1 <= int(finding.where.split(":")[1]) <= text.count("\n") + 1
    if checked.plan is None:
        assert any(finding.severity == "error" for finding in checked.findings)
        return
    seen: set[str] = set()
    for step in checked.plan.steps:
        assert set(step.needs) <= seen
        seen.add(step.path)
    assert len(seen) == len(checked.plan.steps)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 8), st.integers(1, 4), st.integers(1, 4))
def test_parallel_bounds_how_many_items_run_at_once(items: int, parallel: int, length: int) -> None:
    """Running everything that is free, never more than `parallel` items of a foreach are under way, and all end."""
    inner = ", ".join(f"{{id: s{number}, action: check.target}}" for number in range(length))
    listed = ", ".join(f"i{number}" for number in range(items))
    plan = planned(
        f"{{id: f, foreach: {{items: [{listed}], key: '${{{{ item }}}}', parallel: {parallel}, max_items: 9}}, steps: [{inner}]}}",
        "{id: end, action: check.target}",
    )
    done: set[str] = set()
    while len(done) < len(plan.steps):
        free = [step for step in plan.steps if step.path not in done and set(step.needs) <= done]
        assert len(free) <= parallel
        assert free
        if free[0].path == "end":
            assert len(done) == items * length
        done.add(free[-1].path)


def test_planned_steps_are_values() -> None:
    """A planned step compares by value, so that a plan read back from the journal is the plan."""
    plan = planned(A)
    assert from_plain(Plan, to_plain(plan)) == plan
    assert isinstance(plan.steps[0], PlannedStep)
