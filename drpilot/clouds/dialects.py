"""The dialects by name: AWS and three versions of Eucalyptus.

Capabilities, settle times and services of Eucalyptus come from the same sources as its tables (eucalyptus.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from drpilot.clouds.dialect import AWS, Dialect, Mark, Probe
from drpilot.clouds.eucalyptus import (
    DNS_NAMES,
    GRAMMAR_3_4,
    GRAMMAR_4_4,
    GRAMMAR_5,
    PATHS_3,
    PATHS_4,
    RATES,
    REPLIES,
)

__all__ = ["DIALECTS", "EUCALYPTUS_3_4", "EUCALYPTUS_4_4", "EUCALYPTUS_5"]

_ABLE_3_4 = frozenset(
    {
        "autoscaling",
        "client-token",
        "cloudwatch",
        "ec2:BundleInstance",
        "ec2:CreateImage",
        "ec2:CreateSnapshot",
        "ec2:RegisterImage",
        "elb",
        "iam",
        "launch-configuration",
        "s3",
        "sts",
    }
)
_ABLE_4_4 = _ABLE_3_4 | {"bootstrap", "ec2:ImportVolume", "s3:multipart", "vpc"}
_ABLE_5 = _ABLE_4_4 | {
    "ec2:CreateLaunchTemplate",
    "ec2:CreateSnapshot:tags",
    "ec2:CreateVolume:tags",
    "ec2:RunInstances:tags",
    "route53",
}

_SERVICES_3_4 = frozenset({"autoscaling", "cloudwatch", "ec2", "elb", "iam", "s3", "sts"})
_SERVICES_4_4 = _SERVICES_3_4 | {"bootstrap"}
_SERVICES_5 = _SERVICES_4_4 | {"route53"}

_PROBES_3_4 = (
    Probe("autoscaling", "autoscaling", "DescribeAutoScalingGroups", {"MaxRecords": 1}),
    Probe("cloudwatch", "cloudwatch", "DescribeAlarms", {"MaxRecords": 1}),
    Probe("elb", "elb", "DescribeLoadBalancers", {}),
    Probe("launch-configuration", "autoscaling", "DescribeLaunchConfigurations", {"MaxRecords": 1}),
    Probe("s3", "s3", "ListBuckets", {}),
)
_PROBES_4_4 = (
    *_PROBES_3_4,
    Probe("ec2:ImportVolume", "ec2", "DescribeConversionTasks", {}),
    Probe("s3:multipart", "s3", "ListMultipartUploads", {"Bucket": "drpilot-probe-no-such-bucket"}),
    Probe(
        "vpc",
        "ec2",
        "DescribeAccountAttributes",
        {"AttributeNames": ["supported-platforms"]},
        "contains(AccountAttributes[].AttributeValues[].AttributeValue, 'VPC')",
    ),
)
_PROBES_5 = (
    *_PROBES_4_4,
    Probe("ec2:CreateLaunchTemplate", "ec2", "DescribeLaunchTemplates", {}),
    Probe("route53", "route53", "ListHostedZones", {"MaxItems": "1"}),
)

_MARKS = {
    "ec2:CreateImage": Mark("Description", "image", "[ImageId]"),
    "ec2:CreateLaunchTemplate": Mark("", "launch-template", "[LaunchTemplate.LaunchTemplateId]"),
    "ec2:CreateSecurityGroup": Mark("Description", "security-group", "[GroupId]"),
    "ec2:CreateSnapshot": Mark("Description", "snapshot", "[SnapshotId]"),
    "ec2:CreateSubnet": Mark("", "subnet", "[Subnet.SubnetId]"),
    "ec2:CreateVolume": Mark("", "volume", "[VolumeId]"),
    "ec2:CreateVpc": Mark("", "vpc", "[Vpc.VpcId]"),
    "ec2:RegisterImage": Mark("Description", "image", "[ImageId]"),
    "ec2:RunInstances": Mark("", "instance", "Instances[].InstanceId"),
}
_DESCRIBED = {
    "ec2:DescribeImages": "Images",
    "ec2:DescribeSecurityGroups": "SecurityGroups",
    "ec2:DescribeSnapshots": "Snapshots",
}
_PAGES_4_4 = {
    "autoscaling:DescribeAutoScalingGroups": 100,
    "ec2:DescribeInstances": 500,
    "ec2:DescribeSnapshots": 500,
    "ec2:DescribeTags": 500,
    "ec2:DescribeVolumes": 500,
}
_UNPAGED = {
    "autoscaling:DescribeAutoScalingGroups": ("AutoScalingGroupNames",),
    "ec2:DescribeInstances": ("InstanceIds",),
    "ec2:DescribeSnapshots": ("SnapshotIds",),
    "ec2:DescribeVolumes": ("VolumeIds",),
}
_PROTOCOLS = {"cloudwatch": "query"}
# What a private cloud's volumes and uploads may take before the first byte of an answer.
_READ_TIMEOUT_S = {"s3": 60.0}

EUCALYPTUS_3_4 = Dialect(
    name="eucalyptus-3.4",
    services=_SERVICES_3_4,
    capabilities=_ABLE_3_4,
    probes=_PROBES_3_4,
    tokens=frozenset({"ec2:RunInstances"}),
    settle_s=10.0,
    rates=RATES,
    page_sizes={"autoscaling:DescribeAutoScalingGroups": 100},
    unpaged_with=_UNPAGED,
    read_default_s=20.0,
    read_timeout_s=_READ_TIMEOUT_S,
    grammar=GRAMMAR_3_4,
    replies=REPLIES,
    marks=_MARKS,
    described=_DESCRIBED,
    paths=PATHS_3,
    signatures={"s3": "s3"},
    protocols=_PROTOCOLS,
    identity="owner",
)
EUCALYPTUS_4_4 = Dialect(
    name="eucalyptus-4.4",
    services=_SERVICES_4_4,
    capabilities=_ABLE_4_4,
    probes=_PROBES_4_4,
    tokens=frozenset({"ec2:CreateNatGateway", "ec2:RunInstances"}),
    settle_s=10.0,
    rates=RATES,
    page_sizes=_PAGES_4_4,
    unpaged_with=_UNPAGED,
    read_default_s=20.0,
    read_timeout_s=_READ_TIMEOUT_S,
    grammar=GRAMMAR_4_4,
    replies=REPLIES,
    marks=_MARKS,
    described=_DESCRIBED,
    paths=PATHS_4,
    names=DNS_NAMES,
    signatures={"s3": "s3v4"},
    protocols=_PROTOCOLS,
)
EUCALYPTUS_5 = Dialect(
    name="eucalyptus-5",
    services=_SERVICES_5,
    capabilities=_ABLE_5,
    probes=_PROBES_5,
    tokens=frozenset({"ec2:CreateLaunchTemplate", "ec2:CreateNatGateway", "ec2:RunInstances"}),
    settle_s=10.0,
    rates=RATES,
    page_sizes={**_PAGES_4_4, "ec2:DescribeLaunchTemplates": 100},
    unpaged_with=_UNPAGED,
    read_default_s=20.0,
    read_timeout_s=_READ_TIMEOUT_S,
    grammar=GRAMMAR_5,
    replies=REPLIES,
    marks=_MARKS,
    described={name: member for name, member in _DESCRIBED.items() if member != "Snapshots"},
    paths=PATHS_4,
    names=DNS_NAMES,
    signatures={"s3": "s3v4"},
    protocols=_PROTOCOLS,
)

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect for dialect in (AWS, EUCALYPTUS_3_4, EUCALYPTUS_4_4, EUCALYPTUS_5)
}
