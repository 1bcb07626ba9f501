"""The load balancer of a tier on the target: made, completed, filled, removed, whatever the target calls one.

ELBv2 where the site has it: balancer, target group and listener, each known by a name that is unique on a site.
Classic ELB elsewhere: one balancer with its listener and its health check. What stands already is adopted. The
balancer's words are ELBv2's on both sides (inventory/balancing.py); what a classic one can't say is left out here and
told beforehand (inventory/losses.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from drpilot.actions.carry import group_ids
from drpilot.actions.placing import Spread, spread
from drpilot.actions.views import first, not_found, tag_list, tags_of
from drpilot.domain.group import Group, LoadBalancer, ScalingGroup, Tier
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, Context, FailureClass, Site, StepFailed
from drpilot.inventory.balancing import Classic, SecondGeneration, balancing

__all__ = [
    "Removable",
    "attached",
    "build",
    "buildable",
    "check_of",
    "dismiss",
    "enrol",
    "enrolled",
    "facts",
    "lacking",
    "removable",
    "remove",
]

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
_WEB = ("HTTP", "HTTPS")
_CERTIFIED = ("HTTPS", "SSL")
_MADE = "made"
_OURS = frozenset({"drpilot:attempt", "drpilot:standby"})


def _kind(site: Site) -> SecondGeneration | Classic:
    """The site's kind of balancer; StepFailed (precondition) where it has none."""
    found = balancing(site)
    if not isinstance(found, SecondGeneration | Classic):
        raise StepFailed(FailureClass.PRECONDITION, f"{site.name} has no load balancers")
    return found


def unlisted(site: Site, operation: str, what: str) -> CloudError:
    """What was made a moment ago is not listed yet: only a later look can tell, with the same token."""
    return CloudError(
        FailureClass.TRANSIENT,
        "NotListedYet",
        f"{what} is not listed yet",
        happened="unknown",
        site=site.name,
        operation=operation,
    )


# -- building --------------------------------------------------------------------------------------------


def buildable(ctx: Context, tier: Tier) -> None:
    """StepFailed where the map or the target lacks what the tier's balancer needs; asked before anything is made."""
    given, site = tier.load_balancer, ctx.site("target")
    if given is None:
        return
    kind = _kind(site)
    if kind.find(given.key) is None:
        where = spread(ctx, given.subnets, given.zones)
        _groups(ctx, tier, given, where)
    if isinstance(kind, Classic) and not _listens(kind, given) and _listener(given)["Protocol"] in _CERTIFIED:
        text = (
            f"listener {given.port} of {given.key} needs a certificate on {site.name}; make it there by hand"
        )
        raise StepFailed(FailureClass.PRECONDITION, text)


def build(ctx: Context, tier: Tier) -> None:
    """Make what is missing of the tier's balancer on the target."""
    given = tier.load_balancer
    if given is None:
        return
    kind, where = _kind(ctx.site("target")), spread(ctx, given.subnets, given.zones)
    if isinstance(kind, Classic):
        _build_classic(ctx, tier, given, where)
    else:
        _build_second(ctx, tier, given, where)


def _groups(ctx: Context, tier: Tier, given: LoadBalancer, where: Spread) -> list[str]:
    """The security groups of the balancer. One that comes from a cloud without networks has none of its own, and would
    get those that let nobody in: it stands in the groups of its tier's machines.
    """
    names = given.security_groups
    if given.type == "classic" and not names:
        names = tuple(sorted({name for item in tier.instances for name in item.security_groups}))
        names = tier.scaling_group.security_groups if tier.scaling_group is not None else names
    return group_ids(ctx, ctx.site("target"), names, where.vpc)


def _tags(ctx: Context, tier: Tier, given: LoadBalancer) -> list[dict[str, str]]:
    return tag_list(ctx.tags(tier=tier.name, member=given.key, standby="true"))


def _build_second(ctx: Context, tier: Tier, given: LoadBalancer, where: Spread) -> None:
    site, tags = ctx.site("target"), _tags(ctx, tier, given)
    kind = SecondGeneration(site)
    found = kind.find(given.key)
    arn = found.arn if found is not None else ""
    if found is None:
        params: Json = {
            "Name": given.key,
            "Subnets": list(where.subnets),
            "SecurityGroups": _groups(ctx, tier, given, where),
            "Scheme": given.scheme,
            "Type": _type(given),
            "Tags": tags,
        }
        made = first(site.call("elbv2", "CreateLoadBalancer", params).get("LoadBalancers") or [])
        arn = str((made or {}).get("LoadBalancerArn") or "")
    targets = kind.targets_of(given)
    if targets is None:
        params = _target_group(given, where.vpc) | {"Tags": tags}
        targets = first(site.call("elbv2", "CreateTargetGroup", params).get("TargetGroups") or [])
    if arn and targets is not None and not any(one.get("Port") == given.port for one in kind.listeners(arn)):
        listener: Json = {
            "LoadBalancerArn": arn,
            "Port": given.port,
            "Protocol": _second(given.protocol),
            "DefaultActions": [{"Type": "forward", "TargetGroupArn": targets["TargetGroupArn"]}],
            "Tags": tags,
        }
        _unless(site, "elbv2", ("CreateListener", listener), "DuplicateListener")


