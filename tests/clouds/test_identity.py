"""Who we are on a site, how far its clock is off, and what it can do: on real loopback servers."""

from __future__ import annotations

import threading
from urllib.parse import parse_qs

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.domain.ports import CloudError, FailureClass
from tests.grounds import (
    IDENTITY,
    REGIONS,
    Door,
    Heard,
    Script,
    answering,
    free_port,
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


# -- who, when, what -------------------------------------------------------------------------------------


def _who(heard: Heard, _: int) -> bytes:
    return response(IDENTITY) if b"GetCallerIdentity" in heard.body else REGIONS


def test_the_account_is_asked_once_and_pinned(door: Door) -> None:
    """The first call of a pinned site asks who we are; later ones do not."""
    door.account = "111122223333"
    with answering(_who) as server:
        door.url = server.url
        site = door.open()
        for _ in range(3):
            site.call("ec2", "DescribeRegions", {})
        assert site.connect().arn == "arn:aws:iam::111122223333:user/dr"
        asked = [b"GetCallerIdentity" in one.body for one in server.heard]
    assert asked == [True, False, False, False]


def test_another_account_is_refused_before_anything_else(door: Door) -> None:
    """A wrong profile can't reach EC2 at all, and a person reads both accounts."""
    door.account = "999900001111"
    with answering(_who) as server:
        door.url = server.url
        site = door.open()
        with pytest.raises(CloudError) as caught:
            site.call("ec2", "DescribeRegions", {})
        with pytest.raises(DrpilotError) as told:
            site.connect()
        assert all(b"GetCallerIdentity" in one.body for one in server.heard)
    assert (caught.value.kind, caught.value.happened) == (F.AUTH, "no")
    assert told.value.word == "wrong-account"
    assert "111122223333" in told.value.title
    assert "999900001111" in told.value.title


def test_a_dead_site_keeps_many_callers_waiting_together(door: Door) -> None:
    """The account check holds no lock: ten callers of a dead site fail after one bounded wait, not ten."""
    door.account = "111122223333"
    door.url = f"http://127.0.0.1:{free_port()}"
    site = door.open()
    failed: list[str] = []

    def look() -> None:
        try:
            site.call("ec2", "DescribeRegions", {})
        except CloudError as error:
            failed.append(error.code)

    threads = [threading.Thread(target=look) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failed == ["EndpointConnectionError"] * 10


def test_the_clock_of_the_site_is_compared_with_ours(door: Door) -> None:
    """The Date of an answer against our clock, which stands at 2026-01-01 00:00:00: forty seconds ahead."""
    with answering(_who) as server:
        door.url = server.url
        site = door.open()
        assert site.skew_s is None
        assert site.connect().skew_s == pytest.approx(40.0)


def test_the_clock_is_compared_on_refusals_too(door: Door) -> None:
    """Exactly when a signature is refused for its time, the skew must be known."""
    with answering(_always(refusal("AuthFailure", 401))) as server:
        door.url = server.url
        site = door.open()
        with pytest.raises(DrpilotError):
            site.connect()
        assert site.skew_s == pytest.approx(40.0)


@pytest.mark.parametrize(
    ("answer", "allowed"),
    [
        (refusal("DryRunOperation", 412), True),
        (refusal("UnauthorizedOperation", 403), False),
        (refusal("InvalidParameterValue"), None),
        (VOLUME, None),
    ],
)
def test_dry_run_tells_a_permission(door: Door, answer: bytes, allowed: bool | None) -> None:
    """DryRunOperation means allowed, UnauthorizedOperation denied, anything else tells nothing."""
    with answering(_always(answer)) as server:
        door.url = server.url
        assert door.open().allowed("CreateVolume", GIVEN) is allowed
        assert _form(server.heard[0])["DryRun"] == "true"


def test_dry_run_is_trusted_only_where_it_holds_back(door: Door) -> None:
    """A cloud that answers a dry run like the real call is not trusted with one."""
    done = response("<DeleteKeyPairResponse><return>true</return></DeleteKeyPairResponse>")
    for answer, trusted in ((refusal("DryRunOperation", 412), True), (done, False)):
        with answering(_always(answer)) as server:
            door.url = server.url
            assert door.open().dry_run_trusted() is trusted


def test_probing_takes_away_what_the_site_does_not_know(door: Door) -> None:
    """InvalidAction means missing; a refusal of the made-up id means present; a denial tells nothing."""

    def script(heard: Heard, _: int) -> bytes:
        text = heard.body.decode() + heard.path
        if "/snapshots/" in heard.path:
            return response('{"Message": "no such snapshot"}', 404, kind="application/json")
        if "DescribeLaunchTemplates" in text:
            return refusal("InvalidAction")
        if "ListHostedZones" in text or "hostedzone" in heard.path:
            return refusal("AccessDenied", 403)
        return refusal("DryRunOperation", 412) if "DryRun=true" in text else response("<X/>")

    with answering(script) as server:
        door.url = server.url
        site = door.open()
        found = site.probe()
    assert "ec2:CreateLaunchTemplate" in found.missing
    assert "ec2:CreateLaunchTemplate" not in site.capabilities
    assert {"ebs", "dry-run", "kms"} <= found.present
    assert "route53" in found.untold
    assert "route53" in site.capabilities
