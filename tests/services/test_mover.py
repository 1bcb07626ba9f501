"""The mover, as the process it is, beside a Eucalyptus cloud of the lab: URLs over HTTP and nothing else."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from drpilot.base.clock import Chance, RealClock
from drpilot.clouds.credentials import CredentialsReference
from drpilot.clouds.session import Clients, SiteSettings
from drpilot.clouds.site import BotoSite, Ways
from drpilot.formats.blockmap import BLOCK_BYTES
from drpilot.formats.moverjob import MoverJob, read_job, read_status, write_job
from drpilot.lab.process import World
from drpilot.transfer.moverurls import Attached, MoverNames, signed_job, signed_url
from drpilot.transfer.pace import Pace
from drpilot.transfer.shelf import BucketShelf
from drpilot.transfer.stage import PART_BYTES, Staged, read_staged
from tests.grounds import key_file
from tests.transfer.world import map_by_hand, overwrite, write_image

REAL = RealClock()
ROOT = Path(__file__).resolve().parents[2]
SIZE = 4 * PART_BYTES + 3 * BLOCK_BYTES + 777  # the last part is short, and so is the last block
BLOCKS = {0: 1, 1: 0, 19: 2, 20: 3, 45: 4, 83: 5}  # parts 0, 1, 2 and 4; part 3 is zeros
URL_ENDS = 3600


@dataclass
class Beside:
    """A cloud, a bucket on it as a stage, and a machine beside it."""

    world: World
    name: str
    site: BotoSite
    shelf: BucketShelf
    folder: Path

    def job(self, *volumes: Attached, expires_s: int = URL_ENDS) -> MoverJob:
        """A job that stages these volumes."""
        names = MoverNames("shop", "shop/12", "01JPOINT", "movers/12.status")
        return signed_job(self.shelf, names, volumes, (REAL.now(), expires_s))

    def put(self, job: MoverJob) -> str:
        """The URL of a job, once it lies in the bucket."""
        self.shelf.put("movers/12.job", write_job(job))
        return signed_url(self.shelf, "GetObject", "movers/12.job", URL_ENDS)

    def begin(self, url: str, *options: str | Path) -> subprocess.Popen[str]:
        """A mover, its URL on standard input."""
        command = [sys.executable, "-m", "drpilot", "mover", "-", "--output", "json", "--wait", "0s"]
        process = subprocess.Popen(
            [*command, *map(str, options)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(url + "\n")
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, url: str, *options: str | Path) -> tuple[int, dict[str, Any], str]:
        """A mover to its end: exit code, its JSON, and all it printed; never a URL."""
        process = self.begin(url, *options)
        out, errors = process.communicate(timeout=60)
        assert not [text for text in ("Signature=", "AWSAccessKeyId", "://") if text in out + errors]
        return process.returncode, json.loads(out), out + errors

    def calls(self, operation: str) -> list[dict[str, Any]]:
        """What the cloud was asked since the calls were last cleared."""
        return list(self.world.control(self.name, "calls", service="s3", operation=operation)["calls"])

    def parts_put(self, snapshot: str) -> list[str]:
        """Names of the parts of a snapshot that were sent."""
        start = self.shelf.key(f"{snapshot}/")
        keys = [call["params"]["Key"] for call in self.calls("PutObject")]
        return sorted(key.removeprefix(start) for key in keys if key.startswith(start) and key[-1].isdigit())

    def staged(self, snapshot: str) -> Staged:
        """What the stage has of a snapshot."""
        found = read_staged(self.shelf, snapshot)
        assert found is not None
        return found

    def bytes_of(self, snapshot: str) -> bytes:
        """The volume as the stage has it, part by part."""
        found = self.staged(snapshot)
        parts = []
        for index in range(found.parts):
            first, last = found.span(index)
            length = last - first + 1
            name = found.object_of(index)
            data = bytes(length) if name == "zeros" else self.shelf.get(name)
            assert data is not None and len(data) == length
            parts.append(data)
        return b"".join(parts)


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two Eucalyptus clouds: home signs objects with version 4, away with version 2."""
    world = World(tmp_path_factory.mktemp("movers") / "world")
    dialects = {"home": "eucalyptus-4.4", "away": "eucalyptus-3.4"}
    world.create(("home", "away"), speed=50, dialects=dialects)
    world.up(("home", "away"))
    yield world
    errors = [world.control(name, "errors")["errors"] for name in world.sites()]
    world.down()
    assert errors == [[], []]


