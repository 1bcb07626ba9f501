"""The next command: one pure function of a group's situation, as a table by its state.

Every output ends with it. A rule is a condition on the situation and a command; the first rule of the state that
holds wins, and each state has a last rule that always holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from drpilot.journal.views import GroupView

__all__ = ["RULES", "Situation", "next_command", "protect_command", "survivor_command"]


@dataclass(frozen=True, slots=True)
class Situation:
    """What decides the next command. None of a yes-or-no means that nobody knows.

    `move`, `copy` and `practice` are the live runs' states by lane (empty: none), with their names; `orphaned` names
    a run that is under way and driven by nobody; `unknown_step` is a step whose outcome only a person can tell.
    """

    group: str
    state: str
    active: str
    standing: str
    move: str = ""
    copy: str = ""
    practice: str = ""
    runs: tuple[tuple[str, str], ...] = ()  # lane, name
    orphaned: str = ""
    unknown_step: str = ""
    failed_step: str = ""
    has_point: bool = False
    active_answers: bool | None = None
    standing_answers: bool | None = None
    active_refuses: bool = False
    standing_fence: str = "none"
    rpo_met: bool | None = None
    healthy: bool = True
    drill: str = ""  # "", passed, failed
    drill_name: str = ""
    locked: bool = False
    burst: str = "none"

    def name(self, lane: str) -> str:
        """The live run of a lane by name, or the group's name."""
        return dict(self.runs).get(lane, self.group)


SURVIVOR = 'drpilot fence {group} --survivor {active}|{standing} --reason "what you saw"'
SETTLE = 'drpilot run settle {group} --step {unknown} --happened yes|no --reason "what you saw"'
Rule = tuple[Callable[[Situation], bool], str]


def _always(_: Situation) -> bool:
    return True


_MOVE: tuple[Rule, ...] = (
    (lambda s: s.move == "" and s.state == "reprotecting", "drpilot reprotect {group}"),
    (lambda s: s.move == "", "drpilot report show {group}"),
    (lambda s: bool(s.unknown_step), SETTLE),
    (lambda s: s.orphaned == s.name("move"), "drpilot run resume {group}"),
    (lambda s: s.move == "waiting", "drpilot run approve {group}"),
    (lambda s: s.move == "paused" and bool(s.failed_step), "drpilot run retry {group}"),
    (lambda s: s.move == "paused", "drpilot run resume {group}"),
    (lambda s: s.move == "clean_failed", "drpilot run retry {group}"),
    (_always, "drpilot run watch {group}"),
)
_BEFORE_MOVE: tuple[Rule, ...] = (
    (lambda s: s.move == "waiting", "drpilot run approve {group}"),
    (lambda s: s.move == "paused" and bool(s.failed_step), "drpilot run retry {group}"),
    (lambda s: s.move == "paused", "drpilot run resume {group}"),
    (lambda s: bool(s.move) and s.orphaned == s.name("move"), "drpilot run resume {group}"),
    (lambda s: bool(s.move), "drpilot run watch {group}"),
)
_BESIDE: tuple[Rule, ...] = (
    (lambda s: bool(s.orphaned), "drpilot run resume {orphaned}"),
    (lambda s: s.practice == "clean_failed", "drpilot run retry {practice}"),
    (lambda s: s.practice == "paused", "drpilot run show {practice}"),
    (lambda s: s.copy == "paused", "drpilot run show {copy}"),
    (lambda s: not s.copy and s.burst in ("scaling_out", "draining"), "drpilot burst {group} --end"),
)
_LOST: tuple[Rule, ...] = (
    (lambda s: s.active_refuses, "drpilot site check {active}"),
    (lambda s: s.active_answers is False and s.locked, "drpilot group unlock {group}"),
    (lambda s: s.active_answers is False and s.has_point, 'drpilot failover {group} --reason "…"'),
)

RULES: dict[str, tuple[Rule, ...]] = {
    "seeding": (
        *_BESIDE,
        (lambda s: bool(s.copy), "drpilot run watch {copy}"),
        (_always, "drpilot replicate {group}"),
    ),
    "protected": (
        *_BEFORE_MOVE,
        *_LOST,
        *_BESIDE,
        (lambda s: bool(s.practice), "drpilot run watch {practice}"),
        (lambda s: s.standing_answers is False, "drpilot site check {standing}"),
        (lambda s: not s.healthy, "drpilot check {group}"),
        (lambda s: s.drill == "failed", "drpilot report show {drill}"),
        (lambda s: s.drill == "", "drpilot drill {group}"),
        (_always, "drpilot check {group}"),
    ),
    "degraded": (
        *_BEFORE_MOVE,
        *_LOST,
        *_BESIDE,
        (lambda s: s.standing_answers is False, "drpilot site check {standing}"),
        (lambda s: bool(s.copy), "drpilot run watch {copy}"),
        (lambda s: s.rpo_met is False and s.active_answers is True, "drpilot replicate {group}"),
        (_always, "drpilot check {group}"),
    ),
    "switching_over": _MOVE,
    "failing_over": _MOVE,
    "rolling_back": _MOVE,
    "reprotecting": _MOVE,
    "awaiting_commit": (
        (lambda s: bool(s.orphaned) and s.move != "awaiting_commit", "drpilot run resume {orphaned}"),
        (_always, "drpilot commit {group}"),
    ),
    "active_unprotected": (
        *_BEFORE_MOVE,
        (lambda s: s.standing_answers is False, "drpilot site check {standing}"),
        (lambda s: s.standing_fence not in ("fenced", "released"), "drpilot fence {group}"),
        (_always, "drpilot reprotect {group}"),
    ),
    "needs_decision": (
        (lambda s: bool(s.unknown_step), SETTLE),
        (_always, "drpilot run show {group}"),
    ),
    "split_suspected": (*_BEFORE_MOVE, (_always, SURVIVOR)),
    "retired": ((_always, "drpilot protect FILE"),),
}


def next_command(situation: Situation) -> str:
    """The command to type next, ready to copy. Pure."""
    command = next(text for holds, text in RULES[situation.state] if holds(situation))
    return command.format(
        group=situation.group,
        active=situation.active,
        standing=situation.standing,
        orphaned=situation.orphaned,
        unknown=situation.unknown_step,
        drill=situation.drill_name,
        copy=situation.name("copy"),
        practice=situation.name("practice"),
    )


def protect_command(view: GroupView) -> str:
    """What makes a fresh point: after a move that is a reprotection, else a replication."""
    verb = "reprotect" if view.state in ("active_unprotected", "reprotecting") else "replicate"
    return f"drpilot {verb} {view.name}"


def survivor_command(group: str, active: str, standing: str) -> str:
    """What leads out of a suspected split: a person names the side to go on with."""
    return SURVIVOR.format(group=group, active=active, standing=standing)
