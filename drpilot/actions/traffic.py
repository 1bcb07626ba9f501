"""The name users reach the group by: one record in a hosted zone, set to a site's load balancer.

An UPSERT sets a state and may be repeated (Route 53 API reference, ChangeResourceRecordSets). A record at
the zone's apex can't be a CNAME, so it is an alias; so is one that already is an alias.
"""

from __future__ import annotations

from typing import Any

from drpilot.actions.addresses import bound_to
from drpilot.actions.members import key_of, members, site_name
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
    Waiting,
)
from drpilot.inventory.balancing import standing

__all__ = [
    "BURST_SET",
    "HOME_SET",
    "Front",
    "Restore",
    "Switch",
    "front_at",
    "front_tier",
    "plain_record",
    "points_at",
    "record_of",
    "record_sets",
    "same_name",
    "wanted_record",
]

HOME_SET, BURST_SET = "drpilot-home", "drpilot-burst"
"""SetIdentifiers of the two weighted record sets that a burst makes of a simple one (actions/burst_traffic.py)."""

_PREVIOUS, _BESIDE = "previous", "beside"


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


def front_at(ctx: Context, role: str) -> Front:
    """What the name must point at for a site."""
    tier, given = front_tier(ctx)
    site = ctx.site(role)
    if given is None:
        return Front(addresses=_addresses(ctx, role, tier))
    try:
        there = standing(site, given.key)
    except CloudError:
        if site_name(ctx, role) != ctx.source:
            raise
        return Front(dns=given.dns)  # the way back must not depend on a site that may not answer
    if there is None:
        raise StepFailed(FailureClass.NOT_FOUND, f"load balancer {given.key} is not on {site.name}")
    # An alias leads to what that service of names knows: its own cloud's balancers, not those of a private cloud.
    traffic = ctx.group.traffic
    known = "alias-target" in site.capabilities or (traffic is not None and traffic.site == site.name)
    return Front(dns=there.dns, zone=there.zone if known else "")


def _addresses(ctx: Context, role: str, tier: Tier) -> tuple[str, ...]:
    """The addresses users meet on a site: elastic ones, which outlive a stop, where the members have such; else the
    public one of the moment, else the private one.

    StepFailed (precondition) where a member has an elastic address and its partner has none: a name that led to a
    private address, or to one that goes with the next stop, would lead nobody.
    """
    site = ctx.site(role)
    can = "address-tags" in site.capabilities  # elsewhere none is kept: the one of the moment has to do
    kept = {item.key for item in tier.instances if item.elastic_address and can}
    found: list[str] = []
    try:
        running = [item for item in members(ctx, site, tier) if item["State"]["Name"] == "running"]
        for item in running:
            key, id_ = key_of(item), item["InstanceId"]
            bound = bound_to(site, item) if key in kept else None
            if bound is None and key in kept:
                text = f"{id_} ({key}) on {site.name} has no elastic address; bind one, then retry"
                raise StepFailed(FailureClass.PRECONDITION, text)
            own = item.get("PublicIpAddress") or item.get("PrivateIpAddress") or ""
            found.append(bound["PublicIp"] if bound is not None else own)
    except CloudError:
        if site_name(ctx, role) != ctx.source:
            raise
        # the way back must not depend on a site that may not answer
        found = [item.elastic_address or item.private_address for item in tier.instances]
    if not any(found):
        raise StepFailed(FailureClass.PRECONDITION, f"no running instance of tier {tier.name} has an address")
    return tuple(sorted(filter(None, found)))


def record_sets(site: Site, traffic: Traffic) -> list[Json]:
    """Every record set of the name that carries users (A or CNAME), as they are in the zone now; a name with a
    routing policy has several.
    """
    params: Json = {"HostedZoneId": traffic.zone, "StartRecordName": traffic.name}
    found: list[Json] = []
    for page in site.pages("route53", "ListResourceRecordSets", params):
        for record in page.get("ResourceRecordSets") or []:
            if not same_name(record["Name"], traffic.name):
                return found  # the listing is sorted by name
            if record["Type"] in ("A", "CNAME"):
                found.append(dict(record))
    return found


def record_of(site: Site, traffic: Traffic) -> Json | None:
    """The first of them that is not a burst's: what leads to the active side."""
    return _main(record_sets(site, traffic))


def _main(sets: list[Json]) -> Json | None:
    return next((item for item in sets if item.get("SetIdentifier") != BURST_SET), None)


