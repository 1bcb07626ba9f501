"""The machines of a drill: booted from the point inside the drill's own network, known by its tags alone."""

from __future__ import annotations

from drpilot.actions import scaling, user_data
from drpilot.actions.carry import grow_types
from drpilot.actions.drill import drill_group, drill_network, drill_tags, drilled
from drpilot.actions.members import instance_of, member, scaling_of, tier_of
from drpilot.actions.placing import disk, guest, place, spread
from drpilot.actions.views import describe, first, instances, specification, tagged, tags_of, visible
from drpilot.domain.group import Tier
from drpilot.domain.plain import Json
from drpilot.domain.point import Replica
from drpilot.domain.ports import (
    Action,
    Answer,
    Context,
    Done,
    Effect,
    FailureClass,
    Idempotency,
    Model,
    StepFailed,
    Unseen,
    Waiting,
)

__all__ = ["Launch"]


class TierInput(Model):
    """One tier."""

    tier: str


class LaunchOutput(Model):
    """Instances of the drill by member key."""

    tier: str
    instances: dict[str, str]


class Launch(Action[TierInput, LaunchOutput]):
    """Boot a tier from the point inside the drill's network: its instances, or one machine of its group.

    RunInstances takes a ClientToken; data volumes are made from the point's snapshots in the same call
    and go with the instance. No instance profile is given: a drill has nothing to say to the cloud.
    """

    name = "drill.launch"
    summary = "boot a tier from the point inside the drill's network"
    idempotency = Idempotency.TOKEN
    effect = Effect.CREATE
    permissions = (
        "ec2:RunInstances",
        "ec2:CreateTags",
        "ec2:DescribeInstances",
        "ec2:DescribeInstanceAttribute",
        "ec2:DescribeLaunchTemplates",
        "ec2:DescribeLaunchTemplateVersions",
        "ec2:DescribeSubnets",
    )
    Input = TierInput
    Output = LaunchOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[LaunchOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        found = self._found(ctx, tier)
        launches = {  # every look comes before the first change
            key: self._scaled(ctx, tier) if tier.scaling_group is not None else self._member(ctx, tier, key)
            for key in self._keys(tier)
            if key not in found
        }
        for key, params in launches.items():
            site.call("ec2", "RunInstances", params, token=ctx.sub(key))
        return visible(self.observe, ctx, given)

    @staticmethod
    def _keys(tier: Tier) -> list[str]:
        return (
            [scaling_of(tier).key]
            if tier.scaling_group is not None
            else [item.key for item in tier.instances]
        )

    @staticmethod
    def _found(ctx: Context, tier: Tier) -> dict[str, Json]:
        filters = [*drilled(ctx), *tagged(tier=tier.name)]
        return {tags_of(item)["drpilot:member"]: item for item in instances(ctx.site("target"), filters)}

    @staticmethod
    def _image(ctx: Context, key: str) -> Replica:
        try:
            return ctx.point(ctx.point_id).replica(key, "image")
        except KeyError:
            raise StepFailed(FailureClass.PRECONDITION, f"the point has no image of {key}") from None

    def _common(self, ctx: Context, tier: Tier, key: str) -> Json:
        where, group = self._place(ctx, tier, key), drill_group(ctx)
        image = self._image(ctx, key).id
        tags = drill_tags(ctx, tier=tier.name, member=key, point=ctx.point_id)
        return {
            "ImageId": image,
            "MinCount": 1,
            "MaxCount": 1,
            **where,
            "SecurityGroupIds": [group["GroupId"]],
            "TagSpecifications": [specification("instance", tags), specification("volume", tags)],
        }

    @staticmethod
    def _place(ctx: Context, tier: Tier, key: str) -> Json:
        """The drill's subnet; without networks the zone of the real one."""
        site = ctx.site("target")
        if drill_network(ctx) is not None:
            network = first(describe(site, "DescribeSubnets", "Subnets", drilled(ctx)))
            if network is None:
                raise StepFailed(FailureClass.PRECONDITION, "this drill has no subnet of its own")
            return {"SubnetId": network["SubnetId"]}
        if tier.scaling_group is not None:
            zone = spread(ctx, tier.scaling_group.subnets, tier.scaling_group.zones).zones[0]
        else:
            instance = instance_of(tier, key)
            zone = place(ctx, instance.subnet, instance.zone).zone
        return {"Placement": {"AvailabilityZone": zone}}

    def _scaled(self, ctx: Context, tier: Tier) -> Json:
        group = scaling_of(tier)
        types = ctx.group.mapping(ctx.source).types
        params = self._common(ctx, tier, group.key)
        params["InstanceType"] = types.get(group.type, group.type)
        standing = scaling.standing_user_data(ctx.site("target"), group)
        return params | guest(ctx, group) | standing

    def _member(self, ctx: Context, tier: Tier, key: str) -> Json:
        instance = instance_of(tier, key)
        params = self._common(ctx, tier, key)
        root = self._image(ctx, key).facts.get("root_device") or instance.root_device
        params["InstanceType"] = grow_types(ctx, tier, instance)[0]
        replicas = [item for item in ctx.point(ctx.point_id).replicas if item.kind == "snapshot"]
        mappings = []
        for replica in (item for item in replicas if item.facts.get("instance") == key):
            ebs: Json = {**disk(ctx.site("target"), replica.facts), "DeleteOnTermination": True}
            if not replica.facts.get("root"):
                ebs |= {"SnapshotId": replica.id, "VolumeSize": replica.size_gib}
            device = root if replica.facts.get("root") else replica.facts["device"]
            mappings.append({"DeviceName": device, "Ebs": ebs})
        params["BlockDeviceMappings"] = mappings
        standby = member(ctx, ctx.site("target"), tier, key)
        if "SubnetId" in params and standby is not None and standby.get("PrivateIpAddress"):
            params["PrivateIpAddress"] = standby["PrivateIpAddress"]
        stands = standby["InstanceId"] if standby is not None else None
        return params | guest(ctx, instance) | user_data.of_standby(ctx, instance, stands)

    def observe(self, ctx: Context, given: TierInput) -> Answer[LaunchOutput]:
        tier = tier_of(ctx, given.tier)
        found = self._found(ctx, tier)
        missing = [key for key in self._keys(tier) if key not in found]
        if missing:
            return Unseen(True, f"no drill instance of {', '.join(missing)}")
        for key, instance in found.items():
            state = instance["State"]["Name"]
            if state == "pending":
                return Waiting({}, after_s=3.0, note=f"{instance['InstanceId']} is pending")
            if state != "running":
                raise StepFailed(FailureClass.CONFLICT, f"{key} ({instance['InstanceId']}) is {state}")
        return Done(
            LaunchOutput(tier=tier.name, instances={key: item["InstanceId"] for key, item in found.items()})
        )