@pytest.fixture(params=["home", "away"], ids=["4.4", "3.4"])
def beside(request: pytest.FixtureRequest, clouds: World, tmp_path: Path) -> Iterator[Beside]:
    """An empty cloud of each version."""
    clouds.reset()
    access = clouds.sites()[request.param]
    keys = key_file(
        tmp_path, f"aws_access_key_id = {access.access_key}\naws_secret_access_key = {access.secret_key}\n"
    )
    settings = SiteSettings(
        name=access.name,
        cloud=access.dialect,
        region=access.region,
        endpoints={"default": access.endpoint},
        credentials=CredentialsReference("file", str(keys)),
    )
    site = BotoSite(Clients(settings, environment={}), Ways(clock=REAL, chance=Chance(5)))
    site.call("s3", "CreateBucket", {"Bucket": "stage"})
    yield Beside(
        clouds, access.name, site, BucketShelf(site, "stage", "drpilot/shop", Pace(REAL, Chance(5))), tmp_path
    )
    site.close()


version_4 = pytest.mark.parametrize("beside", ["home"], indirect=True)


def test_a_volume_is_staged_and_the_next_time_only_its_changes(beside: Beside) -> None:
    """The stage has the device's bytes and a map that a hand-made one equals; the second snapshot sends the parts in
    which blocks changed, a part of zeros never travels, and a third try of it sends nothing.
    """
    path = write_image(beside.folder / "device", BLOCKS, SIZE)
    url = beside.put(beside.job(Attached("/dev/sdf", "snap-1", SIZE)))
    code, told, _ = beside.run(url, "--device", f"/dev/sdf={path}")
    assert code == 0
    assert (told["state"], told["run"], told["volumes"][0]["done"]) == ("done", "shop/12", 5)
    following = shlex.split(told["next"])
    assert following == ["drpilot", "mover", "-", "--device", f"/dev/sdf={path}", "--wait", "0s", "--status"]
    assert beside.run(url, *following[3:])[1]["state"] == "done"
    assert beside.staged("snap-1").block_map == map_by_hand(path)
    assert beside.bytes_of("snap-1") == path.read_bytes()
    assert beside.parts_put("snap-1") == ["000000", "000001", "000002", "000004"]
    overwrite(path, {19: 9, 45: 0, 60: 7})
    beside.world.control(beside.name, "calls", clear=True)
    second = beside.put(beside.job(Attached("/dev/sdf", "snap-2", SIZE, base="snap-1")))
    code, told, _ = beside.run(second, "--device", f"/dev/sdf={path}")
    assert code == 0
    assert beside.parts_put("snap-2") == ["000000", "000003"]
    row = told["volumes"][0]
    assert (row["blocks_changed"], row["parts_written"], row["bytes_written"]) == (3, 2, 2 * PART_BYTES)
    assert beside.staged("snap-2").folders == ("snap-2", "snap-1", "", "snap-2", "snap-1")
    assert beside.bytes_of("snap-2") == path.read_bytes()
    beside.world.control(beside.name, "calls", clear=True)
    assert beside.run(second, "--device", f"/dev/sdf={path}")[0] == 0
    assert beside.parts_put("snap-2") == []


