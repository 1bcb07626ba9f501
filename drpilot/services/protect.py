"""Taking a group in: its file read, its members found, everything mapped or reported; and letting it go again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from drpilot.base.document import refusal
from drpilot.base.errors import DrpilotError, Finding
from drpilot.domain.group import Group, Tier
from drpilot.domain.path import path_between
from drpilot.domain.ports import CloudError, FailureClass
from drpilot.domain.run import RunView
from drpilot.domain.sizing import grown_types, waiting_type
from drpilot.inventory import groupfile
from drpilot.inventory.discover import carried, members, uncarried, unprotected
from drpilot.inventory.draft import draft as write_draft
from drpilot.inventory.groupfile import GroupDocument
from drpilot.inventory.losses import losses
from drpilot.inventory.making import Making, making
from drpilot.inventory.parity import Parity, Stock, judge
from drpilot.inventory.partners import look
from drpilot.inventory.survey import Surveyed, offer, survey
from drpilot.journal.views import GroupView
from drpilot.services.begin import Asking, Typed, begin, consent, propose
from drpilot.services.house import House
from drpilot.services.watch import next_burst, next_drill, next_replication

__all__ = ["Drafted", "Preview", "Row", "draft", "preview", "previewed", "protect", "retire", "schedule"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the preview: a member, what it is now and what it becomes."""

    tier: str
    member: str
    now: str
    becomes: str
    by: str


@dataclass(frozen=True, slots=True)
class Preview:
    """What protecting a file would do; `data_path` is how bytes get to the other side, in words."""

    group: Group
    active: str
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]
    unprotected: tuple[Finding, ...]
    size_gib: int
    data_path: str
    made: tuple[str, ...] = ()  # what a `configure` run will make on the other side

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that stand in the way."""
        return tuple(finding for finding in self.findings if finding.severity == "error")


def preview(house: House, text: str, file: str, *, make_missing: bool = False) -> Preview:
    """Read a group file, find its members on the active side, and say what would become of each.

    With `make_missing` a key pair or security group that the other side lacks and a `configure` run can make is no
    error; why one can't be made is.
    """
    document = groupfile.read(text, file, tuple(house.configuration.sites))
    group = document.group
    if group is None:
        raise refusal(file, document.findings)
    active = _active(house, group)
    found = members(house.site(active), group)
    stock, silent = _looked(house, found, active, document)
    judged = judge(found, active, stock) if stock is not None else ()
    made = making(found, active, house.site, stock) if make_missing else Making()
    plan = previewed(house, found, active, (judged, made), document)
    return replace(plan, findings=(*document.findings, *silent, *plan.findings))


def previewed(
    house: House,
    found: Group,
    active: str,
    seen: tuple[tuple[Parity, ...], Making],
    document: GroupDocument | None = None,
) -> Preview:
    """What would become of each member of a group whose other side was looked at; `found` carries its members.

    Findings stand at their places in `document`; without one, at the keys of the group file.
    """
    site, other = house.site(active), found.other(active)
    there = house.site(other).capabilities
    judged, made = seen
    later = (
        *carried(found, found.mapping(active), other, there),
        *uncarried(site, found, there),
        *losses(found, site.capabilities, there, other),
    )
    placed = [_made(finding, made, other) for finding in _partners(judged, document)]
    where = document.position("map") if document is not None else "map"
    placed += [Finding("partner-missing", "error", why, where) for why in made.refused]
    size = sum(volume.size_gib for tier in found.tiers for each in tier.instances for volume in each.volumes)
    return Preview(
        group=found,
        active=active,
        rows=tuple(
            row
            for tier in found.tiers
            for row in _rows(tier, found, active, alike=house.alike(active, found.other(active)))
        ),
        findings=(*(document.located(later) if document is not None else later), *placed),
        unprotected=unprotected(site, found),
        data_path=path_between(site.capabilities, there).words,
        size_gib=size,
        made=made.names,
    )


def _partners(judged: tuple[Parity, ...], document: GroupDocument | None) -> Iterator[Finding]:
    """What the file names and the other side has not, each at its place in the file."""
    for each in judged:
        if each.finding is not None and document is not None:
            yield replace(each.finding, where=document.position(*each.ask.path))
        elif each.finding is not None:
            yield each.finding


def _looked(
    house: House, group: Group, active: str, document: GroupDocument
) -> tuple[Stock | None, tuple[Finding, ...]]:
    """What the other side has, or a finding that says why nobody knows.

    A group that is known is looked after even while its other side is silent, which is said; a new one is not taken in
    before its other side was seen.
    """
    try:
        return look(group, active, house.site), ()
    except CloudError as error:
        silent = error.kind in (FailureClass.TRANSIENT, FailureClass.TIMEOUT)
        if not silent or error.site != group.other(active) or _known(house, group) is None:
            raise
        message = (
            f"{error.site} does not answer: nobody looked whether it has what the file names ({error.code})"
        )
        where = document.position("secondary" if error.site == group.secondary else "primary")
        hint = f"drpilot site check {error.site}"
        return None, (Finding("partner-untold", "warning", message, where, hint),)


def _made(finding: Finding, made: Making, site: str) -> Finding:
    """What is missing and will be made stands in nobody's way."""
    if finding.word != "partner-missing" or not finding.message.startswith(
        tuple(f"{one} " for one in made.names)
    ):
        return finding
    return replace(finding, severity="info", hint=f"the first run makes it on {site}")


