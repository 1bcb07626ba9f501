"""Live looks at the two sites before a move: is the target able, is the source alive. They change nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from pydantic import Field

from drpilot.actions.addresses import address_room, bound_to
from drpilot.actions.carry import grow_types
from drpilot.actions.members import group_view, member
from drpilot.actions.views import Nothing, Seen, describe, images, instances, snapshots, within
from drpilot.base.errors import DrpilotError
from drpilot.base.units import format_duration
from drpilot.domain.group import Tier
from drpilot.domain.plain import Json
from drpilot.domain.point import lag_s
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
)
from drpilot.domain.run import PLANNED
from drpilot.inventory.balancing import standing
from drpilot.inventory.resources import lacking

__all__ = ["Lag", "Source", "Target"]

_STANDARD = "acdhimrtz"  # families of the quota "Running On-Demand Standard instances"
_SOURCE_S = 6.0  # looked at twice at the most: well below the 15 s a failover may lose on a dead source


class TargetOutput(Model):
    """Everything that was looked at on the target."""

    site: str
    account: str = ""
    checks: tuple[Seen, ...] = ()


class Target(Action[Nothing, TargetOutput]):
    """Whether the target could take over now: identity, standbys, the point's replicas, types, quota, the
    name.
    """

    name = "check.target"
    summary = "whether the target could take over now"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    permissions = (
        "sts:GetCallerIdentity",
        "ec2:DescribeAddresses",
        "ec2:DescribeInstances",
        "ec2:DescribeSnapshots",
        "ec2:DescribeImages",
        "ec2:DescribeInstanceTypeOfferings",
        "ec2:DescribeInstanceTypes",
        "servicequotas:GetServiceQuota",
        "autoscaling:DescribeAutoScalingGroups",
        "elasticloadbalancing:DescribeLoadBalancers",
        "route53:GetHostedZone",
    )
    Input = Nothing
    Output = TargetOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[TargetOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[TargetOutput]:
        site = ctx.site("target")
        identity = site.call("sts", "GetCallerIdentity", {})
        checks = [
            Seen.of(
                ctx,
                "identity",
                not site.account or identity["Account"] == site.account,
                (f"account {site.account or 'any'}", f"account {identity['Account']}"),
            )
        ]
        for tier in ctx.group.tiers:
            checks.append(_tried(ctx, f"standby {tier.name}", lambda tier=tier: _standby(ctx, tier)))  # type: ignore[misc]
            checks.append(_tried(ctx, f"types {tier.name}", lambda tier=tier: _types(ctx, tier)))  # type: ignore[misc]
        if "service-quotas" in site.capabilities:
            checks.append(_tried(ctx, "quota", lambda: _quota(ctx)))
        if ctx.mode in ("failover", "drill"):
            checks.append(_tried(ctx, "recovery point", lambda: _point(ctx)))
        if ctx.group.traffic is not None:
            checks.append(_tried(ctx, "name", lambda: _name(ctx)))
        bad = [item for item in checks if not item.ok]
        warning = ""
        kept = (
            "address-tags" in site.capabilities
        )  # elsewhere none can be kept ahead, which was said when protecting
        addressed = any(item.elastic_address for tier in ctx.group.tiers for item in tier.instances)
        if ctx.mode != "drill" and kept and addressed:
            # A move can go on without an address, so its lack is said and stops nobody.
            checks.append(_tried(ctx, "addresses", lambda: _addresses(ctx)))
            if not checks[-1].ok:
                warning = f"elastic addresses: expected {checks[-1].expected}, observed {checks[-1].observed}"
        if bad:
            text = "; ".join(
                f"{item.name}: expected {item.expected}, observed {item.observed}" for item in bad
            )
            data: Json = {"checks": [item.model_dump() for item in checks]}
            raise StepFailed(FailureClass.PRECONDITION, text, data=data)
        return Done(
            TargetOutput(site=site.name, account=identity["Account"], checks=tuple(checks)), warning=warning
        )


def _tried(ctx: Context, name: str, look: Callable[[], tuple[bool, str, str]]) -> Seen:
    """One look; a site that refuses it is a finding with the cloud's own word."""
    try:
        ok, expected, observed = look()
    except CloudError as error:
        ok, expected, observed = False, "an answer", f"{error.code}: {error.message}"
    except StepFailed as error:
        ok, expected, observed = False, "as the group says", error.message
    return Seen.of(ctx, name, ok, (expected, observed))


