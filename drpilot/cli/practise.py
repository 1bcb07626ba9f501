"""Practising on simulated clouds: the whole story as one command, and the lab to play with by hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drpilot.base.errors import DrpilotError
from drpilot.base.units import format_duration
from drpilot.cli.act import duration
from drpilot.cli.progress import Progress
from drpilot.cli.render import Answer, Table
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from drpilot.practice import Lab
    from drpilot.report import Phase

__all__ = [
    "demo",
    "lab_advance",
    "lab_break",
    "lab_down",
    "lab_freeze",
    "lab_heal",
    "lab_reset",
    "lab_status",
    "lab_thaw",
    "lab_up",
]

LabSite = Annotated[str, typer.Argument(metavar="SITE", help="home, away or edge", show_default=False)]
MaybeSite = Annotated[
    str | None, typer.Argument(metavar="SITE", help="home, away or edge; left out: all", show_default=False)
]


_PAIR = "aws-aws, euca-aws or aws-euca: the kinds of the clouds"
_VERSION = "of a Eucalyptus: 3.4, 4.4 or 5"

# -- the story --------------------------------------------------------------------------------------------------


def demo(
    session: Session,
    folder: Annotated[
        Path,
        typer.Option("--folder", metavar="DIR", help="where the demo keeps its world; made anew each time"),
    ] = Path(".demo"),
    keep: Annotated[
        bool, typer.Option("--keep", help="leave the simulated clouds running at the end")
    ] = False,
    pair: Annotated[str, typer.Option("--pair", metavar="HOME-AWAY", help=_PAIR)] = "euca-aws",
    euca_version: Annotated[str, typer.Option("--euca-version", metavar="VERSION", help=_VERSION)] = "4.4",
) -> Answer:
    """The whole story on two simulated clouds: protect, drill, fail over, fail back."""
    from drpilot.base.clock import RealClock
    from drpilot.demo import Reporter, tell

    session.quiet()
    folder = folder.absolute()
    _ours(folder)
    session.run = "the demo"
    session.say(f"lab: two clouds on 127.0.0.1, {_kinds(pair, euca_version)}; everything under {folder}")
    teller = _Teller(session, Progress(session.terminal, RealClock()))
    with _closing(teller):
        reporter = Reporter(begins=teller.begins, ended=teller.ended, sees=teller.sees)
        told = tell(folder, reporter, keep=keep, pair=pair, euca_version=euca_version)
    lines = _totals(told)
    return Answer(told, tuple(lines), "drpilot lab up", 0 if told.get("result", "ok") == "ok" else 1)


def _kinds(pair: str, euca_version: str) -> str:
    """The two clouds in words."""
    words = {"euca": f"Eucalyptus {euca_version}", "aws": "AWS"}
    home, _, away = pair.partition("-")
    return f"home ({words.get(home, home)}, runs the shop) and away ({words.get(away, away)}, empty)"


def _ours(folder: Path) -> None:
    """The demo removes its folder first, so it takes none that is not its own."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "clouds").is_dir():
        raise DrpilotError(
            "usage",
            what=f"--folder {folder} holds something else; the demo would remove it",
            hint="name an empty or new folder",
        )
    if folder.exists() and not folder.is_dir():
        raise DrpilotError("usage", what=f"--folder {folder} is a file", hint="name an empty or new folder")


class _Teller:
    """Prints the table of the story as it goes; live progress of each run below it on a terminal."""

    def __init__(self, session: Session, progress: Progress) -> None:
        self._session = session
        self._progress = progress
        self._number = 0
        self._open = False

    def begins(self, name: str) -> None:
        """A phase begins: what is under way is redrawn on a terminal."""
        self._number += 1
        if self._session.terminal.live:
            self._progress = Progress(self._session.terminal, self._progress.clock, quiet=True)
            self._progress.__enter__()
            self._open = True
            self._progress.title(f"{self._number:>2} {name}")

    def sees(self, view: Any) -> None:
        """A view of the run under way."""
        if self._open:
            self._progress.seen(view)

    def ended(self, phase: Phase) -> None:
        """A phase ended: one line of the table."""
        self.close()
        terminal = self._session.terminal
        result = (
            phase.result
            if phase.result == "-"
            else terminal.paint(phase.result, "ok" if phase.result == "ok" else "bad")
        )
        took = format_duration(round(phase.seconds, 1))
        self._session.say(f"{self._number:>2} {phase.name:<11} {phase.text:<62} {result:<4} {took:>7}")

    def close(self) -> None:
        """Take the live display down."""
        if self._open:
            self._open = False
            self._progress.__exit__(None, None, None)


