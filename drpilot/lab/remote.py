"""The path to a site that is another process, and the control plane's client, over loopback HTTP."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from drpilot.lab.path import Unreachable
from drpilot.lab.refusal import Refusal
from drpilot.lab.store import MissingBlock

if TYPE_CHECKING:
    from drpilot.lab.cloud import Cloud

__all__ = ["ControlError", "RemotePeer", "ask_control"]


class ControlError(Exception):
    """The control plane of a site did not do what was asked."""


@dataclass(frozen=True, slots=True)
class _Question:
    """One request of a control plane; an empty `site` is the lab's operator."""

    method: str
    path: str
    body: bytes = b""
    site: str = ""


def _exchange(endpoint: str, question: _Question, timeout_s: float) -> tuple[int, bytes]:
    parts = urlsplit(endpoint)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_s)
    try:
        headers = {"X-Lab-Site": question.site} if question.site else {}
        connection.request(question.method, f"/_lab/{question.path}", question.body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def ask_control(
    endpoint: str, command: str, payload: dict[str, Any] | None = None, *, timeout_s: float = 10.0
) -> dict[str, Any]:
    """Ask a site's control plane; raises ControlError when it says no and OSError when nobody answers."""
    body = json.dumps(payload or {}).encode()
    status, data = _exchange(endpoint, _Question("POST", command, body), timeout_s)
    reply: dict[str, Any] = json.loads(data)
    if status != 200:
        raise ControlError(f"{command}: {reply.get('message') or reply.get('error')}")
    return reply


class RemotePeer:
    """A site in another process."""

    def __init__(self, here: Cloud, name: str, region: str, endpoint: str) -> None:
        self._here = here
        self._name = name
        self._region = region
        self._endpoint = endpoint

    @property
    def name(self) -> str:
        return self._name

    @property
    def region(self) -> str:
        return self._region

    def call(self, what: str, payload: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = json.loads(self._ask("POST", f"path/{what}", json.dumps(payload).encode()))
        return reply

    def block(self, digest: str) -> bytes:
        return self._ask("GET", f"block/{digest}", b"")

    def _ask(self, method: str, path: str, body: bytes) -> bytes:
        self._here.peer(self._name)  # raises Unreachable while the path is cut from here
        try:
            status, data = _exchange(self._endpoint, _Question(method, path, body, self._here.name), 10.0)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self._name} does not answer: {error}") from None
        if status == 200:
            return data
        problem = json.loads(data)
        if problem["error"] == "Refusal":
            raise Refusal(problem["code"], problem["message"], problem["status"])
        if problem["error"] == "MissingBlock":
            raise MissingBlock(problem["message"])
        raise Unreachable(problem["message"])
