"""Driving runs over a real journal and a tiny real world."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import wait
from typing import Any

import pytest

from drpilot.base.clock import RealClock
from drpilot.base.errors import DrpilotError
from drpilot.domain.plan import Approval, Plan, Retry
from drpilot.domain.ports import FailureClass, Move
from drpilot.domain.run import Holder, RunView
from drpilot.journal.holder import present_holder
from drpilot.journal.journal import NewRun, Superseded
from tests.engine.world import Bench, plan, step

ME = Holder("me", "elsewhere", "boot", 1, "1")
OTHER = Holder("other", "elsewhere", "boot", 2, "2")


@pytest.fixture
def bench(journal_url: str) -> Iterator[Bench]:
    """A fresh journal and an empty shelf."""
    made = Bench(journal_url)
    yield made
    made.journal.database.close()


def begin(bench: Bench, wanted: Plan, **more: Any) -> RunView:
    """Create a run."""
    return bench.journal.create(NewRun(bench.journal.new_id(), wanted, "me", **more))


def chained(*names: str) -> Plan:
    """Puts in a row, the last one reading an output of the first."""
    steps = [step(name, needs=tuple(names[i - 1 : i])) for i, name in enumerate(names)]
    return plan(*steps)


def test_a_run_of_puts_ends_with_one_thing_each(bench: Bench) -> None:
    """The plain path: every step once, in order, and the run finished."""
    run = begin(bench, chained("a", "b", "c"))
    drive = bench.driver().drive(run.id, ME)
    assert (drive.view.state, drive.view.result) == ("finished", "succeeded")
    assert [thing["name"] for thing in bench.shelf.things.values()] == ["a", "b", "c"]


def test_outputs_reach_later_inputs(bench: Bench) -> None:
    """An expression over an earlier output is resolved when the intent is made."""
    wanted = plan(
        step("a"), step("b", needs=("a",), given={"name": "b", "after": "${{ steps.a.output.id }}"})
    )
    view = bench.driver().drive(begin(bench, wanted).id, ME).view
    assert view.steps["b"].attempt is not None
    assert view.steps["b"].attempt.given["after"] == "thing-1"


@pytest.mark.row(29, 59)
def test_independent_steps_start_together_within_the_bound(bench: Bench) -> None:
    """The DAG is parallel, but never beyond the plan's limit."""
    seen: list[int] = []
    driver = bench.driver()
    driver.seen = lambda view: seen.append(sum(s.state == "running" for s in view.steps.values()))
    wanted = plan(*[step(name) for name in "abcdefgh"], parallel=3)
    assert driver.drive(begin(bench, wanted).id, ME).view.result == "succeeded"
    assert max(seen) <= 3


@pytest.mark.row(51)
def test_a_lost_reply_is_settled_by_looking_not_by_repeating(bench: Bench) -> None:
    """The effect happened, the answer was cut off: nothing is made twice."""
    bench.shelf.lose_reply_of = {2}
    view = bench.driver().drive(begin(bench, chained("a", "b", "c")).id, ME).view
    assert view.result == "succeeded"
    assert sorted(thing["name"] for thing in bench.shelf.things.values()) == ["a", "b", "c"]
    assert bench.shelf.calls.count("put b") == 1


def test_blind_observation_makes_duplicates_and_the_count_shows_it(bench: Bench) -> None:
    """The test of the test: with `observe` blinded, the lost reply leads to a second thing."""
    bench.shelf.lose_reply_of = {1}
    bench.shelf.blind = True
    driver = bench.driver()
    driver.seen = lambda view: setattr(bench.shelf, "blind", len(bench.shelf.calls) < 2)
    driver.drive(begin(bench, chained("a")).id, ME)
    assert len(bench.shelf.things) == 2


def test_what_an_attempt_stored_is_there_for_the_next(bench: Bench) -> None:
    """A long piece of work goes on where it was cut off: its checkpoint outlives the attempt."""
    run = begin(bench, plan(step("a", action="thing.slow", retry=Retry(attempts=5))))
    assert bench.driver().drive(run.id, ME).view.result == "succeeded"
    assert bench.shelf.calls == ["put a1", "put a2", "put a3"]
    assert len(bench.journal.attempts(run.id)) == 3


@pytest.mark.row(50)
def test_a_passing_failure_is_tried_again_with_a_fresh_token(bench: Bench) -> None:
    """Only a definite failure gets a new round, hence a new token."""
    bench.shelf.fail_call = {1: FailureClass.THROTTLED}
    run = begin(bench, chained("a"))
    assert bench.driver().drive(run.id, ME).view.result == "succeeded"
    tokens = [attempt.token for _, attempt in bench.journal.attempts(run.id)]
    assert len(tokens) == 2
    assert tokens[0] != tokens[1]


