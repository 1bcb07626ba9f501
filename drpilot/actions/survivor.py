"""Going on with one of two sides that may both be writable: its epoch, its own fence lifted, and its naming.

Source is the side that is given up, target the survivor that people named. The order is the runbook's: the claim
decides between two controllers, the source is fenced and seen, and only then the survivor is named.
"""

from __future__ import annotations

from drpilot.actions.epoch import EpochOutput, conflict, glass, write_claim
from drpilot.actions.fence import frozen_numbers, frozen_running
from drpilot.actions.groups import old_side
from drpilot.actions.release import Release, ReleaseInput, ReleaseOutput
from drpilot.actions.sides import running
from drpilot.actions.views import Nothing, visible
from drpilot.domain.fence import Claim, confirmed, seized
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
    StepFailed,
    Unseen,
)

__all__ = ["Lift", "NameSurvivor", "NamedOutput", "Seize"]

_UNFENCED = ("none", "released")


class Seize(Action[Nothing, EpochOutput]):
    """Claim the next epoch for the survivor, unless the witness names it already; another's claim gives way.

    Two persons decided (`domain.fence.seized`). Two controllers that name different survivors meet here: the witness
    takes one claim, and the step of the other that names its survivor finds it gone.
    """

    name = "epoch.seize"
    summary = "claim the epoch for the survivor, unless the witness names it already"
    idempotency = Idempotency.OBSERVE
    effect = Effect.CHANGE
    protects = True
    permissions = ("s3:GetObject", "s3:PutObject")
    Input = Nothing
    Output = EpochOutput

    @staticmethod
    def _wanted(ctx: Context, current: Claim | None) -> Claim:
        return seized(current, group=ctx.group.name, survivor=ctx.target, epoch=ctx.epoch, run=ctx.run)

    def start(self, ctx: Context, given: Nothing) -> Answer[EpochOutput]:
        try:
            write_claim(ctx, lambda current: self._wanted(ctx, current))
        except CloudError as error:
            if not glass(ctx):
                raise
            return self._overridden(ctx, error)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[EpochOutput]:
        try:
            current, _ = ctx.witness().read(ctx.group.name)
        except CloudError as error:
            if not glass(ctx):
                raise
            return self._overridden(ctx, error)
        if current is None or self._wanted(ctx, current) != current:
            return Unseen(True, f"the witness does not name {ctx.target}")
        return Done(EpochOutput(epoch=current.epoch, active=current.active))

    @staticmethod
    def _overridden(ctx: Context, error: CloudError) -> Done[EpochOutput]:
        output = EpochOutput(epoch=ctx.epoch + 1, active=ctx.target, overridden=True)
        return Done(output, warning=f"the witness can't be reached ({error.code}); overridden: {glass(ctx)}")


class Lift(Action[Nothing, ReleaseOutput]):
    """Take away what a fence left on the survivor, once the other side is fenced; without a fence it does nothing.

    What it had is what the group's members had when they were last seen, as in a roll back.
    """

    name = "fence.lift"
    summary = "take away a fence that the survivor still carries"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    protects = True
    permissions = Release.permissions
    Input = Nothing
    Output = ReleaseOutput

    @staticmethod
    def _before(ctx: Context) -> ReleaseInput:
        numbers, instances = frozen_numbers(ctx), frozen_running(ctx)
        return ReleaseInput(site="target", numbers=numbers, instances=instances)

    def start(self, ctx: Context, given: Nothing) -> Answer[ReleaseOutput]:
        if ctx.fenced(ctx.target) in _UNFENCED:
            return self.observe(ctx, given)
        return Release().start(ctx, self._before(ctx))

    def observe(self, ctx: Context, given: Nothing) -> Answer[ReleaseOutput]:
        if ctx.fenced(ctx.target) in _UNFENCED:
            return Done(ReleaseOutput(site=ctx.target))
        return Release().observe(ctx, self._before(ctx))


class NamedOutput(EpochOutput):
    """The survivor and its epoch; `invalidated` are the members of the side that was given up."""

    invalidated: tuple[str, ...] = ()


class NameInput(Model):
    """Whether the claim was overridden, so that the witness may not know of it yet."""

    overridden: bool = False


