"""From the stage onto the target: a snapshot written block by block, or made of an imported volume.

EBS direct takes a parent, so that only changed blocks are written; ImportVolume always takes everything, from within
its own cloud. Sources: EBS direct APIs reference, StartSnapshot; EC2 API reference, ImportVolume;
DescribeConversionTasks of Eucalyptus, whose failed tasks end `cancelled` with the reason in the status message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from drpilot.actions.points import replica_move
from drpilot.actions.staging import (
    Cargo,
    CargoInput,
    base_on_target,
    cargo_of,
    changed_note,
    ebs_of,
    pace_of,
    progress,
    shelf_of,
    staged_here,
    staged_output,
)
from drpilot.actions.views import (
    first,
    made_here,
    not_found,
    snapshots,
    specification,
    tag_list,
    tags_of,
    visible,
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
    Move,
    StepFailed,
    Unseen,
    Waiting,
)
from drpilot.formats.blockmap import BlockMap
from drpilot.transfer.copy import Order, Tally, copy
from drpilot.transfer.ledger import Head, Ledger
from drpilot.transfer.snapshots import NewSnapshot, SnapshotSink
from drpilot.transfer.stage import StagedSource, read_staged

__all__ = ["Adopt", "Carry", "LandedOutput", "Seal", "begun_token", "kept_ledger"]


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


def begun_token(ctx: Context) -> str:
    """The token that this step's snapshot on the target was begun with, in whichever attempt, as long as it is pending:
    with it, StartSnapshot goes on. This attempt's own where there is none.
    """
    begun = [item for item in snapshots(ctx.site("target"), made_here(ctx)) if item["State"] == "pending"]
    oldest = first(sorted(begun, key=lambda item: (str(item.get("StartTime")), item["SnapshotId"])))
    return tags_of(oldest or {}).get("drpilot:attempt") or ctx.token


@contextmanager
def kept_ledger(ctx: Context, token: str) -> Iterator[Ledger]:
    """The ledger of a snapshot that is being written; it goes when that is complete, or is no more. Then the step fails
    in passing, for its token would name what is gone: the next attempt begins another snapshot.
    """
    ledger, over = Ledger(ctx.transfers.folder / f"{token}.ledger"), False
    try:
        yield ledger
        over = True
    except CloudError as error:
        over = not_found(error) and error.operation.startswith("ebs:")
        if not over:
            raise
        text = f"the snapshot that was begun on {ctx.target} is gone: {error.message}"
        raise StepFailed(FailureClass.TRANSIENT, text) from error
    finally:
        ledger.close(remove=over)


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
        "ec2:DescribeImages",
        "ec2:DescribeSnapshots",
        "s3:GetObject",
    )
    at = ("target", "source")
    Input = CargoInput
    Output = LandedOutput

    def start(self, ctx: Context, given: CargoInput) -> Answer[LandedOutput]:
        cargo = cargo_of(ctx, given.tier, given.member)
        shelf = shelf_of(ctx, cargo)
        staged = staged_here(cargo, shelf)
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
        token = begun_token(ctx)
        tags = cargo.tags(ctx) | {"drpilot:attempt": token}
        made = NewSnapshot(f"drpilot:{ctx.name}/{ctx.path}", parent, cargo.snapshot, tags)
        self._copy(ctx, StagedSource(shelf, staged, pace_of(ctx)), made, before, token)
        return visible(self.observe, ctx, given)

    @staticmethod
    def _copy(
        ctx: Context, source: StagedSource, made: NewSnapshot, before: BlockMap | None, token: str
    ) -> None:
        fingerprint = before.fingerprint() if before is not None else ""
        head = Head(source.identity, ctx.target, fingerprint, source.size_bytes, token)
        with kept_ledger(ctx, token) as ledger, closing(SnapshotSink(ebs_of(ctx, "target"), made)) as sink:
            copy(Order(source, sink, ledger, head, before, _progress(ctx)))

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


def _progress(ctx: Context) -> Callable[[Tally], None]:
    told = progress(ctx)
    return lambda tally: told({"blocks": tally.total, "done": tally.seen, "written": tally.written})


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
    permissions = (
        "ec2:CreateSnapshot",
        "ec2:CreateTags",
        "ec2:DescribeImages",
        "ec2:DescribeSnapshots",
        "s3:GetObject",
    )
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


class Adopt(Action[CargoInput, LandedOutput]):
    """Wait until a person has carried a snapshot to the target, where nothing automatic can.

    What they made is found by two tags: `drpilot:adopt` with the id of the source's snapshot, and the group's, by which
    retention knows it later.
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
        by_tag = [
            {"Name": "tag:drpilot:adopt", "Values": [cargo.snapshot]},
            {"Name": "tag:drpilot:group", "Values": [ctx.group.name]},
        ]
        found = [item for item in snapshots(ctx.site("target"), by_tag) if item["State"] == "completed"]
        if found:
            return Done(*_adopted(ctx, cargo, found[0]))
        what = f"a snapshot on {ctx.target} with the {cargo.size_gib} GiB of {cargo.snapshot} on {ctx.source}"
        tags = f"drpilot:adopt={cargo.snapshot} and drpilot:group={ctx.group.name}"
        note = f"waits for a person: make {what}, tagged {tags} (docs/explanation/paths.md, By hand)"
        return Waiting({}, after_s=60.0, note=note)


def _adopted(ctx: Context, cargo: Cargo, snapshot: Json) -> tuple[LandedOutput, tuple[Move, ...]]:
    if int(snapshot["VolumeSize"]) != cargo.size_gib:
        text = f"{snapshot['SnapshotId']} has {snapshot['VolumeSize']} GiB, the source has {cargo.size_gib}"
        raise StepFailed(FailureClass.PRECONDITION, text)
    output = LandedOutput(
        snapshot=snapshot["SnapshotId"], source_snapshot=cargo.snapshot, size_gib=cargo.size_gib
    )
    return output, _moves(ctx, cargo, snapshot["SnapshotId"])
