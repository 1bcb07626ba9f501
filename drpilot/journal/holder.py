"""Who holds a lease, and whether that process is still there.

On the same host and boot a holder whose process is gone loses its lease at once; elsewhere the lease has to run
out. The start time of the process tells it from a later one with the same pid. Hosts may share a name, and containers a
host: so the boot and the namespace of pids must be ours too before a missing process says anything.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from drpilot.domain.run import Holder

__all__ = ["LEASE_S", "SERVICE_S", "is_gone", "present_holder"]

LEASE_S = 15.0  # a living driver renews each 5 s; another host may take over after this long in silence
SERVICE_S = 15.0  # a service without a heartbeat (each 5 s) for this long is taken for dead


def _boot() -> str:
    """The kernel's boot and the namespace that pids are numbered in; empty where that can't be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """The kernel's start tick of a process, or the empty string where it is gone or can't be told."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def present_holder(person: str, kind: str = "cli") -> Holder:
    """This process as a holder."""
    pid = os.getpid()
    return Holder(
        person=person, host=socket.gethostname(), boot=_boot(), pid=pid, started=_started(pid), kind=kind
    )


def is_gone(holder: Holder) -> bool:
    """Whether the holder certainly no longer runs; False when that can't be told from here."""
    if holder.host != socket.gethostname() or not holder.boot or holder.boot != _boot():
        return False
    return _started(holder.pid) != holder.started
