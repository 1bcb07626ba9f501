"""The dialects by name: AWS and three versions of Eucalyptus.

Capabilities, settle times and services of Eucalyptus come from the same sources as its tables (eucalyptus.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from drpilot.clouds.dialect import AWS, Dialect, Mark, Probe
from drpilot.clouds.eucalyptus import GRAMMAR_3_4, GRAMMAR_4_4, GRAMMAR_5
from drpilot.clouds.limits import Rate

__all__ = ["DIALECTS", "EUCALYPTUS_3_4", "EUCALYPTUS_4_4", "EUCALYPTUS_5"]

_PATHS_4: Mapping[str, str] = {
    "autoscaling": "/services/AutoScaling",
    "bootstrap": "/services/Empyrean",
    "cloudwatch": "/services/CloudWatch",
    "ec2": "/services/compute",
    "elb": "/services/LoadBalancing",
    "iam": "/services/Euare",
    "route53": "/services/Route53",
    "s3": "/services/objectstorage",
    "sts": "/services/Tokens",
}
"""Service → path below `https://HOST:8773` in 4.x and 5.x; 5.x alone has Route 53."""

_PATHS_3: Mapping[str, str] = {**_PATHS_4, "ec2": "/services/Eucalyptus", "s3": "/services/Walrus"}
"""The same in 3.x."""

_DNS_NAMES: Mapping[str, str] = {
    "autoscaling": "autoscaling",
    "bootstrap": "bootstrap",
    "cloudwatch": "monitoring",
    "ec2": "ec2",
    "elb": "elasticloadbalancing",
    "iam": "iam",
    "route53": "route53",
    "s3": "s3",
    "sts": "sts",
}
"""Service → the name `{service}` stands for in `https://{service}.DOMAIN:8773`, in 4.x and later."""

_RATES: Mapping[str, Rate] = {
    "ec2:changing": Rate(20, 5),
    "ec2:reading": Rate(50, 20),
    "ec2:unfiltered": Rate(20, 5),
    "ec2:CreateVolume": Rate(10, 2),
    "ec2:CreateSnapshot": Rate(5, 1),
    "ec2:RunInstances": Rate(5, 2),
}
"""Our own restraint: a private cloud has one front end and publishes no quota of requests."""

_REPLIES: Mapping[str, str] = {
    "autoscaling:PutScalingPolicy": "PolicyARN",
    "ec2:AllocateAddress": "PublicIp",
    "ec2:AttachVolume": "VolumeId",
    "ec2:BundleInstance": "BundleTask.BundleId",
    "ec2:CreateImage": "ImageId",
    "ec2:CreateInternetGateway": "InternetGateway.InternetGatewayId",
    "ec2:CreateKeyPair": "KeyName",
    "ec2:CreateLaunchTemplate": "LaunchTemplate.LaunchTemplateId",
    "ec2:CreateNatGateway": "NatGateway.NatGatewayId",
    "ec2:CreateNetworkAcl": "NetworkAcl.NetworkAclId",
    "ec2:CreateNetworkInterface": "NetworkInterface.NetworkInterfaceId",
    "ec2:CreateRouteTable": "RouteTable.RouteTableId",
    "ec2:CreateSecurityGroup": "GroupId",
    "ec2:CreateSnapshot": "SnapshotId",
    "ec2:CreateSubnet": "Subnet.SubnetId",
    "ec2:CreateVolume": "VolumeId",
    "ec2:CreateVpc": "Vpc.VpcId",
    "ec2:ImportInstance": "ConversionTask.ConversionTaskId",
    "ec2:ImportKeyPair": "KeyName",
    "ec2:ImportVolume": "ConversionTask.ConversionTaskId",
    "ec2:RegisterImage": "ImageId",
    "ec2:RunInstances": "Instances[].InstanceId",
    "elb:CreateLoadBalancer": "DNSName",
    "iam:UploadSigningCertificate": "Certificate.CertificateId",
    "s3:CompleteMultipartUpload": "ETag",
    "s3:CopyObject": "CopyObjectResult.ETag",
    "s3:CreateMultipartUpload": "UploadId",
    "s3:PutObject": "ETag",
    "s3:UploadPart": "ETag",
    "s3:UploadPartCopy": "CopyPartResult.ETag",
    "sts:AssumeRole": "Credentials.AccessKeyId",
    "sts:GetSessionToken": "Credentials.AccessKeyId",
}
"""What an answer must hold (JMESPath); without it nothing happened: a stub's 200 is no success."""

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
_ABLE_4_4 = _ABLE_3_4 | {
    "bootstrap",
    "ec2:ImportVolume",
    "elb:tags",
    "s3:multipart",
    "termination-protection",
    "vpc",
}
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
    rates=_RATES,
    page_sizes={"autoscaling:DescribeAutoScalingGroups": 100},
    unpaged_with=_UNPAGED,
    read_default_s=20.0,
    read_timeout_s=_READ_TIMEOUT_S,
    grammar=GRAMMAR_3_4,
    replies=_REPLIES,
    marks=_MARKS,
    described=_DESCRIBED,
    paths=_PATHS_3,
    signatures={"s3": "s3"},
    protocols=_PROTOCOLS,
    presigned="s3",  # versions before 2017 end URLs of version 4 after a fixed skew, whatever they say
    identity="owner",
)
EUCALYPTUS_4_4 = Dialect(
    name="eucalyptus-4.4",
    services=_SERVICES_4_4,
    capabilities=_ABLE_4_4,
    probes=_PROBES_4_4,
    tokens=frozenset({"ec2:CreateNatGateway", "ec2:RunInstances"}),
    settle_s=10.0,
    rates=_RATES,
    page_sizes=_PAGES_4_4,
    unpaged_with=_UNPAGED,
    read_default_s=20.0,
    read_timeout_s=_READ_TIMEOUT_S,
    grammar=GRAMMAR_4_4,
    replies=_REPLIES,
    marks=_MARKS,
    described=_DESCRIBED,
    paths=_PATHS_4,
    names=_DNS_NAMES,
    signatures={"s3": "s3v4"},
    protocols=_PROTOCOLS,
    presigned="s3",  # versions before 2017 end URLs of version 4 after a fixed skew, whatever they say
)
EUCALYPTUS_5 = Dialect(
    name="eucalyptus-5",
    services=_SERVICES_5,
    capabilities=_ABLE_5,
    probes=_PROBES_5,
    tokens=frozenset({"ec2:CreateLaunchTemplate", "ec2:CreateNatGateway", "ec2:RunInstances"}),
    settle_s=10.0,
    rates=_RATES,
    page_sizes={**_PAGES_4_4, "ec2:DescribeLaunchTemplates": 100},
    unpaged_with=_UNPAGED,
    read_default_s=20.0,
    read_timeout_s=_READ_TIMEOUT_S,
    grammar=GRAMMAR_5,
    replies=_REPLIES,
    marks=_MARKS,
    described={name: member for name, member in _DESCRIBED.items() if member != "Snapshots"},
    paths=_PATHS_4,
    names=_DNS_NAMES,
    signatures={"s3": "s3v4"},
    protocols=_PROTOCOLS,
    presigned="s3",  # versions before 2017 end URLs of version 4 after a fixed skew, whatever they say
)

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect for dialect in (AWS, EUCALYPTUS_3_4, EUCALYPTUS_4_4, EUCALYPTUS_5)
}
