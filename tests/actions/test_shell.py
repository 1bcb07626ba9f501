"""A program as a step: told the facts and no secret, begun once, and never repeated by itself."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from drpilot.actions.shell import Shell
from drpilot.domain.ports import Done, FailureClass, Idempotency, StepFailed, Unseen
from tests.actions.world import StepContext, World

SHELL = Shell()


def program(path: Path, body: str) -> str:
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def context(world: World) -> StepContext:
    """An attempt of a step of a move to away."""
    run = world.begin("migrate", "home", "away")
    return run.context("tiers/db/bootstrap/shop-db/program", {})


def asked(*words: str, **more: Any) -> Any:
    """The input of the action."""
    return SHELL.Input(program=words, **more)


def test_it_is_told_the_facts_and_no_secret(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments as they are, the machine of the target by id, nothing of drpilot's own environment."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    told = tmp_path / "told"
    file = program(tmp_path / "take-over", f'echo "$#|$1|$2" >{told}; env | sort >>{told}; echo s3cret')
    ctx = context(world)
    done = SHELL.start(ctx, asked(file, "two words", "$HOME;`x`", tier="db", instance="shop-db"))
    standby = next(iter(world.facts.standbys["db@away"]["facts"]["instances"].values()))
    lines = told.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "2|two words|$HOME;`x`"
    assert f"DRPILOT_INSTANCE={standby}" in lines
    assert {"DRPILOT_SITE=away", "DRPILOT_MEMBER=shop-db", "DRPILOT_MODE=migrate", "DRPILOT_TIER=db"} <= set(
        lines
    )
    assert not [line for line in lines if "AWS" in line or "hidden" in line]
    assert isinstance(done, Done)
    assert "s3cret" not in str(done.output) + str(ctx.resume)
    assert SHELL.observe(ctx, asked(file)) == Done(done.output)


def test_a_failure_is_said_and_never_repeated_by_itself(world: World, tmp_path: Path) -> None:
    """Another code than 0, and one that was killed for its time, are final: no class that an engine tries again."""
    for body, limit_s, word in (
        ("echo no such host; exit 3", 60, "ended with 3: no such host"),
        ("sleep 60", 0.2, "killed"),
    ):
        ctx = context(world)
        given = asked(program(tmp_path / "take-over", body), timeout_s=limit_s)
        with pytest.raises(StepFailed, match=word) as failed:
            SHELL.start(ctx, given)
        assert failed.value.kind is FailureClass.REJECTED
        with pytest.raises(StepFailed):
            SHELL.observe(ctx, given)


def test_a_driver_that_dies_in_between_leaves_a_question(world: World, tmp_path: Path) -> None:
    """Begun and not seen to end: not certain, so that a person is asked; not begun: certain, so that it is done."""
    count = tmp_path / "count"
    given = asked(program(tmp_path / "take-over", f"echo once >>{count}"))
    ctx = context(world)
    assert SHELL.idempotency is Idempotency.ONCE
    seen = SHELL.observe(ctx, given)
    assert isinstance(seen, Unseen)
    assert seen.certain
    SHELL.start(ctx, given)
    assert ctx.resume is not None
    lost = {key: value for key, value in ctx.resume.items() if key != "code"}
    ctx.checkpoint(lost)  # as a driver killed inside left it
    seen = SHELL.observe(ctx, given)
    assert isinstance(seen, Unseen)
    assert not seen.certain
    assert count.read_text(encoding="utf-8") == "once\n"


def test_a_machine_that_is_not_there_is_no_reason_to_begin(world: World, tmp_path: Path) -> None:
    """The member has to stand on the target before its program is started."""
    file = program(tmp_path / "take-over", f"touch {tmp_path}/ran")
    with pytest.raises(StepFailed, match="shop-other is not on away"):
        SHELL.start(context(world), asked(file, tier="db", instance="shop-other"))
    assert not (tmp_path / "ran").exists()


def test_what_is_given_is_bounded() -> None:
    """A program of no words, and one that may take more than an hour, are refused."""
    for wrong in (
        {"program": ()},
        {"program": ("a",), "timeout_s": 3601},
        {"program": ("a",), "shell": True},
    ):
        with pytest.raises(ValidationError):
            SHELL.Input(**wrong)
