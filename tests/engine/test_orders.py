"""Orders of people: each is answered, and a refused one says why and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drpilot.domain.fence import Verdict
from drpilot.domain.ports import FailureClass
from drpilot.domain.run import RunView
from tests.engine.test_drive import ME, begin, chained, consent, in_move, move_plan
from tests.engine.world import Bench, plan, step


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A fresh journal and an empty shelf."""
    return Bench(tmp_path)


def answer(bench: Bench, kind: str, by: str = "me", **more: Any) -> tuple[RunView, str]:
    """Post an order, let the driver read it, and give its answer."""
    run = bench.journal.view("shop")
    posted = bench.journal.post(run.id, kind, by, **more)
    view = bench.driver().drive(run.id, ME).view
    read, refused = bench.journal.answered(posted)
    assert read or view.state == "finished"
    return view, refused


def paused(bench: Bench) -> None:
    """A copy that stopped at a failed step."""
    bench.shelf.fail_call = {1: FailureClass.INVALID}
    bench.driver().drive(begin(bench, chained("a", "b")).id, ME)


def gated(bench: Bench) -> None:
    """A move that waits for its second person."""
    wanted = move_plan()
    bench.driver().drive(begin(bench, wanted, **consent(bench, wanted, approvers=2)).id, ME)


def awaiting(
    bench: Bench, *, approvers: int = 1, verdict: str = "fenced", foretold: Verdict = Verdict.FENCED
) -> None:
    """A move that awaits its commit."""
    wanted = move_plan(verdict)
    given = consent(bench, wanted, approvers=approvers, fence=foretold)
    run = begin(bench, wanted, **given)
    in_move(bench)
    bench.driver().drive(run.id, ME)


@pytest.mark.parametrize(
    ("stage", "kind", "more", "said"),
    [
        (paused, "dance", {}, "no order is called 'dance'"),
        (paused, "approve", {}, "no gate waits"),
        (paused, "decline", {}, "no gate waits"),
        (paused, "pause", {}, "paused already"),
        (paused, "retry", {"step": "zzz"}, "there is no step 'zzz'"),
        (paused, "retry", {"step": "b"}, "step b is pending, not failed"),
        (paused, "skip", {"step": "zzz", "comment": "x"}, "there is no step"),
        (paused, "skip", {"step": "b", "comment": "x"}, "step b is pending, not failed"),
        (paused, "settle", {"step": "a"}, "is not unknown"),
        (paused, "commit", {}, "not awaiting commit"),
        (paused, "rollback", {}, "only a failover, a switchover or a migration"),
        (gated, "settle", {"step": "go"}, "is not unknown"),
        (gated, "commit", {}, "the run is waiting"),
        (awaiting, "retry", {}, "has nothing to retry"),
        (awaiting, "pause", {}, "can't be paused"),
        (awaiting, "cancel", {}, "can't be cancelled"),
        (awaiting, "rollback", {}, "type the loss"),
    ],
)
def test_a_refused_order_says_why(
    bench: Bench, stage: Callable[[Bench], None], kind: str, more: dict[str, Any], said: str
) -> None:
    """One row an order that can't be carried out where the run stands."""
    stage(bench)
    before = bench.journal.view("shop").state
    view, refused = answer(bench, kind, **more)
    assert said in refused
    assert view.state == before


def test_an_uncertain_fence_is_not_committed_by_one_person(bench: Bench) -> None:
    """Somebody broke no glass and nobody else looked: a second person must commit."""
    awaiting(bench, verdict="unverified", foretold=Verdict.UNVERIFIED)
    view, refused = answer(bench, "commit")
    assert "a second person must commit" in refused
    view, refused = answer(bench, "commit", "second")
    assert (refused, view.result) == ("", "succeeded")


def test_a_settled_no_is_done_again(bench: Bench) -> None:
    """The person saw that it did not happen: once more, with the same token."""
    bench.shelf.lose_reply_of = {1}
    run = begin(bench, plan(step("a", "thing.once")))
    bench.driver().drive(run.id, ME)
    bench.shelf.things.clear()
    _, refused = answer(bench, "settle", step="a", comment="nothing there", data={"happened": False})
    assert refused == ""
    assert len(bench.shelf.calls) == 2
    assert len({attempt.token for _, attempt in bench.journal.attempts(run.id)}) == 1


def test_a_declined_second_question_turns_the_run_back(bench: Bench) -> None:
    """The fence is worse than foretold and a person says no: what was done is undone."""
    wanted = move_plan("unverified")
    run = begin(bench, wanted, **consent(bench, wanted))
    in_move(bench)
    assert bench.driver().drive(run.id, ME).view.state == "waiting"
    view, refused = answer(bench, "decline", "second", comment="not like this")
    assert (refused, view.result) == ("", "rolled_back")


def test_resume_of_what_runs_is_already_so(bench: Bench) -> None:
    """Driving it is all that was asked."""
    gated(bench)
    view, refused = answer(bench, "resume")
    assert (refused, view.state) == ("", "waiting")


def test_orders_to_a_finished_run_are_answered(bench: Bench) -> None:
    """Nothing is left to do, and the order says so."""
    run = begin(bench, chained("a"))
    driver = bench.driver()
    posted: list[str] = []

    def late(view: RunView) -> None:
        if not posted:
            posted.extend(bench.journal.post(run.id, kind, "me", comment="x") for kind in ("cancel", "pause"))

    driver.seen = late
    assert driver.drive(run.id, ME).view.result == "cancelled"
    assert bench.journal.answered(posted[1])[0]


def test_a_failed_clean_up_step_is_skipped_with_a_comment(bench: Bench) -> None:
    """What can't be removed is handed over by a named person."""
    bench.shelf.fail_call = {2: FailureClass.INVALID}
    bench.driver().drive(begin(bench, plan(step("a"), step("z", needs=("a",), always=True))).id, ME)
    view, refused = answer(bench, "skip", step="z", comment="I remove it by hand")
    assert (refused, view.state) == ("", "finished")


def test_a_wrong_input_is_a_failed_step(bench: Bench) -> None:
    """The action's own model has the word, with the name of the field."""
    view = bench.driver().drive(begin(bench, plan(step("a", given={"nmae": "x"}))).id, ME).view
    assert view.steps["a"].failure is not None
    assert "nmae" in view.steps["a"].failure.message


def test_an_action_nobody_has_is_a_failed_step(bench: Bench) -> None:
    """A plan of another version is not a traceback."""
    view = bench.driver().drive(begin(bench, plan(step("a", "thing.unknown", given={}))).id, ME).view
    assert view.steps["a"].failure is not None
    assert "no action 'thing.unknown'" in view.steps["a"].failure.message


def test_a_drill_whose_time_is_over_cleans_up(bench: Bench) -> None:
    """Expired: what was begun is ended, what always runs is run."""
    bench.shelf.needs_looks = 10_000
    wanted = plan(
        step("a", timeout_s=1e6),
        step("z", "check.source", ("a",), always=True),
        mode="drill",
        lane="practice",
    )
    run = begin(bench, wanted, expires_at=bench.clock.now().replace(year=2026, minute=5))
    view = bench.driver().drive(run.id, ME).view
    assert (view.state, view.result) == ("finished", "expired")
    assert view.steps["z"].state == "succeeded"
