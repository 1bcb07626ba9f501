"""What a group needs of the other site, and whether that site has it: a pure comparison.

`asks` says what the map, the standbys' sizes and the traffic's zone promise; `partners.py` looks what is there; `judge`
compares. Each judgement names its place in the group file, so that a wrong name is shown where it was written.

Sources: Amazon EC2 API reference (DescribeKeyPairs: fingerprints of created and of imported keys are made in different
ways; DescribeInstanceTypeOfferings), KMS API reference (key states).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from drpilot.base.errors import Finding
from drpilot.domain.group import Group, Map, Tier
from drpilot.domain.sizing import named_type

__all__ = ["KINDS", "Ask", "KeyPair", "Network", "Parity", "Stock", "asks", "judge", "zone_of"]

KINDS: Mapping[str, str] = {
    "zones": "zone",
    "subnets": "subnet",
    "types": "instance type",
    "keys": "key pair",
    "security_groups": "security group",
    "kms_keys": "KMS key",
    "profiles": "instance profile",
    "hosted_zone": "hosted zone",
}
"""What is asked for, in a person's words."""

ENABLED = "Enabled"


@dataclass(frozen=True, slots=True)
class Ask:
    """One thing the other site must have. `path` is its place in the group file.

    `source` is what it stands for on the active side. `subnets` are the partner subnets in which a type or a security
    group is needed. A `spare` is one of several, so that one zone without it is no error.
    """

    kind: str
    name: str
    path: tuple[str | int, ...]
    source: str = ""
    subnets: frozenset[str] = frozenset()
    spare: bool = False


@dataclass(frozen=True, slots=True)
class Network:
    """A subnet: its zone and its VPC (empty where the cloud has none)."""

    zone: str
    vpc: str = ""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """The public half as far as it is told: the key itself (base64), and its fingerprint; and the fingerprints that an
    imported key of this public half may have elsewhere.
    """

    public: str = ""
    fingerprint: str = ""
    imported: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Stock:
    """What was seen. `groups` maps a VPC to the names and ids in it, `types` a type to its zones, `kms_keys` a key to
    its state, `profiles` an instance profile to its roles; `hosted_zone` is the zone's own name. `twins`,
    `source_profiles` and `source_zones` are the active side's key pairs and profiles, and the zones of its subnets.
    `rules` are what a security group lets in, by its name, one text a rule, in which the standing side's names and
    words stand for those of the active side (`source_rules`). Without `networks` a zone stands for a subnet; without
    `names` the site of the traffic keeps none; `alike` are two clouds of a kind. `untold` maps a kind that the site
    would not tell to the reason; those in `unable` no cloud of its kind can tell.
    """

    zones: frozenset[str] = frozenset()
    subnets: Mapping[str, Network] = field(default_factory=dict)
    types: Mapping[str, frozenset[str]] = field(default_factory=dict)
    keys: Mapping[str, KeyPair] = field(default_factory=dict)
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)
    kms_keys: Mapping[str, str] = field(default_factory=dict)
    profiles: Mapping[str, frozenset[str]] = field(default_factory=dict)
    hosted_zone: str = ""
    twins: Mapping[str, KeyPair] = field(default_factory=dict)
    source_zones: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, frozenset[str]] = field(default_factory=dict)
    source_rules: Mapping[str, frozenset[str]] = field(default_factory=dict)
    source_profiles: Mapping[str, frozenset[str]] = field(default_factory=dict)
    networks: bool = True
    names: bool = True
    alike: bool = True
    untold: Mapping[str, str] = field(default_factory=dict)
    unable: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Parity:
    """One judgement: `verdict` is ok, warning, bad or unknown; a finding where something is not as it must be.

    What a cloud can't tell by its kind is unknown with a finding that informs and no more.
    """

    ask: Ask
    verdict: str
    expected: str
    observed: str
    finding: Finding | None = None


_Named = Callable[[str | None], str | None]
"""A type of the group file's `standby` as the standing side calls it; None where it has no word for it."""

