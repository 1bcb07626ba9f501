"""The Eucalyptus dialects: 3.4, 4.4 and 5 (5.1), as data.

Eucalyptus refuses unknown parameters by default, has no DryRun (a lenient site drops the parameter and carries
the call out), and answers some operations with 200 and no effect. What stands here comes from its message
classes and services: github.com/eucalyptus/eucalyptus, branches maint-3.4 and maint-4.4, and
github.com/sjones4/eucalyptus, branch maint-5; not from calls to a running cloud. Parameters are written in
botocore's words. A field that a class has and the version makes no use of (the subnet of a 3.4, say) is left out:
what is asked for in vain is refused.
"""

from __future__ import annotations

from drpilot.clouds.grammar import Grammar

__all__ = ["GRAMMAR_3_4", "GRAMMAR_4_4", "GRAMMAR_5"]

_NOT_THERE = "this version has no such operation"
_STUB = "there it answers success and does nothing"

_MAPPINGS = """
    BlockDeviceMappings.DeviceName BlockDeviceMappings.VirtualName BlockDeviceMappings.NoDevice
    BlockDeviceMappings.Ebs.SnapshotId BlockDeviceMappings.Ebs.VolumeSize
    BlockDeviceMappings.Ebs.DeleteOnTermination
""".replace("\n", " ")
_RULES = """
    IpPermissions.IpProtocol IpPermissions.FromPort IpPermissions.ToPort IpPermissions.IpRanges.CidrIp
    IpPermissions.UserIdGroupPairs.UserId IpPermissions.UserIdGroupPairs.GroupName
    IpPermissions.UserIdGroupPairs.GroupId
""".replace("\n", " ")

_EC2_3_4 = f"""
    AllocateAddress
    AssociateAddress PublicIp InstanceId
    AttachVolume VolumeId InstanceId Device
    AuthorizeSecurityGroupIngress GroupId GroupName IpProtocol FromPort ToPort CidrIp {_RULES}
    BundleInstance InstanceId Storage.S3.*
    CancelBundleTask BundleId
    CreateImage InstanceId Name Description NoReboot
    CreateKeyPair KeyName
    CreateSecurityGroup GroupName Description
    CreateSnapshot VolumeId Description
    CreateTags Resources Tags.Key Tags.Value
    CreateVolume Size SnapshotId AvailabilityZone VolumeType Iops
    DeleteKeyPair KeyName
    DeleteSecurityGroup GroupName GroupId
    DeleteSnapshot SnapshotId
    DeleteTags Resources Tags.Key Tags.Value
    DeleteVolume VolumeId
    DeregisterImage ImageId
    DescribeAddresses PublicIps Filters.*
    DescribeAvailabilityZones ZoneNames Filters.*
    DescribeBundleTasks BundleIds Filters.*
    DescribeImageAttribute ImageId Attribute
    DescribeImages ImageIds Owners ExecutableUsers Filters.*
    DescribeInstanceAttribute InstanceId Attribute
    DescribeInstanceStatus InstanceIds Filters.* MaxResults NextToken IncludeAllInstances
    DescribeInstances InstanceIds Filters.*
    DescribeKeyPairs KeyNames Filters.*
    DescribeRegions RegionNames Filters.*
    DescribeSecurityGroups GroupIds GroupNames Filters.*
    DescribeSnapshotAttribute SnapshotId Attribute
    DescribeSnapshots SnapshotIds OwnerIds RestorableByUserIds Filters.*
    DescribeTags Filters.*
    DescribeVolumes VolumeIds Filters.*
    DetachVolume VolumeId InstanceId Device Force
    DisassociateAddress PublicIp
    GetConsoleOutput InstanceId
    ImportKeyPair KeyName PublicKeyMaterial
    ModifyImageAttribute ImageId Attribute OperationType UserIds UserGroups Description.Value
    ModifyImageAttribute LaunchPermission.Add.UserId LaunchPermission.Add.Group
    ModifyImageAttribute LaunchPermission.Remove.UserId LaunchPermission.Remove.Group
    ModifyInstanceAttribute InstanceId InstanceType.Value Kernel.Value Ramdisk.Value UserData.Value
    ModifyInstanceAttribute BlockDeviceMappings.DeviceName BlockDeviceMappings.Ebs.VolumeId
    ModifyInstanceAttribute BlockDeviceMappings.Ebs.DeleteOnTermination
    ModifySnapshotAttribute SnapshotId Attribute OperationType UserIds CreateVolumePermission.*
    MonitorInstances InstanceIds
    RebootInstances InstanceIds
    RegisterImage ImageLocation Name Description Architecture KernelId RamdiskId RootDeviceName
    RegisterImage VirtualizationType {_MAPPINGS}
    ReleaseAddress PublicIp
    ResetImageAttribute ImageId Attribute
    ResetSnapshotAttribute SnapshotId Attribute
    RevokeSecurityGroupIngress GroupId GroupName IpProtocol FromPort ToPort CidrIp {_RULES}
    RunInstances ImageId MinCount MaxCount KeyName SecurityGroups SecurityGroupIds UserData InstanceType
    RunInstances KernelId RamdiskId Placement.AvailabilityZone Placement.GroupName
    RunInstances Monitoring.Enabled DisableApiTermination InstanceInitiatedShutdownBehavior
    RunInstances PrivateIpAddress ClientToken IamInstanceProfile.Arn IamInstanceProfile.Name EbsOptimized
    RunInstances AdditionalInfo {_MAPPINGS}
    StartInstances InstanceIds
    StopInstances InstanceIds Force
    TerminateInstances InstanceIds
    UnmonitorInstances InstanceIds
"""

