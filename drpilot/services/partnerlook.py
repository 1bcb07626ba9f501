"""`check`: whether the standing side still has what the group file names."""

from __future__ import annotations

from collections.abc import Iterator

from drpilot.inventory.parity import KINDS, Parity
from drpilot.inventory.partners import partners
from drpilot.journal.views import GroupView
from drpilot.services.checked import Checked, ok, unknown
from drpilot.services.house import House

__all__ = ["PARTNER_WORDS", "partner_checks"]

PARTNER_WORDS = ("partner-missing", "partner-differs", "partner-untold")
"""The words that findings of this look have."""


def partner_checks(house: House, view: GroupView) -> Iterator[Checked]:
    """One check a kind where all is well, else one for each thing that is not. KMS keys have a look of their own."""
    active = house.journal.site(view.active)
    alone = active is not None and active.answers is False
    judged = [
        each
        for each in partners(view.group, view.active, house.site, alone=alone)
        if each.ask.kind != "kms_keys"
    ]
    for kind, text in KINDS.items():
        mine = [each for each in judged if each.ask.kind == kind]
        wrong = [each for each in mine if each.verdict != "ok"]
        if mine and not wrong:
            expected = f"every {text} of the group file on {view.standing}"
            yield ok("partners", view.name, expected, f"{len(mine)} of {len(mine)}")
        yield from (_checked(view, each) for each in wrong)


def _checked(view: GroupView, parity: Parity) -> Checked:
    if parity.finding is not None and parity.finding.severity == "info":  # no look will ever tell more
        return ok("partners", view.name, parity.expected, f"can't be looked up there: {parity.observed}")
    if parity.verdict == "unknown":  # a name of its own: what was told is settled all the same
        kind = KINDS[parity.ask.kind]
        return unknown(f"partners ({kind})", view.name, parity.expected, parity.observed)
    return Checked("partners", view.name, parity.verdict, parity.expected, parity.observed, parity.finding)
