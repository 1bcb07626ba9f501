r"""Filters and paging of the EC2 Describe calls.

Rules from the EC2 API reference: several filters must all match, several values of one are alternatives; `*`
and `?` are wildcards, `\` takes their meaning away; values are case-sensitive; an unknown filter name is
refused; `MaxResults` may not be combined with a list of ids.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from drpilot.lab.refusal import Refusal

__all__ = ["Getter", "field", "matching", "paged", "tag_map"]

Getter = Callable[[dict[str, Any]], Any]
"""Gives a filter's value or values in one row; None where there is none."""


def field(*names: str) -> Getter:
    """A getter that follows members, and goes through lists on the way."""

    def get(row: dict[str, Any]) -> Any:
        found: list[Any] = [row]
        for name in names:
            step: list[Any] = []
            for item in found:
                value = item.get(name) if isinstance(item, dict) else None
                step.extend(value if isinstance(value, list) else [value])
            found = [value for value in step if value is not None]
        return found

    return get


def tag_map(row: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a row by key."""
    return {tag["Key"]: tag.get("Value", "") for tag in row.get("Tags") or []}


@lru_cache(maxsize=4096)
def _pattern(text: str) -> re.Pattern[str]:
    out, escaped = "", False
    for sign in text:
        if escaped:
            out, escaped = out + re.escape(sign), False
        elif sign == "\\":
            escaped = True
        elif sign in "*?":
            out += ".*" if sign == "*" else "."
        else:
            out += re.escape(sign)
    return re.compile(out, re.DOTALL)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def matching(
    rows: Iterable[dict[str, Any]], filters: Sequence[Mapping[str, Any]] | None, known: Mapping[str, Getter]
) -> list[dict[str, Any]]:
    """The rows that match every filter. `known` gives the filters of this call besides `tag:KEY`, `tag-key`
    and `tag-value`; raises InvalidParameterValue for another one.
    """
    tests: list[tuple[Getter, list[re.Pattern[str]]]] = []
    for entry in filters or ():
        name, values = entry.get("Name", ""), entry.get("Values") or []
        if name.startswith("tag:"):
            getter = _tag_getter(name[4:])
        elif name == "tag-key":
            getter = _tag_keys
        elif name == "tag-value":
            getter = _tag_values
        elif name in known:
            getter = known[name]
        else:
            raise Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")
        if not values:
            raise Refusal("InvalidParameterValue", f"The filter '{name}' has no values")
        tests.append((getter, [_pattern(value) for value in values]))
    return [row for row in rows if all(_passes(getter(row), patterns) for getter, patterns in tests)]


def _tag_getter(key: str) -> Getter:
    return lambda row: [tag.get("Value", "") for tag in row.get("Tags") or [] if tag["Key"] == key]


def _tag_keys(row: dict[str, Any]) -> list[str]:
    return [tag["Key"] for tag in row.get("Tags") or []]


def _tag_values(row: dict[str, Any]) -> list[str]:
    return [tag.get("Value", "") for tag in row.get("Tags") or []]


def _passes(found: Any, patterns: list[re.Pattern[str]]) -> bool:
    values = found if isinstance(found, list) else [] if found is None else [found]
    return any(pattern.fullmatch(_text(value)) for value in values for pattern in patterns)


def paged(
    params: Mapping[str, Any],
    rows: Sequence[Any],
    *,
    ids: str | None = None,
    least: int = 5,
    most: int = 1000,
) -> tuple[list[Any], str | None]:
    """One page of `rows` and the token of the next. `ids` names the list of ids that excludes MaxResults."""
    limit, token = params.get("MaxResults"), params.get("NextToken")
    if limit is not None and ids is not None and params.get(ids):
        raise Refusal(
            "InvalidParameterCombination", f"The parameter {ids} cannot be used with the parameter maxResults"
        )
    if limit is not None and limit < least:
        raise Refusal(
            "InvalidParameterValue",
            f"Value ( {limit} ) for parameter maxResults is invalid. Expecting a value of at least {least}.",
        )
    start = 0 if not token else _offset(token, len(rows))
    end = len(rows) if limit is None and start == 0 else start + min(limit or most, most)
    return list(rows[start:end]), _token(end) if end < len(rows) else None


def _token(offset: int) -> str:
    return base64.urlsafe_b64encode(f"from:{offset}".encode()).decode()


def _offset(token: str, count: int) -> int:
    try:
        word, _, number = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
        offset = int(number)
    except ValueError:
        word, offset = "", -1
    if word != "from" or not 0 <= offset <= max(count, offset):
        raise Refusal("InvalidNextToken", "The token is not valid")
    return offset
