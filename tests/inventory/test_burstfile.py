"""The section `burst` of a group file: what it becomes, and where its mistakes stand."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from drpilot.domain.group import BurstAlarm, BurstPolicy, BurstSchedule
from drpilot.inventory.burstfile import MOST_USER_DATA_BYTES
from drpilot.inventory.groupfile import read, require_group

HEAD = """\
drpilot: 1
group: shop
primary: home
secondary: away
objectives: {rpo: 15m, rto: 30m}
tiers:
  db: {instances: {tag: tier=db}}
  app: {scaling_group: shop-app}
  web: {scaling_group: shop-web, load_balancer: shop-lb}
traffic: {name: shop.example.org, zone: Z1, site: edge}
"""
SITES = ("home", "away", "edge")


def mistakes(section: str, head: str = HEAD, file: str = "shop.yaml") -> list[str]:
    """What is said of a file with this section, with its place; its first line is line 11."""
    return [
        f"{one.where.partition(':')[2]}: {one.message}"
        for one in read(head + section, file, SITES).findings
        if one.severity == "error"
    ]


def test_a_whole_section(tmp_path: Path) -> None:
    """Everything that may be said; the file of the first boot is found beside the group file, known by its digest."""
    (tmp_path / "boot.sh").write_bytes(b"#!/bin/sh\nansible-pull\n")
    section = """\
burst:
  tier: web
  desired: 2
  max: 6
  weight: 30
  longest: 3h
  cooldown: 20m
  alarm: {name: shop-load, site: home, after: 3m, clear: 15m}
  schedule: {cron: "0 8 * * mon-fri", timezone: Europe/Rome, lasts: 2h}
  user_data: boot.sh
"""
    group = require_group(HEAD + section, str(tmp_path / "shop.yaml"), SITES)
    assert group.burst == BurstPolicy(
        tier="web",
        desired=2,
        maximum=6,
        weight=30,
        longest_s=10_800,
        cooldown_s=1200,
        alarm=BurstAlarm("shop-load", "home", 180, 900),
        schedule=BurstSchedule("0 8 * * mon-fri", "Europe/Rome", 7200),
        user_data_file=str(tmp_path / "boot.sh"),
        user_data_sha256=hashlib.sha256(b"#!/bin/sh\nansible-pull\n").hexdigest(),
    )


def test_the_least_that_must_be_said() -> None:
    """Tier, most machines and share; all else has a default, and without the section there is no burst."""
    group = require_group(HEAD + "burst: {tier: web, max: 3, weight: 20}\n", "shop.yaml", SITES)
    assert group.burst == BurstPolicy("web", 3, 3, 20)
    assert require_group(HEAD, "shop.yaml", SITES).burst is None


@pytest.mark.parametrize(
    ("section", "wanted"),
    [
        ("burst: {max: 3, weight: 20}\n", ["11:8: key 'tier' is missing under 'burst'"]),
        ("burst: {tier: web, max: 3, weight: 0}\n", ["weight"]),
        ("burst: {tier: web, max: 3, weight: 100}\n", ["weight"]),
        ("burst: {tier: web, max: 0, weight: 20}\n", ["max"]),
        ("burst: {tier: web, max: 3, weight: 20, percent: 3}\n", ["unknown key 'percent'"]),
        ("burst: {tier: web, max: 3, weight: 20, longest: 0m}\n", ["longer than nothing"]),
        (
            "burst: {tier: wbe, max: 3, weight: 20}\n",
            ["11:9: there is no tier 'wbe'; there are db, app, web"],
        ),
        ("burst: {tier: db, max: 3, weight: 20}\n", ["11:9: tier 'db' has instances: only a scaling group"]),
        (
            "burst: {tier: app, max: 3, weight: 20}\n",
            ["11:9: tier 'app' can't take users by itself: users come"],
        ),
        ("burst: {tier: web, max: 3, desired: 4, weight: 20}\n", ["11:28: desired 4 is more than max 3"]),
        (
            "burst:\n  tier: web\n  max: 3\n  weight: 20\n  alarm: {name: load, site: hone}\n",
            ["15:23: site 'hone' is not in drpilot.yaml (did you mean 'home'?)"],
        ),
        (
            "burst:\n  tier: web\n  max: 3\n  weight: 20\n  schedule: {cron: '0 8 * *'}\n",
            ["is no cron expression; it has five fields"],
        ),
        (
            (
                "burst:\n  tier: web\n  max: 3\n  weight: 20\n  longest: 1h\n"
                "  schedule: {cron: '0 8 * * *', lasts: 2h}\n"
            ),
            ["16:33: it lasts 2h, longest is 1h"],
        ),
        ("burst: {tier: web, max: 3, weight: 20, user_data: nowhere.sh}\n", ["11:40", "can't be read"]),
    ],
)
def test_mistakes_have_their_place(section: str, wanted: list[str]) -> None:
    """One error each, at file:line:column."""
    (said,) = mistakes(section)
    assert all(part in said for part in wanted), said


def test_a_burst_needs_a_name_for_the_users() -> None:
    """Without `traffic` nobody could be sent to the extra machines."""
    head = HEAD.replace("traffic: {name: shop.example.org, zone: Z1, site: edge}\n", "")
    (said,) = mistakes("burst: {tier: web, max: 3, weight: 20}\n", head)
    assert "a burst needs `traffic` and a tier with a load_balancer" in said


@pytest.mark.parametrize(("size", "wanted"), [(0, "is empty"), (MOST_USER_DATA_BYTES + 1, "at most 16384")])
def test_user_data_has_a_size(tmp_path: Path, size: int, wanted: str) -> None:
    """Nothing, or more than the cloud takes, is said before the night it is needed."""
    (tmp_path / "boot.sh").write_bytes(b"x" * size)
    section = "burst: {tier: web, max: 3, weight: 20, user_data: boot.sh}\n"
    (said,) = mistakes(section, file=str(tmp_path / "shop.yaml"))
    assert wanted in said
