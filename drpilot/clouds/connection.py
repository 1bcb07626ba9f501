"""One HTTP/1.1 connection that is kept: plain or TLS, bodies received straight into the caller's buffer.

Only what EBS direct and S3 send is understood: a Content-Length, chunks, or a body that ends with the connection. What
is shorter than announced, longer than there is room for, or no HTTP at all ends the connection and is an error; a
reply is never guessed. Sources: RFC 9112, sections 2, 6 and 9.

Bytes are moved in turns. A hundred threads that decrypt at once hand the interpreter's lock to each other once a TLS
record, 32 times a block, and the task switches cost as much as the bytes (1.4 ms of CPU a block of 512 KiB at 128
connections; 0.9 ms with one at a time). A thread takes its turn when something has arrived, reads what is there and
gives the turn back before it waits, so that a slow connection holds up no other.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

import botocore.exceptions as boto
from botocore.parsers import ResponseParserError

from drpilot.base.clock import Clock
from drpilot.clouds.failures import TruncatedReply

__all__ = ["Answer", "Connection", "Place", "Timeouts"]

_HEAD_BYTES = 65_536
_FIRST_READ_BYTES = (
    20_480  # a TLS record, or a small object; what of the body comes with the head is copied once
)
_MOST_BODY_BYTES = 64 << 20
_IDLE_S = 1.0  # after this long a kept connection is looked at before it is trusted
_JOIN_BYTES = 16_384  # a small body goes out together with its head


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to connect, for each read or write, and for one whole exchange."""

    connect_s: float = 3.0
    read_s: float = 30.0
    whole_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where to connect to. `context` is None for plain HTTP; `turn` is held by whoever moves bytes there."""

    host: str
    port: int
    url: str
    context: ssl.SSLContext | None = None
    turn: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply. Header names are in lower case. `length` counts the bytes put into the caller's buffer; `body` holds
    them where no buffer was given, or where the status is 300 or more.
    """

    status: int
    headers: Mapping[str, str]
    length: int = 0
    body: bytes = field(default=b"", repr=False)


