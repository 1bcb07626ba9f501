"""The ground floor: clocks, ids, units, retries, secrets, the catalogue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drpilot.base.clock import Chance, ManualClock, RealClock, from_micros, micros, parse_time, rfc3339
from drpilot.base.errors import CATALOGUE, EXIT_CODES, DrpilotError, invariant
from drpilot.base.ids import chained, digest, new_id, token
from drpilot.base.log import Secret
from drpilot.base.retry import Patience, retried
from drpilot.base.units import format_duration, format_size, parse_duration, parse_size


@given(st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_moments_survive_the_journal_and_json(moment: datetime) -> None:
    """Microseconds are exact; RFC 3339 keeps milliseconds and UTC."""
    assert from_micros(micros(moment)) == moment
    assert abs(parse_time(rfc3339(moment)) - moment) < timedelta(milliseconds=1)


def test_a_time_without_an_offset_is_refused() -> None:
    """It could mean two moments."""
    with pytest.raises(ValueError, match="no offset"):
        parse_time("2026-11-22T03:05:00")
    assert parse_time("2026-11-22T04:05:00+01:00") == datetime(2026, 11, 22, 3, 5, tzinfo=UTC)
    assert rfc3339(datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))) == "2026-01-01T00:00:00.000Z"


def test_ids_sort_by_time_and_differ() -> None:
    """Ids made later sort later; within a millisecond they still differ."""
    clock, chance = ManualClock(), Chance(7)
    first = [new_id(clock, chance) for _ in range(50)]
    clock.advance(0.001)
    later = new_id(clock, chance)
    assert len(set(first)) == 50
    assert all(one < later for one in first)
    assert {len(one) for one in first} == {20}


def test_tokens_are_pure_and_distinct() -> None:
    """The same attempt always has the same token; any part changed gives another."""
    base = token("run", "tiers/db", 0, "do", {"a": 1, "b": [2]})
    assert base == token("run", "tiers/db", 0, "do", {"b": [2], "a": 1})
    others = {
        token("run2", "tiers/db", 0, "do", {"a": 1, "b": [2]}),
        token("run", "tiers/app", 0, "do", {"a": 1, "b": [2]}),
        token("run", "tiers/db", 1, "do", {"a": 1, "b": [2]}),
        token("run", "tiers/db", 0, "undo", {"a": 1, "b": [2]}),
        token("run", "tiers/db", 0, "do", {"a": 2, "b": [2]}),
    }
    assert len({base, *others}) == 6
    assert len(base) == 32


def test_a_chain_hash_covers_what_came_before() -> None:
    """Changing an earlier hash changes each later one."""
    assert chained("a", {"x": 1}) != chained("b", {"x": 1})
    assert digest({"x": (1, 2)}) == digest({"x": [1, 2]})


@given(st.floats(min_value=0, max_value=10**7, allow_nan=False))
def test_durations_read_back_close_to_what_was_written(seconds: float) -> None:
    """What drpilot prints it also reads; the two largest units are kept."""
    back = parse_duration(format_duration(seconds))
    assert abs(back - seconds) <= max(0.06, seconds * 0.05, 31 if seconds >= 3600 else 0.6)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15m", 900), ("1h30m", 5400), ("10m05s", 605), ("250ms", 0.25), ("2d", 172800), ("1.5h", 5400)],
)
def test_durations_as_people_write_them(text: str, seconds: float) -> None:
    """A number with a unit, largest first or not."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "15", "m15", "15 minutes", "-5m", "1h-30m"])
def test_what_is_no_duration_says_what_was_wanted(text: str) -> None:
    """The message names the form."""
    with pytest.raises(ValueError, match="write a number with a unit"):
        parse_duration(text)


def test_formats() -> None:
    """Fixed forms that scripts and eyes rely on."""
    assert [format_duration(s) for s in (0, 8.25, 59.99, 581, 3600, 5640, 90_000, -30)] == [
        "0s",
        "8.2s",
        "1m",
        "9m41s",
        "1h",
        "1h34m",
        "1d1h",
        "-30s",
    ]
    assert [format_size(n) for n in (512, 1 << 10, 12 << 30, 1319413953331)] == [
        "512 B",
        "1 KiB",
        "12 GiB",
        "1.2 TiB",
    ]
    assert parse_size("20GiB") == 20 << 30
    with pytest.raises(ValueError, match="is not a size"):
        parse_size("20GB")


def test_retry_is_bounded_by_tries_and_by_time() -> None:
    """It stops after `attempts`, after `budget_s`, and at once for what is not worth repeating."""
    clock, chance = ManualClock(), Chance(1)
    calls: list[int] = []

    def fails(error: Exception) -> None:
        calls.append(1)
        raise error

    def run(error: Exception, patience: Patience) -> int:
        calls.clear()
        with pytest.raises(type(error)):
            retried(
                lambda: fails(error),
                worth=lambda e: isinstance(e, OSError),
                patience=patience,
                clock=clock,
                chance=chance,
            )
        return len(calls)

    assert run(OSError(), Patience(attempts=4)) == 4
    assert run(ValueError(), Patience(attempts=4)) == 1
    assert run(OSError(), Patience(attempts=1000, first_s=5, max_s=5, budget_s=20)) <= 8


def test_a_secret_does_not_print() -> None:
    """Neither by str, repr nor formatting."""
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"
    assert secret.open() == "hunter2"


def test_real_clock_moves_forward() -> None:
    """Monotonic and aware."""
    clock = RealClock()
    before = clock.monotonic()
    clock.sleep(0.001)
    assert clock.monotonic() > before
    assert clock.now().tzinfo is UTC


@pytest.mark.row(101)
def test_every_catalogue_row_has_an_exit_code_a_cause_and_a_next_step() -> None:
    """Codes are unique, exit codes known, and no error leaves a person without a hint."""
    for row in CATALOGUE.values():
        assert row.exit_code in EXIT_CODES, row.code
        assert row.cause.strip() and row.hint.strip() and row.title.strip(), row.code
        error = DrpilotError(row.word)
        assert error.as_json()["error"]["code"] == row.code
    assert len({row.code for row in CATALOGUE.values()}) == len(CATALOGUE)


def test_an_invariant_stays_on() -> None:
    """A broken invariant is a bug report with exit code 70."""
    invariant(True, "fine")
    with pytest.raises(DrpilotError, match="impossible") as raised:
        invariant(False, "impossible")
    assert raised.value.exit_code == 70
