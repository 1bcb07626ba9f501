"""Security groups and their rules.

A rule is a row of its own (EC2 API reference, SecurityGroupRule); the `IpPermissions` of a group are put
together from its rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from drpilot.lab.cloud import Cloud, action, kind
from drpilot.lab.filters import field, matching, paged
from drpilot.lab.lookup import find, read_all
from drpilot.lab.refusal import Refusal
from drpilot.lab.table import Row
from drpilot.lab.tags import tags_for

__all__ = ["make_default_group"]

kind("groups", "security-group", default=lambda row: row["GroupName"] == "default")

_TARGETS = ("CidrIpv4", "CidrIpv6", "PrefixListId", "GroupId")


def _new_group(cloud: Cloud, vpc_id: str, name: str, description: str, tags: Any) -> Row:
    group_id = cloud.new_id("sg")
    row = {
        "GroupId": group_id,
        "GroupName": name,
        "Description": description,
        "VpcId": vpc_id,
        "OwnerId": cloud.owned(),
        "SecurityGroupArn": f"arn:aws:ec2:{cloud.region}:{cloud.account}:security-group/{group_id}",
        "Tags": list(tags),
    }
    cloud.table("groups")[group_id] = row
    _add_rule(cloud, group_id, egress=True, rule={"IpProtocol": "-1", "CidrIpv4": "0.0.0.0/0"})
    return row


def make_default_group(cloud: Cloud, vpc_id: str) -> None:
    """The group every VPC is made with: all traffic from itself, and out."""
    row = _new_group(cloud, vpc_id, "default", "default VPC security group", ())
    _add_rule(cloud, row["GroupId"], egress=False, rule={"IpProtocol": "-1", "GroupId": row["GroupId"]})


@action("ec2", "CreateSecurityGroup")
def create_security_group(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """A group that lets everything out and nothing in."""
    if "VpcId" not in params:
        raise Refusal("VPCIdNotSpecified", "No default VPC for this user")
    vpc_id = find(cloud, "vpcs", params["VpcId"])["VpcId"]
    name, tags = params["GroupName"], tags_for(params, "security-group")
    if name.startswith("sg-") or len(name) > 255:
        raise Refusal("InvalidParameterValue", f"Value ({name}) for parameter groupName is invalid.")
    if name == "default":
        raise Refusal("InvalidParameterValue", "Cannot use reserved security group name: default")
    if any(
        row["VpcId"] == vpc_id and row["GroupName"] == name for row in cloud.table("groups").peek().values()
    ):
        raise Refusal(
            "InvalidGroup.Duplicate", f"The security group '{name}' already exists for VPC '{vpc_id}'"
        )
    row = _new_group(cloud, vpc_id, name, params["Description"], tags)
    return {"GroupId": row["GroupId"], "Tags": tags, "SecurityGroupArn": row["SecurityGroupArn"]}


def _rules_of(cloud: Cloud, group_id: str, *, egress: bool) -> list[Row]:
    return [
        row
        for row in cloud.table("rules").peek().values()
        if row["GroupId"] == group_id and row["IsEgress"] == egress
    ]


def _identity(rule: Mapping[str, Any]) -> tuple[Any, ...]:
    target = next(((name, rule[name]) for name in _TARGETS if rule.get(name)), None)
    return rule["IpProtocol"], rule.get("FromPort"), rule.get("ToPort"), target


def _add_rule(cloud: Cloud, group_id: str, *, egress: bool, rule: Mapping[str, Any]) -> Row:
    rule_id = cloud.new_id("sgr")
    row: Row = {
        "SecurityGroupRuleId": rule_id,
        "GroupId": group_id,
        "GroupOwnerId": cloud.owned(),
        "IsEgress": egress,
        "IpProtocol": rule["IpProtocol"],
        "FromPort": rule.get("FromPort", -1),
        "ToPort": rule.get("ToPort", -1),
        "Description": rule.get("Description"),
        "CidrIpv4": rule.get("CidrIpv4"),
        "CidrIpv6": rule.get("CidrIpv6"),
        "PrefixListId": rule.get("PrefixListId"),
        "Tags": [],
        "_identity": list(map(str, _identity(rule))),
    }
    if rule.get("GroupId"):
        row["ReferencedGroupInfo"] = {"GroupId": rule["GroupId"], "UserId": cloud.owned()}
    cloud.table("rules")[rule_id] = row
    return row


def _given_rules(params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rules a call names, one for each range, list or group of each permission."""
    permissions = list(params.get("IpPermissions") or [])
    if params.get("IpProtocol"):
        flat = {key: params[key] for key in ("IpProtocol", "FromPort", "ToPort") if key in params}
        if params.get("CidrIp"):
            flat["IpRanges"] = [{"CidrIp": params["CidrIp"]}]
        permissions.append(flat)
    if not permissions:
        raise Refusal("MissingParameter", "The request must contain the parameter ipPermissions")
    for permission in permissions:
        protocol = {"6": "tcp", "17": "udp", "1": "icmp"}.get(
            permission.get("IpProtocol", ""), permission.get("IpProtocol", "")
        )
        if not protocol:
            raise Refusal("InvalidParameterValue", "Invalid value '' for IP protocol.")
        base: dict[str, Any] = {"IpProtocol": protocol}
        if protocol != "-1":
            first, last = permission.get("FromPort"), permission.get("ToPort")
            if protocol in ("tcp", "udp") and (
                first is None or last is None or not 0 <= first <= last <= 65535
            ):
                raise Refusal("InvalidParameterValue", f"Invalid value for portRange: from {first} to {last}")
            base.update(FromPort=first, ToPort=last)
        targets: list[dict[str, Any]] = []
        for member, own, name in (
            ("IpRanges", "CidrIp", "CidrIpv4"),
            ("Ipv6Ranges", "CidrIpv6", "CidrIpv6"),
            ("PrefixListIds", "PrefixListId", "PrefixListId"),
            ("UserIdGroupPairs", "GroupId", "GroupId"),
        ):
            targets += [
                {name: item.get(own), "Description": item.get("Description")}
                for item in permission.get(member) or []
            ]
        if not targets:
            raise Refusal("MissingParameter", "Each permission needs a range, a prefix list or a group")
        for target in targets:
            yield {**base, **target}


