"""What `status` makes of an earlier check: how old it is, and whether a run has ended since."""

from __future__ import annotations

from pathlib import Path

import pytest

from drpilot.base.errors import Finding
from drpilot.services.grouppage import group_page
from drpilot.services.status import Problem, overview, read
from tests.services.world import Tiny


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """The tiny world with a protected group."""
    world = Tiny(tmp_path)
    world.replicate()
    return world


def problems(tiny: Tiny) -> tuple[Problem, ...]:
    """What status says is wrong with the group."""
    return overview(read(tiny.journal), tiny.clock.now()).rows[0].problems


def test_a_finding_older_than_a_run_says_so_and_what_the_journal_knows_itself_is_not_repeated(
    tiny: Tiny,
) -> None:
    """A run may have mended what a check saw: it is marked, with its age; a new look takes the mark away."""
    told = [
        Finding("drift", "error", "a replica is gone", hint="drpilot replicate shop"),
        Finding("rpo-missed", "error", "the newest point on away is older than the objective"),
        Finding("fence-open", "error", "home is not fenced for certain"),
        Finding("site-silent", "error", "home does not answer: refused"),
    ]
    tiny.journal.found("shop", told)
    tiny.clock.advance(60)
    before = [problem for problem in problems(tiny) if problem.word == "drift"]
    assert [(problem.text, problem.before) for problem in before] == [("a replica is gone", "")]
    assert {problem.word for problem in problems(tiny)} == {"drift", "DrillFresh"}
    run = tiny.replicate()
    (after,) = [problem for problem in problems(tiny) if problem.word == "drift"]
    assert after.text == f"a replica is gone (seen before {run.name} ended; check again)"
    assert after.before == run.name
    page = group_page(read(tiny.journal, "shop"), tiny.clock.now())
    assert {(one.before, one.seen_age_s) for one in page.findings} == {(run.name, 62.0)}
    tiny.journal.found("shop", told[:1])
    (again,) = [problem for problem in problems(tiny) if problem.word == "drift"]
    assert (again.text, again.before) == ("a replica is gone", "")
