"""A mover's job and status: what is written is read, what is wrong is one clear error, URLs never show."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from drpilot.base.errors import DrpilotError
from drpilot.formats import moverjob
from drpilot.formats.moverjob import (
    PART_BYTES,
    JobBase,
    JobVolume,
    MoverJob,
    MoverStatus,
    VolumeStatus,
    read_job,
    read_status,
    write_job,
    write_status,
)
from drpilot.transfer import stage

MOMENT = datetime(2026, 11, 24, 12, tzinfo=UTC)
SECRET = "Signature=c2VjcmV0"


def _url(name: str) -> str:
    return f"https://s3.example.org:8773/services/Walrus/stage/{name}?AWSAccessKeyId=AKIAEXAMPLE&{SECRET}&Expires=1"


def _volume(number: int, size_bytes: int, *, heads: bool = True, base: bool = True) -> JobVolume:
    snapshot, parts = f"snap-{number}", range(-(-size_bytes // PART_BYTES))
    return JobVolume(
        f"/dev/sd{chr(ord('f') + number)}",
        snapshot,
        size_bytes,
        tuple(_url(f"{snapshot}/{part:06d}") for part in parts),
        _url(f"{snapshot}/blocks.map"),
        device_bytes=size_bytes + 1 if number % 2 else 0,
        head_urls=tuple(_url(f"head/{part}") for part in parts) if heads else (),
        base=JobBase(f"snap-{number}-before", _url("map")) if base else None,
    )


def _job(*sizes: int) -> MoverJob:
    volumes = tuple(_volume(number, size) for number, size in enumerate(sizes))
    return MoverJob("shop", "shop/12", "01J", MOMENT, volumes, _url("status"), _url("status-get"))


def _content() -> dict[str, Any]:
    return dict(json.loads(gzip.decompress(write_job(_job(PART_BYTES + 1, 5)))))


@given(
    some.lists(some.integers(1, 5 * PART_BYTES), min_size=1, max_size=4),
    some.booleans(),
    some.booleans(),
    some.text(some.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=300),
)
def test_what_is_written_is_read_back(sizes: list[int], heads: bool, base: bool, text: str) -> None:
    """Whatever the sizes and names, a job survives, under gzip or plain; the same job is the same bytes."""
    volumes = tuple(_volume(number, size, heads=heads, base=base) for number, size in enumerate(sizes))
    job = MoverJob(text, text, text, MOMENT, volumes, _url("status") if heads else "")
    data = write_job(job)
    assert read_job(data, "j") == job
    assert read_job(gzip.decompress(data), "j") == job
    assert write_job(job) == data


def test_the_parts_of_a_job_are_those_of_the_stage() -> None:
    """A job counts parts as the stage cuts them, and finds a part's name at its place."""
    assert moverjob.PART_BYTES == stage.PART_BYTES


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("drpilot-mover",), 2, "version 2"),
        (("drpilot-mover",), True, "version True"),
        (("group",), "", "group"),
        (("group",), "a\nb", "group"),
        (("expires",), "2026-11-24T12:00:00", "expires"),
        (("expires",), "tomorrow", "expires"),
        (("volumes",), [], "volumes"),
        (("volumes",), {}, "volumes"),
        (("volumes", 0, "device"), "/dev/../etc/passwd", "device"),
        (("volumes", 0, "device"), "/dev/sdg", "same device"),
        (("volumes", 0, "snapshot"), "../other", "snapshot"),
        (("volumes", 0, "snapshot"), "snap-1", "same snapshot"),
        (("volumes", 0, "size_bytes"), PART_BYTES, "parts"),
        (("volumes", 0, "size_bytes"), 0, "size_bytes"),
        (("volumes", 0, "size_bytes"), 1.5, "size_bytes"),
        (("volumes", 0, "size_bytes"), True, "size_bytes"),
        (("volumes", 0, "size_bytes"), 1 << 70, "size_bytes"),
        (("volumes", 1, "device_bytes"), 4, "device_bytes"),
        (("volumes", 0, "heads"), [], "heads"),
        (("volumes", 0, "parts", 0), "file:///etc/passwd", "parts[0]"),
        (("volumes", 0, "parts", 1), "https://a b/", "parts[1]"),
        (("volumes", 0, "parts", 1), "https://u:p@host/", "parts[1]"),
        (("volumes", 0, "parts", 1), "https:///path", "parts[1]"),
        (("volumes", 0, "parts", 1), "https://[::1/", "parts[1]"),
        (("volumes", 0, "parts", 1), "https://h:0/", "parts[1]"),
        (("volumes", 0, "parts", 1), "https://h/" + "x" * 8192, "parts[1]"),
        (("volumes", 0, "map"), None, "map"),
        (("volumes", 0, "base", "snapshot"), "snap-0", "own base"),
        (("volumes", 0, "base", "more"), 1, "'more'"),
        (("volumes", 0, "more"), 1, "'more'"),
        (("status",), 7, "status"),
        (("more",), 1, "'more'"),
    ],
)
def test_one_thing_wrong_is_one_error(path: tuple[Any, ...], value: Any, said: str) -> None:
    """Each thing that may be wrong with a job is refused by its name, and the error holds no URL."""
    content = _content()
    place: Any = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(DrpilotError) as refused:
        read_job(json.dumps(content).encode(), "job of shop/12")
    assert (refused.value.word, refused.value.exit_code) == ("mover-job", 6)
    assert said in refused.value.title
    assert "example.org" not in str(refused.value)
    assert "https:" not in str(refused.value)


