"""Dialects: what one kind of EC2-compatible cloud can do and how to talk to it, as data.

A dialect is one `Dialect` value in `dialects.DIALECTS`; a new kind of cloud is one more table. Nothing here
calls anything.

Sources: Amazon EC2 API reference (DescribeX, MaxResults; ensuring idempotency; eventual consistency), EBS
direct APIs reference, Elastic Load Balancing, Auto Scaling and Route 53 API references, and botocore's
service models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from drpilot.clouds.grammar import Grammar
from drpilot.clouds.limits import AWS_RATES, AWS_SLOTS, Rate
from drpilot.domain.plain import Json
from drpilot.domain.plan import Slot

__all__ = ["AWS", "Dialect", "Mark", "Probe"]

_VERB = re.compile(r"[A-Z][a-z]+")

# A verb not listed here changes something: the safe side for a new operation.
_READING_VERBS = frozenset({"Describe", "Get", "Head", "List", "Lookup", "Search", "Simulate", "Test"})

# Operations whose verb says otherwise than what they do. GenerateDataKey and its like leave nothing behind.
_READING = frozenset(
    {
        "kms:Decrypt",
        "kms:DeriveSharedSecret",
        "kms:Encrypt",
        "kms:GenerateDataKey",
        "kms:GenerateDataKeyPair",
        "kms:GenerateDataKeyPairWithoutPlaintext",
        "kms:GenerateDataKeyWithoutPlaintext",
        "kms:GenerateMac",
        "kms:GenerateRandom",
        "kms:ReEncrypt",
        "kms:Sign",
        "kms:Verify",
        "kms:VerifyMac",
        "s3:SelectObjectContent",
        "sts:AssumeRole",
        "sts:AssumeRoleWithSAML",
        "sts:AssumeRoleWithWebIdentity",
        "sts:DecodeAuthorizationMessage",
    }
)


@dataclass(frozen=True, slots=True)
class Probe:
    """A harmless call that shows whether a cloud knows `capability`.

    `proves` (JMESPath) must hold for the answer where an answer alone proves nothing.
    """

    capability: str
    service: str
    operation: str
    params: Json = field(default_factory=dict)
    proves: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """How a create call is marked where it takes no tags: `text` is the parameter that can carry words (empty
    where none can), `kind` the resource type of the tags and `ids` (JMESPath) what to tag once it answered.
    """

    text: str
    kind: str
    ids: str


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of cloud. Operations are written `service:Operation`.

    `capabilities` are what it can do; `tokens` narrows the operations that honour a ClientToken (None: those
    of the model); `settle_s` is how long a fresh resource may stay invisible (eventual consistency), so that
    "absent" needs looks over at least this long; `rates` are request limits and `slots` how much long work
    of a kind it does at once, without an entry as much as one likes (see limits.py); `read_timeout_s` holds the
    exceptions to `read_default_s`.

    A strict cloud has a `grammar` (None: whatever botocore's model has) and `replies`, what an answer must hold
    to count. `marks` says how a create call is marked where it takes no tags, `described` which listings can be
    searched by that mark. `paths` and `names` make the endpoint of a service from the one of the cloud;
    `signatures` and `protocols` are botocore's names of others than its own choice. `identity` says who tells the
    account: STS, or the owner of a security group. `presigned` is the signature of presigned URLs.
    """

    name: str
    services: frozenset[str]
    capabilities: frozenset[str]
    probes: tuple[Probe, ...] = ()
    reading_verbs: frozenset[str] = _READING_VERBS
    reading: frozenset[str] = _READING
    changing: frozenset[str] = frozenset()
    tokens: frozenset[str] | None = None
    settle_s: float = 0.0
    rates: Mapping[str, Rate] = field(default_factory=dict)
    slots: Mapping[Slot, int] = field(default_factory=dict)
    page_sizes: Mapping[str, int] = field(default_factory=dict)
    unpaged_with: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    public_endpoints: bool = False
    connect_timeout_s: float = 3.0
    read_default_s: float = 10.0
    read_timeout_s: Mapping[str, float] = field(default_factory=dict)
    bucket_in_path: bool = True
    grammar: Grammar | None = None
    replies: Mapping[str, str] = field(default_factory=dict)
    marks: Mapping[str, Mark] = field(default_factory=dict)
    described: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    signatures: Mapping[str, str] = field(default_factory=dict)
    protocols: Mapping[str, str] = field(default_factory=dict)
    presigned: Literal["s3", "s3v4"] = "s3v4"
    identity: Literal["sts", "owner"] = "sts"

    def changes(self, service: str, operation: str) -> bool:
        """Whether the operation may change something; what is not known to read only, changes."""
        name = f"{service}:{operation}"
        if name in self.changing or name in self.reading:
            return name in self.changing
        verb = _VERB.match(operation)
        return verb is None or verb[0] not in self.reading_verbs

    def token_member(
        self, service: str, operation: str, members: Iterable[str], marked: Iterable[str]
    ) -> str | None:
        """The parameter that carries the idempotency token, or None where the operation takes none.

        `members` are the operation's parameters, `marked` those the model marks as `idempotencyToken`.
        ImportImage, ImportSnapshot and others have a ClientToken that the model does not mark.
        """
        if self.tokens is not None and f"{service}:{operation}" not in self.tokens:
            return None
        for member in marked:
            return member
        return "ClientToken" if "ClientToken" in set(members) else None

    def page_size(self, service: str, operation: str, params: Json) -> int | None:
        """The page size to ask for, or None to leave it to the cloud.

        EC2 refuses MaxResults beside a list of ids (EC2 API reference, DescribeInstances).
        """
        name = f"{service}:{operation}"
        if any(params.get(key) for key in self.unpaged_with.get(name, ())):
            return None
        return self.page_sizes.get(name)

    def refusal(self, service: str, operation: str, params: Json) -> tuple[str, str] | None:
        """Why the call must not be sent, as code and message; None where it may."""
        name = f"{service}:{operation}"
        if self.grammar is None:
            return None
        if name not in self.grammar.known:
            why = self.grammar.lacking.get(
                name, "it is not among the operations drpilot knows of this version"
            )
            return "Unsupported", f"{self.name} has no {name}: {why}"
        unknown = self.grammar.unknown(name, params)
        if unknown:
            return "UnknownParameter", f"{self.name} knows no {', '.join(unknown)} of {name}"
        return None

    def mark(self, service: str, operation: str, params: Json) -> Mark | None:
        """How to mark what this call makes; None where it takes the tags itself, or wants none."""
        name = f"{service}:{operation}"
        if not params.get("TagSpecifications") or self.grammar is None:
            return None
        return None if self.grammar.takes(name, "TagSpecifications") else self.marks.get(name)

    def read_s(self, service: str) -> float:
        """Seconds to wait for an answer of `service`."""
        return self.read_timeout_s.get(service, self.read_default_s)