class _closing:  # noqa: N801 - used like contextlib.closing
    def __init__(self, teller: _Teller) -> None:
        self._teller = teller

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        self._teller.close()


def _totals(told: dict[str, Any]) -> list[str]:
    parts = []
    for label in ("rto", "rpo"):
        seconds, objective = told.get(f"{label}_seconds"), told.get(f"{label}_objective_seconds")
        if seconds is not None:
            wanted = f" (objective {format_duration(objective)})" if objective is not None else ""
            parts.append(f"{label.upper()} {format_duration(round(seconds, 1))}{wanted}")
    parts.append(f"data {'verified' if told.get('data_verified') else 'NOT VERIFIED'}")
    parts += [f"duplicates {told.get('duplicates')}", f"left over {told.get('leftovers')}"]
    lines = [" · ".join(parts)]
    lines += [f"  twice: {one}" for one in told.get("duplicate_resources", [])]
    lines += [f"  left over: {one}" for one in told.get("leftover_resources", [])]
    if told.get("report"):
        lines.append(f"report: {told['report']}      all of it as JSON: drpilot demo --output json")
    return lines


# -- the lab ----------------------------------------------------------------------------------------------------


def _lab(session: Session) -> Lab:
    """The lab of this machine; whatever is said about it is marked LAB."""
    from drpilot import practice, wiring

    session.quiet()
    session.terminal.lab = True
    return practice.Lab(wiring.home_of(lab=True))


def lab_up(
    session: Session,
    speed: Annotated[
        float | None,
        typer.Option("--speed", min=0.1, max=1000.0, help="how many seconds of the lab pass in one"),
    ] = None,
    pair: Annotated[
        str | None,
        typer.Option(
            "--pair", metavar="HOME-AWAY", help="aws-aws, euca-aws or aws-euca: the kinds of the clouds"
        ),
    ] = None,
    euca_version: Annotated[
        str, typer.Option("--euca-version", metavar="VERSION", help="3.4, 4.4 or 5: which Eucalyptus")
    ] = "4.4",
) -> Answer:
    """Start the simulated clouds; the first time also build the sample shop."""
    lab = _lab(session)
    session.say("starting home, away and edge …")
    started = lab.up(speed=speed, pair=pair, euca_version=euca_version)
    rows = tuple(
        (name, site.dialect, site.endpoint, site.region, site.account) for name, site in started.sites.items()
    )
    lines = [
        "the sample shop was built on home"
        if started.built
        else "the sample shop is on home, as it was left",
        f"files: {lab.folder}/{{drpilot.yaml,shop.yaml,journal.db}}",
        "--lab on any command means this little world; your real sites are never touched by it",
    ]
    data = {
        "result": "up",
        "built": started.built,
        "folder": str(lab.folder),
        "group_file": str(lab.shop_file),
        "sites": {
            name: {
                "dialect": site.dialect,
                "endpoint": site.endpoint,
                "region": site.region,
                "account": site.account,
            }
            for name, site in started.sites.items()
        },
    }
    table = Table(("SITE", "DIALECT", "ENDPOINT", "REGION", "ACCOUNT"), rows)
    return Answer(
        data,
        (table, *lines),
        f"drpilot protect {lab.shop_file} --lab" if started.built else "drpilot status --lab",
    )


def lab_down(session: Session) -> Answer:
    """Stop the simulated clouds; their state stays."""
    lab = _lab(session)
    stopped = lab.down()
    text = f"stopped: {', '.join(stopped)}" if stopped else "nothing was running"
    word = "down" if stopped else "already_down"
    return Answer({"result": word, "stopped": stopped}, (text,), "drpilot lab up")


def lab_status(session: Session) -> Answer:
    """Which simulated clouds run, and which faults are set."""
    lab = _lab(session)
    if not lab.world.exists:
        raise DrpilotError("lab-down", why="no lab was ever started here")
    states, sites = lab.world.status(), lab.world.sites()
    rows: list[tuple[Any, ...]] = []
    for name, state in states.items():
        if state is None:
            rows.append((name, sites[name].dialect, "down", None, None, None))
            continue
        faults = ", ".join(_fault_text(one) for one in state.get("faults", []))
        outage = f"outage: {state['outage']}" if state.get("outage") else "up"
        rows.append((name, state["dialect"], outage, state.get("api"), faults or None, state.get("calls")))
    table = Table(("SITE", "DIALECT", "STATE", "ENDPOINT", "FAULTS", "CALLS"), tuple(rows))
    running = any(state is not None for state in states.values())
    data = {"running": running, "folder": str(lab.folder), "sites": states}
    return Answer(data, (table,), "drpilot status --lab" if running else "drpilot lab up")


