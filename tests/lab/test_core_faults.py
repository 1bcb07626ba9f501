"""The lab's faults: how rules are read and counted, and what a client meets."""

from __future__ import annotations

import pytest
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError, ReadTimeoutError

from drpilot.domain.operations import is_reading
from drpilot.lab.faults import KINDS, Fault, Faults, parse_fault
from tests.lab.core_world import Pair, code_of


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", Fault("refuse")),
        ("hang", Fault("hang")),
        ("lost-reply:ec2.RunInstances@3", Fault("lost-reply", None, "ec2", "RunInstances", 3, 3)),
        ("lost-reply:*.mutating@2-4", Fault("lost-reply", None, "*", "mutating", 2, 4)),
        ("throttle:ec2@5+", Fault("throttle", None, "ec2", "*", 5, None)),
        ("latency=0.5:s3.GetObject", Fault("latency", "0.5", "s3", "GetObject", 1, None)),
        ("latency", Fault("latency", "2")),
        ("partition=away", Fault("partition", "away")),
    ],
)
def test_a_rule_reads_as_it_is_written(text: str, fault: Fault) -> None:
    """Each form of a rule gives its fault, and the fault's text gives it again."""
    assert parse_fault(text) == fault
    assert parse_fault(fault.text()) == fault


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("explode", "unknown fault kind 'explode'; kinds: refuse, hang"),
        ("hang@0", "counted from 1"),
        ("hang@5-2", "ends before it begins"),
        ("latency=fast", "takes a number"),
        ("refuse=5", "takes no value"),
        ("lost-reply:ec2.Run Instances", "is not KIND"),
    ],
)
def test_a_wrong_rule_is_refused_with_its_reason(text: str, part: str) -> None:
    """What can't be read is refused with one line that says why."""
    with pytest.raises(ValueError, match=part):
        parse_fault(text)


def test_every_kind_can_be_set_alone() -> None:
    """Every kind of the list is a rule by itself."""
    assert [parse_fault(kind).kind for kind in KINDS] == list(KINDS)


def test_calls_are_counted_a_rule() -> None:
    """The n-th matching call is hit, not the n-th call."""
    rules = Faults({})
    rules.set("error-5xx:ec2.CreateVolume@2")
    met = [
        rules.meet("ec2", name).refusal
        for name in ("CreateVolume", "DescribeVolumes", "CreateVolume", "CreateVolume")
    ]
    assert met == [None, None, "error-5xx", None]
    assert rules.rules()[0]["seen"] == 3
    assert rules.rules()[0]["hit"] == 1


def test_mutating_and_reading_are_told_apart_by_name() -> None:
    """Describe, List, Get and Head read; everything else changes something."""
    assert all(map(is_reading, ("DescribeInstances", "ListKeys", "GetObject", "HeadBucket", "TestDNSAnswer")))
    assert not any(map(is_reading, ("RunInstances", "PutObject", "CopySnapshot", "StartSnapshot")))


def test_healing_lifts_by_kind_or_all() -> None:
    """A rule is lifted by its kind, its text, its id, or with all others."""
    rules = Faults({})
    for text in ("hang:ec2.RunInstances", "throttle:ec2", "throttle:s3", "latency"):
        rules.set(text)
    assert rules.heal("throttle") == 2
    assert rules.heal("hang:ec2.RunInstances") == 1
    assert rules.heal() == 1
    assert not rules.any


def _break(pair: Pair, text: str, site: str = "home") -> None:
    with pair.clouds[site].transaction():
        pair.clouds[site].faults.set(text)


def _heal(pair: Pair, site: str = "home") -> None:
    with pair.clouds[site].transaction():
        pair.clouds[site].faults.heal()


def test_a_lost_reply_has_its_effect(pair: Pair) -> None:
    """The volume is there although the client saw the connection close; the next call is answered."""
    ec2 = pair.client()
    _break(pair, "lost-reply:ec2.CreateVolume@1")
    with pytest.raises(ConnectionClosedError):
        ec2.create_volume(AvailabilityZone="eu-south-1a", Size=1)
    assert len(ec2.describe_volumes()["Volumes"]) == 1
    ec2.create_volume(AvailabilityZone="eu-south-1a", Size=1)
    assert len(ec2.describe_volumes()["Volumes"]) == 2


@pytest.mark.parametrize(
    ("kind", "error"),
    [("refuse", EndpointConnectionError), ("reset", ConnectionClosedError), ("hang", ReadTimeoutError)],
)
def test_a_call_that_is_cut_before_has_no_effect(pair: Pair, kind: str, error: type[Exception]) -> None:
    """Refused, reset and hanging calls raise what the network would, and nothing was made."""
    ec2 = pair.client()
    _break(pair, f"{kind}:ec2.CreateVolume")
    with pytest.raises(error):
        ec2.create_volume(AvailabilityZone="eu-south-1a", Size=1)
    assert ec2.describe_volumes()["Volumes"] == []