def test_a_mover_that_was_killed_goes_on(beside: Beside) -> None:
    """SIGKILL in the middle of twelve parts: there is no map, so nothing is staged; the same command sends the parts
    that are not there and no other, and then everything is.
    """
    path = write_image(beside.folder / "device", {20 * part: part + 1 for part in range(12)}, 12 * PART_BYTES)
    url = beside.put(beside.job(Attached("/dev/sdf", "snap-1", 12 * PART_BYTES)))
    beside.world.control(beside.name, "break", fault="latency=0.3:s3.PutObject")
    process = beside.begin(url, "--device", f"/dev/sdf={path}")
    end = REAL.monotonic() + 60
    while len(beside.shelf.names("snap-1")) < 3:
        assert REAL.monotonic() < end
        assert process.poll() is None, process.communicate()
        REAL.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    beside.world.control(beside.name, "heal")
    while any(call["outcome"] == "running" for call in beside.calls("PutObject")):
        assert REAL.monotonic() < end
        REAL.sleep(0.05)
    there = {name.rpartition("/")[2] for name in beside.shelf.names("snap-1")}
    assert 3 <= len(there) < 12
    assert read_staged(beside.shelf, "snap-1") is None
    beside.world.control(beside.name, "calls", clear=True)
    assert beside.run(url, "--device", f"/dev/sdf={path}")[0] == 0
    assert beside.parts_put("snap-1") == sorted({f"{part:06d}" for part in range(12)} - there)
    assert beside.bytes_of("snap-1") == path.read_bytes()


@version_4
def test_volumes_are_found_by_what_they_are(beside: Beside) -> None:
    """Three volumes of one size are told apart by the sizes of their devices, whatever the guest calls them; only the
    snapshot's part of each is staged.
    """
    folder, jobs = beside.folder / "dev", []
    folder.mkdir()
    for number, name in enumerate(("vdd", "vdb", "vdc")):
        larger = PART_BYTES + (number + 1) * BLOCK_BYTES
        write_image(folder / name, {0: number + 1, 20: 9}, larger)
        jobs.append(Attached(f"/dev/sd{'fgh'[number]}", f"snap-{number}", PART_BYTES, larger))
    code, told, _ = beside.run(beside.put(beside.job(*jobs)), "--devices", folder)
    assert code == 0
    assert [row["state"] for row in told["volumes"]] == ["done"] * 3
    for number, name in enumerate(("vdd", "vdb", "vdc")):
        assert beside.bytes_of(f"snap-{number}") == (folder / name).read_bytes()[:PART_BYTES]


@version_4
def test_one_volume_that_fails_keeps_no_other(beside: Beside) -> None:
    """A device that is shorter than its snapshot fails before anything begins; a URL that is no longer good fails its
    own volume, exit code 4, and the status on the stage says the same as the command.
    """
    one, two = (write_image(beside.folder / name, {0: 1}, PART_BYTES) for name in ("one", "two"))
    named = ("--device", f"/dev/sdf={one}", "--device", f"/dev/sdg={two}")
    job = beside.job(Attached("/dev/sdf", "snap-1", PART_BYTES), Attached("/dev/sdg", "snap-2", PART_BYTES))
    other = signed_url(beside.shelf, "GetObject", "snap-2/000000", URL_ENDS)
    broken = replace(job.volumes[1], part_urls=(other,))
    code, told, said = beside.run(beside.put(replace(job, volumes=(job.volumes[0], broken))), *named)
    assert (code, told["error"]["word"]) == (4, "mover-unfinished")
    command, _, why = told["error"]["hint"].partition("; ")
    assert shlex.split(command) == ["drpilot", "mover", "-", *named, "--wait", "0s"]
    assert why == "it goes on where this one stopped"
    assert "snap-2 (/dev/sdg)" in said and "SignatureDoesNotMatch" in said
    assert beside.bytes_of("snap-1") == one.read_bytes()
    assert read_staged(beside.shelf, "snap-2") is None
    status = beside.shelf.get("movers/12.status")
    assert status is not None
    found = read_status(status, "s")
    assert (found.state, [row.state for row in found.volumes]) == ("failed", ["done", "failed"])
    assert "SignatureDoesNotMatch" in found.volumes[1].error
    asked = subprocess.run(
        [sys.executable, "-m", "drpilot", "mover", "-", "--status"], cwd=ROOT, check=True, capture_output=True,
        input=write_job(job), timeout=60,
    )  # fmt: skip
    assert b"snap-2" in asked.stdout and b"failed" in asked.stdout
    code, told, _ = beside.run(beside.put(job), *named)
    assert (code, told["state"]) == (0, "done")
    short = beside.job(Attached("/dev/sdf", "snap-3", PART_BYTES + 1))
    code, told, _ = beside.run(beside.put(short), "--device", f"/dev/sdf={one}")
    assert (code, told["error"]["word"]) == (9, "mover-device")
    assert "drpilot mover - --wait 0s --device /dev/sdf=PATH; " in told["error"]["hint"]


