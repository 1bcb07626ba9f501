"""The fence: a ladder of rungs that keep the old side from writing, each applied, then seen.

Rungs (the group's `fence`): `scale` (groups to 0, launching suspended), `stop` (instances stopped),
`deny` (only the security group `drpilot-deny`, which lets nothing in or out). `traffic` is the runbook's
own step later. What the ladder came to is a verdict: `fenced` only if no writer is left by observation. A
site that can't be seen is `unverified`, within seconds: a dead primary must not hold up a failover.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import timedelta

from pydantic import Field

from drpilot.actions.growth import Numbers, set_numbers, stop_instances
from drpilot.actions.members import GroupView, group_view, key_of, members, site_name, writers
from drpilot.actions.views import (
    ALIVE,
    DEAD,
    describe,
    instances,
    not_found,
    specification,
    visible,
    within,
)
from drpilot.domain.fence import Rung, Verdict, verdict
from drpilot.domain.group import Tier
from drpilot.domain.plain import Json
from drpilot.domain.plan import Call
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
    Site,
    StepFailed,
    Unseen,
    Waiting,
)

__all__ = [
    "DENY",
    "GROUPS_TAG",
    "Apply",
    "Prepare",
    "SiteInput",
    "closed_groups",
    "frozen_numbers",
    "frozen_running",
]

DENY = "drpilot-deny"
"""Name of the security group without rules that the rung `deny` puts on instances."""

_LOOK_S = 6.0  # a look at the old side; two of them stay well below the 15 s a failover may lose here
_ACT_S = 8.0
_PATIENCE = timedelta(seconds=120)
_PATIENCE_MISSING = timedelta(seconds=10)  # reads lag by seconds; what is not listed then will not be
GROUPS_TAG = "drpilot:groups-before"
"""Tag that keeps the security groups an instance had before the rung `deny`."""
_TRIED = "tried"


class SiteInput(Model):
    """A site, by role or name."""

    site: str = "source"


class PrepareOutput(Model):
    """Ids of the deny-all groups by VPC; empty where the ladder has no such rung."""

    site: str
    groups: dict[str, str] = Field(default_factory=dict)


def _networks(ctx: Context, site: Site) -> list[str]:
    """The VPCs in which instances of the group's instance tiers lie."""
    found = {
        item["VpcId"] for tier in ctx.group.tiers for item in members(ctx, site, tier) if item.get("VpcId")
    }
    return sorted(found)


def _deny_groups(site: Site, vpcs: list[str]) -> dict[str, Json]:
    if not vpcs:
        return {}
    filters: list[Json] = [{"Name": "vpc-id", "Values": vpcs}, {"Name": "group-name", "Values": [DENY]}]
    return {
        item["VpcId"]: item for item in describe(site, "DescribeSecurityGroups", "SecurityGroups", filters)
    }


def closed_groups(site: Site, machines: Iterable[Json]) -> dict[str, str]:
    """The deny-all groups that really let nothing through, by VPC of `machines`."""
    vpcs = sorted({item["VpcId"] for item in machines if item.get("VpcId")})
    return {vpc: group["GroupId"] for vpc, group in _deny_groups(site, vpcs).items() if not _rules(group)}


