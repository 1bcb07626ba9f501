"""A first group file from what is running: what `group new` prints. Every guessed line ends in `# ?`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from drpilot.base.errors import DrpilotError
from drpilot.domain.group import Instance, LoadBalancer, ScalingGroup
from drpilot.inventory.survey import Subnet, Survey, Surveyed

__all__ = ["draft"]

# Small types a stopped standby may have, the first that the site offers (EC2 instance types guide, T family).
_SMALL = {
    "x86_64": ("t3.small", "t3a.small", "t2.small", "t3.medium", "m1.small"),
    "arm64": ("t4g.small", "t4g.medium"),
}
_OFFERED = "ec2:DescribeInstanceTypeOfferings"
_SMALL_ELSEWHERE = "m1.small"  # of every Eucalyptus, unless its owner took it away
_WIDTH = 37  # where the comments begin
_MOST_TIERS = 20  # of a group file
_WHOLE = "all"


@dataclass(frozen=True, slots=True)
class _Tier:
    """One tier to be written: instances, or one scaling group; with a load balancer where one was found
    for it.
    """

    name: str
    instances: tuple[Instance, ...] = ()
    scaling_group: ScalingGroup | None = None
    balancer: LoadBalancer | None = None
    label: str = ""

    @property
    def rank(self) -> int:
        """Data first, what users reach last."""
        if self.balancer is not None:
            return 2
        data = any(not volume.root for instance in self.instances for volume in instance.volumes)
        return 0 if data or self.instances else 1


def draft(name: str, primary: Survey, secondary: Survey, tag: str | None = None) -> str:
    """The YAML of a group called `name` from the surveys of its two sites.

    `primary` was surveyed with `tag`. Partners are guessed from equal names (keys, security groups,
    profiles, types) and from order (zones, subnets); what has none is written as an empty text, which
    `protect` refuses by line. Where nothing has a tag `tier`, everything is one tier. What a site would not list is
    said. Raises DrpilotError `no-members` where nothing runs that a tier could hold.
    """
    found = list(_distinct(sorted(_split(primary.tiers), key=lambda tier: tier.rank)))
    tiers = found[:_MOST_TIERS]
    if not tiers:
        what = f"with tag {tag}" if tag else "at all"
        raise DrpilotError(
            "no-members", tier=_WHOLE, site=primary.site, why=f"no instance or scaling group {what}"
        )
    lines = [
        "drpilot: 1",
        f"group: {_text(name)}",
        f"primary: {_text(primary.site)}",
        f"secondary: {_text(secondary.site)}",
        *([f"tag: {_text(tag)}"] if tag else []),
        _line("objectives: {rpo: 15m, rto: 30m}", "? what the business needs"),
        "replicate: {every: 10m, keep: {last: 6, hourly: 24, daily: 14}}",
        _line('drill: {cron: "0 3 * * sun", timezone: UTC, expires: 2h}', "? a quiet hour"),
        "approvals: {failover: 2, switchover: 1, commit: 1}",
        _line("map:", f"{primary.site}: {secondary.site}; read from right to left for the way back"),
        *_untold(primary, secondary),
        *_map(tiers, primary, secondary),
        _line("tiers:", "? started from top to bottom, stopped from bottom to top"),
        *(line for tier in tiers for line in _tier(tier, secondary, tag)),
        *_traffic(tiers, primary, secondary),
        *_left_over(primary.tiers, found[_MOST_TIERS:]),
    ]
    return "\n".join(lines) + "\n"


def _split(surveyed: Mapping[str, Surveyed]) -> Iterator[_Tier]:
    """One tier for the instances and one for each scaling group of a value of the tag `tier`."""
    for label, found in surveyed.items():
        if not label and len(surveyed) > 1:
            continue
        name = re.sub(r"[^a-z0-9_-]+", "-", label.lower()).strip("-_0123456789")[:32]
        name = name or ("tier" if label else _WHOLE)
        parts = len(found.scaling_groups) + bool(found.instances)
        balancer = found.load_balancers[0] if found.load_balancers else None
        if found.instances:
            yield _Tier(name, found.instances, None, None if found.scaling_groups else balancer, label)
        for index, group in enumerate(found.scaling_groups):
            own = name if parts == 1 else f"{name}-{index + 1}"
            fitting = balancer is not None and (parts == 1 or balancer.target_group in group.target_groups)
            yield _Tier(own, (), group, balancer if fitting else None, label)


def _distinct(tiers: Iterable[_Tier]) -> Iterator[_Tier]:
    """Tiers whose labels look alike get a number."""
    names: set[str] = set()
    for tier in tiers:
        name, number = tier.name, 1
        while name in names:
            number += 1
            name = f"{tier.name}-{number}"
        names.add(name)
        yield replace(tier, name=name)


# -- the map ---------------------------------------------------------------------------------------


def _map(tiers: Sequence[_Tier], primary: Survey, secondary: Survey) -> Iterator[str]:
    used = _Used(tiers, primary)
    zones = _paired(used.zones, secondary.zones, by_order=True)
    here = [subnet for subnet in primary.subnets if subnet.id in used.subnets]
    if not used.subnets:  # a cloud without networks: its zones stand for subnets
        here = [Subnet(zone, zone, "") for zone in used.zones]
    # Towards a cloud without networks the partners of the zones are enough.
    subnets = _subnets(here, secondary.subnets, zones) if secondary.subnets else {}
    rows = (
        ("zones", zones, True),
        ("subnets", subnets, True),
        ("types", _paired(used.types, secondary.types), False),
        ("keys", _paired(used.keys, secondary.key_pairs), True),
        ("security_groups", _paired(used.security_groups, secondary.security_groups), True),
        ("kms_keys", dict.fromkeys(used.kms_keys, ""), True),
        ("profiles", {profile: profile for profile in used.profiles}, True),
    )
    for kind, pairs, guessed in rows:
        if pairs:
            text = ", ".join(f"{_text(left)}: {_text(right)}" for left, right in pairs.items())
            missing = [left for left, right in pairs.items() if not right]
            note = f"? {', '.join(missing)}: no partner found" if missing else "?"
            yield _line(f"  {kind}: {{{text}}}", note if guessed or missing else "")


class _Used:
    """What the members of all tiers are built from, each name once, in order of appearance."""

    def __init__(self, tiers: Sequence[_Tier], primary: Survey) -> None:
        instances = [instance for tier in tiers for instance in tier.instances]
        groups = [tier.scaling_group for tier in tiers if tier.scaling_group is not None]
        balancers = [tier.balancer for tier in tiers if tier.balancer is not None]
        members: list[Instance | ScalingGroup] = [*instances, *groups]
        spread = [subnet for group in groups for subnet in group.subnets]
        spread += [subnet for balancer in balancers for subnet in balancer.subnets]
        zone_of = {subnet.id: subnet.zone for subnet in primary.subnets}
        self.subnets = _once([*(instance.subnet for instance in instances), *spread])
        named = [each.zone for each in instances] + [zone_of.get(each) for each in self.subnets]
        named += [zone for group in groups for zone in group.zones]
        named += [zone for balancer in balancers for zone in balancer.zones]
        self.zones = sorted(_once(named))
        self.types = _once(member.type for member in members)
        self.keys = _once(member.key_pair for member in members)
        self.profiles = _once(member.profile for member in members)
        guards = [name for member in members for name in member.security_groups]
        guards += [name for balancer in balancers for name in balancer.security_groups]
        self.security_groups = _once(guards)
        volumes = [volume.kms_key for instance in instances for volume in instance.volumes]
        self.kms_keys = _once([*volumes, *(group.encrypted_key for group in groups)])


def _once(names: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(name for name in names if name))


def _paired(names: Sequence[str], there: Sequence[str], *, by_order: bool = False) -> dict[str, str]:
    """Equal names first; with `by_order` what is left is paired as listed. Each right side is used once."""
    pairs = {name: name if name in there else "" for name in names}
    free = [name for name in there if name not in pairs.values()]
    if by_order:
        for name in names:
            if not pairs[name] and free:
                pairs[name] = free.pop(0)
    return pairs


def _subnets(here: Sequence[Subnet], there: Sequence[Subnet], zones: Mapping[str, str]) -> dict[str, str]:
    """Partners by equal Name in the mapped zone, then by that zone alone."""
    free, pairs = list(there), {subnet.id: "" for subnet in here}
    for by_name in (True, False):
        for subnet in here:
            fits = [
                other
                for other in free
                if other.zone == zones.get(subnet.zone)
                and (not by_name or (subnet.name and other.name == subnet.name))
            ]
            if not pairs[subnet.id] and fits:
                pairs[subnet.id] = fits[0].id
                free.remove(fits[0])
    return pairs


# -- tiers and traffic -----------------------------------------------------------------------------


def _tier(tier: _Tier, secondary: Survey, tag: str | None) -> Iterator[str]:
    whole = (
        "" if tier.label else "? nothing has a tag `tier`: one tier; split it into tiers that start in order"
    )
    yield _line(f"  {tier.name}:", whole)
    if tier.scaling_group is None:
        chosen = f"tier={tier.instances[0].tags.get('tier', '')}" if tier.label else tag
        if chosen:
            yield _line(
                f"    instances: {{tag: {_text(chosen)}}}", "? does this tag name these machines only"
            )
        else:
            ids = ", ".join(instance.id for instance in tier.instances)
            yield _line(
                f"    instances: {{ids: [{ids}]}}", "? everything that runs; keep what belongs together"
            )
        yield _line(f"    standby: {{{_waiting(tier.instances, secondary)}}}", "?")
    else:
        yield f"    scaling_group: {_text(tier.scaling_group.key)}"
        yield f"    standby: {{count: 0, grow: {max(1, tier.scaling_group.desired)}}}"
    if tier.balancer is None:
        yield "    # check: {tcp: PORT}  # ? how to tell that this tier works"
        return
    balancer = tier.balancer
    yield f"    load_balancer: {_text(balancer.key)}"
    if balancer.target_protocol.lower() in ("http", "https"):
        url = f"{balancer.target_protocol.lower()}://{{address}}:{balancer.target_port}{balancer.health_path}"
        yield _line(f"    check: {{http: {json.dumps(url)}}}", "? the health check of the load balancer")
    else:
        yield _line(f"    check: {{tcp: {balancer.target_port}}}", "?")


def _waiting(instances: Sequence[Instance], secondary: Survey) -> str:
    """A small type that the other site has, and the type to grow to: the largest member's own."""
    first = instances[0]
    if _OFFERED not in secondary.able:  # its kind of cloud does not tell what it offers
        return f"size: {_SMALL_ELSEWHERE}, grow: {_text('')}"
    small = [name for name in _SMALL.get(first.architecture, ()) if name in secondary.types]
    grow = first.type if first.type in secondary.types or not secondary.types else ""
    return f"size: {_text(small[0] if small else first.type)}, grow: {_text(grow or first.type)}"


