"""Removing what a drill made, and nothing else: found by the run's tag and `drpilot:drill`, proven gone
by inventory.

Three steps, since a volume outlives its instance for a while and a network its machines:
`cleanup.machines`, `cleanup.volumes`, `cleanup.network`; then `cleanup.verify`. Without a run, what has
expired is removed.
"""

from __future__ import annotations

from collections.abc import Iterable

from drpilot.actions.members import site_name
from drpilot.actions.views import describe, instances, not_found, tagged, tags_of, visible, volumes
from drpilot.base.clock import parse_time
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

__all__ = ["Machines", "Networks", "Superseded", "Verify", "Volumes"]


class CleanInput(Model):
    """A site by role or name, and the drill whose things go: `this` run, or what has `expired`."""

    site: str = "target"
    what: str = "this"


class CleanOutput(Model):
    """What is gone, by id."""

    site: str
    removed: tuple[str, ...] = ()


def _mine(ctx: Context, given: CleanInput) -> list[Json]:
    """Filters for a drill's things: always `drpilot:drill` of this group, so that nothing else is ever
    found.
    """
    filters = [*tagged(group=ctx.group.name, drill="")]
    if given.what == "this":
        filters.append({"Name": "tag:drpilot:run", "Values": [ctx.tags()["drpilot:run"]]})
    return filters


def _due(ctx: Context, given: CleanInput, found: Iterable[Json]) -> list[Json]:
    """Of what was found, what may go: all of this run's; else what expired, and what says no time stays."""
    if given.what == "this":
        return list(found)
    due = []
    for item in found:
        expires = tags_of(item).get("drpilot:expires")
        try:
            if expires and parse_time(expires) <= ctx.clock.now():
                due.append(item)
        except ValueError:
            continue  # not a time of ours: nothing is deleted on a guess
    return due


def _has(site: Site, operation: str) -> bool:
    """Whether the site can have what the listing lists."""
    return operation not in _OF_NETWORKS or "vpc" in site.capabilities


def _listed(ctx: Context, given: CleanInput, site: Site, operation: tuple[str, str]) -> list[Json]:
    if not _has(site, operation[0]):
        return []
    return _due(ctx, given, describe(site, operation[0], operation[1], _mine(ctx, given)))


def _delete(site: Site, operation: str, params: Json) -> None:
    """Delete; that it is gone already is as wanted."""
    try:
        site.call("ec2", operation, params)
    except CloudError as error:
        if not not_found(error):
            raise


class Machines(Action[CleanInput, CleanOutput]):
    """Terminate the drill's instances and wait until they are gone.

    A drill that failed may have made something a moment ago that is not listed yet, so that nothing is believed gone
    before it must have been listed. This is the first step of a clean-up: those after it need not wait again.
    """

    name = "cleanup.machines"
    summary = "terminate the drill's instances"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    permissions = ("ec2:TerminateInstances", "ec2:DescribeInstances")
    at = ("site",)
    Input = CleanInput
    Output = CleanOutput

    def start(self, ctx: Context, given: CleanInput) -> Answer[CleanOutput]:
        site = ctx.site(given.site)
        ids = [item["InstanceId"] for item in _due(ctx, given, instances(site, _mine(ctx, given)))]
        if ids:
            _delete(site, "TerminateInstances", {"InstanceIds": ids})
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: CleanInput) -> Answer[CleanOutput]:
        site = ctx.site(given.site)
        found = _due(ctx, given, instances(site, _mine(ctx, given), dead=True))
        alive = [item for item in found if item["State"]["Name"] not in ("terminated", "shutting-down")]
        if alive:
            return Unseen(True, f"{len(alive)} instances of the drill still stand")
        ending = [item for item in found if item["State"]["Name"] == "shutting-down"]
        if ending:
            return Waiting(
                {}, after_s=3.0, progress=1 - len(ending) / len(found), note=f"{len(ending)} are ending"
            )
        unlisted_s = (ctx.intended_at - ctx.clock.now()).total_seconds() + ctx.settle_s
        if unlisted_s > 0:
            return Waiting({}, after_s=unlisted_s, note="what the drill made last may not be listed yet")
        removed = tuple(sorted(item["InstanceId"] for item in found))
        return Done(CleanOutput(site=site_name(ctx, given.site), removed=removed))


class Volumes(Action[CleanInput, CleanOutput]):
    """Delete the drill's volumes that did not go with their instances."""

    name = "cleanup.volumes"
    summary = "delete the drill's volumes"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    permissions = ("ec2:DeleteVolume", "ec2:DescribeVolumes")
    at = ("site",)
    Input = CleanInput
    Output = CleanOutput

    def start(self, ctx: Context, given: CleanInput) -> Answer[CleanOutput]:
        site = ctx.site(given.site)
        for volume in self._left(ctx, given):
            if volume["State"] in ("available", "error"):
                _delete(site, "DeleteVolume", {"VolumeId": volume["VolumeId"]})
        return visible(self.observe, ctx, given)

    @staticmethod
    def _left(ctx: Context, given: CleanInput) -> list[Json]:
        found = _due(ctx, given, volumes(ctx.site(given.site), _mine(ctx, given)))
        return [item for item in found if item["State"] not in ("deleting", "deleted")]

    def observe(self, ctx: Context, given: CleanInput) -> Answer[CleanOutput]:
        left = self._left(ctx, given)
        if any(item["State"] in ("in-use", "creating") for item in left):
            text = f"{', '.join(item['VolumeId'] for item in left)} are still in use"
            raise StepFailed(FailureClass.TRANSIENT, text)
        if left:
            return Unseen(True, f"{len(left)} volumes of the drill still stand")
        return Done(CleanOutput(site=site_name(ctx, given.site)))


