"""The minimal standby: instances launched once and stopped, scaling groups at 0, everything bound ahead.

Three steps, since a stop needs a running instance and a change of type a stopped one: `standby.build`
(launch or adopt), `standby.rest` (stop), `standby.fit` (type, security groups; the standby is ready). Elastic addresses
come between them: `standby.address` and `standby.bind` (addresses.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from drpilot.actions import balancers, scaling, user_data
from drpilot.actions.carry import address_in, app_tags, group_ids, rest_type
from drpilot.actions.members import group_view, member, scaling_of, site_name, tier_of
from drpilot.actions.placing import Place, disk, guest, place, regrouped, role
from drpilot.actions.views import first, specification, tags_of, visible
from drpilot.domain.group import Instance, Tier
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
    Move,
    Site,
    StepFailed,
    Unseen,
    Waiting,
)

__all__ = ["Build", "Fit", "Rest", "StandbyOutput", "TierInput", "not_promoted"]


class TierInput(Model):
    """One tier."""

    tier: str


class StandbyOutput(Model):
    """What stands on the site for the tier: instance ids by member key, or the scaling tier's facts."""

    tier: str
    site: str
    instances: dict[str, str] = Field(default_factory=dict)
    adopted: tuple[str, ...] = ()
    facts: dict[str, object] = Field(default_factory=dict)


def _replica(ctx: Context, key: str) -> Replica:
    try:
        return ctx.point(ctx.point_id).replica(key, "image")
    except KeyError:
        text = f"the point has no image of {key}"
        raise StepFailed(FailureClass.PRECONDITION, text) from None


def not_promoted(ctx: Context, tier: Tier, site: str) -> None:
    """StepFailed (conflict) where replication meets a standby that a move promotes or has promoted.

    Copies run in a lane of their own, beside moves: what they would bring to rest may be the new writer by now.
    """
    state = ctx.standby(tier.name, site).state
    if ctx.mode == "replicate" and state in ("promoting", "active"):
        text = f"the standby of {tier.name} on {site} is {state}: a move has it, replication leaves it alone"
        raise StepFailed(FailureClass.CONFLICT, text, data={"standby": state})


def _standing(ctx: Context, site: Site, tier: Tier, key: str) -> Json:
    """The standby that is member `key`; StepFailed (not found) where there is none."""
    found = member(ctx, site, tier, key)
    if found is None:
        raise StepFailed(FailureClass.NOT_FOUND, f"standby {key} is not on {site.name}")
    return found


@dataclass(frozen=True, slots=True)
class _Becomes:
    """As what and where a member stands on the target."""

    image: Replica
    type: str
    place: Place


