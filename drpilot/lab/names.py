"""Route 53 of the lab's `edge`: hosted zones, atomic changes that propagate, and what the zone answers now.

Sources: Amazon Route 53 API reference (ChangeResourceRecordSets, ListResourceRecordSets, GetChange,
TestDNSAnswer) and the developer guide's pages on record types, alias records and routing policies. Answers
change when a change is INSYNC and not before, so a tool that doesn't wait for it can be seen to be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from drpilot.base.clock import parse_time, rfc3339
from drpilot.lab.answers import look_up
from drpilot.lab.cloud import Cloud, Refusal, action, kind, path
from drpilot.lab.records import (
    LOAD_BALANCER_ZONE,
    Records,
    applied,
    embedded_address,
    order,
    plain_id,
    plain_name,
    record_key,
)

__all__ = ["LOAD_BALANCER_ZONE", "answer", "embedded_address", "resolve"]

_ZONES = "route53_zones"
_CHANGES = "route53_changes"
_PROPAGATION_S = 5.0
"""Lab seconds until a change is INSYNC; the tunable `durations` may change `name.propagate`."""
_PAGE = 300

kind(_ZONES, "hosted-zone")


def _zone(cloud: Cloud, zone_id: str) -> dict[str, Any]:
    row = cloud.table(_ZONES).get(plain_id(zone_id))
    if row is None:
        raise Refusal("NoSuchHostedZone", f"No hosted zone found with ID: {plain_id(zone_id)}", 404)
    return row


def _described(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Id": f"/hostedzone/{row['id']}",
        "Name": row["name"],
        "CallerReference": row["reference"],
        "Config": {"Comment": row["comment"], "PrivateZone": row["private"]},
        "ResourceRecordSetCount": len(row["records"]),
    }


def _submit(cloud: Cloud, comment: str) -> dict[str, Any]:
    """Enter a change; it is INSYNC some lab seconds from now."""
    change_id = "C" + cloud.new_hex(13).upper()
    row = {
        "id": change_id,
        "comment": comment,
        "submitted": rfc3339(cloud.timestamp()),
        "insync_at_s": cloud.now() + cloud.setting("durations", {}).get("name.propagate", _PROPAGATION_S),
    }
    cloud.table(_CHANGES)[change_id] = row
    return row


def _change_info(cloud: Cloud, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Id": f"/change/{row['id']}",
        "Status": "INSYNC" if cloud.now() >= row["insync_at_s"] else "PENDING",
        "SubmittedAt": parse_time(row["submitted"]),
        "Comment": row["comment"],
    }


def _served(cloud: Cloud, row: Mapping[str, Any]) -> Records:
    """The records that the name servers answer with now: the newest change that has propagated."""
    records: Records = row["served"]
    for pending in row["pending"]:
        if cloud.now() >= pending["insync_at_s"]:
            records = pending["records"]
    return records


@action("route53", "CreateHostedZone")
def create_hosted_zone(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """CreateHostedZone: a repeated CallerReference is HostedZoneAlreadyExists (409)."""
    name = plain_name(params["Name"])
    if not re.fullmatch(r"([a-z0-9_-]{1,63}\.)+", name):
        raise Refusal("InvalidDomainName", f"{params['Name']} is not a valid domain name")
    with cloud.lock:
        if any(row["reference"] == params["CallerReference"] for row in cloud.table(_ZONES).peek().values()):
            message = "A hosted zone has already been created with the specified caller reference."
            raise Refusal("HostedZoneAlreadyExists", message, 409)
        zone_id = "Z" + cloud.new_hex(13).upper()
        servers = [f"ns-{number}.edge.lab.internal." for number in (1, 2)]
        soa = f"{servers[0]} hostmaster.{name} 1 7200 900 1209600 86400"
        own = [
            {
                "Name": name,
                "Type": "NS",
                "TTL": 172800,
                "ResourceRecords": [{"Value": value} for value in servers],
            },
            {"Name": name, "Type": "SOA", "TTL": 900, "ResourceRecords": [{"Value": soa}]},
        ]
        records = {record_key(record): record for record in own}
        config = params.get("HostedZoneConfig") or {}
        row = {
            "id": zone_id,
            "name": name,
            "reference": params["CallerReference"],
            "comment": config.get("Comment") or "",
            "private": bool(config.get("PrivateZone")),
            "records": records,
            "served": records,
            "pending": [],
        }
        cloud.table(_ZONES)[zone_id] = row
        change = _submit(cloud, "")
    return {
        "HostedZone": _described(row),
        "ChangeInfo": _change_info(cloud, change),
        "DelegationSet": {"NameServers": servers},
        "Location": f"https://route53.amazonaws.com/2013-04-01/hostedzone/{zone_id}",
    }


@action("route53", "GetHostedZone")
def get_hosted_zone(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """GetHostedZone."""
    row = _zone(cloud, params["Id"])
    servers = [item["Value"] for item in row["records"][f"{row['name']}|NS|"]["ResourceRecords"]]
    return {"HostedZone": _described(row), "DelegationSet": {"NameServers": servers}}


@action("route53", "DeleteHostedZone")
def delete_hosted_zone(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DeleteHostedZone: HostedZoneNotEmpty while more than NS and SOA is in it."""
    with cloud.lock:
        row = _zone(cloud, params["Id"])
        if len(row["records"]) > 2:
            message = "The specified hosted zone contains non-required resource record sets."
            raise Refusal("HostedZoneNotEmpty", message)
        del cloud.table(_ZONES)[row["id"]]
        return {"ChangeInfo": _change_info(cloud, _submit(cloud, ""))}


