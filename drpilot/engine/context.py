"""What an action may touch while it runs: sites by role, the witness, its token, and the journal's facts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from drpilot.base.clock import Clock
from drpilot.base.errors import invariant
from drpilot.base.ids import digest
from drpilot.domain.fence import Claim
from drpilot.domain.group import Group
from drpilot.domain.operations import is_reading
from drpilot.domain.plan import Proposal
from drpilot.domain.point import RecoveryPoint
from drpilot.domain.ports import Site, StandbyView, Transfers, Witness
from drpilot.domain.run import AttemptView, RunView, StepView
from drpilot.journal.journal import Journal

__all__ = ["StepContext", "World"]


@dataclass(frozen=True, slots=True)
class World:
    """The outside, as wiring hands it to the engine: how a site name becomes a Site, and where the witness is."""

    site: Callable[[str], Site]
    witness: Callable[[], Witness]
    settle_s: float = (
        2.0  # how long a fresh resource may stay invisible: EC2's reads are eventually consistent
    )
    transfers: Transfers | None = None


@dataclass(slots=True)
class Touch:
    """Whether an attempt has sent anything that may change the world."""

    changed: bool = False


class TouchedSite:
    """A site that notes the first changing call."""

    def __init__(self, site: Site, touch: Touch) -> None:
        self._site, self._touch = site, touch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._site, name)

    def call(
        self, service: str, operation: str, params: dict[str, Any], *, token: str | None = None
    ) -> dict[str, Any]:
        """The call, noted when it may change something."""
        if not is_reading(operation):
            self._touch.changed = True
        return self._site.call(service, operation, params, token=token)

    def guarded(self, permit: Callable[[], None]) -> Site:
        """The same site, where `permit` is asked as well."""
        return cast("Site", TouchedSite(self._site.guarded(permit), self._touch))


class TouchedWitness:
    """The witness; a write is a change."""

    def __init__(self, witness: Witness, touch: Touch, permit: Callable[[], None]) -> None:
        self._witness, self._touch, self._permit = witness, touch, permit

    def read(self, group: str) -> tuple[Claim | None, str]:
        """The claim and its etag."""
        return self._witness.read(group)

    def write(self, claim: Claim, *, replaces: str) -> str:
        """Write, noted, if it may still be."""
        self._permit()
        self._touch.changed = True
        return self._witness.write(claim, replaces=replaces)


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
    given_up: Callable[[], bool] = lambda: False
    permit: Callable[[], None] = lambda: None
    touch: Touch = field(default_factory=Touch)

    def changed(self) -> bool:
        """Whether this attempt has sent anything that may change the world."""
        return self.touch.changed

    @property
    def settle_s(self) -> float:
        """How long what was just made may stay unlisted, in seconds."""
        return self.world.settle_s

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
        name = {"source": self.source, "target": self.target}.get(role, role)
        return cast("Site", TouchedSite(self.world.site(name).guarded(self.permit), self.touch))

    def witness(self) -> Witness:
        return TouchedWitness(self.world.witness(), self.touch, self.permit)

    def unwanted(self) -> bool:
        return self.given_up()

    def sub(self, name: str) -> str:
        return digest([self.token, name])[:32]

    @property
    def transfers(self) -> Transfers:
        invariant(self.world.transfers is not None, "this world carries no bytes")
        assert self.world.transfers is not None
        return self.world.transfers

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
