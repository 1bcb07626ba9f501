"""What the journal says, now: rows, ages, predictions, problems and the next command."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drpilot.base.errors import DrpilotError, Finding
from drpilot.domain.ports import Move
from drpilot.domain.run import Holder
from drpilot.domain.states import FAMILIES
from drpilot.services.conditions import NAMES, Facts, assess, health_moves
from drpilot.services.firing import previous_fire
from drpilot.services.grouppage import group_page
from drpilot.services.guidance import RULES, Situation, next_command
from drpilot.services.liverun import live_run
from drpilot.services.prediction import forecast, p75, predict, stuck
from drpilot.services.status import as_json, overview, read
from tests.services.world import GROUP, Tiny, drill_plan, failover_plan, replicate_plan

ELSEWHERE = Holder("oncall", "lap-17", "boot-of-another-host", 4711, "1")


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """The tiny world with one protected group that has a point and standbys."""
    world = Tiny(tmp_path)
    world.replicate()
    return world


def row(world: Tiny):
    """The group's row now."""
    return overview(read(world.journal), world.clock.now()).rows[0]


# -- rows ---------------------------------------------------------------------------------------------------


def test_a_group_without_a_point_says_that_nobody_knows(tmp_path: Path) -> None:
    """Seeding: no age, no prediction, no drill, and none of it is taken for a number."""
    seen = row(Tiny(tmp_path))
    assert (seen.state, seen.point, seen.point_age_s, seen.rpo_met, seen.drill) == (
        "seeding",
        None,
        None,
        None,
        None,
    )
    assert (seen.failing_now.rto_s, seen.failing_now.rpo_s, seen.standby_ready) == (None, None, 0)
    assert seen.next == "drpilot replicate shop"


def test_the_row_tells_the_age_of_the_point_and_the_standbys(tiny: Tiny) -> None:
    """A protected group: its newest point with its age, standbys counted on the other side."""
    tiny.clock.advance(300)
    seen = row(tiny)
    point = tiny.journal.points("shop")[0]
    assert point.captured_at is not None
    assert (seen.state, seen.point, seen.standby_ready, seen.standby_of) == ("protected", point.id, 2, 2)
    assert seen.point_age_s == (tiny.clock.now() - point.captured_at).total_seconds() > 300
    assert seen.rpo_met is True
    assert seen.failing_now.rpo_s == seen.point_age_s
    assert seen.failing_now.rpo_exact is False


def test_a_late_point_misses_the_objective(tiny: Tiny) -> None:
    """Older than the RPO: the problem is named, and check is next."""
    tiny.clock.advance(901)
    seen = row(tiny)
    assert seen.rpo_met is False
    assert "RpoMet" in {problem.word for problem in seen.problems}


def test_with_the_active_side_silent_the_loss_counts_to_its_last_sign_of_life(tiny: Tiny) -> None:
    """RPO is exact once home is known to be dead: later time is no loss."""
    tiny.clock.advance(100)
    tiny.journal.saw("home", answers=True)
    died = tiny.clock.now()
    tiny.clock.advance(500)
    tiny.journal.saw("home", answers=False, detail="connection refused")
    tiny.clock.advance(60)
    seen = row(tiny)
    point = tiny.journal.points("shop")[0]
    assert point.captured_at is not None
    assert seen.failing_now.rpo_s == (died - point.captured_at).total_seconds()
    assert (seen.failing_now.rpo_exact, seen.failing_now.since) == (True, died)
    assert seen.next == 'drpilot failover shop --reason "…"'


def test_sites_carry_the_age_of_their_last_look(tiny: Tiny) -> None:
    """A look is told with its age, and since when a site is silent."""
    tiny.journal.saw("home", answers=True)
    tiny.journal.saw("away", answers=False, detail="refused")
    tiny.clock.advance(14)
    home, away = sorted(
        overview(read(tiny.journal), tiny.clock.now()).sites, key=lambda s: s.name, reverse=True
    )
    assert (home.looked_age_s, home.answers, home.silent_s) == (14.0, True, None)
    assert (away.answers, away.silent_s) == (False, 14.0)


def test_the_overview_ends_with_services_and_what_is_due(tiny: Tiny) -> None:
    """Living services and schedules with the time left; a service without a heartbeat is not alive."""
    tiny.journal.heartbeat("one", tiny.house.holder)
    tiny.journal.plan_next("shop", "replicate", tiny.clock.now() + timedelta(seconds=90))
    seen = overview(read(tiny.journal), tiny.clock.now())
    assert [service.host for service in seen.services] == [tiny.house.holder.host]
    assert [(due.kind, due.in_s) for due in seen.next_due] == [("replicate", 90.0)]
    tiny.clock.advance(60)
    assert overview(read(tiny.journal), tiny.clock.now()).services == ()


