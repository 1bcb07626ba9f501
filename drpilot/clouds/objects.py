"""Objects of buckets, by the data plane or by botocore.

Calls that come once in a thousand objects (beginning and ending an upload, copies within one cloud) stay with the
site's door; here is what comes with every object. Paths hold the bucket, as every store understands it. Source: Amazon
S3 API reference.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from drpilot.clouds.dataplane import Answer, Ask, DataPlane
from drpilot.clouds.site import BotoSite
from drpilot.domain.objects import (
    FACTS,
    META,
    Entry,
    Got,
    ObjectChannel,
    ObjectName,
    ObjectPlane,
    Page,
    Part,
    Stored,
    written,
)
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, FailureClass
from drpilot.formats.objectlist import MalformedListing, read_page

__all__ = ["FastObjects", "SdkObjects", "object_plane"]

_PAGE_KEYS = "1000"
_TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")


def object_plane(site: BotoSite, engine: str) -> ObjectPlane:
    """The objects of `site` by `engine`; where the fast one can't serve the endpoint, by botocore, with a note."""
    if engine == "sdk":
        return SdkObjects(site)
    plane = site.plane("s3")
    if plane.doorway.obstacle:
        return SdkObjects(site, note=plane.doorway.obstacle)
    return FastObjects(plane, site)


def _second_listing(site: BotoSite) -> bool:
    return "s3:list-v2" in site.capabilities


