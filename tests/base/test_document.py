"""The strict YAML reader: what it takes, what it refuses, and where it says a thing stands."""

# ruff: noqa: E501 - tables of texts and what is said of them: one a line

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import Field, StringConstraints, model_validator

from drpilot.base.document import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    DocumentModel,
    Duration,
    Flag,
    Integer,
    Number,
    Size,
    Value,
    Version,
    load,
    read_text,
    refusal,
    require,
)
from drpilot.base.errors import DrpilotError, Finding
from drpilot.base.scalar import Scalar


class Leaf(DocumentModel):
    """A nested mapping."""

    size: Size = 0
    at_most: Annotated[Integer, Field(ge=1, le=9)] = 1
    kind: Literal["hot", "cold"] = "hot"


class Sheet(DocumentModel):
    """A model with one of everything."""

    drpilot: Version = 1
    name: str | None = None
    every: Duration | None = None
    count: Integer | None = None
    ratio: Number | None = None
    on: Flag = False
    value: Value = None
    words: tuple[str, ...] = ()
    leaves: dict[Annotated[str, StringConstraints(pattern=r"^[a-z]+$")], Leaf] = Field(default_factory=dict)
    rows: tuple[Leaf, ...] = ()
    refused_keys: ClassVar = {"password": "secrets are not kept here"}

    @model_validator(mode="after")
    def _whole(self) -> Sheet:
        if self.name == "forbidden":
            raise ValueError("that name is taken")
        return self


def found(text: str, model: type[Any] = Sheet) -> list[str]:
    """Findings of a text as `line:column: message`."""
    loaded = load(model, text, "f.yaml")
    assert loaded.value is None
    return [f"{finding.where.removeprefix('f.yaml:')}: {finding.message}" for finding in loaded.findings]


def value_of(text: str) -> Sheet:
    """The value of a text that must be right."""
    loaded = load(Sheet, text, "f.yaml")
    assert loaded.findings == ()
    assert loaded.value is not None
    return loaded.value


@pytest.mark.parametrize(
    "text", ["yes", "no", "on", "Off", "22:30", "010", "1_000", "0x10", "2026-11-22", "1e3", "1.10"]
)
def test_plain_scalars_stay_text_for_a_text_field(text: str) -> None:
    """What YAML 1.1 turns into truth values, numbers and dates is text where text is wanted."""
    sheet = value_of(f"name: {text}")
    assert sheet.name == text
    assert type(sheet.name) is str


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("null", None),
        ("~", None),
        ("", None),
        ("true", True),
        ("false", False),
        ("yes", "yes"),
        ("22:30", "22:30"),
        ("2026-11-22", "2026-11-22"),
        ("12", 12),
        ("-0", 0),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("'12'", "12"),
        ('"true"', "true"),
        ("0x10", "0x10"),
        (".inf", ".inf"),
        ("[1, a, {b: true}]", [1, "a", {"b": True}]),
        ("{}", {}),
    ],
)
def test_value_follows_the_core_schema(text: str, wanted: Any) -> None:
    """A free value is read by YAML 1.2's core schema, quoted scalars as text."""
    sheet = value_of(f"value: {text}")
    assert sheet.value == wanted
    assert type(sheet.value) is type(wanted)


