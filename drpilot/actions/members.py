"""Finding the members of a tier on either side.

Members are found by the same selectors on both sides: what is built as a standby carries the
application's own tags beside ours. Things of a drill carry our tags only, plus `drpilot:drill`, and are
never members.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from drpilot.actions.views import ALIVE, first, instances, tagged, tags_of
from drpilot.domain.group import Group, Instance, ScalingGroup, Tier
from drpilot.domain.plain import Json
from drpilot.domain.ports import Context, FailureClass, Site, StepFailed

__all__ = [
    "GroupView",
    "Grouped",
    "group_view",
    "instance_of",
    "key_of",
    "machines",
    "member",
    "members",
    "scaling_of",
    "site_name",
    "suspended",
    "tier_of",
    "writers",
]

_SCALED = "aws:autoscaling:groupName"


class Grouped(Protocol):
    """Whatever knows a group: the context of a step, or a group as the journal has it."""

    @property
    def group(self) -> Group:
        """The group with its members."""


def site_name(ctx: Context, role: str) -> str:
    """The name of the site meant by a role (`source`, `target`) or by its own name."""
    return {"source": ctx.source, "target": ctx.target}.get(role, role)


def tier_of(ctx: Context, name: str) -> Tier:
    """The tier `name` of the run's frozen group; StepFailed (invalid) where there is none."""
    try:
        return ctx.group.tier(name)
    except KeyError:
        raise StepFailed(FailureClass.INVALID, f"group {ctx.group.name} has no tier {name!r}") from None


def instance_of(tier: Tier, key: str) -> Instance:
    """The member instance `key` of a tier."""
    found = first(item for item in tier.instances if item.key == key)
    if found is None:
        raise StepFailed(FailureClass.INVALID, f"tier {tier.name} has no instance {key!r}")
    return found


def scaling_of(tier: Tier) -> ScalingGroup:
    """The scaling group of a tier that has one."""
    if tier.scaling_group is None:
        raise StepFailed(FailureClass.INVALID, f"tier {tier.name} has no scaling group")
    return tier.scaling_group


def key_of(instance: Json) -> str:
    """The stable key of an instance: its `drpilot:member` tag, else its Name, else its id."""
    tags = tags_of(instance)
    return tags.get("drpilot:member") or tags.get("Name") or str(instance["InstanceId"])


def members(ctx: Grouped, site: Site, tier: Tier, *, dead: bool = False) -> list[Json]:
    """Described instances of an instance tier on `site`: selected by tag or id, or built by us for this
    tier.
    """
    found: dict[str, Json] = {}
    listings = [tagged(group=ctx.group.name, tier=tier.name)]
    if tier.selector is not None and tier.selector.tag:
        key, _, value = tier.selector.tag.partition("=")
        listings.append([{"Name": f"tag:{key}", "Values": [value]}])
    ids = [*(tier.selector.ids if tier.selector is not None else ()), *(item.id for item in tier.instances)]
    if ids:
        listings.append([{"Name": "instance-id", "Values": sorted(set(ids))}])
    for filters in listings:
        for instance in instances(site, filters, dead=dead):
            tags = tags_of(instance)
            if "drpilot:drill" not in tags and _SCALED not in tags:
                found[instance["InstanceId"]] = instance
    return [found[key] for key in sorted(found)]


def member(ctx: Context, site: Site, tier: Tier, key: str) -> Json | None:
    """The instance on `site` that is member `key`; StepFailed (conflict) where two claim to be."""
    found = [item for item in members(ctx, site, tier) if key_of(item) == key]
    if len(found) > 1:
        ids = ", ".join(item["InstanceId"] for item in found)
        raise StepFailed(FailureClass.CONFLICT, f"{len(found)} instances on {site.name} are {key}: {ids}")
    return first(found)


@dataclass(frozen=True, slots=True)
class GroupView:
    """An Auto Scaling group as described; `serving` counts instances InService, `alive` those not yet
    gone.
    """

    name: str
    minimum: int
    maximum: int
    desired: int
    serving: int
    alive: int
    launch_suspended: bool
    instance_ids: tuple[str, ...]
    raw: Json

    @property
    def at_rest(self) -> bool:
        """Whether the group wants nothing and nothing of it is left."""
        return self.minimum == 0 and self.desired == 0 and self.alive == 0


def suspended(raw: Json) -> frozenset[str]:
    """The names of a group's suspended processes."""
    return frozenset(item["ProcessName"] for item in raw.get("SuspendedProcesses") or [])


def group_view(site: Site, name: str) -> GroupView | None:
    """The Auto Scaling group called `name`, or None (DescribeAutoScalingGroups lists nothing for an
    unknown name).
    """
    asked: Json = {"AutoScalingGroupNames": [name]}
    pages = site.pages("autoscaling", "DescribeAutoScalingGroups", asked)
    raw = first(group for page in pages for group in page.get("AutoScalingGroups") or [])
    if raw is None or raw.get("Status"):  # a Status means that it is being deleted
        return None
    alive = [item for item in raw.get("Instances") or [] if item["LifecycleState"] != "Terminated"]
    return GroupView(
        name=name,
        minimum=int(raw["MinSize"]),
        maximum=int(raw["MaxSize"]),
        desired=int(raw["DesiredCapacity"]),
        serving=sum(item["LifecycleState"] == "InService" for item in alive),
        alive=len(alive),
        launch_suspended="Launch" in suspended(raw),
        instance_ids=tuple(item["InstanceId"] for item in alive),
        raw=raw,
    )


def machines(ctx: Grouped, site: Site, tier: Tier) -> dict[str, Json]:
    """Everything of a tier that was ever launched on `site`, dead ones included, by id: its instances, or those of
    its scaling group.
    """
    found = {item["InstanceId"]: item for item in members(ctx, site, tier, dead=True)}
    if tier.scaling_group_name or tier.scaling_group:
        name = tier.scaling_group_name or scaling_of(tier).key
        for instance in instances(site, [{"Name": f"tag:{_SCALED}", "Values": [name]}], dead=True):
            found[instance["InstanceId"]] = instance
    return found


def writers(ctx: Grouped, site: Site, tiers: Iterable[Tier], *, deny: str | None = None) -> list[str]:
    """Ids of the instances of `tiers` on `site` that may still write.

    Counted are all that are not stopped or terminated, instances that appeared since the group was looked at
    included; not counted is one whose only security group is `deny`.
    """
    found: dict[str, Json] = {}
    for tier in tiers:
        found |= machines(ctx, site, tier)
    left = []
    for key, instance in sorted(found.items()):
        groups = {item["GroupId"] for item in instance.get("SecurityGroups") or []}
        if instance["State"]["Name"] in ALIVE and not (deny is not None and groups == {deny}):
            left.append(key)
    return left
