"""Stopping the writers of the source for a move without loss, and starting them again if it is rolled
back.
"""

from __future__ import annotations

from drpilot.actions.growth import Numbers, resume, set_numbers, stop_instances
from drpilot.actions.members import group_view, members, tier_of, writers
from drpilot.actions.views import Nothing, visible
from drpilot.base.clock import rfc3339
from drpilot.domain.group import Tier
from drpilot.domain.plain import Json
from drpilot.domain.plan import Call
from drpilot.domain.ports import (
    Action,
    Answer,
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

__all__ = ["Quiet", "Start", "Stop"]


class TierInput(Model):
    """One tier of the source."""

    tier: str


class StopOutput(Model):
    """What ran before: instances that were running, and the group's numbers."""

    tier: str
    instances: tuple[str, ...] = ()
    numbers: Numbers | None = None


class Stop(Action[TierInput, StopOutput]):
    """Stop one tier on the source: its group to 0, its instances stopped.

    What to start again comes from the group as it was frozen into the run, so that it survives a crash in
    the middle.
    """

    name = "writers.stop"
    summary = "stop one tier on the source"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    protects = True
    permissions = (
        "ec2:StopInstances",
        "ec2:DescribeInstances",
        "autoscaling:UpdateAutoScalingGroup",
        "autoscaling:DescribeAutoScalingGroups",
    )
    at = ("source",)
    Input = TierInput
    Output = StopOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[StopOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("source")
        if tier.scaling_group is not None:
            found = group_view(site, tier.scaling_group.key)
            if found is not None and (found.minimum, found.desired) != (0, 0):
                set_numbers(site, found.name, Numbers(minimum=0, maximum=found.maximum, desired=0))
        elif tier.instances:
            stop_instances(site, _up(ctx, site, tier))
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: TierInput) -> Answer[StopOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("source")
        if tier.scaling_group is not None:
            found = group_view(site, tier.scaling_group.key)
            if found is not None and (found.minimum, found.desired) != (0, 0):
                return Unseen(True, f"{found.name} still wants {found.desired}")
        elif _up(ctx, site, tier):
            return Unseen(True, f"{', '.join(_up(ctx, site, tier))} are not stopping")
        left = writers(ctx, site, [tier])
        if left:
            return Waiting({}, after_s=3.0, note=f"{len(left)} writers of {tier.name} are ending")
        numbers = Numbers.of(tier.scaling_group) if tier.scaling_group is not None else None
        return Done(StopOutput(tier=tier.name, instances=_ran(tier), numbers=numbers))

    def undo(self, given: TierInput, output: StopOutput | None) -> Call | None:
        if output is None:  # it failed half way: what ran before is in the group as frozen
            return Call("writers.start", {"tier": given.tier})
        numbers = output.numbers.model_dump() if output.numbers else None
        return Call(
            "writers.start", {"tier": given.tier, "instances": list(output.instances), "numbers": numbers}
        )


def _ran(tier: Tier) -> tuple[str, ...]:
    """The tier's instances that ran when the group was frozen into the run."""
    return tuple(item.id for item in tier.instances if item.state == "running")


def _up(ctx: Context, site: Site, tier: Tier) -> list[str]:
    return [
        item["InstanceId"]
        for item in members(ctx, site, tier)
        if item["State"]["Name"] in ("pending", "running")
    ]


class StartInput(Model):
    """What to start on the source: instances by id, and the group's numbers.

    Left out, they are those of the tier as frozen into the run.
    """

    tier: str
    instances: tuple[str, ...] | None = None
    numbers: Numbers | None = None

    def filled(self, ctx: Context) -> tuple[tuple[str, ...], Numbers | None]:
        """Instances and numbers, with what was left out."""
        tier = tier_of(ctx, self.tier)
        ids, numbers = self.instances, self.numbers
        if ids is None:
            ids = _ran(tier)
        if numbers is None and tier.scaling_group is not None:
            numbers = Numbers.of(tier.scaling_group)
        return ids, numbers


class StartOutput(Model):
    """What runs again."""

    tier: str
    instances: tuple[str, ...] = ()


class Start(Action[StartInput, StartOutput]):
    """Start one tier on the source again, as it was."""

    name = "writers.start"
    summary = "start one tier on the source again, as it was"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    protects = True
    permissions = (
        "ec2:StartInstances",
        "ec2:DescribeInstances",
        "autoscaling:UpdateAutoScalingGroup",
        "autoscaling:ResumeProcesses",
        "autoscaling:DescribeAutoScalingGroups",
    )
    at = ("source",)
    Input = StartInput
    Output = StartOutput

    def start(self, ctx: Context, given: StartInput) -> Answer[StartOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("source")
        ids, numbers = given.filled(ctx)
        states = self._states(ctx, site, tier, ids)
        if numbers is not None and tier.scaling_group is not None:
            resume(site, tier.scaling_group.key)
            set_numbers(site, tier.scaling_group.key, numbers)
        down = [key for key, state in states.items() if state == "stopped"]
        if down:
            site.call("ec2", "StartInstances", {"InstanceIds": down})
        return visible(self.observe, ctx, given)

    @staticmethod
    def _states(ctx: Context, site: Site, tier: Tier, ids: tuple[str, ...]) -> dict[str, str]:
        listed = {item["InstanceId"]: item["State"]["Name"] for item in members(ctx, site, tier)}
        missing = [key for key in ids if key not in listed]
        if missing:
            raise StepFailed(FailureClass.NOT_FOUND, f"{', '.join(missing)} are not on {ctx.source} any more")
        return {key: listed[key] for key in ids}

    def observe(self, ctx: Context, given: StartInput) -> Answer[StartOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("source")
        ids, numbers = given.filled(ctx)
        if numbers is not None and tier.scaling_group is not None:
            found = group_view(site, tier.scaling_group.key)
            if found is None or found.desired < numbers.desired or found.launch_suspended:
                return Unseen(True, f"{tier.scaling_group.key} does not want {numbers.desired} yet")
            if found.serving < numbers.desired:
                return Waiting({}, after_s=3.0, note=f"{found.serving} of {numbers.desired} in service")
        for key, state in self._states(ctx, site, tier, ids).items():
            if state == "stopped":  # its stop had not ended when it was to be started
                raise StepFailed(FailureClass.TRANSIENT, f"{key} is stopped and must be started")
            if state != "running":
                return Waiting({}, after_s=3.0, note=f"{key} is {state}")
        return Done(StartOutput(tier=tier.name, instances=ids))


class QuietOutput(Model):
    """The instant (RFC 3339, our clock) at which no writer was left on the source."""

    stopped_at: str


class Quiet(Action[Nothing, QuietOutput]):
    """See that no writer is left on the source: the first half of the proof that nothing is lost."""

    name = "writers.quiet"
    summary = "see that no writer is left on the source"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    protects = True
    permissions = ("ec2:DescribeInstances",)
    at = ("source",)
    Input = Nothing
    Output = QuietOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[QuietOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[QuietOutput]:
        left = writers(ctx, ctx.site("source"), ctx.group.tiers)
        if left:
            data: Json = {"writers": left}
            raise StepFailed(
                FailureClass.PRECONDITION, f"{', '.join(left)} on {ctx.source} may still write", data=data
            )
        return Done(QuietOutput(stopped_at=rfc3339(ctx.clock.now())))
