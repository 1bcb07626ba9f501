"""Token buckets and places, in virtual time."""

from __future__ import annotations

import threading

import pytest

from drpilot.base.clock import ManualClock
from drpilot.clouds.limits import AWS_RATES, Limits, Overloaded, Rate


def test_a_full_bucket_lets_its_capacity_through_and_then_one_each_refill() -> None:
    """RunInstances: five at once, then two a second, as EC2 documents it."""
    clock = ManualClock()
    limits = Limits(AWS_RATES, clock)
    waits = [limits.acquire("ec2", "RunInstances", {"MaxCount": 1}, changing=True) for _ in range(9)]
    assert waits[:5] == [0.0] * 5
    assert waits[5:] == pytest.approx([0.5] * 4)
    assert clock.monotonic() == pytest.approx(2.0)


def test_resources_are_counted_beside_requests() -> None:
    """Starting 1,000 instances empties the resource bucket although the request bucket is nearly full."""
    clock = ManualClock()
    limits = Limits(AWS_RATES, clock)
    assert limits.acquire("ec2", "StartInstances", {"InstanceIds": ["i"] * 1000}, changing=True) == 0.0
    assert limits.acquire(
        "ec2", "StartInstances", {"InstanceIds": ["i"] * 20}, changing=True
    ) == pytest.approx(10.0)


def test_each_operation_has_its_own_bucket() -> None:
    """An emptied bucket of one operation does not slow another."""
    limits = Limits({"ec2:changing": Rate(1, 1)}, ManualClock())
    assert limits.acquire("ec2", "CreateVpc", {}, changing=True) == 0.0
    assert limits.acquire("ec2", "CreateSubnet", {}, changing=True) == 0.0
    assert limits.acquire("ec2", "CreateVpc", {}, changing=True) == pytest.approx(1.0)


def test_unfiltered_listings_have_the_smaller_bucket() -> None:
    """DescribeInstances without filter or page size is throttled earlier by EC2, so it is here."""
    rates = {"ec2:reading": Rate(2, 1), "ec2:unfiltered": Rate(1, 1)}
    limits = Limits(rates, ManualClock())
    assert limits.acquire("ec2", "DescribeInstances", {}, changing=False) == 0.0
    assert limits.acquire("ec2", "DescribeInstances", {}, changing=False) > 0.0
    assert limits.acquire("ec2", "DescribeInstances", {"Filters": []}, changing=False) == 0.0


def test_waiting_too_long_is_refused_and_takes_nothing() -> None:
    """A wait beyond the bound raises, and the next caller finds the bucket as it was."""
    clock = ManualClock()
    limits = Limits({"ec2:changing": Rate(1, 0.1)}, clock, longest_wait_s=5.0)
    limits.acquire("ec2", "CreateVpc", {}, changing=True)
    with pytest.raises(Overloaded):
        limits.acquire("ec2", "CreateVpc", {}, changing=True)
    clock.advance(10.0)
    assert limits.acquire("ec2", "CreateVpc", {}, changing=True) == 0.0


def test_a_throttle_of_the_cloud_empties_the_bucket() -> None:
    """When others use up the account's limit we slow down at once."""
    limits = Limits({"ec2:changing": Rate(50, 5)}, ManualClock())
    limits.acquire("ec2", "CreateVpc", {}, changing=True)
    limits.throttled("ec2", "CreateVpc", {}, changing=True)
    assert limits.acquire("ec2", "CreateVpc", {}, changing=True) == pytest.approx(0.2)


def test_a_service_without_figures_is_not_slowed() -> None:
    """Where no limit is documented none is invented."""
    limits = Limits(AWS_RATES, ManualClock())
    assert [limits.acquire("sts", "GetCallerIdentity", {}, changing=False) for _ in range(500)] == [0.0] * 500


def test_tokens_are_never_given_twice_to_threads() -> None:
    """Forty callers of two threads get exactly the capacity without a wait."""
    limits = Limits({"ec2:changing": Rate(10, 1)}, ManualClock(), longest_wait_s=1e9)
    waits: list[float] = []

    def work() -> None:
        waits.extend(limits.acquire("ec2", "CreateVpc", {}, changing=True) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert waits.count(0.0) >= 10
    assert sum(waits) >= 29  # The other thirty wait a second each, less what sleeping refilled meanwhile.


def test_so_many_calls_are_in_flight_and_no_more() -> None:
    """The caller above the bound is refused when no place gets free in time."""
    limits = Limits({}, ManualClock(), longest_wait_s=0.01, in_flight=20)
    held = [limits.place("ec2", "CopySnapshot") for _ in range(20)]
    for place in held:
        place.__enter__()
    with pytest.raises(Overloaded), limits.place("ec2", "CopySnapshot"):
        pass
    held.pop().__exit__(None, None, None)
    with limits.place("ec2", "DescribeSnapshots"):
        pass
    for place in held:
        place.__exit__(None, None, None)
