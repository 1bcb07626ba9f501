"""An image of the root file system of a running machine, without what belongs to this one machine.

Leaving files out of a raw device can't be done: what is deleted from a copy stays in its free blocks. So a new file
system is made and filled by mke2fs (`-d`, mke2fs(8)) from a shadow of the tree: its directories made again, its files
linked hard, so that no byte is copied but into the image. That is a sparse file which takes as much room as what it
holds. The shadow lies on the file system itself, as `/.drpilot-image`, and is removed at the end; one that a killed
process left is removed at the next beginning.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from drpilot.base.errors import DrpilotError
from drpilot.transfer.identity import Filter
from drpilot.transfer.newfile import reading

__all__ = ["EXTS", "SHADOW", "Made", "Place", "Root", "find_root", "mounted", "names_at", "root_image"]

SHADOW = ".drpilot-image"
EXTS = ("ext2", "ext3", "ext4")
_MIB = 1 << 20
_BLOCK_BYTES = 4096
_TOOL_S = 6 * 3600.0  # to fill a file system; a disk of a machine is written at some 50 MB a second
_SEARCH = "/usr/sbin:/sbin:/usr/bin:/bin"
_NO_LINKS = (errno.EPERM, errno.EMLINK, errno.EXDEV)  # immutable, or linked too often already
_WALK_ROOM = 0.1  # of inodes and metadata, beside the bytes of the files


@dataclass(frozen=True, slots=True)
class Root:
    """A tree to make an image of: where it is mounted, its device (empty: unknown), the kind of its file system, and
    where it is in the machine's own tree, as rules name it (`/boot`; empty: the root).
    """

    path: Path
    device: str = ""
    kind: str = "ext4"
    inside: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file system is made: a file, from `offset` on; 0 bytes: as large as the one it is made of. `names` is the
    UUID and label it gets (empty: new ones).
    """

    image: Path
    size_bytes: int = 0
    offset: int = 0
    names: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class Made:
    """What an image holds: files and directories, their bytes; and how many of which kind were left out."""

    files: int
    bytes_used: int
    size_bytes: int
    left_out: dict[str, int] = field(default_factory=dict)


# -- which tree -------------------------------------------------------------------------------------------------------


def find_root(name: str, mounts: Path = Path("/proc/self/mountinfo")) -> Root:
    """The tree that a device or a directory names: a mounted device's root, a mount point, or any directory.

    Raises `unknown-file`, and `device-unusable` for what is not mounted or has no ext file system.
    """
    path = Path(name)
    if not path.exists():
        raise DrpilotError("unknown-file", file=name)
    rows = list(mounted(mounts))
    if path.is_dir():
        row = next((row for row in reversed(rows) if row[1] == str(path.resolve())), None)
        return _root(row[1], row[2], row[3]) if row is not None else Root(path.resolve())
    if not stat.S_ISBLK(path.stat().st_mode):
        what = (
            "it is neither a device nor a directory; an image file is bundled as it is: bundle create IMAGE"
        )
        raise DrpilotError("device-unusable", path=name, what=what)
    number = path.stat().st_rdev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    row = next((row for row in rows if row[0] == wanted and row[4] == "/"), None)
    if row is None:
        what = "it is mounted nowhere; name the device of a mounted file system, or its mount point"
        raise DrpilotError("device-unusable", path=name, what=what)
    return _root(row[1], name, row[3])


def _root(point: str, device: str, kind: str) -> Root:
    if kind not in EXTS:
        what = f"its file system is {kind}, and an image of it would have another kind than its fstab says"
        raise DrpilotError("device-unusable", path=point, what=what)
    return Root(Path(point), device, kind)


def mounted(path: Path) -> Iterator[tuple[str, str, str, str, str]]:
    """Device number, mount point, device, kind and root of each mount (proc_pid_mountinfo(5))."""
    for line in path.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fields, source = before.split(), after.split()
        if len(fields) > 4 and len(source) > 1:
            point = fields[4].encode().decode("unicode_escape")
            yield fields[2], point, source[1], source[0], fields[3]


# -- the image --------------------------------------------------------------------------------------------------------


