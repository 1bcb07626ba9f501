"""Extra capacity of a tier on the side that stands by: a scaling group and a launch template of its own.

They are copies of the standby's: its subnets, its load balancer, what its template says, with the image of one recovery
point. The standby itself is left as it stands, at 0 and ready, so that nothing that looks after it, replication and a
failover included, ever meets the extra machines. Both have a name that is unique on a site.

Only what the standby's group says is used, so this works with launch templates and with launch configurations, behind
ELBv2 and behind classic load balancers. Sources: Amazon EC2 Auto Scaling and Elastic Load Balancing API references.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import timedelta
from pathlib import Path

from drpilot.actions.carry import metadata_options
from drpilot.actions.growth import Numbers, set_numbers
from drpilot.actions.members import GroupView, group_view, scaling_of, tier_of
from drpilot.actions.views import describe, first, specification, tag_list, tags_of, visible
from drpilot.base.clock import rfc3339
from drpilot.domain.burst import resource_name
from drpilot.domain.group import Tier
from drpilot.domain.plain import Json
from drpilot.domain.ports import (
    Action,
    Answer,
    CloudError,
    Context,
    Done,
    Effect,
    FailureClass,
    Idempotency,
    Model,
    Move,
    Site,
    StepFailed,
    Unseen,
    Waiting,
)
from drpilot.inventory.launching import launched_by

__all__ = [
    "Begin",
    "Group",
    "Grow",
    "Template",
    "TierInput",
    "extra",
    "image_of",
    "ours",
    "squatters",
    "standby_of",
]

_CARRIED = (
    "InstanceType",
    "KeyName",
    "SecurityGroupIds",
    "SecurityGroups",
    "IamInstanceProfile",
    "BlockDeviceMappings",
    "UserData",
    "EbsOptimized",
)
_PLACED = ("VPCZoneIdentifier", "HealthCheckType", "HealthCheckGracePeriod")


class TierInput(Model):
    """One tier."""

    tier: str


class BurstOutput(Model):
    """The tier, and the scaling group of the extra machines."""

    tier: str
    group: str
    capacity: int = 0


def _name(ctx: Context, tier: Tier) -> str:
    return resource_name(ctx.group.name, tier.name)


def extra(ctx: Context, tier: Tier) -> GroupView | None:
    """The scaling group of the extra machines, None where there is none."""
    return group_view(ctx.site("target"), _name(ctx, tier))


def ours(ctx: Context, tier: Tier) -> GroupView | None:
    """The extra group, if it is one that we made for this group; StepFailed (conflict) where it is somebody else's."""
    found = extra(ctx, tier)
    if found is not None and not _is_ours(ctx, found.raw):
        text = f"scaling group {found.name} on {ctx.target} does not carry our tag: it is left alone"
        raise StepFailed(FailureClass.CONFLICT, text)
    return found


def _is_ours(ctx: Context, found: Json) -> bool:
    return tags_of(found).get("drpilot:group") == ctx.group.name


def squatters(ctx: Context, tier: Tier) -> tuple[str, ...]:
    """What stands under the names of a burst that has not begun yet and is not ours, each in words.

    A launch configuration takes no tags. Ours is seen to be gone before a burst is over (`burst.verify`), so that one
    which stands before the next begins is somebody's.
    """
    site, name = ctx.site("target"), _name(ctx, tier)
    group = extra(ctx, tier)
    found = [f"scaling group {name}"] if group is not None and not _is_ours(ctx, group.raw) else []
    if _by_template(ctx, tier):
        template = _template(site, name)
        found += [f"launch template {name}"] if template is not None and not _is_ours(ctx, template) else []
    else:
        found += [f"launch configuration {name}"] if _configuration(site, name) is not None else []
    return tuple(found)


def standby_of(ctx: Context, tier: Tier) -> GroupView:
    """The standby's scaling group on the target; StepFailed (precondition) where it is not built."""
    key = scaling_of(tier).key
    found = group_view(ctx.site("target"), key)
    if found is None:
        text = f"scaling group {key} is not on {ctx.target}: the standby is not built"
        raise StepFailed(FailureClass.PRECONDITION, text)
    return found


