"""The journal on real databases: one writer door, real processes, real full disks.

What every journal promises is tested on SQLite and on PostgreSQL (`bench`), what concerns files on SQLite alone.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text as sql
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, select

from drpilot.base.clock import Chance, ManualClock
from drpilot.base.errors import DrpilotError, Finding
from drpilot.domain.ports import Move
from drpilot.journal import chain
from drpilot.journal.database import Database
from drpilot.journal.holder import present_holder
from drpilot.journal.journal import Journal, NewRun
from drpilot.journal.tables import SCHEMA, GroupRow, RunRow, metadata
from tests.engine.world import GROUP, Bench, plan, step
from tests.journal.forks import at_once


@pytest.fixture
def bench(journal_url: str) -> Iterator[Bench]:
    """A fresh journal with the group `shop` in it."""
    made = Bench(journal_url)
    yield made
    made.journal.database.close()


def point_moves(bench: Bench, name: str, *, state: str = "available", age_s: float = 0) -> None:
    """Make a point by the lifecycle's own way."""
    at = (bench.clock.now() - timedelta(seconds=age_s)).isoformat()
    data = {"source": "home", "site": "away"}
    moves = [
        Move("point", name, "request", data=data),
        Move("point", name, "capture", {"source_readable": True}),
        Move("point", name, "captured", {"within_window": True}, {"captured_at": at}),
        Move(
            "replica",
            f"{name}|snapshot|db/dev/sdf",
            "captured",
            data={"tier": "db", "source_id": "snap-1", "size_gib": 1},
        ),
        Move("replica", f"{name}|snapshot|db/dev/sdf", "complete", data={"id": "snap-2", "site": "away"}),
        Move("point", name, "complete", {"replicas_checked": True}),
    ]
    if state == "proven":
        moves.append(Move("point", name, "prove", {"drill_passed": True}))
    bench.journal.change("shop", moves, "tester")


