"""Letting a group go: its standbys, points and tags are removed, what runs on the active side stays.

Only what a create call of ours has made is deleted: it carries `drpilot:attempt` beside this group's tag. An adopted
original, such as the old primary after a move, carries `drpilot:standby` and no attempt: it keeps standing and only
loses our tags.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from drpilot.actions import balancers, launches
from drpilot.actions.fence import DENY
from drpilot.actions.members import group_view, site_name
from drpilot.actions.views import (
    Nothing,
    describe,
    images,
    instances,
    not_found,
    snapshots,
    tagged,
    tags_of,
    visible,
    volumes,
)
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
from drpilot.inventory.launching import launched_by

__all__ = ["Addresses", "Deny", "Groups", "Machines", "Points", "Tags", "Volumes"]

_TAGS_AT_ONCE = 200


class RetiredOutput(Model):
    """What is gone, by id or name."""

    site: str
    removed: tuple[str, ...] = ()


def _quietly(site: Site, service: str, operation: str, params: Json) -> None:
    """Delete; that it is gone already is as wanted."""
    try:
        site.call(service, operation, params)
    except CloudError as error:
        if not not_found(error):
            raise


def _made(ctx: Context, **more: str) -> list[Json]:
    return tagged(group=ctx.group.name, attempt="", **more)


class Groups(Action[Nothing, RetiredOutput]):
    """Delete the standby scaling groups, load balancers, launch templates and configurations that we made on the
    target.

    A launch configuration that a group which is just ending launches from is refused (ResourceInUse) and tried again.
    """

    name = "retire.groups"
    summary = "delete the standby scaling groups, load balancers and launch templates that we made"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    permissions = (
        "autoscaling:DeleteAutoScalingGroup",
        "autoscaling:DescribeAutoScalingGroups",
        "elasticloadbalancing:DeleteLoadBalancer",
        "elasticloadbalancing:DeleteTargetGroup",
        "elasticloadbalancing:DescribeLoadBalancers",
        "elasticloadbalancing:DescribeTargetGroups",
        "elasticloadbalancing:DescribeTags",
        "autoscaling:DeleteLaunchConfiguration",
        "autoscaling:DescribeLaunchConfigurations",
        "ec2:DeleteLaunchTemplate",
        "ec2:DescribeLaunchTemplates",
    )
    Input = Nothing
    Output = RetiredOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[RetiredOutput]:
        site = ctx.site("target")
        for name in self._groups(ctx, site):
            params: Json = {"AutoScalingGroupName": name, "ForceDelete": True}
            _quietly(site, "autoscaling", "DeleteAutoScalingGroup", params)
        balancers.remove(site, balancers.removable(ctx, site))
        for id_ in self._templates(ctx, site):
            _quietly(site, "ec2", "DeleteLaunchTemplate", {"LaunchTemplateId": id_})
        launches.remove(site, launches.configurations(site, ctx.group.name))
        return visible(self.observe, ctx, given)

    @staticmethod
    def _groups(ctx: Context, site: Site) -> list[str]:
        names = [tier.scaling_group_name for tier in ctx.group.tiers if tier.scaling_group_name]
        found = [group_view(site, name) for name in names]
        return [item.name for item in found if item is not None and "drpilot:standby" in tags_of(item.raw)]

    @staticmethod
    def _templates(ctx: Context, site: Site) -> list[str]:
        if "ec2:CreateLaunchTemplateVersion" not in site.capabilities:
            return []  # nothing is launched from templates there, so none was made
        found = describe(site, "DescribeLaunchTemplates", "LaunchTemplates", _made(ctx, standby=""))
        return [item["LaunchTemplateId"] for item in found]

    def observe(self, ctx: Context, given: Nothing) -> Answer[RetiredOutput]:
        site = ctx.site("target")
        left = [*self._groups(ctx, site), *(one[0] for _, one in balancers.removable(ctx, site))]
        left += [*self._templates(ctx, site), *launches.configurations(site, ctx.group.name)]
        if left:
            return Unseen(True, f"{', '.join(left)} still stand")
        return Done(RetiredOutput(site=ctx.target))


class Machines(Action[Nothing, RetiredOutput]):
    """Terminate the standby instances that we made on the target; their termination protection is ours to lift."""

    name = "retire.machines"
    summary = "terminate the standby instances that we made"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    permissions = ("ec2:TerminateInstances", "ec2:ModifyInstanceAttribute", "ec2:DescribeInstances")
    Input = Nothing
    Output = RetiredOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[RetiredOutput]:
        site = ctx.site("target")
        found = instances(site, _made(ctx, standby=""))
        for instance in found:
            if instance["State"]["Name"] not in ("stopped", "stopping"):
                text = f"{instance['InstanceId']} is {instance['State']['Name']}: only a standby at rest is removed"
                raise StepFailed(FailureClass.CONFLICT, text)
        for instance in found:
            id_ = instance["InstanceId"]
            if "termination-protection" in site.capabilities:
                params: Json = {"InstanceId": id_, "DisableApiTermination": {"Value": False}}
                site.call("ec2", "ModifyInstanceAttribute", params)
            _quietly(site, "ec2", "TerminateInstances", {"InstanceIds": [id_]})
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[RetiredOutput]:
        found = instances(ctx.site("target"), _made(ctx, standby=""), dead=True)
        alive = [
            item["InstanceId"]
            for item in found
            if item["State"]["Name"] not in ("terminated", "shutting-down")
        ]
        if alive:
            return Unseen(True, f"{', '.join(alive)} still stand")
        if any(item["State"]["Name"] == "shutting-down" for item in found):
            return Waiting({}, after_s=3.0)
        return Done(RetiredOutput(site=ctx.target, removed=tuple(item["InstanceId"] for item in found)))


class Addresses(Action[Nothing, RetiredOutput]):
    """Release the elastic addresses that we allocated on the target; one that is bound to a machine that stays, stays.

    An ended machine lets its address go (EC2 user guide, "Elastic IP addresses"), which may take a moment to be seen.
    """

    name = "retire.addresses"
    summary = "release the elastic addresses that we allocated for standbys"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    permissions = ("ec2:ReleaseAddress", "ec2:DescribeAddresses", "ec2:DescribeInstances")
    Input = Nothing
    Output = RetiredOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[RetiredOutput]:
        site = ctx.site("target")
        for address in self._made(ctx, site):
            if not address.get("AssociationId"):
                _quietly(site, "ec2", "ReleaseAddress", {"AllocationId": address["AllocationId"]})
        return visible(self.observe, ctx, given)

    @staticmethod
    def _made(ctx: Context, site: Site) -> list[Json]:
        if "address-tags" not in site.capabilities:
            return []  # none was allocated where it could not be marked
        return describe(site, "DescribeAddresses", "Addresses", _made(ctx, standby=""))

    def observe(self, ctx: Context, given: Nothing) -> Answer[RetiredOutput]:
        site = ctx.site("target")
        found = self._made(ctx, site)
        free = [item["AllocationId"] for item in found if not item.get("AssociationId")]
        if free:
            return Unseen(True, f"{', '.join(free)} still stand")
        holders = sorted({str(item["InstanceId"]) for item in found if item.get("InstanceId")})
        if holders:
            filters: list[Json] = [{"Name": "instance-id", "Values": holders}]
            standing = {item["InstanceId"] for item in instances(site, filters)}
            if standing < set(holders):
                return Waiting({}, after_s=3.0, note="ended machines still hold an address")
        return Done(RetiredOutput(site=ctx.target))


class Volumes(Action[Nothing, RetiredOutput]):
    """Delete volumes of ours on the target that belong to no instance any more, superseded ones included."""

    name = "retire.volumes"
    summary = "delete our volumes that belong to no instance any more"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    permissions = ("ec2:DeleteVolume", "ec2:DescribeVolumes")
    Input = Nothing
    Output = RetiredOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[RetiredOutput]:
        site = ctx.site("target")
        for volume in self._left(ctx):
            _quietly(site, "ec2", "DeleteVolume", {"VolumeId": volume["VolumeId"]})
        return visible(self.observe, ctx, given)

    @staticmethod
    def _left(ctx: Context) -> list[Json]:
        found = volumes(ctx.site("target"), _made(ctx))
        return [item for item in found if item["State"] in ("available", "error")]

    def observe(self, ctx: Context, given: Nothing) -> Answer[RetiredOutput]:
        left = self._left(ctx)
        if left:
            return Unseen(True, f"{len(left)} volumes still stand")
        return Done(RetiredOutput(site=ctx.target))


def _each_side(ctx: Context, act: Callable[[Site], None]) -> None:
    for role in ("target", "source"):
        act(ctx.site(role))


class Points(Action[Nothing, RetiredOutput]):
    """Delete all images and snapshots of the group's points on both sides, but what a machine still boots from."""

    name = "retire.points"
    summary = "delete all images and snapshots of the group's points, on both sides"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    permissions = ("ec2:DeregisterImage", "ec2:DeleteSnapshot", "ec2:DescribeImages", "ec2:DescribeSnapshots")
    at = ("target", "source")
    Input = Nothing
    Output = RetiredOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[RetiredOutput]:
        _each_side(ctx, lambda site: self._delete(ctx, site))
        return visible(self.observe, ctx, given)

    def _delete(self, ctx: Context, site: Site) -> None:
        found, backing = self._left(ctx, site)
        for image in found:
            _quietly(site, "ec2", "DeregisterImage", {"ImageId": image})
        for snapshot in backing:
            _quietly(site, "ec2", "DeleteSnapshot", {"SnapshotId": snapshot})

    @staticmethod
    def _left(ctx: Context, site: Site) -> tuple[list[str], list[str]]:
        """Images and snapshots to go; an image that a scaling group of the group launches stays, and what backs it."""
        launched = _launched(ctx, site)
        found = images(site, _made(ctx, point=""))
        kept = [item for item in found if item["ImageId"] in launched]
        backing = {
            (mapping.get("Ebs") or {}).get("SnapshotId")
            for item in kept
            for mapping in item.get("BlockDeviceMappings") or []
        }
        going = [item["ImageId"] for item in found if item["ImageId"] not in launched]
        listed = [item["SnapshotId"] for item in snapshots(site, _made(ctx, point=""))]
        return going, [item for item in listed if item not in backing]

    def observe(self, ctx: Context, given: Nothing) -> Answer[RetiredOutput]:
        left = [
            part for role in ("target", "source") for side in self._left(ctx, ctx.site(role)) for part in side
        ]
        if left:
            return Unseen(True, f"{len(left)} images and snapshots still stand")
        return Done(RetiredOutput(site=ctx.target))


