"""The front door of a Eucalyptus cloud: which service, who calls, what is bound, and the answer.

Order and faults are the original's: a path that no pipeline takes is 404, a caller who can't be known 403, a
field that can't be bound 400, all as `<Response><Errors>` under text/plain with the HTTP status for a code
(NioServerHandler, Binding.createRestFault). DryRun is such a field: no message has it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from drpilot.lab.cloud import Cloud, Refusal
from drpilot.lab.eucalyptus import objectstore, services, signing
from drpilot.lab.eucalyptus.fields import Unbound, bind, words
from drpilot.lab.eucalyptus.models import model_of
from drpilot.lab.eucalyptus.prune import pruned
from drpilot.lab.faults import Cut
from drpilot.lab.replies import Reply, encode, encode_refusal
from drpilot.lab.requests import Incoming, decode_for, service_model
from drpilot.lab.signature import SignatureProblem

__all__ = ["answer", "fault"]

_PHRASES = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}
_SIGNING = words("AWSAccessKeyId Signature SignatureMethod SignatureVersion Timestamp Expires SecurityToken")


def fault(status: int, message: str) -> Reply:
    """An error that never reached a service. The original writes the message as it is, unescaped."""
    text = (
        f'<?xml version="1.0"?><Response><Errors><Error><Code>{status} {_PHRASES[status]}</Code><Message>{message}'
        f"</Message></Error></Errors><RequestID>{message}</RequestID></Response>"
    )
    return Reply(status, {"Content-Type": "text/plain; charset=UTF-8"}, text.encode())


def _meet_outage(cloud: Cloud) -> None:
    """A call that is not allowed in still meets an outage: a dead site refuses nobody politely."""
    if cloud.faults.outage in ("refuse", "hang", "reset"):
        raise Cut(str(cloud.faults.outage))


def answer(cloud: Cloud, request: Incoming) -> Reply:
    """Answer one request. Raises Cut when no answer may be sent; every error is an answer."""
    found = services.place(cloud.traits.version, request.path)
    if found is None:
        _meet_outage(cloud)
        return fault(404, f"No pipeline accepts {request.path}")
    service, rest = found
    if service in ("s3", "route53"):
        return _rest(cloud, request, service, rest)
    return _query(cloud, request, service)


def _query(cloud: Cloud, request: Incoming, service: str) -> Reply:
    given = parse_qsl(request.body.decode("utf-8", "replace") or request.query, keep_blank_values=True)
    action = dict(given).get("Action") or dict(given).get("Operation")
    if action is None:
        # JSON, the protocol of today's CloudWatch clients, ends here: there is no pipeline for it.
        _meet_outage(cloud)
        return fault(404, "No pipeline accepts a request without an Action")
    try:
        caller = signing.by_password(cloud, request) if service == "sts" else None
        caller = caller or signing.authenticate(cloud, request)
        _check_credentials_of(cloud, service, action, caller)
    except SignatureProblem as problem:
        _meet_outage(cloud)
        return fault(401 if problem.reason == "password" else 403, problem.message)
    version = cloud.traits.version
    named = [pair for pair in given if not _is_frame(pair[0])]
    try:
        bind(services.fields_of(version, service), services.namespace_of(version, service), action, named)
    except Unbound as problem:
        _meet_outage(cloud)
        return fault(400, str(problem))
    return _dispatched(cloud, request, service, action)


def _is_frame(name: str) -> bool:
    return name in ("Action", "Operation", "Version") or name in _SIGNING or name.startswith("X-Amz-")


def _check_credentials_of(cloud: Cloud, service: str, action: str, caller: str) -> None:
    """GetAccessToken is for a password, everything else of the cloud for keys."""
    by_key = caller in cloud.keys or caller in cloud.table(signing.SESSIONS).peek()
    if service == "sts" and action == "GetAccessToken" and by_key:
        raise SignatureProblem("missing", "GetAccessToken takes an account, a user and a password")
    if not by_key and action not in ("GetAccessToken", "GetSessionToken"):
        raise SignatureProblem("missing", "Request is missing Authentication Token")


def _dispatched(cloud: Cloud, request: Incoming, service: str, action: str) -> Reply:
    model = model_of(service, action)
    request_id = cloud.request_id
    try:
        operation, params = decode_for(model, request)
        result = cloud.dispatch(service, operation.name, params)
        if service == "ec2":
            result = pruned(cloud, operation.name, result)
        return encode(model, operation, result, request_id)
    except Refusal as refusal:
        return encode_refusal(model, refusal, request_id)
    except Cut:
        raise
    except Exception:
        broken = Refusal("InternalError", "An internal error has occurred", status=500)
        return encode_refusal(model, broken, request_id)


def _rest(cloud: Cloud, request: Incoming, service: str, rest: str) -> Reply:
    """The object store and, in 5, Route 53."""
    model = service_model(service)
    request_id, bare = cloud.request_id, request.method == "HEAD"
    try:
        signing.authenticate_object(cloud, request, rest)
    except SignatureProblem as problem:
        _meet_outage(cloud)
        codes = dict.fromkeys(("missing", "expired", "late"), "AccessDenied")
        codes["unknown-key"] = "InvalidAccessKeyId"
        refusal = Refusal(codes.get(problem.reason, "SignatureDoesNotMatch"), problem.message, 403)
        return encode_refusal(model, refusal, request_id, bare=bare)
    try:
        inner = Incoming(request.method, rest, request.query, request.headers, request.body)
        if service == "s3":
            inner = objectstore.admitted(cloud, inner)
        operation, params = decode_for(model, inner)
        if service == "s3":
            objectstore.check(cloud, operation.name, params)
        result: dict[str, Any] = cloud.dispatch(service, operation.name, params)
        return encode(model, operation, result, request_id)
    except Refusal as refusal:
        return encode_refusal(model, refusal, request_id, bare=bare)
    except Cut:
        raise
    except Exception:
        broken = Refusal("InternalError", "An internal error has occurred", status=500)
        return encode_refusal(model, broken, request_id, bare=bare)
