"""How much memory a sync takes, by what it carries: the process as a person runs it, started by a small parent."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from drpilot.domain.objects import ObjectName
from tests.bench.paired import spent
from tests.transfer.dock import MIB, Dock, data_of, docked, running

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

CASES = {
    "nothing": ("aws", "new", 0, 0),
    "2,000 objects of 16 KiB": ("aws", "new", 2000, 16 << 10),
    "48 objects of 15 MiB, whole": ("aws", "new", 48, 15 * MIB),
    "12 objects of 40 MiB, in parts": ("aws", "new", 12, 40 * MIB),
    "12 objects of 40 MiB, as streams by botocore": ("aws", "old", 12, 40 * MIB),
    "48 objects of 15 MiB, whole, by botocore": ("aws", "old", 48, 15 * MIB),
}
MOST_BYTES = {"fast": 200 * MIB, "botocore": 600 * MIB}


@dataclass
class Desk:
    """The stores, and a home that names them."""

    dock: Dock
    home: Path

    def filled(self, site: str, count: int, size_bytes: int) -> str:
        """A bucket of `count` objects."""
        place = self.dock.bucket(site)
        bucket = self.dock.reach(place)[0]
        channel = self.dock.doors().plane(site).channel()
        for number in range(count):
            data = data_of(number, size_bytes)
            md5 = hashlib.md5(data, usedforsecurity=False).digest()
            channel.put(ObjectName(bucket, f"{number:06d}"), memoryview(data), md5, {})
        channel.close()
        return place


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Four stores of the lab as processes."""
    home = tmp_path_factory.mktemp("home")
    with running(tmp_path_factory.mktemp("clouds")) as found, docked(home, found) as dock:
        lines = ["drpilot: 1", "sites:"]
        for name, (world, there, dialect) in found.items():
            access = world.sites()[there]
            lines.append(
                f'  {name}: {{cloud: {dialect}, region: {access.region}, account: "{access.account}", endpoints:'
                f" {{default: {access.endpoint!r}}}, credentials: {{file: {home / name}.ini}}}}"
            )
        (home / "drpilot.yaml").write_text("\n".join(lines) + "\n")
        os.environ["DRPILOT_LAB_HOME"] = str(home)
        yield Desk(dock, home)
        del os.environ["DRPILOT_LAB_HOME"]


@pytest.mark.parametrize("case", CASES)
def test_a_sync_stays_within_its_memory(desk: Desk, case: str, tmp_path: Path) -> None:
    """The peak of the whole process, with the 32 objects under way that are the default."""
    source, target, count, size_bytes = CASES[case]
    ours, theirs = desk.filled(source, count, size_bytes), desk.dock.bucket(target)
    command = [sys.executable, "-m", "drpilot", "bucket", "sync", ours, theirs, "--lab", "--output", "json"]
    cost = spent(["sh", "-c", 'exec "$@" >said.json', "sh", *command], tmp_path)
    said = json.loads((tmp_path / "said.json").read_text())
    assert (said["copied"], said["failed"], said["copied_bytes"]) == (count, 0, count * size_bytes)
    print(f"\n  {case}: {cost.rss_bytes / MIB:.0f} MiB at the most, {said['engines'][1]} to the target")
    assert cost.rss_bytes <= MOST_BYTES["botocore" if target == "old" else "fast"]
