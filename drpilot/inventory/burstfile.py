"""The section `burst` of a group file: its keys, what is wrong with them, and the policy they make."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from drpilot.base.document import DocumentModel, Duration, Integer
from drpilot.base.units import format_duration
from drpilot.domain.group import BurstAlarm, BurstPolicy, BurstSchedule
from drpilot.inventory.words import Cron, SiteName, Span, TierName, TimeZone, Word

__all__ = ["MOST_USER_DATA_BYTES", "BurstModel", "burst_findings", "burst_policy"]

MOST_USER_DATA_BYTES = 16_384
"""EC2 user guide, "Run commands on your Amazon EC2 instance at launch": the limit before it is encoded."""

Machines = Annotated[Integer, Field(ge=1, le=1000)]
Percent = Annotated[Integer, Field(ge=1, le=99)]


class AlarmModel(DocumentModel):
    """The alarm that begins a burst, and how long it must have held."""

    name: Word
    site: SiteName
    after: Span = 120.0
    clear: Span = 600.0


class ScheduleModel(DocumentModel):
    """When a burst begins by itself, and for how long."""

    cron: Cron
    timezone: TimeZone = "UTC"
    lasts: Span | None = None


class BurstModel(DocumentModel):
    """Extra capacity on the other side under load."""

    tier: TierName
    max: Machines
    desired: Machines | None = None
    weight: Percent
    longest: Span = 14_400.0
    cooldown: Duration = 1800.0
    alarm: AlarmModel | None = None
    schedule: ScheduleModel | None = None
    user_data: Word | None = None


def burst_findings(
    model: BurstModel, scaled: Mapping[str, bool], front: str | None, file: str
) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong, as the path inside the section and a sentence.

    `scaled` says of each tier whether it is a scaling group; `front` is the tier that the name leads to.
    """
    if model.tier not in scaled:
        yield ("tier",), f"there is no tier {model.tier!r}; there are {', '.join(scaled)}"
    elif not scaled[model.tier]:
        what = "only a scaling group can burst, since its machines keep nothing of their own"
        yield ("tier",), f"tier {model.tier!r} has instances: {what}"
    elif front is None:
        yield ("tier",), "a burst needs `traffic` and a tier with a load_balancer: users come by weighted DNS"
    elif front != model.tier:
        what = f"users come by the load balancer of tier {front!r}"
        yield ("tier",), f"tier {model.tier!r} can't take users by itself: {what}"
    if model.desired is not None and model.desired > model.max:
        yield ("desired",), f"desired {model.desired} is more than max {model.max}"
    lasts = model.schedule.lasts if model.schedule is not None else None
    if lasts is not None and lasts > model.longest:
        longest = format_duration(model.longest)
        yield ("schedule", "lasts"), f"it lasts {format_duration(lasts)}, longest is {longest}"
    if model.user_data is not None:
        problem = _unreadable(user_data_path(model.user_data, file))
        if problem:
            yield ("user_data",), problem


def _unreadable(path: Path) -> str:
    """Why a file can't be user data; empty where it can."""
    try:
        size = len(path.read_bytes())
    except OSError as error:
        return f"{path} can't be read: {error.strerror or error}"
    if size > MOST_USER_DATA_BYTES:
        return f"{path} has {size} bytes; user data has at most {MOST_USER_DATA_BYTES}"
    return "" if size else f"{path} is empty"


def user_data_path(text: str, file: str) -> Path:
    """The absolute path of a file named in a group file: relative ones lie beside it."""
    return (Path(file).absolute().parent / Path(text).expanduser()).resolve()


def burst_policy(model: BurstModel, file: str) -> BurstPolicy:
    """The policy of a section in which nothing is wrong."""
    path = user_data_path(model.user_data, file) if model.user_data is not None else None
    alarm, schedule = model.alarm, model.schedule
    return BurstPolicy(
        tier=model.tier,
        desired=model.desired or model.max,
        maximum=model.max,
        weight=model.weight,
        longest_s=model.longest,
        cooldown_s=model.cooldown,
        alarm=BurstAlarm(alarm.name, alarm.site, alarm.after, alarm.clear) if alarm else None,
        schedule=(
            BurstSchedule(schedule.cron, schedule.timezone, schedule.lasts or model.longest)
            if schedule
            else None
        ),
        user_data_file=str(path) if path is not None else None,
        user_data_sha256=hashlib.sha256(path.read_bytes()).hexdigest() if path is not None else None,
    )
