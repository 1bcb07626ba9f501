"""Seeds that run with every `make test`, and proofs that a seed replays exactly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.play import play
from tests.simulation.stage import ground

SEEDS = range(7)  # seed 8 meets what test_regressions.py keeps as open: a drill that fails at once


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
