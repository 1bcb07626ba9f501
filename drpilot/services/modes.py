"""The table of run modes: a row says which runbook, lane, states, consent and predictions a mode has. Data only."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MODES", "Mode"]


@dataclass(frozen=True, slots=True)
class Mode:
    """One way of running.

    `direction`: `forth` leaves the active side (source = active), `back` protects the old side again (source =
    active as well, target = the other). `from_states` are the group states it may begin in. `point` is `chosen` (an
    existing one), `new` (made by the run) or `none`. `asks_loss` and `asks_name` are the facts typed; `at_end` is the
    group's own event when the run has succeeded; `beside_move` modes may begin while a move lives. `looks` modes look
    at every site before they propose. `at_least` persons are asked whatever the group's file says. `burst` are the
    states of the group's burst it may begin in; none: any.
    """

    name: str
    runbook: str
    lane: str
    from_states: tuple[str, ...]
    point: str
    approvals: str | None = None
    asks_name: bool = False
    asks_loss: bool = False
    asks_reason: bool = False
    needs_source: bool = False
    isolated: bool = False
    expires: bool = False
    at_end: str | None = None
    beside_move: bool = False
    looks: bool = False
    at_least: int = 1
    burst: tuple[str, ...] = ()


_LIVE = ("seeding", "protected", "degraded")
_NO_BURST = ("none",)
_BURST = ("scaling_out", "serving", "draining")

MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode("replicate", "replicate", "copy", _LIVE, "new", needs_source=True),
        Mode("failover", "failover", "move", ("protected", "degraded"), "chosen", "failover", True, True, True, looks=True),
        Mode("switchover", "switchover", "move", ("protected", "degraded"), "new", "switchover", True, False, True, True, looks=True, burst=_NO_BURST),
        Mode("migrate", "migrate", "move", ("protected", "degraded"), "new", "switchover", True, False, True, True, looks=True, burst=_NO_BURST),
        Mode("reprotect", "reprotect", "move", ("active_unprotected", "reprotecting"), "new", needs_source=True),
        Mode("configure", "configure", "copy", _LIVE, "none", needs_source=True),
        Mode("burst", "burst", "copy", ("protected", "degraded"), "chosen", asks_name=True, burst=_NO_BURST),
        Mode("unburst", "unburst", "copy", (*_LIVE, "active_unprotected", "split_suspected"), "none", burst=_BURST),
        Mode("drill", "drill", "practice", ("protected", "degraded"), "chosen", isolated=True, expires=True),
        Mode("fence", "fence", "practice", ("failing_over", "awaiting_commit", "active_unprotected"), "none", beside_move=True),
        Mode("survivor", "survivor", "move", ("split_suspected",), "none", "failover", True, False, True, looks=True, at_least=2),
        Mode("retire", "retire", "move", (*_LIVE, "active_unprotected"), "none", asks_name=True, at_end="retire", burst=_NO_BURST),
        Mode("cleanup", "cleanup", "practice", (*_LIVE, "active_unprotected", "reprotecting", "awaiting_commit"), "none"),
    )
}  # fmt: skip
