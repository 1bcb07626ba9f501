"""The software that runs on a lab cloud's instances: database, application and web guests, and movers (mover.py).

A guest is what the bytes of its root volume say (disk.py), so an instance from a copied image has a role
only when bytes were really copied. It listens on its instance's private and elastic address: HTTP 8080 with `/healthz`
in every role, and 5432 on a database that found all its data volumes, proved every block of their data set
and saw no volume ahead of its log. An application answers 200 only while it reaches a database of its own
network; a web guest only while it reaches a healthy application. The database writes a heartbeat about
twice a second while somebody may reach it: what a recovery point lost can be read from the bytes. Asked to (`POST
/freeze?seconds=30`, `/thaw`), it holds its heartbeats for a while, so that snapshots taken one after the other are of
one instant.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from drpilot.base.clock import rfc3339
from drpilot.lab import disk, forwarding, machines, mover
from drpilot.lab.cloud import Cloud, path
from drpilot.lab.disk import DataSet, Heartbeat, Software
from drpilot.lab.freeze import LONGEST_S
from drpilot.lab.loopback import Endpoint, Service, fetch, knock, read_request, reset, respond
from drpilot.lab.machines import Machine
from drpilot.lab.reachability import look
from drpilot.lab.runtime import Runtime, contributor, runtime

__all__ = ["DATABASE_PORT", "HTTP_PORT", "Guest", "forwarding", "guests_of", "reach"]

DATABASE_PORT = 5432
HTTP_PORT = 8080
_BOOT_S = 2.0
_BEAT_S = 0.5
_KNOCK_S = 1.0
_NEEDS = {"app": "db", "web": "app"}
_UPSTREAM = re.compile(r"^upstream=(\d{1,3}(?:\.\d{1,3}){3})$", re.MULTILINE)
_FREEZING = re.compile(r"/(?:freeze(?:\?seconds=(\d{1,4}))?|thaw)")
_FREEZE_S = 30
_GET = "GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"


@dataclass(slots=True)
class Guest:
    """One booted instance with sample software. `problem` is why a database does not serve, else None."""

    machine: Machine
    software: Software
    since_s: float
    volumes: tuple[str, ...] = ()
    sets: tuple[DataSet, ...] = ()
    problem: str | None = None
    counter: int = 0
    beat_at_s: float = -1e9
    frozen_until_s: float = -1e9  # by the machine's clock

    @property
    def role(self) -> str:
        """db, app, web or mover."""
        return self.software.role


@dataclass(frozen=True, slots=True)
class _Recovered:
    problem: str | None
    sets: tuple[DataSet, ...] = ()
    counter: int = 0


def _recover(read: Callable[[str, int, int], bytes], volumes: tuple[str, ...], wanted: int) -> _Recovered:
    """What a database does at start: find its volumes, prove their blocks, compare their heartbeats."""
    found: dict[int, tuple[str, DataSet]] = {}
    for volume_id in volumes:
        data_set = disk.read_data_header(read(volume_id, 0, disk.BLOCK_BYTES))
        if data_set is not None:
            found[data_set.index] = (volume_id, data_set)
    if sorted(found) != list(range(wanted)):
        missing = sorted(set(range(wanted)) - set(found))
        return _Recovered(f"data volumes {missing} of {wanted} are missing or carry no data set")
    counters = []
    for index, (volume_id, data_set) in sorted(found.items()):
        for place, digest in data_set.blocks.items():
            data = read(volume_id, place * disk.BLOCK_BYTES, disk.BLOCK_BYTES)
            if hashlib.sha256(data).hexdigest() != digest:
                return _Recovered(f"block {place} of data volume {index} is damaged")
        beat = disk.newest_heartbeat(read(volume_id, data_set.heartbeat * disk.BLOCK_BYTES, disk.BLOCK_BYTES))
        counters.append(beat.counter if beat else 0)
    if any(counter > counters[0] for counter in counters[1:]):
        return _Recovered(f"data is ahead of the log (rows {counters}): the volumes are not of one instant")
    return _Recovered(None, tuple(found[index][1] for index in range(wanted)), counters[0])


def _start_recovery(cloud: Cloud, beside: Runtime, guest: Guest) -> None:
    guest.problem, guest.sets = "recovering", ()
    volumes, wanted = guest.volumes, guest.software.volumes

    def work() -> _Recovered:
        try:
            return _recover(cloud.store.read_volume, volumes, wanted)
        except (OSError, ValueError) as error:
            return _Recovered(f"data volumes can't be read: {error}")

    async def recover() -> None:
        done = await asyncio.get_running_loop().run_in_executor(None, work)
        if guest.volumes == volumes:
            guest.problem, guest.sets, guest.counter = done.problem, done.sets, done.counter

    beside.attend(recover())


def _beat(cloud: Cloud, guest: Guest) -> None:
    """Append a heartbeat to every volume of the set, the log first; nothing while it is frozen."""
    wall_s = cloud.clock.monotonic()
    if wall_s < guest.frozen_until_s:
        return
    if 0 <= wall_s - guest.beat_at_s < _BEAT_S:
        return
    guest.beat_at_s = wall_s
    guest.counter += 1
    beat = Heartbeat(guest.counter, rfc3339(cloud.timestamp()))
    place, row = disk.heartbeat_row(beat)
    ordered = sorted(zip(guest.sets, _ordered(cloud, guest), strict=True), key=lambda item: item[0].index)
    for data_set, volume_id in ordered:
        cloud.store.write_volume(volume_id, data_set.heartbeat * disk.BLOCK_BYTES + place, row)


def _ordered(cloud: Cloud, guest: Guest) -> list[str]:
    """The data volumes by the index in their header; ValueError when one is not what it was at start."""
    by_index: dict[int, str] = {}
    for volume_id in guest.volumes:
        header = disk.read_data_header(cloud.store.read_volume(volume_id, 0, disk.BLOCK_BYTES))
        if header is not None:
            by_index[header.index] = volume_id
    if sorted(by_index) != [data_set.index for data_set in guest.sets]:
        raise ValueError("a data volume lost its header")
    return [by_index[data_set.index] for data_set in guest.sets]


def _tend_database(cloud: Cloud, beside: Runtime, guest: Guest) -> None:
    if guest.volumes != guest.machine.data_volumes or (guest.problem is None and not guest.sets):
        guest.volumes = guest.machine.data_volumes
        _start_recovery(cloud, beside, guest)
    elif guest.problem is None and beside.fresh_world().open_to_anyone(guest.machine.groups, DATABASE_PORT):
        # Nobody who may reach the database, nobody who writes: a deny-all security group is a fence.
        try:
            _beat(cloud, guest)
        except (OSError, ValueError) as error:
            guest.problem = f"data volumes can't be written: {error}"


def _boot(cloud: Cloud, machine: Machine | None) -> Guest | None:
    if machine is None or machine.root_volume is None or not machine.address:
        return None
    try:
        software = disk.read_root(cloud.store.read_volume(machine.root_volume, 0, 512))
    except OSError:
        return None
    return None if software is None else Guest(machine, software, cloud.now())


@contributor
def guests(cloud: Cloud, beside: Runtime) -> dict[Endpoint, Service]:
    """Boot, tend and power off guests as their instances change; the endpoints that they listen on."""
    found: dict[Endpoint, Service] = {}
    running = machines.running_ids(cloud)
    for instance_id in [key for key in beside.guests if key not in running]:
        del beside.guests[instance_id]
        beside.end_program(instance_id)
    booting_s = cloud.setting("durations", {}).get("guest.boot", _BOOT_S)
    for instance_id in running:
        if instance_id not in beside.guests:
            beside.guests[instance_id] = _boot(cloud, machines.machine(cloud, instance_id))
        guest = beside.guests[instance_id]
        machine = None if guest is None else machines.machine(cloud, instance_id)
        if guest is None or machine is None or cloud.now() < guest.since_s + booting_s:
            continue
        guest.machine = machine
        found.update(_endpoints(cloud, beside, guest))
    return found


def _endpoints(cloud: Cloud, beside: Runtime, guest: Guest) -> dict[Endpoint, Service]:
    """What one booted guest listens on, after a database was tended."""
    found: dict[Endpoint, Service] = {}
    machine, world = guest.machine, beside.fresh_world()
    if guest.role == "mover":
        mover.tend(cloud, beside, machine)
        return found
    own = [address for address in (machine.address, machine.public) if address]
    if guest.role == "db":
        _tend_database(cloud, beside, guest)
        if guest.problem is None and world.open_to_anyone(machine.groups, DATABASE_PORT):
            found.update({(address, DATABASE_PORT): _database(beside, guest) for address in own})
    if world.open_to_anyone(machine.groups, HTTP_PORT):
        found.update({(address, HTTP_PORT): _web(cloud, beside, guest) for address in own})
    return found


def _admitted(beside: Runtime, machine: Machine, writer: asyncio.StreamWriter, port: int) -> bool:
    peer = str(writer.get_extra_info("peername")[0])
    return beside.world.receives(machine, peer, port)


def _database(beside: Runtime, guest: Guest) -> Service:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not _admitted(beside, guest.machine, writer, DATABASE_PORT):
            reset(writer)
            return
        async with asyncio.timeout(5):
            line = await reader.readline()
        if line.strip() == b"newest":
            writer.write(f"{guest.counter}\n".encode())
            await writer.drain()

    return serve


def _web(cloud: Cloud, beside: Runtime, guest: Guest) -> Service:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not _admitted(beside, guest.machine, writer, HTTP_PORT):
            reset(writer)
            return
        request = await read_request(reader)
        if request.path.split("?", 1)[0] == "/healthz":
            problem = await _problem(cloud, beside, guest)
            await respond(writer, 503 if problem else 200, problem or "ok")
        elif request.path == "/":
            await respond(writer, 200, f"{guest.role} {guest.machine.instance_id} on {cloud.name}\n")
        elif guest.role == "db" and _FREEZING.fullmatch(request.path):
            # Under the cloud's lock, which a tick may hold while it waits for this very thread.
            work = asyncio.get_running_loop().run_in_executor(None, _freeze, cloud, guest, request.path)
            await respond(writer, *await work)
        else:
            await respond(writer, 404, "nothing here\n")

    return serve


def _freeze(cloud: Cloud, guest: Guest, path: str) -> tuple[int, str]:
    """Freeze or thaw a database: status and text of the answer. No heartbeat is half written when it is given."""
    with cloud.lock:
        now_s = cloud.clock.monotonic()
        held = now_s < guest.frozen_until_s and guest.problem is None
        if path == "/thaw":
            guest.frozen_until_s = -1e9
            return (200, "thawed\n") if held else (409, "it was not frozen any more\n")
        if guest.problem is not None:
            return 503, f"{guest.problem}\n"
        asked = _FREEZING.fullmatch(path)
        seconds = min(LONGEST_S, int((asked[1] if asked else None) or _FREEZE_S))
        guest.frozen_until_s = now_s + seconds
        return 200, f"frozen for {seconds} s after row {guest.counter}\n"


async def _problem(cloud: Cloud, beside: Runtime, guest: Guest) -> str | None:
    """Why a guest is not healthy, looked at now; None when it is."""
    if guest.role == "db":
        if guest.problem is None and (guest.machine.address, DATABASE_PORT) not in beside.listening():
            return f"port {DATABASE_PORT} is not open"
        return guest.problem or _unreadable(cloud, guest)
    needed = _NEEDS[guest.role]
    others = _upstream(beside, guest, needed)
    for address in others:
        port = DATABASE_PORT if needed == "db" else HTTP_PORT
        if beside.world.leaves(guest.machine, address, port) is not None:
            continue
        try:
            if needed == "db":
                await knock(guest.machine.address, (address, port), _KNOCK_S)
                return None
            raw = _GET.format(host=address).encode()
            response = await fetch(guest.machine.address, (address, port), raw, 2 * _KNOCK_S)
            if response.status == 200:
                return None
        except (OSError, TimeoutError, ValueError):
            continue
    return f"no {needed} answers in {guest.machine.vpc_id} ({len(others)} known)"


def _unreadable(cloud: Cloud, guest: Guest) -> str | None:
    try:
        _ordered(cloud, guest)
    except (OSError, ValueError) as error:
        return f"data volumes can't be read: {error}"
    return None


def _upstream(beside: Runtime, guest: Guest, role: str) -> list[str]:
    """Addresses behind a guest: the one in its user data, else all guests of the role in its own network."""
    pinned = _UPSTREAM.search(guest.machine.user_data)
    if pinned:
        return [pinned[1]]
    return [
        other.machine.address
        for other in list(beside.guests.values())
        if other is not None and other.role == role and other.machine.vpc_id == guest.machine.vpc_id
    ]


def guests_of(cloud: Cloud) -> list[dict[str, Any]]:
    """What runs on this cloud now: instance, role, address, problem and the newest heartbeat's counter."""
    beside = runtime(cloud)
    listening, failures = set(beside.listening()), beside.failures()
    found = []
    for instance_id, guest in list(beside.guests.items()):
        if guest is not None:
            address = guest.machine.address
            ports = [port for port in (DATABASE_PORT, HTTP_PORT) if (address, port) in listening]
            shown = {"instance": instance_id, "role": guest.role, "address": address, "ports": ports}
            taken = [text for (failed, _), text in failures.items() if failed == address]
            found.append({**shown, "problem": guest.problem, "counter": guest.counter, "not_bound": taken})
    return found


