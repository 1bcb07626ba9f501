"""Everything a burst needs, looked at before anything of it is made."""

from __future__ import annotations

from drpilot.actions.burst import TierInput, image_of, squatters, standby_of
from drpilot.actions.burst_traffic import extra_record, owned_weight
from drpilot.actions.members import tier_of
from drpilot.actions.traffic import (
    front_at,
    front_tier,
    plain_record,
    points_at,
    record_of,
    record_sets,
)
from drpilot.actions.views import Seen, first, images
from drpilot.domain.burst import resource_name, unreachable
from drpilot.domain.group import Tier
from drpilot.domain.plain import Json
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
)
from drpilot.inventory.launching import launched_by

__all__ = ["Ready"]


class ReadyInput(TierInput):
    """One tier, and the share of the users in percent; None where it is not known."""

    weight: int | None = None


class ReadyOutput(Model):
    """What was looked at, all of it as it must be; the image and type the extra machines will have."""

    checks: tuple[Seen, ...]
    image: str
    type: str


class Ready(Action[ReadyInput, ReadyOutput]):
    """Everything a burst needs, looked at before anything is made: the standby's group behind a load balancer, the
    image of the point, and a name that leads to the active side by a record that may be given a weight.
    """

    name = "check.burst_ready"
    summary = "the standby's group, the image, the load balancer and the name are fit for a burst"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    permissions = (
        "autoscaling:DescribeAutoScalingGroups",
        "autoscaling:DescribeLaunchConfigurations",
        "ec2:DescribeImages",
        "ec2:DescribeLaunchTemplates",
        "ec2:DescribeLaunchTemplateVersions",
        "elasticloadbalancing:DescribeLoadBalancers",
        "route53:ListResourceRecordSets",
        "route53:GetHostedZone",
    )
    at = ("target", "source")
    Input = ReadyInput
    Output = ReadyOutput

    def start(self, ctx: Context, given: ReadyInput) -> Answer[ReadyOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: ReadyInput) -> Answer[ReadyOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        standby, image = standby_of(ctx, tier), image_of(ctx, tier)
        behind = [*(standby.raw.get("TargetGroupARNs") or []), *(standby.raw.get("LoadBalancerNames") or [])]
        there = first(images(site, [{"Name": "image-id", "Values": [image]}]))
        state = str(there["State"]) if there is not None else "gone"
        checks = [
            Seen.of(
                ctx,
                standby.name,
                bool(behind),
                ("behind a load balancer", ", ".join(behind) or "behind none"),
            ),
            Seen.of(ctx, image, state == "available", ("available", state)),
            self._entry(ctx, tier, given.weight),
            self._free(ctx, tier),
        ]
        bad = [item for item in checks if not item.ok]
        if bad:
            text = "; ".join(
                f"{item.name}: expected {item.expected}, observed {item.observed}" for item in bad
            )
            raise StepFailed(FailureClass.PRECONDITION, text)
        size = str(launched_by(site, standby.raw)[1].get("InstanceType") or "")
        return Done(ReadyOutput(checks=tuple(checks), image=image, type=size))

    @staticmethod
    def _free(ctx: Context, tier: Tier) -> Seen:
        """Nothing of somebody else's may stand under the names that the burst's own things will have."""
        found = squatters(ctx, tier)
        name, expected = resource_name(ctx.group.name, tier.name), "nothing of that name, or ours"
        return Seen.of(
            ctx, name, not found, (expected, f"{', '.join(found)} without our tag" if found else "free")
        )

    @staticmethod
    def _entry(ctx: Context, tier: Tier, weight: int | None) -> Seen:
        """The one entry point: the group's name, which leads to the active side by weights or by none."""
        traffic, front = ctx.group.traffic, front_tier(ctx)
        if traffic is None or front[1] is None or front[0].name != tier.name:
            name = f"tier {tier.name}"
            return Seen.of(ctx, name, False, ("the tier that the group's name leads to", "it is not"))
        sets = record_sets(ctx.site(traffic.site), traffic)
        wrong = _unweighable(sets)
        home = record_of(ctx.site(traffic.site), traffic)
        if wrong or not points_at(home, front_at(ctx, "source")):
            observed = wrong or "it leads elsewhere"
            return Seen.of(ctx, traffic.name, False, (f"a record that leads to {ctx.source}", observed))
        extra_record(ctx, plain_record(home) or {})
        short = unreachable(owned_weight(sets), weight) if weight is not None else ""
        if short:
            return Seen.of(ctx, traffic.name, False, (f"{weight} % of the users on {ctx.target}", short))
        return Seen.of(ctx, traffic.name, True, (f"leads to {ctx.source}", f"leads to {ctx.source}"))


def _unweighable(sets: list[Json]) -> str:
    """Why no weighted set can stand beside these; empty where one can.

    Where all weights are 0 Route 53 sends users to all alike, and one more set would get them all.
    """
    governed = [item for item in sets if "SetIdentifier" in item]
    if any(item.get("Weight") is None for item in governed):
        return "another routing policy"
    return "all its weights are 0" if governed and not any(int(item["Weight"]) for item in governed) else ""
