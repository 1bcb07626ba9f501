"""Which fields an operation binds, and the fault for those it does not (BaseQueryBinding of Eucalyptus).

A table is text: one operation a line, then its fields as they stand on the wire, `#` for a number. Words with a
capital after `@` are groups of fields used by several operations. A later version adds to an earlier one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = ["Fields", "Unbound", "bind", "read_table", "words"]

Fields = Mapping[str, frozenset[str]]
"""The fields of each operation."""

_NUMBER = re.compile(r"\.[0-9]{1,7}(?=\.|$)")


def words(text: str) -> frozenset[str]:
    """The words of a table's cell."""
    return frozenset(text.split())


_GROUPS = {
    "Filter": "Filter.#.Name Filter.#.Value.#",
    "Page": "MaxResults NextToken",
    "Members": "Filters.member.#.Name Filters.member.#.Values.member.#",
    "Tags": "Tags.member.#.Key Tags.member.#.Value",
    "Specification": "TagSpecification.#.ResourceType TagSpecification.#.Tag.#.Key TagSpecification.#.Tag.#.Value",
    "Dimensions": "Dimensions.member.#.Name Dimensions.member.#.Value",
    "Disks": (
        "BlockDeviceMapping.#.DeviceName BlockDeviceMapping.#.VirtualName BlockDeviceMapping.#.NoDevice"
        " BlockDeviceMapping.#.Ebs.SnapshotId BlockDeviceMapping.#.Ebs.VolumeSize"
        " BlockDeviceMapping.#.Ebs.DeleteOnTermination"
    ),
    "Types": "BlockDeviceMapping.#.Ebs.VolumeType BlockDeviceMapping.#.Ebs.Iops",
    "Rules": (
        "IpPermissions.#.IpProtocol IpPermissions.#.FromPort IpPermissions.#.ToPort"
        " IpPermissions.#.IpRanges.#.CidrIp IpPermissions.#.Groups.#.UserId"
        " IpPermissions.#.Groups.#.GroupName IpPermissions.#.Groups.#.GroupId"
    ),
    "Interface": " ".join(
        f"NetworkInterface.#.{name}"
        for name in words(
            "NetworkInterfaceId DeviceIndex SubnetId Description PrivateIpAddress SecurityGroupId.#"
            " DeleteOnTermination SecondaryPrivateIpAddressCount AssociatePublicIpAddress"
            " PrivateIpAddresses.#.PrivateIpAddress PrivateIpAddresses.#.Primary"
        )
    ),
}


class Unbound(Exception):
    """Why a request can't be bound; the text is the original's."""


def read_table(*versions: str) -> dict[str, frozenset[str]]:
    """The operations and fields of a version, from its own table and those before it."""
    found: dict[str, frozenset[str]] = {}
    for text in versions:
        for line in text.strip().splitlines():
            operation, *words = line.split()
            fields: list[str] = []
            for word in words:
                fields += _GROUPS[word[1:]].split() if word.startswith("@") else [word]
            found[operation] = found.get(operation, frozenset()) | frozenset(fields)
    return found


def bind(table: Fields, namespace: str, action: str, given: Iterable[tuple[str, str]]) -> None:
    """Raise Unbound unless the operation exists and takes every field given."""
    if action not in table:
        raise Unbound(
            f"Failed to find corresponding class mapping for element: {action} in namespace: {namespace}"
        )
    known = table[action]
    left = [(name, value) for name, value in given if _NUMBER.sub(".#", name) not in known]
    if left:
        lines = "".join(f"{name} = {value}\n" for name, value in left)
        raise Unbound(f"Failed to bind the following fields:\n{lines}")
