"""The command tree: what help shows, what start-up imports, how usage errors look."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from drpilot.cli.app import MOMENTS, app

HEAVY = ("boto3", "botocore", "sqlmodel", "sqlalchemy", "pydantic", "rich", "transitions", "jinja2")
COMMON = {"--lab", "--output", "--no-input", "--as"}
MOVE = {
    *("--reason", "--confirm", "--accept-data-loss", "--point", "--since"),
    *("--to", "--break-glass", "--dry-run", "--detach"),
}


def leaves(command=None, path=()):
    """Every command that does something, by its path."""
    command = command or typer.main.get_command(app)
    for name, child in command.commands.items():
        if hasattr(child, "commands"):
            yield from leaves(child, (*path, name))
        else:
            yield (*path, name), child


LEAVES = dict(leaves())


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["--help"], []),
        (["--version"], []),
        ([], []),
        (["failover", "--help"], ["pydantic"]),  # Typer itself coerces a command's parameters with it
        (["explain", "fence"], ["pydantic"]),
    ],
)
def test_start_up_imports_nothing_heavy(arguments: list[str], allowed: list[str]) -> None:
    """Help, the version and explain import no cloud, no database, no models and no drawing."""
    script = (
        "import sys\nfrom drpilot.cli.app import main\n"
        f"sys.argv = ['drpilot', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    code = ended.code\n"
        f"found = sorted({{name.split('.')[0] for name in sys.modules}} & set({HEAVY!r}) - set({allowed!r}))\n"
        "print('loaded', found, 'code', code, file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stderr.strip().splitlines()[-1] == "loaded [] code 0", ended.stderr
    assert ended.stdout.strip()


def test_what_is_for_trouble_is_loaded_in_trouble(tmp_path: Path) -> None:
    """A command that moves bytes loads the cloud, but neither structured logs nor retries before they are needed."""
    script = (
        "import sys\nimport drpilot.clouds.site, drpilot.transfer.bucketsync\nfrom drpilot.cli.app import main\n"
        "sys.argv = ['drpilot', 'bucket', 'sync', 's3://a@b', 's3://c@d']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "found = sorted(set(sys.modules) & {'structlog', 'tenacity', 'botocore', 'rich'})\n"
        "print('loaded', found, file=sys.stderr)\n"
    )
    environment = {**os.environ, "DRPILOT_HOME": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert ended.stderr.strip().splitlines()[-1] == "loaded ['botocore']", ended.stderr


def test_help_is_grouped_by_moment() -> None:
    """The root's help lists every command under its moment, in the order a person meets them."""
    shown = CliRunner().invoke(app, ["--help"]).stdout
    places = [shown.index(f"\n{moment}:") for moment in MOMENTS]
    assert places == sorted(places)
    for name in typer.main.get_command(app).commands:
        assert f"\n  {name} " in shown, name
    assert CliRunner().invoke(app, []).stdout == shown


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    """Each command has a help text in one style, and each option and argument a help of its own."""
    command = LEAVES[path]
    assert command.help
    assert command.help[0].isupper()
    assert not command.help.endswith(".")
    assert {name for option in command.params for name in option.opts} >= COMMON
    for parameter in command.params:
        assert parameter.help, (path, parameter.name)
        assert not parameter.help.endswith("."), (path, parameter.name)
    assert "--yes" not in {name for option in command.params for name in option.opts}


@pytest.mark.parametrize("name", ["failover", "switchover", "failback"])
def test_moves_take_the_same_options(name: str) -> None:
    """All three moves take every option of a move."""
    assert {option for parameter in LEAVES[(name,)].params for option in parameter.opts} >= MOVE


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_unknown_options_are_usage_errors(path: tuple[str, ...]) -> None:
    """An option nobody knows ends with 2 in the form of every error, as JSON where that was asked for."""
    runner = CliRunner()
    plain = runner.invoke(app, [*path, "--no-such-option"])
    assert (plain.exit_code, plain.stdout) == (2, "")
    assert plain.stderr.startswith("error[DRP-1001]: ")
    assert f"  hint:  drpilot {' '.join(path)} --help" in plain.stderr
    told = runner.invoke(app, [*path, "--output", "json", "--no-such-option"])
    assert told.exit_code == 2
    assert json.loads(told.stdout)["error"]["code"] == "DRP-1001"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["point"], "drpilot point needs a command: list, show, pin, unpin, quarantine"),
        (["nonsense"], "nonsense"),
        (["status", "--output", "xml"], "'xml' is not one of 'table', 'json'"),
        (["run", "settle", "shop", "--step", "a", "--happened", "maybe", "--reason", "x"], "maybe"),
        (["failover"], "GROUP"),
        (["group", "lock", "shop"], "--reason"),
    ],
)
def test_usage_errors_say_what_is_wrong(arguments: list[str], says: str) -> None:
    """A wrong command line ends with 2 and names what is wrong with it."""
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 2
    assert ended.stdout == ""
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Value error" not in ended.stderr


def test_the_version() -> None:
    """The version names what matters for a bug report, on stdout."""
    shown = CliRunner().invoke(app, ["--version"]).stdout
    assert shown.startswith("drpilot ")
    assert "Python" in shown
    assert "boto3" in shown
    assert shown.endswith("\n")
