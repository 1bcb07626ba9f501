"""One process that runs N trivial durable steps, by drpilot's engine or by DBOS, and tells what they took.

    python -m tests.bench.steps drpilot|dbos seq|par COUNT URL
    python -m tests.bench.steps killed|resumed AT COUNT URL

Started anew for each measurement, so that neither side meets the caches, threads or databases of the other. Only the
steps are measured: imports, tables and the making of the run lie before, on both sides.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from time import monotonic, process_time
from typing import Any

WIDE = 16  # attempts under way at once


def told(steps: int, began: tuple[float, float], found: int) -> None:
    """Print the measurement; `found` is how many steps the database says were recorded."""
    wall_s, cpu_s = monotonic() - began[0], process_time() - began[1]
    assert found == steps, f"{found} of {steps} steps were recorded"
    rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"wall_s": wall_s, "cpu_s": cpu_s, "rss_bytes": rss_bytes}))


def house(url: str, begun: Callable[[int], None] = lambda number: None) -> tuple[Any, Any]:
    """A journal and a driver over the real engine; `begun` is told the number of each step when it starts."""
    from drpilot.base.clock import Chance, RealClock
    from drpilot.engine.context import World
    from drpilot.engine.drive import Driver
    from drpilot.journal.database import Database
    from drpilot.journal.journal import Journal
    from tests.engine.world import LookAt, Shelf, catalogue

    class Told(LookAt):
        """A look that tells when it starts."""

        def start(self, ctx: Any, given: Any) -> Any:
            begun(given.at_least)
            return super().start(ctx, given)

    def nowhere(name: str = "") -> Any:
        raise AssertionError(f"there is no site {name}")

    clock, shelf = RealClock(), Shelf()
    journal = Journal(Database(url), clock, Chance(1))
    actions = {**catalogue(shelf), "check.source": Told(shelf)}
    return journal, Driver(journal, actions, World(nowhere, nowhere), clock, parallel=WIDE)


def made(journal: Any, count: int, *, wide: bool) -> str:
    """A run of `count` looks that find what they want at once."""
    from drpilot.journal.journal import NewRun
    from tests.engine.world import GROUP, plan, step

    journal.protect(GROUP, "", "bench")
    steps = [
        step(f"s{n}", "check.source", needs=() if wide or n == 0 else (f"s{n - 1}",), given={"at_least": n})
        for n in range(count)
    ]
    run: str = journal.create(NewRun(journal.new_id(), plan(*steps, parallel=WIDE), "bench")).id
    return run


def with_drpilot(count: int, url: str, *, wide: bool) -> None:
    """A run on the real engine, journal and threads."""
    from drpilot.journal.holder import present_holder

    journal, driver = house(url)
    run = made(journal, count, wide=wide)
    began = monotonic(), process_time()
    view = driver.drive(run, present_holder("bench")).view
    assert view.result == "succeeded", view.result
    told(count, began, sum(attempt.state == "ok" for _, attempt in journal.attempts(run)))
    journal.database.close()


def killed(at: int, count: int, url: str) -> None:
    """Drive a run in a row, and die by SIGKILL when step `at` starts."""
    from drpilot.journal.holder import present_holder

    def die(number: int) -> None:
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    journal, driver = house(url, die)
    driver.drive(made(journal, count, wide=False), present_holder("bench"))


def resumed(at: int, count: int, url: str) -> None:
    """Take such a run over in a new process, and tell when the step behind the one it died in started."""
    from drpilot.journal.holder import present_holder

    began = monotonic(), process_time()

    def tell(number: int) -> None:
        assert number >= at, f"step {number} had ended, and was done again"
        if number == at + 1:
            told(1, began, 1)

    journal, driver = house(url, tell)
    view = driver.drive(journal.view("shop").id, present_holder("bench")).view
    assert view.result == "succeeded", view.result
    assert len(view.steps) == count
    journal.database.close()


def with_dbos(count: int, url: str, *, wide: bool) -> None:
    """The same steps in one workflow of DBOS: one after the other, or as async steps, at most `WIDE` at once."""
    from dbos import DBOS, DBOSConfig

    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": url,
        "application_version": "1",
        "executor_id": "1",
        "run_admin_server": False,
        "log_level": "ERROR",
        "sys_db_pool_size": 20,
    }
    DBOS(config=config)

    @DBOS.step()
    def one(n: int) -> dict[str, Any]:
        return {"count": n, "alive": True}

    @DBOS.step()
    async def one_of_many(n: int) -> dict[str, Any]:
        return {"count": n, "alive": True}

    @DBOS.workflow()
    def in_a_row() -> int:
        return sum(1 for n in range(count) if one(n)["alive"])

    @DBOS.workflow()
    async def side_by_side() -> int:
        places = asyncio.Semaphore(WIDE)

        async def placed(n: int) -> bool:
            async with places:
                return bool((await one_of_many(n))["alive"])

        return sum(await asyncio.gather(*(placed(n) for n in range(count))))

    @DBOS.workflow()
    def warm() -> int:
        return 1

    DBOS.launch()
    assert warm() == 1

    async def beside() -> tuple[str, tuple[float, float]]:
        began = monotonic(), process_time()
        handle = await DBOS.start_workflow_async(side_by_side)
        assert await handle.get_result(polling_interval_sec=0.01) == count
        return handle.workflow_id, began

    if wide:
        workflow, began = asyncio.run(beside())
    else:
        began = monotonic(), process_time()
        handle = DBOS.start_workflow(in_a_row)
        assert handle.get_result(polling_interval_sec=0.01) == count
        workflow = handle.workflow_id
    taken = (monotonic() - began[0], process_time() - began[1])
    found = sum(
        step["function_name"].endswith(("one", "one_of_many")) for step in DBOS.list_workflow_steps(workflow)
    )
    told(count, (monotonic() - taken[0], process_time() - taken[1]), found)
    DBOS.destroy()


SIDES: dict[str, Callable[..., None]] = {"drpilot": with_drpilot, "dbos": with_dbos}

if __name__ == "__main__":
    side, how, number, where = sys.argv[1:5]
    if side in SIDES:
        SIDES[side](int(number), where, wide=how == "par")
    else:
        {"killed": killed, "resumed": resumed}[side](int(how), int(number), where)
