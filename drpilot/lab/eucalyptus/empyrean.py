"""The bootstrap service of a Eucalyptus cloud: which services there are, and the certificate bundles are made for.

Sources: the messages of the bootstrap service, and the fields euca2ools reads of them.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from drpilot.lab.cloud import Cloud, Refusal, action
from drpilot.lab.eucalyptus import keyring
from drpilot.lab.eucalyptus.services import endpoints_of

__all__: list[str] = []

_TYPES = {
    "ec2": "compute",
    "s3": "objectstorage",
    "iam": "euare",
    "sts": "tokens",
    "elb": "loadbalancing",
    "autoscaling": "autoscaling",
    "cloudwatch": "cloudwatch",
    "empyrean": "empyrean",
    "route53": "route53",
}
_OLD_TYPES = {"ec2": "eucalyptus", "s3": "walrus"}
_DIGESTS = {"SHA-1": "sha1", "SHA-256": "sha256"}


@action("empyrean", "DescribeServices", family="eucalyptus")
def describe_services(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """The services people use, each with its endpoint, and the clusters."""
    origin = f"http://{min(cloud.hosts)}" if cloud.hosts else "http://127.0.0.1"
    old = cloud.traits.version == "3.4"
    found = []
    for service, url in endpoints_of(cloud.traits.version, origin).items():
        kind = _OLD_TYPES.get(service, _TYPES[service]) if old else _TYPES[service]
        found.append(_status(kind, f"{cloud.name}.{kind}", "eucalyptus", url))
    found += [
        _status("cluster", f"{zone}.cc", zone, f"{origin}/services/Cluster") for zone in cloud.traits.zones
    ]
    wanted = params.get("ByServiceType")
    return {"serviceStatuses": [item for item in found if not wanted or item["serviceId"]["type"] == wanted]}


def _status(kind: str, name: str, partition: str, url: str) -> dict[str, Any]:
    named = {"type": kind, "name": name, "partition": partition, "uri": url, "uris": [url]}
    return {"serviceId": named, "localState": "ENABLED", "localEpoch": 1}


@action("empyrean", "DescribeServiceCertificates", family="eucalyptus")
def describe_service_certificates(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """The certificate for image bundling."""
    form, digest = params.get("Format", "pem"), params.get("FingerprintDigest", "SHA-256")
    if form not in ("pem", "der") or digest not in _DIGESTS:
        raise Refusal("InvalidParameterValue", "Format is pem or der, FingerprintDigest SHA-1 or SHA-256")
    loaded = x509.load_pem_x509_certificate(keyring.certificate(cloud))
    der = loaded.public_bytes(serialization.Encoding.DER)
    number = hashlib.new(_DIGESTS[digest], der).hexdigest()
    return {
        "serviceCertificates": [
            {
                "serviceType": "compute",
                "certificateUsage": "image-bundling",
                "certificateFormat": form,
                "certificate": keyring.certificate(cloud).decode() if form == "pem" else _base64(der),
                "certificateFingerprintDigest": digest,
                "certificateFingerprint": ":".join(number[at : at + 2] for at in range(0, len(number), 2)),
            }
        ]
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
