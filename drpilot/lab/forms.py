"""Requests of the protocols `ec2` and `query`: form fields such as `Filter.1.Value.2=running`."""

from __future__ import annotations

from functools import cache
from typing import Any
from urllib.parse import parse_qsl

from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StructureShape

from drpilot.lab.values import Problems, scalar, unknown_action

__all__ = ["decode_form"]


_SIGNED = frozenset({"Timestamp", "Expires", "SecurityToken"})
"""Fields of signature version 2; no operation has one of these names at its top."""


def decode_form(model: ServiceModel, text: str, problems: Problems) -> tuple[OperationModel, dict[str, Any]]:
    """Find the operation by its field `Action` and read the other fields."""
    fields = dict(parse_qsl(text, keep_blank_values=True))
    name = fields.pop("Action", "")
    fields.pop("Version", None)
    if name not in model.operation_names:
        raise unknown_action(name)
    operation = model.operation_model(name)
    tree: dict[str, Any] = {}
    for key, value in fields.items():
        if key.startswith(("X-Amz-", "AWSAccessKeyId", "Signature")) or key in _SIGNED:
            continue
        _plant(tree, key, value, problems)
    shape = operation.input_shape
    if shape is None:
        if tree:
            raise problems.unknown(next(iter(tree)))
        return operation, {}
    return operation, _form_value(shape, tree, "", problems)


def _plant(tree: dict[str, Any], key: str, value: str, problems: Problems) -> None:
    parts = key.split(".")
    place = tree
    for part in parts[:-1]:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise problems.unknown(key)
    if isinstance(place.get(parts[-1]), dict):
        raise problems.unknown(key)
    place[parts[-1]] = value


def _form_value(shape: Shape, node: Any, where: str, problems: Problems) -> Any:
    if isinstance(shape, StructureShape):
        return _form_structure(shape, node, where, problems)
    if isinstance(shape, ListShape):
        return _form_list(shape, node, where, problems)
    if isinstance(shape, MapShape):
        return _form_map(shape, node, where, problems)
    if isinstance(node, dict):
        raise problems.unknown(f"{where}.{next(iter(node))}")
    return scalar(shape, node, where, problems)


@cache
def _form_names(shape: StructureShape, protocol: str) -> dict[str, tuple[str, Shape]]:
    """The members of a structure by the name they have in a form."""
    names = {}
    for member, inner in shape.members.items():
        name = inner.serialization.get("name", member)
        if protocol == "ec2":
            name = inner.serialization.get("queryName", name[0].upper() + name[1:])
        elif isinstance(inner, ListShape) and inner.serialization.get("flattened"):
            name = inner.member.serialization.get("name", name)
        names[name] = (member, inner)
    return names


def _form_structure(shape: StructureShape, node: Any, where: str, problems: Problems) -> dict[str, Any]:
    if not isinstance(node, dict):
        raise problems.wrong(where, node, "a structure")
    names = _form_names(shape, problems.protocol)
    found = {}
    for name, inner in node.items():
        place = f"{where}.{name}" if where else name
        if name not in names:
            raise problems.unknown(place)
        member, member_shape = names[name]
        found[member] = _form_value(member_shape, inner, place, problems)
    return found


def _form_list(shape: ListShape, node: Any, where: str, problems: Problems) -> list[Any]:
    if node == "":
        return []
    if not isinstance(node, dict):
        raise problems.wrong(where, node, "a list")
    if problems.protocol == "query" and not shape.serialization.get("flattened"):
        name = shape.member.serialization.get("name", "member")
        if set(node) != {name}:
            raise problems.unknown(f"{where}.{next(iter(node))}")
        node = node[name]
        if node == "":
            return []
    try:
        items = sorted(node.items(), key=lambda item: int(item[0]))
    except (ValueError, AttributeError):
        raise problems.wrong(where, node, "a numbered list") from None
    return [_form_value(shape.member, inner, f"{where}.{index}", problems) for index, inner in items]


def _form_map(shape: MapShape, node: Any, where: str, problems: Problems) -> dict[str, Any]:
    if not isinstance(node, dict):
        raise problems.wrong(where, node, "a map")
    if not shape.serialization.get("flattened"):
        node = node.get("entry", {})
    key_name = shape.key.serialization.get("name", "key")
    value_name = shape.value.serialization.get("name", "value")
    return {
        entry[key_name]: _form_value(shape.value, entry.get(value_name, ""), where, problems)
        for entry in node.values()
    }
