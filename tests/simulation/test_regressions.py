"""Seeds that once found something, by name.

One that can't be mended yet belongs here too, as a strict xfail: whoever mends it is told so by the suite.
"""

from __future__ import annotations

import pytest

from tests.simulation.play import play
from tests.simulation.stage import ground

pytestmark = pytest.mark.crash

STALLED = ("stalled past its lease",)


@pytest.mark.parametrize(
    ("story", "seed", "only"),
    [
        pytest.param("replicate", 6, STALLED, id="a stalled driver comes back to a run that another drives"),
        pytest.param("failover", 6, STALLED, id="a checkpoint of a driver that was taken over"),
        pytest.param(
            "replicate", 1, STALLED, id="a call without a client token that leaves after a take-over"
        ),
        pytest.param(
            "drill", 0, ("seen late", "reply lost"), id="a drill that fails at once leaves its network"
        ),
        pytest.param("reprotect", 16, None, id="a stale look says that no volume was attached"),
        pytest.param("failover", 236, None, id="a claim in a bucket, and volumes that were not listed yet"),
    ],
)
def test_what_was_found_stays_mended(story: str, seed: int, only: tuple[str, ...] | None) -> None:
    """The seed plays to its end, and every invariant holds."""
    played = play(ground(), seed, story, only=only)
    assert played.met.total()
    assert not played.violations
