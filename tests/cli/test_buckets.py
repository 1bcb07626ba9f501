"""`drpilot bucket sync` as people type it, with `--lab`: its document, its lines, its exit codes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from drpilot.cli.app import app
from tests.transfer.dock import Dock, Docked, docked, running


@dataclass(frozen=True)
class Desk:
    """Buckets on two sites, and the command at a home that knows them."""

    dock: Dock
    environment: dict[str, str]

    def __call__(self, *arguments: str) -> Result:
        """`drpilot bucket sync …`."""
        return CliRunner().invoke(app, ["bucket", "sync", *arguments, "--lab"], env=self.environment)

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Its one JSON document."""
        ended = self(*arguments, "--output", "json")
        assert ended.exit_code == code, ended.stdout + ended.stderr
        return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docked]:
    """The stores."""
    with running(tmp_path_factory.mktemp("docked")) as found:
        yield {name: found[name] for name in ("aws", "new")}


@pytest.fixture
def desk(sites: Docked, tmp_path: Path) -> Iterator[Desk]:
    """A home that names both sites."""
    for world, _, _ in sites.values():
        world.reset()
    home = tmp_path / "home"
    home.mkdir()
    with docked(home, sites) as dock:
        lines = ["drpilot: 1", "sites:"]
        for name, (world, there, dialect) in sites.items():
            access = world.sites()[there]
            lines.append(
                f'  {name}: {{cloud: {dialect}, region: {access.region}, account: "{access.account}", endpoints:'
                f" {{default: {access.endpoint!r}}}, credentials: {{file: {home / name}.ini}}}}"
            )
        (home / "drpilot.yaml").write_text("\n".join(lines) + "\n")
        yield Desk(dock, {"DRPILOT_LAB_HOME": str(home), "TERM": "dumb"})


def test_a_sync_says_what_it_did(desk: Desk) -> None:
    """Counts and bytes in one document; the next sync finds all the same; nothing else on stdout."""
    ours, theirs = desk.dock.bucket("aws", {"a": b"12345", "b": b""}), desk.dock.bucket("new", {"c": b"x"})
    first = desk.json(ours, theirs, "--delete")
    facts = {
        "source_objects": 2,
        "target_objects": 1,
        "copied": 2,
        "copied_bytes": 5,
        "deleted": 1,
        "failed": 0,
    }
    assert facts.items() <= first.items()
    assert first["engines"] == ["fast", "fast"]
    again = desk.json(ours, theirs, "--engine", "sdk", "-n", "4")
    assert (again["same"], again["copied"], again["engines"]) == (2, 0, ["sdk", "sdk"])
    said = desk(ours, theirs)
    assert said.stdout.splitlines()[0].startswith(f"LAB  {ours} → {theirs}: 0 objects copied, 0 B in ")
    assert (
        said.stdout.splitlines()[-1].strip() == f"next: drpilot bucket sync {ours} {theirs} --dry-run --lab"
    )


def test_a_dry_run_changes_nothing(desk: Desk) -> None:
    """It names what would be copied and counts what would be deleted."""
    ours, theirs = desk.dock.bucket("aws", {"a": b"1"}), desk.dock.bucket("new", {"c": b"x"})
    told = desk.json(ours, theirs, "--dry-run", "--delete")
    assert (told["dry_run"], told["copied"], told["would_copy"], told["surplus"]) == (True, 1, ["a"], 1)
    assert desk.dock.contents(theirs) == {"c": b"x"}


def test_objects_that_failed_make_the_exit_code_1(desk: Desk) -> None:
    """The document still says what was done, and names what was not."""
    ours, theirs = desk.dock.bucket("aws", {"a": b"1", "k" * 900: b"2"}), desk.dock.bucket("new")
    told = desk.json(ours, theirs.replace("@", f"/{'p' * 300}@"), code=1)
    assert (told["copied"], told["failed"]) == (1, 1)
    assert (told["failures"][0]["key"], told["failures"][0]["code"]) == ("k" * 900, "KeyTooLongError")


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("aws:bucket", "s3://b@new"), 2, "usage"),
        (("s3://b@aws", "/tmp/x"), 2, "usage"),
        (("s3://b@nowhere", "s3://b@new"), 6, "unknown-site"),
        (("s3://no-such-bucket@aws", "s3://no-such-bucket@new"), 9, "bucket-missing"),
    ],
)
def test_what_can_not_be_synced_is_refused(
    desk: Desk, arguments: tuple[str, str], code: int, word: str
) -> None:
    """One error with its code, and no traceback."""
    told = desk.json(*arguments, code=code)
    assert told["error"]["word"] == word


