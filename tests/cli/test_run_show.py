"""What `run show` says of a run under way: its bounds, and what a ready step waits for."""

from __future__ import annotations

from dataclasses import replace

from drpilot.cli import look
from drpilot.engine.decide import decide
from drpilot.engine.places import Room
from tests.cli.desk import Desk
from tests.services.world import Tiny, replicate_plan, step

COPY = "away copy-snapshot"


def test_a_step_that_waits_for_a_slot_says_so(tiny: Tiny) -> None:
    """One copy at once: the second is ready, and the screen and the document say why it does not begin."""
    copies = tuple(step(f"copy{n}", "point.make", sites=("away",), slot=COPY) for n in (1, 2))
    plan = replace(replicate_plan("p1"), steps=copies, slots={COPY: 1}, per_site=4)
    run = tiny.begin(plan)
    lease = tiny.journal.acquire(run.id, tiny.house.holder)
    assert lease is not None
    tiny.journal.commit(lease, decide(run, tiny.clock.now(), Room(16)).changes)
    desk = Desk(tiny.house)
    shown = desk(look.run_show, run=run.name)
    why = "waits for a place: away has 1 for copy-snapshot, all taken"
    assert "at most 16 calls at once, 4 a site; away 1 copy-snapshot" in shown.out
    assert [line.split()[1:3] for line in shown.out.splitlines() if why in line] == [["copy2", "ready"]]
    document = desk(look.run_show, output="json", run=run.name).document
    assert document["limits"] == {"parallel": 16, "per_site": 4, "at_once": {COPY: 1}}
    assert [(one["path"], one["state"], one["note"]) for one in document["steps"]] == [
        ("copy1", "running", ""),
        ("copy2", "ready", why),
    ]
