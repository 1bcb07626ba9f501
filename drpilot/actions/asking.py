"""Asking a machine whether it works: a TCP connection, an HTTP request with a status and a text.

Every question is bounded. An address is asked as such, with the host of the URL in the request (RFC 9110,
Host) and in the TLS handshake, so that a machine can be asked before any name points at it.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit, urlunsplit

import httpx2

from drpilot.actions.views import Seen
from drpilot.domain.group import Check
from drpilot.domain.ports import Context

__all__ = ["Place", "ask", "http_answer", "resolved", "tcp_answer"]

_TIMEOUT_S = 3.0
_MOST_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """Something that can be asked: a name for people, its addresses in order, a port if the URL gives
    none.
    """

    name: str
    addresses: tuple[str, ...]
    port: int | None = None


@cache
def _trust() -> ssl.SSLContext:
    """Whom TLS trusts; reading the certificates costs more than most questions, so they are read once."""
    return httpx2.create_ssl_context(trust_env=False)


def tcp_answer(address: str, port: int) -> str | None:
    """None if a connection opens; else why not."""
    try:
        with socket.create_connection((address, port), timeout=_TIMEOUT_S):
            return None
    except OSError as error:
        return f"{type(error).__name__}: {error}"


def http_answer(url: str, address: str, port: int | None, contains: str | None) -> tuple[bool, str]:
    """Whether `address` answers `url` with a status of 2xx and a body that contains the text; what was
    observed.

    `{address}` in the URL stands for the address; else the URL's host is kept as the name asked for.
    Without a port in the URL `port` is used, then the scheme's own.
    """
    named = "{address}" not in url
    parts = urlsplit(url.replace("{address}", address))
    host = parts.hostname or address
    number = parts.port or port
    where = f"{address}:{number}" if number else address
    target = urlunsplit((parts.scheme, where, parts.path or "/", parts.query, ""))
    headers = {"Host": parts.netloc} if named else {}
    extensions = {"sni_hostname": host} if named and parts.scheme == "https" else {}
    try:
        with (
            httpx2.Client(
                timeout=_TIMEOUT_S, trust_env=False, follow_redirects=False, verify=_trust()
            ) as client,
            client.stream("GET", target, headers=headers, extensions=extensions) as response,
        ):
            body = b""
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) >= _MOST_BYTES:
                    break
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        return False, f"{type(error).__name__}: {error}"
    text = body.decode("utf-8", "replace")
    if not 200 <= response.status_code < 300:
        return False, f"{response.status_code} {text.strip()[:120]!r}"
    if contains is not None and contains not in text:
        return False, f"{response.status_code}, without {contains!r}: {text.strip()[:120]!r}"
    return True, str(response.status_code)


def ask(ctx: Context, check: Check, place: Place) -> list[Seen]:
    """Put a tier's check to one place; of several addresses one must answer."""
    seen = []
    if check.tcp is not None:
        failures = [tcp_answer(address, check.tcp) for address in place.addresses]
        ok = any(failure is None for failure in failures)
        observed = "connected" if ok else "; ".join(filter(None, failures)) or "no address"
        seen.append(
            Seen.of(ctx, f"{place.name} tcp {check.tcp}", ok, (f"port {check.tcp} answers", observed))
        )
    if check.http is not None:
        answers = [
            http_answer(check.http, address, place.port, check.contains) for address in place.addresses
        ]
        ok = any(answer[0] for answer in answers)
        chosen = [text for fine, text in answers if fine == ok] or ["no address"]
        wanted = "2xx" + (f" {check.contains!r}" if check.contains else "")
        seen.append(Seen.of(ctx, f"{place.name} {check.http}", ok, (wanted, chosen[0])))
    return seen


def resolved(name: str) -> tuple[str, ...]:
    """The IPv4 addresses of a DNS name by this machine's resolver; empty where it has none."""
    try:
        found = socket.getaddrinfo(name, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(dict.fromkeys(str(item[4][0]) for item in found))
