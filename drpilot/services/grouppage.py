"""One group in full: members, standbys, conditions, points, fences, runs and findings. From the journal alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from drpilot.domain.group import Tier
from drpilot.domain.hysteresis import ONE_WRITER, WITNESS_AGREES, Streak
from drpilot.domain.point import RecoveryPoint
from drpilot.journal.body import moment
from drpilot.journal.views import FindingView, GroupView
from drpilot.services.bucketlag import BucketLine, bucket_lines
from drpilot.services.conditions import Facts, assess
from drpilot.services.status import Known, KnownGroup, Row, SiteLook, ended_since, row_of, site_look

__all__ = ["Condition", "GroupPage", "Member", "group_page"]

POINTS = 10


@dataclass(frozen=True, slots=True)
class Member:
    """One protected thing as last seen on the active side."""

    tier: str
    kind: str
    key: str
    id: str
    detail: str
    volumes: int = 0
    size_gib: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """The standby of one tier on one site."""

    tier: str
    site: str
    state: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition with its reason, since when it is so, and how old the look is (0 where the journal itself tells)."""

    name: str
    value: bool | None
    reason: str
    since: datetime | None
    looked_age_s: float | None


@dataclass(frozen=True, slots=True)
class PointLine:
    """A recovery point in a list."""

    id: str
    state: str
    source: str
    site: str
    captured_at: datetime | None
    age_s: float | None
    size_gib: int
    replicas: int
    proven_by: str | None
    pinned: bool


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run in a list."""

    name: str
    mode: str
    state: str
    result: str | None
    by: str
    created_at: datetime
    seconds: float | None


@dataclass(frozen=True, slots=True)
class FenceLine:
    """What is known of a fence."""

    site: str
    state: str
    at: datetime | None
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Open:
    """An open finding: since when, how long ago a check last saw it, and the run that has ended since (if one has)."""

    word: str
    severity: str
    message: str
    hint: str
    since: datetime
    seen_age_s: float
    before: str = ""


@dataclass(frozen=True, slots=True)
class GroupPage:
    """The screen of `status GROUP`."""

    at: datetime
    row: Row
    primary: str
    secondary: str
    invalidated: tuple[str, ...]
    members: tuple[Member, ...]
    standbys: tuple[Standing, ...]
    conditions: tuple[Condition, ...]
    points: tuple[PointLine, ...]
    points_total: int
    fences: tuple[FenceLine, ...]
    runs: tuple[RunLine, ...]
    buckets: tuple[BucketLine, ...]
    findings: tuple[Open, ...]
    sites: tuple[SiteLook, ...]
    next: str


def group_page(known: Known, now: datetime) -> GroupPage:
    """The page of the first group of a snapshot (`read(journal, group)`). Pure."""
    group = known.groups[0]
    view, row = group.view, row_of(group, known, now)
    return GroupPage(
        at=now,
        row=row,
        primary=view.group.primary,
        secondary=view.group.secondary,
        invalidated=view.invalidated,
        members=tuple(member for tier in view.group.tiers for member in _members(tier)),
        standbys=tuple(Standing(s.tier, s.site, s.state, dict(s.facts)) for s in group.standbys),
        conditions=_conditions(group, known, now),
        points=tuple(_point(point, now) for point in group.points[:POINTS]),
        points_total=len(group.points),
        fences=tuple(
            FenceLine(site, str(entry.get("state", "none")), moment(entry.get("at")), _rest(entry))
            for site, entry in sorted(view.fences.items())
        ),
        runs=tuple(
            RunLine(
                run.name,
                run.mode,
                run.state,
                run.result,
                run.by,
                run.created_at,
                (run.ended_at - run.created_at).total_seconds() if run.ended_at else None,
            )
            for run in group.recent[:5]
        ),
        buckets=bucket_lines(view, group.recent, now, group.receipts),
        findings=tuple(_open(finding, group, now) for finding in group.findings),
        sites=tuple(
            site_look(site, now) for site in known.sites if site.name in (view.active, view.standing)
        ),
        next=row.next,
    )


def _open(finding: FindingView, group: KnownGroup, now: datetime) -> Open:
    return Open(
        finding.word,
        finding.severity,
        finding.message,
        finding.hint,
        finding.first_at,
        (now - finding.last_at).total_seconds(),
        ended_since(finding, group.ended),
    )


def _members(tier: Tier) -> list[Member]:
    found = [
        Member(
            tier.name,
            "instance",
            item.key,
            item.id,
            " ".join(filter(None, (item.type, item.zone, item.state, item.elastic_address))),
            len(item.volumes),
            sum(volume.size_gib for volume in item.volumes),
        )
        for item in tier.instances
    ]
    if tier.scaling_group is not None:
        group = tier.scaling_group
        found.append(
            Member(tier.name, "scaling group", group.key, group.key, f"{group.type} ×{group.desired}")
        )
    if tier.load_balancer is not None:
        found.append(
            Member(
                tier.name,
                "load balancer",
                tier.load_balancer.key,
                tier.load_balancer.arn,
                tier.load_balancer.dns,
            )
        )
    return found


def _conditions(group: KnownGroup, known: Known, now: datetime) -> tuple[Condition, ...]:
    """What the journal tells now, with since when and how it was last looked at live; then locks and the pause."""
    view, sites = group.view, {site.name: site for site in known.sites}
    drills = [run for run in group.past if run.mode == "drill"]
    found = []
    for item in assess(Facts(view, group.points, group.standbys, sites, drills), now):
        stored = view.conditions.get(item.name, {})
        same = bool(stored) and stored.get("value") == item.value
        looked = moment(stored.get("looked_at"))
        age = (now - looked).total_seconds() if looked is not None else None
        reason = str(stored["reason"]) if same and stored.get("reason") else item.reason
        found.append(
            Condition(item.name, item.value, reason, moment(stored.get("since")) if same else None, age)
        )
    return (*found, *_looked(view, now), *_guards(view, now))


def _looked(view: GroupView, now: datetime) -> Iterator[Condition]:
    """What only live looks tell, as the newest of them said."""
    for name in (ONE_WRITER, WITNESS_AGREES):
        streak = Streak.of(view.conditions.get(name))
        if streak is not None:
            reason = str(view.conditions[name].get("reason", ""))
            age = (now - streak.looked_at).total_seconds()
            yield Condition(name, streak.value, reason, streak.since, age)


def _guards(view: GroupView, now: datetime) -> tuple[Condition, ...]:
    locked = f"by {view.locked_by}: {view.locked_reason or ''}" if view.locked_by else "not locked"
    left = 0.0
    if view.moved_at is not None and view.acknowledged_at is None:
        left = view.group.cooldown_s - (now - view.moved_at).total_seconds()
    pause = f"the next move is free in {left:.0f} s" if left > 0 else "no move lately"
    return (
        Condition("Locked", view.locked_by is not None, locked, view.locked_at, 0.0),
        Condition("CooldownActive", left > 0, pause, view.moved_at, 0.0),
    )


def _point(point: RecoveryPoint, now: datetime) -> PointLine:
    age = (now - point.captured_at).total_seconds() if point.captured_at is not None else None
    size = sum(replica.size_gib for replica in point.replicas if replica.kind == "snapshot")
    return PointLine(
        point.id,
        point.state,
        point.source,
        point.site,
        point.captured_at,
        age,
        size,
        len(point.replicas),
        point.proven_by,
        bool(point.pins),
    )


def _rest(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ("state", "at")}
