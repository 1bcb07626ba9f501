"""What the journal says, now: no cloud is ever asked, every fact has its age, unknown is not false.

`read` takes one snapshot of the journal; `overview` and `group_page` are pure functions of it and of the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from drpilot.domain.plain import Json
from drpilot.domain.plan import Plan
from drpilot.domain.point import RecoveryPoint, choose, loss_s
from drpilot.domain.ports import StandbyView
from drpilot.domain.run import RunView
from drpilot.journal.body import moment
from drpilot.journal.history import last_ended, recoveries
from drpilot.journal.holder import is_gone
from drpilot.journal.journal import Journal
from drpilot.journal.views import FindingView, GroupView, ScheduleView, ServiceView, SiteView
from drpilot.report.plain import as_json
from drpilot.services.bucketlag import RUNS, kept_receipts, late_buckets
from drpilot.services.burstline import BurstLine, burst_line
from drpilot.services.conditions import Facts, Judged, assess, last_drill
from drpilot.services.guidance import Situation, next_command
from drpilot.services.hysteresis import contradictions
from drpilot.services.liverun import LiveRun, live_run, standing_step
from drpilot.services.prediction import Forecast, forecast

__all__ = [
    "Drilled",
    "IfItFailedNow",
    "Known",
    "KnownGroup",
    "LiveRun",
    "Overview",
    "Problem",
    "Row",
    "SiteLook",
    "as_json",
    "ended_since",
    "live_run",
    "overview",
    "read",
    "row_of",
    "site_look",
]

_GOOD = frozenset({"succeeded", "succeeded_with_warnings"})


@dataclass(frozen=True, slots=True)
class KnownGroup:
    """One group's part of a snapshot. `gone` are ids of live runs whose driver's process is certainly gone."""

    view: GroupView
    points: tuple[RecoveryPoint, ...]
    standbys: tuple[StandbyView, ...]
    live: tuple[RunView, ...]
    past: tuple[RunView, ...]  # drills and moves, newest first
    recent: tuple[RunView, ...] = ()
    findings: tuple[FindingView, ...] = ()
    gone: frozenset[str] = frozenset()
    ended: tuple[str, datetime] | None = None  # the run that ended last, and when
    receipts: Mapping[str, Json] = field(default_factory=dict)  # of the last sync of each bucket, by its key


@dataclass(frozen=True, slots=True)
class Known:
    """One snapshot of the journal."""

    groups: tuple[KnownGroup, ...]
    sites: tuple[SiteView, ...]
    services: tuple[ServiceView, ...]
    schedules: tuple[ScheduleView, ...]


@dataclass(frozen=True, slots=True)
class Drilled:
    """The newest drill that ended by itself."""

    run: str
    at: datetime
    age_s: float
    passed: bool
    result: str


@dataclass(frozen=True, slots=True)
class IfItFailedNow:
    """Told from the journal: recovery time about `rto_s` (p75 of `samples`), writes lost at most `rpo_s`.

    With the active side silent the loss is counted to its last sign of life (`since`), else it is the point's age.
    """

    rto_s: float | None
    samples: int
    standing: str
    rpo_s: float | None
    rpo_exact: bool
    since: datetime | None
    critical: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """One line under the table. `word` is a condition's name or a short key.

    What a check found has the moment it was last seen, and the run that has ended since (`before`), if one has: that
    run may have mended it.
    """

    word: str
    text: str
    since: datetime | None = None
    seen_at: datetime | None = None
    before: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One group at a glance."""

    group: str
    state: str
    active: str
    standing: str
    epoch: int
    point: str | None
    point_at: datetime | None
    point_age_s: float | None
    rpo_objective_s: float
    rto_objective_s: float
    rpo_met: bool | None
    standby_ready: int
    standby_of: int
    drill: Drilled | None
    drill_fresh: bool | None
    failing_now: IfItFailedNow
    live: tuple[LiveRun, ...]
    problems: tuple[Problem, ...]
    next: str
    burst: BurstLine | None = None