def test_status_never_asks_a_cloud(tiny: Tiny) -> None:
    """The tiny world's sites raise when touched: reading and rendering everything touches none."""
    tiny.drill()
    known = read(tiny.journal, "shop")
    assert overview(known, tiny.clock.now()).rows
    assert group_page(known, tiny.clock.now()).runs
    with pytest.raises(AssertionError, match="no site"):
        tiny.house.site("home")


def test_json_has_utc_times_and_numbers(tiny: Tiny) -> None:
    """Times are RFC 3339 with Z, durations numbers, and the whole is one JSON document."""
    shown = json.loads(json.dumps(as_json(overview(read(tiny.journal), tiny.clock.now()))))
    seen = shown["rows"][0]
    assert seen["point_at"].endswith("Z")
    assert isinstance(seen["point_age_s"], float)
    assert seen["drill"] is None


def test_an_unknown_group_is_an_error_of_the_catalogue(tiny: Tiny) -> None:
    """Status of a group nobody protected."""
    with pytest.raises(DrpilotError) as caught:
        read(tiny.journal, "warehouse")
    assert caught.value.word == "unknown-group"


# -- live runs ------------------------------------------------------------------------------------------------


def test_a_run_nobody_drives_says_who_did_and_when(tiny: Tiny) -> None:
    """The driver on another machine fell silent: its name, when it was last seen, and how to take over."""
    run = tiny.begin(replicate_plan(tiny.journal.new_id()))
    assert tiny.journal.acquire(run.id, ELSEWHERE) is not None
    tiny.clock.advance(5)
    assert row(tiny).live[0].driven is True
    tiny.clock.advance(36)
    seen = row(tiny)
    live = seen.live[0]
    assert live.driven is False
    assert live.driver_seen_age_s == 41.0
    assert "nobody drives it: oncall on lap-17, last seen" in live.text
    assert "(41s ago)" in live.text
    assert seen.next == f"drpilot run resume {run.name}"
    assert seen.problems[0].word == "NobodyDrives"


def test_a_driver_whose_process_is_gone_does_not_drive(tiny: Tiny) -> None:
    """On this host the lease need not run out: the process is looked for."""
    run = tiny.begin(replicate_plan(tiny.journal.new_id()))
    tiny.journal.acquire(run.id, replace(tiny.house.holder, started="0"))
    assert row(tiny).live[0].driven is False


def test_a_run_that_waits_for_a_person_needs_no_driver(tiny: Tiny) -> None:
    """At a gate nobody drives, and nothing is wrong: step k of n says where it stands."""
    plan = failover_plan(tiny.newest())
    run = tiny.drive(tiny.begin(plan, tiny.proposal(plan, approvers=2)))
    seen = row(tiny)
    assert (run.state, seen.live[0].driven) == ("waiting", True)
    assert (seen.live[0].step, seen.live[0].k, seen.live[0].n) == ("go", 2, len(plan.steps))
    assert seen.next == "drpilot run approve shop"
    assert "NobodyDrives" not in {problem.word for problem in seen.problems}


def test_a_failover_rests_at_its_commit(tiny: Tiny) -> None:
    """After the forward path the next command is the commit."""
    tiny.failover(loss_s=5.0)
    assert row(tiny).next == "drpilot commit shop"


def test_a_failed_step_of_a_move_is_named_with_its_reason(tiny: Tiny) -> None:
    """Paused at the failed step: the problem line carries the step and why; retry is next."""
    tiny.outside.fails.add("tiers/db/launch")
    assert tiny.failover().state == "paused"
    seen = row(tiny)
    text = next(problem.text for problem in seen.problems if problem.word == "Paused")
    assert "tiers/db/launch" in text and "was told to fail" in text
    assert (seen.state, seen.next) == ("failing_over", "drpilot run retry shop")


def test_a_drill_that_went_red_is_the_next_thing_to_read(tiny: Tiny) -> None:
    """A failed drill shows in the row, in the problems and in the next command."""
    tiny.outside.fails.add("tiers/web/healthy")
    run = tiny.drill()
    seen = row(tiny)
    assert seen.drill is not None
    assert (seen.drill.passed, seen.drill.run, seen.next) == (
        False,
        run.name,
        f"drpilot report show {run.name}",
    )


