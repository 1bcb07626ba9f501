"""From every journal that was ever written to the present one, on both databases: nothing is lost on the way."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, MetaData, insert, inspect, select, text
from sqlalchemy.exc import IntegrityError

from drpilot.base.clock import Chance, RealClock, micros
from drpilot.base.errors import DrpilotError
from drpilot.journal import chain, postgres, sqlite
from drpilot.journal.body import pack_value
from drpilot.journal.database import Database, migrations_folder
from drpilot.journal.holder import present_holder
from drpilot.journal.journal import Journal, NewRun
from drpilot.journal.tables import SCHEMA
from tests.engine.world import Bench, plan, step
from tests.journal.forks import at_once
from tests.journal.test_journal import point_moves
from tests.postgres import Server


@pytest.fixture(params=["sqlite", "postgresql"])
def nowhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/journal.db"
        return
    server: Server = request.getfixturevalue("server")
    url = server.empty()
    yield url
    server.drop(url)


@contextmanager
def engine_of(url: str) -> Iterator[Engine]:
    """The journal's own engine on `url`, which opens no journal."""
    engine = sqlite.connect(url) if url.startswith("sqlite") else postgres.connect(url)
    try:
        yield engine
    finally:
        engine.dispose()


def migrate(engine: Engine, revision: str, folder: Path | None = None) -> None:
    """Bring a database to a revision by the scripts alone."""
    configuration = Config()
    configuration.set_main_option("script_location", str(folder or migrations_folder()))
    configuration.attributes["engine"] = engine
    command.upgrade(configuration, revision)


