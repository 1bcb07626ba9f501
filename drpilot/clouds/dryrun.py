"""A site that lets nothing change: what a dry run sees of a cloud."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from drpilot.clouds.site import BotoSite
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, FailureClass, Site

__all__ = ["DryRunSite", "Refused"]


@dataclass(frozen=True, slots=True)
class Refused:
    """A changing call that a dry run kept back."""

    service: str
    operation: str
    params: Json
    token: str | None


class DryRunSite:
    """A site that lets nothing change: reading goes through, each changing call is recorded and refused.

    The refusal is CloudError `rejected`, code `DryRun`, nothing happened.
    """

    def __init__(self, site: BotoSite) -> None:
        self._site: Site = site
        self._changes = site.dialect.changes
        self.name, self.region = site.name, site.region
        self.refused: list[Refused] = []

    @property
    def account(self) -> str:
        """The account of the site behind."""
        return self._site.account

    @property
    def capabilities(self) -> frozenset[str]:
        """The capabilities of the site behind."""
        return self._site.capabilities

    def call(self, service: str, operation: str, params: Json, *, token: str | None = None) -> Json:
        """A reading call as the site answers it; a changing one never leaves."""
        if self._changes(service, operation):
            self.refused.append(Refused(service, operation, dict(params), token))
            raise CloudError(
                FailureClass.REJECTED,
                "DryRun",
                "a dry run changes nothing",
                happened="no",
                site=self.name,
                operation=f"{service}:{operation}",
            )
        return self._site.call(service, operation, params, token=token)

    def pages(self, service: str, operation: str, params: Json) -> Iterator[Json]:
        """The pages of a listing as the site answers them; the same guard as `call`."""
        if self._changes(service, operation):
            yield self.call(service, operation, params)
            return
        yield from self._site.pages(service, operation, params)

    def guarded(self, permit: Callable[[], None]) -> Self:
        """Itself: nothing that may change something leaves anyway."""
        return self

    def presigned(self, operation: str, params: Json, expires_s: int) -> str:
        """A URL that reads; one that changes something would be used after the dry run."""
        service, _, name = operation.partition(":")
        if self._changes(service, name):
            self.call(service, name, params)
        return self._site.presigned(operation, params, expires_s)
