"""The journal refuses in the middle of an attempt: the drive ends, and the step is not told a story about the world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.domain.run import Holder
from drpilot.journal.journal import NewRun, Superseded
from tests.engine.world import Bench, plan, step

pytestmark = pytest.mark.crash


@pytest.mark.parametrize(
    "refusal",
    [
        DrpilotError("journal-unwritable", path="journal.db", what="disk full"),
        DrpilotError("journal-unreachable", path="postgresql://h/d", what="the server closed the connection"),
        Superseded("shop/1", "another"),
    ],
    ids=["disk full", "server gone", "taken over"],
)
def test_a_refused_checkpoint_ends_the_drive_and_not_the_step(
    refusal: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the simulation: the step failed as if for certain, and a retry took a fresh token without looking."""
    bench = Bench(tmp_path)
    run = bench.journal.create(NewRun(bench.journal.new_id(), plan(step("s", "thing.slow")), "me"))

    def refuse(*_: Any) -> None:
        raise refusal

    monkeypatch.setattr(bench.journal, "checkpoint", refuse)
    with pytest.raises(type(refusal)):
        bench.driver().drive(run.id, Holder("me", "elsewhere", "boot", 1, "1"))
    view = bench.journal.view(run.id)
    assert view.steps["s"].state == "running"
    assert view.steps["s"].attempt is not None
    assert view.steps["s"].attempt.state == "intent"
    assert bench.shelf.calls == []
    monkeypatch.undo()
    bench.clock.sleep(60)
    assert bench.driver().drive(run.id, Holder("you", "elsewhere", "boot", 2, "2")).view.result == "succeeded"
