"""The terminal: who is asked, what is coloured, what goes where."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from drpilot.cli.progress import Progress
from drpilot.cli.render import Answer, Table, moment, spelled, write
from drpilot.cli.terminal import Terminal, wants_colour
from tests.cli.desk import Typewriter
from tests.services.world import Tiny, drill_plan

TABLE = Table(("NAME", "STATE"), (("shop", "protected"), ("a-rather-long-name-" * 8, None)))


def terminal(*, tty: bool, **more) -> Terminal:
    """A terminal of strings."""
    return Terminal(
        stdout=Typewriter(tty=tty), stderr=Typewriter(tty=tty), stdin=Typewriter("yes\n", tty=tty), **more
    )


@pytest.mark.parametrize(
    ("tty", "environment", "wanted"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (True, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
    ],
)
def test_colours_obey_the_conventions(
    tty: bool, environment: dict[str, str], wanted: bool, monkeypatch
) -> None:
    """NO_COLOR (present and not empty) wins, FORCE_COLOR colours a pipe, a dumb terminal has none."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wants_colour(Typewriter(tty=tty)) is wanted


@pytest.mark.parametrize(
    ("tty", "more", "asked"),
    [(True, {}, True), (False, {}, False), (True, {"json": True}, False), (True, {"no_input": True}, False)],
)
def test_questions_only_where_a_person_sits(tty: bool, more: dict[str, bool], asked: bool) -> None:
    """Without a terminal, with --no-input or with JSON nothing is asked, and nothing is written about it."""
    desk = terminal(tty=tty, **more)
    assert desk.ask("Sure? ") == ("yes" if asked else None)
    assert desk.stderr.getvalue() == ("Sure? " if asked else "")
    assert desk.stdout.getvalue() == ""


def test_an_ended_input_is_no_answer() -> None:
    """Ctrl-D is not taken for the empty text."""
    desk = Terminal(stdout=Typewriter(tty=True), stderr=Typewriter(tty=True), stdin=Typewriter("", tty=True))
    assert desk.ask("Sure? ") is None


def test_tables_are_cut_on_a_screen_only(monkeypatch) -> None:
    """A pipe gets every character, aligned and uncoloured; a screen gets its width."""
    monkeypatch.setenv("COLUMNS", "60")
    pipe, screen = terminal(tty=False), terminal(tty=True)
    answer = Answer({}, (TABLE,), "drpilot status")
    write(answer, pipe)
    write(answer, screen)
    plain = pipe.stdout.getvalue()
    assert "a-rather-long-name-" * 8 in plain
    assert "\x1b" not in plain
    assert plain.splitlines()[1].split() == ["shop", "protected"]
    drawn = screen.stdout.getvalue()
    assert "…" in drawn
    assert "\x1b[" in drawn
    assert plain.endswith("next: drpilot status\n")


def test_one_json_document() -> None:
    """JSON is one document with sorted keys, times in UTC and the next command; nothing else is on stdout."""
    desk = terminal(tty=False, json=True, lab=True)
    at = datetime(2026, 11, 22, 4, 0, tzinfo=UTC) + timedelta(microseconds=1234)
    desk.say("progress")
    write(Answer({"b": at, "a": {"x"}}, ("never shown",), "drpilot status --lab"), desk)
    text = desk.stdout.getvalue()
    assert json.loads(text) == {
        "a": ["x"],
        "b": "2026-11-22T04:00:00.001Z",
        "lab": True,
        "next": "drpilot status --lab",
    }
    assert list(json.loads(text)) == ["a", "b", "lab", "next"]
    assert desk.stderr.getvalue() == ""


def test_names_are_spelled_out_in_json() -> None:
    """Inner names with a unit letter become whole words, at every depth."""
    assert spelled({"loss_s": 1.5, "rows": [{"rto_s": None, "is": 1}]}) == {
        "loss_seconds": 1.5,
        "rows": [{"rto_seconds": None, "is": 1}],
    }


def test_times_for_people() -> None:
    """The clock today, the weekday within a week, else the date; never is a word."""
    now = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    assert moment(now - timedelta(hours=1), now) == "11:00:00"
    assert moment(now - timedelta(days=2), now) == "Fri 12:00"
    assert moment(now - timedelta(days=30), now) == "2026-10-23 12:00"
    assert moment(None, now) == "never"


def test_times_beside_utc(monkeypatch) -> None:
    """In another zone the UTC time stands beside the local one."""
    import time

    monkeypatch.setenv("TZ", "Europe/Rome")
    time.tzset()
    now = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
    assert moment(now, now) == "03:00:00 (02:00Z)"


def test_narrow_encodings_are_written_in_ascii() -> None:
    """A terminal that can't write the signs gets words of ASCII, never an exception."""

    class Narrow(Typewriter):
        encoding = "ascii"

    desk = Terminal(stdout=Narrow(), stderr=Narrow(), stdin=Narrow())
    desk.say("home → away ✓ naïve")
    assert desk.stderr.getvalue() == "home -> away ok na?ve\n"
    assert desk.mark("bad") == "x"


@pytest.mark.parametrize("tty", [False, True])
def test_progress_shows_every_step_once(tty: bool, tiny: Tiny, monkeypatch) -> None:
    """Each step that ends is one line with its sign, on a terminal as in a log; a failed one says why."""
    monkeypatch.setenv("NO_COLOR", "1")
    tiny.replicate()
    tiny.outside.fails = {"tiers/web/launch"}
    run = tiny.begin(drill_plan(tiny.newest()))
    desk = terminal(tty=tty)
    with Progress(desk, tiny.clock) as progress:
        tiny.house.driver(progress.seen).drive(run.id, tiny.house.holder)
    shown = desk.stderr.getvalue()
    for path in ("isolated", "tiers/db/launch", "tiers/db/healthy", "clean/nothing_left"):
        assert shown.count(f"✓ {path}") == 1, path
    assert "✗ tiers/web/launch  failed  tiers/web/launch was told to fail" in shown
    assert desk.stdout.getvalue() == ""


def test_progress_in_colour_knows_every_state(tiny: Tiny) -> None:
    """Whatever state a step is in, the display draws it; a display must never end a run."""
    from dataclasses import replace

    from drpilot.domain.states import FAMILIES

    tiny.replicate()
    view = tiny.journal.view("shop/1")
    desk = terminal(tty=True)
    with Progress(desk, tiny.clock) as progress:
        for state in FAMILIES["step"].words:
            steps = {
                path: replace(step, state=state, progress=0.5, note="a\nb")
                for path, step in view.steps.items()
            }
            for run in FAMILIES["run"].words:
                progress.seen(replace(view, state=run, steps=steps))
    assert "undo_failed" in desk.stderr.getvalue()
