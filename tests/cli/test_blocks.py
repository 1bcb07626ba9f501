"""The blocks commands as people type them, with `--lab`: results, errors, exit codes, and what stands on disk after."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drpilot.cli.app import app
from drpilot.formats.blockmap import BLOCK_BYTES
from drpilot.lab.process import World
from tests.transfer.world import block_of, map_by_hand, overwrite, write_image

REFERENCE = Path(__file__).resolve().parents[1] / "data" / "reference-bundle"
IMAGE = {0: 1, 3: 2, 2047: 3}


@dataclass(frozen=True)
class Bench:
    """A folder to work in and a lab home that leads to two running sites."""

    folder: Path
    environment: dict[str, str]
    world: World

    def __call__(self, *arguments: str, code: int = 0) -> Any:
        """`drpilot blocks …`: its one JSON document."""
        ended = CliRunner().invoke(
            app, ["blocks", *arguments, "--lab", "--output", "json"], env=self.environment
        )
        assert ended.exit_code == code, ended.stdout + ended.stderr
        return json.loads(ended.stdout)

    def path(self, name: str) -> str:
        """A file in the folder."""
        return str(self.folder / name)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two sites as processes."""
    made = World(tmp_path_factory.mktemp("clouds"))
    made.up(("home", "away"), speed=50.0)
    yield made
    made.down()


@pytest.fixture
def blocks(tmp_path: Path, world: World) -> Bench:
    """The commands at a home of their own."""
    home = tmp_path / "home"
    home.mkdir()
    lines = ["drpilot: 1", "sites:"]
    for one in world.sites().values():
        keys = home / f"{one.name}.keys"
        keys.write_text(f"aws_access_key_id = {one.access_key}\naws_secret_access_key = {one.secret_key}\n")
        keys.chmod(0o600)
        ends = ", ".join(f"{name}: {one.endpoint!r}" for name in ("ec2", "ebs", "sts", "s3"))
        lines.append(
            f'  {one.name}: {{cloud: aws, region: {one.region}, account: "{one.account}",'
            f" endpoints: {{{ends}}}, credentials: {{file: {keys}}}}}"
        )
    (home / "drpilot.yaml").write_text("\n".join(lines) + "\n")
    folder = tmp_path / "work"
    folder.mkdir()
    return Bench(folder, {"DRPILOT_LAB_HOME": str(home), "TERM": "dumb"}, world)


def test_a_volume_is_pushed_and_pulled_by_its_map(blocks: Bench) -> None:
    """The mover's two commands: the first time everything, then what changed, by one file that is kept."""
    volume, standing = blocks.folder / "volume", blocks.folder / "standing"
    write_image(volume, IMAGE)
    write_image(standing, {5: 9})
    pushed, pulled = blocks.path("pushed.map"), blocks.path("pulled.map")
    first = blocks("push", "snapshot@home", "--device", str(volume), "--map", pushed)
    assert (first["moved"], first["incremental"], first["moved_bytes"]) == (3, False, 3 * BLOCK_BYTES)
    assert first["target"].startswith("snap-")
    assert first["next"] == f"drpilot blocks push snapshot@home --device {volume} --map {pushed} --lab"
    blocks("pull", first["target"], "--device", str(standing), "--map", pulled)
    overwrite(volume, {3: 22, 7: 4})
    second = blocks("push", "snapshot@home", "--device", str(volume), "--map", pushed)
    assert (second["moved"], second["unchanged"], second["incremental"]) == (2, 2, True)
    third = blocks("pull", second["target"], "--device", str(standing), "--map", pulled)
    assert (third["moved"], third["looked_at"], third["incremental"]) == (2, 2, True)
    assert third["source_requests"]["requests"] == 2
    assert map_by_hand(standing) == map_by_hand(volume)
    assert second["fingerprint"] == third["fingerprint"]
    assert blocks("diff", pushed, pulled)["equal"] is True


@pytest.mark.parametrize("engine", ["fast", "sdk"])
def test_both_engines_come_to_the_same(blocks: Bench, engine: str) -> None:
    """Botocore is the oracle: the same copies by either engine leave the same bytes and the same map."""
    image = write_image(blocks.folder / "image", IMAGE)
    kept, back = blocks.path("kept.map"), blocks.folder / "back"
    first = blocks("copy", str(image), "snapshot@home", "--map", kept, "--engine", engine)
    second = blocks("copy", first["target"], "snapshot@away", "--engine", engine)
    other = "sdk" if engine == "fast" else "fast"
    blocks("copy", second["target"], str(back), "--engine", other)
    assert map_by_hand(back) == map_by_hand(image)
    assert first["fingerprint"] == second["fingerprint"] == map_by_hand(image).fingerprint()
    assert {first["target_requests"]["requests"], second["target_requests"]["requests"]} == {3}