def _launched(ctx: Context, site: Site) -> set[str]:
    """Images that the group's scaling groups on a site launch."""
    found = set()
    for tier in ctx.group.tiers:
        group = group_view(site, tier.scaling_group_name) if tier.scaling_group_name else None
        image = launched_by(site, group.raw)[1].get("ImageId") if group is not None else None
        if image:
            found.add(str(image))
    return found


class Deny(Action[Nothing, RetiredOutput]):
    """Delete the fence's deny-all groups that we made, on both sides; one that a machine is in stays."""

    name = "retire.deny"
    summary = "delete the fence's deny-all security groups"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    permissions = ("ec2:DeleteSecurityGroup", "ec2:DescribeSecurityGroups")
    at = ("target", "source")
    Input = Nothing
    Output = RetiredOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[RetiredOutput]:
        _each_side(ctx, lambda site: self._delete(ctx, site))
        return visible(self.observe, ctx, given)

    @staticmethod
    def _left(ctx: Context, site: Site) -> list[str]:
        filters = [*_made(ctx, fence=""), {"Name": "group-name", "Values": [DENY]}]
        found = [
            item["GroupId"] for item in describe(site, "DescribeSecurityGroups", "SecurityGroups", filters)
        ]
        if not found or "vpc" not in site.capabilities:
            return []  # without networks no group was made: nobody can be put into one later
        faces = describe(
            site, "DescribeNetworkInterfaces", "NetworkInterfaces", [{"Name": "group-id", "Values": found}]
        )
        used = {item["GroupId"] for face in faces for item in face.get("Groups") or []}
        return [item for item in found if item not in used]

    def _delete(self, ctx: Context, site: Site) -> None:
        for group in self._left(ctx, site):
            _quietly(site, "ec2", "DeleteSecurityGroup", {"GroupId": group})

    def observe(self, ctx: Context, given: Nothing) -> Answer[RetiredOutput]:
        left = [item for role in ("target", "source") for item in self._left(ctx, ctx.site(role))]
        if left:
            return Unseen(True, f"{', '.join(left)} still stand")
        return Done(RetiredOutput(site=ctx.target))


