"""`drpilot image copy` as people type it, with `--lab`, beside two running clouds: results, errors, kill -9."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drpilot.cli.app import app
from drpilot.formats.manifest import read
from drpilot.lab.access import site_clients
from drpilot.lab.process import World
from drpilot.transfer.retargeting import Target, retargeted
from drpilot.transfer.unbundling import secrets_of
from tests.lab.delivery_world import until
from tests.services.imageworld import pem_of
from tests.transfer.craft import MANIFEST, REFERENCE, cloud, owner


@dataclass(frozen=True)
class Bench:
    """A lab home that leads to a private cloud with one bundle, and to AWS."""

    world: World
    folder: Path
    image: str

    @property
    def environment(self) -> dict[str, str]:
        """What leads to the home."""
        return {"DRPILOT_LAB_HOME": str(self.folder / "home"), "TERM": "dumb", "PATH": os.environ["PATH"]}

    def arguments(self, *more: str) -> list[str]:
        """The command, from home to away."""
        return ["image", "copy", self.image, "--from", "home", "--to", "away", "--lab", *more]

    def __call__(self, *more: str, code: int = 0) -> Any:
        """One command's JSON document."""
        ended = CliRunner().invoke(app, self.arguments("--output", "json", *more), env=self.environment)
        assert ended.exit_code == code, ended.stdout + ended.stderr
        return json.loads(ended.stdout)

    def standing(self) -> dict[str, int]:
        """How many images and snapshots away has, and how often a snapshot was begun and its image registered."""
        there = self.world.control("away", "inventory")["resources"]
        return {kind: sum(item["kind"] == kind for item in there) for kind in ("image", "snapshot")}

    def calls(self, operation: str) -> int:
        """How often away was asked."""
        return len(self.world.control("away", "calls", operation=operation)["calls"])


def _bundle(world: World) -> str:
    site = world.sites()["home"]
    client, manifest = site_clients(site), read(MANIFEST.read_bytes(), "reference")
    secrets, _ = secrets_of(manifest, owner(), "key")
    written = retargeted(manifest, secrets, Target(cloud().public_key(), owner(), user=site.account))
    s3 = client("s3")
    s3.create_bucket(Bucket="images")
    for path in REFERENCE.glob("*.part.*"):
        s3.put_object(Bucket="images", Key=path.name, Body=path.read_bytes(), ACL="aws-exec-read")
    s3.put_object(Bucket="images", Key=MANIFEST.name, Body=written, ACL="aws-exec-read")
    given = {"Name": "web", "Architecture": "x86_64", "VirtualizationType": "hvm"}
    return str(client("ec2").register_image(ImageLocation=f"images/{MANIFEST.name}", **given)["ImageId"])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Both clouds as processes."""
    folder = tmp_path_factory.mktemp("images")
    world = World(folder / "clouds")
    world.up(("home", "away"), speed=50.0, dialects={"home": "eucalyptus-4.4", "away": "aws"})
    home = folder / "home"
    home.mkdir()
    lines = ["drpilot: 1", "sites:"]
    for one in world.sites().values():
        keys = home / f"{one.name}.keys"
        keys.write_text(f"aws_access_key_id = {one.access_key}\naws_secret_access_key = {one.secret_key}\n")
        keys.chmod(0o600)
        ends = f"default: {one.endpoint!r}"
        if one.dialect == "aws":
            ends = ", ".join(f"{name}: {one.endpoint!r}" for name in ("ec2", "ebs", "sts", "s3"))
        lines.append(
            f'  {one.name}: {{cloud: {one.dialect}, region: {one.region}, account: "{one.account}",'
            f" endpoints: {{{ends}}}, credentials: {{file: {keys}}}}}"
        )
    (home / "drpilot.yaml").write_text("\n".join(lines) + "\n")
    pem_of(folder)
    try:
        yield Bench(world, folder, _bundle(world))
    finally:
        world.down()


@pytest.mark.crash
def test_one_image_over_and_over(bench: Bench) -> None:
    """Said first, killed in the middle, gone on with, and then only found: one snapshot and one image."""
    key = str(bench.folder / "owner.pem")
    before = bench.standing()
    said = bench("--dry-run", "--private-key", key)
    assert (said["way"], said["name"], said["dry_run"], said["image"]) == ("unbundled", "web", True, None)
    assert said["next"] == f"drpilot image copy {bench.image} --from home --to away --private-key {key} --lab"
    assert bench.standing() == before
    begun = subprocess.Popen(
        [sys.executable, "-m", "drpilot", *bench.arguments("--private-key", key)],
        env=bench.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: bench.calls("PutSnapshotBlock") >= 1 or begun.poll() is not None, "blocks are written")
    begun.send_signal(signal.SIGKILL)
    assert begun.wait(30) == -signal.SIGKILL
    done = bench("--private-key", key)
    assert (done["already"], done["image"][:4]) == (False, "ami-")
    again = bench()  # what is there needs no key
    assert (again["already"], again["image"]) == (True, done["image"])
    assert bench.standing() == {kind: count + 1 for kind, count in before.items()}
    assert bench.calls("RegisterImage") == 1


def test_the_next_command_works_as_typed(bench: Bench) -> None:
    """Names with blanks are quoted and options in use are kept, after a dry run and in the hint of an error, whose
    option takes the place of the one that was wrong.
    """
    key = str(bench.folder / "owner.pem")
    said = bench("--dry-run", "--name", "my web's", "--private-key", key)
    words = shlex.split(said["next"])
    assert words == ["drpilot", *bench.arguments()[:-1], "--name", "my web's", "--private-key", key, "--lab"]
    assert bench(*words[8:-1], "--dry-run")["name"] == "my web's"
    bench.world.control("away", "break", fault="refuse")
    try:
        lost = bench("--name", "my web's", "--subnet", "a b", code=8)
    finally:
        bench.world.control("away", "heal")
    command, _, why = lost["error"]["hint"].partition("; ")
    wanted = ["drpilot", *bench.arguments()[:-1], "--name", "my web's", "--subnet", "a b", "--lab"]
    assert (shlex.split(command), why) == (wanted, "it goes on with what was carried")
    client = site_clients(bench.world.sites()["home"])("ec2")
    given = {"Name": "second", "Architecture": "x86_64", "VirtualizationType": "hvm"}
    second = client.register_image(ImageLocation=f"images/{MANIFEST.name}", **given)["ImageId"]
    keyless = replace(bench, image=second)("--name", "a b", code=2)["error"]["hint"]
    wanted = ["drpilot", "image", "copy", second, "--from", "home", "--to", "away", "--name", "a b"]
    assert shlex.split(keyless) == [*wanted, "--private-key", "FILE", "--lab"]


def test_what_is_said_to_people(bench: Bench) -> None:
    """The way is on stderr before it begins; errors have their exit codes; the result alone is on stdout."""
    ended = CliRunner().invoke(app, bench.arguments("--dry-run"), env=bench.environment)
    assert ended.exit_code == 0
    assert "nothing was changed" in ended.stdout
    assert f"{bench.image} " in ended.stderr
    wrong = CliRunner().invoke(
        app,
        ["image", "copy", "emi-00000000", "--from", "home", "--to", "away", "--lab"],
        env=bench.environment,
    )
    assert (wrong.exit_code, wrong.stdout) == (9, "")
    assert "home has no image emi-00000000" in wrong.stderr
    for sites in (("home", "home"), ("home", "nowhere")):
        given = ["image", "copy", bench.image, "--from", sites[0], "--to", sites[1], "--lab"]
        assert CliRunner().invoke(app, given, env=bench.environment).exit_code in (2, 6)