# -- the next command -----------------------------------------------------------------------------------------


def test_every_state_has_a_next_command() -> None:
    """The table names each state of the lifecycle, and its last rule always holds."""
    assert set(RULES) == set(FAMILIES["group"].words)
    for state in FAMILIES["group"].words:
        command = next_command(Situation("shop", state, "home", "away"))
        assert command.startswith("drpilot ")
        assert "{" not in command and "<" not in command


S = Situation("shop", "protected", "home", "away")
MOVE = (("move", "shop/7"),)


@pytest.mark.parametrize(
    ("situation", "command"),
    [
        (replace(S, state="seeding"), "drpilot replicate shop"),
        (replace(S, state="seeding", copy="running", runs=(("copy", "shop/1"),)), "drpilot run watch shop/1"),
        (replace(S, drill="passed"), "drpilot check shop"),
        (S, "drpilot drill shop"),
        (replace(S, drill="failed", drill_name="shop/9"), "drpilot report show shop/9"),
        (replace(S, active_answers=False, has_point=True), 'drpilot failover shop --reason "…"'),
        (replace(S, active_answers=False, has_point=True, locked=True), "drpilot group unlock shop"),
        (replace(S, standing_answers=False), "drpilot site check away"),
        (replace(S, practice="clean_failed", runs=(("practice", "shop/4"),)), "drpilot run retry shop/4"),
        (replace(S, state="degraded"), "drpilot check shop"),
        (replace(S, state="degraded", rpo_met=False, active_answers=True), "drpilot replicate shop"),
        (replace(S, state="failing_over", move="running", runs=MOVE), "drpilot run watch shop"),
        (
            replace(S, state="failing_over", move="running", runs=MOVE, orphaned="shop/7"),
            "drpilot run resume shop",
        ),
        (replace(S, state="failing_over", move="waiting", runs=MOVE), "drpilot run approve shop"),
        (
            replace(S, state="switching_over", move="paused", runs=MOVE, failed_step="x"),
            "drpilot run retry shop",
        ),
        (replace(S, state="rolling_back", move="paused", runs=MOVE), "drpilot run resume shop"),
        (replace(S, state="reprotecting"), "drpilot reprotect shop"),
        (replace(S, state="failing_over"), "drpilot report show shop"),
        (replace(S, state="awaiting_commit", move="awaiting_commit", runs=MOVE), "drpilot commit shop"),
        (replace(S, state="active_unprotected", standing_fence="unverified"), "drpilot fence shop"),
        (replace(S, state="active_unprotected", standing_fence="fenced"), "drpilot reprotect shop"),
        (replace(S, state="active_unprotected", standing_answers=False), "drpilot site check away"),
        (
            replace(S, state="split_suspected"),
            'drpilot fence shop --survivor home|away --reason "what you saw"',
        ),
        (replace(S, state="split_suspected", move="waiting", runs=MOVE), "drpilot run approve shop"),
        (replace(S, state="needs_decision"), "drpilot run show shop"),
        (replace(S, state="retired"), "drpilot protect FILE"),
        (
            replace(S, state="failing_over", move="paused", runs=MOVE, unknown_step="tiers/db/grow"),
            'drpilot run settle shop --step tiers/db/grow --happened yes|no --reason "what you saw"',
        ),
    ],
)
def test_the_next_command_follows_from_the_situation(situation: Situation, command: str) -> None:
    """One pure function, one table."""
    assert next_command(situation) == command


# -- predictions ----------------------------------------------------------------------------------------------


def test_p75_is_a_value_that_was_measured() -> None:
    """Nearest rank: the third of four, the only one of one."""
    assert (p75([4.0, 1.0, 3.0, 2.0]), p75([7.0]), p75([1.0, 9.0])) == (3.0, 7.0, 9.0)


def test_without_a_drill_nothing_is_predicted(tiny: Tiny) -> None:
    """No sample, no number."""
    assert predict(failover_plan("p"), tiny.journal.runs("shop")) == (None, 0)


