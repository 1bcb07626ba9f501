"""What drpilot's actions call and ask for, as the sources say it."""

from __future__ import annotations

import re

from drpilot.clouds.dialects import DIALECTS
from tests.meta.source import sources

__all__ = ["used"]

# IAM's names of what S3's operations are called otherwise (Service Authorization Reference, Amazon S3).
_S3 = {
    "s3:ListBucket": "s3:ListObjects",
    "s3:ListBucketMultipartUploads": "s3:ListMultipartUploads",
    "s3:ListMultipartUploadParts": "s3:ListParts",
}


def used() -> set[str]:
    """Every `service:Operation` an action names: in its calls, and in the permissions it declares."""
    found: set[str] = set()
    for source in sources("drpilot/actions"):
        found |= {
            f"{one}:{two}" for one, two in re.findall(r'"([a-z0-9-]+)",\s*"([A-Z][A-Za-z0-9]+)"', source.text)
        }
        found |= set(re.findall(r'"([a-z0-9-]+:[A-Z][A-Za-z]+)"', source.text))
    services = {"autoscaling", "ebs", "ec2", "elb", "elbv2", "kms", "route53", "s3", "service-quotas", "sts"}
    called = {part for name in found for part in _as_called(name)}
    return {name for name in called if name.split(":")[0] in services} - {"ec2:QuotaCode"}


def _as_called(name: str) -> tuple[str, ...]:
    """The operations a permission stands for; IAM has one name for both generations of load balancers."""
    service, _, operation = name.replace("servicequotas:", "service-quotas:").partition(":")
    if service != "elasticloadbalancing":
        return (_S3.get(name, f"{service}:{operation}"),)
    grammar = DIALECTS["eucalyptus-5"].grammar
    known = {**grammar.known, **grammar.lacking} if grammar is not None else {}
    return tuple(one for one in (f"elb:{operation}", f"elbv2:{operation}") if one in known) or (name,)
