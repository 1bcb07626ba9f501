"""How much may be under way at once: threads in the run, threads on a site, long work of a kind on a site. Pure.

A thread's place is taken by an attempt in the middle of its calls. A slot is held longer: from the intent that asks for
the work (a copy of a snapshot, say) until the work is seen to have ended, however often the step looks in between.
Both are counted in the run's own view. What other runs have under way there is not seen here but told by the cloud, as
a refusal (`full`): the step waits without using up a try, and until it got in, no further one of its kind asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from drpilot.domain.plan import Plan, PlannedStep
from drpilot.domain.ports import FailureClass
from drpilot.domain.run import RunView, StepView

__all__ = ["Places", "Room", "queued"]


@dataclass(frozen=True, slots=True)
class Room:
    """How many attempts may be in a thread at once, and which steps are in one right now."""

    free: int
    busy: frozenset[str] = frozenset()


class Places:
    """What is taken while one decision is made; `take` what is decided."""

    def __init__(
        self, plan: Plan, steps: Mapping[str, StepView], room: Room, awake: Iterable[str] | None = None
    ) -> None:
        self._plan = plan
        self._free = room.free
        self._at: Counter[str] = Counter()
        for path in room.busy:
            self.take(steps[path].planned)
        moving = [steps[path] for path in (steps if awake is None else awake)] if plan.slots else []
        self._held = Counter(step.planned.slot for step in moving if _holds(step))
        self._refused = {step.planned.slot for step in moving if _is_refused(step)}

    @property
    def full(self) -> bool:
        """Whether no attempt of any step may be in a thread any more."""
        return self._free <= 0

    def fit(self, step: PlannedStep) -> bool:
        """Whether one more attempt of `step` may be in a thread."""
        return self._free > 0 and all(self._at[site] < self._plan.per_site for site in step.sites)

    def take(self, step: PlannedStep) -> None:
        """An attempt of `step` goes into a thread."""
        self._free -= 1
        self._at.update(step.sites)

    def hold(self, step: PlannedStep) -> None:
        """The long work of `step` begins."""
        self._held[step.slot] += 1

    def queue(self, step: StepView) -> str:
        """Why the long work of a ready step must wait; the empty string when it need not."""
        slot = step.planned.slot
        limit = self._plan.slots.get(slot)
        if limit is None:
            return ""
        site, _, kind = slot.partition(" ")
        if self._held[slot] >= limit:
            return f"waits for a place: {site} has {limit} for {kind}, all taken"
        if slot in self._refused and not _is_refused(step):
            return f"waits for a place: {site} refused one more {kind}, others use them too"
        return ""


def queued(view: RunView) -> dict[str, str]:
    """Which ready steps of a run wait for a slot, and why: what a person is shown."""
    places = Places(view.plan, view.steps, Room(0))
    ready = ((path, step) for path, step in view.steps.items() if step.state == "ready")
    return {path: why for path, step in ready if (why := places.queue(step))}


def _between_tries(step: StepView) -> bool:
    return step.state == "waiting" and step.attempt is not None and step.attempt.state == "failed"


def _holds(step: StepView) -> bool:
    """Whether the long work of a step is, or may be, under way."""
    return step.state in ("running", "waiting", "unknown") and not _between_tries(step)


def _is_refused(step: StepView) -> bool:
    """Whether the cloud had no place for a step, and has not said otherwise since."""
    full = step.failure is not None and step.failure.kind == FailureClass.FULL.value
    return full and (step.state in ("ready", "running") or _between_tries(step))
