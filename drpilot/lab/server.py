"""One site of the lab as a process: its API on one port, its control plane on another, both on loopback.

During a refusing outage the API port is really closed, so that a client meets a refused connection; the
control plane stays reachable, as the lab's own operator needs it. The control plane is no cloud API:

    GET  /_lab/status | inventory | faults | errors
    POST /_lab/calls {since, service, operation, mutating, clear}
    POST /_lab/break {fault} | heal {fault} | advance {seconds} | speed {speed} | tune {name: value}
    POST /_lab/snapshot {label} | restore {label} | reset | shutdown
    POST /_lab/blocks {volume | snapshot | instance}  digest of all bytes, and SHA-256 block by block
    POST /_lab/write {volume, offset, data}       base64 bytes onto a volume, as a person at its machine would
    POST /_lab/path/NAME, GET /_lab/block/DIGEST  what other sites ask, obeying outage and partition
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drpilot.base.clock import RealClock
from drpilot.domain.operations import is_reading
from drpilot.lab.cloud import Cloud, Refusal, Settings, Unreachable
from drpilot.lab.faults import Cut
from drpilot.lab.listener import LOOPBACK, Handler, Listener, hang_up
from drpilot.lab.machines import machine
from drpilot.lab.remote import RemotePeer
from drpilot.lab.store import MissingBlock
from drpilot.lab.wire import Incoming, Reply, answer

__all__ = ["Site", "main", "settings_from"]

_HANG_S = 300.0


class _ApiHandler(Handler):
    """The cloud's own API."""

    def _serve(self) -> None:
        site = self.server.site
        request = self.incoming()
        try:
            self.reply(answer(site.cloud, request))
        except Cut as cut:
            if cut.kind == "hang":
                site.hang()
            if cut.kind == "lost-reply":
                self.close_connection = True
                hang_up(self.connection)
            else:
                self.reset()

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _serve


class _ControlHandler(Handler):
    """The lab's control plane."""

    def _serve(self) -> None:
        site, request = self.server.site, self.incoming()
        try:
            reply = site.control(request)
        except (Refusal, Unreachable, MissingBlock, KeyError, ValueError, TypeError) as error:
            reply = _problem(error)
        self.reply(reply)
        if request.path == "/_lab/shutdown":
            site.finished.set()

    do_GET = do_POST = _serve


def _problem(error: Exception) -> Reply:
    """An exception as the control plane words it, so that the other end can raise it again."""
    body: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
    status = 400
    if isinstance(error, Refusal):
        body.update(code=error.code, message=error.message, status=error.status)
    elif isinstance(error, Unreachable):
        status = 503
    elif isinstance(error, KeyError | MissingBlock):
        status = 404
    return _json(body, status)


def _json(value: Any, status: int = 200) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(value).encode())


