"""The critical path: the chain of steps that decides how long a run takes (Kelley and Walker, 1959)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from drpilot.domain.plan import Plan

__all__ = ["critical_path", "descendants", "needed_by", "recovery_steps"]


def needed_by(plan: Plan, path: str) -> frozenset[str]:
    """Every step that must end before `path` may begin."""
    found: set[str] = set()
    wanted = list(plan.step(path).needs)
    while wanted:
        need = wanted.pop()
        if need not in found:
            found.add(need)
            wanted += plan.step(need).needs
    return frozenset(found)


def descendants(plan: Plan, path: str) -> frozenset[str]:
    """Every step that can't begin before `path` has ended."""
    found = {path}
    for step in plan.steps:  # topological order: one pass is enough
        if found & set(step.needs):
            found.add(step.path)
    return frozenset(found - {path})


def recovery_steps(plan: Plan) -> tuple[str, ...]:
    """The steps whose time is recovery time: after gate `go`, up to gate `commit`, without clean-up.

    What runs before the go is looking, what waits behind the commit gate happens on a side that already serves
    (runbooks.md: RTO is counted from the event and from the go).
    """
    left_out: set[str] = {step.path for step in plan.steps if step.always}
    for step in plan.steps:
        if step.gate == "go":
            left_out |= {step.path, *needed_by(plan, step.path)}
        if step.gate == "commit":
            left_out |= descendants(plan, step.path)
    return tuple(step.path for step in plan.steps if step.path not in left_out)


def critical_path(
    plan: Plan, durations_s: Mapping[str, float], among: Iterable[str]
) -> tuple[float, tuple[str, ...]]:
    """Seconds and steps of the longest chain of needs among the steps `among`; unknown durations count nothing.

    Steps left out of `among` take no time, but what they stand between stays ordered.
    """
    chosen = frozenset(among)
    best: dict[str, tuple[float, tuple[str, ...]]] = {}
    for step in plan.steps:
        before = max((best[need] for need in step.needs), key=lambda item: item[0], default=(0.0, ()))
        if step.path in chosen and durations_s.get(step.path, 0.0) > 0:
            best[step.path] = (before[0] + durations_s[step.path], (*before[1], step.path))
        else:
            best[step.path] = before
    return max(best.values(), key=lambda item: item[0], default=(0.0, ()))
