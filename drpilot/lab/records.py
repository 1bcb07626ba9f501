"""Record sets of a hosted zone: their canonical form, what is wrong with one, and what a batch makes of all.

Pure rules, in the words of Amazon Route 53 (API reference, ChangeResourceRecordSets; developer guide, record
types, alias records and routing policies).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

from drpilot.lab.refusal import Refusal

__all__ = [
    "LOAD_BALANCER_ZONE",
    "Record",
    "Records",
    "applied",
    "embedded_address",
    "order",
    "plain_id",
    "plain_name",
    "record_key",
]

LOAD_BALANCER_ZONE = "Z0LABBALANCER"
"""CanonicalHostedZoneId of every load balancer of every lab site: alias targets must name it."""

_TYPES = ("A", "AAAA", "CAA", "CNAME", "MX", "NAPTR", "NS", "PTR", "SOA", "SPF", "SRV", "TXT")
_POLICIES = ("Weight", "Failover", "Region", "MultiValueAnswer", "GeoLocation")
_MOST_WEIGHT, _MOST_WEIGHTED = 255, 100
_EMBEDDED = re.compile(r"-(\d{1,3})-(\d{1,3})-(\d{1,3})-(\d{1,3})\.[a-z0-9-]+\.lab\.internal\.?")

Record = dict[str, Any]
Records = dict[str, Record]
"""Records of a zone by `name|type|set identifier`."""


def embedded_address(name: str) -> str | None:
    """The address inside a lab load balancer's name (`shop-lb-127-17-255-3.away.lab.internal`), else None."""
    match = _EMBEDDED.search(name.lower())
    return ".".join(match.groups()) if match else None


def plain_name(text: str) -> str:
    r"""A name as Route 53 keeps it: lower case, with its final dot, an asterisk as `\052`."""
    name = text.strip().lower().replace("*", "\\052")
    return name if name.endswith(".") else name + "."


def plain_id(text: str) -> str:
    """The id of a zone or change without `/hostedzone/` or `/change/` before it."""
    return text.rsplit("/", 1)[-1]


def order(record: Mapping[str, Any]) -> tuple[list[str], str, str]:
    """Where a record stands in a listing: by reversed labels, type and set identifier."""
    labels = list(reversed(record["Name"].rstrip(".").split(".")))
    return labels, record["Type"], record.get("SetIdentifier") or ""


def record_key(record: Mapping[str, Any]) -> str:
    """The key of a record in `Records`."""
    return f"{record['Name']}|{record['Type']}|{record.get('SetIdentifier') or ''}"


