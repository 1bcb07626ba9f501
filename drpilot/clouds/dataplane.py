"""The data plane: requests that carry bytes, without botocore's cost a request.

boto3 takes about 1 ms of CPU a request to build, sign, send and parse, three times what a 512 KiB block itself costs.
Control calls stay with botocore; here goes what is called by the hundred thousand. A `DataPlane` belongs to one
service of one site and takes endpoint, keys, trusted certificates, proxies and timeouts from botocore's client, so
that both speak to the same cloud as the same account. Each worker thread opens a `Channel` of its own: one connection
that is kept, one signer shared by all.

Nothing is repeated here but a request that met a connection closed while idle: whoever copies decides what to try
again, and how fast (drpilot.transfer.pace). Behind a proxy urllib3 carries the requests, as it does botocore's.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import botocore.exceptions as boto
from botocore.awsrequest import AWSRequest, HeadersDict
from botocore.httpsession import URLLib3Session, create_urllib3_context, get_cert_path
from botocore.parsers import create_parser

from drpilot.__about__ import __version__
from drpilot.base.clock import Clock
from drpilot.clouds.connection import Answer, Connection, Place, Timeouts
from drpilot.clouds.failures import TruncatedReply, failure
from drpilot.clouds.limits import Limits
from drpilot.clouds.signing import EMPTY_SHA256, UNSIGNED, Signer, encoded_query
from drpilot.domain.ports import CloudError, FailureClass

__all__ = ["Answer", "Ask", "Channel", "DataPlane", "Doorway", "Timeouts"]

_SIGNATURES = ("v4", "s3v4")
_PROXY_CONNECTIONS = 128


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `path` is percent-encoded and begins with `/`; `query` holds plain names and values; names of
    `headers` are in lower case.

    `operation` is the API's own name: limits and errors go by it. `body_sha256` is the hex digest of the body where
    it is known already; it is needed only where the payload must be signed. A request that is not `repeatable` is
    never sent twice.
    """

    operation: str
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | memoryview = field(default=b"", repr=False)
    body_sha256: str | None = None
    changing: bool = False
    repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Doorway:
    """What botocore's client of one service knows of its endpoint."""

    site: str
    service: str
    signing_name: str
    region: str
    url: str
    protocol: str
    signature: str
    credentials: Any
    verify: Any
    proxies: Mapping[str, str]
    timeouts: Timeouts
    unsigned_payload: bool  # the service takes a body that is not part of the signature, over TLS

    @property
    def proxy(self) -> str | None:
        """The proxy on the way to the endpoint, if any."""
        return self.proxies.get(urlsplit(self.url).scheme)

    @property
    def obstacle(self) -> str:
        """Why the data plane can't serve this endpoint; empty when it can."""
        if self.signature not in _SIGNATURES:
            return f"{self.service} on {self.site} is signed by {self.signature}, not by Signature Version 4"
        if urlsplit(self.url).scheme not in ("http", "https"):
            return f"{self.url} is neither http nor https"
        return ""


class _Transport(Protocol):
    """Carries one signed request and its reply."""

    def exchange(self, ask: Ask, target: str, headers: Mapping[str, str], into: memoryview | None) -> Answer:
        """Send `ask` to `target` (path and query); raises botocore's exceptions."""

    def close(self) -> None:
        """Let the connection go."""


class _Direct:
    """A connection of our own."""

    def __init__(self, place: Place, timeouts: Timeouts, clock: Clock) -> None:
        self.connection = Connection(place, timeouts, clock)

    def exchange(self, ask: Ask, target: str, headers: Mapping[str, str], into: memoryview | None) -> Answer:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        if ask.body or ask.method in ("PUT", "POST"):
            lines += f"content-length: {len(ask.body)}\r\n"
        head = f"{ask.method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
        return self.connection.exchange(head, ask.body, into, repeatable=ask.repeatable)

    def close(self) -> None:
        self.connection.close()


class _Proxied:
    """Through a proxy, by the transport botocore itself uses."""

    def __init__(self, session: URLLib3Session, url: str) -> None:
        self._session = session
        self._origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))

    def exchange(self, ask: Ask, target: str, headers: Mapping[str, str], into: memoryview | None) -> Answer:
        body = bytes(ask.body) if ask.body or ask.method in ("PUT", "POST") else None
        request = AWSRequest(
            method=ask.method,
            url=self._origin + target,
            headers=dict(headers),
            data=body,
            stream_output=False,
        )
        reply: Any = self._session.send(request.prepare())
        found = {name.lower(): value for name, value in reply.headers.items()}
        data: bytes = reply.content
        announced = found.get("content-length", "")
        if ask.method != "HEAD" and announced.isdigit() and len(data) < int(announced):
            raise TruncatedReply(actual=len(data), expected=int(announced))
        if into is None or reply.status_code >= 300:
            return Answer(reply.status_code, found, len(data), data)
        if len(data) > len(into):
            raise boto.HTTPClientError(error=f"{len(data)} bytes, at most {len(into)} were asked for")
        into[: len(data)] = data
        return Answer(reply.status_code, found, len(data))

    def close(self) -> None:
        """Its connections are shared; the plane closes them."""


