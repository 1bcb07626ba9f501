"""Where the parts of a bundle come from and where they go: a folder or a bucket behind the same few words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from drpilot.base.errors import DrpilotError
from drpilot.transfer.newfile import NewFile, reading, writing

__all__ = ["Folder", "NewFolderBundle", "PartSink", "PartSource", "read_small"]

_READ_BYTES = 1 << 20


class PartSource(Protocol):
    """Gives parts by name."""

    def part(self, name: str) -> Iterator[bytes]:
        """The bytes of a part in order; raises `part-missing`, `file-unreadable` or a cloud's error."""


class PartSink(Protocol):
    """Takes the parts of one bundle, then its manifest. Without a manifest there is no bundle."""

    def part(self, name: str, data: bytearray | bytes) -> None:
        """Take a part as it closes; `data` is the sink's from then on."""

    def manifest(self, name: str, data: bytes) -> None:
        """Take the manifest, last, when every part is safe."""

    def discard(self) -> None:
        """Remove what was taken: the bundle failed."""


def read_small(path: Path, most_bytes: int = 5 << 20) -> bytes:
    """A small file whole; raises `unknown-file`, `file-unreadable`."""
    with reading(path), path.open("rb") as file:
        data = file.read(most_bytes + 1)
        if len(data) > most_bytes:
            raise DrpilotError("file-unreadable", path=str(path), what=f"longer than {most_bytes} bytes")
        return data


class Folder:
    """The parts of `bundle` as files of a folder. The folder is only read."""

    def __init__(self, path: Path, bundle: str) -> None:
        self.path = path
        self._bundle = bundle

    def part(self, name: str) -> Iterator[bytes]:
        """A part's file in pieces."""
        path = self.path / name
        if not path.is_file():
            raise DrpilotError("part-missing", part=name, name=self._bundle, place=str(self.path))
        with reading(path), path.open("rb", buffering=0) as file:
            while piece := file.read(_READ_BYTES):
                yield piece


class NewFolderBundle:
    """A new bundle in a folder that may hold other files; each file appears whole, the manifest last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: list[Path] = []
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)

    def part(self, name: str, data: bytearray | bytes) -> None:
        """Write a part."""
        with NewFile(self.path / name) as file:
            file.write(0, data)
            file.publish()
            self._made.append(file.path)

    def manifest(self, name: str, data: bytes) -> None:
        """Write the manifest."""
        self.part(name, data)

    def discard(self) -> None:
        """Remove the files of this bundle."""
        for path in self._made:
            path.unlink(missing_ok=True)
        self._made.clear()
