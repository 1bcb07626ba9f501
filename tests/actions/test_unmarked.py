"""A volume whose making left no mark: what a listing tells of it, and what restoring does about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from drpilot.actions.restore import Restore
from drpilot.actions.unmarked import SETTLE, Trace, Wanted, trace
from drpilot.base.clock import ManualClock
from drpilot.domain.group import Tier
from drpilot.domain.plain import Json
from drpilot.domain.point import Replica
from drpilot.domain.ports import CloudError, Done, FailureClass, StepFailed, Unseen, Waiting

BEGUN = datetime(2026, 3, 1, 3, 0, 0, tzinfo=UTC)
WANTED = Wanted("snap-1A2B3C4D", 8, "eu-cluster-1a", BEGUN)


def _volume(id_: str = "vol-1", **more: Any) -> Json:
    return {
        "VolumeId": id_,
        "SnapshotId": "snap-1A2B3C4D",
        "Size": 8,
        "AvailabilityZone": "eu-cluster-1a",
        "State": "creating",
        "CreateTime": BEGUN + timedelta(seconds=1),
        **more,
    }


# -- the listing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "after_s", "seen"),
    [
        ([], 0, Trace("unsettled")),
        ([], 9.9, Trace("unsettled")),
        ([], 10, Trace("absent")),
        ([_volume()], 0, Trace("made", ("vol-1",))),
        ([_volume(SnapshotId="snap-1a2b3c4d", State="available")], 60, Trace("made", ("vol-1",))),
        ([_volume(CreateTime=BEGUN - timedelta(seconds=59))], 0, Trace("made", ("vol-1",))),
        ([_volume(CreateTime="2026-03-01T03:00:01Z")], 0, Trace("made", ("vol-1",))),
        ([_volume("vol-2"), _volume("vol-1")], 60, Trace("ambiguous", ("vol-1", "vol-2"))),
        ([_volume("vol-2", Size=9), _volume("vol-1")], 60, Trace("made", ("vol-1",))),
    ],
)
def test_what_a_listing_tells(listed: list[Json], after_s: float, seen: Trace) -> None:
    """One is the one, none is certain only once the listings have settled, several are nobody's guess."""
    assert trace(listed, WANTED, BEGUN + timedelta(seconds=after_s)) == seen


@pytest.mark.parametrize(
    "other",
    [
        {"SnapshotId": "snap-other"},
        {"SnapshotId": None},
        {"Size": 9},
        {"AvailabilityZone": "eu-cluster-1b"},
        {"State": "deleting"},
        {"State": "error"},
        {"Attachments": [{"InstanceId": "i-1"}]},
        {"Tags": [{"Key": "drpilot:run", "Value": "another"}]},
        {"CreateTime": BEGUN - timedelta(seconds=61)},
    ],
)
def test_what_is_not_the_one(other: Json) -> None:
    """Another snapshot, size or zone, an older volume, one in use, one that is gone, one with a tag of ours."""
    assert trace([_volume(**other)], WANTED, BEGUN + SETTLE).kind == "absent"


def test_a_tag_of_somebody_else_does_not_hide_it() -> None:
    """An administrator's rule may tag everything; only our own tags say that a volume is another step's."""
    tagged = _volume(Tags=[{"Key": "cost-center", "Value": "42"}])
    assert trace([tagged], WANTED, BEGUN).kind == "made"


# -- restoring -------------------------------------------------------------------------------------------


@dataclass
class _Old:
    """A site whose CreateVolume knows neither token nor tags, as Eucalyptus 4.4: two calls, and either may be lost."""

    name: str = "milan"
    region: str = "eucalyptus"
    account: str = "000000000001"
    capabilities: frozenset[str] = frozenset()
    clock: ManualClock = field(default_factory=lambda: ManualClock(BEGUN))
    listed: list[Json] = field(default_factory=list)
    made: int = 0
    loses: str = ""

    def call(self, service: str, operation: str, params: Json, *, token: str | None = None) -> Json:
        if operation == "CreateVolume":
            if self.loses == "request":
                raise self._lost(operation)
            self.made += 1
            given = {"SnapshotId": params["SnapshotId"], "AvailabilityZone": params["AvailabilityZone"]}
            volume = _volume(
                f"vol-{self.made}",
                Size=params["Size"],
                CreateTime=self.clock.now(),
                State="available",
                **given,
            )
            self.listed.append(volume)
            if self.loses == "reply":
                raise self._lost(operation)
            return self.call(
                "ec2",
                "CreateTags",
                {"Resources": [volume["VolumeId"]], "Tags": params["TagSpecifications"][0]["Tags"]},
            )
        assert operation == "CreateTags"
        for volume in self.listed:
            if volume["VolumeId"] in params["Resources"]:
                volume["Tags"] = params["Tags"]
        return {}

    def pages(self, service: str, operation: str, params: Json) -> Iterator[Json]:
        if operation == "DescribeInstances":
            instance = {
                "InstanceId": "i-1",
                "State": {"Name": "stopped"},
                "Placement": {"AvailabilityZone": "eu-cluster-1a"},
                "Tags": [{"Key": "drpilot:member", "Value": "db-1"}],
            }
            yield {"Reservations": [{"Instances": [instance]}]}
            return
        filters = {one["Name"]: one["Values"] for one in params["Filters"]}
        yield {"Volumes": [one for one in self.listed if _matches(one, filters)]}

    def _lost(self, operation: str) -> CloudError:
        more = {"happened": "unknown", "site": self.name, "operation": operation}
        return CloudError(FailureClass.TIMEOUT, "ReadTimeoutError", "no answer", **more)  # type: ignore[arg-type]


