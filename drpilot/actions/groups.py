"""The group's own turning points: the old side is marked invalidated, reprotected, and ready."""

from __future__ import annotations

from collections.abc import Iterator

from drpilot.actions.members import group_view, members, site_name, writers
from drpilot.actions.views import Nothing, tags_of, visible, within
from drpilot.base.errors import DrpilotError
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
)

__all__ = ["Invalidate", "MarkInvalidated", "Ready", "Reprotect", "old_side"]

_MARK = "drpilot:invalidated"
_LOOK_S = 6.0
_ELSEWHERE = (
    "protected",
    "degraded",
    "switching_over",
    "failing_over",
    "awaiting_commit",
    "rolling_back",
    "active_unprotected",
    "needs_decision",
    "split_suspected",
    "retired",
)


def old_side(ctx: Context, site: Site) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Members on a side: kind, id or group name, tags."""
    for tier in ctx.group.tiers:
        if tier.scaling_group is not None:
            group = group_view(site, tier.scaling_group.key)
            if group is not None:
                yield "group", group.name, tags_of(group.raw)
        else:
            for instance in members(ctx, site, tier):
                yield "instance", instance["InstanceId"], tags_of(instance)


def _lacking(ctx: Context, site: Site, epoch: str) -> list[tuple[str, str]]:
    """Members without the mark of `epoch`: kind, id or group name."""
    return [(kind, id_) for kind, id_, tags in old_side(ctx, site) if tags.get(_MARK) != epoch]


def _mark(site: Site, lacking: list[tuple[str, str]], epoch: str) -> None:
    ids = [id_ for kind, id_ in lacking if kind == "instance"]
    if ids:
        site.call("ec2", "CreateTags", {"Resources": ids, "Tags": [{"Key": _MARK, "Value": epoch}]})
    for name in [id_ for kind, id_ in lacking if kind == "group"]:
        tag: Json = {
            "Key": _MARK,
            "Value": epoch,
            "ResourceId": name,
            "ResourceType": "auto-scaling-group",
            "PropagateAtLaunch": False,
        }
        site.call("autoscaling", "CreateOrUpdateTags", {"Tags": [tag]})


class SiteInput(Model):
    """The old side, by role or name, and the epoch that ended its time (the journal's, if left out)."""

    site: str = "source"
    epoch: int | None = None

    def mark(self, ctx: Context) -> int:
        """The epoch to mark members with."""
        return self.epoch if self.epoch is not None else ctx.epoch


class InvalidateOutput(Model):
    """Members that carry the mark; `pending` while the site can't be seen."""

    site: str
    epoch: int
    invalidated: tuple[str, ...] = ()
    pending: bool = False


class Invalidate(Action[SiteInput, InvalidateOutput]):
    """Mark the old side's members: what is there is history, and only reprotect makes it usable again."""

    name = "group.invalidate"
    summary = "mark the old side's members as history"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    permissions = (
        "ec2:CreateTags",
        "ec2:DescribeInstances",
        "autoscaling:CreateOrUpdateTags",
        "autoscaling:DescribeAutoScalingGroups",
    )
    at = ("site",)
    Input = SiteInput
    Output = InvalidateOutput

    def start(self, ctx: Context, given: SiteInput) -> Answer[InvalidateOutput]:
        site = ctx.site(given.site)
        try:
            lacking = within(_LOOK_S, site, lambda bound: _lacking(ctx, bound, str(given.mark(ctx))))
        except CloudError as error:
            return self._pending(ctx, given, error)
        # Seen a moment ago: an error of marking is no absence, and what is half marked must be marked again.
        _mark(site, lacking, str(given.mark(ctx)))
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: SiteInput) -> Answer[InvalidateOutput]:
        site = ctx.site(given.site)
        try:
            found = within(_LOOK_S, site, lambda bound: list(old_side(ctx, bound)))
        except CloudError as error:
            return self._pending(ctx, given, error)
        epoch = given.mark(ctx)
        bare = [id_ for _, id_, tags in found if tags.get(_MARK) != str(epoch)]
        if bare:
            return Unseen(True, f"{', '.join(bare)} are not marked")
        ids = tuple(id_ for _, id_, _ in found)
        return Done(InvalidateOutput(site=site_name(ctx, given.site), epoch=epoch, invalidated=ids))

    @staticmethod
    def _pending(ctx: Context, given: SiteInput, error: CloudError) -> Done[InvalidateOutput]:
        name = site_name(ctx, given.site)
        output = InvalidateOutput(site=name, epoch=given.mark(ctx), pending=True)
        return Done(
            output, warning=f"{name} can't be seen ({error.code}); drpilot fence marks it once it answers"
        )


class MarkInput(Model):
    """The old side, by role or name."""

    site: str = "source"


