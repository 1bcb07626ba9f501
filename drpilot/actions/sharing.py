"""Letting the target's account read what the source captured, where the two accounts differ.

CopySnapshot and CopyImage across accounts need the permission of the owner (EC2 API reference,
ModifySnapshotAttribute, ModifyImageAttribute). An image is only usable with the snapshots behind it.
"""

from __future__ import annotations

from drpilot.actions.members import tier_of
from drpilot.actions.retention import behind
from drpilot.actions.views import first, images, not_found, visible
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
    StepFailed,
    Unseen,
)

__all__ = ["Share"]


class ShareInput(Model):
    """One tier."""

    tier: str


class ShareOutput(Model):
    """What the other account may read now; empty where both sites are one account."""

    account: str = ""
    snapshots: tuple[str, ...] = ()
    image: str = ""


class Share(Action[ShareInput, ShareOutput]):
    """Give the target's account the right to copy the tier's captured snapshots and image."""

    name = "point.share"
    summary = "let the target's account copy what was captured, where the accounts differ"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    permissions = (
        "ec2:ModifySnapshotAttribute",
        "ec2:ModifyImageAttribute",
        "ec2:DescribeSnapshotAttribute",
        "ec2:DescribeImageAttribute",
        "ec2:DescribeImages",
    )
    at = ("source",)
    Input = ShareInput
    Output = ShareOutput

    def start(self, ctx: Context, given: ShareInput) -> Answer[ShareOutput]:
        wanted = self._wanted(ctx, given)
        site = ctx.site("source")
        for snapshot in wanted.snapshots:
            if not self._may_create(ctx, snapshot, wanted.account):
                params: Json = {
                    "SnapshotId": snapshot,
                    "Attribute": "createVolumePermission",
                    "OperationType": "add",
                    "UserIds": [wanted.account],
                }
                site.call("ec2", "ModifySnapshotAttribute", params)
        if wanted.image and not self._may_launch(ctx, wanted.image, wanted.account):
            launch: Json = {
                "ImageId": wanted.image,
                "LaunchPermission": {"Add": [{"UserId": wanted.account}]},
            }
            site.call("ec2", "ModifyImageAttribute", launch)
        return visible(self.observe, ctx, given)

    @staticmethod
    def _wanted(ctx: Context, given: ShareInput) -> ShareOutput:
        source, target = ctx.site("source"), ctx.site("target")
        if source.account == target.account:
            return ShareOutput()
        tier = tier_of(ctx, given.tier)
        point = ctx.point(ctx.point_id)
        captured = {
            item.source_id for item in point.replicas if item.kind == "snapshot" and item.tier == tier.name
        }
        image = ""
        if tier.scaling_group is not None:
            found = first(images(source, [{"Name": "image-id", "Values": [tier.scaling_group.image]}]))
            if found is None:
                text = f"image {tier.scaling_group.image} of {tier.scaling_group.key} is not one of {source.name}'s own"
                raise StepFailed(FailureClass.PRECONDITION, text)
            image = tier.scaling_group.image
            captured |= behind([found])
        return ShareOutput(account=target.account, snapshots=tuple(sorted(captured)), image=image)

    @staticmethod
    def _may_create(ctx: Context, snapshot: str, account: str) -> bool:
        params: Json = {"SnapshotId": snapshot, "Attribute": "createVolumePermission"}
        reply = ctx.site("source").call("ec2", "DescribeSnapshotAttribute", params)
        return any(item.get("UserId") == account for item in reply.get("CreateVolumePermissions") or [])

    @staticmethod
    def _may_launch(ctx: Context, image: str, account: str) -> bool:
        params: Json = {"ImageId": image, "Attribute": "launchPermission"}
        reply = ctx.site("source").call("ec2", "DescribeImageAttribute", params)
        return any(item.get("UserId") == account for item in reply.get("LaunchPermissions") or [])

    def observe(self, ctx: Context, given: ShareInput) -> Answer[ShareOutput]:
        wanted = self._wanted(ctx, given)
        try:
            closed = [item for item in wanted.snapshots if not self._may_create(ctx, item, wanted.account)]
        except CloudError as error:
            if not not_found(error):
                raise
            raise StepFailed(
                FailureClass.PRECONDITION, f"a captured snapshot is gone: {error.message}"
            ) from None
        if wanted.image and not self._may_launch(ctx, wanted.image, wanted.account):
            closed.append(wanted.image)
        if closed:
            return Unseen(True, f"account {wanted.account} may not read {', '.join(closed)} yet")
        return Done(wanted)
