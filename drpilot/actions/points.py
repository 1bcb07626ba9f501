"""Making a recovery point: ask, capture each machine at one instant, close the window, copy each snapshot."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pydantic import Field

from drpilot.actions import freezing
from drpilot.actions.carry import kms_key
from drpilot.actions.members import instance_of, tier_of, writers
from drpilot.actions.views import (
    Nothing,
    instances,
    made_here,
    moment,
    not_found,
    snapshots,
    specification,
    tags_of,
    visible,
)
from drpilot.base.clock import parse_time, rfc3339
from drpilot.domain.group import Instance, Tier, Volume
from drpilot.domain.plain import Json
from drpilot.domain.plan import Call
from drpilot.domain.point import Replica
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
    Waiting,
)

__all__ = ["Capture", "Captured", "Copy", "Request", "replica_move"]

_BEGUN = (
    "capturing",
    "copying",
    "converting",
    "available",
    "proven",
    "failed",
    "quarantined",
    "expiring",
    "deleted",
)
_LATE_TOLERANCE = timedelta(seconds=60)


def replica_move(ctx: Context, member: tuple[str, str], event: str, data: Json) -> Move:
    """The lifecycle fact of one replica of this run's point; `member` is its kind and its key."""
    kind, key = member
    facts = {"within_window": True, "replicas_checked": True}
    unless = _BEGUN[3:] if event == "complete" else _BEGUN[1:]
    return Move("replica", f"{ctx.point_id}|{kind}|{key}", event, facts, {"site": ctx.target, **data}, unless)


class PointOutput(Model):
    """The point this run makes, and its direction."""

    point: str
    source: str
    site: str


