"""Evidence: what a report says of a run, that its chain verifies, and that it can't be changed unnoticed."""

from __future__ import annotations

import copy
import json
import re
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from drpilot.base.errors import DrpilotError, Finding
from drpilot.domain.fence import Verdict
from drpilot.domain.run import Holder
from drpilot.report import (
    Phase,
    Report,
    Story,
    Totals,
    build,
    gather,
    story_html,
    story_json,
    to_html,
    to_json,
    verify,
)
from tests.services.world import Tiny, failover_plan, replicate_plan

LATER = Holder("lead", "lap-9", "boot-of-another-host", 815, "1")


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """The tiny world with a protected group."""
    world = Tiny(tmp_path)
    world.replicate()
    return world


def report_of(world: Tiny, run: str) -> Report:
    """The report of a run now."""
    return build(gather(world.journal, run), world.clock.now())


def criteria(report: Report) -> dict[str, str]:
    """Criterion → result."""
    return {item.name: item.result for item in report.criteria}


def lost_home(world: Tiny) -> Report:
    """A failover whose source is dead, approved and committed by a second person."""
    world.clock.advance(60)
    died = world.clock.now()
    world.clock.advance(1000)
    world.outside.silent["home"] = "connection refused"
    world.outside.verdict = "unverified"
    world.outside.takes_s = {"tiers/db/launch": 200.0}
    world.journal.saw("home", answers=False, detail="refused", account="111111111111", region="eu-test-1")
    run = world.failover(
        loss_s=61.0, since=died, fence=Verdict.UNVERIFIED, rto_s=90.0, rto_samples=3, approvers=1
    )
    world.journal.post(run.id, "commit", "second", comment="checked by hand")
    world.drive(run)
    return report_of(world, run.id)


@pytest.mark.row(93, 94, 95)
def test_a_failover_is_measured_against_its_objectives(tiny: Tiny) -> None:
    """RTO from the go and from the event, RPO from the last sign of life; each with its method."""
    report = lost_home(tiny)
    rto, event, rpo = (report.measure(name) for name in ("rto", "rto_from_event", "rpo"))
    assert rto is not None and event is not None and rpo is not None
    assert (rto.achieved_s, rto.objective_s, rto.met) == (206.0, 1800.0, True)
    assert event.achieved_s == 1000.0 + 1.0 + 206.0
    assert (rpo.achieved_s, rpo.objective_s, rpo.exact) == (61.0, 900.0, True)
    assert (report.predicted_rto_s, report.predicted_samples) == (90.0, 3)
    assert report.critical_s == 206.0
    assert "tiers/db/launch" in report.critical and "source_seen" not in report.critical


def test_unknown_is_never_taken_for_passed(tiny: Tiny) -> None:
    """A failover at its gate: nothing is achieved yet, so every criterion but the chain is unknown."""
    plan = failover_plan(tiny.newest())
    run = tiny.drive(tiny.begin(plan, tiny.proposal(plan, approvers=2)))
    report = report_of(tiny, run.id)
    assert not report.finished
    rto = report.measure("rto")
    assert rto is not None and (rto.achieved_s, rto.met) == (None, None)
    found = criteria(report)
    assert found["RTO within its objective"] == found["the old side can't write"] == "unknown"
    assert found["the event chain verifies"] == "passed"


def test_an_unverified_fence_is_accepted_by_people_not_passed(tiny: Tiny) -> None:
    """Two persons took the uncertain fence upon themselves: that is what the report says."""
    report = lost_home(tiny)
    assert criteria(report)["the old side can't write"] == "accepted"
    assert [(item.step, item.facts["verdict"]) for item in report.fence if item.action == "fence.apply"] == [
        ("fence", "unverified")
    ]
    assert (report.epoch_before, report.epoch_after) == (1, 2)


def test_a_dead_source_is_no_failed_check(tiny: Tiny) -> None:
    """That home does not answer is recorded as seen, and fails no criterion of the failover."""
    report = lost_home(tiny)
    seen = {item.step: item.ok for item in report.verification}
    assert seen["source_seen"] is False
    assert criteria(report)["every check as expected"] == "passed"


def test_a_missed_objective_fails(tiny: Tiny) -> None:
    """Longer than the objective: the criterion is failed and says by how much."""
    tiny.outside.takes_s = {"tiers/web/launch": 4000.0}
    tiny.failover(loss_s=5000.0, since=tiny.clock.now())
    report = report_of(tiny, "shop")
    found = criteria(report)
    assert (found["RTO within its objective"], found["RPO within its objective"]) == ("failed", "failed")
    detail = {item.name: item.detail for item in report.criteria}
    assert detail["RTO within its objective"] == "1h06m of 30m"


