"""`drpilot bundle create --device`: a machine's tree comes back from its bundle as a file system of its own, and what
belongs to the one machine is not in it, not even in free blocks.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drpilot.base.errors import DrpilotError
from drpilot.cli.app import app
from drpilot.transfer.identity import Filter
from drpilot.transfer.rootdisk import disk_image, find_disk
from drpilot.transfer.rootimage import SHADOW, Place, Root, find_root, names_at, root_image
from tests.transfer.craft import REFERENCE

SEARCH = "/usr/sbin:/sbin:/usr/bin:/bin"
pytestmark = pytest.mark.skipif(
    shutil.which("mke2fs", path=SEARCH) is None, reason="e2fsprogs is not installed"
)
SECRET = "a secret of this machine"
IDENTITY = (
    "etc/ssh/ssh_host_rsa_key",
    "etc/ssh/ssh_host_ed25519_key",
    "etc/machine-id",
    "root/.ssh/authorized_keys",
    "root/.ssh/id_ed25519",
    "root/.aws/credentials",
    "home/joe/.euca/joe.ini",
    "home/joe/.bash_history",
    "root/.config/drpilot/drpilot.yaml",
    "var/lib/drpilot/journal.db",
    "var/log/nginx/access.log",
    "var/lib/cloud/instance/user-data.txt",
    "var/lib/dhcp/dhclient.leases",
    "tmp/session",
    "swapfile",
)


def tool(name: str, *arguments: str | Path) -> str:
    """One of the file system's own tools; what it printed."""
    done = subprocess.run(
        [name, *map(str, arguments)], check=False, capture_output=True, text=True, env={"PATH": SEARCH}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The root of a machine, with its identity."""
    root = tmp_path / "machine"
    for name in IDENTITY:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{SECRET}: {name}\n" * 50)
    for name in ("proc", "sys", "usr/bin", "etc/cron.d", "srv"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "etc/ssh/sshd_config").write_text("Port 22\n")
    (root / "usr/bin/tool").write_bytes(os.urandom(300_000))
    (root / "usr/bin/tool").chmod(0o4755)
    os.link(root / "usr/bin/tool", root / "usr/bin/same")
    (root / "usr/bin/link").symlink_to("tool")
    (root / "srv/name with \"quotes\" and 'more'").write_text("odd\n")
    os.utime(root / "etc/ssh/sshd_config", (1_600_000_000, 1_600_000_000))
    os.utime(root / "srv", (1_500_000_000, 1_500_000_000))
    (root / "srv").chmod(0o2750)
    with (root / "srv/sparse").open("wb") as file:
        file.truncate(40 << 20)
        file.seek(39 << 20)
        file.write(b"end")
    return root


def shown(root: Path) -> dict[str, tuple[Any, ...]]:
    """Mode, links, time and content of everything below a folder."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(root.rglob("*")):
        told = path.lstat()
        content: Any = str(path.readlink()) if path.is_symlink() else None
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
        plain = stat.S_ISREG(told.st_mode)
        when = int(told.st_mtime) if plain or path.is_dir() else None
        # debugfs gives a file its owner after its mode, which takes setuid and setgid away again.
        mode = stat.filemode(told.st_mode).replace("s", "x")
        found[str(path.relative_to(root))] = (mode, when, content)
    return found


def dumped(image: Path, folder: Path) -> Path:
    """The files of a file system as its own debugger gives them back, after its own checker has passed it."""
    tool("e2fsck", "-f", "-n", image)
    folder.mkdir()
    tool("debugfs", "-R", f"rdump / {folder}", image)
    shutil.rmtree(folder / "lost+found", ignore_errors=True)
    return folder


def create(tree: Path, out: Path, *more: str, code: int = 0) -> Any:
    """The command; its JSON document."""
    keys = REFERENCE / "keys"
    given = ["--cloud-cert", str(keys / "cloud-cert.pem"), "--account", "123456789012"]
    given += [
        "--cert",
        str(keys / "user-cert.pem"),
        "--private-key",
        str(keys / "user-pk.der"),
        "--size",
        "64MiB",
    ]
    given += ["--work", str(tree.parent), "--output", str(out), "--output", "json"]
    ended = CliRunner().invoke(app, ["bundle", "create", "--device", str(tree), *given, *more])
    assert ended.exit_code == code, ended.stdout + ended.stderr
    return json.loads(ended.stdout)


def test_a_machine_comes_back_without_its_identity(tree: Path, tmp_path: Path) -> None:
    """Bundled, extracted and dumped: owner's files, modes, times, links and holes are as they were, the machine's own
    are gone, and no byte of them is anywhere in the image. The machine itself is as before.
    """
    before = shown(tree)
    told = create(tree, tmp_path / "out")
    assert shown(tree) == before
    assert {path.name for path in tmp_path.iterdir()} == {"machine", "out"}
    left = told["device"]["left_out"]
    assert {
        "machine id",
        "host keys",
        "credentials",
        "logs",
        "histories",
        "drpilot's own",
        "swap",
    } <= left.keys()
    key = str(REFERENCE / "keys" / "user-pk.der")
    manifest = str(tmp_path / "out" / "root.manifest.xml")
    ended = CliRunner().invoke(
        app, ["bundle", "extract", manifest, "--private-key", key, "--output", str(tmp_path / "back")]
    )
    assert ended.exit_code == 0, ended.stderr
    image = tmp_path / "back" / "root"
    assert SECRET.encode() not in image.read_bytes()
    found = shown(dumped(image, tmp_path / "dump"))
    kept = {name: row for name, row in before.items() if name not in IDENTITY}
    assert found.pop("etc/machine-id")[2] == b""
    for name in (
        "root/.aws",
        "home/joe/.euca",
        "root/.config/drpilot",
        "var/lib/drpilot",
        "var/lib/cloud/instance",
    ):
        kept.pop(name)
    assert found.keys() == kept.keys()
    assert {name: (row[0], row[2]) for name, row in found.items()} == {
        name: (row[0], row[2]) for name, row in kept.items()
    }
    assert found["srv"] == kept["srv"]
    assert found["etc/ssh/sshd_config"] == kept["etc/ssh/sshd_config"]
    told_of_link = tool("debugfs", "-R", "stat /usr/bin/same", image)
    assert "Links: 2" in told_of_link
    assert "Mode:  04755" in told_of_link
    assert "Mode:  02750" in tool("debugfs", "-R", "stat /srv", image)
    sparse = tool("debugfs", "-R", "stat /srv/sparse", image)
    assert int(sparse.split("Blockcount:")[1].split()[0]) < 1000


def test_more_and_less_is_left_out(tree: Path, tmp_path: Path) -> None:
    """--exclude leaves out what it names, --include takes back, also from within what is left out."""
    (tree / "mnt/data").mkdir(parents=True)
    (tree / "mnt/data/kept").write_text("kept\n")
    (tree / "mnt/other").mkdir()
    keep = Filter(["/srv", "/usr/bin/t*"], ["/root/.ssh/authorized_keys", "/mnt/data"])
    made = root_image(Root(tree), Place(tmp_path / "image", 64 << 20), keep)
    found = shown(dumped(tmp_path / "image", tmp_path / "dump"))
    assert {"root/.ssh/authorized_keys", "mnt/data/kept", "usr/bin/same"} <= found.keys()
    assert not {"srv", "usr/bin/tool", "mnt/other", "root/.ssh/id_ed25519"} & found.keys()
    assert made.left_out["--exclude"] == 2
    for pattern in ("srv", "/srv/../etc"):
        with pytest.raises(DrpilotError) as refused:
            Filter([pattern])
        assert refused.value.exit_code == 2


def test_what_a_killed_process_left_is_removed(tree: Path, tmp_path: Path) -> None:
    """A shadow that is there is cleared away without touching the files it is linked to."""
    before = shown(tree)
    (tree / SHADOW / "usr").mkdir(parents=True)
    os.link(tree / "usr/bin/tool", tree / SHADOW / "usr/tool")
    (tree / SHADOW / "usr").chmod(0o500)
    root_image(Root(tree), Place(tmp_path / "image", 64 << 20), Filter())
    assert shown(tree) == before
    assert SHADOW not in shown(dumped(tmp_path / "image", tmp_path / "dump"))


def test_what_does_not_fit_leaves_nothing(tree: Path, tmp_path: Path) -> None:
    """Too small a file system is refused before and by mke2fs alike, and no image, bundle or shadow stays."""
    (tree / "srv/large").write_bytes(os.urandom(9 << 20))
    before = shown(tree)
    for size in (4 << 20, 10 << 20):
        with pytest.raises(DrpilotError) as refused:
            root_image(Root(tree), Place(tmp_path / "image", size), Filter())
        assert refused.value.word == "file-unwritable"
        assert "--size" in refused.value.title
    assert not (tmp_path / "image").exists()
    assert shown(tree) == before


def test_which_tree_is_meant(tree: Path, tmp_path: Path) -> None:
    """A mount point has its device and kind; a kind that is not ext is refused, as is what is no tree."""
    mounts = tmp_path / "mountinfo"
    row = f"25 1 254:1 / {tree} rw,relatime shared:1 - {{}} /dev/vda1 rw\n"
    mounts.write_text(row.format("ext3"))
    assert find_root(str(tree), mounts) == Root(tree, "/dev/vda1", "ext3")
    assert find_root(str(tree / "usr"), mounts) == Root(tree / "usr")
    mounts.write_text(row.format("xfs"))
    (tmp_path / "file").write_text("")
    for name, word in (
        (tree, "device-unusable"),
        (tmp_path / "file", "device-unusable"),
        (tmp_path / "no", "unknown-file"),
    ):
        with pytest.raises(DrpilotError) as refused:
            find_root(str(name), mounts)
        assert refused.value.word == word


def test_an_image_or_a_device(tree: Path, tmp_path: Path) -> None:
    """One of the two, and the options of a device only with one."""
    assert create(tree, tmp_path / "out", str(tree / "swapfile"), code=2)["error"]["word"] == "usage"
    given = ["bundle", "create", str(tree / "swapfile"), "--exclude", "/srv", "--account", "123456789012"]
    given += ["--cloud-cert", str(REFERENCE / "keys" / "cloud-cert.pem"), "--output", str(tmp_path / "out")]
    assert CliRunner().invoke(app, given).exit_code == 2
    assert not (tmp_path / "out").exists()


MIB = 1 << 20
UUID = "01234567-89ab-cdef-0123-456789abcdef"


def whole_disk(folder: Path, tree: Path) -> tuple[Path, Path, Path]:
    """A disk of 160 MiB with its boot area, an EFI partition, swap and the root, as sysfs and mountinfo tell of it."""
    disk, system, mounts = folder / "vda", folder / "sys", folder / "mountinfo"
    with disk.open("wb") as file:
        file.truncate(160 * MIB)
        for start, data in ((0, os.urandom(MIB)), (1 * MIB, os.urandom(MIB)), (159 * MIB, os.urandom(17))):
            file.seek(start)
            file.write(data)
        swap = bytes(4086) + b"SWAPSPACE2" + SECRET.encode()
        file.seek(8 * MIB)
        file.write(swap)
        file.seek(150 * MIB)  # behind the last partition: what an earlier file system left
        file.write(SECRET.encode())
    tool("mke2fs", "-q", "-F", "-t", "ext4", "-U", UUID, "-L", "cloudimg", "-E", f"offset={16 * MIB}", "-d", tree,
         disk, f"{128 * 1024}k")  # fmt: skip
    rows = {"vda1": (1, 7, ""), "vda2": (8, 8, ""), "vda3": (16, 128, "254:3")}
    for name, (start, size, number) in rows.items():
        entry = system / "vda" / name
        entry.mkdir(parents=True)
        for word, text in (("partition", name[-1]), ("start", str(start * 2048)), ("size", str(size * 2048))):
            (entry / word).write_text(f"{text}\n")
        (entry / "dev").write_text(f"{number}\n")
    mounts.write_text(f"25 1 254:3 / {tree} rw,relatime shared:1 - ext4 /dev/vda3 rw\n")
    return disk, system, mounts


def test_a_whole_disk_keeps_what_starts_it(tree: Path, tmp_path: Path) -> None:
    """Boot area, EFI partition and end of the disk are the same bytes; the root is made anew under its own UUID and
    label; of swap the header alone is there; and the machine's identity is nowhere.
    """
    disk, system, mounts = whole_disk(tmp_path, tree)
    found = find_disk(str(disk), system, mounts)
    assert found is not None
    assert [(one.name, one.remade) for one in found.partitions] == [
        ("vda1", False),
        ("vda2", False),
        ("vda3", True),
    ]
    made = disk_image(found, tmp_path / "image", Filter())
    before, after = disk.read_bytes(), (tmp_path / "image").read_bytes()
    assert SECRET.encode() in before
    assert SECRET.encode() not in after
    assert len(after) == len(before) == made.size_bytes
    for start, end in ((0, 8 * MIB), (159 * MIB, 160 * MIB)):
        assert after[start:end] == before[start:end]
    assert after[8 * MIB : 8 * MIB + 4096] == before[8 * MIB : 8 * MIB + 4096]
    assert not any(after[8 * MIB + 4096 : 16 * MIB])
    assert names_at(tmp_path / "image", 16 * MIB) == (UUID, "cloudimg")
    (tmp_path / "part").write_bytes(after[16 * MIB : 144 * MIB])
    inside = shown(dumped(tmp_path / "part", tmp_path / "dump"))
    assert inside["usr/bin/tool"] == shown(tree)["usr/bin/tool"]
    assert "etc/ssh/ssh_host_rsa_key" not in inside


def test_disks_that_are_refused(tree: Path, tmp_path: Path) -> None:
    """Another kind of file system, or none that is mounted, is refused; a device without partitions is no disk."""
    disk, system, mounts = whole_disk(tmp_path, tree)
    for text in (mounts.read_text().replace("ext4", "xfs"), ""):
        mounts.write_text(text)
        with pytest.raises(DrpilotError) as refused:
            find_disk(str(disk), system, mounts)
        assert refused.value.word == "device-unusable"
    assert find_disk(str(tree), system, mounts) is None
    assert find_disk(str(tmp_path / "vdb"), system, mounts) is None