# The listings of endpoints, peerings and VPN gateways are stubs: they list nothing, and nothing of these can be made.
_EC2_4_4 = f"""
    AllocateAddress Domain
    AssociateAddress AllocationId NetworkInterfaceId PrivateIpAddress AllowReassociation
    AssociateRouteTable RouteTableId SubnetId
    AttachInternetGateway InternetGatewayId VpcId
    AttachNetworkInterface NetworkInterfaceId InstanceId DeviceIndex
    AuthorizeSecurityGroupEgress GroupId {_RULES}
    CancelConversionTask ConversionTaskId ReasonMessage
    CreateInternetGateway
    CreateNatGateway SubnetId AllocationId ClientToken
    CreateNetworkAcl VpcId
    CreateNetworkInterface SubnetId Description PrivateIpAddress Groups
    CreateRoute RouteTableId DestinationCidrBlock GatewayId InstanceId NetworkInterfaceId NatGatewayId
    CreateRouteTable VpcId
    CreateSecurityGroup VpcId
    CreateSubnet VpcId CidrBlock AvailabilityZone
    CreateVolume Encrypted
    CreateVpc CidrBlock InstanceTenancy
    DeleteInternetGateway InternetGatewayId
    DeleteNatGateway NatGatewayId
    DeleteNetworkAcl NetworkAclId
    DeleteNetworkInterface NetworkInterfaceId
    DeleteRoute RouteTableId DestinationCidrBlock
    DeleteRouteTable RouteTableId
    DeleteSubnet SubnetId
    DeleteVpc VpcId
    DescribeAccountAttributes AttributeNames
    DescribeAddresses AllocationIds
    DescribeConversionTasks ConversionTaskIds
    DescribeInstances MaxResults NextToken
    DescribeInternetGateways InternetGatewayIds Filters.*
    DescribeNatGateways NatGatewayIds Filter.*
    DescribeNetworkAcls NetworkAclIds Filters.*
    DescribeNetworkInterfaces NetworkInterfaceIds Filters.*
    DescribeRouteTables RouteTableIds Filters.*
    DescribeSnapshots MaxResults NextToken
    DescribeSubnets SubnetIds Filters.*
    DescribeTags MaxResults NextToken
    DescribeVolumes MaxResults NextToken
    DescribeVpcAttribute VpcId Attribute
    DescribeVpcEndpoints Filters.*
    DescribeVpcPeeringConnections Filters.*
    DescribeVpcs VpcIds Filters.*
    DescribeVpnGateways Filters.*
    DetachInternetGateway InternetGatewayId VpcId
    DisassociateAddress AssociationId
    DisassociateRouteTable AssociationId
    ImportInstance Description Platform LaunchSpecification.* DiskImages.*
    ImportVolume AvailabilityZone Description Image.Format Image.Bytes Image.ImportManifestUrl Volume.Size
    ModifyInstanceAttribute Groups SourceDestCheck.Value DisableApiTermination.Value EbsOptimized.Value
    ModifyInstanceAttribute InstanceInitiatedShutdownBehavior.Value
    ModifyNetworkInterfaceAttribute NetworkInterfaceId Groups Description.Value SourceDestCheck.Value Attachment.*
    ModifySubnetAttribute SubnetId MapPublicIpOnLaunch.Value
    ModifyVpcAttribute VpcId EnableDnsHostnames.Value EnableDnsSupport.Value
    RegisterImage SriovNetSupport BlockDeviceMappings.Ebs.VolumeType BlockDeviceMappings.Ebs.Iops
    ReleaseAddress AllocationId
    ReplaceRouteTableAssociation AssociationId RouteTableId
    RevokeSecurityGroupEgress GroupId {_RULES}
    RunInstances SubnetId Placement.Tenancy BlockDeviceMappings.Ebs.VolumeType BlockDeviceMappings.Ebs.Iops
    RunInstances NetworkInterfaces.NetworkInterfaceId NetworkInterfaces.DeviceIndex NetworkInterfaces.SubnetId
    RunInstances NetworkInterfaces.Description NetworkInterfaces.PrivateIpAddress NetworkInterfaces.Groups
    RunInstances NetworkInterfaces.DeleteOnTermination NetworkInterfaces.PrivateIpAddresses.*
    RunInstances NetworkInterfaces.SecondaryPrivateIpAddressCount NetworkInterfaces.AssociatePublicIpAddress
"""

