"""What contradicts the journal, exhaustively: every fence, standby, sight and claim, against the rule in words."""

from __future__ import annotations

from itertools import product

import pytest

from drpilot.domain.fence import Claim
from drpilot.domain.sides import Held, quiet, witness_told, writers_told
from drpilot.domain.states import FAMILIES

SIGHTS = [None, (), ("i-1",), ("i-1", "i-2")]
FENCES = FAMILIES["fence"].words
STANDBYS = FAMILIES["standby"].words


@pytest.mark.parametrize("fence", FENCES)
def test_an_open_fence_claims_nothing_and_a_closed_one_always(fence: str) -> None:
    """Over all pairs of standbys: open fences say nothing, `fenced` speaks, else only rest or the invalidation does."""
    for pair, invalidated in product([(), *product(STANDBYS, repeat=2)], [False, True]):
        said = quiet(fence, pair, invalidated=invalidated)
        at_rest = bool(pair) and set(pair) <= {"ready", "unhealthy"}
        if fence == "fenced":
            assert said == "was seen fenced"
        elif fence in ("requested", "applying", "partial", "unverified"):
            assert said == ""
        else:
            assert bool(said) is (invalidated or at_rest)


def test_two_sides_that_run_contradict_only_a_side_that_must_not() -> None:
    """Every sight of both sides: false needs a claim, writers on the other side and writers on the active one."""
    for claim, defied, active, other in product(["", "was seen fenced"], [False, True], SIGHTS, SIGHTS):
        told = writers_told(Held("away", "home", quiet=claim, defied=defied), active, other)
        if not claim and not defied:
            expected = None  # an unverified fence is an open fence, and no split
        elif other == ():
            expected = True
        elif not other or not active:
            expected = None
        else:
            expected = False
        assert told.value is expected, (claim, defied, active, other)
        assert told.why
        if expected is False:
            assert all(name in told.why for name in (*other, "home", "away"))


CLAIMS = [None] + [
    Claim("shop", epoch, active, run)
    for epoch, active, run in product(range(1, 6), ["home", "away"], [None, "mine", "foreign"])
]


def test_the_witness_contradicts_by_another_side_or_an_unknown_move() -> None:
    """Every claim against every epoch: a live run explains it, a lower epoch is the past, a higher one is foreign."""
    for claim, epoch, more in product(CLAIMS, range(1, 4), range(2)):
        held = Held("away", "home", epoch, epoch + more, confirmed=epoch > 1, runs=frozenset({"mine"}))
        value = witness_told(held, claim).value
        if claim is None:
            assert value is (None if epoch > 1 else True)
        elif claim.run == "mine":
            assert value is True
        elif claim.active == "home":
            assert value is (None if claim.epoch < epoch else False)
        else:
            assert value is not (epoch > 1 and claim.epoch > epoch + more)


def test_a_journal_that_never_confirmed_a_move_learns_the_epoch() -> None:
    """A fresh journal of an old group is not a split, as long as the side is the same one."""
    fresh = Held("home", "away")
    assert witness_told(fresh, Claim("shop", 9, "home")).value is True
    assert witness_told(fresh, Claim("shop", 9, "away")).value is False
