"""A program of the team's own as a step of a runbook: where a configuration tool takes over, say.

It runs on the controller, from a list and never through a shell, bounded in time, with facts in its environment and
none of the clouds' credentials. What it does can't be looked at, so it is begun once: that it begins is durable before
it does, and how it ended before anything else is done. A driver that dies in between leaves a question which a person
answers (`drpilot run settle`). Its words are kept only where it failed, so that nothing it prints for itself gets into
the journal.
"""

from __future__ import annotations

import shlex
from typing import Annotated

from pydantic import Field

from drpilot.actions.command import run_program
from drpilot.actions.members import member, tier_of
from drpilot.domain.plain import Json
from drpilot.domain.ports import (
    Action,
    Answer,
    Context,
    Done,
    Effect,
    FailureClass,
    Idempotency,
    Model,
    StepFailed,
    Unseen,
)

__all__ = ["Shell"]

_BEGUN, _CODE = "begun", "code"


class ShellInput(Model):
    """The program with its arguments, one word each; the machine of the target it is about, and how long it may take.

    `timeout_s` is in seconds; the step's own timeout must be longer.
    """

    program: Annotated[tuple[str, ...], Field(min_length=1, max_length=50)]
    tier: str | None = None
    instance: str | None = None
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 600.0


class ShellOutput(Model):
    """What ended with 0, and the machine it was told of (its id on the target; empty where it was told of none)."""

    program: str
    machine: str = ""


class Shell(Action[ShellInput, ShellOutput]):
    """Run a program on the controller, once; another exit code than 0 fails the step with the end of its output."""

    name = "core.shell"
    summary = "run a program of the team's own on the controller, once, with facts in its environment"
    idempotency = Idempotency.ONCE
    effect = Effect.CHANGE
    permissions = ("ec2:DescribeInstances",)
    Input = ShellInput
    Output = ShellOutput

    def start(self, ctx: Context, given: ShellInput) -> Answer[ShellOutput]:
        facts, machine = _facts(ctx, given)
        known: Json = {_BEGUN: ctx.token, "machine": machine}
        ctx.checkpoint(known)
        try:
            done = run_program(shlex.join(given.program), facts, timeout_s=given.timeout_s)
        except (
            StepFailed
        ) as error:  # a program that was killed may have done half its work: no engine repeats it
            ctx.checkpoint({**known, _CODE: -1})
            raise StepFailed(FailureClass.REJECTED, error.message) from None
        ctx.checkpoint({**known, _CODE: done.code})
        if done.code != 0:
            text = f"{given.program[0]} ended with {done.code}: {done.tail}"
            raise StepFailed(FailureClass.REJECTED, text)
        return Done(ShellOutput(program=given.program[0], machine=machine))

    def observe(self, ctx: Context, given: ShellInput) -> Answer[ShellOutput]:
        known = ctx.resume or {}
        if known.get(_BEGUN) != ctx.token:
            return Unseen(True, f"{given.program[0]} was not begun")
        if _CODE not in known:
            return Unseen(False, f"{given.program[0]} was begun; how it ended nobody saw")
        if known[_CODE] != 0:
            raise StepFailed(FailureClass.REJECTED, f"{given.program[0]} ended with {known[_CODE]}")
        return Done(ShellOutput(program=given.program[0], machine=str(known.get("machine", ""))))


def _facts(ctx: Context, given: ShellInput) -> tuple[dict[str, str], str]:
    """The environment of the program, and the id of the machine it is about."""
    facts = {
        "DRPILOT_GROUP": ctx.group.name,
        "DRPILOT_RUN": ctx.name,
        "DRPILOT_STEP": ctx.path,
        "DRPILOT_MODE": ctx.mode,
        "DRPILOT_SITE": ctx.target,
        "DRPILOT_SOURCE": ctx.source,
        "DRPILOT_POINT": ctx.point_id,
        "DRPILOT_TOKEN": ctx.token,
    }
    if given.tier is None:
        return facts, ""
    tier = tier_of(ctx, given.tier)
    facts["DRPILOT_TIER"] = tier.name
    if given.instance is None:
        return facts, ""
    found = member(ctx, ctx.site("target"), tier, given.instance)
    if found is None:
        raise StepFailed(FailureClass.PRECONDITION, f"{given.instance} is not on {ctx.target}")
    facts |= {
        "DRPILOT_MEMBER": given.instance,
        "DRPILOT_INSTANCE": str(found["InstanceId"]),
        "DRPILOT_ADDRESS": str(found.get("PrivateIpAddress") or ""),
        "DRPILOT_PUBLIC_ADDRESS": str(found.get("PublicIpAddress") or ""),
    }
    return facts, str(found["InstanceId"])
