"""ImportVolume: a staged snapshot as a volume of the target, and what removes it again.

It always takes everything, from within its own cloud, and takes neither token nor tags: the task is found by its
description, and only the task names the volume. Sources: EC2 API reference, ImportVolume; DescribeConversionTasks of
Eucalyptus, whose failed tasks end `cancelled` with the reason in the status message.
"""

from __future__ import annotations

import re

from drpilot.actions.staging import (
    Cargo,
    CargoInput,
    cargo_of,
    shelf_of,
    staged_here,
)
from drpilot.actions.views import GONE_VOLUME, not_found, visible, volumes
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
    Site,
    StepFailed,
    Unseen,
    Waiting,
)
from drpilot.formats.importmanifest import ImportManifest, ImportPart, write_import
from drpilot.transfer.moverurls import signed_url
from drpilot.transfer.shelf import BucketShelf
from drpilot.transfer.stage import Staged

__all__ = ["Discard", "Import", "without_queries"]

_MANIFEST = "import.manifest.xml"
_VALID_S = 7 * 86_400 - 60  # of a URL: no signature of version 4 is valid for longer than a week


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
    permissions = (
        "ec2:ImportVolume",
        "ec2:DescribeAvailabilityZones",
        "ec2:DescribeConversionTasks",
        "ec2:DescribeImages",
        "ec2:DescribeSnapshots",
        "ec2:DescribeVolumes",
        "s3:GetObject",
        "s3:PutObject",
    )
    at = ("target", "source")
    Input = CargoInput
    Output = VolumeOutput

    def start(self, ctx: Context, given: CargoInput) -> Answer[VolumeOutput]:
        site = ctx.site("target")
        if not self._live(site, tasks_of(ctx, site, ctx.path)):
            cargo = cargo_of(ctx, given.tier, given.member)
            shelf = shelf_of(ctx, cargo)
            staged = staged_here(cargo, shelf)
            shelf.put(f"{cargo.snapshot}/{_MANIFEST}", write_import(_manifest(shelf, staged, cargo)))
            params: Json = {
                "AvailabilityZone": _zone(ctx, cargo),
                "Description": _description(ctx, ctx.path, ctx.token),
                "Image": {
                    "Format": "RAW",
                    "Bytes": staged.block_map.size_bytes,
                    "ImportManifestUrl": signed_url(
                        shelf, "GetObject", f"{cargo.snapshot}/{_MANIFEST}", _VALID_S
                    ),
                },
                "Volume": {"Size": cargo.size_gib},
            }
            site.call("ec2", "ImportVolume", params)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: CargoInput) -> Answer[VolumeOutput]:
        site = ctx.site("target")
        found = tasks_of(ctx, site, ctx.path)
        live = self._live(site, found)
        if not live:
            mine = _description(ctx, ctx.path, ctx.token)
            ended = [
                task
                for task in found
                if task["State"] == "cancelled" and task["ImportVolume"]["Description"] == mine
            ]
            if ended:
                why = without_queries(ended[-1].get("StatusMessage") or "no reason was given")
                raise StepFailed(FailureClass.TRANSIENT, f"the import of {given.member} ended: {why}")
            return Unseen(False, f"no conversion task of this step on {ctx.target}")
        task = live[0]
        told = task["ImportVolume"]
        if task["State"] != "completed":
            done = float(told.get("BytesConverted") or 0) / max(1, int(told["Image"]["Size"]))
            note = without_queries(task.get("StatusMessage") or "")
            return Waiting(
                {"task": task["ConversionTaskId"]}, after_s=5.0, progress=min(1.0, done), note=note
            )
        volume = _volume_of(task)
        if not volume:
            text = f"task {task['ConversionTaskId']} is completed and names no volume"
            raise StepFailed(FailureClass.PRECONDITION, text)
        return Done(VolumeOutput(volume=volume))

    @staticmethod
    def _live(site: Site, found: list[Json]) -> list[Json]:
        """The tasks that go on, or whose volume stands: a task is shown long after its volume was deleted."""
        named = {_volume_of(task) for task in found if task["State"] == "completed"} - {""}
        there = volumes(site, [{"Name": "volume-id", "Values": sorted(named)}]) if named else []
        deleted = named - {str(item["VolumeId"]) for item in there if item["State"] not in GONE_VOLUME}
        return [task for task in found if task["State"] != "cancelled" and _volume_of(task) not in deleted]

    def undo(self, given: CargoInput, output: VolumeOutput | None) -> Call | None:
        return Call("volume.discard", {"volume": output.volume if output is not None else ""})


