"""Tags: on every EC2 resource, in the create call and afterwards.

Rules (EC2 API reference, CreateTags; EC2 user guide, tag restrictions): 50 tags a resource, keys of 1 to 127
characters, values up to 256, no key that begins with `aws:`, a later value replaces an earlier one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drpilot.lab.cloud import Cloud, action
from drpilot.lab.filters import field, matching, paged
from drpilot.lab.refusal import Refusal
from drpilot.lab.table import Row

__all__ = ["KINDS_BY_PREFIX", "given_tags", "put_tags", "tags_for"]

KINDS_BY_PREFIX: dict[str, tuple[str, str]] = {
    "i": ("instances", "instance"),
    "vol": ("volumes", "volume"),
    "snap": ("snapshots", "snapshot"),
    "ami": ("images", "image"),
    "vpc": ("vpcs", "vpc"),
    "subnet": ("subnets", "subnet"),
    "rtb": ("route_tables", "route-table"),
    "igw": ("gateways", "internet-gateway"),
    "sg": ("groups", "security-group"),
    "sgr": ("rules", "security-group-rule"),
    "eni": ("interfaces", "network-interface"),
    "eipalloc": ("addresses", "elastic-ip"),
    "key": ("keys", "key-pair"),
    "lt": ("templates", "launch-template"),
}
"""Table and resource type by the prefix of an id."""


def check_tags(tags: list[Mapping[str, str]]) -> None:
    """Refuse tags that no resource may have."""
    seen = set()
    for tag in tags:
        key, value = tag.get("Key", ""), tag.get("Value", "")
        if not key or len(key) > 127:
            raise Refusal("InvalidParameterValue", "Tag key must be 1 to 127 characters long.")
        if key.lower().startswith("aws:"):
            raise Refusal(
                "InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use"
            )
        if len(value) > 256:
            raise Refusal("InvalidParameterValue", "Tag value exceeds the maximum length of 256 characters")
        if key in seen:
            raise Refusal("InvalidParameterValue", f"Duplicate tag key '{key}' specified.")
        seen.add(key)
    if len(tags) > 50:
        raise Refusal("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")


def given_tags(params: Mapping[str, Any], kinds: tuple[str, ...]) -> dict[str, list[dict[str, str]]]:
    """The tags of a create call's TagSpecifications by resource type; `kinds` are those it may name."""
    found: dict[str, list[dict[str, str]]] = {}
    for spec in params.get("TagSpecifications") or []:
        kind = spec.get("ResourceType", "")
        if kind not in kinds:
            raise Refusal(
                "InvalidParameterValue", f"'{kind}' is not a valid taggable resource type for this operation."
            )
        if kind in found:
            raise Refusal("InvalidParameterValue", f"Duplicate tag specification for '{kind}'.")
        tags = [{"Key": tag.get("Key", ""), "Value": tag.get("Value", "")} for tag in spec.get("Tags") or []]
        check_tags(list(tags))
        found[kind] = tags
    return found


def tags_for(params: Mapping[str, Any], kind: str) -> list[dict[str, str]]:
    """The tags for the only resource type a create call makes."""
    return given_tags(params, (kind,)).get(kind, [])


def put_tags(row: Row, tags: list[Mapping[str, str]]) -> None:
    """Add tags to a row, replacing values of keys it has."""
    merged = {tag["Key"]: tag.get("Value", "") for tag in row.get("Tags") or []}
    merged.update({tag["Key"]: tag.get("Value", "") for tag in tags})
    if len(merged) > 50:
        raise Refusal("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")
    row["Tags"] = [{"Key": key, "Value": value} for key, value in merged.items()]


def _row(cloud: Cloud, resource_id: str) -> Row:
    resource_id = cloud.traits.named(resource_id)
    prefix = cloud.traits.usual(resource_id.rpartition("-")[0])
    if prefix not in KINDS_BY_PREFIX:
        raise Refusal("InvalidID", f"The ID '{resource_id}' is not valid")
    table, kind = KINDS_BY_PREFIX[prefix]
    rows = cloud.table(table)
    if resource_id not in rows:
        raise Refusal("InvalidID", f"The {kind} ID '{resource_id}' is not valid")
    return rows[resource_id]


@action("ec2", "CreateTags")
def create_tags(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Put tags on resources: all of them or, when one does not exist, none."""
    tags = params.get("Tags") or []
    check_tags(tags)
    for row in [_row(cloud, resource_id) for resource_id in params["Resources"]]:
        put_tags(row, tags)
    return {}


@action("ec2", "DeleteTags")
def delete_tags(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Take tags off: those named, those with the given value, or all when none is named."""
    tags = params.get("Tags")
    for row in [_row(cloud, resource_id) for resource_id in params["Resources"]]:
        row["Tags"] = [have for have in row.get("Tags") or [] if tags and not _meant(have, tags)]
    return {}


def _meant(have: Mapping[str, str], tags: list[Mapping[str, str]]) -> bool:
    return any(
        tag.get("Key") == have["Key"] and ("Value" not in tag or tag["Value"] == have.get("Value", ""))
        for tag in tags
    )


_FILTERS = {
    "key": field("Key"),
    "value": field("Value"),
    "resource-id": field("ResourceId"),
    "resource-type": field("ResourceType"),
}


@action("ec2", "DescribeTags")
def describe_tags(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """One entry for each tag of each resource."""
    found = [
        {"Key": tag["Key"], "Value": tag.get("Value", ""), "ResourceId": row_id, "ResourceType": kind}
        for table, kind in KINDS_BY_PREFIX.values()
        for row_id, row in cloud.table(table).peek().items()
        for tag in row.get("Tags") or []
    ]
    page, token = paged(params, matching(found, params.get("Filters"), _FILTERS))
    return {"Tags": page, "NextToken": token}