class Tags(Action[Nothing, RetiredOutput]):
    """Take our tags off what stays on both sides: machines, their volumes, images and scaling groups."""

    name = "retire.tags"
    summary = "take our tags off what stays"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    permissions = (
        "ec2:DeleteTags",
        "ec2:DescribeTags",
        "autoscaling:DeleteTags",
        "autoscaling:DescribeAutoScalingGroups",
    )
    at = ("target", "source")
    Input = Nothing
    Output = RetiredOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[RetiredOutput]:
        _each_side(ctx, lambda site: self._strip(ctx, site))
        return visible(self.observe, ctx, given)

    def _strip(self, ctx: Context, site: Site) -> None:
        ids = self._resources(ctx, site)
        for start in range(0, len(ids), _TAGS_AT_ONCE):
            chosen = ids[start : start + _TAGS_AT_ONCE]
            keys = sorted({item["Key"] for item in self._all(site, chosen)})
            params: Json = {"Resources": chosen, "Tags": [{"Key": key} for key in keys]}
            site.call("ec2", "DeleteTags", params)
        for name, keys in self._groups(ctx, site):
            tags = [{"Key": key, "ResourceId": name, "ResourceType": "auto-scaling-group"} for key in keys]
            site.call("autoscaling", "DeleteTags", {"Tags": tags})

    @staticmethod
    def _resources(ctx: Context, site: Site) -> list[str]:
        """What carries this group's tag and still stands (a terminated instance stays listed for an hour)."""
        filters: list[Json] = [
            {"Name": "key", "Values": ["drpilot:group"]},
            {"Name": "value", "Values": [ctx.group.name]},
        ]
        found = {item["ResourceId"] for item in describe(site, "DescribeTags", "Tags", filters)}
        machines = sorted(id_ for id_ in found if id_.startswith("i-"))
        if machines:
            listed = instances(site, [{"Name": "instance-id", "Values": machines}])
            found -= set(machines) - {item["InstanceId"] for item in listed}
        return sorted(found)

    @staticmethod
    def _all(site: Site, ids: Iterable[str]) -> list[Json]:
        filters: list[Json] = [
            {"Name": "resource-id", "Values": list(ids)},
            {"Name": "key", "Values": ["drpilot:*"]},
        ]
        return describe(site, "DescribeTags", "Tags", filters)

    @staticmethod
    def _groups(ctx: Context, site: Site) -> list[tuple[str, list[str]]]:
        found = []
        for tier in ctx.group.tiers:
            group = group_view(site, tier.scaling_group_name) if tier.scaling_group_name else None
            keys = (
                [key for key in tags_of(group.raw) if key.startswith("drpilot:")] if group is not None else []
            )
            if group is not None and keys:
                found.append((group.name, keys))
        return found

    def observe(self, ctx: Context, given: Nothing) -> Answer[RetiredOutput]:
        left: list[str] = []
        for role in ("target", "source"):
            site = ctx.site(role)
            left += self._resources(ctx, site) + [name for name, _ in self._groups(ctx, site)]
        if left:
            return Unseen(True, f"{', '.join(left)} still carry our tags")
        return Done(RetiredOutput(site=site_name(ctx, "target")))