def test_the_migrated_database_has_the_tables_of_the_code(bench: Bench) -> None:
    """What alembic builds is what SQLModel declares: no drift."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with bench.journal.database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_file_is_written_through_to_the_disk(tmp_path: Path) -> None:
    """An intent survives a power cut, and no reader waits for a writer."""
    database = Database(f"sqlite:///{tmp_path}/journal.db")
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_only_its_owner_reads_a_journal(tmp_path: Path) -> None:
    """It holds what machines are launched with; the log beside it has the same mode."""
    Bench(tmp_path)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("journal.db*")}
    assert set(modes.values()) == {0o600}, modes


def test_opening_a_journal_again_keeps_the_locks_of_this_process(tmp_path: Path) -> None:
    """Without them others would take the journal for unused and clear its log."""
    bench, path = Bench(tmp_path), tmp_path / "journal.db"

    def held() -> int:
        mine, file = f" {os.getpid()} ", f":{path.stat().st_ino} "
        return sum(mine in line and file in line for line in Path("/proc/locks").read_text().splitlines())

    def look(session: Session) -> None:
        session.exec(select(GroupRow)).all()
        before = held()
        assert before > 0
        Database(f"sqlite:///{path}").close()
        assert held() == before

    bench.journal.database.read(look)


def test_a_journal_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    """An older program must not write a newer journal; nothing is changed."""
    path = tmp_path / "journal.db"
    Database(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DrpilotError, match="newer drpilot") as refused:
        Database(f"sqlite:///{path}")
    assert refused.value.exit_code == 6
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)
    assert SCHEMA[-1] != "9999"


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    """Another file under that name is named, not overwritten."""
    path = tmp_path / "journal.db"
    path.write_bytes(b"not a database at all, but long enough to be taken for one" * 40)
    with pytest.raises(DrpilotError, match="can't be opened"):
        Database(f"sqlite:///{path}")
    assert path.read_bytes().startswith(b"not a database")


FULL_DISK = """
import resource, sys
from pathlib import Path
from drpilot.base.errors import DrpilotError
sys.path.insert(0, {root!r})
from tests.engine.world import Bench, plan, step
from drpilot.journal.journal import NewRun
bench = Bench(Path({folder!r}))
big = Path({folder!r}, "journal.db-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (big + 100_000, big + 100_000))
count = 0
try:
    while True:
        bench.journal.lock("shop", "me", "x" * 1000)
        count += 1
except DrpilotError as error:
    print(error.word, error.exit_code, count)
"""


@pytest.mark.row(53)
def test_a_full_disk_is_one_clear_error_and_nothing_is_lost(tmp_path: Path) -> None:
    """The kernel refuses to let the file grow: what was committed stays, the refusal has a name."""
    root = str(Path(__file__).resolve().parents[2])
    script = textwrap.dedent(FULL_DISK.format(root=root, folder=str(tmp_path)))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    word, code, count = done.stdout.split()
    assert (word, code) == ("journal-unwritable", "1"), done.stderr
    assert int(count) > 0
    journal = Journal(Database(f"sqlite:///{tmp_path}/journal.db"), ManualClock(), Chance(1))
    events = journal.events(run="group:shop")
    assert len([event for event in events if event.kind == "locked"]) == int(count)
    chain.verify("group:shop", events)


NO_ROOM = """
import resource, sys
sys.path.insert(0, {root!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
from drpilot.base.clock import Chance, RealClock
from drpilot.base.errors import DrpilotError
from drpilot.journal.database import Database
from drpilot.journal.journal import Journal
journal = Journal(Database("sqlite:///{folder}/journal.db"), RealClock(), Chance())
print(journal.group("shop").locked_by)
try:
    journal.lock("shop", "me", None)
except DrpilotError as error:
    print(error.word)
"""


def test_a_full_disk_hides_nothing(tmp_path: Path) -> None:
    """Not one byte can be written, not even SQLite's own files: what is known is read, what changes it is refused."""
    bench = Bench(tmp_path)
    bench.journal.lock("shop", "oncall", "a full disk")
    bench.journal.database.close()
    root = str(Path(__file__).resolve().parents[2])
    script = textwrap.dedent(NO_ROOM.format(root=root, folder=str(tmp_path)))
    done = subprocess.run(
        [sys.executable, "-B", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["oncall", "journal-unwritable"], done.stderr


@pytest.mark.row(52)
def test_of_eight_operators_one_begins(bench: Bench) -> None:
    """Eight processes begin a run in one lane at once: one does, seven are told who holds it."""
    said = at_once(
        bench.url, 'return journal.create(NewRun(journal.new_id(), plan(step("a")), "me")).name', 8
    )
    assert said == ["'shop/1'"] + ["('lane-busy', 5, 'shop/1', 'me')"] * 7


def test_the_database_itself_refuses_a_second_run_in_a_lane(bench: Bench) -> None:
    """The last word is a unique index over live runs, whatever a program does."""
    run = bench.journal.create(NewRun(bench.journal.new_id(), plan(step("a")), "me"))

    def twin(session: Session) -> None:
        row = session.get_one(RunRow, run.id)
        session.add(RunRow(**{**row.model_dump(), "id": "twin", "number": 2}))
        session.flush()

    with pytest.raises(IntegrityError):
        bench.journal.database.write(twin)
    assert [view.name for view in bench.journal.runs("shop")] == ["shop/1"]


@pytest.mark.row(98)
def test_a_changed_event_is_noticed(bench: Bench) -> None:
    """The chain breaks where somebody wrote into the past."""
    for word in ("one", "two", "three"):
        bench.journal.lock("shop", "me", word)
    assert chain.verify("group:shop", bench.journal.events(run="group:shop"))
    forged = sql("UPDATE event SET body = :body WHERE sequence = 3").bindparams(body='{"reason":"never"}')
    bench.journal.database.write(lambda session: session.connection().execute(forged))
    with pytest.raises(DrpilotError, match="broken at event 3"):
        chain.verify("group:shop", bench.journal.events(run="group:shop"))


@pytest.mark.row(23)
def test_the_write_door_refuses_to_expire_what_must_stay(bench: Bench) -> None:
    """Last available, last proven and pinned are facts of the journal, whatever the action says."""
    point_moves(bench, "old", state="proven", age_s=600)
    point_moves(bench, "mid", age_s=300)
    point_moves(bench, "new")
    expire = lambda name: bench.journal.change("shop", [Move("point", name, "expire")], "tester")  # noqa: E731
    for name, why in (("old", "not last_proven"), ("new", "not last_available")):
        with pytest.raises(DrpilotError, match=why):
            expire(name)
    bench.journal.pin("shop", "mid", "me")
    with pytest.raises(DrpilotError, match="not pinned"):
        expire("mid")
    bench.journal.pin("shop", "mid", None)
    expire("mid")
    assert bench.journal.point("shop", "mid").state == "expiring"


def test_a_run_pins_its_point(bench: Bench) -> None:
    """A live move or drill keeps the point it works from."""
    from dataclasses import replace

    point_moves(bench, "a", age_s=60)
    point_moves(bench, "b")
    drill = replace(plan(step("x"), mode="drill", lane="practice"), point="a")
    bench.journal.create(NewRun(bench.journal.new_id(), drill, "me"))
    with pytest.raises(DrpilotError, match="not pinned"):
        bench.journal.change("shop", [Move("point", "a", "expire")], "tester")
    assert bench.journal.point("shop", "a").pins
    assert not bench.journal.point("shop", "b").pins


def test_points_are_found_by_a_unique_beginning(bench: Bench) -> None:
    """Several or none is an error that names the group's list."""
    point_moves(bench, "abc")
    point_moves(bench, "abd")
    assert bench.journal.point("shop", "abc").replicas[0].id == "snap-2"
    for text in ("ab", "x"):
        with pytest.raises(DrpilotError, match="not known"):
            bench.journal.point("shop", text)


def test_standbys_fences_and_the_group_move_by_their_tables(bench: Bench) -> None:
    """Facts handed back by actions end in rows; a missing guard fact is refused and nothing is half written."""
    moves = [
        Move("standby", "db@away", "build", {"mapping_complete": True}),
        Move("standby", "db@away", "built", {"observed": True}, {"instances": {"shop-db": "i-1"}}),
        Move("fence", "home", "request"),
        Move("fence", "home", "apply"),
        Move("fence", "home", "verified", {"write_blocked_observed": True}, {"verdict": "fenced"}),
    ]
    bench.journal.change("shop", moves, "tester")
    standby = bench.journal.standbys("shop")[0]
    assert (standby.state, standby.facts) == ("ready", {"instances": {"shop-db": "i-1"}})
    assert bench.journal.group("shop").fences["home"]["state"] == "fenced"
    before = len(bench.journal.events())
    with pytest.raises(DrpilotError, match="needed: point_complete"):
        bench.journal.change(
            "shop",
            [
                Move("standby", "db@away", "promote", {"fence_recorded": True}),
                Move("group", "shop", "point available"),
            ],
            "tester",
        )
    assert bench.journal.standbys("shop")[0].state == "ready"
    assert len(bench.journal.events()) == before


def test_a_locked_group_refuses_moves_by_name(bench: Bench) -> None:
    """The stop switch holds for moves and lets copies go on."""
    bench.journal.lock("shop", "lead", "maintenance")
    bench.journal.create(NewRun(bench.journal.new_id(), plan(step("a")), "me"))
    with pytest.raises(DrpilotError, match="locked by lead"):
        bench.journal.create(
            NewRun(bench.journal.new_id(), plan(step("a"), mode="failover", lane="move"), "me")
        )
    bench.journal.lock("shop", "lead", None)
    bench.journal.create(NewRun(bench.journal.new_id(), plan(step("a"), mode="failover", lane="move"), "me"))
    assert [run.name for run in bench.journal.runs("shop", live=True)] == ["shop/2", "shop/1"]


def test_runs_are_found_by_name_group_and_number(bench: Bench) -> None:
    """GROUP is its live, else latest run; unknown names say so."""
    run = bench.journal.create(NewRun(bench.journal.new_id(), plan(step("a")), "me"))
    assert {bench.journal.view(text).id for text in ("shop", "shop/1", run.id)} == {run.id}
    for text, word in (("shop/9", "unknown-run"), ("crm", "unknown-group"), ("shop/x", "unknown-run")):
        with pytest.raises(DrpilotError) as refused:
            bench.journal.view(text)
        assert refused.value.word == word


@pytest.mark.row(77)
def test_a_due_run_is_claimed_once(bench: Bench) -> None:
    """Of any number of services one takes an occurrence."""
    bench.journal.plan_next("shop", "drill", bench.clock.now())
    due = bench.journal.schedules()[0]
    later = bench.clock.now() + timedelta(hours=1)
    assert [bench.journal.claim(due, later, name) for name in ("a", "b", "c")] == [True, False, False]
    assert bench.journal.schedules()[0].next_at == later


def test_services_are_seen_while_they_live(bench: Bench) -> None:
    """A heartbeat that stops is a service that is gone, and one signed off is gone at once."""
    bench.journal.heartbeat("s1", present_holder("me", "serve"))
    assert [service.id for service in bench.journal.services()] == ["s1"]
    bench.clock.sleep(60)
    assert bench.journal.services() == ()
    bench.journal.heartbeat("s1", present_holder("me", "serve"))
    bench.journal.sign_off("s1")
    assert bench.journal.services() == ()


def test_findings_open_and_close(bench: Bench) -> None:
    """What a check no longer finds is closed; what it finds again keeps its first time."""
    one = Finding("rpo-missed", "error", "late")
    bench.journal.found("shop", [one, Finding("orphan", "warning", "vol-1")])
    first = bench.journal.findings("shop")[0].first_at
    bench.clock.sleep(10)
    bench.journal.found("shop", [one])
    (left,) = bench.journal.findings("shop")
    assert (left.word, left.first_at) == ("rpo-missed", first)


def test_sites_remember_the_last_sign_of_life(bench: Bench) -> None:
    """Silence keeps the last sign of life and says since when."""
    bench.journal.saw("home", answers=True, account="1", region="r")
    alive_at = bench.clock.now()
    bench.clock.sleep(30)
    bench.journal.saw("home", answers=False, detail="refused")
    silent_at = bench.clock.now()
    bench.clock.sleep(30)
    bench.journal.saw("home", answers=False, detail="refused")
    site = bench.journal.site("home")
    assert site is not None
    assert (site.last_seen_at, site.silent_since, site.account) == (alive_at, silent_at, "1")
    assert bench.journal.site("mars") is None


def test_conditions_keep_since_when(bench: Bench) -> None:
    """Value, reason, since, and when it was looked at; unknown is not false."""
    bench.journal.set_condition("shop", "RpoMet", True, "fine")
    since = bench.journal.group("shop").conditions["RpoMet"]["since"]
    bench.clock.sleep(5)
    bench.journal.set_condition("shop", "RpoMet", True, "still")
    assert bench.journal.group("shop").conditions["RpoMet"]["since"] == since
    bench.journal.set_condition("shop", "RpoMet", None, "can't tell")
    condition = bench.journal.group("shop").conditions["RpoMet"]
    assert condition["value"] is None
    assert condition["since"] > since


@pytest.mark.row(88)
def test_the_pause_against_flapping_ends_by_time_or_acknowledgement(bench: Bench) -> None:
    """`cooled` is a fact of the journal."""
    from dataclasses import replace

    bench.journal.protect(replace(GROUP, cooldown_s=3600), "", "me")
    facts = {"point_complete": True, "standby_ready": True}
    bench.journal.change("shop", [Move("group", "shop", "point available", facts)], "me")
    run = bench.journal.create(
        NewRun(bench.journal.new_id(), plan(step("a"), mode="failover", lane="move"), "me")
    )
    bench.driver().drive(run.id, present_holder("me"))
    view = bench.journal.group("shop")
    assert view.moved_at is not None
    with pytest.raises(DrpilotError, match="cooled"):
        bench.journal.change(
            "shop", [Move("group", "shop", "fail over", {"epoch_claimed": True, "lane_held": True})], "me"
        )
    bench.journal.acknowledge("shop", "me", "seen")
    bench.journal.change(
        "shop", [Move("group", "shop", "fail over", {"epoch_claimed": True, "lane_held": True})], "me"
    )
    assert bench.journal.group("shop").state == "failing_over"
