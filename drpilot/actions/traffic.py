"""The name users reach the group by: one record in a hosted zone, set to a site's load balancer.

An UPSERT sets a state and may be repeated (Route 53 API reference, ChangeResourceRecordSets). A record at
the zone's apex can't be a CNAME, so it is an alias; so is one that already is an alias.
"""

from __future__ import annotations

from drpilot.actions.members import balancer, members, site_name
from drpilot.actions.views import visible
from drpilot.domain.group import LoadBalancer, Tier, Traffic
from drpilot.domain.plain import Json
from drpilot.domain.plan import Call
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
    Unseen,
)

__all__ = ["Front", "Switch", "front_tier", "record_of", "same_name", "wanted_record"]


class Front(Model):
    """What the name points at on a site: a load balancer's DNS name and hosted zone, or addresses."""

    dns: str = ""
    zone: str = ""
    addresses: tuple[str, ...] = ()


def same_name(left: str, right: str) -> bool:
    """Whether two DNS names are one: case and the final dot say nothing; an alias target may carry
    `dualstack.`.
    """
    return left.lower().rstrip(".").removeprefix("dualstack.") == right.lower().rstrip(".").removeprefix(
        "dualstack."
    )


def front_tier(ctx: Context) -> tuple[Tier, LoadBalancer | None]:
    """The tier that users meet: the last one with a load balancer, else the last."""
    for tier in reversed(ctx.group.tiers):
        if tier.load_balancer is not None:
            return tier, tier.load_balancer
    return ctx.group.tiers[-1], None


def _front(ctx: Context, role: str) -> Front:
    """What the name must point at for a site."""
    tier, given = front_tier(ctx)
    site = ctx.site(role)
    if given is None:
        found = [item for item in members(ctx, site, tier) if item["State"]["Name"] == "running"]
        addresses = [item.get("PublicIpAddress") or item.get("PrivateIpAddress") or "" for item in found]
        if not any(addresses):
            raise StepFailed(
                FailureClass.PRECONDITION, f"no running instance of tier {tier.name} has an address"
            )
        return Front(addresses=tuple(sorted(filter(None, addresses))))
    try:
        there = balancer(site, given.key)
    except CloudError:
        if site_name(ctx, role) != ctx.source:
            raise
        return Front(dns=given.dns)  # the way back must not depend on a site that may not answer
    if there is None:
        raise StepFailed(FailureClass.NOT_FOUND, f"load balancer {given.key} is not on {site.name}")
    return Front(dns=there["DNSName"], zone=there.get("CanonicalHostedZoneId", ""))


def record_of(site: Site, traffic: Traffic) -> Json | None:
    """The record of the name that carries users (A, AAAA or CNAME), as it is in the zone now."""
    params: Json = {"HostedZoneId": traffic.zone, "StartRecordName": traffic.name}
    for page in site.pages("route53", "ListResourceRecordSets", params):
        for record in page.get("ResourceRecordSets") or []:
            if not same_name(record["Name"], traffic.name):
                return None  # the listing is sorted by name
            if record["Type"] in ("A", "CNAME"):
                return dict(record)
    return None


def wanted_record(site: Site, traffic: Traffic, front: Front, present: Json | None) -> Json:
    """The record that points the name at `front`."""
    if front.addresses:
        values = [{"Value": address} for address in front.addresses]
        return {"Name": traffic.name, "Type": "A", "TTL": traffic.ttl_s, "ResourceRecords": values}
    apex = str(site.call("route53", "GetHostedZone", {"Id": traffic.zone})["HostedZone"]["Name"])
    if same_name(apex, traffic.name) or (present is not None and present["Type"] == "A"):
        if not front.zone:
            text = f"the hosted zone of {front.dns} is not known, so no alias can be made"
            raise StepFailed(FailureClass.PRECONDITION, text)
        target = {"HostedZoneId": front.zone, "DNSName": front.dns, "EvaluateTargetHealth": False}
        return {"Name": traffic.name, "Type": "A", "AliasTarget": target}
    values = [{"Value": front.dns}]
    return {"Name": traffic.name, "Type": "CNAME", "TTL": traffic.ttl_s, "ResourceRecords": values}


def _points_at(record: Json | None, front: Front) -> bool:
    if record is None:
        return False
    if "AliasTarget" in record:
        return bool(front.dns) and same_name(record["AliasTarget"]["DNSName"], front.dns)
    values = sorted(item["Value"] for item in record.get("ResourceRecords") or [])
    if front.addresses:
        return values == sorted(front.addresses)
    return len(values) == 1 and same_name(values[0], front.dns)


class SwitchInput(Model):
    """The site to send users to, by role or name."""

    to: str = "target"


class SwitchOutput(Model):
    """The name and what it points at; empty for a group without a name."""

    name: str = ""
    to: str = ""
    points_at: str = ""


class Switch(Action[SwitchInput, SwitchOutput]):
    """Point the group's name at a site."""

    name = "traffic.switch"
    summary = "point the group's name at a site"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    protects = True
    permissions = (
        "route53:ChangeResourceRecordSets",
        "route53:ListResourceRecordSets",
        "route53:GetHostedZone",
        "elasticloadbalancing:DescribeLoadBalancers",
    )
    Input = SwitchInput
    Output = SwitchOutput

    def start(self, ctx: Context, given: SwitchInput) -> Answer[SwitchOutput]:
        traffic = ctx.group.traffic
        if traffic is not None:
            site, front = ctx.site(traffic.site), _front(ctx, given.to)
            present = record_of(site, traffic)
            if not _points_at(present, front):
                change = {
                    "Action": "UPSERT",
                    "ResourceRecordSet": wanted_record(site, traffic, front, present),
                }
                batch: Json = {"Comment": f"drpilot:{ctx.name}/{ctx.path}", "Changes": [change]}
                params: Json = {"HostedZoneId": traffic.zone, "ChangeBatch": batch}
                site.call("route53", "ChangeResourceRecordSets", params)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: SwitchInput) -> Answer[SwitchOutput]:
        traffic, to = ctx.group.traffic, site_name(ctx, given.to)
        if traffic is None:
            return Done(SwitchOutput(to=to))
        front = _front(ctx, given.to)
        if not _points_at(record_of(ctx.site(traffic.site), traffic), front):
            return Unseen(True, f"{traffic.name} does not point at {to}")
        return Done(SwitchOutput(name=traffic.name, to=to, points_at=front.dns or ",".join(front.addresses)))

    def undo(self, given: SwitchInput, output: SwitchOutput) -> Call | None:
        back = {"target": "source", "source": "target"}.get(given.to)
        return Call("traffic.switch", {"to": back}) if back and output.name else None
