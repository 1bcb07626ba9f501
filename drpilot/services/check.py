"""Looking live, within bounds: named checks of sites and groups, each with what was expected and what was observed.

Sites are looked at first, then everything that needs a site which answers, all at once, each in a thread of its own.
What has no answer when the time is over is unknown: it opens no finding and closes none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from drpilot.base.errors import Finding
from drpilot.journal.history import recoveries
from drpilot.journal.views import GroupView, SiteView
from drpilot.services.checked import Checked, bad, ok, unknown, warning
from drpilot.services.conditions import Facts, Judged, assess, health_moves
from drpilot.services.guidance import protect_command
from drpilot.services.house import House, Look
from drpilot.services.hysteresis import contradictions, remember
from drpilot.services.looks import LOOKS, GroupLook
from drpilot.services.sides import split_hint
from drpilot.services.together import Task, together
from drpilot.services.watch import sites_of, undriven

__all__ = ["BOUND_S", "CheckReport", "Checked", "check", "check_site"]

BOUND_S = 20.0
PROBE_S = 8.0
_SKEW_WARNING_S, _SKEW_BAD_S = 30.0, 600.0  # AWS refuses signatures 15 minutes off (SigV4, "Request date")


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was looked at. `complete` is false when something had no answer within the bound."""

    at: datetime
    seconds: float
    checks: tuple[Checked, ...]
    moved: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[Checked, ...]:
        """What is not as it should be, worst first."""
        order = {"bad": 0, "warning": 1}
        return tuple(sorted((c for c in self.checks if c.verdict in order), key=lambda c: order[c.verdict]))

    @property
    def complete(self) -> bool:
        """Whether every check had an answer."""
        return all(check.verdict != "unknown" for check in self.checks)

    def count(self, verdict: str) -> int:
        """How many checks ended with `verdict`: ok, warning, bad or unknown."""
        return sum(check.verdict == verdict for check in self.checks)


def check(house: House, group: str | None = None, *, bound_s: float = BOUND_S) -> CheckReport:
    """Look at one group and its sites, or at all groups and every configured site; findings and conditions go to the
    journal.

    Raises `unknown-group` only: what a cloud does is a result. Ends within `bound_s` seconds.
    """
    clock, started = house.clock, house.clock.monotonic()
    views = (house.journal.group(group),) if group is not None else house.journal.groups()
    configured = house.configuration.sites if group is None else ()
    names = tuple(dict.fromkeys([*sites_of(views), *configured]))
    probe_s = min(PROBE_S, bound_s / 2)
    site_tasks = [Task("site", name, partial(check_site, house, name, probe_s)) for name in names]
    checks = list(together(site_tasks, probe_s + 1.0))
    sites = {site.name: site for site in house.journal.sites()}
    tasks = [task for view in views for task in _tasks(house, view, sites)]
    checks += together(tasks, max(0.1, bound_s - (clock.monotonic() - started)))
    moved: list[str] = []
    for view in views:
        moved += remember(house, view, checks, house.person)
        present = house.journal.group(view.name)
        checks = [_hinted(present, item) for item in checks]
        checks = [*_split(present, checks), *checks, *_journal_checks(house, present, sites)]
        moved += _settle(house, present, checks)
    return CheckReport(clock.now(), clock.monotonic() - started, tuple(checks), tuple(moved))


def check_site(house: House, name: str, bound_s: float = PROBE_S) -> tuple[Checked, ...]:
    """Reachability, identity and clock of one site by one bounded look, which is written to the journal."""
    look = house.probe(name, timeout_s=bound_s)
    settings = house.configuration.sites.get(name)
    region = settings.region if settings is not None else ""
    house.journal.saw(
        name,
        answers=look.answers,
        detail=look.detail,
        account=look.account,
        region=region,
        refusal=look.refusal,
    )
    if look.refusal:
        return (_refused(look),)
    if not look.answers:
        hint = "look at its network and its endpoint; a group that is active there: drpilot failover GROUP"
        finding = Finding("site-silent", "error", f"{name} does not answer: {look.detail}", name, hint)
        return (bad("reachable", name, "an answer", look.detail, finding),)
    wanted = settings.account if settings is not None else ""
    return (ok("reachable", name, "an answer", look.detail), *_identity(look, wanted), *_clock(look))


