"""Request limits of a cloud, kept on our side: token buckets a site and operation, and a bound of calls in flight.

Asking slower than the cloud allows is quicker than being throttled: a refused request costs a round trip and
EC2 counts it too. Figures are the documented ones of one account and region (Amazon EC2 API reference,
"Request throttling for the Amazon EC2 API"; EBS direct APIs quotas; Route 53 quotas: five requests a second
an account).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from drpilot.base.clock import Clock
from drpilot.domain.plain import Json
from drpilot.domain.plan import Slot

__all__ = ["AWS_RATES", "AWS_SLOTS", "Limits", "Overloaded", "Rate"]


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: `capacity` tokens, refilled by `refill` a second. `resources` names the parameter whose
    length or number is taken from a second bucket of that many resources.
    """

    capacity: float
    refill: float
    resources: str | None = None
    resource_capacity: float = 1000.0
    resource_refill: float = 2.0


AWS_RATES: Mapping[str, Rate] = {
    "ec2:RunInstances": Rate(5, 2, "MaxCount"),
    "ec2:StartInstances": Rate(5, 2, "InstanceIds"),
    "ec2:StopInstances": Rate(50, 5, "InstanceIds", resource_refill=20),
    "ec2:TerminateInstances": Rate(100, 5, "InstanceIds", resource_refill=20),
    "ec2:CopyImage": Rate(100, 1),
    "ec2:CreateSnapshot": Rate(100, 5),
    "ec2:CreateSnapshots": Rate(100, 5),
    "ec2:CreateVolume": Rate(100, 5),
    "ec2:DeleteSnapshot": Rate(100, 5),
    "ec2:DeregisterImage": Rate(100, 5),
    "ec2:CreateNetworkInterface": Rate(100, 5),
    "ec2:ModifyNetworkInterfaceAttribute": Rate(100, 5),
    "ec2:CreateLaunchTemplateVersion": Rate(100, 5),
    "ec2:CreateTags": Rate(100, 10),
    "ec2:CreateStoreImageTask": Rate(50, 0.1),
    "ec2:CreateRestoreImageTask": Rate(50, 0.1),
    "ec2:changing": Rate(50, 5),
    "ec2:reading": Rate(100, 20),
    "ec2:unfiltered": Rate(50, 10),
    "ebs:GetSnapshotBlock": Rate(1000, 1000),
    "ebs:PutSnapshotBlock": Rate(1000, 1000),
    "ebs:ListSnapshotBlocks": Rate(50, 50),
    "ebs:ListChangedBlocks": Rate(50, 50),
    "ebs:StartSnapshot": Rate(10, 10),
    "ebs:CompleteSnapshot": Rate(10, 10),
    "route53:changing": Rate(5, 5),
    "route53:reading": Rate(5, 5),
}
"""`service:Operation`, else `service:changing` or `service:reading` for each other operation on its own."""

AWS_SLOTS: Mapping[Slot, int] = {"copy-snapshot": 20}
"""Copies of snapshots that one destination region works on at a time (Amazon EBS quotas, concurrent snapshot copies);
those of CopyImage are among them. A copy goes on for hours after its call was answered, so the engine counts them.
"""

# Describe calls that are cheap only when filtered or paged (EC2, "unfiltered and unpaginated non-mutating").
_HEAVY = frozenset(
    {
        "DescribeInstances",
        "DescribeInstanceStatus",
        "DescribeNetworkInterfaces",
        "DescribeSecurityGroups",
        "DescribeSnapshots",
        "DescribeSpotInstanceRequests",
        "DescribeVolumes",
    }
)


class Overloaded(Exception):
    """The wait for a token or a place would be too long; nothing was sent. `wait_s` says how long."""

    def __init__(self, what: str, wait_s: float) -> None:
        super().__init__(f"{what}: the next free place is {wait_s:.1f} s away")
        self.what = what
        self.wait_s = wait_s


