"""Which machine type a standby waits as and grows to, on either side. Pure rules.

The group file names types as the secondary calls them. On the way home the map is read backwards; a type without a
partner keeps its name between two clouds of a kind and says nothing between unlike ones, where the partner of the
member's own type is taken instead.
"""

from __future__ import annotations

from drpilot.domain.group import Group, Tier

__all__ = ["grown_types", "named_type", "waiting_type"]


def waiting_type(group: Group, tier: Tier, member_type: str, source: str, *, alike: bool) -> str:
    """The type a member's standby has while it waits, seen from `source`; `alike`: both clouds are of a kind."""
    return named_type(group, tier.standby.size, source, alike=alike) or _partner(group, member_type, source)


def grown_types(group: Group, tier: Tier, member_type: str, source: str, *, alike: bool) -> tuple[str, ...]:
    """The types a promoted member may have, best first, each once."""
    best = named_type(group, tier.standby.grow, source, alike=alike) or _partner(group, member_type, source)
    others = (named_type(group, other, source, alike=alike) for other in tier.standby.otherwise)
    return tuple(dict.fromkeys((best, *(other for other in others if other is not None))))


def _partner(group: Group, member_type: str, source: str) -> str:
    return group.mapping(source).types.get(member_type, member_type)


def named_type(group: Group, name: str | None, source: str, *, alike: bool) -> str | None:
    """A type of the group file's `standby` as the side that is not `source` calls it; None where it has no word."""
    if name is None or source == group.primary:
        return name
    return group.mapping(source).types.get(name, name if alike else None)
