"""The journal that several hosts share: who may take over, what a lost connection repeats, who waits for how long."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from drpilot.base.clock import Chance, ManualClock, RealClock
from drpilot.base.errors import DrpilotError
from drpilot.base.retry import Patience
from drpilot.domain.run import Holder, Intent, Outcome, RunMove, StepMove
from drpilot.journal import chain
from drpilot.journal.database import Database
from drpilot.journal.holder import is_gone, present_holder
from drpilot.journal.journal import Journal, NewRun, Superseded
from tests.engine.world import GROUP, Bench, plan, step
from tests.journal.forks import at_once
from tests.postgres import Fresh, Server, line_to

ROOT = Path(__file__).resolve().parents[2]
HERE = Holder("me", "host-a", "boot-a", 1, "1")
THERE = Holder("other", "host-b", "boot-b", 1, "1")
SHORT = Patience(attempts=50, first_s=0.05, factor=2.0, max_s=0.2, budget_s=1.0)


@pytest.fixture
def bench(journal_url: str) -> Iterator[Bench]:
    """A fresh journal with the group `shop` in it, on either database."""
    made = Bench(journal_url)
    yield made
    made.journal.database.close()


@pytest.fixture
def shared(server: Server) -> Iterator[Bench]:
    """A fresh journal on a server."""
    made = Bench(server.journal())
    yield made
    made.journal.database.close()


def begun(bench: Bench, *names: str) -> str:
    """A run of the group, its id."""
    run = bench.journal.create(NewRun(bench.journal.new_id(), plan(*[step(name) for name in names]), "me"))
    return run.id


# -- who may drive ------------------------------------------------------------------------------------------------


def test_another_host_takes_over_when_the_lease_has_run_out_and_not_before(bench: Bench) -> None:
    """A lease of 15 s is kept alive by renewing it, and is free for others when that stops."""
    run = begun(bench, "a")
    lease = bench.journal.acquire(run, HERE)
    assert lease is not None
    for _ in range(4):
        bench.clock.sleep(10)
        bench.journal.renew(lease)
    bench.clock.sleep(14)
    assert bench.journal.acquire(run, THERE) is None
    bench.clock.sleep(2)
    taken = bench.journal.acquire(run, THERE)
    assert taken is not None
    assert (taken.term, lease.term) == (2, 1)
    with pytest.raises(Superseded, match="host-b"):
        bench.journal.renew(lease)


def test_a_lease_is_measured_by_the_servers_clock_alone(shared: Bench) -> None:
    """A host whose clock is a day ahead takes nothing over, and shows the lease as its own clock would see it."""
    run = begun(shared, "a")
    assert shared.journal.acquire(run, HERE) is not None
    ahead = ManualClock(shared.clock.now() + timedelta(days=1))
    other = Journal(shared.journal.database, ahead, Chance(2))
    assert other.acquire(run, THERE) is None
    until = other.view(run).lease_until
    assert until is not None
    assert timedelta(0) < until - ahead.now() <= timedelta(seconds=15)


def test_a_process_that_is_gone_is_gone_on_its_own_host_only() -> None:
    """Another host, another boot or another container may have the same name: what can't be seen is not gone."""
    me = present_holder("me")
    past = Holder("me", me.host, me.boot, me.pid, "1")
    assert (is_gone(me), is_gone(past)) == (False, True)
    for other in (
        Holder("me", "host-b", me.boot, me.pid, "1"),
        Holder("me", me.host, "another boot pid:[1]", me.pid, "1"),
        Holder("me", me.host, me.boot.partition(" ")[0] + " pid:[1]", me.pid, "1"),
    ):
        assert not is_gone(other), other


def test_of_processes_that_want_one_run_one_gets_it(bench: Bench) -> None:
    """Four hosts acquire one run at once: one term is given, and the journal names who has it."""
    run = begun(bench, "a")
    work = f"""
lease = journal.acquire({run!r}, Holder("me", f"host-{{number}}", "boot", 1, "1"))
return lease and lease.term
"""
    assert at_once(bench.url, work, 4) == ["1", "None", "None", "None"]
    assert [event.kind for event in bench.journal.events(run=run)].count("acquired") == 1


