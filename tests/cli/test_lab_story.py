"""The commands as people type them, on the lab's own processes: a failover at night with a terminal, and the way on."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drpilot.base.clock import RealClock
from drpilot.cli.app import app

COMMAND = (sys.executable, "-m", "drpilot")


@dataclass(frozen=True)
class Lab:
    """One lab and the environment that leads to it."""

    environment: dict[str, str]
    group_file: Path

    def told(self, *arguments: str, code: int = 0) -> Any:
        """A command's one JSON document; in this process, because starting one takes longer than most commands."""
        ended = CliRunner().invoke(app, [*arguments, "--lab", "--output", "json"], env=self.environment)
        assert ended.exit_code == code, ended.stdout + ended.stderr
        return json.loads(ended.stdout)

    def started(self, *arguments: str) -> subprocess.Popen[str]:
        """A command without a terminal in a process of its own, as soon as its first step has ended."""
        process = subprocess.Popen(
            [*COMMAND, *arguments, "--lab"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "✓" in line:
                return process
        raise AssertionError(f"{arguments} ended before any step: {process.wait(10)}")

    def typed(self, arguments: Sequence[str], answers: Sequence[tuple[str, str]]) -> tuple[int, str]:
        """A command on a terminal of its own, where a person answers each question; its exit code and screen."""
        pid, screen = pty.fork()
        if pid == 0:
            os.execve(sys.executable, [*COMMAND, *arguments], self.environment)
        shown, seen, waiting = b"", 0, list(answers)
        clock = RealClock()
        end = clock.monotonic() + 120
        while clock.monotonic() < end:
            if select.select([screen], [], [], 0.2)[0]:
                try:
                    part = os.read(screen, 65_536)
                except OSError:
                    break
                if not part:
                    break
                shown += part
            if waiting and waiting[0][0].encode() in shown[seen:]:
                seen = len(shown)
                _, answer = waiting.pop(0)
                if answer == "ctrl-c":
                    os.kill(pid, signal.SIGINT)
                else:
                    os.write(screen, answer.encode() + b"\n")
        _, status = os.waitpid(pid, 0)
        os.close(screen)
        assert not waiting, (waiting, shown.decode(errors="replace"))
        return os.waitstatus_to_exitcode(status), shown.decode(errors="replace")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of its own, up and taken down; time passes faster there."""
    state = tmp_path_factory.mktemp("state")
    environment = {**os.environ, "XDG_STATE_HOME": str(state), "TERM": "xterm", "TZ": "UTC", "NO_COLOR": "1"}
    environment.pop("FORCE_COLOR", None)
    fresh = Lab(environment, Path())
    up = fresh.told("lab", "up", "--speed", "20")
    assert up["built"] is True
    try:
        yield Lab(environment, Path(up["group_file"]))
    finally:
        fresh.told("lab", "down")


@pytest.mark.timeout(300)
def test_a_night_the_morning_after_and_a_killed_terminal(lab: Lab) -> None:
    """Protect; home dies; one person types the facts, a second the name; commit; reprotect over two lost terminals."""
    _protect_and_lose_home(lab)
    _fail_over_with_two_people(lab)
    _commit(lab)
    _reprotect_over_lost_terminals(lab)


def _protect_and_lose_home(lab: Lab) -> None:
    previewed = lab.told("protect", str(lab.group_file), "--dry-run")
    assert {row["tier"] for row in previewed["members"]} == {"db", "app", "web"}
    protected = lab.told("protect", str(lab.group_file))
    assert (protected["state"], protected["run"]["result"]) == ("protected", "succeeded")

    assert lab.told("lab", "break", "home")["result"] == "broken"
    shown = lab.told("failover", "shop", "--reason", "it died", "--dry-run")
    assert shown["proposal"]["fence"] == "unverified"
    assert lab.told("run", "list", "--live")["runs"] == []
    refused = lab.told("failover", "shop", "--reason", "it died", code=5)["error"]
    assert refused["data"]["needs"]["confirm"] == "shop"
    assert refused["data"]["proposal"]["loss_seconds"] >= 0
    low = lab.told(
        "failover", "shop", "--reason", "it died", "--confirm", "shop", "--accept-data-loss", "1ms", code=5
    )
    assert low["error"]["word"] == "loss-not-accepted"
    assert lab.told("failover", "shop", code=5)["error"]["word"] == "reason-missing"


def _fail_over_with_two_people(lab: Lab) -> None:
    code, screen = lab.typed(
        ["failover", "shop", "--lab", "--reason", "it died", "--as", "oncall"],
        [
            ("Type the group's name:", "shop"),
            ("Type the data loss you accept:", "10m"),
            ("waiting", "ctrl-c"),
        ],
    )
    assert code == 130, screen
    for label in ("SEEN", "YOU LOSE", "STOPS", "FENCE", "STARTS", "TIME", "NO WAY BACK", "NEEDS"):
        assert f"\n     {label}" in screen.replace("\r", ""), label
    assert "drpilot run approve shop --lab" in screen
    busy = lab.told("failover", "shop", "--reason", "again", code=5)
    assert busy["error"]["word"] == "lane-busy"
    same = lab.told("run", "approve", "shop", "--confirm", "shop", "--as", "oncall", code=5)
    assert same["error"]["word"] == "same-person"

    code, screen = lab.typed(
        ["run", "approve", "shop", "--lab", "--as", "second"], [("Type the group's name:", "shop")]
    )
    assert code == 0, screen
    assert "shop is ACTIVE ON away, awaiting commit" in screen
    assert "next: drpilot commit shop --lab" in screen
    assert "home is not fenced for certain" in screen


def _commit(lab: Lab) -> None:
    status = lab.told("status")
    assert status["rows"][0]["state"] == "awaiting_commit"
    assert lab.told("rollback", "shop", "--confirm", "shop", "--accept-data-loss", "1h", code=5)
    committed = lab.told("commit", "shop", "--as", "oncall")
    assert committed["group_state"] == "active_unprotected"
    assert committed["rto_seconds"] > 0
    assert lab.told("report", "show", "shop")["evidence"]["verified"] is True


def _reprotect_over_lost_terminals(lab: Lab) -> None:
    """SIGTERM lets calls end and names the run; SIGKILL says nothing; `run resume` ends it either way."""
    lab.told("lab", "heal", "home")
    assert lab.told("fence", "shop")["result"] in ("succeeded", "already_fenced")
    process = lab.started("reprotect", "shop")
    process.terminate()
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "interrupted; shop/" in rest
    assert "drpilot run resume shop/" in rest
    live = lab.told("run", "list", "--live")["runs"]
    assert [run["mode"] for run in live] == ["reprotect"]
    assert lab.told("status")["next"] == "drpilot run resume shop --lab"
    process = lab.started("run", "resume", "shop")
    process.kill()
    process.communicate(timeout=60)
    resumed = lab.told("run", "resume", "shop")
    assert (resumed["mode"], resumed["state"], resumed["group_state"]) == (
        "reprotect",
        "finished",
        "protected",
    )
    assert lab.told("reprotect", "shop")["result"] == "already_protected"
