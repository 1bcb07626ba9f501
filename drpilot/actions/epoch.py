"""The epoch in the witness: claimed before the fence, confirmed by the commit, released by roll back.

The witness's conditional write decides between two controllers; the rules are `domain.fence.claimed`,
`confirmed` and `released`. A run that claimed already finds its own claim again.
"""

from __future__ import annotations

from collections.abc import Callable

from drpilot.actions.views import Nothing, unsure, visible
from drpilot.domain.fence import Claim, claimed, confirmed, released
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
    Move,
    Stale,
    StepFailed,
    Unseen,
)
from drpilot.domain.run import PLANNED

__all__ = [
    "ClaimEpoch",
    "ConfirmEpoch",
    "EpochOutput",
    "ReleaseEpoch",
    "conflict",
    "glass",
    "write_claim",
]

_MOVING = ("switching_over", "failing_over", "awaiting_commit")
_RECORDED = ("fenced", "partial", "unverified")
_TRIES = 3
_WRITES = (
    "s3:PutObject",
    "dynamodb:PutItem",
    "postgresql:Write",
)  # the write itself, by each kind of witness


class EpochOutput(Model):
    """What the witness says: the epoch, the active side, and whether the witness was overridden."""

    epoch: int
    active: str
    overridden: bool = False


def conflict(found: Claim | None) -> StepFailed:
    """What the witness says instead of what the step needs."""
    if found is None:
        return StepFailed(FailureClass.CONFLICT, "the witness holds no claim")
    by = f", claimed by {found.run}" if found.run else ""
    text = f"the witness says epoch {found.epoch}, active {found.active}{by}"
    return StepFailed(FailureClass.CONFLICT, text, data={"epoch": found.epoch, "active": found.active})


def glass(ctx: Context) -> str | None:
    """Why a person lets the run go on without the witness; None where nobody does."""
    return ctx.proposal.break_glass if ctx.proposal is not None else None


def write_claim(ctx: Context, wanted: Callable[[Claim | None], Claim | None]) -> None:
    """Put `wanted(what stands there)` into the witness, if that is another claim or not None.

    A write counts as refused only if the witness refused it; any other error, one of the look that settles a
    lost reply included, comes with an unknown outcome.
    """
    witness = ctx.witness()
    for _ in range(_TRIES):
        current, etag = witness.read(ctx.group.name)
        claim = wanted(current)
        if claim is None or claim == current:
            return
        try:
            witness.write(claim, replaces=etag)
        except Stale:
            continue  # somebody wrote in between: what is there now decides
        except CloudError as error:
            if error.happened == "no" and error.operation in _WRITES:
                raise
            raise unsure(error) from error
        return
    raise conflict(witness.read(ctx.group.name)[0])


class ClaimEpoch(Action[Nothing, EpochOutput]):
    """Claim the next epoch for the target; the group's move begins with it.

    Without the witness nobody knows who is active: only a run with a break-glass reason goes on.
    """

    name = "epoch.claim"
    summary = "claim the next epoch for the target in the witness"
    idempotency = Idempotency.OBSERVE
    effect = Effect.CHANGE
    protects = True
    permissions = ("s3:GetObject", "s3:PutObject")
    at = ("target", "source")
    Input = Nothing
    Output = EpochOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[EpochOutput]:
        if ctx.mode in PLANNED:
            for role in ("source", "target"):  # before the claim: nothing that can fail may follow it
                ctx.site(role).call("sts", "GetCallerIdentity", {})
        try:
            self._claim(ctx)
        except CloudError as error:
            if not glass(ctx):
                raise
            return self._overridden(ctx, error)
        return visible(self.observe, ctx, given)

    @staticmethod
    def _claim(ctx: Context) -> None:
        def wanted(current: Claim | None) -> Claim:
            names = {"group": ctx.group.name, "source": ctx.source, "target": ctx.target}
            claim = claimed(current, **names, run=ctx.run)
            if claim is None:
                raise conflict(current)
            return claim

        write_claim(ctx, wanted)

    def _overridden(self, ctx: Context, error: CloudError) -> Answer[EpochOutput]:
        output = EpochOutput(epoch=ctx.epoch + 1, active=ctx.target, overridden=True)
        warning = f"the witness can't be reached ({error.code}); overridden: {glass(ctx)}"
        return Done(output, (self._move(ctx),), warning)

    @staticmethod
    def _move(ctx: Context) -> Move:
        if ctx.mode not in PLANNED:
            return Move("group", ctx.group.name, "fail over", {"epoch_claimed": True}, unless=_MOVING)
        # Both sites answered before the claim was written: without that there is none of this run.
        facts = {"epoch_claimed": True, "both_reachable": True}
        return Move("group", ctx.group.name, "switch over", facts, unless=_MOVING)

    def observe(self, ctx: Context, given: Nothing) -> Answer[EpochOutput]:
        try:
            current, _ = ctx.witness().read(ctx.group.name)
        except CloudError as error:
            if not glass(ctx):
                raise
            return self._overridden(ctx, error)
        if current is None or current.run != ctx.run:
            if glass(ctx):  # overridden a moment ago and now there again: the claim is made after all
                raise StepFailed(FailureClass.TRANSIENT, "the witness answers and holds no claim of this run")
            return Unseen(True, "the witness holds no claim of this run")
        return Done(EpochOutput(epoch=current.epoch, active=current.active), (self._move(ctx),))

    def undo(self, given: Nothing, output: EpochOutput | None) -> Call | None:
        return Call("epoch.release", {})


