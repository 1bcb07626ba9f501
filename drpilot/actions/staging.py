"""The stage of a run between two unlike clouds: its bucket, what is carried over it, and what of it is kept.

Which path a run takes is decided by `domain/path.py` from what both sites can do; the actions here ask the same rule,
so that a plan and its steps can't differ. What is carried is a *cargo*: a volume of a member, by its captured
snapshot, or the image of a scaling group, by the snapshot behind its root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from drpilot.actions.members import scaling_of, tier_of
from drpilot.actions.views import Nothing, first, images, snapshots, visible
from drpilot.domain.path import Path, path_between
from drpilot.domain.plain import Json
from drpilot.domain.point import RecoveryPoint, Replica
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
)
from drpilot.formats.blockmap import BlockMap, changed_blocks
from drpilot.transfer.newbucket import bucket_stands, prepare
from drpilot.transfer.pace import Pace
from drpilot.transfer.shelf import BucketShelf, listed
from drpilot.transfer.snapshots import Ebs, SnapshotSource
from drpilot.transfer.stage import MAP_NAME, Staged, Staging, read_staged, stage

__all__ = [
    "Base",
    "Cargo",
    "CargoInput",
    "Fill",
    "Open",
    "Remove",
    "Sweep",
    "base_on_target",
    "cargo_of",
    "changed_note",
    "ebs_of",
    "go_on",
    "pace_of",
    "progress",
    "root_of",
    "shelf_of",
    "stage_site",
    "staged_here",
    "staged_output",
]

_AT_ONCE = 32  # requests under way at one endpoint for one cargo


def path_of(ctx: Context) -> Path:
    """The path of this run's direction."""
    return path_between(ctx.site("source").capabilities, ctx.site("target").capabilities)


def stage_site(ctx: Context) -> Site:
    """The site whose bucket the stage is; StepFailed where the path of this run has none."""
    path = path_of(ctx)
    if not path.stage:
        text = f"nothing is staged between {ctx.source} and {ctx.target}: {path.words}"
        raise StepFailed(FailureClass.PRECONDITION, text)
    return ctx.site(path.stage)


def pace_of(ctx: Context) -> Pace:
    """A pace at one endpoint, for one step."""
    return Pace(ctx.clock, ctx.transfers.chance, most=_AT_ONCE, start=8)


def ebs_of(ctx: Context, role: str) -> Ebs:
    """EBS direct of the site in `role`."""
    site = ctx.site(role)
    return Ebs(site, ctx.transfers.plane(site.name), pace_of(ctx), ctx.clock)


class CargoInput(Model):
    """What is carried: a volume of a tier by its key, or the image of its scaling group by that one's key."""

    tier: str
    member: str


@dataclass(frozen=True, slots=True)
class Cargo:
    """A volume, or the root of an image (`image` is its id, else empty), by its snapshot on the source."""

    tier: str
    member: str
    snapshot: str
    size_gib: int
    replica: Replica | None = None
    image: str = ""

    @property
    def folder(self) -> str:
        """Its place below the group's prefix of the stage."""
        return ("images/" if self.image else "volumes/") + self.member.strip("/").replace("/", ".")

    def tags(self, ctx: Context) -> dict[str, str]:
        """The tags of what is made of it."""
        more = {"source-image": self.image} if self.image else {}
        return ctx.tags(point=ctx.point_id, tier=self.tier, member=self.member, **more)


def cargo_of(ctx: Context, tier_name: str, member: str) -> Cargo:
    """The cargo of a step; StepFailed where it was not captured, or the image has no snapshot behind it."""
    tier = tier_of(ctx, tier_name)
    if tier.scaling_group is not None and member == tier.scaling_group.key:
        return _image_cargo(ctx, tier_name, member)
    try:
        replica = ctx.point(ctx.point_id).replica(member, "snapshot")
    except KeyError:
        raise StepFailed(FailureClass.PRECONDITION, f"{member} was not captured") from None
    return Cargo(tier_name, member, replica.source_id, replica.size_gib, replica)


