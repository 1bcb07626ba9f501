"""Which kind each failure is, and whether its effect happened."""

from __future__ import annotations

import inspect
import socket
import ssl

import botocore.exceptions as boto
import pytest
import urllib3
import urllib3.exceptions as urllib
from botocore.parsers import ResponseParserError

from drpilot.base.errors import DrpilotError
from drpilot.clouds.failures import (
    NoEndpoint,
    TruncatedReply,
    WrongAccount,
    as_drpilot_error,
    code_class,
    failure,
)
from drpilot.clouds.limits import Overloaded
from drpilot.domain.ports import CloudError, FailureClass, Happened

F = FailureClass
POOL = urllib3.HTTPConnectionPool("127.0.0.1")
LINE = urllib3.connection.HTTPConnection("127.0.0.1")
URL = "http://127.0.0.1:9"

TRANSPORT: list[tuple[BaseException, FailureClass, Happened]] = [
    (boto.EndpointConnectionError(endpoint_url=URL), F.TRANSIENT, "no"),
    (boto.ConnectTimeoutError(endpoint_url=URL), F.TIMEOUT, "no"),
    (boto.ProxyConnectionError(proxy_url=URL), F.TRANSIENT, "no"),
    (boto.ReadTimeoutError(endpoint_url=URL), F.TIMEOUT, "unknown"),
    (boto.ConnectionClosedError(endpoint_url=URL), F.TRANSIENT, "unknown"),
    (boto.ResponseStreamingError(error="x"), F.TRANSIENT, "unknown"),
    (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), F.TRANSIENT, "unknown"),
    (TruncatedReply(actual=1, expected=2), F.TRANSIENT, "unknown"),
    (boto.HTTPClientError(error="x"), F.TRANSIENT, "unknown"),
    (ResponseParserError("<html>"), F.TRANSIENT, "unknown"),
    (boto.SSLError(endpoint_url=URL, error=ssl.SSLCertVerificationError("bad")), F.INVALID, "no"),
    (boto.SSLError(endpoint_url=URL, error=Exception("[SSL: CERTIFICATE_VERIFY_FAILED]")), F.INVALID, "no"),
    (boto.SSLError(endpoint_url=URL, error=ssl.SSLError("bad record mac")), F.TRANSIENT, "unknown"),
    (boto.FlexibleChecksumError(error_msg="x"), F.TRANSIENT, "unknown"),
    (boto.NoCredentialsError(), F.AUTH, "no"),
    (boto.PartialCredentialsError(provider="x", cred_var="y"), F.AUTH, "no"),
    (boto.CredentialRetrievalError(provider="x", error_msg="y"), F.AUTH, "no"),
    (boto.ProfileNotFound(profile="x"), F.AUTH, "no"),
    (boto.UnauthorizedSSOTokenError(), F.AUTH, "no"),
    (boto.ParamValidationError(report="x"), F.INVALID, "no"),
    (boto.UnknownServiceError(service_name="x", known_service_names="y"), F.INVALID, "no"),
    (boto.NoRegionError(), F.INVALID, "no"),
    (Overloaded("ec2:RunInstances", 99), F.THROTTLED, "no"),
    (WrongAccount("1", "2"), F.AUTH, "no"),
    (DrpilotError("no-credentials", site="home", what="gone"), F.AUTH, "no"),
    (NoEndpoint("home has no endpoint for ebs"), F.INVALID, "no"),
    (KeyError("an answer without its wrapper"), F.UNKNOWN, "unknown"),
    (urllib.NewConnectionError(LINE, "refused"), F.TRANSIENT, "no"),
    (urllib.ConnectTimeoutError(POOL, "slow"), F.TIMEOUT, "no"),
    (urllib.ReadTimeoutError(POOL, URL, "slow"), F.TIMEOUT, "unknown"),
    (urllib.ProtocolError("aborted"), F.TRANSIENT, "unknown"),
    (urllib.MaxRetryError(POOL, URL, urllib.NewConnectionError(LINE, "refused")), F.TRANSIENT, "no"),
    (urllib.SSLError("handshake"), F.TRANSIENT, "unknown"),
    (ConnectionRefusedError(111, "refused"), F.TRANSIENT, "no"),
    (socket.gaierror(-2, "no such name"), F.TRANSIENT, "no"),
    (TimeoutError("timed out"), F.TIMEOUT, "unknown"),
    (ConnectionResetError(104, "reset"), F.TRANSIENT, "unknown"),
    (BrokenPipeError(32, "pipe"), F.TRANSIENT, "unknown"),
    (OSError(5, "input/output"), F.TRANSIENT, "unknown"),
    (RuntimeError("never seen"), F.UNKNOWN, "unknown"),
]


