"""The door to a site on real loopback servers: what goes out, what comes back, what got lost."""

from __future__ import annotations

import base64
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from drpilot.base.clock import ManualClock, RealClock
from drpilot.clouds.dialect import AWS
from drpilot.clouds.dryrun import DryRunSite
from drpilot.clouds.session import Clients
from drpilot.clouds.site import BotoSite, Ways
from drpilot.domain.ports import CloudError, FailureClass
from tests.grounds import (
    REGIONS,
    Door,
    Heard,
    Script,
    answering,
    free_port,
    patient,
    refusal,
    response,
)

F = FailureClass
VOLUME = response("<CreateVolumeResponse><volumeId>vol-1</volumeId></CreateVolumeResponse>")
GIVEN = {"AvailabilityZone": "eu-west-1a", "Size": 1}


def _form(heard: Heard) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(heard.body.decode()).items()}


def _always(answer: bytes | str) -> Script:
    return lambda heard, number: answer


def _in_turn(*answers: bytes | str) -> Script:
    return lambda heard, number: answers[min(number, len(answers)) - 1]


def _fails(door: Door, operation: str = "CreateVolume") -> CloudError:
    given = GIVEN if operation == "CreateVolume" else {}
    with pytest.raises(CloudError) as caught:
        door.open().call("ec2", operation, dict(given))
    return caught.value


# -- what goes out ---------------------------------------------------------------------------------------


def test_the_token_goes_out_as_client_token_and_only_where_asked(door: Door) -> None:
    """Our token is the ClientToken; without one nothing is filled in, and no operation gets one it does not
    take.
    """
    with answering(_always(VOLUME)) as server:
        door.url = server.url
        site = door.open()
        site.call("ec2", "CreateVolume", GIVEN, token="t-1")
        site.call("ec2", "CreateVolume", GIVEN)
        site.call("ec2", "CreateSnapshot", {"VolumeId": "vol-1"}, token="t-2")
        site.call("ec2", "ImportSnapshot", {}, token="t-3")
    tokens = [_form(one).get("ClientToken") for one in server.heard]
    assert tokens == ["t-1", None, None, "t-3"]


def test_the_token_of_ebs_direct_goes_out_too(door: Door) -> None:
    """StartSnapshot carries the token in its JSON body."""
    with answering(_always(response("{}", 201, kind="application/json"))) as server:
        door.url = server.url
        door.open().call("ebs", "StartSnapshot", {"VolumeSize": 1}, token="t-9")
    assert b'"ClientToken": "t-9"' in server.heard[0].body


def test_user_data_is_base64_on_both_sides(door: Door) -> None:
    """What the API calls base64 is passed as it is; encoding it twice would break every standby's boot."""
    encoded = base64.b64encode(b"#!/bin/sh\n").decode()
    with answering(_always(response("<RunInstancesResponse/>"))) as server:
        door.url = server.url
        door.open().call("ec2", "RunInstances", {"MinCount": 1, "MaxCount": 1, "UserData": encoded})
    assert _form(server.heard[0])["UserData"] == encoded


def test_parameters_of_the_caller_are_not_changed(door: Door) -> None:
    """The mapping handed in is still the caller's afterwards."""
    with answering(_always(VOLUME)) as server:
        door.url = server.url
        given = dict(GIVEN)
        door.open().call("ec2", "CreateVolume", given, token="t-1")
    assert given == GIVEN


def test_the_reply_is_the_clouds_and_nothing_else(door: Door) -> None:
    """No metadata of the SDK leaks into what actions see."""
    with answering(_always(VOLUME)) as server:
        door.url = server.url
        assert door.open().call("ec2", "CreateVolume", GIVEN) == {"VolumeId": "vol-1"}


# -- failures on the wire --------------------------------------------------------------------------------


def test_a_refused_connection_did_not_happen(door: Door) -> None:
    """Nobody listens: the call never left, and after a second try the site counts as unreachable."""
    door.url = f"http://127.0.0.1:{free_port()}"
    error = _fails(door)
    assert (error.code, error.happened, error.kind) == ("EndpointConnectionError", "no", F.TRANSIENT)


