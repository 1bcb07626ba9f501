"""`check` and `site check`: what a live look found, as one list that people and monitoring read alike.

Exit code 3 on findings; 4 when nothing was found but something had no answer in time, because unknown is not fine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from drpilot.base.units import format_duration
from drpilot.cli.render import Answer, Table
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from drpilot.services.checked import Checked

__all__ = ["answer_of", "site_answer"]

_WORST_FIRST = ("bad", "warning", "unknown", "ok")


def answer_of(session: Session, group: str | None) -> Answer:
    """Look live at one group or all of them."""
    from drpilot.services.check import check

    session.say("looking live (20 s at most) …")
    report = check(session.house, group)
    data = {"at": report.at, "seconds": round(report.seconds, 3), "moved": list(report.moved)}
    known = session.house.journal.groups()
    fine = session.command(f"status {group}" if group is not None else "status")
    if not known:
        fine = session.command("protect FILE")
    lines = [f"looked for {format_duration(report.seconds)}", *report.moved]
    return _answer(session, report.checks, data, fine, lines)


def site_answer(session: Session, name: str) -> Answer:
    """Look live at one site: who answers, as whom, how far its clock is off, and what it can do."""
    from drpilot.services.permissions import NOT_ASKED
    from drpilot.services.sitecheck import inspect_site

    house = session.house
    settings = house.configuration.site(name)
    session.say(f"looking at {name} …")
    checks = inspect_site(house, name)
    capabilities: list[str] = []
    if all(one.verdict != "bad" for one in checks):
        capabilities = sorted(house.site(name).capabilities)
    lines = [f"{name}: {settings.cloud} {settings.region}, account {settings.account}"]
    if capabilities:
        lines.append(f"can: {', '.join(capabilities)}")
    untold = [each for one in checks if one.name == NOT_ASKED for each in one.observed.split(", ")]
    if untold:
        services = ", ".join(sorted({each.partition(":")[0] for each in untold}))
        lines.append(f"not told by DryRun: {len(untold)} permissions of {services}; --output json names them")
    data: dict[str, Any] = {"site": name, "account": settings.account, "region": settings.region}
    data |= {"capabilities": capabilities, "not_asked": untold}
    return _answer(session, checks, data, session.command("site list"), lines)


def _answer(
    session: Session, checks: Sequence[Checked], data: dict[str, Any], fine: str, lines: list[str]
) -> Answer:
    counts = {verdict: sum(one.verdict == verdict for one in checks) for verdict in _WORST_FIRST}
    findings = sorted(
        (one for one in checks if one.verdict != "ok"), key=lambda one: _WORST_FIRST.index(one.verdict)
    )
    head = " · ".join(f"{verdict} {counts[verdict]}" for verdict in ("ok", "warning", "bad", "unknown"))
    rows = tuple((one.verdict, one.name, one.scope, _said(one), one.hint or None) for one in findings)
    blocks: tuple[Table | str, ...] = (head, *lines)
    if rows:
        blocks = (*blocks, Table(("", "CHECK", "OF", "FOUND", "NEXT"), rows))
    hint = next((one.hint for one in findings if one.hint.startswith("drpilot ")), "")
    following = session.command(hint.removeprefix("drpilot ")) if hint else fine
    wrong = counts["bad"] + counts["warning"]
    document = {
        **data,
        **counts,
        "complete": counts["unknown"] == 0,
        "checks": [_document(one) for one in checks],
    }
    return Answer(document, blocks, following, 3 if wrong else 4 if counts["unknown"] else 0)


def _said(one: Checked) -> str:
    return one.finding.message if one.finding is not None else one.observed


def _document(one: Checked) -> dict[str, Any]:
    finding = one.finding
    return {
        "name": one.name,
        "scope": one.scope,
        "verdict": one.verdict,
        "expected": one.expected,
        "observed": one.observed,
        "word": finding.word if finding is not None else None,
        "code": finding.code if finding is not None else None,
        "message": finding.message if finding is not None else None,
        "hint": one.hint,
    }
