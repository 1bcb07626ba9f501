"""Making a standby big and running, and, on the way back, small and at rest again."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from drpilot.actions import balancers
from drpilot.actions.carry import group_ids, grow_types
from drpilot.actions.members import (
    group_view,
    key_of,
    member,
    members,
    scaling_of,
    site_name,
    tier_of,
)
from drpilot.actions.placing import regrouped
from drpilot.actions.views import visible
from drpilot.domain.group import Instance, ScalingGroup, Tier
from drpilot.domain.plain import Json
from drpilot.domain.plan import Call
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
    Site,
    StepFailed,
    Unseen,
    Waiting,
)

__all__ = ["Grow", "Numbers", "Retreat", "resume", "set_numbers", "stop_instances"]

_SUSPENDED = ["Launch"]


class Numbers(Model):
    """Minimum, maximum and desired capacity of an Auto Scaling group."""

    minimum: int
    maximum: int
    desired: int

    @classmethod
    def of(cls, group: ScalingGroup) -> Numbers:
        """The numbers the group had when its members were last looked at."""
        return cls(minimum=group.minimum, maximum=group.maximum, desired=group.desired)


def set_numbers(site: Site, name: str, numbers: Numbers) -> None:
    """Set a group's numbers; a set state, safe to repeat."""
    params: Json = {
        "AutoScalingGroupName": name,
        "MinSize": numbers.minimum,
        "MaxSize": numbers.maximum,
        "DesiredCapacity": numbers.desired,
    }
    site.call("autoscaling", "UpdateAutoScalingGroup", params)


def resume(site: Site, name: str) -> None:
    """Let a group launch again after a fence suspended it."""
    site.call(
        "autoscaling", "ResumeProcesses", {"AutoScalingGroupName": name, "ScalingProcesses": _SUSPENDED}
    )


def stop_instances(site: Site, ids: Sequence[str]) -> None:
    """Stop instances; safe to repeat."""
    if ids:
        site.call("ec2", "StopInstances", {"InstanceIds": list(ids)})


class TierInput(Model):
    """One tier."""

    tier: str


class GrowOutput(Model):
    """Instance ids by member key with the type each got, or the group's capacity."""

    tier: str
    instances: dict[str, str] = Field(default_factory=dict)
    types: dict[str, str] = Field(default_factory=dict)
    group: str = ""
    capacity: int = 0


