"""The objects below a prefix as a stream: the next page is fetched while the last one is used."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from drpilot.domain.objects import Entry, ObjectName, ObjectPlane, Page
from drpilot.domain.ports import CloudError, FailureClass, Site
from drpilot.transfer.pace import Pace

__all__ = ["Place", "listed"]


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket of a site, or a folder of it: `prefix` is empty or ends with a slash."""

    site: Site
    plane: ObjectPlane
    bucket: str
    prefix: str
    pace: Pace

    @property
    def name(self) -> str:
        """The place as people write it."""
        folder = f"/{self.prefix}".rstrip("/") if self.prefix else ""
        return f"s3://{self.bucket}{folder}@{self.site.name}"

    def object(self, key: str) -> ObjectName:
        """The object whose name below the prefix is `key`."""
        return ObjectName(self.bucket, self.prefix + key)


def listed(place: Place) -> Generator[Entry, None, None]:
    """All objects of a place in the order the store gives them, by their names below the prefix. Raises CloudError."""
    channel = place.plane.channel()

    def page(following: str) -> Page:
        return place.pace.run(lambda: channel.page(place.bucket, place.prefix, following))

    try:
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="drpilot-listing") as pool:
            cut, waiting = len(place.prefix), pool.submit(page, "")
            while True:
                found = waiting.result()
                if found.following:
                    waiting = pool.submit(page, found.following)
                for entry in found.entries:
                    yield Entry(entry.key[cut:], entry.size_bytes, entry.etag) if cut else entry
                if not found.following:
                    return
                if found.entries and found.following == found.entries[0].key:
                    raise _again_and_again(place)
    finally:  # when the page that was ahead is there
        channel.close()


def _again_and_again(place: Place) -> CloudError:
    message = "the site gives the same page again and again"
    return CloudError(
        FailureClass.INVALID,
        "RepeatedPageToken",
        message,
        happened="no",
        site=place.site.name,
        operation="s3:ListObjects",
    )
