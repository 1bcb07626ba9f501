"""Route 53 of the lab's edge, through unchanged boto3: atomic changes, propagation, paging, answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from drpilot.base.clock import ManualClock, RealClock
from drpilot.lab import names
from drpilot.lab.cloud import Cloud, Settings
from drpilot.lab.names import LOAD_BALANCER_ZONE
from drpilot.lab.wire import attach

KEYS = {"AKIDLABEDGE": "secret"}
BALANCER = "shop-lb-127-17-1-254.away.lab.internal"


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Cloud]:
    opened = Cloud.open(
        tmp_path / "edge", Settings("edge", "us-east-1", keys=KEYS), ManualClock(RealClock().now())
    )
    yield opened
    assert opened.errors == []
    opened.close()


@pytest.fixture
def route53(edge: Cloud) -> Any:
    session = boto3.Session("AKIDLABEDGE", "secret", region_name="us-east-1")
    made = session.client("route53", endpoint_url="http://127.0.0.1:9")
    attach(made, edge)
    return made


@pytest.fixture
def zone(route53: Any) -> str:
    made = route53.create_hosted_zone(Name="Example.org", CallerReference="one")
    return str(made["HostedZone"]["Id"])


def record(name: str, value: str, kind: str = "A", **more: Any) -> dict[str, Any]:
    return {"Name": name, "Type": kind, "TTL": 60, "ResourceRecords": [{"Value": value}], **more}


def change(route53: Any, zone: str, *changes: tuple[str, dict[str, Any]]) -> Any:
    batch = {"Changes": [{"Action": action, "ResourceRecordSet": item} for action, item in changes]}
    return route53.change_resource_record_sets(HostedZoneId=zone, ChangeBatch=batch)["ChangeInfo"]


def refused(call: Any, *args: Any, **kwargs: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call(*args, **kwargs)
    return caught.value.response["Error"]["Code"], caught.value.response["Error"]["Message"]


def asked(route53: Any, zone: str, name: str, kind: str = "A") -> tuple[str, list[str]]:
    shown = route53.test_dns_answer(HostedZoneId=zone, RecordName=name, RecordType=kind)
    return shown["ResponseCode"], shown["RecordData"]


def test_answers_change_when_the_change_is_in_sync(edge: Cloud, route53: Any, zone: str) -> None:
    """A change is PENDING and not yet answered, then INSYNC and answered."""
    info = change(route53, zone, ("CREATE", record("shop.example.org", "127.16.0.9")))
    assert info["Status"] == "PENDING"
    assert asked(route53, zone, "shop.example.org") == ("NXDOMAIN", [])
    edge.advance(60)
    assert route53.get_change(Id=info["Id"])["ChangeInfo"]["Status"] == "INSYNC"
    assert asked(route53, zone, "shop.example.org") == ("NOERROR", ["127.16.0.9"])
    change(route53, zone, ("UPSERT", record("shop.example.org", "127.17.0.9")))
    assert asked(route53, zone, "SHOP.example.org.") == ("NOERROR", ["127.16.0.9"])
    edge.advance(60)
    assert asked(route53, zone, "shop.example.org") == ("NOERROR", ["127.17.0.9"])


def test_a_batch_is_applied_whole_or_not_at_all(route53: Any, zone: str) -> None:
    """One bad change refuses the whole batch with InvalidChangeBatch, naming each problem."""
    change(route53, zone, ("CREATE", record("a.example.org", "127.0.0.1")))
    code, message = refused(
        change,
        route53,
        zone,
        ("CREATE", record("b.example.org", "127.0.0.2")),
        ("CREATE", record("a.example.org", "127.0.0.3")),
        ("DELETE", record("c.example.org", "127.0.0.3")),
    )
    assert code == "InvalidChangeBatch"
    assert "already exists" in message and "was not found" in message
    listed = route53.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
    assert [item["Name"] for item in listed if item["Type"] == "A"] == ["a.example.org."]


@pytest.mark.parametrize(
    ("item", "part"),
    [
        (record("a.example.net", "127.0.0.1"), "not permitted in zone"),
        (record("a.example.org", "300.0.0.1"), "IllegalIPv4Address"),
        (record("example.org", "b.example.org", "CNAME"), "at apex"),
        (record("a.example.org", "127.0.0.1", Weight=1), "SetIdentifier"),
        (record("a.example.org", "127.0.0.1", HealthCheckId="none"), "does not exist"),
        ({"Name": "a.example.org", "Type": "A", "ResourceRecords": [{"Value": "127.0.0.1"}]}, "TTL"),
        (
            {
                "Name": "a.example.org",
                "Type": "A",
                "AliasTarget": {"HostedZoneId": "Z1", "DNSName": BALANCER, "EvaluateTargetHealth": False},
            },
            "does not lie within",
        ),
    ],
)
def test_wrong_records_are_refused(route53: Any, zone: str, item: dict[str, Any], part: str) -> None:
    """Records that the service would refuse are refused in its words."""
    code, message = refused(change, route53, zone, ("UPSERT", item))
    assert code == "InvalidChangeBatch"
    assert part in message


def test_delete_needs_the_exact_values(route53: Any, zone: str) -> None:
    """DELETE with other values than the record's is refused, with the same ones it removes it."""
    change(route53, zone, ("CREATE", record("a.example.org", "127.0.0.1")))
    code, message = refused(change, route53, zone, ("DELETE", record("a.example.org", "127.0.0.2")))
    assert (code, "do not match" in message) == ("InvalidChangeBatch", True)
    change(route53, zone, ("DELETE", record("A.example.org.", "127.0.0.1")))
    assert len(route53.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]) == 2