def root_of(image: Json) -> str:
    """The snapshot behind the root of a described image; empty for one that lies in a bucket."""
    mappings = image.get("BlockDeviceMappings") or []
    root = image.get("RootDeviceName")
    ebs = [item for item in mappings if (item.get("Ebs") or {}).get("SnapshotId")]
    chosen = first(item for item in ebs if item.get("DeviceName") == root) or first(ebs)
    return str(chosen["Ebs"]["SnapshotId"]) if chosen is not None else ""


def _image_cargo(ctx: Context, tier: str, member: str) -> Cargo:
    source, image = ctx.site("source"), scaling_of(tier_of(ctx, tier)).image
    found = first(images(source, [{"Name": "image-id", "Values": [image]}]))
    if found is None:
        text = (
            f"image {image} of {member} is not an image of this account on {ctx.source}; copy it there first"
        )
        raise StepFailed(FailureClass.NOT_FOUND, text)
    root = root_of(found)
    if not root:
        text = f"image {image} of {member} has no snapshot: bring it over by `drpilot image copy`, then replicate again"
        raise StepFailed(FailureClass.PRECONDITION, text)
    described = first(snapshots(source, [{"Name": "snapshot-id", "Values": [root]}]))
    if described is None:
        raise StepFailed(FailureClass.NOT_FOUND, f"snapshot {root} of image {image} is not on {ctx.source}")
    return Cargo(tier, member, root, int(described["VolumeSize"]), None, image)


def shelf_of(ctx: Context, cargo: Cargo) -> BucketShelf:
    """Where the cargo is staged."""
    return BucketShelf(
        stage_site(ctx), ctx.group.stage_bucket, f"{ctx.group.name}/{cargo.folder}", pace_of(ctx)
    )


@dataclass(frozen=True, slots=True)
class Base:
    """An earlier state of the cargo: how it was staged, and the snapshot of it on the target."""

    staged: Staged
    snapshot: str


def earlier(ctx: Context, cargo: Cargo) -> Iterator[Replica]:
    """The replicas of the cargo in earlier points of the same direction, the newest first."""
    points = [
        point
        for point in ctx.points()
        if point.id != ctx.point_id and point.source == ctx.source and point.captured_at is not None
    ]
    for point in sorted(points, key=_captured, reverse=True):
        for replica in point.replicas:
            if (replica.kind, replica.member) == ("snapshot", cargo.member):
                yield replica


def _captured(point: RecoveryPoint) -> str:
    return str(point.captured_at)


def staged_here(cargo: Cargo, shelf: BucketShelf) -> Staged:
    """What is staged of a cargo; StepFailed where it is not, or not completely."""
    staged = read_staged(shelf, cargo.snapshot)
    if staged is None:
        text = f"{cargo.snapshot} of {cargo.member} is not staged"
        raise StepFailed(FailureClass.PRECONDITION, text)
    return staged


def staged_before(ctx: Context, cargo: Cargo, shelf: BucketShelf) -> Staged | None:
    """The newest earlier state that is staged."""
    if cargo.image:
        return None
    return first(
        staged
        for replica in earlier(ctx, cargo)
        if (staged := read_staged(shelf, replica.source_id)) is not None
    )


def base_on_target(ctx: Context, cargo: Cargo, shelf: BucketShelf) -> Base | None:
    """The newest earlier state that is staged and stands complete on the target, to be the parent of the next."""
    if cargo.image:
        return None
    for replica in earlier(ctx, cargo):
        if not replica.id:
            continue
        by_id = [{"Name": "snapshot-id", "Values": [replica.id]}]
        found = first(snapshots(ctx.site("target"), by_id))
        if found is None or found["State"] != "completed":
            continue
        staged = read_staged(shelf, replica.source_id)
        if staged is not None:
            return Base(staged, replica.id)
    return None


class PlaceOutput(Model):
    """The bucket of the stage and the site it is on."""

    site: str
    bucket: str


