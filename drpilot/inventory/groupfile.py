"""The group file (shop.yaml): YAML to a protection group without its members, with findings at
file:line:column.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from drpilot.base.document import (
    DocumentModel,
    Duration,
    Flag,
    Integer,
    Loaded,
    Version,
    closest,
    load,
    refusal,
)
from drpilot.base.errors import Finding
from drpilot.base.units import format_duration
from drpilot.domain.group import (
    Approvals,
    Bucket,
    Check,
    DrillPolicy,
    Group,
    Map,
    Objectives,
    Retention,
    Selector,
    Staging,
    StandbySize,
    Tier,
    Traffic,
)
from drpilot.inventory.burstfile import BurstModel, burst_findings, burst_policy
from drpilot.inventory.draft import draft
from drpilot.inventory.words import Cron, SiteName, Span, TierName, TimeZone, Word

__all__ = [
    "MAP_KINDS",
    "GroupDocument",
    "GroupModel",
    "draft",
    "read",
    "require_group",
    "valid_name",
    "valid_tag",
]

MAP_KINDS = ("zones", "subnets", "types", "keys", "security_groups", "kms_keys", "profiles")
Rung = Literal["traffic", "scale", "stop", "deny", "credentials"]

_GROUP_NAME = r"[a-z][a-z0-9-]*"


# -- the keys of the file --------------------------------------------------------------------------


def _partner(text: str) -> str:
    if not text.strip():
        raise ValueError("has no partner yet; name what it becomes on the other site")
    return text


def _bucket(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", text):
        raise ValueError(
            f"{text[:70]!r} is no name of a bucket; write 3 to 63 small letters, digits, dots, hyphens"
        )
    return text


def _bucket_place(text: str) -> str:
    name, slash, prefix = text.partition("/")
    if slash and (not prefix.strip("/") or prefix.startswith("/")):
        raise ValueError(f"{text[:70]!r} names no folder; write BUCKET or BUCKET/PREFIX")
    return f"{_bucket(name)}{slash}{prefix.rstrip('/')}"


def valid_name(text: str) -> str:
    """The text, if it can be a group's name; ValueError says how one is written."""
    if not re.fullmatch(_GROUP_NAME, text) or len(text) > 40:
        raise ValueError(f"{text[:60]!r} is no name of a group; write small letters, digits and hyphens")
    return text


def valid_tag(text: str) -> str:
    """The text, if it is a tag that selects members; ValueError says how one is written."""
    key, sign, value = text.partition("=")
    if not (key.strip() and sign and value.strip()) or len(text) > 300:
        raise ValueError(f"{text[:60]!r} is no tag; write KEY=VALUE")
    if key.startswith("drpilot:"):
        raise ValueError("tags that begin with drpilot: are drpilot's own")
    return text


def _http(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#]+[^\s]*", text) or re.findall(
        r"\{(?!address\})|(?<!\{address)\}", text
    ):
        raise ValueError(f"{text[:60]!r} is no URL; write http://{{address}}:8080/healthz or a whole one")
    return text


GroupName = Annotated[str, StringConstraints(pattern=f"^{_GROUP_NAME}$", max_length=40)]
Tag = Annotated[str, AfterValidator(valid_tag)]
Pairs = dict[Word, Annotated[str, AfterValidator(_partner)]]
Count = Annotated[Integer, Field(ge=0, le=1000)]
People = Annotated[Integer, Field(ge=1, le=9)]


class ObjectivesModel(DocumentModel):
    """What the business asked for."""

    rpo: Span
    rto: Span


class KeepModel(DocumentModel):
    """Retention of recovery points."""

    last: Annotated[Integer, Field(ge=1, le=1000)] = 6
    hourly: Count = 24
    daily: Count = 14


class ReplicateModel(DocumentModel):
    """How often a point is made and how many are kept."""

    every: Span = 600.0
    keep: KeepModel = KeepModel()


class DrillModel(DocumentModel):
    """When the group is drilled.

    `outbound: open` accepts that a cloud without networks can't keep a drill's machines from speaking out.
    """

    cron: Cron | None = None
    timezone: TimeZone = "UTC"
    expires: Span = 7200.0
    outbound: Literal["closed", "open"] = "closed"


class ApprovalsModel(DocumentModel):
    """How many persons a move needs."""

    failover: People = 2
    switchover: People = 1
    commit: People = 1


