"""Fixtures of the copies: one pair of lab processes for all, as on the first day for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drpilot.lab.process import World
from tests.transfer.world import SPEED, Yard, in_process, over_http


@pytest.fixture(scope="session")
def running_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Home and away as processes."""
    world = World(tmp_path_factory.mktemp("pair"))
    world.up(("home", "away"), speed=SPEED)
    yield world
    world.down()


@pytest.fixture
def pair(running_pair: World) -> World:
    """The running processes, as on the first day."""
    running_pair.reset()
    return running_pair


@pytest.fixture(params=["http-fast", "http-sdk", "inprocess"])
def yard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Yard]:
    """A world on each ground: our engine and botocore over HTTP, and botocore in this process."""
    if request.param == "inprocess":
        with in_process(tmp_path) as made:
            yield made
        return
    with over_http(tmp_path, request.getfixturevalue("pair"), request.param.removeprefix("http-")) as made:
        yield made


@pytest.fixture
def fast(pair: World, tmp_path: Path) -> Iterator[Yard]:
    """A world over HTTP with our own engine."""
    with over_http(tmp_path, pair, "fast") as made:
        yield made
