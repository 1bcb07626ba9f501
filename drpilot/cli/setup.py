"""The long-running service."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from drpilot.cli.render import Answer, moment
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from drpilot.services.watch import Happening

__all__ = ["serve"]


def serve(
    session: Session,
    parallel: Annotated[
        int, typer.Option("--parallel", min=1, max=64, help="runs driven at once; moves never wait for room")
    ] = 8,
) -> Answer:
    """Begin what is due, drive what nobody drives, repeat open fences; until SIGTERM."""
    from drpilot import serve as service

    session.kind = "serve"
    house = session.house
    told = 0

    def tell(happening: Happening) -> None:
        nonlocal told
        told += 1
        name = happening.run or happening.group or ""
        text = f"{name}: {happening.text}" if name else happening.text
        session.say(f"{moment(happening.at, house.clock.now())}  {happening.what:<8} {text}")

    options = service.Options(parallel=parallel, notify_socket=os.environ.get("NOTIFY_SOCKET"), tell=tell)
    code = service.serve(house, options)
    data = {"result": "drained" if code == 0 else "left running", "happenings": told}
    return Answer(
        data,
        ("ended: everything was handed back" if code == 0 else "ended: something was left running",),
        session.command("status"),
        code,
    )
