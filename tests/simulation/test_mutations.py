"""Each protection is taken out once, and what is there to find that does: seeds of the simulation, else named tests.

The list of the protections is `PROTECTIONS`; each has a test here, and no test is of another one.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from drpilot.actions import cleanup, epoch
from drpilot.actions.catalogue import CATALOGUE
from drpilot.domain.fence import Claim
from drpilot.domain.ports import CloudError, Done, Idempotency
from drpilot.domain.run import Intent
from drpilot.engine import drive
from drpilot.engine.tenure import Tenure
from drpilot.journal.apply import Writer
from drpilot.journal.journal import Journal
from drpilot.services import begin
from tests.crash.zygote import blinded, call_now
from tests.engine.world import Bench
from tests.journal import test_journal as of_the_journal
from tests.simulation import ground as grounds
from tests.simulation.play import play
from tests.simulation.stage import ground

pytestmark = pytest.mark.crash

STALLED = ("stalled past its lease",)
PROTECTIONS = {
    "intent commit": "test_acting_before_the_intent_is_found",
    "fence check before a call": "test_calls_that_are_not_asked_about_are_found",
    "fence check in the journal": "test_a_journal_without_terms_is_found",
    "observe before repeat": "test_repeating_without_looking_is_found",
    "lane slot": "test_a_missing_lane_slot_is_found",
    "epoch check": "test_a_claim_over_another_one_is_found",
    "drill clean-up": "test_a_drill_that_cleans_nothing_up_is_found",
    "pin of points in use": "test_a_point_in_use_that_may_expire_is_found",
}
"""What must not be taken out, and the test that takes it out."""


def found(story: str, seeds: Sequence[int], only: Sequence[str], word: str) -> list[str]:
    """What the first of the seeds that finds something with `word` in it says."""
    for seed in seeds:
        said = [text for text in play(ground(), seed, story, only=only).violations if word in text]
        if said:
            return said
    return []


def test_acting_before_the_intent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Acted first and written down afterwards: a call goes out that no durable intent knows."""
    write = drive._Loop._write

    def late(self: Any, view: Any, decision: Any) -> bool:
        for change in decision.changes:
            if isinstance(change, Intent) and CATALOGUE[change.action].effect.value == "create":
                try:
                    call_now(self.driver, self.lease, change)
                except CloudError:
                    continue
        return write(self, view, decision)

    monkeypatch.setattr(drive._Loop, "_write", late)
    assert found("failover", range(3), (), "without an intent")


def test_repeating_without_looking_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks after a lost reply or a lost driver: something exists twice."""
    blind = {
        name: blinded(action) if action.idempotency is Idempotency.OBSERVE else action
        for name, action in CATALOGUE.items()
    }
    monkeypatch.setattr(grounds, "CATALOGUE", blind)
    assert found("replicate", range(6), ("reply lost", "killed after a call"), "twice")


def _without_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two moves of one group may live at once."""
    restore = grounds.Ground.restore

    def loosened(self: grounds.Ground) -> None:
        restore(self)
        with sqlite3.connect(self.journal_file) as journal:
            names = journal.execute(
                "SELECT name FROM sqlite_master WHERE type='index' AND tbl_name='run' AND sql LIKE '%UNIQUE%'"
            ).fetchall()
            assert names
            for (name,) in names:
                journal.execute(f'DROP INDEX "{name}"')
        journal.close()

    monkeypatch.setattr(grounds.Ground, "restore", loosened)
    monkeypatch.setattr(Journal, "_guard_create", lambda *_: None)
    monkeypatch.setattr(begin, "_guard", lambda *_: None)


def test_a_missing_lane_slot_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another operator begins a second move beside the first."""
    _without_slot(monkeypatch)
    assert found("failover", (1, 2, 0), ("another operator",), "lived at once")


def test_every_protection_is_taken_out_once() -> None:
    """The list is whole: as many tests that take something out as there are protections."""
    tests = {name for name in vars(sys.modules[__name__]) if name.startswith("test_") and "found" in name}
    assert tests == set(PROTECTIONS.values())


def test_calls_that_are_not_asked_about_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that stood still past its lease sends its call after another drives: something exists twice."""
    monkeypatch.setattr(Tenure, "permit", lambda self: None)
    assert found("replicate", (1,), STALLED, "twice")


def test_a_journal_without_terms_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever lost the run goes on writing it, and calling under it."""
    monkeypatch.setattr(Journal, "_held", lambda self, session, lease: True)
    assert found("replicate", (1,), STALLED, "twice")


def test_a_claim_over_another_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller with another journal has claimed the epoch: a failover that does not look takes it away from it."""
    theirs = {
        "drpilot": 1,
        "group": grounds.GROUP,
        "epoch": 7,
        "active": "away",
        "run": "theirs",
        "previous": "home",
    }
    restore = grounds.Ground.restore

    def claimed(self: grounds.Ground) -> None:
        restore(self)
        given = {
            "Bucket": grounds.BUCKET,
            "Key": f"{grounds.GROUP}.json",
            "Body": json.dumps(theirs).encode(),
        }
        self.clouds["edge"].invoke("s3", "PutObject", given)

    def taken(current: Claim | None, *, group: str, source: str, target: str, run: str) -> Claim:
        return Claim(group, (current.epoch if current is not None else 1) + 1, target, run, source)

    monkeypatch.setattr(grounds.Ground, "restore", claimed)
    monkeypatch.setattr(epoch, "claimed", taken)
    assert found("failover", (0,), (), "took the claim of theirs")


def test_a_drill_that_cleans_nothing_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of the clean-up say that all is well, and do nothing: things of the drill are left."""

    def nothing(self: Any, ctx: Any, given: Any) -> Any:
        looked = {"looked_at": ()} if self.Output is cleanup.VerifyOutput else {}
        return Done(self.Output(site=given.site, **looked))

    for action in (cleanup.Machines, cleanup.Volumes, cleanup.Networks, cleanup.Verify):
        monkeypatch.setattr(action, "start", nothing)
        monkeypatch.setattr(action, "observe", nothing)
    assert found("drill", (0,), (), "is left of")


def test_a_point_in_use_that_may_expire_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No story is long enough for retention to reach a point in use: the journal's own test of its pins fails."""
    facts = Writer._point_facts
    monkeypatch.setattr(Writer, "_point_facts", lambda self, row: {**facts(self, row), "pinned": False})
    bench = Bench(tmp_path)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        of_the_journal.test_a_run_pins_its_point(bench)
    bench.journal.database.close()
