"""What carries a group's tag beside machines and their disks: networks, scaling groups, load balancers, target groups.

A drill makes networks and a standby makes the rest; what neither of them accounts for was left behind. EC2 filters by
tag, and so does Auto Scaling on AWS; ELBv2 has no such filter, so the tags are asked for, 20 resources at a time
(Elastic Load Balancing API reference, DescribeTags).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from drpilot.actions.views import describe, tagged, tags_of
from drpilot.domain.ports import Site
from drpilot.inventory.resources import scaling_groups_tagged

__all__ = ["Belonging", "belongings"]

Belonging = tuple[str, str, dict[str, str], tuple[str, ...]]
"""Kind, id, tags, and what it belongs to or is known by besides."""

_TAGS_A_CALL = 20
_GROUP_TAG = "drpilot:group"
_NETWORKS = (
    ("VPC", "DescribeVpcs", "Vpcs", "VpcId"),
    ("subnet", "DescribeSubnets", "Subnets", "SubnetId"),
    ("security group", "DescribeSecurityGroups", "SecurityGroups", "GroupId"),
    ("network interface", "DescribeNetworkInterfaces", "NetworkInterfaces", "NetworkInterfaceId"),
)


def belongings(site: Site, group: str) -> Iterator[Belonging]:
    """Networks, scaling groups, load balancers and target groups with the tag of `group`.

    The fence's deny-all group (tag `drpilot:fence`) waits for the night it is needed, so it is left out.
    """
    ours = tagged(group=group)
    for kind, operation, member, key in _NETWORKS if "vpc" in site.capabilities else ():
        for item in describe(site, operation, member, ours):
            tags = tags_of(item)
            if "drpilot:fence" not in tags:
                yield kind, item[key], tags, _machine(item)
    if "autoscaling" in site.capabilities:
        for item in scaling_groups_tagged(site, _GROUP_TAG, group):
            yield "scaling group", item["AutoScalingGroupName"], tags_of(item), ()
    if "elbv2" in site.capabilities:
        yield from _balancing(site, group)


def _machine(interface: Mapping[str, Any]) -> tuple[str, ...]:
    """The instance a network interface hangs on."""
    instance = (interface.get("Attachment") or {}).get("InstanceId")
    return (str(instance),) if instance else ()


def _balancing(site: Site, group: str) -> Iterator[Belonging]:
    rows = []
    for kind, operation, member, arn, name in (
        ("load balancer", "DescribeLoadBalancers", "LoadBalancers", "LoadBalancerArn", "LoadBalancerName"),
        ("target group", "DescribeTargetGroups", "TargetGroups", "TargetGroupArn", "TargetGroupName"),
    ):
        for page in site.pages("elbv2", operation, {}):
            rows += [(kind, str(item[arn]), str(item[name])) for item in page.get(member) or []]
    tags = _tags(site, [arn for _, arn, _ in rows])
    for kind, arn, name in rows:
        if tags.get(arn, {}).get(_GROUP_TAG) == group:
            yield kind, name, tags[arn], (arn,)


def _tags(site: Site, arns: Sequence[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for start in range(0, len(arns), _TAGS_A_CALL):
        reply = site.call("elbv2", "DescribeTags", {"ResourceArns": list(arns[start : start + _TAGS_A_CALL])})
        found |= {row["ResourceArn"]: tags_of(row) for row in reply.get("TagDescriptions") or []}
    return found
