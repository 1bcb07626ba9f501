"""Objects of buckets, and the port that moves many of them: `fast` by a data plane of our own, `sdk` by botocore.

ETags are without their quotes everywhere. `facts` describe an object and travel with it: HTTP header names in lower
case, `content-type` and the like, and `x-amz-meta-*`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Protocol

from drpilot.domain.plain import Json

__all__ = [
    "FACTS",
    "META",
    "Entry",
    "Got",
    "ObjectChannel",
    "ObjectName",
    "ObjectPlane",
    "Page",
    "Part",
    "Stored",
    "is_md5",
    "written",
]

META = "x-amz-meta-"
FACTS = {
    "cache-control": "CacheControl",
    "content-disposition": "ContentDisposition",
    "content-encoding": "ContentEncoding",
    "content-language": "ContentLanguage",
    "content-type": "ContentType",
    "expires": "Expires",
    "x-amz-website-redirect-location": "WebsiteRedirectLocation",
}
"""What describes an object and travels with it: a header, and the parameter of S3's own words. Beside them `META`."""

_MD5 = re.compile(r"[0-9a-f]{32}")


def written(facts: Mapping[str, str]) -> Json:
    """`facts` as parameters of PutObject or CreateMultipartUpload."""
    params: Json = {name: facts[header] for header, name in FACTS.items() if header in facts}
    if "Expires" in params:
        try:
            params["Expires"] = parsedate_to_datetime(facts["expires"])
        except ValueError:
            del params["Expires"]  # no date, so it says nothing to anybody who reads it
    metadata = {name.removeprefix(META): value for name, value in facts.items() if name.startswith(META)}
    return {**params, "Metadata": metadata} if metadata else params


def is_md5(etag: str) -> bool:
    """Whether an ETag has the form of an MD5: one PUT of an object that no key of a customer's encrypts."""
    return _MD5.fullmatch(etag) is not None


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a listing."""

    key: str
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing, in the listing's order; `following` asks for the next one and is empty at the end."""

    entries: tuple[Entry, ...]
    following: str = ""


@dataclass(frozen=True, slots=True)
class ObjectName:
    """An object of a bucket."""

    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an upload under way."""

    upload: str
    number: int


@dataclass(frozen=True, slots=True)
class Got:
    """What came with an object's bytes. `size_bytes` is the whole object's size; `encrypted` says that the ETag is no
    digest of its bytes; `tags` counts the tags it has, which do not travel.
    """

    size_bytes: int
    etag: str
    version: str = ""
    encrypted: bool = False
    tags: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store answered to a write."""

    etag: str
    version: str = ""
    encrypted: bool = False


class ObjectChannel(Protocol):
    """One thread's way to the objects of a site. Raises `CloudError`."""

    def page(self, bucket: str, prefix: str, following: str) -> Page:
        """A page of up to 1,000 objects below `prefix`."""

    def head(self, name: ObjectName) -> Got:
        """What describes an object."""

    def get(
        self, name: ObjectName, into: memoryview, *, etag: str = "", span: tuple[int, int] | None = None
    ) -> Got:
        """Fill `into` with an object's bytes, or with those of `span` (first and last byte), as long as it has `etag`;
        where it has another one: PreconditionFailed. `into` must have exactly the room.
        """

    def put(self, name: ObjectName, data: memoryview, md5: bytes, facts: Mapping[str, str]) -> Stored:
        """Write an object whose MD5 is known, so that what was damaged on the way is refused."""

    def put_part(self, name: ObjectName, part: Part, data: memoryview, md5: bytes) -> Stored:
        """Write a part of an upload."""

    def delete(self, name: ObjectName) -> None:
        """Delete an object; one that is not there is no error."""

    def close(self) -> None:
        """Let the connection go."""


class ObjectPlane(Protocol):
    """Objects of one site."""

    engine: str
    note: str  # why it is not the engine that was asked for; empty when it is

    def channel(self) -> ObjectChannel:
        """A way for one thread."""

    def close(self) -> None:
        """Close what the channels share."""