class Connection:
    """A connection to one place, for one thread at a time. It is opened by the first exchange and again after it
    was lost; a request that met a connection closed meanwhile is sent once more, when `repeatable`.
    """

    def __init__(self, place: Place, timeouts: Timeouts, clock: Clock) -> None:
        self._place = place
        self._timeouts = timeouts
        self._clock = clock
        self._socket: socket.socket | None = None
        self._buffer = bytearray(_HEAD_BYTES)
        self._view = memoryview(self._buffer)
        self._filled = 0  # bytes of the buffer that were received and not used
        self._used_at_s = 0.0
        self._deadline_s = 0.0
        self.opened = 0

    def exchange(
        self, head: bytes, body: bytes | memoryview, into: memoryview | None, *, repeatable: bool = True
    ) -> Answer:
        """Send a request and read its reply. Raises botocore's exceptions, as its own transport would."""
        fresh = self._ready()
        try:
            return self._once(head, body, into)
        except boto.ConnectionClosedError as error:
            lost_while_idle = not fresh and self._filled == 0 and error.kwargs.get("received") == 0
            if not (lost_while_idle and repeatable):
                raise
        self._ready()
        return self._once(head, body, into)

    def close(self) -> None:
        """Close it; the next exchange opens it again."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()
            self._socket = None
        self._filled = 0

    # -- connecting -----------------------------------------------------------------------------------

    def _ready(self) -> bool:
        """Have a connection; whether it is a new one."""
        now = self._clock.monotonic()
        if self._socket is not None and now - self._used_at_s > _IDLE_S and self._was_closed():
            self.close()
        self._deadline_s = now + self._timeouts.whole_s
        if self._socket is not None:
            return False
        self._open()
        return True

    def _was_closed(self) -> bool:
        """Whether something came while nothing was asked: the end of the connection, or rubbish."""
        assert self._socket is not None
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def _open(self) -> None:
        place = self._place
        try:
            raw = socket.create_connection((place.host, place.port), self._timeouts.connect_s)
        except TimeoutError as error:
            raise boto.ConnectTimeoutError(endpoint_url=place.url, error=error) from error
        except OSError as error:
            raise boto.EndpointConnectionError(endpoint_url=place.url, error=error) from error
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if place.context is not None:
                raw = place.context.wrap_socket(raw, server_hostname=place.host)
        except TimeoutError as error:
            raw.close()
            raise boto.ConnectTimeoutError(endpoint_url=place.url, error=error) from error
        except ssl.SSLError as error:
            raw.close()
            raise boto.SSLError(endpoint_url=place.url, error=error) from error
        except OSError as error:  # closed during the handshake: nothing was asked yet
            raw.close()
            raise boto.EndpointConnectionError(endpoint_url=place.url, error=error) from error
        raw.setblocking(False)  # whoever must wait gives its turn back first
        self._socket, self._filled = raw, 0
        self.opened += 1

    # -- one request and its reply --------------------------------------------------------------------

    def _once(self, head: bytes, body: bytes | memoryview, into: memoryview | None) -> Answer:
        complete = False
        try:
            self._send(head, body)
            self._await(select.POLLIN)
            with self._place.turn:
                answer, keep = self._reply(into, without_body=head.startswith(b"HEAD "))
            complete = keep
            return answer
        finally:
            if complete and self._filled == 0:
                self._used_at_s = self._clock.monotonic()
            else:  # a reply half read, or more than was asked for: nothing after it can be trusted
                self.close()

    def _send(self, head: bytes, body: bytes | memoryview) -> None:
        assert self._socket is not None
        pieces = (head, body) if len(body) > _JOIN_BYTES else (head + bytes(body),)
        with self._place.turn:
            for piece in pieces:
                view, sent = memoryview(piece), 0
                while sent < len(view):
                    sent += self._in_turn(self._socket.send, view[sent:], select.POLLOUT, 0)

    def _reply(self, into: memoryview | None, *, without_body: bool) -> tuple[Answer, bool]:
        while True:
            status, version, headers = self._head()
            if status >= 200:
                break
        keep = headers.get("connection", "").lower() != "close" and version == "HTTP/1.1"
        if without_body or status in (204, 304):
            return Answer(status, headers), keep
        room = into if status < 300 else None
        if "chunked" in headers.get("transfer-encoding", "").lower():
            data = self._chunks()
            return self._placed(status, headers, data, room), keep
        announced = headers.get("content-length")
        if announced is None:
            return self._placed(status, headers, self._until_closed(), room), False
        if not announced.isdigit():
            self._garbled(f"a Content-Length of {announced[:40]!r}")
        length = int(announced)
        if room is None:
            if length > _MOST_BODY_BYTES:
                self._garbled(f"a body of {length} bytes where none was expected")
            buffer = bytearray(length)
            self._body(memoryview(buffer), length)
            return Answer(status, headers, length, bytes(buffer)), keep
        if length > len(room):
            self._garbled(f"a body of {length} bytes, at most {len(room)} were asked for")
        self._body(room, length)
        return Answer(status, headers, length), keep

    def _placed(
        self, status: int, headers: Mapping[str, str], data: bytes, room: memoryview | None
    ) -> Answer:
        if room is None:
            return Answer(status, headers, len(data), data)
        if len(data) > len(room):
            self._garbled(f"a body of {len(data)} bytes, at most {len(room)} were asked for")
        room[: len(data)] = data
        return Answer(status, headers, len(data))

    # -- reading --------------------------------------------------------------------------------------

    def _head(self) -> tuple[int, str, dict[str, str]]:
        """Status, version and headers; what was received after them stays in the buffer."""
        received = self._filled
        end = self._buffer.find(b"\r\n\r\n", 0, self._filled)
        while end < 0:
            if self._filled >= _HEAD_BYTES:
                self._garbled("headers longer than 64 KiB")
            limit = min(_HEAD_BYTES, self._filled + _FIRST_READ_BYTES)
            count = self._receive(self._view[self._filled : limit], received)
            if count == 0:
                self._lost(None, received)
            received += count
            start = max(0, self._filled - 3)
            self._filled += count
            end = self._buffer.find(b"\r\n\r\n", start, self._filled)
        lines = bytes(self._view[:end]).decode("latin-1").split("\r\n")
        self._drop(end + 4)
        version, _, rest = lines[0].partition(" ")
        code = rest[:3]
        if not version.startswith("HTTP/1.") or not code.isdigit():
            self._garbled(f"{lines[0][:60]!r} instead of a status line")
        headers = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or not name:
                self._garbled(f"{line[:60]!r} instead of a header")
            headers[name.lower()] = value.strip()
        return int(code), version, headers

    def _drop(self, count: int) -> None:
        """Forget the first `count` bytes of the buffer."""
        rest = self._filled - count
        if rest > 0:
            self._view[:rest] = bytes(self._view[count : self._filled])
        self._filled = rest

    def _body(self, target: memoryview, length: int) -> None:
        """Fill `target` with `length` bytes: first what came with the head, then from the wire without a copy."""
        place = min(self._filled, length)
        target[:place] = self._view[:place]
        self._drop(place)
        while place < length:
            count = self._receive(target[place:length], place)
            if count == 0:
                raise TruncatedReply(actual=place, expected=length)
            place += count

    def _line(self) -> bytes:
        """The next line of a chunked body, without its end."""
        while (end := self._buffer.find(b"\r\n", 0, self._filled)) < 0:
            if self._filled >= _HEAD_BYTES:
                self._garbled("a chunk's line longer than 64 KiB")
            count = self._receive(self._view[self._filled :], self._filled)
            if count == 0:
                raise TruncatedReply(actual=self._filled, expected="the next chunk")
            self._filled += count
        line = bytes(self._view[:end])
        self._drop(end + 2)
        return line

    def _chunks(self) -> bytes:
        whole = bytearray()
        while True:
            size = self._line().split(b";")[0].strip()
            try:
                length = int(size, 16)
            except ValueError:
                self._garbled(f"{size[:40]!r} instead of a chunk's length")
            if length < 0 or len(whole) + length > _MOST_BODY_BYTES:
                self._garbled(f"chunks of more than {_MOST_BODY_BYTES} bytes")
            if length == 0:
                while self._line():
                    pass
                return bytes(whole)
            chunk = bytearray(length)
            self._body(memoryview(chunk), length)
            whole += chunk
            if self._line():
                self._garbled("a chunk longer than it said")

    def _until_closed(self) -> bytes:
        whole = bytearray(self._view[: self._filled])
        self._filled = 0
        while count := self._receive(self._view, len(whole)):
            whole += self._view[:count]
            if len(whole) > _MOST_BODY_BYTES:
                self._garbled(f"a body of more than {_MOST_BODY_BYTES} bytes")
        return bytes(whole)

    def _receive(self, target: memoryview, so_far: int) -> int:
        """Put what has arrived into `target`, at least a byte; 0 where the connection has ended."""
        assert self._socket is not None
        count = self._in_turn(self._socket.recv_into, target, select.POLLIN, so_far)
        if self._clock.monotonic() > self._deadline_s:
            self._late()
        return count

    def _in_turn(self, move: Callable[[memoryview], int], data: memoryview, events: int, so_far: int) -> int:
        """What `move` does with `data` once the socket is ready for `events`; the turn is given back meanwhile."""
        while True:
            try:
                return move(data)
            except ssl.SSLWantReadError:
                wanted = select.POLLIN
            except ssl.SSLWantWriteError:
                wanted = select.POLLOUT
            except BlockingIOError:
                wanted = events
            except OSError as error:
                self._lost(error, so_far)
            self._place.turn.release()
            try:
                self._await(wanted)
            finally:
                self._place.turn.acquire()

    def _await(self, events: int) -> None:
        """Wait, without the turn, until the socket has something for us."""
        assert self._socket is not None
        rest_s = self._deadline_s - self._clock.monotonic()
        wait_s = min(self._timeouts.read_s, max(0.0, rest_s))
        poll = select.poll()
        poll.register(self._socket, events)
        if not poll.poll(wait_s * 1000):
            if rest_s <= self._timeouts.read_s:
                self._late()
            why = f"nothing for {self._timeouts.read_s:g} s"
            raise boto.ReadTimeoutError(endpoint_url=self._place.url, error=why)

    def _late(self) -> NoReturn:
        why = f"no whole answer within {self._timeouts.whole_s:g} s"
        raise boto.ReadTimeoutError(endpoint_url=self._place.url, error=why)

    def _lost(self, error: OSError | None, received: int) -> NoReturn:
        raise boto.ConnectionClosedError(
            endpoint_url=self._place.url, error=error or "closed", received=received
        ) from error

    def _garbled(self, what: str) -> NoReturn:
        self.close()
        raise ResponseParserError(f"{self._place.url} answered with {what}")
