"""The strict YAML reader: a text and a model in, a value or findings with file:line:column out.

The text is read as parser events (PyYAML over libyaml), so that nothing is guessed before the model says
what it wants: every scalar stays text until an annotated type of this module reads it. That closes YAML
1.1's traps (`no` as False, `22:30` as 1350, `010` as 8, the last of two equal keys winning; yaml.org/type,
PyYAML's resolver). Refused outright: aliases, anchors, tags, directives, a second document, duplicate keys,
keys that are no text.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from drpilot.base.errors import DrpilotError, Finding
from drpilot.base.scalar import Duration, Flag, Integer, Number, Scalar, Size, Value, Version, kind_of, shown

__all__ = [
    "DocumentModel",
    "Duration",
    "Flag",
    "Integer",
    "Loaded",
    "Number",
    "Scalar",
    "Size",
    "Spot",
    "Value",
    "Version",
    "closest",
    "load",
    "read_text",
    "refusal",
    "require",
]

MAX_CHARACTERS = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 50_000
MAX_FINDINGS = 100

Path_ = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


class DocumentModel(BaseModel):
    """Base of all models of files: unknown keys are refused, values are frozen.

    `refused_keys` gives keys that deserve a reason of their own instead of "unknown key".
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)
    refused_keys: ClassVar[Mapping[str, str]] = {}


# -- text to tree ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spot:
    """Where an entry stands: its key or list item (from 1), its value, and where its value ends
    (exclusive).
    """

    line: int
    column: int
    value_line: int
    value_column: int
    end_line: int = 0
    end_column: int = 0
    flow: bool = False


@dataclass(slots=True)
class _Frame:
    """A collection being read."""

    path: Path_
    into: dict[str, Any] | list[Any]
    flow: bool
    key: str | None = None
    skipped: bool = False


