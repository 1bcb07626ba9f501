"""The command tests' own clean surroundings: UTC, no colour wishes, no terminal of the developer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.desk import Desk
from tests.services.world import Tiny


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A group with points, a drill that passed and one that failed; only to be looked at."""
    return live(Tiny(tmp_path_factory.mktemp("lived")))


def live(tiny: Tiny) -> Tiny:
    """Ten minutes in the life of a group."""
    tiny.replicate()
    tiny.clock.advance(300)
    tiny.drill()
    tiny.clock.advance(300)
    tiny.replicate()
    tiny.outside.fails = {"tiers/web/healthy"}
    tiny.drill()
    tiny.outside.fails = set()
    tiny.journal.saw("home", answers=True, detail="answers as operator")
    tiny.journal.saw("away", answers=True, detail="answers as operator")
    tiny.clock.advance(45)
    return tiny


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """A tiny real world with one group."""
    return Tiny(tmp_path)


@pytest.fixture
def desk(tiny: Tiny) -> Desk:
    """A desk on the tiny world."""
    return Desk(tiny.house)