_AWS_PAGE_SIZES = {
    "autoscaling:DescribeAutoScalingGroups": 100,
    "ebs:ListChangedBlocks": 10_000,
    "ebs:ListSnapshotBlocks": 10_000,
    "ec2:DescribeImages": 1000,
    "ec2:DescribeInstanceStatus": 1000,
    "ec2:DescribeInstanceTypeOfferings": 1000,
    "ec2:DescribeInstances": 1000,
    "ec2:DescribeLaunchTemplateVersions": 200,
    "ec2:DescribeLaunchTemplates": 200,
    "ec2:DescribeNetworkInterfaces": 1000,
    "ec2:DescribeSecurityGroups": 1000,
    "ec2:DescribeSnapshots": 1000,
    "ec2:DescribeSubnets": 1000,
    "ec2:DescribeTags": 1000,
    "ec2:DescribeVolumes": 500,
    "ec2:DescribeVpcs": 1000,
    "elbv2:DescribeListeners": 100,
    "elbv2:DescribeLoadBalancers": 400,
    "elbv2:DescribeTargetGroups": 400,
}

_AWS_UNPAGED_WITH = {
    "autoscaling:DescribeAutoScalingGroups": ("AutoScalingGroupNames",),
    "ec2:DescribeImages": ("ImageIds",),
    "ec2:DescribeInstanceStatus": ("InstanceIds",),
    "ec2:DescribeInstances": ("InstanceIds",),
    "ec2:DescribeLaunchTemplateVersions": ("Versions",),
    "ec2:DescribeLaunchTemplates": ("LaunchTemplateIds", "LaunchTemplateNames"),
    "ec2:DescribeNetworkInterfaces": ("NetworkInterfaceIds",),
    "ec2:DescribeSecurityGroups": ("GroupIds", "GroupNames"),
    "ec2:DescribeSnapshots": ("SnapshotIds",),
    "ec2:DescribeSubnets": ("SubnetIds",),
    "ec2:DescribeVolumes": ("VolumeIds",),
    "ec2:DescribeVpcs": ("VpcIds",),
    "elbv2:DescribeListeners": ("ListenerArns",),
    "elbv2:DescribeLoadBalancers": ("LoadBalancerArns", "Names"),
    "elbv2:DescribeTargetGroups": ("TargetGroupArns", "Names"),
}