class MarkInvalidated(Action[MarkInput, InvalidateOutput]):
    """Mark the old side if the witness says that the move away from it is committed; else there is nothing to
    mark.

    What `group.invalidate` could not do at the commit, because the side was not to be seen, the fence run does as
    soon as it is. A claim that is not confirmed yet may still be rolled back, and its old side made active.
    """

    name = "group.mark_invalidated"
    summary = "mark the old side's members as history, once the move away from it is committed"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    permissions = (*Invalidate.permissions, "s3:GetObject")
    at = ("site",)
    Input = MarkInput
    Output = InvalidateOutput

    @staticmethod
    def _epoch(ctx: Context, given: MarkInput) -> int | None:
        """The confirmed epoch of the other side; None while it holds none."""
        claim, _ = ctx.witness().read(ctx.group.name)
        other = ctx.group.other(site_name(ctx, given.site))
        return claim.epoch if claim is not None and claim.run is None and claim.active == other else None

    def start(self, ctx: Context, given: MarkInput) -> Answer[InvalidateOutput]:
        epoch, site = self._epoch(ctx, given), ctx.site(given.site)
        if epoch is not None:
            mark = str(epoch)
            _mark(site, within(_LOOK_S, site, lambda bound: _lacking(ctx, bound, mark)), mark)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: MarkInput) -> Answer[InvalidateOutput]:
        epoch, name, site = self._epoch(ctx, given), site_name(ctx, given.site), ctx.site(given.site)
        if epoch is None:
            output = InvalidateOutput(site=name, epoch=ctx.epoch, pending=True)
            return Done(output, warning="the move is not committed yet: nothing to mark")
        found = within(_LOOK_S, site, lambda bound: list(old_side(ctx, bound)))
        bare = [id_ for _, id_, tags in found if tags.get(_MARK) != str(epoch)]
        if bare:
            return Unseen(True, f"{', '.join(bare)} are not marked")
        return Done(InvalidateOutput(site=name, epoch=epoch, invalidated=tuple(id_ for _, id_, _ in found)))


class ReprotectOutput(Model):
    """The old side's members, all marked, none writing."""

    site: str
    invalidated: tuple[str, ...] = ()


class Reprotect(Action[Nothing, ReprotectOutput]):
    """Begin to protect the other way: the old side (the target here) must be fenced and marked, by a look."""

    name = "group.reprotect"
    summary = "see that the old side is fenced and marked, and begin to protect the other way"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    protects = True
    permissions = Invalidate.permissions
    Input = Nothing
    Output = ReprotectOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[ReprotectOutput]:
        site, epoch = ctx.site("target"), str(ctx.epoch)
        _mark(site, _lacking(ctx, site, epoch), epoch)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[ReprotectOutput]:
        site = ctx.site("target")
        left = writers(ctx, site, ctx.group.tiers)
        if left:
            text = f"{', '.join(left)} on {ctx.target} may still write; fence it first: drpilot fence {ctx.group.name}"
            raise StepFailed(FailureClass.PRECONDITION, text, data={"writers": left})
        found = list(old_side(ctx, site))
        bare = [id_ for _, id_, tags in found if tags.get(_MARK) != str(ctx.epoch)]
        if bare:
            return Unseen(True, f"{', '.join(bare)} are not marked")
        facts = {"old_side_fenced": True, "old_side_invalidated": True}
        ids = [id_ for _, id_, _ in found]
        move = Move("group", ctx.group.name, "reprotect", facts, {"invalidated": ids}, unless=_REPROTECTED)
        return Done(ReprotectOutput(site=ctx.target, invalidated=tuple(ids)), (move,))


_REPROTECTED = ("reprotecting", "protected", "degraded", "seeding")


class ReadyOutput(Model):
    """The point that protects the group, and the standbys that stand ready."""

    point: str
    standbys: tuple[str, ...] = ()


class Ready(Action[Nothing, ReadyOutput]):
    """A complete point and every standby ready: the group is protected."""

    name = "group.ready"
    summary = "a complete point and every standby ready: the group is protected"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    Input = Nothing
    Output = ReadyOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[ReadyOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[ReadyOutput]:
        try:
            usable = ctx.point(ctx.point_id).usable
        except (KeyError, DrpilotError):
            usable = False
        states = {tier.name: ctx.standby(tier.name, ctx.target).state for tier in ctx.group.tiers}
        unfit = [
            f"{tier} is {state}" for tier, state in states.items() if state not in ("ready", "unhealthy")
        ]
        if not usable or unfit:
            text = "; ".join([*unfit, *([] if usable else ["the point is not complete"])])
            raise StepFailed(FailureClass.PRECONDITION, text)
        facts = {"point_complete": True, "standby_ready": True}
        moves = [Move("group", ctx.group.name, "point available", facts, unless=_ELSEWHERE)]
        if ctx.fenced(ctx.target) in ("fenced", "partial", "unverified", "requested", "applying"):
            moves.append(Move("fence", ctx.target, "release", {"side_is_standby_or_active": True}))
        return Done(ReadyOutput(point=ctx.point_id, standbys=tuple(states)), tuple(moves))
