"""Finding a row by the id a caller gave, with EC2's own codes for malformed and unknown ids.

Codes: EC2 API reference, "Error codes for the Amazon EC2 API".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from drpilot.lab.cloud import Cloud
from drpilot.lab.refusal import NOT_FOUND, Refusal
from drpilot.lab.table import Row

__all__ = ["find", "find_all", "read_all", "zone_names"]

_CODES: dict[str, tuple[str, str, str, str]] = {
    # table: (prefix, malformed, not found, how the sentence calls it)
    "instances": ("i", "InvalidInstanceID.Malformed", "InvalidInstanceID.NotFound", "instance ID"),
    "volumes": ("vol", "InvalidParameterValue", "InvalidVolume.NotFound", "volume"),
    "snapshots": ("snap", "InvalidSnapshotID.Malformed", "InvalidSnapshot.NotFound", "snapshot"),
    "images": ("ami", "InvalidAMIID.Malformed", "InvalidAMIID.NotFound", "image id"),
    "vpcs": ("vpc", "InvalidVpcID.Malformed", "InvalidVpcID.NotFound", "vpc ID"),
    "subnets": ("subnet", "InvalidSubnetID.Malformed", "InvalidSubnetID.NotFound", "subnet ID"),
    "groups": ("sg", "InvalidGroupId.Malformed", "InvalidGroup.NotFound", "security group"),
    "rules": (
        "sgr",
        "InvalidSecurityGroupRuleId.Malformed",
        "InvalidSecurityGroupRuleId.NotFound",
        "security group rule ID",
    ),
    "route_tables": ("rtb", "InvalidRouteTableID.Malformed", "InvalidRouteTableID.NotFound", "routeTable ID"),
    "gateways": (
        "igw",
        "InvalidInternetGatewayId.Malformed",
        "InvalidInternetGatewayID.NotFound",
        "internetGateway ID",
    ),
    "interfaces": (
        "eni",
        "InvalidNetworkInterfaceId.Malformed",
        "InvalidNetworkInterfaceID.NotFound",
        "networkInterface ID",
    ),
    "addresses": (
        "eipalloc",
        "InvalidAllocationID.Malformed",
        "InvalidAllocationID.NotFound",
        "allocation ID",
    ),
    "templates": (
        "lt",
        "InvalidLaunchTemplateId.Malformed",
        "InvalidLaunchTemplateId.NotFound",
        "launch template ID",
    ),
}
NOT_FOUND.update({table: codes[2] for table, codes in _CODES.items()})
_HEX = re.compile(r"[0-9a-f]{8}|[0-9a-f]{17}|[0-9A-F]{8}")


def find(cloud: Cloud, table: str, row_id: str) -> Row:
    """The row to be changed; raises Refusal with the table's codes."""
    return cloud.table(table)[_checked(cloud, table, row_id)]


def find_all(cloud: Cloud, table: str, row_ids: Iterable[str]) -> list[Row]:
    """As `find`, for several; all ids are checked before any row is given."""
    return [find(cloud, table, row_id) for row_id in row_ids]


def read_all(cloud: Cloud, table: str, row_ids: Sequence[str] | None) -> list[Row]:
    """Rows for reading only: those named (each must exist), or all."""
    rows = cloud.table(table).peek()
    if not row_ids:
        return list(rows.values())
    return [rows[row_id] for row_id in dict.fromkeys(_checked(cloud, table, one) for one in row_ids)]


def _checked(cloud: Cloud, table: str, row_id: str) -> str:
    """The id as the rows have it."""
    prefix, malformed, not_found, noun = _CODES[table]
    named = cloud.traits.named(str(row_id))
    head, dash, tail = named.partition("-")
    if cloud.traits.usual(head) != prefix or not dash or not _HEX.fullmatch(tail):
        wanted = cloud.traits.prefix(prefix)
        raise Refusal(malformed, f'Invalid id: "{row_id}" (expecting "{wanted}-...")')
    if named not in cloud.table(table):
        raise Refusal(not_found, f"The {noun} '{row_id}' does not exist")
    return named


def zone_names(cloud: Cloud) -> list[str]:
    """The zones of the site's region; those of Eucalyptus are called as their clusters."""
    return list(cloud.traits.zones) or [f"{cloud.region}{letter}" for letter in "abc"]