def image_of(ctx: Context, tier: Tier) -> str:
    """The id of the point's image for a tier; StepFailed (precondition) where it has none."""
    key = scaling_of(tier).key
    try:
        return ctx.point(ctx.point_id).replica(key, "image").id
    except KeyError:
        text = f"point {ctx.point_id} has no image of {key}"
        raise StepFailed(FailureClass.PRECONDITION, text) from None


class BeginInput(Model):
    """What the burst is: `weight` in percent of the users, `lasts_s` the longest time in seconds."""

    tier: str
    capacity: int
    weight: int
    lasts_s: float
    cause: str = "hand"


class BeginOutput(Model):
    """Until when it lasts at the longest (RFC 3339)."""

    tier: str
    until: str


class Begin(Action[BeginInput, BeginOutput]):
    """Write down that a burst begins, before anything of it exists: its point is pinned and its end is due from now."""

    name = "burst.begin"
    summary = "write down that a burst begins; its point is pinned, its end is due"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    protects = True
    at = ()
    Input = BeginInput
    Output = BeginOutput

    def start(self, ctx: Context, given: BeginInput) -> Answer[BeginOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: BeginInput) -> Answer[BeginOutput]:
        ends = (ctx.intended_at + timedelta(seconds=given.lasts_s)).replace(microsecond=0)
        until = rfc3339(ends + timedelta(seconds=1))  # a whole second, rounded up
        data = {
            "tier": given.tier,
            "site": ctx.target,
            "point": ctx.point_id,
            "capacity": given.capacity,
            "weight": given.weight,
            "cause": given.cause,
            "run": ctx.name,
            "until": until,
        }
        move = Move("burst", ctx.group.name, "begin", {}, data, unless=("scaling_out",))
        return Done(BeginOutput(tier=given.tier, until=until), (move,))


# -- what the extra machines are launched from ----------------------------------------------------------------


def _user_data(ctx: Context) -> Json:
    """The user data of the first boot, where the group file names a file: read now, handed on, kept nowhere."""
    policy = ctx.group.burst
    if policy is None or policy.user_data_file is None:
        return {}
    try:
        text = Path(policy.user_data_file).read_bytes()
    except OSError as error:
        what = f"user data {policy.user_data_file} can't be read: {error.strerror or error}"
        raise StepFailed(FailureClass.PRECONDITION, what) from None
    if hashlib.sha256(text).hexdigest() != policy.user_data_sha256:
        what = (
            f"user data {policy.user_data_file} is not what was protected; drpilot protect FILE takes it in"
        )
        raise StepFailed(FailureClass.PRECONDITION, what)
    return {"UserData": base64.b64encode(text).decode()}


def _launch_data(ctx: Context, tier: Tier) -> Json:
    """What the standby's group launches, with the image of the point, in the words of a launch template."""
    _, data, _ = launched_by(ctx.site("target"), standby_of(ctx, tier).raw)
    carried: Json = {key: data[key] for key in _CARRIED if data.get(key)}
    options = metadata_options(data.get("MetadataOptions") or {})
    if options:
        carried["MetadataOptions"] = options
    return {**carried, **_user_data(ctx), "ImageId": image_of(ctx, tier)}


def _by_template(ctx: Context, tier: Tier) -> bool:
    return not standby_of(ctx, tier).raw.get("LaunchConfigurationName")


def _template(site: Site, name: str) -> Json | None:
    filters: list[Json] = [{"Name": "launch-template-name", "Values": [name]}]
    return first(describe(site, "DescribeLaunchTemplates", "LaunchTemplates", filters))


def _our_template(ctx: Context, name: str) -> Json | None:
    """The launch template of that name; StepFailed (conflict) where it does not carry our tag."""
    found = _template(ctx.site("target"), name)
    if found is not None and not _is_ours(ctx, found):
        text = f"launch template {name} on {ctx.target} does not carry our tag: it is left alone"
        raise StepFailed(FailureClass.CONFLICT, text)
    return found