def _kept(sets: list[Json]) -> tuple[Json, list[Json]]:
    """What has to be put back some day: the first record set as it stood before any burst (empty where there was none),
    and those that the owner had beside it by a routing policy of their own.
    """
    main = _main(sets)
    ours = (HOME_SET, BURST_SET)
    return plain_record(main) or {}, [
        item for item in sets if item is not main and item.get("SetIdentifier") not in ours
    ]


def plain_record(record: Json | None) -> Json | None:
    """A record set as it stood before a burst gave it a weight; another is handed back as it is."""
    if record is None or record.get("SetIdentifier") != HOME_SET:
        return record
    return {key: value for key, value in record.items() if key not in ("SetIdentifier", "Weight")}


def wanted_record(site: Site, traffic: Traffic, front: Front, present: Json | None) -> Json:
    """The record that points the name at `front`."""
    if front.addresses:
        values = [{"Value": address} for address in front.addresses]
        return {"Name": traffic.name, "Type": "A", "TTL": traffic.ttl_s, "ResourceRecords": values}
    apex = str(site.call("route53", "GetHostedZone", {"Id": traffic.zone})["HostedZone"]["Name"])
    at_apex = same_name(apex, traffic.name)
    if at_apex and not front.zone:
        text = f"the hosted zone of {front.dns} is not known, so no alias can be made"
        raise StepFailed(FailureClass.PRECONDITION, text)
    if front.zone and (at_apex or (present is not None and present["Type"] == "A")):
        target = {"HostedZoneId": front.zone, "DNSName": front.dns, "EvaluateTargetHealth": False}
        return {"Name": traffic.name, "Type": "A", "AliasTarget": target}
    values = [{"Value": front.dns}]
    return {"Name": traffic.name, "Type": "CNAME", "TTL": traffic.ttl_s, "ResourceRecords": values}


def points_at(record: Json | None, front: Front) -> bool:
    """Whether a record set leads to `front`, and to nothing else."""
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
    """The name and what it points at; empty for a group without a name.

    `previous` is the record set that stood there before, in Route 53's own words: empty where there was none,
    None where it is not known because the name pointed there already. `beside` are those that stood beside it: the
    owner's own weights, say.
    """

    name: str = ""
    to: str = ""
    points_at: str = ""
    previous: dict[str, Any] | None = None
    beside: tuple[dict[str, Any], ...] = ()


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
        "ec2:DescribeAddresses",
        "ec2:DescribeInstances",
        "elasticloadbalancing:DescribeLoadBalancers",
    )
    at = ("to",)
    Input = SwitchInput
    Output = SwitchOutput

    def start(self, ctx: Context, given: SwitchInput) -> Answer[SwitchOutput]:
        traffic = ctx.group.traffic
        if traffic is not None:
            site, front = ctx.site(traffic.site), front_at(ctx, given.to)
            sets = record_sets(site, traffic)
            present = _main(sets)
            if not _alone(sets, front):
                wanted = wanted_record(site, traffic, front, present)
                previous, beside = _kept(sets)
                ctx.checkpoint({_PREVIOUS: previous, _BESIDE: beside})  # durable before they are gone
                _put(ctx, site, traffic, (sets, [wanted]))
                # What stood there before is known to the next look, not to one of this moment.
                return Waiting({}, after_s=0.0, note=f"{traffic.name} was set")
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: SwitchInput) -> Answer[SwitchOutput]:
        traffic, to = ctx.group.traffic, site_name(ctx, given.to)
        if traffic is None:
            return Done(SwitchOutput(to=to))
        front = front_at(ctx, given.to)
        if not _alone(record_sets(ctx.site(traffic.site), traffic), front):
            return Unseen(True, f"{traffic.name} does not point at {to} alone")
        kept = ctx.resume or {}
        return Done(
            SwitchOutput(
                name=traffic.name,
                to=to,
                points_at=front.dns or ",".join(front.addresses),
                previous=kept.get(_PREVIOUS),
                beside=tuple(kept.get(_BESIDE) or ()),
            )
        )

    def undo(self, given: SwitchInput, output: SwitchOutput | None) -> Call | None:
        if output is not None and not output.name:
            return None
        if output is None or output.previous is None:
            return Call("traffic.restore", {"switched_to": given.to, "record": None})
        put_back = {"record": output.previous, "beside": list(output.beside)}
        return Call("traffic.restore", {"switched_to": given.to, **put_back})


class RestoreInput(Model):
    """The site users were sent to, and the record set to put back with those that stood `beside` it.

    `record` is empty where there was none; None where it is not known: then the name is pointed at the other site,
    if it does point at this one.
    """

    switched_to: str = "target"
    record: dict[str, Any] | None = None
    beside: tuple[dict[str, Any], ...] = ()


