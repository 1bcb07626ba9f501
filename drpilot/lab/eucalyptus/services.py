"""The services of a Eucalyptus cloud: where each listens, and the operations and fields of all but EC2.

Paths: the query pipelines of the services (`/services/Eucalyptus` is EC2's old name, `/services/Walrus` the
object store's). The query bindings of these services let unknown fields pass unless the cloud's property
`bootstrap.webservices.unknown_parameter_handling` is `error`, as it is in the lab: there a lost field is seen.
"""

from __future__ import annotations

from collections.abc import Mapping

from drpilot.lab.eucalyptus import compute
from drpilot.lab.eucalyptus.fields import Fields, read_table

__all__ = ["NAMESPACES", "PATHS", "endpoints_of", "fields_of", "namespace_of", "place"]

_OLD_PATHS = {
    "/services/Eucalyptus": "ec2",
    "/services/Walrus": "s3",
    "/services/Euare": "iam",
    "/services/Tokens": "sts",
    "/services/LoadBalancing": "elb",
    "/services/AutoScaling": "autoscaling",
    "/services/CloudWatch": "cloudwatch",
    "/services/Empyrean": "empyrean",
}
_NEW_PATHS = {"/services/compute": "ec2", "/services/objectstorage": "s3", **_OLD_PATHS}

PATHS: Mapping[str, Mapping[str, str]] = {
    "3.4": _OLD_PATHS,
    "4.4": _NEW_PATHS,
    "5": {**_NEW_PATHS, "/services/Route53": "route53"},
}
"""Service by path, by version; the first path of a service is the one to use."""

NAMESPACES = {
    "ec2": "ec2_amazonaws_com_doc_{ec2}",
    "iam": "iam_amazonaws_com_doc_2010_05_08",
    "sts": "sts_amazonaws_com_doc_2011_06_15",
    "elb": "elasticloadbalancing_amazonaws_com_doc_2012_06_01",
    "autoscaling": "autoscaling_amazonaws_com_doc_2011_01_01",
    "cloudwatch": "monitoring_amazonaws_com_doc_2010_08_01",
    "empyrean": "www_eucalyptus_com_ns_empyrean",
}
"""The default binding's name, which faults about unknown operations carry."""
_EC2_BINDING = {"3.4": "2013_08_15", "4.4": "2016_09_15", "5": "2016_11_15"}

_IAM = """
CreateSigningCertificate UserName
DeleteSigningCertificate UserName CertificateId
GetUser UserName
ListAccountAliases Marker MaxItems
ListSigningCertificates UserName Marker MaxItems
UpdateSigningCertificate UserName CertificateId Status
UploadSigningCertificate UserName CertificateBody
"""

_STS = """
GetAccessToken DurationSeconds
GetSessionToken DurationSeconds
"""
_STS_4_4 = "GetCallerIdentity"