@pytest.mark.parametrize("gone", ["drpilot-mover", "group", "run", "point", "expires", "volumes"])
def test_what_is_missing_is_named(gone: str) -> None:
    """A member that a job must have is named when it is not there."""
    content = _content()
    del content[gone]
    with pytest.raises(DrpilotError, match=f"has no {gone}"):
        read_job(json.dumps(content).encode(), "j")


def test_a_small_job_can_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bomb is refused where it passes the bound, under gzip or plain; so is a key given twice, and a number that
    is none.
    """
    monkeypatch.setattr(moverjob, "MOST_JOB_BYTES", 1 << 20)
    bomb = gzip.compress(b" " * (8 << 20))
    assert len(bomb) < 10_000
    whole = write_job(_job(5))
    for data in (
        bomb,
        b" " * (2 << 20),
        whole[:-9],
        whole + b"x",
        b'{"a":1,"a":1}',
        b'{"a":NaN}',
        b"[" * 100_000,
    ):
        with pytest.raises(DrpilotError) as refused:
            read_job(data, "j")
        assert refused.value.word == "mover-job"


@given(some.data())
def test_damage_is_an_error_or_the_same_kind_of_job(data: some.DataObject) -> None:
    """Bytes changed, cut or put in anywhere give a job or one clear error: no other exception, no URL in it."""
    plain = bytearray(gzip.decompress(write_job(_job(PART_BYTES + 1, 5))))
    for _ in range(data.draw(some.integers(1, 4))):
        place = data.draw(some.integers(0, len(plain) - 1))
        plain[place : place + data.draw(some.integers(0, 9))] = data.draw(some.binary(max_size=9))
    packed = data.draw(some.booleans())
    found, said = _tried(gzip.compress(bytes(plain)) if packed else bytes(plain))
    assert (found is None) == said.startswith("error[DRP-6712]")
    assert SECRET not in said
    assert found is None or 1 <= len(found.volumes) <= 2


def _tried(data: bytes) -> tuple[MoverJob | None, str]:
    try:
        return read_job(data, "j"), ""
    except DrpilotError as error:
        return None, str(error)


@given(
    some.recursive(
        some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=20),
        lambda inner: (
            some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=9), inner, max_size=3)
        ),
    )
)
def test_any_json_is_a_job_or_an_error(value: Any) -> None:
    """JSON of any form, as the whole job, as its volumes or as a volume, is refused and never breaks the reader."""
    whole = _content()
    for content in (value, {**whole, "volumes": value}, {**whole, "volumes": [value]}):
        with pytest.raises(DrpilotError) as refused:
            read_job(json.dumps(content).encode(), "j")
        assert refused.value.word == "mover-job"


def test_no_repr_shows_a_url() -> None:
    """A job may be logged: its URLs and their signatures are not in it."""
    assert "example.org" not in repr(_job(5, 6))
    assert SECRET not in repr(_job(5, 6))


def test_what_no_mover_would_take_is_not_written() -> None:
    """The controller learns of a wrong job when it writes it, not from a machine that failed."""
    job = _job(PART_BYTES + 1)
    short = replace(job.volumes[0], part_urls=job.volumes[0].part_urls[:1])
    with pytest.raises(ValueError, match="must be 2 URLs, it has 1"):
        write_job(replace(job, volumes=(short,)))


@given(
    some.lists(
        some.tuples(
            some.sampled_from(moverjob.STATES),
            some.integers(0, 9),
            some.integers(0, 1 << 40),
            some.sampled_from(["", "é"]),
        ),
        max_size=5,
    ),
    some.integers(0, 10**8),
)
def test_a_status_survives(rows: list[tuple[str, int, int, str]], seconds: int) -> None:
    """What a mover says is what the controller reads; the state of the whole follows from its volumes."""
    volumes = [
        VolumeStatus(f"snap-{number}", "/dev/sdf", 9, state, done, big, big, done, big, error)
        for number, (state, done, big, error) in enumerate(rows)
    ]
    status = MoverStatus("shop/12", MOMENT + timedelta(seconds=seconds), volumes)
    found = read_status(write_status(status), "s")
    assert found == status
    states = {row[0] for row in rows}
    over = not states & {"waiting", "working"}
    assert found.state == (("failed" if "failed" in states else "done") if over else "working")


def test_a_status_that_contradicts_itself_is_refused() -> None:
    """More parts done than there are, or a state that its volumes don't have, is no status."""
    status = MoverStatus("shop/12", MOMENT, [VolumeStatus("snap-1", "/dev/sdf", 3, "working", 2)])
    data = write_status(status)
    for old, new in ((b'"done": 2', b'"done": 4'), (b'"state": "working",', b'"state": "done",')):
        assert data.count(old) >= 1
        with pytest.raises(DrpilotError):
            read_status(data.replace(old, new, 1), "s")
