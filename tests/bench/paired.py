"""Paired measurements: contenders take turns in one run, and what counts is the median of the ratios.

Wall seconds move with whatever else a machine does; contenders that alternate share that, and CPU seconds hardly move.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["Cost", "alternated", "needed", "ratio", "report", "spent"]


@dataclass(frozen=True)
class Cost:
    """What one run took: seconds of wall and of CPU (children included), and the peak memory of its largest process."""

    wall_s: float
    cpu_s: float
    rss_bytes: int


def needed(**packages: str) -> None:
    """Skip, naming the Debian packages, where a program (keyword) is missing."""
    missing = sorted({package for program, package in packages.items() if shutil.which(program) is None})
    if missing:
        text = f"needs Debian packages that are missing here: apt install {' '.join(missing)}"
        print(f"\n{text}")
        pytest.skip(text)


# A process counts as its peak what its parent had when it was forked: beside pytest's 150 MB nothing smaller shows.
# So a parent of a few MB starts it, and tells what it took.
_WATCHER = """
import json, os, sys, time
began = time.monotonic()
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(child, 0)
told = {"wall_s": time.monotonic() - began, "cpu_s": usage.ru_utime + usage.ru_stime, "kib": usage.ru_maxrss}
with open(sys.argv[1], "w") as file:
    json.dump(told | {"code": os.waitstatus_to_exitcode(status)}, file)
"""


def spent(command: Sequence[str | Path], folder: Path) -> Cost:
    """Run a command to its end, and what it took."""
    told = folder / "spent.json"
    watched = [sys.executable, "-I", "-S", "-c", _WATCHER, str(told), *(str(word) for word in command)]
    with (folder / "bench.log").open("ab") as log:
        subprocess.run(watched, cwd=folder, stdout=log, stderr=log, check=True)
    found = json.loads(told.read_text())
    assert found["code"] == 0, (folder / "bench.log").read_text()[-2000:]
    return Cost(found["wall_s"], found["cpu_s"], found["kib"] * 1024)


def alternated(rounds: int, contenders: dict[str, Callable[[], Cost]]) -> dict[str, list[Cost]]:
    """Each contender in turn, `rounds` times; every other round from the last to the first."""
    found: dict[str, list[Cost]] = {name: [] for name in contenders}
    for number in range(rounds):
        names = list(contenders)
        for name in names if number % 2 == 0 else reversed(names):
            found[name].append(contenders[name]())
    return found


def ratio(costs: dict[str, list[Cost]], name: str, to: str, what: str) -> float:
    """How many times more of `what` (`wall_s`, `cpu_s`) `to` took than `name`: the median over the rounds."""
    pairs = zip(costs[to], costs[name], strict=True)
    return statistics.median(getattr(theirs, what) / getattr(ours, what) for theirs, ours in pairs)


def report(title: str, costs: dict[str, list[Cost]], lines: Sequence[str]) -> None:
    """Print medians and what is said about them."""
    print(f"\n{title}")
    for name, runs in costs.items():
        wall, cpu = (statistics.median(getattr(run, what) for run in runs) for what in ("wall_s", "cpu_s"))
        rss = max(run.rss_bytes for run in runs)
        print(
            f"  {name:<24} {wall:7.2f} s wall {cpu:7.2f} s CPU {rss / 1e6:7.1f} MB peak   (median of {len(runs)})"
        )
    for line in lines:
        print(f"  {line}")