_NETWORK = (
    (("DescribeSecurityGroups", "SecurityGroups"), "DeleteSecurityGroup", "GroupId"),
    (("DescribeSubnets", "Subnets"), "DeleteSubnet", "SubnetId"),
    (("DescribeVpcs", "Vpcs"), "DeleteVpc", "VpcId"),
)


class Networks(Action[CleanInput, CleanOutput]):
    """Delete the drill's security group, subnet and VPC, in this order.

    A network whose machines have just ended may still refuse (DependencyViolation); the step is tried again.
    """

    name = "cleanup.network"
    summary = "delete the drill's security group, subnet and network"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    permissions = (
        "ec2:DeleteSecurityGroup",
        "ec2:DeleteSubnet",
        "ec2:DeleteVpc",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSubnets",
        "ec2:DescribeVpcs",
    )
    at = ("site",)
    Input = CleanInput
    Output = CleanOutput

    def start(self, ctx: Context, given: CleanInput) -> Answer[CleanOutput]:
        site = ctx.site(given.site)
        for listing, operation, key in _NETWORK:
            for item in _listed(ctx, given, site, listing):
                try:
                    _delete(site, operation, {key: item[key]})
                except CloudError as error:
                    if error.code not in _IN_USE:
                        raise
                    raise StepFailed(FailureClass.TRANSIENT, f"{item[key]}: {error.message}") from None
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: CleanInput) -> Answer[CleanOutput]:
        site = ctx.site(given.site)
        left = [item[key] for listing, _, key in _NETWORK for item in _listed(ctx, given, site, listing)]
        if left:
            return Unseen(True, f"{', '.join(left)} still stand")
        return Done(CleanOutput(site=site_name(ctx, given.site)))


_OF_NETWORKS = ("DescribeNetworkInterfaces", "DescribeSubnets", "DescribeVpcs")
_IN_USE = ("DependencyViolation", "InvalidGroup.InUse")
_INVENTORY: tuple[tuple[str, str, str], ...] = (
    ("DescribeVolumes", "Volumes", "VolumeId"),
    ("DescribeSnapshots", "Snapshots", "SnapshotId"),
    ("DescribeImages", "Images", "ImageId"),
    ("DescribeNetworkInterfaces", "NetworkInterfaces", "NetworkInterfaceId"),
    ("DescribeSecurityGroups", "SecurityGroups", "GroupId"),
    ("DescribeSubnets", "Subnets", "SubnetId"),
    ("DescribeVpcs", "Vpcs", "VpcId"),
)


class VerifyOutput(Model):
    """The inventory by the run's tag was empty."""

    site: str
    looked_at: tuple[str, ...]


class Verify(Action[CleanInput, VerifyOutput]):
    """Prove by inventory that nothing of the drill is left; list what is."""

    name = "cleanup.verify"
    summary = "prove by inventory that nothing of the drill is left"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    permissions = (
        "ec2:DescribeInstances",
        "ec2:DescribeVolumes",
        "ec2:DescribeSnapshots",
        "ec2:DescribeImages",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSubnets",
        "ec2:DescribeVpcs",
    )
    at = ("site",)
    Input = CleanInput
    Output = VerifyOutput

    def start(self, ctx: Context, given: CleanInput) -> Answer[VerifyOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: CleanInput) -> Answer[VerifyOutput]:
        site = ctx.site(given.site)
        left = [item["InstanceId"] for item in _due(ctx, given, instances(site, _mine(ctx, given)))]
        for operation, member, key in _INVENTORY:
            found = _listed(ctx, given, site, (operation, member))
            left += [item[key] for item in found if item.get("State") not in ("deleting", "deleted")]
        if left:
            text = f"{len(left)} things are left on {site.name}: {', '.join(left)}"
            raise StepFailed(FailureClass.CONFLICT, text, data={"left": left})
        looked = ("DescribeInstances", *(item for item, _, _ in _INVENTORY if _has(site, item)))
        return Done(VerifyOutput(site=site_name(ctx, given.site), looked_at=looked))


class Superseded(Action[CleanInput, CleanOutput]):
    """Delete volumes that a committed move took off its machines.

    Only volumes marked `drpilot:superseded` by this group and attached to nothing; run after a commit,
    once a point of the new side is complete.
    """

    name = "cleanup.superseded"
    summary = "delete the volumes that a committed move replaced"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    permissions = ("ec2:DeleteVolume", "ec2:DescribeVolumes")
    at = ("site",)
    Input = CleanInput
    Output = CleanOutput

    def start(self, ctx: Context, given: CleanInput) -> Answer[CleanOutput]:
        site = ctx.site(given.site)
        for volume in self._left(ctx, site):
            _delete(site, "DeleteVolume", {"VolumeId": volume["VolumeId"]})
        return visible(self.observe, ctx, given)

    @staticmethod
    def _left(ctx: Context, site: Site) -> list[Json]:
        return [
            item
            for item in volumes(site, tagged(group=ctx.group.name, superseded=""))
            if item["State"] == "available"
        ]

    def observe(self, ctx: Context, given: CleanInput) -> Answer[CleanOutput]:
        left = self._left(ctx, ctx.site(given.site))
        if left:
            return Unseen(True, f"{len(left)} superseded volumes still stand")
        return Done(CleanOutput(site=site_name(ctx, given.site)))
