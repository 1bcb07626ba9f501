"""From the bytes of a request to an operation and its parameters, by botocore's service models.

The models are the ones unchanged boto3 writes its requests with, so the lab can't drift from them. Protocols:
`ec2` and `query` (form fields), `json` (X-Amz-Target), `rest-json` and `rest-xml` (URI, headers, body).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote
from xml.etree import ElementTree as ET

import botocore.session
from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StructureShape

from drpilot.lab.forms import decode_form
from drpilot.lab.refusal import Refusal
from drpilot.lab.values import Problems, moment_of, scalar

__all__ = ["Incoming", "decode", "decode_for", "service_model", "signed_service", "unchunked"]

SIGNING_NAMES = {
    "ec2": "ec2",
    "ebs": "ebs",
    "sts": "sts",
    "autoscaling": "autoscaling",
    "elasticloadbalancing": "elbv2",
    "route53": "route53",
    "s3": "s3",
    "kms": "kms",
    "servicequotas": "service-quotas",
    "monitoring": "cloudwatch",
    "iam": "iam",
}
"""botocore's service for each name that a credential scope may carry."""
_CLASSIC_ELB = re.compile(rb"(^|&)Version=2012-06-01(&|$)")


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request as it came: `path` and `query` raw, header names in lower case, the body whole."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@cache
def service_model(service: str, protocol: str = "") -> ServiceModel:
    """The service's model as installed with botocore.

    A model may list several protocols (CloudWatch: CBOR, JSON and Query); it is read as the one that botocore
    itself speaks, or as `protocol`.
    """
    model = botocore.session.get_session().get_service_model(service)
    wanted = protocol or model.resolved_protocol
    if wanted == model.protocol:
        return model
    loader = botocore.session.get_session().get_component("data_loader")
    description = loader.load_service_model(service, "service-2")
    metadata = {**description["metadata"], "protocol": wanted}
    return ServiceModel({**description, "metadata": metadata}, service)


def signed_service(name: str, request: Incoming) -> str | None:
    """The service of botocore for the name in a credential scope, None for a name nobody has. Both generations of
    load balancers sign with one name; the request's API version tells them apart.
    """
    if name == "elasticloadbalancing" and _CLASSIC_ELB.search(request.body or request.query.encode()):
        return "elb"
    return SIGNING_NAMES.get(name)


def unchunked(request: Incoming) -> Incoming:
    """Take the frames of `aws-chunked` off a body (S3 API reference, streaming signatures and trailers)."""
    if "aws-chunked" not in request.headers.get("content-encoding", ""):
        return request
    body, rest = bytearray(), request.body
    while rest:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line.split(b";")[0] or b"0", 16)
        if size == 0:
            break
        body += rest[:size]
        rest = rest[size + 2 :]
    return Incoming(request.method, request.path, request.query, request.headers, bytes(body))


def decode(service: str, request: Incoming) -> tuple[OperationModel, dict[str, Any]]:
    """Find the operation and read its parameters; raises Refusal as the service itself would."""
    return decode_for(service_model(service), request)


def decode_for(model: ServiceModel, request: Incoming) -> tuple[OperationModel, dict[str, Any]]:
    """As `decode`, with a model that need not be botocore's own."""
    protocol = model.protocol
    problems = Problems(model.service_name, protocol)
    if protocol in ("ec2", "query"):
        text = request.body.decode("utf-8") if request.body else request.query
        operation, params = decode_form(model, text, problems)
    elif protocol == "json":
        operation, params = _decode_target(model, request, problems)
    else:
        operation, params = _decode_rest(model, request, problems)
    if operation.input_shape is not None:
        _require(operation.input_shape, params, "", problems)
    return operation, params


# -- json -------------------------------------------------------------------------------------------------


def _decode_target(
    model: ServiceModel, request: Incoming, problems: Problems
) -> tuple[OperationModel, dict[str, Any]]:
    name = request.headers.get("x-amz-target", "").rpartition(".")[2]
    if name not in model.operation_names:
        raise Refusal("UnknownOperationException", f"The operation {name!r} is not known")
    operation = model.operation_model(name)
    body = _json_body(request)
    if operation.input_shape is None:
        return operation, {}
    params: dict[str, Any] = _json_value(operation.input_shape, body, "", problems)
    return operation, params