def _volume_of(task: Json) -> str:
    """The id of a task's volume; empty where it has none yet."""
    return str((task["ImportVolume"].get("Volume") or {}).get("Id") or "")


def _description(ctx: Context, path: str, attempt: str = "") -> str:
    """What names the task of a step's attempt; how that of any begins, without one."""
    return f"drpilot:{ctx.run}/{path}/{attempt}"


def tasks_of(ctx: Context, site: Site, path: str) -> list[Json]:
    """The import tasks of a step of this run, in whichever attempt, the oldest first."""
    mine = _description(ctx, path)
    found = [
        task
        for page in site.pages("ec2", "DescribeConversionTasks", {})
        for task in page.get("ConversionTasks") or []
        if str((task.get("ImportVolume") or {}).get("Description", "")).startswith(mine)
    ]
    return sorted(found, key=lambda task: (str(task.get("ExpirationTime") or ""), task["ConversionTaskId"]))


def without_queries(text: object) -> str:
    """A cloud's words without the query parts of URLs: those it was given are signed, and secrets."""
    return re.sub(r"(https?://[^\s?]+)\?\S+", r"\1", str(text))


def _manifest(shelf: BucketShelf, staged: Staged, cargo: Cargo) -> ImportManifest:
    """The import manifest of a staged snapshot. Nobody may delete parts that the next import names as well: the URLs
    that delete name objects that are not there.
    """
    deletes = signed_url(shelf, "DeleteObject", f"{cargo.snapshot}/nothing", _VALID_S)
    known: dict[str, tuple[str, str]] = {}

    def part(index: int) -> ImportPart:
        name = staged.object_of(index)
        if name not in known:
            known[name] = (
                signed_url(shelf, "HeadObject", name, _VALID_S),
                signed_url(shelf, "GetObject", name, _VALID_S),
            )
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


class DiscardInput(Model):
    """What to discard: a volume by its id, what the step called `step` beside this one has imported, or, with neither,
    what this step has.
    """

    volume: str = ""
    step: str = ""


class DiscardOutput(Model):
    """Volumes that are gone by observation."""

    volumes: tuple[str, ...]


class Discard(Action[DiscardInput, DiscardOutput]):
    """Delete the volume of an import, and stop its task if it still runs: nothing but the task names the volume."""

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
            for task in self._tasks(ctx, given):
                if task["State"] == "active":
                    site.call("ec2", "CancelConversionTask", {"ConversionTaskId": task["ConversionTaskId"]})
        for volume in self._left(ctx, given):
            try:
                site.call("ec2", "DeleteVolume", {"VolumeId": volume})
            except CloudError as error:
                if not not_found(error):
                    raise
        return visible(self.observe, ctx, given)

    @staticmethod
    def _tasks(ctx: Context, given: DiscardInput) -> list[Json]:
        beside = f"{ctx.path.rpartition('/')[0]}/{given.step}".lstrip("/")
        return tasks_of(ctx, ctx.site("target"), beside if given.step else ctx.path)

    @staticmethod
    def _meant(ctx: Context, given: DiscardInput) -> set[str]:
        """The volumes to discard, by their ids."""
        if given.volume:
            return {given.volume}
        return {_volume_of(task) for task in Discard._tasks(ctx, given)} - {""}

    @staticmethod
    def _left(ctx: Context, given: DiscardInput) -> list[str]:
        wanted = Discard._meant(ctx, given)
        if not wanted:
            return []
        found = volumes(ctx.site("target"), [{"Name": "volume-id", "Values": sorted(wanted)}])
        return sorted(str(item["VolumeId"]) for item in found if item["State"] not in GONE_VOLUME)

    def observe(self, ctx: Context, given: DiscardInput) -> Answer[DiscardOutput]:
        left = self._left(ctx, given)
        if left:
            return Unseen(True, f"{', '.join(left)} still stand")
        return Done(DiscardOutput(volumes=tuple(sorted(self._meant(ctx, given)))))
