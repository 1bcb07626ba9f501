"""The job of a mover, and what it tells of its work.

A mover is a small machine beside volumes that no API can read. It knows one URL, behind which the job lies: which
devices to read, and a presigned URL for each object it may write. It has no keys, so a mover that is stolen can write
these objects until the job expires, and nothing else. URLs are secrets: no message and no repr holds one.

The job is JSON, usually under gzip: signatures apart its URLs are alike. A reader takes no key it does not know.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from drpilot.base.clock import parse_time, rfc3339
from drpilot.base.errors import DrpilotError
from drpilot.formats.importmanifest import PART_BYTES

__all__ = [
    "MOST_JOB_BYTES",
    "MOST_STATUS_BYTES",
    "JobBase",
    "JobVolume",
    "MoverJob",
    "MoverStatus",
    "VolumeStatus",
    "read_job",
    "read_status",
    "write_job",
    "write_status",
]

T = TypeVar("T")

VERSION = 1
MOST_JOB_BYTES = 256 << 20  # expanded: two URLs of 600 bytes for each part of 2 TiB
MOST_STATUS_BYTES = 1 << 20
_MOST_VOLUMES = 40
_MOST_BYTES = 64 << 40  # EC2's largest volume
_MOST_URL = 8192
_MOST_TEXT = 300
_MARK = "drpilot-mover"
_DEVICE = re.compile(r"/dev/[a-z][a-z0-9]{1,31}")
_SNAPSHOT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_URL = re.compile(r"[!-~]+")  # ASCII without blanks
STATES = ("waiting", "working", "done", "failed")


@dataclass(frozen=True, slots=True)
class JobBase:
    """The earlier snapshot of the volume that is staged already, and where its map is read."""

    snapshot: str
    map_url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class JobVolume:
    """One volume: the device it was attached as, and where its snapshot goes, part by part (10 MiB each).

    `size_bytes` are staged. `device_bytes` is how large the device is here, when larger: volumes of different sizes can
    be told apart whatever a guest calls them. `head_urls` let a second try skip the parts that are there.
    """

    device: str
    snapshot: str
    size_bytes: int
    part_urls: tuple[str, ...] = field(repr=False)
    map_url: str = field(repr=False)
    device_bytes: int = 0
    head_urls: tuple[str, ...] = field(default=(), repr=False)
    base: JobBase | None = None

    @property
    def parts(self) -> int:
        """How many parts it has."""
        return _parts(self.size_bytes)

    @property
    def expected_bytes(self) -> int:
        """How large the device must be."""
        return self.device_bytes or self.size_bytes


@dataclass(frozen=True, slots=True)
class MoverJob:
    """What one mover does. `status_url` writes, `status_get_url` reads the status."""

    group: str
    run: str
    point: str
    expires_at: datetime
    volumes: tuple[JobVolume, ...]
    status_url: str = field(default="", repr=False)
    status_get_url: str = field(default="", repr=False)


@dataclass(slots=True)
class VolumeStatus:
    """How far one volume is: parts done of all, what was read, changed and written; why it failed."""

    snapshot: str
    device: str
    parts: int
    state: str = "waiting"
    done: int = 0
    blocks_read: int = 0
    blocks_changed: int = 0
    parts_written: int = 0
    bytes_written: int = 0
    error: str = ""


@dataclass(slots=True)
class MoverStatus:
    """How far a mover is. `at` is when it said so."""

    run: str
    at: datetime
    volumes: list[VolumeStatus]

    @property
    def state(self) -> str:
        """`failed` where a volume did, `done` where all are, else `working`."""
        found = {volume.state for volume in self.volumes}
        if found <= {"done", "failed"}:
            return "failed" if "failed" in found else "done"
        return "working"


def _parts(size_bytes: int) -> int:
    return -(-size_bytes // PART_BYTES)


# -- writing ------------------------------------------------------------------------------------------------------


def write_job(job: MoverJob) -> bytes:
    """The job as it lies behind its URL; the same bytes for the same job. ValueError where no mover would take it."""
    content: dict[str, Any] = {
        _MARK: VERSION,
        "group": job.group,
        "run": job.run,
        "point": job.point,
        "expires": rfc3339(job.expires_at),
        "volumes": [_volume_content(volume) for volume in job.volumes],
    }
    more = {"status": job.status_url, "status_get": job.status_get_url}
    content |= {name: value for name, value in more.items() if value}
    data = gzip.compress(json.dumps(content, separators=(",", ":")).encode(), mtime=0)
    try:
        read_job(data, "the job")
    except DrpilotError as error:
        raise ValueError(error.title) from None
    return data


def _volume_content(volume: JobVolume) -> dict[str, Any]:
    content: dict[str, Any] = {
        "device": volume.device,
        "snapshot": volume.snapshot,
        "size_bytes": volume.size_bytes,
        "parts": list(volume.part_urls),
        "map": volume.map_url,
    }
    if volume.device_bytes:
        content["device_bytes"] = volume.device_bytes
    if volume.head_urls:
        content["heads"] = list(volume.head_urls)
    if volume.base is not None:
        content["base"] = {"snapshot": volume.base.snapshot, "map": volume.base.map_url}
    return content


def write_status(status: MoverStatus) -> bytes:
    """The status as it lies beside the stage."""
    content = {
        _MARK: VERSION,
        "run": status.run,
        "at": rfc3339(status.at),
        "state": status.state,
        "volumes": [
            {name: getattr(volume, name) for name in VolumeStatus.__slots__} for volume in status.volumes
        ],
    }
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


# -- reading ------------------------------------------------------------------------------------------------------


class _Wrong(ValueError):
    """What is wrong with a document, without any URL of it."""


class _Fields:
    """The members of one object: each is asked for by its kind, and none may be left over."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _Wrong(f"{where} is no object")
        self._left: dict[str, Any] = dict(value)
        self._where = where

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str) -> Any:
        """A member as it stands."""
        if name not in self._left:
            raise _Wrong(f"{self._where} has no {name}")
        return self._left.pop(name)

    def text(self, name: str, most: int = _MOST_TEXT) -> str:
        """A line of text, not empty."""
        value = self.take(name)
        if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
            raise _Wrong(f"{name} of {self._where} is no line of text")
        return value

    def number(self, name: str, most: int = _MOST_BYTES, least: int = 1) -> int:
        """A whole number."""
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise _Wrong(f"{name} of {self._where} is not a number from {least} to {most}")
        return value

    def url(self, name: str) -> str:
        """A URL."""
        return _url(self.take(name), f"{name} of {self._where}")

    def urls(self, name: str, count: int) -> tuple[str, ...]:
        """As many URLs as there are parts."""
        value = self.take(name)
        if not isinstance(value, list) or len(value) != count:
            has = len(value) if isinstance(value, list) else "no list"
            raise _Wrong(f"{name} of {self._where} must be {count} URLs, it has {has}")
        return tuple(_url(one, f"{name}[{place}] of {self._where}") for place, one in enumerate(value))

    def matching(self, name: str, form: re.Pattern[str], what: str) -> str:
        """A text of a fixed form."""
        value = self.take(name)
        if not isinstance(value, str) or form.fullmatch(value) is None:
            raise _Wrong(f"{name} of {self._where} is no {what}")
        return value

    def end(self) -> None:
        """Nothing may be left."""
        if self._left:
            raise _Wrong(f"{self._where} has {min(self._left)[:40]!r}, which is not known here")


