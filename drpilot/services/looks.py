"""The live looks at one group: points, standbys, witness, keys, name, quota, members. They change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from drpilot.actions.addresses import address_room, bound_to
from drpilot.actions.burst_health import target_states
from drpilot.actions.command import startable
from drpilot.actions.members import group_view
from drpilot.actions.traffic import record_of, same_name
from drpilot.actions.views import describe, images, instances, snapshots, tagged, tags_of
from drpilot.base.errors import DrpilotError, Finding
from drpilot.domain.burst import resource_name
from drpilot.domain.group import Group
from drpilot.domain.point import choose
from drpilot.domain.ports import CloudError, Site
from drpilot.domain.sizing import grown_types
from drpilot.inventory.balancing import standing
from drpilot.inventory.discover import carried, members, partner, uncarried, unprotected
from drpilot.inventory.losses import losses
from drpilot.inventory.partners import key_state
from drpilot.inventory.resources import FILTER_VALUES, chunks
from drpilot.journal.views import GroupView
from drpilot.services.checked import Checked, bad, ok, unknown, warning
from drpilot.services.guidance import protect_command
from drpilot.services.house import House
from drpilot.services.orphans import orphans
from drpilot.services.partnerlook import PARTNER_WORDS, partner_checks
from drpilot.services.sides import look_at_sides
from drpilot.services.standbys import look_at_standbys

__all__ = ["LOOKS", "VCPU_QUOTA", "GroupLook", "grown"]

VCPU_QUOTA = "L-1216C47A"  # Service Quotas: Running On-Demand Standard instances, in vCPUs
_STANDING = ("protected", "degraded")


@dataclass(frozen=True, slots=True)
class GroupLook:
    """One named look: the sites it needs, the words its findings may have, and the look itself."""

    name: str
    expects: str
    words: tuple[str, ...]
    needs: Callable[[GroupView], tuple[str, ...]]
    work: Callable[[House, GroupView], Iterable[Checked]]


def _standing(view: GroupView) -> tuple[str, ...]:
    return (view.standing,)


def _active(view: GroupView) -> tuple[str, ...]:
    return (view.active,)


# -- points ---------------------------------------------------------------------------------------------------


def _points(house: House, view: GroupView) -> Iterator[Checked]:
    point = choose(house.journal.points(view.name), view.standing)
    if point is None:
        return
    site = house.site(view.standing)
    found: set[str] = set()
    for ids in chunks(
        sorted(replica.id for replica in point.replicas if replica.kind == "snapshot"), FILTER_VALUES
    ):
        listed = snapshots(site, [{"Name": "snapshot-id", "Values": ids}])
        found |= {item["SnapshotId"] for item in listed if item["State"] == "completed"}
    for ids in chunks(
        sorted(replica.id for replica in point.replicas if replica.kind == "image"), FILTER_VALUES
    ):
        listed = images(site, [{"Name": "image-id", "Values": ids}])
        found |= {item["ImageId"] for item in listed if item["State"] == "available"}
    gone = [replica for replica in point.replicas if replica.id not in found]
    expected = f"{len(point.replicas)} replicas of point {point.id} usable on {view.standing}"
    if not gone:
        yield ok("points", view.name, expected, f"{len(found)} found")
    for replica in gone:
        message = f"{replica.kind} {replica.id} of {replica.member} (point {point.id}) is not usable on {view.standing}"
        finding = Finding("drift", "error", message, view.name, protect_command(view))
        yield bad("points", view.name, expected, message, finding)


# -- witness, keys, name --------------------------------------------------------------------------------------


def _witness(house: House, view: GroupView) -> Iterator[Checked]:
    expected = f"epoch {view.epoch}, active {view.active}"
    try:
        claim, _ = house.world.witness().read(view.name)
    except (CloudError, DrpilotError) as error:
        finding = Finding(
            "witness-unreachable",
            "error",
            "the witness can't be read",
            view.name,
            "mend the witness before any move",
        )
        yield bad("witness", view.name, expected, str(error), finding)
        return
    if any(run.lane == "move" for run in house.journal.runs(view.name, live=True)):
        return  # a move is changing it right now
    if claim is None:
        observed, agrees = "nothing claimed yet", view.epoch == 1
    else:
        observed = f"epoch {claim.epoch}, active {claim.active}" + (
            f", claimed by {claim.run}" if claim.run else ""
        )
        # A move that was rolled back leaves a higher epoch with the same side active: it never falls.
        agrees = claim.active == view.active and claim.run is None and claim.epoch >= view.epoch
    if agrees:
        yield ok("witness", view.name, expected, observed)
        return
    message = f"the witness says {observed}, the journal {expected}"
    finding = Finding(
        "witness-wrong", "error", message, view.name, f"drpilot status {view.name}; settle it before any move"
    )
    yield bad("witness", view.name, expected, observed, finding)


def _keys(house: House, view: GroupView) -> Iterator[Checked]:
    """Every KMS key that a copy needs: on the active side the members' own, on the other their partners."""
    own = _kms_keys(view.group)
    mapping = view.group.mapping(view.active)
    theirs = {there for key in own if (there := partner(mapping.kms_keys, key)) is not None}
    for name, keys in ((view.active, own), (view.standing, theirs)):
        known = house.journal.site(name)
        if known is not None and known.answers is False:
            continue
        site = house.site(name)
        if "kms" not in site.capabilities:
            continue
        for key in sorted(keys):
            state = key_state(site, key)
            if state == "Enabled":
                yield ok("keys", view.name, f"{key} on {name} enabled", state)
                continue
            message = f"KMS key {key} on {name} can't be used: {state}"
            hint = f"enable the key on {name} or map another under map.kms_keys"
            yield bad(
                "keys",
                view.name,
                f"{key} on {name} enabled",
                state,
                Finding("key-unusable", "error", message, name, hint),
            )


