"""Two listings side by side: for every pair of buckets the right verdict, name by name, and never out of order."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drpilot.domain.objects import Entry
from drpilot.transfer.pairing import Disordered, Known, Pair, Verdict, judged, paired

KEYS = st.text(st.characters(exclude_categories=("Cs",)), max_size=4)
FACTS = st.tuples(st.integers(0, 2), st.sampled_from(["a", "b", "a-2", "b-2"]))
BUCKET = st.dictionaries(KEYS, FACTS, max_size=12)
RECORD = st.dictionaries(KEYS, st.tuples(st.integers(0, 2), FACTS, FACTS), max_size=8)


def listing(bucket: dict[str, tuple[int, str]]) -> list[Entry]:
    """A bucket as a store lists it: in the order of the names' UTF-8 bytes."""
    return [Entry(key, *bucket[key]) for key in sorted(bucket, key=lambda key: key.encode())]


def recorded(record: dict[str, tuple[int, tuple[int, str], tuple[int, str]]]) -> list[Known]:
    """A record in the same order."""
    return [
        Known(key, record[key][0], record[key][1][1], record[key][2][1])
        for key in sorted(record, key=lambda key: key.encode())
    ]


@given(BUCKET, BUCKET, RECORD)
def test_every_name_comes_once_with_all_that_is_known(
    source: dict[str, tuple[int, str]],
    target: dict[str, tuple[int, str]],
    record: dict[str, tuple[int, tuple[int, str], tuple[int, str]]],
) -> None:
    """The pairs are the union of the three, in order, each side as it was listed."""
    pairs = list(paired(listing(source), listing(target), recorded(record)))
    assert [pair.key for pair in pairs] == sorted({*source, *target, *record}, key=lambda key: key.encode())
    for pair in pairs:
        assert (pair.source and (pair.source.size_bytes, pair.source.etag)) == source.get(pair.key)
        assert (pair.target and (pair.target.size_bytes, pair.target.etag)) == target.get(pair.key)
        assert (pair.known is not None) == (pair.key in record)


@given(BUCKET, BUCKET, RECORD)
def test_doing_what_is_judged_makes_the_target_the_source(
    source: dict[str, tuple[int, str]],
    target: dict[str, tuple[int, str]],
    record: dict[str, tuple[int, tuple[int, str], tuple[int, str]]],
) -> None:
    """After copying what differs and deleting what is surplus both have the same names and sizes; what is left alone
    is equal by its ETags or by the record, never by its size alone.
    """
    after = dict(target)
    for pair in paired(listing(source), listing(target), recorded(record)):
        verdict = judged(pair)
        if verdict is Verdict.COPY:
            after[pair.key] = source[pair.key]
        elif verdict is Verdict.SURPLUS:
            del after[pair.key]
        elif verdict is Verdict.SAME:
            ours, theirs = source[pair.key], target[pair.key]
            size, (_, was_ours), (_, was_theirs) = record.get(pair.key, (-1, (0, ""), (0, "")))
            assert ours == theirs or (size, was_ours, was_theirs) == (ours[0], ours[1], theirs[1])
            assert ours[0] == theirs[0]
        else:
            assert pair.key not in source
            assert pair.key not in target
    assert {key: size for key, (size, _) in after.items()} == {key: size for key, (size, _) in source.items()}


@given(
    st.lists(KEYS, min_size=2, max_size=8).filter(
        lambda keys: any(b <= a for a, b in itertools.pairwise(keys))
    )
)
def test_a_listing_out_of_order_is_found_out(keys: list[str]) -> None:
    """A store that lists in another order, or a name twice, is never merged as if it did not."""
    rows = [Entry(key, 1, "a") for key in keys]
    with pytest.raises(Disordered):
        list(paired(rows, [], []))
    with pytest.raises(Disordered):
        list(paired([], rows, []))


def test_the_merge_reads_no_further_than_it_must() -> None:
    """Nothing is collected: each listing is one row ahead of what was given out."""
    taken = [0, 0]

    def endless(side: int) -> Iterator[Entry]:
        for number in range(1_000_000):
            taken[side] += 1
            yield Entry(f"{number:07d}", 1, "a")

    pairs: Iterable[Pair] = paired(endless(0), endless(1), [])
    for _, pair in zip(range(500), pairs, strict=False):
        assert judged(pair) is Verdict.SAME
    assert max(taken) <= 502