def _authorize(cloud: Cloud, params: dict[str, Any], *, egress: bool) -> dict[str, Any]:
    group_id = find(cloud, "groups", params.get("GroupId", ""))["GroupId"]
    known = {tuple(row["_identity"]) for row in _rules_of(cloud, group_id, egress=egress)}
    given = list(_given_rules(params))
    for rule in given:
        if rule.get("GroupId"):
            find(cloud, "groups", rule["GroupId"])
        mark = tuple(map(str, _identity(rule)))
        if mark in known:
            raise Refusal(
                "InvalidPermission.Duplicate", f"the specified rule {_identity(rule)} already exists"
            )
        known.add(mark)
    made = [_add_rule(cloud, group_id, egress=egress, rule=rule) for rule in given]
    return {"Return": True, "SecurityGroupRules": made}


def _revoke(cloud: Cloud, params: dict[str, Any], *, egress: bool) -> dict[str, Any]:
    group_id = find(cloud, "groups", params.get("GroupId", ""))["GroupId"]
    rules = {tuple(row["_identity"]): row for row in _rules_of(cloud, group_id, egress=egress)}
    if params.get("SecurityGroupRuleIds"):
        gone = [find(cloud, "rules", rule_id) for rule_id in params["SecurityGroupRuleIds"]]
    else:
        gone = []
        for rule in _given_rules(params):
            found = rules.get(tuple(map(str, _identity(rule))))
            if found is None:
                raise Refusal(
                    "InvalidPermission.NotFound",
                    "The specified rule does not exist in this security group.",
                )
            gone.append(found)
    for row in gone:
        del cloud.table("rules")[row["SecurityGroupRuleId"]]
    return {"Return": True}


