"""A mover: a small machine beside snapshots that no API reads, launched for one step and ended after it.

Eucalyptus gives the bytes of a snapshot to nobody but a machine of its own, so the snapshots are attached to one in
the create call itself (a block device mapping makes the volumes and deletes them with the machine). Its user data
names one presigned URL, behind which the job lies (formats/moverjob.py), and says whom to trust where that is nobody
known: it writes what changed onto the stage and powers itself off. It has no keys, and nobody logs in to it.
"""

from __future__ import annotations

import base64
import re
from datetime import timedelta
from itertools import count

from drpilot.actions.members import instance_of, scaling_of, tier_of
from drpilot.actions.staging import Cargo, base_on_target, cargo_of, go_on, pace_of, shelf_of, stage_site
from drpilot.actions.views import (
    DEAD,
    first,
    images,
    instances,
    made_here,
    specification,
    tag_list,
    tagged,
    tags_of,
    visible,
)
from drpilot.base.clock import parse_time, rfc3339
from drpilot.base.errors import DrpilotError
from drpilot.domain.group import Instance
from drpilot.domain.plain import Json
from drpilot.domain.plan import Call
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
from drpilot.formats.moverjob import MoverStatus, read_status, write_job
from drpilot.transfer.moverurls import Attached, MoverNames, signed_job, signed_url
from drpilot.transfer.shelf import BucketShelf
from drpilot.transfer.stage import MAP_NAME

__all__ = ["End", "Run"]

IMAGE_NAME = "drpilot-mover"
_VALID_S = 2 * 86_400
_GIB = 1 << 30
_MOST_GIB = 2048  # two URLs for each part of 10 MiB: the job must fit into a small machine
_SILENT = timedelta(minutes=15)  # a mover says every few seconds how far it is
_ENDING_S, _LOOK_S = 600.0, 2.0  # how long an earlier mover may take to end
_MOST_USER_DATA_BYTES = 16 << 10  # EC2 API reference, RunInstances
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[\sA-Za-z0-9+/=]+-----END CERTIFICATE-----")
_DEVICES = tuple(f"/dev/sd{letter}" for letter in "fghijklmnopqrstuvwxyz")
_ENDED = ("terminated", "shutting-down", "stopped", "stopping", "gone")


class MoverInput(Model):
    """A member instance of a tier, all of whose volumes are read; empty: the image of the tier's scaling group."""

    tier: str
    instance: str = ""


class MoverOutput(Model):
    """The snapshots that lie on the stage now."""

    snapshots: dict[str, str]


def _cargoes(ctx: Context, given: MoverInput) -> list[Cargo]:
    tier = tier_of(ctx, given.tier)
    if not given.instance:
        return [cargo_of(ctx, given.tier, scaling_of(tier).key)]
    return [cargo_of(ctx, given.tier, volume.key) for volume in instance_of(tier, given.instance).volumes]


def _member(ctx: Context, given: MoverInput) -> str:
    return given.instance or scaling_of(tier_of(ctx, given.tier)).key


def _shelf(ctx: Context, given: MoverInput) -> BucketShelf:
    """Where the job and the status of this mover lie."""
    return BucketShelf(
        stage_site(ctx), ctx.group.stage_bucket, f"{ctx.group.name}/movers/{ctx.token}", pace_of(ctx)
    )