class MapModel(DocumentModel):
    """What becomes what; left is the primary's name."""

    zones: Pairs = Field(default_factory=dict)
    subnets: Pairs = Field(default_factory=dict)
    types: Pairs = Field(default_factory=dict)
    keys: Pairs = Field(default_factory=dict)
    security_groups: Pairs = Field(default_factory=dict)
    kms_keys: Pairs = Field(default_factory=dict)
    profiles: Pairs = Field(default_factory=dict)


class SelectorModel(DocumentModel):
    """How the instances of a tier are found."""

    tag: Tag | None = None
    ids: (
        Annotated[
            tuple[Annotated[str, StringConstraints(pattern=r"^i-[0-9A-Za-z]+$")], ...], Field(min_length=1)
        ]
        | None
    ) = None


class StandbyModel(DocumentModel):
    """The minimal standby: a type to wait with and one to grow to, or counts of a scaling group."""

    size: Word | None = None
    grow: Word | None = None
    otherwise: tuple[Word, ...] = ()
    count: Count | None = None


class CheckModel(DocumentModel):
    """What proves a tier works."""

    tcp: Annotated[Integer, Field(ge=1, le=65535)] | None = None
    http: Annotated[str, AfterValidator(_http)] | None = None
    contains: Word | None = None


class TierModel(DocumentModel):
    """One tier."""

    instances: SelectorModel | None = None
    scaling_group: Word | None = None
    load_balancer: Word | None = None
    freeze: tuple[Word, ...] = ()
    bootstrap: Annotated[tuple[Word, ...], Field(max_length=50)] = ()
    standby: StandbyModel = StandbyModel()
    check: CheckModel | None = None


class TrafficModel(DocumentModel):
    """The name users reach the group by."""

    name: Word
    zone: Word
    site: SiteName
    ttl: Annotated[Integer, Field(ge=1, le=86_400)] = 60


class MoverModel(DocumentModel):
    """The machine that reads snapshots where a cloud gives them to nobody."""

    image: Word | None = None
    type: Word = "m1.small"


class StagingModel(DocumentModel):
    """Where bytes lie between two unlike clouds."""

    bucket: Annotated[str, AfterValidator(_bucket)] | None = None
    mover: MoverModel = MoverModel()


class BucketModel(DocumentModel):
    """A bucket that is kept in step, or a folder of one, as each site names it."""

    primary: Annotated[str, AfterValidator(_bucket_place)]
    secondary: Annotated[str, AfterValidator(_bucket_place)]
    delete: Flag = False


class GroupModel(DocumentModel):
    """The whole group file."""

    drpilot: Version
    group: GroupName
    primary: SiteName
    secondary: SiteName
    objectives: ObjectivesModel
    replicate: ReplicateModel = ReplicateModel()
    drill: DrillModel = DrillModel()
    approvals: ApprovalsModel = ApprovalsModel()
    map: MapModel = MapModel()
    tiers: Annotated[dict[TierName, TierModel], Field(min_length=1, max_length=20)]
    traffic: TrafficModel | None = None
    fence: Annotated[tuple[Rung, ...], Field(min_length=1)] = ("traffic", "scale", "stop", "deny")
    cooldown: Duration = 3600.0
    tag: Tag | None = None
    staging: StagingModel = StagingModel()
    burst: BurstModel | None = None
    buckets: Annotated[dict[TierName, BucketModel], Field(default_factory=dict, max_length=100)]


# -- reading ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GroupDocument:
    """A group file as read: `group` is None where a finding is an error."""

    group: Group | None
    findings: tuple[Finding, ...]
    loaded: Loaded[GroupModel]

    def located(self, findings: Iterable[Finding]) -> tuple[Finding, ...]:
        """Findings of later checks, whose `where` is a path such as `map.zones` or `tiers.db`, with their
        place.
        """
        return tuple(replace(each, where=self.position(*each.where.split("."))) for each in findings)

    def position(self, *path: str | int) -> str:
        """`shop.yaml:16:5`: the entry at `path`, or the nearest one around it."""
        return self.loaded.position(path)


def require_group(text: str, file: str, sites: Collection[str]) -> Group:
    """The group of a file; raises DrpilotError `document` with all findings in its `data`."""
    document = read(text, file, sites)
    if document.group is None:
        raise refusal(file, document.findings)
    return document.group