@pytest.mark.parametrize(("error", "kind", "happened"), TRANSPORT, ids=lambda value: type(value).__name__)
def test_a_failed_changing_call_says_whether_it_happened(
    error: BaseException, kind: FailureClass, happened: Happened
) -> None:
    """Each transport failure has its class, and `no` only where the request certainly was not sent."""
    found = failure(error, site="home", operation="ec2:CreateVolume", changing=True)
    assert (found.kind, found.happened) == (kind, happened)
    assert (found.site, found.operation) == ("home", "ec2:CreateVolume")


@pytest.mark.parametrize("error", [row[0] for row in TRANSPORT], ids=lambda value: type(value).__name__)
def test_a_reading_call_never_has_an_effect(error: BaseException) -> None:
    """Whatever happens to a call that only reads, nothing happened."""
    assert failure(error, site="home", operation="ec2:DescribeVolumes", changing=False).happened == "no"


def _filled(kind: type[BaseException]) -> BaseException:
    error = kind.__new__(kind)
    Exception.__init__(error, "made for a test")
    error.kwargs = {}  # type: ignore[attr-defined]
    return error


def test_every_exception_of_botocore_is_mapped() -> None:
    """The whole list of botocore maps without an error of our own, and what may have been sent is never
    called `no`.
    """
    kinds = [
        kind
        for _, kind in inspect.getmembers(boto, inspect.isclass)
        if issubclass(kind, Exception) and not issubclass(kind, boto.ClientError | Warning)
    ]
    assert len(kinds) > 90
    sent = (boto.HTTPClientError, boto.IncompleteReadError, boto.ChecksumError, boto.FlexibleChecksumError)
    not_sent = (boto.ConnectionError, boto.SSLError)
    for kind in kinds:
        found = failure(_filled(kind), site="home", operation="ec2:RunInstances", changing=True)
        assert isinstance(found, CloudError)
        if issubclass(kind, sent) and not issubclass(kind, not_sent):
            assert found.happened == "unknown", kind


CODES: list[tuple[str, int, FailureClass, Happened]] = [
    ("RequestLimitExceeded", 503, F.THROTTLED, "no"),
    ("Throttling", 400, F.THROTTLED, "no"),
    ("ThrottlingException", 400, F.THROTTLED, "no"),
    ("RequestThrottledException", 400, F.THROTTLED, "no"),
    ("SlowDown", 503, F.THROTTLED, "no"),
    ("PriorRequestNotComplete", 400, F.THROTTLED, "no"),
    ("SnapshotCreationPerVolumeRateExceeded", 400, F.THROTTLED, "no"),
    ("ConcurrentSnapshotLimitExceeded", 400, F.FULL, "no"),
    ("InsufficientInstanceCapacity", 500, F.CAPACITY, "no"),
    ("InstanceLimitExceeded", 400, F.CAPACITY, "no"),
    ("VcpuLimitExceeded", 400, F.CAPACITY, "no"),
    ("SnapshotLimitExceeded", 400, F.CAPACITY, "no"),
    ("Unsupported", 400, F.CAPACITY, "no"),
    ("AuthFailure", 401, F.AUTH, "no"),
    ("UnauthorizedOperation", 403, F.AUTH, "no"),
    ("AccessDenied", 403, F.AUTH, "no"),
    ("RequestTimeTooSkewed", 403, F.AUTH, "no"),
    ("InvalidInstanceID.NotFound", 400, F.NOT_FOUND, "no"),
    ("InvalidSnapshot.NotFound", 400, F.NOT_FOUND, "no"),
    ("InvalidAMIID.Unavailable", 400, F.NOT_FOUND, "no"),
    ("LoadBalancerNotFound", 400, F.NOT_FOUND, "no"),
    ("NoSuchKey", 404, F.NOT_FOUND, "no"),
    ("ResourceNotFoundException", 404, F.NOT_FOUND, "no"),
    ("IdempotentParameterMismatch", 400, F.CONFLICT, "no"),
    ("IncorrectState", 400, F.CONFLICT, "no"),
    ("IncorrectInstanceState", 400, F.CONFLICT, "no"),
    ("InvalidAMIName.Duplicate", 400, F.CONFLICT, "no"),
    ("InvalidSnapshot.InUse", 400, F.CONFLICT, "no"),
    ("VolumeInUse", 400, F.CONFLICT, "no"),
    ("DependencyViolation", 400, F.CONFLICT, "no"),
    ("DuplicateListener", 400, F.CONFLICT, "no"),
    ("ConditionalRequestConflict", 409, F.CONFLICT, "no"),
    ("PreconditionFailed", 412, F.PRECONDITION, "no"),
    ("OperationNotPermitted", 400, F.PRECONDITION, "no"),
    ("InvalidVolume.ZoneMismatch", 400, F.PRECONDITION, "no"),
    ("InvalidParameterValue", 400, F.INVALID, "no"),
    ("InvalidInstanceID.Malformed", 400, F.INVALID, "no"),
    ("InvalidAction", 400, F.INVALID, "no"),
    ("ValidationError", 400, F.INVALID, "no"),
    ("MissingParameter", 400, F.INVALID, "no"),
    ("DryRunOperation", 412, F.REJECTED, "no"),
    ("SomethingNobodyKnows", 400, F.REJECTED, "no"),
    ("SomethingNobodyKnows", 500, F.TRANSIENT, "unknown"),
    ("InternalError", 500, F.TRANSIENT, "unknown"),
    ("InternalFailure", 500, F.TRANSIENT, "unknown"),
    ("ServiceUnavailable", 503, F.TRANSIENT, "unknown"),
    ("Unavailable", 503, F.TRANSIENT, "unknown"),
    ("RequestTimeout", 400, F.TRANSIENT, "unknown"),
    ("502", 502, F.TRANSIENT, "unknown"),
]


