"""The path between two sites of one lab, on which copies travel.

It stands for the clouds' own network between regions: drpilot never uses it. A path is cut while either end
has an outage or a partition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from drpilot.lab.cloud import Cloud

__all__ = ["LocalPeer", "Peer", "Unreachable"]


class Unreachable(Exception):
    """The other site can't be reached now."""


class Peer(Protocol):
    """Another site, as seen from one. Both calls raise Unreachable while the path is cut and Refusal when
    the other site says no.
    """

    @property
    def name(self) -> str:
        """The site's name."""

    @property
    def region(self) -> str:
        """The site's region."""

    def call(self, what: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Ask the other site something registered there with `@path(what)`."""

    def block(self, digest: str) -> bytes:
        """The bytes of one snapshot block; raises MissingBlock when the other site lost them."""


class LocalPeer:
    """A site in the same process."""

    def __init__(self, here: Cloud, there: Cloud) -> None:
        self._here = here
        self._there = there

    @property
    def name(self) -> str:
        return self._there.name

    @property
    def region(self) -> str:
        return self._there.region

    def call(self, what: str, payload: dict[str, Any]) -> dict[str, Any]:
        self._check()
        return self._there.serve_path(what, self._here.name, payload)

    def block(self, digest: str) -> bytes:
        self._check()
        with self._there.lock:
            if self._here is not self._there and self._there.faults.parts(self._here.name):
                raise Unreachable(f"the path from {self._there.name} to {self._here.name} is cut")
        return self._there.store.get_block(digest)

    def _check(self) -> None:
        if self._here is not self._there:
            self._here.peer(self._there.name)