def test_typed_scalars() -> None:
    """Durations become seconds, sizes bytes, numbers and truth values themselves."""
    sheet = value_of(
        "every: 1h30m\ncount: -12\nratio: 2\non: true\nleaves: {a: {size: 2KiB, at_most: 9}}\nrows: [{kind: cold}]"
    )
    assert (sheet.every, sheet.count, sheet.ratio, sheet.on) == (5400.0, -12, 2.0, True)
    assert sheet.leaves["a"] == Leaf(size=2048, at_most=9)
    assert sheet.rows[0].kind == "cold"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "1:1: the file is empty"),
        ("# nothing\n---\n", "1:1: the file is empty"),
        ("[a]", "1:1: the file must hold keys and values, not a list"),
        ("just text", "1:1: the file must hold keys and values, not 'just text'"),
        ("name: a\n---\nname: b", "2:1: a second document begins here"),
        ("%YAML 1.2\n---\nname: a", "1:1: directives (%) are not read"),
        ("name: &x a", "1:7: anchors (&x) are not read; write the value out"),
        ("name: a\nvalue: *x", "2:8: aliases (*x) are not read; write the value out"),
        ("name: !!str a", "1:7: tags (!) are not read; quote a text, leave a number plain"),
        ("name: a\nname: b", "2:1: key 'name' stands here twice, first in line 1"),
        ("leaves:\n  a: {kind: hot, kind: hot}", "2:18: key 'kind' stands here twice, first in line 2"),
        ("[a]: b", "1:1: a key must be a text"),
        ("'': b", "1:1: a key must be a text"),
        ("name: [a", "2:1: did not find expected ',' or ']'"),
        ("name: a\n\tb: c", "2:1: found a tab character that violates indentation"),
        ("name: a\x00b", "1:1: this is not YAML: unacceptable character #x0000: control characters are not allowed"),
        ("name: '\ud800'", "1:1: the file holds characters that are not Unicode text"),
        ("drpilot: 2", "1:10: drpilot: version 2 of this file is not known; this drpilot reads version 1"),
        ("nmae: a", "1:1: unknown key 'nmae' (did you mean 'name'?)"),
        ("password: x", "1:1: key 'password': secrets are not kept here"),
        ("leaves:\n  a:\n    knid: hot", "3:5: unknown key 'knid' (did you mean 'kind'?)"),
        ("rows:\n  - {kind: hot}\n  - {siez: 1B}", "3:6: unknown key 'siez' (did you mean 'size'?)"),
        ("leaves: {a: {kind: warm}}", "1:20: leaves.a.kind: must be 'hot' or 'cold', not 'warm'"),
        ("leaves: {a: {at_most: 10}}", "1:23: leaves.a.at_most: must be at most 9, not '10'"),
        ("leaves: {a: {at_most: 0}}", "1:23: leaves.a.at_most: must be at least 1, not '0'"),
        ("leaves: {A: {}}", "1:10: leaves.A: 'A' does not have the form ^[a-z]+$"),
        ("leaves: [a]", "1:1: leaves: keys and values are wanted, not a list"),
        ("leaves: {a: b}", "1:13: leaves.a: keys and values are wanted, not 'b'"),
        ("words: a", "1:8: words: a list is wanted, not 'a'"),
        ("words: [[a]]", "1:9: words: a text is wanted, not a list"),
        ("name: {}", "1:1: name: a text is wanted, not keys and values"),
        ("words: [a, ]\nname: forbidden", "1:1: that name is taken"),
        ("on: yes", "1:5: on: 'yes' is not true or false"),
        ("on: 'true'", "1:5: on: true or false is wanted, not a quoted text; take the quotes away"),
        ("on:", "1:4: on: has no value"),
        ("count: 010", "1:8: count: '010' is not a whole number in decimals without leading zeros"),
        ("count: 1:30", "1:8: count: '1:30' is not a whole number in decimals without leading zeros"),
        ("count: [1]", "1:1: count: a whole number is wanted, not a list"),
        ("count: 9999999999999999999", "1:8: count: '9999999999999999999' is not a whole number in decimals without leading zeros"),
        ("ratio: 1e999", "1:8: ratio: '1e999' is not a number"),
        ("ratio: .nan", "1:8: ratio: '.nan' is not a number"),
        ("every: 15", "1:8: every: '15' is not a duration; write a number with a unit, such as 90s, 15m or 1h30m"),
        ("every: [15m]", "1:1: every: a duration such as 15m is wanted, not a list"),
        ("every: 99999999d", "1:8: every: '99999999d' is longer than ten years"),
        ("rows: [{size: 12}]", "1:15: rows.size: '12' is not a size; write a number with B, KiB, MiB, GiB or TiB, such as 20GiB"),
        ("rows: [{size: {}}]", "1:9: rows.size: a size such as 20GiB is wanted, not keys and values"),
        ("value: 012", "1:8: value: '012' may be a number or a text; quote it, or drop the leading zero"),
    ],
)  # fmt: skip
def test_refused_with_position(text: str, wanted: str) -> None:
    """Each mistake is named with its line and column."""
    assert found(text) == [wanted]


