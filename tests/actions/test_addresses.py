"""Elastic addresses: one of the standby's own, allocated and bound ahead, found by its tags; nobody else's touched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from drpilot import census
from drpilot.actions.catalogue import CATALOGUE
from drpilot.domain.ports import CloudError
from drpilot.runbook.compile import CompileFacts
from tests.actions.world import Failed, Run, World

MEMBER = {"tier": "db", "instance": "shop-db"}


def addresses(world: World, site: str, **tags: str) -> list[dict[str, Any]]:
    """The elastic addresses of a site, those with these `drpilot:` tags."""
    filters = [{"Name": f"tag:drpilot:{key}", "Values": [value]} for key, value in tags.items()]
    asked: dict[str, Any] = {"Filters": filters} if filters else {}
    return list(world.sites[site].call("ec2", "DescribeAddresses", asked).get("Addresses", []))


def _database(world: World, site: str) -> dict[str, Any]:
    filters = [{"Name": "tag:Name", "Values": ["shop-db"]}]
    pages = world.sites[site].pages("ec2", "DescribeInstances", {"Filters": filters})
    found = [item for page in pages for group in page["Reservations"] for item in group["Instances"]]
    (alive,) = [item for item in found if item["State"]["Name"] not in ("terminated", "shutting-down")]
    return dict(alive)


def _tags(address: dict[str, Any]) -> dict[str, str]:
    return {item["Key"]: item["Value"] for item in address.get("Tags") or []}


def _give_back(world: World, site: str) -> None:
    """Take the address of a site's database away for good, as if it had never been allocated."""
    (address,) = addresses(world, site)
    world.sites[site].call("ec2", "DisassociateAddress", {"AssociationId": address["AssociationId"]})
    world.sites[site].call("ec2", "ReleaseAddress", {"AllocationId": address["AllocationId"]})


def _step(run: Run, name: str, number: str = "") -> Any:
    """One attempt of an action for the database, in a step of its own."""
    return run.attempt(name, MEMBER, run.context(f"standbys/db/{name}{number}", MEMBER)).output


def _duplicates(world: World) -> list[str]:
    return census.duplicates([{**row, "site": "away"} for row in world.clouds["away"].inventory()])


# -- ahead of the night -----------------------------------------------------------------------------------


def test_the_standby_waits_with_an_address_of_its_own(world: World) -> None:
    """One address, tagged in its create call and bound to the stopped database; home's own is as it was."""
    standby = _database(world, "away")
    (address,) = addresses(world, "away")
    assert (standby["State"]["Name"], standby["PublicIpAddress"]) == ("stopped", address["PublicIp"])
    tags = _tags(address)
    assert {"drpilot:run", "drpilot:step", "drpilot:attempt"} <= set(tags)
    assert (tags["drpilot:group"], tags["drpilot:member"], tags["drpilot:standby"]) == (
        "shop",
        "shop-db",
        "true",
    )
    (own,) = addresses(world, "home")
    assert not [key for key in _tags(own) if key.startswith("drpilot:")]
    assert own["PublicIp"] == world.group("home").tier("db").instances[0].elastic_address
    assert own["PublicIp"] != address["PublicIp"]


def test_replicating_again_allocates_nothing(world: World) -> None:
    """What the standby has it keeps: no further address, and no call that would bind it once more."""
    before = addresses(world, "away")
    run = world.begin("replicate", "home", "away")
    assert _step(run, "standby.address").adopted is True
    assert _step(run, "standby.bind").address == before[0]["PublicIp"]
    assert addresses(world, "away") == before
    assert world.mutations("away") == []


@pytest.mark.row(53)
@pytest.mark.parametrize("fault", ["lost-reply", "error-5xx", "not-found-yet=60", "stale-read=60"])
def test_whatever_becomes_of_the_reply_there_is_one_address(world: World, fault: str) -> None:
    """The answers of AllocateAddress and AssociateAddress are cut off, or the listing lags: one address, bound."""
    _give_back(world, "away")
    kind, _, size = fault.partition("=")
    names = ("DescribeAddresses",) if size else ("AllocateAddress", "AssociateAddress")
    world.fault("away", *(f"{fault}:ec2.{name}" + ("" if size else "@1") for name in names))
    run = world.begin("replicate", "home", "away")
    made = _step(run, "standby.address")
    bound = _step(run, "standby.bind")
    world.heal("away")
    (address,) = addresses(world, "away")
    assert made.allocation == bound.allocation == address["AllocationId"], kind
    assert address["InstanceId"] == _database(world, "away")["InstanceId"]
    assert _duplicates(world) == []


def test_an_address_made_by_a_run_that_died_is_used_by_the_next(world: World) -> None:
    """Allocated and never bound: another run finds it by its tags, binds it and allocates none."""
    _give_back(world, "away")
    made = _step(world.begin("replicate", "home", "away"), "standby.address")
    second = world.begin("replicate", "home", "away")
    assert _step(second, "standby.address").allocation == made.allocation
    assert _step(second, "standby.bind").allocation == made.allocation
    assert world.mutations("away").count("AllocateAddress") == 1