class Request(Action[Nothing, PointOutput]):
    """Ask for a point: every member must be readable on the source."""

    name = "point.request"
    summary = "ask for a recovery point, once every member was seen on the source"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    permissions = ("ec2:DescribeInstances",)
    at = ("source",)
    Input = Nothing
    Output = PointOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[PointOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[PointOutput]:
        wanted = {item.id: item.key for tier in ctx.group.tiers for item in tier.instances}
        seen: set[str] = set()
        if wanted:
            filters = [{"Name": "instance-id", "Values": sorted(wanted)}]
            seen = {item["InstanceId"] for item in instances(ctx.site("source"), filters)}
        missing = sorted(key for id_, key in wanted.items() if id_ not in seen)
        if missing:
            text = f"not found on {ctx.source}: {', '.join(missing)}; protect the group again to look for members"
            raise StepFailed(FailureClass.NOT_FOUND, text, data={"missing": missing})
        data = {"source": ctx.source, "site": ctx.target, "group": ctx.group.name}
        moves = (
            Move("point", ctx.point_id, "request", {}, data, unless=("requested", *_BEGUN)),
            Move("point", ctx.point_id, "capture", {"source_readable": True}, {}, unless=_BEGUN),
        )
        return Done(PointOutput(point=ctx.point_id, source=ctx.source, site=ctx.target), moves)

    def undo(self, given: Nothing, output: PointOutput | None) -> Call | None:
        return Call("point.close", {})


class CaptureInput(Model):
    """One member instance of a tier."""

    tier: str
    instance: str


class CaptureOutput(Model):
    """Snapshots by volume key, and the instant of the earliest (RFC 3339)."""

    snapshots: dict[str, str]
    captured_at: str


def _facts(instance: Instance, volume: Volume, snapshot: Json) -> Json:
    return {
        "instance": instance.key,
        "device": volume.device,
        "root": volume.root,
        "type": volume.type,
        "iops": volume.iops,
        "throughput": volume.throughput,
        "encrypted": bool(snapshot.get("Encrypted", volume.encrypted)),
        "kms_key": snapshot.get("KmsKeyId") or volume.kms_key,
        "delete_on_termination": volume.delete_on_termination,
        "started_at": rfc3339(moment(snapshot["StartTime"])),
    }


_TAKE = "drpilot:take"


class Capture(Action[CaptureInput, CaptureOutput]):
    """Snapshot all volumes of one instance at one instant.

    CreateSnapshots takes every attached volume, the root included, at the same instant (EC2 API reference,
    CreateSnapshots); it has no ClientToken, so it is alone in its step and found by its tags. A tier with `freeze`
    is frozen around the call.

    A cloud without CreateSnapshots (Eucalyptus) takes one volume after the other. All of one *take* belong together:
    only a freeze makes them one instant, and snapshots of a take that broke off are never mixed with those of the next:
    they are deleted before it.
    """

    name = "point.capture"
    summary = "snapshot all volumes of one instance at one instant"
    idempotency = Idempotency.OBSERVE
    effect = Effect.CREATE
    permissions = (
        "ec2:CreateSnapshots",
        "ec2:CreateSnapshot",
        "ec2:CreateTags",
        "ec2:DeleteSnapshot",
        "ec2:DescribeInstances",
        "ec2:DescribeSnapshots",
    )
    at = ("source",)
    Input = CaptureInput
    Output = CaptureOutput

    def start(self, ctx: Context, given: CaptureInput) -> Answer[CaptureOutput]:
        tier = tier_of(ctx, given.tier)
        instance = instance_of(tier, given.instance)
        if freezing.left_frozen(ctx):
            freezing.thaw_left(ctx, tier, instance)
        apart = "ec2:CreateSnapshots" not in ctx.site("source").capabilities
        if instance.volumes and not self._found(ctx, instance):
            if apart:
                self._drop(ctx)
            if (tier.freeze or apart) and self._shut_down(ctx, instance):
                freezing.at_rest(ctx)
                self._take(ctx, tier, instance)
            else:
                freezing.awake(ctx)
                with freezing.frozen(ctx, tier, instance):
                    self._take(ctx, tier, instance)
        if tier.freeze or apart:
            # What the programs said, and whether the machine was at rest, the next look knows, not one of this moment.
            return Waiting({}, after_s=0.0, note="the snapshots were asked for")
        return visible(self.observe, ctx, given)

    @staticmethod
    def _drop(ctx: Context) -> None:
        """Delete what a take of this step left that broke off: nothing will ever be made of it."""
        site = ctx.site("source")
        for item in snapshots(site, made_here(ctx)):
            try:
                site.call("ec2", "DeleteSnapshot", {"SnapshotId": item["SnapshotId"]})
            except CloudError as error:
                if not_found(error) or error.kind is FailureClass.CONFLICT:
                    continue  # gone, or still on its way: then it goes with its point
                raise

    @staticmethod
    def _shut_down(ctx: Context, instance: Instance) -> bool:
        by_id = [{"Name": "instance-id", "Values": [instance.id]}]
        return any(item["State"]["Name"] == "stopped" for item in instances(ctx.site("source"), by_id))

    @staticmethod
    def _take(ctx: Context, tier: Tier, instance: Instance) -> None:
        """Ask for the snapshots: all in one call, or one call a volume, data before the root."""
        site = ctx.site("source")
        tags = ctx.tags(point=ctx.point_id, tier=tier.name, member=instance.key)
        params: Json = {
            "Description": f"drpilot:{ctx.name}/{ctx.path}",
            "TagSpecifications": [specification("snapshot", tags | {_TAKE: f"{ctx.clock.now():%H%M%S%f}"})],
        }
        if "ec2:CreateSnapshots" in site.capabilities:
            params["InstanceSpecification"] = {"InstanceId": instance.id, "ExcludeBootVolume": False}
            site.call("ec2", "CreateSnapshots", params)
            return
        for volume in sorted(instance.volumes, key=lambda volume: volume.root):
            site.call("ec2", "CreateSnapshot", {**params, "VolumeId": volume.id})

    @staticmethod
    def _found(ctx: Context, instance: Instance) -> dict[str, Json]:
        """The snapshots of the newest whole take, by volume; empty where none is whole."""
        takes: dict[str, dict[str, Json]] = {}
        for item in snapshots(ctx.site("source"), made_here(ctx)):
            if item["State"] != "error":
                takes.setdefault(tags_of(item).get(_TAKE, ""), {})[item["VolumeId"]] = item
        wanted = {volume.id for volume in instance.volumes}
        whole = [found for found in takes.values() if wanted <= set(found)]
        return max(
            whole, key=lambda found: max(moment(item["StartTime"]) for item in found.values()), default={}
        )

    def observe(self, ctx: Context, given: CaptureInput) -> Answer[CaptureOutput]:
        tier = tier_of(ctx, given.tier)
        instance = instance_of(tier, given.instance)
        if not instance.volumes:
            return Done(CaptureOutput(snapshots={}, captured_at=rfc3339(ctx.intended_at)))
        if freezing.left_frozen(ctx):
            return Unseen(True, f"{instance.key} may still be frozen")
        found = self._found(ctx, instance)
        if not found:
            every = snapshots(ctx.site("source"), made_here(ctx))
            if any(
                tags_of(item).get("drpilot:attempt") == ctx.token and item["State"] == "error"
                for item in every
            ):
                raise StepFailed(FailureClass.TRANSIENT, f"snapshots of {instance.key} ended in state error")
            seen = {item["VolumeId"] for item in every}
            lacking = [volume.device for volume in instance.volumes if volume.id not in seen] or [
                "all of one take"
            ]
            return Unseen(False, f"no snapshot of {instance.key} {', '.join(lacking)} with this step's tags")
        if any(item["State"] != "completed" for item in found.values()):
            return Waiting({}, after_s=5.0, progress=_progress(list(found.values())))
        moves, ids, times = [], {}, []
        for volume in instance.volumes:
            snapshot = found[volume.id]
            ids[volume.key] = snapshot["SnapshotId"]
            times.append(moment(snapshot["StartTime"]))
            data = {
                "tier": tier.name,
                "source_id": snapshot["SnapshotId"],
                "id": "",
                "size_gib": int(snapshot["VolumeSize"]),
                "facts": _facts(instance, volume, snapshot)
                | {"consistency": self._consistency(ctx, tier, instance)},
            }
            moves.append(replica_move(ctx, ("snapshot", volume.key), "captured", data))
        output = CaptureOutput(snapshots=ids, captured_at=rfc3339(min(times)))
        return Done(output, tuple(moves), warning=self._warning(ctx, tier, instance, found))

    @staticmethod
    def _consistency(ctx: Context, tier: Tier, instance: Instance) -> str:
        """`application` under a freeze that held; `crash` where all volumes were taken at one instant; else `volume`:
        each volume is as after a power cut, but not all of them at the same moment.
        """
        kind = freezing.consistency(ctx, tier)
        apart = len(instance.volumes) > 1 and "ec2:CreateSnapshots" not in ctx.site("source").capabilities
        return "volume" if kind == "crash" and apart else kind

    def _warning(self, ctx: Context, tier: Tier, instance: Instance, found: dict[str, Any]) -> str:
        known = {volume.id for volume in instance.volumes}
        said = [freezing.said(ctx)] if freezing.said(ctx) else []
        if set(found) - known:
            said.append(f"{instance.key} has volumes the group does not know; replicate again to carry them")
        if self._consistency(ctx, tier, instance) == "volume":
            said.append(
                f"{ctx.source} takes the volumes of {instance.key} one after the other: give tier {tier.name} `freeze`"
            )
        return "; ".join(said)


def _progress(found: list[Json]) -> float:
    parts = [float(str(item.get("Progress") or "0%").rstrip("%") or 0) / 100 for item in found]
    return sum(parts) / len(parts) if parts else 0.0


class CapturedInput(Model):
    """`after` (RFC 3339): the point must be captured after this instant and with every writer still
    stopped.
    """

    after: str | None = None


class CapturedOutput(Model):
    """The point's instant and the spread of its snapshots in seconds; `proof` says why nothing was lost."""

    captured_at: str
    window_s: float
    proof: dict[str, str] = Field(default_factory=dict)


class Captured(Action[CapturedInput, CapturedOutput]):
    """Close the capture: all members within the consistency window.

    The point's instant is that of its *earliest* snapshot. The window may be a quarter of the RPO, at
    least a minute.
    """

    name = "point.captured"
    summary = "check that all members were captured within the consistency window"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    permissions = ("ec2:DescribeInstances",)
    at = ("source",)
    Input = CapturedInput
    Output = CapturedOutput

    def start(self, ctx: Context, given: CapturedInput) -> Answer[CapturedOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: CapturedInput) -> Answer[CapturedOutput]:
        point = ctx.point(ctx.point_id)
        have = {replica.member: replica for replica in point.replicas if replica.kind == "snapshot"}
        volumes = [volume for tier in ctx.group.tiers for item in tier.instances for volume in item.volumes]
        missing = [volume.key for volume in volumes if volume.key not in have]
        if missing:
            raise StepFailed(FailureClass.PRECONDITION, f"not captured: {', '.join(missing)}")
        times = [parse_time(have[volume.key].facts["started_at"]) for volume in volumes] or [
            point.requested_at
        ]
        window_s = (max(times) - min(times)).total_seconds()
        allowed_s = max(60.0, ctx.group.objectives.rpo_s / 4)
        if window_s > allowed_s:
            text = f"the snapshots lie {window_s:.0f} s apart, {allowed_s:.0f} s are allowed"
            raise StepFailed(FailureClass.PRECONDITION, text, data={"window_s": window_s})
        proof = self._proof(ctx, given.after, rfc3339(min(times))) if given.after else {}
        move = Move(
            "point",
            ctx.point_id,
            "captured",
            {"within_window": True},
            {"captured_at": rfc3339(min(times)), "window_s": window_s, **({"proof": proof} if proof else {})},
            unless=_BEGUN[1:],
        )
        return Done(CapturedOutput(captured_at=rfc3339(min(times)), window_s=window_s, proof=proof), (move,))

    @staticmethod
    def _proof(ctx: Context, after: str, captured_at: str) -> dict[str, str]:
        if parse_time(captured_at) + _LATE_TOLERANCE < parse_time(after):
            text = f"the last point was captured at {captured_at}, before the writers stopped at {after}"
            raise StepFailed(FailureClass.PRECONDITION, text)
        left = writers(ctx, ctx.site("source"), ctx.group.tiers)
        if left:
            text = f"{', '.join(left)} on {ctx.source} may write again: the last point is not the last word"
            raise StepFailed(FailureClass.PRECONDITION, text, data={"writers": left})
        return {"writers_stopped_at": after, "captured_at": captured_at, "writers_left": "0"}


class CopyInput(Model):
    """One volume of a tier, by its key."""

    tier: str
    member: str


class CopyOutput(Model):
    """The copy on the target."""

    snapshot: str
    source_snapshot: str
    size_gib: int


class Copy(Action[CopyInput, CopyOutput]):
    """Copy one snapshot to the target.

    CopySnapshot is called on the destination with the source's region; it has no ClientToken, so it is
    found by its tags (EC2 API reference, CopySnapshot). An encrypted snapshot is copied under the
    target's key.
    """

    name = "point.copy"
    summary = "copy one snapshot to the target"
    idempotency = Idempotency.OBSERVE
    effect = Effect.CREATE
    permissions = ("ec2:CopySnapshot", "ec2:CreateTags", "ec2:DescribeSnapshots", "kms:CreateGrant")
    at = ("target",)
    slot = "copy-snapshot"
    Input = CopyInput
    Output = CopyOutput

    def start(self, ctx: Context, given: CopyInput) -> Answer[CopyOutput]:
        target = ctx.site("target")
        found = [item for item in snapshots(target, made_here(ctx)) if item["State"] != "error"]
        if not found:
            replica = self._replica(ctx, given)
            params: Json = {
                "SourceRegion": ctx.site("source").region,
                "SourceSnapshotId": replica.source_id,
                "Description": f"drpilot:{ctx.name}/{ctx.path}",
                "TagSpecifications": [
                    specification(
                        "snapshot", ctx.tags(point=ctx.point_id, tier=given.tier, member=given.member)
                    )
                ],
            }
            if replica.facts.get("encrypted"):
                params["Encrypted"] = True
                key = kms_key(ctx, replica.facts.get("kms_key"))
                if key:
                    params["KmsKeyId"] = key
            target.call("ec2", "CopySnapshot", params)
        return visible(self.observe, ctx, given)

    @staticmethod
    def _replica(ctx: Context, given: CopyInput) -> Replica:
        try:
            return ctx.point(ctx.point_id).replica(given.member, "snapshot")
        except KeyError:
            raise StepFailed(FailureClass.PRECONDITION, f"{given.member} was not captured") from None

    def observe(self, ctx: Context, given: CopyInput) -> Answer[CopyOutput]:
        replica = self._replica(ctx, given)
        every = snapshots(ctx.site("target"), made_here(ctx))
        found = [item for item in every if item["State"] != "error"]
        if not found:
            if any(tags_of(item).get("drpilot:attempt") == ctx.token for item in every):
                why = every[0].get("StateMessage") or "state error"
                raise StepFailed(FailureClass.TRANSIENT, f"the copy of {replica.source_id} failed: {why}")
            return Unseen(False, f"no copy of {replica.source_id} with this step's tags on {ctx.target}")
        copy = found[0]
        if copy["State"] != "completed":
            return Waiting({"snapshot": copy["SnapshotId"]}, after_s=10.0, progress=_progress([copy]))
        if int(copy["VolumeSize"]) != replica.size_gib:
            text = f"{copy['SnapshotId']} has {copy['VolumeSize']} GiB, the source has {replica.size_gib}"
            raise StepFailed(FailureClass.PRECONDITION, text)
        data = {
            "tier": given.tier,
            "source_id": replica.source_id,
            "id": copy["SnapshotId"],
            "size_gib": replica.size_gib,
            "facts": dict(replica.facts),
        }
        output = CopyOutput(
            snapshot=copy["SnapshotId"], source_snapshot=replica.source_id, size_gib=replica.size_gib
        )
        return Done(output, (replica_move(ctx, ("snapshot", given.member), "complete", data),))
