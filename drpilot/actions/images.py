"""Images of a recovery point: a scaling group's image is copied, an instance's is registered from its
root.
"""

from __future__ import annotations

from dataclasses import dataclass

from drpilot.actions.carry import kms_key, volume_settings
from drpilot.actions.imagekeys import refuse_other_key
from drpilot.actions.members import instance_of, scaling_of, tier_of
from drpilot.actions.points import replica_move
from drpilot.actions.staging import cargo_of, root_of
from drpilot.actions.views import (
    first,
    images,
    made_here,
    specification,
    tagged,
    tags_of,
    visible,
)
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
    Unseen,
    Waiting,
)

__all__ = [
    "BY_HAND",
    "GONE",
    "SOURCE_SITE",
    "Adopt",
    "CopyImage",
    "Enrol",
    "Find",
    "Register",
    "standing",
]

BY_HAND = "by-hand"
"""The tier that an image carried by `drpilot image copy` is tagged with."""
SOURCE_SITE = "drpilot:source-site"
"""The tag with the site that such an image comes from."""
GONE = ("failed", "deregistered", "error", "invalid", "disabled")
"""Image states from which none becomes available by itself (EC2 API reference, Image)."""


class TierInput(Model):
    """One tier."""

    tier: str


class CopyInput(TierInput):
    """A tier, and what its image is called on the target; empty: named by drpilot."""

    name: str = ""


class ImageOutput(Model):
    """The image on the target; `adopted` if an earlier point's, or the original itself, is used."""

    image: str
    source_image: str
    adopted: bool = False


def standing(ctx: Context, given: TierInput) -> tuple[Json | None, bool]:
    """The image on the target, and whether it was there before this step; an available one before one on its way.

    StepFailed for one that a person brought and that is not encrypted as the group's machines are.
    """
    group = scaling_of(tier_of(ctx, given.tier))
    target = ctx.site("target")
    ours = tagged(group=ctx.group.name, member=group.key, source_image=group.image)
    by_hand = tagged(tier=BY_HAND, source_image=group.image)  # of no group, good for any
    for filters in (ours, by_hand):
        standing = [item for item in images(target, filters) if _usable(ctx, item)]
        if standing:
            run = ctx.tags()["drpilot:run"]
            chosen = min(
                standing, key=lambda item: (item["State"] != "available", str(item.get("CreationDate")))
            )
            marks = tags_of(chosen)
            if marks.get("drpilot:tier") == BY_HAND or "drpilot:attempt" not in marks:
                refuse_other_key(ctx, group.encrypted_key, chosen)
            return chosen, tags_of(chosen).get("drpilot:run") != run
    source = first(images(ctx.site("source"), [{"Name": "image-id", "Values": [group.image]}]))
    origin = tags_of(source or {}).get("drpilot:source-image")
    if origin:
        original = first(images(target, [{"Name": "image-id", "Values": [origin]}]))
        if original is not None and original["State"] == "available":
            return original, True
    return None, False


def _usable(ctx: Context, image: Json) -> bool:
    """Whether an image has not failed and is not of an image with the same id on a third site."""
    return image["State"] not in GONE and tags_of(image).get(SOURCE_SITE, ctx.source) == ctx.source


def _name(ctx: Context, given: TierInput) -> str:
    image = scaling_of(tier_of(ctx, given.tier)).image
    return f"drpilot-{ctx.group.name}-{given.tier}-{image}-{ctx.token[:8]}"[:128]


def _there(ctx: Context, given: TierInput, found: Json, *, adopted: bool) -> Done[ImageOutput]:
    """The image stands: the replica is complete."""
    group = scaling_of(tier_of(ctx, given.tier))
    data = {
        "tier": given.tier,
        "source_id": group.image,
        "id": found["ImageId"],
        "size_gib": 0,
        "facts": {"root_device": found.get("RootDeviceName"), "shared": True, "adopted": adopted},
    }
    moves = tuple(replica_move(ctx, ("image", group.key), event, data) for event in ("captured", "complete"))
    return Done(ImageOutput(image=found["ImageId"], source_image=group.image, adopted=adopted), moves)