@pytest.mark.row(47)
def test_a_definite_failure_pauses_and_a_person_retries(bench: Bench) -> None:
    """In a disaster a person decides; retrying goes on from there."""
    bench.shelf.fail_call = {1: FailureClass.INVALID}
    run = begin(bench, chained("a", "b"))
    assert bench.driver().drive(run.id, ME).view.state == "paused"
    bench.journal.post(run.id, "retry", "me")
    assert bench.driver().drive(run.id, ME).view.result == "succeeded"


@pytest.mark.row(46)
def test_a_person_skips_a_failed_step_with_a_comment(bench: Bench) -> None:
    """A skip needs a comment, is recorded, and lets dependents go on."""
    bench.shelf.fail_call = {1: FailureClass.INVALID}
    run = begin(bench, chained("a", "b"))
    bench.driver().drive(run.id, ME)
    refused = bench.journal.post(run.id, "skip", "me", step="a")
    bench.driver().drive(run.id, ME)
    assert bench.journal.answered(refused) == (True, "a skip needs a comment")
    bench.journal.post(run.id, "skip", "me", step="a", comment="not needed tonight")
    view = bench.driver().drive(run.id, ME).view
    assert view.result == "succeeded"
    assert view.steps["a"].state == "skipped"
    assert "not needed tonight" in view.steps["a"].note


def test_a_protecting_step_is_never_skipped(bench: Bench) -> None:
    """Fence steps refuse a skip whatever the comment says."""
    run = begin(bench, plan(step("f", "fence.apply", given={"verdict": 5})))
    bench.driver().drive(run.id, ME)
    order = bench.journal.post(run.id, "skip", "me", step="f", comment="please")
    bench.driver().drive(run.id, ME)
    assert "never skipped" in bench.journal.answered(order)[1]


def test_waiting_holds_no_thread_and_ends_by_observation(bench: Bench) -> None:
    """Not yet as wanted: looked at again later until it is."""
    bench.shelf.needs_looks = 4
    run = begin(bench, chained("a"))
    assert bench.driver().drive(run.id, ME).view.result == "succeeded"
    assert bench.shelf.calls == ["put a"]


@pytest.mark.row(49)
def test_a_step_that_never_becomes_as_wanted_times_out(bench: Bench) -> None:
    """A wait is bounded by the step's timeout and says what it last saw."""
    bench.shelf.needs_looks = 10_000
    view = bench.driver().drive(begin(bench, plan(step("a", timeout_s=30.0))).id, ME).view
    assert view.state == "paused"
    assert view.steps["a"].failure is not None
    assert view.steps["a"].failure.kind == "timeout"


@pytest.mark.row(49)
def test_on_failure_continue_and_abort(bench: Bench) -> None:
    """continue: the run goes on with a warning; abort: the rest is cancelled and always-steps still run."""
    soft = plan(
        step("a", "check.source", given={"fails": True}, on_failure="continue"), step("b", needs=("a",))
    )
    assert bench.driver().drive(begin(bench, soft).id, ME).view.result == "succeeded_with_warnings"
    hard = plan(
        step("a", "check.source", given={"fails": True}, on_failure="abort"),
        step("b", needs=("a",)),
        step("z", needs=("b",), always=True),
    )
    view = bench.driver().drive(begin(bench, hard).id, ME).view
    assert (view.state, view.result) == ("finished", "failed")
    assert view.steps["b"].state == "cancelled"
    assert view.steps["z"].state == "succeeded"


@pytest.mark.row(38)
def test_a_condition_leaves_a_step_out_and_counts_as_satisfied(bench: Bench) -> None:
    """`when` false: skipped, its dependents run."""
    wanted = plan(step("a", when="run.drill"), step("b", needs=("a",)))
    view = bench.driver().drive(begin(bench, wanted).id, ME).view
    assert (view.steps["a"].state, view.steps["b"].state) == ("skipped", "succeeded")


def test_always_steps_run_after_success_too(bench: Bench) -> None:
    """Clean-up is part of the ordinary end."""
    view = (
        bench.driver().drive(begin(bench, plan(step("a"), step("z", needs=("a",), always=True))).id, ME).view
    )
    assert view.result == "succeeded"
    assert view.steps["z"].state == "succeeded"