@pytest.mark.parametrize(("operation", "happened"), [("CreateVolume", "unknown"), ("DescribeRegions", "no")])
def test_an_answer_that_never_comes_is_waited_for_once(door: Door, operation: str, happened: str) -> None:
    """A call that times out is not repeated here: a changing one may have happened."""
    door.ways, door.read_timeout_s = patient(), 0.3
    with answering(_always("hang")) as server:
        door.url = server.url
        error = _fails(door, operation)
        heard = len(server.heard)
    assert (error.code, error.happened, error.kind, heard) == ("ReadTimeoutError", happened, F.TIMEOUT, 1)


@pytest.mark.parametrize("how", ["reset", "cut"])
def test_a_connection_lost_after_sending_leaves_the_outcome_unknown(door: Door, how: str) -> None:
    """The request was read and the connection ended: a changing call is sent exactly once."""
    with answering(_always(how)) as server:
        door.url = server.url
        error = _fails(door)
        heard = len(server.heard)
    assert (error.happened, heard) == ("unknown", 1)


@pytest.mark.parametrize("how", ["reset", "cut"])
def test_a_reading_call_is_repeated_after_a_lost_connection(door: Door, how: str) -> None:
    """What only reads is asked again, and the second answer counts."""
    with answering(_in_turn(how, REGIONS)) as server:
        door.url = server.url
        door.open().call("ec2", "DescribeRegions", {})
        assert len(server.heard) == 2


def test_an_answer_cut_in_the_middle_is_no_success(door: Door) -> None:
    """A body shorter than its Content-Length is a lost reply, even when nothing of it arrived."""
    with answering(_always(response("", 200, length=500))) as server:
        door.url = server.url
        error = _fails(door)
        assert len(server.heard) == 1
    assert (error.code, error.happened) == ("TruncatedReply", "unknown")


def test_an_answer_nobody_can_read_leaves_the_outcome_unknown(door: Door) -> None:
    """An HTML page with status 500, as a proxy or a simulator gives it, tells nothing about the effect."""
    with answering(_always(response("<html><body>sorry<br></body>", 500, kind="text/html"))) as server:
        door.url = server.url
        error = _fails(door)
        assert len(server.heard) == 1
    assert error.happened == "unknown"


def test_a_server_error_of_a_changing_call_is_not_repeated_here(door: Door) -> None:
    """A 500 may have happened: the journal looks before anybody repeats."""
    with answering(_always(refusal("InternalError", 500))) as server:
        door.url = server.url
        error = _fails(door)
        assert len(server.heard) == 1
    assert (error.code, error.happened, error.kind, error.request_id) == (
        "InternalError",
        "unknown",
        F.TRANSIENT,
        "req-1",
    )


def test_a_throttled_changing_call_is_repeated_with_the_same_token(door: Door) -> None:
    """A throttle did not happen; within seconds the same call goes out with the same token."""
    with answering(_in_turn(refusal("RequestLimitExceeded", 503), refusal("Throttling"), VOLUME)) as server:
        door.url = server.url
        door.open().call("ec2", "CreateVolume", GIVEN, token="t-1")
        assert [_form(one)["ClientToken"] for one in server.heard] == ["t-1"] * 3


def test_patience_ends(door: Door) -> None:
    """A site that throttles for ever is given up after the bound, and virtual time shows the bound."""
    clock = ManualClock()
    door.ways = Ways(clock=clock)
    with answering(_always(refusal("RequestLimitExceeded", 503))) as server:
        door.url = server.url
        error = _fails(door)
        assert len(server.heard) == 4
    assert (error.kind, error.happened) == (F.THROTTLED, "no")
    assert 0 < clock.monotonic() < 30


def test_a_definite_refusal_is_not_repeated(door: Door) -> None:
    """A wrong parameter stays wrong."""
    with answering(_always(refusal("InvalidParameterValue"))) as server:
        door.url = server.url
        error = _fails(door)
        assert len(server.heard) == 1
    assert (error.kind, error.message, error.operation) == (F.INVALID, "no", "ec2:CreateVolume")


