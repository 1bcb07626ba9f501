"""Building a scaling tier on the target: its load balancer, what it launches, and the group at 0.

Everything here is known by a name that is unique on a site, or takes a ClientToken, so that making it twice is not
possible. What stands already is brought into line. The parts have a module each: balancers.py and launches.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from drpilot.actions import balancers, launches
from drpilot.actions.carry import app_tags
from drpilot.actions.members import group_view, scaling_of
from drpilot.actions.placing import Spread, spread
from drpilot.actions.views import tag_list
from drpilot.domain.group import Tier
from drpilot.domain.plain import Json
from drpilot.domain.ports import Context, FailureClass, StepFailed

__all__ = ["build_group", "build_template", "facts_of", "mappable", "standing_user_data"]

build_template = launches.build
standing_user_data = launches.standing_user_data


def mappable(ctx: Context, tier: Tier, image: str) -> None:
    """StepFailed where the map or the target lacks what the tier needs; asked before anything is made."""
    site, group = ctx.site("target"), scaling_of(tier)
    launches.describable(ctx, tier, image)
    balancers.buildable(ctx, tier)
    absent = balancers.lacking(site, tier, group)
    if absent:
        text = f"{', '.join(absent)} is not on {site.name}; the tier needs its `load_balancer`"
        raise StepFailed(FailureClass.PRECONDITION, text)


def build_group(ctx: Context, tier: Tier, image: str) -> None:
    """Make the Auto Scaling group at 0, or bring what it launches, its size limit and its places into line.

    Counts of a group that stands are left alone: they are changed by `standby.grow` and `writers.stop`.
    """
    site, group = ctx.site("target"), scaling_of(tier)
    launch = launches.there(ctx, tier, image)
    if launch is None:
        raise balancers.unlisted(site, "DescribeLaunchTemplates", f"what {group.key} launches")
    where = spread(ctx, group.subnets, group.zones)
    found = group_view(site, group.key)
    most = max(group.maximum, group.desired, tier.standby.grow_count or 0)
    if found is not None:
        most = max(most, found.desired)
        if not (launch.used_by(found.raw) and found.raw["MaxSize"] == most and _placed(found.raw, where)):
            change: Json = {"AutoScalingGroupName": group.key, **launch.named, "MaxSize": most}
            site.call("autoscaling", "UpdateAutoScalingGroup", {**change, **where.scaled()})
        launches.sweep(ctx, tier, launch)
        return
    own = {**app_tags(group.tags), "drpilot:tier": tier.name, "drpilot:group": ctx.group.name}
    ours = {"drpilot:member": group.key, "drpilot:standby": "true"}
    params: Json = {
        "AutoScalingGroupName": group.key,
        **launch.named,
        "MinSize": 0,
        "MaxSize": most,
        "DesiredCapacity": 0,
        **where.scaled(),
        "HealthCheckType": group.health_check,
        "HealthCheckGracePeriod": group.grace_s,
        **balancers.attached(site, tier, group),
        "Tags": [_group_tag(group.key, item) for item in tag_list(own | ours)],
    }
    site.call("autoscaling", "CreateAutoScalingGroup", params)


def _placed(raw: Json, where: Spread) -> bool:
    """Whether a described group is where it is to be."""
    if where.subnets:
        return sorted(str(raw.get("VPCZoneIdentifier") or "").split(",")) == sorted(where.subnets)
    return sorted(raw.get("AvailabilityZones") or []) == sorted(where.zones)


def _group_tag(name: str, item: Mapping[str, str]) -> Json:
    propagate = not item["Key"].startswith("drpilot:")
    return {**item, "ResourceId": name, "ResourceType": "auto-scaling-group", "PropagateAtLaunch": propagate}


def facts_of(ctx: Context, tier: Tier, image: str) -> Json | None:
    """What stands on the target for a scaling tier, as the journal keeps it; None while something is missing.

    `group`, `image`, `template` (id and version) or `configuration` (its name), and with a load balancer what
    `balancers.facts` says of it.
    """
    group = scaling_of(tier)
    found, launch = group_view(ctx.site("target"), group.key), launches.there(ctx, tier, image)
    if found is None or launch is None or not _launches(found.raw, launch):
        return None
    front = balancers.facts(ctx, tier)
    return {"group": group.key, "image": image, **launch.facts, **front} if front is not None else None


def _launches(raw: Json, launch: launches.Launch) -> bool:
    """Whether the group launches from this one, or from the newest version of its template."""
    template = launch.named.get("LaunchTemplate")
    if template is None:
        return launch.used_by(raw)
    used = str((raw.get("LaunchTemplate") or {}).get("Version"))
    return used in (template["Version"], "$Latest")
