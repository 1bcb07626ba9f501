"""Making on the target what the group file names and the target has not: key pairs and security groups.

What can be made, and what a person has to, is decided in inventory/making.py. A security group carries our tags and
`drpilot:partner`; rules are only ever added, and only to groups that carry it. Nothing here is taken back: machines
run with it. A key pair is imported by its public half.
"""

from __future__ import annotations

from drpilot.actions.views import Nothing, specification, visible
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
    Unseen,
)
from drpilot.inventory.grouprules import rules_of
from drpilot.inventory.making import Lack, Making, making, ours, translated

__all__ = ["Groups", "Keys", "Look", "Rules"]

_LOOKS = (
    "ec2:DescribeAvailabilityZones",
    "ec2:DescribeInstanceTypeOfferings",
    "ec2:DescribeKeyPairs",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSubnets",
    "ec2:DescribeVpcs",
)
_BOTH = ("target", "source")


class MadeOutput(Model):
    """What was made, or is to be: key pairs and security groups by name."""

    keys: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


def _making(ctx: Context) -> Making:
    return making(ctx.group, ctx.source, ctx.site)


class Look(Action[Nothing, MadeOutput]):
    """Everything the group file names over there, before anything is made; what can't be made is a person's."""

    name = "check.partners"
    summary = "everything that the group file names is on the target, or can be made there"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    permissions = _LOOKS
    at = _BOTH
    Input = Nothing
    Output = MadeOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[MadeOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[MadeOutput]:
        found = _making(ctx)
        refused = [*found.refused, *found.mapped]
        if refused:
            text = f"what can't be made on {ctx.target}: {'; '.join(refused)}"
            raise StepFailed(FailureClass.PRECONDITION, text, data={"refused": refused})
        return Done(_output(found))


def _output(found: Making) -> MadeOutput:
    groups = tuple(dict.fromkeys(each.name for each in found.groups))
    return MadeOutput(keys=tuple(each.name for each in found.keys), groups=groups)


class Keys(Action[Nothing, MadeOutput]):
    """Import the public halves of missing key pairs; a name that is taken by now was taken by this step."""

    name = "partner.keys"
    summary = "import missing key pairs on the target, by the public halves that the source tells"
    idempotency = Idempotency.RERUN
    effect = Effect.CREATE
    permissions = ("ec2:ImportKeyPair", "ec2:CreateTags", *_LOOKS)
    at = _BOTH
    Input = Nothing
    Output = MadeOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[MadeOutput]:
        site = ctx.site("target")
        made = _making(ctx).keys
        ctx.checkpoint({"keys": [*(ctx.resume or {}).get("keys", ()), *(each.name for each in made)]})
        for each in made:
            params: Json = {"KeyName": each.name, "PublicKeyMaterial": each.line.encode()}
            if (
                "address-tags" in site.capabilities
            ):  # elsewhere only few things can be tagged, and this is none
                tags = ctx.tags(partner=each.name, member=each.name)
                params["TagSpecifications"] = [specification("key-pair", tags)]
            _once(site, "ImportKeyPair", params)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[MadeOutput]:
        left = [each.name for each in _making(ctx).keys]
        if left:
            return Unseen(True, f"{', '.join(left)} not on {ctx.target}")
        return Done(MadeOutput(keys=tuple(dict.fromkeys((ctx.resume or {}).get("keys", ())))))


class Groups(Action[Nothing, MadeOutput]):
    """Make missing security groups; their rules are the next step's, since they name each other."""

    name = "partner.groups"
    summary = "make missing security groups on the target, without rules yet"
    idempotency = Idempotency.RERUN
    effect = Effect.CREATE
    permissions = ("ec2:CreateSecurityGroup", "ec2:CreateTags", *_LOOKS)
    at = _BOTH
    Input = Nothing
    Output = MadeOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[MadeOutput]:
        site = ctx.site("target")
        for each in _making(ctx).groups:
            where = {"VpcId": each.vpc} if each.vpc else {}
            tags = ctx.tags(partner=each.source, member=f"{each.name} {each.vpc}".strip())
            params: Json = {
                "GroupName": each.name,
                "Description": f"like {each.source} on {ctx.source}",
                **where,
                "TagSpecifications": [specification("security-group", tags)],
            }
            _once(site, "CreateSecurityGroup", params)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[MadeOutput]:
        left = [each.name for each in _making(ctx).groups]
        if left:
            return Unseen(True, f"{', '.join(left)} not on {ctx.target}")
        names = {str(row["GroupName"]) for row in ours(ctx.site("target"), ctx.group.name)}
        return Done(MadeOutput(groups=tuple(sorted(names))))


class RulesOutput(Model):
    """How many rules each group of ours lets in at least, by its name."""

    rules: dict[str, int]


class Rules(Action[Nothing, RulesOutput]):
    """Let the groups that we made let in what those they stand for let in; no rule is ever taken away."""

    name = "partner.rules"
    summary = "give the security groups that we made on the target the rules of those they stand for"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    permissions = ("ec2:AuthorizeSecurityGroupIngress", *_LOOKS)
    at = _BOTH
    Input = Nothing
    Output = RulesOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[RulesOutput]:
        site = ctx.site("target")
        for each in _lacks(ctx):
            for rule in sorted(each.rules, key=repr):
                params: Json = {"GroupId": each.id, "IpPermissions": [rule.permission(each.ids)]}
                _once(site, "AuthorizeSecurityGroupIngress", params)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[RulesOutput]:
        left = [f"{each.name} lacks {len(each.rules)} rules" for each in _lacks(ctx) if each.rules]
        if left:
            return Unseen(True, "; ".join(left))
        made = ours(ctx.site("target"), ctx.group.name)
        counts = {str(row["GroupName"]): len(rules_of(row, {})) for row in made}
        return Done(RulesOutput(rules=counts))


def _once(site: Site, operation: str, params: Json) -> None:
    """A call whose effect is there already is as wanted: an earlier attempt's reply was lost."""
    try:
        site.call("ec2", operation, params)
    except CloudError as error:
        if not error.code.endswith("Duplicate"):
            raise


def _lacks(ctx: Context) -> tuple[Lack, ...]:
    """Each group of ours with the rules it lacks; StepFailed (precondition) where one has no meaning there."""
    sides = ctx.site("source"), ctx.site("target")
    said = translated(ctx.group, ctx.source, sides, ours(sides[1], ctx.group.name))
    if said.refused:
        raise StepFailed(FailureClass.PRECONDITION, "; ".join(said.refused))
    return said.lacks
