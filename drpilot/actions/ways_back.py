"""Taking a promotion's volumes back, so that the standby is whole again and nothing is left over.

One action for the way back of each step forward, in the reverse order: `standby.retreat` stops the machines,
`standby.unload` takes the restored volumes off, `standby.reload` puts the standby's own back at their devices,
`standby.stand_by` deletes the restored ones and gives the standby its waiting size. Everything is found by the
run's own tags, so that a step that failed half way is taken back as well as one that ended.
"""

from __future__ import annotations

from drpilot.actions.carry import group_ids, rest_type
from drpilot.actions.members import group_view, site_name, tier_of
from drpilot.actions.placing import regrouped
from drpilot.actions.restore import (
    STOOD_AT,
    TierInput,
    VolumesOutput,
    at_rest,
    restored_here,
    standbys,
)
from drpilot.actions.views import not_found, tagged, tags_of, visible, volumes
from drpilot.domain.group import Tier
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
    Move,
    StepFailed,
    Unseen,
    Waiting,
)

__all__ = ["Reload", "StandBy", "Unload"]


def _attached(ctx: Context, tier: Tier) -> dict[str, Json]:
    """Restored volumes that are still somewhere: volume id → where."""
    found = restored_here(ctx, tier).values()
    return {item["VolumeId"]: item["Attachments"][0] for item in found if item.get("Attachments")}


def taken_off(ctx: Context, tier: Tier) -> list[str]:
    """Send every restored volume on its way off the resting standby; gives those that are still on it."""
    on = _attached(ctx, tier)
    for id_, place in on.items():
        if place["State"] == "attached":
            where = {"VolumeId": id_, "InstanceId": place["InstanceId"]}
            ctx.site("target").call("ec2", "DetachVolume", where)
    return sorted(on)


class Unload(Action[TierInput, VolumesOutput]):
    """Take the volumes that this run restored off the stopped standby; they are not deleted yet."""

    name = "standby.unload"
    summary = "take the volumes of a promotion off the stopped standby"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    protects = True
    permissions = ("ec2:DetachVolume", "ec2:DescribeInstances", "ec2:DescribeVolumes")
    Input = TierInput
    Output = VolumesOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[VolumesOutput]:
        tier = tier_of(ctx, given.tier)
        if _attached(ctx, tier):
            for instance in standbys(ctx, tier).values():
                at_rest(instance)
        taken_off(ctx, tier)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: TierInput) -> Answer[VolumesOutput]:
        tier = tier_of(ctx, given.tier)
        on = _attached(ctx, tier)
        states = {place["State"] for place in on.values()}
        if states == {"attached"}:  # one that was being attached has come to rest, and can be taken off now
            raise StepFailed(FailureClass.TRANSIENT, f"{', '.join(sorted(on))} are still attached")
        if on:
            return Waiting({}, after_s=2.0, note=f"{len(on)} volumes are {', '.join(sorted(states))}")
        ids = {key: item["VolumeId"] for key, item in restored_here(ctx, tier).items()}
        return Done(VolumesOutput(tier=tier.name, volumes=ids))


