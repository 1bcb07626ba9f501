"""Block maps: what they say about zeros, how they are compared, and that no damaged one is believed."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drpilot.formats.blockmap import (
    BLOCK_BYTES,
    ZERO_SHA256,
    BlockMap,
    MalformedMap,
    changed_blocks,
    decode_map,
    encode_map,
)


def digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def map_of(blocks: dict[int, int], count: int = 5000, **facts: str) -> BlockMap:
    """A map whose block i holds the content number blocks[i]."""
    found = BlockMap(count * BLOCK_BYTES, facts)
    for index, number in blocks.items():
        found[index] = digest(number)
    return found


contents = st.dictionaries(st.integers(0, 4999), st.integers(0, 9), max_size=60)


@given(contents, st.integers(0, BLOCK_BYTES - 1))
@settings(max_examples=60, deadline=None)
def test_a_map_comes_back_as_it_was(blocks: dict[int, int], more: int) -> None:
    """Digests, size and facts survive; the blocks stored are exactly those that were set."""
    before = BlockMap(5000 * BLOCK_BYTES - more, {"source": "snap-1@home", "é": "\n"})
    for index, number in blocks.items():
        before[index] = digest(number)
    after = decode_map(encode_map(before))
    assert after == before
    assert (after.size_bytes, after.facts, after.fingerprint()) == (
        before.size_bytes,
        before.facts,
        before.fingerprint(),
    )
    assert list(after.stored()) == sorted(blocks)


@given(contents, contents)
@settings(max_examples=60, deadline=None)
def test_changed_blocks_are_those_that_differ(first: dict[int, int], second: dict[int, int]) -> None:
    """Changed, new and gone blocks, each once, ascending."""
    wanted = sorted(index for index in first.keys() | second.keys() if first.get(index) != second.get(index))
    assert list(changed_blocks(map_of(first), map_of(second))) == wanted


def test_a_volume_that_grew_is_compared_with_zeros() -> None:
    """Beyond the end of the smaller volume there is nothing but zeros, in both directions."""
    small, large = map_of({1: 1}, count=2), map_of({1: 1, 2: 2, 4999: 3})
    assert list(changed_blocks(small, large)) == list(changed_blocks(large, small)) == [2, 4999]


def test_a_block_of_zeros_is_not_stored() -> None:
    """The digest of zeros and None are the same: nothing is there."""
    found = map_of({3: 1})
    found[3] = ZERO_SHA256
    assert hashlib.sha256(bytes(BLOCK_BYTES)).digest() == ZERO_SHA256
    assert (found[3], list(found.stored())) == (None, [])
    with pytest.raises(IndexError):
        found[5000] = digest(1)


def test_the_linear_aggregate_is_ebs_direct_s() -> None:
    """SHA-256 over the digests of the blocks written, in order; zeros that were written count."""
    found = map_of({7: 1, 2: 2})
    wanted = hashlib.sha256(digest(2) + ZERO_SHA256 + digest(1)).digest()
    assert found.linear([2, 5, 7]) == base64.b64encode(wanted).decode()


def test_a_map_is_compact() -> None:
    """One block of 1 TiB takes a bit a block and 32 bytes, not a digest a block."""
    assert len(encode_map(map_of({2_097_151: 1}, count=2_097_152))) < 2_097_152 // 8 + 400


@pytest.mark.parametrize("place", [0, 6, 9, 13, 40, -40, -1])
def test_a_changed_byte_is_noticed(place: int) -> None:
    """Whatever byte is changed, the map is refused."""
    data = bytearray(encode_map(map_of({1: 1, 4000: 2})))
    data[place] ^= 1
    with pytest.raises(MalformedMap):
        decode_map(bytes(data))


@given(st.binary(max_size=200), st.integers(0, 900))
@settings(max_examples=200, deadline=None)
def test_rubbish_is_no_map(tail: bytes, cut: int) -> None:
    """Any cut-off or lengthened map, and any bytes at all, raise MalformedMap and nothing else."""
    whole = encode_map(map_of({1: 1, 4000: 2}))
    for data in (tail, whole[:6] + tail, whole[:cut] + tail, whole + tail):
        if data != whole:
            with pytest.raises(MalformedMap):
                decode_map(data)


def _sealed(head: str, rest: bytes = b"") -> bytes:
    body = b"DRPMAP\x01\n" + len(head).to_bytes(4, "little") + head.encode() + rest
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize(
    "data",
    [
        _sealed("{}"),
        _sealed("[1]"),
        _sealed('{"size_bytes": -1, "block_bytes": 524288, "stored": 0, "facts": {}}'),
        _sealed('{"size_bytes": 1e30, "block_bytes": 524288, "stored": 0, "facts": {}}'),
        _sealed('{"size_bytes": 1, "block_bytes": 4096, "stored": 0, "facts": {}}', b"\0"),
        _sealed('{"size_bytes": 1, "block_bytes": 524288, "stored": 1, "facts": {}}', b"\0" * 33),
        _sealed('{"size_bytes": 1, "block_bytes": 524288, "stored": 1, "facts": {}}', b"\2" + b"x" * 32),
        _sealed('{"size_bytes": 1, "block_bytes": 524288, "stored": 2, "facts": {}}', b"\1" + b"x" * 32),
        _sealed('{"size_bytes": 1, "block_bytes": 524288, "stored": 0, "facts": []}', b"\0"),
    ],
)
def test_a_head_that_lies_is_refused(data: bytes) -> None:
    """A well-sealed map whose parts contradict each other is no map either."""
    with pytest.raises(MalformedMap):
        decode_map(data)