def test_an_outage_meets_every_call(pair: Pair) -> None:
    """During an outage every service is gone, until it is healed."""
    _break(pair, "")
    assert pair.home.faults.outage == "refuse"
    for service, call in (("ec2", "describe_vpcs"), ("sts", "get_caller_identity"), ("kms", "list_keys")):
        with pytest.raises(EndpointConnectionError):
            getattr(pair.client(service), call)()
    _heal(pair)
    assert pair.client().describe_vpcs()["Vpcs"] == []


def test_errors_and_throttling_speak_the_service_s_words(pair: Pair) -> None:
    """An internal error is InternalError, a rate limit is RequestLimitExceeded or ThrottlingException."""
    _break(pair, "error-5xx:ec2.DescribeVolumes")
    _break(pair, "throttle:ec2.DescribeVpcs")
    _break(pair, "throttle:kms")
    assert code_of(lambda: pair.client().describe_volumes()) == "InternalError"
    assert code_of(lambda: pair.client().describe_vpcs()) == "RequestLimitExceeded"
    assert code_of(lambda: pair.client("kms").list_keys()) == "ThrottlingException"


def test_latency_takes_its_seconds(pair: Pair) -> None:
    """A slow call sleeps on the cloud's clock."""
    _break(pair, "latency=7:ec2.DescribeVpcs")
    before = pair.clock.monotonic()
    pair.client().describe_vpcs()
    assert pair.clock.monotonic() - before >= 7


def test_what_is_young_is_not_found_yet(pair: Pair) -> None:
    """A new volume is missing from lists and unknown by id until it is old enough."""
    ec2 = pair.client()
    _break(pair, "not-found-yet=3")
    volume = ec2.create_volume(AvailabilityZone="eu-south-1a", Size=1)["VolumeId"]
    assert ec2.describe_volumes()["Volumes"] == []
    assert code_of(lambda: ec2.describe_volumes(VolumeIds=[volume])) == "InvalidVolume.NotFound"
    assert code_of(lambda: ec2.delete_volume(VolumeId=volume)) == "InvalidVolume.NotFound"
    pair.wait(3.5)
    assert [row["VolumeId"] for row in ec2.describe_volumes()["Volumes"]] == [volume]


def test_a_stale_read_shows_the_past(pair: Pair) -> None:
    """A reading call sees the state from before; once the view is old it catches up."""
    ec2 = pair.client()
    volume = ec2.create_volume(AvailabilityZone="eu-south-1a", Size=1)["VolumeId"]
    pair.wait(2)
    _break(pair, "stale-read=5")
    assert ec2.describe_volumes()["Volumes"][0]["State"] == "available"
    ec2.delete_volume(VolumeId=volume)
    assert ec2.describe_volumes()["Volumes"][0]["State"] == "available"
    pair.wait(6)
    assert ec2.describe_volumes()["Volumes"] == []


def test_denied_calls_and_rates_are_tunable(pair: Pair) -> None:
    """A permission taken away shows in a dry run; a token bucket refuses the call above its burst."""
    ec2 = pair.client()
    pair.home.tune(denied=["ec2.CreateVpc"], rates={"ec2.DescribeVpcs": {"rate": 1, "burst": 2}})
    assert code_of(lambda: ec2.create_vpc(CidrBlock="10.0.0.0/16", DryRun=True)) == "UnauthorizedOperation"
    for _ in range(2):
        ec2.describe_vpcs()
    assert code_of(ec2.describe_vpcs) == "RequestLimitExceeded"
    pair.wait(1.2)
    ec2.describe_vpcs()


def test_the_calls_are_kept_with_their_outcome(pair: Pair) -> None:
    """Every call is listed with service, operation, parameters and outcome."""
    ec2 = pair.client()
    _break(pair, "lost-reply:*.mutating@1")
    with pytest.raises(ConnectionClosedError):
        ec2.create_vpc(CidrBlock="10.0.0.0/16")
    code_of(lambda: ec2.describe_vpcs(VpcIds=["vpc-0123456789abcdef0"]))
    outcomes = [(call["operation"], call["outcome"]) for call in pair.home.calls]
    assert outcomes == [("CreateVpc", "lost-reply"), ("DescribeVpcs", "InvalidVpcID.NotFound")]
    assert pair.home.calls[0]["params"]["CidrBlock"] == "10.0.0.0/16"


def test_a_bucket_is_read_as_it_was_written(pair: Pair) -> None:
    """S3 is strongly consistent: no fault of late sight makes an object unseen, or shows what stood there before."""
    bucket = pair.client("s3")
    bucket.create_bucket(Bucket="kept")
    bucket.put_object(Bucket="kept", Key="claim", Body=b"first")
    _break(pair, "not-found-yet=60")
    _break(pair, "stale-read=60")
    bucket.put_object(Bucket="kept", Key="claim", Body=b"second")
    assert bucket.get_object(Bucket="kept", Key="claim")["Body"].read() == b"second"