@pytest.mark.row(96)
def test_everybody_with_a_part_is_named(tiny: Tiny) -> None:
    """Requester, approvers with what they accepted, who steered, which controllers drove."""
    report = lost_home(tiny)
    parts = [(item.name, item.part) for item in report.participants if item.part != "drove"]
    assert parts == [("oncall", "requested"), ("oncall", "approved"), ("second", "approved")]
    details = {(item.name, item.part): item.detail for item in report.participants}
    assert "accepted a loss of 61 s" in details["oncall", "approved"]
    assert "checked by hand" in details["second", "approved"]
    sites = {site.role: site for site in report.environment.sites}
    assert (sites["source"].name, sites["source"].account, sites["source"].answers) == (
        "home",
        "111111111111",
        False,
    )


def test_skips_and_take_overs_are_deviations_with_actor_and_reason(tiny: Tiny) -> None:
    """A step fails, a person skips it, another controller goes on: all three are told."""
    tiny.outside.fails.add("tiers/db/launch")
    run = tiny.failover()
    assert run.state == "paused"
    tiny.journal.post(run.id, "skip", "lead", step="tiers/db/launch", comment="done by hand, INC-1")
    house = tiny.fresh(3, LATER)
    house.driver().drive(run.id, house.holder)
    report = report_of(tiny, run.id)
    found = {item.kind: item for item in report.deviations}
    assert (found["failed"].subject, "was told to fail" in found["failed"].reason) == (
        "tiers/db/launch",
        True,
    )
    assert (found["skipped by a person"].actor, "INC-1" in found["skipped by a person"].reason) == (
        "lead",
        True,
    )
    assert found["taken over"].actor.startswith("lead@lap-9")
    assert found["paused"].subject == run.name


def test_a_refused_order_is_a_deviation(tiny: Tiny) -> None:
    """Somebody tried to skip the fence: the refusal and its reason stay."""
    plan = failover_plan(tiny.newest())
    run = tiny.drive(tiny.begin(plan, tiny.proposal(plan, approvers=2)))
    tiny.journal.post(run.id, "skip", "lead", step="fence", comment="quick")
    tiny.drive(run)
    refused = [item for item in report_of(tiny, run.id).deviations if item.kind == "skip refused"]
    assert [(item.actor, "never skipped" in item.reason) for item in refused] == [("lead", True)]


def test_a_drill_says_what_it_proved(tiny: Tiny) -> None:
    """Isolation, age of the point, clean-up and who proved it."""
    tiny.clock.advance(300)
    run = tiny.drill()
    report = report_of(tiny, run.id)
    assert report.environment.isolated is True
    assert report.point is not None
    assert (report.point.proven_by, report.point.age_s, report.point.window_s) == (run.name, 301.0, 0.5)
    rpo = report.measure("rpo")
    assert rpo is not None and rpo.achieved_s == 301.0
    assert report.left_over == ()
    assert set(criteria(report).values()) == {"passed"}


def test_a_red_drill_says_expected_and_observed_and_did_not_reach_its_time(tiny: Tiny) -> None:
    """Failed at a check: the RTO criterion is failed, not unknown; the clean-up still tells that nothing is left."""
    tiny.outside.fails.add("tiers/web/healthy")
    run = tiny.drill()
    report = report_of(tiny, run.id)
    found = criteria(report)
    assert (found["the run ended well"], found["RTO within its objective"]) == ("failed", "failed")
    assert found["nothing left behind"] == "passed"
    bad = [item for item in report.verification if not item.ok]
    assert [(item.step, item.expected, item.observed) for item in bad] == [
        ("tiers/web/healthy", "an answer", "503")
    ]


def test_what_a_clean_up_left_is_listed(tiny: Tiny) -> None:
    """The step that failed says which things are left."""
    tiny.outside.fails.add("clean/nothing_left")
    run = tiny.drill()
    assert run.state == "clean_failed"
    report = report_of(tiny, run.id)
    assert report.left_over == ("i-1", "vol-2")
    assert criteria(report)["nothing left behind"] == "failed"


def test_a_replication_has_no_recovery_time(tiny: Tiny) -> None:
    """What recovers nothing is not measured by RTO."""
    report = report_of(tiny, "shop/1")
    assert report.measured == ()
    assert "RTO within its objective" not in criteria(report)