def _is_address(value: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(value).version == version
    except ValueError:
        return False


def _values_problem(record: Mapping[str, Any]) -> str | None:
    values = [str(item.get("Value", "")) for item in record.get("ResourceRecords") or []]
    label = f"[name='{record['Name']}', type='{record['Type']}']"
    if len(set(values)) != len(values):
        return f"Duplicate Resource Record {label}"
    for value in values:
        version = {"A": 4, "AAAA": 6}.get(record["Type"])
        if version is not None and not _is_address(value, version):
            problem = f"ARRDATAIllegalIPv{version}Address at {value}"
            return f"Invalid Resource Record: 'FATAL problem: {problem}' {label}"
        if record["Type"] == "TXT" and not re.fullmatch(r'("[^"]*"\s*)+', value):
            problem = "InvalidCharacterString (Value should be enclosed in quotation marks)"
            return f"Invalid Resource Record: FATAL problem: {problem} encountered with '{value}'"
    if record["Type"] == "CNAME" and len(values) > 1:
        return f"CNAME can have only one value {label}"
    return None


def _problem(record: Mapping[str, Any], zone: Mapping[str, Any]) -> str | None:
    """What is wrong with one record set by itself, in the service's words; None when nothing is."""
    name, kind = record["Name"], record["Type"]
    if name != zone["name"] and not name.endswith("." + zone["name"]):
        return f"RRSet with DNS name {name} is not permitted in zone {zone['name']}"
    if kind not in _TYPES:
        return f"Value '{kind}' at 'type' failed to satisfy constraint: Member must satisfy enum value set"
    if kind == "CNAME" and name == zone["name"]:
        return f"RRSet of type CNAME with DNS name {name} is not permitted at apex in zone {zone['name']}"
    alias = record.get("AliasTarget")
    plain = record.get("ResourceRecords") and record.get("TTL") is not None
    if (
        bool(alias) == bool(record.get("ResourceRecords"))
        or (not alias and not plain)
        or (alias and record.get("TTL"))
    ):
        wanted = "exactly one of [AliasTarget, all of [TTL, and ResourceRecords]]"
        return f"Invalid request: Expected {wanted}, in RRSet with DNS name {name}, type {kind}"
    if alias:
        inside = plain_name(alias["DNSName"])
        wanted = LOAD_BALANCER_ZONE if embedded_address(inside) else zone["id"]
        if plain_id(alias["HostedZoneId"]) != wanted or (
            wanted == zone["id"] and not inside.endswith(zone["name"])
        ):
            where = f"targets {inside}, type {kind} in zone {plain_id(alias['HostedZoneId'])}"
            return f"Tried to create an alias that {where}, but it does not lie within the target zone"
    policies = [policy for policy in _POLICIES if record.get(policy) is not None]
    if len(policies) > 1 or bool(policies) != bool(record.get("SetIdentifier")):
        wanted = f"exactly one of {list(_POLICIES)} together with SetIdentifier"
        return f"Invalid request: Expected {wanted}, in RRSet with DNS name {name}, type {kind}"
    if record.get("HealthCheckId"):
        return f"A health check with id {record['HealthCheckId']} does not exist"
    if not 0 <= int(record.get("Weight") or 0) <= _MOST_WEIGHT:
        return f"Value '{record['Weight']}' at 'weight' failed to satisfy constraint: 0 to {_MOST_WEIGHT}"
    return _values_problem(record)


def _weighted_problem(record: Mapping[str, Any], alike: list[Record]) -> str | None:
    """Weighted record sets of one name and type: one TTL (an alias has none), and at most a hundred of them."""
    if record.get("Weight") is None:
        return None
    label = (
        f"with DNS name {record['Name']} and type {record['Type']}, SetIdentifier {record['SetIdentifier']}"
    )
    if len({other["TTL"] for other in alike if other.get("TTL") is not None}) > 1:
        return f"RRSet {label} cannot be created as weighted sets must contain the same TTL."
    if len(alike) > _MOST_WEIGHTED:
        return f"RRSet {label} cannot be created as there are {_MOST_WEIGHTED} weighted sets already"
    return None


def _together_problem(records: Records, changed: Iterable[Record]) -> str | None:
    """What the batch would leave behind that can't stand side by side."""
    for record in changed:
        if record_key(record) not in records:
            continue
        same = [other for other in records.values() if other["Name"] == record["Name"]]
        label = f"with DNS name {record['Name']}"
        if any(other["Type"] == "CNAME" for other in same) and any(
            other["Type"] != "CNAME" for other in same
        ):
            why = "it conflicts with other records with the same DNS name in zone"
            return f"RRSet of type {record['Type']} {label} is not permitted as {why}"
        alike = [other for other in same if other["Type"] == record["Type"]]
        kinds = {tuple(policy for policy in _POLICIES if other.get(policy) is not None) for other in alike}
        if len(kinds) > 1:
            why = "other RRSets exist with the same name and type"
            return f"RRSet {label}, type {record['Type']} cannot be created as {why}"
        weighted = _weighted_problem(record, alike)
        if weighted:
            return weighted
        roles = [other["Failover"] for other in alike if other.get("Failover")]
        if len(set(roles)) != len(roles):
            return f"Failover record {label} of the same role already exists"
    return None


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _clean(item) for key, item in value.items() if item is not None}
    return [_clean(item) for item in value] if isinstance(value, (list, tuple)) else value


def _normal(given: Mapping[str, Any]) -> Record:
    record: Record = _clean(given)
    record["Name"] = plain_name(record["Name"])
    if record.get("AliasTarget"):
        target = dict(record["AliasTarget"])
        target["DNSName"] = plain_name(target["DNSName"])
        target["EvaluateTargetHealth"] = bool(target.get("EvaluateTargetHealth"))
        record["AliasTarget"] = target
    return record


def applied(zone: Mapping[str, Any], changes: list[dict[str, Any]]) -> Records:
    """The zone's records after the whole batch, or InvalidChangeBatch with every problem of it."""
    records: Records = dict(zone["records"])
    problems, changed = [], []
    for change in changes:
        record = _normal(change["ResourceRecordSet"])
        label = f"[name='{record['Name']}', type='{record['Type']}'"
        if record.get("SetIdentifier"):
            label += f", set-identifier='{record['SetIdentifier']}'"
        problem = _problem(record, zone)
        present = records.get(record_key(record))
        if change["Action"] not in ("CREATE", "DELETE", "UPSERT"):
            problem = f"Value '{change['Action']}' at 'action' failed to satisfy constraint"
        elif change["Action"] == "CREATE" and present is not None:
            problem = f"Tried to create resource record set {label}] but it already exists"
        elif change["Action"] == "DELETE" and present is None:
            problem = f"Tried to delete resource record set {label}] but it was not found"
        elif change["Action"] == "DELETE" and present != record:
            why = "the values provided do not match the current values"
            problem = f"Tried to delete resource record set {label}] but {why}"
        elif (
            change["Action"] == "DELETE"
            and record["Name"] == zone["name"]
            and record["Type"] in ("NS", "SOA")
        ):
            problem = f"A HostedZone must contain exactly one {record['Type']} record at its apex"
        if problem:
            problems.append(problem)
        elif change["Action"] == "DELETE":
            del records[record_key(record)]
        else:
            records[record_key(record)] = record
            changed.append(record)
    together = _together_problem(records, changed)
    if together:
        problems.append(together)
    if problems:
        raise Refusal("InvalidChangeBatch", f"[{', '.join(problems)}]")
    return records
