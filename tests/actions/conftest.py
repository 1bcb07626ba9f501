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
def world(protected: World) -> Iterator[World]:
    """The protected shop, put back to its first day; afterwards every action must have called only the sites it names.

    `per_site` counts an attempt at the sites of its action's `at`: one that calls another is not counted there.
    """
    protected.restore()
    yield protected
    assert protected.strayed == set()
