"""One entry point for two sides: weighted record sets at the group's name, and back to the one record that stood there.

A name can't have a simple record set and weighted ones at once (Route 53 API reference, ResourceRecordSet, Weight), so
the change is one batch that deletes and creates, which takes effect as a whole. A name that its owner has given weights
already keeps them: the extra set is added beside them, and taken away again.

Each of these acts sets a state. A change counts once it is in sync on all name servers (GetChange); one whose reply was
lost is sent again, which changes nothing and is in sync when its forerunner is.
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from drpilot.actions.traffic import (
    BURST_SET,
    HOME_SET,
    front_at,
    plain_record,
    points_at,
    record_of,
    record_sets,
    wanted_record,
)
from drpilot.actions.views import Nothing
from drpilot.domain.burst import extra_weight, shares, unreachable
from drpilot.domain.group import Traffic
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
    StepFailed,
    Unseen,
    Waiting,
)

__all__ = ["Drain", "Forgotten", "ForgottenInput", "Share", "Unshare", "extra_record", "owned_weight"]

ALIAS_TTL_S = 60
"""What Route 53 answers with for an alias to a load balancer (developer guide, alias and non-alias records)."""

_CHANGE = "change"
_PERMISSIONS = (
    "route53:ChangeResourceRecordSets",
    "route53:ListResourceRecordSets",
    "route53:GetChange",
    "route53:GetHostedZone",
    "elasticloadbalancing:DescribeLoadBalancers",
)


class SharesOutput(Model):
    """The name, and the weight of each record set by its identifier (empty for one record without a weight).

    `ttl_s` is how long a resolver may keep an answer; 0 where there was nothing to keep.
    """

    name: str = ""
    weights: dict[str, int] = Field(default_factory=dict)
    ttl_s: int = 0


def _traffic(ctx: Context) -> Traffic:
    if ctx.group.traffic is None:
        raise StepFailed(FailureClass.PRECONDITION, f"group {ctx.group.name} has no name to send users by")
    return ctx.group.traffic


def _sets(ctx: Context) -> list[Json]:
    traffic = _traffic(ctx)
    return record_sets(ctx.site(traffic.site), traffic)


def _extra(sets: list[Json]) -> Json | None:
    return next((item for item in sets if item.get("SetIdentifier") == BURST_SET), None)


def _submit(ctx: Context, changes: list[Json]) -> Waiting:
    """Send a batch; its id is kept, so that the next look can ask whether it is in sync."""
    traffic = _traffic(ctx)
    batch: Json = {"Comment": f"drpilot:{ctx.name}/{ctx.path}", "Changes": changes}
    params: Json = {"HostedZoneId": traffic.zone, "ChangeBatch": batch}
    reply = ctx.site(traffic.site).call("route53", "ChangeResourceRecordSets", params)
    ctx.checkpoint({_CHANGE: reply["ChangeInfo"]["Id"]})
    return Waiting({}, after_s=1.0, note=f"{traffic.name} was set")


def _in_sync(ctx: Context) -> Waiting | Unseen | None:
    """None once the change of this step is on every name server; Unseen where its id was lost with its reply."""
    change = (ctx.resume or {}).get(_CHANGE)
    if change is None:
        return Unseen(True, "nobody knows which change it was: it is sent again")
    info = ctx.site(_traffic(ctx).site).call("route53", "GetChange", {"Id": change})["ChangeInfo"]
    return (
        None if info["Status"] == "INSYNC" else Waiting({}, after_s=5.0, note=f"{change} is {info['Status']}")
    )


def _upsert(record: Json) -> Json:
    return {"Action": "UPSERT", "ResourceRecordSet": record}


def _delete(record: Json) -> Json:
    return {"Action": "DELETE", "ResourceRecordSet": record}


def _weights(sets: list[Json]) -> dict[str, int]:
    return {item["SetIdentifier"]: int(item["Weight"]) for item in sets if item.get("Weight") is not None}


def owned_weight(sets: list[Json]) -> int | None:
    """The sum of the weights that the owner gave the name, which a burst keeps; None where it has given none."""
    owners = [item for item in sets if item.get("SetIdentifier") not in (None, HOME_SET, BURST_SET)]
    return sum(int(item.get("Weight") or 0) for item in owners) if owners else None


def _ttl_s(record: Json | None) -> int:
    return 0 if record is None else int(record.get("TTL") or ALIAS_TTL_S)


def extra_record(ctx: Context, home: Json) -> Json:
    """The record set that leads to the target beside `home`, without a weight yet.

    StepFailed (precondition) where it can't be of the same type: weighted sets stand together by name and type.
    """
    traffic = _traffic(ctx)
    extra = wanted_record(ctx.site(traffic.site), traffic, front_at(ctx, "target"), home)
    if extra["Type"] != home["Type"]:
        text = f"{traffic.name} is of type {home['Type']}; the load balancer on {ctx.target} takes {extra['Type']}"
        raise StepFailed(FailureClass.PRECONDITION, text)
    if home.get("TTL") is not None and "TTL" in extra:
        extra["TTL"] = home["TTL"]  # weighted sets of one name have one TTL
    if "AliasTarget" in extra:  # nobody is sent there while no extra machine is healthy
        extra["AliasTarget"] = {**extra["AliasTarget"], "EvaluateTargetHealth": True}
    return extra


class ShareInput(Model):
    """The share of the users in percent, and the tier."""

    tier: str
    weight: int


class Share(Action[ShareInput, SharesOutput]):
    """Send a share of the users to the extra machines: a second, weighted record set beside the home one."""

    name = "burst.share"
    summary = "send a share of the users to the extra machines by weighted DNS"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    protects = True
    permissions = _PERMISSIONS
    at = ("target", "source")
    Input = ShareInput
    Output = SharesOutput

    def start(self, ctx: Context, given: ShareInput) -> Answer[SharesOutput]:
        sets = _sets(ctx)
        wanted = self._wanted(ctx, sets, given.weight)
        changes = [_delete(item) for item in sets if "SetIdentifier" not in item]
        return _submit(ctx, [*changes, *(_upsert(item) for item in wanted)])

    @staticmethod
    def _wanted(ctx: Context, sets: list[Json], percent: int) -> list[Json]:
        """The weighted sets to put: the home one only where it is ours to give a weight."""
        traffic = _traffic(ctx)
        site = ctx.site(traffic.site)
        home = plain_record(record_of(site, traffic))
        if home is None or not points_at(home, front_at(ctx, "source")):
            text = f"{traffic.name} does not lead to {ctx.source}"
            raise StepFailed(FailureClass.PRECONDITION, text)
        extra = extra_record(ctx, home)
        standing = owned_weight(sets)
        if standing is not None:
            short = unreachable(standing, percent)
            if short:  # the owner has changed them since `check.burst_ready` looked
                text = f"{traffic.name} can't send {percent} % of the users to {ctx.target}: {short}"
                raise StepFailed(FailureClass.PRECONDITION, text)
            weight = extra_weight(standing, percent)
            return [{**extra, "SetIdentifier": BURST_SET, "Weight": weight}]
        ours, theirs = shares(percent)
        return [
            {**home, "SetIdentifier": HOME_SET, "Weight": ours},
            {**extra, "SetIdentifier": BURST_SET, "Weight": theirs},
        ]

    def observe(self, ctx: Context, given: ShareInput) -> Answer[SharesOutput]:
        sets = _sets(ctx)
        extra = _extra(sets)
        if extra is None or not int(extra["Weight"]):
            return Unseen(True, f"nobody is sent to {ctx.target} by {_traffic(ctx).name}")
        pending = _in_sync(ctx)
        if pending is not None:
            return pending
        move = Move("burst", ctx.group.name, "serve", {"healthy": True}, unless=("serving",))
        return Done(
            SharesOutput(name=_traffic(ctx).name, weights=_weights(sets), ttl_s=_ttl_s(extra)), (move,)
        )


class Drain(Action[Nothing, SharesOutput]):
    """Send nobody new to the extra machines: weight 0, which Route 53 never answers with beside one that is more."""

    name = "burst.drain"
    summary = "send nobody new to the extra machines: weight 0"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    protects = True
    permissions = _PERMISSIONS
    at = ()
    Input = Nothing
    Output = SharesOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[SharesOutput]:
        extra = _extra(_sets(ctx))
        if extra is None:
            return self.observe(ctx, given)  # never shared, or a failover has taken the name
        return _submit(ctx, [_upsert({**extra, "Weight": 0})])

    def observe(self, ctx: Context, given: Nothing) -> Answer[SharesOutput]:
        sets = _sets(ctx)
        extra = _extra(sets)
        move = Move("burst", ctx.group.name, "drain", unless=("draining",))
        if extra is None:
            return Done(SharesOutput(name=_traffic(ctx).name), (move,))
        if int(extra["Weight"]):
            return Unseen(True, f"{_traffic(ctx).name} still sends users to {ctx.target}")
        pending = _in_sync(ctx)
        if pending is not None:
            return pending
        output = SharesOutput(name=_traffic(ctx).name, weights=_weights(sets), ttl_s=_ttl_s(extra))
        return Done(output, (move,))


class ForgottenInput(Model):
    """How long a resolver may keep an answer, in seconds."""

    ttl_s: int


class ForgottenOutput(Model):
    """How long was waited, in seconds."""

    ttl_s: int


class Forgotten(Action[ForgottenInput, ForgottenOutput]):
    """Wait until no resolver has an answer left that leads to the extra machines: their TTL after the change was in
    sync.
    """

    name = "burst.forgotten"
    summary = "wait until no resolver has an answer left that leads to the extra machines"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    protects = True
    at = ()
    Input = ForgottenInput
    Output = ForgottenOutput

    def start(self, ctx: Context, given: ForgottenInput) -> Answer[ForgottenOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: ForgottenInput) -> Answer[ForgottenOutput]:
        left_s = (ctx.intended_at + timedelta(seconds=given.ttl_s) - ctx.clock.now()).total_seconds()
        if left_s > 0:
            return Waiting({}, after_s=left_s, note=f"resolvers may keep an answer for {given.ttl_s} s")
        return Done(ForgottenOutput(ttl_s=given.ttl_s))


class Unshare(Action[Nothing, SharesOutput]):
    """Take the extra record set away; where the home one was simple before, it is again, as it stands now."""

    name = "burst.unshare"
    summary = "take the extra record set away; the name has one record again"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    protects = True
    permissions = _PERMISSIONS
    at = ()
    Input = Nothing
    Output = SharesOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[SharesOutput]:
        sets = _sets(ctx)
        ours = [item for item in sets if item.get("SetIdentifier") in (HOME_SET, BURST_SET)]
        if not ours:
            return self.observe(ctx, given)
        home = [plain_record(item) for item in ours if item["SetIdentifier"] == HOME_SET]
        created = [{"Action": "CREATE", "ResourceRecordSet": item} for item in home]
        return _submit(ctx, [*(_delete(item) for item in ours), *created])

    def observe(self, ctx: Context, given: Nothing) -> Answer[SharesOutput]:
        sets = _sets(ctx)
        ours = [item for item in sets if item.get("SetIdentifier") in (HOME_SET, BURST_SET)]
        if ours:
            return Unseen(True, f"{_traffic(ctx).name} still has a burst's record sets")
        return Done(SharesOutput(name=_traffic(ctx).name, weights=_weights(sets)))
