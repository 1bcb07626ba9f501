"""A service process of the tiny world: `python -m tests.services.serving FOLDER SECONDS_A_STEP`, until SIGTERM.

Each happening is one line on stdout: what, run, text.
"""

from __future__ import annotations

import sys
from pathlib import Path

from drpilot.base.clock import RealClock
from drpilot.domain.run import RunView
from drpilot.journal.journal import NewRun
from drpilot.serve import Options, serve
from drpilot.services.watch import Happening
from tests.services.world import Tiny, replicate_plan


def main(folder: str, seconds: str) -> int:
    """Serve the journal in `folder`; every step takes `seconds`."""
    world = Tiny(Path(folder), RealClock(), seed=None)
    world.outside.usual_s = float(seconds)

    def begin(mode: str, group: str) -> RunView:
        point = world.journal.new_id()
        return world.journal.create(NewRun(world.journal.new_id(), replicate_plan(point, group), "serve"))

    def tell(happening: Happening) -> None:
        sys.stdout.write(f"{happening.what} {happening.run or '-'} {happening.text}\n")
        sys.stdout.flush()

    return serve(world.house, Options(begin=begin, tell=tell))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