class Open(Action[Nothing, PlaceOutput]):
    """See that the bucket of the stage is there; making it again changes nothing."""

    name = "stage.open"
    summary = "see that the bucket is there over which bytes go between unlike clouds"
    idempotency = Idempotency.RERUN
    effect = Effect.CREATE
    permissions = ("s3:CreateBucket", "s3:ListBucket")
    at = ("target", "source")
    Input = Nothing
    Output = PlaceOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[PlaceOutput]:
        prepare(stage_site(ctx), ctx.group.stage_bucket, create=True, clock=ctx.clock)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[PlaceOutput]:
        site, bucket = stage_site(ctx), ctx.group.stage_bucket
        if not bucket_stands(site, bucket):
            return Unseen(True, f"there is no bucket {bucket} on {site.name}")
        return Done(PlaceOutput(site=site.name, bucket=bucket))


class StagedOutput(Model):
    """What lies on the stage: the snapshot, blocks that differ from the state before, parts and bytes written."""

    snapshot: str
    blocks: int
    changed: int
    base: str = ""


def changed_note(changed: int, blocks: int) -> str:
    """What moved, in words: blocks of 512 KiB."""
    return f"{changed} of {blocks} blocks changed"


def staged_output(staged: Staged, base: Staged | None) -> StagedOutput:
    """What a step says of a staged cargo."""
    before = base.block_map if base is not None else BlockMap(staged.block_map.size_bytes)
    return StagedOutput(
        snapshot=staged.snapshot,
        blocks=sum(1 for _ in staged.block_map.stored()),
        changed=sum(1 for _ in changed_blocks(before, staged.block_map)),
        base=base.snapshot if base is not None else "",
    )


class Fill(Action[CargoInput, StagedOutput]):
    """Read a snapshot's blocks by EBS direct and put them on the stage, only where they changed.

    An interrupted step goes on: parts that lie there are not read from the source again (transfer/stage.py).
    """

    name = "stage.fill"
    summary = "put the changed blocks of a snapshot onto the stage, read by EBS direct"
    idempotency = Idempotency.RERUN
    effect = Effect.CREATE
    permissions = (
        "ebs:ListSnapshotBlocks",
        "ebs:ListChangedBlocks",
        "ebs:GetSnapshotBlock",
        "ec2:DescribeSnapshots",
        "ec2:DescribeImages",
        "s3:PutObject",
        "s3:GetObject",
        "s3:ListBucket",
    )
    at = ("source", "target")
    Input = CargoInput
    Output = StagedOutput

    def start(self, ctx: Context, given: CargoInput) -> Answer[StagedOutput]:
        cargo = cargo_of(ctx, given.tier, given.member)
        shelf = shelf_of(ctx, cargo)
        if read_staged(shelf, cargo.snapshot) is None:
            ebs = ebs_of(ctx, "source")
            source = SnapshotSource(ebs, cargo.snapshot)
            try:
                stage(source, shelf, cargo.snapshot, staged_before(ctx, cargo, shelf), _progress(ctx))
            finally:
                source.close()
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: CargoInput) -> Answer[StagedOutput]:
        cargo = cargo_of(ctx, given.tier, given.member)
        shelf = shelf_of(ctx, cargo)
        staged = read_staged(shelf, cargo.snapshot)
        if staged is None:
            return Unseen(True, f"{cargo.snapshot} is not staged completely")
        base = staged.block_map.facts.get("base")
        output = staged_output(staged, read_staged(shelf, base) if base else None)
        return Done(output, note=changed_note(output.changed, output.blocks))


_TOLD_S = 10.0


def go_on(ctx: Context) -> None:
    """Nothing, while somebody waits for this attempt; else CloudError, with an unknown outcome."""
    if ctx.unwanted():
        text = "nobody waits for this any more; whoever does goes on from here"
        raise CloudError(FailureClass.CANCELLED, "Unwanted", text, happened="unknown", site=ctx.target)


def progress(ctx: Context) -> Callable[[Json], None]:
    """What keeps a long transfer's progress, every few seconds; raises CloudError, with an unknown outcome, when nobody
    waits for it any more: whoever drives next looks, and goes on where it is still wanted.
    """
    last = ctx.clock.monotonic()

    def told(state: Json) -> None:
        nonlocal last
        go_on(ctx)
        if ctx.clock.monotonic() - last >= _TOLD_S:
            last = ctx.clock.monotonic()
            ctx.checkpoint(state)

    return told


