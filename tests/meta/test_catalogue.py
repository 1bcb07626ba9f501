"""The error catalogue: unique, complete, used, and never without a way forward."""

from __future__ import annotations

import ast
import re
import string

import pytest

from drpilot.base.catalogue import CATALOGUE, EXIT_CODES, Row
from drpilot.base.errors import DrpilotError
from tests.meta.source import sources

CATALOGUE_FILE = "drpilot/base/catalogue.py"
# Findings are data: their words may come from a table instead of a call.
every_row = pytest.mark.parametrize("row", CATALOGUE.values(), ids=lambda row: row.word)


def written() -> list[tuple[str, str]]:
    """Codes and words as the source of the catalogue writes them, so that a repeated row can't hide."""
    (source,) = (source for source in sources("drpilot") if source.name == CATALOGUE_FILE)
    return [
        (node.args[0].value, node.args[1].value)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Row"
        if isinstance(node.args[0], ast.Constant) and isinstance(node.args[1], ast.Constant)
    ]


def raised() -> list[tuple[str, str]]:
    """(place, word) of each DrpilotError or Finding whose word is written out."""
    found = []
    for source in sources("drpilot"):
        for node in ast.walk(source.tree):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) in ("DrpilotError", "Finding", "refusal")
                and node.args
            ):
                word = node.args[0]
                if isinstance(word, ast.Constant) and isinstance(word.value, str):
                    found.append((f"{source.name}:{node.lineno}", word.value))
    return found


def test_codes_and_words_are_unique() -> None:
    """No code and no word is given twice."""
    codes, words = zip(*written(), strict=True)
    assert len(codes) == len(set(codes))
    assert len(words) == len(set(words))
    assert set(words) == set(CATALOGUE)


@every_row
def test_a_row_is_complete(row: Row) -> None:
    """A row has a well-formed code, a lower-case word, a known exit code, a cause and a way forward."""
    assert re.fullmatch(r"DRP-\d{4}", row.code)
    assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", row.word)
    assert row.exit_code in EXIT_CODES
    # `why`, `where` and `data` are parts of the error itself and never reach the text.
    fields = {
        name for text in (row.title, row.hint) for _, name, _, _ in string.Formatter().parse(text) if name
    }
    assert not fields & {"why", "where", "data"}
    assert row.exit_code != 0
    assert row.title
    assert row.cause.endswith(".")
    assert row.hint
    assert not row.title.endswith(".")


@every_row
def test_a_row_can_be_shown(row: Row) -> None:
    """With its facts and without any, an error becomes text with code, message and hint."""
    names = {
        name for text in (row.title, row.hint) for _, name, _, _ in string.Formatter().parse(text) if name
    }
    assert all(name.isidentifier() for name in names)
    full = DrpilotError(row.word, **dict.fromkeys(names, "something"))
    bare = DrpilotError(row.word)
    for error in (full, bare):
        assert error.exit_code == row.exit_code
        assert row.code in str(error)
        assert error.as_json()["error"]["hint"]


def test_every_raised_word_is_in_the_catalogue() -> None:
    """Nobody raises an error, or reports a finding, that the catalogue does not know."""
    assert [place for place, word in raised() if word not in CATALOGUE] == []


def test_every_row_is_used() -> None:
    """Each word of the catalogue appears somewhere else in the program: no row is a leftover."""
    text = "\n".join(source.text for source in sources("drpilot") if source.name != CATALOGUE_FILE)
    assert [word for word in CATALOGUE if f'"{word}"' not in text] == []