def read(text: str, file: str, sites: Collection[str]) -> GroupDocument:
    """Read a group file; `sites` are the names in drpilot.yaml. Never raises for a wrong text."""
    loaded = load(GroupModel, text, file)
    if loaded.value is None:
        return GroupDocument(None, loaded.findings, loaded)
    findings = (
        *_sites(loaded, loaded.value, sites),
        *_pairs(loaded, loaded.value),
        *_timing(loaded, loaded.value),
        *_tiers(loaded, loaded.value),
        *_burst(loaded, loaded.value, sites),
        *_buckets(loaded, loaded.value),
    )
    failed = any(finding.severity == "error" for finding in findings)
    return GroupDocument(None if failed else _group(loaded.value, file), findings, loaded)


def _sites(loaded: Loaded[GroupModel], model: GroupModel, sites: Collection[str]) -> Iterator[Finding]:
    places: list[tuple[tuple[str, ...], str]] = [
        (("primary",), model.primary),
        (("secondary",), model.secondary),
    ]
    if model.traffic is not None:
        places.append((("traffic", "site"), model.traffic.site))
    for path, site in places:
        if site not in sites:
            what = f"site {site!r} is not in drpilot.yaml{closest(site, sites)}"
            yield loaded.finding("unknown-site", path, what, hint=f"drpilot site add {site} …")
    if model.primary == model.secondary:
        yield loaded.finding("wrong-value", ("secondary",), "primary and secondary are the same site")


def _pairs(loaded: Loaded[GroupModel], model: GroupModel) -> Iterator[Finding]:
    """The map is read from right to left on the way back, so each right side stands once."""
    for kind in MAP_KINDS:
        first: dict[str, str] = {}
        for left, right in getattr(model.map, kind).items():
            if right in first:
                what = f"map.{kind}: {first[right]} and {left} both become {right}"
                yield loaded.finding("mapping-not-one-to-one", ("map", kind, left), what)
            first.setdefault(right, left)


def _buckets(loaded: Loaded[GroupModel], model: GroupModel) -> Iterator[Finding]:
    """No place of a bucket may lie in another one of the same site: each sync would undo the other."""
    for side in ("primary", "secondary"):
        places = [(name, f"{getattr(bucket, side)}/") for name, bucket in model.buckets.items()]
        for index, (name, place) in enumerate(places):
            for other, held in places[:index]:
                if place.startswith(held) or held.startswith(place):
                    what = f"{place.rstrip('/')} lies in {held.rstrip('/')} of bucket {other}, or around it"
                    yield loaded.finding("wrong-value", ("buckets", name, side), what)


def _timing(loaded: Loaded[GroupModel], model: GroupModel) -> Iterator[Finding]:
    every, rpo = model.replicate.every, model.objectives.rpo
    if every > rpo:
        what = f"a point every {format_duration(every)} can't keep an RPO of {format_duration(rpo)}"
        yield loaded.finding("wrong-value", ("replicate", "every"), what, severity="warning")
    for index, rung in enumerate(model.fence):
        if rung in model.fence[:index]:
            yield loaded.finding("wrong-value", ("fence", index), f"rung {rung!r} stands twice")


def _tiers(loaded: Loaded[GroupModel], model: GroupModel) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for name, tier in model.tiers.items():
        at = ("tiers", name)
        if (tier.instances is None) == (tier.scaling_group is None):
            what = f"tier {name!r} needs either instances or a scaling_group"
            yield loaded.finding("wrong-value", at, what + (", not both" if tier.instances else ""))
            continue
        if tier.instances is not None and (tier.instances.tag is None) == (tier.instances.ids is None):
            yield loaded.finding(
                "wrong-value", (*at, "instances"), "instances are found by a tag or by ids, one of both"
            )
        key, kind = (
            (tier.scaling_group, "scaling_group")
            if tier.instances is None
            else (tier.instances.tag, "instances")
        )
        if key is not None and key in seen:
            yield loaded.finding("wrong-value", (*at, kind), f"tier {seen[key]!r} has {key} already")
        seen[key or ""] = name
        yield from _standby(loaded, name, tier)
        if len(tier.freeze) not in (0, 2):
            yield loaded.finding(
                "wrong-value", (*at, "freeze"), "freeze holds two commands: one that freezes, one that thaws"
            )
        if tier.bootstrap and tier.scaling_group is not None:
            what = (
                "bootstrap is for instances; a scaling group's machines come at any time: give them user data"
            )
            yield loaded.finding("wrong-value", (*at, "bootstrap"), what)
        if tier.check is not None and tier.check.tcp is None and tier.check.http is None:
            yield loaded.finding("wrong-value", (*at, "check"), "a check needs tcp or http")
        elif tier.check is not None and tier.check.contains is not None and tier.check.http is None:
            yield loaded.finding(
                "wrong-value", (*at, "check", "contains"), "contains looks into the answer of http"
            )


