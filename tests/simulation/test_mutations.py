"""The simulation finds what it is for: each protection is taken out once, and seeds find that it is missing."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import pytest

from drpilot.actions.catalogue import CATALOGUE
from drpilot.domain.ports import CloudError, Idempotency
from drpilot.domain.run import Intent
from drpilot.engine import drive
from drpilot.journal.journal import Journal
from drpilot.services import begin
from tests.crash.zygote import blinded, call_now
from tests.simulation import ground as grounds
from tests.simulation.play import play
from tests.simulation.stage import ground

pytestmark = pytest.mark.crash


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
