"""`make simulate`: many seeds on all cores, what they met, and for each that fails the one command that replays it.

python -m tests.simulation --seeds 500 [--from 0] [--story NAME] [--workers 2]
python -m tests.simulation --trace SEED [--story NAME]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed

from drpilot.base.clock import RealClock
from drpilot.base.log import configure
from tests.simulation.play import Played, play
from tests.simulation.stage import ground
from tests.simulation.stories import STORIES
from tests.simulation.storm import KINDS

__all__ = ["main", "table"]


def _played(seed: int, story: str | None) -> Played:
    configure()
    found = play(ground(), seed, story)
    found.lines.clear()  # a replay prints them
    return found


def replay_command(seed: int, story: str | None) -> str:
    """What replays a seed with a trace."""
    return f"python -m tests.simulation --trace {seed}" + (f" --story '{story}'" if story else "")


def table(met: Counter[tuple[str, str]]) -> str:
    """Which kinds of fault met which actions: counts, a row an action, a column a kind."""
    actions = sorted({action for _, action in met})
    width = max((len(action) for action in actions), default=0)
    heads = [f"{number}: {kind.name}" for number, kind in enumerate(KINDS, start=1)]
    lines = ["; ".join(heads), " " * width + "".join(f"{number:>6}" for number in range(1, len(KINDS) + 1))]
    for action in actions:
        counts = "".join(f"{met[kind.name, action] or '':>6}" for kind in KINDS)
        lines.append(f"{action:<{width}}{counts}")
    return "\n".join(lines)


def unmet(met: Counter[tuple[str, str]]) -> list[str]:
    """The pairs that no seed had: an action with the kinds of fault that never struck in it."""
    actions = sorted({action for _, action in met if action != "-"})
    lacking = {action: [kind.name for kind in KINDS if not met[kind.name, action]] for action in actions}
    return [f"never met in {action}: {', '.join(kinds)}" for action, kinds in lacking.items() if kinds]


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")


def _many(seeds: Iterable[int], story: str | None, workers: int) -> int:
    clock = RealClock()
    began_s, met, stories, failed, count = clock.monotonic(), Counter[tuple[str, str]](), Counter[str](), 0, 0
    with ProcessPoolExecutor(workers) as pool:
        for future in as_completed([pool.submit(_played, seed, story) for seed in seeds]):
            played = future.result()
            met += played.met
            count += 1
            stories[played.story] += 1
            if played.violations:
                failed += 1
                sys.stdout.write(f"seed {played.seed} ({played.story})\n")
                sys.stdout.writelines(f"  {text}\n" for text in played.violations)
                sys.stdout.write(f"  replay: {replay_command(played.seed, story)}\n")
            if count % 10 == 0:
                sys.stderr.write(f"{count} seeds, {failed} failed, {clock.monotonic() - began_s:.0f} s\n")
            sys.stdout.flush()
    sys.stdout.write("\n".join([table(met), *unmet(met)]) + "\n")
    told = ", ".join(f"{number} {name}" for name, number in sorted(stories.items()))
    spent_s = clock.monotonic() - began_s
    sys.stdout.write(
        f"{count} seeds ({told}): {failed} failed; {sum(met.values())} faults met; {spent_s:.0f} s, "
        f"{spent_s * workers / max(1, count):.2f} s a seed and worker\n"
    )
    return 1 if failed else 0


def main(arguments: list[str] | None = None) -> int:
    """Play what is asked for; 1 when a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--story", choices=sorted(STORIES))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--trace", type=int)
    given = parser.parse_args(arguments)
    if given.trace is None:
        return _many(range(given.first, given.first + given.seeds), given.story, given.workers)
    configure()
    played = play(ground(), given.trace, given.story, echo=_print)
    _print(f"digest {played.digest}; {'; '.join(played.ended)}")
    return 1 if played.violations else 0


if __name__ == "__main__":
    sys.exit(main())