def test_missing_key_stands_at_its_mapping() -> None:
    """A missing key is reported where the mapping begins that lacks it."""

    class Needy(DocumentModel):
        inner: Inner

    class Inner(DocumentModel):
        wanted: str

    Needy.model_rebuild(_types_namespace={"Inner": Inner})
    assert found("# a\ninner:\n  \n  {}", Needy) == ["4:3: key 'wanted' is missing under 'inner'"]
    assert found("{}", Needy) == ["1:1: key 'inner' is missing"]


def test_several_findings_at_once_in_file_order() -> None:
    """All mistakes of the schema come together, from top to bottom."""
    text = "count: x\nnmae: b\nrows:\n  - {kind: warm, at_most: 0}\n"
    assert [line.split(": ")[0] for line in found(text)] == ["1:8", "2:1", "4:12", "4:27"]


def test_unknown_key_lists_what_is_known() -> None:
    """The hint of an unknown key holds all known ones."""
    (finding,) = load(Sheet, "rows: [{x: 1}]", "f.yaml").findings
    assert finding.hint == "known here: size, at_most, kind"
    assert finding.word == "unknown-key"


def test_too_deep_too_long_too_many() -> None:
    """Size, depth and number of values are bounded, and say so."""
    assert found("a: " + "[" * 40 + "]" * 40) == [
        f"1:{3 + MAX_DEPTH}: the file has more than {MAX_DEPTH} levels"
    ]
    assert found("#" * (MAX_CHARACTERS + 1)) == [f"1:1: the file is longer than {MAX_CHARACTERS} characters"]
    assert "more than 50000 values" in found("value: [" + "a," * 60_000 + "]")[0]


def test_positions_of_keys_items_and_ends() -> None:
    """Positions are of keys and list items, the nearest one around for a path that is not there."""
    loaded = load(Sheet, "name: a\nleaves:\n  a:\n    kind: hot   # warm\nrows:\n  - kind: hot\n", "f.yaml")
    assert loaded.position(("name",)) == "f.yaml:1:1"
    assert loaded.position(("leaves", "a")) == "f.yaml:3:3"
    assert loaded.position(("leaves", "a", "kind")) == "f.yaml:4:5"
    assert loaded.position(("leaves", "b", "kind")) == "f.yaml:2:1"
    assert loaded.position(("rows", 0)) == "f.yaml:6:5"
    assert (loaded.spot(("leaves",)).end_line, loaded.spot(("leaves",)).end_column) == (4, 14)
    assert loaded.finding("wrong-value", ("name",), "x").where == "f.yaml:1:1"


def test_require_gives_a_value_or_one_error_with_everything() -> None:
    """`require` raises one catalogue error whose data holds each finding and whose why shows the first five."""
    assert require(Sheet, "name: a", "f.yaml").name == "a"
    with pytest.raises(DrpilotError) as caught:
        require(Sheet, "\n".join(f"k{number}: 1" for number in range(7)), "f.yaml")
    error = caught.value
    assert (error.word, error.exit_code, error.where) == ("document", 6, "f.yaml:1:1")
    assert error.why.splitlines()[0] == "f.yaml:1:1: unknown key 'k0'"
    assert error.why.splitlines()[-1] == "and 2 more"
    assert [row["where"] for row in error.data["findings"]] == [f"f.yaml:{line}:1" for line in range(1, 8)]
    assert error.title == "f.yaml: 7 things to mend"


