"""A shelf in a bucket of a site: whole objects, small enough for one PutObject, found by name."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, Site
from drpilot.transfer.absence import is_absent, is_object_absent
from drpilot.transfer.pace import Pace

__all__ = ["BucketShelf", "listed"]


@dataclass(frozen=True, slots=True)
class BucketShelf:
    """Objects below `prefix` in a bucket of `site`; every request goes at `pace`. Where there is no bucket yet, nothing
    is there, unless it `needs_bucket`: then NoSuchBucket is raised.
    """

    site: Site
    bucket: str
    prefix: str
    pace: Pace
    needs_bucket: bool = False

    @property
    def name(self) -> str:
        """The place as people write it."""
        return f"s3://{self.bucket}/{self.prefix}@{self.site.name}"

    def key(self, name: str) -> str:
        """The key of a name."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def get(self, name: str, span: tuple[int, int] | None = None) -> bytes | None:
        """An object's bytes, or those of `span`; None where there is no such object, or no bucket."""
        given: Json = {"Bucket": self.bucket, "Key": self.key(name)}
        if span is not None:
            given["Range"] = f"bytes={span[0]}-{span[1]}"
        try:
            reply = self.pace.run(lambda: self.site.call("s3", "GetObject", given))
        except CloudError as error:
            if is_object_absent(error) or (is_absent(error) and not self.needs_bucket):
                return None
            raise
        data = bytes(reply["Body"])
        # A store that knows no ranges answers with the whole object.
        whole = span is not None and not reply.get("ContentRange")
        return data[span[0] : span[1] + 1] if whole and span is not None else data

    def has(self, name: str) -> bool:
        """Whether there is an object of that name."""
        given = {"Bucket": self.bucket, "Key": self.key(name)}
        try:
            self.pace.run(lambda: self.site.call("s3", "HeadObject", given))
        except CloudError as error:
            if is_absent(error):
                return False
            raise
        return True

    def put(self, name: str, data: bytes | bytearray) -> None:
        """Write an object with its MD5, so that what was damaged on the way is refused."""
        md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        given = {"Bucket": self.bucket, "Key": self.key(name), "Body": bytes(data), "ContentMD5": md5}
        self.pace.run(lambda: self.site.call("s3", "PutObject", given))

    def names(self, folder: str) -> frozenset[str]:
        """The names below a folder; the empty folder is the whole shelf."""
        start = self.key(f"{folder}/" if folder else "")
        cut = len(self.key(""))
        return frozenset(key[cut:] for key in listed(self.site, self.bucket, start))

    def drop(self, name: str) -> None:
        """Delete an object; one that is not there is no error."""
        given = {"Bucket": self.bucket, "Key": self.key(name)}
        self.pace.run(lambda: self.site.call("s3", "DeleteObject", given))


def listed(site: Site, bucket: str, prefix: str) -> list[str]:
    """All keys that begin with `prefix`; none where the bucket is not there."""
    operation = "ListObjectsV2" if "s3:list-v2" in site.capabilities else "ListObjects"
    try:
        return [
            str(item["Key"])
            for page in site.pages("s3", operation, {"Bucket": bucket, "Prefix": prefix})
            for item in page.get("Contents") or []
        ]
    except CloudError as error:
        if error.code == "NoSuchBucket":
            return []
        raise