_EC2_5 = """
    CreateLaunchTemplate LaunchTemplateName VersionDescription ClientToken LaunchTemplateData.ImageId
    CreateLaunchTemplate LaunchTemplateData.InstanceType LaunchTemplateData.KeyName LaunchTemplateData.UserData
    CreateLaunchTemplate LaunchTemplateData.SecurityGroupIds LaunchTemplateData.IamInstanceProfile.Arn
    CreateLaunchTemplate LaunchTemplateData.IamInstanceProfile.Name LaunchTemplateData.Placement.AvailabilityZone
    CreateSnapshot TagSpecifications.*
    CreateVolume KmsKeyId TagSpecifications.*
    DeleteLaunchTemplate LaunchTemplateId LaunchTemplateName
    DescribeLaunchTemplates LaunchTemplateIds LaunchTemplateNames Filters.* MaxResults NextToken
    RunInstances LaunchTemplate.* TagSpecifications.*
"""

_AUTOSCALING_3_4 = """
    CreateAutoScalingGroup AutoScalingGroupName LaunchConfigurationName MinSize MaxSize DesiredCapacity
    CreateAutoScalingGroup DefaultCooldown AvailabilityZones LoadBalancerNames HealthCheckType
    CreateAutoScalingGroup HealthCheckGracePeriod TerminationPolicies Tags.*
    CreateLaunchConfiguration LaunchConfigurationName ImageId KeyName SecurityGroups UserData InstanceType
    CreateLaunchConfiguration KernelId RamdiskId BlockDeviceMappings.DeviceName BlockDeviceMappings.VirtualName
    CreateLaunchConfiguration BlockDeviceMappings.Ebs.SnapshotId BlockDeviceMappings.Ebs.VolumeSize
    CreateLaunchConfiguration InstanceMonitoring.Enabled SpotPrice IamInstanceProfile
    CreateOrUpdateTags Tags.*
    DeleteAutoScalingGroup AutoScalingGroupName ForceDelete
    DeleteLaunchConfiguration LaunchConfigurationName
    DeletePolicy AutoScalingGroupName PolicyName
    DeleteTags Tags.*
    DescribeAutoScalingGroups AutoScalingGroupNames MaxRecords NextToken
    DescribeAutoScalingInstances InstanceIds MaxRecords NextToken
    DescribeLaunchConfigurations LaunchConfigurationNames MaxRecords NextToken
    DescribePolicies AutoScalingGroupName PolicyNames MaxRecords NextToken
    DescribeScalingActivities ActivityIds AutoScalingGroupName MaxRecords NextToken
    DescribeTags Filters.* MaxRecords NextToken
    PutScalingPolicy AutoScalingGroupName PolicyName ScalingAdjustment AdjustmentType Cooldown MinAdjustmentStep
    ResumeProcesses AutoScalingGroupName ScalingProcesses
    SetDesiredCapacity AutoScalingGroupName DesiredCapacity HonorCooldown
    SetInstanceHealth InstanceId HealthStatus ShouldRespectGracePeriod
    SuspendProcesses AutoScalingGroupName ScalingProcesses
    TerminateInstanceInAutoScalingGroup InstanceId ShouldDecrementDesiredCapacity
    UpdateAutoScalingGroup AutoScalingGroupName LaunchConfigurationName MinSize MaxSize DesiredCapacity
    UpdateAutoScalingGroup DefaultCooldown AvailabilityZones HealthCheckType HealthCheckGracePeriod
    UpdateAutoScalingGroup TerminationPolicies
"""

