"""Load balancers of the lab, through unchanged boto3: codes, health by real requests, forwarding."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drpilot.lab import disk, names, shop
from drpilot.lab.cloud import Cloud
from tests.lab.delivery_world import block, clients, network, open_site, refused, until


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    opened = open_site(tmp_path / "home", speed=60)
    yield opened
    opened.close()
    assert opened.errors == []


@pytest.fixture
def world(cloud: Cloud) -> dict[str, Any]:
    client = clients(cloud)
    return {**network(client, block(1)), "client": client}


def target_group(world: dict[str, Any], name: str = "web", **more: Any) -> str:
    request = {
        "Name": name,
        "Protocol": "HTTP",
        "Port": 8080,
        "VpcId": world["vpc"],
        "HealthCheckPath": "/",
        **more,
    }
    made = world["client"]("elbv2").create_target_group(**request)
    return str(made["TargetGroups"][0]["TargetGroupArn"])


def balancer(world: dict[str, Any], name: str = "lb", **more: Any) -> dict[str, Any]:
    request = {"Name": name, "Subnets": world["subnets"], "SecurityGroups": [world["group"]], **more}
    return dict(world["client"]("elbv2").create_load_balancer(**request)["LoadBalancers"][0])


def listen(world: dict[str, Any], balancer_arn: str, group_arn: str, port: int = 8080) -> str:
    steps = [{"Type": "forward", "TargetGroupArn": group_arn}]
    made = world["client"]("elbv2").create_listener(
        LoadBalancerArn=balancer_arn, Protocol="HTTP", Port=port, DefaultActions=steps
    )
    return str(made["Listeners"][0]["ListenerArn"])


def server(world: dict[str, Any]) -> str:
    """A running instance whose guest answers `/` with 200."""
    image = shop.image(world["client"], shop.Plan(), "server", disk.root_block("app"))
    made = world["client"]("ec2").run_instances(
        ImageId=image,
        InstanceType="t3.small",
        MinCount=1,
        MaxCount=1,
        SubnetId=world["subnets"][0],
        SecurityGroupIds=[world["group"]],
    )["Instances"][0]
    until(lambda: state(world, made["InstanceId"]) == "running")
    return str(made["InstanceId"])


def state(world: dict[str, Any], instance_id: str) -> str:
    shown = world["client"]("ec2").describe_instances(InstanceIds=[instance_id])
    return str(shown["Reservations"][0]["Instances"][0]["State"]["Name"])


def health(world: dict[str, Any], arn: str) -> dict[str, str]:
    shown = world["client"]("elbv2").describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
    return {item["Target"]["Id"]: item["TargetHealth"]["State"] for item in shown}


def ask(address: str, port: int = 8080) -> int:
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def test_targets_go_from_unused_over_healthy_to_draining(world: dict[str, Any]) -> None:
    """A target is unused without a listener, healthy after a real check, draining when deregistered."""
    elb, arn, instance_id = world["client"]("elbv2"), target_group(world), server(world)
    elb.register_targets(TargetGroupArn=arn, Targets=[{"Id": instance_id}])
    assert health(world, arn) == {instance_id: "unused"}
    made = balancer(world)
    listen(world, made["LoadBalancerArn"], arn)
    until(lambda: health(world, arn) == {instance_id: "healthy"}, "healthy")
    address = names.embedded_address(made["DNSName"])
    assert address is not None and ask(address) == 200
    elb.deregister_targets(TargetGroupArn=arn, Targets=[{"Id": instance_id}])
    assert health(world, arn) == {instance_id: "draining"}
    assert until(lambda: ask(address) == 503, "no target is left")
    until(lambda: health(world, arn) == {}, "drained")


def test_health_is_seen_and_not_assumed(world: dict[str, Any]) -> None:
    """A guest that answers with a code the matcher refuses is unhealthy; with another matcher healthy."""
    quick = {"HealthCheckIntervalSeconds": 5, "HealthCheckTimeoutSeconds": 2}
    arn, instance_id = target_group(world, HealthCheckPath="/nothing", **quick), server(world)
    elb = world["client"]("elbv2")
    listen(world, balancer(world)["LoadBalancerArn"], arn)
    elb.register_targets(TargetGroupArn=arn, Targets=[{"Id": instance_id}])
    until(lambda: health(world, arn) == {instance_id: "unhealthy"}, "unhealthy")
    shown = elb.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"][0]["TargetHealth"]
    assert shown["Reason"] == "Target.ResponseCodeMismatch" and "404" in shown["Description"]
    elb.modify_target_group(TargetGroupArn=arn, Matcher={"HttpCode": "200-299,404"})
    until(lambda: health(world, arn) == {instance_id: "healthy"}, "healthy")
    world["client"]("ec2").stop_instances(InstanceIds=[instance_id])
    until(lambda: health(world, arn) == {instance_id: "unused"}, "stopped")


def test_the_name_carries_the_address_it_listens_on(world: dict[str, Any]) -> None:
    """DNSName embeds an address of the first subnet; nothing behind it is 503; deleting it frees the port."""
    made = balancer(world, "front")
    assert made["State"]["Code"] == "provisioning"
    address = names.embedded_address(made["DNSName"])
    assert address is not None and address.startswith(block(1).rsplit(".", 2)[0] + ".1.")
    assert made["DNSName"].endswith(".home.lab.internal") and made["DNSName"].startswith("front-127-")
    listen(world, made["LoadBalancerArn"], target_group(world))
    until(lambda: ask(address) == 503, "it listens")
    elb = world["client"]("elbv2")
    assert elb.describe_load_balancers()["LoadBalancers"][0]["State"]["Code"] == "active"
    world["client"]("ec2").revoke_security_group_ingress(
        GroupId=world["group"],
        IpPermissions=[
            {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 65535, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
        ],
    )
    until(lambda: ask(address) == 0, "a closed security group closes the port")
    elb.delete_load_balancer(LoadBalancerArn=made["LoadBalancerArn"])
    elb.delete_load_balancer(LoadBalancerArn=made["LoadBalancerArn"])
    assert elb.describe_load_balancers()["LoadBalancers"] == []
    world["client"]("ec2").delete_subnet(SubnetId=world["subnets"][0])


def test_creation_is_idempotent_and_differences_are_refused(world: dict[str, Any]) -> None:
    """The same request gives the same thing; a different one of that name is refused."""
    assert balancer(world)["LoadBalancerArn"] == balancer(world)["LoadBalancerArn"]
    assert refused(balancer, world, Scheme="internal") == "DuplicateLoadBalancerName"
    arn = target_group(world)
    assert target_group(world) == arn
    assert refused(target_group, world, Port=81) == "DuplicateTargetGroupName"
    lb_arn = balancer(world)["LoadBalancerArn"]
    assert listen(world, lb_arn, arn) == listen(world, lb_arn, arn)
    assert refused(listen, world, lb_arn, target_group(world, "other")) == "DuplicateListener"
    assert refused(world["client"]("elbv2").delete_target_group, TargetGroupArn=arn) == "ResourceInUse"


def test_what_is_not_there_is_said_so(world: dict[str, Any]) -> None:
    """Unknown names, ARNs, subnets, groups and targets have the service's codes."""
    elb = world["client"]("elbv2")
    assert refused(elb.describe_load_balancers, Names=["none"]) == "LoadBalancerNotFound"
    assert refused(elb.describe_target_groups, Names=["none"]) == "TargetGroupNotFound"
    made = balancer(world)
    assert refused(elb.describe_listeners, ListenerArns=["arn:none"]) == "ListenerNotFound"
    assert refused(elb.delete_listener, ListenerArn=made["LoadBalancerArn"]) == "ListenerNotFound"
    assert refused(balancer, world, "two", Subnets=world["subnets"][:1]) == "ValidationError"
    unknown = ["subnet-0000000000000000f", world["subnets"][0]]
    assert refused(balancer, world, "two", Subnets=unknown) == "SubnetNotFound"
    assert refused(balancer, world, "two", SecurityGroups=["sg-0000000000000000f"]) == "InvalidSecurityGroup"
    stranger = {"TargetGroupArn": target_group(world), "Targets": [{"Id": "i-0000000000000000f"}]}
    assert refused(elb.register_targets, **stranger) == "InvalidTarget"
    shown = elb.describe_target_health(**stranger)["TargetHealthDescriptions"][0]["TargetHealth"]
    assert (shown["State"], shown["Reason"]) == ("unused", "Target.NotRegistered")