def _md5(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _encrypted(headers: Mapping[str, str]) -> bool:
    """Whether the ETag is no MD5: under a KMS key, or one of the customer's own (Amazon S3 API reference, ETag)."""
    kms = headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    return kms or "x-amz-server-side-encryption-customer-algorithm" in headers


class FastObjects:
    """By the data plane: one kept connection a channel."""

    engine = "fast"
    note = ""

    def __init__(self, plane: DataPlane, site: BotoSite) -> None:
        self._plane = plane
        self._site = site

    def channel(self) -> ObjectChannel:
        """A connection of its own."""
        return _FastChannel(self._plane, self._site)

    def close(self) -> None:
        """Close what the channels share."""
        self._plane.close()


def _path(name: ObjectName) -> str:
    return quote(f"/{name.bucket}/{name.key}", safe="/-_.~")


class _FastChannel:
    def __init__(self, plane: DataPlane, site: BotoSite) -> None:
        self._channel = plane.channel()
        self._site = site
        self._second = _second_listing(site)

    def page(self, bucket: str, prefix: str, following: str) -> Page:
        query = {"encoding-type": "url", "max-keys": _PAGE_KEYS, "prefix": prefix}
        if self._second:
            query["list-type"] = "2"
        if following:
            query["continuation-token" if self._second else "marker"] = following
        operation = "ListObjectsV2" if self._second else "ListObjects"
        answer = self._channel.send(Ask(operation, "GET", f"/{quote(bucket)}", query))
        try:
            return read_page(answer.body)
        except MalformedListing as error:
            raise self._strange(operation, f"the listing of {bucket} can't be read: {error}") from error

    def head(self, name: ObjectName) -> Got:
        answer = self._channel.send(Ask("HeadObject", "HEAD", _path(name)))
        return self._got(answer, int(answer.headers.get("content-length") or 0))

    def get(
        self, name: ObjectName, into: memoryview, *, etag: str = "", span: tuple[int, int] | None = None
    ) -> Got:
        headers = {"if-match": f'"{etag}"'} if etag else {}
        if span is not None:
            headers["range"] = f"bytes={span[0]}-{span[1]}"
        answer = self._channel.send(Ask("GetObject", "GET", _path(name), {}, headers), into)
        if answer.length != len(into):
            raise self._strange("GetObject", f"{answer.length} bytes of {name.key}, not {len(into)}")
        match = _TOTAL.fullmatch(answer.headers.get("content-range", ""))
        return self._got(answer, int(match[1]) if match else answer.length)

    def put(self, name: ObjectName, data: memoryview, md5: bytes, facts: Mapping[str, str]) -> Stored:
        headers = {**facts, "content-md5": _md5(md5)}
        ask = Ask("PutObject", "PUT", _path(name), {}, headers, data, changing=True)
        return self._stored(self._channel.send(ask), ask)

    def put_part(self, name: ObjectName, part: Part, data: memoryview, md5: bytes) -> Stored:
        query = {"partNumber": str(part.number), "uploadId": part.upload}
        headers = {"content-md5": _md5(md5)}
        ask = Ask("UploadPart", "PUT", _path(name), query, headers, data, changing=True)
        return self._stored(self._channel.send(ask), ask)

    def delete(self, name: ObjectName) -> None:
        self._channel.send(Ask("DeleteObject", "DELETE", _path(name), changing=True))

    def close(self) -> None:
        self._channel.close()

    def _got(self, answer: Answer, size_bytes: int) -> Got:
        headers = answer.headers
        facts = {name: value for name, value in headers.items() if name in FACTS or name.startswith(META)}
        return Got(
            size_bytes,
            headers.get("etag", "").strip('"'),
            headers.get("x-amz-version-id", ""),
            _encrypted(headers),
            int(headers.get("x-amz-tagging-count") or 0),
            facts,
        )

    def _stored(self, answer: Answer, ask: Ask) -> Stored:
        """What was stored; an answer without an ETag is a stub's."""
        headers = answer.headers
        etag = headers.get("etag", "").strip('"')
        if not etag:
            raise self._strange(ask.operation, "it answered success without an ETag: nothing happened")
        return Stored(etag, headers.get("x-amz-version-id", ""), _encrypted(headers))

    def _strange(self, operation: str, message: str) -> CloudError:
        kind = FailureClass.REJECTED
        return CloudError(
            kind, "StrangeReply", message, happened="no", site=self._site.name, operation=f"s3:{operation}"
        )


class SdkObjects:
    """By botocore, through the site's door: slower, for what the fast one can't sign, and its oracle."""

    engine = "sdk"

    def __init__(self, site: BotoSite, note: str = "") -> None:
        self._site = site
        self.note = note
        self._second = _second_listing(site)

    def channel(self) -> ObjectChannel:
        """The door is shared between threads."""
        return self

    def page(self, bucket: str, prefix: str, following: str) -> Page:
        """One ListObjects or ListObjectsV2."""
        given: Json = {"Bucket": bucket, "Prefix": prefix}
        if following:
            given["ContinuationToken" if self._second else "Marker"] = following
        reply = self._site.call("s3", "ListObjectsV2" if self._second else "ListObjects", given)
        entries = tuple(
            Entry(str(row["Key"]), int(row["Size"]), str(row.get("ETag") or "").strip('"'))
            for row in reply.get("Contents") or []
        )
        if not reply.get("IsTruncated"):
            return Page(entries)
        after = reply.get("NextContinuationToken") or reply.get("NextMarker")
        return Page(entries, str(after or entries[-1].key))

    def head(self, name: ObjectName) -> Got:
        """One HeadObject."""
        reply = self._site.call("s3", "HeadObject", {"Bucket": name.bucket, "Key": name.key})
        return _described(reply, int(reply.get("ContentLength") or 0))

    def get(
        self, name: ObjectName, into: memoryview, *, etag: str = "", span: tuple[int, int] | None = None
    ) -> Got:
        """One GetObject."""
        given: Json = {"Bucket": name.bucket, "Key": name.key}
        if etag:
            given["IfMatch"] = f'"{etag}"'
        if span is not None:
            given["Range"] = f"bytes={span[0]}-{span[1]}"
        reply = self._site.call("s3", "GetObject", given)
        data: bytes = reply["Body"]
        if len(data) != len(into):
            message = f"{len(data)} bytes of {name.key}, not {len(into)}"
            raise CloudError(
                FailureClass.REJECTED,
                "StrangeReply",
                message,
                happened="no",
                site=self._site.name,
                operation="s3:GetObject",
            )
        into[:] = data
        match = _TOTAL.fullmatch(str(reply.get("ContentRange") or ""))
        return _described(reply, int(match[1]) if match else len(data))

    def put(self, name: ObjectName, data: memoryview, md5: bytes, facts: Mapping[str, str]) -> Stored:
        """One PutObject."""
        given: Json = {"Bucket": name.bucket, "Key": name.key, "Body": bytes(data), "ContentMD5": _md5(md5)}
        return _answered(self._site.call("s3", "PutObject", {**given, **written(facts)}))

    def put_part(self, name: ObjectName, part: Part, data: memoryview, md5: bytes) -> Stored:
        """One UploadPart."""
        given: Json = {"Bucket": name.bucket, "Key": name.key, "Body": bytes(data), "ContentMD5": _md5(md5)}
        given |= {"UploadId": part.upload, "PartNumber": part.number}
        return _answered(self._site.call("s3", "UploadPart", given))

    def delete(self, name: ObjectName) -> None:
        """One DeleteObject."""
        self._site.call("s3", "DeleteObject", {"Bucket": name.bucket, "Key": name.key})

    def close(self) -> None:
        """Nothing is held."""


def _encryption(reply: Json) -> bool:
    kms = str(reply.get("ServerSideEncryption") or "").startswith("aws:kms")
    return kms or bool(reply.get("SSECustomerAlgorithm"))


def _described(reply: Json, size_bytes: int) -> Got:
    facts = {header: str(reply[name]) for header, name in FACTS.items() if reply.get(name)}
    if reply.get("ExpiresString"):
        facts["expires"] = str(reply["ExpiresString"])
    metadata: dict[str, Any] = reply.get("Metadata") or {}
    facts |= {f"{META}{name}": str(value) for name, value in metadata.items()}
    return Got(
        size_bytes,
        str(reply.get("ETag") or "").strip('"'),
        str(reply.get("VersionId") or ""),
        _encryption(reply),
        int(reply.get("TagCount") or 0),
        facts,
    )


def _answered(reply: Json) -> Stored:
    return Stored(
        str(reply.get("ETag") or "").strip('"'), str(reply.get("VersionId") or ""), _encryption(reply)
    )
