"""What members lose on their way to another kind of cloud, told before anything is built: a pure comparison.

Each loss is a parameter or a property that the other site's kind of cloud does not have, as its capabilities say. What
is told here is left out there on purpose (actions/placing.py, balancers.py, launches.py); nothing else is dropped.
There is one finding a tier and property, so that a group of two hundred machines stays readable.

Sources: the dialects' own (drpilot/clouds/eucalyptus.py); Elastic Load Balancing API references of both generations.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from drpilot.base.errors import Finding
from drpilot.domain.group import Group, Instance, LoadBalancer, ScalingGroup, Tier

__all__ = ["losses"]

_ENDPOINT = {"HttpTokens": "optional", "HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 1}
"""Metadata options that say no more than a cloud without them does."""
_SIMPLE = {"gp2", "gp3", "standard", ""}
_BASELINE_IOPS = 3000  # what every gp3 volume has (EC2 user guide, "General Purpose SSD volumes")
_WEB = ("HTTP", "HTTPS")
_KNOWN = "info"


def losses(group: Group, here: Collection[str], there: Collection[str], site: str) -> tuple[Finding, ...]:
    """Findings `carried-with-loss` for what the members of `group` lose on `site`.

    `here` and `there` are the capabilities of the side they run on and of `site`. `group` carries its members. What
    would stop a standby from being built is an error, what the group file or its machines can mend a warning. What
    nobody can mend informs: it is decided once, when the group is taken in, and is no finding of every later look.
    """
    found: list[Finding] = []
    for tier in group.tiers:
        found += (_loss(tier, what, hint, _KNOWN) for what, hint in _machines(tier, there, site))
        found += (_loss(tier, what, hint, _KNOWN) for what, hint in _network(tier, here, there, site))
        found += (_loss(tier, what, hint) for what, hint in _instants(tier, here))
        if tier.load_balancer is not None:
            found += _balancer(tier, tier.load_balancer, there, site)
    found += _of_group(group, there, site)
    return tuple(found)


def _loss(tier: Tier, what: str, hint: str, severity: str = "warning") -> Finding:
    return Finding("carried-with-loss", severity, what, f"tiers.{tier.name}", hint)


def _named(members: Iterable[Instance | ScalingGroup]) -> str:
    keys = [one.key for one in members]
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _members(tier: Tier) -> list[Instance | ScalingGroup]:
    return [*tier.instances, *([tier.scaling_group] if tier.scaling_group is not None else [])]


def _machines(tier: Tier, there: Collection[str], site: str) -> Iterator[tuple[str, str]]:
    members = _members(tier)
    demanding = [one for one in members if _says_something(one)]
    if demanding and "metadata-options" not in there:
        what = f"metadata options of {_named(demanding)} can't be carried to {site}: it has none"
        yield what, "guests there ask the metadata service without a token"
    with_role = [one for one in members if one.profile]
    if with_role and "iam" not in there:
        what = f"the instance profile of {_named(with_role)} can't be carried to {site}: it has no IAM"
        yield what, "give the program its credentials another way there"
    if "termination-protection" not in there:
        guarded = [one for one in tier.instances if one.termination_protection]
        if guarded:
            yield f"termination protection of {_named(guarded)} can't be carried to {site}", "mind it there"
    yield from _disks(tier, there, site)


def _instants(tier: Tier, here: Collection[str]) -> Iterator[tuple[str, str]]:
    several = [one for one in tier.instances if len([v for v in one.volumes if not v.root]) > 1]
    if several and "ec2:CreateSnapshots" not in here and not tier.freeze:
        what = f"the volumes of {_named(several)} can't be captured at one instant where they are"
        yield what, "give the tier `freeze`; without, its points are crash-consistent per volume only"


def _says_something(member: Instance | ScalingGroup) -> bool:
    options = member.metadata_options
    return any(options[name] != _ENDPOINT.get(name, "disabled") for name in options)


def _disks(tier: Tier, there: Collection[str], site: str) -> Iterator[tuple[str, str]]:
    volumes = [volume for one in tier.instances for volume in one.volumes]
    kinds = sorted({volume.type for volume in volumes if volume.type not in _SIMPLE})
    fast = sorted({volume.iops or 0 for volume in volumes} - set(range(_BASELINE_IOPS + 1)))
    if volumes and "volume-types" not in there and (kinds or fast):
        most = f" (up to {fast[-1]} IOPS)" if fast else ""
        what = (
            f"volume types {', '.join(kinds or ['gp3'])}{most} of tier {tier.name} can't be carried to {site}"
        )
        yield f"{what}: it has one kind of volume", "measure in a drill whether its disks are fast enough"
    encrypted = [one for one in tier.instances if any(volume.encrypted for volume in one.volumes)]
    scaled = (
        [tier.scaling_group] if tier.scaling_group is not None and tier.scaling_group.encrypted_key else []
    )
    if (encrypted or scaled) and "kms" not in there:
        what = (
            f"volumes of {_named([*encrypted, *scaled])} are encrypted; on {site} they are not: it has no KMS"
        )
        yield what, "encrypt inside the machine, if the data must be encrypted at rest there"


def _network(
    tier: Tier, here: Collection[str], there: Collection[str], site: str
) -> Iterator[tuple[str, str]]:
    if "vpc" in here and "vpc" not in there:
        fixed = [one for one in tier.instances if one.private_address]
        if fixed:
            what = f"the private address of {_named(fixed)} can't be kept on {site}: it has no networks"
            yield what, "let the tiers find each other by name"
    kept = [one for one in tier.instances if one.elastic_address]
    if kept and "address-tags" not in there:
        what = f"no elastic address can be kept ahead on {site} for {_named(kept)}: addresses carry no tags there"
        yield what, "allocate and bind one by hand after a move, or let users reach it by a name (traffic)"


# -- balancers -------------------------------------------------------------------------------------------


def _balancer(tier: Tier, front: LoadBalancer, there: Collection[str], site: str) -> Iterator[Finding]:
    if front.type == "classic" and not front.security_groups and "vpc" in there:
        what = f"load balancer {front.key} has no security groups; on {site} it gets those of its tier's machines"
        yield _loss(tier, what, f"see that those let its users in on port {front.port}", _KNOWN)
    if "elbv2" in there:
        yield from _to_second(tier, front, site)
    elif "elb" in there:
        yield from _to_classic(tier, front, there, site)
    else:
        what = f"load balancer {front.key} can't be carried to {site}: it has none"
        yield _loss(tier, what, "let the name lead to the machines themselves there", "error")


def _to_second(tier: Tier, front: LoadBalancer, site: str) -> Iterator[Finding]:
    """From a classic balancer: its TCP check of a web service has no partner."""
    web = front.protocol.upper() in _WEB
    if front.type == "classic" and web and front.health.get("HealthCheckProtocol") == "TCP":
        what = f"load balancer {front.key}: its TCP check becomes a request for {front.health_path} on {site}"
        yield _loss(tier, what, "any answer below 500 counts as healthy; a check by HTTP says more")


def _to_classic(tier: Tier, front: LoadBalancer, there: Collection[str], site: str) -> Iterator[Finding]:
    lead = f"load balancer {front.key}:"
    if front.protocol.upper() not in (*_WEB, "TCP", "TLS", "SSL"):
        what = f"{lead} {front.protocol} can't be carried to {site}: a classic load balancer has no such protocol"
        yield _loss(tier, what, "let the name lead to the machines themselves there", "error")
    elif front.protocol.upper() in ("HTTPS", "TLS", "SSL"):
        what = f"{lead} listener {front.port} needs a certificate of {site}'s own"
        yield _loss(tier, what, f"make the load balancer on {site} by hand, with its certificate")
    codes = str((front.health.get("Matcher") or {}).get("HttpCode") or "200")
    if codes != "200" and str(front.health.get("HealthCheckProtocol") or "HTTP") in _WEB:
        what = f"{lead} its check takes status {codes}, on {site} 200 alone is healthy"
        yield _loss(tier, what, "let the checked path answer 200")
    counts = {name: front.health.get(name) for name in ("HealthyThresholdCount", "UnhealthyThresholdCount")}
    timeout, interval = (
        front.health.get("HealthCheckTimeoutSeconds"),
        front.health.get("HealthCheckIntervalSeconds"),
    )
    late = timeout is not None and (timeout > 60 or (interval is not None and timeout >= interval))
    if any(count is not None and not 2 <= count <= 10 for count in counts.values()) or late:
        yield _loss(
            tier,
            f"{lead} the times of its check are brought within the bounds of {site}",
            "see its check there",
        )
    if front.scheme == "internal" and "vpc" not in there:
        what = f"{lead} it is internal; on {site}, which has no networks, everybody may reach it"
        yield _loss(tier, what, "let its machines' security groups say who may come", _KNOWN)


# -- the whole group -------------------------------------------------------------------------------------


def _of_group(group: Group, there: Collection[str], site: str) -> Iterator[Finding]:
    if "vpc" in there:
        return
    if "deny" in group.fence:
        what = (
            f"the fence has no rung `deny` on {site}: without networks an instance keeps its security groups"
        )
        hint = "the rungs `scale` and `stop` do the work there"
        yield Finding("carried-with-loss", _KNOWN, what, "fence", hint)
    if not group.drill.outbound_open:
        what = f"a drill on {site} can't keep its machines from speaking out: it has no networks"
        hint = (
            "`drill: {outbound: open}` accepts that; without it a drill there stops before it boots anything"
        )
        yield Finding("carried-with-loss", "warning", what, "drill", hint)