def _matches(volume: Json, filters: dict[str, list[str]]) -> bool:
    tags = {tag["Key"]: tag["Value"] for tag in volume.get("Tags") or []}
    for name, values in filters.items():
        have = volume["SnapshotId"] if name == "snapshot-id" else tags.get(name.removeprefix("tag:"))
        if have not in values:
            return False
    return True


def _context(site: _Old) -> Any:
    tags = {"drpilot:group": "shop", "drpilot:run": "r", "drpilot:step": "s", "drpilot:attempt": "a" * 32}
    facts = {"instance": "db-1", "type": "standard"}
    replica = Replica("db-1/dev/sdf", "snapshot", "milan", "snap-src", WANTED.snapshot, "db", 8, facts)
    instance = SimpleNamespace(key="db-1", id="i-1")
    tier = Tier("db", instances=(instance,))  # type: ignore[arg-type]
    return SimpleNamespace(
        site=lambda role: site,
        source="ireland",
        target="milan",
        clock=site.clock,
        intended_at=BEGUN,
        group=SimpleNamespace(name="shop", tier=lambda name: tier),
        point=lambda point: SimpleNamespace(replicas=(replica,)),
        fenced=lambda name: "fenced",
        tags=lambda **extra: tags | {f"drpilot:{key}": value for key, value in extra.items()},
        sub=lambda key: "t" * 32,
    )


GIVEN = Restore.Input(tier="db", point="p")


def test_a_lost_reply_makes_no_second_volume() -> None:
    """The volume stands untagged: looking says it is not as wanted, and doing it again tags that very volume."""
    site = _Old(loses="reply")
    ctx, action = _context(site), Restore()
    with pytest.raises(CloudError):
        action.start(ctx, GIVEN)
    site.loses = ""
    assert action.observe(ctx, GIVEN) == Unseen(True, "no volume for db-1/dev/sdf with this step's tags")
    done = action.start(ctx, GIVEN)
    assert isinstance(done, Done)
    assert done.output.volumes == {"db-1/dev/sdf": "vol-1"}
    assert site.made == 1


def test_a_request_that_got_lost_is_sent_again_once_that_is_certain() -> None:
    """Before the listings have settled nobody may say that nothing happened; afterwards it is made, once."""
    site = _Old(loses="request")
    ctx, action = _context(site), Restore()
    with pytest.raises(CloudError):
        action.start(ctx, GIVEN)
    site.loses = ""
    with pytest.raises(CloudError) as caught:
        action.observe(ctx, GIVEN)
    assert (caught.value.code, caught.value.kind) == ("NotSettled", FailureClass.TRANSIENT)
    site.clock.sleep(SETTLE.total_seconds())
    assert isinstance(action.observe(ctx, GIVEN), Unseen)
    assert isinstance(action.start(ctx, GIVEN), Done)
    assert site.made == 1


def test_volumes_that_can_not_be_told_apart_are_a_person_s() -> None:
    """Two untagged volumes of the same snapshot: nothing is made, both are named."""
    site = _Old(listed=[_volume("vol-8"), _volume("vol-9")])
    ctx = _context(site)
    for look in (Restore().start, Restore().observe):
        with pytest.raises(StepFailed, match="vol-8, vol-9") as caught:
            look(ctx, GIVEN)
        assert caught.value.kind is FailureClass.CONFLICT
    assert site.made == 0


def test_a_cloud_with_the_token_is_not_asked_for_traces() -> None:
    """Where CreateVolume knows its token a volume without tags is somebody else's."""
    site = _Old(capabilities=frozenset({"ec2:CreateVolume:token"}), listed=[_volume("vol-9")])
    answer = Restore().start(_context(site), GIVEN)
    assert isinstance(answer, Done | Waiting)
    assert site.made == 1