class DataPlane:
    """One service of one site; safe to share between threads. `close` when done."""

    def __init__(self, doorway: Doorway, clock: Clock, limits: Limits | None = None) -> None:
        self.doorway = doorway
        self._clock = clock
        self._limits = limits
        self._signer = Signer(doorway.signing_name, doorway.region, doorway.credentials, clock)
        parts = urlsplit(doorway.url)
        self._tls = parts.scheme == "https"
        self._base = parts.path.rstrip("/")
        self._place = Place(
            parts.hostname or "", parts.port or (443 if self._tls else 80), doorway.url, self._context()
        )
        default = 443 if self._tls else 80
        name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else (parts.hostname or "")
        self._host = name if self._place.port == default else f"{name}:{self._place.port}"
        self._parser = create_parser(doorway.protocol)
        self._session: URLLib3Session | None = None
        if doorway.proxy is not None:
            seconds: Any = (doorway.timeouts.connect_s, doorway.timeouts.read_s)
            self._session = URLLib3Session(
                verify=doorway.verify,
                proxies=dict(doorway.proxies),
                timeout=seconds,
                max_pool_connections=_PROXY_CONNECTIONS,
            )

    def channel(self) -> Channel:
        """A connection for one thread."""
        if self._session is not None:
            return Channel(self, _Proxied(self._session, self.doorway.url))
        return Channel(self, _Direct(self._place, self.doorway.timeouts, self._clock))

    def close(self) -> None:
        """Close what the channels share."""
        if self._session is not None:
            self._session.close()

    def _context(self) -> ssl.SSLContext | None:
        """Trust as botocore does: its own certificates, a bundle, or, only where that was asked for, anything."""
        if not self._tls:
            return None
        context: ssl.SSLContext = create_urllib3_context()
        if self.doorway.verify is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context
        context.load_verify_locations(cafile=get_cert_path(self.doorway.verify))
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = True
        return context

    # -- what channels need -----------------------------------------------------------------------------

    def prepared(self, ask: Ask) -> tuple[str, dict[str, str]]:
        """The request target and all headers of `ask`, signed."""
        path = self._base + ask.path
        query = encoded_query(ask.query)
        headers = {"host": self._host, "user-agent": f"drpilot/{__version__}", **ask.headers}
        signed = self._signer.signed(ask.method, path, query, headers, self._payload(ask))
        return (f"{path}?{query}" if query else path), signed

    def _payload(self, ask: Ask) -> str:
        if not ask.body:
            return EMPTY_SHA256
        if self._tls and self.doorway.unsigned_payload:
            return UNSIGNED
        return ask.body_sha256 or hashlib.sha256(ask.body).hexdigest()

    def admit(self, ask: Ask) -> None:
        """Wait for a token of the site's limits; raises Overloaded."""
        if self._limits is not None:
            self._limits.acquire(self.doorway.service, ask.operation, {}, changing=ask.changing)

    def failed(self, error: BaseException, ask: Ask) -> CloudError:
        """`error` in the words of the port; an account that is throttled finds its bucket empty."""
        operation = f"{self.doorway.service}:{ask.operation}"
        found = failure(error, site=self.doorway.site, operation=operation, changing=ask.changing)
        # RequestThrottledException is the limit of one snapshot, not of the account (EBS direct APIs, quotas), SlowDown
        # that of a prefix of a bucket (Amazon S3 user guide, performance).
        if (
            self._limits is not None
            and found.kind is FailureClass.THROTTLED
            and found.code not in ("Overloaded", "RequestThrottledException", "SlowDown")
        ):
            self._limits.throttled(self.doorway.service, ask.operation, {}, changing=ask.changing)
        return found

    def refusal(self, answer: Answer, ask: Ask) -> boto.ClientError:
        """The error a reply of status 300 or more stands for."""
        reply = {
            "status_code": answer.status,
            "headers": HeadersDict(dict(answer.headers)),
            "body": answer.body,
        }
        shape: Any = None  # an error has none of the operation's
        parsed: Any = self._parser.parse(reply, shape)
        parsed.setdefault("Error", {"Code": str(answer.status), "Message": ""})
        return boto.ClientError(parsed, ask.operation)


class Channel:
    """One thread's way to the service. Raises CloudError only."""

    def __init__(self, plane: DataPlane, transport: _Transport) -> None:
        self._plane = plane
        self.transport = transport

    def send(self, ask: Ask, into: memoryview | None = None) -> Answer:
        """One request and its answer, a status below 300. With `into` the body is put there, `Answer.length` bytes
        of it; without, it is `Answer.body`.
        """
        plane = self._plane
        try:
            plane.admit(ask)
            target, headers = plane.prepared(ask)
            answer = self.transport.exchange(ask, target, headers, into)
            if answer.status >= 300:
                raise plane.refusal(answer, ask)
        except Exception as error:
            raise plane.failed(error, ask) from error
        return answer

    def close(self) -> None:
        """Close the connection."""
        self.transport.close()
