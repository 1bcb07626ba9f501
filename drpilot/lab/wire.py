"""The bytes between boto3 and a cloud: who calls, what is asked, and the answer.

The same path serves HTTP (`server.py`) and, through botocore's `before-send` event, clients in the same
process (`attach`): a request is authenticated by its signature, decoded by botocore's own model, dispatched,
and the reply encoded by the same model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from botocore.awsrequest import AWSPreparedRequest, AWSResponse, HeadersDict
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError, ReadTimeoutError

from drpilot.lab.cloud import Cloud, Refusal
from drpilot.lab.eucalyptus import door
from drpilot.lab.faults import Cut
from drpilot.lab.replies import Reply, encode, encode_refusal
from drpilot.lab.requests import Incoming, decode, service_model, signed_service, unchunked
from drpilot.lab.signature import Canonical, SignatureProblem, read_signature, verify

__all__ = ["Incoming", "Reply", "answer", "attach"]

_REGIONLESS = frozenset({"iam", "route53", "sts"})


def answer(cloud: Cloud, request: Incoming) -> Reply:
    """Answer one request. Raises Cut when no answer may be sent; every error is an answer."""
    if cloud.traits.eucalyptus:
        return door.answer(cloud, request)
    request_id = cloud.request_id
    query = dict(parse_qsl(request.query, keep_blank_values=True))
    service = "ec2"
    try:
        signed = read_signature(query, request.headers)
        named = signed_service(signed.scope.service, request)
        if named is None:
            raise SignatureProblem("malformed", f"no service signs as {signed.scope.service!r}")
        service = named
        if signed.scope.region != cloud.region and service not in _REGIONLESS:
            raise SignatureProblem("region", "Credential should be scoped to a valid region")
        verify(
            signed,
            Canonical(request.method, request.path, request.query, request.headers, request.body),
            cloud.keys,
            cloud.timestamp(),
        )
    except SignatureProblem as problem:
        # A call that is not allowed in still meets an outage: a dead site refuses nobody politely.
        if cloud.faults.outage in ("refuse", "hang", "reset"):
            raise Cut(str(cloud.faults.outage)) from None
        if problem.reason == "old":  # only buckets were ever asked like that
            service = "s3"
        refusal, bare = _unsigned(service, problem), request.method == "HEAD"
        return encode_refusal(service_model(service), refusal, request_id, bare=bare)
    model = service_model(service)
    try:
        operation, params = decode(service, unchunked(request))
        result = cloud.dispatch(service, operation.name, params)
        return encode(model, operation, result, request_id)
    except Refusal as refusal:
        return encode_refusal(model, refusal, request_id, bare=request.method == "HEAD")
    except Cut:
        raise
    except Exception:
        broken = Refusal("InternalError", "An internal error has occurred", status=500)
        return encode_refusal(model, broken, request_id, bare=request.method == "HEAD")


def _unsigned(service: str, problem: SignatureProblem) -> Refusal:
    """The refusal of a request whose signature is no good, in the words of each service."""
    if service == "s3":
        return _unsigned_object(problem)
    reason, status = "expired" if problem.reason == "late" else problem.reason, 403
    if service == "ec2":
        codes = {"expired": "RequestExpired", "missing": "MissingAuthenticationToken"}
        code, status = codes.get(reason, "AuthFailure"), 400 if reason == "expired" else 401
    elif service in ("ebs", "kms", "service-quotas"):
        code = {
            "unknown-key": "UnrecognizedClientException",
            "missing": "MissingAuthenticationTokenException",
            "expired": "InvalidSignatureException",
            "mismatch": "InvalidSignatureException",
        }.get(reason, "IncompleteSignatureException")
    else:
        code = {
            "unknown-key": "InvalidClientTokenId",
            "expired": "SignatureDoesNotMatch",
            "mismatch": "SignatureDoesNotMatch",
            "missing": "MissingAuthenticationToken",
        }.get(reason, "IncompleteSignature")
    return Refusal(code, problem.message, status)


def _unsigned_object(problem: SignatureProblem) -> Refusal:
    """As S3 says it (API reference, "Error responses"); version 2 ended with buckets made after June 2020."""
    code, status = {
        "unknown-key": ("InvalidAccessKeyId", 403),
        "expired": ("RequestTimeTooSkewed", 403),
        "late": ("AccessDenied", 403),
        "malformed": ("AuthorizationQueryParametersError", 400),
        "missing": ("AccessDenied", 403),
        "old": ("InvalidRequest", 400),
        "region": ("AuthorizationHeaderMalformed", 403),
    }.get(problem.reason, ("SignatureDoesNotMatch", 403))
    return Refusal(code, problem.message, status)


# -- clients in the same process --------------------------------------------------------------------------


class _Raw:
    """The body of an answer, as urllib3 would stream it."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def stream(self, **_: Any) -> Any:
        """All that is left, in one piece."""
        data = self.read()
        if data:
            yield data

    def read(self, amount: int | None = None, **_: Any) -> bytes:
        """The next `amount` bytes, or all that is left."""
        end = len(self._body) if amount is None or amount < 0 else self._at + amount
        data = self._body[self._at : end]
        self._at += len(data)
        return data

    def close(self) -> None:
        """Nothing is open."""

    def release_conn(self) -> None:
        """No connection is held."""


def attach(target: Any, cloud: Cloud, *, read_timeout_s: float | None = None) -> Callable[[], None]:
    """Let a boto3 session, botocore session or client talk to `cloud` without a network.

    Gives a function that undoes it. A hang lasts `read_timeout_s`, by default the client's own read timeout,
    on the cloud's clock.
    """
    events = getattr(target, "events", None)
    if events is None:
        events = target.meta.events if hasattr(target, "meta") else target.get_component("event_emitter")
    limit_s = read_timeout_s
    if limit_s is None:
        config = getattr(getattr(target, "meta", None), "config", None)
        limit_s = float(getattr(config, "read_timeout", 60))

    def send(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        try:
            reply = answer(cloud, _prepared(request))
        except Cut as cut:
            if cut.kind == "refuse":
                raise EndpointConnectionError(endpoint_url=request.url, error=cut.kind) from None
            if cut.kind == "hang":
                cloud.clock.sleep(limit_s)
                raise ReadTimeoutError(endpoint_url=request.url) from None
            raise ConnectionClosedError(endpoint_url=request.url) from None
        headers = {**reply.headers, "Content-Length": str(len(reply.body))}
        return AWSResponse(request.url, reply.status, cast("Any", HeadersDict(headers)), _Raw(reply.body))

    events.register_first("before-send", send)
    return lambda: events.unregister("before-send", send)


def _prepared(request: AWSPreparedRequest) -> Incoming:
    parts = urlsplit(request.url)
    headers = {}
    for name, value in request.headers.items():
        raw: Any = value
        headers[name.lower()] = raw.decode("latin-1") if isinstance(raw, bytes) else str(raw)
    headers.setdefault("host", parts.netloc)
    body: Any = request.body or b""
    if hasattr(body, "read"):
        body = body.read()
    data = body.encode() if isinstance(body, str) else bytes(body)
    return Incoming(str(request.method), parts.path or "/", parts.query, headers, data)
