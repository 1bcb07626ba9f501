"""One image brought to another site by hand, by the way that both clouds allow.

The steps are those of a replication (actions/images.py, staging.py, importing.py, landing.py, mover.py), done for a
group of one tier that exists for this image alone. What stands on the target already is found by its tags and left as
it is; what an interrupted command made is gone on with. An image in a bucket takes the ways of imagebundles.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from drpilot.actions import images, importing, landing, mover, staging
from drpilot.actions.images import BY_HAND, SOURCE_SITE
from drpilot.actions.members import scaling_of
from drpilot.actions.views import Nothing, describe, first, tagged, tags_of
from drpilot.actions.views import images as images_of
from drpilot.base.errors import DrpilotError
from drpilot.base.ids import digest
from drpilot.domain.group import Group, Objectives, ScalingGroup, Staging, Tier
from drpilot.domain.path import ImageWay, image_way
from drpilot.domain.plain import Json
from drpilot.domain.ports import Answer, Done, FailureClass, Site, StepFailed, Waiting
from drpilot.services.byhand import Hand, Stage, Told, Works
from drpilot.services.imagebundles import Bundled, BundleKeys, Retarget, Unbundle, bundle_of
from drpilot.services.imageguide import by_hand

__all__ = ["Carried", "ImageCopy", "Planned", "copy_image", "plan_copy"]

_UNNAMEABLE = re.compile(r"[^A-Za-z0-9()./_-]+")  # what a Eucalyptus 4.4 refuses in a name; AWS takes more


@dataclass(frozen=True, slots=True)
class ImageCopy:
    """What a person asked for. `bucket` is where bytes lie on the way (a retargeted bundle: stays), `subnet` and
    `mover_image` where and from what a mover is launched; empty: found by drpilot.
    """

    image: str
    name: str = ""
    bucket: str = ""
    subnet: str = ""
    mover_image: str = ""
    private_key: RSAPrivateKey | None = field(default=None, repr=False)
    key_name: str = ""
    cloud_key: RSAPublicKey | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """What would be done: the image as the source describes it, the way, and the copy that stands already, or the one
    that is on its way there (`coming`).

    `notes` is what the copy won't have. `run` names the work: its tags, bucket and tokens are made of it.
    """

    wanted: ImageCopy
    run: str
    described: Json
    way: ImageWay
    name: str
    account: str
    there: Json | None = None
    coming: Json | None = None
    notes: tuple[str, ...] = ()

    @property
    def image(self) -> str:
        """The image as the source writes its id."""
        return str(self.described["ImageId"])


@dataclass(frozen=True, slots=True)
class Carried:
    """The image on the target; `already`: it was there before, ready to be launched."""

    image: str
    snapshot: str = ""
    location: str = ""
    already: bool = False


# -- looking ----------------------------------------------------------------------------------------------------------


def plan_copy(stage: Stage, wanted: ImageCopy) -> Planned:
    """Look at both sides and choose the way; nothing is changed.

    Raises CloudError, and DrpilotError `usage`, `unknown-image`, `image-unusable`.
    """
    source, target = stage.source, stage.target
    if source.name == target.name:
        what = f"{wanted.image} is on {source.name} already: --from and --to are one site"
        raise DrpilotError("usage", what=what, hint="drpilot site list")
    described = _described(source, wanted.image)
    accounts = [_account(source), _account(target)]
    image = str(described["ImageId"])
    name = wanted.name or _name_for(described)
    places = [*accounts, source.region, target.region, source.name, target.name]
    way = image_way(source.capabilities, target.capabilities, bundled=_is_bundled(described))
    if described.get("ProductCodes") and way.kind != "copy":
        way = ImageWay("manual", why="it has product codes, which only its own cloud can carry")
    if "/" in wanted.bucket and way.kind == "staged":
        what = f"--bucket {wanted.bucket}: the stage takes a bucket, and makes its own folder in it"
        raise DrpilotError("usage", what=what, hint="--bucket BUCKET")
    run = "image-" + digest([image, name, *places])[:12]
    planned = Planned(wanted, run, described, way, name, accounts[1], notes=tuple(_losses(described, way)))
    hand = Hand(stage, _group(planned, stage), run, "", "", stage.clock.now(), _extra(stage))
    found, _ = images.standing(hand, images.TierInput(tier=BY_HAND))
    known = [*([found] if found is not None else []), *_carried_for_a_group(stage, image)]
    there = first(item for item in known if item["State"] == "available")
    return replace(planned, there=there, coming=first(known) if there is None else None)


def _described(source: Site, image: str) -> Json:
    found = images_of(source, [{"Name": "image-id", "Values": [image]}])
    # Ids of Eucalyptus 3.x are in capitals, and people type them as they please.
    same = first(item for item in found if str(item["ImageId"]).lower() == image.lower())
    if same is None:
        raise DrpilotError("unknown-image", image=image, site=source.name)
    if same.get("State") != "available":
        raise DrpilotError("image-unusable", image=image, site=source.name, what=f"it is {same.get('State')}")
    if same.get("ImageType", "machine") != "machine":
        raise DrpilotError(
            "image-unusable", image=image, site=source.name, what=f"it is a {same['ImageType']}, no machine"
        )
    return same


def _account(site: Site) -> str:
    return str(site.call("sts", "GetCallerIdentity", {})["Account"])


def _is_bundled(described: Json) -> bool:
    return described.get("RootDeviceType") == "instance-store" or not staging.root_of(described)


def _name_for(described: Json) -> str:
    """The name on the source, as both kinds of cloud take it."""
    name = _UNNAMEABLE.sub("-", str(described.get("Name") or ""))[:128]
    return name if len(name) >= 3 else f"image-{described['ImageId']}"


def _losses(described: Json, way: ImageWay) -> list[str]:
    """What the copy won't have, in words."""
    if way.kind == "copy":
        return []
    root = described.get("RootDeviceName")
    mapped = [
        str(item["DeviceName"])
        for item in described.get("BlockDeviceMappings") or []
        if (item.get("Ebs") or {}).get("SnapshotId") and item.get("DeviceName") != root
    ]
    found = [f"only the root is carried, not {', '.join(mapped)}"] if mapped else []
    if described.get("BootMode") in ("uefi", "uefi-preferred"):
        found.append(f"its boot mode is {described['BootMode']}; a cloud without UEFI does not boot it")
    return found


