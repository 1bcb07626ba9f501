"""The load balancer of a tier as it stands on a site, whatever that site calls one.

There are two kinds, chosen by what the site can: ELBv2 (a balancer with listeners that forward to target groups) and
classic ELB (a balancer that is both). Both are read into one `LoadBalancer`, in ELBv2's words; what is behind a
balancer is told as `healthy` or by another word. Everything here only looks.

Sources: Elastic Load Balancing API references 2015-12-01 (ELBv2) and 2012-06-01 (classic; that of Eucalyptus is the
same, without tags in 3.4).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from drpilot.domain.group import LoadBalancer
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, FailureClass, Site
from drpilot.inventory.resources import group_names, scaling_groups, tags_of, target_groups

__all__ = [
    "Balancing",
    "Classic",
    "Listening",
    "SecondGeneration",
    "Standing",
    "Tagged",
    "balancing",
    "health_target",
    "load_balancer",
    "standing",
]

_TAGS_A_CALL = 20  # DescribeTags of both APIs.
_HEALTH = (
    "HealthCheckProtocol",
    "HealthCheckPort",
    "HealthCheckPath",
    "HealthCheckIntervalSeconds",
    "HealthCheckTimeoutSeconds",
    "HealthyThresholdCount",
    "UnhealthyThresholdCount",
    "Matcher",
)
_CHECKED = re.compile(r"(HTTPS?|TCP|SSL):(\d{1,5})(/.*)?")


@dataclass(frozen=True, slots=True)
class Standing:
    """A load balancer that is there. `zone` is the hosted zone of its DNS name, where the cloud tells one; `arn` and
    `state` are ELBv2's, a classic one is there as soon as it is made.
    """

    name: str
    dns: str
    zone: str = ""
    arn: str = ""
    state: str = "active"


@dataclass(frozen=True, slots=True)
class Listening:
    """One listener: its port, and whether it has a certificate."""

    port: int
    certificate: bool = False


@dataclass(frozen=True, slots=True)
class Tagged:
    """A balancer or target group with its tags. `id` is its ARN, or its name where it has none."""

    kind: str
    name: str
    id: str
    tags: Mapping[str, str]


class Balancing(Protocol):
    """What drpilot asks of the load balancers of a site; raises CloudError."""

    kind: str

    def find(self, name: str) -> Standing | None:
        """The balancer of that name, or None."""

    def described(self, name: str) -> LoadBalancer | None:
        """The same with its first listener and what is behind it."""

    def listening(self, given: LoadBalancer) -> list[Listening]:
        """Its listeners by port."""

    def behind(self, given: LoadBalancer) -> dict[str, str] | None:
        """The machines behind it: id → `healthy`, or what they are instead; None where nothing holds machines."""

    def tagged(self) -> list[Tagged]:
        """All balancers with their tags."""

    def parts(self) -> list[Tagged]:
        """What belongs to balancers and has tags of its own."""


def balancing(site: Site) -> Balancing | None:
    """The kind of balancer a site has; None where it has none."""
    if "elbv2" in site.capabilities:
        return SecondGeneration(site)
    return Classic(site) if "elb" in site.capabilities else None


def load_balancer(site: Site, name: str) -> LoadBalancer | None:
    """The load balancer called `name` with its first listener; None where there is none."""
    kind = balancing(site)
    return kind.described(name) if kind is not None else None


def standing(site: Site, name: str) -> Standing | None:
    """The load balancer called `name` as far as it concerns its users; None where there is none."""
    kind = balancing(site)
    return kind.find(name) if kind is not None else None


def _by_pages(names: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _TAGS_A_CALL):
        yield list(names[start : start + _TAGS_A_CALL])


# -- ELBv2 -----------------------------------------------------------------------------------------------


class SecondGeneration:
    """Application and network load balancers."""

    kind = "elbv2"

    def __init__(self, site: Site) -> None:
        self.site = site

    def _row(self, name: str) -> Json | None:
        try:
            pages = list(self.site.pages("elbv2", "DescribeLoadBalancers", {"Names": [name]}))
        except CloudError as error:
            if error.kind is FailureClass.NOT_FOUND or error.code == "LoadBalancerNotFound":
                return None
            raise
        return next((one for page in pages for one in page.get("LoadBalancers") or ()), None)

    def find(self, name: str) -> Standing | None:
        """The balancer of that name, or None."""
        row = self._row(name)
        if row is None:
            return None
        state = (row.get("State") or {}).get("Code", "active")
        return Standing(
            name,
            row.get("DNSName", ""),
            row.get("CanonicalHostedZoneId", ""),
            row["LoadBalancerArn"],
            state,
        )

    def listeners(self, arn: str) -> list[Json]:
        """The listeners of a balancer, by port, in the API's words."""
        pages = self.site.pages("elbv2", "DescribeListeners", {"LoadBalancerArn": arn})
        found = [one for page in pages for one in page.get("Listeners") or ()]
        return sorted(found, key=lambda one: one.get("Port", 0))

    def target_group(self, name: str) -> Json | None:
        """The target group called `name`, or None."""
        try:
            reply = self.site.call("elbv2", "DescribeTargetGroups", {"Names": [name]})
        except CloudError as error:
            if error.kind is FailureClass.NOT_FOUND or error.code == "TargetGroupNotFound":
                return None
            raise
        return next(iter(reply.get("TargetGroups") or []), None)

    def targets_of(self, given: LoadBalancer) -> Json | None:
        """The target group of a tier's balancer: the one it names, else what the standing listener of its port forwards
        to (a classic balancer on the other side names none), else the one of the balancer's own name.
        """
        if given.target_group:
            return self.target_group(_plain_name(given.target_group))
        there = self.find(given.key)
        if there is not None:
            for one in self.listeners(there.arn):
                if one.get("Port") == given.port and _forwarded(one):
                    return next(iter(target_groups(self.site, _forwarded(one)[:1])), None)
        return self.target_group(given.key)

    def described(self, name: str) -> LoadBalancer | None:
        """The balancer with its first listener that forwards, and that listener's target group."""
        found = self._row(name)
        if found is None:
            return None
        arn = found["LoadBalancerArn"]
        first = next((one for one in self.listeners(arn) if _forwarded(one)), {})
        target = next(iter(target_groups(self.site, _forwarded(first)[:1])), {})
        zones = found.get("AvailabilityZones") or ()
        return LoadBalancer(
            key=found["LoadBalancerName"],
            arn=arn,
            dns=found.get("DNSName", ""),
            scheme=found.get("Scheme", "internet-facing"),
            type=found.get("Type", "application"),
            subnets=tuple(sorted(zone["SubnetId"] for zone in zones if zone.get("SubnetId"))),
            security_groups=tuple(sorted(group_names(self.site, found.get("SecurityGroups") or ()))),
            port=int(first.get("Port") or 0),
            protocol=first.get("Protocol", ""),
            target_group=target.get("TargetGroupName", ""),
            target_port=int(target.get("Port") or 0),
            target_protocol=target.get("Protocol", ""),
            health_path=target.get("HealthCheckPath") or "/",
            health={name: target[name] for name in _HEALTH if target.get(name) is not None},
            zones=tuple(sorted(zone["ZoneName"] for zone in zones if zone.get("ZoneName"))),
        )

    def listening(self, given: LoadBalancer) -> list[Listening]:
        """Its listeners by port."""
        return [
            Listening(int(one.get("Port") or 0), bool(one.get("Certificates")))
            for one in self.listeners(given.arn)
        ]

    def behind(self, given: LoadBalancer) -> dict[str, str] | None:
        """The targets of its target group and their states."""
        found = self.targets_of(given)
        if found is None:
            return None
        reply = self.site.call("elbv2", "DescribeTargetHealth", {"TargetGroupArn": found["TargetGroupArn"]})
        return {
            str(item["Target"]["Id"]): str(item["TargetHealth"]["State"])
            for item in reply.get("TargetHealthDescriptions") or []
        }

    def tagged(self) -> list[Tagged]:
        """All balancers; there is no filter by tag, so the tags are asked for afterwards."""
        return self._tagged("load balancer", "LoadBalancer")

    def parts(self) -> list[Tagged]:
        """All target groups."""
        return self._tagged("target group", "TargetGroup")

    def _tagged(self, kind: str, word: str) -> list[Tagged]:
        names = {
            str(one[f"{word}Arn"]): str(one[f"{word}Name"])
            for page in self.site.pages("elbv2", f"Describe{word}s", {})
            for one in page.get(f"{word}s") or ()
        }
        found = []
        for arns in _by_pages(sorted(names)):
            reply = self.site.call("elbv2", "DescribeTags", {"ResourceArns": arns})
            for row in reply.get("TagDescriptions") or ():
                arn = str(row["ResourceArn"])
                found.append(Tagged(kind, names[arn], arn, tags_of(row)))
        return found


