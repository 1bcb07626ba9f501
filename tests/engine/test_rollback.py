"""The way back: bounded, never forward again, never after the commit, and it takes failed steps along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drpilot.domain.plan import Call, Plan
from drpilot.domain.ports import FailureClass
from drpilot.domain.run import RunView
from tests.engine.test_drive import ME, begin, consent, in_move, move_plan
from tests.engine.world import Bench, plan, step


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A fresh journal and an empty shelf."""
    return Bench(tmp_path)


def moved(bench: Bench, wanted: Plan) -> RunView:
    """A move driven as far as it goes."""
    run = begin(bench, wanted, **consent(bench, wanted))
    in_move(bench)
    return bench.driver().drive(run.id, ME).view


def order(bench: Bench, kind: str, **more: Any) -> tuple[RunView, str]:
    """Post an order, drive, and say how it was answered."""
    run = bench.journal.view("shop")
    posted = bench.journal.post(run.id, kind, "me", comment="a test", **more)
    view = bench.driver().drive(run.id, ME).view
    return view, bench.journal.answered(posted)[1]


def test_after_the_commit_there_is_no_rollback(bench: Bench) -> None:
    """What is committed is left by reprotecting and failing back, even when a later step failed."""
    wanted = move_plan()
    wanted = plan(*wanted.steps[:-1], step("confirm", "check.source", ("commit",), given={"fails": True}), mode="failover", lane="move")  # noqa: E501  # fmt: skip
    assert moved(bench, wanted).state == "awaiting_commit"
    view, _ = order(bench, "commit")
    assert view.state == "paused"
    view, refused = order(bench, "rollback", data={"accepted_loss_s": 60})
    assert "it is committed" in refused
    assert view.state == "paused"


def test_a_rollback_does_not_wait_for_what_only_looks(bench: Bench) -> None:
    """A check that never gets green is the reason to roll back, not something to wait for."""
    steps = list(move_plan().steps[:5])
    wanted = plan(*steps, step("never", "thing.wait", ("grow",), timeout_s=1e9), mode="failover", lane="move")
    run = begin(bench, wanted, **consent(bench, wanted))
    in_move(bench)
    bench.journal.post(run.id, "rollback", "me", comment="enough")
    driver = bench.driver()
    posted: list[str] = []

    def late(view: RunView) -> None:
        if view.steps["never"].state == "waiting" and not posted:
            posted.append(bench.journal.post(run.id, "rollback", "me", comment="enough"))

    driver.seen = late
    view = driver.drive(run.id, ME).view
    assert view.result == "rolled_back"
    assert not bench.shelf.things


def test_an_undo_that_never_ends_stops_for_a_person(bench: Bench) -> None:
    """Bounded by the step's timeout; then a person retries it."""
    bench.shelf.fail_call = {2: FailureClass.INVALID}
    assert moved(bench, move_plan()).state == "paused"
    bench.shelf.stuck_undo = True
    view, _ = order(bench, "rollback")
    assert view.state == "paused"
    assert view.steps["grow"].state == "undo_failed"
    _, refused = order(bench, "cancel")
    assert "followed to its end" in refused
    bench.shelf.stuck_undo = False
    view, _ = order(bench, "retry")
    assert view.result == "rolled_back"
    assert not bench.shelf.things


def test_a_rollback_is_not_paused_into_going_forward(bench: Bench) -> None:
    """Pausing is refused, and a resume goes on backwards."""
    bench.shelf.fail_call = {2: FailureClass.INVALID}
    assert moved(bench, move_plan()).state == "paused"
    bench.shelf.stuck_undo = True
    order(bench, "rollback")
    bench.shelf.stuck_undo = False
    view, _ = order(bench, "resume")
    assert (view.state, view.result) == ("finished", "rolled_back")
    assert bench.journal.group("shop").state == "protected"


def test_a_failed_no_way_back_counts_unless_it_certainly_did_not_happen(bench: Bench) -> None:
    """A refused call did not happen; a failure of another kind may have."""
    bench.shelf.fail_call = {2: FailureClass.INVALID}
    wanted = move_plan()
    assert moved(bench, wanted).steps["traffic"].state == "failed"
    view, refused = order(bench, "rollback")
    assert refused == ""
    assert view.result == "rolled_back"


def test_only_moves_are_rolled_back(bench: Bench) -> None:
    """A copy or a reprotection is cancelled; rolling it back could unfence the old side."""
    bench.shelf.fail_call = {1: FailureClass.INVALID}
    begin(bench, plan(step("a"), mode="reprotect", lane="move"))
    bench.driver().drive(bench.journal.view("shop").id, ME)
    view, refused = order(bench, "rollback")
    assert "only a failover, a switchover or a migration" in refused
    view, _ = order(bench, "cancel")
    assert view.result == "cancelled"


def test_a_runbooks_own_undo_is_resolved_with_the_steps_own_output(bench: Bench) -> None:
    """`undo: {action, with}` may name what the step itself came to."""
    steps = list(move_plan().steps)
    own = Call("thing.take", {"token": "${{ steps.grow.output.token }}"})
    scope = {"steps": {"fence_ok": "fence_ok", "grow": "grow"}}
    steps[4] = step("grow", "thing.put", ("fence_ok",), undo=own, scope=scope)
    bench.shelf.fail_call = {2: FailureClass.INVALID}
    assert moved(bench, plan(*steps, mode="failover", lane="move")).state == "paused"
    view, _ = order(bench, "rollback")
    assert view.result == "rolled_back"
    assert view.steps["grow"].state == "undone"
    assert not bench.shelf.things


def test_an_end_that_the_tables_refuse_pauses_the_run(bench: Bench) -> None:
    """A group with another live run can't be retired: the run says so and waits, it does not fail for ever."""
    begin(bench, plan(step("copy")))
    facts = {"at_end": "retire", "end_facts": {"name_typed": True}}
    run = begin(bench, plan(step("a"), mode="retire", lane="move"), facts=facts)
    view = bench.driver().drive(run.id, ME).view
    assert view.state == "paused"
    assert bench.journal.group("shop").state == "seeding"


def test_an_order_the_tables_refuse_is_answered_and_does_not_stop_every_driver(bench: Bench) -> None:
    """The group waits for a decision, so it can't be rolled back: said once; settling it goes on."""
    bench.shelf.lose_reply_of = {1}
    wanted = plan(step("a", "thing.once"), mode="failover", lane="move")
    run = begin(bench, wanted)
    in_move(bench)
    assert bench.driver().drive(run.id, ME).view.state == "paused"
    view, refused = order(bench, "rollback", data={"accepted_loss_s": 60})
    assert "roll back" in refused
    assert "needs_decision" in refused
    view, refused = order(bench, "settle", step="a", data={"happened": True})
    assert (refused, view.result) == ("", "succeeded")