def _carried_for_a_group(stage: Stage, image: str) -> list[Json]:
    """The copies that replications made and that have not failed."""
    found = images_of(stage.target, tagged(source_image=image))
    ours = [item for item in found if tags_of(item).get(SOURCE_SITE, stage.source.name) == stage.source.name]
    return [item for item in ours if item["State"] not in images.GONE]


def _extra(stage: Stage) -> dict[str, str]:
    return {SOURCE_SITE: stage.source.name}


def _group(planned: Planned, stage: Stage) -> Group:
    """The group that exists for this image: its name is the work's, its one tier launches the image."""
    wanted = planned.wanted
    subnets: tuple[str, ...] = (wanted.subnet,) if wanted.subnet else ()
    if not subnets and planned.way.path.read == "mover" and "vpc" in stage.source.capabilities:
        subnets = _subnets(stage.source)
    scaled = ScalingGroup(planned.image, planned.image, "", 0, 0, 0, subnets=subnets)
    return Group(
        name=planned.run,
        primary=stage.source.name,
        secondary=stage.target.name,
        objectives=Objectives(0.0, 0.0),
        tiers=(Tier(BY_HAND, scaling_group=scaled),),
        staging=Staging(wanted.bucket, wanted.mover_image),
    )


def _subnets(source: Site) -> tuple[str, ...]:
    """Where a mover can stand: a default subnet, else any one where all are of one network; else a person says."""
    found = describe(source, "DescribeSubnets", "Subnets")
    defaults = [item for item in found if item.get("DefaultForAz")]
    usable = defaults or (found if len({item.get("VpcId") for item in found}) == 1 else [])
    if not usable:
        what = f"{source.name} has {len(found)} subnets, none of them a default one: where shall the mover stand?"
        raise DrpilotError("usage", what=what, hint="--subnet SUBNET; one that reaches the object store")
    return (min(str(item["SubnetId"]) for item in usable),)


