"""Simple values of requests, and how a service words what is wrong with a parameter."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.model import Shape

from drpilot.lab.refusal import Refusal

__all__ = ["Problems", "moment_of", "scalar", "unknown_action"]


@dataclass(frozen=True, slots=True)
class Problems:
    """How a service words what is wrong with a request's parameters."""

    service: str
    protocol: str

    def missing(self, name: str) -> Refusal:
        """A required parameter is not there."""
        message = f"The request must contain the parameter {name}"
        return Refusal({"ec2": "MissingParameter"}.get(self.service, self._general()), message)

    def unknown(self, name: str) -> Refusal:
        """The operation has no such parameter."""
        message = f"The parameter {name} is not recognized"
        return Refusal({"ec2": "UnknownParameter"}.get(self.service, self._general()), message)

    def wrong(self, name: str, value: object, wanted: str) -> Refusal:
        """A value is not of its type, or not one that is allowed."""
        message = f"Value ({value}) for parameter {name} is invalid. Expected: {wanted}"
        return Refusal({"ec2": "InvalidParameterValue"}.get(self.service, self._general()), message)

    def _general(self) -> str:
        return {
            "query": "ValidationError",
            "json": "ValidationException",
            "rest-json": "ValidationException",
            "rest-xml": "InvalidArgument" if self.service == "s3" else "InvalidInput",
        }.get(self.protocol, "ValidationError")


def unknown_action(name: str) -> Refusal:
    """The refusal of an operation that the service, or the lab, does not have."""
    return Refusal("InvalidAction", f"The action {name} is not valid for this web service.")


def scalar(shape: Shape, text: str, where: str, problems: Problems) -> Any:
    """A simple value from its text; raises the service's refusal when it is none."""
    kind = shape.type_name
    try:
        if kind in ("integer", "long"):
            return int(text)
        if kind in ("float", "double"):
            return float(text)
        if kind == "timestamp":
            return moment_of(text)
        if kind == "blob":
            return base64.b64decode(text, validate=True)
    except ValueError:
        raise problems.wrong(where, text, kind) from None
    if kind == "boolean":
        if text.lower() not in ("true", "false"):
            raise problems.wrong(where, text, "true or false")
        return text.lower() == "true"
    return text


def moment_of(value: Any) -> datetime:
    """A point in time in any of the protocols' forms; raises ValueError."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    text = str(value)
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return datetime.fromtimestamp(float(text), UTC)
    for form in ("%a, %d %b %Y %H:%M:%S %Z", "%Y%m%dT%H%M%SZ"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