@dataclass(slots=True)
class _Reader:
    """Builds plain data and the positions of all its parts from parser events."""

    file: str
    findings: list[Finding] = field(default_factory=list)
    spots: dict[Path_, Spot] = field(default_factory=dict)
    stack: list[_Frame] = field(default_factory=list)
    root: Any = None
    documents: int = 0
    nodes: int = 0
    key_mark: Any = None

    def read(self, text: str) -> None:
        """Fill `root`, `spots` and `findings`; never raises for any text."""
        if len(text) > MAX_CHARACTERS:
            return self._refuse(None, f"the file is longer than {MAX_CHARACTERS} characters")
        try:
            text.encode()
        except UnicodeEncodeError:
            return self._refuse(None, "the file holds characters that are not Unicode text")
        try:
            for event in yaml.parse(text, Loader=yaml.CSafeLoader):
                if not self._take(event):
                    return None
        except yaml.MarkedYAMLError as error:
            return self._refuse(error.problem_mark or error.context_mark, error.problem or "this is not YAML")
        except yaml.YAMLError as error:
            return self._refuse(None, f"this is not YAML: {str(error).splitlines()[0]}")
        if self.documents == 0 or (isinstance(self.root, Scalar) and self.root.plain and not self.root):
            return self._refuse(None, "the file is empty")
        return None

    def _refuse(self, mark: Any, what: str) -> None:
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        where = f"{self.file}:{line}:{column}"
        self.findings.append(
            Finding(
                "yaml-syntax", "error", what, where, "one plain YAML document, see docs/reference/files.md"
            )
        )

    def _take(self, event: Any) -> bool:
        """Take one event; False stops the reading."""
        match event:
            case yaml.DocumentStartEvent():
                self.documents += 1
                if self.documents > 1 or event.version or event.tags:
                    what = (
                        "a second document begins here"
                        if self.documents > 1
                        else "directives (%) are not read"
                    )
                    self._refuse(event.start_mark, what)
                    return False
            case yaml.AliasEvent():
                self._refuse(event.start_mark, f"aliases (*{event.anchor}) are not read; write the value out")
                return self._place(Scalar.of("?", plain=False), event, scalar=False)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._close(self.stack.pop(), event)
            case yaml.NodeEvent():
                self._mind(event)
                return self._open(event)
        return True

    def _mind(self, event: Any) -> None:
        if event.anchor:
            self._refuse(event.start_mark, f"anchors (&{event.anchor}) are not read; write the value out")
        if event.tag:
            self._refuse(event.start_mark, "tags (!) are not read; quote a text, leave a number plain")

    def _open(self, event: Any) -> bool:
        self.nodes += 1
        if self.nodes > MAX_NODES or len(self.stack) >= MAX_DEPTH:
            limit = f"{MAX_NODES} values" if self.nodes > MAX_NODES else f"{MAX_DEPTH} levels"
            self._refuse(event.start_mark, f"the file has more than {limit}")
            return False
        if isinstance(event, yaml.ScalarEvent):
            return self._place(
                Scalar.of(event.value, plain=event.implicit[0] and event.style in (None, "")), event
            )
        into: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        path = self._next_path()
        if not self._place(into, event, scalar=False):
            return False
        self.stack.append(_Frame(path, into, bool(event.flow_style)))
        return True

    def _next_path(self) -> Path_:
        if not self.stack:
            return ()
        top = self.stack[-1]
        return (*top.path, len(top.into) if isinstance(top.into, list) else (top.key or ""))

    def _place(self, value: Any, event: Any, *, scalar: bool = True) -> bool:
        start, end = event.start_mark, event.end_mark
        top = self.stack[-1] if self.stack else None
        if top is not None and isinstance(top.into, dict) and top.key is None:
            return self._key(top, value, event, scalar=scalar)
        path = self._next_path()
        key = self.key_mark if top is not None and isinstance(top.into, dict) else start
        spot = Spot(
            key.line + 1, key.column + 1, start.line + 1, start.column + 1, end.line + 1, end.column + 1
        )
        if top is None:
            self.root = value
        elif isinstance(top.into, list):
            top.into.append(value)
        else:
            if not top.skipped:
                top.into[str(top.key)] = value
            top.key = None
        self.spots.setdefault(path, spot)
        return True

    def _key(self, top: _Frame, value: Any, event: Any, *, scalar: bool) -> bool:
        if not scalar or not value:
            self._refuse(event.start_mark, "a key must be a text")
            return False
        top.key, self.key_mark, top.skipped = str(value), event.start_mark, False
        if top.key in top.into:
            first = self.spots[(*top.path, top.key)]
            self._refuse(event.start_mark, f"key {top.key!r} stands here twice, first in line {first.line}")
            top.skipped = True
        return True

    def _close(self, frame: _Frame, event: Any) -> None:
        """Fix where a collection ends: a flow one at its bracket, a block one where its last entry ends."""
        spot = self.spots[frame.path]
        line, column = event.end_mark.line + 1, event.end_mark.column + 1
        if not frame.flow and frame.into:
            last: str | int = (
                len(frame.into) - 1 if isinstance(frame.into, list) else next(reversed(frame.into))
            )
            end = self.spots[(*frame.path, last)]
            line, column = end.end_line, end.end_column
        self.spots[frame.path] = Spot(
            spot.line, spot.column, spot.value_line, spot.value_column, line, column, frame.flow
        )


