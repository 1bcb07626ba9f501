"""What a standby waits as and grows to, on either side of a pair."""

from __future__ import annotations

import pytest

from drpilot.domain.group import Group, Map, Objectives, StandbySize, Tier
from drpilot.domain.sizing import grown_types, waiting_type

TIER = Tier("db", standby=StandbySize(size="m1.small", grow="m1.large", otherwise=("m1.xlarge", "m2.xlarge")))
GROUP = Group(
    "shop",
    "home",
    "away",
    Objectives(900, 1800),
    (TIER,),
    Map(types={"m5.large": "m1.large", "m5.xlarge": "m1.xlarge"}),
)


def sizes(member: str, source: str, *, alike: bool, tier: Tier = TIER) -> tuple[str, ...]:
    """The waiting type, then the grown ones."""
    waits = waiting_type(GROUP, tier, member, source, alike=alike)
    return (waits, *grown_types(GROUP, tier, member, source, alike=alike))


@pytest.mark.parametrize("alike", [True, False])
def test_towards_the_secondary_the_file_is_taken_at_its_word(alike: bool) -> None:
    """What the file names is sent as it stands."""
    assert sizes("m5.large", "home", alike=alike) == ("m1.small", "m1.large", "m1.xlarge", "m2.xlarge")


def test_on_the_way_home_the_map_is_read_backwards() -> None:
    """Types with a partner become it; without one they keep their name only between clouds of a kind."""
    assert sizes("m1.large", "away", alike=True) == ("m1.small", "m5.large", "m5.xlarge", "m2.xlarge")
    assert sizes("m1.large", "away", alike=False) == ("m5.large", "m5.large", "m5.xlarge")


def test_without_a_word_in_the_file_the_members_partner_is_taken() -> None:
    """No size and no grow: the partner of the member's type, on both ways."""
    plain = Tier("db")
    assert sizes("m5.large", "home", alike=False, tier=plain) == ("m1.large", "m1.large")
    assert sizes("m1.large", "away", alike=False, tier=plain) == ("m5.large", "m5.large")
