"""Faults of a simulated cloud: the rules one can set, and what a call meets because of them.

A rule is written `KIND[=VALUE][:service.action][@n]`. `n` picks the n-th matching call (`@3`), a span
(`@3-5`) or all from one on (`@3+`); without it every matching call is hit. The service and the action may be
`*`, and the action may be one of the classes `mutating` and `reading`, so that a test can cut off the reply
of the third call that changes anything: `lost-reply:*.mutating@3`. No kind means an outage: `refuse`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from drpilot.domain.operations import is_reading

__all__ = ["KINDS", "Cut", "Fault", "Faults", "Meeting", "parse_fault"]

KINDS: dict[str, str] = {
    "refuse": "connections are refused (a rule without action closes the port)",
    "hang": "the call is taken and never answered, without effect",
    "reset": "the connection is reset before the call has an effect",
    "lost-reply": "the effect happens, the answer is cut off",
    "error-5xx": "the cloud answers with an internal error, without effect",
    "throttle": "the cloud answers that the rate limit is exceeded",
    "latency": "the call takes VALUE seconds longer (2)",
    "capacity": "no capacity for new or started instances",
    "stale-read": "reading calls see the state of up to VALUE lab seconds ago (5)",
    "not-found-yet": "what is younger than VALUE lab seconds can't be found (3)",
    "slow-copy": "snapshot copies take VALUE times as long (20)",
    "corrupt-block": "one byte of each matching block of a snapshot is wrong",
    "partition": "the path to the other sites is cut, or to the site VALUE alone",
}
_DEFAULT_VALUE = {"latency": "2", "stale-read": "5", "not-found-yet": "3", "slow-copy": "20"}
_NUMERIC = frozenset(_DEFAULT_VALUE)
_OUTAGES = ("refuse", "hang", "reset", "error-5xx")
_BEFORE = (*_OUTAGES, "throttle", "latency", "lost-reply", "stale-read", "not-found-yet")
_RULE = re.compile(
    r"^(?P<kind>[a-z0-9-]+)(=(?P<value>[^:@=]+))?"
    r"(:(?P<service>[a-zA-Z0-9*-]+)(\.(?P<action>[A-Za-z0-9*]+))?)?"
    r"(@(?P<first>[0-9]+)(?P<span>-(?P<last>[0-9]+)|\+)?)?$"
)


class Cut(Exception):
    """No answer reaches the caller; `kind` says how (refuse, hang, reset or lost-reply)."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule. `first` and `last` count matching calls from 1; `last` None means without end."""

    kind: str
    value: str | None = None
    service: str = "*"
    action: str = "*"
    first: int = 1
    last: int | None = None

    @property
    def whole(self) -> bool:
        """Whether the rule hits every call of the site."""
        return (self.service, self.action, self.first, self.last) == ("*", "*", 1, None)

    def covers(self, service: str, operation: str) -> bool:
        """Whether a call of `operation` counts for this rule."""
        if not fnmatchcase(service.lower(), self.service.lower()):
            return False
        if self.action in ("mutating", "reading"):
            return is_reading(operation) == (self.action == "reading")
        return fnmatchcase(operation.lower(), self.action.lower())

    def text(self) -> str:
        """The rule as `parse_fault` reads it."""
        value = "" if self.value is None or self.value == _DEFAULT_VALUE.get(self.kind) else f"={self.value}"
        scope = "" if (self.service, self.action) == ("*", "*") else f":{self.service}.{self.action}"
        if self.first == 1 and self.last is None:
            return self.kind + value + scope
        span = "+" if self.last is None else "" if self.last == self.first else f"-{self.last}"
        return f"{self.kind}{value}{scope}@{self.first}{span}"


def parse_fault(text: str) -> Fault:
    """Read a rule; raises ValueError with one clear line when it can't be read."""
    text = text.strip() or "refuse"
    found = _RULE.match(text)
    if found is None:
        raise ValueError(
            f"fault {text!r} is not KIND[=VALUE][:service.action][@n]; kinds: {', '.join(KINDS)}"
        )
    kind, value = found["kind"], found["value"]
    if kind not in KINDS:
        raise ValueError(f"unknown fault kind {kind!r}; kinds: {', '.join(KINDS)}")
    if kind in _NUMERIC:
        value = value or _DEFAULT_VALUE[kind]
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
            raise ValueError(f"fault {kind} takes a number after '=', not {value!r}")
    elif value is not None and kind != "partition":
        raise ValueError(f"fault {kind} takes no value, got {value!r}")
    first = int(found["first"] or 1)
    if first < 1:
        raise ValueError("calls are counted from 1: '@0' matches none")
    last: int | None = None
    if found["first"] and not found["span"]:
        last = first
    elif found["last"]:
        last = int(found["last"])
        if last < first:
            raise ValueError(f"'@{first}-{last}' ends before it begins")
    return Fault(kind, value, found["service"] or "*", found["action"] or "*", first, last)


