"""Every action by name: what runbooks may call, and what the documentation and least-privilege policies
are made of.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from drpilot.actions import (
    addresses,
    booting,
    buckets,
    burst,
    burst_end,
    burst_health,
    burst_ready,
    burst_traffic,
    checks,
    cleanup,
    completion,
    drill,
    epoch,
    fence,
    groups,
    growth,
    health,
    images,
    importing,
    isolation,
    landing,
    mover,
    partnering,
    points,
    release,
    restore,
    retention,
    retire,
    sharing,
    shell,
    sides,
    staging,
    standby,
    survivor,
    traffic,
    ways_back,
    writers,
)
from drpilot.domain.ports import Action, Model

__all__ = ["CATALOGUE", "Entry", "Parameter", "entries", "permissions"]


def _catalogue(actions: Iterable[Action[Any, Any]]) -> dict[str, Action[Any, Any]]:
    return {action.name: action for action in sorted(actions, key=lambda action: action.name)}


CATALOGUE: dict[str, Action[Any, Any]] = _catalogue(
    (
        addresses.Address(),
        addresses.Bind(),
        addresses.Release(),
        burst.Begin(),
        burst.Group(),
        burst.Grow(),
        burst.Template(),
        burst_end.Remove(),
        burst_end.Shrink(),
        burst_end.Verify(),
        burst_end.Withdraw(),
        burst_health.BurstHealth(),
        burst_ready.Ready(),
        burst_traffic.Drain(),
        burst_traffic.Forgotten(),
        burst_traffic.Share(),
        burst_traffic.Unshare(),
        buckets.Stand(),
        buckets.Sync(),
        checks.Lag(),
        checks.Source(),
        checks.Target(),
        cleanup.Machines(),
        cleanup.Networks(),
        cleanup.Superseded(),
        cleanup.Verify(),
        cleanup.Volumes(),
        completion.Close(),
        completion.Complete(),
        completion.Prove(),
        booting.Launch(),
        drill.Network(),
        drill.Rules(),
        drill.SecurityGroup(),
        drill.Subnet(),
        epoch.ClaimEpoch(),
        epoch.ConfirmEpoch(),
        epoch.ReleaseEpoch(),
        fence.Apply(),
        fence.Prepare(),
        groups.Invalidate(),
        groups.MarkInvalidated(),
        groups.Ready(),
        groups.Reprotect(),
        growth.Grow(),
        growth.Retreat(),
        health.DrillTier(),
        health.TierHealth(),
        health.TrafficHealth(),
        images.Adopt(),
        images.CopyImage(),
        images.Enrol(),
        images.Find(),
        images.Register(),
        isolation.Isolation(),
        importing.Discard(),
        importing.Import(),
        landing.Adopt(),
        landing.Carry(),
        landing.Seal(),
        mover.End(),
        mover.Run(),
        partnering.Groups(),
        partnering.Keys(),
        partnering.Look(),
        partnering.Rules(),
        points.Capture(),
        points.Captured(),
        points.Copy(),
        points.Request(),
        release.Release(),
        restore.Attach(),
        restore.Detach(),
        restore.Restore(),
        restore.Shed(),
        retention.Delete(),
        retention.Expire(),
        retire.Addresses(),
        retire.Deny(),
        retire.Groups(),
        retire.Machines(),
        retire.Points(),
        retire.Tags(),
        retire.Volumes(),
        sharing.Share(),
        shell.Shell(),
        sides.Sides(),
        staging.Fill(),
        staging.Open(),
        staging.Remove(),
        staging.Sweep(),
        standby.Build(),
        standby.Fit(),
        standby.Rest(),
        survivor.Lift(),
        survivor.NameSurvivor(),
        survivor.Seize(),
        traffic.Restore(),
        traffic.Switch(),
        ways_back.Reload(),
        ways_back.StandBy(),
        ways_back.Unload(),
        writers.Quiet(),
        writers.Start(),
        writers.Stop(),
    )
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One field of an action's input or output, as the documentation shows it."""

    name: str
    type: str
    required: bool
    default: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One action as the documentation shows it."""

    name: str
    summary: str
    idempotency: str
    effect: str
    protects: bool
    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...]
    permissions: tuple[str, ...]


def _fields(model: type[Model]) -> tuple[Parameter, ...]:
    found = []
    for name, field in model.model_fields.items():
        kind = (
            getattr(field.annotation, "__name__", None) if not hasattr(field.annotation, "__args__") else None
        )
        default = "" if field.is_required() else repr(field.get_default(call_default_factory=True))
        found.append(
            Parameter(
                name, kind or str(field.annotation).replace("typing.", ""), field.is_required(), default
            )
        )
    return tuple(found)


def entries() -> tuple[Entry, ...]:
    """All actions for the documentation, by name."""
    return tuple(
        Entry(
            name=action.name,
            summary=action.summary,
            idempotency=action.idempotency.value,
            effect=action.effect.value,
            protects=action.protects,
            inputs=_fields(action.Input),
            outputs=_fields(action.Output),
            permissions=action.permissions,
        )
        for action in CATALOGUE.values()
    )


def permissions(names: Iterable[str]) -> tuple[str, ...]:
    """The IAM actions that these actions need, sorted: the body of a least-privilege policy."""
    return tuple(sorted({item for name in names for item in CATALOGUE[name].permissions}))
