"""Words that the keys of a group file are made of: names, spans of time, cron expressions, time zones."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, StringConstraints

from drpilot.base.document import Duration

__all__ = ["Cron", "SiteName", "Span", "TierName", "TimeZone", "Word"]

_SOME_DAY = datetime(2000, 1, 1, tzinfo=UTC)  # cronsim wants a start; the expression alone is checked


def _positive(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError("must be longer than nothing")
    return seconds


def _cron(text: str) -> str:
    if len(text.split()) != 5:
        raise ValueError(
            f"{text[:60]!r} is no cron expression; it has five fields: minute hour day month weekday"
        )
    try:
        next(CronSim(text, _SOME_DAY))
    except CronSimError as error:
        raise ValueError(f"{text[:60]!r} is no cron expression: {error}") from None
    except StopIteration:
        raise ValueError(f"{text[:60]!r} never comes") from None
    return text


def _timezone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{text[:60]!r} is no time zone; write one such as Europe/Rome") from None
    return text


Span = Annotated[Duration, AfterValidator(_positive)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=300, strip_whitespace=True)]
SiteName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$", max_length=32)]
TierName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$", max_length=40)]
Cron = Annotated[str, AfterValidator(_cron)]
TimeZone = Annotated[str, AfterValidator(_timezone)]