# -- tree to model ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loaded(Generic[M]):
    """A file read against a model: `value` is None where a finding is an error."""

    file: str
    text: str
    value: M | None
    findings: tuple[Finding, ...]
    spots: Mapping[Path_, Spot]

    def spot(self, path: Path_) -> Spot:
        """Where the entry at `path` stands, or the nearest one around it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.spots:
                return self.spots[path[:length]]
        return Spot(1, 1, 1, 1)

    def position(self, path: Path_) -> str:
        """`shop.yaml:16:5`: the key (or list item) at `path`, or the nearest one around it."""
        spot = self.spot(path)
        return f"{self.file}:{spot.line}:{spot.column}"

    def finding(
        self, word: str, path: Path_, message: str, *, hint: str = "", severity: str = "error"
    ) -> Finding:
        """A finding of a later check, at the key of `path`."""
        return Finding(word, severity, message, self.position(path), hint)


def load(model: type[M], text: str, file: str) -> Loaded[M]:
    """Read `text` against `model`; never raises for a wrong text. `file` is the name in positions."""
    reader = _Reader(file)
    reader.read(text)
    spots = reader.spots
    if reader.findings:
        return Loaded(file, text, None, tuple(reader.findings[:MAX_FINDINGS]), spots)
    empty: Loaded[M] = Loaded(file, text, None, (), spots)
    if not isinstance(reader.root, dict):
        what = f"the file must hold keys and values, not {kind_of(reader.root)}"
        return Loaded(file, text, None, (empty.finding("wrong-value", (), what),), spots)
    try:
        value = model.model_validate(reader.root)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        found = [_finding(empty, model, reader.root, each) for each in errors if not _echo(each, errors)]
        unique = sorted(dict.fromkeys(found), key=_place_of)
        return Loaded(file, text, None, tuple(unique[:MAX_FINDINGS]), spots)
    return Loaded(file, text, value, (), spots)


def require(model: type[M], text: str, file: str) -> M:
    """The value of `text`; raises DrpilotError("document") with all findings in its `data`."""
    loaded = load(model, text, file)
    if loaded.value is None:
        raise refusal(file, loaded.findings)
    return loaded.value


def refusal(file: str, findings: Sequence[Finding]) -> DrpilotError:
    """The error that stands for the findings of one file: `why` shows the first five, `data` has all."""
    errors = [finding for finding in findings if finding.severity == "error"]
    lines = [f"{finding.where}: {finding.message}" for finding in errors[:5]]
    if len(errors) > 5:
        lines.append(f"and {len(errors) - 5} more")
    rows = [
        {
            "code": finding.code,
            "word": finding.word,
            "severity": finding.severity,
            "message": finding.message,
            "where": finding.where,
            "hint": finding.hint,
        }
        for finding in findings
    ]
    where = errors[0].where if errors else file
    return DrpilotError(
        "document", where=where, why="\n".join(lines), data={"findings": rows}, file=file, count=len(errors)
    )


def read_text(path: Path) -> str:
    """The UTF-8 text of a file; DrpilotError `unknown-file` or `document` where there is none."""
    try:
        with path.open("rb") as file:
            content = file.read(4 * MAX_CHARACTERS + 1)
    except OSError as error:
        raise DrpilotError("unknown-file", why=error.strerror or str(error), file=str(path)) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        where = f"{path.name}:{line}:1"
        raise refusal(
            path.name, [Finding("yaml-syntax", "error", "the file is not UTF-8 text", where)]
        ) from error


def closest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'tiers'?)` for a near miss among `known`, else the empty text."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {match[0]!r}?)" if match else ""


def _finding(empty: Loaded[Any], model: type[BaseModel], root: Any, error: Any) -> Finding:
    """One error of pydantic in our words. Its `loc` may hold labels that are no path; they are left out."""
    path, on_key = _path_of(error["loc"], root, missing=error["type"] == "missing")
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(empty, model, path)
    if kind == "missing":
        name = str(path[-1])
        spot = empty.spot(path[:-1])
        where = f"{empty.file}:{spot.value_line}:{spot.value_column}"
        return Finding("missing-key", "error", f"key {name!r} is missing{_under(path[:-1])}", where, "add it")
    value = path[-1] if on_key else _at(root, path)
    spot = empty.spot(path)
    at_value = isinstance(value, str) and not on_key
    line, column = (spot.value_line, spot.value_column) if at_value else (spot.line, spot.column)
    message = _words(kind, context, str(error["msg"]), value)
    whole_item = isinstance(value, Mapping) and bool(path) and isinstance(path[-1], int)
    label = "" if whole_item and kind == "value_error" else _label(path)
    return Finding("wrong-value", "error", label + message, f"{empty.file}:{line}:{column}")


def _echo(error: Any, errors: Sequence[Any]) -> bool:
    """Whether a list is only "too short" because pydantic does not count its wrong items."""
    loc = error["loc"]
    return error["type"] == "too_short" and any(
        other["loc"][: len(loc)] == loc and len(other["loc"]) > len(loc) for other in errors
    )


def _unknown_key(empty: Loaded[Any], model: type[BaseModel], path: Path_) -> Finding:
    key = str(path[-1])
    known: list[str] = []
    for candidate in _models_at(model, path[:-1]):
        known += _keys_of(candidate)
        reason = getattr(candidate, "refused_keys", {}).get(key)
        if reason:
            return empty.finding("unknown-key", path, f"key {key!r}: {reason}")
    message = f"unknown key {key!r}{closest(key, known)}"
    return empty.finding("unknown-key", path, message, hint=f"known here: {', '.join(known)}")


_WORDS = {
    "string_type": "a text is wanted",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "needs at least {min_length} of them",
    "too_long": "takes at most {max_length} of them",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "tuple_type": "a list is wanted",
    "list_type": "a list is wanted",
    "dict_type": "keys and values are wanted",
    "model_type": "keys and values are wanted",
}


def _words(kind: str, context: Mapping[str, Any], message: str, value: Any) -> str:
    if isinstance(value, Scalar) and value.plain and not value:
        return "has no value"
    if kind == "value_error":
        return str(context.get("error", message))
    if kind == "string_pattern_mismatch":
        return f"{shown(str(value))} does not have the form {context.get('pattern')}"
    if kind in _WORDS:
        wanted = _WORDS[kind].format(**context)
        return (
            f"{wanted}, not {kind_of(value)}" if kind.endswith("_type") else f"{wanted}, not {shown(value)}"
        )
    return message[:1].lower() + message[1:]


def _path_of(loc: Iterable[str | int], root: Any, *, missing: bool) -> tuple[Path_, bool]:
    """The document path of a pydantic location, and whether it points at a key itself."""
    path: list[str | int] = []
    node: Any = root
    on_key = False
    parts = list(loc)
    for index, part in enumerate(parts):
        inside = (
            part in node if isinstance(node, dict) else isinstance(node, list) and part in range(len(node))
        )
        if inside:
            node = node[part]
        elif missing and index == len(parts) - 1:
            node = None
        else:
            on_key = on_key or part == "[key]"
            continue
        path.append(part)
    return tuple(path), on_key


def _at(root: Any, path: Path_) -> Any:
    for part in path:
        root = root[part]
    return root


def _models_at(model: type[BaseModel], path: Path_) -> list[type[BaseModel]]:
    """The models that may stand at `path`, found by following the annotations."""
    kinds: list[Any] = [model]
    for part in path:
        kinds = [kind for outer in kinds for kind in _children(outer, part)]
    return [
        kind
        for outer in kinds
        for kind in _leaves(outer)
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    ]


def _leaves(kind: Any) -> Iterator[Any]:
    origin = typing.get_origin(kind)
    if origin is Annotated:
        yield from _leaves(typing.get_args(kind)[0])
    elif origin in (typing.Union, types.UnionType):
        for part in typing.get_args(kind):
            yield from _leaves(part)
    else:
        yield kind


def _children(kind: Any, part: str | int) -> Iterator[Any]:
    for leaf in _leaves(kind):
        arguments = typing.get_args(leaf)
        if arguments:
            yield arguments[0] if isinstance(part, int) else arguments[-1]
        elif isinstance(leaf, type) and issubclass(leaf, BaseModel):
            for name, info in leaf.model_fields.items():
                if part == (info.alias or name):
                    yield info.annotation


def _keys_of(model: type[BaseModel]) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()]


def _label(path: Path_) -> str:
    text = ".".join(str(part) for part in path if not isinstance(part, int))
    return f"{text}: " if text else ""


def _under(path: Path_) -> str:
    label = _label(path).removesuffix(": ")
    return f" under {label!r}" if label else ""


def _place_of(finding: Finding) -> tuple[int, int]:
    line, column = finding.where.rsplit(":", 2)[1:]
    return int(line), int(column)
