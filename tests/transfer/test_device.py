"""Devices and files: holes, what is cleared, and names that appear only when all is there."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from drpilot.base.clock import Chance, RealClock
from drpilot.base.errors import DrpilotError
from drpilot.formats.blockmap import BLOCK_BYTES, ZERO_SHA256, BlockMap
from drpilot.services.blocks import BlockCopy, Doors, copy_blocks
from drpilot.transfer.block import ZEROS, Gone, Result
from drpilot.transfer.device import DeviceSink, DeviceSource
from drpilot.transfer.stream import Pushed, PushedSource, StreamOfBlocks, StreamSource
from tests.transfer.world import block_of, room_taken, write_image


def test_holes_are_not_read(tmp_path: Path) -> None:
    """A sparse file lists the blocks that hold data, and one byte of data makes its block one of them."""
    path = write_image(tmp_path / "image", {3: 1, 4: 2, 900: 0}, 1000 * BLOCK_BYTES + 17)
    with path.open("r+b") as file:
        file.seek(500 * BLOCK_BYTES + 70_000)
        file.write(b"x")
        file.seek(1000 * BLOCK_BYTES + 16)
        file.write(b"y")
    source = DeviceSource(path)
    listing = source.list(None)
    pieces = [piece.index for piece in listing.pieces]
    assert pieces == [3, 4, 500, 900, 1000]
    assert (listing.total, source.size_bytes) == (5, 1000 * BLOCK_BYTES + 17)
    into = bytearray(b"z" * BLOCK_BYTES)
    source.reader().read(next(iter(source.list(None).pieces)), into)
    assert into == block_of(1)
    source.close()


@pytest.mark.parametrize(
    "size_bytes", [1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 40 * BLOCK_BYTES - 3]
)
def test_a_file_without_holes_is_listed_whole(tmp_path: Path, size_bytes: int) -> None:
    """Every block once, ascending, the short last one too."""
    path = tmp_path / "image"
    path.write_bytes(b"x" * size_bytes)
    source = DeviceSource(path)
    assert [piece.index for piece in source.list(None).pieces] == list(range(-(-size_bytes // BLOCK_BYTES)))
    source.close()


def test_holes_are_punched_where_old_data_was(tmp_path: Path) -> None:
    """Cleared blocks read as zeros and take no room; their neighbours keep their bytes."""
    path = write_image(tmp_path / "old", dict.fromkeys(range(8), 7), 8 * BLOCK_BYTES)
    sink = DeviceSink(path, Chance(1))
    assert not sink.blank
    sink.begin(8 * BLOCK_BYTES, "t", {})
    assert sink.writer().clear(2, 7) == 0
    sink.sync()
    sink.close()
    data = path.read_bytes()
    assert [data[index * BLOCK_BYTES :][:BLOCK_BYTES] == ZEROS for index in range(8)] == [False] * 2 + [
        True
    ] * 5 + [False]
    assert room_taken(path) <= 4 * BLOCK_BYTES


def test_a_draft_takes_its_name_when_it_is_complete(tmp_path: Path) -> None:
    """A new file is there only after finish; a draft that vanished, or has its name already, is told apart."""
    path, result = tmp_path / "new", Result(BlockMap(0), iter(()), 0)
    sink = DeviceSink(path, Chance(1))
    state = sink.begin(BLOCK_BYTES + 1, "t", {})
    sink.writer().write(1, memoryview(block_of(3)), ZERO_SHA256)
    assert not path.exists()
    sink.close()
    again = DeviceSink(path, Chance(1))
    assert again.begin(BLOCK_BYTES + 1, "t", state) == state
    again.finish(result)
    again.close()
    assert path.read_bytes() == ZEROS + block_of(3)[:1]
    named = DeviceSink(path, Chance(1))
    named.begin(BLOCK_BYTES + 1, "t", state)
    assert named.finish(result) == {"target": str(path)}
    named.close()
    path.unlink()
    with pytest.raises(Gone):
        DeviceSink(path, Chance(1)).begin(BLOCK_BYTES + 1, "t", state)


def test_what_is_no_volume_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders, sockets and devices that are no disks are neither sources nor targets."""
    door = tmp_path / "door"
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)  # a socket's path may be no longer than 108 bytes
        listening.bind("door")
        for path in (tmp_path, door, Path("/dev/null")):
            for make in (
                DeviceSource,
                lambda path: DeviceSink(path, Chance(1)).begin(1, "t", {}),
            ):
                with pytest.raises(DrpilotError) as caught:
                    make(path)
                assert caught.value.word == "device-unusable"


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """A write the system refuses names the file and the cause."""
    sink = DeviceSink(tmp_path / "new", Chance(1))
    sink.begin(2 * BLOCK_BYTES, "t", {})
    os.close(sink._descriptor)
    sink._descriptor = os.open("/dev/full", os.O_RDWR)
    writer = sink.writer()
    with pytest.raises(DrpilotError) as caught:
        writer.write(0, memoryview(block_of(1)), ZERO_SHA256)
    assert (caught.value.word, "space" in caught.value.title) == ("device-unusable", True)
    sink.close()


