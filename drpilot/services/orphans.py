"""Orphans: what carries a group's tag on a site and is accounted for by nothing in the journal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from drpilot.actions.views import describe, images, instances, snapshots, tagged, tags_of, volumes
from drpilot.domain.burst import resource_name
from drpilot.domain.plain import Json
from drpilot.domain.ports import Site
from drpilot.journal.views import GroupView
from drpilot.services.belongings import belongings
from drpilot.services.house import House

__all__ = ["Orphan", "Owned", "orphans", "owned", "owns"]


@dataclass(frozen=True, slots=True)
class Orphan:
    """A resource without an owner."""

    kind: str
    id: str
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Owned:
    """What the journal accounts for: ids of resources, live runs, points that are not deleted."""

    ids: frozenset[str]
    runs: frozenset[str]
    points: frozenset[str]


def owned(house: House, view: GroupView) -> Owned:
    """Everything the journal knows of a group: members, replicas and their sources, standbys, fences, live runs."""
    points = house.journal.points(view.name)
    ids = {one for point in points for replica in point.replicas for one in (replica.id, replica.source_id)}
    for standby in house.journal.standbys(view.name):
        ids |= set(_texts(standby.facts))
    for fence in view.fences.values():
        ids |= set(_texts(fence))
    for tier in view.group.tiers:
        ids |= {item.id for item in tier.instances} | {v.id for item in tier.instances for v in item.volumes}
        ids |= {_address_of(tier.name, item.key) for item in tier.instances if item.elastic_address}
        if tier.scaling_group is not None:
            scaled = tier.scaling_group
            ids |= {scaled.key, scaled.template_id, *scaled.target_groups, *scaled.balancers}
        if tier.load_balancer is not None:
            front = tier.load_balancer
            # what stands for a classic balancer where target groups are has its name
            ids |= {front.key, front.arn, front.target_group}
    if view.burst.running:
        ids.add(resource_name(view.name, view.burst.tier))
    runs = {run.id for run in house.journal.runs(view.name, live=True)}
    return Owned(frozenset(ids - {""}), frozenset(runs), frozenset(point.id for point in points))


def _texts(value: Any) -> Iterator[str]:
    """Every text inside a body of facts: ids stand at different depths, and a text that is no id owns nothing."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def owns(known: Owned, resource_id: str, tags: Mapping[str, str], related: Iterable[str] = ()) -> bool:
    """Whether a tagged resource has an owner: itself, its run or point, or what it belongs to. Pure."""
    return (
        resource_id in known.ids
        or tags.get("drpilot:run") in known.runs
        or tags.get("drpilot:point") in known.points
        or tags.get("aws:autoscaling:groupName") in known.ids
        or any(one in known.ids for one in related)
    )


def orphans(house: House, view: GroupView, name: str) -> tuple[int, tuple[Orphan, ...]]:
    """How many tagged resources of the group stand on site `name`, and those that nothing owns."""
    site, known = house.site(name), owned(house, view)
    found = [
        (kind, resource_id, tags, related)
        for kind, resource_id, tags, related in _listed(site, view.name)
        # a volume that a move took off its machine waits, marked, for the next complete point
        if "drpilot:superseded" not in tags
    ]
    # what backs an owned image is owned with it, what hangs on an owned machine too
    backed = {
        one
        for kind, key, tags, related in found
        if kind == "image" and owns(known, key, tags)
        for one in related
    }
    machines = {key for kind, key, tags, related in found if kind == "instance" and owns(known, key, tags)}
    wide = Owned(known.ids | backed | machines, known.runs, known.points)
    left = []
    for kind, key, tags, related in found:
        if not owns(wide, key, tags, () if kind == "image" else related):
            left.append(Orphan(kind, key, tags))
    return len(found), tuple(left)


_Listed = tuple[str, str, dict[str, str], tuple[str, ...]]


def _listed(site: Site, group: str) -> Iterator[_Listed]:
    """Kind, id, tags and what it belongs to, of everything that carries the group's tag."""
    ours = tagged(group=group)
    for item in instances(site, ours):
        yield "instance", item["InstanceId"], tags_of(item), ()
    for item in volumes(site, ours):
        attached = tuple(one["InstanceId"] for one in item.get("Attachments") or [] if one.get("InstanceId"))
        yield "volume", item["VolumeId"], tags_of(item), attached
    for item in images(site, ours):
        yield "image", item["ImageId"], tags_of(item), tuple(_backing(item))
    for item in snapshots(site, ours):
        yield "snapshot", item["SnapshotId"], tags_of(item), ()
    templates = "ec2:CreateLaunchTemplate" in site.capabilities
    for item in describe(site, "DescribeLaunchTemplates", "LaunchTemplates", ours) if templates else ():
        yield "launch template", item["LaunchTemplateId"], tags_of(item), (item["LaunchTemplateName"],)
    kept = "address-tags" in site.capabilities
    for item in describe(site, "DescribeAddresses", "Addresses", ours) if kept else ():
        tags = tags_of(item)
        # one that waits to be bound is the member's all the same: the next run binds it
        member = _address_of(tags.get("drpilot:tier", ""), tags.get("drpilot:member", ""))
        yield (
            "elastic address",
            item["AllocationId"],
            tags,
            tuple(filter(None, (item.get("InstanceId"), member))),
        )
    yield from belongings(site, group)


def _address_of(tier: str, member: str) -> str:
    """How the elastic address of a member's standby is known before and after it is bound."""
    return f"address of {tier}/{member}"


def _backing(image: Json) -> Iterator[str]:
    for mapping in image.get("BlockDeviceMappings") or []:
        snapshot = (mapping.get("Ebs") or {}).get("SnapshotId")
        if snapshot:
            yield str(snapshot)
