"""Eight people order a failover of one group at the same instant, each by a drpilot of their own: one runs.

Each is a process of its own with the whole command line. They are let go together right before the row is written, when
every one of them has seen that nothing runs, has looked at the clouds, and has typed what was asked.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.crash.test_hosts import carried
from tests.crash.yard import Yard
from tests.postgres import Server

pytestmark = pytest.mark.timeout(200)
ROOT = Path(__file__).resolve().parents[2]
COUNT = 8
SCRIPT = """
import os, sys
import drpilot.services.attend, drpilot.services.begin, drpilot.wiring
from drpilot.cli.app import main
from drpilot.journal.journal import Journal

folder, more = sys.argv[1], sys.argv[2:]
ready, go = os.pipe(), os.pipe()
create = Journal.create

def together(self, new):
    os.write(ready[1], b".")
    os.read(go[0], 1)
    return create(self, new)

Journal.create = together
children = []
for number in range({count}):
    child = os.fork()
    if child == 0:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{{folder}}/{{number}}.{{name}}", os.O_WRONLY | os.O_CREAT, 0o600), stream)
        sys.argv = ["drpilot", "failover", "shop", "--lab", "--as", f"person-{{number}}", *more]
        main()
    children.append(child)
left = {count}
while left:
    left -= len(os.read(ready[0], left))
os.write(go[1], b"." * {count})
print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def at_once(yard: Yard, folder: Path, *more: str) -> dict[str, int]:
    """The exit code of each person's `drpilot failover`."""
    typed = ("--confirm", "shop", "--accept-data-loss", "1h", "--reason", "all of us saw it")
    given = [str(folder), *typed, "--break-glass", "nobody else is awake", *more]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(count=COUNT), *given],
        env={**os.environ, "DRPILOT_LAB_HOME": str(yard.folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    said = [path.read_text()[-600:] for path in sorted(folder.glob("*.err"))]
    assert done.returncode == 0, (done.stderr, said)
    return {f"person-{number}": int(code) for number, code in enumerate(done.stdout.split())}


def one_ran(codes: dict[str, int], folder: Path) -> str:
    """Whoever began; the seven others were refused with 5, and each was told by whom, since when, and what next."""
    assert Counter(codes.values()) == {0: 1, 5: COUNT - 1}, codes
    first = next(person for person, code in codes.items() if code == 0)
    for number in range(COUNT):
        said = (folder / f"{number}.err").read_text()
        if f"person-{number}" == first:
            continue
        run = first_run(folder)
        assert f"{run} holds lane move of shop since" in said, said
        assert f"begun by {first}" in said, said
        assert f"drpilot run show {run} --lab" in said, said
        assert (folder / f"{number}.out").read_text() == ""
    return first


def first_run(folder: Path) -> str:
    """The run that the refused were told of."""
    told = {
        word
        for path in folder.glob("*.err")
        for word in path.read_text().split()
        if word.startswith("shop/") and word[5:].isdigit()
    }
    assert len(told) == 1, told
    return told.pop()


@pytest.mark.row(52)
def test_of_eight_failovers_at_the_same_instant_one_runs(yard: Yard, tmp_path: Path) -> None:
    """One goes on until it awaits its commit; seven exit with 5 and changed nothing."""
    yard.restore("dead")
    before = {run.name for run in yard.journal().runs("shop")}
    first = one_ran(at_once(yard, tmp_path), tmp_path)
    journal = yard.journal()
    begun = [run for run in journal.runs("shop") if run.name not in before]
    assert [(run.mode, run.by, run.state) for run in begun] == [("failover", first, "awaiting_commit")]
    assert {event.actor for event in journal.events(run=begun[0].id)} == {first}
    assert journal.group("shop").state == "awaiting_commit"
    journal.database.close()
    end = yard.end()
    assert end["duplicates"] == []
    assert yard.unintended() == []


@pytest.mark.slow
@pytest.mark.row(52)
def test_of_eight_failovers_on_a_server_one_runs(
    yard: Yard, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same on PostgreSQL, where eight connections write at once."""
    yard.restore("dead")
    monkeypatch.setenv("DRPILOT_LAB_DATABASE_URL", server.journal())
    carried(yard, os.environ["DRPILOT_LAB_DATABASE_URL"])
    one_ran(at_once(yard, tmp_path, "--detach"), tmp_path)