def test_a_parameter_the_model_does_not_know_is_refused_here(door: Door) -> None:
    """Nothing is sent for a call that could not be right."""
    with answering(_always(VOLUME)) as server:
        door.url = server.url
        with pytest.raises(CloudError) as caught:
            door.open().call("ec2", "CreateVolume", {"Colour": "red"})
        assert server.heard == []
    assert (caught.value.kind, caught.value.happened) == (F.INVALID, "no")


@pytest.mark.parametrize(("service", "operation"), [("ec2", "CreateEverything"), ("nothing", "List")])
def test_an_operation_or_service_that_is_none_is_a_cloud_error(
    door: Door, service: str, operation: str
) -> None:
    """A misspelt call fails like a refused one, never as a traceback of the SDK."""
    with pytest.raises(CloudError) as caught:
        door.open().call(service, operation, {})
    assert caught.value.happened == "no"


def test_a_certificate_nobody_vouches_for_ends_the_call_unsent(door: Door, tmp_path: Path) -> None:
    """A self-signed endpoint is refused before anything is sent; its bundle makes it good, and so does
    not looking at all.
    """
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    with answering(_always(VOLUME), tls=(certificate, key)) as server:
        door.url = server.url
        error = _fails(door)
        assert (error.code, error.happened, server.heard) == ("SSLError", "no", [])
        for trusted in ({"ca_bundle": str(certificate)}, {"verify": False}):
            clients = Clients(replace(door.settings(), **trusted), environment={})
            assert BotoSite(clients, door.ways).call("ec2", "CreateVolume", GIVEN) == {"VolumeId": "vol-1"}


# -- streams ---------------------------------------------------------------------------------------------


def test_a_block_comes_back_as_bytes(door: Door) -> None:
    """EBS direct's stream is read to its end inside the call."""
    block = bytes(range(256)) * 2048
    with answering(_always(response(block, kind="application/octet-stream"))) as server:
        door.url = server.url
        given = {"SnapshotId": "snap-1", "BlockIndex": 0, "BlockToken": "t"}
        assert door.open().call("ebs", "GetSnapshotBlock", given)["BlockData"] == block


def test_a_block_cut_in_the_middle_is_fetched_again(door: Door) -> None:
    """Half a block is no block; reading it again is safe."""
    block = b"x" * 1000
    with answering(_in_turn(response(block[:500], length=1000), response(block))) as server:
        door.url = server.url
        given = {"SnapshotId": "snap-1", "BlockIndex": 0, "BlockToken": "t"}
        assert door.open().call("ebs", "GetSnapshotBlock", given)["BlockData"] == block
        assert len(server.heard) == 2


# -- pages -----------------------------------------------------------------------------------------------


def _page(ids: str, token: str | None) -> bytes:
    rows = "".join(f"<item><volumeId>{one}</volumeId></item>" for one in ids)
    more = f"<nextToken>{token}</nextToken>" if token else ""
    return response(f"<DescribeVolumesResponse><volumeSet>{rows}</volumeSet>{more}</DescribeVolumesResponse>")


def test_pages_follow_tokens_through_an_empty_page(door: Door) -> None:
    """An empty page with a token is no end (EBS direct and EC2 both send it), and each page asks with the
    last token.
    """
    with answering(_in_turn(_page("ab", "1"), _page("", "2"), _page("c", None))) as server:
        door.url = server.url
        pages = list(door.open().pages("ec2", "DescribeVolumes", {}))
        forms = [_form(one) for one in server.heard]
    assert [len(page.get("Volumes", [])) for page in pages] == [2, 0, 1]
    assert [form.get("NextToken") for form in forms] == [None, "1", "2"]
    assert {form["MaxResults"] for form in forms} == {"500"}


def test_a_site_that_gives_the_same_page_for_ever_is_found_out(door: Door) -> None:
    """A repeated token would loop without end."""
    with answering(_always(_page("a", "same"))) as server:
        door.url = server.url
        with pytest.raises(CloudError) as caught:
            list(door.open().pages("ec2", "DescribeVolumes", {}))
    assert caught.value.code == "RepeatedPageToken"


def test_no_page_size_is_asked_for_beside_ids(door: Door) -> None:
    """EC2 refuses MaxResults together with ids."""
    with answering(_always(_page("a", None))) as server:
        door.url = server.url
        list(door.open().pages("ec2", "DescribeVolumes", {"VolumeIds": ["vol-1"]}))
    assert "MaxResults" not in _form(server.heard[0])


