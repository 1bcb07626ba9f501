"""What carries a group's tag beside machines and their disks: networks, scaling groups, load balancers, target groups;
and launch configurations, which carry it in their name.

A drill makes networks and a standby makes the rest; what neither of them accounts for was left behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from drpilot.actions.launches import configurations
from drpilot.actions.views import describe, tagged, tags_of
from drpilot.domain.ports import Site
from drpilot.inventory.balancing import balancing
from drpilot.inventory.resources import scaling_groups_tagged

__all__ = ["Belonging", "belongings"]

Belonging = tuple[str, str, dict[str, str], tuple[str, ...]]
"""Kind, id, tags, and what it belongs to or is known by besides."""

_GROUP_TAG = "drpilot:group"
_NETWORKS = (
    ("VPC", "DescribeVpcs", "Vpcs", "VpcId"),
    ("subnet", "DescribeSubnets", "Subnets", "SubnetId"),
    ("security group", "DescribeSecurityGroups", "SecurityGroups", "GroupId"),
    ("network interface", "DescribeNetworkInterfaces", "NetworkInterfaces", "NetworkInterfaceId"),
)
_GROUPS = _NETWORKS[2:3]
"""Of those, what a cloud without networks has."""


def belongings(site: Site, group: str) -> Iterator[Belonging]:
    """Networks, scaling groups, load balancers and target groups with the tag of `group`.

    The fence's deny-all group (tag `drpilot:fence`) waits for the night it is needed, so it is left out.
    """
    ours = tagged(group=group)
    for kind, operation, member, key in _NETWORKS if "vpc" in site.capabilities else _GROUPS:
        for item in describe(site, operation, member, ours):
            tags = tags_of(item)
            if "drpilot:fence" not in tags:
                yield kind, item[key], tags, _machine(item)
    if "autoscaling" in site.capabilities:
        for item in scaling_groups_tagged(site, _GROUP_TAG, group):
            yield "scaling group", item["AutoScalingGroupName"], tags_of(item), ()
        for name in configurations(site, group):
            yield "launch configuration", name, {}, ()
    kind_of = balancing(site)
    for one in (*kind_of.tagged(), *kind_of.parts()) if kind_of is not None else ():
        if one.tags.get(_GROUP_TAG) == group:
            yield one.kind, one.name, dict(one.tags), (one.id,)


def _machine(interface: Mapping[str, Any]) -> tuple[str, ...]:
    """The instance a network interface hangs on."""
    instance = (interface.get("Attachment") or {}).get("InstanceId")
    return (str(instance),) if instance else ()
