"""The EC2 operations of each Eucalyptus version and the fields each binds.

Sources: the message classes of the compute service (`RunInstancesType` and its like), version by version. 3.4
has no paging on the listings and no VPC; 5 alone takes tags in a creating call, on three operations.
"""

from __future__ import annotations

from collections.abc import Mapping

from drpilot.lab.eucalyptus.fields import Fields, read_table, words

__all__ = ["OPERATIONS", "STUBS"]

_3_4 = """
AllocateAddress
AssociateAddress PublicIp InstanceId
AttachVolume VolumeId InstanceId Device
AuthorizeSecurityGroupIngress GroupName GroupId IpProtocol FromPort ToPort CidrIp @Rules
CancelConversionTask ConversionTaskId ReasonMessage
CreateImage InstanceId Name Description NoReboot @Disks
CreateKeyPair KeyName
CreateSecurityGroup GroupName GroupDescription
CreateSnapshot VolumeId Description
CreateTags ResourceId.# Tag.#.Key Tag.#.Value
CreateVolume Size SnapshotId AvailabilityZone VolumeType Iops
DeleteKeyPair KeyName
DeleteSecurityGroup GroupName GroupId
DeleteSnapshot SnapshotId
DeleteTags ResourceId.# Tag.#.Key Tag.#.Value
DeleteVolume VolumeId
DeregisterImage ImageId
DescribeAddresses PublicIp.# @Filter
DescribeAvailabilityZones ZoneName.# @Filter
DescribeConversionTasks ConversionTaskId.#
DescribeImageAttribute ImageId Attribute
DescribeImages ExecutableBy.# ImageId.# Owner.# @Filter
DescribeInstanceAttribute InstanceId Attribute
DescribeInstanceStatus InstanceId.# IncludeAllInstances @Filter @Page
DescribeInstanceTypes Verbose Availability InstanceType.#
DescribeInstances InstanceId.# @Filter
DescribeKeyPairs KeyName.# @Filter
DescribeRegions RegionName.# @Filter
DescribeSecurityGroups GroupName.# GroupId.# @Filter
DescribeSnapshotAttribute SnapshotId Attribute
DescribeSnapshots SnapshotId.# Owner.# RestorableBy.# @Filter
DescribeTags @Filter
DescribeVolumes VolumeId.# @Filter
DetachVolume VolumeId InstanceId Device Force
DisassociateAddress PublicIp
GetConsoleOutput InstanceId
ImportKeyPair KeyName PublicKeyMaterial
ImportVolume AvailabilityZone Description Image.Format Image.Bytes Image.ImportManifestUrl Volume.Size
ModifyImageAttribute ImageId Attribute OperationType UserId.# UserGroup.# Group.# ProductCode.# Description.Value
ModifyImageAttribute LaunchPermission.Add.#.UserId LaunchPermission.Add.#.Group
ModifyImageAttribute LaunchPermission.Remove.#.UserId LaunchPermission.Remove.#.Group
ModifyInstanceAttribute InstanceId Attribute Value InstanceType.Value Kernel.Value Ramdisk.Value UserData.Value
ModifyInstanceAttribute DisableApiTermination.Value InstanceInitiatedShutdownBehavior.Value
ModifyInstanceAttribute BlockDeviceMapping.#.DeviceName BlockDeviceMapping.#.Ebs.VolumeId
ModifyInstanceAttribute BlockDeviceMapping.#.Ebs.DeleteOnTermination
ModifySnapshotAttribute SnapshotId Attribute OperationType UserId.# Group.# ProductCode.#
ModifySnapshotAttribute CreateVolumePermission.Add.#.UserId CreateVolumePermission.Add.#.Group
ModifySnapshotAttribute CreateVolumePermission.Remove.#.UserId CreateVolumePermission.Remove.#.Group
RebootInstances InstanceId.#
RegisterImage ImageLocation Name Description Architecture KernelId RamdiskId RootDeviceName VirtualizationType
RegisterImage SriovNetSupport @Disks
ReleaseAddress PublicIp
ResetImageAttribute ImageId Attribute
RevokeSecurityGroupIngress GroupName GroupId IpProtocol FromPort ToPort CidrIp @Rules
RunInstances ImageId MinCount MaxCount KeyName SecurityGroup.# SecurityGroupId.# AdditionalInfo UserData
RunInstances InstanceType KernelId RamdiskId Placement.AvailabilityZone Placement.GroupName @Disks
RunInstances Monitoring.Enabled DisableApiTermination InstanceInitiatedShutdownBehavior PrivateIpAddress
RunInstances ClientToken IamInstanceProfile.Arn IamInstanceProfile.Name EbsOptimized
StartInstances InstanceId.#
StopInstances InstanceId.# Force
TerminateInstances InstanceId.#
"""