def test_a_page_that_is_throttled_is_asked_for_again(door: Door) -> None:
    """Each page has the retries of a call of its own."""
    answers = _in_turn(_page("a", "1"), refusal("RequestLimitExceeded", 503), _page("b", None))
    with answering(answers) as server:
        door.url = server.url
        assert len(list(door.open().pages("ec2", "DescribeVolumes", {}))) == 2
        assert [_form(one).get("NextToken") for one in server.heard] == [None, "1", "1"]


def test_listings_without_a_description_are_paged_by_their_tokens(door: Door) -> None:
    """No pages are described for ListSnapshotBlocks; its NextToken is followed all the same."""
    first = response(
        '{"Blocks": [{"BlockIndex": 0, "BlockToken": "a"}], "NextToken": "n"}', kind="application/json"
    )
    last = response('{"Blocks": [{"BlockIndex": 1, "BlockToken": "b"}]}', kind="application/json")
    with answering(_in_turn(first, last)) as server:
        door.url = server.url
        pages = list(door.open().pages("ebs", "ListSnapshotBlocks", {"SnapshotId": "snap-1"}))
    assert [block["BlockIndex"] for page in pages for block in page["Blocks"]] == [0, 1]
    assert "pageToken=n" in server.heard[1].path


def test_record_sets_are_paged_by_three_names(door: Door) -> None:
    """Route 53 continues at a name, a type and an identifier, and says itself whether there is more."""
    row = "<ResourceRecordSet><Name>a.</Name><Type>A</Type></ResourceRecordSet>"
    head = f"<ListResourceRecordSetsResponse><ResourceRecordSets>{row}</ResourceRecordSets>"
    more = (
        "<IsTruncated>true</IsTruncated><NextRecordName>b.</NextRecordName><NextRecordType>A</NextRecordType>"
    )
    first = response(f"{head}{more}<MaxItems>1</MaxItems></ListResourceRecordSetsResponse>")
    last = response(
        f"{head}<IsTruncated>false</IsTruncated><MaxItems>1</MaxItems></ListResourceRecordSetsResponse>"
    )
    with answering(_in_turn(first, last)) as server:
        door.url = server.url
        assert len(list(door.open().pages("route53", "ListResourceRecordSets", {"HostedZoneId": "Z1"}))) == 2
    assert "name=b." in server.heard[1].path
    assert "type=A" in server.heard[1].path
    assert "identifier" not in server.heard[1].path


# -- observers and dry runs ------------------------------------------------------------------------------


def test_an_observer_sees_each_call_before_and_after(door: Door) -> None:
    """Tests can stop the process between the call and its outcome."""
    seen: list[tuple[str, str, str, str]] = []
    door.ways = Ways(clock=ManualClock(), observer=lambda *what: seen.append(what))
    with answering(_in_turn(VOLUME, refusal("InvalidParameterValue"))) as server:
        door.url = server.url
        site = door.open()
        site.call("ec2", "CreateVolume", GIVEN)
        with pytest.raises(CloudError):
            site.call("ec2", "CreateVolume", GIVEN)
    assert [(one[2], one[3]) for one in seen] == [
        ("CreateVolume", "before"),
        ("CreateVolume", "after"),
        ("CreateVolume", "before"),
        ("CreateVolume", "failed"),
    ]


def test_a_kill_after_the_call_gets_through(door: Door) -> None:
    """What an observer raises to end the process is not taken for a failure of the cloud."""

    class Killed(BaseException):
        pass

    def kill(site: str, service: str, operation: str, phase: str) -> None:
        if phase == "after":
            raise Killed

    door.ways = Ways(clock=ManualClock(), observer=kill)
    with answering(_always(VOLUME)) as server:
        door.url = server.url
        with pytest.raises(Killed):
            door.open().call("ec2", "CreateVolume", GIVEN)
        assert len(server.heard) == 1


