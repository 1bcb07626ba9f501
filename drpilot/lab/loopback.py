"""Real listeners on loopback addresses: one thread with an event loop serves everything a lab cloud runs.

The owner says which endpoints should listen (`want`); the thread opens and closes them. A connection goes
to the service that its endpoint has at that moment. Nothing here knows what an instance or a load balancer
is.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Endpoint",
    "Loopback",
    "Request",
    "Response",
    "Service",
    "fetch",
    "knock",
    "read_request",
    "reset",
    "respond",
]

_IO_TIMEOUT_S = 5.0
_MOST_BODY_BYTES = 4 << 20

Endpoint = tuple[str, int]
"""A loopback address (127.0.0.0/8) and a TCP port."""
Service = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP/1.1 request: `raw` is the head and body as they came."""

    method: str
    path: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP/1.1 response; `body` is what followed the head until the connection closed."""

    status: int
    body: bytes
    raw: bytes = field(default=b"", repr=False)


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Read a request with its Content-Length body; ValueError when it is none, TimeoutError after 5 s."""
    async with asyncio.timeout(_IO_TIMEOUT_S):
        head = await reader.readuntil(b"\r\n\r\n")
        first, _, rest = head.decode("latin-1").partition("\r\n")
        parts = first.split(" ")
        if len(parts) != 3:
            raise ValueError(first)
        size_bytes = 0
        for line in rest.split("\r\n"):
            name, _, value = line.partition(":")
            if name.lower() == "content-length":
                size_bytes = int(value)
        if size_bytes > _MOST_BODY_BYTES:
            raise ValueError("body too large")
        body = await reader.readexactly(size_bytes) if size_bytes else b""
    return Request(parts[0], parts[1], head + body)


async def respond(writer: asyncio.StreamWriter, status: int, body: str) -> None:
    """Answer with plain text and close."""
    reasons = {
        200: "OK",
        404: "Not Found",
        502: "Bad Gateway",
        503: "Service Unavailable",
        504: "Gateway Timeout",
    }
    payload = body.encode()
    head = (
        f"HTTP/1.1 {status} {reasons.get(status, 'Status')}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + payload)
    async with asyncio.timeout(_IO_TIMEOUT_S):
        await writer.drain()


def reset(writer: asyncio.StreamWriter) -> None:
    """Break the connection at once, with a TCP reset."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_IO_TIMEOUT_S):
            await writer.wait_closed()


async def knock(source: str, target: Endpoint, timeout_s: float) -> None:
    """Open and close a TCP connection from the address `source`; OSError or TimeoutError when it fails."""
    async with asyncio.timeout(timeout_s):
        _, writer = await asyncio.open_connection(*target, local_addr=(source, 0))
    await _hang_up(writer)


async def fetch(source: str, target: Endpoint, raw: bytes, timeout_s: float) -> Response:
    """Send one HTTP request as given and read the whole answer; OSError, TimeoutError or ValueError."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(*target, local_addr=(source, 0))
        try:
            writer.write(raw)
            await writer.drain()
            answer = await reader.read(-1)
        finally:
            await _hang_up(writer)
    head, found, body = answer.partition(b"\r\n\r\n")
    parts = head.split(b" ", 2)
    if not found or len(parts) < 2 or not parts[1].isdigit():
        raise ValueError("not an HTTP answer")
    return Response(int(parts[1]), body, answer)


class Loopback:
    """The thread and its listeners. `want`, `submit` and `close` may be called from any thread."""

    def __init__(self, name: str, alive: Callable[[], bool]) -> None:
        """`alive` is asked ten times a second; once it says no, everything closes and the thread ends."""
        self._alive = alive
        self._services: Mapping[Endpoint, Service] = {}
        self._servers: dict[Endpoint, asyncio.Server] = {}
        self._open: dict[Endpoint, set[asyncio.StreamWriter]] = {}
        self.failures: dict[Endpoint, str] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._settling = False
        self._again = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"loopback-{name}", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread still serves."""
        return self._thread.is_alive() and not self._loop.is_closed()

    def want(self, services: Mapping[Endpoint, Service], *, wait: bool = False) -> None:
        """Let exactly these endpoints listen; a port that can't be had is tried again at the next call.

        With `wait` they do when this returns.
        """
        if services.keys() == self._services.keys() == self._servers.keys():
            self._services = services
            return
        self._services = services
        if wait:
            self.submit(self._settle()).result(timeout=_IO_TIMEOUT_S)
        else:
            self._post(self._begin_settling)

    def listening(self) -> list[Endpoint]:
        """The endpoints that really listen."""
        return sorted(self._servers)

    def submit(self, work: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Any]:
        """Run a coroutine on the loop."""
        if not self.running:
            work.close()
            raise RuntimeError("the loopback thread has ended")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Close every listener and connection and end the thread."""
        self._alive = lambda: False
        self._thread.join(timeout=10)

    def _post(self, act: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(act)
        except RuntimeError:
            return  # The loop is closed: the cloud is going down and nothing may listen any more.

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._watch)
        try:
            self._loop.run_forever()
            self._services = {}
            self._loop.run_until_complete(self._settle())
            self._turn()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(
                asyncio.gather(*asyncio.all_tasks(self._loop), return_exceptions=True)
            )
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._turn()
        finally:
            self._loop.close()

    def _turn(self) -> None:
        """Let connections that were just taken begin, and broken ones end."""
        for _ in range(3):
            self._loop.run_until_complete(asyncio.sleep(0))

    def _watch(self) -> None:
        if self._alive():
            self._loop.call_later(0.1, self._watch)
        else:
            self._loop.stop()

    def _begin_settling(self) -> None:
        if self._settling:
            self._again = True
            return
        self._settling = True
        task = self._loop.create_task(self._settle())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self) -> None:
        try:
            while True:
                self._again = False
                wanted = self._services
                for endpoint in [endpoint for endpoint in self._servers if endpoint not in wanted]:
                    self._servers.pop(endpoint).close()
                    for writer in self._open.pop(endpoint, set()):
                        writer.transport.abort()
                for endpoint in [endpoint for endpoint in wanted if endpoint not in self._servers]:
                    await self._listen(endpoint)
                if not self._again:
                    return
        finally:
            self._settling = False

    async def _listen(self, endpoint: Endpoint) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._accept(endpoint, reader, writer)

        try:
            self._servers[endpoint] = await asyncio.start_server(accept, *endpoint, backlog=64)
            self.failures.pop(endpoint, None)
        except OSError as error:
            self.failures[endpoint] = str(error)

    async def _accept(
        self, endpoint: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        service = self._services.get(endpoint)
        if service is None:
            reset(writer)
            return
        writers = self._open.setdefault(endpoint, set())
        writers.add(writer)
        try:
            await service(reader, writer)
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            reset(writer)  # A broken client is no concern of the others.
        finally:
            writers.discard(writer)
            await _hang_up(writer)
