"""Four sites whose object stores differ: two of AWS, Eucalyptus 4.4 and 3.4, and what a sync between them needs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drpilot.base.clock import Chance, RealClock
from drpilot.clouds.objects import object_plane
from drpilot.clouds.session import Clients, CredentialsReference, SiteSettings
from drpilot.clouds.site import BotoSite
from drpilot.domain.objects import Got, ObjectChannel, ObjectName, ObjectPlane, Page, Part, Stored
from drpilot.lab.process import World
from drpilot.transfer.bucketsync import BucketDoors, BucketSync, Synced, sync_buckets
from tests.grounds import patient

MIB = 1 << 20
ODD = [
    "a+b",
    "100%",
    "ünï/日本",
    "/lead",
    "//two",
    "a//b",
    "..",
    "../up",
    "a/../b",
    "a/./b",
    ".",
    "q?x=1&y",
    "#h",
    "~t",
    "a'b\"c",
    "*",
    "(x)",
    "😀",
    "sp ace",
    "tab\there",
    "line\nfeed",
    "a\\b",
    "%2F",
    "x" * 1000,
]
Docked = dict[str, tuple[World, str, str]]  # a site's name here: its world, its name there, its dialect


def data_of(number: int, size_bytes: int) -> bytes:
    """Bytes that no other number gives."""
    return random.Random(number).randbytes(size_bytes)


@contextmanager
def running(folder: Path) -> Iterator[Docked]:
    """The four sites as processes."""
    pairs = {
        "like": {"home": "aws", "away": "aws"},
        "unlike": {"home": "eucalyptus-4.4", "away": "eucalyptus-3.4"},
    }
    names = {"like": ("aws", "aws2"), "unlike": ("new", "old")}
    worlds, found = [], {}
    try:
        for name, dialects in pairs.items():
            world = World(folder / name)
            worlds.append(world)
            world.up(("home", "away"), speed=50.0, dialects=dialects)
            for own, there in zip(names[name], dialects, strict=True):
                found[own] = (world, there, dialects[there])
        yield found
    finally:
        for world in worlds:
            world.down()


@dataclass
class Dock:
    """Sites by name, buckets on them, and syncs between them. `plane` may put something between us and a store."""

    folder: Path
    docked: Docked
    sites: dict[str, BotoSite]
    plane: Callable[[str, ObjectPlane], ObjectPlane] = lambda _, plane: plane
    made: int = 0
    told: list[Any] = field(default_factory=list)

    def bucket(self, site: str, objects: Mapping[str, bytes] | None = None) -> str:
        """A new bucket with objects, as `s3://BUCKET@SITE`."""
        self.made += 1
        name, door = f"bucket-{self.made}", self.sites[site]
        given: dict[str, Any] = {"Bucket": name}
        if self.docked[site][2] == "aws":
            given["CreateBucketConfiguration"] = {"LocationConstraint": door.region}
        door.call("s3", "CreateBucket", given)
        place = f"s3://{name}@{site}"
        for key, data in (objects or {}).items():
            self.put(place, key, data)
        return place

    def put(self, place: str, key: str, data: bytes, **more: Any) -> None:
        """One object."""
        bucket, door = self.reach(place)
        door.call("s3", "PutObject", {"Bucket": bucket, "Key": key, "Body": data, **more})

    def reach(self, place: str) -> tuple[str, BotoSite]:
        """The bucket's name and its site's door."""
        bucket, _, site = place.removeprefix("s3://").partition("@")
        return bucket, self.sites[site]

    def get(self, place: str, key: str) -> dict[str, Any]:
        """One object as botocore reads it."""
        bucket, door = self.reach(place)
        return dict(door.call("s3", "GetObject", {"Bucket": bucket, "Key": key}))

    def contents(self, place: str) -> dict[str, bytes]:
        """All objects of a bucket, by botocore."""
        bucket, door = self.reach(place)
        pages = door.pages("s3", "ListObjects", {"Bucket": bucket})
        keys = [row["Key"] for page in pages for row in page.get("Contents") or []]
        return {key: self.get(place, key)["Body"] for key in keys}

    def doors(self, engine: str = "fast") -> BucketDoors:
        """What a sync reaches these sites by."""
        return BucketDoors(
            self.sites.__getitem__,
            lambda name: self.plane(name, object_plane(self.sites[name], engine)),
            lambda name: self.sites[name].endpoint("s3"),
            self.folder / "transfers",
            RealClock(),
            Chance(5),
        )

    def sync(self, source: str, target: str, engine: str = "fast", **more: Any) -> Synced:
        """One sync to its end."""
        return sync_buckets(self.doors(engine), BucketSync(source, target, **more), self.told.append)

    def control(self, site: str, command: str, **given: Any) -> dict[str, Any]:
        """The lab's own plane of a site."""
        world, there, _ = self.docked[site]
        return dict(world.control(there, command, **given))

    def calls(self, site: str, operation: str) -> int:
        """How often a store was asked for something since `forget_calls`."""
        return len(self.control(site, "calls", operation=operation)["calls"])

    def forget_calls(self) -> None:
        """Count from here."""
        for site in self.docked:
            self.control(site, "calls", clear=True)

    def uploads(self, place: str) -> list[dict[str, Any]]:
        """The uploads in parts that are under way in a bucket."""
        bucket, door = self.reach(place)
        pages = door.pages("s3", "ListMultipartUploads", {"Bucket": bucket})
        return [upload for page in pages for upload in page.get("Uploads") or []]