def test_a_dry_run_lets_nothing_change_and_everything_be_read(door: Door) -> None:
    """A changing call never leaves and is recorded with its token; reading goes through."""
    with answering(_always(REGIONS)) as server:
        door.url = server.url
        dry = DryRunSite(door.open())
        dry.call("ec2", "DescribeRegions", {})
        list(dry.pages("ec2", "DescribeVolumes", {}))
        with pytest.raises(CloudError) as caught:
            dry.call("ec2", "CreateVolume", GIVEN, token="t-1")
        with pytest.raises(CloudError):
            list(dry.pages("ec2", "TerminateInstances", {"InstanceIds": ["i-1"]}))
        assert len(server.heard) == 2
    assert (caught.value.kind, caught.value.code, caught.value.happened) == (F.REJECTED, "DryRun", "no")
    assert [(one.operation, one.token) for one in dry.refused] == [
        ("CreateVolume", "t-1"),
        ("TerminateInstances", None),
    ]


def test_many_threads_share_one_site(door: Door) -> None:
    """Sixteen threads call through one site at once; each gets its own answer."""

    def script(heard: Heard, _: int) -> bytes:
        token = _form(heard)["ClientToken"]
        return response(f"<CreateVolumeResponse><volumeId>{token}</volumeId></CreateVolumeResponse>")

    door.ways = Ways(clock=RealClock())
    found: dict[str, str] = {}
    with answering(script) as server:
        door.url = server.url
        site = door.open()

        def work(name: str) -> None:
            found[name] = site.call("ec2", "CreateVolume", GIVEN, token=name)["VolumeId"]

        threads = [threading.Thread(target=work, args=(f"t-{number}",)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert found == {name: name for name in (f"t-{number}" for number in range(16))}


def test_the_door_waits_for_the_request_rate(door: Door) -> None:
    """The sixth RunInstances in a row waits half a second on our clock instead of being throttled."""
    clock = ManualClock()
    door.ways = Ways(clock=clock)
    with answering(_always(response("<RunInstancesResponse/>"))) as server:
        door.url = server.url
        site = door.open()
        for _ in range(6):
            site.call("ec2", "RunInstances", {"MinCount": 1, "MaxCount": 1})
    assert clock.monotonic() == pytest.approx(0.5)


def test_settling_time_comes_from_the_dialect(door: Door) -> None:
    """Actions ask the site how long a fresh resource may stay invisible."""
    assert door.open().settle_s == AWS.settle_s > 0


# -- URLs ------------------------------------------------------------------------------------------------


def test_a_url_has_the_signature_and_the_host_of_the_site(door: Door) -> None:
    """On AWS a URL has version 4 and the region's host, where botocore alone gives version 2 and the global one."""
    settings = replace(door.settings(), endpoints={})
    site = BotoSite(Clients(settings, environment={}), door.ways)
    url = urlsplit(site.presigned("s3:PutObject", {"Bucket": "stage", "Key": "a/1"}, 600))
    given = parse_qs(url.query)
    assert (url.netloc, url.path) == ("stage.s3.eu-west-1.amazonaws.com", "/a/1")
    assert given["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert (given["X-Amz-Expires"], given["X-Amz-SignedHeaders"]) == (["600"], ["host"])


@pytest.mark.parametrize(
    ("operation", "expires_s"), [("s3:ListObjects", 60), ("ec2:RunInstances", 60), ("s3:GetObject", 0),
                                 ("s3:GetObject", 604_801)]
)  # fmt: skip
def test_a_url_is_for_one_object_and_a_week(door: Door, operation: str, expires_s: int) -> None:
    """Anything wider, or longer than a signature may last, is refused before it is made."""
    with pytest.raises(CloudError) as caught:
        door.open().presigned(operation, {"Bucket": "stage", "Key": "a"}, expires_s)
    assert (caught.value.code, caught.value.kind) == ("NotPresigned", F.INVALID)


def test_a_dry_run_gives_no_url_that_writes(door: Door) -> None:
    """A URL to write would outlive the dry run; one to read is given."""
    site = DryRunSite(door.open())
    given = {"Bucket": "stage", "Key": "a"}
    assert site.presigned("s3:GetObject", given, 60).startswith("http://")
    with pytest.raises(CloudError) as caught:
        site.presigned("s3:PutObject", given, 60)
    assert (caught.value.code, len(site.refused)) == ("DryRun", 1)