def _plain_name(arn_or_name: str) -> str:
    """The name of a target group given by name or ARN (`…:targetgroup/NAME/ID`)."""
    return arn_or_name.split("/")[-2] if arn_or_name.startswith("arn:") else arn_or_name


def _forwarded(listener: Json) -> list[str]:
    arns = []
    for action in listener.get("DefaultActions") or ():
        if action.get("Type") == "forward":
            several = (action.get("ForwardConfig") or {}).get("TargetGroups") or ()
            arns += [action["TargetGroupArn"]] if action.get("TargetGroupArn") else []
            arns += [one["TargetGroupArn"] for one in several if one["TargetGroupArn"] not in arns]
    return arns


# -- classic ---------------------------------------------------------------------------------------------


class Classic:
    """Classic load balancers: of AWS's first generation, and all that Eucalyptus has."""

    kind = "classic"

    def __init__(self, site: Site) -> None:
        self.site = site

    def row(self, name: str) -> Json | None:
        """The balancer of that name in the API's words, or None."""
        try:
            reply = self.site.call("elb", "DescribeLoadBalancers", {"LoadBalancerNames": [name]})
        except CloudError as error:
            if error.kind is FailureClass.NOT_FOUND or error.code in _ABSENT:
                return None
            raise
        return next(iter(reply.get("LoadBalancerDescriptions") or []), None)

    def find(self, name: str) -> Standing | None:
        """The balancer of that name, or None."""
        row = self.row(name)
        if row is None:
            return None
        return Standing(name, row.get("DNSName", ""), row.get("CanonicalHostedZoneNameID") or "")

    def described(self, name: str) -> LoadBalancer | None:
        """The balancer with its first listener and its check, in ELBv2's words."""
        row = self.row(name)
        if row is None:
            return None
        first = next(iter(_sorted(row)), {})
        inside, check = int(first.get("InstancePort") or 0), row.get("HealthCheck") or {}
        protocol, port, path = health_target(str(check.get("Target") or f"TCP:{inside}"))
        health: Json = {
            "HealthCheckProtocol": protocol,
            "HealthCheckPort": "traffic-port" if port == inside else str(port),
            **({"HealthCheckPath": path} if path else {}),
        }
        known = {word: check[own] for own, word in _CHECK_WORDS.items() if check.get(own) is not None}
        return LoadBalancer(
            key=name,
            arn="",
            dns=row.get("DNSName", ""),
            scheme=row.get("Scheme") or "internet-facing",
            type="classic",
            subnets=tuple(sorted(row.get("Subnets") or ())),
            security_groups=tuple(sorted(group_names(self.site, row.get("SecurityGroups") or ()))),
            port=int(first.get("LoadBalancerPort") or 0),
            protocol=str(first.get("Protocol") or ""),
            target_group="",
            target_port=inside,
            target_protocol=str(first.get("InstanceProtocol") or first.get("Protocol") or ""),
            health_path=path or "/",
            health=health | {word: int(value) for word, value in known.items()},
            zones=tuple(sorted(row.get("AvailabilityZones") or ())),
        )

    def listening(self, given: LoadBalancer) -> list[Listening]:
        """Its listeners by port."""
        rows = _sorted(self.row(given.key) or {})
        return [Listening(int(one["LoadBalancerPort"]), bool(one.get("SSLCertificateId"))) for one in rows]

    def behind(self, given: LoadBalancer) -> dict[str, str] | None:
        """The instances registered with it."""
        if self.row(given.key) is None:
            return None
        reply = self.site.call("elb", "DescribeInstanceHealth", {"LoadBalancerName": given.key})
        return {
            str(item["InstanceId"]): "healthy" if item["State"] == "InService" else "unhealthy"
            for item in reply.get("InstanceStates") or []
        }

    def tagged(self) -> list[Tagged]:
        """All balancers. Where they can't be tagged they are taken for what the scaling groups behind them are."""
        if "elb:tags" not in self.site.capabilities:
            return self._by_groups()
        rows = self._rows()
        found = []
        for names in _by_pages(sorted(str(row["LoadBalancerName"]) for row in rows)):
            reply = self.site.call("elb", "DescribeTags", {"LoadBalancerNames": names})
            for row in reply.get("TagDescriptions") or ():
                name = str(row["LoadBalancerName"])
                found.append(Tagged("load balancer", name, name, tags_of(row)))
        return found

    def parts(self) -> list[Tagged]:
        """Nothing belongs to a classic balancer."""
        return []

    def _rows(self) -> list[Json]:
        pages = self.site.pages("elb", "DescribeLoadBalancers", {})
        return [one for page in pages for one in page.get("LoadBalancerDescriptions") or ()]

    def _by_groups(self) -> list[Tagged]:
        tags: dict[str, dict[str, str]] = {str(row["LoadBalancerName"]): {} for row in self._rows()}
        for group in scaling_groups(self.site, {}) if tags else ():
            for name in group.get("LoadBalancerNames") or ():
                if name in tags:
                    tags[name] |= tags_of(group)
        return [Tagged("load balancer", name, name, tags[name]) for name in sorted(tags)]


_ABSENT = ("LoadBalancerNotFound", "AccessPointNotFound")
_CHECK_WORDS = {
    "Interval": "HealthCheckIntervalSeconds",
    "Timeout": "HealthCheckTimeoutSeconds",
    "HealthyThreshold": "HealthyThresholdCount",
    "UnhealthyThreshold": "UnhealthyThresholdCount",
}


def _sorted(row: Mapping[str, Any]) -> list[Json]:
    found = [one["Listener"] for one in row.get("ListenerDescriptions") or ()]
    return sorted(found, key=lambda one: int(one.get("LoadBalancerPort") or 0))


def health_target(text: str) -> tuple[str, int, str]:
    """Protocol, port and path of a classic check (`HTTP:8080/healthz`, `TCP:5432`), in ELBv2's words: SSL is a TCP
    check there. A text that is no check asks TCP at port 0.
    """
    found = _CHECKED.fullmatch(text)
    if found is None:
        return "TCP", 0, ""
    return "TCP" if found[1] in ("TCP", "SSL") else found[1], int(found[2]), found[3] or ""
