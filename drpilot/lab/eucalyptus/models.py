"""Service models of what only Eucalyptus has, in the form of botocore's, so that the same codec serves both.

`DescribeServices` and `DescribeServiceCertificates` (bootstrap service), `GetAccessToken` (tokens), signing
certificates made by the cloud, and EC2's `DescribeInstanceTypes` with Eucalyptus' own reply.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from botocore.model import ServiceModel

from drpilot.lab.eucalyptus.fields import words
from drpilot.lab.requests import service_model

__all__ = ["model_of"]

_FILTER = {"Name": "string", "Values": ["Value", "string"]}
_CREDENTIALS = {
    "AccessKeyId": "string",
    "SecretAccessKey": "string",
    "SessionToken": "string",
    "Expiration": "timestamp",
}
_CERTIFICATE = {
    "UserName": "string",
    "CertificateId": "string",
    "CertificateBody": "string",
    "Status": "string",
    "PrivateKey": "string",
}
_STATUS = {
    "serviceId": {
        "type": "string",
        "name": "string",
        "partition": "string",
        "uri": "string",
        "uris": ["item", "string"],
    },
    "localState": "string",
    "localEpoch": "integer",
}
_SERVICES_ASKED = dict.fromkeys(
    sorted(words("ListAll ListUserServices ListInternal ByServiceType ByHost ByState ByPartition")), "string"
)
_BUNDLING = dict.fromkeys(
    sorted(
        words(
            "serviceType certificateFormat certificateFingerprint certificateFingerprintDigest certificateUsage"
            " certificate"
        )
    ),
    "string",
)
_OWN: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    # service: (protocol, {operation: (input, output)}); a list is [name of an item, item]
    "empyrean": (
        "ec2",
        {
            "DescribeServices": (
                {**_SERVICES_ASKED, "Filter": ["Filter", _FILTER]},
                {"serviceStatuses": ["item", _STATUS]},
            ),
            "DescribeServiceCertificates": (
                {"Format": "string", "FingerprintDigest": "string", "Filter": ["Filter", _FILTER]},
                {"serviceCertificates": ["item", _BUNDLING]},
            ),
        },
    ),
    "sts": ("query", {"GetAccessToken": ({"DurationSeconds": "integer"}, {"Credentials": _CREDENTIALS})}),
    "iam": ("query", {"CreateSigningCertificate": ({"UserName": "string"}, {"Certificate": _CERTIFICATE})}),
    "ec2": (
        "ec2",
        {
            "DescribeInstanceTypes": (
                {"Verbose": "boolean", "Availability": "boolean", "InstanceType": ["InstanceType", "string"]},
                {
                    "instanceTypeDetails": [
                        "item",
                        {"name": "string", "cpu": "integer", "disk": "integer", "memory": "integer"},
                    ]
                },
            )
        },
    ),
}


def _shape(shapes: dict[str, Any], name: str, given: Any) -> str:
    """Enter a shape and give its name."""
    if isinstance(given, str):
        shapes[given] = {"type": given}
        return given
    if isinstance(given, list):
        item, inner = given
        member = {"shape": _shape(shapes, f"{name}Item", inner), "locationName": item}
        shapes[name] = {"type": "list", "member": member}
        return name
    shapes[name] = {
        "type": "structure",
        "members": {
            member: {"shape": _shape(shapes, f"{name}{member}", inner), "locationName": member}
            for member, inner in given.items()
        },
    }
    return name


def _make(service: str) -> ServiceModel:
    protocol, operations = _OWN[service]
    shapes: dict[str, Any] = {}
    described = {}
    for name, (given, answered) in operations.items():
        described[name] = {
            "name": name,
            "http": {"method": "POST", "requestUri": "/"},
            "input": {"shape": _shape(shapes, f"{name}Request", given)},
            "output": {"shape": _shape(shapes, f"{name}Result", answered), "resultWrapper": f"{name}Result"},
        }
    metadata = {
        "apiVersion": "eucalyptus",
        "protocol": protocol,
        "xmlNamespace": f"http://www.eucalyptus.com/ns/{service}",
        "serviceFullName": service,
        "endpointPrefix": service,
    }
    return ServiceModel({"metadata": metadata, "operations": described, "shapes": shapes}, service)


_MADE = {service: _make(service) for service in _OWN}


def model_of(service: str, operation: str) -> ServiceModel:
    """The model that knows an operation. CloudWatch is read as Query, the only protocol of that cloud."""
    own = _MADE.get(service)
    if own is not None and (operation in own.operation_names or service == "empyrean"):
        return own
    return service_model(service, "query" if service == "cloudwatch" else "")
