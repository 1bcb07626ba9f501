"""The bytes between a client and a cloud: signatures, protocols and what is refused before a handler runs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from drpilot.lab.replies import Reply
from drpilot.lab.wire import Incoming, answer
from tests.lab.core_world import Pair, client_of, code_of, session_for


def _signed(pair: Pair, service: str, request: AWSRequest) -> Incoming:
    (key, secret), *_ = pair.home.keys.items()
    SigV4Auth(Credentials(key, secret), service, pair.home.region).add_auth(request)
    prepared = request.prepare()
    headers = {name.lower(): str(value) for name, value in prepared.headers.items()}
    headers.setdefault("host", "127.0.0.1:9")
    body: Any = prepared.body or b""
    path, _, query = prepared.url.removeprefix("http://127.0.0.1:9").partition("?")
    data = body if isinstance(body, bytes) else body.encode()
    return Incoming(str(request.method), path, query, headers, data)


def _ask(pair: Pair, body: str, service: str = "ec2", headers: dict[str, str] | None = None) -> Reply:
    request = AWSRequest("POST", "http://127.0.0.1:9/", headers=headers or {}, data=body)
    return answer(pair.home, _signed(pair, service, request))


@pytest.mark.parametrize(
    ("service", "call", "code"),
    [
        ("ec2", "describe_vpcs", "AuthFailure"),
        ("sts", "get_caller_identity", "SignatureDoesNotMatch"),
        ("kms", "list_keys", "InvalidSignatureException"),
        ("s3", "list_buckets", "SignatureDoesNotMatch"),
    ],
)
def test_a_wrong_secret_is_refused(pair: Pair, service: str, call: str, code: str) -> None:
    """A request signed with another secret is refused in the service's own words."""
    client = client_of(pair.home, service, secret="wrong")
    assert code_of(getattr(client, call)) == code


def test_an_unknown_key_is_refused(pair: Pair) -> None:
    """A key id that the site doesn't know is refused, also when it is the other site's."""
    (key, secret), *_ = pair.away.keys.items()
    session = session_for(pair.home.region, key, secret)
    assert code_of(client_of(pair.home, "ec2", session).describe_vpcs) == "AuthFailure"
    assert code_of(client_of(pair.home, "sts", session).get_caller_identity) == "InvalidClientTokenId"


def test_another_region_s_scope_is_refused(pair: Pair) -> None:
    """A request scoped to another region is refused."""
    (key, secret), *_ = pair.home.keys.items()
    client = client_of(pair.home, "ec2", session_for("eu-west-1", key, secret))
    assert code_of(client.describe_vpcs) == "AuthFailure"


def test_an_old_request_is_expired(pair: Pair) -> None:
    """A request more than 15 minutes off is expired."""
    request = AWSRequest("POST", "http://127.0.0.1:9/", data="Action=DescribeVpcs&Version=2016-11-15")
    incoming = _signed(pair, "ec2", request)
    assert answer(pair.home, incoming).status == 200
    pair.clock.advance(timedelta(minutes=20).total_seconds())
    reply = answer(pair.home, incoming)
    assert reply.status == 400
    assert b"<Code>RequestExpired</Code>" in reply.body


def test_a_changed_body_is_refused(pair: Pair) -> None:
    """What was signed is what must arrive."""
    request = AWSRequest("POST", "http://127.0.0.1:9/", data="Action=DescribeVpcs&Version=2016-11-15")
    signed = _signed(pair, "ec2", request)
    other = signed.body.replace(b"Vpcs", b"Tags")
    reply = answer(pair.home, Incoming("POST", signed.path, "", signed.headers, other))
    assert reply.status == 401
    assert b"<Code>AuthFailure</Code>" in reply.body