def test_balancer_names_resolve_to_the_address_inside(edge: Cloud, route53: Any, zone: str) -> None:
    """Alias and CNAME records to a lab load balancer answer with the address that its name carries."""
    target = {"HostedZoneId": LOAD_BALANCER_ZONE, "DNSName": BALANCER, "EvaluateTargetHealth": False}
    change(
        route53,
        zone,
        ("CREATE", {"Name": "example.org", "Type": "A", "AliasTarget": target}),
        ("CREATE", record("shop.example.org", BALANCER, "CNAME")),
        ("CREATE", record("www.example.org", "shop.example.org", "CNAME")),
    )
    edge.advance(60)
    for name in ("example.org", "shop.example.org", "www.example.org"):
        assert asked(route53, zone, name) == ("NOERROR", ["127.17.1.254"])
    assert asked(route53, zone, "shop.example.org", "CNAME") == ("NOERROR", [BALANCER])
    assert names.resolve(edge, "www.example.org") == ["127.17.1.254"]


def test_failover_and_weighted_sets(edge: Cloud, route53: Any, zone: str) -> None:
    """The primary of a failover pair answers, the secondary when it is gone; weight 0 never answers."""
    primary = record("f.example.org", "127.16.0.1", SetIdentifier="p", Failover="PRIMARY")
    secondary = record("f.example.org", "127.17.0.1", SetIdentifier="s", Failover="SECONDARY")
    heavy = record("w.example.org", "127.16.0.1", SetIdentifier="h", Weight=10)
    empty = record("w.example.org", "127.17.0.1", SetIdentifier="e", Weight=0)
    change(route53, zone, *[("CREATE", item) for item in (primary, secondary, heavy, empty)])
    edge.advance(60)
    assert asked(route53, zone, "f.example.org")[1] == ["127.16.0.1"]
    assert {asked(route53, zone, "w.example.org")[1][0] for _ in range(20)} == {"127.16.0.1"}
    change(route53, zone, ("DELETE", primary))
    edge.advance(60)
    assert asked(route53, zone, "f.example.org")[1] == ["127.17.0.1"]
    code, _ = refused(change, route53, zone, ("CREATE", record("f.example.org", "127.0.0.1")))
    assert code == "InvalidChangeBatch"