def _unless(site: Site, service: str, call: tuple[str, Json], known: str) -> None:
    """Create; that it is there already means that another attempt's reply was lost."""
    try:
        site.call(service, *call)
    except CloudError as error:
        if error.code != known:
            raise


def _type(given: LoadBalancer) -> str:
    if given.type != "classic":
        return given.type
    return "application" if given.protocol.upper() in _WEB else "network"


def _second(protocol: str) -> str:
    """A protocol in ELBv2's words."""
    return "TLS" if protocol.upper() == "SSL" else protocol


def _target_group(given: LoadBalancer, vpc: str) -> Json:
    health = {key: given.health[key] for key in _HEALTH if given.health.get(key) is not None}
    plain = health.get("HealthCheckProtocol") == "TCP"
    if plain and _type(given) == "application":
        # An application balancer can't ask by TCP: any answer that is no error of the server stands for it.
        health |= {"HealthCheckProtocol": "HTTP", "Matcher": {"HttpCode": "200-499"}}
        plain = False
    return {
        "Name": _target_name(given),
        "Protocol": _second(given.target_protocol),
        "Port": given.target_port,
        "VpcId": vpc,
        "TargetType": "instance",
        **({} if plain else {"HealthCheckPath": given.health_path}),
        **health,
    }


def _target_name(given: LoadBalancer) -> str:
    """The name of a tier's target group; a classic balancer has none, so its own name stands for it."""
    name = given.target_group or given.key
    return name.split("/")[-2] if name.startswith("arn:") else name


def _build_classic(ctx: Context, tier: Tier, given: LoadBalancer, where: Spread) -> None:
    site, wanted = ctx.site("target"), check_of(given)
    kind = Classic(site)
    row = kind.row(given.key)
    if row is None:
        place: Json = {"AvailabilityZones": list(where.zones)}
        if where.subnets:
            groups = _groups(ctx, tier, given, where)
            place = {"Subnets": list(where.subnets), **({"SecurityGroups": groups} if groups else {})}
            place |= {"Scheme": "internal"} if given.scheme == "internal" else {}
        params: Json = {"LoadBalancerName": given.key, "Listeners": [_listener(given)], **place}
        if "elb:tags" in site.capabilities:
            params["Tags"] = _tags(ctx, tier, given)
        else:  # nothing on it will ever say whose it is: what was not there before is ours
            made = {*((ctx.resume or {}).get(_MADE) or ()), given.key}
            ctx.checkpoint({**(ctx.resume or {}), _MADE: sorted(made)})
        _unless(site, "elb", ("CreateLoadBalancer", params), "DuplicateLoadBalancerName")
    elif not _listens(kind, given):
        params = {"LoadBalancerName": given.key, "Listeners": [_listener(given)]}
        _unless(site, "elb", ("CreateLoadBalancerListeners", params), "DuplicateListener")
    if row is None or row.get("HealthCheck") != wanted:
        site.call("elb", "ConfigureHealthCheck", {"LoadBalancerName": given.key, "HealthCheck": wanted})


def _listens(kind: Classic, given: LoadBalancer) -> bool:
    return any(one.port == given.port for one in kind.listening(given))


def _classic(protocol: str) -> str:
    """A protocol in classic words; StepFailed (invalid) for one that a classic balancer has not."""
    known = {"HTTP": "HTTP", "HTTPS": "HTTPS", "TCP": "TCP", "TLS": "SSL", "SSL": "SSL"}
    if protocol.upper() not in known:
        raise StepFailed(FailureClass.INVALID, f"a classic load balancer has no protocol {protocol}")
    return known[protocol.upper()]


def _listener(given: LoadBalancer) -> Json:
    return {
        "Protocol": _classic(given.protocol),
        "LoadBalancerPort": given.port,
        "InstanceProtocol": _classic(given.target_protocol or given.protocol),
        "InstancePort": given.target_port,
    }