class Site:
    """One running site: a cloud, its two ports and its knowledge of the other sites."""

    def __init__(self, cloud: Cloud, ports: tuple[int, int] = (0, 0), peers: Path | None = None) -> None:
        self.cloud = cloud
        self.finished = threading.Event()
        self._peers = peers
        self._healed = threading.Condition()
        self._api_lock = threading.Lock()
        self._control = Listener(ports[1], _ControlHandler, self)
        self.control_port = int(self._control.server_address[1])
        self._api: Listener | None = Listener(ports[0], _ApiHandler, self)
        self.api_port = int(self._api.server_address[1])
        if cloud.faults.outage == "refuse":
            # Broken before it was stopped: the port is only chosen, nobody may ever see it open.
            self._api.server_close()
            self._api = None
        cloud.find_peer = self._find_peer
        cloud.hosts = frozenset(f"{host}:{self.api_port}" for host in (LOOPBACK, "localhost"))
        self._commands: dict[str, Callable[[dict[str, Any]], Any]] = {
            "status": self._status,
            "inventory": lambda given: {"resources": cloud.inventory()},
            "faults": lambda given: {"faults": cloud.faults.rules()},
            "errors": lambda given: {"errors": cloud.errors},
            "calls": self._calls,
            "break": self._break,
            "heal": self._heal,
            "advance": self._advance,
            "speed": self._speed,
            "tune": self._tune,
            "snapshot": self._save,
            "restore": self._restore,
            "reset": self._reset,
            "blocks": self._blocks,
            "write": self._write,
            "shutdown": lambda given: {"stopping": True},
        }

    def start(self) -> None:
        """Serve both ports in threads and let the cloud tick; the control plane last, as the sign of life."""
        self.cloud.start()
        if self._api is not None:
            _serve(self._api)
        _serve(self._control)

    def stop(self) -> None:
        """Close both ports and the cloud's files."""
        with self._healed:
            self.finished.set()
            self._healed.notify_all()
        with self._api_lock:
            if self._api is not None:
                self._api.stop()
                self._api = None
        self._control.stop()
        self.cloud.close()

    def hang(self) -> None:
        """Wait until a fault is lifted, at most five minutes."""
        with self._healed:
            self._healed.wait(timeout=_HANG_S)

    def _follow_outage(self) -> None:
        """Close the API port during a refusing outage, open the same port after it."""
        refusing = self.cloud.faults.outage == "refuse"
        with self._api_lock:
            if refusing and self._api is not None:
                self._api.stop()
                self._api = None
            elif not refusing and self._api is None:
                self._api = Listener(self.api_port, _ApiHandler, self)
                _serve(self._api)
        with self._healed:
            self._healed.notify_all()

    def _find_peer(self, name: str) -> RemotePeer | None:
        """Read the other sites from the world's file, which may have changed since the last look."""
        if self._peers is None or not self._peers.exists():
            return None
        for site, entry in json.loads(self._peers.read_text())["sites"].items():
            if site != self.cloud.name and entry.get("control"):
                self.cloud.peers[site] = RemotePeer(self.cloud, site, entry["region"], entry["control"])
        found = self.cloud.peers.get(name)
        return found if isinstance(found, RemotePeer) else None

    # -- control ----------------------------------------------------------------------------------------

    def control(self, request: Incoming) -> Reply:
        """Answer one request of the control plane."""
        name = request.path.removeprefix("/_lab/")
        caller = request.headers.get("x-lab-site", "")
        if name.startswith("path/"):
            payload = json.loads(request.body or b"{}")
            return _json(self.cloud.serve_path(name.removeprefix("path/"), caller, payload))
        if name.startswith("block/"):
            with self.cloud.lock:
                if self.cloud.faults.parts(caller):
                    raise Unreachable(f"the path from {self.cloud.name} to {caller} is cut")
            return Reply(200, {}, self.cloud.store.get_block(name.removeprefix("block/")))
        if name not in self._commands:
            raise KeyError(name)
        given = json.loads(request.body or b"{}")
        return _json(self._commands[name](given))

    def _status(self, given: dict[str, Any]) -> dict[str, Any]:
        cloud = self.cloud
        with cloud.lock:
            return {
                "name": cloud.name,
                "region": cloud.region,
                "account": cloud.account,
                "dialect": cloud.dialect,
                "speed": cloud.speed,
                "pid": os.getpid(),
                "api": f"http://{LOOPBACK}:{self.api_port}",
                "control": f"http://{LOOPBACK}:{self.control_port}",
                "outage": cloud.faults.outage,
                "faults": cloud.faults.rules(),
                "calls": cloud.calls_total,
                "errors": len(cloud.errors),
            }

    def _calls(self, given: dict[str, Any]) -> dict[str, Any]:
        with self.cloud.lock:
            chosen = [
                entry
                for entry in self.cloud.calls
                if entry["number"] > int(given.get("since", 0))
                and given.get("service") in (None, entry["service"])
                and given.get("operation") in (None, entry["operation"])
                and (not given.get("mutating") or not is_reading(entry["operation"]))
            ]
            total = self.cloud.calls_total
            if given.get("clear"):
                self.cloud.calls.clear()
        return {"calls": chosen, "total": total}

    def _break(self, given: dict[str, Any]) -> dict[str, Any]:
        with self.cloud.transaction():
            rule = self.cloud.faults.set(str(given.get("fault", "")))
        self._follow_outage()
        return {"id": rule, "faults": self.cloud.faults.rules()}

    def _heal(self, given: dict[str, Any]) -> dict[str, Any]:
        with self.cloud.transaction():
            lifted = self.cloud.faults.heal(given.get("fault"))
        self._follow_outage()
        return {"lifted": lifted, "faults": self.cloud.faults.rules()}

    def _advance(self, given: dict[str, Any]) -> dict[str, Any]:
        self.cloud.advance(float(given["seconds"]))
        return {"now": self.cloud.now()}

    def _speed(self, given: dict[str, Any]) -> dict[str, Any]:
        self.cloud.set_speed(float(given["speed"]))
        return {"speed": self.cloud.speed}

    def _tune(self, given: dict[str, Any]) -> dict[str, Any]:
        self.cloud.tune(**given)
        return {"tuned": sorted(given)}

    def _save(self, given: dict[str, Any]) -> dict[str, Any]:
        self.cloud.save(given["label"])
        return {"label": given["label"]}

    def _restore(self, given: dict[str, Any]) -> dict[str, Any]:
        self.cloud.restore(given["label"])
        self._follow_outage()
        return {"label": given["label"]}

    def _reset(self, given: dict[str, Any]) -> dict[str, Any]:
        self.cloud.reset()
        self._follow_outage()
        return {"reset": True}

    def _blocks(self, given: dict[str, Any]) -> dict[str, Any]:
        """Hashes of a volume's or a snapshot's bytes: one of all, and block by block."""
        store = self.cloud.store
        with self.cloud.lock:
            if "instance" in given:
                found = machine(self.cloud, given["instance"])
                given = {"volume": found.root_volume if found is not None else None}
                if given["volume"] is None:
                    raise KeyError("the instance has no root disk")
            if "volume" in given:
                name = given["volume"]
                return {"digest": store.hash_volume(name), "blocks": store.capture(name)}
            name = given["snapshot"]
            return {"digest": store.hash_snapshot(name), "blocks": store.block_map(name)}

    def _write(self, given: dict[str, Any]) -> dict[str, Any]:
        """Bytes onto a volume."""
        data = base64.b64decode(given["data"], validate=True)
        with self.cloud.lock:
            self.cloud.store.write_volume(given["volume"], int(given["offset"]), data)
        return {"written": len(data)}


