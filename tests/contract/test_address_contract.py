"""Elastic addresses: what every cloud behind the door must do with them."""

from __future__ import annotations

from drpilot.domain.ports import FailureClass
from tests.contract.grounds import Ground

F = FailureClass


def _reachable_instance(ground: Ground) -> str:
    """A running instance in a network with a gateway, without which no address can be bound."""
    instance = ground.instance()
    if "gateway" not in ground.base:
        gateway = ground.call("CreateInternetGateway")["InternetGateway"]["InternetGatewayId"]
        ground.call("AttachInternetGateway", InternetGatewayId=gateway, VpcId=ground.network()["vpc"])
        ground.base["gateway"] = gateway
    return instance


def _address(ground: Ground) -> tuple[str, str]:
    """A fresh address with a tag of its own from the create call: its allocation, and the tag's value."""
    mark = ground.fresh("address")
    tags = [{"ResourceType": "elastic-ip", "Tags": [{"Key": "drpilot:member", "Value": mark}]}]
    return str(ground.call("AllocateAddress", Domain="vpc", TagSpecifications=tags)["AllocationId"]), mark


def _addresses(ground: Ground, name: str, value: str) -> list[dict[str, str]]:
    return list(
        ground.call("DescribeAddresses", Filters=[{"Name": name, "Values": [value]}]).get("Addresses", [])
    )


def _public(ground: Ground, instance: str) -> str | None:
    found = ground.instances(instance)[0].get("PublicIpAddress")
    return None if found is None else str(found)


def _give_back(ground: Ground, allocation: str) -> None:
    (address,) = _addresses(ground, "allocation-id", allocation)
    if address.get("AssociationId"):
        ground.call("DisassociateAddress", AssociationId=address["AssociationId"])
    ground.call("ReleaseAddress", AllocationId=allocation)


def test_an_address_is_found_by_the_tag_of_its_create_call(ground: Ground) -> None:
    """AllocateAddress takes no token: each call makes one, and its tag finds exactly that."""
    (first, mark), (second, _) = _address(ground), _address(ground)
    assert [one["AllocationId"] for one in _addresses(ground, "tag:drpilot:member", mark)] == [first]
    for allocation in (first, second):
        _give_back(ground, allocation)
        assert _addresses(ground, "allocation-id", allocation) == []


def test_a_bound_address_is_the_public_one_and_stays_through_a_stop(ground: Ground) -> None:
    """Bound, the instance shows it; stopped, it keeps it; unbound, it has none, and the address is still there."""
    instance, (allocation, _) = _reachable_instance(ground), _address(ground)
    link = ground.call("AssociateAddress", AllocationId=allocation, InstanceId=instance)["AssociationId"]
    (address,) = _addresses(ground, "instance-id", instance)
    assert (address["AllocationId"], address["AssociationId"]) == (allocation, link)
    assert _public(ground, instance) == address["PublicIp"]
    ground.call("StopInstances", InstanceIds=[instance])
    ground.until(lambda: ground.instances(instance)[0]["State"]["Name"] == "stopped")
    assert _public(ground, instance) == address["PublicIp"]
    ground.call("DisassociateAddress", AssociationId=link)
    assert _public(ground, instance) is None
    assert len(_addresses(ground, "public-ip", address["PublicIp"])) == 1
    _give_back(ground, allocation)


def test_an_address_is_bound_to_a_stopped_instance(ground: Ground) -> None:
    """Bound ahead: the instance need not run, and starts with it."""
    instance, (allocation, _) = _reachable_instance(ground), _address(ground)
    ground.call("StopInstances", InstanceIds=[instance])
    ground.until(lambda: ground.instances(instance)[0]["State"]["Name"] == "stopped")
    ground.call("AssociateAddress", AllocationId=allocation, InstanceId=instance, AllowReassociation=False)
    (address,) = _addresses(ground, "instance-id", instance)
    ground.call("StartInstances", InstanceIds=[instance])
    ground.until(lambda: ground.instances(instance)[0]["State"]["Name"] == "running")
    assert _public(ground, instance) == address["PublicIp"]
    _give_back(ground, allocation)


def test_an_address_that_is_bound_is_not_taken_away_unasked(ground: Ground) -> None:
    """AllowReassociation false: a conflict, nothing happened, and the first instance keeps the address."""
    one, two, (allocation, _) = _reachable_instance(ground), _reachable_instance(ground), _address(ground)
    ground.call("AssociateAddress", AllocationId=allocation, InstanceId=one, AllowReassociation=False)
    other = {"AllocationId": allocation, "InstanceId": two, "AllowReassociation": False}
    error = ground.refusal("AssociateAddress", **other)
    assert (error.code, error.kind, error.happened) == ("Resource.AlreadyAssociated", F.CONFLICT, "no")
    assert [one["AllocationId"] for one in _addresses(ground, "instance-id", one)] == [allocation]
    _give_back(ground, allocation)


def test_a_bound_address_is_not_released(ground: Ground) -> None:
    """It must be unbound first (EC2 API reference, ReleaseAddress, for a VPC that is not the default one)."""
    instance, (allocation, _) = _reachable_instance(ground), _address(ground)
    ground.call("AssociateAddress", AllocationId=allocation, InstanceId=instance)
    error = ground.refusal("ReleaseAddress", AllocationId=allocation)
    assert (error.code, error.kind, error.happened) == ("InvalidIPAddress.InUse", F.CONFLICT, "no")
    _give_back(ground, allocation)


def test_the_end_of_an_instance_lets_its_address_go(ground: Ground) -> None:
    """Terminated, the instance has it no more; the account still does."""
    instance, (allocation, _) = _reachable_instance(ground), _address(ground)
    ground.call("AssociateAddress", AllocationId=allocation, InstanceId=instance)
    ground.call("TerminateInstances", InstanceIds=[instance])
    ground.until(lambda: ground.instances(instance)[0]["State"]["Name"] == "terminated")
    assert _addresses(ground, "instance-id", instance) == []
    assert "AssociationId" not in _addresses(ground, "allocation-id", allocation)[0]
    _give_back(ground, allocation)


def test_addresses_that_are_not_there_are_not_found(ground: Ground) -> None:
    """An allocation and an association that never were, each in its own code."""
    gone = {"AllocationId": "eipalloc-0123456789abcdef0"}
    error = ground.refusal("ReleaseAddress", **gone)
    assert (error.code, error.kind) == ("InvalidAllocationID.NotFound", F.NOT_FOUND)
    error = ground.refusal("DisassociateAddress", AssociationId="eipassoc-0123456789abcdef0")
    assert (error.code, error.kind) == ("InvalidAssociationID.NotFound", F.NOT_FOUND)


def test_more_addresses_than_the_quota_are_refused(ground: Ground) -> None:
    """Five an account and region unless raised: the sixth is a definite no, of the kind capacity."""
    asked = {"ServiceCode": "ec2", "QuotaCode": "L-0263D0A3"}
    limit = int(ground.call("GetServiceQuota", service="service-quotas", **asked)["Quota"]["Value"])
    used = len(ground.call("DescribeAddresses").get("Addresses", []))
    made = [_address(ground)[0] for _ in range(limit - used)]
    try:
        error = ground.refusal("AllocateAddress", Domain="vpc")
        assert (error.code, error.kind, error.happened) == ("AddressLimitExceeded", F.CAPACITY, "no")
    finally:
        for allocation in made:
            _give_back(ground, allocation)
