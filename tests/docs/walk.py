"""Following a page: its console blocks, the lab they are typed in, and what differs from one walk to the next.

A block is a fence of `console`; each line of it that begins with `$ drpilot` is a command, what follows is its output,
and an exit code other than 0 stands below it as `# exit 3`. A `⋮` in an output stands for steps that went well.
"""

from __future__ import annotations

import getpass
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from drpilot.cli.app import app

__all__ = ["Lab", "Typed", "followed", "plain", "rewritten", "typed"]

SHOWN_HOME = "~/.local/state/drpilot/lab"
ELIDED = "       ⋮"
_PROMPT = "$ drpilot "
_STEP = re.compile(r"^ +(\d+)/\d+ (\S) ")
_LONG = 5  # more steps than this in a row are shortened where the page has a ⋮
_DURATION = r"(?:≤ )?(?:\d+[dhm])*\d+(?:\.\d+)?m?s\b"
# What differs between two walks; the named part `keep` stays. A duration of whole minutes is one of the group file's,
# except those a lab's clock may stand at by chance: the first minutes of an age, and what is left of an hour.
_VOLATILE = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<keep>\blooked: ).*(?= · serve)",
        r"(?P<keep>127\.0\.0\.1:)\d+",
        r"(?P<keep>\blb-)127-\d+-\d+-\d+",
        r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\dZ?",
        r"\b\d\d:\d\d:\d\d\b",
        rf"(?<![\w.]){_DURATION}",
        r"(?<![\w.])(?:[1-9]|59)m\b",
        r"(?P<keep>\bfree in )\S+",
        r"(?P<keep>\b(?:i|vol|snap|ami|sg|subnet)-)[0-9a-f]{17}\b",
        r"(?P<keep>\bapp/[\w-]+/)[0-9a-f]{16}\b",
        r"(?P<keep>\b01)[0-9a-z]{18}\b",
        r"(?P<keep>\bplan )[0-9a-f]{6}\b",
        r"(?P<keep>\bhead )[0-9a-f]{16}\b",
        r"\b\d+(?= events\b)",
    )
)

_YOUNG = re.compile(r" {3}… ago$")  # said of a sight only once it is some seconds old


@dataclass(frozen=True)
class Typed:
    """One command of a page: the line it stands on (from 1), its words, and the output below it."""

    line: int
    command: str
    output: tuple[str, ...]

    @property
    def elides(self) -> bool:
        """Whether the page shortens long rows of steps here."""
        return ELIDED in self.output


@dataclass(frozen=True)
class Lab:
    """A lab in a folder of its own, in which commands of a page are typed."""

    home: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """Where `--lab` leads; no colours."""
        return {"DRPILOT_LAB_HOME": str(self.home), "NO_COLOR": "1", "TERM": "dumb"}

    def type(self, command: str) -> list[str]:
        """The lines a person sees after `command`, errors included, and the exit code where it is not 0."""
        words = shlex.split(command.replace(SHOWN_HOME, str(self.home)))
        ended = CliRunner().invoke(app, words[1:], env=dict(self.environment))
        lines = ended.output.replace(str(self.home), SHOWN_HOME).splitlines()
        return [*lines, *([f"# exit {ended.exit_code}"] if ended.exit_code else [])]


def typed(text: str) -> Iterator[Typed]:
    """Every command of a page, in order."""
    lines, inside, at = text.splitlines(), False, 0
    while at < len(lines):
        if lines[at].startswith("```"):
            inside = lines[at] == "```console" and not inside
        elif inside and lines[at].startswith(_PROMPT):
            end = at + 1
            while not lines[end].startswith(("```", "$ ")):
                end += 1
            yield Typed(at + 1, lines[at].removeprefix("$ "), tuple(lines[at + 1 : end]))
            at = end - 1
        at += 1


def followed(lines: Sequence[str], *, elide: bool) -> tuple[str, ...]:
    """An output as a page shows it: steps by number, volatile parts as `…`, long rows shortened if `elide`."""
    shown: list[str] = []
    row: list[str] = []
    for line in [*lines, ""]:
        if _STEP.match(line):
            row.append(_masked(line))
            continue
        shown += _row(row, elide=elide)
        row = []
        shown.append(_masked(line))
    return tuple(shown[:-1])


def _row(steps: list[str], *, elide: bool) -> list[str]:
    """Steps that ran side by side end in any order. Only what went well, or was left out, is shortened."""
    ordered = sorted(steps, key=lambda line: int(_STEP.match(line)[1]))  # type: ignore[index]
    if not elide or len(ordered) <= _LONG:
        return ordered
    inner = [line for line in ordered[2:-1] if _STEP.match(line)[2] not in "✓-"]  # type: ignore[index]
    return [*ordered[:2], ELIDED, *inner, ordered[-1]]


def _masked(line: str) -> str:
    line = re.sub(rf"(?<![\w/]){re.escape(getpass.getuser())}(?=\s|$|:)", "you", line)
    for pattern in _VOLATILE:
        line = pattern.sub(_dots, line)
    return _YOUNG.sub("", line.rstrip())


def _dots(found: re.Match[str]) -> str:
    """`…` instead of what was found, as wide as it where columns follow."""
    keep = found.groupdict().get("keep") or ""
    width = len(found[0]) - len(keep) if found.string[found.end() :].startswith("  ") else 1
    return keep + "…".ljust(width)


def plain(lines: Sequence[str]) -> list[str]:
    """Lines without the widths of columns, which follow from what was masked."""
    return [re.sub(r" {2,}", "  ", line.strip()) for line in lines]


def rewritten(text: str, outputs: Sequence[Sequence[str]]) -> str:
    """The page with the output of each of its commands replaced."""
    lines = text.splitlines()
    for command, output in reversed(list(zip(typed(text), outputs, strict=True))):
        lines[command.line : command.line + len(command.output)] = list(output)
    return "\n".join(lines) + "\n"
