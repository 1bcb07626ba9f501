"""What a step costs must not depend on how many steps a run has: statements, rows and bytes are counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from drpilot.domain.plan import Plan
from drpilot.domain.run import Decision, RunView
from drpilot.engine import drive as driving
from drpilot.engine.agenda import Agenda
from drpilot.engine.decide import Room, decide
from tests.engine.test_drive import ME, begin
from tests.engine.world import Bench, plan, step


@dataclass
class Counted:
    """What the database was asked for while a run was driven."""

    statements: int = 0
    written: int = 0
    read: list[str] = field(default_factory=list)

    def watch(self, engine: Any) -> None:
        """Count from now on."""

        def executed(_: Any, __: Any, text: str, given: Any, ___: Any, many: bool) -> None:
            self.statements += 1
            if many:
                self.written += len(given)
            if text.lstrip().startswith("SELECT"):
                self.read.append(text)

        event.listen(engine, "before_cursor_execute", executed)


def in_a_row(count: int) -> Plan:
    """Looks, each behind the one before."""
    return plan(
        *[step(f"s{n}", "check.source", needs=(f"s{n - 1}",) if n else (), given={}) for n in range(count)]
    )


def driven(folder: Path, count: int) -> tuple[Counted, int, int]:
    """Drive so many steps; what it took, the rows of the journal and the bytes of their texts."""
    bench = Bench(folder)
    run = begin(bench, in_a_row(count))
    counted = Counted()
    counted.watch(bench.journal.database.engine)
    view = bench.driver().drive(run.id, ME).view
    assert view.result == "succeeded"
    assert all(found.attempt is not None and found.attempt.state == "ok" for found in view.steps.values())
    found = (counted, len(bench.journal.attempts(run.id)), 0)
    events = bench.journal.events(run=run.id)
    bytes_ = sum(len(str(each.body)) + len(each.hash) for each in events)
    bench.journal.database.close()
    return found[0], found[1] + len(events), bytes_


def test_the_cost_of_a_step_does_not_grow_with_the_run(tmp_path: Path) -> None:
    """Between 200 and 1,000 steps: the same statements and rows written a step, and a journal that grows linearly."""
    costs = {}
    for count in (200, 1000):
        (tmp_path / str(count)).mkdir()
        counted, rows, bytes_ = driven(tmp_path / str(count), count)
        whole = sum("JOIN attempt" in text and " IN (" not in text for text in counted.read)
        assert 1 <= whole <= 8, (
            "all steps are read when driving begins and when the run itself changes, not at each step"
        )
        costs[count] = (counted.statements / count, counted.written / count, rows / count, bytes_ / count)
    for few, many in zip(costs[200], costs[1000], strict=True):
        assert many <= few * 1.05, costs
    assert costs[1000][0] <= 16, costs


def test_an_agenda_changes_what_a_decision_costs_never_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every decision of a run with forks, joins, skips and failures: with the kept agenda as with none."""
    decisions = 0

    def both(view: RunView, now: Any, room: Room, agenda: Agenda) -> Decision:
        nonlocal decisions
        decisions += 1
        found = decide(view, now, room, agenda)
        assert found == decide(view, now, room)
        return found

    monkeypatch.setattr(driving, "decide", both)
    bench = Bench(tmp_path)
    bench.shelf.lose_reply_of, bench.shelf.needs_looks = {2}, 3
    fan = [step(f"f{n}", needs=("a",)) for n in range(6)]
    steps = [
        step("a"),
        *fan,
        step("skipped", needs=("a",), when="false"),
        step("behind", needs=("skipped",)),
        step("fails", "check.source", needs=("f1",), given={"fails": True}, on_failure="continue"),
        step("join", needs=(*(each.path for each in fan), "fails", "behind")),
        step("last", "check.source", needs=("join",), given={}, always=True),
    ]
    view = bench.driver().drive(begin(bench, plan(*steps, parallel=3)).id, ME).view
    assert view.result == "succeeded_with_warnings"
    assert {path for path, found in view.steps.items() if found.state == "skipped"} == {"skipped"}
    assert decisions > 10
    bench.journal.database.close()
