"""A drill's own world on the target: a network without a way out, and machines booted from the point in
it.

Each create call without ClientToken is a step of its own (CreateVpc, CreateSubnet, CreateSecurityGroup).
Everything carries the run's tags, `drpilot:drill` and `drpilot:expires`, and none of the application's
tags: no selector of the group ever finds it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from drpilot.actions import scaling, user_data
from drpilot.actions.carry import grow_types, metadata_options, subnet, subnet_of, volume_settings
from drpilot.actions.members import instance_of, member, scaling_of, tier_of
from drpilot.actions.views import (
    Nothing,
    describe,
    first,
    instances,
    made_here,
    specification,
    tagged,
    tags_of,
    visible,
)
from drpilot.base.clock import rfc3339
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
    Model,
    Site,
    StepFailed,
    Unseen,
    Waiting,
)

__all__ = [
    "Launch",
    "Network",
    "Rules",
    "SecurityGroup",
    "Subnet",
    "drill_group",
    "drill_network",
    "drill_tags",
]

_ANYWHERE = ("0.0.0.0/0", "::/0")


def drill_tags(ctx: Context, **extra: str) -> dict[str, str]:
    """The tags of a drill's resource: the run's, what it is for, and when it may be removed by anybody."""
    expires = ctx.intended_at + timedelta(seconds=ctx.group.drill.expires_s)
    return ctx.tags(drill=ctx.name, expires=rfc3339(expires), **extra)


def _ours(ctx: Context) -> list[Json]:
    return [{"Name": "tag:drpilot:run", "Values": [ctx.tags()["drpilot:run"]]}, *tagged(drill="")]


def drill_network(ctx: Context) -> Json:
    """This drill's VPC; StepFailed (precondition) where it was not made."""
    found = first(describe(ctx.site("target"), "DescribeVpcs", "Vpcs", _ours(ctx)))
    if found is None:
        raise StepFailed(FailureClass.PRECONDITION, "this drill has no network of its own")
    return found


def drill_group(ctx: Context) -> Json:
    """This drill's security group; StepFailed (precondition) where it was not made."""
    found = first(describe(ctx.site("target"), "DescribeSecurityGroups", "SecurityGroups", _ours(ctx)))
    if found is None:
        raise StepFailed(FailureClass.PRECONDITION, "this drill has no security group of its own")
    return found


def _mirrored(ctx: Context) -> Json:
    """The target's VPC that the group's members are mapped into."""
    sources = [item.subnet for tier in ctx.group.tiers for item in tier.instances]
    sources += [item for tier in ctx.group.tiers if tier.scaling_group for item in tier.scaling_group.subnets]
    if not sources:
        raise StepFailed(
            FailureClass.INVALID, "the group has no member in a subnet, so there is nothing to drill"
        )
    site = ctx.site("target")
    vpc = subnet_of(site, subnet(ctx, sources[0]))["VpcId"]
    found = first(describe(site, "DescribeVpcs", "Vpcs", [{"Name": "vpc-id", "Values": [vpc]}]))
    if found is None:
        raise StepFailed(FailureClass.NOT_FOUND, f"VPC {vpc} is not on {site.name}")
    return found


class NetworkOutput(Model):
    """A network object of the drill, and the addresses it covers."""

    id: str
    cidr: str = ""


class Network(Action[Nothing, NetworkOutput]):
    """Make the drill's VPC with the addresses of the real one, so that a member keeps its private address."""

    name = "drill.network"
    summary = "make the drill's own network, with the addresses of the real one"
    idempotency = Idempotency.OBSERVE
    effect = Effect.CREATE
    permissions = ("ec2:CreateVpc", "ec2:CreateTags", "ec2:DescribeVpcs", "ec2:DescribeSubnets")
    Input = Nothing
    Output = NetworkOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[NetworkOutput]:
        site = ctx.site("target")
        if not describe(site, "DescribeVpcs", "Vpcs", made_here(ctx)):
            params: Json = {
                "CidrBlock": _mirrored(ctx)["CidrBlock"],
                "TagSpecifications": [specification("vpc", drill_tags(ctx))],
            }
            site.call("ec2", "CreateVpc", params)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[NetworkOutput]:
        found = first(describe(ctx.site("target"), "DescribeVpcs", "Vpcs", made_here(ctx)))
        if found is None:
            return Unseen(False, f"no network with this step's tags on {ctx.target}")
        if found.get("State") == "pending":
            return Waiting({}, after_s=2.0)
        return Done(NetworkOutput(id=found["VpcId"], cidr=found["CidrBlock"]))