class Prepare(Action[SiteInput, PrepareOutput]):
    """Have the deny-all group ready on a site, before the night it is needed.

    A group's name is unique in its VPC (InvalidGroup.Duplicate), so it can't be made twice; a fresh group
    lets everything out (EC2 user guide, "Default security group rules"), which is revoked.
    """

    name = "fence.prepare"
    summary = "have the deny-all security group ready on a site"
    idempotency = Idempotency.RERUN
    effect = Effect.CREATE
    permissions = (
        "ec2:CreateSecurityGroup",
        "ec2:RevokeSecurityGroupEgress",
        "ec2:RevokeSecurityGroupIngress",
        "ec2:CreateTags",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeInstances",
    )
    at = ("site",)
    Input = SiteInput
    Output = PrepareOutput

    def start(self, ctx: Context, given: SiteInput) -> Answer[PrepareOutput]:
        if "deny" in ctx.group.fence:
            site = ctx.site(given.site)
            vpcs = _networks(ctx, site)
            found = _deny_groups(site, vpcs)
            for vpc in vpcs:
                if vpc not in found:
                    params: Json = {
                        "GroupName": DENY,
                        "Description": "drpilot: lets nothing in or out; the fence puts it on instances",
                        "VpcId": vpc,
                        "TagSpecifications": [specification("security-group", ctx.tags(fence="deny"))],
                    }
                    site.call("ec2", "CreateSecurityGroup", params)
            for group in _deny_groups(site, vpcs).values():
                _empty(site, group)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: SiteInput) -> Answer[PrepareOutput]:
        name = site_name(ctx, given.site)
        if "deny" not in ctx.group.fence:
            return Done(PrepareOutput(site=name))
        site = ctx.site(given.site)
        vpcs = _networks(ctx, site)
        found = _deny_groups(site, vpcs)
        lacking = [vpc for vpc in vpcs if vpc not in found]
        if lacking:
            return Unseen(True, f"no group {DENY} in {', '.join(lacking)}")
        open_ = [item["GroupId"] for item in found.values() if _rules(item)]
        if open_:
            return Unseen(True, f"{', '.join(open_)} still has rules")
        return Done(PrepareOutput(site=name, groups={vpc: item["GroupId"] for vpc, item in found.items()}))


def _rules(group: Json) -> list[Json]:
    return [*(group.get("IpPermissions") or []), *(group.get("IpPermissionsEgress") or [])]


def _empty(site: Site, group: Json) -> None:
    """Take every rule out of a group of ours."""
    for key, operation in (
        ("IpPermissions", "RevokeSecurityGroupIngress"),
        ("IpPermissionsEgress", "RevokeSecurityGroupEgress"),
    ):
        rules = [
            {name: part for name, part in rule.items() if part not in ([], None)}
            for rule in group.get(key) or []
        ]
        if rules:
            site.call("ec2", operation, {"GroupId": group["GroupId"], "IpPermissions": rules})


class ApplyInput(SiteInput):
    """A site, by role or name; `verified` makes the step fail where the fence can't be seen to hold."""

    verified: bool = False


class ApplyOutput(Model):
    """The verdict, each rung (name, applied, verified, detail, writers_left), and what to restore on
    release.
    """

    site: str
    verdict: str
    rungs: tuple[dict[str, object], ...]
    writers_left: int | None = None
    numbers: dict[str, Numbers] = Field(default_factory=dict)
    instances: tuple[str, ...] = ()
    unreachable: str = ""


@dataclass(slots=True)
class _Scene:
    """What a look at the old side saw: groups by name, instances of the tiers, writers left.

    `missing` names members that must be there and were not seen: a listing that lost them (a tag that was
    taken away) is no proof that they do not write.
    """

    groups: dict[str, GroupView | None] = field(default_factory=dict)
    instances: list[Json] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    deny: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