def test_an_unsigned_request_is_refused(pair: Pair) -> None:
    """Without a signature nothing is answered but that."""
    reply = answer(pair.home, Incoming("GET", "/", "", {"host": "127.0.0.1:9"}, b""))
    assert b"<Code>MissingAuthenticationToken</Code>" in reply.body


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("Action=ExplodeInstances&Version=2016-11-15", "InvalidAction"),
        (
            "Action=PurchaseReservedInstancesOffering&InstanceCount=1&ReservedInstancesOfferingId=x",
            "InvalidAction",
        ),
        ("Action=CreateVolume&Sizes=5", "UnknownParameter"),
        ("Action=CreateVolume&Size=big&AvailabilityZone=eu-south-1a", "InvalidParameterValue"),
        (
            "Action=CreateVolume&Size=1&Encrypted=perhaps&AvailabilityZone=eu-south-1a",
            "InvalidParameterValue",
        ),
        ("Action=DeleteVolume", "MissingParameter"),
        ("Action=RunInstances&MinCount=1&MaxCount=1&Placement.Nowhere=1", "UnknownParameter"),
        ("Action=DescribeVolumes&Filter.1.Name=colour&Filter.1.Value.1=red", "InvalidParameterValue"),
        ("Action=DescribeVolumes&VolumeId=vol-1", "InvalidParameterValue"),
    ],
)
def test_ec2_refuses_what_it_can_t_read(pair: Pair, body: str, code: str) -> None:
    """Unknown actions and parameters, wrong types and missing parameters are XML errors with EC2's codes."""
    reply = _ask(pair, body)
    assert reply.status == 400
    assert reply.headers["Content-Type"].startswith("text/xml")
    assert f"<Code>{code}</Code>".encode() in reply.body
    assert b"<RequestID>" in reply.body


def test_other_protocols_refuse_in_their_own_form(pair: Pair) -> None:
    """JSON services answer JSON errors with the type in a header; query services an ErrorResponse."""
    unknown = _ask(pair, "{}", "kms", {"X-Amz-Target": "TrentService.Explode"})
    assert unknown.headers["x-amzn-ErrorType"] == "UnknownOperationException"
    missing = _ask(pair, "{}", "kms", {"X-Amz-Target": "TrentService.DescribeKey"})
    assert missing.headers["x-amzn-ErrorType"] == "ValidationException"
    wrong = _ask(pair, '{"Limit": "many"}', "kms", {"X-Amz-Target": "TrentService.ListKeys"})
    assert b"Limit" in wrong.body
    query = _ask(pair, "Action=Explode&Version=2011-06-15", "sts")
    assert b"<ErrorResponse" in query.body
    assert b"<Code>InvalidAction</Code>" in query.body


def test_a_refused_call_changes_nothing(pair: Pair) -> None:
    """A handler that refuses half-way leaves no row behind: the second of two volumes is impossible."""
    ec2 = pair.client()
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    before = pair.home.inventory()
    request = {"Resources": [vpc, "vol-0123456789abcdef0"], "Tags": [{"Key": "a", "Value": "b"}]}
    assert code_of(lambda: ec2.create_tags(**request)) == "InvalidID"
    assert pair.home.inventory() == before


def test_every_reply_carries_a_request_id(pair: Pair) -> None:
    """boto3 finds a request id in answers and errors alike."""
    reply = pair.client().describe_vpcs()
    assert reply["ResponseMetadata"]["RequestId"]
    assert pair.client("kms").list_keys()["ResponseMetadata"]["RequestId"]


def test_text_survives_both_ways(pair: Pair) -> None:
    """Names and tags with XML signs, spaces and other alphabets come back as they went."""
    ec2 = pair.client()
    text = 'Größe <&> "quote" \' 東京 +/=%25'
    tags = [{"ResourceType": "vpc", "Tags": [{"Key": "note", "Value": text}]}]
    ec2.create_vpc(CidrBlock="10.0.0.0/16", TagSpecifications=tags)
    assert ec2.describe_vpcs()["Vpcs"][0]["Tags"] == [{"Key": "note", "Value": text}]
    found = ec2.describe_vpcs(Filters=[{"Name": "tag:note", "Values": [text]}])["Vpcs"]
    assert len(found) == 1