def _client_error(code: str, status: int, message: str = "because") -> boto.ClientError:
    body = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "req-9"},
    }
    return boto.ClientError(body, "CreateVolume")  # type: ignore[arg-type]


@pytest.mark.parametrize(("code", "status", "kind", "happened"), CODES)
def test_an_error_code_has_its_class(code: str, status: int, kind: FailureClass, happened: Happened) -> None:
    """A refusal below 500, a throttle and lack of capacity never happened; any other 5xx may have."""
    found = failure(_client_error(code, status), site="home", operation="ec2:CreateVolume", changing=True)
    assert (found.kind, found.happened, found.code, found.request_id) == (kind, happened, code, "req-9")


def test_too_many_copies_at_once_are_waited_for_and_a_quota_is_not() -> None:
    """CopySnapshot over its limit is over when a copy ends; a quota of the same code stays."""
    busy = _client_error("ResourceLimitExceeded", 400, "Too many snapshot copies in progress.")
    full = _client_error("ResourceLimitExceeded", 400, "You have reached your quota.")
    assert failure(busy, site="s", operation="ec2:CopySnapshot", changing=True).kind is F.FULL
    assert failure(full, site="s", operation="ec2:CopySnapshot", changing=True).kind is F.CAPACITY


def test_a_cloud_error_stays_what_it_is() -> None:
    """An error that was mapped once is not mapped again."""
    known = CloudError(F.CAPACITY, "X", "y", happened="yes", site="a", operation="b")
    assert failure(known, site="other", operation="c", changing=True) is known


def test_code_patterns_do_not_swallow_each_other() -> None:
    """A code that ends in NotFound stays not-found although it begins with Invalid."""
    assert code_class("InvalidWhatever.NotFound") is F.NOT_FOUND
    assert code_class("InvalidWhatever.Duplicate") is F.CONFLICT
    assert code_class("InvalidWhatever") is F.INVALID
    assert code_class("WhateverLimitExceeded") is F.CAPACITY


@pytest.mark.parametrize(
    ("error", "changing", "word", "exit_code"),
    [
        (boto.EndpointConnectionError(endpoint_url=URL), True, "unreachable", 8),
        (boto.ReadTimeoutError(endpoint_url=URL), False, "unreachable", 8),
        (boto.ReadTimeoutError(endpoint_url=URL), True, "cloud-unknown", 4),
        (
            boto.SSLError(endpoint_url=URL, error=Exception("CERTIFICATE_VERIFY_FAILED")),
            True,
            "unreachable",
            8,
        ),
        (boto.NoCredentialsError(), False, "no-credentials", 7),
        (boto.ProfileNotFound(profile="x"), False, "no-credentials", 7),
        (DrpilotError("no-credentials", site="home", what="gone"), False, "no-credentials", 7),
        (_client_error("AuthFailure", 401), True, "credentials", 7),
        (_client_error("ExpiredToken", 400), False, "credentials", 7),
        (_client_error("UnauthorizedOperation", 403), True, "denied", 7),
        (_client_error("InternalError", 500), True, "cloud-unknown", 4),
        (_client_error("InvalidParameterValue", 400), True, "cloud-failure", 1),
        (WrongAccount("111", "222"), False, "wrong-account", 7),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_a_person_is_told_in_the_words_of_the_catalogue(
    error: BaseException, changing: bool, word: str, exit_code: int
) -> None:
    """Each failure becomes a catalogue error with its exit code and the cloud's own reason."""
    found = failure(error, site="home", operation="ec2:CreateVolume", changing=changing)
    told = as_drpilot_error(found, endpoint=URL, account="222")
    assert (told.word, told.exit_code) == (word, exit_code)
    assert "<" not in told.title, told.title
