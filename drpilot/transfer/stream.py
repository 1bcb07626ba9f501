"""The seam between blocks and streams: what is read or pushed as a source of blocks, and any source as a stream.

An image that comes out of a bundle, a pipe or a download is a stream; so is what a bundle or an import is made of.
"""

from __future__ import annotations

import io
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, Protocol

from drpilot.base.errors import DrpilotError, invariant
from drpilot.formats.blockmap import BLOCK_BYTES, BlockMap
from drpilot.transfer.block import ZEROS, BlockReader, BlockSource, Listing, Piece
from drpilot.transfer.pace import Pace

__all__ = ["Pushed", "PushedSource", "StreamOfBlocks", "StreamSource"]

_WAITING = 16  # blocks between who pushes and who takes
_TURN_S = 0.2  # how soon a pusher notices that nobody takes any more


class StreamSource:
    """A stream of exactly `size_bytes`, read once from its beginning. It can't be read from the middle: a copy that was
    interrupted reads it again, but sends only what is missing.
    """

    def __init__(self, stream: IO[bytes], size_bytes: int, name: str) -> None:
        self.name = self.identity = name
        self.steady = False
        self.size_bytes = size_bytes
        self.pace: Pace | None = None
        self._stream: Any = stream

    def list(self, base: BlockMap | None) -> Listing:
        """Every block that is not zeros, with its bytes. Raises DrpilotError `stream-cut` when the stream is shorter
        or longer than it should be.
        """
        return Listing(self._pieces())

    def _pieces(self) -> Iterator[Piece]:
        index, left = 0, self.size_bytes
        while left > 0:
            block = bytearray(BLOCK_BYTES)
            view = memoryview(block)
            wanted, place = min(left, BLOCK_BYTES), 0
            while place < wanted:
                count = self._stream.readinto(view[place:wanted])
                if not count:
                    raise DrpilotError(
                        "stream-cut",
                        name=self.name,
                        have=self.size_bytes - left + place,
                        need=self.size_bytes,
                    )
                place += count
            left -= wanted
            if block != ZEROS:
                yield Piece(index, data=block)
            index += 1
        if self._stream.read(1):
            raise DrpilotError("stream-cut", name=self.name, have="more", need=self.size_bytes)

    def reader(self) -> BlockReader:
        """The bytes came with the pieces."""
        return _StreamReader()

    def close(self) -> None:
        """Whoever opened the stream closes it."""


class Pushed(Protocol):
    """Takes the bytes of an image, ascending; what is never written is zeros."""

    def write(self, offset: int, data: bytes) -> None:
        """Bytes at an offset of the image."""


