"""Whether a drill's network has a way out: probes that must all find none. It fails closed.

A question that can't be answered counts as a way out, with one exception: a cloud that does not know an
operation at all (InvalidAction) has no such thing to be asked about.

Without networks of one's own there is the security group alone. It keeps others out, and the drill out of what the
other groups guard; nothing there keeps a machine from speaking to the world. That is a way out, which only the group
file can accept (`drill: {outbound: open}`), and a warning even then.
"""

from __future__ import annotations

from collections.abc import Callable

from drpilot.actions.drill import control_ranges, drill_group, drill_network, drilled, ranges_of
from drpilot.actions.views import Nothing, Seen, describe, instances, tags_of
from drpilot.domain.plain import Json
from drpilot.domain.ports import (
    Action,
    Answer,
    CloudError,
    Context,
    Done,
    Effect,
    FailureClass,
    Idempotency,
    Model,
    Site,
    StepFailed,
)

__all__ = ["Isolation"]

_UNKNOWN = ("InvalidAction", "UnknownOperationException", "Unsupported")
_LEAST = 6


def _listing(
    operation: str, member: str, filter_name: str, word: str = "Filters"
) -> Callable[[Site, str], list[str]]:
    """A probe that must list nothing for the network; `word` is the operation's own for its filters."""

    def look(site: Site, vpc: str) -> list[str]:
        found = describe(site, operation, member, **{word: [{"Name": filter_name, "Values": [vpc]}]})
        gone = ("deleted", "deleting", "rejected", "expired", "failed")
        return [_label(item) for item in found if _state(item) not in gone]

    return look


def _state(item: Json) -> str:
    state = item.get("State") or item.get("Status") or ""
    return str(state.get("Code") if isinstance(state, dict) else state)


def _label(item: Json) -> str:
    return next((str(value) for key, value in item.items() if key.endswith("Id")), "something")


def _routes(site: Site, vpc: str) -> list[str]:
    """Routes that lead anywhere but into the network itself."""
    tables = describe(site, "DescribeRouteTables", "RouteTables", [{"Name": "vpc-id", "Values": [vpc]}])
    return [
        str(route.get("DestinationCidrBlock") or route.get("DestinationIpv6CidrBlock") or "a prefix list")
        for table in tables
        for route in table.get("Routes") or []
        if route.get("GatewayId") != "local"
    ]


def _interfaces(site: Site, vpc: str) -> list[Json]:
    filters: list[Json] = [{"Name": "vpc-id", "Values": [vpc]}]
    return describe(site, "DescribeNetworkInterfaces", "NetworkInterfaces", filters)


def _public(site: Site, vpc: str) -> list[str]:
    """Public addresses in the network."""
    found = [(item.get("Association") or {}).get("PublicIp") for item in _interfaces(site, vpc)]
    return [str(address) for address in found if address]


def _giving(site: Site, vpc: str) -> list[str]:
    """Subnets that would give a machine a public address."""
    found = describe(site, "DescribeSubnets", "Subnets", [{"Name": "vpc-id", "Values": [vpc]}])
    return [str(item["SubnetId"]) for item in found if item.get("MapPublicIpOnLaunch")]


def _foreign(site: Site, vpc: str) -> list[str]:
    """Interfaces that a service of the cloud put into the network, such as a balancer's or an endpoint's."""
    return [
        str(item["NetworkInterfaceId"]) for item in _interfaces(site, vpc) if item.get("RequesterManaged")
    ]


def _roles(site: Site, vpc: str) -> list[str]:
    """Machines in the network that may speak to the cloud in somebody's name."""
    found = instances(site, [{"Name": "vpc-id", "Values": [vpc]}])
    return [str(item["InstanceId"]) for item in found if item.get("IamInstanceProfile")]


_OPEN = "can't be closed without networks; `drill: {outbound: open}` in the group file accepts it"


def _letting(site: Site, group: str) -> list[str]:
    """Other security groups that let the drill's in."""
    found = describe(site, "DescribeSecurityGroups", "SecurityGroups")
    return [
        str(item["GroupName"])
        for item in found
        if item["GroupId"] != group and group in ranges_of(item, "IpPermissions")
    ]


def _strays(ctx: Context, site: Site, group: str) -> list[str]:
    """Machines of the drill that are in another security group than its own."""
    return [
        str(item["InstanceId"])
        for item in instances(site, drilled(ctx))
        if {one["GroupId"] for one in item.get("SecurityGroups") or []} != {group}
    ]


def _kept_addresses(ctx: Context, site: Site) -> list[str]:
    """Elastic addresses of the account on machines of the drill."""
    ids = [str(item["InstanceId"]) for item in instances(site, drilled(ctx))]
    filters: list[Json] = [{"Name": "instance-id", "Values": ids}]
    return (
        [str(item["PublicIp"]) for item in describe(site, "DescribeAddresses", "Addresses", filters)]
        if ids
        else []
    )


_PROBES: dict[str, Callable[[Site, str], list[str]]] = {
    "internet gateways": _listing("DescribeInternetGateways", "InternetGateways", "attachment.vpc-id"),
    "routes out": _routes,
    "public addresses": _public,
    "subnets that give public addresses": _giving,
    "interfaces of services": _foreign,
    "machines with a role": _roles,
    "peerings asked for": _listing(
        "DescribeVpcPeeringConnections", "VpcPeeringConnections", "requester-vpc-info.vpc-id"
    ),
    "peerings accepted": _listing(
        "DescribeVpcPeeringConnections", "VpcPeeringConnections", "accepter-vpc-info.vpc-id"
    ),
    "NAT gateways": _listing("DescribeNatGateways", "NatGateways", "vpc-id", "Filter"),
    "VPN gateways": _listing("DescribeVpnGateways", "VpnGateways", "attachment.vpc-id"),
    "transit gateways": _listing(
        "DescribeTransitGatewayVpcAttachments", "TransitGatewayVpcAttachments", "vpc-id"
    ),
    "endpoints": _listing("DescribeVpcEndpoints", "VpcEndpoints", "vpc-id"),
}