def _kms_keys(group: Group) -> set[str]:
    found = {
        v.kms_key for t in group.tiers for i in t.instances for v in i.volumes if v.encrypted and v.kms_key
    }
    return found | {
        t.scaling_group.encrypted_key
        for t in group.tiers
        if t.scaling_group and t.scaling_group.encrypted_key
    }


def _name(house: House, view: GroupView) -> Iterator[Checked]:
    traffic = view.group.traffic
    fronts = [tier.load_balancer for tier in view.group.tiers if tier.load_balancer is not None]
    if (
        traffic is None
        or not fronts
        or any(r.lane == "move" for r in house.journal.runs(view.name, live=True))
    ):
        return
    there = standing(house.site(view.active), fronts[-1].key)
    expected = f"{traffic.name} → {there.dns if there is not None else 'a load balancer'} on {view.active}"
    record = record_of(house.site(traffic.site), traffic)
    values = [item["Value"] for item in (record or {}).get("ResourceRecords") or []]
    values += [record["AliasTarget"]["DNSName"]] if record is not None and "AliasTarget" in record else []
    observed = ", ".join(values) or "no record"
    if there is not None and any(same_name(value, there.dns) for value in values):
        yield ok("traffic", view.name, expected, observed)
        return
    message = f"{traffic.name} does not lead to {view.active}: it says {observed}"
    finding = Finding(
        "drift", "error", message, view.name, f"point it back, or see drpilot status {view.name}"
    )
    yield bad("traffic", view.name, expected, observed, finding)


# -- room on the other side -----------------------------------------------------------------------------------


def _quota(house: House, view: GroupView) -> Iterator[Checked]:
    """Whether the standing side's quotas hold what a failover starts, and what its standbys lack of addresses."""
    site = house.site(view.standing)
    if "service-quotas" in site.capabilities:
        yield from _vcpus(house, site, view)
        yield from _addresses(site, view)


def _addresses(site: Site, view: GroupView) -> Iterator[Checked]:
    """Whether the elastic addresses that are not bound ahead yet still fit under the quota."""
    if not any(member.elastic_address for tier in view.group.tiers for member in tier.instances):
        return
    need = _unaddressed(site, view.group)
    used, limit = address_room(site)
    texts = (f"{need} elastic addresses free on {view.standing}", f"{used} of {limit} used")
    if limit is None or used + need <= limit:
        yield ok("quota", view.name, *texts)
        return
    message = f"elastic address quota on {view.standing}: {need} more needed, {used} of {limit} used"
    hint = f"ask the cloud for a higher quota on {view.standing}, or release addresses"
    yield bad("quota", view.name, *texts, Finding("quota-short", "error", message, view.standing, hint))


def _unaddressed(site: Site, group: Group) -> int:
    """How many standbys still need an address to be allocated: neither bound to them nor waiting with our tags."""
    made = {
        (tags.get("drpilot:tier"), tags.get("drpilot:member"))
        for item in describe(site, "DescribeAddresses", "Addresses", tagged(group=group.name, standby=""))
        for tags in (tags_of(item),)
    }
    need = 0
    for tier in group.tiers:
        for member in tier.instances:
            if member.elastic_address and (tier.name, member.key) not in made:
                mine = [*tagged(group=group.name, tier=tier.name, member=member.key, standby="")]
                need += not any(bound_to(site, item) for item in instances(site, mine))
    return need