def _standby(ctx: Context, tier: Tier) -> tuple[bool, str, str]:
    site = ctx.site("target")
    missing = [item.key for item in tier.instances if member(ctx, site, tier, item.key) is None]
    if tier.scaling_group is not None and group_view(site, tier.scaling_group.key) is None:
        missing.append(tier.scaling_group.key)
    if tier.load_balancer is not None and standing(site, tier.load_balancer.key) is None:
        missing.append(tier.load_balancer.key)
    return not missing, "standing", f"missing: {', '.join(missing)}" if missing else "standing"


def _types(ctx: Context, tier: Tier) -> tuple[bool, str, str]:
    """Whether the target offers a type each member can grow to (DescribeInstanceTypeOfferings)."""
    site = ctx.site("target")
    known = ctx.group.mapping(ctx.source).types
    wanted = [grow_types(ctx, tier, item) for item in tier.instances]
    if tier.scaling_group is not None:
        wanted.append((known.get(tier.scaling_group.type, tier.scaling_group.type),))
    names = sorted({name for group in wanted for name in group})
    if not names:
        return True, "no type needed", "none"
    filters: list[Json] = [{"Name": "instance-type", "Values": names}]
    try:
        listed = describe(site, "DescribeInstanceTypeOfferings", "InstanceTypeOfferings", filters)
    except CloudError as error:
        if not lacking(error):
            raise
        return True, ", ".join(names), f"{site.name} can't tell what it offers"
    offered = {item["InstanceType"] for item in listed}
    absent = [" or ".join(group) for group in wanted if not offered & set(group)]
    return not absent, ", ".join(names), f"not offered: {', '.join(absent)}" if absent else "offered"


def _growing(ctx: Context) -> Counter[str]:
    """How many machines of which type the target would start."""
    known, wanted = ctx.group.mapping(ctx.source).types, Counter[str]()
    for tier in ctx.group.tiers:
        wanted.update(grow_types(ctx, tier, item)[0] for item in tier.instances)
        group = tier.scaling_group
        if group is not None:
            count = tier.standby.grow_count if tier.standby.grow_count is not None else group.desired
            wanted[known.get(group.type, group.type)] += 1 if ctx.mode == "drill" else count
    return wanted


def _quota(ctx: Context) -> tuple[bool, str, str]:
    """Whether the vCPUs to start fit under the account's quota of running standard instances (L-1216C47A)."""
    site, wanted = ctx.site("target"), _growing(ctx)
    running = instances(site, [{"Name": "instance-state-name", "Values": ["pending", "running"]}])
    used = Counter(str(item["InstanceType"]) for item in running)
    names = sorted(name for name in {*wanted, *used} if name[:1] in _STANDARD)
    if not names:
        return True, "no standard instance", "none"
    filters: list[Json] = [{"Name": "instance-type", "Values": names}]
    listed = describe(site, "DescribeInstanceTypes", "InstanceTypes", filters)
    size = {item["InstanceType"]: int(item["VCpuInfo"]["DefaultVCpus"]) for item in listed}
    have, need = (sum(size.get(name, 0) * count for name, count in group.items()) for group in (used, wanted))
    asked: Json = {"ServiceCode": "ec2", "QuotaCode": "L-1216C47A"}
    limit = int(site.call("service-quotas", "GetServiceQuota", asked)["Quota"]["Value"])
    return (
        have + need <= limit,
        f"{need} vCPUs within {limit}",
        f"{have} of {limit} vCPUs used, {need} needed",
    )


def _addresses(ctx: Context) -> tuple[bool, str, str]:
    """Whether each standby has its elastic address; where one lacks it, whether the account has room for another."""
    site, lacking = ctx.site("target"), []
    for tier in ctx.group.tiers:
        for item in tier.instances:
            there = member(ctx, site, tier, item.key) if item.elastic_address else None
            if item.elastic_address and (there is None or bound_to(site, there) is None):
                lacking.append(item.key)
    if not lacking:
        return True, "bound ahead", "bound"
    used, limit = address_room(site)
    room = f"{used} used" if limit is None else f"{used} of {limit} used"
    return False, "bound ahead", f"none bound to {', '.join(lacking)}; {room}, {len(lacking)} needed"