class Run(Action[MoverInput, MoverOutput]):
    """Launch a mover with the snapshots attached, and wait until each of them is staged.

    RunInstances takes a ClientToken; the job is written again under the same name before it, with fresh URLs, so that a
    mover that is there is looked for first. Movers of earlier attempts are ended before another one is launched: two
    would write the same objects.
    """

    name = "mover.run"
    summary = "stage snapshots by a machine on the source that has them attached"
    idempotency = Idempotency.TOKEN
    effect = Effect.CREATE
    permissions = (
        "ec2:RunInstances",
        "ec2:TerminateInstances",
        "ec2:CreateTags",
        "ec2:DescribeImages",
        "ec2:DescribeInstances",
        "ec2:DescribeSnapshots",
        "s3:GetObject",
        "s3:PutObject",
    )
    at = ("source", "target")
    Input = MoverInput
    Output = MoverOutput

    def start(self, ctx: Context, given: MoverInput) -> Answer[MoverOutput]:
        cargoes = _cargoes(ctx, given)
        missing = [cargo for cargo in cargoes if not _staged(ctx, cargo)]
        machine = _machine(ctx)
        if machine is not None and not _of(machine, ctx):
            marks = {"Resources": [machine["InstanceId"]], "Tags": tag_list(self._tags(ctx, given))}
            ctx.site("source").call("ec2", "CreateTags", marks)
        elif missing and machine is None:
            size_gib = sum(cargo.size_gib for cargo in missing)
            if len(missing) > len(_DEVICES) or size_gib > _MOST_GIB:
                has = f"{len(missing)} volumes of {size_gib} GiB"
                text = f"{_member(ctx, given)} has {has}; one mover takes {len(_DEVICES)} volumes and {_MOST_GIB} GiB"
                raise StepFailed(FailureClass.INVALID, text)
            shelf = _shelf(ctx, given)
            volumes = _attached(ctx, missing)
            names = MoverNames(ctx.group.name, ctx.name, ctx.point_id, "status")
            shelf.put("job", write_job(signed_job(shelf, names, volumes, (ctx.clock.now(), _VALID_S))))
            params = self._params(ctx, given, volumes)
            _end_earlier(ctx, given)
            ctx.site("source").call("ec2", "RunInstances", params, token=ctx.sub("mover"))
        return visible(self.observe, ctx, given)

    @staticmethod
    def _tags(ctx: Context, given: MoverInput) -> dict[str, str]:
        tags = ctx.tags(point=ctx.point_id, tier=given.tier, mover=_member(ctx, given))
        return tags | {"Name": f"{IMAGE_NAME}-{ctx.group.name}"}

    @staticmethod
    def _params(ctx: Context, given: MoverInput, volumes: list[Attached]) -> Json:
        site = ctx.site("source")
        url = signed_url(_shelf(ctx, given), "GetObject", "job", _VALID_S)
        return {
            "ImageId": _image(ctx, site),
            "InstanceType": ctx.group.staging.mover_type,
            "MinCount": 1,
            "MaxCount": 1,
            "InstanceInitiatedShutdownBehavior": "terminate",
            "UserData": base64.b64encode(_script(ctx, url)).decode(),
            "BlockDeviceMappings": [
                {
                    "DeviceName": one.device,
                    "Ebs": {
                        "SnapshotId": one.snapshot,
                        "VolumeSize": one.device_bytes // _GIB,
                        "DeleteOnTermination": True,
                    },
                }
                for one in volumes
            ],
            "TagSpecifications": [specification("instance", Run._tags(ctx, given))],
            **_place(ctx, given, site),
        }

    def observe(self, ctx: Context, given: MoverInput) -> Answer[MoverOutput]:
        cargoes = _cargoes(ctx, given)
        missing = [cargo.member for cargo in cargoes if not _staged(ctx, cargo)]
        if not missing:
            return Done(MoverOutput(snapshots={cargo.member: cargo.snapshot for cargo in cargoes}))
        machine, status = _machine(ctx, dead=True), self._status(ctx, given)
        if machine is None and status is None:
            return Unseen(
                True, f"no mover of this step on {ctx.source}, and {', '.join(missing)} is not staged"
            )
        if machine is not None and not _of(machine, ctx):
            return Unseen(True, f"mover {machine['InstanceId']} does not carry our tags yet")
        state = machine["State"]["Name"] if machine is not None else "gone"
        named = machine["InstanceId"] if machine is not None else "of this step"
        if state in _ENDED or (status is not None and status.state == "failed"):
            failed = [f"{one.snapshot}: {one.error}" for one in status.volumes if one.error] if status else []
            why = "; ".join(failed) or f"it is {state} and told nothing"
            text = f"mover {named} left {', '.join(missing)} unstaged: {why}"
            raise StepFailed(FailureClass.TRANSIENT, text)
        silent = self._silent(ctx, state, status)
        if silent is not None and silent > _SILENT:
            text = f"mover {named} is {state} and was silent for {silent}: see its console output"
            raise StepFailed(FailureClass.TRANSIENT, text)
        return Waiting({"instance": named}, after_s=5.0, progress=_progress(status))

    @staticmethod
    def _silent(ctx: Context, state: str, status: MoverStatus | None) -> timedelta | None:
        """For how long a running mover has said nothing new, by our own clock: its own may be wrong. A machine whose
        volumes are still being made says nothing, and that may take its time.
        """
        if state == "pending":
            return None
        now, said = ctx.clock.now(), rfc3339(status.at) if status is not None else ""
        known = ctx.resume or {}
        if known.get("said") != said or "said_at" not in known:
            ctx.checkpoint({"said": said, "said_at": rfc3339(now)})
            return timedelta(0)
        return now - parse_time(str(known["said_at"]))

    @staticmethod
    def _status(ctx: Context, given: MoverInput) -> MoverStatus | None:
        data = _shelf(ctx, given).get("status")
        if data is None:
            return None
        try:
            return read_status(data, "the mover's status")
        except DrpilotError:
            return None  # half an answer says nothing; the maps on the stage decide

    def undo(self, given: MoverInput, output: MoverOutput | None) -> Call | None:
        return Call("mover.end", given.model_dump())


