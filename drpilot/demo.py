"""The story: one command that protects, replicates, drills, fails over, commits, heals, reprotects and fails back a
three-tier shop between two simulated clouds, and counts afterwards what the clouds really hold.

It uses the services as any command does and talks to separate lab processes. Times come from the journal, duplicates
and leftovers from a full inventory of the clouds, data from the volumes' bytes by a reader of its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from drpilot import census
from drpilot.base.errors import DrpilotError
from drpilot.base.ids import canonical
from drpilot.domain.run import RunView
from drpilot.journal.chain import Event
from drpilot.lab import shop
from drpilot.practice import EUCALYPTUS, Lab
from drpilot.report import Phase, Story, Totals, build, gather, story_html, story_json
from drpilot.services.attend import attend, verdict
from drpilot.services.begin import Asking, Typed, begin, consent, propose
from drpilot.services.house import House
from drpilot.services.protect import protect
from drpilot.services.steer import Order, order
from drpilot.wiring import open_house

__all__ = ["Reporter", "data_verified", "tell"]

GROUP = "shop"
ALIKE, PAIR = "aws-aws", "euca-aws"


@dataclass(slots=True)
class Reporter:
    """Who listens while the story is told."""

    begins: Callable[[str], None] = lambda name: None
    ended: Callable[[Phase], None] = lambda phase: None
    sees: Callable[[RunView], None] = lambda view: None


@dataclass(slots=True)
class _Story:
    lab: Lab
    house: House
    second: House
    reporter: Reporter
    phases: list[Phase] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    before: set[tuple[str, str]] = field(default_factory=set)
    outage_at: datetime | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    # -- telling --------------------------------------------------------------------------------------------

    def noted(self, text: str) -> datetime:
        """Write a note into the journal and give its time: the clock of everything that is no run."""
        self.house.journal.change(GROUP, [], self.house.person, text)
        last: Event = self.house.journal.events(run=f"group:{GROUP}")[-1]
        return last.at

    @contextmanager
    def phase(self, name: str) -> Iterator[dict[str, Any]]:
        """One phase; the body fills `text` and, for what is a run, `seconds` from the run's own times."""
        self.reporter.begins(name)
        told: dict[str, Any] = {"text": "", "result": "ok"}
        started = self.noted(f"demo: {name} begins") if self.phases else None
        yield told
        ended = self.noted(f"demo: {name} ended")
        seconds = told.get("seconds", (ended - (told.get("since") or started or ended)).total_seconds())
        number = len(self.phases) + 1
        phase = Phase(number, name, told["result"], round(seconds, 3), told["text"], told.get("run"))
        self.phases.append(phase)
        self.reporter.ended(phase)

    # -- doing ----------------------------------------------------------------------------------------------

    def begin(self, mode: str, asking: Asking | None = None) -> RunView:
        """Propose, consent by the facts, begin."""
        offer = propose(self.house, mode, GROUP, asking or Asking())
        typed = Typed(GROUP, (offer.proposal.loss_s or 0.0) + 1.0)
        run = begin(self.house, offer, consent(self.house, offer, typed))
        self.runs.append(run.name)
        return run

    def drive(self, run: RunView) -> RunView:
        """Drive a run until it rests; a failure ends the story with the run's own error."""
        view = attend(self.house, run.id, seen=self.reporter.sees)
        if view.state == "waiting":
            return view
        error = verdict(view)
        if error is not None:
            raise error
        return view

    def run(self, mode: str, asking: Asking | None = None) -> RunView:
        """Begin and drive."""
        return self.drive(self.begin(mode, asking))

    def answer(self, kind: str, run: RunView, house: House | None = None) -> RunView:
        """Post an order of a person and drive on."""
        order(house or self.house, run.id, Order(kind, comment="demo", data={"confirm": GROUP}))
        return self.drive(run)

    def inventory(self) -> list[dict[str, Any]]:
        """Everything that exists on all three sites."""
        return [
            {**row, "site": site}
            for site in ("home", "away", "edge")
            for row in self.lab.control(site, "inventory")["resources"]
        ]


