"""Every way a call can fail, mapped onto our closed list in one place.

Two questions are answered for each exception of botocore, urllib3 and the socket layer and for each error
code: what kind is it, and did the effect happen (`yes`, `no`, `unknown`)? A call that only reads has no
effect, so its answer is always `no`. For a changing call it is `no` when the request was certainly not sent
or was refused with an error below 500, and `unknown` when it was sent and no readable answer came back.

Sources: Amazon EC2 API reference, "Error codes" and "Ensuring idempotency in API requests"; Amazon S3, EBS
direct, Auto Scaling, Elastic Load Balancing, Route 53 and KMS API references, "Common errors";
botocore.exceptions.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import botocore.exceptions as boto
import urllib3.exceptions as urllib
from botocore.parsers import ResponseParserError

from drpilot.base.errors import DrpilotError
from drpilot.clouds.limits import Overloaded
from drpilot.domain.ports import CloudError, FailureClass, Happened

__all__ = [
    "UNREACHABLE",
    "NoEndpoint",
    "TruncatedReply",
    "WrongAccount",
    "as_drpilot_error",
    "code_class",
    "failure",
]

F = FailureClass


class TruncatedReply(boto.BotoCoreError):
    """An answer shorter than its Content-Length: the connection was cut while it was read."""

    fmt = "the answer was cut off after {actual} of {expected} bytes"


class NoEndpoint(Exception):
    """The site has no endpoint for the service."""


class WrongAccount(Exception):
    """The site answers as another account than the pinned one."""

    def __init__(self, found: str, wanted: str) -> None:
        super().__init__(f"answers as account {found}, pinned is {wanted}")
        self.found = found
        self.wanted = wanted


UNREACHABLE = frozenset(
    {
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "EndpointConnectionError",
        "ProxyConnectionError",
        "ReadTimeoutError",
        "SSLError",
    }
)
"""Codes of `CloudError` that say the endpoint, not the request, is the trouble."""

_CODES: dict[FailureClass, frozenset[str]] = {
    F.FULL: frozenset({"ConcurrentSnapshotLimitExceeded", "PendingSnapshotLimitExceeded"}),
    F.THROTTLED: frozenset(
        {
            "BandwidthLimitExceeded",
            "EC2ThrottledException",
            "PriorRequestNotComplete",
            "RequestLimitExceeded",
            "RequestThrottled",
            "RequestThrottledException",
            "SlowDown",
            "SnapshotCreationPerVolumeRateExceeded",
            "Throttling",
            "ThrottledException",
            "ThrottlingException",
            "TooManyRequests",
            "TooManyRequestsException",
        }
    ),
    F.CAPACITY: frozenset(
        {
            "InsufficientAddressCapacity",
            "InsufficientCapacity",
            "InsufficientCapacityOnHost",
            "InsufficientFreeAddressesInSubnet",
            "InsufficientHostCapacity",
            "InsufficientInstanceCapacity",
            "InsufficientReservedInstanceCapacity",
            "InsufficientVolumeCapacity",
            "Unsupported",
            "UnsupportedHostConfiguration",
        }
    ),
    F.AUTH: frozenset(
        {
            "AccessDenied",
            "AccessDeniedException",
            "AuthFailure",
            "AuthorizationHeaderMalformed",
            "Blocked",
            "ExpiredToken",
            "ExpiredTokenException",
            "Forbidden",
            "IncompleteSignature",
            "IncompleteSignatureException",
            "InvalidAccessKeyId",
            "InvalidClientTokenId",
            "InvalidSignatureException",
            "InvalidToken",
            "KMS.AccessDeniedException",
            "MissingAuthenticationToken",
            "MissingAuthenticationTokenException",
            "NotAuthorized",
            "OptInRequired",
            "PendingVerification",
            "RequestExpired",
            "RequestTimeTooSkewed",
            "SignatureDoesNotMatch",
            "TokenRefreshRequired",
            "UnauthorizedOperation",
            "UnrecognizedClientException",
            "401",
            "403",
        }
    ),
    F.NOT_FOUND: frozenset(
        {
            "InvalidAMIID.Unavailable",
            "NoSuchBucket",
            "NoSuchEntity",
            "NoSuchHostedZone",
            "NoSuchKey",
            "NoSuchResourceException",
            "NoSuchUpload",
            "NoSuchVersion",
            "NotFound",
            "ResourceNotFoundException",
            "404",
        }
    ),
    F.CONFLICT: frozenset(
        {
            "AlreadyExists",
            "AttachmentLimitExceeded",
            "BucketAlreadyExists",
            "BucketAlreadyOwnedByYou",
            "BucketNotEmpty",
            "ConditionalRequestConflict",
            "ConflictException",
            "DependencyViolation",
            "IdempotentInstanceTerminated",
            "IdempotentParameterMismatch",
            "IncorrectInstanceState",
            "IncorrectModificationState",
            "IncorrectState",
            "IncorrectStateException",
            "InvalidInstanceState",
            "InvalidSnapshot.InUse",
            "InvalidState",
            "InvalidStateTransition",
            "OperationAborted",
            "ResourceContention",
            "ResourceContentionFault",
            "ResourceInUse",
            "ResourceInUseFault",
            "ScalingActivityInProgress",
            "ScalingActivityInProgressFault",
            "VolumeInUse",
            "VolumeModificationInProgress",
        }
    ),
    F.PRECONDITION: frozenset(
        {
            "DisabledException",
            "Gateway.NotAttached",
            "InvalidKmsKey.InvalidState",
            "InvalidVolume.ZoneMismatch",
            "KMS.DisabledException",
            "KMS.InvalidStateException",
            "KMS.KMSInvalidStateException",
            "KMSInvalidStateException",
            "KMSKeyNotAccessibleFault",
            "OperationNotPermitted",
            "PreconditionFailed",
            "412",
        }
    ),
    F.TRANSIENT: frozenset(
        {
            "BadGateway",
            "InternalError",
            "InternalException",
            "InternalFailure",
            "InternalServerError",
            "InternalServerException",
            "KMSInternalException",
            "RequestTimeout",
            "RequestTimeoutException",
            "ServerInternal",
            "ServiceFailure",
            "ServiceUnavailable",
            "ServiceUnavailableException",
            "Unavailable",
            "500",
            "502",
            "503",
            "504",
        }
    ),
    F.REJECTED: frozenset(
        {"DryRunOperation", "NotImplemented", "UnsupportedOperation", "VPCIdNotSpecified", "501"}
    ),
}
_CLASS_OF = {code: kind for kind, codes in _CODES.items() for code in codes}

# For what the list does not name: each service makes its codes by these patterns. The first match counts.
_PATTERNS: tuple[tuple[re.Pattern[str], FailureClass], ...] = (
    (re.compile(r"Throttl"), F.THROTTLED),
    (re.compile(r"(NotFound|NotFoundException|NotFoundFault|\.NotFound)$|^NoSuch|\.Unknown$"), F.NOT_FOUND),
    (re.compile(r"(Duplicate|AlreadyExists|InUse)(Fault|Exception)?$"), F.CONFLICT),
    (re.compile(r"^Duplicate|IncorrectState|AlreadyAssociated$|AlreadyAttached$"), F.CONFLICT),
    (re.compile(r"LimitExceeded(Exception|Fault)?$|QuotaExceeded|^TooMany|^Insufficient"), F.CAPACITY),
    (
        re.compile(r"^(Invalid|Malformed|Missing|Unknown|Validation|Unsupported)|Malformed$|Invalid$"),
        F.INVALID,
    ),
)

# Sent with status 503 by EC2 and S3, yet a definite refusal.
_REFUSED_KINDS = frozenset({F.THROTTLED, F.FULL, F.CAPACITY})


def code_class(code: str, status: int = 400) -> FailureClass:
    """The class of an error code; a code nobody knows is `rejected` below 500 and `transient` from there."""
    if code in _CLASS_OF:
        return _CLASS_OF[code]
    for pattern, kind in _PATTERNS:
        if pattern.search(code):
            return kind
    return F.TRANSIENT if status >= 500 else F.REJECTED


@dataclass(frozen=True, slots=True)
class _Word:
    kind: FailureClass
    happened: Happened  # to a changing call


# Order matters: the first class an exception is an instance of counts, so subclasses stand above their bases.
_EXCEPTIONS: tuple[tuple[type[BaseException], _Word], ...] = (
    (boto.EndpointConnectionError, _Word(F.TRANSIENT, "no")),
    (boto.ConnectTimeoutError, _Word(F.TIMEOUT, "no")),
    (boto.ProxyConnectionError, _Word(F.TRANSIENT, "no")),
    (boto.ReadTimeoutError, _Word(F.TIMEOUT, "unknown")),
    (boto.ConnectionClosedError, _Word(F.TRANSIENT, "unknown")),
    (boto.ResponseStreamingError, _Word(F.TRANSIENT, "unknown")),
    (boto.IncompleteReadError, _Word(F.TRANSIENT, "unknown")),
    (TruncatedReply, _Word(F.TRANSIENT, "unknown")),
    (boto.HTTPClientError, _Word(F.TRANSIENT, "unknown")),
    (ResponseParserError, _Word(F.TRANSIENT, "unknown")),
    (boto.ChecksumError, _Word(F.TRANSIENT, "unknown")),
    (boto.FlexibleChecksumError, _Word(F.TRANSIENT, "unknown")),
    (boto.NoCredentialsError, _Word(F.AUTH, "no")),
    (boto.PartialCredentialsError, _Word(F.AUTH, "no")),
    (boto.CredentialRetrievalError, _Word(F.AUTH, "no")),
    (boto.UnknownCredentialError, _Word(F.AUTH, "no")),
    (boto.RefreshWithMFAUnsupportedError, _Word(F.AUTH, "no")),
    (boto.MetadataRetrievalError, _Word(F.AUTH, "no")),
    (boto.TokenRetrievalError, _Word(F.AUTH, "no")),
    (boto.NoAuthTokenError, _Word(F.AUTH, "no")),
    (boto.SSOError, _Word(F.AUTH, "no")),
    (boto.LoginError, _Word(F.AUTH, "no")),
    (boto.ProfileNotFound, _Word(F.AUTH, "no")),
    (boto.ConfigNotFound, _Word(F.AUTH, "no")),
    (boto.ConfigParseError, _Word(F.AUTH, "no")),
    (boto.ParamValidationError, _Word(F.INVALID, "no")),
    (boto.MissingParametersError, _Word(F.INVALID, "no")),
    (boto.ValidationError, _Word(F.INVALID, "no")),
    (boto.DataNotFoundError, _Word(F.INVALID, "no")),
    (boto.BaseEndpointResolverError, _Word(F.INVALID, "no")),
    (boto.EndpointProviderError, _Word(F.INVALID, "no")),
    (boto.InvalidEndpointConfigurationError, _Word(F.INVALID, "no")),
    (boto.InvalidConfigError, _Word(F.INVALID, "no")),
    (boto.InvalidProxiesConfigError, _Word(F.INVALID, "no")),
    (boto.OperationNotPageableError, _Word(F.INVALID, "no")),
    (boto.UnknownClientMethodError, _Word(F.INVALID, "no")),
    (boto.UndefinedModelAttributeError, _Word(F.INVALID, "no")),
    (boto.UnknownSignatureVersionError, _Word(F.INVALID, "no")),
    (boto.UnsupportedSignatureVersionError, _Word(F.INVALID, "no")),
    (Overloaded, _Word(F.THROTTLED, "no")),
    (NoEndpoint, _Word(F.INVALID, "no")),
    (WrongAccount, _Word(F.AUTH, "no")),
    (urllib.NewConnectionError, _Word(F.TRANSIENT, "no")),
    (urllib.NameResolutionError, _Word(F.TRANSIENT, "no")),
    (urllib.ConnectTimeoutError, _Word(F.TIMEOUT, "no")),
    (urllib.ProxyError, _Word(F.TRANSIENT, "no")),
    (urllib.LocationParseError, _Word(F.INVALID, "no")),
    (urllib.ReadTimeoutError, _Word(F.TIMEOUT, "unknown")),
    (urllib.HTTPError, _Word(F.TRANSIENT, "unknown")),
    (ConnectionRefusedError, _Word(F.TRANSIENT, "no")),
    (socket.gaierror, _Word(F.TRANSIENT, "no")),
    (TimeoutError, _Word(F.TIMEOUT, "unknown")),
    (ConnectionError, _Word(F.TRANSIENT, "unknown")),
    (OSError, _Word(F.TRANSIENT, "unknown")),
)


def failure(error: BaseException, *, site: str, operation: str, changing: bool) -> CloudError:
    """`error` as CloudError. `operation` is written `service:Operation`; `changing` says whether it has an
    effect.

    The code of an error the cloud sent is the cloud's own; otherwise it is the exception's class name. A
    DryRunOperation is no failure: it has kind `rejected` and nothing happened; ask for it with
    `BotoSite.allowed`.
    """
    if isinstance(error, CloudError):
        return error
    if isinstance(error, DrpilotError):  # the settings of the site are wrong: nothing was sent
        kind, code = (F.AUTH, "NoCredentials") if error.exit_code == 7 else (F.INVALID, error.word)
        message = str(error.facts.get("what") if error.word == "no-credentials" else error.title)
        return CloudError(kind, code, message, happened="no", site=site, operation=operation)
    if isinstance(error, boto.ClientError):
        return _refusal(error, site, operation, changing)
    if isinstance(error, urllib.MaxRetryError) and error.reason is not None:
        return failure(error.reason, site=site, operation=operation, changing=changing)
    word = _Word(F.UNKNOWN, "unknown")
    if isinstance(error, boto.SSLError | urllib.SSLError | ssl.SSLError):
        word = _tls(error)
    else:
        for family, known in _EXCEPTIONS:
            if isinstance(error, family):
                word = known
                break
    return CloudError(
        word.kind,
        type(error).__name__,
        " ".join(str(error).split()),
        happened=word.happened if changing else "no",
        site=site,
        operation=operation,
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was made of: causes, contexts, and the `error` fact botocore keeps."""
    seen: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        one = queue.pop(0)
        if one is None or one in seen:
            continue
        seen.append(one)
        yield one
        inner = getattr(one, "kwargs", {}).get("error") if isinstance(one, boto.BotoCoreError) else None
        queue += [inner if isinstance(inner, BaseException) else None, one.__cause__, one.__context__]