def _json_body(request: Incoming) -> Any:
    try:
        return json.loads(request.body or b"{}")
    except ValueError:
        raise Refusal("SerializationException", "The request body is not JSON") from None


def _json_value(shape: Shape, value: Any, where: str, problems: Problems) -> Any:
    if isinstance(shape, StructureShape):
        if not isinstance(value, dict):
            raise problems.wrong(where, value, "a structure")
        names = {inner.serialization.get("name", member): member for member, inner in shape.members.items()}
        found = {}
        for name, inner in value.items():
            if name not in names:
                raise problems.unknown(f"{where}.{name}".strip("."))
            member = names[name]
            if inner is not None:
                found[member] = _json_value(
                    shape.members[member], inner, f"{where}.{name}".strip("."), problems
                )
        return found
    if isinstance(shape, ListShape):
        if not isinstance(value, list):
            raise problems.wrong(where, value, "a list")
        return [
            _json_value(shape.member, inner, f"{where}.{place}", problems)
            for place, inner in enumerate(value, 1)
        ]
    if isinstance(shape, MapShape):
        if not isinstance(value, dict):
            raise problems.wrong(where, value, "a map")
        return {key: _json_value(shape.value, inner, where, problems) for key, inner in value.items()}
    return _json_scalar(shape, value, where, problems)


def _json_scalar(shape: Shape, value: Any, where: str, problems: Problems) -> Any:
    kind = shape.type_name
    wanted: dict[str, type | tuple[type, ...]] = {
        "integer": int,
        "long": int,
        "float": (int, float),
        "double": (int, float),
        "boolean": bool,
        "string": str,
        "character": str,
    }
    expected = wanted.get(kind, object)
    if not isinstance(value, expected) or (isinstance(value, bool) and kind != "boolean"):
        raise problems.wrong(where, value, kind)
    try:
        if kind == "blob":
            return base64.b64decode(str(value), validate=True)
        if kind == "timestamp":
            return moment_of(value)
    except ValueError:
        raise problems.wrong(where, value, kind) from None
    return value


# -- rest -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Route:
    """One operation of a rest service: what a request for it must look like."""

    operation: OperationModel
    method: str
    path: re.Pattern[str]
    literals: frozenset[tuple[str, str]]
    fields: frozenset[str]
    headers: frozenset[str]


@cache
def _routes(model: ServiceModel) -> tuple[Route, ...]:
    """All routes of a service, the most demanding first."""
    routes = []
    for name in model.operation_names:
        operation = model.operation_model(name)
        uri, _, literal = operation.http["requestUri"].partition("?")
        pattern = re.sub(r"\\\{(\w+)\\\+\\\}", r"(?P<\1>.+)", re.escape(uri))
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", pattern)
        literals = frozenset(
            (part.partition("=")[0], part.partition("=")[2]) for part in literal.split("&") if part
        )
        fields, headers = set(), set()
        shape = operation.input_shape
        members = {} if shape is None else {name: shape.members[name] for name in shape.required_members}
        for inner in members.values():
            if inner.serialization.get("location") == "querystring":
                fields.add(inner.serialization["name"])
            elif inner.serialization.get("location") == "header":
                headers.add(inner.serialization["name"].lower())
        if model.service_name == "ebs":
            fields, headers = set(), set()  # its paths alone tell; what is missing is refused by name
        routes.append(
            Route(
                operation,
                operation.http["method"],
                re.compile(pattern.rstrip("/") + "/?" if uri != "/" else "/"),
                literals,
                frozenset(fields),
                frozenset(headers),
            )
        )
    routes.sort(key=lambda route: -len(route.literals) - len(route.fields) - len(route.headers))
    return tuple(routes)


def _decode_rest(
    model: ServiceModel, request: Incoming, problems: Problems
) -> tuple[OperationModel, dict[str, Any]]:
    query = parse_qsl(request.query, keep_blank_values=True)
    fields = dict(query)
    for route in _routes(model):
        if route.method != request.method:
            continue
        if not all(fields.get(key) == value for key, value in route.literals):
            continue
        if not route.fields <= fields.keys() or not route.headers <= request.headers.keys():
            continue
        found = route.path.fullmatch(request.path)
        if found is not None:
            return route.operation, _rest_params(route.operation, request, found, problems)
    raise Refusal("UnknownOperationException", f"No operation answers {request.method} {request.path}", 404)