def _url(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > _MOST_URL or _URL.fullmatch(value) is None:
        raise _Wrong(f"{where} is no URL")
    try:
        parts = urlsplit(value)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        plain = parts.username is None and not parts.fragment
    except ValueError:
        whole = plain = False
    if not (whole and plain):
        raise _Wrong(f"{where} is no URL of http or https")
    return value


def read_job(data: bytes, file: str) -> MoverJob:
    """A job from its bytes, called `file` in errors; raises `mover-job`. That it has expired is not looked at."""
    return _read(data, file, (MOST_JOB_BYTES, "job"), _job)


def read_status(data: bytes, file: str) -> MoverStatus:
    """A status from its bytes, called `file` in errors; raises `mover-job`."""
    return _read(data, file, (MOST_STATUS_BYTES, "status"), _status)


def _read(data: bytes, file: str, kind: tuple[int, str], build: Callable[[_Fields], T]) -> T:
    try:
        fields = _Fields(_document(_expanded(data, kind[0])), f"the {kind[1]}")
        version = fields.take(_MARK)
        if version is True or version != VERSION:
            raise _Wrong(f"it has version {str(version)[:20]}, this drpilot reads {VERSION}")
        found = build(fields)
        fields.end()
    except _Wrong as problem:
        raise DrpilotError("mover-job", file=file, kind=kind[1], what=str(problem)) from None
    return found


def _expanded(data: bytes, most: int) -> bytes:
    if data[:2] != b"\x1f\x8b":
        if len(data) > most:
            raise _Wrong(f"it is longer than {most} bytes")
        return data
    reader = zlib.decompressobj(wbits=31)
    try:
        plain = reader.decompress(data, most)
    except zlib.error:
        raise _Wrong("its gzip is damaged") from None
    if not reader.eof:
        raise _Wrong(f"it is cut off, or longer than {most} bytes")
    if reader.unused_data:
        raise _Wrong("something follows its gzip")
    return plain


def _document(text: bytes) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise _Wrong("an object of it has a key twice")
        return found

    def refuse(word: str) -> NoReturn:
        raise _Wrong(f"it holds {word}")

    try:
        return json.loads(text.decode(), object_pairs_hook=once, parse_constant=refuse)
    except _Wrong:
        raise
    except (ValueError, RecursionError):  # what JSON says of it may quote it
        raise _Wrong("it is no JSON") from None


def _job(fields: _Fields) -> MoverJob:
    volumes = fields.take("volumes")
    if not isinstance(volumes, list) or not 0 < len(volumes) <= _MOST_VOLUMES:
        raise _Wrong(f"volumes are not a list of 1 to {_MOST_VOLUMES}")
    read = tuple(_volume(one, f"volume {place}") for place, one in enumerate(volumes))
    for name in ("device", "snapshot"):
        if len({getattr(volume, name) for volume in read}) != len(read):
            raise _Wrong(f"two volumes have the same {name}")
    return MoverJob(
        group=fields.text("group"),
        run=fields.text("run"),
        point=fields.text("point"),
        expires_at=_moment(fields, "expires"),
        volumes=read,
        status_url=fields.url("status") if "status" in fields else "",
        status_get_url=fields.url("status_get") if "status_get" in fields else "",
    )


def _volume(value: Any, where: str) -> JobVolume:
    fields = _Fields(value, where)
    size_bytes = fields.number("size_bytes")
    count, base = _parts(size_bytes), None
    if "base" in fields:
        told = _Fields(fields.take("base"), f"base of {where}")
        base = JobBase(told.matching("snapshot", _SNAPSHOT, "name of a snapshot"), told.url("map"))
        told.end()
    volume = JobVolume(
        device=fields.matching("device", _DEVICE, "device such as /dev/sdf"),
        snapshot=fields.matching("snapshot", _SNAPSHOT, "name of a snapshot"),
        size_bytes=size_bytes,
        part_urls=fields.urls("parts", count),
        map_url=fields.url("map"),
        device_bytes=fields.number("device_bytes", least=size_bytes) if "device_bytes" in fields else 0,
        head_urls=fields.urls("heads", count) if "heads" in fields else (),
        base=base,
    )
    fields.end()
    if base is not None and base.snapshot == volume.snapshot:
        raise _Wrong(f"{where} is its own base")
    return volume


def _moment(fields: _Fields, name: str) -> datetime:
    text = fields.text(name)
    try:
        return parse_time(text)
    except (ValueError, OverflowError):
        raise _Wrong(f"{name} is no time with an offset") from None


def _status(fields: _Fields) -> MoverStatus:
    volumes = fields.take("volumes")
    if not isinstance(volumes, list) or len(volumes) > _MOST_VOLUMES:
        raise _Wrong(f"volumes are not a list of at most {_MOST_VOLUMES}")
    found = MoverStatus(
        fields.text("run"),
        _moment(fields, "at"),
        [_volume_status(one, f"volume {place}") for place, one in enumerate(volumes)],
    )
    if fields.take("state") != found.state:
        raise _Wrong("its state is not that of its volumes")
    return found


def _volume_status(value: Any, where: str) -> VolumeStatus:
    fields = _Fields(value, where)
    counts: Mapping[str, int] = {
        name: fields.number(name, least=0)
        for name in ("parts", "done", "blocks_read", "blocks_changed", "parts_written", "bytes_written")
    }
    state = fields.text("state")
    if state not in STATES or counts["done"] > counts["parts"]:
        raise _Wrong(f"{where} says what can't be")
    error = fields.take("error")
    if not isinstance(error, str) or not error.isprintable():
        raise _Wrong(f"error of {where} is no text")
    found = VolumeStatus(
        fields.matching("snapshot", _SNAPSHOT, "name of a snapshot"),
        fields.matching("device", _DEVICE, "device"),
        state=state,
        error=error,
        **counts,
    )
    fields.end()
    return found