def test_a_fenced_writer_is_refused_and_what_it_saw_is_kept(bench: Bench) -> None:
    """Behind a take-over nothing of the former driver is applied; its outcome is in the chain, with its term."""
    run = begun(bench, "a")
    mine = bench.journal.acquire(run, HERE)
    assert mine is not None
    bench.journal.commit(mine, [RunMove("checks ok"), StepMove("a", "needs met")])
    bench.journal.commit(mine, [Intent("a", 1, 0, "do", "t" * 32, "thing.put", {"name": "a"})])
    bench.clock.sleep(60)
    theirs = bench.journal.acquire(run, THERE)
    assert theirs is not None
    before = bench.journal.view(run)
    with pytest.raises(Superseded, match="host-b"):
        bench.journal.commit(mine, [Outcome("a", 1, "as wanted", output={"id": "thing-1"})])
    with pytest.raises(Superseded):
        bench.journal.checkpoint(mine, "a", 1, {"parts": 1})
    after = bench.journal.view(run)
    assert (after.steps["a"].state, after.steps["a"].output) == ("running", None)
    assert after.lease_until is not None
    assert before.lease_until is not None
    assert abs(after.lease_until - before.lease_until) < timedelta(seconds=1)  # not renewed by the other
    events = bench.journal.events(run=run)
    chain.verify(run, events)
    (late,) = [event.body for event in events if event.kind == "late outcome"]
    assert (late["step"], late["number"], late["term"]) == ("a", 1, 1)
    assert (late["event"], late["output"]) == ("as wanted", {"id": "thing-1"})


def test_a_former_lease_of_the_same_process_is_former(bench: Bench) -> None:
    """Whoever acquires again writes under the new term only: the term fences, not the name."""
    run = begun(bench, "a")
    first, second = bench.journal.acquire(run, HERE), bench.journal.acquire(run, HERE)
    assert first is not None
    assert second is not None
    with pytest.raises(Superseded):
        bench.journal.commit(first, [RunMove("checks ok")])
    bench.journal.commit(second, [RunMove("checks ok")])
    assert bench.journal.view(run).state == "running"


# -- one order ----------------------------------------------------------------------------------------------------


def test_writers_follow_one_another(bench: Bench) -> None:
    """Four processes at once, in one chain and in chains of their own, over one row that each reads before it writes.

    Every chain verifies, no writer's word is lost, and who reads what came after the last event misses none.
    """
    for number in range(4):
        bench.journal.protect(replace(GROUP, name=f"g{number}"), "", "tester")
    work = """
for each in range(25):
    journal.lock("shop", f"writer-{number}", str(each))
    journal.set_condition("shop", f"{number}.{each}", True, "a test")
    journal.lock(f"g{number}", "me", str(each))
return number
"""
    seen: list[int] = []
    stop = threading.Event()

    def follow() -> None:
        last = False
        while not last:
            last = stop.is_set()
            seen.extend(event.id for event in bench.journal.events(after=seen[-1] if seen else 0))

    reader = threading.Thread(target=follow)
    reader.start()
    said = at_once(bench.url, work, 4)
    stop.set()
    reader.join(timeout=60)
    assert said == ["0", "1", "2", "3"]
    for name, count in (("shop", 100), *[(f"g{number}", 25) for number in range(4)]):
        events = bench.journal.events(run=f"group:{name}")
        chain.verify(f"group:{name}", events)
        assert [event.kind for event in events].count("locked") == count
    assert len(bench.journal.group("shop").conditions) == 100
    assert seen == [event.id for event in bench.journal.events()]
    assert len(seen) == 200 + 5


def test_a_reading_sees_one_state(shared: Bench) -> None:
    """What another commits between two statements of one reading stays out of it; a reading writes nothing."""
    from sqlalchemy import text

    def look(session: Any) -> tuple[Any, Any]:
        query = text('SELECT locked_by FROM "group"')
        first = session.connection().execute(query).scalar()
        shared.journal.lock("shop", "meanwhile", "a test")
        return first, session.connection().execute(query).scalar()

    assert shared.journal.database.read(look) == (None, None)
    assert shared.journal.group("shop").locked_by == "meanwhile"
    with pytest.raises(DrpilotError, match="can't be written"):
        shared.journal.database.read(lambda session: session.connection().execute(text("DELETE FROM event")))


def test_text_with_a_zero_byte_is_kept_as_far_as_it_can_be(bench: Bench) -> None:
    """A program's output may hold one; PostgreSQL's text can't, and must not lose the rest for it."""
    bench.journal.saw("home", answers=False, detail="cut\0off")
    site = bench.journal.site("home")
    assert site is not None
    assert site.detail.replace("\ufffd", "\0") == "cut\0off"


# -- a connection that is lost ------------------------------------------------------------------------------------


WRITES: dict[str, Callable[[Bench, str], Any]] = {
    "lock": lambda bench, run: bench.journal.lock("shop", "me", "a test"),
    "post": lambda bench, run: bench.journal.post(run, "pause", "me"),
    "create": lambda bench, run: bench.journal.create(
        NewRun(bench.journal.new_id(), plan(step("b"), mode="drill", lane="practice"), "me")
    ),
    "acquire": lambda bench, run: bench.journal.acquire(run, HERE),
    "claim": lambda bench, run: bench.journal.claim(bench.journal.schedules()[0], bench.clock.now(), "me"),
}