# -- doing ------------------------------------------------------------------------------------------------------------


def copy_image(stage: Stage, planned: Planned, told: Told = lambda *_: None) -> Carried:
    """Carry the image, or go on with what an interrupted command began.

    Raises CloudError, and DrpilotError `image-by-hand`, `image-not-carried`, `copy-busy`, those of bundles and keys.
    """
    already = planned.there is not None
    if planned.there is not None and not _is_ours(planned):
        return _there(planned.there)
    works = Works(stage, _group(planned, stage), planned.run, _extra(stage), told)
    complete = False
    try:
        carried = replace(_carried(stage, _arrived(works, planned), works), already=already)
        complete = True
    except StepFailed as error:
        raise DrpilotError(
            "image-not-carried", image=planned.image, site=stage.target.name, what=error.message
        ) from error
    finally:
        works.close(complete=complete)
    return carried


def _carried(stage: Stage, planned: Planned, works: Works) -> Carried:
    if planned.there is not None and not _is_ours(planned):
        return _there(planned.there)
    if planned.there is None:
        _refuse_manual(stage, planned)
    bundled = _bundle(stage, planned) if planned.there is None else None
    return _WAYS[planned.way.kind](_Work(stage, planned, works, bundled))


def _arrived(works: Works, planned: Planned) -> Planned:
    """The plan once a copy that is on its way is there; one that comes to nothing is not taken."""
    if planned.coming is None:
        return planned
    arrival = _Arrival()
    try:
        works.do("wait", arrival, str(planned.coming["ImageId"]))
    except StepFailed as error:
        if error.kind is not FailureClass.PRECONDITION:
            raise
        return replace(planned, coming=None)
    return replace(planned, there=arrival.image, coming=None)


class _Arrival:
    """Wait for an image that somebody else, or an earlier command, has begun."""

    image: Json | None = None

    def start(self, ctx: Hand, given: str) -> Answer[images.ImageOutput]:
        """There is nothing to begin."""
        return self.observe(ctx, given)

    def observe(self, ctx: Hand, given: str) -> Answer[images.ImageOutput]:
        """The image, available; StepFailed (precondition) where it won't be."""
        self.image = first(images_of(ctx.site("target"), [{"Name": "image-id", "Values": [given]}]))
        if self.image is None or self.image["State"] in images.GONE:
            state = self.image["State"] if self.image is not None else "gone"
            raise StepFailed(FailureClass.PRECONDITION, f"{given} on {ctx.target} is {state}")
        if self.image["State"] != "available":
            return Waiting({"image": given}, after_s=10.0, note=f"{given} is {self.image['State']}")
        return Done(images.ImageOutput(image=given, source_image=scaling_of(ctx.group.tiers[0]).image))


def _is_ours(planned: Planned) -> bool:
    """Whether what stands was made by this very work, which may have left something to clear away."""
    return tags_of(planned.there or {}).get("drpilot:run") == planned.run


def _there(found: Json) -> Carried:
    return Carried(
        str(found["ImageId"]), staging.root_of(found), str(found.get("ImageLocation") or ""), already=True
    )


def _refuse_manual(stage: Stage, planned: Planned) -> None:
    if planned.way.kind == "manual":
        raise by_hand(stage, planned.described, planned.way)


def _bundle(stage: Stage, planned: Planned) -> Bundled | None:
    """The opened bundle where the way needs one."""
    if planned.way.kind not in ("unbundled", "retargeted"):
        return None
    wanted = planned.wanted
    keys = BundleKeys(wanted.private_key, wanted.key_name, wanted.cloud_key)
    return bundle_of(stage, planned.described, keys)


