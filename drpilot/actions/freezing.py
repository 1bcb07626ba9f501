"""Freezing an application while its snapshots are taken, by two programs the team wrote.

The frozen time is one attempt: freeze, the create call, thaw. That it begins is durable before it does, so that a
driver that dies inside is followed by one that thaws first. A program that fails costs no point: the snapshots are
then crash-consistent, and the step says so.

What the programs must keep to: both are safe to repeat; a freeze ends by itself after a while (the controller may
die too); thaw ends with 0 only if the freeze has held until then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from drpilot.actions.command import run_program
from drpilot.domain.group import Instance, Tier
from drpilot.domain.ports import Context, StepFailed

__all__ = ["at_rest", "awake", "consistency", "frozen", "left_frozen", "said", "thaw_left"]

_PROGRAM_S = 60.0
_FROZEN, _HELD, _SAID, _REST = "frozen", "held", "said", "at_rest"


def at_rest(ctx: Context) -> None:
    """Note that the machine was shut down when its snapshots were asked for: nothing has to be frozen."""
    ctx.checkpoint({_REST: True})


def awake(ctx: Context) -> None:
    """Take back what an earlier attempt noted of a machine that was shut down then."""
    if (ctx.resume or {}).get(_REST) is True:
        ctx.checkpoint({_REST: False})


def consistency(ctx: Context, tier: Tier) -> str:
    """`application` where the machine was shut down, or the tier's freeze was seen to hold, while this step's snapshots
    were taken; else `crash`.
    """
    if (ctx.resume or {}).get(_REST) is True:
        return "application"
    return "application" if tier.freeze and (ctx.resume or {}).get(_HELD) is True else "crash"


def said(ctx: Context) -> str:
    """What the programs said that a person should know; empty where all went well."""
    return "; ".join((ctx.resume or {}).get(_SAID) or ())


def left_frozen(ctx: Context) -> bool:
    """Whether an attempt of this step began to freeze and was not seen to thaw."""
    return (ctx.resume or {}).get(_FROZEN) is True


def thaw_left(ctx: Context, tier: Tier, instance: Instance) -> None:
    """Thaw what a lost driver may have left frozen; its snapshots count as crash-consistent."""
    notes = [f"the driver was lost while {instance.key} was being frozen; it was thawed afterwards"]
    _run(ctx, tier, instance, thaw=True, notes=notes)
    ctx.checkpoint({_FROZEN: False, _HELD: False, _SAID: notes})


@contextmanager
def frozen(ctx: Context, tier: Tier, instance: Instance) -> Iterator[None]:
    """The tier's application on `instance` is frozen inside; one without hooks is left alone."""
    if not tier.freeze:
        yield
        return
    notes: list[str] = []
    ctx.checkpoint({_FROZEN: True})
    held = _run(ctx, tier, instance, thaw=False, notes=notes)
    try:
        yield
    finally:
        held = _run(ctx, tier, instance, thaw=True, notes=notes) and held
        ctx.checkpoint({_FROZEN: False, _HELD: held, _SAID: notes})


def _run(ctx: Context, tier: Tier, instance: Instance, *, thaw: bool, notes: list[str]) -> bool:
    """Run one of the two programs; what went wrong is added to `notes`."""
    program = tier.freeze[int(thaw)]
    facts = {
        "DRPILOT_GROUP": ctx.group.name,
        "DRPILOT_RUN": ctx.name,
        "DRPILOT_SITE": ctx.source,
        "DRPILOT_TIER": tier.name,
        "DRPILOT_INSTANCE": instance.id,
        "DRPILOT_MEMBER": instance.key,
        "DRPILOT_ADDRESS": instance.private_address,
        "DRPILOT_POINT": ctx.point_id,
    }
    try:
        done = run_program(program, facts, timeout_s=_PROGRAM_S)
    except StepFailed as error:
        failed = error.message
    else:
        failed = f"{program} ended with {done.code}: {done.tail}" if done.code else ""
    if failed and thaw:
        notes.append(f"{instance.key} was not seen to thaw ({failed}): see that it writes again")
    elif failed:
        notes.append(f"{instance.key} was not frozen ({failed})")
    return not failed
