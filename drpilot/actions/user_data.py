"""User data at the moment it is needed: read from one cloud, handed to another, kept nowhere.

The group knows only its SHA-256 (inventory/launching.py). What waits on the target has it already, so neither a
failover nor a drill has to ask the source for it.
"""

from __future__ import annotations

from drpilot.domain.group import Instance, ScalingGroup
from drpilot.domain.plain import Json
from drpilot.domain.ports import Context, FailureClass, StepFailed
from drpilot.inventory.launching import digest_of, group_user_data, instance_user_data

__all__ = ["fits", "of_group", "of_member", "of_standby"]

_BUILDING = ("replicate", "reprotect")
"""Modes that make the standby like the source; the others take it as it stands."""


def of_member(ctx: Context, instance: Instance) -> Json:
    """The user data of a member on the source, as RunInstances takes it; empty where it has none."""
    if instance.user_data_sha256 is None:
        return {}
    found = instance_user_data(ctx.site("source"), instance.id)
    return {"UserData": _unchanged(found, instance.user_data_sha256, instance.key)}


def of_standby(ctx: Context, instance: Instance, standby: str | None) -> Json:
    """The same, from the instance that stands by on the target."""
    if instance.user_data_sha256 is None or standby is None:
        return {}
    found = instance_user_data(ctx.site("target"), standby)
    return {"UserData": found} if found else {}


def fits(ctx: Context, group: ScalingGroup, have: str | None) -> bool:
    """Whether what a launch template of the target says will do: the source's own, or whatever a move finds."""
    return ctx.mode not in _BUILDING or digest_of(have) == group.user_data_sha256


def of_group(ctx: Context, group: ScalingGroup, have: str | None) -> Json:
    """The user data of the next version of a group's template; `have` is what the present version says."""
    if fits(ctx, group, have):
        return {"UserData": have} if have else {}
    if group.user_data_sha256 is None:
        return {}
    found = group_user_data(ctx.site("source"), group.key)
    return {"UserData": _unchanged(found, group.user_data_sha256, group.key)}


def _unchanged(found: str | None, wanted: str, key: str) -> str:
    if found is None or digest_of(found) != wanted:
        text = f"the user data of {key} has changed since the members were looked at; the next run carries it"
        raise StepFailed(FailureClass.PRECONDITION, text)
    return found
