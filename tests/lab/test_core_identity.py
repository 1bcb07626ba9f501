"""Who a site is and what it may use: STS, KMS and quotas."""

from __future__ import annotations

from tests.lab.core_world import Pair, code_of


def test_each_site_has_its_account(pair: Pair) -> None:
    """STS tells the account behind the key."""
    assert pair.client("sts").get_caller_identity()["Account"] == "111111111111"
    assert pair.client("sts", "away").get_caller_identity()["Account"] == "222222222222"


def test_keys_are_found_by_every_name(pair: Pair) -> None:
    """Id, ARN, alias and alias' ARN name the same key; another region's ARN names none."""
    kms = pair.client("kms")
    key = kms.create_key(Description="shop")["KeyMetadata"]
    kms.create_alias(AliasName="alias/shop", TargetKeyId=key["KeyId"])
    alias_arn = kms.list_aliases(KeyId=key["KeyId"])["Aliases"][0]["AliasArn"]
    for name in (key["KeyId"], key["Arn"], "alias/shop", alias_arn):
        assert kms.describe_key(KeyId=name)["KeyMetadata"]["KeyId"] == key["KeyId"]
    foreign = key["Arn"].replace("eu-south-1", "eu-west-1")
    assert code_of(lambda: kms.describe_key(KeyId=foreign)) == "NotFoundException"
    twice = {"AliasName": "alias/shop", "TargetKeyId": key["KeyId"]}
    assert code_of(lambda: kms.create_alias(**twice)) == "AlreadyExistsException"
    kms.delete_alias(AliasName="alias/shop")
    assert code_of(lambda: kms.describe_key(KeyId="alias/shop")) == "NotFoundException"


def test_a_key_is_disabled_and_enabled(pair: Pair) -> None:
    """The state of a customer's key changes; AWS' own key can't be touched."""
    kms = pair.client("kms")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.disable_key(KeyId=key)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Disabled"
    kms.enable_key(KeyId=key)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["Enabled"] is True
    kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "PendingDeletion"
    assert code_of(lambda: kms.disable_key(KeyId="alias/aws/ebs")) == "AccessDeniedException"


def test_keys_come_in_pages(pair: Pair) -> None:
    """ListKeys honours its limit and its marker."""
    kms = pair.client("kms")
    for _ in range(4):
        kms.create_key()
    pages = list(kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 2}))
    assert [len(page["Keys"]) for page in pages] == [2, 2, 1]


def test_quotas_are_told_and_enforced(pair: Pair) -> None:
    """A changed quota shows, and the next VPC above it is refused."""
    quotas = pair.client("service-quotas")
    asked = {"ServiceCode": "vpc", "QuotaCode": "L-F678F1CE"}
    assert quotas.get_service_quota(**asked)["Quota"]["Value"] == 5
    pair.home.tune(quotas={"L-F678F1CE": 1})
    assert quotas.get_service_quota(**asked)["Quota"]["Value"] == 1
    pair.client().create_vpc(CidrBlock="10.0.0.0/16")
    assert code_of(lambda: pair.client().create_vpc(CidrBlock="10.1.0.0/16")) == "VpcLimitExceeded"
    codes = {row["QuotaCode"] for row in quotas.list_service_quotas(ServiceCode="ec2")["Quotas"]}
    assert "L-1216C47A" in codes
    missing = {"ServiceCode": "vpc", "QuotaCode": "L-00000000"}
    assert code_of(lambda: quotas.get_service_quota(**missing)) == "NoSuchResourceException"
