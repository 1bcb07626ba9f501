"""What a name server answers from the records of a zone: wildcards, policies, aliases and chains of names.

Source: Amazon Route 53 developer guide, "Choosing a routing policy". The lab has no health checks: a primary
of a failover pair answers as long as it is there.
"""

from __future__ import annotations

from drpilot.base.clock import Chance
from drpilot.lab.records import Record, Records, embedded_address, order, plain_name

__all__ = ["look_up"]

_CHANCE = Chance()


def _chosen(alike: list[Record]) -> list[Record]:
    """Which records of one name and type answer: weights, the primary, many values, or the first."""
    if any("Weight" in record for record in alike):
        weights = [record["Weight"] for record in alike]
        point = _CHANCE.uniform(0, sum(weights) or len(alike))
        for record, weight in zip(alike, weights, strict=True):
            point -= weight if sum(weights) else 1
            if point <= 0 and (weight or not sum(weights)):
                return [record]
        return alike[-1:]
    if any("Failover" in record for record in alike):
        return sorted(alike, key=lambda record: str(record["Failover"]))[:1]
    if any("MultiValueAnswer" in record for record in alike):
        return alike[:8]
    return alike[:1]


def _data(records: Records, record: Record, kind: str, depth: int) -> list[str]:
    if "AliasTarget" in record:
        targets = [record["AliasTarget"]["DNSName"]]
    elif record["Type"] == "CNAME" and kind != "CNAME":
        targets = [item["Value"] for item in record["ResourceRecords"]]
    else:
        return [item["Value"] for item in record["ResourceRecords"]]
    found: list[str] = []
    for target in targets:
        address = embedded_address(target)
        if address is not None:
            found += [address] if kind == "A" else []
        elif depth < 8:
            found += look_up(records, plain_name(target), kind, depth + 1)[1]
    return found


def look_up(records: Records, name: str, kind: str, depth: int = 0) -> tuple[str, list[str]]:
    """Response code (NOERROR, NXDOMAIN) and data of a query for `name`, which has its canonical form."""
    at_name = [record for record in records.values() if record["Name"] == name]
    if not at_name:
        wildcard = "\\052." + name.split(".", 1)[1] if "." in name else ""
        at_name = [record for record in records.values() if record["Name"] == wildcard]
    if not at_name:
        return "NXDOMAIN", []
    alike = [record for record in at_name if record["Type"] == kind]
    alike = alike or [record for record in at_name if record["Type"] == "CNAME"]
    chosen = _chosen(sorted(alike, key=order)) if alike else []
    return "NOERROR", [value for record in chosen for value in _data(records, record, kind, depth)]
