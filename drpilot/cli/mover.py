"""The program of a mover: a machine without keys, beside volumes that no API can read."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drpilot.base.errors import DrpilotError
from drpilot.base.units import format_size
from drpilot.cli.act import duration
from drpilot.cli.options import typed
from drpilot.cli.render import Answer, Table
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from drpilot.formats.moverjob import MoverJob, MoverStatus
    from drpilot.services.mover import Ground

__all__ = ["mover"]

_TOLD_S = 5.0  # between two lines of progress where nothing can be redrawn
_MOST_URL_BYTES = 16 << 10

Job = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        help="a file that holds the job or its URL, - for standard input, or the URL",
        show_default=False,
    ),
]


def mover(
    session: Session,
    job: Job,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            metavar="/dev/sdf=PATH",
            help="what a device of the job is called here; may be repeated",
        ),
    ] = None,
    devices: Annotated[
        Path, typer.Option("--devices", metavar="DIR", help="where devices are looked for")
    ] = Path("/dev"),
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca", metavar="FILE", help="the certificate of the cloud, in PEM, where nobody knows it"
        ),
    ] = None,
    waiting: Annotated[
        str, typer.Option("--wait", metavar="5m", help="how long a job or a device may take to appear")
    ] = "5m",
    status: Annotated[
        bool, typer.Option("--status", help="only say how far the mover of this job is")
    ] = False,
) -> Answer:
    """Stage the volumes of a job from a machine they are attached to; repeated, it goes on where it stopped."""
    from drpilot.services.mover import move, status_of

    session.quiet()
    ground = _ground(session, device or [], devices, ca, duration("--wait", waiting) or 0.0)
    given = [
        *(("--device", one) for one in device or []),
        ("--devices", devices),
        ("--ca", ca),
        ("--wait", waiting),
    ]
    again = _again(job, given)
    try:
        found = _job(job, ground)
        following = f"{again} --status" if found.status_get_url else again
        if status:
            seen = status_of(found, ground)
            if seen is None:
                line = f"{found.run}: the mover has said nothing yet"
                return Answer({"run": found.run, "state": "waiting", "volumes": []}, (line,), following)
            return _answer(found, seen, following)
        session.say(f"{found.run}: {len(found.volumes)} volumes of {found.group}, point {found.point}")
        done = move(found, ground)
    except DrpilotError as error:
        wrong = f"{error.facts.get('device')}="  # of `mover-device`, which asks for another path
        others = _again(job, [pair for pair in given if not str(pair[1]).startswith(wrong)])
        for said in ("drpilot mover JOB", "the same command"):
            error.hint = error.hint.replace(said, others)
        raise
    failed = [row for row in done.volumes if row.state != "done"]
    if failed:
        unfinished = DrpilotError(
            "mover-unfinished",
            failed=len(failed),
            count=len(done.volumes),
            what="; ".join(f"{row.snapshot} ({row.device}): {row.error}" for row in failed),
            data=_data(found, done),
        )
        unfinished.hint = f"{again}; it goes on where this one stopped"
        raise unfinished
    return _answer(found, done, following)


def _again(job: str, options: list[tuple[str, object]]) -> str:
    """The command as it can be typed again; a URL is a secret, and goes to its standard input."""
    place = "-" if job.startswith(("http://", "https://")) else job
    given = [pair for pair in options if pair not in (("--devices", Path("/dev")), ("--wait", "5m"))]
    return f"drpilot {typed(['mover', place], given)}"


def _ground(session: Session, named: list[str], devices: Path, ca: Path | None, wait_s: float) -> Ground:
    from drpilot.base.clock import Chance, RealClock
    from drpilot.services.mover import Ground
    from drpilot.transfer.places import read_small

    given: dict[str, Path] = {}
    for text in named:
        name, equals, path = text.partition("=")
        if not equals or not path or name in given:
            raise DrpilotError(
                "usage", what=f"--device {text} is not one NAME=PATH", hint="--device /dev/sdf=/dev/vdb"
            )
        given[name] = Path(path)
    certificates = read_small(ca).decode("ascii", "replace") if ca is not None else ""
    clock = RealClock()
    return Ground(
        clock, Chance(), given, devices, certificates, _proxy, wait_s, _progress(session, clock.monotonic)
    )


def _proxy(url: str) -> str:
    """The proxy that the environment names for a URL, as other programs read it."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    return "" if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme, "")


def _job(place: str, ground: Ground) -> MoverJob:
    """The job, wherever it is: its URL is a secret, and a command line is visible to others."""
    from drpilot.formats.moverjob import MOST_JOB_BYTES, read_job
    from drpilot.services.mover import fetch_job
    from drpilot.transfer.places import read_small

    if place.startswith(("http://", "https://")):
        return fetch_job(place, ground)
    data = _standard_input(MOST_JOB_BYTES) if place == "-" else read_small(Path(place), MOST_JOB_BYTES)
    if len(data) <= _MOST_URL_BYTES and data.strip().startswith((b"http://", b"https://")):
        return fetch_job(data.decode("ascii", "replace").strip(), ground)
    return read_job(data, "standard input" if place == "-" else place)


def _standard_input(most: int) -> bytes:
    return sys.stdin.buffer.read(most + 1)


def _progress(session: Session, monotonic: Callable[[], float]) -> Callable[[MoverStatus], None]:
    """One line on stderr every few seconds."""
    last = monotonic()

    def told(status: MoverStatus) -> None:
        nonlocal last
        if session.terminal.json or monotonic() - last < _TOLD_S:
            return
        last = monotonic()
        done, parts = sum(row.done for row in status.volumes), sum(row.parts for row in status.volumes)
        written = sum(row.bytes_written for row in status.volumes)
        session.say(f"{done} of {parts} parts looked at, {format_size(written)} written")

    return told


def _data(job: MoverJob, status: MoverStatus) -> dict[str, Any]:
    rows = [{name: getattr(row, name) for name in row.__slots__} for row in status.volumes]
    return {"group": job.group, "run": job.run, "point": job.point, "state": status.state, "volumes": rows}


def _answer(job: MoverJob, status: MoverStatus, following: str) -> Answer:
    rows = tuple(
        (
            row.snapshot,
            row.device,
            row.state,
            f"{row.done} of {row.parts}",
            row.blocks_changed,
            format_size(row.bytes_written),
            row.error or None,
        )
        for row in status.volumes
    )
    heads = ("snapshot", "device", "state", "parts", "changed blocks", "written", "error")
    return Answer(_data(job, status), (Table(heads, rows),), following)
