"""Fence verdicts and the epoch: pure rules, exhaustively and over random histories."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drpilot.domain.fence import (
    BLOCKING,
    Claim,
    Rung,
    Verdict,
    claimed,
    confirmed,
    released,
    seized,
    verdict,
    worse,
)

RUNGS = [
    Rung(name, applied, verified, writers_left=left)
    for name, applied, verified, left in product(
        ["traffic", "scale", "stop", "deny"], [True, False], [True, False], [0, 1]
    )
]


@pytest.mark.row(84)
def test_fenced_needs_a_blocking_rung_verified_with_no_writer_left() -> None:
    """Every pair of rungs: fenced exactly if one blocks, is verified and leaves no writer."""
    for rungs in product(RUNGS, repeat=2):
        blocks = any(r.name in BLOCKING and r.verified and r.writers_left == 0 for r in rungs)
        expected = (
            Verdict.FENCED
            if blocks
            else Verdict.PARTIAL
            if any(r.applied for r in rungs)
            else Verdict.UNVERIFIED
        )
        assert verdict(rungs) is expected
    assert verdict([]) is Verdict.UNVERIFIED


def test_worse_is_a_strict_order() -> None:
    """A second question only when the verdict is worse than foretold."""
    order = [Verdict.FENCED, Verdict.PARTIAL, Verdict.UNVERIFIED]
    for found, foretold in product(order, order):
        assert worse(found, foretold) == (order.index(found) > order.index(foretold))


MOVES = st.lists(
    st.tuples(st.sampled_from(["claim", "commit", "release"]), st.sampled_from(["r1", "r2", "r3"])),
    max_size=30,
)


@pytest.mark.row(85)
@given(MOVES)
def test_the_epoch_only_rises_and_one_run_holds_it(moves: list[tuple[str, str]]) -> None:
    """Invariants 1 and 2 over random histories of claims, commits and releases by several runs."""
    current: Claim | None = None
    for move, run in moves:
        before = current
        if move == "claim":
            source = current.active if current else "home"
            target = "away" if source == "home" else "home"
            wanted = claimed(current, group="shop", source=source, target=target, run=run)
            if before is not None and before.run not in (None, run):
                assert wanted is None
            current = wanted or current
        elif current is not None:
            current = (confirmed(current, run) if move == "commit" else released(current, run)) or current
        if before is not None and current is not None:
            assert current.epoch >= before.epoch
            assert (current.epoch > before.epoch) or (current.active == before.active)


def test_a_claim_is_found_again_by_its_own_run_and_refused_to_others() -> None:
    """A lost reply is no second epoch."""
    first = claimed(None, group="shop", source="home", target="away", run="r1")
    assert first == Claim("shop", 2, "away", "r1", "home")
    assert claimed(first, group="shop", source="home", target="away", run="r1") is first
    assert claimed(first, group="shop", source="home", target="away", run="r2") is None
    settled = confirmed(first, "r1")
    assert settled == Claim("shop", 2, "away")
    assert claimed(settled, group="shop", source="home", target="away", run="r2") is None
    assert confirmed(first, "r2") is None
    assert confirmed(settled, "r9") is settled


def test_release_gives_the_old_side_a_higher_epoch() -> None:
    """Rolling back never lowers the epoch: a stale holder can't look current."""
    claim = Claim("shop", 5, "away", "r1", "home")
    assert released(claim, "r1") == Claim("shop", 6, "home")
    assert released(claim, "r2") is None
    assert released(Claim("shop", 5, "away"), "r1") is None


def test_a_survivor_is_claimed_above_everything_or_left_where_it_is() -> None:
    """Every claim, every epoch of the journal: the epoch never falls, is raised once, and a repeat finds its own."""
    claims = [None] + [
        Claim("shop", epoch, active, run)
        for epoch, active, run in product(range(1, 5), ["home", "away"], [None, "mine", "other"])
    ]
    for current, epoch in product(claims, range(1, 5)):
        if current is not None and current.run == "mine" and current.epoch <= epoch:
            continue  # a run's own claim always lies above the journal's epoch
        claim = seized(current, group="shop", survivor="away", epoch=epoch, run="mine")
        assert claim.active == "away"
        assert claim.epoch >= max(epoch, current.epoch if current else 1)
        assert claim == seized(claim, group="shop", survivor="away", epoch=epoch, run="mine")
        final = confirmed(claim, "mine")
        assert final is not None
        assert (final.active, final.run) == ("away", None)
        named = current is not None and current.active == "away" and current.epoch >= epoch
        if named and current is not None and current.run is None:
            assert claim == current  # the witness says so already
        elif claim != current:
            assert claim.epoch > max(epoch, current.epoch if current else 1)
            assert claim.run == "mine"