class Apply(Action[ApplyInput, ApplyOutput]):
    """Apply the ladder to the old side and say what was seen of it.

    All rungs are applied at once and are set states, safe to repeat. The look counts every instance of
    the group's tiers that may still write, those that appeared meanwhile included. Numbers and instances
    to restore come from the group as frozen into the run, so that nothing is forgotten in a crash.
    """

    name = "fence.apply"
    summary = "keep the old side from writing, and see that it can't"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    protects = True
    permissions = (
        "autoscaling:UpdateAutoScalingGroup",
        "autoscaling:SuspendProcesses",
        "autoscaling:DescribeAutoScalingGroups",
        "ec2:StopInstances",
        "ec2:ModifyInstanceAttribute",
        "ec2:CreateTags",
        "ec2:DescribeInstances",
        "ec2:DescribeSecurityGroups",
    )
    at = ("site",)
    Input = ApplyInput
    Output = ApplyOutput

    def start(self, ctx: Context, given: ApplyInput) -> Answer[ApplyOutput]:
        site = ctx.site(given.site)
        try:
            scene = within(_LOOK_S, site, lambda bound: _look(ctx, bound))
        except CloudError as error:
            return self._unseen(ctx, given, error)
        refused: list[str] = []
        rungs = [name for name in ctx.group.fence if name in _RUNGS]
        ctx.checkpoint({_TRIED: rungs})  # a site that goes silent from here on may have taken them
        for name in rungs:
            try:
                within(_ACT_S, site, lambda bound, rung=_RUNGS[name]: rung(bound, scene))  # type: ignore[misc]
            except CloudError as error:
                refused.append(f"{name}: {error.code}")  # the other rungs are tried all the same
        # The verdict is the next look's: it knows what was tried.
        return Waiting({}, after_s=0.0, note="; ".join(["every rung was asked for", *refused]))

    def observe(self, ctx: Context, given: ApplyInput) -> Answer[ApplyOutput]:
        return self._seen(ctx, given)

    def _seen(self, ctx: Context, given: ApplyInput) -> Answer[ApplyOutput]:
        site = ctx.site(given.site)
        try:
            scene = within(_LOOK_S, site, lambda bound: _look(ctx, bound))
        except CloudError as error:
            return self._unseen(ctx, given, error)
        rungs, since = _rungs(ctx, scene), ctx.clock.now() - ctx.intended_at
        found = verdict(rungs)
        hopeless = scene.missing and not scene.left and since >= _PATIENCE_MISSING
        if found is not Verdict.FENCED and since < _PATIENCE and not hopeless:
            waiting = [rung for rung in rungs if rung.applied and not rung.verified]
            if scene.missing and not scene.left:
                note = f"nothing is left that may write, but not seen: {', '.join(scene.missing)}"
                return Waiting({}, after_s=2.0, note=note)
            if waiting and not _undone(ctx, scene):
                note = f"{len(scene.left)} writers left; {', '.join(rung.name for rung in waiting)} under way"
                return Waiting({}, after_s=2.0, note=note)
            return Unseen(True, f"{len(scene.left)} writers left on {site.name}, not every rung is applied")
        return self._done(ctx, given, rungs, found)

    def _done(
        self, ctx: Context, given: ApplyInput, rungs: list[Rung], found: Verdict, unreachable: str = ""
    ) -> Done[ApplyOutput]:
        name = site_name(ctx, given.site)
        if given.verified and found is not Verdict.FENCED:
            text = f"{name} is not fenced for certain: {found.value}" + (
                f", {unreachable}" if unreachable else ""
            )
            raise StepFailed(
                FailureClass.PRECONDITION, text, data={"rungs": [asdict(rung) for rung in rungs]}
            )
        output = ApplyOutput(
            site=name,
            verdict=found.value,
            rungs=tuple(asdict(rung) for rung in rungs),
            writers_left=None if unreachable else max((rung.writers_left for rung in rungs), default=0),
            numbers=frozen_numbers(ctx),
            instances=frozen_running(ctx),
            unreachable=unreachable,
        )
        warning = ""
        if found is not Verdict.FENCED:
            warning = f"{name} is not fenced for certain: {found.value}" + (
                f" ({unreachable})" if unreachable else ""
            )
        return Done(output, _moves(name, output), warning)

    def _unseen(self, ctx: Context, given: ApplyInput, error: CloudError) -> Done[ApplyOutput]:
        """The verdict on a site that does not answer: `partial` where rungs were asked for before it went
        silent, so that nobody later takes it for a side that was never touched.
        """
        tried = (ctx.resume or {}).get(_TRIED) or ()
        rungs = [Rung(name, name in tried, verified=False, detail=error.code) for name in ctx.group.fence]
        return self._done(ctx, given, rungs, verdict(rungs), f"{error.code}: {error.message}"[:300])

    def undo(self, given: ApplyInput, output: ApplyOutput | None) -> Call | None:
        if output is None:  # it failed half way: what to give back is in the group as frozen
            return Call("fence.release", {"site": given.site})
        numbers = {name: value.model_dump() for name, value in output.numbers.items()}
        return Call(
            "fence.release", {"site": given.site, "numbers": numbers, "instances": list(output.instances)}
        )