class CopyImage(Action[CopyInput, ImageOutput]):
    """Bring a scaling group's image to the target, once for all points that use it.

    An earlier copy that still stands is adopted; on the way back the original is found by the copy's
    `drpilot:source-image` tag. CopyImage takes a ClientToken (EC2 API reference, CopyImage).
    """

    name = "image.copy"
    summary = "copy the image of a scaling group to the target, or adopt an earlier copy"
    idempotency = Idempotency.TOKEN
    effect = Effect.CREATE
    permissions = (
        "ec2:CopyImage",
        "ec2:CreateTags",
        "ec2:DescribeImages",
        "ec2:DescribeSnapshots",
        "kms:CreateGrant",
        "kms:DescribeKey",
    )
    at = ("target", "source")
    slot = "copy-snapshot"
    Input = CopyInput
    Output = ImageOutput

    def start(self, ctx: Context, given: CopyInput) -> Answer[ImageOutput]:
        group = scaling_of(tier_of(ctx, given.tier))
        found, _ = standing(ctx, given)
        if found is None:
            tags = ctx.tags(
                point=ctx.point_id, tier=given.tier, member=group.key, **{"source-image": group.image}
            )
            params: Json = {
                "Name": given.name or _name(ctx, given),
                "SourceImageId": group.image,
                "SourceRegion": ctx.site("source").region,
                "Description": f"drpilot:{ctx.name}/{ctx.path}",
                "TagSpecifications": [specification("image", tags), specification("snapshot", tags)],
            }
            if group.encrypted_key:
                params["Encrypted"] = True
                key = kms_key(ctx, group.encrypted_key)
                if key:
                    params["KmsKeyId"] = key
            ctx.site("target").call("ec2", "CopyImage", params, token=ctx.sub(group.key))
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: CopyInput) -> Answer[ImageOutput]:
        group = scaling_of(tier_of(ctx, given.tier))
        found, adopted = standing(ctx, given)
        if found is None:
            return Unseen(True, f"no copy of {group.image} on {ctx.target}")
        if found["State"] != "available":
            return Waiting({"image": found["ImageId"]}, after_s=10.0)
        return _there(ctx, given, found, adopted=adopted)


@dataclass(frozen=True, slots=True)
class _Disk:
    """What an image boots from: whose code it holds, as what it is attached, and its EbsBlockDevice."""

    architecture: str
    device: str
    ebs: Json


def _register(ctx: Context, target: Site, name: str, disk: _Disk, tags: dict[str, str]) -> None:
    """RegisterImage of a whole disk."""
    params: Json = {
        "Name": name,
        "Description": f"drpilot:{ctx.name}/{ctx.path}",
        "Architecture": disk.architecture,
        "RootDeviceName": disk.device,
        "VirtualizationType": "hvm",
        **({"EnaSupport": True} if "ena" in target.capabilities else {}),
        "BlockDeviceMappings": [{"DeviceName": disk.device, "Ebs": disk.ebs}],
        "TagSpecifications": [specification("image", tags)],
    }
    target.call("ec2", "RegisterImage", params)


class FoundOutput(Model):
    """The image on the target, empty where there is none yet; else what has to be carried for it."""

    image: str
    source_image: str
    root: str
    root_device: str
    architecture: str


class Find(Action[TierInput, FoundOutput]):
    """See whether a scaling group's image stands on the target already, as an earlier run made it.

    Where it does, the replica is complete and nothing has to be carried over the stage.
    """

    name = "image.find"
    summary = "see whether the image of a scaling group is on the target already"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    permissions = ("ec2:DescribeImages", "ec2:DescribeSnapshots", "kms:DescribeKey")
    at = ("target", "source")
    Input = TierInput
    Output = FoundOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[FoundOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: TierInput) -> Answer[FoundOutput]:
        group = scaling_of(tier_of(ctx, given.tier))
        found, adopted = standing(ctx, given)
        if found is not None:
            known = FoundOutput(
                image=found["ImageId"],
                source_image=group.image,
                root=root_of(found),
                root_device=str(found.get("RootDeviceName") or ""),
                architecture=str(found.get("Architecture") or ""),
            )
            if found["State"] != "available":
                return Waiting({"image": found["ImageId"]}, after_s=10.0)
            return Done(known, _there(ctx, given, found, adopted=adopted).moves)
        cargo = cargo_of(ctx, given.tier, group.key)
        source = first(images(ctx.site("source"), [{"Name": "image-id", "Values": [group.image]}])) or {}
        return Done(
            FoundOutput(
                image="",
                source_image=group.image,
                root=cargo.snapshot,
                root_device=str(source.get("RootDeviceName") or group.root_device),
                architecture=str(source.get("Architecture") or "x86_64"),
            )
        )


class EnrolInput(TierInput):
    """A tier, the snapshot on the target that its image's root was carried into, and what the image was like.

    `name` is what it is called there; empty: named by drpilot.
    """

    snapshot: str
    root_device: str
    architecture: str = "x86_64"
    name: str = ""