_AUTOSCALING_4_4 = """
    AttachInstances AutoScalingGroupName InstanceIds
    CreateAutoScalingGroup VPCZoneIdentifier
    CreateLaunchConfiguration AssociatePublicIpAddress
    DetachInstances AutoScalingGroupName InstanceIds ShouldDecrementDesiredCapacity
    UpdateAutoScalingGroup VPCZoneIdentifier
"""

_ELB_3_4 = """
    ConfigureHealthCheck LoadBalancerName HealthCheck.*
    CreateLoadBalancer LoadBalancerName Listeners.* AvailabilityZones Scheme
    CreateLoadBalancerListeners LoadBalancerName Listeners.*
    DeleteLoadBalancer LoadBalancerName
    DeleteLoadBalancerListeners LoadBalancerName LoadBalancerPorts
    DeregisterInstancesFromLoadBalancer LoadBalancerName Instances.InstanceId
    DescribeInstanceHealth LoadBalancerName Instances.InstanceId
    DescribeLoadBalancers LoadBalancerNames
    DisableAvailabilityZonesForLoadBalancer LoadBalancerName AvailabilityZones
    EnableAvailabilityZonesForLoadBalancer LoadBalancerName AvailabilityZones
    RegisterInstancesWithLoadBalancer LoadBalancerName Instances.InstanceId
"""

_ELB_4_4 = """
    AddTags LoadBalancerNames Tags.*
    ApplySecurityGroupsToLoadBalancer LoadBalancerName SecurityGroups
    AttachLoadBalancerToSubnets LoadBalancerName Subnets
    CreateLoadBalancer Subnets SecurityGroups Tags.*
    DescribeLoadBalancerAttributes LoadBalancerName
    DescribeTags LoadBalancerNames
    DetachLoadBalancerFromSubnets LoadBalancerName Subnets
    ModifyLoadBalancerAttributes LoadBalancerName LoadBalancerAttributes.CrossZoneLoadBalancing.Enabled
    ModifyLoadBalancerAttributes LoadBalancerAttributes.ConnectionDraining.*
    ModifyLoadBalancerAttributes LoadBalancerAttributes.ConnectionSettings.*
    RemoveTags LoadBalancerNames Tags.*
"""

_CLOUDWATCH = """
    DeleteAlarms AlarmNames
    DescribeAlarmHistory AlarmName HistoryItemType StartDate EndDate MaxRecords NextToken
    DescribeAlarms AlarmNames AlarmNamePrefix StateValue ActionPrefix MaxRecords NextToken
    DescribeAlarmsForMetric MetricName Namespace Statistic Dimensions.* Period Unit
    DisableAlarmActions AlarmNames
    EnableAlarmActions AlarmNames
    GetMetricStatistics Namespace MetricName Dimensions.* StartTime EndTime Period Statistics Unit
    ListMetrics Namespace MetricName Dimensions.* NextToken
    PutMetricAlarm AlarmName AlarmDescription ActionsEnabled OKActions AlarmActions InsufficientDataActions
    PutMetricAlarm MetricName Namespace Statistic Dimensions.* Period Unit EvaluationPeriods Threshold
    PutMetricAlarm ComparisonOperator
    PutMetricData Namespace MetricData.MetricName MetricData.Dimensions.* MetricData.Timestamp MetricData.Value
    PutMetricData MetricData.StatisticValues.* MetricData.Unit
    SetAlarmState AlarmName StateValue StateReason StateReasonData
"""

_IAM = """
    DeleteSigningCertificate UserName CertificateId
    GetInstanceProfile InstanceProfileName
    GetRole RoleName
    GetRolePolicy RoleName PolicyName
    GetServerCertificate ServerCertificateName
    GetUser UserName
    ListAccessKeys UserName Marker MaxItems
    ListAccountAliases Marker MaxItems
    ListInstanceProfiles PathPrefix Marker MaxItems
    ListInstanceProfilesForRole RoleName Marker MaxItems
    ListRolePolicies RoleName Marker MaxItems
    ListRoles PathPrefix Marker MaxItems
    ListServerCertificates PathPrefix Marker MaxItems
    ListSigningCertificates UserName Marker MaxItems
    UpdateSigningCertificate UserName CertificateId Status
    UploadSigningCertificate UserName CertificateBody
"""

