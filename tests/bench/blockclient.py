"""One client of the block server, in a process of its own so that its CPU can be told from everybody else's.

    python -m tests.bench.blockclient ENGINE get|put BLOCKS CONNECTIONS URL CERTIFICATE KEYS

ENGINE is `fast` (our data plane, with its pace and the site's limits), `boto3` (a client as one would tune it: a pool
of as many connections, no retries, no validation of parameters), `copy` (the whole copy engine, ledger and map
included) or `bare` (a socket that sends the same bytes again and again, and a hash: what Python and OpenSSL cost at
least). Prints one JSON document: seconds and CPU seconds of the measured part (without start-up; of `copy`, handshakes
are a part), and the most memory the process ever had.
"""

from __future__ import annotations

import base64
import hashlib
import json
import resource
import socket
import ssl
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from drpilot.base.clock import Chance, RealClock
from drpilot.clouds.blocks import BLOCK_BYTES, block_plane
from drpilot.clouds.credentials import CredentialsReference
from drpilot.clouds.session import Clients, SiteSettings
from drpilot.clouds.site import BotoSite
from drpilot.domain.ports import BlockChannel, BlockPlane
from drpilot.formats.blockmap import BlockMap
from drpilot.transfer.block import BlockReader, BlockWriter, Listing, Piece, Result
from drpilot.transfer.copy import Order, copy
from drpilot.transfer.ledger import Head, Ledger
from drpilot.transfer.nowhere import Nowhere
from drpilot.transfer.pace import Pace

