"""The step that has a mover stage snapshots: whom the mover trusts, that one works at a time, and how silence and death
are told from work. The movers are the real program, beside a private cloud of the lab.
"""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from drpilot import wiring
from drpilot.actions.images import BY_HAND
from drpilot.actions.mover import End, MoverInput, MoverOutput, Run, user_data
from drpilot.actions.staging import Open
from drpilot.actions.views import Nothing
from drpilot.base.clock import RealClock
from drpilot.base.errors import DrpilotError
from drpilot.domain.group import Group, Objectives, ScalingGroup, Tier
from drpilot.domain.ports import Answer, CloudError, Done, FailureClass, StepFailed, Unseen, Waiting
from drpilot.formats.moverjob import (
    JobVolume,
    MoverJob,
    MoverStatus,
    VolumeStatus,
    read_status,
    write_job,
    write_status,
)
from drpilot.services.byhand import Hand
from drpilot.transfer.block import BLOCK_BYTES
from drpilot.transfer.pace import Pace
from drpilot.transfer.shelf import BucketShelf
from tests.grounds import Answering, Heard
from tests.lab.delivery_world import until
from tests.services.imageworld import Pair, pair

ROOT = Path(__file__).resolve().parents[2]
MOVER = MoverInput(tier=BY_HAND)
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


class Ahead(RealClock):
    """The real clock, some time ahead."""

    ahead = timedelta(0)

    def now(self) -> datetime:
        """The time."""
        return super().now() + self.ahead

    def monotonic(self) -> float:
        """Seconds."""
        return super().monotonic() + self.ahead.total_seconds()


@dataclass
class Yard:
    """A private cloud with an image to be staged, and AWS."""

    world: Pair
    image: str
    subnet: str
    clock: Ahead = field(default_factory=Ahead)
    trusted: str = ""

    def attempt(self, token: str, run: str = "work") -> Hand:
        """An attempt of the step that stages the image's root."""
        scaled = ScalingGroup(self.image, self.image, "", 0, 0, 0, subnets=(self.subnet,))
        group = Group("work", "home", "away", Objectives(0.0, 0.0), (Tier(BY_HAND, scaling_group=scaled),))
        stage = self.world.stage
        carrying = replace(stage.transfers, authority=lambda site: self.trusted)
        stage = replace(stage, clock=self.clock, transfers=carrying)
        return Hand(stage, group, run, "read", token, self.clock.now(), {})

    def begin(self, ctx: Hand) -> str:
        """Launch a mover, and stop its process before it does anything; the id of its machine."""
        known = {pid for pid, _ in self.processes()}
        assert isinstance(Run().start(ctx, MOVER), Waiting)
        until(lambda: {pid for pid, _ in self.processes()} - known, "the process of the mover")
        (begun,) = [one for one in self.processes() if one[0] not in known]
        os.kill(begun[0], signal.SIGSTOP)
        return begun[1]

    def processes(self) -> list[tuple[int, str]]:
        """The processes of movers that live, and their machines."""
        folder, found = str(self.world.clouds["home"].store.directory.absolute() / "movers"), []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    cwd, state = (
                        str((entry / "cwd").readlink()),
                        (entry / "stat").read_text().rsplit(")", 1)[1],
                    )
                except OSError:
                    continue
                if cwd.startswith(folder) and state.split()[0] != "Z":
                    found.append((int(entry.name), Path(cwd).name))
        return found

    def state(self, machine: str) -> str:
        """The state of a machine."""
        return str(self.world.clouds["home"].table("instances")[machine]["State"]["Name"])

    def shelf(self, ctx: Hand) -> BucketShelf:
        """Where a mover's status lies."""
        pace = Pace(self.clock, ctx.transfers.chance)
        return BucketShelf(
            self.world.sites["home"], ctx.group.stage_bucket, f"{ctx.group.name}/movers/{ctx.token}", pace
        )

    def told(self, ctx: Hand, at: datetime, **facts: Any) -> None:
        """What a mover would have said."""
        volume = VolumeStatus("snap-1", "/dev/sdf", 5, **{"state": "working", "done": 1, **facts})
        self.shelf(ctx).put("status", write_status(MoverStatus(ctx.name, at, [volume])))

    def look(self, ctx: Hand) -> Answer[MoverOutput]:
        """One look."""
        return Run().observe(ctx, MOVER)

    def fails(self, ctx: Hand) -> str:
        """A look that says the step failed, in passing: why."""
        with pytest.raises(StepFailed) as failed:
            self.look(ctx)
        assert failed.value.kind is FailureClass.TRANSIENT
        return failed.value.message