def _progress(ctx: Context) -> Callable[[Staging], None]:
    told = progress(ctx)
    return lambda tally: told(
        {"parts": tally.parts, "done": tally.done, "bytes_written": tally.bytes_written}
    )


class SweptOutput(Model):
    """Objects of the group that are left on the stage because they are of use."""

    kept: int


class Sweep(Action[Nothing, SweptOutput]):
    """Delete from the stage what no point needs any more.

    Maps stay as long as a point has the snapshot they describe: they make the next replication incremental. Parts stay
    where ImportVolume reads them, those of the newest state; blocks that were carried into a snapshot need none.
    """

    name = "stage.sweep"
    summary = "delete from the stage what no point needs any more"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    permissions = ("s3:DeleteObject", "s3:ListBucket", "s3:GetObject")
    at = ("target", "source")
    Input = Nothing
    Output = SweptOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[SweptOutput]:
        shelf, useless = self._useless(ctx)
        for name in useless:
            shelf.drop(name)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[SweptOutput]:
        shelf, useless = self._useless(ctx)
        if useless:
            return Unseen(True, f"{len(useless)} objects on the stage are of no use")
        return Done(SweptOutput(kept=len(shelf.names(""))))

    @staticmethod
    def _useless(ctx: Context) -> tuple[BucketShelf, list[str]]:
        shelf = BucketShelf(stage_site(ctx), ctx.group.stage_bucket, ctx.group.name, pace_of(ctx))
        names = shelf.names("")
        return shelf, sorted(names - _needed(ctx, names))


def _needed(ctx: Context, names: frozenset[str]) -> set[str]:
    """The names below the group's prefix that are of use."""
    living = {
        replica.source_id
        for point in ctx.points()
        for replica in point.replicas
        if replica.kind == "snapshot"
    }
    kept = {name for name in names if name.endswith(f"/{MAP_NAME}") and name.split("/")[-2] in living}
    if path_of(ctx).write != "import":
        return kept
    for tier in ctx.group.tiers:
        for volume in (volume for instance in tier.instances for volume in instance.volumes):
            try:
                replica = ctx.point(ctx.point_id).replica(volume.key, "snapshot")
            except KeyError:
                continue
            cargo = Cargo(tier.name, volume.key, replica.source_id, replica.size_gib, replica)
            staged = read_staged(shelf_of(ctx, cargo), cargo.snapshot)
            if staged is not None:
                kept |= {f"{cargo.folder}/{staged.object_of(index)}" for index in range(staged.parts)}
    return kept & names


class Remove(Action[Nothing, SweptOutput]):
    """Delete all that the group has on the stages of both directions, and the buckets if drpilot named them."""

    name = "stage.remove"
    summary = "delete what the group has on the stage, with its bucket"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    permissions = ("s3:DeleteObject", "s3:DeleteBucket", "s3:ListBucket")
    at = ("target", "source")
    Input = Nothing
    Output = SweptOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[SweptOutput]:
        bucket = ctx.group.stage_bucket
        for site in _stages(ctx):
            for key in listed(site, bucket, f"{ctx.group.name}/"):
                site.call("s3", "DeleteObject", {"Bucket": bucket, "Key": key})
            if not ctx.group.staging.bucket and bucket_stands(site, bucket):
                site.call("s3", "DeleteBucket", {"Bucket": bucket})
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[SweptOutput]:
        bucket = ctx.group.stage_bucket
        for site in _stages(ctx):
            left = listed(site, bucket, f"{ctx.group.name}/")
            if left:
                return Unseen(True, f"{len(left)} objects are left in {bucket} on {site.name}")
            if not ctx.group.staging.bucket and bucket_stands(site, bucket):
                return Unseen(True, f"bucket {bucket} still stands on {site.name}")
        return Done(SweptOutput(kept=0))


def _stages(ctx: Context) -> list[Site]:
    """The sites that have a stage in one direction or the other: between some kinds there is one way only."""
    source, target = ctx.site("source"), ctx.site("target")
    forth = path_between(source.capabilities, target.capabilities).stage
    back = path_between(target.capabilities, source.capabilities).stage
    turned = {"source": "target", "target": "source"}.get(back, "")
    return [ctx.site(role) for role in dict.fromkeys((forth, turned)) if role]