def _traffic(tiers: Sequence[_Tier], primary: Survey, secondary: Survey) -> Iterator[str]:
    for tier in tiers:
        if tier.balancer is not None:
            keeping = [survey.site for survey in (secondary, primary) if "route53" in survey.able]
            yield "# traffic: {name: NAME, zone: ZONE, site: SITE, ttl: 60}"
            yield f"# ? the name that leads to {tier.balancer.dns}"
            if len(keeping) < 2:
                yield f"# ? SITE keeps the name: {keeping[0] if keeping else 'a third site'} does, better a third"
            return


def _untold(primary: Survey, secondary: Survey) -> Iterator[str]:
    for survey in (primary, secondary):
        for what, why in survey.untold.items():
            if survey is primary and what == _OFFERED and what not in survey.able:
                continue  # what home offers is of no account: its members say what they are
            yield f"# ? {survey.site} would not list {what} ({_one_line(why)}): what is guessed from it is missing"


def _left_over(surveyed: Mapping[str, Surveyed], further: Sequence[_Tier]) -> Iterator[str]:
    found = surveyed.get("", Surveyed()) if len(surveyed) > 1 else Surveyed()
    keys = [instance.key for instance in found.instances]
    keys += [group.key for group in found.scaling_groups]
    keys += [balancer.key for balancer in found.load_balancers]
    if keys:
        yield f"# in no tier, because they have no tag `tier`: {_one_line(', '.join(keys))}"
    if further:
        names = ", ".join(tier.name for tier in further)
        yield f"# ? left out, because a group has at most {_MOST_TIERS} tiers: {names}"


def _line(text: str, comment: str) -> str:
    return f"{text:<{_WIDTH - 1}} # {_one_line(comment)}" if comment else text


def _one_line(text: str) -> str:
    """What may stand in a comment: names come from tags, which may hold anything."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _text(value: str) -> str:
    """A scalar that reads back as itself, also inside a flow mapping."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_./=-]*", value) and value not in ("true", "false", "null")
    if plain:
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in quoted)