_MENDS = {
    "credentials": "mend the profile or the reference under sites.{site} in drpilot.yaml",
    "no-credentials": "mend the profile or the reference under sites.{site} in drpilot.yaml",
    "wrong-account": "use a profile of the account that sites.{site} pins",
    "denied": "allow it in the policy of the role that sites.{site} uses",
}


def _refused(look: Look) -> Checked:
    """The site may be well: our keys, their account or their rights are not."""
    message = f"{look.site} can't be used: {look.detail}"
    finding = Finding(look.refusal, "error", message, look.site, _MENDS[look.refusal].format(site=look.site))
    return bad("identity", look.site, "to be let in", look.detail, finding)


def _identity(look: Look, wanted: str) -> tuple[Checked, ...]:
    if not wanted or not look.account:
        return ()
    texts = (f"account {wanted}", f"account {look.account}")
    if look.account == wanted:
        return (ok("identity", look.site, *texts),)
    message = f"{look.site} answers as account {look.account}, drpilot.yaml says {wanted}"
    finding = Finding("wrong-account", "error", message, look.site, "use the right profile")
    return (bad("identity", look.site, *texts, finding),)


def _clock(look: Look) -> tuple[Checked, ...]:
    if look.skew_s is None:
        return ()
    texts = (f"at most {_SKEW_WARNING_S:g} s apart", f"{abs(look.skew_s):.1f} s apart")
    if abs(look.skew_s) <= _SKEW_WARNING_S:
        return (ok("clock", look.site, *texts),)
    message = f"the clocks of this host and of {look.site} differ by more than {_SKEW_WARNING_S:g} s"
    severe = abs(look.skew_s) >= _SKEW_BAD_S
    finding = Finding(
        "clock-skew", "error" if severe else "warning", message, look.site, "set the clock (NTP)"
    )
    return ((bad if severe else warning)("clock", look.site, *texts, finding),)


def _tasks(house: House, view: GroupView, sites: Mapping[str, SiteView]) -> list[Task]:
    """The live looks of one group; one that needs a silent site says so instead of waiting for it."""
    found = []
    for look in LOOKS:
        known = [sites[name] for name in look.needs(view) if name in sites]
        silent = [site.name for site in known if site.answers is False]
        work: Callable[[], Iterable[Checked]] = partial(look.work, house, view)
        if silent:
            work = partial(_silent, look, view, f"{', '.join(silent)} does not answer")
        found.append(Task(look.name, view.name, work))
    return found


def _silent(look: GroupLook, view: GroupView, why: str) -> tuple[Checked, ...]:
    return (unknown(look.name, view.name, look.expects, why),)


# -- what the journal alone tells -----------------------------------------------------------------------------


def _hinted(view: GroupView, item: Checked) -> Checked:
    """A contradiction with what to do about it now: its second look has just changed the group."""
    if item.finding is None or item.word != "split-suspected" or item.scope != view.name:
        return item
    return replace(item, finding=replace(item.finding, hint=split_hint(view)))


def _journal_checks(house: House, view: GroupView, sites: Mapping[str, SiteView]) -> list[Checked]:
    judged = {item.name: item for item in _judged(house, view, sites)}
    found = [
        *_rpo(view, judged["RpoMet"]),
        *_drill(view, judged["DrillFresh"]),
        *_fence(view, judged["Fenced"]),
    ]
    for run in undriven(house.journal, house.clock.now()):
        if run.group == view.name:
            message = f"{run.name} is not finished and nobody drives it"
            finding = Finding("nobody-drives", "error", message, run.name, f"drpilot run resume {run.name}")
            found.append(bad("driven", view.name, "every live run has a driver", message, finding))
    if house.journal.database.sqlite and not house.lab:
        found.append(_controller(house, view))
    return found


def _controller(house: House, view: GroupView) -> Checked:
    """Whether the journal, which is a file where drpilot runs, outlives the loss of the active side."""
    place = house.configuration.controller
    expected, observed = "reachable without the active side", f"SQLite at {place or 'a place nobody named'}"
    if place and place != view.active:
        return ok("journal", view.name, expected, observed)
    if place:
        message = f"the journal lies at {place}, where {view.name} is active: it would be lost with it"
        hint = f"run drpilot at {view.standing} or at a third place"
    else:
        message = "the journal lies on this host only, and nobody said at which site that is"
        hint = f"run drpilot at {view.standing}, and say so in drpilot.yaml: controller: {{site: {view.standing}}}"
    finding = Finding("journal-at-home", "warning", message, house.journal.database.shown or "", hint)
    return warning("journal", view.name, expected, observed, finding)


