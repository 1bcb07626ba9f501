"""A guest of the role mover: the real `drpilot mover` as a process, with the guest's volumes as its devices.

It reads the presigned URL in its user data, and the certificates there, as the script of a real one does; nothing else
tells it what to do.
Its devices are links to the files of the volumes, under the names that a KVM guest gives them. When it ends the machine
powers itself off; what it printed is on the console. Stopping the machine, an outage and the end of the lab kill it.
"""

from __future__ import annotations

import atexit
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path

import drpilot
from drpilot.lab.cloud import Cloud
from drpilot.lab.compute import shut_down
from drpilot.lab.faults import Cut
from drpilot.lab.listener import LOOPBACK, Handler, Listener
from drpilot.lab.machines import Machine, attached
from drpilot.lab.runtime import Runtime
from drpilot.lab.wire import answer

__all__ = ["tend"]

_URL = re.compile(r"https?://[!#-&(-;=?-~]+")  # up to a blank, a quote or an angle bracket
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
_LETTERS = re.compile(r"/dev/(?:sd|xvd|vd)([a-z]+\d*)")
_LIFE_S = 1800.0  # of a mover; a lab's volumes are small
_POLL_S = 0.05
_MOST_CONSOLE_BYTES = 16_384


_RUNNING: weakref.WeakSet[_Process] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """A lab that ends leaves no program behind; a thread may not come to it in time."""
    for process in list(_RUNNING):
        process.kill()


class _Process:
    """One mover. A thread of its own sees to it that the process ends: by itself, in time, or with the cloud."""

    def __init__(self, command: list[str], url: str, folder: Path, ways: Mapping[str, str]) -> None:
        self._log = folder / "console"
        root = str(Path(drpilot.__file__).parents[1])
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": root, **ways},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _RUNNING.add(self)
        assert self._process.stdin is not None
        self._process.stdin.write(url.encode() + b"\n")  # less than a pipe holds
        self._process.stdin.close()

    def watch(self, closing: threading.Event) -> None:
        """Begin to wait for its end; it is killed when the cloud closes or its time is over."""
        threading.Thread(target=self._wait, args=(closing,), name="lab-mover", daemon=True).start()

    def _wait(self, closing: threading.Event) -> None:
        for _ in range(int(_LIFE_S / _POLL_S)):
            if self._process.poll() is not None or closing.wait(_POLL_S):
                break
        self.kill()

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def console(self) -> str:
        """The end of what it printed, and how it ended."""
        text = self._log.read_bytes()[-_MOST_CONSOLE_BYTES:].decode("utf-8", "replace")
        return f"{text}mover: ended with {self._process.returncode}\n"

    def kill(self) -> None:
        """End it now."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(timeout=10)


def tend(cloud: Cloud, beside: Runtime, machine: Machine) -> None:
    """Start the mover of a machine that has a URL, let its devices follow, and power the machine off when it ended."""
    folder = cloud.store.directory.absolute() / "movers" / machine.instance_id
    _follow(folder / "dev", _devices(cloud, machine.instance_id))
    program = beside.programs.get(machine.instance_id)
    if program is None:
        urls = [url for url in _URL.findall(machine.user_data) if "Signature=" in url]
        if urls:
            command = [sys.executable, "-m", "drpilot", "mover", "-", "--devices", str(folder / "dev")]
            trusted = _CERTIFICATE.findall(machine.user_data)
            if trusted:
                (folder / "ca.pem").write_text("\n".join(trusted), encoding="ascii")
                command += ["--ca", str(folder / "ca.pem")]
            process = _Process(command, urls[0], folder, _ways(cloud))
            process.watch(cloud.closing)
            beside.programs[machine.instance_id] = process
    elif isinstance(program, _Process) and program.ended:
        row = cloud.table("instances").get(machine.instance_id)
        if row is not None:
            row["_console"] = row.get("_console", "") + program.console()
        shut_down(cloud, machine.instance_id)
        beside.end_program(machine.instance_id)


def _devices(cloud: Cloud, instance_id: str) -> dict[str, Path]:
    """The files of the attached volumes but the root, under the names of a KVM guest."""
    found = {}
    for device, volume_id in attached(cloud, instance_id).items():
        letters = _LETTERS.fullmatch(device)
        if letters is not None:
            found[f"vd{letters[1]}"] = cloud.store.volume_path(volume_id).absolute()
    return found


def _follow(folder: Path, wanted: Mapping[str, Path]) -> None:
    """Let a folder hold exactly these links."""
    folder.mkdir(parents=True, exist_ok=True)
    there = {path.name: path.readlink() for path in folder.iterdir()}
    for name in there.keys() - wanted.keys():
        (folder / name).unlink(missing_ok=True)
    for name, path in wanted.items():
        if there.get(name) != path:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(path)


# -- the way to a cloud without a port --------------------------------------------------------------------


class _ProxyHandler(Handler):
    """Answers for the cloud whatever host a request is for."""

    def _serve(self) -> None:
        try:
            self.reply(answer(self.server.site, self.incoming()))
        except Cut:
            self.reset()

    do_GET = do_PUT = do_HEAD = do_DELETE = _serve


_PROXIES: dict[int, Listener] = {}


def _ways(cloud: Cloud) -> dict[str, str]:
    """The environment that leads a program to the cloud: nothing, or for a cloud in this process a proxy."""
    if cloud.hosts:
        return {}
    proxy = _PROXIES.get(id(cloud))
    if proxy is None:
        proxy = _PROXIES[id(cloud)] = Listener(0, _ProxyHandler, cloud)
        threading.Thread(target=proxy.serve_forever, name="lab-proxy", daemon=True).start()
        threading.Thread(target=_close_with, args=(cloud, proxy), name="lab-proxy-end", daemon=True).start()
    return {"http_proxy": f"http://{LOOPBACK}:{proxy.server_address[1]}"}


def _close_with(cloud: Cloud, proxy: Listener) -> None:
    cloud.closing.wait()
    _PROXIES.pop(id(cloud), None)
    proxy.stop()