def frozen_numbers(ctx: Context) -> dict[str, Numbers]:
    """The numbers of the source's groups as frozen into the run."""
    groups = [tier.scaling_group for tier in ctx.group.tiers if tier.scaling_group is not None]
    return {group.key: Numbers.of(group) for group in groups}


def frozen_running(ctx: Context) -> tuple[str, ...]:
    """The source's instances that ran when the group was frozen into the run."""
    return tuple(item.id for tier in ctx.group.tiers for item in tier.instances if item.state == "running")


def _moves(name: str, output: ApplyOutput) -> tuple[Move, ...]:
    event = {"fenced": "verified", "partial": "partly", "unverified": "unseen"}[output.verdict]
    data = {
        "verdict": output.verdict,
        "rungs": [dict(rung) for rung in output.rungs],
        "seen": not output.unreachable,
        "writers_left": output.writers_left,
    }
    facts = {"write_blocked_observed": output.verdict == "fenced"}
    return (
        Move("fence", name, "request"),
        Move("fence", name, "apply"),
        Move("fence", name, event, facts, data),
    )


def _look(ctx: Context, site: Site) -> _Scene:
    scene = _Scene()
    for tier in ctx.group.tiers:
        if tier.scaling_group is not None:
            scene.groups[tier.scaling_group.key] = group_view(site, tier.scaling_group.key)
            if scene.groups[tier.scaling_group.key] is None:
                scene.missing.append(tier.scaling_group.key)
        else:
            _look_at_members(ctx, site, tier, scene)
    scene.deny = closed_groups(site, scene.instances)
    every = set(writers(ctx, site, ctx.group.tiers))
    every |= {item["InstanceId"] for item in scene.instances if item["State"]["Name"] in ALIVE}
    scene.left = sorted(every - {item["InstanceId"] for item in scene.instances if _denied(scene, item)})
    return scene


def _look_at_members(ctx: Context, site: Site, tier: Tier, scene: _Scene) -> None:
    """Add a tier's instances to the scene, those known by id only included, and what must be there and is not.

    Known are, by member key, the group as discovered on the source and the standby's facts. An id that is
    unknown to the cloud (InvalidInstanceID.NotFound) or terminated is certainly gone; a key without a known id
    must have been seen.
    """
    found = {item["InstanceId"]: item for item in members(ctx, site, tier, dead=True)}
    ids: dict[str, set[str]] = {item.key: set() for item in tier.instances}
    if site.name == ctx.source:
        for member in tier.instances:
            ids[member.key].add(member.id)
    for key, id_ in dict(ctx.standby(tier.name, site.name).facts.get("instances") or {}).items():
        ids.setdefault(str(key), set()).add(str(id_))
    hidden = sorted({id_ for known in ids.values() for id_ in known} - set(found))
    if hidden:
        filters: list[Json] = [{"Name": "instance-id", "Values": hidden}]
        found |= {item["InstanceId"]: item for item in instances(site, filters, dead=True)}
    seen = {key_of(item) for item in found.values()}
    for key, known in ids.items():
        absent = [id_ for id_ in sorted(known - set(found)) if not _gone(site, id_)]
        if absent or (not known and key not in seen):
            scene.missing += absent or [key]
    scene.instances += [item for item in found.values() if item["State"]["Name"] not in DEAD]


def _gone(site: Site, instance: str) -> bool:
    """Whether the cloud says of an id itself that there is no such instance."""
    try:
        described = describe(site, "DescribeInstances", "Reservations", InstanceIds=[instance])
    except CloudError as error:
        if not_found(error):
            return True
        raise
    return all(item["State"]["Name"] == "terminated" for each in described for item in each["Instances"])