def seconds_of(view: RunView) -> float:
    """How long a run took, by the journal: from being created to its end, or to where it now rests."""
    ended = view.ended_at or max(
        (s.ended_at for s in view.steps.values() if s.ended_at), default=view.created_at
    )
    return (ended - view.created_at).total_seconds()


def tell(
    folder: Path,
    reporter: Reporter | None = None,
    *,
    keep: bool = False,
    pair: str = PAIR,
    euca_version: str = EUCALYPTUS,
) -> dict[str, Any]:
    """Tell the whole story in `folder` (made anew) and give its one document; the lab is stopped at the end.

    `pair` says what kinds of cloud home and away are, `euca_version` of which version a Eucalyptus is: 4.4 or 5, since
    3.4 imports no volumes, so that a way back needs a person's hands. Raises DrpilotError `usage`.
    """
    if euca_version == "3.4":
        what = "the demo on Eucalyptus 3.4: it has no ImportVolume, so that bytes come to it by hand only"
        raise DrpilotError("usage", what=what, hint="--euca-version 4.4 or 5; drpilot lab up takes all three")
    if (folder / "clouds").exists():
        Lab(folder).down()
    if folder.exists():
        shutil.rmtree(folder)
    lab = Lab(folder)
    try:
        lab.up(pair=pair, euca_version=euca_version)
        houses = [open_house(lab=True, person=name, home=folder) for name in ("oncall", "second")]
        story = _Story(lab, houses[0], houses[1], reporter or Reporter())
        return _told(story)
    finally:
        if not keep:
            lab.down()


def _told(story: _Story) -> dict[str, Any]:
    story.before = {(row["site"], row["id"]) for row in story.inventory()}
    _protect(story)
    _replicate(story)
    if story.lab.pair != ALIKE:
        _replicate_again(story)
    _drill(story)
    _dies(story)
    failover = _failover(story)
    _data(story)
    _commit(story, failover)
    _heal(story)
    _reprotect(story)
    _failback(story)
    return _document(story, failover)


def _protect(story: _Story) -> None:
    with story.phase("protect") as told:
        view, plan = protect(story.house, story.lab.shop_file.read_text(), "shop.yaml")
        told["seconds"] = (
            story.house.clock.now() - (view.created_at or story.house.clock.now())
        ).total_seconds()
        instances = sum(len(tier.instances) for tier in plan.group.tiers)
        instances += sum(tier.scaling_group.desired for tier in plan.group.tiers if tier.scaling_group)
        volumes = sum(len(each.volumes) for tier in plan.group.tiers for each in tier.instances)
        told["text"] = (
            f"{len(plan.group.tiers)} tiers: {instances} instances, {volumes} volumes, 1 load balancer, 1 name"
        )


def _replicate(story: _Story) -> None:
    with story.phase("replicate") as told:
        view = story.run("replicate")
        ready = [standby for standby in story.house.journal.standbys(GROUP) if standby.state == "ready"]
        told.update(seconds=seconds_of(view), run=view.name)
        told["text"] = f"point {view.plan.point} complete; {len(ready)} standbys ready on away"


def _replicate_again(story: _Story) -> None:
    """Between unlike clouds drpilot carries the bytes itself: the second time only what changed."""
    with story.phase("replicate again") as told:
        view = story.run("replicate")
        moved = moved_blocks(view)
        told.update(seconds=seconds_of(view), run=view.name)
        told["text"] = f"{moved.changed} of {moved.blocks} blocks of 512 KiB had changed and moved"
        told["result"] = "ok" if moved.changed < moved.blocks else "failed"
        story.facts["second_replication"] = {"blocks": moved.blocks, "changed": moved.changed}


@dataclass(frozen=True, slots=True)
class Moved:
    """Blocks of 512 KiB that a run's volumes hold, and those that had changed since the point before and were moved;
    none where the clouds copy by themselves.
    """

    blocks: int = 0
    changed: int = 0


