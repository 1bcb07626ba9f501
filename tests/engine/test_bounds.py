"""Nothing waits, repeats or holds a lane for ever; a look comes before every verdict."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.domain.fence import Verdict
from drpilot.domain.plan import Retry
from drpilot.journal.journal import NewRun
from tests.engine.test_drive import ME, OTHER, begin, chained, consent, in_move, move_plan
from tests.engine.world import Bench, plan, step


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A fresh journal and an empty shelf."""
    return Bench(tmp_path)


def test_a_call_never_seen_is_repeated_only_so_often(bench: Bench) -> None:
    """Lost each time and never there: bounded by the step's own number of tries, with the same token."""
    bench.shelf.lose_reply_of = set(range(1, 100))
    bench.shelf.blind = True
    wanted = plan(step("a", retry=Retry(attempts=3)))
    run = begin(bench, wanted)
    view = bench.driver().drive(run.id, ME).view
    assert view.state == "paused"
    assert len(bench.shelf.calls) == 3
    assert len({attempt.token for _, attempt in bench.journal.attempts(run.id)}) == 1


def test_a_look_that_fails_behind_a_change_is_no_failure_of_the_change(bench: Bench) -> None:
    """Made, then the listing is throttled: looked at again, not made again under a fresh token."""
    bench.shelf.lose_reply_of = {1}
    run = begin(bench, chained("a"))
    driver = bench.driver()
    seen: list[int] = []

    def dark_for_a_while(view: object) -> None:
        seen.append(1)
        bench.shelf.dark = 2 < len(seen) < 6

    driver.seen = dark_for_a_while
    assert driver.drive(run.id, ME).view.result == "succeeded"
    assert len(bench.shelf.things) == 1


def test_what_became_as_wanted_while_nobody_looked_has_not_failed(bench: Bench) -> None:
    """The driver was gone for longer than the timeout, the copy ended meanwhile: looked at first."""
    bench.shelf.needs_looks = 3
    run = begin(bench, plan(step("a", timeout_s=60)))
    driver = bench.driver()
    driver.seen = lambda view: driver.stop.set() if view.steps["a"].state == "waiting" else None
    assert driver.drive(run.id, ME).stopped
    bench.shelf.needs_looks = 0
    bench.clock.sleep(3600)
    assert bench.driver().drive(run.id, OTHER).view.result == "succeeded"


def test_a_cancelled_copy_gives_its_lane_back_though_a_step_is_unknown(bench: Bench) -> None:
    """Its reply was lost on a dead site, nothing can be seen: the lane is free all the same."""
    bench.shelf.lose_reply_of = {1}
    run = begin(bench, plan(step("a"), step("z", needs=("a",), always=True)))
    driver = bench.driver()

    def go_dark(view: object) -> None:
        if bench.shelf.things:
            bench.shelf.dark = True

    driver.seen = go_dark
    posted: list[str] = []
    original = driver.seen

    def then_cancel(view: object) -> None:
        original(view)
        if bench.shelf.dark and not posted:
            posted.append(bench.journal.post(run.id, "cancel", "me"))
        if posted and getattr(view, "state", "") == "cleaning":
            bench.shelf.dark = False

    driver.seen = then_cancel
    view = driver.drive(run.id, ME).view
    assert (view.state, view.result) == ("finished", "cancelled")
    assert view.steps["a"].state == "failed"
    begin(bench, chained("b"))


def test_no_copy_begins_beside_a_move(bench: Bench) -> None:
    """A replication beside a failover would put the promoted standby to rest; only a fence may begin there."""
    wanted = move_plan()
    begin(bench, wanted, **consent(bench, wanted, approvers=2))
    for mode, lane in (("replicate", "copy"), ("drill", "practice")):
        with pytest.raises(DrpilotError, match="holds lane move"):
            begin(bench, plan(step("a"), mode=mode, lane=lane))
    begin(bench, plan(step("a"), mode="fence", lane="practice"), beside_move=True)


def test_a_state_that_changed_between_asking_and_beginning_is_refused(bench: Bench) -> None:
    """The write door checks the group's state again."""
    with pytest.raises(DrpilotError) as refused:
        bench.journal.create(NewRun("id", chained("a"), "me", from_states=("protected",)))
    assert refused.value.word == "wrong-state"


def test_a_proposal_nobody_answers_expires(bench: Bench) -> None:
    """Consent binds for half an hour; a gate that opens later than that asks anew."""
    wanted = move_plan()
    given = consent(bench, wanted, approvers=2)
    run = begin(bench, wanted, **given, expires_at=bench.clock.now() + timedelta(seconds=1800))
    assert bench.driver().drive(run.id, ME).view.state == "waiting"
    bench.clock.sleep(1801)
    view = bench.driver().drive(run.id, ME).view
    assert (view.state, view.result) == ("finished", "expired")


def test_an_answered_proposal_does_not_expire_later(bench: Bench) -> None:
    """After the go, time no longer ends the run."""
    wanted = move_plan("unverified")
    given = consent(bench, wanted, fence=Verdict.FENCED)
    run = begin(bench, wanted, **given, expires_at=bench.clock.now() + timedelta(seconds=1800))
    in_move(bench)
    assert bench.driver().drive(run.id, ME).view.state == "waiting"
    bench.clock.sleep(4000)
    assert bench.driver().drive(run.id, ME).view.state == "waiting"


def test_as_many_persons_commit_as_the_group_asks(bench: Bench) -> None:
    """`approvals.commit: 2` needs two."""
    wanted = replace(move_plan(), context={"run": {"drill": False}, "group": None})
    wanted = replace(
        wanted, context={**wanted.context, "group": {**_plain_group(), "approvals": {"commit": 2}}}
    )
    run = begin(bench, wanted, **consent(bench, wanted))
    in_move(bench)
    bench.driver().drive(run.id, ME)
    bench.journal.post(run.id, "commit", "me")
    assert bench.driver().drive(run.id, ME).view.state == "awaiting_commit"
    bench.journal.post(run.id, "commit", "second")
    assert bench.driver().drive(run.id, ME).view.result == "succeeded"


def _plain_group() -> dict[str, object]:
    from drpilot.domain.plain import to_plain
    from tests.engine.world import GROUP

    found: dict[str, object] = to_plain(GROUP)
    return found


@pytest.mark.parametrize("text", ["shop/²", "shop/99999999999999999999", "shop/-1", "shop/"])
def test_odd_names_of_runs_are_not_found(bench: Bench, text: str) -> None:
    """Never a traceback."""
    with pytest.raises(DrpilotError):
        bench.journal.view(text)
