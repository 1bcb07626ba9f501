"""A shelf behind presigned URLs: who writes has no keys and can't list, only the objects somebody signed for it.

A part that an earlier try wrote is found by HEAD and its MD5 and not sent again. What a PUT answers must be the MD5 of
what was sent; the store gives it as the ETag of an object in one piece (Amazon S3 API reference, "Object"; an object
under a KMS key has another ETag, and then the length alone is looked at). A signature of version 2 covers Content-MD5
and Content-Type, so neither is sent.

Messages name the host and the object, never a URL.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    NewConnectionError,
    ProxyError,
    SSLError,
)
from urllib3.exceptions import (
    TimeoutError as SlowError,
)
from urllib3.util import Timeout

from drpilot.base.errors import DrpilotError
from drpilot.domain.ports import CloudError, FailureClass
from drpilot.transfer.pace import Pace
from drpilot.transfer.stage import PART_BYTES, ZEROS_NAME

__all__ = ["Carrier", "SignedShelf", "SignedUrls"]

_CONNECT_S, _READ_S = 10.0, 60.0
_MOST_ANSWER_BYTES = 64 << 10  # of an error, or of a PUT
_MOST_OBJECT_BYTES = 512 << 20  # the map of the largest volume has 4 GiB; of one of 8 TiB this
_CODE = re.compile(rb"<Code>([A-Za-z0-9._ -]{1,80})</Code>")
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
_THROTTLES = frozenset({"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded"})
_PASSING = frozenset({"RequestTimeout", "BadDigest", "IncompleteBody", "OperationAborted"})
_OPERATIONS = {"GET": "s3:GetObject", "PUT": "s3:PutObject", "HEAD": "s3:HeadObject"}


@dataclass(frozen=True, slots=True)
class SignedUrls:
    """What may be done with one object; an empty URL may not."""

    put: str = field(default="", repr=False)
    get: str = field(default="", repr=False)
    head: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: Any
    body: bytes


class Carrier:
    """Carries requests to presigned URLs: connections kept, each phase with a timeout, what may be repeated repeated.

    `certificates` is PEM text of further authorities. `proxy` is the URL of an HTTP proxy. Safe to share between
    threads. Raises CloudError; `tls` where the certificate of the other end is not trusted is code `SSLError`.
    """

    def __init__(self, pace: Pace, *, certificates: str = "", proxy: str = "", most: int = 16) -> None:
        self._pace = pace
        context = ssl.create_default_context()
        if certificates:
            try:
                context.load_verify_locations(cadata=certificates)
            except ssl.SSLError:
                raise DrpilotError(
                    "key-unreadable", file="the certificate given for the mover", kind="certificate"
                ) from None
        given: dict[str, Any] = {
            "maxsize": most,
            "retries": False,
            "timeout": Timeout(connect=_CONNECT_S, read=_READ_S),
            "ssl_context": context,
        }
        self._pool = urllib3.ProxyManager(proxy, **given) if proxy else urllib3.PoolManager(**given)

    def get(self, url: str, name: str, *, span: tuple[int, int] | None = None, most: int) -> bytes | None:
        """An object's bytes, `most` at most, or those of `span`; None where there is none."""
        headers = {"Range": f"bytes={span[0]}-{span[1]}"} if span is not None else {}
        reply = self._asked(("GET", url, name), b"", headers, most)
        if reply.status == 404:
            return None
        whole = span is not None and reply.status == 200  # a store that knows no ranges
        return reply.body[span[0] : span[1] + 1] if whole and span is not None else reply.body

    def put(self, url: str, name: str, data: bytes | bytearray, md5: str | None = None) -> None:
        """Write an object, known by its MD5 (hex) where the caller has it."""
        wanted = md5 or _md5(data)

        def written() -> None:
            reply = self._once(("PUT", url, name), data, {}, _MOST_ANSWER_BYTES)
            if reply.status == 404:
                raise _refused(reply, "PUT", url, name)
            found = _md5_of(reply)
            if found is not None and found != wanted:
                message = f"{name}: the store has other bytes than were sent"
                raise _error((FailureClass.TRANSIENT, "ChecksumMismatch", message), "PUT", url)

        self._pace.run(written)

    def holds(self, url: str, name: str, length: int, md5: str) -> bool:
        """Whether the object behind a HEAD URL is there with this length and MD5; one that can't be told is not."""
        reply = self._asked(("HEAD", url, name), b"", {}, 0)
        if reply.status == 404:
            return False
        return _md5_of(reply) == md5 and reply.headers.get("Content-Length", str(length)) == str(length)

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def _asked(
        self, what: tuple[str, str, str], body: bytes | bytearray, headers: dict[str, str], most: int
    ) -> _Reply:
        return self._pace.run(lambda: self._once(what, body, headers, most))

    def _once(
        self, what: tuple[str, str, str], body: bytes | bytearray, headers: dict[str, str], most: int
    ) -> _Reply:
        """One request, whole: 200, 206 and 404 are answers, everything else is raised."""
        method, url, name = what
        try:
            answer = self._pool.request(
                method,
                url,
                body=body if method == "PUT" else None,  # type: ignore[arg-type]  # any buffer is sent as it is
                headers={"User-Agent": "drpilot-mover", **headers},
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except (HTTPError, LocationValueError, OSError) as error:
            raise _error(_met(error, name), method, url) from None
        try:
            bound = most if answer.status in (200, 206) else _MOST_ANSWER_BYTES
            found = answer.read(bound + 1)
            reply = _Reply(answer.status, answer.headers, found)
            whole = len(found) <= bound and not (method != "HEAD" and answer.length_remaining)
            if not whole:
                answer.close()  # what is left on the connection belongs to nobody
        except (HTTPError, OSError) as error:
            raise _error(_met(error, name), method, url) from None
        finally:
            answer.release_conn()
        if answer.status not in (200, 204, 206, 404):
            raise _refused(reply, method, url, name)
        if not whole:
            raise _error((FailureClass.TRANSIENT, "TruncatedReply", f"{name} came cut off"), method, url)
        return reply


def _md5(data: bytes | bytearray) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _md5_of(reply: _Reply) -> str | None:
    """The MD5 that an answer tells; None where its ETag is something else."""
    found = _MD5.fullmatch(reply.headers.get("ETag", ""))
    keyed = reply.headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    return found[1] if found is not None and not keyed else None


def _met(error: Exception, name: str) -> tuple[FailureClass, str, str]:
    """What a broken request was, in words that hold no URL: those of urllib3 do."""
    if isinstance(error, ProxyError):
        return FailureClass.TRANSIENT, "ProxyError", f"{name}: the proxy does not answer"
    if isinstance(error, SSLError):
        return FailureClass.INVALID, "SSLError", f"{name}: the certificate of the other end is not trusted"
    if isinstance(error, NewConnectionError):  # a kind of timeout to urllib3
        return FailureClass.TRANSIENT, "ConnectionError", f"{name}: the host can't be connected to"
    if isinstance(error, ConnectTimeoutError):
        return FailureClass.TIMEOUT, "ConnectTimeout", f"{name}: no connection within {_CONNECT_S:g} s"
    if isinstance(error, SlowError | TimeoutError):
        return FailureClass.TIMEOUT, "ReadTimeout", f"{name}: no answer within {_READ_S:g} s"
    if isinstance(error, LocationValueError):
        return FailureClass.INVALID, "InvalidUrl", f"{name}: its URL can't be used"
    return FailureClass.TRANSIENT, "ConnectionError", f"{name}: the connection broke off"


def _refused(reply: _Reply, method: str, url: str, name: str) -> CloudError:
    """An answer that is no success, by its code (of an error's XML, whose message may hold what was signed)."""
    told = _CODE.search(reply.body)
    code = told[1].decode() if told is not None else str(reply.status)
    if reply.status == 429 or code in _THROTTLES:
        kind = FailureClass.THROTTLED
    elif reply.status >= 500 or code in _PASSING:
        kind = FailureClass.TRANSIENT
    elif reply.status in (401, 403):
        kind = FailureClass.AUTH
    elif reply.status == 404:
        kind = FailureClass.NOT_FOUND
    else:
        kind = FailureClass.INVALID
    return _error((kind, code, f"{name}: HTTP status {reply.status}"), method, url)


def _error(what: tuple[FailureClass, str, str], method: str, url: str) -> CloudError:
    kind, code, message = what
    lost = method == "PUT" and kind in (FailureClass.TIMEOUT, FailureClass.TRANSIENT)
    return CloudError(
        kind,
        code,
        message,
        happened="unknown" if lost else "no",
        site=urlsplit(url).hostname or "",
        operation=_OPERATIONS[method],
    )


class SignedShelf:
    """Objects by name, each by the URLs that `urls` has for it; `put` of one that is there already sends nothing."""

    def __init__(self, name: str, urls: Callable[[str], SignedUrls], carrier: Carrier) -> None:
        self.name = name
        self._urls = urls
        self._carrier = carrier

    def get(self, name: str, span: tuple[int, int] | None = None) -> bytes | None:
        """An object's bytes. The object of zeros is zeros by definition: whoever reads the stage wrote it."""
        if name == ZEROS_NAME:
            return bytes(PART_BYTES if span is None else span[1] - span[0] + 1)
        url = self._urls(name).get
        if not url:
            raise self._unsigned("GET", name)
        return self._carrier.get(url, name, span=span, most=_MOST_OBJECT_BYTES)

    def put(self, name: str, data: bytes | bytearray) -> None:
        """Write an object, unless it is there with these bytes."""
        urls = self._urls(name)
        if not urls.put:
            raise self._unsigned("PUT", name)
        md5 = _md5(data)
        if urls.head and self._carrier.holds(urls.head, name, len(data), md5):
            return
        self._carrier.put(urls.put, name, data, md5)

    def names(self, folder: str) -> None:
        """Nothing can be listed: `put` looks by itself."""
        return

    def _unsigned(self, method: str, name: str) -> CloudError:
        return CloudError(
            FailureClass.AUTH,
            "NotSigned",
            f"the job has no URL for {name}",
            happened="no",
            site=self.name,
            operation=_OPERATIONS[method],
        )