@dataclass(slots=True)
class Meeting:
    """What one call meets: at most one way to fail before the effect, and what else applies."""

    refusal: str | None = None
    delay_s: float = 0.0
    lost_reply: bool = False
    stale_s: float | None = None
    unseen_s: float | None = None


class Faults:
    """The rules in force on one site. Rows live in the cloud's table `faults`, so they survive a restart.

    A rule that refuses a call is met inside the transaction the refusal undoes. What was counted there is counted
    again by `recount`, else `capacity@2` would hit every call from the second on.
    """

    def __init__(self, rows: MutableMapping[str, dict[str, Any]]) -> None:
        self._rows = rows
        self._counted: list[tuple[str, bool]] = []  # rule id and whether it hit, since the last `settle`

    def set(self, fault: Fault | str) -> str:
        """Put a rule in force and give its id. The caller holds the cloud's transaction."""
        fault = parse_fault(fault) if isinstance(fault, str) else fault
        number = max((int(key) for key in self._rows), default=0) + 1
        self._rows[str(number)] = {"rule": fault.text(), "seen": 0, "hit": 0}
        return str(number)

    def heal(self, which: str | None = None) -> int:
        """Lift the rule with this id or text, or the rules of this kind, or all; gives how many."""
        gone = [
            key
            for key, row in self._rows.items()
            if which is None or which in (key, row["rule"], parse_fault(row["rule"]).kind)
        ]
        for key in gone:
            del self._rows[key]
        return len(gone)

    def rules(self) -> list[dict[str, Any]]:
        """The rules in force: id, rule, calls seen, calls hit."""
        return [{"id": key, **row} for key, row in self._rows.items()]

    @property
    def any(self) -> bool:
        """Whether any rule is in force."""
        return bool(self._rows)

    @property
    def outage(self) -> str | None:
        """The kind of a whole-site outage in force (refuse, hang, reset, error-5xx), else None."""
        for _, fault in self._parsed():
            if fault.kind in _OUTAGES and fault.whole:
                return fault.kind
        return None

    def meet(self, service: str, operation: str) -> Meeting:
        """Count a call and say what it meets. The caller holds the cloud's transaction."""
        meeting = Meeting()
        for key, fault in self._parsed():
            if fault.kind not in _BEFORE or not fault.covers(service, operation):
                continue
            if not self._strikes(key, fault):
                continue
            if fault.kind in _OUTAGES or fault.kind == "throttle":
                meeting.refusal = meeting.refusal or fault.kind
            elif fault.kind == "latency":
                meeting.delay_s += float(fault.value or 0)
            elif fault.kind == "lost-reply":
                meeting.lost_reply = True
            elif fault.kind == "stale-read" and is_reading(operation):
                meeting.stale_s = float(fault.value or 0)
            elif fault.kind == "not-found-yet":
                meeting.unseen_s = float(fault.value or 0)
        return meeting

    def strikes(self, kind: str, service: str, operation: str) -> bool:
        """Count an event of capacity, slow-copy or corrupt-block and say whether a rule hits it."""
        return self.value(kind, service, operation) is not None

    def value(self, kind: str, service: str, operation: str) -> str | None:
        """As `strikes`, but gives the rule's value ('' where it has none), or None when nothing hits."""
        struck: str | None = None
        for key, fault in self._parsed():
            if fault.kind == kind and fault.covers(service, operation) and self._strikes(key, fault):
                struck = struck or fault.value or ""
        return struck

    def parts(self, site: str) -> bool:
        """Whether the path to `site` is cut from here."""
        if self.outage is not None:
            return True
        return any(fault.kind == "partition" and fault.value in (None, site) for _, fault in self._parsed())

    def settle(self) -> None:
        """What was counted is on disk."""
        self._counted.clear()

    def recount(self) -> bool:
        """Count once more what an undone transaction had counted; whether there was anything to count."""
        counted, self._counted = self._counted, []
        known = [(self._rows[key], hit) for key, hit in counted if key in self._rows]
        for row, hit in known:
            row["seen"] += 1
            row["hit"] += hit
        return bool(known)

    def _parsed(self) -> Iterator[tuple[str, Fault]]:
        for key in list(self._rows):
            yield key, parse_fault(self._rows[key]["rule"])

    def _strikes(self, key: str, fault: Fault) -> bool:
        row = self._rows[key]
        row["seen"] += 1
        hit = row["seen"] >= fault.first and (fault.last is None or row["seen"] <= fault.last)
        row["hit"] += hit
        self._counted.append((key, hit))
        return hit
