"""From a handler's reply, or its refusal, to the bytes that boto3 reads, by botocore's service models."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cache
from typing import Any
from xml.sax.saxutils import escape

from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StructureShape

from drpilot.lab.refusal import Refusal

__all__ = ["Reply", "encode", "encode_refusal"]

Encoder = Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def encode(
    model: ServiceModel, operation: OperationModel, result: Mapping[str, Any], request_id: str
) -> Reply:
    """Write a handler's reply in the service's protocol. Members the model doesn't know are left out, so rows
    may carry what only the lab needs.
    """
    protocol = model.protocol
    if protocol in ("ec2", "query"):
        return _encode_query(model, operation, result, request_id)
    status = int(operation.http.get("responseCode", 200))
    if protocol == "json":
        headers = {
            "Content-Type": f"application/x-amz-json-{model.metadata.get('jsonVersion', '1.1')}",
            "x-amzn-RequestId": request_id,
        }
        shape = operation.output_shape
        body = {} if shape is None else _json(shape, result)
        return Reply(status, headers, json.dumps(body).encode())
    return _encode_rest(model, operation, result, request_id)


def encode_refusal(model: ServiceModel, refusal: Refusal, request_id: str, *, bare: bool = False) -> Reply:
    """Write an error in the service's protocol; `bare` leaves the body out, as an answer to HEAD needs."""
    protocol, code, message = model.protocol, escape(refusal.code), escape(refusal.message)
    headers = {"Content-Type": "text/xml;charset=UTF-8", "x-amzn-RequestId": request_id}
    if protocol == "ec2":
        text = (
            f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
            f"<RequestID>{request_id}</RequestID></Response>"
        )
    elif model.service_name == "s3":
        headers = {"Content-Type": "application/xml", "x-amz-request-id": request_id}
        text = (
            f"<Error><Code>{code}</Code><Message>{message}</Message>"
            f"<RequestId>{request_id}</RequestId></Error>"
        )
    elif protocol in ("query", "rest-xml"):
        side = "Receiver" if refusal.status >= 500 else "Sender"
        space = _namespace(model)
        text = (
            f"<ErrorResponse{space}><Error><Type>{side}</Type><Code>{code}</Code>"
            f"<Message>{message}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
        )
    else:
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "x-amzn-ErrorType": refusal.code,
            "x-amzn-RequestId": request_id,
        }
        text = json.dumps({"__type": refusal.code, "message": refusal.message, "Message": refusal.message})
        return Reply(refusal.status, headers, b"" if bare else text.encode())
    body = b"" if bare else f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()
    return Reply(refusal.status, headers, body)


def _namespace(model: ServiceModel) -> str:
    uri = model.metadata.get("xmlNamespace")
    return f' xmlns="{uri}"' if uri else ""


def _encode_query(
    model: ServiceModel, operation: OperationModel, result: Mapping[str, Any], request_id: str
) -> Reply:
    shape = operation.output_shape
    inside = ""
    if model.protocol == "ec2":
        inside = f"<requestId>{request_id}</requestId>"
        if shape is not None:
            inside += _structure_encoder(shape)(result)
        space = f' xmlns="{model.metadata["xmlNamespace"]}/"'
    else:
        if shape is not None:
            wrapper = shape.serialization.get("resultWrapper", f"{operation.name}Result")
            inside = f"<{wrapper}>{_structure_encoder(shape)(result)}</{wrapper}>"
        inside += f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>"
        space = _namespace(model)
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{operation.name}Response{space}>{inside}'
        f"</{operation.name}Response>"
    )
    headers = {"Content-Type": "text/xml;charset=UTF-8", "x-amzn-RequestId": request_id}
    return Reply(200, headers, text.encode())


# -- XML: one function a shape, made once -----------------------------------------------------------------


