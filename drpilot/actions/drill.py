"""A drill's own network on the target, without a way out; what boots in it is booting.py's.

A cloud without networks of one's own has only the security group: it lets nobody in but the control path, and can't
keep anything from going out, which `check.isolation` says.

Each create call without ClientToken is a step of its own (CreateVpc, CreateSubnet, CreateSecurityGroup).
Everything carries the run's tags, `drpilot:drill` and `drpilot:expires`, and none of the application's
tags: no selector of the group ever finds it.
"""

from __future__ import annotations

from datetime import timedelta

from drpilot.actions.placing import place
from drpilot.actions.views import Nothing, describe, first, made_here, specification, tagged, visible
from drpilot.base.clock import rfc3339
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
    "Network",
    "Rules",
    "SecurityGroup",
    "Subnet",
    "control_ranges",
    "drill_group",
    "drill_network",
    "drill_tags",
    "drilled",
    "ranges_of",
]

_ANYWHERE = ("0.0.0.0/0", "::/0")
_PROTOCOLS = (("tcp", 0, 65535), ("udp", 0, 65535), ("icmp", -1, -1))


def drill_tags(ctx: Context, **extra: str) -> dict[str, str]:
    """The tags of a drill's resource: the run's, what it is for, and when it may be removed by anybody."""
    expires = ctx.intended_at + timedelta(seconds=ctx.group.drill.expires_s)
    return ctx.tags(drill=ctx.name, expires=rfc3339(expires), **extra)


def drilled(ctx: Context) -> list[Json]:
    """Filters for what this run's drill has made."""
    return [{"Name": "tag:drpilot:run", "Values": [ctx.tags()["drpilot:run"]]}, *tagged(drill="")]


def drill_network(ctx: Context) -> Json | None:
    """This drill's VPC; None on a cloud without networks, StepFailed (precondition) where it was not made."""
    site = ctx.site("target")
    if "vpc" not in site.capabilities:
        return None
    found = first(describe(site, "DescribeVpcs", "Vpcs", drilled(ctx)))
    if found is None and _mirrored(ctx) is not None:
        raise StepFailed(FailureClass.PRECONDITION, "this drill has no network of its own")
    return found


def drill_group(ctx: Context) -> Json:
    """This drill's security group; StepFailed (precondition) where it was not made."""
    found = first(describe(ctx.site("target"), "DescribeSecurityGroups", "SecurityGroups", drilled(ctx)))
    if found is None:
        raise StepFailed(FailureClass.PRECONDITION, "this drill has no security group of its own")
    return found


def _ground(ctx: Context) -> tuple[str, str]:
    """VPC and zone on the target that the group's first member is mapped into; no VPC on a cloud without networks."""
    for instance in (item for tier in ctx.group.tiers for item in tier.instances):
        where = place(ctx, instance.subnet, instance.zone)
        return where.vpc, where.zone
    for group in (tier.scaling_group for tier in ctx.group.tiers):
        if group is not None and (group.subnets or group.zones):
            first_of = place(ctx, (*group.subnets, "")[0], (*group.zones, "")[0])
            return first_of.vpc, first_of.zone
    raise StepFailed(
        FailureClass.INVALID, "the group has no member in a subnet, so there is nothing to drill"
    )


def _mirrored(ctx: Context) -> Json | None:
    """The target's VPC that the group's members are mapped into; None on a cloud without networks."""
    site, vpc = ctx.site("target"), _ground(ctx)[0]
    if not vpc:
        return None
    found = first(describe(site, "DescribeVpcs", "Vpcs", [{"Name": "vpc-id", "Values": [vpc]}]))
    if found is None:
        raise StepFailed(FailureClass.NOT_FOUND, f"VPC {vpc} is not on {site.name}")
    return found


class NetworkOutput(Model):
    """A network object of the drill, and the addresses it covers."""

    id: str
    cidr: str = ""


