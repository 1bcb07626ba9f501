"""Whose a launch configuration is: it has no tags, so its name alone says it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from drpilot.actions.launches import configurations, named
from drpilot.domain.ports import Site

HASHES = ("0123456789ab", "ba9876543210")


class Scaling:
    """A site with launch configurations of these names."""

    name = "away"
    capabilities = frozenset({"launch-configuration"})

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def pages(self, service: str, operation: str, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
        assert (service, operation) == ("autoscaling", "DescribeLaunchConfigurations")
        yield {"LaunchConfigurations": [{"LaunchConfigurationName": name} for name in self.names]}


def test_a_name_with_a_dot_is_not_part_of_a_shorter_one() -> None:
    """Scaling groups `shop` and `shop.eu`, and groups `shop` and `shop-eu`: each has its own and no other's."""
    owners = [
        ("shop", "web"),
        ("shop", "web.eu"),
        ("shop", "web.eu.west"),
        ("shop-eu", "web"),
        ("web", "shop"),
    ]
    names = {owner: sorted(named(*owner, hash_) for hash_ in HASHES) for owner in owners}
    foreign = ["drpilot.shop.web.eu", "drpilot.shop.by-hand", "drpilot.shop", "web.0123456789ab"]
    site = cast("Site", Scaling([*foreign, *(name for those in names.values() for name in those)]))
    assert {owner: configurations(site, *owner) for owner in owners} == names
    ours = [name for (group, _), those in names.items() for name in those if group == "shop"]
    assert configurations(site, "shop") == sorted(
        [*ours, *foreign[:2]]
    )  # a whole group's, whatever they are for
    assert configurations(site, "sho") == []


def test_names_of_any_length_stay_apart_and_within_the_bound() -> None:
    """Keys that differ in their last letter only, as long as a cloud takes them (255 characters)."""
    keys = ["k" * 254 + last for last in "ab"]
    names = [named("g" * 40, key, HASHES[0]) for key in keys]
    assert len(set(names)) == 2
    assert all(len(name) <= 255 for name in names)
    site = cast("Site", Scaling(names))
    assert [configurations(site, "g" * 40, key) for key in keys] == [[name] for name in names]
