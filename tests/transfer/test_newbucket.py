"""Buckets made by two runs at once, and what a new one is made with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from drpilot.base.clock import Chance, ManualClock
from drpilot.base.errors import DrpilotError
from drpilot.domain.ports import CloudError, FailureClass, Site
from drpilot.transfer.newbucket import bucket_stands, prepare
from drpilot.transfer.pace import Pace
from drpilot.transfer.parts import PartsSink, PartsSource
from drpilot.transfer.shelf import BucketShelf
from tests.transfer.dock import Dock, Docked, docked, running


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docked]:
    """The stores."""
    with running(tmp_path_factory.mktemp("docked")) as found:
        yield {name: found[name] for name in ("aws", "old")}


@pytest.fixture
def dock(sites: Docked, tmp_path: Path) -> Iterator[Dock]:
    """The stores, empty and without faults."""
    for world, _, _ in sites.values():
        world.reset()
    with docked(tmp_path, sites) as made:
        yield made


class Raced:
    """A site on which something happens just before each CreateBucket of ours."""

    def __init__(self, site: Any, before: Callable[[int], None]) -> None:
        self._site, self._before, self.tries = site, before, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._site, name)

    def call(self, service: str, operation: str, params: dict[str, Any], **more: Any) -> dict[str, Any]:
        if operation == "CreateBucket":
            self.tries += 1
            self._before(self.tries)
        return dict(self._site.call(service, operation, params, **more))


def refused(code: str) -> CloudError:
    """What S3 answers to one of two who make the same bucket."""
    return CloudError(
        FailureClass.CONFLICT, code, "409", happened="no", site="aws", operation="s3:CreateBucket"
    )


@pytest.mark.parametrize("name", ["aws", "old"])
def test_a_bucket_that_another_run_makes_meanwhile_is_as_wanted(dock: Dock, name: str) -> None:
    """Not there at the look, there at the creation: we have it, and say that we did not make it."""
    door = dock.sites[name]
    site = Raced(door, lambda tries: None if tries > 1 else made(door))

    def made(inner: Any) -> None:
        prepare(inner, "raced", create=True)

    assert prepare(cast("Site", site), "raced", create=True) is False
    assert site.tries == 1
    assert bucket_stands(door, "raced")


def test_a_creation_that_is_under_way_is_waited_for(dock: Dock) -> None:
    """OperationAborted says that somebody is at it: looked at again, tried again, and bounded."""
    clock, door = ManualClock(), dock.sites["aws"]

    def busy(tries: int) -> None:
        if tries < 3:
            raise refused("OperationAborted")

    site = Raced(door, busy)
    assert prepare(cast("Site", site), "busy", create=True, clock=clock) is True
    assert (site.tries, bucket_stands(door, "busy")) == (3, True)

    def always(tries: int) -> None:
        raise refused("OperationAborted")

    site = Raced(door, always)
    with pytest.raises(CloudError, match="OperationAborted"):
        prepare(cast("Site", site), "never", create=True, clock=clock)
    assert site.tries == 6
    assert not bucket_stands(door, "never")


def test_a_name_that_somebody_else_has_is_refused_at_once(dock: Dock) -> None:
    """BucketAlreadyExists and still not there for us: the store's own error, after one try."""

    def others(tries: int) -> None:
        raise refused("BucketAlreadyExists")

    site = Raced(dock.sites["aws"], others)
    with pytest.raises(CloudError, match="BucketAlreadyExists"):
        prepare(cast("Site", site), "theirs", create=True, clock=ManualClock())
    assert site.tries == 1


def test_only_a_bucket_for_acls_is_made_to_take_them(dock: Dock) -> None:
    """On AWS a sync's bucket keeps the default (no ACLs), one for bundles does not; 3.4 is asked for neither."""
    dock.forget_calls()
    ours = dock.bucket("aws", {"a": b"1"})
    dock.forget_calls()
    dock.sync(ours, "s3://for-sync@aws", create=True)
    for name in ("aws", "old"):
        assert prepare(dock.sites[name], "for-bundles", create=True, acls=True)
    made = {
        (site, call["params"]["Bucket"]): call["params"].get("ObjectOwnership")
        for site in ("aws", "old")
        for call in dock.control(site, "calls", operation="CreateBucket")["calls"]
    }
    assert made == {
        ("aws", "for-sync"): None,
        ("aws", "for-bundles"): "ObjectWriter",
        ("old", "for-bundles"): None,
    }


def test_a_bucket_nobody_asked_to_make_is_missing(dock: Dock) -> None:
    """A misspelt name makes none."""
    with pytest.raises(DrpilotError) as caught:
        prepare(dock.sites["aws"], "misspelt", create=False)
    assert caught.value.word == "bucket-missing"
    assert not bucket_stands(dock.sites["aws"], "misspelt")


def test_a_place_without_a_bucket_is_told_from_one_without_a_copy(dock: Dock) -> None:
    """Blocks from or to a misspelt bucket: the store's own word, before anything is read or written."""
    bucket, door = dock.reach(dock.bucket("aws"))
    pace = Pace(ManualClock(), Chance(1))
    misspelt = BucketShelf(door, "misspelt", "below", pace, needs_bucket=True)
    with pytest.raises(CloudError, match="NoSuchBucket"):
        PartsSource(misspelt)
    with pytest.raises(CloudError, match="NoSuchBucket"):
        PartsSink(misspelt).held()
    there = BucketShelf(door, bucket, "below", pace, needs_bucket=True)
    with pytest.raises(DrpilotError) as caught:
        PartsSource(there)
    assert (caught.value.word, PartsSink(there).held()) == ("no-parts", None)
    assert BucketShelf(door, "misspelt", "below", pace).get("blocks.map") is None
