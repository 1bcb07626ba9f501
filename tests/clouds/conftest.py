"""Fixtures for tests of the room `clouds`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.grounds import Door, key_file


@pytest.fixture
def door(tmp_path: Path) -> Door:
    """A site at a URL yet to be set, with a manual clock."""
    return Door("http://127.0.0.1:9", key_file(tmp_path))
