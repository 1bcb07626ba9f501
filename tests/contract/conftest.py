"""The contract runs on each ground; the known gaps of a ground are strict."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.grounds import GAPS, GROUNDS, Ground, opened


@pytest.fixture(scope="session", params=GROUNDS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A ground, started once."""
    with opened(request.param, tmp_path_factory.mktemp(request.param)) as ground:
        yield ground


@pytest.fixture
def ground(request: pytest.FixtureRequest, running: Ground) -> Ground:
    """The ground for one test, which must fail where the table says that it does."""
    known = GAPS[running.name].get(request.node.originalname)
    if known is not None:
        request.node.add_marker(pytest.mark.xfail(reason=f"{running.name}: {known}", strict=True))
    return running
