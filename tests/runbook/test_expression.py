"""Expressions: the grammar allowed, how names are looked up, and that nothing can be grown, called or reached."""

# ruff: noqa: E501 - tables of texts and what is said of them: one a line

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drpilot.base.errors import DrpilotError
from drpilot.domain.plan import Plan, PlannedStep
from drpilot.runbook.expression import (
    MAX_EXPRESSION,
    Reference,
    bare,
    condition,
    evaluate,
    literal,
    references,
    resolve,
    scope_of,
    uses,
)

SCOPE: dict[str, Any] = {
    "steps": {"copy": {"output": {"size": 3, "ids": ["b", "a"], "none": None}, "state": "succeeded"}},
    "tier": {"name": "db", "keys": 7, "volumes": [{"key": "k1"}, {"key": "k2"}], "a b": "spaced"},
    "run": {"drill": False, "point": "p-1"},
    "n": 5,
}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain", "plain"),
        ("", ""),
        ("${{ n }}", 5),
        ("${{n}}", 5),
        ("n=${{ n }}!", "n=5!"),
        ("${{ n }}${{ n }}", "55"),
        ("${{ run.drill }} x", "false x"),
        ("${{ steps.copy.output.size }}", 3),
        ("${{ steps.copy.output.ids }}", ["b", "a"]),
        ("${{ steps.copy.output.ids | sort | join('-') }}", "a-b"),
        ("${{ tier.keys }}", 7),
        ("${{ tier['a b'] }}", "spaced"),
        ("${{ tier.volumes[1].key }}", "k2"),
        ("${{ tier.volumes[-1].key }}", "k2"),
        ("${{ tier.volumes | length }}", 2),
        ("${{ tier.volumes | first }}", {"key": "k1"}),
        ("${{ (tier.volumes | last).key }}", "k2"),
        ("${{ 'dr-' ~ tier.name ~ n }}", "dr-db5"),
        ("${{ 'drill' if run.drill else 'real' }}", "real"),
        ("${{ 1 < n <= 5 and n != 4 }}", True),
        ("${{ not run.drill or missing }}", True),
        ("${{ run.drill and missing }}", False),
        ("${{ 'b' in steps.copy.output.ids }}", True),
        ("${{ 'z' not in steps.copy.output.ids }}", True),
        ("${{ missing | default('x') }}", "x"),
        ("${{ steps.gone.output.size | default(0) }}", 0),
        ("${{ steps.copy.output.none | default(1) }}", None),
        ("${{ missing is defined }}", False),
        ("${{ missing is undefined }}", True),
        ("${{ steps.copy.output.none is none }}", True),
        ("${{ n is number and tier.name is string and tier is mapping and [] is sequence }}", True),
        ("${{ run.drill is false and not (run.drill is true) }}", True),
        ("${{ {'a': n, 'b': [n, (1, 2)]} }}", {"a": 5, "b": [5, [1, 2]]}),
        ("${{ {'a': {'b': {}}} }}", {"a": {"b": {}}}),
        ("${{ '}}' }}", "}}"),
        ("${{ '\\'}}' ~ \"${{\" }}", "'}}${{"),
        ("${{ n + 1 - 2 }}", 4),
        ("${{ -n }}", -5),
        ("${{ tier.name | upper | lower | trim | replace('d', 'D') }}", "Db"),
        ("${{ [3, 1, 3] | unique | max }}", 3),
        ("${{ [3, 1] | min }}", 1),
        ("${{ [1, 3, 2] | reverse }}", [2, 3, 1]),
        ("${{ run | keys }}", ["drill", "point"]),
        ("${{ run | values | length }}", 2),
        ("{% raw %} {# x #} {{ n }}", "{% raw %} {# x #} {{ n }}"),
        ("a\r\n${{ n }}\n", "a\r\n5\n"),
    ],
)
def test_evaluate(text: str, wanted: Any) -> None:
    """A text that is exactly one expression keeps its type, others become text."""
    value = evaluate(text, SCOPE)
    assert value == wanted
    assert type(value) is type(wanted)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("${{ missing }}", "'missing' is not known"),
        ("${{ tierr }}", "did you mean 'tier'?"),
        ("${{ tier.nmae }}", "tier has no 'nmae' (did you mean 'name'?); it has: name"),
        ("${{ tier.items }}", "tier has no 'items'"),
        ("${{ steps.copy.output.size.real }}", "steps.copy.output.size is 3, it has no 'real'"),
        ("${{ tier.name.upper }}", "tier.name is 'db', it has no 'upper'"),
        ("${{ tier.name[0] }}", "it has no 0"),
        ("${{ tier.volumes[2] }}", "tier.volumes has 2 items, none at 2"),
        ("${{ tier.volumes[true] }}", "it has no True"),
        ("${{ tier['__class__'] }}", "tier has no '__class__'"),
        ("${{ ''.__class__.__mro__ }}", "it has no '__class__'"),
        ("${{ n if run.drill }}", "`if` without `else`"),
        ("${{ tier.volumes.append(1) }}", "calls are not part of expressions"),
        ("${{ range(10) }}", "calls are not part"),
        ("${{ 'a' * 100 }}", "multiplication is not part"),
        ("${{ 2 ** 100 }}", "powers are not part"),
        ("${{ n // 2 }}", "FloorDiv, which is not part"),
        ("${{ n / 2 }}", "Div, which is not part"),
        ("${{ n % 2 }}", "Mod, which is not part"),
        ("${{ tier.volumes[0:1] }}", "slices are not part"),
        ("${{ 'a' + 'b' }}", "'a' is no number (texts are joined by ~)"),
        ("${{ run.drill + 1 }}", "False is no number"),
        ("${{ n < 'a' }}", "5 and 'a' can't be compared"),
        ("${{ 1 in n }}", "can't be compared"),
        ("${{ tier.name | uper }}", "there is no filter 'uper' (did you mean 'upper'?)"),
        ("${{ tier.name | attr('x') }}", "there is no filter 'attr'"),
        ("${{ tier is sameas }}", "there is no test 'sameas'"),
        ("${{ tier.name | replace('a') }}", "takes 2 arguments, not 1"),
        ("${{ [] | join(1, 2) }}", "takes 0 to 1 arguments, not 2"),
        ("${{ missing | default(default_value=1) }}", "takes no named arguments"),
        ("${{ tier.name | replace(*tier.volumes) }}", "takes no named arguments"),
        ("${{ n | upper }}", "upper wants a text, not 5"),
        ("${{ n | first }}", "first wants a list, not 5"),
        ("${{ [] | first }}", "first wants a list that is not empty"),
        ("${{ n | keys }}", "keys wants a mapping"),
        ("${{ n | length }}", "length wants a text, a list or a mapping"),
        ("${{ [1, 'a'] | sort }}", "sort wants items of one kind"),
        ("${{ [[]] | join }}", "a list has no place inside a text"),
        ("x ${{ tier }}", "a mapping has no place inside a text"),
        ("x ${{ steps.copy.output.none }}", "nothing (null) has no place inside a text"),
        ("${{ n", "has no closing }}"),
        ("${{ 'a }}", "has no closing }}"),
        ("${{ }}", "can't be understood"),
        ("${{ n n }}", "goes on where it should end, at 'n'"),
        ("${{ n ! }}", "can't be understood"),
        ("${{ 1e999 }}", "number that is too large"),
        ("${{ '\\ud800' }}", "half a character"),
        ("${{ " + "(" * 400 + "n" + ")" * 400 + " }}", "nested too deeply"),
        ("${{ " + "not " * 60 + "n }}", "is too large"),
        ("${{ [" + "1," * 400 + "] }}", "is too large"),
        ("${{ '" + "a" * MAX_EXPRESSION + "' }}", f"is longer than {MAX_EXPRESSION} characters"),
    ],
)
def test_refused(text: str, why: str) -> None:
    """Everything else is refused by name, with the expression in the message."""
    with pytest.raises(DrpilotError) as caught:
        evaluate(text, SCOPE)
    assert caught.value.word == "runbook"
    assert why in caught.value.title