def user_data(url: str, certificates: str = "") -> str:
    """What a mover's image runs at its first boot: the job's URL on standard input, since others see a command line.
    `certificates` is PEM: whom it trusts beside those that its image knows.
    """
    lines, trusting = ["#!/bin/sh", "# drpilot mover"], ""
    if certificates:
        lines += ["ca=$(mktemp)", "cat >\"$ca\" <<'PEM'", certificates, "PEM"]
        trusting = ' --ca "$ca"'
    return "\n".join([*lines, f"drpilot mover -{trusting} <<'JOB'", url, "JOB", "poweroff", ""])


def _script(ctx: Context, url: str) -> bytes:
    """The user data for a mover at the stage of this run; StepFailed where it can't say whom to trust."""
    stage = stage_site(ctx).name
    try:
        told = ctx.transfers.authority(stage)
    except DrpilotError as error:
        raise StepFailed(FailureClass.PRECONDITION, f"ca_bundle of {stage}: {error.title}") from error
    found = _CERTIFICATE.findall(told)
    if told and not found:
        raise StepFailed(FailureClass.PRECONDITION, f"ca_bundle of {stage} holds no certificate in PEM")
    data = user_data(url, "\n".join(found)).encode()
    if len(data) > _MOST_USER_DATA_BYTES:
        has = f"{len(found)} certificates, {len(data)} bytes of user data with them"
        text = f"ca_bundle of {stage} has {has}; a mover has room for {_MOST_USER_DATA_BYTES}"
        raise StepFailed(FailureClass.PRECONDITION, f"{text}: name a file with the few that sign for {stage}")
    return data


def _end_earlier(ctx: Context, given: MoverInput) -> None:
    """End what earlier attempts launched for the same work, and see it gone; StepFailed where it does not end,
    CloudError where nobody waits for it any more.
    """
    site, end_s = ctx.site("source"), ctx.clock.monotonic() + _ENDING_S
    while left := [item for item in _movers(ctx, given, site) if item["State"]["Name"] != "terminated"]:
        names = [item["InstanceId"] for item in left if item["State"]["Name"] not in DEAD]
        if names:
            site.call("ec2", "TerminateInstances", {"InstanceIds": names})
        if ctx.clock.monotonic() >= end_s:
            text = (
                f"mover {', '.join(item['InstanceId'] for item in left)} of an earlier attempt does not end"
            )
            raise StepFailed(FailureClass.TRANSIENT, text)
        go_on(ctx)
        ctx.clock.sleep(_LOOK_S)


def _movers(ctx: Context, given: MoverInput, site: Site) -> list[Json]:
    """Every mover of this run's for the same member, in whichever attempt, also those that have ended."""
    mine = [{"Name": "tag:drpilot:run", "Values": [ctx.run]}, *tagged(mover=_member(ctx, given))]
    return instances(site, mine, dead=True)


def _progress(status: MoverStatus | None) -> float | None:
    parts = sum(volume.parts for volume in status.volumes) if status is not None else 0
    return sum(volume.done for volume in status.volumes) / parts if status is not None and parts else None