_4_4 = """
AllocateAddress Domain
AssociateAddress AllocationId NetworkInterfaceId PrivateIpAddress AllowReassociation
AssociateRouteTable RouteTableId SubnetId
AttachInternetGateway InternetGatewayId VpcId
AttachNetworkInterface NetworkInterfaceId InstanceId DeviceIndex
AuthorizeSecurityGroupEgress GroupId @Rules
CopyImage SourceRegion SourceImageId Name Description ClientToken
CopySnapshot Description DestinationRegion PresignedUrl SourceRegion SourceSnapshotId
CreateFlowLogs ClientToken DeliverLogsPermissionArn LogGroupName ResourceId.# ResourceType TrafficType
CreateImage @Types
CreateInternetGateway
CreateNetworkInterface SubnetId Description PrivateIpAddress SecurityGroupId.# SecondaryPrivateIpAddressCount
CreateRoute RouteTableId DestinationCidrBlock GatewayId InstanceId NetworkInterfaceId NatGatewayId
CreateRouteTable VpcId
CreateSecurityGroup VpcId
CreateSubnet VpcId CidrBlock AvailabilityZone
CreateVolume Encrypted
CreateVpc CidrBlock InstanceTenancy
CreateVpcPeeringConnection PeerOwnerId PeerVpcId VpcId
DeleteInternetGateway InternetGatewayId
DeleteNetworkInterface NetworkInterfaceId
DeleteRoute RouteTableId DestinationCidrBlock
DeleteRouteTable RouteTableId
DeleteSubnet SubnetId
DeleteVpc VpcId
DescribeAccountAttributes AttributeName.# @Filter
DescribeAddresses AllocationId.#
DescribeFlowLogs FlowLogId.# @Filter @Page
DescribeImportImageTasks ImportTaskId.# @Filter @Page
DescribeImportSnapshotTasks ImportTaskId.# @Filter @Page
DescribeInstances @Page
DescribeInternetGateways InternetGatewayId.# @Filter
DescribeNatGateways NatGatewayId.# @Filter
DescribeNetworkInterfaces NetworkInterfaceId.# @Filter
DescribeReservedInstances ReservedInstancesId.# OfferingClass OfferingType @Filter
DescribeRouteTables RouteTableId.# @Filter
DescribeSnapshots @Page
DescribeSpotInstanceRequests SpotInstanceRequestId.# @Filter
DescribeSubnets SubnetId.# @Filter
DescribeTags @Page
DescribeVolumeStatus VolumeId.# @Filter @Page
DescribeVolumes @Page
DescribeVpcAttribute VpcId Attribute
DescribeVpcEndpoints VpcEndpointId.# @Filter
DescribeVpcPeeringConnections VpcPeeringConnectionId.# @Filter
DescribeVpcs VpcId.# @Filter
DescribeVpnGateways VpnGatewayId.# @Filter
DetachInternetGateway InternetGatewayId VpcId
DetachNetworkInterface AttachmentId Force
DisassociateAddress AssociationId
DisassociateRouteTable AssociationId
ImportImage
ImportSnapshot
ModifyInstanceAttribute EbsOptimized.Value SourceDestCheck.Value GroupId.#
ModifySubnetAttribute SubnetId MapPublicIpOnLaunch.Value
ModifyVpcAttribute VpcId EnableDnsSupport.Value EnableDnsHostnames.Value
RegisterImage Platform @Types
ReleaseAddress AllocationId
RequestSpotInstances SpotPrice ClientToken InstanceCount Type
RevokeSecurityGroupEgress GroupId @Rules
RunInstances SubnetId Placement.Tenancy @Interface @Types
"""

_5 = """
CreateLaunchTemplate ClientToken LaunchTemplateName VersionDescription LaunchTemplateData.ImageId
CreateLaunchTemplate LaunchTemplateData.InstanceType LaunchTemplateData.KeyName LaunchTemplateData.UserData
CreateLaunchTemplate LaunchTemplateData.SecurityGroup.# LaunchTemplateData.SecurityGroupId.#
CreateLaunchTemplate LaunchTemplateData.IamInstanceProfile.Arn LaunchTemplateData.IamInstanceProfile.Name
CreateLaunchTemplate LaunchTemplateData.Monitoring.Enabled LaunchTemplateData.Placement.AvailabilityZone
CreateLaunchTemplate LaunchTemplateData.DisableApiTermination
CreateLaunchTemplateVersion ClientToken LaunchTemplateId LaunchTemplateName SourceVersion VersionDescription
CreateSnapshot @Specification
CreateVolume KmsKeyId @Specification
DeleteLaunchTemplate LaunchTemplateId LaunchTemplateName
DeleteLaunchTemplateVersions LaunchTemplateId LaunchTemplateName LaunchTemplateVersion.#
DescribeLaunchTemplateVersions LaunchTemplateId LaunchTemplateName LaunchTemplateVersion.# MinVersion MaxVersion
DescribeLaunchTemplateVersions @Filter @Page
DescribeLaunchTemplates LaunchTemplateId.# LaunchTemplateName.# @Filter @Page
DescribeVolumesModifications VolumeId.# @Filter @Page
ModifyLaunchTemplate ClientToken LaunchTemplateId LaunchTemplateName SetDefaultVersion
ModifyVolume VolumeId Size VolumeType Iops
RunInstances @Specification LaunchTemplate.LaunchTemplateId LaunchTemplate.LaunchTemplateName
RunInstances LaunchTemplate.Version
"""

OPERATIONS: Mapping[str, Fields] = {
    "3.4": read_table(_3_4),
    "4.4": read_table(_3_4, _4_4),
    "5": read_table(_3_4, _4_4, _5),
}
"""Operations and fields by version."""

_STUBS_4_4 = words(
    "CopyImage CopySnapshot CreateFlowLogs CreateVpcPeeringConnection DescribeFlowLogs"
    " DescribeImportImageTasks DescribeImportSnapshotTasks DescribeReservedInstances"
    " DescribeSpotInstanceRequests DescribeVpcEndpoints DescribeVpcPeeringConnections DescribeVpnGateways"
    " ImportImage ImportSnapshot RequestSpotInstances"
)
STUBS: Mapping[str, frozenset[str]] = {
    "3.4": frozenset(),
    "4.4": _STUBS_4_4,
    "5": _STUBS_4_4
    | words(
        "CreateLaunchTemplateVersion DeleteLaunchTemplateVersions DescribeLaunchTemplateVersions"
        " DescribeVolumesModifications ModifyLaunchTemplate ModifyVolume"
    ),
}
"""Operations whose whole body is `return request.getReply()`: 200, an empty answer, and nothing done."""
