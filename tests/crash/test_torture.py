"""Processes that drive one run are killed and stopped at random; a ledger of effects is compared with the journal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.crash.torture import Controllers, Ledger, Post, Tally, Torture, begun, tangle
from tests.crash.torture_proof import Comparison


def tortured(
    url: str, folder: Path, *, steps: int, seed: int, gap: int, without: str = ""
) -> tuple[Tally, Comparison]:
    """A run of so many effects under torture, and what the comparison says of it."""
    chance = Random(seed)
    journal, view = begun(url, tangle(steps, chance))
    ledger = Ledger(journal.database, view.id)
    controllers = Controllers(Post(url, view.id, ledger.port, without), folder)
    try:
        tally = Torture(controllers, ledger, chance, gap).go(journal, view.id, limit_s=8.0 * steps)
    finally:
        controllers.close()
        ledger.close()
    compared = Comparison(journal, view.id, ledger.entries)
    tally.wrong += compared.wrong()
    if tally.wrong and not without:
        tally.wrong.append(controllers.log.read_text()[-8000:])
    journal.database.close()
    return tally, compared


def told(steps: int, kind: str, seed: int, tally: Tally, compared: Comparison) -> str:
    """The line of the summary."""
    return (
        f"torture: {steps} steps on {kind}, seed {seed}: {tally.killed} kills, {tally.stopped} stops, "
        f"{compared.view.term - 1} take-overs, {compared.repeated} effects repeated, 0 unnoticed, 0 lost"
    )


@pytest.mark.parametrize("seed", [1])
def test_blows_at_random_lose_nothing_and_repeat_nothing_unnoticed(
    journal_url: str, tmp_path: Path, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Sixty effects under two controllers: each has a durable intent, each repeat is on record, none is lost."""
    tally, compared = tortured(journal_url, tmp_path, steps=60, seed=seed, gap=15)
    assert tally.wrong == []
    assert tally.killed >= 1
    assert compared.view.term >= 2
    record_property("said", told(60, journal_url.partition(":")[0], seed, tally, compared))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [11, 12])
def test_many_blows_over_a_long_run(
    journal_url: str, tmp_path: Path, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Six hundred effects, a blow after every twenty or so."""
    tally, compared = tortured(journal_url, tmp_path, steps=600, seed=seed, gap=20)
    assert tally.wrong == []
    assert tally.killed >= 10
    assert tally.stopped >= 4
    record_property("said", told(600, journal_url.partition(":")[0], seed, tally, compared))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("without", "says"), [("guard", ("term", "ended with 1")), ("intent", ("no durable intent",))]
)
def test_torture_sees_what_is_missing(
    journal_url: str, tmp_path: Path, without: str, says: tuple[str, ...]
) -> None:
    """The test of the test: with the guard of writes taken out, or effects before their intents, it fails."""
    for seed in range(5):
        folder = tmp_path / str(seed)
        folder.mkdir()
        tally, _ = tortured(journal_url, folder, steps=60, seed=seed, gap=8, without=without)
        if any(word in wrong for wrong in tally.wrong for word in says):
            return
    raise AssertionError("five seeds saw nothing")