_STS_3_4 = """
    AssumeRole RoleArn RoleSessionName ExternalId DurationSeconds Policy
    GetSessionToken DurationSeconds
"""

_S3_3_4 = """
    CopyObject Bucket Key CopySource ACL Metadata.* MetadataDirective CopySourceIfMatch CopySourceIfNoneMatch
    CopyObject CopySourceIfModifiedSince CopySourceIfUnmodifiedSince
    CreateBucket Bucket ACL CreateBucketConfiguration.LocationConstraint
    DeleteBucket Bucket
    DeleteObject Bucket Key VersionId
    GetBucketAcl Bucket
    GetBucketLocation Bucket
    GetBucketVersioning Bucket
    GetObject Bucket Key VersionId Range IfMatch IfNoneMatch IfModifiedSince IfUnmodifiedSince
    GetObjectAcl Bucket Key VersionId
    HeadBucket Bucket
    HeadObject Bucket Key VersionId
    ListBuckets
    ListObjects Bucket Prefix Marker MaxKeys Delimiter EncodingType
    ListObjectVersions Bucket Prefix KeyMarker VersionIdMarker MaxKeys Delimiter EncodingType
    PutBucketAcl Bucket ACL AccessControlPolicy.*
    PutBucketVersioning Bucket VersioningConfiguration.*
    PutObject Bucket Key Body ACL ContentType ContentLength ContentMD5 ContentEncoding ContentDisposition
    PutObject CacheControl Metadata.*
    PutObjectAcl Bucket Key VersionId ACL AccessControlPolicy.*
"""

_S3_4_4 = """
    AbortMultipartUpload Bucket Key UploadId
    CompleteMultipartUpload Bucket Key UploadId MultipartUpload.Parts.ETag MultipartUpload.Parts.PartNumber
    CreateMultipartUpload Bucket Key ACL ContentType ContentEncoding ContentDisposition CacheControl Metadata.*
    DeleteBucketCors Bucket
    DeleteBucketLifecycle Bucket
    DeleteBucketTagging Bucket
    DeleteObjects Bucket Delete.*
    GetBucketCors Bucket
    GetBucketLifecycleConfiguration Bucket
    GetBucketTagging Bucket
    ListMultipartUploads Bucket Prefix KeyMarker UploadIdMarker MaxUploads Delimiter EncodingType
    ListParts Bucket Key UploadId PartNumberMarker MaxParts
    PutBucketCors Bucket CORSConfiguration.*
    PutBucketLifecycleConfiguration Bucket LifecycleConfiguration.*
    PutBucketTagging Bucket Tagging.*
    UploadPart Bucket Key UploadId PartNumber Body ContentLength ContentMD5
"""

_S3_5 = """
    DeleteBucketPolicy Bucket
    GetBucketPolicy Bucket
    PutBucketPolicy Bucket Policy
    UploadPartCopy Bucket Key UploadId PartNumber CopySource CopySourceRange CopySourceIfMatch
"""

_ROUTE53_5 = """
    AssociateVPCWithHostedZone HostedZoneId VPC.VPCRegion VPC.VPCId Comment
    ChangeResourceRecordSets HostedZoneId ChangeBatch.*
    ChangeTagsForResource ResourceType ResourceId AddTags.* RemoveTagKeys
    CreateHostedZone Name CallerReference HostedZoneConfig.Comment HostedZoneConfig.PrivateZone
    CreateHostedZone VPC.VPCRegion VPC.VPCId
    DeleteHostedZone Id
    GetChange Id
    GetHostedZone Id
    ListHostedZones Marker MaxItems
    ListHostedZonesByName DNSName HostedZoneId MaxItems
    ListResourceRecordSets HostedZoneId StartRecordName StartRecordType StartRecordIdentifier MaxItems
    ListTagsForResource ResourceType ResourceId
"""

_BOOTSTRAP = """
    DescribeServices ListAll ListUserServices ByServiceType ByState ByPartition ByHost Filters.*
    DescribeServiceCertificates Format FingerprintDigest Filters.*
"""