def test_the_buckets_of_a_sync_are_found_or_made(desk: Desk) -> None:
    """A missing target is an error until --create-bucket; an empty source never deletes."""
    ours = desk.dock.bucket("aws", {"a": b"1"})
    assert desk.json(ours, "s3://to-be-made@new", code=9)["error"]["word"] == "bucket-missing"
    made = desk.json(ours, "s3://to-be-made@new", "--create-bucket")
    assert (made["bucket_created"], made["copied"]) == (True, 1)
    refused = desk.json(ours.replace("@", "/other@"), "s3://to-be-made@new", "--delete", code=5)
    assert refused["error"]["word"] == "source-empty"
    assert desk.dock.contents("s3://to-be-made@new") == {"a": b"1"}


def test_a_dry_run_says_which_bucket_it_would_make(desk: Desk) -> None:
    """With --create-bucket a missing target is no error and stays missing; everything would be copied into it."""
    ours, theirs = desk.dock.bucket("aws", {"a": b"1", "b": b"22"}), "s3://never-made@new"
    told = desk.json(ours, theirs, "--dry-run", "--create-bucket", "--delete")
    assert (told["would_create_bucket"], told["bucket_created"]) == (True, False)
    assert (told["would_copy"], told["copied_bytes"], told["target_objects"]) == (["a", "b"], 3, 0)
    said = desk(ours, theirs, "--dry-run", "--create-bucket")
    assert "would make bucket never-made on new" in said.stdout
    assert desk.json(ours, theirs, "--dry-run", code=9)["error"]["word"] == "bucket-missing"
    for operation in ("CreateBucket", "PutObject"):
        assert desk.dock.calls("new", operation) == 0
    there = desk.dock.bucket("new")
    assert not desk.json(ours, there, "--dry-run", "--create-bucket")["would_create_bucket"]


def test_the_next_command_is_this_one_as_a_shell_takes_it(desk: Desk) -> None:
    """Names with blanks and quotes are quoted, and what was asked for beside them is asked for again."""
    ours, theirs = desk.dock.bucket("aws", {"it's here/a": b"1"}), "s3://to-make/two words@new"
    source = ours.replace("@", "/it's here@")
    options = ("--delete", "--create-bucket", "-n", "4", "--engine", "sdk")
    said = desk(source, theirs, *options, "--dry-run")
    assert said.exit_code == 0, said.stderr
    words = next_command(said)
    assert words == [
        "drpilot",
        "bucket",
        "sync",
        source,
        theirs,
        *options[:2],
        "--parallel",
        *options[3:],
        "--lab",
    ]
    done = CliRunner().invoke(app, words[1:], env=desk.environment)
    assert done.exit_code == 0, done.stderr
    assert desk.dock.contents("s3://to-make@new") == {"two words/a": b"1"}
    again = next_command(done)
    assert again == [word for word in words[:-1] if word != "--create-bucket"] + ["--dry-run", "--lab"]
    failing = desk(desk.dock.bucket("aws", {"k" * 900: b"2"}), f"s3://to-make/{'p' * 300}@new", "-n", "2")
    assert failing.exit_code == 1
    assert next_command(failing)[-3:] == ["--parallel", "2", "--lab"]


def next_command(said: Result) -> list[str]:
    """The words of the command that an answer ends with, as a shell reads them."""
    return shlex.split(said.stdout.splitlines()[-1].partition("next: ")[2])


def test_a_side_that_is_down_ends_the_sync_at_once(desk: Desk) -> None:
    """Exit code 8, with the word that what was copied is kept."""
    ours, theirs = desk.dock.bucket("aws", {"a": b"1"}), desk.dock.bucket("new")
    desk.dock.control("new", "break", fault="refuse")
    told = desk.json(ours, theirs, code=8)
    desk.dock.control("new", "heal")
    assert "the same command goes on" in told["error"]["hint"]
