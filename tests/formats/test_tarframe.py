"""The tar frame: what GNU tar and Python's tarfile write is read, in pieces of any size, and lies are refused."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from drpilot.formats.tarframe import BadFrame, Unframer, header, trailer_bytes

MIB = 1 << 20


def unframed(tar: bytes, size: int, step: int = 1 << 20) -> bytes:
    """The image in a tar stream that comes in pieces of `step` bytes."""
    image, frame = bytearray(size), Unframer(size)
    for place in range(0, len(tar), step):
        for offset, data in frame.feed(tar[place : place + step]):
            image[offset : offset + len(data)] = data
    frame.finish()
    assert len(image) == size
    return bytes(image)


def framed(data: bytes, name: str = "image") -> bytes:
    """A tar stream as drpilot writes it."""
    head = header(name, len(data))
    return head + data + bytes(trailer_bytes(len(head), len(data)))


def sparse(folder: Path, runs: list[tuple[int, bytes]], size: int) -> tuple[bytes, bytes]:
    """A file with data at some offsets: its content, and what `tar -S` makes of it."""
    path = folder / "sparse.img"
    with path.open("wb") as file:
        for offset, data in runs:
            file.seek(offset)
            file.write(data)
        file.truncate(size)
    command = ["tar", "-c", "-S", "-C", str(folder), "sparse.img"]
    return path.read_bytes(), subprocess.run(command, capture_output=True, check=True).stdout


@given(some.integers(0, 2000), some.integers(1, 3000))
def test_what_is_written_is_read_back(size: int, step: int) -> None:
    """Whatever the size and the pieces, the image comes back, and the stream is a whole number of records."""
    data = bytes((7 * place) % 251 for place in range(size))
    tar = framed(data)
    assert len(tar) % 10_240 == 0
    assert unframed(tar, size, step) == data


def test_tarfile_reads_what_is_written() -> None:
    """Python's tarfile sees one GNU member of mode 0644, owner 0 and time 0, also under a long name."""
    for name in ("image", "n" * 150):
        with tarfile.open(fileobj=io.BytesIO(framed(b"data", name))) as tar:
            (member,) = tar.getmembers()
            assert (member.name, member.size, member.mode, member.uid, member.mtime) == (name, 4, 0o644, 0, 0)
    assert framed(b"data")[257:265] == b"ustar  \0"
    assert unframed(framed(b"data", "n" * 150), 4) == b"data"


@pytest.mark.parametrize("areas", [0, 1, 4, 5, 30, 200])
def test_sparse_members(tmp_path: Path, areas: int) -> None:
    """A GNU sparse member is read with any number of areas: in the header, and in maps behind it."""
    runs = [(place * 128 * 1024 + 4096, bytes([1 + place % 255]) * 5000) for place in range(areas)]
    image, tar = sparse(tmp_path, runs, 30 * MIB)
    assert len(tar) < len(image) // 2
    assert tar[156:157] == b"S"
    for step in (1 << 20, 513, 100_003):
        assert unframed(tar, len(image), step) == image


def test_pax_members() -> None:
    """A pax header before the member is understood, with the size it gives."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("ä" * 80)
        member.size, member.pax_headers = 3, {"comment": "x"}
        tar.addfile(member, io.BytesIO(b"abc"))
    assert unframed(stream.getvalue(), 3) == b"abc"


def test_sizes_beyond_octal() -> None:
    """Images of 8 GiB and more have their size in base 256."""
    size = 9 << 30
    frame = Unframer(size)
    (piece,) = list(frame.feed(header("big", size) + b"x" * 10))
    assert piece == (0, b"x" * 10)


def two_members() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("a", "b"):
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    return stream.getvalue()


def a_link() -> bytes:
    member = tarfile.TarInfo("link")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("tar", "says"),
    [
        (framed(b"abcd"), "announces 4 bytes, the manifest 3"),
        (two_members(), "more than one file"),
        (a_link(), "a symbolic link"),
        (b"\0" * 512, "header"),
        (framed(b"abc")[:100], "ends before"),
        (framed(b"abc")[:514], "ends before"),
        (framed(b"abc")[:600], "ends before"),
        (b"x" + framed(b"abc")[1:], "damaged"),
        (framed(b"abc") + b"x", "more than one file"),
        (framed(b"abc") + bytes(17 * MIB), "without end"),
        (b"", "ends before"),
    ],
    ids=["size", "two", "link", "zeros", "cut 1", "cut 2", "cut 3", "sum", "junk", "padding", "empty"],
)
def test_lies_are_refused(tar: bytes, says: str) -> None:
    """A stream that is not one file of the announced size is refused, and says how."""
    with pytest.raises(BadFrame, match=says):
        unframed(tar, 3)


@pytest.mark.parametrize(
    "areas", [[(0, 4)], [(3, 1)], [(2, 2)], [(1, 1), (0, 1)], [(0, 2), (1, 1)], [(0, 1)], [(0, 8**11 - 1)]]
)
def test_areas_outside_the_image(areas: list[tuple[int, int]]) -> None:
    """A sparse map that leaves the image, turns back, overlaps, or does not add up is refused before any data."""
    table = b"".join(b"%011o\0%011o\0" % area for area in areas)
    block = bytearray(header("image", 2))
    block[156:157], block[386 : 386 + len(table)], block[483:495] = b"S", table, b"%011o\0" % 3
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(BadFrame, match="the map of its sparse tar is wrong"):
        unframed(bytes(block) + b"xy" + bytes(510), 3)


@given(some.binary(max_size=1200))
def test_any_bytes(junk: bytes) -> None:
    """Whatever comes behind or instead of a header, BadFrame is the only error, and no data lies outside the image."""
    for tar in (junk, framed(b"abc")[:512] + junk, _valid_sum(b"S", junk), _valid_sum(b"x", junk)):
        frame = Unframer(3)
        try:
            for offset, data in frame.feed(tar):
                assert 0 <= offset <= offset + len(data) <= 3
            frame.finish()
        except BadFrame:
            continue


def _valid_sum(kind: bytes, junk: bytes) -> bytes:
    """A header of `kind` filled with junk whose checksum is right."""
    block = bytearray(junk[:512].ljust(512, b"0"))
    block[124:136] = b"00000001000\0"
    block[156:157] = kind
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + junk[512:]
