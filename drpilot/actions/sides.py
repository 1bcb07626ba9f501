"""Who runs on which side: the machines of a group that may write there at this moment."""

from __future__ import annotations

from collections.abc import Iterable

from drpilot.actions.fence import closed_groups
from drpilot.actions.members import Grouped, machines
from drpilot.actions.views import Nothing, tags_of
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
    Site,
    StepFailed,
)

__all__ = ["Sides", "running"]

_UP = ("pending", "running")


def running(who: Grouped, site: Site, *, standby: bool = False, runs: Iterable[str] = ()) -> tuple[str, ...]:
    """Ids of the instances of a group that run on `site` and may write, sorted.

    Not counted are those that one of `runs` made and one that only the deny-all group holds. On a `standby` side
    the instances that a scaling group keeps there by the group file (`standby.count`) are none either.
    """
    known, up = frozenset(runs), dict[str, Json]()
    for tier in who.group.tiers:
        found = {
            key: item
            for key, item in machines(who, site, tier).items()
            if item["State"]["Name"] in _UP and tags_of(item).get("drpilot:run") not in known
        }
        if not (standby and len(found) <= _kept(tier)):
            up |= found
    closed = closed_groups(site, up.values()) if up else {}
    return tuple(sorted(key for key, item in up.items() if not _cut_off(item, closed)))


def _kept(tier: Tier) -> int:
    return tier.standby.count if tier.scaling_group is not None else 0


def _cut_off(instance: Json, closed: dict[str, str]) -> bool:
    groups = {item["GroupId"] for item in instance.get("SecurityGroups") or []}
    return groups == {closed.get(instance.get("VpcId", ""))}


class SidesOutput(Model):
    """Ids of what ran on either side when it was looked at."""

    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()


class Sides(Action[Nothing, SidesOutput]):
    """Look at both sides: both must answer, and what is to go on (the target) must run."""

    name = "check.sides"
    summary = "both sides answer, and the one to go on with runs"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    permissions = ("ec2:DescribeInstances", "ec2:DescribeSecurityGroups")
    Input = Nothing
    Output = SidesOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[SidesOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[SidesOutput]:
        found = SidesOutput(source=running(ctx, ctx.site("source")), target=running(ctx, ctx.site("target")))
        if not found.target:
            text = f"nothing of {ctx.group.name} runs on {ctx.target}: it can't be the survivor"
            raise StepFailed(FailureClass.PRECONDITION, text, data=found.model_dump(mode="json"))
        return Done(found)
