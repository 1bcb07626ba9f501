"""Which steps a decision has to look at: what is under way, what failed, and what waits for needs that have all ended.

A run of ten thousand steps has a few of these at a time, so that deciding costs what is going on, not what the plan
holds. It is derived from a view and kept up to date from one to the next, never a source of truth: without one,
`decide` makes its own.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from drpilot.domain.plan import Plan
from drpilot.domain.run import RunView, StepView

__all__ = ["OPEN", "Agenda"]

OPEN = frozenset({"pending", "ready", "running", "waiting", "unknown", "undoing"})
_LASTING = frozenset({"failed", "undo_failed"})  # ended, and still to be dealt with


@dataclass(slots=True)
class Agenda:
    """`awake` are the paths to look at; what a plan never changes is kept beside them."""

    position: Mapping[str, int]
    dependents: Mapping[str, tuple[str, ...]]
    awake: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, view: RunView) -> Agenda:
        """The agenda of a view as a whole."""
        agenda = cls(*_shape(view.plan))
        agenda.renew(view)
        return agenda

    def renew(self, view: RunView) -> None:
        """Look at every step again."""
        self.awake = {path for path, step in view.steps.items() if self._stays(step, view.steps)}

    def follow(self, view: RunView, changed: Iterable[str]) -> None:
        """Take over what became of the changed steps of a view that is otherwise as before."""
        for path in changed:
            self.awake.add(path)
            if view.steps[path].state not in OPEN:
                self.awake.update(self.woken(path, view.steps))
        self.awake = {path for path in self.awake if self._stays(view.steps[path], view.steps)}

    def woken(self, path: str, steps: Mapping[str, StepView]) -> Iterator[str]:
        """What an ended step lets go on: the pending steps whose needs have now all ended."""
        for other in self.dependents.get(path, ()):
            if _is_due(steps[other], steps):
                yield other

    def visit(self, steps: Mapping[str, StepView], seen: set[str]) -> Iterator[str]:
        """The paths of `seen` in the order of the plan; `steps` may be changed meanwhile, and what that wakes follows
        (and is added to `seen`).
        """
        position = self.position
        known = sorted(seen, key=position.__getitem__, reverse=True)
        fresh: list[tuple[int, str]] = []  # a heap: what is woken lies behind what woke it
        while known or fresh:
            if fresh and (not known or fresh[0][0] < position[known[-1]]):
                path = heapq.heappop(fresh)[1]
            else:
                path = known.pop()
            yield path
            if path in self.dependents and steps[path].state not in OPEN:
                for other in self.woken(path, steps):
                    if other not in seen:
                        seen.add(other)
                        heapq.heappush(fresh, (position[other], other))

    @staticmethod
    def _stays(step: StepView, steps: Mapping[str, StepView]) -> bool:
        if step.state == "pending":
            return _is_due(step, steps)
        return step.state in OPEN or step.state in _LASTING


def _is_due(step: StepView, steps: Mapping[str, StepView]) -> bool:
    return step.state == "pending" and not any(steps[need].state in OPEN for need in step.planned.needs)


def _shape(plan: Plan) -> tuple[dict[str, int], dict[str, tuple[str, ...]]]:
    dependents: dict[str, list[str]] = {}
    for step in plan.steps:
        for need in step.needs:
            dependents.setdefault(need, []).append(step.path)
    position = {step.path: number for number, step in enumerate(plan.steps)}
    return position, {path: tuple(others) for path, others in dependents.items()}
