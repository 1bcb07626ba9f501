"""Errors: one form for people, one document for programs, the exit code of the catalogue, and never a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drpilot.base.errors import CATALOGUE, EXIT_CODES, DrpilotError
from drpilot.cli import look, terms
from drpilot.cli.app import app
from drpilot.cli.options import Common
from drpilot.cli.session import Session, perform, redacted
from drpilot.cli.terminal import Terminal
from drpilot.domain.states import FAMILIES
from tests.cli.desk import Desk, Typewriter

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY12"


@pytest.mark.parametrize("row", CATALOGUE.values(), ids=lambda row: row.code)
def test_every_error_can_be_explained(row) -> None:
    """`explain` knows each error by its code and by its word, and says cause, hint and exit code."""
    for word in (row.code, row.code.lower(), row.word):
        meanings = terms.explained(word)
        assert row.code in {meaning.get("code") for meaning in meanings}, word
    shown = "\n".join(terms.lines(terms.explained(row.code)[0]))
    assert row.cause in shown
    assert row.hint in shown
    assert f"exit code {row.exit_code}" in shown


def test_every_state_exit_code_and_word_can_be_explained() -> None:
    """Nothing that is listed is unknown to `explain`, and nothing known is missing from the list."""
    listed = {row["word"] for row in terms.listing()}
    assert all(terms.explained(word) for word in listed)
    assert {state.word for family in FAMILIES.values() for state in family.states} <= listed
    assert {str(code) for code in EXIT_CODES} <= listed
    assert {row.code for row in CATALOGUE.values()} <= listed


def test_a_near_miss_is_helped() -> None:
    """A misspelt word ends with 9 and names what was meant."""
    ended = CliRunner().invoke(app, ["explain", "switchovr"])
    assert ended.exit_code == 9
    assert "error[DRP-6505]: 'switchovr' is no error, state or word of drpilot" in ended.stderr
    assert "did you mean switchover" in ended.stderr


def test_the_form_of_an_error(desk: Desk) -> None:
    """People read code, message, why and hint on stderr; programs one document on stdout with the same facts."""
    said = desk(look.run_show, run="shop/99")
    assert (said.code, said.out) == (9, "")
    assert said.err.splitlines() == [
        "error[DRP-6502]: run 'shop/99' is not known",
        "  hint:  drpilot run list",
    ]
    told = desk(look.run_show, run="shop/99", output="json")
    assert (told.code, told.err) == (9, "")
    error = told.document["error"]
    assert (error["code"], error["word"], error["exit_code"]) == ("DRP-6502", "unknown-run", 9)
    assert error["hint"] == "drpilot run list"


def test_hints_in_the_lab_carry_lab(desk: Desk) -> None:
    """A command in a hint is ready to copy: in the lab it says --lab, and quoted parts stay whole."""
    desk.lab = True
    assert "hint:  drpilot run list --lab" in desk(look.run_show, run="shop/99").err

    def cooling(session: Session) -> None:
        raise DrpilotError("cooldown", group="shop", age="1m", left="59m")

    assert 'drpilot group acknowledge shop --reason "…" --lab' in desk(cooling).err

    def busy(session: Session) -> None:
        raise DrpilotError("lane-busy", run="shop/1", lane="move", group="shop", since="now", by="oncall")

    hint = "drpilot run show shop/1 --lab; to go on with it: drpilot run resume shop/1 --lab"
    assert hint in desk(busy).err


@pytest.mark.parametrize("output", ["table", "json"])
def test_a_bug_is_reported_never_traced(output: str, tmp_path: Path, monkeypatch, desk: Desk) -> None:
    """An unforeseen exception ends with 70; the report file holds the traceback, without what looks secret."""
    monkeypatch.setenv("DRPILOT_HOME", str(tmp_path))

    def broken(session: Session) -> None:
        raise RuntimeError(
            f"postgresql://me:hunter2@db/x with secret_access_key={SECRET} and AKIAIOSFODNN7EXAMPLE"
        )

    said = desk(broken, output=output)
    assert said.code == 70
    both = said.out + said.err
    assert "DRP-9001" in both
    assert "Traceback" not in both
    (report,) = (tmp_path / "bugs").iterdir()
    text = report.read_text()
    assert "Traceback" in text
    assert "RuntimeError" in text
    assert (
        str(report) in json.loads(said.out)["error"]["hint"] if output == "json" else str(report) in said.err
    )
    for secret in ("hunter2", SECRET, "AKIAIOSFODNN7EXAMPLE"):
        assert secret not in text + both


def test_redaction_keeps_what_is_no_secret() -> None:
    """Digests, ids and paths stay readable in a bug report."""
    kept = (
        "File /usr/lib/python3.11/x.py line 3, run 01m80kq2k83rqx0mrd1w, snap-0123456789abcdef0, " + "a" * 64
    )
    assert redacted(kept) == kept
    assert redacted('{"aws_session_token": "abc"}') == '{"aws_session_token": "***"}'


def test_an_interrupt_names_the_run(desk: Desk) -> None:
    """Ctrl-C ends with 130 and says that the run stays as it is."""

    def interrupted(session: Session) -> None:
        session.run = "shop/7"
        raise KeyboardInterrupt

    said = desk(interrupted)
    assert said.code == 130
    assert "interrupted; shop/7 stays as it is" in said.err
    assert "drpilot run resume shop/7" in said.err

    def before(session: Session) -> None:
        raise KeyboardInterrupt

    assert "nothing was begun" in desk(before).err


def test_a_closed_pipe_is_no_error(desk: Desk, tmp_path: Path) -> None:
    """Whoever stops reading (`| head`) gets no complaint."""

    class Closed(Typewriter):
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def fileno(self) -> int:
            return self.file.fileno()

    with (tmp_path / "out").open("w") as file:
        stream = Closed()
        stream.file = file  # type: ignore[attr-defined]  # the descriptor that is pointed at /dev/null
        import sys

        before, sys.stdout = sys.stdout, stream
        try:
            terminal = Terminal(stdout=stream, stderr=Typewriter(), stdin=Typewriter())
            assert perform(Session(Common(), terminal, _house=desk.house), look.status, {}) == 0
        finally:
            sys.stdout = before


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["status"], 6, "no-configuration"),
        (["status", "--lab"], 8, "lab-down"),
        (["lab", "status"], 8, "lab-down"),
        (["lab", "break", "home"], 8, "lab-down"),
        (["protect", "nowhere.yaml"], 9, "unknown-file"),
        (["report", "verify", "nowhere.json"], 9, "unknown-file"),
        (["failover", "shop", "--since", "yesterday"], 6, "no-configuration"),
        (["site", "add", "x", "--region", "eu-west-1"], 2, "usage"),
        (["site", "add", "x", "--region", "r", "--credentials", "secret"], 2, "usage"),
        (["site", "add", "x", "--region", "r", "--profile", "p", "--endpoint", "ec2"], 2, "usage"),
    ],
)
def test_a_machine_without_anything(
    arguments: list[str], code: int, word: str, tmp_path: Path, monkeypatch
) -> None:
    """On a machine where nothing was set up each command ends with its own error, and none writes anything."""
    monkeypatch.setenv("DRPILOT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DRPILOT_LAB_HOME", str(tmp_path / "lab"))
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, [*arguments, "--output", "json"])
    error = json.loads(ended.stdout)["error"]
    assert (ended.exit_code, error["word"]) == (code, word)
    assert ended.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_a_broken_configuration_names_the_line(tmp_path: Path, monkeypatch) -> None:
    """A wrong drpilot.yaml ends with 6 and file:line:column, whatever was asked."""
    monkeypatch.setenv("DRPILOT_HOME", str(tmp_path))
    (tmp_path / "drpilot.yaml").write_text("drpilot: 1\nsitez: {}\n")
    ended = CliRunner().invoke(app, ["status"])
    assert ended.exit_code == 6
    assert "drpilot.yaml:2:1" in ended.stderr
    assert "sitez" in ended.stderr


def test_a_newer_journal_is_left_alone(tmp_path: Path, monkeypatch) -> None:
    """A journal of a newer drpilot ends with 6, and not a byte of it changes."""
    import sqlite3

    monkeypatch.setenv("DRPILOT_HOME", str(tmp_path))
    (tmp_path / "drpilot.yaml").write_text("drpilot: 1\n")
    assert CliRunner().invoke(app, ["status"]).exit_code == 0
    connection = sqlite3.connect(tmp_path / "journal.db")
    connection.execute("update alembic_version set version_num = '9999'")
    connection.commit()
    connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    before = (tmp_path / "journal.db").read_bytes()
    ended = CliRunner().invoke(app, ["status"])
    assert ended.exit_code == 6
    assert "DRP-6002" in ended.stderr
    assert (tmp_path / "journal.db").read_bytes() == before