# -- what is asked for -----------------------------------------------------------------------------------


def asks(group: Group, active: str, *, alike: bool = True) -> tuple[Ask, ...]:
    """Everything that the group's file names on the site that is not `active`. `group` carries its members; `alike` are
    two clouds of a kind (domain/sizing.py).
    """
    mapping = group.mapping(active)
    forward = active == group.primary

    def named(name: str | None) -> str | None:
        return named_type(group, name, active, alike=alike)

    users = _users(group, named)
    found = []
    for kind in Map.__slots__:
        for source, name in getattr(mapping, kind).items():
            path = ("map", kind, source if forward else name)
            needed = users.get((kind, source), frozenset())
            there = frozenset(mapping.subnets[each] for each in needed if each in mapping.subnets)
            found.append(Ask(kind, name, path, source, there))
    for tier in group.tiers:
        found += _sizes(tier, mapping, named)
    if group.traffic is not None:
        found.append(Ask("hosted_zone", group.traffic.zone, ("traffic", "zone"), group.traffic.name))
    return tuple(found)


def _users(group: Group, named: _Named) -> dict[tuple[str, str], frozenset[str]]:
    """Type or security group of the active side → the subnets of the members that have it."""
    found: dict[tuple[str, str], set[str]] = {}

    def note(kind: str, name: str, subnets: Iterable[str]) -> None:
        found.setdefault((kind, name), set()).update(subnets)

    for tier in group.tiers:
        waits = named(tier.standby.size) is not None and named(tier.standby.grow) is not None
        for one in tier.instances:
            if not waits:
                note("types", one.type, (one.subnet,))
            for name in one.security_groups:
                note("security_groups", name, (one.subnet,))
        if tier.scaling_group is not None:
            note("types", tier.scaling_group.type, tier.scaling_group.subnets)
            for name in tier.scaling_group.security_groups:
                note("security_groups", name, tier.scaling_group.subnets)
        if tier.load_balancer is not None:
            for name in tier.load_balancer.security_groups:
                note("security_groups", name, tier.load_balancer.subnets)
    return {key: frozenset(subnets - {""}) for key, subnets in found.items()}


def _sizes(tier: Tier, mapping: Map, named: _Named) -> Iterator[Ask]:
    """The types that the standbys of a tier wait with and grow to."""
    at, standby = ("tiers", tier.name, "standby"), tier.standby
    there = frozenset(mapping.subnets[one.subnet] for one in tier.instances if one.subnet in mapping.subnets)
    for key, name in (("size", named(standby.size)), ("grow", named(standby.grow))):
        if name is not None:
            yield Ask("types", name, (*at, key), subnets=there)
    for index, name in enumerate(map(named, standby.otherwise)):
        if name is not None:
            yield Ask("types", name, (*at, "otherwise", index), subnets=there, spare=True)


# -- judging ---------------------------------------------------------------------------------------------


def zone_of(name: str, zone: str) -> bool:
    """Whether a DNS name lies in a hosted zone; both with or without the last dot."""
    inner, outer = name.rstrip(".").lower(), zone.rstrip(".").lower()
    return inner == outer or inner.endswith(f".{outer}")


def judge(group: Group, active: str, stock: Stock) -> tuple[Parity, ...]:
    """Each ask against the stock; a kind that was not told is judged once, as unknown."""
    found: list[Parity] = []
    untold: set[str] = set()
    site = group.other(active)
    for ask in asks(group, active, alike=stock.alike):
        where = group.traffic.site if ask.kind == "hosted_zone" and group.traffic is not None else site
        if ask.kind in stock.untold:
            if ask.kind not in untold:
                found.append(_untold(ask, where, stock))
            untold.add(ask.kind)
            continue
        found += _JUDGES[ask.kind](_Case(ask, stock, group.mapping(active), where))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Case:
    """One ask with what it is judged by."""

    ask: Ask
    stock: Stock
    mapping: Map
    site: str

    @property
    def what(self) -> str:
        return f"{KINDS[self.ask.kind]} {self.ask.name}"

    @property
    def where(self) -> str:
        return ".".join(str(part) for part in self.ask.path)

    def ok(self, observed: str) -> Parity:
        return Parity(self.ask, "ok", f"{self.what} on {self.site}", observed)

    def wrong(self, word: str, observed: str, hint: str, *, verdict: str = "bad", lead: str = "") -> Parity:
        severity = "warning" if verdict == "warning" else "error"
        message = f"{self.what} {lead}{observed}"
        finding = Finding(word, severity, message, self.where, hint)
        return Parity(self.ask, verdict, f"{self.what} on {self.site}", observed, finding)

    def missing(self, observed: str = "", hint: str = "") -> Parity:
        return self.wrong(
            "partner-missing",
            observed or f"is not on {self.site}",
            hint or f"make it on {self.site}, or name another in the group file",
        )