def test_a_failed_clean_up_is_a_state_and_can_be_retried(bench: Bench) -> None:
    """What could not be removed is listed, not forgotten."""
    bench.shelf.fail_call = {2: FailureClass.INVALID}
    run = begin(bench, plan(step("a"), step("z", needs=("a",), always=True)))
    assert bench.driver().drive(run.id, ME).view.state == "clean_failed"
    bench.journal.post(run.id, "retry", "me")
    assert bench.driver().drive(run.id, ME).view.result == "succeeded"


@pytest.mark.row(48)
def test_cancel_lets_running_steps_end_and_cancels_the_rest(bench: Bench) -> None:
    """Cancelled is a result, not a state of confusion."""
    bench.shelf.fail_call = {2: FailureClass.INVALID}
    run = begin(bench, chained("a", "b", "c"))
    bench.driver().drive(run.id, ME)
    bench.journal.post(run.id, "cancel", "me", comment="enough")
    view = bench.driver().drive(run.id, ME).view
    assert (view.state, view.result) == ("finished", "cancelled")
    assert view.steps["c"].state == "cancelled"


@pytest.mark.row(45)
def test_pause_by_a_person_and_resume(bench: Bench) -> None:
    """A pause starts nothing new; resume goes on."""
    run = begin(bench, chained("a", "b"))
    bench.journal.post(run.id, "pause", "me")
    first = bench.driver().drive(run.id, ME).view
    assert first.state in ("paused", "finished")
    bench.journal.post(run.id, "resume", "me")
    assert bench.driver().drive(run.id, ME).view.result == "succeeded"


def move_plan(verdict: str = "fenced", **more: Any) -> Plan:
    """A small move: look, go, fence, put, traffic, commit."""
    return plan(
        step("seen", "check.source"),
        step("go", None, ("seen",), gate="go"),
        step("fence", "fence.apply", ("go",), given={"verdict": verdict}),
        step("fence_ok", None, ("fence",), gate="fence"),
        step("grow", "thing.put", ("fence_ok",)),
        step("traffic", "thing.put", ("grow",), no_way_back=True, **more),
        step("commit", None, ("traffic",), gate="commit"),
        step("confirm", "check.source", ("commit",)),
        mode="failover",
        lane="move",
    )


def in_move(bench: Bench) -> None:
    """Bring the group where a claim would bring it."""
    facts = {"point_complete": True, "standby_ready": True, "epoch_claimed": True, "lane_held": True}
    moves = [Move("group", "shop", "point available", facts), Move("group", "shop", "fail over", facts)]
    bench.journal.change("shop", moves, "tester")


def consent(bench: Bench, wanted: Plan, person: str = "me", **more: Any) -> dict[str, Any]:
    """A proposal and the requester's approval."""
    proposal = bench.proposal(wanted, **more)
    return {"proposal": proposal, "approval": Approval(person, "go", bench.clock.now(), proposal.digest)}


@pytest.mark.row(31, 32, 63)
def test_two_persons_open_the_gate_and_one_person_is_not_two(bench: Bench) -> None:
    """As many different persons as asked, the requester included once."""
    from drpilot.domain.fence import Verdict

    wanted = move_plan("unverified")
    run = begin(bench, wanted, **consent(bench, wanted, approvers=2, fence=Verdict.UNVERIFIED))
    assert bench.driver().drive(run.id, ME).view.state == "waiting"
    in_move(bench)
    again = bench.journal.post(run.id, "approve", "me")
    assert bench.driver().drive(run.id, ME).view.state == "waiting"
    assert bench.journal.answered(again) == (True, "me already approved")
    bench.journal.post(run.id, "approve", "second")
    view = bench.driver().drive(run.id, ME).view
    assert view.state == "awaiting_commit"
    bench.journal.post(run.id, "commit", "me")
    assert bench.driver().drive(run.id, ME).view.result == "succeeded"


@pytest.mark.row(84)
def test_a_worse_fence_asks_a_second_question(bench: Bench) -> None:
    """Foretold fenced, found unverified: one more person, one more time."""
    wanted = move_plan("unverified")
    run = begin(bench, wanted, **consent(bench, wanted))
    in_move(bench)
    view = bench.driver().drive(run.id, ME).view
    assert view.state == "waiting"
    assert view.steps["fence_ok"].state == "waiting"
    bench.journal.post(run.id, "approve", "second")
    assert bench.driver().drive(run.id, ME).view.state == "awaiting_commit"


def test_an_approval_of_other_facts_is_refused(bench: Bench) -> None:
    """An approval binds to the proposal's digest."""
    wanted = move_plan()
    run = begin(bench, wanted, **consent(bench, wanted, approvers=2))
    bench.driver().drive(run.id, ME)
    order = bench.journal.post(run.id, "approve", "second", data={"digest": "other"})
    bench.driver().drive(run.id, ME)
    assert "not this proposal" in bench.journal.answered(order)[1]


