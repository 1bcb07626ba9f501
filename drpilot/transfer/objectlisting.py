"""The objects below a prefix as a stream: the next page is fetched while the last one is used."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from drpilot.domain.objects import Entry, ObjectName, ObjectPlane, Page
from drpilot.domain.ports import CloudError, FailureClass, Site
from drpilot.transfer.pace import Pace

__all__ = ["Place", "listed"]

_MOST_EMPTY = 10_000  # pages without a name one after the other


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
            cut, waiting, asked = len(place.prefix), pool.submit(page, ""), ""
            circle = _Circle()
            while True:
                found = waiting.result()
                if circle.closed(asked, found):
                    raise _again_and_again(place)
                asked = found.following
                if asked:
                    waiting = pool.submit(page, asked)
                for entry in found.entries:
                    yield Entry(entry.key[cut:], entry.size_bytes, entry.etag) if cut else entry
                if not asked:
                    return
    finally:  # when the page that was ahead is there
        channel.close()


class _Circle:
    """Whether the pages of a listing come round again, in the memory of one page.

    A listing gives each name once, in ascending order, and what it is asked with leads past what it gave (Amazon S3 API
    reference, ListObjects and ListObjectsV2). Stores are let off the order (pairing.Disordered) but not off the rest:
    a token or a first name that was there before is a page given twice. One page is remembered: the first, then the
    2nd, the 4th, the 8th and so on (Brent's way to find a cycle), so that every circle is found soon after it closes.
    """

    def __init__(self) -> None:
        self._token = self._first = ""
        self._pages, self._empty, self._next = 0, 0, 1

    def closed(self, asked: str, page: Page) -> bool:
        """Look at the page that was `asked` for, the empty text for the first one; whether it was there before."""
        first = page.entries[0].key if page.entries else ""
        self._empty = 0 if page.entries else self._empty + 1
        again = (asked != "" and asked == self._token) or (first != "" and first == self._first)
        if again or (asked != "" and page.following == asked) or self._empty > _MOST_EMPTY:
            return True
        self._pages += 1
        if self._pages == self._next:
            self._token, self._first, self._next = asked, first, 2 * self._next
        return False


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
