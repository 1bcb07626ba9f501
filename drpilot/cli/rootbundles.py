"""`bundle create --device`: the image of a running machine's root, made for the time of the command."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drpilot.base.errors import DrpilotError
from drpilot.base.units import format_size, parse_size
from drpilot.cli.render import Answer
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from drpilot.transfer.identity import Filter
    from drpilot.transfer.rootdisk import Disk
    from drpilot.transfer.rootimage import Made

__all__ = ["Running", "image_of", "told_of"]


@dataclass(frozen=True, slots=True)
class Running:
    """A running machine's root as the image."""

    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="DEV",
            help="this running machine: its disk, or its root's device or mount point; its identity is left out",
        ),
    ] = None
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="PATH", help="with --device: left out as well; * within a name"),
    ] = None
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="PATH", help="with --device: carried though it would be left out"),
    ] = None
    size: Annotated[
        str | None,
        typer.Option(
            "--size", metavar="8GiB", help="with --device: of the new file system; left out: as it is"
        ),
    ] = None
    work: Annotated[
        Path | None,
        typer.Option("--work", metavar="DIR", help="with --device: where the image lies meanwhile"),
    ] = None


@contextlib.contextmanager
def image_of(session: Session, image: Path | None, running: Running) -> Iterator[tuple[Path, Made | None]]:
    """The image to bundle: the file that was named, or one made of this machine and deleted at the end.

    Raises `usage` unless exactly one of the two is given, and what `root_image` raises.
    """
    import tempfile

    from drpilot.transfer.identity import Filter
    from drpilot.transfer.newfile import writing
    from drpilot.transfer.rootdisk import find_disk

    if (image is None) == (running.device is None):
        what = "it bundles an IMAGE, or the running machine by --device"
        raise DrpilotError("usage", what=what, hint="drpilot bundle create --help")
    if running.device is None:
        if running.exclude or running.include or running.size or running.work:
            what = "--exclude, --include, --size and --work are for --device; an IMAGE is bundled as it is"
            raise DrpilotError("usage", what=what, hint="drpilot bundle create --help")
        assert image is not None
        yield image, None
        return
    keep = Filter(running.exclude or (), running.include or ())
    disk, size = find_disk(running.device), _size(running.size)
    if disk is not None and size:
        what = f"--size: the image of {running.device} is as large as that disk"
        raise DrpilotError(
            "usage", what=what, hint="--size is for a file system: name its device or mount point"
        )
    with contextlib.ExitStack() as stack:
        with writing(running.work or Path(tempfile.gettempdir())):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="drpilot-", dir=running.work))
        image, made = _made(running.device, disk, Path(folder) / "root", (size, keep))
        what = "a whole disk" if disk is not None else "one file system, no boot loader"
        session.say(
            f"{running.device}: {made.files} files and directories, {format_size(made.bytes_used)}; {what} of"
            f" {format_size(made.size_bytes)}"
        )
        yield image, made


def _made(device: str, disk: Disk | None, image: Path, wanted: tuple[int, Filter]) -> tuple[Path, Made]:
    from drpilot.transfer.rootdisk import disk_image
    from drpilot.transfer.rootimage import Place, find_root, root_image

    size, keep = wanted
    if disk is not None:
        return image, disk_image(disk, image, keep)
    return image, root_image(find_root(device), Place(image, size), keep)


def _size(text: str | None) -> int:
    if text is None:
        return 0
    try:
        return parse_size(text)
    except ValueError as error:
        raise DrpilotError("usage", what=f"--size: {error}", hint="--size 8GiB") from None


def told_of(answer: Answer, made: Made | None) -> Answer:
    """The answer with what was left out."""
    if made is None:
        return answer
    told = ", ".join(f"{why} ({count})" for why, count in sorted(made.left_out.items())) or "nothing"
    lines = (
        f"left out: {told}",
        "carried: accounts with their passwords and keys of services (/etc/shadow, /etc/ssl/private); else --exclude",
    )
    device = {"files": made.files, "bytes": made.bytes_used, "left_out": dict(sorted(made.left_out.items()))}
    return replace(answer, data={**answer.data, "device": device}, blocks=(*answer.blocks, *lines))