def _burst(loaded: Loaded[GroupModel], model: GroupModel, sites: Collection[str]) -> Iterator[Finding]:
    """A burst is of the tier that the group's name leads to, and that tier keeps nothing of its own."""
    if model.burst is None:
        return
    scaled = {name: tier.scaling_group is not None for name, tier in model.tiers.items()}
    front = next((name for name in reversed(model.tiers) if model.tiers[name].load_balancer), None)
    for path, what in burst_findings(model.burst, scaled, front if model.traffic else None, loaded.file):
        yield loaded.finding("wrong-value", ("burst", *path), what)
    alarm = model.burst.alarm
    if alarm is not None and alarm.site not in sites:
        what = f"site {alarm.site!r} is not in drpilot.yaml{closest(alarm.site, sites)}"
        yield loaded.finding(
            "unknown-site", ("burst", "alarm", "site"), what, hint=f"drpilot site add {alarm.site} …"
        )


def _standby(loaded: Loaded[GroupModel], name: str, tier: TierModel) -> Iterator[Finding]:
    at, standby = ("tiers", name, "standby"), tier.standby
    if tier.scaling_group is None:
        if standby.count is not None:
            yield loaded.finding(
                "wrong-value", (*at, "count"), "count is for a scaling group; instances wait stopped, as size"
            )
        if standby.grow is not None and standby.grow.isdecimal():
            yield loaded.finding(
                "wrong-value",
                (*at, "grow"),
                f"instances grow to a type such as m5.xlarge, not to {standby.grow}",
            )
        return
    for key in ("size", "otherwise"):
        if getattr(standby, key):
            yield loaded.finding(
                "wrong-value", (*at, key), f"{key} is for instances; a scaling group has count and grow"
            )
    if standby.grow is not None and not re.fullmatch(r"[1-9][0-9]{0,2}", standby.grow):
        what = f"a scaling group grows to a number of instances, not to {standby.grow!r}"
        yield loaded.finding("wrong-value", (*at, "grow"), what)


def _group(model: GroupModel, file: str) -> Group:
    keep, drill = model.replicate.keep, model.drill
    return Group(
        name=model.group,
        primary=model.primary,
        secondary=model.secondary,
        objectives=Objectives(model.objectives.rpo, model.objectives.rto),
        tiers=tuple(_tier(name, tier) for name, tier in model.tiers.items()),
        map=Map(**{kind: dict(getattr(model.map, kind)) for kind in MAP_KINDS}),
        replicate_every_s=model.replicate.every,
        retention=Retention(keep.last, keep.hourly, keep.daily),
        drill=DrillPolicy(drill.cron, drill.timezone, drill.expires, drill.outbound == "open"),
        approvals=Approvals(model.approvals.failover, model.approvals.switchover, model.approvals.commit),
        traffic=_traffic(model.traffic) if model.traffic else None,
        fence=tuple(model.fence),
        cooldown_s=model.cooldown,
        tag=model.tag,
        staging=_staging(model.staging),
        burst=burst_policy(model.burst, file) if model.burst else None,
        buckets=tuple(
            Bucket(name, one.primary, one.secondary, one.delete) for name, one in model.buckets.items()
        ),
    )


def _staging(model: StagingModel) -> Staging:
    return Staging(model.bucket or "", model.mover.image or "", model.mover.type)


def _traffic(model: TrafficModel) -> Traffic:
    return Traffic(model.name.rstrip("."), model.zone, model.site, model.ttl)


def _tier(name: str, model: TierModel) -> Tier:
    standby, scaled = model.standby, model.scaling_group is not None
    return Tier(
        name=name,
        selector=Selector(model.instances.tag, model.instances.ids or ()) if model.instances else None,
        scaling_group_name=model.scaling_group,
        load_balancer_name=model.load_balancer,
        standby=StandbySize(
            size=standby.size,
            grow=None if scaled else standby.grow,
            otherwise=standby.otherwise,
            count=standby.count or 0,
            grow_count=int(standby.grow) if scaled and standby.grow else None,
        ),
        check=Check(model.check.tcp, model.check.http, model.check.contains) if model.check else None,
        freeze=model.freeze,
        bootstrap=model.bootstrap,
    )
