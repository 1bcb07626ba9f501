"""Fixtures of the lab's core tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drpilot.lab.process import World
from tests.lab.core_world import Pair


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Home and away in this process, time moved by the test; closing finds errors nobody saw."""
    made = Pair(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def running_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Home and away as processes, fifty times as fast as the wall clock."""
    world = World(tmp_path_factory.mktemp("world"))
    world.up(("home", "away"), speed=50.0)
    yield world
    world.down()


@pytest.fixture
def lab_world(running_world: World) -> World:
    """The running processes, as on the first day."""
    running_world.up(("home", "away"), speed=50.0)
    running_world.reset()
    return running_world
