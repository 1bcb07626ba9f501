"""The tar frame around the image in a bundle: written in one form, read in every form the tools of the field write.

A bundle's tar holds exactly one file. euca2ools writes it whole; Amazon's tools write it with GNU tar's `-S`, so that
holes are left out (member type `S`: a map of data areas stands before the data). Layouts: GNU tar manual, "Basic Tar
Format"; POSIX.1-2001, pax interchange format. The stream is never sought in and never held.
"""

from __future__ import annotations

import tarfile
from array import array
from collections.abc import Callable, Iterator

__all__ = ["BLOCK", "BadFrame", "Unframer", "header", "trailer_bytes"]

BLOCK = 512
RECORD = 10_240
_MOST_AREAS = 4_000_000  # 64 MB of map; a 16 GiB image whose every other page is a hole has half of that
_MOST_EXTRA_BYTES = 1 << 20  # a long name, a pax record
_MOST_TRAILING_BYTES = 16 << 20  # tar pads to its record, at most 1 MiB as people set it
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"5": "a folder",
    b"6": "a pipe",
}


class BadFrame(ValueError):
    """The stream is not a tar of the one file that was announced."""


def header(name: str, size_bytes: int) -> bytes:
    """What stands before the image: a GNU header of mode 0644, owner 0, time 0 (with a long-name member if needed)."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size_bytes, 0o644
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def trailer_bytes(header_bytes: int, size_bytes: int) -> int:
    """How many zero bytes stand behind the image: to a block, two blocks, to a record of 10,240."""
    used = header_bytes + size_bytes
    end = -(-used // BLOCK) * BLOCK + 2 * BLOCK
    return -(-end // RECORD) * RECORD - used


def _number(text: bytes) -> int:
    """A number field: octal, or base 256 with the high bit set (GNU); BadFrame for anything else."""
    if text[:1] == b"\x80":
        return int.from_bytes(text[1:])
    try:
        value = int(text.split(b"\0", 1)[0].decode("ascii").strip() or "0", 8)
    except ValueError:
        value = -1
    if value < 0:
        raise BadFrame("a number in its tar header can't be read")
    return value


def _check_sum(block: bytes) -> None:
    # The sum counts its own field as blanks.
    if _number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * 32:
        raise BadFrame("its tar header is damaged")


class Unframer:
    """Takes the tar stream in pieces of any size and gives the image's data with its offsets.

    `feed` gives (offset, bytes) in rising order; areas never given are zero. `finish` raises BadFrame when the stream
    ended early. Every announcement in the stream is compared with `size_bytes`, so nothing lies outside the image.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._held = bytearray()  # an unfinished block of a header or of something before the member
        self._want = BLOCK  # how many bytes `_held` must have for `_step`
        self._step: Callable[[bytes], None] = self._on_header
        self._areas = array("Q")  # offset, size, offset, size, …
        self._area = 0
        self._within = 0  # bytes of the present area that were given
        self._stored = 0  # bytes of data the member stores
        self._left = 0  # of the padding behind the data
        self._pax_size: int | None = None
        self._trailing = 0
        self._inside = False  # in the data of the member
        self._ended = False  # behind it

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The parts of the image in the next piece of the stream; raises BadFrame."""
        place = 0
        while place < len(data):
            if self._inside:
                offset = self._areas[self._area] + self._within
                room = self._areas[self._area + 1] - self._within
                piece = data if place == 0 and len(data) <= room else data[place : place + room]
                place += len(piece)
                self._within += len(piece)
                if self._within == self._areas[self._area + 1]:
                    self._next_area()
                yield offset, piece
            elif self._ended:
                self._on_trailing(data[place:])
                return
            else:
                taken = data[place : place + self._want - len(self._held)]
                self._held += taken
                place += len(taken)
                if len(self._held) == self._want:
                    block = bytes(self._held)
                    self._held.clear()
                    self._step(block)

    def finish(self) -> None:
        """Say that the stream is over; raises BadFrame where more was announced."""
        if not self._ended or self._left:
            raise BadFrame("the stream ends before the image does")

    # -- before the data ----------------------------------------------------------------------------------------

    def _on_header(self, block: bytes) -> None:
        _check_sum(block)
        kind, size = block[156:157], _number(block[124:136])
        if kind in (b"L", b"K", b"x", b"g"):
            if not 0 < size <= _MOST_EXTRA_BYTES:
                raise BadFrame("a record before the image is too long")
            self._want = -(-size // BLOCK) * BLOCK
            self._step = self._on_pax if kind in (b"x", b"g") else self._on_long_name
        elif kind in (b"0", b"\0", b"7"):
            self._begin_whole(size if self._pax_size is None else self._pax_size)
        elif kind == b"S":
            self._announced(_number(block[483:495]))
            self._stored = size
            self._take_areas(block[386:482])
            self._more_areas(block[482])
        else:
            raise BadFrame(f"its tar holds {_KINDS.get(kind, 'something else')}, not a file")

    def _on_long_name(self, block: bytes) -> None:
        self._want, self._step = BLOCK, self._on_header  # the image is called as the manifest says

    def _on_pax(self, block: bytes) -> None:
        self._want, self._step = BLOCK, self._on_header
        text = block.rstrip(b"\0")
        if b"GNU.sparse." in text:
            raise BadFrame("its tar is sparse in pax form, which no bundling tool writes")
        for line in text.split(b"\n"):
            _, _, record = line.partition(b" ")
            if record.startswith(b"size="):
                if not record[5:].isdigit():
                    raise BadFrame("a number in its tar header can't be read")
                self._pax_size = int(record[5:24])

    def _more_areas(self, flag: int) -> None:
        if flag:
            self._want, self._step = BLOCK, self._on_areas
        else:
            self._begin()

    def _on_areas(self, block: bytes) -> None:
        self._take_areas(block[:504])
        self._more_areas(block[504])

    def _take_areas(self, table: bytes) -> None:
        for place in range(0, len(table), 24):
            if table[place] == 0:
                return
            offset, size = _number(table[place : place + 12]), _number(table[place + 12 : place + 24])
            end = self._areas[-2] + self._areas[-1] if self._areas else 0
            if offset < end or offset + size > self._size_bytes or len(self._areas) >= 2 * _MOST_AREAS:
                raise BadFrame("the map of its sparse tar is wrong")
            self._areas.extend((offset, size))

    def _begin(self) -> None:
        if sum(self._areas[1::2]) != self._stored:
            raise BadFrame("the map of its sparse tar is wrong")
        self._left = -self._stored % BLOCK
        self._area = -2
        self._next_area()

    def _begin_whole(self, size: int) -> None:
        self._announced(size)
        self._areas, self._stored = array("Q", (0, size)), size
        self._begin()

    def _announced(self, size: int) -> None:
        if size != self._size_bytes:
            raise BadFrame(f"its tar announces {size} bytes, the manifest {self._size_bytes}")

    # -- data and behind it -------------------------------------------------------------------------------------

    def _next_area(self) -> None:
        self._within = 0
        self._area += 2
        while self._area < len(self._areas) and self._areas[self._area + 1] == 0:
            self._area += 2
        self._inside = self._area < len(self._areas)
        self._ended = not self._inside

    def _on_trailing(self, data: bytes) -> None:
        padding = min(self._left, len(data))
        self._left -= padding
        rest = data[padding:]
        if rest.count(0) != len(rest):
            raise BadFrame("its tar holds more than one file")
        self._trailing += len(rest)
        if self._trailing > _MOST_TRAILING_BYTES:
            raise BadFrame("its tar goes on without end")
