"""An image of a running machine's whole disk, without what belongs to this one machine.

What starts the machine is carried as it is: everything outside its mounted ext file systems, such as the partition
table, the boot loader behind it and the EFI partition. Each mounted ext file system is made anew in its partition
(rootimage.py) under its own UUID and label, so that boot loader and fstab find it; of swap only the header is carried.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drpilot.base.errors import DrpilotError
from drpilot.transfer.identity import Filter
from drpilot.transfer.newfile import reading, writing
from drpilot.transfer.rootimage import EXTS, Made, Place, Root, mounted, names_at, root_image

__all__ = ["Disk", "Partition", "disk_image", "find_disk"]

_SECTOR = 512  # of sysfs, whatever the disk has
_PIECE = 1 << 20
_SWAP_HEADER = 4096
_RAW_KINDS = ("vfat", "")  # an EFI partition, or one that nobody mounts
_SWAP_MAGIC = (b"SWAPSPACE2", b"SWAP-SPACE")
_BOOT_MOST = 64 << 20  # before the first partition
_RAW_MOST = 2 << 30  # of what is carried as it is: more is data that nobody has looked at


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition: bytes from the start of the disk, where it is mounted (empty: nowhere), and as what."""

    name: str
    start: int
    size: int
    mounted: str = ""
    kind: str = ""

    @property
    def remade(self) -> bool:
        """Whether its file system is made anew."""
        return self.kind in EXTS


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk with its partitions in the order in which they lie."""

    path: Path
    size: int
    partitions: tuple[Partition, ...]


def find_disk(
    name: str, system: Path = Path("/sys/class/block"), mounts: Path = Path("/proc/self/mountinfo")
) -> Disk | None:
    """The disk that a device names; None for one without partitions. Raises `device-unusable`."""
    path = Path(name)
    folder = system / path.resolve().name
    if path.is_dir() or not folder.is_dir() or (folder / "partition").exists():
        return None
    points: dict[str, tuple[str, str]] = {}
    for number, point, _, kind, inner in mounted(mounts):
        if inner == "/":
            points.setdefault(number, (point, kind))
    found = []
    for entry in sorted(folder.iterdir()):
        if (entry / "partition").exists():
            point, kind = points.get(_number(entry / "dev"), ("", ""))
            start, size = (int((entry / one).read_text()) * _SECTOR for one in ("start", "size"))
            found.append(Partition(entry.name, start, size, point, kind))
    if not found:
        return None
    with reading(path), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
    disk = Disk(path, size, tuple(sorted(found, key=lambda one: one.start)))
    _check(disk)
    return disk


def _number(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def _check(disk: Disk) -> None:
    """Refuse a disk whose image would not start, or would carry what nobody has looked at."""
    for one in disk.partitions:
        if one.mounted and not one.remade and one.kind not in _RAW_KINDS:
            what = f"{one.name} is mounted at {one.mounted} with a file system of kind {one.kind}, not ext"
            raise DrpilotError("device-unusable", path=str(disk.path), what=what)
        if not one.remade and one.size > _RAW_MOST and not _is_swap(disk, one):
            what = f"{one.name} has {one.size} bytes that are neither a mounted ext file system nor swap"
            raise DrpilotError("device-unusable", path=str(disk.path), what=what)
    if not any(one.remade for one in disk.partitions):
        raise DrpilotError("device-unusable", path=str(disk.path), what="no ext file system of it is mounted")


def _is_swap(disk: Disk, partition: Partition) -> bool:
    with reading(disk.path), disk.path.open("rb") as file:
        file.seek(partition.start + _SWAP_HEADER - 10)
        return file.read(10) in _SWAP_MAGIC


def disk_image(
    disk: Disk, image: Path, keep: Filter, told: Callable[[int, int], None] = lambda *_: None
) -> Made:
    """Make the new file `image`, as large as the disk and sparse. Raises what `root_image` raises."""
    _carry(disk, image, _spans(disk))
    root = min((one.mounted for one in disk.partitions if one.remade), key=len)
    files = used = 0
    left = Counter[str]()
    for one in (one for one in disk.partitions if one.remade):
        tree = Root(Path(one.mounted), "", one.kind, one.mounted.removeprefix(root.rstrip("/")).rstrip("/"))
        names = names_at(disk.path, one.start)
        made = root_image(tree, Place(image, one.size, one.start, names), keep, told)
        files, used = files + made.files, used + made.bytes_used
        left.update(made.left_out)
    return Made(files, used, disk.size, dict(left))


def _spans(disk: Disk) -> list[tuple[int, int]]:
    """What is carried as it is: boot area, the tables before partitions and at the end, partitions that are not made
    anew. Other room between partitions may hold what an earlier file system left.
    """
    found, place = [(0, min(disk.partitions[0].start, _BOOT_MOST))], disk.partitions[0].start
    for one in disk.partitions:
        found.append((max(place, one.start - _PIECE), one.start))  # a logical partition's own table (EBR)
        if not one.remade:
            found.append((one.start, one.start + (_SWAP_HEADER if _is_swap(disk, one) else one.size)))
        place = one.start + one.size
    return [*found, (max(place, disk.size - _PIECE), disk.size)]  # the second table of GPT is at the very end


def _carry(disk: Disk, image: Path, spans: list[tuple[int, int]]) -> None:
    """Copy spans of bytes as they are; zeros stay holes."""
    zeros = bytes(_PIECE)
    with reading(disk.path), disk.path.open("rb") as source, writing(image), image.open("xb") as target:
        target.truncate(disk.size)
        for start, end in spans:
            source.seek(start)
            for place in range(start, end, _PIECE):
                want = min(_PIECE, end - place)
                piece = source.read(want)
                if len(piece) != want:
                    raise DrpilotError("file-unreadable", path=str(disk.path), what="it ended too early")
                if piece != zeros[:want]:
                    target.seek(place)
                    target.write(piece)