def _serve(server: Listener) -> None:
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()


def settings_from(entry: dict[str, Any]) -> Settings:
    """A site's settings from its entry in the world's file."""
    return Settings(
        name=entry["name"],
        region=entry["region"],
        account=entry["account"],
        dialect=entry.get("dialect", "aws"),
        seed=entry["seed"],
        speed=float(entry.get("speed", 1.0)),
        keys={entry["access_key"]: entry["secret_key"]},
        platform=entry.get("platform", ""),
        login=entry.get("login", ()),
    )


def main(arguments: list[str] | None = None) -> int:
    """Run one site of the world in `--directory` until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m drpilot.lab.server", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="directory of the world")
    parser.add_argument("--name", required=True, help="the site to run")
    given = parser.parse_args(arguments)
    world = given.directory / "world.json"
    entry = json.loads((given.directory / "sites" / given.name / "site.json").read_text())
    cloud = Cloud.open(given.directory / "sites" / given.name, settings_from(entry), RealClock())
    site = Site(cloud, (entry.get("api_port", 0), entry.get("control_port", 0)), world)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: site.finished.set())
    site.start()
    sys.stdout.write(f"{json.dumps({'api': site.api_port, 'control': site.control_port})}\n")
    sys.stdout.flush()
    while not site.finished.wait(timeout=1.0):
        pass
    site.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