@version_4
def test_a_job_that_can_not_be_done_is_one_clear_error(beside: Beside) -> None:
    """A job that expired, one that is not there, a URL that was changed, a device that is not there or not sure, and
    one that nobody asked for.
    """
    path = write_image(beside.folder / "device", {0: 1}, PART_BYTES)
    named = ("--device", f"/dev/sdf={path}")
    job = beside.job(Attached("/dev/sdf", "snap-1", PART_BYTES), Attached("/dev/sdg", "snap-2", PART_BYTES))
    late = replace(job, expires_at=REAL.now() - timedelta(seconds=1))
    url = beside.put(late)
    assert beside.run(url, *named)[1]["error"]["hint"].startswith("drpilot run retry shop/12; ")
    by_hand = beside.put(replace(late, run="image-1"))
    assert "image-1" not in beside.run(by_hand, *named)[1]["error"]["hint"]
    url = beside.put(late)
    tried = [
        (beside.run(url, *named), 6, "mover-job", "expired"),
        (beside.run(url.replace("12.job", "13.job")), 6, "mover-job", "SignatureDoesNotMatch"),
    ]
    gone = signed_url(beside.shelf, "GetObject", "movers/14.job", URL_ENDS)
    tried.append((beside.run(gone), 6, "mover-job", "nothing behind its URL"))
    url = beside.put(job)
    folder = beside.folder / "dev"
    folder.mkdir()
    write_image(folder / "vdb", {}, PART_BYTES)
    write_image(folder / "vdc", {}, PART_BYTES)
    tried += [
        (beside.run(url, "--devices", folder), 9, "mover-device", "are alike"),
        (beside.run(url, *named, "--devices", beside.folder / "none"), 9, "mover-device", "there are none"),
        (beside.run(url, "--device", f"/dev/sdf={beside.folder}"), 9, "mover-device", "can't be read"),
        (beside.run(url, *named, "--device", "/dev/sdz=/dev/null"), 2, "usage", "no device /dev/sdz"),
        (beside.run("https:// nowhere"), 6, "mover-job", "no URL"),
    ]
    for (code, told, said), wanted, word, text in tried:
        assert (code, told["error"]["word"], text in said) == (wanted, word, True), said
    assert beside.shelf.names("snap-1") == frozenset()


@version_4
def test_a_mover_outlives_a_cloud_that_is_away(beside: Beside) -> None:
    """Errors, throttles and cut connections on the way are met with patience; the volume is staged whole."""
    path = write_image(beside.folder / "device", BLOCKS, SIZE)
    url = beside.put(beside.job(Attached("/dev/sdf", "snap-1", SIZE)))
    for fault in (
        "error-5xx:s3.PutObject@1-2",
        "reset:s3.PutObject@3",
        "lost-reply:s3.PutObject@4",
        "throttle:s3.HeadObject@2",
    ):
        beside.world.control(beside.name, "break", fault=fault)
    try:
        assert beside.run(url, "--device", f"/dev/sdf={path}")[0] == 0
    finally:
        beside.world.control(beside.name, "heal")
    assert beside.bytes_of("snap-1") == path.read_bytes()


@version_4
def test_a_job_knows_a_url_for_each_object(beside: Beside) -> None:
    """What the controller writes is what the mover reads, with a URL to write and one to look at for every part."""
    job = beside.job(Attached("/dev/sdf", "snap-2", SIZE, base="snap-1"))
    assert read_job(write_job(job), "j") == replace(job, expires_at=read_job(write_job(job), "j").expires_at)
    (volume,) = job.volumes
    assert (len(set(volume.part_urls)), len(set(volume.head_urls)), volume.parts) == (5, 5, 5)
    assert volume.base is not None and "snap-1/blocks.map" in volume.base.map_url