def _known(house: House, group: Group) -> GroupView | None:
    return {view.name: view for view in house.journal.groups()}.get(group.name)


def _active(house: House, group: Group) -> str:
    known = _known(house, group)
    return known.active if known is not None else group.primary


def _rows(tier: Tier, group: Group, active: str, *, alike: bool) -> list[Row]:
    rows = []
    for instance in tier.instances:
        size = waiting_type(group, tier, instance.type, active, alike=alike)
        grow = grown_types(group, tier, instance.type, active, alike=alike)[0]
        volumes = len(instance.volumes)
        rows.append(
            Row(
                tier.name,
                instance.key,
                instance.type,
                f"standby {size} → {grow}",
                f"image + {volumes} volumes" + (" + address" if instance.elastic_address else ""),
            )
        )
    if tier.scaling_group is not None:
        asg = tier.scaling_group
        grow_count = tier.standby.grow_count if tier.standby.grow_count is not None else asg.desired
        rows.append(
            Row(
                tier.name,
                f"{asg.key} ×{asg.desired}",
                asg.type,
                f"scaling group {tier.standby.count} → {grow_count}",
                "image",
            )
        )
    if tier.load_balancer is not None:
        rows.append(
            Row(tier.name, tier.load_balancer.key, tier.load_balancer.type, "load balancer", "configuration")
        )
    return rows


def protect(house: House, text: str, file: str, *, make_missing: bool = False) -> tuple[GroupView, Preview]:
    """Take the file in; the first point is a `replicate` run, begun by the caller. Raises on what has no partner.

    With `make_missing` a `configure` run comes before that where the preview says `made`.
    """
    plan = preview(house, text, file, make_missing=make_missing)
    if plan.errors:
        raise refusal(file, plan.errors)
    view = house.journal.protect(plan.group, text, house.person)
    house.journal.remember(plan.group, plan.active)
    lasting = [finding for finding in (*plan.findings, *plan.unprotected) if finding.severity != "info"]
    house.journal.found(plan.group.name, lasting)
    schedule(house, plan.group)
    return view, plan


def schedule(house: House, group: Group) -> None:
    """Make the group's replication, drill and burst due; the service begins them."""
    now = house.clock.now()
    house.journal.unschedule(group.name)
    house.journal.plan_next(group.name, "replicate", next_replication(group, now))
    drill = next_drill(group, now)
    if drill is not None:
        house.journal.plan_next(group.name, "drill", drill)
    burst, running = next_burst(group, now), house.journal.group(group.name).burst
    if burst is not None:
        house.journal.plan_next(group.name, "burst", burst)
    if running.running:  # its end stays due, whatever the file says by now
        house.journal.plan_next(group.name, "unburst", running.until or now)


@dataclass(frozen=True, slots=True)
class Drafted:
    """A first group file, what it was made from, and what a site would not list (`SITE SERVICE:Operation`: why)."""

    text: str
    tiers: Mapping[str, Surveyed]
    untold: Mapping[str, str]


def draft(house: House, name: str, source: str, target: str, tag: str | None) -> Drafted:
    """A group file from what runs on `source`, guesses marked; nothing is written.

    Raises DrpilotError (usage, unknown-site, no-members) and CloudError.
    """
    try:
        groupfile.valid_name(name)
        if tag is not None:
            groupfile.valid_tag(tag)
    except ValueError as error:
        raise DrpilotError(
            "usage", what=str(error), hint="drpilot group new NAME --tag KEY=VALUE …"
        ) from None
    if source == target:
        hint = "the other site is where the group should go; drpilot site list"
        raise DrpilotError("usage", what=f"--from and --to are both {source}", hint=hint)
    sites = house.site(source), house.site(target)
    here, there = survey(sites[0], tag), offer(sites[1])
    untold = {f"{each.site} {what}": why for each in (here, there) for what, why in each.untold.items()}
    return Drafted(write_draft(name, here, there, tag), here.tiers, untold)


def retire(house: House, group: str, confirm: str | None, reason: str = "") -> RunView:
    """Begin the run that removes standbys, points and tags; what runs stays. The name must have been typed."""
    offer = propose(house, "retire", group, Asking(reason=reason))
    approval = consent(house, offer, Typed(confirm))
    house.journal.unschedule(group)
    return begin(house, offer, approval)
