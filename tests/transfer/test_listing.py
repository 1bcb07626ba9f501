"""Listings page by page: short pages are no repeats, and a store that turns in a circle is found out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, cast

import pytest

from drpilot.base.clock import Chance, ManualClock
from drpilot.domain.objects import Entry, ObjectPlane, Page
from drpilot.domain.ports import CloudError, Site
from drpilot.transfer.objectlisting import Place, listed
from drpilot.transfer.pace import Pace

KEYS = [f"{number:02d}" for number in range(40)]
MOST_ASKED = 400


class Store:
    """A store whose pages are what `paged` makes of the token it is asked with."""

    engine, note, name = "fast", "", "store"

    def __init__(self, paged: Callable[[str], tuple[list[str], str]]) -> None:
        self.paged, self.asked = paged, 0

    def channel(self) -> Any:
        return self

    def page(self, bucket: str, prefix: str, following: str) -> Page:
        self.asked += 1
        assert self.asked < MOST_ASKED, "asked on and on"
        keys, after = self.paged(following)
        return Page(tuple(Entry(key, 1, "e") for key in keys), after)

    def close(self) -> None:
        """Nothing is held."""


def place(store: Store) -> Place:
    """The store as a place."""
    pace = Pace(ManualClock(), Chance(1))
    return Place(cast("Site", store), cast("ObjectPlane", store), "bucket", "", pace)


def names(store: Store) -> list[str]:
    """All names it lists."""
    return [entry.key for entry in listed(place(store))]


@pytest.mark.parametrize("size", [1, 2, 7, 40, 100])
def test_pages_of_any_size_are_read_to_their_end(size: int) -> None:
    """With markers, where a page of one name is asked on with that name; no page is taken for a repeat."""

    def paged(marker: str) -> tuple[list[str], str]:
        left = [key for key in KEYS if key > marker]
        return left[:size], left[size - 1] if len(left) > size else ""

    assert names(Store(paged)) == KEYS


def test_pages_without_names_are_passed_over() -> None:
    """A version 2 listing may give empty pages with new tokens before it goes on (where it skips what was deleted)."""

    def paged(token: str) -> tuple[list[str], str]:
        number = int(token or 0)
        after = str(number + 1) if number < 30 else ""
        return ([], after) if number % 10 else ([KEYS[number // 10]], after)

    assert names(Store(paged)) == KEYS[:4]


def _same_token(token: str) -> tuple[list[str], str]:
    return KEYS[:5], "always"


def _marker_ignored(token: str) -> tuple[list[str], str]:
    return KEYS[:5], KEYS[4]


def _circle(token: str) -> tuple[list[str], str]:
    number = int(token or 0)
    return KEYS[number * 3 : number * 3 + 3], str(number + 1 if number < 9 else 4)


def _empty_forever(token: str) -> tuple[list[str], str]:
    return [], "x"


_numbers = count()


def _fresh_tokens(token: str) -> tuple[list[str], str]:
    return KEYS[:5], f"token-{next(_numbers)}"


@pytest.mark.parametrize("paged", [_same_token, _marker_ignored, _circle, _empty_forever, _fresh_tokens])
def test_a_store_that_turns_in_a_circle_is_found_out(paged: Callable[[str], tuple[list[str], str]]) -> None:
    """The token it was asked with, an earlier one, or new tokens with names it gave before: an error, not for ever."""
    with pytest.raises(CloudError, match="RepeatedPageToken"):
        names(Store(paged))
