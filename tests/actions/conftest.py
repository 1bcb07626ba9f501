"""The protected shop, built and replicated once for this directory; each test finds it as on the first day."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.actions.world import World, opened


@pytest.fixture(scope="session")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The shop at home, one point and the standbys on away."""
    with opened(tmp_path_factory.mktemp("shop")) as world:
        world.begin("replicate", "home", "away").all()
        world.save()
        yield world


@pytest.fixture
def world(protected: World) -> World:
    """The protected shop, put back to its first day."""
    protected.restore()
    return protected
