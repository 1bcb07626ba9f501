"""Models of files and of action inputs as tables of keys: what may be written, and what stands there otherwise."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from annotated_types import Ge, Le, MinLen
from pagetext import code, table
from pydantic import BaseModel, StringConstraints
from pydantic.fields import FieldInfo


def _readers() -> dict[int, str]:
    from drpilot.base import scalar

    names = {
        "_integer": "whole number",
        "_number": "number",
        "_flag": "true or false",
        "_duration": "duration, `15m`",
        "_size": "size, `20GiB`",
        "_json": "any value",
    }
    return {id(getattr(scalar, name)): text for name, text in names.items()}


def _limits(metadata: Iterable[Any]) -> str:
    """The bounds of a number, a list or a text, as a person reads them."""
    words = []
    for item in metadata:
        if isinstance(item, FieldInfo):
            words.append(_limits(item.metadata).strip(", "))
        elif isinstance(item, Ge):
            words.append(f"from {item.ge}")
        elif isinstance(item, Le):
            words.append(f"to {item.le}")
        elif isinstance(item, MinLen):
            words.append("at least one" if item.min_length == 1 else f"at least {item.min_length}")
        elif isinstance(item, StringConstraints) and item.pattern:
            words.append(f"of the form `{getattr(item.pattern, 'pattern', item.pattern)}`")
    text = " ".join(word for word in words if word)
    return f", {text}" if text else ""


def kind(annotation: Any) -> str:
    """An annotation in words: what one may write there."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        readers = _readers()
        for item in arguments[1:]:
            if id(getattr(item, "func", None)) in readers:
                return readers[id(item.func)] + _limits(arguments[1:])
        return kind(arguments[0]) + _limits(arguments[1:])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(kind(part) for part in arguments if part is not type(None)))
    if origin is typing.Literal:
        return ", ".join(code(word) for word in arguments)
    if origin in (tuple, list, set, frozenset):
        return f"list of: {kind(arguments[0])}"
    if origin is dict or getattr(origin, "__name__", "") == "Mapping":
        return f"mapping of {kind(arguments[0])} to {kind(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"*{annotation.__name__.removesuffix('Model')}*"
    names: dict[Any, str] = {
        str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any value"
    }  # fmt: skip
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(info: FieldInfo, reads: str) -> str:
    from drpilot.base.units import format_duration

    if info.is_required():
        return "required"
    value = info.default_factory() if info.default_factory else info.default  # type: ignore[call-arg]
    if value is None or value in ("", (), {}) or isinstance(value, BaseModel):
        return ""
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, (tuple, list)):
        return code(f"[{', '.join(map(str, value))}]")
    return code(format_duration(value) if reads.startswith("duration") else value)


def fields(model: type[BaseModel]) -> str:
    """The keys of one model as a table."""
    rows = []
    for name, info in model.model_fields.items():
        reads = kind(Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation)
        note = f"; {info.description}" if info.description else ""
        rows.append((code(info.alias or name), reads + note, _default(info, reads)))
    return table(("key", "what it is", "default"), rows)


def refused(model: type[BaseModel]) -> str:
    """The keys a model refuses with a reason of their own, one line a reason."""
    by_reason: dict[str, list[str]] = {}
    for key, reason in sorted(getattr(model, "refused_keys", {}).items()):
        by_reason.setdefault(reason, []).append(code(key))
    return "\n".join(f"- refused: {', '.join(keys)}: {reason}" for reason, keys in by_reason.items())


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _models(part)


def reachable(model: type[BaseModel]) -> list[type[BaseModel]]:
    """The model and all models its keys lead to, each once, in the order of the keys."""
    found = [model]
    for current in found:
        for info in current.model_fields.values():
            found += [inner for inner in _models(info.annotation) if inner not in found]
    return list(dict.fromkeys(found))
