"""Who a site is and what it may use: STS, KMS keys and service quotas."""

from __future__ import annotations

from typing import Any

from drpilot.lab.cloud import Cloud, action, kind, resident
from drpilot.lab.filters import paged
from drpilot.lab.refusal import Refusal
from drpilot.lab.table import Row

__all__ = ["DEFAULT_KEY_ALIAS", "find_key", "key_usable", "quota"]

DEFAULT_KEY_ALIAS = "alias/aws/ebs"
kind("kms_keys", "kms-key", default=lambda row: row["KeyManager"] == "AWS")
kind("kms_aliases", "kms-alias", default=lambda row: row["AliasName"].startswith("alias/aws/"))


@action("sts", "GetCallerIdentity")
def get_caller_identity(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """The account and user behind the access key."""
    return {
        "UserId": f"AIDA{cloud.account}LAB",
        "Account": cloud.account,
        "Arn": f"arn:aws:iam::{cloud.account}:user/{cloud.name}-operator",
    }


# -- KMS --------------------------------------------------------------------------------------------------


@resident
def make_default_key(cloud: Cloud) -> None:
    """The key that AWS itself makes for EBS in each account and region."""
    if DEFAULT_KEY_ALIAS not in cloud.table("kms_aliases"):
        row = _new_key(cloud, "Default key that protects my EBS volumes when no other key is defined", "AWS")
        cloud.table("kms_aliases")[DEFAULT_KEY_ALIAS] = _new_alias(cloud, DEFAULT_KEY_ALIAS, row["KeyId"])


def _new_key(cloud: Cloud, description: str, manager: str) -> Row:
    digits = cloud.new_hex(32)
    key_id = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    row = {
        "AWSAccountId": cloud.account,
        "KeyId": key_id,
        "Arn": f"arn:aws:kms:{cloud.region}:{cloud.account}:key/{key_id}",
        "CreationDate": cloud.stamp(),
        "Enabled": True,
        "Description": description,
        "KeyUsage": "ENCRYPT_DECRYPT",
        "KeyState": "Enabled",
        "Origin": "AWS_KMS",
        "KeyManager": manager,
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "MultiRegion": False,
        "Tags": [],
    }
    cloud.table("kms_keys")[key_id] = row
    return row


def _new_alias(cloud: Cloud, name: str, key_id: str) -> Row:
    return {
        "AliasName": name,
        "AliasArn": f"arn:aws:kms:{cloud.region}:{cloud.account}:{name}",
        "TargetKeyId": key_id,
        "CreationDate": cloud.stamp(),
        "LastUpdatedDate": cloud.stamp(),
    }


def find_key(cloud: Cloud, given: str | None) -> Row | None:
    """The key for an id, an ARN, an alias or an alias' ARN; without one the default key of EBS. None when
    there is no such key here (a key of another region is not here).
    """
    name = given or DEFAULT_KEY_ALIAS
    if name.startswith("arn:"):
        parts = name.split(":", 5)
        if len(parts) < 6 or parts[3] != cloud.region or parts[4] != cloud.account:
            return None
        name = parts[5].removeprefix("key/")
    if name.startswith("alias/"):
        alias = cloud.table("kms_aliases").peek().get(name)
        if alias is None:
            return None
        name = alias["TargetKeyId"]
    return cloud.table("kms_keys").peek().get(name)


def key_usable(cloud: Cloud, given: str | None) -> bool:
    """Whether the key exists and is enabled."""
    row = find_key(cloud, given)
    return row is not None and row["KeyState"] == "Enabled"


def _known_key(cloud: Cloud, given: str) -> Row:
    row = find_key(cloud, given)
    if row is None:
        raise Refusal("NotFoundException", f"Key '{given}' does not exist")
    return cloud.table("kms_keys")[row["KeyId"]]


@action("kms", "CreateKey")
def create_key(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """A symmetric key of the account's own."""
    row = _new_key(cloud, params.get("Description", ""), "CUSTOMER")
    row["Tags"] = [{"Key": tag["TagKey"], "Value": tag["TagValue"]} for tag in params.get("Tags") or []]
    return {"KeyMetadata": row}


@action("kms", "DescribeKey")
def describe_key(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """One key, by id, ARN or alias."""
    return {"KeyMetadata": _known_key(cloud, params["KeyId"])}


@action("kms", "ListKeys")
def list_keys(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Ids and ARNs of all keys."""
    rows = [{"KeyId": row["KeyId"], "KeyArn": row["Arn"]} for row in cloud.table("kms_keys").peek().values()]
    return _marked(params, "Keys", rows)


@action("kms", "ListAliases")
def list_aliases(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """All aliases, or those of one key."""
    wanted = params.get("KeyId") and _known_key(cloud, params["KeyId"])["KeyId"]
    rows = [row for row in cloud.table("kms_aliases").peek().values() if wanted in (None, row["TargetKeyId"])]
    return _marked(params, "Aliases", rows)


def _marked(params: dict[str, Any], name: str, rows: list[Row]) -> dict[str, Any]:
    asked = {"MaxResults": params.get("Limit"), "NextToken": params.get("Marker")}
    page, token = paged(asked, rows, least=1)
    return {name: page, "Truncated": token is not None, "NextMarker": token}


@action("kms", "CreateAlias")
def create_alias(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """A name for a key."""
    name = params["AliasName"]
    if not name.startswith("alias/") or name.startswith("alias/aws/"):
        raise Refusal("InvalidAliasNameException", f"Invalid alias: {name!r}")
    if name in cloud.table("kms_aliases"):
        raise Refusal("AlreadyExistsException", f"An alias with the name {name} already exists")
    key = _known_key(cloud, params["TargetKeyId"])
    cloud.table("kms_aliases")[name] = _new_alias(cloud, name, key["KeyId"])
    return {}


@action("kms", "DeleteAlias")
def delete_alias(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Remove a name; the key stays."""
    if cloud.table("kms_aliases").pop(params["AliasName"], None) is None:
        raise Refusal("NotFoundException", f"Alias {params['AliasName']} is not found.")
    return {}


def _own_key(cloud: Cloud, params: dict[str, Any]) -> Row:
    row = _known_key(cloud, params["KeyId"])
    if row["KeyManager"] == "AWS":
        raise Refusal("AccessDeniedException", "An AWS managed key can't be changed")
    return row


@action("kms", "DisableKey")
def disable_key(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Make a key unusable until it is enabled again."""
    _own_key(cloud, params).update(Enabled=False, KeyState="Disabled")
    return {}


@action("kms", "EnableKey")
def enable_key(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Make a key usable."""
    _own_key(cloud, params).update(Enabled=True, KeyState="Enabled")
    return {}


@action("kms", "ScheduleKeyDeletion")
def schedule_key_deletion(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Make a key unusable for good; it stays listed as pending deletion."""
    row = _own_key(cloud, params)
    days = params.get("PendingWindowInDays", 30)
    row.update(Enabled=False, KeyState="PendingDeletion", PendingDeletionWindowInDays=days)
    return {"KeyId": row["Arn"], "KeyState": "PendingDeletion", "PendingWindowInDays": days}


@action("ec2", "GetEbsDefaultKmsKeyId")
def get_ebs_default_kms_key_id(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """The key used for encrypted volumes when none is named."""
    return {"KmsKeyId": DEFAULT_KEY_ALIAS}


@action("ec2", "GetEbsEncryptionByDefault")
def get_ebs_encryption_by_default(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Whether new volumes are encrypted unasked: never in the lab."""
    return {"EbsEncryptionByDefault": False}


# -- quotas -----------------------------------------------------------------------------------------------

_QUOTAS: dict[str, tuple[str, str, float]] = {
    # code: (service, name, default); codes and names as Service Quotas lists them
    "L-1216C47A": ("ec2", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", 256),
    "L-0263D0A3": ("ec2", "EC2-VPC Elastic IPs", 5),
    "L-309BACF6": ("ebs", "Snapshots per Region", 100_000),
    "L-7A658B76": ("ebs", "Storage for General Purpose SSD (gp3) volumes, in TiB", 50),
    "L-D18FCD1D": ("ebs", "Storage for General Purpose SSD (gp2) volumes, in TiB", 50),
    "L-F678F1CE": ("vpc", "VPCs per Region", 5),
    "L-E79EC296": ("vpc", "Security groups per Region", 2500),
    "L-CDE20ADC": ("autoscaling", "Auto Scaling groups per region", 500),
    "L-53DA6B97": ("elasticloadbalancing", "Application Load Balancers per Region", 50),
}


def quota(cloud: Cloud, code: str) -> float:
    """The value in force: the tunable `quotas` {code: value}, else the default."""
    return float(cloud.setting("quotas", {}).get(code, _QUOTAS[code][2]))


def _shown_quota(cloud: Cloud, code: str) -> dict[str, Any]:
    service, name, _ = _QUOTAS[code]
    return {
        "ServiceCode": service,
        "ServiceName": service,
        "QuotaCode": code,
        "QuotaName": name,
        "QuotaArn": f"arn:aws:servicequotas:{cloud.region}:{cloud.account}:{service}/{code}",
        "Value": quota(cloud, code),
        "Unit": "None",
        "Adjustable": True,
        "GlobalQuota": False,
    }


@action("service-quotas", "GetServiceQuota")
def get_service_quota(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """One quota in force."""
    code = params["QuotaCode"]
    if code not in _QUOTAS or _QUOTAS[code][0] != params["ServiceCode"]:
        raise Refusal("NoSuchResourceException", "The request failed because the quota doesn't exist.")
    return {"Quota": _shown_quota(cloud, code)}


@action("service-quotas", "ListServiceQuotas")
def list_service_quotas(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """The quotas of one service."""
    codes = [code for code, (service, _, _) in _QUOTAS.items() if service == params["ServiceCode"]]
    if not codes:
        raise Refusal("NoSuchResourceException", "The request failed because the service doesn't exist.")
    page, token = paged(params, [_shown_quota(cloud, code) for code in codes], least=1, most=100)
    return {"Quotas": page, "NextToken": token}
