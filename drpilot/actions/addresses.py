"""The standby's own elastic addresses: allocated ahead with our tags, bound ahead to the stopped instance.

A member that has an elastic address on the source gets one on the target, so that nothing has to be asked for in the
night. An instance that has one there already keeps it: the original on the way back comes with its own. An address is
found by what it is bound to, else by the tags of its create call (group, tier, member, standby).
"""

from __future__ import annotations

from drpilot.actions.carry import app_tags
from drpilot.actions.members import instance_of, member, tier_of
from drpilot.actions.standby import not_promoted
from drpilot.actions.views import describe, first, not_found, specification, tagged, tags_of, visible
from drpilot.domain.group import Tier
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

__all__ = ["Address", "Bind", "Release", "address_room", "bound_to"]

ADDRESS_QUOTA = "L-0263D0A3"  # Service Quotas: EC2-VPC Elastic IPs, five an account and region unless raised


class MemberInput(Model):
    """One member instance of a tier."""

    tier: str
    instance: str


class AddressOutput(Model):
    """The address of the member's standby; `adopted` where this run did not allocate it."""

    tier: str
    member: str
    allocation: str = ""
    address: str = ""
    adopted: bool = False


def bound_to(site: Site, instance: Json) -> Json | None:
    """The elastic address bound to an instance; where several are, the one of its first interface."""
    filters: list[Json] = [{"Name": "instance-id", "Values": [instance["InstanceId"]]}]
    found = describe(site, "DescribeAddresses", "Addresses", filters)
    return first(sorted(found, key=lambda item: item["PublicIp"] != instance.get("PublicIpAddress")))


def address_room(site: Site) -> tuple[int, int | None]:
    """How many elastic addresses the account has in the region, and how many it may have (quota "EC2-VPC Elastic IPs");
    None where the site has no word about quotas.
    """
    used = len(describe(site, "DescribeAddresses", "Addresses"))
    if "service-quotas" not in site.capabilities:
        return used, None
    asked: Json = {"ServiceCode": "ec2", "QuotaCode": ADDRESS_QUOTA}
    return used, int(site.call("service-quotas", "GetServiceQuota", asked)["Quota"]["Value"])


def _made(ctx: Context, tier: Tier, key: str, *more: Json) -> list[Json]:
    """Addresses on the target that a create call of ours made for the member."""
    filters = [*tagged(group=ctx.group.name, tier=tier.name, member=key, standby="", attempt=""), *more]
    return describe(ctx.site("target"), "DescribeAddresses", "Addresses", filters)


def _own(ctx: Context, tier: Tier, key: str, there: Json | None) -> Json | None:
    """The address of the member's standby: the one it has, else the one we allocated for it, which is bound to nothing
    or to itself; StepFailed (conflict) where two claim to be.
    """
    has = bound_to(ctx.site("target"), there) if there is not None else None
    if has is not None:
        return has
    found = _made(ctx, tier, key)
    free = [item for item in found if not item.get("AssociationId")]
    if len(free) > 1 or (found and not free):
        ids = ", ".join(f"{item['AllocationId']} ({item.get('InstanceId') or 'unbound'})" for item in found)
        text = f"which address on {ctx.target} is {key}'s can't be told: {ids}"
        raise StepFailed(FailureClass.CONFLICT, text)
    return first(free)


def _kept(site: Site) -> bool:
    """Whether an address can be marked as ours there; another would be lost with the reply of its create call."""
    return "address-tags" in site.capabilities


def _not_kept(ctx: Context, given: MemberInput) -> Done[AddressOutput]:
    text = f"{ctx.target} can't keep an elastic address ahead for {given.instance}: addresses carry no tags there"
    return Done(AddressOutput(tier=given.tier, member=given.instance, adopted=True), warning=text)


def _output(ctx: Context, given: MemberInput, found: Json) -> AddressOutput:
    return AddressOutput(
        tier=given.tier,
        member=given.instance,
        allocation=str(found.get("AllocationId", "")),
        address=str(found["PublicIp"]),
        adopted=tags_of(found).get("drpilot:run") != ctx.tags()["drpilot:run"],
    )