def test_decline_before_any_effect_ends_the_run(bench: Bench) -> None:
    """A second person says no: nothing was changed, the run is cancelled."""
    wanted = move_plan()
    run = begin(bench, wanted, **consent(bench, wanted, approvers=2))
    bench.driver().drive(run.id, ME)
    bench.journal.post(run.id, "decline", "second", comment="false alarm")
    view = bench.driver().drive(run.id, ME).view
    assert (view.state, view.result) == ("finished", "cancelled")
    assert not bench.shelf.things


@pytest.mark.row(56)
def test_rollback_undoes_in_reverse_order(bench: Bench) -> None:
    """Before the point of no return everything that was made is taken away."""
    wanted = move_plan()
    bench.shelf.fail_call = {2: FailureClass.INVALID}
    run = begin(bench, wanted, **consent(bench, wanted))
    in_move(bench)
    assert bench.driver().drive(run.id, ME).view.state == "paused"
    bench.journal.post(run.id, "rollback", "me", comment="no")
    view = bench.driver().drive(run.id, ME).view
    assert (view.state, view.result) == ("finished", "rolled_back")
    assert not bench.shelf.things
    assert view.steps["grow"].state == "undone"
    assert bench.journal.group("shop").state == "protected"


def test_rollback_after_no_return_needs_the_loss_typed(bench: Bench) -> None:
    """After traffic the way back loses writes: a named person types it."""
    wanted = move_plan()
    run = begin(bench, wanted, **consent(bench, wanted))
    in_move(bench)
    assert bench.driver().drive(run.id, ME).view.state == "awaiting_commit"
    order = bench.journal.post(run.id, "rollback", "me", comment="no")
    assert bench.driver().drive(run.id, ME).view.state == "awaiting_commit"
    assert "type the loss" in bench.journal.answered(order)[1]
    bench.journal.post(run.id, "rollback", "me", comment="yes", data={"accepted_loss_s": 60})
    assert bench.driver().drive(run.id, ME).view.result == "rolled_back"


def test_a_move_with_effects_is_rolled_back_not_cancelled(bench: Bench) -> None:
    """Cancelling half a move would leave it half done."""
    wanted = move_plan()
    run = begin(bench, wanted, **consent(bench, wanted))
    in_move(bench)
    bench.driver().drive(run.id, ME)
    bench.journal.post(run.id, "cancel", "me")
    assert bench.driver().drive(run.id, ME).view.state == "awaiting_commit"


def test_once_goes_to_a_person_who_settles_it(bench: Bench) -> None:
    """What looking can't tell is never repeated blindly."""
    bench.shelf.lose_reply_of = {1}
    run = begin(bench, plan(step("a", "thing.once")))
    view = bench.driver().drive(run.id, ME).view
    assert view.state == "paused"
    assert view.steps["a"].state == "unknown"
    assert len(bench.shelf.things) == 1
    bench.journal.post(run.id, "settle", "me", step="a", comment="I saw it", data={"happened": True})
    assert bench.driver().drive(run.id, ME).view.result == "succeeded"
    assert len(bench.shelf.things) == 1


def test_what_nobody_can_tell_in_a_move_is_the_groups_to_decide(bench: Bench) -> None:
    """The group says so while the run waits, and goes back to where it came from when a named person settles it."""
    bench.shelf.lose_reply_of = {1}
    wanted = plan(step("a", "thing.once"), mode="failover", lane="move")
    run = begin(bench, wanted)
    in_move(bench)
    assert bench.driver().drive(run.id, ME).view.state == "paused"
    assert bench.journal.group("shop").state == "needs_decision"
    bench.journal.post(run.id, "settle", "me", step="a", comment="I saw it", data={"happened": True})
    assert bench.driver().drive(run.id, ME).view.result == "succeeded"
    assert bench.journal.group("shop").state == "failing_over"


def test_a_bug_in_an_action_fails_the_step_and_keeps_the_run(bench: Bench) -> None:
    """An exception nobody foresaw is a failed step with its text."""
    view = bench.driver().drive(begin(bench, plan(step("a", "thing.raise"))).id, ME).view
    assert view.state == "paused"
    assert view.steps["a"].failure is not None
    assert "a bug" in view.steps["a"].failure.message


@pytest.mark.row(52)
def test_one_live_run_a_lane_and_a_move_cancels_copies(bench: Bench) -> None:
    """The second run of a lane is refused by name; a move never waits for a copy."""
    first = begin(bench, chained("a"))
    with pytest.raises(DrpilotError, match="holds lane copy") as refused:
        begin(bench, chained("b"))
    assert refused.value.exit_code == 5
    begin(bench, plan(step("m"), mode="failover", lane="move"))
    assert bench.driver().drive(first.id, ME).view.result == "cancelled"


