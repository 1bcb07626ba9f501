"""Reading calls without bytes in between: what botocore would have written, signed and parsed is handed over as it is.

Four of five calls of a run only look, and most of what a look costs in one process is XML. So a client of the
simulation hands the parameters of reading calls to the lab's dispatch and takes the reply by the shape that botocore
would have parsed it by. Changing calls, and all of S3 and Route 53, keep to the wire. That both ways tell the same
story is tested: a seed has the same digest with and without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    ReadTimeoutError,
)
from botocore.model import ListShape, MapShape, Shape, StructureShape

from drpilot.domain.operations import is_reading
from drpilot.lab.cloud import Cloud
from drpilot.lab.faults import Cut
from drpilot.lab.refusal import Refusal

__all__ = ["Straight", "attach"]

Reader = Callable[[Any], Any]


class Straight:
    """Whether reading calls go straight; one switch for all clients of a ground."""

    on = True


def attach(session: Any, cloud: Cloud, switch: Straight, *, read_timeout_s: float) -> None:
    """Have the clients that `session` makes from now on read from `cloud` straight."""

    class Client:
        meta: Any

        def _make_api_call(self, operation_name: str, api_params: Mapping[str, Any]) -> Any:
            model = self.meta.service_model
            if not switch.on or model.protocol not in ("ec2", "query") or not is_reading(operation_name):
                return super()._make_api_call(operation_name, api_params)  # type: ignore[misc]
            shape = model.operation_model(operation_name).output_shape
            try:
                result = cloud.dispatch(model.service_name, operation_name, _asked(api_params))
            except Refusal as refusal:
                raise _error(refusal, operation_name) from None
            except Cut as cut:
                raise _cut(cloud, cut, read_timeout_s) from None
            return {} if shape is None else _reader(shape)(result)

    def creating(class_attributes: Any, base_classes: list[Any], **_: Any) -> None:
        base_classes.insert(0, Client)

    session.get_component("event_emitter").register("creating-client-class", creating)


def _error(refusal: Refusal, operation: str) -> ClientError:
    said: Any = {
        "Error": {"Code": refusal.code, "Message": refusal.message},
        "ResponseMetadata": {"HTTPStatusCode": refusal.status, "HTTPHeaders": {}, "RetryAttempts": 0},
    }
    return ClientError(said, operation)


def _cut(cloud: Cloud, cut: Cut, read_timeout_s: float) -> Exception:
    """As the wire has it (drpilot/lab/wire.py, `attach`)."""
    url = "http://127.0.0.1:9/"
    if cut.kind == "refuse":
        return EndpointConnectionError(endpoint_url=url, error=cut.kind)
    if cut.kind == "hang":
        cloud.clock.sleep(read_timeout_s)
        return ReadTimeoutError(endpoint_url=url)
    return ConnectionClosedError(endpoint_url=url)


def _asked(value: Any) -> Any:
    """Parameters as they come out of a form: an empty list is not in it at all."""
    if isinstance(value, Mapping):
        return {key: _asked(inner) for key, inner in value.items() if inner not in (None, [], ())}
    if isinstance(value, list | tuple):
        return [_asked(inner) for inner in value]
    return value


@cache
def _reader(shape: Shape) -> Reader:
    """What the parser makes of the element that the lab would have written: a function a shape, made once."""
    if isinstance(shape, StructureShape):
        return _structure(shape)
    if isinstance(shape, ListShape):
        member: list[Reader] = []

        def items(value: Any) -> list[Any]:
            if not member:
                member.append(_reader(shape.member))
            return [member[0](inner) for inner in value]

        return items
    if isinstance(shape, MapShape):
        raise TypeError(f"no reading call of these protocols answers with a map ({shape.name})")
    if shape.type_name == "timestamp":
        return _moment
    readers: dict[str, Reader] = {
        "boolean": bool,
        "integer": int,
        "long": int,
        "float": float,
        "double": float,
    }
    return readers.get(shape.type_name, str)


def _structure(shape: StructureShape) -> Reader:
    made: dict[str, Reader] = {}  # shapes may contain themselves
    flat = {
        name
        for name, inner in shape.members.items()
        if isinstance(inner, ListShape) and inner.serialization.get("flattened")
    }
    members = shape.members

    def read(value: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for name, inner in value.items():
            if inner is None or name not in members or (name in flat and not inner):
                continue
            reader = made.get(name)
            if reader is None:
                reader = made[name] = _reader(members[name])
            found[name] = reader(inner)
        return found

    return read


def _moment(value: Any) -> datetime:
    """A datetime, or ISO text as rows keep it, in whole milliseconds."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    if isinstance(moment, int | float):
        moment = datetime.fromtimestamp(moment, UTC)
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
