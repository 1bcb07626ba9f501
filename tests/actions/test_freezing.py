"""Freeze hooks around a capture: real programs, real snapshots in the lab, deaths in between."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from drpilot.actions.catalogue import CATALOGUE
from drpilot.actions.command import run_program
from drpilot.base.clock import RealClock
from drpilot.domain.ports import Done, StepFailed, Waiting
from tests.actions.world import Run, World

STEP = "capture/db/machines/shop-db/snapshots"


def program(path: Path, body: str) -> str:
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@dataclass
class Hooks:
    """Two programs that keep a marker while frozen and write down what they were told."""

    folder: Path
    marker: Path
    log: Path

    def lines(self) -> list[str]:
        """What the programs wrote."""
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []


@pytest.fixture
def hooks(tmp_path: Path, world: World) -> Hooks:
    """The db tier with hooks, its members looked at again."""
    made = Hooks(tmp_path, tmp_path / "frozen", tmp_path / "log")
    told = 'echo "$0 $DRPILOT_MEMBER $DRPILOT_INSTANCE ${AWS_SECRET_ACCESS_KEY:-none}"'
    freeze = program(tmp_path / "freeze", f"touch {made.marker}; {told} >>{made.log}")
    thaw = program(tmp_path / "thaw", f"{told} >>{made.log}; rm {made.marker}")
    world.text = world.text.replace("  db:\n", f"  db:\n    freeze: [{freeze}, {thaw}]\n", 1)
    world.look("home")
    return made


def watched(world: World, monkeypatch: pytest.MonkeyPatch, hooks: Hooks) -> list[bool]:
    """Whether the application was frozen at each CreateSnapshots that goes to home."""
    door, seen = world.sites["home"], list[bool]()
    real: Callable[..., Any] = door.call

    def call(service: str, operation: str, params: dict[str, Any], *, token: str | None = None) -> Any:
        if operation == "CreateSnapshots":
            seen.append(hooks.marker.exists())
        return real(service, operation, params, token=token)

    monkeypatch.setattr(door, "call", call)
    return seen


def consistency(world: World) -> set[str]:
    """What the newest point's database snapshots say."""
    point = world.facts.recovery_point(f"point{world.runs}")
    return {
        item.facts["consistency"] for item in point.replicas if item.tier == "db" and item.kind == "snapshot"
    }


@pytest.mark.row(19)
def test_the_application_is_frozen_while_its_snapshots_are_taken(
    world: World, hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen at the call, thawed after it, told who it is, without the cloud's secrets; the point says so."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    seen = watched(world, monkeypatch, hooks)
    run = world.begin("replicate", "home", "away").all()
    instance = world.built["database"]["instance"]
    assert (seen, hooks.marker.exists(), STEP in run.warnings) == ([True], False, False)
    assert hooks.lines() == [f"{hooks.folder / name} shop-db {instance} none" for name in ("freeze", "thaw")]
    assert consistency(world) == {"application"}


def test_a_failed_freeze_costs_no_point(world: World, hooks: Hooks) -> None:
    """The snapshots are taken all the same, are called crash-consistent, and the step warns."""
    program(hooks.folder / "freeze", "echo no database here; exit 3")
    run = world.begin("replicate", "home", "away").all()
    assert "freeze ended with 3: no database here" in run.warnings[STEP]
    assert consistency(world) == {"crash"}


def test_a_freeze_that_lapsed_is_noticed(world: World, hooks: Hooks) -> None:
    """A thaw that says the freeze did not hold makes the point crash-consistent."""
    program(hooks.folder / "thaw", f"rm -f {hooks.marker}; echo lapsed; exit 1")
    run = world.begin("replicate", "home", "away").all()
    assert "was not seen to thaw" in run.warnings[STEP]
    assert "lapsed" in run.warnings[STEP]
    assert consistency(world) == {"crash"}


def test_a_lost_reply_leaves_nothing_frozen_and_one_set_of_snapshots(world: World, hooks: Hooks) -> None:
    """The reply of CreateSnapshots is cut off: thawed, found by its tags, frozen once."""
    world.fault("home", "lost-reply:ec2.CreateSnapshots@1")
    world.begin("replicate", "home", "away").all()
    assert not hooks.marker.exists()
    assert len(hooks.lines()) == 2
    assert consistency(world) == {"application"}


def _dead_while_frozen(run: Run) -> Any:
    """The context of an attempt whose driver died between freeze and thaw."""
    step = next(item for item in run.plan.steps if item.path == STEP)
    ctx = run.context(step.path, run.given(step))
    ctx.checkpoint({"frozen": True})
    return ctx, CATALOGUE["point.capture"].Input.model_validate(run.given(step))


def test_a_driver_lost_in_between_is_followed_by_a_thaw(
    world: World, hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking finds "may still be frozen"; the next attempt thaws before it freezes again, and says so."""
    run = world.begin("replicate", "home", "away").all(until="request")
    ctx, given = _dead_while_frozen(run)
    hooks.marker.touch()
    capture = CATALOGUE["point.capture"]
    look = capture.observe(ctx, given)
    assert (look.certain, look.why) == (True, "shop-db may still be frozen")
    assert isinstance(capture.start(ctx, given), Waiting)
    assert [line.split()[0].rpartition("/")[2] for line in hooks.lines()] == ["thaw", "freeze", "thaw"]
    while not isinstance(answer := capture.observe(ctx, given), Done):
        world.clouds["home"].advance(5.0)
    assert len(answer.output.snapshots) == 3


def test_snapshots_taken_before_the_driver_was_lost_are_kept(world: World, hooks: Hooks) -> None:
    """They exist, so nothing is frozen again: one thaw, and the point counts as crash-consistent."""
    world.fault("home", "lost-reply:ec2.CreateSnapshots@1")
    run = world.begin("replicate", "home", "away").all(until=STEP)
    before = len(hooks.lines())
    ctx, given = _dead_while_frozen(run)
    hooks.marker.touch()
    CATALOGUE["point.capture"].start(ctx, given)
    done = CATALOGUE["point.capture"].observe(ctx, given)
    assert isinstance(done, Done)
    assert "driver was lost" in done.warning
    assert [line.split()[0].rpartition("/")[2] for line in hooks.lines()[before:]] == ["thaw"]
    assert {move.data["facts"]["consistency"] for move in done.moves} == {"crash"}


def test_a_program_is_bounded_with_all_it_started(tmp_path: Path) -> None:
    """After its time the whole process group is gone, also what holds the output open."""
    told = tmp_path / "pid"
    path = program(tmp_path / "endless", f"sleep 600 & echo $! >{told}; wait")
    with pytest.raises(StepFailed, match=r"not done within 0\.3 s"):
        run_program(path, {}, timeout_s=0.3)
    pid, clock = int(told.read_text()), RealClock()
    end = (
        clock.monotonic() + 10.0
    )  # a kill is sent at once and takes effect when the process is next looked at
    while not _is_dead(pid) and clock.monotonic() < end:
        clock.sleep(0.05)
    assert _is_dead(pid)


def _is_dead(pid: int) -> bool:
    """Whether a process is gone, or waits only to be collected."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in ("Z", "X")


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    """No traceback: the step says which program there is not."""
    missing = str(tmp_path / "nothing")
    with pytest.raises(StepFailed, match="nothing"):
        run_program(missing, {}, timeout_s=1.0)
    with pytest.raises(StepFailed, match="quotation"):
        run_program("'unclosed", dict(os.environ), timeout_s=1.0)