@pytest.fixture(scope="module")
def _yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    with pair(tmp_path_factory.mktemp("movers"), "eucalyptus-4.4", "aws") as world:
        image = world.image("shop-web")
        subnet = world.doors["home"]("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
        yard = Yard(world, image, subnet)
        Open().start(yard.attempt("open"), Nothing())
        world.keep()
        yield yard


@pytest.fixture
def yard(_yard: Yard) -> Iterator[Yard]:
    """As on the first day, and without a mover at the end."""
    _yard.world.back()
    yield replace(_yard, clock=Ahead(), trusted="")
    ec2 = _yard.world.doors["home"]("ec2")
    for _, machine in _yard.processes():
        ec2.terminate_instances(InstanceIds=[machine])
    until(lambda: not _yard.processes(), "the end of the movers")


def test_a_mover_of_an_earlier_attempt_is_ended_first(yard: Yard) -> None:
    """A second attempt of the step ends the first one's mover before it launches another; one of other work goes on."""
    other = yard.begin(yard.attempt("a", run="other"))
    first = yard.begin(yard.attempt("b"))
    second = yard.begin(yard.attempt("c"))
    assert (yard.state(first), yard.state(second), yard.state(other)) == ("terminated", "running", "running")
    until(lambda: {machine for _, machine in yard.processes()} == {second, other}, "the end of its process")
    calls = [name for site, name in yard.world.life.calls if site == "home" and name.endswith("Instances")]
    assert calls == ["RunInstances", "RunInstances", "TerminateInstances", "RunInstances"]


class Unwanted(Hand):
    """An attempt that nobody waits for."""

    def unwanted(self) -> bool:
        return True


def test_nobody_waits_for_an_earlier_mover_to_end(yard: Yard) -> None:
    """A step that was cancelled meanwhile does not wait for the end of an earlier mover, and launches none."""
    yard.begin(yard.attempt("b"))
    wanted = yard.attempt("c")
    second = Unwanted(**{each.name: getattr(wanted, each.name) for each in fields(wanted)})
    with pytest.raises(CloudError) as cut:
        Run().start(second, MOVER)
    assert (cut.value.kind, cut.value.happened) == (FailureClass.CANCELLED, "unknown")
    calls = [name for site, name in yard.world.life.calls if site == "home" and name.endswith("Instances")]
    assert calls == ["RunInstances", "TerminateInstances"]


def test_a_silent_mover_fails_by_our_own_clock(yard: Yard) -> None:
    """A mover that says nothing new for 15 minutes has failed; what its own clock says does not matter."""
    ctx = yard.attempt("a")
    machine = yard.begin(ctx)
    assert isinstance(yard.look(ctx), Waiting)
    yard.clock.ahead += timedelta(minutes=14)
    assert isinstance(yard.look(ctx), Waiting)
    for number in range(3):
        yard.told(ctx, LONG_AGO + timedelta(seconds=number))
        answer = yard.look(ctx)
        assert isinstance(answer, Waiting)
        assert answer.progress == 0.2
        yard.clock.ahead += timedelta(minutes=14)
        assert isinstance(yard.look(ctx), Waiting)
    yard.clock.ahead += timedelta(minutes=2)
    said = yard.fails(ctx)
    assert f"mover {machine} is running and was silent for 0:16" in said
    End().start(ctx, MOVER)
    until(lambda: isinstance(End().observe(ctx, MOVER), Done), "the end of the mover")
    until(lambda: not yard.processes(), "the end of its process")


@pytest.mark.parametrize("listed", [True, False])
def test_a_mover_that_is_gone_says_why_it_failed(yard: Yard, listed: bool) -> None:
    """A machine that has ended with a failed status, still listed or not, fails the step with its reason."""
    ctx = yard.attempt("a")
    machine = yard.begin(ctx)
    yard.told(ctx, LONG_AGO, state="failed", error="DRP-6999: the disk is on fire")
    yard.world.doors["home"]("ec2").terminate_instances(InstanceIds=[machine])
    until(lambda: yard.state(machine) == "terminated", "the end of the machine")
    if not listed:
        with yard.world.clouds["home"].transaction():
            del yard.world.clouds["home"].table("instances")[machine]
    said = yard.fails(ctx)
    assert "snap-1: DRP-6999: the disk is on fire" in said
    assert (machine in said) == listed


def test_a_mover_that_is_gone_without_a_word(yard: Yard) -> None:
    """A machine that has ended and told nothing fails the step; one that nobody lists, with no status, never was."""
    ctx = yard.attempt("a")
    machine = yard.begin(ctx)
    yard.world.doors["home"]("ec2").terminate_instances(InstanceIds=[machine])
    until(lambda: yard.state(machine) == "terminated", "the end of the machine")
    assert "it is terminated and told nothing" in yard.fails(ctx)
    assert isinstance(yard.look(yard.attempt("b")), Unseen)


def test_a_mover_is_told_whom_to_trust(yard: Yard, tmp_path: Path) -> None:
    """The certificates of a site's ca_bundle, and nothing else of that file, are in the user data, and the program is
    started with them; the root is staged.
    """
    certificate, _ = certified(tmp_path)
    yard.trusted = f"# our own\nPEM\n{certificate}\nsecret words\n"
    ctx = yard.attempt("a")
    machine = yard.begin(ctx)
    ((process, _),) = yard.processes()
    command = Path(f"/proc/{process}/cmdline").read_text().split("\0")
    assert Path(command[command.index("--ca") + 1]).read_text().strip() == certificate
    shown = yard.world.doors["home"]("ec2").describe_instance_attribute(
        InstanceId=machine, Attribute="userData"
    )
    text = base64.b64decode(shown["UserData"]["Value"]).decode()
    assert certificate in text
    assert "secret words" not in text
    os.kill(process, signal.SIGCONT)
    until(lambda: isinstance(yard.look(ctx), Done), "the end of the mover", timeout_s=60)


@pytest.mark.parametrize(
    ("text", "said"),
    [("nothing of use", "holds no certificate in PEM"), ("", "a mover has room for 16384")],
    ids=["none", "too many"],
)
def test_a_ca_bundle_that_a_mover_can_not_take(yard: Yard, tmp_path: Path, text: str, said: str) -> None:
    """One without certificates, and one with those of the whole world, are refused before anything is launched."""
    yard.trusted = text or f"{certified(tmp_path)[0]}\n" * 20
    with pytest.raises(StepFailed, match=said) as refused:
        Run().start(yard.attempt("a"), MOVER)
    assert refused.value.kind is FailureClass.PRECONDITION
    assert yard.world.life.count("RunInstances") == 0


def test_an_installation_knows_whom_its_sites_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `ca_bundle` names is what movers are told, whether an image is copied by hand or a run carries it; a site
    without one has none, and a file that can't be read is said.
    """
    (tmp_path / "ca.pem").write_text("of our own\n")
    (tmp_path / "keys").write_text("aws_access_key_id = A\naws_secret_access_key = B\n")
    (tmp_path / "keys").chmod(0o600)
    site = "cloud: eucalyptus-4.4, account: '000000000001', credentials: {file: keys}"
    site += ", endpoints: {default: 'https://127.0.0.1:9'}"
    sites = {"home": ", ca_bundle: ca.pem", "away": "", "lost": ", ca_bundle: none.pem"}
    lines = [f"  {name}: {{{site}{more}}}" for name, more in sites.items()]
    (tmp_path / "drpilot.yaml").write_text("\n".join(["drpilot: 1", "sites:", *lines, ""]))
    monkeypatch.setenv("DRPILOT_HOME", str(tmp_path))
    stage = wiring.image_stage(lab=False, source="home", target="away")
    for transfers in (stage.transfers, wiring.open_house(lab=False).world.transfers):
        assert transfers is not None
        assert (transfers.authority("home"), transfers.authority("away")) == ("of our own\n", "")
        with pytest.raises(DrpilotError) as unread:
            transfers.authority("lost")
        assert unread.value.word == "key-unreadable"


# -- the script of a mover, and a store under an authority of its own ------------------------------------------------


class Store:
    """Objects by path, over TLS."""

    def __init__(self, folder: Path) -> None:
        self.objects: dict[str, bytes] = {}
        self.authority, pair_ = certified(folder)
        self.server = Answering(self._answer, tls=pair_)
        self.url = self.server.url

    def _answer(self, heard: Heard, number: int) -> bytes:
        if heard.method == "PUT":
            self.objects[heard.path] = heard.body
        data = self.objects.get(heard.path)
        etag = hashlib.md5(data or b"", usedforsecurity=False).hexdigest()
        body = data if data is not None and heard.method == "GET" else b""
        status = 404 if data is None else 200
        head = f'HTTP/1.1 {status} Status\r\nContent-Length: {len(body)}\r\nETag: "{etag}"\r\n\r\n'
        return head.encode() + body

    def close(self) -> None:
        """Stop."""
        self.server.close()


def certified(folder: Path) -> tuple[str, tuple[Path, Path]]:
    """An authority of our own (PEM), and a certificate that it signed for 127.0.0.1 with its key."""
    paths = {name: folder / name for name in ("ca.key", "ca.pem", "key", "pem", "request", "extension")}
    paths["extension"].write_text("subjectAltName=IP:127.0.0.1\n")
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj"]
    for command in (
        [*new, "/CN=our authority", "-x509", "-days", "2", "-keyout", paths["ca.key"], "-out", paths["ca.pem"]],
        [*new, "/CN=store", "-keyout", paths["key"], "-out", paths["request"]],
        ["openssl", "x509", "-req", "-in", paths["request"], "-CA", paths["ca.pem"], "-CAkey", paths["ca.key"],
         "-CAcreateserial", "-days", "2", "-extfile", paths["extension"], "-out", paths["pem"]],
    ):  # fmt: skip
        subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return paths["ca.pem"].read_text().strip(), (paths["pem"], paths["key"])


def _run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A mover's script as its machine runs it, with the real program and no power to switch off."""
    programs, devices = folder / "bin", folder / "dev"
    programs.mkdir(exist_ok=True)
    devices.mkdir(exist_ok=True)
    (devices / "vdf").write_bytes(b"root" * (BLOCK_BYTES // 4) + bytes(2 * BLOCK_BYTES))
    program = f'exec {sys.executable} -m drpilot "$@" --devices {devices} --wait 0s'
    for name, line in (("drpilot", program), ("poweroff", f": >{folder}/off")):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o700)
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder)}
    return subprocess.run(
        ["/bin/sh"],
        input=script,
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_a_mover_works_with_a_store_under_its_own_authority(tmp_path: Path) -> None:
    """The script that is a mover's user data, run by a shell: with the site's authority in it the volume is staged over
    TLS; without, nothing is even asked.
    """
    with closing(Store(tmp_path)) as store:
        volume = JobVolume("/dev/sdf", "snap-1", 3 * BLOCK_BYTES, (f"{store.url}/part",), f"{store.url}/map")
        job = MoverJob(
            "shop", "shop/1", "p", RealClock().now() + timedelta(hours=1), (volume,), f"{store.url}/status"
        )
        store.objects["/job"] = write_job(job)
        refused = _run(user_data(f"{store.url}/job"), tmp_path)
        assert "is not trusted" in refused.stdout + refused.stderr
        assert (store.server.heard, set(store.objects)) == ([], {"/job"})
        done = _run(user_data(f"{store.url}/job", store.authority), tmp_path)
        assert "snap-1    /dev/sdf  done" in done.stdout, done.stderr
        assert store.objects["/part"] == b"root" * (BLOCK_BYTES // 4) + bytes(2 * BLOCK_BYTES)
        assert read_status(store.objects["/status"], "s").state == "done"
        assert "/map" in store.objects
        assert (tmp_path / "off").exists()