def reach(cloud: Cloud, vpc_id: str, address: str, port: int, timeout_s: float = 2.0) -> dict[str, Any]:
    """Try to open a TCP connection to an endpoint as something inside a network would.

    Gives `reachable` and, when it is not, `reason`: `no route` (the network has no path there), else what the
    attempt met. Route tables and internet gateways of the network decide first, as in EC2.
    """
    with cloud.lock:
        world = look(cloud)
    source = world.vantage(vpc_id)
    if source is None:
        return {"reachable": False, "reason": f"no network {vpc_id} with a subnet"}
    refused = world.path(vpc_id, source.subnet_id, address)
    if refused is not None:
        return {"reachable": False, "reason": refused, "from": source.address}
    work = runtime(cloud).submit(knock(source.address, (address, port), timeout_s))
    try:
        work.result(timeout=timeout_s + 5)
    except (OSError, TimeoutError) as error:
        reason = "timed out" if isinstance(error, TimeoutError) else str(error)
        return {"reachable": False, "reason": reason, "from": source.address}
    return {"reachable": True, "from": source.address}


@path("reach")
def answer_reach(cloud: Cloud, payload: dict[str, Any]) -> dict[str, Any]:
    """`reach` over the control plane: POST /_lab/path/reach {vpc, address, port}."""
    return reach(cloud, str(payload["vpc"]), str(payload["address"]), int(payload["port"]))


@path("guests")
def answer_guests(cloud: Cloud, payload: dict[str, Any]) -> dict[str, Any]:
    """`guests_of` over the control plane: POST /_lab/path/guests {}."""
    return {"guests": guests_of(cloud)}
