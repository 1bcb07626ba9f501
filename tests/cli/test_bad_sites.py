"""What commands say when a site can't be used: four causes, each named, none taken for another, and never a bug."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.test_lab_story import Lab, lab

__all__ = ["lab"]

CAUSES = {
    "wrong-key": ("credentials", 7),
    "wrong-account": ("wrong-account", 7),
    "refuse": ("unreachable", 8),
    "hang": ("unreachable", 8),
}


@contextmanager
def spoilt(lab: Lab, cause: str) -> Iterator[None]:
    """Home can't be used for one cause."""
    folder = lab.group_file.parent
    keys, settings = folder / "home.keys", folder / "drpilot.yaml"
    before = {path: path.read_text(encoding="utf-8") for path in (keys, settings)}
    try:
        if cause == "wrong-key":
            keys.write_text(
                before[keys].replace("aws_access_key_id = ", "aws_access_key_id = AKIA0"), encoding="utf-8"
            )
        elif cause == "wrong-account":
            line = next(line for line in before[settings].splitlines() if line.strip().startswith("home:"))
            account = line.split("account:")[1].strip().split('"')[1]
            settings.write_text(before[settings].replace(account, "999999999999"), encoding="utf-8")
        else:
            lab.told("lab", "break", "home", "--fault", cause)
        yield
    finally:
        for path, text in before.items():
            path.write_text(text, encoding="utf-8")
        if cause in ("refuse", "hang"):
            lab.told("lab", "heal", "home")


@pytest.fixture(scope="module")
def protected(lab: Lab) -> Lab:
    """The shop, protected."""
    assert lab.told("protect", str(lab.group_file))["state"] == "protected"
    return lab


@pytest.mark.timeout(300)
@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_is_named_by_every_command_that_needs_the_site(protected: Lab, cause: str) -> None:
    """Credentials and accounts end with 7, silence with 8; the hint leads on; nothing is begun."""
    word, code = CAUSES[cause]
    runs = len(protected.told("run", "list", "--limit", "1000")["runs"])
    file = str(protected.group_file)
    with spoilt(protected, cause):
        for command in (
            ("protect", file),
            ("protect", file, "--dry-run"),
            ("replicate", "shop"),
            ("group", "new", "other", "--from", "home", "--to", "away", "--tag", "app=shop"),
        ):
            error = protected.told(*command, code=code)["error"]
            assert error["word"] == word, (command, error)
            assert error["hint"], command
        if code == 8:
            assert "drpilot failover shop" in protected.told("replicate", "shop", code=8)["error"]["hint"]
    assert len(protected.told("run", "list", "--limit", "1000")["runs"]) == runs


@pytest.mark.timeout(300)
@pytest.mark.parametrize("cause", CAUSES)
def test_a_site_that_refuses_us_is_not_taken_for_a_dead_one(protected: Lab, cause: str) -> None:
    """The proposal, the check and the status tell a lost key from a lost site: it may be alive and writing."""
    alive = cause.startswith("wrong")
    with spoilt(protected, cause):
        shown = protected.told("failover", "shop", "--reason", "a test", "--dry-run")["proposal"]
        assert any("MAY BE ALIVE AND WRITING" in line for line in shown["warnings"]) is alive
        assert shown["fence"] == "unverified"
        moved = protected.told(
            "switchover", "shop", "--reason", "a test", "--dry-run", code=7 if alive else 5
        )
        assert moved["error"]["word"] == ("site-refuses" if alive else "switchover-needs-both")
        found = {row["word"] for row in protected.told("check", "shop", code=3)["checks"]}
        assert (CAUSES[cause][0] if alive else "site-silent") in found
        command = protected.told("status", "shop")["next"]
        assert ("failover" in command) is not alive
        assert ("site check home" in command) is alive
    assert {row["verdict"] for row in protected.told("site", "check", "home")["checks"]} <= {"ok", "unknown"}


def test_a_journal_that_is_no_database_is_a_setting(protected: Lab) -> None:
    """A URL that can't be used ends with 6 and says what was wanted; nothing else is tried."""
    for url in (
        "nonsense",
        "postgresql://nobody@127.0.0.1",
        "mysql://x/y",
        "sqlite:///" + str(Path("/proc/none")),
    ):
        environment = {**protected.environment, "DRPILOT_LAB_DATABASE_URL": url}
        error = Lab(environment, protected.group_file).told("status", code=6)["error"]
        assert error["hint"]
        assert error["word"] == ("journal-unreadable" if "proc" in url else "wrong-value")


def test_a_journal_whose_server_is_not_there_is_unreachable(protected: Lab) -> None:
    """Nothing listens at the address: every command ends with 8 at once, and no password of it is printed."""
    url = "postgresql://drpilot:hunter2@127.0.0.1:1/journal?sslpassword=hunter3"
    environment = {**protected.environment, "DRPILOT_LAB_DATABASE_URL": url}
    for command in (("status",), ("failover", "shop"), ("run", "resume", "shop"), ("serve",)):
        error = Lab(environment, protected.group_file).told(*command, code=8)["error"]
        assert (error["word"], "hunter" in str(error)) == ("journal-unreachable", False), command
        assert "postgresql://drpilot@127.0.0.1:1/journal" in error["message"]
        assert error["hint"]