def _page_size(wanted: Any, most: int) -> int:
    try:
        size = int(wanted) if wanted else most
    except ValueError:
        size = 0
    if size < 1:
        raise Refusal(
            "InvalidInput", f"1 validation error detected: Value '{wanted}' at 'maxItems' is invalid"
        )
    return min(size, most)


@action("route53", "ListHostedZones")
def list_hosted_zones(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """ListHostedZones: by id, at most 100 a page."""
    size, marker = _page_size(params.get("MaxItems"), 100), params.get("Marker") or ""
    ids = [zone_id for zone_id in sorted(cloud.table(_ZONES)) if zone_id >= plain_id(marker)]
    result: dict[str, Any] = {
        "HostedZones": [_described(cloud.table(_ZONES)[zone_id]) for zone_id in ids[:size]],
        "Marker": marker,
        "IsTruncated": len(ids) > size,
        "MaxItems": str(size),
    }
    return {**result, "NextMarker": ids[size]} if len(ids) > size else result


@action("route53", "ListHostedZonesByName")
def list_hosted_zones_by_name(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """ListHostedZonesByName: from DNSName on, in the order of reversed labels; not only equal names."""
    size = _page_size(params.get("MaxItems"), 100)

    def by_labels(row: Mapping[str, Any]) -> tuple[list[str], str]:
        return list(reversed(row["name"].rstrip(".").split("."))), row["id"]

    rows = sorted(cloud.table(_ZONES).peek().values(), key=by_labels)
    if params.get("DNSName"):
        start = by_labels(
            {"name": plain_name(params["DNSName"]), "id": plain_id(params.get("HostedZoneId") or "")}
        )
        rows = [row for row in rows if by_labels(row) >= start]
    result: dict[str, Any] = {
        "HostedZones": [_described(row) for row in rows[:size]],
        "IsTruncated": len(rows) > size,
        "MaxItems": str(size),
    }
    for given in ("DNSName", "HostedZoneId"):
        if params.get(given):
            result[given] = params[given]
    if len(rows) > size:
        result |= {"NextDNSName": rows[size]["name"], "NextHostedZoneId": rows[size]["id"]}
    return result


@action("route53", "ChangeResourceRecordSets")
def change_resource_record_sets(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """ChangeResourceRecordSets: all changes of the batch or none."""
    changes = params["ChangeBatch"].get("Changes") or []
    if not changes:
        raise Refusal(
            "InvalidInput", "1 validation error detected: 'changeBatch.changes' must have length >= 1"
        )
    with cloud.lock:
        row = _zone(cloud, params["HostedZoneId"])
        records = applied(row, changes)
        change = _submit(cloud, params["ChangeBatch"].get("Comment") or "")
        waiting = [item for item in row["pending"] if item["insync_at_s"] > cloud.now()]
        entry = {"insync_at_s": change["insync_at_s"], "records": records}
        served = _served(cloud, row)
        cloud.table(_ZONES)[row["id"]] = {
            **row,
            "records": records,
            "served": served,
            "pending": [*waiting, entry],
        }
    return {"ChangeInfo": _change_info(cloud, change)}


@action("route53", "GetChange")
def get_change(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """GetChange: PENDING, then INSYNC."""
    row = cloud.table(_CHANGES).get(plain_id(params["Id"]))
    if row is None:
        raise Refusal(
            "NoSuchChange", f"A change with the specified change ID {params['Id']} does not exist.", 404
        )
    return {"ChangeInfo": _change_info(cloud, row)}


@action("route53", "ListResourceRecordSets")
def list_resource_record_sets(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """ListResourceRecordSets: by reversed labels, type and set identifier, from the start given on."""
    row, size = _zone(cloud, params["HostedZoneId"]), _page_size(params.get("MaxItems"), _PAGE)
    if params.get("StartRecordType") and not params.get("StartRecordName"):
        raise Refusal("InvalidInput", "Start record type specified without start record name")
    records = sorted(row["records"].values(), key=order)
    if params.get("StartRecordName"):
        start = {
            "Name": plain_name(params["StartRecordName"]),
            "Type": params.get("StartRecordType") or "",
            "SetIdentifier": params.get("StartRecordIdentifier") or "",
        }
        records = [record for record in records if order(record) >= order(start)]
    result: dict[str, Any] = {
        "ResourceRecordSets": records[:size],
        "IsTruncated": len(records) > size,
        "MaxItems": str(size),
    }
    if len(records) > size:
        following = records[size]
        result |= {"NextRecordName": following["Name"], "NextRecordType": following["Type"]}
        if following.get("SetIdentifier"):
            result["NextRecordIdentifier"] = following["SetIdentifier"]
    return result


def answer(cloud: Cloud, zone_id: str, name: str, kind: str) -> tuple[str, list[str]]:
    """Response code and data of one query against a zone, from what has propagated by now."""
    return look_up(_served(cloud, _zone(cloud, zone_id)), plain_name(name), kind)


def resolve(cloud: Cloud, name: str, kind: str = "A") -> list[str]:
    """Addresses of `name` over all zones of this cloud (longest zone first); empty when nothing answers."""
    rows = [
        row
        for row in cloud.table(_ZONES).peek().values()
        if ("." + plain_name(name)).endswith("." + row["name"])
    ]
    for row in sorted(rows, key=lambda row: -len(row["name"])):
        return answer(cloud, row["id"], name, kind)[1]
    return []


@action("route53", "TestDNSAnswer")
def test_dns_answer(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """TestDNSAnswer: what a name server of the zone would say now."""
    code, data = answer(cloud, params["HostedZoneId"], params["RecordName"], params["RecordType"])
    return {
        "Nameserver": "ns-1.edge.lab.internal",
        "RecordName": params["RecordName"],
        "RecordType": params["RecordType"],
        "RecordData": data,
        "ResponseCode": code,
        "Protocol": "UDP",
    }


@path("resolve")
def answer_resolve(cloud: Cloud, payload: dict[str, Any]) -> dict[str, Any]:
    """`resolve` over the control plane: POST /_lab/path/resolve {record, type}."""
    return {"addresses": resolve(cloud, str(payload["record"]), str(payload.get("type", "A")))}
