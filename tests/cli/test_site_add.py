"""`site add` with what can't be meant, what leads nowhere and what answers as something else: its own error each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from drpilot.cli.app import app


class _Page(BaseHTTPRequestHandler):
    """A web server that knows nothing of clouds and has a page for every question."""

    asked = 0
    status = 200

    def do_POST(self) -> None:
        """Answer with a page."""
        type(self).asked += 1
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b"<html><body>It works!</body></html" if self.status == 200 else b"<html>Bad gateway</html>"
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def page() -> Iterator[ThreadingHTTPServer]:
    """The web server, on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    _Page.asked, _Page.status = 0, 200
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@dataclass
class Ground:
    """A clean home, a profile and a key file."""

    home: Path
    keys: Path

    def add(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """`drpilot site add` with these; its exit code and the error it ends with."""
        ended = CliRunner().invoke(app, ["site", "add", *arguments, "--output", "json"])
        assert not (self.home / "drpilot.yaml").exists()
        return ended.exit_code, json.loads(ended.stdout)["error"]


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    """Nothing was ever set up; two profiles are there, one with a region."""
    keys, config = tmp_path / "keys", tmp_path / "config"
    pair = "aws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = secret\n"
    keys.write_text(f"[default]\n{pair}")
    keys.chmod(0o600)
    config.write_text(f"[profile there]\nregion = eu-west-1\n{pair}[profile nowhere]\n{pair}")
    monkeypatch.setenv("DRPILOT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    return Ground(tmp_path / "home", keys)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("x", ["--region", "r", "--endpoint", "default=notaurl"], "'notaurl' is no endpoint"),
        ("x", ["--region", "r", "--endpoint", "ec2=ftp://127.0.0.1/"], "'ftp://127.0.0.1/' is no endpoint"),
        ("x", ["--region", "not a region!"], "'not a region!' is no region"),
        ("x", ["--region", "-eu-"], "'-eu-' is no region"),
        ("No Name", ["--region", "r"], "No Name"),
        ("x", ["--region", "r", "--account", "12"], "account"),
        ("x", [], "needs --region"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_asked(
    ground: Ground, page: ThreadingHTTPServer, name: str, given: list[str], said: str
) -> None:
    """URL, region, name and account are judged by the rules of drpilot.yaml; no call leaves."""
    there = ["--endpoint", f"sts=http://127.0.0.1:{page.server_port}"]
    code, error = ground.add(name, "--credentials", f"file:{ground.keys}", *there, *given)
    assert (code, error["word"]) == (2, "usage")
    assert said in error["message"]
    assert error["hint"]
    assert _Page.asked == 0


def test_a_site_without_an_endpoint_to_ask_is_a_setting(ground: Ground) -> None:
    """Endpoints without sts: nobody can be asked who we are."""
    ec2 = ["--endpoint", "ec2=http://127.0.0.1:9"]
    code, error = ground.add("x", "--region", "r", "--credentials", f"file:{ground.keys}", *ec2)
    assert (code, error["word"]) == (6, "wrong-value")
    assert "no endpoint for sts" in error["message"]
    assert "run show" not in error["hint"]


@pytest.mark.parametrize("status", [200, 502])
def test_an_answer_that_is_none_is_unreachable(
    ground: Ground, page: ThreadingHTTPServer, status: int
) -> None:
    """Something answers, but no cloud: the endpoint is wrong, or a proxy stands before it."""
    _Page.status = status
    url = f"http://127.0.0.1:{page.server_port}"
    code, error = ground.add(
        "x", "--region", "r", "--credentials", f"file:{ground.keys}", "--endpoint", f"default={url}"
    )
    assert (code, error["word"]) == (8, "unreachable")
    assert url in error["message"]
    assert _Page.asked > 0


def test_the_region_may_come_from_the_profile(ground: Ground, page: ThreadingHTTPServer) -> None:
    """A profile's region is taken; one without, or a profile that is not there, is said before any call."""
    url = f"sts=http://127.0.0.1:{page.server_port}"
    code, error = ground.add("x", "--profile", "there", "--endpoint", url)
    assert (code, error["word"]) == (8, "unreachable")  # it was asked
    assert _Page.asked > 0
    _Page.asked = 0
    code, error = ground.add("x", "--profile", "nowhere", "--endpoint", url)
    assert (code, error["word"]) == (2, "usage")
    assert "profile nowhere names no region" in error["message"]
    code, error = ground.add("x", "--profile", "nobody", "--endpoint", url)
    assert (code, error["word"]) == (7, "no-credentials")
    assert _Page.asked == 0
