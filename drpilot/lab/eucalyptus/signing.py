"""Who calls a Eucalyptus cloud: signature versions 2 and 4, and a name with a password for the tokens service.

Sources: the service's HmacUtils and the REST authentication pages of the Amazon S3 developer guide (version 2).
The region in a credential scope is the client's own business; the cloud never looks at it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote, unquote

from drpilot.base.clock import parse_time
from drpilot.lab.cloud import Cloud
from drpilot.lab.eucalyptus.fields import words
from drpilot.lab.requests import Incoming
from drpilot.lab.signature import Canonical, SignatureProblem, read_signature, verify

__all__ = ["Caller", "authenticate", "authenticate_object", "by_password"]

Caller = str
"""The access key id that signed, or the user's name where a password did."""

SESSIONS = "sessions"
_SKEW = timedelta(minutes=15)
_DIGESTS = {"HmacSHA256": "sha256", "HmacSHA1": "sha1"}
_SUBRESOURCES = words(
    "acl cors delete lifecycle location logging notification partNumber policy requestPayment tagging torrent"
    " uploadId uploads versionId versioning versions website response-cache-control"
    " response-content-disposition response-content-encoding response-content-language"
    " response-content-type response-expires"
)


def _secrets(cloud: Cloud) -> dict[str, str]:
    """Secrets by access key id: the site's own and those of sessions that have not expired."""
    now = cloud.timestamp()
    found = dict(cloud.keys)
    for key, row in cloud.table(SESSIONS).peek().items():
        if parse_time(row["expires"]) > now:
            found[key] = row["secret"]
    return found


def _check_token(cloud: Cloud, key: str, token: str | None) -> None:
    row = cloud.table(SESSIONS).peek().get(key)
    if row is not None and not hmac.compare_digest(
        row["token"].encode(), (token or "").encode("utf-8", "replace")
    ):
        raise SignatureProblem("unknown-key", "The security token included in the request is invalid")


def authenticate(cloud: Cloud, request: Incoming) -> Caller:
    """Who signed a query request; raises SignatureProblem."""
    fields = dict(parse_qsl(request.body.decode("utf-8", "replace") or request.query, keep_blank_values=True))
    if "AWSAccessKeyId" in fields:
        return _version_2(cloud, request, fields)
    return _version_4(cloud, request)


def _version_4(cloud: Cloud, request: Incoming) -> Caller:
    query = dict(parse_qsl(request.query, keep_blank_values=True))
    signed = read_signature(query, request.headers)
    canonical = Canonical(request.method, request.path, request.query, request.headers, request.body)
    verify(signed, canonical, _secrets(cloud), cloud.timestamp())
    token = request.headers.get("x-amz-security-token") or query.get("X-Amz-Security-Token")
    _check_token(cloud, signed.scope.key_id, token)
    return signed.scope.key_id


def _version_2(cloud: Cloud, request: Incoming, fields: Mapping[str, str]) -> Caller:
    """Every field but the signature, sorted and encoded, under the verb, the host and the path."""
    digest = _DIGESTS.get(fields.get("SignatureMethod", ""))
    if fields.get("SignatureVersion") != "2" or digest is None:
        raise SignatureProblem("malformed", "Signature version not supported")
    secret = _secrets(cloud).get(fields["AWSAccessKeyId"])
    if secret is None:
        raise SignatureProblem("unknown-key", "The access key id is not known here")
    _check_age(cloud, fields)
    pairs = sorted((name, value) for name, value in fields.items() if name != "Signature")
    text = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in pairs)
    wanted = "\n".join((request.method, request.headers.get("host", "").lower(), request.path, text))
    _compare(secret, wanted, digest, fields.get("Signature", ""))
    _check_token(cloud, fields["AWSAccessKeyId"], fields.get("SecurityToken"))
    return fields["AWSAccessKeyId"]


def _check_age(cloud: Cloud, fields: Mapping[str, str]) -> None:
    now = cloud.timestamp()
    try:
        if "Expires" in fields:
            late = now > _moment(fields["Expires"])
        else:
            late = abs(now - _moment(fields["Timestamp"])) > _SKEW
    except (KeyError, ValueError):
        raise SignatureProblem("malformed", "Timestamp or Expires is missing or can't be read") from None
    if late:
        raise SignatureProblem("expired", "Message has expired (times in UTC)")


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(unquote(text))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _compare(secret: str, text: str, digest: str, given: str) -> None:
    wanted = base64.b64encode(hmac.digest(secret.encode(), text.encode(), digest)).decode()
    if not hmac.compare_digest(wanted.encode(), given.encode("utf-8", "replace")):
        raise SignatureProblem("mismatch", "Signature validation failed")


