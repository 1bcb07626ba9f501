"""A file that appears whole or not at all, and never in place of another.

It is written without a name (`O_TMPFILE`), so that even a killed process leaves nothing behind, and linked under its
name at the end (linkat(2)); that fails where the name is taken. Where a file system knows no nameless files it has a
hidden name until then.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from drpilot.base.errors import DrpilotError

__all__ = ["NewFile", "reading", "writing"]

_NO_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within, what the operating system refuses is `file-unwritable`, a name that is taken `output-exists`."""
    try:
        yield
    except FileExistsError as error:
        raise DrpilotError("output-exists", path=str(path)) from error
    except OSError as error:
        raise DrpilotError("file-unwritable", path=str(path), what=error.strerror or str(error)) from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Within, a missing file is `unknown-file`, and what the operating system refuses `file-unreadable`."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DrpilotError("unknown-file", file=str(path)) from error
    except OSError as error:
        raise DrpilotError("file-unreadable", path=str(path), what=error.strerror or str(error)) from error


class NewFile:
    """A new file at `path`, open for writing as `fd`. A context manager: without `publish` nothing remains of it."""

    def __init__(self, path: Path, mode: int = 0o644) -> None:
        self.path = path
        self._hidden: Path | None = None
        with writing(path):
            if os.path.lexists(path):
                raise FileExistsError
            try:
                self.fd = os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
            except OSError as error:
                if error.errno not in _NO_NAMELESS or not path.parent.is_dir():
                    raise
                self._hidden = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
                flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
                self.fd = os.open(self._hidden, flags, mode)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data` at `offset`."""
        with writing(self.path):
            view = memoryview(data)
            while view:
                done = os.pwrite(self.fd, view, offset)
                view, offset = view[done:], offset + done

    def resize(self, size_bytes: int) -> None:
        """Make the file `size_bytes` long; what was never written reads as zeros and takes no room."""
        with writing(self.path):
            os.ftruncate(self.fd, size_bytes)

    def publish(self) -> None:
        """Give the file its name; raises `output-exists`, `file-unwritable`."""
        with writing(self.path):
            if self._hidden is not None:
                os.link(self._hidden, self.path)
                self._hidden.unlink()
                self._hidden = None
                return
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:  # a folder's descriptor makes Python call linkat, the only call that names a nameless file
                os.link(f"/proc/self/fd/{self.fd}", self.path.name, dst_dir_fd=folder, follow_symlinks=True)
            finally:
                os.close(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)
        if self._hidden is not None:
            self._hidden.unlink(missing_ok=True)