def test_from_one_record_to_weighted_ones_and_back(route53: Any, zone: str) -> None:
    """A simple set and weighted ones can't stand together, but one batch goes from one to the other and back."""
    name = "x.example.org"
    simple, heavy = record(name, "127.16.0.1"), record(name, "127.16.0.1", SetIdentifier="h", Weight=80)
    light = record(name, "127.17.0.1", SetIdentifier="l", Weight=20)
    change(route53, zone, ("CREATE", simple))
    code, message = refused(change, route53, zone, ("CREATE", light))
    assert (code, "other RRSets exist with the same name and type" in message) == ("InvalidChangeBatch", True)
    change(route53, zone, ("DELETE", simple), ("CREATE", heavy), ("CREATE", light))
    assert refused(change, route53, zone, ("UPSERT", simple))[0] == "InvalidChangeBatch"
    change(route53, zone, ("DELETE", heavy), ("DELETE", light), ("CREATE", simple))
    listed = route53.list_resource_record_sets(HostedZoneId=zone, StartRecordName=name)["ResourceRecordSets"]
    assert [item for item in listed if item["Name"] == name + "."] == [{**simple, "Name": name + "."}]


def test_weighted_sets_have_one_ttl_and_weights_within_a_byte(route53: Any, zone: str) -> None:
    """Another TTL is refused beside the first, in the service's own words; so is a weight above 255."""
    first = record("y.example.org", "127.16.0.1", SetIdentifier="a", Weight=1)
    change(route53, zone, ("CREATE", first))
    other = {**record("y.example.org", "127.17.0.1", SetIdentifier="b", Weight=1), "TTL": 30}
    assert "weighted sets must contain the same TTL" in refused(change, route53, zone, ("CREATE", other))[1]
    heavy = {**other, "TTL": 60, "Weight": 256}
    assert "0 to 255" in refused(change, route53, zone, ("CREATE", heavy))[1]
    both = ({**first, "TTL": 30}, other)
    change(route53, zone, *(("UPSERT", item) for item in both))


def test_record_sets_page_by_name_and_type(route53: Any, zone: str) -> None:
    """Pages of two give every record once, in the order of reversed labels."""
    items = [record(f"h{number}.example.org", "127.0.0.1") for number in range(5)]
    items.append(record("h1.example.org", '"text"', "TXT"))
    change(route53, zone, *[("CREATE", item) for item in items])
    pages = route53.get_paginator("list_resource_record_sets").paginate(
        HostedZoneId=zone, PaginationConfig={"PageSize": 2}
    )
    found = [(item["Name"], item["Type"]) for page in pages for item in page["ResourceRecordSets"]]
    assert found[:2] == [("example.org.", "NS"), ("example.org.", "SOA")]
    assert found[2:] == sorted(found[2:]) and len(set(found)) == 8


def test_zones(route53: Any, zone: str) -> None:
    """A caller reference is used once; zones are listed by name; only an empty one is deleted."""
    assert (
        refused(route53.create_hosted_zone, Name="x.org", CallerReference="one")[0]
        == "HostedZoneAlreadyExists"
    )
    other = route53.create_hosted_zone(Name="example.com", CallerReference="two")["HostedZone"]["Id"]
    by_name = route53.list_hosted_zones_by_name(DNSName="example.org")["HostedZones"]
    assert [item["Name"] for item in by_name] == ["example.org."]
    assert len(route53.list_hosted_zones()["HostedZones"]) == 2
    change(route53, zone, ("CREATE", record("a.example.org", "127.0.0.1")))
    assert refused(route53.delete_hosted_zone, Id=zone)[0] == "HostedZoneNotEmpty"
    route53.delete_hosted_zone(Id=other)
    assert refused(route53.get_hosted_zone, Id=other)[0] == "NoSuchHostedZone"
