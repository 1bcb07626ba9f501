"""Checking AWS Signature Version 4 from the receiver's side (General Reference, Signature Version 4).

The request's own list of signed headers decides what was signed; the secret is looked up by key id.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote

__all__ = ["Scope", "SignatureProblem", "Signed", "read_signature", "verify"]

_SKEW = timedelta(minutes=15)
_LONGEST_S = (
    7 * 86_400
)  # of a presigned URL (S3 API reference, "Authenticating requests: using query parameters")


class SignatureProblem(Exception):
    """Why a request is not accepted: `reason` is missing, malformed, unknown-key, mismatch, expired, late (a presigned
    URL's time is over) or old (a version that is no longer taken).
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Scope:
    """The credential scope: who signed, for which day, region and service."""

    key_id: str
    date: str
    region: str
    service: str

    def __str__(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


@dataclass(frozen=True, slots=True)
class Signed:
    """What a request says about its own signature."""

    scope: Scope
    headers: tuple[str, ...]
    signature: str
    moment: str
    expires_s: int | None


@dataclass(frozen=True, slots=True)
class Canonical:
    """The parts of a request that are signed: `path` and `query` raw, as they came over the wire."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


def read_signature(query: Mapping[str, str], headers: Mapping[str, str]) -> Signed:
    """Find the signature in the Authorization header or, presigned, in the query. Keys of `headers` are
    lower case. Raises SignatureProblem when there is none or it can't be read.
    """
    if "X-Amz-Signature" in query:
        parts = {
            "Credential": query.get("X-Amz-Credential", ""),
            "SignedHeaders": query.get("X-Amz-SignedHeaders", ""),
            "Signature": query["X-Amz-Signature"],
        }
        told = query.get("X-Amz-Expires", "")
        moment, expires_s = query.get("X-Amz-Date", ""), int(told) if told.isdecimal() else 0
    elif "AWSAccessKeyId" in query or headers.get("authorization", "").startswith("AWS "):
        raise SignatureProblem(
            "old",
            "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
        )
    else:
        algorithm, _, rest = headers.get("authorization", "").partition(" ")
        if algorithm != "AWS4-HMAC-SHA256":
            raise SignatureProblem("missing", "Request is missing Authentication Token")
        parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
        moment, expires_s = headers.get("x-amz-date", ""), -1
    credential = parts.get("Credential", "").split("/")
    if len(credential) < 5 or not parts.get("SignedHeaders") or not parts.get("Signature"):
        raise SignatureProblem("malformed", "The authorization header is malformed")
    scope = Scope("/".join(credential[:-4]), credential[-4], credential[-3], credential[-2])
    names = tuple(parts["SignedHeaders"].split(";"))
    return Signed(scope, names, parts["Signature"], moment, None if expires_s < 0 else expires_s)


def verify(signed: Signed, request: Canonical, keys: Mapping[str, str], now: datetime) -> None:
    """Raise SignatureProblem unless the request was signed with the secret of a known key, not long ago."""
    secret = keys.get(signed.scope.key_id)
    if secret is None:
        raise SignatureProblem("unknown-key", "The access key id is not known here")
    try:
        moment = datetime.strptime(signed.moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise SignatureProblem("malformed", "The request has no readable X-Amz-Date") from None
    if signed.expires_s is not None:
        if not 0 < signed.expires_s <= _LONGEST_S:
            raise SignatureProblem("malformed", "X-Amz-Expires must be less than a week (in seconds)")
        if not moment - _SKEW <= now <= moment + timedelta(seconds=signed.expires_s):
            raise SignatureProblem("late", "Request has expired")
    elif abs(now - moment) > _SKEW:
        raise SignatureProblem("expired", f"Request has expired: it is dated {signed.moment}")
    text = "\n".join(
        ("AWS4-HMAC-SHA256", signed.moment, str(signed.scope), _digest(_canonical(signed, request)))
    )
    key = f"AWS4{secret}".encode()
    for part in (signed.scope.date, signed.scope.region, signed.scope.service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    wanted = hmac.digest(key, text.encode(), "sha256").hex()
    if not hmac.compare_digest(wanted.encode(), signed.signature.encode("utf-8", "replace")):
        raise SignatureProblem(
            "mismatch", "The request signature we calculated does not match the signature you provided"
        )


def _canonical(signed: Signed, request: Canonical) -> str:
    presigned = signed.expires_s is not None
    pairs = sorted(
        (_encoded(name), _encoded(value))
        for name, _, value in (part.partition("=") for part in request.query.split("&") if part)
        if name != "X-Amz-Signature"
    )
    query = "&".join(f"{name}={value}" for name, value in pairs)
    lines = [f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in signed.headers]
    payload = request.headers.get("x-amz-content-sha256")
    if payload is None:
        payload = "UNSIGNED-PAYLOAD" if presigned and signed.scope.service == "s3" else _sha256(request.body)
    elif len(payload) == 64 and payload != _sha256(request.body):
        raise SignatureProblem("mismatch", "The provided x-amz-content-sha256 does not match what was sent")
    path = request.path or "/"
    if signed.scope.service != "s3":
        path = quote(path, safe="/~")  # every service but S3 signs the path encoded twice
    return "\n".join((request.method, path, query, *lines, "", ";".join(signed.headers), payload))


def _encoded(text: str) -> str:
    return quote(unquote(text.replace("+", " ")), safe="-_.~")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest(text: str) -> str:
    return _sha256(text.encode())