class PushedSource:
    """An image that `push` writes from its beginning to its end, such as one that comes out of a bundle. It is right
    only when `push` returns: what it raises ends the copy before the target is sealed.
    """

    def __init__(self, size_bytes: int, name: str, push: Callable[[Pushed], None]) -> None:
        self.name = self.identity = name
        self.steady = False
        self.size_bytes = size_bytes
        self.pace: Pace | None = None
        self._push = push
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def list(self, base: BlockMap | None) -> Listing:
        """Every block that was written and is not zeros, with its bytes."""
        return Listing(self._pieces())

    def _pieces(self) -> Iterator[Piece]:
        blocks = _Blocks(self.size_bytes, self.name, self._closed)
        self._thread = threading.Thread(
            target=blocks.run, args=(self._push,), name="drpilot-push", daemon=True
        )
        self._thread.start()
        while isinstance(piece := blocks.waiting.get(), Piece):
            yield piece
        if piece is not None:
            raise piece

    def reader(self) -> BlockReader:
        """The bytes came with the pieces."""
        return _StreamReader()

    def close(self) -> None:
        """Stop whoever still pushes."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(30)


class _Blocks:
    """Cuts what is pushed into blocks and hands them over; the last word is None, or the error that ended it."""

    def __init__(self, size_bytes: int, name: str, closed: threading.Event) -> None:
        self.waiting: queue.Queue[Piece | BaseException | None] = queue.Queue(_WAITING)
        self._size_bytes = size_bytes
        self._name = name
        self._closed = closed
        self._index = -1
        self._block = bytearray()

    def run(self, push: Callable[[Pushed], None]) -> None:
        """Let `push` write, in a thread of its own."""
        try:
            push(self)
            self._hand_over()
        except BaseException as error:  # noqa: BLE001 - the thread's edge: raised again where the blocks are taken
            self._put(error)
        else:
            self._put(None)

    def write(self, offset: int, data: bytes) -> None:
        """Bytes at an offset, not before the last ones."""
        end = offset + len(data)
        if end > self._size_bytes:
            raise DrpilotError("stream-cut", name=self._name, have=end, need=self._size_bytes)
        view = memoryview(data)
        while view:
            index, start = divmod(offset, BLOCK_BYTES)
            if index != self._index:
                invariant(index > self._index, f"block {index} was pushed after block {self._index}")
                self._hand_over()
                self._index, self._block = index, bytearray(BLOCK_BYTES)
            count = min(len(view), BLOCK_BYTES - start)
            self._block[start : start + count] = view[:count]
            view, offset = view[count:], offset + count

    def _hand_over(self) -> None:
        if self._index >= 0 and self._block != ZEROS:
            self._put(Piece(self._index, data=self._block))

    def _put(self, item: Piece | BaseException | None) -> None:
        while not self._closed.is_set():
            try:
                self.waiting.put(item, timeout=_TURN_S)
            except queue.Full:
                continue
            return
        if isinstance(item, Piece):
            raise DrpilotError(
                "stream-cut", name=self._name, have=self._index * BLOCK_BYTES, need=self._size_bytes
            )


class _StreamReader:
    def read(self, piece: Piece, into: bytearray) -> bytes | None:
        raise NotImplementedError  # every piece carries its bytes

    def close(self) -> None:
        """Nothing is held."""


class StreamOfBlocks(io.RawIOBase):
    """A source as one readable stream, holes filled with zeros; up to `ahead` blocks are fetched at once."""

    def __init__(self, source: BlockSource, ahead: int = 16) -> None:
        self._size_bytes = source.size_bytes
        self._source = source
        self._pool = ThreadPoolExecutor(max_workers=ahead, thread_name_prefix="drpilot-ahead")
        self._readers: deque[BlockReader] = deque()
        self._pieces = source.list(None).pieces
        self._coming: deque[tuple[int, Future[bytearray]]] = deque()
        self._ahead = ahead
        self._place = 0  # bytes handed out
        self._index = -1  # the block in `_block`
        self._block: bytearray | bytes = b""

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, target: Any) -> int:
        """Fill some of `target`; 0 at the end."""
        index, start = divmod(self._place, BLOCK_BYTES)
        if self._place >= self._size_bytes:
            return 0
        if index != self._index:
            self._block, self._index = self._fetched(index), index
        view = memoryview(target).cast("B")
        count = min(len(view), BLOCK_BYTES - start, self._size_bytes - self._place)
        view[:count] = memoryview(self._block)[start : start + count]
        self._place += count
        return count

    def _fetched(self, index: int) -> bytearray | bytes:
        self._look_ahead()
        if self._coming and self._coming[0][0] == index:
            _, future = self._coming.popleft()
            block = future.result()
            self._look_ahead()
            return block
        return ZEROS

    def _look_ahead(self) -> None:
        while len(self._coming) < self._ahead:
            piece = next(self._pieces, None)
            if piece is None:
                return
            self._coming.append((piece.index, self._pool.submit(self._read, piece)))

    def _read(self, piece: Piece) -> bytearray:
        if piece.data is not None:
            return piece.data
        block = bytearray(BLOCK_BYTES)
        if piece.gone:
            return block
        reader = self._readers.popleft() if self._readers else self._source.reader()
        reader.read(piece, block)
        self._readers.append(reader)
        return block

    def close(self) -> None:
        """Let go of the readers; the source is its owner's."""
        if not self.closed:
            self._pool.shutdown(wait=True, cancel_futures=True)
            for reader in self._readers:
                reader.close()
        super().close()
