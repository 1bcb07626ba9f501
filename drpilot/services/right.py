"""Who may do what: operators of drpilot.yaml and their rights, `operate` and `approve`."""

from __future__ import annotations

from drpilot.base.errors import DrpilotError
from drpilot.services.house import House

__all__ = ["require_right"]


def require_right(house: House, right: str) -> None:
    """Raise `not-allowed` unless the person has `right`; where no operators are listed everybody may do everything."""
    operators = house.configuration.operators
    if not operators:
        return
    known = operators.get(house.person)
    if known is None or right not in known.may:
        others = ", ".join(sorted(name for name, each in operators.items() if right in each.may))
        raise DrpilotError("not-allowed", person=house.person, what=right, others=others or "nobody")
