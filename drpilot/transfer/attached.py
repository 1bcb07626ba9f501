"""Which disk of this machine is which volume: the cloud's names of devices are a wish that few guests follow.

A volume attached as /dev/sdf is xvdf on Xen, and whatever letter is free on KVM. So a disk is taken for a volume when
it was named by hand, or when its size is right and so is its letter, or when it alone has the size and no other volume
has. Disks in use are never taken, and nothing is ever guessed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from drpilot.base.errors import DrpilotError

__all__ = ["Disk", "Wanted", "disks", "match"]

DEVICES = Path("/dev")
_SECTOR_BYTES = 512  # of /sys/block/*/size, whatever the disk's own is (Linux, block/genhd.c)
_VOLUMES = re.compile(r"(?:sd|vd|xvd|hd)[a-z]+|nvme\d+n\d+")
_LETTERS = re.compile(r"(?:sd|vd|xvd|hd)([a-z]+)")
_KINDS = ("xvd", "vd", "sd", "hd")


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of this machine. `used` where it or a part of it is mounted or swapped to."""

    path: Path
    size_bytes: int
    used: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """A volume as the cloud attached it, how large its device is, and how much of it must be there."""

    device: str
    device_bytes: int
    least_bytes: int


def disks(folder: Path = DEVICES, system: Path = Path("/")) -> list[Disk]:
    """The disks of this machine, or the files and devices of another folder; `system` holds /sys and /proc."""
    if folder != DEVICES:
        return _files(folder)
    used = _used(system)
    found = []
    for entry in sorted((system / "sys/block").glob("*")):
        if _VOLUMES.fullmatch(entry.name):
            try:
                size_bytes = int((entry / "size").read_text()) * _SECTOR_BYTES
            except (OSError, ValueError):
                continue  # it went away meanwhile
            own = re.compile(re.escape(entry.name) + r"p?\d*")
            found.append(Disk(folder / entry.name, size_bytes, any(own.fullmatch(name) for name in used)))
    return found


def _used(system: Path) -> set[str]:
    """Names of devices that are mounted or swapped to."""
    names = set()
    for table in ("proc/self/mounts", "proc/swaps"):
        try:
            lines = (system / table).read_text(errors="replace").splitlines()
        except OSError:
            continue
        names |= {line.split()[0].removeprefix("/dev/") for line in lines if line.startswith("/dev/")}
    return names


def _files(folder: Path) -> list[Disk]:
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        size_bytes = size_of(path)
        if size_bytes is not None:
            found.append(Disk(path, size_bytes))
    return found


def size_of(path: Path) -> int | None:
    """How long a file or block device is; None where it is neither, or can't be read."""
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def match(wanted: Sequence[Wanted], given: Mapping[str, Path], seen: Iterable[Disk]) -> dict[str, Path]:
    """The path of each wanted device, by its name. Raises `mover-device` for the first that is not sure, and `usage`
    for one given that nobody wants.
    """
    stray = sorted(set(given) - {one.device for one in wanted})
    if stray:
        asked = ", ".join(one.device for one in wanted)
        raise DrpilotError("usage", what=f"the job has no device {stray[0]}", hint=f"it has {asked}")
    found = {one.device: _named(one, given[one.device]) for one in wanted if one.device in given}
    free = [disk for disk in seen if not disk.used and disk.path not in found.values()]
    for one in wanted:
        if one.device not in found:
            disk = _by_name(one, free)
            if disk is not None:
                found[one.device] = disk.path
                free.remove(disk)
    left = [one for one in wanted if one.device not in found]
    for one in left:
        fitting = [disk for disk in free if disk.size_bytes == one.device_bytes]
        rivals = [other.device for other in left if other.device_bytes == one.device_bytes]
        if len(fitting) != 1 or len(rivals) != 1:
            raise DrpilotError("mover-device", device=one.device, what=_unsure(one, fitting, free, rivals))
        found[one.device] = fitting[0].path
    return found


def _named(one: Wanted, path: Path) -> Path:
    size_bytes = size_of(path)
    if size_bytes is None:
        raise DrpilotError("mover-device", device=one.device, what=f"{path} can't be read")
    if size_bytes < one.least_bytes:
        what = f"{path} has {size_bytes} bytes, the job wants {one.least_bytes}"
        raise DrpilotError("mover-device", device=one.device, what=what)
    return path


def _by_name(one: Wanted, free: Sequence[Disk]) -> Disk | None:
    """The disk of the right size under the device's own name or one that hypervisors make of it."""
    own = one.device.removeprefix("/dev/")
    letter = _LETTERS.fullmatch(own)
    names = [own, *(f"{kind}{letter[1]}" for kind in _KINDS if letter is not None)]
    for name in names:
        for disk in free:
            if disk.path.name == name and disk.size_bytes == one.device_bytes:
                return disk
    return None


def _unsure(one: Wanted, fitting: Sequence[Disk], free: Sequence[Disk], rivals: Sequence[str]) -> str:
    if not fitting:
        there = ", ".join(f"{disk.path} ({disk.size_bytes})" for disk in free) or "none"
        return f"no free disk has {one.device_bytes} bytes; there are {there}"
    shown = ", ".join(str(disk.path) for disk in fitting)
    if len(rivals) > 1:
        return f"{', '.join(rivals)} are alike, {one.device_bytes} bytes each, and so are the disks {shown}"
    return f"the disks {shown} all have its {one.device_bytes} bytes"
