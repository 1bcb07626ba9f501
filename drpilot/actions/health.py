"""Whether a tier works, and whether users reach it: checks of machines, of target health, and of the name."""

from __future__ import annotations

from urllib.parse import urlsplit

from drpilot.actions.asking import Place, ask, http_answer, resolved
from drpilot.actions.members import group_view, key_of, members, tier_of
from drpilot.actions.traffic import front_tier, record_of, same_name
from drpilot.actions.views import Nothing, Seen, instances, tagged, tags_of
from drpilot.domain.group import LoadBalancer, Tier, Traffic
from drpilot.domain.plain import Json
from drpilot.domain.ports import (
    Action,
    Answer,
    Context,
    Done,
    Effect,
    FailureClass,
    Idempotency,
    Model,
    Move,
    Site,
    StepFailed,
    Waiting,
)
from drpilot.domain.run import MOVES
from drpilot.inventory.balancing import balancing, standing

__all__ = ["DrillTier", "TierHealth", "TrafficHealth"]

_TIMES = 3


class TierInput(Model):
    """One tier."""

    tier: str


class HealthOutput(Model):
    """Everything that was looked at; all of it was as expected."""

    checks: tuple[Seen, ...] = ()
    passed: int = 0


def _judged(checks: list[Seen], moves: tuple[Move, ...], warning: str = "") -> Answer[HealthOutput]:
    """Done if all checks are ok; else not yet, with what was observed: the step's timeout ends it."""
    bad = [item for item in checks if not item.ok]
    if bad:
        note = "; ".join(f"{item.name}: {item.observed}" for item in bad[:3])
        text = f"{len(checks) - len(bad)} of {len(checks)} ok; {note}"
        return Waiting({}, after_s=2.0, progress=(len(checks) - len(bad)) / len(checks), note=text)
    return Done(HealthOutput(checks=tuple(checks), passed=len(checks)), moves, warning)


def _place(tier: Tier, instance: Json) -> Place:
    """An instance with its private, then its public address; behind a load balancer with the target port."""
    addresses = [instance.get("PrivateIpAddress"), instance.get("PublicIpAddress")]
    port = tier.load_balancer.target_port if tier.load_balancer is not None else None
    return Place(key_of(instance), tuple(filter(None, addresses)), port)


def _machines(ctx: Context, site: Site, tier: Tier) -> list[Json]:
    """The machines of a tier on a site: its instances, or those of its group in service."""
    if tier.scaling_group is None:
        keys = {item.key for item in tier.instances}
        return [item for item in members(ctx, site, tier) if key_of(item) in keys]
    group = group_view(site, tier.scaling_group.key)
    if group is None or not group.instance_ids:
        return []
    found = instances(site, [{"Name": "instance-id", "Values": list(group.instance_ids)}])
    return [{**item, "Tags": [{"Key": "Name", "Value": item["InstanceId"]}]} for item in found]


