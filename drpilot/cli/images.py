"""Images by hand: bringing one to another site by the way that both clouds allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drpilot.base.errors import DrpilotError
from drpilot.cli.bundleparts import CloudCert, PrivateKey, certificate_of, key_of
from drpilot.cli.options import typed
from drpilot.cli.render import Answer
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from drpilot.base.clock import Clock
    from drpilot.services.imagecopy import Carried, ImageCopy, Planned

__all__ = ["image_copy"]

_TOLD_S = 5.0  # between two lines of progress where nothing can be redrawn

Image = Annotated[
    str, typer.Argument(metavar="IMAGE", help="an image of the source, ami-… or emi-…", show_default=False)
]
From = Annotated[str, typer.Option("--from", metavar="SITE", help="the site it is on", show_default=False)]
To = Annotated[
    str, typer.Option("--to", metavar="SITE", help="the site it is brought to", show_default=False)
]


@dataclass(frozen=True, slots=True)
class OnTheWay:
    """What is used on the way; left out, drpilot finds it."""

    bucket: Annotated[
        str | None,
        typer.Option(
            "--bucket", metavar="BUCKET", help="where bytes lie on the way; left out: one of its own"
        ),
    ] = None
    subnet: Annotated[
        str | None,
        typer.Option("--subnet", metavar="SUBNET", help="where a mover stands, if one is needed"),
    ] = None
    mover_image: Annotated[
        str | None,
        typer.Option("--mover-image", metavar="IMAGE", help="what a mover is started from, if one is needed"),
    ] = None


def image_copy(
    session: Session,
    image: Image,
    source: From,
    target: To,
    way: OnTheWay,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="its name there; left out: as it is called")
    ] = None,
    private_key: PrivateKey = None,
    cloud_cert: CloudCert = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say by which way it would go; nothing is changed")
    ] = False,
) -> Answer:
    """Bring an image to another site; interrupted, the same command goes on, and done once it is done."""
    from drpilot import wiring
    from drpilot.domain.ports import CloudError
    from drpilot.services.imagecopy import copy_image, plan_copy

    session.quiet()
    words = ["image", "copy", image, "--from", source, "--to", target]
    options = [
        ("--name", name),
        ("--bucket", way.bucket),
        ("--subnet", way.subnet),
        ("--mover-image", way.mover_image),
        ("--private-key", private_key),
        ("--cloud-cert", cloud_cert),
    ]
    command = session.command(typed(words, options))
    wanted = _wanted(image, name, way, private_key, cloud_cert)
    stage = wiring.image_stage(lab=session.common.lab, source=source, target=target, note=session.say)
    try:
        planned = plan_copy(stage, wanted)
        _said(session, planned, source, target)
        if dry_run:
            return _planned(session, planned, (source, target), command)
        done = copy_image(stage, planned, _progress(session, stage.clock))
    except CloudError as error:
        refused = wiring.told(error)
        refused.hint = f"{command}; it goes on with what was carried"
        raise refused from error
    except DrpilotError as error:
        if error.word == "usage" and error.hint.startswith("--"):
            option, _, more = error.hint.partition(";")
            named = option.split()[0]
            others = [pair for pair in options if pair[0] != named]
            error.hint = session.command(f"{typed(words, others)} {option}") + (f";{more}" if more else "")
        elif error.word in _AGAIN:
            error.hint = f"{command}; {_AGAIN[error.word]}"
        raise
    return _answer(session, planned, done, (source, target))


def _wanted(
    image: str, name: str | None, way: OnTheWay, private_key: Path | None, cloud_cert: Path | None
) -> ImageCopy:
    from drpilot.services.imagecopy import ImageCopy

    return ImageCopy(
        image=image,
        name=name or "",
        bucket=way.bucket or "",
        subnet=way.subnet or "",
        mover_image=way.mover_image or "",
        private_key=key_of(private_key) if private_key is not None else None,
        key_name=str(private_key or ""),
        cloud_key=certificate_of(cloud_cert) if cloud_cert is not None else None,
    )


def _said(session: Session, planned: Planned, source: str, target: str) -> None:
    """Say the way before it begins."""
    if planned.there is not None:
        session.say(f"{planned.image} of {source} is on {target} already: {planned.there['ImageId']}")
        return
    if planned.coming is not None:
        session.say(_coming(planned.coming, planned.image, target))
    session.say(f"{planned.image} from {source} to {target}, as {planned.name}: {planned.way.words}")
    session.say(*(f"note: {note}" for note in planned.notes))


def _coming(found: dict[str, Any], image: str, target: str) -> str:
    return f"{image} is on its way to {target}: {found['ImageId']} is {found['State']}, and waited for"


def _progress(session: Session, clock: Clock) -> Callable[[str, float | None, str], None]:
    """A line on stderr for each step, and every few seconds how far it is."""
    last, shown = clock.monotonic(), ""

    def told(step: str, fraction: float | None, note: str) -> None:
        nonlocal last, shown
        now = clock.monotonic()
        if session.terminal.json or (step == shown and now - last < _TOLD_S):
            return
        last, shown = now, step
        far = f" {fraction:.0%}" if fraction is not None else ""
        session.say(f"{_STEPS.get(step, step)}{far}" + (f": {note}" if note else ""))

    return told


_AGAIN = {
    "image-not-carried": "it goes on where this one stopped",
    "copy-busy": "it finds what the other process has made, once that has ended",
}
_STEPS = {
    "wait": "a copy that was begun is waited for",
    "copy": "the target copies it",
    "open": "a bucket for the bytes on the way",
    "read": "its root is read into the bucket",
    "end": "the mover is ended",
    "import": "the target imports it as a volume",
    "seal": "a snapshot of the volume",
    "discard": "the volume is deleted",
    "write": "its root is written into a snapshot",
    "unbundle": "its bundle is unpacked into a snapshot",
    "retarget": "its bundle is uploaded under a new manifest and registered",
    "enrol": "the image is registered",
    "clear": "the bucket is cleared",
}


def _document(planned: Planned, sites: tuple[str, str]) -> dict[str, Any]:
    return {
        "source_image": planned.image,
        "source": sites[0],
        "target": sites[1],
        "name": planned.name,
        "way": planned.way.kind,
        "says": planned.way.words,
        "notes": list(planned.notes),
    }


def _planned(session: Session, planned: Planned, sites: tuple[str, str], command: str) -> Answer:
    there = planned.there["ImageId"] if planned.there is not None else None
    data = {**_document(planned, sites), "dry_run": True, "image": there, "already": there is not None}
    line = f"{planned.image} is on {sites[1]} already: {there}" if there else f"way: {planned.way.words}"
    if planned.coming is not None:
        line = f"{_coming(planned.coming, planned.image, sites[1])}; {line}, if it comes to nothing"
    lines = (line, *(f"note: {note}" for note in planned.notes), "nothing was changed")
    return Answer(data, lines, command)


def _answer(session: Session, planned: Planned, done: Carried, sites: tuple[str, str]) -> Answer:
    data = {
        **_document(planned, sites),
        "dry_run": False,
        "image": done.image,
        "already": done.already,
        "snapshot": done.snapshot or None,
        "location": done.location or None,
    }
    verb = "is there already" if done.already else "was brought over"
    line = f"{done.image} on {sites[1]}: {planned.image} of {sites[0]} {verb}"
    return Answer(data, (line,), session.command(f"site check {sites[1]}"))