def test_what_a_call_came_to_after_its_driver_lost_the_run_is_kept(bench: Bench) -> None:
    """The call was in the air when another took over: its outcome is in the chain as evidence, and not applied."""
    run = begin(bench, chained("a"))
    entered, leave, refused = threading.Event(), threading.Event(), threading.Event()
    original = bench.shelf.put

    def put(name: str, token: str) -> None:
        entered.set()
        leave.wait(timeout=60)
        original(name, token)

    bench.shelf.put = put  # type: ignore[method-assign]

    def drive() -> None:
        try:
            bench.driver().drive(run.id, ME)
        except Superseded:
            refused.set()

    thread = threading.Thread(target=drive)
    thread.start()
    assert entered.wait(timeout=60)
    taken = None
    for _ in range(100):
        bench.clock.sleep(60)
        taken = taken or bench.journal.acquire(run.id, OTHER)
    assert taken is not None
    thread.join(timeout=60)
    assert refused.is_set()
    assert not [event for event in bench.journal.events(run=run.id) if event.kind == "late outcome"]
    leave.set()
    wait(bench.journal.in_flight[run.id], timeout=60)
    for _ in range(200):
        late = [event.body for event in bench.journal.events(run=run.id) if event.kind == "late outcome"]
        if late:
            break
        RealClock().sleep(0.05)
    assert [(body["step"], body["event"], body["term"]) for body in late] == [("a", "as wanted", 1)]
    assert bench.journal.view(run.id).steps["a"].state == "running"


def test_a_living_driver_keeps_its_lease_and_a_superseded_one_stops(bench: Bench) -> None:
    """A second driver waits for the lease; the first, once overtaken, can't write."""
    run = begin(bench, chained("a"))
    first = bench.journal.acquire(run.id, ME)
    assert first is not None
    assert not bench.driver().drive(run.id, OTHER).taken
    bench.clock.sleep(60)
    second = bench.journal.acquire(run.id, OTHER)
    assert second is not None
    assert second.term == first.term + 1
    with pytest.raises(Superseded):
        bench.journal.commit(first, [])


def test_a_gone_process_on_this_host_loses_its_lease_at_once(bench: Bench) -> None:
    """Same host and boot, pid gone: no waiting for the lease to run out."""
    run = begin(bench, chained("a"))
    here = present_holder("me")
    gone = Holder("me", here.host, here.boot, 2**22 + 1, "1")
    assert bench.journal.acquire(run.id, gone) is not None
    assert bench.driver().drive(run.id, OTHER).view.result == "succeeded"


def test_expressions_that_fail_fail_their_step(bench: Bench) -> None:
    """A reference to nothing is a failed step with the reason, not a crash."""
    wanted = plan(step("a", given={"name": "${{ steps.zzz.output.id }}"}, retry=Retry(attempts=1)))
    view = bench.driver().drive(begin(bench, wanted).id, ME).view
    assert view.state == "paused"
    assert view.steps["a"].failure is not None


def test_a_lifecycle_fact_the_tables_refuse_fails_its_step(bench: Bench) -> None:
    """Neither lost nor written: the step fails with what was refused, others of the batch are kept."""
    wanted = plan(step("a", "thing.overreach", given={}), step("b"))
    view = bench.driver().drive(begin(bench, wanted).id, ME).view
    assert view.state == "paused"
    assert view.steps["a"].failure is not None
    assert "commit is not allowed" in view.steps["a"].failure.message
    assert view.steps["b"].state == "succeeded"
    assert bench.journal.group("shop").state == "seeding"


@pytest.mark.row(26)
def test_a_run_keeps_the_plan_and_the_group_it_began_with(bench: Bench) -> None:
    """Editing the group's file while a run waits changes nothing in that run, and its digest stays."""
    from dataclasses import replace

    from drpilot.domain.plain import to_plain
    from drpilot.engine.drive import view_group
    from tests.engine.world import GROUP

    wanted = replace(chained("a", "b"), context={"group": to_plain(GROUP), "run": {"drill": False}})
    run = begin(bench, wanted)
    bench.journal.protect(replace(GROUP, cooldown_s=99), "edited", "me")
    view = bench.driver().drive(run.id, ME).view
    assert view.plan == wanted
    assert view.plan.digest == wanted.digest
    assert view_group(view, bench.journal.group("shop").group).cooldown_s == GROUP.cooldown_s
