"""The door against a cloud with faults: what it says about the effect, compared with the cloud itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.clouds.site import Ways
from drpilot.domain.ports import CloudError
from tests.contract.grounds import Ground, opened


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    """A lab site in this process."""
    with opened("lab-inprocess", tmp_path) as running:
        running.site.connect()
        yield running


def _break(ground: Ground, fault: str) -> None:
    with ground.cloud.transaction():
        ground.cloud.faults.set(fault)


def _volumes(ground: Ground) -> int:
    return sum(one["kind"] == "volume" for one in ground.cloud.inventory())


GIVEN = {"AvailabilityZone": "eu-south-1a", "Size": 1}


@pytest.mark.parametrize(
    ("fault", "happened", "made"),
    [
        ("refuse", "no", 0),
        ("hang:ec2.CreateVolume", "unknown", 0),
        ("reset:ec2.CreateVolume", "unknown", 0),
        ("lost-reply:ec2.CreateVolume", "unknown", 1),
        ("error-5xx:ec2.CreateVolume", "unknown", 0),
        ("throttle:ec2.CreateVolume", "no", 0),
    ],
)
def test_what_the_door_says_about_the_effect_is_never_wrong(
    ground: Ground, fault: str, happened: str, made: int
) -> None:
    """`no` only where the cloud made nothing; where it may have, the door says unknown and does not repeat."""
    _break(ground, fault)
    with pytest.raises(CloudError) as caught:
        ground.call("CreateVolume", token="t-1", **GIVEN)
    assert caught.value.happened == happened
    assert _volumes(ground) == made


@pytest.mark.parametrize("fault", ["throttle:ec2.CreateVolume@1-2", "refuse:ec2.CreateVolume@1"])
def test_what_did_not_happen_is_repeated_and_happens_once(ground: Ground, fault: str) -> None:
    """A passing throttle or refused connection is over after seconds: one volume."""
    _break(ground, fault)
    ground.call("CreateVolume", token="t-1", **GIVEN)
    assert _volumes(ground) == 1


def test_a_lost_answer_is_found_again_by_the_token(ground: Ground) -> None:
    """The journal's next attempt with the same token gets the volume of the first."""
    _break(ground, "lost-reply:ec2.CreateVolume@1")
    with pytest.raises(CloudError):
        ground.call("CreateVolume", token="t-1", **GIVEN)
    ground.call("CreateVolume", token="t-1", **GIVEN)
    assert _volumes(ground) == 1


@pytest.mark.parametrize("fault", ["reset:ec2.DescribeVolumes@1", "error-5xx:ec2.DescribeVolumes@1-2"])
def test_looking_survives_a_passing_fault(ground: Ground, fault: str) -> None:
    """What only reads is asked again."""
    _break(ground, fault)
    assert ground.call("DescribeVolumes").get("Volumes", []) == []


def test_a_dead_site_is_given_up_within_seconds(ground: Ground) -> None:
    """An outage costs two tries, on the clock of the door, and is told as unreachable."""
    _break(ground, "refuse")
    before = ground.door.ways.clock.monotonic()
    with pytest.raises(DrpilotError) as caught:
        ground.door.open().connect()
    assert caught.value.exit_code == 8
    assert ground.door.ways.clock.monotonic() - before < 10


def test_a_hanging_site_is_given_up_after_one_answer_time(ground: Ground) -> None:
    """A site that hangs is waited for once: a failover beside it must begin within 15 seconds."""
    _break(ground, "hang")
    before = ground.door.ways.clock.monotonic()
    with pytest.raises(CloudError):
        ground.call("DescribeRegions")
    assert ground.door.ways.clock.monotonic() - before < 15


def test_a_kill_between_call_and_outcome_leaves_one_volume(ground: Ground) -> None:
    """The observer ends the attempt after the effect; the same token finds it."""

    class Killed(BaseException):
        pass

    def kill(site: str, service: str, operation: str, phase: str) -> None:
        if (operation, phase) == ("CreateVolume", "after"):
            raise Killed

    door = ground.door
    calm = door.ways
    door.ways = Ways(clock=calm.clock, observer=kill)
    with pytest.raises(Killed):
        door.open().call("ec2", "CreateVolume", GIVEN, token="t-1")
    ground.call("CreateVolume", token="t-1", **GIVEN)
    assert _volumes(ground) == 1


def test_a_denied_action_is_told_with_its_name(ground: Ground) -> None:
    """A permission that is missing names site and action, by DryRun and by the call."""
    ground.cloud.tune(denied=["ec2.CreateVolume"])
    assert ground.site.allowed("CreateVolume", GIVEN) is False
    assert ground.site.allowed("CreateVpc", {"CidrBlock": "10.0.0.0/16"}) is True
    assert ground.refusal("CreateVolume", **GIVEN).code == "UnauthorizedOperation"


def test_probing_the_lab_finds_it_whole(ground: Ground) -> None:
    """The lab's AWS dialect has everything ours counts on."""
    found = ground.site.probe()
    assert found.missing == frozenset()
    assert found.untold == {}
    assert ground.site.capabilities == ground.site.dialect.capabilities