@pytest.mark.parametrize(
    "text",
    [
        "${{ big ~ big ~ big ~ big ~ big }}",
        "${{ [big, big, big, big, big] | join }}",
        "${{ ['', '', '', '', ''] | join(big) }}",
        "${{ big | replace('a', 'aaaaaaaaa') }}",
        "${{ big | replace('', 'aaaaaaaaa') }}",
    ],
)
def test_texts_can_not_grow_without_bound(text: str) -> None:
    """What would make a text beyond the limit is refused before it is made."""
    with pytest.raises(DrpilotError, match="would be longer than 65536 characters"):
        evaluate(text, {"big": "a" * 20_000})


def test_a_dot_is_an_item_and_never_an_attribute() -> None:
    """Names of dict's and list's methods are names of steps and fields like others."""
    names = ["copy", "items", "keys", "values", "get", "pop", "update", "clear"]
    scope = {"steps": {name: {"output": number} for number, name in enumerate(names)}}
    assert [evaluate(f"${{{{ steps.{name}.output }}}}", scope) for name in names] == list(range(8))
    with pytest.raises(DrpilotError, match="steps has no 'copy'"):
        evaluate("${{ steps.copy }}", {"steps": {"x": 1}})


def test_references() -> None:
    """Every name looked up is reported, with computed parts as a star and guarded ones marked."""
    text = "a ${{ steps.copy.output.size > n and tier['a b'] }} ${{ steps[tier.name].output[0] | default(run.x) }}"
    assert references(text) == {
        "steps.copy.output.size", "n", "tier.a b", "steps.*.output.0", "tier.name", "run.x",
    }  # fmt: skip
    found = uses(text, SCOPE)
    assert Reference(("steps", "db", "output", "0"), guarded=True) in found
    assert Reference(("run", "x"), guarded=False) in found
    assert uses("steps.a.state is defined", is_condition=True) == (
        Reference(("steps", "a", "state"), guarded=True),
    )
    assert references("${{ ([n] | first).x ~ {'a': n}.a }}") == {"n"}
    assert references("no expression") == set()


