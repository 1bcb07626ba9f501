"""The shape of the code: short files, short functions, docstrings, no rooms for odds and ends."""

from __future__ import annotations

import ast
import re

from tests.meta.source import PACKAGE, Source, rooms, sources

LONGEST_FILE = 500
LONGEST_FUNCTION = 70
# Data that is one literal, and the first schema: splitting either would only hide it.
LONG_ON_PURPOSE = {
    "drpilot/base/catalogue.py": "_rows",
    "migrations/versions/0001_the_first_journal.py": "upgrade",
}
NO_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc", "base_manager"}

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


def test_files_are_short() -> None:
    """No file is longer than 500 lines; a longer one holds two concepts."""
    assert [
        f"{source.name}: {source.lines} lines" for source in sources() if source.lines > LONGEST_FILE
    ] == []


def test_functions_are_short() -> None:
    """No function is longer than 70 lines, its docstring included."""
    long = [
        f"{source.name}: {node.name}"
        for source in sources()
        for node in functions(source)
        if (node.end_lineno or node.lineno) - node.lineno >= LONGEST_FUNCTION
        and LONG_ON_PURPOSE.get(source.name) != node.name
    ]
    assert long == []


def test_modules_say_what_they_are() -> None:
    """Every module begins with a docstring; an empty file that only marks a package needs none."""
    silent = [
        source.name for source in sources() if source.text.strip() and not ast.get_docstring(source.tree)
    ]
    assert silent == []


def test_public_names_have_docstrings() -> None:
    """Every public function and class says what it promises; methods may inherit theirs from a port."""
    shipped = sources("drpilot", "tools")
    found = {source.name: names for source in shipped if (names := undocumented(source.tree.body))}
    assert found == {}


def test_annotations_are_not_evaluated() -> None:
    """Every module with code has `from __future__ import annotations`, so that all read the same."""
    without = [
        source.name
        for source in sources("drpilot", "tools")
        if "from __future__ import annotations" not in source.text
        if any(not isinstance(node, (ast.Expr, ast.Assign)) for node in source.tree.body)
    ]
    assert without == []


def test_tests_say_what_they_show() -> None:
    """Every test has a one-sentence docstring."""
    silent = [
        f"{source.name}: {node.name}"
        for source in sources("tests")
        for node in functions(source)
        if node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert silent == []


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
