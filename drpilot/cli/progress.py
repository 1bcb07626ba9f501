"""Live progress of a run on stderr: one line for each step that ended, and on a terminal what is under way below it.

What is shown comes from run views alone, so it is the same for the process that drives and for one that watches.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from drpilot.base.units import format_duration
from drpilot.cli.documents import ENDED, seconds_between
from drpilot.cli.terminal import Terminal

if TYPE_CHECKING:
    from drpilot.base.clock import Clock
    from drpilot.domain.run import RunView, StepView

__all__ = ["Progress"]

_KINDS = {
    "succeeded": "ok",
    "warned": "warning",
    "ignored": "warning",
    "unknown": "warning",
    "failed": "bad",
    "undo_failed": "bad",
    "skipped": "left out",
    "cancelled": "left out",
    "undone": "ok",
}
_GOING = frozenset({"running", "waiting", "unknown", "undoing"})
_LIVE_ROWS = 12


def _flat(text: str) -> str:
    """One line of a note."""
    return " ".join(text.split())


class Progress:
    """Told each new view of a run (`seen`); a context manager, because a live display must be taken down again."""

    def __init__(self, terminal: Terminal, clock: Clock, *, quiet: bool = False) -> None:
        self.clock = clock
        self._terminal = terminal
        self._quiet = quiet  # only what is under way is drawn; what ended is told by somebody else
        self._title = ""
        self._shown: dict[str, str] = {}
        self._first = True
        self._waits_told = False
        self._live: Any = None

    def __enter__(self) -> Self:
        if self._terminal.live:
            from rich.console import Console
            from rich.live import Live

            from drpilot.cli.terminal import wants_colour

            console = Console(
                file=self._terminal.stderr, no_color=not wants_colour(self._terminal.stderr), highlight=False
            )
            self._live = Live(
                "",
                console=console,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def title(self, text: str) -> None:
        """A line above what is under way."""
        self._title = text
        if self._live is not None:
            self._live.update(text)

    def seen(self, view: RunView) -> None:
        """A new view: print what ended since the last one, redraw what is under way."""
        if self._live is not None:
            self._live.update(self._under_way(view))
        fresh = view.state == "created"
        for number, step in enumerate(view.steps.values(), start=1):
            if self._shown.get(step.path) == step.state:
                continue
            ended_before = self._first and not fresh and step.state in ENDED
            self._shown[step.path] = step.state
            if step.state in _KINDS and step.state != "cancelled" and not ended_before:
                self._line(self._text(number, len(view.steps), step))
        self._first = False
        if view.state == "waiting" and not view.requests:
            self._tell_waiting(view)
        elif view.state != "waiting":
            self._waits_told = False

    def _text(self, number: int, total: int, step: StepView) -> str:
        seconds = seconds_between(step.started_at, step.ended_at)
        took = (
            f"  {format_duration(seconds)}"
            if seconds is not None and step.state in ENDED and step.state != "undone"
            else ""
        )
        failure = (
            step.failure.message
            if step.failure is not None and step.state in ("failed", "ignored", "undo_failed")
            else ""
        )
        word = step.state if step.state != "succeeded" else ""
        note = "  ".join(part for part in (word, _flat(failure or step.note)) if part)
        mark = self._terminal.mark(_KINDS[step.state])
        label = step.planned.title or step.path
        return f"{number:>3}/{total} {mark} {label}{f'  {note}' if note else ''}{took}"

    def _tell_waiting(self, view: RunView) -> None:
        if self._waits_told:
            return
        self._waits_told = True
        needed = view.proposal.approvers if view.proposal is not None else 1
        given = [one for one in view.approvals if not one.declined]
        people = ", ".join(one.person for one in given) or "nobody"
        self._line(
            f"{view.name} waits at a gate: {people} approved, {len({one.person for one in given})} of {needed}"
        )
        lab = " --lab" if self._terminal.lab else ""
        self._line(
            f"  another person, on any machine with this journal:   drpilot run approve {view.group}{lab}"
        )

    def _line(self, text: str) -> None:
        if self._terminal.json or self._quiet:
            return
        line = ("     " if self._terminal.lab else "") + text
        if self._live is not None:
            from rich.text import Text

            self._live.console.print(Text.from_ansi(line), soft_wrap=True)
        else:
            self._terminal.say(line)

    def _under_way(self, view: RunView) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        grid = Table.grid(padding=(0, 1))
        if self._title:
            grid.add_row("", self._title, "", "", "")
        now = self.clock.now()
        going = [step for step in view.steps.values() if step.state in _GOING]
        for step in going[:_LIVE_ROWS]:
            elapsed = seconds_between(step.started_at, now)
            bar: Any = ""
            if step.progress is not None:
                part = step.progress if step.progress <= 1.0 else step.progress / 100.0
                bar = ProgressBar(total=1.0, completed=part, width=24)
            took = format_duration(round(elapsed)) if elapsed is not None and elapsed >= 1 else ""
            grid.add_row("    …", step.planned.title or step.path, bar, _flat(step.note), took)
        if len(going) > _LIVE_ROWS:
            grid.add_row("    …", f"and {len(going) - _LIVE_ROWS} more", "", "", "")
        return grid