def counted(bench: Bench, run: str) -> dict[str, int]:
    """What a write that was carried out twice, or not at all, would show in."""
    view = bench.journal.view(run)
    return {
        "events": len(bench.journal.events()),
        "requests": len(view.requests),
        "runs": len(bench.journal.runs("shop")),
        "term": view.term,
        "claims": sum(each.last_at is not None for each in bench.journal.schedules()),
    }


@pytest.mark.parametrize("cut", ["request", "reply"])
@pytest.mark.parametrize("name", list(WRITES))
def test_a_connection_lost_in_commit_repeats_nothing_and_loses_nothing(
    server: Server, name: str, cut: str
) -> None:
    """Whether the COMMIT was carried out or not: the write is done once, and its caller gets its answer."""
    plain = Bench(server.journal())
    run = begun(plain, "a")
    plain.journal.plan_next("shop", "drill", plain.clock.now())
    with line_to(plain.url) as (line, url):
        bench = Bench(url, plain.clock)
        bench.journal.chance = Chance(2)
        before = counted(plain, run)
        line.cut = cut
        answer = WRITES[name](bench, run)
        assert line.cuts == 1
        after = counted(plain, run)
        bench.journal.database.close()
    changed = {key: after[key] - before[key] for key in after if after[key] != before[key]}
    wanted = {
        "lock": {"events": 1},
        "post": {"requests": 1},
        "create": {"events": 1, "runs": 1},
        "acquire": {"events": 1, "term": 1},
        "claim": {"claims": 1},
    }[name]
    assert changed == wanted
    if name == "acquire":
        assert answer.term == after["term"]
        plain.journal.renew(answer)
    if name == "create":
        assert plain.journal.view(answer.id).name == "shop/2"
    if name == "claim":
        assert answer is True
    for key in ("group:shop", run):
        chain.verify(key, plain.journal.events(run=key))
    plain.journal.database.close()


@pytest.mark.parametrize("cut", ["request", "reply"])
def test_a_run_goes_on_over_lost_connections(server: Server, cut: str) -> None:
    """Each commit of a run in turn loses its connection: the run ends as ever, and every thing is there once."""
    number = 0
    while True:
        number += 1
        plain = Bench(server.journal())
        wanted = plan(step("a"), step("b", needs=("a",)))
        run = plain.journal.create(NewRun(plain.journal.new_id(), wanted, "me")).id
        with line_to(plain.url) as (line, url):
            bench = Bench(url, plain.clock)
            commits = 0

            def cutting(_: Any, line: Any = line, number: int = number) -> None:
                nonlocal commits
                commits += 1
                if commits == number:
                    line.cut = cut

            bench.journal.before_commit = cutting
            view = bench.driver().drive(run, HERE).view
            assert (view.state, view.result) == ("finished", "succeeded"), number
            assert bench.shelf.calls == ["put a", "put b"], number
            assert line.cuts == (1 if commits >= number else 0)
            bench.journal.database.close()
        events = plain.journal.events(run=run)
        chain.verify(run, events)
        assert chain.replay(events)["run", "shop/1"] == "finished"
        assert all(len([a for path, a in plain.journal.attempts(run) if path == name]) == 1 for name in "ab")
        plain.journal.database.close()
        if commits < number:
            break
    assert number > 3