def test_tags_attributes_and_pages(world: dict[str, Any]) -> None:
    """Tags are added, replaced and removed; deletion protection holds; pages of one give everything once."""
    elb = world["client"]("elbv2")
    made = balancer(world, Tags=[{"Key": "a", "Value": "1"}])["LoadBalancerArn"]
    elb.add_tags(ResourceArns=[made], Tags=[{"Key": "a", "Value": "2"}, {"Key": "b", "Value": "3"}])
    elb.remove_tags(ResourceArns=[made], TagKeys=["b"])
    assert elb.describe_tags(ResourceArns=[made])["TagDescriptions"][0]["Tags"] == [
        {"Key": "a", "Value": "2"}
    ]
    protection = {"Key": "deletion_protection.enabled", "Value": "true"}
    elb.modify_load_balancer_attributes(LoadBalancerArn=made, Attributes=[protection])
    assert refused(elb.delete_load_balancer, LoadBalancerArn=made) == "OperationNotPermitted"
    arns = {target_group(world, f"g{number}") for number in range(3)}
    pages = elb.get_paginator("describe_target_groups").paginate(PaginationConfig={"PageSize": 1})
    found = [group["TargetGroupArn"] for page in pages for group in page["TargetGroups"]]
    assert len(found) == 3 and set(found) == arns
