"""From the stage onto the target: a snapshot written block by block, or a volume imported and snapshotted.

EBS direct takes a parent, so that only changed blocks are written; ImportVolume always takes everything, from within
its own cloud. Sources: EBS direct APIs reference, StartSnapshot; EC2 API reference, ImportVolume;
DescribeConversionTasks of Eucalyptus, whose failed tasks end `cancelled` with the reason in the status message.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from drpilot.actions.points import replica_move
from drpilot.actions.staging import (
    Cargo,
    CargoInput,
    base_on_target,
    cargo_of,
    changed_note,
    ebs_of,
    pace_of,
    shelf_of,
    staged_output,
)
from drpilot.actions.views import made_here, snapshots, specification, tag_list, tags_of, visible, volumes
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
from drpilot.formats.blockmap import BlockMap
from drpilot.formats.importmanifest import ImportManifest, ImportPart, write_import
from drpilot.transfer.copy import Order, Tally, copy
from drpilot.transfer.ledger import Head, Ledger
from drpilot.transfer.shelf import BucketShelf
from drpilot.transfer.snapshots import NewSnapshot, SnapshotSink
from drpilot.transfer.stage import Staged, StagedSource, read_staged

__all__ = ["Adopt", "Carry", "Discard", "Import", "LandedOutput", "Seal"]

_MANIFEST = "import.manifest.xml"
_VALID_S = 7 * 86_400 - 60  # of a URL: no signature of version 4 is valid for longer than a week
_GIB = 1 << 30
_GONE = ("deleting", "deleted", "error")


class LandedOutput(Model):
    """The cargo on the target; `changed` blocks of `blocks` that hold data differed from the state before."""

    snapshot: str
    source_snapshot: str
    size_gib: int
    blocks: int = 0
    changed: int = 0


def _moves(ctx: Context, cargo: Cargo, snapshot: str) -> tuple[Move, ...]:
    """The replica is complete; an image's root is part of the image, which says so when it is registered."""
    replica = cargo.replica
    if replica is None:
        return ()
    data = {
        "tier": cargo.tier,
        "source_id": replica.source_id,
        "id": snapshot,
        "size_gib": replica.size_gib,
        "facts": dict(replica.facts),
    }
    return (replica_move(ctx, ("snapshot", cargo.member), "complete", data),)


def _staged(cargo: Cargo, shelf: BucketShelf) -> Staged:
    staged = read_staged(shelf, cargo.snapshot)
    if staged is None:
        text = f"{cargo.snapshot} of {cargo.member} is not staged"
        raise StepFailed(FailureClass.PRECONDITION, text)
    return staged


class Carry(Action[CargoInput, LandedOutput]):
    """Write a staged snapshot on the target by EBS direct, on top of the one of the state before.

    StartSnapshot takes a ClientToken, a block written again replaces itself: a repeat goes on. A ledger beside the
    journal spares a repeat on the same machine what was finished.
    """

    name = "stage.carry"
    summary = "write the changed blocks from the stage into a snapshot on the target"
    idempotency = Idempotency.TOKEN
    effect = Effect.CREATE
    permissions = (
        "ebs:StartSnapshot",
        "ebs:PutSnapshotBlock",
        "ebs:CompleteSnapshot",
        "ec2:CreateTags",
        "ec2:DescribeSnapshots",
        "s3:GetObject",
    )
    at = ("target", "source")
    Input = CargoInput
    Output = LandedOutput

    def start(self, ctx: Context, given: CargoInput) -> Answer[LandedOutput]:
        cargo = cargo_of(ctx, given.tier, given.member)
        shelf = shelf_of(ctx, cargo)
        staged = _staged(cargo, shelf)
        base = base_on_target(ctx, cargo, shelf)
        wanted = staged.block_map.facts.get("base", "")
        if wanted and (base is None or base.staged.snapshot != wanted):
            # Parts that are as in that state were not staged again.
            text = (
                f"{cargo.member} was staged on top of {wanted}, whose snapshot is no longer on {ctx.target}"
            )
            raise StepFailed(FailureClass.PRECONDITION, f"{text}; replicate again")
        before = base.staged.block_map if base is not None and wanted else None
        parent = base.snapshot if base is not None and wanted else None
        made = NewSnapshot(f"drpilot:{ctx.name}/{ctx.path}", parent, cargo.snapshot, cargo.tags(ctx))
        self._copy(ctx, StagedSource(shelf, staged, pace_of(ctx)), made, before)
        return visible(self.observe, ctx, given)

    @staticmethod
    def _copy(ctx: Context, source: StagedSource, made: NewSnapshot, before: BlockMap | None) -> None:
        ledger = Ledger(ctx.transfers.folder / f"{ctx.token}.ledger")
        fingerprint = before.fingerprint() if before is not None else ""
        head = Head(source.identity, ctx.target, fingerprint, source.size_bytes, ctx.token)
        complete = False
        try:
            with closing(SnapshotSink(ebs_of(ctx, "target"), made)) as sink:
                copy(Order(source, sink, ledger, head, before, _progress(ctx)))
            complete = True
        finally:
            ledger.close(remove=complete)

    def observe(self, ctx: Context, given: CargoInput) -> Answer[LandedOutput]:
        cargo = cargo_of(ctx, given.tier, given.member)
        every = snapshots(ctx.site("target"), made_here(ctx))
        found = [item for item in every if item["State"] == "completed"]
        if not found:
            return Unseen(
                True, f"no completed snapshot of {cargo.member} with this step's tags on {ctx.target}"
            )
        return _landed(ctx, cargo, found[0])


