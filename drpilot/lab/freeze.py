"""Asking a database guest to hold its heartbeats while snapshots are taken, and to go on.

What the freeze and thaw programs of a real group do by ssh is one HTTP request here: `POST /freeze?seconds=30` and
`POST /thaw` on port 8080 of the guest, as anybody in the lab's network could send it.
"""

from __future__ import annotations

import http.client
from ipaddress import IPv4Address

__all__ = ["LONGEST_S", "PORT", "ask"]

PORT = 8080
LONGEST_S = 120
"""A guest thaws by itself after this many seconds at most: who froze it may be gone."""
_TIMEOUT_S = 10.0


def ask(address: str, path: str) -> tuple[bool, str]:
    """Whether a guest did what it was asked, and what it said. An address that is no loopback one is refused: nothing
    but a lab's guest is spoken to.
    """
    try:
        known = IPv4Address(address)
    except ValueError:
        return False, "that is no address"
    if not known.is_loopback:
        return False, "guests of a lab have addresses of 127.0.0.0/8"
    connection = http.client.HTTPConnection(address, PORT, timeout=_TIMEOUT_S)
    try:
        connection.request("POST", path, headers={"Connection": "close"})
        reply = connection.getresponse()
        return reply.status == 200, reply.read(1000).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return False, str(error) or type(error).__name__
    finally:
        connection.close()