def _vcpus(house: House, site: Site, view: GroupView) -> Iterator[Checked]:
    """Whether a failover would stay within the vCPU quota of the standing side."""
    wanted = grown(house, view)
    running = [i for i in instances(site, []) if i["State"]["Name"] in ("pending", "running")]
    types = {*wanted, *(item["InstanceType"] for item in running)}
    if not types:
        return
    listed = describe(
        site, "DescribeInstanceTypes", "InstanceTypes", [{"Name": "instance-type", "Values": sorted(types)}]
    )
    vcpus = {item["InstanceType"]: int(item["VCpuInfo"]["DefaultVCpus"]) for item in listed}
    reply = site.call("service-quotas", "GetServiceQuota", {"ServiceCode": "ec2", "QuotaCode": VCPU_QUOTA})
    limit = float(reply["Quota"]["Value"])
    used = sum(vcpus.get(item["InstanceType"], 1) for item in running)
    need = sum(vcpus.get(name, 1) * count for name, count in wanted.items())
    texts = (f"{need} vCPUs free on {view.standing}", f"{used} of {limit:.0f} used")
    if used + need <= limit:
        yield ok("quota", view.name, *texts)
        return
    message = f"vCPU quota on {view.standing}: a failover needs {need}, {limit:.0f} are allowed in all"
    finding = Finding(
        "quota-short", "error", message, view.standing, f"ask the cloud for a higher quota on {view.standing}"
    )
    yield bad("quota", view.name, *texts, finding)


def grown(house: House, view: GroupView) -> dict[str, int]:
    """What a failover would start on the standing side: type → how many."""
    types, alike = view.group.mapping(view.active).types, house.alike(view.active, view.standing)
    found: dict[str, int] = {}
    for tier in view.group.tiers:
        for member in tier.instances:
            name = grown_types(view.group, tier, member.type, view.active, alike=alike)[0]
            found[name] = found.get(name, 0) + 1
        if tier.scaling_group is not None:
            name = types.get(tier.scaling_group.type, tier.scaling_group.type)
            grown = tier.standby.grow_count
            found[name] = found.get(name, 0) + (tier.scaling_group.desired if grown is None else grown)
    return found


# -- members --------------------------------------------------------------------------------------------------


def _members(house: House, view: GroupView) -> Iterator[Checked]:
    """What runs now against what is protected, and what no tier protects."""
    if view.state not in (*_STANDING, "seeding", "active_unprotected"):
        return
    site = house.site(view.active)
    expected = f"the members on {view.active} as protected"
    try:
        present = members(site, view.group)
    except DrpilotError as error:
        message = f"{error.title}: {error.why}" if error.why else error.title
        finding = Finding("drift", "error", message, view.name, error.hint)
        yield bad("drift", view.name, expected, message, finding)
        return
    changes = list(drifted(view.group, present))
    if not changes:
        yield ok("drift", view.name, expected, "the same")
    for change in changes:
        finding = Finding("drift", "warning", change, view.name, protect_command(view))
        yield warning("drift", view.name, expected, change, finding)
    there = house.site(view.standing).capabilities
    lost = (
        *carried(present, present.mapping(view.active), view.standing, there),
        *uncarried(site, present, there),
        *losses(present, site.capabilities, there, view.standing),
    )
    yield from _found("carried", view, "every member can be carried whole", lost)
    yield from _found(
        "unprotected", view, "every tagged resource belongs to a tier", unprotected(site, present)
    )


def _found(name: str, view: GroupView, expected: str, findings: Sequence[Finding]) -> Iterator[Checked]:
    if not findings:
        yield ok(name, view.name, expected, "so it is")
    for finding in findings:
        if finding.severity == "info":  # nobody can mend it; it was told when the group was taken in
            yield ok(name, view.name, "known", finding.message)
            continue
        make = bad if finding.severity == "error" else warning
        yield make(name, view.name, expected, finding.message, finding)


def drifted(before: Group, now: Group) -> Iterator[str]:
    """What differs between the members remembered and those seen, one sentence each. Pure."""
    present = {tier.name: tier for tier in now.tiers}
    for tier in before.tiers:
        seen = present[tier.name]
        old, new = ({item.key: item for item in t.instances} for t in (tier, seen))
        yield from (f"instance {key} of tier {tier.name} is gone" for key in sorted(set(old) - set(new)))
        yield from (f"instance {key} is new in tier {tier.name}" for key in sorted(set(new) - set(old)))
        for key in sorted(set(old) & set(new)):
            if bool(old[key].elastic_address) != bool(new[key].elastic_address):
                yield f"instance {key} has {'an' if new[key].elastic_address else 'no'} elastic address now"
            if old[key].type != new[key].type:
                yield f"instance {key} is a {new[key].type}, protected was a {old[key].type}"
            devices = [
                {volume.device: volume.size_gib for volume in item.volumes} for item in (old[key], new[key])
            ]
            if devices[0] != devices[1]:
                yield f"instance {key} has other volumes than were protected"
        was, is_now = tier.scaling_group, seen.scaling_group
        if was is not None and is_now is not None and was.template_version != is_now.template_version:
            names = was.template_version, is_now.template_version
            if was.template or is_now.template:
                yield f"scaling group {was.key}: launch template v{names[0]} → v{names[1]}"
            else:
                yield f"scaling group {was.key}: launch configuration {names[0]} → {names[1]}"