@dataclass(frozen=True, slots=True)
class SiteLook:
    """What is known of a site and how old that is."""

    name: str
    answers: bool | None
    detail: str
    account: str
    region: str
    looked_at: datetime | None
    looked_age_s: float | None
    last_seen_at: datetime | None
    silent_since: datetime | None
    silent_s: float | None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Serving:
    """A living service."""

    id: str
    person: str
    host: str
    since: datetime
    heartbeat_age_s: float


@dataclass(frozen=True, slots=True)
class Due:
    """What is due next."""

    group: str
    kind: str
    at: datetime
    in_s: float


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole installation on one screen."""

    at: datetime
    rows: tuple[Row, ...]
    sites: tuple[SiteLook, ...]
    services: tuple[Serving, ...]
    next_due: tuple[Due, ...]
    next: str


def read(journal: Journal, group: str | None = None, transfers: Path | None = None) -> Known:
    """A snapshot of everything, or of one group; raises `unknown-group`. `transfers` is the folder of what syncs by
    hand leave: they are no runs, so the journal does not know them.
    """
    views = (journal.group(group),) if group is not None else journal.groups()
    live_runs = journal.runs(group, live=True, limit=500)
    known = []
    for view in views:
        live = tuple(run for run in live_runs if run.group == view.name)
        known.append(
            KnownGroup(
                view=view,
                points=journal.points(view.name),
                standbys=journal.standbys(view.name),
                live=live,
                past=recoveries(journal, view.name),
                recent=_recent(journal, view, whole=group is not None),
                findings=journal.findings(view.name),
                ended=last_ended(journal, view.name),
                receipts=kept_receipts(transfers, view) if transfers is not None else {},
                gone=frozenset(run.id for run in live if run.holder is not None and is_gone(run.holder)),
            )
        )
    return Known(tuple(known), journal.sites(), journal.services(), journal.schedules())


def _recent(journal: Journal, view: GroupView, *, whole: bool) -> tuple[RunView, ...]:
    """The newest runs: for the page of one group, and where buckets tell their age by them."""
    wanted = RUNS if view.group.buckets else 5 if whole else 0
    return journal.runs(view.name, limit=wanted) if wanted else ()


def overview(known: Known, now: datetime) -> Overview:
    """The screen of `status`. Pure."""
    rows = tuple(row_of(group, known, now) for group in known.groups)
    urgent = next(
        (row.next for row in rows if row.problems), rows[0].next if rows else "drpilot protect FILE"
    )
    names = {name for group in known.groups for name in (group.view.active, group.view.standing)}
    return Overview(
        at=now,
        rows=rows,
        sites=tuple(site_look(site, now) for site in known.sites if not names or site.name in names),
        services=tuple(
            Serving(
                s.id, s.holder.person, s.holder.host, s.started_at, (now - s.heartbeat_at).total_seconds()
            )
            for s in known.services
        ),
        next_due=tuple(
            Due(s.group, s.kind, s.next_at, (s.next_at - now).total_seconds())
            for s in known.schedules
            if s.group in {group.view.name for group in known.groups}
        ),
        next=urgent,
    )


def row_of(known: KnownGroup, around: Known, now: datetime) -> Row:
    """One group's line. Pure."""
    view = known.view
    newest = choose(known.points, view.standing)
    sites = {site.name: site for site in around.sites}
    judged = {item.name: item for item in _judged(known, sites, now)}
    live = tuple(
        live_run(run, known.past, now, gone=run.id in known.gone)
        for run in sorted(known.live, key=_lane_order)
    )
    drill = last_drill([run for run in known.past if run.mode == "drill"])
    drilled = _drilled(drill, now) if drill is not None else None
    tiers = [tier.name for tier in view.group.tiers]
    ready = {
        standby.tier
        for standby in known.standbys
        if standby.site == view.standing and standby.state == "ready"
    }
    seen = _Seen(known, judged, live, drilled, sites, newest is not None)
    return Row(
        group=view.name,
        state=view.state,
        active=view.active,
        standing=view.standing,
        epoch=view.epoch,
        point=newest.id if newest else None,
        point_at=newest.captured_at if newest else None,
        point_age_s=(now - newest.captured_at).total_seconds() if newest and newest.captured_at else None,
        rpo_objective_s=view.group.objectives.rpo_s,
        rto_objective_s=view.group.objectives.rto_s,
        rpo_met=judged["RpoMet"].value,
        standby_ready=len(ready & set(tiers)),
        standby_of=len(tiers),
        drill=drilled,
        drill_fresh=judged["DrillFresh"].value,
        failing_now=_if_it_failed(known, newest, sites.get(view.active), now),
        live=live,
        problems=(
            *_problems(seen),
            *(Problem("BucketLate", *late) for late in late_buckets(view, known.recent, now, known.receipts)),
        ),
        next=next_command(_situation(seen)),
        burst=burst_line(view.burst, now),
    )