def check_of(given: LoadBalancer) -> Json:
    """The health check as a classic balancer takes it, within its bounds: 5 to 300 s between two questions, 2 to 60 s
    for an answer and less than between them, 2 to 10 in a row. It has no word about statuses: only 200 is healthy.
    """
    health = given.health
    port = str(health.get("HealthCheckPort") or "traffic-port")
    number = given.target_port if port == "traffic-port" else int(port)
    protocol = str(health.get("HealthCheckProtocol") or given.target_protocol or "TCP").upper()
    web = protocol in _WEB
    target = f"{protocol if web else 'TCP'}:{number}{given.health_path if web else ''}"
    interval = _within(health.get("HealthCheckIntervalSeconds"), 30, (5, 300))
    timeout = _within(health.get("HealthCheckTimeoutSeconds"), 5, (2, 60))
    return {
        "Target": target,
        "Interval": interval,
        "Timeout": min(timeout, interval - 1),
        "UnhealthyThreshold": _within(health.get("UnhealthyThresholdCount"), 2, (2, 10)),
        "HealthyThreshold": _within(health.get("HealthyThresholdCount"), 5, (2, 10)),
    }


def _within(value: object, default: int, bounds: tuple[int, int]) -> int:
    number = default if value is None else int(str(value))
    return min(max(number, bounds[0]), bounds[1])


def facts(ctx: Context, tier: Tier) -> Json | None:
    """What stands for the tier's balancer, as the journal keeps it; None while something is missing.

    `load_balancer`: arn or name, dns, zone, state, and `made` where only the journal knows that we made it; with ELBv2
    `target_group`.
    """
    given, site = tier.load_balancer, ctx.site("target")
    if given is None:
        return {}
    kind = _kind(site)
    there = kind.find(given.key)
    if there is None:
        return None
    common: Json = {"dns": there.dns, "zone": there.zone, "state": there.state}
    if isinstance(kind, SecondGeneration):
        targets = kind.targets_of(given)
        listens = any(one.get("Port") == given.port for one in kind.listeners(there.arn))
        if targets is None or not listens:
            return None
        return {
            "load_balancer": {"arn": there.arn, **common},
            "target_group": targets["TargetGroupArn"],
        }
    row = kind.row(given.key)
    if row is None or row.get("HealthCheck") != check_of(given) or not _listens(kind, given):
        return None
    known = ctx.standby(tier.name, ctx.target).facts.get("load_balancer") or {}
    made = given.key in ((ctx.resume or {}).get(_MADE) or ()) or bool(known.get(_MADE))
    return {"load_balancer": {"name": given.key, **common, **({_MADE: True} if made else {})}}


# -- what is behind it -----------------------------------------------------------------------------------


def _fronts(tier: Tier, group: ScalingGroup) -> tuple[list[str], list[str]]:
    """Of what the group is behind: target groups and classic balancers that are not the tier's own balancer."""
    front = tier.load_balancer
    own = {front.key, _target_name(front)} if front is not None else set()
    targets = [name.split("/")[-2] if name.startswith("arn:") else name for name in group.target_groups]
    return [name for name in targets if name not in own], [
        name for name in group.balancers if name not in own
    ]


def lacking(site: Site, tier: Tier, group: ScalingGroup) -> list[str]:
    """What the group is behind on the source, is not made with the tier's balancer, and is not on the site."""
    kind = balancing(site)
    targets, balancers = _fronts(tier, group)
    if isinstance(kind, SecondGeneration):
        return [f"target group {name}" for name in [*targets, *balancers] if kind.target_group(name) is None]
    if isinstance(kind, Classic):
        return [f"load balancer {name}" for name in [*targets, *balancers] if kind.row(name) is None]
    return [f"load balancer {name}" for name in [*targets, *balancers]]


def attached(site: Site, tier: Tier, group: ScalingGroup) -> Json:
    """What a scaling group is put behind, as CreateAutoScalingGroup takes it; empty where it is behind nothing.

    Raises CloudError (not listed yet) for what this step has just made.
    """
    front, kind = tier.load_balancer, balancing(site)
    further = [name for names in _fronts(tier, group) for name in names]
    own = [front] if front is not None and len(further) < len(group.target_groups + group.balancers) else []
    if isinstance(kind, SecondGeneration):
        return {
            "TargetGroupARNs": [
                *(_found(kind, name) for name in further),
                *(_own(kind, one) for one in own),
            ]
        }
    names = [*further, *(one.key for one in own)]
    return {"LoadBalancerNames": names} if names else {}


def _found(kind: SecondGeneration, name: str) -> str:
    found = kind.target_group(name)
    if found is None:
        raise unlisted(kind.site, "DescribeTargetGroups", f"target group {name}")
    return str(found["TargetGroupArn"])


def _own(kind: SecondGeneration, front: LoadBalancer) -> str:
    found = kind.targets_of(front)
    if found is None:  # `buildable` has seen it, or this step has just made it
        raise unlisted(kind.site, "DescribeTargetGroups", f"target group {_target_name(front)}")
    return str(found["TargetGroupArn"])


