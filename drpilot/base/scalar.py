"""Scalars of strict YAML and the annotated types that read them: Integer, Number, Flag, Duration, Size,
Value.

A scalar stays text until one of these types reads it; bare `int`, `bool` and `float` fields are not for
files, because pydantic would take `on`, `1_000` and `0o7` from text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainValidator

from drpilot.base.units import parse_duration, parse_size

__all__ = ["Duration", "Flag", "Integer", "Number", "Scalar", "Size", "Value", "Version", "kind_of", "shown"]


class Scalar(str):
    """The text of a scalar; `plain` is false where it was quoted or a block."""

    __slots__ = ("plain",)
    plain: bool

    @classmethod
    def of(cls, text: str, *, plain: bool) -> Scalar:
        """A scalar that remembers how it was written."""
        scalar = cls(text)
        scalar.plain = plain
        return scalar


def kind_of(value: Any) -> str:
    """What a value is, in words for a message."""
    if isinstance(value, Mapping):
        return "keys and values"
    if isinstance(value, (list, tuple)):
        return "a list"
    return "nothing" if value is None or value == "" else f"{shown(value)}"


def shown(value: Any) -> str:
    """A value as a message shows it, clipped."""
    if not isinstance(value, str):
        return kind_of(value) if isinstance(value, (Mapping, list, tuple)) else repr(value)
    return repr(str(value) if len(value) <= 60 else f"{value[:57]}...")


_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[-+]?(\.[0-9]{1,30}|[0-9]{1,30}(\.[0-9]{0,30})?)([eE][-+]?[0-9]{1,3})?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")


def _unwanted(wanted: str, value: Any) -> ValueError:
    """A ValueError, not a TypeError: pydantic turns a ValueError into a finding."""
    return ValueError(f"{wanted} is wanted, not {kind_of(value)}")


def _plain_text(value: Any, wanted: str) -> str:
    if not isinstance(value, str):
        raise _unwanted(wanted, value)
    if not getattr(value, "plain", True):
        raise ValueError(f"{wanted} is wanted, not a quoted text; take the quotes away")
    return value


def _integer(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = _plain_text(value, "a whole number")
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a whole number in decimals without leading zeros")
    return int(text)


def _number(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    text = _plain_text(value, "a number")
    if not _NUMBER.fullmatch(text) or _LEADING_ZERO.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError(f"{shown(text)} is not a number")
    return float(text)


def _flag(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    text = _plain_text(value, "true or false")
    if text not in ("true", "false"):
        raise ValueError(f"{shown(text)} is not true or false")
    return text == "true"


def _duration(value: Any) -> Any:
    if isinstance(value, float):
        return value
    if not isinstance(value, str):
        raise _unwanted("a duration such as 15m", value)
    seconds = parse_duration(value)
    if not math.isfinite(seconds) or seconds > 3_660 * 86_400:
        raise ValueError(f"{shown(value)} is longer than ten years")
    return seconds


def _size(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise _unwanted("a size such as 20GiB", value)
    if len(value) > 40:
        raise ValueError(f"{shown(value)} is not a size")
    return parse_size(value)


def _version(value: int) -> int:
    if value != 1:
        raise ValueError(f"version {value} of this file is not known; this drpilot reads version 1")
    return value


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    if not isinstance(value, Scalar):
        return value
    if not value.plain:
        return str(value)
    if value in ("", "~", "null", "Null", "NULL"):
        return None
    if value in ("true", "false"):
        return value == "true"
    if _LEADING_ZERO.fullmatch(value):
        raise ValueError(f"{shown(value)} may be a number or a text; quote it, or drop the leading zero")
    if _INTEGER.fullmatch(value):
        return int(value)
    if _NUMBER.fullmatch(value):
        return _number(value)
    return str(value)


Integer = Annotated[int, BeforeValidator(_integer)]  # decimal, at most 18 digits
Number = Annotated[float, BeforeValidator(_number)]  # finite
Flag = Annotated[bool, BeforeValidator(_flag)]  # true or false, nothing else
Duration = Annotated[float, BeforeValidator(_duration)]  # seconds, written 15m or 1h30m
Size = Annotated[int, BeforeValidator(_size)]  # bytes, written 20GiB
Version = Annotated[int, BeforeValidator(_integer), AfterValidator(_version)]  # of the file format: 1
Value = Annotated[Any, PlainValidator(_json)]  # any JSON value by the rules of YAML 1.2's core schema
