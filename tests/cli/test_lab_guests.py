"""`drpilot lab freeze` and `thaw` as people type them, and what they say to do next."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

from drpilot.cli.app import app
from drpilot.lab.freeze import PORT
from tests.networks import reserved


class _Guest(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"well")

    def log_message(self, *given: Any) -> None:
        """Say nothing."""


@pytest.fixture
def guest() -> Iterator[ThreadingHTTPServer]:
    """A guest that does what it is asked."""
    with reserved() as first, ThreadingHTTPServer((f"127.{first}.9.9", PORT), _Guest) as server:
        server.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


def _typed(*words: str, code: int = 0) -> Any:
    ended = CliRunner().invoke(app, [*words, "--output", "json"], env={"DRPILOT_ADDRESS": ""})
    assert ended.exit_code == code, ended.stdout + ended.stderr
    return json.loads(ended.stdout)


def test_a_thaw_follows_a_freeze_as_typed(guest: ThreadingHTTPServer) -> None:
    """The command after a freeze thaws the same guest; the hint without an address names the command that was typed."""
    frozen = _typed("lab", "freeze", str(guest.server_address[0]), "--seconds", "5")
    thawed = _typed(*shlex.split(frozen["next"])[1:])
    assert (thawed["result"], thawed["address"]) == ("thawed", guest.server_address[0])
    assert guest.asked == ["/freeze?seconds=5", "/thaw"]  # type: ignore[attr-defined]
    for verb in ("freeze", "thaw"):
        assert _typed("lab", verb, code=2)["error"]["hint"] == f"drpilot lab {verb} ADDRESS"