class IsolationOutput(Model):
    """Every probe; all of them found no way out."""

    network: str
    checks: tuple[Seen, ...]


class Isolation(Action[Nothing, IsolationOutput]):
    """Probe the drill's network for a way out; one found, or one that can't be excluded, stops the drill."""

    name = "check.isolation"
    summary = "no way leads out of the drill's network; what can't be excluded counts as one"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    protects = True
    permissions = (
        "ec2:DescribeInternetGateways",
        "ec2:DescribeRouteTables",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeInstances",
        "ec2:DescribeSubnets",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeVpcPeeringConnections",
        "ec2:DescribeNatGateways",
        "ec2:DescribeVpnGateways",
        "ec2:DescribeTransitGatewayVpcAttachments",
        "ec2:DescribeVpcEndpoints",
    )
    Input = Nothing
    Output = IsolationOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[IsolationOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[IsolationOutput]:
        site, network = ctx.site("target"), drill_network(ctx)
        if network is None:
            return self._by_group(ctx, site)
        vpc = str(network["VpcId"])
        checks = [self._probe(ctx, name, lambda look=look: look(site, vpc)) for name, look in _PROBES.items()]  # type: ignore[misc]
        checks.append(self._probe(ctx, "security groups out", lambda: self._out(site, network)))
        checks.append(self._probe(ctx, "security groups in", lambda: self._in(ctx, site, network)))
        self._judged(checks)
        return Done(IsolationOutput(network=vpc, checks=tuple(checks)))

    def _by_group(self, ctx: Context, site: Site) -> Answer[IsolationOutput]:
        """The probes of a drill that has a security group and no network."""
        group = drill_group(ctx)
        id_ = str(group["GroupId"])
        accepted = ctx.group.drill.outbound_open
        probes: dict[str, Callable[[], list[str]]] = {
            "security group in": lambda: sorted(
                ranges_of(group, "IpPermissions") - {id_, *control_ranges(ctx, site)}
            ),
            "groups that let the drill in": lambda: _letting(site, id_),
            "machines in other groups": lambda: _strays(ctx, site, id_),
            "machines with a role": lambda: [
                str(item["InstanceId"])
                for item in instances(site, drilled(ctx))
                if item.get("IamInstanceProfile")
            ],
            "elastic addresses": lambda: _kept_addresses(ctx, site),
            "traffic out": lambda: [] if accepted else [_OPEN],
        }
        checks = [self._probe(ctx, name, look) for name, look in probes.items()]
        self._judged(checks)
        warning = f"{ctx.target} has no rules for what goes out: the drill's machines can speak to anybody"
        return Done(IsolationOutput(network=id_, checks=tuple(checks)), warning=warning)

    @staticmethod
    def _judged(checks: list[Seen]) -> None:
        """StepFailed (precondition) for a way out, and where too few probes were answered."""
        asked = sum("does not know" not in item.observed for item in checks)
        open_ = [item for item in checks if not item.ok]
        if open_ or asked < _LEAST:
            text = (
                "; ".join(f"{item.name}: {item.observed}" for item in open_)
                or f"only {asked} probes were answered"
            )
            data: Json = {"checks": [item.model_dump() for item in checks]}
            raise StepFailed(FailureClass.PRECONDITION, f"the drill is not isolated: {text}", data=data)

    @staticmethod
    def _probe(ctx: Context, name: str, look: Callable[[], list[str]]) -> Seen:
        try:
            found = look()
        except CloudError as error:
            if error.code in _UNKNOWN:
                return Seen.of(ctx, name, True, ("none", f"this cloud does not know {error.operation}"))
            return Seen.of(ctx, name, False, ("none", f"can't be told: {error.code}"))
        return Seen.of(ctx, name, not found, ("none", ", ".join(found) or "none"))

    @staticmethod
    def _groups(site: Site, network: Json) -> list[Json]:
        """The security groups that machines of the drill could be in: its own, not the VPC's unused
        default.
        """
        filters: list[Json] = [{"Name": "vpc-id", "Values": [network["VpcId"]]}]
        found = describe(site, "DescribeSecurityGroups", "SecurityGroups", filters)
        interfaces = describe(site, "DescribeNetworkInterfaces", "NetworkInterfaces", filters)
        used = {item["GroupId"] for face in interfaces for item in face.get("Groups") or []}
        return [item for item in found if item["GroupId"] in used or "drpilot:drill" in tags_of(item)]

    def _out(self, site: Site, network: Json) -> list[str]:
        inside = {network["CidrBlock"]}
        groups = self._groups(site, network)
        own = inside | {group["GroupId"] for group in groups}
        return [cidr for group in groups for cidr in ranges_of(group, "IpPermissionsEgress") - own]

    def _in(self, ctx: Context, site: Site, network: Json) -> list[str]:
        groups = self._groups(site, network)
        own = {network["CidrBlock"], *control_ranges(ctx, site), *(group["GroupId"] for group in groups)}
        return [cidr for group in groups for cidr in ranges_of(group, "IpPermissions") - own]