def _untold(ask: Ask, site: str, stock: Stock) -> Parity:
    why, unable = stock.untold[ask.kind], ask.kind in stock.unable
    message = f"{site} does not tell whether it has the {KINDS[ask.kind]} {ask.name}: {why}"
    where = ".".join(str(part) for part in ask.path)
    hint = "look yourself, and let a drill prove it" if unable else f"allow drpilot to read it on {site}"
    finding = Finding("partner-untold", "info" if unable else "warning", message, where, hint)
    return Parity(ask, "unknown", f"{KINDS[ask.kind]} {ask.name} on {site}", why, finding)


def _zone(case: _Case) -> Iterator[Parity]:
    yield case.ok("there") if case.ask.name in case.stock.zones else case.missing()


def _subnet(case: _Case) -> Iterator[Parity]:
    there = case.stock.subnets.get(case.ask.name)
    if there is None and not case.stock.networks and case.ask.name in case.stock.zones:
        there = Network(case.ask.name)
    if there is None:
        yield case.missing()
        return
    wanted = case.mapping.zones.get(case.stock.source_zones.get(case.ask.source, ""))
    if wanted and there.zone != wanted:
        observed = f"is in {there.zone}, map.zones says {wanted}"
        yield case.wrong("partner-differs", observed, "choose a subnet in that zone, or mend map.zones")
        return
    yield case.ok(f"in {there.zone}")


def _type(case: _Case) -> Iterator[Parity]:
    offered = case.stock.types.get(case.ask.name, frozenset())
    if not offered:
        yield case.missing(f"is not offered on {case.site}")
        return
    subnets = case.stock.subnets
    zones = {subnets[each].zone for each in case.ask.subnets if each in subnets}
    lacking = sorted(zones - offered)
    if lacking:
        observed = f"is not offered in {', '.join(lacking)} on {case.site}"
        verdict = "warning" if case.ask.spare else "bad"
        yield case.wrong("partner-missing", observed, "choose a type that is offered there", verdict=verdict)
        return
    yield case.ok(f"offered in {', '.join(sorted(zones or offered))}")


def _key_pair(case: _Case) -> Iterator[Parity]:
    there = case.stock.keys.get(case.ask.name)
    if there is None:
        yield case.missing()
    elif not _shown(there, case.stock.twins.get(case.ask.source, KeyPair())):
        observed = f"on {case.site} can't be shown to be the key {case.ask.source} of the active side"
        hint = "compare their fingerprints, or import the same public key on both sides"
        yield case.wrong("partner-differs", observed, hint, verdict="warning")
    elif _differ(there, case.stock.twins.get(case.ask.source, KeyPair())):
        observed = f"on {case.site} is another key than {case.ask.source} on the active side"
        hint = "import the same public key there, if the same people must get in"
        yield case.wrong("partner-differs", observed, hint, verdict="warning")
    else:
        yield case.ok("there")


def _differ(one: KeyPair, other: KeyPair) -> bool:
    """Whether two key pairs are surely two: by their public halves, else by fingerprints of one form."""
    if one.public and other.public:
        return one.public != other.public
    alike = len(one.fingerprint) == len(other.fingerprint) > 0
    return alike and one.fingerprint != other.fingerprint


