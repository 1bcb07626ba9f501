"""What a site can and can't, in words for a person."""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["abilities"]

_ALWAYS = ("instances", "images", "volumes", "snapshots", "tags")
_WORDS = (
    ("autoscaling", "scaling groups"),
    ("s3", "buckets"),
    ("s3:multipart", "multipart uploads"),
    ("elb", "classic load balancers"),
    ("elbv2", "load balancers with target groups"),
    ("launch-configuration", "launch configurations"),
    ("ec2:CreateLaunchTemplateVersion", "launch templates"),
    ("cloudwatch", "metrics and alarms"),
    ("vpc", "networks of one's own"),
    ("volume-types", "kinds of volumes"),
    ("metadata-options", "metadata options"),
    ("termination-protection", "termination protection"),
    ("address-tags", "tags on elastic addresses"),
    ("ec2:ImportVolume", "ImportVolume"),
    ("route53", "Route 53"),
    ("ec2:CopyImage", "CopyImage"),
    ("ec2:CopySnapshot", "CopySnapshot"),
    ("ebs", "EBS direct"),
    ("ec2:CreateSnapshots", "one-instant snapshots of several volumes"),
    ("kms", "KMS keys"),
    ("tag-on-create", "tags in every creating call"),
    ("ec2:DescribeInstanceTypeOfferings", "telling which machine types it offers"),
    ("ec2:CreateVolume:token", "a token for CreateVolume"),
    ("s3:conditional-write", "conditional writes"),
    ("dry-run", "DryRun"),
)


def abilities(capabilities: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the site can, and what it can't, each in the same order for every site."""
    can = (*_ALWAYS, *(text for name, text in _WORDS if name in capabilities))
    return can, tuple(text for name, text in _WORDS if name not in capabilities)