class Address(Action[MemberInput, AddressOutput]):
    """Have an elastic address for a member's standby: the one its instance has, else one of our own.

    AllocateAddress takes no ClientToken; it is alone in its step and found by its tags (EC2 API reference,
    AllocateAddress). Five an account and region is the quota unless raised.
    """

    name = "standby.address"
    summary = "have an elastic address for a member's standby"
    idempotency = Idempotency.OBSERVE
    effect = Effect.CREATE
    permissions = ("ec2:AllocateAddress", "ec2:CreateTags", "ec2:DescribeAddresses", "ec2:DescribeInstances")
    Input = MemberInput
    Output = AddressOutput

    def start(self, ctx: Context, given: MemberInput) -> Answer[AddressOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        if not _kept(site):
            return _not_kept(ctx, given)
        instance = instance_of(tier, given.instance)
        not_promoted(ctx, tier, ctx.target)
        if _own(ctx, tier, instance.key, member(ctx, site, tier, instance.key)) is None:
            tags = {
                **app_tags(instance.tags),
                **ctx.tags(tier=tier.name, member=instance.key, standby="true"),
            }
            params: Json = {"Domain": "vpc", "TagSpecifications": [specification("elastic-ip", tags)]}
            site.call("ec2", "AllocateAddress", params)
        return visible(self.observe, ctx, given)

    def observe(self, ctx: Context, given: MemberInput) -> Answer[AddressOutput]:
        tier = tier_of(ctx, given.tier)
        if not _kept(ctx.site("target")):
            return _not_kept(ctx, given)
        found = _own(ctx, tier, given.instance, member(ctx, ctx.site("target"), tier, given.instance))
        if found is None:
            return Unseen(False, f"no address of {given.instance} with our tags on {ctx.target}")
        return Done(_output(ctx, given, found))

    def undo(self, given: MemberInput, output: AddressOutput | None) -> Call | None:
        if output is not None and output.adopted:
            return None
        return Call("standby.release", {"tier": given.tier, "instance": given.instance})


class Bind(Action[MemberInput, AddressOutput]):
    """Bind the address to the stopped standby; an instance that has one keeps it.

    A stopped instance of a VPC keeps its elastic address and starts with it (EC2 user guide, "Elastic IP
    addresses"). One that is bound elsewhere is never taken away: AllowReassociation is false.
    """

    name = "standby.bind"
    summary = "bind the elastic address to the stopped standby"
    idempotency = Idempotency.RERUN
    effect = Effect.CHANGE
    permissions = ("ec2:AssociateAddress", "ec2:DescribeAddresses", "ec2:DescribeInstances")
    Input = MemberInput
    Output = AddressOutput

    def start(self, ctx: Context, given: MemberInput) -> Answer[AddressOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        if not _kept(site):
            return _not_kept(ctx, given)
        not_promoted(ctx, tier, ctx.target)
        there = self._there(ctx, site, tier, given.instance)
        if bound_to(site, there) is None:
            found = _own(ctx, tier, given.instance, there)
            if found is None:
                text = f"there is no address of {given.instance} on {ctx.target} to bind"
                raise StepFailed(FailureClass.PRECONDITION, text)
            self._bind(site, found, there)
        return visible(self.observe, ctx, given)

    @staticmethod
    def _bind(site: Site, found: Json, there: Json) -> None:
        params: Json = {
            "AllocationId": found["AllocationId"],
            "InstanceId": there["InstanceId"],
            "AllowReassociation": False,
        }
        try:
            site.call("ec2", "AssociateAddress", params)
        except CloudError as error:
            if (
                error.code != "Resource.AlreadyAssociated"
            ):  # by an earlier call of this step, or it is a conflict
                raise

    @staticmethod
    def _there(ctx: Context, site: Site, tier: Tier, key: str) -> Json:
        there = member(ctx, site, tier, key)
        if there is None:
            raise StepFailed(FailureClass.NOT_FOUND, f"standby {key} is not on {site.name}")
        return there

    def observe(self, ctx: Context, given: MemberInput) -> Answer[AddressOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        if not _kept(site):
            return _not_kept(ctx, given)
        there = self._there(ctx, site, tier, given.instance)
        found = bound_to(site, there)
        if found is None:
            _own(ctx, tier, given.instance, there)  # a conflict is told as one
            return Unseen(True, f"{there['InstanceId']} has no elastic address yet")
        return Done(_output(ctx, given, found))


class Release(Action[MemberInput, AddressOutput]):
    """Give back the address that this run allocated for a member's standby: unbound first, then released.

    An address that carries no tag of this run is not touched, nor is one that somebody bound to another machine.
    """

    name = "standby.release"
    summary = "give back the elastic address that this run allocated for a standby"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    permissions = (
        "ec2:DisassociateAddress",
        "ec2:ReleaseAddress",
        "ec2:DescribeAddresses",
        "ec2:DescribeInstances",
    )
    Input = MemberInput
    Output = AddressOutput

    def start(self, ctx: Context, given: MemberInput) -> Answer[AddressOutput]:
        tier, site = tier_of(ctx, given.tier), ctx.site("target")
        there = member(ctx, site, tier, given.instance)
        found = self._mine(ctx, tier, given.instance)
        for address in found:  # every look comes before the first change
            if address.get("InstanceId") not in (None, "", (there or {}).get("InstanceId")):
                text = f"{address['AllocationId']} is bound to {address['InstanceId']}, which is not {given.instance}"
                raise StepFailed(FailureClass.CONFLICT, text)
        for address in found:
            if address.get("AssociationId"):
                _quietly(site, "DisassociateAddress", {"AssociationId": address["AssociationId"]})
            _quietly(site, "ReleaseAddress", {"AllocationId": address["AllocationId"]})
        return visible(self.observe, ctx, given)

    @staticmethod
    def _mine(ctx: Context, tier: Tier, key: str) -> list[Json]:
        run: Json = {"Name": "tag:drpilot:run", "Values": [ctx.tags()["drpilot:run"]]}
        return _made(ctx, tier, key, run)

    def observe(self, ctx: Context, given: MemberInput) -> Answer[AddressOutput]:
        tier = tier_of(ctx, given.tier)
        left = self._mine(ctx, tier, given.instance)
        if left:
            return Unseen(True, f"{', '.join(item['AllocationId'] for item in left)} still stand")
        return Done(AddressOutput(tier=tier.name, member=given.instance))


def _quietly(site: Site, operation: str, params: Json) -> None:
    """Unbind or release; that it is so already is as wanted."""
    try:
        site.call("ec2", operation, params)
    except CloudError as error:
        if not not_found(error):
            raise