class TierHealth(Action[TierInput, HealthOutput]):
    """Every machine of the tier on the target answers its check, and the load balancer finds its targets
    healthy.
    """

    name = "check.tier"
    summary = "every machine of a tier answers its check, its load balancer's targets are healthy"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    protects = True
    permissions = (
        "ec2:DescribeInstances",
        "autoscaling:DescribeAutoScalingGroups",
        "elasticloadbalancing:DescribeTargetGroups",
        "elasticloadbalancing:DescribeTargetHealth",
        "elasticloadbalancing:DescribeInstanceHealth",
        "elasticloadbalancing:DescribeLoadBalancers",
    )
    Input = TierInput
    Output = HealthOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[HealthOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: TierInput) -> Answer[HealthOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        found = _machines(ctx, site, tier)
        running = [item for item in found if item["State"]["Name"] == "running"]
        wanted = len(tier.instances) or _wanted(ctx, site, tier)
        checks = [
            Seen.of(
                ctx,
                f"{tier.name} machines",
                len(running) >= wanted,
                (f"{wanted} running", f"{len(running)} running"),
            )
        ]
        if tier.check is not None:
            for instance in running:
                checks += ask(ctx, tier.check, _place(tier, instance))
        if tier.load_balancer is not None:
            checks.append(_targets(ctx, site, tier.load_balancer, wanted))
        moves: tuple[Move, ...] = ()
        if ctx.mode in MOVES:
            key = f"{tier.name}@{ctx.target}"
            moves = (Move("standby", key, "verified", {"checked": True}, unless=("active",)),)
        warning = (
            "" if tier.check is not None else f"tier {tier.name} has no check: only its machines were counted"
        )
        return _judged(checks, moves, warning)


def _wanted(ctx: Context, site: Site, tier: Tier) -> int:
    group = group_view(site, tier.scaling_group.key) if tier.scaling_group is not None else None
    if tier.scaling_group is not None and group is None:
        raise StepFailed(FailureClass.NOT_FOUND, f"there is no group {tier.scaling_group.key} on {site.name}")
    return group.desired if group is not None else 0


def _targets(ctx: Context, site: Site, given: LoadBalancer, wanted: int) -> Seen:
    name = f"targets of {given.key}"
    kind = balancing(site)
    behind = kind.behind(given) if kind is not None else None
    if behind is None:
        what = f"no target group {given.target_group}" if given.target_group else f"no {given.key}"
        return Seen.of(ctx, name, False, (f"{wanted} healthy", what))
    states = list(behind.values())
    healthy = states.count("healthy")
    others = sorted(set(states) - {"healthy"})
    observed = f"{healthy} healthy" + (f", others {', '.join(others)}" if others else "")
    return Seen.of(ctx, name, healthy >= max(1, wanted), (f"{wanted} healthy", observed))


class TrafficHealth(Action[Nothing, HealthOutput]):
    """Users reach the target: the name's servers answer with it, and it answers what users ask, three
    times.
    """

    name = "check.traffic"
    summary = "the name leads to the target, and the target answers"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    protects = True
    permissions = (
        "route53:TestDNSAnswer",
        "route53:ListResourceRecordSets",
        "elasticloadbalancing:DescribeLoadBalancers",
    )
    Input = Nothing
    Output = HealthOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[HealthOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[HealthOutput]:
        moves: tuple[Move, ...] = ()
        if ctx.mode in MOVES:
            unless = ("awaiting_commit", "active_unprotected")
            moves = (Move("group", ctx.group.name, "verified", {"checks_green": True}, unless=unless),)
        traffic = ctx.group.traffic
        if traffic is None:
            return Done(HealthOutput(), moves, "the group has no name; nothing leads users to it by itself")
        tier, front = front_tier(ctx)
        checks: list[Seen] = []
        addresses = self._answers(ctx, traffic, tier, checks)
        if front is not None and not addresses:
            there = standing(ctx.site("target"), front.key)
            addresses = resolved(there.dns) if there is not None else ()
        checks += self._asked(ctx, traffic, tier, addresses)
        return _judged(checks, moves)

    @staticmethod
    def _answers(ctx: Context, traffic: Traffic, tier: Tier, checks: list[Seen]) -> tuple[str, ...]:
        """Ask the zone's own servers; adds the look to `checks` and gives the addresses they answer with."""
        site = ctx.site(traffic.site)
        data = _said(site, traffic, "A")
        front = tier.load_balancer
        if front is None:
            found = [
                item for item in members(ctx, ctx.site("target"), tier) if item["State"]["Name"] == "running"
            ]
            wanted = {item.get("PublicIpAddress") or item.get("PrivateIpAddress") for item in found}
            ok = bool(data) and set(data) <= wanted
            checks.append(
                Seen.of(ctx, traffic.name, ok, (", ".join(map(str, wanted)), ", ".join(data) or "nothing"))
            )
            return tuple(data)
        there = standing(ctx.site("target"), front.key)
        dns = there.dns if there is not None else ""
        record = record_of(site, traffic) or {}
        if "AliasTarget" in record:
            # An alias answers with addresses; whose they are the record says.
            said = str(record["AliasTarget"]["DNSName"])
            answered = bool(data) or "route53:TestDNSAnswer" not in site.capabilities
        else:
            said = next(iter(_said(site, traffic, "CNAME")), "")
            answered = bool(said)
        ok = answered and bool(dns) and same_name(said, dns)
        checks.append(Seen.of(ctx, traffic.name, ok, (dns, said or "nothing")))
        return tuple(item for item in data if ok and item.replace(".", "").isdigit())

    @staticmethod
    def _asked(ctx: Context, traffic: Traffic, tier: Tier, addresses: tuple[str, ...]) -> list[Seen]:
        url, port, contains = _users_url(traffic, tier)
        if not addresses:
            return [Seen.of(ctx, url, False, ("200", f"{traffic.name} gives no address yet"))]
        seen = []
        for count in range(_TIMES):
            address = addresses[count % len(addresses)]
            ok, observed = http_answer(url, address, port, contains)
            seen.append(
                Seen.of(ctx, f"{url} {count + 1} of {_TIMES}", ok, ("2xx", f"{observed} from {address}"))
            )
        return seen


def _said(site: Site, traffic: Traffic, kind: str) -> list[str]:
    """What the zone's own servers answer for the name; where they can't be asked, what the record in the zone says."""
    if "route53:TestDNSAnswer" in site.capabilities:
        asked: Json = {"HostedZoneId": traffic.zone, "RecordName": traffic.name, "RecordType": kind}
        answer = site.call("route53", "TestDNSAnswer", asked)
        return [str(item) for item in answer.get("RecordData") or []]
    record = record_of(site, traffic) or {}
    values = record.get("ResourceRecords") or [] if record.get("Type") == kind else []
    return [str(item["Value"]) for item in values]


def _users_url(traffic: Traffic, tier: Tier) -> tuple[str, int | None, str | None]:
    """What users ask: the tier's own URL if it names a host, else its path at the group's name."""
    front, check = tier.load_balancer, tier.check
    scheme = (
        front.protocol.lower()
        if front is not None and front.protocol.lower() in ("http", "https")
        else "http"
    )
    port = front.port if front is not None else None
    contains = check.contains if check is not None else None
    if check is not None and check.http is not None and "{address}" not in check.http:
        return check.http, port, contains
    name = traffic.name.rstrip(".")
    if check is not None and check.http is not None:
        own = urlsplit(check.http.replace("{address}", name))
        if front is None:  # nothing stands between users and the machines: they ask as the check does
            scheme, port = own.scheme, own.port
        return f"{scheme}://{name}{own.path or '/'}", port, contains
    return f"{scheme}://{name}{front.health_path if front is not None else '/'}", port, contains


class DrillTier(Action[TierInput, HealthOutput]):
    """Every machine that the drill booted for the tier answers the tier's check, inside the isolated
    network.
    """

    name = "check.drill"
    summary = "every machine a drill booted for a tier answers its check"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    permissions = ("ec2:DescribeInstances",)
    Input = TierInput
    Output = HealthOutput

    def start(self, ctx: Context, given: TierInput) -> Answer[HealthOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: TierInput) -> Answer[HealthOutput]:
        tier = tier_of(ctx, given.tier)
        filters = [
            {"Name": "tag:drpilot:run", "Values": [ctx.tags()["drpilot:run"]]},
            *tagged(tier=tier.name, drill=""),
        ]
        found = instances(ctx.site("target"), filters)
        wanted = len(tier.instances) or 1
        running = [item for item in found if item["State"]["Name"] == "running"]
        texts = (f"{wanted} running", f"{len(running)} running")
        checks = [Seen.of(ctx, f"{tier.name} machines", len(running) >= wanted, texts)]
        for instance in running:
            name = tags_of(instance).get("drpilot:member") or str(instance["InstanceId"])
            port = tier.load_balancer.target_port if tier.load_balancer is not None else None
            place = Place(name, tuple(filter(None, [instance.get("PrivateIpAddress")])), port)
            if tier.check is not None:
                checks += ask(ctx, tier.check, place)
        warning = (
            "" if tier.check is not None else f"tier {tier.name} has no check: only its machines were counted"
        )
        return _judged(checks, (), warning)
