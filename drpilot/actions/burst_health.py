"""Whether the extra machines of a burst work: asked themselves, and as their load balancers see them."""

from __future__ import annotations

from collections.abc import Sequence

from drpilot.actions.asking import Place, ask
from drpilot.actions.burst import TierInput, extra
from drpilot.actions.members import GroupView, tier_of
from drpilot.actions.views import Seen, instances
from drpilot.domain.plain import Json
from drpilot.domain.ports import (
    Action,
    Answer,
    Context,
    Done,
    Effect,
    Idempotency,
    Model,
    Site,
    Waiting,
)

__all__ = ["BurstHealth", "target_states"]


def target_states(site: Site, group: GroupView, ids: Sequence[str]) -> dict[str, set[str]]:
    """How the load balancers of a group see machines: id → `healthy`, `draining`, or another word; a machine they
    don't know is left out.
    """
    found: dict[str, set[str]] = {}
    for arn in group.raw.get("TargetGroupARNs") or []:
        reply = site.call("elbv2", "DescribeTargetHealth", {"TargetGroupArn": arn})
        for item in reply.get("TargetHealthDescriptions") or []:
            found.setdefault(item["Target"]["Id"], set()).add(str(item["TargetHealth"]["State"]))
    for name in group.raw.get("LoadBalancerNames") or []:
        for item in (
            site.call("elb", "DescribeInstanceHealth", {"LoadBalancerName": name}).get("InstanceStates") or []
        ):
            found.setdefault(item["InstanceId"], set()).add(_classic(item))
    return {key: states for key, states in found.items() if key in ids}


def _classic(item: Json) -> str:
    """A classic load balancer's word for a machine, in the words of ELBv2.

    One that is leaving is InService with this description until its connections have ended (Classic Load Balancers
    user guide, "Configure connection draining").
    """
    if "deregistration currently in progress" in str(item.get("Description", "")):
        return "draining"
    return "healthy" if item["State"] == "InService" else "unhealthy"


class HealthInput(TierInput):
    """One tier and the machines wanted."""

    capacity: int


class HealthOutput(Model):
    """Everything that was looked at; all of it was as expected."""

    checks: tuple[Seen, ...]
    passed: int


class BurstHealth(Action[HealthInput, HealthOutput]):
    """Every extra machine answers the tier's check and is healthy behind the load balancer: only then users come."""

    name = "check.burst"
    summary = "every extra machine answers its check and is healthy behind the load balancer"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    protects = True
    permissions = (
        "ec2:DescribeInstances",
        "autoscaling:DescribeAutoScalingGroups",
        "elasticloadbalancing:DescribeTargetHealth",
        "elasticloadbalancing:DescribeInstanceHealth",
    )
    Input = HealthInput
    Output = HealthOutput

    def start(self, ctx: Context, given: HealthInput) -> Answer[HealthOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: HealthInput) -> Answer[HealthOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        group = extra(ctx, tier)
        ids = list(group.instance_ids) if group is not None else []
        found = instances(site, [{"Name": "instance-id", "Values": ids}]) if ids else []
        running = [item for item in found if item["State"]["Name"] == "running"]
        wanted = given.capacity
        texts = (f"{wanted} running", f"{len(running)} running")
        checks = [Seen.of(ctx, f"{tier.name} extra machines", len(running) >= wanted, texts)]
        port = tier.load_balancer.target_port if tier.load_balancer is not None else None
        for item in running if tier.check is not None else ():
            addresses = tuple(filter(None, (item.get("PrivateIpAddress"), item.get("PublicIpAddress"))))
            assert tier.check is not None
            checks += ask(ctx, tier.check, Place(item["InstanceId"], addresses, port))
        states = target_states(site, group, ids) if group is not None else {}
        healthy = sum(words == {"healthy"} for words in states.values())
        others = sorted({word for words in states.values() for word in words if word != "healthy"})
        observed = f"{healthy} healthy" + (f", others {', '.join(others)}" if others else "")
        checks.append(Seen.of(ctx, "load balancer", healthy >= wanted, (f"{wanted} healthy", observed)))
        bad = [item for item in checks if not item.ok]
        if bad:
            note = "; ".join(f"{item.name}: {item.observed}" for item in bad[:3])
            return Waiting({}, after_s=2.0, progress=1 - len(bad) / len(checks), note=note)
        return Done(HealthOutput(checks=tuple(checks), passed=len(checks)))
