"""The HTTP listeners of a lab site: loopback only, whole requests in, whole answers out.

Also the way that programs on guests of a cloud in the caller's own process take to it: such a cloud has no port, so
they get this listener as their proxy.
"""

from __future__ import annotations

import socket
import struct
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from drpilot.lab.replies import Reply
from drpilot.lab.requests import Incoming

__all__ = ["LOOPBACK", "Handler", "Listener", "hang_up"]

LOOPBACK = "127.0.0.1"


class Listener(ThreadingHTTPServer):
    """A port of the loopback interface; `site` is what its handler serves."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler], site: Any) -> None:
        self.site = site
        self.open: set[socket.socket] = set()
        super().__init__((LOOPBACK, port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the lab."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        """Close the port and every connection."""
        self.shutdown()
        self.server_close()
        for connection in list(self.open):
            hang_up(connection)


def hang_up(connection: socket.socket) -> None:
    """End a connection; one that has ended is no error."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


class Handler(BaseHTTPRequestHandler):
    """What both ports share: whole bodies in, whole answers out in one write, connections kept open."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class calls it so
        """The list of calls is the log."""

    def incoming(self) -> Incoming:
        """Read the request."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        if "100-continue" in headers.get("expect", "").lower():
            self.send_response_only(100)
            self.end_headers()
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = self._chunks()
        else:
            length = int(headers.get("content-length") or 0)
            body = self.rfile.read(length)
            if len(body) < length:  # half an upload changes nothing
                raise ConnectionResetError
        parts = urlsplit(self.path)
        return Incoming(self.command, parts.path or "/", parts.query, headers, body)

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def reply(self, reply: Reply) -> None:
        """Write an answer."""
        length = str(len(reply.body))
        headers = dict(reply.headers)
        for name in [name for name in headers if name.lower() == "content-length"]:
            own = headers.pop(name)
            length = own if self.command == "HEAD" else length
        if reply.status not in (204, 304):
            headers["Content-Length"] = length
        headers["Date"] = self.date_time_string()
        phrase = self.responses.get(reply.status, ("", ""))[0]
        lines = [f"HTTP/1.1 {reply.status} {phrase}", *(f"{key}: {value}" for key, value in headers.items())]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        # Headers and body in one write: two would wait for each other's acknowledgement.
        self.wfile.write(head if self.command == "HEAD" else head + reply.body)

    def reset(self) -> None:
        """Close so that the client sees a reset connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