@dataclass(frozen=True, slots=True)
class _Work:
    """One work under way."""

    stage: Stage
    planned: Planned
    works: Works
    bundled: Bundled | None

    @property
    def tier(self) -> images.TierInput:
        """The input of steps on the tier."""
        return images.TierInput(tier=BY_HAND)

    @property
    def cargo(self) -> staging.CargoInput:
        """The input of steps on the image's root."""
        return staging.CargoInput(tier=BY_HAND, member=self.planned.image)

    def enrol(self, snapshot: str) -> images.ImageOutput:
        """Register the image from a snapshot that has its root."""
        described = self.planned.described
        machine = self.bundled.manifest.machine.architecture if self.bundled is not None else ""
        given = images.EnrolInput(
            tier=BY_HAND,
            snapshot=snapshot,
            root_device=str(described.get("RootDeviceName") or "/dev/sda1"),
            architecture=str(described.get("Architecture") or machine or "x86_64"),
            name=self.planned.name,
        )
        return self.works.do("enrol", images.Enrol(), given)


def _copied(work: _Work) -> Carried:
    given = images.CopyInput(tier=BY_HAND, name=work.planned.name)
    return Carried(work.works.do("copy", images.CopyImage(), given).image)


def _staged(work: _Work) -> Carried:
    works, write = work.works, work.planned.way.path.write
    if work.planned.there is not None:
        output = images.ImageOutput(image=work.planned.there["ImageId"], source_image=work.planned.image)
        snapshot = staging.root_of(work.planned.there)
    else:
        snapshot = _landed(work) or _brought(work)
        if write == "import":
            # In the step of the import, so that its volume is found by its task.
            works.do("import", importing.Discard(), importing.DiscardInput())
        output = work.enrol(snapshot)
    works.do("clear", staging.Remove(), Nothing())
    return Carried(output.image, snapshot)


def _landed(work: _Work) -> str:
    """The snapshot on the target, if it is complete there already."""
    if work.planned.way.path.write == "ebs":
        found = work.works.seen("write", landing.Carry(), work.cargo)
    else:
        sealed = landing.SealInput(tier=BY_HAND, member=work.planned.image, volume="")
        found = work.works.seen("seal", landing.Seal(), sealed)
    return found.snapshot if found is not None else ""


def _brought(work: _Work) -> str:
    """Read the root, stage it and land it."""
    works, path = work.works, work.planned.way.path
    works.do("open", staging.Open(), Nothing())
    if path.read == "mover":
        _moved(work)
    else:
        works.do("read", staging.Fill(), work.cargo)
    if path.write == "ebs":
        return works.do("write", landing.Carry(), work.cargo).snapshot
    volume = works.do("import", importing.Import(), work.cargo).volume
    sealed = landing.SealInput(tier=BY_HAND, member=work.planned.image, volume=volume)
    return works.do("seal", landing.Seal(), sealed).snapshot


def _moved(work: _Work) -> None:
    """Have a mover stage the root; it is ended also where it failed."""
    given = mover.MoverInput(tier=BY_HAND)
    try:
        work.works.do("read", mover.Run(), given)
    except (StepFailed, DrpilotError):
        work.works.do("end", mover.End(), given)
        raise
    work.works.do("end", mover.End(), given)


def _unbundled(work: _Work) -> Carried:
    if work.planned.there is not None:
        return _there(work.planned.there)
    assert work.bundled is not None
    snapshot = work.works.do("unbundle", Unbundle(), work.bundled).snapshot
    return Carried(work.enrol(snapshot).image, snapshot)


def _retargeted(work: _Work) -> Carried:
    if work.planned.there is not None:
        return _there(work.planned.there)
    assert work.bundled is not None
    place = work.planned.wanted.bucket or f"drpilot-{work.planned.run}"
    deed = Retarget(place, work.planned.account, work.planned.name)
    output = work.works.do("retarget", deed, work.bundled)
    return Carried(output.image, location=output.location)


_WAYS: dict[str, Callable[[_Work], Carried]] = {
    "copy": _copied,
    "staged": _staged,
    "unbundled": _unbundled,
    "retargeted": _retargeted,
}