class Build(Action[TierInput, StandbyOutput]):
    """Launch what is missing of a tier's standby; adopt what stands, such as the stopped original on the
    way back.

    RunInstances takes a ClientToken (EC2 API reference, "Ensuring idempotency"); each member has its own.
    """

    name = "standby.build"
    summary = "launch or adopt the minimal standby of a tier on the target"
    idempotency = Idempotency.TOKEN
    effect = Effect.CREATE
    permissions = (
        "ec2:RunInstances",
        "ec2:CreateTags",
        "iam:PassRole",
        "ec2:DescribeInstances",
        "ec2:DescribeInstanceAttribute",
        "ec2:DescribeSubnets",
        "ec2:DescribeSecurityGroups",
        "ec2:CreateLaunchTemplate",
        "ec2:CreateLaunchTemplateVersion",
        "ec2:DescribeLaunchTemplates",
        "ec2:DescribeLaunchTemplateVersions",
        "autoscaling:CreateAutoScalingGroup",
        "autoscaling:UpdateAutoScalingGroup",
        "autoscaling:CreateLaunchConfiguration",
        "autoscaling:DeleteLaunchConfiguration",
        "autoscaling:DescribeAutoScalingGroups",
        "autoscaling:DescribeLaunchConfigurations",
        "elasticloadbalancing:CreateLoadBalancer",
        "elasticloadbalancing:CreateLoadBalancerListeners",
        "elasticloadbalancing:ConfigureHealthCheck",
        "elasticloadbalancing:CreateTargetGroup",
        "elasticloadbalancing:CreateListener",
        "elasticloadbalancing:AddTags",
        "elasticloadbalancing:DescribeLoadBalancers",
        "elasticloadbalancing:DescribeTargetGroups",
        "elasticloadbalancing:DescribeListeners",
    )
    at = ("target", "source")
    Input = TierInput
    Output = StandbyOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[StandbyOutput]:
        tier = tier_of(ctx, given.tier)
        not_promoted(ctx, tier, ctx.target)
        site = ctx.site("target")
        launches: dict[str, Json] = {}
        for instance in tier.instances:  # every look comes before the first change
            if member(ctx, site, tier, instance.key) is None:
                where = place(ctx, instance.subnet, instance.zone)
                becomes = _Becomes(_replica(ctx, instance.key), rest_type(ctx, tier, instance), where)
                launches[instance.key] = self._launch(ctx, tier, instance, becomes)
                launches[instance.key] |= user_data.of_member(ctx, instance)
        image = _replica(ctx, tier.scaling_group.key).id if tier.scaling_group is not None else ""
        if tier.scaling_group is not None:
            scaling.mappable(ctx, tier, image)
        balancers.buildable(ctx, tier)
        balancers.build(ctx, tier)
        if tier.scaling_group is not None:
            scaling.build_template(ctx, tier, image)
            scaling.build_group(ctx, tier, image)
        for key, params in launches.items():
            site.call("ec2", "RunInstances", params, token=ctx.sub(key))
        return visible(self.observe, ctx, given)

    @staticmethod
    def _launch(ctx: Context, tier: Tier, instance: Instance, becomes: _Becomes) -> Json:
        site, where = ctx.site("target"), becomes.place
        tags = {
            **app_tags(instance.tags),
            **ctx.tags(tier=tier.name, member=instance.key, standby="true", point=ctx.point_id),
        }
        params: Json = {
            "ImageId": becomes.image.id,
            "InstanceType": becomes.type,
            "MinCount": 1,
            "MaxCount": 1,
            **where.launched(group_ids(ctx, site, instance.security_groups, where.vpc)),
            "TagSpecifications": [specification("instance", tags), specification("volume", tags)],
            **guest(ctx, instance),
            **role(ctx, instance.profile),
        }
        if "termination-protection" in site.capabilities:
            params["DisableApiTermination"] = instance.termination_protection
        address = address_in(instance.private_address, where.subnet) if where.subnet is not None else None
        if address:
            params["PrivateIpAddress"] = address
        root = first(volume for volume in instance.volumes if volume.root)
        if root is not None:
            facts = {"type": root.type, "iops": root.iops, "throughput": root.throughput}
            ebs: Json = {**disk(site, facts), "DeleteOnTermination": True}
            device = becomes.image.facts.get("root_device") or instance.root_device
            params["BlockDeviceMappings"] = [{"DeviceName": device, "Ebs": ebs}]
        return params

    def observe(self, ctx: Context, given: TierInput) -> Answer[StandbyOutput]:
        tier = tier_of(ctx, given.tier)
        site = ctx.site("target")
        key = f"{tier.name}@{ctx.target}"
        facts: Json = {}
        if tier.scaling_group is not None:
            found = scaling.facts_of(ctx, tier, _replica(ctx, tier.scaling_group.key).id)
            if found is None:
                return Unseen(True, f"{tier.scaling_group.key} is not complete on {ctx.target}")
            facts = found
        elif tier.load_balancer is not None:
            found = balancers.facts(ctx, tier)
            if found is None:
                return Unseen(True, f"{tier.load_balancer.key} is not complete on {ctx.target}")
            facts = found
        if facts.get("load_balancer", {}).get("state") == "provisioning":
            return Waiting({}, after_s=5.0, note="the load balancer is being provisioned")
        ids: dict[str, str] = {}
        adopted: list[str] = []
        for instance in tier.instances:
            there = member(ctx, site, tier, instance.key)
            if there is None:
                return Unseen(True, f"no instance {instance.key} on {ctx.target}")
            if there["State"]["Name"] == "pending":
                return Waiting({}, after_s=5.0, note=f"{there['InstanceId']} is pending")
            ids[instance.key] = there["InstanceId"]
            if tags_of(there).get("drpilot:run") != ctx.tags()["drpilot:run"]:
                adopted.append(instance.key)
        if ids:
            facts["instances"] = ids
        move = Move("standby", key, "build", {"mapping_complete": True}, facts, unless=_STANDING)
        output = StandbyOutput(
            tier=tier.name, site=ctx.target, instances=ids, adopted=tuple(adopted), facts=facts
        )
        return Done(output, (move,))


_STANDING = ("building", "ready", "unhealthy", "promoting", "active", "demoting", "retired")


