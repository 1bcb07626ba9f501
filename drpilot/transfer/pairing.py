"""Two listings side by side, and what is to be done about each name: pure, and a stream whatever the listings' length.

A listing gives its names in the order of their UTF-8 bytes, which is the order of Python's strings; one that does not
is found out here (Disordered) rather than taken for a bucket full of strangers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeVar

from drpilot.domain.objects import Entry

__all__ = ["Disordered", "Known", "Pair", "Verdict", "judged", "paired"]


class Disordered(Exception):
    """A listing whose names do not come in the order of their bytes; the message says which."""


class _Named(Protocol):
    @property
    def key(self) -> str: ...


N = TypeVar("N", bound=_Named)


@dataclass(frozen=True, slots=True)
class Known:
    """What our own record says: at one time both sides held the same `size_bytes` bytes, under these ETags."""

    key: str
    size_bytes: int
    source_etag: str
    target_etag: str
    source_version: str = ""
    target_version: str = ""
    md5: bytes = b""


@dataclass(frozen=True, slots=True)
class Pair:
    """One name, as each side has it; None where it hasn't."""

    key: str
    source: Entry | None
    target: Entry | None
    known: Known | None


class Verdict(Enum):
    """What is to be done about a name."""

    SAME = "same"
    COPY = "copy"
    SURPLUS = "surplus"  # the target alone has it
    GONE = "gone"  # nobody has it any more, only the record


def paired(source: Iterable[Entry], target: Iterable[Entry], known: Iterable[Known]) -> Iterator[Pair]:
    """Every name that any of the three has, once, in order. Raises Disordered."""
    ours, theirs, recorded = _ordered(source), _ordered(target), _ordered(known)
    here, there, before = next(ours, None), next(theirs, None), next(recorded, None)
    while here is not None or there is not None or before is not None:
        if here is not None and there is not None and here.key == there.key:
            key = here.key  # nearly always
        else:
            key = min(one.key for one in (here, there, before) if one is not None)
        if before is not None and before.key < key:
            key = before.key
        ours_has, theirs_has = here is not None and here.key == key, there is not None and there.key == key
        known_has = before is not None and before.key == key
        yield Pair(
            key, here if ours_has else None, there if theirs_has else None, before if known_has else None
        )
        if ours_has:
            here = next(ours, None)
        if theirs_has:
            there = next(theirs, None)
        if known_has:
            before = next(recorded, None)


def _ordered(rows: Iterable[N]) -> Iterator[N]:
    last: str | None = None
    for row in rows:
        if last is not None and row.key <= last:
            raise Disordered(f"{row.key!r} comes after {last!r}")
        last = row.key
        yield row


def judged(pair: Pair) -> Verdict:
    """What is to be done. Equal are: what the record says is unchanged on both sides, and equal ETags of equal size.

    Different ETags prove a difference only where both are an MD5 (no `-` in them); where one is not and the record
    says nothing, nobody knows, and it is copied.
    """
    source, target, known = pair.source, pair.target, pair.known
    if source is None:
        return Verdict.SURPLUS if target is not None else Verdict.GONE
    if target is None or source.size_bytes != target.size_bytes:
        return Verdict.COPY
    if source.etag == target.etag and source.etag:
        return Verdict.SAME
    recorded = known is not None and (known.size_bytes, known.source_etag, known.target_etag) == (
        source.size_bytes,
        source.etag,
        target.etag,
    )
    return Verdict.SAME if recorded else Verdict.COPY