def _fault_text(rule: Any) -> str:
    if isinstance(rule, dict):
        return str(rule.get("text") or rule.get("fault") or rule.get("rule") or rule)
    return str(rule)


def lab_reset(
    session: Session,
    confirm: Annotated[
        str | None, typer.Option("--confirm", metavar="NAME", help="the word lab, typed back")
    ] = None,
) -> Answer:
    """Throw the lab away, its journal included, and start afresh."""
    lab = _lab(session)
    typed = (
        session.terminal.ask('Type "lab" to remove its clouds and journal: ') if confirm is None else confirm
    )
    if typed != "lab":
        raise DrpilotError(
            "consent-missing",
            verb="reset of",
            group="the lab",
            hint="--confirm lab",
            data={"needs": {"confirm": "lab"}},
        )
    lab.reset()
    return Answer(
        {"result": "reset", "folder": str(lab.folder)},
        ("the lab is as on the first day; the shop is built again by lab up",),
        "drpilot lab up",
    )


def lab_break(
    session: Session,
    site: LabSite,
    fault: Annotated[
        str,
        typer.Option(
            "--fault", metavar="KIND[:service.action][@n]", help="what goes wrong; left out: an outage"
        ),
    ] = "refuse",
) -> Answer:
    """Let a simulated cloud fail: an outage, a lost reply, throttling and more."""
    lab = _lab(session)
    answer = lab.control(site, "break", fault=fault)
    text = f"{site} refuses every connection" if fault == "refuse" else f"{site}: {fault}"
    undo = f"drpilot lab heal {site}"
    return Answer(
        {"result": "broken", "site": site, "fault": fault, **answer},
        (f"{text}.   undo: {undo}",),
        "drpilot status --lab",
    )


def lab_heal(
    session: Session,
    site: MaybeSite = None,
    fault: Annotated[
        str | None, typer.Option("--fault", metavar="FAULT", help="one fault; left out: all of the site")
    ] = None,
) -> Answer:
    """Lift faults of a simulated cloud."""
    lab = _lab(session)
    names = [site] if site is not None else list(lab.world.sites())
    payload = {"fault": fault} if fault is not None else {}
    lifted = {name: lab.control(name, "heal", **payload).get("lifted") for name in names}
    return Answer(
        {"result": "healed", "lifted": lifted}, (f"healed: {', '.join(names)}",), "drpilot status --lab"
    )


def lab_advance(
    session: Session,
    time: Annotated[str, typer.Argument(metavar="DURATION", help="how far, such as 15m", show_default=False)],
    site: MaybeSite = None,
) -> Answer:
    """Let time pass in the simulated clouds: copies finish, points age there."""
    lab = _lab(session)
    seconds = duration("DURATION", time)
    names = [site] if site is not None else list(lab.world.sites())
    if not names:
        raise DrpilotError("lab-down")
    for name in names:
        lab.control(name, "advance", seconds=seconds)
    return Answer(
        {"result": "advanced", "seconds": seconds, "sites": names},
        (f"{format_duration(seconds or 0.0)} passed on {', '.join(names)}",),
        "drpilot status --lab",
    )


Guest = Annotated[
    str | None,
    typer.Argument(
        metavar="ADDRESS",
        help="the guest's private address; left out: DRPILOT_ADDRESS, which a freeze program is told",
        show_default=False,
    ),
]


def lab_freeze(
    session: Session,
    address: Guest = None,
    seconds: Annotated[
        int, typer.Option("--seconds", min=1, max=120, help="it thaws by itself after this")
    ] = 30,
) -> Answer:
    """Let a database of the sample shop hold its writes for a while."""
    return _asked(session, address, f"/freeze?seconds={seconds}", "frozen")


def lab_thaw(session: Session, address: Guest = None) -> Answer:
    """Let a frozen database go on; fails where the freeze did not hold until now."""
    return _asked(session, address, "/thaw", "thawed")


def _asked(session: Session, address: str | None, path: str, done: str) -> Answer:
    from drpilot.lab.freeze import ask

    session.terminal.lab = True
    found = address or os.environ.get("DRPILOT_ADDRESS", "")
    if not found:
        raise DrpilotError(
            "usage",
            what="neither ADDRESS nor DRPILOT_ADDRESS says which guest",
            hint=f"drpilot lab {'freeze' if done == 'frozen' else 'thaw'} ADDRESS",
        )
    well, said = ask(found, path)
    if not well:
        raise DrpilotError("lab-guest", address=found, done=done, what=said)
    following = f"drpilot lab thaw {found}" if done == "frozen" else "drpilot status --lab"
    return Answer({"result": done, "address": found, "said": said}, (f"{found}: {said}",), following)