def moved_blocks(view: RunView) -> Moved:
    """What a run moved over the stage, by what its steps saw land on the target."""
    outputs = [
        step.output or {}
        for step in view.steps.values()
        if step.planned.action in ("stage.carry", "volume.seal") and step.state == "succeeded"
    ]
    return Moved(sum(one["blocks"] for one in outputs), sum(one["changed"] for one in outputs))


def _drill(story: _Story) -> None:
    with story.phase("drill") as told:
        view = story.run("drill")
        told.update(seconds=seconds_of(view), run=view.name)
        checks = [check for step in view.steps.values() for check in (step.output or {}).get("checks", [])]
        passed = sum(bool(check.get("ok")) for check in checks)
        tags = [row for row in story.inventory() if row["tags"].get("drpilot:run") == view.id]
        told["text"] = f"booted in isolation, {passed} of {len(checks)} checks, {len(tags)} things left over"
        told["result"] = (
            "ok" if view.result in ("succeeded", "succeeded_with_warnings") and not tags else "failed"
        )


def _dies(story: _Story) -> None:
    with story.phase("home dies") as told:
        story.lab.control("home", "break", fault="refuse")
        story.outage_at = story.noted("demo: home refuses every connection")
        told.update(text="connections refused", result="-")


def _failover(story: _Story) -> RunView:
    with story.phase("failover") as told:
        run = story.begin("failover", Asking(reason="the demo broke home"))
        waiting = story.drive(run)
        view = story.answer("approve", waiting, story.second) if waiting.state == "waiting" else waiting
        answered = max(step.ended_at for step in view.steps.values() if step.ended_at is not None)
        told["seconds"] = (answered - run.created_at).total_seconds()
        fence = view.proposal.fence.value if view.proposal and view.proposal.fence else "none"
        told["text"] = f"home → away; fence {fence}, accepted by a 2nd person"
        story.facts["answered_at"] = answered
        return view


def data_verified(lab: Lab, house: House, site: str = "away") -> tuple[bool, int]:
    """Whether the data volumes attached on `site` hold what was written on home, and how many blocks were read.

    The bytes come from the simulated cloud's own files, by a reader that shares no code with replication.
    """
    filters = [
        {"Name": "tag:drpilot:group", "Values": [GROUP]},
        {"Name": "attachment.status", "Values": ["attached"]},
    ]
    volumes = [
        volume["VolumeId"]
        for page in house.site(site).pages("ec2", "DescribeVolumes", {"Filters": filters})
        for volume in page["Volumes"]
    ]
    readings = [each for each in lab.read_back(site, volumes) if each.index is not None]
    return shop.verified(readings, lab.built()["data"]), sum(each.blocks for each in readings)


def _data(story: _Story) -> None:
    with story.phase("data") as told:
        equal, blocks = data_verified(story.lab, story.house)
        story.facts["data_verified"] = equal
        told["text"] = f"{blocks:,} blocks read back on away, {'all equal' if equal else 'NOT EQUAL'}"
        told["result"] = "ok" if equal else "failed"


def _commit(story: _Story, failover: RunView) -> None:
    with story.phase("commit") as told:
        story.answer("commit", failover)
        view = story.house.journal.group(GROUP)
        told["text"] = f"epoch {view.epoch - 1} → {view.epoch}, active {view.active}"


def _heal(story: _Story) -> None:
    with story.phase("home back") as told:
        story.lab.control("home", "heal")
        view = story.run("fence")
        told.update(seconds=seconds_of(view), run=view.name)
        state = story.house.journal.group(GROUP).fences["home"]["state"]
        marked = (view.steps["invalidate"].output or {}).get("invalidated", ())
        told["text"] = (
            f"{state}; {len(marked)} of its things marked invalidated; {_active(story)} stays active"
        )
        told["result"] = "ok" if state == "fenced" else "failed"


def _active(story: _Story) -> str:
    """Which side the witness says is active."""
    claim, _ = story.house.world.witness().read(GROUP)
    return claim.active if claim is not None and claim.run is None else "nobody for certain"