class ConfirmEpoch(Action[Nothing, EpochOutput]):
    """Confirm this run's claim: the target is active under the new epoch, and the move is committed."""

    name = "epoch.confirm"
    summary = "confirm the claimed epoch: the move is committed"
    idempotency = Idempotency.OBSERVE
    effect = Effect.CHANGE
    protects = True
    permissions = ("s3:GetObject", "s3:PutObject")
    Input = Nothing
    Output = EpochOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[EpochOutput]:
        def wanted(current: Claim | None) -> Claim:
            if self._unclaimed(ctx, current):
                # The claim was overridden while the witness could not be reached: it learns of the move now.
                epoch = max(ctx.epoch, current.epoch if current is not None else 1) + 1
                return Claim(ctx.group.name, epoch, ctx.target)
            claim = confirmed(current, ctx.run) if current is not None else None
            if claim is None or claim.active != ctx.target:
                raise conflict(current)
            return claim

        try:
            write_claim(ctx, wanted)
        except CloudError as error:
            if not glass(ctx):
                raise
            return self._overridden(ctx, error)
        return visible(self.observe, ctx, given)

    @staticmethod
    def _unclaimed(ctx: Context, current: Claim | None) -> bool:
        """Whether the glass was broken and the witness still tells of the time before this move."""
        if not glass(ctx):
            return False
        return current is None or (current.run is None and current.active == ctx.source)

    def _overridden(self, ctx: Context, error: CloudError) -> Answer[EpochOutput]:
        output = EpochOutput(epoch=ctx.epoch + 1, active=ctx.target, overridden=True)
        warning = f"the witness can't be reached ({error.code}) and does not know of this move yet"
        return Done(output, (self._move(ctx, output.epoch),), warning)

    @staticmethod
    def _move(ctx: Context, epoch: int) -> Move:
        # The gate `fence` stands before this step: a verdict that is recorded here was foretold or accepted.
        facts = {"epoch_confirmed": True, "fence_accepted": ctx.fenced(ctx.source) in _RECORDED}
        data = {"active": ctx.target, "epoch": epoch}
        return Move("group", ctx.group.name, "commit", facts, data, unless=("active_unprotected",))

    def observe(self, ctx: Context, given: Nothing) -> Answer[EpochOutput]:
        try:
            current, _ = ctx.witness().read(ctx.group.name)
        except CloudError as error:
            if not glass(ctx):
                raise
            return self._overridden(ctx, error)
        if self._unclaimed(ctx, current):
            return Unseen(True, "the witness does not know of this move yet")
        if current is None or current.active != ctx.target:
            raise conflict(current)
        if current.run is not None:
            return Unseen(True, f"epoch {current.epoch} is claimed and not confirmed")
        return Done(
            EpochOutput(epoch=current.epoch, active=current.active), (self._move(ctx, current.epoch),)
        )


class ReleaseEpoch(Action[Nothing, EpochOutput]):
    """Give the claim back: the old side is active again, under yet a higher epoch, so that it never falls.

    Where nothing of this run was claimed there is nothing to give back, and the look says the same: it is Done
    only when the witness itself no longer carries this run's claim.
    """

    name = "epoch.release"
    summary = "release this run's claim: the old side is active again"
    idempotency = Idempotency.OBSERVE
    effect = Effect.CHANGE
    protects = True
    permissions = ("s3:GetObject", "s3:PutObject")
    Input = Nothing
    Output = EpochOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[EpochOutput]:
        def wanted(current: Claim | None) -> Claim | None:
            if current is None or current.run != ctx.run:
                return None
            claim = released(current, ctx.run)
            if claim is None:
                raise conflict(current)
            return claim

        write_claim(ctx, wanted)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[EpochOutput]:
        current, _ = ctx.witness().read(ctx.group.name)
        if current is not None and current.run == ctx.run:
            return Unseen(True, f"epoch {current.epoch} is still claimed by this run")
        if current is not None and current.active != ctx.source:
            raise conflict(current)
        epoch = current.epoch if current is not None else ctx.epoch
        return Done(EpochOutput(epoch=epoch, active=ctx.source))
