"""Networks of the loopback that nobody else uses while they are held: guests of two labs must not share addresses.

Several labs live at once in one test process (of a session, of a module) and in several processes; each holds a pair
of /16 blocks beside those that a practice lab takes (16 to 215), by a lock that ends with the process at the latest.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["reserved"]

_PAIRS = (*range(216, 253, 2), *range(2, 15, 2))


@contextmanager
def reserved() -> Iterator[int]:
    """The second octet of the first of two /16 blocks, ours until the end."""
    folder = Path(tempfile.gettempdir()) / f"drpilot-test-networks-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for first in _PAIRS:
        descriptor = os.open(folder / str(first), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        try:
            yield first
        finally:
            os.close(descriptor)
        return
    raise RuntimeError("all networks of the loopback that tests may take are held by other tests")