def test_maps_are_made_and_compared(blocks: Bench) -> None:
    """A map of any source by reading it; two maps that differ end with 3 and name the blocks."""
    image = write_image(blocks.folder / "image", IMAGE)
    one, two = blocks.path("one.map"), blocks.path("two.map")
    made = blocks("map", str(image), one)
    assert (made["stored"], made["blocks"]) == (3, 2048)
    overwrite(image, {0: 0, 9: 1})
    blocks("map", str(image), two)
    assert blocks("diff", one, two, code=3)["blocks"] == [0, 9]
    assert blocks("diff", one, one)["changed"] == 0


def test_what_people_read(blocks: Bench) -> None:
    """The result on stdout is short, prefixed by LAB, and ends with the next command."""
    image = write_image(blocks.folder / "image", IMAGE)
    ended = CliRunner().invoke(
        app, ["blocks", "copy", str(image), blocks.path("new"), "--lab"], env=blocks.environment
    )
    lines = ended.stdout.splitlines()
    assert lines[0].startswith(f"LAB  {image} → {blocks.path('new')}: 3 blocks moved, 1.5 MiB in ")
    assert lines[-1] == f"     next: drpilot blocks map {blocks.path('new')} FILE --lab"


def test_standard_input_is_a_source(blocks: Bench) -> None:
    """A pipe of a known length goes into a file, and one that breaks off leaves none."""
    command = [sys.executable, "-m", "drpilot", "blocks", "copy", "-", blocks.path("new"), "--lab"]
    data = block_of(1) + block_of(0) + block_of(2)
    for size, code in (("1537KiB", 1), ("1536KiB", 0)):
        done = subprocess.run(
            [*command, "--size", size, "--restart"],
            input=data,
            capture_output=True,
            env={**blocks.environment, "PATH": "/usr/bin:/bin"},
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert (blocks.folder / "new").exists() is (code == 0)
    assert (blocks.folder / "new").read_bytes() == data


def test_the_image_of_a_bundle_is_a_source(blocks: Bench) -> None:
    """A bundle made by other tools becomes a snapshot, which is its image; a damaged one becomes none."""
    given = ["--private-key", str(REFERENCE / "keys" / "user-pk.der"), "--parts", str(REFERENCE)]
    manifest = f"bundle:{REFERENCE / 'compress25.img.manifest.xml'}"
    made = blocks("copy", manifest, "snapshot@home", *given)
    back = blocks.folder / "back"
    blocks("copy", made["target"], str(back))
    wanted = (REFERENCE / "image.sha256").read_text().split()[0]
    with back.open("rb") as file:
        image = file.read(made["size_bytes"])
        assert hashlib.sha256(image).hexdigest() == wanted
        assert not file.read(BLOCK_BYTES).strip(b"\0")  # a snapshot is as long as its volume
    assert blocks("copy", manifest, blocks.path("x"), code=2)["error"]["word"] == "usage"
    part = blocks.folder / "compress25.img.part.00"
    part.write_bytes((REFERENCE / part.name).read_bytes()[:-16] + bytes(16))
    damaged = [*given[:3], str(blocks.folder)]
    assert blocks("copy", manifest, blocks.path("x"), *damaged, code=1)["error"]["word"] == "part-damaged"
    assert not (blocks.folder / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "word", "code"),
    [
        (["copy", "snap-0123", "x"], "usage", 2),
        (["copy", "s3://bucket/prefix", "x"], "usage", 2),
        (["copy", "-", "x", "--size", "many"], "usage", 2),
        (["copy", "/dev/null", "x"], "device-unusable", 1),
        (["copy", "nothing", "x"], "unknown-file", 9),
        (["copy", "snap-0123456789abcdef0@home", "x"], "unknown-snapshot", 9),
        (["copy", "snap-0123456789abcdef0@nowhere", "x"], "unknown-site", 6),
        (["copy", "s3://no-such-bucket/p@home", "x"], "cloud-failure", 1),
        (["diff", "/dev/null", "/dev/null"], "block-map", 6),
        (["pull", "snap-0123456789abcdef0@home", "--device", "x", "--map", "/etc/hostname"], "block-map", 6),
    ],
)
def test_what_is_refused(blocks: Bench, arguments: list[str], word: str, code: int) -> None:
    """Each refusal has its own word and exit code, and no file is left behind."""
    given = [blocks.path(one) if one in ("x", "nothing") else one for one in arguments]
    assert blocks(*given, code=code)["error"]["word"] == word
    assert list(blocks.folder.iterdir()) == []


def test_a_dead_site_ends_a_copy_that_can_go_on(blocks: Bench) -> None:
    """A site that refuses connections ends the command with 8, and says that the same command goes on."""
    image = write_image(blocks.folder / "image", IMAGE)
    source = blocks("copy", str(image), "snapshot@home")["target"]
    blocks.world.control("home", "break", fault="refuse")
    try:
        error = blocks("copy", source, blocks.path("new"), code=8)["error"]
    finally:
        blocks.world.control("home", "heal")
    assert (error["word"], "same command goes on" in error["hint"]) == ("unreachable", True)
    assert not (blocks.folder / "new").exists()
    assert blocks("copy", source, blocks.path("new"))["moved"] == 3
