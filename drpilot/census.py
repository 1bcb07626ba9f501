"""Counting a whole cloud: what exists twice, and what is left over. Pure functions of a full inventory.

A row is {site, kind, id, tags, default, row}. Nothing here asks the journal whether a thing should exist, except for
the ids it owns: a resource that nobody owns and that was not there before is left over, whatever the run said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["Row", "duplicates", "identifiers", "leftovers"]

Row = Mapping[str, Any]

_MADE_BY_CLOUD = ("network-interface",)  # appear and vanish with the thing they belong to


def duplicates(rows: Iterable[Row]) -> list[str]:
    """What carries the marks of one making twice: the same attempt and member, the same point and member, or two
    elastic addresses for one member.
    """
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for row in rows:
        tags = row["tags"]
        member = tags.get("drpilot:member", tags.get("Name", ""))
        if row["kind"] == "snapshot":  # one CreateSnapshots makes one a volume, all with the same tags
            member += str(row["row"].get("VolumeId", ""))
        if "drpilot:attempt" in tags:
            key = ("attempt", row["site"], row["kind"], tags["drpilot:attempt"], member)
            found[key].append(row["id"])
        if (
            row["kind"] == "elastic-ip" and "drpilot:attempt" in tags
        ):  # one a member and site, whichever run made it
            owner = tuple(tags.get(f"drpilot:{name}", "") for name in ("group", "tier"))
            found["address", row["site"], row["kind"], *owner, member].append(row["id"])
        if "drpilot:point" in tags and row["kind"] in ("snapshot", "image") and "drpilot:member" in tags:
            found["point", row["site"], row["kind"], tags["drpilot:point"], member].append(row["id"])
    return sorted(
        {f"{key[2]} {', '.join(sorted(ids))} on {key[1]}" for key, ids in found.items() if len(ids) > 1}
    )


def identifiers(value: Any) -> set[str]:
    """Every text inside a JSON value: how the journal's facts name what they own."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, Mapping):
        return {text for key, each in value.items() for text in ({str(key)} | identifiers(each))}
    if isinstance(value, (list, tuple, set, frozenset)):
        return {text for each in value for text in identifiers(each)}
    return set()


def leftovers(rows: Iterable[Row], before: Iterable[tuple[str, str]], owned: set[str]) -> list[str]:
    """What is new since `before` ((site, id) pairs), that no owner accounts for.

    What belongs to an owned thing is accounted for by it: volumes attached and addresses bound to an owned instance,
    instances of an owned scaling group, listeners of an owned balancer, the snapshots under an owned image. The fence's
    deny-all group stands as long as the group is protected.
    """
    known = set(before)
    everything = [row for row in rows if not row["default"]]
    accounted = {
        row["id"] for row in everything if (row["site"], row["id"]) in known or "drpilot:fence" in row["tags"]
    }
    accounted |= owned
    while True:
        beneath = {text for row in everything if row["id"] in accounted for text in _children(row)}
        grown = {
            row["id"] for row in everything if row["id"] in beneath or _parents(row) & accounted
        } - accounted
        if not grown:
            break
        accounted |= grown
    return [
        f"{row['kind']} {row['id']} on {row['site']}"
        for row in everything
        if row["id"] not in accounted and row["kind"] not in _MADE_BY_CLOUD
    ]


def _children(row: Row) -> set[str]:
    return identifiers(row["row"].get("BlockDeviceMappings", [])) if row["kind"] == "image" else set()


def _parents(row: Row) -> set[str]:
    body = row["row"]
    match row["kind"]:
        case "volume":
            found = {each.get("InstanceId", "") for each in body.get("Attachments", [])}
        case "elastic-ip":
            found = {body.get("InstanceId", "")}
        case "instance":
            found = {row["tags"].get("aws:autoscaling:groupName", "")}
        case "listener":
            found = {body.get("LoadBalancerArn", "")}
        case _:
            found = set()
    return found - {""}
