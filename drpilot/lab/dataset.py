"""The shop's data set: bytes from a seed, their digests, and a reader that asks no cloud.

`read_back` opens the volume files below a lab site's directory itself. It shares nothing with what copies
snapshots and blocks, so it can say whether a copy is true.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from drpilot.lab import disk

__all__ = ["Contents", "Reading", "expected", "read_back", "verified", "volume_blocks"]


@dataclass(frozen=True, slots=True)
class Contents:
    """What the data volumes hold: the seed, how many volumes, how many blocks of data on each; `dense` puts the
    blocks side by side.
    """

    seed: str
    volumes: int
    blocks: int
    dense: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """What a data volume holds: the data set's name and index, the SHA-256 over its blocks of data in
    the order of their places, how many they are, whether each is as its header says, and the newest heartbeat.
    """

    volume_id: str
    data_set: str | None
    index: int | None
    blocks: int
    sha256: str
    intact: bool
    heartbeat: disk.Heartbeat | None


def _data_blocks(contents: Contents, volume: int) -> dict[int, bytes]:
    """Header and data of one volume: places spread over 1 GiB by the seed, or dense; none the heartbeat's."""
    digest = hashlib.sha256(f"{contents.seed}/{volume}/places".encode()).digest()
    stride, first = (1, 0) if contents.dense else (11 + digest[0] % 7, digest[1])
    places = [2 + (first + step * stride) % 2040 for step in range(contents.blocks)]
    return {place: disk.sample_block(contents.seed, volume, place) for place in places}


def volume_blocks(contents: Contents, volume: int) -> dict[int, bytes]:
    """Every block of one volume by its index: the header first, then the data."""
    blocks = _data_blocks(contents, volume)
    digests = {place: hashlib.sha256(data).hexdigest() for place, data in blocks.items()}
    data_set = disk.DataSet(contents.seed, volume, contents.volumes, 1, digests)
    return {0: disk.data_header(data_set), **blocks}


def _digest(blocks: Mapping[int, bytes]) -> str:
    whole = hashlib.sha256()
    for _, data in sorted(blocks.items()):
        whole.update(data)
    return whole.hexdigest()


def expected(contents: Contents) -> dict[int, str]:
    """The SHA-256 that `read_back` must find for each data volume, from the seed alone."""
    return {volume: _digest(_data_blocks(contents, volume)) for volume in range(contents.volumes)}


def read_back(directory: Path, volume_ids: Iterable[str]) -> list[Reading]:
    """Read data volumes straight from a lab cloud's directory, block by block, without asking the cloud.

    A volume whose file is missing, or that carries no data set, gives a reading that is not intact.
    """
    return [
        _read_volume(Path(directory) / "volumes" / f"{volume_id}.img", volume_id) for volume_id in volume_ids
    ]


def _read_volume(path: Path, volume_id: str) -> Reading:
    empty = Reading(volume_id, None, None, 0, hashlib.sha256(b"").hexdigest(), False, None)
    if not path.exists():
        return empty
    with path.open("rb") as stream:
        data_set = disk.read_data_header(stream.read(disk.BLOCK_BYTES))
        if data_set is None:
            return empty
        whole, intact = hashlib.sha256(), True
        for place, digest in sorted(data_set.blocks.items()):
            stream.seek(place * disk.BLOCK_BYTES)
            data = stream.read(disk.BLOCK_BYTES)
            whole.update(data)
            intact = intact and hashlib.sha256(data).hexdigest() == digest
        stream.seek(data_set.heartbeat * disk.BLOCK_BYTES)
        beat = disk.newest_heartbeat(stream.read(disk.BLOCK_BYTES))
    count = len(data_set.blocks)
    return Reading(volume_id, data_set.name, data_set.index, count, whole.hexdigest(), intact, beat)


def verified(readings: Iterable[Reading], data: Mapping[int, str]) -> bool:
    """Whether these volumes together hold exactly the data set: each index once, each block as made."""
    found = {reading.index: reading for reading in readings if reading.index is not None}
    return found.keys() == data.keys() and all(
        found[index].intact and found[index].sha256 == digest for index, digest in data.items()
    )
