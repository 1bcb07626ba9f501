"""Taking the fence away from a side that was seen: security groups, instances, group numbers as they were.

Only a look releases a fence. A side that does not answer keeps it, unless nothing was ever applied there.
"""

from __future__ import annotations

from dataclasses import dataclass

from drpilot.actions.fence import GROUPS_TAG, frozen_numbers, frozen_running
from drpilot.actions.growth import Numbers, resume, set_numbers
from drpilot.actions.members import group_view, members, site_name
from drpilot.actions.views import tags_of, visible, within
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

__all__ = ["Release"]

_LOOK_S = 6.0


class ReleaseInput(Model):
    """A fenced site and what ran there: numbers by group name, instance ids.

    Left out, they are those of the group as frozen into the run, if it was looked at on this site.
    """

    site: str = "source"
    numbers: dict[str, Numbers] | None = None
    instances: tuple[str, ...] | None = None

    def filled(self, ctx: Context) -> _Before:
        """What to give back, with what was left out."""
        frozen = site_name(ctx, self.site) == ctx.source
        return _Before(
            self.numbers if self.numbers is not None else (frozen_numbers(ctx) if frozen else {}),
            self.instances if self.instances is not None else (frozen_running(ctx) if frozen else ()),
        )


@dataclass(frozen=True, slots=True)
class _Before:
    """What ran on a side before its fence."""

    numbers: dict[str, Numbers]
    instances: tuple[str, ...]


class ReleaseOutput(Model):
    """What was given back."""

    site: str
    groups: tuple[str, ...] = ()
    instances: tuple[str, ...] = ()
    unreachable: str = ""


class Release(Action[ReleaseInput, ReleaseOutput]):
    """Take the fence away exactly: security groups, instances, group numbers as they were. Used by roll
    back.
    """

    name = "fence.release"
    summary = "take the fence away and give the old side back what it had"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    protects = True
    permissions = (
        "autoscaling:UpdateAutoScalingGroup",
        "autoscaling:ResumeProcesses",
        "autoscaling:DescribeAutoScalingGroups",
        "ec2:StartInstances",
        "ec2:ModifyInstanceAttribute",
        "ec2:DeleteTags",
        "ec2:DescribeInstances",
    )
    at = ("site",)
    Input = ReleaseInput
    Output = ReleaseOutput

    def start(self, ctx: Context, given: ReleaseInput) -> Answer[ReleaseOutput]:
        site, before = ctx.site(given.site), given.filled(ctx)
        try:
            listed = within(_LOOK_S, site, lambda bound: self._listed(ctx, bound, before))
        except CloudError as error:
            return self._unseen(ctx, given, error)
        for instance in listed.values():
            own = tags_of(instance).get(GROUPS_TAG)
            if own:
                id_ = instance["InstanceId"]
                site.call("ec2", "ModifyInstanceAttribute", {"InstanceId": id_, "Groups": own.split(",")})
                site.call("ec2", "DeleteTags", {"Resources": [id_], "Tags": [{"Key": GROUPS_TAG}]})
        down = [key for key, item in listed.items() if item["State"]["Name"] == "stopped"]
        if down:
            site.call("ec2", "StartInstances", {"InstanceIds": down})
        for name, numbers in before.numbers.items():
            if group_view(site, name) is not None:
                resume(site, name)
                set_numbers(site, name, numbers)
        return visible(self.observe, ctx, given)

    @staticmethod
    def _listed(ctx: Context, site: Site, before: _Before) -> dict[str, Json]:
        found = {item["InstanceId"]: item for tier in ctx.group.tiers for item in members(ctx, site, tier)}
        return {key: found[key] for key in before.instances if key in found}

    def observe(self, ctx: Context, given: ReleaseInput) -> Answer[ReleaseOutput]:
        site, before = ctx.site(given.site), given.filled(ctx)
        try:
            listed = within(_LOOK_S, site, lambda bound: self._listed(ctx, bound, before))
        except CloudError as error:
            return self._unseen(ctx, given, error)
        for key, item in listed.items():
            if item["State"]["Name"] == "stopped":  # its stop had not ended when it was to be started
                raise StepFailed(FailureClass.TRANSIENT, f"{key} is stopped and must be started")
            if item["State"]["Name"] != "running":
                return Waiting({}, after_s=3.0, note=f"{key} is {item['State']['Name']}")
        for name, numbers in before.numbers.items():
            group = group_view(site, name)
            if group is not None and (group.launch_suspended or group.desired < numbers.desired):
                return Unseen(True, f"{name} is still held back")
            if group is not None and group.serving < numbers.desired:
                return Waiting(
                    {}, after_s=3.0, note=f"{group.serving} of {numbers.desired} of {name} in service"
                )
        name = site_name(ctx, given.site)
        seen = {"side_is_standby_or_active": True}
        move = Move("fence", name, "release", seen, unless=("none", "released"))
        return Done(ReleaseOutput(site=name, groups=tuple(before.numbers), instances=tuple(listed)), (move,))

    @staticmethod
    def _unseen(ctx: Context, given: ReleaseInput, error: CloudError) -> Done[ReleaseOutput]:
        """A side that does not answer: only where nothing was ever applied there is nothing to give back.

        The fence stays as recorded, since nobody saw that side.
        """
        name, observed = site_name(ctx, given.site), f"{error.code}: {error.message}"[:300]
        state = ctx.fenced(name)
        if state != "unverified":
            text = f"{name} can't be seen ({observed}); its fence ({state}) can only be released by a look"
            raise StepFailed(FailureClass.TRANSIENT, text)
        warning = f"{name} can't be seen ({observed}): nothing was applied or given back there"
        return Done(ReleaseOutput(site=name, unreachable=observed), warning=warning)
