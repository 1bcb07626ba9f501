"""One command from beginning to end: its terminal, its house, its answer or its error, and never a traceback.

A bug becomes DRP-9001 with a report file in the state folder; everything secret-looking is taken out of it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drpilot.base.errors import DrpilotError
from drpilot.cli.options import Common, Output
from drpilot.cli.render import Answer, document, error_document, error_lines, write
from drpilot.cli.terminal import Terminal

if TYPE_CHECKING:
    from drpilot.services.house import House

__all__ = ["Session", "bug", "conduct", "perform", "redacted", "refuse"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_COMMAND = re.compile(r"drpilot (?!lab\b|explain\b)[a-z](?:[^;(\"]|\"[^\"]*\")*")
_SECRETS = (
    (re.compile(r"(://[^/\s:@]+:)[^@\s/]+@"), r"\1***@"),
    (
        re.compile(
            r"(?i)((?:secret|password|passwd|token|authorization|signature)[\w-]*[\"']?\s*[=:]\s*[\"']?)[^\s\"',)]+"
        ),
        r"\1***",
    ),
    (re.compile(r"\b(?:AKIA|ASIA|AKI)[A-Z0-9]{12,}\b"), "***"),
    (re.compile(r"(?<![A-Za-z0-9/+=])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])"), "***"),
)


@dataclass(slots=True)
class Session:
    """What a command is handed. `house` is opened when it is first asked for: `explain` never opens a journal."""

    common: Common
    terminal: Terminal
    run: str = ""
    beside: dict[str, Any] = field(default_factory=dict)  # shown in JSON beside an error: the run it is about
    _house: Any = None
    kind: str = "cli"

    @property
    def house(self) -> House:
        """The installation chosen by `--lab`, opened once; wiring decides who the person is."""
        if self._house is None:
            from drpilot import wiring

            self.quiet()
            folder = wiring.home_of(lab=self.common.lab)
            if self.common.lab and not (folder / "drpilot.yaml").exists():
                raise DrpilotError("lab-down", why=f"no lab was ever started in {folder}")

            self._house = wiring.open_house(lab=self.common.lab, person=self.common.person, kind=self.kind)
        found: House = self._house
        return found

    @property
    def opened(self) -> House | None:
        """The installation, if a command has opened it."""
        found: House | None = self._house
        return found

    def quiet(self) -> None:
        """Let the rooms below log warnings only; called before the first of them is used."""
        from drpilot.base import log

        log.configure()

    def say(self, *lines: str) -> None:
        """Write progress to stderr."""
        self.terminal.say(*lines)

    def command(self, text: str) -> str:
        """A drpilot command as the person would type it here, with `--lab` where that was given."""
        return f"drpilot {text}" + (" --lab" if self.common.lab else "")

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[None]:
        """While a run is attended a signal asks the driver to stop; a second one interrupts at once."""
        house = self.house

        def stop(number: int, frame: Any) -> None:
            del frame
            if house.stop.is_set() and number == signal.SIGINT:
                raise KeyboardInterrupt
            house.stop.set()
            self.say("stopping: calls under way are let end and recorded …")

        try:
            before = {number: signal.signal(number, stop) for number in _SIGNALS}
        except ValueError:  # not the main thread: signals belong to somebody else
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def conduct(function: Callable[..., Any], common: Common, values: Mapping[str, Any]) -> int:
    """Carry out one command as Typer calls it; the exit code."""
    terminal = Terminal(json=common.output is Output.JSON, no_input=common.no_input, lab=common.lab)
    return perform(Session(common, terminal), function, values)


def perform(session: Session, function: Callable[..., Any], values: Mapping[str, Any]) -> int:
    """One command within its session: its answer or its error on the terminal, and the exit code."""
    terminal = session.terminal
    try:
        answer = function(session, **values)
        if isinstance(answer, Answer):
            write(answer, terminal)
            return answer.exit_code
        return 0
    except BrokenPipeError:
        return _closed()
    except DrpilotError as error:
        return refuse(_lab_hints(error, session.common), terminal, session.beside)
    except KeyboardInterrupt:
        return refuse(_interrupted(session), terminal, session.beside)
    except Exception as error:  # noqa: BLE001 - the process's edge: a bug is reported, never a traceback
        known = _told(session, error) or bug(error)
        return refuse(_lab_hints(known, session.common), terminal, session.beside)


def _told(session: Session, error: Exception) -> DrpilotError | None:
    """A cloud's own error in the catalogue's words; None for any other."""
    from drpilot.domain.ports import CloudError

    if not isinstance(error, CloudError):
        return None
    from drpilot import wiring

    return session.opened.told(error) if session.opened is not None else wiring.told(error)


def _closed() -> int:
    """Whoever read stdout has gone (`| head`): end quietly."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _interrupted(session: Session) -> DrpilotError:
    if session.run:
        return DrpilotError("interrupted", run=session.run)
    error = DrpilotError("interrupted", run="nothing was begun")
    error.title, error.hint = "interrupted; nothing was begun", ""
    return error


def _lab_hints(error: DrpilotError, common: Common) -> DrpilotError:
    """Commands in a hint name the world the person is in."""
    if common.lab and "--lab" not in error.hint:
        error.hint = _COMMAND.sub(lambda found: _with_lab(found[0]), error.hint)
    return error


def _with_lab(command: str) -> str:
    text = command.rstrip()
    return f"{text} --lab{command[len(text) :]}"


def refuse(error: DrpilotError, terminal: Terminal, beside: Mapping[str, Any] | None = None) -> int:
    """Write an error in the form asked for; its exit code."""
    try:
        if terminal.json:
            terminal.result([document(error_document(error, beside))])
        else:
            lines = error_lines(error)
            lines[0] = terminal.paint(lines[0], "bad")
            terminal.complain(lines)
    except BrokenPipeError:
        _closed()
    return error.exit_code


def redacted(text: str) -> str:
    """`text` without what looks like a secret."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def bug(error: BaseException) -> DrpilotError:
    """DRP-9001 for an exception nobody foresaw, with the path of its report."""
    if isinstance(error, DrpilotError):
        return error
    what = redacted(f"{type(error).__name__}: {error}".splitlines()[0][:300])
    return DrpilotError("bug", what=what, report=str(_report(error)))


def _report(error: BaseException) -> Path | str:
    import platformdirs

    from drpilot.__about__ import __version__
    from drpilot.base.clock import RealClock

    now = RealClock().now()
    given = os.environ.get("DRPILOT_HOME")
    folder = (Path(given).expanduser() if given else platformdirs.user_state_path("drpilot")) / "bugs"
    path = folder / f"bug-{now:%Y%m%dT%H%M%S}-{os.getpid()}.txt"
    head = f"drpilot {__version__}, Python {platform.python_version()}, {platform.platform()}\nat {now.isoformat()}\n"
    command = "command: drpilot " + " ".join(sys.argv[1:]) + "\n\n"
    text = redacted(head + command + "".join(traceback.format_exception(error)))
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(text, encoding="utf-8")
    except OSError as refused:
        return f"not written, {refused}"
    return path
