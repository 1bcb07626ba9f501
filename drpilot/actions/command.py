"""Programs of the team's own, run beside drpilot: from a list, never through a shell, bounded in time and output."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from drpilot.domain.ports import FailureClass, StepFailed

__all__ = ["Finished", "run_program", "startable"]

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "SSH_AUTH_SOCK")
_TAIL_BYTES = 2000


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended: its exit code (negative for a signal) and the end of what it printed."""

    code: int
    tail: str


def startable(command: str) -> bool:
    """Whether there is a program to start for `command` on this host."""
    try:
        words = shlex.split(command)
    except ValueError:
        return False
    return bool(words) and shutil.which(words[0]) is not None


def run_program(command: str, facts: Mapping[str, str], *, timeout_s: float) -> Finished:
    """Run `command` (split as a shell would, not run by one) with `facts` in its environment.

    Of the environment only what finds programs and keys is handed on, so that no credentials of a cloud reach it.
    It gets no input. After `timeout_s` its whole process group is killed. Raises StepFailed: `timeout`, or `invalid`
    where there is no such program.
    """
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | dict(facts)
    try:
        process = subprocess.Popen(
            shlex.split(command),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise StepFailed(FailureClass.INVALID, f"{command}: {error}") from None
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _end(process)
        text = f"{command}: not done within {timeout_s:g} s; it was killed"
        raise StepFailed(FailureClass.TIMEOUT, text) from None
    return Finished(process.returncode, output[-_TAIL_BYTES:].decode(errors="replace").strip())


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the program and all it started; what holds its output open must not hold us."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=1.0)