def _landed(ctx: Context, cargo: Cargo, snapshot: Json) -> Done[LandedOutput]:
    output, moves = _adopted(ctx, cargo, snapshot)
    shelf = shelf_of(ctx, cargo)
    staged = read_staged(shelf, cargo.snapshot)
    if staged is not None:
        base = staged.block_map.facts.get("base")
        told = staged_output(staged, read_staged(shelf, base) if base else None)
        output = output.model_copy(update={"blocks": told.blocks, "changed": told.changed})
    return Done(output, moves, note=changed_note(output.changed, output.blocks))


_TOLD_S = 10.0


def _progress(ctx: Context) -> Any:
    last = ctx.clock.monotonic()

    def told(tally: Tally) -> None:
        nonlocal last
        if ctx.clock.monotonic() - last >= _TOLD_S:
            last = ctx.clock.monotonic()
            ctx.checkpoint({"blocks": tally.total, "done": tally.seen, "written": tally.written})

    return told


class VolumeOutput(Model):
    """A volume on the target."""

    volume: str


class Import(Action[CargoInput, VolumeOutput]):
    """Have the target import a staged snapshot as a volume.

    ImportVolume takes neither token nor tags; its task is found by its description. The manifest names every part by a
    presigned URL of the target's own bucket, since Eucalyptus imports from nowhere else.
    """

    name = "volume.import"
    summary = "have the target import a staged snapshot as a volume"
    idempotency = Idempotency.OBSERVE
    effect = Effect.CREATE
    permissions = ("ec2:ImportVolume", "ec2:DescribeConversionTasks", "s3:GetObject", "s3:PutObject")
    at = ("target", "source")
    Input = CargoInput
    Output = VolumeOutput

    def start(self, ctx: Context, given: CargoInput) -> Answer[VolumeOutput]:
        site = ctx.site("target")
        if not [task for task in tasks_of(ctx, site) if task["State"] != "cancelled"]:
            cargo = cargo_of(ctx, given.tier, given.member)
            shelf = shelf_of(ctx, cargo)
            staged = _staged(cargo, shelf)
            shelf.put(f"{cargo.snapshot}/{_MANIFEST}", write_import(_manifest(site, shelf, staged, cargo)))
            params: Json = {
                "AvailabilityZone": _zone(ctx, cargo),
                "Description": _description(ctx, ctx.token),
                "Image": {
                    "Format": "RAW",
                    "Bytes": staged.block_map.size_bytes,
                    "ImportManifestUrl": _url(site, "GetObject", shelf, f"{cargo.snapshot}/{_MANIFEST}"),
                },
                "Volume": {"Size": cargo.size_gib},
            }
            site.call("ec2", "ImportVolume", params)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: CargoInput) -> Answer[VolumeOutput]:
        site = ctx.site("target")
        found = tasks_of(ctx, site)
        live = [task for task in found if task["State"] != "cancelled"]
        if not live:
            ended = [
                task for task in found if task["ImportVolume"]["Description"] == _description(ctx, ctx.token)
            ]
            if ended:
                why = ended[-1].get("StatusMessage") or "no reason was given"
                raise StepFailed(FailureClass.TRANSIENT, f"the import of {given.member} ended: {why}")
            return Unseen(False, f"no conversion task of this step on {ctx.target}")
        task = live[0]
        told = task["ImportVolume"]
        if task["State"] != "completed":
            done = float(told.get("BytesConverted") or 0) / max(1, int(told["Image"]["Size"]))
            note = str(task.get("StatusMessage") or "")
            return Waiting(
                {"task": task["ConversionTaskId"]}, after_s=5.0, progress=min(1.0, done), note=note
            )
        volume = str((told.get("Volume") or {}).get("Id") or "")
        if not volume:
            text = f"task {task['ConversionTaskId']} is completed and names no volume"
            raise StepFailed(FailureClass.PRECONDITION, text)
        return Done(VolumeOutput(volume=volume))

    def undo(self, given: CargoInput, output: VolumeOutput | None) -> Call | None:
        return Call("volume.discard", {"volume": output.volume if output is not None else ""})