_ELB = """
ConfigureHealthCheck LoadBalancerName HealthCheck.Target HealthCheck.Interval HealthCheck.Timeout
ConfigureHealthCheck HealthCheck.UnhealthyThreshold HealthCheck.HealthyThreshold
CreateLoadBalancer LoadBalancerName AvailabilityZones.member.# Listeners.member.#.Protocol
CreateLoadBalancer Listeners.member.#.LoadBalancerPort Listeners.member.#.InstanceProtocol
CreateLoadBalancer Listeners.member.#.InstancePort Listeners.member.#.SSLCertificateId Scheme
CreateLoadBalancerListeners LoadBalancerName Listeners.member.#.Protocol Listeners.member.#.LoadBalancerPort
CreateLoadBalancerListeners Listeners.member.#.InstanceProtocol Listeners.member.#.InstancePort
CreateLoadBalancerListeners Listeners.member.#.SSLCertificateId
DeleteLoadBalancer LoadBalancerName
DeleteLoadBalancerListeners LoadBalancerName LoadBalancerPorts.member.#
DeregisterInstancesFromLoadBalancer LoadBalancerName Instances.member.#.InstanceId
DescribeInstanceHealth LoadBalancerName Instances.member.#.InstanceId
DescribeLoadBalancers LoadBalancerNames.member.# Marker
DisableAvailabilityZonesForLoadBalancer LoadBalancerName AvailabilityZones.member.#
EnableAvailabilityZonesForLoadBalancer LoadBalancerName AvailabilityZones.member.#
RegisterInstancesWithLoadBalancer LoadBalancerName Instances.member.#.InstanceId
"""
_ELB_4_4 = """
AddTags LoadBalancerNames.member.# @Tags
ApplySecurityGroupsToLoadBalancer LoadBalancerName SecurityGroups.member.#
AttachLoadBalancerToSubnets LoadBalancerName Subnets.member.#
CreateLoadBalancer Subnets.member.# SecurityGroups.member.# @Tags
DescribeLoadBalancerAttributes LoadBalancerName
DescribeLoadBalancers PageSize
DescribeTags LoadBalancerNames.member.#
DetachLoadBalancerFromSubnets LoadBalancerName Subnets.member.#
ModifyLoadBalancerAttributes LoadBalancerName LoadBalancerAttributes.CrossZoneLoadBalancing.Enabled
ModifyLoadBalancerAttributes LoadBalancerAttributes.ConnectionDraining.Enabled
ModifyLoadBalancerAttributes LoadBalancerAttributes.ConnectionDraining.Timeout
ModifyLoadBalancerAttributes LoadBalancerAttributes.ConnectionSettings.IdleTimeout
RemoveTags LoadBalancerNames.member.# Tags.member.#.Key
"""

_SCALING = """
CreateAutoScalingGroup AutoScalingGroupName LaunchConfigurationName MinSize MaxSize DesiredCapacity
CreateAutoScalingGroup DefaultCooldown AvailabilityZones.member.# LoadBalancerNames.member.# HealthCheckType
CreateAutoScalingGroup HealthCheckGracePeriod TerminationPolicies.member.# Tags.member.#.ResourceId
CreateAutoScalingGroup Tags.member.#.ResourceType Tags.member.#.PropagateAtLaunch @Tags
CreateLaunchConfiguration LaunchConfigurationName ImageId KeyName SecurityGroups.member.# UserData InstanceId
CreateLaunchConfiguration InstanceType KernelId RamdiskId InstanceMonitoring.Enabled IamInstanceProfile SpotPrice
CreateLaunchConfiguration EbsOptimized AssociatePublicIpAddress BlockDeviceMappings.member.#.DeviceName
CreateLaunchConfiguration BlockDeviceMappings.member.#.VirtualName BlockDeviceMappings.member.#.Ebs.SnapshotId
CreateLaunchConfiguration BlockDeviceMappings.member.#.Ebs.VolumeSize
CreateOrUpdateTags Tags.member.#.ResourceId Tags.member.#.ResourceType Tags.member.#.PropagateAtLaunch @Tags
DeleteAutoScalingGroup AutoScalingGroupName ForceDelete
DeleteLaunchConfiguration LaunchConfigurationName
DeleteTags Tags.member.#.ResourceId Tags.member.#.ResourceType Tags.member.#.PropagateAtLaunch @Tags
DescribeAutoScalingGroups AutoScalingGroupNames.member.# NextToken MaxRecords
DescribeAutoScalingInstances InstanceIds.member.# NextToken MaxRecords
DescribeLaunchConfigurations LaunchConfigurationNames.member.# NextToken MaxRecords
DescribeScalingActivities ActivityIds.member.# AutoScalingGroupName NextToken MaxRecords
DescribeTags @Members NextToken MaxRecords
ResumeProcesses AutoScalingGroupName ScalingProcesses.member.#
SetDesiredCapacity AutoScalingGroupName DesiredCapacity HonorCooldown
SetInstanceHealth InstanceId HealthStatus ShouldRespectGracePeriod
SuspendProcesses AutoScalingGroupName ScalingProcesses.member.#
TerminateInstanceInAutoScalingGroup InstanceId ShouldDecrementDesiredCapacity
UpdateAutoScalingGroup AutoScalingGroupName LaunchConfigurationName MinSize MaxSize DesiredCapacity
UpdateAutoScalingGroup DefaultCooldown AvailabilityZones.member.# HealthCheckType HealthCheckGracePeriod
UpdateAutoScalingGroup TerminationPolicies.member.#
"""
_SCALING_4_4 = """
AttachInstances AutoScalingGroupName InstanceIds.member.#
CreateAutoScalingGroup VPCZoneIdentifier
DetachInstances AutoScalingGroupName InstanceIds.member.# ShouldDecrementDesiredCapacity
UpdateAutoScalingGroup VPCZoneIdentifier
"""

