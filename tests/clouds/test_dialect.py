"""The AWS dialect against botocore's own service models."""

from __future__ import annotations

from dataclasses import replace

import botocore.session
import pytest
from botocore.model import ServiceModel

from drpilot.clouds.dialect import AWS, Dialect
from drpilot.clouds.dialects import DIALECTS
from drpilot.inventory.configuration import SiteSettings
from drpilot.wiring import slots_of

LOADER = botocore.session.Session().get_component("data_loader")


def _model(service: str) -> ServiceModel:
    return ServiceModel(LOADER.load_service_model(service, "service-2"), service)


@pytest.mark.parametrize("service", sorted(AWS.services))
def test_every_service_of_the_dialect_has_a_model(service: str) -> None:
    """A misspelt service would only show up in a disaster."""
    assert _model(service).operation_names


def test_tables_name_operations_that_exist() -> None:
    """Each `service:Operation` of the tables is in botocore's model, so that no limit or page size is dead
    letter.
    """
    named = {*AWS.page_sizes, *AWS.unpaged_with, *AWS.reading, *AWS.changing, *AWS.rates}
    named |= {f"{probe.service}:{probe.operation}" for probe in AWS.probes}
    classes = {"changing", "reading", "unfiltered"}
    for name in sorted(named):
        service, operation = name.split(":")
        if operation not in classes:
            assert operation in _model(service).operation_names, name


def test_a_site_says_better_than_its_kind_how_much_it_does_at_once() -> None:
    """20 copies by the kind of cloud, five by the site's own word, and nothing of a site that is not configured."""
    site = SiteSettings("away", "aws", "eu-west-1", "123456789012", "dr")
    assert slots_of(site) == {"copy-snapshot": 20}
    assert slots_of(replace(site, at_once={"copy-snapshot": 5})) == {"copy-snapshot": 5}
    assert slots_of(None) == {}


def test_page_sizes_lie_within_what_the_model_allows() -> None:
    """A page size the cloud refuses would break every listing."""
    for name, size in AWS.page_sizes.items():
        service, operation = name.split(":")
        paging = LOADER.load_service_model(service, "paginators-1")["pagination"].get(operation)
        limit = paging["limit_key"] if paging else "MaxResults"
        shape = _model(service).operation_model(operation).input_shape
        assert shape is not None
        bounds = shape.members[limit].metadata
        assert bounds.get("min", 1) <= size <= bounds.get("max", size), name
        assert all(key in shape.members for key in AWS.unpaged_with.get(name, ())), name


def test_ids_beside_a_page_size_turn_it_off() -> None:
    """EC2 refuses MaxResults with ids; empty lists count as none."""
    assert AWS.page_size("ec2", "DescribeInstances", {"InstanceIds": ["i-1"]}) is None
    assert AWS.page_size("ec2", "DescribeInstances", {"InstanceIds": []}) == 1000
    assert AWS.page_size("ec2", "DescribeRegions", {}) is None


@pytest.mark.parametrize(
    ("service", "operation", "changes"),
    [
        ("ec2", "DescribeInstances", False),
        ("ec2", "GetConsoleOutput", False),
        ("ec2", "SearchTransitGatewayRoutes", False),
        ("ec2", "RunInstances", True),
        ("ec2", "AttachVolume", True),
        ("ec2", "RebootInstances", True),
        ("ec2", "EnableFastSnapshotRestores", True),
        ("ebs", "PutSnapshotBlock", True),
        ("ebs", "CompleteSnapshot", True),
        ("ebs", "ListChangedBlocks", False),
        ("s3", "HeadObject", False),
        ("s3", "CopyObject", True),
        ("sts", "AssumeRole", False),
        ("sts", "GetCallerIdentity", False),
        ("route53", "ChangeResourceRecordSets", True),
        ("route53", "TestDNSAnswer", False),
        ("kms", "Decrypt", False),
        ("kms", "DisableKey", True),
        ("autoscaling", "SuspendProcesses", True),
        ("ec2", "FrobnicateInstances", True),
        ("ec2", "lowercase", True),
    ],
)
def test_what_changes_is_known_and_the_unknown_counts_as_changing(
    service: str, operation: str, changes: bool
) -> None:
    """A verb nobody listed is on the safe side."""
    assert AWS.changes(service, operation) is changes


def test_no_operation_that_takes_a_token_counts_as_reading() -> None:
    """An idempotency token exists for calls with an effect: the models confirm our table of verbs."""
    for service in sorted(AWS.services):
        model = _model(service)
        for operation in model.operation_names:
            described = model.operation_model(operation)
            if described.idempotent_members:
                assert AWS.changes(service, operation), f"{service}:{operation}"


def _token(operation: str, service: str = "ec2") -> str | None:
    described = _model(service).operation_model(operation)
    members = described.input_shape.members if described.input_shape is not None else {}
    return AWS.token_member(service, operation, members, described.idempotent_members)


def test_tokens_go_where_ec2_takes_them_and_nowhere_else() -> None:
    """The five that have one, the ones the model forgets to mark, and those that must be found by tag or
    name.
    """
    for operation in ("RunInstances", "CreateFleet", "CreateVolume", "CopyImage", "CreateLaunchTemplate"):
        assert _token(operation) == "ClientToken", operation
    for operation in ("ImportImage", "ImportSnapshot"):
        assert _token(operation) == "ClientToken", operation
    for operation in ("CreateSnapshot", "CreateSnapshots", "CreateImage", "RegisterImage"):
        assert _token(operation) is None, operation
    for operation in ("StartInstances", "CopySnapshot", "AllocateAddress", "AttachVolume"):
        assert _token(operation) is None, operation
    assert _token("StartSnapshot", "ebs") == "ClientToken"


def test_a_dialect_can_narrow_who_honours_tokens() -> None:
    """A cloud that ignores most tokens is one table away."""
    narrow = Dialect("narrow", frozenset({"ec2"}), frozenset(), tokens=frozenset({"ec2:RunInstances"}))
    assert narrow.token_member("ec2", "RunInstances", ["ClientToken"], ["ClientToken"]) == "ClientToken"
    assert narrow.token_member("ec2", "CreateVolume", ["ClientToken"], ["ClientToken"]) is None


def test_dialects_are_found_by_name() -> None:
    """drpilot.yaml names a dialect."""
    assert DIALECTS["aws"] is AWS
    assert AWS.read_s("ec2") == 10.0 < AWS.read_s("ebs")
    assert AWS.connect_timeout_s == 3.0
