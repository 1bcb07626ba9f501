"""A protection group: what fails over together, in ordered tiers, and how the two sites map onto each other.

Sites are *primary* and *secondary* by configuration; *source* and *target* are roles in one run. Members are found
on the active side by tag or id and are described completely enough to be built again elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Approvals",
    "Bucket",
    "BurstAlarm",
    "BurstPolicy",
    "BurstSchedule",
    "Check",
    "DrillPolicy",
    "Group",
    "Instance",
    "LoadBalancer",
    "Map",
    "Objectives",
    "Retention",
    "ScalingGroup",
    "Selector",
    "Staging",
    "StandbySize",
    "Tier",
    "Traffic",
    "Volume",
]


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume of a member instance. `key` is stable over both sites: instance key and device, `shop-db/dev/sdf`."""

    key: str
    id: str
    device: str
    size_gib: int
    type: str
    root: bool = False
    iops: int | None = None
    throughput: int | None = None
    encrypted: bool = False
    kms_key: str | None = None
    delete_on_termination: bool = False
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Instance:
    """A member instance as seen on the active side. `key` is its `drpilot:member` tag, else its Name, else its id.

    Of user data, which often holds secrets, only the digest is known; see inventory/launching.py.

    `elastic_address` is the public address the account keeps for it, None where it has none or only one that the cloud
    lends it while it runs.
    """

    key: str
    id: str
    type: str
    zone: str
    subnet: str
    image: str
    state: str
    private_address: str = ""
    elastic_address: str | None = None
    security_groups: tuple[str, ...] = ()
    key_pair: str | None = None
    profile: str | None = None
    user_data_sha256: str | None = None
    metadata_options: Mapping[str, Any] = field(default_factory=dict)
    root_device: str = "/dev/xvda"
    architecture: str = "x86_64"
    termination_protection: bool = False
    product_codes: tuple[str, ...] = ()
    volumes: tuple[Volume, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScalingGroup:
    """A member Auto Scaling group with what it launches. `key` is its name, equal on both sides.

    It launches from a template, or from a launch configuration: then `template` and `template_id` are empty and
    `template_version` is the configuration's name, since a changed one is another one. It is behind `target_groups`, or
    behind classic load balancers (`balancers`, by name). A cloud without networks has `zones` and no `subnets`.
    """

    key: str
    image: str
    type: str
    minimum: int
    maximum: int
    desired: int
    subnets: tuple[str, ...] = ()
    template: str = ""
    template_id: str = ""
    template_version: str = ""
    target_groups: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    key_pair: str | None = None
    profile: str | None = None
    user_data_sha256: str | None = None
    metadata_options: Mapping[str, Any] = field(default_factory=dict)
    root_device: str = "/dev/xvda"
    product_codes: tuple[str, ...] = ()
    encrypted_key: str | None = None
    health_check: str = "EC2"
    grace_s: int = 300
    tags: Mapping[str, str] = field(default_factory=dict)
    zones: tuple[str, ...] = ()
    balancers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadBalancer:
    """A member load balancer with one listener. `key` is its name, `type` application, network or classic.

    What is behind it is a target group, or the balancer itself: a classic one has no `target_group` and no `arn`.
    `health` is in ELBv2's words for both.
    """

    key: str
    arn: str
    dns: str
    scheme: str
    type: str
    subnets: tuple[str, ...]
    security_groups: tuple[str, ...]
    port: int
    protocol: str
    target_group: str
    target_port: int
    target_protocol: str
    health_path: str = "/"
    health: Mapping[str, Any] = field(default_factory=dict)
    zones: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selector:
    """How the members of a tier are found: `tag` as `key=value`, or `ids`."""

    tag: str | None = None
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StandbySize:
    """The minimal standby: `size` while it waits and `grow` (with `otherwise`) when promoted, or counts of a group."""

    size: str | None = None
    grow: str | None = None
    otherwise: tuple[str, ...] = ()
    count: int = 0
    grow_count: int | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """What proves a tier works: a `tcp` port, or an `http` URL that may have to contain a text.

    `{address}` in the URL stands for each member.
    """

    tcp: int | None = None
    http: str | None = None
    contains: str | None = None


@dataclass(frozen=True, slots=True)
class Tier:
    """One tier; tiers are started from first to last and stopped from last to first.

    `bootstrap` is a program with its arguments, run on the controller once for each machine that a migration has
    started for the first time.
    """

    name: str
    selector: Selector | None = None
    scaling_group_name: str | None = None
    load_balancer_name: str | None = None
    standby: StandbySize = StandbySize()
    check: Check | None = None
    freeze: tuple[str, ...] = ()
    bootstrap: tuple[str, ...] = ()
    instances: tuple[Instance, ...] = ()
    scaling_group: ScalingGroup | None = None
    load_balancer: LoadBalancer | None = None


@dataclass(frozen=True, slots=True)
class Map:
    """What becomes what on the other site; left is the primary's name. One-to-one, so that it reads backwards."""

    zones: Mapping[str, str] = field(default_factory=dict)
    subnets: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    security_groups: Mapping[str, str] = field(default_factory=dict)
    kms_keys: Mapping[str, str] = field(default_factory=dict)
    profiles: Mapping[str, str] = field(default_factory=dict)

    def reversed(self) -> Map:
        """The map of the way back."""
        turned = {
            name: {right: left for left, right in getattr(self, name).items()} for name in self.__slots__
        }
        return Map(**turned)


@dataclass(frozen=True, slots=True)
class Objectives:
    """What the business asked for, in seconds."""

    rpo_s: float
    rto_s: float


@dataclass(frozen=True, slots=True)
class Retention:
    """How many points are kept: the `last` n, one an hour for `hourly` hours, one a day for `daily` days."""

    last: int = 6
    hourly: int = 24
    daily: int = 14


@dataclass(frozen=True, slots=True)
class DrillPolicy:
    """When the group is drilled (cron in `timezone`) and how long a drill may live before it is removed.

    `outbound_open` accepts a drill whose machines can't be kept from speaking out, on a cloud without networks.
    """

    cron: str | None = None
    timezone: str = "UTC"
    expires_s: float = 7200.0
    outbound_open: bool = False


@dataclass(frozen=True, slots=True)
class Approvals:
    """How many different persons a move needs, the one who asks included."""

    failover: int = 2
    switchover: int = 1
    commit: int = 1


@dataclass(frozen=True, slots=True)
class Traffic:
    """The name users reach the group by: a record in hosted `zone`, changed through `site`."""

    name: str
    zone: str
    site: str
    ttl_s: int = 60


@dataclass(frozen=True, slots=True)
class Staging:
    """Where bytes lie between two clouds that can't copy by themselves, and the machine that reads them.

    `bucket` is made by drpilot where it is not there; empty: named after the group. `mover_image` is the image of a
    mover on the site that has no EBS direct; empty: the account's image named `drpilot-mover`.
    """

    bucket: str = ""
    mover_image: str = ""
    mover_type: str = "m1.small"


@dataclass(frozen=True, slots=True)
class BurstAlarm:
    """The CloudWatch alarm on `site` that begins a burst after `after_s` in ALARM and ends it after `clear_s` in OK."""

    name: str
    site: str
    after_s: float = 120.0
    clear_s: float = 600.0


@dataclass(frozen=True, slots=True)
class BurstSchedule:
    """When a burst is begun by itself (cron in `timezone`) and how long it lasts."""

    cron: str
    timezone: str = "UTC"
    lasts_s: float = 14_400.0


@dataclass(frozen=True, slots=True)
class BurstPolicy:
    """Extra capacity of a tier on the side that stands by: `desired` machines unless told otherwise, `maximum` at most,
    `weight` percent of the users. None lasts longer than `longest_s`; between two that begin by themselves lie
    `cooldown_s`.

    `user_data_file` is handed to the extra machines at their first boot instead of the standby's own; of its text only
    the SHA-256 is known here.
    """

    tier: str
    desired: int
    maximum: int
    weight: int
    longest_s: float = 14_400.0
    cooldown_s: float = 1800.0
    alarm: BurstAlarm | None = None
    schedule: BurstSchedule | None = None
    user_data_file: str | None = None
    user_data_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket that is a member: on each site `BUCKET` or `BUCKET/PREFIX`, under one `key`. `delete`: what the active
    side has no more is deleted on the other side too.
    """

    key: str
    primary: str
    secondary: str
    delete: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """A group as its file says, with the members found on the active side once discovered."""

    name: str
    primary: str
    secondary: str
    objectives: Objectives
    tiers: tuple[Tier, ...]
    map: Map = Map()
    replicate_every_s: float = 600.0
    retention: Retention = Retention()
    drill: DrillPolicy = DrillPolicy()
    approvals: Approvals = Approvals()
    traffic: Traffic | None = None
    fence: tuple[str, ...] = ("traffic", "scale", "stop", "deny")
    cooldown_s: float = 3600.0
    tag: str | None = None
    staging: Staging = Staging()
    burst: BurstPolicy | None = None
    buckets: tuple[Bucket, ...] = ()

    @property
    def stage_bucket(self) -> str:
        """The bucket over which bytes go between unlike clouds."""
        return self.staging.bucket or f"drpilot-{self.name}-staging"

    def other(self, site: str) -> str:
        """The other of the two sites."""
        return self.secondary if site == self.primary else self.primary

    def mapping(self, source: str) -> Map:
        """The map as read from `source` to the other site."""
        return self.map if source == self.primary else self.map.reversed()

    def bucket(self, key: str) -> Bucket:
        """The bucket called `key`; KeyError where there is none."""
        for bucket in self.buckets:
            if bucket.key == key:
                return bucket
        raise KeyError(key)

    def bucket_on(self, bucket: Bucket, site: str) -> str:
        """What a bucket is called on one of the two sites."""
        return bucket.primary if site == self.primary else bucket.secondary

    def tier(self, name: str) -> Tier:
        """The tier called `name`; KeyError where there is none."""
        for tier in self.tiers:
            if tier.name == name:
                return tier
        raise KeyError(name)
