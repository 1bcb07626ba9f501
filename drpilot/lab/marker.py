"""Opaque markers of the Query services that page by name (Elastic Load Balancing, Auto Scaling).

A marker holds the last name shown, so that rows made or deleted between two pages neither repeat nor hide
others.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from drpilot.lab.cloud import Refusal

__all__ = ["page"]

T = TypeVar("T")


def page(
    items: Iterable[T], name: Callable[[T], str], size: Any, marker: str | None, most: int = 100
) -> tuple[list[T], str | None]:
    """One page of `items` in the order of their unique `name`, and the marker of the next page, if any.

    `size` is the caller's page size, None for `most`; ValidationError for a size or marker that can't be.
    """
    count = most if size is None else int(size)
    if not 1 <= count <= max(most, 400):
        raise Refusal(
            "ValidationError", f"1 validation error detected: Value '{size}' at page size is out of range"
        )
    after = ""
    if marker:
        try:
            after = base64.urlsafe_b64decode(marker.encode()).decode()
        except (binascii.Error, UnicodeDecodeError, UnicodeEncodeError):
            raise Refusal("ValidationError", "The marker or token is not valid") from None
    rest = sorted((item for item in items if name(item) > after), key=name)
    shown = rest[: min(count, most)]
    if len(rest) <= len(shown):
        return shown, None
    return shown, base64.urlsafe_b64encode(name(shown[-1]).encode()).decode()