@action("ec2", "AuthorizeSecurityGroupIngress")
def authorize_security_group_ingress(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Let traffic in."""
    return _authorize(cloud, params, egress=False)


@action("ec2", "AuthorizeSecurityGroupEgress")
def authorize_security_group_egress(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Let traffic out."""
    return _authorize(cloud, params, egress=True)


@action("ec2", "RevokeSecurityGroupIngress")
def revoke_security_group_ingress(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """No longer let traffic in."""
    return _revoke(cloud, params, egress=False)


@action("ec2", "RevokeSecurityGroupEgress")
def revoke_security_group_egress(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """No longer let traffic out."""
    return _revoke(cloud, params, egress=True)


def _permissions(cloud: Cloud, group_id: str, *, egress: bool) -> list[Row]:
    merged: dict[tuple[str, int, int], Row] = {}
    for rule in _rules_of(cloud, group_id, egress=egress):
        key = (rule["IpProtocol"], rule["FromPort"], rule["ToPort"])
        entry = merged.get(key)
        if entry is None:
            entry = {"IpProtocol": key[0], "IpRanges": [], "Ipv6Ranges": []}
            entry.update(PrefixListIds=[], UserIdGroupPairs=[])
            if key[0] != "-1":
                entry.update(FromPort=key[1], ToPort=key[2])
            merged[key] = entry
        note = {"Description": rule["Description"]}
        if rule["CidrIpv4"]:
            entry["IpRanges"].append({"CidrIp": rule["CidrIpv4"], **note})
        elif rule["CidrIpv6"]:
            entry["Ipv6Ranges"].append({"CidrIpv6": rule["CidrIpv6"], **note})
        elif rule["PrefixListId"]:
            entry["PrefixListIds"].append({"PrefixListId": rule["PrefixListId"], **note})
        else:
            pair = rule["ReferencedGroupInfo"]
            entry["UserIdGroupPairs"].append({"GroupId": pair["GroupId"], "UserId": pair["UserId"], **note})
    return list(merged.values())


_FILTERS = {
    "group-id": field("GroupId"),
    "group-name": field("GroupName"),
    "description": field("Description"),
    "vpc-id": field("VpcId"),
    "owner-id": field("OwnerId"),
    "ip-permission.from-port": field("IpPermissions", "FromPort"),
    "ip-permission.to-port": field("IpPermissions", "ToPort"),
    "ip-permission.protocol": field("IpPermissions", "IpProtocol"),
    "ip-permission.cidr": field("IpPermissions", "IpRanges", "CidrIp"),
    "ip-permission.group-id": field("IpPermissions", "UserIdGroupPairs", "GroupId"),
}


@action("ec2", "DescribeSecurityGroups")
def describe_security_groups(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Groups by id, name or filter."""
    rows = read_all(cloud, "groups", params.get("GroupIds"))
    names = params.get("GroupNames")
    if names:
        rows = [row for row in rows if row["GroupName"] in names]
        missing = set(names) - {row["GroupName"] for row in rows}
        if missing:
            raise Refusal("InvalidGroup.NotFound", f"The security group '{min(missing)}' does not exist")
    shown = [
        {
            **row,
            "IpPermissions": _permissions(cloud, row["GroupId"], egress=False),
            "IpPermissionsEgress": _permissions(cloud, row["GroupId"], egress=True),
        }
        for row in rows
    ]
    page, token = paged(params, matching(shown, params.get("Filters"), _FILTERS), ids="GroupIds")
    return {"SecurityGroups": page, "NextToken": token}


@action("ec2", "DescribeSecurityGroupRules")
def describe_security_group_rules(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Rules by id or filter."""
    known = {"group-id": field("GroupId"), "security-group-rule-id": field("SecurityGroupRuleId")}
    rows = read_all(cloud, "rules", params.get("SecurityGroupRuleIds"))
    page, token = paged(params, matching(rows, params.get("Filters"), known), ids="SecurityGroupRuleIds")
    return {"SecurityGroupRules": page, "NextToken": token}


@action("ec2", "DeleteSecurityGroup")
def delete_security_group(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Remove a group that nothing uses and no other group's rule names."""
    row = find(cloud, "groups", params.get("GroupId", ""))
    group_id = row["GroupId"]
    if row["GroupName"] == "default":
        raise Refusal("CannotDelete", "the specified group: default cannot be deleted by a user")
    used = any(
        group["GroupId"] == group_id
        for interface in cloud.table("interfaces").peek().values()
        for group in interface["Groups"]
    )
    named = any(
        rule["GroupId"] != group_id and (rule.get("ReferencedGroupInfo") or {}).get("GroupId") == group_id
        for rule in cloud.table("rules").peek().values()
    )
    if used or named:
        raise Refusal("DependencyViolation", f"resource {group_id} has a dependent object")
    for key, rule in list(cloud.table("rules").peek().items()):
        if rule["GroupId"] == group_id:
            del cloud.table("rules")[key]
    del cloud.table("groups")[group_id]
    return {"Return": True, "GroupId": group_id}
