"""What a durable step costs, beside DBOS: how many a second, one after the other and sixteen at once.

Read with care: drpilot commits an intent before each step, with its token and input, and chains three events by hash;
DBOS records a step once, when it has ended. DBOS's steps are given the form that is fastest here: plain steps in one
workflow, and async steps where many run at once (child workflows and queues take several times longer).
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench.paired import Cost, alternated, ratio, report
from tests.postgres import Server, fresh

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
STEPS = 500
ROUNDS = 5
# How much of DBOS's time may be taken one after the other, and how many times faster sixteen at once must be.
GOALS = {
    ("sqlite", "seq"): 1.0,
    ("postgresql", "seq"): 1 / 1.2,
    ("sqlite", "par"): 5.0,
    ("postgresql", "par"): 3.0,
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A PostgreSQL that waits for the disk at each commit, as one that holds a journal must."""
    with fresh(durable=True) as made:
        yield made


def process(*words: str, ends: int = 0) -> Cost:
    """A process of its own (tests/bench/steps.py), and what it told of itself."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    command = [sys.executable, "-m", "tests.bench.steps", *words]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert ended.returncode == ends, ended.stderr[-2000:]
    took = json.loads(ended.stdout.splitlines()[-1]) if ended.stdout else {}
    return Cost(took.get("wall_s", 0.0), took.get("cpu_s", 0.0), took.get("rss_bytes", 0))


def measured(side: str, how: str, where: Callable[[], str], folder: Path) -> Callable[[], Cost]:
    """One contender: a process of its own on a fresh database, which tells what its steps took."""

    def run() -> Cost:
        url = where()
        return process(side, how, str(STEPS), url)

    return run


@pytest.mark.parametrize("how", ["seq", "par"])
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_durable_steps_beside_dbos(
    kind: str,
    how: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """Every step recorded on both sides, fresh databases each time, rotated order; the goals stand above."""
    if importlib.util.find_spec("dbos") is None:
        text = "needs DBOS, which is missing here: pip install -e '.[bench]'"
        print(f"\n{text}")
        pytest.skip(text)
    count = iter(range(1000))

    def where() -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/{next(count)}.db"
        made: str = request.getfixturevalue("server").empty()
        return made

    contenders = {side: measured(side, how, where, tmp_path) for side in ("drpilot", "dbos")}
    costs = alternated(ROUNDS, contenders)
    wall, cpu = (ratio(costs, "drpilot", "dbos", what) for what in ("wall_s", "cpu_s"))
    each = {side: sorted(1e3 * run.wall_s / STEPS for run in runs) for side, runs in costs.items()}
    spread = ", ".join(
        f"{side} {ms[0]:.2f} / {ms[len(ms) // 2]:.2f} / {ms[-1]:.2f} ms" for side, ms in each.items()
    )
    goal = GOALS[kind, how]
    said = (
        f"durable steps, {kind}, {'one after the other' if how == 'seq' else 'sixteen at once'}: a step takes {spread} "
        f"(least, median, most); DBOS takes {wall:.2f} times as long (CPU {cpu:.2f} times); goal {goal:.2f}, "
        f"{'met' if wall >= goal else 'missed'}"
    )
    report(f"{STEPS} durable steps on {kind}, {how}", costs, [said])
    record_property("said", said)


def test_a_run_of_2000_steps_goes_on_after_a_kill(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Killed in step 1,000, taken over by a new process: from its journal's opening to the start of the next step."""
    times = []
    for number in range(3):
        url = f"sqlite:///{tmp_path}/{number}.db"
        process("killed", "1000", "2000", url, ends=-signal.SIGKILL)
        times.append(process("resumed", "1000", "2000", url))
    wall, cpu = (sorted(1e3 * getattr(each, what) for each in times) for what in ("wall_s", "cpu_s"))
    text = ", ".join(
        f"{words} {low:.0f} / {middle:.0f} / {high:.0f} ms"
        for words, (low, middle, high) in (("wall", wall), ("CPU", cpu))
    )
    said = f"a run of 2,000 steps, killed in the middle: its next step starts after {text} (imports included)"
    print(f"\n{said}")
    record_property("said", said)


def test_a_run_of_10000_steps_needs_little_memory(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The peak of the process that makes and drives it (ru_maxrss of getrusage), 16 steps at once."""
    cost = process("drpilot", "par", "10000", f"sqlite:///{tmp_path}/journal.db")
    bytes_ = (tmp_path / "journal.db").stat().st_size
    said = (
        f"a run of 10,000 steps: {cost.rss_bytes / 1e6:.0f} MB at its peak, {cost.cpu_s:.1f} s of CPU, "
        f"{bytes_ / 10_000:.0f} bytes of journal a step"
    )
    print(f"\n{said}")
    record_property("said", said)
    assert cost.rss_bytes < 300e6
