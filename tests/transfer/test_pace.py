"""How many requests are under way, what is tried again, and that both throttles of EBS direct are told apart."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drpilot.base.clock import Chance, ManualClock
from drpilot.base.retry import Patience
from drpilot.clouds.blocks import BLOCK_BYTES, FastBlocks, SdkBlocks, block_plane
from drpilot.domain.ports import BlockPlane, CloudError, FailureClass
from drpilot.transfer.pace import Pace
from tests.grounds import Door, Heard, answering, key_file, patient
from tests.transfer.world import block_of

THROTTLED = CloudError(FailureClass.THROTTLED, "ThrottlingException", "slow down", happened="no")


def pace(**more: int) -> Pace:
    return Pace(ManualClock(), Chance(5), patience=Patience(attempts=9, budget_s=1e9), **more)


def at_once(pace: Pace, count: int, error: CloudError | None = None) -> int:
    """Run `count` calls that all wait for each other, so that as many as may are under way; the most that were."""
    gate, answers = threading.Barrier(min(count, pace.limit)), []

    def call() -> None:
        gate.wait(20)
        if error is not None:
            raise error

    def work() -> None:
        try:
            pace._once(call)
        except CloudError as caught:
            answers.append(caught)

    threads = [threading.Thread(target=work) for _ in range(gate.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return gate.parties


def test_concurrency_starts_at_16_and_ends_at_128() -> None:
    """Each full round of successes adds to it, as long as nothing is throttled, up to the most."""
    mine, seen = pace(), []
    for _ in range(9):
        at_once(mine, 10_000)
        seen.append(mine.limit)
    assert seen[0] >= 20
    assert seen == sorted(seen)
    assert seen[-1] == 128
    assert mine.counts.most_at_once == 128


@pytest.mark.row(59)
def test_a_throttled_round_halves_it_once_and_growth_is_slow_from_there() -> None:
    """Sixteen throttles of one round are one decrease; afterwards a whole round of successes adds about one."""
    mine = pace(most=64)
    at_once(mine, 16, THROTTLED)
    assert (mine.limit, mine.counts.throttled_account) == (8, 16)
    before = mine.limit
    for _ in range(4):
        at_once(mine, 10_000)
    assert before < mine.limit <= before + 4
    for _ in range(9):
        at_once(mine, 10_000, THROTTLED)
    assert mine.limit == 1


def test_a_slow_endpoint_is_not_given_more() -> None:
    """Calls one after the other never fill the places there are, so none are added."""
    mine = pace()
    for _ in range(200):
        mine.run(lambda: None)
    assert (mine.limit, mine.counts.requests, mine.counts.most_at_once) == (16, 200, 1)


@pytest.mark.parametrize(
    ("kind", "code", "tries"),
    [
        (FailureClass.THROTTLED, "RequestThrottledException", 9),
        (FailureClass.TRANSIENT, "InternalServerException", 9),
        (FailureClass.TIMEOUT, "ReadTimeoutError", 9),
        (FailureClass.TRANSIENT, "ChecksumMismatch", 3),
        (FailureClass.AUTH, "AccessDeniedException", 1),
        (FailureClass.NOT_FOUND, "ResourceNotFoundException", 1),
        (FailureClass.INVALID, "ValidationException", 1),
    ],
)
def test_what_is_tried_again(kind: FailureClass, code: str, tries: int) -> None:
    """Throttles, 5xx and lost replies up to the bound, a wrong checksum three times, a refusal never."""
    mine, made = pace(), []

    def call() -> None:
        made.append(code)
        raise CloudError(kind, code, "no", happened="unknown")

    with pytest.raises(CloudError):
        mine.run(call)
    assert len(made) == tries


def test_a_stopped_pace_tries_nothing_again() -> None:
    """When a copy gives up, its workers do not wait for their patience to end."""
    mine = pace()
    mine.stop()
    with pytest.raises(CloudError):
        mine.run(lambda: (_ for _ in ()).throw(THROTTLED))
    assert mine.counts.requests == 1


# -- against a server that answers by the byte ------------------------------------------------------------


def denial(code: str, status: int = 400) -> bytes:
    body = json.dumps({"Message": "no"})
    head = f"HTTP/1.1 {status} No\r\nx-amzn-ErrorType: {code}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def block_reply(data: bytes, *, stated: bytes | None = None, algorithm: str = "SHA256") -> bytes:
    checksum = base64.b64encode(hashlib.sha256(stated if stated is not None else data).digest()).decode()
    head = f"HTTP/1.1 200 OK\r\nx-amz-Checksum: {checksum}\r\nx-amz-Checksum-Algorithm: {algorithm}\r\n"
    head += f"x-amz-Data-Length: {len(data)}\r\nContent-Type: application/octet-stream\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


@contextmanager
def planes(folder: Path, answers: list[bytes]) -> Iterator[tuple[BlockPlane, list[Heard]]]:
    """Our engine at a server that gives these answers in turn."""
    with answering(lambda heard, number: answers[min(number, len(answers)) - 1]) as server:
        site = Door(server.url, key_file(folder), ways=patient()).open()
        plane = block_plane(site, "fast")
        assert isinstance(plane, FastBlocks)
        yield plane, server.heard
        plane.close()
        site.close()


@pytest.mark.row(59)
def test_both_throttles_and_5xx_are_tried_again_and_told_apart(tmp_path: Path) -> None:
    """RequestThrottledException counts for the snapshot, ThrottlingException for the account; then all is well."""
    done = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
    answers = [denial("RequestThrottledException")] * 3 + [denial("ThrottlingException")] * 2
    answers += [denial("InternalServerException", 500), denial("ServiceUnavailable", 503), done]
    mine = pace()
    with planes(tmp_path, answers) as (plane, heard):
        channel, data = plane.channel(), block_of(1)
        digest = hashlib.sha256(data).digest()
        mine.run(lambda: channel.put("snap-1", 7, memoryview(data), digest))
        channel.close()
    counts = mine.counts
    assert (counts.throttled_snapshot, counts.throttled_account, counts.failed) == (3, 2, 2)
    assert counts.requests == len(heard) == 8
    assert {one.body for one in heard} == {data}
    assert heard[-1].headers["x-amz-checksum"] == base64.b64encode(digest).decode()
    assert (heard[-1].method, heard[-1].path) == ("PUT", "/snapshots/snap-1/blocks/7")


@pytest.mark.parametrize(
    "answer",
    [
        block_reply(block_of(1), stated=block_of(2)),
        block_reply(block_of(1)[:-1]),
        block_reply(block_of(1), algorithm="MD5"),
    ],
    ids=["other bytes", "short", "no SHA-256"],
)
def test_a_block_that_is_not_its_checksum_is_no_block(tmp_path: Path, answer: bytes) -> None:
    """Bytes that do not have the SHA-256 stated with them are read three times and refused."""
    mine = pace()
    with planes(tmp_path, [answer]) as (plane, heard):
        channel, into = plane.channel(), memoryview(bytearray(BLOCK_BYTES))
        with pytest.raises(CloudError) as caught:
            mine.run(lambda: channel.get("snap-1", 7, "t", into))
        channel.close()
    assert (caught.value.code, len(heard), mine.counts.mismatched) == ("ChecksumMismatch", 3, 3)


def test_a_block_stored_under_another_checksum_is_noticed(tmp_path: Path) -> None:
    """The cloud repeats the checksum it stored; another one than was sent is no success."""
    stored = b"HTTP/1.1 201 Created\r\nx-amz-Checksum: other\r\nContent-Length: 0\r\n\r\n"
    with planes(tmp_path, [stored]) as (plane, _):
        channel = plane.channel()
        with pytest.raises(CloudError) as caught:
            channel.put("snap-1", 7, memoryview(block_of(1)), hashlib.sha256(block_of(1)).digest())
        channel.close()
    assert caught.value.code == "ChecksumMismatch"


def test_an_endpoint_the_data_plane_can_not_serve_is_botocore_s(tmp_path: Path) -> None:
    """Where the fast engine has an obstacle botocore carries the blocks, and the plane says why."""
    site = Door("http://127.0.0.1:9", key_file(tmp_path)).open()
    site._clients.client("ebs").meta.config.signature_version = "s3"
    plane = block_plane(site, "fast")
    assert isinstance(plane, SdkBlocks)
    assert plane.note == "ebs on home is signed by s3, not by Signature Version 4"
    site.close()
