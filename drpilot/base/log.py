"""Structured logs on stderr and the `Secret` type.

A secret is a type, not a convention: it prints as `***`, has no JSON form, and is opened only where a client
is built.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Secret", "configure", "logger"]

_SENSITIVE = ("secret", "password", "token_value", "authorization", "session_token")


class Secret:
    """A value that must not be printed, stored or compared in the open."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def open(self) -> str:
        """The value itself; call it only where a client is built."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in event:
        if any(word in key.lower() for word in _SENSITIVE):
            event[key] = "***"
    return event


@dataclass(slots=True)
class _Settings:
    """How this process logs; carried out when something is first said."""

    verbose: bool = False
    json_lines: bool = False
    done: bool = True


_settings = _Settings()


def configure(*, verbose: bool = False, json_lines: bool = False) -> None:
    """Set up logging once a process: warnings by default, everything of drpilot when `verbose`."""
    _settings.verbose, _settings.json_lines, _settings.done = verbose, json_lines, False


def _carry_out(structlog: Any) -> None:
    level = logging.DEBUG if _settings.verbose else logging.WARNING
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    renderer: Any = structlog.processors.JSONRenderer() if _settings.json_lines else plain
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: structlog.PrintLogger(
            sys.stderr
        ),  # the stream as it is when something is said
        cache_logger_on_first_use=False,
    )
    _settings.done = True


def logger(name: str) -> Any:
    """A structlog logger bound to `name`; event names are constants, facts are keywords."""
    import structlog  # noqa: PLC0415 - a sixth of a second, and most commands have nothing to log

    if not _settings.done:
        _carry_out(structlog)
    return structlog.get_logger(room=name)