@cache
def _structure_encoder(shape: StructureShape) -> Encoder:
    """The members of a structure as XML elements, without an element around them."""
    members: list[tuple[str, str, Shape]] = []
    for member, inner in shape.members.items():
        if inner.serialization.get("location") is None:
            members.append((member, inner.serialization.get("name", member), inner))

    # Shapes may contain themselves (filters, rules): inner encoders are made when first needed.
    made: dict[str, Callable[[str, Any], str]] = {}

    def write(value: Any) -> str:
        parts = []
        for member, name, inner in members:
            found = value.get(member)
            if found is not None:
                encoder = made.get(member)
                if encoder is None:
                    encoder = made[member] = _element_encoder(inner)
                parts.append(encoder(name, found))
        return "".join(parts)

    return write


def _element_encoder(shape: Shape) -> Callable[[str, Any], str]:
    if isinstance(shape, StructureShape):
        inside = _structure_encoder(shape)
        attribute = _attributes(shape)
        return lambda name, value: f"<{name}{attribute(value)}>{inside(value)}</{name}>"
    if isinstance(shape, ListShape):
        return _list_encoder(shape)
    if isinstance(shape, MapShape):
        return _map_encoder(shape)
    text = _text_encoder(shape)
    return lambda name, value: f"<{name}>{text(value)}</{name}>"


def _attributes(shape: StructureShape) -> Encoder:
    """XML attributes of a structure (S3's Grantee has its type as `xsi:type`)."""
    named = [
        (member, inner.serialization["name"])
        for member, inner in shape.members.items()
        if inner.serialization.get("xmlAttribute")
    ]
    if not named:
        return lambda value: ""
    space = ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    return lambda value: space + "".join(f' {name}="{escape(str(value[member]))}"' for member, name in named)


def _list_encoder(shape: ListShape) -> Callable[[str, Any], str]:
    inner = _element_encoder(shape.member)
    if shape.serialization.get("flattened"):
        own = shape.member.serialization.get("name")
        return lambda name, value: "".join(inner(own or name, item) for item in value)
    item_name = shape.member.serialization.get("name", "member")
    return lambda name, value: f"<{name}>{''.join(inner(item_name, item) for item in value)}</{name}>"


def _map_encoder(shape: MapShape) -> Callable[[str, Any], str]:
    key_name = shape.key.serialization.get("name", "key")
    value_name = shape.value.serialization.get("name", "value")
    inner = _element_encoder(shape.value)
    flat = bool(shape.serialization.get("flattened"))

    def write(name: str, value: Any) -> str:
        entry = name if flat else "entry"
        entries = "".join(
            f"<{entry}><{key_name}>{escape(key)}</{key_name}>{inner(value_name, item)}</{entry}>"
            for key, item in value.items()
        )
        return entries if flat else f"<{name}>{entries}</{name}>"

    return write