class Grow(Action[TierInput, GrowOutput]):
    """Give the standby its real size and start it; without capacity for a type the next of `otherwise` is
    tried.

    A group gets the capacity of `standby.grow`, else what it wanted on the source.
    """

    name = "standby.grow"
    summary = "give a tier's standby its real size and start it"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    protects = True
    permissions = (
        "ec2:ModifyInstanceAttribute",
        "ec2:StartInstances",
        "ec2:DescribeInstances",
        "ec2:DescribeSecurityGroups",
        "autoscaling:UpdateAutoScalingGroup",
        "autoscaling:ResumeProcesses",
        "autoscaling:DescribeAutoScalingGroups",
        "elasticloadbalancing:RegisterTargets",
        "elasticloadbalancing:RegisterInstancesWithLoadBalancer",
        "elasticloadbalancing:DescribeLoadBalancers",
        "elasticloadbalancing:DescribeTargetGroups",
        "elasticloadbalancing:DescribeTargetHealth",
        "elasticloadbalancing:DescribeInstanceHealth",
    )
    Input = TierInput
    Output = GrowOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[GrowOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        if tier.scaling_group is not None:
            group = tier.scaling_group
            resume(site, group.key)
            set_numbers(site, group.key, self._numbers(tier))
        down = [  # every look comes before the first change
            (found, group_ids(ctx, site, instance.security_groups, found.get("VpcId") or ""), instance)
            for instance in tier.instances
            if (found := self._found(ctx, site, tier, instance))["State"]["Name"] == "stopped"
        ]
        for found, groups, instance in down:
            if regrouped(found, groups):
                params: Json = {"InstanceId": found["InstanceId"], "Groups": groups}
                site.call("ec2", "ModifyInstanceAttribute", params)
            self._start(site, found, grow_types(ctx, tier, instance))
        if tier.load_balancer is not None and tier.scaling_group is None:
            balancers.enrol(site, tier.load_balancer, self._outside(ctx, site, tier))
        return visible(self.observe, ctx, given)

    def _outside(self, ctx: Context, site: Site, tier: Tier) -> list[str]:
        """Running instances of a tier that are not behind its balancer; a scaling group sees to that itself."""
        if tier.load_balancer is None:
            return []
        behind = balancers.enrolled(site, tier.load_balancer)
        found = (self._found(ctx, site, tier, instance) for instance in tier.instances)
        up = [item["InstanceId"] for item in found if item["State"]["Name"] == "running"]
        return [one for one in up if one not in behind]

    @staticmethod
    def _numbers(tier: Tier) -> Numbers:
        group = scaling_of(tier)
        wanted = tier.standby.grow_count if tier.standby.grow_count is not None else group.desired
        return Numbers(minimum=min(group.minimum, wanted), maximum=max(group.maximum, wanted), desired=wanted)

    @staticmethod
    def _start(site: Site, found: Json, types: tuple[str, ...]) -> None:
        """Start as the first type there is room for."""
        id_, present = found["InstanceId"], found["InstanceType"]
        for place, wanted in enumerate(types):
            if present != wanted:
                params: Json = {"InstanceId": id_, "InstanceType": {"Value": wanted}}
                site.call("ec2", "ModifyInstanceAttribute", params)
                present = wanted
            try:
                site.call("ec2", "StartInstances", {"InstanceIds": [id_]})
            except CloudError as error:
                no_room = error.kind is FailureClass.CAPACITY and error.happened == "no"
                if not no_room or place == len(types) - 1:
                    raise
            else:
                return

    @staticmethod
    def _found(ctx: Context, site: Site, tier: Tier, instance: Instance) -> Json:
        found = member(ctx, site, tier, instance.key)
        if found is None:
            raise StepFailed(FailureClass.NOT_FOUND, f"there is no standby of {instance.key} on {ctx.target}")
        return found

    def observe(self, ctx: Context, given: TierInput) -> Answer[GrowOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        if tier.scaling_group is not None:
            return self._observe_group(ctx, site, tier)
        ids: dict[str, str] = {}
        types: dict[str, str] = {}
        for instance in tier.instances:
            found = self._found(ctx, site, tier, instance)
            state = found["State"]["Name"]
            if state == "stopped":
                return Unseen(True, f"{found['InstanceId']} is stopped")
            if state != "running":
                return Waiting({}, after_s=3.0, note=f"{found['InstanceId']} is {state}")
            ids[instance.key], types[instance.key] = found["InstanceId"], found["InstanceType"]
        outside = self._outside(ctx, site, tier)
        if outside:  # a balancer takes running instances only; now they run
            text = f"{', '.join(outside)} must be put behind the load balancer"
            raise StepFailed(FailureClass.TRANSIENT, text)
        warning = ""
        small = [key for item in tier.instances if types[key := item.key] not in grow_types(ctx, tier, item)]
        if small:
            warning = f"running, but not at a size of `grow` or `otherwise`: {', '.join(small)}"
        return Done(GrowOutput(tier=tier.name, instances=ids, types=types), warning=warning)

    def _observe_group(self, ctx: Context, site: Site, tier: Tier) -> Answer[GrowOutput]:
        key, wanted = scaling_of(tier).key, self._numbers(tier)
        found = group_view(site, key)
        if found is None:
            raise StepFailed(FailureClass.NOT_FOUND, f"there is no group {key} on {ctx.target}")
        if found.desired < wanted.desired or found.launch_suspended:
            return Unseen(True, f"{key} wants {found.desired} instead of {wanted.desired}")
        if found.serving < wanted.desired:
            progress = found.serving / wanted.desired if wanted.desired else 1.0
            return Waiting(
                {}, after_s=3.0, progress=progress, note=f"{found.serving} of {wanted.desired} in service"
            )
        return Done(GrowOutput(tier=tier.name, group=key, capacity=found.serving))

    def undo(self, given: TierInput, output: GrowOutput | None) -> Call | None:
        return Call("standby.retreat", {"tier": given.tier, "site": "target"})


class RetreatInput(Model):
    """One tier on a site, by role or name."""

    tier: str
    site: str = "target"


class RetreatOutput(Model):
    """What is at rest again."""

    tier: str
    site: str
    instances: tuple[str, ...] = ()


class Retreat(Action[RetreatInput, RetreatOutput]):
    """Take a promotion back: stop the tier's instances, its group to 0. Nothing is deleted.

    The standby is ready again only after `standby.stand_by`, the last step of the way back.
    """

    name = "standby.retreat"
    summary = "take a promotion back: the tier stops and its group goes to 0"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    protects = True
    permissions = (
        "ec2:StopInstances",
        "ec2:DescribeInstances",
        "autoscaling:UpdateAutoScalingGroup",
        "autoscaling:DescribeAutoScalingGroups",
        "elasticloadbalancing:DeregisterTargets",
        "elasticloadbalancing:DeregisterInstancesFromLoadBalancer",
        "elasticloadbalancing:DescribeTargetHealth",
        "elasticloadbalancing:DescribeInstanceHealth",
    )
    at = ("site",)
    Input = RetreatInput
    Output = RetreatOutput

    def start(self, ctx: Context, given: RetreatInput) -> Answer[RetreatOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site(given.site)
        if tier.scaling_group is not None:
            group = group_view(site, tier.scaling_group.key)
            if group is not None and (group.minimum, group.desired) != (0, 0):
                set_numbers(site, group.name, Numbers(minimum=0, maximum=group.maximum, desired=0))
        else:
            # A pending one can't be stopped (IncorrectInstanceState); it is, once it runs.
            found = self._instances(ctx, site, tier)
            if tier.load_balancer is not None:
                behind = balancers.enrolled(site, tier.load_balancer)
                mine = [item["InstanceId"] for item in found if item["InstanceId"] in behind]
                balancers.dismiss(site, tier.load_balancer, mine)
            stop_instances(site, [item["InstanceId"] for item in found if item["State"]["Name"] == "running"])
        return visible(self.observe, ctx, given)

    @staticmethod
    def _instances(ctx: Context, site: Site, tier: Tier) -> list[Json]:
        keys = {item.key for item in tier.instances}
        return [item for item in members(ctx, site, tier) if key_of(item) in keys]

    def observe(self, ctx: Context, given: RetreatInput) -> Answer[RetreatOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site(given.site)
        name = site_name(ctx, given.site)
        ids: list[str] = []
        if tier.scaling_group is not None:
            group = group_view(site, tier.scaling_group.key)
            if group is not None and (group.minimum, group.desired) != (0, 0):
                return Unseen(True, f"{group.name} still wants {group.desired}")
            if group is not None and group.alive:
                return Waiting({}, after_s=3.0, note=f"{group.alive} instances of {group.name} are ending")
        else:
            for instance in self._instances(ctx, site, tier):
                state = instance["State"]["Name"]
                if state == "running":
                    text = f"{instance['InstanceId']} is running and must be stopped"
                    raise StepFailed(FailureClass.TRANSIENT, text)
                if state != "stopped":
                    return Waiting({}, after_s=3.0, note=f"{instance['InstanceId']} is {state}")
                ids.append(instance["InstanceId"])
        return Done(RetreatOutput(tier=tier.name, site=name, instances=tuple(ids)))
