"""What a command answers and how it is written: tables, plain lines, or exactly one JSON document.

An `Answer` has both faces: `data` for `--output json` (sorted keys, UTC, seconds as numbers) and `blocks` for people.
Every answer names the next command.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from drpilot.base.clock import rfc3339
from drpilot.base.errors import DrpilotError
from drpilot.cli.terminal import Terminal

__all__ = ["Answer", "Table", "document", "error_document", "error_lines", "moment", "spelled", "write"]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under heads; `None` is shown as a dash."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


Block = Table | str


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a command. `blocks` are tables and lines, `next` the command to go on with."""

    data: Any
    blocks: tuple[Block, ...] = ()
    next: str = ""
    exit_code: int = 0
    raw: bool = False  # blocks are a file's text: nothing is put before or after it


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


def document(data: Any) -> str:
    """`data` as the one JSON document on stdout."""
    return json.dumps(data, sort_keys=True, indent=2, ensure_ascii=False, default=_plain)


def spelled(data: Any) -> Any:
    """Plain data with inner names spelled out as JSON carries them: `loss_s` becomes `loss_seconds`."""
    if isinstance(data, Mapping):
        return {re.sub(r"_s$", "_seconds", str(key)): spelled(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [spelled(value) for value in data]
    return data


def moment(at: datetime | None, now: datetime) -> str:
    """A time for people, in the local zone: the clock today, the weekday within a week, else the date."""
    if at is None:
        return "never"
    local, today = at.astimezone(), now.astimezone()
    if local.date() == today.date():
        text = local.strftime("%H:%M:%S")
    elif abs((today.date() - local.date()).days) < 7:
        text = local.strftime("%a %H:%M")
    else:
        text = local.strftime("%Y-%m-%d %H:%M")
    return text if local.utcoffset() == UTC.utcoffset(None) else f"{text} ({at.astimezone(UTC):%H:%MZ})"


def _cells(table: Table) -> list[list[str]]:
    return [["-" if cell is None or cell == "" else str(cell) for cell in row] for row in table.rows]


def _aligned(table: Table) -> list[str]:
    rows = [list(table.heads), *_cells(table)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.heads))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _drawn(table: Table, terminal: Terminal) -> list[str]:
    """The table for a screen: bold heads, cut to its width. rich is imported only here and in progress."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    from drpilot.cli.terminal import wants_colour

    colour = wants_colour(terminal.stdout)
    stream = StringIO()
    width = max(40, terminal.width - (5 if terminal.lab else 0))
    console = Console(file=stream, width=width, force_terminal=colour, no_color=not colour, highlight=False)
    drawn = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold" if colour else "")
    for head in table.heads:
        drawn.add_column(head, overflow="ellipsis", no_wrap=True)
    for row in _cells(table):
        drawn.add_row(*[Text(cell, style=_style(cell) if colour else "") for cell in row])
    console.print(drawn)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def _style(cell: str) -> str:
    if cell in ("protected", "ok", "succeeded", "ready", "proven", "fenced"):
        return "green"
    if cell in ("failed", "bad", "split_suspected", "needs_decision", "FAILED", "unhealthy"):
        return "red"
    return "yellow" if cell.endswith("!") or cell in ("degraded", "warning", "paused", "unverified") else ""


def lines_of(answer: Answer, terminal: Terminal) -> list[str]:
    """The lines people see for `answer`."""
    lines: list[str] = []
    for block in answer.blocks:
        if isinstance(block, str):
            lines.append(block)
        else:
            lines += _drawn(block, terminal) if terminal.rich else _aligned(block)
    if answer.raw:
        return lines
    if answer.next:
        lines.append(f"next: {answer.next}")
    return terminal.prefixed(lines)


def write(answer: Answer, terminal: Terminal) -> None:
    """Put `answer` on stdout in the form asked for."""
    if not terminal.json:
        terminal.result(lines_of(answer, terminal))
        return
    data = answer.data
    if isinstance(data, Mapping):
        extra: dict[str, Any] = {"next": answer.next} if answer.next else {}
        data = {**data, **({"lab": True} if terminal.lab else {}), **extra}
    terminal.result([document(data)])


def error_lines(error: DrpilotError) -> list[str]:
    """An error as people read it: what, where, why, hint."""
    lines = [f"error[{error.row.code}]: {error.title}"]
    for key, value in (("where", error.where), ("why", error.why), ("hint", error.hint)):
        if value:
            lines += [
                f"  {key + ':':<7}{part}" if number == 0 else f"         {part}"
                for number, part in enumerate(str(value).splitlines())
            ]
    return lines


def error_document(error: DrpilotError, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """An error as `--output json` carries it; `extra` (a run, say) stands beside it."""
    body = error.as_json()
    data = body["error"].get("data")
    if isinstance(data, dict) and "proposal" in data:
        body["error"]["data"] = {**data, "proposal": spelled(data["proposal"])}
    return {**body, **dict(extra or {})}
