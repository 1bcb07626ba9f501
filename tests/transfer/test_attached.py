"""Which disk is which volume: by hand, by name with the right size, by a size that nothing else has, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from drpilot.base.errors import DrpilotError
from drpilot.transfer.attached import Disk, Wanted, disks, match

G = 1 << 30


def _wanted(**sizes: int) -> list[Wanted]:
    return [Wanted(f"/dev/{name}", size, size) for name, size in sizes.items()]


def _disks(**sizes: int) -> list[Disk]:
    return [Disk(Path("/dev") / name, size) for name, size in sizes.items()]


def _found(wanted: list[Wanted], seen: list[Disk]) -> dict[str, str]:
    return {device: path.name for device, path in match(wanted, {}, seen).items()}


@pytest.mark.parametrize("name", ["sdf", "xvdf", "vdf", "hdf"])
def test_a_letter_with_the_right_size_is_the_volume(name: str) -> None:
    """A hypervisor's own prefix is understood, also beside another disk of that size."""
    assert _found(_wanted(sdf=G), _disks(vda=9 * G, vdb=G, **{name: G})) == {"/dev/sdf": name}


def test_a_size_that_nothing_else_has_is_enough() -> None:
    """Names say nothing, sizes differ: each volume has its own; a disk of the right letter and another size is none."""
    seen = _disks(vda=9 * G, vdb=3 * G, nvme1n1=2 * G, vdf=G)
    assert _found(_wanted(sdf=2 * G, sdg=3 * G), seen) == {"/dev/sdf": "nvme1n1", "/dev/sdg": "vdb"}


@pytest.mark.parametrize(
    ("wanted", "seen", "said"),
    [
        (_wanted(sdf=G, sdg=G), _disks(vdb=G, vdc=G), "are alike"),
        (_wanted(sdf=G), _disks(vdb=G, vdc=G), "all have its"),
        (_wanted(sdf=G, sdg=G), _disks(vdb=G), "are alike"),
        (_wanted(sdf=G), _disks(vdf=2 * G), "no free disk"),
        (_wanted(sdf=G), [Disk(Path("/dev/vdf"), G, used=True)], "there are none"),
        (_wanted(sdf=G), [], "there are none"),
    ],
)
def test_what_is_not_sure_is_not_guessed(wanted: list[Wanted], seen: list[Disk], said: str) -> None:
    """Alike volumes, alike disks, a wrong size, a disk in use: an error that says what there is."""
    with pytest.raises(DrpilotError) as refused:
        match(wanted, {}, seen)
    assert (refused.value.word, said in refused.value.title) == ("mover-device", True)


@given(
    some.dictionaries(some.sampled_from("bcdefghij"), some.integers(1, 4), min_size=1),
    some.dictionaries(some.sampled_from("bcdefghij"), some.integers(1, 4)),
)
def test_no_disk_is_two_volumes_and_none_is_of_a_wrong_size(
    wanted: dict[str, int], seen: dict[str, int]
) -> None:
    """Whatever volumes and disks there are: an error, or for each volume a disk of its own with its size."""
    asked = _wanted(**{f"sd{letter}": size * G for letter, size in wanted.items()})
    there = _disks(**{f"vd{letter}": size * G for letter, size in seen.items()})
    try:
        found = match(asked, {}, there)
    except DrpilotError:
        return
    assert len(set(found.values())) == len(found) == len(asked)
    sizes = {disk.path: disk.size_bytes for disk in there}
    assert all(sizes[found[one.device]] == one.device_bytes for one in asked)


def test_a_device_named_by_hand_is_taken(tmp_path: Path) -> None:
    """By hand any file will do that is long enough; its disk is not taken again for another volume."""
    path = tmp_path / "f"
    path.write_bytes(b"x" * 10)
    wanted = [Wanted("/dev/sdf", 99, 10), Wanted("/dev/sdg", 10, 10)]
    seen = [Disk(path, 10), Disk(Path("/dev/vdz"), 10)]
    assert match(wanted, {"/dev/sdf": path}, seen) == {"/dev/sdf": path, "/dev/sdg": Path("/dev/vdz")}
    with pytest.raises(DrpilotError, match="the job wants 11"):
        match([Wanted("/dev/sdf", 11, 11)], {"/dev/sdf": path}, [])


def test_the_disks_of_a_machine_are_read_from_its_system(tmp_path: Path) -> None:
    """Sizes count sectors of 512 bytes; a disk with a mounted part or a swap is in use; a loop device is none."""
    there = {"vda": 20, "vdb": 4, "vdc": 8, "nvme0n1": 2, "nvme1n1": 6, "loop0": 7, "sr0": 3, "vdd": "x"}
    for name, sectors in there.items():
        (tmp_path / "sys/block" / name).mkdir(parents=True)
        (tmp_path / "sys/block" / name / "size").write_text(f"{sectors}\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    mounts = "/dev/vda1 / ext4 rw 0 0\nproc /proc proc rw 0 0\n/dev/nvme0n1p2 /data xfs rw 0 0\n"
    (tmp_path / "proc/self/mounts").write_text(mounts)
    (tmp_path / "proc/swaps").write_text("Filename Type\n/dev/vdc partition 1 0 -2\n")
    found = {disk.path.name: (disk.size_bytes, disk.used) for disk in disks(system=tmp_path)}
    assert found == {
        "vda": (10240, True),
        "vdb": (2048, False),
        "vdc": (4096, True),
        "nvme0n1": (1024, True),
        "nvme1n1": (3072, False),
    }


def test_the_files_of_a_folder_are_disks_too(tmp_path: Path) -> None:
    """Links are followed, folders are left out, and a folder that is not there has none."""
    (tmp_path / "volume").write_bytes(b"x" * 7)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/vdf").symlink_to(tmp_path / "volume")
    (tmp_path / "dev/folder").mkdir()
    (tmp_path / "dev/gone").symlink_to(tmp_path / "nothing")
    assert disks(tmp_path / "dev") == [Disk(tmp_path / "dev/vdf", 7)]
    assert disks(tmp_path / "none") == []