def test_a_failover_is_predicted_from_what_drills_measured(tiny: Tiny) -> None:
    """p75 of each step's past durations along the critical path; failed drills and clean-up teach nothing."""
    for seconds in (60.0, 20.0, 40.0):
        tiny.outside.takes_s = {"tiers/db/launch": seconds, "clean/nothing_left": 900.0}
        tiny.drill()
    tiny.outside.takes_s = {"tiers/db/launch": 5000.0}
    tiny.outside.fails = {"prove"}
    tiny.drill()
    found = forecast(failover_plan("p"), tiny.journal.runs("shop"))
    assert found.samples == 3
    # launch 60 (p75 of 60, 20, 40) and three checks and launches of one second; claim, fence and traffic unknown
    assert found.critical == ("tiers/db/launch", "tiers/db/healthy", "tiers/web/launch", "tiers/web/healthy")
    assert found.unmeasured == ("claim", "fence", "traffic")
    renamed = replace(failover_plan("p").steps[9], path="nothing_left")
    taught = forecast(
        replace(failover_plan("p"), steps=(*failover_plan("p").steps[:9], renamed)), tiny.journal.runs("shop")
    )
    assert "nothing_left" in taught.unmeasured
    # the first drill took 65 s as a whole: a prediction with unmeasured steps is never below p75 of the wholes
    assert (found.rto_s, found.standing) == (65.0, "partly measured")


def test_a_failover_measures_what_a_drill_can_not(tiny: Tiny) -> None:
    """After one failover every step is measured, and a new tier learns from the others by its path's end."""
    tiny.outside.takes_s = {"tiers/db/launch": 30.0}
    tiny.drill()
    tiny.failover()
    plan = failover_plan("p")
    found = forecast(plan, tiny.journal.runs("shop"))
    assert (found.standing, found.samples, found.rto_s) == ("measured", 2, 36.0)
    renamed = tuple(
        replace(
            s,
            path=s.path.replace("/web/", "/cache/"),
            needs=tuple(n.replace("/web/", "/cache/") for n in s.needs),
        )
        for s in plan.steps
    )
    learnt = forecast(replace(plan, steps=renamed), tiny.journal.runs("shop"))
    assert learnt.unmeasured == ()
    assert learnt.rto_s is not None and learnt.rto_s > found.rto_s


def test_parallel_steps_are_not_added_up(tiny: Tiny) -> None:
    """The critical path is the longest chain, not the sum."""
    tiny.outside.takes_s = {"tiers/db/launch": 60.0, "tiers/web/launch": 50.0}
    tiny.drill()
    plan = drill_plan("p")
    beside = tuple(
        replace(s, needs=("isolated",)) if s.path == "tiers/web/launch" else
        replace(s, needs=("tiers/db/healthy", "tiers/web/healthy")) if s.path == "prove" else s
        for s in plan.steps
    )  # fmt: skip
    rto_s, _ = predict(replace(plan, steps=beside), tiny.journal.runs("shop"))
    assert rto_s == 63.0  # isolated 1, db launch 60, healthy 1, prove 1; web's 51 s run beside it


@pytest.mark.row(58)
def test_a_step_that_takes_much_longer_than_usual_is_stuck(tiny: Tiny) -> None:
    """Three times p75 of the same mode's past durations; within it nothing is said."""
    for _ in range(3):
        tiny.outside.takes_s = {"standby": 20.0}
        tiny.replicate()
    tiny.outside.hold = threading.Event()
    run = tiny.begin(replicate_plan(tiny.journal.new_id()))
    stop = tiny.house.stop
    driver = threading.Thread(target=tiny.drive, args=(run,))
    driver.start()
    try:
        while tiny.journal.view(run.id).steps["capture"].state != "running":
            stop.wait(0.01)
        view, past = tiny.journal.view(run.id), tiny.journal.runs("shop")
        now = tiny.clock.now()
        assert stuck(view, past, now + timedelta(seconds=9)) == ()
        found = stuck(view, past, now + timedelta(seconds=60))
        assert [item.path for item in found] == ["capture"]
        assert "usually 1s" in live_run(view, past, now + timedelta(seconds=60)).notes[0]
    finally:
        tiny.outside.hold.set()
        driver.join()


# -- conditions -----------------------------------------------------------------------------------------------


def judged(world: Tiny, **more: object) -> dict[str, object]:
    """Conditions by name → value."""
    sites = {site.name: site for site in world.journal.sites()}
    runs = [run for run in world.journal.runs("shop") if run.mode == "drill"]
    facts = Facts(
        world.journal.group("shop"),
        world.journal.points("shop"),
        world.journal.standbys("shop"),
        sites,
        runs,
        world.journal.events(run="group:shop"),
    )
    return {item.name: item.value for item in assess(facts, world.clock.now())}


