"""The filters and tests of expressions: a short list of pure functions with bounded results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["FILTERS", "MAX_TEXT", "TESTS", "Filter", "Unfit", "text_of"]

MAX_TEXT = 65_536  # characters of a text an expression makes


class Unfit(Exception):
    """A value a filter, a test or an operator can't take, in words."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A function of a value and `arguments` (fewest, most) further ones."""

    apply: Callable[..., Any]
    arguments: tuple[int, int] = (0, 0)


def text_of(value: Any) -> str:
    """A scalar as it stands in a text: true, 3, abc; lists, mappings and nothing have no text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    raise Unfit(f"{_kind(value)} has no place inside a text")


def _kind(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    return (
        "a mapping"
        if isinstance(value, Mapping)
        else "a list"
        if isinstance(value, (list, tuple))
        else repr(value)
    )


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise Unfit(f"{name} wants a text, not {_kind(value)}")
    return value


def _list(value: Any, name: str, *, filled: bool = False) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise Unfit(f"{name} wants a list, not {_kind(value)}")
    if filled and not value:
        raise Unfit(f"{name} wants a list that is not empty")
    return list(value)


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Unfit(f"{name} wants a mapping, not {_kind(value)}")
    return value


def _length(value: Any) -> int:
    if not isinstance(value, (str, list, tuple, Mapping)):
        raise Unfit(f"length wants a text, a list or a mapping, not {_kind(value)}")
    return len(value)


def _bounded(size: int) -> None:
    if size > MAX_TEXT:
        raise Unfit(f"the text would be longer than {MAX_TEXT} characters")


def _join(value: Any, between: Any = "") -> str:
    parts = [text_of(part) for part in _list(value, "join")]
    glue = _text(between, "join")
    _bounded(sum(map(len, parts)) + len(glue) * len(parts))
    return glue.join(parts)


def _replace(value: Any, old: Any, new: Any) -> str:
    text, find, put = _text(value, "replace"), _text(old, "replace"), _text(new, "replace")
    _bounded(len(text) + text.count(find) * len(put))
    return text.replace(find, put)


def _ordered(value: Any, name: str, function: Callable[[list[Any]], Any], *, filled: bool = False) -> Any:
    try:
        return function(_list(value, name, filled=filled))
    except TypeError as error:
        raise Unfit(f"{name} wants items of one kind") from error


def _unique(value: Any) -> list[Any]:
    kept: list[Any] = []
    for item in _list(value, "unique"):
        if item not in kept:
            kept.append(item)
    return kept


FILTERS: Mapping[str, Filter] = {
    "first": Filter(lambda value: _list(value, "first", filled=True)[0]),
    "join": Filter(_join, (0, 1)),
    "keys": Filter(lambda value: list(_mapping(value, "keys"))),
    "last": Filter(lambda value: _list(value, "last", filled=True)[-1]),
    "length": Filter(_length),
    "lower": Filter(lambda value: _text(value, "lower").lower()),
    "max": Filter(lambda value: _ordered(value, "max", max, filled=True)),
    "min": Filter(lambda value: _ordered(value, "min", min, filled=True)),
    "replace": Filter(_replace, (2, 2)),
    "reverse": Filter(lambda value: _list(value, "reverse")[::-1]),
    "sort": Filter(lambda value: _ordered(value, "sort", sorted)),
    "trim": Filter(lambda value: _text(value, "trim").strip()),
    "unique": Filter(_unique),
    "upper": Filter(lambda value: _text(value, "upper").upper()),
    "values": Filter(lambda value: list(_mapping(value, "values").values())),
}

TESTS: Mapping[str, Filter] = {
    "false": Filter(lambda value: value is False),
    "mapping": Filter(lambda value: isinstance(value, Mapping)),
    "none": Filter(lambda value: value is None),
    "number": Filter(lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)),
    "sequence": Filter(lambda value: isinstance(value, (list, tuple))),
    "string": Filter(lambda value: isinstance(value, str)),
    "true": Filter(lambda value: value is True),
}
