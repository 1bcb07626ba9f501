"""What a Eucalyptus reply leaves out: members that its message classes do not have."""

from __future__ import annotations

from typing import Any

from drpilot.lab.cloud import Cloud
from drpilot.lab.eucalyptus.fields import words

__all__ = ["pruned"]

_NEVER = words(
    "BootMode CapacityReservationSpecification CidrBlockAssociationSet CompletionTime CpuOptions CreationDate"
    " EnaSupport FullSnapshotSizeInBytes ImdsSupport InterfaceType KeyPairId KeyType KmsKeyId"
    " MetadataOptions MultiAttachEnabled NetworkBorderGroup OptInStatus PlatformDetails ProductCodeType"
    " PublicIpv4Pool SecurityGroupArn SecurityGroupRules SourceImageId SourceImageRegion SourceInstanceId"
    " SriovNetSupport StorageTier SubnetArn Throughput UsageOperation VolumeInitializationRate ZoneId ZoneType"
)
_NOT_IN_3_4 = frozenset({"Encrypted", "OwnerAlias", "IpPermissionsEgress", "NextToken"})
_CLASSIC = frozenset(
    {"VpcId", "SubnetId", "NetworkInterfaces", "SourceDestCheck", "AllocationId", "AssociationId"}
    | {"NetworkInterfaceId", "NetworkInterfaceOwnerId", "IpPermissionsEgress"}
)
_STATUS_PAGE = frozenset({"DescribeInstanceStatus", "DescribeTags"})


def pruned(cloud: Cloud, operation: str, reply: Any) -> Any:
    """An EC2 reply with only what this version and this networking mode have."""
    gone = set(_NEVER) | ({"GroupName"} if operation == "DescribeAvailabilityZones" else set())
    if cloud.traits.version == "3.4":
        gone |= _NOT_IN_3_4 - ({"NextToken"} if operation in _STATUS_PAGE else set())
    if cloud.classic:
        gone |= _CLASSIC
    return _without(reply, gone)


def _without(value: Any, gone: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(part, gone) for key, part in value.items() if key not in gone}
    if isinstance(value, list):
        return [_without(part, gone) for part in value]
    return value
