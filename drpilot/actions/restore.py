"""Giving a point's data to the standby: new volumes from its snapshots, the old ones off, the new ones
on.

The standby's earlier volumes are only detached and marked `drpilot:superseded`; they are deleted after
the commit.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from drpilot.actions import scaling
from drpilot.actions.carry import volume_settings
from drpilot.actions.members import member, scaling_of, tier_of
from drpilot.actions.unmarked import Trace, Wanted, trace
from drpilot.actions.views import (
    GONE_VOLUME,
    made_here,
    specification,
    tag_list,
    tagged,
    tags_of,
    visible,
    volumes,
)
from drpilot.domain.group import Tier
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

__all__ = [
    "STOOD_AT",
    "Attach",
    "Detach",
    "Restore",
    "Shed",
    "TierInput",
    "VolumesOutput",
    "at_rest",
    "restored_here",
    "standbys",
]

STOOD_AT = "drpilot:stood-at"
"""Tag of a volume that was taken off: run, instance, device and DeleteOnTermination, so that it can come back."""

_RECORDED = ("fenced", "partial", "unverified")


def _replicas(ctx: Context, tier: Tier, point: str) -> dict[str, Replica]:
    """The snapshots of `point` that belong to the tier, by volume key."""
    found = ctx.point(point).replicas
    return {item.member: item for item in found if item.kind == "snapshot" and item.tier == tier.name}


def standbys(ctx: Context, tier: Tier) -> dict[str, Json]:
    """The tier's instances on the target by member key; StepFailed (not found) where one is missing."""
    site = ctx.site("target")
    found = {}
    for instance in tier.instances:
        there = member(ctx, site, tier, instance.key)
        if there is None:
            raise StepFailed(FailureClass.NOT_FOUND, f"there is no standby of {instance.key} on {ctx.target}")
        found[instance.key] = there
    return found


def at_rest(instance: Json) -> None:
    """StepFailed (conflict) unless the instance is stopped: volumes can only be exchanged then."""
    state = instance["State"]["Name"]
    if state != "stopped":
        text = f"{instance['InstanceId']} is {state}; its volumes can only be exchanged while it is stopped"
        raise StepFailed(FailureClass.CONFLICT, text)


def _device(replica: Replica, instance: Json) -> str:
    """The device of a volume on its instance; the root's is the instance's own."""
    return str(instance["RootDeviceName"] if replica.facts.get("root") else replica.facts["device"])


def _attached(instance: Json) -> dict[str, Json]:
    """Block devices of an instance: device → Ebs part."""
    return {
        item["DeviceName"]: item["Ebs"]
        for item in instance.get("BlockDeviceMappings") or []
        if item.get("Ebs")
    }


def restored_here(ctx: Context, tier: Tier) -> dict[str, Json]:
    """The volumes this run restored for the tier, by volume key."""
    filters = [{"Name": "tag:drpilot:run", "Values": [ctx.tags()["drpilot:run"]]}]
    found = volumes(ctx.site("target"), [*filters, *tagged(tier=tier.name, restored="")])
    return {tags_of(item)["drpilot:member"]: item for item in found if item["State"] not in GONE_VOLUME}


class RestoreInput(Model):
    """One tier and the point to go back to."""

    tier: str
    point: str


class VolumesOutput(Model):
    """Volume ids by volume key."""

    tier: str
    volumes: dict[str, str] = Field(default_factory=dict)