def _tls(error: BaseException) -> _Word:
    """A certificate that is refused ends the handshake, before anything was sent; other TLS errors may come
    later.
    """
    if any(isinstance(one, ssl.SSLCertVerificationError) for one in _chain(error)):
        return _Word(F.INVALID, "no")
    if "CERTIFICATE_VERIFY_FAILED" in str(error) or "WRONG_VERSION_NUMBER" in str(error):
        return _Word(F.INVALID, "no")
    return _Word(F.TRANSIENT, "unknown")


# Eucalyptus answers what never reached a service with the status for a code, such as `400 Bad Request`; the message
# tells it apart (BaseQueryBinding, NioServerHandler).
_FAULT = re.compile(r"([45]\d\d) [A-Z][A-Za-z ]*")
_FAULTS = (
    ("Failed to bind the following fields", "UnknownParameter"),
    ("Failed to find corresponding class mapping", "InvalidAction"),
    ("No pipeline accepts", "InvalidAction"),
)


def _code(body: Mapping[str, Any], status: Any) -> str:
    code, message = str(body.get("Code") or status or "Unknown"), str(body.get("Message") or "")
    fault = _FAULT.fullmatch(code)
    named = next((name for text, name in _FAULTS if text in message), None) if fault else None
    return named or (fault[1] if fault else code)