def _description(ctx: Context, attempt: str) -> str:
    """What names the task of an attempt; of any, when `attempt` is empty."""
    return f"drpilot:{ctx.run}/{ctx.path}/{attempt}"


def tasks_of(ctx: Context, site: Site) -> list[Json]:
    """The import tasks of this step, in whichever attempt, the oldest first."""
    mine = _description(ctx, "")
    found = [
        task
        for page in site.pages("ec2", "DescribeConversionTasks", {})
        for task in page.get("ConversionTasks") or []
        if str((task.get("ImportVolume") or {}).get("Description", "")).startswith(mine)
    ]
    return sorted(found, key=lambda task: (str(task.get("ExpirationTime") or ""), task["ConversionTaskId"]))


def _url(site: Site, operation: str, shelf: BucketShelf, name: str) -> str:
    return site.presigned(f"s3:{operation}", {"Bucket": shelf.bucket, "Key": shelf.key(name)}, _VALID_S)


def _manifest(site: Site, shelf: BucketShelf, staged: Staged, cargo: Cargo) -> ImportManifest:
    """The import manifest of a staged snapshot. Nobody may delete parts that the next import names as well: the URLs
    that delete name objects that are not there.
    """
    nothing = f"{cargo.snapshot}/nothing"
    deletes = _url(site, "DeleteObject", shelf, nothing)
    known: dict[str, tuple[str, str]] = {}

    def part(index: int) -> ImportPart:
        name = staged.object_of(index)
        if name not in known:
            known[name] = (_url(site, "HeadObject", shelf, name), _url(site, "GetObject", shelf, name))
        head, get = known[name]
        return ImportPart(*staged.span(index), shelf.key(name), head, get, deletes)

    return ImportManifest(
        format="RAW",
        size_bytes=staged.block_map.size_bytes,
        volume_gib=cargo.size_gib,
        self_destruct_url=deletes,
        parts=tuple(part(index) for index in range(staged.parts)),
        importer=("drpilot", "1", "1"),
    )


def _zone(ctx: Context, cargo: Cargo) -> str:
    """The zone on the target that the member's machine has its partner in; else the target's first."""
    zones = ctx.group.mapping(ctx.source).zones
    for tier in ctx.group.tiers:
        for instance in tier.instances:
            if any(volume.key == cargo.member for volume in instance.volumes) and zones.get(instance.zone):
                return zones[instance.zone]
    listed = ctx.site("target").call("ec2", "DescribeAvailabilityZones", {})["AvailabilityZones"]
    usable = sorted(zone["ZoneName"] for zone in listed if zone.get("State") == "available")
    if not usable:
        raise StepFailed(FailureClass.PRECONDITION, f"no zone of {ctx.target} is available")
    return str(usable[0])


class SealInput(CargoInput):
    """The cargo, and the volume that was imported of it."""

    volume: str


class Seal(Action[SealInput, LandedOutput]):
    """Snapshot an imported volume: with it the replica is complete.

    CreateSnapshot takes no token; the snapshot is found by its tags, or by its description where it takes no tags.
    """

    name = "volume.seal"
    summary = "snapshot an imported volume, which completes the replica"
    idempotency = Idempotency.OBSERVE
    effect = Effect.CREATE
    permissions = ("ec2:CreateSnapshot", "ec2:CreateTags", "ec2:DescribeSnapshots")
    at = ("target", "source")
    Input = SealInput
    Output = LandedOutput

    def start(self, ctx: Context, given: SealInput) -> Answer[LandedOutput]:
        site = ctx.site("target")
        cargo = cargo_of(ctx, given.tier, given.member)
        found = [item for item in snapshots(site, made_here(ctx)) if item["State"] != "error"]
        if not found:
            # An import takes no tags: from here on the volume is known as ours.
            marks = {
                "Resources": [given.volume],
                "Tags": tag_list(cargo.tags(ctx) | {"drpilot:import": "true"}),
            }
            site.call("ec2", "CreateTags", marks)
            params: Json = {
                "VolumeId": given.volume,
                "Description": f"drpilot:{ctx.name}/{ctx.path}",
                "TagSpecifications": [specification("snapshot", cargo.tags(ctx))],
            }
            site.call("ec2", "CreateSnapshot", params)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: SealInput) -> Answer[LandedOutput]:
        cargo = cargo_of(ctx, given.tier, given.member)
        every = snapshots(ctx.site("target"), made_here(ctx))
        found = [item for item in every if item["State"] != "error"]
        if not found:
            if any(tags_of(item).get("drpilot:attempt") == ctx.token for item in every):
                raise StepFailed(
                    FailureClass.TRANSIENT, f"the snapshot of {given.volume} ended in state error"
                )
            return Unseen(False, f"no snapshot of {given.volume} with this step's tags on {ctx.target}")
        if found[0]["State"] != "completed":
            done = float(str(found[0].get("Progress") or "0%").rstrip("%") or 0) / 100
            return Waiting({"snapshot": found[0]["SnapshotId"]}, after_s=5.0, progress=done)
        return _landed(ctx, cargo, found[0])


