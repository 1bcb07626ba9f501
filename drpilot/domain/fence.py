"""Fence verdicts, the epoch and the claim in the witness. Pure rules.

At most one site holds the current epoch as writable. A claim is written by a conditional write before the fence,
confirmed by commit, released by roll back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

__all__ = [
    "BLOCKING",
    "Claim",
    "Rung",
    "Verdict",
    "claimed",
    "confirmed",
    "released",
    "seized",
    "verdict",
    "worse",
]


class Verdict(Enum):
    """What is known about the old side after the ladder."""

    FENCED = "fenced"
    PARTIAL = "partial"
    UNVERIFIED = "unverified"


_ORDER = (Verdict.FENCED, Verdict.PARTIAL, Verdict.UNVERIFIED)

# Rungs after which the old side can't write, if observed: scaled to nothing, stopped, cut off by a deny-all group.
BLOCKING = frozenset({"scale", "stop", "deny", "credentials"})


@dataclass(frozen=True, slots=True)
class Rung:
    """One rung of the ladder on one site: applied or not, and whether a look confirmed it."""

    name: str
    applied: bool
    verified: bool
    detail: str = ""
    writers_left: int = 0


def verdict(rungs: Sequence[Rung]) -> Verdict:
    """`fenced` needs a write-blocking rung verified with no writer left; nothing applied means `unverified`."""
    if any(rung.name in BLOCKING and rung.verified and rung.writers_left == 0 for rung in rungs):
        return Verdict.FENCED
    return Verdict.PARTIAL if any(rung.applied for rung in rungs) else Verdict.UNVERIFIED


def worse(found: Verdict, foretold: Verdict) -> bool:
    """Whether `found` asks for a second question because it is worse than what was approved."""
    return _ORDER.index(found) > _ORDER.index(foretold)


@dataclass(frozen=True, slots=True)
class Claim:
    """The witness's content: `active` holds `epoch`; `run` is set while it is claimed and not yet confirmed."""

    group: str
    epoch: int
    active: str
    run: str | None = None
    previous: str | None = None


def claimed(current: Claim | None, *, group: str, source: str, target: str, run: str) -> Claim | None:
    """The claim `run` must write, or None when another run's claim stands in the way.

    A run that already claimed finds its own claim again (a lost reply is no second epoch).
    """
    if current is None:
        return Claim(group, 2, target, run, source)
    if current.run == run:
        return current
    if current.run is not None:
        return None
    if current.active != source:
        return None
    return Claim(group, current.epoch + 1, target, run, current.active)


def confirmed(current: Claim, run: str) -> Claim | None:
    """The claim after commit: same epoch, no longer provisional. None where it is not this run's."""
    if current.run is None:
        return current
    return Claim(current.group, current.epoch, current.active) if current.run == run else None


def released(current: Claim, run: str) -> Claim | None:
    """The claim after roll back: the old side is active again, under yet a higher epoch so that it never falls."""
    if current.run != run or current.previous is None:
        return None
    return Claim(current.group, current.epoch + 1, current.previous)


def seized(current: Claim | None, *, group: str, survivor: str, epoch: int, run: str) -> Claim:
    """The claim for a survivor that people named, whatever stands in the witness; it rises above both epochs.

    A witness that already names the survivor, confirmed and not behind the journal's `epoch`, is left as it is.
    """
    if current is None:
        return Claim(group, epoch + 1, survivor, run)
    if current.run == run and current.active == survivor:
        return current
    if current.run is None and current.active == survivor and current.epoch >= epoch:
        return current
    return Claim(group, max(current.epoch, epoch) + 1, survivor, run, current.active)
