"""The screens of `status`: one line a group, or one group in full. Written from the pages of the status service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from drpilot.base.units import format_duration
from drpilot.cli.render import Table, moment

if TYPE_CHECKING:
    from datetime import datetime

    from drpilot.services.grouppage import GroupPage, Member, Open
    from drpilot.services.status import IfItFailedNow, Overview, Row, SiteLook

__all__ = ["overview_blocks", "page_blocks", "span"]

_HEADS = ("GROUP", "STATE", "ACTIVE", "POINT", "AGE/RPO", "STANDBY", "LAST DRILL", "IF IT FAILED NOW")


def overview_blocks(overview: Overview, now: datetime) -> list[Any]:
    """The table of all groups, what is to be said of each, and how old the looks are."""
    if not overview.rows:
        return ["no group is protected yet"]
    blocks: list[Any] = [Table(_HEADS, tuple(_cells(row, now) for row in overview.rows))]
    for row in overview.rows:
        blocks += _under(row, now)
    sites = [f"{site.name} {_age(site.looked_age_s)}" for site in overview.sites]
    blocks.append(f"looked: {', '.join(sites) if sites else 'never'} · {_serving(overview, now)}")
    return blocks


def _cells(row: Row, now: datetime) -> tuple[Any, ...]:
    age = "-" if row.point_age_s is None else format_duration(round(row.point_age_s))
    late = " !" if row.rpo_met is False else ""
    drill = "never !"
    if row.drill is not None:
        word = "passed" if row.drill.passed else "FAILED !"
        drill = f"{moment(row.drill.at, now)} {word}" + (
            " !" if row.drill_fresh is False and row.drill.passed else ""
        )
    standby = f"{row.standby_ready}/{row.standby_of}"
    return (
        row.group,
        row.state,
        row.active,
        moment(row.point_at, now) if row.point_at else None,
        f"{age}/{format_duration(row.rpo_objective_s)}{late}",
        standby,
        drill,
        _failing(row.failing_now),
    )


def _failing(told: IfItFailedNow) -> str:
    rto = (
        "RTO unknown" if told.rto_s is None else f"RTO ~{format_duration(told.rto_s)} (p75 of {told.samples})"
    )
    if told.rpo_s is None:
        return f"{rto}  nothing to restore"
    sign = "RPO " if told.rpo_exact else "RPO ≤ "
    return f"{rto}  {sign}{format_duration(told.rpo_s)}"


def _under(row: Row, now: datetime) -> list[str]:
    lines = [f"{row.group}: {run.text}" for run in row.live]
    lines += [f"{row.group}:   {note}" for run in row.live for note in run.notes]
    lines += [f"{row.group}: {row.burst.text}"] if row.burst is not None else []
    told = {run.text for run in row.live}
    for problem in row.problems:
        if problem.text in told:
            continue
        since = f" since {moment(problem.since, now)}" if problem.since is not None else ""
        lines.append(f"{row.group}: {problem.text}{since}")
    return lines


def _serving(overview: Overview, now: datetime) -> str:
    if not overview.services:
        due = ""
        serving = "serve: not running"
    else:
        due = ", ".join(f"{one.kind} {one.group} {moment(one.at, now)}" for one in overview.next_due[:3])
        serving = f"serve: running on {', '.join(sorted({one.host for one in overview.services}))}"
    return serving + (f", next: {due}" if due else "")


def _age(seconds: float | None) -> str:
    return "never" if seconds is None else f"{format_duration(round(seconds))} ago"


def _site_line(site: SiteLook, now: datetime) -> str:
    if site.answers is None:
        return f"{site.name}  never looked at"
    if site.answers:
        return f"{site.name}  fine: {site.detail or 'answers'}, looked {_age(site.looked_age_s)}"
    silent = f" since {moment(site.silent_since, now)} ({_age(site.silent_s)})" if site.silent_since else ""
    what = "refuses us" if site.refusal else "no answer"
    return f"{site.name}  {what}{silent}, looked {_age(site.looked_age_s)}: {site.detail}"


def page_blocks(page: GroupPage, now: datetime) -> list[Any]:
    """The page of one group: its line, its sites, then a table for each thing that there is."""
    blocks: list[Any] = [Table(_HEADS, (_cells(page.row, now),)), *_under(page.row, now)]
    blocks += [f"  {_site_line(site, now)}" for site in page.sites]
    for table in _tables(page, now):
        if table.rows:
            blocks += ["", table]
    return blocks + [f"{one.severity}: {one.message}   (seen {_when(one)})" for one in page.findings]


def _when(one: Open) -> str:
    """How old a finding is, and whether a run that ended since may have mended it."""
    return _age(one.seen_age_s) + (f", before {one.before} ended; check again" if one.before else "")


def _tables(page: GroupPage, now: datetime) -> Iterator[Table]:
    yield Table(
        ("TIER", "KIND", "MEMBER", "ID", "DETAIL", "VOLUMES"),
        tuple((m.tier, m.kind, m.key, m.id, m.detail, _volumes(m)) for m in page.members),
    )
    yield Table(
        ("STANDBY", "SITE", "STATE", "WHY"),
        tuple((s.tier, s.site, s.state, s.facts.get("unhealthy") or None) for s in page.standbys),
    )
    yield Table(
        ("BUCKET", "ACTIVE", "STANDBY", "IN STEP SINCE", "AGE", "OBJECTS", "BY"),
        tuple(
            (b.key, b.active, b.standby, _at(b.synced_at, now), span(b.age_s), b.objects, b.by or None)
            for b in page.buckets
        ),
    )
    yield Table(
        ("CONDITION", "VALUE", "REASON", "SINCE"),
        tuple((c.name, _truth(c.value), c.reason, _at(c.since, now)) for c in page.conditions),
    )
    yield Table(
        ("POINT", "STATE", "TAKEN", "AGE", "SITE", "PROVEN BY"),
        tuple(
            (p.id, p.state, _at(p.captured_at, now), span(p.age_s), p.site, p.proven_by) for p in page.points
        ),
    )
    yield Table(("FENCE", "STATE", "SINCE"), tuple((f.site, f.state, _at(f.at, now)) for f in page.fences))
    yield Table(
        ("RUN", "MODE", "STATE", "RESULT", "BEGUN", "TOOK", "BY"),
        tuple(
            (r.name, r.mode, r.state, r.result, _at(r.created_at, now), span(r.seconds), r.by)
            for r in page.runs
        ),
    )


def _at(at: datetime | None, now: datetime) -> str | None:
    return moment(at, now) if at is not None else None


def _volumes(member: Member) -> str | None:
    return f"{member.volumes} ({member.size_gib} GiB)" if member.volumes else None


def _truth(value: bool | None) -> str:
    return "unknown" if value is None else "yes" if value else "no"


def span(seconds: float | None) -> str | None:
    """A duration for a cell; None stays None."""
    return None if seconds is None else format_duration(round(seconds, 1) if seconds < 60 else seconds)