def _reprotect(story: _Story) -> None:
    with story.phase("reprotect") as told:
        view = story.run("reprotect")
        told.update(seconds=seconds_of(view), run=view.name)
        told["text"] = "away → home, first reverse point"


def _failback(story: _Story) -> None:
    with story.phase("failback") as told:
        story.house.journal.acknowledge(GROUP, story.house.person, "the demo goes home")
        view = story.run("switchover", Asking(reason="the demo goes home"))
        told.update(seconds=seconds_of(view), run=view.name)
        story.answer("commit", view)
        story.run("reprotect")
        group = story.house.journal.group(GROUP)
        equal, blocks = data_verified(story.lab, story.house, "home")
        captured = story.house.journal.point(GROUP, view.plan.point).captured_at
        stopped = max(
            s.ended_at for s in view.steps.values() if s.planned.action == "writers.stop" and s.ended_at
        )
        lossless = captured is not None and captured >= stopped
        proof = "no loss: captured after the writers stopped" if lossless else "LOSS NOT EXCLUDED"
        told["text"] = (
            f"{group.active} again; {proof}; {blocks} blocks {'all equal' if equal else 'NOT EQUAL'}"
        )
        ended_well = (group.active, group.state, equal, lossless) == ("home", "protected", True, True)
        told["result"] = "ok" if ended_well else "failed"


def _document(story: _Story, failover: RunView) -> dict[str, Any]:
    house = story.house
    rows = story.inventory()
    owned = _owned(house) | _staged(house, rows)
    twice = census.duplicates(rows)
    left = census.leftovers(rows, story.before, owned)
    point = house.journal.point(GROUP, failover.plan.point)
    assert story.outage_at is not None
    assert point.captured_at is not None
    rto_s = (story.facts["answered_at"] - story.outage_at).total_seconds()
    group = house.journal.group(GROUP).group
    totals = Totals(
        rto_seconds=round(rto_s, 3),
        rpo_seconds=round((story.outage_at - point.captured_at).total_seconds(), 3),
        rto_objective_seconds=group.objectives.rto_s,
        rpo_objective_seconds=group.objectives.rpo_s,
        data_verified=bool(story.facts.get("data_verified")),
        duplicates=len(twice),
        leftovers=len(left),
    )
    now = house.clock.now()
    reports = tuple(build(gather(house.journal, name), now) for name in story.runs)
    page = Story("One command: home → away and home again", now, tuple(story.phases), totals, reports)
    path = story.lab.folder / "report.html"
    path.write_text(story_html(page))
    document = story_json(page, report=str(path))
    document |= {"duplicate_resources": twice, "leftover_resources": left}
    document |= {"pair": story.lab.pair, "second_replication": story.facts.get("second_replication")}
    path.with_suffix(".json").write_text(canonical(document))
    return document


def _staged(house: House, rows: list[dict[str, Any]]) -> set[str]:
    """The bucket over which bytes went, and of what lies in it the folders of snapshots that points have."""
    bucket = house.journal.group(GROUP).group.stage_bucket
    living = {replica.source_id for point in house.journal.points(GROUP) for replica in point.replicas}
    inside = [str(row["id"]) for row in rows if str(row["id"]).startswith(f"{bucket}/")]
    return {bucket, *(key for key in inside if key.endswith("/zeros") or key.split("/")[-2] in living)}


def _owned(house: House) -> set[str]:
    owned: set[str] = set()
    for point in house.journal.points(GROUP):
        owned |= {text for replica in point.replicas for text in (replica.id, replica.source_id)}
        owned |= census.identifiers([dict(replica.facts) for replica in point.replicas])
    for standby in house.journal.standbys(GROUP):
        owned |= census.identifiers(dict(standby.facts))
    witness = house.configuration.witness
    if witness is not None and witness.bucket:
        owned.add(f"{witness.bucket}/{GROUP}.json")
    return owned - {""}
