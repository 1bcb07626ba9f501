"""What holds for every test: a clean environment, marks that mean something, reproducible chance."""

from __future__ import annotations

import csv
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.postgres import Fresh, Server, existing, fresh

ROOT = Path(__file__).resolve().parents[1]

# A test never sees the developer's sites, keys or journals: what it needs it sets itself.
for _name in [name for name in os.environ if name.startswith(("AWS_", "EC2_", "S3_", "DRPILOT_"))]:
    if not _name.startswith("DRPILOT_TEST_"):
        del os.environ[_name]
# Coverage is of what tests call in their own process; labs and killed programs run at their full speed.
if "PYTEST_XDIST_WORKER" in os.environ:
    for _name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        del os.environ[_name]
_HOME = tempfile.TemporaryDirectory(prefix="drpilot-test-home-", ignore_cleanup_errors=True)
for _name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
    os.environ[_name] = str(Path(_HOME.name) / _name.lower())
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ["AWS_CONFIG_FILE"] = str(Path(_HOME.name) / "aws-config")
os.environ["AWS_SHARED_CREDENTIALS_FILE"] = str(Path(_HOME.name) / "aws-credentials")

# Deadlines measure the machine, not the code. In continuous integration the examples are the same each time.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server, one a worker; never skipped, since a wheel has one where nothing else does."""
    given = existing()
    if given is not None:
        yield given
        given.close()
        return
    with fresh() as made:
        yield made


@pytest.fixture
def own_server(server: Server) -> Iterator[Fresh]:
    """A server that the test may stop; it runs again afterwards."""
    if isinstance(server, Fresh):
        yield server
        server.run()
        return
    with fresh() as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def new_journal(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """The URL of a new journal at each call: a file of SQLite, then the same test over a database on a server."""
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("server")
        return server.journal
    numbers = itertools.count()

    def file() -> str:
        folder = tmp_path / f"journal-{next(numbers)}"
        folder.mkdir()
        return f"sqlite:///{folder}/journal.db"

    return file


@pytest.fixture
def journal_url(new_journal: Callable[[], str]) -> str:
    """A new journal, in a file and on a server."""
    return new_journal()


def _rows() -> set[int]:
    with (ROOT / "docs" / "matrix.csv").open(encoding="utf-8", newline="") as file:
        return {int(row["row"]) for row in csv.DictReader(file)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a mark that names no row; everything under tests/crash is a crash test."""
    known = _rows()
    for item in items:
        for mark in item.iter_markers("row"):
            unknown = [number for number in mark.args if number not in known]
            if unknown or not mark.args:
                raise pytest.UsageError(
                    f"{item.nodeid}: docs/matrix.csv has no row {unknown or '(none given)'}"
                )
        if (ROOT / "tests" / "crash") in item.path.parents:
            item.add_marker("crash")
    # The long ones first: whoever is free at the end then finds short ones to take over.
    items.sort(key=lambda item: (ROOT / "tests" / "crash") not in item.path.parents)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have to say (`record_property("said", text)`), also when they ran in other processes."""
    said = [
        str(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in getattr(report, "user_properties", ())
        if name == "said"
    ]
    if said:
        terminalreporter.section("said")
        for line in sorted(said):
            terminalreporter.write_line(line)