def test_refusal_counts_errors_only() -> None:
    """Warnings stand in the data of the error but are not counted."""
    findings = [Finding("runbook", "warning", "w", "f:1:1"), Finding("runbook", "error", "e", "f:2:1")]
    error = refusal("f", findings)
    assert error.title == "f: 1 things to mend"
    assert error.why == "f:2:1: e"
    assert len(error.data["findings"]) == 2


def test_read_text(tmp_path: Any) -> None:
    """A file is UTF-8, with or without a byte order mark; others are refused by line."""
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfname: \xc3\xa9")
    assert read_text(tmp_path / "a.yaml") == "name: é"
    (tmp_path / "b.yaml").write_bytes(b"a\nb\xff")
    with pytest.raises(DrpilotError, match="things to mend") as caught:
        read_text(tmp_path / "b.yaml")
    assert caught.value.where == "b.yaml:2:1"
    with pytest.raises(DrpilotError) as caught:
        read_text(tmp_path / "c.yaml")
    assert caught.value.word == "unknown-file"


def test_types_take_values_that_are_typed_already() -> None:
    """A model used from Python takes Python's own values."""
    sheet = Sheet(
        drpilot=1, count=3, ratio=1.5, on=True, every=2.0, value={"a": (1, None)}, rows=(Leaf(size=3),)
    )
    assert (sheet.count, sheet.ratio, sheet.on, sheet.every, sheet.value) == (
        3,
        1.5,
        True,
        2.0,
        {"a": [1, None]},
    )
    assert sheet.rows[0].size == 3


# JSON writes characters beyond U+FFFF as two escapes, which YAML does not know.
words = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=("Cs",)), max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words.filter(bool), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(json_values)
def test_any_json_value_reads_back(value: Any) -> None:
    """JSON is YAML: what json writes, the reader gives back, quotes deciding what is text."""
    import json

    loaded = load(Sheet, json.dumps({"value": value}), "f.yaml")
    assert loaded.findings == ()
    assert loaded.value is not None
    assert loaded.value.value == value


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=20), min_size=1, max_size=5))
def test_positions_point_at_the_key_they_name(table: dict[str, str]) -> None:
    """At each reported position stands the key, in a text that PyYAML wrote in its own style."""
    text = yaml.safe_dump({"value": table}, allow_unicode=True, default_style='"')
    loaded = load(Sheet, text, "f.yaml")
    assert loaded.value is not None
    assert loaded.value.value == table
    lines = text.split("\n")
    for key in table:
        line, column = (int(part) for part in loaded.position(("value", key)).split(":")[1:])
        assert lines[line - 1][column - 1] in '"?'


fragments = st.sampled_from(
    ["name", "value", "rows", "leaves", ":", ": ", "\n", "\n  ", "- ", "[", "]", "{", "}", ",", "&a ", "*a", "!x ", "'", '"', "|\n", "%", "---", "#", "0", "true", "~", "\t", "\x00", "é", "?"]
)  # fmt: skip


@settings(max_examples=400)
@given(st.lists(fragments, max_size=30).map("".join) | st.text(max_size=60))
@example("name: *a")
@example("? [a]\n: b")
def test_no_text_gives_anything_but_a_value_or_findings(text: str) -> None:
    """Whatever stands in a file, there is a value without findings or findings with a position in the file."""
    loaded = load(Sheet, text, "f.yaml")
    assert (loaded.value is None) == bool(loaded.findings)
    for finding in loaded.findings:
        name, line, column = finding.where.rsplit(":", 2)
        assert name == "f.yaml"
        assert (
            1
            <= int(line)
            <= text.count("\n")
            + text.count("\r")
            + text.count("\x85")
            + text.count("\u2028")
            + text.count("\u2029")
            + 2
        )
        assert int(column) >= 1


def test_scalars_remember_their_quotes_only_inside() -> None:
    """The reader's scalar is a str with one more fact."""
    assert Scalar.of("a", plain=True) == "a"
    assert not Scalar.of("a", plain=False).plain