class Restore(Action[RestoreInput, VolumesOutput]):
    """Create the tier's volumes from the point, in the zone of its standby.

    CreateVolume takes a ClientToken; each volume has its own. Where it takes none and no tags either, what a lost
    reply has made is known by what was asked for (unmarked.py). Type, IOPS, throughput and encryption are
    carried. A scaling tier gets the point's image into its launch template instead. The standby is
    promoted from here on, which the lifecycle allows only under a recorded fence verdict.
    """

    name = "point.restore"
    summary = "create a tier's volumes on the target from the point"
    idempotency = Idempotency.TOKEN
    effect = Effect.CREATE
    protects = True
    permissions = (
        "ec2:CreateVolume",
        "ec2:CreateTags",
        "ec2:DescribeVolumes",
        "ec2:DescribeInstances",
        "ec2:CreateLaunchTemplateVersion",
        "ec2:DescribeLaunchTemplateVersions",
        "autoscaling:UpdateAutoScalingGroup",
        "kms:CreateGrant",
    )
    Input = RestoreInput
    Output = VolumesOutput

    def start(self, ctx: Context, given: RestoreInput) -> Answer[VolumesOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        self._recorded(ctx)
        if tier.scaling_group is not None:
            image = self._image(ctx, tier, given.point)
            scaling.mappable(ctx, tier, image)
            scaling.build_template(ctx, tier, image)
            scaling.build_group(ctx, tier, image)
            return visible(self.observe, ctx, given)
        made = self._made(ctx)
        for key, replica, zone in self._wanted(ctx, tier, given.point):
            if key in made:
                continue
            tags = ctx.tags(tier=tier.name, member=key, point=given.point, restored=given.point)
            lost = self._trace(ctx, replica, zone)
            if lost is not None and lost.kind == "made":
                site.call("ec2", "CreateTags", {"Resources": list(lost.ids), "Tags": tag_list(tags)})
                continue
            params: Json = {
                "SnapshotId": replica.id,
                "AvailabilityZone": zone,
                "Size": replica.size_gib,
                **volume_settings(site, replica.facts),
                "TagSpecifications": [specification("volume", tags)],
            }
            site.call("ec2", "CreateVolume", params, token=ctx.sub(key))
        return visible(self.observe, ctx, given)

    @staticmethod
    def _wanted(ctx: Context, tier: Tier, point: str) -> list[tuple[str, Replica, str]]:
        """Volume key, its snapshot's replica, and the zone of the standby it is for."""
        standing = standbys(ctx, tier)
        found = []
        for key, replica in _replicas(ctx, tier, point).items():
            instance = standing.get(str(replica.facts["instance"]))
            if instance is not None:
                found.append((key, replica, str(instance["Placement"]["AvailabilityZone"])))
        return found

    @staticmethod
    def _trace(ctx: Context, replica: Replica, zone: str) -> Trace | None:
        """What became of a call that left no mark; None where the cloud knows the token of CreateVolume.

        StepFailed (conflict) where several volumes could be the one.
        """
        site = ctx.site("target")
        if "ec2:CreateVolume:token" in site.capabilities:
            return None
        wanted = Wanted(replica.id, replica.size_gib, zone, ctx.intended_at)
        listed = volumes(site, [{"Name": "snapshot-id", "Values": [replica.id]}])
        found = trace(listed, wanted, ctx.clock.now())
        if found.kind == "ambiguous":
            text = f"any of {', '.join(found.ids)} may be this step's volume of {replica.id}"
            hint = "delete those nobody needs, or tag the right one, then retry"
            raise StepFailed(FailureClass.CONFLICT, f"{text}: {hint}", data={"volumes": list(found.ids)})
        return found

    def _settled(self, ctx: Context, tier: Tier, point: str, missing: list[str]) -> None:
        """CloudError (transient) while a volume without a mark may be on its way: nothing is repeated before."""
        for key, replica, zone in self._wanted(ctx, tier, point):
            found = self._trace(ctx, replica, zone) if key in missing else None
            if found is not None and found.kind == "unsettled":
                raise CloudError(
                    FailureClass.TRANSIENT,
                    "NotSettled",
                    f"whether a volume of {replica.id} is being made can't be told yet",
                    happened="unknown",
                    site=ctx.target,
                    operation="ec2:DescribeVolumes",
                )

    @staticmethod
    def _recorded(ctx: Context) -> None:
        state = ctx.fenced(ctx.source)
        if state not in _RECORDED:
            text = f"{ctx.source} has no recorded fence verdict ({state}); nothing is promoted before"
            raise StepFailed(FailureClass.PRECONDITION, text)

    @staticmethod
    def _image(ctx: Context, tier: Tier, point: str) -> str:
        key = scaling_of(tier).key
        try:
            return ctx.point(point).replica(key, "image").id
        except KeyError:
            text = f"point {point} has no image of {key}"
            raise StepFailed(FailureClass.PRECONDITION, text) from None

    @staticmethod
    def _made(ctx: Context) -> dict[str, Json]:
        found = volumes(ctx.site("target"), made_here(ctx))
        return {tags_of(item)["drpilot:member"]: item for item in found if item["State"] not in GONE_VOLUME}

    def observe(self, ctx: Context, given: RestoreInput) -> Answer[VolumesOutput]:
        tier = tier_of(ctx, given.tier)
        ids: dict[str, str] = {}
        if tier.scaling_group is not None:
            if scaling.facts_of(ctx, tier, self._image(ctx, tier, given.point)) is None:
                return Unseen(True, f"{tier.scaling_group.key} does not launch the point's image yet")
        else:
            made, wanted = self._made(ctx), _replicas(ctx, tier, given.point)
            missing = [key for key in wanted if key not in made]
            if missing:
                self._settled(ctx, tier, given.point, missing)
                return Unseen(True, f"no volume for {', '.join(missing)} with this step's tags")
            if any(made[key]["State"] == "creating" for key in wanted):
                done = sum(made[key]["State"] != "creating" for key in wanted)
                return Waiting({}, after_s=3.0, progress=done / len(wanted))
            ids = {key: made[key]["VolumeId"] for key in wanted}
        move = Move(
            "standby",
            f"{tier.name}@{ctx.target}",
            "promote",
            {"fence_recorded": ctx.fenced(ctx.source) in _RECORDED},
            {"point": given.point},
            unless=("promoting", "active"),
        )
        return Done(VolumesOutput(tier=tier.name, volumes=ids), (move,))

    def undo(self, given: RestoreInput, output: VolumesOutput | None) -> Call | None:
        return Call("standby.stand_by", {"tier": given.tier})


class TierInput(Model):
    """One tier."""

    tier: str


class Detach(Action[TierInput, VolumesOutput]):
    """Take the standby's earlier volumes off the devices that the restored ones will have.

    They are marked `drpilot:superseded` first and kept. The instance must be stopped: a root volume can't
    be taken from a running one (EC2 user guide, "Replace the root volume").
    """

    name = "standby.detach"
    summary = "take the earlier volumes off the stopped standby; they are kept"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    permissions = ("ec2:DetachVolume", "ec2:CreateTags", "ec2:DescribeInstances", "ec2:DescribeVolumes")
    Input = TierInput
    Output = VolumesOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[VolumesOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        in_the_way = self._old(ctx, tier)
        for old in in_the_way.values():
            at_rest(old)
        for id_, old in in_the_way.items():
            place = f"{ctx.run} {old['InstanceId']} {old['Device']} {str(old['DeleteOnTermination']).lower()}"
            marks = [
                {"Key": "drpilot:group", "Value": ctx.group.name},
                {"Key": "drpilot:superseded", "Value": ctx.name},
                {"Key": STOOD_AT, "Value": place},
            ]
            site.call("ec2", "CreateTags", {"Resources": [id_], "Tags": marks})
            if old["Status"] == "attached":
                site.call("ec2", "DetachVolume", {"VolumeId": id_, "InstanceId": old["InstanceId"]})
        return visible(self.observe, ctx, given)

    @staticmethod
    def _old(ctx: Context, tier: Tier) -> dict[str, Json]:
        """Volumes in the way: volume id → where it is attached, with the instance's state."""
        restored = restored_here(ctx, tier)
        ours = {item["VolumeId"] for item in restored.values()}
        replicas = (
            _replicas(ctx, tier, tags_of(next(iter(restored.values())))["drpilot:point"]) if restored else {}
        )
        found: dict[str, Json] = {}
        for key, instance in standbys(ctx, tier).items():
            devices = {_device(item, instance) for item in replicas.values() if item.facts["instance"] == key}
            for device, ebs in _attached(instance).items():
                if device in devices and ebs["VolumeId"] not in ours:
                    found[ebs["VolumeId"]] = {
                        "InstanceId": instance["InstanceId"],
                        "State": instance["State"],
                        "Status": ebs["Status"],
                        "Device": device,
                        "DeleteOnTermination": bool(ebs.get("DeleteOnTermination")),
                    }
        return found

    def observe(self, ctx: Context, given: TierInput) -> Answer[VolumesOutput]:
        tier = tier_of(ctx, given.tier)
        old = self._old(ctx, tier)
        if any(item["Status"] == "detaching" for item in old.values()):
            return Waiting({}, after_s=2.0, note=f"{len(old)} volumes are being detached")
        if old:
            return Unseen(True, f"{', '.join(sorted(old))} are still attached")
        filters = [{"Name": "tag:drpilot:superseded", "Values": [ctx.name]}, *tagged(group=ctx.group.name)]
        gone = volumes(ctx.site("target"), filters)
        return Done(VolumesOutput(tier=tier.name, volumes={item["VolumeId"]: item["State"] for item in gone}))

    def undo(self, given: TierInput, output: VolumesOutput | None) -> Call | None:
        return Call("standby.reload", {"tier": given.tier})


class Shed(Action[TierInput, VolumesOutput]):
    """Take the data volumes that an earlier move restored off a standby that waits again.

    The next move brings its own from a newer point, so these only cost money. They are marked
    `drpilot:superseded` and deleted after the reverse point is complete. The root stays, and so do volumes that
    are not of our making.
    """

    name = "standby.shed"
    summary = "take the data volumes of an earlier move off a waiting standby"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    permissions = ("ec2:DetachVolume", "ec2:CreateTags", "ec2:DescribeInstances", "ec2:DescribeVolumes")
    Input = TierInput
    Output = VolumesOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[VolumesOutput]:
        site = ctx.site("target")
        for volume in self._surplus(ctx, tier_of(ctx, given.tier)):
            id_, place = volume["VolumeId"], volume["Attachments"][0]
            marks = [{"Key": "drpilot:superseded", "Value": ctx.name}]
            site.call("ec2", "CreateTags", {"Resources": [id_], "Tags": marks})
            if place["State"] == "attached":
                site.call("ec2", "DetachVolume", {"VolumeId": id_, "InstanceId": place["InstanceId"]})
        return visible(self.observe, ctx, given)

    @staticmethod
    def _surplus(ctx: Context, tier: Tier) -> list[Json]:
        standing = {item["InstanceId"]: item for item in standbys(ctx, tier).values()}
        if not standing:
            return []
        filters: list[Json] = [{"Name": "attachment.instance-id", "Values": sorted(standing)}]
        found = volumes(
            ctx.site("target"), [*filters, *tagged(group=ctx.group.name, tier=tier.name, restored="")]
        )
        return [item for item in found if item.get("Attachments") and not _is_root(item, standing)]

    def observe(self, ctx: Context, given: TierInput) -> Answer[VolumesOutput]:
        left = self._surplus(ctx, tier_of(ctx, given.tier))
        if any(item["Attachments"][0]["State"] == "detaching" for item in left):
            return Waiting({}, after_s=2.0, note=f"{len(left)} volumes are being detached")
        if left:
            return Unseen(True, f"{len(left)} volumes of an earlier move are still attached")
        return Done(VolumesOutput(tier=given.tier))


def _is_root(volume: Json, standing: Mapping[str, Json]) -> bool:
    place = volume["Attachments"][0]
    return bool(place["Device"] == standing[place["InstanceId"]]["RootDeviceName"])


class Attach(Action[TierInput, VolumesOutput]):
    """Attach the restored volumes at their devices and carry DeleteOnTermination."""

    name = "standby.attach"
    summary = "attach the restored volumes to the standby at their devices"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    permissions = (
        "ec2:AttachVolume",
        "ec2:ModifyInstanceAttribute",
        "ec2:DescribeInstances",
        "ec2:DescribeVolumes",
    )
    Input = TierInput
    Output = VolumesOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[VolumesOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        restored, standing = self._restored(ctx, tier), standbys(ctx, tier)
        kept: dict[str, list[Json]] = {}
        for key, replica in self._point(ctx, tier, restored).items():
            instance, volume = standing[str(replica.facts["instance"])], restored[key]
            device = _device(replica, instance)
            if volume["State"] == "available":
                params = {
                    "VolumeId": volume["VolumeId"],
                    "InstanceId": instance["InstanceId"],
                    "Device": device,
                }
                site.call("ec2", "AttachVolume", params)
            keep = bool(replica.facts.get("delete_on_termination"))
            mapping: Json = {"DeviceName": device, "Ebs": {"DeleteOnTermination": keep}}
            kept.setdefault(instance["InstanceId"], []).append(mapping)
        for id_, mappings in kept.items():
            params = {"InstanceId": id_, "BlockDeviceMappings": mappings}
            site.call("ec2", "ModifyInstanceAttribute", params)
        return visible(self.observe, ctx, given)

    @staticmethod
    def _restored(ctx: Context, tier: Tier) -> dict[str, Json]:
        restored = restored_here(ctx, tier)
        if not restored and tier.instances:
            raise StepFailed(
                FailureClass.PRECONDITION, f"no volume of tier {tier.name} was restored in this run"
            )
        return restored

    @staticmethod
    def _point(ctx: Context, tier: Tier, restored: Mapping[str, Json]) -> dict[str, Replica]:
        points = {tags_of(item)["drpilot:point"] for item in restored.values()}
        if not points:
            return {}
        found = _replicas(ctx, tier, max(points))
        return {key: replica for key, replica in found.items() if key in restored}

    def observe(self, ctx: Context, given: TierInput) -> Answer[VolumesOutput]:
        tier = tier_of(ctx, given.tier)
        restored, standing = self._restored(ctx, tier), standbys(ctx, tier)
        ids: dict[str, str] = {}
        for key, replica in self._point(ctx, tier, restored).items():
            instance, volume = standing[str(replica.facts["instance"])], restored[key]
            there = _attached(instance).get(_device(replica, instance))
            if there is None or there["VolumeId"] != volume["VolumeId"]:
                return Unseen(True, f"{volume['VolumeId']} is not attached to {instance['InstanceId']}")
            if there["Status"] != "attached":
                return Waiting({}, after_s=2.0, note=f"{volume['VolumeId']} is {there['Status']}")
            if bool(there.get("DeleteOnTermination")) != bool(replica.facts.get("delete_on_termination")):
                return Unseen(True, f"DeleteOnTermination of {volume['VolumeId']} is not as it was")
            ids[key] = volume["VolumeId"]
        return Done(VolumesOutput(tier=tier.name, volumes=ids))

    def undo(self, given: TierInput, output: VolumesOutput | None) -> Call | None:
        return Call("standby.unload", {"tier": given.tier})