class Restore(Action[RestoreInput, SwitchOutput]):
    """Put the record set back that stood before `traffic.switch`; nothing of the old side is asked for it."""

    name = "traffic.restore"
    summary = "put back the record that stood before the traffic was switched"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    protects = True
    permissions = Switch.permissions
    at = ("switched_to",)
    Input = RestoreInput
    Output = SwitchOutput

    def start(self, ctx: Context, given: RestoreInput) -> Answer[SwitchOutput]:
        traffic = ctx.group.traffic
        if traffic is not None:
            site = ctx.site(traffic.site)
            sets = record_sets(site, traffic)
            wanted = self._wanted(ctx, given, sets)
            if not _same_sets(sets, wanted):
                _put(ctx, site, traffic, (sets, wanted))
        return visible(self.observe, ctx, given)

    @staticmethod
    def _wanted(ctx: Context, given: RestoreInput, sets: list[Json]) -> list[Json]:
        """The record sets to put back; `sets` as they stand, a burst's too, where the name was never switched."""
        traffic = ctx.group.traffic
        if given.record is not None or traffic is None:
            return [item for item in (given.record, *given.beside) if item]
        present = _main(sets)
        if not points_at(present, front_at(ctx, given.switched_to)):
            return sets
        back = "source" if site_name(ctx, given.switched_to) == ctx.target else "target"
        return [wanted_record(ctx.site(traffic.site), traffic, front_at(ctx, back), present)]

    def observe(self, ctx: Context, given: RestoreInput) -> Answer[SwitchOutput]:
        traffic = ctx.group.traffic
        if traffic is None:
            return Done(SwitchOutput())
        sets = record_sets(ctx.site(traffic.site), traffic)
        if not _same_sets(sets, self._wanted(ctx, given, sets)):
            return Unseen(True, f"{traffic.name} is not what it was")
        return Done(SwitchOutput(name=traffic.name, points_at=", ".join(_values(_main(sets)))))


def _alone(sets: list[Json], front: Front) -> bool:
    """Whether one record set without a routing policy carries all users to `front`."""
    return len(sets) == 1 and "SetIdentifier" not in sets[0] and points_at(sets[0], front)


def _place(record: Json) -> tuple[str, str]:
    """What a record set at a name is told from another by, and set over by an UPSERT: its type and its identifier."""
    return record["Type"], record.get("SetIdentifier") or ""


def _put(ctx: Context, site: Site, traffic: Traffic, records: tuple[list[Json], list[Json]]) -> None:
    """Put record sets in the place of those that stand, in one batch, which takes effect as a whole.

    One of another type can't be set over: a CNAME stands alone at its name (RFC 1034, section 3.6.2). Nor do one with a
    routing policy and one without stand together (Route 53 API reference, ResourceRecordSet, Weight).
    """
    present, wanted = records
    places = {_place(item) for item in wanted}
    gone = [item for item in present if _place(item) not in places]
    changes: list[Json] = [
        *({"Action": "DELETE", "ResourceRecordSet": item} for item in gone),
        *({"Action": "UPSERT", "ResourceRecordSet": item} for item in wanted),
    ]
    if changes:
        batch: Json = {"Comment": f"drpilot:{ctx.name}/{ctx.path}", "Changes": changes}
        params: Json = {"HostedZoneId": traffic.zone, "ChangeBatch": batch}
        site.call("route53", "ChangeResourceRecordSets", params)


def _values(record: Json | None) -> list[str]:
    """What a record says: its values, or the name of its alias target; sorted, without a final dot."""
    if not record:
        return []
    if "AliasTarget" in record:
        return [str(record["AliasTarget"]["DNSName"]).lower().rstrip(".").removeprefix("dualstack.")]
    return sorted(str(item["Value"]).rstrip(".") for item in record.get("ResourceRecords") or [])


def _same_record(left: Json, right: Json) -> bool:
    """Whether two record sets of one place say the same, with the same weight if any."""
    same = ("AliasTarget" in left) == ("AliasTarget" in right) and left.get("Weight") == right.get("Weight")
    return same and left.get("TTL") == right.get("TTL") and _values(left) == _values(right)


def _same_sets(left: list[Json], right: list[Json]) -> bool:
    """Whether the record sets at a name are those wanted, and no others."""
    there = {_place(item): item for item in left}
    wanted = {_place(item): item for item in right}
    return there.keys() == wanted.keys() and all(_same_record(there[key], wanted[key]) for key in wanted)