def _staged(ctx: Context, cargo: Cargo) -> bool:
    """Whether the cargo is staged: its map, which is written last, is there."""
    return shelf_of(ctx, cargo).has(f"{cargo.snapshot}/{MAP_NAME}")


def _machine(ctx: Context, *, dead: bool = False) -> Json | None:
    """This attempt's mover, by its tags or by its client token, where tags come after the create call."""
    site = ctx.site("source")
    wanted = ctx.sub("mover")
    ours = [item for item in instances(site, made_here(ctx), dead=dead) if _of(item, ctx)]
    by_token = [{"Name": "client-token", "Values": [wanted]}]
    return first(ours) or first(instances(site, by_token, dead=dead))


def _of(item: Json, ctx: Context) -> bool:
    return tags_of(item).get("drpilot:attempt") == ctx.token


def _image(ctx: Context, site: Site) -> str:
    if ctx.group.staging.mover_image:
        return ctx.group.staging.mover_image
    found = first(images(site, [{"Name": "tag:Name", "Values": [IMAGE_NAME]}]))
    if found is None:
        text = f"{site.name} has no image tagged Name={IMAGE_NAME}, and the group names none (staging.mover.image)"
        raise StepFailed(FailureClass.PRECONDITION, f"{text}; docs/howto/movers.md says how to make one")
    return str(found["ImageId"])


def _place(ctx: Context, given: MoverInput, site: Site) -> Json:
    """Where the mover stands: in the subnet of the machine whose volumes it reads, or in its zone."""
    tier = tier_of(ctx, given.tier)
    near: Instance | None = instance_of(tier, given.instance) if given.instance else None
    if near is None:
        near = first(instance for other in ctx.group.tiers for instance in other.instances)
    if near is not None and near.subnet and "vpc" in site.capabilities:
        return {"SubnetId": near.subnet}
    if near is not None and near.zone:
        return {"Placement": {"AvailabilityZone": near.zone}}
    subnets = scaling_of(tier).subnets if tier.scaling_group is not None else ()
    return {"SubnetId": subnets[0]} if subnets and "vpc" in site.capabilities else {}


def _attached(ctx: Context, cargoes: list[Cargo]) -> list[Attached]:
    """Each cargo as a device of its own size: inside a guest, only sizes tell devices apart."""
    found: list[Attached] = []
    taken: set[int] = set()
    for device, cargo in zip(_DEVICES, cargoes, strict=False):
        shelf = shelf_of(ctx, cargo)
        base = base_on_target(ctx, cargo, shelf)
        size_gib = next(size for size in count(cargo.size_gib) if size not in taken)
        taken.add(size_gib)
        before = base.staged.snapshot if base is not None else ""
        found.append(Attached(device, cargo.snapshot, cargo.size_gib * _GIB, size_gib * _GIB, before, shelf))
    return found


class EndOutput(Model):
    """Movers that are gone by observation."""

    ended: tuple[str, ...]


class End(Action[MoverInput, EndOutput]):
    """Terminate the movers of a member in this run; their volumes go with them."""

    name = "mover.end"
    summary = "end the machine that staged snapshots; its volumes go with it"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    permissions = ("ec2:TerminateInstances", "ec2:DescribeInstances")
    at = ("source",)
    Input = MoverInput
    Output = EndOutput

    def start(self, ctx: Context, given: MoverInput) -> Answer[EndOutput]:
        site = ctx.site("source")
        every = _movers(ctx, given, site)
        left = [item["InstanceId"] for item in every if item["State"]["Name"] not in DEAD]
        if left:
            site.call("ec2", "TerminateInstances", {"InstanceIds": left})
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: MoverInput) -> Answer[EndOutput]:
        every = _movers(ctx, given, ctx.site("source"))
        left = [item for item in every if item["State"]["Name"] != "terminated"]
        if not left:
            return Done(EndOutput(ended=tuple(sorted(item["InstanceId"] for item in every))))
        names = ", ".join(item["InstanceId"] for item in left)
        if all(item["State"]["Name"] == "shutting-down" for item in left):
            return Waiting({}, after_s=5.0, note=f"mover {names} is shutting down")
        return Unseen(True, f"mover {names} still stands")