@contextmanager
def docked(folder: Path, found: Docked) -> Iterator[Dock]:
    """The running sites, reached by their own dialects."""
    sites = {}
    for own, (world, there, dialect) in found.items():
        access = world.sites()[there]
        keys = folder / f"{own}.ini"
        keys.write_text(
            f"aws_access_key_id = {access.access_key}\naws_secret_access_key = {access.secret_key}\n"
        )
        keys.chmod(0o600)
        settings = SiteSettings(
            own,
            dialect,
            access.region,
            access.account,
            endpoints={"default": access.endpoint},
            credentials=CredentialsReference("file", str(keys)),
        )
        sites[own] = BotoSite(Clients(settings, environment={}), patient())
    yield Dock(folder, found, sites)
    for site in sites.values():
        site.close()


class Between:
    """A plane with something between it and us: subclasses change what passes."""

    def __init__(self, plane: ObjectPlane) -> None:
        self.engine, self.note = plane.engine, plane.note
        self._plane = plane

    def channel(self) -> ObjectChannel:
        return _Through(self, self._plane.channel())

    def close(self) -> None:
        self._plane.close()

    def page(self, channel: ObjectChannel, bucket: str, prefix: str, following: str) -> Page:
        return channel.page(bucket, prefix, following)

    def before_get(self, name: ObjectName) -> None:
        """Called before each read."""

    def got(self, into: memoryview) -> None:
        """Called with what was read."""

    def put(self, channel: ObjectChannel, name: ObjectName, data: memoryview, *more: Any) -> Stored:
        return channel.put(name, data, *more)


class _Through:
    def __init__(self, between: Between, channel: ObjectChannel) -> None:
        self._between, self._channel = between, channel

    def page(self, bucket: str, prefix: str, following: str) -> Page:
        return self._between.page(self._channel, bucket, prefix, following)

    def head(self, name: ObjectName) -> Got:
        return self._channel.head(name)

    def get(
        self, name: ObjectName, into: memoryview, *, etag: str = "", span: tuple[int, int] | None = None
    ) -> Got:
        self._between.before_get(name)
        found = self._channel.get(name, into, etag=etag, span=span)
        self._between.got(into)
        return found

    def put(self, name: ObjectName, data: memoryview, md5: bytes, facts: Mapping[str, str]) -> Stored:
        return self._between.put(self._channel, name, data, md5, facts)

    def put_part(self, name: ObjectName, part: Part, data: memoryview, md5: bytes) -> Stored:
        return self._channel.put_part(name, part, data, md5)

    def delete(self, name: ObjectName) -> None:
        self._channel.delete(name)

    def close(self) -> None:
        self._channel.close()
