"""The least-privilege policies of docs/howto/real-sites.md, made from the catalogue of actions.

Two roles: one on each of the two sites, one at the third place that has the names and the witness. To what the actions
name come the looks that no action makes: discovery (drpilot/inventory), `check` and `site check` (drpilot/services),
and the question who one is (drpilot/clouds/session.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from drpilot.actions.catalogue import CATALOGUE, permissions

__all__ = ["PAGE", "allowed", "permission", "policies", "with_policies"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "real-sites.md"
_LOOKS = (
    "autoscaling:DescribeLaunchConfigurations",
    "cloudwatch:DescribeAlarms",
    "ec2:DescribeAvailabilityZones",
    "ec2:DescribeInstanceAttribute",
    "ec2:DescribeKeyPairs",
    "ec2:DescribeRegions",
    "iam:GetInstanceProfile",
    "kms:DescribeKey",
    "kms:ListAliases",
    "kms:ListKeys",
)
_THIRD = ("route53", "s3")
_THIRD_LOOKS = ("ec2:DescribeRegions", "sts:GetCallerIdentity")
# Where IAM's prefix differs from botocore's name of the service (Service Authorization Reference).
_PREFIX = {"elb": "elasticloadbalancing", "elbv2": "elasticloadbalancing", "service-quotas": "servicequotas"}
# Where IAM's word for an operation of S3 differs from the operation (Service Authorization Reference, Amazon S3).
_S3 = {
    "CompleteMultipartUpload": "PutObject",
    "CopyObject": "PutObject",
    "CreateMultipartUpload": "PutObject",
    "HeadBucket": "ListBucket",
    "HeadObject": "GetObject",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "ListParts": "ListMultipartUploadParts",
    "UploadPart": "PutObject",
    "UploadPartCopy": "PutObject",
}
_WITNESS = ["s3:GetObject", "s3:PutObject"]


def permission(service: str, operation: str) -> str:
    """What IAM calls the permission for an operation."""
    if service == "s3":
        return f"s3:{_S3.get(operation, operation)}"
    return f"{_PREFIX.get(service, service)}:{operation}"


def policies() -> dict[str, dict[str, object]]:
    """The policies by the name of their block in the page."""
    named = permissions(CATALOGUE)
    sites = sorted(
        {*_LOOKS, *(each for each in named if each.split(":")[0] not in _THIRD)} - {"iam:PassRole"}
    )
    names = sorted({*_THIRD_LOOKS, *(each for each in named if each.startswith("route53:"))})
    objects = [each for each in named if each.startswith("s3:")]
    passing: dict[str, object] = {
        "Effect": "Allow",
        "Action": "iam:PassRole",
        "Resource": "arn:aws:iam::ACCOUNT:role/YOUR-INSTANCE-ROLES",
        "Condition": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
    }
    return {
        "drpilot-site": _policy(
            {"Effect": "Allow", "Action": sites, "Resource": "*"},
            passing,
            {
                "Effect": "Allow",
                "Action": objects,
                "Resource": ["arn:aws:s3:::YOUR-BUCKETS", "arn:aws:s3:::YOUR-BUCKETS/*"],
            },
        ),
        "drpilot-table": _policy(
            {
                "Effect": "Allow",
                "Action": ["dynamodb:GetItem", "dynamodb:PutItem"],
                "Resource": "arn:aws:dynamodb:REGION:ACCOUNT:table/drpilot-witness",
            }
        ),
        "drpilot-third": _policy(
            {"Effect": "Allow", "Action": _WITNESS, "Resource": "arn:aws:s3:::YOUR-WITNESS-BUCKET/*"},
            {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::YOUR-WITNESS-BUCKET"},
            {"Effect": "Allow", "Action": names, "Resource": "*"},
        ),
    }


def _policy(*statements: dict[str, object]) -> dict[str, object]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allowed(names: Iterable[str]) -> set[str]:
    """Every action that the policies called `names` allow."""
    found: set[str] = set()
    for name in names:
        for statement in policies()[name]["Statement"]:  # type: ignore[attr-defined]
            actions = statement["Action"]
            found |= {actions} if isinstance(actions, str) else set(actions)
    return found


def with_policies(text: str) -> str:
    """The page with the policies of today in their blocks, each below a comment that names it."""
    for name, policy in policies().items():
        old = re.findall(rf"<!-- {name} -->\n```json\n.*?\n```", text, flags=re.DOTALL)
        if len(old) != 1:
            raise ValueError(f"{PAGE.name} has {len(old)} blocks for {name}")
        text = text.replace(old[0], f"<!-- {name} -->\n```json\n{_written(policy)}\n```")
    return text


def _written(policy: dict[str, object]) -> str:
    """JSON with the short parts on one line: what people paste should still be read."""
    text = json.dumps(policy, indent=2)
    return re.sub(r'("Action": )\[\n(.*?)\n\s+\]', _wrapped, text, flags=re.DOTALL)


def _wrapped(found: re.Match[str]) -> str:
    items = [item.strip().rstrip(",") for item in found[2].splitlines()]
    rows: list[str] = [""]
    for item in items:
        if len(rows[-1]) + len(item) > 96:
            rows.append("")
        rows[-1] += f"{item}, "
    inner = "\n".join(f"        {row.rstrip()}" for row in rows)
    return f"{found[1]}[\n{inner.rstrip(',')}\n      ]"
