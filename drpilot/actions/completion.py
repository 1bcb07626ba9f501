"""What becomes of a recovery point: checked and complete, failed with its run, or proven by a drill."""

from __future__ import annotations

from drpilot.actions.views import Nothing, images, snapshots
from drpilot.base.clock import rfc3339
from drpilot.base.errors import DrpilotError
from drpilot.domain.plain import Json
from drpilot.domain.point import RecoveryPoint
from drpilot.domain.ports import (
    Action,
    Answer,
    Context,
    Done,
    Effect,
    FailureClass,
    Idempotency,
    Model,
    Move,
    StepFailed,
    Waiting,
)

__all__ = ["Close", "Complete", "Prove", "expected_replicas"]

_UNFINISHED = ("requested", "capturing", "copying", "converting")
_OVER = ("available", "proven", "failed", "quarantined", "expiring", "deleted")


def expected_replicas(ctx: Context) -> list[tuple[str, str]]:
    """Kind and key of every replica a complete point of this group has."""
    wanted: list[tuple[str, str]] = []
    for tier in ctx.group.tiers:
        wanted += [("snapshot", volume.key) for item in tier.instances for volume in item.volumes]
        wanted += [
            ("image", item.key) for item in tier.instances if any(volume.root for volume in item.volumes)
        ]
        if tier.scaling_group is not None:
            wanted.append(("image", tier.scaling_group.key))
    return wanted


class CompleteOutput(Model):
    """How many replicas were checked, and the instant of the point (RFC 3339)."""

    replicas: int
    size_gib: int
    captured_at: str


class Complete(Action[Nothing, CompleteOutput]):
    """Check every replica on the target: there, finished, of the right size, carrying our tag."""

    name = "point.complete"
    summary = "check every replica on the target; the point becomes available"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    permissions = ("ec2:DescribeSnapshots", "ec2:DescribeImages")
    Input = Nothing
    Output = CompleteOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[CompleteOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[CompleteOutput]:
        point = ctx.point(ctx.point_id)
        have = {(replica.kind, replica.member): replica for replica in point.replicas}
        missing = [f"{kind} of {key}" for kind, key in expected_replicas(ctx) if (kind, key) not in have]
        missing += [f"{kind} of {key}" for (kind, key), replica in have.items() if not replica.id]
        if missing:
            raise StepFailed(FailureClass.PRECONDITION, f"the point lacks {', '.join(sorted(set(missing)))}")
        target = ctx.site("target")
        wrong, unlisted = self._snapshots(ctx, point)
        listed = {}
        ids = sorted({replica.id for replica in point.replicas if replica.kind == "image"})
        if ids:
            listed = {item["ImageId"]: item for item in images(target, [{"Name": "image-id", "Values": ids}])}
        unlisted += [id_ for id_ in ids if id_ not in listed]
        wrong += [f"{key} is {item['State']}" for key, item in listed.items() if item["State"] != "available"]
        if wrong:
            raise StepFailed(FailureClass.PRECONDITION, "; ".join(wrong), data={"wrong": wrong})
        if unlisted:
            return Waiting({}, after_s=2.0, note=f"not listed: {', '.join(unlisted)}")
        captured_at = rfc3339(point.captured_at) if point.captured_at else ""
        size = sum(replica.size_gib for replica in point.replicas)
        output = CompleteOutput(replicas=len(point.replicas), size_gib=size, captured_at=captured_at)
        data = {"completed_at": rfc3339(ctx.clock.now())}
        move = Move("point", ctx.point_id, "complete", {"replicas_checked": True}, data, unless=_OVER)
        return Done(output, (move,))

    @staticmethod
    def _snapshots(ctx: Context, point: RecoveryPoint) -> tuple[list[str], list[str]]:
        """What is wrong with the point's snapshots, and which are not listed."""
        wanted = {replica.id: replica for replica in point.replicas if replica.kind == "snapshot"}
        if not wanted:
            return [], []
        filters: list[Json] = [
            {"Name": "snapshot-id", "Values": sorted(wanted)},
            {"Name": "tag:drpilot:group", "Values": [ctx.group.name]},
        ]
        found = {item["SnapshotId"]: item for item in snapshots(ctx.site("target"), filters)}
        wrong = []
        for key, item in found.items():
            if item["State"] != "completed":
                wrong.append(f"{key} is {item['State']}")
            if int(item["VolumeSize"]) != wanted[key].size_gib:
                wrong.append(f"{key} has {item['VolumeSize']} GiB instead of {wanted[key].size_gib}")
        return wrong, [key for key in wanted if key not in found]


class CloseOutput(Model):
    """The state the point was left in."""

    state: str


class Close(Action[Nothing, CloseOutput]):
    """At the end of a run, whatever came: a point that did not become available has failed."""

    name = "point.close"
    summary = "mark the point failed if the run could not complete it"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    Input = Nothing
    Output = CloseOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[CloseOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[CloseOutput]:
        try:
            state = ctx.point(ctx.point_id).state
        except (KeyError, DrpilotError):
            return Done(CloseOutput(state="none"))  # the run ended before it asked for one
        if state not in _UNFINISHED:
            return Done(CloseOutput(state=state))
        return Done(CloseOutput(state="failed"), (Move("point", ctx.point_id, "fail", unless=("failed",)),))


class ProveOutput(Model):
    """The proven point and the drill that proved it."""

    point: str
    by: str


class Prove(Action[Nothing, ProveOutput]):
    """Record that a drill booted the point and its checks passed; reached only if they did."""

    name = "point.prove"
    summary = "record that a drill booted the point and its checks passed"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    Input = Nothing
    Output = ProveOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[ProveOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[ProveOutput]:
        data = {"proven_at": rfc3339(ctx.clock.now()), "proven_by": ctx.name}
        move = Move("point", ctx.point_id, "prove", {"drill_passed": True}, data, unless=("proven",))
        return Done(ProveOutput(point=ctx.point_id, by=ctx.name), (move,))
