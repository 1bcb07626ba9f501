"""What an action may touch while it runs: sites by role, the witness, its token, and the journal's facts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from drpilot.base.clock import Clock
from drpilot.base.ids import digest
from drpilot.domain.group import Group
from drpilot.domain.plan import Proposal
from drpilot.domain.point import RecoveryPoint
from drpilot.domain.ports import Site, StandbyView, Witness
from drpilot.domain.run import AttemptView, RunView, StepView
from drpilot.journal.journal import Journal

__all__ = ["StepContext", "World"]


@dataclass(frozen=True, slots=True)
class World:
    """The outside, as wiring hands it to the engine: how a site name becomes a Site, and where the witness is."""

    site: Callable[[str], Site]
    witness: Callable[[], Witness]


@dataclass(frozen=True, slots=True)
class StepContext:
    """The Context of one attempt (domain/ports.py says what each part means)."""

    view: RunView
    step: StepView
    attempt: AttemptView
    group: Group
    journal: Journal
    world: World
    clock: Clock
    save: Callable[[dict[str, Any]], None]
    intended_at: datetime
    epoch: int

    @property
    def run(self) -> str:
        return self.view.id

    @property
    def name(self) -> str:
        return self.view.name

    @property
    def path(self) -> str:
        return self.step.path

    @property
    def mode(self) -> str:
        return self.view.mode

    @property
    def token(self) -> str:
        return self.attempt.token

    @property
    def source(self) -> str:
        return self.view.plan.source

    @property
    def target(self) -> str:
        return self.view.plan.target

    @property
    def point_id(self) -> str:
        return self.view.plan.point

    @property
    def resume(self) -> dict[str, Any] | None:
        return dict(self.attempt.checkpoint) if self.attempt.checkpoint else None

    @property
    def proposal(self) -> Proposal | None:
        return self.view.proposal

    def site(self, role: str) -> Site:
        return self.world.site({"source": self.source, "target": self.target}.get(role, role))

    def witness(self) -> Witness:
        return self.world.witness()

    def sub(self, name: str) -> str:
        return digest([self.token, name])[:32]

    def tags(self, **extra: str) -> dict[str, str]:
        tags = {
            "drpilot:group": self.group.name,
            "drpilot:run": self.run,
            "drpilot:step": self.path,
            "drpilot:attempt": self.token,
        }
        return tags | {f"drpilot:{key}": value for key, value in extra.items()}

    def point(self, point_id: str) -> RecoveryPoint:
        return self.journal.point(self.group.name, point_id)

    def points(self) -> tuple[RecoveryPoint, ...]:
        return self.journal.points(self.group.name)

    def standby(self, tier: str, site: str) -> StandbyView:
        for standby in self.journal.standbys(self.group.name):
            if (standby.tier, standby.site) == (tier, site):
                return standby
        return StandbyView(tier, site, "absent")

    def fenced(self, site: str) -> str:
        return str(self.journal.group(self.group.name).fences.get(site, {}).get("state", "none"))

    def checkpoint(self, state: dict[str, Any]) -> None:
        self.save(state)
