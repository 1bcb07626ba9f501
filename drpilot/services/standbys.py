"""The live look at the standbys: are they what a failover will ask for? It changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from drpilot.actions.members import group_view
from drpilot.actions.views import images, instances
from drpilot.base.errors import Finding
from drpilot.domain.group import ScalingGroup, Tier
from drpilot.domain.ports import Site, StandbyView
from drpilot.domain.sizing import waiting_type
from drpilot.inventory.balancing import standing
from drpilot.inventory.launching import launched_by
from drpilot.inventory.resources import FILTER_VALUES, chunks
from drpilot.journal.views import GroupView
from drpilot.services.checked import Checked, bad, ok
from drpilot.services.guidance import protect_command
from drpilot.services.house import House

__all__ = ["look_at_standbys"]

_STANDING = ("protected", "degraded")


def look_at_standbys(house: House, view: GroupView) -> Iterator[Checked]:
    """One result a tier of a group that is protected and not on its way: as recorded, or all that is wrong."""
    if view.state not in _STANDING or any(
        run.lane == "move" for run in house.journal.runs(view.name, live=True)
    ):
        return
    site = house.site(view.standing)
    known = {
        standby.tier: standby
        for standby in house.journal.standbys(view.name)
        if standby.site == view.standing
    }
    for tier in view.group.tiers:
        standby = known.get(tier.name, StandbyView(tier.name, view.standing, "absent"))
        wrong = [f"it is {standby.state}"] if standby.state not in ("ready", "unhealthy") else []
        wrong = wrong or [*_machines(house, view, tier, standby), *_scaling(site, view, tier)]
        expected = f"tier {tier.name} as recorded on {view.standing}"
        if not wrong:
            yield ok("standby", view.name, expected, "as recorded", subject=tier.name)
            continue
        observed = f"standby of tier {tier.name} on {view.standing}: {'; '.join(wrong)}"
        finding = Finding("standby-missing", "error", observed, view.name, protect_command(view))
        yield bad("standby", view.name, expected, observed, finding, subject=tier.name)


def _machines(house: House, view: GroupView, tier: Tier, standby: StandbyView) -> list[str]:
    """Type, state and zone of the standby's instances against what the group's map says.

    Their image is of no account any more: a machine that was launched has a root volume of its own.
    """
    ids: Mapping[str, str] = standby.facts.get("instances") or {}
    mapping, site = view.group.mapping(view.active), house.site(view.standing)
    alike = house.alike(view.active, view.standing)
    seen: dict[str, dict[str, Any]] = {}
    for chunk in chunks(sorted(ids.values()), FILTER_VALUES):
        seen |= {
            item["InstanceId"]: item for item in instances(site, [{"Name": "instance-id", "Values": chunk}])
        }
    wrong = []
    for member in tier.instances:
        found = seen.get(ids.get(member.key, ""))
        if found is None:
            wrong.append(f"{member.key} has no instance")
            continue
        size = waiting_type(view.group, tier, member.type, view.active, alike=alike)
        state, zone = found["State"]["Name"], mapping.zones.get(member.zone)
        if state != "stopped":
            wrong.append(f"{found['InstanceId']} is {state}, not stopped")
        kept = member.elastic_address and "address-tags" in site.capabilities
        if kept and not found.get("PublicIpAddress"):
            wrong.append(f"{found['InstanceId']} has no elastic address")
        if found["InstanceType"] != size:
            wrong.append(f"{found['InstanceId']} is a {found['InstanceType']}, not a {size}")
        if zone and (found.get("Placement") or {}).get("AvailabilityZone") not in (None, zone):
            wrong.append(f"{found['InstanceId']} is not in {zone}")
    return wrong


def _scaling(site: Site, view: GroupView, tier: Tier) -> list[str]:
    """Count, subnets and launch template of the standby's scaling group against what the group's map says."""
    wrong = []
    if tier.scaling_group is not None:
        group = group_view(site, tier.scaling_group.key)
        if group is None:
            wrong.append(f"scaling group {tier.scaling_group.key} is missing")
        elif group.desired != tier.standby.count:
            wrong.append(f"scaling group {group.name} wants {group.desired}, not {tier.standby.count}")
        if group is not None:
            wrong += _placed(view, tier.scaling_group, group.raw)
            wrong += _launches(site, view, tier.scaling_group, group.raw)
    if tier.load_balancer is not None and standing(site, tier.load_balancer.key) is None:
        wrong.append(f"load balancer {tier.load_balancer.key} is missing")
    return wrong


def _placed(view: GroupView, member: ScalingGroup, raw: Mapping[str, Any]) -> Iterator[str]:
    """The group's subnets, where the map names a partner for its own; on a cloud without networks its zones."""
    mapping = view.group.mapping(view.active)
    present = set(filter(None, str(raw.get("VPCZoneIdentifier") or "").split(",")))
    if not present:
        zones = {mapping.zones[name] for name in member.zones if name in mapping.zones}
        there = set(raw.get("AvailabilityZones") or ())
        if zones and there != zones:
            yield f"scaling group {member.key} is in {', '.join(sorted(there)) or 'no zone'}"
        return
    places = member.subnets or member.zones
    wanted = {mapping.subnets[name] for name in places if name in mapping.subnets}
    if wanted and present != wanted:
        yield f"scaling group {member.key} is in {', '.join(sorted(present)) or 'no subnet'}"


def _launches(site: Site, view: GroupView, member: ScalingGroup, raw: Mapping[str, Any]) -> Iterator[str]:
    """Whether the group would launch the right type from an image that is there."""
    _, data, _ = launched_by(site, dict(raw))
    image, size = data.get("ImageId"), data.get("InstanceType")
    if not image:
        yield f"scaling group {member.key} has nothing to launch"
        return
    wanted = view.group.mapping(view.active).types.get(member.type, member.type)
    if size != wanted:
        yield f"scaling group {member.key} would launch a {size}, not a {wanted}"
    if not any(i["State"] == "available" for i in images(site, [{"Name": "image-id", "Values": [image]}])):
        yield f"scaling group {member.key} would launch image {image}, which is not there"
