"""Questions to machines: TCP and HTTP over real loopback sockets, bounded, with what was observed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from drpilot.actions.asking import http_answer, tcp_answer


class _Handler(BaseHTTPRequestHandler):
    heard: list[tuple[str, str]]

    def do_GET(self) -> None:
        self.heard.append((self.path, self.headers["Host"]))
        status, body = {
            "/healthz": (200, b"ok\n"),
            "/moved": (302, b""),
            "/bad": (503, b"no db answers"),
        }.get(self.path, (404, b""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """A small HTTP server: its port and what it heard (path, host)."""
    heard: list[tuple[str, str]] = []
    handler = type("Handler", (_Handler,), {"heard": heard})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield http.server_address[1], heard
        http.shutdown()
        thread.join(5)


def test_an_address_is_asked_with_the_name_users_would_ask_for(
    server: tuple[int, list[tuple[str, str]]],
) -> None:
    """The request goes to the address and the port given, the Host is the URL's."""
    port, heard = server
    assert http_answer("http://shop.example.org/healthz", "127.0.0.1", port, "ok") == (True, "200")
    assert heard == [("/healthz", "shop.example.org")]


def test_the_placeholder_stands_for_the_address(server: tuple[int, list[tuple[str, str]]]) -> None:
    """`{address}` with a port of its own needs nothing else."""
    port, heard = server
    assert http_answer(f"http://{{address}}:{port}/healthz", "127.0.0.1", None, None)[0]
    assert heard == [("/healthz", f"127.0.0.1:{port}")]


@pytest.mark.parametrize(
    ("path", "contains", "observed"),
    [
        ("/bad", None, "503 'no db answers'"),
        ("/moved", None, "302 ''"),
        ("/healthz", "welcome", "200, without 'welcome': 'ok'"),
    ],
)
def test_what_is_not_as_wanted_is_told(
    server: tuple[int, list[tuple[str, str]]], path: str, contains: str | None, observed: str
) -> None:
    """A status outside 2xx, a redirect and a missing text fail, and say what was there."""
    assert http_answer(f"http://x{path}", "127.0.0.1", server[0], contains) == (False, observed)


def test_a_closed_port_is_an_answer(server: tuple[int, list[tuple[str, str]]]) -> None:
    """Nobody listens: both questions end with the reason."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = probe.getsockname()[1]
    assert "ConnectionRefused" in (tcp_answer("127.0.0.1", closed) or "")
    ok, observed = http_answer("http://x/healthz", "127.0.0.1", closed, None)
    assert not ok
    assert "ConnectError" in observed
    assert tcp_answer("127.0.0.1", server[0]) is None