def test_a_batch_is_what_keeps_a_lost_reply_from_being_repeated(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test of the test: without the look for the batch, the same cut writes twice."""
    from drpilot.journal import postgres

    def always(connection: Any, batch: str, number: int) -> bool:
        postgres.lock(connection)
        return True

    plain = Bench(server.journal())
    with line_to(plain.url) as (line, url):
        bench = Bench(url, plain.clock)
        monkeypatch.setattr(postgres, "enter", always)
        before = len(plain.journal.events())
        line.cut = "reply"
        bench.journal.lock("shop", "me", "a test")
        assert len(plain.journal.events()) - before == 2
        bench.journal.database.close()
    plain.journal.database.close()


# -- a server that is gone ----------------------------------------------------------------------------------------


def test_a_server_that_is_gone_for_ten_seconds_stops_no_run(own_server: Fresh) -> None:
    """Stopped at once in the middle of a run, up again 10 s later: the run goes on, nothing is repeated or lost."""
    bench = Bench(own_server.journal(), RealClock())
    run = begun(bench, *"abcdef")
    driver = bench.driver()
    clock = RealClock()
    stopped = threading.Event()
    original = bench.shelf.put

    def put(name: str, token: str) -> None:
        original(name, token)
        if name == "c":
            own_server.stop()  # the effect is there, and its outcome can't be written
            stopped.set()

    bench.shelf.put = put  # type: ignore[method-assign]
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(driver.drive(run, HERE)))
    thread.start()
    assert stopped.wait(timeout=60)
    clock.sleep(10)
    own_server.start()
    thread.join(timeout=100)
    (drive,) = found
    assert (drive.view.state, drive.view.result) == ("finished", "succeeded")
    assert sorted(bench.shelf.calls) == [f"put {name}" for name in "abcdef"]
    assert len(bench.journal.attempts(run)) == 6
    assert drive.view.term == 1
    chain.verify(run, bench.journal.events(run=run))
    bench.journal.database.close()


def test_patience_ends_with_one_clear_error(own_server: Fresh) -> None:
    """A server that stays away: the writer says so by its name and code, and what was committed is there afterwards."""
    url = own_server.journal()
    bench = Bench(url)
    journal = Journal(Database(url, SHORT), bench.clock, Chance(3))
    journal.lock("shop", "me", "before")
    own_server.stop()
    try:
        for call in (lambda: journal.lock("shop", "me", "never"), lambda: journal.group("shop")):
            with pytest.raises(DrpilotError) as caught:
                call()
            assert (caught.value.word, caught.value.exit_code) == ("journal-unreachable", 8)
        with pytest.raises(DrpilotError) as caught:
            Database(url)
        assert caught.value.word == "journal-unreachable"
    finally:
        own_server.start()
    assert bench.journal.group("shop").locked_reason == "before"
    journal.lock("shop", "me", "after")
    journal.database.close()
    bench.journal.database.close()


def test_a_writer_that_lost_its_power_holds_nobody_up(shared: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction left open by a host that is gone is ended by the server; the next writer gets its turn."""
    from drpilot.journal import postgres

    monkeypatch.setitem(postgres._SETTINGS, "idle_in_transaction_session_timeout", "1s")
    other = Database(shared.url)
    entered, leave = threading.Event(), threading.Event()
    tries = []

    def freeze(session: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            entered.set()
            leave.wait(timeout=60)
        session.connection().exec_driver_sql("SELECT 1")

    thread = threading.Thread(target=lambda: other.write(freeze))
    thread.start()
    assert entered.wait(timeout=30)
    shared.journal.lock("shop", "me", "meanwhile")
    leave.set()
    thread.join(timeout=60)
    assert len(tries) == 2  # thawed, it found its transaction gone and did it again
    other.close()


def test_the_bounds_of_a_session_are_in_force(server: Server) -> None:
    """Locks, statements and open transactions end by themselves, and a commit waits for the disk in any case."""
    url = server.empty()
    name = url.partition("?")[0].rpartition("/")[2]
    server.do(f"ALTER DATABASE {name} SET synchronous_commit = off")
    database = Database(url)
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "synchronous_commit")

    def shown(session: Any) -> list[Any]:
        return [session.connection().exec_driver_sql(f"SHOW {name}").scalar() for name in names]

    assert database.write(shown) == ["15s", "30s", "10s", "on"]
    assert database.read(shown) == ["15s", "30s", "10s", "on"]
    database.close()
    server.drop(url)


# -- what is said of addresses ------------------------------------------------------------------------------------


def test_no_password_of_an_address_is_printed() -> None:
    """Neither the one before the host nor one in the query: not in the error, its JSON, its causes or its name."""
    import json
    import traceback

    url = "postgresql://drpilot:hunter2@127.0.0.1:1/journal?sslmode=disable&sslpassword=hunter3"
    with pytest.raises(DrpilotError) as caught:
        Database(url)
    said = "".join(traceback.format_exception(caught.value)) + json.dumps(caught.value.as_json())
    assert "postgresql://drpilot@127.0.0.1:1/journal" in said
    assert "hunter" not in said
    assert caught.value.exit_code == 8


def test_a_missing_driver_names_the_command_that_installs_it() -> None:
    """Psycopg is an extra: without it the refusal says how to get it, and nothing is called."""
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
sys.modules["psycopg"] = None
from drpilot.base.errors import DrpilotError
from drpilot.journal.database import Database
try:
    Database("postgresql://me@127.0.0.1:1/x")
except DrpilotError as error:
    print(error.word, error.exit_code, error.hint)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "journal-driver 6 pip install 'drpilot[postgres]'", done.stderr


def test_an_old_batch_is_forgotten_and_a_new_one_kept(shared: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that tell repeated transactions apart are removed after a day, by whoever writes."""
    from drpilot.journal import postgres

    monkeypatch.setattr(postgres, "_SWEEP", 1)
    with psycopg.connect(shared.url, autocommit=True) as connection:
        connection.execute("INSERT INTO batch VALUES ('old', 1)")
        shared.journal.lock("shop", "me", "a test")
        left = connection.execute("SELECT count(*), bool_or(id = 'old') FROM batch").fetchone()
    assert left is not None
    assert left[0] >= 2
    assert left[1] is False
