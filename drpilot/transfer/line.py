"""An assembly line of threads: stages joined by bounded channels, stopped together by the first failure.

Compression, ciphers, hashes and file I/O release the interpreter's lock, so threads of one process keep every core busy
without copying a byte between processes. A stage waits only for its neighbours, and each of them ends or fails.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

__all__ = ["Channel", "Line"]

T = TypeVar("T")


class _Stopped(Exception):
    """The line has failed elsewhere."""


class Line:
    """The stages of one work. As a context manager it ends with every thread joined and raises the first failure."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.failure: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def stage(self, name: str, work: Callable[[], None]) -> None:
        """Run `work` in a thread of its own; what it raises stops the line."""
        thread = threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def channel(self, depth: int) -> Channel[T]:
        """A channel of this line that holds at most `depth` items."""
        return Channel(self, depth)

    def stop(self, error: BaseException) -> None:
        """Stop every stage; the first error given is the line's."""
        with self.changed:
            if self.failure is None:
                self.failure = error
            self.changed.notify_all()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except _Stopped:
            return
        except BaseException as error:  # noqa: BLE001 - raised again where the line is waited for
            self.stop(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.stop(error)
        for thread in self._threads:
            thread.join()
        if self.failure is not None and self.failure is not error:
            raise self.failure


class Channel(Generic[T]):
    """A bounded queue between two stages of a line; iterating it ends when the giver closed it."""

    def __init__(self, line: Line, depth: int) -> None:
        self._line = line
        self._depth = depth
        self._items: deque[T] = deque()
        self._closed = False

    def put(self, item: T) -> None:
        """Hand over an item, waiting for room."""
        changed = self._line.changed
        with changed:
            changed.wait_for(lambda: self._line.failure is not None or len(self._items) < self._depth)
            self._check()
            self._items.append(item)
            changed.notify_all()

    def close(self) -> None:
        """Say that no more items come."""
        with self._line.changed:
            self._closed = True
            self._line.changed.notify_all()

    @property
    def full(self) -> bool:
        """Whether the next `put` would wait."""
        return len(self._items) >= self._depth

    def __iter__(self) -> Iterator[T]:
        changed = self._line.changed
        while True:
            with changed:
                changed.wait_for(lambda: self._line.failure is not None or self._items or self._closed)
                self._check()
                if not self._items:
                    return
                item = self._items.popleft()
                changed.notify_all()
            yield item

    def _check(self) -> None:
        if self._line.failure is not None:
            raise _Stopped