_AWS_SERVICES = frozenset(
    {
        "autoscaling",
        "cloudwatch",
        "dynamodb",
        "ebs",
        "ec2",
        "elb",
        "elbv2",
        "iam",
        "kms",
        "route53",
        "s3",
        "service-quotas",
        "ssm",
        "sts",
    }
)

AWS = Dialect(
    name="aws",
    services=_AWS_SERVICES,
    capabilities=frozenset(
        {
            "address-tags",
            "alias-target",
            "autoscaling",
            "client-token",
            "cloudwatch",
            "dry-run",
            "ebs",
            "ec2:CopyImage",
            "ec2:CopySnapshot",
            "ec2:CreateImage",
            "ec2:CreateLaunchTemplate",
            "ec2:CreateLaunchTemplateVersion",
            "ec2:CreateSnapshot",
            "ec2:CreateSnapshots",
            "ec2:CreateVolume:token",
            "ec2:DescribeInstanceTypeOfferings",
            "ec2:ImportVolume",
            "ec2:RegisterImage",
            "elb",
            "elb:tags",
            "elbv2",
            "ena",
            "iam",
            "kms",
            "launch-configuration",
            "metadata-options",
            "route53",
            "route53:TestDNSAnswer",
            "s3",
            "s3:conditional-write",
            "s3:list-v2",
            "s3:multipart",
            "s3:object-ownership",
            "service-quotas",
            "sts",
            "tag-on-create",
            "termination-protection",
            "volume-types",
            "vpc",
        }
    ),
    probes=(
        Probe("autoscaling", "autoscaling", "DescribeAutoScalingGroups", {"MaxRecords": 1}),
        Probe(
            "ebs", "ebs", "ListSnapshotBlocks", {"SnapshotId": "snap-00000000000000000", "MaxResults": 100}
        ),
        Probe("ec2:CreateLaunchTemplate", "ec2", "DescribeLaunchTemplates", {"MaxResults": 5}),
        Probe("elbv2", "elbv2", "DescribeLoadBalancers", {"PageSize": 1}),
        Probe("kms", "kms", "ListAliases", {"Limit": 1}),
        Probe("route53", "route53", "ListHostedZones", {"MaxItems": "1"}),
        Probe("s3", "s3", "ListBuckets", {}),
        Probe(
            "service-quotas", "service-quotas", "ListServiceQuotas", {"ServiceCode": "ec2", "MaxResults": 1}
        ),
    ),
    settle_s=5.0,
    rates=AWS_RATES,
    slots=AWS_SLOTS,
    page_sizes=_AWS_PAGE_SIZES,
    unpaged_with=_AWS_UNPAGED_WITH,
    public_endpoints=True,
    read_timeout_s={"ebs": 30.0, "s3": 30.0},
    bucket_in_path=False,
)
