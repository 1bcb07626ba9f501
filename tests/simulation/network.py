"""A network in memory: what guests and load balancers of the lab serve, and what drpilot asks them, in one thread.

The lab's own services run on an event loop of ours whose connections are pairs of buffers and whose time never waits.
Sockets that drpilot opens itself (checks over TCP and HTTP) end at the same services.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from drpilot.lab.cloud import Cloud
from drpilot.lab.loopback import Endpoint, Loopback, Service
from drpilot.lab.runtime import runtime

__all__ = ["Network"]

CONTROLLER = "127.0.0.1"


class _Selector:
    """Waits for nothing: when no callback is ready, time jumps to the next timer."""

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("the network in memory waits for something that can't come")
        self._loop.moment_s += timeout
        return []


class _Loop(asyncio.BaseEventLoop):
    """An event loop without a machine below it."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.moment_s = 0.0
        self._network = network
        self._selector = _Selector(self)

    def time(self) -> float:
        return self.moment_s

    def _process_events(self, event_list: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - handed to who awaits it
            future.set_exception(error)
        return future

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], Any], host: Any = None, port: Any = None, **more: Any
    ) -> tuple[Any, Any]:
        local = more.get("local_addr") or (CONTROLLER, 0)
        return self._network.connect(protocol_factory(), str(local[0]), (str(host), int(port)))


class _End(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, loop: _Loop, protocol: Any, peername: tuple[str, int]) -> None:
        super().__init__({"peername": peername})
        self.loop, self.protocol = loop, protocol
        self.other: _End | None = None
        self.closed = False

    def write(self, data: Any) -> None:
        other = self.other
        if not self.closed and other is not None and not other.closed:
            self.loop.call_soon(other.receive, bytes(data))

    def receive(self, data: bytes) -> None:
        """Bytes of the other end arrive."""
        if not self.closed:
            self.protocol.data_received(data)

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self._end(None)

    def abort(self) -> None:
        self._end(ConnectionResetError("reset"))

    def _end(self, error: Exception | None) -> None:
        if self.closed:
            return
        self.closed = True
        self.loop.call_soon(self.protocol.connection_lost, None)
        if self.other is not None:
            self.loop.call_soon(self.other.lose, error)

    def lose(self, error: Exception | None) -> None:
        """The other end is gone."""
        if not self.closed:
            self.closed = True
            self.protocol.connection_lost(error)


class _Inline(Loopback):
    """The loopback of one cloud, without a thread; the protocol of a connection is the lab's own."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._services: Mapping[Endpoint, Service] = {}
        self._open: dict[Endpoint, set[asyncio.StreamWriter]] = {}
        self.failures: dict[Endpoint, str] = {}

    @property
    def running(self) -> bool:
        return True

    def want(self, services: Mapping[Endpoint, Service], *, wait: bool = False) -> None:
        for endpoint in self._services.keys() - services.keys():
            self._open.pop(endpoint, None)
        self._services = dict(services)

    def listening(self) -> list[Endpoint]:
        return sorted(self._services)

    def submit(self, work: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Any]:
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            done.set_result(self._network.loop.run_until_complete(work))
        except Exception as error:  # noqa: BLE001 - handed to who asks for the result
            done.set_exception(error)
        return done

    def close(self) -> None:
        self._services = {}


class _Socket:
    """A client's socket, as http.client and httpcore use one."""

    def __init__(self, network: Network, endpoint: Endpoint) -> None:
        self._network = network
        self._reader, self._writer = network.loop.run_until_complete(asyncio.open_connection(*endpoint))
        self._endpoint = endpoint

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sendall(self, data: bytes, *_: Any) -> None:
        self._writer.write(bytes(data))

    def send(self, data: bytes, *_: Any) -> int:
        self._writer.write(bytes(data))
        return len(data)

    def recv(self, size: int, *_: Any) -> bytes:
        return self._network.loop.run_until_complete(self._reader.read(size))

    def close(self) -> None:
        self._writer.close()
        self._network.loop.run_until_complete(asyncio.sleep(0))

    def fileno(self) -> int:
        return -1

    def getsockname(self) -> tuple[str, int]:
        return (CONTROLLER, 1)

    def getpeername(self) -> tuple[str, int]:
        return self._endpoint

    def settimeout(self, value: float | None) -> None:
        pass

    def setsockopt(self, *_: Any) -> None:
        pass


class Network:
    """The one network of all clouds of a simulation."""

    def __init__(self) -> None:
        self.loop = _Loop(self)
        self._loopbacks: list[_Inline] = []

    def attach(self, cloud: Cloud) -> None:
        """Let a cloud's guests and balancers listen here."""
        inline = _Inline(self)
        runtime(cloud)._loopback = inline
        self._loopbacks.append(inline)

    def connect(self, protocol: Any, source: str, endpoint: Endpoint) -> tuple[Any, Any]:
        """Both ends of a new connection, the server's handled by whoever listens; ConnectionRefusedError if nobody."""
        inline = next((one for one in self._loopbacks if endpoint in one._services), None)
        if inline is None:
            raise ConnectionRefusedError(111, f"nobody listens on {endpoint[0]}:{endpoint[1]}")

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await inline._accept(endpoint, reader, writer)

        reader = asyncio.StreamReader(loop=self.loop)
        server = asyncio.StreamReaderProtocol(reader, accept, loop=self.loop)
        here, there = _End(self.loop, protocol, endpoint), _End(self.loop, server, (source, 40_000))
        here.other, there.other = there, here
        protocol.connection_made(here)
        server.connection_made(there)
        return here, protocol

    @contextmanager
    def sockets(self) -> Iterator[None]:
        """While this lasts the sockets that programs here open end in this network, and nowhere else."""

        def create(address: Endpoint, *_: Any, **__: Any) -> _Socket:
            return _Socket(self, (str(address[0]), int(address[1])))

        real = socket.create_connection
        socket.create_connection = create  # type: ignore[assignment]
        try:
            yield
        finally:
            socket.create_connection = real

    def close(self) -> None:
        """End the loop."""
        self.loop.close()
