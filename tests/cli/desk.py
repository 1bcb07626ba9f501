"""A desk for command tests: real services over a real journal on a manual clock, and a terminal made of strings."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drpilot.cli.options import Common, Output
from drpilot.cli.session import Session, perform
from drpilot.cli.terminal import Terminal
from drpilot.services.house import House

GOLDEN = Path(__file__).parent / "golden"
_VOLATILE = (
    (re.compile(r"[\w.-]+@[\w.-]+:\d+"), "PERSON@HOST:PID"),
    (re.compile(r"serve: running on [\w.-]+"), "serve: running on HOST"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "SHA256"),
    (re.compile(r"head [0-9a-f]{16}"), "head HASH"),
    (re.compile(r"/[\w./-]*(?:pytest|tmp)[\w./-]*"), "PATH"),
)


class Typewriter(io.StringIO):
    """A stream a person may sit at."""

    def __init__(self, text: str = "", *, tty: bool = False) -> None:
        super().__init__(text)
        self.tty = tty

    encoding = "utf-8"

    def isatty(self) -> bool:
        return self.tty


@dataclass
class Said:
    """What one command came to."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout; fails where there is more or less than one."""
        return json.loads(self.out)


@dataclass
class Desk:
    """Carries out commands on one house."""

    house: House
    typed: list[str] = field(default_factory=list)
    lab: bool = False

    def __call__(self, function: Callable[..., Any], *, output: str = "table", **values: Any) -> Said:
        tty = bool(self.typed)
        out, err = Typewriter(), Typewriter(tty=tty)
        source = Typewriter("".join(f"{line}\n" for line in self.typed), tty=tty)
        common = Common(lab=self.lab, output=Output(output))
        terminal = Terminal(output == "json", False, self.lab, out, err, source)
        code = perform(Session(common, terminal, _house=self.house), function, values)
        return Said(code, out.getvalue(), err.getvalue())


def masked(text: str) -> str:
    """`text` without what differs from machine to machine."""
    for pattern, instead in _VOLATILE:
        text = pattern.sub(instead, text)
    return text


def golden(name: str, text: str) -> None:
    """Compare with the file kept; DRPILOT_TEST_GOLDEN=write writes it anew."""
    path = GOLDEN / f"{name}.txt"
    shown = masked(text)
    if os.environ.get("DRPILOT_TEST_GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8"), (
        f"{name} differs; look at it, then DRPILOT_TEST_GOLDEN=write"
    )