def test_condition() -> None:
    """A condition is one expression, with or without delimiters, that is true or false."""
    assert condition("not run.drill", SCOPE) is True
    assert condition(" ${{ run.drill }} ", SCOPE) is False
    assert condition("false", {}) is False
    assert bare("${{ a }}") == "a"
    assert bare("${{ a }} and ${{ b }}") == "${{ a }} and ${{ b }}"
    for text, why in (("n", "gives 5, which is neither true nor false"), ("run", "gives a mapping"), ("a b", "goes on"), ("missing", "not known")):  # fmt: skip
        with pytest.raises(DrpilotError) as caught:
            condition(text, SCOPE)
        assert why in caught.value.title


def test_resolve_goes_deep_and_leaves_keys() -> None:
    """Lists and mappings are resolved through; keys and other values stay."""
    value = {"a": ["${{ n }}", {"${{ n }}": "x${{ n }}"}], "b": 3, "c": None, "d": (True,)}
    assert resolve(value, SCOPE) == {"a": [5, {"${{ n }}": "x5"}], "b": 3, "c": None, "d": [True]}


def test_scope_of_gives_a_step_the_names_it_uses() -> None:
    """At run time a step sees the context, its frozen foreach variables, and the steps it names, by lexical name."""
    frozen = {
        "tier": {"name": "db"},
        "steps": {"volumes": "tiers/db/volumes", "all": "tiers", "gone": "gone"},
    }
    step = PlannedStep("tiers/db/grow", "a.b", None, {}, (), "f:1:1", scope=frozen)
    plan = Plan(
        "r", "d", "drill", "shop", "drill", "practice", "home", "away", "", (step,), {"run": {"drill": True}}
    )
    results = {
        "tiers/db/volumes": {"output": {"n": 1}},
        "tiers/web/volumes": {"output": {"n": 2}},
        "tiersx": {"output": {}},
    }
    scope = scope_of(plan, step, results)
    assert scope == {
        "run": {"drill": True},
        "tier": {"name": "db"},
        "steps": {
            "volumes": {"output": {"n": 1}},
            "all": {"db": {"volumes": {"output": {"n": 1}}}, "web": {"volumes": {"output": {"n": 2}}}},
        },
    }
    assert evaluate("${{ steps.gone.output.x | default(4) }}", scope) == 4


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["${{ n }}", "${{", "a ${{ b", "${{ '${{' }}"]), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=8))  # fmt: skip
def test_literal_survives_resolve(value: Any) -> None:
    """Data that looks like an expression comes through the plan unchanged."""
    assert resolve(literal(value), {}) == value


pieces = st.sampled_from(
    ["n", "tier", ".name", ".x", "[0]", "['a b']", "run.drill", " and ", " or ", " not ", " in ", " is ", "defined", "none", "(", ")", "[", "]", "{", "}", ":", ",", " | ", "default(1)", "first", "join(',')", "length", "sort", "'a'", '"', "\\", "1", "2.5", "1e9", "+", "-", "*", "**", "~", "==", "<", " if ", " else ", "}}", "${{", "%}", "#", "\n", "é", "__class__", "()", "lambda"]
)  # fmt: skip


@settings(max_examples=600)
@given(st.lists(pieces, max_size=14).map("".join) | st.text(max_size=30))
def test_no_text_gives_anything_but_a_json_value_or_a_refusal(text: str) -> None:
    """Whatever stands between the delimiters, the answer is plain data of bounded size or the one error."""
    for call in (
        lambda: evaluate(f"${{{{ {text} }}}}", SCOPE),
        lambda: condition(text, SCOPE),
        lambda: evaluate(text, SCOPE),
    ):
        try:
            value = call()
        except DrpilotError as error:
            assert error.word == "runbook"  # noqa: PT017 - the other branch is as good
        else:
            assert is_plain(value)
    try:
        found = references(f"${{{{ {text} }}}}")
    except DrpilotError:
        return
    assert all(isinstance(path, str) for path in found)


def is_plain(value: Any) -> bool:
    """JSON and nothing else."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)


@given(st.integers(-50, 50), st.integers(-50, 50), st.booleans(), st.lists(st.integers(0, 9), max_size=5))
def test_agrees_with_python(a: int, b: int, flag: bool, items: list[int]) -> None:
    """Comparison, sums, truth and membership mean what they mean in Python."""
    scope = {"a": a, "b": b, "flag": flag, "items": items}
    cases = {
        "a < b": a < b,
        "a <= b and not flag": a <= b and not flag,
        "a + b - 1 == b": a + b - 1 == b,
        "flag or a in items": flag or a in items,
        "(a if flag else b) > 0": (a if flag else b) > 0,
        "items | sort == items | unique | sort": sorted(items) == sorted(set(items)),
        "items | length > 2": len(items) > 2,
    }
    for text, wanted in cases.items():
        assert condition(text, scope) is bool(wanted), text
