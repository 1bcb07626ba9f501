"""A ground for this process, made once: in memory where the machine has a file system there."""

from __future__ import annotations

import atexit
import gc
import shutil
import tempfile
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from tests.simulation.ground import Ground, made

__all__ = ["ground"]

_MEMORY = Path("/dev/shm")


@cache
def ground() -> Ground:
    """The ground of this process."""
    folder = Path(tempfile.mkdtemp(prefix="drpilot-simulation-", dir=_MEMORY if _MEMORY.is_dir() else None))
    stack = ExitStack()
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    found = stack.enter_context(made(folder))
    atexit.register(stack.close)
    gc.collect()
    gc.freeze()  # what the start state is made of is never garbage
    return found
