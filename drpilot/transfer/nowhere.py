"""A sink that keeps nothing: what is copied there leaves its map."""

from __future__ import annotations

from collections.abc import Mapping

from drpilot.formats.blockmap import BlockMap
from drpilot.transfer.block import BlockWriter, Result
from drpilot.transfer.pace import Pace

__all__ = ["Nowhere"]


class Nowhere:
    """Takes every block and forgets it."""

    name = "nowhere"
    blank = True

    def __init__(self) -> None:
        self.pace: Pace | None = None

    def held(self) -> BlockMap | None:
        """Nothing."""
        return None

    def check(self, base: BlockMap) -> None:
        """Any base will do."""

    def begin(self, size_bytes: int, token: str, state: Mapping[str, str]) -> dict[str, str]:
        """Nothing needs to be made ready."""
        return {"kept": "nothing"}

    def writer(self) -> BlockWriter:
        """Shared by all threads."""
        return self

    def write(self, index: int, data: memoryview, sha256: bytes) -> None:
        """Forget it."""

    def clear(self, start: int, stop: int) -> int:
        """Nothing is there."""
        return 0

    def sync(self) -> None:
        """Nothing is there."""

    def finish(self, result: Result) -> dict[str, str]:
        """The map alone is left."""
        return {}

    def close(self) -> None:
        """Nothing is held."""