class Subnet(Action[Nothing, NetworkOutput]):
    """Make the drill's one subnet: the whole network, in one zone."""

    name = "drill.subnet"
    summary = "make the drill's subnet over its whole network"
    idempotency = Idempotency.OBSERVE
    effect = Effect.CREATE
    permissions = ("ec2:CreateSubnet", "ec2:CreateTags", "ec2:DescribeSubnets", "ec2:DescribeVpcs")
    Input = Nothing
    Output = NetworkOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[NetworkOutput]:
        site = ctx.site("target")
        if not describe(site, "DescribeSubnets", "Subnets", made_here(ctx)):
            network = drill_network(ctx)
            params: Json = {
                "VpcId": network["VpcId"],
                "CidrBlock": network["CidrBlock"],
                "AvailabilityZone": self._zone(ctx),
                "TagSpecifications": [specification("subnet", drill_tags(ctx))],
            }
            site.call("ec2", "CreateSubnet", params)
        return visible(self.observe, ctx, given)

    @staticmethod
    def _zone(ctx: Context) -> str:
        """The zone of the first member on the target."""
        known = ctx.group.mapping(ctx.source).subnets
        sources = [item.subnet for tier in ctx.group.tiers for item in tier.instances]
        sources += [
            item for tier in ctx.group.tiers if tier.scaling_group for item in tier.scaling_group.subnets
        ]
        return str(subnet_of(ctx.site("target"), known[sources[0]])["AvailabilityZone"])

    def observe(self, ctx: Context, given: Nothing) -> Answer[NetworkOutput]:
        found = first(describe(ctx.site("target"), "DescribeSubnets", "Subnets", made_here(ctx)))
        if found is None:
            return Unseen(False, f"no subnet with this step's tags on {ctx.target}")
        if found.get("State") == "pending":
            return Waiting({}, after_s=2.0)
        return Done(NetworkOutput(id=found["SubnetId"], cidr=found["CidrBlock"]))


class SecurityGroup(Action[Nothing, NetworkOutput]):
    """Make the drill's security group; its rules are the next step's."""

    name = "drill.group"
    summary = "make the drill's security group"
    idempotency = Idempotency.OBSERVE
    effect = Effect.CREATE
    permissions = ("ec2:CreateSecurityGroup", "ec2:CreateTags", "ec2:DescribeSecurityGroups")
    Input = Nothing
    Output = NetworkOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[NetworkOutput]:
        site = ctx.site("target")
        if not describe(site, "DescribeSecurityGroups", "SecurityGroups", made_here(ctx)):
            params: Json = {
                "GroupName": "drpilot-drill",
                "Description": "drpilot: lets nothing out of a drill",
                "VpcId": drill_network(ctx)["VpcId"],
                "TagSpecifications": [specification("security-group", drill_tags(ctx))],
            }
            site.call("ec2", "CreateSecurityGroup", params)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[NetworkOutput]:
        found = first(
            describe(ctx.site("target"), "DescribeSecurityGroups", "SecurityGroups", made_here(ctx))
        )
        if found is None:
            return Unseen(False, f"no security group with this step's tags on {ctx.target}")
        return Done(NetworkOutput(id=found["GroupId"]))


def control_ranges(ctx: Context, site: Site) -> list[str]:
    """Where the group's machines are controlled from: the ranges its security groups on the target let in.

    Anywhere is not a place; a range only lets somebody in, never anything out.
    """
    names = {name for tier in ctx.group.tiers for item in tier.instances for name in item.security_groups}
    names |= {
        name for tier in ctx.group.tiers if tier.scaling_group for name in tier.scaling_group.security_groups
    }
    known = ctx.group.mapping(ctx.source).security_groups
    filters: list[Json] = [
        {"Name": "vpc-id", "Values": [_mirrored(ctx)["VpcId"]]},
        {"Name": "group-name", "Values": sorted(known.get(name, name) for name in names)},
    ]
    found = describe(site, "DescribeSecurityGroups", "SecurityGroups", filters) if names else []
    ranges = {
        item["CidrIp"]
        for group in found
        for rule in group.get("IpPermissions") or []
        for item in rule.get("IpRanges") or []
    }
    return sorted(ranges - set(_ANYWHERE))


class RulesOutput(Model):
    """The ranges let in, and the only one let out to."""

    ingress: tuple[str, ...]
    egress: str