def _point(ctx: Context) -> tuple[bool, str, str]:
    """Whether every replica of the chosen point is there and usable."""
    try:
        point = ctx.point(ctx.point_id)
    except (KeyError, DrpilotError):
        return False, "a recovery point", f"{ctx.point_id or 'none'} is not known"
    if not point.usable:
        return False, "a usable point", f"{point.id} is {point.state}"
    if point.site != ctx.target:
        return False, f"a point on {ctx.target}", f"{point.id} is on {point.site}"
    site = ctx.site("target")
    wanted: dict[str, set[str]] = {"snapshot": set(), "image": set()}
    for replica in point.replicas:
        wanted[replica.kind].add(replica.id)
    found: set[str] = set()
    if wanted["snapshot"]:
        filters: list[Json] = [{"Name": "snapshot-id", "Values": sorted(wanted["snapshot"])}]
        found |= {item["SnapshotId"] for item in snapshots(site, filters) if item["State"] == "completed"}
    if wanted["image"]:
        filters = [{"Name": "image-id", "Values": sorted(wanted["image"])}]
        found |= {item["ImageId"] for item in images(site, filters) if item["State"] == "available"}
    missing = sorted((wanted["snapshot"] | wanted["image"]) - found)
    count = len(found)
    return not missing, "every replica", f"missing: {', '.join(missing)}" if missing else f"{count} replicas"


def _name(ctx: Context) -> tuple[bool, str, str]:
    traffic = ctx.group.traffic
    if traffic is None:
        return True, "no name", "none"
    zone = ctx.site(traffic.site).call("route53", "GetHostedZone", {"Id": traffic.zone})["HostedZone"]
    apex = str(zone["Name"]).rstrip(".").lower()
    name = traffic.name.rstrip(".").lower()
    return name == apex or name.endswith("." + apex), f"a zone of {traffic.name}", f"zone {apex}"


class SourceOutput(Model):
    """Whether the source answers, and what was seen."""

    site: str
    alive: bool
    account: str = ""
    members: int = 0
    observed: str = ""
    checks: tuple[Seen, ...] = Field(default=())


class Source(Action[Nothing, SourceOutput]):
    """Whether the source is alive. A dead one is an answer, not a failure, and comes within seconds."""

    name = "check.source"
    summary = "whether the source is alive; a dead one is an answer too"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    permissions = ("sts:GetCallerIdentity", "ec2:DescribeInstances")
    at = ("source",)
    Input = Nothing
    Output = SourceOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[SourceOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[SourceOutput]:
        site = ctx.site("source")
        try:
            account, count = within(_SOURCE_S, site, lambda bound: self._look(ctx, bound))
        except CloudError as error:
            observed = f"{error.code}: {error.message}"[:300]
            seen = Seen.of(ctx, "source", False, ("an answer", observed))
            output = SourceOutput(site=site.name, alive=False, observed=observed, checks=(seen,))
            if ctx.mode in PLANNED:
                text = f"{site.name} does not answer ({error.code}): a {ctx.mode} needs both sites"
                raise StepFailed(FailureClass.PRECONDITION, text) from None
            return Done(output, warning=f"{site.name} does not answer: {error.code}")
        observed = f"account {account}, {count} instances of the group run"
        seen = Seen.of(ctx, "source", True, ("an answer", observed))
        return Done(
            SourceOutput(
                site=site.name, alive=True, account=account, members=count, observed=observed, checks=(seen,)
            )
        )

    @staticmethod
    def _look(ctx: Context, site: Site) -> tuple[str, int]:
        account = str(site.call("sts", "GetCallerIdentity", {})["Account"])
        ids = sorted(item.id for tier in ctx.group.tiers for item in tier.instances)
        running: list[Json] = []
        if ids:
            filters: list[Json] = [
                {"Name": "instance-id", "Values": ids},
                {"Name": "instance-state-name", "Values": ["running"]},
            ]
            running = describe(site, "DescribeInstances", "Reservations", filters)
        count = sum(len(item.get("Instances") or []) for item in running)
        for tier in ctx.group.tiers:
            group = group_view(site, tier.scaling_group.key) if tier.scaling_group is not None else None
            count += group.serving if group is not None else 0
        return account, count


class LagOutput(Model):
    """Seconds since the newest usable point on the target was captured, and the objective."""

    lag_s: float | None
    rpo_s: float


class Lag(Action[Nothing, LagOutput]):
    """How far behind the target is; beyond the objective is a warning. Practice must not delay replication."""

    name = "check.lag"
    summary = "how far the newest point on the target is behind, against the objective"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    Input = Nothing
    Output = LagOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[LagOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[LagOutput]:
        lag, rpo_s = lag_s(ctx.points(), ctx.target, ctx.clock.now()), ctx.group.objectives.rpo_s
        warning = ""
        if lag is None or lag > rpo_s:
            age = format_duration(lag) if lag is not None else "no point at all"
            warning = f"the newest point is {age} old, the objective is {format_duration(rpo_s)}"
        return Done(LagOutput(lag_s=lag, rpo_s=rpo_s), warning=warning)
