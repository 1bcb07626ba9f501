"""The end of a burst: out of the load balancer, down to nothing, removed, and seen to be gone.

Every step takes up what it finds: a burst that failed half-way, or whose end was interrupted, ends the same way. Only
what carries this group's name for it and our tag is touched.
"""

from __future__ import annotations

from drpilot.actions.burst import TierInput, ours
from drpilot.actions.burst_health import target_states
from drpilot.actions.growth import Numbers, set_numbers
from drpilot.actions.members import GroupView, suspended, tier_of
from drpilot.actions.views import describe, instances, not_found, visible
from drpilot.domain.burst import resource_name
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

__all__ = ["Remove", "Shrink", "Verify", "Withdraw"]

_HELD = ["AddToLoadBalancer", "ReplaceUnhealthy"]
"""Processes that would bring a machine back that was taken out of the load balancer."""


class EndOutput(Model):
    """The scaling group, and the machines that were in it."""

    group: str
    machines: tuple[str, ...] = ()


def _ours(ctx: Context, given: TierInput) -> GroupView | None:
    return ours(ctx, tier_of(ctx, given.tier))


def _name(ctx: Context, given: TierInput) -> str:
    return resource_name(ctx.group.name, given.tier)


class Withdraw(Action[TierInput, EndOutput]):
    """Take the extra machines out of their load balancer and let their connections end.

    The load balancer bounds that itself: the deregistration delay of the target group, or the timeout of connection
    draining (Elastic Load Balancing user guides).
    """

    name = "burst.withdraw"
    summary = "take the extra machines out of the load balancer; their connections end"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    protects = True
    permissions = (
        "autoscaling:SuspendProcesses",
        "autoscaling:DescribeAutoScalingGroups",
        "elasticloadbalancing:DeregisterTargets",
        "elasticloadbalancing:DeregisterInstancesFromLoadBalancer",
        "elasticloadbalancing:DescribeTargetHealth",
        "elasticloadbalancing:DescribeInstanceHealth",
    )
    Input = TierInput
    Output = EndOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[EndOutput]:
        group, site = _ours(ctx, given), ctx.site("target")
        if group is not None and group.instance_ids:
            params: Json = {"AutoScalingGroupName": group.name, "ScalingProcesses": _HELD}
            site.call("autoscaling", "SuspendProcesses", params)
            ids = list(group.instance_ids)
            for arn in group.raw.get("TargetGroupARNs") or []:
                targets = [{"Id": one} for one in ids]
                site.call("elbv2", "DeregisterTargets", {"TargetGroupArn": arn, "Targets": targets})
            known = [one for one in ids if one in target_states(site, group, ids)]
            for name in group.raw.get("LoadBalancerNames") or [] if known else ():
                leaving = [{"InstanceId": one} for one in known]
                params = {"LoadBalancerName": name, "Instances": leaving}
                site.call("elb", "DeregisterInstancesFromLoadBalancer", params)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: TierInput) -> Answer[EndOutput]:
        group = _ours(ctx, given)
        if group is None or not group.instance_ids:
            return Done(EndOutput(group=_name(ctx, given)))
        states = target_states(ctx.site("target"), group, group.instance_ids)
        inside = [key for key, words in states.items() if "draining" not in words and words != {"unused"}]
        if inside:  # one that joined a moment before the group was held, say: out with it as well
            text = f"{', '.join(inside)} of {group.name} must leave the load balancer"
            raise StepFailed(FailureClass.TRANSIENT, text)
        if any("draining" in words for words in states.values()):
            return Waiting({}, after_s=5.0, note=f"connections of {len(states)} machines are ending")
        if not suspended(group.raw) >= set(_HELD):
            return Unseen(True, f"{group.name} may bring its machines back into the load balancer")
        return Done(EndOutput(group=group.name, machines=group.instance_ids))


class Shrink(Action[TierInput, EndOutput]):
    """End the extra machines: their group to 0."""

    name = "burst.shrink"
    summary = "end the extra machines of a burst"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    permissions = ("autoscaling:UpdateAutoScalingGroup", "autoscaling:DescribeAutoScalingGroups")
    Input = TierInput
    Output = EndOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[EndOutput]:
        group = _ours(ctx, given)
        if group is not None:
            numbers = Numbers(minimum=0, maximum=group.maximum, desired=0)
            set_numbers(ctx.site("target"), group.name, numbers)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: TierInput) -> Answer[EndOutput]:
        group = _ours(ctx, given)
        if group is not None and (group.minimum, group.desired) != (0, 0):
            return Unseen(True, f"{group.name} still wants {group.desired}")
        if group is not None and group.alive:
            return Waiting({}, after_s=3.0, note=f"{group.alive} machines of {group.name} are ending")
        return Done(EndOutput(group=_name(ctx, given)))


