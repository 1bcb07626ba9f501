"""Processes that do one thing to one journal at the same moment: forked from one that has imported everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["at_once"]

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import os, sys
sys.path.insert(0, {root!r})
from drpilot.base.clock import Chance, RealClock
from drpilot.base.errors import DrpilotError
from drpilot.domain.run import Holder
from drpilot.journal.database import Database
from drpilot.journal.journal import Journal, NewRun
from tests.engine.world import plan, step

def work(journal, number):
    {work}

ready, go = os.pipe(), os.pipe()
for number in range({count}):
    if os.fork() == 0:
        journal = Journal(Database({url!r}), RealClock(), Chance())
        os.write(ready[1], b".")
        os.read(go[0], 1)
        try:
            said = work(journal, number)
        except DrpilotError as error:
            said = error.word, error.exit_code, error.data["run"], error.data["by"]
        os.write(1, (repr(said) + "\\n").encode())
        os._exit(0)
left = {count}
while left:
    left -= len(os.read(ready[0], left))
os.write(go[1], b"." * {count})
for number in range({count}):
    os.wait()
"""


def at_once(url: str, work: str, count: int) -> list[str]:
    """What each of `count` processes said of `work`, the body of a function of a journal and its number; sorted."""
    script = SCRIPT.format(root=str(ROOT), url=url, work=work.strip().replace("\n", "\n    "), count=count)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return sorted(done.stdout.splitlines())
