"""A burst asked for: what is wanted, what the group's file allows, what it would use, and what a run is told of it.

The file is the consent of whoever wrote it: a burst that begins by itself, by a schedule or an alarm, stays within it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from drpilot.actions.members import group_view
from drpilot.actions.views import describe, instances
from drpilot.base.errors import DrpilotError
from drpilot.base.units import format_duration
from drpilot.domain.burst import BurstOffer
from drpilot.domain.group import BurstPolicy
from drpilot.domain.plain import to_plain
from drpilot.domain.point import RecoveryPoint
from drpilot.domain.ports import CloudError, Site
from drpilot.inventory.launching import launched_by
from drpilot.journal.bursts import guard as guard_burst
from drpilot.journal.views import GroupView
from drpilot.services.house import House
from drpilot.services.looks import VCPU_QUOTA, grown
from drpilot.services.modes import Mode

__all__ = ["BEGIN", "END", "BurstAsking", "context", "cooled_at", "guard", "offer", "policy_of"]

BEGIN, END = "burst", "unburst"


@dataclass(frozen=True, slots=True)
class BurstAsking:
    """What of a burst is asked for; what is None comes from the group file. `weight` is in percent of the users."""

    tier: str | None = None
    capacity: int | None = None
    weight: int | None = None
    lasts_s: float | None = None
    cause: str = "hand"


def policy_of(view: GroupView) -> BurstPolicy:
    """What the group file says of bursts; raises `no-burst`."""
    if view.group.burst is None:
        raise DrpilotError("no-burst", group=view.name)
    return view.group.burst


def guard(view: GroupView, mode: Mode, asking: BurstAsking | None, now: datetime) -> None:
    """Refuse what can't begin: beside a burst, without one, outside the file, or within the cool-down."""
    guard_burst(view.name, view.burst, mode.name.removeprefix("un"), mode.burst)
    if mode.name != BEGIN:
        return
    policy, wanted = policy_of(view), asking or BurstAsking()
    if view.locked_by is not None:
        raise DrpilotError("locked", group=view.name, by=view.locked_by, reason=view.locked_reason or "")
    for what, problem in _outside(policy, wanted):
        raise DrpilotError("usage", what=what, why=problem, hint=f"drpilot burst {view.name} --dry-run")
    free_at = cooled_at(view)
    if wanted.cause != "hand" and free_at is not None and now < free_at:
        left = format_duration((free_at - now).total_seconds())
        what = f"the last burst ended a short while ago; the next by itself is free in {left}"
        raise DrpilotError("burst-refused", group=view.name, what=what, hint=f"drpilot burst {view.name}")


def cooled_at(view: GroupView) -> datetime | None:
    """When the cool-down after the last burst is over; None where there was none."""
    policy = view.group.burst
    if policy is None or view.burst.ended_at is None:
        return None
    return view.burst.ended_at + timedelta(seconds=policy.cooldown_s)


def _outside(policy: BurstPolicy, wanted: BurstAsking) -> list[tuple[str, str]]:
    """What of a wish lies outside the group file, with what the file says."""
    found = []
    if wanted.tier not in (None, policy.tier):
        found.append(
            (f"--tier {wanted.tier} can't burst", f"the group file's burst is of tier {policy.tier}")
        )
    if wanted.capacity is not None and not 1 <= wanted.capacity <= policy.maximum:
        what = f"--capacity {wanted.capacity} is not within the group file"
        found.append((what, f"a burst has 1 to {policy.maximum} machines"))
    if wanted.weight is not None and not 1 <= wanted.weight <= 99:
        found.append((f"--weight {wanted.weight} is no share", "a burst takes 1 to 99 percent of the users"))
    if wanted.lasts_s is not None and not 0 < wanted.lasts_s <= policy.longest_s:
        what = f"--for {format_duration(wanted.lasts_s)} is not within the group file"
        found.append((what, f"a burst lasts {format_duration(policy.longest_s)} at the longest"))
    return found


def offer(
    house: House, view: GroupView, asking: BurstAsking | None, point: RecoveryPoint | None
) -> BurstOffer:
    """What a burst would start and use on the side that stands by; for its end, the burst that runs.

    Raises `burst-refused` where a failover would have no room beside it.
    """
    if point is None:
        return BurstOffer(
            tier=view.burst.tier,
            site=view.burst.site,
            capacity=view.burst.capacity,
            maximum=view.burst.capacity,
            weight=view.burst.weight,
            lasts_s=0.0,
            cause=view.burst.cause,
        )
    policy, wanted = policy_of(view), asking or BurstAsking()
    key = view.group.tier(policy.tier).scaling_group_name or ""
    found = BurstOffer(
        tier=policy.tier,
        site=view.standing,
        capacity=wanted.capacity or policy.desired,
        maximum=policy.maximum,
        weight=wanted.weight or policy.weight,
        lasts_s=wanted.lasts_s or policy.longest_s,
        cause=wanted.cause,
        image=next((one.id for one in point.replicas if (one.kind, one.member) == ("image", key)), ""),
        user_data=policy.user_data_sha256 or "",
    )
    try:
        found = _used(house, house.site(view.standing), view, found)
    except CloudError as error:
        raise house.told(error) from error
    if not found.fits:
        what = (
            f"{found.capacity} machines need {found.vcpus} vCPUs and a failover {found.vcpus_failover} beside them; "
            f"{found.vcpus_used} of {found.vcpus_limit} are used on {found.site}"
        )
        hint = f"drpilot burst {view.name} --capacity with fewer, or a higher quota on {found.site}"
        raise DrpilotError("burst-refused", group=view.name, what=what, hint=hint)
    return found


def _used(house: House, site: Site, view: GroupView, found: BurstOffer) -> BurstOffer:
    """The same with the type of the extra machines, and with vCPUs where the site tells its quota."""
    key = view.group.tier(found.tier).scaling_group_name or ""
    standby = group_view(site, key)
    size = str(launched_by(site, standby.raw)[1].get("InstanceType") or "") if standby is not None else ""
    found = replace(found, type=size)
    if "service-quotas" not in site.capabilities or not size:
        return found
    running = [item for item in instances(site, []) if item["State"]["Name"] in ("pending", "running")]
    failover = grown(house, view)
    types = sorted({size, *failover, *(item["InstanceType"] for item in running)})
    filters = [{"Name": "instance-type", "Values": types}]
    listed = describe(site, "DescribeInstanceTypes", "InstanceTypes", filters)
    vcpus = {item["InstanceType"]: int(item["VCpuInfo"]["DefaultVCpus"]) for item in listed}
    reply = site.call("service-quotas", "GetServiceQuota", {"ServiceCode": "ec2", "QuotaCode": VCPU_QUOTA})
    return replace(
        found,
        vcpus=found.capacity * vcpus.get(size, 1),
        vcpus_used=sum(vcpus.get(item["InstanceType"], 1) for item in running),
        vcpus_limit=int(float(reply["Quota"]["Value"])),
        vcpus_failover=sum(vcpus.get(name, 1) * count for name, count in failover.items()),
    )


def context(found: BurstOffer) -> Mapping[str, Any]:
    """What runbooks see as `run.burst`: what was decided, nothing that was only looked at."""
    decided = ("tier", "capacity", "maximum", "weight", "lasts_s", "cause")
    return {key: value for key, value in to_plain(found).items() if key in decided}
