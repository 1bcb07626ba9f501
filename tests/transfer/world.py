"""A world for copies: two lab sites, as processes or in this one, images on disk, and what the clouds saw."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drpilot.base.clock import Chance, Clock, ManualClock, RealClock
from drpilot.clouds.blocks import block_plane
from drpilot.clouds.site import BotoSite, Ways
from drpilot.formats.blockmap import BLOCK_BYTES, BlockMap
from drpilot.lab.cloud import Cloud
from drpilot.lab.process import World, start_in_process
from drpilot.lab.wire import attach
from drpilot.services.blocks import BlockCopy, Done, Doors, copy_blocks
from tests.grounds import Door, key_file, patient

GIB = 1 << 30
SPEED = 50.0


def block_of(number: int) -> bytes:
    """A block of bytes that no other number gives; 0 is zeros."""
    if number == 0:
        return bytes(BLOCK_BYTES)
    return (hashlib.sha256(str(number).encode()).digest() * (BLOCK_BYTES // 32))[:BLOCK_BYTES]


def write_image(path: Path, blocks: dict[int, int], size_bytes: int = GIB) -> Path:
    """A sparse file whose block i is block_of(blocks[i]); a 0 is zeros that take room on the disk."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for index, number in blocks.items():
            file.seek(index * BLOCK_BYTES)
            file.write(block_of(number)[: size_bytes - index * BLOCK_BYTES])
    return path


def data_blocks(descriptor: int, size_bytes: int) -> list[int]:
    """The blocks of a file that are not holes."""
    found, place = set[int](), 0
    while place < size_bytes:
        try:
            place = os.lseek(descriptor, place, os.SEEK_DATA)
        except OSError:
            break
        end = os.lseek(descriptor, place, os.SEEK_HOLE)
        found |= set(range(place // BLOCK_BYTES, -(-end // BLOCK_BYTES)))
        place = end
    return sorted(found)


def map_by_hand(path: Path) -> BlockMap:
    """The map of a file, read without any code of ours but the map; holes are zeros."""
    found, zeros = BlockMap(path.stat().st_size), bytes(BLOCK_BYTES)
    with path.open("rb") as file:
        for index in data_blocks(file.fileno(), found.size_bytes):
            file.seek(index * BLOCK_BYTES)
            data = file.read(BLOCK_BYTES)
            if data != zeros[: len(data)]:
                found[index] = hashlib.sha256(data.ljust(BLOCK_BYTES, b"\0")).digest()
    return found


@dataclass
class Yard:
    """Sites by name and the doors to them; `engine` carries blocks."""

    folder: Path
    engine: str
    sites: dict[str, BotoSite]
    clock: Clock
    control: Callable[..., dict[str, Any]]
    let_pass: Callable[[float], None] = RealClock().sleep
    made: int = 0
    stdin: Any = None
    told: list[Any] = field(default_factory=list)

    @property
    def doors(self) -> Doors:
        """What a copy reaches this world by."""
        return Doors(
            self.sites.__getitem__,
            lambda name: block_plane(self.sites[name], self.engine),
            self.folder / "transfers",
            self.clock,
            Chance(11),
            self.stdin,
        )

    def copy(self, source: str | Path, target: str | Path, **more: Any) -> Done:
        """One copy to its end."""
        return copy_blocks(self.doors, BlockCopy(str(source), str(target), **more), self.told.append)

    def path(self, name: str) -> Path:
        """A file of this world."""
        return self.folder / name

    def bucket(self, site: str = "home") -> str:
        """A new bucket."""
        self.made += 1
        name = f"bucket-{self.made}"
        given = {"Bucket": name, "CreateBucketConfiguration": {"LocationConstraint": self.sites[site].region}}
        self.sites[site].call("s3", "CreateBucket", given)
        return name

    def snapshot_blocks(self, name: str) -> dict[int, str]:
        """The digests of a snapshot such as `snap-1@home` that are not zeros', as the cloud itself has them."""
        snapshot, _, site = name.partition("@")
        zeros = hashlib.sha256(bytes(BLOCK_BYTES)).hexdigest()
        blocks = self.control(site, "blocks", snapshot=snapshot)["blocks"]
        return {int(index): digest for index, digest in blocks.items() if digest != zeros}

    def calls(self, site: str, operation: str) -> int:
        """How often the cloud was asked for something."""
        found = self.control(site, "calls", operation=operation)["calls"]
        return len(found)

    def forget_calls(self) -> None:
        """Count from here."""
        for name in self.sites:
            self.control(name, "calls", clear=True)


def as_numbers(block_map: BlockMap) -> dict[int, str]:
    """The stored blocks of a map with their digests."""
    return {index: (block_map[index] or b"").hex() for index in block_map.stored()}


@contextmanager
def over_http(folder: Path, world: World, engine: str) -> Iterator[Yard]:
    """The sites of a running world."""
    sites = {}
    for name, one in world.sites().items():
        door = Door(one.endpoint, world.credentials, name, one.region, one.account, ways=patient())
        sites[name] = door.open()
    yield Yard(folder, engine, sites, RealClock(), world.control)
    for site in sites.values():
        site.close()


class _Ticking:
    """A manual clock that lets the clouds go on when somebody waits."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.clouds: dict[str, Cloud] = {}
        self.now, self.monotonic = clock.now, clock.monotonic

    def sleep(self, seconds: float) -> None:
        self._clock.advance(seconds)
        for cloud in self.clouds.values():
            cloud.tick()


@contextmanager
def in_process(folder: Path) -> Iterator[Yard]:
    """Both sites as objects; botocore alone can reach them, so the engine is sdk."""
    clock = ManualClock(RealClock().now())
    ticking = _Ticking(clock)
    ticking.clouds = clouds = start_in_process(folder / "clouds", ("home", "away"), clock=clock)
    sites = {}
    for cloud in clouds.values():
        ((key, secret),) = cloud.keys.items()
        own = folder / f"{cloud.name}-keys"
        own.mkdir()
        keys = key_file(own, f"aws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
        door = Door("http://127.0.0.1:9", keys, cloud.name, cloud.region, cloud.account)
        door.ways = replace(Ways(chance=Chance(3)), clock=ticking)
        door.prepare = lambda session, cloud=cloud: attach(session, cloud, read_timeout_s=5.0)
        sites[cloud.name] = door.open()

    def control(site: str, command: str, **given: Any) -> dict[str, Any]:
        cloud = clouds[site]
        if command == "blocks":
            return {"blocks": cloud.store.block_map(given["snapshot"])}
        if command == "calls":
            found = [one for one in cloud.calls if given.get("operation") in (None, one["operation"])]
            if given.get("clear"):
                cloud.calls.clear()
            return {"calls": found}
        assert command == "break"
        with cloud.transaction():
            cloud.faults.set(given["fault"])
        return {}

    yield Yard(folder, "sdk", sites, ticking, control, ticking.sleep)
    for cloud in clouds.values():
        assert cloud.errors == []
        cloud.close()


def overwrite(path: Path, blocks: dict[int, int]) -> None:
    """Change blocks of a file where it lies."""
    with path.open("r+b") as file:
        for index, number in blocks.items():
            file.seek(index * BLOCK_BYTES)
            file.write(block_of(number))


def room_taken(path: Path) -> int:
    """Bytes of the disk a file takes."""
    return path.stat().st_blocks * 512
