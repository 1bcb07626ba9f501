"""Seeds that run with every `make test`, and proofs that a seed replays exactly."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import botocore.auth
import botocore.compat
import pytest

from tests.simulation.play import play
from tests.simulation.stage import ground

SEEDS = range(30)


@pytest.mark.crash
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_the_invariants_hold(seed: int) -> None:
    """A story in the weather of its seed, taken to its end: everything in docs/safety.md holds."""
    played = play(ground(), seed)
    assert not played.violations, [*played.violations, f"python -m tests.simulation --trace {seed}"]


@pytest.mark.crash
def test_a_seed_replays_exactly() -> None:
    """The same seed gives the same log twice, whatever was played before it."""
    first = play(ground(), 7, "failover")
    play(ground(), 8, "replicate")
    again = play(ground(), 7, "failover")
    assert sum(first.met.values()) > 3
    assert (first.digest, first.lines) == (again.digest, again.lines)


@pytest.mark.crash
def test_a_seed_replays_in_another_process() -> None:
    """Nothing of the process (the hashes of texts, say) gets into what happens."""
    said = set()
    for hashes in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--trace", "3", "--story", "failover"],
            env={"PYTHONHASHSEED": hashes, "PATH": "/usr/bin:/bin"},
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
        said.add(done.stdout)
    assert len(said) == 1


@pytest.mark.crash
def test_nothing_of_a_storys_time_and_network_stays() -> None:
    """Whatever else runs in this process is signed by the real clock and reaches the real network."""
    play(ground(), 0)
    assert botocore.auth.get_current_datetime is botocore.compat.get_current_datetime
    assert socket.create_connection.__module__ == "socket"


@pytest.mark.crash
@pytest.mark.parametrize(("seed", "story"), [(2, "failover"), (8, "drill"), (3, "copy and move")])
def test_a_look_without_bytes_tells_the_same_story(
    seed: int, story: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading calls that skip botocore's serialiser, signature and parser see what the wire would have shown."""
    straight = play(ground(), seed, story)
    monkeypatch.setattr(ground().straight, "on", False)
    wired = play(ground(), seed, story)
    assert len(wired.lines) > 100
    assert (straight.digest, straight.lines) == (wired.digest, wired.lines)
