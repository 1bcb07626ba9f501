"""Whether what was seen of both sides contradicts what the journal holds to be true. Pure rules.

An old side whose fence is `unverified`, and that merely has not been seen, is an open fence: the service and
`drpilot fence` close it, and nothing is contradicted. A split is suspected where the journal holds that the other side
can't write and a look sees it running while the active side runs too; where the ladder was applied to a side that
could be seen and it runs on; and where the witness names another side, or a move this journal never made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from drpilot.domain.fence import Claim

__all__ = ["Held", "Told", "quiet", "witness_told", "writers_told"]

_OPEN = frozenset({"requested", "applying", "unverified", "partial"})
_RESTING = frozenset({"ready", "unhealthy"})


@dataclass(frozen=True, slots=True)
class Held:
    """What the journal holds of a group.

    `quiet` says why `other` can't write (empty: nobody claims that), `defied` that a fence run saw `other` and left
    writers there. `epoch` is the confirmed one, `known` the highest this journal accounts for, rolled back moves
    included; `confirmed` is false for a journal that never confirmed a move. `runs` are the ids of live runs.
    """

    active: str
    other: str
    epoch: int = 1
    known: int = 1
    confirmed: bool = False
    quiet: str = ""
    defied: bool = False
    runs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Told:
    """What a look comes to: true (as the journal holds), false (it contradicts it), None (can't tell), and why."""

    value: bool | None
    why: str


def quiet(fence: str, standbys: Iterable[str], *, invalidated: bool) -> str:
    """Why the journal holds that a side can't write, from its fence's and its standbys' states; empty if it does not.

    A fence that was asked for and not verified speaks first: it is open, whatever stands there was before.
    """
    if fence == "fenced":
        return "was seen fenced"
    if fence in _OPEN:
        return ""
    if invalidated:
        return "is invalidated"
    states = tuple(standbys)
    return "is a standby at rest" if states and _RESTING.issuperset(states) else ""


def writers_told(held: Held, active: tuple[str, ...] | None, other: tuple[str, ...] | None) -> Told:
    """Judge the machines seen running on either side; None is a side that could not be seen."""
    if not held.quiet and not held.defied:
        return Told(None, f"nothing says yet that {held.other} can't write")
    if other is None:
        return Told(None, f"{held.other} can't be seen")
    if not other:
        return Told(True, f"nothing of it runs on {held.other}")
    if not active:
        seen = "can't be seen" if active is None else "runs nothing"
        return Told(None, f"{', '.join(other)} run on {held.other}, and {held.active} {seen}")
    claim = f"{held.other} {held.quiet}" if held.quiet else f"the fence of {held.other} was applied"
    return Told(False, f"{claim}, yet {', '.join(other)} run there while {held.active} runs too")


def witness_told(held: Held, claim: Claim | None) -> Told:
    """Judge what the witness says of who is active.

    A lower epoch tells of the past, and a claim that is gone of nothing: both are findings of their own, and contradict
    nobody.
    """
    if claim is None:
        return Told(None if held.confirmed else True, "the witness holds no claim")
    by = f", claimed by {claim.run}" if claim.run else ""
    said = f"the witness says epoch {claim.epoch}, active {claim.active}{by}"
    mine = f"the journal epoch {held.epoch}, active {held.active}"
    if claim.run is not None and claim.run in held.runs:
        return Told(True, f"{said}: a live run of this journal")
    if claim.active != held.active:
        value = False if claim.epoch >= held.epoch else None
        return Told(value, f"{said}, {mine}")
    if held.confirmed and claim.epoch > held.known:
        return Told(False, f"{said}, {mine}: a move was made that this journal does not know")
    return Told(True, said)