def filled(engine: Engine, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Write `rows` as far as the tables of that revision have a place for them, parents first."""
    tables = MetaData()
    tables.reflect(engine)
    with engine.begin() as connection:
        for table in tables.sorted_tables:
            names = {column.name for column in table.columns}
            given = [{key: row[key] for key in row if key in names} for row in rows.get(table.name, [])]
            if given:
                connection.execute(insert(table), given)


def contents(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables."""
    tables = MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        return {
            table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
            for table in tables.sorted_tables
            if table.name != "alembic_version"
        }


@pytest.fixture
def past(tmp_path: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of a journal that has lived: a driven run, points with replicas, a schedule, a service, findings."""
    folder = tmp_path / "past"
    folder.mkdir()
    bench = Bench(folder)
    point_moves(bench, "old", state="proven", age_s=600)
    point_moves(bench, "new")
    run = bench.journal.create(NewRun(bench.journal.new_id(), plan(step("a"), step("b")), "me"))
    bench.driver().drive(run.id, present_holder("me"))
    bench.journal.post(run.id, "pause", "me")
    bench.journal.saw("home", answers=True, account="1")
    bench.journal.plan_next("shop", "drill", bench.clock.now())
    rows = contents(bench.journal.database.engine)
    bench.journal.database.close()
    assert all(
        rows[name] for name in ("group", "point", "replica", "run", "step", "attempt", "request", "event")
    )
    return rows


@pytest.mark.parametrize("revision", SCHEMA)
def test_a_journal_of_each_revision_comes_up_with_all_its_rows(
    nowhere: str, past: dict[str, list[dict[str, Any]]], revision: str
) -> None:
    """Made by the program of its day and filled, opened by this one: every row and every value is there."""
    with engine_of(nowhere) as engine:
        migrate(engine, revision)
        filled(engine, past)
        before = contents(engine)
    journal = Journal(Database(nowhere), RealClock(), Chance(1))
    after = contents(journal.database.engine)
    for name, rows in before.items():
        kept = [{key: row[key] for key in rows[0]} for row in after[name]] if rows else after[name]
        assert kept == rows, name
        assert len(rows) == len(past[name]), name
    run = journal.view("shop/1")
    events = journal.events(run=run.id)
    chain.verify(run.id, events)
    assert {path: found.state for path, found in run.steps.items()} == dict.fromkeys("ab", "succeeded")
    assert journal.point("shop", "old").replicas[0].id == "snap-2"
    if not nowhere.startswith(
        "sqlite"
    ):  # rows that were written with their ids leave the numbers where they were
        with journal.database.engine.begin() as connection:
            connection.execute(text("SELECT setval('event_id_seq', (SELECT max(id) FROM event))"))
    journal.lock("shop", "me", "it can be written")
    journal.database.close()
    if nowhere.startswith("sqlite") and revision != SCHEMA[-1]:
        kept_file = Path(nowhere.removeprefix("sqlite:///") + f".before-{SCHEMA[-1]}")
        assert kept_file.stat().st_mode & 0o777 == 0o600
        with engine_of(f"sqlite:///{kept_file}") as engine:
            assert contents(engine) == before


REBUILD = '''
"""a parent is rebuilt, as a change that ALTER TABLE can't make needs it"""
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "9999", "{last}", None, None

def upgrade():
    with op.batch_alter_table("run", recreate="always" if op.get_bind().dialect.name == "sqlite" else "never") as batch:
        batch.alter_column("reason", existing_type=sa.String(), type_=sa.Text())
{more}
'''


def scripts(folder: Path, more: str = "") -> Path:
    """The migrations, and one more that rebuilds a table others refer to."""
    shutil.copytree(migrations_folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "9999_rebuild.py").write_text(REBUILD.format(last=SCHEMA[-1], more=more))
    return folder


def test_rebuilding_a_parent_loses_no_child(
    nowhere: str, past: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """The run table is made anew under its steps, attempts and orders: all of them stay, and so do its indexes."""
    with engine_of(nowhere) as engine:
        migrate(engine, "head")
        filled(engine, past)
        before = contents(engine)
        names = {index["name"] for index in inspect(engine).get_indexes("run")}
        migrate(engine, "9999", scripts(tmp_path / "scripts"))
        assert contents(engine) == before
        found = inspect(engine)
        assert {index["name"] for index in found.get_indexes("run")} == names
        assert {key["name"] for key in found.get_foreign_keys("step")} == {"fk_step_run_run"}
        with pytest.raises(IntegrityError), engine.begin() as connection:
            connection.execute(text("INSERT INTO approval (run, body) VALUES ('nobody', '{}')"))


def test_a_migration_that_orphans_rows_changes_nothing(
    past: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Rows left without their parents are found before anything is committed, and the journal is as it was."""
    with engine_of(f"sqlite:///{tmp_path}/journal.db") as engine:
        migrate(engine, "head")
        filled(engine, past)
        before = contents(engine)
        folder = scripts(tmp_path / "scripts", '    op.execute("DELETE FROM run")')
        with pytest.raises(RuntimeError, match="without their parents"):
            migrate(engine, "9999", folder)
        assert contents(engine) == before
        with engine.connect() as connection:
            assert (
                connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == SCHEMA[-1]
            )
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


@pytest.mark.parametrize("who", ["a driver", "a service", "nobody any more"])
def test_an_older_journal_is_not_changed_under_a_program_that_works_with_it(
    nowhere: str, past: dict[str, list[dict[str, Any]]], who: str
) -> None:
    """While a lease or a service lives, the upgrade is refused by name and no table changes; afterwards it runs."""
    holder = pack_value(present_holder("lead"))
    now = micros(RealClock().now())
    with engine_of(nowhere) as engine:
        migrate(engine, SCHEMA[-2])
        run = {**past["run"][0], "live": 1, "holder": holder, "lease_until": now + 15_000_000}
        service = {"id": "s", "holder": holder, "started_at": now, "heartbeat_at": now}
        if who != "a driver":
            run |= {"live": None, "holder": None}
        if who == "nobody any more":
            run |= {"live": 1, "holder": holder, "lease_until": now - 1_000_000}
        services = [service] if who == "a service" else []
        filled(engine, {**past, "run": [run], "service": services})
        before = contents(engine)
    if who == "nobody any more":
        Database(nowhere).close()
        return
    with pytest.raises(DrpilotError, match="lead@") as caught:
        Database(nowhere)
    assert (caught.value.word, caught.value.exit_code) == ("journal-in-use", 5)
    with engine_of(nowhere) as engine:
        assert contents(engine) == before


def test_eight_programs_that_open_a_new_journal_make_it_once(nowhere: str) -> None:
    """All of them find the same tables; none is told that they exist already."""
    work = 'return len(journal.events()), journal.new_id() != ""'
    assert at_once(nowhere, work, 8) == ["(0, True)"] * 8


def test_an_old_journal_that_cant_be_kept_first_is_not_changed(
    past: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """No room for the copy: the refusal says so, and the tables are as they were."""
    url = f"sqlite:///{tmp_path}/journal.db"
    with engine_of(url) as engine:
        migrate(engine, SCHEMA[-2])
        filled(engine, past)
        before = contents(engine)
    (tmp_path / f"journal.db.before-{SCHEMA[-1]}.{os.getpid()}").mkdir()
    with pytest.raises(DrpilotError) as caught:
        Database(url)
    assert caught.value.word == "journal-unwritable"
    with engine_of(url) as engine:
        assert contents(engine) == before
