"""The last question before a changing request leaves: may it still?

A driver may stand still between deciding on a call and sending it (the process was stopped, the machine was paused, a
token bucket was empty) for so long that another drives its run by now. So it is asked behind all waits, for each try
of a call. What is asked belongs to the caller, while the site is shared: it goes along with the call.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from drpilot.domain.plain import Json

if TYPE_CHECKING:
    from drpilot.domain.ports import Site

__all__ = ["GuardedSite", "Withheld", "ask"]

_PERMIT: ContextVar[Callable[[], None] | None] = ContextVar("drpilot_permit", default=None)


class Withheld(Exception):
    """The request was not sent: its caller may not send it any more. The cause is what said so."""


def ask() -> None:
    """Ask whoever makes the present call; raises Withheld where it must not leave."""
    permit = _PERMIT.get()
    if permit is None:
        return
    try:
        permit()
    except Exception as error:
        raise Withheld from error


class GuardedSite:
    """A site whose changing requests leave only while `permit` agrees; what `permit` raises comes out of the call."""

    def __init__(self, site: Site, permit: Callable[[], None]) -> None:
        self._site, self._permit = site, permit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._site, name)

    def call(self, service: str, operation: str, params: Json, *, token: str | None = None) -> Json:
        """The call, asked about right before it leaves."""
        before = _PERMIT.set(self._permit)
        try:
            return self._site.call(service, operation, params, token=token)
        except Withheld as withheld:
            raise (withheld.__cause__ or withheld) from None
        finally:
            _PERMIT.reset(before)

    def guarded(self, permit: Callable[[], None]) -> GuardedSite:
        """The same site, where `permit` is asked as well."""

        def both() -> None:
            self._permit()
            permit()

        return GuardedSite(self._site, both)
