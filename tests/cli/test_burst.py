"""`drpilot burst` as people type it: shown, consented to, refused a second time, seen in status, ended."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drpilot.cli import look
from drpilot.cli.bursting import Extra, burst
from drpilot.services.protect import protect
from tests.actions.test_burst import alive, burst_section, reach_home, records
from tests.actions.world import World, opened
from tests.cli.desk import Desk
from tests.services.shop import Shop


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Path]]:
    """The shop with a burst in its file, protected and replicated."""
    folder = tmp_path_factory.mktemp("burst")
    with opened(folder, ttl_s=1) as world:
        world.text += burst_section(reach_home(world, folder), desired="1")
        shop = Shop(world, folder)
        protect(shop.house, world.text, "shop.yaml")
        assert shop.run("replicate") == "succeeded"
        shop.house.journal.database.close()
        world.save()
        yield world, folder


@pytest.fixture
def shop(kept: tuple[World, Path], tmp_path: Path) -> Shop:
    """The kept shop put back."""
    world, folder = kept
    world.restore()
    for path in folder.glob("journal.db*"):
        shutil.copy2(path, tmp_path / path.name)
    return Shop(world, tmp_path)


def extra(**more: Any) -> Extra:
    """The options of one command."""
    return Extra(**more)


def test_the_screen_says_what_starts_what_it_uses_and_what_stays(shop: Shop) -> None:
    """--dry-run: machines, image, share, hours, vCPUs and the end, on one screen; nothing is changed."""
    said = Desk(shop.house)(burst, group="shop", extra=extra(dry_run=True, lasts="90m", capacity=2))
    assert said.code == 0
    image = shop.house.journal.points("shop")[0].replica("shop-web", "image").id
    for part in (
        "shop: BURST  home → away",
        "on away: web +2 t3.medium (at most 2)",
        f"image {image} of point",
        "25 % to away by weighted DNS, 75 % stay on home",
        "3 machine hours at the longest",
        "4 vCPUs, 0 of",
        "a failover needs",
        "after 1h30m at the longest",
        "no epoch, no fence, no data tier, no standby is touched",
        "nothing was changed",
    ):
        assert part in said.out, part
    document = Desk(shop.house)(burst, group="shop", output="json", extra=extra(dry_run=True)).document
    offered = document["proposal"]["burst"]
    assert (offered["capacity"], offered["lasts_seconds"], offered["cause"]) == (1, 14_400.0, "hand")
    assert shop.house.journal.runs("shop", limit=5)[0].mode == "replicate"


def test_a_burst_by_hand_from_its_consent_to_its_end(shop: Shop) -> None:
    """The name is typed; a second one is refused with 5; status shows it; --end removes it, and once more is fine."""
    desk = Desk(shop.house)
    unsaid = desk(burst, group="shop", output="json", extra=extra())
    assert (unsaid.code, unsaid.document["error"]["code"]) == (5, "DRP-4002")
    begun = desk(burst, group="shop", output="json", extra=extra(confirm="shop", lasts="1h"))
    assert (begun.code, begun.document["burst"]["state"]) == (0, "serving"), begun.err
    again = desk(burst, group="shop", output="json", extra=extra(confirm="shop"))
    assert (again.code, again.document["error"]["code"]) == (5, "DRP-4042")
    row = desk(look.status, group=None, output="json").document["rows"][0]
    assert (row["burst"]["site"], row["burst"]["capacity"], row["burst"]["weight_percent"]) == ("away", 1, 25)
    assert (
        "burst of web on away: 1 extra machine takes 25 % of the users" in desk(look.status, group=None).out
    )
    story = desk(look.report_show, run="shop", output="json")
    assert (story.code, story.document["kind"], story.document["result"]) == (0, "burst", "succeeded")
    ended = desk(burst, group="shop", extra=extra(end=True))
    assert (ended.code, "nothing of the burst is left" in ended.out) == (0, True), ended.err
    assert (alive(shop.world), records(shop.world)) == (0, [("", None)])
    idle = desk(burst, group="shop", output="json", extra=extra(end=True))
    assert (idle.code, idle.document["result"]) == (0, "no_burst")


def test_options_that_do_not_belong_to_the_end_are_refused(shop: Shop) -> None:
    """--end takes no numbers: a burst ends as a whole."""
    said = Desk(shop.house)(burst, group="shop", output="json", extra=extra(end=True, capacity=1))
    assert (said.code, said.document["error"]["code"]) == (2, "DRP-1001")