def test_unknown_is_not_false(tiny: Tiny) -> None:
    """What nobody looked at is None; what was never drilled is known to be so."""
    seen = judged(tiny)
    assert tuple(seen) == NAMES
    assert seen == {
        "RpoMet": True,
        "StandbyReady": True,
        "DrillFresh": False,
        "PeerReachable": None,
        "Fenced": None,
        "PlanVerified": None,
    }


def test_conditions_follow_what_is_seen(tiny: Tiny) -> None:
    """Both sites answer, a drill passed; then the group file changes and the plan is no longer proven."""
    tiny.journal.saw("home", answers=True)
    tiny.journal.saw("away", answers=True)
    tiny.drill()
    assert judged(tiny)["PeerReachable"] is True
    assert (judged(tiny)["DrillFresh"], judged(tiny)["PlanVerified"]) == (True, True)
    tiny.clock.advance(1)
    tiny.journal.protect(GROUP, "# changed", "tester")
    assert judged(tiny)["PlanVerified"] is None
    tiny.journal.saw("away", answers=False, detail="refused")
    assert judged(tiny)["PeerReachable"] is False


def test_a_drill_is_fresh_until_the_next_one_is_missed(tiny: Tiny) -> None:
    """Weekly on Sunday 03:00 Rome: the Sunday after, it is missed only once its time to run is over."""
    tiny.drill()
    tiny.clock.advance(6 * 86_400)
    assert judged(tiny)["DrillFresh"] is True
    sunday = datetime(2026, 11, 29, 2, 0, tzinfo=UTC)
    tiny.clock.advance((sunday - tiny.clock.now()).total_seconds() + 600)
    assert judged(tiny)["DrillFresh"] is True
    tiny.clock.advance(7200)
    assert judged(tiny)["DrillFresh"] is False


def test_previous_fire_is_the_newest_before_now() -> None:
    """At the moment itself it counts."""
    at = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
    assert previous_fire("0 3 * * sun", "Europe/Rome", at) == at
    assert previous_fire("0 3 * * sun", "Europe/Rome", at - timedelta(seconds=1)) == at - timedelta(days=7)


def test_a_group_degrades_only_after_one_interval(tiny: Tiny) -> None:
    """Hysteresis: false for a moment changes nothing, false for a replication interval degrades, and so back."""

    def settle(value: bool) -> tuple[Move, ...]:
        for name in ("RpoMet", "StandbyReady"):
            tiny.journal.set_condition("shop", name, value, "a test")
        return health_moves(tiny.journal.group("shop"), tiny.clock.now())

    assert settle(True) == ()
    assert settle(False) == ()
    tiny.clock.advance(599)
    assert settle(False) == ()
    tiny.clock.advance(1)
    moves = settle(False)
    assert [move.event for move in moves] == ["degrade"]
    tiny.journal.change("shop", moves, "tester")
    assert tiny.journal.group("shop").state == "degraded"
    assert settle(True) == ()
    tiny.clock.advance(600)
    assert [move.event for move in settle(True)] == ["recover"]


# -- the page of one group ------------------------------------------------------------------------------------


def test_the_page_of_a_group_shows_all_there_is(tiny: Tiny) -> None:
    """Conditions with reasons, points with who proved them, runs, fences, findings, locks."""
    drill = tiny.drill()
    tiny.journal.found("shop", [Finding("drift", "warning", "a machine changed", hint="look")])
    tiny.journal.set_condition("shop", "RpoMet", True, "looked at live")
    tiny.clock.advance(30)
    tiny.journal.lock("shop", "lead", "audit")
    tiny.journal.change("shop", [Move("fence", "home", "request")], "tester")
    page = group_page(read(tiny.journal, "shop"), tiny.clock.now())
    conditions = {item.name: item for item in page.conditions}
    assert (conditions["RpoMet"].reason, conditions["RpoMet"].looked_age_s) == ("looked at live", 30.0)
    assert (conditions["Locked"].value, conditions["Locked"].reason) == (True, "by lead: audit")
    assert [(point.state, point.proven_by) for point in page.points] == [("proven", drill.name)]
    assert [run.name for run in page.runs] == ["shop/2", "shop/1"]
    assert [(fence.site, fence.state) for fence in page.fences] == [("home", "requested")]
    assert [finding.word for finding in page.findings] == ["drift"]
    assert {(standby.tier, standby.state) for standby in page.standbys} == {("db", "ready"), ("web", "ready")}
    json.dumps(as_json(page))
