"""What the journal would know of a group, in dicts; every change goes through the real lifecycle tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from drpilot.base.clock import RealClock, parse_time
from drpilot.domain.machine import fire
from drpilot.domain.point import RecoveryPoint, Replica
from drpilot.domain.ports import Move

CLOCK = RealClock()


@dataclass
class Facts:
    """What the journal would know: states and data of everything that moves."""

    points: dict[str, dict[str, Any]] = field(default_factory=dict)
    replicas: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    standbys: dict[str, dict[str, Any]] = field(default_factory=dict)
    fences: dict[str, str] = field(default_factory=dict)
    group: str = "seeding"
    active: str = "home"
    epoch: int = 1
    burst: dict[str, Any] = field(default_factory=lambda: {"state": "none"})
    moved: list[Move] = field(default_factory=list)

    def apply(self, move: Move) -> None:
        """One lifecycle fact, through the real tables; refused as the journal would refuse it."""
        self.moved.append(move)
        getattr(self, f"_{move.family}")(move)

    def _point(self, move: Move) -> None:
        row = self.points.get(move.key)
        state = row["state"] if row else ""
        if state and state in move.unless:
            return
        usable = [key for key, one in self.points.items() if one["state"] in ("available", "proven")]
        facts = {
            "pinned": False,
            "last_available": usable[-1:] == [move.key],
            "last_proven": False,
            **move.facts,
        }
        to = fire("point", move.key, state, move.event, facts)
        row = self.points.setdefault(move.key, {"requested_at": CLOCK.now()})
        row.update(dict(move.data), state=to)

    def _replica(self, move: Move) -> None:
        point, kind, member = move.key.split("|", 2)
        row = self.replicas.setdefault((point, kind, member), {"state": "capturing"})
        if row["state"] in move.unless:
            return
        facts = {"within_window": True, "replicas_checked": True, "unseen": True, **move.facts}
        row["state"] = fire("point", move.key, row["state"], move.event, facts)
        row.update(dict(move.data))

    def _standby(self, move: Move) -> None:
        row = self.standbys.setdefault(move.key, {"state": "absent", "facts": {}})
        if row["state"] not in move.unless:
            row["state"] = fire("standby", move.key, row["state"], move.event, move.facts)
        row["facts"] |= dict(move.data)

    def _fence(self, move: Move) -> None:
        state = self.fences.get(move.key, "none")
        if state not in move.unless:
            self.fences[move.key] = fire("fence", move.key, state, move.event, move.facts)

    def _group(self, move: Move) -> None:
        if self.group in move.unless:
            return
        facts = {"unlocked": True, "cooled": True, "lane_held": True, **move.facts}
        self.group = fire("group", move.key, self.group, move.event, facts)
        self.active = str(move.data.get("active", self.active))
        self.epoch = int(move.data.get("epoch", self.epoch))

    def _burst(self, move: Move) -> None:
        if self.burst["state"] not in move.unless:
            facts = {"lane_held": True, "point_usable": move.data.get("point") in self.points, **move.facts}
            to = fire("burst", move.key, self.burst["state"], move.event, facts)
            self.burst = {**self.burst, **dict(move.data), "state": to}

    def recovery_point(self, key: str) -> RecoveryPoint:
        """The point as a value."""
        row = self.points[key]
        found = [
            Replica(
                member=member,
                kind=kind,
                site=one.get("site", ""),
                source_id=one.get("source_id", ""),
                id=one.get("id", ""),
                tier=one.get("tier", ""),
                size_gib=one.get("size_gib", 0),
                facts=one.get("facts", {}),
            )
            for (point, kind, member), one in self.replicas.items()
            if point == key
        ]
        captured = row.get("captured_at")
        return RecoveryPoint(
            id=key,
            group="shop",
            source=row["source"],
            site=row["site"],
            state=row["state"],
            requested_at=row["requested_at"],
            captured_at=parse_time(captured) if captured else None,
            replicas=tuple(found),
        )