def _orphans(house: House, view: GroupView) -> Iterator[Checked]:
    for name in (view.active, view.standing):
        known = house.journal.site(name)
        expected = f"everything tagged for {view.name} on {name} has an owner"
        if known is not None and known.answers is False:
            yield unknown("orphans", view.name, expected, f"{name} does not answer")
            continue
        counted, found = orphans(house, view, name)
        if not found:
            yield ok("orphans", view.name, expected, f"{counted} of {counted}")
        for item in found:
            message = f"{item.kind} {item.id} on {name} carries our tags but nothing owns it"
            hint = "look at it; when it is of no use: delete it by hand"
            yield warning(
                "orphans", view.name, expected, message, Finding("orphan", "warning", message, name, hint)
            )


def _burst(house: House, view: GroupView) -> Iterator[Checked]:
    """Whether the extra machines that users are sent to are there and healthy behind their load balancer."""
    burst = view.burst
    if burst.state != "serving":
        return
    site = house.site(burst.site)
    group = group_view(site, resource_name(view.name, burst.tier))
    ids = group.instance_ids if group is not None else ()
    states = target_states(site, group, ids) if group is not None else {}
    healthy = sum(words == {"healthy"} for words in states.values())
    texts = (f"{burst.capacity} extra machines healthy on {burst.site}", f"{healthy} healthy")
    if healthy >= burst.capacity:
        yield ok("burst", view.name, *texts)
        return
    message = (
        f"burst of {burst.tier} on {burst.site}: {healthy} of {burst.capacity} extra machines are healthy"
    )
    finding = Finding("burst-unhealthy", "error", message, view.name, f"drpilot burst {view.name} --end")
    yield bad("burst", view.name, *texts, finding)


def _freezing(house: House, view: GroupView) -> Iterator[Checked]:
    """Whether the programs around a capture can be started from here; a service elsewhere may have its own."""
    programs = [program for tier in view.group.tiers for program in tier.freeze]
    expected = "every program of `freeze` can be started on this host"
    missing = sorted({program for program in programs if not startable(program)})
    if programs and not missing:
        yield ok("freezing", view.name, expected, f"{len(programs)} of {len(programs)}")
    for program in missing:
        message = f"{program} can't be started on this host: points made from here are crash-consistent"
        hint = "install it where drpilot serve runs, or take `freeze` out of the group file"
        yield warning(
            "freezing",
            view.name,
            expected,
            message,
            Finding("freeze-missing", "warning", message, view.name, hint),
        )


_MEMBERS = ("drift", "carried-with-loss", "unmapped", "unprotected-resource", "no-members")


def _nowhere(_: GroupView) -> tuple[str, ...]:
    """For looks that say themselves which site they could not see."""
    return ()


LOOKS: tuple[GroupLook, ...] = (  # who is active comes first: its hint is the next command
    GroupLook("sides", "one side writes", ("split-suspected",), _nowhere, look_at_sides),
    GroupLook("points", "every replica usable", ("drift",), _standing, _points),
    GroupLook("standby", "standbys as recorded", ("standby-missing",), _standing, look_at_standbys),
    GroupLook("witness", "the journal's epoch", ("witness-wrong", "witness-unreachable"), _nowhere, _witness),
    GroupLook("partners", "what the map names is there", PARTNER_WORDS, _standing, partner_checks),
    GroupLook("keys", "KMS keys enabled", ("key-unusable",), _nowhere, _keys),
    GroupLook("traffic", "the name leads to the active side", ("drift",), _active, _name),
    GroupLook("quota", "room for a failover", ("quota-short",), _standing, _quota),
    GroupLook("burst", "extra machines healthy", ("burst-unhealthy",), _nowhere, _burst),
    GroupLook("freezing", "freeze programs here", ("freeze-missing",), _nowhere, _freezing),
    GroupLook("members", "members as protected", _MEMBERS, _active, _members),
    GroupLook("orphans", "everything tagged has an owner", ("orphan",), _nowhere, _orphans),
)
