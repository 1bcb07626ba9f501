"""What was refused is evidence: who asked for what, why it was not done, and what they were told to do next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from drpilot.base.errors import DrpilotError
from drpilot.services.house import House

__all__ = ["kept"]

REFUSED = 5
_QUESTIONS = frozenset({"consent-missing", "reason-missing"})  # an answer was asked for, nothing was refused


@contextmanager
def kept(house: House, group: str, verb: str) -> Iterator[None]:
    """Write what a rule refuses a person into the group's chain of events, and let the refusal pass.

    A service is refused in the course of its work (a copy that is due beside a move): that is no evidence of anything.
    """
    try:
        yield
    except DrpilotError as error:
        person = house.holder.kind != "serve"
        if person and error.exit_code == REFUSED and error.word not in _QUESTIONS:
            told = {"verb": verb, "word": error.word, "what": error.title, "next": error.hint}
            with suppress(DrpilotError):  # a journal that can't be written must not hide the refusal itself
                house.journal.refused(group, house.person, told)
        raise
