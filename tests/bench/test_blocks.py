"""Blocks over TLS from a server 100 ms away: our data plane against boto3, alternated in one run.

Needs gcc and the headers of OpenSSL (Debian: gcc libssl-dev) for the block server. Ratios are medians of paired runs.
The machine's limit is what SHA-256 and AES-GCM of a block cost here, and what a bare socket costs: 0.65 ms a block
where the goal of 0.75 ms was set; on a slower machine the goal is as many times the bare socket. Where others keep the
processors busy already, the figures are printed and nothing is judged: there a bare socket is not twice boto3 either.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drpilot.base.clock import RealClock
from tests.clouds.test_dataplane import certified
from tests.grounds import free_port, key_file

pytestmark = pytest.mark.bench
HERE = Path(__file__).parent
BLOCK = 524_288
SERVED = 64  # different blocks
BLOCKS, CONNECTIONS, LATENCY_US, ROUNDS = 3000, 128, 100_000, 3
GOAL_MS, BARE_MS = 0.75, 0.65
CLOCK = RealClock()
Figures = dict[str, float]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Path]]:
    """The block server: its URL, its certificate and keys for it."""
    folder = tmp_path_factory.mktemp("ebsd")
    missing = [] if shutil.which("gcc") else ["gcc"]
    missing += (
        []
        if any(Path(p, "openssl/ssl.h").exists() for p in ("/usr/include", "/usr/local/include"))
        else ["libssl-dev"]
    )
    if missing:
        pytest.fail(f"the block server needs Debian's {' '.join(missing)}: apt install {' '.join(missing)}")
    program = folder / "ebsd"
    build = ["gcc", "-O2", "-w", "-o", str(program), str(HERE / "ebsd.c"), "-lssl", "-lcrypto", "-lpthread"]
    subprocess.run(build, check=True)
    image = folder / "image"
    with image.open("wb") as file:
        file.seek(64 << 20)
        for number in range(SERVED):
            file.write(hashlib.sha256(str(number).encode()).digest() * (BLOCK // 32))
    certificate, key = certified(folder)
    port = free_port()
    command = [str(program), str(port), str(image), str(SERVED), str(certificate), str(key), str(LATENCY_US)]
    process = subprocess.Popen(command)
    try:
        _await(port, process)
        yield f"https://127.0.0.1:{port}", certificate, key_file(folder)
    finally:
        process.kill()
        process.wait(10)


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(400):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None
            CLOCK.sleep(0.02)
        else:
            return
    raise AssertionError("the block server does not listen")


def run(kind: str, operation: str, server: tuple[str, Path, Path]) -> Figures:
    """One client, once: blocks a second, and CPU milliseconds a block."""
    url, certificate, keys = server
    command = [
        sys.executable,
        "-m",
        "tests.bench.blockclient",
        kind,
        operation,
        str(BLOCKS),
        str(CONNECTIONS),
    ]
    done = subprocess.run(
        [*command, url, str(certificate), str(keys)],
        cwd=HERE.parents[1],
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {
        "rate": BLOCKS / found["seconds"],
        "cpu_ms": found["cpu_seconds"] * 1000 / BLOCKS,
        "memory": found["memory_bytes"] / (1 << 20),
    }


def others_load() -> float:
    """How many processes of others want to run now, on average of two seconds."""
    wanted = []
    for _ in range(20):
        wanted.append(int(Path("/proc/loadavg").read_text().split()[3].split("/")[0]) - 1)
        CLOCK.sleep(0.1)
    return statistics.mean(wanted)


def limit_ms() -> Figures:
    """CPU milliseconds that one block's SHA-256 and one block's AES-128-GCM cost here, each alone."""
    return {"sha256": _openssl_ms("sha256", BLOCK), "aes": _openssl_ms("aes-128-gcm", 16_384)}


def _openssl_ms(algorithm: str, piece_bytes: int) -> float:
    """Milliseconds of CPU a block by OpenSSL's own measurement; TLS has records of 16 KiB."""
    command = ["openssl", "speed", "-seconds", "1", "-bytes", str(piece_bytes), "-evp", algorithm]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return BLOCK / float(done.stdout.split()[-1].removesuffix("k"))


@pytest.mark.parametrize("operation", ["get", "put"])
def test_blocks_over_tls_at_100_ms(
    operation: str, server: tuple[str, Path, Path], say: Callable[[str], None]
) -> None:
    """At 128 connections at least twice boto3's blocks a second, and at most 0.75 ms of CPU a block."""
    kinds, busy = ("boto3", "fast", "copy", "bare"), others_load()
    found: dict[str, list[Figures]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind in kinds:
            found[kind].append(run(kind, operation, server))
    limits = limit_ms()
    median = {
        kind: {name: statistics.median(one[name] for one in runs) for name in ("rate", "cpu_ms", "memory")}
        for kind, runs in found.items()
    }
    ratio = {
        kind: statistics.median(
            one["rate"] / theirs["rate"] for one, theirs in zip(found[kind], found["boto3"], strict=True)
        )
        for kind in kinds
    }
    say(
        f"{operation}: {BLOCKS} blocks of 512 KiB over TLS, {CONNECTIONS} connections,"
        f" {LATENCY_US // 1000} ms away, {ROUNDS} pairs"
    )
    for kind in kinds:
        rate, cpu_ms, memory = (median[kind][name] for name in ("rate", "cpu_ms", "memory"))
        say(
            f"  {kind:<6} {rate:6.0f} blocks/s  {cpu_ms:.3f} ms CPU a block  {memory:4.0f} MiB"
            f"  {ratio[kind]:.2f} x boto3"
        )
    say(
        f"  limit: 1,280 blocks/s at this latency, 1,000 by quota; SHA-256 {limits['sha256']:.3f} ms and AES-128-GCM"
        f" {limits['aes']:.3f} ms a block; {os.cpu_count()} processors shared with the server,"
        f" load {os.getloadavg()[0]:.1f}, {' '.join(ssl.OPENSSL_VERSION.split()[:2])}"
    )
    goal_ms = max(GOAL_MS, GOAL_MS / BARE_MS * median["bare"]["cpu_ms"])
    say(f"  goals: 2 x boto3, and {goal_ms:.3f} ms CPU a block on this machine")
    if busy > 1.0:
        pytest.skip(f"no verdict: {busy:.1f} other processes wanted the processors")
    assert ratio["fast"] >= 2.0
    assert median["fast"]["cpu_ms"] <= goal_ms


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print past pytest's capture."""

    def said(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{text}")

    return said
