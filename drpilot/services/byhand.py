"""Steps of a runbook done by hand, one after the other, without a group and without the journal.

What makes it safe to break off is on the clouds themselves: the id of the work is a digest of what is wanted, so that
the same command finds by its tags or its description whatever an earlier one made. Each step is looked for first and
begun only where it is not there. A small file beside the transfers holds the step that was begun last: whatever that
one made may not be listed yet, so it is looked for longer. It also holds the *take*, of which tokens are made: a token
whose step has ended is never used again, since a cloud would answer it with what may be deleted by now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol, TypeVar, cast

from pydantic import BaseModel

from drpilot.base.clock import Clock
from drpilot.base.errors import DrpilotError
from drpilot.base.ids import digest, new_id, token
from drpilot.domain.group import Group
from drpilot.domain.plain import Json
from drpilot.domain.plan import Proposal
from drpilot.domain.point import RecoveryPoint
from drpilot.domain.ports import (
    Answer,
    CloudError,
    Done,
    FailureClass,
    Site,
    StandbyView,
    StepFailed,
    Transfers,
    Unseen,
    Waiting,
    Witness,
)
from drpilot.transfer.ledger import Head, Ledger

__all__ = ["Deed", "Hand", "Stage", "Told", "Works"]

Told = Callable[[str, float | None, str], None]
"""Told a step, how far it is (0 to 1, None: unknown) and a note."""

_LONGEST_S = 24 * 3600.0  # of one step, as the runbooks have it
_TRIES = 4  # of a step that failed in passing, each with a fresh token
_ANSWERS = 5  # to calls of one token of which nothing is ever there
_LOOKS = 3
_LOOK_FIRST_S, _LOOK_FACTOR, _LOOK_MOST_S = 0.25, 1.6, 15.0
_LOST_S = 600.0  # as long a site may fail to answer what only looks
_FULL_MOST_S = 60.0  # the longest pause of a step that waits for a place in the cloud
_PASSING = frozenset(
    {FailureClass.THROTTLED, FailureClass.TRANSIENT, FailureClass.TIMEOUT, FailureClass.FULL}
)

Given = TypeVar("Given")
Output = TypeVar("Output", bound=BaseModel)
Given_contra = TypeVar("Given_contra", contravariant=True)


class Deed(Protocol[Given_contra, Output]):
    """What is done in a step: an action of the catalogue, or anything of its form."""

    def start(self, ctx: Hand, given: Given_contra) -> Done[Output] | Waiting | Unseen:
        """Do it."""

    def observe(self, ctx: Hand, given: Given_contra) -> Done[Output] | Waiting | Unseen:
        """Look, never touch."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where steps are done: the sites of both roles, what carries bytes, the clock, and how long a fresh thing may
    stay invisible.
    """

    source: Site
    target: Site
    transfers: Transfers
    clock: Clock
    settle_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Hand:
    """The Context of one step by hand. `extra` are tags that everything made carries beside the usual ones."""

    stage: Stage
    group: Group
    run: str
    path: str
    token: str
    intended_at: datetime
    extra: Mapping[str, str]
    told: Told = lambda *_: None
    mode: str = "by-hand"
    epoch: int = 0
    point_id: str = "by-hand"
    kept: dict[str, Any] = field(default_factory=dict)
    proposal: Proposal | None = None

    @property
    def name(self) -> str:
        """The work as descriptions name it."""
        return self.run

    @property
    def source(self) -> str:
        """The name of the source."""
        return self.stage.source.name

    @property
    def target(self) -> str:
        """The name of the target."""
        return self.stage.target.name

    @property
    def clock(self) -> Clock:
        """The clock."""
        return self.stage.clock

    @property
    def settle_s(self) -> float:
        """How long what was just made may stay unlisted, in seconds."""
        return self.stage.settle_s

    @property
    def transfers(self) -> Transfers:
        """What carries bytes."""
        return self.stage.transfers

    def site(self, role: str) -> Site:
        """The site in a role or of that name."""
        return self.stage.source if role in ("source", self.source) else self.stage.target

    def witness(self) -> Witness:
        """There is none for work of no group."""
        raise DrpilotError("witness-unreachable", why="work by hand belongs to no group")

    def sub(self, name: str) -> str:
        """A token for one of several calls."""
        return digest([self.token, name])[:32]

    def tags(self, **extra: str) -> dict[str, str]:
        """The tags of what is made."""
        own = {"group": self.group.name, "run": self.run, "step": self.path, "attempt": self.token}
        named = {f"drpilot:{key}": value for key, value in {**own, **extra}.items() if value}
        return {**named, **self.extra}

    def point(self, point_id: str) -> RecoveryPoint:
        """There are no points."""
        raise KeyError(point_id)

    def points(self) -> tuple[RecoveryPoint, ...]:
        """There are no points."""
        return ()

    def standby(self, tier: str, site: str) -> StandbyView:
        """There are no standbys."""
        return StandbyView(tier, site, "absent")

    def fenced(self, site: str) -> str:
        """Nothing is fenced."""
        return "none"

    def unwanted(self) -> bool:
        """Whoever began it waits for it."""
        return False

    @property
    def resume(self) -> Json | None:
        """What the action kept last in this attempt."""
        return dict(self.kept) or None

    def checkpoint(self, state: Json) -> None:
        """Keep it as long as this attempt lasts, and tell progress; what outlives a process lies on the clouds."""
        self.kept.clear()
        self.kept.update(state)
        done, total = state.get("done"), state.get("parts") or state.get("blocks")
        fraction = done / total if isinstance(done, int) and isinstance(total, int) and total else None
        self.tell(fraction, "")

    def tell(self, fraction: float | None, note: str) -> None:
        """Say how far this step is."""
        self.told(self.path, fraction, note)


class Works:
    """The steps of one work. Held by one process at a time: raises DrpilotError `copy-busy` where another has it."""

    def __init__(
        self, stage: Stage, group: Group, run: str, extra: Mapping[str, str], told: Told = lambda *_: None
    ) -> None:
        self._hand = Hand(stage, group, run, "", "", stage.clock.now(), extra, told)
        self._stage, self._told = stage, told
        self._ledger = Ledger(stage.transfers.folder / f"{run}.work")
        head = Head(group.name, stage.target.name, "", 0, run)
        if self._ledger.head is None or not self._ledger.head.same_copy(head):
            self._ledger.begin(head)
        self._begun = self._ledger.state.get("step", "")
        self._take = self._ledger.state.get("take", "")
        if not self._take:
            self._renew(self._begun)

    def close(self, *, complete: bool) -> None:
        """Let go; what is complete needs no remembering."""
        self._ledger.close(remove=complete)

    def seen(self, path: str, deed: Deed[Given, Output], given: Given) -> Output | None:
        """What a step came to, if it is done already; nothing is begun. Raises CloudError."""
        try:
            answer = deed.observe(self._at(path), given)
        except StepFailed:
            return None
        return answer.output if isinstance(answer, Done) else None

    def do(self, path: str, deed: Deed[Given, Output], given: Given) -> Output:
        """Do a step, or go on with it, to its end. Raises CloudError, and StepFailed where it failed for certain."""
        self._told(path, None, "")
        for tries in range(1, _TRIES + 1):
            try:
                output = cast("Output", _Attempt(self, self._at(path), deed, given).end())
            except StepFailed as error:
                self._renew(self._begun)
                if error.kind not in _PASSING or tries == _TRIES:
                    raise
                self._told(path, None, f"failed, tried again: {error.message}")
            except DrpilotError:
                self._renew(self._begun)
                raise
            except CloudError as error:
                if error.happened == "no" and error.kind not in _PASSING:
                    self._renew(self._begun)
                raise
            else:
                if self._begun == path:
                    self._renew("")
                return output
        raise AssertionError("the last try returns or raises")

    def _at(self, path: str) -> Hand:
        fresh = token(self._hand.run, path, 0, "do", {"take": self._take})
        return replace(self._hand, path=path, token=fresh, intended_at=self._stage.clock.now(), kept={})

    def _renew(self, begun: str) -> None:
        """Let no token of before be used again; `begun` is the step that was begun last and whose end nobody saw."""
        self._take = new_id(self._stage.clock, self._stage.transfers.chance)
        self._begun = begun
        self._ledger.keep({"step": begun, "take": self._take})

    def intend(self, path: str) -> None:
        """Make durable that a step is about to be begun."""
        if self._begun != path:
            self._begun = path
            self._ledger.keep({"step": path, "take": self._take})

    def tell(self, path: str, waiting: Waiting) -> None:
        """Say how far a step is."""
        self._told(path, waiting.progress, waiting.note)

    @property
    def clock(self) -> Clock:
        """The clock."""
        return self._stage.clock

    @property
    def settle_s(self) -> float:
        """How long a fresh thing may stay invisible."""
        return self._stage.settle_s

    def was_begun(self, path: str) -> bool:
        """Whether an earlier process, or this one, has begun a step whose end nobody saw."""
        return self._begun == path


class _Attempt:
    """One step with one token: look, begin where it is not there, look until it is as wanted."""

    def __init__(self, works: Works, hand: Hand, deed: Deed[Any, Any], given: Any) -> None:
        self._works, self._hand, self._deed, self._given = works, hand, deed, given
        self._answers = 0
        self._end_s = works.clock.monotonic() + _LONGEST_S
        self._answered_s = works.clock.monotonic()
        self._pause_s = _LOOK_FIRST_S
        self._full_s = _LOOK_FIRST_S
        # Something may have been made a moment ago that no listing shows yet.
        self._unsure_s = works.settle_s if works.was_begun(hand.path) else 0.0
        self._sure_looks = _LOOKS if works.was_begun(hand.path) else 1

    def end(self) -> Any:
        """The output of the step."""
        while self._works.clock.monotonic() < self._end_s:
            answer = self._look()
            if isinstance(answer, Done):
                return answer.output
            if isinstance(answer, Waiting):
                self._works.tell(self._hand.path, answer)
                self._sleep(answer.after_s)
            elif answer is not None and self._absent():
                if self._answers == _ANSWERS:
                    text = f"{self._hand.path} was answered {_ANSWERS} times, and nothing of it is there"
                    raise StepFailed(FailureClass.TRANSIENT, text)
                answer = self._begin()
                self._answers += answer is not None
                if isinstance(answer, Waiting):
                    self._works.tell(self._hand.path, answer)
            else:
                self._sleep(_LOOK_MOST_S)
        raise StepFailed(FailureClass.TIMEOUT, f"{self._hand.path} took longer than {_LONGEST_S / 3600:g} h")

    def _look(self) -> Answer[Any] | None:
        """What is seen; None where the look itself failed in passing."""
        try:
            answer: Answer[Any] = self._deed.observe(self._hand, self._given)
        except CloudError as error:
            if error.kind not in _PASSING or self._works.clock.monotonic() - self._answered_s > _LOST_S:
                raise
            return None
        self._answered_s = self._works.clock.monotonic()
        return answer

    def _absent(self) -> bool:
        """Whether what is not seen is surely not there: seen so several times, over as long as a listing may lag."""
        if self._sure_looks > 0:
            self._sure_looks -= 1
        if self._sure_looks > 0 or self._unsure_s > 0:
            self._unsure_s -= self._pause_s
            return False
        return True

    def _begin(self) -> Answer[Any] | None:
        self._works.intend(self._hand.path)
        self._unsure()  # what was just made may not be listed yet: not seen is not "it did not happen"
        try:
            answer: Answer[Any] = self._deed.start(self._hand, self._given)
        except CloudError as error:
            if error.happened == "unknown":
                return None
            if error.kind is not FailureClass.FULL:
                raise
            self._works.tell(self._hand.path, Waiting({}, note=f"waits for a place: {error.message}"))
            self._works.clock.sleep(self._full_s)
            self._full_s = min(_FULL_MOST_S, self._full_s * _LOOK_FACTOR)
            return None
        return answer

    def _unsure(self) -> None:
        self._sure_looks, self._unsure_s, self._pause_s = _LOOKS, self._works.settle_s, _LOOK_FIRST_S

    def _sleep(self, most_s: float) -> None:
        self._works.clock.sleep(min(self._pause_s, most_s))
        self._pause_s = min(_LOOK_MOST_S, self._pause_s * _LOOK_FACTOR)