class DiscardInput(Model):
    """The volume of an import; empty: whatever this step has imported."""

    volume: str = ""


class DiscardOutput(Model):
    """Volumes that are gone by observation."""

    volumes: tuple[str, ...]


class Discard(Action[DiscardInput, DiscardOutput]):
    """Delete the volume of an import, and stop its task if it still runs."""

    name = "volume.discard"
    summary = "delete the volume an import made, once there is a snapshot of it"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    permissions = (
        "ec2:DeleteVolume",
        "ec2:DescribeVolumes",
        "ec2:CancelConversionTask",
        "ec2:DescribeConversionTasks",
    )
    Input = DiscardInput
    Output = DiscardOutput

    def start(self, ctx: Context, given: DiscardInput) -> Answer[DiscardOutput]:
        site = ctx.site("target")
        if not given.volume:
            for task in tasks_of(ctx, site):
                if task["State"] == "active":
                    site.call("ec2", "CancelConversionTask", {"ConversionTaskId": task["ConversionTaskId"]})
        for volume in self._left(ctx, given):
            try:
                site.call("ec2", "DeleteVolume", {"VolumeId": volume})
            except CloudError as error:
                if "NotFound" not in error.code and error.kind is not FailureClass.NOT_FOUND:
                    raise
        return visible(self.observe, ctx, given)

    @staticmethod
    def _left(ctx: Context, given: DiscardInput) -> list[str]:
        site = ctx.site("target")
        wanted = {given.volume} if given.volume else set[str]()
        if not given.volume:
            for task in tasks_of(ctx, site):
                wanted |= {str((task["ImportVolume"].get("Volume") or {}).get("Id") or "")} - {""}
        if not wanted:
            return []
        found = volumes(site, [{"Name": "volume-id", "Values": sorted(wanted)}])
        return sorted(str(item["VolumeId"]) for item in found if item["State"] not in _GONE)

    def observe(self, ctx: Context, given: DiscardInput) -> Answer[DiscardOutput]:
        left = self._left(ctx, given)
        if left:
            return Unseen(True, f"{', '.join(left)} still stand")
        return Done(DiscardOutput(volumes=(given.volume,) if given.volume else ()))


class Adopt(Action[CargoInput, LandedOutput]):
    """Wait until a person has carried a snapshot to the target, where nothing automatic can.

    What they made is found by the tag `drpilot:adopt` with the id of the source's snapshot.
    """

    name = "point.adopt"
    summary = "wait for a person to carry a snapshot to the target"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    permissions = ("ec2:DescribeSnapshots",)
    at = ("target", "source")
    Input = CargoInput
    Output = LandedOutput

    def start(self, ctx: Context, given: CargoInput) -> Answer[LandedOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: CargoInput) -> Answer[LandedOutput]:
        cargo = cargo_of(ctx, given.tier, given.member)
        by_tag = [{"Name": "tag:drpilot:adopt", "Values": [cargo.snapshot]}]
        found = [item for item in snapshots(ctx.site("target"), by_tag) if item["State"] == "completed"]
        if found:
            return Done(*_adopted(ctx, cargo, found[0]))
        what = f"a snapshot on {ctx.target} with the {cargo.size_gib} GiB of {cargo.snapshot} on {ctx.source}"
        note = (
            f"waits for a person: make {what}, tagged drpilot:adopt={cargo.snapshot} (docs/howto/movers.md)"
        )
        return Waiting({}, after_s=60.0, note=note)


def _adopted(ctx: Context, cargo: Cargo, snapshot: Json) -> tuple[LandedOutput, tuple[Move, ...]]:
    if int(snapshot["VolumeSize"]) != cargo.size_gib:
        text = f"{snapshot['SnapshotId']} has {snapshot['VolumeSize']} GiB, the source has {cargo.size_gib}"
        raise StepFailed(FailureClass.PRECONDITION, text)
    output = LandedOutput(
        snapshot=snapshot["SnapshotId"], source_snapshot=cargo.snapshot, size_gib=cargo.size_gib
    )
    return output, _moves(ctx, cargo, snapshot["SnapshotId"])
