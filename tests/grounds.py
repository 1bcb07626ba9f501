"""Grounds that tests of sites stand on: real loopback servers and moto, never a mock of our own modules."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drpilot.base.clock import Chance, ManualClock, RealClock
from drpilot.base.retry import Patience
from drpilot.clouds.dialect import AWS
from drpilot.clouds.session import Clients, CredentialsReference, SiteSettings
from drpilot.clouds.site import BotoSite, Ways

KEYS = "aws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = example-secret\n"


def free_port() -> int:
    """A port of the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def key_file(folder: Path, text: str = KEYS) -> Path:
    """A credentials file only its owner may read."""
    path = folder / "keys.ini"
    path.write_text(text)
    path.chmod(0o600)
    return path


@dataclass
class Door:
    """What a test wants of a site; `open` gives it."""

    url: str
    keys: Path
    name: str = "home"
    region: str = "eu-west-1"
    account: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    ways: Ways = field(default_factory=lambda: Ways(clock=ManualClock(), chance=Chance(7)))
    prepare: Callable[[Any], None] | None = None
    read_timeout_s: float = 10.0

    def settings(self) -> SiteSettings:
        """The settings as drpilot.yaml would give them."""
        return SiteSettings(
            name=self.name,
            cloud="aws",
            region=self.region,
            account=self.account,
            endpoints={"default": self.url},
            credentials=CredentialsReference("file", str(self.keys)),
        )

    def open(self) -> BotoSite:
        """The site."""
        dialect = replace(AWS, read_default_s=self.read_timeout_s)
        clients = Clients(
            self.settings(), environment=self.environment, prepare=self.prepare, dialect=dialect
        )
        return BotoSite(clients, self.ways)


def patient() -> Ways:
    """Ways on the real clock, for servers that need real time."""
    return Ways(clock=RealClock(), chance=Chance(7), patience=Patience(attempts=4, first_s=0.01, max_s=0.05))


@dataclass
class Heard:
    """One request as it came over the wire."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Script = Callable[[Heard, int], bytes | str]
"""Given a request and its number from 1: the bytes to send, or `reset`, `hang` or `cut` (close without a
word).
"""


class Answering:
    """A loopback HTTP server that answers as its script says, byte for byte, and remembers what it heard."""

    def __init__(self, script: Script, *, tls: tuple[Path, Path] | None = None) -> None:
        self.heard: list[Heard] = []
        self._script = script
        self._release = threading.Event()
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while outer._one(self):
                    pass

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler, bind_and_activate=True)
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def _one(self, handler: socketserver.StreamRequestHandler) -> bool:
        try:
            first = handler.rfile.readline().decode("latin-1").split()
            if len(first) < 2:
                return False
            headers: dict[str, str] = {}
            while line := handler.rfile.readline().decode("latin-1").strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = handler.rfile.read(int(headers.get("content-length", 0)))
        except OSError:
            return False
        heard = Heard(first[0], first[1], headers, body)
        self.heard.append(heard)
        answer = self._script(heard, len(self.heard))
        if answer == "hang":
            self._release.wait(30)
            return False
        if answer == "reset":
            handler.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.request.close()
            return False
        if isinstance(answer, str):
            return False
        handler.wfile.write(answer)
        return b"connection: close" not in answer.lower()

    def close(self) -> None:
        """Stop listening."""
        self._release.set()
        self._server.shutdown()
        self._server.server_close()


def response(
    body: str | bytes, status: int = 200, *, length: int | None = None, kind: str = "text/xml"
) -> bytes:
    """An HTTP response; `length` may lie about the body, which then ends with the connection."""
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Status", f"Content-Type: {kind}", f"Content-Length: {length or len(data)}"]
    lines += ["Date: Thu, 01 Jan 2026 00:00:40 GMT"]
    if length is not None:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def refusal(code: str, status: int = 400, message: str = "no") -> bytes:
    """An EC2 error (EC2 API reference, "API error response")."""
    body = (
        f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
        "<RequestID>req-1</RequestID></Response>"
    )
    return response(body, status)


REGIONS = response("<DescribeRegionsResponse><regionInfo/></DescribeRegionsResponse>")
IDENTITY = (
    "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/dr</Arn>"
    "<Account>111122223333</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
)


@contextlib.contextmanager
def answering(script: Script, *, tls: tuple[Path, Path] | None = None) -> Iterator[Answering]:
    """A server for the time of a block."""
    server = Answering(script, tls=tls)
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def moto_server(folder: Path) -> Iterator[str]:
    """A moto server in a process of its own; gives its URL. Its 1,300 default images are left out."""
    port = free_port()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MOTO_"))
    }
    environment |= {"MOTO_EC2_LOAD_DEFAULT_AMIS": "false"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "moto.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _wait_for(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    clock = RealClock()
    end = clock.monotonic() + 60
    while clock.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"moto ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        clock.sleep(0.05)
    raise RuntimeError("moto does not listen")