class Enrol(Action[EnrolInput, ImageOutput]):
    """Register a scaling group's image on the target from the carried snapshot of its root.

    RegisterImage takes no token: the image is found by its tags, or its description where it takes none.
    """

    name = "image.enrol"
    summary = "register the image of a scaling group from its carried root"
    idempotency = Idempotency.OBSERVE
    effect = Effect.CREATE
    permissions = (
        "ec2:RegisterImage",
        "ec2:CreateTags",
        "ec2:DescribeImages",
        "ec2:DescribeSnapshots",
        "kms:DescribeKey",
    )
    at = ("target", "source")
    Input = EnrolInput
    Output = ImageOutput

    def start(self, ctx: Context, given: EnrolInput) -> Answer[ImageOutput]:
        found, _ = standing(ctx, given)
        if found is None:
            group, target = scaling_of(tier_of(ctx, given.tier)), ctx.site("target")
            tags = ctx.tags(
                point=ctx.point_id, tier=given.tier, member=group.key, **{"source-image": group.image}
            )
            ebs: Json = {"SnapshotId": given.snapshot, "DeleteOnTermination": True}
            disk = _Disk(given.architecture, given.root_device, ebs)
            _register(ctx, target, given.name or _name(ctx, given), disk, tags)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: EnrolInput) -> Answer[ImageOutput]:
        found, adopted = standing(ctx, given)
        if found is None:
            return Unseen(False, f"no image of tier {given.tier} with this group's tags on {ctx.target}")
        if found["State"] != "available":
            return Waiting({"image": found["ImageId"]}, after_s=5.0)
        return _there(ctx, given, found, adopted=adopted)


class Adopt(Action[TierInput, ImageOutput]):
    """Wait until a person has brought a scaling group's image to the target, where nothing automatic can."""

    name = "image.adopt"
    summary = "wait for a person to bring the image of a scaling group to the target"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    permissions = ("ec2:DescribeImages", "ec2:DescribeSnapshots", "kms:DescribeKey")
    at = ("target", "source")
    Input = TierInput
    Output = ImageOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[ImageOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: TierInput) -> Answer[ImageOutput]:
        found, adopted = standing(ctx, given)
        if found is not None and found["State"] == "available":
            return _there(ctx, given, found, adopted=adopted)
        group = scaling_of(tier_of(ctx, given.tier))
        tags = f"drpilot:group={ctx.group.name} drpilot:member={group.key} drpilot:source-image={group.image}"
        note = f"waits for a person: register the image {group.image} of {ctx.source} on {ctx.target}, tagged {tags}"
        return Waiting({}, after_s=60.0, note=note)


class InstanceInput(Model):
    """One member instance of a tier."""

    tier: str
    instance: str


class Register(Action[InstanceInput, ImageOutput]):
    """Register a bootable image on the target from the copy of an instance's root snapshot.

    It maps the root device only: data volumes are restored from the point and attached. RegisterImage has no
    ClientToken; it is alone in its step and found by its tags (EC2 API reference, RegisterImage).
    """

    name = "image.register"
    summary = "register an image on the target from an instance's root snapshot"
    idempotency = Idempotency.OBSERVE
    effect = Effect.CREATE
    permissions = ("ec2:RegisterImage", "ec2:CreateTags", "ec2:DescribeImages")
    Input = InstanceInput
    Output = ImageOutput

    def start(self, ctx: Context, given: InstanceInput) -> Answer[ImageOutput]:
        target = ctx.site("target")
        if not [item for item in images(target, made_here(ctx)) if item["State"] not in GONE]:
            instance = instance_of(tier_of(ctx, given.tier), given.instance)
            root = first(volume for volume in instance.volumes if volume.root)
            if root is None:
                raise StepFailed(FailureClass.PRECONDITION, f"{instance.key} has no root volume to boot from")
            replica = ctx.point(ctx.point_id).replica(root.key, "snapshot")
            tags = ctx.tags(point=ctx.point_id, tier=given.tier, member=instance.key)
            ebs: Json = {
                "SnapshotId": replica.id,
                "VolumeSize": replica.size_gib,
                "DeleteOnTermination": root.delete_on_termination,
                **volume_settings(target, replica.facts),
            }
            name = f"drpilot-{ctx.group.name}-{instance.key}-{ctx.point_id}-{ctx.token[:8]}"[:128]
            _register(ctx, target, name, _Disk(instance.architecture, instance.root_device, ebs), tags)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: InstanceInput) -> Answer[ImageOutput]:
        instance = instance_of(tier_of(ctx, given.tier), given.instance)
        found = first(
            item for item in images(ctx.site("target"), made_here(ctx)) if item["State"] not in GONE
        )
        if found is None:
            return Unseen(False, f"no image of {instance.key} with this step's tags on {ctx.target}")
        if found["State"] != "available":
            return Waiting({"image": found["ImageId"]}, after_s=5.0)
        data = {
            "tier": given.tier,
            "source_id": instance.image,
            "id": found["ImageId"],
            "size_gib": 0,
            "facts": {
                "root_device": found.get("RootDeviceName") or instance.root_device,
                "instance": instance.key,
            },
        }
        moves = tuple(
            replica_move(ctx, ("image", instance.key), event, data) for event in ("captured", "complete")
        )
        return Done(ImageOutput(image=found["ImageId"], source_image=instance.image), moves)