class Rules(Action[Nothing, RulesOutput]):
    """Deny by default: out only to the drill's own network, in only from there and from the control path."""

    name = "drill.rules"
    summary = "let nothing out of the drill, and only its own network and the control path in"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    permissions = (
        "ec2:AuthorizeSecurityGroupIngress",
        "ec2:AuthorizeSecurityGroupEgress",
        "ec2:RevokeSecurityGroupEgress",
        "ec2:DescribeSecurityGroups",
    )
    Input = Nothing
    Output = RulesOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[RulesOutput]:
        site, group = ctx.site("target"), drill_group(ctx)
        inside = drill_network(ctx)["CidrBlock"]
        have_in, have_out = ranges_of(group, "IpPermissions"), ranges_of(group, "IpPermissionsEgress")
        for cidr in have_out - {inside}:
            self._rule(site, "RevokeSecurityGroupEgress", group, cidr)
        if inside not in have_out:
            self._rule(site, "AuthorizeSecurityGroupEgress", group, inside)
        for cidr in [inside, *control_ranges(ctx, site)]:
            if cidr not in have_in:
                self._rule(site, "AuthorizeSecurityGroupIngress", group, cidr)
        return visible(self.observe, ctx, given)

    @staticmethod
    def _rule(site: Site, operation: str, group: Json, cidr: str) -> None:
        rule: Json = {"IpProtocol": "-1"}
        rule |= {"Ipv6Ranges": [{"CidrIpv6": cidr}]} if ":" in cidr else {"IpRanges": [{"CidrIp": cidr}]}
        try:
            site.call("ec2", operation, {"GroupId": group["GroupId"], "IpPermissions": [rule]})
        except CloudError as error:
            if error.code not in ("InvalidPermission.Duplicate", "InvalidPermission.NotFound"):
                raise

    def observe(self, ctx: Context, given: Nothing) -> Answer[RulesOutput]:
        group, inside = drill_group(ctx), drill_network(ctx)["CidrBlock"]
        wanted = {inside, *control_ranges(ctx, ctx.site("target"))}
        out, into = ranges_of(group, "IpPermissionsEgress"), ranges_of(group, "IpPermissions")
        if out != {inside} or not wanted <= into:
            return Unseen(
                True, f"out to {', '.join(sorted(out)) or 'nothing'}, in from {', '.join(sorted(into))}"
            )
        return Done(RulesOutput(ingress=tuple(sorted(into)), egress=inside))


def ranges_of(group: Json, side: str) -> set[str]:
    """Every range that a security group's rules name on one side; a rule for a group counts by that
    group's id.
    """
    found: set[str] = set()
    for rule in group.get(side) or []:
        found |= {item["CidrIp"] for item in rule.get("IpRanges") or []}
        found |= {item["CidrIpv6"] for item in rule.get("Ipv6Ranges") or []}
        found |= {item["GroupId"] for item in rule.get("UserIdGroupPairs") or []}
        found |= {item["PrefixListId"] for item in rule.get("PrefixListIds") or []}
    return found


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
        filters = [*_ours(ctx), *tagged(tier=tier.name)]
        return {tags_of(item)["drpilot:member"]: item for item in instances(ctx.site("target"), filters)}

    @staticmethod
    def _common(ctx: Context, tier: Tier, key: str) -> Json:
        site = ctx.site("target")
        network = first(describe(site, "DescribeSubnets", "Subnets", _ours(ctx)))
        if network is None:
            raise StepFailed(FailureClass.PRECONDITION, "this drill has no subnet of its own")
        try:
            image = ctx.point(ctx.point_id).replica(key, "image").id
        except KeyError:
            raise StepFailed(FailureClass.PRECONDITION, f"the point has no image of {key}") from None
        tags = drill_tags(ctx, tier=tier.name, member=key, point=ctx.point_id)
        return {
            "ImageId": image,
            "MinCount": 1,
            "MaxCount": 1,
            "SubnetId": network["SubnetId"],
            "SecurityGroupIds": [drill_group(ctx)["GroupId"]],
            "TagSpecifications": [specification("instance", tags), specification("volume", tags)],
        }

    def _scaled(self, ctx: Context, tier: Tier) -> Json:
        group = scaling_of(tier)
        types = ctx.group.mapping(ctx.source).types
        params = self._common(ctx, tier, group.key)
        params["InstanceType"] = types.get(group.type, group.type)
        return self._guest(ctx, params, group) | scaling.standing_user_data(ctx.site("target"), group)

    def _member(self, ctx: Context, tier: Tier, key: str) -> Json:
        instance = instance_of(tier, key)
        params = self._common(ctx, tier, key)
        params["InstanceType"] = grow_types(ctx, tier, instance)[0]
        replicas = [item for item in ctx.point(ctx.point_id).replicas if item.kind == "snapshot"]
        mappings = []
        for replica in (item for item in replicas if item.facts.get("instance") == key):
            ebs: Json = {**volume_settings(ctx.site("target"), replica.facts), "DeleteOnTermination": True}
            if not replica.facts.get("root"):
                ebs |= {"SnapshotId": replica.id, "VolumeSize": replica.size_gib}
            device = instance.root_device if replica.facts.get("root") else replica.facts["device"]
            mappings.append({"DeviceName": device, "Ebs": ebs})
        params["BlockDeviceMappings"] = mappings
        standby = member(ctx, ctx.site("target"), tier, key)
        if standby is not None and standby.get("PrivateIpAddress"):
            params["PrivateIpAddress"] = standby["PrivateIpAddress"]
        stands = standby["InstanceId"] if standby is not None else None
        return self._guest(ctx, params, instance) | user_data.of_standby(ctx, instance, stands)

    @staticmethod
    def _guest(ctx: Context, params: Json, like: Any) -> Json:
        """Key pair and metadata options, as the real one has them."""
        if like.key_pair:
            params["KeyName"] = ctx.group.mapping(ctx.source).keys.get(like.key_pair, like.key_pair)
        options = metadata_options(like.metadata_options)
        if options:
            params["MetadataOptions"] = options
        return params

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
