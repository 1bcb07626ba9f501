"""Groups: drafted, taken in, locked, let go; and points kept or set aside."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drpilot.base.errors import Finding
from drpilot.base.units import format_duration, format_size
from drpilot.cli.act import ask_name
from drpilot.cli.attend import closing, follow, left
from drpilot.cli.documents import group_document, point_document, run_document
from drpilot.cli.look import PointName
from drpilot.cli.options import Detach, GroupName, reasoned
from drpilot.cli.render import Answer, Table, moment
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from drpilot.services.protect import Drafted, Preview

__all__ = [
    "group_acknowledge",
    "group_list",
    "group_lock",
    "group_new",
    "group_retire",
    "group_show",
    "group_unlock",
    "point_pin",
    "point_quarantine",
    "point_unpin",
    "preview_blocks",
    "preview_document",
    "protect",
]

SiteName = Annotated[str, typer.Argument(metavar="SITE", help="a site's name", show_default=False)]
Reason = Annotated[str, reasoned("why; kept with the group")]
Why = Annotated[str, reasoned("why; part of the evidence")]
Confirm = Annotated[
    str | None, typer.Option("--confirm", metavar="NAME", help="the group's name, typed back")
]
GIB = 1 << 30


# -- groups -----------------------------------------------------------------------------------------------------


def group_new(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the new group's name", show_default=False)],
    source: Annotated[str, typer.Option("--from", metavar="SITE", help="where the group runs")],
    target: Annotated[str, typer.Option("--to", metavar="SITE", help="where it should go")],
    tag: Annotated[
        str | None, typer.Option("--tag", metavar="KEY=VALUE", help="what belongs to the group")
    ] = None,
) -> Answer:
    """Draft a group file from what is running; guesses end in "# ?"; nothing is written."""
    from drpilot.services.protect import draft

    drafted = draft(session.house, name, source, target, tag)
    text, counts = drafted.text, _found(drafted)
    guesses = sum(1 for line in text.splitlines() if "# ?" in line)
    session.say(
        _found_line(counts),
        *(f"not listed: {what} ({why})" for what, why in drafted.untold.items()),
        f'{guesses} lines have "# ?": guessed, look at those. Keep it in {name}.yaml, then: '
        + session.command(f"protect {name}.yaml --dry-run"),
    )
    data = {"group": name, "group_file": text, "guesses": guesses, "found": counts, "untold": drafted.untold}
    return Answer(data, (text.rstrip("\n"),), raw=True)


def _found(drafted: Drafted) -> dict[str, int]:
    """How much of what was found; machines of scaling groups are counted apart."""
    tiers = drafted.tiers.values()
    instances = [one for tier in tiers for one in tier.instances]
    scaled = [one for tier in tiers for one in tier.scaling_groups]
    balancers = [one for tier in tiers for one in tier.load_balancers]
    volumes = [volume for one in instances for volume in one.volumes]
    guards = {name for one in instances for name in one.security_groups}
    guards |= {name for one in scaled for name in one.security_groups}
    guards |= {name for one in balancers for name in one.security_groups}
    return {
        "instances": len(instances),
        "volumes": len(volumes),
        "size_gib": sum(volume.size_gib for volume in volumes),
        "scaling_groups": len(scaled),
        "scaled_instances": sum(one.desired for one in scaled),
        "load_balancers": len(balancers),
        "security_groups": len(guards),
        "tiers": len([label for label in drafted.tiers if label]),
    }


def _found_line(counts: dict[str, int]) -> str:
    def some(key: str, word: str) -> str:
        return f"{counts[key]} {word}" + ("" if counts[key] == 1 else "s")

    size = format_size(counts["size_gib"] * GIB)
    scaled = f" ({some('scaled_instances', 'machine')})" if counts["scaling_groups"] else ""
    tiers = f'in {some("tiers", "tier")} (tag "tier")' if counts["tiers"] else 'with no tag "tier": one tier'
    return (
        f"found {some('instances', 'instance')}, {some('volumes', 'volume')} ({size}), "
        f"{some('scaling_groups', 'scaling group')}{scaled}, {some('load_balancers', 'load balancer')}, "
        f"{some('security_groups', 'security group')} {tiers}"
    )


def group_list(session: Session) -> Answer:
    """Every protected group."""
    views = session.house.journal.groups()
    if not views:
        return Answer({"groups": []}, ("no group is protected yet",), session.command("protect FILE"))
    rows = tuple((v.name, v.state, v.active, v.standing, v.epoch, v.locked_by) for v in views)
    table = Table(("GROUP", "STATE", "ACTIVE", "STANDBY ON", "EPOCH", "LOCKED BY"), rows)
    return Answer({"groups": [group_document(view) for view in views]}, (table,), session.command("status"))


def group_show(session: Session, group: GroupName) -> Answer:
    """One group: its file as taken in, and its members last seen."""
    from drpilot.services.migration import home_of

    view = session.house.journal.group(group)
    now = session.house.clock.now()
    home = home_of(session.house, view)
    lines = [
        f"{view.name}: {view.state}, active on {view.active}, home {home}, epoch {view.epoch}",
        f"locked by {view.locked_by}: {view.locked_reason}" if view.locked_by else "not locked",
        f"last move {moment(view.moved_at, now)}" if view.moved_at else "never moved",
        "",
        view.document.rstrip("\n"),
    ]
    return Answer(
        {**group_document(view), "home": home, "document": view.document},
        tuple(lines),
        session.command(f"status {group}"),
    )


def group_lock(session: Session, group: GroupName, reason: Reason) -> Answer:
    """Refuse every move of a group until it is unlocked."""
    house = session.house
    view = house.journal.group(group)
    if view.locked_by is not None:
        return Answer(
            {"result": "already_locked", "group": group, "by": view.locked_by, "reason": view.locked_reason},
            (f"{group} is locked already by {view.locked_by}: {view.locked_reason}",),
            session.command(f"group unlock {group}"),
        )
    house.journal.lock(group, house.person, reason)
    return Answer(
        {"result": "locked", "group": group, "by": house.person, "reason": reason},
        (f"{group} is locked: no move begins until it is unlocked",),
        session.command(f"group unlock {group}"),
    )


def group_unlock(session: Session, group: GroupName) -> Answer:
    """Allow moves again."""
    house = session.house
    if house.journal.group(group).locked_by is None:
        return Answer(
            {"result": "already_unlocked", "group": group},
            (f"{group} is not locked",),
            session.command(f"status {group}"),
        )
    house.journal.lock(group, house.person, None)
    return Answer(
        {"result": "unlocked", "group": group}, (f"{group} is unlocked",), session.command(f"status {group}")
    )


def group_acknowledge(session: Session, group: GroupName, reason: Reason) -> Answer:
    """End the pause after a move: you have seen it, the next one may begin."""
    house = session.house
    house.journal.group(group)
    house.journal.acknowledge(group, house.person, reason)
    return Answer(
        {"result": "acknowledged", "group": group},
        (f"{group}: the last move is acknowledged, the pause is over",),
        session.command(f"status {group}"),
    )


def group_retire(session: Session, group: GroupName, confirm: Confirm = None, reason: Why = "") -> Answer:
    """Let a group go: remove its standbys, points and tags, never what runs."""
    from drpilot.services import protect as service

    house = session.house
    view = house.journal.group(group)
    count = len(house.journal.points(group))
    points = "1 point" if count == 1 else f"{count} points"
    session.say(
        f"{group}: RETIRE  removes its standbys on {view.standing}, {points} and our tags; "
        f"what runs on {view.active} stays"
    )
    confirm = ask_name(session) if confirm is None else confirm
    begun = service.retire(house, group, confirm, reason)
    session.run = begun.name
    run = follow(session, begun.id)
    answer = closing(session, run)
    return Answer(
        {**answer.data, "result": run.result},
        (f"{group} is {house.journal.group(group).state}",),
        session.command("status"),
    )


# -- protect ------------------------------------------------------------------------------------------------------


def protect(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a group file", show_default=False)],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would become of each member and stop")
    ] = False,
    make_missing: Annotated[
        bool,
        typer.Option(
            "--make-missing",
            help="make key pairs and security groups that the other side lacks, before the first point",
        ),
    ] = False,
    detach: Detach = False,
) -> Answer:
    """Take a group file in and make the first point."""
    from drpilot.base.document import read_text
    from drpilot.services import protect as service
    from drpilot.services.begin import Asking, begin, propose

    text = read_text(file)
    if dry_run:
        plan = service.preview(session.house, text, str(file), make_missing=make_missing)
        lines = (*preview_blocks(plan), "nothing was changed")
        return Answer(
            {**preview_document(plan), "dry_run": True},
            lines,
            session.command(f"protect {file}" + (" --make-missing" if make_missing else "")),
            3 if plan.errors else 0,
        )
    house = session.house
    view, plan = service.protect(house, text, str(file), make_missing=make_missing)
    for block in preview_blocks(plan):
        session.say(*([block] if isinstance(block, str) else []))
    if view.state not in ("seeding", "protected", "degraded", "active_unprotected"):
        return Answer(
            {**preview_document(plan), "state": view.state},
            (f"{view.name}: the new file is taken in",),
            session.command(f"status {view.name}"),
        )
    asking = Asking(reason=f"protect {file.name}")
    if plan.made:
        session.say(f"to be made on {view.standing}: {', '.join(plan.made)}")
        closing(
            session, follow(session, begin(house, propose(house, "configure", view.name, asking), None).id)
        )
    run = begin(house, propose(house, "replicate", view.name, asking), None)
    session.run = run.name
    if detach:
        return left(session, run)
    ended = follow(session, run.id)
    answer = closing(session, ended)
    state = house.journal.group(view.name).state
    lines = (f"{view.name}: {view.active} → {view.standing} · {_sizes(plan)}", *answer.blocks)
    return Answer(
        {**preview_document(plan), "state": state, "run": run_document(ended)},
        lines,
        session.command("status"),
    )


def _sizes(plan: Preview) -> str:
    members = sum(len(tier.instances) + (1 if tier.scaling_group else 0) for tier in plan.group.tiers)
    volumes = sum(len(each.volumes) for tier in plan.group.tiers for each in tier.instances)
    return f"{len(plan.group.tiers)} tiers, {members} members, {volumes} volumes ({format_size(plan.size_gib * GIB)})"


def preview_blocks(plan: Preview) -> list[Any]:
    """What protecting would do, as lines and a table."""
    group, other = plan.group, plan.group.other(plan.active)
    wanted = f"RPO {format_duration(group.objectives.rpo_s)}, RTO {format_duration(group.objectives.rto_s)}"
    heads = ("TIER", "MEMBER", f"ON {plan.active.upper()}", f"BECOMES ON {other.upper()}", "BY")
    return [
        f"{group.name}  {plan.active} → {other}, {wanted} · {_sizes(plan)}",
        f"bytes: {plan.data_path}",
        Table(heads, tuple((r.tier, r.member, r.now, r.becomes, r.by) for r in plan.rows)),
        *(_finding(finding) for finding in (*plan.findings, *plan.unprotected)),
    ]


def _finding(finding: Finding) -> str:
    where = f"{finding.where}: " if finding.where else ""
    hint = f"   ({finding.hint})" if finding.hint else ""
    return f"{where}{finding.severity}[{finding.code}]: {finding.message}{hint}"


def preview_document(plan: Preview) -> dict[str, Any]:
    """The same as data."""
    return {
        "group": plan.group.name,
        "active": plan.active,
        "standing": plan.group.other(plan.active),
        "rpo_seconds": plan.group.objectives.rpo_s,
        "rto_seconds": plan.group.objectives.rto_s,
        "size_gib": plan.size_gib,
        "data_path": plan.data_path,
        "members": [asdict(row) for row in plan.rows],
        "made": list(plan.made),
        "findings": [{**asdict(one), "code": one.code} for one in (*plan.findings, *plan.unprotected)],
    }


# -- points ---------------------------------------------------------------------------------------------------------


def point_pin(session: Session, group: GroupName, point: PointName) -> Answer:
    """Keep a point from retention until it is unpinned."""
    return _pin(session, group, point, session.house.person, "pinned")


def point_unpin(session: Session, group: GroupName, point: PointName) -> Answer:
    """Let retention have a point again."""
    return _pin(session, group, point, None, "unpinned")


def _pin(session: Session, group: str, point: str, by: str | None, word: str) -> Answer:
    house = session.house
    found = house.journal.point(group, point)
    house.journal.pin(group, found.id, by)
    data = {"result": word, **point_document(house.journal.point(group, found.id), house.clock.now())}
    return Answer(data, (f"point {found.id} of {group} is {word}",), session.command(f"point list {group}"))


def point_quarantine(session: Session, group: GroupName, point: PointName, reason: Reason) -> Answer:
    """Set a point aside: it is never chosen without an override."""
    from drpilot.domain.ports import Move

    house = session.house
    found = house.journal.point(group, point)
    if found.state == "quarantined":
        return Answer(
            {"result": "already_quarantined", **point_document(found, house.clock.now())},
            (f"point {found.id} is quarantined already",),
            session.command(f"point list {group}"),
        )
    house.journal.change(
        group,
        [Move("point", found.id, "quarantine", {"reason_given": bool(reason.strip())})],
        house.person,
        reason,
    )
    data = {
        "result": "quarantined",
        **point_document(house.journal.point(group, found.id), house.clock.now()),
    }
    return Answer(
        data,
        (f"point {found.id} of {group} is quarantined: {reason}",),
        session.command(f"point list {group}"),
    )