def _refusal(error: boto.ClientError, site: str, operation: str, changing: bool) -> CloudError:
    body = error.response.get("Error", {})
    metadata = error.response.get("ResponseMetadata", {})
    code = _code(body, metadata.get("HTTPStatusCode"))
    status = int(metadata.get("HTTPStatusCode", 400))
    kind = code_class(code, status)
    if code == "ResourceLimitExceeded" and "in progress" in str(body.get("Message") or ""):
        kind = F.FULL  # Too many copies at once is over when one of them ends, unlike a quota.
    unsure = changing and kind not in _REFUSED_KINDS and (status >= 500 or kind is F.TRANSIENT)
    return CloudError(
        kind,
        code,
        str(body.get("Message") or ""),
        happened="unknown" if unsure else "no",
        site=site,
        operation=operation,
        request_id=str(metadata.get("RequestId") or error.response.get("RequestId") or ""),
    )


_DENIED = frozenset(
    {"UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "KMS.AccessDeniedException"}
)
_NO_CREDENTIALS = frozenset(
    kind.__name__
    for kind in (
        boto.NoCredentialsError,
        boto.PartialCredentialsError,
        boto.CredentialRetrievalError,
        boto.ProfileNotFound,
        boto.ConfigNotFound,
        boto.ConfigParseError,
        boto.UnauthorizedSSOTokenError,
        boto.SSOTokenLoadError,
        boto.TokenRetrievalError,
        boto.MetadataRetrievalError,
    )
)


# Settings that can't be used as they stand: nothing was sent. ValueError is botocore's word for a URL that is none.
_SETTINGS = frozenset({"InvalidRegionError", "NoEndpoint", "NoRegionError", "ValueError"})
# Something answers there that is no such service: a proxy's page, another server.
_NOT_A_CLOUD = frozenset({"ResponseParserError", "TruncatedReply", "502", "503", "504"})


def as_drpilot_error(error: CloudError, *, endpoint: str = "", account: str = "") -> DrpilotError:
    """The catalogue error that tells a person what `error` means; `endpoint` and `account` are the site's."""
    why = f"{error.code}: {error.message}" if error.message else error.code
    data = {"site": error.site, "operation": error.operation, "code": error.code, "happened": error.happened}
    if error.code == "WrongAccount":
        found = re.search(r"account (\S+),", error.message)
        facts = {"found": found[1] if found else "?", "wanted": account or "another"}
        return DrpilotError("wrong-account", site=error.site, data=data, **facts)
    if error.code in _NO_CREDENTIALS or error.code == "NoCredentials":
        return DrpilotError("no-credentials", site=error.site, what=error.message or error.code, data=data)
    if error.code in _DENIED:
        return DrpilotError("denied", site=error.site, action=error.operation, why=why, data=data)
    if error.kind is F.AUTH:
        return DrpilotError("credentials", site=error.site, why=why, data=data)
    if error.happened == "unknown":
        return DrpilotError("cloud-unknown", site=error.site, operation=error.operation, why=why, data=data)
    if error.code in _SETTINGS:
        hint = f"mend it under sites.{error.site} in drpilot.yaml, or give --region or --endpoint SERVICE=URL"
        return DrpilotError("wrong-value", what=error.message or error.code, hint=hint, data=data)
    if (
        error.code in _NOT_A_CLOUD
        or error.code in UNREACHABLE
        or error.code
        in (
            "ConnectionRefusedError",
            "gaierror",
            "NewConnectionError",
        )
    ):
        return DrpilotError(
            "unreachable", site=error.site, endpoint=endpoint or "its endpoint", why=why, data=data
        )
    if error.kind is F.TIMEOUT:
        return DrpilotError(
            "unreachable", site=error.site, endpoint=endpoint or "its endpoint", why=why, data=data
        )
    return DrpilotError(
        "cloud-failure",
        site=error.site,
        operation=error.operation,
        code=error.code,
        why=error.message,
        data=data,
    )
