"""The terminal a command talks to: streams, whether a person sits there, colours, questions.

stdout carries the result only; progress and questions go to stderr. A question is asked only where stdin and stderr
are a terminal, the output is not JSON, and `--no-input` was not given. NO_COLOR (present and not empty), FORCE_COLOR
and TERM=dumb are obeyed (no-color.org; force-color.org).
"""

from __future__ import annotations

import getpass
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TextIO

__all__ = ["MARKS", "Terminal", "wants_colour"]

MARKS = {
    "ok": ("✓", "ok"),
    "warning": ("!", "!"),
    "bad": ("✗", "x"),
    "going": ("…", "..."),
    "left out": ("-", "-"),
}
_COLOURS = {
    "ok": "32",
    "warning": "33",
    "bad": "31",
    "going": "36",
    "strong": "1",
    "faint": "2",
    "left out": "2",
}
_NARROW = {"✓": "ok", "✗": "x", "…": "...", "→": "->", "≤": "<=", "×": "x", "·": "-", "—": "-", "↶": "<-"}


def wants_colour(stream: TextIO) -> bool:
    """Whether `stream` should carry colour, by the conventions of NO_COLOR, FORCE_COLOR and TERM."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


@dataclass(slots=True)
class Terminal:
    """Where one command reads and writes. `lab` prefixes what people see with `LAB`."""

    json: bool = False
    no_input: bool = False
    lab: bool = False
    stdout: TextIO = field(default_factory=lambda: sys.stdout)
    stderr: TextIO = field(default_factory=lambda: sys.stderr)
    stdin: TextIO = field(default_factory=lambda: sys.stdin)

    @property
    def asks(self) -> bool:
        """Whether a question may be asked."""
        return not self.json and not self.no_input and self.stdin.isatty() and self.stderr.isatty()

    @property
    def live(self) -> bool:
        """Whether progress may be redrawn in place."""
        return not self.json and self.stderr.isatty() and os.environ.get("TERM") != "dumb"

    @property
    def rich(self) -> bool:
        """Whether the result may be drawn for a person's screen."""
        return not self.json and self.stdout.isatty() and os.environ.get("TERM") != "dumb"

    @property
    def width(self) -> int:
        """Columns of the person's screen."""
        return shutil.get_terminal_size((100, 40)).columns

    def paint(self, text: str, style: str, stream: TextIO | None = None) -> str:
        """`text` in a style of `ok`, `warning`, `bad`, `going`, `strong`, `faint`, where `stream` wants colour."""
        if not wants_colour(stream or self.stderr):
            return text
        return f"\x1b[{_COLOURS[style]}m{text}\x1b[0m"

    def mark(self, kind: str) -> str:
        """The sign of an outcome, in a form stderr's encoding can write."""
        wide, narrow = MARKS[kind]
        return self.paint(wide if _can_write(self.stderr, wide) else narrow, kind)

    def prefixed(self, lines: Sequence[str]) -> list[str]:
        """Lines as the lab shows them: LAB before the first, the others moved in."""
        flat = [part for line in lines for part in line.split("\n")]
        if not self.lab:
            return flat
        return [(("LAB  " if number == 0 else "     ") + line).rstrip() for number, line in enumerate(flat)]

    def result(self, lines: Sequence[str]) -> None:
        """Write result lines to stdout."""
        _write(self.stdout, lines)

    def say(self, *lines: str) -> None:
        """Write progress or an explanation to stderr; silent under `--output json`, where only errors speak."""
        if not self.json:
            _write(self.stderr, lines)

    def complain(self, lines: Sequence[str]) -> None:
        """Write an error to stderr."""
        _write(self.stderr, lines)

    def ask(self, question: str) -> str | None:
        """A person's answer to `question`, None where nobody may be asked or the input ended."""
        if not self.asks:
            return None
        self.stderr.write(question)
        self.stderr.flush()
        answer = self.stdin.readline()
        if not answer:
            self.stderr.write("\n")
            return None
        return answer.strip()

    def ask_secret(self, question: str) -> str | None:
        """A person's answer that is not shown while it is typed; None where nobody may be asked."""
        if not self.asks:
            return None
        try:
            return getpass.getpass(question, self.stderr)
        except EOFError:
            self.stderr.write("\n")
            return None


def _can_write(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _write(stream: TextIO, lines: Sequence[str]) -> None:
    for line in lines:
        text = line
        if not _can_write(stream, text):
            for wide, narrow in _NARROW.items():
                text = text.replace(wide, narrow)
            text = text.encode(stream.encoding or "ascii", "replace").decode(stream.encoding or "ascii")
        stream.write(text + "\n")
    stream.flush()