def _configuration(site: Site, name: str) -> Json | None:
    params: Json = {"LaunchConfigurationNames": [name]}
    pages = site.pages("autoscaling", "DescribeLaunchConfigurations", params)
    return first(item for page in pages for item in page.get("LaunchConfigurations") or [])


def _as_configuration(name: str, data: Json) -> Json:
    """A template's data in the words of CreateLaunchConfiguration; user data stays base64, as the API has it."""
    params: Json = {
        "LaunchConfigurationName": name,
        **{
            key: data[key]
            for key in ("ImageId", "InstanceType", "KeyName", "BlockDeviceMappings")
            if data.get(key)
        },
        "SecurityGroups": [*(data.get("SecurityGroupIds") or []), *(data.get("SecurityGroups") or [])],
    }
    profile = data.get("IamInstanceProfile") or {}
    if profile:
        params["IamInstanceProfile"] = profile.get("Arn") or profile["Name"]
    if data.get("UserData"):
        params["UserData"] = data["UserData"]
    return params


class Template(Action[TierInput, BurstOutput]):
    """Make the launch template (or configuration) of the extra machines.

    CreateLaunchTemplate takes a ClientToken; a launch configuration is known by its name, which can't be taken twice.
    """

    name = "burst.template"
    summary = "make the launch template of a burst from the standby's and the image of the point"
    idempotency = Idempotency.TOKEN
    effect = Effect.CREATE
    permissions = (
        "ec2:CreateLaunchTemplate",
        "ec2:CreateTags",
        "ec2:DescribeLaunchTemplates",
        "ec2:DescribeLaunchTemplateVersions",
        "autoscaling:CreateLaunchConfiguration",
        "autoscaling:DescribeLaunchConfigurations",
        "autoscaling:DescribeAutoScalingGroups",
    )
    Input = TierInput
    Output = BurstOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[BurstOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        name, data = _name(ctx, tier), _launch_data(ctx, tier)
        if not _by_template(ctx, tier):
            if _configuration(site, name) is None:
                site.call("autoscaling", "CreateLaunchConfiguration", _as_configuration(name, data))
        elif _our_template(ctx, name) is None:
            tags = ctx.tags(tier=tier.name, member=name, burst="true")
            params: Json = {
                "LaunchTemplateName": name,
                "LaunchTemplateData": data,
                "TagSpecifications": [specification("launch-template", tags)],
            }
            site.call("ec2", "CreateLaunchTemplate", params, token=ctx.sub(name))
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: TierInput) -> Answer[BurstOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        name = _name(ctx, tier)
        found = _our_template(ctx, name) if _by_template(ctx, tier) else _configuration(site, name)
        if found is None:
            return Unseen(True, f"there is no {name} on {ctx.target}")
        return Done(BurstOutput(tier=tier.name, group=name))


class GroupInput(TierInput):
    """One tier, and the most machines its extra group may have."""

    maximum: int


def _group_tags(ctx: Context, tier: Tier, name: str) -> list[Json]:
    """Tags of the group; its machines carry its name alone, so that nothing takes them for members."""
    ours = ctx.tags(tier=tier.name, member=name, burst="true")
    own = {"ResourceId": name, "ResourceType": "auto-scaling-group"}
    return [
        {**own, **item, "PropagateAtLaunch": item["Key"] == "Name"}
        for item in tag_list({"Name": name, **ours})
    ]


class Group(Action[GroupInput, BurstOutput]):
    """Make the scaling group of the extra machines, at 0, where the standby's is and behind its load balancer."""

    name = "burst.group"
    summary = "make the scaling group of a burst, at 0, beside the standby's"
    idempotency = Idempotency.RERUN
    effect = Effect.CREATE
    permissions = (
        "autoscaling:CreateAutoScalingGroup",
        "autoscaling:DescribeAutoScalingGroups",
        "ec2:DescribeLaunchTemplates",
        "iam:PassRole",
    )
    Input = GroupInput
    Output = BurstOutput

    def start(self, ctx: Context, given: GroupInput) -> Answer[BurstOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        if ours(ctx, tier) is None:
            try:
                site.call("autoscaling", "CreateAutoScalingGroup", self._params(ctx, tier, given.maximum))
            except CloudError as error:
                if error.code not in (
                    "AlreadyExists",
                    "AlreadyExistsFault",
                ):  # another attempt's reply was lost
                    raise
        return visible(self.observe, ctx, given)

    @staticmethod
    def _params(ctx: Context, tier: Tier, maximum: int) -> Json:
        site, name, raw = ctx.site("target"), _name(ctx, tier), standby_of(ctx, tier).raw
        placed: Json = {key: raw[key] for key in _PLACED if raw.get(key)}
        if "VPCZoneIdentifier" not in placed:
            placed["AvailabilityZones"] = raw["AvailabilityZones"]
        for behind in ("TargetGroupARNs", "LoadBalancerNames"):
            if raw.get(behind):
                placed[behind] = list(raw[behind])
        if _by_template(ctx, tier):
            template = _our_template(ctx, name)
            if template is None:
                text = f"launch template {name} is not listed yet"
                raise CloudError(FailureClass.TRANSIENT, "NotListedYet", text, happened="no", site=site.name)
            placed["LaunchTemplate"] = {"LaunchTemplateId": template["LaunchTemplateId"], "Version": "1"}
        else:
            placed["LaunchConfigurationName"] = name
        numbers: Json = {"MinSize": 0, "MaxSize": maximum, "DesiredCapacity": 0}
        return {"AutoScalingGroupName": name, **placed, **numbers, "Tags": _group_tags(ctx, tier, name)}

    def observe(self, ctx: Context, given: GroupInput) -> Answer[BurstOutput]:
        tier = tier_of(ctx, given.tier)
        found = ours(ctx, tier)
        if found is None:
            return Unseen(True, f"there is no group {_name(ctx, tier)} on {ctx.target}")
        return Done(BurstOutput(tier=tier.name, group=found.name))


def _why(ctx: Context, name: str) -> str:
    """What the cloud says of a launch that failed, as a clause; empty while none has."""
    params: Json = {"AutoScalingGroupName": name, "MaxRecords": 5}
    listed = (
        ctx.site("target").call("autoscaling", "DescribeScalingActivities", params).get("Activities") or []
    )
    failed = first(item for item in listed if item.get("StatusCode") == "Failed")
    return (
        f"; the last launch failed: {str(failed.get('StatusMessage', ''))[:300]}"
        if failed is not None
        else ""
    )


class GrowInput(GroupInput):
    """One tier, the machines wanted and the most there may be."""

    capacity: int


class Grow(Action[GrowInput, BurstOutput]):
    """Start the extra machines: as many as wanted, and never fewer while the burst lasts."""

    name = "burst.grow"
    summary = "start the extra machines of a burst"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    permissions = (
        "autoscaling:UpdateAutoScalingGroup",
        "autoscaling:DescribeAutoScalingGroups",
        "autoscaling:DescribeScalingActivities",
    )
    Input = GrowInput
    Output = BurstOutput

    def start(self, ctx: Context, given: GrowInput) -> Answer[BurstOutput]:
        numbers = Numbers(minimum=given.capacity, maximum=given.maximum, desired=given.capacity)
        if ours(ctx, tier_of(ctx, given.tier)) is not None:
            set_numbers(ctx.site("target"), _name(ctx, tier_of(ctx, given.tier)), numbers)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: GrowInput) -> Answer[BurstOutput]:
        tier = tier_of(ctx, given.tier)
        found = ours(ctx, tier)
        if found is None:
            raise StepFailed(FailureClass.NOT_FOUND, f"there is no group {_name(ctx, tier)} on {ctx.target}")
        if found.minimum < given.capacity:
            return Unseen(True, f"{found.name} wants {found.desired} instead of {given.capacity}")
        if found.serving < given.capacity:
            note = f"{found.serving} of {given.capacity} in service{_why(ctx, found.name)}"
            return Waiting({}, after_s=3.0, progress=found.serving / given.capacity, note=note)
        return Done(BurstOutput(tier=tier.name, group=found.name, capacity=found.serving))