# What drpilot asks of other clouds and none of these has; the reason is read by a person.
_NEVER_EC2 = """
    CreateFleet CreateReplaceRootVolumeTask CreateRestoreImageTask CreateSnapshots CreateStoreImageTask
    DescribeInstanceTypeOfferings DescribeInstanceTypes DescribeTransitGatewayVpcAttachments
    EnableFastSnapshotRestores LockSnapshot ModifyInstanceMetadataOptions ModifyLaunchTemplate
"""
_STUBS_4_4 = """
    CopyImage CopySnapshot CreateFlowLogs CreateVpcPeeringConnection ImportImage ImportSnapshot
    RequestSpotInstances
"""
_STUBS_5 = """
    CreateLaunchTemplateVersion DeleteLaunchTemplateVersions DescribeLaunchTemplateVersions
    DescribeVolumesModifications ModifyVolume
"""
_ELBV2 = """
    AddTags CreateListener CreateLoadBalancer CreateTargetGroup DeleteListener DeleteLoadBalancer
    DeleteTargetGroup DeregisterTargets DescribeListeners DescribeLoadBalancers DescribeTags
    DescribeTargetGroups DescribeTargetHealth ModifyListener RegisterTargets
"""
_EBS = "CompleteSnapshot GetSnapshotBlock ListChangedBlocks ListSnapshotBlocks PutSnapshotBlock StartSnapshot"
_KMS = "CreateGrant DescribeKey ListAliases ListKeys"
_ROUTE53 = (
    "ChangeResourceRecordSets GetChange GetHostedZone ListHostedZones ListResourceRecordSets TestDNSAnswer"
)


def _base() -> Grammar:
    base = Grammar.of("ec2", _EC2_3_4) | Grammar.of("autoscaling", _AUTOSCALING_3_4)
    base = base | Grammar.of("elb", _ELB_3_4) | Grammar.of("cloudwatch", _CLOUDWATCH)
    base = base | Grammar.of("iam", _IAM) | Grammar.of("sts", _STS_3_4) | Grammar.of("s3", _S3_3_4)
    base = base.without(_NOT_THERE, "ec2", _NEVER_EC2).without(_NOT_THERE, "elbv2", _ELBV2)
    base = base.without(_NOT_THERE, "ebs", _EBS).without(_NOT_THERE, "kms", _KMS)
    base = base.without(_NOT_THERE, "s3", "ListObjectsV2 SelectObjectContent")
    base = base.without(_NOT_THERE, "iam", "SimulatePrincipalPolicy")
    return base.without(_NOT_THERE, "service-quotas", "GetServiceQuota ListServiceQuotas")


def _later() -> Grammar:
    later = Grammar.of("ec2", _EC2_4_4) | Grammar.of("autoscaling", _AUTOSCALING_4_4)
    later = later | Grammar.of("elb", _ELB_4_4) | Grammar.of("s3", _S3_4_4)
    return later | Grammar.of("sts", "GetCallerIdentity") | Grammar.of("bootstrap", _BOOTSTRAP)


def _names(text: str, *less: str) -> str:
    """The operations a table has and the tables `less` have not."""
    found = {line.split()[0] for line in text.splitlines() if line.split()}
    return " ".join(sorted(found.difference(*(_names(one).split() for one in less))))


_BASE, _LATER = _base(), _later()

GRAMMAR_3_4 = (
    _BASE.without(_NOT_THERE, "ec2", f"{_STUBS_4_4} {_STUBS_5} {_names(_EC2_4_4 + _EC2_5, _EC2_3_4)}")
    .without(_NOT_THERE, "elb", _names(_ELB_4_4, _ELB_3_4))
    .without(_NOT_THERE, "s3", _names(_S3_4_4 + _S3_5))
    .without(_NOT_THERE, "route53", f"{_ROUTE53} {_names(_ROUTE53_5)}")
    .without(_NOT_THERE, "bootstrap", _names(_BOOTSTRAP))
    .without("it has the action, but no service behind it", "ec2", "ImportInstance ImportVolume")
    .without(_NOT_THERE, "sts", "GetCallerIdentity")
)
GRAMMAR_4_4 = (
    (_BASE | _LATER)
    .without(
        _NOT_THERE, "ec2", f"{_STUBS_5} CreateLaunchTemplate DeleteLaunchTemplate DescribeLaunchTemplates"
    )
    .without(_STUB, "ec2", _STUBS_4_4)
    .without(_NOT_THERE, "s3", _names(_S3_5))
    .without(_NOT_THERE, "route53", f"{_ROUTE53} {_names(_ROUTE53_5)}")
)
GRAMMAR_5 = (
    (_BASE | _LATER | Grammar.of("ec2", _EC2_5) | Grammar.of("s3", _S3_5))
    .without(_STUB, "ec2", f"{_STUBS_4_4} {_STUBS_5}")
    .without(_NOT_THERE, "route53", "TestDNSAnswer")
) | Grammar.of("route53", _ROUTE53_5)