def _rest_params(
    operation: OperationModel, request: Incoming, found: re.Match[str], problems: Problems
) -> dict[str, Any]:
    shape = operation.input_shape
    if shape is None:
        return {}
    query = parse_qsl(request.query, keep_blank_values=True)
    params: dict[str, Any] = {}
    body_members = []
    for member, inner in shape.members.items():
        location, name = inner.serialization.get("location"), inner.serialization.get("name", member)
        if location == "uri":
            params[member] = scalar(inner, unquote(found[name]), name, problems)
        elif location == "querystring":
            values = [value for key, value in query if key == name]
            if values and isinstance(inner, ListShape):
                params[member] = [scalar(inner.member, value, name, problems) for value in values]
            elif values:
                params[member] = scalar(inner, values[0], name, problems)
        elif location == "header":
            if name.lower() in request.headers:
                params[member] = scalar(inner, request.headers[name.lower()], name, problems)
        elif location == "headers":
            params[member] = {
                key[len(name) :]: value
                for key, value in request.headers.items()
                if key.startswith(name.lower())
            }
        else:
            body_members.append(member)
    params.update(_rest_body(shape, body_members, request, problems))
    return params


def _rest_body(
    shape: StructureShape, members: list[str], request: Incoming, problems: Problems
) -> dict[str, Any]:
    payload = shape.serialization.get("payload")
    if payload is not None:
        inner = shape.members[payload]
        if inner.type_name == "blob":
            return {payload: request.body}
        if inner.type_name == "string":
            return {payload: request.body.decode("utf-8")}
        if not request.body:
            return {}
        if problems.protocol == "rest-xml":
            return {payload: _xml_value(inner, [_xml_root(request)], payload, problems)}
        return {payload: _json_value(inner, _json_body(request), payload, problems)}
    if not members or not request.body:
        return {}
    if problems.protocol == "rest-json":
        found: dict[str, Any] = _json_value(shape, _json_body(request), "", problems)
        return found
    found = _xml_value(shape, [_xml_root(request)], "", problems)
    return {member: found[member] for member in members if member in found}


def _xml_root(request: Incoming) -> ET.Element:
    try:
        root = ET.fromstring(request.body)
    except ET.ParseError:
        raise Refusal("MalformedXML", "The XML you provided was not well-formed") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _xml_value(shape: Shape, nodes: list[ET.Element], where: str, problems: Problems) -> Any:
    if isinstance(shape, ListShape):
        if shape.serialization.get("flattened"):
            return [_xml_value(shape.member, [node], where, problems) for node in nodes]
        return [_xml_value(shape.member, [child], where, problems) for child in nodes[0]]
    node = nodes[0]
    if isinstance(shape, StructureShape):
        found = {}
        for member, inner in shape.members.items():
            name = inner.serialization.get("name", member)
            if inner.serialization.get("xmlAttribute"):
                continue
            children = [child for child in node if child.tag == name]
            if children:
                found[member] = _xml_value(inner, children, f"{where}.{member}".strip("."), problems)
        return found
    if isinstance(shape, MapShape):
        entries = nodes if shape.serialization.get("flattened") else list(node)
        key, value = (part.serialization.get("name") for part in (shape.key, shape.value))
        return {
            (entry.findtext(key or "key") or ""): _xml_value(
                shape.value, entry.findall(value or "value"), where, problems
            )
            for entry in entries
        }
    return scalar(shape, node.text or "", where, problems)


# -- what every protocol checks ---------------------------------------------------------------------------


def _require(shape: Shape, value: Any, where: str, problems: Problems) -> None:
    """Refuse a structure that lacks a required member, however deep."""
    if isinstance(shape, StructureShape):
        for member in shape.required_members:
            if member not in value:
                raise problems.missing(f"{where}.{member}".strip("."))
        for member, inner in value.items():
            if isinstance(inner, dict | list):
                _require(shape.members[member], inner, f"{where}.{member}".strip("."), problems)
    elif isinstance(shape, ListShape):
        _each(shape.member, value, where, problems)


def _each(shape: Shape, values: Iterable[Any], where: str, problems: Problems) -> None:
    for place, inner in enumerate(values, 1):
        if isinstance(inner, dict | list):
            _require(shape, inner, f"{where}.{place}", problems)