def test_a_blind_look_would_make_a_second_one_and_the_census_sees_it(world: World) -> None:
    """The test of the test: with its looks blinded the action allocates twice, and the count of the cloud says so."""
    _give_back(world, "away")
    run, action = world.begin("replicate", "home", "away"), CATALOGUE["standby.address"]
    for number in ("1", "2"):
        world.fault("away", "stale-read=600:ec2.DescribeAddresses")
        action.start(run.context(f"x{number}", MEMBER), action.Input(**MEMBER))
        world.heal("away")
    assert len(addresses(world, "away")) == 2
    assert len(_duplicates(world)) == 1
    with pytest.raises(Failed, match="can't be told"):
        _step(run, "standby.address")


# -- the way back, and what is not ours -------------------------------------------------------------------


def test_taken_back_the_address_is_given_back(world: World) -> None:
    """Allocated and bound in this run, then undone: unbound and released; the undo needs no output of the step."""
    _give_back(world, "away")
    run, action = world.begin("replicate", "home", "away"), CATALOGUE["standby.address"]
    _step(run, "standby.address")
    _step(run, "standby.bind")
    call = action.undo(action.Input(**MEMBER), None)
    assert call is not None
    for _ in range(2):  # once more is as well
        run.attempt(call.action, dict(call.given), run.context("back", dict(call.given), kind="undo"))
    assert addresses(world, "away") == []
    assert "PublicIpAddress" not in _database(world, "away")
    assert len(addresses(world, "home")) == 1


def test_what_an_earlier_run_allocated_is_not_given_back(world: World) -> None:
    """Adopted, so there is nothing to undo; asked all the same, the release finds nothing of this run."""
    before = addresses(world, "away")
    run, action = world.begin("replicate", "home", "away"), CATALOGUE["standby.address"]
    output = _step(run, "standby.address")
    assert action.undo(action.Input(**MEMBER), output) is None
    _step(run, "standby.release")
    assert addresses(world, "away") == before


def test_an_address_that_somebody_bound_elsewhere_is_not_taken(world: World) -> None:
    """Ours by its tags, on another machine by somebody's hand: neither bound again nor released, but told."""
    _give_back(world, "away")
    run, away = world.begin("replicate", "home", "away"), world.sites["away"]
    made = _step(run, "standby.address")
    image = world.facts.recovery_point("point1").replica("shop-db", "image").id
    subnet = _database(world, "away")["SubnetId"]
    words = {"ImageId": image, "InstanceType": "t3.small", "SubnetId": subnet, "MinCount": 1, "MaxCount": 1}
    other = away.call("ec2", "RunInstances", words, token="other")["Instances"][0]["InstanceId"]
    while away.call("ec2", "DescribeInstanceStatus", {"InstanceIds": [other]})["InstanceStatuses"] == []:
        world.clouds["away"].advance(5.0)
    away.call("ec2", "AssociateAddress", {"AllocationId": made.allocation, "InstanceId": other})
    for name in ("standby.bind", "standby.release"):
        with pytest.raises(Failed, match=other):
            _step(run, name)
    assert [item["InstanceId"] for item in addresses(world, "away")] == [other]
    away.call("ec2", "TerminateInstances", {"InstanceIds": [other]})


def test_replication_leaves_the_address_of_a_promoted_standby_alone(world: World) -> None:
    """A copy run beside a move is refused before it asks for anything."""
    world.facts.standbys["db@away"]["state"] = "promoting"
    run = world.begin("replicate", "home", "away")
    for name in ("standby.address", "standby.bind"):
        with pytest.raises(Failed, match="a move has it"):
            _step(run, name)
    assert world.mutations("away") == []


# -- a quota that is full ---------------------------------------------------------------------------------


def _full(world: World) -> None:
    """Away's quota of addresses is used up, by others."""
    _give_back(world, "away")
    world.sites["away"].call("ec2", "AllocateAddress", {"Domain": "vpc"})
    world.clouds["away"].tune(quotas={"L-0263D0A3": 1})


def test_a_full_quota_keeps_no_data_back_and_is_made_up_for(world: World) -> None:
    """The point is complete, the standby ready and the lack of an address said; with room the next run binds one."""
    _full(world)
    try:
        run = world.begin("replicate", "home", "away").all()
        assert world.facts.recovery_point("point2").state == "available"
        assert "no elastic address on away yet: shop-db" in run.warnings["standbys/db/fit"]
        assert "standbys/db/addresses/shop-db/address" not in run.results
        check = CATALOGUE["check.target"]
        seen = check.start(world.begin("failover", "home", "away", "point2").context("x", {}), check.Input())
        assert seen.output.checks[-1].observed == "none bound to shop-db; 1 of 1 used, 1 needed"
        assert "elastic addresses" in seen.warning
    finally:
        world.clouds["away"].tune(quotas={})
    run = world.begin("replicate", "home", "away")
    _step(run, "standby.address")
    _step(run, "standby.bind")
    seen = check.start(world.begin("failover", "home", "away", "point2").context("x", {}), check.Input())
    assert (seen.output.checks[-1].ok, seen.warning) == (True, "")