class Rest(Action[TierInput, StandbyOutput]):
    """Stop the tier's standby instances on the target; a scaling group is at 0 already."""

    name = "standby.rest"
    summary = "stop the standby instances of a tier"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    permissions = ("ec2:StopInstances", "ec2:DescribeInstances", "autoscaling:DescribeAutoScalingGroups")
    Input = TierInput
    Output = StandbyOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[StandbyOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        not_promoted(ctx, tier, ctx.target)
        standing = [_standing(ctx, site, tier, instance.key) for instance in tier.instances]
        up = [item["InstanceId"] for item in standing if item["State"]["Name"] == "running"]
        if up:
            site.call("ec2", "StopInstances", {"InstanceIds": up})
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: TierInput) -> Answer[StandbyOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        ids: dict[str, str] = {}
        for instance in tier.instances:
            found = _standing(ctx, site, tier, instance.key)
            state = found["State"]["Name"]
            if state == "running":
                return Unseen(True, f"{found['InstanceId']} is running")
            if state != "stopped":
                return Waiting({}, after_s=5.0, note=f"{found['InstanceId']} is {state}")
            ids[instance.key] = found["InstanceId"]
        return Done(StandbyOutput(tier=tier.name, site=ctx.target, instances=ids))


class FitInput(Model):
    """One tier on a site, by role or name."""

    tier: str
    site: str = "target"


class Fit(Action[FitInput, StandbyOutput]):
    """Give stopped standby instances their waiting size and security groups; then the standby is ready.

    Type and groups can only be changed on a stopped instance (EC2 API reference,
    ModifyInstanceAttribute). On the way back this ends the `invalidated` mark of the old side: what
    stands there is a standby again.
    """

    name = "standby.fit"
    summary = "give the stopped standby its waiting size; the standby is ready"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    permissions = (
        "ec2:ModifyInstanceAttribute",
        "ec2:CreateTags",
        "ec2:DeleteTags",
        "ec2:DescribeInstances",
        "autoscaling:DescribeAutoScalingGroups",
    )
    at = ("site",)
    Input = FitInput
    Output = StandbyOutput

    def start(self, ctx: Context, given: FitInput) -> Answer[StandbyOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site(given.site)
        not_promoted(ctx, tier, site_name(ctx, given.site))
        due = [  # every look comes before the first change
            call
            for instance in tier.instances
            if (found := _standing(ctx, site, tier, instance.key))["State"]["Name"] == "stopped"
            for call in self._due(ctx, site, (tier, instance), found)
        ]
        for operation, params in due:
            site.call("ec2", operation, params)
        return visible(self.observe, ctx, given)

    @staticmethod
    def _due(ctx: Context, site: Site, who: tuple[Tier, Instance], found: Json) -> list[tuple[str, Json]]:
        """The calls that a stopped standby still lacks, in their order: what `start` does and `observe` looks for."""
        tier, instance = who
        id_, have, due = found["InstanceId"], tags_of(found), list[tuple[str, Json]]()
        wanted = rest_type(ctx, tier, instance)
        if found["InstanceType"] != wanted:
            due.append(("ModifyInstanceAttribute", {"InstanceId": id_, "InstanceType": {"Value": wanted}}))
        groups = group_ids(ctx, site, instance.security_groups, found.get("VpcId") or "")
        if regrouped(found, groups):
            due.append(("ModifyInstanceAttribute", {"InstanceId": id_, "Groups": groups}))
        ours = {
            "drpilot:group": ctx.group.name,
            "drpilot:tier": tier.name,
            "drpilot:member": instance.key,
            "drpilot:standby": "true",
        }
        lacking = [{"Key": key, "Value": value} for key, value in ours.items() if have.get(key) != value]
        if lacking:
            due.append(("CreateTags", {"Resources": [id_], "Tags": lacking}))
        if ctx.mode == "reprotect" and "drpilot:invalidated" in have:
            due.append(("DeleteTags", {"Resources": [id_], "Tags": [{"Key": "drpilot:invalidated"}]}))
        return due

    def observe(self, ctx: Context, given: FitInput) -> Answer[StandbyOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site(given.site)
        name = site_name(ctx, given.site)
        ids: dict[str, str] = {}
        bare: list[str] = []
        kept = "address-tags" in site.capabilities
        for instance in tier.instances:
            found = _standing(ctx, site, tier, instance.key)
            if found["State"]["Name"] != "stopped":
                raise StepFailed(FailureClass.CONFLICT, f"{found['InstanceId']} is {found['State']['Name']}")
            due = self._due(ctx, site, (tier, instance), found)
            if due:
                return Unseen(True, f"{due[0][0]} of {found['InstanceId']} is still due")
            ids[instance.key] = found["InstanceId"]
            if kept and instance.elastic_address and not found.get("PublicIpAddress"):
                bare.append(instance.key)
        facts: Json = {"instances": ids} if ids else {}
        if tier.scaling_group is not None:
            group = group_view(site, scaling_of(tier).key)
            if group is None or not group.at_rest:
                text = f"group {scaling_of(tier).key} on {name} is not at 0"
                raise StepFailed(FailureClass.CONFLICT, text)
        output = StandbyOutput(tier=tier.name, site=name, instances=ids)
        # A standby can be promoted without its address, and data must not wait for one: said, and found by `check`.
        warning = f"no elastic address on {name} yet: {', '.join(bare)}" if bare else ""
        return Done(output, self._moves(ctx, tier, name, facts), warning)

    @staticmethod
    def _moves(ctx: Context, tier: Tier, name: str, facts: Json) -> tuple[Move, ...]:
        """Lead the standby to `ready`, from whichever state it is in; an unhealthy one recovers by its
        own rule.
        """
        key, state = f"{tier.name}@{name}", ctx.standby(tier.name, name).state
        demote = Move("standby", key, "demote", {"superseded": True}, facts)
        demoted = Move("standby", key, "demoted", {"observed": True}, facts)
        by_state = {
            "absent": (
                Move("standby", key, "build", {"mapping_complete": True}, facts),
                Move("standby", key, "built", {"observed": True}, facts),
            ),
            "building": (Move("standby", key, "built", {"observed": True}, facts),),
            "active": (demote, demoted) if ctx.mode == "reprotect" else (),
            "demoting": (demoted,),
        }
        return by_state.get(state, ())
