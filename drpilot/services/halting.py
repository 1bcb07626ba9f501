"""The kill switch as people use it: whoever is an operator may stop everything, who may operate lets it go on."""

from __future__ import annotations

from drpilot.base.errors import DrpilotError
from drpilot.journal.halting import Halt
from drpilot.services.house import House
from drpilot.services.right import require_right

__all__ = ["halt", "lift"]


def halt(house: House, reason: str) -> tuple[Halt, tuple[str, ...]]:
    """Stop every run; the halt that stands now, and the runs it stopped (none where one stood already).

    Raises `reason-missing`. No right is asked for but to be listed: to stop is never the worse mistake.
    """
    _reasoned("halt", reason)
    stopped = house.journal.halt(house.person, reason)
    found = house.journal.halted()
    assert found is not None
    return found, stopped


def lift(house: House, reason: str) -> bool:
    """Let runs be driven again; False where nothing was halted. Raises `reason-missing`, `not-allowed`."""
    require_right(house, "operate")
    _reasoned("unhalt", reason)
    return house.journal.lift(house.person, reason)


def _reasoned(verb: str, reason: str) -> None:
    if not reason.strip():
        raise DrpilotError("reason-missing", verb=verb, group="everything")