def _text_encoder(shape: Shape) -> Encoder:
    kind = shape.type_name
    if kind == "boolean":
        return lambda value: "true" if value else "false"
    if kind == "timestamp":
        form = shape.serialization.get("timestampFormat", "iso8601")
        return lambda value: str(_time(value, form))
    if kind == "blob":
        return lambda value: base64.b64encode(_bytes(value)).decode()
    return lambda value: escape(str(value))


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _time(value: Any, form: str) -> str | float:
    """A datetime, or ISO text as rows keep it, in one of the protocols' forms."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    if isinstance(moment, int | float):
        moment = datetime.fromtimestamp(moment, UTC)
    if form == "unixTimestamp":
        return round(float(moment.timestamp()), 3)
    if form == "rfc822":
        return format_datetime(moment.astimezone(UTC), usegmt=True)
    return str(moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"))


# -- JSON and rest ----------------------------------------------------------------------------------------


def _json(shape: Shape, value: Any) -> Any:
    if isinstance(shape, StructureShape):
        return {
            inner.serialization.get("name", member): _json(inner, value[member])
            for member, inner in shape.members.items()
            if inner.serialization.get("location") is None and value.get(member) is not None
        }
    if isinstance(shape, ListShape):
        return [_json(shape.member, item) for item in value]
    if isinstance(shape, MapShape):
        return {key: _json(shape.value, item) for key, item in value.items()}
    if shape.type_name == "timestamp":
        return _time(value, shape.serialization.get("timestampFormat", "unixTimestamp"))
    if shape.type_name == "blob":
        return base64.b64encode(_bytes(value)).decode()
    return value


def _encode_rest(
    model: ServiceModel, operation: OperationModel, result: Mapping[str, Any], request_id: str
) -> Reply:
    name = "x-amz-request-id" if model.service_name == "s3" else "x-amzn-RequestId"
    headers = {name: request_id}
    status = int(result.get("_status") or operation.http.get("responseCode", 200))
    shape = operation.output_shape
    if shape is None:
        return Reply(status, headers, b"")
    headers.update(_header_members(shape, result))
    payload = shape.serialization.get("payload")
    inside: Shape = shape
    value: Any = result
    if payload is not None:
        inside, value = shape.members[payload], result.get(payload)
        if inside.type_name in ("blob", "string"):
            headers.setdefault("Content-Type", "application/octet-stream")
            return Reply(status, headers, b"" if value is None else _bytes(value))
        if value is None:
            return Reply(status, headers, b"")
    if model.protocol == "rest-json":
        headers["Content-Type"] = "application/json"
        return Reply(status, headers, json.dumps(_json(inside, value)).encode())
    if operation.http["method"] == "HEAD" or not _has_body(shape):
        return Reply(status, headers, b"")
    headers["Content-Type"] = "application/xml"
    return Reply(status, headers, _rest_xml(model, operation, inside, value).encode())


# botocore's model does not name the roots of S3's replies, because it reads past them (Amazon S3 API reference).
_S3_ROOTS = {
    "CompleteMultipartUpload": "CompleteMultipartUploadResult",
    "CreateMultipartUpload": "InitiateMultipartUploadResult",
    "DeleteObjects": "DeleteResult",
    "ListBuckets": "ListAllMyBucketsResult",
    "ListMultipartUploads": "ListMultipartUploadsResult",
    "ListObjects": "ListBucketResult",
    "ListObjectsV2": "ListBucketResult",
    "ListParts": "ListPartsResult",
}


def _rest_xml(model: ServiceModel, operation: OperationModel, shape: Shape, value: Any) -> str:
    space = _namespace(model)
    if model.service_name == "s3":
        space = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    if operation.name == "GetBucketLocation":
        # The one reply of S3 whose text stands in the root element (S3 API reference, GetBucketLocation).
        inside, root = escape(str(value.get("LocationConstraint") or "")), "LocationConstraint"
    elif isinstance(shape, StructureShape):
        inside = _structure_encoder(shape)(value)
        root = shape.serialization.get("name", shape.name)
        if model.service_name == "s3":
            root = _S3_ROOTS.get(operation.name, root)
    else:
        raise TypeError(f"the reply of {operation.name} is no structure")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}{space}>{inside}</{root}>'


def _has_body(shape: StructureShape) -> bool:
    return any(inner.serialization.get("location") is None for inner in shape.members.values())


def _header_members(shape: StructureShape, result: Mapping[str, Any]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for member, inner in shape.members.items():
        location, value = inner.serialization.get("location"), result.get(member)
        if value is None:
            continue
        name = inner.serialization.get("name", member)
        if location == "header":
            if inner.type_name == "timestamp":
                headers[name] = str(_time(value, inner.serialization.get("timestampFormat", "rfc822")))
            elif inner.type_name == "boolean":
                headers[name] = "true" if value else "false"
            else:
                headers[name] = str(value)
        elif location == "headers":
            headers.update({f"{name}{key}": str(item) for key, item in value.items()})
    return headers