CLOCK = RealClock()
DATA = bytes(range(256)) * (BLOCK_BYTES // 256)
SNAPSHOT = "snap-0123456789abcdef0"
Work = Callable[[int, bytearray], None]


def site_at(url: str, certificate: str, keys: str) -> BotoSite:
    """A site whose EBS direct is the block server."""
    settings = SiteSettings(
        "bench",
        "aws",
        "eu-west-1",
        endpoints={"default": url},
        credentials=CredentialsReference("file", keys),
        ca_bundle=certificate,
    )
    return BotoSite(Clients(settings, environment={}))


def fast(plane: BlockPlane, pace: Pace, operation: str) -> Callable[[], Work]:
    """Workers of the data plane: one channel each. Every block is hashed once, as in a copy."""

    def worker() -> Work:
        channel: BlockChannel = plane.channel()

        def get(index: int, buffer: bytearray) -> None:
            pace.run(lambda: channel.get(SNAPSHOT, index, "t", memoryview(buffer)))

        def put(index: int, buffer: bytearray) -> None:
            digest = hashlib.sha256(DATA).digest()
            pace.run(lambda: channel.put(SNAPSHOT, index, memoryview(DATA), digest))

        return get if operation == "get" else put

    return worker


def tuned_boto3(url: str, certificate: str, connections: int, operation: str) -> Callable[[], Work]:
    """Workers of one shared boto3 client; what is read is compared with its checksum, what is written has one."""
    client: Any = boto3.client(
        "ebs",
        region_name="eu-west-1",
        endpoint_url=url,
        verify=certificate,
        aws_access_key_id="AKIAEXAMPLE",
        aws_secret_access_key="example-secret",
        config=Config(
            max_pool_connections=connections, parameter_validation=False, retries={"total_max_attempts": 1}
        ),
    )

    def get(index: int, buffer: bytearray) -> None:
        reply = client.get_snapshot_block(SnapshotId=SNAPSHOT, BlockIndex=index, BlockToken="t")
        data = reply["BlockData"].read()
        if base64.b64encode(hashlib.sha256(data).digest()).decode() != reply["Checksum"]:
            raise ValueError(f"block {index}")

    def put(index: int, buffer: bytearray) -> None:
        client.put_snapshot_block(
            SnapshotId=SNAPSHOT,
            BlockIndex=index,
            BlockData=DATA,
            DataLength=BLOCK_BYTES,
            Checksum=base64.b64encode(hashlib.sha256(DATA).digest()).decode(),
            ChecksumAlgorithm="SHA256",
        )

    return lambda: get if operation == "get" else put


def bare(url: str, certificate: str, operation: str) -> Callable[[], Work]:
    """Workers of nothing but a socket: no signature, no parsing, no checks but the hash, no limits."""
    parts = urlsplit(url)
    context = ssl.create_default_context(cafile=certificate)
    head = f"{operation.upper()} /snapshots/{SNAPSHOT}/blocks/7?blockToken=t HTTP/1.1\r\nhost: {parts.netloc}\r\n"
    head += f"content-length: {BLOCK_BYTES if operation == 'put' else 0}\r\n\r\n"
    request = head.encode()

    def worker() -> Work:
        raw = socket.create_connection((parts.hostname, parts.port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = context.wrap_socket(raw, server_hostname=parts.hostname)
        buffer = bytearray(BLOCK_BYTES + 1024)
        view = memoryview(buffer)

        def get(index: int, unused: bytearray) -> None:
            connection.sendall(request)
            filled = connection.recv_into(view)
            start = buffer.find(b"\r\n\r\n") + 4
            while filled < start + BLOCK_BYTES:
                filled += connection.recv_into(view[filled : start + BLOCK_BYTES])
            hashlib.sha256(view[start:filled]).digest()

        def put(index: int, unused: bytearray) -> None:
            hashlib.sha256(DATA).digest()
            connection.sendall(request)
            connection.sendall(DATA)
            connection.recv_into(view)

        return get if operation == "get" else put

    return worker


def measured(worker: Callable[[], Work], blocks: int, connections: int) -> dict[str, float]:
    """Run `blocks` calls on as many threads as connections, after each thread has made one call."""
    ready, go = threading.Barrier(connections + 1), threading.Barrier(connections + 1)
    numbers, lock, failures = iter(range(blocks)), threading.Lock(), []

    def work() -> None:
        one, buffer = worker(), bytearray(BLOCK_BYTES)
        one(0, buffer)
        ready.wait(120)
        go.wait(120)
        try:
            while True:
                with lock:
                    index = next(numbers, None)
                if index is None:
                    return
                one(index, buffer)
        except Exception as error:  # noqa: BLE001 - a thread's edge
            failures.append(repr(error))

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    ready.wait(120)
    began, cpu = CLOCK.monotonic(), cpu_s()
    go.wait(120)
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(failures[0])
    return {"seconds": CLOCK.monotonic() - began, "cpu_seconds": cpu_s() - cpu}


def cpu_s() -> float:
    """CPU seconds of this process, system time included."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# -- the whole engine -------------------------------------------------------------------------------------


class Numbered:
    """A source or sink of as many blocks as were asked for, at the block server."""

    name = identity = "bench"
    steady = blank = True

    def __init__(self, plane: BlockPlane, pace: Pace | None, blocks: int) -> None:
        self.pace = pace
        self.size_bytes = blocks * BLOCK_BYTES
        self._plane, self._blocks = plane, blocks

    def list(self, base: BlockMap | None) -> Listing:
        return Listing((Piece(index, "t") for index in range(self._blocks)), total=self._blocks)

    def reader(self) -> BlockReader:
        return _Ends(self._plane.channel(), self.pace)

    def writer(self) -> BlockWriter:
        return _Ends(self._plane.channel(), self.pace)

    def begin(self, *given: Any) -> dict[str, str]:
        return {"a": "b"}

    def sync(self) -> None: ...

    def finish(self, result: Result) -> dict[str, str]:
        return {}


class _Ends:
    def __init__(self, channel: BlockChannel, pace: Pace | None) -> None:
        self._channel, self._pace = channel, pace

    def read(self, piece: Piece, into: bytearray) -> bytes:
        assert self._pace is not None
        view = memoryview(into)
        return self._pace.run(lambda: self._channel.get(SNAPSHOT, piece.index, piece.token, view))

    def write(self, index: int, data: memoryview, sha256: bytes) -> None:
        assert self._pace is not None
        self._pace.run(lambda: self._channel.put(SNAPSHOT, index, data, sha256))

    def close(self) -> None:
        self._channel.close()


class Memory(Numbered):
    """A source whose blocks are in memory, to be hashed by the engine."""

    steady = False

    def reader(self) -> BlockReader:
        return _Memory()


class _Memory:
    def read(self, piece: Piece, into: bytearray) -> None:
        into[:] = DATA

    def close(self) -> None: ...


def engine(plane: BlockPlane, pace: Pace, operation: str, blocks: int) -> dict[str, float]:
    """A whole copy from the server to nowhere, or from memory to the server."""
    source = Numbered(plane, pace, blocks) if operation == "get" else Memory(plane, None, blocks)
    sink: Any = Nowhere() if operation == "get" else Numbered(plane, pace, blocks)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "one.ledger")
        began, cpu = CLOCK.monotonic(), cpu_s()
        copy(Order(source, sink, ledger, Head("a", "b", "", source.size_bytes, "t")))
        found = {"seconds": CLOCK.monotonic() - began, "cpu_seconds": cpu_s() - cpu}
        ledger.close()
    return found


def main(arguments: list[str]) -> dict[str, float]:
    """Measure once."""
    kind, operation, blocks, connections, url, certificate, keys = arguments
    most = int(connections)
    if kind == "boto3":
        return measured(tuned_boto3(url, certificate, most, operation), int(blocks), most)
    if kind == "bare":
        return measured(bare(url, certificate, operation), int(blocks), most)
    plane = block_plane(site_at(url, certificate, keys), "fast")
    if kind == "copy":
        return engine(plane, Pace(CLOCK, Chance(), most=most), operation, int(blocks))
    pace = Pace(CLOCK, Chance(), most=most, start=most)
    return measured(fast(plane, pace, operation), int(blocks), most)


if __name__ == "__main__":
    figures = main(sys.argv[1:])
    figures["memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(json.dumps(figures) + "\n")