def _lane_order(run: RunView) -> int:
    return {"move": 0, "practice": 1, "copy": 2}[run.lane]


def _drilled(run: RunView, now: datetime) -> Drilled:
    at = run.ended_at or run.created_at
    return Drilled(run.name, at, (now - at).total_seconds(), run.result in _GOOD, run.result or "")


def _judged(known: KnownGroup, sites: Mapping[str, SiteView], now: datetime) -> tuple[Judged, ...]:
    drills = [run for run in known.past if run.mode == "drill"]
    return assess(Facts(known.view, known.points, known.standbys, sites, drills), now)


def _plan_of(known: KnownGroup) -> Plan | None:
    """The plan a failover would most likely run: the newest failover's, else the newest drill's."""
    good = [run for run in known.past if run.result in _GOOD or run.state == "awaiting_commit"]
    failovers = [run for run in good if run.mode == "failover"]
    chosen = (failovers or good)[:1]
    return chosen[0].plan if chosen else None


def _if_it_failed(
    known: KnownGroup, point: RecoveryPoint | None, active: SiteView | None, now: datetime
) -> IfItFailedNow:
    plan = _plan_of(known)
    found = forecast(plan, known.past) if plan is not None else Forecast(None, 0)
    silent = active is not None and active.answers is False
    since = active.last_seen_at if silent and active is not None else None
    rpo_s, exact = loss_s(point, since, now) if point is not None else (None, False)
    return IfItFailedNow(found.rto_s, found.samples, found.standing, rpo_s, exact, since, found.critical)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one row is made of."""

    known: KnownGroup
    judged: Mapping[str, Judged]
    live: tuple[LiveRun, ...]
    drilled: Drilled | None
    sites: Mapping[str, SiteView]
    has_point: bool


def _problems(seen: _Seen) -> tuple[Problem, ...]:
    return (*_run_problems(seen), *_condition_problems(seen), *_state_problems(seen), *_found(seen))


_TOLD = frozenset({"rpo-missed", "fence-open", "nobody-drives", "site-silent", "never-drilled"})
"""Findings about what the journal itself knows: `status` tells how that is now, not how it was at the last check."""


def _found(seen: _Seen) -> Iterator[Problem]:
    """What the last check found and nothing else here tells."""
    for finding in seen.known.findings:
        if finding.severity != "error" or finding.word in _TOLD:
            continue
        if finding.word == "split-suspected" and seen.known.view.state == "split_suspected":
            continue  # the state's own line says it
        before = ended_since(finding, seen.known.ended)
        text = finding.message + (f" (seen before {before} ended; check again)" if before else "")
        yield Problem(finding.word, text, finding.first_at, finding.last_at, before)


def ended_since(finding: FindingView, ended: tuple[str, datetime] | None) -> str:
    """The run that has ended since a finding was last seen; empty where none has. Pure."""
    return ended[0] if ended is not None and ended[1] > finding.last_at else ""


def _run_problems(seen: _Seen) -> Iterator[Problem]:
    runs = {run.name: run for run in seen.known.live}
    for run in seen.live:
        if not run.driven:
            yield Problem("NobodyDrives", run.text, run.driver_seen_at)
        for note in run.notes:
            yield Problem("Stuck", f"{run.name}: {note}")
        if run.state == "paused":
            step = standing_step(runs[run.name])
            why = step.failure.message if step.failure is not None else "by a person"
            yield Problem("Paused", f"{run.name} is paused at step {run.step}: {why}")
        if run.state == "clean_failed":
            yield Problem("NotClean", f"{run.name} left things behind")


def _condition_problems(seen: _Seen) -> Iterator[Problem]:
    view = seen.known.view
    for name in (view.active, view.standing):
        site = seen.sites.get(name)
        if site is not None and site.answers is False:
            what = "can't be used" if site.refusal else "does not answer"
            yield Problem("PeerReachable", f"{name} {what}: {site.detail}", site.silent_since)
    for name in ("RpoMet", "StandbyReady", "Fenced"):
        if seen.judged[name].value is False:
            stored = view.conditions.get(name, {})
            since = moment(stored.get("since")) if stored.get("value") is False else None
            yield Problem(name, seen.judged[name].reason, since)
    drilled = seen.drilled
    if drilled is not None and not drilled.passed:
        yield Problem("DrillFailed", f"drill {drilled.run} ended {drilled.result}", drilled.at)
    elif seen.judged["DrillFresh"].value is False and view.state in ("protected", "degraded"):
        yield Problem("DrillFresh", seen.judged["DrillFresh"].reason)


def _state_problems(seen: _Seen) -> Iterator[Problem]:
    view = seen.known.view
    texts = {
        "active_unprotected": f"active on {view.active}, nothing protects it",
        "split_suspected": "both sides may be writable",
        "needs_decision": "looking could not settle what happened; a person must",
    }
    if view.locked_by is not None:
        yield Problem("Locked", f"locked by {view.locked_by}: {view.locked_reason or ''}", view.locked_at)
    reasons = "; ".join(why for why, _ in contradictions(view))
    if view.state == "split_suspected" and reasons:
        texts["split_suspected"] += f": {reasons}"
    if view.state in texts:
        yield Problem(view.state, texts[view.state], view.changed_at)


def _situation(seen: _Seen) -> Situation:
    known, view, judged = seen.known, seen.known.view, seen.judged
    lanes = {run.lane: run for run in seen.live}
    moving = next((run for run in known.live if run.lane == "move"), None)
    steps = list(moving.steps.values()) if moving is not None else []
    unknown = next((s.path for s in steps if s.state == "unknown" and s.note.startswith("person:")), "")
    failed = next((s.path for s in steps if s.state in ("failed", "undo_failed")), "")
    active, standing = seen.sites.get(view.active), seen.sites.get(view.standing)
    drilled = seen.drilled
    return Situation(
        group=view.name,
        state=view.state,
        active=view.active,
        standing=view.standing,
        move=lanes["move"].state if "move" in lanes else "",
        copy=lanes["copy"].state if "copy" in lanes else "",
        practice=lanes["practice"].state if "practice" in lanes else "",
        runs=tuple((run.lane, run.name) for run in seen.live),
        orphaned=next((run.name for run in seen.live if not run.driven), ""),
        unknown_step=unknown,
        failed_step=failed,
        has_point=seen.has_point,
        active_answers=active.answers if active else None,
        standing_answers=standing.answers if standing else None,
        active_refuses=bool(active and active.refusal),
        standing_fence=str(view.fences.get(view.standing, {}).get("state", "none")),
        rpo_met=judged["RpoMet"].value,
        healthy=judged["RpoMet"].value is not False and judged["StandbyReady"].value is not False,
        drill="" if drilled is None else "passed" if drilled.passed else "failed",
        drill_name=drilled.run if drilled else "",
        locked=view.locked_by is not None,
        burst=view.burst.state,
    )


def site_look(site: SiteView, now: datetime) -> SiteLook:
    """What is known of a site, with ages. Pure."""
    looked = (now - site.last_looked_at).total_seconds() if site.last_looked_at else None
    silent = (now - site.silent_since).total_seconds() if site.silent_since else None
    return SiteLook(
        site.name,
        site.answers,
        site.detail,
        site.account,
        site.region,
        site.last_looked_at,
        looked,
        site.last_seen_at,
        site.silent_since,
        silent,
        site.refusal,
    )
