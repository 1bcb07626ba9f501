"""Buckets as members of a group, on the lab's own processes: there with each replication, back after a reprotect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drpilot import doors
from drpilot.base.clock import RealClock
from drpilot.cli.app import app
from drpilot.clouds.session import Clients
from drpilot.clouds.site import BotoSite
from drpilot.inventory import configuration
from drpilot.wiring import open_house
from tests.grounds import patient

BUCKETS = """
buckets:
  assets: {primary: shop-assets, secondary: shop-assets-dr/all, delete: true}
  uploads: {primary: shop-uploads, secondary: shop-uploads}
"""
BIG = bytes(range(256)) * 70_000  # 17 MiB: in parts
DIED = ("--reason", "it died", "--confirm", "shop", "--accept-data-loss", "1h", "--break-glass", "alone")


@dataclass
class Lab:
    """A lab with the sample shop, its buckets, and both sites as botocore reaches them."""

    environment: dict[str, str]
    group_file: Path
    sites: dict[str, BotoSite]

    def told(self, *arguments: str, code: int = 0) -> Any:
        """A command's one JSON document."""
        ended = CliRunner().invoke(app, [*arguments, "--lab", "--output", "json"], env=self.environment)
        assert ended.exit_code == code, ended.stdout + ended.stderr
        return json.loads(ended.stdout)

    def put(self, site: str, bucket: str, **objects: bytes) -> None:
        """Objects into a bucket."""
        for key, data in objects.items():
            self.sites[site].call("s3", "PutObject", {"Bucket": bucket, "Key": key, "Body": data})

    def contents(self, site: str, bucket: str) -> dict[str, bytes]:
        """All objects of a bucket."""
        door = self.sites[site]
        keys = [
            row["Key"] for row in door.call("s3", "ListObjects", {"Bucket": bucket}).get("Contents") or []
        ]
        return {key: door.call("s3", "GetObject", {"Bucket": bucket, "Key": key})["Body"] for key in keys}

    def steps(self, run: str) -> dict[str, Any]:
        """The steps of a run that concern buckets, with their state and output."""
        house = open_house(lab=True, home=self.group_file.parent)
        try:
            (view, *_) = house.journal.runs(run)
            return {path: step for path, step in view.steps.items() if path.startswith("buckets/")}
        finally:
            house.journal.database.close()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A lab of its own, with buckets in its group file."""
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "dumb", "TZ": "UTC"}
    made = Lab(environment, Path(), {})
    up = made.told("lab", "up", "--speed", "60")
    made.group_file = Path(up["group_file"])
    made.group_file.write_text(made.group_file.read_text() + BUCKETS)
    settings = configuration.read(made.group_file.parent)
    for name in ("home", "away"):
        made.sites[name] = BotoSite(Clients(doors.cloud_settings(settings.site(name))), patient())
    region = {"CreateBucketConfiguration": {"LocationConstraint": made.sites["home"].region}}
    for bucket in ("shop-assets", "shop-uploads"):
        made.sites["home"].call("s3", "CreateBucket", {"Bucket": bucket, **region})
    try:
        yield made
    finally:
        for site in made.sites.values():
            site.close()
        made.told("lab", "down")


@pytest.mark.timeout(300)
def test_buckets_go_with_the_group_and_come_back(lab: Lab) -> None:
    """Replicated, told by status, found as they are in a failover, and brought back the other way by a reprotect."""
    lab.put("home", "shop-assets", a=b"1", b=b"2", big=BIG)
    lab.put("home", "shop-uploads", u=b"3")
    protected = lab.told("protect", str(lab.group_file))
    assert protected["run"]["result"] == "succeeded"
    assert lab.contents("away", "shop-assets-dr") == {"all/a": b"1", "all/b": b"2", "all/big": BIG}
    assert lab.contents("away", "shop-uploads") == {"u": b"3"}
    steps = lab.steps("shop")
    assert {path: step.output["copied"] for path, step in steps.items()} == {
        "buckets/assets/sync": 3,
        "buckets/uploads/sync": 1,
    }
    told = {row["key"]: row for row in lab.told("status", "shop")["buckets"]}
    assert (told["assets"]["active"], told["assets"]["standby"]) == ("shop-assets", "shop-assets-dr/all")
    assert (told["assets"]["objects"], told["uploads"]["objects"]) == (3, 1)
    assert 0 <= told["assets"]["age_seconds"] < 600

    lab.sites["home"].call("s3", "DeleteObject", {"Bucket": "shop-assets", "Key": "b"})
    lab.put("home", "shop-assets", a=b"new")
    lab.told("replicate", "shop")
    output = lab.steps("shop")["buckets/assets/sync"].output
    assert (output["copied"], output["same"], output["deleted"]) == (1, 1, 1)

    _a_bucket_that_fails_keeps_no_point_back(lab)

    lab.told("lab", "break", "home")
    lab.told("failover", "shop", *DIED)
    stood = lab.steps("shop")["buckets/assets/stand"].output
    assert stood["place"] == "s3://shop-assets-dr/all@away"
    assert stood["synced_at"] > output["synced_at"]
    seen = [line for line in lab.told("report", "show", "shop")["verification"] if line["name"] == "assets"]
    assert [(line["ok"], stood["synced_at"] in line["observed"]) for line in seen] == [(True, True)]
    lab.told("commit", "shop", "--as", "oncall")
    lab.told("lab", "heal", "home")
    lab.told("fence", "shop")
    lab.sites["away"].call("s3", "PutObject", {"Bucket": "shop-assets-dr", "Key": "all/c", "Body": b"after"})
    lab.told("reprotect", "shop")
    back = lab.steps("shop")["buckets/assets/sync"].output
    assert (back["copied"], back["same"]) == (1, 2)  # the object in parts is known from the way there
    assert lab.contents("home", "shop-assets") == {"a": b"new", "big": BIG, "c": b"after"}
    told = {row["key"]: row for row in lab.told("status", "shop")["buckets"]}
    assert (told["assets"]["active"], told["assets"]["objects"]) == ("shop-assets-dr/all", 3)
    _a_sync_by_hand_counts(lab, told["assets"])


def _a_sync_by_hand_counts(lab: Lab, before: dict[str, Any]) -> None:
    """Status tells the last sync in this direction, whoever did it; one of the other direction it does not."""
    lab.put("away", "shop-assets-dr", **{"all/d": b"by hand"})
    active, standby = "s3://shop-assets-dr/all@away", "s3://shop-assets@home"
    assert lab.told("bucket", "sync", active, standby)["copied"] == 1
    (after, *_) = lab.told("status", "shop")["buckets"]
    assert (after["key"], after["objects"], after["by"], before["by"] != "hand") == (
        "assets",
        4,
        "hand",
        True,
    )
    assert after["synced_at"] > before["synced_at"]
    lab.told("bucket", "sync", standby, active)
    (again, *_) = lab.told("status", "shop")["buckets"]
    assert again["synced_at"] == after["synced_at"]


def _a_bucket_that_fails_keeps_no_point_back(lab: Lab) -> None:
    """One that is gone is a failed step of its own; the volumes' point is complete, and the other bucket in step."""
    lab.sites["home"].call("s3", "DeleteObject", {"Bucket": "shop-uploads", "Key": "u"})
    lab.sites["home"].call("s3", "DeleteBucket", {"Bucket": "shop-uploads"})
    lab.told("replicate", "shop")
    steps = lab.steps("shop")
    assert {path: step.state for path, step in steps.items()} == {
        "buckets/assets/sync": "succeeded",
        "buckets/uploads/sync": "ignored",
    }
    assert lab.told("point", "list", "shop")["points"][0]["state"] == "available"
    assert lab.contents("away", "shop-uploads") == {"u": b"3"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_failover_ends_a_sync_of_its_group_and_goes_on(lab: Lab) -> None:
    """Begun while a replication brings over a bucket object by object: the failover does not wait for it, and the
    process that was at it ends by itself, in the middle, with its run cancelled.
    """
    lab.told("protect", str(lab.group_file))
    count = 400
    lab.put("home", "shop-assets", **{f"{number:03d}": b"%d" % number for number in range(count)})
    lab.told("lab", "break", "away", "--fault", "latency=4:s3.PutObject")
    process = subprocess.Popen(
        [sys.executable, "-m", "drpilot", "replicate", "shop", "--lab"],
        env=lab.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        clock = RealClock()
        end = clock.monotonic() + 90
        while not lab.contents("away", "shop-assets-dr"):
            assert process.poll() is None
            assert clock.monotonic() < end
        moved = lab.told("failover", "shop", *DIED)
        assert moved["state"] == "awaiting_commit"
        assert process.wait(120) != 0
    finally:
        process.kill()
        process.wait(30)
    newest_last = reversed(lab.told("status", "shop")["runs"])
    runs = {run["mode"]: run for run in newest_last}
    assert (runs["replicate"]["state"], runs["replicate"]["result"]) == ("finished", "cancelled")
    assert runs["failover"]["state"] == "awaiting_commit"
    assert 0 < len(lab.contents("away", "shop-assets-dr")) < count


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.timeout(300)
def test_a_driver_killed_in_the_middle_of_a_bucket_goes_on(lab: Lab) -> None:
    """After SIGKILL `run resume` looks, finds that the step did not end, and copies only what is missing; a switchover
    then brings what was written since.
    """
    lab.told("protect", str(lab.group_file))
    lab.put("home", "shop-assets", **{f"{number:02d}": b"%d" % number for number in range(60)})
    lab.told("lab", "break", "away", "--fault", "latency=0.5:s3.PutObject")
    process = subprocess.Popen(
        [sys.executable, "-m", "drpilot", "replicate", "shop", "--lab"],
        env=lab.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    clock = RealClock()
    end = clock.monotonic() + 90
    while len(lab.contents("away", "shop-assets-dr")) < 10:
        assert process.poll() is None
        assert clock.monotonic() < end
    process.kill()
    process.wait(30)
    lab.told("lab", "heal", "away")
    resumed = lab.told("run", "resume", "shop")
    assert (resumed["mode"], resumed["result"]) == ("replicate", "succeeded")
    output = lab.steps("shop")["buckets/assets/sync"].output
    assert output["copied"] + output["same"] == 60
    assert 10 <= output["same"] < 60
    assert len(lab.contents("away", "shop-assets-dr")) == 60

    lab.put("home", "shop-assets", late=b"since the last replication")
    lab.told("switchover", "shop", "--reason", "planned", "--confirm", "shop")
    assert lab.steps("shop")["buckets/assets/sync"].output["copied"] == 1
    assert lab.contents("away", "shop-assets-dr")["all/late"] == b"since the last replication"