class _Bucket:
    def __init__(self, capacity: float, refill: float, now: float) -> None:
        self.capacity, self.refill = capacity, refill
        self.level, self.since = capacity, now

    def wait_s(self, cost: float, now: float) -> float:
        """Seconds until `cost` tokens are there; a cost above the capacity waits for a full bucket and
        overdraws.
        """
        self.level = min(self.capacity, self.level + (now - self.since) * self.refill)
        self.since = now
        return max(0.0, (min(cost, self.capacity) - self.level) / self.refill)


class Limits:
    """The limits of one site; shared by all threads. Waiting is on `clock`, at most `longest_wait_s`."""

    def __init__(
        self,
        rates: Mapping[str, Rate],
        clock: Clock,
        *,
        longest_wait_s: float = 60.0,
        in_flight: int = 32,
    ) -> None:
        self._rates = rates
        self._clock = clock
        self._longest_wait_s = longest_wait_s
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}
        self._door = threading.BoundedSemaphore(in_flight)

    def acquire(self, service: str, operation: str, params: Json, *, changing: bool) -> float:
        """Take the tokens of one call, sleeping until they are there; gives the seconds slept.

        Raises Overloaded, without taking anything, when that would be longer than `longest_wait_s`.
        """
        needed = self._needed(service, operation, params, changing)
        if not needed:
            return 0.0
        with self._lock:
            now = self._clock.monotonic()
            buckets = [(self._bucket(name, rate, now), cost) for name, rate, cost in needed]
            wait_s = max(bucket.wait_s(cost, now) for bucket, cost in buckets)
            if wait_s > self._longest_wait_s:
                raise Overloaded(f"{service}:{operation}", wait_s)
            for bucket, cost in buckets:
                bucket.level -= cost  # A reservation: the level may go below zero, later callers wait longer.
        if wait_s > 0:
            self._clock.sleep(wait_s)
        return wait_s

    @contextmanager
    def place(self, service: str, operation: str) -> Iterator[None]:
        """Hold one of the bounded places of a call in flight; raises Overloaded when none gets free."""
        if not self._door.acquire(timeout=self._longest_wait_s):
            raise Overloaded(f"{service}:{operation}", self._longest_wait_s)
        try:
            yield
        finally:
            self._door.release()

    def throttled(self, service: str, operation: str, params: Json, *, changing: bool) -> None:
        """The cloud refused for its rate: somebody else uses the same limits, so our bucket is empty now."""
        with self._lock:
            now = self._clock.monotonic()
            for name, rate, _ in self._needed(service, operation, params, changing)[:1]:
                bucket = self._bucket(name, rate, now)
                bucket.wait_s(0.0, now)
                bucket.level = min(bucket.level, 0.0)

    def _needed(
        self, service: str, operation: str, params: Json, changing: bool
    ) -> list[tuple[str, tuple[float, float], float]]:
        name = f"{service}:{operation}"
        rate = self._rates.get(name)
        if rate is None and operation in _HEAVY and not _narrowed(params):
            rate = self._rates.get(f"{service}:unfiltered")
            name = f"{name}/unfiltered"
        if rate is None:
            rate = self._rates.get(f"{service}:{'changing' if changing else 'reading'}")
        if rate is None:
            return []
        needed = [(name, (rate.capacity, rate.refill), 1.0)]
        if rate.resources is not None:
            given = params.get(rate.resources, 1)
            count = float(given if isinstance(given, int) else len(given))
            needed.append((f"{name}/resources", (rate.resource_capacity, rate.resource_refill), count))
        return needed

    def _bucket(self, name: str, rate: tuple[float, float], now: float) -> _Bucket:
        if name not in self._buckets:
            self._buckets[name] = _Bucket(*rate, now)
        return self._buckets[name]


def _narrowed(params: Json) -> bool:
    return any(key in {"Filters", "MaxResults"} or key.endswith("Ids") for key in params)
