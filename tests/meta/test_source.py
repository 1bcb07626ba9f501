"""The shape of the code: short files, short functions, docstrings, no rooms for odds and ends."""

from __future__ import annotations

import ast
import re

import pytest

from tests.meta.source import PACKAGE, Source, rooms, sources

LONGEST_FILE = 500
LONGEST_FUNCTION = 70
# Data that is one literal, and the first schema: splitting either would only hide it.
LONG_ON_PURPOSE = {
    "drpilot/base/catalogue.py": "_rows",
    "migrations/versions/0001_the_first_journal.py": "upgrade",
}
NO_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc", "base_manager"}

every = pytest.mark.parametrize("source", sources(), ids=lambda source: source.name)
shipped = pytest.mark.parametrize("source", sources("drpilot", "tools"), ids=lambda source: source.name)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(source: Source) -> list[Function]:
    return [node for node in ast.walk(source.tree) if isinstance(node, Function)]


def undocumented(body: list[ast.stmt], prefix: str = "") -> list[str]:
    found = []
    for node in body:
        if isinstance(node, (Function, ast.ClassDef)) and not node.name.startswith("_"):
            if ast.get_docstring(node) is None and not (prefix and isinstance(node, Function)):
                found.append(f"{prefix}{node.name}:{node.lineno}")
            if isinstance(node, ast.ClassDef):
                found += undocumented(node.body, f"{prefix}{node.name}.")
    return found


@every
def test_files_are_short(source: Source) -> None:
    """No file is longer than 500 lines; a longer one holds two concepts."""
    assert source.lines <= LONGEST_FILE, f"{source.name} has {source.lines} lines"


@every
def test_functions_are_short(source: Source) -> None:
    """No function is longer than 70 lines, its docstring included."""
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in functions(source)
        if node.end_lineno is not None
        and node.end_lineno - node.lineno >= LONGEST_FUNCTION
        and LONG_ON_PURPOSE.get(source.name) != node.name
    ]
    assert long == [], source.name


@every
def test_modules_say_what_they_are(source: Source) -> None:
    """Every module begins with a docstring; an empty file that only marks a package needs none."""
    assert ast.get_docstring(source.tree) or not source.tree.body, f"{source.name} has no docstring"


@shipped
def test_public_names_have_docstrings(source: Source) -> None:
    """Every public function and class says what it promises; methods may inherit theirs from a port."""
    assert undocumented(source.tree.body) == [], source.name


@shipped
def test_annotations_are_not_evaluated(source: Source) -> None:
    """Every module with code has `from __future__ import annotations`, so that all read the same."""
    has_code = any(not isinstance(node, (ast.Expr, ast.Assign)) for node in source.tree.body)
    assert not has_code or "from __future__ import annotations" in source.text, source.name


@pytest.mark.parametrize("source", sources("tests"), ids=lambda source: source.name)
def test_tests_say_what_they_show(source: Source) -> None:
    """Every test has a one-sentence docstring."""
    silent = [
        node.name
        for node in functions(source)
        if node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert silent == [], source.name


def test_no_room_for_odds_and_ends() -> None:
    """No module is called utils, helpers, common or manager: a module is a noun of the field."""
    names = {path.stem for path in PACKAGE.rglob("*.py")} | set(rooms())
    assert names & NO_NAMES == set()


def test_suppressions_have_a_code() -> None:
    """Each `noqa` and `type: ignore` names what it suppresses."""
    bare = re.compile(r"#\s*(noqa(?!:\s*[A-Z]+\d+)|type:\s*ignore(?!\[))")
    found = [
        f"{source.name}:{number}"
        for source in sources("drpilot", "migrations", "tools")
        for number, line in enumerate(source.text.splitlines(), 1)
        if bare.search(line)
    ]
    assert found == []