def _judged(house: House, view: GroupView, sites: Mapping[str, SiteView]) -> tuple[Judged, ...]:
    journal = house.journal
    drills = [run for run in recoveries(journal, view.name) if run.mode == "drill"]
    events = journal.events(run=f"group:{view.name}")
    facts = Facts(view, journal.points(view.name), journal.standbys(view.name), sites, drills, events)
    return assess(facts, house.clock.now())


def _split(view: GroupView, seen: Sequence[Checked]) -> list[Checked]:
    """A suspected split stays a finding until a survivor is named, also when the newest look is quiet."""
    again = any(item.word == "split-suspected" and item.scope == view.name for item in seen)
    if view.state != "split_suspected" or again:
        return []
    why = (
        "; ".join(reason for reason, _ in contradictions(view)) or "nothing contradicts the journal any more"
    )
    message = f"a split is suspected since {view.changed_at:%Y-%m-%d %H:%M:%S}Z, and no survivor is named"
    finding = Finding("split-suspected", "error", message, view.name, split_hint(view))
    return [bad("sides", view.name, "one side writes", why, finding)]


def _rpo(view: GroupView, judged: Judged) -> list[Checked]:
    objective = f"a point on {view.standing} within {view.group.objectives.rpo_s:g} s"
    if judged.value is None:
        return [unknown("RpoMet", view.name, objective, judged.reason)]
    if judged.value:
        return [ok("RpoMet", view.name, objective, judged.reason)]
    message = f"the newest point on {view.standing} is older than the objective"
    finding = Finding("rpo-missed", "error", message, view.name, protect_command(view))
    return [bad("RpoMet", view.name, objective, judged.reason, finding)]


def _drill(view: GroupView, judged: Judged) -> list[Checked]:
    if view.state not in ("protected", "degraded"):
        return []
    if judged.value:
        return [ok("DrillFresh", view.name, "a drill that passed lately", judged.reason)]
    message = (
        "never drilled: RTO unknown" if judged.reason.startswith("never") else "no drill has passed lately"
    )
    finding = Finding("never-drilled", "warning", message, view.name, f"drpilot drill {view.name}")
    return [warning("DrillFresh", view.name, "a drill that passed lately", judged.reason, finding)]


def _fence(view: GroupView, judged: Judged) -> list[Checked]:
    if judged.value is None:
        return []
    if judged.value:
        return [ok("Fenced", view.name, f"{view.standing} can't write", judged.reason)]
    message = f"{view.standing} is not fenced for certain"
    finding = Finding("fence-open", "error", message, view.standing, f"drpilot fence {view.name}")
    return [bad("Fenced", view.name, f"{view.standing} can't write", judged.reason, finding)]


# -- writing it down ------------------------------------------------------------------------------------------


def _settle(house: House, view: GroupView, checks: Sequence[Checked]) -> list[str]:
    """Findings and conditions of one group into the journal; then its health. What was unknown stays as it was."""
    names = set(sites_of([view]))
    mine = [item for item in checks if item.scope == view.name or item.scope in names]
    findings = [item.finding for item in mine if item.finding is not None]
    untold = {item.name for item in mine if item.verdict == "unknown"}
    keeps = {word for look in LOOKS if look.name in untold for word in look.words}
    known = {(finding.word, finding.message) for finding in findings}
    findings += [
        Finding(before.word, before.severity, before.message, hint=before.hint)
        for before in house.journal.findings(view.name)
        if before.word in keeps and (before.word, before.message) not in known
    ]
    house.journal.found(view.name, findings)
    sites = {site.name: site for site in house.journal.sites()}
    for item in _judged(house, view, sites):
        house.journal.set_condition(view.name, item.name, item.value, item.reason)
    present = house.journal.group(view.name)
    moves = health_moves(present, house.clock.now())
    if not moves:
        return []
    house.journal.change(view.name, moves, house.person, "as checked")
    return [f"{view.name}: {present.state} → {house.journal.group(view.name).state}"]