def test_findings_open_now_are_carried(tiny: Tiny) -> None:
    """With code and since when."""
    tiny.journal.found("shop", [Finding("drift", "warning", "a machine changed")])
    assert [(item.code, item.message) for item in report_of(tiny, "shop/1").findings] == [
        ("DRP-2110", "a machine changed")
    ]


# -- the chain ------------------------------------------------------------------------------------------------


def written(report: Report) -> dict[str, Any]:
    """The report as it comes back from a file."""
    return json.loads(json.dumps(to_json(report)))


def test_a_written_report_verifies_by_itself(tiny: Tiny) -> None:
    """Nothing but the file is needed; the head is the journal's."""
    report = lost_home(tiny)
    found = verify(written(report))
    events = tiny.journal.events(run=report.id)
    assert (found.head, found.events, found.finished) == (events[-1].hash, len(events), True)


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The written report of a failover, made once; tests change copies of it."""
    world = Tiny(tmp_path_factory.mktemp("paper"))
    world.replicate()
    return written(lost_home(world))


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("change", ["actor", "body", "at_us", "hash", "gone", "swapped"])
@pytest.mark.row(98)
def test_no_change_to_an_event_goes_unnoticed(paper: dict[str, Any], place: str, change: str) -> None:
    """Whatever is changed, removed or swapped anywhere: the chain breaks."""
    document = copy.deepcopy(paper)
    log = document["evidence"]["log"]
    index = {"first": 0, "middle": len(log) // 2, "last": len(log) - 1}[place]
    match change:
        case "actor":
            log[index]["actor"] = "somebody else"
        case "body":
            log[index]["body"]["reason"] = "it was planned"
        case "at_us":
            log[index]["at_us"] += 1
        case "hash":
            log[index]["hash"] = "0" * 64
        case "gone":
            del log[index]
        case _:
            other = index - 1 if index else 1
            log[index], log[other] = log[other], log[index]
    with pytest.raises(DrpilotError) as caught:
        verify(document)
    assert caught.value.word == "chain-broken"


@pytest.mark.parametrize(
    ("key", "value"), [("result", "succeeded_with_warnings"), ("state", "running"), ("plan_digest", "0" * 64)]
)
def test_a_report_that_contradicts_its_events_is_refused(paper: dict[str, Any], key: str, value: str) -> None:
    """A prettier result than the events tell is found out."""
    document = copy.deepcopy(paper)
    document[key] = value
    with pytest.raises(DrpilotError) as caught:
        verify(document)
    assert caught.value.word == "chain-broken"


def test_a_cut_off_tail_with_a_new_head_is_found_out(paper: dict[str, Any]) -> None:
    """Dropping the last events and rewriting head and count still contradicts the state."""
    document = copy.deepcopy(paper)
    evidence = document["evidence"]
    evidence["log"] = evidence["log"][:-3]
    evidence["events"], evidence["head"] = len(evidence["log"]), evidence["log"][-1]["hash"]
    with pytest.raises(DrpilotError):
        verify(document)


@pytest.mark.parametrize("document", [{}, {"drpilot_report": 1}, {"drpilot_report": 2, "evidence": {}}])
def test_what_is_no_report_is_said_to_be_none(document: dict[str, Any]) -> None:
    """Some other JSON file."""
    with pytest.raises(DrpilotError) as caught:
        verify(document)
    assert caught.value.word == "wrong-value"


@pytest.mark.parametrize("damage", [{"evidence": {}}, {"evidence": {"chain": "x", "log": [{}]}}])
def test_a_damaged_report_is_no_traceback(paper: dict[str, Any], damage: dict[str, Any]) -> None:
    """Keys are missing: an error of the catalogue all the same."""
    document = copy.deepcopy(paper) | damage
    with pytest.raises(DrpilotError):
        verify(document)


def test_a_broken_journal_is_reported_as_such(tiny: Tiny) -> None:
    """An event changed in the journal: the report is still made, says so, and fails the criterion."""
    material = gather(tiny.journal, "shop/1")
    events = list(material.events)
    events[2] = type(events[2])(
        **{**{f: getattr(events[2], f) for f in events[2].__slots__}, "actor": "nobody"}
    )
    report = build(type(material)(material.view, events, material.attempts, material.group), tiny.clock.now())
    assert not report.evidence.verified
    assert criteria(report)["the event chain verifies"] == "failed"
    assert "broken at event 3" in report.evidence.problem


def test_building_is_pure(tiny: Tiny) -> None:
    """The same material and time give the same report, and writing it changes nothing in the journal."""
    tiny.drill()
    material, now = gather(tiny.journal, "shop/2"), tiny.clock.now()
    before = len(tiny.journal.events())
    assert to_json(build(material, now)) == to_json(build(material, now))
    assert len(tiny.journal.events()) == before


# -- pages ----------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Reads a page strictly enough to see an unclosed element, and collects what it would fetch."""

    VOID = frozenset({"meta", "br", "link", "img", "rect", "line", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_stands_alone(tiny: Tiny) -> None:
    """Well-formed, no script, nothing fetched from anywhere, drawings inline."""
    text = to_html(lost_home(tiny))
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags and page.links == []
    assert not re.search(r"https?://|url\(|@import", text)
    assert page.tags.count("svg") >= 2
    assert "Failover shop/" in page.text and "taken upon themselves" in page.text


def test_drawings_are_valid_svg_with_a_bar_for_each_step_that_began(tiny: Tiny) -> None:
    """Every inline SVG parses as XML; the timeline has one bar a step and stays inside its box."""
    report = lost_home(tiny)
    drawings = re.findall(r"<svg.*?</svg>", to_html(report), flags=re.DOTALL)
    trees = [ET.fromstring(text) for text in drawings]
    timeline = next(tree for tree in trees if tree.get("aria-label") == "timeline of the steps")
    bars = timeline.findall("g/rect")
    assert len(bars) == len([step for step in report.steps if step.started_at])
    width = float(timeline.get("viewBox", "").split()[2])
    assert all(
        float(bar.get("x", "-1")) >= 0 and float(bar.get("x", "")) + float(bar.get("width", "")) <= width
        for bar in bars
    )


def test_what_people_typed_can_not_break_the_page(tiny: Tiny) -> None:
    """A reason with markup is text."""
    plan = replicate_plan(tiny.journal.new_id())
    run = tiny.drive(tiny.begin(plan, reason="<script>alert(1)</script> & <b>"))
    text = to_html(report_of(tiny, run.id))
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_report_of_a_live_run_says_so(tiny: Tiny) -> None:
    """At any time, also before anything began."""
    run = tiny.begin(replicate_plan(tiny.journal.new_id()))
    report = report_of(tiny, run.id)
    assert not report.finished
    assert "Not finished" in to_html(report)
    assert verify(written(report)).finished is False


def story(world: Tiny, **totals: Any) -> Story:
    """A story of two phases."""
    reports = (report_of(world, "shop/1"), lost_home(world))
    facts = {
        "rto_seconds": 9.8,
        "rpo_seconds": 21.0,
        "rto_objective_seconds": 1800.0,
        "rpo_objective_seconds": 900.0,
    }
    rest = {"data_verified": True, "duplicates": 0, "leftovers": 0}
    phases = (
        Phase(1, "replicate", "ok", 6.0, "3 standbys", "shop/1"),
        Phase(2, "home dies", "-", 0.0, "refused"),
    )
    return Story("demo", world.clock.now(), phases, Totals(**{**facts, **rest, **totals}), reports)


def test_a_story_puts_runs_on_one_page(tiny: Tiny) -> None:
    """Phases, totals, and each run with its criteria; the JSON carries what scripts ask for."""
    told = story(tiny)
    page = Page(story_html(told))
    assert page.open == [] and page.links == ["#shop-1"]
    for text in ("home dies", "9.8s", "verified", "0 / 0", "Failover shop/2"):
        assert text in page.text
    shown = json.loads(json.dumps(story_json(told, report="report.html")))
    assert (shown["result"], shown["rto_seconds"], shown["leftovers"], shown["report"]) == (
        "ok",
        9.8,
        0,
        "report.html",
    )
    assert [phase["seconds"] for phase in shown["phases"]] == [6.0, 0.0]
    assert all(verify(run) for run in shown["runs"])


@pytest.mark.parametrize(
    "totals",
    [
        {"data_verified": False},
        {"data_verified": None},
        {"duplicates": 1},
        {"leftovers": 2},
        {"leftovers": None},
    ],
)
def test_a_story_is_ok_only_when_everything_is_known_to_be(tiny: Tiny, totals: dict[str, Any]) -> None:
    """Wrong or unknown data, a duplicate, a thing left over: not ok."""
    assert story(tiny, **totals).result == "failed"


def test_a_run_that_lasts_is_drawn_to_now(tiny: Tiny) -> None:
    """A step that still waits has a bar up to the moment of the report."""
    plan = failover_plan(tiny.newest())
    run = tiny.drive(tiny.begin(plan, tiny.proposal(plan, approvers=2)))
    material, now = gather(tiny.journal, run.id), tiny.clock.now() + timedelta(hours=1)
    assert "waiting" in to_html(build(material, now))