def _gone(site: Site, service: str, operation: str, params: Json) -> None:
    """Delete; that it is gone already is as wanted."""
    try:
        site.call(service, operation, params)
    except CloudError as error:
        if not not_found(error):
            raise


def _templates(ctx: Context, given: TierInput) -> list[str]:
    """Ids of the launch templates of this burst: by our tags, so that one made under this name by somebody stays."""
    site = ctx.site("target")
    if "ec2:CreateLaunchTemplate" not in site.capabilities:
        return []
    filters: list[Json] = [
        {"Name": "launch-template-name", "Values": [_name(ctx, given)]},
        {"Name": "tag:drpilot:group", "Values": [ctx.group.name]},
    ]
    return [
        item["LaunchTemplateId"]
        for item in describe(site, "DescribeLaunchTemplates", "LaunchTemplates", filters)
    ]


def _configurations(ctx: Context, given: TierInput) -> list[str]:
    """Launch configurations have no tags; the name says whose they are."""
    site = ctx.site("target")
    params: Json = {"LaunchConfigurationNames": [_name(ctx, given)]}
    try:
        pages = list(site.pages("autoscaling", "DescribeLaunchConfigurations", params))
    except CloudError as error:
        if not_found(error):
            return []
        raise
    return [
        item["LaunchConfigurationName"] for page in pages for item in page.get("LaunchConfigurations") or []
    ]


class Remove(Action[TierInput, EndOutput]):
    """Delete the extra scaling group, then what it launched from."""

    name = "burst.remove"
    summary = "delete the scaling group and the launch template of a burst"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    permissions = (
        "autoscaling:DeleteAutoScalingGroup",
        "autoscaling:DeleteLaunchConfiguration",
        "autoscaling:DescribeAutoScalingGroups",
        "autoscaling:DescribeLaunchConfigurations",
        "ec2:DeleteLaunchTemplate",
        "ec2:DescribeLaunchTemplates",
    )
    Input = TierInput
    Output = EndOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[EndOutput]:
        site, group = ctx.site("target"), _ours(ctx, given)
        if group is not None:
            _gone(site, "autoscaling", "DeleteAutoScalingGroup", {"AutoScalingGroupName": group.name})
        for id_ in _templates(ctx, given):
            _gone(site, "ec2", "DeleteLaunchTemplate", {"LaunchTemplateId": id_})
        for name in _configurations(ctx, given):
            _gone(site, "autoscaling", "DeleteLaunchConfiguration", {"LaunchConfigurationName": name})
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: TierInput) -> Answer[EndOutput]:
        group = _ours(ctx, given)
        left = [group.name] if group is not None else []
        left += [*_templates(ctx, given), *_configurations(ctx, given)]
        if left:
            return Unseen(True, f"{', '.join(left)} still stand")
        return Done(EndOutput(group=_name(ctx, given)))


class Verify(Action[TierInput, EndOutput]):
    """See that nothing of the burst is left: no group, no template, no machine; then it is over."""

    name = "burst.verify"
    summary = "see that nothing of a burst is left"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    protects = True
    permissions = (
        "autoscaling:DescribeAutoScalingGroups",
        "autoscaling:DescribeLaunchConfigurations",
        "ec2:DescribeInstances",
        "ec2:DescribeLaunchTemplates",
    )
    Input = TierInput
    Output = EndOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[EndOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: TierInput) -> Answer[EndOutput]:
        site, name = ctx.site("target"), _name(ctx, given)
        filters: list[Json] = [{"Name": "tag:aws:autoscaling:groupName", "Values": [name]}]
        alive = [
            item["InstanceId"]
            for item in instances(site, filters, dead=True)
            if item["State"]["Name"] != "terminated"
        ]
        group = _ours(ctx, given)
        left = [*([group.name] if group is not None else []), *_templates(ctx, given)]
        left += [*_configurations(ctx, given), *alive]
        if left:
            return Waiting({}, after_s=3.0, note=f"left: {', '.join(left)}")
        move = Move("burst", ctx.group.name, "removed", {"unseen": True}, unless=("none",))
        return Done(EndOutput(group=name), (move,))