def root_image(
    root: Root, place: Place, keep: Filter, told: Callable[[int, int], None] = lambda *_: None
) -> Made:
    """Make the file system at a place. A new file that could not be filled is removed.

    Raises `device-unusable`, `program-missing`, `file-unwritable`, `file-unreadable`.
    """
    tool, image = _tool("mke2fs"), place.image
    size_bytes = -(-(place.size_bytes or _size_of(root)) // 1024) * 1024
    extended = f"root_owner={os.geteuid()}:{os.getegid()}" + (
        f",offset={place.offset}" if place.offset else ""
    )
    names = place.names if any(place.names) or not root.device else names_at(Path(root.device))
    with _shadow(root) as shadow:
        made = _Shadow(root, shadow, keep, image).made(told)
        _check_room(image, made.bytes_used, size_bytes)
        command = [tool, "-q", "-F", "-t", root.kind, *_inodes(made, size_bytes), "-E", extended]
        command += ["-U", names[0]] if names[0] else []
        command += ["-L", names[1]] if names[1] else []
        done = _run([*command, "-d", str(shadow), str(image), f"{size_bytes // 1024}k"], _TOOL_S)
    if done.returncode != 0:
        if not place.offset:
            image.unlink(missing_ok=True)
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        what = f"mke2fs: {said} ({made.bytes_used} bytes of files, {size_bytes} of file system: --size)"
        raise DrpilotError("file-unwritable", path=str(image), what=what)
    return Made(made.files, made.bytes_used, size_bytes, made.left_out)


def _tool(name: str) -> str:
    found = shutil.which(name, path=_SEARCH)
    if found is None:
        raise DrpilotError("program-missing", program=name, package="e2fsprogs")
    return found


def _run(command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env={"PATH": _SEARCH, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:  # what is half-written is removed with its folder
        what = f"{command[0]} took longer than {timeout_s:g} s"
        raise DrpilotError("device-unusable", path=command[-1], what=what) from error


def _inodes(made: Made, size_bytes: int) -> list[str]:
    """As many inodes as are needed, where mke2fs would make too few: one for every 16 KiB (mke2fs.conf(5))."""
    wanted = int(made.files * 1.2) + 1024
    return ["-N", str(wanted)] if wanted > size_bytes // 16384 else []


def _size_of(root: Root) -> int:
    found = os.statvfs(root.path)
    return found.f_blocks * found.f_frsize


def names_at(device: Path, offset: int = 0) -> tuple[str, str]:
    """UUID and label of the ext file system on a device, by which fstab and boot loader name it.

    From its superblock (ext4 disk layout, kernel documentation): magic at 0x38, UUID at 0x68, label at 0x78. Raises
    `device-unusable` where there is none.
    """
    with reading(device), device.open("rb") as file:
        file.seek(offset + 1024)
        block = file.read(1024)
    if block[0x38:0x3A] != b"\x53\xef":
        raise DrpilotError("device-unusable", path=str(device), what=f"no ext file system at byte {offset}")
    number = block[0x68:0x78].hex()
    cuts = (0, 8, 12, 16, 20, 32)
    uuid = "-".join(number[start:end] for start, end in pairwise(cuts))
    return uuid, block[0x78:0x88].rstrip(b"\0").decode("utf-8", "replace")


def _check_room(image: Path, needed: int, size_bytes: int) -> None:
    found = os.statvfs(image.parent)
    free = found.f_bavail * found.f_frsize
    wanted = int(needed * (1 + _WALK_ROOM))
    if needed > size_bytes:
        what = f"{needed} bytes of files don't fit into {size_bytes}: --size"
        raise DrpilotError("file-unwritable", path=str(image), what=what)
    if wanted > free:
        what = f"it takes up to {wanted} bytes and {free} are free there: --work DIR"
        raise DrpilotError("file-unwritable", path=str(image), what=what)


# -- the shadow -------------------------------------------------------------------------------------------------------


@contextmanager
def _shadow(root: Root) -> Iterator[Path]:
    shadow = root.path / SHADOW
    try:
        _remove(shadow)
        shadow.mkdir(mode=0o700)
    except OSError as error:
        what = f"{shadow} can't be made: {error.strerror}; it takes root, and a file system that is not read-only"
        raise DrpilotError("device-unusable", path=str(root.path), what=what) from error
    try:
        yield shadow
    finally:
        with suppress(OSError):
            _remove(shadow)


def _remove(shadow: Path) -> None:
    if shadow.is_symlink():
        raise FileExistsError(errno.EEXIST, "a symbolic link is there")
    if shadow.exists():
        for folder, _, _ in os.walk(shadow):
            Path(folder).chmod(0o700)  # a directory of ours, or it can't be emptied
        shutil.rmtree(shadow)


class _Shadow:
    """Makes the shadow of a tree, depth first; directories get their times last."""

    def __init__(self, root: Root, shadow: Path, keep: Filter, image: Path) -> None:
        self._root, self._shadow, self._keep = root, shadow, keep
        self._device = root.path.stat().st_dev
        self._ours = {image.parent.resolve() / image.name}
        self._linked = set[int]()
        self._files = self._bytes = 0
        self._left = Counter[str]()

    def made(self, told: Callable[[int, int], None]) -> Made:
        """The whole shadow."""
        self._folder(self._root.path, self._shadow, self._root.inside, told)
        return Made(self._files, self._bytes, 0, dict(self._left))

    def _folder(self, source: Path, target: Path, inside: str, told: Callable[[int, int], None]) -> None:
        try:
            entries = sorted(os.scandir(source), key=lambda one: one.name)
        except OSError as error:
            raise DrpilotError("file-unreadable", path=str(source), what=error.strerror or "") from error
        for entry in entries:
            path = f"{inside}/{entry.name}"
            try:
                self._entry(entry, target / entry.name, path, told)
            except FileNotFoundError:
                continue  # a running machine: what was there a moment ago is gone
            except OSError as error:
                raise DrpilotError("file-unreadable", path=entry.path, what=error.strerror or "") from error
        told(self._files, self._bytes)
        _like(source, target)

    def _entry(
        self, entry: os.DirEntry[str], target: Path, path: str, told: Callable[[int, int], None]
    ) -> None:
        found, rule = entry.stat(follow_symlinks=False), self._keep.rule(path)
        if stat.S_ISDIR(found.st_mode):
            self._directory(entry, target, path, told)
        elif rule is not None:
            self._left[rule.why] += 1
            if rule.fate == "blank":
                target.touch()
                _like(Path(entry.path), target)
        elif stat.S_ISSOCK(found.st_mode):
            self._left["sockets"] += 1
        elif Path(entry.path) not in self._ours:
            self._link(Path(entry.path), target, found)

    def _directory(
        self, entry: os.DirEntry[str], target: Path, path: str, told: Callable[[int, int], None]
    ) -> None:
        source, rule = Path(entry.path), self._keep.rule(path)
        if path == f"{self._root.inside}/{SHADOW}":
            return
        if entry.stat(follow_symlinks=False).st_dev != self._device:
            self._left["other file systems"] += 1
            target.mkdir()
            _like(source, target)
            return
        if rule is not None and rule.fate != "emptied" and not self._keep.leads_to_included(path):
            self._left[rule.why] += 1
            return
        target.mkdir(mode=0o700)
        self._files += 1
        self._folder(source, target, path, told)

    def _link(self, source: Path, target: Path, found: os.stat_result) -> None:
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS or not stat.S_ISREG(found.st_mode):
                raise
            shutil.copy2(source, target, follow_symlinks=False)
            _like(source, target)
        self._files += 1
        if found.st_ino not in self._linked:
            whole = -(-found.st_size // _BLOCK_BYTES) * _BLOCK_BYTES
            self._bytes += min(found.st_blocks * 512, whole) if stat.S_ISREG(found.st_mode) else 0
        if found.st_nlink > 1:
            self._linked.add(found.st_ino)


def _like(source: Path, target: Path) -> None:
    """Give a directory or a file the owner, mode, attributes and times of another."""
    found = source.stat(follow_symlinks=False)
    if os.geteuid() == 0:
        os.chown(target, found.st_uid, found.st_gid, follow_symlinks=False)
    shutil.copystat(source, target, follow_symlinks=False)