def test_an_address_over_the_quota_is_a_definite_no(world: World) -> None:
    """AddressLimitExceeded comes in the cloud's own word, and nothing was allocated."""
    _full(world)
    run, action = world.begin("replicate", "home", "away"), CATALOGUE["standby.address"]
    try:
        with pytest.raises(CloudError) as caught:
            action.start(run.context("x", MEMBER), action.Input(**MEMBER))
    finally:
        world.clouds["away"].tune(quotas={})
    assert (caught.value.code, caught.value.happened) == ("AddressLimitExceeded", "no")
    assert addresses(world, "away", group="shop") == []


# -- letting a group go -----------------------------------------------------------------------------------


def test_retiring_releases_ours_and_nobody_elses(world: World) -> None:
    """The standby's address goes with its machine; one without our tags, and home's, stay as they were."""
    away = world.sites["away"]
    others = away.call("ec2", "AllocateAddress", {"Domain": "vpc"})["AllocationId"]
    own = addresses(world, "home")
    facts = CompileFacts(world.group("home"), "cleanup", "practice", "home", "away", name="shop/9")
    world.carry("retire", facts).all()
    assert [item["AllocationId"] for item in addresses(world, "away")] == [others]
    assert addresses(world, "home") == own


def test_an_address_on_a_machine_that_stays_stays_with_it(world: World) -> None:
    """Ours, on a machine that we did not make: retire leaves it there and takes the tags off."""
    standby, (address,) = _database(world, "away"), addresses(world, "away")
    away = world.sites["away"]
    adopted = {"Resources": [standby["InstanceId"]], "Tags": [{"Key": "drpilot:attempt"}]}
    away.call("ec2", "DeleteTags", adopted)
    facts = CompileFacts(world.group("home"), "cleanup", "practice", "home", "away", name="shop/9")
    world.carry("retire", facts).all()
    (left,) = addresses(world, "away")
    assert (left["AllocationId"], left["InstanceId"]) == (address["AllocationId"], standby["InstanceId"])
    assert not [key for key in _tags(left) if key.startswith("drpilot:")]


# -- users ------------------------------------------------------------------------------------------------


def _without_balancer(world: World) -> None:
    """The group as one of its database alone, which users meet at the database's address."""
    for site, group in list(world.last.items()):
        (tier,) = (tier for tier in group.tiers if tier.instances)
        check = replace(tier.check, tcp=None, http="http://{address}:8080/healthz", contains="ok")
        world.last[site] = replace(group, tiers=(replace(tier, check=check),))


def _record(world: World) -> dict[str, Any]:
    listed = world.sites["edge"].call(
        "route53", "ListResourceRecordSets", {"HostedZoneId": world.built["hosted_zone"]}
    )
    (found,) = [item for item in listed["ResourceRecordSets"] if item["Name"].startswith("shop.")]
    return dict(found)


@pytest.mark.row(60)
def test_without_a_load_balancer_the_name_leads_to_the_elastic_address(world: World) -> None:
    """A failover of a lone database: the record has the address bound ahead and the group's TTL, and it answers."""
    _without_balancer(world)
    (address,) = addresses(world, "away")
    world.fault("home", "refuse")
    run = world.begin("failover", "home", "away", "point1").all(until="answered")
    record = _record(world)
    assert (record["Type"], record["TTL"]) == ("A", 60)
    assert record["ResourceRecords"] == [{"Value": address["PublicIp"]}]
    asked = [item for item in run.results["answered"]["output"]["checks"] if "healthz" in item["name"]]
    assert [item["observed"] for item in asked] == [f"200 from {address['PublicIp']}"] * 3
    # the way back: home does not answer, and its elastic address is known all the same
    call = CATALOGUE["traffic.switch"].undo(CATALOGUE["traffic.switch"].Input(), None)
    assert call is not None
    run.attempt(call.action, dict(call.given), run.context("traffic", dict(call.given), kind="undo"))
    home = world.group("home").tier("db").instances[0].elastic_address
    assert _record(world)["ResourceRecords"] == [{"Value": home}]


def test_a_name_is_not_led_to_an_address_that_nobody_reaches(world: World) -> None:
    """The member has an elastic address, its standby none: the switch is refused and the record stays."""
    _without_balancer(world)
    _give_back(world, "away")
    before = _record(world)
    world.fault("home", "refuse")
    run = world.begin("failover", "home", "away", "point1")
    with pytest.raises(Failed, match=r"traffic: .* has no elastic address; bind one"):
        run.all(until="traffic")
    assert _record(world) == before