class Reload(Action[TierInput, VolumesOutput]):
    """Put the volumes that this run took off the standby back where they stood, and unmark them.

    A restored volume that stands in the way comes off first: a look that was behind may have said that nothing was
    attached, and then no undo of the attaching went before this.
    """

    name = "standby.reload"
    summary = "put the standby's own volumes back at their devices"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    protects = True
    permissions = (
        "ec2:AttachVolume",
        "ec2:DetachVolume",
        "ec2:ModifyInstanceAttribute",
        "ec2:CreateTags",
        "ec2:DeleteTags",
        "ec2:DescribeInstances",
        "ec2:DescribeVolumes",
    )
    Input = TierInput
    Output = VolumesOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[VolumesOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        standing = standbys(ctx, tier)
        own = {  # one that is still on its way off comes next time
            id_: found
            for id_, found in self._own(ctx, tier).items()
            if (found[0].get("Attachments") or [{}])[0].get("State") != "detaching"
        }
        if any(item["State"] == "available" for item, _ in own.values()):
            for instance in standing.values():
                at_rest(instance)
            in_the_way = taken_off(ctx, tier)
            if in_the_way:
                return Waiting({}, after_s=2.0, note=f"{', '.join(in_the_way)} must come off first")
        kept: dict[str, list[Json]] = {}
        for id_, (volume, place) in own.items():
            if volume["State"] == "available":
                where = {"InstanceId": place["InstanceId"], "Device": place["Device"]}
                site.call("ec2", "AttachVolume", {"VolumeId": id_, **where})
            ebs = {"DeleteOnTermination": place["DeleteOnTermination"]}
            kept.setdefault(place["InstanceId"], []).append({"DeviceName": place["Device"], "Ebs": ebs})
        for id_, mappings in kept.items():
            params: Json = {"InstanceId": id_, "BlockDeviceMappings": mappings}
            site.call("ec2", "ModifyInstanceAttribute", params)
        marked = [id_ for id_, (volume, _) in own.items() if "drpilot:superseded" in tags_of(volume)]
        if marked:
            mark: Json = {"Key": "drpilot:superseded"}
            site.call("ec2", "DeleteTags", {"Resources": marked, "Tags": [mark]})
        return visible(self.observe, ctx, given)

    @staticmethod
    def _own(ctx: Context, tier: Tier) -> dict[str, tuple[Json, Json]]:
        """What this run took off the tier's standby: volume id → the volume, and where it stood."""
        instances = {item["InstanceId"] for item in standbys(ctx, tier).values()}
        filters: list[Json] = [*tagged(group=ctx.group.name), {"Name": "tag-key", "Values": [STOOD_AT]}]
        found = {}
        for volume in volumes(ctx.site("target"), filters):
            run, instance, device, deleted = tags_of(volume)[STOOD_AT].split(" ")
            if run == ctx.run and instance in instances:
                place = {
                    "InstanceId": instance,
                    "Device": device,
                    "DeleteOnTermination": deleted == "true",
                }
                found[volume["VolumeId"]] = (volume, place)
        return found

    def observe(self, ctx: Context, given: TierInput) -> Answer[VolumesOutput]:
        tier = tier_of(ctx, given.tier)
        own = self._own(ctx, tier)
        for id_, (volume, place) in own.items():
            there = (volume.get("Attachments") or [{}])[0]
            if there.get("State") == "detaching":  # its way off had not ended when this began
                return Waiting({}, after_s=2.0, note=f"{id_} is still being detached")
            if volume["State"] == "available":
                raise StepFailed(FailureClass.TRANSIENT, f"{id_} is not back at {place['Device']}")
            if (there.get("InstanceId"), there.get("Device")) != (place["InstanceId"], place["Device"]):
                raise StepFailed(FailureClass.CONFLICT, f"{id_} is {volume['State']} somewhere else")
            if there["State"] != "attached":
                return Waiting({}, after_s=2.0, note=f"{id_} is {there['State']}")
            if "drpilot:superseded" in tags_of(volume):
                return Unseen(True, f"{id_} is still marked as superseded")
        return Done(
            VolumesOutput(tier=tier.name, volumes={place["Device"]: id_ for id_, (_, place) in own.items()})
        )


class StandBy(Action[TierInput, VolumesOutput]):
    """The end of the way back: waiting size, the restored volumes deleted, the standby ready again.

    Only volumes that this run itself made and that are attached to nothing are deleted; their data is in the
    point they came from.
    """

    name = "standby.stand_by"
    summary = "make the standby of a tier whole again after a promotion that was taken back"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    protects = True
    permissions = (
        "ec2:DeleteVolume",
        "ec2:ModifyInstanceAttribute",
        "ec2:DescribeInstances",
        "ec2:DescribeVolumes",
        "ec2:DescribeSecurityGroups",
        "autoscaling:DescribeAutoScalingGroups",
    )
    Input = TierInput
    Output = VolumesOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[VolumesOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        standing = standbys(ctx, tier)
        wanted = []
        for instance in tier.instances:
            there = standing[instance.key]
            at_rest(there)
            groups = group_ids(ctx, site, instance.security_groups, there.get("VpcId") or "")
            wanted.append((there, rest_type(ctx, tier, instance), groups))
        for there, type_, groups in wanted:
            id_ = there["InstanceId"]
            if there["InstanceType"] != type_:
                change: Json = {"InstanceId": id_, "InstanceType": {"Value": type_}}
                site.call("ec2", "ModifyInstanceAttribute", change)
            if regrouped(there, groups):
                site.call("ec2", "ModifyInstanceAttribute", {"InstanceId": id_, "Groups": groups})
        for volume in restored_here(ctx, tier).values():
            if volume["State"] == "available":
                try:
                    site.call("ec2", "DeleteVolume", {"VolumeId": volume["VolumeId"]})
                except CloudError as error:
                    if not not_found(error):
                        raise
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: TierInput) -> Answer[VolumesOutput]:
        tier, name = tier_of(ctx, given.tier), site_name(ctx, "target")
        if tier.scaling_group is not None:
            group = group_view(ctx.site("target"), tier.scaling_group.key)
            if group is not None and not group.at_rest:
                raise StepFailed(FailureClass.CONFLICT, f"group {group.name} on {name} is not at 0")
        standing = standbys(ctx, tier)
        for instance in tier.instances:
            there = standing[instance.key]
            at_rest(there)
            if there["InstanceType"] != rest_type(ctx, tier, instance):
                return Unseen(True, f"{there['InstanceId']} is still {there['InstanceType']}")
        left = restored_here(ctx, tier)
        if any(item["State"] == "available" for item in left.values()):
            text = f"{', '.join(item['VolumeId'] for item in left.values())} still stand"
            raise StepFailed(FailureClass.TRANSIENT, text)
        if left:
            states = sorted({str(item["State"]) for item in left.values()})
            return Waiting({}, after_s=2.0, note=f"{len(left)} restored volumes are {', '.join(states)}")
        return Done(VolumesOutput(tier=tier.name), self._moves(ctx, tier, name))

    @staticmethod
    def _moves(ctx: Context, tier: Tier, name: str) -> tuple[Move, ...]:
        """Lead the standby back to `ready`; one that was verified is demoted, since the old side is to be
        active.
        """
        key, state = f"{tier.name}@{name}", ctx.standby(tier.name, name).state
        demoted = Move("standby", key, "demoted", {"observed": True})
        by_state = {
            "promoting": (Move("standby", key, "roll back"),),
            "active": (Move("standby", key, "demote", {"superseded": True}), demoted),
            "demoting": (demoted,),
        }
        return by_state.get(state, ())