# -- the object store -------------------------------------------------------------------------------------


def authenticate_object(cloud: Cloud, request: Incoming, resource: str) -> Caller:
    """Who signed a request of the object store, whose path without the service's is `resource`. 3.4 takes
    version 2 alone.
    """
    query = dict(parse_qsl(request.query, keep_blank_values=True))
    header = request.headers.get("authorization", "")
    if header.startswith("AWS ") or "Signature" in query:
        return _object_version_2(cloud, request, resource, query)
    if cloud.traits.version == "3.4" and (header or "X-Amz-Signature" in query):
        raise SignatureProblem("mismatch", "Signature version 4 is not supported by this object store")
    if not header and "X-Amz-Signature" not in query:
        raise SignatureProblem("missing", "Access Denied")
    return _version_4(cloud, request)


def _object_version_2(cloud: Cloud, request: Incoming, resource: str, query: Mapping[str, str]) -> Caller:
    if "Signature" in query:
        key, given, date = query.get("AWSAccessKeyId", ""), query["Signature"], query.get("Expires", "")
        token = query.get("x-amz-security-token")
    else:
        key, _, given = request.headers["authorization"].removeprefix("AWS ").partition(":")
        date, token = request.headers.get("date", ""), request.headers.get("x-amz-security-token")
    secret = _secrets(cloud).get(key)
    if secret is None:
        raise SignatureProblem(
            "unknown-key", "The AWS Access Key Id you provided does not exist in our records."
        )
    if "Signature" in query and not (date.isdigit() and int(date) > cloud.timestamp().timestamp()):
        raise SignatureProblem("expired", "Request has expired")
    # The original accepts a signature over the path with the service's own part and without it; botocore signs
    # a bucket's path with a slash that it does not send.
    closed = (f"{resource}/",) if resource.count("/") == 1 and resource != "/" else ()
    for path in (request.path, resource, *closed):
        try:
            _compare(secret, _object_text(request, path, date, query), "sha1", given)
        except SignatureProblem:
            continue
        _check_token(cloud, key, token)
        return key
    raise SignatureProblem(
        "mismatch", "The request signature we calculated does not match the signature you provided."
    )


def _object_text(request: Incoming, path: str, date: str, query: Mapping[str, str]) -> str:
    amz = sorted((name, value) for name, value in request.headers.items() if name.startswith("x-amz-"))
    if "Signature" in query:
        amz = sorted({**dict(amz), **{k: v for k, v in query.items() if k.startswith("x-amz-")}}.items())
    if "Signature" not in query and any(name == "x-amz-date" for name, _ in amz):
        date = ""
    parts = []
    for part in request.query.split("&"):
        name, equals, value = part.partition("=")
        if name in _SUBRESOURCES:
            parts.append(f"{name}={unquote(value)}" if equals and value else name)
    tail = "?" + "&".join(sorted(parts)) if parts else ""
    lines = (
        request.method,
        request.headers.get("content-md5", ""),
        request.headers.get("content-type", ""),
        date,
        *(f"{name}:{value.strip()}" for name, value in amz),
        path + tail,
    )
    return "\n".join(lines)


# -- the tokens service -----------------------------------------------------------------------------------


def by_password(cloud: Cloud, request: Incoming) -> Caller | None:
    """The user who came with account, name and password instead of a signature; None when none did.

    `Authorization: Basic b64( b64(user)@b64(account):password )`.
    """
    kind, _, coded = request.headers.get("authorization", "").partition(" ")
    if kind != "Basic":
        return None
    try:
        names, _, password = base64.b64decode(coded, validate=True).decode().partition(":")
        user, account = (base64.b64decode(part, validate=True).decode() for part in names.split("@", 1))
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise SignatureProblem("malformed", "Invalid credentials") from None
    login = cloud.settings.login
    if (
        len(login) != 3
        or (account, user) != tuple(login[:2])
        or not hmac.compare_digest(login[2].encode(), password.encode("utf-8", "replace"))
    ):
        raise SignatureProblem("password", "Invalid credentials")
    return user
