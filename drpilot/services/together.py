"""Many looks at once, each in a thread of its own, all within one bound: a hanging cloud holds nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Thread

from drpilot.base.errors import DrpilotError
from drpilot.domain.ports import CloudError
from drpilot.services.checked import Checked, unknown

__all__ = ["Task", "together"]


@dataclass(frozen=True, slots=True)
class Task:
    """One look: `scope` is the name of the group or site it is about."""

    name: str
    scope: str
    work: Callable[[], Iterable[Checked]]


def together(tasks: Sequence[Task], bound_s: float) -> Iterable[Checked]:
    """The results of all tasks in their order; what has no answer within `bound_s` seconds is unknown.

    Daemon threads, so that what hangs is left behind.
    """
    answers: Queue[tuple[int, tuple[Checked, ...]]] = Queue()

    def run(index: int, task: Task) -> None:
        answers.put((index, _tried(task)))

    for index, task in enumerate(tasks):
        Thread(target=run, args=(index, task), name=f"check-{task.name}", daemon=True).start()
    done: dict[int, tuple[Checked, ...]] = {}
    # The bound is real time, whatever clock the house runs on: it protects who waits at the terminal.
    ticks = max(1, round(bound_s / 0.05))
    while len(done) < len(tasks) and ticks > 0:
        try:
            index, result = answers.get(timeout=0.05)
        except Empty:
            ticks -= 1
        else:
            done[index] = result
    for index, task in enumerate(tasks):
        late = (unknown(task.name, task.scope, "an answer", f"no answer within {bound_s:.0f} s"),)
        yield from done.get(index, late)


def _tried(task: Task) -> tuple[Checked, ...]:
    """One task; a cloud that refuses or fails makes its check unknown, with the cloud's own word."""
    try:
        return tuple(task.work())
    except CloudError as error:
        said = f"{error.site} {error.operation}: {error.code}: {error.message}"
    except DrpilotError as error:
        said = error.title + (f": {error.why}" if error.why else "")
    except Exception as error:  # noqa: BLE001 - one check's bug must not hide what the others saw
        said = f"internal error: {error!r}"
    return (unknown(task.name, task.scope, "an answer", said),)