_WATCH = """
DeleteAlarms AlarmNames.member.#
DescribeAlarmHistory AlarmName HistoryItemType StartDate EndDate MaxRecords NextToken
DescribeAlarms AlarmNames.member.# AlarmNamePrefix StateValue ActionPrefix MaxRecords NextToken
DescribeAlarmsForMetric MetricName Namespace Statistic Period Unit @Dimensions
DisableAlarmActions AlarmNames.member.#
EnableAlarmActions AlarmNames.member.#
GetMetricStatistics Namespace MetricName StartTime EndTime Period Statistics.member.# Unit @Dimensions
ListMetrics Namespace MetricName @Dimensions NextToken
PutMetricAlarm AlarmName AlarmDescription ActionsEnabled OKActions.member.# AlarmActions.member.#
PutMetricAlarm InsufficientDataActions.member.# MetricName Namespace Statistic @Dimensions Period Unit
PutMetricAlarm EvaluationPeriods Threshold ComparisonOperator
PutMetricData Namespace MetricData.member.#.MetricName MetricData.member.#.Dimensions.member.#.Name
PutMetricData MetricData.member.#.Dimensions.member.#.Value MetricData.member.#.Timestamp
PutMetricData MetricData.member.#.Value MetricData.member.#.Unit MetricData.member.#.StatisticValues.SampleCount
PutMetricData MetricData.member.#.StatisticValues.Sum MetricData.member.#.StatisticValues.Minimum
PutMetricData MetricData.member.#.StatisticValues.Maximum
SetAlarmState AlarmName StateValue StateReason StateReasonData
"""

_EMPYREAN = """
DescribeServiceCertificates Format FingerprintDigest Filter.#.Name Filter.#.Value.#
DescribeServices ListAll ListUserServices ListInternal ByServiceType ByHost ByState ByPartition @Filter
"""

_TABLES: Mapping[tuple[str, str], Fields] = {
    ("iam", "3.4"): read_table(_IAM),
    ("iam", "4.4"): read_table(_IAM),
    ("sts", "3.4"): read_table(_STS),
    ("sts", "4.4"): read_table(_STS, _STS_4_4),
    ("elb", "3.4"): read_table(_ELB),
    ("elb", "4.4"): read_table(_ELB, _ELB_4_4),
    ("autoscaling", "3.4"): read_table(_SCALING),
    ("autoscaling", "4.4"): read_table(_SCALING, _SCALING_4_4),
    ("cloudwatch", "3.4"): read_table(_WATCH),
    ("cloudwatch", "4.4"): read_table(_WATCH),
    ("empyrean", "3.4"): read_table("DescribeServices ListAll ListUserServices ByServiceType"),
    ("empyrean", "4.4"): read_table(_EMPYREAN),
}


def endpoints_of(version: str, origin: str) -> dict[str, str]:
    """The URL of each service below `origin` (http://host:port)."""
    found: dict[str, str] = {}
    for path, service in PATHS[version].items():
        found.setdefault(service, f"{origin}{path}")
    return found


def place(version: str, path: str) -> tuple[str, str] | None:
    """The service that a request's path names and what follows; None where no pipeline accepts the path."""
    parts = path.split("/", 3)
    service = PATHS[version].get("/".join(parts[:3]))
    return None if service is None else (service, "/" + (parts[3] if len(parts) > 3 else ""))


def fields_of(version: str, service: str) -> Fields:
    """Operations and fields of a query service."""
    if service == "ec2":
        return compute.OPERATIONS[version]
    return _TABLES[service, "3.4" if version == "3.4" else "4.4"]


def namespace_of(version: str, service: str) -> str:
    """The name of the binding that faults about unknown operations carry."""
    return NAMESPACES[service].format(ec2=_EC2_BINDING[version])