def _denied(scene: _Scene, instance: Json) -> bool:
    groups = {item["GroupId"] for item in instance.get("SecurityGroups") or []}
    return groups == {scene.deny.get(instance.get("VpcId", ""))}


def _scale(site: Site, scene: _Scene) -> None:
    for name, group in scene.groups.items():
        if group is None:
            continue
        if not group.launch_suspended:
            params: Json = {"AutoScalingGroupName": name, "ScalingProcesses": ["Launch"]}
            site.call("autoscaling", "SuspendProcesses", params)
        if (group.minimum, group.desired) != (0, 0):
            set_numbers(site, name, Numbers(minimum=0, maximum=group.maximum, desired=0))


def _stop(site: Site, scene: _Scene) -> None:
    for state in ("running", "pending"):  # a pending one may be refused, and must not hold up the others
        stop_instances(
            site, [item["InstanceId"] for item in scene.instances if item["State"]["Name"] == state]
        )


def _deny(site: Site, scene: _Scene) -> None:
    """Cut off what has not stopped; its groups are noted on it first."""
    for instance in scene.instances:
        group = scene.deny.get(instance.get("VpcId", ""))
        if group is None or instance["State"]["Name"] not in ALIVE or _denied(scene, instance):
            continue
        before = ",".join(item["GroupId"] for item in instance.get("SecurityGroups") or [])
        id_ = instance["InstanceId"]
        site.call(
            "ec2", "CreateTags", {"Resources": [id_], "Tags": [{"Key": GROUPS_TAG, "Value": before[:256]}]}
        )
        site.call("ec2", "ModifyInstanceAttribute", {"InstanceId": id_, "Groups": [group]})


def _undone(ctx: Context, scene: _Scene) -> bool:
    """Whether something still has to be asked for: rungs of an earlier fence say nothing about what started since."""
    up = [item for item in scene.instances if item["State"]["Name"] in ("pending", "running")]
    groups = [group for group in scene.groups.values() if group is not None]
    wanting = [group for group in groups if group.minimum or group.desired or not group.launch_suspended]
    return ("stop" in ctx.group.fence and bool(up)) or ("scale" in ctx.group.fence and bool(wanting))


_RUNGS = {"scale": _scale, "stop": _stop, "deny": _deny}


def _rungs(ctx: Context, scene: _Scene) -> list[Rung]:
    """What is applied and verified of the group's ladder, by a look; nothing is while a member is missing."""
    left = len(scene.left)
    machines = any(tier.instances for tier in ctx.group.tiers)
    groups = [group for group in scene.groups.values() if group is not None]
    up = [item for item in scene.instances if item["State"]["Name"] in ALIVE]
    running = [item for item in up if item["State"]["Name"] in ("pending", "running")]
    wanting = [group for group in groups if group.minimum or group.desired or not group.launch_suspended]
    denied = [item for item in up if _denied(scene, item)]
    # No rung is proof beside a group that may launch writers again at any moment.
    calm = not scene.missing and not [
        item for item in groups if not item.launch_suspended and (item.minimum or item.desired)
    ]
    known = {
        "scale": (
            bool(groups) and not wanting,
            bool(groups) and not wanting and not any(group.alive for group in groups),
            f"{len(groups) - len(wanting)} of {len(groups)} groups at 0 and suspended",
        ),
        "stop": (
            machines and not running and (bool(scene.instances) or not scene.missing),
            machines and not up,
            f"{len(scene.instances) - len(up)} of {len(scene.instances)} instances stopped",
        ),
        "deny": (
            bool(denied) and len(denied) == len(up),
            bool(denied) and left == 0,
            f"{len(denied)} cut off",
        ),
        "traffic": (False, False, "by the step that switches traffic"),
    }
    rungs = []
    for name in ctx.group.fence:
        applied, verified, detail = known.get(name, (False, False, "not a rung of this version"))
        if scene.missing and name in _RUNGS:
            detail = f"{detail}; not seen: {', '.join(scene.missing)}"
        rungs.append(Rung(name, applied, verified and calm, detail, writers_left=left))
    return rungs