def enrol(site: Site, given: LoadBalancer, ids: Iterable[str]) -> None:
    """Put instances behind the balancer; safe to repeat."""
    _place(site, given, ids, ("RegisterTargets", "RegisterInstancesWithLoadBalancer"))


def enrolled(site: Site, given: LoadBalancer) -> set[str]:
    """The instances behind the balancer; one that is being taken away is not."""
    kind = balancing(site)
    behind = kind.behind(given) if kind is not None else None
    return {one for one, state in (behind or {}).items() if state != "draining"}


def dismiss(site: Site, given: LoadBalancer, ids: Iterable[str]) -> None:
    """Take instances from behind the balancer; one that is not there is as wanted."""
    try:
        _place(site, given, ids, ("DeregisterTargets", "DeregisterInstancesFromLoadBalancer"))
    except CloudError as error:
        if not not_found(error) and error.code not in ("InvalidInstance", "InvalidTarget"):
            raise


def _place(site: Site, given: LoadBalancer, ids: Iterable[str], words: tuple[str, str]) -> None:
    chosen, kind = sorted(ids), _kind(site)
    if not chosen:
        return
    if isinstance(kind, Classic):
        given_ids = [{"InstanceId": one} for one in chosen]
        site.call("elb", words[1], {"LoadBalancerName": given.key, "Instances": given_ids})
        return
    params: Json = {"TargetGroupArn": _own(kind, given), "Targets": [{"Id": one} for one in chosen]}
    site.call("elbv2", words[0], params)


# -- removing --------------------------------------------------------------------------------------------

Removable = tuple[str, str, Json]
"""What is to be removed: its id for a person, the operation, its parameters; balancers before target groups."""


def removable(ctx: Context, site: Site) -> list[tuple[str, Removable]]:
    """The balancers and target groups of the group's tiers that we made on the target: service and call."""
    kind, tiers = balancing(site), [tier for tier in ctx.group.tiers if tier.load_balancer is not None]
    if isinstance(kind, Classic):
        return [("elb", one) for one in _classic_removable(ctx, kind, tiers)]
    if kind is None:
        return []
    return [("elbv2", one) for one in _second_removable(ctx.group, SecondGeneration(site), tiers)]


def remove(site: Site, found: Sequence[tuple[str, Removable]]) -> None:
    """Delete what `removable` found; that it is gone already is as wanted."""
    for service, (_, operation, params) in found:
        try:
            site.call(service, operation, params)
        except CloudError as error:
            if not not_found(error):
                raise


def _second_removable(group: Group, kind: SecondGeneration, tiers: Sequence[Tier]) -> list[Removable]:
    fronts = [tier.load_balancer for tier in tiers if tier.load_balancer is not None]
    standing = [found for front in fronts if (found := kind.find(front.key)) is not None]
    targets = [there for front in fronts if (there := kind.targets_of(front)) is not None]
    balancers = _ours(group, kind.site, [found.arn for found in standing])
    groups = _ours(group, kind.site, [str(there["TargetGroupArn"]) for there in targets])
    return [
        *((arn, "DeleteLoadBalancer", {"LoadBalancerArn": arn}) for arn in balancers),
        *((arn, "DeleteTargetGroup", {"TargetGroupArn": arn}) for arn in groups),
    ]


def _ours(group: Group, site: Site, arns: list[str]) -> list[str]:
    if not arns:
        return []
    listed = site.call("elbv2", "DescribeTags", {"ResourceArns": arns}).get("TagDescriptions") or []
    tags = {item["ResourceArn"]: tags_of(item) for item in listed}
    return [arn for arn in arns if _marked(group, tags.get(arn, {}))]


def _marked(group: Group, tags: dict[str, str]) -> bool:
    return tags.get("drpilot:group") == group.name and tags.keys() >= _OURS


def _classic_removable(ctx: Context, kind: Classic, tiers: Sequence[Tier]) -> list[Removable]:
    names = []
    tags: dict[str, dict[str, str]] = {}
    if "elb:tags" in kind.site.capabilities:
        tags = {one.name: dict(one.tags) for one in kind.tagged()}
    for tier in tiers:
        name = tier.load_balancer.key if tier.load_balancer is not None else ""
        recorded = ctx.standby(tier.name, kind.site.name).facts.get("load_balancer") or {}
        made = _marked(ctx.group, tags[name]) if name in tags else bool(recorded.get(_MADE))
        if made and kind.row(name) is not None:
            names.append(name)
    return [(name, "DeleteLoadBalancer", {"LoadBalancerName": name}) for name in names]