class NameSurvivor(Action[NameInput, NamedOutput]):
    """Confirm the survivor's epoch and go on with it: nothing of the other side may run, by a look of its own.

    The journal adds who consented and what the fence came to; without two persons (or a broken glass) and a verified
    fence its table refuses.
    """

    name = "group.survivor"
    summary = "nothing of the other side runs: confirm the survivor's epoch and go on with it"
    idempotency = Idempotency.OBSERVE
    effect = Effect.CHANGE
    protects = True
    permissions = (
        "s3:GetObject",
        "s3:PutObject",
        "ec2:DescribeInstances",
        "autoscaling:DescribeAutoScalingGroups",
    )
    Input = NameInput
    Output = NamedOutput

    def start(self, ctx: Context, given: NameInput) -> Answer[NamedOutput]:
        self._quiet(ctx)
        try:
            write_claim(ctx, lambda current: self._wanted(ctx, given, current))
        except CloudError:
            if not glass(ctx):
                raise
        return visible(self.observe, ctx, given)

    @staticmethod
    def _quiet(ctx: Context) -> None:
        """StepFailed where a machine of the source may still write, or nothing of the survivor runs any more."""
        left = running(ctx, ctx.site("source"))
        if ctx.fenced(ctx.source) != "fenced" or left:
            text = f"{ctx.source} is not fenced for certain" + (f": {', '.join(left)}" if left else "")
            raise StepFailed(FailureClass.PRECONDITION, text, data={"writers": list(left)})
        if not running(ctx, ctx.site("target")):
            raise StepFailed(FailureClass.PRECONDITION, f"nothing of {ctx.group.name} runs on {ctx.target}")

    @staticmethod
    def _unclaimed(ctx: Context, given: NameInput, current: Claim | None) -> bool:
        """Whether the witness, overridden when it could not be reached, has yet to learn of the survivor."""
        return given.overridden and (current is None or current.active != ctx.target)

    def _wanted(self, ctx: Context, given: NameInput, current: Claim | None) -> Claim:
        if self._unclaimed(ctx, given, current):
            epoch = max(ctx.epoch, current.epoch if current is not None else 1) + 1
            return Claim(ctx.group.name, epoch, ctx.target)
        claim = confirmed(current, ctx.run) if current is not None else None
        if claim is None or claim.active != ctx.target:
            raise conflict(current)
        return claim

    def observe(self, ctx: Context, given: NameInput) -> Answer[NamedOutput]:
        self._quiet(ctx)
        try:
            current, _ = ctx.witness().read(ctx.group.name)
        except CloudError as error:
            if not glass(ctx):
                raise
            warning = f"the witness can't be reached ({error.code}) and does not know of the survivor yet"
            return self._named(ctx, ctx.epoch + 1, warning)
        if self._unclaimed(ctx, given, current) or (current is not None and current.run == ctx.run):
            return Unseen(True, "the survivor's epoch is not confirmed")
        if current is None or current.run is not None or current.active != ctx.target:
            raise conflict(current)
        return self._named(ctx, current.epoch)

    @staticmethod
    def _named(ctx: Context, epoch: int, warning: str = "") -> Done[NamedOutput]:
        given_up = tuple(id_ for _, id_, _ in old_side(ctx, ctx.site("source")))
        output = NamedOutput(epoch=epoch, active=ctx.target, overridden=bool(warning), invalidated=given_up)
        data = {"active": ctx.target, "epoch": epoch, "invalidated": list(given_up)}
        move = Move("group", ctx.group.name, "survivor named", {}, data, unless=("active_unprotected",))
        return Done(output, (*_promoted(ctx), move), warning)


def _promoted(ctx: Context) -> tuple[Move, ...]:
    """A survivor that stood by is the writer now."""
    moves = []
    for tier in ctx.group.tiers:
        key, state = f"{tier.name}@{ctx.target}", ctx.standby(tier.name, ctx.target).state
        if state in ("ready", "unhealthy"):
            moves.append(Move("standby", key, "promote", {"fence_recorded": True}))
        if state in ("ready", "unhealthy", "promoting"):
            moves.append(Move("standby", key, "verified", {"checked": True}))
    return tuple(moves)