def _shown(one: KeyPair, other: KeyPair) -> bool:
    """False where one side tells the public half, the other a fingerprint, and that is none of this key's."""
    for told, printed in ((one, other), (other, one)):
        alike = any(len(text) == len(printed.fingerprint) for text in told.imported)
        if told.imported and not printed.public and alike and printed.fingerprint not in told.imported:
            return printed.fingerprint == told.fingerprint
    return True


def _security_group(case: _Case) -> Iterator[Parity]:
    subnets = case.stock.subnets
    needed = case.ask.subnets or frozenset(case.mapping.subnets.values())
    vpcs = {subnets[each].vpc for each in needed if each in subnets}
    if not vpcs:  # no network is known that it must be in
        anywhere = any(case.ask.name in names for names in case.stock.groups.values())
        yield _compared(case, "there") if anywhere else case.missing()
        return
    lacking = sorted(vpc for vpc in vpcs if case.ask.name not in case.stock.groups.get(vpc, ()))
    if lacking:
        network = f"{', '.join(lacking)} on {case.site}" if any(lacking) else case.site
        yield case.missing(f"is not in {network}", f"make it in {network}, or name another in the group file")
        return
    yield _compared(case, f"in {', '.join(sorted(vpcs))}")


def _compared(case: _Case, where: str) -> Parity:
    """The group that is there, rule by rule, where both sides told their rules."""
    have, wanted = case.stock.rules.get(case.ask.name), case.stock.source_rules.get(case.ask.source)
    if have is None or wanted is None:
        return case.ok(where)
    less, more = sorted(wanted - have), sorted(have - wanted)
    if not less and not more:
        return case.ok(f"{where}, {len(have)} rules alike")
    parts = [f"does not let in {', '.join(less)}"] if less else []
    parts += [f"lets in {', '.join(more)} besides"] if more else []
    observed = f"on {case.site} {' and '.join(parts)}"
    hint = f"bring its rules on {case.site} into line with those of {case.ask.source}"
    return case.wrong("partner-differs", observed, hint, verdict="warning")


def _kms_key(case: _Case) -> Iterator[Parity]:
    state = case.stock.kms_keys.get(case.ask.name, "missing")
    if state == ENABLED:
        yield case.ok(state)
        return
    hint = f"enable the key on {case.site} or map another under map.kms_keys"
    yield case.wrong("key-unusable", state, hint, lead=f"on {case.site} can't be used: ")


def _profile(case: _Case) -> Iterator[Parity]:
    if case.ask.name not in case.stock.profiles:
        yield case.missing()
    elif case.stock.source_profiles.get(case.ask.source) and not case.stock.profiles[case.ask.name]:
        roles = ", ".join(sorted(case.stock.source_profiles[case.ask.source]))
        observed = f"on {case.site} has no role; {case.ask.source} has {roles} on the active side"
        hint = "add a role to it there, with the rights that its programs need on that cloud"
        yield case.wrong("partner-differs", observed, hint, verdict="warning")
    else:
        yield case.ok("there")


def _hosted_zone(case: _Case) -> Iterator[Parity]:
    if not case.stock.names:
        hint = "name a site under traffic.site that has Route 53; it may be a third one"
        yield case.missing(f"can't be on {case.site}: it keeps no names", hint)
    elif not case.stock.hosted_zone:
        yield case.missing()
    elif not zone_of(case.ask.source, case.stock.hosted_zone):
        observed = f"is the zone of {case.stock.hosted_zone}: {case.ask.source} is not in it"
        yield case.wrong("partner-differs", observed, "name the hosted zone that has the name")
    else:
        yield case.ok(case.stock.hosted_zone)


_JUDGES: Mapping[str, Callable[[_Case], Iterator[Parity]]] = {
    "zones": _zone,
    "subnets": _subnet,
    "types": _type,
    "keys": _key_pair,
    "security_groups": _security_group,
    "kms_keys": _kms_key,
    "profiles": _profile,
    "hosted_zone": _hosted_zone,
}