class Network(Action[Nothing, NetworkOutput]):
    """Make the drill's VPC with the addresses of the real one, so that a member keeps its private address.

    A cloud without networks gets none.
    """

    name = "drill.network"
    summary = "make the drill's own network, with the addresses of the real one"
    idempotency = Idempotency.OBSERVE
    effect = Effect.CREATE
    permissions = ("ec2:CreateVpc", "ec2:CreateTags", "ec2:DescribeVpcs", "ec2:DescribeSubnets")
    Input = Nothing
    Output = NetworkOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[NetworkOutput]:
        site = ctx.site("target")
        if "vpc" not in site.capabilities:
            return self.observe(ctx, given)
        mirrored = None
        if not describe(site, "DescribeVpcs", "Vpcs", made_here(ctx)):
            mirrored = _mirrored(ctx)
        if mirrored is not None:
            params: Json = {
                "CidrBlock": mirrored["CidrBlock"],
                "TagSpecifications": [specification("vpc", drill_tags(ctx))],
            }
            site.call("ec2", "CreateVpc", params)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[NetworkOutput]:
        site = ctx.site("target")
        looked = "vpc" in site.capabilities
        found = first(describe(site, "DescribeVpcs", "Vpcs", made_here(ctx))) if looked else None
        if found is None and (not looked or _mirrored(ctx) is None):
            return Done(NetworkOutput(id=""))
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
        if "vpc" not in site.capabilities:
            return self.observe(ctx, given)
        if not describe(site, "DescribeSubnets", "Subnets", made_here(ctx)):
            network = drill_network(ctx)
            if network is None:
                return self.observe(ctx, given)
            params: Json = {
                "VpcId": network["VpcId"],
                "CidrBlock": network["CidrBlock"],
                "AvailabilityZone": _ground(ctx)[1],
                "TagSpecifications": [specification("subnet", drill_tags(ctx))],
            }
            site.call("ec2", "CreateSubnet", params)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[NetworkOutput]:
        site = ctx.site("target")
        looked = "vpc" in site.capabilities
        found = first(describe(site, "DescribeSubnets", "Subnets", made_here(ctx))) if looked else None
        if found is None and (not looked or drill_network(ctx) is None):
            return Done(NetworkOutput(id=""))
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
            network = drill_network(ctx)
            # Without networks a name is the account's: another drill may be on its way, of this group or another.
            own = {"VpcId": network["VpcId"]} if network is not None else {}
            name = "drpilot-drill" if network is not None else f"drpilot-drill-{ctx.name.replace('/', '-')}"
            params: Json = {
                "GroupName": name,
                "Description": "drpilot: lets nothing out of a drill",
                **own,
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
    mirrored = _mirrored(ctx)
    filters: list[Json] = [{"Name": "vpc-id", "Values": [mirrored["VpcId"]]}] if mirrored is not None else []
    filters.append({"Name": "group-name", "Values": sorted(known.get(name, name) for name in names)})
    found = describe(site, "DescribeSecurityGroups", "SecurityGroups", filters) if names else []
    ranges = {
        item["CidrIp"]
        for group in found
        for rule in group.get("IpPermissions") or []
        for item in rule.get("IpRanges") or []
    }
    return sorted(ranges - set(_ANYWHERE))


class RulesOutput(Model):
    """The ranges let in, and the only one let out to (empty where nothing can be kept from going out)."""

    ingress: tuple[str, ...]
    egress: str


class Rules(Action[Nothing, RulesOutput]):
    """Deny by default: out only to the drill's own network, in only from there and from the control path.

    Without networks a group stands for its own machines, protocols are named one by one, and there are no rules for
    what goes out (EC2 API reference, AuthorizeSecurityGroupIngress, "EC2-Classic").
    """

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
        site, group, network = ctx.site("target"), drill_group(ctx), drill_network(ctx)
        if network is None:
            for peer in self._wanted(ctx, group, None) - self._let_in(group):
                self._let(site, group, peer)
            return visible(self.observe, ctx, given)
        inside = network["CidrBlock"]
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
    def _wanted(ctx: Context, group: Json, network: Json | None) -> set[str]:
        """Who is let in: the drill's own network, or its own group, and the control path."""
        inside = network["CidrBlock"] if network is not None else group["GroupId"]
        return {str(inside), *control_ranges(ctx, ctx.site("target"))}

    @staticmethod
    def _let_in(group: Json) -> set[str]:
        """Who is let in by every protocol already."""
        rules = group.get("IpPermissions") or []
        by = [
            ranges_of(
                {"IpPermissions": [rule for rule in rules if rule["IpProtocol"] == name]}, "IpPermissions"
            )
            for name, _, _ in _PROTOCOLS
        ]
        return set.intersection(*by)

    def _let(self, site: Site, group: Json, peer: str) -> None:
        """Let a range, or the machines of the group itself, in by each protocol."""
        who: Json = {"IpRanges": [{"CidrIp": peer}]}
        if peer == group["GroupId"]:
            who = {"UserIdGroupPairs": [{"GroupId": peer}]}
        for name, low, high in _PROTOCOLS:
            rule: Json = {"IpProtocol": name, "FromPort": low, "ToPort": high, **who}
            self._authorize(site, "AuthorizeSecurityGroupIngress", group, rule)

    def _rule(self, site: Site, operation: str, group: Json, cidr: str) -> None:
        rule: Json = {"IpProtocol": "-1"}
        rule |= {"Ipv6Ranges": [{"CidrIpv6": cidr}]} if ":" in cidr else {"IpRanges": [{"CidrIp": cidr}]}
        self._authorize(site, operation, group, rule)

    @staticmethod
    def _authorize(site: Site, operation: str, group: Json, rule: Json) -> None:
        try:
            site.call("ec2", operation, {"GroupId": group["GroupId"], "IpPermissions": [rule]})
        except CloudError as error:
            if error.code not in ("InvalidPermission.Duplicate", "InvalidPermission.NotFound"):
                raise

    def observe(self, ctx: Context, given: Nothing) -> Answer[RulesOutput]:
        group, network = drill_group(ctx), drill_network(ctx)
        wanted = self._wanted(ctx, group, network)
        if network is None:
            into = self._let_in(group)
            if not wanted <= into:
                return Unseen(True, f"in from {', '.join(sorted(into)) or 'nowhere'}")
            return Done(RulesOutput(ingress=tuple(sorted(into)), egress=""))
        inside = network["CidrBlock"]
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