# -- the seam to streams ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [0, 1, BLOCK_BYTES, 50 * BLOCK_BYTES + 3])
def test_a_source_reads_as_a_stream(tmp_path: Path, size_bytes: int) -> None:
    """The stream of a source is the file, holes and all, whatever the size of the reads."""
    path = write_image(
        tmp_path / "image",
        {index: index for index in (1, 2, 30, 49) if index * BLOCK_BYTES < size_bytes},
        size_bytes,
    )
    source = DeviceSource(path)
    for step in (7 << 20, 100_003):
        with io.BufferedReader(StreamOfBlocks(source, ahead=3), step) as stream:
            assert (
                b"".join(iter(lambda stream=stream, step=step: stream.read(step), b"")) == path.read_bytes()
            )
    source.close()


@pytest.mark.parametrize("step", [1 << 20, 70_001])
def test_what_is_pushed_is_a_source(tmp_path: Path, step: int) -> None:
    """An image written piece by piece, holes left out, comes out as its blocks; the pieces may have any size."""
    path = write_image(tmp_path / "image", {0: 1, 1: 2, 40: 3, 59: 4}, 60 * BLOCK_BYTES - 9)
    data = path.read_bytes()

    def push(sink: Pushed) -> None:
        for offset in range(0, len(data), step):
            part = data[offset : offset + step]
            if part.strip(b"\0"):
                sink.write(offset, part)

    source = PushedSource(len(data), "pushed", push)
    found = {piece.index: bytes(piece.data or b"") for piece in source.list(None).pieces}
    assert list(found) == [0, 1, 40, 59]
    assert b"".join(found.get(index, ZEROS) for index in range(60))[: len(data)] == data
    source.close()


def test_who_pushes_is_heard(tmp_path: Path) -> None:
    """An error of who pushes comes out of the listing, also at its end; who pushes to nobody is stopped."""

    def late(sink: Pushed) -> None:
        sink.write(0, block_of(1) * 2)
        raise DrpilotError("stream-cut", name="x", have=1, need=2)

    source = PushedSource(2 * BLOCK_BYTES, "x", late)
    pieces = source.list(None).pieces
    assert next(pieces).index == 0
    with pytest.raises(DrpilotError):
        next(pieces)
    source.close()
    with pytest.raises(DrpilotError):
        list(PushedSource(10, "x", lambda sink: sink.write(5, b"123456")).list(None).pieces)
    ended: list[BaseException] = []

    def endless(sink: Pushed) -> None:
        try:
            for index in range(1000):
                sink.write(index * BLOCK_BYTES, block_of(7))
        except DrpilotError as error:
            ended.append(error)
            raise

    left = PushedSource(1000 * BLOCK_BYTES, "x", endless)
    assert next(left.list(None).pieces).index == 0
    left.close()
    assert len(ended) == 1


# -- a real block device ----------------------------------------------------------------------------------


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A loop device of 64 blocks and the file behind it; skipped where none may be made."""
    behind = write_image(tmp_path / "behind", dict.fromkeys(range(64), 9), 64 * BLOCK_BYTES)
    if not shutil.which("losetup"):
        pytest.skip("there is no losetup here")
    command = ["losetup", "--find", "--show", str(behind)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip("no loop device can be made here")
    device = Path(made.stdout.strip())
    yield device, behind
    subprocess.run(["losetup", "--detach", str(device)], check=True)


def test_a_block_device_is_read_and_written_in_place(tmp_path: Path, loop: tuple[Path, Path]) -> None:
    """On a real device what is old is cleared, what is new arrives, and it reads back as the image."""
    device, behind = loop
    image = write_image(tmp_path / "image", {0: 1, 30: 2, 62: 3}, 63 * BLOCK_BYTES)
    doors = Doors(lambda name: None, lambda name: None, tmp_path / "transfers", RealClock(), Chance(1))
    done = copy_blocks(doors, BlockCopy(str(image), str(device)))
    assert done.copied.tally.written == 3
    assert behind.read_bytes() == image.read_bytes() + block_of(9)
    back = tmp_path / "back"
    copy_blocks(doors, BlockCopy(str(device), str(back)))
    assert back.read_bytes() == behind.read_bytes()
    larger = write_image(tmp_path / "larger", {0: 5}, 65 * BLOCK_BYTES)
    with pytest.raises(DrpilotError) as caught:
        copy_blocks(doors, BlockCopy(str(larger), str(device)))
    assert caught.value.word == "target-too-small"


def test_a_device_in_use_is_not_written_to(tmp_path: Path, loop: tuple[Path, Path]) -> None:
    """Whoever else holds a device exclusively, as a mounted file system does, keeps it."""
    device, behind = loop
    holder = os.open(device, os.O_RDWR | os.O_EXCL)
    before = behind.read_bytes()
    try:
        with pytest.raises(DrpilotError) as caught:
            DeviceSink(device, Chance(1)).begin(BLOCK_BYTES, "t", {})
    finally:
        os.close(holder)
    assert (caught.value.word, "busy" in caught.value.title) == ("device-unusable", True)
    assert behind.read_bytes() == before


def test_a_stream_of_a_stream_is_itself() -> None:
    """Both sides of the seam together change nothing, and zero blocks cost no piece."""
    data = block_of(1) + ZEROS * 3 + block_of(2) + b"tail"
    pieces = StreamSource(io.BytesIO(data), len(data), "x").list(None).pieces
    assert [piece.index for piece in pieces] == [0, 4, 5]
    stream = StreamOfBlocks(StreamSource(io.BytesIO(data), len(data), "x"))
    assert stream.read() == data
    stream.close()
