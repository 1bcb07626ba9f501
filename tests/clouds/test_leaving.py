"""A changing request leaves a site's door only while its caller may send it; on a real loopback server."""

from __future__ import annotations

import pytest

from tests.grounds import REGIONS, Door, answering, patient, refusal, response

VOLUME = response("<CreateVolumeResponse><volumeId>vol-1</volumeId></CreateVolumeResponse>")
GIVEN = {"AvailabilityZone": "eu-west-1a", "Size": 1}


def test_a_changing_request_leaves_only_while_its_caller_may_send_it(door: Door) -> None:
    """Asked once for each changing request, tries included, behind the wait for a token, and never for a look; what
    refuses comes out of the call as it is, and nothing is sent.
    """

    class Lost(Exception):
        pass

    asked: list[int] = []
    busy = refusal("RequestLimitExceeded", status=503)
    with answering(lambda heard, number: [REGIONS, busy, VOLUME][min(number, 3) - 1]) as server:
        door.url = server.url
        door.ways = patient()
        site = door.open()
        guarded = site.guarded(lambda: asked.append(len(server.heard)))
        guarded.call("ec2", "DescribeRegions", {})
        assert asked == []
        guarded.call("ec2", "CreateVolume", GIVEN, token="t-1")
        assert asked == [1, 2]

        def lost() -> None:
            raise Lost

        with pytest.raises(Lost):
            guarded.guarded(lost).call("ec2", "CreateVolume", GIVEN, token="t-2")
        assert asked == [1, 2, 3]
        assert len(server.heard) == 3
        site.call("ec2", "CreateVolume", GIVEN, token="t-3")
        assert len(server.heard) == 4
